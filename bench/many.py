"""Many agents on one worker: starts and memory of four bundles, spares, thousands that sleep.

``python -m bench.many [deployed] [rounds]``. Bundles: a tiny one, and three with npm packages (viem, openai,
langchain). The crowd is a worker in this process over a chain in memory, with sandboxes that answer at once: it shows
what sleeping agents cost the worker, not what agents cost.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import uvloop

from bench.measure import Row, at_most, fact, family, finish, median, percentile, private_bytes, pss_bytes
from bench.sandbox import SMALL, Agent, Host, _environment
from cloister.client.build import build
from cloister.core.errors import CloisterError
from cloister.devnet import tools
from cloister.sandbox.blanks import MAX_BLANK_BUNDLE, Shape
from cloister.sandbox.deno import DenoSandbox
from cloister.sandbox.ports import AgentProcess, AgentRequest, AgentSpec, Limits
from cloister.worker.processes import Budget, Member, Pool, Processes

ROOT = Path(__file__).parents[1]
SOURCES = {
    "viem": ROOT / "agents" / "oracle",
    "openai": ROOT / "agents" / "notes",
    "langchain": ROOT / "src" / "cloister" / "cli" / "templates" / "langchain",
}
PLAIN = "const { default: agent } = await import(Deno.args[0]); console.log(typeof agent.fetch);"
# Milliseconds to the first answer (DESIGN section 15): the small and the openai bundle; a spare.
FLOORS = {"tiny": 60.0, "openai": 125.0}
SPARE_MS, IDLE_MB, GIB = 5.0, 11.0, 1 << 30
IDLE, ACTIVE_SHARE, ROUNDS = 24, 20, 7


async def bundles(folder: Path) -> dict[str, Agent]:
    """The four, by name."""
    found = {"tiny": Agent(SMALL)}
    for name, source in SOURCES.items():
        found[name] = Agent((await build(source, folder / name, deno=tools.deno())).bundle)
    return found


def _spec(agent: Agent) -> AgentSpec:
    """With time enough for a machine that does much else."""
    return replace(agent.spec, limits=Limits(start_s=60.0))


async def ask(process: AgentProcess) -> None:
    """One request to its end. What an agent says to it (or that it throws) is its own affair."""
    request = AgentRequest("0x00", "GET", "/nothing", [], b"", None, int(time.time() * 1000) + 30_000)
    try:
        _, body = await process.fetch(request)
        async for _ in body:
            pass
    except CloisterError as error:
        if error.code != "sandbox.agent_threw":
            raise


async def rows(folder: Path, *, rounds: int = ROUNDS, deployed: int = 2000) -> list[Row]:
    """All rows of this module."""
    found: list[Row] = []
    folder.mkdir(exist_ok=True)
    async with DenoSandbox(folder / "work", blanks=1) as sandbox:
        for name, agent in (await bundles(folder)).items():
            found += await _starts(sandbox, name, agent, folder, rounds)
            found += await _idle(sandbox, name, agent)
    return found + await _crowd(folder, deployed)


async def _starts(sandbox: DenoSandbox, name: str, agent: Agent, folder: Path, rounds: int) -> list[Row]:
    """Nothing to first answer, against plain Deno that loads the same bundle; the answer of a spare."""
    bundle, driver = folder / f"{name}.js", folder / "plain.js"
    bundle.write_bytes(agent.bundle)
    driver.write_text(PLAIN)
    ours, plain, spare = [], [], []
    for number in range(rounds + 1):  # the first one warms the caches of both
        began = time.perf_counter()
        process = await sandbox.start(_spec(agent), Host())
        await ask(process)
        ours.append((time.perf_counter() - began) * 1e3)
        await process.close()
        began = time.perf_counter()
        await asyncio.to_thread(_plain, driver, bundle, folder)
        plain.append((time.perf_counter() - began) * 1e3)
        if number:
            spare.append(await _spare(sandbox, agent))
    first, baseline = median(ours[1:]), median(plain[1:])
    title = f"agent from nothing to first answer, {name} bundle ({len(agent.bundle) >> 10} KiB)"
    floor = FLOORS.get(name)
    row = fact(title, first, "ms", baseline) if floor is None else at_most(title, first, "ms", floor, baseline)
    found = [row, at_most("  from a spare, after its process died", median(spare), "ms", SPARE_MS, first)]
    if len(agent.bundle) > MAX_BLANK_BUNDLE:
        return found
    blank = [await _blank(sandbox, agent) for _ in range(rounds)]
    return [*found, at_most("  in a process that waited, blank", median(blank), "ms", FLOORS["tiny"], first)]


async def _blank(sandbox: DenoSandbox, agent: Agent) -> float:
    """Milliseconds to the first answer of an agent that nobody has seen before, in a blank process."""
    new = Agent(agent.bundle + b"// %d" % time.monotonic_ns(), agent.path, agent.caller)
    sandbox.blanks.want(Shape.of(_spec(new), ()))
    sandbox.blanks.tend(room=True)
    await sandbox.blanks.settled()
    began = time.perf_counter()
    process = await sandbox.start(_spec(new), Host())
    await ask(process)
    took = (time.perf_counter() - began) * 1e3
    await process.close()
    return took


async def _spare(sandbox: DenoSandbox, agent: Agent) -> float:
    """Milliseconds to the first answer of an agent whose process died and that has a spare."""
    processes = Processes(Budget(), time.monotonic)

    async def start() -> tuple[AgentSpec, AgentProcess]:
        return _spec(agent), await sandbox.start(_spec(agent), Host())

    pool = Pool(bytes(20), start)
    first = await processes.take(pool)
    pool.spare = Member(pool, (await start())[1], time.monotonic())
    await first.close()
    began = time.perf_counter()
    await ask(await processes.take(pool))
    took = (time.perf_counter() - began) * 1e3
    await processes.drop(pool)
    return took


async def _idle(sandbox: DenoSandbox, name: str, agent: Agent) -> list[Row]:
    """Memory of an idle agent after its first request: its own, and with shared pages divided; how many fit into a
    GiB."""
    before = set(family(os.getpid()))
    processes = [await sandbox.start(_spec(agent), Host()) for _ in range(IDLE)]
    for process in processes:
        await ask(process)
    await asyncio.sleep(1.0)
    started = [pid for pid in family(os.getpid()) if pid not in before]
    own, each = (sum(count(pid) for pid in started) / IDLE for count in (private_bytes, pss_bytes))
    await asyncio.gather(*(process.close() for process in processes))
    title = f"  idle, {IDLE} side by side: with its part of what they share"
    row = at_most(title, each / 1e6, "MB", IDLE_MB) if name == "tiny" else fact(title, each / 1e6, "MB")
    alone = fact("  its own memory alone", own / 1e6, "MB")
    return [row, alone, fact("  that fit into a GiB, beside what they share", GIB / own, "")]


def _plain(driver: Path, bundle: Path, folder: Path) -> None:
    argv = [tools.deno(), "run", "--allow-all", driver, bundle]
    subprocess.run(argv, env=_environment(folder), check=True, stdout=subprocess.PIPE)


async def _crowd(folder: Path, deployed: int) -> list[Row]:
    """A worker with ``deployed`` agents, one in twenty of them called again and again, each block a new checkpoint."""
    sys.path.insert(0, str(ROOT / "tests"))  # the kits import each other as "support"
    from cloister.worker.endorse import Endorser
    from support.worker_kit import Rig, world_of

    rig = await Rig(world_of(), folder / "crowd").open()
    before = pss_bytes(os.getpid())
    for number in range(1, deployed + 1):
        rig.world.set_agent(number)
    for blob in rig.world.blobs.values():
        await rig.fabric.blobs.put(blob)
    rig.world.mine()
    began = time.process_time()
    await rig.follow()
    while rig.table.behind:
        await rig.table.reconcile()
    leased = time.process_time() - began
    after = pss_bytes(os.getpid())
    active = list(rig.table.placed())[: max(1, deployed // ACTIVE_SHARE)]
    sessions = {agent: rig.session(agent) for agent in active}
    endorser = Endorser(rig.node, _Members(), rig.table.placed)  # type: ignore[arg-type]
    blocks, turns, took = 10, [], []

    async def call(agent: bytes) -> None:
        start = time.perf_counter()
        got = await rig.call(agent, session=sessions[agent])
        took.append((time.perf_counter() - start) * 1e3)
        assert got.whole, got.code

    for agent in active:
        await call(agent)
    took.clear()
    for _ in range(blocks):
        rig.world.mine()
        start = time.process_time()
        await rig.follow()
        await endorser.turn()
        await rig.table.processes.turn()
        turns.append((time.process_time() - start) * 1e3)
        for agent in active:
            await call(agent)
    await rig.close()
    name = f"{deployed} agents on one worker, {len(active)} active"
    return [
        fact(f"{name}: CPU to lease and load each", leased * 1e3 / deployed, "ms"),
        fact("  memory of the worker for each, the chain in memory included", (after - before) / deployed / 1e3, "KB"),
        fact("  CPU for a new block, the chain's proofs included", median(turns), "ms"),
        fact("  request p50, in process, sealing and opening included", median(took), "ms"),
        fact("  request p99", percentile(took, 0.99), "ms"),
    ]


class _Members:
    """A committee that is never asked: no agent of the crowd writes."""


async def main(arguments: Sequence[str]) -> int:
    """The rows of this module alone."""
    with tempfile.TemporaryDirectory(prefix="bench-many-") as name:
        deployed, rounds = (*(int(a) for a in arguments), *(2000, ROUNDS)[len(arguments) :])[:2]
        return finish(await rows(Path(name), rounds=rounds, deployed=deployed))


if __name__ == "__main__":
    sys.exit(uvloop.run(main(sys.argv[1:])))
