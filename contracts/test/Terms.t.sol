// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {Candidates} from "../src/Candidates.sol";
import {Ceremonies} from "../src/Ceremonies.sol";
import {CommitteeStatements} from "../src/CommitteeStatements.sol";
import {Election} from "../src/Election.sol";
import {Gatekeepers} from "../src/Gatekeepers.sol";
import {IReseals} from "../src/interfaces/IReseals.sol";
import {Office} from "../src/Office.sol";
import {Seats} from "../src/Seats.sol";
import {Founded} from "./Founded.sol";

/// @notice A counter of agents that did not re-seal, set by the test.
contract Counter is IReseals {
    uint256 public left;

    function set(uint256 value) external {
        left = value;
    }

    function remaining(uint64) external view returns (uint256) {
        return left;
    }
}

/// @notice Terms, hand-overs, removal, stake and master epochs (spec/gatekeepers.md E1-E7, H1, M1-M4).
contract TermsTest is Founded {
    using CommitteeStatements for *;

    uint128 internal constant STAKE = 100;
    bytes32 internal constant STATEMENT = keccak256("statement");
    Counter internal counter = new Counter();

    function setUp() public {
        Candidates.Rules memory rules = quick();
        (rules.minStake, rules.absenceSlash) = (STAKE, 10);
        fresh(rules);
        pha.approve(address(gatekeepers), type(uint256).max);
        address[] memory gk = candidates();
        for (uint256 i = 0; i < N; ++i) seats.stake(gk[i], STAKE);
        run(open(gk, T));
    }

    /// @dev Past every schedule, with fresh keys.
    function later() internal {
        newKeys();
        vm.roll(block.number + 6000);
    }

    function newcomer(uint256 key, uint256 amount) internal returns (address who) {
        who = vm.addr(key);
        setCandidate(who, address(uint160(key)), bytes32(key));
        seats.stake(who, uint128(amount));
    }

    function reshare() internal returns (bytes32) {
        later();
        seats.refresh();
        bytes32 id = gatekeepers.ceremony().id;
        run(id, mpk(), keccak256(abi.encode("transcript", id)));
        return id;
    }

    function otherKey() internal pure returns (bytes memory) {
        return abi.encodePacked(keccak256("x"), keccak256("y"), keccak256("z"));
    }

    function rotation() internal returns (bytes32 id) {
        later();
        seats.rotate();
        id = gatekeepers.ceremony().id;
        run(id, otherKey(), keccak256("rotated"));
    }

    // --- terms ---

    function test_the_old_committee_stays_until_the_new_one_confirmed() public {
        later();
        seats.refresh();
        equal(gatekeepers.term(), 1);
        Ceremonies.Ceremony memory c = gatekeepers.ceremony();
        equal(uint256(c.kind), uint256(Ceremonies.Kind.Reshare));
        equal(c.term, 2);
        equal(c.dealerTerm, 1);
        equal(c.oldTranscript, TRANSCRIPT);
        equal(c.base, gatekeepers.networkId());
        run(c.id, mpk(), keccak256("next"));
        equal(gatekeepers.term(), 2);
        equal(gatekeepers.termOf(2).height, block.number);
        equal(gatekeepers.committee().transcript, keccak256("next"));
    }

    function test_a_reshare_ends_in_the_same_key_or_not_at_all() public {
        later();
        seats.refresh();
        bytes32 id = gatekeepers.ceremony().id;
        address[] memory gk = gatekeepers.members();
        for (uint256 i = 0; i < N; ++i) commitAs(id, gk[i]);
        for (uint256 i = 0; i < N; ++i) contentAs(id, gk[i], 1);
        vm.prank(gk[0]);
        vm.expectRevert(Ceremonies.BadKey.selector);
        gatekeepers.confirm(id, otherKey(), TRANSCRIPT, 31);
    }

    function test_the_network_id_never_changes() public {
        bytes32 before = gatekeepers.networkId();
        reshare();
        rotation();
        equal(gatekeepers.networkId(), before);
    }

    function test_nothing_opens_before_its_time_nor_within_a_window_of_the_last() public {
        newKeys();
        uint256 from = gatekeepers.termOf(1).height;
        vm.expectRevert(abi.encodeWithSelector(Seats.TooEarly.selector, from + 200));
        seats.refresh();
        vm.expectRevert(abi.encodeWithSelector(Seats.TooEarly.selector, from + 1000));
        seats.nominate();
        seats.revoke(gatekeepers.members()[0]);
        vm.expectRevert(abi.encodeWithSelector(Seats.TooEarly.selector, from + 10));
        seats.nominate();
    }

    function test_a_ceremony_opens_only_when_enough_have_keys() public {
        vm.roll(block.number + 6000);
        vm.expectRevert(abi.encodeWithSelector(Seats.TooFewKeys.selector, 0, 3));
        seats.refresh();
    }

    function test_who_has_no_fresh_key_gets_one_that_nobody_holds() public {
        address[] memory gk = gatekeepers.members();
        for (uint256 i = 1; i < N; ++i) {
            bytes32 key = newKey();
            vm.prank(gk[i]);
            seats.setKey(key, bytes32(uint256(9)));
        }
        vm.roll(block.number + 6000);
        seats.refresh();
        Ceremonies.Ceremony memory c = gatekeepers.ceremony();
        equal(c.keys[0], keccak256(abi.encode(c.id, gk[0])));
        equal(c.keys[1], seats.candidate(gk[1]).dkgKey);
    }

    function test_statements_of_the_term_before_count_for_a_while_and_no_longer() public {
        bytes[] memory sigs = signAll(STATEMENT, T);
        reshare();
        gatekeepers.requireStatement(1, STATEMENT, sigs);
        gatekeepers.requireStatement(2, STATEMENT, sigs);
        vm.roll(block.number + 65);
        vm.expectRevert(abi.encodeWithSelector(Office.WrongTerm.selector, 1, 2));
        gatekeepers.requireStatement(1, STATEMENT, sigs);
        reshare();
        vm.expectRevert(abi.encodeWithSelector(Office.WrongTerm.selector, 1, 3));
        gatekeepers.requireStatement(1, STATEMENT, sigs);
    }

    // --- H1 ---

    function test_t_members_of_the_old_term_hand_over_once() public {
        vm.expectRevert(abi.encodeWithSelector(Office.WrongTerm.selector, 1, 1));
        gatekeepers.handover(1);
        reshare();
        CommitteeStatements.Handover memory h = gatekeepers.handover(1);
        equal(h.members, keccak256(abi.encode(gatekeepers.members())));
        equal(h.mpk, keccak256(mpk()));
        equal(h.height, block.number);
        bytes[] memory sigs = signAll(h.hash(), T + 1);
        vm.expectRevert(abi.encodeWithSelector(Office.TooFewSigners.selector, T + 1, T));
        gatekeepers.handOver(1, sigs);
        sigs = signAll(h.hash(), T);
        gatekeepers.handOver(1, sigs);
        equal(gatekeepers.handoverSignatures(1), abi.encodePacked(sigs[0], sigs[1], sigs[2]));
        vm.expectRevert(abi.encodeWithSelector(Office.AlreadyHandedOver.selector, 1));
        gatekeepers.handOver(1, sigs);
    }

    function test_a_hand_over_of_something_else_does_not_count() public {
        reshare();
        CommitteeStatements.Handover memory h = gatekeepers.handover(1);
        h.timestamp += 1;
        bytes[] memory sigs = signAll(h.hash(), T);
        (bool ok,) = address(gatekeepers).call(abi.encodeCall(Gatekeepers.handOver, (1, sigs)));
        equal(ok, false);
        equal(gatekeepers.handoverSignatures(1), "");
    }

    // --- E6, E7 ---

    function test_a_revoked_seat_counts_in_nothing_from_that_block() public {
        gatekeepers.requireStatement(1, STATEMENT, signAll(STATEMENT, T));
        seats.revoke(gatekeepers.members()[0]);
        bytes[] memory sigs = signAll(STATEMENT, T);
        vm.expectRevert(abi.encodeWithSelector(Office.TooFewSigners.selector, T - 1, T));
        gatekeepers.requireStatement(1, STATEMENT, sigs);
        gatekeepers.requireStatement(1, STATEMENT, signAll(STATEMENT, T + 1));
    }

    function test_t_members_remove_one_for_cause_and_nobody_else_does() public {
        address bad = gatekeepers.members()[4];
        CommitteeStatements.SeatRevocation memory s = CommitteeStatements.SeatRevocation(1, bad);
        bytes[] memory sigs = signAll(s.hash(), T - 1);
        vm.expectRevert(abi.encodeWithSelector(Office.TooFewSigners.selector, T - 1, T));
        seats.revokeByCommittee(s, sigs);
        vm.prank(bad);
        vm.expectRevert(abi.encodeWithSignature("OwnableUnauthorizedAccount(address)", bad));
        seats.revoke(bad);
        seats.revokeByCommittee(s, signAll(s.hash(), T));
        equal(gatekeepers.termOf(1).revoked, 16);
        vm.expectRevert(abi.encodeWithSelector(Candidates.RevokedSeat.selector, bad));
        seats.revoke(bad);
        vm.prank(bad);
        vm.expectRevert(abi.encodeWithSelector(Candidates.RevokedSeat.selector, bad));
        seats.setKey(bytes32(uint256(1)), bytes32(uint256(1)));
    }

    function test_with_a_revoked_seat_only_the_reshare_that_removes_it_opens() public {
        later();
        address bad = gatekeepers.members()[0];
        seats.revoke(bad);
        vm.expectRevert(Seats.RevokedSeatsFirst.selector);
        seats.refresh();
        vm.expectRevert(Seats.RevokedSeatsFirst.selector);
        seats.rotate();
        vm.expectRevert(Election.NothingToElect.selector);
        seats.nominate();
        newcomer(77, STAKE);
        vm.expectRevert(Election.NothingToElect.selector);
        seats.nominate(); // nobody admitted it yet (E9)
        admit(vm.addr(77));
        seats.nominate();
        bytes32 id = gatekeepers.ceremony().id;
        for (uint256 i = 0; i < N; ++i) commitAs(id, i == 0 ? bad : gatekeepers.members()[i]);
        vm.prank(bad);
        vm.expectRevert(abi.encodeWithSelector(Office.NotAMember.selector, bad));
        gatekeepers.content(id, 1);
        equal(gatekeepers.ceremony().receivers[0], vm.addr(77));
    }

    function test_a_member_revoked_during_its_ceremony_says_nothing_more_and_its_new_seat_is_void() public {
        later();
        seats.refresh();
        bytes32 id = gatekeepers.ceremony().id;
        address[] memory gk = gatekeepers.members();
        for (uint256 i = 0; i < N; ++i) commitAs(id, gk[i]);
        seats.revoke(gk[0]);
        vm.prank(gk[0]);
        vm.expectRevert(abi.encodeWithSelector(Candidates.RevokedSeat.selector, gk[0]));
        gatekeepers.content(id, 1);
        vm.roll(uint256(gatekeepers.ceremony().openedAt) + 21);
        for (uint256 i = 1; i < N; ++i) confirmAs(id, gk[i], mpk(), GENESIS, 31);
        vm.roll(uint256(gatekeepers.ceremony().openedAt) + 61);
        gatekeepers.close(id);
        equal(gatekeepers.term(), 2);
        equal(gatekeepers.termOf(2).revoked, 1);
        equal(gatekeepers.termOf(1).revoked, 1);
    }

    // --- E9 ---

    function test_an_admission_ends_and_counts_for_what_the_candidate_said_then_alone() public {
        address who = newcomer(77, STAKE);
        later();
        CommitteeStatements.CandidateAdmission memory s = admissionOf(who, uint64(block.number) + 100);
        bytes[] memory sigs = signAll(s.hash(), T);
        seats.admit(s, sigs);
        equal(seats.admittedUntil(who), block.number + 100);
        vm.expectRevert(abi.encodeWithSelector(Seats.BadExpiry.selector, s.expiry));
        seats.admit(s, sigs); // an older word changes nothing
        Candidates.Candidate memory c = seats.candidate(who);
        vm.prank(who);
        seats.setCandidate(c.operator, bytes32(uint256(78)), c.dkgKey, c.evidenceHash, c.endpoint);
        equal(seats.admittedUntil(who), 0);
        vm.expectRevert(abi.encodeWithSelector(Seats.NotAsDescribed.selector, who));
        seats.admit(s, sigs);
        admit(who);
        bytes32 key = newKey();
        vm.prank(who);
        seats.setKey(key, key);
        equal(seats.admittedUntil(who), 0);
        seats.revoke(gatekeepers.members()[0]);
        admit(who);
        vm.roll(block.number + 4096);
        vm.expectRevert(Election.NothingToElect.selector);
        seats.nominate(); // it ended
    }

    function test_an_admission_needs_t_members_of_the_term_and_is_short() public {
        address who = newcomer(77, STAKE);
        CommitteeStatements.CandidateAdmission memory s = admissionOf(who, uint64(block.number) + 4097);
        bytes[] memory sigs = signAll(s.hash(), T);
        vm.expectRevert(abi.encodeWithSelector(Seats.BadExpiry.selector, s.expiry));
        seats.admit(s, sigs);
        s.expiry -= 1;
        sigs = signAll(s.hash(), T - 1);
        vm.expectRevert(abi.encodeWithSelector(Office.TooFewSigners.selector, T - 1, T));
        seats.admit(s, sigs);
        s.term = 2;
        sigs = signAll(s.hash(), T);
        vm.expectRevert(abi.encodeWithSelector(Office.WrongTerm.selector, 2, 1));
        seats.admit(s, sigs);
    }

    function test_an_admission_names_all_that_stands_on_chain() public {
        address who = newcomer(77, STAKE);
        for (uint256 i = 0; i < 5; ++i) {
            CommitteeStatements.CandidateAdmission memory s = admissionOf(who, uint64(block.number) + 100);
            if (i == 0) s.member = vm.addr(78);
            if (i == 1) s.operator = address(1);
            if (i == 2) s.vendorClass = bytes32(uint256(1));
            if (i == 3) s.dkgKey = bytes32(uint256(1));
            if (i == 4) s.endpoint = bytes32(uint256(1));
            bytes[] memory sigs = signAll(s.hash(), T);
            vm.expectRevert(abi.encodeWithSelector(Seats.NotAsDescribed.selector, s.member));
            seats.admit(s, sigs);
        }
    }

    function test_a_key_that_a_ceremony_used_up_is_not_admitted_again() public {
        address who = newcomer(77, STAKE);
        later();
        seats.revoke(gatekeepers.members()[0]);
        admit(who);
        seats.nominate();
        vm.roll(block.number + 60);
        gatekeepers.close(gatekeepers.ceremony().id);
        CommitteeStatements.CandidateAdmission memory s = admissionOf(who, uint64(block.number) + 4096);
        bytes[] memory sigs = signAll(s.hash(), N);
        vm.expectRevert(abi.encodeWithSelector(Seats.NotAsDescribed.selector, who));
        seats.admit(s, sigs);
    }

    function test_stake_is_locked_while_a_seat_is_held_and_free_after_unbonding() public {
        address who = gatekeepers.members()[1];
        address operator = seats.candidate(who).operator;
        vm.prank(who);
        seats.resign(who);
        vm.roll(block.number + 100);
        vm.expectRevert(abi.encodeWithSelector(Candidates.StillLocked.selector, who));
        seats.withdraw(who);
        newcomer(77, STAKE);
        later();
        admit(vm.addr(77));
        seats.nominate();
        vm.expectRevert(abi.encodeWithSelector(Candidates.StillLocked.selector, who));
        seats.withdraw(who);
        run(gatekeepers.ceremony().id, mpk(), GENESIS);
        equal(gatekeepers.members()[1], vm.addr(77));
        vm.expectRevert(abi.encodeWithSelector(Candidates.StillLocked.selector, who));
        seats.withdraw(who);
        vm.roll(block.number + 50);
        seats.withdraw(who);
        equal(pha.balanceOf(operator), STAKE);
        vm.expectRevert(abi.encodeWithSelector(Candidates.NothingStaked.selector, who));
        seats.withdraw(who);
    }

    function test_a_nominee_s_stake_is_locked_until_its_ceremony_ends() public {
        later();
        seats.revoke(gatekeepers.members()[0]);
        address who = newcomer(77, STAKE);
        admit(who);
        seats.nominate();
        vm.prank(who);
        seats.resign(who);
        vm.roll(block.number + 60);
        vm.expectRevert(abi.encodeWithSelector(Candidates.StillLocked.selector, who));
        seats.withdraw(who);
        gatekeepers.close(gatekeepers.ceremony().id);
        seats.withdraw(who);
        equal(pha.balanceOf(address(uint160(77))), STAKE);
    }

    function test_only_member_or_operator_resigns_and_the_operator_of_a_stake_stays() public {
        address who = newcomer(77, STAKE);
        vm.expectRevert(abi.encodeWithSelector(Candidates.NotYours.selector, address(this)));
        seats.resign(who);
        bytes32 key = newKey();
        vm.prank(who);
        vm.expectRevert(Candidates.BadCandidate.selector);
        seats.setCandidate(address(this), vendor(0), key, key, "x");
        vm.prank(address(uint160(77)));
        seats.resign(who);
        equal(seats.candidate(who).leaving, true);
    }

    // --- G14 ---

    function test_absentees_are_slashed_and_what_is_taken_burns() public {
        later();
        seats.refresh();
        bytes32 id = gatekeepers.ceremony().id;
        address[] memory gk = gatekeepers.members();
        uint256 supply = pha.totalSupply();
        for (uint256 i = 0; i < N - 1; ++i) commitAs(id, gk[i]);
        vm.roll(uint256(gatekeepers.ceremony().openedAt) + 21);
        for (uint256 i = 0; i < N - 2; ++i) confirmAs(id, gk[i], mpk(), GENESIS, 7);
        vm.roll(uint256(gatekeepers.ceremony().openedAt) + 61);
        gatekeepers.close(id);
        equal(seats.candidate(gk[0]).stake, STAKE);
        equal(seats.candidate(gk[3]).stake, STAKE - 20); // a dealer outside Q, and did not confirm
        equal(seats.candidate(gk[4]).stake, STAKE - 20); // neither
        equal(supply - pha.totalSupply(), 40);
    }

    function test_of_a_failed_ceremony_only_dealers_that_did_not_commit_pay() public {
        later();
        seats.refresh();
        bytes32 id = gatekeepers.ceremony().id;
        address[] memory gk = gatekeepers.members();
        commitAs(id, gk[0]);
        vm.roll(uint256(gatekeepers.ceremony().openedAt) + 11);
        gatekeepers.close(id);
        equal(seats.candidate(gk[0]).stake, STAKE);
        for (uint256 i = 1; i < N; ++i) equal(seats.candidate(gk[i]).stake, STAKE - 10);
        equal(gatekeepers.term(), 1);
    }

    function test_who_was_slashed_below_the_minimum_makes_room() public {
        test_of_a_failed_ceremony_only_dealers_that_did_not_commit_pay();
        newcomer(77, STAKE);
        newcomer(78, STAKE + 1);
        newcomer(79, STAKE + 2); // nobody admits it (E9)
        later();
        admit(vm.addr(77));
        admit(vm.addr(78));
        seats.nominate();
        address[] memory next = gatekeepers.ceremony().receivers;
        equal(next[1], vm.addr(78));
        equal(next[2], vm.addr(77));
        equal(next[3], gatekeepers.members()[3]);
    }

    function test_the_list_is_bounded_and_more_stake_pushes_out_the_least() public {
        uint256 room = seats.MAX_CANDIDATES() - N;
        for (uint256 i = 0; i < room; ++i) newcomer(1000 + i, STAKE + i);
        address late = vm.addr(5000);
        setCandidate(late, address(uint160(5000)), vendor(0));
        vm.expectRevert(Candidates.ListFull.selector);
        seats.stake(late, STAKE);
        seats.stake(late, STAKE + 5);
        equal(seats.candidates().length, seats.MAX_CANDIDATES());
        address[] memory list = seats.candidates();
        for (uint256 i = 0; i < list.length; ++i) equal(list[i] != vm.addr(1000), true);
    }

    // --- M1-M4 ---

    function test_a_rotation_pauses_both_epochs_until_t_members_resume() public {
        bytes32 id = rotation();
        equal(gatekeepers.masterEpoch(), 2);
        equal(gatekeepers.term(), 1);
        equal(gatekeepers.masterPublicKey(), otherKey());
        equal(abi.encodePacked(seats.epochOf(1).mpk), mpk());
        equal(uint256(seats.epochOf(1).state), uint256(Ceremonies.EpochState.Paused));
        equal(uint256(seats.epochOf(2).state), uint256(Ceremonies.EpochState.Paused));
        CommitteeStatements.MasterResume memory s = CommitteeStatements.MasterResume(1, GENESIS, 2);
        bytes[] memory sigs = signAll(s.hash(), T);
        vm.expectRevert(abi.encodeWithSelector(Ceremonies.WrongCeremony.selector, GENESIS, id));
        seats.resume(s, sigs);
        s.ceremony = id;
        seats.resume(s, signAll(s.hash(), T));
        equal(uint256(seats.epochOf(2).state), uint256(Ceremonies.EpochState.Resumed));
        sigs = signAll(s.hash(), T);
        vm.expectRevert(abi.encodeWithSelector(Seats.WrongEpoch.selector, 2, 2));
        seats.resume(s, sigs);
    }

    function test_rotation_on_schedule_by_the_dao_or_by_t_members() public {
        newKeys();
        vm.roll(block.number + 100);
        uint256 due = seats.epochOf(1).confirmedAt + 5000;
        vm.prank(named("anybody"));
        vm.expectRevert(abi.encodeWithSelector(Seats.TooEarly.selector, due));
        seats.rotate();
        CommitteeStatements.MasterRotation memory s = CommitteeStatements.MasterRotation(1, 2);
        bytes[] memory sigs = signAll(s.hash(), T);
        vm.expectRevert(abi.encodeWithSelector(Seats.WrongEpoch.selector, 2, 1));
        seats.rotateByCommittee(s, sigs);
        s.masterEpoch = 1;
        seats.rotateByCommittee(s, signAll(s.hash(), T));
        equal(uint256(gatekeepers.ceremony().kind), uint256(Ceremonies.Kind.Rotate));
        equal(gatekeepers.ceremony().masterEpoch, 2);
    }

    function test_an_epoch_is_destroyed_when_every_agent_re_sealed_and_t_members_say_so() public {
        seats.setReseals(counter);
        CommitteeStatements.EpochDestruction memory s = CommitteeStatements.EpochDestruction(1, 1);
        bytes[] memory sigs = signAll(s.hash(), T);
        vm.expectRevert(abi.encodeWithSelector(Seats.WrongEpoch.selector, 1, 1));
        seats.destroyEpoch(s, sigs);
        CommitteeStatements.MasterResume memory r = CommitteeStatements.MasterResume(1, rotation(), 2);
        vm.expectRevert(abi.encodeWithSelector(Seats.WrongEpoch.selector, 1, 2));
        seats.destroyEpoch(s, sigs);
        seats.resume(r, signAll(r.hash(), T));
        counter.set(3);
        vm.expectRevert(abi.encodeWithSelector(Seats.NotResealed.selector, 3));
        seats.destroyEpoch(s, sigs);
        counter.set(0);
        seats.destroyEpoch(s, sigs);
        equal(uint256(seats.epochOf(1).state), uint256(Ceremonies.EpochState.Destroyed));
        equal(seats.epochOf(1).destroyedAt, block.number);
        equal(seats.oldestEpoch(), 2);
    }

    function test_while_two_epochs_live_no_third_is_made_and_a_new_term_carries_both() public {
        rotation();
        later();
        vm.expectRevert(abi.encodeWithSelector(Seats.WrongEpoch.selector, 1, 2));
        seats.rotate();
        seats.refresh();
        run(gatekeepers.ceremony().id, otherKey(), GENESIS);
        equal(gatekeepers.term(), 2);
        equal(seats.epochOf(1).term, 1);
        later();
        vm.expectRevert(abi.encodeWithSelector(Seats.WrongEpoch.selector, 1, 2));
        seats.refresh();
        seats.carry(1);
        bytes32 id = gatekeepers.ceremony().id;
        equal(gatekeepers.ceremony().dealerTerm, 1);
        run(id, mpk(), keccak256("carried"));
        equal(gatekeepers.term(), 2);
        equal(gatekeepers.masterPublicKey(), otherKey());
        equal(seats.epochOf(1).term, 2);
        equal(seats.epochOf(1).transcript, keccak256("carried"));
        later();
        vm.expectRevert(abi.encodeWithSelector(Seats.WrongEpoch.selector, 1, 2));
        seats.carry(1);
        seats.refresh();
    }

    function test_the_founder_names_the_counter_once() public {
        vm.prank(named("anybody"));
        vm.expectRevert(abi.encodeWithSelector(Seats.NotFounder.selector, named("anybody")));
        seats.setReseals(counter);
        seats.setReseals(counter);
        vm.expectRevert(abi.encodeWithSelector(Seats.NotFounder.selector, address(this)));
        seats.setReseals(counter);
    }

    // --- rules ---

    function test_rules_have_bounds_and_wait_for_the_ceremony() public {
        Candidates.Rules memory r = seats.rules();
        r.eraseDelay = 7;
        vm.expectRevert(Candidates.BadRules.selector);
        seats.setRules(r);
        r.eraseDelay = 8;
        r.absenceSlash = STAKE + 1;
        vm.expectRevert(Candidates.BadRules.selector);
        seats.setRules(r);
        r.absenceSlash = 0;
        later();
        seats.refresh();
        bytes32 id = gatekeepers.ceremony().id;
        vm.expectRevert(abi.encodeWithSelector(Ceremonies.CeremonyOpen.selector, id));
        seats.setRules(r);
        seats.cancel(id);
        seats.setRules(r);
        equal(seats.rules().eraseDelay, 8);
        vm.prank(named("anybody"));
        vm.expectRevert(abi.encodeWithSignature("OwnableUnauthorizedAccount(address)", named("anybody")));
        seats.setRules(r);
    }

    function test_both_halves_answer_at_one_address_and_nothing_else_does() public {
        equal(address(seats), address(gatekeepers));
        (bool ok,) = address(gatekeepers).call(abi.encodeWithSignature("nothing()"));
        equal(ok, false);
        (ok,) = address(gatekeepers).call{value: 0}("");
        equal(ok, false);
    }
}
