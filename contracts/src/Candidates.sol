// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {Ownable} from "@openzeppelin/contracts/access/Ownable.sol";
import {Token} from "./Token.sol";

/// @title Who stands for a seat: what it says of itself, its stake, its key for the next ceremony (E1, E6, G2).
/// @notice The owner is the DAO. Stake goes back to the candidate's operator only, and burns when slashed.
abstract contract Candidates is Ownable {
    /// @notice Tokens in wei, times in blocks. `minStake` 0: seats are free, as on a development network.
    struct Rules {
        uint64 ceremonyBlocks;
        uint64 termBlocks;
        uint64 refreshBlocks;
        uint64 rotationBlocks;
        uint64 eraseDelay;
        uint64 unbondingBlocks;
        uint128 minStake;
        uint128 absenceSlash;
    }

    /// @notice `since`: when it came. `keyCeremony`: the ceremony that used up `dkgKey`, 0 while it is fresh. `endedAt`:
    /// the block from which unbonding counts.
    struct Candidate {
        address operator;
        uint64 since;
        bool leaving;
        bool revoked;
        bytes32 vendorClass;
        bytes32 dkgKey;
        bytes32 evidenceHash;
        uint128 stake;
        uint64 endedAt;
        uint64 keyCeremony;
        string endpoint;
    }

    uint256 public constant MAX_MEMBERS = 64;
    uint256 public constant MAX_ENDPOINT = 256;
    /// @notice How many candidates an election considers. One with more stake pushes out the worst.
    uint256 public constant MAX_CANDIDATES = 128;
    uint64 internal constant MAX_BLOCKS = 50_000_000;

    Token public immutable token;
    Rules internal _rules;
    address[] internal _candidateList;
    mapping(address member => Candidate) internal _candidates;
    /// @dev Position + 1 in the list of candidates.
    mapping(address member => uint256) internal _place;
    mapping(bytes32 key => bool) internal _usedKeys;

    event CandidateSet(
        address indexed member,
        address indexed operator,
        bytes32 vendorClass,
        bytes32 dkgKey,
        bytes32 evidenceHash,
        string endpoint
    );
    event KeySet(address indexed member, bytes32 dkgKey, bytes32 evidenceHash);
    event Staked(address indexed member, uint256 amount, uint256 total);
    event Left(address indexed member);
    event Withdrawn(address indexed member, address indexed operator, uint256 amount);
    event Slashed(address indexed member, uint256 amount);
    event RulesSet(Rules rules);

    error FrozenCandidate(address member);
    error BadCandidate();
    error UsedKey(bytes32 key);
    error NoCandidate(address member);
    error NotYours(address caller);
    error StillLocked(address member);
    error NothingStaked(address member);
    error ListFull();
    error RevokedSeat(address member);
    error BadRules();
    error TransferFailed();

    constructor(Token token_) {
        token = token_;
    }

    // --- inside ---

    /// @dev Whether stake and description are frozen: the member sits, or is nominated.
    function _isLocked(address member) internal view virtual returns (bool);

    /// @dev Whether the member is a receiver of the ceremony that is open.
    function _isReceiving(address member) internal view virtual returns (bool);

    function _setRules(Rules memory r) internal {
        bool times = r.ceremonyBlocks >= 2 && r.ceremonyBlocks <= 50_400 && r.termBlocks >= 1 && r.refreshBlocks >= 1
            && r.rotationBlocks >= 1 && r.termBlocks <= MAX_BLOCKS && r.refreshBlocks <= MAX_BLOCKS
            && r.rotationBlocks <= MAX_BLOCKS && r.eraseDelay >= 8 && r.eraseDelay <= 1_000_000
            && r.unbondingBlocks <= MAX_BLOCKS;
        if (!times || r.absenceSlash > r.minStake) revert BadRules();
        _rules = r;
        emit RulesSet(r);
    }

    function _fresh(Candidate storage c) internal view returns (bool) {
        return c.dkgKey != 0 && c.keyCeremony == 0;
    }

    /// @dev Takes what absence costs. The sum burns when the ceremony's end is written (`_burn`).
    function _slash(address member) internal returns (uint256 amount) {
        Candidate storage c = _candidates[member];
        amount = c.stake < _rules.absenceSlash ? c.stake : _rules.absenceSlash;
        c.stake -= uint128(amount);
        emit Slashed(member, amount);
    }
}
