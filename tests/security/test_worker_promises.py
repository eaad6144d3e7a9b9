"""What the worker promises against its host, callers and agents (DESIGN section 2; numbers: security review)."""

from __future__ import annotations

import gc
import io
import os
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from cloister.core.encoding.identity import Purpose
from cloister.core.encoding.signatures import address_of, sign_digest
from cloister.core.envelope.client import ClientSession, Psk
from cloister.core.envelope.model import Caller
from cloister.core.errors import CloisterError
from cloister.core.receipts.verify import verify_chain
from cloister.fabric.ports import Blobs
from cloister.node import logs
from cloister.sandbox.errors import THREW
from cloister.sandbox.ports import AgentRequest
from cloister.worker.carried import secrets_aad
from cloister.worker.leases import AgentKeys
from support.fake_sandbox import Agent, Calls, Reply, hello
from support.fake_world import CLUSTER, MPK, manifest, test_key
from support.worker_kit import PERIOD, Rig, Sink, get, list_workers, opened, put, refused
from support.worker_kit import world_of as new_world


async def count(request: AgentRequest, ctx: Calls) -> Reply:
    """Adds one and answers the number."""
    number = int(await get(ctx, "n") or b"0") + 1
    await put(ctx, "n", str(number).encode())
    return Reply(body=[str(number).encode()])


@pytest.fixture
async def rigs(tmp_path: Path) -> AsyncIterator[list[Rig]]:
    """Two workers of one network over one store, each holding a seat of every agent."""
    world = new_world()
    one = await Rig(world, tmp_path, count, name="one").open()
    two = await Rig(world, tmp_path, count, name="two").open(one.fabric)
    list_workers(world, one.node.address, two.node.address)
    yield [one, two]
    await two.table.close()
    await one.close()


async def both(rigs: list[Rig]) -> bytes:
    """An agent placed on both."""
    agent = await rigs[0].deploy()
    await rigs[1].follow()
    return agent


async def fresh(tmp_path: Path, agent: Agent = hello) -> Rig:
    return await Rig(new_world(), tmp_path / "fresh", agent).open()


# --- 1: a lease ends by itself, and the worker forgets ---


async def test_nothing_in_the_process_holds_keys_of_a_period_that_ended(rigs: list[Rig]) -> None:
    rig = rigs[0]
    agent = await both(rigs)
    session, old = rig.session(agent), rig.seat(agent).certificate
    recorded = session.seal(rig.head(), b"a recorded question")
    for _ in range(2):
        for one in rigs:
            await one.follow()
        rig.world.mine(PERIOD)
    for one in rigs:
        await one.follow()
    gc.collect()
    held = [k for k in gc.get_objects() if isinstance(k, AgentKeys) and k.seat.certificate.agent == agent]
    assert held, "the search finds what is held"
    assert not [k for k in held if k.terms.period == old.period]
    assert not [k for k in held if (Purpose.CALL, old.period) in k.derived]
    assert old.id not in {c.id for c in rig.sessions.certificates}
    await refused(rig.server.serve(agent, recorded.data, Sink()), "envelope.certificate_unknown")


async def test_after_an_epoch_bump_the_old_epochs_keys_are_gone_before_new_ones_are_asked_for(rigs: list[Rig]) -> None:
    rig = rigs[0]
    agent = await both(rigs)
    seen: list[int] = []

    async def looking(name: bytes) -> None:
        gc.collect()
        seen.extend(k.terms.agent_epoch for k in gc.get_objects() if isinstance(k, AgentKeys) and k is not theirs)

    theirs = rigs[1].placed(agent).keys
    rig.on_acquire = looking
    rig.world.set_agent(epoch=2)
    await rig.follow(1)
    assert 1 not in seen, "nothing of the closed epoch is held while the committee is asked"
    assert rig.placed(agent).keys.terms.agent_epoch == 2


# --- 2, 3: only what is placed here, only what was leased ---


async def test_a_worker_asks_for_no_agent_that_is_not_placed_on_it(rigs: list[Rig]) -> None:
    rig = rigs[0]
    rig.world.stores["Clusters"].struct("_clusters", CLUSTER, {"seats": 1})
    agents = [await rig.deploy(n) for n in range(1, 7)]
    await rigs[1].follow()
    assert set(rigs[0].acquired).isdisjoint(rigs[1].acquired)
    assert set(rigs[0].acquired) | set(rigs[1].acquired) == set(agents)


async def test_a_seat_without_the_committees_lease_convinces_nobody_and_opens_nothing(rigs: list[Rig]) -> None:
    agent = await both(rigs)
    honest, lying = rigs[0].seat(agent), rigs[1].seat(agent)
    mixed = replace(lying, lease=honest.lease)
    with pytest.raises(CloisterError, match=r"envelope\.not_leased"):
        mixed.verify(rigs[0].world.network.founding, rigs[0].world.network.id, rigs[0].world.number)


