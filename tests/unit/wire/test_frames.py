"""Framed connections: multiplexing, credits, cancel, loss, and that no stream's fault reaches another."""

from __future__ import annotations

import asyncio
import contextlib
import os
import stat
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cloister.core.errors import CloisterError
from cloister.wire import frames
from cloister.wire.connection import HEADER, PIECE, WINDOW, Call, Connection, Type, parse_error
from cloister.wire.frames import Caps, FrameClient, FrameServer, Incoming

Serve = Callable[[Incoming], Awaitable[None]]


class Pair:
    """A server and a client on one socket. ``faults`` are the exceptions that were contained."""

    def __init__(self, path: Path, handler: Serve | None, **options: Any) -> None:
        self.faults: list[tuple[str, BaseException]] = []
        self.announced: list[bytes] = []
        self.server = FrameServer(
            path,
            handler=options.get("server_handler"),
            on_announce=lambda connection, data: self.announced.append(data),
            caps=options.get("caps"),
            report=self.note,
        )
        self.client = FrameClient(
            path, handler=handler, announce=options.get("announce"), caps=options.get("caps"), report=self.note
        )

    def note(self, where: str, error: BaseException) -> None:
        self.faults.append((where, error))

    async def accepted(self) -> Connection:
        """The server's end: it opens streams, as a gateway does towards a worker."""
        await self.client.connected(5)
        await until(lambda: bool(self.server.connections))
        return next(iter(self.server.connections))


@contextlib.asynccontextmanager
async def linked(tmp_path: Path, handler: Serve | None = None, **options: Any) -> AsyncIterator[Pair]:
    pair = Pair(tmp_path / "s.sock", handler, **options)
    await pair.server.start()
    pair.client.start()
    try:
        yield pair
    finally:
        await pair.client.close()
        await pair.server.close()


async def echo(incoming: Incoming) -> None:
    await incoming.send(incoming.payload)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - the condition is any state, not an event
            await asyncio.sleep(0.001)


async def test_an_answer_comes_back_in_order_with_its_head_and_last_bytes(tmp_path: Path) -> None:
    async def handler(incoming: Incoming) -> None:
        assert (incoming.kind, incoming.payload) == (7, b"question")
        await incoming.head(b"the head")
        await incoming.send(b"one")
        await incoming.send(b"two")
        incoming.end(b"last")

    async with linked(tmp_path, handler) as pair:
        connection = await pair.accepted()
        async with connection.stream(7, b"question") as stream:
            assert b"".join([chunk async for chunk in stream]) == b"onetwolast"
            assert stream.head_bytes == b"the head"
        assert connection.in_flight == 0


async def test_both_sides_may_ask(tmp_path: Path) -> None:
    async with linked(tmp_path, echo, server_handler=echo) as pair:
        accepted, connecting = await pair.accepted(), await pair.client.connected()
        asked = [accepted.ask(1, b"down"), connecting.ask(1, b"up"), accepted.ask(1, b"again")]
        assert await asyncio.gather(*asked) == [b"down", b"up", b"again"]
        async with pair.client.stream(1, b"by the client") as stream:
            assert [c async for c in stream] == [b"by the client"]


async def test_many_streams_share_one_connection(tmp_path: Path) -> None:
    async def slow(incoming: Incoming) -> None:
        await asyncio.sleep(0.001 * (incoming.payload[0] % 3))
        await incoming.send(incoming.payload * 100)

    async with linked(tmp_path, slow) as pair:
        connection = await pair.accepted()
        answers = await asyncio.gather(*(connection.ask(1, bytes([i])) for i in range(200)))
        assert answers == [bytes([i]) * 100 for i in range(200)]


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sizes=st.lists(st.integers(0, 3 * PIECE), min_size=1, max_size=4))
def test_any_sizes_arrive_whole(tmp_path: Path, sizes: list[int]) -> None:
    async def run() -> None:
        body = [os.urandom(n) for n in sizes]

        async def handler(incoming: Incoming) -> None:
            for part in body:
                await incoming.send(part)

        async with linked(tmp_path, handler) as pair:
            connection = await pair.accepted()
            assert await connection.ask(1, os.urandom(sizes[0])) == b"".join(body)

    asyncio.run(run())


