// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {Anchor} from "../src/Anchor.sol";
import {IAgentConsumer, IAnchor} from "../src/interfaces/IAnchor.sol";
import {Anchored} from "./Anchored.sol";

/// @notice Counts replies per request; fails, burns, or comes back in, by the reply's first byte.
contract Counter is IAgentConsumer {
    Anchor public immutable anchor;
    mapping(uint64 index => uint256) public calls;
    uint256 public most;

    constructor(Anchor anchor_) {
        anchor = anchor_;
    }

    function ask(IAnchor.Ask calldata a) external payable returns (uint64) {
        return anchor.request{value: msg.value}(a, "q");
    }

    function askSponsored(IAnchor.Ask calldata a, uint128 fee) external returns (uint64) {
        return anchor.requestSponsored(a, fee, "q");
    }

    function onAgentReply(bytes32, uint64 index, uint8, bytes calldata reply) external {
        if (++calls[index] > most) most = calls[index];
        uint8 mood = uint8(reply[0]) % 4;
        if (mood == 1) revert();
        if (mood == 2) {
            (bool ok,) = address(anchor).call(reply[1:]);
            require(!ok, "let back in");
        }
        if (mood == 3) for (uint256 i = 0; i < 100_000; ++i) keccak256(abi.encode(i));
    }

    receive() external payable {}
}

/// @notice Everybody at once: asks, answers (also twice, also of changed requests), waits, refunds, collects.
contract Crowd is Anchored {
    Counter public counter;
    IAnchor.Request[] private _made;
    uint256 public paidIn;
    uint256 public paidOut;
    uint256 public answers;
    uint256 public refunds;
    mapping(uint256 at => bool) public done;
    address internal sponsor = named("sponsor");
    uint256 public sponsored;
    uint256 public agreed;
    uint256 public doneTwice;

    constructor() {
        anchored();
        counter = new Counter(anchor);
        vm.prank(owner);
        agents.setFeePayer(tokenId, sponsor);
    }

    function theAnchor() external view returns (Anchor) {
        return anchor;
    }

    function made() external view returns (uint256) {
        return _made.length;
    }

    function owedOrOpen() external view returns (uint256 sum) {
        for (uint256 i = 0; i < _made.length; ++i) if (anchor.isOpen(_made[i])) sum += _made[i].fee;
        sum += anchor.credits(payee) + anchor.credits(address(counter)) + anchor.credits(sponsor);
    }

    /// @dev The sponsor puts money in and agrees anew: to so much in all.
    function agree(uint96 more, uint96 most, uint96 total) external {
        uint256 value = bound(more, 0, 1 ether);
        vm.deal(address(this), value);
        anchor.deposit{value: value}(sponsor);
        paidIn += value;
        agreed += total;
        vm.prank(sponsor);
        anchor.setConsent(agentId, owner, address(0), most, total, type(uint64).max);
    }

    function placeSponsored(uint96 fee, uint16 wait_) external {
        IAnchor.Ask memory a = choice();
        a.deadline = uint64(block.timestamp) + 1 + wait_ % 2 hours;
        a.gasLimit = 100_000;
        uint128 value = uint128(bound(fee, 0, 1 ether));
        (bool ok, bytes memory index) = address(counter).call(abi.encodeCall(Counter.askSponsored, (a, value)));
        if (!ok) return;
        sponsored += value;
        _made.push(
            IAnchor.Request(
                agentId,
                abi.decode(index, (uint64)),
                address(counter),
                value,
                0,
                a.gasLimit,
                a.deadline,
                1,
                0,
                keccak256("q")
            )
        );
    }

    function place(uint96 fee, uint8 copies, uint16 wait_) external {
        IAnchor.Ask memory a = choice();
        a.copies = uint8(bound(copies, 1, 3));
        a.deadline = uint64(block.timestamp) + 1 + wait_ % 2 hours;
        a.gasLimit = 100_000;
        uint256 value = bound(fee, 0, 1 ether);
        vm.deal(address(this), value);
        uint64 index = counter.ask{value: value}(a);
        paidIn += value;
        _made.push(
            IAnchor.Request(
                agentId, index, address(counter), uint128(value), 0, a.gasLimit, a.deadline, a.copies, 0, keccak256("q")
            )
        );
    }

    function respond(uint256 which, uint8 mood, uint256 gas_) external {
        if (_made.length == 0) return;
        which %= _made.length;
        IAnchor.Request memory r = _made[which];
        bytes memory again = abi.encodeCall(Anchor.refund, (r));
        bytes memory reply = bytes.concat(bytes1(mood), again);
        bytes memory data = abi.encodeCall(Anchor.respond, (r, reply, signed(r, reply, r.copies)));
        (bool ok,) = address(anchor).call{gas: bound(gas_, 60_000, 900_000)}(data);
        if (ok) ++answers;
        if (ok) finish(which);
    }

    function inflate(uint256 which, uint96 more) external {
        if (_made.length == 0) return;
        IAnchor.Request memory r = _made[which % _made.length];
        r.fee += 1 + more;
        IAnchor.Signed[] memory by = signed(r, "x", r.copies);
        (bool ok,) = address(anchor).call(abi.encodeCall(Anchor.respond, (r, "x", by)));
        (bool back,) = address(anchor).call(abi.encodeCall(Anchor.refund, (r)));
        equal(ok || back, false);
    }

    function refund(uint256 which) external {
        if (_made.length == 0) return;
        which %= _made.length;
        (bool ok,) = address(anchor).call(abi.encodeCall(Anchor.refund, (_made[which])));
        if (ok) ++refunds;
        if (ok) finish(which);
    }

    function collect(uint8 which) external {
        address who = which % 3 == 0 ? payee : which % 3 == 1 ? address(counter) : sponsor;
        uint256 before = who.balance;
        (bool ok,) = address(anchor).call(abi.encodeCall(Anchor.withdrawFor, (who)));
        if (ok) paidOut += who.balance - before;
    }

    function wait(uint16 seconds_) external {
        vm.warp(block.timestamp + seconds_ % 30 minutes);
    }

    /// @dev Everything that is still open ends, everything that is owed is paid.
    function settle() external {
        vm.warp(block.timestamp + 31 days);
        for (uint256 i = 0; i < _made.length; ++i) if (anchor.isOpen(_made[i])) this.refund(i);
        for (uint8 i = 0; i < 3; ++i) this.collect(i);
    }

    function finish(uint256 which) private {
        if (done[which]) ++doneTwice;
        done[which] = true;
    }
}

