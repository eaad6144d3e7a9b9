"""What a member knows when it decides on a statement: proven words at one final block, its own tables, others' leases.

Only agents that may matter are read: those that proposals name, those of removed workers, and, while an older master
epoch lives, 256 at a time of all.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence

from cloister.core.attestation.policy import Policy
from cloister.core.chainview.ceremonies import Ending, EpochState
from cloister.core.chainview.founding import SeatsRecord
from cloister.core.chainview.header import Header
from cloister.core.encoding.statements import Lease
from cloister.core.policy.committee_statements import (
    LEASE_TERMS,
    MAX_BATCH,
    AgentKnown,
    Known,
    Proposal,
    Scene,
)
from cloister.gatekeeper.consents import Consents
from cloister.gatekeeper.leases import ShownLeases, pairs_of
from cloister.gatekeeper.memory import HeadDesk
from cloister.gatekeeper.ports import Snapshot
from cloister.gatekeeper.store import Store
from cloister.gatekeeper.watch import Watch

GONE = (EpochState.NONE, EpochState.DESTROYED)
Ask = Callable[[bytes], Awaitable[Sequence[ShownLeases]]]


class Knowing:
    """Reads what decisions rest on. ``me``: this member's address (20 bytes). ``refused``: (ceremony, receiver) that we
    stand behind refusing after a block (``Ceremonies.refused``)."""

    def __init__(
        self,
        me: bytes,
        store: Store,
        policy: Policy,
        consents: Consents,
        watch: Watch,
        refused: Callable[[int], frozenset[tuple[bytes, bytes]]],
    ) -> None:
        self._me, self._store, self._policy, self._consents, self._watch = me, store, policy, consents, watch
        self._refused = refused
        self._cursor = 0
        self.removed: frozenset[bytes] = frozenset()

    async def scene(self, at: Snapshot, head: Header, seats: SeatsRecord) -> Scene:
        """The committee at a final block. Raises CloisterError."""
        numbers = [e for e in (seats.master_epoch, seats.master_epoch - 1) if e > 0]
        newest, *before = [await at.epoch_record(e) for e in numbers]
        older = next((one for one in before if one.state not in GONE), None)
        last = await at.open_ceremony()
        made = await at.ceremony_at(newest.ceremony) if newest.epoch > 1 else None
        return Scene(
            number=head.number,
            member=self._me,
            term=await at.term_record(seats.term),
            newest=newest,
            older=older,
            made=made,
            open=last is not None and last.ending is Ending.OPEN,
            rules=await at.rules(),
            period_blocks=self._policy.network.period_blocks,
            remaining=0 if older is None else await at.remaining(older.epoch),
            consents=self._consents.current(),
        )

    async def known(
        self, at: Snapshot, scene: Scene, proposals: Iterable[Proposal], heads: HeadDesk | None, ask: Ask
    ) -> Known:
        """Agents and workers that these proposals name, and those that we could propose. Raises CloisterError."""
        proposals = list(proposals)
        said = {*(proposal.statement for proposal in proposals), *scene.consents}
        named = {worker for one in said if isinstance(worker := getattr(one, "worker", None), bytes)}
        caused = self._watch.caused
        self.removed, workers = await self._workers(at, scene, named | caused)
        leased = {worker: await self._leased(at, scene, worker, ask) for worker in sorted(self.removed)}
        tokens = {token for proposal in proposals for token in proposal.tokens}
        tokens |= set(await self._window(at, scene)) | await self._held(at, leased.values())
        agents, refused = await self._agents(at, sorted(tokens), heads), self._refused(scene.number)
        return Known(agents, self.removed, leased, workers, caused & workers, refused)

    async def _workers(
        self, at: Snapshot, scene: Scene, named: set[bytes]
    ) -> tuple[frozenset[bytes], frozenset[bytes]]:
        """Workers removed for cause, among those that we granted leases to and those that are named; of the named
        those that may still be removed: also one that left, or whose registration ended, for what it held."""
        ours, live = set(self._store.granted_workers(_since(scene))), await at.live_workers()
        gone = sorted((ours | named) - live)
        records = await asyncio.gather(*(at.worker(worker) for worker in gone))
        known = {w: record.removed for w, record in zip(gone, records, strict=True) if record is not None}
        removed = frozenset(worker for worker, out in known.items() if out)
        return removed, frozenset((named & (live | known.keys() | ours | self._watch.caused)) - removed)

    async def _leased(self, at: Snapshot, scene: Scene, worker: bytes, ask: Ask) -> frozenset[tuple[bytes, int]]:
        """Our own leases count, and what others granted while we looked (W6); else what t members of a term show."""
        own = self._store.granted_to(worker, _since(scene))
        found = self._store.witnessed(worker, _since(scene))
        terms = {term: await at.term_record(term) for term in range(_since(scene), scene.term.term + 1)}
        return frozenset(_pair(lease) for lease in own) | found | pairs_of(await ask(worker), worker, terms)

    async def _window(self, at: Snapshot, scene: Scene) -> range:
        """While an older epoch lives: the next 256 of all agents, round and round."""
        if scene.older is None or scene.newest.state is not EpochState.RESUMED:
            return range(0)
        count = await at.agent_count()
        first = self._cursor + 1 if self._cursor < count else 1
        last = min(count, first + MAX_BATCH - 1)
        self._cursor = last
        return range(first, last + 1)

    async def _held(self, at: Snapshot, leased: Iterable[frozenset[tuple[bytes, int]]]) -> set[int]:
        """Token ids of agents that removed workers held at the epoch that they have now."""
        pairs = sorted({pair for one in leased for pair in one})
        facts = await asyncio.gather(*(at.agent(agent) for agent, _ in pairs))
        return {
            f.token_id for f, (_, epoch) in zip(facts, pairs, strict=True) if f is not None and f.agent_epoch == epoch
        }

    async def _agents(self, at: Snapshot, tokens: Sequence[int], heads: HeadDesk | None) -> dict[int, AgentKnown]:
        found: dict[int, AgentKnown] = {}
        for start in range(0, len(tokens), MAX_BATCH):
            part = tuple(tokens[start : start + MAX_BATCH])
            for token, one in zip(part, await at.counted(part), strict=True):
                found[token] = AgentKnown(
                    agent=one.agent,
                    epoch=one.epoch,
                    counted=one.counted,
                    settled=heads is not None and heads.settled(one.agent),
                    sealed=None if heads is None else heads.sealed(one.agent),
                    secrets=one.secrets,
                    wiped_below=one.wiped_below,
                    floor=self._store.floor(one.agent)[2],
                )
        return found


def _since(scene: Scene) -> int:
    return max(1, scene.term.term - LEASE_TERMS)


def _pair(lease: Lease) -> tuple[bytes, int]:
    return lease.agent, lease.agent_epoch