async def test_a_large_request_arrives_whole(tmp_path: Path) -> None:
    async def count(incoming: Incoming) -> None:
        incoming.end(str(len(incoming.payload)).encode())

    async with linked(tmp_path, count) as pair:
        assert await (await pair.accepted()).ask(1, bytes(9 << 20)) == str(9 << 20).encode()


# Back-pressure


async def test_a_writer_waits_for_its_reader_and_nobody_else_waits(tmp_path: Path) -> None:
    sent = 0

    async def handler(incoming: Incoming) -> None:
        nonlocal sent
        if incoming.kind == 2:
            return incoming.end(b"quick")
        for _ in range(40):
            await incoming.send(bytes(PIECE))
            sent += PIECE
        return None

    async with linked(tmp_path, handler) as pair:
        connection = await pair.accepted()
        async with connection.stream(1, b"") as stream:
            await until(lambda: sent >= WINDOW)
            assert await connection.ask(2, b"") == b"quick"
            assert sent == WINDOW
            assert sum([len(c) async for c in stream]) == 40 * PIECE


class Greedy:
    """A sink that never says that it consumed anything."""

    def __init__(self) -> None:
        self.got = 0
        self.errors: list[CloisterError] = []

    def head(self, data: bytes) -> None:
        raise AssertionError("no head was sent")

    def chunk(self, data: bytes) -> None:
        self.got += len(data)

    def end(self, data: bytes) -> None:
        raise AssertionError("the end cannot come before credit")

    def failed(self, error: CloisterError) -> None:
        self.errors.append(error)


