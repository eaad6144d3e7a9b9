// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {AgentConsumer} from "../src/AgentConsumer.sol";
import {AgentAccount} from "../src/AgentAccount.sol";
import {Agents} from "../src/Agents.sol";
import {Clusters} from "../src/Clusters.sol";
import {Statements} from "../src/Statements.sol";
import {Validation} from "../src/Validation.sol";
import {IAnchor} from "../src/interfaces/IAnchor.sol";
import {RemoteAgents} from "../src/RemoteAgents.sol";
import {RemoteStatements} from "../src/RemoteStatements.sol";
import {Anchored, Asker} from "./Anchored.sol";
import {Abroad, Bell} from "./RemoteAgents.t.sol";

interface GasVm {
    function snapshotGasLastCall(string calldata group, string calldata name) external returns (uint256);
    function snapshotValue(string calldata group, string calldata name, uint256 value) external;
}

/// @notice A consumer that keeps one word of each answer, as a price feed does.
contract Lean is AgentConsumer {
    bytes32 public word;

    constructor(IAnchor anchor_, bytes32 agent_) AgentConsumer(anchor_, agent_) {}

    function ask(IAnchor.Ask calldata a, bytes calldata payload) external payable returns (uint64) {
        return anchor.request{value: msg.value}(a, payload);
    }

    function _onReply(uint64 index, bytes calldata reply) internal override {
        word = keccak256(abi.encode(index, reply));
    }
}

