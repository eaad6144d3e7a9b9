// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

/// @notice What other contracts ask of the committee in office.
interface IGatekeepers {
    /// @notice Reverts unless `term` is the term in office and t distinct members signed.
    function requireStatement(uint64 term, bytes32 structHash, bytes[] calldata sigs) external view;

    /// @notice Reverts unless t distinct members of the committee in office signed the struct hash.
    function requireSigned(bytes32 structHash, bytes[] calldata sigs) external view;

    /// @notice Epoch of the master key in use; 0 before there is one.
    function masterEpoch() external view returns (uint64);
}
