// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {Ownable} from "@openzeppelin/contracts/access/Ownable.sol";
import {Ownable2Step} from "@openzeppelin/contracts/access/Ownable2Step.sol";
import {Gatekeepers} from "./Gatekeepers.sol";
import {Token} from "./Token.sol";
import {Workers} from "./Workers.sol";

/// @title Stakes: what stands behind a worker, and how many agents it may hold for it (spec/policy.md 5).
/// @notice Gatekeepers read stake and caps by proof before they release keys. Placement counts what is raised in a term
/// from the next one on: its seed is known by then (spec/policy.md 4). Stake goes back to the operator under whom
/// it came, and burns when its worker is removed for cause. The owner is the DAO; it moves nobody's stake.
contract Stakes is Ownable2Step {
    /// @notice `stakePerAgent` 0: stake bounds nothing. `agentsPerOperator` 0: operators are not bounded.
    struct Caps {
        uint128 stakePerAgent;
        uint64 agentsPerOperator;
        uint64 unbondingBlocks;
    }

    /// @notice `amount` backs agents. `leaving` backs none, burns like the rest, and is free at `freeAt`. Of the last
    /// raise, in block `raisedAt`: what backed before that block, and before the first raise of the term in office then;
    /// less where some left since.
    struct Stake {
        address operator;
        uint96 amount;
        uint96 leaving;
        uint64 freeAt;
        uint96 beforeTerm;
        uint96 beforeBlock;
        uint64 raisedAt;
    }

    uint64 public constant MAX_BLOCKS = 50_000_000;

    Token public immutable token;
    Workers public immutable workers;
    Caps private _caps;
    mapping(address worker => Stake) private _stakes;

    event CapsSet(Caps caps);
    event Staked(address indexed worker, address indexed operator, uint96 amount, uint96 total);
    event Leaving(address indexed worker, uint96 amount, uint64 freeAt);
    event Withdrawn(address indexed worker, address indexed operator, uint96 amount);
    event Burnt(address indexed worker, uint256 amount);

    error NotRegistered(address worker);
    error RemovedForCause(address worker);
    error NotRemoved(address worker);
    error OtherOperator(address held, address found);
    error NotYours(address caller);
    error StillLocked(uint64 freeAt);
    error NothingStaked(address worker);
    error BadCaps();
    error TransferFailed();

    constructor(address dao, Token token_, Workers workers_) Ownable(dao) {
        (token, workers) = (token_, workers_);
        _caps.unbondingBlocks = 50_400;
    }

    /// @notice New caps, by the DAO. What is leaving already keeps its time.
    function setCaps(Caps calldata caps_) external onlyOwner {
        if (caps_.unbondingBlocks > MAX_BLOCKS) revert BadCaps();
        _caps = caps_;
        emit CapsSet(caps_);
    }

    /// @notice Stake for a registered worker, by anybody. It belongs to the worker's operator from then on.
    /// Placement counts it from the next term on; in the first term at once.
    function stake(address who, uint96 amount) external {
        Workers.Worker memory w = workers.worker(who);
        if (w.removed) revert RemovedForCause(who);
        if (w.operator == address(0)) revert NotRegistered(who);
        Stake storage s = _stakes[who];
        if (s.amount == 0 && s.leaving == 0) s.operator = w.operator;
        if (s.operator != w.operator) revert OtherOperator(s.operator, w.operator);
        _keepBefore(s);
        s.amount += amount;
        emit Staked(who, s.operator, amount, s.amount);
        if (!token.transferFrom(msg.sender, address(this), amount)) revert TransferFailed();
    }

    /// @notice Take stake out, by its operator: from this block it backs nothing; it is free `unbondingBlocks` later.
    function unstake(address who, uint96 amount) external {
        Stake storage s = _stakes[who];
        if (msg.sender != s.operator) revert NotYours(msg.sender);
        if (amount == 0 || amount > s.amount) revert NothingStaked(who);
        s.amount -= amount;
        s.beforeTerm = _min(s.beforeTerm, s.amount);
        s.beforeBlock = _min(s.beforeBlock, s.amount);
        s.leaving += amount;
        s.freeAt = uint64(block.number) + _caps.unbondingBlocks;
        emit Leaving(who, amount, s.freeAt);
    }

    /// @notice Pay what left to the operator, when its time is over and the worker was not removed meanwhile.
    function withdraw(address who) external {
        Stake storage s = _stakes[who];
        if (workers.worker(who).removed) revert RemovedForCause(who);
        if (block.number < s.freeAt) revert StillLocked(s.freeAt);
        uint96 amount = s.leaving;
        if (amount == 0) revert NothingStaked(who);
        s.leaving = 0;
        emit Withdrawn(who, s.operator, amount);
        if (!token.transfer(s.operator, amount)) revert TransferFailed();
    }

    /// @notice Burn all that stands behind a worker that was removed for cause. Anybody may.
    function burn(address who) external {
        if (!workers.worker(who).removed) revert NotRemoved(who);
        Stake storage s = _stakes[who];
        uint256 amount = uint256(s.amount) + s.leaving;
        if (amount == 0) revert NothingStaked(who);
        (s.amount, s.leaving, s.beforeTerm, s.beforeBlock) = (0, 0, 0, 0);
        emit Burnt(who, amount);
        token.burn(amount);
    }

    function caps() external view returns (Caps memory) {
        return _caps;
    }

    function stakeOf(address who) external view returns (Stake memory) {
        return _stakes[who];
    }

    /// @notice What placement counts for a worker in this term, if its operator is the stake's: nothing that was raised
    /// since the block that the term began in. In the first term all of it.
    function counted(address who) external view returns (uint96) {
        Stake storage s = _stakes[who];
        (uint64 term, uint64 start) = _term();
        if (term <= 1 || s.raisedAt < start) return s.amount;
        return s.raisedAt == start ? s.beforeBlock : s.beforeTerm;
    }

    // --- inside ---

    /// @dev Before a raise: keep what counts without it. A term may begin after it in the same block, and its seed is
    /// known in that block: hence the amount before the block, too.
    function _keepBefore(Stake storage s) private {
        if (s.raisedAt == block.number) return;
        (, uint64 start) = _term();
        if (s.raisedAt < start) s.beforeTerm = s.amount;
        else if (s.raisedAt == start) s.beforeTerm = s.beforeBlock;
        (s.beforeBlock, s.raisedAt) = (s.amount, uint64(block.number));
    }

    /// @dev The term in office, and the block that it began in.
    function _term() private view returns (uint64 term, uint64 start) {
        Gatekeepers gatekeepers = Gatekeepers(address(workers.gatekeepers()));
        term = gatekeepers.term();
        start = gatekeepers.termOf(term).height;
    }

    function _min(uint96 a, uint96 b) private pure returns (uint96) {
        return a < b ? a : b;
    }
}