# --- 9: no trusted time, no trusted endpoint ---


async def test_a_frozen_host_clock_and_a_frozen_chain_view_do_not_keep_a_worker_serving(rigs: list[Rig]) -> None:
    rig = rigs[0]
    agent = await both(rigs)
    session = rig.session(agent)
    rig.committee.signed = rig.watch.signed  # the host replays one old checkpoint for ever
    rig.world.mine(session.certificate.expiry - rig.world.number)
    await rig.watch.prove_fresh()  # heartbeats go through: they move the time, so the lease ends all the same
    await refused(rig.call(agent, session=session), "worker.no_such_agent")
    rig.now_s += 15.1
    await refused(rig.call(agent, session=session), "worker.stale_view")


async def test_a_clock_turned_back_reopens_no_deadline(rigs: list[Rig]) -> None:
    rig = rigs[0]
    agent = await both(rigs)
    session = rig.session(agent)
    head = rig.head()
    rig.world.now += 60
    assert (await rig.call(agent, session=session)).whole
    rig.world.now -= 60
    sealed = session.seal(head, b"")
    assert (await rig.send(session.certificate, sealed)).code == "envelope.deadline"


# --- 10: nothing runs twice ---


async def test_a_request_sealed_to_one_worker_is_nothing_to_another(rigs: list[Rig]) -> None:
    agent = await both(rigs)
    sealed = rigs[0].session(agent).seal(rigs[0].head(), b"")
    await refused(rigs[1].server.serve(agent, sealed.data, Sink()), "envelope.wrong_boot")


async def test_a_repeat_on_another_worker_has_no_second_effect(rigs: list[Rig]) -> None:
    agent, name = await both(rigs), "0x" + "ab" * 16
    first = await rigs[0].call(agent, request_id=name)
    again = await rigs[1].call(agent, request_id=name)
    assert (first.body, again.code) == (b"1", "state.already_done")
    assert (await rigs[1].call(agent)).body == b"2", "the other worker reads the first one's state"


async def test_two_answers_to_one_request_share_no_key_stream(rigs: list[Rig]) -> None:
    rig = rigs[0]
    agent, name = await both(rigs), "0x" + "ab" * 16
    session, sinks = rig.session(agent), [Sink(), Sink()]
    for sink in sinks:
        await rig.server.serve(agent, session.seal(rig.head(request_id=name), b"").data, sink)
    assert sinks[0].data[:32] != sinks[1].data[:32]


async def test_another_start_of_the_worker_opens_nothing_of_the_last(tmp_path: Path) -> None:
    rig = await fresh(tmp_path)
    agent = await rig.deploy()
    sealed = rig.session(agent).seal(rig.head(), b"")
    fabric = rig.fabric
    await rig.table.close()
    again = await Rig(rig.world, tmp_path, hello).open(fabric)
    await again.follow(1)
    await refused(again.server.serve(agent, sealed.data, Sink()), "envelope.wrong_boot")
    await again.close()


# --- 12, 13: code, manifest and secrets are what the chain says ---


class Lying:
    """A blob store that answers with other bytes."""

    def __init__(self, blobs: Blobs, change: bytes) -> None:
        self._blobs, self._change = blobs, change

    async def put(self, data: bytes) -> bytes:
        return await self._blobs.put(data)

    async def get(self, digest: bytes) -> bytes:
        return (await self._blobs.get(digest)) + self._change


async def test_code_that_does_not_hash_to_what_the_chain_says_never_runs(tmp_path: Path) -> None:
    rig = await fresh(tmp_path)
    agent = await rig.deploy()
    rig.fabric.blobs = Lying(rig.fabric.blobs, b"// more")
    assert (await rig.call(agent)).code == "worker.wrong_code"
    assert rig.sandbox.starts == 0
    await rig.close()


async def test_secrets_of_a_host_are_not_taken_for_the_owners(tmp_path: Path) -> None:
    rig = await fresh(tmp_path)
    digest = await rig.fabric.blobs.put(bytes(manifest(secrets=["API_KEY"])))
    agent = await rig.deploy(manifest_hash=digest)
    await rig.set_secrets(agent, {"API_KEY": "sk-owner"})
    await rig.follow(1)
    plain = rig.fabric.blobs
    assert (await rig.call(agent)).whole
    for one in rig.placed(agent).pool.all():
        await one.process.close()

    class Planted(Lying):
        async def get(self, digest: bytes) -> bytes:
            data = await self._blobs.get(digest)
            return data if data.startswith((b"{", b"export")) else data[:-1] + bytes([data[-1] ^ 1])

    rig.fabric.blobs = Planted(plain, b"")
    assert (await rig.call(agent)).code == "worker.wrong_secrets"
    await rig.close()


