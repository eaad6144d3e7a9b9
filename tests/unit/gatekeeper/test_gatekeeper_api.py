"""The HTTP face: every failure is an error object with a stable code, whatever comes in."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from cloister.core.encoding.statements import Checkpoint, HeartBeat
from cloister.core.errors import REGISTRY
from cloister.devnet.layout import free_ports
from cloister.wire.messages import Info, Shown, SignedBy
from support.gatekeepers import Seat, World, policy, sit, turn_all

ZERO = "0x" + "00" * 32
POSTS = ("/v1/admission", "/v1/keys", "/v1/heads", "/v1/heartbeat")


class Stage:
    """A member in office and one that is still waiting."""

    def __init__(self, folder: Path) -> None:
        self.world = World(policy())
        ports = free_ports(4)
        self.seats = [Seat(self.world, folder / f"gk-{i}", i, ports[i]) for i in range(3)]
        self.sitting = sit(self.world, self.seats, 2)
        self.newcomer = Seat(self.world, folder / "new", 3, ports[3])
        self.session: aiohttp.ClientSession

    async def open(self) -> None:
        self.session = aiohttp.ClientSession()
        await self.seats[0].open()
        await self.newcomer.open()
        await turn_all([self.seats[0]])

    async def close(self) -> None:
        await self.session.close()
        for seat in (*self.seats, self.newcomer):
            await seat.close()

    async def get(self, path: str, seat: Seat | None = None) -> tuple[int, Any]:
        async with self.session.get((seat or self.seats[0]).url + path, allow_redirects=False) as answer:
            return answer.status, await answer.json()

    async def post(self, path: str, body: bytes, seat: Seat | None = None) -> tuple[int, Any]:
        async with self.session.post((seat or self.seats[0]).url + path, data=body) as answer:
            return answer.status, await answer.json()


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    made = Stage(tmp_path)
    await made.open()
    try:
        yield made
    finally:
        await made.close()


async def test_info_says_who_and_how_far(stage: Stage) -> None:
    status, body = await stage.get("/v1/info")
    info = Info.from_json(body)
    assert status == 200
    assert (info.index, info.term, info.ready) == (1, 1, True)
    assert info.network == stage.sitting.network
    assert info.head == stage.world.final.number
    waiting = Info.from_json((await stage.get("/v1/info", stage.newcomer))[1])
    assert (waiting.index, waiting.term, waiting.ready, waiting.network) == (0, 0, False, None)


async def test_checkpoints_by_height(stage: Stage) -> None:
    newest = SignedBy.from_json(Checkpoint, (await stage.get("/v1/checkpoint"))[1])
    assert newest.statement == stage.world.checkpoint()
    number = stage.world.final.number
    assert SignedBy.from_json(Checkpoint, (await stage.get(f"/v1/checkpoint/{number}"))[1]) == newest
    status, body = await stage.get(f"/v1/checkpoint/{number + 1}")
    assert (status, body["error"]["code"]) == (404, "chainview.no_checkpoint")


async def test_a_heartbeat_answers_the_nonce_with_the_newest_block(stage: Stage) -> None:
    status, body = await stage.post("/v1/heartbeat", json.dumps({"nonce": "0x" + "11" * 32}).encode())
    beat = SignedBy.from_json(HeartBeat, body).statement
    assert status == 200
    assert isinstance(beat, HeartBeat)
    assert (beat.nonce, beat.number) == (b"\x11" * 32, stage.world.final.number)


async def test_evidence_answers_the_nonce(stage: Stage) -> None:
    nonce = "0x" + "12" * 32
    shown = Shown.from_json((await stage.get(f"/v1/evidence?nonce={nonce}"))[1])
    assert shown.binding.nonce == b"\x12" * 32
    assert shown.binding.network == stage.sitting.network
    assert shown.binding.node == stage.seats[0].keys.address


REFUSED = {
    "/v1/evidence": "wire.message",
    "/v1/evidence?nonce=0x12": "encoding.hex",
    f"/v1/evidence?nonce={ZERO}&nonce={ZERO}": "wire.message",
    "/v1/checkpoint/x": "wire.message",
    "/v1/checkpoint/-1": "wire.message",
    "/v1/checkpoint/99999999999999999999": "encoding.size",
    "/v1/checkpoint/" + "9" * 50: "wire.message",
    f"/v1/dkg/{ZERO}/dealing": "gatekeeper.no_dealing",
    "/v1/dkg/0x12/dealing": "encoding.hex",
    f"/v1/heads/{ZERO}": "wire.message",
    f"/v1/heads/0x12?nonce={ZERO}": "encoding.hex",
    f"/v1/dkg/{ZERO}/dealing/1": "gatekeeper.no_dealing",
    f"/v1/dkg/{ZERO}/dealing/x": "wire.message",
    f"/v1/transcript/{ZERO}": "gatekeeper.no_transcript",
    "/v1/transcript/0x12": "encoding.hex",
    f"/v1/leases/0x{'11' * 20}": "gatekeeper.not_removed",
    "/v1/leases/0x12": "encoding.hex",
    "/v1/resume/2": "gatekeeper.no_route",
    f"/v1/headtable?nonce={ZERO}": "wire.message",
    f"/v1/headtable?nonce={ZERO}&after=0x12": "wire.message",
    "/": "gatekeeper.no_route",
    "/v1/keys": "gatekeeper.no_route",
    "/v1/nothing": "gatekeeper.no_route",
}


@pytest.mark.parametrize("path", REFUSED)
async def test_a_bad_question_is_refused_by_name(stage: Stage, path: str) -> None:
    status, body = await stage.get(path)
    assert status >= 400
    assert set(body) == {"error"}
    assert set(body["error"]) == {"code", "check", "expected", "found", "remedy"}
    assert body["error"]["code"] == REFUSED[path]
    assert body["error"]["code"] in REGISTRY


BODIES = {
    "nothing": b"",
    "not JSON": b"{",
    "a list": b"[]",
    "another object": b'{"hello": 1}',
    "deep": b"[" * 100_000,
    "not UTF-8": b"\xff\xfe\xfd",
    "a duplicate key": b'{"nonce": "0x", "nonce": "0x"}',
}


@pytest.mark.parametrize("path", POSTS)
@pytest.mark.parametrize("name", BODIES)
async def test_a_bad_body_is_refused_by_name(stage: Stage, path: str, name: str) -> None:
    status, body = await stage.post(path, BODIES[name])
    assert status == 400
    assert body["error"]["code"] in ("wire.message", "encoding.field")


@pytest.mark.parametrize("path", POSTS)
async def test_a_body_above_the_cap_is_refused(stage: Stage, path: str) -> None:
    status, body = await stage.post(path, b" " * ((1 << 20) + 1))
    assert (status, body["error"]["code"]) == (413, "wire.too_large")


@pytest.mark.parametrize("path", [*POSTS, "/v1/checkpoint", f"/v1/heads/{ZERO}?nonce={ZERO}"])
async def test_before_office_nothing_is_signed(stage: Stage, path: str) -> None:
    body = json.dumps({"nonce": ZERO}).encode()
    call = stage.post(path, body, stage.newcomer) if path in POSTS else stage.get(path, stage.newcomer)
    status, answer = await call
    assert (status, answer["error"]["code"]) == (503, "gatekeeper.not_in_office")


async def test_before_a_block_is_seen_there_is_no_evidence(stage: Stage) -> None:
    status, body = await stage.get(f"/v1/evidence?nonce={ZERO}", stage.newcomer)
    assert (status, body["error"]["code"]) == (503, "gatekeeper.starting")


async def test_an_internal_failure_says_nothing_of_itself(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: Any) -> Any:
        raise RuntimeError("the secret is 42")

    assert stage.seats[0].member is not None
    monkeypatch.setattr(stage.seats[0].member, "info", broken)
    status, body = await stage.get("/v1/info")
    assert (status, body["error"]["code"]) == (500, "gatekeeper.internal")
    assert "42" not in json.dumps(body)


async def test_the_loop_waits_through_refusals_and_stops_when_told(stage: Stage) -> None:
    stop = asyncio.Event()
    member = stage.newcomer.member
    assert member is not None
    task = asyncio.create_task(member.run(stop))
    for _ in range(200):
        await asyncio.sleep(0.01)
        if stage.newcomer.keys.address in stage.world.now.candidates:
            break
    stop.set()
    await asyncio.wait_for(task, 10)
    assert stage.newcomer.keys.address in stage.world.now.candidates
