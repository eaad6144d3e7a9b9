"""The contract accounts of all agents of this worker whose manifests have keys (spec/accounts.md 3, 7-10)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

from coincurve import PrivateKey

from cloister.core.encoding.network import Network
from cloister.core.encoding.signatures import Signed
from cloister.core.encoding.statements import SetSigner
from cloister.core.errors import CloisterError
from cloister.core.policy.manifest import Manifest
from cloister.core.policy.placement import place
from cloister.wire.account import AccountSignerRequest, ask_account_signer
from cloister.wire.terms import LiveCommittee
from cloister.worker.account import AccountDesk, AccountTurn, Sends
from cloister.worker.agents import AgentTable
from cloister.worker.chain_calls import tool_of_chain
from cloister.worker.chainwatch import ChainWatch
from cloister.worker.leases import NodeIdentity
from cloister.worker.placed import Placed
from cloister.worker.remote import Abroad
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
    """One turn for every agent that signs. ``manifest(placed)``: of its lease; ``sender`` pays the gas at home,
    ``abroad`` knows the connected chains."""

    def __init__(
        self,
        node: NodeIdentity,
        network: Network,
        watch: ChainWatch,
        table: AgentTable,
        committee: LiveCommittee,
        sender: Sends,
        manifest: Callable[[Placed], Awaitable[Manifest]],
        abroad: Abroad,
    ) -> None:
        self._node, self._network, self._watch, self._table = node, network, watch, table
        self._committee, self._sender, self._manifest, self._abroad = committee, sender, manifest, abroad
        self._desks: dict[tuple[bytes, int], tuple[Placed, AccountDesk]] = {}
        self.problems: dict[bytes, CloisterError] = {}

    async def turn(self) -> None:
        """Serve all of them. An agent's refusal stays in ``problems`` and holds up no other. Raises ChainViewError."""
        self._watch.require_fresh()
        placed = dict(self._table.placed())
        self._desks = {name: known for name, known in self._desks.items() if name[0] in placed}
        problems = {}
        for agent, one in placed.items():
            try:
                await self._one(one)
            except CloisterError as error:
                problems[agent] = error
        self.problems = problems

    async def _one(self, placed: Placed) -> None:
        """1. at home; 2. on each connected chain that the manifest names; trouble on one holds up no other."""
        manifest = await self._manifest(placed)
        if manifest.keys is None or manifest.keys.raw or placed.closed:
            return
        key, based = epoch_key(placed.keys), await self._based(placed)
        turns = [self._home(placed).turn(based, key)]  # 1
        if manifest.keys.calls:
            named = [n for n in self._abroad.chains if tool_of_chain(n) in (manifest.tools or ())]
            turns += [self._away(n, placed, based, key) for n in named]  # 2
        for outcome in await asyncio.gather(*turns, return_exceptions=True):
            if isinstance(outcome, BaseException):
                raise outcome

    def _home(self, placed: Placed) -> AccountDesk:
        genesis = self._network.genesis
        name = placed.record.agent, genesis.chain_id
        if name not in self._desks or self._desks[name][0] is not placed:
            lease, registry = Lease(self._node, self._committee, placed), genesis.address("Agents")
            made = AccountDesk(self._node.address, genesis.chain_id, registry, placed.state, self._sender, lease)
            self._desks[name] = placed, made
        return self._desks[name][1]

    async def _away(self, chain_id: int, placed: Placed, based: AccountTurn, key: PrivateKey) -> bool:
        """The same on a connected chain: another registry, another account, that chain's checkpoint and coin.

        Raises worker.no_remote_registry where an agent wants to act and the Anchor names none."""
        chain, registry, agent = self._abroad.chains[chain_id], self._abroad.registries[chain_id], placed.record.agent
        name = agent, chain_id
        if name not in self._desks or self._desks[name][0] is not placed:
            teller, where = self._abroad.teller(chain_id, placed), await registry.address()
            if teller is None or where is None:
                return False
            lease = Lease(self._node, self._committee, placed)
            made = AccountDesk(self._node.address, chain_id, where, placed.state, chain.sender, lease, told=teller.told)
            self._desks[name] = placed, made
        there = replace(based.record, account=await registry.account(agent), token_id=int.from_bytes(agent, "big"))
        return await self._desks[name][1].turn(replace(based, record=there, calls=chain.calls()), key)

    async def _based(self, placed: Placed) -> AccountTurn:
        state, record = self._watch.state(), placed.record
        committee, live, cluster = await asyncio.gather(
            state.committee(), state.placeable(self._watch.max_agents), state.cluster(record.cluster)
        )
        seats = place(committee.term_seed, record.agent, live, cluster.seats if cluster is not None else 0)
        return AccountTurn(record, committee.term, tuple(seats), self._watch.calls())
