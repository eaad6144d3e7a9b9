// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {Gatekeepers} from "../src/Gatekeepers.sol";
import {LogStatements} from "../src/LogStatements.sol";
import {Policies} from "../src/Policies.sol";
import {Receipts} from "../src/Receipts.sol";
import {Statements} from "../src/Statements.sol";
import {Workers} from "../src/Workers.sol";
import {Founded} from "./Founded.sol";

interface GasVm {
    function snapshotGasLastCall(string calldata group, string calldata name) external returns (uint256);
}

/// @notice A network with one admitted worker, and trees of its receipts.
abstract contract ReceiptsKit is Founded {
    bytes32 internal constant MEASUREMENT = keccak256("measurement");
    bytes32 internal constant BOOT = keccak256("boot");
    uint256 internal constant KEY = 0xA11CE;
    uint256 internal constant Q = 4;

    Workers internal workers;
    Receipts internal receipts;
    address internal worker;
    uint64 private _admitted;

    function setUp() public {
        found();
        bytes32[] memory ids = new bytes32[](1);
        ids[0] = MEASUREMENT;
        Policies policies = new Policies(address(this), 0, keccak256("policy"), ids);
        workers = new Workers(address(this), gatekeepers, policies);
        receipts = new Receipts(gatekeepers, workers);
        worker = vm.addr(KEY);
        register(BOOT);
    }

    function register(bytes32 boot) internal {
        ++_admitted;
        Statements.WorkerAdmission memory a = Statements.WorkerAdmission({
            term: 1,
            worker: worker,
            operator: worker,
            vendorClass: keccak256("tdx"),
            measurement: MEASUREMENT,
            boot: boot,
            expiry: uint64(block.number) + 100 + _admitted
        });
        bytes[] memory sigs = signAll(Statements.hash(a), T);
        vm.prank(worker);
        workers.register(a, sigs, "http://127.0.0.1:1");
    }

    function head(bytes32 boot, uint64 size, bytes32 root) internal view returns (LogStatements.LogHead memory) {
        return LogStatements.LogHead(1, worker, boot, size, root);
    }

    function record(LogStatements.LogHead memory h) internal returns (uint256) {
        return receipts.record(h, signAll(LogStatements.hash(h), Q));
    }

    function id(uint256 i) internal pure returns (bytes32) {
        return keccak256(abi.encode("receipt", i));
    }

    function leaf(bytes32 entry) internal pure returns (bytes32) {
        return sha256(abi.encodePacked(bytes1(0), entry));
    }

    function node(bytes32 l, bytes32 r) internal pure returns (bytes32) {
        return sha256(abi.encodePacked(bytes1(uint8(1)), l, r));
    }

    /// @dev The tree of RFC 6962 over ids a..b-1, and the path of one of them, nearest first.
    function top(uint256 a, uint256 b) internal pure returns (bytes32) {
        if (b - a == 1) return leaf(id(a));
        uint256 k = split(b - a);
        return node(top(a, a + k), top(a + k, b));
    }

    function split(uint256 n) internal pure returns (uint256 k) {
        k = 1;
        while (k * 2 < n) k *= 2;
    }

    function pathOf(uint256 i, uint256 a, uint256 b) internal pure returns (bytes32[] memory path) {
        if (b - a == 1) return path;
        uint256 k = split(b - a);
        bytes32[] memory inner = i < a + k ? pathOf(i, a, a + k) : pathOf(i, a + k, b);
        path = new bytes32[](inner.length + 1);
        for (uint256 j = 0; j < inner.length; ++j) path[j] = inner[j];
        path[inner.length] = i < a + k ? top(a + k, b) : top(a, a + k);
    }

    function signed(bytes32 digest) internal pure returns (bytes memory) {
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(KEY, digest);
        return abi.encodePacked(r, s, v);
    }

    function alone() internal pure returns (Receipts.Batch memory) {
        return Receipts.Batch(0, 1, new bytes32[](0));
    }
}

