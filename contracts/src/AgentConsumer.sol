// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IAgentConsumer, IAnchor} from "./interfaces/IAnchor.sol";

/// @title Inherit this to ask an agent and get its answer exactly once (docs/use/contracts.md).
/// @notice `_ask` sends a request, `_onReply` receives its answer. A reply that fails or does not come: the fee of an
/// unanswered request is refunded to this contract's credit after the deadline, and anybody may have it sent here.
abstract contract AgentConsumer is IAgentConsumer {
    IAnchor public immutable anchor;
    bytes32 public immutable agent;

    error OnlyAnchor(address caller);
    error WrongAgent(bytes32 agent);

    constructor(IAnchor anchor_, bytes32 agent_) {
        (anchor, agent) = (anchor_, agent_);
    }

    receive() external payable virtual {}

    /// @inheritdoc IAgentConsumer
    function onAgentReply(bytes32 agent_, uint64 index, uint8, bytes calldata reply) external {
        if (msg.sender != address(anchor)) revert OnlyAnchor(msg.sender);
        if (agent_ != agent) revert WrongAgent(agent_);
        _onReply(index, reply);
    }

    /// @dev Ask with the usual choices: one worker, an hour, a public reply.
    function _ask(bytes memory payload, uint256 fee, uint64 gasLimit) internal returns (uint64 index) {
        return _ask(payload, fee, gasLimit, 1, uint64(block.timestamp) + 1 hours);
    }

    /// @dev Ask for `copies` equal answers by `deadline`.
    function _ask(bytes memory payload, uint256 fee, uint64 gasLimit, uint8 copies, uint64 deadline)
        internal
        returns (uint64 index)
    {
        return anchor.request{value: fee}(_choice(gasLimit, copies, deadline), payload);
    }

    /// @dev Ask at the cost of the agent's fee payer, who agreed to pay for this contract's requests.
    function _askSponsored(bytes memory payload, uint128 fee, uint64 gasLimit, uint8 copies, uint64 deadline)
        internal
        returns (uint64 index)
    {
        return anchor.requestSponsored(_choice(gasLimit, copies, deadline), fee, payload);
    }

    function _choice(uint64 gasLimit, uint8 copies, uint64 deadline) private view returns (IAnchor.Ask memory) {
        return IAnchor.Ask({
            agent: agent,
            codeHash: 0,
            gasLimit: gasLimit,
            deadline: deadline,
            copies: copies,
            flags: 0
        });
    }

    /// @dev Called once per request. Never trust a reply more than the agent's code and the copies you asked for.
    function _onReply(uint64 index, bytes calldata reply) internal virtual;
}
