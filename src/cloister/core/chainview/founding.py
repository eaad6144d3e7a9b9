"""The founding ceremony as the Gatekeepers contract tells it, before and after a committee is in office.

Same reading as ``records.py``: words of proven storage slots become typed records, or ChainViewError.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cloister.core.chainview.layout import Layout, add, address_key, data_slot, mapping_slot
from cloister.core.chainview.words import BAD_RECORD, Slots, Struct, address_of_word, texts_of
from cloister.core.encoding.hexes import need_bytes
from cloister.core.encoding.signatures import MAX_MEMBERS


@dataclass(frozen=True, slots=True)
class CeremonyRecord:
    """The ceremony that was opened: its id and the genesis id it is for. Zero before."""

    id: bytes
    genesis_id: bytes


@dataclass(frozen=True, slots=True)
class CandidateRecord:
    """What a gatekeeper says of itself. Its evidence decides what of it counts."""

    member: bytes
    operator: bytes
    vendor_class: bytes
    dkg_key: bytes
    evidence_hash: bytes
    endpoint: str


@dataclass(frozen=True, slots=True)
class SeatsRecord:
    """The chosen committee. ``term`` is 0 while it deals; mpk (96 bytes) and the hashes are zero until then."""

    term: int
    master_epoch: int
    threshold: int
    members: tuple[bytes, ...]
    network_id: bytes
    transcript: bytes
    mpk: bytes
    term_seed: bytes


def read_ceremony(slots: Slots, layout: Layout) -> CeremonyRecord:
    """The ceremony that was opened last."""
    number = _count(slots, layout)
    if not number:
        return CeremonyRecord(bytes(32), bytes(32))
    at = _last(slots, layout, number)[1]
    return CeremonyRecord(at.word("id"), at.word("base"))


def read_seats(slots: Slots, layout: Layout) -> SeatsRecord:
    """The committee in office; before there is one, who is to be it. No members before a ceremony opens."""
    place = layout.variable("_committee")
    at = Struct(layout, place.type, slots, [place.slot])
    head = add(place.slot, layout.fields(place.type)["members"].slot)
    threshold, count, number = at.number("threshold"), at.number("members"), 0
    if at.number("term") == 0:
        number = _count(slots, layout)
    if number:
        base, opened = _last(slots, layout, number)
        head = add(base, layout.fields(_kind(layout))["receivers"].slot)
        threshold, count = opened.number("threshold"), opened.number("receivers")
    if count > MAX_MEMBERS:
        raise BAD_RECORD(expected=f"at most {MAX_MEMBERS} members", found=str(count))
    members = slots.get([add(data_slot(head), i) for i in range(count)])
    return SeatsRecord(
        term=at.number("term"),
        master_epoch=at.number("masterEpoch"),
        threshold=threshold,
        members=tuple(address_of_word(word) for word in members),
        network_id=at.word("networkId"),
        transcript=at.word("transcript"),
        mpk=at.words("mpk"),
        term_seed=at.word("termSeed"),
    )


def read_candidates(slots: Slots, layout: Layout, members: Sequence[bytes]) -> tuple[CandidateRecord | None, ...]:
    """What each of these addresses says of itself; None where nothing was said."""
    table = layout.variable("_candidates")
    kind = layout.value_type(table)
    bases = [mapping_slot(table.slot, address_key(member)) for member in members]
    at = Struct(layout, kind, slots, bases)
    heads = []
    for at.index in range(len(members)):
        heads.append(at.number("endpoint"))
    texts = texts_of(slots, [add(base, layout.fields(kind)["endpoint"].slot) for base in bases], heads)
    found = []
    for at.index, member in enumerate(members):
        found.append(_candidate(at, member, texts[at.index]))
    return tuple(found)


def read_admitted_until(slots: Slots, layout: Layout, member: bytes) -> int:
    """The block below which elections consider a candidate; 0 if t members did not admit it (E9)."""
    place = layout.variable("_admittedUntil")
    return slots.get([mapping_slot(place.slot, address_key(member))])[0] & (1 << 64) - 1


def read_dealings(slots: Slots, layout: Layout, ceremony: bytes, members: Sequence[bytes]) -> tuple[bytes, ...]:
    """Digest of each member's dealing in a founding ceremony; 32 zero bytes where none was committed."""
    number, seats = _seats(slots, layout, ceremony, members)
    words = slots.get([_inner(layout, "_digests", number, seat) for seat in seats])
    return tuple(word.to_bytes(32, "big") for word in words)


def read_confirmed(slots: Slots, layout: Layout, ceremony: bytes, member: bytes) -> bool:
    """Whether a member confirmed the ceremony's result."""
    number, (seat,) = _seats(slots, layout, ceremony, [member])
    return slots.get([_inner(layout, "_said", number, seat)])[0] != 0


def read_content(slots: Slots, layout: Layout, member: bytes) -> tuple[bool, bool]:
    """Whether a receiver of the last ceremony has no further complaint in SHOW, and whether all have none."""
    number = _count(slots, layout)
    if not number:
        return False, False
    at = _last(slots, layout, number)[1]
    outer = mapping_slot(layout.variable("_seats").slot, number.to_bytes(32, "big"))
    seat = slots.get([mapping_slot(outer, address_key(member))])[0]
    said, count = at.number("content"), at.number("receivers")
    return 0 < seat <= MAX_MEMBERS and said >> seat - 1 & 1 == 1, said == (1 << count) - 1


def _count(slots: Slots, layout: Layout) -> int:
    place = layout.variable("ceremonyCount")
    return place.of(slots.get([place.slot])[0])


def _kind(layout: Layout) -> str:
    return layout.value_type(layout.variable("_ceremonies"))


def _last(slots: Slots, layout: Layout, number: int) -> tuple[int, Struct]:
    base = mapping_slot(layout.variable("_ceremonies").slot, number.to_bytes(32, "big"))
    return base, Struct(layout, _kind(layout), slots, [base])


def _seats(slots: Slots, layout: Layout, ceremony: bytes, members: Sequence[bytes]) -> tuple[int, list[int]]:
    """A ceremony's number, and where members stand among its receivers; zeros for strangers."""
    key = need_bytes("ceremony", ceremony, 32)
    place = layout.variable("numberOf")
    number = slots.get([mapping_slot(place.slot, key)])[0]
    outer = mapping_slot(layout.variable("_seats").slot, number.to_bytes(32, "big"))
    return number, list(slots.get([mapping_slot(outer, address_key(member)) for member in members]))


def _inner(layout: Layout, label: str, number: int, seat: int) -> int:
    outer = mapping_slot(layout.variable(label).slot, number.to_bytes(32, "big"))
    return mapping_slot(outer, seat.to_bytes(32, "big"))


def _candidate(at: Struct, member: bytes, endpoint: str) -> CandidateRecord | None:
    if at.number("operator") == 0:
        return None
    return CandidateRecord(
        member=member,
        operator=at.address("operator"),
        vendor_class=at.word("vendorClass"),
        dkg_key=at.word("dkgKey"),
        evidence_hash=at.word("evidenceHash"),
        endpoint=endpoint,
    )
