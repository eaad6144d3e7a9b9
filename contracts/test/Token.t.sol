// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {Token} from "../src/Token.sol";
import {Checks} from "./Vm.sol";

contract TokenTest is Checks {
    Token internal token;
    address internal treasury = named("treasury");

    function setUp() public {
        token = new Token(treasury);
    }

    function test_the_whole_supply_is_the_treasurys() public view {
        equal(token.totalSupply(), 1e27);
        equal(token.balanceOf(treasury), 1e27);
        equal(bytes(token.symbol()), bytes("PHA"));
        equal(token.decimals(), 18);
    }

    function test_fuzz_burning_only_shrinks_the_supply(uint256 amount) public {
        amount = bound(amount, 0, 1e27);
        vm.prank(treasury);
        token.burn(amount);
        equal(token.totalSupply(), 1e27 - amount);
        equal(token.balanceOf(treasury), 1e27 - amount);
    }

    function test_fuzz_delegated_votes_follow_the_tokens(uint256 amount) public {
        amount = bound(amount, 0, 1e27);
        address voter = named("voter");
        vm.prank(voter);
        token.delegate(voter);
        vm.prank(treasury);
        token.transfer(voter, amount);
        equal(token.getVotes(voter), amount);
        vm.roll(block.number + 1);
        equal(token.getPastVotes(voter, block.number - 1), amount);
    }

    function test_permit_spends_by_signature_and_once() public {
        uint256 key = 77;
        address owner = vm.addr(key);
        bytes32 permit = keccak256(
            abi.encode(
                keccak256("Permit(address owner,address spender,uint256 value,uint256 nonce,uint256 deadline)"),
                owner,
                address(this),
                5,
                0,
                block.timestamp + 1
            )
        );
        bytes32 digest = keccak256(abi.encodePacked(hex"1901", token.DOMAIN_SEPARATOR(), permit));
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(key, digest);
        token.permit(owner, address(this), 5, block.timestamp + 1, v, r, s);
        equal(token.allowance(owner, address(this)), 5);
        equal(token.nonces(owner), 1);
        (bool again,) =
            address(token).call(abi.encodeCall(token.permit, (owner, address(this), 5, block.timestamp + 1, v, r, s)));
        equal(again, false);
    }
}
