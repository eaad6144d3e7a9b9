"""What anybody may start, a member starts when it is due: elections, refreshes, rotations, records (E2, R6, M1, H1).

Members go one after the other, by seat: the first one usually does it, and who is away stops nobody.
"""

from __future__ import annotations

from cloister.core.chainview.ceremonies import Ending, TermRecord
from cloister.core.chainview.founding import SeatsRecord
from cloister.core.chainview.header import Header
from cloister.core.chainview.seats import RulesRecord
from cloister.gatekeeper.deeds import Call, Deeds
from cloister.gatekeeper.handovers import Handovers
from cloister.gatekeeper.ports import Snapshot
from cloister.node.identity import NodeKeys

PATIENCE = 3


class Triggers:
    """Starts what is due."""

    def __init__(self, deeds: Deeds, handovers: Handovers, keys: NodeKeys) -> None:
        self._deeds, self._handovers, self._keys = deeds, handovers, keys

    async def step(self, at: Snapshot, head: Header, seats: SeatsRecord) -> None:
        """Send what is due at a final block, if it is our turn. Raises CloisterError."""
        if self._keys.address not in seats.members:
            return
        turn = PATIENCE * seats.members.index(self._keys.address)
        term, rules = await at.term_record(seats.term), await at.rules()
        await self._record(at, head, seats, term.height + turn)
        newest = await at.open_ceremony()
        if newest is not None and newest.ending is Ending.OPEN:
            return
        for call, since in due(term, rules, 0 if newest is None else newest.ended_at):
            if head.number >= since + turn:
                await self._deeds.once(call, head)
                return

    async def _record(self, at: Snapshot, head: Header, seats: SeatsRecord, since: int) -> None:
        """Put the hand-over into the contract, with exactly t signatures."""
        old = seats.term - 1
        if not old or head.number < since or await at.handover_signatures(old):
            return
        known, threshold = self._handovers.get(old), (await at.term_record(old)).threshold
        if known is not None and len(known.signatures) >= threshold:
            await self._deeds.once(("handOver", (old, tuple(known.signatures[:threshold]))), head)


def due(term: TermRecord, rules: RulesRecord, ended_at: int) -> list[tuple[Call, int]]:
    """What may be started in a term, each with the block from which on. ``ended_at``: of the last ceremony.

    An election when the term has run, or since a seat was revoked; a refresh in between. Between two ceremonies there
    is a pause of one window: members register their next keys.
    """
    pause = ended_at + rules.ceremony_blocks
    election = term.height if term.revoked else term.height + rules.term_blocks
    calls: list[tuple[Call, int]] = [(("nominate", ()), election)]
    if not term.revoked:
        calls.append((("refresh", ()), term.height + rules.refresh_blocks))
    return sorted([(call, max(since, pause)) for call, since in calls], key=lambda one: one[1])
