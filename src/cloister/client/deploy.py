"""Owning an agent: deploy, pause, resume. Every step is a transaction of the client's wallet or an upload.

The gateway has no authority here either: it stores blobs under their hashes and relays signed transactions. What the
chain took is read back by proof before it is believed.
"""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cloister.chain.contracts import call, encode
from cloister.chain.events import decode_event, topic
from cloister.chain.tx import Receipt
from cloister.core.encoding.hexes import need_bytes, to_hex
from cloister.core.errors import ChainError, CloisterError, TransportError, define
from cloister.core.policy.manifest import Manifest, code_hash

if TYPE_CHECKING:
    from cloister.client.client import Client

POLL_S = 0.2
INSTANT, DELAYED, FROZEN = 0, 1, 2

NO_EVENT = define(
    "client.no_event",
    ChainError,
    check="the transaction created an agent",
    remedy="look the transaction up; the chain endpoint left out a log, or the contract is another one",
    status=502,
)
NOT_READY = define(
    "client.not_ready",
    TransportError,
    check="a worker holds a lease of the agent within the time given",
    remedy="see `cloister status` and `cloister agent show`: workers may be down, or none is admitted",
    status=504,
)


@dataclass(frozen=True, slots=True)
class Deployed:
    """A new agent: ids, hashes of its code and manifest (32 bytes each), the block that holds it."""

    agent: bytes
    token_id: int
    code_hash: bytes
    manifest_hash: bytes
    block: int
    tx: bytes

    def to_json(self) -> dict[str, Any]:
        """JSON-ready, bytes as hex."""
        plain = {name: getattr(self, name) for name in self.__slots__}
        return {name: to_hex(value) if isinstance(value, bytes) else value for name, value in plain.items()}


async def deploy_agent(
    client: Client, bundle: bytes, manifest: Manifest, *, cluster: bytes | None = None, uri: str = ""
) -> Deployed:
    """Upload bundle and manifest, then register an agent with their hashes.

    ``cluster`` None takes the network's default cluster; ``uri`` is the ERC-8004 agent URI.
    Raises CloisterError: ConfigError for a bad bundle, the chain's reason if it refuses, TransportError.
    """
    encoded = bytes(manifest)
    code, digest = code_hash(bundle), hashlib.sha256(encoded).digest()
    await client.gateway.put_blob(bundle)
    await client.gateway.put_blob(encoded)
    mode, delay = _rule(manifest.upgrade_delay)
    deployment = {
        "codeHash": code,
        "manifestHash": digest,
        "cluster": cluster or await _default_cluster(client),
        "upgradeMode": mode,
        "upgradeDelay": delay,
        "agentURI": uri,
    }
    receipt = await client.send("Agents", encode("Agents", "deploy", deployment))
    agent, token_id = _created(client, receipt)
    return Deployed(agent, token_id, code, digest, receipt.block_number, receipt.tx_hash)


async def set_code(client: Client, agent: bytes, bundle: bytes, manifest: Manifest) -> Receipt:
    """New code for an agent, as its upgrade rule allows: at once, or announced for later (``Agents.applyCode``)."""
    encoded = bytes(manifest)
    code, digest = code_hash(bundle), hashlib.sha256(encoded).digest()
    await client.gateway.put_blob(bundle)
    await client.gateway.put_blob(encoded)
    record = await client.resolver.record(agent)
    return await client.send("Agents", encode("Agents", "setCode", record.token_id, code, digest))


async def set_paused(client: Client, agent: bytes, paused: bool) -> Receipt:
    """Pause (owner or guardian) or resume (owner) an agent. Returns the included transaction."""
    record = await client.resolver.record(agent)
    return await client.send("Agents", encode("Agents", "pause" if paused else "resume", record.token_id))


async def bump_epoch(client: Client, agent: bytes) -> Receipt:
    """New keys for an agent: what a broken worker kept opens nothing written or sent from then on."""
    record = await client.resolver.record(agent)
    return await client.send("Agents", encode("Agents", "bumpEpoch", record.token_id))


async def await_seats(client: Client, agent: bytes, *, seats: int = 1, within_s: float = 60.0) -> None:
    """Wait until ``seats`` workers hold a verified lease of the agent. Raises TransportError (client.not_ready)."""
    last: CloisterError | None = None
    try:
        async with asyncio.timeout(within_s):
            while True:
                try:
                    if len((await client.resolver.resolve(agent, again=True)).sittings) >= seats:
                        return
                except CloisterError as error:
                    last = error
                await asyncio.sleep(POLL_S)
    except TimeoutError:
        found = f"{last.code}: {last.found}" if last else "too few seats"
        raise NOT_READY(expected=f"{seats} seats within {within_s:g} s", found=found) from None


def _created(client: Client, receipt: Receipt) -> tuple[bytes, int]:
    """(agent id, token id) from the AgentCreated log; the id is computed here, not taken from the log."""
    wanted, address = to_hex(topic("Agents", "AgentCreated")), to_hex(client.address("Agents"))
    for log in receipt.logs:
        topics = log.get("topics") or [None]
        if str(log.get("address")).lower() == address and topics[0] == wanted:
            token_id = int(decode_event("Agents", log)[1]["tokenId"])
            return client.id_of_token(token_id), token_id
    raise NO_EVENT(expected="an AgentCreated log", found=f"{len(receipt.logs)} other logs")


async def _default_cluster(client: Client) -> bytes:
    return need_bytes(
        "default cluster", await call(client.rpc, client.address("Clusters"), "Clusters", "defaultCluster"), 32
    )


def _rule(delay: int | None) -> tuple[int, int]:
    """(Agents.UpgradeMode, delay) of a manifest's upgrade rule."""
    if delay is None:
        return FROZEN, 0
    return (DELAYED, delay) if delay else (INSTANT, 0)
