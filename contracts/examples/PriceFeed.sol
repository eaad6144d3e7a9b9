// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {AgentConsumer} from "../src/AgentConsumer.sol";
import {IAnchor} from "../src/interfaces/IAnchor.sol";

/// @title A price that two workers of two hardware vendors agree on.
/// @notice Anybody may pay for a refresh. Replies are abi.encode(price, Unix seconds); older ones never replace newer ones.
contract PriceFeed is AgentConsumer {
    uint8 private constant COPIES = 2;
    uint64 private constant GAS = 100_000;
    uint256 private constant TOLERANCE = 5 minutes;

    bytes public question;
    uint128 public price;
    uint64 public updatedAt;
    uint256 public immutable maxAge;

    event PriceUpdated(uint64 indexed index, uint128 price, uint64 at);

    error Stale(uint64 updatedAt);
    error NotNewer(uint64 at);
    error FromTheFuture(uint64 at);
    error NoPrice();

    constructor(IAnchor anchor_, bytes32 agent_, bytes memory question_, uint256 maxAge_) AgentConsumer(anchor_, agent_) {
        question = question_;
        maxAge = maxAge_;
    }

    function refresh() external payable returns (uint64 index) {
        return _ask(question, msg.value, GAS, COPIES, uint64(block.timestamp) + 10 minutes);
    }

    /// @notice The price, if it is fresh.
    function read() external view returns (uint128) {
        if (block.timestamp > updatedAt + maxAge) revert Stale(updatedAt);
        return price;
    }

    function _onReply(uint64 index, bytes calldata reply) internal override {
        (uint128 found, uint64 at_) = abi.decode(reply, (uint128, uint64));
        if (found == 0) revert NoPrice();
        if (at_ <= updatedAt) revert NotNewer(at_);
        if (at_ > block.timestamp + TOLERANCE) revert FromTheFuture(at_);
        (price, updatedAt) = (found, at_);
        emit PriceUpdated(index, found, at_);
    }
}