async def test_a_peer_that_sends_beyond_its_credit_loses_that_stream_only(tmp_path: Path) -> None:
    async def rude(incoming: Incoming) -> None:
        if incoming.kind == 2:
            return incoming.end(b"fine")
        for _ in range(WINDOW // PIECE + 1):
            incoming.connection.write(incoming.id, Type.CHUNK, bytes(PIECE))
        await asyncio.sleep(3600)
        return None

    async with linked(tmp_path, rude) as pair:
        connection, sink = await pair.accepted(), Greedy()
        connection.open(1, b"", sink)
        await until(lambda: bool(sink.errors))
        assert sink.errors[0].code == "frames.broken"
        assert connection.in_flight == 0
        assert await connection.ask(2, b"") == b"fine"


async def test_credit_for_bytes_never_sent_ends_the_connection(tmp_path: Path) -> None:
    async def waits(incoming: Incoming) -> None:
        await asyncio.sleep(3600)

    async with linked(tmp_path, waits) as pair:
        connection = await pair.accepted()
        call = connection.open(1, b"", Greedy())
        connection.credit(call, 1)
        await asyncio.wait_for(connection.finished, 5)
        assert any(getattr(e, "code", "") == "frames.broken" for _, e in pair.faults)


# Cancel, errors, loss


async def test_leaving_a_stream_cancels_its_handler(tmp_path: Path) -> None:
    cancelled = asyncio.Event()

    async def handler(incoming: Incoming) -> None:
        await incoming.send(b"first")
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            cancelled.set()
            raise

    async with linked(tmp_path, handler) as pair:
        connection = await pair.accepted()
        async with connection.stream(1, b"") as stream:
            assert await anext(stream) == b"first"
        await asyncio.wait_for(cancelled.wait(), 5)
        assert connection.in_flight == 0
        peer = await pair.client.connected()
        await until(lambda: not peer._served)
        assert peer._pending == 0


async def test_a_cancel_that_arrives_with_its_request_leaks_nothing(tmp_path: Path) -> None:
    async with linked(tmp_path, echo) as pair:
        connection, peer = await pair.accepted(), await pair.client.connected()
        for _ in range(5):
            connection.open(1, b"x" * 1000, Greedy()).cancel()
        assert await connection.ask(1, b"after") == b"after"
        await until(lambda: not peer._served)
        assert peer._pending == 0


async def test_a_named_refusal_comes_back_with_its_code_and_status(tmp_path: Path) -> None:
    async def refuses(incoming: Incoming) -> None:
        raise frames.BUSY(expected="room", found="none")

    async with linked(tmp_path, refuses) as pair:
        with pytest.raises(CloisterError) as caught:
            await (await pair.accepted()).ask(1, b"")
        assert (caught.value.code, caught.value.status) == ("frames.busy", 503)


async def test_a_fault_in_one_handler_is_hidden_reported_and_ends_that_stream_only(tmp_path: Path) -> None:
    async def faulty(incoming: Incoming) -> None:
        if incoming.kind == 1:
            raise KeyError("a private detail")
        incoming.end(b"alive")

    async with linked(tmp_path, faulty) as pair:
        connection = await pair.accepted()
        with pytest.raises(CloisterError, match=r"frames\.internal") as caught:
            await connection.ask(1, b"")
        assert "private" not in str(caught.value.to_wire())
        assert await connection.ask(2, b"") == b"alive"
        assert isinstance(pair.faults[0][1], KeyError)


class Raising(Greedy):
    """A sink whose callbacks raise, as a closed HTTP connection's do."""

    def chunk(self, data: bytes) -> None:
        raise OSError("the other side hung up")


async def test_a_fault_in_a_sink_ends_that_stream_only(tmp_path: Path) -> None:
    async def handler(incoming: Incoming) -> None:
        await incoming.send(b"x")
        if incoming.kind == 1:
            await asyncio.sleep(3600)

    async with linked(tmp_path, handler) as pair:
        connection = await pair.accepted()
        connection.open(1, b"", Raising())
        await until(lambda: bool(pair.faults))
        assert connection.in_flight == 0
        assert await connection.ask(2, b"") == b"x"
        assert not connection.closed


async def test_faults_in_announcements_are_contained(tmp_path: Path) -> None:
    async with linked(tmp_path, echo, announce=lambda: b"hello") as pair:
        connection = await pair.accepted()
        await until(lambda: pair.announced == [b"hello"])
        connection._on_announce = lambda c, data: [][len(data)]
        pair.client.announce_again()
        await until(lambda: bool(pair.faults))
        assert await connection.ask(1, b"still") == b"still"


async def test_streams_in_progress_fail_by_name_when_the_connection_goes(tmp_path: Path) -> None:
    async def waits(incoming: Incoming) -> None:
        await asyncio.sleep(3600)

    async with linked(tmp_path, waits) as pair:
        connection = await pair.accepted()
        asked = [asyncio.ensure_future(connection.ask(1, b"")) for _ in range(3)]
        await until(lambda: connection.in_flight == 3)
        (await pair.client.connected()).close()
        for one in asked:
            with pytest.raises(CloisterError, match=r"frames\.lost"):
                await one
        with pytest.raises(CloisterError, match=r"frames\.lost"):
            await connection.ask(1, b"")


async def test_handlers_are_cancelled_when_the_connection_goes(tmp_path: Path) -> None:
    over = asyncio.Event()

    async def waits(incoming: Incoming) -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            over.set()

    async with linked(tmp_path, waits) as pair:
        connection = await pair.accepted()
        connection.open(1, b"", Greedy())
        peer = await pair.client.connected()
        await until(lambda: bool(peer._served))
        connection.close()
        await asyncio.wait_for(over.wait(), 5)


async def test_the_client_comes_back_and_announces_again(tmp_path: Path) -> None:
    async with linked(tmp_path, echo, announce=lambda: b"I am here") as pair:
        first = await pair.accepted()
        await until(lambda: len(pair.announced) == 1)
        first.close()
        await first.finished
        await until(lambda: len(pair.announced) == 2)
        second = await pair.accepted()
        assert second is not first
        assert await second.ask(1, b"again") == b"again"


async def test_the_client_waits_for_a_server_that_starts_later(tmp_path: Path) -> None:
    pair = Pair(tmp_path / "s.sock", echo)
    pair.client.start()
    with pytest.raises(CloisterError, match=r"frames\.lost"):
        await pair.client.connected(0.01)
    with pytest.raises(CloisterError, match=r"frames\.lost"):
        pair.client.stream(1, b"")
    await pair.server.start()
    assert await (await pair.accepted()).ask(1, b"x") == b"x"
    await pair.client.close()
    await pair.server.close()


# Caps


async def test_more_streams_than_the_cap_are_refused_by_name(tmp_path: Path) -> None:
    async def waits(incoming: Incoming) -> None:
        await asyncio.sleep(3600)

    async with linked(tmp_path, waits, caps=Caps(streams=2)) as pair:
        connection = await pair.accepted()
        calls = [connection.open(1, b"", Greedy()) for _ in range(2)]
        with pytest.raises(CloisterError, match=r"frames\.busy"):
            connection.open(1, b"", Greedy())
        connection._caps = Caps()
        with pytest.raises(CloisterError, match=r"frames\.busy"):
            await connection.ask(1, b"")
        assert isinstance(calls[0], Call)


async def test_more_request_bytes_than_the_cap_are_refused_by_name(tmp_path: Path) -> None:
    async def waits(incoming: Incoming) -> None:
        await asyncio.sleep(3600)

    async with linked(tmp_path, waits, caps=Caps(pending=1000)) as pair:
        connection = await pair.accepted()
        connection.open(1, b"x" * 900, Greedy())
        with pytest.raises(CloisterError, match=r"frames\.busy"):
            await connection.ask(1, b"x" * 200)


async def test_a_request_over_the_cap_is_not_sent(tmp_path: Path) -> None:
    async with linked(tmp_path, echo, caps=Caps(request=100)) as pair:
        with pytest.raises(CloisterError, match=r"frames\.too_large"):
            await (await pair.accepted()).ask(1, b"x" * 100)


async def test_an_answer_over_what_the_asker_wants_is_refused(tmp_path: Path) -> None:
    async with linked(tmp_path, echo) as pair:
        with pytest.raises(CloisterError, match=r"frames\.too_large"):
            await (await pair.accepted()).ask(1, b"x" * 5000, max_size=4999)


async def test_last_bytes_over_the_cap_end_the_stream_with_an_error(tmp_path: Path) -> None:
    async def handler(incoming: Incoming) -> None:
        incoming.end(bytes(200 << 10))

    async with linked(tmp_path, handler) as pair:
        with pytest.raises(CloisterError, match=r"frames\.too_large"):
            await (await pair.accepted()).ask(1, b"")


async def test_a_side_without_a_handler_refuses(tmp_path: Path) -> None:
    async with linked(tmp_path, None) as pair:
        with pytest.raises(CloisterError, match=r"frames\.busy"):
            await (await pair.accepted()).ask(1, b"")


# Hostile bytes on the socket

HOSTILE: dict[str, bytes] = {
    "type 0": HEADER.pack(0, 1, 0),
    "an unknown type": HEADER.pack(0, 1, 9),
    "an endless request": HEADER.pack(0xFFFFFFFF, 1, Type.REQUEST),
    "a chunk over its cap": HEADER.pack(PIECE + 1, 2, Type.CHUNK),
    "a request on stream 0": HEADER.pack(1, 0, Type.REQUEST) + b"\1",
    "a request of our own parity": HEADER.pack(1, 2, Type.REQUEST) + b"\1",
    "a request without a kind": HEADER.pack(0, 1, Type.REQUEST),
    "a stream opened twice": (HEADER.pack(1, 1, Type.REQUEST) + b"\1") * 2,
    "credit of three bytes": HEADER.pack(3, 1, Type.CREDIT) + b"abc",
    "a cancel with a payload": HEADER.pack(1, 1, Type.CANCEL) + b"x",
    "an announcement over its cap": HEADER.pack((8 << 20) + 1, 0, Type.ANNOUNCE),
}


@pytest.mark.parametrize("sentence", HOSTILE)
async def test_the_server_drops_a_peer_that_sends(sentence: str, tmp_path: Path) -> None:
    async def waits(incoming: Incoming) -> None:
        await asyncio.sleep(3600)

    pair = Pair(tmp_path / "s.sock", None, server_handler=waits)
    await pair.server.start()
    reader, writer = await asyncio.open_unix_connection(str(tmp_path / "s.sock"))
    writer.write(HOSTILE[sentence])
    with contextlib.suppress(ConnectionError):
        assert await asyncio.wait_for(reader.read(), 5) == b""
    await until(lambda: not pair.server.connections)
    assert pair.faults
    writer.close()
    await pair.server.close()


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=200), cut=st.integers(1, 40))
def test_garbage_never_raises_into_the_loop(tmp_path: Path, data: bytes, cut: int) -> None:
    async def run() -> None:
        faults: list[str] = []
        connection = Connection(accepting=True, report=lambda where, error: faults.append(where))
        for at in range(0, len(data), cut):
            connection.data_received(data[at : at + cut])
        connection.connection_lost(None)

    asyncio.run(run())


