"""What a handler sends in one turn of the event loop travels as one frame; nothing waits longer than that turn."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cloister.core.errors import CloisterError
from cloister.wire.connection import FRAME_CAPS, PIECE, TYPES, WINDOW, Type
from cloister.wire.frames import BUSY, FrameClient, FrameServer, Incoming
from cloister.wire.streams import LAST

KIND = 3


class Frames:
    """A sink that keeps each frame as it comes."""

    def __init__(self) -> None:
        self.frames: list[tuple[str, bytes]] = []
        self.error: CloisterError | None = None
        self.over = asyncio.Event()

    def head(self, data: bytes) -> None:
        self.frames.append(("head", data))

    def chunk(self, data: bytes) -> None:
        self.frames.append(("chunk", data))
        self.call.consumed(len(data))

    def end(self, data: bytes) -> None:
        self.frames.append(("end", data))
        self.over.set()

    def failed(self, error: CloisterError) -> None:
        self.error = error
        self.over.set()

    @property
    def kinds(self) -> list[str]:
        return [kind for kind, _ in self.frames]

    @property
    def body(self) -> bytes:
        return b"".join(data for kind, data in self.frames if kind != "head")


async def frames_of(folder: Path, handler: object) -> Frames:
    """All frames of one stream that ``handler`` answers."""
    server = FrameServer(folder / "s.sock")
    await server.start()
    client = FrameClient(folder / "s.sock", handler=handler)  # type: ignore[arg-type]
    client.start()
    try:
        await client.connected(5)
        async with asyncio.timeout(5):
            while not server.connections:  # noqa: ASYNC110 - the other end's event
                await asyncio.sleep(0.001)
            sink = Frames()
            sink.call = next(iter(server.connections)).open(KIND, b"?", sink)  # type: ignore[attr-defined]
            await sink.over.wait()
    finally:
        await client.close()
        await server.close()
        (folder / "s.sock").unlink(missing_ok=True)
    return sink


async def test_an_answer_that_is_complete_in_one_turn_is_one_frame(tmp_path: Path) -> None:
    async def handler(incoming: Incoming) -> None:
        for part in (b"rand and head", b"body", b"receipt"):
            await incoming.send(part)

    sink = await frames_of(tmp_path, handler)
    assert sink.frames == [("end", b"rand and headbodyreceipt")]


async def test_what_was_sent_leaves_before_the_handler_goes_on_waiting(tmp_path: Path) -> None:
    async def handler(incoming: Incoming) -> None:
        await incoming.send(b"first")
        await asyncio.sleep(0.05)
        await incoming.send(b"second")

    sink = await frames_of(tmp_path, handler)
    assert sink.frames == [("chunk", b"first"), ("end", b"second")]


async def test_a_reader_gets_the_first_bytes_while_the_handler_still_runs(tmp_path: Path) -> None:
    go_on = asyncio.Event()

    async def handler(incoming: Incoming) -> None:
        await incoming.send(b"first")
        await go_on.wait()

    task = asyncio.create_task(frames_of(tmp_path, handler))
    await asyncio.sleep(0.1)
    assert not task.done()
    go_on.set()
    assert (await task).frames == [("chunk", b"first"), ("end", b"")]


async def test_a_head_frame_comes_before_what_is_sent_after_it(tmp_path: Path) -> None:
    async def handler(incoming: Incoming) -> None:
        await incoming.head(b"head")
        await incoming.send(b"body")

    assert (await frames_of(tmp_path, handler)).frames == [("head", b"head"), ("end", b"body")]


async def test_a_head_frame_comes_before_what_is_sent_in_the_same_turn(tmp_path: Path) -> None:
    async def handler(incoming: Incoming) -> None:
        await incoming.head(b"head")
        await incoming.send(b"body")

    assert (await frames_of(tmp_path, handler)).frames == [("head", b"head"), ("end", b"body")]


async def test_a_head_frame_after_a_chunk_breaks_the_stream(tmp_path: Path) -> None:
    async def handler(incoming: Incoming) -> None:
        await incoming.send(b"early")
        await incoming.head(b"head")

    sink = await frames_of(tmp_path, handler)
    assert sink.frames == [("chunk", b"early")]
    assert sink.error is not None
    assert sink.error.code == "frames.broken"


async def test_a_refusal_comes_after_what_was_sent(tmp_path: Path) -> None:
    async def handler(incoming: Incoming) -> None:
        await incoming.send(b"part")
        raise BUSY(expected="room", found="none")

    sink = await frames_of(tmp_path, handler)
    assert sink.frames == [("chunk", b"part")]
    assert sink.error is not None
    assert sink.error.code == "frames.busy"


async def test_nothing_is_sent_twice_after_the_end(tmp_path: Path) -> None:
    async def handler(incoming: Incoming) -> None:
        await incoming.send(b"all")
        incoming.end(b"!")
        incoming.end(b"again")
        incoming.release()

    assert (await frames_of(tmp_path, handler)).frames == [("end", b"all!")]


async def test_sending_after_the_end_is_refused(tmp_path: Path) -> None:
    seen: list[str] = []

    async def handler(incoming: Incoming) -> None:
        incoming.end(b"x")
        with pytest.raises(CloisterError) as caught:
            await incoming.send(b"y")
        seen.append(caught.value.code)

    assert (await frames_of(tmp_path, handler)).frames == [("end", b"x")]
    assert seen == ["frames.cancelled"]


async def test_last_bytes_that_do_not_fit_one_frame_go_ahead_of_it(tmp_path: Path) -> None:
    async def handler(incoming: Incoming) -> None:
        await incoming.send(b"a" * PIECE)
        incoming.end(b"b" * LAST)

    sink = await frames_of(tmp_path, handler)
    assert sink.frames == [("chunk", b"a" * PIECE), ("end", b"b" * LAST)]


async def test_no_chunk_is_above_its_cap_and_no_byte_is_lost(tmp_path: Path) -> None:
    data = random.Random(1).randbytes(WINDOW * 2 + 12345)

    async def handler(incoming: Incoming) -> None:
        at = 0
        for size in (1, 5, PIECE - 1, PIECE, PIECE + 1, 70_000, WINDOW, len(data)):
            await incoming.send(data[at : at + size])
            at += size

    sink = await frames_of(tmp_path, handler)
    assert sink.body == data
    assert all(len(part) <= PIECE for kind, part in sink.frames if kind == "chunk")
    assert sink.kinds[-1] == "end"


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    parts=st.lists(st.tuples(st.integers(0, 90_000), st.booleans()), max_size=8),
    last=st.integers(0, 2000),
    seed=st.integers(0, 1 << 30),
)
async def test_any_mix_of_sizes_and_pauses_arrives_whole(
    tmp_path: Path, parts: list[tuple[int, bool]], last: int, seed: int
) -> None:
    source = random.Random(seed)
    pieces = [(source.randbytes(size), pause) for size, pause in parts]
    tail = source.randbytes(last)

    async def handler(incoming: Incoming) -> None:
        for piece, pause in pieces:
            await incoming.send(piece)
            if pause:
                await asyncio.sleep(0)
        incoming.end(tail)

    sink = await frames_of(tmp_path, handler)
    assert sink.body == b"".join(piece for piece, _ in pieces) + tail
    assert sink.kinds.count("end") == 1


def test_the_tables_by_number_are_those_of_the_types() -> None:
    assert (None, *Type) == TYPES
    assert [int(kind) for kind in Type] == list(range(1, len(Type) + 1))
    assert len(FRAME_CAPS) == len(TYPES)
    assert FRAME_CAPS[Type.CHUNK] == PIECE
    assert FRAME_CAPS[Type.CANCEL] == 0
