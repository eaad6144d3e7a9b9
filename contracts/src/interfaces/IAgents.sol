// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

/// @notice What an agent's account asks of the registry.
interface IAgents {
    function ownerOf(uint256 tokenId) external view returns (address);

    /// @notice Epoch, pause flag and guardian of an agent.
    function status(uint256 tokenId) external view returns (uint64 epoch, bool paused, address guardian);
}
