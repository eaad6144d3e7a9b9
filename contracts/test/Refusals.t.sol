// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {Candidates} from "../src/Candidates.sol";
import {Ceremonies} from "../src/Ceremonies.sol";
import {CommitteeStatements} from "../src/CommitteeStatements.sol";
import {Office} from "../src/Office.sol";
import {Phases} from "../src/Phases.sol";
import {Seats} from "../src/Seats.sol";
import {Founded} from "./Founded.sol";

/// @notice A receiver that showed no good evidence ends a ceremony, and pays for it alone (spec/gatekeepers.md G15).
contract RefusalsTest is Founded {
    using CommitteeStatements for *;

    uint128 internal constant STAKE = 100;
    uint128 internal constant SLASH = 10;
    address internal constant NEWCOMER_OPERATOR = address(0x77);
    address internal nominee = vm.addr(77);
    bytes32 internal id;

    /// @dev An election is open, with one nominee in the place of the first seat.
    function setUp() public {
        Candidates.Rules memory rules = quick();
        (rules.minStake, rules.absenceSlash) = (STAKE, SLASH);
        fresh(rules);
        pha.approve(address(gatekeepers), type(uint256).max);
        address[] memory gk = candidates();
        for (uint256 i = 0; i < N; ++i) seats.stake(gk[i], STAKE);
        run(open(gk, T));
        setCandidate(nominee, NEWCOMER_OPERATOR, bytes32(uint256(77)));
        seats.stake(nominee, 3 * STAKE);
        newKeys();
        vm.roll(block.number + 6000);
        seats.revoke(gk[0]);
        admit(nominee);
        seats.nominate();
        id = gatekeepers.ceremony().id;
        equal(gatekeepers.ceremony().receivers[0], nominee);
    }

    function refusal(address member) internal view returns (CommitteeStatements.ReceiverRefusal memory) {
        return CommitteeStatements.ReceiverRefusal(1, id, member);
    }

    /// @dev Signatures of seats 2 to 1 + count: the first is revoked.
    function signed(CommitteeStatements.ReceiverRefusal memory s, uint256 count)
        internal
        view
        returns (bytes[] memory sigs)
    {
        sigs = new bytes[](count);
        for (uint256 i = 0; i < count; ++i) sigs[i] = signOne(memberKeys[i + 1], s.hash());
    }

    function refuse(address member) internal {
        CommitteeStatements.ReceiverRefusal memory s = refusal(member);
        gatekeepers.refuseReceiver(s, signed(s, T));
    }

    function taken(CommitteeStatements.ReceiverRefusal memory s, bytes[] memory sigs) internal returns (bool) {
        try gatekeepers.refuseReceiver(s, sigs) {
            return true;
        } catch {
            return false;
        }
    }

    function stakes() internal view returns (uint256 total) {
        address[] memory gk = gatekeepers.members();
        for (uint256 i = 0; i < N; ++i) total += seats.candidate(gk[i]).stake;
    }

    function test_t_members_end_it_and_only_the_one_that_showed_nothing_pays() public {
        uint256 supply = pha.totalSupply();
        uint256 before = stakes();
        refuse(nominee);
        equal(uint256(gatekeepers.ceremony().end), uint256(Ceremonies.End.Cancelled));
        equal(gatekeepers.ceremony().endedAt, block.number);
        equal(stakes(), before);
        equal(seats.candidate(nominee).stake, 3 * STAKE - SLASH);
        equal(pha.totalSupply(), supply - SLASH);
        equal(gatekeepers.term(), 1);
    }

    function test_it_is_nominated_again_only_when_t_members_verified_it_anew() public {
        refuse(nominee);
        equal(seats.admittedUntil(nominee), 0);
        vm.roll(block.number + 10);
        CommitteeStatements.CandidateAdmission memory s = admissionOf(nominee, uint64(block.number) + 4096);
        bytes[] memory sigs = new bytes[](T);
        for (uint256 i = 0; i < T; ++i) sigs[i] = signOne(memberKeys[i + 1], s.hash());
        vm.expectRevert(abi.encodeWithSelector(Seats.NotAsDescribed.selector, nominee));
        seats.admit(s, sigs); // its key is spent
        bytes32 key = newKey();
        vm.prank(nominee);
        seats.setKey(key, key);
        newKeys_();
        s = admissionOf(nominee, uint64(block.number) + 4096);
        for (uint256 i = 0; i < T; ++i) sigs[i] = signOne(memberKeys[i + 1], s.hash());
        seats.admit(s, sigs);
        seats.nominate();
        equal(gatekeepers.ceremony().receivers[0], nominee);
    }

    /// @dev Fresh keys for those that were not revoked.
    function newKeys_() internal {
        address[] memory gk = gatekeepers.members();
        for (uint256 i = 1; i < N; ++i) {
            bytes32 key = newKey();
            vm.prank(gk[i]);
            seats.setKey(key, key);
        }
    }

    function test_fewer_than_t_end_nothing_and_a_revoked_seat_counts_in_nothing() public {
        CommitteeStatements.ReceiverRefusal memory s = refusal(nominee);
        bytes[] memory sigs = signed(s, T - 1);
        vm.expectRevert(abi.encodeWithSelector(Office.TooFewSigners.selector, T - 1, T));
        gatekeepers.refuseReceiver(s, sigs);
        sigs = signAll(s.hash(), T); // the first of them is revoked
        vm.expectRevert(abi.encodeWithSelector(Office.TooFewSigners.selector, T - 1, T));
        gatekeepers.refuseReceiver(s, sigs);
    }

    function test_the_words_are_of_this_term_this_ceremony_and_one_of_its_receivers() public {
        CommitteeStatements.ReceiverRefusal memory s = refusal(nominee);
        s.term = 2;
        bytes[] memory sigs = signed(s, T);
        vm.expectRevert(abi.encodeWithSelector(Office.WrongTerm.selector, 2, 1));
        gatekeepers.refuseReceiver(s, sigs);
        s = refusal(address(0x99));
        sigs = signed(s, T);
        vm.expectRevert(abi.encodeWithSelector(Office.NotAMember.selector, address(0x99)));
        gatekeepers.refuseReceiver(s, sigs);
        s = refusal(nominee);
        s.ceremony = GENESIS;
        sigs = signed(s, T);
        vm.expectRevert(abi.encodeWithSelector(Ceremonies.WrongCeremony.selector, GENESIS, id));
        gatekeepers.refuseReceiver(s, sigs);
        s = refusal(nominee);
        sigs = signed(s, T);
        s.member = gatekeepers.members()[1];
        equal(taken(s, sigs), false);
    }

    function test_it_counts_once() public {
        refuse(nominee);
        CommitteeStatements.ReceiverRefusal memory s = refusal(nominee);
        bytes[] memory sigs = signed(s, T);
        vm.expectRevert(abi.encodeWithSelector(Ceremonies.WrongCeremony.selector, id, id));
        gatekeepers.refuseReceiver(s, sigs);
    }

    function test_with_enough_dealers_the_ceremony_goes_on() public {
        address[] memory gk = gatekeepers.members();
        for (uint256 i = 1; i <= T; ++i) commitAs(id, gk[i]);
        vm.roll(uint256(gatekeepers.ceremony().openedAt) + 11);
        CommitteeStatements.ReceiverRefusal memory s = refusal(nominee);
        bytes[] memory sigs = signed(s, T);
        vm.expectRevert(abi.encodeWithSelector(Ceremonies.WrongPhase.selector, Phases.Phase.Show));
        gatekeepers.refuseReceiver(s, sigs);
    }

    function test_while_dealers_may_still_commit_it_ends_however_many_did() public {
        address[] memory gk = gatekeepers.members();
        for (uint256 i = 1; i <= T; ++i) commitAs(id, gk[i]);
        refuse(nominee);
        equal(uint256(gatekeepers.ceremony().end), uint256(Ceremonies.End.Cancelled));
    }

    function test_after_a_deadline_with_too_few_dealers_it_still_spares_them_until_somebody_closes_it() public {
        uint256 before = stakes();
        commitAs(id, gatekeepers.members()[1]);
        vm.roll(uint256(gatekeepers.ceremony().openedAt) + 12);
        equal(uint256(gatekeepers.phaseAt(id, block.number)), uint256(Phases.Phase.Failed));
        refuse(nominee);
        equal(stakes(), before);
        vm.expectRevert(abi.encodeWithSelector(Ceremonies.WrongCeremony.selector, id, id));
        gatekeepers.close(id);
    }

    function test_a_sitting_receiver_pays_and_stays() public {
        address sitting = gatekeepers.members()[4];
        refuse(sitting);
        equal(seats.candidate(sitting).stake, STAKE - SLASH);
        equal(gatekeepers.termOf(1).revoked, 1);
        equal(seats.candidate(nominee).stake, 3 * STAKE);
    }

    function test_nobody_ends_a_founding_so() public {
        fresh(quick());
        address[] memory gk = candidates();
        bytes32 founding = open(gk, T);
        CommitteeStatements.ReceiverRefusal memory s = CommitteeStatements.ReceiverRefusal(1, founding, gk[0]);
        bytes[] memory sigs = signAll(s.hash(), T);
        vm.expectRevert(abi.encodeWithSelector(Office.WrongTerm.selector, 1, 0));
        gatekeepers.refuseReceiver(s, sigs);
    }

    function test_fuzz_signatures_of_others_end_nothing(uint256 key, uint8 count) public {
        key = key % (1 << 250) + 1_000_000;
        CommitteeStatements.ReceiverRefusal memory s = refusal(nominee);
        bytes[] memory sigs = new bytes[](uint256(count) % N + 1);
        for (uint256 i = 0; i < sigs.length; ++i) sigs[i] = signOne(key + i, s.hash());
        equal(taken(s, sigs), false);
    }
}
