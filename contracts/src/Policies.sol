// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {Ownable} from "@openzeppelin/contracts/access/Ownable.sol";
import {Ownable2Step} from "@openzeppelin/contracts/access/Ownable2Step.sol";

/// @title Which policy holds and which measurements are listed.
/// @notice The contract holds hashes and block numbers; gatekeepers hold the rules. An added measurement counts only
/// after the delay in the policy, which gatekeepers enforce themselves from `listedAtBlock`. A removal counts at once.
/// A new policy waits `policyDelay` blocks here, so that no vote changes the rules faster than people can leave.
contract Policies is Ownable2Step {
    struct Pending {
        bytes32 policyHash;
        uint64 readyAt;
    }

    /// @notice digest(POLICY, policy bytes) of the policy in force.
    bytes32 public policyHash;
    /// @notice Block of the constructor: measurements listed then are founding ones and count at once.
    uint64 public foundedAt;
    /// @notice Block at which `policyHash` took force.
    uint64 public policySetAt;
    Pending private _pending;
    mapping(bytes32 measurementId => uint64) private _listedAt;

    /// @notice Blocks between proposing and activating a policy.
    uint64 public immutable policyDelay;

    event PolicyProposed(bytes32 indexed policyHash, uint64 readyAt);
    event PolicyCancelled(bytes32 indexed policyHash);
    event PolicyActivated(bytes32 indexed policyHash);
    event MeasurementListed(bytes32 indexed measurementId, uint64 atBlock);
    event MeasurementUnlisted(bytes32 indexed measurementId);

    error EmptyHash();
    error AlreadyListed(bytes32 measurementId);
    error NotListed(bytes32 measurementId);
    error NothingPending();
    error TooEarly(uint64 readyAt, uint256 now_);

    constructor(address owner, uint64 policyDelay_, bytes32 policyHash_, bytes32[] memory measurementIds)
        Ownable(owner)
    {
        if (policyHash_ == 0) revert EmptyHash();
        policyDelay = policyDelay_;
        foundedAt = policySetAt = uint64(block.number);
        policyHash = policyHash_;
        emit PolicyActivated(policyHash_);
        for (uint256 i = 0; i < measurementIds.length; ++i) _list(measurementIds[i]);
    }

    /// @notice Put a policy in the queue; it replaces one that already waits.
    function proposePolicy(bytes32 policyHash_) external onlyOwner {
        if (policyHash_ == 0) revert EmptyHash();
        uint64 readyAt = uint64(block.number) + policyDelay;
        _pending = Pending(policyHash_, readyAt);
        emit PolicyProposed(policyHash_, readyAt);
    }

    function cancelPolicy() external onlyOwner {
        if (_pending.policyHash == 0) revert NothingPending();
        emit PolicyCancelled(_pending.policyHash);
        delete _pending;
    }

    /// @notice Put the waiting policy in force, once its delay is over.
    function activatePolicy() external onlyOwner {
        Pending memory p = _pending;
        if (p.policyHash == 0) revert NothingPending();
        if (block.number < p.readyAt) revert TooEarly(p.readyAt, block.number);
        delete _pending;
        policyHash = p.policyHash;
        policySetAt = uint64(block.number);
        emit PolicyActivated(p.policyHash);
    }

    function list(bytes32 measurementId) external onlyOwner {
        _list(measurementId);
    }

    function unlist(bytes32 measurementId) external onlyOwner {
        if (_listedAt[measurementId] == 0) revert NotListed(measurementId);
        delete _listedAt[measurementId];
        emit MeasurementUnlisted(measurementId);
    }

    /// @notice Block at which a measurement was listed; 0 if it is not.
    function listedAtBlock(bytes32 measurementId) external view returns (uint64) {
        return _listedAt[measurementId];
    }

    function pendingPolicy() external view returns (Pending memory) {
        return _pending;
    }

    function _list(bytes32 measurementId) private {
        if (measurementId == 0) revert EmptyHash();
        if (_listedAt[measurementId] != 0) revert AlreadyListed(measurementId);
        _listedAt[measurementId] = uint64(block.number);
        emit MeasurementListed(measurementId, uint64(block.number));
    }
}
