"""`cloister relay` in front of a live network, as an operator runs it."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from cloister.devnet.network import Devnet


@asynccontextmanager
async def relay_of(devnet: Devnet) -> AsyncIterator[str]:
    """`cloister relay` in front of the network's gateway."""
    command = (sys.executable, "-m", "cloister.cli", "relay", "--to", devnet.gateway_url, "--listen", "127.0.0.1:0")
    process = await asyncio.create_subprocess_exec(*command, "--json", stdout=asyncio.subprocess.PIPE)
    try:
        assert process.stdout is not None
        text = b""
        async with asyncio.timeout(300):
            while not text.strip().endswith(b"}"):
                line = await process.stdout.readline()
                assert line, "the relay ended"
                text += line
        yield json.loads(text)["relay"]
    finally:
        process.terminate()
        await process.wait()
