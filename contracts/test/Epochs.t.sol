// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {Agents} from "../src/Agents.sol";
import {Clusters} from "../src/Clusters.sol";
import {IGatekeepers} from "../src/interfaces/IGatekeepers.sol";
import {Reseals} from "../src/Reseals.sol";
import {Statements} from "../src/Statements.sol";
import {Founded} from "./Founded.sol";

/// @notice The committee's signatures of the real contract, and a master epoch that the test moves.
contract Rotating is IGatekeepers {
    IGatekeepers private immutable real;
    uint64 public masterEpoch = 1;

    constructor(IGatekeepers real_) {
        real = real_;
    }

    function rotate() external {
        ++masterEpoch;
    }

    function requireStatement(uint64 term, bytes32 structHash, bytes[] calldata sigs) external view {
        real.requireStatement(term, structHash, sigs);
    }

    function requireSigned(bytes32 structHash, bytes[] calldata sigs) external view {
        real.requireSigned(structHash, sigs);
    }
}

contract EpochsTest is Founded {
    Clusters internal clusters;
    Agents internal agents;
    Reseals internal reseals;
    Rotating internal rotating;
    address internal owner = named("owner");
    address internal worker = named("worker");

    event SecretsExposed(bytes32 indexed agent, address indexed worker, uint64 version);

    function setUp() public {
        found();
        clusters = new Clusters(address(this), 3);
        rotating = new Rotating(gatekeepers);
        agents = new Agents(rotating, clusters);
        reseals = new Reseals(agents, rotating);
    }

    function deploy() internal returns (uint256 tokenId) {
        vm.prank(owner);
        return agents.register();
    }

    function record(uint256 tokenId) internal view returns (Agents.Agent memory) {
        return agents.agent(agents.agentIdOf(tokenId));
    }

    // --- where secrets are sealed, what is left behind ---

    function test_secrets_name_every_epoch_they_are_sealed_to() public {
        uint256 id = deploy();
        clusters.bumpEpoch(clusters.defaultCluster());
        rotating.rotate();
        vm.prank(owner);
        agents.setSecrets(id, keccak256("one"));
        Agents.Agent memory a = record(id);
        equal(a.secretsEpoch, 1);
        equal(a.secretsClusterEpoch, 2);
        equal(a.secretsMasterEpoch, 2);
        equal(a.secretsCluster, clusters.defaultCluster());
    }

    function test_a_bump_moves_state_and_secrets_a_wipe_leaves_state_behind() public {
        uint256 id = deploy();
        vm.startPrank(owner);
        agents.bumpEpoch(id);
        equal(record(id).wipedBelow, 0);
        agents.wipeState(id);
        vm.stopPrank();
        equal(record(id).epoch, 3);
        equal(record(id).wipedBelow, 3);
    }

    function test_only_the_owner_wipes() public {
        uint256 id = deploy();
        vm.expectRevert(abi.encodeWithSelector(Agents.NotOwner.selector, id, address(this)));
        agents.wipeState(id);
    }

    // --- schedule ---

    function test_fuzz_anybody_bumps_an_agent_whose_keys_are_too_old(uint64 age, uint64 wait) public {
        age = uint64(bound(age, 1, 1 << 20));
        wait = uint64(bound(wait, 0, 1 << 21));
        uint256 id = deploy();
        uint64 born = uint64(block.number);
        clusters.setMaxEpochAge(clusters.defaultCluster(), age);
        vm.roll(born + wait);
        vm.prank(named("anybody"));
        if (wait < age) vm.expectRevert(abi.encodeWithSelector(Agents.NotDue.selector, born + age, block.number));
        agents.bumpEpochScheduled(id);
        equal(record(id).epoch, wait < age ? 1 : 2);
        if (wait < age) return;
        vm.expectRevert(abi.encodeWithSelector(Agents.NotDue.selector, uint64(block.number) + age, block.number));
        agents.bumpEpochScheduled(id);
    }

    function test_without_a_schedule_nothing_is_ever_due() public {
        uint256 id = deploy();
        bytes32 cluster = clusters.defaultCluster();
        vm.roll(1 << 40);
        vm.expectRevert(abi.encodeWithSelector(Agents.NotDue.selector, type(uint64).max, block.number));
        agents.bumpEpochScheduled(id);
        vm.expectRevert(abi.encodeWithSelector(Clusters.NotDue.selector, type(uint64).max, block.number));
        clusters.bumpEpochScheduled(cluster);
    }

    function test_anybody_bumps_a_cluster_whose_keys_are_too_old() public {
        bytes32 cluster = clusters.defaultCluster();
        clusters.setMaxEpochAge(cluster, 10);
        vm.roll(block.number + 10);
        vm.prank(named("anybody"));
        equal(clusters.bumpEpochScheduled(cluster), 2);
    }

    function test_the_clusters_owner_sets_the_age_within_its_bound() public {
        bytes32 cluster = clusters.defaultCluster();
        uint64 tooMuch = clusters.MAX_EPOCH_AGE() + 1;
        vm.expectRevert(abi.encodeWithSelector(Clusters.BadEpochAge.selector, tooMuch));
        clusters.setMaxEpochAge(cluster, tooMuch);
        vm.prank(named("anybody"));
        vm.expectRevert(abi.encodeWithSelector(Clusters.NotClusterOwner.selector, cluster, named("anybody")));
        clusters.setMaxEpochAge(cluster, 5);
    }

    // --- for cause ---

    function batch(uint256 count) internal returns (uint256[] memory ids, uint64[] memory epochs) {
        ids = new uint256[](count);
        epochs = new uint64[](count);
        for (uint256 i = 0; i < count; ++i) {
            (ids[i], epochs[i]) = (deploy(), 1);
        }
    }

    function bumps(uint256[] memory ids, uint64[] memory epochs)
        internal
        view
        returns (Statements.WorkerBumps memory said, bytes[] memory sigs)
    {
        said = Statements.WorkerBumps(1, worker, keccak256(abi.encode(ids, epochs)));
        sigs = signAll(Statements.hash(said), T);
    }

    function test_one_statement_bumps_every_agent_of_a_removed_worker() public {
        (uint256[] memory ids, uint64[] memory epochs) = batch(3);
        vm.prank(owner);
        agents.setSecrets(ids[1], keccak256("one"));
        (Statements.WorkerBumps memory said, bytes[] memory sigs) = bumps(ids, epochs);
        vm.expectEmit();
        emit SecretsExposed(agents.agentIdOf(ids[1]), worker, 1);
        agents.bumpEpochsByCommittee(said, ids, epochs, sigs);
        for (uint256 i = 0; i < 3; ++i) {
            equal(record(ids[i]).epoch, 2);
        }
        agents.bumpEpochsByCommittee(said, ids, epochs, sigs);
        equal(record(ids[0]).epoch, 2);
    }

    function test_an_agent_that_left_the_epoch_holds_no_other_up() public {
        (uint256[] memory ids, uint64[] memory epochs) = batch(2);
        vm.prank(owner);
        agents.bumpEpoch(ids[0]);
        (Statements.WorkerBumps memory said, bytes[] memory sigs) = bumps(ids, epochs);
        agents.bumpEpochsByCommittee(said, ids, epochs, sigs);
        equal(record(ids[0]).epoch, 2);
        equal(record(ids[1]).epoch, 2);
    }

    function test_a_batch_is_the_one_that_was_signed() public {
        (uint256[] memory ids, uint64[] memory epochs) = batch(2);
        (Statements.WorkerBumps memory said, bytes[] memory sigs) = bumps(ids, epochs);
        epochs[0] = 7;
        vm.expectRevert(abi.encodeWithSelector(Agents.UnknownAgent.selector, said.agents));
        agents.bumpEpochsByCommittee(said, ids, epochs, sigs);
        (said, sigs) = bumps(ids, epochs);
        said.worker = named("another");
        (bool ok,) = address(agents).call(abi.encodeCall(Agents.bumpEpochsByCommittee, (said, ids, epochs, sigs)));
        equal(ok, false);
        vm.expectRevert(abi.encodeWithSelector(Agents.BadBatch.selector, 2, 1));
        agents.bumpEpochsByCommittee(said, ids, new uint64[](1), sigs);
        vm.expectRevert(abi.encodeWithSelector(Agents.BadBatch.selector, 0, 0));
        agents.bumpEpochsByCommittee(said, new uint256[](0), new uint64[](0), sigs);
        vm.expectRevert(abi.encodeWithSelector(Agents.BadBatch.selector, 257, 257));
        agents.bumpEpochsByCommittee(said, new uint256[](257), new uint64[](257), sigs);
    }

    // --- what is left under a master epoch ---

    function reseal(uint64 epoch, uint256[] memory ids) internal {
        Statements.Resealed memory said = Statements.Resealed(1, epoch, keccak256(abi.encode(ids)));
        reseals.record(said, ids, signAll(Statements.hash(said), T));
    }

    function one(uint256 id) internal pure returns (uint256[] memory ids) {
        ids = new uint256[](1);
        ids[0] = id;
    }

    function test_an_epoch_is_empty_when_every_agent_re_sealed_or_was_waived() public {
        (uint256[] memory ids,) = batch(3);
        equal(reseals.remaining(1), 3);
        rotating.rotate();
        uint256 young = deploy();
        equal(reseals.remaining(1), 3);
        equal(reseals.remaining(2), 1);
        reseal(2, one(ids[0]));
        reseal(2, one(ids[0]));
        equal(reseals.remaining(1), 2);
        equal(reseals.remaining(2), 2);
        vm.prank(owner);
        reseals.waiveEpoch(ids[1], 1);
        reseal(2, ids);
        equal(reseals.remaining(1), 0);
        equal(reseals.remaining(2), 4);
        equal(reseals.epochOf(young), 2);
    }

    function test_only_owners_waive_and_only_epochs_that_are_over() public {
        uint256 id = deploy();
        vm.expectRevert(abi.encodeWithSelector(Reseals.NotOwner.selector, id, address(this)));
        reseals.waiveEpoch(id, 1);
        vm.startPrank(owner);
        vm.expectRevert(abi.encodeWithSelector(Reseals.NotUnder.selector, id, 1, 1));
        reseals.waiveEpoch(id, 1);
        rotating.rotate();
        reseals.waiveEpoch(id, 1);
        vm.expectRevert(abi.encodeWithSelector(Reseals.NotUnder.selector, id, 1, 2));
        reseals.waiveEpoch(id, 1);
        vm.stopPrank();
    }

    function test_re_seals_count_as_the_committee_signed_them() public {
        (uint256[] memory ids,) = batch(2);
        Statements.Resealed memory said = Statements.Resealed(1, 2, keccak256(abi.encode(ids)));
        bytes[] memory sigs = signAll(Statements.hash(said), T);
        vm.expectRevert(abi.encodeWithSelector(Reseals.OtherAgents.selector, said.agents));
        reseals.record(said, one(ids[0]), sigs);
        said.masterEpoch = 3;
        (bool ok,) = address(reseals).call(abi.encodeCall(Reseals.record, (said, ids, sigs)));
        equal(ok, false);
        vm.expectRevert(abi.encodeWithSelector(Reseals.BadBatch.selector, 0));
        reseals.record(said, new uint256[](0), sigs);
        uint256[] memory nobody = one(99);
        said = Statements.Resealed(1, 2, keccak256(abi.encode(nobody)));
        sigs = signAll(Statements.hash(said), T);
        (ok,) = address(reseals).call(abi.encodeCall(Reseals.record, (said, nobody, sigs)));
        equal(ok, false);
    }

    function test_fuzz_every_agent_is_under_one_epoch(uint256 seed) public {
        (uint256[] memory ids,) = batch(4);
        for (uint256 i = 0; i < 12; ++i) {
            uint256 draw = uint256(keccak256(abi.encode(seed, i)));
            if (draw % 4 == 0 && rotating.masterEpoch() < 5) rotating.rotate();
            uint256 id = ids[(draw >> 8) % 4];
            if (draw % 3 == 0) {
                reseal(rotating.masterEpoch(), one(id));
            } else {
                vm.prank(owner);
                (bool ok,) = address(reseals).call(
                    abi.encodeCall(Reseals.waiveEpoch, (id, uint64((draw >> 16) % 5)))
                );
                ok;
            }
        }
        uint256 total;
        for (uint64 e = 1; e <= 5; ++e) {
            uint256 under;
            for (uint256 i = 0; i < 4; ++i) {
                if (reseals.epochOf(ids[i]) == e) ++under;
            }
            equal(reseals.remaining(e), under);
            total += under;
        }
        equal(total, 4);
    }
}
