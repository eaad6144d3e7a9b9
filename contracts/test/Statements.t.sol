// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {Candidates} from "../src/Candidates.sol";
import {CommitteeStatements} from "../src/CommitteeStatements.sol";
import {Gatekeepers} from "../src/Gatekeepers.sol";
import {Seats} from "../src/Seats.sol";
import {RemoteStatements} from "../src/RemoteStatements.sol";
import {Statements} from "../src/Statements.sol";
import {Token} from "../src/Token.sol";
import {Checks} from "./Vm.sol";

/// @notice The Solidity library against the vectors that the Python statements generate.
contract StatementsTest is Checks {
    string internal json;
    bytes32 internal network;

    function setUp() public {
        json = vm.readFile("../spec/vectors/statements.json");
        network = vm.parseJsonBytes32(json, ".network");
    }

    function place(string memory kind, string memory field) internal pure returns (string memory) {
        return string.concat(".statements.", kind, ".", field);
    }

    function u64(string memory kind, string memory name) internal view returns (uint64) {
        return uint64(vm.parseJsonUint(json, place(kind, string.concat("fields.", name))));
    }

    function b32(string memory kind, string memory name) internal view returns (bytes32) {
        return vm.parseJsonBytes32(json, place(kind, string.concat("fields.", name)));
    }

    function account(string memory kind, string memory name) internal view returns (address) {
        return vm.parseJsonAddress(json, place(kind, string.concat("fields.", name)));
    }

    function check(string memory kind, bytes32 typeHash, bytes32 structHash) internal view {
        equal(typeHash, keccak256(bytes(vm.parseJsonString(json, place(kind, "type")))));
        equal(structHash, vm.parseJsonBytes32(json, place(kind, "struct_hash")));
        equal(Statements.digest(network, structHash), vm.parseJsonBytes32(json, place(kind, "digest")));
    }

    function test_domain_separator() public view {
        equal(Statements.domainSeparator(network), vm.parseJsonBytes32(json, ".domain_separator"));
    }

    function test_checkpoint() public view {
        Statements.Checkpoint memory s = Statements.Checkpoint({
            term: u64("Checkpoint", "term"),
            chainId: vm.parseJsonUint(json, place("Checkpoint", "fields.chain_id")),
            number: u64("Checkpoint", "number"),
            blockHash: b32("Checkpoint", "block_hash"),
            stateRoot: b32("Checkpoint", "state_root"),
            timestamp: u64("Checkpoint", "timestamp")
        });
        check("Checkpoint", Statements.CHECKPOINT, Statements.hash(s));
    }

    function test_lease() public view {
        Statements.Lease memory s;
        s.term = u64("Lease", "term");
        s.agent = b32("Lease", "agent");
        s.codeHash = b32("Lease", "code_hash");
        s.manifestHash = b32("Lease", "manifest_hash");
        s.cluster = b32("Lease", "cluster");
        s.masterEpoch = u64("Lease", "master_epoch");
        s.clusterEpoch = u64("Lease", "cluster_epoch");
        s.agentEpoch = u64("Lease", "agent_epoch");
        s.period = u64("Lease", "period");
        s.worker = account("Lease", "worker");
        s.boot = b32("Lease", "boot");
        s.checkpoint = u64("Lease", "checkpoint");
        s.expiry = u64("Lease", "expiry");
        check("Lease", Statements.LEASE, Statements.hash(s));
    }

    function test_state_head() public view {
        Statements.StateHead memory s = Statements.StateHead({
            term: u64("StateHead", "term"),
            agent: b32("StateHead", "agent"),
            cluster: b32("StateHead", "cluster"),
            masterEpoch: u64("StateHead", "master_epoch"),
            clusterEpoch: u64("StateHead", "cluster_epoch"),
            agentEpoch: u64("StateHead", "agent_epoch"),
            height: u64("StateHead", "height"),
            parent: b32("StateHead", "parent"),
            head: b32("StateHead", "head")
        });
        check("StateHead", Statements.STATE_HEAD, Statements.hash(s));
    }

    function test_worker_bumps() public view {
        Statements.WorkerBumps memory s = Statements.WorkerBumps({
            term: u64("WorkerBumps", "term"),
            worker: account("WorkerBumps", "worker"),
            agents: b32("WorkerBumps", "agents")
        });
        check("WorkerBumps", Statements.WORKER_BUMPS, Statements.hash(s));
    }

    function test_resealed() public view {
        Statements.Resealed memory s = Statements.Resealed({
            term: u64("Resealed", "term"),
            masterEpoch: u64("Resealed", "master_epoch"),
            agents: b32("Resealed", "agents")
        });
        check("Resealed", Statements.RESEALED, Statements.hash(s));
    }

    function test_worker_admission() public view {
        Statements.WorkerAdmission memory s = Statements.WorkerAdmission({
            term: u64("WorkerAdmission", "term"),
            worker: account("WorkerAdmission", "worker"),
            operator: account("WorkerAdmission", "operator"),
            vendorClass: b32("WorkerAdmission", "vendor_class"),
            measurement: b32("WorkerAdmission", "measurement"),
            boot: b32("WorkerAdmission", "boot"),
            expiry: u64("WorkerAdmission", "expiry")
        });
        check("WorkerAdmission", Statements.WORKER_ADMISSION, Statements.hash(s));
    }

    function removal() internal view returns (Statements.WorkerRemoval memory) {
        return Statements.WorkerRemoval(u64("WorkerRemoval", "term"), account("WorkerRemoval", "worker"));
    }

    function test_worker_removal() public view {
        check("WorkerRemoval", Statements.WORKER_REMOVAL, Statements.hash(removal()));
    }

    function test_set_signer() public view {
        Statements.SetSigner memory s = Statements.SetSigner({
            term: u64("SetSigner", "term"),
            agent: b32("SetSigner", "agent"),
            agentEpoch: u64("SetSigner", "agent_epoch"),
            signer: account("SetSigner", "signer")
        });
        check("SetSigner", Statements.SET_SIGNER, Statements.hash(s));
    }

    function test_epoch_bump() public view {
        Statements.EpochBump memory s = Statements.EpochBump(
            u64("EpochBump", "term"), b32("EpochBump", "agent"), u64("EpochBump", "agent_epoch")
        );
        check("EpochBump", Statements.EPOCH_BUMP, Statements.hash(s));
    }

    function test_caller_session() public view {
        Statements.CallerSession memory s = Statements.CallerSession({
            agent: b32("CallerSession", "agent"),
            boot: b32("CallerSession", "boot"),
            exporter: b32("CallerSession", "exporter"),
            expiry: u64("CallerSession", "expiry")
        });
        check("CallerSession", Statements.CALLER_SESSION, Statements.hash(s));
    }

    function test_heart_beat() public view {
        Statements.HeartBeat memory s = Statements.HeartBeat({
            term: u64("HeartBeat", "term"),
            nonce: b32("HeartBeat", "nonce"),
            number: u64("HeartBeat", "number"),
            blockHash: b32("HeartBeat", "block_hash")
        });
        check("HeartBeat", Statements.HEART_BEAT, Statements.hash(s));
    }

    function test_tee_validation() public view {
        Statements.TeeValidation memory s;
        s.term = u64("TeeValidation", "term");
        s.agent = b32("TeeValidation", "agent");
        s.agentEpoch = u64("TeeValidation", "agent_epoch");
        s.serial = u64("TeeValidation", "serial");
        s.response = u64("TeeValidation", "response");
        s.evidence = b32("TeeValidation", "evidence");
        s.expiry = u64("TeeValidation", "expiry");
        check("TeeValidation", Statements.TEE_VALIDATION, Statements.hash(s));
    }

    function test_signer_handover() public view {
        Statements.SignerHandover memory s;
        s.term = u64("SignerHandover", "term");
        s.chainId = vm.parseJsonUint(json, place("SignerHandover", "fields.chain_id"));
        s.anchor = account("SignerHandover", "anchor");
        s.nextTerm = u64("SignerHandover", "next_term");
        s.threshold = u64("SignerHandover", "threshold");
        s.members = b32("SignerHandover", "members");
        s.expiry = u64("SignerHandover", "expiry");
        check("SignerHandover", Statements.SIGNER_HANDOVER, Statements.hash(s));
    }

    function test_anchor_lease() public view {
        Statements.AnchorLease memory s;
        s.term = u64("AnchorLease", "term");
        s.chainId = vm.parseJsonUint(json, place("AnchorLease", "fields.chain_id"));
        s.anchor = account("AnchorLease", "anchor");
        s.agent = b32("AnchorLease", "agent");
        s.agentEpoch = u64("AnchorLease", "agent_epoch");
        s.codeHash = b32("AnchorLease", "code_hash");
        s.worker = account("AnchorLease", "worker");
        s.vendorClass = b32("AnchorLease", "vendor_class");
        s.payee = account("AnchorLease", "payee");
        s.expiry = u64("AnchorLease", "expiry");
        check("AnchorLease", Statements.ANCHOR_LEASE, Statements.hash(s));
    }

    function test_anchor_answer() public view {
        Statements.AnchorAnswer memory s;
        s.chainId = vm.parseJsonUint(json, place("AnchorAnswer", "fields.chain_id"));
        s.anchor = account("AnchorAnswer", "anchor");
        s.request = b32("AnchorAnswer", "request");
        s.reply = b32("AnchorAnswer", "reply");
        s.commit = b32("AnchorAnswer", "commit");
        check("AnchorAnswer", Statements.ANCHOR_ANSWER, Statements.hash(s));
    }

    function test_remote_agent() public view {
        RemoteStatements.RemoteAgent memory s;
        s.term = u64("RemoteAgent", "term");
        s.chainId = vm.parseJsonUint(json, place("RemoteAgent", "fields.chain_id"));
        s.anchor = account("RemoteAgent", "anchor");
        s.agent = b32("RemoteAgent", "agent");
        s.agentEpoch = u64("RemoteAgent", "agent_epoch");
        (s.owner, s.guardian) = (account("RemoteAgent", "owner"), account("RemoteAgent", "guardian"));
        s.payer = account("RemoteAgent", "payer");
        (s.height, s.expiry) = (u64("RemoteAgent", "height"), u64("RemoteAgent", "expiry"));
        check("RemoteAgent", RemoteStatements.REMOTE_AGENT, RemoteStatements.hash(s));
    }

    function test_anchor_commit() public view {
        Statements.AnchorCommit memory s;
        s.chainId = vm.parseJsonUint(json, place("AnchorCommit", "fields.chain_id"));
        s.anchor = account("AnchorCommit", "anchor");
        s.agent = b32("AnchorCommit", "agent");
        s.commit = b32("AnchorCommit", "commit");
        s.deadline = u64("AnchorCommit", "deadline");
        check("AnchorCommit", Statements.ANCHOR_COMMIT, Statements.hash(s));
    }

    function test_handover() public view {
        CommitteeStatements.Handover memory s;
        s.term = u64("Handover", "term");
        s.nextTerm = u64("Handover", "next_term");
        s.threshold = u64("Handover", "threshold");
        s.members = b32("Handover", "members");
        s.masterEpoch = u64("Handover", "master_epoch");
        s.mpk = b32("Handover", "mpk");
        s.height = u64("Handover", "height");
        s.timestamp = u64("Handover", "timestamp");
        check("Handover", CommitteeStatements.HANDOVER, CommitteeStatements.hash(s));
    }

    function test_seat_revocation() public view {
        CommitteeStatements.SeatRevocation memory s = CommitteeStatements.SeatRevocation(
            u64("SeatRevocation", "term"), account("SeatRevocation", "member")
        );
        check("SeatRevocation", CommitteeStatements.SEAT_REVOCATION, CommitteeStatements.hash(s));
    }

    function test_candidate_admission() public view {
        CommitteeStatements.CandidateAdmission memory s;
        s.term = u64("CandidateAdmission", "term");
        s.member = account("CandidateAdmission", "member");
        s.operator = account("CandidateAdmission", "operator");
        s.vendorClass = b32("CandidateAdmission", "vendor_class");
        s.dkgKey = b32("CandidateAdmission", "dkg_key");
        s.endpoint = b32("CandidateAdmission", "endpoint");
        s.expiry = u64("CandidateAdmission", "expiry");
        check("CandidateAdmission", CommitteeStatements.CANDIDATE_ADMISSION, CommitteeStatements.hash(s));
    }

    function test_receiver_refusal() public view {
        CommitteeStatements.ReceiverRefusal memory s = CommitteeStatements.ReceiverRefusal(
            u64("ReceiverRefusal", "term"), b32("ReceiverRefusal", "ceremony"), account("ReceiverRefusal", "member")
        );
        check("ReceiverRefusal", CommitteeStatements.RECEIVER_REFUSAL, CommitteeStatements.hash(s));
    }

    function test_master_rotation() public view {
        CommitteeStatements.MasterRotation memory s = CommitteeStatements.MasterRotation(
            u64("MasterRotation", "term"), u64("MasterRotation", "master_epoch")
        );
        check("MasterRotation", CommitteeStatements.MASTER_ROTATION, CommitteeStatements.hash(s));
    }

    function test_master_resume() public view {
        CommitteeStatements.MasterResume memory s = CommitteeStatements.MasterResume(
            u64("MasterResume", "term"), b32("MasterResume", "ceremony"), u64("MasterResume", "master_epoch")
        );
        check("MasterResume", CommitteeStatements.MASTER_RESUME, CommitteeStatements.hash(s));
    }

    function test_epoch_destruction() public view {
        CommitteeStatements.EpochDestruction memory s = CommitteeStatements.EpochDestruction(
            u64("EpochDestruction", "term"), u64("EpochDestruction", "master_epoch")
        );
        check("EpochDestruction", CommitteeStatements.EPOCH_DESTRUCTION, CommitteeStatements.hash(s));
    }

    /// @notice Signatures made in Python count on chain, under the network id that Python computed.
    function test_python_signatures_satisfy_the_contract() public {
        Candidates.Rules memory rules = Candidates.Rules(10, 1000, 200, 5000, 64, 50, 0, 0);
        Gatekeepers g = new Gatekeepers(address(this), new Seats(address(this), Token(address(0))), rules);
        Seats other = Seats(address(g));
        address[] memory members = vm.parseJsonAddressArray(json, ".members");
        for (uint256 i = 0; i < members.length; ++i) {
            vm.prank(members[i]);
            other.setCandidate(address(uint160(i + 1)), bytes32(i / 2 + 1), bytes32(i + 1), bytes32(i + 1), "x");
        }
        other.openFounding(members, uint16(vm.parseJsonUint(json, ".threshold")), vm.parseJsonBytes32(json, ".genesis"));
        bytes32 id = g.ceremony().id;
        for (uint256 i = 0; i < members.length; ++i) {
            vm.prank(members[i]);
            g.commitDealing(id, bytes32(i + 1));
        }
        for (uint256 i = 0; i < members.length; ++i) {
            vm.prank(members[i]);
            g.content(id, 1);
        }
        bytes32 transcript = vm.parseJsonBytes32(json, ".transcript");
        for (uint256 i = 0; i < members.length; ++i) {
            vm.prank(members[i]);
            g.confirm(id, new bytes(96), transcript, uint64((1 << members.length) - 1));
        }
        equal(g.networkId(), network);
        bytes[] memory sigs = vm.parseJsonBytesArray(json, place("WorkerRemoval", "signatures"));
        g.requireStatement(1, Statements.hash(removal()), sigs);
    }
}
