"""The promises of oblivious calls, each against who would break it: a relay, a gateway, a worker, an old recording.

Numbers are those of the attacks on the first design: 3 leases, 9 time, 10 replay, 21 receipts, 25 the gateway and
what plain oblivious HTTP leaves out.
"""

from __future__ import annotations

import gc
import json
import os
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cloister.core.encoding.hexes import to_hex
from cloister.core.encoding.identity import Purpose
from cloister.core.envelope import bhttp_client, oblivious, oblivious_client, ohttp, ohttp_client
from cloister.core.envelope.bhttp import BinaryRequest
from cloister.core.envelope.oblivious import ObliviousKey
from cloister.core.envelope.oblivious_answer import opener_of
from cloister.core.envelope.oblivious_client import ObliviousRequest, verify_key
from cloister.core.envelope.opener import Failed
from cloister.core.errors import CloisterError
from cloister.core.keys import hpke
from cloister.core.receipts.receipt import Exchange
from cloister.core.receipts.verify import Admission, verify_receipt
from cloister.sandbox.ports import AgentRequest
from cloister.worker.oblivious import ObliviousCalls
from support.fake_sandbox import Calls, Reply
from support.fake_world import MPKS
from support.oblivious_kit import Answer, told
from support.worker_kit import PERIOD, Rig, get, list_workers, put, refused
from support.worker_kit import world_of as new_world


class Sink:
    """A caller that keeps what comes."""

    def __init__(self) -> None:
        self.data = b""

    async def send(self, data: bytes) -> None:
        """Take it."""
        self.data += data


async def count(request: AgentRequest, ctx: Calls) -> Reply:
    """Adds one and answers the number."""
    number = int(await get(ctx, "n") or b"0") + 1
    await put(ctx, "n", str(number).encode())
    return Reply(body=[str(number).encode(), b" ", request.body])


class End:
    """One worker's oblivious side, and a client's towards it."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.calls = ObliviousCalls(rig.node, os.urandom)
        self.chunked = False

    def key(self, agent: bytes) -> ObliviousKey:
        """What the worker shows."""
        return ObliviousKey.from_json(json.loads(self.calls.keys(self.rig.placed(agent)))["keys"][-1])

    def config(self, agent: bytes) -> ohttp.KeyConfig:
        """The same, verified as a client does."""
        certificate = self.rig.seat(agent).certificate
        return verify_key(self.key(agent), certificate, MPKS[certificate.master_epoch])

    def seal(self, agent: bytes, body: bytes = b"question", **head: Any) -> ObliviousRequest:
        """A client's request."""
        certificate = self.rig.seat(agent).certificate
        return oblivious_client.seal(
            self.config(agent), certificate, self.rig.head(**head), body, os.urandom, chunked=self.chunked
        )

    def seal_text(self, agent: bytes, message: BinaryRequest) -> ObliviousRequest:
        """A message of the sender's own making, under the honest key."""
        data, exchange = ohttp_client.encapsulate(self.config(agent), bhttp_client.encode_request(message), os.urandom)
        return ObliviousRequest(data, opener_of(exchange), bytes(32), bytes(32), "")

    async def send(self, agent: bytes, sealed: ObliviousRequest) -> Answer | Failed:
        """Serve it and open what comes."""
        sink = Sink()
        form = {"chunked": self.chunked}
        await self.rig.server.opened(agent, lambda placed, now: self.calls.open(placed, sealed.data, now, **form), sink)
        return told(sealed, sink.data)

    async def refuse(self, agent: bytes, sealed: ObliviousRequest) -> str:
        """The code that it is refused with, plain or sealed."""
        try:
            said = await self.send(agent, sealed)
        except CloisterError as error:
            return error.code
        assert isinstance(said, Failed), "it was served"
        return said.error.code


@pytest.fixture
async def ends(tmp_path: Path) -> AsyncIterator[list[End]]:
    """Two workers of one network, each holding a seat of every agent."""
    world = new_world()
    one = await Rig(world, tmp_path, count, name="one").open()
    two = await Rig(world, tmp_path, count, name="two").open(one.fabric)
    list_workers(world, one.node.address, two.node.address)
    yield [End(one), End(two)]
    await two.table.close()
    await one.close()


async def both(ends: list[End], token: int = 1) -> bytes:
    """An agent placed on both."""
    agent = await ends[0].rig.deploy(token)
    await ends[1].rig.follow()
    return agent


@pytest.mark.parametrize("chunked", [False, True])
async def test_21_an_oblivious_answer_has_a_receipt_like_any_other(chunked: bool, ends: list[End]) -> None:
    agent, (one, _) = await both(ends), ends
    one.chunked = chunked
    sealed = one.seal(agent)
    said = await one.send(agent, sealed)
    assert isinstance(said, Answer)
    assert (said.head.status, said.body) == (200, b"1 question")
    certificate = one.rig.seat(agent).certificate
    exchange = Exchange(bytes.fromhex(sealed.request_id[2:]), said.head.status, sealed.commitment, said.commitment)
    admission = Admission(certificate.worker, certificate.boot, certificate.expiry)
    end = said.final
    receipt = verify_receipt(end.receipt, end.signature, certificate, admission, exchange, end.batch)
    assert receipt.state.before != receipt.state.after or receipt.state.kind == "local"
    for other in (replace(exchange, response=bytes(32)), replace(exchange, request=bytes(32))):
        with pytest.raises(CloisterError):
            verify_receipt(end.receipt, end.signature, certificate, admission, other, end.batch)


