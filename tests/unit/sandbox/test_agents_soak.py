"""Twenty agents in real sandboxes, called and killed at random for SOAK_S seconds (600): nothing is left over."""

from __future__ import annotations

import asyncio
import gc
import os
import random
import signal
import time
from collections import Counter
from pathlib import Path

import pytest

from cloister.core.errors import CloisterError
from cloister.sandbox.deno import DenoSandbox
from cloister.sandbox.ports import AgentProcess, AgentSpec
from cloister.worker.processes import Budget, Pool, Processes
from support.sandbox_kit import MemoryHost, ask, children, descendants, mounts, network_namespaces, open_files, spec_of

SOAK_S = float(os.environ.get("SOAK_S", "600"))
AGENTS, CALLERS = 20, 6
MIB = 1 << 20
CODE = "export default { fetch: async (request) => new Response('agent N ' + await request.text()) };"
# What a caller may be told while processes are killed under it.
EXPECTED = {
    "sandbox.crashed",
    "sandbox.protocol",
    "sandbox.closed",
    "sandbox.start",
    "worker.backing_off",
    "worker.full",
}


def resident() -> int:
    """Bytes of this process."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class Soak:
    """Agents, callers, and one who kills."""

    def __init__(self, sandbox: DenoSandbox) -> None:
        self.sandbox, self.dice = sandbox, random.Random(20)
        budget = Budget(idle_s=5, processes=12, spares=2, owner_processes=12)
        self.processes = Processes(budget, time.monotonic)
        self.pools = [self.pool(number) for number in range(AGENTS)]
        self.codes: Counter[str] = Counter()
        self.killed = 0
        self.others = descendants(children())  # a chain of other tests, for one: not ours to kill

    def pool(self, number: int) -> Pool:
        spec = spec_of(CODE.replace("agent N", f"agent {number}"))

        async def start() -> tuple[AgentSpec, AgentProcess]:
            return spec, await self.sandbox.start(spec, MemoryHost())

        return Pool(bytes([number]) * 20, start)

    async def caller(self, until: float) -> None:
        while time.monotonic() < until:
            number = min(int(self.dice.expovariate(0.2)), AGENTS - 1)
            try:
                process = await self.processes.take(self.pools[number])
                answer = await ask(process, method="POST", body=b"hello")
                self.codes["answered" if answer.text == f"agent {number} hello" else "of another agent"] += 1
            except CloisterError as error:
                self.codes[error.code] += 1
                await asyncio.sleep(0.05)
            await asyncio.sleep(self.dice.uniform(0, 0.05))

    async def killer(self, until: float) -> None:
        while time.monotonic() < until:
            await asyncio.sleep(self.dice.uniform(0.1, 0.8))
            below = sorted(descendants(children() - self.others))
            if below:
                try:
                    os.kill(self.dice.choice(below), signal.SIGKILL)
                    self.killed += 1
                except ProcessLookupError:
                    continue

    async def keeper(self, until: float) -> None:
        while time.monotonic() < until:
            await self.processes.turn()
            if self.dice.random() < 0.2:
                self.processes.renew(self.dice.choice(self.pools))
            await asyncio.sleep(0.5)

    async def run(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        await asyncio.gather(*(self.caller(until) for _ in range(CALLERS)), self.killer(until), self.keeper(until))


@pytest.mark.long
@pytest.mark.timeout(SOAK_S + 300)
async def test_twenty_agents_that_are_killed_at_random_leave_nothing(tmp_path: Path) -> None:
    before = open_files(), children(), network_namespaces()
    async with DenoSandbox(tmp_path / "work") as sandbox:
        soak = Soak(sandbox)
        await soak.run(min(30.0, SOAK_S / 4))  # bundles are laid, allocators have what they keep
        warm, files = resident(), len(list((tmp_path / "work").rglob("*")))
        await soak.run(SOAK_S)
        grown = resident() - warm
        await soak.processes.close()
        assert not descendants(children()) - before[1], "no process is left when all pools are closed"
        folders = list((tmp_path / "work" / "deno" / "agents").iterdir())
        assert not folders, "no folder of an agent is left"
        assert len(list((tmp_path / "work").rglob("*"))) <= files + AGENTS * 8, "one bundle and cache for each agent"
    assert soak.killed > SOAK_S / 5
    assert soak.codes["answered"] > SOAK_S
    assert soak.codes["of another agent"] == 0
    assert set(soak.codes) - {"answered", "of another agent"} <= EXPECTED, soak.codes
    assert grown < 24 * MIB, f"{grown / MIB:.1f} MiB more after {soak.killed} kills and {soak.codes}"
    await asyncio.sleep(0.2)
    after = open_files(), children(), network_namespaces()
    assert after == before
    assert str(tmp_path) not in mounts(), "other tests may mount meanwhile; what this one mounted is gone"
