// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IGovernor} from "@openzeppelin/contracts/governance/IGovernor.sol";
import {DaoDelegate} from "../examples/DaoDelegate.sol";
import {DiceGame} from "../examples/DiceGame.sol";
import {PriceFeed} from "../examples/PriceFeed.sol";
import {MockAgent} from "../kit/MockAgent.sol";
import {AgentConsumer} from "../src/AgentConsumer.sol";
import {IAnchor} from "../src/interfaces/IAnchor.sol";
import {Checks} from "./Vm.sol";

contract PriceFeedTest is Checks, MockAgent {
    PriceFeed internal feed;

    function setUp() public {
        vm.warp(1_000_000);
        _startAgent();
        feed = new PriceFeed(mockAnchor, MOCK_AGENT, "PHA/USD", 1 hours);
        vm.deal(address(this), 10 ether);
    }

    function test_a_price_comes_and_the_fee_goes_to_the_two_workers() public {
        uint64 index = feed.refresh{value: 1 ether}();
        (IAnchor.Request memory r, bytes memory payload) = _asked(index);
        equal(payload, "PHA/USD");
        equal(r.copies, 2);
        _answer(index, abi.encode(uint128(42), uint64(block.timestamp)));
        equal(feed.read(), 42);
        IAnchor.Signed[] memory by = _signed(r, "");
        equal(mockAnchor.credits(by[0].worker) + mockAnchor.credits(by[1].worker), 1 ether);
    }

    function test_an_old_price_does_not_replace_a_newer_one() public {
        uint64 first = feed.refresh();
        uint64 second = feed.refresh();
        _answer(second, abi.encode(uint128(50), uint64(block.timestamp)));
        _answer(first, abi.encode(uint128(40), uint64(block.timestamp) - 60));
        equal(feed.read(), 50);
        vm.warp(block.timestamp + 1 hours + 1);
        vm.expectRevert(abi.encodeWithSelector(PriceFeed.Stale.selector, feed.updatedAt()));
        feed.read();
    }

    function test_a_reply_of_another_form_changes_nothing() public {
        _answer(feed.refresh(), "not a price");
        _answer(feed.refresh(), abi.encode(uint128(0), uint64(block.timestamp)));
        _answer(feed.refresh(), abi.encode(uint128(1), uint64(block.timestamp) + 1 days));
        equal(feed.updatedAt(), 0);
    }

    function test_an_unanswered_request_is_refunded_to_the_feed() public {
        _expire(feed.refresh{value: 1 ether}());
        equal(address(feed).balance, 1 ether);
    }

    function test_only_the_anchor_brings_replies() public {
        vm.expectRevert(abi.encodeWithSelector(AgentConsumer.OnlyAnchor.selector, address(this)));
        feed.onAgentReply(MOCK_AGENT, 1, 0, abi.encode(uint128(1), uint64(block.timestamp)));
        vm.prank(address(mockAnchor));
        vm.expectRevert(abi.encodeWithSelector(AgentConsumer.WrongAgent.selector, bytes32("other")));
        feed.onAgentReply("other", 1, 0, abi.encode(uint128(1), uint64(block.timestamp)));
    }
}

