"""Connections that cost and say nothing: drips, half-closed ones, thousands that idle; others are served beside."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from cloister.wire.http import Exchange, HttpLimits, HttpServer

GOOD = b"GET /now HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
HANG = b"GET /hang HTTP/1.1\r\nhost: x\r\n\r\n"


class Seen:
    """What a handler saw: requests that hang, and which of them were given up."""

    def __init__(self) -> None:
        self.hanging = self.aborted = 0

    def __call__(self, exchange: Exchange) -> None:
        if exchange.request.path == "/hang":
            self.hanging += 1
            exchange.on_abort = self._abort
        else:
            exchange.reply(200, b"now", "text/plain")

    def _abort(self) -> None:
        self.aborted += 1


@contextlib.asynccontextmanager
async def serving(seen: Seen, **limits: Any) -> AsyncIterator[HttpServer]:
    server = HttpServer(seen, lambda method, target: 1 << 20, limits=HttpLimits(**limits))
    await server.start("127.0.0.1", 0)
    try:
        yield server
    finally:
        await server.drain(0.05)


async def until(done: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not done():  # noqa: ASYNC110 - many conditions
            await asyncio.sleep(0.01)


async def asked(server: HttpServer, data: bytes = GOOD) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(data)
    with contextlib.suppress(ConnectionError):
        return await asyncio.wait_for(reader.read(), 10)
    return b""


def sweep(server: HttpServer, after_s: float) -> None:
    """One sweep as if so many seconds had passed."""
    now = asyncio.get_running_loop().time() + after_s
    for connection in list(server.connections):
        connection.sweep(now)


DRIPS = {
    "a head, byte by byte": b"GET /now HTTP/1.1\r\nx: " + b"y" * 200,
    "headers, one by one": b"GET /now HTTP/1.1\r\n" + b"x: y\r\n" * 30,
    "a body, byte by byte": b"POST /now HTTP/1.1\r\ncontent-length: 9999\r\n\r\n" + b"z" * 200,
}


@pytest.mark.parametrize("sentence", DRIPS)
async def test_dripping_buys_no_time(sentence: str) -> None:
    data = DRIPS[sentence]
    async with serving(Seen()) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        for at in range(0, len(data), 20):
            writer.write(data[at : at + 20])
            await asyncio.sleep(0.002)
            sweep(server, 5)  # half of the time that a head has, always
        assert len(server.connections) == 1
        sweep(server, 40)
        assert b"http.too_slow" in await asyncio.wait_for(reader.read(), 5)
        assert b"now" in await asked(server)
        writer.close()


async def test_a_caller_who_closes_its_half_wants_no_answer_and_leaves_nothing() -> None:
    seen = Seen()
    async with serving(seen) as server:
        for data in (HANG, HANG[:-10], HANG + HANG[:5], b"POST /now HTTP/1.1\r\ncontent-length: 50\r\n\r\nhalf"):
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(data)
            await writer.drain()
            writer.write_eof()
            assert await asyncio.wait_for(reader.read(), 5) == b""
            writer.close()
        await until(lambda: not server.connections)
        assert seen.hanging == seen.aborted == 2
        assert b"now" in await asked(server)


async def test_hundreds_that_idle_harm_nobody_and_go_after_their_time() -> None:
    async with serving(Seen(), connections=301) as server:
        idle = [await asyncio.open_connection("127.0.0.1", server.port) for _ in range(300)]
        await until(lambda: len(server.connections) == 300)
        assert b"now" in await asked(server)
        sweep(server, 80)
        await until(lambda: not server.connections)
        for _, writer in idle:
            writer.close()


_HOLDER = """
import socket, sys
held = []
for _ in range(int(sys.argv[2])):
    held.append(socket.create_connection(("127.0.0.1", int(sys.argv[1]))))
print("held", flush=True)
sys.stdin.read()
"""


@pytest.mark.long
async def test_ten_thousand_that_idle_harm_nobody() -> None:
    count = 10_000
    async with serving(Seen(), connections=count + 10) as server:
        holders = []
        try:
            for _ in range(2):
                words = (sys.executable, "-c", _HOLDER, str(server.port), str(count // 2))
                pipe = asyncio.subprocess.PIPE
                holders.append(
                    await asyncio.create_subprocess_exec(*words, stdin=pipe, stdout=pipe, env=dict(os.environ))
                )
            for one in holders:
                assert one.stdout is not None
                assert await asyncio.wait_for(one.stdout.readline(), 120) == b"held\n"
            await until(lambda: len(server.connections) == count)
            for _ in range(20):
                assert b"now" in await asked(server)
            sweep(server, 80)
            await until(lambda: not server.connections)
        finally:
            for one in holders:
                one.kill()
                await one.wait()
