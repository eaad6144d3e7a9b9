"""API keys and X-Wing on a real network, from the command line and from the SDK (spec/sealed-http.md 12-14).

1. the owner makes a key; who has it calls; the owner lists and revokes it; its next call is refused.
2. a caller who demands X-Wing gets an answer: every worker has a key for it.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from cloister.client import Client, Demand
from cloister.core.envelope.certificate import XWING_SUITE
from cloister.devnet.network import Devnet

pytestmark = [pytest.mark.long, pytest.mark.timeout(600), pytest.mark.asyncio(loop_scope="session")]
PROGRAM = Path(sys.executable).parent / "cloister"


async def run(home: Path, *arguments: str, code: int = 0, key: str | None = None) -> str:
    """One run of the program; stdout, or stderr where it fails. ``key``: an API key by descriptor."""
    read, write = os.pipe()
    try:
        os.write(write, (key or "").encode())
        os.close(write)
        given = ("--api-key-fd", str(read)) if key else ()
        process = await asyncio.create_subprocess_exec(
            str(PROGRAM),
            "--home",
            str(home),
            *arguments,
            *given,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            pass_fds=(read,),
            cwd=home,
        )
        out, err = await asyncio.wait_for(process.communicate(), 300)
    finally:
        os.close(read)
    assert process.returncode == code, (arguments, out.decode(), err.decode())
    return (err if code else out).decode()


async def test_a_key_is_made_used_and_revoked_from_the_command_line(devnet: Devnet) -> None:
    home = devnet.options.home
    await run(home, "agent", "new", "keyed")
    agent = json.loads(await run(home, "agent", "deploy", "keyed", "--json"))["agent"]
    made: dict[str, Any] = json.loads(await run(home, "agent", "keys", "new", agent, "mobile app", "--json"))
    assert made["key"].startswith("clk1_")
    for _ in range(2):
        assert await run(home, "call", agent, "/", key=made["key"])
    listed = json.loads(await run(home, "agent", "keys", "list", agent, "--json"))
    assert [(k["id"], k["name"], k["revoked"]) for k in listed] == [(made["id"], "mobile app", False)]
    assert made["key"][5:] not in json.dumps(listed)
    other = "clk1_" + "ab" * 32
    assert "worker.api_key)" in await run(home, "call", agent, "/", key=other, code=1)
    await run(home, "agent", "keys", "revoke", agent, made["id"])
    assert "worker.api_key_revoked" in await run(home, "call", agent, "/", key=made["key"], code=1)


async def test_a_caller_may_demand_x_wing(devnet: Devnet, client: Client) -> None:
    found = json.loads(await run(devnet.options.home, "agent", "list", "--json"))
    agent = await client.agent(found[-1]["agent"], demand=Demand(post_quantum=True))
    assert (await agent.get("/")).status == 200
    resolution = await client.resolver.resolve(agent.id)
    assert {sitting.seat.certificate.suite for sitting in resolution.sittings} == {XWING_SUITE}