contract DiceGameTest is Checks, MockAgent {
    DiceGame internal game;
    address internal player = named("player");

    function setUp() public {
        vm.warp(1_000_000);
        _startAgent();
        vm.deal(address(this), 100 ether);
        game = new DiceGame{value: 50 ether}(mockAnchor, MOCK_AGENT, 0.1 ether);
        vm.deal(player, 10 ether);
    }

    function play(uint8 guess, bytes32 secret) internal returns (uint64 index) {
        vm.prank(player);
        return game.play{value: 1.1 ether}(guess, keccak256(abi.encode(secret, player)));
    }

    function test_fuzz_winner_takes_five_times_the_stake(bytes32 secret, bytes32 random, uint8 guess) public {
        guess = uint8(bound(guess, 1, 6));
        uint64 index = play(guess, secret);
        equal(game.reserved(), 5 ether);
        _answer(index, abi.encode(random));
        vm.prank(player);
        uint8 number = game.reveal(index, secret);
        equal(number, uint256(keccak256(abi.encode(secret, random))) % 6 + 1);
        equal(player.balance, number == guess ? 13.9 ether : 8.9 ether);
        equal(game.reserved(), 0);
    }

    function test_neither_before_the_agent_nor_with_another_secret_nor_twice() public {
        uint64 index = play(3, "s");
        vm.startPrank(player);
        vm.expectRevert(DiceGame.NotReady.selector);
        game.reveal(index, "s");
        vm.stopPrank();
        _answer(index, abi.encode(bytes32("r")));
        vm.expectRevert(DiceGame.NotYours.selector);
        game.reveal(index, "s");
        vm.startPrank(player);
        vm.expectRevert(DiceGame.WrongSecret.selector);
        game.reveal(index, "t");
        game.reveal(index, "s");
        vm.expectRevert(DiceGame.NotYours.selector);
        game.reveal(index, "s");
        vm.stopPrank();
    }

    function test_a_silent_agent_costs_no_stake_and_a_silent_player_loses_it() public {
        uint64 silent = play(3, "s");
        uint64 told = play(3, "t");
        _answer(told, abi.encode(bytes32("r")));
        vm.expectRevert(DiceGame.NotReady.selector);
        game.close(silent);
        vm.warp(block.timestamp + 2 hours);
        game.close(silent);
        game.close(told);
        equal(player.balance, 8.8 ether);
        equal(game.reserved(), 0);
    }

    function test_the_house_must_be_able_to_pay() public {
        vm.deal(player, 1000 ether);
        vm.startPrank(player);
        vm.expectRevert(DiceGame.HouseTooPoor.selector);
        game.play{value: 500 ether}(1, "x");
        vm.expectRevert(DiceGame.BadBet.selector);
        game.play{value: 1 ether}(7, "x");
        vm.stopPrank();
    }
}

/// @notice A governor that remembers one vote.
contract Ballot {
    uint256 public proposal;
    uint8 public support;
    uint256 public votes;
    IGovernor.ProposalState public state_ = IGovernor.ProposalState.Active;

    function set(IGovernor.ProposalState to) external {
        state_ = to;
    }

    function state(uint256) external view returns (IGovernor.ProposalState) {
        return state_;
    }

    function castVote(uint256 proposal_, uint8 support_) external returns (uint256) {
        (proposal, support) = (proposal_, support_);
        return ++votes;
    }
}

contract DaoDelegateTest is Checks, MockAgent {
    Ballot internal ballot;
    DaoDelegate internal delegate;
    address internal warden = named("warden");

    function setUp() public {
        _startAgent();
        ballot = new Ballot();
        delegate = new DaoDelegate(mockAnchor, MOCK_AGENT, IGovernor(address(ballot)), warden);
    }

    function test_the_agent_votes_once() public {
        uint64 first = delegate.consult(7, "raise seats");
        uint64 second = delegate.consult(7, "raise seats");
        _answer(first, abi.encode(uint8(1)));
        equal(ballot.proposal(), 7);
        equal(ballot.support(), 1);
        _answer(second, abi.encode(uint8(0)));
        equal(ballot.votes(), 1);
        vm.expectRevert(abi.encodeWithSelector(DaoDelegate.AlreadySettled.selector, 7));
        delegate.consult(7, "raise seats");
    }

    function test_the_warden_comes_first_if_it_wants() public {
        uint64 index = delegate.consult(7, "x");
        vm.expectRevert(abi.encodeWithSelector(DaoDelegate.NotWarden.selector, address(this)));
        delegate.overrule(7, 0);
        vm.prank(warden);
        delegate.overrule(7, 0);
        _answer(index, abi.encode(uint8(1)));
        equal(ballot.support(), 0);
        equal(ballot.votes(), 1);
    }

    function test_no_vote_for_what_is_no_choice_and_nothing_asked_about_what_is_over() public {
        _answer(delegate.consult(7, "x"), abi.encode(uint8(3)));
        equal(ballot.votes(), 0);
        ballot.set(IGovernor.ProposalState.Defeated);
        vm.expectRevert(abi.encodeWithSelector(DaoDelegate.NotActive.selector, 7));
        delegate.consult(7, "x");
    }
}
