"""Ceremonies, terms and master epochs as the Gatekeepers contract keeps them (spec/gatekeepers.md G1-G14, H1, M1-M4).

Same reading as ``records.py``: words of proven storage slots become typed records, or ChainViewError. Seats count from
1; sets of seats are bits on chain, bit i - 1 for seat i.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from cloister.core.chainview.epochs import EpochRecord as EpochRecord
from cloister.core.chainview.epochs import EpochState as EpochState
from cloister.core.chainview.epochs import read_epoch as read_epoch
from cloister.core.chainview.layout import Layout, Place, add, address_key, data_slot, mapping_slot
from cloister.core.chainview.words import BAD_RECORD, Slots, Struct, address_of_word
from cloister.core.encoding.hexes import need_bytes, need_uint
from cloister.core.encoding.keccak import keccak256
from cloister.core.encoding.signatures import MAX_MEMBERS
from cloister.core.threshold.dealing import Ceremony, Member
from cloister.core.threshold.facts import Confirmation, Facts, Fault, Pair
from cloister.core.threshold.phases import Deadlines, Kind
from cloister.core.threshold.reshare import Resharing
from cloister.core.threshold.shares import PublicShares

KINDS: Final = {1: Kind.FOUND, 2: Kind.RESHARE, 3: Kind.ROTATE}
MAX_SIGNATURES: Final = MAX_MEMBERS * 65


class Ending(IntEnum):
    """What the contract recorded of a ceremony's end. OPEN: nothing yet, even if its last deadline is over."""

    OPEN = 0
    DONE = 1
    FAILED = 2
    CANCELLED = 3


@dataclass(frozen=True, slots=True)
class CeremonyView:
    """A ceremony as it was opened, and how it ended.

    number: counts from 1. base: the genesis id (``found``) or the network id. term, master_epoch: of the shares that it
    makes. threshold: t of the receivers. quorum: how many dealers it takes (``reshare``: the old t). dealers,
    receivers: addresses (20 bytes) in order of index; keys: the receivers' X25519 keys (32 bytes). dealer_term: the
    term whose committee deals (``reshare``), else 0. old_mpk (96 bytes), old_transcript (32): of the shares that are
    dealt again (``reshare``), else zeros. ended_at: block of the recorded end, 0 before.
    """

    number: int
    id: bytes
    kind: Kind
    base: bytes
    term: int
    master_epoch: int
    threshold: int
    quorum: int
    dealers: tuple[bytes, ...]
    receivers: tuple[bytes, ...]
    keys: tuple[bytes, ...]
    dealer_term: int
    old_mpk: bytes
    old_transcript: bytes
    opened_at: int
    deadlines: Deadlines
    ending: Ending
    ended_at: int

    def members(self) -> tuple[Member, ...]:
        """The receivers in order."""
        pairs = zip(self.receivers, self.keys, strict=True)
        return tuple(Member(i, address, key) for i, (address, key) in enumerate(pairs, 1))

    def ceremony(self, old: PublicShares | None = None) -> Ceremony:
        """What dealers and receivers bind to. ``old``: in a resharing, the public shares of the term that deals.

        Raises ThresholdError for seats that no ceremony can have, TypeError if ``old`` is missing or too much,
        ChainViewError if ``old`` is not what the chain says of that term.
        """
        if (self.kind is Kind.RESHARE) != (old is not None):
            raise TypeError("a resharing, and nothing else, has old shares")
        if old is None:
            return Ceremony(self.id, self.threshold, self.members(), self.term)
        if (old.mpk, old.transcript, old.term) != (self.old_mpk, self.old_transcript, self.dealer_term):
            raise BAD_RECORD(expected=f"the shares of term {self.dealer_term} on chain", found=f"of term {old.term}")
        return Resharing(
            self.id,
            self.threshold,
            self.members(),
            self.term,
            old=old,
            old_threshold=self.quorum,
            old_members=self.dealers,
        )

    def dealer_index(self, address: bytes) -> int:
        """A member's index as a dealer; 0 if it deals nothing."""
        return self.dealers.index(address) + 1 if address in self.dealers else 0

    def receiver_index(self, address: bytes) -> int:
        """A member's index as a receiver; 0 if it gets nothing."""
        return self.receivers.index(address) + 1 if address in self.receivers else 0


@dataclass(frozen=True, slots=True)
class TermRecord:
    """A term that is or was in office: since block ``height`` at ``timestamp`` (Unix seconds of that block).

    mpk_hash: keccak256 of the master key with which it began. revoked: seats (from 1) that count in nothing.
    """

    term: int
    ceremony: int
    height: int
    timestamp: int
    master_epoch: int
    threshold: int
    mpk_hash: bytes
    revoked: frozenset[int]
    members: tuple[bytes, ...]


