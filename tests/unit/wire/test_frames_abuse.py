"""What a peer may do within the format's letter and must not get away with: heads without end, questions unread."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Any

import pytest

from cloister.core.errors import CloisterError
from cloister.wire.connection import HEADER, PIECE, WINDOW, Connection, Type, parse_error
from cloister.wire.frames import Caps, FrameClient, FrameServer, Incoming
from cloister.wire.streams import CREDIT


class Seen:
    """A sink that notes what it hears."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def head(self, data: bytes) -> None:
        self.events.append("head")

    def chunk(self, data: bytes) -> None:
        self.events.append("chunk")

    def end(self, data: bytes) -> None:
        self.events.append("end")

    def failed(self, error: CloisterError) -> None:
        self.events.append(error.code)


class Wire:
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        self.out = bytearray()
        self.size = 0
        self.closing = False

    def write(self, data: bytes) -> None:
        self.out += data

    def get_write_buffer_size(self) -> int:
        return self.size

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        self.closing = True

    def abort(self) -> None:
        self.closing = True

    def frames(self) -> list[tuple[int, int, bytes]]:
        """(stream, type, payload) of everything written."""
        out, at = [], 0
        while at < len(self.out):
            size, stream, number = HEADER.unpack_from(self.out, at)
            at += HEADER.size
            out.append((stream, number, bytes(self.out[at : at + size])))
            at += size
        return out


def frame(stream: int, kind: Type, data: bytes = b"") -> bytes:
    return HEADER.pack(len(data), stream, kind) + data


def connected(**options: Any) -> tuple[Connection, Wire, list[BaseException]]:
    faults: list[BaseException] = []
    wire, end = Wire(), Connection(report=lambda where, error: faults.append(error), **({"accepting": True} | options))
    transport: Any = wire
    end.connection_made(transport)
    return end, wire, faults


async def turns() -> None:
    for _ in range(6):
        await asyncio.sleep(0)


# Answers


STORIES: dict[str, tuple[list[tuple[Type, bytes]], list[str]]] = {
    "a head, chunks, an end": (
        [(Type.HEAD, b"h"), (Type.CHUNK, b"a"), (Type.CHUNK, b"b"), (Type.END, b"")],
        ["head", "chunk", "chunk", "end"],
    ),
    "an end alone": ([(Type.END, b"x")], ["end"]),
    "a head and a refusal": ([(Type.HEAD, b"h"), (Type.ERROR, b"{}")], ["head", "not said"]),
    "two heads": ([(Type.HEAD, b"h"), (Type.HEAD, b"h"), (Type.END, b"")], ["head", "frames.broken"]),
    "a head after a chunk": ([(Type.CHUNK, b"a"), (Type.HEAD, b"h"), (Type.END, b"")], ["chunk", "frames.broken"]),
    "a chunk after the end": ([(Type.END, b""), (Type.CHUNK, b"a")], ["end"]),
    "two ends": ([(Type.END, b""), (Type.END, b"")], ["end"]),
    "an end after a refusal": ([(Type.ERROR, b"{}"), (Type.END, b"")], ["not said"]),
}


@pytest.mark.parametrize("sentence", STORIES)
async def test_an_answer_that_is(sentence: str) -> None:
    frames, events = STORIES[sentence]
    end, wire, _ = connected()
    sink = Seen()
    call = end.open(1, b"", sink)
    for kind, data in frames:
        end.data_received(frame(call.id, kind, data))
    assert sink.events == events
    assert end.in_flight == 0
    assert not wire.closing, "one stream's fault closed the connection"
    await turns()
    cancelled = [(s, k) for s, k, _ in wire.frames() if k == Type.CANCEL]
    assert cancelled == ([(call.id, Type.CANCEL)] if "frames.broken" in events else [])


async def test_heads_without_end_reach_nobody_who_does_not_read() -> None:
    """HEAD frames spend no credit: a worker could fill a gateway's memory with them while the caller sleeps."""
    end, _, _ = connected()
    sink = Seen()
    call = end.open(1, b"", sink)
    for _ in range(50):
        end.data_received(frame(call.id, Type.HEAD, bytes(128 << 10)))
    assert sink.events == ["head", "frames.broken"]


