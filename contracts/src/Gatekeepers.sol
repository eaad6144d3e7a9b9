// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {Ownable} from "@openzeppelin/contracts/access/Ownable.sol";
import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";
import {Candidates} from "./Candidates.sol";
import {Ceremonies} from "./Ceremonies.sol";
import {CommitteeStatements} from "./CommitteeStatements.sol";
import {IGatekeepers} from "./interfaces/IGatekeepers.sol";
import {Phases} from "./Phases.sol";
import {Seats} from "./Seats.sol";
import {Statements} from "./Statements.sol";

/// @title Gatekeepers: who holds the master key, by which ceremony, until when (spec/gatekeepers.md).
/// @notice One contract in two halves, for its size. This half: what the committee signs, and what members do in a
/// ceremony. The other, `Seats`, has its own code and works on this storage: candidates, elections, openings, removal,
/// master epochs. A call that this half does not know goes there.
contract Gatekeepers is IGatekeepers, Ceremonies {
    using CommitteeStatements for *;
    using Statements for Statements.Checkpoint;
    using Phases for Phases.Facts;

    /// @notice What the last of several confirmations costs beyond the others, and per seat. Nobody knows beforehand whose
    /// it is: each brings as much, and gets back what it does not use.
    uint256 public constant FINISH_GAS = 500_000;
    uint256 public constant SEAT_GAS = 50_000;

    /// @notice The code of the other half.
    Seats public immutable seats;

    error MoreGas(uint256 needed);
    error NoConflict();

    /// @param seats_ the other half; it brings the founder and the token.
    constructor(address dao, Seats seats_, Rules memory rules_) Ownable(dao) Candidates(seats_.token()) {
        seats = seats_;
        _setRules(rules_);
    }

    /// @dev The other half, on this storage, for this sender.
    fallback() external {
        address code = address(seats);
        assembly {
            calldatacopy(0, 0, calldatasize())
            let done := delegatecall(gas(), code, 0, calldatasize(), 0, 0)
            returndatacopy(0, 0, returndatasize())
            if iszero(done) { revert(0, returndatasize()) }
            return(0, returndatasize())
        }
    }

    // --- signatures ---

    /// @inheritdoc IGatekeepers
    function requireStatement(uint64 term_, bytes32 structHash, bytes[] calldata sigs) external view {
        _requireStatement(term_, structHash, sigs);
    }

    /// @inheritdoc IGatekeepers
    function requireSigned(bytes32 structHash, bytes[] calldata sigs) external view {
        if (_committee.term == 0) revert NoCommitteeInOffice();
        _requireSignedBy(_committee.term, structHash, sigs);
    }

    /// @notice Store the hand-over of `term_` to the next one, signed by exactly t of its members, each once. Every field
    /// follows from what stands here, so its signers may come at any time.
    function handOver(uint64 term_, bytes[] calldata sigs) external {
        bytes32 structHash = handover(term_).hash();
        if (_handovers[term_].length != 0) revert AlreadyHandedOver(term_);
        if (sigs.length != _terms[term_].threshold) revert TooFewSigners(sigs.length, _terms[term_].threshold);
        _requireSignedBy(term_, structHash, sigs);
        bytes memory joined;
        for (uint256 i = 0; i < sigs.length; ++i) joined = bytes.concat(joined, sigs[i]);
        _handovers[term_] = joined;
        emit HandedOver(term_, structHash);
    }

    /// @notice W4: a member signed two checkpoints of this chain at one height, in one term. Its seat is revoked for good,
    /// and its stake is cut as for an absence. Anybody may bring the two: they need nobody's word.
    function revokeConflicting(
        Statements.Checkpoint calldata a,
        bytes calldata sigA,
        Statements.Checkpoint calldata b,
        bytes calldata sigB
    ) external {
        bool one = a.term == b.term && a.chainId == block.chainid && b.chainId == block.chainid && a.number == b.number;
        (bytes32 hashA, bytes32 hashB) = (a.hash(), b.hash());
        if (!one || hashA == hashB) revert NoConflict();
        address member = ECDSA.recover(Statements.digest(_committee.networkId, hashA), sigA);
        if (member != ECDSA.recover(Statements.digest(_committee.networkId, hashB), sigB)) revert NoConflict();
        if (_seatIn(a.term, member) == 0) revert NotAMember(member);
        _revoke(member);
        uint256 burnt = _slash(member);
        if (burnt != 0) token.burn(burnt);
    }

    // --- views ---

    /// @notice The committee; `term` is 0 until it is in office.
    function committee() external view returns (Committee memory) {
        return _committee;
    }

    /// @notice What members of `term_` sign when the next one is in office. Reverts before.
    function handover(uint64 term_) public view returns (CommitteeStatements.Handover memory) {
        Term storage next = _terms[term_ + 1];
        if (term_ == 0 || next.ceremony == 0) revert WrongTerm(term_, _committee.term);
        bytes32 hashed = keccak256(abi.encode(_membersOf(next.ceremony)));
        return CommitteeStatements.Handover({
            term: term_,
            nextTerm: term_ + 1,
            threshold: next.threshold,
            members: hashed,
            masterEpoch: next.masterEpoch,
            mpk: next.mpkHash,
            height: next.height,
            timestamp: next.timestamp
        });
    }

    /// @notice The stored signatures of a hand-over, joined; empty before.
    function handoverSignatures(uint64 term_) external view returns (bytes memory) {
        return _handovers[term_];
    }

    function termOf(uint64 term_) external view returns (Term memory) {
        return _terms[term_];
    }

    function members() external view returns (address[] memory) {
        return _committee.members;
    }

    function threshold() external view returns (uint16) {
        return _committee.threshold;
    }

    function term() external view returns (uint64) {
        return _committee.term;
    }

    function masterEpoch() external view returns (uint64) {
        return _committee.masterEpoch;
    }

    function networkId() external view returns (bytes32) {
        return _committee.networkId;
    }

    function masterPublicKey() external view returns (bytes memory) {
        return abi.encodePacked(_committee.mpk);
    }

    // --- what dealers do ---

    /// @notice G3: a dealer commits to its dealing before anybody sees one. A revoked one deals only in the reshare that
    /// removes it (E7).
    function commitDealing(bytes32 id, bytes32 digest) external {
        (uint64 n, Ceremony storage c) = _in(id, Phases.Phase.Commit);
        uint256 dealer = _dealer(n, c);
        if (digest == 0) revert EmptyDigest();
        if (c.committed & Phases.bit(dealer) != 0) revert AlreadyCommitted(msg.sender);
        c.committed |= Phases.bit(dealer);
        _digests[n][dealer] = digest;
        emit DealingCommitted(id, msg.sender, digest);
    }

    /// @notice G15: t members say that a receiver showed them no good evidence. The ceremony ends before anybody has to
    /// deal; nobody but that receiver pays, and its admission is over. No more once enough dealt: then it goes on.
    function refuseReceiver(CommitteeStatements.ReceiverRefusal calldata s, bytes[] calldata sigs) external {
        (uint64 n, Ceremony storage c) = _open(s.ceremony);
        uint256 seat = _seats[n][s.member];
        if (seat == 0) revert NotAMember(s.member);
        Phases.Phase phase = _phaseOf(n);
        if (phase != Phases.Phase.Commit && Phases.count(c.committed) >= c.quorum) revert WrongPhase(phase);
        _requireStatement(s.term, s.hash(), sigs);
        delete _admittedUntil[s.member];
        _end(c, End.Cancelled);
        _absent(n, c, 0, Phases.bit(seat));
    }

    /// @notice G7: an accused dealer shows its dealing to everybody, as call data.
    /// @param frame the bytes whose SHA-256 is the digest that it committed.
    function publish(bytes32 id, bytes calldata frame) external {
        (uint64 n, Ceremony storage c) = _in(id, Phases.Phase.Publish);
        uint256 dealer = _dealer(n, c);
        if (c.accused & Phases.bit(dealer) == 0) revert NotAccused(dealer, 0);
        if (c.published & Phases.bit(dealer) != 0) revert AlreadySaid(msg.sender);
        if (sha256(frame) != _digests[n][dealer]) revert NotTheDealing(_digests[n][dealer], sha256(frame));
        c.published |= Phases.bit(dealer);
        emit DealingPublished(id, dealer);
    }

    /// @notice G7: a dealer opens a share that was called bad. The value is public from then on.
    function openShare(bytes32 id, uint256 receiver, bytes32 value) external {
        (uint64 n, Ceremony storage c) = _in(id, Phases.Phase.Answer);
        uint256 dealer = _dealer(n, c);
        _requireSeat(c, receiver);
        Accusation storage a = _accusations[n][dealer];
        uint64 bit = Phases.bit(receiver);
        if (c.published & Phases.bit(dealer) == 0 || a.bad & ~a.opened & bit == 0) revert NotAccused(dealer, receiver);
        a.opened |= bit;
        _openings[n][dealer << 8 | receiver] = value;
        emit ShareOpened(id, dealer, receiver, value);
    }

    // --- what receivers do ---

    /// @notice G5, G7: fault 1 "not shown", fault 2 "bad share". In OBJECT a receiver may only raise 1 to 2, of a dealer
    /// that published.
    function complain(bytes32 id, uint256 dealer, uint8 fault) external {
        uint64 n = numberOf[id];
        Ceremony storage c = _ceremonies[n];
        bool late = n != 0 && _phaseOf(n) == Phases.Phase.Object;
        _in(id, late ? Phases.Phase.Object : Phases.Phase.Show);
        uint64 bit = Phases.bit(_receiver(n));
        if (fault != 1 && fault != 2) revert BadFault(fault);
        if (dealer == 0 || dealer > _dealers(n, c)) revert NotAccused(dealer, 0);
        Accusation storage a = _accusations[n][dealer];
        bool fits = late
            ? fault == 2 && c.published & Phases.bit(dealer) != 0 && a.by & ~a.bad & bit != 0
            : c.committed & Phases.bit(dealer) != 0 && a.bad & bit == 0 && (fault == 2 || a.by & bit == 0);
        if (!fits) revert NotAccused(dealer, _seats[n][msg.sender]);
        if ((late ? c.settled : c.content) & bit != 0) revert AlreadySaid(msg.sender);
        a.by |= bit;
        if (fault == 2) a.bad |= bit;
        c.accused |= Phases.bit(dealer);
        emit Complained(id, dealer, _seats[n][msg.sender], fault);
    }

    /// @notice G6, G7: this receiver has no further complaint: round 1 in SHOW, round 2 in OBJECT.
    function content(bytes32 id, uint8 round) external {
        (uint64 n, Ceremony storage c) = _in(id, round == 2 ? Phases.Phase.Object : Phases.Phase.Show);
        uint64 bit = Phases.bit(_receiver(n));
        if (round != 1 && round != 2) revert BadFault(round);
        if ((round == 1 ? c.content : c.settled) & bit != 0) revert AlreadySaid(msg.sender);
        if (round == 2) {
            if (_facts(n).late & bit == 0) revert NotAccused(0, _seats[n][msg.sender]);
            c.settled |= bit;
        } else {
            c.content |= bit;
        }
        emit Content(id, _seats[n][msg.sender], round);
    }

    /// @notice G11: a receiver confirms what it computed. Equal values are counted apart from others; when all receivers
    /// said the same, the ceremony is done.
    /// @param mpk master public key, 96 bytes. @param qualified bit i - 1: dealer i is in Q.
    function confirm(bytes32 id, bytes calldata mpk, bytes32 transcript, uint64 qualified) external {
        (uint64 n, Ceremony storage c) = _in(id, Phases.Phase.Confirm);
        uint256 receiver = _receiver(n);
        uint256 gas_ = FINISH_GAS + SEAT_GAS * (c.receivers.length + _dealers(n, c));
        if (gasleft() < gas_) revert MoreGas(gas_);
        if (c.confirmed & Phases.bit(receiver) != 0) revert AlreadySaid(msg.sender);
        if (mpk.length != 96) revert BadKeyLength(mpk.length);
        if (transcript == 0) revert EmptyDigest();
        if (qualified & ~c.committed != 0 || Phases.count(qualified) < c.quorum) revert BadQualified(qualified);
        if (!_keyFits(c, keccak256(mpk))) revert BadKey();
        bytes32 value = keccak256(abi.encode(mpk, transcript, qualified));
        Value storage v = _values[n][value];
        if (v.count == 0) {
            v.mpk = [bytes32(mpk[0:32]), bytes32(mpk[32:64]), bytes32(mpk[64:96])];
            (v.transcript, v.qualified) = (transcript, qualified);
        }
        c.confirmed |= Phases.bit(receiver);
        _said[n][receiver] = value;
        if (++v.count == c.threshold) (c.agreed, c.reached) = (value, c.reached + 1);
        emit Confirmed(id, msg.sender, mpk, transcript, qualified);
        if (_phaseOf(n) == Phases.Phase.Done) _finish(n, c);
    }

    /// @notice Write down an end that a deadline brought: anybody may.
    function close(bytes32 id) external {
        (uint64 n, Ceremony storage c) = _open(id);
        Phases.Phase phase = _phaseOf(n);
        if (phase == Phases.Phase.Done) _finish(n, c);
        else if (phase == Phases.Phase.Failed) _fail(n, c);
        else revert WrongPhase(phase);
    }

    // --- views ---

    /// @notice The ceremony that was opened last.
    function ceremony() external view returns (Ceremony memory) {
        return _ceremonies[ceremonyCount];
    }

    function ceremonyOf(bytes32 id) external view returns (Ceremony memory) {
        return _ceremonies[numberOf[id]];
    }

    /// @notice The phase after block `number`, if nothing is said in between.
    function phaseAt(bytes32 id, uint256 number) external view returns (Phases.Phase) {
        return _facts(numberOf[id]).walk(number);
    }

    /// @notice A dealer's digest; 0 if it has not committed.
    function dealing(bytes32 id, address member) external view returns (bytes32) {
        uint64 n = numberOf[id];
        return _digests[n][_dealerSeat(n, _ceremonies[n], member)];
    }

    function accusation(bytes32 id, uint256 dealer) external view returns (Accusation memory) {
        return _accusations[numberOf[id]][dealer];
    }

    function opening(bytes32 id, uint256 dealer, uint256 receiver) external view returns (bytes32) {
        return _openings[numberOf[id]][dealer << 8 | receiver];
    }

    /// @notice What a receiver confirmed; all zero before.
    function confirmation(bytes32 id, address member) external view returns (Value memory) {
        uint64 n = numberOf[id];
        return _values[n][_said[n][_seats[n][member]]];
    }

    function hasConfirmed(bytes32 id, address member) external view returns (bool) {
        uint64 n = numberOf[id];
        return _said[n][_seats[n][member]] != 0;
    }

    // --- inside ---

    function _in(bytes32 id, Phases.Phase wanted) private view returns (uint64 n, Ceremony storage c) {
        (n, c) = _open(id);
        Phases.Phase phase = _phaseOf(n);
        if (phase != wanted) revert WrongPhase(phase);
    }

    function _dealer(uint64 n, Ceremony storage c) private view returns (uint256 index) {
        index = _dealerSeat(n, c, msg.sender);
        if (index == 0) revert NotAMember(msg.sender);
        if (c.dealerTerm == 0 && _candidates[msg.sender].revoked) revert RevokedSeat(msg.sender);
    }

    function _receiver(uint64 n) private view returns (uint256 index) {
        index = _seats[n][msg.sender];
        if (index == 0) revert NotAMember(msg.sender);
        if (_candidates[msg.sender].revoked) revert RevokedSeat(msg.sender);
    }

    function _requireSeat(Ceremony storage c, uint256 receiver) private view {
        if (receiver == 0 || receiver > c.receivers.length) revert NotAccused(0, receiver);
    }

    function _finish(uint64 n, Ceremony storage c) private {
        Value storage v = _values[n][c.agreed];
        uint64 away;
        for (uint256 i = 1; i <= c.receivers.length; ++i) if (_said[n][i] != c.agreed) away |= Phases.bit(i);
        _end(c, End.Done);
        _install(n, c, v);
        _absent(n, c, Phases.all(_dealers(n, c)) & ~v.qualified, away);
    }

    /// @dev G12, G14: of a ceremony that failed only those dealers are named whose absence stands on chain.
    function _fail(uint64 n, Ceremony storage c) private {
        uint64 answered = c.committed & ~(c.accused & ~c.published);
        _end(c, End.Failed);
        _absent(n, c, Phases.all(_dealers(n, c)) & ~answered, 0);
    }

    /// @dev G14: each role that a member was absent in costs `absenceSlash`. What is taken burns.
    function _absent(uint64 n, Ceremony storage c, uint64 dealers, uint64 receivers) private {
        address[] memory dealing_ = c.dealerTerm == 0 ? c.receivers : _ceremonies[_terms[c.dealerTerm].ceremony].receivers;
        uint256 burnt = _name(c.id, dealing_, dealers, true) + _name(c.id, _ceremonies[n].receivers, receivers, false);
        if (burnt != 0) token.burn(burnt);
    }

    function _name(bytes32 id, address[] memory list, uint64 bits, bool asDealer) private returns (uint256 burnt) {
        for (uint256 i = 0; i < list.length; ++i) {
            if (bits & Phases.bit(i + 1) == 0) continue;
            emit Absent(id, list[i], asDealer);
            burnt += _slash(list[i]);
        }
    }

    function _keyFits(Ceremony storage c, bytes32 mpkHash) private view returns (bool) {
        bool same = keccak256(abi.encodePacked(_epochs[c.masterEpoch].mpk)) == mpkHash;
        return c.kind != Kind.Reshare || same;
    }

    function _install(uint64 n, Ceremony storage c, Value storage v) private {
        Epoch storage e = _epochs[c.masterEpoch];
        (e.ceremony, e.term, e.transcript) = (n, c.term, v.transcript);
        if (c.kind != Kind.Reshare) (e.mpk, e.made, e.confirmedAt) = (v.mpk, n, uint64(block.number));
        if (c.kind == Kind.Found) {
            _committee.networkId = _networkId(c.base, v.transcript);
            (fullSize, oldestEpoch) = (uint64(c.receivers.length), 1);
            _become(1, EpochState.Released);
        } else if (c.kind == Kind.Rotate) {
            _become(c.masterEpoch - 1, EpochState.Paused);
            _become(c.masterEpoch, EpochState.Paused);
        }
        if (c.masterEpoch >= _committee.masterEpoch) {
            (_committee.masterEpoch, _committee.mpk, _committee.transcript) = (c.masterEpoch, e.mpk, v.transcript);
        }
        if (c.term > _committee.term) _takeOffice(n, c, v);
    }

    function _takeOffice(uint64 n, Ceremony storage c, Value storage v) private {
        _endSeats(n);
        if (c.election) electedAt = uint64(block.number);
        bytes memory mpk = abi.encodePacked(v.mpk);
        bytes32 network = _committee.networkId;
        _terms[c.term] = Term({
            ceremony: n,
            height: uint64(block.number),
            timestamp: uint64(block.timestamp),
            masterEpoch: c.masterEpoch,
            mpkHash: keccak256(mpk),
            revoked: _revokedOf(n),
            threshold: c.threshold,
            size: uint16(c.receivers.length)
        });
        (_committee.term, _committee.threshold, _committee.members) = (c.term, c.threshold, c.receivers);
        _committee.termSeed = keccak256(abi.encode(blockhash(block.number - 1), network, c.term));
        emit CommitteeInOffice(c.term, network, mpk, v.transcript);
    }

    /// @dev E6: stake of those who do not sit on is free `unbondingBlocks` later.
    function _endSeats(uint64 n) private {
        for (uint256 i = 0; i < _committee.members.length; ++i) {
            address member = _committee.members[i];
            if (_seats[n][member] == 0) _candidates[member].endedAt = uint64(block.number);
        }
    }

    function _revokedOf(uint64 n) private view returns (uint64 bits) {
        address[] memory list = _membersOf(n);
        for (uint256 i = 0; i < list.length; ++i) if (_candidates[list[i]].revoked) bits |= Phases.bit(i + 1);
    }

    /// @dev networkId = sha256(frame(NETWORK_ID, "network", genesisId, transcript)), spec/encoding.md 3 and 7.
    function _networkId(bytes32 genesisId, bytes32 transcript) private pure returns (bytes32) {
        bytes memory head = abi.encodePacked("cloister/v1/network-id", uint8(0), uint32(7), "network");
        return sha256(abi.encodePacked(head, uint32(32), genesisId, uint32(32), transcript));
    }
}
