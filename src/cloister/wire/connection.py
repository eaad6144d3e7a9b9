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
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, cast

from cloister.core.errors import CloisterError
from cloister.wire.streams import (
    BROKEN,
    BUSY,
    CANCELLED,
    CREDIT,
    FRAME_CAPS,
    HEADER,
    INTERNAL,
    LOST,
    PIECE,
    TOO_LARGE,
    TYPES,
    WINDOW,
    Call,
    Caps,
    Incoming,
    Sink,
    Stream,
    Type,
    parse_error,
)

__all__ = [
    "BROKEN",
    "BUSY",
    "CANCELLED",
    "HEADER",
    "INTERNAL",
    "LOST",
    "PIECE",
    "TOO_LARGE",
    "WINDOW",
    "Call",
    "Caps",
    "Connection",
    "Handler",
    "Incoming",
    "Report",
    "Sink",
    "Stream",
    "Type",
    "parse_error",
]

# Serves a stream: by what it returns, in a task; or by itself, where it returns None.
Handler = Callable[[Incoming], Awaitable[None] | None]
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
        self._holding: list[Incoming] = []
        self.writes = False
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
        self.write(stream, Type.REQUEST, b"%c%b" % (kind, payload))
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
            self.writes = False
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
        if len(data) > FRAME_CAPS[kind]:
            raise TOO_LARGE(expected=f"{kind.name} of at most {FRAME_CAPS[kind]} bytes", found=f"{len(data)} bytes")
        if not self._out and not self._holding:
            self._loop.call_soon(self._flush)
        self._out.append(HEADER.pack(len(data), stream, kind))
        if data:
            self._out.append(data)

    def hold(self, incoming: Incoming) -> None:
        """Let a stream release what it holds before the next write."""
        if not self._out and not self._holding:
            self._loop.call_soon(self._flush)
        self._holding.append(incoming)

    def credit(self, call: Call, size: int) -> None:
        """Give the peer's writer ``size`` bytes back. Numbers are used again: a call that is done gives nothing."""
        if self._calls.get(call.id) is call and not self.closed:
            self.write(call.id, Type.CREDIT, CREDIT.pack(size))

    def cancel(self, call: Call) -> None:
        """Drop a stream that this side opened, if it is not done."""
        if self._calls.get(call.id) is call:
            del self._calls[call.id]
            if not self.closed:
                self.write(call.id, Type.CANCEL, b"")

    def _flush(self) -> None:
        if self._holding:
            for incoming in self._holding:
                incoming.release()
            self._holding.clear()
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
        self.writes = True
        self._contain("on_open", self._on_open, self)

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is gone: every stream fails, every handler is cancelled."""
        self._transport = None
        self.writes = False
        self.writable.set()
        calls, self._calls = self._calls, {}
        error = LOST(expected="an open connection", found="a closed one")
        for call in calls.values():
            self._contain("sink", call.sink.failed, error)
        for incoming in list(self._served.values()):
            self._contain("cancel", incoming.cancel)
        self._contain("on_close", self._on_close, self)
        if not self.finished.done():
            self.finished.set_result(None)

    def pause_writing(self) -> None:
        """The kernel's buffer is full."""
        self.writes = False
        self.writable.clear()

    def resume_writing(self) -> None:
        """There is room again."""
        self.writes = not self.closed
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
            kind = TYPES[number] if number < len(TYPES) else None
            if kind is None:
                raise BROKEN(expected="a known frame type", found=str(number))
            if size > (self._caps.request if kind is Type.REQUEST else FRAME_CAPS[number]):
                raise TOO_LARGE(expected=f"{kind.name} within its cap", found=f"{size} bytes")
            start = at + HEADER.size
            if end - start < size:
                break
            at = start + size
            if kind is Type.REQUEST:  # the two that calls are made of
                self._request(stream, bytes(data[start:at]))
            elif kind is Type.END:
                self._reply(stream, kind, bytes(data[start:at]))
            else:
                self._frame(stream, kind, bytes(data[start:at]))
        return at

    def _frame(self, stream: int, kind: Type, payload: bytes) -> None:
        if kind is Type.ANNOUNCE:
            self._contain("on_announce", self._on_announce, self, payload)
        elif kind is Type.CANCEL:
            incoming = self._served.get(stream)
            if incoming is not None:
                self._contain("cancel", incoming.cancel)
        elif kind is Type.CREDIT:
            if len(payload) != CREDIT.size:
                raise BROKEN(expected="four bytes of credit", found=f"{len(payload)}")
            incoming = self._served.get(stream)
            if incoming is not None:
                incoming.give(CREDIT.unpack(payload)[0])
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
                call.headed()
                call.sink.head(payload)
            elif kind is Type.END:
                del self._calls[stream]
                call.sink.end(payload)
            else:
                del self._calls[stream]
                call.sink.failed(parse_error(payload))
        except Exception as error:
            self._report("sink", error)
            self.cancel(call)
            if isinstance(error, CloisterError):
                self._contain("sink", call.sink.failed, error)

    # Streams that the peer opened

    def _request(self, stream: int, payload: bytes) -> None:
        if stream == 0 or stream % 2 == self._parity or stream in self._served or not payload:
            raise BROKEN(expected="a new stream of the peer's parity, with a kind", found=str(stream))
        if self._transport is not None and self._transport.get_write_buffer_size() > self._caps.buffered:
            raise BROKEN(expected="a peer that reads its answers", found="one that only asks")
        incoming = Incoming(self, stream, payload[0], payload[1:])
        if self._handler is None or len(self._served) >= self._caps.streams:
            incoming.fail(BUSY(expected=f"at most {self._caps.streams} streams", found="one more"))
        elif self._pending + len(payload) > self._caps.pending:
            incoming.fail(BUSY(expected=f"at most {self._caps.pending} bytes of requests", found="more"))
        else:
            self._served[stream] = incoming
            self._pending += len(payload)
            self._handle(self._handler, incoming)

    def _handle(self, handler: Handler, incoming: Incoming) -> None:
        try:
            work = handler(incoming)
        except CloisterError as error:
            incoming.fail(error)
        except Exception as error:
            self._report("handler", error)
            incoming.fail(INTERNAL(expected="an answer", found="a fault of the peer"))
        else:
            if work is not None:
                incoming.go_on(work)

    def task_of(self, work: Awaitable[None], incoming: Incoming) -> asyncio.Task[None]:
        """Await ``work``, which answers a stream, in a task, and end the stream as it ends."""
        task = self._loop.create_task(self._serve(work, incoming))
        if isinstance(work, Coroutine):  # one that is cancelled before it began is never awaited
            task.add_done_callback(lambda done: work.close())
        return task

    async def _serve(self, work: Awaitable[None], incoming: Incoming) -> None:
        try:
            await work
            incoming.end()
        except CloisterError as error:
            incoming.fail(error)
        except Exception as error:
            self._report("handler", error)
            incoming.fail(INTERNAL(expected="an answer", found="a fault of the peer"))

    def served(self, incoming: Incoming) -> None:
        """A stream's handler is over: its place and its bytes are free. Idempotent."""
        if self._served.get(incoming.id) is incoming:
            del self._served[incoming.id]
            self._pending -= len(incoming.payload) + 1

    def _contain(self, where: str, callback: Callable[..., None] | None, *args: Any) -> None:
        if callback is None:
            return
        try:
            callback(*args)
        except Exception as error:
            self._report(where, error)
