// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {Candidates} from "../src/Candidates.sol";
import {Ceremonies} from "../src/Ceremonies.sol";
import {CommitteeStatements} from "../src/CommitteeStatements.sol";
import {Gatekeepers} from "../src/Gatekeepers.sol";
import {Phases} from "../src/Phases.sol";
import {Seats} from "../src/Seats.sol";
import {Token} from "../src/Token.sol";
import {Founded} from "./Founded.sol";

/// @notice Everything that gatekeepers, DAO and strangers may do, in any order, by anybody.
contract Everybody is Founded {
    address[] public who;
    uint256 public staked;
    bool public secondOpened;
    bool public keyMoved;

    constructor(Gatekeepers at, Token token, address[] memory people) {
        (gatekeepers, seats, pha, who) = (at, Seats(address(at)), token, people);
        for (uint256 i = 0; i < N; ++i) memberKeys.push(uint256(keccak256(abi.encode("member", i))));
        for (uint256 i = 0; i < 4; ++i) memberKeys.push(900 + i);
        pha.approve(address(at), type(uint256).max);
    }

    function pick(uint256 seed) internal view returns (address) {
        return who[seed % who.length];
    }

    function blocks(uint8 count) external {
        vm.roll(block.number + count);
    }

    /// @dev Everybody but one gets ready for the next ceremony.
    function register(uint256 seed) external {
        for (uint256 i = 0; i < who.length; ++i) {
            bytes32 key = newKey();
            if (i == seed % (2 * who.length)) continue;
            vm.prank(who[i]);
            try seats.setKey(key, key) {} catch {}
        }
    }

    function stand(uint256 seed) external {
        address one = pick(seed);
        bytes32 key = newKey();
        vm.prank(one);
        try seats.setCandidate(operatorOf(one), bytes32(uint256(1 + uint160(one) % 5)), key, key, "x") {} catch {}
    }

    /// @dev Everybody in office who has a key signs (E9).
    function admitOne(uint256 seed) external {
        CommitteeStatements.CandidateAdmission memory s = admissionOf(pick(seed), uint64(block.number) + 4096);
        bytes[] memory sigs = new bytes[](memberKeys.length);
        uint256 found;
        for (uint256 i = 0; i < memberKeys.length; ++i) {
            if (sits(vm.addr(memberKeys[i]))) sigs[found++] = signOne(memberKeys[i], CommitteeStatements.hash(s));
        }
        assembly {
            mstore(sigs, found)
        }
        try seats.admit(s, sigs) {} catch {}
    }

    /// @dev Everybody in office who has a key refuses a receiver, or a stranger, of the open ceremony (G15).
    function refuseOne(uint256 seed) external {
        Ceremonies.Ceremony memory c = gatekeepers.ceremony();
        CommitteeStatements.ReceiverRefusal memory s =
            CommitteeStatements.ReceiverRefusal(gatekeepers.term(), c.id, pick(seed));
        bytes[] memory sigs = new bytes[](memberKeys.length);
        uint256 found;
        for (uint256 i = 0; i < memberKeys.length; ++i) {
            if (sits(vm.addr(memberKeys[i]))) sigs[found++] = signOne(memberKeys[i], CommitteeStatements.hash(s));
        }
        assembly {
            mstore(sigs, found)
        }
        try gatekeepers.refuseReceiver(s, sigs) {} catch {}
    }

    function sits(address one) internal view returns (bool) {
        address[] memory members = gatekeepers.members();
        for (uint256 i = 0; i < members.length; ++i) if (members[i] == one) return true;
        return false;
    }

    function operatorOf(address one) public pure returns (address) {
        return address(uint160(one) ^ 1);
    }

    function stake(uint256 seed, uint8 amount) external {
        try seats.stake(pick(seed), amount) {} catch {}
    }

    function resign(uint256 seed) external {
        address one = pick(seed);
        vm.prank(one);
        try seats.resign(one) {} catch {}
    }

    function withdraw(uint256 seed) external {
        try seats.withdraw(pick(seed)) {} catch {}
    }

    function revoke(uint256 seed) external {
        if (seed % 4 == 0) try seats.revoke(pick(seed >> 8)) {} catch {}
    }

    function openOne(uint256 seed) external {
        Ceremonies.Ceremony memory before = gatekeepers.ceremony();
        bool open_ = before.end == Ceremonies.End.Open;
        bytes[3] memory calls =
            [abi.encodeCall(Seats.nominate, ()), abi.encodeCall(Seats.refresh, ()), abi.encodeCall(Seats.rotate, ())];
        (bool ok,) = address(gatekeepers).call(calls[seed % 3]);
        if (ok && open_) secondOpened = true;
    }

    /// @dev A whole ceremony, some of whose members stay away.
    function runOpen(uint256 seed) external {
        Ceremonies.Ceremony memory c = gatekeepers.ceremony();
        if (c.end != Ceremonies.End.Open) return;
        bytes memory key = c.kind == Ceremonies.Kind.Rotate ? abi.encodePacked(seed, seed, seed) : keyNow();
        address[] memory dealers = dealersOf(c.id);
        for (uint256 i = 0; i < dealers.length; ++i) if ((seed >> i) % 8 != 0) tryCommit(c.id, dealers[i]);
        vm.roll(uint256(c.openedAt) + 2 * c.window + 1);
        uint64 qualified = gatekeepers.ceremony().committed;
        for (uint256 i = 0; i < c.receivers.length; ++i) {
            vm.prank(c.receivers[i]);
            if ((seed >> 64 >> i) % 8 != 0) try gatekeepers.confirm(c.id, key, bytes32(seed | 1), qualified) {} catch {}
        }
        vm.roll(uint256(c.openedAt) + 6 * c.window + 1);
        if (c.kind == Ceremonies.Kind.Reshare && keccak256(keyNow()) != keccak256(key)) keyMoved = true;
        try gatekeepers.close(c.id) {} catch {}
        if (c.kind == Ceremonies.Kind.Reshare && keccak256(keyNow()) != keccak256(key)) keyMoved = true;
    }

    function keyNow() internal view returns (bytes memory) {
        return gatekeepers.masterPublicKey();
    }

    function tryCommit(bytes32 id, address dealer) internal {
        bytes32 digest = sha256(frameOf(dealer));
        vm.prank(dealer);
        try gatekeepers.commitDealing(id, digest) {} catch {}
    }

    function cancel(uint256 seed) external {
        if (seed % 8 == 0) try seats.cancel(gatekeepers.ceremony().id) {} catch {}
    }
}

