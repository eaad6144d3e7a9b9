"""``cloister agent dev``: serve a folder's agent, build it again when a file changes."""

from __future__ import annotations

import asyncio
import json
import os
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

from cloister.client.build import Built, build
from cloister.client.home import read_file
from cloister.core.encoding.hexes import to_hex
from cloister.core.errors import CloisterError, ConfigError, define
from cloister.core.policy.cron import Cron
from cloister.core.policy.manifest import Task
from cloister.devnet.commands import NOT_RUNNING
from cloister.devnet.layout import Layout
from cloister.devnet.model.tls import CA_FILE
from cloister.local.agent import SCHEDULE, LocalAgent, LocalRequest, Outside
from cloister.local.server import LocalServer
from cloister.sandbox.ports import AgentResponseHead, Chunks
from cloister.sandbox.runtimes import AgentSandbox
from cloister.worker.agentlog import Sink

STATE_FOLDER: Final = ".cloister"
SECRETS_FILE: Final = "secrets.json"
POLL_S: Final = 0.3
CLOCK_S: Final = 0.5
MAX_FILES: Final = 4096
_SKIPPED: Final = frozenset({STATE_FOLDER, "node_modules"})
_SUFFIXES: Final = (".ts", ".js", ".mts", ".mjs", ".cjs", ".tsx", ".jsx", ".json", ".lock", ".py")

BAD_SECRETS = define(
    "local.secrets",
    ConfigError,
    check="a local secrets file is one JSON object of texts",
    remedy='write {"NAME": "value"}; keep the file out of version control',
)

Snapshot = Mapping[str, tuple[int, int]]


def read_secrets(folder: Path, file: Path | None) -> dict[str, str]:
    """Secrets by name: of ``file``, else of ``FOLDER/.cloister/secrets.json`` where there is one.

    Raises ConfigError (local.secrets, client.file)."""
    path = file or folder / STATE_FOLDER / SECRETS_FILE
    if file is None and not path.exists():
        return {}
    try:
        values = json.loads(read_file(path, 1 << 20))
    except (ValueError, RecursionError):
        values = None
    if not isinstance(values, dict) or not all(isinstance(value, str) for value in values.values()):
        raise BAD_SECRETS(expected="a JSON object of texts", found="something else")
    return values


def devnet_model(home: Path) -> tuple[str, dict[str, tuple[str, int]], bytes]:
    """(API key, host map, authority) of the model server of the network that runs from ``home``.

    Raises devnet.not_running, ConfigError (client.file)."""
    from cloister.devnet.told import API_KEY_FILE, read_devnet_file

    facts = read_devnet_file(home)
    if facts is None:
        raise NOT_RUNNING(expected=f"a network in {home}", found="none")
    layout = Layout(home / "devnet")
    key = read_file(layout.model / API_KEY_FILE, 1024).decode().strip()
    return key, {"api.openai.com": ("127.0.0.1", layout.ports()["model"])}, read_file(layout.model / CA_FILE)


def files_of(folder: Path) -> Snapshot:
    """Sources below a folder: path -> (mtime in ns, size). Hidden folders and packages are left out."""
    found: dict[str, tuple[int, int]] = {}
    for base, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name not in _SKIPPED)
        for name in names:
            if name.endswith(_SUFFIXES) and len(found) < MAX_FILES:
                path = Path(base, name)
                try:
                    about = path.stat()
                except OSError:
                    continue  # an editor that replaces a file
                found[str(path)] = (about.st_mtime_ns, about.st_size)
    return found


async def build_here(entry: Path, deno: Path) -> Built:
    """A build whose files nobody keeps. Raises ConfigError with what the bundler said."""
    with tempfile.TemporaryDirectory(prefix="cloister-agent-") as out:
        return await build(entry, Path(out), deno=deno)


@asynccontextmanager
async def local_agent(folder: Path, log: Sink) -> AsyncIterator[LocalAgent]:
    """An agent whose state lies in ``folder``, in a sandbox of its own; nothing but the state outlives the block."""
    with tempfile.TemporaryDirectory(prefix="cloister-sandbox-") as work:
        Path(work).chmod(0o711)
        async with AgentSandbox(Path(work) / "sandbox") as sandbox:
            agent = await LocalAgent.open(sandbox, folder, log)
            try:
                yield agent
            finally:
                await agent.close()


