"""Proven state of the committee's seats: what members said of themselves, and the vendors behind them.

Apart from ``proven``, so that a worker's image need not hold it.
"""

from __future__ import annotations

from cloister.chain.proven import ProvenState
from cloister.core.chainview.founding import CandidateRecord, read_candidates
from cloister.core.policy.committee import CommitteeRules, require_diverse


class SeatedState(ProvenState):
    """``ProvenState`` with the candidates of the Gatekeepers contract."""

    async def candidates(self, members: tuple[bytes, ...]) -> tuple[CandidateRecord | None, ...]:
        """What gatekeepers said of themselves, frozen once they are seated; None where one said nothing."""
        return await self._read("Gatekeepers", lambda s, at: read_candidates(s, at, members))

    async def require_diverse(self, rules: CommitteeRules) -> None:
        """Raise PolicyError (policy.committee_vendors) unless the committee in office rests on enough vendors.

        The founding members checked each other's vendor classes against evidence before they dealt."""
        committee = await self.committee()
        seated = await self.candidates(committee.members)
        classes = [bytes(32) if one is None else one.vendor_class for one in seated]
        require_diverse(classes, committee.threshold, rules)
