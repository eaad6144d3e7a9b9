// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

/// @title What the committee says of itself, as EIP-712 struct hashes: the domain is that of `Statements`.
/// @notice The Solidity face of `core/encoding/handover.py`. Both are tested against `spec/vectors/statements.json`.
library CommitteeStatements {
    struct Handover {
        uint64 term;
        uint64 nextTerm;
        uint64 threshold;
        bytes32 members;
        uint64 masterEpoch;
        bytes32 mpk;
        uint64 height;
        uint64 timestamp;
    }

    struct SeatRevocation {
        uint64 term;
        address member;
    }

    /// @notice Members verified this candidate lately, as the contract describes it. `endpoint`: keccak256 of its URL.
    struct CandidateAdmission {
        uint64 term;
        address member;
        address operator;
        bytes32 vendorClass;
        bytes32 dkgKey;
        bytes32 endpoint;
        uint64 expiry;
    }

    /// @notice A receiver of this ceremony showed no good evidence to its signers, who were about to deal to it.
    struct ReceiverRefusal {
        uint64 term;
        bytes32 ceremony;
        address member;
    }

    struct MasterRotation {
        uint64 term;
        uint64 masterEpoch;
    }

    struct MasterResume {
        uint64 term;
        bytes32 ceremony;
        uint64 masterEpoch;
    }

    struct EpochDestruction {
        uint64 term;
        uint64 masterEpoch;
    }

    bytes32 internal constant HANDOVER = keccak256(
        "Handover(uint64 term,uint64 nextTerm,uint64 threshold,bytes32 members,uint64 masterEpoch,bytes32 mpk,"
        "uint64 height,uint64 timestamp)"
    );
    bytes32 internal constant SEAT_REVOCATION = keccak256("SeatRevocation(uint64 term,address member)");
    bytes32 internal constant CANDIDATE_ADMISSION = keccak256(
        "CandidateAdmission(uint64 term,address member,address operator,bytes32 vendorClass,bytes32 dkgKey,"
        "bytes32 endpoint,uint64 expiry)"
    );
    bytes32 internal constant RECEIVER_REFUSAL =
        keccak256("ReceiverRefusal(uint64 term,bytes32 ceremony,address member)");
    bytes32 internal constant MASTER_ROTATION = keccak256("MasterRotation(uint64 term,uint64 masterEpoch)");
    bytes32 internal constant MASTER_RESUME =
        keccak256("MasterResume(uint64 term,bytes32 ceremony,uint64 masterEpoch)");
    bytes32 internal constant EPOCH_DESTRUCTION = keccak256("EpochDestruction(uint64 term,uint64 masterEpoch)");

    /// @dev Every field is one word, so a struct encodes to its words in order.
    function hash(Handover memory s) internal pure returns (bytes32) {
        return keccak256(bytes.concat(HANDOVER, abi.encode(s)));
    }

    function hash(SeatRevocation memory s) internal pure returns (bytes32) {
        return keccak256(abi.encode(SEAT_REVOCATION, s.term, s.member));
    }

    function hash(CandidateAdmission memory s) internal pure returns (bytes32) {
        return keccak256(bytes.concat(CANDIDATE_ADMISSION, abi.encode(s)));
    }

    function hash(ReceiverRefusal memory s) internal pure returns (bytes32) {
        return keccak256(abi.encode(RECEIVER_REFUSAL, s.term, s.ceremony, s.member));
    }

    function hash(MasterRotation memory s) internal pure returns (bytes32) {
        return keccak256(abi.encode(MASTER_ROTATION, s.term, s.masterEpoch));
    }

    function hash(MasterResume memory s) internal pure returns (bytes32) {
        return keccak256(abi.encode(MASTER_RESUME, s.term, s.ceremony, s.masterEpoch));
    }

    function hash(EpochDestruction memory s) internal pure returns (bytes32) {
        return keccak256(abi.encode(EPOCH_DESTRUCTION, s.term, s.masterEpoch));
    }
}
