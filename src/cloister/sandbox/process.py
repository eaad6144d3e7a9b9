"""A running agent: its channel, its process, its proxy, its folder, and the order in which they end."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from cloister.core.errors import CloisterError
from cloister.sandbox.calls import Call
from cloister.sandbox.channel import Channel
from cloister.sandbox.deadlines import Deadlines
from cloister.sandbox.egress import EgressProxy
from cloister.sandbox.errors import CLOSED, CPU, MEMORY, PROTOCOL, START
from cloister.sandbox.launch import Watched
from cloister.sandbox.meter import Meter
from cloister.sandbox.ports import AgentRequest, AgentResponseHead, AgentSpec, Chunks, HostCalls, Spent

GRACE_S: Final = 1.0
# How often CPU time and memory are looked at: while requests are under way, and at rest.
TICK_S, REST_S = 0.25, 1.0
# How long a process whose socket closed may take to die, so that its exit code can name the reason.
_LAST_WORDS_S: Final = 0.5


@dataclass(slots=True)
class Parts:
    """What belongs to one agent and ends with it. ``done`` is called once, when all has ended."""

    folder: Path
    proxy: EgressProxy
    meter: Meter
    done: Callable[[], None] = lambda: None
    watched: Watched | None = None


class Body:
    """The chunks of one response. Implements ports.Chunks."""

    def __init__(self, call: Call, done: Callable[[Call], None]) -> None:
        self._call, self._done, self._chunks = call, done, call.body(done)

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._chunks

    async def aclose(self) -> None:
        """Nobody reads on. A generator that was never begun would not notice: so it is said here. Idempotent."""
        await self._chunks.aclose()
        self._done(self._call)


class SandboxProcess:
    """One agent in its own process. Implements ports.AgentProcess."""

    def __init__(self, spec: AgentSpec, host: HostCalls, parts: Parts) -> None:
        self.channel = Channel(spec, host, self._on_fatal, self._on_lost)
        self._limits, self._parts = spec.limits, parts
        self._deadlines = Deadlines()
        self._cleaned: asyncio.Task[None] | None = None
        self._failed = False
        self._ticker: asyncio.TimerHandle | None = None
        self._ticked = 0.0

    @property
    def alive(self) -> bool:
        """Whether the process still runs and may be asked."""
        watched = self._parts.watched
        return not self._failed and watched is not None and watched.alive

    @property
    def under_way(self) -> int:
        """Requests that somebody waits for."""
        return self.channel.under_way

    def adopt(self, watched: Watched) -> None:
        """Take the launched process: its end ends everything else."""
        self._parts.watched = watched
        if self._failed:  # closed while it was being launched
            watched.kill()
        watched.exited.add_done_callback(lambda future: self.channel.die(watched.reason(future.result())))

    def log(self, level: str, text: str) -> None:
        """A line about the agent as a whole (stderr, refused egress); a flood ends it."""
        try:
            self.channel.log(None, level, text)
        except CloisterError as error:
            self.channel.die(error)

    def hear(self, text: str) -> None:
        """A line of its stderr."""
        self.log("warn", f"stderr: {text}")

    async def wait_ready(self) -> None:
        """Until the bundle is loaded. Raises SandboxError (start, bundle, memory, crashed)."""
        try:
            await asyncio.wait_for(asyncio.shield(self.channel.ready), self._limits.start_s)
        except TimeoutError:
            error = START(expected=f"a start within {self._limits.start_s} s", found="none yet")
            self.channel.die(error)
            raise error from None
        self._parts.meter.loaded(self._cpu_us())
        self._ticked = asyncio.get_running_loop().time()
        self._schedule()

    def begin(self, request: AgentRequest, told: Callable[[], None]) -> Call:
        """Run one request, and say when its head is there (``ports.AgentProcess.begin``). The deadline covers head and
        body. Raises SandboxError by name."""
        call = self._begin(request)
        call.told = told
        return call

    def _begin(self, request: AgentRequest) -> Call:
        channel = self.channel
        call = channel.begin(request)
        call.owner = self
        under_way = channel.under_way
        self._parts.meter.begin(self._cpu_us(), under_way)
        if under_way == 1:
            self._schedule()
        left = min(self._limits.wall_s, request.deadline_ms / 1000 - time.time())
        call.deadline = self._deadlines.after(left, partial(channel.expire, call, GRACE_S))
        return call

    async def fetch(self, request: AgentRequest) -> tuple[AgentResponseHead, Chunks]:
        """Run one request: head now, body as it comes. The deadline covers both. Raises SandboxError by name."""
        call = self._begin(request)
        try:
            head = await call.head
        except BaseException:
            self.end(call)
            raise
        return head, self.body(call)

    def body(self, call: Call) -> Chunks:
        """The body of a request that was answered."""
        whole = call.whole()
        if whole is None:
            return Body(call, self.end)
        self.end(call)
        return whole

    async def close(self) -> None:
        """Kill and clean up: process, namespace, sockets, folder. Idempotent."""
        self.channel.die(CLOSED(expected="an open sandbox", found="one that was closed"))
        if self._cleaned is not None:
            await asyncio.shield(self._cleaned)

    def usage(self) -> Mapping[str, int]:
        """cpu_us, rss_bytes, peak_bytes (up to 5 ms of CPU time old), egress_bytes (sent), ingress_bytes (received),
        requests, busy_us (sum over requests that ended), peak_requests (at once): measured outside the agent."""
        proxy, watched, meter = self._parts.proxy, self._parts.watched, self._parts.meter
        cpu, rss = watched.usage() if watched is not None else (0, 0)
        return {
            "cpu_us": cpu,
            "rss_bytes": rss,
            "peak_bytes": watched.peak if watched is not None else 0,
            "egress_bytes": proxy.sent,
            "ingress_bytes": proxy.received,
            "requests": meter.requests,
            "busy_us": meter.busy_us,
            "peak_requests": meter.peak_requests,
        }

    def spent(self) -> Spent:
        """CPU microseconds so far, bytes out and in, and the peak of its memory."""
        watched, proxy = self._parts.watched, self._parts.proxy
        if watched is None:
            return Spent(0, proxy.sent, proxy.received, 0)
        return Spent(watched.usage()[0], proxy.sent, proxy.received, watched.peak)

    def end(self, call: Call) -> None:
        """The request is over, or nobody waits for it any more. Idempotent."""
        call.told = None
        if call.deadline is not None:
            call.deadline.drop()
            call.deadline = None
        self.channel.abandon(call, GRACE_S)
        if not call.counted:
            call.counted = True
            took = time.monotonic() - call.began
            self._parts.meter.end(self._cpu_us(), int(took * 1e6), self.channel.under_way)

    def _cpu_us(self) -> int:
        return self._parts.watched.usage()[0] if self._parts.watched is not None else 0

    def _schedule(self) -> None:
        """Set the clock of the meter: it ticks faster while requests are under way. A tick that is due sooner stays:
        requests in quick succession must not put it off."""
        if self._failed:
            return
        loop = asyncio.get_running_loop()
        due = loop.time() + (TICK_S if self.channel.under_way else REST_S)
        if self._ticker is not None:
            if self._ticker.when() <= due:
                return
            self._ticker.cancel()
        self._ticker = loop.call_at(due, self._tick)

    def _tick(self) -> None:
        self._ticker = None
        watched, meter = self._parts.watched, self._parts.meter
        if self._failed or watched is None or not watched.alive:
            return
        cpu, resident = watched.measure()
        now = asyncio.get_running_loop().time()
        passed, self._ticked = now - self._ticked, now
        if not meter.tick(cpu, passed, self.channel.under_way):
            self.channel.die(
                CPU(expected=f"{self._limits.cpu_ms} ms for each request, next to none between", found="more")
            )
        elif resident > meter.most_resident:
            self.channel.die(MEMORY(expected=f"at most {meter.most_resident} resident bytes", found="more"))
        self._schedule()

    def _on_lost(self) -> None:
        error = PROTOCOL(expected="an open socket while the agent lives", found="a closed one")
        asyncio.get_running_loop().call_later(_LAST_WORDS_S, self.channel.die, error)

    def _on_fatal(self, error: CloisterError) -> None:
        self._failed = True
        self._deadlines.close()
        if self._ticker is not None:
            self._ticker.cancel()
        self._cleaned = asyncio.get_running_loop().create_task(self._clean())

    async def _clean(self) -> None:
        watched = self._parts.watched
        if watched is not None:
            watched.kill()
            await watched.exited
        await self._parts.proxy.close()
        shutil.rmtree(self._parts.folder, ignore_errors=True)
        self._parts.done()
