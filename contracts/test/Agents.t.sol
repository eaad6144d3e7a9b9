// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {Agents} from "../src/Agents.sol";
import {Clusters} from "../src/Clusters.sol";
import {Gatekeepers} from "../src/Gatekeepers.sol";
import {Statements} from "../src/Statements.sol";
import {IIdentityRegistry} from "../src/interfaces/IIdentityRegistry.sol";
import {Founded} from "./Founded.sol";

contract AgentsTest is Founded {
    bytes32 internal constant CODE = keccak256("code");
    bytes32 internal constant MANIFEST = keccak256("manifest");
    Clusters internal clusters;
    Agents internal agents;
    address internal owner = named("owner");
    address internal stranger = named("stranger");

    function setUp() public {
        found();
        clusters = new Clusters(address(this), 3);
        agents = new Agents(gatekeepers, clusters);
    }

    function deployment(Agents.UpgradeMode mode, uint64 delay) internal view returns (Agents.Deployment memory) {
        return Agents.Deployment(CODE, MANIFEST, clusters.defaultCluster(), mode, delay, "ipfs://agent");
    }

    function deploy(Agents.UpgradeMode mode, uint64 delay) internal returns (uint256 tokenId) {
        Agents.Deployment memory d = deployment(mode, delay);
        vm.prank(owner);
        return agents.deploy(d);
    }

    function record(uint256 tokenId) internal view returns (Agents.Agent memory) {
        return agents.agent(agents.agentIdOf(tokenId));
    }

    function refuses(address who, bytes memory data, bytes memory reason) internal {
        vm.prank(who);
        (bool ok, bytes memory answer) = address(agents).call(data);
        equal(ok, false);
        equal(answer, reason);
    }

    // --- deploying ---

    function test_deploy_writes_the_whole_record() public {
        uint256 tokenId = deploy(Agents.UpgradeMode.Delayed, 7);
        Agents.Agent memory a = record(tokenId);
        equal(tokenId, 1);
        equal(agents.count(), 1);
        equal(a.owner, owner);
        equal(agents.ownerOf(tokenId), owner);
        equal(a.epoch, 1);
        equal(a.paused, false);
        equal(a.codeHash, CODE);
        equal(a.manifestHash, MANIFEST);
        equal(a.cluster, clusters.defaultCluster());
        equal(uint256(a.upgradeMode), 1);
        equal(a.upgradeDelay, 7);
        equal(a.tokenId, tokenId);
        equal(a.account, agents.accounts().addressOf(tokenId));
        equal(bytes(agents.tokenURI(tokenId)), bytes("ipfs://agent"));
        equal(agents.agentIdOf(tokenId), keccak256(abi.encode(block.chainid, address(agents), tokenId)));
    }

    function test_deploy_refuses_what_it_cannot_run() public {
        Agents.Deployment memory d = deployment(Agents.UpgradeMode.Instant, 0);
        d.codeHash = 0;
        refuses(owner, abi.encodeCall(Agents.deploy, (d)), abi.encodeWithSelector(Agents.EmptyHash.selector));
        d = deployment(Agents.UpgradeMode.Instant, 0);
        d.cluster = keccak256("nowhere");
        refuses(
            owner, abi.encodeCall(Agents.deploy, (d)), abi.encodeWithSelector(Agents.UnknownCluster.selector, d.cluster)
        );
        d = deployment(Agents.UpgradeMode.Delayed, 0);
        refuses(owner, abi.encodeCall(Agents.deploy, (d)), abi.encodeWithSelector(Agents.BadUpgradeRule.selector));
        d = deployment(Agents.UpgradeMode.Instant, 3);
        refuses(owner, abi.encodeCall(Agents.deploy, (d)), abi.encodeWithSelector(Agents.BadUpgradeRule.selector));
    }

    // --- code ---

    function test_instant_code_is_at_once() public {
        uint256 id = deploy(Agents.UpgradeMode.Instant, 0);
        vm.prank(owner);
        agents.setCode(id, keccak256("new"), MANIFEST);
        equal(record(id).codeHash, keccak256("new"));
    }

    function test_fuzz_delayed_code_waits(uint64 delay, uint64 wait) public {
        delay = uint64(bound(delay, 1, 1000));
        wait = uint64(bound(wait, 0, 2000));
        uint256 id = deploy(Agents.UpgradeMode.Delayed, delay);
        vm.prank(owner);
        agents.setCode(id, keccak256("new"), MANIFEST);
        equal(record(id).codeHash, CODE);
        uint64 ready = uint64(block.number) + delay;
        equal(agents.pendingCode(agents.agentIdOf(id)).readyAt, ready);
        vm.roll(block.number + wait);
        vm.prank(owner);
        if (wait < delay) vm.expectRevert(abi.encodeWithSelector(Agents.TooEarly.selector, ready, block.number));
        agents.applyCode(id);
        equal(record(id).codeHash, wait < delay ? CODE : keccak256("new"));
    }

    function test_frozen_code_stays() public {
        uint256 id = deploy(Agents.UpgradeMode.Instant, 0);
        vm.startPrank(owner);
        agents.freeze(id);
        vm.expectRevert(Agents.CodeFrozen.selector);
        agents.setCode(id, keccak256("new"), MANIFEST);
        vm.stopPrank();
    }

    function test_freezing_drops_a_waiting_change() public {
        uint256 id = deploy(Agents.UpgradeMode.Delayed, 5);
        vm.startPrank(owner);
        agents.setCode(id, keccak256("new"), MANIFEST);
        agents.freeze(id);
        vm.roll(block.number + 5);
        vm.expectRevert(Agents.NothingPending.selector);
        agents.applyCode(id);
        vm.stopPrank();
        equal(record(id).codeHash, CODE);
    }

    function test_a_longer_delay_drops_a_change_that_waits_under_the_shorter() public {
        uint256 id = deploy(Agents.UpgradeMode.Delayed, 5);
        vm.startPrank(owner);
        agents.setCode(id, keccak256("new"), MANIFEST);
        agents.setUpgradeRule(id, Agents.UpgradeMode.Delayed, 50);
        vm.roll(block.number + 5);
        vm.expectRevert(Agents.NothingPending.selector);
        agents.applyCode(id);
        vm.stopPrank();
    }

    function test_a_cancelled_change_is_gone() public {
        uint256 id = deploy(Agents.UpgradeMode.Delayed, 5);
        vm.startPrank(owner);
        agents.setCode(id, keccak256("new"), MANIFEST);
        agents.cancelCode(id);
        vm.expectRevert(Agents.NothingPending.selector);
        agents.cancelCode(id);
        vm.stopPrank();
    }

    // --- canary ---

    function canaryOf(uint256 id) internal view returns (Agents.Canary memory) {
        return agents.canary(agents.agentIdOf(id));
    }

    function test_an_instant_canary_may_run_at_once_beside_the_code_in_force() public {
        uint256 id = deploy(Agents.UpgradeMode.Instant, 0);
        vm.prank(owner);
        agents.setCanary(id, keccak256("new"), MANIFEST, 10);
        equal(record(id).codeHash, CODE);
        equal(uint256(record(id).canary), 11);
        equal(canaryOf(id).codeHash, keccak256("new"));
        equal(canaryOf(id).manifestHash, MANIFEST);
        equal(canaryOf(id).readyAt, uint64(block.number));
    }

    function test_fuzz_a_canary_waits_as_long_as_a_change(uint64 delay, uint64 wait, uint8 share) public {
        delay = uint64(bound(delay, 1, 1000));
        wait = uint64(bound(wait, 0, 2000));
        share = uint8(bound(share, 0, 100));
        uint256 id = deploy(Agents.UpgradeMode.Delayed, delay);
        vm.prank(owner);
        agents.setCanary(id, keccak256("new"), MANIFEST, share);
        uint64 ready = uint64(block.number) + delay;
        equal(canaryOf(id).readyAt, ready);
        vm.roll(block.number + wait);
        vm.prank(owner);
        if (wait < delay) vm.expectRevert(abi.encodeWithSelector(Agents.TooEarly.selector, ready, block.number));
        agents.promoteCanary(id);
        equal(record(id).codeHash, wait < delay ? CODE : keccak256("new"));
        equal(uint256(record(id).canary), wait < delay ? share + 1 : 0);
    }

    function test_another_share_waits_no_more_and_another_version_waits_anew() public {
        uint256 id = deploy(Agents.UpgradeMode.Delayed, 5);
        vm.startPrank(owner);
        agents.setCanary(id, keccak256("new"), MANIFEST, 1);
        uint64 ready = canaryOf(id).readyAt;
        vm.roll(block.number + 3);
        agents.setCanary(id, keccak256("new"), MANIFEST, 50);
        equal(canaryOf(id).readyAt, ready);
        agents.setCanary(id, keccak256("new"), keccak256("wider"), 50);
        equal(canaryOf(id).readyAt, uint64(block.number) + 5);
        agents.setCanary(id, keccak256("newer"), MANIFEST, 50);
        equal(canaryOf(id).readyAt, uint64(block.number) + 5);
        agents.dropCanary(id);
        vm.roll(block.number + 1);
        agents.setCanary(id, keccak256("newer"), MANIFEST, 50);
        equal(canaryOf(id).readyAt, uint64(block.number) + 5);
        vm.stopPrank();
    }

    function test_what_no_canary_may_be() public {
        uint256 id = deploy(Agents.UpgradeMode.Instant, 0);
        refuses(
            owner,
            abi.encodeCall(Agents.setCanary, (id, keccak256("new"), MANIFEST, 101)),
            abi.encodeWithSelector(Agents.BadShare.selector, 101)
        );
        refuses(
            owner,
            abi.encodeCall(Agents.setCanary, (id, 0, MANIFEST, 10)),
            abi.encodeWithSelector(Agents.EmptyHash.selector)
        );
        refuses(
            owner,
            abi.encodeCall(Agents.setCanary, (id, keccak256("new"), 0, 10)),
            abi.encodeWithSelector(Agents.EmptyHash.selector)
        );
        refuses(
            owner,
            abi.encodeCall(Agents.setCanary, (id, CODE, keccak256("wider"), 10)),
            abi.encodeWithSelector(Agents.SameCode.selector)
        );
        refuses(
            owner, abi.encodeCall(Agents.promoteCanary, (id)), abi.encodeWithSelector(Agents.NothingPending.selector)
        );
        refuses(owner, abi.encodeCall(Agents.dropCanary, (id)), abi.encodeWithSelector(Agents.NothingPending.selector));
        vm.startPrank(owner);
        agents.freeze(id);
        vm.expectRevert(Agents.CodeFrozen.selector);
        agents.setCanary(id, keccak256("new"), MANIFEST, 10);
        uint256 empty = agents.register();
        vm.expectRevert(Agents.EmptyHash.selector);
        agents.setCanary(empty, keccak256("new"), MANIFEST, 10);
        vm.stopPrank();
    }

    function test_strangers_touch_no_canary_and_a_guardian_stops_one() public {
        uint256 id = deploy(Agents.UpgradeMode.Instant, 0);
        address guardian = named("guardian");
        vm.startPrank(owner);
        agents.setGuardian(id, guardian);
        agents.setCanary(id, keccak256("new"), MANIFEST, 10);
        vm.stopPrank();
        bytes memory notOwner = abi.encodeWithSelector(Agents.NotOwner.selector, id, guardian);
        refuses(guardian, abi.encodeCall(Agents.promoteCanary, (id)), notOwner);
        refuses(guardian, abi.encodeCall(Agents.setCanary, (id, keccak256("own"), MANIFEST, 10)), notOwner);
        refuses(
            stranger,
            abi.encodeCall(Agents.dropCanary, (id)),
            abi.encodeWithSelector(Agents.NotOwnerOrGuardian.selector, id, stranger)
        );
        vm.prank(guardian);
        agents.dropCanary(id);
        equal(uint256(record(id).canary), 0);
        equal(canaryOf(id).codeHash, bytes32(0));
    }

    /// @notice A stricter rule, another guardian, a transfer and other code each end the canary.
    function test_fuzz_what_ends_a_canary(uint8 which) public {
        uint256 id = deploy(Agents.UpgradeMode.Instant, 0);
        vm.startPrank(owner);
        agents.setCanary(id, keccak256("new"), MANIFEST, 10);
        which = uint8(bound(which, 0, 4));
        if (which == 0) agents.setUpgradeRule(id, Agents.UpgradeMode.Delayed, 5);
        if (which == 1) agents.freeze(id);
        if (which == 2) agents.setGuardian(id, stranger);
        if (which == 3) agents.transferFrom(owner, stranger, id);
        if (which == 4) agents.setCode(id, keccak256("third"), MANIFEST);
        vm.stopPrank();
        equal(uint256(record(id).canary), 0);
        equal(canaryOf(id).codeHash, bytes32(0));
        equal(record(id).codeHash, which == 4 ? keccak256("third") : CODE);
    }

    /// @notice Whatever is tried, the rule never becomes looser.
    function test_fuzz_the_upgrade_rule_only_tightens(uint256 seed) public {
        uint256 id = deploy(Agents.UpgradeMode.Instant, 0);
        for (uint256 i = 0; i < 12; ++i) {
            uint256 roll = uint256(keccak256(abi.encode(seed, i)));
            Agents.Agent memory before = record(id);
            Agents.UpgradeMode mode = Agents.UpgradeMode(roll % 3);
            uint64 delay = uint64((roll >> 8) % 4);
            vm.prank(owner);
            (bool ok,) = address(agents).call(abi.encodeCall(Agents.setUpgradeRule, (id, mode, delay)));
            Agents.Agent memory now_ = record(id);
            if (!ok) equal(uint256(now_.upgradeMode) * 100 + now_.upgradeDelay, uint256(before.upgradeMode) * 100 + before.upgradeDelay);
            else if (now_.upgradeMode == before.upgradeMode) equal(now_.upgradeDelay > before.upgradeDelay, true);
            else equal(now_.upgradeMode > before.upgradeMode, true);
        }
    }

    function test_an_agent_without_code_cannot_be_frozen() public {
        vm.startPrank(owner);
        uint256 id = agents.register();
        vm.expectRevert(Agents.EmptyHash.selector);
        agents.freeze(id);
        vm.expectRevert(Agents.EmptyHash.selector);
        agents.setCode(id, CODE, 0);
        agents.setCode(id, CODE, MANIFEST);
        agents.freeze(id);
        vm.stopPrank();
        equal(record(id).codeHash, CODE);
    }

    // --- secrets, stopping, epochs ---

    function test_secrets_name_setter_version_and_epoch() public {
        uint256 id = deploy(Agents.UpgradeMode.Instant, 0);
        vm.startPrank(owner);
        agents.bumpEpoch(id);
        agents.setSecrets(id, keccak256("one"));
        agents.setSecrets(id, keccak256("two"));
        vm.stopPrank();
        Agents.Agent memory a = record(id);
        equal(a.secretsHash, keccak256("two"));
        equal(a.secretsVersion, 2);
        equal(a.secretsSetter, owner);
        equal(a.secretsEpoch, 2);
    }

    // --- who the owner is on other chains ---

    function test_only_the_owner_names_who_it_is_on_another_chain() public {
        uint256 token = deploy(Agents.UpgradeMode.Instant, 0);
        bytes32 id = agents.agentIdOf(token);
        vm.startPrank(owner);
        agents.setGuardian(token, named("guardian"));
        agents.approve(stranger, token);
        agents.setSpeaker(token, 8453, named("there"));
        vm.stopPrank();
        equal(agents.speakerOf(id, 8453), named("there"));
        equal(agents.speakerOf(id, 10), address(0));
        equal(agents.speakerOf(keccak256("another"), 8453), address(0));
        address[3] memory others = [named("guardian"), stranger, named("there")];
        for (uint256 i = 0; i < others.length; ++i) {
            refuses(
                others[i],
                abi.encodeCall(Agents.setSpeaker, (token, 8453, others[i])),
                abi.encodeWithSelector(Agents.NotOwner.selector, token, others[i])
            );
        }
        vm.prank(owner);
        agents.setSpeaker(token, 8453, address(0));
        equal(agents.speakerOf(id, 8453), address(0));
    }

    /// @notice Neither a buyer nor the seller who buys back finds an old word in force.
    function test_fuzz_a_transfer_ends_every_speaker(uint256 chain, uint8 sales) public {
        uint256 token = deploy(Agents.UpgradeMode.Instant, 0);
        bytes32 id = agents.agentIdOf(token);
        vm.prank(owner);
        agents.setSpeaker(token, chain, named("there"));
        address holder = owner;
        for (uint256 i = 0; i < 1 + sales % 4; ++i) {
            address next = holder == owner ? stranger : owner;
            vm.prank(holder);
            agents.transferFrom(holder, next, token);
            holder = next;
            equal(agents.speakerOf(id, chain), address(0));
        }
        vm.startPrank(holder);
        agents.setSpeaker(token, chain, named("new"));
        agents.bumpEpoch(token);
        vm.stopPrank();
        equal(agents.speakerOf(id, chain), named("new"));
    }

    function test_a_transfer_bumps_the_epoch_and_takes_the_old_owners_things() public {
        uint256 id = deploy(Agents.UpgradeMode.Delayed, 5);
        vm.startPrank(owner);
        agents.setSecrets(id, keccak256("one"));
        agents.setGuardian(id, stranger);
        agents.setCode(id, keccak256("new"), MANIFEST);
        agents.transferFrom(owner, named("buyer"), id);
        vm.stopPrank();
        Agents.Agent memory a = record(id);
        equal(a.owner, named("buyer"));
        equal(agents.ownerOf(id), named("buyer"));
        equal(a.epoch, 2);
        equal(a.secretsHash, 0);
        equal(a.secretsSetter, address(0));
        equal(a.secretsEpoch, 0);
        equal(a.secretsVersion, 2);
        equal(a.guardian, address(0));
        equal(a.codeHash, CODE);
        equal(agents.pendingCode(agents.agentIdOf(id)).codeHash, 0);
        equal(agents.getAgentWallet(id), address(0));
    }

    function test_owner_and_guardian_pause_only_the_owner_resumes() public {
        uint256 id = deploy(Agents.UpgradeMode.Instant, 0);
        vm.prank(owner);
        agents.setGuardian(id, stranger);
        vm.prank(stranger);
        agents.pause(id);
        equal(record(id).paused, true);
        refuses(
            stranger,
            abi.encodeCall(Agents.resume, (id)),
            abi.encodeWithSelector(Agents.NotOwner.selector, id, stranger)
        );
        vm.prank(owner);
        agents.resume(id);
        equal(record(id).paused, false);
        refuses(
            named("other"),
            abi.encodeCall(Agents.pause, (id)),
            abi.encodeWithSelector(Agents.NotOwnerOrGuardian.selector, id, named("other"))
        );
        vm.prank(owner);
        agents.pause(id);
        equal(record(id).paused, true);
    }

    function test_an_agent_without_guardian_is_not_paused_by_nobody() public {
        uint256 id = deploy(Agents.UpgradeMode.Instant, 0);
        refuses(
            address(0),
            abi.encodeCall(Agents.pause, (9)),
            abi.encodeWithSignature("ERC721NonexistentToken(uint256)", 9)
        );
        equal(record(id).paused, false);
    }

    function test_the_committee_bumps_for_cause_and_each_statement_counts_once() public {
        uint256 id = deploy(Agents.UpgradeMode.Instant, 0);
        Statements.EpochBump memory bump = Statements.EpochBump(1, agents.agentIdOf(id), 1);
        bytes[] memory sigs = signAll(Statements.hash(bump), T);
        agents.bumpEpochByCommittee(id, bump, sigs);
        equal(record(id).epoch, 2);
        vm.expectRevert(abi.encodeWithSelector(Agents.WrongEpoch.selector, 1, 2));
        agents.bumpEpochByCommittee(id, bump, sigs);
        bump.agentEpoch = 2;
        (bool ok,) = address(agents).call(abi.encodeCall(Agents.bumpEpochByCommittee, (id, bump, sigs)));
        equal(ok, false);
        uint256 other = deploy(Agents.UpgradeMode.Instant, 0);
        bump.agentEpoch = 1;
        vm.expectRevert(abi.encodeWithSelector(Agents.UnknownAgent.selector, bump.agent));
        agents.bumpEpochByCommittee(other, bump, sigs);
    }

    /// @notice An approved operator may sell the token, but not touch code, secrets, keys or the pause.
    function test_fuzz_only_the_owner_controls_what_runs(address who, uint8 which, bool approved) public {
        uint256 id = deploy(Agents.UpgradeMode.Instant, 0);
        vm.assume(who != owner && who != address(0));
        vm.prank(owner);
        agents.setApprovalForAll(who, approved);
        bytes[7] memory calls = [
            abi.encodeCall(Agents.setCode, (id, CODE, MANIFEST)),
            abi.encodeCall(Agents.setSecrets, (id, CODE)),
            abi.encodeCall(Agents.resume, (id)),
            abi.encodeCall(Agents.bumpEpoch, (id)),
            abi.encodeCall(Agents.freeze, (id)),
            abi.encodeCall(Agents.setGuardian, (id, who)),
            abi.encodeCall(Agents.applyCode, (id))
        ];
        refuses(who, calls[which % 7], abi.encodeWithSelector(Agents.NotOwner.selector, id, who));
    }

    /// @notice The mirrored owner is ERC-721's owner whatever moves; epochs never go down.
    function test_fuzz_the_mirrored_owner_is_the_owner(uint256 seed) public {
        uint256 id = deploy(Agents.UpgradeMode.Instant, 0);
        for (uint256 i = 0; i < 10; ++i) {
            uint256 roll = uint256(keccak256(abi.encode(seed, i)));
            Agents.Agent memory before = record(id);
            address to = address(uint160(roll % 4 + 0x10));
            vm.prank(before.owner);
            if (roll & 1024 == 0) agents.transferFrom(before.owner, to, id);
            else agents.bumpEpoch(id);
            equal(record(id).owner, agents.ownerOf(id));
            equal(record(id).epoch, before.epoch + 1);
        }
    }

    // --- ERC-8004 ---

    function test_the_three_registrations() public {
        IIdentityRegistry.MetadataEntry[] memory entries = new IIdentityRegistry.MetadataEntry[](1);
        entries[0] = IIdentityRegistry.MetadataEntry("color", "blue");
        vm.startPrank(owner);
        uint256 one = agents.register();
        uint256 two = agents.register("ipfs://two");
        uint256 three = agents.register("ipfs://three", entries);
        vm.stopPrank();
        equal(bytes(agents.tokenURI(one)), bytes(""));
        equal(bytes(agents.tokenURI(two)), bytes("ipfs://two"));
        equal(agents.getMetadata(three, "color"), bytes("blue"));
        equal(agents.getAgentWallet(three), owner);
        equal(agents.getMetadata(three, "agentWallet"), abi.encodePacked(owner));
        equal(record(one).codeHash, 0);
    }

    function test_registered_is_emitted_as_the_standard_says() public {
        vm.expectEmit();
        emit IIdentityRegistry.Registered(1, "ipfs://x", owner);
        vm.prank(owner);
        agents.register("ipfs://x");
    }

    function test_uri_and_metadata_by_owner_and_approved_only() public {
        uint256 id = deploy(Agents.UpgradeMode.Instant, 0);
        refuses(
            stranger,
            abi.encodeCall(Agents.setAgentURI, (id, "x")),
            abi.encodeWithSelector(Agents.NotAuthorized.selector, id, stranger)
        );
        vm.prank(owner);
        agents.approve(stranger, id);
        vm.expectEmit();
        emit IIdentityRegistry.URIUpdated(id, "ipfs://new", stranger);
        vm.prank(stranger);
        agents.setAgentURI(id, "ipfs://new");
        vm.prank(stranger);
        agents.setMetadata(id, "k", "v");
        equal(agents.getMetadata(id, "k"), bytes("v"));
        refuses(
            owner,
            abi.encodeCall(Agents.setMetadata, (id, "agentWallet", "v")),
            abi.encodeWithSelector(Agents.ReservedKey.selector)
        );
    }

    function walletSignature(uint256 key, uint256 id, uint256 deadline) internal view returns (bytes memory) {
        bytes32 domain = keccak256(
            abi.encode(
                keccak256("EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"),
                keccak256("ERC8004IdentityRegistry"),
                keccak256("1"),
                block.chainid,
                address(agents)
            )
        );
        bytes32 typeHash = keccak256("AgentWalletSet(uint256 agentId,address newWallet,address owner,uint256 deadline)");
        bytes32 structHash = keccak256(abi.encode(typeHash, id, vm.addr(key), owner, deadline));
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(key, keccak256(abi.encodePacked(hex"1901", domain, structHash)));
        return abi.encodePacked(r, s, v);
    }

    function test_a_wallet_agrees_by_signature_in_time() public {
        uint256 id = deploy(Agents.UpgradeMode.Instant, 0);
        uint256 deadline = block.timestamp + 60;
        address wallet = vm.addr(42);
        bytes memory signature = walletSignature(42, id, deadline);
        vm.startPrank(owner);
        vm.expectRevert(Agents.BadWalletSignature.selector);
        agents.setAgentWallet(id, vm.addr(43), deadline, signature);
        agents.setAgentWallet(id, wallet, deadline, signature);
        equal(agents.getAgentWallet(id), wallet);
        agents.unsetAgentWallet(id);
        equal(agents.getAgentWallet(id), address(0));
        equal(agents.getMetadata(id, "agentWallet"), bytes(""));
        vm.expectRevert(abi.encodeWithSelector(Agents.DeadlineTooFar.selector, block.timestamp + 301));
        agents.setAgentWallet(id, wallet, block.timestamp + 301, signature);
        vm.warp(deadline + 1);
        vm.expectRevert(abi.encodeWithSelector(Agents.DeadlinePassed.selector, deadline));
        agents.setAgentWallet(id, wallet, deadline, signature);
        vm.stopPrank();
    }

    function test_interfaces() public view {
        equal(agents.supportsInterface(0x80ac58cd), true); // ERC-721
        equal(agents.supportsInterface(0x5b5e139f), true); // metadata
        equal(agents.supportsInterface(0xffffffff), false);
    }

    function test_unknown_agents_have_no_record() public {
        vm.expectRevert(abi.encodeWithSelector(Agents.UnknownAgent.selector, CODE));
        agents.agent(CODE);
    }
}
