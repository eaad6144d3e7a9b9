// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {Phases} from "../src/Phases.sol";
import {Checks} from "./Vm.sol";

/// @notice The contract's phases, ids and deadlines against the vectors that Python generates.
contract PhasesTest is Checks {
    using Phases for Phases.Facts;

    string internal json;

    function setUp() public {
        json = vm.readFile("../spec/vectors/ceremonies.json");
    }

    function place(string memory list, uint256 i, string memory field) internal pure returns (string memory) {
        return string.concat(".", list, "[", vm.toString(i), "]", field);
    }

    function factsOf(uint256[] memory row) internal pure returns (Phases.Facts memory f) {
        (f.openedAt, f.window, f.dealers) = (uint64(row[0]), uint64(row[1]), row[2]);
        (f.receivers, f.quorum) = (row[3], row[4]);
        (f.committed, f.content, f.settled) = (uint64(row[5]), uint64(row[6]), uint64(row[7]));
        (f.accused, f.published) = (uint64(row[8]), uint64(row[9]));
        (f.unanimous, f.agreed, f.cancelled) = (row[10] == 1, row[11] == 1, row[12] == 1);
        for (uint256 d = 1; d <= f.dealers; ++d) {
            if (f.published & Phases.bit(d) == 0) continue;
            uint256 at = 15 + 3 * (d - 1);
            f.fold(uint64(row[at]), uint64(row[at + 1]), uint64(row[at + 2]));
        }
    }

    function test_every_phase_is_the_one_that_python_computes() public view {
        uint256 count = vm.parseJsonUint(json, ".count");
        for (uint256 i = 0; i < count; ++i) {
            uint256[] memory row = vm.parseJsonUintArray(json, place("rows", i, ""));
            equal(uint256(factsOf(row).walk(row[13])), row[14]);
        }
    }

    function test_every_id_is_the_one_that_python_computes() public view {
        for (uint256 i = 0; i < 3; ++i) {
            bytes32 id = keccak256(
                abi.encode(
                    vm.parseJsonBytes32(json, place("ids", i, ".base")),
                    vm.parseJsonAddress(json, place("ids", i, ".contract")),
                    uint8(vm.parseJsonUint(json, place("ids", i, ".kind"))),
                    uint64(vm.parseJsonUint(json, place("ids", i, ".term"))),
                    uint64(vm.parseJsonUint(json, place("ids", i, ".epoch"))),
                    uint64(vm.parseJsonUint(json, place("ids", i, ".number")))
                )
            );
            equal(id, vm.parseJsonBytes32(json, place("ids", i, ".id")));
        }
    }

    function test_deadlines_are_the_ones_that_python_computes() public view {
        uint256[] memory blocks = vm.parseJsonUintArray(json, ".deadlines.blocks");
        Phases.Facts memory f;
        (f.openedAt, f.window) = (
            uint64(vm.parseJsonUint(json, ".deadlines.opened")), uint64(vm.parseJsonUint(json, ".deadlines.window"))
        );
        (f.dealers, f.receivers, f.quorum, f.committed, f.agreed) = (3, 3, 2, 3, true);
        // Everybody committed: SHOW ends with its own block, the three of complaints take none.
        equal(uint256(f.walk(blocks[1] - 1)), uint256(Phases.Phase.Show));
        equal(uint256(f.walk(blocks[1])), uint256(Phases.Phase.Confirm));
        equal(uint256(f.walk(blocks[5] - 1)), uint256(Phases.Phase.Confirm));
        equal(uint256(f.walk(blocks[5])), uint256(Phases.Phase.Done));
    }

    /// @notice Blocks only lead on: no later block is in an earlier phase.
    function test_fuzz_a_later_block_is_never_in_an_earlier_phase(uint64 committed, uint64 content, uint16 a, uint16 b)
        public
        pure
    {
        Phases.Facts memory f;
        (f.openedAt, f.window, f.dealers, f.receivers, f.quorum) = (100, 10, 5, 5, 3);
        (f.committed, f.content, f.accused) = (committed & 31, content & 31, committed & content & 31);
        (uint256 first, uint256 second) = a < b ? (a, b) : (b, a);
        equal(f.walk(first) <= f.walk(second), true);
    }

    function test_fuzz_counting_bits(uint64 bits) public pure {
        uint256 total;
        for (uint256 i = 1; i <= 64; ++i) if (bits & Phases.bit(i) != 0) ++total;
        equal(Phases.count(bits), total);
        equal(Phases.count(Phases.all(total)), total);
    }
}
