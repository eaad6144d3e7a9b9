"""Bringing a contract's answer for workers that cannot pay, or a new committee: anybody may (spec/chains.md 18-25).

What a gateway hands over is a claim. Only two calls are made of it, both to the Anchor that the payer names, and the
contract verifies every signature; what it would refuse is not sent.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from cloister.chain.anchor import NAME, AnchorChain
from cloister.chain.contracts import call, encode
from cloister.chain.kinds import ChainKind, kind_of
from cloister.chain.places import endpoints_of
from cloister.chain.rpc import Rpc
from cloister.chain.tx import Receipt, Sender
from cloister.client.carrying import carry_signers
from cloister.client.gateway import Gateway
from cloister.core.chainview.directory import read_newest, require_connected
from cloister.core.encoding.chain_record import MAX_RECORD, ChainRecord
from cloister.core.encoding.contract_statements import AnchorLease, RemoteAgent
from cloister.core.encoding.hexes import to_hex
from cloister.core.encoding.signatures import Signed
from cloister.core.errors import ChainError, define
from cloister.wire.anchor import Ready
from cloister.wire.ask import new_session

if TYPE_CHECKING:
    from cloister.client.client import Client

WRONG_PLACE = define(
    "client.wrong_anchor",
    ChainError,
    check="the answer is for the request, the chain and the Anchor that the payer means",
    remedy="ask another gateway; name the Anchor of the chain that the request was made on",
)


NO_REGISTRY = define(
    "client.no_remote_registry",
    ChainError,
    check="the Anchor of a connected chain names a registry of remote agents",
    remedy="agents have accounts at newer Anchors only: ask the network's operators for one",
    status=404,
)
REGISTRY: Final = "RemoteAgents"


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """A connected chain as a payer reaches it. ``rpc``: an endpoint; its lies cost gas at worst."""

    record: ChainRecord
    rpc: str
    kind: ChainKind

    @classmethod
    def load(cls, record: Path, rpc: str, kind: str) -> Elsewhere:
        """Read the chain's record. Raises EncodingError, ConfigError, OSError for a file that cannot be read."""
        with record.open("rb") as file:
            return cls(ChainRecord.parse(file.read(MAX_RECORD + 1)), rpc, kind_of(kind))


async def relay_request(client: Client, agent: bytes, index: int, there: Elsewhere | None = None) -> Receipt:
    """Bring the answer to an agent's request with the client's wallet: on the network's own chain, or ``there``.

    A connected chain counts only while the Directory names its record, by proof. Raises ChainError, ChainViewError,
    ConfigError, worker.no_answer_waits."""
    key, genesis = client.need_wallet().key, client.network.genesis
    own = genesis.address(NAME)
    if there is None:
        ready = await fetch_ready(client.gateway, genesis.chain_id, agent, index)
        return await relay(Sender(client.rpc, key, genesis.chain_id), own, ready)
    name, state = there.record.key(), (await client.resolver.view()).state
    require_connected(await state.read("Directory", lambda s, at: read_newest(s, at, name)), own)
    ready = await fetch_ready(client.gateway, there.record.chain_id, agent, index)
    async with Rpc(there.rpc) as rpc:
        payer = Sender(rpc, key, there.record.chain_id, kind=there.kind)
        return await relay(payer, there.record.anchor.address, ready)


async def carry_committee(client: Client, there: Elsewhere, more: Sequence[str] = ()) -> list[Receipt]:
    """Hand a connected chain's Anchor over to the committee in office, with the client's wallet; none: it knows it.

    ``more``: base URLs of gatekeepers that left and still sign for their terms. 1. the Directory names the record, by
    proof; 2. members say on chain where they answer; 3. carried, term by term (spec/chains.md 21-24). Raises
    client.set_not_carried, client.set_expired, ChainError, ChainViewError."""
    key, genesis, name = client.need_wallet().key, client.network.genesis, there.record.key()
    state = (await client.resolver.view()).state
    newest, committee = await asyncio.gather(
        state.read("Directory", lambda s, at: read_newest(s, at, name)), state.committee()
    )
    require_connected(newest, genesis.address(NAME))  # 1
    found = await endpoints_of(client.rpc, genesis.address("Gatekeepers"), committee.members)  # 2
    session = new_session()
    try:
        async with Rpc(there.rpc) as rpc:
            payer = Sender(rpc, key, there.record.chain_id, kind=there.kind)
            everybody, anchor = tuple(dict.fromkeys((*found, *more))), there.record.anchor.address
            return await carry_signers(session, everybody, client.network.id, payer, anchor, committee.term)  # 3
    finally:
        await session.close()


