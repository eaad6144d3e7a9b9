// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {Agents} from "../src/Agents.sol";
import {Candidates} from "../src/Candidates.sol";
import {Clusters} from "../src/Clusters.sol";
import {Gatekeepers} from "../src/Gatekeepers.sol";
import {Office} from "../src/Office.sol";
import {Reseals} from "../src/Reseals.sol";
import {Statements} from "../src/Statements.sol";
import {Founded} from "./Founded.sol";

/// @notice A member that signed two blocks of one height is revoked by the two signatures (gatekeepers.md W4); an owner
/// accepts a head of a forked store by t signatures (state.md 13).
contract ConflictsTest is Founded {
    Agents internal agents;
    Reseals internal reseals;
    address internal owner = named("owner");

    event HeadAccepted(bytes32 indexed agent, uint64 height, bytes32 head);

    function setUp() public {
        found();
        agents = new Agents(gatekeepers, new Clusters(address(this), 3));
        reseals = new Reseals(agents, gatekeepers);
    }

    // --- two checkpoints of one height ---

    function checkpoint(bytes32 block_) internal view returns (Statements.Checkpoint memory) {
        return Statements.Checkpoint(1, block.chainid, 7, block_, keccak256("root"), 1000);
    }

    function sign(uint256 seat, Statements.Checkpoint memory s) internal view returns (bytes memory) {
        return signOne(memberKeys[seat - 1], Statements.hash(s));
    }

    function refused(Statements.Checkpoint memory a, bytes memory sa, Statements.Checkpoint memory b, bytes memory sb)
        internal
    {
        vm.expectRevert(Gatekeepers.NoConflict.selector);
        gatekeepers.revokeConflicting(a, sa, b, sb);
    }

    function test_two_blocks_of_one_height_revoke_their_signer_and_nobody_else() public {
        Statements.Checkpoint memory a = checkpoint("a");
        Statements.Checkpoint memory b = checkpoint("b");
        (bytes memory sa, bytes memory sb) = (sign(2, a), sign(2, b));
        address bad = gatekeepers.members()[1];
        vm.prank(named("anybody"));
        gatekeepers.revokeConflicting(a, sa, b, sb);
        equal(gatekeepers.termOf(1).revoked, 2);
        equal(seats.candidate(bad).revoked, true);
        vm.expectRevert(abi.encodeWithSelector(Candidates.RevokedSeat.selector, bad));
        gatekeepers.revokeConflicting(a, sa, b, sb);
        bytes[] memory sigs = signAll(Statements.hash(a), 3);
        vm.expectRevert(abi.encodeWithSelector(Office.TooFewSigners.selector, 2, 3));
        gatekeepers.requireSigned(Statements.hash(a), sigs);
    }

    function test_what_goes_together_names_nobody() public {
        Statements.Checkpoint memory a = checkpoint("a");
        Statements.Checkpoint memory b = checkpoint("b");
        bytes memory sa = sign(2, a);
        refused(a, sa, a, sa);
        refused(a, sa, b, sign(3, b));
        refused(a, sa, b, sa);
        b.number = 8;
        refused(a, sa, b, sign(2, b));
        b = checkpoint("b");
        b.term = 2;
        refused(a, sa, b, sign(2, b));
        b = checkpoint("b");
        b.chainId = block.chainid + 1;
        refused(a, sa, b, sign(2, b));
        a.chainId = b.chainId;
        refused(a, sign(2, a), b, sign(2, b));
        equal(gatekeepers.termOf(1).revoked, 0);
    }

    function test_a_stranger_that_contradicts_itself_is_no_member() public {
        Statements.Checkpoint memory a = checkpoint("a");
        Statements.Checkpoint memory b = checkpoint("b");
        uint256 key = uint256(keccak256("stranger"));
        (bytes memory sa, bytes memory sb) = (signOne(key, Statements.hash(a)), signOne(key, Statements.hash(b)));
        vm.expectRevert(abi.encodeWithSelector(Office.NotAMember.selector, vm.addr(key)));
        gatekeepers.revokeConflicting(a, sa, b, sb);
        (a.term, b.term) = (9, 9);
        (sa, sb) = (sign(2, a), sign(2, b));
        vm.expectRevert(abi.encodeWithSelector(Office.NotAMember.selector, gatekeepers.members()[1]));
        gatekeepers.revokeConflicting(a, sa, b, sb);
    }

    function test_fuzz_any_field_that_differs_is_a_conflict(bytes32 hash_, bytes32 root, uint64 time) public {
        Statements.Checkpoint memory a = checkpoint("a");
        Statements.Checkpoint memory b = checkpoint(hash_);
        (b.stateRoot, b.timestamp) = (root, time);
        (bytes memory sa, bytes memory sb) = (sign(4, a), sign(4, b));
        gatekeepers.revokeConflicting(a, sa, b, sb);
        equal(gatekeepers.termOf(1).revoked, 8);
    }

    // --- a head of a forked store ---

    function deploy() internal returns (uint256 tokenId) {
        vm.prank(owner);
        return agents.register();
    }

    function head(uint256 tokenId, uint64 height, bytes32 name) internal view returns (Statements.StateHead memory) {
        return Statements.StateHead(1, agents.agentIdOf(tokenId), keccak256("c"), 1, 1, 1, height, keccak256("p"), name);
    }

    /// @dev Paused, and under new keys.
    function stuck() internal returns (uint256 tokenId) {
        tokenId = deploy();
        vm.startPrank(owner);
        agents.pause(tokenId);
        agents.bumpEpoch(tokenId);
        vm.stopPrank();
    }

    function accept(uint256 tokenId, Statements.StateHead memory s, uint256 signers) internal {
        bytes[] memory sigs = signAll(Statements.hash(s), signers);
        vm.prank(owner);
        reseals.acceptHead(tokenId, s, sigs);
    }

    function test_an_owner_accepts_what_t_members_signed() public {
        uint256 id = stuck();
        Statements.StateHead memory s = head(id, 5, "h");
        vm.expectEmit();
        emit HeadAccepted(s.agent, 5, "h");
        accept(id, s, 3);
        Reseals.AcceptedHead memory kept = reseals.acceptedHead(s.agent);
        equal(kept.head, "h");
        equal(kept.parent, s.parent);
        equal(kept.cluster, s.cluster);
        equal(kept.height, 5);
        equal(kept.agentEpoch, 1);
        equal(kept.clusterEpoch, 1);
        equal(kept.masterEpoch, 1);
        equal(reseals.acceptanceCount(), 1);
    }

    function test_fewer_than_t_signatures_accept_nothing() public {
        uint256 id = stuck();
        Statements.StateHead memory s = head(id, 5, "h");
        bytes[] memory sigs = signAll(Statements.hash(s), 2);
        vm.prank(owner);
        vm.expectRevert(abi.encodeWithSelector(Office.TooFewSigners.selector, 2, 3));
        reseals.acceptHead(id, s, sigs);
    }

    function test_nobody_but_the_owner_accepts() public {
        uint256 id = stuck();
        Statements.StateHead memory s = head(id, 5, "h");
        bytes[] memory sigs = signAll(Statements.hash(s), 3);
        vm.expectRevert(abi.encodeWithSelector(Reseals.NotOwner.selector, id, address(this)));
        reseals.acceptHead(id, s, sigs);
    }

    function test_another_agents_head_is_none() public {
        uint256 id = stuck();
        Statements.StateHead memory s = head(deploy(), 5, "h");
        bytes[] memory sigs = signAll(Statements.hash(s), 3);
        vm.prank(owner);
        vm.expectRevert(abi.encodeWithSelector(Reseals.OtherAgents.selector, s.agent));
        reseals.acceptHead(id, s, sigs);
    }

    function test_of_each_height_one_head_and_never_a_lower_one() public {
        uint256 id = stuck();
        accept(id, head(id, 5, "h"), 3);
        for (uint64 height = 4; height <= 5; ++height) {
            Statements.StateHead memory s = head(id, height, "other");
            bytes[] memory sigs = signAll(Statements.hash(s), 3);
            vm.prank(owner);
            vm.expectRevert(abi.encodeWithSelector(Reseals.NotAcceptable.selector, s.agent, 1, height));
            reseals.acceptHead(id, s, sigs);
        }
        accept(id, head(id, 6, "next"), 3);
        equal(reseals.acceptanceCount(), 2);
    }

    function test_a_head_of_the_present_epoch_waits_for_a_bump() public {
        uint256 id = stuck();
        Statements.StateHead memory s = head(id, 5, "h");
        s.agentEpoch = 2;
        bytes[] memory sigs = signAll(Statements.hash(s), 3);
        vm.prank(owner);
        vm.expectRevert(abi.encodeWithSelector(Reseals.NotAcceptable.selector, s.agent, 2, 5));
        reseals.acceptHead(id, s, sigs);
        vm.startPrank(owner);
        agents.bumpEpoch(id);
        reseals.acceptHead(id, s, sigs);
        vm.stopPrank();
        equal(reseals.acceptedHead(s.agent).agentEpoch, 2);
    }

    function test_an_agent_that_runs_accepts_nothing() public {
        uint256 id = stuck();
        Statements.StateHead memory s = head(id, 5, "h");
        bytes[] memory sigs = signAll(Statements.hash(s), 3);
        vm.startPrank(owner);
        agents.resume(id);
        vm.expectRevert(abi.encodeWithSelector(Reseals.NotPaused.selector, s.agent));
        reseals.acceptHead(id, s, sigs);
        vm.stopPrank();
    }
}
