"""What this worker offers an agent's code beside its state: its keys, and calls of other agents."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol

from cloister.chain.rpc import Rpc
from cloister.client.call import Caller, Request
from cloister.client.gateway import Gateway
from cloister.client.home import Home
from cloister.client.receipts import Ledger
from cloister.client.reply import Reply
from cloister.client.resolve import Resolution, Resolver
from cloister.core.encoding.network import Network
from cloister.core.errors import ConfigError, define
from cloister.core.policy.access import Uses
from cloister.core.policy.manifest import MAX_MANIFEST, KeyRules, Manifest
from cloister.fabric.ports import Blobs
from cloister.worker.account_calls import AccountCalls
from cloister.worker.bundles import exact
from cloister.worker.chain_calls import NO_CHAIN, ChainCalls, tool_of_chain
from cloister.worker.chains import ChainView
from cloister.worker.host import Extra, Origin
from cloister.worker.leases import NodeIdentity
from cloister.worker.listed import Listed
from cloister.worker.outbound import AgentCalls, Answered, Identity, Outgoing
from cloister.worker.serve import host_now_ms
from cloister.worker.signing import Account, AgentSigner

if TYPE_CHECKING:
    from cloister.worker.placed import Placed

# Parsed manifests that are kept: those of every agent of a worker, unless it has very many.
MAX_MANIFESTS = 8192

NO_CALLS = define(
    "worker.no_calls",
    ConfigError,
    check="this worker knows a gateway over which agents call others",
    remedy="the worker's operator sets `calls` to the gateway's address",
    status=501,
)


class Sender(Protocol):
    """Makes calls of agents."""

    async def send(self, outgoing: Outgoing, identity: Identity) -> Answered:
        """One call to its whole answer. Raises CloisterError by name."""

    async def close(self) -> None:
        """End connections."""


class Outbound:
    """The client's side of this worker: it resolves and verifies as any client does, over one gateway."""

    def __init__(self, network: Network, gateway: str | None) -> None:
        self._network, self._url = network, gateway
        self._gateway: Gateway | None = None
        self._rpc: Rpc | None = None
        self._caller: Caller | None = None

    async def send(self, outgoing: Outgoing, identity: Identity) -> Reply:
        """Call as an agent. Raises worker.no_calls, and what ``client.call.Caller.call`` raises."""
        request = Request.build(
            outgoing.method,
            outgoing.path,
            headers=outgoing.headers,
            body=outgoing.body,
            json_body=None,
            idempotency_key=outgoing.idempotency_key,
            request_id=secrets.token_bytes(16),
            deadline_ms=outgoing.deadline_ms,
        )
        return await self._open().call(outgoing.agent, request, _any_seat, identity)

    async def close(self) -> None:
        """End connections."""
        for part in (self._gateway, self._rpc):
            if part is not None:
                await part.close()

    def _open(self) -> Caller:
        if self._url is None:
            raise NO_CALLS(expected="calls in the worker's settings", found="none")
        if self._caller is None:
            self._gateway = Gateway(self._url)
            self._rpc = Rpc(self._gateway.rpc_url)
            resolver = Resolver(self._network, self._gateway, self._rpc, clock=time.time, rng=secrets.token_bytes)
            ledger = Ledger(Home.at(None), clock=time.time, on=False)
            self._caller = Caller(self._gateway, resolver, ledger, rng=secrets.token_bytes, clock=time.time)
        return self._caller


class Offers:
    """Makes the extra host calls of each agent. ``now_ms``: the host's clock, Unix milliseconds. ``chains``: those that
    this worker follows, by id."""

    def __init__(
        self,
        node: NodeIdentity,
        network: Network,
        blobs: Blobs,
        sender: Sender,
        listed: Listed,
        now_ms: Callable[[], int] = host_now_ms,
        chains: Mapping[int, ChainView] = MappingProxyType({}),
    ) -> None:
        self._node, self._network, self._blobs, self._sender = node, network, blobs, sender
        self._listed, self._now_ms, self._chains = listed, now_ms, chains
        self._manifests: dict[bytes, Manifest] = {}

    def of(self, placed: Placed) -> Mapping[str, Extra]:
        """``keys.*``, ``agents.fetch`` and ``lists`` of an agent; its lease may be renewed meanwhile."""
        record = placed.record

        async def rules() -> KeyRules | None:
            return (await self.manifest(placed)).keys

        async def uses() -> Uses:
            return self._listed.left(record.agent, await self.manifest(placed))

        async def lists(origin: Origin, args: Mapping[str, Any]) -> dict[str, Any]:
            left = await uses()
            return {n: None if s is None else sorted(s) for n, s in (("tools", left.tools), ("models", left.models))}

        def chain_time() -> int:
            own = self._chains.get(self._network.genesis.chain_id)
            if own is None:
                raise NO_CHAIN(expected="the network's own chain", found="none here")
            return own.require_fresh().timestamp

        signer = AgentSigner(lambda: placed.keys, rules, Account(self._network.genesis.chain_id, record.account))
        chains = ChainCalls(record.agent, self._chains, uses)
        others = [n for n, chain in self._chains.items() if chain.remote is not None]
        account = AccountCalls(record.agent, rules, chain_time, secrets.token_bytes, chains.named, others)
        calls = AgentCalls(record.agent, lambda: placed.keys, self._node.sign, self._sender.send, uses, self._now_ms)
        return {**signer.calls(), **account.calls(), **calls.calls(), **chains.calls(), "lists": lists}

    async def names_chain(self, placed: Placed, chain_id: int) -> bool:
        """Whether the agent's manifest names a chain. Raises as ``manifest`` does."""
        return tool_of_chain(chain_id) in ((await self.manifest(placed)).tools or ())

    async def manifest(self, placed: Placed) -> Manifest:
        """The manifest of its lease. Raises worker.wrong_code, FabricError, ConfigError."""
        name = placed.keys.terms.manifest_hash
        if name not in self._manifests:
            found = Manifest.parse(await exact(self._blobs, name, MAX_MANIFEST))
            if len(self._manifests) >= MAX_MANIFESTS:
                del self._manifests[next(iter(self._manifests))]
            self._manifests[name] = found
        return self._manifests[name]


async def _any_seat(resolution: Resolution) -> Resolution:
    """Every seat that the resolver verified will do."""
    return resolution
