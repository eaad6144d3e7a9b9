"""The Gatekeepers contract in memory, by the rules of spec/gatekeepers.md: candidates, ceremonies, terms, epochs.

It is copied with each pretend block. Elections are the contract's own business (tests of the contract); here whoever
writes the test says who is nominated; a newcomer that is not admitted is passed over, and the sitting stay (E9).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from cloister.core.chainview.ceremonies import (
    CeremonyView,
    Ending,
    EpochRecord,
    EpochState,
    TermRecord,
    ceremony_id,
)
from cloister.core.chainview.founding import CandidateRecord, SeatsRecord
from cloister.core.chainview.seats import RulesRecord
from cloister.core.encoding.handover import (
    CandidateAdmission,
    EpochDestruction,
    Handover,
    MasterResume,
    MasterRotation,
    ReceiverRefusal,
    SeatRevocation,
    members_hash,
)
from cloister.core.encoding.keccak import keccak256
from cloister.core.encoding.network import network_id
from cloister.core.encoding.signatures import recover
from cloister.core.encoding.statements import Checkpoint, Statement
from cloister.core.errors import ChainError, CloisterError, define
from cloister.core.policy.candidates import ADMISSION_BLOCKS, admission_of
from cloister.core.policy.conflicts import Conflict
from cloister.core.threshold.facts import Confirmation, Facts, Fault
from cloister.core.threshold.phases import Deadlines, Kind, Phase, agreed_value, late_viewers, phase_at
from cloister.gatekeeper.membership import keyless

REVERT = define("test.revert", ChainError, check="the pretend contract accepts the call", remedy="none")
CONTRACT = hashlib.sha256(b"Gatekeepers").digest()[:20]
RULES = RulesRecord(
    ceremony_blocks=12,
    term_blocks=400,
    refresh_blocks=300,
    rotation_blocks=100_000,
    erase_delay=10,
    unbonding_blocks=10,
    min_stake=0,
    absence_slash=0,
)
NO_SEATS = SeatsRecord(0, 0, 0, (), bytes(32), bytes(32), bytes(96), bytes(32))


@dataclass(frozen=True)
class Shape:
    """As much of a ceremony as phases depend on."""

    dealers: int
    quorum: int
    threshold: int
    members: tuple[bytes, ...]


@dataclass
class Opened:
    """A ceremony on chain."""

    view: CeremonyView
    facts: Facts = field(default_factory=Facts)

    @property
    def shape(self) -> Any:
        """What ``phase_at`` wants."""
        view = self.view
        return Shape(len(view.dealers), view.quorum, view.threshold, view.receivers)

    def phase(self, number: int) -> Phase:
        """The phase after a block."""
        return phase_at(self.shape, self.view.deadlines, self.facts, number)


def refuse(why: str) -> ChainError:
    """What a call that the contract reverts raises."""
    error = REVERT(expected="a call that the contract takes", found=why)
    assert isinstance(error, ChainError)
    return error


@dataclass
class Contract:
    """Everything that the contract holds. ``genesis``: the genesis id."""

    genesis: bytes
    rules: RulesRecord = RULES
    candidates: dict[bytes, CandidateRecord] = field(default_factory=dict)
    used: dict[bytes, int] = field(default_factory=dict)
    ceremonies: list[Opened] = field(default_factory=list)
    terms: dict[int, TermRecord] = field(default_factory=dict)
    epochs: dict[int, EpochRecord] = field(default_factory=dict)
    handovers: dict[int, tuple[bytes, ...]] = field(default_factory=dict)
    seats: SeatsRecord = NO_SEATS
    call_data: dict[tuple[bytes, int], bytes] = field(default_factory=dict)
    nominated: tuple[bytes, ...] = ()
    elected_at: int = 0
    elections: set[int] = field(default_factory=set)
    admitted: dict[bytes, int] = field(default_factory=dict)
    absent: list[tuple[bytes, bytes]] = field(default_factory=list)

    @property
    def newest(self) -> Opened | None:
        """The ceremony that was opened last."""
        return self.ceremonies[-1] if self.ceremonies else None

    # --- opening ---

    def open(
        self, kind: Kind, receivers: Sequence[bytes], threshold: int, number: int, *, epoch: int = 0
    ) -> CeremonyView:
        """Open a ceremony in block ``number``. ``epoch``: the older master epoch to carry into the term in office."""
        if self.newest is not None and self.newest.view.ending is Ending.OPEN:
            raise refuse("CeremonyOpen")
        count, seats = len(self.ceremonies) + 1, self.seats
        reshare = kind is Kind.RESHARE
        base = self.genesis if kind is Kind.FOUND else seats.network_id
        term = 1 if kind is Kind.FOUND else seats.term + (reshare and not epoch)
        epoch = epoch or (1 if kind is Kind.FOUND else seats.master_epoch + (kind is Kind.ROTATE))
        deals = self.terms[self.epochs[epoch].term] if reshare else None
        identity = ceremony_id(base, CONTRACT, kind, term, epoch, count)
        keys = tuple(self._use_key(identity, member, count) for member in receivers)
        view = CeremonyView(
            number=count,
            id=identity,
            kind=kind,
            base=base,
            term=term,
            master_epoch=epoch,
            threshold=threshold,
            quorum=deals.threshold if deals else threshold,
            dealers=deals.members if deals else tuple(receivers),
            receivers=tuple(receivers),
            keys=keys,
            dealer_term=deals.term if deals else 0,
            old_mpk=self.epochs[epoch].mpk if reshare else bytes(96),
            old_transcript=self.epochs[epoch].transcript if reshare else bytes(32),
            opened_at=number,
            deadlines=Deadlines.after(number, self.rules.ceremony_blocks),
            ending=Ending.OPEN,
            ended_at=0,
        )
        self.ceremonies.append(Opened(view))
        return view

    def _use_key(self, identity: bytes, member: bytes, count: int) -> bytes:
        key = self.candidates[member].dkg_key
        if self.used.get(key):
            return keyless(identity, member)
        self.used[key] = count
        return key

    # --- transactions ---

    def call(self, sender: bytes, number: int, function: str, *args: Any) -> None:
        """A transaction in block ``number``. Raises ChainError (test.revert)."""
        method = getattr(self, f"do_{function}", None)
        if method is None:
            raise TypeError(function)
        method(sender, number, *args)

    def do_setCandidate(self, sender: bytes, number: int, *args: Any) -> None:
        operator, vendor, key, evidence, endpoint = args
        if sender in self.seats.members or self._receiving(sender):
            raise refuse("FrozenCandidate")
        self._fresh_key(sender, key)
        self.admitted.pop(sender, None)
        self.candidates[sender] = CandidateRecord(sender, operator, vendor, key, evidence, endpoint)

    def do_setKey(self, sender: bytes, number: int, key: bytes, evidence: bytes) -> None:
        if self._receiving(sender):
            raise refuse("FrozenCandidate")
        self._fresh_key(sender, key)
        self.admitted.pop(sender, None)
        self.candidates[sender] = replace(self.candidates[sender], dkg_key=key, evidence_hash=evidence)

    def do_admit(self, sender: bytes, number: int, fields: tuple[Any, ...], signatures: Sequence[bytes]) -> None:
        said = CandidateAdmission(*fields)
        record = self.candidates.get(said.member)
        if record is None or said != admission_of(record, said.term, said.expiry) or self.used.get(said.dkg_key):
            raise refuse("NotAsDescribed")
        if not self.admitted.get(said.member, 0) < said.expiry <= number + ADMISSION_BLOCKS:
            raise refuse("BadExpiry")
        signers = {recover(said.digest(self.seats.network_id), s) for s in signatures}
        if said.term != self.seats.term or len(signers & set(self.seats.members)) < self.seats.threshold:
            raise refuse("TooFewSigners")
        self.admitted[said.member] = said.expiry

    def do_commitDealing(self, sender: bytes, number: int, identity: bytes, digest: bytes) -> None:
        one = self._in(identity, number, Phase.COMMIT)
        dealer = self._dealer(one, sender)
        if dealer in one.facts.committed:
            raise refuse("AlreadyCommitted")
        one.facts = replace(one.facts, committed={**one.facts.committed, dealer: digest})

    def do_complain(self, sender: bytes, number: int, identity: bytes, dealer: int, fault: int) -> None:
        one = self._in(identity, number, Phase.SHOW, Phase.OBJECT)
        me, facts = self._receiver(one, sender), one.facts
        said = facts.complaints.get((dealer, me))
        if one.phase(number - 1) is Phase.OBJECT:
            fits = fault == 2 and said is Fault.NOT_SHOWN and dealer in facts.published and me not in facts.settled
        else:
            fits = dealer in facts.committed and me not in facts.content and (said is None or said < fault)
        if not fits:
            raise refuse("NotAccused")
        one.facts = replace(facts, complaints={**facts.complaints, (dealer, me): Fault(fault)})

    def do_content(self, sender: bytes, number: int, identity: bytes, word: int) -> None:
        one = self._in(identity, number, Phase.SHOW if word == 1 else Phase.OBJECT)
        me, facts = self._receiver(one, sender), one.facts
        if word == 1:
            if me in facts.content:
                raise refuse("AlreadySaid")
            one.facts = replace(facts, content=facts.content | {me})
        elif me not in late_viewers(facts):
            raise refuse("NotAccused")
        else:
            one.facts = replace(facts, settled=facts.settled | {me})

    def do_publish(self, sender: bytes, number: int, identity: bytes, frame: bytes) -> None:
        one = self._in(identity, number, Phase.PUBLISH)
        dealer = self._dealer(one, sender)
        if not one.facts.of_dealer(dealer) or hashlib.sha256(frame).digest() != one.facts.committed[dealer]:
            raise refuse("NotTheDealing")
        self.call_data[identity, dealer] = frame
        one.facts = replace(one.facts, published=one.facts.published | {dealer})

    def do_openShare(self, sender: bytes, number: int, identity: bytes, receiver: int, value: bytes) -> None:
        one = self._in(identity, number, Phase.ANSWER)
        pair = (self._dealer(one, sender), receiver)
        if one.facts.complaints.get(pair) is not Fault.BAD_SHARE or pair in one.facts.opened:
            raise refuse("NotAccused")
        one.facts = replace(one.facts, opened={**one.facts.opened, pair: value})

    def do_confirm(
        self, sender: bytes, number: int, identity: bytes, mpk: bytes, transcript: bytes, qualified: int
    ) -> None:
        one = self._in(identity, number, Phase.CONFIRM)
        me, facts = self._receiver(one, sender), one.facts
        if me in facts.confirmed:
            raise refuse("AlreadySaid")
        if one.view.kind is Kind.RESHARE and mpk != one.view.old_mpk:
            raise refuse("BadKey")
        said = Confirmation(mpk, transcript, qualified)
        one.facts = replace(facts, confirmed={**facts.confirmed, me: said})
        if one.phase(number - 1) is Phase.DONE:
            self._finish(one, number)

    def do_close(self, sender: bytes, number: int, identity: bytes) -> None:
        one = self._open(identity)
        phase = one.phase(number - 1)
        if phase is Phase.DONE:
            self._finish(one, number)
        elif phase is Phase.FAILED:
            one.view = replace(one.view, ending=Ending.FAILED, ended_at=number)
        else:
            raise refuse("WrongPhase")

    def do_nominate(self, sender: bytes, number: int) -> None:
        if number < self.elected_at + self.rules.term_blocks:
            raise refuse("TooEarly")
        self.elections.add(len(self.ceremonies) + 1)
        new = set(self.nominated) - set(self.seats.members)
        admitted = all(self.admitted.get(one, 0) > number and not self.used.get(self._key_of(one)) for one in new)
        chosen = self.nominated if self.nominated and admitted else self.seats.members
        self.open(Kind.RESHARE, chosen, self.seats.threshold, number)

    def do_refresh(self, sender: bytes, number: int) -> None:
        if number < self.terms[self.seats.term].height + self.rules.refresh_blocks:
            raise refuse("TooEarly")
        self.open(Kind.RESHARE, self.seats.members, self.seats.threshold, number)

    def do_rotate(self, sender: bytes, number: int) -> None:
        if number < self.epochs[self.seats.master_epoch].confirmed_at + self.rules.rotation_blocks:
            raise refuse("TooEarly")
        self.open(Kind.ROTATE, self.seats.members, self.seats.threshold, number)

    def require_signed(self, statement: Statement, signatures: Sequence[bytes]) -> None:
        """The steps of Office._requireSignedBy."""
        term = self.terms[self.seats.term]
        if getattr(statement, "term", 0) != self.seats.term:
            raise refuse("WrongTerm")
        signers = {recover(statement.digest(self.seats.network_id), s) for s in signatures}
        if not signers <= set(term.members) or len(signatures) > len(term.members):
            raise refuse("NotAMember")
        voters = {member for seat, member in enumerate(term.members, 1) if seat not in term.revoked}
        if len(signers & voters) < term.threshold:
            raise refuse("TooFewSigners")

    def do_rotateByCommittee(
        self, sender: bytes, number: int, said: tuple[int, int], signatures: Sequence[bytes]
    ) -> None:
        self.require_signed(MasterRotation(*said), signatures)
        if said[1] != self.seats.master_epoch or any(e.state is EpochState.PAUSED for e in self.epochs.values()):
            raise refuse("WrongEpoch")
        self.open(Kind.ROTATE, self.seats.members, self.seats.threshold, number)

    def do_revokeByCommittee(
        self, sender: bytes, number: int, said: tuple[int, bytes], signatures: Sequence[bytes]
    ) -> None:
        self.require_signed(SeatRevocation(*said), signatures)
        term = self.terms[self.seats.term]
        seat = term.members.index(said[1]) + 1
        if seat in term.revoked:
            raise refuse("RevokedSeat")
        self.terms[self.seats.term] = replace(term, revoked=term.revoked | {seat})

    def do_revokeConflicting(self, sender: bytes, number: int, a: tuple[Any, ...], first: bytes, b: tuple[Any, ...],
                             second: bytes) -> None:  # fmt: skip
        try:
            member = Conflict(Checkpoint(*a), first, Checkpoint(*b), second).verify(self.seats.network_id)
        except CloisterError:
            raise refuse("NoConflict") from None
        term = self.terms[a[0]]
        if member not in term.members:
            raise refuse("NotAMember")
        seat = term.members.index(member) + 1
        if seat in term.revoked:
            raise refuse("RevokedSeat")
        self.terms[a[0]] = replace(term, revoked=term.revoked | {seat})

    def do_refuseReceiver(
        self, sender: bytes, number: int, said: tuple[int, bytes, bytes], signatures: Sequence[bytes]
    ) -> None:
        one = self._open(said[1])
        if said[2] not in one.view.receivers:
            raise refuse("NotAMember")
        if one.phase(number - 1) is not Phase.COMMIT and len(one.facts.committed) >= one.view.quorum:
            raise refuse("WrongPhase")
        self.require_signed(ReceiverRefusal(*said), signatures)
        self.admitted.pop(said[2], None)
        self.absent.append((said[1], said[2]))
        self.cancel(number)

    def do_destroyEpoch(self, sender: bytes, number: int, said: tuple[int, int], signatures: Sequence[bytes]) -> None:
        self.require_signed(EpochDestruction(*said), signatures)
        epoch = self.epochs[said[1]]
        if epoch.state is not EpochState.PAUSED or self.epochs[self.seats.master_epoch].state is not EpochState.RESUMED:
            raise refuse("WrongEpoch")
        self.epochs[said[1]] = replace(epoch, state=EpochState.DESTROYED, destroyed_at=number)

    def do_resume(self, sender: bytes, number: int, said: tuple[int, bytes, int], signatures: list[bytes]) -> None:
        statement, epoch = MasterResume(*said), self.epochs[said[2]]
        signers = {recover(statement.digest(self.seats.network_id), s) for s in signatures}
        made = self.ceremonies[epoch.ceremony - 1].view.id
        if said != (self.seats.term, made, self.seats.master_epoch) or epoch.state is not EpochState.PAUSED:
            raise refuse("WrongEpoch")
        if len(signers & set(self.seats.members)) < self.seats.threshold:
            raise refuse("TooFewSigners")
        self.epochs[said[2]] = replace(epoch, state=EpochState.RESUMED, resumed_at=number)
        before = self.epochs[said[2] - 1]
        self.epochs[said[2] - 1] = replace(before, state=EpochState.PAUSED)

    def do_carry(self, sender: bytes, number: int, epoch: int) -> None:
        if self.epochs[epoch].term + 1 != self.seats.term:
            raise refuse("WrongEpoch")
        self.open(Kind.RESHARE, self.seats.members, self.seats.threshold, number, epoch=epoch)

    def do_handOver(self, sender: bytes, number: int, term: int, signatures: list[bytes]) -> None:
        old, new = self.terms[term], self.terms[term + 1]
        said = Handover(
            term, term + 1, new.threshold, members_hash(new.members), new.master_epoch, new.mpk_hash, new.height,
            new.timestamp,
        )  # fmt: skip
        signers = {recover(said.digest(self.seats.network_id), s) for s in signatures}
        if term in self.handovers or len(signatures) != old.threshold or not signers <= set(old.members):
            raise refuse("TooFewSigners")
        if len(signers) != old.threshold:
            raise refuse("TooFewSigners")
        self.handovers[term] = tuple(signatures)

    # --- inside ---

    def _fresh_key(self, sender: bytes, key: bytes) -> None:
        """G2: a key that anybody registered before is refused."""
        own = self.candidates.get(sender)
        if own is not None and own.dkg_key == key:
            return
        if key in self.used:
            raise refuse("UsedKey")
        self.used[key] = 0

    def _key_of(self, member: bytes) -> bytes:
        return self.candidates[member].dkg_key

    def _receiving(self, sender: bytes) -> bool:
        one = self.newest
        return one is not None and one.view.ending is Ending.OPEN and sender in one.view.receivers

    def _open(self, identity: bytes) -> Opened:
        one = self.newest
        if one is None or one.view.id != identity or one.view.ending is not Ending.OPEN:
            raise refuse("WrongCeremony")
        return one

    def _in(self, identity: bytes, number: int, *phases: Phase) -> Opened:
        one = self._open(identity)
        if one.phase(number - 1) not in phases:
            raise refuse(f"WrongPhase({one.phase(number - 1).value})")
        return one

    def _dealer(self, one: Opened, sender: bytes) -> int:
        if not one.view.dealer_index(sender):
            raise refuse("NotAMember")
        return one.view.dealer_index(sender)

    def _receiver(self, one: Opened, sender: bytes) -> int:
        if not one.view.receiver_index(sender):
            raise refuse("NotAMember")
        return one.view.receiver_index(sender)

    def cancel(self, number: int) -> None:
        """What the DAO may do before DONE."""
        one = self.newest
        assert one is not None
        one.facts = replace(one.facts, cancelled=True)
        one.view = replace(one.view, ending=Ending.CANCELLED, ended_at=number)

    def _finish(self, one: Opened, number: int) -> None:
        agreed = agreed_value(one.shape, one.facts)
        assert agreed is not None
        view = one.view = replace(one.view, ending=Ending.DONE, ended_at=number)
        network = network_id(self.genesis, agreed.transcript) if view.kind is Kind.FOUND else self.seats.network_id
        state = EpochState.PAUSED if view.kind is Kind.ROTATE else EpochState.RELEASED
        before = self.epochs.get(view.master_epoch)
        self.epochs[view.master_epoch] = EpochRecord(
            epoch=view.master_epoch,
            state=state if before is None else before.state,
            ceremony=view.number,
            term=view.term,
            confirmed_at=number,
            resumed_at=0,
            destroyed_at=0,
            transcript=agreed.transcript,
            mpk=agreed.mpk,
        )
        if view.master_epoch < self.seats.master_epoch:
            return
        self.seats = SeatsRecord(
            view.term,
            view.master_epoch,
            view.threshold,
            view.receivers,
            network,
            agreed.transcript,
            agreed.mpk,
            hashlib.sha256(b"term seed" + bytes([view.term])).digest(),
        )
        if view.kind is Kind.FOUND or view.number in self.elections:
            self.elected_at = number
        if view.kind is not Kind.ROTATE:
            self.terms[view.term] = TermRecord(
                term=view.term,
                ceremony=view.number,
                height=number,
                timestamp=1_700_000_000 + number,
                master_epoch=view.master_epoch,
                threshold=view.threshold,
                mpk_hash=keccak256(agreed.mpk),
                revoked=frozenset(),
                members=view.receivers,
            )