contract ReceiptsTest is ReceiptsKit {
    function test_a_root_is_kept_and_proves_its_receipts() public {
        equal(record(head(BOOT, 5, top(0, 5))), 0);
        equal(receipts.count(worker), 1);
        for (uint256 i = 0; i < 5; ++i) {
            equal(receipts.isLogged(worker, 0, BOOT, id(i), uint64(i), pathOf(i, 0, 5)), true);
            equal(receipts.isLogged(worker, 0, BOOT, id(i + 1), uint64(i), pathOf(i, 0, 5)), false);
            equal(receipts.isLogged(worker, 0, keccak256("x"), id(i), uint64(i), pathOf(i, 0, 5)), false);
        }
        Receipts.Root memory r = receipts.root(worker, 0);
        equal(r.size, 5);
        equal(r.atBlock, block.number);
    }

    function test_a_log_only_grows() public {
        record(head(BOOT, 5, top(0, 5)));
        record(head(BOOT, 9, top(0, 9)));
        equal(receipts.root(worker, 0).root, top(0, 5));
        LogStatements.LogHead memory h = head(BOOT, 9, keccak256("fork"));
        bytes[] memory sigs = signAll(LogStatements.hash(h), Q);
        vm.expectRevert(abi.encodeWithSelector(Receipts.NotLonger.selector, 9, 9));
        receipts.record(h, sigs);
        h = head(BOOT, 5, top(0, 5));
        sigs = signAll(LogStatements.hash(h), Q);
        vm.expectRevert(abi.encodeWithSelector(Receipts.NotLonger.selector, 9, 5));
        receipts.record(h, sigs);
    }

    function test_an_older_boots_head_does_not_come_back() public {
        record(head(BOOT, 5, top(0, 5)));
        bytes32 next = keccak256("next boot");
        register(next);
        equal(record(head(next, 2, top(0, 2))), 1);
        LogStatements.LogHead memory h = head(BOOT, 50, top(0, 50));
        bytes[] memory sigs = signAll(LogStatements.hash(h), Q);
        vm.expectRevert(abi.encodeWithSelector(Receipts.OtherBoot.selector, worker, next));
        receipts.record(h, sigs);
        equal(receipts.isLogged(worker, 0, BOOT, id(1), 1, pathOf(1, 0, 5)), true);
    }

    /// @dev Another boot between does not make a log forget how long it was.
    function test_a_boot_that_comes_back_does_not_shrink() public {
        record(head(BOOT, 5, top(0, 5)));
        register(keccak256("next boot"));
        record(head(keccak256("next boot"), 2, top(0, 2)));
        register(BOOT);
        LogStatements.LogHead memory h = head(BOOT, 4, top(0, 4));
        bytes[] memory sigs = signAll(LogStatements.hash(h), Q);
        vm.expectRevert(abi.encodeWithSelector(Receipts.NotLonger.selector, 5, 4));
        receipts.record(h, sigs);
        equal(record(head(BOOT, 6, top(0, 6))), 2);
    }

    function test_a_quorum_signs_not_just_t() public {
        equal(receipts.quorum(), Q);
        LogStatements.LogHead memory h = head(BOOT, 5, top(0, 5));
        bytes[] memory sigs = signAll(LogStatements.hash(h), T);
        vm.expectRevert(abi.encodeWithSelector(Receipts.TooFewWitnesses.selector, T, Q));
        receipts.record(h, sigs);
        sigs = signAll(LogStatements.hash(head(BOOT, 6, top(0, 5))), Q);
        (bool ok,) = address(receipts).call(abi.encodeCall(Receipts.record, (h, sigs)));
        equal(ok, false);
        sigs = signAll(LogStatements.hash(h), Q);
        sigs[3] = sigs[2];
        vm.expectRevert(abi.encodeWithSelector(Receipts.TooFewWitnesses.selector, T, Q));
        receipts.record(h, sigs);
    }

    function test_removed_workers_and_empty_logs_are_refused() public {
        LogStatements.LogHead memory h = head(BOOT, 0, sha256(""));
        bytes[] memory sigs = signAll(LogStatements.hash(h), Q);
        vm.expectRevert(abi.encodeWithSelector(Receipts.NotLonger.selector, 0, 0));
        receipts.record(h, sigs);
        workers.remove(worker);
        h = head(BOOT, 5, top(0, 5));
        sigs = signAll(LogStatements.hash(h), Q);
        vm.expectRevert(abi.encodeWithSelector(Receipts.Removed.selector, worker));
        receipts.record(h, sigs);
        vm.expectRevert(abi.encodeWithSelector(Receipts.UnknownRoot.selector, worker, 0));
        receipts.root(worker, 0);
    }

    function test_a_lone_signature_is_over_the_id() public view {
        equal(receipts.isSigned(worker, BOOT, id(1), 7, alone(), signed(id(1))), true);
        equal(receipts.isSigned(worker, BOOT, id(2), 7, alone(), signed(id(1))), false);
        equal(receipts.isSigned(address(this), BOOT, id(1), 7, alone(), signed(id(1))), false);
        equal(receipts.isSigned(worker, BOOT, id(1), 7, alone(), "short"), false);
        Receipts.Batch memory b = Receipts.Batch(0, 1, new bytes32[](1));
        equal(receipts.isSigned(worker, BOOT, id(1), 7, b, signed(id(1))), false);
    }

    function test_fuzz_a_batch_is_signed_once(uint256 size_, uint256 i, uint64 first) public view {
        uint64 size = uint64(bound(size_, 2, 40));
        i = bound(i, 0, size - 1);
        first = first % 1e9;
        bytes memory s = signed(receipts.batchDigest(BOOT, first, size, top(0, size)));
        Receipts.Batch memory b = Receipts.Batch(first, size, pathOf(i, 0, size));
        uint64 seq = first + uint64(i);
        equal(receipts.isSigned(worker, BOOT, id(i), seq, b, s), true);
        equal(receipts.isSigned(worker, keccak256("other"), id(i), seq, b, s), false);
        equal(receipts.isSigned(worker, BOOT, id(i + 1), seq, b, s), false);
        equal(receipts.isSigned(worker, BOOT, id(i), first + size, b, s), false);
        b.size = size + 1;
        equal(receipts.isSigned(worker, BOOT, id(i), seq, b, s), false);
    }

    /// @dev A signature over one kind of thing is none over another.
    function test_a_leaf_is_no_root() public view {
        bytes32[] memory none = new bytes32[](0);
        bytes memory overLeaf = signed(leaf(id(0)));
        bytes memory overRoot = signed(top(0, 2));
        equal(receipts.isSigned(worker, BOOT, id(0), 0, Receipts.Batch(0, 2, pathOf(0, 0, 2)), overRoot), false);
        equal(receipts.isSigned(worker, BOOT, id(0), 0, Receipts.Batch(0, 2, pathOf(0, 0, 2)), overLeaf), false);
        equal(receipts.isSigned(worker, BOOT, id(0), 0, Receipts.Batch(0, 2, none), signed(id(0))), false);
        equal(receipts.isSigned(worker, BOOT, id(0), 0, Receipts.Batch(0, 0, none), signed(id(0))), false);
        equal(receipts.isSigned(worker, BOOT, id(0), 0, Receipts.Batch(0, 1025, none), signed(id(0))), false);
    }

    function test_paths_have_exactly_their_length() public view {
        bytes32[] memory path = pathOf(2, 0, 5);
        (bool ok,) = receipts.rootOf(id(2), 2, 5, path);
        equal(ok, true);
        bytes32[] memory long = new bytes32[](path.length + 1);
        (ok,) = receipts.rootOf(id(2), 2, 5, long);
        equal(ok, false);
        (ok,) = receipts.rootOf(id(2), 2, 5, new bytes32[](path.length - 1));
        equal(ok, false);
        (ok,) = receipts.rootOf(id(2), 5, 5, path);
        equal(ok, false);
        (ok,) = receipts.rootOf(id(2), 0, 5, new bytes32[](65));
        equal(ok, false);
    }

    /// @dev What Python signs and hashes, this contract accepts.
    function test_the_known_answers_hold_here() public view {
        string memory json = vm.readFile("../spec/vectors/receipts.json");
        address who = vm.parseJsonAddress(json, ".worker");
        bytes32 boot = vm.parseJsonBytes32(json, ".boot");
        bytes memory signature = vm.parseJsonBytes(json, ".batch.signature");
        for (uint64 i = 0; i < 5; ++i) {
            string memory at_ = string.concat(".batch.paths[", digit(i), "].path");
            Receipts.Batch memory b = Receipts.Batch(1, 5, hashes(vm.parseJsonBytes(json, at_)));
            bytes32 rid = vm.parseJsonBytes32(json, string.concat(".ids[", digit(i + 1), "]"));
            equal(receipts.isSigned(who, boot, rid, i + 1, b, signature), true);
            equal(receipts.isSigned(who, boot, rid, i + 2, b, signature), false);
        }
        bytes32 top_ = vm.parseJsonBytes32(json, ".batch.root");
        equal(receipts.batchDigest(boot, 1, 5, top_), vm.parseJsonBytes32(json, ".batch.digest"));
        bytes32 first = vm.parseJsonBytes32(json, ".ids[0]");
        equal(receipts.isSigned(who, boot, first, 0, alone(), vm.parseJsonBytes(json, ".lone_signature")), true);
        LogStatements.LogHead memory h =
            LogStatements.LogHead(1, who, boot, 6, vm.parseJsonBytes32(json, ".log_head.root"));
        bytes32 digest = Statements.digest(vm.parseJsonBytes32(json, ".network"), LogStatements.hash(h));
        equal(digest, vm.parseJsonBytes32(json, ".log_head.digest"));
        bytes32[] memory path = hashes(vm.parseJsonBytes(json, ".proof.path"));
        (bool ok, bytes32 found) = receipts.rootOf(vm.parseJsonBytes32(json, ".ids[2]"), 2, 6, path);
        equal(ok, true);
        equal(found, h.root);
    }

    function digit(uint64 n) internal pure returns (string memory) {
        return string(abi.encodePacked(bytes1(uint8(48 + n))));
    }

    function hashes(bytes memory joined) internal pure returns (bytes32[] memory out) {
        out = new bytes32[](joined.length / 32);
        for (uint256 i = 0; i < out.length; ++i) {
            bytes32 one;
            assembly {
                one := mload(add(add(joined, 32), mul(i, 32)))
            }
            out[i] = one;
        }
    }
}