def ceremony_id(base: bytes, contract: bytes, kind: Kind, term: int, master_epoch: int, number: int) -> bytes:
    """G1: keccak256(abi.encode(base, contract, kind, term, master epoch, number)).

    kind: 1 found, 2 reshare, 3 rotate.
    """
    code = next(code for code, one in KINDS.items() if one is kind)
    words = [need_uint(name, value, 64) for name, value in (("term", term), ("epoch", master_epoch), ("n", number))]
    head = need_bytes("base", base, 32) + address_key(contract)
    return keccak256(head, *(value.to_bytes(32, "big") for value in (code, *words)))


# --- readers ---


def read_ceremony_count(slots: Slots, layout: Layout) -> int:
    """How many ceremonies were ever opened."""
    place = layout.variable("ceremonyCount")
    return place.of(slots.get([place.slot])[0])


def read_open_ceremony(slots: Slots, layout: Layout) -> CeremonyView | None:
    """The ceremony that was opened last; ``ending`` says whether its end is recorded. None before the first."""
    number = read_ceremony_count(slots, layout)
    return read_ceremony_at(slots, layout, number) if number else None


def read_ceremony_at(slots: Slots, layout: Layout, number: int) -> CeremonyView:
    """The ceremony with this number, from 1. Raises ChainViewError if there is none."""
    base, at = _entry(slots, layout, "_ceremonies", _key(number))
    kind = KINDS.get(at.number("kind"))
    if kind is None or at.number("end") > max(Ending):
        raise BAD_RECORD(expected=f"ceremony {number}", found="none of that number")
    fields = layout.fields(layout.value_type(layout.variable("_ceremonies")))
    dealer_term, epoch, size = at.number("dealerTerm"), at.number("masterEpoch"), at.number("receivers")
    if at.number("keys") != size:
        raise BAD_RECORD(expected=f"{size} keys", found=str(at.number("keys")))
    heads = [add(base, fields[name].slot) for name in ("receivers", "keys")]
    parts = [slot for head in heads for slot in _array(head, size)]
    slots.get([*parts, *_struct(layout, "_terms", dealer_term), *_struct(layout, "_epochs", epoch)])  # in one proof
    receivers, keys = _addresses(slots, heads[0], size), _words(slots, heads[1], size)
    dealers = read_term(slots, layout, dealer_term).members if dealer_term else receivers
    opened, window = at.number("openedAt"), at.number("window")
    return CeremonyView(
        number=number,
        id=at.word("id"),
        kind=kind,
        base=at.word("base"),
        term=at.number("term"),
        master_epoch=epoch,
        threshold=at.number("threshold"),
        quorum=at.number("quorum"),
        dealers=dealers,
        receivers=receivers,
        keys=keys,
        dealer_term=dealer_term,
        old_mpk=read_epoch(slots, layout, epoch).mpk if dealer_term else bytes(96),
        old_transcript=at.word("oldTranscript"),
        opened_at=opened,
        deadlines=Deadlines.after(opened, window),
        ending=Ending(at.number("end")),
        ended_at=at.number("endedAt"),
    )


def read_facts(slots: Slots, layout: Layout, view: CeremonyView) -> Facts:
    """Everything that the contract keeps of this ceremony at the block of the proofs. Raises ChainViewError."""
    _, at = _entry(slots, layout, "_ceremonies", _key(view.number))
    committed, published = _seats(at.number("committed")), _seats(at.number("published"))
    accused, confirmed = _seats(at.number("accused")), _seats(at.number("confirmed"))
    wanted = (("_digests", committed), ("_accusations", accused), ("_said", confirmed))
    slots.get([slot for label, keys in wanted for slot in _inner(layout, label, view.number, keys)])  # in one proof
    digests = _mapped(slots, layout, "_digests", view.number, committed)
    complaints, openings = _accusations(slots, layout, view, accused)
    return Facts(
        committed=dict(zip(committed, digests, strict=True)),
        complaints=complaints,
        published=frozenset(published),
        opened=openings,
        content=frozenset(_seats(at.number("content"))),
        settled=frozenset(_seats(at.number("settled"))),
        confirmed=_confirmed(slots, layout, view, confirmed),
        cancelled=at.number("end") == Ending.CANCELLED,
    )


def read_term(slots: Slots, layout: Layout, term: int) -> TermRecord:
    """A term that is or was in office. Raises ChainViewError if it never was."""
    _, at = _entry(slots, layout, "_terms", _key(term))
    number = at.number("ceremony")
    if not number:
        raise BAD_RECORD(expected=f"term {term}", found="a term that was never in office")
    base, ceremony = _entry(slots, layout, "_ceremonies", _key(number))
    fields = layout.fields(layout.value_type(layout.variable("_ceremonies")))
    return TermRecord(
        term=term,
        ceremony=number,
        height=at.number("height"),
        timestamp=at.number("timestamp"),
        master_epoch=at.number("masterEpoch"),
        threshold=at.number("threshold"),
        mpk_hash=at.word("mpkHash"),
        revoked=frozenset(_seats(at.number("revoked"))),
        members=_addresses(slots, add(base, fields["receivers"].slot), ceremony.number("receivers")),
    )


