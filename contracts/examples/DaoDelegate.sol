// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IGovernor} from "@openzeppelin/contracts/governance/IGovernor.sol";
import {AgentConsumer} from "../src/AgentConsumer.sol";
import {IAnchor} from "../src/interfaces/IAnchor.sol";

/// @title A delegate that asks an agent how to vote. Token holders delegate to this contract.
/// @notice Three equal answers or no vote. The warden can stop it, or vote itself, as long as the agent has not voted.
contract DaoDelegate is AgentConsumer {
    uint8 private constant COPIES = 3;
    uint64 private constant GAS = 300_000;
    uint8 private constant ABSTAIN = 2;

    IGovernor public immutable governor;
    address public immutable warden;
    mapping(uint64 index => uint256) public proposals;
    mapping(uint256 proposal => bool) public settled;

    event Asked(uint256 indexed proposal, uint64 index);
    event Voted(uint256 indexed proposal, uint8 support, address by);

    error NotWarden(address caller);
    error AlreadySettled(uint256 proposal);
    error NotActive(uint256 proposal);
    error BadSupport(uint8 support);

    constructor(IAnchor anchor_, bytes32 agent_, IGovernor governor_, address warden_) AgentConsumer(anchor_, agent_) {
        (governor, warden) = (governor_, warden_);
    }

    /// @notice Have the agent read an active proposal. Anybody may pay for it.
    function consult(uint256 proposal, string calldata description) external payable returns (uint64 index) {
        if (settled[proposal]) revert AlreadySettled(proposal);
        if (governor.state(proposal) != IGovernor.ProposalState.Active) revert NotActive(proposal);
        bytes memory payload = abi.encode(block.chainid, address(governor), proposal, description);
        index = _ask(payload, msg.value, GAS, COPIES, uint64(block.timestamp) + 1 hours);
        proposals[index] = proposal;
        emit Asked(proposal, index);
    }

    /// @notice The warden votes in the agent's place.
    function overrule(uint256 proposal, uint8 support) external {
        if (msg.sender != warden) revert NotWarden(msg.sender);
        _vote(proposal, support);
    }

    function _onReply(uint64 index, bytes calldata reply) internal override {
        _vote(proposals[index], abi.decode(reply, (uint8)));
    }

    function _vote(uint256 proposal, uint8 support) private {
        if (settled[proposal]) revert AlreadySettled(proposal);
        if (support > ABSTAIN) revert BadSupport(support);
        settled[proposal] = true;
        emit Voted(proposal, support, msg.sender);
        governor.castVote(proposal, support);
    }
}