/// @notice What anchoring costs whoever brings a root, and what a contract pays to check a receipt.
/// The figures stand in contracts/gas/Receipts.json; `build.py --test` compares, `build.py --gas` writes them.
/// forge-config: default.isolate = true
contract ReceiptsGasTest is ReceiptsKit {
    GasVm internal constant GAS = GasVm(address(uint160(uint256(keccak256("hevm cheat code")))));

    function note(string memory name) internal returns (uint256) {
        return GAS.snapshotGasLastCall("Receipts", name);
    }

    function test_gas_of_roots() public {
        LogStatements.LogHead memory h = head(BOOT, 5, top(0, 5));
        bytes[] memory sigs = signAll(LogStatements.hash(h), Q);
        receipts.record(h, sigs);
        equal(note("record a root, first of its worker") < 400_000, true);
        h = head(BOOT, 9, top(0, 9));
        sigs = signAll(LogStatements.hash(h), Q);
        receipts.record(h, sigs);
        equal(note("record a root") < 300_000, true);
    }

    function test_gas_of_a_receipt() public {
        equal(receipts.isSigned(worker, BOOT, id(1), 1, alone(), signed(id(1))), true);
        note("signature of one receipt");
        bytes memory s = signed(receipts.batchDigest(BOOT, 0, 64, top(0, 64)));
        Receipts.Batch memory b = Receipts.Batch(0, 64, pathOf(7, 0, 64));
        equal(receipts.isSigned(worker, BOOT, id(7), 7, b, s), true);
        note("signature of one of a batch of 64");
        record(head(BOOT, 256, top(0, 256)));
        bytes32[] memory path = pathOf(7, 0, 256);
        equal(receipts.isLogged(worker, 0, BOOT, id(7), 7, path), true);
        note("path to a root over 256 receipts");
    }
}
