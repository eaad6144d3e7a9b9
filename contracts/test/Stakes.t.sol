// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {Ownable} from "@openzeppelin/contracts/access/Ownable.sol";
import {IGatekeepers} from "../src/interfaces/IGatekeepers.sol";
import {Office} from "../src/Office.sol";
import {Policies} from "../src/Policies.sol";
import {Stakes} from "../src/Stakes.sol";
import {Statements} from "../src/Statements.sol";
import {Token} from "../src/Token.sol";
import {Workers} from "../src/Workers.sol";
import {Founded} from "./Founded.sol";
import {Checks} from "./Vm.sol";

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
        uint96 total = uint96(first) + second;
        if (total == 0) return;
        uint96 part = uint96(out) % total + 1;
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

    /// @dev The next term, in this block, with the same members.
    function nextTerm() internal {
        newKeys();
        vm.roll(block.number + 6000);
        seats.refresh();
        bytes32 id = gatekeepers.ceremony().id;
        run(id, mpk(), keccak256(abi.encode("transcript", id)));
    }

    function test_what_is_raised_in_a_real_term_counts_from_the_next_one_on() public {
        stakes.stake(worker, 300);
        equal(stakes.counted(worker), 300); // in the first term at once
        nextTerm();
        equal(gatekeepers.term(), 2);
        equal(stakes.counted(worker), 300);
        vm.roll(block.number + 1);
        stakes.stake(worker, 50);
        equal(stakes.counted(worker), 300);
        equal(stakes.stakeOf(worker).amount, 350); // what it may hold for it counts at once
        vm.prank(OPERATOR);
        stakes.unstake(worker, 100);
        equal(stakes.counted(worker), 250);
        nextTerm();
        equal(stakes.counted(worker), 250);
        workers.remove(worker);
        stakes.burn(worker);
        equal(stakes.counted(worker), 0);
    }
}

/// @notice Terms at the test's will; every statement is signed well. Stakes asks for nothing else.
contract TermClock is IGatekeepers {
    uint64 public term = 1;
    mapping(uint64 term => uint64) private _height;

    constructor() {
        _height[1] = uint64(block.number);
    }

    function next() external {
        _height[++term] = uint64(block.number);
    }

    function termOf(uint64 term_) external view returns (Office.Term memory t) {
        t.height = _height[term_];
    }

    function requireStatement(uint64, bytes32, bytes[] calldata) external view {}
    function requireSigned(bytes32, bytes[] calldata) external view {}

    function masterEpoch() external pure returns (uint64) {
        return 1;
    }
}

