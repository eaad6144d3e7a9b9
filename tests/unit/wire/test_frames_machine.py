"""Two ends of a framed connection over a pipe that cuts anywhere, against a model of every stream.

Handlers send, end, fail and hang in any order, askers read slowly, cancel and leave, the pipe delivers any number of
bytes at a time and may break. For every stream: what arrives is a beginning of what was sent, in order; ``end`` or
``failed`` comes at most once and last; after a cancel nothing comes; nobody buffers more than the window; a fault of
one stream is none of another.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from cloister.core.errors import CloisterError
from cloister.wire.connection import BUSY, PIECE, WINDOW, Call, Caps, Connection, Incoming

WHICH = st.integers(0, 10**6)
SIZES = st.sampled_from((0, 1, 100, PIECE - 100, PIECE, PIECE + 1, 100_000, WINDOW - 1, WINDOW, WINDOW + PIECE))
STREAMS = 6


class Pipe:
    """One direction: a transport whose bytes wait until the test delivers them."""

    def __init__(self) -> None:
        self.waiting = bytearray()
        self.closing = False

    def write(self, data: bytes) -> None:
        self.waiting += data

    def get_write_buffer_size(self) -> int:
        return len(self.waiting)

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        self.closing = True

    def abort(self) -> None:
        self.closing = True


@dataclass
class Stream:
    """One stream as the model knows it. ``sent`` is what the handler handed over, ``got`` what the sink saw."""

    opener: int
    payload: bytes
    call: Call | None = None
    incoming: Incoming | None = None
    orders: asyncio.Queue[Any] = field(default_factory=asyncio.Queue)
    sent: bytearray = field(default_factory=bytearray)
    last: bytes = b""
    got: bytearray = field(default_factory=bytearray)
    unread: int = 0
    heads: list[bytes] = field(default_factory=list)
    headed: bool = False  # the handler was told to begin with a head: it may still be on its way
    over: str = ""
    code: str = ""
    cancelled: bool = False
    ordered_end: str = ""

    def head(self, data: bytes) -> None:
        assert not self.over
        assert not self.cancelled
        self.heads.append(data)

    def chunk(self, data: bytes) -> None:
        assert not self.over, "a chunk after the end"
        assert not self.cancelled, "a chunk after a cancel"
        self.got += data
        self.unread += len(data)

    def end(self, data: bytes) -> None:
        assert not self.over, "two ends"
        assert not self.cancelled
        self.over, self.last = "end", data

    def failed(self, error: CloisterError) -> None:
        assert not self.over, "two ends"
        assert not self.cancelled
        self.over, self.code = "failed", error.code


async def some_turns() -> None:
    for _ in range(8):
        await asyncio.sleep(0)


class Frames(RuleBasedStateMachine):
    """End 0 accepted, end 1 connected; both may ask."""

    @initialize()
    def begin(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.faults: list[tuple[str, BaseException]] = []
        self.streams: list[Stream] = []
        self.announced: list[list[bytes]] = [[], []]
        self.said: list[list[bytes]] = [[], []]
        self.pipes = [Pipe(), Pipe()]
        self.broken = False
        self.ends = self.loop.run_until_complete(self.connect())

    async def connect(self) -> list[Connection]:
        ends = []
        for side in (0, 1):
            ends.append(
                Connection(
                    accepting=side == 0,
                    handler=self.serve,
                    caps=Caps(request=1 << 16, streams=STREAMS, pending=1 << 17),
                    on_announce=lambda c, data, side=side: self.announced[side].append(data),  # type: ignore[misc]
                    report=lambda where, error: self.faults.append((where, error)),
                )
            )
            transport: Any = self.pipes[side]
            ends[side].connection_made(transport)
        return ends

    async def serve(self, incoming: Incoming) -> None:
        """Do what the model orders, one order at a time."""
        stream = next(s for s in self.streams if s.payload == incoming.payload)
        stream.incoming = incoming
        while True:
            what, value = await stream.orders.get()
            if what == "head":
                await incoming.head(value)
            elif what == "send":
                stream.sent += value
                await incoming.send(value)
            elif what == "end":
                stream.sent += value
                return incoming.end(value)
            elif what == "fail":
                raise BUSY(expected="a", found="b")
            else:
                raise KeyError("a fault of the handler")

    def turn(self) -> None:
        """Let the tasks of both ends run until they wait."""
        self.loop.run_until_complete(some_turns())

    # Asking

    @precondition(lambda self: not self.broken)
    @rule(side=st.integers(0, 1), size=st.sampled_from((0, 1, 1000, 60_000)))
    def ask(self, side: int, size: int) -> None:
        payload = b"%d:" % len(self.streams) + bytes(size)
        stream = Stream(side, payload)
        self.streams.append(stream)
        if self.ends[side].in_flight < STREAMS:
            stream.call = self.ends[side].open(1, payload, stream)
        else:
            with pytest.raises(CloisterError, match=r"frames\.busy"):
                self.ends[side].open(1, payload, stream)
            stream.over = "failed"
        self.turn()

    @precondition(lambda self: not self.broken)
    @rule(side=st.integers(0, 1), size=st.integers(0, 3000))
    def announce(self, side: int, size: int) -> None:
        data = b"%d" % len(self.said[side]) + bytes(size)
        self.said[side].append(data)
        self.ends[side].announce(data)
        self.turn()

    # What handlers do

    def served(self, which: int) -> Stream | None:
        open_now = [s for s in self.streams if s.incoming is not None and not s.ordered_end]
        return open_now[which % len(open_now)] if open_now else None

    @rule(which=WHICH, sizes=st.lists(SIZES, min_size=1, max_size=4), ends=st.booleans())
    def handler_sends(self, which: int, sizes: list[int], ends: bool) -> None:
        """All of it in one turn of the loop; perhaps the end, too."""
        stream = self.served(which)
        if stream is None:
            return
        for number, size in enumerate(sizes):
            stream.orders.put_nowait(("send", bytes([(len(stream.sent) + number) % 256]) * size))
        if ends:
            stream.ordered_end = "end"
            stream.orders.put_nowait(("end", b"the end"))
        self.turn()

    @rule(which=WHICH)
    def handler_begins_with_a_head(self, which: int) -> None:
        stream = self.served(which)
        if stream is not None and not stream.sent and stream.orders.empty() and not stream.headed:
            stream.headed = True
            stream.orders.put_nowait(("head", b"the head"))
            self.turn()

    @rule(which=WHICH, how=st.sampled_from(("end", "fail", "fault")), size=st.sampled_from((0, 5, 128 << 10)))
    def handler_finishes(self, which: int, how: str, size: int) -> None:
        stream = self.served(which)
        if stream is not None:
            stream.ordered_end = how
            stream.orders.put_nowait((how, b"e" * size))
            self.turn()

    # What askers do

    @rule(which=WHICH, part=st.integers(1, 4))
    def asker_reads(self, which: int, part: int) -> None:
        reading = [s for s in self.streams if s.unread and s.call is not None and not s.over and not s.cancelled]
        if reading:
            stream = reading[which % len(reading)]
            size = -(-stream.unread // part)
            stream.unread -= size
            assert stream.call is not None
            stream.call.consumed(size)
            self.turn()

    @rule(which=WHICH)
    def asker_cancels(self, which: int) -> None:
        asking = [s for s in self.streams if s.call is not None and not s.over and not s.cancelled]
        if asking:
            stream = asking[which % len(asking)]
            assert stream.call is not None
            stream.cancelled = True
            stream.call.cancel()
            self.turn()

    # The pipe

    @precondition(lambda self: not self.broken)
    @rule(side=st.integers(0, 1), size=st.sampled_from((1, 8, 9, 10, 100, 5000, 1 << 20)))
    def deliver(self, side: int, size: int) -> None:
        """Some bytes of what ``side`` wrote reach the other end."""
        self.turn()
        data = bytes(self.pipes[side].waiting[:size])
        del self.pipes[side].waiting[:size]
        if data:
            self.ends[1 - side].data_received(data)
        self.turn()

    @precondition(lambda self: not self.broken)
    @rule()
    def deliver_everything(self) -> None:
        self.turn()
        while any(pipe.waiting for pipe in self.pipes):
            self.deliver(0, 1 << 22)
            self.deliver(1, 1 << 22)

    @precondition(lambda self: not self.broken and len(self.streams) > 3)
    @rule(really=st.integers(0, 4))
    def break_the_pipe(self, really: int) -> None:
        if really:
            return
        self.broken = True
        for end in self.ends:
            end.connection_lost(None)
        self.turn()
        for stream in self.streams:
            if stream.call is not None and not stream.cancelled:
                assert stream.over, "a stream that outlives its connection"
        for end in self.ends:
            assert end.in_flight == 0
            assert not end._served

    # What must hold

    @invariant()
    def every_stream_holds_to_the_model(self) -> None:
        for stream in getattr(self, "streams", ()):
            assert bytes(stream.sent[: len(stream.got)]) == bytes(stream.got), "other bytes than were sent"
            assert stream.unread <= WINDOW, "more than the window is waiting"
            assert len(stream.heads) <= 1
            if stream.over == "end":
                assert stream.ordered_end == "end"
                assert bytes(stream.got) + stream.last == bytes(stream.sent), "an end before all that was sent"
            if stream.over == "failed" and stream.code == "frames.internal":
                assert stream.ordered_end == "fault"

    @invariant()
    def nothing_but_the_handlers_faults_is_reported(self) -> None:
        assert all(
            where == "handler" and isinstance(error, KeyError) for where, error in getattr(self, "faults", ())
        ), self.faults

    def teardown(self) -> None:
        """Everything delivered and read: every stream that was told to finish has finished; announcements in order."""
        if not hasattr(self, "loop"):
            return
        if not self.broken:
            reading: list[Stream] | None = None
            while reading is None or reading:
                self.deliver_everything()
                reading = [
                    s for s in self.streams if s.unread and s.call is not None and not s.over and not s.cancelled
                ]
                for stream in reading:
                    assert stream.call is not None
                    stream.call.consumed(stream.unread)
                    stream.unread = 0
            for stream in self.streams:
                if stream.ordered_end and not stream.cancelled:
                    assert stream.over, f"told to {stream.ordered_end} and still open"
            assert self.announced == [self.said[1], self.said[0]]
        for end in self.ends:
            if end._transport is not None:
                end.connection_lost(None)
        self.turn()
        self.every_stream_holds_to_the_model()
        self.loop.close()


Frames.TestCase.settings = settings(max_examples=20, stateful_step_count=40, deadline=None)
TestFrames = Frames.TestCase


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_frames_at_length() -> None:
    run_state_machine_as_test(Frames, settings=settings(max_examples=800, stateful_step_count=80, deadline=None))
