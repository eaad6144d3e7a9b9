"""One sealed call through the gateway: bytes in, bytes out, both opaque (spec/gateway-api.md 5).

The hot path: no task, no future; frames from the worker are written to the caller as they come, and credit goes back
to the worker only while the caller reads.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from cloister.core.encoding.hexes import to_hex
from cloister.core.envelope.trace import HEADER, TraceContext
from cloister.core.errors import CloisterError, TransportError, define
from cloister.gateway.workers import Workers
from cloister.node.trace import SERVER, Span, Tracer
from cloister.wire.announce import Kind, call_payload
from cloister.wire.frames import LOST, Call
from cloister.wire.http import Exchange

SEALED: Final = "application/cloister-sealed"
_NO_STORE: Final = b"cache-control: no-store\r\n"

BAD_CALL = define(
    "gateway.bad_call",
    TransportError,
    check="a call is POST /v1/call/{agent}?boot={boot} with a sealed record as its body",
    remedy="seal with a client of this version; agent and boot are 0x and 64 hex digits",
)
OVERLOADED = define(
    "gateway.overloaded",
    TransportError,
    check="the gateway has room for one more call",
    remedy="repeat in some seconds, or use another gateway",
    status=503,
)
WORKER_GONE = define(
    "gateway.worker_gone",
    TransportError,
    check="the worker stays connected until it has answered",
    remedy="seal to another worker with the same request id if the request is safe to repeat",
    status=502,
)


@dataclass(frozen=True, slots=True)
class Door:
    """One kind of call: its target (agent, boot), content types of request and answer, the stream to the worker, and
    how a refusal is said."""

    target: re.Pattern[str]
    takes: str
    gives: str
    kind: Kind
    refuse: Callable[[Exchange, CloisterError], None]


SEALED_CALLS: Final = Door(
    re.compile(r"/v1/call/0x([0-9a-f]{64})\?boot=0x([0-9a-f]{64})"),
    SEALED,
    SEALED,
    Kind.CALL,
    lambda exchange, error: exchange.error(error),
)
CALLER_GONE = define(
    "gateway.caller_gone",
    TransportError,
    check="the caller stays connected until it has its answer",
    remedy="nothing needs to be done: nobody waits for this answer any more",
    status=499,
)
Observe = Callable[[float, int, CloisterError | None], None]


@dataclass(slots=True)
class Counts:
    """What happened so far, for operators."""

    calls: int = 0
    refused: int = 0
    broken: int = 0
    in_flight: int = 0
    bytes_in: int = 0
    bytes_out: int = 0


class Calls:
    """Routes calls to workers by boot id."""

    def __init__(self, workers: Workers, max_calls: int, tracer: Tracer | None = None) -> None:
        self._workers, self._max, self._tracer = workers, max_calls, tracer
        self.counts = Counts()
        self.observe: Callable[[float], None] = _nobody

    def serve(self, exchange: Exchange, door: Door = SEALED_CALLS) -> None:
        """Begin one call. Raises TransportError: gateway.bad_call, no_worker, overloaded."""
        request = exchange.request
        match = door.target.fullmatch(request.target)
        if match is None or request.headers.get("content-type") != door.takes:
            raise BAD_CALL(expected="an agent, a boot and a sealed body", found="another target or content type")
        if self.counts.in_flight >= self._max:
            raise OVERLOADED(expected=f"at most {self._max} calls at once", found="one more")
        agent, boot = bytes.fromhex(match[1]), bytes.fromhex(match[2])
        span = self._begun(agent, exchange) if door is SEALED_CALLS else None
        try:
            linked = self._workers.by_boot(boot)
            running = _Running(exchange, self.counts, self._observed(span), door)
            running.call = linked.connection.open(door.kind, call_payload(agent, request.body), running)
        except CloisterError as error:
            self.counts.refused += 1
            self._refused(span, error)
            raise
        self.counts.calls += 1
        self.counts.in_flight += 1
        self.counts.bytes_in += len(request.body)
        request.body = b""
        exchange.on_abort, exchange.on_drain = running.abandoned, running.drained

    def _begun(self, agent: bytes, exchange: Exchange) -> Span | None:
        """A span of this call, in the trace that the caller shows outside of its sealed request. Oblivious calls have
        none: nothing may tie one to another."""
        if self._tracer is None:
            return None
        shown = TraceContext.parse(exchange.request.headers.get(HEADER))
        span = self._tracer.begin("gateway.call", SERVER, shown)
        if span is not None:
            span.note(cloister_agent=to_hex(agent), cloister_request_size=len(exchange.request.body))
        return span

    def _refused(self, span: Span | None, error: CloisterError) -> None:
        if span is not None and self._tracer is not None:
            span.note(http_response_status_code=error.status, error_type=error.code)
            self._tracer.end(span)

    def _observe(self, seconds: float, size: int, error: CloisterError | None) -> None:
        self.observe(seconds)

    def _observed(self, span: Span | None) -> Observe:
        """What is told when the call is over."""
        if span is None or self._tracer is None:
            return self._observe
        tracer = self._tracer

        def over(seconds: float, size: int, error: CloisterError | None) -> None:
            self.observe(seconds)
            span.note(http_response_status_code=200 if error is None else error.status, cloister_answer_size=size)
            if error is not None:
                span.note(error_type=error.code)
            tracer.end(span)

        return over


class _Running:
    """A call in progress: the worker's stream on one side, the caller's HTTP answer on the other."""

    __slots__ = ("_begun", "_counts", "_door", "_exchange", "_observe", "_over", "_size", "_unread", "call")

    def __init__(self, exchange: Exchange, counts: Counts, observe: Observe, door: Door) -> None:
        self._exchange, self._counts, self._observe, self._door = exchange, counts, observe, door
        self._begun = time.monotonic()
        self.call: Call | None = None
        self._unread = self._size = 0
        self._over = False

    # What the worker says

    def head(self, data: bytes) -> None:
        """Calls have no HEAD frame: its bytes are part of the stream."""
        self._write(data)

    def chunk(self, data: bytes) -> None:
        """Some of the sealed answer."""
        self._write(data)
        self._unread += len(data)
        if not self._exchange.paused:
            self.drained()

    def end(self, data: bytes) -> None:
        """The last of it."""
        self._counts.bytes_out += len(data)
        self._size += len(data)
        self._finish()
        if not self._exchange.started:
            self._exchange.reply(200, data, self._door.gives, _NO_STORE)
            return
        self._exchange.write(data)
        self._exchange.finish()

    def failed(self, error: CloisterError) -> None:
        """The worker could not open it, or went away."""
        if error.code == LOST.code:
            self._counts.broken += 1
            error = WORKER_GONE(expected="an answer", found="a closed connection")
        else:
            self._counts.refused += 1
        self._finish(error)
        self._door.refuse(self._exchange, error)

    # What the caller does

    def drained(self) -> None:
        """The caller reads again: the worker may go on."""
        if self.call is not None and self._unread:
            self.call.consumed(self._unread)
        self._unread = 0

    def abandoned(self) -> None:
        """The caller went away."""
        if not self._over and self.call is not None:
            self.call.cancel()
        self._finish(CALLER_GONE(expected="a caller that reads", found="a closed connection"))

    def _write(self, data: bytes) -> None:
        self._counts.bytes_out += len(data)
        self._size += len(data)
        self._exchange.start(200, self._door.gives)
        self._exchange.write(data)

    def _finish(self, error: CloisterError | None = None) -> None:
        if not self._over:
            self._over = True
            self._counts.in_flight -= 1
            self._observe(time.monotonic() - self._begun, self._size, error)


def _nobody(seconds: float) -> None:
    """Nobody measures."""
