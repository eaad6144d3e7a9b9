"""What only the DAO could do, t members do: agents of a removed worker, a new master key, the end of the old one.

Script: a devnet with short periods, an agent with notes and an API key. Three operators consent to the removal of one
of its workers for cause. The members remove it, and end the epoch of every agent that was leased there, by one
statement each; the notes agent still answers. Three operators consent to a new master key: the members open the
rotation, say which agents left the old epoch, and destroy it. In the end no gatekeeper has a share of it, and the notes
are there.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import sqlite3
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from cloister.chain.contracts import call
from cloister.chain.events import topic
from cloister.client.agent import Agent
from cloister.client.client import Client
from cloister.client.committee import CommitteeReader
from cloister.client.deploy import await_seats, deploy_agent
from cloister.client.keys import epochs_of
from cloister.client.secrets import set_secrets
from cloister.core.chainview.ceremonies import EpochState
from cloister.core.encoding.handover import MasterRotation
from cloister.core.encoding.hexes import to_hex
from cloister.core.encoding.statements import Statement, WorkerRemoval
from cloister.core.errors import CloisterError
from cloister.core.policy.manifest import normalize
from cloister.devnet import ledger
from cloister.devnet.demo.steps import owner_wallet
from cloister.devnet.layout import GATEKEEPERS
from cloister.devnet.network import Devnet, Options
from cloister.wire.statements import CONSENTS_FILE, consents_to_json

pytestmark = [pytest.mark.long, pytest.mark.network, pytest.mark.timeout(1200)]

PERIOD = 30
RULES = replace(ledger.ONE_TERM, ceremony_blocks=30, erase_delay=8)
NOTES = b"""export default { async fetch(request, ctx) {
  const keep = new URL(request.url).searchParams.get("keep");
  if (keep) await ctx.state.put("note:" + keep, keep);
  const notes = await ctx.state.list("note:");
  return Response.json({ notes, key: (ctx.secrets.API_KEY ?? "").length });
} };"""
KEPT = {"notes": ["note:one", "note:two"], "key": 13}


@pytest.fixture
async def devnet() -> AsyncIterator[Devnet]:
    home = Path(tempfile.mkdtemp(prefix="clo-"))
    short = {"period_blocks": PERIOD, "lease_blocks": 2 * PERIOD}
    options = Options(home, workers=3, with_model=False, block_time=0.5, parameters=short, rules=RULES)
    try:
        async with Devnet(options) as running:
            yield running
    finally:
        shutil.rmtree(home, ignore_errors=True)


async def ask(agent: Agent, keep: str = "") -> dict[str, object]:
    reply = await agent.post(f"/?keep={keep}", deadline_s=60)
    assert reply.status == 200, reply.text
    found: dict[str, object] = reply.json()
    return found


async def until(condition: Callable[[], Awaitable[bool]], what: str, within_s: float = 240) -> None:
    end = asyncio.get_running_loop().time() + within_s
    while not await condition():
        assert asyncio.get_running_loop().time() < end, f"it never came: {what}"
        await asyncio.sleep(0.5)


async def answers(agent: Agent) -> bool:
    """Whether the agent answers with all that it knew; refusals while its keys change are borne."""
    try:
        return await ask(agent) == KEPT
    except CloisterError:
        return False


def consent(devnet: Devnet, statement: Statement) -> None:
    """Three operators consent, as their command writes it."""
    for name, _ in GATEKEEPERS[:3]:
        (devnet.layout.node(name) / CONSENTS_FILE).write_text(json.dumps(consents_to_json([statement])))


def shares_on_disk(devnet: Devnet) -> dict[str, list[str]]:
    """Names of the sealed shares in each gatekeeper's state file."""
    found = {}
    for name, _ in GATEKEEPERS:
        file = devnet.layout.node(name) / "state.db"
        db = sqlite3.connect(f"file:{file}?mode=ro", uri=True)
        try:
            rows = db.execute("SELECT name FROM meta WHERE name LIKE 'share/%' ORDER BY name").fetchall()
        finally:
            db.close()
        found[name] = [row[0] for row in rows]
    return found


async def test_a_removed_worker_then_a_new_master_key_then_the_old_one_is_destroyed(devnet: Devnet) -> None:
    assert devnet.network is not None
    pin = devnet.network.fingerprint()
    home = devnet.options.home / "one"
    async with Client(devnet.gateway_url, fingerprint=pin, wallet=owner_wallet(devnet), home=home) as client:
        deployed = await deploy_agent(client, NOTES, normalize({"secrets": ["API_KEY"]}))
        await await_seats(client, deployed.agent, seats=2)
        await set_secrets(client, deployed.agent, {"API_KEY": "sk-0123456789"})
        agent = await client.agent(deployed.agent)
        await ask(agent, "one")
        await ask(agent, "two")
        idle = await deploy_agent(client, NOTES, normalize({}))  # never called: it has no state to re-seal
        await await_seats(client, idle.agent, seats=2)

        # Three operators give a worker up: the members remove it for cause.
        seat = (await client.resolver.resolve(deployed.agent, again=True)).sittings[0].seat
        worker = seat.lease.statement.worker
        consent(devnet, WorkerRemoval(1, worker))

        async def bumped() -> bool:
            return (await epochs_of(client, deployed.agent)).agent == 2

        await until(bumped, "the members' bump")
        assert (await call(client.rpc, client.address("Workers"), "Workers", "worker", worker))["removed"]
        exposed = {"address": to_hex(client.address("Agents")), "fromBlock": "0x0",
                   "topics": [to_hex(topic("Agents", "SecretsExposed"))]}  # fmt: skip
        logs = await client.rpc.call("eth_getLogs", exposed)
        assert [log["topics"][1] for log in logs] == [to_hex(deployed.agent)]
        await until(lambda: answers(agent), "notes and key under the new epoch")

        # Three operators consent to a new master key.
        consent(devnet, MasterRotation(1, 1))

        async def destroyed() -> bool:
            async with CommitteeReader(client.network, client.rpc, clock=client.clock) as reader:
                try:
                    reading = await reader.read()
                except CloisterError:
                    return False
            return [(e.epoch, e.state) for e in reading.epochs] == [(2, EpochState.RESUMED)]

        await until(destroyed, "the end of the first master epoch", 400)
        assert await call(client.rpc, client.address("Reseals"), "Reseals", "remaining", 1) == 0
        await until(lambda: _erased(devnet), "the erasure of its shares")
        await until(lambda: answers(agent), "notes and key after the end of the epoch")
        assert (await epochs_of(client, deployed.agent)).master == 2


async def _erased(devnet: Devnet) -> bool:
    return set(map(tuple, shares_on_disk(devnet).values())) == {("share/2/1",)}
