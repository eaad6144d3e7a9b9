// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {Ownable} from "@openzeppelin/contracts/access/Ownable.sol";
import {Policies} from "../src/Policies.sol";
import {Checks} from "./Vm.sol";

contract PoliciesTest is Checks {
    bytes32 internal constant FIRST = keccak256("first policy");
    bytes32 internal constant SECOND = keccak256("second policy");
    bytes32 internal constant FOUNDING = keccak256("founding measurement");
    bytes32 internal constant LATER = keccak256("later measurement");
    uint64 internal constant DELAY = 50;
    Policies internal policies;

    function setUp() public {
        bytes32[] memory ids = new bytes32[](1);
        ids[0] = FOUNDING;
        policies = new Policies(address(this), DELAY, FIRST, ids);
    }

    function test_founding_measurements_carry_the_founding_block() public view {
        equal(policies.policyHash(), FIRST);
        equal(policies.policySetAt(), block.number);
        equal(policies.foundedAt(), block.number);
        equal(policies.listedAtBlock(FOUNDING), block.number);
        equal(policies.listedAtBlock(LATER), 0);
    }

    function test_a_later_listing_carries_its_own_block() public {
        vm.roll(block.number + 9);
        policies.list(LATER);
        equal(policies.listedAtBlock(LATER), block.number);
        equal(policies.listedAtBlock(LATER) == policies.foundedAt(), false);
    }

    function test_removal_is_at_once_and_a_new_listing_starts_anew() public {
        uint64 before = policies.listedAtBlock(FOUNDING);
        vm.roll(block.number + 5);
        policies.unlist(FOUNDING);
        equal(policies.listedAtBlock(FOUNDING), 0);
        policies.list(FOUNDING);
        equal(policies.listedAtBlock(FOUNDING), before + 5);
    }

    function test_refusals_have_names() public {
        vm.expectRevert(abi.encodeWithSelector(Policies.AlreadyListed.selector, FOUNDING));
        policies.list(FOUNDING);
        vm.expectRevert(abi.encodeWithSelector(Policies.NotListed.selector, LATER));
        policies.unlist(LATER);
        vm.expectRevert(Policies.EmptyHash.selector);
        policies.list(0);
        vm.expectRevert(Policies.EmptyHash.selector);
        policies.proposePolicy(0);
        vm.expectRevert(Policies.NothingPending.selector);
        policies.activatePolicy();
        vm.expectRevert(Policies.NothingPending.selector);
        policies.cancelPolicy();
        vm.expectRevert(Policies.EmptyHash.selector);
        new Policies(address(this), 0, 0, new bytes32[](0));
    }

    function test_fuzz_a_policy_waits_its_delay(uint64 wait) public {
        wait = uint64(bound(wait, 0, 2 * DELAY));
        policies.proposePolicy(SECOND);
        uint256 ready = block.number + DELAY;
        vm.roll(block.number + wait);
        if (wait < DELAY) vm.expectRevert(abi.encodeWithSelector(Policies.TooEarly.selector, ready, block.number));
        policies.activatePolicy();
        equal(policies.policyHash(), wait < DELAY ? FIRST : SECOND);
        if (wait >= DELAY) equal(policies.policySetAt(), block.number);
    }

    function test_a_new_proposal_restarts_the_delay() public {
        policies.proposePolicy(SECOND);
        vm.roll(block.number + DELAY);
        policies.proposePolicy(LATER);
        vm.expectRevert(
            abi.encodeWithSelector(Policies.TooEarly.selector, uint64(block.number) + DELAY, block.number)
        );
        policies.activatePolicy();
    }

    function test_a_cancelled_policy_never_comes_into_force() public {
        policies.proposePolicy(SECOND);
        equal(policies.pendingPolicy().policyHash, SECOND);
        policies.cancelPolicy();
        vm.roll(block.number + DELAY);
        vm.expectRevert(Policies.NothingPending.selector);
        policies.activatePolicy();
    }

    function test_fuzz_only_the_owner(address who, uint8 which) public {
        vm.assume(who != address(this));
        bytes[5] memory calls = [
            abi.encodeCall(Policies.list, (LATER)),
            abi.encodeCall(Policies.unlist, (FOUNDING)),
            abi.encodeCall(Policies.proposePolicy, (SECOND)),
            abi.encodeCall(Policies.activatePolicy, ()),
            abi.encodeCall(Policies.cancelPolicy, ())
        ];
        vm.prank(who);
        (bool ok, bytes memory reason) = address(policies).call(calls[which % 5]);
        equal(ok, false);
        equal(reason, abi.encodeWithSelector(Ownable.OwnableUnauthorizedAccount.selector, who));
    }
}
