"""A writer process for tests: commits pairs of equal values and a job, and says each number once it is durable.

Arguments: folder, mode ("pairs" until killed | "count" N increments under compare-and-set).
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from cloister.core.errors import StateError
from cloister.fabric.embedded import open_fabric
from cloister.fabric.ports import Expect, Fabric, Job, Put, Tx

AGENT = "ab" * 32
LANES = 4


async def pairs(fabric: Fabric, lane: int) -> None:
    """Until killed: a and b of this lane get the same number, in one transaction with one job."""
    number, filler = 0, bytes(20_000)
    while True:
        number += 1
        value = number.to_bytes(8, "big") + filler
        puts = {f"{lane}.a": Put(value, Expect.ANY), f"{lane}.b": Put(value, Expect.ANY)}
        job = Job("q", bytes([lane]) + number.to_bytes(8, "big"))
        await fabric.state.commit(AGENT, Tx(f"{lane}.{number}", puts, (job,)))
        sys.stdout.write(f"{lane} {number}\n")
        sys.stdout.flush()


async def count(fabric: Fabric, times: int) -> None:
    """Add ``times`` to one counter, reading again after each conflict."""
    done = conflicts = 0
    while done < times:
        entry = await fabric.state.get(AGENT, "n")
        value = int(entry.value) if entry else 0
        put = Put(b"%d" % (value + 1), entry.rev if entry else Expect.ABSENT)
        try:
            await fabric.state.commit(AGENT, Tx(f"{os.getpid()}.{done}", {"n": put}))
            done += 1
        except StateError as error:
            if error.code != "state.conflict":
                raise
            conflicts += 1
    print(f"{done} {conflicts}", flush=True)


async def main() -> None:
    """Run one mode."""
    folder, mode = Path(sys.argv[1]), sys.argv[2]
    fabric = await open_fabric(folder)
    if mode == "pairs":
        await asyncio.gather(*(pairs(fabric, lane) for lane in range(LANES)))
    else:
        await count(fabric, int(sys.argv[3]))
        await fabric.close()


if __name__ == "__main__":
    asyncio.run(main())
