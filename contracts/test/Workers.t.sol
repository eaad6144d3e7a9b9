// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {Ownable} from "@openzeppelin/contracts/access/Ownable.sol";
import {Gatekeepers} from "../src/Gatekeepers.sol";
import {Office} from "../src/Office.sol";
import {Policies} from "../src/Policies.sol";
import {Statements} from "../src/Statements.sol";
import {Workers} from "../src/Workers.sol";
import {Founded} from "./Founded.sol";

contract WorkersTest is Founded {
    bytes32 internal constant MEASUREMENT = keccak256("measurement");
    Policies internal policies;
    Workers internal workers;
    address internal operator = named("operator");

    function setUp() public {
        found();
        bytes32[] memory ids = new bytes32[](1);
        ids[0] = MEASUREMENT;
        policies = new Policies(address(this), 0, keccak256("policy"), ids);
        workers = new Workers(address(this), gatekeepers, policies);
    }

    function admission(address worker, uint64 blocks) internal view returns (Statements.WorkerAdmission memory a) {
        a = Statements.WorkerAdmission({
            term: 1,
            worker: worker,
            operator: operator,
            vendorClass: keccak256("tdx"),
            measurement: MEASUREMENT,
            boot: keccak256("boot"),
            expiry: uint64(block.number) + blocks
        });
    }

    function signed(Statements.WorkerAdmission memory a) internal view returns (bytes[] memory) {
        return signAll(Statements.hash(a), T);
    }

    function register(Statements.WorkerAdmission memory a) internal {
        bytes[] memory sigs = signed(a);
        vm.prank(a.worker);
        workers.register(a, sigs, "http://127.0.0.1:1");
    }

    function worker(uint256 i) internal pure returns (address) {
        return address(uint160(0xA000 + i));
    }

    function test_an_admitted_worker_is_listed_with_what_was_signed() public {
        Statements.WorkerAdmission memory a = admission(worker(1), 100);
        register(a);
        Workers.Worker memory w = workers.worker(worker(1));
        equal(w.operator, operator);
        equal(w.vendorClass, a.vendorClass);
        equal(w.measurement, a.measurement);
        equal(w.boot, a.boot);
        equal(w.expiry, a.expiry);
        equal(w.registeredAt, block.number);
        equal(bytes(w.endpoint), bytes("http://127.0.0.1:1"));
        equal(w.listed && !w.removed, true);
        equal(workers.count(), 1);
        equal(workers.list(0, 10)[0], worker(1));
    }

    function test_the_operator_may_register_for_it_a_stranger_not() public {
        Statements.WorkerAdmission memory a = admission(worker(1), 100);
        bytes[] memory sigs = signed(a);
        vm.expectRevert(abi.encodeWithSelector(Workers.NotWorkerOrOperator.selector, a.worker, address(this)));
        workers.register(a, sigs, "http://evil");
        vm.prank(operator);
        workers.register(a, sigs, "http://good");
        equal(bytes(workers.worker(a.worker).endpoint), bytes("http://good"));
    }

    function test_without_t_signatures_nobody_enters() public {
        Statements.WorkerAdmission memory a = admission(worker(1), 100);
        bytes[] memory sigs = signAll(Statements.hash(a), T - 1);
        vm.prank(a.worker);
        vm.expectRevert(abi.encodeWithSelector(Office.TooFewSigners.selector, T - 1, T));
        workers.register(a, sigs, "x");
    }

    function test_fuzz_a_changed_admission_is_refused(uint8 field, bytes32 change) public {
        Statements.WorkerAdmission memory a = admission(worker(1), 100);
        bytes[] memory sigs = signed(a);
        bytes32 before = Statements.hash(a);
        if (field % 4 == 0) a.vendorClass = change;
        if (field % 4 == 1) a.boot = change;
        if (field % 4 == 2) a.operator = address(uint160(uint256(change)));
        if (field % 4 == 3) a.expiry = uint64(bound(uint256(change), block.number + 1, type(uint64).max));
        vm.assume(Statements.hash(a) != before);
        vm.prank(a.worker);
        (bool ok,) = address(workers).call(abi.encodeCall(Workers.register, (a, sigs, "x")));
        equal(ok, false);
    }

    function test_an_unlisted_measurement_is_refused_at_once() public {
        Statements.WorkerAdmission memory a = admission(worker(1), 100);
        bytes[] memory sigs = signed(a);
        policies.unlist(MEASUREMENT);
        vm.prank(a.worker);
        vm.expectRevert(abi.encodeWithSelector(Workers.MeasurementNotListed.selector, MEASUREMENT));
        workers.register(a, sigs, "x");
    }

    function test_expired_and_replayed_admissions() public {
        Statements.WorkerAdmission memory a = admission(worker(1), 10);
        bytes[] memory sigs = signed(a);
        register(a);
        vm.startPrank(a.worker);
        vm.expectRevert(abi.encodeWithSelector(Workers.AdmissionNotNewer.selector, a.expiry, a.expiry));
        workers.register(a, sigs, "x");
        workers.depart(a.worker);
        vm.expectRevert(abi.encodeWithSelector(Workers.AdmissionNotNewer.selector, a.expiry, a.expiry));
        workers.register(a, sigs, "x");
        vm.roll(a.expiry);
        vm.expectRevert(abi.encodeWithSelector(Workers.AdmissionExpired.selector, a.expiry, block.number));
        workers.register(a, sigs, "x");
        vm.stopPrank();
    }

    function test_renewal_extends_the_same_boot_only() public {
        Statements.WorkerAdmission memory a = admission(worker(1), 10);
        bytes[] memory sigs = signed(a);
        vm.prank(a.worker);
        vm.expectRevert(abi.encodeWithSelector(Workers.NotRegistered.selector, a.worker));
        workers.renew(a, sigs);
        register(a);
        a.expiry += 10;
        sigs = signed(a);
        vm.prank(a.worker);
        workers.renew(a, sigs);
        equal(workers.worker(a.worker).expiry, a.expiry);
        bytes32 held = a.boot;
        a.boot = keccak256("another boot");
        a.expiry += 10;
        sigs = signed(a);
        vm.prank(a.worker);
        vm.expectRevert(abi.encodeWithSelector(Workers.BootChanged.selector, held, a.boot));
        workers.renew(a, sigs);
        register(a);
        equal(workers.worker(a.worker).boot, a.boot);
        equal(workers.count(), 1);
        a.operator = named("other operator");
        a.expiry += 10;
        sigs = signed(a);
        vm.prank(a.worker);
        vm.expectRevert(abi.encodeWithSelector(Workers.OperatorChanged.selector, operator, a.operator));
        workers.renew(a, sigs);
    }

    function test_heartbeats_are_the_workers_own() public {
        register(admission(worker(1), 100));
        vm.roll(block.number + 7);
        vm.prank(worker(1));
        workers.heartbeat();
        equal(workers.worker(worker(1)).heartbeat, block.number);
        vm.expectRevert(abi.encodeWithSelector(Workers.NotRegistered.selector, address(this)));
        workers.heartbeat();
    }

    function test_endpoints_are_bounded_and_guarded() public {
        register(admission(worker(1), 100));
        vm.expectRevert(abi.encodeWithSelector(Workers.NotWorkerOrOperator.selector, worker(1), address(this)));
        workers.setEndpoint(worker(1), "x");
        vm.startPrank(operator);
        vm.expectRevert(Workers.BadEndpoint.selector);
        workers.setEndpoint(worker(1), "");
        vm.expectRevert(Workers.BadEndpoint.selector);
        workers.setEndpoint(worker(1), string(new bytes(257)));
        workers.setEndpoint(worker(1), "http://elsewhere");
        workers.depart(worker(1));
        vm.expectRevert(abi.encodeWithSelector(Workers.NotRegistered.selector, worker(1)));
        workers.setEndpoint(worker(1), "x");
        vm.stopPrank();
    }

    function test_removed_by_the_dao_is_removed_for_good() public {
        Statements.WorkerAdmission memory a = admission(worker(1), 100);
        register(a);
        workers.remove(a.worker);
        equal(workers.worker(a.worker).removed, true);
        equal(workers.count(), 0);
        a.expiry += 1;
        bytes[] memory sigs = signed(a);
        vm.prank(a.worker);
        vm.expectRevert(abi.encodeWithSelector(Workers.RemovedForCause.selector, a.worker));
        workers.register(a, sigs, "x");
        vm.prank(named("stranger"));
        vm.expectRevert(abi.encodeWithSelector(Ownable.OwnableUnauthorizedAccount.selector, named("stranger")));
        workers.remove(worker(2));
    }

    function test_removed_by_the_committee_even_before_it_registers() public {
        Statements.WorkerRemoval memory removal = Statements.WorkerRemoval(1, worker(1));
        bytes[] memory sigs = signAll(Statements.hash(removal), T);
        removal.worker = worker(2);
        (bool ok,) = address(workers).call(abi.encodeCall(Workers.removeByCommittee, (removal, sigs)));
        equal(ok, false);
        removal.worker = worker(1);
        workers.removeByCommittee(removal, sigs);
        Statements.WorkerAdmission memory a = admission(worker(1), 100);
        sigs = signed(a);
        vm.prank(a.worker);
        vm.expectRevert(abi.encodeWithSelector(Workers.RemovedForCause.selector, a.worker));
        workers.register(a, sigs, "x");
    }

    /// @notice Whatever enters and leaves, the list holds exactly the listed workers, once each.
    function test_fuzz_the_list_matches_the_records(uint256 seed) public {
        uint64 expiry = 1;
        for (uint256 step = 0; step < 24; ++step) {
            uint256 roll = uint256(keccak256(abi.encode(seed, step)));
            address who = worker(roll % 5);
            Workers.Worker memory held = workers.worker(who);
            if (held.listed && roll & 256 != 0) {
                vm.prank(who);
                workers.depart(who);
            } else if (held.listed && roll & 512 != 0) {
                workers.remove(who);
            } else if (!held.removed) {
                register(admission(who, ++expiry));
            }
        }
        uint256 listed;
        for (uint256 i = 0; i < 5; ++i) {
            Workers.Worker memory w = workers.worker(worker(i));
            if (!w.listed) continue;
            ++listed;
            equal(workers.list(w.index, 1)[0], worker(i));
            equal(w.removed, false);
        }
        equal(workers.count(), listed);
    }

    function test_fuzz_pages(uint256 start, uint256 limit) public {
        for (uint256 i = 0; i < 4; ++i) register(admission(worker(i), 10));
        address[] memory page = workers.list(start, limit);
        uint256 left = start >= 4 ? 0 : 4 - start;
        equal(page.length, limit < left ? limit : left);
        for (uint256 i = 0; i < page.length; ++i) equal(page[i], worker(start + i));
    }
}
