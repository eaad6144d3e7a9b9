"""The gateway as the client sees it: caps, digests, foreign errors, hostile answers."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from aiohttp import web

from cloister.client import gateway as door
from cloister.client.gateway import BAD_ANSWER, BAD_URL, BROKEN_OFF, UNREACHABLE, WRONG_BLOB, Gateway, NotOpened
from cloister.core.errors import CloisterError

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Door:
    """A server whose every route answers with ``answer``."""

    def __init__(self) -> None:
        self.answer: Answer = self.nothing
        self.url = ""

    async def nothing(self, request: web.Request) -> web.StreamResponse:
        return web.Response()

    def body(self, data: bytes, status: int = 200, kind: str = "application/json") -> None:
        """Answer with these bytes."""

        async def answer(request: web.Request) -> web.StreamResponse:
            return web.Response(body=data, status=status, content_type=kind)

        self.answer = answer


@pytest.fixture
async def server() -> AsyncIterator[Door]:
    made = Door()

    async def handle(request: web.Request) -> web.StreamResponse:
        return await made.answer(request)

    app = web.Application(client_max_size=1 << 26)
    app.router.add_route("*", "/{path:.*}", handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    made.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield made
    await runner.cleanup()


async def code_of(work: Any) -> str:
    with pytest.raises(CloisterError) as caught:
        await work
    return caught.value.code


@pytest.mark.parametrize("url", ["", "ftp://x", "127.0.0.1:80", "http://", "http://me:word@host", "http://h?x=1"])
def test_addresses_that_are_no_gateway(url: str) -> None:
    with pytest.raises(CloisterError) as caught:
        Gateway(url)
    assert caught.value.code == BAD_URL.code
    assert "word" not in str(caught.value)


GARBAGE: dict[str, bytes] = {
    "nothing": b"",
    "a list": b"[]",
    "text": b"hello",
    "deep nesting": b"[" * 100_000,
    "half an object": b'{"seats": [',
    "binary": bytes(range(256)),
}


@pytest.mark.parametrize("what", GARBAGE)
async def test_garbage_is_refused_by_name(what: str, server: Door) -> None:
    server.body(GARBAGE[what])
    gateway = Gateway(server.url)
    assert await code_of(gateway.checkpoint()) == BAD_ANSWER.code
    assert await code_of(gateway.seats(bytes(32))) == BAD_ANSWER.code
    assert await code_of(gateway.status()) == BAD_ANSWER.code
    assert await code_of(gateway.evidence(bytes(20), bytes(32))) == BAD_ANSWER.code
    server.body(GARBAGE[what], status=500)
    assert await code_of(gateway.checkpoint()) == BAD_ANSWER.code
    await gateway.close()


async def test_seats_are_a_list_and_only_the_first_are_looked_at(server: Door) -> None:
    gateway = Gateway(server.url)
    server.body(b'{"seats": 1}')
    assert await code_of(gateway.seats(bytes(32))) == BAD_ANSWER.code
    server.body(b'{"seats": [' + b",".join([b"1"] * 1000) + b"]}")
    assert len(await gateway.seats(bytes(32))) == 64
    await gateway.close()


async def test_an_error_object_becomes_its_error(server: Door) -> None:
    gateway = Gateway(server.url)
    server.body(
        b'{"error": {"code": "gateway.no_worker", "check": "c", "expected": "e", "found": "f", "remedy": "r"}}', 503
    )
    with pytest.raises(CloisterError) as caught:
        await gateway.checkpoint()
    assert (caught.value.code, caught.value.remedy, caught.value.status) == ("gateway.no_worker", "r", 503)
    await gateway.close()


async def test_sizes_are_capped(server: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door, "MAX_JSON", 1000)
    monkeypatch.setattr(door, "MAX_ANSWER", 1000)
    gateway = Gateway(server.url)
    server.body(b'{"a": "' + b"x" * 2000 + b'"}')
    assert await code_of(gateway.status()) == BAD_ANSWER.code
    server.body(b"x" * (2 << 20))
    assert await code_of(gateway.network()) == BAD_ANSWER.code
    server.body(b"x" * 2000, kind=door.SEALED)

    async def read() -> None:
        async with gateway.call(bytes(32), bytes(32), b"") as answer:
            assert not isinstance(answer, NotOpened)
            async for _ in answer:
                pass

    assert await code_of(read()) == BAD_ANSWER.code
    await gateway.close()


async def test_blobs_are_checked_against_their_names(server: Door) -> None:
    gateway = Gateway(server.url)
    server.body(b"data")
    digest = hashlib.sha256(b"data").digest()
    assert await gateway.get_blob(digest) == b"data"
    assert await code_of(gateway.get_blob(bytes(32))) == WRONG_BLOB.code
    server.body(b'{"digest": "0x' + digest.hex().encode() + b'"}')
    assert await gateway.put_blob(b"data") == digest
    assert await code_of(gateway.put_blob(b"other")) == WRONG_BLOB.code
    server.body(b'{"digest": 5}')
    assert await code_of(gateway.put_blob(b"data")) == "encoding.hex"
    await gateway.close()


async def test_redirects_are_not_followed(server: Door) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        return web.Response(status=302, headers={"location": "http://127.0.0.1:1/"})

    server.answer = answer
    gateway = Gateway(server.url)
    assert await code_of(gateway.network()) == BAD_ANSWER.code
    async with gateway.call(bytes(32), bytes(32), b"") as found:
        assert isinstance(found, NotOpened)
        assert found.error.code == BAD_ANSWER.code
    await gateway.close()


async def test_silence_and_closed_doors_have_names(server: Door) -> None:
    async def silent(request: web.Request) -> web.StreamResponse:
        await asyncio.sleep(30)
        return web.Response()

    async def cut(request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    server.answer = silent
    gateway = Gateway(server.url, timeout_s=0.05)
    assert await code_of(gateway.status()) == BROKEN_OFF.code
    server.answer = cut
    assert await code_of(gateway.status()) == BROKEN_OFF.code
    await gateway.close()
    nobody = Gateway("http://127.0.0.1:1", timeout_s=1)
    assert await code_of(nobody.status()) == UNREACHABLE.code
    await nobody.close()


async def test_no_cookie_is_kept(server: Door) -> None:
    seen: list[str | None] = []

    async def answer(request: web.Request) -> web.StreamResponse:
        seen.append(request.headers.get("cookie"))
        response = web.json_response({})
        response.set_cookie("track", "you")
        return response

    server.answer = answer
    gateway = Gateway(server.url)
    await gateway.status()
    await gateway.status()
    assert seen == [None, None]
    await gateway.close()
