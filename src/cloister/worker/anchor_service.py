"""All agents of this worker that contracts asked: who is served, and by which desk (spec/anchor.md 27)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from cloister.chain.anchor import NAME, AnchorChain
from cloister.chain.tx import Sender
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
from cloister.worker.agents import AgentTable, Placed
from cloister.worker.anchor import AnchorDesk, Place, Turn
from cloister.worker.anchor_outbox import Outbox
from cloister.worker.anchor_run import AgentRunner
from cloister.worker.chainwatch import ChainWatch
from cloister.worker.leases import NodeIdentity

AT_ONCE = 4


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
    """One turn for every placed agent that contracts asked. ``sender`` pays; ``operator`` is paid (20 bytes)."""

    def __init__(
        self,
        node: NodeIdentity,
        network: Network,
        watch: ChainWatch,
        table: AgentTable,
        committee: LiveCommittee,
        access: Access,
        sender: Sender,
        *,
        operator: bytes,
        now_ms: Callable[[], int],
        rng: Rng,
    ) -> None:
        self._node, self._network, self._watch, self._table = node, network, watch, table
        self._committee, self._access, self._operator = committee, access, operator
        self._now_ms, self._rng = now_ms, rng
        contracts = network.genesis.contracts
        self._chain = AnchorChain(sender.rpc, contracts[NAME].address, sender) if NAME in contracts else None
        self._desks: dict[bytes, tuple[Placed, AnchorDesk]] = {}
        self._done: dict[bytes, Queue] = {}
        self.problems: dict[bytes, CloisterError] = {}

    async def turn(self) -> None:
        """Serve what is open. An agent's refusal is kept in ``problems`` and holds up no other; raises ChainError.

        1. a fresh view; 2. the queues of all placed agents by proof; 3. those with news or open requests get a turn."""
        if self._chain is None:
            return
        self._watch.require_fresh()  # 1
        state, placed = self._watch.state(), dict(self._table.placed())
        for gone in set(self._desks) - set(placed):
            del self._desks[gone]
            self._done.pop(gone, None)
        queues = await self._chain.queues(state, list(placed))  # 2
        busy = [a for a, queue in queues.items() if queue.count and self._done.get(a) != queue]
        free = asyncio.Semaphore(AT_ONCE)

        async def one(agent: bytes) -> CloisterError | None:
            async with free:
                try:
                    if not await self._desk(agent, placed[agent]).turn(await self._based(placed[agent])):
                        self._done[agent] = queues[agent]
                except CloisterError as error:
                    return error
            return None

        outcomes = await asyncio.gather(*(one(agent) for agent in busy))  # 3
        self.problems = {a: e for a, e in zip(busy, outcomes, strict=True) if e is not None}

    def _desk(self, agent: bytes, placed: Placed) -> AnchorDesk:
        """The agent's desk; a new one for a new lease of another version."""
        known = self._desks.get(agent)
        if known is not None and known[0] is placed:
            return known[1]
        if self._chain is None:
            raise RuntimeError("a network without an Anchor has no desks")
        node, genesis = self._node, self._network.genesis
        where = Place(node.network, genesis.chain_id, self._chain.address, node.address, self._operator)
        runner = AgentRunner(self._table, placed, self._access, self._now_ms, self._rng, worker=node.address)
        leases = Leases(self._committee, placed)
        desk = AnchorDesk(self._chain, where, Outbox(placed.state), runner, leases, node.sign)
        self._desks[agent] = (placed, desk)
        return desk

    async def _based(self, placed: Placed) -> Turn:
        """What a turn is based on, by proof at the newest checkpoint."""
        state, at, record = self._watch.state(), self._watch.checkpoint, placed.record
        committee, workers, own = await asyncio.gather(
            state.committee(), state.workers(), state.worker(self._node.address)
        )
        cluster, policy = await asyncio.gather(state.cluster(record.cluster), state.policy())
        live = [w.worker for w in workers if w.live_at(at.number)]
        seats = place(committee.term_seed, record.agent, live, cluster.seats if cluster is not None else 0)
        return Turn(
            agent=record.agent,
            epoch=record.epoch,
            code_hash=record.code_hash,
            term=committee.term,
            vendor_class=own.vendor_class if own is not None else bytes(32),
            checkpoint=at,
            state=state,
            seats=seats,
            founded=policy.founded_at,
        )
