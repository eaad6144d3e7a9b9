// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {Candidates} from "./Candidates.sol";
import {IReseals} from "./interfaces/IReseals.sol";
import {Office} from "./Office.sol";
import {Phases} from "./Phases.sol";

/// @title Ceremonies: one run of a protocol that ends in a committee with shares, or in nothing (G1-G14).
/// @notice Three kinds, one machine: `Found` the first key, `Reshare` the same key for the next term, `Rotate` a new key.
/// A transaction counts in the phase that follows from the facts before it and the number of the block before its own.
abstract contract Ceremonies is Office, Candidates {
    using Phases for Phases.Facts;

    enum Kind {
        None,
        Found,
        Reshare,
        Rotate
    }

    enum End {
        Open,
        Done,
        Failed,
        Cancelled
    }

    /// @notice Sets of seats are bits, bit i - 1 for seat i. `base`: genesis id or network id. `dealerTerm`: whose
    /// committee deals, 0 if the receivers do. `reached`: how many values t receivers confirmed; `agreed` is the last.
    struct Ceremony {
        uint64 term;
        uint64 masterEpoch;
        uint64 openedAt;
        uint64 endedAt;
        uint64 window;
        uint64 committed;
        uint64 content;
        uint64 settled;
        uint64 accused;
        uint64 published;
        uint64 confirmed;
        uint16 threshold;
        uint16 quorum;
        Kind kind;
        End end;
        uint8 reached;
        bool election;
        uint64 dealerTerm;
        bytes32 id;
        bytes32 base;
        bytes32 agreed;
        bytes32 oldTranscript;
        address[] receivers;
        bytes32[] keys;
    }

    /// @notice Who complained of a dealer, who of them called its share bad, whose share it opened.
    struct Accusation {
        uint64 by;
        uint64 bad;
        uint64 opened;
    }

    /// @notice What receivers confirmed, and how many did.
    struct Value {
        bytes32[3] mpk;
        bytes32 transcript;
        uint64 qualified;
        uint64 count;
    }

    enum EpochState {
        None,
        Released,
        Paused,
        Resumed,
        Destroyed
    }

    /// @notice A master epoch. `ceremony` and `term`: whose shares hold its key now. `made`: the ceremony that made it.
    struct Epoch {
        EpochState state;
        uint64 ceremony;
        uint64 term;
        uint64 confirmedAt;
        uint64 resumedAt;
        uint64 destroyedAt;
        uint64 made;
        bytes32 transcript;
        bytes32[3] mpk;
    }

    uint64 public ceremonyCount;
    mapping(uint64 number => Ceremony) internal _ceremonies;
    mapping(bytes32 id => uint64) public numberOf;
    mapping(uint64 number => mapping(uint256 dealer => bytes32)) internal _digests;
    mapping(uint64 number => mapping(uint256 dealer => Accusation)) internal _accusations;
    /// @dev By dealer << 8 | receiver.
    mapping(uint64 number => mapping(uint256 pair => bytes32)) internal _openings;
    mapping(uint64 number => mapping(uint256 receiver => bytes32)) internal _said;
    mapping(uint64 number => mapping(bytes32 value => Value)) internal _values;

    mapping(uint64 epoch => Epoch) internal _epochs;
    /// @notice How many seats a full committee has: those of the founding.
    uint64 public fullSize;
    /// @notice Block in which the last election, or the founding, took effect.
    uint64 public electedAt;
    /// @notice The oldest master epoch that is not destroyed.
    uint64 public oldestEpoch;
    /// @notice Counts agents that did not re-seal. The founder names it once.
    IReseals public reseals;
    /// @dev E9: the block before which an election considers a candidate. It describes itself anew: 0 again.
    mapping(address member => uint64) internal _admittedUntil;

    event EpochChanged(uint64 indexed epoch, EpochState state);
    event CeremonyOpened(
        bytes32 indexed ceremony, uint64 indexed number, Kind kind, uint64 term, uint64 masterEpoch, address[] receivers
    );
    event DealingCommitted(bytes32 indexed ceremony, address indexed member, bytes32 digest);
    event Complained(bytes32 indexed ceremony, uint256 indexed dealer, uint256 indexed receiver, uint8 fault);
    event Content(bytes32 indexed ceremony, uint256 indexed receiver, uint8 round);
    event DealingPublished(bytes32 indexed ceremony, uint256 indexed dealer);
    event ShareOpened(bytes32 indexed ceremony, uint256 indexed dealer, uint256 indexed receiver, bytes32 value);
    event Confirmed(bytes32 indexed ceremony, address indexed member, bytes mpk, bytes32 transcript, uint64 qualified);
    event CeremonyEnded(bytes32 indexed ceremony, End end);
    event SeatRevoked(address indexed member, uint64 indexed term);
    event Absent(bytes32 indexed ceremony, address indexed member, bool asDealer);

    error WrongCeremony(bytes32 given, bytes32 open);
    error WrongPhase(Phases.Phase phase);
    error CeremonyOpen(bytes32 id);
    error DuplicateMember(address member);
    error AlreadyCommitted(address member);
    error AlreadySaid(address member);
    error EmptyDigest();
    error BadFault(uint8 fault);
    error NotAccused(uint256 dealer, uint256 receiver);
    error NotTheDealing(bytes32 committed, bytes32 given);
    error BadKeyLength(uint256 length);
    error BadKey();
    error BadQualified(uint64 qualified);

    // --- inside ---

    /// @dev 1. it is the last one; 2. its end is not written.
    function _open(bytes32 id) internal view returns (uint64 n, Ceremony storage c) {
        n = ceremonyCount;
        c = _ceremonies[n];
        if (n == 0 || c.id != id || c.end != End.Open) revert WrongCeremony(id, c.id);
    }

    /// @dev As of the block before: what the block of a deadline holds still counts.
    function _phaseOf(uint64 n) internal view returns (Phases.Phase) {
        return _facts(n).walk(block.number - 1);
    }

    function _facts(uint64 n) internal view returns (Phases.Facts memory f) {
        Ceremony storage c = _ceremonies[n];
        (f.openedAt, f.window, f.quorum) = (c.openedAt, c.window, c.quorum);
        (f.dealers, f.receivers) = (_dealers(n, c), c.receivers.length);
        (f.committed, f.content, f.settled) = (c.committed, c.content, c.settled);
        (f.accused, f.published) = (c.accused, c.published);
        for (uint256 d = 1; d <= f.dealers; ++d) {
            if (f.published & Phases.bit(d) == 0) continue;
            Accusation memory a = _accusations[n][d];
            f.fold(a.by, a.bad, a.opened);
        }
        f.agreed = c.reached == 1;
        f.unanimous = f.agreed && c.confirmed == Phases.all(f.receivers) && _values[n][c.agreed].count == f.receivers;
        f.cancelled = c.end == End.Cancelled;
    }

    function _dealers(uint64 n, Ceremony storage c) internal view returns (uint256) {
        return c.dealerTerm == 0 ? _ceremonies[n].receivers.length : _terms[c.dealerTerm].size;
    }

    function _dealerSeat(uint64 n, Ceremony storage c, address member) internal view returns (uint256) {
        return c.dealerTerm == 0 ? _seats[n][member] : _seatIn(c.dealerTerm, member);
    }

    function _isReceiving(address member) internal view override returns (bool) {
        return _ceremonies[ceremonyCount].end == End.Open && _seats[ceremonyCount][member] != 0;
    }

    /// @dev E6: from nomination until the hand-over that ends the seat.
    function _isLocked(address member) internal view override returns (bool) {
        return _isSeated(member) || _isReceiving(member);
    }

    function _membersOf(uint64 n) internal view override returns (address[] memory) {
        return _ceremonies[n].receivers;
    }

    function _end(Ceremony storage c, End end) internal {
        (c.end, c.endedAt) = (end, uint64(block.number));
        emit CeremonyEnded(c.id, end);
    }

    function _grace() internal view override returns (uint256) {
        return _rules.eraseDelay;
    }

    function _become(uint64 epoch, EpochState state) internal {
        _epochs[epoch].state = state;
        emit EpochChanged(epoch, state);
    }

    /// @dev E7: for good; in the term in office and the one before the seat counts in nothing from now on.
    function _revoke(address member) internal {
        Candidate storage c = _candidates[member];
        if (c.operator == address(0)) revert NoCandidate(member);
        if (c.revoked) revert RevokedSeat(member);
        c.revoked = true;
        if (!c.leaving) _leave(member, c);
        uint64 now_ = _committee.term;
        for (uint64 t = now_ > 1 ? now_ - 1 : now_; t <= now_; ++t) {
            uint256 seat = _seatIn(t, member);
            if (seat != 0) _terms[t].revoked |= Phases.bit(seat);
        }
        emit SeatRevoked(member, now_);
    }

    function _leave(address member, Candidate storage c) internal {
        (c.leaving, c.endedAt) = (true, uint64(block.number));
        _unlist(member);
        emit Left(member);
    }

    function _unlist(address member) internal {
        uint256 place = _place[member];
        if (place == 0) return;
        address last = _candidateList[_candidateList.length - 1];
        _candidateList[place - 1] = last;
        _place[last] = place;
        _candidateList.pop();
        delete _place[member];
    }
}
