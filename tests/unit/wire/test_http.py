"""The HTTP edge: good requests in any pieces; bad, slow, large and many ones refused without harm to others."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
from collections.abc import AsyncIterator, Callable
from typing import Any

import aiohttp
import pytest

from cloister.wire.http import BAD_REQUEST, Exchange, HttpLimits, HttpServer

Open = tuple[asyncio.StreamReader, asyncio.StreamWriter]


def handler(exchange: Exchange) -> None:
    """Paths: /echo, /stream/N, /later, /refuse, /fault, /afault, /half, /silent."""
    name, _, rest = exchange.request.path.removeprefix("/").partition("/")
    if name == "echo":
        exchange.reply(200, exchange.request.body, "application/octet-stream")
    elif name == "stream":
        exchange.start(200, "text/plain")
        for i in range(int(rest)):
            exchange.write(b"%d," % i)
        exchange.finish()
    elif name == "later":
        exchange.run(later(exchange))
    elif name == "refuse":
        raise BAD_REQUEST(expected="another path", found="this one")
    elif name == "fault":
        raise KeyError("private detail")
    elif name == "afault":
        exchange.run(fault())
    elif name == "half":
        exchange.start(200, "text/plain")
        exchange.write(b"half of it")
        exchange.error(BAD_REQUEST(expected="a", found="b"))


async def later(exchange: Exchange) -> None:
    await asyncio.sleep(0)
    exchange.json({"method": exchange.request.method, "query": exchange.request.query})


async def fault() -> None:
    raise KeyError("private detail")


@contextlib.asynccontextmanager
async def serving(serve: Callable[[Exchange], None] = handler, **limits: Any) -> AsyncIterator[HttpServer]:
    faults: list[tuple[str, BaseException]] = []
    server = HttpServer(
        serve,
        lambda method, target: 1000 if target.startswith("/small") else 4 << 20,
        limits=HttpLimits(**limits),
        extra=b"x-extra: 1\r\n",
        report=lambda where, error: faults.append((where, error)),
    )
    server.faults = faults  # type: ignore[attr-defined]
    await server.start("127.0.0.1", 0)
    try:
        yield server
    finally:
        await server.drain(0.05)


async def connect(server: HttpServer) -> Open:
    return await asyncio.open_connection("127.0.0.1", server.port)


async def raw(server: HttpServer, data: bytes) -> bytes:
    """Everything the server says to these bytes until it closes."""
    reader, writer = await connect(server)
    with contextlib.suppress(ConnectionError):
        writer.write(data)
        return await asyncio.wait_for(reader.read(), 5)
    return b""


def request(target: str = "/echo", body: bytes = b"", *, method: str = "POST", more: str = "") -> bytes:
    return f"{method} {target} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n{more}\r\n".encode() + body


CLOSE = "connection: close\r\n"


async def test_requests_and_answers_with_a_real_client() -> None:
    async with serving() as server, aiohttp.ClientSession(f"http://127.0.0.1:{server.port}") as client:
        for body in (b"", b"x", b"y" * 300_000):
            async with client.post("/echo", data=body) as answer:
                assert (answer.status, await answer.read()) == (200, body)
                assert answer.headers["x-extra"] == "1"
        async with client.get("/stream/500") as answer:
            assert await answer.read() == b"".join(b"%d," % i for i in range(500))
        async with client.get("/later?a=1") as answer:
            assert await answer.json() == {"method": "GET", "query": "a=1"}
        assert server.requests == 5
        assert server.bodies == 0


async def test_a_connection_is_kept_for_the_next_request() -> None:
    async with serving() as server:
        reader, writer = await connect(server)
        for i in range(5):
            writer.write(request(body=b"%d" % i))
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
            assert head.startswith(b"HTTP/1.1 200 OK\r\n")
            assert await reader.readexactly(1) == b"%d" % i
        assert len(server.connections) == 1
        writer.close()


@pytest.mark.parametrize("step", [1, 3, 1000])
async def test_a_request_in_any_pieces_is_one_request(step: int) -> None:
    data = request(body=b"hello there", more=CLOSE)
    async with serving() as server:
        reader, writer = await connect(server)
        for at in range(0, len(data), step):
            writer.write(data[at : at + step])
            await asyncio.sleep(0)
        assert (await asyncio.wait_for(reader.read(), 5)).endswith(b"\r\n\r\nhello there")


async def test_pipelined_requests_are_answered_in_order() -> None:
    data = b"".join(request(f"/later?{i}", method="GET") for i in range(9)) + request("/later?9", more=CLOSE)
    async with serving() as server:
        answer = await raw(server, data)
        assert [int(p.split(b'"')[0]) for p in answer.split(b'"query":"')[1:]] == list(range(10))


async def test_chunked_bodies_arrive_whole() -> None:
    data = (
        b"POST /echo HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n"
        b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
    )
    async with serving() as server:
        assert (await raw(server, data)).endswith(b"abcde")


async def test_expect_continue_is_answered_before_the_body() -> None:
    async with serving() as server:
        reader, writer = await connect(server)
        data = request(body=b"abc", more="expect: 100-continue\r\n" + CLOSE)
        writer.write(data[:-3])
        assert await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5) == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(b"abc")
        assert (await asyncio.wait_for(reader.read(), 5)).endswith(b"abc")


async def test_an_http_1_0_client_gets_an_unframed_stream_that_ends_with_the_connection() -> None:
    async with serving() as server:
        answer = await raw(server, b"GET /stream/3 HTTP/1.0\r\n\r\n")
        assert answer.endswith(b"\r\n\r\n0,1,2,")
        assert b"chunked" not in answer


async def test_requests_sent_while_an_answer_is_made_are_served_after_it() -> None:
    gate = asyncio.Event()

    async def waits(exchange: Exchange) -> None:
        await gate.wait()
        exchange.reply(200, exchange.request.body)

    async with serving(lambda exchange: exchange.run(waits(exchange))) as server:
        reader, writer = await connect(server)
        writer.write(request(body=b"one"))
        await asyncio.sleep(0.05)
        writer.write(request(body=b"two" * 50_000, more=CLOSE))
        await asyncio.sleep(0.05)
        gate.set()
        answer = await asyncio.wait_for(reader.read(), 5)
        assert answer.count(b"HTTP/1.1 200") == 2
        assert answer.endswith(b"two")
        assert server.bodies == 0


# Refusals


def error_of(answer: bytes) -> tuple[int, str]:
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)["error"]["code"]


BAD: dict[str, tuple[int, bytes]] = {
    "no HTTP": (400, b"\x16\x03\x01 hello\r\n\r\n"),
    "an unknown method": (400, b"FROB / HTTP/1.1\r\nhost: x\r\n\r\n"),
    "HTTP/2": (400, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    "a line break in the target": (400, b"GET /a\nb HTTP/1.1\r\nhost: x\r\n\r\n"),
    "a target over the cap": (400, request("/" + "a" * 3000)),
    "too many headers": (400, request(more="".join(f"h{i}: 1\r\n" for i in range(70)))),
    "headers over the cap": (400, request(more=f"h: {'x' * 17000}\r\n")),
    "an endless header": (400, b"GET / HTTP/1.1\r\nh: " + b"x" * 200_000),
    "a space before the colon": (400, request(more="bad : 1\r\n")),
    "a negative length": (400, b"POST / HTTP/1.1\r\ncontent-length: -1\r\n\r\n"),
    "two lengths": (400, b"POST / HTTP/1.1\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab"),
    "a length and chunks": (
        400,
        b"POST / HTTP/1.1\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    ),
    "a chunk size that is no number": (400, b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n"),
    "an upgrade": (400, b"GET / HTTP/1.1\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n"),
    "a body over its route's cap": (413, request("/small", b"x" * 1001)),
    "chunks over the cap": (
        413,
        b"POST /small HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n400\r\n" + b"x" * 1024 + b"\r\n",
    ),
}


@pytest.mark.parametrize("sentence", BAD)
async def test_refused_and_closed_for(sentence: str) -> None:
    status, data = BAD[sentence]
    async with serving() as server:
        assert error_of(await raw(server, data))[0] == status
        assert server.requests == 0


async def test_a_large_declared_body_is_refused_before_it_is_sent() -> None:
    async with serving() as server:
        head = request("/echo", b"", more=CLOSE).replace(b"content-length: 0", b"content-length: 99999999")
        assert error_of(await raw(server, head)) == (413, "http.too_large")


async def test_a_bad_request_behind_a_good_one_leaves_the_good_answer_alone() -> None:
    async with serving() as server:
        answer = await raw(server, request("/later") + b"garbage\r\n\r\n")
        assert answer.endswith(b'"query":""}')


async def test_too_many_requests_ahead_are_refused() -> None:
    async with serving(lambda exchange: None) as server:
        _, writer = await connect(server)
        writer.write(request() * 40)
        await asyncio.sleep(0.05)
        connection = next(iter(server.connections))
        assert not connection._waiting
        assert connection._deaf
        writer.close()


async def test_bodies_held_at_once_are_capped_and_given_back() -> None:
    async with serving(lambda exchange: None, bodies=100_000) as server:
        open_ones = [await connect(server) for _ in range(3)]
        for _, writer in open_ones:
            writer.write(request(body=b"x" * 40_000))
        answers = [asyncio.ensure_future(r.read(10_000)) for r, _ in open_ones]
        done, _ = await asyncio.wait(answers, timeout=5, return_when=asyncio.FIRST_COMPLETED)
        assert [error_of(one.result()) for one in done] == [(503, "http.overloaded")]
        assert server.bodies <= 100_000
        for _, writer in open_ones:
            writer.close()
        async with asyncio.timeout(5):
            while server.bodies:  # noqa: ASYNC110
                await asyncio.sleep(0.01)


async def test_connections_over_the_cap_are_refused_by_name() -> None:
    async with serving(connections=2) as server:
        held = [await connect(server) for _ in range(2)]
        await asyncio.sleep(0.02)
        assert error_of(await raw(server, b"")) == (503, "http.overloaded")
        for _, writer in held:
            writer.close()


async def test_tasks_over_the_cap_are_refused_by_name() -> None:
    gate = asyncio.Event()

    async def waits(exchange: Exchange) -> None:
        await gate.wait()
        exchange.json({})

    async with serving(lambda exchange: exchange.run(waits(exchange)), tasks=1) as server:
        first = asyncio.ensure_future(raw(server, request(more=CLOSE)))
        await asyncio.sleep(0.05)
        assert error_of(await raw(server, request(more=CLOSE))) == (503, "http.overloaded")
        gate.set()
        assert (await first).startswith(b"HTTP/1.1 200")


# Faults


async def test_refusals_and_faults_of_handlers_are_answers_and_the_connection_lives_on() -> None:
    async with serving() as server, aiohttp.ClientSession(f"http://127.0.0.1:{server.port}") as client:
        for path, status, code in [
            ("/refuse", 400, "http.bad_request"),
            ("/fault", 500, "http.internal"),
            ("/afault", 500, "http.internal"),
        ]:
            async with client.get(path) as answer:
                text = await answer.text()
                assert (answer.status, json.loads(text)["error"]["code"]) == (status, code)
                assert "private" not in text
        assert len(server.connections) == 1
        assert len(server.faults) == 2  # type: ignore[attr-defined]


async def test_a_failure_in_the_middle_is_seen_as_a_missing_end() -> None:
    async with serving() as server, aiohttp.ClientSession(f"http://127.0.0.1:{server.port}") as client:
        with pytest.raises(aiohttp.ClientPayloadError):
            async with client.get("/half") as answer:
                await answer.read()


async def test_a_client_that_leaves_cancels_its_task_and_is_told_once() -> None:
    cancelled, aborted = asyncio.Event(), []

    async def waits() -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            cancelled.set()

    def serve(exchange: Exchange) -> None:
        exchange.on_abort = lambda: aborted.append(1)
        exchange.run(waits())

    async with serving(serve) as server:
        _, writer = await connect(server)
        writer.write(request())
        await asyncio.sleep(0.05)
        writer.transport.abort()
        await asyncio.wait_for(cancelled.wait(), 5)
        assert aborted == [1]


async def test_writing_to_a_client_that_left_does_nothing() -> None:
    seen: list[Exchange] = []
    async with serving(seen.append) as server:
        _, writer = await connect(server)
        writer.write(request())
        await asyncio.sleep(0.05)
        writer.transport.abort()
        await asyncio.sleep(0.05)
        (exchange,) = seen
        assert exchange.aborted
        exchange.start(200, "text/plain")
        exchange.write(b"x")
        exchange.finish()
        exchange.reply(200, b"")
        exchange.error(BAD_REQUEST(expected="a", found="b"))


async def test_faults_in_callbacks_are_contained() -> None:
    def serve(exchange: Exchange) -> None:
        exchange.on_abort = lambda: [][0]

    async with serving(serve) as server:
        _, writer = await connect(server)
        writer.write(request())
        await asyncio.sleep(0.05)
        writer.transport.abort()
        await asyncio.sleep(0.05)
        assert [where for where, _ in server.faults] == ["callback"]  # type: ignore[attr-defined]


# Time


async def swept(server: HttpServer, after_s: float) -> None:
    """One sweep as if ``after_s`` had passed."""
    now = asyncio.get_running_loop().time() + after_s
    for connection in list(server.connections):
        connection.sweep(now)


SLOW: dict[str, tuple[bytes, float]] = {
    "a head that never ends": (b"POST /echo HTTP/1.1\r\nhost:", 11),
    "a body that never ends": (request(body=b"x" * 100)[:-50], 31),
}


@pytest.mark.parametrize("sentence", SLOW)
async def test_too_slow_is_refused_by_name(sentence: str) -> None:
    data, after = SLOW[sentence]
    async with serving() as server:
        reader, writer = await connect(server)
        writer.write(data)
        await asyncio.sleep(0.05)
        await swept(server, after - 5)
        assert len(server.connections) == 1
        await swept(server, after)
        assert error_of(await asyncio.wait_for(reader.read(), 5)) == (408, "http.too_slow")
        writer.close()


async def test_an_idle_connection_is_closed_after_its_time() -> None:
    async with serving() as server:
        reader, writer = await connect(server)
        await asyncio.sleep(0.02)
        await swept(server, 60)
        assert len(server.connections) == 1
        await swept(server, 80)
        with contextlib.suppress(ConnectionError):
            assert await asyncio.wait_for(reader.read(), 5) == b""
        writer.close()


async def test_a_silent_handler_is_answered_for() -> None:
    async with serving() as server:
        answer = asyncio.ensure_future(raw(server, request("/silent", more=CLOSE)))
        await asyncio.sleep(0.05)
        await swept(server, 301)
        assert error_of(await answer) == (504, "http.timeout")


async def test_a_reader_that_does_not_read_pauses_the_writer_and_is_dropped() -> None:
    seen: list[Exchange] = []
    drained: list[int] = []

    def serve(exchange: Exchange) -> None:
        seen.append(exchange)
        exchange.on_drain = lambda: drained.append(1)
        exchange.start(200, "text/plain")
        exchange.write(bytes(32 << 20))

    async with serving(serve, buffered=1 << 16) as server:
        reader, writer = await connect(server)
        writer.write(request())
        await asyncio.sleep(0.1)
        assert seen[0].paused
        await swept(server, 30)
        assert len(server.connections) == 1
        received = 0
        while received < 32 << 20:
            received += len(await asyncio.wait_for(reader.read(1 << 20), 5))
        assert drained == [1]
        seen[0].write(bytes(32 << 20))
        await asyncio.sleep(0.1)
        await swept(server, 61)
        await asyncio.sleep(0.05)
        assert not server.connections
        writer.close()


# The end


async def test_draining_finishes_answers_closes_idle_ones_and_takes_no_more() -> None:
    gate = asyncio.Event()

    async def waits(exchange: Exchange) -> None:
        await gate.wait()
        exchange.json({"done": True})

    server = HttpServer(lambda exchange: exchange.run(waits(exchange)), lambda m, t: 100)
    await server.start("127.0.0.1", 0)
    idle_reader, idle = await connect(server)
    busy = asyncio.ensure_future(raw(server, request()))
    await asyncio.sleep(0.05)
    ending = asyncio.ensure_future(server.drain(5))
    assert await asyncio.wait_for(idle_reader.read(), 5) == b""
    with pytest.raises(ConnectionError):
        await connect(server)
    gate.set()
    answer = await busy
    assert b"connection: close" in answer
    assert answer.endswith(b'{"done":true}')
    await ending
    assert not server.connections
    idle.close()


async def test_two_servers_may_share_a_port() -> None:
    one = HttpServer(handler, lambda m, t: 100)
    two = HttpServer(handler, lambda m, t: 100)
    port = await one.start("127.0.0.1", 0, reuse_port=True)
    assert await two.start("127.0.0.1", port, reuse_port=True) == port
    await one.drain(0)
    await two.drain(0)


# Fuzz


async def test_random_damage_to_requests_never_harms_the_server() -> None:
    good = request("/echo", b"hello", more="content-type: text/plain\r\n")
    pick = random.Random(7)
    async with serving(header_s=10) as server:
        for _ in range(150):
            data = bytearray(good * pick.choice([1, 1, 2]))
            for _ in range(pick.randint(1, 6)):
                at = pick.randrange(len(data))
                how = pick.random()
                if how < 0.5:
                    data[at] = pick.randrange(256)
                elif how < 0.75:
                    del data[at : at + pick.randint(1, 20)]
                else:
                    data[at:at] = pick.choice([b"\r\n", b"\0", b"\r\n\r\n", b" ", b":", bytes([pick.randrange(256)])])
                if not data:
                    data = bytearray(b"x")
            reader, writer = await connect(server)
            with contextlib.suppress(ConnectionError):
                writer.write(bytes(data))
                writer.write_eof()
                answer = await asyncio.wait_for(reader.read(), 5)
                assert answer == b"" or answer.startswith(b"HTTP/1.1 ")
            writer.close()
        assert (await raw(server, request("/echo", b"alive", more=CLOSE))).endswith(b"alive")
        assert not server.faults  # type: ignore[attr-defined]
        assert server.bodies == 0
