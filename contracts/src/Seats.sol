// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {Ownable} from "@openzeppelin/contracts/access/Ownable.sol";
import {Candidates} from "./Candidates.sol";
import {Ceremonies} from "./Ceremonies.sol";
import {CommitteeStatements} from "./CommitteeStatements.sol";
import {Election} from "./Election.sol";
import {IReseals} from "./interfaces/IReseals.sol";
import {Phases} from "./Phases.sol";
import {Token} from "./Token.sol";

/// @title The half of Gatekeepers that says who may sit and when a ceremony opens (spec/gatekeepers.md E1-E7, M1-M4).
/// @notice Called through Gatekeepers, whose storage it works on. By itself it is an empty committee that does nothing.
contract Seats is Ceremonies {
    using CommitteeStatements for *;

    /// @notice Opens the founding ceremony; has no power once a committee is in office, but to name `reseals` once.
    address public immutable founder;
    Election public immutable election;

    /// @notice E9: how long t members' word on a candidate counts at most.
    uint64 public constant ADMISSION_BLOCKS = 4096;

    event CandidateAdmitted(address indexed member, uint64 expiry);

    error NotFounder(address caller);
    error FoundingAlreadyOpen();
    error BadThreshold(uint256 threshold, uint256 members);
    error TooManySeatsOfVendor(bytes32 vendorClass, uint256 seats, uint256 allowed);
    error TooManySeatsOfOperator(address operator, uint256 seats, uint256 allowed);
    error NoFreshKey(address member);
    error TooFewKeys(uint256 found, uint256 needed);
    error TooEarly(uint256 from);
    error RevokedSeatsFirst();
    error WrongEpoch(uint64 given, uint64 newest);
    error NotResealed(uint256 agents);
    error NotAsDescribed(address member);
    error BadExpiry(uint64 expiry);

    constructor(address founder_, Token token_) Ownable(founder_) Candidates(token_) {
        founder = founder_;
        election = new Election();
    }

    // --- candidates ---

    /// @notice A gatekeeper describes itself. Its claims count only as far as its evidence goes. Who sits, or is about
    /// to, can no longer change what the others verified; an operator whose stake lies here stays.
    function setCandidate(
        address operator,
        bytes32 vendorClass,
        bytes32 dkgKey,
        bytes32 evidenceHash,
        string calldata endpoint
    ) external {
        Candidate storage c = _candidates[msg.sender];
        if (c.revoked) revert RevokedSeat(msg.sender);
        if (_isLocked(msg.sender)) revert FrozenCandidate(msg.sender);
        if (operator == address(0) || vendorClass == 0 || dkgKey == 0 || evidenceHash == 0) revert BadCandidate();
        if (bytes(endpoint).length == 0 || bytes(endpoint).length > MAX_ENDPOINT) revert BadCandidate();
        if (c.stake != 0 && c.operator != operator) revert BadCandidate();
        if (c.since == 0 || c.leaving) (c.since, c.leaving) = (uint64(block.number), false);
        (c.operator, c.vendorClass, c.evidenceHash, c.endpoint) = (operator, vendorClass, evidenceHash, endpoint);
        if (c.dkgKey != dkgKey) _useKey(c, dkgKey);
        delete _admittedUntil[msg.sender];
        _list(msg.sender);
        emit CandidateSet(msg.sender, operator, vendorClass, dkgKey, evidenceHash, endpoint);
    }

    /// @notice The key for the next ceremony, and the evidence that it belongs to. Sitting members do this too.
    function setKey(bytes32 dkgKey, bytes32 evidenceHash) external {
        Candidate storage c = _candidates[msg.sender];
        if (c.operator == address(0)) revert NoCandidate(msg.sender);
        if (c.revoked) revert RevokedSeat(msg.sender);
        if (_isReceiving(msg.sender)) revert FrozenCandidate(msg.sender);
        if (dkgKey == 0 || evidenceHash == 0) revert BadCandidate();
        _useKey(c, dkgKey);
        c.evidenceHash = evidenceHash;
        delete _admittedUntil[msg.sender];
        emit KeySet(msg.sender, dkgKey, evidenceHash);
    }

    /// @notice E9: t members verified a candidate's evidence. Until `expiry`, or until it describes itself anew, elections
    /// consider it. Anybody may bring their word; an older one changes nothing.
    function admit(CommitteeStatements.CandidateAdmission calldata s, bytes[] calldata sigs) external {
        Candidate storage c = _candidates[s.member];
        bool same = s.operator == c.operator && s.vendorClass == c.vendorClass && s.dkgKey == c.dkgKey
            && s.endpoint == keccak256(bytes(c.endpoint));
        if (!same || c.operator == address(0) || !_fresh(c)) revert NotAsDescribed(s.member);
        if (s.expiry <= _admittedUntil[s.member] || s.expiry > block.number + ADMISSION_BLOCKS) revert BadExpiry(s.expiry);
        _requireStatement(s.term, s.hash(), sigs);
        _admittedUntil[s.member] = s.expiry;
        emit CandidateAdmitted(s.member, s.expiry);
    }

    /// @notice Stake tokens for a candidate. They go back to its operator.
    function stake(address member, uint128 amount) external {
        Candidate storage c = _candidates[member];
        if (c.operator == address(0) || c.leaving) revert NoCandidate(member);
        c.stake += amount;
        if (!_isLocked(member)) _list(member);
        emit Staked(member, amount, c.stake);
        if (!token.transferFrom(msg.sender, address(this), amount)) revert TransferFailed();
    }

    /// @notice Give up standing; who sits leaves with the next election. By the member or its operator.
    function resign(address member) external {
        Candidate storage c = _candidates[member];
        if (msg.sender != member && msg.sender != c.operator) revert NotYours(msg.sender);
        if (c.operator == address(0) || c.leaving) revert NoCandidate(member);
        _leave(member, c);
    }

    /// @notice Pay the stake back to the operator: after leaving, when no seat holds it, `unbondingBlocks` later.
    function withdraw(address member) external {
        Candidate storage c = _candidates[member];
        if (!c.leaving || _isLocked(member)) revert StillLocked(member);
        if (block.number < uint256(c.endedAt) + _rules.unbondingBlocks) revert StillLocked(member);
        uint256 amount = c.stake;
        if (amount == 0) revert NothingStaked(member);
        c.stake = 0;
        emit Withdrawn(member, c.operator, amount);
        if (!token.transfer(c.operator, amount)) revert TransferFailed();
    }

    // --- opening ---

    /// @notice Name the founding committee. Seats per vendor class and per operator <= min(t - 1, n - t): no vendor and no
    /// operator alone can read, and none can stop the others. Again only if the ceremony before failed.
    function openFounding(address[] calldata chosen, uint16 needed, bytes32 genesisId) external {
        if (msg.sender != founder) revert NotFounder(msg.sender);
        if (_committee.term != 0) revert FoundingAlreadyOpen();
        _requireIdle();
        if (genesisId == 0) revert EmptyDigest();
        _requireSeatRule(chosen, needed);
        Ceremony memory c;
        (c.kind, c.base, c.term, c.masterEpoch, c.threshold, c.quorum) = (Kind.Found, genesisId, 1, 1, needed, needed);
        c.election = true;
        _begin(c, chosen);
    }

    /// @notice E2: elect the next committee and open the reshare to it; anybody may, when it is due.
    function nominate() external {
        uint64 from = _terms[_committee.term].revoked != 0 ? 0 : electedAt + _rules.termBlocks;
        _requireDue(from);
        address[] memory next =
            election.elect(_sitting(), _standing(), _committee.threshold, fullSize);
        _openReshare(next, true);
    }

    /// @notice R6: open a reshare to the same members; anybody may, when it is due.
    function refresh() external {
        _requireDue(_terms[_committee.term].height + _rules.refreshBlocks);
        _requireNobodyRevoked();
        _openReshare(_committee.members, false);
    }

    /// @notice While two master epochs live, a new term takes over the newest first; this opens the reshare of the other.
    function carry(uint64 epoch) external {
        _requireDue(0);
        Epoch storage e = _epochs[epoch];
        if (epoch == 0 || e.state != EpochState.Paused || e.term + 1 != _committee.term) {
            revert WrongEpoch(epoch, _committee.masterEpoch);
        }
        _requireNobodyRevoked();
        _reshare(epoch, _committee.term, _committee.members, false);
    }

    /// @notice M1: make the next master key: by anybody when it is due, by the DAO at any time.
    function rotate() external {
        _openRotation(msg.sender == owner() ? 0 : _epochs[_committee.masterEpoch].confirmedAt + _rules.rotationBlocks);
    }

    /// @notice M1: by t members, of the epoch that is to end.
    function rotateByCommittee(CommitteeStatements.MasterRotation calldata s, bytes[] calldata sigs) external {
        _requireStatement(s.term, s.hash(), sigs);
        if (s.masterEpoch != _committee.masterEpoch) revert WrongEpoch(s.masterEpoch, _committee.masterEpoch);
        _openRotation(0);
    }

    /// @notice End a ceremony that is not done: by the DAO, the founding also by the founder.
    function cancel(bytes32 id) external {
        (uint64 n, Ceremony storage c) = _open(id);
        if (msg.sender != owner() && !(msg.sender == founder && c.kind == Kind.Found)) revert NotYours(msg.sender);
        Phases.Phase phase = _phaseOf(n);
        if (phase >= Phases.Phase.Done) revert WrongPhase(phase);
        _end(c, End.Cancelled);
    }

    // --- removal for cause ---

    /// @notice E7: from this block the member's signature counts in nothing, and it never stands again.
    function revoke(address member) external onlyOwner {
        _revoke(member);
    }

    /// @notice The same, by t members.
    function revokeByCommittee(CommitteeStatements.SeatRevocation calldata s, bytes[] calldata sigs) external {
        _requireStatement(s.term, s.hash(), sigs);
        _revoke(s.member);
    }

    /// @notice New parameters, by the DAO, while no ceremony is open.
    function setRules(Rules calldata rules_) external onlyOwner {
        _requireIdle();
        _setRules(rules_);
    }

    // --- master epochs ---

    /// @notice M2: t members say that the rotation is final: the new epoch's keys may be used.
    function resume(CommitteeStatements.MasterResume calldata s, bytes[] calldata sigs) external {
        _requireStatement(s.term, s.hash(), sigs);
        Epoch storage e = _epochs[s.masterEpoch];
        if (s.masterEpoch != _committee.masterEpoch || e.state != EpochState.Paused) {
            revert WrongEpoch(s.masterEpoch, _committee.masterEpoch);
        }
        if (_ceremonies[e.made].id != s.ceremony) revert WrongCeremony(s.ceremony, _ceremonies[e.made].id);
        e.resumedAt = uint64(block.number);
        _become(s.masterEpoch, EpochState.Resumed);
    }

    /// @notice M4: every agent re-sealed or was waived, and t members say that no wallet or ciphertext needs the epoch.
    /// Members erase its shares `eraseDelay` blocks after this is final.
    function destroyEpoch(CommitteeStatements.EpochDestruction calldata s, bytes[] calldata sigs) external {
        _requireStatement(s.term, s.hash(), sigs);
        uint64 newest = _committee.masterEpoch;
        bool ready = _epochs[newest].state == EpochState.Resumed && s.masterEpoch == oldestEpoch;
        if (!ready || s.masterEpoch == newest) revert WrongEpoch(s.masterEpoch, newest);
        uint256 left = reseals.remaining(s.masterEpoch);
        if (left != 0) revert NotResealed(left);
        _epochs[s.masterEpoch].destroyedAt = uint64(block.number);
        oldestEpoch = s.masterEpoch + 1;
        _become(s.masterEpoch, EpochState.Destroyed);
    }

    /// @notice Which contract counts agents that did not re-seal; once.
    function setReseals(IReseals reseals_) external {
        if (msg.sender != founder || address(reseals) != address(0)) revert NotFounder(msg.sender);
        reseals = reseals_;
    }

    // --- views ---

    function candidate(address member) external view returns (Candidate memory) {
        return _candidates[member];
    }

    /// @notice E9: the block before which elections consider a candidate; 0 if t members did not admit it.
    function admittedUntil(address member) external view returns (uint64) {
        return _admittedUntil[member];
    }

    /// @notice Everybody who stands, sitting or not, in no order. Elections consider those of them that are admitted.
    function candidates() external view returns (address[] memory) {
        return _candidateList;
    }

    function rules() external view returns (Rules memory) {
        return _rules;
    }

    function epochOf(uint64 epoch) external view returns (Epoch memory) {
        return _epochs[epoch];
    }

    // --- inside: opening ---

    /// @dev 1. a committee is in office; 2. no ceremony is open; 3. one window after the last one, so that members can
    /// register their next keys; 4. not before `from`.
    function _requireDue(uint256 from) private view {
        if (_committee.term == 0) revert NoCommitteeInOffice(); // 1
        _requireIdle(); // 2
        Ceremony storage last = _ceremonies[ceremonyCount];
        uint256 rested = uint256(last.endedAt) + last.window; // 3
        if (from < rested) from = rested;
        if (block.number < from) revert TooEarly(from); // 4
    }

    function _requireNobodyRevoked() private view {
        if (_terms[_committee.term].revoked != 0) revert RevokedSeatsFirst();
    }

    /// @dev Every epoch that lives is of the term in office; `carry` comes first.
    function _openReshare(address[] memory next, bool elected) private {
        if (_epochs[oldestEpoch].term != _committee.term) revert WrongEpoch(oldestEpoch, _committee.masterEpoch);
        _reshare(_committee.masterEpoch, _committee.term + 1, next, elected);
    }

    function _reshare(uint64 epoch, uint64 newTerm, address[] memory next, bool elected) private {
        Epoch storage e = _epochs[epoch];
        _requireKeys(next);
        Ceremony memory c;
        (c.kind, c.base, c.term, c.masterEpoch) = (Kind.Reshare, _committee.networkId, newTerm, epoch);
        (c.threshold, c.quorum) = (_committee.threshold, _terms[e.term].threshold);
        (c.dealerTerm, c.oldTranscript, c.election) = (e.term, e.transcript, elected);
        _begin(c, next);
    }

    function _openRotation(uint256 from) private {
        _requireDue(from);
        _requireNobodyRevoked();
        uint64 epoch = _committee.masterEpoch;
        if (oldestEpoch != epoch) revert WrongEpoch(oldestEpoch, epoch);
        _requireKeys(_committee.members);
        Ceremony memory c;
        (c.kind, c.base, c.term, c.masterEpoch) = (Kind.Rotate, _committee.networkId, _committee.term, epoch + 1);
        (c.threshold, c.quorum) = (_committee.threshold, _committee.threshold);
        _begin(c, _committee.members);
    }

    /// @dev A ceremony that too few can take part in only costs them stake: all but `spare` have a fresh key.
    function _requireKeys(address[] memory next) private view {
        uint256 found;
        for (uint256 i = 0; i < next.length; ++i) if (_fresh(_candidates[next[i]])) ++found;
        uint256 needed = next.length - _spare(_committee.threshold, next.length);
        if (found < needed) revert TooFewKeys(found, needed);
    }

    function _spare(uint256 t, uint256 n) private pure returns (uint256) {
        return t - 1 < n - t ? t - 1 : n - t;
    }

    function _requireSeatRule(address[] calldata chosen, uint256 t) private view {
        uint256 n = chosen.length;
        if (n > MAX_MEMBERS || t < 2 || t >= n) revert BadThreshold(t, n);
        uint256 allowed = _spare(t, n);
        for (uint256 i = 0; i < n; ++i) {
            Candidate storage c = _candidates[chosen[i]];
            if (c.operator == address(0) || c.leaving || c.stake < _rules.minStake) revert NoCandidate(chosen[i]);
            if (!_fresh(c)) revert NoFreshKey(chosen[i]);
            uint256 sameVendor;
            uint256 sameOperator;
            for (uint256 j = 0; j < n; ++j) {
                Candidate storage other = _candidates[chosen[j]];
                if (other.vendorClass == c.vendorClass) ++sameVendor;
                if (other.operator == c.operator) ++sameOperator;
            }
            if (sameVendor > allowed) revert TooManySeatsOfVendor(c.vendorClass, sameVendor, allowed);
            if (sameOperator > allowed) revert TooManySeatsOfOperator(c.operator, sameOperator, allowed);
        }
    }

    function _sitting() private view returns (Election.Standing[] memory list) {
        list = new Election.Standing[](_committee.members.length);
        for (uint256 i = 0; i < list.length; ++i) list[i] = _describe(_committee.members[i]);
    }

    /// @dev Candidates that may take a seat: not sitting, admitted, enough stake, a fresh key.
    function _standing() private view returns (Election.Standing[] memory list) {
        list = new Election.Standing[](_candidateList.length);
        uint256 found;
        for (uint256 i = 0; i < list.length; ++i) {
            address member = _candidateList[i];
            if (_isSeated(member) || !_fresh(_candidates[member]) || _admittedUntil[member] <= block.number) continue;
            Election.Standing memory one = _describe(member);
            if (one.status == Election.Status.Stays) list[found++] = one;
        }
        assembly {
            mstore(list, found)
        }
    }

    function _describe(address member) private view returns (Election.Standing memory one) {
        Candidate storage c = _candidates[member];
        one = Election.Standing(member, c.operator, c.vendorClass, c.stake, c.since, Election.Status.Stays);
        if (c.revoked) one.status = Election.Status.Revoked;
        else if (c.leaving || c.stake < _rules.minStake) one.status = Election.Status.Leaves;
    }

    /// @dev G1. Fresh keys are used up. Who has none gets one that nobody holds: it sits out, and dealers need not know.
    function _begin(Ceremony memory c, address[] memory receivers) internal {
        uint64 n = ++ceremonyCount;
        c.id = keccak256(abi.encode(c.base, address(this), uint8(c.kind), c.term, c.masterEpoch, n));
        (c.openedAt, c.window, c.receivers) = (uint64(block.number), _rules.ceremonyBlocks, receivers);
        c.keys = new bytes32[](receivers.length);
        for (uint256 i = 0; i < receivers.length; ++i) {
            address member = receivers[i];
            if (_seats[n][member] != 0) revert DuplicateMember(member);
            _seats[n][member] = i + 1;
            Candidate storage one = _candidates[member];
            c.keys[i] = _fresh(one) ? one.dkgKey : keccak256(abi.encode(c.id, member));
            if (_fresh(one)) one.keyCeremony = n;
        }
        numberOf[c.id] = n;
        _ceremonies[n] = c;
        emit CeremonyOpened(c.id, n, c.kind, c.term, c.masterEpoch, receivers);
    }

    function _requireIdle() internal view {
        Ceremony storage c = _ceremonies[ceremonyCount];
        if (ceremonyCount != 0 && c.end == End.Open) revert CeremonyOpen(c.id);
    }

    // --- inside: candidates ---

    function _useKey(Candidate storage c, bytes32 key) private {
        if (_usedKeys[key]) revert UsedKey(key);
        _usedKeys[key] = true;
        (c.dkgKey, c.keyCeremony) = (key, 0);
    }

    function _list(address member) private {
        Candidate storage c = _candidates[member];
        if (_place[member] != 0 || c.stake < _rules.minStake) return;
        if (_candidateList.length == MAX_CANDIDATES) _pushOut(c.stake);
        _candidateList.push(member);
        _place[member] = _candidateList.length;
    }

    /// @dev Makes room: the candidate with the least stake goes, the newest of equals, if it has less than `amount`.
    function _pushOut(uint256 amount) private {
        address worst;
        uint256 least = amount;
        uint64 newest;
        for (uint256 i = 0; i < MAX_CANDIDATES; ++i) {
            Candidate storage c = _candidates[_candidateList[i]];
            if (c.stake > least || (c.stake == least && c.since <= newest) || c.stake >= amount) continue;
            if (_isLocked(_candidateList[i])) continue;
            (worst, least, newest) = (_candidateList[i], c.stake, c.since);
        }
        if (worst == address(0)) revert ListFull();
        _unlist(worst);
    }
}