@pytest.mark.parametrize(("sizes", "good"), [([PIECE] * 4, True), ([PIECE] * 4 + [1], False), ([WINDOW], None)])
async def test_chunks_up_to_the_window_and_not_one_byte_more(sizes: list[int], good: bool | None) -> None:
    end, wire, faults = connected()
    sink = Seen()
    call = end.open(1, b"", sink)
    for size in sizes:
        end.data_received(frame(call.id, Type.CHUNK, bytes(size)))
    if good is None:  # one frame over its own cap: no format at all
        assert wire.closing
        assert getattr(faults[0], "code", "") == "frames.too_large"
    else:
        assert ("frames.broken" in sink.events) is not good
        assert not wire.closing


async def test_credit_goes_back_in_halves_of_the_window_and_adds_up() -> None:
    end, wire, _ = connected()
    sink = Seen()
    call = end.open(1, b"", sink)
    given = 0
    for _ in range(40):
        end.data_received(frame(call.id, Type.CHUNK, bytes(PIECE)))
        call.consumed(PIECE)
        await turns()
        credits = [CREDIT.unpack(data)[0] for _, kind, data in wire.frames() if kind == Type.CREDIT]
        assert all(c >= WINDOW // 2 for c in credits)
        given = sum(credits)
    assert 40 * PIECE - given < WINDOW // 2


# Questions


async def waits(incoming: Incoming) -> None:
    await asyncio.sleep(3600)


async def test_a_peer_that_asks_and_reads_no_answer_is_dropped() -> None:
    end, wire, faults = connected(caps=Caps(streams=1, buffered=1000))
    end.data_received(frame(1, Type.REQUEST, b"\1"))
    await turns()
    assert [k for _, k, _ in wire.frames()] == [Type.ERROR]
    wire.size = 1000
    end.data_received(frame(3, Type.REQUEST, b"\1"))
    assert not wire.closing
    wire.size = 1001
    end.data_received(frame(5, Type.REQUEST, b"\1"))
    assert wire.closing
    assert [getattr(f, "code", "") for f in faults] == ["frames.broken"]


async def test_the_memory_of_requests_is_given_back_however_they_end() -> None:
    async def ends(incoming: Incoming) -> None:
        how = incoming.payload[:1]
        if how == b"e":
            incoming.end(b"")
        elif how == b"f":
            raise KeyError(how)
        else:
            await asyncio.sleep(3600)

    end, wire, _ = connected(handler=ends, caps=Caps(pending=100))
    for round_ in range(3):
        for number, how in enumerate((b"e", b"f", b"w")):
            stream = 1 + 2 * (number + 3 * round_)
            end.data_received(frame(stream, Type.REQUEST, b"\1" + how + bytes(30)))
            await turns()
            if how == b"w":
                end.data_received(frame(stream, Type.CANCEL))
                await turns()
    assert end._pending == 0
    assert not end._served
    assert not [d for _, k, d in wire.frames() if k == Type.ERROR and b"frames.busy" in d]


@pytest.mark.parametrize(("size", "good"), [(99, True), (100, False)])
async def test_pending_requests_count_with_their_kind(size: int, good: bool) -> None:
    end, wire, _ = connected(handler=waits, caps=Caps(pending=100))
    end.data_received(frame(1, Type.REQUEST, b"\1" + bytes(size)))
    await turns()
    refused = [parse_error(d).code for _, k, d in wire.frames() if k == Type.ERROR]
    assert refused == ([] if good else ["frames.busy"])
    assert end._pending == (size + 1 if good else 0)
    end.connection_lost(None)
    await turns()


@pytest.mark.parametrize(("size", "good"), [(99, True), (100, False)])
async def test_a_request_frame_is_capped_with_its_kind_on_both_sides(size: int, good: bool) -> None:
    end, wire, _ = connected(handler=waits, caps=Caps(request=100))
    sending, _, _ = connected(caps=Caps(request=100), accepting=False)
    if good:
        sending.open(1, bytes(size), Seen())
    else:
        with pytest.raises(CloisterError, match=r"frames\.too_large"):
            sending.open(1, bytes(size), Seen())
    end.data_received(frame(1, Type.REQUEST, b"\1" + bytes(size)))
    assert wire.closing is not good
    end.connection_lost(None)
    await turns()


async def test_the_next_asker_gets_the_number_of_one_that_is_done_and_hears_nothing_of_it() -> None:
    end, _, _ = connected()
    first, second = Seen(), Seen()
    call = end.open(1, b"", first)
    end.data_received(frame(call.id, Type.END))
    end._next = call.id
    again = end.open(1, b"", second)
    assert again.id == call.id
    call.cancel()  # the old handle must not reach the new stream
    assert end.in_flight == 1
    end.data_received(frame(call.id, Type.END, b"x"))
    assert (first.events, second.events) == (["end"], ["end"])


@pytest.mark.parametrize("kind", [Type.HEAD, Type.CHUNK, Type.END, Type.ERROR, Type.CANCEL])
async def test_frames_for_streams_that_nobody_has_are_dropped(kind: Type) -> None:
    end, wire, faults = connected(handler=waits)
    end.data_received(frame(77, kind) + frame(78, kind))
    await turns()
    assert (faults, wire.closing, wire.frames()) == ([], False, [])


async def test_a_connection_that_broke_the_format_takes_nothing_further() -> None:
    announced: list[bytes] = []
    end, wire, _ = connected(on_announce=lambda c, data: announced.append(data))
    good = frame(0, Type.ANNOUNCE, b"one")
    end.data_received(good + HEADER.pack(0, 1, 99) + good)
    assert (announced, wire.closing) == ([b"one"], True)


async def test_credit_beyond_the_window_ends_the_connection_and_credit_for_others_is_dropped() -> None:
    async def sends(incoming: Incoming) -> None:
        await incoming.send(bytes(100))
        await asyncio.sleep(3600)

    end, wire, faults = connected(handler=sends)
    end.data_received(frame(1, Type.REQUEST, b"\1"))
    await turns()
    end.data_received(frame(1, Type.CREDIT, CREDIT.pack(100)) + frame(9, Type.CREDIT, CREDIT.pack(2**32 - 1)))
    assert not wire.closing
    end.data_received(frame(1, Type.CREDIT, CREDIT.pack(1)))
    assert wire.closing
    assert getattr(faults[0], "code", "") == "frames.broken"
    end.connection_lost(None)
    await turns()


@pytest.mark.parametrize("payload", [b"", b"null", b"[]", b"{", b'{"code":5}', b"\xff", b"[" * 5000, b'{"status":1e9}'])
def test_an_error_frame_of_any_bytes_is_a_refusal_with_a_status_of_failure(payload: bytes) -> None:
    error = parse_error(payload)
    assert error.status == 502
    assert isinstance(error, CloisterError)


@pytest.mark.parametrize(("status", "shown"), [(400, 400), (599, 599), (399, 502), (600, 502), (200, 502), (-1, 502)])
def test_the_status_of_an_unknown_refusal_is_one_of_failure(status: int, shown: int) -> None:
    assert parse_error(b'{"code":"no.such","status":%d}' % status).status == shown


# A server and its peers


async def test_a_crowd_of_connections_takes_no_place_for_good(tmp_path: Path) -> None:
    server = FrameServer(tmp_path / "s.sock", max_connections=2)
    await server.start()
    for _ in range(3):
        crowd = [await asyncio.open_unix_connection(str(server.path)) for _ in range(5)]
        for _, writer in crowd:
            writer.close()
        async with asyncio.timeout(5):
            while server.connections:  # noqa: ASYNC110
                await asyncio.sleep(0.005)
    await server.close()


async def test_what_a_client_announces_is_asked_anew_for_each_connection(tmp_path: Path) -> None:
    heard: list[bytes] = []
    server = FrameServer(tmp_path / "s.sock", on_announce=lambda c, data: heard.append(data))
    numbers = iter(range(100))
    client = FrameClient(server.path, announce=lambda: b"%d" % next(numbers))
    await server.start()
    client.start()
    client.start()  # a second start is the same start
    await client.connected(5)
    client.announce_again()
    async with asyncio.timeout(5):
        while len(heard) < 2:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
    await server.close()
    await server.start()
    async with asyncio.timeout(5):
        while len(heard) < 3:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
    assert heard == [b"0", b"1", b"2"]
    await client.close()
    client.announce_again()  # without a connection there is nobody to tell
    await client.close()
    await server.close()
    await server.close()


async def test_a_faulty_announcement_of_our_own_is_tried_again(tmp_path: Path) -> None:
    """``announce()`` may fail while a node starts; the connection is made once it does not."""
    server = FrameServer(tmp_path / "s.sock")
    ready = False

    def announce() -> bytes:
        if not ready:
            raise OSError("not yet")
        return b"here"

    client = FrameClient(server.path, announce=announce)
    await server.start()
    client.start()
    with pytest.raises(CloisterError, match=r"frames\.lost"):
        await client.connected(0.12)
    ready = True
    connection = await client.connected(5)
    assert not connection.closed
    with contextlib.suppress(CloisterError):
        await client.close()
    await server.close()
