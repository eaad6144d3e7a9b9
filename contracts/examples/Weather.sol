// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {AgentConsumer} from "../src/AgentConsumer.sol";
import {IAnchor} from "../src/interfaces/IAnchor.sol";

contract Weather is AgentConsumer {
    mapping(uint64 index => string place) public asked;
    mapping(string place => int16) public celsius;

    constructor(IAnchor anchor_, bytes32 agent_) AgentConsumer(anchor_, agent_) {}

    function ask(string calldata place) external payable {
        // Two equal answers, by workers of two hardware vendors, within ten minutes; 100,000 gas for the callback.
        uint64 index = _ask(bytes(place), msg.value, 100_000, 2, uint64(block.timestamp) + 10 minutes);
        asked[index] = place;
    }

    function _onReply(uint64 index, bytes calldata reply) internal override {
        celsius[asked[index]] = abi.decode(reply, (int16));
    }
}