/// @notice What operations cost as whole transactions: intrinsic gas, calldata, cold storage, refunds.
/// The figures stand in contracts/gas/Cloister.json; `build.py --test` compares, `build.py --gas` writes them.
/// forge-config: default.isolate = true
contract GasTest is Anchored {
    uint256 internal constant LIMIT = 140_000;
    GasVm internal constant GAS = GasVm(address(uint160(uint256(keccak256("hevm cheat code")))));
    Validation internal validation;

    function setUp() public {
        anchored();
        validation = new Validation(agents, gatekeepers);
        asker = Asker(payable(new Lean(anchor, agentId)));
        // Everything below is not the first time: queue, places, credits and the consumer's word are in use.
        for (uint256 i = 0; i < 16; ++i) answer(ask(choice(), bytesOf(256), 1 ether), bytesOf(256));
    }

    function bytesOf(uint256 size) internal pure returns (bytes memory data) {
        data = new bytes(size);
        for (uint256 i = 0; i < size; ++i) data[i] = bytes1(uint8(i % 251 + 1));
    }

    function take(string memory name) internal returns (uint256) {
        return GAS.snapshotGasLastCall("Cloister", name);
    }

    function test_gas_agents() public {
        bytes32 cluster = agents.clusters().defaultCluster();
        Agents.Deployment memory d =
            Agents.Deployment(CODE, CODE, cluster, Agents.UpgradeMode.Instant, 0, "ipfs://bafybeigdyrzt5sfp7udm7hu76uh7y26nf3efuylqabf3oclgtqy55fbzdi");
        uint256 id = agents.deploy(d);
        take("register agent");
        agents.setCode(id, keccak256("new"), keccak256("new"));
        take("update code");
        agents.setSecrets(id, keccak256("secrets"));
        take("set secrets");
        agents.pause(id);
        take("pause");
        agents.resume(id);
        take("resume");
        agents.setAccessHook(id, address(anchor));
        take("set access hook");
        agents.transferFrom(address(this), owner, id);
        take("transfer agent");
    }

    function test_gas_account() public {
        AgentAccount account = agents.accounts().create(tokenId);
        take("create account");
        Statements.SetSigner memory s = Statements.SetSigner(1, agentId, 1, vm.addr(9));
        account.setSigner(s, signAll(Statements.hash(s), T));
        take("set signer, 3 of 5");
    }

    function test_gas_remote_agents() public {
        Abroad both = new Abroad(address(this));
        RemoteAgents remote = both.remote();
        both.anchor().install(gatekeepers.networkId(), 1, gatekeepers.members(), T, uint64(block.timestamp) + 80 days);
        RemoteStatements.RemoteAgent memory s = RemoteStatements.RemoteAgent(
            1, block.chainid, address(both.anchor()), agentId, 1, owner, owner, owner, 1, uint64(block.timestamp) + 2 hours
        );
        remote.tell(s, signAll(RemoteStatements.hash(s), T));
        take("remote agent told first, 3 of 5");
        (s.height, s.expiry) = (2, s.expiry + 1);
        remote.tell(s, signAll(RemoteStatements.hash(s), T));
        take("remote agent told again, 3 of 5");
        remote.accounts().create(uint256(agentId));
        take("create account elsewhere");
        vm.prank(owner);
        remote.stop(agentId);
        take("stop a remote agent");
    }

    function test_gas_account_call() public {
        AgentAccount account = agents.accounts().create(tokenId);
        uint256 key = 9;
        Statements.SetSigner memory s = Statements.SetSigner(1, agentId, 1, vm.addr(key));
        account.setSigner(s, signAll(Statements.hash(s), T));
        Bell bell = new Bell();
        vm.prank(owner);
        account.setAllowed(address(bell), Bell.ring.selector, true);
        vm.deal(address(account), 1 ether);
        for (uint256 nonce = 1; nonce < 3; ++nonce) {
            bytes memory data = abi.encodeCall(Bell.ring, ());
            (uint8 v, bytes32 r, bytes32 x) =
                vm.sign(key, account.callDigest(address(bell), 0, data, nonce, block.timestamp));
            account.executeSigned(address(bell), 0, data, nonce, block.timestamp, abi.encodePacked(r, x, v));
        }
        take("account's call by a bringer");
    }

    function test_gas_validation() public {
        Statements.TeeValidation memory v =
            Statements.TeeValidation(1, agentId, 1, 1, 100, keccak256("e"), uint64(block.number) + 50);
        validation.validate(tokenId, v, "", signAll(Statements.hash(v), T));
        take("validation, first");
        v.serial = 2;
        validation.validate(tokenId, v, "", signAll(Statements.hash(v), T));
        take("validation, renewed");
    }

    function test_gas_lease() public {
        Statements.AnchorLease memory l = lease(0);
        l.expiry += 1;
        register(l);
        take("anchor lease renewed, 3 of 5");
    }

    function roundTrip(uint256 size, string memory name) internal returns (uint256 total) {
        IAnchor.Request memory r = ask(choice(), bytesOf(size), 1 ether);
        total = take(string.concat("request ", name));
        bytes memory reply = bytesOf(size);
        IAnchor.Signed[] memory by = signed(r, reply, 1);
        anchor.respond(r, reply, by);
        total += take(string.concat("response and callback ", name));
    }

    function test_gas_round_trips() public {
        answer(ask(choice(), bytesOf(1024), 1 ether), bytesOf(1024));
        answer(ask(choice(), bytesOf(256), 1 ether), bytesOf(256));
        uint256 total = roundTrip(256, "256 B");
        GAS.snapshotValue("Cloister", "request and callback 256 B", total);
        equal(total <= LIMIT, true);
        answer(ask(choice(), bytesOf(1024), 1 ether), bytesOf(1024));
        GAS.snapshotValue("Cloister", "request and callback 1 KiB", roundTrip(1024, "1 KiB"));
    }

    function test_gas_sponsored_request() public {
        address payer = named("payer");
        vm.prank(owner);
        agents.setFeePayer(tokenId, payer);
        anchor.deposit{value: 10 ether}(payer);
        vm.prank(payer);
        anchor.setConsent(agentId, owner, address(0), 1 ether, 9 ether, type(uint64).max);
        take("set consent");
        anchor.requestSponsored(choice(), 1 ether, bytesOf(256));
        take("sponsored request 256 B");
    }

    function test_gas_respond_and_commit() public {
        IAnchor.Commit memory c;
        c.conditions = new IAnchor.Condition[](1);
        c.conditions[0] = IAnchor.Condition("flag", 0);
        c.updates = new IAnchor.Update[](3);
        for (uint64 version = 0; version < 2; ++version) {
            for (uint256 i = 0; i < 3; ++i) c.updates[i] = IAnchor.Update(bytes32(i + 1), version, bytesOf(64));
            IAnchor.Request memory r = ask(choice(), bytesOf(256), 1 ether);
            IAnchor.Signed[] memory by = new IAnchor.Signed[](1);
            by[0] = signBy(0, answerDigest(r, bytesOf(256), keccak256(abi.encode(c))));
            anchor.respondAndCommit(r, bytesOf(256), c, by);
        }
        take("response with a commit of 3 keys 64 B");
    }

    function test_gas_equal_answers() public {
        IAnchor.Ask memory a = choice();
        a.copies = 3;
        IAnchor.Request memory r = ask(a, bytesOf(256), 1 ether);
        answer(r, bytesOf(256));
        take("response of 3 equal answers 256 B");
    }

    function test_gas_batch_of_50() public {
        IAnchor.Reply[] memory batch = new IAnchor.Reply[](50);
        for (uint256 i = 0; i < 50; ++i) {
            batch[i].request = ask(choice(), bytesOf(256), 1);
            batch[i].reply = bytesOf(256);
            batch[i].by = signed(batch[i].request, batch[i].reply, 1);
        }
        anchor.respondBatch(batch);
        uint256 all = take("batch of 50 responses 256 B");
        GAS.snapshotValue("Cloister", "one response of a batch of 50", all / 50);
    }
}
