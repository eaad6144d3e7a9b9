"""Sealed calls through a real gateway: they arrive whole, stream, fail by name; it sees ciphertext only."""

from __future__ import annotations

import asyncio
import contextlib
import os
from pathlib import Path

import aiohttp
import pytest

from cloister.core.encoding.hexes import to_hex
from cloister.core.envelope.client import seal_once
from cloister.core.envelope.opener import Body, Event, Failed, Final, Head
from cloister.core.errors import CloisterError
from cloister.wire.announce import Kind, split_call
from cloister.wire.connection import WINDOW
from cloister.wire.frames import Incoming
from support.doors import SERVED, Door, FakeWorker, code_of, door
from support.sealed import AGENT, World, answer, head


async def test_a_sealed_call_goes_through_and_opens_at_both_ends(tmp_path: Path) -> None:
    async with door(tmp_path) as here:
        for number in range(3):
            sealed = here.world.seal(b"question %d" % number)
            status, kind, data = await here.call(sealed.data)
            assert (status, kind) == (200, SERVED)
            events = sealed.opener.feed(data)
            sealed.opener.close()
            assert [type(e) for e in events] == [Head, Body, Final]
            assert isinstance(events[1], Body)
            assert events[1].data == b"you said question %d" % number
        assert here.gateway.calls.counts.calls == 3
        assert here.gateway.calls.counts.in_flight == 0


async def test_one_shot_calls_go_through_too(tmp_path: Path) -> None:
    async with door(tmp_path) as here:
        sealed = seal_once(here.world.certificate, here.world.psk, head(), b"once", os.urandom)
        _, _, data = await here.call(sealed.data)
        assert isinstance(sealed.opener.feed(data)[-1], Final)


async def test_many_calls_at_once_keep_apart(tmp_path: Path) -> None:
    async with door(tmp_path) as here:
        calls = [here.world.seal(b"%d" % i) for i in range(64)]
        replies = await asyncio.gather(*(here.call(c.data) for c in calls))
        for i, (sealed, (_, _, data)) in enumerate(zip(calls, replies, strict=True)):
            body = sealed.opener.feed(data)[1]
            assert isinstance(body, Body)
            assert body.data == b"you said %d" % i


async def test_what_passes_through_holds_no_plaintext(tmp_path: Path) -> None:
    async with door(tmp_path) as here:
        sealed = here.world.seal(b"private question", path="/private-path")
        _, _, data = await here.call(sealed.data)
        for passed in (here.worker.seen[0], data):
            assert b"private" not in passed


async def test_a_gateway_that_swaps_two_answers_is_noticed(tmp_path: Path) -> None:
    async with door(tmp_path) as here:
        one, two = here.world.seal(b"one"), here.world.seal(b"two")
        _, _, first = await here.call(one.data)
        _, _, second = await here.call(two.data)
        with pytest.raises(CloisterError, match=r"envelope\.not_authentic"):
            one.opener.feed(second)
        with pytest.raises(CloisterError, match=r"envelope\.not_authentic"):
            two.opener.feed(first)


async def test_a_gateway_that_repeats_a_request_gets_a_refusal(tmp_path: Path) -> None:
    async with door(tmp_path) as here:
        sealed = here.world.seal()
        await here.call(sealed.data)
        status, kind, data = await here.call(sealed.data)
        assert (status, kind, code_of(data)) == (409, "application/json", "envelope.replay")


async def test_a_sealed_refusal_passes_as_a_sealed_answer(tmp_path: Path) -> None:
    async def late(incoming: Incoming) -> None:
        _, record = split_call(incoming.payload)
        from cloister.core.envelope.server import SealedRefusalError

        try:
            here.world.open(record)
        except SealedRefusalError as refusal:
            await incoming.send(refusal.sealed)

    async with door(tmp_path, late) as here:
        sealed = here.world.seal(deadline_ms=1)
        status, _, data = await here.call(sealed.data)
        (event,) = sealed.opener.feed(data)
        assert status == 200
        assert isinstance(event, Failed)
        assert event.error.code == "envelope.deadline"


# Streaming


