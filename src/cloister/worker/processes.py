"""The processes of this worker's agents: started on demand, kept warm, stopped when idle, bounded (spec/sandbox.md 11).

An agent has a ``Pool``: no process while nobody asks, one when somebody does, more while it is busy and its manifest
allows it. ``Processes`` holds the pools that have any, so that a turn costs what runs, not what is deployed.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from cloister.core.errors import CloisterError, PolicyError, SandboxError, define
from cloister.sandbox.errors import BUSY
from cloister.sandbox.ports import (
    AgentProcess,
    AgentRequest,
    AgentResponseHead,
    AgentSpec,
    Begun,
    Chunks,
    Reserve,
    Spent,
)

# After a first failed start the same answer is given for so long; then twice as long each time, up to the longest.
COOL_S: Final = 1.0
LONGEST_START_S, LONGEST_CRASH_S = 60.0, 8.0
# A process that lives so long has started well; so many that do not are replaced at once, the next ones later.
STEADY_S: Final = 30.0
FREE_CRASHES: Final = 3
# Requests under way in each process of an agent before it gets one more, if its manifest allows.
GROW_AT: Final = 4
# From a process being handed out to its request's begin: until then it is not taken for idle.
SETTLED_S: Final = 2.0
# So many requests per second make an agent busy, for so long: it then has a spare process.
BUSY_RATE, BUSY_S = 5.0, 60.0
# What a process that was not measured yet is taken to use.
_MIB: Final = 1 << 20
FRESH_BYTES: Final = 16 * _MIB
# How long processes that must end may go on with requests that they have; how often that is looked at; how long after
# being handed out one is still expected to get its request.
DRAIN_S, LOOK_S, HANDED_S = 30.0, 0.05, 0.25

NOT_HERE = define(
    "worker.no_such_agent",
    PolicyError,
    check="this worker holds a lease of the agent",
    remedy="fetch the agent's seats: placement names the workers that hold a lease now",
    status=421,
)
BACKING_OFF = define(
    "worker.backing_off",
    SandboxError,
    check="the agent's process did not just fail, again and again",
    remedy="send the request again after the time that is named; read the agent's log for what goes wrong",
    status=503,
)
FULL = define(
    "worker.full",
    PolicyError,
    check="this worker has room for one more process",
    remedy="call another seat of the agent, or send the request again in a few seconds",
    status=503,
)
OWNER_FULL = define(
    "worker.owner_quota",
    PolicyError,
    check="the agents of one owner stay within the owner's share of this worker",
    remedy="send the request again later; the owner spreads agents over more clusters, or lets fewer run at once",
    status=429,
)


@dataclass(frozen=True, slots=True)
class Budget:
    """What processes may use. ``idle_s``: seconds without a request after which one stops. ``processes``,
    ``memory_mb`` (resident): of all agents; ``owner_*``: of one owner's, ``owner_agents`` also counts those that sleep.
    ``spares``: processes kept in reserve for busy agents, all together. ``blanks``: processes that wait for small
    agents whose turn comes, without any agent's code."""

    idle_s: float = 300.0
    processes: int = 512
    memory_mb: int = 16384
    spares: int = 2
    blanks: int = 2
    owner_agents: int = 1024
    owner_processes: int = 128
    owner_memory_mb: int = 8192


