// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {AgentAccount} from "../src/AgentAccount.sol";
import {Agents} from "../src/Agents.sol";
import {Clusters} from "../src/Clusters.sol";
import {Statements} from "../src/Statements.sol";
import {Founded} from "./Founded.sol";

interface FeeVm {
    struct Gas {
        uint64 gasLimit;
        uint64 gasTotalUsed;
        uint64 gasMemoryUsed;
        int64 gasRefunded;
        uint64 gasRemaining;
    }

    function fee(uint256 baseFee) external;
    function txGasPrice(uint256 price) external;
    function lastCallGas() external view returns (Gas memory);
}

/// @notice Something to call.
contract Work {
    uint256 public done;

    function work(uint256 rounds) external {
        for (uint256 i = 0; i < rounds; ++i) keccak256(abi.encode(i));
        ++done;
    }

    function refuse() external pure {
        revert("no");
    }
}

/// @notice A bringer that takes no money.
contract Proud {
    function bring(address to, bytes calldata data) external {
        (bool ok,) = to.call(data);
        require(ok);
    }
}

/// @notice Who brings an account's calls is paid back: never more than it cost, never more than the owner's cap.
contract AccountGasTest is Founded {
    FeeVm internal constant fees = FeeVm(address(uint160(uint256(keccak256("hevm cheat code")))));
    uint256 internal constant SIGNER_KEY = 4242;
    uint256 internal constant FEE = 10 gwei;
    uint256 internal constant WARM = 12_000;
    AgentAccount internal account;
    Work internal target;
    address internal owner = named("owner");
    address internal bringer = named("bringer");
    uint256 internal nonces;
    bytes32 internal agentId;

    function setUp() public {
        found();
        Agents agents = new Agents(gatekeepers, new Clusters(address(this), 3));
        vm.prank(owner);
        uint256 tokenId = agents.register();
        agentId = agents.agentIdOf(tokenId);
        account = agents.accounts().create(tokenId);
        target = new Work();
        vm.deal(address(account), 1 ether);
        vm.deal(bringer, 1 ether);
        Statements.SetSigner memory s = Statements.SetSigner(1, agentId, 1, vm.addr(SIGNER_KEY));
        account.setSigner(s, signAll(Statements.hash(s), T));
        vm.startPrank(owner);
        account.setAllowed(address(target), Work.work.selector, true);
        account.setAllowed(address(target), Work.refuse.selector, true);
        vm.stopPrank();
        fees.fee(FEE);
        fees.txGasPrice(FEE + 1 gwei);
    }

    function cap(uint128 amount) internal {
        address gas_ = account.GAS();
        vm.prank(owner);
        account.setCap(gas_, amount);
    }

    function signed(bytes memory data) internal returns (bytes memory) {
        uint256 nonce = ++nonces;
        bytes32 digest = account.callDigest(address(target), 0, data, nonce, block.timestamp);
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(SIGNER_KEY, digest);
        return abi.encodeCall(
            AgentAccount.executeSigned, (address(target), 0, data, nonce, block.timestamp, abi.encodePacked(r, s, v))
        );
    }

    /// @dev Gas of the whole transaction, and what was paid back. All of a test is one transaction: storage that a real
    /// one finds cold and unchanged is neither here, which WARM makes good. Real ones: test_account_gas.py.
    function bring(bytes memory data) internal returns (uint256 used, uint256 repaid) {
        bytes memory call_ = signed(data);
        uint256 held = address(account).balance;
        vm.prank(bringer);
        (bool ok,) = address(account).call(call_);
        used = fees.lastCallGas().gasTotalUsed + 21_000 + WARM + callDataGas(call_);
        equal(ok, true);
        repaid = held - address(account).balance;
    }

    function callDataGas(bytes memory data) internal pure returns (uint256 total) {
        for (uint256 i = 0; i < data.length; ++i) total += data[i] == 0 ? 4 : 16;
    }

    function test_without_a_cap_nobody_is_paid_back() public {
        (, uint256 repaid) = bring(abi.encodeCall(Work.work, (1)));
        equal(repaid, 0);
        equal(target.done(), 1);
    }

    function test_fuzz_never_more_than_it_cost_and_nearly_all(uint16 rounds, uint64 price) public {
        cap(1 ether);
        bring(abi.encodeCall(Work.work, (1)));
        fees.txGasPrice(FEE + bound(price, 0, 20 gwei));
        (uint256 used, uint256 repaid) = bring(abi.encodeCall(Work.work, (bound(rounds, 0, 1000))));
        uint256 paid = FEE + bound(price, 0, 20 gwei);
        uint256 counted = paid > FEE + 2 gwei ? FEE + 2 gwei : paid;
        equal(repaid <= used * paid, true);
        equal(repaid >= used * counted * 8 / 10, true);
    }

    function test_a_bringers_own_tip_is_its_own() public {
        cap(1 ether);
        bring(abi.encodeCall(Work.work, (1)));
        fees.txGasPrice(FEE + 1000 gwei);
        (uint256 used, uint256 repaid) = bring(abi.encodeCall(Work.work, (1)));
        equal(repaid <= used * (FEE + 2 gwei), true);
    }

    function test_fuzz_a_broken_worker_never_takes_more_than_the_cap(uint96 amount) public {
        uint128 most = uint128(bound(amount, 1, 0.01 ether));
        cap(most);
        uint256 held = address(account).balance;
        for (uint256 i = 0; i < 6; ++i) bring(abi.encodeCall(Work.work, (500)));
        equal(held - address(account).balance <= most, true);
        vm.roll(block.number + account.periodBlocks());
        uint256 left = address(account).balance;
        bring(abi.encodeCall(Work.work, (500)));
        equal(left - address(account).balance <= most, true);
    }

    function test_an_empty_account_acts_all_the_same() public {
        cap(1 ether);
        vm.deal(address(account), 5);
        (, uint256 repaid) = bring(abi.encodeCall(Work.work, (1)));
        equal(repaid, 5);
        (, repaid) = bring(abi.encodeCall(Work.work, (1)));
        equal(repaid, 0);
        equal(target.done(), 2);
    }

    function test_a_call_that_fails_pays_nothing() public {
        cap(1 ether);
        bytes memory call_ = signed(abi.encodeCall(Work.refuse, ()));
        uint256 held = address(account).balance;
        vm.prank(bringer);
        (bool ok,) = address(account).call(call_);
        equal(ok, false);
        equal(address(account).balance, held);
    }

    function test_whoever_takes_no_money_changes_nothing() public {
        cap(1 ether);
        bytes memory call_ = signed(abi.encodeCall(Work.work, (1)));
        Proud proud = new Proud();
        uint256 held = address(account).balance;
        proud.bring(address(account), call_);
        equal(target.done(), 1);
        equal(address(account).balance, held);
    }

    function test_the_signer_calls_no_gas_and_its_caps_stand_beside_that_of_gas() public {
        cap(1 ether);
        address gas_ = account.GAS();
        vm.prank(owner);
        account.setAllowed(gas_, bytes4(0), true);
        vm.prank(vm.addr(SIGNER_KEY));
        vm.expectRevert(abi.encodeWithSelector(AgentAccount.NotAllowed.selector, gas_, bytes4(0)));
        account.execute(gas_, 0, "");
        (, uint128 coin) = account.cap(address(0));
        equal(coin, 0);
    }
}
