// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {AgentAccount} from "../src/AgentAccount.sol";
import {Anchor} from "../src/Anchor.sol";
import {Gatekeepers} from "../src/Gatekeepers.sol";
import {Leases} from "../src/Leases.sol";
import {RemoteAgents} from "../src/RemoteAgents.sol";
import {RemoteStatements} from "../src/RemoteStatements.sol";
import {SignerSet} from "../src/SignerSet.sol";
import {Statements} from "../src/Statements.sol";
import {IAgents} from "../src/interfaces/IAgents.sol";
import {IAnchor} from "../src/interfaces/IAnchor.sol";
import {IGatekeepers} from "../src/interfaces/IGatekeepers.sol";
import {Anchored, Asker} from "./Anchored.sol";

/// @notice Makes both contracts of a connected chain: each names the other.
contract Abroad {
    RemoteAgents public immutable remote;
    Anchor public immutable anchor;

    constructor(address founder) {
        address second = address(
            uint160(uint256(keccak256(abi.encodePacked(bytes1(0xd6), bytes1(0x94), address(this), bytes1(0x02)))))
        );
        remote = new RemoteAgents(IGatekeepers(second));
        anchor = new Anchor(IAgents(address(remote)), Gatekeepers(address(0)), founder);
    }
}

/// @notice Something to call.
contract Bell {
    uint256 public rung;

    function ring() external payable {
        ++rung;
    }
}

