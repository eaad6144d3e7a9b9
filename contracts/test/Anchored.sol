// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {Agents} from "../src/Agents.sol";
import {Anchor} from "../src/Anchor.sol";
import {Clusters} from "../src/Clusters.sol";
import {Gatekeepers} from "../src/Gatekeepers.sol";
import {Statements} from "../src/Statements.sol";
import {IAgents} from "../src/interfaces/IAgents.sol";
import {IAgentConsumer, IAnchor} from "../src/interfaces/IAnchor.sol";
import {Founded} from "./Founded.sol";

/// @notice A consumer that counts, and does on a callback what a test tells it to.
contract Asker is IAgentConsumer {
    Anchor public immutable anchor;
    uint256 public replies;
    bytes public last;
    uint256 public gasSeen;
    bytes public during;
    bool public duringOk;
    bool public fails;
    uint256 public burns;

    constructor(Anchor anchor_) {
        anchor = anchor_;
    }

    function ask(IAnchor.Ask calldata a, bytes calldata payload) external payable returns (uint64) {
        return anchor.request{value: msg.value}(a, payload);
    }

    function set(bytes calldata during_, bool fails_, uint256 burns_) external {
        (during, fails, burns) = (during_, fails_, burns_);
    }

    function onAgentReply(bytes32, uint64, uint8, bytes calldata reply) external {
        gasSeen = gasleft();
        ++replies;
        last = reply;
        if (during.length != 0) (duringOk,) = address(anchor).call(during);
        for (uint256 i = 0; i < burns; ++i) keccak256(abi.encode(i));
        // A bomb of returned bytes as well as a failure.
        if (fails) {
            assembly {
                revert(0, 100000)
            }
        }
    }

    receive() external payable {}
}

/// @notice An Anchor on the network's own chain, three workers of two vendor classes with leases, one consumer.
abstract contract Anchored is Founded {
    uint256 internal constant WORKERS = 3;
    bytes32 internal constant CODE = keccak256("code");
    address internal owner = named("owner");
    address internal payee = named("payee");
    Agents internal agents;
    Anchor internal anchor;
    Asker internal asker;
    uint256 internal tokenId;
    bytes32 internal agentId;
    uint256[] internal workerKeys;

    function anchored() internal {
        vm.warp(1_700_000_000);
        found();
        agents = new Agents(gatekeepers, new Clusters(address(this), 3));
        vm.prank(owner);
        tokenId = agents.register();
        agentId = agents.agentIdOf(tokenId);
        anchor = new Anchor(agents, gatekeepers, address(0));
        anchor.adopt();
        asker = new Asker(anchor);
        vm.deal(address(this), 1000 ether);
        for (uint256 i = 0; i < WORKERS; ++i) addWorker(uint256(keccak256(abi.encode("worker", i))));
        for (uint256 i = 0; i < WORKERS; ++i) register(lease(i));
    }

    function addWorker(uint256 key) private {
        workerKeys.push(key);
        for (uint256 i = workerKeys.length - 1; i > 0 && vm.addr(workerKeys[i - 1]) > vm.addr(key); --i) {
            (workerKeys[i - 1], workerKeys[i]) = (workerKeys[i], workerKeys[i - 1]);
        }
    }

    function worker(uint256 i) internal view returns (address) {
        return vm.addr(workerKeys[i]);
    }

    /// @dev Workers 0 and 2 are of one vendor class, worker 1 of another.
    function lease(uint256 i) internal view returns (Statements.AnchorLease memory l) {
        (l.term, l.chainId, l.anchor) = (1, block.chainid, address(anchor));
        (l.agent, l.agentEpoch, l.codeHash) = (agentId, 1, CODE);
        (l.worker, l.payee, l.vendorClass) = (worker(i), payee, bytes32(i % 2 + 1));
        l.expiry = uint64(block.timestamp) + 12 hours;
    }

    function register(Statements.AnchorLease memory l) internal {
        anchor.registerLease(l, signAll(Statements.hash(l), T));
    }

    function choice() internal view returns (IAnchor.Ask memory) {
        return IAnchor.Ask(agentId, 0, 200_000, uint64(block.timestamp) + 1 hours, 1, 0);
    }

    /// @dev The request that `asker` makes with these choices.
    function ask(IAnchor.Ask memory a, bytes memory payload, uint256 fee) internal returns (IAnchor.Request memory r) {
        return IAnchor.Request(
            a.agent,
            asker.ask{value: fee}(a, payload),
            address(asker),
            uint128(fee),
            a.codeHash,
            a.gasLimit,
            a.deadline,
            a.copies,
            a.flags,
            keccak256(payload)
        );
    }

    function answerDigest(IAnchor.Request memory r, bytes memory reply, bytes32 commit)
        internal
        view
        returns (bytes32)
    {
        bytes32 request = keccak256(abi.encode(r));
        return Statements.hash(
            Statements.AnchorAnswer(block.chainid, address(anchor), request, keccak256(reply), commit)
        );
    }

    function signBy(uint256 i, bytes32 structHash) internal view returns (IAnchor.Signed memory) {
        return IAnchor.Signed(worker(i), signOne(workerKeys[i], structHash));
    }

    /// @dev Signatures of the first `count` workers.
    function signed(IAnchor.Request memory r, bytes memory reply, uint256 count)
        internal
        view
        returns (IAnchor.Signed[] memory by)
    {
        by = new IAnchor.Signed[](count);
        for (uint256 i = 0; i < count; ++i) by[i] = signBy(i, answerDigest(r, reply, 0));
    }

    function answer(IAnchor.Request memory r, bytes memory reply) internal {
        anchor.respond(r, reply, signed(r, reply, r.copies));
    }

    function refuses(IAnchor.Request memory r, bytes memory reply, IAnchor.Signed[] memory by, bytes memory reason)
        internal
    {
        vm.expectRevert(reason);
        anchor.respond(r, reply, by);
        equal(anchor.isOpen(r), true);
    }
}
