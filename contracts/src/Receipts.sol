// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";
import {IGatekeepers} from "./interfaces/IGatekeepers.sol";
import {LogStatements} from "./LogStatements.sol";
import {Statements} from "./Statements.sol";
import {Workers} from "./Workers.sol";

/// @notice The committee in office, by address, and the network that it signs for.
interface IMembers {
    function members() external view returns (address[] memory);
    function networkId() external view returns (bytes32);
}

/// @title Receipts: roots of workers' receipt logs, as the committee saw them (spec/receipts.md 13).
/// @notice A log of one boot only grows. Roots are never changed or taken back. Anybody may bring a signed head.
contract Receipts {
    using LogStatements for LogStatements.LogHead;

    struct Root {
        bytes32 boot;
        bytes32 root;
        uint64 size;
        uint64 atBlock;
    }

    /// @notice Where a receipt stands in what a worker signed: `size` is 1 for a receipt that was signed alone.
    struct Batch {
        uint64 first;
        uint64 size;
        bytes32[] path;
    }

    uint64 public constant MAX_BATCH = 1024;
    uint256 public constant MAX_PATH = 64;

    IGatekeepers public immutable gatekeepers;
    Workers public immutable workers;

    mapping(address worker => Root[]) private _roots;
    /// @dev Of every boot, not of the last one alone: a worker may register a boot again.
    mapping(address worker => mapping(bytes32 boot => uint64)) private _sizes;

    event Recorded(address indexed worker, bytes32 indexed boot, uint256 index, uint64 size, bytes32 root);

    error TooFewWitnesses(uint256 given, uint256 wanted);
    error OtherBoot(address worker, bytes32 registered);
    error Removed(address worker);
    error NotLonger(uint64 recorded, uint64 given);
    error UnknownRoot(address worker, uint256 index);

    constructor(IGatekeepers gatekeepers_, Workers workers_) {
        gatekeepers = gatekeepers_;
        workers = workers_;
    }

    /// @notice Keep a head that `quorum()` members signed. 1. signatures; 2. the worker is registered with this boot, so a
    /// head of an older boot does not come back; 3. the log is longer than what stands here.
    function record(LogStatements.LogHead calldata head, bytes[] calldata sigs) external returns (uint256 index) {
        gatekeepers.requireStatement(head.term, head.hash(), sigs); // 1
        _requireQuorum(head.hash(), sigs);
        Workers.Worker memory w = workers.worker(head.worker); // 2
        if (w.removed) revert Removed(head.worker);
        if (w.boot != head.boot) revert OtherBoot(head.worker, w.boot);
        Root[] storage known = _roots[head.worker]; // 3
        index = known.length;
        uint64 before = _sizes[head.worker][head.boot];
        if (head.size <= before) revert NotLonger(before, head.size);
        _sizes[head.worker][head.boot] = head.size;
        known.push(Root(head.boot, head.root, head.size, uint64(block.number)));
        emit Recorded(head.worker, head.boot, index, head.size, head.root);
    }

    // --- views ---

    /// @notice How many members must have signed: with fewer, one liar could sign two forks (2q - n > 1).
    function quorum() public view returns (uint256) {
        return _quorumOf(IMembers(address(gatekeepers)).members().length);
    }

    function count(address worker) external view returns (uint256) {
        return _roots[worker].length;
    }

    function root(address worker, uint256 index) public view returns (Root memory) {
        if (index >= _roots[worker].length) revert UnknownRoot(worker, index);
        return _roots[worker][index];
    }

    /// @notice Whether a receipt is number `seq` of the log under a recorded root of its boot.
    function isLogged(
        address worker,
        uint256 rootIndex,
        bytes32 boot,
        bytes32 receiptId,
        uint64 seq,
        bytes32[] calldata path
    ) external view returns (bool) {
        Root memory r = root(worker, rootIndex);
        (bool ok, bytes32 found) = rootOf(receiptId, seq, r.size, path);
        return ok && r.boot == boot && found == r.root;
    }

    /// @notice Whether `worker` signed a receipt, alone or in a batch. Who the worker is, `Workers` knows.
    function isSigned(
        address worker,
        bytes32 boot,
        bytes32 receiptId,
        uint64 seq,
        Batch calldata batch,
        bytes calldata signature
    ) external pure returns (bool) {
        bytes32 digest = receiptId;
        if (batch.size != 1) {
            if (batch.size == 0 || batch.size > MAX_BATCH) return false;
            if (seq < batch.first || seq - batch.first >= batch.size) return false;
            (bool ok, bytes32 top) = rootOf(receiptId, seq - batch.first, batch.size, batch.path);
            if (!ok) return false;
            digest = batchDigest(boot, batch.first, batch.size, top);
        } else if (batch.path.length != 0) {
            return false;
        }
        (address found, ECDSA.RecoverError problem,) = ECDSA.tryRecoverCalldata(digest, signature);
        return problem == ECDSA.RecoverError.NoError && found == worker && worker != address(0);
    }

    /// @notice digest(RECEIPT_BATCH, boot, u64 first, u64 size, root), spec/receipts.md 9.
    function batchDigest(bytes32 boot, uint64 first, uint64 size, bytes32 top) public pure returns (bytes32) {
        return sha256(
            abi.encodePacked(
                "cloister/v1/receipt/batch",
                bytes1(0),
                uint32(32),
                boot,
                uint32(8),
                first,
                uint32(8),
                size,
                uint32(32),
                top
            )
        );
    }

    /// @notice RFC 9162 2.1.3.2 over a leaf's entry; false if the path has not exactly the hashes that the place needs.
    function rootOf(bytes32 entry, uint64 index, uint64 size, bytes32[] calldata path)
        public
        pure
        returns (bool, bytes32)
    {
        if (index >= size || path.length > MAX_PATH) return (false, 0);
        (uint64 spot, uint64 last) = (index, size - 1);
        bytes32 found = sha256(abi.encodePacked(bytes1(0), entry));
        for (uint256 i = 0; i < path.length; ++i) {
            if (last == 0) return (false, 0);
            if (spot & 1 == 1 || spot == last) {
                found = sha256(abi.encodePacked(bytes1(uint8(1)), path[i], found));
                while (spot & 1 == 0 && spot != 0) (spot, last) = (spot >> 1, last >> 1);
            } else {
                found = sha256(abi.encodePacked(bytes1(uint8(1)), found, path[i]));
            }
            (spot, last) = (spot >> 1, last >> 1);
        }
        return (last == 0, found);
    }

    // --- inside ---

    function _quorumOf(uint256 n) private pure returns (uint256) {
        uint256 q = (n + 1) / 2 + 1;
        return q < n ? q : n;
    }

    /// @dev `requireStatement` looks for t distinct members; here each member counts once, towards the quorum.
    function _requireQuorum(bytes32 structHash, bytes[] calldata sigs) private view {
        address[] memory members = IMembers(address(gatekeepers)).members();
        bytes32 digest = Statements.digest(IMembers(address(gatekeepers)).networkId(), structHash);
        uint256 distinct;
        if (sigs.length > members.length) revert TooFewWitnesses(0, _quorumOf(members.length));
        for (uint256 i = 0; i < sigs.length; ++i) {
            (address signer, ECDSA.RecoverError problem,) = ECDSA.tryRecoverCalldata(digest, sigs[i]);
            if (problem != ECDSA.RecoverError.NoError || signer == address(0)) continue;
            for (uint256 j = 0; j < members.length; ++j) {
                if (members[j] != signer) continue;
                members[j] = address(0); // each counts once
                ++distinct;
                break;
            }
        }
        if (distinct < _quorumOf(members.length)) revert TooFewWitnesses(distinct, _quorumOf(members.length));
    }
}
