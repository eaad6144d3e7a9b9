"""The link to the gateway over a real unix socket: kinds, garbage, announcements, reconnection, cancellation."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from cloister.core.chainview.anchor import Asked
from cloister.core.envelope.oblivious import ObliviousKey
from cloister.core.envelope.oblivious_client import seal, verify_key
from cloister.core.errors import CloisterError
from cloister.core.receipts.receipt import Exchange
from cloister.core.receipts.verify import Admission, verify_receipt
from cloister.sandbox.ports import AgentRequest
from cloister.wire import announce
from cloister.wire.anchor import Ready
from cloister.wire.announce import MAX_ANNOUNCEMENT, Announcement, Kind, call_payload
from cloister.wire.frames import Connection, FrameServer
from cloister.worker import link as link_module
from cloister.worker.anchors import NOT_WAITING
from cloister.worker.link import GatewayLink
from support.fake_sandbox import Calls, Reply
from support.fake_world import MPK
from support.oblivious_kit import good
from support.worker_kit import Rig, opened, refused, until

Make = Callable[..., Awaitable[Rig]]
AGENT = b"\xa9" * 32


def ready(chain_id: int, agent: bytes, index: int) -> Ready:
    """One answer waits for somebody who pays."""
    if (chain_id, agent, index) != (7, AGENT, 3):
        raise NOT_WAITING(expected="an answer", found="none")
    asked = Asked(AGENT, 3, b"\x01" * 20, 5, bytes(32), 100_000, 1_800_000_000, 1, 0, b"\x02" * 32)
    return Ready(7, asked, b"reply", ((b"\x03" * 20, b"\x04" * 65),), None)


class Scene:
    """A gateway that writes down announcements, and a link to it."""

    def __init__(self, rig: Rig, socket: Path) -> None:
        self.rig, self.said = rig, list[bytes]()
        self.socket = socket
        parts = (rig.server, rig.table, rig.attest, lambda: {"agents": 1}, rig.door, ready)
        self.link = GatewayLink(socket, rig.node, *parts)

    async def start(self) -> None:
        self.server = FrameServer(self.socket, on_announce=self._on_announce)
        await self.server.start()
        self.link.start()
        await until(lambda: self.said)

    async def close(self) -> None:
        await self.link.close()
        await self.server.close()

    def _on_announce(self, connection: Connection, data: bytes) -> None:
        self.said.append(data)

    @property
    def connection(self) -> Connection:
        return next(iter(self.server.connections))

    async def ask(self, kind: int, payload: bytes) -> bytes:
        return await self.connection.ask(kind, payload)

    def seats(self) -> list[bytes]:
        return [s.certificate.agent for s in Announcement.decode(self.said[-1]).seats]


@pytest.fixture
async def scene(rig: Rig, tmp_path: Path) -> AsyncIterator[Scene]:
    scene = Scene(rig, tmp_path / "g.sock")
    await scene.start()
    yield scene
    await scene.close()


async def test_a_call_travels_sealed_through_the_socket(scene: Scene) -> None:
    agent = await scene.rig.deploy()
    session = scene.rig.session(agent)
    sealed = session.seal(scene.rig.head(), b"")
    got = opened(session.certificate, sealed, await scene.ask(Kind.CALL, call_payload(agent, sealed.data)))
    assert got.body == b"hello"
    assert got.receipt is not None


@pytest.mark.parametrize("kind", [Kind.OBLIVIOUS, Kind.OBLIVIOUS_CHUNKED])
async def test_an_oblivious_call_travels_through_the_socket_under_a_key_that_the_worker_shows(
    kind: Kind, scene: Scene
) -> None:
    agent = await scene.rig.deploy()
    (shown,) = json.loads(await scene.ask(Kind.OBLIVIOUS_KEYS, agent))["keys"]
    of = scene.rig.seat(agent).certificate
    config = verify_key(ObliviousKey.from_json(shown), of, MPK)
    sealed = seal(config, of, scene.rig.head(), b"", os.urandom, chunked=kind == Kind.OBLIVIOUS_CHUNKED)
    answer = good(sealed, await scene.ask(kind, call_payload(agent, sealed.data)))
    assert (answer.head.status, answer.body) == (200, b"hello")
    exchange = Exchange(bytes.fromhex(sealed.request_id[2:]), 200, sealed.commitment, answer.commitment)
    final = answer.final
    verify_receipt(final.receipt, final.signature, of, Admission(of.worker, of.boot, of.expiry), exchange)
    again = json.loads(await scene.ask(Kind.OBLIVIOUS_KEYS, agent))["keys"]
    assert again == [shown], "one key per lease"


async def test_seats_are_announced_on_connecting_and_whenever_they_change(scene: Scene) -> None:
    first = Announcement.decode(scene.said[0])
    assert (first.worker, first.boot, first.seats) == (scene.rig.node.address, scene.rig.boot, ())
    agent = await scene.rig.deploy()
    scene.link.announce()
    await until(lambda: len(scene.said) == 2)
    assert scene.seats() == [agent]
    scene.rig.table.leave()
    scene.link.announce()
    await until(lambda: len(scene.said) == 3)
    assert scene.seats() == []


async def test_a_lost_gateway_is_found_again_and_told_the_seats(scene: Scene) -> None:
    agent = await scene.rig.deploy()
    await scene.server.close()
    scene.link.announce()
    scene.server = FrameServer(scene.socket, on_announce=scene._on_announce)
    await scene.server.start()
    await until(lambda: len(scene.said) == 2)
    assert scene.seats() == [agent]
    assert json.loads(await scene.ask(Kind.STATUS, b"")) == {"agents": 1}


async def test_evidence_and_status_are_json(scene: Scene) -> None:
    nonce = os.urandom(32)
    assert json.loads(await scene.ask(Kind.EVIDENCE, nonce)) == {"nonce": nonce.hex()}
    assert json.loads(await scene.ask(Kind.STATUS, b"ignored")) == {"agents": 1}


GARBAGE: dict[str, tuple[int, bytes, str]] = {
    "a kind that nobody knows": (99, b"", "worker.unknown_kind"),
    "kind zero": (0, b"x", "worker.unknown_kind"),
    "a call without an agent": (Kind.CALL, b"", "wire.announcement"),
    "a call shorter than an agent's id": (Kind.CALL, b"x" * 31, "wire.announcement"),
    "a call to an agent that is not here": (Kind.CALL, b"x" * 32, "worker.no_such_agent"),
    "a nonce that is too short": (Kind.EVIDENCE, b"x" * 31, "encoding.size"),
    "a nonce that is too long": (Kind.EVIDENCE, b"x" * 33, "encoding.size"),
    "an oblivious call to an agent that is not here": (Kind.OBLIVIOUS, b"x" * 100, "worker.no_such_agent"),
    "an oblivious call without an agent": (Kind.OBLIVIOUS, b"x" * 31, "wire.announcement"),
    "keys of an agent that is not here": (Kind.OBLIVIOUS_KEYS, b"x" * 32, "worker.no_such_agent"),
    "keys of nobody": (Kind.OBLIVIOUS_KEYS, b"", "encoding.size"),
    "no nonce": (Kind.EVIDENCE, b"", "encoding.size"),
}


async def test_garbage_from_the_gateway_ends_its_stream_by_name_and_no_other(scene: Scene) -> None:
    agent = await scene.rig.deploy()
    for case, (kind, payload, code) in GARBAGE.items():
        assert (await refused(scene.ask(kind, payload), code)).remedy, case
    for size in (0, 1, 50, 200, 500):
        error = await refused(scene.ask(Kind.CALL, agent + os.urandom(size)), "envelope.malformed")
        assert error.status == 400
    session = scene.rig.session(agent)
    sealed = session.seal(scene.rig.head(), b"")
    for at in range(0, len(sealed.data), 97):
        flipped = bytearray(sealed.data)
        flipped[at] ^= 1
        with pytest.raises(Exception, match=r"envelope\.|threshold\."):
            await scene.ask(Kind.CALL, agent + bytes(flipped))
    assert opened(session.certificate, sealed, await scene.ask(Kind.CALL, agent + sealed.data)).whole
    assert scene.rig.sandbox.processes[0].cpu == 1000, "the agent ran once"


async def test_a_gateway_that_cancels_or_goes_away_ends_the_agents_work(make: Make, tmp_path: Path) -> None:
    async def stream(request: AgentRequest, ctx: Calls) -> Reply:
        async def body() -> AsyncIterator[bytes]:
            while True:
                yield b"x" * 1000
                await asyncio.sleep(0.001)

        return Reply(body=body())

    rig = await make(stream)
    agent = await rig.deploy()
    scene = Scene(rig, tmp_path / "c.sock")
    await scene.start()
    try:
        payload = call_payload(agent, rig.session(agent).seal(rig.head(), b"").data)
        async with scene.connection.stream(Kind.CALL, payload) as reading:
            await anext(reading)
        process = rig.sandbox.processes[0]
        await until(lambda: len(process.cancelled) == 1)
        reading = scene.connection.stream(Kind.CALL, call_payload(agent, rig.session(agent).seal(rig.head(), b"").data))
        async with reading:
            await anext(reading)
            scene.connection.close()
            await until(lambda: len(process.cancelled) == 2)
        await until(lambda: rig.server.active == 0)
        assert process.alive
    finally:
        await scene.close()


async def test_a_fault_in_one_stream_is_contained(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> dict[str, Any]:
        raise ZeroDivisionError("ours")

    monkeypatch.setattr(scene.link, "_status", broken)
    error = await refused(scene.ask(Kind.STATUS, b""), "frames.internal")
    assert "ours" not in str(error)
    await scene.ask(Kind.EVIDENCE, bytes(32))


async def test_more_seats_than_a_frame_holds_do_not_end_the_link(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    await scene.rig.deploy()
    seat = scene.rig.table.seats()[0]
    one = len(Announcement(scene.rig.node.address, scene.rig.boot, (seat,)).encode())
    monkeypatch.setattr(scene.rig.table, "seats", lambda: [seat] * (MAX_ANNOUNCEMENT // one + 500))
    count = len(scene.rig.table.seats())
    pages = [Announcement.decode(data) for data in scene.link.announcement()]
    assert sum(len(page.seats) for page in pages) == count
    assert [(page.page, page.pages) for page in pages] == [(n, len(pages)) for n in range(len(pages))]
    assert len(pages) > 1
    monkeypatch.setattr(announce, "MAX_SEATS", 2)
    monkeypatch.setattr(announce, "MAX_PAGES", 3)
    assert [len(page.seats) for page in map(Announcement.decode, scene.link.announcement())] == [2, 2, 2]


async def test_a_signed_answer_is_shown_to_whoever_may_bring_it(scene: Scene) -> None:
    question = (7).to_bytes(8, "big") + AGENT + (3).to_bytes(8, "big")
    found = Ready.from_json(json.loads(await scene.ask(Kind.ANSWER, question)))
    assert found == ready(7, AGENT, 3)


@pytest.mark.parametrize("question", [b"", bytes(47), bytes(49), (8).to_bytes(8, "big") + AGENT + bytes(8)])
async def test_other_questions_for_answers_are_refused(scene: Scene, question: bytes) -> None:
    with pytest.raises(CloisterError):
        await scene.ask(Kind.ANSWER, question)


async def test_a_folder_of_sockets_gets_a_connection_to_each_gateway_process(
    rig: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link_module, "LOOK_S", 0.02)
    folder = tmp_path / "gateways"
    folder.mkdir()
    said: dict[str, list[bytes]] = {"0": [], "1": [], "2": []}

    async def process(number: str) -> FrameServer:
        server = FrameServer(folder / f"{number}.sock", on_announce=lambda _, data: said[number].append(data))
        await server.start()
        return server

    servers = {number: await process(number) for number in ("0", "1")}
    scene = Scene(rig, folder)
    scene.link.start()
    await until(lambda: said["0"] and said["1"])
    agent = await rig.deploy()
    scene.link.announce()
    await until(lambda: len(said["0"]) == len(said["1"]) == 2)
    session = rig.session(agent)
    for server in servers.values():  # one session, over both
        sealed = session.seal(rig.head(), b"")
        answer = await next(iter(server.connections)).ask(Kind.CALL, call_payload(agent, sealed.data))
        assert opened(session.certificate, sealed, answer).body == b"hello"
    servers["2"] = await process("2")  # one more process later
    await until(lambda: said["2"])
    await servers["1"].close()  # and one that ended for good
    await until(lambda: len(scene.link._clients) == 2)
    assert [s.certificate.agent for s in Announcement.decode(said["2"][-1]).seats] == [agent]
    await scene.link.close()
    for number in ("0", "2"):
        await servers[number].close()
