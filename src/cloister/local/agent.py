"""One agent run locally: a real sandbox, and per request the worker's own transaction of encrypted state.

What differs from a network: the state's key lies in a file of the folder, no committee remembers heads, there is no
hardware evidence, and the caller is whoever the local request claims to be.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

from cloister.client.build import Built
from cloister.client.home import read_file, write_private
from cloister.core.encoding.hexes import to_hex
from cloister.core.errors import CloisterError, ConfigError, define
from cloister.core.state.endorse import Answer
from cloister.core.state.sealing import StateKeys
from cloister.fabric.embedded import open_fabric
from cloister.fabric.ports import CONFLICT, Fabric
from cloister.local.offers import LocalKeys, LocalOffers
from cloister.sandbox.ports import AgentProcess, AgentRequest, AgentResponseHead, AgentSpec, Chunks, Headers, Limits
from cloister.sandbox.runtimes import AgentSandbox
from cloister.worker.agentlog import AgentLog, Sink
from cloister.worker.host import CALLS, AgentHost, Origin
from cloister.worker.owner import COMMAND
from cloister.worker.scope import RequestScope
from cloister.worker.state import AgentState

T = TypeVar("T")

ATTEMPTS: Final = 3
KEY_FILE: Final = "state.key"
SCHEDULE: Final = "schedule"
# A stopped process may finish what it answers for so long.
DRAIN_S: Final = 5.0
_AGENT: Final = bytes(31) + b"\x01"
_IDENTITY: Final = b"cloister: an agent on its developer's machine"

NO_HARDWARE = define(
    "local.no_hardware",
    ConfigError,
    check="evidence comes from attested hardware",
    remedy="run `cloister up` and deploy the agent: on a devnet ctx.attest answers",
    status=501,
)
BAD_KEY = define(
    "local.state_key",
    ConfigError,
    check=f"{KEY_FILE} of the local state holds 32 bytes",
    remedy="remove the folder of the local state: the agent starts with an empty one",
)


@dataclass(frozen=True, slots=True)
class Outside:
    """What an agent meets outside. ``secrets``: by name, as its owner would set them; ``map_host``: host ->
    (ip, port) that stands in for it; ``extra_ca``: PEM that the agent trusts besides; ``agents``: addresses of other
    local agents, by id."""

    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)
    map_host: Mapping[str, tuple[str, int]] = field(default_factory=dict)
    extra_ca: bytes | None = None
    agents: Mapping[bytes, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class LocalRequest:
    """A request as a caller makes it. ``caller``: 0x-hex address that it claims, or "schedule"; None for anonymous.

    ``above``: the agents that call, the first first; ``budget``: calls of agents that it may cause."""

    method: str
    path: str
    headers: Headers = ()
    body: bytes = b""
    caller: str | None = None
    above: tuple[bytes, ...] = ()
    budget: int = CALLS


@dataclass(slots=True, eq=False)
class _Running:
    """A process and how many requests it answers."""

    process: AgentProcess
    limits: Limits
    active: int = 0
    idle: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(slots=True, eq=False)
class _Ran:
    """One attempt at a request: its name for host calls, its state, what the agent answered."""

    call: str
    scope: RequestScope
    answered: tuple[AgentResponseHead, Chunks] | None = None

    @property
    def head(self) -> AgentResponseHead:
        """Of an attempt that answered."""
        return self._need()[0]

    @property
    def chunks(self) -> Chunks:
        """Of an attempt that answered."""
        return self._need()[1]

    def _need(self) -> tuple[AgentResponseHead, Chunks]:
        if self.answered is None:
            raise RuntimeError("the attempt did not answer")
        return self.answered


class LocalAgent:
    """An agent in ``folder`` (its state and key). ``log(level, text)`` hears it. Use ``open`` and ``close``."""

    def __init__(self, sandbox: AgentSandbox, fabric: Fabric, keys: bytes, log: Sink) -> None:
        self._sandbox, self._fabric, self._key = sandbox, fabric, keys
        self._host = AgentHost(_no_evidence, AgentLog(log, time.monotonic))
        self._log, self.keys = log, LocalKeys(keys)
        self._state: AgentState | None = None
        self._running: _Running | None = None
        self._spec: AgentSpec | None = None
        self._starting = asyncio.Lock()
        self._retired: set[asyncio.Task[None]] = set()
        self._calls = 0

    @classmethod
    async def open(cls, sandbox: AgentSandbox, folder: Path, log: Sink) -> LocalAgent:
        """Open or make the state in ``folder``. Raises FabricError, StateError, ConfigError (local.state_key)."""
        file = folder / KEY_FILE
        if not file.exists():
            write_private(file, secrets.token_bytes(32))
        key = read_file(file, 64)
        if len(key) != 32:
            raise BAD_KEY(expected="32 bytes", found=f"{len(key)} bytes")
        agent = cls(sandbox, await open_fabric(folder / "store"), key, log)
        try:
            await agent._load(_AGENT.hex())
        except BaseException:
            await agent.close()
            raise
        return agent

    async def fresh(self) -> None:
        """An empty state from now on; the old one stays where it is."""
        await self._load(secrets.token_bytes(32).hex())

    async def start(self, built: Built, outside: Outside) -> None:
        """Run this build from now on. A build that does not start leaves the earlier one running.

        Raises SandboxError by name. Requests in progress end on the process that they began on."""
        manifest = built.manifest
        values = manifest.handles(outside.secrets)
        spec = AgentSpec(
            agent=_AGENT,
            code_hash=built.code_hash,
            bundle=built.bundle,
            env=manifest.environment(values),
            secrets=values,
            egress=manifest.egress,
            limits=Limits(**manifest.limits),
            map_host=outside.map_host,
            extra_ca=outside.extra_ca,
            entry=manifest.entry,
            runtime=manifest.runtime,
        )
        self._host.logged.hide(values.values())
        self._host.offer(LocalOffers(self.keys, manifest, outside.agents, self._log).calls())
        process = await self._sandbox.start(spec, self._host)
        async with self._starting:
            self._spec = spec
            old, self._running = self._running, _Running(process, spec.limits)
        if old is not None:
            task = asyncio.ensure_future(_retire(old))
            self._retired.add(task)
            task.add_done_callback(self._retired.discard)

    async def fetch(self, request: LocalRequest, answer: Callable[[AgentResponseHead, Chunks], Awaitable[T]]) -> T:
        """Run a request and hand its committed head and body to ``answer``. Raises what a worker refuses with."""
        running = await self._alive()
        running.active += 1
        running.idle.clear()
        try:
            ran = await self._run(running, request)
            try:
                result = await answer(ran.head, ran.chunks)
                await ran.scope.commit_body()
                await self._settle()
                return result
            finally:
                await self._end(ran)
        finally:
            running.active -= 1
            if not running.active:
                running.idle.set()

    async def close(self) -> None:
        """End the process; close the store. Idempotent."""
        running, self._running = self._running, None
        if running is not None:
            await running.process.close()
        await asyncio.gather(*self._retired)
        await self._fabric.close()

    async def _run(self, running: _Running, request: LocalRequest) -> _Ran:
        """Run the handler until its writes commit: at most three times when others wrote first."""
        for left in reversed(range(ATTEMPTS)):
            try:
                return await self._attempt(running, request)
            except CloisterError as error:
                if error.code != CONFLICT.code or not left:
                    raise
        raise RuntimeError("the loop returns or raises")

    async def _attempt(self, running: _Running, request: LocalRequest) -> _Ran:
        """As a worker does: 1. a transaction; 2. the handler answers; 3. commit."""
        state, name = self._need_state(), secrets.token_hex(16)
        self._calls += 1
        ran = _Ran(f"{name}-{self._calls}", RequestScope(state, await state.begin(name), name))  # 1
        asked = _agent_request(ran.call, request, running.limits)
        above = request.above[-1] if request.above else None
        self._host.open(ran.call, ran.scope, Origin(request.above, request.budget, asked.deadline_ms, above))
        try:
            ran.answered = await running.process.fetch(asked)  # 2
            await ran.scope.commit_head()  # 3
            return ran
        except BaseException as error:
            await self._end(ran)
            if ran.scope.conflict is not None and isinstance(error, CloisterError):
                raise ran.scope.conflict from None  # the handler failed because of it
            raise

    async def _end(self, ran: _Ran) -> None:
        self._host.close(ran.call)
        ran.scope.close()
        if ran.answered is not None:
            await ran.answered[1].aclose()

    async def _alive(self) -> _Running:
        """The running process; started again where the agent ended it (a crash, memory, a protocol fault)."""
        async with self._starting:
            running = self._running
            if running is None or self._spec is None:
                raise RuntimeError("start() comes before fetch()")
            if running.process.alive:
                return running
            await running.process.close()
            self._running = _Running(await self._sandbox.start(self._spec, self._host), self._spec.limits)
            return self._running

    async def _load(self, name: str) -> None:
        """The state under ``name``. Nobody else remembers its head, so what the store holds is believed."""
        state = AgentState(self._fabric.state, StateKeys(self._key, _IDENTITY), name, secrets.token_bytes)
        record = (await state.snapshot()).record
        await state.load([Answer(bytes(20), record.height, record.head)], 1)
        state.endorsed(record.height)
        self._state = state

    async def _settle(self) -> None:
        """Heads need no endorsement here: without this, a few hundred commits would wait for it for ever."""
        state = self._need_state()
        state.endorsed((await state.snapshot()).record.height)

    def _need_state(self) -> AgentState:
        if self._state is None:
            raise RuntimeError("open() loads the state")
        return self._state


async def _no_evidence(nonce: bytes) -> Mapping[str, Any]:
    raise NO_HARDWARE(expected="a worker on attested hardware", found="a developer's machine")


async def _retire(old: _Running) -> None:
    if old.active:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(old.idle.wait(), DRAIN_S)
    await old.process.close()


def _agent_request(call: str, request: LocalRequest, limits: Limits) -> AgentRequest:
    caller = _caller(request)
    deadline = int((time.time() + limits.wall_s) * 1000)
    return AgentRequest(call, request.method, request.path, request.headers, request.body, caller, deadline)


def _caller(request: LocalRequest) -> dict[str, str] | None:
    if request.above:
        return {"kind": "agent", "address": to_hex(request.above[-1][:20]), "agent": to_hex(request.above[-1])}
    if request.caller is None or request.caller == SCHEDULE:
        return None if request.caller is None else {"kind": SCHEDULE}
    return {"kind": "owner" if request.path == COMMAND else "wallet", "address": request.caller}
