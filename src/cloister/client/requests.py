"""Asking an agent through the Anchor from an account, and what became of a request (spec/anchor.md 7-17)."""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from cloister.chain.anchor import NAME, AnchorChain
from cloister.chain.contracts import encode
from cloister.chain.events import decode_event, topic
from cloister.chain.tx import Receipt
from cloister.client.wallet import shown
from cloister.core.chainview.anchor import SEALED_PAYLOAD, SEALED_REPLY, Asked, require_line
from cloister.core.chainview.anchor import Queue as Start
from cloister.core.encoding.hexes import to_hex
from cloister.core.encoding.keccak import keccak256
from cloister.core.errors import ChainError, ConfigError, define
from cloister.core.keys.anchored import Message, seal_payload

if TYPE_CHECKING:
    from cloister.client.client import Client

NO_REQUEST = define(
    "client.no_request",
    ChainError,
    check="the Anchor's proven queue holds the request",
    remedy="check agent and index; a new request appears when its block is final",
    status=404,
)
NO_ANCHOR = define(
    "client.no_anchor",
    ConfigError,
    check="the network has an Anchor",
    remedy="ask the agent by a sealed call instead",
)


@dataclass(frozen=True, slots=True)
class Sent:
    """A request that is on chain. ``reply_key``: what opens a sealed reply; keep it."""

    request: Asked
    block: int
    reply_key: X25519PrivateKey | None


async def send_request(
    client: Client,
    agent: bytes,
    body: bytes,
    *,
    fee: int = 0,
    copies: int = 1,
    within_s: int = 3600,
    sealed: bool = False,
    sealed_reply: bool = False,
    sponsored: bool = False,
) -> Sent:
    """Ask by a transaction of the wallet. ``fee`` in wei. ``sealed``: only the agent reads the body. ``sponsored``: the
    agent's fee payer pays, by its consent.

    Raises ChainError with the contract's reason, ConfigError."""
    wallet, anchor = client.need_wallet(), _anchor(client)
    record = await client.resolver.record(agent)
    flags = SEALED_PAYLOAD * sealed | SEALED_REPLY * sealed_reply
    key = X25519PrivateKey.generate() if sealed_reply else None
    message = Message(body, key.public_key().public_bytes_raw() if key is not None else None)
    version = await client.resolver.version(record)
    period = (await client.resolver.view()).checkpoint.number // client.resolver.parameters.period_blocks
    mpk = client.resolver.mpk(version.master_epoch)
    payload = seal_payload(mpk, version, period, wallet.address, flags, message, secrets.token_bytes)
    ask = (agent, bytes(32), 0, int(time.time()) + within_s, copies, flags)
    if sponsored:
        receipt = await client.send(NAME, encode(NAME, "requestSponsored", ask, fee, payload))
    else:
        receipt = await client.send(NAME, encode(NAME, "request", ask, payload), value=fee)
    for asked, _, block in await anchor.requests(agent, receipt.block_number, receipt.block_number):
        if asked.requester == wallet.address and asked.payload_hash == keccak256(payload):
            return Sent(asked, block, key)
    raise NO_REQUEST(expected="a Requested log of this transaction", found="none")


async def consent(
    client: Client, agent: bytes, requester: bytes, *, most: int, total: int, within_s: int, deposit: int = 0
) -> list[Receipt]:
    """Agree to pay, from the wallet's credit, for requests to an agent that names the wallet as its fee payer.

    requester: 20 bytes, zeros for anybody. most, total, deposit: wei; zeros take an agreement back. It ends with a sale
    of the agent. Raises ChainError with the contract's reason, ConfigError."""
    wallet, _ = client.need_wallet(), _anchor(client)
    record = await client.resolver.record(agent)
    until = int(time.time()) + within_s
    data = encode(NAME, "setConsent", agent, record.owner, requester, most, total, until)
    sent = [await client.send(NAME, data)]
    if deposit:
        sent.append(await client.send(NAME, encode(NAME, "deposit", wallet.address), value=deposit))
    return sent


async def request_status(client: Client, agent: bytes, index: int) -> dict[str, Any]:
    """What became of a request: proven open or closed, and what the logs say of its answer. JSON-ready.

    All requests before it are read, and compared with the proven queue. Raises ChainViewError, client.no_request."""
    anchor, view = _anchor(client), await client.resolver.view()
    queue = await anchor.queue(view.state, agent)
    policy = await view.state.policy()
    reached, asked = Start(), None
    async for one, _, _ in anchor.claims(agent, policy.founded_at, view.checkpoint.number):
        require_line(reached, [one], following := reached.after(one.commitment()))
        reached, asked = following, one if one.index == index else asked
    require_line(reached, [], queue)
    if asked is None:
        raise NO_REQUEST(expected=f"a request from 1 to {queue.count}", found=str(index))
    is_open = (await anchor.open(view.state, [asked]))[0]
    facts: dict[str, Any] = {
        "agent": to_hex(agent),
        "index": index,
        "requester": shown(asked.requester),
        "fee": str(asked.fee),
        "copies": asked.copies,
        "deadline": asked.deadline,
        "state": _state(asked, is_open, view.checkpoint.timestamp),
    }
    return facts if is_open else facts | await _ending(client, anchor, asked, view.checkpoint.number)


def _state(asked: Asked, is_open: bool, now: int) -> str:
    if is_open:
        return "open" if now <= asked.deadline else "late: anybody may have it refunded"
    return "closed"


async def _ending(client: Client, anchor: AnchorChain, asked: Asked, until: int) -> dict[str, Any]:
    """How a closed request ended, as the endpoint's logs say."""
    topics = [[to_hex(topic(NAME, e)) for e in ("Answered", "Refunded")], to_hex(asked.agent)]
    policy = await (await client.resolver.view()).state.policy()
    wanted = {
        "address": to_hex(anchor.address),
        "topics": [*topics, to_hex(asked.index.to_bytes(32, "big"))],
        "fromBlock": hex(policy.founded_at),
        "toBlock": hex(until),
    }
    logs = await client.rpc.call("eth_getLogs", wanted)
    if not isinstance(logs, list) or len(logs) != 1:
        return {"ending": "unknown: the endpoint has no log of it"}
    name, said = decode_event(NAME, logs[0])
    if name == "Refunded":
        return {"ending": "refunded"}
    facts = {"ending": "answered", "callback_ok": said["callbackOk"]}
    return facts if said["callbackOk"] else facts | {"reply": to_hex(said["reply"])}


def _anchor(client: Client) -> AnchorChain:
    if NAME not in client.network.genesis.contracts:
        raise NO_ANCHOR(expected="an Anchor in network.json", found="none")
    return AnchorChain(client.rpc, client.address(NAME))
