// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IAgents} from "./interfaces/IAgents.sol";

/// @title What payers agreed to pay for requests to agents that name them (spec/anchor.md 35-38).
/// @notice Naming a payer in Agents takes nothing. A payer consents here: for one agent under its present owner, to one
/// requester or to anybody, up to so much a request, so much in all, until a time. A sale of the agent ends it.
abstract contract Sponsors {
    struct Consent {
        uint128 most;
        uint128 left;
        uint64 until;
    }

    /// @dev By payer, keccak256(agent, owner) and requester; requester 0: anybody.
    mapping(address payer => mapping(bytes32 scope => mapping(address requester => Consent))) private _consents;
    /// @dev Who paid for a request instead of its requester: a refund goes there.
    mapping(bytes32 commitment => address payer) internal _payers;

    event ConsentSet(
        address indexed payer,
        bytes32 indexed agent,
        address indexed requester,
        address owner,
        uint128 most,
        uint128 total,
        uint64 until
    );
    event Sponsored(bytes32 indexed agent, uint64 indexed index, address indexed payer, uint128 fee);

    error NoPayer(bytes32 agent);
    error NoConsent(address payer, address requester, uint128 fee);

    /// @notice Agree to pay from your credit, or take an agreement back with zeros. It replaces the former one.
    /// @param owner the agent's owner that you know; refused if it is another one by now.
    function setConsent(bytes32 agent, address owner, address requester, uint128 most, uint128 total, uint64 until)
        external
    {
        (, address current) = _named(agent);
        if (current != owner) revert NoPayer(agent);
        _consents[msg.sender][_scope(agent, owner)][requester] = Consent(most, total, until);
        emit ConsentSet(msg.sender, agent, requester, owner, most, total, until);
    }

    /// @notice What is left of an agreement, for the agent's present owner.
    function consentOf(address payer, bytes32 agent, address requester) external view returns (Consent memory) {
        (, address owner) = _named(agent);
        return _consents[payer][_scope(agent, owner)][requester];
    }

    /// @dev The payer that the agent names, if it agreed to this fee: to this requester, else to anybody. The fee is
    /// taken off what is left.
    function _agreed(bytes32 agent, address requester, uint128 fee) internal returns (address payer) {
        address owner;
        (payer, owner) = _named(agent);
        if (payer == address(0)) revert NoPayer(agent);
        mapping(address => Consent) storage given = _consents[payer][_scope(agent, owner)];
        if (!_take(given[requester], fee) && !_take(given[address(0)], fee)) revert NoConsent(payer, requester, fee);
    }

    /// @dev The Agents contract of this chain; 0 elsewhere, where nobody is named.
    function _registry() internal view virtual returns (IAgents);

    function _named(bytes32 agent) private view returns (address payer, address owner) {
        IAgents registry = _registry();
        if (address(registry) == address(0)) revert NoPayer(agent);
        return registry.payerOf(agent);
    }

    function _take(Consent storage c, uint128 fee) private returns (bool) {
        if (fee > c.most || fee > c.left || block.timestamp > c.until) return false;
        c.left -= fee;
        return true;
    }

    function _scope(bytes32 agent, address owner) private pure returns (bytes32) {
        return keccak256(abi.encode(agent, owner));
    }
}
