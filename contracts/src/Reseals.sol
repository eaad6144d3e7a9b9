// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IAgents} from "./interfaces/IAgents.sol";
import {IGatekeepers} from "./interfaces/IGatekeepers.sol";
import {IReseals} from "./interfaces/IReseals.sol";
import {Statements} from "./Statements.sol";

/// @title Reseals: which master epoch each agent's state is sealed under (spec/epochs.md 13), and which head goes on
/// where its store was forked (spec/state.md 13).
/// @notice An agent begins under the master epoch of its birth. A statement of the committee moves it on, or its owner
/// waives what is under an epoch. An epoch that no agent remains under may be destroyed.
contract Reseals is IReseals {
    using Statements for Statements.Resealed;
    using Statements for Statements.StateHead;

    /// @notice A head that t members held when the agent's owner accepted it, under epochs that were left.
    struct AcceptedHead {
        uint64 masterEpoch;
        uint64 clusterEpoch;
        uint64 agentEpoch;
        uint64 height;
        bytes32 cluster;
        bytes32 parent;
        bytes32 head;
    }

    uint256 public constant MAX_BATCH = 256;

    IAgents public immutable agents;
    IGatekeepers public immutable gatekeepers;
    mapping(uint256 tokenId => uint64) private _movedTo;
    mapping(uint64 masterEpoch => uint256) private _arrived;
    mapping(uint64 masterEpoch => uint256) private _left;
    mapping(bytes32 agentId => AcceptedHead) private _accepted;
    /// @dev Agents in the order in which a head of them was accepted; members follow it.
    bytes32[] private _acceptances;

    event MovedOn(uint256 indexed tokenId, uint64 from, uint64 to, bool waived);

    event HeadAccepted(bytes32 indexed agent, uint64 height, bytes32 head);

    error NotPaused(bytes32 agent);
    error NotAcceptable(bytes32 agent, uint64 agentEpoch, uint64 height);
    error NotOwner(uint256 tokenId, address caller);
    error NotUnder(uint256 tokenId, uint64 masterEpoch, uint64 found);
    error BadBatch(uint256 agents);
    error OtherAgents(bytes32 agents);

    constructor(IAgents agents_, IGatekeepers gatekeepers_) {
        agents = agents_;
        gatekeepers = gatekeepers_;
    }

    /// @notice The committee says that these agents' newest endorsed heads are under `masterEpoch` or a later one. One that
    /// was counted there before is passed over.
    function record(Statements.Resealed calldata said, uint256[] calldata tokenIds, bytes[] calldata sigs) external {
        if (tokenIds.length == 0 || tokenIds.length > MAX_BATCH) revert BadBatch(tokenIds.length);
        if (said.agents != keccak256(abi.encode(tokenIds))) revert OtherAgents(said.agents);
        gatekeepers.requireStatement(said.term, said.hash(), sigs);
        for (uint256 i = 0; i < tokenIds.length; ++i) {
            agents.ownerOf(tokenIds[i]);
            uint64 from = epochOf(tokenIds[i]);
            if (from < said.masterEpoch) _move(tokenIds[i], from, said.masterEpoch, false);
        }
    }

    /// @notice The owner gives up what is still under this master epoch: it need not wait for the agent.
    function waiveEpoch(uint256 tokenId, uint64 masterEpoch) external {
        if (agents.ownerOf(tokenId) != msg.sender) revert NotOwner(tokenId, msg.sender);
        uint64 from = epochOf(tokenId);
        if (from != masterEpoch || masterEpoch >= gatekeepers.masterEpoch()) revert NotUnder(tokenId, masterEpoch, from);
        _move(tokenId, from, gatekeepers.masterEpoch(), true);
    }

    /// @notice A host that forks an agent's store splits the members: no head gets a quorum any more. The owner names the
    /// branch that goes on, by a head that t members hold (spec/state.md 13). The agent is paused, and its epoch was
    /// bumped since that head; one head of each height.
    function acceptHead(uint256 tokenId, Statements.StateHead calldata s, bytes[] calldata sigs) external {
        if (agents.ownerOf(tokenId) != msg.sender) revert NotOwner(tokenId, msg.sender);
        if (s.agent != keccak256(abi.encode(block.chainid, address(agents), tokenId))) revert OtherAgents(s.agent);
        (uint64 epoch, bool paused) = agents.live(s.agent);
        if (!paused) revert NotPaused(s.agent);
        AcceptedHead storage last = _accepted[s.agent];
        bool newer = s.agentEpoch > last.agentEpoch || (s.agentEpoch == last.agentEpoch && s.height > last.height);
        if (!newer || s.agentEpoch >= epoch) revert NotAcceptable(s.agent, s.agentEpoch, s.height);
        gatekeepers.requireStatement(s.term, s.hash(), sigs);
        (last.masterEpoch, last.clusterEpoch, last.agentEpoch) = (s.masterEpoch, s.clusterEpoch, s.agentEpoch);
        (last.height, last.cluster, last.parent, last.head) = (s.height, s.cluster, s.parent, s.head);
        _acceptances.push(s.agent);
        emit HeadAccepted(s.agent, s.height, s.head);
    }

    /// @notice How often a head was accepted, of all agents.
    function acceptanceCount() external view returns (uint256) {
        return _acceptances.length;
    }

    /// @notice The head that was accepted last of an agent; all zero before.
    function acceptedHead(bytes32 agentId) external view returns (AcceptedHead memory) {
        return _accepted[agentId];
    }

    /// @notice The master epoch that an agent counts under.
    function epochOf(uint256 tokenId) public view returns (uint64) {
        uint64 moved = _movedTo[tokenId];
        return moved == 0 ? agents.bornIn(tokenId) : moved;
    }

    /// @inheritdoc IReseals
    function remaining(uint64 masterEpoch) external view returns (uint256) {
        return agents.bornUnder(masterEpoch) + _arrived[masterEpoch] - _left[masterEpoch];
    }

    function _move(uint256 tokenId, uint64 from, uint64 to, bool waived) private {
        _movedTo[tokenId] = to;
        ++_left[from];
        ++_arrived[to];
        emit MovedOn(tokenId, from, to, waived);
    }
}
