"""What a worker asks of a sandbox, and what agent code may ask of the worker (spec/sandbox.md).

Nothing inside the sandbox is trusted: keys, metering, logs and receipts stay on the worker's side of this port.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from cloister.core.errors import CloisterError

Headers = Sequence[tuple[str, str]]
Also = Callable[[str, int], bool]


@dataclass(frozen=True, slots=True)
class Limits:
    """Hard limits of one agent process. memory_mb: budget beyond V8's base; wall_s: per request; sizes in bytes.

    cpu_ms and egress_bytes (each direction) are what a request brings to the process (meter.py)."""

    memory_mb: int = 192
    heap_mb: int = 64
    wall_s: float = 30.0
    start_s: float = 10.0
    request_bytes: int = 8 << 20
    response_bytes: int = 16 << 20
    log_bytes: int = 64 << 10
    concurrency: int = 64
    cpu_ms: int = 10_000
    egress_bytes: int = 64 << 20


@dataclass(frozen=True, slots=True)
class AgentSpec:
    """One agent to run. ``bundle``: the bytes that were hashed. ``env`` holds settings and secrets that the manifest
    marks as environment: set inside the isolate from the socket, never in a process environment.
    ``egress``: host patterns ("api.openai.com", "*.example.org") with port 443 unless "host:port". ``also``: asked for
    every connection and every piece of traffic, by host and port; it narrows ``egress`` at that moment.
    ``map_host``: host -> (ip, port) for devnets; it changes where an allowed host lives, it allows nothing.
    ``extra_ca``: PEM trusted inside this sandbox only.
    ``entry``: "fetch" (``fetch(request, ctx)``) or "main" (``main(requestJson)``), as the manifest says.
    ``runtime``: "deno" or "python"; the bundle is an ES module, or an archive (core/policy/archive.py).
    ``processes``: how many may run at once, as the manifest says; the worker starts each one by itself."""

    agent: bytes
    code_hash: bytes
    bundle: bytes = field(repr=False)
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)
    egress: Sequence[str] = ()
    also: Also = field(default=lambda host, port: True, repr=False, compare=False)
    limits: Limits = field(default_factory=Limits)
    map_host: Mapping[str, tuple[str, int]] = field(default_factory=dict)
    extra_ca: bytes | None = None
    entry: str = "fetch"
    runtime: str = "deno"
    processes: int = 1


@dataclass(slots=True)
class AgentRequest:
    """One request as the agent sees it. ``caller`` is None for anonymous. ``deadline_ms``: Unix milliseconds."""

    request_id: str
    method: str
    path: str
    headers: Headers
    body: bytes
    caller: Mapping[str, Any] | None
    deadline_ms: int


@dataclass(frozen=True, slots=True)
class AgentResponseHead:
    """Status and headers; body chunks follow."""

    status: int
    headers: Headers


class Chunks(Protocol):
    """A response body, in order. Always ``aclose`` it: before the end that tells the agent that nobody waits."""

    def __aiter__(self) -> AsyncIterator[bytes]:
        """The chunks. Raises SandboxError where the body breaks off."""

    async def aclose(self) -> None:
        """Done reading, or not interested any more. Idempotent."""


class Whole:
    """A response body that is complete: ``data`` holds all of it. Implements Chunks."""

    __slots__ = ("_given", "data")

    def __init__(self, data: bytes) -> None:
        self.data, self._given = data, not data

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if self._given:
            raise StopAsyncIteration
        self._given = True
        return self.data

    async def aclose(self) -> None:
        """Nothing is under way."""


class HostCalls(Protocol):
    """Calls from agent code into the worker, per request. ``call`` gets a name such as "state.get" and JSON-ready
    arguments (bytes as base64 text) and returns a JSON-ready value; it raises CloisterError to refuse."""

    async def call(self, request_id: str, name: str, args: Mapping[str, Any]) -> Any:
        """Serve one host call."""

    def log(self, request_id: str | None, level: str, text: str) -> None:
        """A line that the agent logged (already capped)."""


class Begun(Protocol):
    """A request that ``AgentProcess.begin`` began. ``answered`` or ``error`` is there once it was told; then comes one
    of ``end`` and ``chunks``."""

    @property
    def answered(self) -> AgentResponseHead | None:
        """The head of the answer."""

    @property
    def error(self) -> CloisterError | None:
        """Why there is none, or no more of it."""

    @property
    def asking(self) -> int:
        """Its host calls under way."""

    def take_whole(self, most: int) -> bytes | None:
        """The body, if all of it is here in one piece of at most ``most`` bytes; it is then taken."""

    def chunks(self) -> Chunks:
        """The body, as ``fetch`` gives it."""

    def end(self) -> None:
        """The request is over, or nobody waits for it any more. Idempotent; not needed after ``chunks``."""


class Spent(NamedTuple):
    """What a process used so far: microseconds, bytes out, bytes in, and the most bytes that it held in memory."""

    cpu_us: int = 0
    egress_bytes: int = 0
    ingress_bytes: int = 0
    peak_bytes: int = 0


class AgentProcess(Protocol):
    """A running sandbox of one agent."""

    async def fetch(self, request: AgentRequest) -> tuple[AgentResponseHead, Chunks]:
        """Run one request; raises SandboxError by name (deadline, memory, crashed, too large)."""

    def begin(self, request: AgentRequest, told: Callable[[], None]) -> Begun:
        """``fetch`` for who waits without a task: ``told()`` is called once, when a head or an error is there, never
        before this returns, and must not raise."""

    async def close(self) -> None:
        """Kill and clean up: process, namespace, sockets, folders."""

    @property
    def alive(self) -> bool:
        """Whether the process still runs."""

    @property
    def under_way(self) -> int:
        """Requests in progress, their bodies included."""

    def usage(self) -> Mapping[str, int]:
        """Measured by the worker: cpu_us, rss_bytes, peak_bytes, egress_bytes, ingress_bytes, requests, busy_us,
        peak_requests."""

    def spent(self) -> Spent:
        """The part of ``usage`` that receipts name."""


class Reserve(Protocol):
    """Processes that wait without an agent's code."""

    def held(self) -> tuple[int, int]:
        """How many, and the bytes that they hold."""

    def tend(self, *, room: bool) -> None:
        """Bury the dead, and begin one more if one is missing and there is ``room``."""

    def shed(self) -> bool:
        """End one, because agents need its memory; false: there is none."""


class Sandbox(Protocol):
    """Starts agents."""

    async def start(self, spec: AgentSpec, host: HostCalls) -> AgentProcess:
        """Start one agent. Raises SandboxError (sandbox.start, sandbox.bundle, ...)."""

    async def close(self) -> None:
        """Stop every agent and remove what they left."""
