// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {AgentAccount} from "../src/AgentAccount.sol";
import {PackedUserOperation} from "@openzeppelin/contracts/interfaces/IERC4337.sol";
import {Agents} from "../src/Agents.sol";
import {Clusters} from "../src/Clusters.sol";
import {Gatekeepers} from "../src/Gatekeepers.sol";
import {Office} from "../src/Office.sol";
import {Statements} from "../src/Statements.sol";
import {Token} from "../src/Token.sol";
import {Founded} from "./Founded.sol";

/// @notice Something to call: counts, and refuses on demand.
contract Target {
    uint256 public calls;

    error Refused(uint256 why);

    function poke() external payable {
        ++calls;
    }

    function refuse(uint256 why) external pure {
        revert Refused(why);
    }

    receive() external payable {}
}

contract AgentAccountTest is Founded {
    Agents internal agents;
    AgentAccount internal account;
    Token internal token;
    Target internal target;
    uint256 internal tokenId;
    bytes32 internal agentId;
    uint256 internal constant SIGNER_KEY = 4242;
    address internal signer;
    address internal owner = named("owner");
    bytes4 internal constant POKE = Target.poke.selector;

    function setUp() public {
        found();
        Clusters clusters = new Clusters(address(this), 3);
        agents = new Agents(gatekeepers, clusters);
        vm.prank(owner);
        tokenId = agents.register();
        agentId = agents.agentIdOf(tokenId);
        account = agents.accounts().create(tokenId);
        token = new Token(address(account));
        target = new Target();
        signer = vm.addr(SIGNER_KEY);
        vm.deal(address(account), 100 ether);
        setSigner(signer, 1);
    }

    function setSigner(address who, uint64 epoch) internal {
        Statements.SetSigner memory s = Statements.SetSigner(1, agentId, epoch, who);
        account.setSigner(s, signAll(Statements.hash(s), T));
    }

    function allow(address to, bytes4 selector) internal {
        vm.prank(owner);
        account.setAllowed(to, selector, true);
    }

    function setCap(address asset, uint128 amount) internal {
        vm.prank(owner);
        account.setCap(asset, amount);
    }

    function refuses(bytes memory reason, address to, uint256 value, bytes memory data) internal {
        vm.prank(signer);
        vm.expectRevert(reason);
        account.execute(to, value, data);
    }

    // --- address and signer ---

    function test_the_address_is_known_before_the_account_exists() public {
        uint256 next = agents.register();
        address predicted = agents.agent(agents.agentIdOf(next)).account;
        equal(predicted.code.length, 0);
        equal(address(agents.accounts().create(next)), predicted);
        equal(AgentAccount(payable(predicted)).agentId(), agents.agentIdOf(next));
    }

    function test_no_account_for_no_token() public {
        (bool ok,) = address(agents.accounts()).call(abi.encodeWithSignature("create(uint256)", 99));
        equal(ok, false);
    }

    function test_one_signer_per_epoch_and_no_replay() public {
        equal(account.signer(), signer);
        Statements.SetSigner memory old = Statements.SetSigner(1, agentId, 1, signer);
        bytes[] memory oldSigs = signAll(Statements.hash(old), T);
        vm.expectRevert(abi.encodeWithSelector(AgentAccount.SignerAlreadySet.selector, 1));
        account.setSigner(old, oldSigs);
        vm.prank(owner);
        agents.bumpEpoch(tokenId);
        setSigner(named("second"), 2);
        vm.expectRevert(abi.encodeWithSelector(AgentAccount.WrongEpoch.selector, 1, 2));
        account.setSigner(old, oldSigs);
        equal(account.signer(), named("second"));
    }

    function test_another_agents_statement_or_too_few_signatures() public {
        vm.prank(owner);
        agents.bumpEpoch(tokenId);
        Statements.SetSigner memory s = Statements.SetSigner(1, keccak256("other"), 2, signer);
        bytes[] memory sigs = signAll(Statements.hash(s), T);
        vm.expectRevert(abi.encodeWithSelector(AgentAccount.WrongAgent.selector, s.agent));
        account.setSigner(s, sigs);
        s.agent = agentId;
        sigs = signAll(Statements.hash(s), T - 1);
        vm.expectRevert(abi.encodeWithSelector(Office.TooFewSigners.selector, T - 1, T));
        account.setSigner(s, sigs);
    }

    function test_a_bump_or_a_transfer_retires_the_signer() public {
        allow(address(target), POKE);
        vm.prank(signer);
        account.execute(address(target), 0, abi.encodeCall(Target.poke, ()));
        vm.prank(owner);
        agents.transferFrom(owner, named("buyer"), tokenId);
        refuses(
            abi.encodeWithSelector(AgentAccount.WrongEpoch.selector, 1, 2),
            address(target),
            0,
            abi.encodeCall(Target.poke, ())
        );
    }

    // --- what the signer may do ---

    function test_only_what_is_on_the_allow_list() public {
        bytes memory poke = abi.encodeCall(Target.poke, ());
        refuses(abi.encodeWithSelector(AgentAccount.NotAllowed.selector, address(target), POKE), address(target), 0, poke);
        allow(address(target), POKE);
        vm.prank(signer);
        account.execute(address(target), 0, poke);
        equal(target.calls(), 1);
        vm.prank(owner);
        account.setAllowed(address(target), POKE, false);
        refuses(abi.encodeWithSelector(AgentAccount.NotAllowed.selector, address(target), POKE), address(target), 0, poke);
    }

    function test_malformed_calls() public {
        allow(address(target), 0);
        refuses(abi.encodeWithSelector(AgentAccount.BadCall.selector), address(target), 0, hex"0102");
        refuses(abi.encodeWithSelector(AgentAccount.BadCall.selector), address(target), 0, hex"0000000001");
        allow(address(token), token.transfer.selector);
        refuses(abi.encodeWithSelector(AgentAccount.BadCall.selector), address(token), 0, hex"a9059cbb00");
    }

    function test_never_itself() public {
        allow(address(account), AgentAccount.setCap.selector);
        refuses(
            abi.encodeWithSelector(AgentAccount.NotAllowed.selector, address(account), AgentAccount.setCap.selector),
            address(account),
            0,
            abi.encodeCall(AgentAccount.setCap, (address(0), 1))
        );
    }

    /// @notice Over any sequence of payments, no period sees more than the cap leave.
    function test_fuzz_the_coin_cap_holds_in_every_period(uint256 seed, uint128 limit) public {
        limit = uint128(bound(limit, 0, 5 ether));
        setCap(address(0), limit);
        allow(address(target), 0);
        vm.prank(owner);
        account.setPeriod(10);
        uint256 period = block.number / 10;
        uint256 spent;
        for (uint256 i = 0; i < 20; ++i) {
            uint256 roll = uint256(keccak256(abi.encode(seed, i)));
            vm.roll(block.number + roll % 4);
            if (block.number / 10 != period) (period, spent) = (block.number / 10, 0);
            uint256 amount = (roll >> 16) % 2 ether;
            uint256 before = address(target).balance;
            vm.prank(signer);
            (bool ok,) = address(account).call(abi.encodeCall(AgentAccount.execute, (address(target), amount, "")));
            equal(ok, spent + amount <= limit || amount == 0);
            if (ok) spent += amount;
            equal(address(target).balance - before, ok ? amount : 0);
            (, uint128 left) = account.cap(address(0));
            equal(left, limit > spent ? limit - spent : 0);
        }
    }

    function test_fuzz_the_token_cap_counts_transfers_and_approvals(uint128 limit, uint128 first, uint128 second) public {
        setCap(address(token), limit);
        allow(address(token), token.transfer.selector);
        allow(address(token), token.approve.selector);
        limit = uint128(bound(limit, 0, 1e27));
        setCap(address(token), limit);
        first = uint128(bound(first, 0, 1e27));
        vm.prank(signer);
        (bool ok,) = address(account).call(
            abi.encodeCall(AgentAccount.execute, (address(token), 0, abi.encodeCall(token.transfer, (owner, first))))
        );
        equal(ok, first <= limit);
        uint256 left = limit - (ok ? first : 0);
        vm.prank(signer);
        (bool approved,) = address(account).call(
            abi.encodeCall(AgentAccount.execute, (address(token), 0, abi.encodeCall(token.approve, (owner, second))))
        );
        equal(approved, second <= left);
    }

    function test_without_a_cap_no_token_moves() public {
        allow(address(token), token.transfer.selector);
        refuses(
            abi.encodeWithSelector(AgentAccount.CapExceeded.selector, address(token), 1, 0),
            address(token),
            0,
            abi.encodeCall(token.transfer, (owner, 1))
        );
    }

    function test_frozen_or_paused_nothing_moves() public {
        allow(address(target), POKE);
        bytes memory poke = abi.encodeCall(Target.poke, ());
        vm.startPrank(owner);
        agents.setGuardian(tokenId, named("guardian"));
        vm.stopPrank();
        vm.prank(named("guardian"));
        account.freeze();
        refuses(abi.encodeWithSelector(AgentAccount.AccountFrozen.selector), address(target), 0, poke);
        vm.prank(named("guardian"));
        vm.expectRevert(abi.encodeWithSelector(AgentAccount.NotOwner.selector, named("guardian")));
        account.unfreeze();
        vm.startPrank(owner);
        account.unfreeze();
        agents.pause(tokenId);
        vm.stopPrank();
        refuses(abi.encodeWithSelector(AgentAccount.AgentPaused.selector), address(target), 0, poke);
    }

    function test_fuzz_only_the_signer_executes(address who) public {
        vm.assume(who != signer);
        allow(address(target), POKE);
        vm.prank(who);
        vm.expectRevert(abi.encodeWithSelector(AgentAccount.NotSigner.selector, who));
        account.execute(address(target), 0, abi.encodeCall(Target.poke, ()));
    }

    function test_the_reason_of_a_failed_call_comes_through() public {
        allow(address(target), Target.refuse.selector);
        refuses(
            abi.encodeWithSelector(
                AgentAccount.CallFailed.selector, abi.encodeWithSelector(Target.Refused.selector, 7)
            ),
            address(target),
            0,
            abi.encodeCall(Target.refuse, (7))
        );
    }

    // --- the owner ---

    function test_the_owner_moves_its_own_even_while_frozen() public {
        vm.startPrank(owner);
        account.freeze();
        account.ownerExecute(address(target), 3 ether, "");
        account.ownerExecute(address(token), 0, abi.encodeCall(token.transfer, (owner, 5)));
        vm.stopPrank();
        equal(address(target).balance, 3 ether);
        equal(token.balanceOf(owner), 5);
    }

    function test_fuzz_only_the_owner_sets_limits(address who, uint8 which) public {
        vm.assume(who != owner);
        bytes[7] memory calls = [
            abi.encodeCall(AgentAccount.setCap, (address(0), 1)),
            abi.encodeCall(AgentAccount.setPeriod, (1)),
            abi.encodeCall(AgentAccount.setAllowed, (who, POKE, true)),
            abi.encodeCall(AgentAccount.setSignaturesEnabled, (true)),
            abi.encodeCall(AgentAccount.unfreeze, ()),
            abi.encodeCall(AgentAccount.setEntryPoint, (who)),
            abi.encodeCall(AgentAccount.ownerExecute, (who, 1, ""))
        ];
        vm.prank(who);
        (bool ok, bytes memory reason) = address(account).call(calls[which % 7]);
        equal(ok, false);
        equal(reason, abi.encodeWithSelector(AgentAccount.NotOwner.selector, who));
    }

    function test_a_period_is_never_empty() public {
        vm.prank(owner);
        vm.expectRevert(AgentAccount.BadPeriod.selector);
        account.setPeriod(0);
    }

    // --- relayed ---

    function signCall(uint256 key, bytes memory data, uint256 nonce, uint256 deadline)
        internal
        view
        returns (bytes memory)
    {
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(key, account.callDigest(address(target), 0, data, nonce, deadline));
        return abi.encodePacked(r, s, v);
    }

    function test_fuzz_a_relayed_call_counts_once_in_time_and_as_signed(uint256 nonce, address relayer) public {
        allow(address(target), POKE);
        bytes memory poke = abi.encodeCall(Target.poke, ());
        uint256 deadline = block.timestamp + 60;
        bytes memory sig = signCall(SIGNER_KEY, poke, nonce, deadline);
        bytes memory forged = signCall(7, poke, nonce, deadline);
        vm.startPrank(relayer);
        vm.expectRevert(abi.encodeWithSelector(AgentAccount.NotSigner.selector, vm.addr(7)));
        account.executeSigned(address(target), 0, poke, nonce, deadline, forged);
        vm.expectRevert(AgentAccount.BadSignature.selector);
        account.executeSigned(address(target), 0, poke, nonce, deadline, hex"00");
        account.executeSigned(address(target), 0, poke, nonce, deadline, sig);
        equal(target.calls(), 1);
        vm.expectRevert(abi.encodeWithSelector(AgentAccount.NonceUsed.selector, nonce));
        account.executeSigned(address(target), 0, poke, nonce, deadline, sig);
        vm.warp(deadline + 1);
        vm.expectRevert(abi.encodeWithSelector(AgentAccount.DeadlinePassed.selector, deadline));
        account.executeSigned(address(target), 0, poke, nonce, deadline, sig);
        vm.stopPrank();
    }

    function test_a_relayed_call_obeys_the_allow_list_and_a_failed_one_may_be_sent_again() public {
        bytes memory poke = abi.encodeCall(Target.poke, ());
        bytes memory sig = signCall(SIGNER_KEY, poke, 1, block.timestamp);
        vm.expectRevert(abi.encodeWithSelector(AgentAccount.NotAllowed.selector, address(target), POKE));
        account.executeSigned(address(target), 0, poke, 1, block.timestamp, sig);
        allow(address(target), POKE);
        account.executeSigned(address(target), 0, poke, 1, block.timestamp, sig);
        equal(target.calls(), 1);
    }

    // --- ERC-4337 ---

    function operation(uint256 key, bytes32 opHash, bytes memory data)
        internal
        view
        returns (PackedUserOperation memory op)
    {
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(key, opHash);
        op.sender = address(account);
        op.callData = data;
        op.signature = abi.encodePacked(r, s, v);
    }

    function test_an_entry_point_brings_the_signers_calls_once_the_owner_chose_it() public {
        address entry = named("entry");
        bytes memory act = abi.encodeCall(AgentAccount.execute, (address(target), 0, abi.encodeCall(Target.poke, ())));
        PackedUserOperation memory op = operation(SIGNER_KEY, "op", act);
        allow(address(target), POKE);
        vm.prank(entry);
        vm.expectRevert(abi.encodeWithSelector(AgentAccount.NotEntryPoint.selector, entry));
        account.validateUserOp(op, "op", 0);
        vm.prank(owner);
        account.setEntryPoint(entry);
        vm.startPrank(entry);
        equal(account.validateUserOp(op, "op", 0), 0);
        equal(account.validateUserOp(op, "other", 0), 1);
        equal(account.validateUserOp(operation(7, "op", act), "op", 0), 1);
        bytes memory other = abi.encodeCall(AgentAccount.setCap, (address(0), 1));
        equal(account.validateUserOp(operation(SIGNER_KEY, "op", other), "op", 0), 1);
        equal(account.validateUserOp(operation(SIGNER_KEY, "op", ""), "op", 0), 1);
        vm.expectRevert(abi.encodeWithSelector(AgentAccount.AccountPaysNoGas.selector, 1));
        account.validateUserOp(op, "op", 1);
        account.execute(address(target), 0, abi.encodeCall(Target.poke, ()));
        vm.stopPrank();
        equal(target.calls(), 1);
    }

    // --- EIP-1271 ---

    function sign1271(AgentAccount who, bytes32 hash) internal view returns (bytes memory) {
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(SIGNER_KEY, who.messageDigest(hash));
        return abi.encodePacked(r, s, v);
    }

    function test_signatures_count_only_when_enabled_live_and_for_this_account() public {
        bytes32 hash = keccak256("order");
        bytes memory signature = sign1271(account, hash);
        equal(account.isValidSignature(hash, signature), bytes4(0xffffffff));
        vm.prank(owner);
        account.setSignaturesEnabled(true);
        equal(account.isValidSignature(hash, signature), bytes4(0x1626ba7e));
        equal(account.isValidSignature(keccak256("another"), signature), bytes4(0xffffffff));
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(SIGNER_KEY, hash);
        equal(account.isValidSignature(hash, abi.encodePacked(r, s, v)), bytes4(0xffffffff));
        vm.prank(owner);
        account.freeze();
        equal(account.isValidSignature(hash, signature), bytes4(0xffffffff));
        vm.startPrank(owner);
        account.unfreeze();
        agents.bumpEpoch(tokenId);
        vm.stopPrank();
        equal(account.isValidSignature(hash, signature), bytes4(0xffffffff));
    }
}
