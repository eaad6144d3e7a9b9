// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {AgentAccount} from "../src/AgentAccount.sol";
import {Agents} from "../src/Agents.sol";
import {Clusters} from "../src/Clusters.sol";
import {Statements} from "../src/Statements.sol";
import {Token} from "../src/Token.sol";
import {Checks} from "./Vm.sol";
import {Founded} from "./Founded.sol";

/// @notice A thief with the signer's key: pays, transfers, approves, relays, waits. Counts what left per period.
contract Thief is Checks {
    uint256 private constant KEY = 4242;
    AgentAccount public immutable account;
    Token public immutable token;
    address public immutable loot = named("loot");
    uint128 public immutable coinCap;
    uint128 public immutable tokenCap;
    uint256 public period;
    uint256 public coins;
    uint256 public tokens;
    uint256 public mostCoins;
    uint256 public mostTokens;
    uint256 public acts;
    uint256 public nonce;

    constructor(AgentAccount account_, Token token_, uint128 coinCap_, uint128 tokenCap_) {
        (account, token, coinCap, tokenCap) = (account_, token_, coinCap_, tokenCap_);
    }

    function pay(uint96 amount) external {
        count(tryCall(loot, bound(amount, 0, 2 * uint256(coinCap)), ""), bound(amount, 0, 2 * uint256(coinCap)), 0);
    }

    function transfer(uint96 amount) external {
        uint256 value = bound(amount, 0, 2 * uint256(tokenCap));
        count(tryCall(address(token), 0, abi.encodeCall(token.transfer, (loot, value))), 0, value);
    }

    function approve(uint96 amount) external {
        uint256 value = bound(amount, 0, 2 * uint256(tokenCap));
        count(tryCall(address(token), 0, abi.encodeCall(token.approve, (address(this), value))), 0, value);
    }

    /// @dev Pull what was approved: already counted when it was approved.
    function pull() external {
        uint256 given = token.allowance(address(account), address(this));
        (bool ok,) = address(token).call(abi.encodeCall(token.transferFrom, (address(account), loot, given)));
        acts += ok ? 0 : 1;
    }

    function relay(uint96 amount) external {
        uint256 value = bound(amount, 0, 2 * uint256(coinCap));
        bytes32 digest = account.callDigest(loot, value, "", ++nonce, block.timestamp);
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(KEY, digest);
        bytes memory sig = abi.encodePacked(r, s, v);
        (bool ok,) = address(account).call(
            abi.encodeCall(AgentAccount.executeSigned, (loot, value, "", nonce, block.timestamp, sig))
        );
        count(ok, value, 0);
    }

    /// @dev The thief also tries everything that only the owner may do.
    function loosen(uint8 which) external {
        bytes[5] memory calls = [
            abi.encodeCall(AgentAccount.setCap, (address(0), type(uint128).max)),
            abi.encodeCall(AgentAccount.setPeriod, (1)),
            abi.encodeCall(AgentAccount.unfreeze, ()),
            abi.encodeCall(AgentAccount.ownerExecute, (loot, 1, "")),
            abi.encodeCall(AgentAccount.setEntryPoint, (address(this)))
        ];
        vm.prank(vm.addr(KEY));
        (bool ok,) = address(account).call(calls[which % 5]);
        equal(ok, false);
        equal(tryCall(address(account), 0, calls[which % 5]), false);
    }

    function wait(uint8 blocks) external {
        vm.roll(block.number + blocks % 40);
    }

    function tryCall(address to, uint256 value, bytes memory data) private returns (bool ok) {
        vm.prank(vm.addr(KEY));
        (ok,) = address(account).call(abi.encodeCall(AgentAccount.execute, (to, value, data)));
    }

    function count(bool ok, uint256 coin, uint256 token_) private {
        if (!ok) return;
        ++acts;
        uint256 now_ = block.number / account.periodBlocks();
        if (now_ != period) (period, coins, tokens) = (now_, 0, 0);
        (coins, tokens) = (coins + coin, tokens + token_);
        if (coins > mostCoins) mostCoins = coins;
        if (tokens > mostTokens) mostTokens = tokens;
    }
}

contract AccountInvariants is Founded {
    uint128 internal constant COIN_CAP = 3 ether;
    uint128 internal constant TOKEN_CAP = 5e20;
    uint256 internal constant KEY = 4242;
    AgentAccount internal account;
    AgentAccount internal frozenAccount;
    Token internal token;
    Thief internal thief;
    Thief internal caughtThief;

    function setUp() public {
        found();
        Agents agents = new Agents(gatekeepers, new Clusters(address(this), 3));
        token = new Token(address(this));
        (account, thief) = prepared(agents);
        (frozenAccount, caughtThief) = prepared(agents);
        frozenAccount.freeze();
    }

    function prepared(Agents agents) private returns (AgentAccount made, Thief with) {
        uint256 id = agents.register();
        made = agents.accounts().create(id);
        Statements.SetSigner memory s = Statements.SetSigner(1, made.agentId(), 1, vm.addr(KEY));
        made.setSigner(s, signAll(Statements.hash(s), T));
        vm.deal(address(made), 1000 ether);
        token.transfer(address(made), 1e26);
        with = new Thief(made, token, COIN_CAP, TOKEN_CAP);
        made.setCap(address(0), COIN_CAP);
        made.setCap(address(token), TOKEN_CAP);
        made.setPeriod(100);
        made.setAllowed(with.loot(), 0, true);
        made.setAllowed(address(token), token.transfer.selector, true);
        made.setAllowed(address(token), token.approve.selector, true);
    }

    function targetContracts() public view returns (address[] memory list) {
        list = new address[](2);
        (list[0], list[1]) = (address(thief), address(caughtThief));
    }

    /// @notice Whatever a thief of the signer's key does, no period sees more than the caps leave.
    function invariant_caps_are_never_exceeded() public view {
        equal(thief.mostCoins() <= COIN_CAP, true);
        equal(thief.mostTokens() <= TOKEN_CAP, true);
        equal(account.periodBlocks(), 100);
    }

    /// @notice A frozen account stays frozen and whole.
    function invariant_frozen_stays_frozen() public view {
        equal(frozenAccount.frozen(), true);
        equal(caughtThief.mostCoins() + caughtThief.mostTokens(), 0);
        equal(address(frozenAccount).balance, 1000 ether);
        equal(token.balanceOf(address(frozenAccount)), 1e26);
    }
}