async def test_10_a_request_runs_once_at_its_worker_and_nowhere_else(ends: list[End]) -> None:
    """Same worker, another worker of the same agent, another agent of the same worker: each refused by its own code."""
    agent, (one, two) = await both(ends), ends
    other = await both(ends, 2)
    sealed = one.seal(agent)
    for end, whom in ((two, agent), (one, other)):
        end.config(whom)  # the key is there: it is another one
        assert await end.refuse(whom, sealed) == "ohttp.not_authentic"
    assert isinstance(await one.send(agent, sealed), Answer)
    assert await one.refuse(agent, sealed) == "envelope.replay"
    assert await two.refuse(agent, sealed) == "ohttp.not_authentic"


async def test_10_a_request_in_chunks_runs_once_in_either_form(ends: list[End]) -> None:
    """Whoever replays it under the other content type has another message; its request id has been used, too."""
    agent, (one, two) = await both(ends), ends
    one.chunked = two.chunked = True
    two.config(agent)
    sealed = one.seal(agent)
    one.chunked = False
    assert await one.refuse(agent, sealed) == "ohttp.not_authentic"
    one.chunked = True
    assert isinstance(await one.send(agent, sealed), Answer), "which used nothing up"
    assert await one.refuse(agent, sealed) == "envelope.replay"
    assert await two.refuse(agent, sealed) == "ohttp.not_authentic"
    one.chunked = False
    assert await one.refuse(agent, sealed) == "envelope.replay"
    assert await one.refuse(agent, one.seal(agent, request_id=sealed.request_id)) == "oblivious.repeated"


@pytest.mark.long
async def test_10_a_worker_that_nobody_asked_for_a_key_has_none(ends: list[End]) -> None:
    agent, (one, two) = await both(ends), ends
    assert await two.refuse(agent, one.seal(agent)) == "ohttp.key_unknown"


@pytest.mark.long
async def test_10_another_start_of_the_worker_opens_nothing_of_the_last(tmp_path: Path) -> None:
    world = new_world()
    first = await Rig(world, tmp_path, count).open()
    agent = await first.deploy()
    recorded = End(first).seal(agent)
    await first.close()
    second = await Rig(world, tmp_path, count).open()
    await second.follow(1)
    end = End(second)
    end.config(agent)
    assert await end.refuse(agent, recorded) == "ohttp.not_authentic"
    await second.close()


async def test_10_a_repeat_of_the_message_in_new_clothes_has_no_second_effect(ends: list[End]) -> None:
    """Whoever saw inside, the worker of another seat say, re-seals it: the field says for whom it was, and once."""
    agent, (one, two) = await both(ends), ends
    message = oblivious_client.to_message(one.rig.seat(agent).certificate, one.rig.head(), b"question")
    assert isinstance(await one.send(agent, one.seal_text(agent, message)), Failed | Answer)
    assert await one.refuse(agent, one.seal_text(agent, message)) == "oblivious.repeated"
    assert await two.refuse(agent, two.seal_text(agent, message)) == "oblivious.boot"


@pytest.mark.long
async def test_10_a_message_for_another_agent_is_refused_inside(ends: list[End]) -> None:
    agent, (one, _) = await both(ends), ends
    other = await both(ends, 2)
    message = oblivious_client.to_message(one.rig.seat(agent).certificate, one.rig.head(), b"question")
    assert await one.refuse(other, one.seal_text(other, message)) == "oblivious.agent"


@pytest.mark.long
async def test_10_nor_for_another_path(ends: list[End]) -> None:
    """EHBP-like schemes leave method and path outside: here they are in the ciphertext, and in the commitment."""
    agent, (one, _) = await both(ends), ends
    sealed = one.seal(agent, path="/public")
    for place in range(7, len(sealed.data), 11):
        bad = bytearray(sealed.data)
        bad[place] ^= 1
        assert await one.refuse(agent, replace(sealed, data=bytes(bad))) == "ohttp.not_authentic"
    served = await one.send(agent, sealed)
    assert isinstance(served, Answer)


async def test_9_after_the_period_the_key_is_gone(ends: list[End]) -> None:
    agent, (one, _) = await both(ends), ends
    recorded, certificate = one.seal(agent), one.rig.seat(agent).certificate
    old = one.config(agent).public
    for _ in range(2):
        for end in ends:
            await end.rig.follow()
        one.rig.world.mine(PERIOD)
    for end in ends:
        await end.rig.follow()
    one.config(agent)
    assert await one.refuse(agent, recorded) == "ohttp.key_unknown"
    assert one.key(agent).certificate != certificate.id
    gc.collect()
    held = [r.config.public for r in gc.get_objects() if isinstance(r, ohttp.Recipient)]
    assert one.config(agent).public in held, "the search finds what is held"
    assert old not in held


