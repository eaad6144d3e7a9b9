"""Sandbox: start of a warm small agent and warm requests, against plain Deno measured in the same run.

``python bench/bench_sandbox.py [--rounds N] [--requests N]``. With BENCH_JSON=FILE also a list of
{name, value, unit, baseline, ratio, target, ok}. Wall times move with the machine's load; ratios of one run hold.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cloister.sandbox.deno import DenoProcess, DenoSandbox
from cloister.sandbox.machine import find_tool
from cloister.sandbox.ports import AgentRequest, AgentSpec

AGENT = 'export default { fetch() { return new Response("hello"); } };'
PLAIN_START = 'console.log("x")'
PLAIN_SERVE = """
const onListen = () => console.log("ready");
Deno.serve({ transport: "unix", path: Deno.args[0], onListen }, () => new Response("hello"));
"""
START_TARGET = 0.060  # s, DESIGN section 15: floor for a small agent


class Host:
    """No host calls, no logs."""

    async def call(self, request_id: str, name: str, args: Mapping[str, Any]) -> Any:
        """Refuse."""
        raise RuntimeError(name)

    def log(self, request_id: str | None, level: str, text: str) -> None:
        """Drop."""


def request() -> AgentRequest:
    return AgentRequest("0x00", "GET", "/", [], b"", None, int(time.time() * 1000) + 30_000)


async def ask(process: DenoProcess) -> None:
    _, body = await process.fetch(request())
    data = b"".join([piece async for piece in body])
    assert data == b"hello"


async def start_times(sandbox: DenoSandbox, deno: Path, folder: Path, rounds: int) -> tuple[float, float]:
    """Medians in seconds: sandbox from nothing to the first answer; plain Deno from nothing to its first output."""
    script = folder / "start.js"
    script.write_text(PLAIN_START)
    spec = AgentSpec(bytes(32), hashlib.sha256(AGENT.encode()).digest(), AGENT.encode())
    ours, plain = [], []
    for round_ in range(rounds + 1):
        began = time.perf_counter()
        process = await sandbox.start(spec, Host())
        await ask(process)
        first = time.perf_counter() - began
        await process.close()
        began = time.perf_counter()
        await asyncio.to_thread(run_plain, deno, script, folder)
        if round_:
            ours.append(first)
            plain.append(time.perf_counter() - began)
    return statistics.median(ours), statistics.median(plain)


def run_plain(deno: Path, script: Path, folder: Path) -> None:
    subprocess.run([deno, "run", script], env=plain_env(folder), check=True, stdout=subprocess.PIPE)


def plain_env(folder: Path) -> dict[str, str]:
    return {"DENO_DIR": str(folder / "deno"), "DENO_NO_UPDATE_CHECK": "1"}


async def sandbox_requests(sandbox: DenoSandbox, count: int, width: int) -> tuple[float, float]:
    """Requests per second, and CPU microseconds of the agent per request, ``width`` at a time."""
    spec = AgentSpec(bytes(32), hashlib.sha256(AGENT.encode()).digest(), AGENT.encode())
    process = await sandbox.start(spec, Host())

    async def worker(share: int) -> None:
        for _ in range(share):
            await ask(process)

    await worker(200)
    before, began = process.usage()["cpu_us"], time.perf_counter()
    await asyncio.gather(*(worker(count // width) for _ in range(width)))
    took, cpu = time.perf_counter() - began, process.usage()["cpu_us"] - before
    await process.close()
    return count / took, cpu / count


async def plain_requests(deno: Path, folder: Path, count: int, width: int) -> tuple[float, float]:
    """The same of Deno.serve on a unix socket, asked by a bare asyncio client over ``width`` connections."""
    script, path = folder / "serve.js", folder / "s.sock"
    script.write_text(PLAIN_SERVE)
    path.unlink(missing_ok=True)
    argv = [str(deno), "run", "-A", str(script), str(path)]
    server = await asyncio.create_subprocess_exec(*argv, env=plain_env(folder), stdout=asyncio.subprocess.PIPE)
    assert server.stdout is not None
    await server.stdout.readline()

    async def worker(share: int) -> None:
        reader, writer = await asyncio.open_unix_connection(path)
        for _ in range(share):
            writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            await reader.readuntil(b"hello")
        writer.close()

    await worker(200)
    before, began = cpu_of(server.pid), time.perf_counter()
    await asyncio.gather(*(worker(count // width) for _ in range(width)))
    took, cpu = time.perf_counter() - began, cpu_of(server.pid) - before
    server.kill()
    await server.wait()
    return count / took, cpu / count


def cpu_of(pid: int) -> float:
    return time.clock_gettime_ns((~pid << 3) | 2) / 1000


def row(name: str, value: float, unit: str, baseline: float, target: float, *, higher: bool) -> dict[str, Any]:
    ratio = value / baseline
    ok = ratio >= target if higher else value <= target
    print(f"{name:34} {value:10.1f} {unit:8} plain {baseline:10.1f}   ratio {ratio:5.2f}   {'ok' if ok else 'MISSED'}")
    fields = ("name", "value", "unit", "baseline", "ratio", "target", "ok")
    return dict(zip(fields, (name, value, unit, baseline, ratio, target, ok), strict=True))


async def run(rounds: int, count: int) -> list[dict[str, Any]]:
    """All measurements, interleaved with their baselines."""
    deno, rows = find_tool("deno"), []
    with tempfile.TemporaryDirectory(prefix="bench-sandbox-") as name:
        folder = Path(name)
        async with DenoSandbox(folder / "work") as sandbox:
            ours, plain = await start_times(sandbox, deno, folder, rounds)
            rows.append(row("start to first answer", ours * 1e3, "ms", plain * 1e3, START_TARGET * 1e3, higher=False))
            for width in (1, 16):
                rate, cpu = await sandbox_requests(sandbox, count, width)
                plain_rate, plain_cpu = await plain_requests(deno, folder, count, width)
                rows.append(row(f"requests, {width} at a time", rate, "1/s", plain_rate, 0.4, higher=True))
                rows.append(row(f"agent CPU, {width} at a time", cpu, "us/req", plain_cpu, 45.0, higher=False))
    return rows


def main() -> int:
    """Run, print, write BENCH_JSON; 0 if every floor is reached."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--requests", type=int, default=8000)
    given = parser.parse_args()
    rows = asyncio.run(run(given.rounds, given.requests))
    if target := os.environ.get("BENCH_JSON"):
        Path(target).write_text(json.dumps(rows, indent=1))
    return 0 if all(row["ok"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
