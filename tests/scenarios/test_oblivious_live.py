"""Oblivious calls on a running network: the relay that its command runs, gateway and workers are real processes.

1. A call through the relay is answered with a verified receipt of a worker. 2. It costs the gateway one call, and the
gateway's own log names no caller. 3. State written that way is the state that sealed calls read.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from cloister.client.client import Client
from cloister.devnet.demo.steps import Demo, owner_wallet
from cloister.devnet.network import Devnet

pytestmark = [pytest.mark.long, pytest.mark.timeout(600), pytest.mark.asyncio(loop_scope="session")]


@asynccontextmanager
async def relay_of(devnet: Devnet) -> AsyncIterator[str]:
    """`cloister relay` in front of the network's gateway."""
    command = (sys.executable, "-m", "cloister.cli", "relay", "--to", devnet.gateway_url, "--listen", "127.0.0.1:0")
    process = await asyncio.create_subprocess_exec(*command, "--json", stdout=asyncio.subprocess.PIPE)
    try:
        assert process.stdout is not None
        text = b""
        async with asyncio.timeout(60):
            while not text.strip().endswith(b"}"):
                text += await process.stdout.readline()
        yield json.loads(text)["relay"]
    finally:
        process.terminate()
        await process.wait()


async def test_notes_are_written_and_read_through_a_relay(demo: Demo, devnet: Devnet, tmp_path: Path) -> None:
    assert devnet.network is not None
    pin, wallet = devnet.network.fingerprint(), owner_wallet(devnet)
    async with relay_of(devnet) as url:
        client = Client("http://gateway.invalid", oblivious=url, fingerprint=pin, wallet=wallet, home=tmp_path)
        async with client:
            agent = await client.agent(demo.agent_id)
            written = await agent.post("/notes", json={"title": "seen by nobody", "text": "sent through a relay"})
            assert written.ok
            assert written.receipt.state.before != written.receipt.state.after
            read = await agent.get("/notes")
            assert "seen by nobody" in read.text
            kept = client.ledger.load(written.receipt.id)
            assert kept.receipt == written.receipt
    sealed = await (await demo.agent()).get("/notes")
    assert "seen by nobody" in sealed.text
