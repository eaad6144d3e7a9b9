// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

/// @title What the committee and wallets sign, as EIP-712 struct hashes.
/// @notice The Solidity face of `core/encoding/statements.py`. Both are tested against `spec/vectors/statements.json`.
/// The domain is ("Cloister", "1", salt = network id): no chain id and no address, the network id commits to both.
library Statements {
    struct Checkpoint {
        uint64 term;
        uint256 chainId;
        uint64 number;
        bytes32 blockHash;
        bytes32 stateRoot;
        uint64 timestamp;
    }

    struct Lease {
        uint64 term;
        bytes32 agent;
        bytes32 codeHash;
        bytes32 manifestHash;
        bytes32 cluster;
        uint64 masterEpoch;
        uint64 clusterEpoch;
        uint64 agentEpoch;
        uint64 period;
        address worker;
        bytes32 boot;
        uint64 checkpoint;
        uint64 expiry;
    }

    struct StateHead {
        uint64 term;
        bytes32 agent;
        bytes32 cluster;
        uint64 masterEpoch;
        uint64 clusterEpoch;
        uint64 agentEpoch;
        uint64 height;
        bytes32 parent;
        bytes32 head;
    }

    struct WorkerAdmission {
        uint64 term;
        address worker;
        address operator;
        bytes32 vendorClass;
        bytes32 measurement;
        bytes32 boot;
        uint64 expiry;
    }

    struct WorkerRemoval {
        uint64 term;
        address worker;
    }

    struct WorkerBumps {
        uint64 term;
        address worker;
        bytes32 agents;
    }

    struct Resealed {
        uint64 term;
        uint64 masterEpoch;
        bytes32 agents;
    }

    struct SetSigner {
        uint64 term;
        bytes32 agent;
        uint64 agentEpoch;
        address signer;
    }

    struct EpochBump {
        uint64 term;
        bytes32 agent;
        uint64 agentEpoch;
    }

    struct CallerSession {
        bytes32 agent;
        bytes32 boot;
        bytes32 exporter;
        uint64 expiry;
    }

    struct HeartBeat {
        uint64 term;
        bytes32 nonce;
        uint64 number;
        bytes32 blockHash;
    }

    struct TeeValidation {
        uint64 term;
        bytes32 agent;
        uint64 agentEpoch;
        uint64 serial;
        uint64 response;
        bytes32 evidence;
        uint64 expiry;
    }

    struct SignerHandover {
        uint64 term;
        uint256 chainId;
        address anchor;
        uint64 nextTerm;
        uint64 threshold;
        bytes32 members;
        uint64 expiry;
    }

    struct AnchorLease {
        uint64 term;
        uint256 chainId;
        address anchor;
        bytes32 agent;
        uint64 agentEpoch;
        bytes32 codeHash;
        address worker;
        bytes32 vendorClass;
        address payee;
        uint64 expiry;
    }

    struct AnchorAnswer {
        uint256 chainId;
        address anchor;
        bytes32 request;
        bytes32 reply;
        bytes32 commit;
    }

    struct AnchorCommit {
        uint256 chainId;
        address anchor;
        bytes32 agent;
        bytes32 commit;
        uint64 deadline;
    }

    bytes32 internal constant DOMAIN_TYPE = keccak256("EIP712Domain(string name,string version,bytes32 salt)");
    bytes32 internal constant NAME = keccak256("Cloister");
    bytes32 internal constant VERSION = keccak256("1");

    bytes32 internal constant CHECKPOINT = keccak256(
        "Checkpoint(uint64 term,uint256 chainId,uint64 number,bytes32 blockHash,bytes32 stateRoot,uint64 timestamp)"
    );
    bytes32 internal constant LEASE = keccak256(
        "Lease(uint64 term,bytes32 agent,bytes32 codeHash,bytes32 manifestHash,bytes32 cluster,uint64 masterEpoch,"
        "uint64 clusterEpoch,uint64 agentEpoch,uint64 period,address worker,bytes32 boot,uint64 checkpoint,uint64 expiry)"
    );
    bytes32 internal constant STATE_HEAD = keccak256(
        "StateHead(uint64 term,bytes32 agent,bytes32 cluster,uint64 masterEpoch,uint64 clusterEpoch,uint64 agentEpoch,"
        "uint64 height,bytes32 parent,bytes32 head)"
    );
    bytes32 internal constant WORKER_ADMISSION = keccak256(
        "WorkerAdmission(uint64 term,address worker,address operator,bytes32 vendorClass,bytes32 measurement,"
        "bytes32 boot,uint64 expiry)"
    );
    bytes32 internal constant WORKER_REMOVAL = keccak256("WorkerRemoval(uint64 term,address worker)");
    bytes32 internal constant WORKER_BUMPS = keccak256("WorkerBumps(uint64 term,address worker,bytes32 agents)");
    bytes32 internal constant RESEALED = keccak256("Resealed(uint64 term,uint64 masterEpoch,bytes32 agents)");
    bytes32 internal constant SET_SIGNER =
        keccak256("SetSigner(uint64 term,bytes32 agent,uint64 agentEpoch,address signer)");
    bytes32 internal constant EPOCH_BUMP = keccak256("EpochBump(uint64 term,bytes32 agent,uint64 agentEpoch)");
    bytes32 internal constant CALLER_SESSION =
        keccak256("CallerSession(bytes32 agent,bytes32 boot,bytes32 exporter,uint64 expiry)");
    bytes32 internal constant HEART_BEAT =
        keccak256("HeartBeat(uint64 term,bytes32 nonce,uint64 number,bytes32 blockHash)");
    bytes32 internal constant TEE_VALIDATION = keccak256(
        "TeeValidation(uint64 term,bytes32 agent,uint64 agentEpoch,uint64 serial,uint64 response,"
        "bytes32 evidence,uint64 expiry)"
    );
    bytes32 internal constant SIGNER_HANDOVER = keccak256(
        "SignerHandover(uint64 term,uint256 chainId,address anchor,uint64 nextTerm,uint64 threshold,"
        "bytes32 members,uint64 expiry)"
    );
    bytes32 internal constant ANCHOR_LEASE = keccak256(
        "AnchorLease(uint64 term,uint256 chainId,address anchor,bytes32 agent,uint64 agentEpoch,"
        "bytes32 codeHash,address worker,bytes32 vendorClass,address payee,uint64 expiry)"
    );
    bytes32 internal constant ANCHOR_ANSWER = keccak256(
        "AnchorAnswer(uint256 chainId,address anchor,bytes32 request,bytes32 reply,bytes32 commit)"
    );
    bytes32 internal constant ANCHOR_COMMIT = keccak256(
        "AnchorCommit(uint256 chainId,address anchor,bytes32 agent,bytes32 commit,uint64 deadline)"
    );

    /// @notice EIP-712 domain separator of a network.
    function domainSeparator(bytes32 networkId) internal pure returns (bytes32) {
        return keccak256(abi.encode(DOMAIN_TYPE, NAME, VERSION, networkId));
    }

    /// @notice The 32 bytes that are signed.
    function digest(bytes32 networkId, bytes32 structHash) internal pure returns (bytes32) {
        return keccak256(abi.encodePacked(hex"1901", domainSeparator(networkId), structHash));
    }

    function hash(Checkpoint memory s) internal pure returns (bytes32) {
        return keccak256(abi.encode(CHECKPOINT, s.term, s.chainId, s.number, s.blockHash, s.stateRoot, s.timestamp));
    }

    /// @dev Every field is one word, so the struct encodes to its words in order.
    function hash(Lease memory s) internal pure returns (bytes32) {
        return keccak256(bytes.concat(LEASE, abi.encode(s)));
    }

    function hash(StateHead memory s) internal pure returns (bytes32) {
        return keccak256(
            bytes.concat(
                abi.encode(STATE_HEAD, s.term, s.agent, s.cluster, s.masterEpoch, s.clusterEpoch, s.agentEpoch),
                abi.encode(s.height, s.parent, s.head)
            )
        );
    }

    function hash(WorkerAdmission memory s) internal pure returns (bytes32) {
        return keccak256(bytes.concat(WORKER_ADMISSION, abi.encode(s)));
    }

    function hash(WorkerRemoval memory s) internal pure returns (bytes32) {
        return keccak256(abi.encode(WORKER_REMOVAL, s.term, s.worker));
    }

    function hash(WorkerBumps memory s) internal pure returns (bytes32) {
        return keccak256(abi.encode(WORKER_BUMPS, s.term, s.worker, s.agents));
    }

    function hash(Resealed memory s) internal pure returns (bytes32) {
        return keccak256(abi.encode(RESEALED, s.term, s.masterEpoch, s.agents));
    }

    function hash(SetSigner memory s) internal pure returns (bytes32) {
        return keccak256(abi.encode(SET_SIGNER, s.term, s.agent, s.agentEpoch, s.signer));
    }

    function hash(EpochBump memory s) internal pure returns (bytes32) {
        return keccak256(abi.encode(EPOCH_BUMP, s.term, s.agent, s.agentEpoch));
    }

    function hash(CallerSession memory s) internal pure returns (bytes32) {
        return keccak256(abi.encode(CALLER_SESSION, s.agent, s.boot, s.exporter, s.expiry));
    }

    function hash(HeartBeat memory s) internal pure returns (bytes32) {
        return keccak256(abi.encode(HEART_BEAT, s.term, s.nonce, s.number, s.blockHash));
    }

    function hash(TeeValidation memory s) internal pure returns (bytes32) {
        return keccak256(bytes.concat(TEE_VALIDATION, abi.encode(s)));
    }

    function hash(SignerHandover memory s) internal pure returns (bytes32) {
        return keccak256(bytes.concat(SIGNER_HANDOVER, abi.encode(s)));
    }

    function hash(AnchorLease memory s) internal pure returns (bytes32) {
        return keccak256(bytes.concat(ANCHOR_LEASE, abi.encode(s)));
    }

    function hash(AnchorAnswer memory s) internal pure returns (bytes32) {
        return keccak256(bytes.concat(ANCHOR_ANSWER, abi.encode(s)));
    }

    function hash(AnchorCommit memory s) internal pure returns (bytes32) {
        return keccak256(bytes.concat(ANCHOR_COMMIT, abi.encode(s)));
    }
}
