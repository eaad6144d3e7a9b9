"""Several gateway processes behind one port (spec/gateway-api.md 13): ``python -m cloister.gateway --processes N``.

::

    supervisor ── holds the port, serves one operator's door, starts what died
       ├── process 0   the same port by SO_REUSEPORT, workers at <workers>/0.sock
       └── process 1   the same port,                 workers at <workers>/1.sock

Each one is a whole gateway. They share nothing but the port, the store and the settings: a call is routed by the boot
in it, and a session lives in its worker, so any process serves any caller.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import aiohttp
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from cloister.core.errors import CloisterError
from cloister.gateway.config import BAD_SETTING, GatewayConfig
from cloister.gateway.operate import NO_PAGE, NOT_READY
from cloister.node import lifecycle, logs
from cloister.node.metrics import CONTENT_TYPE
from cloister.wire.http import Exchange, HttpLimits, HttpServer

READY_S: Final = 30.0
# Pauses before a process is started again: doubled each time, from the first one on when it lived for a minute.
FIRST_PAUSE_S: Final = 0.2
LONGEST_PAUSE_S: Final = 30.0
GOOD_LIFE_S: Final = 60.0
_PAGE_S: Final = 3.0
_MAX_PAGE: Final = 1 << 22
_MAX_READY: Final = 1 << 16

_log = logs.get("gateway.processes")


@dataclass(slots=True)
class _Child:
    """One place: its process while it lives, and how it fared. ``operate``: its own operator's port, on loopback."""

    number: int
    process: asyncio.subprocess.Process | None = None
    operate: int = 0
    starts: int = 0
    serving: asyncio.Event = field(default_factory=asyncio.Event)


class Processes:
    """Keeps ``config.processes`` gateways running until ``close``. ``file``: their settings."""

    def __init__(self, config: GatewayConfig, file: Path, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._config, self._file, self._monotonic = config, file, monotonic
        self._held: socket.socket | None = None
        self._children = [_Child(number) for number in range(config.processes)]
        self._tasks: list[asyncio.Task[None]] = []
        self._http = HttpServer(self._handle, lambda method, target: 0, limits=HttpLimits(connections=32))
        self._leaving = False
        self.port = self.operate = 0

    @property
    def pids(self) -> list[int]:
        """Processes that live now, by place."""
        return [one.process.pid for one in self._children if one.process is not None]

    async def start(self) -> None:
        """Hold the port, start all, wait until each serves. Raises ConfigError (gateway.setting)."""
        self._held = _reserved(self._config.host, self._config.port)
        self.port = int(self._held.getsockname()[1])
        try:
            self._config.workers.mkdir(mode=0o700, exist_ok=True)
            door = self._config.operator_address()
            if door is not None:
                self.operate = await self._http.start(*door)
        except OSError as error:
            raise BAD_SETTING(expected="workers: a folder; operate: free", found=error.strerror or "an error") from None
        self._tasks = [asyncio.ensure_future(self._keep(one)) for one in self._children]
        waiting = asyncio.gather(*(one.serving.wait() for one in self._children))
        try:
            await asyncio.wait_for(waiting, READY_S)
        except TimeoutError:
            raise BAD_SETTING(expected=f"every process ready within {READY_S:.0f} s", found="see the log") from None

    async def close(self) -> None:
        """SIGTERM to all: each finishes what is in progress; what is left after that is killed."""
        self._leaving = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(self._end(one) for one in self._children))
        for one in self._children:
            self._forget(one)
        await self._http.drain(0.0)
        if self._held is not None:
            self._held.close()

    # --- one place ---

    async def _keep(self, child: _Child) -> None:
        """Start it, and again whenever it dies, with a pause that grows while it dies young."""
        pause = FIRST_PAUSE_S
        while True:
            began = self._monotonic()
            try:
                await self._run(child)
            except (OSError, ValueError) as error:
                _log.error("process not started", place=child.number, exc_info=error)
            child.process, child.operate = None, 0
            self._forget(child)
            if self._monotonic() - began >= GOOD_LIFE_S:
                pause = FIRST_PAUSE_S
            _log.warning("process ended, and is started again", place=child.number, pause_s=pause)
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_S)

    async def _run(self, child: _Child) -> None:
        child.starts += 1
        command = (sys.executable, "-m", "cloister.gateway", "--config", str(self._file))
        process = child.process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            env={**os.environ, **self._settings(child.number)},
            limit=_MAX_READY,
        )
        assert process.stdout is not None  # noqa: S101 - we asked for a pipe
        while line := await process.stdout.readline():
            ready = lifecycle.parse_ready(line)
            if ready is not None:
                child.operate = int(ready.get("operate", 0))
                child.serving.set()
                _log.info("process serves", place=child.number, pid=process.pid, starts=child.starts)
        await process.wait()

    def _settings(self, number: int) -> dict[str, str]:
        """What one process has of its own, as variables over the file. Uploads per hour are of all together."""
        own = {
            "port": str(self.port),
            "reuse_port": "true",
            "processes": "1",
            "workers": str(self._config.workers / f"{number}.sock"),
            "operate": "127.0.0.1:0",
            "parent": str(os.getpid()),
            "blob_hour": str(max(1, self._config.blob_hour // len(self._children))),
        }
        return {f"CLOISTER_GATEWAY_{name.upper()}": value for name, value in own.items()}

    def _forget(self, child: _Child) -> None:
        """A process that was killed left its socket: workers leave it when the file is gone."""
        with contextlib.suppress(OSError):
            (self._config.workers / f"{child.number}.sock").unlink()

    async def _end(self, child: _Child) -> None:
        process = child.process
        if process is None or process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(process.wait(), self._config.drain_s + 4.0)
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    # --- one operator's door for all ---

    def _handle(self, exchange: Exchange) -> None:
        pages = {"/metrics": self._metrics, "/healthz": self._alive, "/readyz": self._ready}
        page = pages.get(exchange.request.target)
        if page is None or exchange.request.method != "GET":
            raise NO_PAGE(expected="GET of one of three pages", found=exchange.request.target[:80])
        exchange.run(page(exchange))

    async def _metrics(self, exchange: Exchange) -> None:
        """Every process's numbers, each with its place as label ``process``; and how often each was started."""
        running = [one for one in self._children if one.operate]
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_PAGE_S)) as http:
            texts = await asyncio.gather(*(_page(http, one.operate, "/metrics") for one in running))
        found = [(str(one.number), text) for one, (_, text) in zip(running, texts, strict=True)]
        starts = {str(one.number): one.starts for one in self._children}
        exchange.reply(200, merged(found, starts), CONTENT_TYPE)

    async def _alive(self, exchange: Exchange) -> None:
        exchange.json({"alive": True, "processes": len(self.pids)})

    async def _ready(self, exchange: Exchange) -> None:
        """Ready: some process runs, and all that run are. One that is down takes no connections."""
        running = [one for one in self._children if one.operate]
        if self._leaving or not running:
            raise NOT_READY(expected="a process that serves", found="leaving" if self._leaving else "none")
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_PAGE_S)) as http:
            said = await asyncio.gather(*(_page(http, one.operate, "/readyz") for one in running))
        bad = [one.number for one, (status, _) in zip(running, said, strict=True) if status != 200]
        if bad:
            raise NOT_READY(expected="every process ready", found=f"not: {bad}")
        exchange.json({"ready": True, "processes": len(running)})


