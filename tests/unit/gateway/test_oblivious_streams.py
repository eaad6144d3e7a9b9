"""Oblivious answers in chunks through a real relay and a real gateway: passed on as they come, at the reader's pace."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import aiohttp
import pytest

from cloister.core.encoding.hexes import to_hex
from cloister.core.envelope import ohttp
from cloister.core.envelope.oblivious_client import ObliviousRequest
from cloister.core.envelope.opener import Body, Failed, Head
from cloister.core.envelope.server import OpenRequest, SealedRefusalError
from cloister.core.errors import CloisterError
from cloister.relay import Relay
from cloister.wire.announce import Kind, split_call
from cloister.wire.exchange import HttpLimits
from cloister.wire.frames import Incoming
from support.doors import Door, door
from support.oblivious_kit import RECEIPT, Oblivious, answered, good, told
from support.sealed import AGENT, NOW

Serve = Callable[[Incoming, OpenRequest], Awaitable[None]]


async def whole(incoming: Incoming, request: OpenRequest) -> None:
    """A worker that answers at once."""
    await incoming.send(answered(request, b"you said " + request.body))


class Scene:
    """A gateway, a worker that streams behind it, and a relay before it. ``work`` is what the worker does."""

    def __init__(self) -> None:
        self.world = Oblivious(chunked=True)
        self.work: Serve = whole
        self.kinds: list[int] = []
        self.ended = asyncio.Event()
        self.door: Door
        self.relay: Relay
        self.session: aiohttp.ClientSession
        self.urls: tuple[str, str]

    async def serve(self, incoming: Incoming) -> None:
        """The worker's end."""
        self.kinds.append(incoming.kind)
        _, data = split_call(incoming.payload)
        chunked = incoming.kind == Kind.OBLIVIOUS_CHUNKED
        try:
            request = self.world.door.open_request(data, NOW, self.world.held, chunked=chunked)
            await self.work(incoming, request)
        except SealedRefusalError as refusal:
            await incoming.send(refusal.sealed)
        finally:
            self.ended.set()

    def post(
        self, sealed: ObliviousRequest, url: str, kind: str = ohttp.CHUNKED_REQUEST_TYPE
    ) -> aiohttp.client._RequestContextManager:
        """One call, not read yet."""
        target = f"{url}/v1/oblivious/{to_hex(AGENT)}?boot={to_hex(self.door.world.boot)}"
        return self.session.post(target, data=sealed.data, headers={"content-type": kind})


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    made = Scene()
    async with door(tmp_path, made.serve) as made.door, aiohttp.ClientSession() as made.session:
        gateway = str(made.door.http._base_url).rstrip("/")
        made.relay = Relay(gateway)
        port = await made.relay.start("127.0.0.1", 0)
        made.urls = (gateway, f"http://127.0.0.1:{port}")
        try:
            yield made
        finally:
            await made.relay.close()


async def test_both_forms_pass_and_each_has_its_content_type(scene: Scene) -> None:
    for url in scene.urls:
        sealed = scene.world.seal(b"question")
        async with scene.post(sealed, url) as reply:
            assert (reply.status, reply.content_type) == (200, "message/ohttp-chunked-res")
            assert good(sealed, await reply.read()).body == b"you said question"
    assert set(scene.kinds) == {Kind.OBLIVIOUS_CHUNKED}
    plain = Oblivious()
    scene.world = plain
    sealed = plain.seal(b"question")
    async with scene.post(sealed, scene.urls[1], ohttp.REQUEST_TYPE) as reply:
        assert reply.content_type == "message/ohttp-res"
        assert good(sealed, await reply.read()).body == b"you said question"
    assert scene.kinds[-1] == Kind.OBLIVIOUS
    assert scene.door.gateway.calls.counts.in_flight == 0


async def test_a_piece_is_read_before_the_next_one_is_made(scene: Scene) -> None:
    """The worker goes on only when the caller has what came before: nobody on the way holds anything back."""
    read = asyncio.Queue[None]()

    async def stepwise(incoming: Incoming, request: OpenRequest) -> None:
        responder = request.responder
        await incoming.send(responder.head(200, (), 7))
        for piece in (b"one", b"two", b"three"):
            await read.get()
            await incoming.send(responder.chunk(piece))
        await read.get()
        await incoming.send(responder.final(RECEIPT, bytes(65)))

    scene.work = stepwise
    for url in scene.urls:
        sealed = scene.world.seal()
        seen: list[object] = []
        async with scene.post(sealed, url) as reply:
            async for data in reply.content.iter_any():
                for event in sealed.opener.feed(data):
                    seen.append(event)
                    read.put_nowait(None)
        assert seen == [Head(200, (), 7), Body(b"one"), Body(b"two"), Body(b"three")]
        assert len(sealed.opener.close()) == 1