def test_worker_and_owner_bind_secrets_to_the_same_words() -> None:
    from cloister.client.secrets import secrets_aad as owners

    for version in (0, 1, 1 << 40):
        words = (os.urandom(32), os.urandom(32), version, os.urandom(20))
        assert secrets_aad(*words) == owners(*words)


# --- 15: restrictions bind from any block seen ---


async def test_a_pause_binds_at_once_and_its_end_only_by_proof(rigs: list[Rig]) -> None:
    rig = rigs[0]
    agent = await both(rigs)
    session = rig.session(agent)
    rig.world.paused_now.add(agent)
    await rig.watch.watch_pause(agent)
    await refused(rig.call(agent, session=session), "policy.paused")
    rig.world.set_agent(paused=True)
    await rig.follow(1)
    rig.world.paused_now.clear()
    rig.world.agents[agent] = replace(rig.world.agents[agent], paused=False)  # the endpoint says: resumed
    await rig.watch.watch_pause(agent)
    with pytest.raises(CloisterError, match=r"policy\.paused"):
        rig.table.get(agent)


# --- 20: a caller's signature is worth one session ---


async def test_a_callers_signature_does_not_open_another_session(rigs: list[Rig]) -> None:
    agent = await both(rigs)
    key = test_key("a caller")
    until_s = int(rigs[0].world.now) + 600
    for rig in rigs:
        session = rigs[0].session(agent)
        session.authenticate(address_of(key), until_s, lambda d: sign_digest(key, d))
        stolen = session._caller
        assert isinstance(stolen, Caller)
        other = rig.session(agent)
        got = await rig.call(agent, session=other, caller=stolen)
        assert got.code == "envelope.caller"


# --- 21: receipts ---


async def test_receipts_of_a_boot_are_one_chain_and_failed_answers_have_none(tmp_path: Path) -> None:
    async def sometimes(request: AgentRequest, ctx: Calls) -> Reply:
        if request.body == b"fail":
            raise THREW(expected="a response", found="Error")
        return Reply()

    rig = await fresh(tmp_path, sometimes)
    agent = await rig.deploy()
    session = rig.session(agent)
    got = [await rig.call(agent, body, session=session) for body in (b"", b"fail", b"", b"fail", b"")]
    assert [g.receipt is None for g in got] == [False, True, False, True, False]
    verify_chain([g.receipt for g in got if g.receipt is not None])
    await rig.close()


# --- nothing secret leaves ---


async def test_neither_logs_nor_the_wire_nor_the_store_show_a_secret_or_a_text(tmp_path: Path) -> None:
    secret, question, answer, stored = "sk-very-secret-key", b"my diary", b"dear diary reply", b"a note to keep"

    async def chatty(request: AgentRequest, ctx: Calls) -> Reply:
        ctx.host.log(request.request_id, "info", f"{secret} and {request.body.decode()}")
        await put(ctx, "note", stored)
        if request.path == "/fail":
            raise RuntimeError(f"{secret}: a fault whose text quotes the secret")
        return Reply(body=[answer])

    shown = io.StringIO()
    logs.configure("worker", level="debug", stream=shown)
    try:
        rig = await fresh(tmp_path, chatty)
        digest = await rig.fabric.blobs.put(bytes(manifest(secrets=["API_KEY"])))
        agent = await rig.deploy(manifest_hash=digest)
        await rig.set_secrets(agent, {"API_KEY": secret})
        await rig.follow(1)
        certificate = rig.seat(agent).certificate
        session = ClientSession(certificate, Psk.encapsulate(certificate, MPK, os.urandom), os.urandom)
        wire = b""
        for path in ("/", "/fail"):
            sealed, sink = session.seal(rig.head(path=path), question), Sink()
            await rig.server.serve(agent, sealed.data, sink)
            got = opened(certificate, sealed, bytes(sink.data))
            assert got.whole
            assert secret not in str(got.error)
            wire += sealed.data + bytes(sink.data)
        await rig.close()
    finally:
        logs.configure("unnamed")
    log = shown.getvalue() + "".join(text for _, text in rig.logged)
    assert "contained" in log
    assert secret not in log
    disk = b"".join(p.read_bytes() for p in (tmp_path / "fresh").rglob("*") if p.is_file())
    assert b"SQLite" in disk
    for text in (secret.encode(), question, answer, stored, b"API_KEY="):
        assert text not in wire
        assert text not in disk