async def test_frames_arrive_whatever_the_pieces(tmp_path: Path) -> None:
    got: list[bytes] = []
    connection = Connection(accepting=True, on_announce=lambda c, data: got.append(data))
    wire = b"".join(HEADER.pack(len(d), 0, Type.ANNOUNCE) + d for d in (b"one", b"", b"three"))
    for byte in wire:
        connection.data_received(bytes([byte]))
    connection.data_received(wire)
    assert got == [b"one", b"", b"three"] * 2


async def test_replies_to_unknown_streams_are_dropped(tmp_path: Path) -> None:
    async with linked(tmp_path, echo) as pair:
        peer = await pair.client.connected()
        for kind in (Type.HEAD, Type.CHUNK, Type.END, Type.ERROR):
            peer.write(4242, kind, b"x")
        assert await (await pair.accepted()).ask(1, b"fine") == b"fine"


@given(st.binary(max_size=60) | st.sampled_from([b"{}", b'{"status":200}', b'{"code":"frames.busy","status":true}']))
def test_a_malformed_error_frame_is_still_an_error(payload: bytes) -> None:
    error = parse_error(payload)
    assert isinstance(error, CloisterError)
    assert 400 <= error.status <= 599


# The socket file


async def test_the_socket_is_private_and_removed_at_the_end(tmp_path: Path) -> None:
    async with linked(tmp_path, echo) as pair:
        assert stat.S_IMODE(pair.server.path.stat().st_mode) == 0o600
    assert not (tmp_path / "s.sock").exists()


