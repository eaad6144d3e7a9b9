"""What the committee says of itself: hand-overs, who may sit, master epochs (gatekeepers.md H1, E7, E9, G15, M1-M4)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from cloister.core.encoding.hexes import need_bytes
from cloister.core.encoding.keccak import keccak256
from cloister.core.encoding.statements import ADDRESS, B32, U64, Statement


@dataclass(frozen=True, slots=True)
class Handover(Statement):
    """Term ``next_term`` = ``term`` + 1 took office in block ``height`` at ``timestamp`` (Unix seconds of that block).

    members = ``members_hash``; mpk = keccak256 of the 96 bytes; master_epoch: the one that the MPK belongs to.
    Signed by t members of ``term``.
    """

    NAME: ClassVar[str] = "Handover"
    TYPES: ClassVar[dict[str, str]] = {
        "term": U64,
        "next_term": U64,
        "threshold": U64,
        "members": B32,
        "master_epoch": U64,
        "mpk": B32,
        "height": U64,
        "timestamp": U64,
    }
    term: int
    next_term: int
    threshold: int
    members: bytes
    master_epoch: int
    mpk: bytes
    height: int
    timestamp: int


@dataclass(frozen=True, slots=True)
class SeatRevocation(Statement):
    """``member`` is removed for cause: from the block that holds this its signature counts in nothing (E7)."""

    NAME: ClassVar[str] = "SeatRevocation"
    TYPES: ClassVar[dict[str, str]] = {"term": U64, "member": ADDRESS}
    term: int
    member: bytes


@dataclass(frozen=True, slots=True)
class CandidateAdmission(Statement):
    """``member`` showed good evidence lately and is as the contract says: elections below block ``expiry`` may seat it.

    dkg_key: its key for the next ceremony, for which alone this counts. endpoint: keccak256 of its URL (E9)."""

    NAME: ClassVar[str] = "CandidateAdmission"
    TYPES: ClassVar[dict[str, str]] = {
        "term": U64,
        "member": ADDRESS,
        "operator": ADDRESS,
        "vendor_class": B32,
        "dkg_key": B32,
        "endpoint": B32,
        "expiry": U64,
    }
    term: int
    member: bytes
    operator: bytes
    vendor_class: bytes
    dkg_key: bytes
    endpoint: bytes
    expiry: int


@dataclass(frozen=True, slots=True)
class ReceiverRefusal(Statement):
    """``member``, a receiver of ``ceremony`` (its id), showed its signers no good evidence when they were about to
    deal: that ceremony ends, and nobody pays for it but ``member`` (G15)."""

    NAME: ClassVar[str] = "ReceiverRefusal"
    TYPES: ClassVar[dict[str, str]] = {"term": U64, "ceremony": B32, "member": ADDRESS}
    term: int
    ceremony: bytes
    member: bytes


@dataclass(frozen=True, slots=True)
class MasterRotation(Statement):
    """A new master key is wanted; ``master_epoch`` is the one that is to end (M1)."""

    NAME: ClassVar[str] = "MasterRotation"
    TYPES: ClassVar[dict[str, str]] = {"term": U64, "master_epoch": U64}
    term: int
    master_epoch: int


@dataclass(frozen=True, slots=True)
class MasterResume(Statement):
    """The rotation that made ``master_epoch``, ceremony id ``ceremony``, is final: its keys may be used (M2)."""

    NAME: ClassVar[str] = "MasterResume"
    TYPES: ClassVar[dict[str, str]] = {"term": U64, "ceremony": B32, "master_epoch": U64}
    term: int
    ceremony: bytes
    master_epoch: int


@dataclass(frozen=True, slots=True)
class EpochDestruction(Statement):
    """No wallet and no ciphertext needs ``master_epoch`` any more (M4)."""

    NAME: ClassVar[str] = "EpochDestruction"
    TYPES: ClassVar[dict[str, str]] = {"term": U64, "master_epoch": U64}
    term: int
    master_epoch: int


def members_hash(members: Sequence[bytes]) -> bytes:
    """keccak256(abi.encode(address[])) of the member addresses in order (20 bytes each)."""
    words = [need_bytes("member address", member, 20).rjust(32, b"\0") for member in members]
    return keccak256((32).to_bytes(32, "big"), len(words).to_bytes(32, "big"), *words)
