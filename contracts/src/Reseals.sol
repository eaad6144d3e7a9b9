// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IAgents} from "./interfaces/IAgents.sol";
import {IGatekeepers} from "./interfaces/IGatekeepers.sol";
import {IReseals} from "./interfaces/IReseals.sol";
import {Statements} from "./Statements.sol";

/// @title Reseals: which master epoch each agent's state is sealed under (spec/epochs.md 9).
/// @notice An agent begins under the master epoch of its birth. A statement of the committee moves it on, or its owner
/// waives what is under an epoch. An epoch that no agent remains under may be destroyed.
contract Reseals is IReseals {
    using Statements for Statements.Resealed;

    uint256 public constant MAX_BATCH = 256;

    IAgents public immutable agents;
    IGatekeepers public immutable gatekeepers;
    mapping(uint256 tokenId => uint64) private _movedTo;
    mapping(uint64 masterEpoch => uint256) private _arrived;
    mapping(uint64 masterEpoch => uint256) private _left;

    event MovedOn(uint256 indexed tokenId, uint64 from, uint64 to, bool waived);

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
