"""What anybody may start, a member starts when it is due: elections, refreshes, rotations, records (E2, R6, M1, H1).

Members go one after the other, by seat: the first one usually does it, and who is away stops nobody.
"""

from __future__ import annotations

from collections.abc import Mapping

from cloister.core.chainview.ceremonies import Ending, EpochRecord, EpochState, TermRecord
from cloister.core.chainview.founding import SeatsRecord
from cloister.core.chainview.header import Header
from cloister.core.chainview.seats import RulesRecord
from cloister.gatekeeper.deeds import Call, Deeds
from cloister.gatekeeper.handovers import Handovers
from cloister.gatekeeper.ports import Snapshot
from cloister.node.identity import NodeKeys

PATIENCE = 3
GONE = (EpochState.NONE, EpochState.DESTROYED)


class Triggers:
    """Starts what is due."""

    def __init__(self, deeds: Deeds, handovers: Handovers, keys: NodeKeys) -> None:
        self._deeds, self._handovers, self._keys = deeds, handovers, keys

    async def step(self, at: Snapshot, head: Header, seats: SeatsRecord) -> None:
        """Send what is due at a final block, if it is our turn. Raises CloisterError."""
        if self._keys.address not in seats.members:
            return
        turn = PATIENCE * seats.members.index(self._keys.address)
        term, newest = await at.term_record(seats.term), await at.open_ceremony()
        epochs = {e: await at.epoch_record(e) for e in range(max(1, seats.master_epoch - 1), seats.master_epoch + 1)}
        await self._record(at, head, seats, term.height + turn)
        if newest is not None and newest.ending is Ending.OPEN:
            return
        ended = 0 if newest is None else newest.ended_at
        for call, since in due(term, epochs, await at.rules(), await at.elected_at(), ended):
            if head.number >= since + turn and await self._deeds.once(call, head):
                return

    async def _record(self, at: Snapshot, head: Header, seats: SeatsRecord, since: int) -> None:
        """Put the hand-over into the contract, with exactly t signatures."""
        old = seats.term - 1
        if not old or head.number < since or await at.handover_signatures(old):
            return
        known, threshold = self._handovers.get(old), (await at.term_record(old)).threshold
        if known is not None and len(known.signatures) >= threshold:
            await self._deeds.once(("handOver", (old, tuple(known.signatures[:threshold]))), head)


def due(
    term: TermRecord, epochs: Mapping[int, EpochRecord], rules: RulesRecord, elected_at: int, ended_at: int
) -> list[tuple[Call, int]]:
    """What may be started, each with the block from which on. ``elected_at``: block of the last election; ``ended_at``:
    of the last ceremony.

    While two master epochs live, the older one's shares follow a new term first (``carry``). Then: an election when the
    term has run, or since a seat was revoked; a refresh in between; a rotation where one epoch lives. Between two
    ceremonies there is a pause of one window: members register their next keys.
    """
    pause, newest = ended_at + rules.ceremony_blocks, max(epochs)
    older = [epoch for epoch, record in epochs.items() if epoch != newest and record.state not in GONE]
    behind = [epoch for epoch in older if epochs[epoch].term < term.term]
    if behind:
        return [(("carry", (behind[0],)), pause)]
    calls: list[tuple[Call, int]] = [
        (("nominate", ()), term.height if term.revoked else elected_at + rules.term_blocks)
    ]
    if not term.revoked:
        calls.append((("refresh", ()), term.height + rules.refresh_blocks))
        if not older:
            calls.append((("rotate", ()), epochs[newest].confirmed_at + rules.rotation_blocks))
    return sorted([(call, max(since, pause)) for call, since in calls], key=lambda one: one[1])
