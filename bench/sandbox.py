"""Sandbox: from nothing to the first answer, idle memory, warm requests; against plain Deno in the same run.

``python -m bench.sandbox [rounds] [requests]``. Bundles are warm (their compiled code is cached), as on a worker.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvloop

from bench.measure import Row, at_least, at_most, cpu_us, fact, family, finish, median, private_bytes, pss_bytes
from cloister.client.build import build
from cloister.devnet import tools
from cloister.sandbox.deno import DenoSandbox
from cloister.sandbox.ports import AgentRequest, AgentSpec
from cloister.sandbox.process import SandboxProcess

SMALL = b'export default { fetch() { return new Response("hello"); } };'
NOTES = Path(__file__).parents[1] / "agents" / "notes"
PLAIN_START = 'console.log("x")'
PLAIN_SERVE = """
const onListen = () => console.log("ready");
Deno.serve({ transport: "unix", path: Deno.args[0], onListen }, () => new Response("hello"));
"""
IDLE_AGENTS = 24
MB = 1e6


class Host:
    """Empty state, no other host calls, no logs."""

    async def call(self, request_id: str, name: str, args: Mapping[str, Any]) -> Any:
        """An empty list of keys; everything else is refused."""
        if name == "state.list":
            return []
        raise RuntimeError(name)

    def log(self, request_id: str | None, level: str, text: str) -> None:
        """Drop."""


@dataclass(frozen=True, slots=True)
class Agent:
    """A bundle, and a request that it answers with 200."""

    bundle: bytes
    path: str = "/"
    caller: Mapping[str, Any] | None = None

    @property
    def spec(self) -> AgentSpec:
        """What the sandbox starts."""
        return AgentSpec(bytes(32), hashlib.sha256(self.bundle).digest(), self.bundle)

    async def ask(self, process: SandboxProcess) -> None:
        """One request, answered whole."""
        deadline = int(time.time() * 1000) + 30_000
        head, body = await process.fetch(AgentRequest("0x00", "GET", self.path, [], b"", self.caller, deadline))
        pieces = [piece async for piece in body]
        assert head.status == 200
        assert pieces


async def notes(folder: Path) -> Agent:
    """The example agent, which bundles the openai package. Its answer lists no notes."""
    built = await build(NOTES, folder / "notes", deno=tools.deno())
    return Agent(built.bundle, "/notes", {"kind": "wallet", "address": "0x" + "11" * 20})


async def rows(folder: Path, *, rounds: int = 11, requests: int = 8000) -> list[Row]:
    """All rows of this module."""
    found = []
    small = Agent(SMALL)
    async with DenoSandbox(folder / "work") as sandbox:
        starts = (("small", small, 60.0), ("openai bundle", await notes(folder), 125.0))
        for name, agent, floor in starts:
            ours, plain = await _starts(sandbox, agent, folder, rounds)
            found.append(at_most(f"agent from nothing to first answer, {name}", ours, "ms", floor, plain))
        found += await _idle(sandbox, small)
        for width in (1, 16):
            found += await _warm(sandbox, small, folder, requests, width)
    return found


async def _starts(sandbox: DenoSandbox, agent: Agent, folder: Path, rounds: int) -> tuple[float, float]:
    """Median ms: sandbox from nothing to the first answer; plain Deno from nothing to its first output."""
    script = folder / "start.js"
    script.write_text(PLAIN_START)
    ours, plain = [], []
    for number in range(rounds + 1):  # the first one warms the caches of both
        began = time.perf_counter()
        process = await sandbox.start(agent.spec, Host())
        await agent.ask(process)
        first = time.perf_counter() - began
        await process.close()
        began = time.perf_counter()
        await asyncio.to_thread(_run_plain, script, folder)
        if number:
            ours.append(first * 1e3)
            plain.append((time.perf_counter() - began) * 1e3)
    return median(ours), median(plain)


async def _idle(sandbox: DenoSandbox, agent: Agent) -> list[Row]:
    """What one more idle agent costs, and what each holds when shared pages are divided."""
    before = set(family(os.getpid()))
    processes = [await sandbox.start(agent.spec, Host()) for _ in range(IDLE_AGENTS)]
    for process in processes:
        await agent.ask(process)
    await asyncio.sleep(1.0)
    started = [pid for pid in family(os.getpid()) if pid not in before]
    own, each = (sum(count(pid) for pid in started) / IDLE_AGENTS / MB for count in (private_bytes, pss_bytes))
    await asyncio.gather(*(process.close() for process in processes))
    title = f"idle small agent, {IDLE_AGENTS} side by side"
    return [
        at_most(f"{title}: with its part of what they share", each, "MB", 11.0),
        fact("  its own memory alone", own, "MB"),
    ]


async def _warm(sandbox: DenoSandbox, agent: Agent, folder: Path, count: int, width: int) -> list[Row]:
    rate, cpu = await _sandbox_requests(sandbox, agent, count, width)
    plain_rate, plain_cpu = await _plain_requests(folder, count, width)
    return [
        at_least(f"warm requests into the sandbox, {width} at a time", rate, "1/s", 0.4 * plain_rate, plain_rate),
        fact("  agent CPU", cpu, "us/req", plain_cpu),
    ]


async def _sandbox_requests(sandbox: DenoSandbox, agent: Agent, count: int, width: int) -> tuple[float, float]:
    """Requests per second, and CPU microseconds of the agent per request, ``width`` at a time."""
    process = await sandbox.start(agent.spec, Host())

    async def lane(share: int) -> None:
        for _ in range(share):
            await agent.ask(process)

    await lane(200)
    before, began = process.usage()["cpu_us"], time.perf_counter()
    await asyncio.gather(*(lane(count // width) for _ in range(width)))
    took, cpu = time.perf_counter() - began, process.usage()["cpu_us"] - before
    await process.close()
    return count / took, cpu / count


async def _plain_requests(folder: Path, count: int, width: int) -> tuple[float, float]:
    """The same of Deno.serve on a unix socket, asked by a bare asyncio client over ``width`` connections."""
    script, path = folder / "serve.js", folder / "s.sock"
    script.write_text(PLAIN_SERVE)
    path.unlink(missing_ok=True)
    argv = [str(tools.deno()), "run", "-A", str(script), str(path)]
    server = await asyncio.create_subprocess_exec(*argv, env=_environment(folder), stdout=asyncio.subprocess.PIPE)
    assert server.stdout is not None
    await server.stdout.readline()

    async def lane(share: int) -> None:
        reader, writer = await asyncio.open_unix_connection(path)
        for _ in range(share):
            writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            await reader.readuntil(b"hello")
        writer.close()

    await lane(200)
    before, began = cpu_us(server.pid), time.perf_counter()
    await asyncio.gather(*(lane(count // width) for _ in range(width)))
    took, cpu = time.perf_counter() - began, cpu_us(server.pid) - before
    server.kill()
    await server.wait()
    return count / took, cpu / count


def _run_plain(script: Path, folder: Path) -> None:
    subprocess.run([tools.deno(), "run", script], env=_environment(folder), check=True, stdout=subprocess.PIPE)


def _environment(folder: Path) -> dict[str, str]:
    return {"DENO_DIR": str(folder / "deno"), "DENO_NO_UPDATE_CHECK": "1"}


async def main(arguments: Sequence[str]) -> int:
    """The rows of this module alone."""
    rounds, requests = (*(int(a) for a in arguments), *(11, 8000)[len(arguments) :])[:2]
    with tempfile.TemporaryDirectory(prefix="bench-sandbox-") as name:
        return finish(await rows(Path(name), rounds=rounds, requests=requests))


if __name__ == "__main__":
    sys.exit(uvloop.run(main(sys.argv[1:])))
