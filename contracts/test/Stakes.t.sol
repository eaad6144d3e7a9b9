// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {Ownable} from "@openzeppelin/contracts/access/Ownable.sol";
import {Policies} from "../src/Policies.sol";
import {Stakes} from "../src/Stakes.sol";
import {Statements} from "../src/Statements.sol";
import {Workers} from "../src/Workers.sol";
import {Founded} from "./Founded.sol";

/// @notice Stake behind workers: whose it is, when it backs, when it is free, when it burns.
contract StakesTest is Founded {
    bytes32 internal constant MEASUREMENT = keccak256("measurement");
    address internal constant OPERATOR = address(0x0E);
    Workers internal workers;
    Stakes internal stakes;
    address internal worker = address(0xA1);
    uint64 private _admitted;

    function setUp() public {
        found();
        bytes32[] memory ids = new bytes32[](1);
        ids[0] = MEASUREMENT;
        workers = new Workers(address(this), gatekeepers, new Policies(address(this), 0, keccak256("policy"), ids));
        stakes = new Stakes(address(this), pha, workers);
        stakes.setCaps(Stakes.Caps(100, 8, 50));
        pha.approve(address(stakes), type(uint256).max);
        register(OPERATOR);
    }

    function register(address operator) internal {
        ++_admitted;
        uint64 expiry = uint64(block.number) + 100 + _admitted;
        Statements.WorkerAdmission memory a = Statements.WorkerAdmission(
            1, worker, operator, keccak256("tdx"), MEASUREMENT, keccak256("boot"), expiry
        );
        bytes[] memory sigs = signAll(Statements.hash(a), T);
        vm.prank(worker);
        workers.register(a, sigs, "http://127.0.0.1:1");
    }

    function test_anybody_stakes_and_only_the_operator_takes_it_out_after_unbonding() public {
        stakes.stake(worker, 300);
        equal(stakes.stakeOf(worker).amount, 300);
        vm.expectRevert(abi.encodeWithSelector(Stakes.NotYours.selector, address(this)));
        stakes.unstake(worker, 100);
        vm.prank(OPERATOR);
        stakes.unstake(worker, 100);
        equal(stakes.stakeOf(worker).amount, 200);
        equal(stakes.stakeOf(worker).leaving, 100);
        uint64 freeAt = uint64(block.number) + 50;
        vm.roll(freeAt - 1);
        vm.expectRevert(abi.encodeWithSelector(Stakes.StillLocked.selector, freeAt));
        stakes.withdraw(worker);
        vm.roll(freeAt);
        stakes.withdraw(worker);
        equal(pha.balanceOf(OPERATOR), 100);
        vm.expectRevert(abi.encodeWithSelector(Stakes.NothingStaked.selector, worker));
        stakes.withdraw(worker);
        vm.prank(OPERATOR);
        vm.expectRevert(abi.encodeWithSelector(Stakes.NothingStaked.selector, worker));
        stakes.unstake(worker, 201);
    }

    function test_after_a_removal_for_cause_all_of_it_burns_also_what_was_leaving() public {
        stakes.stake(worker, 300);
        vm.prank(OPERATOR);
        stakes.unstake(worker, 100);
        vm.expectRevert(abi.encodeWithSelector(Stakes.NotRemoved.selector, worker));
        stakes.burn(worker);
        workers.remove(worker);
        vm.roll(block.number + 50);
        vm.expectRevert(abi.encodeWithSelector(Stakes.RemovedForCause.selector, worker));
        stakes.withdraw(worker);
        vm.expectRevert(abi.encodeWithSelector(Stakes.RemovedForCause.selector, worker));
        stakes.stake(worker, 1);
        uint256 supply = pha.totalSupply();
        vm.prank(address(0xBEEF));
        stakes.burn(worker);
        equal(supply - pha.totalSupply(), 300);
        equal(pha.balanceOf(address(stakes)), 0);
        vm.expectRevert(abi.encodeWithSelector(Stakes.NothingStaked.selector, worker));
        stakes.burn(worker);
    }

    function test_who_leaves_in_good_standing_takes_its_stake_along() public {
        stakes.stake(worker, 300);
        vm.prank(worker);
        workers.depart(worker);
        vm.prank(OPERATOR);
        stakes.unstake(worker, 300);
        vm.roll(block.number + 50);
        stakes.withdraw(worker);
        equal(pha.balanceOf(OPERATOR), 300);
    }

    function test_stake_of_one_operator_is_never_another_s() public {
        stakes.stake(worker, 300);
        vm.prank(worker);
        workers.depart(worker);
        register(address(0x0F));
        vm.expectRevert(abi.encodeWithSelector(Stakes.OtherOperator.selector, OPERATOR, address(0x0F)));
        stakes.stake(worker, 1);
        vm.prank(address(0x0F));
        vm.expectRevert(abi.encodeWithSelector(Stakes.NotYours.selector, address(0x0F)));
        stakes.unstake(worker, 1);
        vm.prank(OPERATOR);
        stakes.unstake(worker, 300);
        vm.roll(block.number + 50);
        stakes.withdraw(worker);
        stakes.stake(worker, 7);
        equal(uint160(stakes.stakeOf(worker).operator), 0x0F);
    }

    function test_a_worker_that_nobody_admitted_gets_no_stake() public {
        vm.expectRevert(abi.encodeWithSelector(Stakes.NotRegistered.selector, address(0x77)));
        stakes.stake(address(0x77), 1);
    }

    function test_only_the_dao_sets_caps() public {
        vm.prank(address(0xBEEF));
        vm.expectRevert(abi.encodeWithSelector(Ownable.OwnableUnauthorizedAccount.selector, address(0xBEEF)));
        stakes.setCaps(Stakes.Caps(0, 0, 0));
        vm.expectRevert(Stakes.BadCaps.selector);
        stakes.setCaps(Stakes.Caps(0, 0, 50_000_001));
        stakes.setCaps(Stakes.Caps(1, 2, 3));
        equal(stakes.caps().stakePerAgent, 1);
        equal(stakes.caps().agentsPerOperator, 2);
    }

    function test_fuzz_what_comes_in_goes_out_or_burns(uint64 first, uint64 second, uint64 out, bool removed) public {
        stakes.stake(worker, first);
        stakes.stake(worker, second);
        uint128 total = uint128(first) + second;
        if (total == 0) return;
        uint128 part = uint128(out) % total + 1;
        vm.prank(OPERATOR);
        stakes.unstake(worker, part);
        vm.roll(block.number + 50);
        if (removed) {
            workers.remove(worker);
            stakes.burn(worker);
            equal(pha.balanceOf(address(stakes)), 0);
        } else {
            stakes.withdraw(worker);
            equal(pha.balanceOf(OPERATOR), part);
            equal(pha.balanceOf(address(stakes)), total - part);
        }
    }
}
