// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {Anchor} from "../src/Anchor.sol";
import {Leases} from "../src/Leases.sol";
import {Statements} from "../src/Statements.sol";
import {IAnchor} from "../src/interfaces/IAnchor.sol";
import {Anchored} from "./Anchored.sol";

/// @notice The versioned store: all or nothing, never twice.
contract AnchorStoreTest is Anchored {
    function setUp() public {
        anchored();
    }

    function update(bytes32 key, uint64 version, bytes memory value) internal pure returns (IAnchor.Commit memory c) {
        c.updates = new IAnchor.Update[](1);
        c.updates[0] = IAnchor.Update(key, version, value);
    }

    function commitBy(uint256 i, IAnchor.Commit memory c, uint64 deadline)
        internal
        view
        returns (IAnchor.Signed memory)
    {
        Statements.AnchorCommit memory s =
            Statements.AnchorCommit(block.chainid, address(anchor), agentId, keccak256(abi.encode(c)), deadline);
        return signBy(i, Statements.hash(s));
    }

    function write(IAnchor.Commit memory c) internal {
        anchor.commit(agentId, c, uint64(block.timestamp), commitBy(0, c, uint64(block.timestamp)));
    }

    function refusesCommit(IAnchor.Commit memory c, bytes memory reason) internal {
        IAnchor.Signed memory by = commitBy(0, c, uint64(block.timestamp));
        vm.expectRevert(reason);
        anchor.commit(agentId, c, uint64(block.timestamp), by);
    }

    function stored(bytes32 key) internal view returns (uint64 version, bytes memory value) {
        return anchor.read(agentId, key);
    }

    function test_a_commit_counts_once() public {
        IAnchor.Commit memory c = update("k", 0, "one");
        write(c);
        (uint64 version, bytes memory value) = stored("k");
        equal(version, 1);
        equal(value, "one");
        refusesCommit(c, abi.encodeWithSelector(Anchor.WrongVersion.selector, bytes32("k"), 0, 1));
        write(update("k", 1, ""));
        (version, value) = stored("k");
        equal(version, 2);
        equal(value, "");
    }

    function test_several_keys_all_or_nothing_under_conditions() public {
        write(update("a", 0, "1"));
        IAnchor.Commit memory c;
        c.conditions = new IAnchor.Condition[](2);
        (c.conditions[0], c.conditions[1]) = (IAnchor.Condition("a", 1), IAnchor.Condition("lock", 0));
        c.updates = new IAnchor.Update[](2);
        (c.updates[0], c.updates[1]) = (IAnchor.Update("b", 0, "2"), IAnchor.Update("c", 7, "3"));
        refusesCommit(c, abi.encodeWithSelector(Anchor.WrongVersion.selector, bytes32("c"), 7, 0));
        (uint64 version,) = stored("b");
        equal(version, 0);
        c.updates[1].version = 0;
        write(c);
        (version,) = stored("c");
        equal(version, 1);
        write(update("lock", 0, "x"));
        (c.updates[0].version, c.updates[1].version) = (1, 1);
        refusesCommit(c, abi.encodeWithSelector(Anchor.WrongVersion.selector, bytes32("lock"), 0, 1));
    }

    function test_agents_have_each_their_own_store() public {
        write(update("k", 0, "one"));
        (uint64 version,) = anchor.read(keccak256("other"), "k");
        equal(version, 0);
    }

    function test_a_commit_is_signed_leased_in_time_and_not_empty() public {
        IAnchor.Commit memory c = update("k", 0, "one");
        IAnchor.Signed memory by = commitBy(0, c, uint64(block.timestamp));
        by.worker = worker(1);
        vm.expectRevert(abi.encodeWithSelector(Anchor.NotSignedBy.selector, worker(1)));
        anchor.commit(agentId, c, uint64(block.timestamp), by);
        by = commitBy(0, c, uint64(block.timestamp) - 1);
        vm.expectRevert(
            abi.encodeWithSelector(Anchor.DeadlinePassed.selector, uint64(block.timestamp) - 1, block.timestamp)
        );
        anchor.commit(agentId, c, uint64(block.timestamp) - 1, by);
        IAnchor.Commit memory none;
        refusesCommit(none, abi.encodeWithSelector(Anchor.BadCommit.selector));
        refusesCommit(update("k", 0, new bytes(1025)), abi.encodeWithSelector(Anchor.BadCommit.selector));
        vm.prank(owner);
        agents.pause(tokenId);
        refusesCommit(c, abi.encodeWithSelector(Leases.AgentPaused.selector, agentId));
    }

    function test_an_answer_and_its_commit_happen_together() public {
        IAnchor.Request memory r = ask(choice(), "q", 1 ether);
        IAnchor.Commit memory c = update("k", 3, "one");
        IAnchor.Signed[] memory by = new IAnchor.Signed[](1);
        by[0] = signBy(0, answerDigest(r, "a", keccak256(abi.encode(c))));
        vm.expectRevert(abi.encodeWithSelector(Anchor.WrongVersion.selector, bytes32("k"), 3, 0));
        anchor.respondAndCommit(r, "a", c, by);
        equal(asker.replies(), 0);
        equal(anchor.isOpen(r), true);
        refuses(r, "a", by, abi.encodeWithSelector(Anchor.NotSignedBy.selector, worker(0)));
        c.updates[0].version = 0;
        by[0] = signBy(0, answerDigest(r, "a", keccak256(abi.encode(c))));
        anchor.respondAndCommit(r, "a", c, by);
        equal(asker.replies(), 1);
        (uint64 version,) = stored("k");
        equal(version, 1);
    }
}
