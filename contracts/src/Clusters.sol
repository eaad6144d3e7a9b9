// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

/// @title Clusters: groups of agents that share a key epoch and a number of seats.
contract Clusters {
    struct Cluster {
        address owner;
        uint64 epoch;
        uint16 seats;
        uint64 bumpedAt;
        uint64 maxEpochAge;
    }

    uint16 public constant MAX_SEATS = 64;
    uint64 public constant MAX_EPOCH_AGE = 1 << 40;

    /// @notice How many clusters exist.
    uint256 public count;
    mapping(bytes32 id => Cluster) private _clusters;
    mapping(bytes32 id => address) private _heirs;

    /// @notice The network's DAO may bump any cluster's epoch for cause.
    address public immutable dao;
    /// @notice The cluster that exists from the start.
    bytes32 public immutable defaultCluster;

    event ClusterCreated(bytes32 indexed id, address indexed owner, uint16 seats);
    event SeatsSet(bytes32 indexed id, uint16 seats);
    event ClusterEpochBumped(bytes32 indexed id, uint64 epoch, address indexed by);
    event MaxEpochAgeSet(bytes32 indexed id, uint64 blocks);
    event ClusterOwnershipOffered(bytes32 indexed id, address indexed to);
    event ClusterOwnershipTaken(bytes32 indexed id, address indexed owner);

    error UnknownCluster(bytes32 id);
    error NotClusterOwner(bytes32 id, address caller);
    error BadSeats(uint16 seats);
    error BadEpochAge(uint64 blocks);
    error NotDue(uint64 dueAt, uint256 now_);

    constructor(address dao_, uint16 defaultSeats) {
        dao = dao_;
        defaultCluster = _create(dao_, defaultSeats);
    }

    modifier onlyClusterOwner(bytes32 id) {
        if (_existing(id).owner != msg.sender) revert NotClusterOwner(id, msg.sender);
        _;
    }

    /// @notice Create a cluster owned by the caller.
    function create(uint16 seats) external returns (bytes32 id) {
        return _create(msg.sender, seats);
    }

    /// @notice How many workers hold each agent of the cluster.
    function setSeats(bytes32 id, uint16 seats) external onlyClusterOwner(id) {
        _requireSeats(seats);
        _clusters[id].seats = seats;
        emit SeatsSet(id, seats);
    }

    /// @notice New keys for every agent of the cluster.
    function bumpEpoch(bytes32 id) external returns (uint64 epoch) {
        Cluster storage c = _existing(id);
        if (msg.sender != c.owner && msg.sender != dao) revert NotClusterOwner(id, msg.sender);
        return _bump(id, c);
    }

    /// @notice How many blocks keys may serve, of the cluster and of each agent in it; 0: no schedule.
    function setMaxEpochAge(bytes32 id, uint64 blocks) external onlyClusterOwner(id) {
        if (blocks > MAX_EPOCH_AGE) revert BadEpochAge(blocks);
        _clusters[id].maxEpochAge = blocks;
        emit MaxEpochAgeSet(id, blocks);
    }

    /// @notice New keys on schedule: anybody, once the present ones are older than the cluster allows.
    function bumpEpochScheduled(bytes32 id) external returns (uint64 epoch) {
        Cluster storage c = _existing(id);
        uint64 dueAt = c.maxEpochAge == 0 ? type(uint64).max : c.bumpedAt + c.maxEpochAge;
        if (block.number < dueAt) revert NotDue(dueAt, block.number);
        return _bump(id, c);
    }

    function offerOwnership(bytes32 id, address to) external onlyClusterOwner(id) {
        _heirs[id] = to;
        emit ClusterOwnershipOffered(id, to);
    }

    function takeOwnership(bytes32 id) external {
        if (msg.sender != _heirs[id] || msg.sender == address(0)) revert NotClusterOwner(id, msg.sender);
        delete _heirs[id];
        _clusters[id].owner = msg.sender;
        emit ClusterOwnershipTaken(id, msg.sender);
    }

    function cluster(bytes32 id) external view returns (Cluster memory) {
        return _existing(id);
    }

    /// @notice 0: no such cluster.
    function epochOf(bytes32 id) external view returns (uint64) {
        return _clusters[id].epoch;
    }

    function maxEpochAge(bytes32 id) external view returns (uint64) {
        return _clusters[id].maxEpochAge;
    }

    function exists(bytes32 id) external view returns (bool) {
        return _clusters[id].epoch != 0;
    }

    function _create(address owner, uint16 seats) private returns (bytes32 id) {
        _requireSeats(seats);
        id = keccak256(abi.encode(block.chainid, address(this), ++count));
        _clusters[id] = Cluster(owner, 1, seats, uint64(block.number), 0);
        emit ClusterCreated(id, owner, seats);
    }

    function _bump(bytes32 id, Cluster storage c) private returns (uint64 epoch) {
        epoch = ++c.epoch;
        c.bumpedAt = uint64(block.number);
        emit ClusterEpochBumped(id, epoch, msg.sender);
    }

    function _existing(bytes32 id) private view returns (Cluster storage c) {
        c = _clusters[id];
        if (c.epoch == 0) revert UnknownCluster(id);
    }

    function _requireSeats(uint16 seats) private pure {
        if (seats == 0 || seats > MAX_SEATS) revert BadSeats(seats);
    }
}
