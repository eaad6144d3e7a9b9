// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {Candidates} from "../src/Candidates.sol";
import {Ceremonies} from "../src/Ceremonies.sol";
import {Gatekeepers} from "../src/Gatekeepers.sol";
import {Office} from "../src/Office.sol";
import {Phases} from "../src/Phases.sol";
import {Seats} from "../src/Seats.sol";
import {Founded} from "./Founded.sol";

/// @notice One ceremony, rule by rule (spec/gatekeepers.md G1-G14). Windows are ten blocks.
contract CeremoniesTest is Founded {
    bytes32 internal id;
    address[] internal gk;
    uint64 internal constant ALL = 31;

    function setUp() public {
        fresh(quick());
        gk = candidates();
        id = open(gk, T);
    }

    function phase() internal view returns (Phases.Phase) {
        return gatekeepers.phaseAt(id, block.number);
    }

    function expectPhase(Phases.Phase wanted) internal view {
        equal(uint256(phase()), uint256(wanted));
    }

    function expectRefused(Phases.Phase found) internal {
        vm.expectRevert(abi.encodeWithSelector(Ceremonies.WrongPhase.selector, found));
    }

    /// @dev To the block whose transactions still count in the phase that ends with window `windows`.
    function toDeadline(uint256 windows) internal {
        vm.roll(uint256(gatekeepers.ceremony().openedAt) + 10 * windows);
    }

    function commitAll() internal {
        for (uint256 i = 0; i < N; ++i) commitAs(id, gk[i]);
    }

    function contentAll() internal {
        for (uint256 i = 0; i < N; ++i) contentAs(id, gk[i], 1);
    }

    function complainAs(address who, uint256 dealer, uint8 fault) internal {
        vm.prank(who);
        gatekeepers.complain(id, dealer, fault);
    }

    function publishAs(address who) internal {
        vm.prank(who);
        gatekeepers.publish(id, frameOf(who));
    }

    function confirmAll(uint256 from, uint256 to, uint64 qualified) internal {
        for (uint256 i = from; i < to; ++i) confirmAs(id, gk[i], mpk(), TRANSCRIPT, qualified);
    }

    // --- G1, G2 ---

    function test_an_id_commits_to_everything_and_no_other_ceremony_opens() public {
        bytes32 expected = keccak256(abi.encode(GENESIS, address(gatekeepers), uint8(1), uint64(1), uint64(1), uint64(1)));
        equal(id, expected);
        vm.expectRevert(abi.encodeWithSelector(Ceremonies.CeremonyOpen.selector, id));
        seats.openFounding(gk, T, GENESIS);
    }

    function test_an_id_and_a_key_are_never_used_twice() public {
        seats.cancel(id);
        vm.expectRevert(abi.encodeWithSelector(Seats.NoFreshKey.selector, gk[0]));
        seats.openFounding(gk, T, GENESIS);
        bytes32[] memory used = gatekeepers.ceremony().keys;
        vm.prank(gk[0]);
        vm.expectRevert(abi.encodeWithSelector(Candidates.UsedKey.selector, used[0]));
        seats.setKey(used[0], bytes32(uint256(1)));
        vm.prank(gk[0]);
        vm.expectRevert(abi.encodeWithSelector(Candidates.UsedKey.selector, used[1]));
        seats.setKey(used[1], bytes32(uint256(1)));
        for (uint256 i = 0; i < N; ++i) setCandidate(gk[i], address(uint160(0x1000 + i)), vendor(i));
        bytes32 next = open(gk, T);
        equal(next != id, true);
        equal(gatekeepers.ceremony().keys[0] != used[0], true);
    }

    function test_a_receiver_changes_nothing_while_the_ceremony_is_open() public {
        vm.startPrank(gk[0]);
        vm.expectRevert(abi.encodeWithSelector(Candidates.FrozenCandidate.selector, gk[0]));
        seats.setKey(bytes32(uint256(123)), bytes32(uint256(1)));
        vm.expectRevert(abi.encodeWithSelector(Candidates.FrozenCandidate.selector, gk[0]));
        seats.setCandidate(gk[0], vendor(0), bytes32(uint256(123)), bytes32(uint256(1)), "x");
        vm.stopPrank();
    }

    // --- G3, G4 ---

    function test_dealings_only_from_dealers_once_and_in_their_ceremony() public {
        vm.expectRevert(abi.encodeWithSelector(Office.NotAMember.selector, address(this)));
        gatekeepers.commitDealing(id, bytes32(uint256(1)));
        vm.startPrank(gk[0]);
        vm.expectRevert(abi.encodeWithSelector(Ceremonies.WrongCeremony.selector, GENESIS, id));
        gatekeepers.commitDealing(GENESIS, bytes32(uint256(1)));
        vm.expectRevert(Ceremonies.EmptyDigest.selector);
        gatekeepers.commitDealing(id, 0);
        gatekeepers.commitDealing(id, bytes32(uint256(1)));
        equal(gatekeepers.dealing(id, gk[0]), bytes32(uint256(1)));
        vm.expectRevert(abi.encodeWithSelector(Ceremonies.AlreadyCommitted.selector, gk[0]));
        gatekeepers.commitDealing(id, bytes32(uint256(2)));
        vm.stopPrank();
    }

    function test_commit_ends_early_when_all_have_committed() public {
        for (uint256 i = 0; i < N; ++i) {
            expectPhase(Phases.Phase.Commit);
            commitAs(id, gk[i]);
        }
        expectPhase(Phases.Phase.Show);
    }

    function test_the_block_of_the_deadline_still_counts_and_the_next_does_not() public {
        toDeadline(1);
        commitAs(id, gk[0]);
        vm.roll(block.number + 1);
        expectRefused(Phases.Phase.Failed);
        vm.prank(gk[1]);
        gatekeepers.commitDealing(id, bytes32(uint256(1)));
    }

    function test_t_committed_dealers_are_enough() public {
        for (uint256 i = 0; i < T; ++i) commitAs(id, gk[i]);
        toDeadline(1);
        expectPhase(Phases.Phase.Show);
        expectRefused(Phases.Phase.Commit);
        gatekeepers.close(id);
    }

    function test_too_few_dealers_fail_and_somebody_writes_it_down() public {
        commitAs(id, gk[0]);
        commitAs(id, gk[1]);
        toDeadline(1);
        expectPhase(Phases.Phase.Failed);
        vm.roll(block.number + 1);
        gatekeepers.close(id);
        equal(uint256(gatekeepers.ceremony().end), uint256(Ceremonies.End.Failed));
        equal(gatekeepers.term(), 0);
        vm.expectRevert(abi.encodeWithSelector(Ceremonies.WrongCeremony.selector, id, id));
        gatekeepers.close(id);
    }

    // --- G5, G6 ---

    function test_one_complaint_per_pair_and_the_greater_fault_counts() public {
        commitAll();
        complainAs(gk[1], 1, 1);
        vm.startPrank(gk[1]);
        vm.expectRevert(abi.encodeWithSelector(Ceremonies.NotAccused.selector, 1, 2));
        gatekeepers.complain(id, 1, 1);
        gatekeepers.complain(id, 1, 2);
        vm.expectRevert(abi.encodeWithSelector(Ceremonies.NotAccused.selector, 1, 2));
        gatekeepers.complain(id, 1, 1);
        vm.expectRevert(abi.encodeWithSelector(Ceremonies.BadFault.selector, 3));
        gatekeepers.complain(id, 1, 3);
        vm.expectRevert(abi.encodeWithSelector(Ceremonies.NotAccused.selector, 6, 0));
        gatekeepers.complain(id, 6, 1);
        vm.stopPrank();
        Ceremonies.Accusation memory a = gatekeepers.accusation(id, 1);
        equal(a.by, 2);
        equal(a.bad, 2);
    }

    function test_nobody_complains_of_a_dealer_that_did_not_commit() public {
        for (uint256 i = 0; i < 4; ++i) commitAs(id, gk[i]);
        toDeadline(1);
        vm.roll(block.number + 1);
        vm.prank(gk[0]);
        vm.expectRevert(abi.encodeWithSelector(Ceremonies.NotAccused.selector, 5, 1));
        gatekeepers.complain(id, 5, 1);
    }

    function test_who_is_content_complains_no_more() public {
        commitAll();
        contentAs(id, gk[0], 1);
        vm.startPrank(gk[0]);
        vm.expectRevert(abi.encodeWithSelector(Ceremonies.AlreadySaid.selector, gk[0]));
        gatekeepers.complain(id, 2, 2);
        vm.expectRevert(abi.encodeWithSelector(Ceremonies.AlreadySaid.selector, gk[0]));
        gatekeepers.content(id, 1);
        vm.expectRevert(abi.encodeWithSelector(Ceremonies.BadFault.selector, 3));
        gatekeepers.content(id, 3);
        vm.stopPrank();
    }

    function test_with_no_complaint_the_three_steps_of_answers_take_no_block() public {
        commitAll();
        contentAll();
        expectPhase(Phases.Phase.Confirm);
    }

    // --- G7, G8 ---

    function test_an_accused_dealer_publishes_what_it_committed_to() public {
        commitAll();
        complainAs(gk[1], 1, 2);
        contentAll();
        expectPhase(Phases.Phase.Publish);
        vm.startPrank(gk[1]);
        vm.expectRevert(abi.encodeWithSelector(Ceremonies.NotAccused.selector, 2, 0));
        gatekeepers.publish(id, "x");
        vm.stopPrank();
        vm.startPrank(gk[0]);
        bytes32 digest = sha256(frameOf(gk[0]));
        vm.expectRevert(abi.encodeWithSelector(Ceremonies.NotTheDealing.selector, digest, sha256("x")));
        gatekeepers.publish(id, "x");
        vm.stopPrank();
        publishAs(gk[0]);
        expectPhase(Phases.Phase.Answer);
    }

    function test_a_share_called_bad_is_opened_once_by_its_dealer() public {
        commitAll();
        complainAs(gk[1], 1, 2);
        contentAll();
        publishAs(gk[0]);
        vm.startPrank(gk[0]);
        vm.expectRevert(abi.encodeWithSelector(Ceremonies.NotAccused.selector, 1, 3));
        gatekeepers.openShare(id, 3, bytes32(uint256(9)));
        vm.expectRevert(abi.encodeWithSelector(Ceremonies.NotAccused.selector, 0, 0));
        gatekeepers.openShare(id, 0, bytes32(uint256(9)));
        gatekeepers.openShare(id, 2, bytes32(uint256(9)));
        vm.stopPrank();
        equal(gatekeepers.opening(id, 1, 2), bytes32(uint256(9)));
        expectPhase(Phases.Phase.Confirm);
    }

    function test_not_shown_is_answered_by_publishing_and_never_by_an_opened_share() public {
        commitAll();
        complainAs(gk[1], 1, 1);
        contentAll();
        publishAs(gk[0]);
        expectPhase(Phases.Phase.Object);
        contentAs(id, gk[1], 2);
        expectPhase(Phases.Phase.Confirm);
    }

    function test_who_saw_a_dealing_late_may_still_call_its_share_bad() public {
        commitAll();
        complainAs(gk[1], 1, 1);
        complainAs(gk[2], 1, 2);
        contentAll();
        publishAs(gk[0]);
        vm.prank(gk[3]);
        vm.expectRevert(abi.encodeWithSelector(Ceremonies.NotAccused.selector, 1, 4));
        gatekeepers.complain(id, 1, 2);
        vm.prank(gk[3]);
        vm.expectRevert(abi.encodeWithSelector(Ceremonies.NotAccused.selector, 0, 4));
        gatekeepers.content(id, 2);
        complainAs(gk[1], 1, 2);
        expectPhase(Phases.Phase.Answer);
        vm.prank(gk[0]);
        gatekeepers.openShare(id, 2, bytes32(uint256(9)));
        expectPhase(Phases.Phase.Answer);
        vm.prank(gk[0]);
        gatekeepers.openShare(id, 3, bytes32(uint256(9)));
        expectPhase(Phases.Phase.Confirm);
    }

    function test_a_dealer_that_is_silent_is_waited_for_until_the_deadlines() public {
        commitAll();
        complainAs(gk[1], 1, 1);
        contentAll();
        toDeadline(3);
        expectPhase(Phases.Phase.Confirm);
    }

    // --- G11, G12 ---

    function test_values_are_counted_apart_and_a_liar_stops_nobody() public {
        commitAll();
        contentAll();
        confirmAs(id, gk[0], mpk(), GENESIS, ALL);
        confirmAll(1, N, ALL);
        equal(gatekeepers.term(), 0);
        toDeadline(6);
        expectPhase(Phases.Phase.Done);
        vm.roll(block.number + 1);
        gatekeepers.close(id);
        equal(gatekeepers.term(), 1);
        equal(gatekeepers.committee().transcript, TRANSCRIPT);
        equal(gatekeepers.hasConfirmed(id, gk[0]), true);
        equal(gatekeepers.confirmation(id, gk[0]).transcript, GENESIS);
    }

    function test_in_office_at_the_deadline_with_t_and_not_with_fewer() public {
        commitAll();
        contentAll();
        confirmAll(0, T - 1, ALL);
        uint256 before = block.number;
        toDeadline(6);
        expectPhase(Phases.Phase.Failed);
        vm.roll(before);
        confirmAll(T - 1, T, ALL);
        expectPhase(Phases.Phase.Confirm);
        toDeadline(6);
        expectPhase(Phases.Phase.Done);
    }

    function test_two_values_with_t_each_fail() public {
        seats.cancel(id);
        for (uint256 i = 0; i < N; ++i) setCandidate(gk[i], address(uint160(0x1000 + i)), bytes32(i + 1));
        id = open(gk, 2);
        commitAll();
        contentAll();
        confirmAll(0, 2, ALL);
        confirmAs(id, gk[2], mpk(), GENESIS, ALL);
        confirmAs(id, gk[3], mpk(), GENESIS, ALL);
        toDeadline(6);
        expectPhase(Phases.Phase.Failed);
    }

    function test_a_member_confirms_once_and_a_key_has_96_bytes() public {
        commitAll();
        contentAll();
        vm.startPrank(gk[0]);
        vm.expectRevert(abi.encodeWithSelector(Ceremonies.BadKeyLength.selector, 95));
        gatekeepers.confirm(id, new bytes(95), TRANSCRIPT, ALL);
        vm.expectRevert(Ceremonies.EmptyDigest.selector);
        gatekeepers.confirm(id, mpk(), 0, ALL);
        vm.expectRevert(abi.encodeWithSelector(Ceremonies.BadQualified.selector, 63));
        gatekeepers.confirm(id, mpk(), TRANSCRIPT, 63);
        vm.expectRevert(abi.encodeWithSelector(Ceremonies.BadQualified.selector, 3));
        gatekeepers.confirm(id, mpk(), TRANSCRIPT, 3);
        gatekeepers.confirm(id, mpk(), TRANSCRIPT, ALL);
        vm.expectRevert(abi.encodeWithSelector(Ceremonies.AlreadySaid.selector, gk[0]));
        gatekeepers.confirm(id, mpk(), TRANSCRIPT, ALL);
        vm.stopPrank();
    }

    function test_every_confirmation_brings_the_gas_of_the_last() public {
        commitAll();
        contentAll();
        vm.prank(gk[0]);
        (bool ok,) = address(gatekeepers).call{gas: 900_000}(
            abi.encodeCall(Gatekeepers.confirm, (id, mpk(), TRANSCRIPT, ALL))
        );
        equal(ok, false);
    }

    // --- cancel ---

    function test_only_dao_and_founder_cancel_and_only_before_the_end() public {
        vm.prank(gk[0]);
        vm.expectRevert(abi.encodeWithSelector(Candidates.NotYours.selector, gk[0]));
        seats.cancel(id);
        commitAll();
        contentAll();
        confirmAll(0, T, ALL);
        toDeadline(6);
        vm.roll(block.number + 1);
        expectRefused(Phases.Phase.Done);
        seats.cancel(id);
        gatekeepers.close(id);
        vm.expectRevert(abi.encodeWithSelector(Ceremonies.WrongCeremony.selector, id, id));
        seats.cancel(id);
    }

    function test_a_cancelled_ceremony_takes_nothing_more() public {
        commitAll();
        seats.cancel(id);
        expectPhase(Phases.Phase.Failed);
        vm.prank(gk[0]);
        vm.expectRevert(abi.encodeWithSelector(Ceremonies.WrongCeremony.selector, id, id));
        gatekeepers.content(id, 1);
    }

    // --- whatever happens ---

    /// forge-config: default.fuzz.runs = 64
    /// @notice Any order of any calls: nobody is in office without t equal confirmations, and phases only lead on.
    function test_fuzz_office_needs_t_equal_confirmations(uint256 seed) public {
        Phases.Phase last = Phases.Phase.Commit;
        uint256 count = 60;
        for (uint256 i = 0; i < count; ++i) {
            uint256 roll = uint256(keccak256(abi.encode(seed, i)));
            if (roll % 11 == 0) vm.roll(block.number + 1 + roll % 7);
            act(gk[(roll >> 8) % N], roll);
            Phases.Phase found = gatekeepers.phaseAt(id, block.number - 1); // as this block's transactions meet it
            equal(uint256(found) >= uint256(last), true);
            last = found;
        }
        uint256 equalOnes;
        for (uint256 i = 0; i < N; ++i) {
            if (gatekeepers.confirmation(id, gk[i]).transcript == TRANSCRIPT) ++equalOnes;
        }
        if (gatekeepers.term() == 1) equal(equalOnes >= T, true);
    }

    function act(address who, uint256 roll) internal {
        uint256 what = (roll >> 16) % 8;
        bytes32 digest = sha256(frameOf(who));
        bytes memory data;
        if (what < 2) data = abi.encodeCall(Gatekeepers.commitDealing, (id, digest));
        else if (what < 4) data = abi.encodeCall(Gatekeepers.content, (id, uint8(1 + (roll >> 32) % 2)));
        else if (what == 4) data = abi.encodeCall(Gatekeepers.complain, (id, (roll >> 32) % 6, uint8((roll >> 40) % 4)));
        else if (what == 5) data = abi.encodeCall(Gatekeepers.publish, (id, frameOf(who)));
        else if (what == 6) data = abi.encodeCall(Gatekeepers.openShare, (id, (roll >> 32) % 7, digest));
        else data = abi.encodeCall(Gatekeepers.confirm, (id, mpk(), TRANSCRIPT, gatekeepers.ceremony().committed));
        vm.prank(who);
        (bool ok,) = address(gatekeepers).call(data);
        ok;
    }
}
