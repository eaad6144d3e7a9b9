"""The gateway alone, as 1, 2 and 4 processes on one port: opaque calls through it to worker processes that echo.

What a machine with enough cores gains by more processes; on one with two, generator and workers stand in the way of
four. No chain and no committee: calls need neither.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

from bench.live import Loaded, load, post
from bench.measure import Row, fact, median
from cloister.core.encoding.hexes import to_hex
from cloister.core.encoding.network import ContractRef, Genesis, Network
from cloister.core.encoding.signatures import SignerSet
from cloister.node.lifecycle import parse_ready

PROCESSES: Final = (1, 2, 4)
WORKERS: Final = 2
LANES, EACH, ROUNDS = 32, 50, 3
BODY: Final = bytes(600)

_ECHO: Final = """
import asyncio, sys
from pathlib import Path
import uvloop
from cloister.wire.announce import Announcement
from cloister.wire.frames import FrameClient
async def echo(incoming):
    await incoming.send(incoming.payload)
async def main():
    boot = bytes([int(sys.argv[2])]) * 32
    said = Announcement(boot[:20], boot, ())
    paths = sorted(Path(sys.argv[1]).glob("*.sock"))
    clients = [FrameClient(path, handler=echo, announce=said.encode) for path in paths]
    for one in clients:
        one.start()
    for one in clients:
        await one.connected(20)
    print("up", flush=True)
    await asyncio.Event().wait()
uvloop.run(main())
"""


async def rows(folder: Path) -> list[Row]:
    """Calls per second through 1, 2 and 4 processes."""
    found = []
    for count in PROCESSES:
        place = folder / str(count)
        place.mkdir(parents=True)
        async with _gateway(place, count) as port, _workers(place / "workers"):
            rates = [(await _load(place, port)).rate for _ in range(ROUNDS)]
        found.append(fact(f"gateway, {count} processes: opaque calls", median(rates), "/s"))
    return found


async def _load(folder: Path, port: int) -> Loaded:
    lanes = []
    for lane in range(LANES):
        boot = bytes([1 + lane % WORKERS]) * 32
        target = f"/v1/call/{to_hex(bytes(32))}?boot={to_hex(boot)}"
        lanes.append([post(target, "application/cloister-sealed", BODY)] * EACH)
    return await load(folder, port, lanes)


@asynccontextmanager
async def _gateway(folder: Path, count: int) -> AsyncIterator[int]:
    (folder / "network.json").write_bytes(_network().encode())
    (folder / "workers").mkdir(mode=0o700)
    settings: dict[str, Any] = {
        "host": "127.0.0.1",
        "port": 0,
        "network": str(folder / "network.json"),
        "rpc": "http://127.0.0.1:9",
        "gatekeepers": ["http://127.0.0.1:9"],
        "workers": str(folder / "workers" / "0.sock" if count == 1 else folder / "workers"),
        "fabric": str(folder / "fabric"),
        "drain_s": 1,
        "log_level": "error",
    }
    file = folder / "gateway.json"
    file.write_text(json.dumps(settings))
    words = ("-m", "cloister.gateway", "--config", str(file), "--processes", str(count))
    child = await asyncio.create_subprocess_exec(sys.executable, *words, stdout=asyncio.subprocess.PIPE)
    try:
        yield int((await _said(child))["port"])
    finally:
        child.terminate()
        await child.wait()


@asynccontextmanager
async def _workers(folder: Path) -> AsyncIterator[None]:
    children = [
        await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", _ECHO, str(folder), str(number + 1)),
            stdout=asyncio.subprocess.PIPE,
            env=dict(os.environ),
        )
        for number in range(WORKERS)
    ]
    try:
        for one in children:
            assert one.stdout is not None
            await asyncio.wait_for(one.stdout.readline(), 30)
        yield
    finally:
        for one in children:
            one.kill()
            await one.wait()


async def _said(child: asyncio.subprocess.Process) -> dict[str, Any]:
    assert child.stdout is not None
    while line := await asyncio.wait_for(child.stdout.readline(), 60):
        ready = parse_ready(line)
        if ready is not None:
            return ready
    raise RuntimeError("the gateway did not start")


def _network() -> Network:
    contracts = {"Agents": ContractRef(b"\x02" * 20, b"\x03" * 32)}
    roots = {"intel": ("0x" + "ab" * 32,)}
    genesis = Genesis("devnet", 31337, b"\x01" * 32, contracts, {"v": 1}, roots, "rpc-quorum")
    members = tuple(bytes([number]) * 20 for number in range(1, 4))
    return Network(genesis, SignerSet(1, 2, members), b"\x04" * 32, b"\x05" * 96, (b"\x06" * 96,) * 3, 1)
