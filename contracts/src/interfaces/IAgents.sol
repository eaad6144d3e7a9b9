// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

/// @notice What other contracts ask of the registry.
interface IAgents {
    function ownerOf(uint256 tokenId) external view returns (address);

    /// @notice Epoch, pause flag and guardian of an agent.
    function status(uint256 tokenId) external view returns (uint64 epoch, bool paused, address guardian);

    /// @notice Epoch (0: no such agent) and pause flag, by agent id.
    function live(bytes32 agentId) external view returns (uint64 epoch, bool paused);

    /// @notice Who is asked to pay for an agent's requests, and who owns it; zeros for no such agent.
    function payerOf(bytes32 agentId) external view returns (address payer, address owner);

    /// @notice Master epoch at an agent's birth.
    function bornIn(uint256 tokenId) external view returns (uint64);

    /// @notice How many agents were born under a master epoch.
    function bornUnder(uint64 masterEpoch) external view returns (uint256);

    /// @notice keccak256(abi.encode(chain id, registry, token id)).
    function agentIdOf(uint256 tokenId) external view returns (bytes32);

    /// @notice Owner, approved address or operator of a token. Reverts for no such token.
    function isAuthorizedOrOwner(address spender, uint256 tokenId) external view returns (bool);
}
