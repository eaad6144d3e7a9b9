// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {Candidates} from "../src/Candidates.sol";
import {Ceremonies} from "../src/Ceremonies.sol";
import {Gatekeepers} from "../src/Gatekeepers.sol";
import {Office} from "../src/Office.sol";
import {Phases} from "../src/Phases.sol";
import {Seats} from "../src/Seats.sol";
import {Founded} from "./Founded.sol";

contract GatekeepersTest is Founded {
    bytes32 internal constant STATEMENT = keccak256("statement");
    uint256 internal constant ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141;

    function setUp() public {
        found();
    }

    function opened() internal returns (address[] memory members, bytes32 id) {
        fresh(quick());
        members = candidates();
        id = open(members, T);
    }

    function allContent() internal returns (address[] memory members, bytes32 id) {
        (members, id) = opened();
        for (uint256 i = 0; i < N; ++i) commitAs(id, members[i]);
        for (uint256 i = 0; i < N; ++i) contentAs(id, members[i], 1);
    }

    // --- founding ---

    function test_the_founded_committee_is_in_office() public view {
        Gatekeepers.Committee memory c = gatekeepers.committee();
        equal(c.term, 1);
        equal(c.masterEpoch, 1);
        equal(c.threshold, T);
        equal(c.members.length, N);
        equal(c.transcript, TRANSCRIPT);
        equal(abi.encodePacked(c.mpk), mpk());
        equal(gatekeepers.masterPublicKey(), mpk());
        bytes memory framed = abi.encodePacked(
            "cloister/v1/network-id", hex"00", hex"00000007", "network", hex"00000020", GENESIS, hex"00000020", TRANSCRIPT
        );
        equal(c.networkId, sha256(framed));
        equal(c.termSeed != 0, true);
    }

    function test_nobody_is_in_office_before_the_last_confirmation() public {
        (address[] memory members, bytes32 id) = allContent();
        for (uint256 i = 0; i < N; ++i) {
            equal(gatekeepers.term(), 0);
            confirmAs(id, members[i], mpk(), TRANSCRIPT, 31);
        }
        equal(gatekeepers.term(), 1);
    }

    function test_only_the_founder_opens_and_only_once() public {
        address[] memory members = gatekeepers.members();
        vm.expectRevert(Seats.FoundingAlreadyOpen.selector);
        seats.openFounding(members, T, GENESIS);
        vm.prank(members[0]);
        vm.expectRevert(abi.encodeWithSelector(Seats.NotFounder.selector, members[0]));
        seats.openFounding(members, T, GENESIS);
    }

    function test_a_stranger_is_no_candidate() public {
        fresh(quick());
        address[] memory members = candidates();
        members[2] = named("stranger");
        vm.expectRevert(abi.encodeWithSelector(Candidates.NoCandidate.selector, members[2]));
        seats.openFounding(members, T, GENESIS);
    }

    function test_a_member_sits_once() public {
        fresh(quick());
        address[] memory members = candidates();
        members[4] = members[0];
        // Twice the same person is also twice the same vendor and operator: with room for both, the name of the refusal.
        setCandidate(members[0], address(0x99), bytes32(uint256(99)));
        vm.expectRevert(abi.encodeWithSelector(Ceremonies.DuplicateMember.selector, members[0]));
        seats.openFounding(members, T, GENESIS);
    }

    function test_too_many_seats_of_one_vendor() public {
        fresh(quick());
        address[] memory members = candidates();
        setCandidate(members[4], address(0x99), vendor(0));
        vm.expectRevert(abi.encodeWithSelector(Seats.TooManySeatsOfVendor.selector, vendor(0), 3, 2));
        seats.openFounding(members, T, GENESIS);
    }

    function test_too_many_seats_of_one_operator() public {
        fresh(quick());
        address[] memory members = candidates();
        for (uint256 i = 0; i < 3; ++i) setCandidate(members[2 * i], address(0x99), vendor(2 * i));
        vm.expectRevert(abi.encodeWithSelector(Seats.TooManySeatsOfOperator.selector, address(0x99), 3, 2));
        seats.openFounding(members, T, GENESIS);
    }

    function test_thresholds_that_leave_no_margin() public {
        fresh(quick());
        address[] memory members = candidates();
        uint16[4] memory wrong = [uint16(0), 1, 5, 6];
        for (uint256 i = 0; i < wrong.length; ++i) {
            vm.expectRevert(abi.encodeWithSelector(Seats.BadThreshold.selector, wrong[i], N));
            seats.openFounding(members, wrong[i], GENESIS);
        }
    }

    /// @notice Whatever committee passes: no vendor class and no operator has t seats, nor more than n - t.
    function test_fuzz_seat_rule(uint256 seed, uint8 size, uint8 threshold) public {
        fresh(quick());
        uint256 n = bound(size, 1, 9);
        uint16 t = uint16(bound(threshold, 0, 10));
        address[] memory members = new address[](n);
        uint256[4] memory vendors;
        uint256[6] memory operators;
        for (uint256 i = 0; i < n; ++i) {
            uint256 roll = uint256(keccak256(abi.encode(seed, i)));
            members[i] = address(uint160(0x5000 + i));
            ++vendors[roll % 4];
            ++operators[(roll >> 8) % 6];
            setCandidate(members[i], address(uint160(1 + (roll >> 8) % 6)), bytes32(1 + roll % 4));
        }
        bool sound = t >= 2 && t < n;
        for (uint256 i = 0; sound && i < 4; ++i) sound = vendors[i] <= t - 1 && vendors[i] <= n - t;
        for (uint256 i = 0; sound && i < 6; ++i) sound = operators[i] <= t - 1 && operators[i] <= n - t;
        (bool ok,) = address(gatekeepers).call(abi.encodeCall(Seats.openFounding, (members, t, GENESIS)));
        equal(ok, sound);
    }

    function test_candidates_check_their_fields() public {
        address who = named("candidate");
        vm.startPrank(who);
        vm.expectRevert(Candidates.BadCandidate.selector);
        seats.setCandidate(address(0), bytes32(uint256(1)), bytes32(uint256(1)), bytes32(uint256(1)), "x");
        vm.expectRevert(Candidates.BadCandidate.selector);
        seats.setCandidate(who, 0, bytes32(uint256(1)), bytes32(uint256(1)), "x");
        vm.expectRevert(Candidates.BadCandidate.selector);
        seats.setCandidate(who, bytes32(uint256(1)), bytes32(uint256(1)), bytes32(uint256(1)), "");
        vm.expectRevert(Candidates.BadCandidate.selector);
        seats.setCandidate(
            who, bytes32(uint256(1)), bytes32(uint256(1)), bytes32(uint256(1)), string(new bytes(257))
        );
        seats.setCandidate(who, bytes32(uint256(1)), bytes32(uint256(2)), bytes32(uint256(3)), "y");
        seats.setCandidate(who, bytes32(uint256(1)), bytes32(uint256(4)), bytes32(uint256(3)), "z");
        vm.stopPrank();
        equal(seats.candidate(who).dkgKey, bytes32(uint256(4)));
        equal(seats.candidates().length, N + 1);
    }

    function test_a_member_cannot_change_what_others_verified() public {
        address member = gatekeepers.members()[0];
        vm.prank(member);
        vm.expectRevert(abi.encodeWithSelector(Candidates.FrozenCandidate.selector, member));
        seats.setCandidate(member, bytes32(uint256(1)), bytes32(uint256(1)), bytes32(uint256(1)), "x");
    }

    // --- signatures ---

    function test_t_distinct_members_are_enough() public view {
        for (uint256 count = T; count <= N; ++count) gatekeepers.requireSigned(STATEMENT, signAll(STATEMENT, count));
    }

    function test_fewer_are_not() public {
        for (uint256 count = 0; count < T; ++count) {
            bytes[] memory sigs = signAll(STATEMENT, count);
            vm.expectRevert(abi.encodeWithSelector(Office.TooFewSigners.selector, count, T));
            gatekeepers.requireSigned(STATEMENT, sigs);
        }
    }

    function test_a_member_counts_once() public {
        bytes[] memory sigs = signAll(STATEMENT, T);
        sigs[1] = sigs[0];
        vm.expectRevert(abi.encodeWithSelector(Office.TooFewSigners.selector, T - 1, T));
        gatekeepers.requireSigned(STATEMENT, sigs);
    }

    function test_a_stranger_spoils_the_set() public {
        bytes[] memory sigs = signAll(STATEMENT, T + 1);
        sigs[T] = signOne(12345, STATEMENT);
        vm.expectRevert(abi.encodeWithSelector(Office.NotAMember.selector, vm.addr(12345)));
        gatekeepers.requireSigned(STATEMENT, sigs);
    }

    function test_more_signatures_than_members() public {
        bytes[] memory sigs = new bytes[](N + 1);
        vm.expectRevert(abi.encodeWithSelector(Office.TooManySignatures.selector, N + 1, N));
        gatekeepers.requireSigned(STATEMENT, sigs);
    }

    function test_malleable_signatures_are_refused() public {
        bytes[] memory sigs = signAll(STATEMENT, T);
        (uint8 v, bytes32 r, bytes32 s) = split(sigs[0]);
        sigs[0] = abi.encodePacked(r, bytes32(ORDER - uint256(s)), v == 27 ? uint8(28) : uint8(27));
        vm.expectRevert(abi.encodeWithSelector(Office.BadSignature.selector, 0));
        gatekeepers.requireSigned(STATEMENT, sigs);
    }

    function test_nobody_signs_before_a_committee_is_in_office() public {
        fresh(quick());
        vm.expectRevert(Office.NoCommitteeInOffice.selector);
        gatekeepers.requireSigned(STATEMENT, new bytes[](0));
        vm.expectRevert(abi.encodeWithSelector(Office.WrongTerm.selector, 0, 0));
        gatekeepers.requireStatement(0, STATEMENT, new bytes[](0));
    }

    function test_the_wrong_term() public {
        bytes[] memory sigs = signAll(STATEMENT, T);
        gatekeepers.requireStatement(1, STATEMENT, sigs);
        vm.expectRevert(abi.encodeWithSelector(Office.WrongTerm.selector, 2, 1));
        gatekeepers.requireStatement(2, STATEMENT, sigs);
    }

    function test_fuzz_another_statement_never_passes(bytes32 other) public {
        vm.assume(other != STATEMENT);
        (bool ok,) =
            address(gatekeepers).call(abi.encodeCall(Gatekeepers.requireSigned, (other, signAll(STATEMENT, N))));
        equal(ok, false);
    }

    function test_fuzz_a_flipped_byte_never_passes(uint256 which, uint8 flip) public {
        vm.assume(flip != 0);
        bytes[] memory sigs = signAll(STATEMENT, T);
        uint256 place = which % (65 * T);
        bytes memory broken = sigs[place / 65];
        broken[place % 65] = bytes1(uint8(broken[place % 65]) ^ flip);
        (bool ok,) = address(gatekeepers).call(abi.encodeCall(Gatekeepers.requireSigned, (STATEMENT, sigs)));
        equal(ok, false);
    }

    function test_fuzz_subsets(uint8 mask) public {
        uint256 count;
        for (uint256 i = 0; i < N; ++i) if (mask & (1 << i) != 0) ++count;
        bytes[] memory sigs = new bytes[](count);
        uint256 next;
        for (uint256 i = 0; i < N; ++i) if (mask & (1 << i) != 0) sigs[next++] = signOne(memberKeys[i], STATEMENT);
        (bool ok,) = address(gatekeepers).call(abi.encodeCall(Gatekeepers.requireSigned, (STATEMENT, sigs)));
        equal(ok, count >= T);
    }

    function split(bytes memory sig) internal pure returns (uint8 v, bytes32 r, bytes32 s) {
        assembly {
            r := mload(add(sig, 32))
            s := mload(add(sig, 64))
            v := byte(0, mload(add(sig, 96)))
        }
    }
}
