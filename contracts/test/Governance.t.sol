// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {Governor} from "@openzeppelin/contracts/governance/Governor.sol";
import {IGovernor} from "@openzeppelin/contracts/governance/IGovernor.sol";
import {TimelockController} from "@openzeppelin/contracts/governance/TimelockController.sol";
import {GovernorCountingSimple} from "@openzeppelin/contracts/governance/extensions/GovernorCountingSimple.sol";
import {GovernorSettings} from "@openzeppelin/contracts/governance/extensions/GovernorSettings.sol";
import {GovernorTimelockControl} from "@openzeppelin/contracts/governance/extensions/GovernorTimelockControl.sol";
import {GovernorVotes} from "@openzeppelin/contracts/governance/extensions/GovernorVotes.sol";
import {GovernorVotesQuorumFraction} from
    "@openzeppelin/contracts/governance/extensions/GovernorVotesQuorumFraction.sol";
import {IVotes} from "@openzeppelin/contracts/governance/utils/IVotes.sol";
import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";
import {Agents} from "../src/Agents.sol";
import {Clusters} from "../src/Clusters.sol";
import {Timelock} from "../src/Timelock.sol";
import {IAgentAccess} from "../src/interfaces/IAgentAccess.sol";
import {Founded} from "./Founded.sol";

/// @notice A usual Governor over PHA: a block of delay, fifty of voting, 4 % quorum, carried out by a timelock.
contract Dao is
    Governor,
    GovernorSettings,
    GovernorCountingSimple,
    GovernorVotes,
    GovernorVotesQuorumFraction,
    GovernorTimelockControl
{
    constructor(IVotes token, TimelockController timelock)
        Governor("Dao")
        GovernorSettings(1, 50, 1000 ether)
        GovernorVotes(token)
        GovernorVotesQuorumFraction(4)
        GovernorTimelockControl(timelock)
    {}

    function state(uint256 id) public view override(Governor, GovernorTimelockControl) returns (ProposalState) {
        return super.state(id);
    }

    function proposalNeedsQueuing(uint256 id) public view override(Governor, GovernorTimelockControl) returns (bool) {
        return super.proposalNeedsQueuing(id);
    }

    function proposalThreshold() public view override(Governor, GovernorSettings) returns (uint256) {
        return super.proposalThreshold();
    }

    function _queueOperations(uint256 id, address[] memory to, uint256[] memory values, bytes[] memory data, bytes32 text)
        internal
        override(Governor, GovernorTimelockControl)
        returns (uint48)
    {
        return super._queueOperations(id, to, values, data, text);
    }

    function _executeOperations(
        uint256 id,
        address[] memory to,
        uint256[] memory values,
        bytes[] memory data,
        bytes32 text
    ) internal override(Governor, GovernorTimelockControl) {
        super._executeOperations(id, to, values, data, text);
    }

    function _cancel(address[] memory to, uint256[] memory values, bytes[] memory data, bytes32 text)
        internal
        override(Governor, GovernorTimelockControl)
        returns (uint256)
    {
        return super._cancel(to, values, data, text);
    }

    function _executor() internal view override(Governor, GovernorTimelockControl) returns (address) {
        return super._executor();
    }
}

/// @notice As Safe does it: k of n owners sign one call with the account's next nonce; anybody brings it.
contract Multisig {
    uint256 public nonce;
    uint256 public immutable threshold;
    mapping(address who => bool) public owners;

    error NotEnough();

    constructor(address[] memory owners_, uint256 threshold_) {
        for (uint256 i = 0; i < owners_.length; ++i) owners[owners_[i]] = true;
        threshold = threshold_;
    }

    function digest(address to, bytes calldata data) public view returns (bytes32) {
        return keccak256(abi.encode(block.chainid, address(this), nonce, to, keccak256(data)));
    }

    /// @dev Signatures in rising order of their signers, so that none counts twice.
    function act(address to, bytes calldata data, bytes[] calldata sigs) external returns (bytes memory) {
        bytes32 said = digest(to, data);
        address last;
        for (uint256 i = 0; i < sigs.length; ++i) {
            address who = ECDSA.recover(said, sigs[i]);
            if (!owners[who] || who <= last) revert NotEnough();
            last = who;
        }
        if (sigs.length < threshold) revert NotEnough();
        ++nonce;
        (bool ok, bytes memory answer) = to.call(data);
        if (!ok) {
            assembly ("memory-safe") {
                revert(add(answer, 32), mload(answer))
            }
        }
        return answer;
    }
}