async def test_a_worker_that_goes_in_between_leaves_a_cut_answer(scene: Scene) -> None:
    async def leaving(incoming: Incoming, request: OpenRequest) -> None:
        await incoming.send(request.responder.head(200, (), 7) + request.responder.chunk(b"half"))
        incoming.connection.close()

    scene.work = leaving
    sealed = scene.world.seal()
    got = bytearray()
    with pytest.raises(aiohttp.ClientPayloadError):
        async with scene.post(sealed, scene.urls[1]) as reply:
            async for data in reply.content.iter_any():
                got += data
    with pytest.raises(CloisterError) as caught:
        told(sealed, bytes(got))
    assert caught.value.code == "ohttp.truncated"


async def test_a_caller_that_leaves_ends_the_workers_work(scene: Scene) -> None:
    stopped = asyncio.Event()

    async def endless(incoming: Incoming, request: OpenRequest) -> None:
        try:
            await incoming.send(request.responder.head(200, (), 7))
            while True:
                await incoming.send(request.responder.chunk(bytes(1000)))
                await asyncio.sleep(0.01)
        finally:
            stopped.set()

    scene.work = endless
    for url in scene.urls:
        stopped.clear()
        async with scene.post(scene.world.seal(), url) as reply:
            assert await reply.content.readany()
            reply.close()
        async with asyncio.timeout(20):
            await stopped.wait()
    async with asyncio.timeout(20):
        while scene.door.gateway.calls.counts.in_flight:  # noqa: ASYNC110 - a counter has no event
            await asyncio.sleep(0.01)


async def test_who_reads_slowly_slows_the_worker_and_loses_nothing(scene: Scene) -> None:
    """The worker makes pieces until the relay's caller is full; only then the caller reads."""
    full = asyncio.Event()
    body = bytes(range(256)) * 256
    scene.relay._http.limits = HttpLimits(buffered=1 << 14)

    async def much(incoming: Incoming, request: OpenRequest) -> None:
        responder, sent = request.responder, 0
        await incoming.send(responder.head(200, (), 7))
        while not full.is_set() or sent < 8:
            await incoming.send(responder.chunk(body))
            sent += 1
            if any(one.paused for one in scene.relay._http.connections):
                full.set()
        await incoming.send(responder.final(RECEIPT, bytes(65)))

    scene.work = much
    sealed = scene.world.seal()
    async with scene.post(sealed, scene.urls[1]) as reply:
        async with asyncio.timeout(30):
            await full.wait()
        found = good(sealed, await reply.read())
    assert len(found.body) >= 8 * len(body)
    assert found.body == body * (len(found.body) // len(body))


async def test_an_answer_over_the_relays_cap_is_cut(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cloister.relay.MAX_PLAIN", 5000)

    async def much(incoming: Incoming, request: OpenRequest) -> None:
        await incoming.send(request.responder.head(200, (), 7))
        while True:
            await incoming.send(request.responder.chunk(bytes(4000)))

    scene.work = much
    sealed = scene.world.seal()
    with pytest.raises(aiohttp.ClientError):
        async with scene.post(sealed, scene.urls[1]) as reply:
            await reply.read()
    async with asyncio.timeout(20):
        await scene.ended.wait()


async def test_a_refusal_in_the_seal_passes_as_an_answer_and_one_before_it_as_a_problem(scene: Scene) -> None:
    late = scene.world.seal(deadline_ms=NOW - 1)
    async with scene.post(late, scene.urls[1]) as reply:
        assert (reply.status, reply.content_type) == (200, "message/ohttp-chunked-res")
        found = told(late, await reply.read())
    assert isinstance(found, Failed)
    assert found.error.code == "envelope.deadline"
    sealed = scene.world.seal()
    for kind, code in ((ohttp.REQUEST_TYPE, "ohttp.not_authentic"), ("text/plain", "gateway.bad_call")):
        async with scene.post(sealed, scene.urls[1], kind) as reply:
            assert reply.content_type == "application/problem+json"
            assert json.loads(await reply.read())["error"]["code"] == code