async def test_a_socket_left_behind_is_taken_over_and_a_live_one_is_not(tmp_path: Path) -> None:
    async with linked(tmp_path, echo) as pair:
        other = FrameServer(pair.server.path)
        with pytest.raises(CloisterError, match=r"frames\.socket"):
            await other.start()
    import socket

    left = socket.socket(socket.AF_UNIX)
    left.bind(str(tmp_path / "s.sock"))
    left.close()
    async with linked(tmp_path, echo) as pair:
        assert await (await pair.accepted()).ask(1, b"x") == b"x"


@pytest.mark.parametrize("name", ["x" * 120, "no/such/folder/s.sock"])
async def test_a_path_that_cannot_be_a_socket_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(CloisterError, match=r"frames\.socket"):
        await FrameServer(tmp_path / name).start()


async def test_another_file_in_the_place_of_the_socket_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "s.sock"
    path.write_text("important")
    with pytest.raises(CloisterError, match=r"frames\.socket"):
        await FrameServer(path).start()
    assert path.read_text() == "important"


async def test_connections_over_the_cap_are_closed(tmp_path: Path) -> None:
    server = FrameServer(tmp_path / "s.sock", max_connections=1)
    await server.start()
    first = await asyncio.open_unix_connection(str(server.path))
    await until(lambda: len(server.connections) == 1)
    second = await asyncio.open_unix_connection(str(server.path))
    assert await asyncio.wait_for(second[0].read(), 5) == b""
    for _, writer in (first, second):
        writer.close()
    await server.close()


async def test_stream_numbers_wrap_and_skip_those_in_use(tmp_path: Path) -> None:
    async with linked(tmp_path, echo) as pair:
        connection = await pair.accepted()
        connection._next = 2**32 - 2
        assert await connection.ask(1, b"last number") == b"last number"
        assert await connection.ask(1, b"first again") == b"first again"
        connection._calls[connection._next] = Call(connection, connection._next, Greedy())
        assert await connection.ask(1, b"skipped") == b"skipped"
        connection._calls.clear()
