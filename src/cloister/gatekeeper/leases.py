"""Leases of removed workers, as members show them to each other (spec/gatekeepers.md S7).

A lease that one member shows proves nothing: it could have signed it a moment ago. Of t members of a term at least one
is honest, so what t of them show was leased.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cloister.core.chainview.ceremonies import TermRecord
from cloister.core.encoding.signatures import verify_signer
from cloister.core.encoding.statements import Lease
from cloister.core.errors import CloisterError


@dataclass(frozen=True, slots=True)
class ShownLeases:
    """What ``member`` (address) showed, each lease with the signature of its own; ``network``: 32-byte id."""

    network: bytes
    member: bytes
    leases: tuple[tuple[Lease, bytes], ...]


def pairs_of(
    shown: Sequence[ShownLeases], worker: bytes, terms: Mapping[int, TermRecord]
) -> frozenset[tuple[bytes, int]]:
    """(agent, agent epoch) of leases to ``worker`` that t members of one term show. ``terms``: those that count.

    1. the lease is of this worker and of a term that counts; 2. who shows it sat in that term, in a seat that was not
    revoked; 3. its signature; 4. each member counts once for each agent, epoch and term."""
    seen: dict[tuple[int, bytes, int], set[bytes]] = {}
    for one in shown:
        for lease, signature in one.leases:
            record = terms.get(lease.term)
            if lease.worker != worker or record is None:  # 1
                continue
            if one.member not in record.members or record.members.index(one.member) + 1 in record.revoked:  # 2
                continue
            signers = seen.setdefault((lease.term, lease.agent, lease.agent_epoch), set())
            if one.member not in signers and _signed(one, lease, signature):  # 3
                signers.add(one.member)  # 4
    enough = (key for key, signers in seen.items() if len(signers) >= terms[key[0]].threshold)
    return frozenset((agent, epoch) for _, agent, epoch in enough)


def _signed(one: ShownLeases, lease: Lease, signature: bytes) -> bool:
    try:
        verify_signer(lease.digest(one.network), signature, one.member)
    except CloisterError:
        return False
    return True
