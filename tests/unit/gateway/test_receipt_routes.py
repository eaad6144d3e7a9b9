"""Receipts through the gateway: it asks the connected workers and hands on what they say."""

from __future__ import annotations

import asyncio
import itertools
import json
from pathlib import Path
from typing import Any

import pytest

from cloister.fabric.ports import NO_RECEIPT, PRUNED
from cloister.gateway import routes
from cloister.wire.announce import Announcement, Kind
from cloister.wire.frames import FrameClient, Incoming
from support.doors import Door, code_of, door

RID = "0x" + "77" * 32


async def get(here: Door, path: str) -> tuple[int, bytes]:
    async with here.http.get(path) as reply:
        return reply.status, await reply.read()


async def echo(incoming: Incoming) -> None:
    """Says which question came."""
    assert incoming.kind == Kind.RECEIPT
    await incoming.send(json.dumps({"asked": incoming.payload.hex()}).encode())


@pytest.mark.parametrize(("tail", "kind"), [("", "01"), ("/proof", "02")])
async def test_the_worker_is_asked_for_the_receipt_or_its_proof(tail: str, kind: str, tmp_path: Path) -> None:
    async with door(tmp_path, echo) as here:
        await here.linked()
        status, body = await get(here, f"/v1/receipts/{RID}{tail}")
        assert (status, json.loads(body)) == (200, {"asked": kind + "77" * 32})


async def test_the_path_between_two_sizes_is_asked_for_with_both(tmp_path: Path) -> None:
    async with door(tmp_path, echo) as here:
        await here.linked()
        status, body = await get(here, f"/v1/receipts/{RID}/consistency?from=3&to=300")
        asked = "03" + "77" * 32 + (3).to_bytes(8, "big").hex() + (300).to_bytes(8, "big").hex()
        assert (status, json.loads(body)) == (200, {"asked": asked})
        for wrong in ("", "?from=0&to=3", "?from=3", "?to=3&from=1", "?from=03&to=4", "?from=-1&to=4", "?from=1&to=x"):
            status, body = await get(here, f"/v1/receipts/{RID}/consistency{wrong}")
            assert (status, code_of(body)) == (404, "gateway.no_route"), wrong


async def test_a_worker_s_refusal_keeps_its_name_and_status(tmp_path: Path) -> None:
    async def refuse(incoming: Incoming) -> None:
        raise NO_RECEIPT(expected="a receipt", found="none")

    async with door(tmp_path, refuse) as here:
        await here.linked()
        status, body = await get(here, f"/v1/receipts/{RID}")
        assert (status, code_of(body)) == (404, "fabric.no_receipt")


async def test_of_several_refusals_the_one_that_says_more_is_given(tmp_path: Path) -> None:
    said: list[Any] = [NO_RECEIPT, PRUNED, NO_RECEIPT, NO_RECEIPT]

    async def refuse(incoming: Incoming) -> None:
        raise said.pop(0)(expected="a receipt", found="none")

    async with door(tmp_path, refuse) as here:
        socket, clients = here.gateway.config.workers, []
        for number in range(3):
            said_by = Announcement(bytes([number]) * 20, bytes([number]) * 32, ())
            clients.append(FrameClient(socket, handler=refuse, announce=said_by.encode))
            clients[-1].start()
        while len(here.gateway.workers.all()) < 3:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        status, body = await get(here, f"/v1/receipts/{RID}")
        assert (status, code_of(body)) == (410, "fabric.receipt_pruned")
        for one in clients:
            await one.close()


async def test_an_answer_without_end_is_cut_off(tmp_path: Path) -> None:
    async def endless(incoming: Incoming) -> None:
        for _ in range(4):
            await incoming.send(bytes(1 << 16))

    async with door(tmp_path, endless) as here:
        await here.linked()
        status, _ = await get(here, f"/v1/receipts/{RID}")
        assert status >= 400


async def test_questions_at_once_have_a_cap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = asyncio.Event()

    async def slow(incoming: Incoming) -> None:
        await gate.wait()
        await incoming.send(b"{}")

    monkeypatch.setattr(routes, "_MAX_RECEIPTS_AT_ONCE", 2)
    async with door(tmp_path, slow) as here:
        await here.linked()
        asked: list[Any] = [asyncio.ensure_future(get(here, f"/v1/receipts/{RID}")) for _ in range(5)]
        refused = [await first for first in itertools.islice(asyncio.as_completed(asked), 3)]
        assert {code_of(body) for _, body in refused} == {"gateway.overloaded"}
        gate.set()
        statuses = sorted([(await one)[0] for one in asked])
        assert statuses == [200, 200, 503, 503, 503]
