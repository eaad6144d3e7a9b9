"""One framed, multiplexed connection: many streams over one socket, either side may open them.

Frame: ``u32 length | u32 stream | u8 type``, little-endian, then ``length`` payload bytes. The side that connected
opens odd streams, the side that accepted even ones; stream 0 carries announcements. A stream is one REQUEST, answered
by HEAD? CHUNK* (END | ERROR). CHUNK payloads spend the receiver's credit (256 KiB at first), which CREDIT frames give
back; so a slow reader slows its own writer and nobody else. CANCEL says that nobody waits any more.

States of a stream at its opener: OPEN -> DONE. Frames for a stream that is done are dropped: they crossed a CANCEL.
Errors in one stream's callbacks end that stream only. A frame that breaks the format ends the connection.
"""

from __future__ import annotations

import asyncio
import struct
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import IntEnum
from types import TracebackType
from typing import Any, Final, Protocol, cast

import msgspec

from cloister.core.errors import CloisterError, TransportError, define, from_wire

HEADER: Final = struct.Struct("<IIB")
WINDOW: Final = 256 << 10
PIECE: Final = 64 << 10
_CREDIT: Final = struct.Struct("<I")


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


_CAPS: Final = {
    Type.HEAD: 128 << 10,
    Type.CHUNK: PIECE,
    Type.END: 128 << 10,
    Type.ERROR: 16 << 10,
    Type.CANCEL: 0,
    Type.ANNOUNCE: 4 << 20,
    Type.CREDIT: _CREDIT.size,
}

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

    __slots__ = ("_connection", "_owed", "_unread", "id", "sink")

    def __init__(self, connection: Connection, stream: int, sink: Sink) -> None:
        self._connection, self.id, self.sink = connection, stream, sink
        self._owed = 0
        self._unread = 0

    def consumed(self, size: int) -> None:
        """``size`` bytes of chunks are dealt with: the writer may send as many again."""
        self._unread -= size
        self._owed += size
        if self._owed >= WINDOW // 2:
            self._connection.credit(self.id, self._owed)
            self._owed = 0

    def cancel(self) -> None:
        """Nobody waits any more. The sink hears nothing further."""
        self._connection.cancel(self.id)

    def received(self, size: int) -> None:
        """Account for a chunk. Raises TransportError if the peer sent more than its credit."""
        self._unread += size
        if self._unread + self._owed > WINDOW:
            raise BROKEN(expected="chunks within the credit", found=f"{self._unread} unread bytes")


class Incoming:
    """The server's handle on one stream. The first of ``end``, ``fail`` and the handler's return finishes it."""

    def __init__(self, connection: Connection, stream: int, kind: int, payload: bytes) -> None:
        self.connection, self.id, self.kind, self.payload = connection, stream, kind, payload
        self._credit = WINDOW
        self._done = False
        self._more = asyncio.Event()
        self.task: asyncio.Task[None] | None = None

    async def head(self, data: bytes) -> None:
        """Send the HEAD frame. Raises TransportError when nobody waits any more."""
        await self._ready()
        self.connection.write(self.id, Type.HEAD, data)

    async def send(self, data: bytes) -> None:
        """Send body bytes of any length, as fast as the reader takes them. Raises as ``head``."""
        at = 0
        while at < len(data):
            await self._ready()
            piece = data[at : at + min(PIECE, self._credit)]
            self._credit -= len(piece)
            self.connection.write(self.id, Type.CHUNK, piece)
            at += len(piece)

    def end(self, data: bytes = b"") -> None:
        """Finish, with up to 128 KiB of last bytes."""
        if not self._done:
            self._finish(Type.END, data)

    def fail(self, error: CloisterError) -> None:
        """Finish with a named refusal."""
        if not self._done:
            self._finish(Type.ERROR, msgspec.json.encode({**error.to_wire(), "status": error.status}))

    @property
    def done(self) -> bool:
        """Whether it was finished."""
        return self._done

    def give(self, credit: int) -> None:
        """The reader took ``credit`` bytes. Raises TransportError beyond the window."""
        if credit > WINDOW - self._credit:
            raise BROKEN(expected="credit for bytes that were sent", found=f"{credit} more")
        self._credit += credit
        self._more.set()

    async def _ready(self) -> None:
        while self._credit <= 0:
            self._more.clear()
            await self._more.wait()
        if not self.connection.writable.is_set():
            await self.connection.writable.wait()
        if self._done or self.connection.closed:
            raise CANCELLED(expected="a stream in progress", found="one that is over")

    def _finish(self, kind: Type, data: bytes) -> None:
        if not self.connection.closed:
            self.connection.write(self.id, kind, data)
        self._done = True


Handler = Callable[[Incoming], Awaitable[None]]
Report = Callable[[str, BaseException], None]


