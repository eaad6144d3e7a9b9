"""What stands behind a worker, by proof: its stake, and the caps that the DAO set (spec/policy.md 5)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cloister.core.chainview.layout import Layout, address_key, mapping_slot
from cloister.core.chainview.words import Slots, Struct


@dataclass(frozen=True, slots=True)
class CapsRecord:
    """stake_per_agent in wei, 0: stake bounds nothing. agents_per_operator: 0: operators are not bounded."""

    stake_per_agent: int
    agents_per_operator: int


@dataclass(frozen=True, slots=True)
class StakeRecord:
    """operator: whose it is (20 bytes, zero for none). amount: wei that back agents; not what is leaving."""

    operator: bytes
    amount: int


def read_caps(slots: Slots, layout: Layout) -> CapsRecord:
    """The caps in force."""
    place = layout.variable("_caps")
    at = Struct(layout, place.type, slots, [place.slot])
    return CapsRecord(at.number("stakePerAgent"), at.number("agentsPerOperator"))


def read_stake(slots: Slots, layout: Layout, worker: bytes) -> StakeRecord:
    """What stands behind a worker."""
    return read_stakes(slots, layout, (worker,))[0]


def read_stakes(slots: Slots, layout: Layout, workers: Sequence[bytes]) -> tuple[StakeRecord, ...]:
    """What stands behind several, in order; their words are read together."""
    table = layout.variable("_stakes")
    bases = [mapping_slot(table.slot, address_key(worker)) for worker in workers]
    kind = layout.value_type(table)
    found = (Struct(layout, kind, slots, bases, i) for i in range(len(bases)))
    return tuple(StakeRecord(at.address("operator"), at.number("amount")) for at in found)
