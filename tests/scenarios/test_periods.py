"""Leases are renewed at every period, and end when the committee is gone. A network of its own, with short periods.

1. Calls go on over three period changes: new call keys, new certificates, the same state.
2. Three of five gatekeepers die: calls go on until the leases end, then fail by name; nothing is lost.
3. The gatekeepers come back: the agent answers again with its state.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from cloister.client.agent import Agent
from cloister.client.client import Client
from cloister.client.deploy import await_seats, deploy_agent
from cloister.core.errors import CloisterError
from cloister.core.policy.manifest import normalize
from cloister.devnet.demo.steps import owner_wallet
from cloister.devnet.network import Devnet, Options

pytestmark = [pytest.mark.long, pytest.mark.asyncio(loop_scope="session")]
PERIOD = 8
COUNTER = b"""export default { async fetch(request, ctx) {
  const count = ((await ctx.state.get("count")) ?? 0) + 1;
  await ctx.state.put("count", count);
  return Response.json({ count });
} };"""


@pytest_asyncio.fixture(loop_scope="session", scope="module")
async def short() -> AsyncIterator[tuple[Devnet, Client, Agent]]:
    """A network whose periods last eight blocks, and a counting agent on it."""
    home = Path(tempfile.mkdtemp(prefix="clo-"))
    parameters = {"period_blocks": PERIOD, "lease_blocks": 2 * PERIOD}
    try:
        async with Devnet(Options(home, workers=2, with_model=False, parameters=parameters)) as devnet:
            assert devnet.network is not None
            pin = devnet.network.fingerprint()
            async with Client(
                devnet.gateway_url, fingerprint=pin, wallet=owner_wallet(devnet), home=home / "c"
            ) as client:
                deployed = await deploy_agent(client, COUNTER, normalize({}))
                await await_seats(client, deployed.agent, seats=2)
                yield devnet, client, await client.agent(deployed.agent)
    finally:
        shutil.rmtree(home, ignore_errors=True)


async def count(agent: Agent, key: str) -> int:
    reply = await agent.post("/", idempotency_key=key)
    assert reply.status == 200, reply.text
    return int(reply.json()["count"])


async def test_calls_go_on_over_period_changes(short: tuple[Devnet, Client, Agent]) -> None:
    _, client, agent = short
    seen: set[int] = set()
    number = 0
    end = time.monotonic() + 90
    while len(seen) < 4 and time.monotonic() < end:
        number += 1
        assert await count(agent, f"call-{number}") == number
        seen.add((await client.resolver.view()).checkpoint.number // PERIOD)
        await asyncio.sleep(0.5)
    assert len(seen) >= 4


async def test_without_a_committee_leases_end_by_name_and_come_back(short: tuple[Devnet, Client, Agent]) -> None:
    devnet, _, agent = short
    before = await count(agent, "before")
    for name in ("gk-1", "gk-3", "gk-5"):
        await devnet.children[name].kill()
    assert await count(agent, "still") == before + 1
    code = await _until_refused(agent)
    assert code in {
        "worker.stale_view",
        "chainview.stale",
        "gatekeeper.too_few",
        "client.no_seat",
        "client.outcome_unknown",
    }
    for name in ("gk-1", "gk-3", "gk-5"):
        await devnet.start_gatekeeper(name)
    assert await _until_answered(agent) >= before + 2


async def _until_refused(agent: Agent) -> str:
    for turn in range(200):
        try:
            await agent.get(f"/?turn={turn}")
        except CloisterError as error:
            return error.code
        await asyncio.sleep(0.5)
    raise AssertionError("leases never ended")


async def _until_answered(agent: Agent) -> int:
    for turn in range(200):
        try:
            return await count(agent, f"after-{turn}")
        except CloisterError:
            await asyncio.sleep(0.5)
    raise AssertionError("the network did not come back")
