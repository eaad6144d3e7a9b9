"""The load generator sends each request once, in order per connection, and reads every form of answer."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
from bench.load import Answer, Lane, read_answers, read_plan, write_answers, write_plan
from hypothesis import given, settings
from hypothesis import strategies as st

ROOT = Path(__file__).resolve().parents[3]


class Wire:
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        self.written: list[bytes] = []

    def write(self, data: bytes) -> None:
        self.written.append(data)


def lane(*requests: bytes) -> tuple[Lane, Wire, list[Answer], asyncio.Future[None]]:
    over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    answers: list[Answer] = []
    made, wire = Lane(3, list(requests), answers, over), Wire()
    made.connection_made(wire)  # type: ignore[arg-type]
    made.begin()
    return made, wire, answers, over


def whole(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nx: y\r\n\r\n" % len(body) + body


def chunked(*parts: bytes) -> bytes:
    frames = b"".join(b"%x\r\n%b\r\n" % (len(p), p) for p in parts)
    return b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + frames + b"0\r\n\r\n"


@given(
    port=st.integers(1, 65535),
    lanes=st.lists(st.lists(st.binary(max_size=60), max_size=4), max_size=4),
    repeat=st.integers(1, 3),
)
def test_a_plan_is_read_as_it_was_written(
    tmp_path_factory: pytest.TempPathFactory, port: int, lanes: list[list[bytes]], repeat: int
) -> None:
    file = tmp_path_factory.mktemp("plan") / "plan"
    write_plan(file, port, lanes, repeat)
    assert read_plan(file.read_bytes()) == (port, [one * repeat for one in lanes])


@given(
    rows=st.lists(
        st.builds(
            Answer,
            st.integers(0, 99),
            st.integers(0, 99),
            st.integers(0, 1 << 40),
            st.binary(max_size=99),
            st.lists(st.tuples(st.integers(0, 1 << 40), st.integers(0, 1 << 20)), max_size=4).map(tuple),
        ),
        max_size=5,
    )
)
def test_answers_are_read_as_they_were_written(tmp_path_factory: pytest.TempPathFactory, rows: list[Answer]) -> None:
    file = tmp_path_factory.mktemp("answers") / "answers"
    write_answers(file, rows)
    assert read_answers(file.read_bytes()) == rows


async def test_the_next_request_waits_for_the_answer_before_it() -> None:
    made, wire, answers, over = lane(b"one", b"two")
    assert wire.written == [b"one"]
    made.data_received(whole(b"first"))
    assert wire.written == [b"one", b"two"]
    assert not over.done()
    made.data_received(whole(b"second"))
    assert over.done()
    assert [(a.connection, a.index, a.body) for a in answers] == [(3, 0, b"first"), (3, 1, b"second")]


@settings(max_examples=60)
@given(
    body=st.binary(max_size=80),
    parts=st.lists(st.binary(min_size=1, max_size=30), max_size=4),
    cuts=st.lists(st.integers(0, 400), max_size=12),
    use_chunks=st.booleans(),
)
async def test_an_answer_is_read_however_it_is_cut(
    body: bytes, parts: list[bytes], cuts: list[int], use_chunks: bool
) -> None:
    made, _, answers, over = lane(b"?")
    sent = chunked(*parts) if use_chunks else whole(body)
    marks = sorted({0, len(sent), *(c for c in cuts if c < len(sent))})
    for start, end in pairwise(marks):
        made.data_received(sent[start:end])
    assert over.done()
    assert answers[0].body == (b"".join(parts) if use_chunks else body)
    assert [size for _, size in answers[0].arrivals] == sorted(size for _, size in answers[0].arrivals)


@pytest.mark.parametrize(
    "answer",
    [b"HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n", b"HTTP/1.1 200 OK\r\nx: y\r\n\r\n", b"garbage\r\n\r\n"],
    ids=["a refusal", "no length", "no HTTP"],
)
async def test_a_wrong_answer_ends_the_run(answer: bytes) -> None:
    made, _, _, _ = lane(b"?")
    with pytest.raises(RuntimeError):
        made.data_received(answer)


async def test_a_lost_connection_ends_the_run() -> None:
    made, _, _, over = lane(b"?")
    made.connection_lost(None)
    with pytest.raises(RuntimeError, match="closed at request 0"):
        await over


async def serve(answer: Callable[[bytes], bytes]) -> tuple[asyncio.Server, int, list[bytes]]:
    seen: list[bytes] = []

    async def one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(4096):
            seen.append(data)
            writer.write(answer(data))
        writer.close()

    server = await asyncio.start_server(one, "127.0.0.1", 0)
    return server, server.sockets[0].getsockname()[1], seen


async def test_the_process_sends_every_request_once_and_reports(tmp_path: Path) -> None:
    server, port, seen = await serve(whole)
    lanes = [[b"a%d%d" % (lane, n) for n in range(5)] for lane in range(3)]
    write_plan(tmp_path / "plan", port, lanes)
    argv = [sys.executable, "-m", "bench.load", str(tmp_path / "plan"), str(tmp_path / "answers")]
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*argv, cwd=ROOT, stdin=pipe, stdout=pipe)
    try:
        assert process.stdin is not None
        assert process.stdout is not None
        assert await process.stdout.readline() == b"ready\n"
        assert seen == []
        process.stdin.write(b"go\n")
        said = json.loads(await process.stdout.readline())
        assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        server.close()
    assert said["requests"] == 15
    assert said["seconds"] > 0
    assert said["cpu_us"] > 0
    assert sorted(seen) == sorted(request for one in lanes for request in one)
    found = {(a.connection, a.index): a.body for a in read_answers((tmp_path / "answers").read_bytes())}
    assert found == {(c, n): lanes[c][n] for c in range(3) for n in range(5)}