@pytest.mark.long
async def test_9_the_older_lease_serves_until_it_ends(ends: list[End]) -> None:
    agent, (one, _) = await both(ends), ends
    early = one.seal(agent)
    one.rig.world.mine(PERIOD)
    for end in ends:
        await end.rig.follow()
    assert one.rig.placed(agent).older is not None
    later = one.seal(agent)
    assert early.data[0] != later.data[0]
    for sealed in (early, later):
        assert isinstance(await one.send(agent, sealed), Answer)


@pytest.mark.long
async def test_9_after_an_epoch_bump_nothing_of_the_old_epoch_opens(ends: list[End]) -> None:
    agent, (one, _) = await both(ends), ends
    recorded = one.seal(agent)
    one.rig.world.set_agent(1, epoch=2)
    one.rig.world.mine()
    await one.rig.watch.refresh()
    await one.rig.watch.prove_fresh()
    one.rig.table.advance(one.rig.watch.height)
    await one.rig.table.reconcile()
    assert await one.refuse(agent, recorded) in ("ohttp.key_unknown", "worker.no_such_agent", "epoch.resealing")


@pytest.mark.long
async def test_9_a_deadline_that_is_past_is_said_sealed(ends: list[End]) -> None:
    agent, (one, _) = await both(ends), ends
    late = one.seal(agent, deadline_ms=one.rig.now_ms() - 1)
    assert await one.refuse(agent, late) == "envelope.deadline"


@pytest.mark.long
async def test_a_pause_binds_at_once(ends: list[End]) -> None:
    agent, (one, _) = await both(ends), ends
    sealed = one.seal(agent)
    one.rig.world.paused_now.add(agent)
    await one.rig.watch.watch_pause(agent)
    assert await one.refuse(agent, sealed) == "policy.paused"


async def test_3_the_private_key_comes_from_the_call_key_and_from_nothing_public(ends: list[End]) -> None:
    """With all that is public, and with the `call` key but not the 32 bytes that were forgotten, nothing opens."""
    agent, (one, _) = await both(ends), ends
    sealed, keys = one.seal(agent), one.rig.placed(agent).keys
    certificate = keys.seat.certificate
    call = keys.key(Purpose.CALL, certificate.period)
    shown, guess = oblivious.issue(certificate, call, keys.mpk, one.rig.node.sign, os.urandom)[-1]
    assert verify_key(shown, certificate, keys.mpk).key_id == sealed.data[0]
    with pytest.raises(CloisterError, match=r"ohttp\.not_authentic"):
        guess.open(sealed.data, max_size=1 << 20)


@pytest.mark.long
async def test_3_the_session_key_of_sealed_calls_opens_no_oblivious_request(ends: list[End]) -> None:
    """Purposes do not mix: not even a worker that took the wrong key by mistake."""
    agent, (one, _) = await both(ends), ends
    keys, config = one.rig.placed(agent).keys, one.config(agent)
    session = keys.hpke_key
    wrong = ohttp.KeyConfig(config.key_id, session.public_key().public_bytes_raw())
    data, _ = ohttp_client.encapsulate(wrong, b"x", os.urandom)
    assert await one.refuse(agent, replace(one.seal(agent), data=data)) == "ohttp.not_authentic"
    assert ohttp.Recipient(session, wrong).open(data, max_size=1 << 20)[0] == b"x"


@pytest.mark.long
async def test_25_a_weaker_aead_than_the_client_chose_is_noticed(ends: list[End]) -> None:
    """The AEAD's number is under the seal: who changes it on the way gets a refusal, not another cipher."""
    agent, (one, _) = await both(ends), ends
    sealed = one.seal(agent)
    assert sealed.data[5:7] == hpke.AES_256_GCM.to_bytes(2, "big")
    down = sealed.data[:6] + bytes([hpke.AES_128_GCM]) + sealed.data[7:]
    assert await one.refuse(agent, replace(sealed, data=down)) == "ohttp.not_authentic"


@pytest.mark.long
async def test_25_the_gateway_learns_nothing_of_an_answer_but_its_size_class(ends: list[End]) -> None:
    agent, (one, _) = await both(ends), ends
    sizes = set()
    for body in (b"a" * 30, b"b" * 50, b"c" * 90):
        sealed, sink = one.seal(agent, body), Sink()
        await one.rig.server.opened(agent, lambda p, now, d=sealed.data: one.calls.open(p, d, now), sink)
        assert body not in sink.data
        sizes.add(len(sink.data))
    assert len(sizes) == 1


@pytest.mark.long
async def test_an_agent_that_is_not_here_is_said_plainly(ends: list[End]) -> None:
    agent, (one, _) = await both(ends), ends
    sealed = one.seal(agent)
    await refused(one.send(b"\x77" * 32, sealed), "worker.no_such_agent")
    assert to_hex(agent) not in repr(sealed)
