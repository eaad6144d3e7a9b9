"""``Handover``: the committee of a term names the next one (spec/gatekeepers.md H1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from cloister.core.encoding.hexes import need_bytes
from cloister.core.encoding.keccak import keccak256
from cloister.core.encoding.statements import B32, U64, Statement


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


def members_hash(members: Sequence[bytes]) -> bytes:
    """keccak256(abi.encode(address[])) of the member addresses in order (20 bytes each)."""
    words = [need_bytes("member address", member, 20).rjust(32, b"\0") for member in members]
    return keccak256((32).to_bytes(32, "big"), len(words).to_bytes(32, "big"), *words)