class Connection(asyncio.Protocol):
    """Both ends of a framed connection. ``handler`` serves streams that the peer opens; without one they are refused.

    ``on_announce(connection, bytes)``, ``on_open(connection)`` and ``on_close(connection)`` are synchronous;
    ``report(where, exception)`` hears of faults that were contained."""

    def __init__(
        self,
        *,
        accepting: bool,
        handler: Handler | None = None,
        caps: Caps | None = None,
        on_announce: Callable[[Connection, bytes], None] | None = None,
        on_open: Callable[[Connection], None] | None = None,
        on_close: Callable[[Connection], None] | None = None,
        report: Report | None = None,
    ) -> None:
        self._handler, self._caps = handler, caps or Caps()
        self._on_announce, self._on_open, self._on_close = on_announce, on_open, on_close
        self._report = report or (lambda where, error: None)
        self._parity = 0 if accepting else 1
        self._next = 2 if accepting else 1
        self._calls: dict[int, Call] = {}
        self._served: dict[int, Incoming] = {}
        self._pending = 0
        self._buffer = bytearray()
        self._out: list[bytes] = []
        self._transport: asyncio.Transport | None = None
        self._loop = asyncio.get_running_loop()
        self.writable = asyncio.Event()
        self.writable.set()
        self.finished: asyncio.Future[None] = self._loop.create_future()

    # For users

    @property
    def closed(self) -> bool:
        """Whether it is closing or lost."""
        return self._transport is None or self._transport.is_closing()

    @property
    def in_flight(self) -> int:
        """Streams that this side opened and that are not done."""
        return len(self._calls)

    def open(self, kind: int, payload: bytes, sink: Sink) -> Call:
        """Send a REQUEST of a kind (u8); answers go to ``sink``. Raises TransportError: lost, busy, too_large."""
        if self._transport is None or self._transport.is_closing():
            raise LOST(expected="an open connection", found="none")
        if len(payload) + 1 > self._caps.request:
            raise TOO_LARGE(expected=f"a request of at most {self._caps.request} bytes", found=str(len(payload)))
        if self._transport.get_write_buffer_size() > self._caps.buffered or len(self._calls) >= self._caps.streams:
            raise BUSY(expected="a peer that keeps up", found=f"{len(self._calls)} streams in progress")
        while self._next in self._calls:
            self._next = self._following(self._next)
        stream, self._next = self._next, self._following(self._next)
        call = self._calls[stream] = Call(self, stream, sink)
        self.write(stream, Type.REQUEST, bytes([kind]) + payload)
        return call

    def stream(self, kind: int, payload: bytes) -> Stream:
        """The same as an asynchronous context manager that yields the body's bytes."""
        return Stream(self, kind, payload)

    async def ask(self, kind: int, payload: bytes, *, max_size: int = 1 << 20) -> bytes:
        """The whole answer. Raises TransportError (frames.too_large) over ``max_size``, or the peer's refusal."""
        answer = bytearray()
        async with self.stream(kind, payload) as stream:
            async for chunk in stream:
                answer += chunk
                if len(answer) > max_size:
                    raise TOO_LARGE(expected=f"an answer of at most {max_size} bytes", found="more")
        return bytes(answer)

    def announce(self, data: bytes) -> None:
        """Send an ANNOUNCE frame. Raises TransportError over 4 MiB."""
        self.write(0, Type.ANNOUNCE, data)

    def close(self) -> None:
        """Flush and close; streams in progress fail with frames.lost."""
        if self._transport is not None:
            self._flush()
            self._transport.close()

    async def closed_within(self, timeout_s: float = 1.0) -> None:
        """Close; after ``timeout_s`` without the peer taking what is written, drop it."""
        self.close()
        await asyncio.wait([self.finished], timeout=timeout_s)
        if self._transport is not None:
            self._transport.abort()
        await self.finished

    # Frames out

    def write(self, stream: int, kind: Type, data: bytes) -> None:
        """Queue one frame; all frames of one loop tick go out in one write."""
        if kind in _CAPS and len(data) > _CAPS[kind]:
            raise TOO_LARGE(expected=f"{kind.name} of at most {_CAPS[kind]} bytes", found=f"{len(data)} bytes")
        if not self._out:
            self._loop.call_soon(self._flush)
        self._out.append(HEADER.pack(len(data), stream, kind))
        if data:
            self._out.append(data)

    def credit(self, stream: int, size: int) -> None:
        """Give the peer's writer ``size`` bytes back."""
        if stream in self._calls and not self.closed:
            self.write(stream, Type.CREDIT, _CREDIT.pack(size))

    def cancel(self, stream: int) -> None:
        """Drop a stream that this side opened."""
        if self._calls.pop(stream, None) is not None and not self.closed:
            self.write(stream, Type.CANCEL, b"")

    def _flush(self) -> None:
        out, self._out = self._out, []
        if out and self._transport is not None and not self._transport.is_closing():
            self._transport.write(b"".join(out))

    def _following(self, stream: int) -> int:
        return stream + 2 if stream + 2 < 1 << 32 else 2 - self._parity

    # asyncio.Protocol: nothing may raise out of these, or uvloop closes the shared connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The socket is open."""
        # uvloop's transports have the interface but not the base class: a check by isinstance would refuse them.
        self._transport = cast(asyncio.Transport, transport)
        self._contain("on_open", self._on_open, self)

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is gone: every stream fails, every handler is cancelled."""
        self._transport = None
        self.writable.set()
        calls, self._calls = self._calls, {}
        error = LOST(expected="an open connection", found="a closed one")
        for call in calls.values():
            self._contain("sink", call.sink.failed, error)
        for incoming in self._served.values():
            if incoming.task is not None:
                incoming.task.cancel()
        self._contain("on_close", self._on_close, self)
        if not self.finished.done():
            self.finished.set_result(None)

    def pause_writing(self) -> None:
        """The kernel's buffer is full."""
        self.writable.clear()

    def resume_writing(self) -> None:
        """There is room again."""
        self.writable.set()

    def data_received(self, data: bytes) -> None:
        """Take the frames that these bytes complete."""
        try:
            if self._buffer:
                self._buffer += data
                taken = self._frames(self._buffer)
                del self._buffer[:taken]
            else:
                taken = self._frames(data)
                if taken < len(data):
                    self._buffer += data[taken:]
        except Exception as error:
            self._report("frames", error)
            if self._transport is not None:
                self._transport.abort()
                self._buffer.clear()

    def _frames(self, data: bytes | bytearray) -> int:
        at, end = 0, len(data)
        while end - at >= HEADER.size:
            size, stream, number = HEADER.unpack_from(data, at)
            if not 1 <= number <= Type.CREDIT:
                raise BROKEN(expected="a known frame type", found=str(number))
            kind = Type(number)
            if size > _CAPS.get(kind, self._caps.request):
                raise TOO_LARGE(expected=f"{kind.name} within its cap", found=f"{size} bytes")
            start = at + HEADER.size
            if end - start < size:
                break
            at = start + size
            self._frame(stream, kind, bytes(data[start:at]))
        return at

    def _frame(self, stream: int, kind: Type, payload: bytes) -> None:
        if kind is Type.ANNOUNCE:
            self._contain("on_announce", self._on_announce, self, payload)
        elif kind is Type.REQUEST:
            self._request(stream, payload)
        elif kind is Type.CANCEL:
            incoming = self._served.get(stream)
            if incoming is not None and incoming.task is not None:
                incoming.task.cancel()
        elif kind is Type.CREDIT:
            if len(payload) != _CREDIT.size:
                raise BROKEN(expected="four bytes of credit", found=f"{len(payload)}")
            incoming = self._served.get(stream)
            if incoming is not None:
                incoming.give(_CREDIT.unpack(payload)[0])
        else:
            self._reply(stream, kind, payload)

    # Streams that this side opened

    def _reply(self, stream: int, kind: Type, payload: bytes) -> None:
        call = self._calls.get(stream)
        if call is None:
            return
        try:
            if kind is Type.CHUNK:
                call.received(len(payload))
                call.sink.chunk(payload)
            elif kind is Type.HEAD:
                call.sink.head(payload)
            elif kind is Type.END:
                del self._calls[stream]
                call.sink.end(payload)
            else:
                del self._calls[stream]
                call.sink.failed(parse_error(payload))
        except Exception as error:
            self._report("sink", error)
            self.cancel(stream)
            if isinstance(error, CloisterError):
                self._contain("sink", call.sink.failed, error)

    # Streams that the peer opened

    def _request(self, stream: int, payload: bytes) -> None:
        if stream == 0 or stream % 2 == self._parity or stream in self._served or not payload:
            raise BROKEN(expected="a new stream of the peer's parity, with a kind", found=str(stream))
        incoming = Incoming(self, stream, payload[0], payload[1:])
        if self._handler is None or len(self._served) >= self._caps.streams:
            incoming.fail(BUSY(expected=f"at most {self._caps.streams} streams", found="one more"))
        elif self._pending + len(payload) > self._caps.pending:
            incoming.fail(BUSY(expected=f"at most {self._caps.pending} bytes of requests", found="more"))
        else:
            self._served[stream] = incoming
            self._pending += len(payload)
            incoming.task = self._loop.create_task(self._serve(self._handler, incoming))
            incoming.task.add_done_callback(lambda _: self._served_one(incoming, len(payload)))

    async def _serve(self, handler: Handler, incoming: Incoming) -> None:
        try:
            await handler(incoming)
            incoming.end()
        except CloisterError as error:
            incoming.fail(error)
        except Exception as error:
            self._report("handler", error)
            incoming.fail(INTERNAL(expected="an answer", found="a fault of the peer"))

    def _served_one(self, incoming: Incoming, size: int) -> None:
        """The handler is over, or was cancelled before it even began."""
        self._served.pop(incoming.id, None)
        self._pending -= size
        incoming.fail(CANCELLED(expected="an answer", found="the one who asked went away"))

    def _contain(self, where: str, callback: Callable[..., None] | None, *args: Any) -> None:
        if callback is None:
            return
        try:
            callback(*args)
        except Exception as error:
            self._report(where, error)


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
