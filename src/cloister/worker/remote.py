"""Agents on connected chains: the registry there is told of them before they answer or act (spec/chains.md 26-33).

A connected chain knows of an agent what t members signed about one block of the network's own chain, for two hours. So
whoever serves the agent there first sees, by proof, that the registry knows it as it is now, and tells it if not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from cloister.chain.contracts import decode, encode
from cloister.chain.people import people_of
from cloister.chain.proven_calls import ProvenCalls
from cloister.chain.tx import NO_FUNDS
from cloister.core.encoding.contract_statements import REMOTE_SECONDS, People, RemoteAgent
from cloister.core.encoding.signatures import Signed
from cloister.core.errors import ChainError, ChainViewError, PolicyError, define
from cloister.core.policy.refusals import PAUSED
from cloister.node import logs
from cloister.wire.remote import RemoteAgentRequest, ask_remote_agent
from cloister.wire.terms import LiveCommittee
from cloister.worker.chains import OtherChain
from cloister.worker.chainwatch import ChainWatch
from cloister.worker.leases import NodeIdentity
from cloister.worker.placed import Placed

NAME: Final = "RemoteAgents"
# How long before their end facts are told anew, and between two attempts.
RENEW_S: Final = 20 * 60
RETRY_S: Final = 15

NO_REGISTRY = define(
    "worker.no_remote_registry",
    ChainViewError,
    check="the Anchor of a connected chain names a registry of remote agents, by proof",
    remedy="an Anchor without one takes answers only: accounts need a newer one, which the operators publish",
    status=503,
)
STOPPED = define(
    "worker.stopped_there",
    PolicyError,
    check="neither owner nor guardian stopped the agent on the connected chain",
    remedy="its owner calls resume at the registry there",
    status=409,
)
NOT_TOLD = define(
    "worker.not_told",
    ChainError,
    check="a connected chain knows the agent as it is now, and for a while yet",
    remedy="none needed: the worker tells it again; give it gas there if it has none",
    status=503,
)
_log = logs.get("remote")


class Members(Protocol):
    """Asks the committee what a chain may be told (``wire.remote``)."""

    async def remote_agent(self, asked: RemoteAgent) -> Signed:
        """t signatures. Raises the committee's refusal."""


@dataclass(frozen=True, slots=True)
class Known:
    """What a registry knows of an agent. ``expiry``: Unix seconds; ``height``: the block it is of; ``people``: owner,
    guardian and payer."""

    epoch: int
    height: int
    expiry: int
    stopped: bool
    people: tuple[bytes, bytes, bytes]


class Registry:
    """The registry of agents beside one Anchor, by proof at that chain's newest checkpoint."""

    def __init__(self, chain: OtherChain) -> None:
        self._chain = chain
        self._found: tuple[bytes, bytes] | None = None
        self._calls: ProvenCalls | None = None

    async def address(self) -> bytes | None:
        """Where it is; None for an Anchor without one. The Anchor's code, which the record pins, names it."""
        return (await self._places())[0]

    async def account(self, agent: bytes) -> bytes:
        """Where the agent's account is, or will be. Raises worker.no_remote_registry."""
        _, maker = await self._required()
        answer = await self._view(maker, "AgentAccounts", "addressOf", int.from_bytes(agent, "big"))
        return bytes(answer)

    async def known(self, agent: bytes) -> Known:
        """Raises worker.no_remote_registry, ChainError, ChainViewError."""
        address, _ = await self._required()
        said = await self._view(address, NAME, "known", agent)
        people = said["owner"], said["guardian"], said["payer"]
        return Known(said["epoch"], said["height"], said["expiry"], said["stopped"], people)

    async def _required(self) -> tuple[bytes, bytes]:
        address, maker = await self._places()
        if address is None or maker is None:
            raise NO_REGISTRY(expected="a registry beside the Anchor", found="none")
        return address, maker

    async def _places(self) -> tuple[bytes, bytes] | tuple[None, None]:
        if self._found is None:
            address = await self._view(self._chain.record.anchor.address, "Anchor", "agents")
            if not any(address):
                return None, None
            self._found = bytes(address), bytes(await self._view(address, NAME, "accounts"))
        return self._found

    async def _view(self, to: bytes, contract: str, function: str, *args: Any) -> Any:
        at = self._chain.require_fresh()
        if self._calls is None or self._calls.checkpoint != at:
            self._calls = self._chain.calls()
        answer = await self._calls.view(to, encode(contract, function, *args))
        if not answer.ok:
            raise NO_REGISTRY(expected=f"{contract}.{function}", found="a revert")
        return decode(contract, function, answer.output)