async def supervise(config: GatewayConfig, file: Path, stop: asyncio.Event) -> None:
    """Run all until ``stop``; prints one READY line when all serve."""
    processes = Processes(config, file)
    try:
        await processes.start()
        lifecycle.ready("gateway", port=processes.port, operate=processes.operate, processes=processes.pids)
        await stop.wait()
    finally:
        await processes.close()


def merged(pages: Iterable[tuple[str, str]], starts: dict[str, int]) -> bytes:
    """Exposition texts of several processes as one, each sample with the label ``process``."""
    families: dict[str, Metric] = {}
    for process, text in pages:
        try:
            for family in text_string_to_metric_families(text):
                made = families.setdefault(family.name, Metric(family.name, family.documentation, family.type))
                for name, labels, value, *_ in family.samples:
                    made.add_sample(name, {**labels, "process": process}, value)
        except ValueError:
            continue  # a process that died while it answered
    count = Metric("cloister_gateway_process_starts", "how often each process was started", "counter")
    for process, number in starts.items():
        count.add_sample("cloister_gateway_process_starts_total", {"process": process}, float(number))
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Families([*families.values(), count]))
    return bytes(generate_latest(registry))


class _Families(Collector):
    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


async def _page(http: aiohttp.ClientSession, port: int, path: str) -> tuple[int, str]:
    """(status, text) of a process's page; 503 for one that does not answer."""
    try:
        async with http.get(f"http://127.0.0.1:{port}{path}") as answer:
            return answer.status, (await answer.content.read(_MAX_PAGE)).decode("utf-8", "replace")
    except (aiohttp.ClientError, TimeoutError, OSError, CloisterError):
        return 503, ""


def _reserved(host: str, port: int) -> socket.socket:
    """The port, held by a socket that never listens: no other user's process gets it while all of ours are down."""
    try:
        family, kind, protocol, _, where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        held = socket.socket(family, kind, protocol)
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        held.bind(where)
    except OSError as error:
        raise BAD_SETTING(expected="host and port: free", found=error.strerror or "an error") from None
    return held
