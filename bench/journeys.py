"""What a person waits for: a deploy until its first verified answer, and a call while its worker dies.

Needs a devnet; ``python -m bench.journeys [rounds]``.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import uvloop

from bench.live import Live, live
from bench.measure import Row, at_most, finish, median, percentile
from cloister.core.encoding.hexes import from_hex, to_hex
from cloister.core.errors import CloisterError

DEPLOY_FLOOR_S = 10.0
FAILOVER_FLOOR_S = 2.0
WITHIN_S = 60.0


async def rows(net: Live, *, deploys: int = 3, kills: int = 5) -> list[Row]:
    """Both rows."""
    return [await _deploy(net, deploys), await _failover(net, kills)]


async def _deploy(net: Live, rounds: int) -> Row:
    source = net.folder / "hello"
    source.mkdir(exist_ok=True)
    (source / "agent.js").write_text('export default { fetch: () => new Response("hello") };\n')
    return at_most(
        "deploy command to first verified answer", median([await _deployed(net, source) for _ in range(rounds)]), "s",
        DEPLOY_FLOOR_S,
    )  # fmt: skip


async def _deployed(net: Live, source: Path) -> float:
    """Seconds from starting `cloister agent deploy` to an answer whose receipt holds."""
    before = {agent["agent"] async for agent in net.client.agents()}
    began = time.perf_counter()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "cloister.cli", "--home", str(net.folder), "agent", "deploy", str(source), "--json",
        stdout=asyncio.subprocess.PIPE, env=dict(os.environ),
    )  # fmt: skip
    output, _ = await process.communicate()
    if process.returncode != 0:
        raise RuntimeError(output.decode(errors="replace"))
    new = {agent["agent"] async for agent in net.client.agents()} - before
    agent = await net.client.agent(from_hex(new.pop(), 32))
    answer = await agent.get("/")
    if answer.text != "hello":
        raise RuntimeError(f"status {answer.status}")
    return time.perf_counter() - began


async def _failover(net: Live, rounds: int) -> Row:
    agent, times = await net.client.agent(net.agent), []
    for _ in range(rounds):
        answer = await agent.get("/stream")
        name = next(
            n for n, c in net.devnet.children.items() if c.ready.get("address") == to_hex(answer.receipt.worker)
        )
        await net.devnet.children[name].kill()
        began = time.perf_counter()
        await agent.get("/stream")
        times.append(time.perf_counter() - began)
        await net.devnet.start_worker(name)
        await _two_seats(net)
    return at_most(f"failover seen by a client, slowest of {rounds}", percentile(times, 0.99), "s", FAILOVER_FLOOR_S)


async def _two_seats(net: Live) -> None:
    async with asyncio.timeout(WITHIN_S):
        while True:
            try:
                found = await net.client.resolver.resolve(net.agent, again=True)
                if len(found.sittings) >= 2:
                    return
            except CloisterError:
                pass
            await asyncio.sleep(0.2)


async def main(arguments: Sequence[str]) -> int:
    """The rows of this module alone."""
    rounds = int(arguments[0]) if arguments else 3
    async with live() as net:
        return finish(await rows(net, deploys=rounds, kills=rounds))


if __name__ == "__main__":
    sys.exit(uvloop.run(main(sys.argv[1:])))
