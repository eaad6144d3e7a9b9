// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

/// @notice What Gatekeepers asks before a master epoch is destroyed (spec/gatekeepers.md M4).
interface IReseals {
    /// @notice How many agents neither re-sealed out of `masterEpoch` nor had it waived by their owner.
    function remaining(uint64 masterEpoch) external view returns (uint256);
}
