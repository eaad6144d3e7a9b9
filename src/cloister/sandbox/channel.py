"""The worker's end of an agent's socket: requests out, answers and host calls in (spec/sandbox.md 3).

Everything that arrives is hostile. A violation ends the whole agent through ``on_fatal``, never the worker: one agent
per process, so nobody else is hurt. A request's own fault (it threw, it answered nonsense) ends that request only.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final, cast

from msgspec.json import encode

from cloister.core.encoding.hexes import to_hex
from cloister.core.errors import CloisterError
from cloister.sandbox.calls import Call, headers_fault, parse_head
from cloister.sandbox.errors import (
    BAD_REQUEST,
    BAD_RESPONSE,
    BUNDLE,
    BUSY,
    CLOSED,
    DEADLINE,
    HOST_CALL,
    PROTOCOL,
    REQUEST_TOO_LARGE,
    RESPONSE_TOO_LARGE,
    THREW,
)
from cloister.sandbox.frames import HEADER, WINDOW, Decoder, Kind, dump, load_head, load_object
from cloister.sandbox.ports import AgentRequest, AgentResponseHead, AgentSpec, Headers, HostCalls

MAX_HOST_CALLS: Final = 64
MAX_HOST_RESULT: Final = 4 << 20
# Arguments of host calls under way, and what may wait in our buffers for a harness that does not read.
MAX_HOST_BYTES: Final = 16 << 20
MAX_UNREAD: Final = 32 << 20
# Parsing makes an object of each: four mebibytes of empty lists would be a hundred in memory.
MAX_HOST_PARTS: Final = 65536
_LEVELS = frozenset({"debug", "info", "warn", "error"})
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_KINDS = frozenset(
    {"Error", "TypeError", "RangeError", "ReferenceError", "SyntaxError", "EvalError", "URIError", "AggregateError"}
    | {"HostError", "NotCapable", "AbortError", "TimeoutError"}
    | {"ArithmeticError", "AssertionError", "AttributeError", "CancelledError", "ConnectionError", "ImportError"}
    | {"IndexError", "KeyError", "LookupError", "MemoryError", "ModuleNotFoundError", "NameError", "OSError"}
    | {"NotImplementedError", "PermissionError", "RecursionError", "RuntimeError", "SystemExit", "UnicodeDecodeError"}
    | {"UnicodeEncodeError", "ValueError", "ZeroDivisionError"}
)
# Heads of responses that were read before: agents answer with few different ones.
_HEADS, _MAX_HEAD = 32, 1 << 10
# Names of headers whose values are kept beyond their request.
_KEPT: Final = frozenset({"accept", "accept-language", "content-type", "user-agent"})
# A flood of log lines is dropped first; past this many times the budget it is an attack.
_LOG_FLOOD: Final = 64


class Channel(asyncio.Protocol):
    """Frames of one agent. ``on_fatal(error)`` is called once, when the agent must die; ``on_lost()`` when the socket
    closed and nobody has said why yet."""

    def __init__(
        self,
        spec: AgentSpec,
        host: HostCalls,
        on_fatal: Callable[[CloisterError], None],
        on_lost: Callable[[], None] = lambda: None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self.ready: asyncio.Future[None] = self._loop.create_future()
        self._spec, self._limits, self._host, self._on_fatal = spec, spec.limits, host, on_fatal
        self._on_lost = on_lost
        self._decoder, self._outgoing, self._queued = Decoder(), list[bytes](), 0
        self._heads: dict[bytes, AgentResponseHead] = {}
        self._written: dict[Headers, bytes] = {}
        self._transport: asyncio.Transport | None = None
        self._calls: dict[int, Call] = {}
        self._orphans: set[int] = set()
        self._awaiting_pong: dict[int, asyncio.TimerHandle] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._next = 1
        self._dead: CloisterError | None = None
        self._logged = self._host_bytes = 0
        self._writable = asyncio.Event()
        self._writable.set()
        self._handlers: dict[int, Callable[[int, bytes], None]] = {
            Kind.READY: self._on_ready,
            Kind.FAILED: self._on_failed,
            Kind.HEAD: self._on_head,
            Kind.CHUNK: self._on_chunk,
            Kind.END: self._on_end,
            Kind.ERROR: self._on_error,
            Kind.HOST_CALL: self._on_host_call,
            Kind.LOG: self._on_log,
            Kind.PONG: self._on_pong,
            Kind.RESPONSE: self._on_response,
        }

    # -- towards the agent

    def introduce(self, bridge: bool) -> None:
        """Send the first frame: identity, environment, secrets. They never touch a process environment or a disk."""
        spec = self._spec
        fields = {
            "v": 1,
            "agent": to_hex(spec.agent),
            "entry": spec.entry,
            "env": dict(spec.env),
            "secrets": dict(spec.secrets),
            "bridge": bridge,
            "window": WINDOW,
        }
        self._send(Kind.INIT, 0, dump(fields))

    def begin(self, request: AgentRequest) -> Call:
        """Send a request. Raises SandboxError (closed, busy, bad_request, request_too_large)."""
        if self._dead is not None:
            raise self._dead.with_traceback(None)
        limits = self._limits
        if len(self._calls) >= limits.concurrency:
            raise BUSY(expected=f"at most {limits.concurrency} requests at once", found="one more")
        head = self._request_head(request)
        number, self._next = self._next, self._next + 1
        if number >= 1 << 32:
            raise CLOSED(expected="fewer than 2**32 requests per process", found="one more")
        if self._unread() + len(request.body) > MAX_UNREAD:
            raise BUSY(expected="an agent that reads its requests", found="one that has not read the last ones")
        call = self._calls[number] = Call(number, request, limits.response_bytes, self._grant)
        self._send(Kind.REQUEST, number, b"%b%b%b" % (len(head).to_bytes(4, "little"), head, request.body))
        return call

    def _request_head(self, request: AgentRequest) -> bytes:
        """The head as JSON. Raises SandboxError: request_too_large, bad_request. Callers send few different headers:
        what was looked at before is known, and how it is written; nothing that may hold a secret is kept."""
        _check_request(request, self._limits.request_bytes)
        headers = request.headers
        known = self._written.get(headers) if type(headers) is tuple else None
        if known is None:
            known = _headers_text(headers)
            if type(headers) is tuple and len(known) <= _MAX_HEAD and all(name in _KEPT for name, _ in headers):
                if len(self._written) >= _HEADS:
                    self._written.clear()
                self._written[headers] = known
        return b'{"id":%b,"method":"%b","path":%b,"headers":%b,"caller":%b,"deadline":%d}' % (
            encode(request.request_id),
            request.method.encode(),
            encode(request.path),
            known,
            b"null" if request.caller is None else encode(dict(request.caller)),
            request.deadline_ms,
        )

    def expire(self, call: Call, grace_s: float) -> None:
        """The caller's time is over: fail the request, tell the agent, and stop it if it does not react."""
        call.fail(DEADLINE(expected="an answer in time", found="none"))
        self.abandon(call, grace_s)

    def abandon(self, call: Call, grace_s: float) -> None:
        """Nobody waits for this answer any more. An event loop that is stuck does not answer within ``grace_s``."""
        if self._dead is not None or call.number not in self._calls or call.number in self._orphans:
            return
        call.over = True
        self._orphans.add(call.number)
        self._send(Kind.CANCEL, call.number)
        self._awaiting_pong[call.number] = self._loop.call_later(grace_s, self._stuck)
        if len(self._orphans) > max(4, self._limits.concurrency // 2):
            self.die(DEADLINE(expected="cancelled requests to end", found=f"{len(self._orphans)} that go on"))

    def die(self, error: CloisterError) -> None:
        """End every request with ``error``. Idempotent: the first error stays."""
        if self._dead is not None:
            return
        self._dead = error
        for call in self._calls.values():
            call.fail(error)
        for timer in self._awaiting_pong.values():
            timer.cancel()
        for task in self._tasks:
            task.cancel()
        if not self.ready.done():
            self.ready.set_exception(error)
            self.ready.exception()
        if self._transport is not None:
            self._transport.abort()
        self._on_fatal(error)

    def _stuck(self) -> None:
        self.die(DEADLINE(expected="an event loop that turns", found="code that never yields"))

    def _grant(self, call: Call, count: int) -> None:
        if self._dead is None:
            self._send(Kind.CREDIT, call.number, count.to_bytes(4, "little"))

    def _send(self, kind: Kind, number: int, payload: bytes = b"") -> None:
        """Queue a frame. All frames of one turn of the loop leave in one write."""
        if self._transport is not None and self._dead is None:
            if not self._outgoing:
                self._loop.call_soon(self._flush)
            self._outgoing.append(HEADER.pack(len(payload), number, kind))
            self._outgoing.append(payload)
            self._queued += HEADER.size + len(payload)

    @property
    def under_way(self) -> int:
        """Requests that somebody waits for."""
        return len(self._calls) - len(self._orphans)

    def _unread(self) -> int:
        return self._queued + (self._transport.get_write_buffer_size() if self._transport is not None else 0)

    def _flush(self) -> None:
        if self._transport is not None and self._dead is None:
            self._transport.write(b"".join(self._outgoing))
        self._outgoing.clear()
        self._queued = 0

    # -- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio: the harness's connection is ours."""
        # uvloop's transports have the interface but not the base class: a check by isinstance would refuse them.
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """asyncio: the socket closed. The process watcher knows why; it gets a moment to say so (process.py)."""
        self._transport = None
        if self._dead is None:
            self._on_lost()

    def pause_writing(self) -> None:
        """asyncio: the harness does not read as fast as we write."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """asyncio: it has read."""
        self._writable.set()

    def data_received(self, data: bytes) -> None:
        """asyncio: bytes from the harness. Border: whatever they provoke ends this agent, not the event loop."""
        if self._dead is not None:
            return
        try:
            for kind, number, payload in self._decoder.feed(data):
                self._handlers[kind](number, payload)
                if self._dead is not None:
                    return
        except CloisterError as error:
            self.die(error)
        except Exception as error:
            self.die(PROTOCOL(expected="frames that this worker can read", found=type(error).__name__))

    # -- from the agent

    def _on_ready(self, number: int, payload: bytes) -> None:
        if self.ready.done():
            raise PROTOCOL(expected="READY once", found="READY again")
        self.ready.set_result(None)

    def _on_failed(self, number: int, payload: bytes) -> None:
        if self.ready.done():
            raise PROTOCOL(expected="FAILED before READY", found="FAILED after it")
        self.die(BUNDLE(expected="a module that loads", found=_kind(load_object(payload))))

    def _on_head(self, number: int, payload: bytes) -> None:
        if call := self._call(number):
            try:
                call.on_head(lambda: self._head(payload))
            except CloisterError as error:
                if error.code != BAD_RESPONSE.code:
                    raise
                self._refuse(call, error)

    def _head(self, payload: bytes) -> AgentResponseHead:
        """A response head. What was read once is known by its bytes."""
        known = self._heads.get(payload)
        if known is None:
            known = parse_head(load_head(payload))
            if len(payload) <= _MAX_HEAD:
                if len(self._heads) >= _HEADS:
                    self._heads.clear()
                self._heads[payload] = known
        return known

    def _read(self, payload: bytes) -> AgentResponseHead | None:
        """The same, or None for one that ends its request."""
        try:
            return self._head(payload)
        except CloisterError as error:
            if error.code != BAD_RESPONSE.code:
                raise
            return None

    def _on_chunk(self, number: int, payload: bytes) -> None:
        if not payload:
            raise PROTOCOL(expected="a piece of a body", found="an empty one")
        self._take(number, payload)

    def _take(self, number: int, payload: bytes) -> None:
        call = self._call(number)
        if call is None:
            self._calls[number].on_late(len(payload))
            return
        try:
            call.on_chunk(payload)
        except CloisterError as error:
            if error.code != RESPONSE_TOO_LARGE.code:
                raise
            self._refuse(call, error)

    def _on_end(self, number: int, payload: bytes) -> None:
        if call := self._call(number):
            call.on_end()
        self._forget(number)

    def _on_response(self, number: int, payload: bytes) -> None:
        """A whole small response: HEAD, CHUNK and END in one."""
        body = 4 + int.from_bytes(payload[:4], "little")
        if body > len(payload):
            raise PROTOCOL(expected="a head within its frame", found="a longer one")
        call = None if number in self._orphans else self._calls.get(number)
        if call is not None:
            head = self._heads.get(payload[4:body]) or self._read(payload[4:body])
            if head is not None and call.on_whole(head, payload[body:]):
                del self._calls[number]
                call.tell()
                return
        self._on_head(number, payload[4:body])
        self._take(number, payload[body:])
        self._on_end(number, b"")

    def _on_error(self, number: int, payload: bytes) -> None:
        if call := self._call(number):
            call.fail(THREW(expected="a response", found=_kind(load_object(payload))))
        self._forget(number)

    def _on_pong(self, number: int, payload: bytes) -> None:
        timer = self._awaiting_pong.pop(number, None)
        if timer is None:
            raise PROTOCOL(expected="PONG after CANCEL", found="PONG alone")
        timer.cancel()

    def _on_log(self, number: int, payload: bytes) -> None:
        fields = load_object(payload)
        level, text = fields.get("level"), fields.get("text")
        if not isinstance(level, str) or level not in _LEVELS or not isinstance(text, str):
            raise PROTOCOL(expected="LOG with level and text", found="other fields")
        call = self._calls.get(number)
        self.log(call.request_id if call else None, level, text)

    def log(self, request_id: str | None, level: str, text: str) -> None:
        """Pass a line to the owner's log while the budget lasts. Raises SandboxError for a flood far beyond it."""
        before, budget = self._logged, self._limits.log_bytes * max(1, self._next - 1)
        self._logged += len(text) + 64
        if self._logged <= budget:
            self._host.log(request_id, level, text)
        elif before <= budget:
            self._host.log(request_id, "warn", "the log is over its budget: lines are dropped")
        elif self._logged > budget * _LOG_FLOOD:
            raise PROTOCOL(expected=f"at most {budget} bytes of log", found=f"over {_LOG_FLOOD} times that")

    def _on_host_call(self, number: int, payload: bytes) -> None:
        call = self._call(number)
        if sum(map(payload.count, (b",", b"[", b"{"))) > MAX_HOST_PARTS:
            raise PROTOCOL(expected=f"a host call of at most {MAX_HOST_PARTS} parts", found="more")
        fields = load_object(payload)
        index, name, args = fields.get("call"), fields.get("name"), fields.get("args")
        if not isinstance(index, int) or not isinstance(name, str) or not isinstance(args, dict):
            raise PROTOCOL(expected="HOST_CALL with call, name and args", found="other fields")
        if len(self._tasks) >= MAX_HOST_CALLS:
            raise PROTOCOL(expected=f"at most {MAX_HOST_CALLS} host calls at once", found="one more")
        if call is None:
            refusal = DEADLINE(expected="a request that is under way", found="one that was cancelled")
            self._answer(number, dump({"call": index, "error": refusal.to_wire()}))
            return
        if self._host_bytes + len(payload) > MAX_HOST_BYTES:
            over = HOST_CALL(expected=f"at most {MAX_HOST_BYTES} bytes of host calls at once", found="more")
            self._answer(number, dump({"call": index, "error": over.to_wire()}))
            return
        self._host_bytes += len(payload)
        call.asking += 1
        task = self._loop.create_task(self._serve(call, index, name[:64], args))
        self._tasks.add(task)
        task.add_done_callback(lambda done: self._served(done, call, len(payload)))

    def _served(self, task: asyncio.Task[None], call: Call, size: int) -> None:
        self._tasks.discard(task)
        call.asking -= 1
        self._host_bytes -= size

    def _answer(self, number: int, answer: bytes) -> None:
        if self._unread() + len(answer) > MAX_UNREAD:
            self.die(PROTOCOL(expected="a harness that reads its answers", found="one that does not"))
            return
        self._send(Kind.HOST_RESULT, number, answer)

    async def _serve(self, call: Call, index: int, name: str, args: dict[str, Any]) -> None:
        """Border: whatever the worker's handler raises becomes an answer to the agent."""
        try:
            await self._writable.wait()
            value = await self._host.call(call.request_id, name, args)
            answer = dump({"call": index, "value": value})
            if len(answer) > MAX_HOST_RESULT:
                raise HOST_CALL(expected=f"a result of at most {MAX_HOST_RESULT} bytes", found=f"{len(answer)}")
        except CloisterError as error:
            answer = dump({"call": index, "error": error.to_wire()})
        except Exception as error:
            refusal = HOST_CALL(expected="an answer of the worker", found=type(error).__name__)
            answer = dump({"call": index, "error": refusal.to_wire()})
        self._answer(call.number, answer)

    def _call(self, number: int) -> Call | None:
        """The request of a frame; None if it was cancelled. Raises SandboxError for a number that is not open."""
        call = self._calls.get(number)
        if call is None:
            raise PROTOCOL(expected="a frame of an open request", found="a number that is not open")
        return None if number in self._orphans else call

    def _forget(self, number: int) -> None:
        self._calls.pop(number, None)
        self._orphans.discard(number)

    def _refuse(self, call: Call, error: CloisterError) -> None:
        call.fail(error)
        self.abandon(call, 1.0)


def _kind(fields: dict[str, Any]) -> str:
    """A standard error name, or "an error of its own": free text of the agent never enters an error."""
    kind = fields.get("kind")
    return kind if isinstance(kind, str) and kind in _KINDS else "an error of its own"


def _check_request(request: AgentRequest, limit: int) -> None:
    """Raises SandboxError: request_too_large, bad_request."""
    if len(request.body) > limit:
        raise REQUEST_TOO_LARGE(expected=f"a body of at most {limit} bytes", found=f"{len(request.body)} bytes")
    if request.method not in _METHODS:
        raise BAD_REQUEST(expected=f"one of {', '.join(sorted(_METHODS))}", found="another method")
    if request.body and request.method in ("GET", "HEAD"):
        raise BAD_REQUEST(expected=f"{request.method} without a body", found=f"{len(request.body)} bytes")
    if not request.path.startswith("/") or len(request.path) > 16 << 10 or not request.path.isprintable():
        raise BAD_REQUEST(expected="a path that starts with / and has at most 16 KiB", found="another path")


def _headers_text(headers: Headers) -> bytes:
    """Headers of a request as JSON. Raises SandboxError (sandbox.bad_request)."""
    if fault := headers_fault(headers):
        raise BAD_REQUEST(expected="valid headers", found=fault)
    return encode(headers)
