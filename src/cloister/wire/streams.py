"""The nouns of framed connections: frame types, caps, refusals, and both ends of one stream."""

from __future__ import annotations

import asyncio
import struct
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import IntEnum
from types import TracebackType
from typing import TYPE_CHECKING, Final, Protocol

import msgspec

from cloister.core.errors import CloisterError, TransportError, define, from_wire

if TYPE_CHECKING:
    from cloister.wire.connection import Connection

HEADER: Final = struct.Struct("<IIB")
WINDOW: Final = 256 << 10
PIECE: Final = 64 << 10
CREDIT: Final = struct.Struct("<I")


class Type(IntEnum):
    """Frame types. Numbers are on the wire."""

    REQUEST = 1
    HEAD = 2
    CHUNK = 3
    END = 4
    ERROR = 5
    CANCEL = 6
    ANNOUNCE = 7
    CREDIT = 8


LAST: Final = 128 << 10
TYPES: Final = (None, *Type)  # by number: `Type(number)` costs ten times as much
# Payload caps by type. REQUEST has the cap of its connection.
FRAME_CAPS: Final = (0, 1 << 32, 128 << 10, PIECE, LAST, 16 << 10, 0, 8 << 20, CREDIT.size)

LOST = define(
    "frames.lost",
    TransportError,
    check="the connection to the peer stays open",
    remedy="repeat if the request is safe to repeat; the peer stopped or restarted",
    status=502,
)
BUSY = define(
    "frames.busy",
    TransportError,
    check="the peer has room for one more request",
    remedy="repeat in some seconds",
    status=503,
)
TOO_LARGE = define(
    "frames.too_large",
    TransportError,
    check="a frame stays within the cap of its type",
    remedy="send less in one message",
    status=413,
)
CANCELLED = define(
    "frames.cancelled",
    TransportError,
    check="somebody still waits for the answer",
    remedy="none needed: the one who asked went away",
    status=499,
)
INTERNAL = define(
    "frames.internal",
    TransportError,
    check="the peer's handler ends by an answer or a named refusal",
    remedy="see the peer's log; this is a fault of the software",
    status=500,
)
BROKEN = define(
    "frames.broken",
    TransportError,
    check="frames follow the format of wire/connection.py",
    remedy="both ends must run the same version",
    status=502,
)


@dataclass(frozen=True, slots=True)
class Caps:
    """Caps of one connection. request: bytes of one REQUEST; streams: served at once; pending: request bytes of all
    streams served at once; buffered: bytes written and not yet taken by the kernel before new requests are refused."""

    request: int = 16 << 20
    streams: int = 1024
    pending: int = 256 << 20
    buffered: int = 64 << 20


class Sink(Protocol):
    """Takes what comes back on a stream, as synchronous calls from the event loop. ``end`` or ``failed`` is last."""

    def head(self, data: bytes) -> None:
        """The HEAD frame."""

    def chunk(self, data: bytes) -> None:
        """A CHUNK: tell ``Call.consumed`` when it is dealt with."""

    def end(self, data: bytes) -> None:
        """The END frame."""

    def failed(self, error: CloisterError) -> None:
        """The peer refused, or the connection went."""


class Call:
    """The opener's handle on one stream."""

    __slots__ = ("_begun", "_connection", "_owed", "_unread", "id", "sink")

    def __init__(self, connection: Connection, stream: int, sink: Sink) -> None:
        self._connection, self.id, self.sink = connection, stream, sink
        self._owed = 0
        self._unread = 0
        self._begun = False

    def consumed(self, size: int) -> None:
        """``size`` bytes of chunks are dealt with: the writer may send as many again."""
        self._unread -= size
        self._owed += size
        if self._owed >= WINDOW // 2:
            self._connection.credit(self, self._owed)
            self._owed = 0

    def cancel(self) -> None:
        """Nobody waits any more. The sink hears nothing further."""
        self._connection.cancel(self)

    def headed(self) -> None:
        """Account for a HEAD, which spends no credit. Raises TransportError unless it is the first frame of all."""
        if self._begun:
            raise BROKEN(expected="one HEAD, before any CHUNK", found="another HEAD")
        self._begun = True

    def received(self, size: int) -> None:
        """Account for a chunk. Raises TransportError if the peer sent more than its credit."""
        self._begun = True
        self._unread += size
        if self._unread + self._owed > WINDOW:
            raise BROKEN(expected="chunks within the credit", found=f"{self._unread} unread bytes")