/// @notice Agents on a chain where they do not live: who tells it of them, and what an account may do there.
contract RemoteAgentsTest is Anchored {
    uint256 internal constant SIGNER_KEY = 4242;
    RemoteAgents internal remote;
    Anchor internal abroad;
    AgentAccount internal account;
    Bell internal bell;
    address internal guardian = named("guardian");
    address internal payer = named("payer");
    bytes32 internal network;

    function setUp() public {
        anchored();
        network = gatekeepers.networkId();
        Abroad both = new Abroad(address(this));
        (remote, abroad) = (both.remote(), both.anchor());
        abroad.install(network, 1, gatekeepers.members(), T, uint64(block.timestamp) + 80 days);
        bell = new Bell();
        vm.roll(1000);
    }

    function facts() internal view returns (RemoteStatements.RemoteAgent memory s) {
        (s.term, s.chainId, s.anchor) = (1, block.chainid, address(abroad));
        (s.agent, s.agentEpoch, s.owner, s.guardian, s.payer) = (agentId, 1, owner, guardian, payer);
        (s.height, s.expiry) = (100, uint64(block.timestamp) + 2 hours);
    }

    function tell(RemoteStatements.RemoteAgent memory s) internal {
        remote.tell(s, signAll(RemoteStatements.hash(s), T));
    }

    function refusesToHear(RemoteStatements.RemoteAgent memory s, uint256 signers, bytes memory reason) internal {
        bytes[] memory sigs = signAll(RemoteStatements.hash(s), signers);
        vm.expectRevert(reason);
        remote.tell(s, sigs);
    }

    function opened() internal {
        tell(facts());
        account = remote.accounts().create(uint256(agentId));
        Statements.SetSigner memory s = Statements.SetSigner(1, agentId, 1, vm.addr(SIGNER_KEY));
        account.setSigner(s, signAll(Statements.hash(s), T));
        vm.deal(address(account), 10 ether);
        vm.startPrank(owner);
        account.setAllowed(address(bell), Bell.ring.selector, true);
        account.setCap(address(0), 1 ether);
        vm.stopPrank();
    }

    function ring(uint256 value) internal {
        vm.prank(vm.addr(SIGNER_KEY));
        account.execute(address(bell), value, abi.encodeCall(Bell.ring, ()));
    }

    function ringIsRefused(bytes memory reason) internal {
        vm.prank(vm.addr(SIGNER_KEY));
        vm.expectRevert(reason);
        account.execute(address(bell), 0, abi.encodeCall(Bell.ring, ()));
    }

    // --- who is heard ---

    function test_both_contracts_name_each_other() public view {
        equal(address(abroad.agents()), address(remote));
        equal(address(remote.signers()), address(abroad));
        equal(address(remote.accounts().agents()), address(remote));
    }

    function test_what_t_signers_say_is_known() public {
        tell(facts());
        (uint64 epoch, bool paused, address who) = remote.status(uint256(agentId));
        equal(epoch, 1);
        equal(paused, false);
        equal(who, guardian);
        equal(remote.ownerOf(uint256(agentId)), owner);
        (address pays, address owns) = remote.payerOf(agentId);
        equal(pays, payer);
        equal(owns, owner);
        equal(remote.agentIdOf(uint256(agentId)), agentId);
        equal(remote.isAuthorizedOrOwner(owner, uint256(agentId)), true);
        equal(remote.isAuthorizedOrOwner(guardian, uint256(agentId)), false);
        equal(remote.isAuthorizedOrOwner(address(0), 77), false);
    }

    function test_of_nobody_told_nothing_is_known() public {
        (uint64 epoch, bool paused) = remote.live(agentId);
        equal(epoch, 0);
        equal(paused, true);
        vm.expectRevert(abi.encodeWithSelector(RemoteAgents.UnknownAgent.selector, agentId));
        remote.ownerOf(uint256(agentId));
        (bool ok,) = address(remote.accounts()).call(abi.encodeWithSignature("create(uint256)", uint256(agentId)));
        equal(ok, false);
        vm.expectRevert(RemoteAgents.NotHere.selector);
        remote.bornIn(1);
        vm.expectRevert(RemoteAgents.NotHere.selector);
        remote.bornUnder(1);
    }

    function test_too_few_signers_another_term_or_an_expired_set_tell_nothing() public {
        refusesToHear(facts(), T - 1, abi.encodeWithSelector(SignerSet.TooFewSigners.selector, T - 1, T));
        RemoteStatements.RemoteAgent memory s = facts();
        s.term = 2;
        refusesToHear(s, T, abi.encodeWithSelector(SignerSet.WrongTerm.selector, 2, 1));
        uint64 end = abroad.signerSet().expiry;
        vm.warp(end);
        refusesToHear(facts(), T, abi.encodeWithSelector(SignerSet.SetExpired.selector, end, end));
    }

    function test_facts_for_another_place_or_another_time_are_refused() public {
        RemoteStatements.RemoteAgent memory s = facts();
        s.chainId = 5;
        refusesToHear(s, T, abi.encodeWithSelector(RemoteAgents.WrongPlace.selector, 5, address(abroad)));
        s = facts();
        s.anchor = address(anchor);
        refusesToHear(s, T, abi.encodeWithSelector(RemoteAgents.WrongPlace.selector, block.chainid, address(anchor)));
        s = facts();
        s.expiry = uint64(block.timestamp);
        refusesToHear(s, T, abi.encodeWithSelector(RemoteAgents.Expired.selector, block.timestamp, block.timestamp));
        s.expiry = uint64(block.timestamp) + 1 days + 1;
        refusesToHear(s, T, abi.encodeWithSelector(RemoteAgents.TooLong.selector, s.expiry));
    }

    function test_fuzz_older_facts_never_replace_newer_ones(uint64 height) public {
        tell(facts());
        RemoteStatements.RemoteAgent memory s = facts();
        s.height = uint64(bound(height, 0, 100));
        s.owner = named("another owner");
        refusesToHear(s, T, abi.encodeWithSelector(RemoteAgents.NotNewer.selector, s.height, 100));
        s.height = 101;
        tell(s);
        equal(remote.ownerOf(uint256(agentId)), s.owner);
    }

    function test_an_epoch_never_goes_back() public {
        RemoteStatements.RemoteAgent memory s = facts();
        s.agentEpoch = 3;
        tell(s);
        (s.agentEpoch, s.height) = (2, 101);
        refusesToHear(s, T, abi.encodeWithSelector(RemoteAgents.WrongEpoch.selector, 2, 3));
        Statements.EpochBump memory bump = Statements.EpochBump(1, agentId, 3);
        remote.closeEpoch(bump, signAll(Statements.hash(bump), T));
        (uint64 epoch, bool paused) = remote.live(agentId);
        equal(epoch, 4);
        equal(paused, true);
        bytes[] memory sigs = signAll(Statements.hash(bump), T);
        vm.expectRevert(abi.encodeWithSelector(RemoteAgents.WrongEpoch.selector, 3, 4));
        remote.closeEpoch(bump, sigs);
        bump.agentEpoch = 4;
        sigs = signAll(Statements.hash(bump), T - 1);
        vm.expectRevert(abi.encodeWithSelector(SignerSet.TooFewSigners.selector, T - 1, T));
        remote.closeEpoch(bump, sigs);
    }

    // --- leases and answers ---

    function leaseAbroad() internal view returns (Statements.AnchorLease memory l) {
        l = lease(0);
        l.anchor = address(abroad);
    }

    function asked() internal returns (IAnchor.Request memory r) {
        asker = new Asker(abroad);
        return ask(choice(), "?", 1 ether);
    }

    function replyTo(IAnchor.Request memory r) internal view returns (IAnchor.Signed[] memory by) {
        bytes32 c = keccak256(abi.encode(r));
        bytes32 said = Statements.hash(
            Statements.AnchorAnswer(block.chainid, address(abroad), c, keccak256("!"), 0)
        );
        by = new IAnchor.Signed[](1);
        by[0] = signBy(0, said);
    }

    function test_nobody_leases_an_agent_that_this_chain_was_not_told_of() public {
        Statements.AnchorLease memory l = leaseAbroad();
        bytes[] memory sigs = signAll(Statements.hash(l), T);
        vm.expectRevert(abi.encodeWithSelector(Leases.WrongAgentEpoch.selector, 1, 0));
        abroad.registerLease(l, sigs);
        tell(facts());
        abroad.registerLease(l, sigs);
    }

    function test_answers_count_until_facts_expire_or_somebody_stops_the_agent() public {
        tell(facts());
        Statements.AnchorLease memory l = leaseAbroad();
        abroad.registerLease(l, signAll(Statements.hash(l), T));
        IAnchor.Request memory r = asked();
        abroad.respond(r, "!", replyTo(r));
        equal(asker.replies(), 1);

        asker = new Asker(abroad);
        IAnchor.Ask memory a = choice();
        a.deadline = uint64(block.timestamp) + 3 hours;
        r = ask(a, "?", 1 ether);
        IAnchor.Signed[] memory by = replyTo(r);
        vm.prank(guardian);
        remote.stop(agentId);
        vm.expectRevert(abi.encodeWithSelector(Leases.AgentPaused.selector, agentId));
        abroad.respond(r, "!", by);
        vm.prank(guardian);
        vm.expectRevert(abi.encodeWithSelector(RemoteAgents.NotOwner.selector, guardian));
        remote.resume(agentId);
        vm.prank(owner);
        remote.resume(agentId);
        uint256 kept = block.timestamp;
        vm.warp(facts().expiry);
        vm.expectRevert(abi.encodeWithSelector(Leases.AgentPaused.selector, agentId));
        abroad.respond(r, "!", by);
        vm.warp(kept);
        abroad.respond(r, "!", by);
    }

    function test_strangers_stop_nobody() public {
        vm.expectRevert(abi.encodeWithSelector(RemoteAgents.NotOwner.selector, address(this)));
        remote.stop(agentId);
        tell(facts());
        vm.expectRevert(abi.encodeWithSelector(RemoteAgents.NotOwner.selector, address(this)));
        remote.stop(agentId);
        vm.expectRevert(abi.encodeWithSelector(RemoteAgents.NotOwner.selector, address(this)));
        remote.resume(agentId);
    }

    function test_a_stop_outlives_new_facts() public {
        tell(facts());
        vm.prank(owner);
        remote.stop(agentId);
        RemoteStatements.RemoteAgent memory s = facts();
        s.height = 200;
        tell(s);
        (, bool paused) = remote.live(agentId);
        equal(paused, true);
    }

    function test_the_named_payer_pays_here_as_at_home() public {
        tell(facts());
        abroad.deposit{value: 5 ether}(payer);
        vm.prank(payer);
        abroad.setConsent(agentId, owner, address(0), 1 ether, 2 ether, type(uint64).max);
        abroad.requestSponsored(choice(), 1 ether, "?");
        equal(abroad.credits(payer), 4 ether);
    }

    // --- the account ---

    function test_the_account_has_one_known_address_and_obeys_its_owner() public {
        tell(facts());
        address predicted = remote.accounts().addressOf(uint256(agentId));
        opened_(predicted);
        ring(1 ether);
        equal(bell.rung(), 1);
    }

    function opened_(address predicted) private {
        account = remote.accounts().create(uint256(agentId));
        equal(address(account), predicted);
        equal(account.agentId(), agentId);
        Statements.SetSigner memory s = Statements.SetSigner(1, agentId, 1, vm.addr(SIGNER_KEY));
        account.setSigner(s, signAll(Statements.hash(s), T));
        vm.deal(address(account), 10 ether);
        vm.startPrank(owner);
        account.setAllowed(address(bell), Bell.ring.selector, true);
        account.setCap(address(0), 1 ether);
        vm.stopPrank();
    }

    function test_fuzz_a_broken_worker_never_takes_more_than_the_cap(uint96[8] memory amounts) public {
        opened();
        for (uint256 i = 0; i < amounts.length; ++i) {
            uint256 value = bound(amounts[i], 0, 2 ether);
            vm.prank(vm.addr(SIGNER_KEY));
            try account.execute(address(bell), value, abi.encodeCall(Bell.ring, ())) {} catch {}
        }
        equal(address(bell).balance <= 1 ether, true);
        equal(address(account).balance, 10 ether - address(bell).balance);
    }

    function test_a_call_that_was_signed_for_home_does_not_count_here() public {
        opened();
        AgentAccount home = agents.accounts().create(tokenId);
        bytes memory data = abi.encodeCall(Bell.ring, ());
        bytes32 there = home.callDigest(address(bell), 0, data, 1, block.timestamp);
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(SIGNER_KEY, there);
        (bool ok,) = address(account).call(
            abi.encodeCall(
                AgentAccount.executeSigned, (address(bell), 0, data, 1, block.timestamp, abi.encodePacked(r, s, v))
            )
        );
        equal(ok, false);
        equal(bell.rung(), 0);
    }

    function test_stopping_freezing_and_age_end_what_the_signer_may() public {
        opened();
        vm.prank(guardian);
        remote.stop(agentId);
        ringIsRefused(abi.encodeWithSelector(AgentAccount.AgentPaused.selector));
        vm.prank(owner);
        remote.resume(agentId);
        vm.prank(guardian);
        account.freeze();
        ringIsRefused(abi.encodeWithSelector(AgentAccount.AccountFrozen.selector));
        vm.prank(owner);
        account.unfreeze();
        ring(0);
        vm.warp(facts().expiry);
        ringIsRefused(abi.encodeWithSelector(AgentAccount.AgentPaused.selector));
        vm.prank(owner);
        account.ownerExecute(payer, 1 ether, "");
        equal(payer.balance, 1 ether);
    }

    function test_a_new_epoch_retires_the_signer() public {
        opened();
        RemoteStatements.RemoteAgent memory s = facts();
        (s.agentEpoch, s.height) = (2, 101);
        tell(s);
        ringIsRefused(abi.encodeWithSelector(AgentAccount.WrongEpoch.selector, 1, 2));
    }

    function test_after_a_sale_was_told_the_old_owner_has_no_say() public {
        opened();
        RemoteStatements.RemoteAgent memory s = facts();
        (s.owner, s.height) = (named("buyer"), 101);
        tell(s);
        vm.prank(owner);
        vm.expectRevert(abi.encodeWithSelector(AgentAccount.NotOwner.selector, owner));
        account.setCap(address(0), 9 ether);
        vm.prank(s.owner);
        account.setCap(address(0), 2 ether);
    }

    function test_an_owner_without_a_key_here_owns_nothing_here() public {
        opened();
        RemoteStatements.RemoteAgent memory s = facts();
        (s.owner, s.height) = (address(0), 101);
        tell(s);
        vm.prank(owner);
        vm.expectRevert(abi.encodeWithSelector(AgentAccount.NotOwner.selector, owner));
        account.setCap(address(0), 9 ether);
        ring(1 ether);
    }
}