async def asked_by_the_clock(
    agent: LocalAgent, tasks: Callable[[], tuple[Task, ...]], say: Callable[[str], None], *, now: Callable[[], float]
) -> None:
    """Ask what is due, once each, until cancelled. Times before the start are over; a failure is said, not repeated."""
    started, done = int(now()), dict[tuple[str, str], int]()
    while True:
        for task in tasks():
            due, name = Cron.parse(task.cron).last(int(now())), (task.cron, task.path)
            if due is None or due <= done.get(name, started):
                continue
            done[name] = due
            headers = (("cloister-scheduled", str(due)), ("idempotency-key", f"{task.path} {due}"))
            try:
                status = await agent.fetch(LocalRequest("POST", task.path, headers, caller=SCHEDULE), _read)
            except CloisterError as error:
                status = error.status
                say(f"error  {error.code}: found {error.found}")
            say(f"{status}    scheduled {task.path} ({task.cron})")
        await asyncio.sleep(CLOCK_S)


async def _read(head: AgentResponseHead, chunks: Chunks) -> int:
    async for _ in chunks:
        pass
    return head.status


class Dev:
    """The loop behind ``agent dev``. ``say(line)`` speaks to the person, ``refuse(error)`` shows a refusal. ``clock``:
    Unix seconds by which the manifest's schedule runs; None: it does not."""

    def __init__(
        self,
        entry: Path,
        deno: Path,
        outside: Outside,
        say: Callable[[str], None],
        refuse: Callable[[CloisterError], None],
        clock: Callable[[], float] | None = None,
    ) -> None:
        self._clock, self._tasks = clock, tuple[Task, ...]()
        self._entry, self._deno, self._outside, self._say, self._refuse = entry, deno, outside, say, refuse
        self._folder = entry if entry.is_dir() else entry.parent

    async def run(self, port: int, ready: Callable[[dict[str, Any]], None], *, poll_s: float = POLL_S) -> None:
        """Serve until cancelled. ``ready({url, code_hash, state})`` is called once the agent answers.

        The first build must succeed (raises ConfigError, SandboxError); later ones only complain."""
        state = self._folder / STATE_FOLDER / "state"
        async with local_agent(state, lambda level, text: self._say(f"{level:<5}  {text}")) as agent:
            seen = files_of(self._folder)
            built = await build_here(self._entry, self._deno)
            await agent.start(built, self._outside)
            self._tasks = built.manifest.schedule
            server = LocalServer(agent, lambda method, path, status: self._say(f"{status}    {method} {path}"))
            tasks: list[asyncio.Future[None]] = []
            try:
                url, ids = await server.start(port), {"agent": to_hex(agent.keys.agent)}
                ready({"url": url, **ids, "code_hash": to_hex(built.code_hash), "state": str(state)})
                tasks.append(asyncio.ensure_future(self._follow(agent, built, seen, poll_s)))
                if self._clock is not None:
                    work = asked_by_the_clock(agent, lambda: self._tasks, self._say, now=self._clock)
                    tasks.append(asyncio.ensure_future(work))
                await asyncio.gather(*tasks)
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
                await server.close()

    async def _follow(self, agent: LocalAgent, built: Built, seen: Snapshot, poll_s: float) -> None:
        while True:
            await asyncio.sleep(poll_s)
            now = await asyncio.to_thread(files_of, self._folder)
            if now == seen:
                continue
            seen = now
            try:
                fresh = await build_here(self._entry, self._deno)
                if (fresh.code_hash, fresh.manifest_hash) == (built.code_hash, built.manifest_hash):
                    continue
                await agent.start(fresh, self._outside)
            except CloisterError as error:
                self._refuse(error)
                self._say("the version before it still answers")
                continue
            built, self._tasks = fresh, fresh.manifest.schedule
            self._say(f"reloaded: 0x{built.code_hash.hex()}")