@dataclass(slots=True)
class Pause:
    """When an agent may be started again. ``error``: why not; the first failed start is answered with its own."""

    error: CloisterError | None = None
    until: float = 0.0
    starts: int = 0
    crashes: int = 0

    def require_over(self, now: float) -> None:
        """Raise the refusal of a start that comes too early: the failed start's own, then worker.backing_off."""
        if self.error is None or now >= self.until:
            return
        if self.starts == 1:
            raise self.error.with_traceback(None)
        count, left = self.starts or self.crashes, self.until - now
        found = f"{count} failures in a row, the last {self.error.code}: again in {left:.1f} s"
        raise BACKING_OFF(expected="a request after the pause", found=found)

    def failed(self, error: CloisterError, now: float) -> None:
        """A start failed."""
        self.starts += 1
        self.error, self.until = error, now + min(COOL_S * 2 ** min(self.starts - 1, 10), LONGEST_START_S)

    def died(self, error: CloisterError, lived_s: float, now: float) -> None:
        """A process ended by itself after ``lived_s``."""
        self.crashes = 1 if lived_s >= STEADY_S else self.crashes + 1
        if self.crashes > FREE_CRASHES:
            pause = min(0.25 * 2 ** min(self.crashes - FREE_CRASHES, 10), LONGEST_CRASH_S)
            self.error, self.until = error, now + pause

    def started(self) -> None:
        """A start went well."""
        self.starts, self.error = 0, None


class Member:
    """One process of a pool. Implements AgentProcess for agents with several: ``concurrency`` counts over all."""

    __slots__ = ("began", "pool", "process", "resident", "taken")

    def __init__(self, pool: Pool, process: AgentProcess, now: float) -> None:
        self.pool, self.process, self.began, self.taken = pool, process, now, now
        self.resident = FRESH_BYTES

    async def fetch(self, request: AgentRequest) -> tuple[AgentResponseHead, Chunks]:
        """Run one request. Raises sandbox.busy, and what the process raises."""
        self._require_room()
        return await self.process.fetch(request)

    def begin(self, request: AgentRequest, told: Callable[[], None]) -> Begun:
        """Begin one request. Raises as ``fetch``."""
        self._require_room()
        return self.process.begin(request, told)

    def _require_room(self) -> None:
        most = self.pool.concurrency
        if sum(member.process.under_way for member in self.pool.members) >= most:
            raise BUSY(expected=f"at most {most} requests at once", found="one more")

    async def close(self) -> None:
        """Kill it."""
        await self.process.close()

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self.process.alive

    @property
    def under_way(self) -> int:
        """Its requests in progress."""
        return self.process.under_way

    def usage(self) -> Mapping[str, int]:
        """Of this process."""
        return self.process.usage()

    def spent(self) -> Spent:
        """Of this process."""
        return self.process.spent()

    def done(self, now: float) -> bool:
        """Whether it has no request and none that it was handed out for."""
        return not self.process.alive or self.idle(now, HANDED_S)

    def idle(self, now: float, for_s: float) -> bool:
        """Whether nobody has used it for so long."""
        return not self.process.under_way and now - self.taken >= for_s


Start = Callable[[], Awaitable[tuple[AgentSpec, AgentProcess]]]


@dataclass(slots=True, eq=False)
class Pool:
    """The processes of one agent version. ``owner``: 20 bytes. ``start()`` gives one that runs. ``leaving``: those
    that get no more requests. ``most``, ``concurrency``: as the manifest says, known after the first start."""

    owner: bytes
    start: Start
    members: list[Member] = field(default_factory=list)
    leaving: list[Member] = field(default_factory=list)
    spare: Member | None = None
    starting: asyncio.Task[Member] | None = None
    pause: Pause = field(default_factory=Pause)
    most: int = 1
    concurrency: int = 64
    used: float = 0.0
    takes: int = 0
    counted: int = 0
    busy_until: float = 0.0
    reserving: bool = False
    closed: bool = False

    def all(self) -> Iterator[Member]:
        """Every process that it has."""
        yield from self.members
        yield from self.leaving
        if self.spare is not None:
            yield self.spare

    def empty(self) -> bool:
        """Whether it has none, and none is coming."""
        return self.starting is None and self.spare is None and not self.members and not self.leaving