/// @notice What holds whatever anybody does: one committee in office, one open ceremony, lawful seats, no lost stake.
/// forge-config: default.invariant.runs = 12
contract CommitteeInvariants is Founded {
    Everybody internal everybody;
    address[] internal people;

    function setUp() public {
        Candidates.Rules memory rules = quick();
        (rules.minStake, rules.absenceSlash, rules.termBlocks, rules.refreshBlocks) = (10, 3, 1, 1);
        fresh(rules);
        pha.approve(address(gatekeepers), type(uint256).max);
        address[] memory gk = candidates();
        for (uint256 i = 0; i < N; ++i) {
            people.push(gk[i]);
            seats.stake(gk[i], 40);
        }
        run(open(gk, T));
        for (uint256 i = 0; i < 4; ++i) people.push(vm.addr(900 + i));
        everybody = new Everybody(gatekeepers, pha, people);
        pha.transfer(address(everybody), 1_000_000);
        seats.transferOwnership(address(everybody));
        newKeys();
        vm.roll(block.number + 50);
    }

    function targetContracts() external view returns (address[] memory list) {
        list = new address[](1);
        list[0] = address(everybody);
    }

    function invariant_one_committee_is_in_office_with_lawful_seats() public view {
        Gatekeepers.Committee memory c = gatekeepers.committee();
        equal(c.term >= 1, true);
        equal(c.members.length > c.threshold && c.members.length <= N, true);
        equal(gatekeepers.termOf(c.term).size, c.members.length);
        equal(gatekeepers.termOf(c.term + 1).ceremony, 0);
        equal(keccak256(abi.encodePacked(c.mpk)), keccak256(abi.encodePacked(seats.epochOf(c.masterEpoch).mpk)));
        uint256 allowed = seats.election().spare(c.threshold, c.members.length);
        for (uint256 i = 0; i < c.members.length; ++i) {
            uint256 alike;
            for (uint256 j = 0; j < c.members.length; ++j) {
                equal(i == j || c.members[i] != c.members[j], true);
                if (seats.candidate(c.members[i]).vendorClass == seats.candidate(c.members[j]).vendorClass) ++alike;
            }
            equal(alike <= allowed, true);
        }
    }

    function invariant_never_two_ceremonies_are_open_and_no_reshare_moves_the_key() public view {
        equal(everybody.secondOpened() || everybody.keyMoved(), false);
        uint64 count = gatekeepers.ceremonyCount();
        equal(gatekeepers.numberOf(gatekeepers.ceremony().id), count);
    }

    function invariant_all_stake_is_there_and_nobody_else_s() public view {
        uint256 total;
        for (uint256 i = 0; i < people.length; ++i) total += seats.candidate(people[i]).stake;
        equal(pha.balanceOf(address(gatekeepers)), total);
    }

    /// @dev From any state: who holds no seat and resigns has its stake back after unbonding.
    function invariant_stake_is_never_stuck() public {
        Ceremonies.Ceremony memory c = gatekeepers.ceremony();
        if (c.end == Ceremonies.End.Open) {
            vm.prank(seats.owner());
            try seats.cancel(c.id) {} catch {
                gatekeepers.close(c.id);
            }
        }
        for (uint256 i = 0; i < people.length; ++i) {
            Candidates.Candidate memory one = seats.candidate(people[i]);
            if (one.stake == 0 || seatOf(people[i])) continue;
            if (!one.leaving) {
                vm.prank(people[i]);
                seats.resign(people[i]);
            }
            vm.roll(block.number + 60);
            seats.withdraw(people[i]);
            equal(seats.candidate(people[i]).stake, 0);
        }
    }

    function seatOf(address who) internal view returns (bool) {
        address[] memory members = gatekeepers.members();
        for (uint256 i = 0; i < members.length; ++i) if (members[i] == who) return true;
        return false;
    }
}
