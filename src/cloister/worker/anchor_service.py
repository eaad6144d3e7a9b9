"""All agents of this worker that contracts asked: who is served, and by which desk (spec/anchor.md 27)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from cloister.chain.anchor import NAME
from cloister.core.chainview.anchor import Queue
from cloister.core.encoding.contract_statements import AnchorLease
from cloister.core.encoding.network import Network
from cloister.core.encoding.signatures import Signed
from cloister.core.errors import CloisterError
from cloister.core.keys.hpke import Rng
from cloister.core.policy.placement import place
from cloister.wire.anchor import AnchorLeaseRequest, ask_anchor_lease
from cloister.wire.terms import LiveCommittee
from cloister.worker.access import Access
from cloister.worker.acts import ActDesk
from cloister.worker.agents import AgentTable
from cloister.worker.anchor import AnchorDesk, Place, TellerPort, Turn, Waiting
from cloister.worker.anchor_outbox import Outbox
from cloister.worker.anchor_run import AgentRunner
from cloister.worker.chains import ChainView
from cloister.worker.chainwatch import ChainWatch
from cloister.worker.leases import NodeIdentity
from cloister.worker.placed import Placed

AT_ONCE = 4
MAX_NAMING = 1 << 16


@dataclass(frozen=True, slots=True)
class Leases:
    """Implements ``anchor.LeasePort`` for one placed agent: the committee signs on the lease that it holds."""

    committee: LiveCommittee
    placed: Placed

    async def anchor_lease(self, lease: AnchorLease, signature: bytes) -> Signed:
        """t signatures. Raises the committee's refusal."""
        request = AnchorLeaseRequest(lease, signature, self.placed.keys.seat.lease)
        return await ask_anchor_lease(self.committee.now, request)


class AnchorService:
    """One turn for every placed agent that contracts of one chain asked, or that acts there. ``operator`` is paid (20
    bytes). ``names(placed)``: whether an agent's manifest names the chain; only then is it served on a connected chain,
    and only then can it act on any. ``teller(placed)``: tells a connected chain of it, None at home."""

    def __init__(
        self,
        node: NodeIdentity,
        network: Network,
        watch: ChainWatch,
        table: AgentTable,
        committee: LiveCommittee,
        access: Access,
        chain: ChainView,
        *,
        operator: bytes,
        names: Callable[[Placed], Awaitable[bool]],
        teller: Callable[[Placed], TellerPort | None],
        now_ms: Callable[[], int],
        rng: Rng,
    ) -> None:
        self._teller = teller
        self._node, self._network, self._watch, self._table = node, network, watch, table
        self._committee, self._access, self._operator = committee, access, operator
        self._now_ms, self._rng, self._names = now_ms, rng, names
        self._view, self._chain = chain, chain.anchor
        self._desks: dict[bytes, tuple[Placed, AnchorDesk, ActDesk]] = {}
        self._done: dict[bytes, Queue] = {}
        self._naming: dict[bytes, bool] = {}
        self._quiet: tuple[bytes, frozenset[bytes]] | None = None
        self.problems: dict[bytes, CloisterError] = {}

    async def turn(self) -> None:
        """Serve what is open. An agent's refusal is kept in ``problems`` and holds up no other; raises ChainError.

        1. a fresh view; 2. nothing to do where the contract's storage is the one that all these agents were done with;
        3. the queues of all agents served here, by proof; 4. those with news, open requests or waiting acts get a
        turn."""
        if self._chain is None:
            return
        self._view.require_fresh()  # 1
        acting = {a: p for a, p in dict(self._table.placed()).items() if await self._named(p)}
        state, placed = self._view.state(), acting if self._view.remote else dict(self._table.placed())
        for gone in set(self._desks) - set(placed):
            del self._desks[gone]
            self._done.pop(gone, None)
        seen = await state.storage_root(NAME), frozenset(placed)  # 2
        if seen == self._quiet and not acting:
            return
        queues = await self._chain.queues(state, list(placed))  # 3
        asked = [a for a, queue in queues.items() if queue.count and self._done.get(a) != queue]
        busy = list(dict.fromkeys((*asked, *acting)))
        free = asyncio.Semaphore(AT_ONCE)

        async def one(agent: bytes) -> CloisterError | None:
            async with free:
                try:
                    desk, acts = self._desk(agent, placed[agent])
                    at = await self._based(placed[agent])
                    try:
                        if agent in asked and not await desk.turn(at):
                            self._done[agent] = queues[agent]
                    finally:  # a request in trouble holds up no act, and none the other way
                        if agent in acting:
                            await acts.turn(at)
                except CloisterError as error:
                    return error
            return None

        outcomes = await asyncio.gather(*(one(agent) for agent in busy))  # 4
        self._quiet = seen if all(self._done.get(agent) == queues[agent] for agent in asked) else None
        self.problems = {a: e for a, e in zip(busy, outcomes, strict=True) if e is not None}

    def waiting(self, agent: bytes, index: int) -> Waiting | None:
        """The answer to a request that this worker cannot pay to bring."""
        known = self._desks.get(agent)
        return None if known is None else known[1].waiting.get(index)

    async def _named(self, placed: Placed) -> bool:
        """Whether its manifest names the chain; asked once per manifest. One that cannot be read now names nothing."""
        name = placed.keys.terms.manifest_hash
        if name not in self._naming:
            try:
                self._naming[name] = await self._names(placed)
            except CloisterError:
                return False
            if len(self._naming) > MAX_NAMING:
                self._naming = {name: self._naming[name]}
        return self._naming[name]

    def _desk(self, agent: bytes, placed: Placed) -> tuple[AnchorDesk, ActDesk]:
        """The agent's desks; new ones for a new lease of another version."""
        known = self._desks.get(agent)
        if known is not None and known[0] is placed:
            return known[1], known[2]
        if self._chain is None:
            raise RuntimeError("a network without an Anchor has no desks")
        node, remote = self._node, self._view.remote
        where = Place(
            node.network, self._view.chain_id, self._chain.address, node.address, self._operator, home=remote is None
        )
        runner = AgentRunner(
            self._table, placed, self._access, self._now_ms, self._rng, worker=node.address, chain=remote
        )
        leases = Leases(self._committee, placed)
        outbox, teller = Outbox(placed.state, remote), self._teller(placed)
        desk = AnchorDesk(self._chain, where, outbox, runner, leases, node.sign, teller)
        acts = ActDesk(self._chain, where, placed.state, desk, node.sign)
        self._desks[agent] = (placed, desk, acts)
        return desk, acts

    async def _based(self, placed: Placed) -> Turn:
        """What a turn is based on, by proof at the newest checkpoints of the network's own chain and of this one."""
        state, record = self._watch.state(), placed.record
        at, there = self._view.require_fresh(), self._view.state()
        committee, live, me = await asyncio.gather(
            state.committee(), state.placeable(self._watch.max_agents), state.worker(self._node.address)
        )
        cluster, founded = await asyncio.gather(state.cluster(record.cluster), self._view.founded())
        seats = place(committee.term_seed, record.agent, live, cluster.seats if cluster is not None else 0)
        return Turn(
            agent=record.agent,
            epoch=record.epoch,
            code_hash=record.code_hash,
            term=committee.term,
            vendor_class=me.vendor_class if me is not None else bytes(32),
            checkpoint=at,
            state=there,
            seats=seats,
            founded=founded,
        )
