// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IAgents} from "./interfaces/IAgents.sol";
import {Gatekeepers} from "./Gatekeepers.sol";
import {SignerSet} from "./SignerSet.sol";
import {Statements} from "./Statements.sol";

/// @title Who may answer for an agent at this Anchor: leases of the current term and of the agent's current epoch.
/// @notice Term and epoch are part of a lease's key, so a hand-over or an epoch bump ends every older lease at once.
abstract contract Leases is SignerSet {
    using Statements for Statements.AnchorLease;
    using Statements for Statements.EpochBump;
    using Statements for Statements.WorkerRemoval;

    struct Lease {
        address payee;
        uint64 expiry;
        bytes32 vendorClass;
        bytes32 codeHash;
    }

    uint64 public constant MAX_LEASE = 1 days;

    mapping(bytes32 key => Lease) private _leases;
    /// @dev Where there is no Agents contract: the lowest epoch that still counts.
    mapping(bytes32 agent => uint64) private _epochs;
    mapping(address worker => bool) public removed;

    /// @notice The Agents contract of this chain; 0 on a chain that is not the network's own.
    IAgents public immutable agents;

    event LeaseRegistered(
        bytes32 indexed agent, address indexed worker, uint64 agentEpoch, bytes32 vendorClass, address payee, uint64 expiry
    );
    event EpochClosed(bytes32 indexed agent, uint64 current);
    event WorkerRemoved(address indexed worker);

    error WrongAgentEpoch(uint64 given, uint64 current);
    error AgentPaused(bytes32 agent);
    error LeaseExpired(uint64 expiry, uint256 now_);
    error LeaseTooLong(uint64 expiry);
    error LeaseNotNewer(uint64 expiry, uint64 held);
    error NoPayee();
    error NoLease(bytes32 agent, address worker);
    error WrongCode(bytes32 wanted, bytes32 leased);
    error RemovedForCause(address worker);

    constructor(IAgents agents_, Gatekeepers committee_, address founder_) SignerSet(committee_, founder_) {
        agents = agents_;
    }

    /// @notice Register a lease once per period; anybody may send it.
    function registerLease(Statements.AnchorLease calldata l, bytes[] calldata sigs) external {
        _requirePlace(l.chainId, l.anchor);
        if (l.expiry <= block.timestamp) revert LeaseExpired(l.expiry, block.timestamp);
        if (l.expiry > block.timestamp + MAX_LEASE) revert LeaseTooLong(l.expiry);
        if (l.payee == address(0)) revert NoPayee();
        if (removed[l.worker]) revert RemovedForCause(l.worker);
        _requireSigned(l.term, l.hash(), sigs);
        _reachEpoch(l.agent, l.agentEpoch);
        Lease storage held = _leases[_key(l.term, l.agent, l.agentEpoch, l.worker)];
        if (l.expiry <= held.expiry) revert LeaseNotNewer(l.expiry, held.expiry);
        (held.payee, held.expiry, held.vendorClass, held.codeHash) = (l.payee, l.expiry, l.vendorClass, l.codeHash);
        emit LeaseRegistered(l.agent, l.worker, l.agentEpoch, l.vendorClass, l.payee, l.expiry);
    }

    /// @notice The committee ended an agent epoch: leases of it and of older ones are void. For chains without Agents.
    function closeEpoch(Statements.EpochBump calldata bump, bytes[] calldata sigs) external {
        if (address(agents) != address(0)) revert NotHere();
        _requireSigned(bump.term, bump.hash(), sigs);
        if (bump.agentEpoch < _epochs[bump.agent]) revert WrongAgentEpoch(bump.agentEpoch, _epochs[bump.agent]);
        _epochs[bump.agent] = bump.agentEpoch + 1;
        emit EpochClosed(bump.agent, bump.agentEpoch + 1);
    }

    /// @notice The committee removed a worker: its leases of these agents end, and it gets no new one.
    function removeWorker(
        Statements.WorkerRemoval calldata removal,
        bytes[] calldata sigs,
        bytes32[] calldata ofAgents
    ) external {
        _requireSigned(removal.term, removal.hash(), sigs);
        removed[removal.worker] = true;
        for (uint256 i = 0; i < ofAgents.length; ++i) {
            delete _leases[_key(_set.term, ofAgents[i], currentEpoch(ofAgents[i]), removal.worker)];
        }
        emit WorkerRemoved(removal.worker);
    }

    /// @notice The lease under which a worker would answer now; zero if there is none.
    function lease(bytes32 agent, address worker) external view returns (Lease memory) {
        return _leases[_key(_set.term, agent, currentEpoch(agent), worker)];
    }

    /// @notice The agent's epoch as this contract knows it; 0: unknown.
    function currentEpoch(bytes32 agent) public view returns (uint64 epoch) {
        if (address(agents) == address(0)) return _epochs[agent];
        (epoch,) = agents.live(agent);
    }

    /// @dev Term and agent epoch under which answers for `agent` count now. Reverts for an expired set, a paused agent.
    function _inOffice(bytes32 agent) internal view returns (uint64 term, uint64 epoch) {
        if (block.timestamp >= _set.expiry) revert SetExpired(_set.expiry, block.timestamp);
        term = _set.term;
        if (address(agents) == address(0)) return (term, _epochs[agent]);
        bool paused;
        (epoch, paused) = agents.live(agent);
        if (paused) revert AgentPaused(agent);
    }

    /// @dev The live lease of a worker. `codeHash` 0: any code.
    function _liveLease(uint64 term, uint64 epoch, bytes32 agent, address worker, bytes32 codeHash)
        internal
        view
        returns (Lease storage held)
    {
        held = _leases[_key(term, agent, epoch, worker)];
        if (held.expiry == 0) revert NoLease(agent, worker);
        if (block.timestamp >= held.expiry) revert LeaseExpired(held.expiry, block.timestamp);
        if (codeHash != 0 && held.codeHash != codeHash) revert WrongCode(codeHash, held.codeHash);
    }

    function _reachEpoch(bytes32 agent, uint64 epoch) private {
        uint64 current = currentEpoch(agent);
        if (address(agents) != address(0)) {
            if (epoch != current || epoch == 0) revert WrongAgentEpoch(epoch, current);
        } else if (epoch < current || epoch == 0) {
            revert WrongAgentEpoch(epoch, current);
        } else if (epoch > current) {
            _epochs[agent] = epoch;
        }
    }

    function _key(uint64 term, bytes32 agent, uint64 epoch, address worker) private pure returns (bytes32) {
        return keccak256(abi.encode(term, agent, epoch, worker));
    }
}
