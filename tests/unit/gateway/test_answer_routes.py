"""Answers that wait for somebody who pays: the gateway asks the connected workers and hands on what they say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cloister.wire.announce import Kind
from cloister.wire.frames import Incoming
from cloister.worker.anchors import NOT_WAITING
from support.doors import Door, code_of, door

AGENT = "0x" + "a9" * 32


async def get(here: Door, path: str) -> tuple[int, bytes]:
    async with here.http.get(path) as reply:
        return reply.status, await reply.read()


async def echo(incoming: Incoming) -> None:
    """Says which question came."""
    assert incoming.kind == Kind.ANSWER
    await incoming.send(json.dumps({"asked": incoming.payload.hex()}).encode())


async def refuse(incoming: Incoming) -> None:
    raise NOT_WAITING(expected="an answer", found="none")


async def test_the_worker_is_asked_by_chain_agent_and_index(tmp_path: Path) -> None:
    async with door(tmp_path, echo) as here:
        await here.linked()
        status, body = await get(here, f"/v1/answers/{AGENT}/3?chain=31337")
        asked = (31337).to_bytes(8, "big") + b"\xa9" * 32 + (3).to_bytes(8, "big")
        assert (status, json.loads(body)) == (200, {"asked": asked.hex()})


async def test_a_worker_without_the_answer_says_so_by_name(tmp_path: Path) -> None:
    async with door(tmp_path, refuse) as here:
        await here.linked()
        status, body = await get(here, f"/v1/answers/{AGENT}/3?chain=7")
        assert (status, code_of(body)) == (404, "worker.no_answer_waits")


@pytest.mark.parametrize(
    "path",
    [
        f"/v1/answers/{AGENT}/0?chain=1",
        f"/v1/answers/{AGENT}/3",
        f"/v1/answers/{AGENT}/3?chain=0",
        f"/v1/answers/{AGENT}/-3?chain=1",
        f"/v1/answers/{AGENT}/{'9' * 17}?chain=1",
        f"/v1/answers/{AGENT[:-2]}/3?chain=1",
    ],
)
async def test_other_questions_are_no_route(tmp_path: Path, path: str) -> None:
    async with door(tmp_path, echo) as here:
        await here.linked()
        status, body = await get(here, path)
        assert (status, code_of(body)) == (404, "gateway.no_route")