/// @notice What placement counts of stake, over terms (spec/policy.md 4): nothing that came when the seed was known.
contract StakesOverTermsTest is Checks {
    bytes32 internal constant MEASUREMENT = keccak256("measurement");
    address internal constant WORKER = address(0xA1);
    TermClock internal clock;
    Token internal pha;
    Workers internal workers;
    Stakes internal stakes;

    function setUp() public {
        (clock, pha) = (new TermClock(), new Token(address(this)));
        bytes32[] memory ids = new bytes32[](1);
        ids[0] = MEASUREMENT;
        workers = new Workers(address(this), clock, new Policies(address(this), 0, keccak256("policy"), ids));
        stakes = new Stakes(address(this), pha, workers);
        stakes.setCaps(Stakes.Caps(100, 0, 5));
        pha.approve(address(stakes), type(uint256).max);
        register(1);
        blocks(10);
    }

    /// @dev This test is its operator.
    function register(uint64 serial) internal {
        Statements.WorkerAdmission memory a = Statements.WorkerAdmission(
            1, WORKER, address(this), keccak256("tdx"), MEASUREMENT, keccak256("boot"), 1_000_000 + serial
        );
        workers.register(a, new bytes[](0), "http://127.0.0.1:1");
    }

    function blocks(uint256 count) internal {
        vm.roll(block.number + count);
    }

    function counted() internal view returns (uint96) {
        return stakes.counted(WORKER);
    }

    function raise(uint96 amount) internal {
        stakes.stake(WORKER, amount);
    }

    function test_a_worker_s_first_stake_counts_for_nothing_in_a_later_term() public {
        clock.next();
        blocks(1);
        raise(500);
        equal(counted(), 0);
        blocks(1);
        raise(1);
        equal(counted(), 0);
        blocks(1);
        clock.next();
        equal(counted(), 501);
    }

    function test_stake_in_the_block_of_a_new_term_waits_as_well_whether_it_comes_before_or_after() public {
        raise(100);
        blocks(1);
        raise(20);
        blocks(1);
        raise(3); // the block's hash is known to nobody, but the seed is of the block before
        clock.next();
        equal(counted(), 120);
        raise(4);
        equal(counted(), 120);
        blocks(1);
        raise(5);
        equal(counted(), 120);
        blocks(1);
        clock.next();
        equal(counted(), 132);
    }

    function test_nobody_takes_a_raise_away_by_a_smaller_one_in_the_block_of_a_new_term() public {
        clock.next();
        blocks(1);
        raise(100);
        for (uint256 i = 0; i < 3; ++i) {
            blocks(1);
            raise(1);
            clock.next();
            equal(counted(), 100 + i);
        }
    }

    function test_what_left_and_came_back_counts_from_the_next_term_on() public {
        raise(300);
        blocks(1);
        clock.next();
        blocks(1);
        raise(50);
        stakes.unstake(WORKER, 250);
        equal(counted(), 100);
        raise(250);
        equal(counted(), 100);
        blocks(1);
        raise(1);
        equal(counted(), 100);
        clock.next();
        equal(counted(), 350); // the last block's raise waits once more
    }

    function test_two_terms_in_one_block_give_away_nothing() public {
        clock.next();
        raise(10);
        clock.next();
        equal(counted(), 0);
        clock.next();
        equal(counted(), 0);
        blocks(1);
        clock.next();
        equal(counted(), 10);
    }

    function test_a_return_after_all_left_begins_at_nothing() public {
        raise(300);
        blocks(1);
        clock.next();
        blocks(1);
        stakes.unstake(WORKER, 300);
        blocks(5);
        stakes.withdraw(WORKER);
        raise(300);
        equal(counted(), 0);
    }

    /// @dev Any order of raises, leaving, blocks and terms. Beside the contract a list of what was there after each block
    /// says what may count: what stood before the term's first block, and never more than stood at any time since.
    function test_fuzz_nothing_rises_within_a_term_and_the_sum_is_kept(uint32[40] calldata moves) public {
        uint256 beforeBlock; // what stood when this block began
        uint256 mayCount = type(uint256).max; // in this term
        uint256 last;
        for (uint256 i = 0; i < moves.length; ++i) {
            (uint256 kind, uint96 amount) = (moves[i] % 5, uint96(moves[i] >> 8));
            if (kind < 2) {
                raise(amount);
            } else if (kind == 2 && stakes.stakeOf(WORKER).amount > 0) {
                stakes.unstake(WORKER, uint96(amount % stakes.stakeOf(WORKER).amount + 1));
            } else if (kind == 3) {
                beforeBlock = stakes.stakeOf(WORKER).amount;
                blocks(1 + amount % 3);
            } else if (kind == 4) {
                clock.next();
                (mayCount, last) = (beforeBlock, type(uint256).max);
            }
            Stakes.Stake memory s = stakes.stakeOf(WORKER);
            require(s.beforeTerm <= s.amount && s.beforeBlock <= s.amount, "more before than there is");
            equal(uint256(s.amount) + s.leaving, pha.balanceOf(address(stakes)));
            if (mayCount > s.amount) mayCount = s.amount;
            if (beforeBlock > s.amount) beforeBlock = s.amount;
            if (clock.term() > 1) equal(counted(), mayCount);
            else equal(counted(), s.amount);
            require(clock.term() == 1 || counted() <= last, "more counts than before in this term");
            last = counted();
        }
    }
}
