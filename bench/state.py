"""State commits on the embedded fabric, beside a bare write + fdatasync of the same size in the same run.

Disks differ more than code does: read the ratio.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import uvloop

from bench.measure import Row, at_least, at_most, finish, median
from cloister.core.state.endorse import Answer
from cloister.core.state.sealing import StateKeys
from cloister.fabric.embedded import open_fabric
from cloister.fabric.ports import Expect, Fabric, Put, Tx
from cloister.worker.state import AgentState

VALUE = os.urandom(1024)
WRITERS = 32


def fdatasync_us(folder: Path, seconds: float) -> float:
    """Median time of appending 1 KiB and waiting for the disk."""
    descriptor = os.open(folder / "plain", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    times, end = [], time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        os.write(descriptor, VALUE)
        os.fdatasync(descriptor)
        times.append(time.perf_counter() - start)
    os.close(descriptor)
    return median(times) * 1e6


async def measure(lanes: list[Callable[[int], Awaitable[object]]], seconds: float) -> tuple[float, float]:
    """Median microseconds and calls per second of lanes that run at once."""
    times: list[float] = []
    end = time.perf_counter() + seconds

    async def lane(call: Callable[[int], Awaitable[object]]) -> None:
        number = 0
        while time.perf_counter() < end:
            start, number = time.perf_counter(), number + 1
            await call(number)
            times.append(time.perf_counter() - start)

    began = time.perf_counter()
    await asyncio.gather(*(lane(call) for call in lanes))
    return median(times) * 1e6, len(times) / (time.perf_counter() - began)


def raw_lane(fabric: Fabric, lane: int) -> Callable[[int], Awaitable[object]]:
    """Unconditional puts of one key."""
    return lambda n: fabric.state.commit("ab", Tx(f"{lane}.{n}", {f"k{lane}": Put(VALUE, Expect.ANY)}))


async def agent_lane(fabric: Fabric, lane: int) -> Callable[[int], Awaitable[object]]:
    """Whole agent commits: begin, read, write, seal, index, head."""
    state = AgentState(fabric.state, StateKeys(bytes([lane]) * 32, b"id"), f"{lane:04x}", os.urandom)
    await state.load([Answer(bytes([n]) * 20, 0, bytes(32)) for n in range(3)], 3)

    async def call(number: int) -> object:
        tx = await state.begin(f"r{number}")
        await tx.get("key")
        await tx.put("key", VALUE)
        record = await tx.commit(f"r{number}")
        state.endorsed(record.height)
        return record

    return call


async def rows(folder: Path, seconds: float) -> list[Row]:
    """All rows. The baseline is bare fdatasync, in the same unit."""
    fabric = await open_fabric(folder)
    disk = fdatasync_us(folder, seconds)
    one, _ = await measure([raw_lane(fabric, 0)], seconds)
    _, many = await measure([raw_lane(fabric, 100 + n) for n in range(WRITERS)], seconds)
    agent_one, _ = await measure([await agent_lane(fabric, 1)], seconds)
    _, agent_many = await measure([await agent_lane(fabric, 2 + n) for n in range(WRITERS)], seconds)
    await fabric.close()
    return [
        at_most("state commit p50, 1 writer", one, "us", 2000, disk),
        at_least(f"state commits, {WRITERS} writers", many, "1/s", 5000, 1e6 / disk),
        at_most("agent commit p50 (sealed, indexed, chained)", agent_one, "us", 2000, disk),
        at_least(f"agent commits, {WRITERS} agents", agent_many, "1/s", 1000, 1e6 / disk),
    ]


def main() -> int:
    """The rows of this module alone: ``python -m bench.state [seconds per row]``; BENCH_DIR chooses the disk."""
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 2.0
    with tempfile.TemporaryDirectory(dir=os.environ.get("BENCH_DIR")) as name:
        return finish(uvloop.run(rows(Path(name), seconds)))


if __name__ == "__main__":
    sys.exit(main())
