// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {Anchor} from "../src/Anchor.sol";
import {Gatekeepers} from "../src/Gatekeepers.sol";
import {Leases} from "../src/Leases.sol";
import {Seats} from "../src/Seats.sol";
import {SignerSet} from "../src/SignerSet.sol";
import {Statements} from "../src/Statements.sol";
import {IAgents} from "../src/interfaces/IAgents.sol";
import {IAnchor} from "../src/interfaces/IAnchor.sol";
import {Anchored} from "./Anchored.sol";

/// @notice Who may speak at an Anchor: signer sets, leases, epochs, removals; at home and on another chain.
contract AnchorSignersTest is Anchored {
    bytes32 internal constant NETWORK = keccak256("network");
    Anchor internal abroad;

    function setUp() public {
        anchored();
        abroad = new Anchor(IAgents(address(0)), Gatekeepers(address(0)), address(this));
    }

    function set(uint256 from, uint256 count) internal pure returns (address[] memory members, uint256[] memory keys) {
        (members, keys) = (new address[](count), new uint256[](count));
        for (uint256 i = 0; i < count; ++i) {
            keys[i] = uint256(keccak256(abi.encode("signer", from + i)));
            members[i] = vm.addr(keys[i]);
        }
    }

    function install() internal {
        (address[] memory members,) = set(0, 5);
        abroad.install(NETWORK, 1, members, 3, uint64(block.timestamp) + 10 days);
    }

    function sign(uint256 from, uint256 count, bytes32 structHash) internal pure returns (bytes[] memory sigs) {
        (, uint256[] memory keys) = set(from, count);
        sigs = new bytes[](count);
        for (uint256 i = 0; i < count; ++i) {
            (uint8 v, bytes32 r, bytes32 s) = vm.sign(keys[i], Statements.digest(NETWORK, structHash));
            sigs[i] = abi.encodePacked(r, s, v);
        }
    }

    function leaseAbroad(uint64 term, uint64 epoch) internal view returns (Statements.AnchorLease memory l) {
        l = lease(0);
        (l.term, l.anchor, l.agentEpoch) = (term, address(abroad), epoch);
    }

    function hold(Statements.AnchorLease memory l, uint256 from) internal {
        abroad.registerLease(l, sign(from, 3, Statements.hash(l)));
    }

    function handover(uint64 next) internal view returns (Statements.SignerHandover memory h, address[] memory members) {
        (members,) = set(10, 5);
        h = Statements.SignerHandover(
            1, block.chainid, address(abroad), next, 3, keccak256(abi.encode(members)), uint64(block.timestamp) + 20 days
        );
    }

    // --- at home ---

    function test_the_committee_in_office_is_copied_and_its_time_extended() public {
        SignerSet.Set memory s = anchor.signerSet();
        equal(s.term, 1);
        equal(s.threshold, T);
        equal(s.size, N);
        equal(anchor.networkId(), gatekeepers.networkId());
        equal(anchor.isSigner(vm.addr(memberKeys[0])), true);
        equal(anchor.isSigner(named("stranger")), false);
        vm.warp(block.timestamp + 5 days);
        anchor.adopt();
        equal(anchor.signerSet().expiry, uint64(block.timestamp) + 90 days);
    }

    function test_nothing_counts_before_a_committee_is_in_office() public {
        Anchor early = new Anchor(agents, new Gatekeepers(address(this), new Seats(address(this), pha), quick()), address(0));
        vm.expectRevert(abi.encodeWithSelector(SignerSet.TermNotNewer.selector, 0, 0));
        early.adopt();
        Statements.AnchorLease memory l = lease(0);
        l.anchor = address(early);
        bytes[] memory sigs = signAll(Statements.hash(l), T);
        vm.expectRevert(abi.encodeWithSelector(SignerSet.WrongTerm.selector, 1, 0));
        early.registerLease(l, sigs);
    }

    function test_home_and_abroad_have_each_their_own_door() public {
        (address[] memory members,) = set(0, 5);
        vm.expectRevert(SignerSet.NotHere.selector);
        anchor.install(NETWORK, 1, members, 3, uint64(block.timestamp) + 1);
        vm.expectRevert(SignerSet.NotHere.selector);
        abroad.adopt();
        (Statements.SignerHandover memory h, address[] memory next) = handover(2);
        vm.expectRevert(SignerSet.NotHere.selector);
        anchor.handOver(h, next, new bytes[](0));
        vm.expectRevert(SignerSet.NotHere.selector);
        anchor.closeEpoch(Statements.EpochBump(1, agentId, 1), new bytes[](0));
    }

    // --- leases ---

    function test_fuzz_what_no_lease_may_be(uint8 which) public {
        Statements.AnchorLease memory l = lease(0);
        l.expiry += 1;
        which %= 7;
        bytes memory reason;
        if (which == 0) (l.chainId, reason) = (1, abi.encodeWithSelector(SignerSet.WrongPlace.selector, 1, anchor));
        if (which == 1) (l.anchor, reason) = (owner, abi.encodeWithSelector(SignerSet.WrongPlace.selector, block.chainid, owner));
        if (which == 2) (l.term, reason) = (2, abi.encodeWithSelector(SignerSet.WrongTerm.selector, 2, 1));
        if (which == 3) (l.agentEpoch, reason) = (2, abi.encodeWithSelector(Leases.WrongAgentEpoch.selector, 2, 1));
        if (which == 4) (l.payee, reason) = (address(0), abi.encodeWithSelector(Leases.NoPayee.selector));
        if (which == 5) {
            l.expiry = uint64(block.timestamp) + 1 days + 1;
            reason = abi.encodeWithSelector(Leases.LeaseTooLong.selector, l.expiry);
        }
        if (which == 6) {
            l.expiry = uint64(block.timestamp);
            reason = abi.encodeWithSelector(Leases.LeaseExpired.selector, l.expiry, block.timestamp);
        }
        bytes[] memory sigs = signAll(Statements.hash(l), T);
        vm.expectRevert(reason);
        anchor.registerLease(l, sigs);
    }

    function test_t_distinct_members_sign_a_lease_and_no_older_one_comes_back() public {
        Statements.AnchorLease memory l = lease(0);
        bytes[] memory sigs = signAll(Statements.hash(l), T);
        vm.expectRevert(abi.encodeWithSelector(Leases.LeaseNotNewer.selector, l.expiry, l.expiry));
        anchor.registerLease(l, sigs);
        l.expiry += 1;
        sigs = signAll(Statements.hash(l), T);
        sigs[2] = sigs[1];
        vm.expectRevert(abi.encodeWithSelector(SignerSet.TooFewSigners.selector, 2, T));
        anchor.registerLease(l, sigs);
        sigs = signAll(Statements.hash(l), T);
        sigs[0] = signOne(7, Statements.hash(l));
        vm.expectRevert(abi.encodeWithSelector(SignerSet.NotASigner.selector, vm.addr(7)));
        anchor.registerLease(l, sigs);
        sigs[0] = hex"";
        vm.expectRevert(abi.encodeWithSelector(SignerSet.BadSignature.selector, 0));
        anchor.registerLease(l, sigs);
        vm.expectRevert(abi.encodeWithSelector(SignerSet.TooManySignatures.selector, 6, 5));
        anchor.registerLease(l, new bytes[](6));
        anchor.registerLease(l, signAll(Statements.hash(l), N));
        equal(anchor.lease(agentId, worker(0)).expiry, l.expiry);
    }

    function test_a_removed_worker_loses_its_lease_and_gets_no_new_one() public {
        Statements.WorkerRemoval memory removal = Statements.WorkerRemoval(1, worker(0));
        bytes32[] memory of_ = new bytes32[](1);
        of_[0] = agentId;
        anchor.removeWorker(removal, signAll(Statements.hash(removal), T), of_);
        IAnchor.Request memory r = ask(choice(), "q", 0);
        refuses(r, "a", signed(r, "a", 1), abi.encodeWithSelector(Leases.NoLease.selector, agentId, worker(0)));
        Statements.AnchorLease memory l = lease(0);
        l.expiry += 1;
        bytes[] memory sigs = signAll(Statements.hash(l), T);
        vm.expectRevert(abi.encodeWithSelector(Leases.RemovedForCause.selector, worker(0)));
        anchor.registerLease(l, sigs);
    }

    // --- abroad ---

    function test_the_founder_installs_once() public {
        (address[] memory members,) = set(0, 5);
        vm.prank(owner);
        vm.expectRevert(abi.encodeWithSelector(SignerSet.NotFounder.selector, owner));
        abroad.install(NETWORK, 1, members, 3, uint64(block.timestamp) + 1);
        install();
        vm.expectRevert(SignerSet.AlreadyInstalled.selector);
        abroad.install(NETWORK, 2, members, 3, uint64(block.timestamp) + 1);
    }

    function test_fuzz_what_no_set_may_be(uint8 which) public {
        (address[] memory members,) = set(0, 5);
        uint16 threshold = 3;
        uint64 expiry = uint64(block.timestamp) + 1 days;
        bytes32 network = NETWORK;
        which %= 7;
        if (which == 0) threshold = 1;
        if (which == 1) threshold = 6;
        if (which == 2) members[4] = members[0];
        if (which == 3) members[2] = address(0);
        if (which == 4) expiry = uint64(block.timestamp);
        if (which == 5) expiry = uint64(block.timestamp) + 91 days;
        if (which == 6) network = 0;
        vm.expectRevert(SignerSet.BadSet.selector);
        abroad.install(network, 1, members, threshold, expiry);
    }

    function test_each_set_names_the_next_and_older_leases_end_with_it() public {
        install();
        hold(leaseAbroad(1, 1), 0);
        equal(abroad.lease(agentId, worker(0)).payee, payee);
        (Statements.SignerHandover memory h, address[] memory members) = handover(2);
        bytes[] memory sigs = sign(0, 3, Statements.hash(h));
        abroad.handOver(h, members, sigs);
        equal(abroad.signerSet().term, 2);
        equal(abroad.lease(agentId, worker(0)).payee, address(0));
        vm.expectRevert(abi.encodeWithSelector(SignerSet.TermNotNewer.selector, 2, 2));
        abroad.handOver(h, members, sigs);
        Statements.AnchorLease memory l = leaseAbroad(1, 1);
        l.expiry += 1;
        sigs = sign(0, 3, Statements.hash(l));
        vm.expectRevert(abi.encodeWithSelector(SignerSet.WrongTerm.selector, 1, 2));
        abroad.registerLease(l, sigs);
        l.term = 2;
        sigs = sign(0, 3, Statements.hash(l));
        (address[] memory old,) = set(0, 1);
        vm.expectRevert(abi.encodeWithSelector(SignerSet.NotASigner.selector, old[0]));
        abroad.registerLease(l, sigs);
        hold(l, 10);
        equal(abroad.lease(agentId, worker(0)).payee, payee);
    }

    function test_a_hand_over_needs_t_signatures_of_this_place_and_these_members() public {
        install();
        (Statements.SignerHandover memory h, address[] memory members) = handover(2);
        bytes[] memory sigs = sign(0, 2, Statements.hash(h));
        vm.expectRevert(abi.encodeWithSelector(SignerSet.TooFewSigners.selector, 2, 3));
        abroad.handOver(h, members, sigs);
        (members[0], members[1]) = (members[1], members[0]);
        vm.expectRevert(abi.encodeWithSelector(SignerSet.WrongMembers.selector, h.members));
        abroad.handOver(h, members, sigs);
        h.anchor = address(anchor);
        vm.expectRevert(abi.encodeWithSelector(SignerSet.WrongPlace.selector, block.chainid, address(anchor)));
        abroad.handOver(h, members, sigs);
    }

    function test_an_expired_set_can_do_nothing() public {
        install();
        uint64 end = abroad.signerSet().expiry;
        vm.warp(end);
        (Statements.SignerHandover memory h, address[] memory members) = handover(2);
        bytes[] memory sigs = sign(0, 3, Statements.hash(h));
        vm.expectRevert(abi.encodeWithSelector(SignerSet.SetExpired.selector, end, end));
        abroad.handOver(h, members, sigs);
        Statements.AnchorLease memory l = leaseAbroad(1, 1);
        sigs = sign(0, 3, Statements.hash(l));
        vm.expectRevert(abi.encodeWithSelector(SignerSet.SetExpired.selector, end, end));
        abroad.registerLease(l, sigs);
    }

    function test_abroad_epochs_only_rise_and_the_committee_closes_them() public {
        install();
        hold(leaseAbroad(1, 3), 0);
        equal(abroad.currentEpoch(agentId), 3);
        Statements.AnchorLease memory old = leaseAbroad(1, 2);
        bytes[] memory sigs = sign(0, 3, Statements.hash(old));
        vm.expectRevert(abi.encodeWithSelector(Leases.WrongAgentEpoch.selector, 2, 3));
        abroad.registerLease(old, sigs);
        Statements.EpochBump memory bump = Statements.EpochBump(1, agentId, 3);
        sigs = sign(0, 3, Statements.hash(bump));
        abroad.closeEpoch(bump, sigs);
        equal(abroad.currentEpoch(agentId), 4);
        equal(abroad.lease(agentId, worker(0)).payee, address(0));
        vm.expectRevert(abi.encodeWithSelector(Leases.WrongAgentEpoch.selector, 3, 4));
        abroad.closeEpoch(bump, sigs);
    }
}