class Incoming:
    """The server's handle on one stream. The first of ``end``, ``fail`` and the handler's return finishes it.

    A handler that needs no task answers by ``end`` or ``fail`` when it has what it waits for, and sets ``on_cancel``,
    which is called once if nobody waits any more; ``go_on`` gives it a task after all.

    What is sent in one turn of the event loop is held and leaves as one frame; an answer that is complete within a
    turn is nothing but its END frame."""

    __slots__ = (
        "_credit",
        "_done",
        "_held",
        "_held_size",
        "_more",
        "connection",
        "id",
        "kind",
        "on_cancel",
        "payload",
        "task",
    )

    def __init__(self, connection: Connection, stream: int, kind: int, payload: bytes) -> None:
        self.connection, self.id, self.kind, self.payload = connection, stream, kind, payload
        self._credit = WINDOW
        self._done = False
        self._held: list[bytes] = []
        self._held_size = 0
        self._more: asyncio.Event | None = None
        self.task: asyncio.Task[None] | None = None
        self.on_cancel: Callable[[], None] | None = None

    async def head(self, data: bytes) -> None:
        """Send the HEAD frame. Raises TransportError when nobody waits any more."""
        await self._ready()
        self.release()
        self.connection.write(self.id, Type.HEAD, data)

    async def send(self, data: bytes) -> None:
        """Send body bytes of any length, as fast as the reader takes them. Raises as ``head``."""
        if 0 < len(data) <= PIECE and len(data) <= self._credit and not self._done and self.connection.writes:
            self._credit -= len(data)
            self._hold(data)
            return
        at = 0
        while at < len(data):
            if self._credit <= 0 or self._done or not self.connection.writes:
                await self._ready()
            piece = data[at : at + min(PIECE, self._credit)]
            self._credit -= len(piece)
            self._hold(piece)
            at += len(piece)

    def end(self, data: bytes = b"") -> None:
        """Finish, with up to 128 KiB of last bytes."""
        if self._done:
            return
        if self._held and self._held_size + len(data) <= LAST:
            self._held.append(data)
            data = b"".join(self._held)
            self._held.clear()
        self._finish(Type.END, data)

    def fail(self, error: CloisterError) -> None:
        """Finish with a named refusal."""
        if not self._done:
            self._finish(Type.ERROR, msgspec.json.encode({**error.to_wire(), "status": error.status}))

    def release(self) -> None:
        """Write what is held: the connection calls this at the end of the turn."""
        if self._held:
            held, self._held, self._held_size = self._held, [], 0
            self.connection.write(self.id, Type.CHUNK, b"".join(held))

    @property
    def done(self) -> bool:
        """Whether it was finished."""
        return self._done

    def go_on(self, work: Awaitable[None]) -> asyncio.Future[None]:
        """Serve the rest of this stream by ``work``, in a task: its refusals and faults end the stream."""
        self.on_cancel = None
        self.task = self.connection.task_of(work, self)
        self.task.add_done_callback(self.over)
        return self.task

    def cancel(self) -> None:
        """Nobody waits for the answer any more."""
        if self.task is not None:
            self.task.cancel()
            return
        told, self.on_cancel = self.on_cancel, None
        if told is not None:
            told()
        self.over()

    def over(self, task: asyncio.Task[None] | None = None) -> None:
        """The handler is over, or was cancelled before it even began."""
        self.connection.served(self)
        if not self._done:
            self.fail(CANCELLED(expected="an answer", found="the one who asked went away"))

    def give(self, credit: int) -> None:
        """The reader took ``credit`` bytes. Raises TransportError beyond the window."""
        if credit > WINDOW - self._credit:
            raise BROKEN(expected="credit for bytes that were sent", found=f"{credit} more")
        self._credit += credit
        if self._more is not None:
            self._more.set()

    async def _ready(self) -> None:
        while self._credit <= 0:
            if self._more is None:
                self._more = asyncio.Event()
            self._more.clear()
            await self._more.wait()
        if not self.connection.writable.is_set():
            await self.connection.writable.wait()
        if self._done or self.connection.closed:
            raise CANCELLED(expected="a stream in progress", found="one that is over")

    def _hold(self, piece: bytes) -> None:
        if self._held and self._held_size + len(piece) > PIECE:
            self.release()
        if not self._held:
            self.connection.hold(self)
        self._held.append(piece)
        self._held_size += len(piece)

    def _finish(self, kind: Type, data: bytes) -> None:
        if not self.connection.closed:
            if self._held:
                self.release()
            self.connection.write(self.id, kind, data)
        self._done = True
        self.on_cancel = None
        if self.task is None:  # no handler runs on: the stream's place is free
            self.connection.served(self)


class Stream:
    """``async with connection.stream(kind, payload) as stream: async for chunk in stream``: HEAD's bytes are in
    ``head`` once anything arrived; END's bytes are the last item; a refusal is raised. Leaving early cancels."""

    def __init__(self, connection: Connection, kind: int, payload: bytes) -> None:
        self._connection, self._kind, self._payload = connection, kind, payload
        self._items: deque[bytes] = deque()
        self._call: Call | None = None
        self._over = False
        self._error: CloisterError | None = None
        self._news = asyncio.Event()
        self.head_bytes: bytes | None = None

    async def __aenter__(self) -> Stream:
        self._call = self._connection.open(self._kind, self._payload, self)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._call is not None and not self._over:
            self._call.cancel()

    def __aiter__(self) -> Stream:
        return self

    async def __anext__(self) -> bytes:
        while not self._items:
            if self._error is not None:
                raise self._error
            if self._over:
                raise StopAsyncIteration
            self._news.clear()
            await self._news.wait()
        data = self._items.popleft()
        if self._call is not None and not self._over:
            self._call.consumed(len(data))
        return data

    def head(self, data: bytes) -> None:
        """Sink: the HEAD frame."""
        self.head_bytes = data
        self._news.set()

    def chunk(self, data: bytes) -> None:
        """Sink: a CHUNK frame."""
        self._items.append(data)
        self._news.set()

    def end(self, data: bytes) -> None:
        """Sink: the END frame."""
        if data:
            self._items.append(data)
        self._over = True
        self._news.set()

    def failed(self, error: CloisterError) -> None:
        """Sink: the stream failed."""
        self._error, self._over = error, True
        self._news.set()


def parse_error(payload: bytes) -> CloisterError:
    """The refusal in an ERROR frame; a malformed one becomes RemoteError."""
    try:
        fields = msgspec.json.decode(payload)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        fields = None
    status = fields.get("status") if isinstance(fields, dict) else None
    known = isinstance(status, int) and not isinstance(status, bool) and 400 <= status <= 599
    return from_wire(fields, status=status if known and isinstance(status, int) else 502)
