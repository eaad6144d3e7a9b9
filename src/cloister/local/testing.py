"""``cloister agent test``: an agent's own tests, asked from outside, against the agent in its real sandbox.

``agent.test.ts`` default-exports an object {sentence: async (agent) => void}. It may export ``hosts``, {name: (request)
=> Response}, which stand in for the hosts of the manifest, ``agents``, {id: (request) => Response}, for other agents,
and ``secrets``, {name: text}. Every test begins with an empty state. The tests run in the developer's Deno, which may
read the folder and speak to 127.0.0.1, nothing else.

``agent_test.py`` has functions ``test_…(agent)``, ``HOSTS``, ``AGENTS`` and ``SECRETS`` instead. It runs in the
developer's Python, as the developer: that wall is the agent's alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import json
import os
import sys
import tempfile
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from cloister import sandbox
from cloister.core.errors import ConfigError, define
from cloister.core.policy.egress import HOST
from cloister.devnet.model.tls import CA_FILE, CERTIFICATE_FILE, KEY_FILE, server_context
from cloister.local.agent import LocalAgent, Outside
from cloister.local.dev import build_here, local_agent
from cloister.local.offers import parse_agents
from cloister.local.server import LocalServer
from cloister.worker.agentlog import Sink

TEST_FILES: Final = ("agent.test.ts", "agent.test.js", "agent_test.py")
RUNNER: Final = Path(__file__).with_name("runner.js")
API: Final = Path(sandbox.__file__).parent / "python"
PY_RUNNER: Final = Path(__file__).with_name("pyrunner.py")
MAX_LINE: Final = 1 << 20
LOAD_S: Final = 60.0
TEST_S: Final = 60.0
_STDERR_TAIL: Final = 600

NO_TESTS = define(
    "local.no_tests",
    ConfigError,
    check=f"the agent's folder has {TEST_FILES[0]}, or {TEST_FILES[2]}, with at least one test",
    remedy="write `export default { async works(agent) { await agent.fetch('/'); } }`, or in Python"
    " `async def test_it_works(agent): await agent.fetch('/')`; `cloister agent new` writes one",
)
BROKEN_TESTS = define(
    "local.broken_tests",
    ConfigError,
    check="the test file loads, and its tests end in time",
    remedy="correct the error; tests may read the agent's folder and ask the agent, nothing else",
)
FAILED_TESTS = define(
    "local.failed_tests",
    ConfigError,
    check="every test of the agent passes",
    remedy="read the failures above; `cloister agent dev` serves the agent for trying by hand",
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """One test: its sentence, what it threw (None: it passed), how long it took in ms."""

    name: str
    error: str | None
    ms: int

    def to_json(self) -> dict[str, Any]:
        """JSON-ready."""
        return {"name": self.name, "ok": self.error is None, "ms": self.ms, "error": self.error}


def find_tests(folder: Path) -> Path:
    """The test file of a folder. Raises ConfigError (local.no_tests)."""
    for name in TEST_FILES:
        if (folder / name).is_file():
            return (folder / name).resolve()
    raise NO_TESTS(expected=f"a file {TEST_FILES[0]}", found="none")


async def run_tests(folder: Path, deno: Path, log: Sink, told: Callable[[Outcome], None]) -> list[Outcome]:
    """Build the agent, run its tests one after the other, tell each outcome.

    Raises ConfigError (local.*, build.*, manifest.*), SandboxError for an agent that does not start.
    1. the test file says what it needs; 2. its hosts get a certificate; 3. the agent starts; 4. the tests.
    """
    file = find_tests(folder)
    built = await build_here(folder, deno)
    with tempfile.TemporaryDirectory(prefix="cloister-test-") as work:
        async with _runner(file, deno, log) as runner, local_agent(Path(work) / "state", log) as agent:
            wants = await runner.hear(LOAD_S)  # 1
            if not wants.get("tests"):
                raise NO_TESTS(expected="tests in the file", found="none")
            outside = await _outside(runner, wants, Path(work))  # 2
            await agent.start(built, outside)  # 3
            server = LocalServer(agent, lambda method, path, status: None)
            try:
                await runner.say({"url": await server.start()})
                return await _each(runner, agent, len(wants["tests"]), told)  # 4
            finally:
                await server.close()


async def _outside(runner: _Runner, wants: Mapping[str, Any], work: Path) -> Outside:
    hosts, others = [str(name) for name in wants["hosts"]], [str(name) for name in wants.get("agents", [])]
    if not all(HOST.fullmatch(name) for name in hosts):
        raise BROKEN_TESTS(expected="hosts by their names", found=", ".join(hosts)[:120])
    values = {str(name): str(value) for name, value in wants["secrets"].items()}
    if not hosts:
        await runner.say({})
        return Outside(values, agents=_agents(others, await runner.hear(LOAD_S)))
    server_context(work / "tls", hosts, datetime.datetime.now(datetime.UTC))
    cert, key = ((work / "tls" / name).read_text() for name in (CERTIFICATE_FILE, KEY_FILE))
    await runner.say({"cert": cert, "key": key})
    heard = await runner.hear(LOAD_S)
    port, authority = int(heard["port"]), (work / "tls" / CA_FILE).read_bytes()
    return Outside(values, dict.fromkeys(hosts, ("127.0.0.1", port)), authority, _agents(others, heard))


def _agents(names: list[str], heard: Mapping[str, Any]) -> dict[bytes, str]:
    """Where the test file plays other agents: one door for all of them."""
    return parse_agents([f"{name}=http://127.0.0.1:{int(heard['agents'])}" for name in names])


async def _each(runner: _Runner, agent: LocalAgent, count: int, told: Callable[[Outcome], None]) -> list[Outcome]:
    outcomes = []
    for _ in range(count):
        await runner.hear(LOAD_S)
        await agent.fresh()
        await runner.say({})
        end = await runner.hear(TEST_S)
        error = end.get("error")
        outcome = Outcome(str(end.get("end")), None if error is None else str(error), int(end.get("ms", 0)))
        outcomes.append(outcome)
        told(outcome)
    return outcomes


class _Runner:
    """The process that runs the test file. What its tests print goes to ``log``."""

    def __init__(self, process: asyncio.subprocess.Process, log: Sink) -> None:
        self._process, self._log = process, log
        self._last: deque[str] = deque(maxlen=12)
        self._drained = asyncio.ensure_future(self._drain())

    async def close(self) -> None:
        """Kill it."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        await self._process.wait()
        await self._drained

    async def _drain(self) -> None:
        if self._process.stderr is None:
            raise RuntimeError("the runner's stderr is piped")
        while data := await self._process.stderr.read(1 << 16):
            for line in data.decode(errors="replace").splitlines():
                if line.strip():
                    self._last.append(line.strip())
                    self._log("test", line[:1000])

    async def say(self, message: Mapping[str, Any]) -> None:
        """One line to the runner."""
        if self._process.stdin is None:
            raise RuntimeError("the runner's stdin is piped")
        with contextlib.suppress(ConnectionError):
            self._process.stdin.write(json.dumps(message).encode() + b"\n")
            await self._process.stdin.drain()

    async def hear(self, within_s: float) -> dict[str, Any]:
        """One line of the runner. Raises ConfigError (local.broken_tests) with what it said on stderr."""
        if self._process.stdout is None:
            raise RuntimeError("the runner's stdout is piped")
        try:
            line = await asyncio.wait_for(self._process.stdout.readline(), within_s)
            value = json.loads(line) if line else None
        except TimeoutError:
            raise BROKEN_TESTS(expected=f"an end within {within_s:g} s", found="none") from None
        except ValueError:
            value = None
        if not isinstance(value, dict):
            raise BROKEN_TESTS(expected="tests that run", found=await self._last_words())
        return value

    async def _last_words(self) -> str:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(self._drained), 2.0)
        return " | ".join(self._last)[:_STDERR_TAIL] or "an end without a word"


@asynccontextmanager
async def _runner(file: Path, deno: Path, log: Sink) -> AsyncIterator[_Runner]:
    folder = file.parent
    process = await asyncio.create_subprocess_exec(
        *_program(file, deno),
        cwd=folder,
        env={**os.environ, "NO_COLOR": "1", "DENO_NO_UPDATE_CHECK": "1", "NO_PROXY": "127.0.0.1"},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        limit=MAX_LINE,
    )
    runner = _Runner(process, log)
    try:
        yield runner
    finally:
        await runner.close()


def _program(file: Path, deno: Path) -> list[str]:
    """Program and arguments that run a test file."""
    if file.suffix == ".py":
        return [sys.executable, "-B", str(PY_RUNNER), str(file), str(API)]
    folder = file.parent
    allowed = [f"--allow-read={folder}", "--allow-net=127.0.0.1", "--no-prompt"]
    locked = [f"--lock={folder / 'deno.lock'}", "--frozen"] if (folder / "deno.lock").is_file() else ["--no-lock"]
    config = [f"--config={folder / 'deno.json'}"] if (folder / "deno.json").is_file() else ["--no-config"]
    return [str(deno), "run", "--quiet", *config, *locked, *allowed, str(RUNNER), file.as_uri()]