class Processes:
    """All pools of this worker. ``clock``: steady seconds. ``blanks``: processes that wait without an agent's code;
    they count in what is used, and give way first. One task calls ``turn``; requests call ``take``."""

    def __init__(self, budget: Budget, clock: Callable[[], float], blanks: Reserve | None = None) -> None:
        self.budget, self._clock, self._blanks = budget, clock, blanks
        self._running: dict[Pool, None] = {}
        self._ending: set[asyncio.Task[None]] = set()
        self._turned = clock()

    def counts(self) -> dict[str, int]:
        """Processes that run, those of them that wait without an agent's code, and the bytes that they all held when
        last measured."""
        members = [member for pool in self._running for member in pool.all()]
        blank, held = self._held()
        resident = sum(member.resident for member in members) + held
        return {"processes": len(members) + blank, "blanks": blank, "resident": resident}

    async def take(self, pool: Pool) -> AgentProcess:
        """A process for one request, started if needed. A caller that goes away stops nobody else's start.

        Raises worker.no_such_agent for a closed pool, worker.backing_off, worker.full, worker.owner_quota, and what
        ``pool.start`` raises."""
        found = self.ready(pool)
        if found is not None:
            return found
        now = pool.used = self._clock()
        pool.takes += 1
        member = await self._started(pool, now)
        member.taken = self._clock()
        return member if pool.most > 1 else member.process

    def ready(self, pool: Pool) -> AgentProcess | None:
        """``take`` where one runs already; None: one has to start."""
        now = self._clock()
        member = self._pick(pool, now)
        if member is None:
            return None
        pool.takes += 1
        pool.used = member.taken = now
        if pool.most == 1:
            return member.process
        if member.process.under_way >= GROW_AT:
            self._grow(pool, now)
        return member

    def renew(self, pool: Pool) -> None:
        """The next request gets a new process; those that run end with the requests that they have."""
        pool.pause = Pause()
        for member in self._leave(pool):
            self._later(self._drained(pool, member, DRAIN_S))

    async def retire(self, pool: Pool, within_s: float = DRAIN_S) -> None:
        """End a pool when its requests have ended, those included that wait for its start; at last, ``drop`` it."""
        if pool.starting is not None:
            await asyncio.wait({pool.starting}, timeout=within_s)
        await asyncio.gather(*(self._drained(pool, member, within_s) for member in self._leave(pool)))
        await self.drop(pool)

    async def drop(self, pool: Pool) -> None:
        """End a pool at once, and wait for it. Who waits for its start is refused with worker.no_such_agent."""
        pool.closed = True
        if pool.starting is not None:
            pool.starting.cancel()
            await asyncio.gather(pool.starting, return_exceptions=True)
        self._leave(pool)
        await asyncio.gather(*(self._end(pool, member) for member in list(pool.leaving)))
        self._running.pop(pool, None)

    async def close(self) -> None:
        """End everything, and wait for it."""
        await asyncio.gather(*(self.drop(pool) for pool in list(self._running)))
        await asyncio.gather(*self._ending)

    async def turn(self) -> None:
        """Look after what runs: the dead, the idle, what they hold, reserves for the busy and for those who come."""
        now = self._clock()
        passed, self._turned = max(now - self._turned, 1e-3), now
        for pool in list(self._running):
            self._tend(pool, now, passed)
        while self._resident(None) > self.budget.memory_mb * _MIB and self._give_way(None, now):
            continue
        if self._blanks is not None:
            self._blanks.tend(room=self._over(None, more=1) is None)

    # --- inside: one pool ---

    def _pick(self, pool: Pool, now: float) -> Member | None:
        """The living process with the fewest requests; the spare if there is none."""
        members = pool.members
        if len(members) == 1 and members[0].process.alive:
            return members[0]
        self._bury(pool, now)
        if not members and pool.spare is not None and not pool.closed:
            members.append(pool.spare)
            pool.spare = None
        return min(members, key=lambda member: member.process.under_way, default=None)

    def _bury(self, pool: Pool, now: float) -> None:
        """Forget processes that ended by themselves."""
        for member in [m for m in pool.all() if not m.process.alive]:
            if member in pool.members:
                ended = BACKING_OFF(expected="a process that lives", found="one that ended by itself")
                pool.pause.died(ended, now - member.began, now)
            self._forget(pool, member)
            self._later(_closed(member))

    async def _started(self, pool: Pool, now: float) -> Member:
        if pool.closed:
            raise NOT_HERE(expected="an agent of this worker", found="one that was dropped")
        if pool.starting is None:
            pool.pause.require_over(now)
            self._begin(pool)
        starting = pool.starting
        if starting is None:
            raise RuntimeError("a start was begun")
        try:
            return await asyncio.shield(starting)
        except asyncio.CancelledError:
            if starting.cancelled() and pool.closed:
                raise NOT_HERE(expected="an agent of this worker", found="one that was dropped") from None
            raise

    def _begin(self, pool: Pool) -> None:
        """One more process of the pool, in a task that all who need it wait for."""
        self._running[pool] = None
        pool.starting = asyncio.ensure_future(self._start(pool))
        pool.starting.add_done_callback(_seen)

    async def _start(self, pool: Pool) -> Member:
        try:
            self._make_room(pool, self._clock())
            member = await self._launch(pool)
            pool.members.append(member)
            return member
        finally:
            pool.starting = None

    async def _launch(self, pool: Pool) -> Member:
        try:
            spec, process = await pool.start()
        except CloisterError as error:
            pool.pause.failed(error, self._clock())
            raise
        pool.pause.started()
        pool.most, pool.concurrency = spec.processes, spec.limits.concurrency
        return Member(pool, process, self._clock())

    def _grow(self, pool: Pool, now: float) -> None:
        """A busy agent gets one more process, for the requests that come next: the spare, or a new one."""
        if len(pool.members) >= pool.most or pool.closed:
            return
        if pool.spare is not None and pool.spare.process.alive:
            pool.members.append(pool.spare)
            pool.spare = None
        elif pool.starting is None and (pool.pause.error is None or now >= pool.pause.until):
            self._begin(pool)

    def _tend(self, pool: Pool, now: float, passed: float) -> None:
        """1. the dead; 2. what the others hold; 3. the idle; 4. a spare while it is busy."""
        self._bury(pool, now)  # 1
        for member in pool.all():
            member.resident = member.process.usage().get("rss_bytes", 0) or member.resident  # 2
        for member in [m for m in pool.members if m.idle(now, self.budget.idle_s)]:  # 3
            self._stop(pool, member)
        rate, pool.counted = (pool.takes - pool.counted) / passed, pool.takes
        if rate >= BUSY_RATE:  # 4
            pool.busy_until = now + BUSY_S
        if now >= pool.busy_until and pool.spare is not None:
            self._stop(pool, pool.spare)
        elif now < pool.busy_until and pool.spare is None and pool.members and pool.starting is None:
            self._reserve(pool, now)
        if pool.empty():
            self._running.pop(pool, None)

    def _reserve(self, pool: Pool, now: float) -> None:
        spares = sum(1 for other in self._running if other.spare is not None or other.reserving)
        if spares < self.budget.spares and not pool.closed and now >= pool.pause.until:
            with contextlib.suppress(CloisterError):
                self._require_room(pool)
                pool.reserving = True
                pool.starting = asyncio.ensure_future(self._spare(pool))
                pool.starting.add_done_callback(_seen)

    async def _spare(self, pool: Pool) -> Member:
        """A process in reserve. Whoever needs one meanwhile waits for it and gets it."""
        try:
            member = await self._launch(pool)
            if pool.members:
                pool.spare = member
            else:
                pool.members.append(member)
            return member
        finally:
            pool.starting, pool.reserving = None, False

    # --- inside: ends ---

    def _leave(self, pool: Pool) -> list[Member]:
        """No process of the pool gets another request."""
        members = [*pool.members, *([pool.spare] if pool.spare is not None else [])]
        pool.leaving += members
        pool.members.clear()
        pool.spare = None
        return members

    async def _drained(self, pool: Pool, member: Member, within_s: float) -> None:
        """Until its requests have ended, those included that it was handed out for; at most so long."""
        until = self._clock() + within_s
        while self._clock() < until and not member.done(self._clock()):  # noqa: ASYNC110 - processes say no end
            await asyncio.sleep(LOOK_S)
        await self._end(pool, member)

    async def _end(self, pool: Pool, member: Member) -> None:
        await _closed(member)
        self._forget(pool, member)
        if pool.empty():
            self._running.pop(pool, None)

    def _stop(self, pool: Pool, member: Member) -> None:
        """End one process in the background."""
        self._forget(pool, member)
        pool.leaving.append(member)
        self._later(self._end(pool, member))

    def _forget(self, pool: Pool, member: Member) -> None:
        for group in (pool.members, pool.leaving):
            if member in group:
                group.remove(member)
        if pool.spare is member:
            pool.spare = None

    def _later(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    # --- inside: room ---

    def _make_room(self, pool: Pool, now: float) -> None:
        """Stop idle processes, those longest unused first, until one more fits. Raises the refusal if none is left.

        First within the owner's share, then within the whole: nobody's idle process pays for another's quota."""
        for owner in (pool.owner, None):
            while (refusal := self._over(owner)) is not None:
                if not self._give_way(owner, now):
                    raise refusal

    def _require_room(self, pool: Pool) -> None:
        """Room for a process that nobody needs yet: without stopping another. Raises."""
        for owner in (pool.owner, None):
            if (refusal := self._over(owner, more=1)) is not None:
                raise refusal

    def _over(self, owner: bytes | None, more: int = 0) -> CloisterError | None:
        """Why one more process, which is among those being started, does not fit."""
        budget, refusal = self.budget, FULL if owner is None else OWNER_FULL
        processes = budget.processes if owner is None else budget.owner_processes
        memory = budget.memory_mb if owner is None else budget.owner_memory_mb
        count = more + sum(
            len(pool.members) + (pool.spare is not None) + (pool.starting is not None) for pool in self._of(owner)
        )
        if owner is None:
            count += self._held()[0]
        if count > processes:
            return refusal(expected=f"at most {processes} processes", found="one more")
        if self._resident(owner) + FRESH_BYTES > memory * _MIB:
            return refusal(expected=f"at most {memory} MiB of resident memory", found="more")
        return None

    def _of(self, owner: bytes | None) -> list[Pool]:
        return [pool for pool in self._running if owner is None or pool.owner == owner]

    def _resident(self, owner: bytes | None) -> int:
        waiting = self._held()[1] if owner is None else 0
        return waiting + sum(
            member.resident for pool in self._of(owner) for member in (*pool.members, pool.spare) if member is not None
        )

    def _held(self) -> tuple[int, int]:
        return (0, 0) if self._blanks is None else self._blanks.held()

    def _give_way(self, owner: bytes | None, now: float) -> bool:
        """Stop one process that can be spared: a blank first; whether there was one."""
        if owner is None and self._blanks is not None and self._blanks.shed():
            return True
        return self._stop_idle(owner, now)

    def _stop_idle(self, owner: bytes | None, now: float) -> bool:
        """Stop the process that was idle longest, reserves first; whether one is."""
        idle = [
            (member is not pool.spare, member.taken, pool, member)
            for pool in self._of(owner)
            for member in (*pool.members, pool.spare)
            if member is not None and (member is pool.spare or member.idle(now, SETTLED_S))
        ]
        if not idle:
            return False
        _, _, pool, member = min(idle, key=lambda one: one[:2])
        self._stop(pool, member)
        return True


async def _closed(member: Member) -> None:
    with contextlib.suppress(CloisterError):
        await member.process.close()


def _seen(task: asyncio.Task[Member]) -> None:
    """A start that failed while nobody waited is no unhandled error: the next request meets it again."""
    if not task.cancelled():
        task.exception()
