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
    """The founding ceremony."""
    place = layout.variable("_ceremony")
    at = Struct(layout, place.type, slots, [place.slot])
    return CeremonyRecord(at.word("id"), at.word("genesisId"))


def read_seats(slots: Slots, layout: Layout) -> SeatsRecord:
    """The committee, in office or not. No members before the ceremony opens."""
    place = layout.variable("_committee")
    at = Struct(layout, place.type, slots, [place.slot])
    count = at.number("members")
    if count > MAX_MEMBERS:
        raise BAD_RECORD(expected=f"at most {MAX_MEMBERS} members", found=str(count))
    head = add(place.slot, layout.fields(place.type)["members"].slot)
    members = slots.get([add(data_slot(head), i) for i in range(count)])
    return SeatsRecord(
        term=at.number("term"),
        master_epoch=at.number("masterEpoch"),
        threshold=at.number("threshold"),
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


def read_dealings(slots: Slots, layout: Layout, ceremony: bytes, members: Sequence[bytes]) -> tuple[bytes, ...]:
    """Digest of each member's dealing; 32 zero bytes where none was committed."""
    inner = mapping_slot(layout.variable("_dealings").slot, need_bytes("ceremony", ceremony, 32))
    words = slots.get([mapping_slot(inner, address_key(member)) for member in members])
    return tuple(word.to_bytes(32, "big") for word in words)


def read_confirmed(slots: Slots, layout: Layout, ceremony: bytes, member: bytes) -> bool:
    """Whether a member confirmed the ceremony's result."""
    inner = mapping_slot(layout.variable("_confirmed").slot, need_bytes("ceremony", ceremony, 32))
    return slots.get([mapping_slot(inner, address_key(member))])[0] & 0xFF == 1


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