/// @notice A members' list as an access hook; its owner is whoever governs.
contract Members is IAgentAccess {
    address public immutable owner;
    mapping(address who => bool) public member;

    constructor(address owner_) {
        owner = owner_;
    }

    function set(address who, bool in_) external {
        require(msg.sender == owner, "not the owner");
        member[who] = in_;
    }

    function isAllowed(bytes32, address caller, bytes4, bytes calldata) external view returns (bool) {
        return member[caller];
    }
}

/// @notice Agents whose owner is a contract: a DAO that votes, a multisig behind a timelock, and a sale between them.
contract GovernanceTest is Founded {
    uint256 internal constant DELAY = 2 days;
    bytes32 internal constant CODE = keccak256("code");
    bytes32 internal constant MANIFEST = keccak256("manifest");
    address internal alice = named("alice");
    address internal bob = named("bob");
    Timelock internal daoLock;
    Dao internal dao;
    Agents internal agents;
    Multisig internal safe;
    Timelock internal safeLock;
    Members internal hook;
    uint256 internal daoAgent;
    uint256 internal safeAgent;
    uint256[] internal signers;

    function setUp() public {
        vm.warp(1_700_000_000);
        found();
        address[] memory none = new address[](0);
        address[] memory anybody = new address[](1);
        daoLock = new Timelock(DELAY, none, anybody, address(this));
        dao = new Dao(pha, daoLock);
        daoLock.grantRole(daoLock.PROPOSER_ROLE(), address(dao));
        daoLock.grantRole(daoLock.CANCELLER_ROLE(), address(dao));
        daoLock.renounceRole(daoLock.DEFAULT_ADMIN_ROLE(), address(this));
        agents = new Agents(gatekeepers, new Clusters(address(daoLock), 3));
        hook = new Members(address(daoLock));
        daoAgent = deployFor(address(daoLock), Agents.UpgradeMode.Instant, 0);
        openSafe();
        safeAgent = deployFor(address(safeLock), Agents.UpgradeMode.Delayed, 10);
        pha.transfer(alice, 60_000_000 ether);
        pha.transfer(bob, 50_000_000 ether);
        vm.prank(alice);
        pha.delegate(alice);
        vm.prank(bob);
        pha.delegate(bob);
        vm.roll(block.number + 1);
    }

    function openSafe() private {
        for (uint256 i = 0; i < 3; ++i) signers.push(uint256(keccak256(abi.encode("signer", i))));
        for (uint256 i = 0; i < 3; ++i) {
            for (uint256 j = i + 1; j < 3; ++j) {
                if (vm.addr(signers[j]) < vm.addr(signers[i])) (signers[i], signers[j]) = (signers[j], signers[i]);
            }
        }
        address[] memory who = new address[](3);
        for (uint256 i = 0; i < 3; ++i) who[i] = vm.addr(signers[i]);
        safe = new Multisig(who, 2);
        address[] memory proposers = new address[](1);
        proposers[0] = address(safe);
        safeLock = new Timelock(DELAY, proposers, new address[](1), address(0));
    }

    function deployFor(address who, Agents.UpgradeMode mode, uint64 delay) private returns (uint256 id) {
        bytes32 cluster = agents.clusters().defaultCluster();
        id = agents.deploy(Agents.Deployment(CODE, MANIFEST, cluster, mode, delay, ""));
        agents.transferFrom(address(this), who, id);
    }

    function paused(uint256 id) internal view returns (bool p) {
        (, p) = agents.live(agents.agentIdOf(id));
    }

    // --- a DAO ---

    function one(address to, bytes memory data)
        internal
        pure
        returns (address[] memory targets, uint256[] memory values, bytes[] memory calls)
    {
        (targets, values, calls) = (new address[](1), new uint256[](1), new bytes[](1));
        (targets[0], calls[0]) = (to, data);
    }

    function propose(address to, bytes memory data) internal returns (uint256 id) {
        (address[] memory t, uint256[] memory v, bytes[] memory c) = one(to, data);
        vm.prank(alice);
        id = dao.propose(t, v, c, "why");
        vm.roll(block.number + 2);
    }

    function queue(address to, bytes memory data) internal {
        (address[] memory t, uint256[] memory v, bytes[] memory c) = one(to, data);
        dao.queue(t, v, c, keccak256("why"));
    }

    function execute(address to, bytes memory data) internal {
        (address[] memory t, uint256[] memory v, bytes[] memory c) = one(to, data);
        dao.execute(t, v, c, keccak256("why"));
    }

    function decide(address to, bytes memory data) internal {
        uint256 id = propose(to, data);
        vm.prank(alice);
        dao.castVote(id, 1);
        vm.roll(block.number + 51);
        queue(to, data);
        vm.warp(block.timestamp + DELAY);
        execute(to, data);
    }

    function test_a_vote_pauses_an_agent_and_another_resumes_it() public {
        decide(address(agents), abi.encodeCall(Agents.pause, (daoAgent)));
        equal(paused(daoAgent), true);
        decide(address(agents), abi.encodeCall(Agents.resume, (daoAgent)));
        equal(paused(daoAgent), false);
    }

    function test_tokens_gathered_after_a_proposal_do_not_stop_it() public {
        uint256 id = propose(address(agents), abi.encodeCall(Agents.pause, (daoAgent)));
        vm.prank(alice);
        dao.castVote(id, 1);
        pha.delegate(address(this)); // most of the supply, too late: votes count as at the proposal's block
        dao.castVote(id, 0);
        vm.roll(block.number + 51);
        equal(uint256(dao.state(id)), uint256(IGovernor.ProposalState.Succeeded));
    }

    function test_a_vote_that_is_lost_does_nothing() public {
        bytes memory data = abi.encodeCall(Agents.freeze, (daoAgent));
        uint256 id = propose(address(agents), data);
        vm.prank(bob);
        dao.castVote(id, 0);
        vm.roll(block.number + 51);
        equal(uint256(dao.state(id)), uint256(IGovernor.ProposalState.Defeated));
        (address[] memory t, uint256[] memory v, bytes[] memory c) = one(address(agents), data);
        (bool ok,) = address(dao).call(abi.encodeCall(IGovernor.queue, (t, v, c, keccak256("why"))));
        equal(ok, false);
    }

    function test_nothing_happens_before_the_timelock_is_over() public {
        bytes memory data = abi.encodeCall(Agents.pause, (daoAgent));
        uint256 id = propose(address(agents), data);
        vm.prank(alice);
        dao.castVote(id, 1);
        vm.roll(block.number + 51);
        queue(address(agents), data);
        vm.warp(block.timestamp + DELAY - 1);
        (address[] memory t, uint256[] memory v, bytes[] memory c) = one(address(agents), data);
        (bool ok,) = address(dao).call(abi.encodeCall(IGovernor.execute, (t, v, c, keccak256("why"))));
        equal(ok, false);
        equal(paused(daoAgent), false);
        vm.warp(block.timestamp + 1);
        execute(address(agents), data);
        equal(paused(daoAgent), true);
    }

    function test_a_vote_stops_an_agent_of_somebody_else_in_an_emergency() public {
        decide(address(agents), abi.encodeCall(Agents.emergencyPause, (safeAgent, 1000)));
        equal(paused(safeAgent), true);
        through(abi.encodeCall(Agents.resume, (safeAgent)), false);
        equal(paused(safeAgent), true);
        vm.roll(block.number + 1000);
        through(abi.encodeCall(Agents.resume, (safeAgent)), true);
        equal(paused(safeAgent), false);
    }

    function test_a_vote_sets_a_hook_and_the_hook_denies_from_its_next_vote_on() public {
        bytes32 id = agents.agentIdOf(daoAgent);
        decide(address(agents), abi.encodeCall(Agents.setAccessHook, (daoAgent, address(hook))));
        equal(agents.rules(id).accessHook, address(hook));
        equal(hook.isAllowed(id, bob, 0, ""), false);
        decide(address(hook), abi.encodeCall(Members.set, (bob, true)));
        equal(hook.isAllowed(id, bob, 0, ""), true);
        decide(address(hook), abi.encodeCall(Members.set, (bob, false)));
        equal(hook.isAllowed(id, bob, 0, ""), false);
    }

    // --- a multisig behind a timelock ---

    function sign(uint256 count, address to, bytes memory data) internal view returns (bytes[] memory sigs) {
        bytes32 said = safe.digest(to, data);
        sigs = new bytes[](count);
        for (uint256 i = 0; i < count; ++i) {
            (uint8 v, bytes32 r, bytes32 s) = vm.sign(signers[i], said);
            sigs[i] = abi.encodePacked(r, s, v);
        }
    }

    function schedule(bytes memory data, bytes32 salt) internal {
        bytes memory order = abi.encodeCall(
            TimelockController.schedule, (address(agents), 0, data, bytes32(0), salt, DELAY)
        );
        safe.act(address(safeLock), order, sign(2, address(safeLock), order));
    }

    /// @dev Two of three say so, two days pass, anybody carries it out.
    function through(bytes memory data, bool succeeds) internal {
        bytes32 salt = keccak256(abi.encode(block.timestamp, data));
        schedule(data, salt);
        vm.warp(block.timestamp + DELAY);
        bytes memory order = abi.encodeCall(TimelockController.execute, (address(agents), 0, data, bytes32(0), salt));
        (bool ok,) = address(safeLock).call(order);
        equal(ok, succeeds);
    }

    function test_two_of_three_change_code_after_both_delays() public {
        bytes32 id = agents.agentIdOf(safeAgent);
        through(abi.encodeCall(Agents.setCode, (safeAgent, keccak256("new"), MANIFEST)), true);
        equal(agents.agent(id).codeHash, CODE); // the agent's own rule waits ten blocks more
        through(abi.encodeCall(Agents.applyCode, (safeAgent)), false);
        vm.roll(block.number + 10);
        through(abi.encodeCall(Agents.applyCode, (safeAgent)), true);
        equal(agents.agent(id).codeHash, keccak256("new"));
    }

    function test_one_of_three_changes_nothing_and_an_order_counts_once() public {
        bytes memory data = abi.encodeCall(Agents.pause, (safeAgent));
        bytes memory order =
            abi.encodeCall(TimelockController.schedule, (address(agents), 0, data, bytes32(0), 0, DELAY));
        bytes[] memory single = sign(1, address(safeLock), order);
        vm.expectRevert(Multisig.NotEnough.selector);
        safe.act(address(safeLock), order, single);
        bytes[] memory twice = new bytes[](2);
        (twice[0], twice[1]) = (single[0], single[0]);
        vm.expectRevert(Multisig.NotEnough.selector);
        safe.act(address(safeLock), order, twice);
        bytes[] memory both = sign(2, address(safeLock), order);
        safe.act(address(safeLock), order, both);
        (bool again,) = address(safe).call(abi.encodeCall(Multisig.act, (address(safeLock), order, both)));
        equal(again, false);
    }

    function test_the_members_of_the_safe_have_no_rights_of_their_own() public {
        address member = vm.addr(signers[0]);
        vm.prank(member);
        (bool ok,) = address(agents).call(abi.encodeCall(Agents.pause, (safeAgent)));
        equal(ok, false);
        vm.prank(address(safe));
        (ok,) = address(agents).call(abi.encodeCall(Agents.pause, (safeAgent)));
        equal(ok, false);
    }

    // --- a sale ---

    function test_a_sale_ends_every_right_of_the_seller() public {
        bytes32 id = agents.agentIdOf(safeAgent);
        through(abi.encodeCall(Agents.setGuardian, (safeAgent, alice)), true);
        through(abi.encodeCall(Agents.setFeePayer, (safeAgent, address(safe))), true);
        through(abi.encodeCall(Agents.setSecrets, (safeAgent, keccak256("secrets"))), true);
        through(abi.encodeWithSignature("approve(address,uint256)", bob, safeAgent), true);
        through(abi.encodeCall(Agents.setCode, (safeAgent, keccak256("new"), MANIFEST)), true);
        uint64 epoch = agents.agent(id).epoch;
        // An order that waits in the seller's timelock at the sale is worth nothing after it.
        bytes memory late = abi.encodeCall(Agents.setSecrets, (safeAgent, keccak256("late")));
        schedule(late, "late");
        through(abi.encodeWithSignature("transferFrom(address,address,uint256)", safeLock, bob, safeAgent), true);
        Agents.Agent memory sold = agents.agent(id);
        equal(sold.owner, bob);
        equal(sold.epoch, epoch + 1);
        equal(sold.guardian, address(0));
        equal(sold.secretsHash, bytes32(0));
        equal(agents.rules(id).feePayer, address(0));
        equal(agents.pendingCode(id).codeHash, bytes32(0));
        equal(agents.getApproved(safeAgent), address(0));
        (bool ok,) =
            address(safeLock).call(abi.encodeCall(TimelockController.execute, (address(agents), 0, late, 0, "late")));
        equal(ok, false);
        vm.roll(block.number + 100);
        bytes[6] memory rights = [
            abi.encodeCall(Agents.pause, (safeAgent)),
            abi.encodeCall(Agents.applyCode, (safeAgent)),
            abi.encodeCall(Agents.setAccessHook, (safeAgent, address(0))),
            abi.encodeCall(Agents.setLists, (safeAgent, 0, 0, 0)),
            abi.encodeCall(Agents.bumpEpoch, (safeAgent)),
            abi.encodeCall(Agents.setAgentURI, (safeAgent, "mine"))
        ];
        for (uint256 i = 0; i < rights.length; ++i) through(rights[i], false);
        vm.prank(alice);
        (ok,) = address(agents).call(abi.encodeCall(Agents.pause, (safeAgent)));
        equal(ok, false);
        vm.prank(bob);
        agents.setSecrets(safeAgent, keccak256("bob's"));
    }

    function test_a_dao_buys_an_agent_and_votes_over_it() public {
        through(abi.encodeWithSignature("transferFrom(address,address,uint256)", safeLock, daoLock, safeAgent), true);
        decide(address(agents), abi.encodeCall(Agents.pause, (safeAgent)));
        equal(paused(safeAgent), true);
    }
}
