// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {AgentAccounts} from "./AgentAccounts.sol";
import {IAgents} from "./interfaces/IAgents.sol";
import {IGatekeepers} from "./interfaces/IGatekeepers.sol";
import {RemoteStatements} from "./RemoteStatements.sol";
import {Statements} from "./Statements.sol";

/// @title Makes agents' accounts on a chain where the agents do not live. A token id there is the agent id.
contract RemoteAccounts is AgentAccounts {
    constructor(IGatekeepers signers) AgentAccounts(signers) {}

    function agentId(uint256 tokenId) public pure override returns (bytes32) {
        return bytes32(tokenId);
    }
}

/// @title Agents of another chain, as far as its committee vouches for them here (spec/chains.md 26-33).
/// @notice To the Anchor and to agents' accounts this is the registry of agents. What it knows of one are facts of one
/// final block of the network's own chain, signed by t of the Anchor's signer set; newer blocks replace older ones. An
/// agent counts as paused once its facts are older than their expiry, or as soon as its owner or guardian says so here.
contract RemoteAgents is IAgents {
    using RemoteStatements for RemoteStatements.RemoteAgent;
    using Statements for Statements.EpochBump;

    struct Known {
        address owner;
        uint64 epoch;
        address guardian;
        uint64 height;
        address payer;
        uint64 expiry;
        bool stopped;
    }

    uint64 public constant MAX_AGE = 1 days;

    mapping(bytes32 agent => Known) private _known;

    /// @notice The Anchor of this chain: its signer set speaks for the committee.
    IGatekeepers public immutable signers;
    AgentAccounts public immutable accounts;

    event AgentTold(
        bytes32 indexed agent, address indexed owner, uint64 epoch, address guardian, address payer, uint64 height, uint64 expiry
    );
    event StoppedSet(bytes32 indexed agent, bool stopped, address indexed by);
    event EpochClosed(bytes32 indexed agent, uint64 current);

    error WrongPlace(uint256 chainId, address anchor);
    error Expired(uint64 expiry, uint256 now_);
    error TooLong(uint64 expiry);
    error NotNewer(uint64 height, uint64 held);
    error WrongEpoch(uint64 given, uint64 current);
    error UnknownAgent(bytes32 agent);
    error NotOwner(address caller);
    error NotHere();

    /// @param signers_ the Anchor, which may be made after this contract: its address is known before.
    constructor(IGatekeepers signers_) {
        signers = signers_;
        accounts = new RemoteAccounts(signers_);
    }

    // --- the committee ---

    /// @notice Facts of an agent at a final block of the network's own chain. Anybody brings them.
    function tell(RemoteStatements.RemoteAgent calldata s, bytes[] calldata sigs) external {
        if (s.chainId != block.chainid || s.anchor != address(signers)) revert WrongPlace(s.chainId, s.anchor);
        if (s.expiry <= block.timestamp) revert Expired(s.expiry, block.timestamp);
        if (s.expiry > block.timestamp + MAX_AGE) revert TooLong(s.expiry);
        Known storage k = _known[s.agent];
        if (s.height <= k.height) revert NotNewer(s.height, k.height);
        if (s.agentEpoch == 0 || s.agentEpoch < k.epoch) revert WrongEpoch(s.agentEpoch, k.epoch);
        signers.requireStatement(s.term, s.hash(), sigs);
        (k.owner, k.epoch, k.guardian, k.height) = (s.owner, s.agentEpoch, s.guardian, s.height);
        (k.payer, k.expiry) = (s.payer, s.expiry);
        emit AgentTold(s.agent, s.owner, s.agentEpoch, s.guardian, s.payer, s.height, s.expiry);
    }

    /// @notice The committee ended an agent epoch: nothing of it counts, until facts of the next one come.
    function closeEpoch(Statements.EpochBump calldata bump, bytes[] calldata sigs) external {
        Known storage k = _known[bump.agent];
        if (bump.agentEpoch < k.epoch) revert WrongEpoch(bump.agentEpoch, k.epoch);
        signers.requireStatement(bump.term, bump.hash(), sigs);
        (k.epoch, k.expiry) = (bump.agentEpoch + 1, 0);
        emit EpochClosed(bump.agent, bump.agentEpoch + 1);
    }

    // --- the owner ---

    /// @notice Stop the agent on this chain at once. Owner or guardian, as last told here.
    function stop(bytes32 agent) external {
        Known storage k = _known[agent];
        if (msg.sender != k.owner && msg.sender != k.guardian) revert NotOwner(msg.sender);
        k.stopped = true;
        emit StoppedSet(agent, true, msg.sender);
    }

    function resume(bytes32 agent) external {
        Known storage k = _known[agent];
        if (msg.sender != k.owner) revert NotOwner(msg.sender);
        k.stopped = false;
        emit StoppedSet(agent, false, msg.sender);
    }

    // --- as a registry of agents ---

    /// @notice What is known of an agent; zeros: nothing.
    function known(bytes32 agent) external view returns (Known memory) {
        return _known[agent];
    }

    /// @inheritdoc IAgents
    function live(bytes32 agent) external view returns (uint64 epoch, bool paused) {
        Known storage k = _known[agent];
        return (k.epoch, _paused(k));
    }

    /// @inheritdoc IAgents
    function status(uint256 tokenId) external view returns (uint64 epoch, bool paused, address guardian) {
        Known storage k = _known[bytes32(tokenId)];
        return (k.epoch, _paused(k), k.guardian);
    }

    /// @notice The owner as last told, however long ago: its money stays its own. 0: one that has no key on this chain.
    function ownerOf(uint256 tokenId) external view returns (address) {
        Known storage k = _known[bytes32(tokenId)];
        if (k.epoch == 0) revert UnknownAgent(bytes32(tokenId));
        return k.owner;
    }

    /// @inheritdoc IAgents
    function payerOf(bytes32 agent) external view returns (address payer, address owner) {
        return (_known[agent].payer, _known[agent].owner);
    }

    /// @inheritdoc IAgents
    function agentIdOf(uint256 tokenId) external pure returns (bytes32) {
        return bytes32(tokenId);
    }

    /// @inheritdoc IAgents
    function isAuthorizedOrOwner(address spender, uint256 tokenId) external view returns (bool) {
        return spender != address(0) && spender == _known[bytes32(tokenId)].owner;
    }

    /// @dev Master epochs are the network's own chain's.
    function bornIn(uint256) external pure returns (uint64) {
        revert NotHere();
    }

    function bornUnder(uint64) external pure returns (uint256) {
        revert NotHere();
    }

    function _paused(Known storage k) private view returns (bool) {
        return k.stopped || block.timestamp >= k.expiry;
    }
}
