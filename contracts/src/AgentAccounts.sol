// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {AgentAccount} from "./AgentAccount.sol";
import {IAgents} from "./interfaces/IAgents.sol";
import {IGatekeepers} from "./interfaces/IGatekeepers.sol";

/// @title Makes agents' accounts at addresses known from the token id (CREATE2).
/// @notice Created by the registry of agents (Agents, or RemoteAgents elsewhere): the only one that its accounts believe.
contract AgentAccounts {
    IAgents public immutable agents;
    IGatekeepers public immutable gatekeepers;

    event AccountCreated(uint256 indexed tokenId, bytes32 indexed agentId, address account);

    constructor(IGatekeepers gatekeepers_) {
        agents = IAgents(msg.sender);
        gatekeepers = gatekeepers_;
    }

    function agentId(uint256 tokenId) public view virtual returns (bytes32) {
        return keccak256(abi.encode(block.chainid, address(agents), tokenId));
    }

    /// @notice Where the account of a token is, or will be.
    function addressOf(uint256 tokenId) public view returns (address) {
        bytes32 id = agentId(tokenId);
        bytes32 code = keccak256(
            abi.encodePacked(type(AgentAccount).creationCode, abi.encode(agents, gatekeepers, tokenId, id))
        );
        return address(uint160(uint256(keccak256(abi.encodePacked(hex"ff", address(this), id, code)))));
    }

    /// @notice Create the account; anybody may, it always has the same code and owner. Reverts for no such token.
    function create(uint256 tokenId) external returns (AgentAccount account) {
        agents.ownerOf(tokenId);
        bytes32 id = agentId(tokenId);
        account = new AgentAccount{salt: id}(agents, gatekeepers, tokenId, id);
        emit AccountCreated(tokenId, id, address(account));
    }
}