async def fetch_ready(gateway: Gateway, chain_id: int, agent: bytes, index: int) -> Ready:
    """The signed answer that some worker of this gateway holds. Raises worker.no_answer_waits, TransportError,
    client.wrong_anchor for one to another question."""
    found = Ready.from_json(await gateway.answer(chain_id, agent, index))
    if (found.chain_id, found.request.agent, found.request.index) != (chain_id, agent, index):
        raise WRONG_PLACE(expected=f"the answer to request {index}", found="another one")
    return found


async def relay(payer: Sender, anchor: bytes, ready: Ready) -> Receipt:
    """Bring it; before it what the chain lacks: the agent's facts, its worker's lease. Raises ChainError with the
    contract's reason."""
    if ready.chain_id != payer.chain_id:
        raise WRONG_PLACE(expected=f"chain {payer.chain_id}", found=f"chain {ready.chain_id}")
    chain = AnchorChain(payer.rpc, anchor, payer, payer.kind)
    if ready.told is not None:
        await _tell(payer, anchor, ready.told)
    if ready.lease is not None and not await _registered(payer, anchor, ready.lease.statement):
        await chain.register(ready.lease)
    return await chain.respond(ready.request, ready.reply, ready.by)


async def account_there(rpc: Rpc, anchor: bytes, agent: bytes) -> dict[str, Any]:
    """The agent's account on a connected chain and what its registry knows; JSON-ready, as the endpoint says.

    Raises client.no_remote_registry, ChainError."""
    registry = await registry_of(rpc, anchor)
    maker = await call(rpc, registry, REGISTRY, "accounts")
    account = await call(rpc, maker, "AgentAccounts", "addressOf", int.from_bytes(agent, "big"))
    known = await call(rpc, registry, REGISTRY, "known", agent)
    code = await rpc.call("eth_getCode", to_hex(account), "latest")
    facts: dict[str, Any] = {
        "account": to_hex(account),
        "exists": code not in (None, "0x"),
        "registry": to_hex(registry),
    }
    facts |= {name: to_hex(known[name]) for name in ("owner", "guardian", "payer")}
    return facts | {name: known[name] for name in ("epoch", "height", "expiry", "stopped")}


async def stop_there(client: Client, there: Elsewhere, agent: bytes, *, stopped: bool) -> Receipt:
    """Stop an agent on a connected chain at once, as its owner or guardian; or let its owner's agent go on there.

    Raises client.no_remote_registry, ChainError with the contract's reason."""
    async with Rpc(there.rpc) as rpc:
        registry = await registry_of(rpc, there.record.anchor.address)
        payer = Sender(rpc, client.need_wallet().key, there.record.chain_id, kind=there.kind)
        return await payer.send(registry, encode(REGISTRY, "stop" if stopped else "resume", agent))


async def registry_of(rpc: Rpc, anchor: bytes) -> bytes:
    """The registry of remote agents that an Anchor names. Raises client.no_remote_registry, ChainError."""
    found: bytes = await call(rpc, anchor, NAME, "agents")
    if not any(found):
        raise NO_REGISTRY(expected="an Anchor with a registry of remote agents", found="one without")
    return found


async def _tell(payer: Sender, anchor: bytes, told: Signed) -> None:
    """The facts of an agent, unless the registry has those of this block or of a later one."""
    said = told.statement
    if not isinstance(said, RemoteAgent) or said.anchor != anchor:
        raise WRONG_PLACE(expected=f"facts for {to_hex(anchor)}", found="others")
    registry = await registry_of(payer.rpc, anchor)
    if (await call(payer.rpc, registry, REGISTRY, "known", said.agent))["height"] < said.height:
        await payer.send(registry, encode(REGISTRY, "tell", said, list(told.signatures)))


async def _registered(payer: Sender, anchor: bytes, lease: Any) -> bool:
    """Whether the Anchor has this lease or a later one of the worker."""
    if not isinstance(lease, AnchorLease) or lease.anchor != anchor:
        raise WRONG_PLACE(expected=f"a lease at {to_hex(anchor)}", found="another")
    held = await call(payer.rpc, anchor, NAME, "lease", lease.agent, lease.worker)
    return int(held["expiry"]) >= lease.expiry
