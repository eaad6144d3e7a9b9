"""A load generator in a process of its own: raw HTTP/1.1 over uvloop, one request at a time per connection.

``python -m bench.load PLAN ANSWERS``. PLAN holds, per connection, the whole requests in order (``write_plan``). It
prints ``ready`` once connected, waits for a line on stdin, runs, writes the answers, and prints one JSON line:
{seconds, requests, cpu_us}. The same code loads the sealed path and the plain server that it is compared with.
"""

from __future__ import annotations

import asyncio
import json
import re
import struct
import sys
import time
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import uvloop

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding: *chunked", re.IGNORECASE)
_U32 = struct.Struct("<I")
_ANSWER = struct.Struct("<IIQII")


@dataclass(slots=True)
class Answer:
    """One answer: who and which, how long it took, its body, and when (ns after the request) how much was there."""

    connection: int
    index: int
    took_ns: int
    body: bytes
    arrivals: tuple[tuple[int, int], ...]


def write_plan(path: Path, port: int, lanes: Sequence[Sequence[bytes]], repeat: int = 1) -> None:
    """``lanes``: the requests of each connection; ``repeat``: how often a lane is sent."""
    parts = [_U32.pack(port), _U32.pack(repeat), _U32.pack(len(lanes))]
    for lane in lanes:
        parts.append(_U32.pack(len(lane)))
        for request in lane:
            parts += [_U32.pack(len(request)), request]
    path.write_bytes(b"".join(parts))


def read_plan(data: bytes) -> tuple[int, list[list[bytes]]]:
    """(port, requests of each connection)."""
    port, repeat, count = (_U32.unpack_from(data, at)[0] for at in (0, 4, 8))
    at, lanes = 12, []
    for _ in range(count):
        lane = []
        (size,) = _U32.unpack_from(data, at)
        at += 4
        for _ in range(size):
            (length,) = _U32.unpack_from(data, at)
            lane.append(data[at + 4 : at + 4 + length])
            at += 4 + length
        lanes.append(lane * repeat)
    return port, lanes


def write_answers(path: Path, answers: Sequence[Answer]) -> None:
    """What ``read_answers`` reads."""
    parts = []
    for a in answers:
        parts.append(_ANSWER.pack(a.connection, a.index, a.took_ns, len(a.arrivals), len(a.body)))
        parts.append(array("Q", [number for pair in a.arrivals for number in pair]).tobytes())
        parts.append(a.body)
    path.write_bytes(b"".join(parts))


def read_answers(data: bytes) -> list[Answer]:
    """Answers in the order in which they came."""
    at, answers = 0, []
    while at < len(data):
        connection, index, took, count, size = _ANSWER.unpack_from(data, at)
        at += _ANSWER.size
        flat = array("Q", data[at : at + 16 * count])
        at += 16 * count
        pairs = tuple(zip(flat[::2], flat[1::2], strict=True))
        answers.append(Answer(connection, index, took, data[at : at + size], pairs))
        at += size
    return answers


class Lane(asyncio.Protocol):
    """One connection: sends its next request when the last answer is whole."""

    def __init__(self, number: int, requests: list[bytes], answers: list[Answer], over: asyncio.Future[None]) -> None:
        self._number, self._requests, self._answers, self._over = number, requests, answers, over
        self._transport: asyncio.Transport | None = None
        self._index, self._began = 0, 0
        self._buffer = b""
        self._reset()

    def _reset(self) -> None:
        self._size: int | None = None  # of the whole answer, head included; None: not known yet
        self._body = bytearray()
        self._chunked = False
        self._start = 0
        self._arrivals: list[tuple[int, int]] = []

    def begin(self) -> None:
        """Send the first request."""
        self._send()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._over.done():
            self._over.set_exception(RuntimeError(f"connection {self._number} closed at request {self._index}: {exc}"))

    def data_received(self, data: bytes) -> None:
        now = time.perf_counter_ns()
        self._buffer = self._buffer + data if self._buffer else data
        if not self._start and not self._head():
            return
        if self._chunked:
            if self._unchunk(now):
                self._done(now, bytes(self._body))
        elif self._size is not None:
            self._arrivals.append((now - self._began, len(self._buffer) - self._start))
            if len(self._buffer) >= self._size:
                self._done(now, self._buffer[self._start : self._size])

    def _head(self) -> bool:
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return False
        head = self._buffer[: end + 2]
        if not head.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(f"request {self._index}: {self._buffer[:400]!r}")
        self._start = end + 4
        length = _LENGTH.search(head)
        if length is not None:
            self._size = self._start + int(length[1])
        elif _CHUNKED.search(head):
            self._chunked = True
        else:
            raise RuntimeError(f"an answer without length: {head!r}")
        return True

    def _unchunk(self, now: int) -> bool:
        """Take whole chunks; True at the last one."""
        buffer, at = self._buffer, self._start
        while True:
            end = buffer.find(b"\r\n", at)
            if end < 0:
                break
            size = int(buffer[at:end], 16)
            if len(buffer) < end + 4 + size:
                break
            if size == 0:
                return True
            self._body += buffer[end + 2 : end + 2 + size]
            self._arrivals.append((now - self._began, len(self._body)))
            at = end + 4 + size
        self._start = at
        return False

    def _done(self, now: int, body: bytes) -> None:
        answer = Answer(self._number, self._index, now - self._began, body, tuple(self._arrivals))
        self._answers.append(answer)
        self._index += 1
        self._buffer = b""
        self._reset()
        self._send()

    def _send(self) -> None:
        if self._index == len(self._requests):
            self._over.set_result(None)
            return
        assert self._transport is not None
        self._began = time.perf_counter_ns()
        self._transport.write(self._requests[self._index])


async def run(plan: Path, out: Path) -> None:
    """Connect, wait for the word, send everything."""
    port, lanes = read_plan(plan.read_bytes())
    loop, answers = asyncio.get_running_loop(), list[Answer]()
    futures = [loop.create_future() for _ in lanes]
    made = []
    for number, requests in enumerate(lanes):
        lane = Lane(number, requests, answers, futures[number])
        await loop.create_connection(lambda lane=lane: lane, "127.0.0.1", port)  # type: ignore[misc]
        made.append(lane)
    print("ready", flush=True)
    await loop.run_in_executor(None, sys.stdin.readline)
    began, cpu = time.perf_counter(), time.process_time_ns()
    for lane in made:
        lane.begin()
    await asyncio.gather(*futures)
    seconds, used = time.perf_counter() - began, time.process_time_ns() - cpu
    write_answers(out, answers)
    print(json.dumps({"seconds": seconds, "requests": len(answers), "cpu_us": used / 1000}), flush=True)


if __name__ == "__main__":
    uvloop.run(run(Path(sys.argv[1]), Path(sys.argv[2])))
