"""The contract accounts of all agents of this worker whose manifests have keys (spec/accounts.md 3)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from cloister.core.encoding.network import Network
from cloister.core.encoding.signatures import Signed
from cloister.core.encoding.statements import SetSigner
from cloister.core.errors import CloisterError
from cloister.core.policy.manifest import Manifest
from cloister.core.policy.placement import place
from cloister.wire.account import AccountSignerRequest, ask_account_signer
from cloister.wire.terms import LiveCommittee
from cloister.worker.account import AccountDesk, AccountTurn, Sends
from cloister.worker.agents import AgentTable, Placed
from cloister.worker.chainwatch import ChainWatch
from cloister.worker.leases import NodeIdentity
from cloister.worker.signing import epoch_key


@dataclass(frozen=True, slots=True)
class Lease:
    """Implements ``account.Signers`` for one placed agent: the committee signs on the lease that it holds."""

    node: NodeIdentity
    committee: LiveCommittee
    placed: Placed

    async def account_signer(self, asked: SetSigner) -> Signed:
        """t signatures. Raises the committee's refusal."""
        signature = self.node.sign(asked.digest(self.node.network))
        request = AccountSignerRequest(asked, signature, self.placed.keys.seat.lease)
        return await ask_account_signer(self.committee.now, request)


class AccountService:
    """One turn for every agent that signs. ``manifest(placed)``: of its lease; ``sender`` pays the gas."""

    def __init__(
        self,
        node: NodeIdentity,
        network: Network,
        watch: ChainWatch,
        table: AgentTable,
        committee: LiveCommittee,
        sender: Sends,
        manifest: Callable[[Placed], Awaitable[Manifest]],
    ) -> None:
        self._node, self._network, self._watch, self._table = node, network, watch, table
        self._committee, self._sender, self._manifest = committee, sender, manifest
        self._desks: dict[bytes, tuple[Placed, AccountDesk]] = {}
        self.problems: dict[bytes, CloisterError] = {}

    async def turn(self) -> None:
        """Serve all of them. An agent's refusal stays in ``problems`` and holds up no other. Raises ChainViewError."""
        self._watch.require_fresh()
        placed = dict(self._table.placed())
        self._desks = {agent: known for agent, known in self._desks.items() if agent in placed}
        problems = {}
        for agent, one in placed.items():
            try:
                await self._one(one)
            except CloisterError as error:
                problems[agent] = error
        self.problems = problems

    async def _one(self, placed: Placed) -> None:
        rules = (await self._manifest(placed)).keys
        if rules is None or rules.raw or placed.closed:
            return
        await self._desk(placed).turn(await self._based(placed), epoch_key(placed.keys))

    def _desk(self, placed: Placed) -> AccountDesk:
        agent = placed.record.agent
        known = self._desks.get(agent)
        if known is None or known[0] is not placed:
            genesis, lease = self._network.genesis, Lease(self._node, self._committee, placed)
            registry = genesis.address("Agents")
            desk = AccountDesk(self._node.address, genesis.chain_id, registry, placed.state, self._sender, lease)
            known = self._desks[agent] = (placed, desk)
        return known[1]

    async def _based(self, placed: Placed) -> AccountTurn:
        state, record = self._watch.state(), placed.record
        committee, workers, cluster = await asyncio.gather(
            state.committee(), state.workers(), state.cluster(record.cluster)
        )
        live = [w.worker for w in workers if w.live_at(self._watch.height)]
        seats = place(committee.term_seed, record.agent, live, cluster.seats if cluster is not None else 0)
        return AccountTurn(record, committee.term, tuple(seats), self._watch.calls())
