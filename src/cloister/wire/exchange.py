"""The answering side of the HTTP edge: limits, refusals, a request, and the exchange that a handler answers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cloister.core.errors import CloisterError, TransportError, define

if TYPE_CHECKING:
    from cloister.wire.http import HttpConnection


BAD_REQUEST = define(
    "http.bad_request",
    TransportError,
    check="the request is HTTP/1.1 within the server's caps",
    remedy="send a well-formed request; see spec/gateway-api.md for sizes",
)
TOO_LARGE = define(
    "http.too_large",
    TransportError,
    check="the body is within the cap of its route",
    remedy="send less",
    status=413,
)
TOO_SLOW = define(
    "http.too_slow",
    TransportError,
    check="a request arrives in time",
    remedy="use a faster connection, or send less at once",
    status=408,
)
OVERLOADED = define(
    "http.overloaded",
    TransportError,
    check="the server has room for one more request",
    remedy="repeat in some seconds",
    status=503,
)
TIMEOUT = define(
    "http.timeout",
    TransportError,
    check="the answer goes on within the time limit",
    remedy="repeat if the request is safe to repeat",
    status=504,
)
INTERNAL = define(
    "http.internal",
    TransportError,
    check="the handler ends by an answer or a named refusal",
    remedy="see the server's log; this is a fault of the software",
    status=500,
)


@dataclass(frozen=True, slots=True)
class HttpLimits:
    """Sizes in bytes, times in seconds. bodies: bytes of all request bodies held at once, whatever the connections."""

    url: int = 2048
    headers: int = 64
    header_bytes: int = 16 << 10
    bodies: int = 512 << 20
    connections: int = 4096
    tasks: int = 512
    buffered: int = 1 << 20
    header_s: float = 10.0
    body_s: float = 30.0
    idle_s: float = 75.0
    write_s: float = 60.0
    answer_s: float = 300.0


@dataclass(slots=True)
class Request:
    """A complete request. ``target`` is the raw path with query; header names are lower case."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes

    @property
    def path(self) -> str:
        """The target before its query."""
        return self.target.partition("?")[0]

    @property
    def query(self) -> str:
        """The target's query, raw."""
        return self.target.partition("?")[2]


Handler = Callable[["Exchange"], None]


class Exchange:
    """One request and its answer. After ``aborted`` (the client went away) writing does nothing.

    ``on_abort`` is called once if the client goes; ``on_drain`` when a full buffer emptied; ``on_timeout`` instead of
    the default 504 when nothing was written for ``answer_s``."""

    __slots__ = (
        "_chunked",
        "_connection",
        "_task",
        "aborted",
        "deadline",
        "done",
        "on_abort",
        "on_drain",
        "request",
        "started",
    )

    def __init__(self, connection: HttpConnection, request: Request, deadline: float) -> None:
        self._connection, self.request, self.deadline = connection, request, deadline
        self.started = self.done = self.aborted = False
        self.on_abort: Callable[[], None] | None = None
        self.on_drain: Callable[[], None] | None = None
        self._chunked = False
        self._task: asyncio.Task[None] | None = None

    @property
    def paused(self) -> bool:
        """Whether the client does not keep up: stop writing until ``on_drain``."""
        return self._connection.paused

    def reply(self, status: int, body: bytes, content_type: str = "application/json", extra: bytes = b"") -> None:
        """The whole answer. ``extra``: more header lines, each ended by CRLF."""
        if self.done or self.aborted:
            return
        head = self._connection.head(status, content_type, b"content-length: %d\r\n" % len(body) + extra)
        self.started = self.done = True
        self._connection.write(head + body)
        self._connection.exchange_over()

    def json(self, value: Any, status: int = 200) -> None:
        """A JSON answer."""
        self.reply(status, json.dumps(value, separators=(",", ":")).encode())

    def error(self, error: CloisterError) -> None:
        """A refusal; once the answer has begun, the connection is cut instead, which every client notices."""
        if self.started:
            self.abort()
        else:
            self.json({"error": error.to_wire()}, error.status)

    def start(self, status: int, content_type: str) -> None:
        """Begin an answer of unknown length."""
        if self.started or self.aborted:
            return
        self.started = True
        self._chunked = self._connection.chunked
        framing = b"transfer-encoding: chunked\r\n" if self._chunked else b""
        self._connection.write(self._connection.head(status, content_type, framing))

    def write(self, data: bytes) -> None:
        """More of it. ``paused`` says when to stop for a while."""
        if not data or self.done or self.aborted:
            return
        self.deadline = self._connection.answer_deadline()
        self._connection.write(b"%x\r\n%b\r\n" % (len(data), data) if self._chunked else data)

    def finish(self) -> None:
        """The end of it."""
        if self.done or self.aborted:
            return
        self.done = True
        if self._chunked:
            self._connection.write(b"0\r\n\r\n")
        self._connection.exchange_over()

    def abort(self) -> None:
        """Cut the connection: the answer cannot be completed honestly."""
        self._connection.cut()

    def run(self, answer: Coroutine[Any, Any, None]) -> None:
        """Answer from a coroutine: refusals and faults become error answers, a client that leaves cancels it."""
        server = self._connection.server
        if len(server.tasks) >= server.limits.tasks:
            answer.close()
            self.error(OVERLOADED(expected=f"at most {server.limits.tasks} such requests at once", found="more"))
            return
        self._task = asyncio.get_running_loop().create_task(self._run(answer))
        server.tasks.add(self._task)
        self._task.add_done_callback(server.tasks.discard)

    async def _run(self, answer: Coroutine[Any, Any, None]) -> None:
        try:
            await answer
        except CloisterError as error:
            self.error(error)
        except Exception as error:
            self._connection.server.report("handler", error)
            self.error(INTERNAL(expected="an answer", found="a fault of the server"))

    def lost(self) -> None:
        """The connection is gone."""
        if self.done or self.aborted:
            return
        self.aborted = True
        if self._task is not None:
            self._task.cancel()
        if self.on_abort is not None:
            self.on_abort()
