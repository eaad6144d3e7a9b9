"""Processes that wait without an agent's code: started ahead, claimed once, by one agent (spec/sandbox.md 1.8).

A blank has run nothing but the harness, and knows no agent. What cannot be changed in a running process is its shape;
an agent gets a blank of its own shape or none. Who is asked for often decides which shapes wait.
"""

from __future__ import annotations

import asyncio
import shutil
import socket
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cloister.core.errors import CloisterError
from cloister.core.policy.egress import Rule
from cloister.sandbox.launch import Watched
from cloister.sandbox.ports import AgentSpec, Limits

# Larger bundles start faster from nothing, with their compiled code, than in a blank without it.
MAX_BLANK_BUNDLE: Final = 32 << 10
# After a start that failed the next one waits so long, then twice as long each time, up to the longest; and so long
# after agents needed the memory of a blank.
COOL_S, LONGEST_S, SHED_S = 1.0, 60.0, 30.0
# What a blank that was not measured yet is taken to hold.
FRESH_BYTES: Final = 16 << 20


@dataclass(frozen=True, slots=True)
class Shape:
    """What a process is started with and keeps: V8's heap and RLIMIT_DATA, the hosts that Deno lets it reach, and the
    authority that it trusts for them."""

    heap_mb: int
    memory_mb: int
    rules: tuple[Rule, ...] = ()
    extra_ca: bytes | None = None

    @classmethod
    def of(cls, spec: AgentSpec, rules: tuple[Rule, ...]) -> Shape:
        """An agent's shape. One that reaches no host has nobody to trust."""
        return cls(spec.limits.heap_mb, spec.limits.memory_mb, rules, spec.extra_ca if rules else None)

    @property
    def limits(self) -> Limits:
        """Those of a process of this shape."""
        return Limits(heap_mb=self.heap_mb, memory_mb=self.memory_mb)


PLAIN: Final = Shape(Limits().heap_mb, Limits().memory_mb)


class Blank:
    """One waiting process. Its folder has ``slot``, where the bundle comes to lie; ``note`` gets lines of stderr."""

    def __init__(self, shape: Shape, folder: Path) -> None:
        self.shape, self.folder = shape, folder
        self.watched: Watched | None = None
        self.outlet: socket.socket | None = None
        self.connection: socket.socket | None = None
        self.note: Callable[[str], None] = lambda text: None

    @property
    def slot(self) -> Path:
        """What the process sees as /agent."""
        return self.folder / "slot"

    @property
    def alive(self) -> bool:
        """Whether it runs and waits."""
        return self.connection is not None and self.watched is not None and self.watched.alive

    @property
    def resident(self) -> int:
        """Bytes that it holds."""
        return (self.watched.usage()[1] if self.watched is not None else 0) or FRESH_BYTES

    def release(self) -> tuple[Watched, socket.socket, socket.socket]:
        """Its process, the socket of the proxy and that of the harness: they are the agent's now. Once."""
        watched, outlet, connection = self.watched, self.outlet, self.connection
        if watched is None or outlet is None or connection is None:
            raise RuntimeError("a blank is claimed once, when it stands")
        self.watched = self.outlet = self.connection = None
        return watched, outlet, connection

    async def end(self) -> None:
        """Kill it, and remove what it had."""
        if self.watched is not None:
            self.watched.kill()
            await self.watched.exited
        for one in (self.outlet, self.connection):
            if one is not None:
                one.close()
        shutil.rmtree(self.folder, ignore_errors=True)


class Blanks:
    """At most ``most`` blanks. ``launch`` starts one. Whoever holds this calls ``tend`` now and then."""

    def __init__(
        self, launch: Callable[[Shape], Awaitable[Blank]], most: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._launch, self._most, self._clock = launch, most, clock
        self._wanted = [PLAIN][:most]
        self._ready: list[Blank] = []
        self._starting: asyncio.Task[None] | None = None
        self._ending: set[asyncio.Task[None]] = set()
        self._failures, self._again = 0, 0.0
        self._closed = False

    def want(self, shape: Shape) -> None:
        """An agent of this shape is started: the next one of it shall find a blank."""
        self._wanted = [shape, *(one for one in self._wanted if one != shape)][: self._most]

    def take(self, shape: Shape) -> Blank | None:
        """A blank of this shape, which is the caller's from now on; None: there is none."""
        self.want(shape)
        for blank in self._ready:
            if blank.shape == shape and blank.alive:
                self._ready.remove(blank)
                return blank
        return None

    def held(self) -> tuple[int, int]:
        """Processes that wait or are being started, and the bytes that they hold."""
        starting = int(self._starting is not None)
        return len(self._ready) + starting, sum(one.resident for one in self._ready) + starting * FRESH_BYTES

    def tend(self, *, room: bool) -> None:
        """Bury the dead; begin one start if a blank is missing, there is ``room``, and none did just fail."""
        for blank in [one for one in self._ready if not one.alive]:
            self._end(blank)
            self._failed()
        if room and not self._closed and self._starting is None and self._clock() >= self._again:
            shape = self._missing()
            if shape is not None:
                self._starting = asyncio.ensure_future(self._start(shape))

    def shed(self) -> bool:
        """End one, because agents need its memory; false: there is none. No other one comes for a while."""
        self._again = max(self._again, self._clock() + SHED_S)
        starting, self._starting = self._starting, None
        if starting is not None:
            starting.cancel()
            self._later(starting)
        elif self._ready:
            self._end(self._ready[-1])
        else:
            return False
        return True

    async def settled(self) -> None:
        """Until a start that was begun has ended, well or not."""
        if self._starting is not None:
            await asyncio.wait({self._starting})

    async def close(self) -> None:
        """End all, and wait for it."""
        self._closed = True
        if self._starting is not None:
            self._starting.cancel()
            await asyncio.wait({self._starting})
        for blank in list(self._ready):
            self._end(blank)
        await asyncio.gather(*self._ending, return_exceptions=True)

    def _missing(self) -> Shape | None:
        """The shape of the next one: that which was wanted last and has none, else simply the last. Where all places
        are taken, one that nobody wants any more, or that has a twin, makes room for a shape that has none."""
        have = Counter(blank.shape for blank in self._ready)
        unserved = next((shape for shape in self._wanted if not have[shape]), None)
        if len(self._ready) < self._most:
            return unserved or self._wanted[0]
        if unserved is not None:
            self._end(next(b for b in reversed(self._ready) if b.shape not in self._wanted or have[b.shape] > 1))
        return unserved

    async def _start(self, shape: Shape) -> None:
        try:
            self._ready.append(await self._launch(shape))
            self._failures = 0
        except (CloisterError, OSError):
            self._failed()
        finally:
            if self._starting is asyncio.current_task():
                self._starting = None

    def _failed(self) -> None:
        self._again = self._clock() + min(COOL_S * 2 ** min(self._failures, 10), LONGEST_S)
        self._failures += 1

    def _end(self, blank: Blank) -> None:
        self._ready.remove(blank)
        self._later(asyncio.ensure_future(blank.end()))

    def _later(self, task: asyncio.Task[None]) -> None:
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)
