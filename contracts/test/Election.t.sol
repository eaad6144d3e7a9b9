// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {Election} from "../src/Election.sol";
import {Checks} from "./Vm.sol";

/// @notice Who sits next (spec/gatekeepers.md E1-E5): five seats, t = 3, so at most two change and two are alike.
contract ElectionTest is Checks {
    Election internal election = new Election();
    Election.Standing[] internal sitting;
    Election.Standing[] internal others;

    function one(uint160 member, uint160 operator, uint256 vendor, uint256 stake) internal pure returns (Election.Standing memory) {
        return Election.Standing(
            address(member), address(operator), bytes32(vendor), stake, uint64(member), Election.Status.Stays
        );
    }

    function setUp() public {
        for (uint160 i = 1; i <= 5; ++i) sitting.push(one(i, i, (i + 1) / 2, 100));
    }

    function elect() internal view returns (address[] memory) {
        return election.elect(sitting, others, 3, 5);
    }

    function expectSeats(address[] memory found, uint160[5] memory wanted) internal pure {
        equal(found.length, 5);
        for (uint256 i = 0; i < 5; ++i) equal(found[i], address(wanted[i]));
    }

    function test_sitting_members_stay() public view {
        expectSeats(elect(), [uint160(1), 2, 3, 4, 5]);
    }

    function test_a_vacancy_goes_to_the_best_candidate() public {
        sitting[1].status = Election.Status.Leaves;
        others.push(one(11, 11, 7, 50));
        others.push(one(12, 12, 7, 60));
        expectSeats(elect(), [uint160(1), 12, 3, 4, 5]);
    }

    function test_among_equals_who_came_first_and_then_the_lower_address() public {
        sitting[0].status = Election.Status.Leaves;
        others.push(one(12, 12, 7, 60));
        others.push(one(11, 11, 7, 60));
        expectSeats(elect(), [uint160(11), 2, 3, 4, 5]);
        (others[0].since, others[1].since) = (9, 9);
        expectSeats(elect(), [uint160(11), 2, 3, 4, 5]);
    }

    function test_a_better_candidate_takes_the_seat_of_the_worst() public {
        sitting[3].stake = 10;
        others.push(one(11, 11, 7, 50));
        expectSeats(elect(), [uint160(1), 2, 3, 11, 5]);
    }

    function test_at_most_spare_of_the_sitting_are_replaced() public {
        for (uint160 i = 11; i <= 15; ++i) others.push(one(i, i, i, 1000 + i));
        address[] memory found = elect();
        uint256 stay;
        for (uint256 i = 0; i < 5; ++i) if (uint160(found[i]) <= 5) ++stay;
        equal(stay, 3);
    }

    function test_a_candidate_that_would_break_the_seat_rule_is_skipped() public {
        sitting[4].status = Election.Status.Leaves;
        others.push(one(11, 11, 1, 900)); // a third seat of vendor 1
        others.push(one(12, 2, 7, 50));
        others.push(one(13, 13, 8, 40));
        others[1].operator = address(2);
        expectSeats(elect(), [uint160(1), 2, 3, 4, 12]);
    }

    function test_with_too_few_candidates_who_wanted_to_leave_stays() public {
        sitting[0].status = Election.Status.Leaves;
        expectSeats(elect(), [uint160(1), 2, 3, 4, 5]);
    }

    function test_a_revoked_seat_stays_empty_while_one_more_than_t_remain() public {
        sitting[0].status = Election.Status.Revoked;
        address[] memory found;
        // n - 1 = 4 = t + 1, but two vendors would hold two seats where only one is allowed: nothing changes.
        vm.expectRevert(Election.NothingToElect.selector);
        elect();
        for (uint160 i = 0; i < 5; ++i) sitting[i].vendorClass = bytes32(uint256(100 + i));
        found = elect();
        equal(found.length, 4);
        equal(found[0], address(2));
    }

    function test_nothing_changes_when_too_few_would_remain() public {
        for (uint160 i = 0; i < 5; ++i) sitting[i].vendorClass = bytes32(uint256(100 + i));
        sitting[0].status = Election.Status.Revoked;
        sitting[1].status = Election.Status.Revoked;
        vm.expectRevert(Election.NothingToElect.selector);
        elect();
    }

    function test_a_seat_that_stayed_empty_is_filled_again() public {
        sitting.pop();
        others.push(one(11, 11, 9, 1));
        expectSeats(elect(), [uint160(1), 2, 3, 4, 11]);
    }

    function test_the_revoked_go_before_those_who_leave() public {
        (sitting[0].status, sitting[1].status) = (Election.Status.Leaves, Election.Status.Leaves);
        sitting[4].status = Election.Status.Revoked;
        for (uint160 i = 11; i <= 13; ++i) others.push(one(i, i, i, 10));
        expectSeats(elect(), [uint160(11), 2, 3, 4, 12]);
    }

    /// @notice Whoever is elected: distinct, the seat rule holds, no revoked seat that could go stays, at most `spare` go.
    function test_fuzz_every_outcome_keeps_the_rules(uint256 seed, uint8 size, uint8 many) public {
        delete sitting;
        uint256 n = bound(size, 4, 12);
        uint256 t = n / 2 + 1;
        uint256 allowed = election.spare(t, n);
        for (uint256 i = 0; i < n; ++i) sitting.push(made(seed, i, uint160(i + 1), allowed, n));
        for (uint256 i = 0; i < bound(many, 0, 20); ++i) others.push(made(seed, 100 + i, uint160(i + 101), 1, 6));
        try election.elect(sitting, others, t, n) returns (address[] memory found) {
            checkRules(found, t, allowed);
        } catch {}
    }

    /// @dev Sitting members start from a lawful committee: seat i of vendor and operator i / allowed.
    function made(uint256 seed, uint256 i, uint160 member, uint256 allowed, uint256 range)
        internal
        pure
        returns (Election.Standing memory s)
    {
        uint256 roll = uint256(keccak256(abi.encode(seed, i)));
        s = one(member, uint160(1 + i / allowed), 1 + i / allowed, roll % 50);
        if (member > 100) {
            s.operator = address(uint160(1 + (roll >> 16) % range));
            s.vendorClass = bytes32(1 + (roll >> 24) % range);
        } else if ((roll >> 32) % 6 == 0) {
            s.status = (roll >> 40) % 2 == 0 ? Election.Status.Leaves : Election.Status.Revoked;
        }
    }

    function checkRules(address[] memory found, uint256 t, uint256 budget) internal view {
        equal(found.length > t, true);
        uint256 allowed = election.spare(t, found.length);
        uint256 stay;
        for (uint256 i = 0; i < found.length; ++i) {
            Election.Standing memory a = byMember(found[i]);
            if (uint160(found[i]) <= 100) ++stay;
            uint256 vendors;
            uint256 operators;
            for (uint256 j = 0; j < found.length; ++j) {
                Election.Standing memory b = byMember(found[j]);
                equal(i == j || found[i] != found[j], true);
                if (a.vendorClass == b.vendorClass) ++vendors;
                if (a.operator == b.operator) ++operators;
            }
            equal(vendors <= allowed && operators <= allowed, true);
        }
        equal(sitting.length - stay <= budget, true);
    }

    function byMember(address member) internal view returns (Election.Standing memory) {
        uint160 number = uint160(member);
        return number <= 100 ? sitting[number - 1] : others[number - 101];
    }

    /// @notice The largest election that a contract asks for stays far below a block's gas.
    function test_the_largest_election_fits_into_a_block() public {
        delete sitting;
        for (uint160 i = 1; i <= 64; ++i) sitting.push(one(i, i, i, 100));
        for (uint160 i = 101; i <= 228; ++i) others.push(one(i, i, i, uint256(keccak256(abi.encode(i))) % 1000));
        Election.Standing[] memory a = sitting;
        Election.Standing[] memory b = others;
        uint256 before = gasleft();
        election.elect(a, b, 33, 64);
        equal(before - gasleft() < 20_000_000, true);
    }
}
