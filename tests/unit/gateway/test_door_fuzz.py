"""The whole gateway under damaged bytes on both of its doors: callers' HTTP and the workers' socket."""

from __future__ import annotations

import asyncio
import contextlib
import random
from pathlib import Path

from cloister.core.encoding.hexes import to_hex
from cloister.core.envelope.opener import Final
from cloister.core.errors import CloisterError
from cloister.wire.connection import HEADER, Type
from support.doors import SERVED, Door, door
from support.sealed import AGENT


def http_call(here: Door, record: bytes) -> bytes:
    target = f"/v1/call/{to_hex(AGENT)}?boot={to_hex(here.world.boot)}"
    head = f"POST {target} HTTP/1.1\r\nhost: x\r\ncontent-type: {SERVED}\r\ncontent-length: {len(record)}\r\n\r\n"
    return head.encode() + record


def damaged(data: bytes, pick: random.Random) -> bytes:
    out = bytearray(data)
    for _ in range(pick.randint(1, 5)):
        at = pick.randrange(len(out))
        if pick.random() < 0.6:
            out[at] ^= 1 << pick.randrange(8)
        elif pick.random() < 0.5:
            del out[at : at + pick.randint(1, 30)]
        else:
            out[at:at] = pick.choice([b"\r\n", b"\0", b"\xff" * 9, b"GET / HTTP/1.1\r\n\r\n"])
        if not out:
            return b"x"
    return bytes(out)


async def good_call(here: Door) -> None:
    sealed = here.world.seal(b"still here")
    _, _, data = await here.call(sealed.data)
    assert isinstance(sealed.opener.feed(data)[-1], Final)


async def test_damaged_calls_never_harm_the_gateway_or_the_worker(tmp_path: Path) -> None:
    pick = random.Random(11)
    async with door(tmp_path) as here:
        for _ in range(80):
            data = damaged(http_call(here, here.world.seal(b"x" * pick.randrange(300)).data), pick)
            reader, writer = await asyncio.open_connection("127.0.0.1", here.gateway.http.port)
            with contextlib.suppress(ConnectionError, TimeoutError):
                writer.write(data)
                await asyncio.wait_for(reader.read(1), 0.02)
            writer.close()
        await good_call(here)
        async with asyncio.timeout(5):
            while here.gateway.calls.counts.in_flight:  # noqa: ASYNC110
                await asyncio.sleep(0.01)


async def test_damaged_records_come_back_as_named_refusals(tmp_path: Path) -> None:
    pick = random.Random(12)
    async with door(tmp_path) as here:
        for _ in range(60):
            record = damaged(here.world.seal(b"hello").data, pick)
            status, kind, _ = await here.call(record)
            assert status >= 400
            assert kind == "application/json"
        await good_call(here)


async def test_damaged_frames_on_the_workers_socket_end_that_connection_only(tmp_path: Path) -> None:
    pick = random.Random(13)
    async with door(tmp_path) as here:
        said = here.worker.announcement()
        frame = HEADER.pack(len(said), 0, Type.ANNOUNCE) + said
        for _ in range(60):
            reader, writer = await asyncio.open_unix_connection(str(here.gateway.config.workers))
            with contextlib.suppress(ConnectionError, TimeoutError):
                writer.write(damaged(frame, pick))
                await asyncio.wait_for(reader.read(1), 0.01)
            writer.close()
        async with asyncio.timeout(5):
            while len(here.gateway.frames.connections) > 1:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        await again(here)


async def again(here: Door) -> None:
    """A stranger may have announced our boot and left: the worker says again that it is here."""
    here.worker.client.announce_again()
    await here.linked()
    await good_call(here)


async def test_a_worker_that_answers_with_damaged_streams_is_caught_by_the_caller(tmp_path: Path) -> None:
    pick = random.Random(14)
    async with door(tmp_path) as here:
        for _ in range(40):
            sealed = here.world.seal(b"hello")
            _, _, data = await here.call(sealed.data)
            broken = damaged(data, pick)
            if broken == data:
                continue
            caught = False
            try:
                sealed.opener.feed(broken)
                sealed.opener.close()
            except CloisterError:
                caught = True
            assert caught