class Teller:
    """Sees that one connected chain knows one agent. ``waiting``: what this worker cannot pay to tell."""

    def __init__(
        self, chain: OtherChain, registry: Registry, watch: ChainWatch, members: Members, agent: bytes
    ) -> None:
        self._chain, self._registry, self._watch = chain, registry, watch
        self._members, self._agent = members, agent
        self._tried: tuple[int, int] | None = None
        self._told: Known | None = None
        self._looked: tuple[int, People] | None = None
        self.waiting: Signed | None = None

    async def told(self, epoch: int, term: int) -> None:
        """Return once the chain knows the agent in this epoch. Raises policy.paused, worker.stopped_there,
        worker.not_told, the committee's refusal, ChainError.

        1. no block seen of the network's own chain has it paused; 2. an Anchor without a registry asks nothing; 3. by
        proof, or just told: this epoch and these people, not stopped, for a while yet; 4. else t members sign how it
        is at our newest checkpoint, and it is told, once in a while."""
        if self._watch.seen_paused(self._agent):  # 1
            raise PAUSED(expected="a running agent", found="paused at a block that this worker saw")
        address = await self._registry.address()
        if address is None:  # 2
            return
        known, now = await self._registry.known(self._agent), self._chain.require_fresh().timestamp
        if known.stopped:
            raise STOPPED(expected="an agent that may act there", found="stopped by its owner or guardian")
        people = await self._people(now)
        wanted = epoch, (people.owner, people.guardian, people.payer)
        fact = self._told if self._told is not None and self._told.height > known.height else known
        if (fact.epoch, fact.people) == wanted and fact.expiry > now + RENEW_S:  # 3
            self.waiting = None
            return
        if self._tried is not None and now < self._tried[1] + RETRY_S and self._tried[0] == epoch:
            if self.waiting is not None:
                return  # whoever pays brings it
            raise NOT_TOLD(expected="a turn of its own", found="an attempt a moment ago")
        self._tried = epoch, now
        self._looked = None
        await self._tell(address, epoch, term, await self._people(now))  # 4

    async def _people(self, now: int) -> People:
        """Who the chain is to know, by proof at our newest checkpoint; looked at anew once in a while."""
        if self._looked is None or not self._looked[0] <= now < self._looked[0] + RETRY_S:
            found = await people_of(self._watch.state(), self._agent, self._chain.record.chain_id)
            if found is None:
                raise NOT_TOLD(expected="an agent at the newest checkpoint", found="none")
            self._looked = now, found
        return self._looked[1]

    async def _tell(self, address: bytes, epoch: int, term: int, people: People) -> None:
        at, record = self._watch.require_fresh(), self._chain.record
        asked = RemoteAgent(
            term=term,
            chain_id=record.chain_id,
            anchor=record.anchor.address,
            agent=self._agent,
            agent_epoch=epoch,
            owner=people.owner,
            guardian=people.guardian,
            payer=people.payer,
            height=at.number,
            expiry=at.timestamp + REMOTE_SECONDS,
        )
        signed = await self._members.remote_agent(asked)
        try:
            await self._chain.sender.send(address, encode(NAME, "tell", asked, list(signed.signatures)))
        except ChainError as error:
            if error.code == NO_FUNDS.code:
                self.waiting = signed
            raise
        self.waiting, self._told = (
            None,
            Known(epoch, asked.height, asked.expiry, False, (asked.owner, asked.guardian, asked.payer)),
        )
        _log.info("told", chain=record.chain_id, agent=self._agent.hex()[:16], until=asked.expiry)


@dataclass(frozen=True, slots=True)
class Lease:
    """Implements ``Members`` for one placed agent: the committee signs on the lease that it holds."""

    node: NodeIdentity
    committee: LiveCommittee
    placed: Placed

    async def remote_agent(self, asked: RemoteAgent) -> Signed:
        """t signatures. Raises the committee's refusal."""
        signature = self.node.sign(asked.digest(self.node.network))
        request = RemoteAgentRequest(asked, signature, self.placed.keys.seat.lease)
        return await ask_remote_agent(self.committee.now, request)


class Abroad:
    """All connected chains of this worker: their registries, and who tells them of which agent."""

    def __init__(
        self, node: NodeIdentity, watch: ChainWatch, committee: LiveCommittee, chains: Sequence[OtherChain]
    ) -> None:
        self._node, self._watch, self._committee = node, watch, committee
        self.chains = {chain.chain_id: chain for chain in chains}
        self.registries = {n: Registry(chain) for n, chain in self.chains.items()}
        self._tellers: dict[tuple[int, bytes], tuple[Placed, Teller]] = {}

    def teller(self, chain_id: int, placed: Placed) -> Teller | None:
        """The one of a placed agent; None for the network's own chain."""
        if chain_id not in self.chains:
            return None
        name = chain_id, placed.record.agent
        known = self._tellers.get(name)
        if known is None or known[0] is not placed:
            for gone in [n for n, (one, _) in self._tellers.items() if one.closed]:
                del self._tellers[gone]
            lease = Lease(self._node, self._committee, placed)
            made = Teller(self.chains[chain_id], self.registries[chain_id], self._watch, lease, placed.record.agent)
            known = self._tellers[name] = (placed, made)
        return known[1]