async def test_an_answer_streams_while_it_is_made(tmp_path: Path) -> None:
    step = asyncio.Event()

    async def slow(incoming: Incoming) -> None:
        _, record = split_call(incoming.payload)
        r = here.world.open(record).responder
        await incoming.send(r.head(200, (), 1))
        for part in (b"first", b"second"):
            await incoming.send(r.chunk(part))
            await step.wait()
        await incoming.send(r.final(b"{}", b"\1" * 65))

    async with door(tmp_path, slow) as here:
        sealed = here.world.seal()
        async with post(here, sealed.data) as reply:
            assert reply.headers["transfer-encoding"] == "chunked"
            events: list[Event] = []
            while not any(isinstance(e, Body) for e in events):
                events += sealed.opener.feed(await asyncio.wait_for(reply.content.readany(), 5))
            assert not step.is_set()
            step.set()
            async for data in reply.content.iter_any():
                events += sealed.opener.feed(data)
        sealed.opener.close()
        assert [e.data for e in events if isinstance(e, Body)] == [b"first", b"second"]


def post(here: Door, body: bytes) -> contextlib.AbstractAsyncContextManager[aiohttp.ClientResponse]:
    target = f"/v1/call/{to_hex(AGENT)}?boot={to_hex(here.world.boot)}"
    return here.http.post(target, data=body, headers={"content-type": SERVED})


async def test_a_large_answer_arrives_whole_and_a_caller_that_does_not_read_stops_the_worker(tmp_path: Path) -> None:
    body = os.urandom(24 << 20)
    sent = 0

    async def large(incoming: Incoming) -> None:
        nonlocal sent
        _, record = split_call(incoming.payload)
        stream = answer(here.world.open(record), body)
        for at in range(0, len(stream), WINDOW):
            await incoming.send(stream[at : at + WINDOW])
            sent += WINDOW

    async with door(tmp_path, large) as here:
        sealed = here.world.seal()
        async with post(here, sealed.data) as reply:
            before = -1
            while sent != before:
                before = sent
                await asyncio.sleep(0.1)
            assert sent < len(body)
            events: list[Event] = []
            async for data in reply.content.iter_any():
                events += sealed.opener.feed(data)
        sealed.opener.close()
        assert b"".join(e.data for e in events if isinstance(e, Body)) == body


# Failures


async def test_a_worker_that_goes_before_it_answers_is_named(tmp_path: Path) -> None:
    async def dies(incoming: Incoming) -> None:
        incoming.connection.close()
        await asyncio.sleep(3600)

    async with door(tmp_path, dies) as here:
        status, _, data = await here.call(here.world.seal().data)
        assert (status, code_of(data)) == (502, "gateway.worker_gone")
        assert here.gateway.calls.counts.broken == 1


async def test_a_worker_that_goes_in_the_middle_leaves_a_truncated_answer(tmp_path: Path) -> None:
    async def dies(incoming: Incoming) -> None:
        _, record = split_call(incoming.payload)
        stream = answer(here.world.open(record), b"x" * 1000)
        await incoming.send(stream[:600])
        await asyncio.sleep(0.05)
        incoming.connection.close()
        await asyncio.sleep(3600)

    async with door(tmp_path, dies) as here:
        sealed = here.world.seal()
        with pytest.raises(aiohttp.ClientPayloadError):
            async with post(here, sealed.data) as reply:
                async for data in reply.content.iter_any():
                    sealed.opener.feed(data)
        with pytest.raises(CloisterError, match=r"envelope\.truncated"):
            sealed.opener.close()


async def test_a_caller_that_leaves_cancels_the_worker(tmp_path: Path) -> None:
    cancelled = asyncio.Event()

    async def waits(incoming: Incoming) -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            cancelled.set()

    async with door(tmp_path, waits) as here:
        asked = asyncio.ensure_future(here.call(here.world.seal().data))
        await asyncio.sleep(0.1)
        asked.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asked
        await asyncio.wait_for(cancelled.wait(), 5)
        assert here.gateway.calls.counts.in_flight == 0


async def test_a_fault_of_the_worker_is_an_answer_without_its_text(tmp_path: Path) -> None:
    async def faulty(incoming: Incoming) -> None:
        raise KeyError("private detail")

    async with door(tmp_path, faulty) as here:
        status, _, data = await here.call(here.world.seal().data)
        assert (status, code_of(data)) == (500, "frames.internal")
        assert b"private" not in data


