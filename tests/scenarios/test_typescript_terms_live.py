"""The TypeScript client on a devnet whose committee refreshes by itself, while it is called all the time.

It pinned the founding committee and knows nothing else. Its calls are sealed by X-Wing or not at all. When the next
term is in office it has followed; a client that starts then follows from the pin; one that remembers goes on from it.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cloister.client.client import Client
from cloister.client.deploy import await_seats, deploy_agent
from cloister.client.receipts import Kept
from cloister.client.verify import verify_kept_receipt
from cloister.core.encoding.hexes import to_hex
from cloister.core.policy.manifest import normalize
from cloister.devnet import ledger
from cloister.devnet.demo.steps import owner_wallet
from cloister.devnet.network import Devnet, Options
from support.typescript import Driver, driver

pytestmark = [pytest.mark.long, pytest.mark.network]

RULES = replace(ledger.ELECTING, ceremony_blocks=40, refresh_blocks=90, erase_delay=8)
DEMAND: dict[str, Any] = {"postQuantum": True, "minUpgradeBlocks": 10}
HELLO = b"export default { fetch: (request) => new Response('hello ' + new URL(request.url).pathname) };"


@pytest.fixture
async def devnet() -> AsyncIterator[Devnet]:
    home = Path(tempfile.mkdtemp(prefix="clo-"))
    try:
        async with Devnet(Options(home, workers=2, with_model=False, block_time=1.0, rules=RULES)) as running:
            yield running
    finally:
        shutil.rmtree(home, ignore_errors=True)


async def connected(typescript: Driver, devnet: Devnet, agent: bytes, memory: str | None) -> None:
    """A new client of the founding pin, and the agent as it demands it."""
    assert devnet.network is not None
    kept = {} if memory is None else {"memory": memory}
    await typescript.aok("connect", url=devnet.gateway_url, fingerprint=devnet.network.fingerprint(), **kept)
    await typescript.aok("agent", name=to_hex(agent), demand=DEMAND)


async def test_calls_go_on_through_a_refresh_that_nobody_asked_for(devnet: Devnet, tmp_path: Path) -> None:
    assert devnet.network is not None
    wallet = owner_wallet(devnet)
    print_ = devnet.network.fingerprint()
    async with Client(devnet.gateway_url, fingerprint=print_, wallet=wallet, home=tmp_path) as client:
        deployed = await deploy_agent(client, HELLO, normalize({"upgrade": {"rule": "delay", "blocks": 10}}))
        await await_seats(client, deployed.agent, seats=2, within_s=240)
        with driver() as typescript:
            await connected(typescript, devnet, deployed.agent, "one")
            first = (await typescript.aok("resolve"))["term"]
            end = asyncio.get_running_loop().time() + 480
            calls = 0
            while (await typescript.aok("resolve"))["term"] == first:
                assert (await typescript.aok("call", path="/before"))["text"] == "hello /before"
                assert asyncio.get_running_loop().time() < end, "nobody refreshed"
                calls += 1
                await asyncio.sleep(1)
            assert calls > 0
            for memory in ("one", None):
                await connected(typescript, devnet, deployed.agent, memory)
                answer = await typescript.aok("call", path="/after")
                assert answer["text"] == "hello /after"
                found = await typescript.aok("resolve")
                assert (found["threshold"], found["seats"]) == (3, 2)
                assert found["term"] > first
                report = await verify_kept_receipt(client, Kept.from_json(answer["kept"]))
                assert report.ok, report.to_json()
            assert (await typescript.aok("agreed", path="/same", options={"vendors": 1}))["text"] == "hello /same"