def read_handover(slots: Slots, layout: Layout, term: int) -> tuple[bytes, ...]:
    """The stored signatures (65 bytes each) of term ``term``'s hand-over to the next one; empty before."""
    place = mapping_slot(layout.variable("_handovers").slot, _key(term))
    head = slots.get([place])[0]
    if not head & 1:
        if head:
            raise BAD_RECORD(expected="signatures", found="fewer bytes than one takes")
        return ()
    size = head >> 1
    if size > MAX_SIGNATURES or size % 65:
        raise BAD_RECORD(expected=f"1 to {MAX_MEMBERS} signatures", found=f"{size} bytes")
    words = slots.get([add(data_slot(place), i) for i in range(-(-size // 32))])
    data = b"".join(word.to_bytes(32, "big") for word in words)
    return tuple(data[i : i + 65] for i in range(0, size, 65))


# --- inside ---


def _key(number: int) -> bytes:
    return need_uint("number", number, 64).to_bytes(32, "big")


def _entry(slots: Slots, layout: Layout, label: str, key: bytes) -> tuple[int, Struct]:
    """First slot and fields of a mapping's struct."""
    table: Place = layout.variable(label)
    base = mapping_slot(table.slot, key)
    return base, Struct(layout, layout.value_type(table), slots, [base])


def _struct(layout: Layout, label: str, key: int) -> list[int]:
    table = layout.variable(label)
    base = mapping_slot(table.slot, _key(key))
    return [add(base, i) for i in range(layout.words(layout.value_type(table)))]


def _array(head: int, count: int) -> list[int]:
    if not 1 <= count <= MAX_MEMBERS:
        raise BAD_RECORD(expected=f"1 to {MAX_MEMBERS} seats", found=str(count))
    return [add(data_slot(head), i) for i in range(count)]


def _seats(bits: int) -> list[int]:
    return [i + 1 for i in range(MAX_MEMBERS) if bits >> i & 1]


def _words(slots: Slots, head: int, count: int) -> tuple[bytes, ...]:
    return tuple(word.to_bytes(32, "big") for word in slots.get(_array(head, count)))


def _addresses(slots: Slots, head: int, count: int) -> tuple[bytes, ...]:
    return tuple(address_of_word(int.from_bytes(word, "big")) for word in _words(slots, head, count))


def _inner(layout: Layout, label: str, number: int, keys: Sequence[int]) -> list[int]:
    outer = mapping_slot(layout.variable(label).slot, _key(number))
    return [mapping_slot(outer, key.to_bytes(32, "big")) for key in keys]


def _mapped(slots: Slots, layout: Layout, label: str, number: int, keys: Sequence[int]) -> list[bytes]:
    """The words of a two-level mapping by ceremony number and a small number."""
    return [word.to_bytes(32, "big") for word in slots.get(_inner(layout, label, number, keys))]


def _accusations(
    slots: Slots, layout: Layout, view: CeremonyView, accused: Sequence[int]
) -> tuple[dict[Pair, Fault], dict[Pair, bytes]]:
    """Complaints, and opened shares, by (dealer, receiver)."""
    words = slots.get(_inner(layout, "_accusations", view.number, accused))
    complaints: dict[Pair, Fault] = {}
    pairs: list[Pair] = []
    for dealer, word in zip(accused, words, strict=True):
        by, bad, opened = (word >> shift & (1 << 64) - 1 for shift in (0, 64, 128))
        for receiver in _seats(by):
            complaints[(dealer, receiver)] = Fault.BAD_SHARE if bad >> receiver - 1 & 1 else Fault.NOT_SHOWN
        pairs += [(dealer, receiver) for receiver in _seats(opened)]
    values = _mapped(slots, layout, "_openings", view.number, [dealer << 8 | receiver for dealer, receiver in pairs])
    return complaints, dict(zip(pairs, values, strict=True))


def _confirmed(slots: Slots, layout: Layout, view: CeremonyView, confirmed: Sequence[int]) -> dict[int, Confirmation]:
    said = _mapped(slots, layout, "_said", view.number, confirmed)
    distinct = list(dict.fromkeys(said))
    outer = layout.variable("_values")
    kind = layout.value_type(Place(0, 0, 32, layout.value_type(outer)))
    table = mapping_slot(outer.slot, _key(view.number))
    at = Struct(layout, kind, slots, [mapping_slot(table, value) for value in distinct])
    values = {}
    for at.index, value in enumerate(distinct):
        values[value] = Confirmation(at.words("mpk"), at.word("transcript"), at.number("qualified"))
    return {receiver: values[value] for receiver, value in zip(confirmed, said, strict=True)}