async def test_an_unknown_boot_is_named(tmp_path: Path) -> None:
    async with door(tmp_path) as here:
        status, _, data = await here.call(here.world.seal().data, boot=b"\x99" * 32)
        assert (status, code_of(data)) == (503, "gateway.no_worker")


async def test_a_worker_that_left_is_no_longer_offered_and_one_that_returns_is(tmp_path: Path) -> None:
    async with door(tmp_path) as here:
        await here.worker.client.close()
        async with asyncio.timeout(5):
            while here.gateway.workers.all():  # noqa: ASYNC110
                await asyncio.sleep(0.005)
        status, _, data = await here.call(here.world.seal().data)
        assert (status, code_of(data)) == (503, "gateway.no_worker")
        again = FakeWorker(here.gateway.config.workers, here.world)
        again.client.start()
        await here.linked()
        assert (await here.call(here.world.seal().data))[0] == 200
        await again.client.close()


async def test_calls_over_the_cap_are_refused_and_room_comes_back(tmp_path: Path) -> None:
    gate = asyncio.Event()

    async def waits(incoming: Incoming) -> None:
        await gate.wait()
        incoming.end(b"x")

    async with door(tmp_path, waits, max_calls=2) as here:
        held = [asyncio.ensure_future(here.call(here.world.seal().data)) for _ in range(2)]
        async with asyncio.timeout(5):
            while here.gateway.calls.counts.in_flight < 2:  # noqa: ASYNC110
                await asyncio.sleep(0.005)
        status, _, data = await here.call(here.world.seal().data)
        assert (status, code_of(data)) == (503, "gateway.overloaded")
        gate.set()
        await asyncio.gather(*held)
        assert (await here.call(here.world.seal().data))[0] == 200


async def test_a_call_over_its_size_is_refused_before_it_is_read(tmp_path: Path) -> None:
    async with door(tmp_path, max_call=10_000) as here:
        status, _, data = await here.call(here.world.seal(b"x" * 10_000).data)
        assert (status, code_of(data)) == (413, "http.too_large")
        assert (await here.call(here.world.seal(b"x" * 5_000).data))[0] == 200


BAD_TARGETS: dict[str, str] = {
    "no boot": f"/v1/call/0x{'22' * 32}",
    "a short agent": f"/v1/call/0x22?boot=0x{'33' * 32}",
    "upper case": f"/v1/call/0x{'AA' * 32}?boot=0x{'33' * 32}",
    "more query": f"/v1/call/0x{'22' * 32}?boot=0x{'33' * 32}&x=1",
}


@pytest.mark.parametrize("sentence", BAD_TARGETS)
async def test_bad_calls_are_named(sentence: str, tmp_path: Path) -> None:
    async with (
        door(tmp_path) as here,
        here.http.post(BAD_TARGETS[sentence], data=b"x", headers={"content-type": SERVED}) as reply,
    ):
        assert (reply.status, code_of(await reply.read())) == (400, "gateway.bad_call")


async def test_another_content_type_is_refused(tmp_path: Path) -> None:
    target = f"/v1/call/{to_hex(AGENT)}?boot=0x{'33' * 32}"
    async with door(tmp_path) as here, here.http.post(target, data=b"x") as reply:
        assert code_of(await reply.read()) == "gateway.bad_call"


async def test_another_worker_that_takes_the_call_opens_nothing(tmp_path: Path) -> None:
    async with door(tmp_path) as here:
        thief = World()

        async def steals(incoming: Incoming) -> None:
            if incoming.kind == Kind.CALL:
                _, record = split_call(incoming.payload)
                thief.server.open_request(AGENT, record, 1, lambda c, i: here.world.psk.secret)

        other = FakeWorker(here.gateway.config.workers, thief, steals)
        other.client.start()
        await other.client.connected(5)
        async with asyncio.timeout(5):
            while len(here.gateway.frames.connections) < 2:  # noqa: ASYNC110
                await asyncio.sleep(0.005)
        await asyncio.sleep(0.05)
        status, _, data = await here.call(here.world.seal().data)
        assert (status, code_of(data)) == (421, "envelope.certificate_unknown")
        await other.client.close()
