// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {Anchor} from "../src/Anchor.sol";
import {Gatekeepers} from "../src/Gatekeepers.sol";
import {Statements} from "../src/Statements.sol";
import {IAgents} from "../src/interfaces/IAgents.sol";
import {IAnchor} from "../src/interfaces/IAnchor.sol";

/// @notice The cheat codes of forge that this kit uses.
interface KitVm {
    struct Log {
        bytes32[] topics;
        bytes data;
        address emitter;
    }

    function addr(uint256 key) external pure returns (address);
    function sign(uint256 key, bytes32 digest) external pure returns (uint8 v, bytes32 r, bytes32 s);
    function warp(uint256 timestamp) external;
    function recordLogs() external;
    function getRecordedLogs() external returns (Log[] memory);
}

/// @title An agent for forge tests: a real Anchor, a committee and workers whose keys the test holds.
/// @notice Inherit it, call `_startAgent` in setUp, then `_answer(index, reply)` or `_expire(index)`.
abstract contract MockAgent {
    KitVm private constant CHEATS = KitVm(address(uint160(uint256(keccak256("hevm cheat code")))));
    bytes32 internal constant MOCK_AGENT = keccak256("mock agent");
    bytes32 internal constant MOCK_CODE = keccak256("mock code");
    uint256 private constant SIGNERS = 3;
    uint256 private constant WORKERS = 8;

    Anchor internal mockAnchor;
    uint256[] private _workerKeys;
    mapping(uint64 index => bytes) private _requests;
    mapping(uint64 index => bytes) private _payloads;

    /// @dev An Anchor with a committee of three and eight leased workers, of two vendor classes in turn.
    function _startAgent() internal {
        mockAnchor = new Anchor(IAgents(address(0)), Gatekeepers(address(0)), address(this));
        address[] memory signers = new address[](SIGNERS);
        for (uint256 i = 0; i < SIGNERS; ++i) signers[i] = CHEATS.addr(_signerKey(i));
        mockAnchor.install(keccak256("mock network"), 1, signers, 2, uint64(block.timestamp) + 30 days);
        for (uint256 i = 0; i < WORKERS; ++i) _addWorker(uint256(keccak256(abi.encode("mock worker", i))));
        for (uint256 i = 0; i < WORKERS; ++i) _leaseTo(_workerKeys[i], bytes32(i % 2 + 1));
        CHEATS.recordLogs();
    }

    /// @dev What was asked.
    function _asked(uint64 index) internal returns (IAnchor.Request memory r, bytes memory payload) {
        _readLogs();
        require(_requests[index].length != 0, "MockAgent: no such request");
        return (abi.decode(_requests[index], (IAnchor.Request)), _payloads[index]);
    }

    /// @dev Answer a request, by as many workers as it asked for.
    function _answer(uint64 index, bytes memory reply) internal {
        (IAnchor.Request memory r,) = _asked(index);
        mockAnchor.respond(r, reply, _signed(r, reply));
    }

    /// @dev Let a request's deadline pass and its fee go back to the requester.
    function _expire(uint64 index) internal {
        (IAnchor.Request memory r,) = _asked(index);
        CHEATS.warp(uint256(r.deadline) + 1);
        mockAnchor.refund(r);
        if (r.fee != 0) mockAnchor.withdrawFor(r.requester);
    }

    /// @dev The workers' signatures under an answer, for tests that bring it themselves.
    function _signed(IAnchor.Request memory r, bytes memory reply) internal view returns (IAnchor.Signed[] memory by) {
        bytes32 request = keccak256(abi.encode(r));
        bytes32 digest = Statements.digest(
            mockAnchor.networkId(),
            Statements.hash(
                Statements.AnchorAnswer(block.chainid, address(mockAnchor), request, keccak256(reply), 0)
            )
        );
        by = new IAnchor.Signed[](r.copies);
        for (uint256 i = 0; i < r.copies; ++i) {
            by[i] = IAnchor.Signed(CHEATS.addr(_workerKeys[i]), _sign(_workerKeys[i], digest));
        }
    }

    /// @dev Keys are kept in the order of their addresses, as answers must be.
    function _addWorker(uint256 key) private {
        _workerKeys.push(key);
        for (uint256 i = _workerKeys.length - 1; i > 0; --i) {
            if (CHEATS.addr(_workerKeys[i - 1]) < CHEATS.addr(_workerKeys[i])) break;
            (_workerKeys[i - 1], _workerKeys[i]) = (_workerKeys[i], _workerKeys[i - 1]);
        }
    }

    function _leaseTo(uint256 key, bytes32 vendorClass) private {
        Statements.AnchorLease memory l;
        (l.term, l.chainId, l.anchor) = (1, block.chainid, address(mockAnchor));
        (l.agent, l.agentEpoch, l.codeHash) = (MOCK_AGENT, 1, MOCK_CODE);
        (l.worker, l.payee, l.vendorClass) = (CHEATS.addr(key), CHEATS.addr(key), vendorClass);
        l.expiry = uint64(block.timestamp) + 1 days;
        bytes32 digest = Statements.digest(mockAnchor.networkId(), Statements.hash(l));
        bytes[] memory sigs = new bytes[](2);
        for (uint256 i = 0; i < 2; ++i) sigs[i] = _sign(_signerKey(i), digest);
        mockAnchor.registerLease(l, sigs);
    }

    function _sign(uint256 key, bytes32 digest) private pure returns (bytes memory) {
        (uint8 v, bytes32 r, bytes32 s) = CHEATS.sign(key, digest);
        return abi.encodePacked(r, s, v);
    }

    function _signerKey(uint256 i) private pure returns (uint256) {
        return uint256(keccak256(abi.encode("mock signer", i)));
    }

    function _readLogs() private {
        KitVm.Log[] memory logs = CHEATS.getRecordedLogs();
        for (uint256 i = 0; i < logs.length; ++i) {
            if (logs[i].emitter != address(mockAnchor) || logs[i].topics[0] != IAnchor.Requested.selector) continue;
            _remember(logs[i]);
        }
    }

    function _remember(KitVm.Log memory log) private {
        IAnchor.Request memory r;
        bytes memory payload;
        (r.agent, r.index) = (log.topics[1], uint64(uint256(log.topics[2])));
        r.requester = address(uint160(uint256(log.topics[3])));
        (r.fee, r.codeHash, r.gasLimit, r.deadline, r.copies, r.flags, payload) =
            abi.decode(log.data, (uint128, bytes32, uint64, uint64, uint8, uint8, bytes));
        r.payloadHash = keccak256(payload);
        (_requests[r.index], _payloads[r.index]) = (abi.encode(r), payload);
    }
}
