// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {Anchor} from "../src/Anchor.sol";
import {Leases} from "../src/Leases.sol";
import {IAnchor} from "../src/interfaces/IAnchor.sol";
import {Anchored} from "./Anchored.sol";

contract AnchorTest is Anchored {
    function setUp() public {
        anchored();
    }

    // --- asking ---

    function test_a_request_is_one_commitment_and_a_link_of_a_chain() public {
        IAnchor.Request memory one = ask(choice(), "hello", 1 ether);
        IAnchor.Request memory two = ask(choice(), "again", 0);
        equal(one.index, 1);
        equal(two.index, 2);
        equal(anchor.isOpen(one) && anchor.isOpen(two), true);
        (uint64 count, bytes24 head) = anchor.queue(agentId);
        equal(count, 2);
        bytes24 first = bytes24(keccak256(abi.encodePacked(bytes24(0), keccak256(abi.encode(one)))));
        equal(head, bytes24(keccak256(abi.encodePacked(first, keccak256(abi.encode(two))))));
        equal(anchor.commitment(one), keccak256(abi.encode(one)));
        equal(address(anchor).balance, 1 ether);
    }

    function test_fuzz_what_no_request_may_be(uint8 which) public {
        IAnchor.Ask memory a = choice();
        which %= 7;
        if (which == 0) a.copies = 0;
        if (which == 1) a.copies = 9;
        if (which == 2) a.flags = 4;
        if (which == 3) a.gasLimit = 5_000_001;
        if (which == 4) a.agent = 0;
        if (which == 5) a.deadline = uint64(block.timestamp);
        if (which == 6) a.deadline = uint64(block.timestamp) + 30 days + 1;
        vm.expectRevert(Anchor.BadAsk.selector);
        asker.ask(a, "");
    }

    function test_payloads_have_a_size() public {
        asker.ask(choice(), new bytes(16_384));
        vm.expectRevert(abi.encodeWithSelector(Anchor.PayloadTooLong.selector, 16_385));
        asker.ask(choice(), new bytes(16_385));
    }

    // --- answering ---

    function test_an_answer_reaches_the_consumer_once_and_is_paid_once() public {
        IAnchor.Request memory r = ask(choice(), "q", 3 ether);
        vm.expectEmit();
        emit IAnchor.Answered(agentId, 1, true, "");
        answer(r, "a");
        equal(asker.replies(), 1);
        equal(asker.last(), "a");
        equal(anchor.credits(payee), 3 ether);
        equal(anchor.isOpen(r), false);
        IAnchor.Signed[] memory by = signed(r, "a", 1);
        vm.expectRevert(abi.encodeWithSelector(Anchor.NotOpen.selector, agentId, 1));
        anchor.respond(r, "a", by);
        equal(asker.replies(), 1);
    }

    /// @notice Whatever field of the request is changed, it is another request.
    function test_fuzz_no_other_request_is_answered(uint8 which, uint128 value) public {
        IAnchor.Request memory r = ask(choice(), "q", 3 ether);
        IAnchor.Request memory x = abi.decode(abi.encode(r), (IAnchor.Request));
        which %= 6;
        if (which == 0) x.fee = value;
        if (which == 1) x.requester = address(uint160(value));
        if (which == 2) x.gasLimit = uint64(value);
        if (which == 3) x.deadline = uint64(value);
        if (which == 4) x.payloadHash = bytes32(uint256(value));
        if (which == 5) x.index = uint64(value);
        vm.assume(keccak256(abi.encode(x)) != keccak256(abi.encode(r)));
        IAnchor.Signed[] memory by = signed(x, "a", 1);
        vm.expectRevert(abi.encodeWithSelector(Anchor.NotOpen.selector, agentId, x.index));
        anchor.respond(x, "a", by);
    }

    function test_only_the_signed_reply_by_a_leased_worker() public {
        IAnchor.Request memory r = ask(choice(), "q", 0);
        IAnchor.Signed[] memory by = signed(r, "a", 1);
        refuses(r, "b", by, abi.encodeWithSelector(Anchor.NotSignedBy.selector, worker(0)));
        by[0].worker = worker(1);
        refuses(r, "a", by, abi.encodeWithSelector(Anchor.NotSignedBy.selector, worker(1)));
        by[0].worker = named("stranger");
        refuses(r, "a", by, abi.encodeWithSelector(Leases.NoLease.selector, agentId, named("stranger")));
        by = signed(r, "a", 2);
        refuses(r, "a", by, abi.encodeWithSelector(Anchor.WrongAnswers.selector, 2, 1));
        by = new IAnchor.Signed[](0);
        refuses(r, "a", by, abi.encodeWithSelector(Anchor.WrongAnswers.selector, 0, 1));
    }

    function test_a_signature_for_one_request_is_none_for_another() public {
        IAnchor.Request memory one = ask(choice(), "q", 0);
        IAnchor.Request memory two = ask(choice(), "q", 0);
        refuses(two, "a", signed(one, "a", 1), abi.encodeWithSelector(Anchor.NotSignedBy.selector, worker(0)));
    }

    function test_the_requester_pins_code() public {
        IAnchor.Ask memory a = choice();
        a.codeHash = CODE;
        answer(ask(a, "q", 0), "a");
        a.codeHash = keccak256("other");
        IAnchor.Request memory r = ask(a, "q", 0);
        refuses(r, "a", signed(r, "a", 1), abi.encodeWithSelector(Leases.WrongCode.selector, a.codeHash, CODE));
    }

    function test_a_pause_and_an_epoch_bind_at_once() public {
        IAnchor.Request memory r = ask(choice(), "q", 0);
        vm.prank(owner);
        agents.pause(tokenId);
        refuses(r, "a", signed(r, "a", 1), abi.encodeWithSelector(Leases.AgentPaused.selector, agentId));
        vm.startPrank(owner);
        agents.resume(tokenId);
        agents.bumpEpoch(tokenId);
        vm.stopPrank();
        refuses(r, "a", signed(r, "a", 1), abi.encodeWithSelector(Leases.NoLease.selector, agentId, worker(0)));
    }

    function test_a_lease_ends() public {
        IAnchor.Ask memory a = choice();
        a.deadline = uint64(block.timestamp) + 2 days;
        IAnchor.Request memory r = ask(a, "q", 0);
        uint64 end = uint64(block.timestamp) + 12 hours;
        vm.warp(end);
        refuses(r, "a", signed(r, "a", 1), abi.encodeWithSelector(Leases.LeaseExpired.selector, end, end));
    }

    // --- equal answers ---

    function test_three_equal_answers_share_the_fee() public {
        IAnchor.Ask memory a = choice();
        a.copies = 3;
        answer(ask(a, "q", 100), "a");
        equal(anchor.credits(payee), 100);
        equal(asker.replies(), 1);
    }

    function test_what_is_no_agreement() public {
        IAnchor.Ask memory a = choice();
        a.copies = 2;
        IAnchor.Request memory r = ask(a, "q", 0);
        IAnchor.Signed[] memory by = new IAnchor.Signed[](2);
        (by[0], by[1]) = (signBy(0, answerDigest(r, "a", 0)), signBy(2, answerDigest(r, "a", 0)));
        refuses(r, "a", by, abi.encodeWithSelector(Anchor.OneVendorClass.selector, bytes32(uint256(1))));
        by[1] = by[0];
        refuses(r, "a", by, abi.encodeWithSelector(Anchor.NotInOrder.selector, worker(0)));
        by[1] = signBy(1, answerDigest(r, "b", 0));
        refuses(r, "a", by, abi.encodeWithSelector(Anchor.NotSignedBy.selector, worker(1)));
        by[1] = signBy(1, answerDigest(r, "a", 0));
        (by[0], by[1]) = (by[1], by[0]);
        refuses(r, "a", by, abi.encodeWithSelector(Anchor.NotInOrder.selector, worker(0)));
        answer(r, "a");
        equal(asker.replies(), 1);
    }

    // --- callbacks ---

    function test_a_failing_callback_is_recorded_and_the_work_is_paid() public {
        asker.set("", true, 0);
        IAnchor.Request memory r = ask(choice(), "q", 1 ether);
        vm.expectEmit();
        emit IAnchor.Answered(agentId, 1, false, "a");
        answer(r, "a");
        equal(asker.replies(), 0);
        equal(anchor.credits(payee), 1 ether);
        equal(anchor.isOpen(r), false);
    }

    function test_a_person_needs_no_callback() public {
        IAnchor.Ask memory a = choice();
        address person = named("person");
        vm.prank(person);
        uint64 index = anchor.request(a, "q");
        IAnchor.Request memory r =
            IAnchor.Request(agentId, index, person, 0, 0, a.gasLimit, a.deadline, 1, 0, keccak256("q"));
        vm.expectEmit();
        emit IAnchor.Answered(agentId, 1, false, "a");
        answer(r, "a");
    }

    /// @notice For any gas: either nothing happened, or the callback had all the gas that its requester asked for.
    function test_fuzz_no_relayer_starves_a_callback(uint256 gas_) public {
        gas_ = bound(gas_, 50_000, 600_000);
        IAnchor.Request memory r = ask(choice(), "q", 1 ether);
        bytes memory call_ = abi.encodeCall(Anchor.respond, (r, "a", signed(r, "a", 1)));
        (bool ok,) = address(anchor).call{gas: gas_}(call_);
        equal(asker.replies(), ok ? 1 : 0);
        equal(anchor.isOpen(r), !ok);
        equal(anchor.credits(payee), ok ? 1 ether : 0);
        if (ok) equal(asker.gasSeen() + 1_000 > r.gasLimit, true);
    }

    function test_a_callback_that_comes_back_in_is_refused_and_nothing_counts_twice() public {
        IAnchor.Request memory one = ask(choice(), "q", 1 ether);
        IAnchor.Request memory two = ask(choice(), "q", 1 ether);
        bytes[4] memory inside = [
            abi.encodeCall(Anchor.respond, (one, "a", signed(one, "a", 1))),
            abi.encodeCall(Anchor.respond, (two, "a", signed(two, "a", 1))),
            abi.encodeCall(Anchor.refund, (one)),
            abi.encodeCall(Anchor.withdrawFor, (payee))
        ];
        for (uint256 i = 0; i < 4; ++i) {
            asker.set(inside[i], false, 0);
            answer(i == 0 ? one : ask(choice(), "q", 0), "a");
            equal(asker.duringOk(), false);
            equal(asker.replies(), i + 1);
        }
        equal(anchor.isOpen(two), true);
        equal(anchor.credits(payee), 1 ether);
    }

    function test_a_callback_may_ask_again() public {
        asker.set(abi.encodeCall(Anchor.request, (choice(), "more")), false, 0);
        answer(ask(choice(), "q", 0), "a");
        equal(asker.duringOk(), true);
        (uint64 count,) = anchor.queue(agentId);
        equal(count, 2);
    }

    function test_a_callback_gets_no_more_gas_than_it_asked_for() public {
        asker.set("", false, 10_000);
        IAnchor.Request memory r = ask(choice(), "q", 0);
        uint256 before = gasleft();
        answer(r, "a");
        equal(before - gasleft() < 600_000, true);
        equal(asker.replies(), 0);
        equal(anchor.isOpen(r), false);
    }

    // --- time ---

    /// @notice Until the deadline answers count and refunds do not; after it the other way round.
    function test_fuzz_answer_or_refund_never_both(uint64 wait) public {
        wait = uint64(bound(wait, 0, 2 hours));
        IAnchor.Request memory r = ask(choice(), "q", 1 ether);
        vm.warp(block.timestamp + wait);
        IAnchor.Signed[] memory by = signed(r, "a", 1);
        (bool answered,) = address(anchor).call(abi.encodeCall(Anchor.respond, (r, "a", by)));
        (bool refunded,) = address(anchor).call(abi.encodeCall(Anchor.refund, (r)));
        equal(answered, wait <= 1 hours);
        equal(refunded, !answered);
        (refunded,) = address(anchor).call(abi.encodeCall(Anchor.refund, (r)));
        equal(refunded, false);
        equal(anchor.credits(payee), answered ? 1 ether : 0);
        equal(anchor.credits(address(asker)), answered ? 0 : 1 ether);
    }

    // --- many at once ---

    /// @notice 40 open requests over 16 places, answered in any order: each once.
    /// forge-config: default.fuzz.runs = 16
    function test_fuzz_more_open_requests_than_places(uint256 seed) public {
        IAnchor.Request[] memory all = new IAnchor.Request[](40);
        for (uint256 i = 0; i < 40; ++i) all[i] = ask(choice(), "q", 1);
        for (uint256 i = 40; i > 0; --i) {
            uint256 j = uint256(keccak256(abi.encode(seed, i))) % i;
            IAnchor.Request memory r = all[j];
            equal(anchor.isOpen(r), true);
            answer(r, "a");
            equal(anchor.isOpen(r), false);
            all[j] = all[i - 1];
            if (i % 8 == 0) answer(ask(choice(), "q", 1), "a");
        }
        equal(asker.replies(), 45);
        equal(anchor.credits(payee), 45);
    }

    // --- batches ---

    function test_a_batch_passes_over_what_is_closed_or_late() public {
        IAnchor.Reply[] memory batch = new IAnchor.Reply[](4);
        IAnchor.Ask memory a = choice();
        for (uint256 i = 0; i < 4; ++i) {
            a.deadline = uint64(block.timestamp) + (i == 3 ? 1 minutes : 1 hours);
            batch[i].request = ask(a, "q", 1);
            batch[i].reply = abi.encode(i);
            batch[i].by = signed(batch[i].request, batch[i].reply, 1);
        }
        vm.warp(block.timestamp + 2 minutes);
        answer(batch[1].request, "first");
        equal(anchor.respondBatch(batch), 2);
        equal(asker.replies(), 3);
        equal(asker.last(), abi.encode(2));
        equal(anchor.isOpen(batch[3].request), true);
        equal(anchor.respondBatch(batch), 0);
    }

    // --- money ---

    function test_money_is_collected_by_its_owner_or_sent_to_it() public {
        answer(ask(choice(), "q", 3 ether), "a");
        anchor.withdrawFor(payee);
        equal(payee.balance, 3 ether);
        vm.expectRevert(abi.encodeWithSelector(Anchor.NothingOwed.selector, payee));
        anchor.withdrawFor(payee);
        answer(ask(choice(), "q", 2 ether), "a");
        vm.prank(payee);
        anchor.withdraw(named("cold"));
        equal(named("cold").balance, 2 ether);
        equal(address(anchor).balance, 0);
    }

    function test_what_cannot_be_sent_stays_owed() public {
        anchor.deposit{value: 1 ether}(address(anchor));
        vm.expectRevert(abi.encodeWithSelector(Anchor.SendFailed.selector, address(anchor)));
        anchor.withdrawFor(address(anchor));
        equal(anchor.credits(address(anchor)), 1 ether);
    }

    // --- relayed requests ---

    function signRequest(uint256 key, IAnchor.Ask memory a, bytes memory payload, uint128 fee, uint256 nonce)
        internal
        view
        returns (bytes memory)
    {
        (uint8 v, bytes32 r, bytes32 s) =
            vm.sign(key, anchor.requestDigest(vm.addr(key), a, keccak256(payload), fee, nonce));
        return abi.encodePacked(r, s, v);
    }

    function test_a_signed_request_is_brought_by_anybody_once_and_paid_from_credit() public {
        address user = vm.addr(77);
        IAnchor.Ask memory a = choice();
        bytes memory sig = signRequest(77, a, "q", 1 ether, 5);
        vm.expectRevert(abi.encodeWithSelector(Anchor.NotEnoughCredit.selector, 0, 1 ether));
        anchor.requestFor(user, a, "q", 1 ether, 5, sig);
        anchor.deposit{value: 1.5 ether}(user);
        vm.expectRevert(Anchor.BadRequestSignature.selector);
        anchor.requestFor(user, a, "other", 1 ether, 5, sig);
        vm.expectRevert(Anchor.BadRequestSignature.selector);
        anchor.requestFor(user, a, "q", 0.5 ether, 5, sig);
        equal(anchor.requestFor(user, a, "q", 1 ether, 5, sig), 1);
        equal(anchor.credits(user), 0.5 ether);
        vm.expectRevert(abi.encodeWithSelector(Anchor.NonceUsed.selector, 5));
        anchor.requestFor(user, a, "q", 1 ether, 5, sig);
        answer(
            IAnchor.Request(agentId, 1, user, 1 ether, 0, a.gasLimit, a.deadline, 1, 0, keccak256("q")), "a"
        );
        equal(anchor.credits(payee), 1 ether);
    }

    function test_what_a_requester_signs_is_eip712() public view {
        IAnchor.Ask memory a = choice();
        bytes32 domain = keccak256(
            abi.encode(
                keccak256("EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"),
                keccak256("CloisterAnchor"),
                keccak256("1"),
                block.chainid,
                address(anchor)
            )
        );
        bytes32 typeHash = keccak256(
            "AgentRequest(address requester,bytes32 agent,bytes32 codeHash,uint64 gasLimit,uint64 deadline,uint8 copies,uint8 flags,bytes32 payloadHash,uint128 fee,uint256 nonce)"
        );
        bytes memory first = abi.encode(typeHash, owner, a.agent, a.codeHash, a.gasLimit, a.deadline);
        bytes32 structHash =
            keccak256(bytes.concat(first, abi.encode(a.copies, a.flags, keccak256("q"), uint128(4), uint256(9))));
        equal(
            anchor.requestDigest(owner, a, keccak256("q"), 4, 9),
            keccak256(abi.encodePacked(hex"1901", domain, structHash))
        );
    }
}
