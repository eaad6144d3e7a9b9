// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {Agents} from "../src/Agents.sol";
import {Clusters} from "../src/Clusters.sol";
import {Founded} from "./Founded.sol";

/// @notice Guardian, DAO, hook, payer, lists, cluster: what limits an agent beside its code.
contract AgentRulesTest is Founded {
    bytes32 internal constant CODE = keccak256("code");
    bytes32 internal constant MANIFEST = keccak256("manifest");
    Clusters internal clusters;
    Agents internal agents;
    address internal owner = named("owner");
    address internal guardian = named("guardian");
    address internal dao = named("dao");
    uint256 internal id;
    bytes32 internal agentId;

    function setUp() public {
        found();
        clusters = new Clusters(dao, 3);
        agents = new Agents(gatekeepers, clusters);
        bytes32 cluster = clusters.defaultCluster();
        vm.startPrank(owner);
        id = agents.deploy(Agents.Deployment(CODE, MANIFEST, cluster, Agents.UpgradeMode.Delayed, 10, ""));
        agents.setGuardian(id, guardian);
        vm.stopPrank();
        agentId = agents.agentIdOf(id);
    }

    function refuses(address who, bytes memory data, bytes memory reason) internal {
        vm.prank(who);
        (bool ok, bytes memory answer) = address(agents).call(data);
        equal(ok, false);
        equal(answer, reason);
    }

    function paused() internal view returns (bool p) {
        (, p) = agents.live(agentId);
    }

    // --- veto ---

    function test_the_guardian_vetoes_a_waiting_change() public {
        vm.prank(owner);
        agents.setCode(id, keccak256("new"), MANIFEST);
        vm.expectEmit();
        emit Agents.CodeCancelled(agentId);
        vm.prank(guardian);
        agents.cancelCode(id);
        vm.roll(block.number + 10);
        refuses(owner, abi.encodeCall(Agents.applyCode, (id)), abi.encodeWithSelector(Agents.NothingPending.selector));
    }

    function test_a_new_guardian_drops_a_waiting_change() public {
        vm.startPrank(owner);
        agents.setCode(id, keccak256("new"), MANIFEST);
        agents.setGuardian(id, address(0));
        vm.stopPrank();
        equal(agents.pendingCode(agentId).codeHash, 0);
    }

    function test_nobody_else_vetoes() public {
        vm.prank(owner);
        agents.setCode(id, keccak256("new"), MANIFEST);
        refuses(
            dao,
            abi.encodeCall(Agents.cancelCode, (id)),
            abi.encodeWithSelector(Agents.NotOwnerOrGuardian.selector, id, dao)
        );
    }

    // --- emergency ---

    function test_fuzz_an_emergency_binds_the_owner_until_its_block(uint64 blocks, uint64 wait) public {
        blocks = uint64(bound(blocks, 1, agents.MAX_EMERGENCY()));
        wait = uint64(bound(wait, 0, 2 * uint256(agents.MAX_EMERGENCY())));
        uint64 until = uint64(block.number) + blocks;
        vm.prank(dao);
        agents.emergencyPause(id, blocks);
        equal(paused(), true);
        equal(agents.rules(agentId).emergencyUntil, until);
        vm.roll(block.number + wait);
        vm.prank(owner);
        if (wait < blocks) vm.expectRevert(abi.encodeWithSelector(Agents.InEmergency.selector, until, block.number));
        agents.resume(id);
        equal(paused(), wait < blocks);
    }

    function test_the_dao_lifts_and_only_the_owner_resumes() public {
        vm.startPrank(dao);
        agents.emergencyPause(id, 5);
        agents.emergencyLift(id);
        vm.stopPrank();
        equal(paused(), true);
        refuses(dao, abi.encodeCall(Agents.resume, (id)), abi.encodeWithSelector(Agents.NotOwner.selector, id, dao));
        vm.prank(owner);
        agents.resume(id);
        equal(paused(), false);
    }

    function test_a_sale_does_not_escape_an_emergency() public {
        vm.prank(dao);
        agents.emergencyPause(id, 5);
        vm.prank(owner);
        agents.transferFrom(owner, named("buyer"), id);
        refuses(
            named("buyer"),
            abi.encodeCall(Agents.resume, (id)),
            abi.encodeWithSelector(Agents.InEmergency.selector, uint64(block.number) + 5, block.number)
        );
    }

    function test_the_emergency_has_bounds_and_one_hand() public {
        uint64 most = agents.MAX_EMERGENCY();
        refuses(
            owner,
            abi.encodeCall(Agents.emergencyPause, (id, 1)),
            abi.encodeWithSelector(Agents.NotDao.selector, owner)
        );
        refuses(
            owner, abi.encodeCall(Agents.emergencyLift, (id)), abi.encodeWithSelector(Agents.NotDao.selector, owner)
        );
        refuses(dao, abi.encodeCall(Agents.emergencyPause, (id, 0)), abi.encodeWithSelector(Agents.BadEmergency.selector, 0));
        refuses(
            dao,
            abi.encodeCall(Agents.emergencyPause, (id, most + 1)),
            abi.encodeWithSelector(Agents.BadEmergency.selector, most + 1)
        );
        refuses(
            dao,
            abi.encodeCall(Agents.emergencyPause, (99, 1)),
            abi.encodeWithSignature("ERC721NonexistentToken(uint256)", 99)
        );
    }

    // --- limits ---

    function test_every_limit_is_stored_and_announced() public {
        vm.startPrank(owner);
        vm.expectEmit();
        emit Agents.AccessHookSet(agentId, address(clusters));
        agents.setAccessHook(id, address(clusters));
        vm.expectEmit();
        emit Agents.FeePayerSet(agentId, named("payer"));
        agents.setFeePayer(id, named("payer"));
        vm.expectEmit();
        emit Agents.ListsSet(agentId, bytes32(uint256(1)), bytes32(uint256(2)), bytes32(uint256(3)));
        agents.setLists(id, bytes32(uint256(1)), bytes32(uint256(2)), bytes32(uint256(3)));
        vm.stopPrank();
        Agents.Rules memory r = agents.rules(agentId);
        equal(r.accessHook, address(clusters));
        equal(r.feePayer, named("payer"));
        equal(r.egressHash, bytes32(uint256(1)));
        equal(r.toolsHash, bytes32(uint256(2)));
        equal(r.modelsHash, bytes32(uint256(3)));
        equal(r.version, 3);
    }

    function test_a_hook_is_a_contract() public {
        refuses(
            owner,
            abi.encodeCall(Agents.setAccessHook, (id, named("person"))),
            abi.encodeWithSelector(Agents.NotAHook.selector, named("person"))
        );
    }

    function test_another_cluster_means_new_keys() public {
        bytes32 other = clusters.create(2);
        vm.prank(owner);
        agents.setCluster(id, other);
        equal(agents.agent(agentId).cluster, other);
        equal(agents.agent(agentId).epoch, 2);
        refuses(
            owner,
            abi.encodeCall(Agents.setCluster, (id, other)),
            abi.encodeWithSelector(Agents.SameCluster.selector, other)
        );
        refuses(
            owner,
            abi.encodeCall(Agents.setCluster, (id, CODE)),
            abi.encodeWithSelector(Agents.UnknownCluster.selector, CODE)
        );
    }

    function test_a_sale_ends_hook_and_payer_and_an_agent_that_had_a_hook_waits() public {
        vm.startPrank(owner);
        agents.setAccessHook(id, address(clusters));
        agents.setFeePayer(id, named("payer"));
        agents.setLists(id, bytes32(uint256(1)), 0, 0);
        agents.transferFrom(owner, named("buyer"), id);
        vm.stopPrank();
        Agents.Rules memory r = agents.rules(agentId);
        equal(r.accessHook, address(0));
        equal(r.feePayer, address(0));
        equal(r.egressHash, bytes32(uint256(1)));
        equal(paused(), true);
        vm.prank(named("buyer"));
        agents.resume(id);
        equal(paused(), false);
    }

    function test_a_sale_without_a_hook_does_not_pause() public {
        vm.prank(owner);
        agents.transferFrom(owner, named("buyer"), id);
        equal(paused(), false);
    }

    function test_fuzz_only_the_owner_sets_limits(address who, uint8 which) public {
        vm.assume(who != owner && who != address(0));
        bytes[4] memory calls = [
            abi.encodeCall(Agents.setAccessHook, (id, address(clusters))),
            abi.encodeCall(Agents.setFeePayer, (id, who)),
            abi.encodeCall(Agents.setLists, (id, CODE, CODE, CODE)),
            abi.encodeCall(Agents.setCluster, (id, CODE))
        ];
        refuses(who, calls[which % 4], abi.encodeWithSelector(Agents.NotOwner.selector, id, who));
    }

    function test_no_such_agent_is_not_live() public view {
        (uint64 epoch, bool p) = agents.live(CODE);
        equal(epoch, 0);
        equal(p, false);
    }
}
