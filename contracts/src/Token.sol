// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {ERC20} from "@openzeppelin/contracts/token/ERC20/ERC20.sol";
import {ERC20Burnable} from "@openzeppelin/contracts/token/ERC20/extensions/ERC20Burnable.sol";
import {ERC20Permit} from "@openzeppelin/contracts/token/ERC20/extensions/ERC20Permit.sol";
import {ERC20Votes} from "@openzeppelin/contracts/token/ERC20/extensions/ERC20Votes.sol";
import {Nonces} from "@openzeppelin/contracts/utils/Nonces.sol";

/// @title PHA: fixed supply of one billion, permit, votes, burn.
/// @notice Nobody can mint after the constructor.
contract Token is ERC20, ERC20Burnable, ERC20Permit, ERC20Votes {
    uint256 public constant SUPPLY = 1_000_000_000 ether;

    constructor(address treasury) ERC20("Phala", "PHA") ERC20Permit("Phala") {
        _mint(treasury, SUPPLY);
    }

    function nonces(address owner) public view override(ERC20Permit, Nonces) returns (uint256) {
        return super.nonces(owner);
    }

    function _update(address from, address to, uint256 value) internal override(ERC20, ERC20Votes) {
        super._update(from, to, value);
    }
}
