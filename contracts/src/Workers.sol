// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {Ownable} from "@openzeppelin/contracts/access/Ownable.sol";
import {Ownable2Step} from "@openzeppelin/contracts/access/Ownable2Step.sol";
import {IGatekeepers} from "./interfaces/IGatekeepers.sol";
import {Policies} from "./Policies.sol";
import {Statements} from "./Statements.sol";

/// @title Workers: who may hold agents, admitted by the committee, for a time.
/// @notice A registration is a lease: it ends at `expiry` (a block number) unless the committee admits the worker again.
contract Workers is Ownable2Step {
    using Statements for Statements.WorkerAdmission;
    using Statements for Statements.WorkerRemoval;

    struct Worker {
        address operator;
        uint64 expiry;
        bool removed;
        bool listed;
        bytes32 vendorClass;
        bytes32 measurement;
        bytes32 boot;
        uint64 heartbeat;
        uint64 registeredAt;
        uint32 index;
        string endpoint;
    }

    uint256 public constant MAX_WORKERS = 4096;
    uint256 public constant MAX_ENDPOINT = 256;

    address[] private _list;
    mapping(address worker => Worker) private _workers;

    IGatekeepers public immutable gatekeepers;
    Policies public immutable policies;

    event WorkerRegistered(
        address indexed worker,
        address indexed operator,
        bytes32 vendorClass,
        bytes32 measurement,
        bytes32 boot,
        uint64 expiry
    );
    event EndpointSet(address indexed worker, string endpoint);
    event Heartbeat(address indexed worker, uint64 atBlock);
    event WorkerLeft(address indexed worker);
    event WorkerRemoved(address indexed worker, address indexed by);

    error NotWorkerOrOperator(address worker, address caller);
    error NotRegistered(address worker);
    error RemovedForCause(address worker);
    error MeasurementNotListed(bytes32 measurement);
    error AdmissionExpired(uint64 expiry, uint256 now_);
    error AdmissionNotNewer(uint64 expiry, uint64 held);
    error BootChanged(bytes32 held, bytes32 given);
    error OperatorChanged(address held, address given);
    error BadEndpoint();
    error ListFull();

    constructor(address dao, IGatekeepers gatekeepers_, Policies policies_) Ownable(dao) {
        gatekeepers = gatekeepers_;
        policies = policies_;
    }

    /// @notice Enter the list, or come back after a restart, with the committee's admission.
    /// Sent by the worker or its operator, so that nobody else chooses the endpoint or replays an old admission.
    function register(
        Statements.WorkerAdmission calldata admission,
        bytes[] calldata sigs,
        string calldata endpoint
    ) external {
        Worker storage w = _admit(admission, sigs);
        if (!w.listed) {
            if (_list.length >= MAX_WORKERS) revert ListFull();
            w.listed = true;
            w.index = uint32(_list.length);
            w.registeredAt = uint64(block.number);
            _list.push(admission.worker);
        }
        _setEndpoint(admission.worker, endpoint);
    }

    /// @notice Extend a registration of the same boot and operator.
    function renew(Statements.WorkerAdmission calldata admission, bytes[] calldata sigs) external {
        Worker storage held = _workers[admission.worker];
        if (!held.listed) revert NotRegistered(admission.worker);
        if (held.boot != admission.boot) revert BootChanged(held.boot, admission.boot);
        if (held.operator != admission.operator) revert OperatorChanged(held.operator, admission.operator);
        _admit(admission, sigs);
    }

    /// @notice "I am alive": anybody reads it, nothing depends on it but rewards and routing.
    function heartbeat() external {
        Worker storage w = _workers[msg.sender];
        if (!w.listed) revert NotRegistered(msg.sender);
        w.heartbeat = uint64(block.number);
        emit Heartbeat(msg.sender, uint64(block.number));
    }

    function setEndpoint(address who, string calldata endpoint) external {
        _requireSelf(who, _workers[who].operator);
        if (!_workers[who].listed) revert NotRegistered(who);
        _setEndpoint(who, endpoint);
    }

    /// @notice Leave in good standing; a newer admission lets the worker come back.
    function depart(address who) external {
        _requireSelf(who, _workers[who].operator);
        _unlist(who);
        emit WorkerLeft(who);
    }

    /// @notice Remove for cause, for good, by the DAO.
    function remove(address who) external onlyOwner {
        _ban(who);
    }

    /// @notice Remove for cause, for good, by the committee.
    function removeByCommittee(Statements.WorkerRemoval calldata removal, bytes[] calldata sigs) external {
        gatekeepers.requireStatement(removal.term, removal.hash(), sigs);
        _ban(removal.worker);
    }

    // --- views ---

    function worker(address who) external view returns (Worker memory) {
        return _workers[who];
    }

    function count() external view returns (uint256) {
        return _list.length;
    }

    /// @notice A slice of the list; order changes when workers leave.
    function list(uint256 start, uint256 limit) external view returns (address[] memory page) {
        uint256 length = _list.length;
        if (start > length) start = length;
        uint256 size = limit < length - start ? limit : length - start;
        page = new address[](size);
        for (uint256 i = 0; i < size; ++i) page[i] = _list[start + i];
    }

    // --- inside ---

    function _admit(Statements.WorkerAdmission calldata a, bytes[] calldata sigs) private returns (Worker storage w) {
        _requireSelf(a.worker, a.operator);
        w = _workers[a.worker];
        if (w.removed) revert RemovedForCause(a.worker);
        if (a.expiry <= block.number) revert AdmissionExpired(a.expiry, block.number);
        if (a.expiry <= w.expiry) revert AdmissionNotNewer(a.expiry, w.expiry);
        if (policies.listedAtBlock(a.measurement) == 0) revert MeasurementNotListed(a.measurement);
        gatekeepers.requireStatement(a.term, a.hash(), sigs);
        w.operator = a.operator;
        w.expiry = a.expiry;
        w.vendorClass = a.vendorClass;
        w.measurement = a.measurement;
        w.boot = a.boot;
        w.heartbeat = uint64(block.number);
        emit WorkerRegistered(a.worker, a.operator, a.vendorClass, a.measurement, a.boot, a.expiry);
    }

    function _setEndpoint(address who, string calldata endpoint) private {
        if (bytes(endpoint).length == 0 || bytes(endpoint).length > MAX_ENDPOINT) revert BadEndpoint();
        _workers[who].endpoint = endpoint;
        emit EndpointSet(who, endpoint);
    }

    function _ban(address who) private {
        _workers[who].removed = true;
        if (_workers[who].listed) _unlist(who);
        emit WorkerRemoved(who, msg.sender);
    }

    function _unlist(address who) private {
        Worker storage w = _workers[who];
        if (!w.listed) revert NotRegistered(who);
        address last = _list[_list.length - 1];
        _list[w.index] = last;
        _workers[last].index = w.index;
        _list.pop();
        w.listed = false;
        w.index = 0;
    }

    function _requireSelf(address who, address operator) private view {
        if (msg.sender != who && msg.sender != operator) revert NotWorkerOrOperator(who, msg.sender);
    }
}