contract AnchorInvariants is Anchored {
    Crowd internal crowd;

    function setUp() public {
        crowd = new Crowd();
    }

    function targetContracts() public view returns (address[] memory list) {
        list = new address[](1);
        list[0] = address(crowd);
    }

    /// @dev `settle` ends a run, so it is not one of the random acts.
    struct FuzzSelector {
        address addr;
        bytes4[] selectors;
    }

    function targetSelectors() public view returns (FuzzSelector[] memory list) {
        bytes4[] memory acts = new bytes4[](8);
        (acts[6], acts[7]) = (Crowd.agree.selector, Crowd.placeSponsored.selector);
        (acts[0], acts[1], acts[2]) = (Crowd.place.selector, Crowd.respond.selector, Crowd.inflate.selector);
        (acts[3], acts[4], acts[5]) = (Crowd.refund.selector, Crowd.collect.selector, Crowd.wait.selector);
        list = new FuzzSelector[](1);
        list[0] = FuzzSelector(address(crowd), acts);
    }

    /// @notice The crowd does answer, in every mood: the invariants are about something.
    function test_the_crowd_answers() public {
        for (uint8 mood = 0; mood < 4; ++mood) {
            crowd.place(1 ether, mood, 60);
            crowd.respond(mood, mood, 840_000);
        }
        equal(crowd.answers(), 4);
        equal(crowd.counter().most(), 1);
        crowd.agree(1 ether, 1 ether, 1 ether);
        crowd.placeSponsored(1 ether, 60);
        equal(crowd.sponsored(), 1 ether);
        crowd.respond(4, 0, 840_000);
        equal(crowd.answers(), 5);
    }

    /// @notice No request ends twice and no callback runs twice.
    function invariant_exactly_once() public view {
        equal(crowd.doneTwice(), 0);
        equal(crowd.counter().most() <= 1, true);
        equal(crowd.answers() + crowd.refunds() <= crowd.made(), true);
    }

    /// @notice Fees of open requests and credits are the balance, always.
    function invariant_fees_are_the_balance() public view {
        equal(crowd.owedOrOpen(), address(crowd.theAnchor()).balance);
        equal(crowd.paidIn(), crowd.paidOut() + address(crowd.theAnchor()).balance);
    }

    /// @notice A sponsor never pays more than it agreed to.
    function invariant_sponsors_pay_what_they_agreed_to() public view {
        equal(crowd.sponsored() <= crowd.agreed(), true);
    }

    /// @notice No fee is stuck: after the last deadline everything can be collected.
    function afterInvariant() public {
        crowd.settle();
        equal(address(crowd.theAnchor()).balance, 0);
        equal(crowd.paidIn(), crowd.paidOut());
    }
}
