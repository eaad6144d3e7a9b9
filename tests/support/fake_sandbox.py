"""Agents that are Python functions, behind the sandbox's ports: for tests that start no process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from cloister.core.errors import CloisterError
from cloister.sandbox.errors import CLOSED, CRASHED, DEADLINE
from cloister.sandbox.ports import AgentRequest, AgentResponseHead, AgentSpec, Headers, HostCalls, Spent


@dataclass
class Reply:
    """What a fake agent answers. ``body``: chunks, or an asynchronous iterator of them."""

    status: int = 200
    headers: Headers = (("content-type", "text/plain"),)
    body: Iterable[bytes] | AsyncIterator[bytes] = (b"hello",)


class Calls:
    """An agent's ``ctx``: host calls of one request."""

    def __init__(self, host: HostCalls, request_id: str) -> None:
        self.host, self.request_id = host, request_id

    async def __call__(self, name: str, **args: Any) -> Any:
        """One host call."""
        return await self.host.call(self.request_id, name, args)


Agent = Callable[[AgentRequest, Calls], Awaitable[Reply]]


async def hello(request: AgentRequest, ctx: Calls) -> Reply:
    """Answers hello."""
    return Reply()


class FakeProcess:
    """Implements AgentProcess. ``cancelled``: requests whose answer nobody wanted any more."""

    def __init__(self, sandbox: FakeSandbox, spec: AgentSpec, host: HostCalls) -> None:
        self.sandbox, self.spec, self.host = sandbox, spec, host
        self.dead: asyncio.Future[CloisterError] = asyncio.get_running_loop().create_future()
        self.requests: list[AgentRequest] = []
        self.cancelled: list[str] = []
        self.open = 0
        self.cpu = 0

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return not self.dead.done()

    @property
    def under_way(self) -> int:
        """Requests in progress."""
        return self.open

    def crash(self, error: CloisterError | None = None) -> None:
        """Die, as a process does that ran out of memory or was closed."""
        if self.alive:
            self.dead.set_result(error or CRASHED(expected="a process that lives", found="signal 9"))

    async def close(self) -> None:
        """End it."""
        self.crash(CLOSED(expected="an open sandbox", found="one that was closed"))

    def usage(self) -> Mapping[str, int]:
        """1000 microseconds and 20 bytes in per request."""
        return {"cpu_us": self.cpu, "egress_bytes": 0, "ingress_bytes": self.cpu // 50, "rss_bytes": 1, "peak_bytes": 9}

    async def fetch(self, request: AgentRequest) -> tuple[AgentResponseHead, FakeChunks]:
        """Run the agent function, within ``sandbox.wall_s``."""
        if not self.alive:
            raise self.dead.result()
        self.requests.append(request)
        self.cpu += 1000
        self.open += 1
        try:
            work = self.sandbox.agent(request, Calls(self.host, request.request_id))
            reply = await self.until_dead(work)
        except BaseException:
            self.open -= 1
            raise
        return AgentResponseHead(reply.status, reply.headers), FakeChunks(self, request.request_id, reply.body)

    def spent(self) -> Spent:
        """As ``usage``."""
        return Spent(self.cpu, 0, self.cpu // 50, 9)

    def begin(self, request: AgentRequest, told: Callable[[], None]) -> FakeBegun:
        """The same as ``fetch``, in a task of its own."""
        if not self.alive:
            raise self.dead.result()
        return FakeBegun(self, request, told)

    async def until_dead(self, work: Awaitable[Any]) -> Any:
        """The result, unless the process dies or its time is over first."""
        task = asyncio.ensure_future(work)
        try:
            race: set[asyncio.Future[Any]] = {task, self.dead}
            await asyncio.wait(race, timeout=self.sandbox.wall_s, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                return task.result()
            raise self.dead.result() if self.dead.done() else DEADLINE(expected="an answer in time", found="none")
        finally:
            if not task.done():
                task.cancel()


class FakeBegun:
    """Implements Begun."""

    def __init__(self, process: FakeProcess, request: AgentRequest, told: Callable[[], None]) -> None:
        self.asking = 0
        self.error: CloisterError | None = None
        self._head: AgentResponseHead | None = None
        self._fault: Exception | None = None
        self._body: FakeChunks | None = None
        self._task = asyncio.ensure_future(self._run(process, request, told))

    @property
    def answered(self) -> AgentResponseHead | None:
        """The head; a fault of the fake itself is raised."""
        if self._fault is not None:
            raise self._fault
        return self._head

    def take_whole(self, most: int) -> bytes | None:
        """Bodies that are no stream."""
        return None if self._body is None else self._body.take_whole(most)

    def chunks(self) -> FakeChunks:
        """The body."""
        assert self._body is not None
        return self._body

    def end(self) -> None:
        """Nobody waits any more."""
        self._task.cancel()
        if self._body is not None:
            self._body.close()

    async def _run(self, process: FakeProcess, request: AgentRequest, told: Callable[[], None]) -> None:
        try:
            self._head, self._body = await process.fetch(request)
        except CloisterError as error:
            self.error = error
        except Exception as error:
            self._fault = error
        told()


class FakeChunks:
    """Implements Chunks."""

    def __init__(self, process: FakeProcess, name: str, body: Iterable[bytes] | AsyncIterator[bytes]) -> None:
        self._process, self._name = process, name
        self._whole = None if isinstance(body, AsyncIterator) else body
        self._body = body if isinstance(body, AsyncIterator) else _iterated(body)
        self._over = self._closed = False

    def __aiter__(self) -> FakeChunks:
        return self

    async def __anext__(self) -> bytes:
        try:
            return bytes(await self._process.until_dead(_next(self._body)))
        except (_End, CloisterError) as error:
            self._over = True
            if isinstance(error, _End):
                raise StopAsyncIteration from None
            raise

    def take_whole(self, most: int) -> bytes | None:
        """All of it, where it is no stream and the process lives."""
        if self._whole is None or not self._process.alive:
            return None
        data = b"".join(self._whole)
        self._whole = (data,)
        self._body = _iterated(self._whole)
        self._over = len(data) <= most
        return data if self._over else None

    async def aclose(self) -> None:
        """Note a reader that left early."""
        self.close()

    def close(self) -> None:
        """The same."""
        if self._closed:
            return
        self._closed = True
        self._process.open -= 1
        if not self._over:
            self._process.cancelled.append(self._name)


class _End(Exception):  # noqa: N818 - a signal between two coroutines
    pass


async def _next(body: AsyncIterator[bytes]) -> bytes:
    async for chunk in body:
        return chunk
    raise _End


async def _iterated(chunks: Iterable[bytes]) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


class FakeReserve:
    """Nothing waits. ``told``: whether there was room, each time."""

    def __init__(self) -> None:
        self.told: list[bool] = []

    def held(self) -> tuple[int, int]:
        """None."""
        return 0, 0

    def tend(self, *, room: bool) -> None:
        """Remember."""
        self.told.append(room)

    def shed(self) -> bool:
        """There is none."""
        return False


class FakeSandbox:
    """Implements Sandbox. ``agent`` runs every request; ``error`` fails starts; ``gate`` holds them back."""

    def __init__(self, agent: Agent = hello) -> None:
        self.agent = agent
        self.error: Exception | None = None
        self.gate: asyncio.Event | None = None
        self.wall_s: float | None = None
        self.processes: list[FakeProcess] = []
        self.starts = 0
        self.closed = False
        self.reserve = FakeReserve()

    async def start(self, spec: AgentSpec, host: HostCalls) -> FakeProcess:
        """Start one."""
        self.starts += 1
        if self.gate is not None:
            await self.gate.wait()
        if self.error is not None:
            raise self.error
        process = FakeProcess(self, spec, host)
        self.processes.append(process)
        return process

    async def close(self) -> None:
        """End all."""
        self.closed = True

    @property
    def running(self) -> list[FakeProcess]:
        """Processes that live."""
        return [p for p in self.processes if p.alive]
