"""Proven state of ceremonies, terms and master epochs: what gatekeepers drive their part in a ceremony by.

Apart from ``seats``, so that who only reads vendors need not hold the mathematics of sharing.
"""

from __future__ import annotations

from cloister.chain.seats import SeatedState
from cloister.core.chainview import ceremonies as view
from cloister.core.chainview.founding import read_admitted_until
from cloister.core.chainview.seats import RulesRecord, read_rules
from cloister.core.threshold.facts import Facts


class CeremonyState(SeatedState):
    """``SeatedState`` with ceremonies. Methods raise ChainError (no answer) and ChainViewError (a lie, or no such)."""

    async def open_ceremony(self) -> view.CeremonyView | None:
        """The ceremony that was opened last, ended or not; None before the first."""
        return await self._read("Gatekeepers", view.read_open_ceremony)

    async def ceremony_at(self, number: int) -> view.CeremonyView:
        """The ceremony with this number, from 1."""
        return await self._read("Gatekeepers", lambda s, at: view.read_ceremony_at(s, at, number))

    async def facts(self, ceremony: view.CeremonyView) -> Facts:
        """What the contract keeps of a ceremony at this checkpoint."""
        return await self._read("Gatekeepers", lambda s, at: view.read_facts(s, at, ceremony))

    async def term_record(self, term: int) -> view.TermRecord:
        """A term that is or was in office."""
        return await self._read("Gatekeepers", lambda s, at: view.read_term(s, at, term))

    async def handover_signatures(self, term: int) -> tuple[bytes, ...]:
        """The stored signatures of a term's hand-over; empty before."""
        return await self._read("Gatekeepers", lambda s, at: view.read_handover(s, at, term))

    async def admitted_until(self, member: bytes) -> int:
        """The block below which elections consider a candidate; 0 if t members did not admit it."""
        return await self._read("Gatekeepers", lambda s, at: read_admitted_until(s, at, member))

    async def rules(self) -> RulesRecord:
        """The contract's parameters."""
        return await self._read("Gatekeepers", read_rules)
