// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

/// @notice A contract that decides who may call an agent. Workers run this view inside the TEE, over proven state, with a
/// gas limit; an error, an answer of another form, or a state that cannot be proven counts as no.
interface IAgentAccess {
    /// @param agent 32-byte agent id.
    /// @param caller Wallet of the caller; 0 for an anonymous one.
    /// @param selector First 4 bytes of sha256(method, one space, path without query).
    /// @param context Canonical JSON of what else the worker knows of the call (spec/chainview.md 19).
    function isAllowed(bytes32 agent, address caller, bytes4 selector, bytes calldata context)
        external
        view
        returns (bool);
}
