// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {AgentConsumer} from "../src/AgentConsumer.sol";
import {Anchor} from "../src/Anchor.sol";
import {Sponsors} from "../src/Sponsors.sol";
import {IAgents} from "../src/interfaces/IAgents.sol";
import {IAnchor} from "../src/interfaces/IAnchor.sol";
import {Gatekeepers} from "../src/Gatekeepers.sol";
import {Anchored} from "./Anchored.sol";

/// @notice A contract developer's consumer that lets the agent's payer pay.
contract Guest is AgentConsumer {
    bytes public last;

    constructor(IAnchor anchor_, bytes32 agent_) AgentConsumer(anchor_, agent_) {}

    function ask(bytes calldata payload, uint128 fee) external returns (uint64) {
        return _askSponsored(payload, fee, 100_000, 1, uint64(block.timestamp) + 1 hours);
    }

    function _onReply(uint64, bytes calldata reply) internal override {
        last = reply;
    }
}

/// @notice The agent's fee payer pays for requests: by consent, within caps, and gets refunds.
contract SponsorsTest is Anchored {
    address internal payer = named("payer");
    Guest internal guest;

    function setUp() public {
        anchored();
        guest = new Guest(anchor, agentId);
        vm.prank(owner);
        agents.setFeePayer(tokenId, payer);
        anchor.deposit{value: 10 ether}(payer);
    }

    function agree(address requester, uint128 most, uint128 total, uint64 until) internal {
        vm.prank(payer);
        anchor.setConsent(agentId, owner, requester, most, total, until);
    }

    function sponsored(bytes memory payload, uint128 fee) internal returns (IAnchor.Request memory) {
        uint64 deadline = uint64(block.timestamp) + 1 hours;
        uint64 index = guest.ask(payload, fee);
        return IAnchor.Request(
            agentId, index, address(guest), fee, 0, 100_000, deadline, 1, 0, keccak256(payload)
        );
    }

    function refusesAsk(uint128 fee, bytes memory reason) internal {
        uint256 before = anchor.credits(payer);
        (bool ok, bytes memory answer_) = address(guest).call(abi.encodeCall(Guest.ask, ("q", fee)));
        equal(ok, false);
        equal(answer_, reason);
        equal(anchor.credits(payer), before);
    }

    function noConsent(uint128 fee) internal view returns (bytes memory) {
        return abi.encodeWithSelector(Sponsors.NoConsent.selector, payer, address(guest), fee);
    }

    function test_the_payer_pays_and_the_worker_earns() public {
        agree(address(guest), 1 ether, 3 ether, uint64(block.timestamp));
        vm.expectEmit();
        emit Sponsors.Sponsored(agentId, 1, payer, 1 ether);
        IAnchor.Request memory r = sponsored("q", 1 ether);
        equal(anchor.credits(payer), 9 ether);
        answer(r, "reply");
        equal(guest.last(), "reply");
        equal(anchor.credits(payee), 1 ether);
        equal(anchor.consentOf(payer, agentId, address(guest)).left, 2 ether);
    }

    function test_a_refund_goes_to_the_payer_and_not_to_who_asked() public {
        agree(address(0), 1 ether, 1 ether, type(uint64).max);
        IAnchor.Request memory r = sponsored("q", 1 ether);
        vm.warp(r.deadline + 1);
        anchor.refund(r);
        equal(anchor.credits(payer), 10 ether);
        equal(anchor.credits(address(guest)), 0);
        vm.expectRevert(abi.encodeWithSelector(Anchor.NotOpen.selector, agentId, 1));
        anchor.refund(r);
        // What was agreed is not renewed by a refund.
        refusesAsk(1, noConsent(1));
    }

    function test_an_own_request_is_refunded_to_its_requester() public {
        IAnchor.Request memory r = ask(choice(), "q", 1 ether);
        vm.warp(r.deadline + 1);
        anchor.refund(r);
        equal(anchor.credits(address(asker)), 1 ether);
    }

    function test_caps_bind_per_request_in_all_and_in_time() public {
        refusesAsk(1, noConsent(1));
        agree(address(0), 2 ether, 5 ether, uint64(block.timestamp) + 60);
        refusesAsk(2 ether + 1, noConsent(2 ether + 1));
        sponsored("1", 2 ether);
        sponsored("2", 2 ether);
        refusesAsk(2 ether, noConsent(2 ether));
        sponsored("3", 1 ether);
        refusesAsk(1, noConsent(1));
        agree(address(0), 2 ether, 5 ether, uint64(block.timestamp) + 60);
        vm.warp(block.timestamp + 61);
        refusesAsk(1, noConsent(1));
    }

    function test_a_consent_for_one_is_used_before_that_for_anybody() public {
        agree(address(0), 1 ether, 1 ether, type(uint64).max);
        agree(address(guest), 1 ether, 1 ether, type(uint64).max);
        sponsored("1", 1 ether);
        equal(anchor.consentOf(payer, agentId, address(guest)).left, 0);
        equal(anchor.consentOf(payer, agentId, address(0)).left, 1 ether);
        sponsored("2", 1 ether);
        refusesAsk(1, noConsent(1));
    }

    function test_a_consent_for_another_requester_pays_nothing_here() public {
        agree(named("other"), 1 ether, 1 ether, type(uint64).max);
        refusesAsk(1, noConsent(1));
    }

    function test_a_payer_takes_consent_back_at_once() public {
        agree(address(0), 1 ether, 5 ether, type(uint64).max);
        sponsored("1", 1 ether);
        agree(address(0), 0, 0, 0);
        refusesAsk(1, noConsent(1));
    }

    function test_consent_without_credit_pays_nothing() public {
        agree(address(0), 100 ether, 100 ether, type(uint64).max);
        refusesAsk(11 ether, abi.encodeWithSelector(Anchor.NotEnoughCredit.selector, 10 ether, 11 ether));
        equal(anchor.consentOf(payer, agentId, address(0)).left, 100 ether);
    }

    function test_whom_nobody_named_pays_nothing() public {
        vm.prank(named("rich"));
        anchor.setConsent(agentId, owner, address(0), 1 ether, 1 ether, type(uint64).max);
        anchor.deposit{value: 1 ether}(named("rich"));
        refusesAsk(1, noConsent(1));
        vm.prank(owner);
        agents.setFeePayer(tokenId, address(0));
        refusesAsk(1, abi.encodeWithSelector(Sponsors.NoPayer.selector, agentId));
    }

    function test_a_fee_of_nothing_needs_no_payer() public {
        agree(address(0), 1 ether, 1 ether, type(uint64).max);
        refusesAsk(0, abi.encodeWithSelector(Anchor.BadAsk.selector));
    }

    function test_a_sale_ends_consent_even_if_the_buyer_names_the_same_payer() public {
        agree(address(0), 1 ether, 5 ether, type(uint64).max);
        address buyer = named("buyer");
        vm.prank(owner);
        agents.transferFrom(owner, buyer, tokenId);
        refusesAsk(1, abi.encodeWithSelector(Sponsors.NoPayer.selector, agentId));
        vm.prank(buyer);
        agents.setFeePayer(tokenId, payer);
        refusesAsk(1, noConsent(1));
        // Nor does a payer agree to an owner that it did not mean.
        vm.prank(payer);
        vm.expectRevert(abi.encodeWithSelector(Sponsors.NoPayer.selector, agentId));
        anchor.setConsent(agentId, owner, address(0), 1 ether, 1 ether, 0);
    }

    function test_on_a_chain_without_the_registry_nobody_is_named() public {
        Anchor far = new Anchor(IAgents(address(0)), Gatekeepers(address(0)), address(this));
        vm.expectRevert(abi.encodeWithSelector(Sponsors.NoPayer.selector, agentId));
        far.setConsent(agentId, owner, address(0), 1, 1, 1);
        vm.expectRevert(abi.encodeWithSelector(Sponsors.NoPayer.selector, agentId));
        far.requestSponsored(choice(), 1, "q");
    }

    function test_fuzz_no_more_than_agreed_is_ever_taken(uint128 most, uint128 total, uint96[8] calldata fees) public {
        most = uint128(bound(most, 0, 4 ether));
        total = uint128(bound(total, 0, 9 ether));
        agree(address(0), most, total, type(uint64).max);
        uint256 taken;
        for (uint256 i = 0; i < fees.length; ++i) {
            uint128 fee = uint128(bound(fees[i], 1, 5 ether));
            (bool ok,) = address(guest).call(abi.encodeCall(Guest.ask, ("q", fee)));
            equal(ok, fee <= most && taken + fee <= total);
            if (ok) taken += fee;
        }
        equal(anchor.credits(payer), 10 ether - taken);
        equal(address(anchor).balance, 10 ether);
    }
}
