"""The four layers of an agent's keys, read by proof; new keys, and waiting until agents use them (docs/use/keys.md).

Whether an agent has moved to its present keys shows in its seats: a worker announces one only after the state was
re-sealed and a quorum of gatekeepers endorsed its new head (spec/epochs.md 7).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from cloister.chain.contracts import encode
from cloister.chain.tx import Receipt
from cloister.client.deploy import NOT_READY, POLL_S
from cloister.client.sweep import sweep_of, sweep_words
from cloister.core.chainview.records import AgentRecord
from cloister.core.encoding.hexes import to_hex
from cloister.core.encoding.identity import AgentVersion, Epochs
from cloister.core.errors import CloisterError

if TYPE_CHECKING:
    from cloister.client.client import Client

COMMITTEE_LAYERS = ("shares", "master")
LAYERS = ("agent", "cluster", *COMMITTEE_LAYERS)


async def describe_keys(client: Client, agent: bytes) -> dict[str, Any]:
    """All four layers of an agent (32-byte id), JSON-ready: numbers and hashes that the chain proves; nothing secret.

    ``secrets``: none, present (set under these keys) or carried (set under earlier ones, and taken along by workers).
    ``sweep``: how far agents have moved to a new master key (``Sweep.to_json``); None while none moves.
    """
    record = await client.resolver.record(agent)
    at = await client.resolver.version(record)
    committee = await (await client.resolver.view()).state.committee()
    sweep = await sweep_of(client, record.token_id)
    return {
        "agent": to_hex(agent),
        "shares": {"term": committee.term, "threshold": committee.threshold, "members": len(committee.members)},
        "master": {"epoch": at.master_epoch, "mpk": to_hex(client.resolver.mpk(at.master_epoch))},
        "cluster": {"id": to_hex(at.cluster), "epoch": at.cluster_epoch},
        "agent_epoch": record.epoch,
        "state_left_below": record.wiped_below or None,
        "secrets": _secrets(record, at.epochs),
        "served": await _served(client, agent),
        "sweep": None if sweep is None else sweep.to_json(),
    }


def words(facts: dict[str, Any]) -> dict[str, str]:
    """The same in words, one line per layer, and one for a move to a new master key while it runs."""
    shares, secrets = facts["shares"], facts["secrets"]
    told = {
        "none": "none set",
        "present": "set under these keys",
        "carried": "set under earlier keys; workers carry them along",
    }
    served = facts["served"]
    lines = {
        "agent": facts["agent"],
        "shares": f"term {shares['term']}: any {shares['threshold']} of {shares['members']} gatekeepers derive keys",
        "master key": f"epoch {facts['master']['epoch']}, public key {facts['master']['mpk'][:18]}…",
        "cluster": f"epoch {facts['cluster']['epoch']} of {facts['cluster']['id'][:18]}…",
        "this agent": f"epoch {facts['agent_epoch']}",
        "secrets": told[secrets],
        "state": "served under these keys" if served else "not served: no worker, or it is being re-sealed",
    }
    return lines if facts["sweep"] is None else lines | {"new master key": sweep_words(facts["sweep"])}


async def rotate_agent(client: Client, agent: bytes, *, wipe: bool = False) -> Receipt:
    """New keys for one agent (its owner). ``wipe``: and its state, with carried secrets, is left behind for good."""
    record = await client.resolver.record(agent)
    return await client.send("Agents", encode("Agents", "wipeState" if wipe else "bumpEpoch", record.token_id))


async def rotate_cluster(client: Client, cluster: bytes) -> Receipt:
    """New keys for every agent of a cluster (its owner or the DAO)."""
    return await client.send("Clusters", encode("Clusters", "bumpEpoch", cluster))


async def rotate_due(client: Client, agent: bytes) -> Receipt:
    """New keys for an agent whose present ones are older than its cluster allows: anybody may. Raises the revert."""
    record = await client.resolver.record(agent)
    return await client.send("Agents", encode("Agents", "bumpEpochScheduled", record.token_id))


async def await_rotated(
    client: Client, agent: bytes, past: Epochs, *, seats: int = 1, within_s: float = 120.0
) -> AsyncIterator[str]:
    """Wait until the agent is served under epochs later than ``past``; yields each step in words as it is reached.

    Raises TransportError (client.not_ready) after ``within_s``."""
    yield "waiting for finality"
    step = "the new epoch is not final"
    try:
        async with asyncio.timeout(within_s):
            while (now := (await _version(client, agent)).epochs) <= past:  # noqa: ASYNC110 - the chain tells nobody
                await asyncio.sleep(POLL_S)
            yield f"final: agent epoch {now.agent}, cluster epoch {now.cluster}; workers re-seal state and secrets"
            step = "no worker serves the agent under its new keys"
            while len(await _seats(client, agent)) < seats:  # noqa: ASYNC110 - nor do workers
                await asyncio.sleep(POLL_S)
    except TimeoutError:
        raise NOT_READY(expected=f"new keys in use within {within_s:g} s", found=step) from None
    yield "re-sealed: workers serve under the new keys, and the old ones are closed"


async def epochs_of(client: Client, agent: bytes) -> Epochs:
    """The agent's present epochs, by proof."""
    return (await _version(client, agent)).epochs


async def _version(client: Client, agent: bytes) -> AgentVersion:
    return await client.resolver.version(await client.resolver.record(agent))


async def _seats(client: Client, agent: bytes) -> list[Any]:
    """Seats under the present keys: the resolver takes no others."""
    try:
        return list((await client.resolver.resolve(agent, again=True)).sittings)
    except CloisterError:
        return []


async def _served(client: Client, agent: bytes) -> bool:
    return bool(await _seats(client, agent))


def _secrets(record: AgentRecord, now: Epochs) -> str:
    if record.secrets_at is None:
        return "none"
    return "present" if record.secrets_at == now else "carried"
