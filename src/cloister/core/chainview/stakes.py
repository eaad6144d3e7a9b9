"""What stands behind a worker, by proof: its stake, and the caps that the DAO set (spec/policy.md 4, 5)."""

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
    """operator: whose it is (20 bytes, zero for none). amount: wei that back agents; not what is leaving.

    Of the last raise: raised_at, its block; before_block and before_term, the wei that stood before that block, and
    before the first raise of the term in office then, less where some left since."""

    operator: bytes
    amount: int
    before_term: int = 0
    before_block: int = 0
    raised_at: int = 0

    def counted(self, term: int, start: int) -> int:
        """Wei that placement counts in a term that began in block ``start`` (spec/policy.md 4).

        1. in the first term all of it; 2. also what was raised before the term's block; 3. of what came in that block
        nothing, the seed was known in it; 4. of what came since nothing either."""
        if term <= 1 or self.raised_at < start:  # 1, 2
            return self.amount
        kept = self.before_block if self.raised_at == start else self.before_term  # 3, 4
        return min(kept, self.amount)


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
    return tuple(_record(at) for at in found)


def _record(at: Struct) -> StakeRecord:
    before = at.number("beforeTerm"), at.number("beforeBlock")
    return StakeRecord(at.address("operator"), at.number("amount"), *before, at.number("raisedAt"))
