"""A small HTTP/1.1 server for hostile clients: uvloop transports, httptools parsing, everything capped and timed.

One ``HttpServer`` has many ``HttpConnection``; a connection serves one ``Exchange`` at a time, in order. The handler
is a plain function called with a complete request; it answers at once, later, or piece by piece. Handlers that need
``await`` use ``Exchange.run``. Refusals go out as ``{"error": {...}}`` with the code's status.

States of a connection: IDLE -> HEAD -> BODY -> SERVING -> IDLE, or CLOSING from anywhere. Each has its time limit, and
one sweep per second ends what overstayed: slow headers, slow bodies, silent handlers, readers that do not read.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections import deque
from collections.abc import Callable
from enum import Enum
from functools import lru_cache
from http import HTTPStatus
from typing import Final, cast

import httptools

from cloister.core.errors import CloisterError
from cloister.wire.exchange import (
    BAD_REQUEST,
    INTERNAL,
    OVERLOADED,
    TIMEOUT,
    TOO_LARGE,
    TOO_SLOW,
    Exchange,
    Handler,
    HttpLimits,
    Request,
)

__all__ = [
    "BAD_REQUEST",
    "INTERNAL",
    "OVERLOADED",
    "TIMEOUT",
    "TOO_LARGE",
    "TOO_SLOW",
    "Exchange",
    "Handler",
    "HttpConnection",
    "HttpLimits",
    "HttpServer",
    "Request",
]

SWEEP_S: Final = 1.0
LINGER_S: Final = 0.5
MIN_RATE: Final = 16 << 10
_REASONS: Final = {status.value: status.phrase for status in HTTPStatus}
_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"


class _State(Enum):
    IDLE = "between requests"
    HEAD = "reading a head"
    BODY = "reading a body"
    SERVING = "answering"
    CLOSING = "closing"


class _Refused(Exception):  # noqa: N818 - never leaves this module
    """Raised inside parser callbacks, which may not raise anything else."""


class _Partial:
    """A request while it arrives. ``body``: bytes as long as it came in one piece."""

    __slots__ = ("body", "cap", "header_bytes", "headers", "method", "target", "url")

    def __init__(self) -> None:
        self.url = b""
        self.method = self.target = ""
        self.headers: dict[str, str] = {}
        self.body: bytes | bytearray = b""
        self.header_bytes = self.cap = 0


class HttpConnection(asyncio.Protocol):
    """One client. Nothing raises out of the protocol methods."""

    def __init__(self, server: HttpServer) -> None:
        self.server = server
        self.paused = False
        self.chunked = True
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpRequestParser(self)
        self._partial = _Partial()
        self._state = _State.IDLE
        self._deadline = self._loop.time() + server.limits.idle_s
        self._exchange: Exchange | None = None
        self._waiting: deque[tuple[Request, bool]] = deque()
        self._keep_alive = True
        self._deaf = False
        self._later = bytearray()
        self._head_bytes = 0
        self._held = 0
        self._out: list[bytes] = []

    # Writing

    def head(self, status: int, content_type: str, framing: bytes) -> bytes:
        """Status line and headers."""
        closing = b"" if self._keep_alive and not self.server.draining else b"connection: close\r\n"
        return b"%b%b%b%b\r\n" % (_line(status, content_type), framing, closing, self.server.extra)

    def write(self, data: bytes) -> None:
        """Queue bytes; one write per loop tick."""
        if not self._out:
            self._loop.call_soon(self._flush)
        self._out.append(data)

    def abort(self) -> None:
        """Drop the connection at once, with what is not written yet."""
        self._state = _State.CLOSING
        if self._transport is not None:
            self._transport.abort()

    def cut(self) -> None:
        """Close after what is written went out, in the middle of an answer: the client sees that its end is missing."""
        self._enter(_State.CLOSING, self.server.limits.write_s)
        self._flush()
        self._close()

    def answer_deadline(self) -> float:
        """When an answer that stays silent from now on is given up."""
        return self._loop.time() + self.server.limits.answer_s

    def exchange_over(self) -> None:
        """The answer is complete: next request, or close."""
        self._release()
        self._exchange = None
        if self._state is _State.CLOSING:
            return
        if not self._keep_alive or self.server.draining:
            self._close_soon()
            return
        self._enter(_State.IDLE, self.server.limits.idle_s)
        if self._waiting or self._later:
            self._loop.call_soon(self._next)

    def _flush(self) -> None:
        out, self._out = self._out, []
        if out and self._transport is not None and not self._transport.is_closing():
            self._transport.write(b"".join(out))

    def _refuse(self, error: CloisterError) -> None:
        """Answer what cannot be served, then close without reading the rest."""
        if self._state is _State.CLOSING or self._transport is None:
            return
        self._keep_alive = False
        if self._exchange is not None:  # a bad request behind a good one: the good one is answered first
            self._deaf = True
            self._waiting.clear()
            self._later.clear()
            return
        body = json.dumps({"error": error.to_wire()}).encode()
        self.write(self.head(error.status, "application/json", b"content-length: %d\r\n" % len(body)) + body)
        self._close_soon()

    def _close_soon(self) -> None:
        """Close after what is written went out; until then what arrives is thrown away."""
        self._enter(_State.CLOSING, self.server.limits.write_s)
        self._flush()
        self._loop.call_later(LINGER_S, self._close)
        if self._transport is not None and self._transport.can_write_eof():
            try:
                self._transport.write_eof()
            except (OSError, RuntimeError):
                self._transport.abort()

    def _close(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.close()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client is here."""
        # uvloop's transports have the interface but not the base class: a check by isinstance would refuse them.
        stream = self._transport = cast(asyncio.Transport, transport)
        stream.set_write_buffer_limits(high=self.server.limits.buffered)
        self.server.connections.add(self)
        if len(self.server.connections) > self.server.limits.connections or self.server.draining:
            self._refuse(OVERLOADED(expected=f"at most {self.server.limits.connections} connections", found="more"))

    def connection_lost(self, exc: Exception | None) -> None:
        """It is gone."""
        self._transport = None
        self._state = _State.CLOSING
        self.server.connections.discard(self)
        self._release()
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            self._contained(exchange.lost)

    def pause_writing(self) -> None:
        """The client does not read."""
        self.paused = True
        self._deadline = self._loop.time() + self.server.limits.write_s

    def resume_writing(self) -> None:
        """It reads again."""
        self.paused = False
        if self._exchange is not None:
            self._exchange.deadline = self.answer_deadline()
            if self._exchange.on_drain is not None:
                self._contained(self._exchange.on_drain)

    def eof_received(self) -> None:
        """The client closed: whoever hangs up wants no answer. The transport closes itself."""

    def data_received(self, data: bytes) -> None:
        """Bytes of a request. While an answer is made they wait, so that a client that leaves is noticed."""
        if self._state is _State.CLOSING or self._deaf:
            return
        if self._exchange is not None:
            self._later += data
            if len(self._later) > _MAX_LATER and self._transport is not None:
                self._transport.pause_reading()
            return
        self._feed(data)

    def _feed(self, data: bytes) -> None:
        try:
            if self._state is _State.IDLE:
                self._enter(_State.HEAD, self.server.limits.header_s)
                self._head_bytes = 0
            self._parser.feed_data(data)
            self._head_bytes += len(data)
            if self._state is _State.HEAD and self._head_bytes > self.server.limits.header_bytes:
                self._refuse(BAD_REQUEST(expected=f"a head of {self.server.limits.header_bytes} bytes", found="more"))
        except httptools.HttpParserError as error:
            self._refuse(BAD_REQUEST(expected="HTTP/1.1", found=type(error).__name__))
        except Exception as error:
            self.server.report("parser", error)
            self._refuse(BAD_REQUEST(expected="HTTP/1.1", found="something else"))

    def sweep(self, now: float) -> None:
        """Once per second: end what overstayed its time."""
        if self.paused and now > self._deadline:
            self.abort()
        elif self._state is _State.SERVING:
            if self._exchange is not None and now > self._exchange.deadline:
                self._exchange.error(TIMEOUT(expected="an answer in time", found="none"))
        elif now > self._deadline:
            if self._state in (_State.HEAD, _State.BODY):
                self._refuse(TOO_SLOW(expected="a request in time", found=self._state.value))
            else:
                self.abort()

    def drain(self) -> None:
        """The server stops: idle connections close now, others after their answer."""
        if self._state is _State.IDLE:
            self._close_soon()

    # httptools callbacks

    def on_message_begin(self) -> None:
        """A request begins."""
        self._partial = _Partial()

    def on_url(self, url: bytes) -> None:
        """Part of the target."""
        self._partial.url += url
        if len(self._partial.url) > self.server.limits.url:
            self._stop(BAD_REQUEST(expected=f"a target of at most {self.server.limits.url} bytes", found="more"))

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header."""
        part, limits = self._partial, self.server.limits
        part.header_bytes += len(name) + len(value) + 4
        if part.header_bytes > limits.header_bytes or len(part.headers) >= limits.headers:
            self._stop(BAD_REQUEST(expected=f"{limits.headers} headers, {limits.header_bytes} bytes", found="more"))
        part.headers[_NAMES.get(name) or name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        """The head is whole: is the body welcome?"""
        part = self._partial
        part.method, part.target = self._parser.get_method().decode("latin-1"), part.url.decode("latin-1")
        if self._parser.should_upgrade():
            self._stop(BAD_REQUEST(expected="HTTP/1.1", found="an upgrade"))
        part.cap = self.server.max_body(part.method, part.target)
        size = int(part.headers.get("content-length", "0") or "0")
        if size > part.cap:
            self._stop(TOO_LARGE(expected=f"at most {part.cap} bytes", found=f"{size} bytes"))
        if part.headers.get("expect", "").lower() == "100-continue" and self._exchange is None:
            self.write(_CONTINUE)
        self._enter_body()

    def on_body(self, data: bytes) -> None:
        """Part of the body."""
        part = self._partial
        if not part.body:
            part.body = data
        elif isinstance(part.body, bytes):
            part.body = bytearray(part.body) + data
        else:
            part.body += data
        if len(part.body) > part.cap:
            self._stop(TOO_LARGE(expected=f"at most {part.cap} bytes", found="more"))
        if not self.server.reserve(len(data)):
            self._stop(OVERLOADED(expected="room for the body", found="too many bodies at once"))
        self._held += len(data)
        self._deadline += len(data) / MIN_RATE

    def on_message_complete(self) -> None:
        """The request is whole."""
        part = self._partial
        request = Request(part.method, part.target, part.headers, bytes(part.body))
        part.body = b""
        self.chunked = self._parser.get_http_version() == "1.1"
        self._waiting.append((request, bool(self._parser.should_keep_alive())))
        if len(self._waiting) > _MAX_PIPELINED:
            self._stop(BAD_REQUEST(expected=f"at most {_MAX_PIPELINED} requests ahead", found="more"))
        if self._exchange is None:
            self._next()

    def _next(self) -> None:
        if self._exchange is not None or self._state is _State.CLOSING:
            return
        if not self._waiting:
            later, self._later = bytes(self._later), bytearray()
            if self._transport is not None:
                self._transport.resume_reading()
            if later:
                self._feed(later)
            return
        request, self._keep_alive = self._waiting.popleft()
        self._state = _State.SERVING
        exchange = self._exchange = Exchange(self, request, self.answer_deadline())
        self.server.requests += 1
        try:
            self.server.handler(exchange)
        except CloisterError as error:
            exchange.error(error)
        except Exception as error:
            self.server.report("handler", error)
            exchange.error(INTERNAL(expected="an answer", found="a fault of the server"))

    def _enter(self, state: _State, limit_s: float) -> None:
        self._state, self._deadline = state, self._loop.time() + limit_s

    def _enter_body(self) -> None:
        if self._exchange is None:
            self._enter(_State.BODY, self.server.limits.body_s)

    def _stop(self, error: CloisterError) -> None:
        self._refuse(error)
        raise _Refused

    def _release(self) -> None:
        self.server.release(self._held)
        self._held = 0

    def _contained(self, callback: Callable[[], None]) -> None:
        try:
            callback()
        except Exception as error:
            self.server.report("callback", error)


_NAMES: Final = {
    form.encode(): name
    for name in ("host", "content-type", "content-length", "accept", "user-agent", "connection", "traceparent")
    for form in (name, name.title())
}


@lru_cache(maxsize=64)
def _line(status: int, content_type: str) -> bytes:
    """Status line and content type."""
    reason = _REASONS.get(status, "Status")
    return f"HTTP/1.1 {status} {reason}\r\ncontent-type: {content_type}\r\n".encode("latin-1")


_MAX_PIPELINED: Final = 16
_MAX_LATER: Final = 64 << 10


class HttpServer:
    """Listens on TCP. ``handler(exchange)`` serves; ``max_body(method, target)`` caps bodies before they are read.

    ``extra``: header lines for every answer. ``report(where, exception)`` hears of faults that were contained."""

    def __init__(
        self,
        handler: Handler,
        max_body: Callable[[str, str], int],
        *,
        limits: HttpLimits | None = None,
        extra: bytes = b"",
        report: Callable[[str, BaseException], None] | None = None,
    ) -> None:
        self.handler, self.max_body, self.limits, self.extra = handler, max_body, limits or HttpLimits(), extra
        self.report = report or (lambda where, error: None)
        self.connections: set[HttpConnection] = set()
        self.tasks: set[asyncio.Task[None]] = set()
        self.draining = False
        self.requests = 0
        self.port = 0
        self._bodies = 0
        self._server: asyncio.AbstractServer | None = None
        self._sweeper: asyncio.TimerHandle | None = None

    async def start(self, host: str, port: int, *, reuse_port: bool = False) -> int:
        """Listen; returns the port (chosen by the kernel for 0)."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: HttpConnection(self), host, port, reuse_port=reuse_port or None, backlog=1024
        )
        sockets: list[socket.socket] = list(self._server.sockets)
        self.port = int(sockets[0].getsockname()[1])
        self._sweeper = loop.call_later(SWEEP_S, self._sweep)
        return self.port

    async def drain(self, timeout_s: float) -> None:
        """Stop: no new connections, answers in progress may finish within ``timeout_s``, then everything is cut."""
        if self._server is not None:
            self._server.close()
        self.draining = True
        for connection in list(self.connections):
            connection.drain()
        deadline = asyncio.get_running_loop().time() + timeout_s
        while self.connections and asyncio.get_running_loop().time() < deadline:  # noqa: ASYNC110 - many conditions
            await asyncio.sleep(0.02)
        for connection in list(self.connections):
            connection.abort()
        for task in list(self.tasks):
            task.cancel()
        if self._sweeper is not None:
            self._sweeper.cancel()

    def reserve(self, size: int) -> bool:
        """Take ``size`` bytes of the memory for bodies, if there is room."""
        if self._bodies + size > self.limits.bodies:
            return False
        self._bodies += size
        return True

    def release(self, size: int) -> None:
        """Give them back."""
        self._bodies -= size

    @property
    def bodies(self) -> int:
        """Bytes of request bodies held now."""
        return self._bodies

    def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        self._sweeper = loop.call_later(SWEEP_S, self._sweep)
        now = loop.time()
        for connection in list(self.connections):
            try:
                connection.sweep(now)
            except Exception as error:
                self.report("sweep", error)
