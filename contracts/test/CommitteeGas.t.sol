// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {CommitteeStatements} from "../src/CommitteeStatements.sol";
import {Seats} from "../src/Seats.sol";
import {Founded} from "./Founded.sol";

interface CommitteeGasVm {
    function snapshotGasLastCall(string calldata group, string calldata name) external returns (uint256);
}

/// @notice What the steps of a ceremony cost as whole transactions, five members, 3 of 5; and opening one with 64.
/// The figures stand in contracts/gas/Committee.json; `build.py --test` compares, `build.py --gas` writes them.
/// forge-config: default.isolate = true
contract CommitteeGasTest is Founded {
    CommitteeGasVm internal constant GAS = CommitteeGasVm(address(uint160(uint256(keccak256("hevm cheat code")))));
    uint256 internal constant BLOCK = 30_000_000;

    function take(string memory name) internal returns (uint256) {
        return GAS.snapshotGasLastCall("Committee", name);
    }

    function test_gas_steps_of_a_ceremony() public {
        fresh(quick());
        address[] memory gk = candidates();
        bytes32 id = open(gk, T);
        for (uint256 i = 0; i < N; ++i) commitAs(id, gk[i]);
        take("commit");
        vm.prank(gk[1]);
        gatekeepers.complain(id, 1, 2);
        take("complain");
        for (uint256 i = 0; i < N; ++i) contentAs(id, gk[i], 1);
        take("content");
        bytes memory dealing = frameOf(gk[0]);
        vm.prank(gk[0]);
        gatekeepers.publish(id, dealing);
        take("publish 128 B");
        vm.prank(gk[0]);
        gatekeepers.openShare(id, 2, GENESIS);
        take("open a share");
        for (uint256 i = 0; i < N - 1; ++i) confirmAs(id, gk[i], mpk(), TRANSCRIPT, 31);
        take("confirm");
        confirmAs(id, gk[4], mpk(), TRANSCRIPT, 31);
        take("the last confirmation, into office");
    }

    function test_gas_terms() public {
        found();
        newKeys();
        vm.roll(block.number + 6000);
        setCandidate(address(77), address(77), bytes32(uint256(77)));
        admit(address(77));
        take("admit a candidate, 5 of 5");
        seats.nominate();
        take("nominate, 5 seats");
        run(gatekeepers.ceremony().id, mpk(), GENESIS);
        take("the last confirmation of a reshare");
        newKeys();
        vm.roll(block.number + 6000);
        seats.rotate();
        take("open a rotation");
    }

    /// @notice The largest committee, as many candidates as the list takes: election, opening and office fit a block.
    function test_gas_the_largest_committee() public {
        fresh(quick());
        uint256 n = 64;
        address[] memory chosen = new address[](n);
        for (uint256 i = 0; i < n; ++i) {
            memberKeys.push(0x5000 + i);
            chosen[i] = vm.addr(0x5000 + i);
            setCandidate(chosen[i], address(uint160(1 + i)), bytes32(1 + i));
        }
        seats.openFounding(chosen, 33, GENESIS);
        equal(take("open a founding, 64 seats") < BLOCK, true);
        bytes32 id = gatekeepers.ceremony().id;
        for (uint256 i = 0; i < n; ++i) commitAs(id, chosen[i]);
        for (uint256 i = 0; i < n; ++i) contentAs(id, chosen[i], 1);
        for (uint256 i = 0; i < n; ++i) confirmAs(id, chosen[i], mpk(), TRANSCRIPT, type(uint64).max);
        equal(take("the last confirmation of 64") < BLOCK, true);
        equal(gatekeepers.term(), 1);
        for (uint256 i = 0; i < n; ++i) setCandidate(address(uint160(0x9000 + i)), address(uint160(0x100 + i)), bytes32(0x100 + i));
        newKeys();
        vm.roll(block.number + 6000);
        for (uint256 i = 0; i < n; ++i) {
            address who = address(uint160(0x9000 + i));
            CommitteeStatements.CandidateAdmission memory s = admissionOf(who, uint64(block.number) + 4096);
            bytes[] memory sigs = signAll(CommitteeStatements.hash(s), 33);
            seats.admit(s, sigs);
        }
        equal(take("admit a candidate, 33 of 64") < BLOCK, true);
        seats.nominate();
        equal(take("nominate, 64 seats, 128 candidates") < BLOCK, true);
    }
}
