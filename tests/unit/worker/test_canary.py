"""A second version beside the first: leased, announced, called by its certificate, renewed, promoted, dropped."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest

from cloister.core.chainview.records import AgentRecord, Canary
from cloister.core.envelope.certificate import Seat
from cloister.core.envelope.client import ClientSession, Psk
from cloister.core.errors import CloisterError
from cloister.core.policy.refusals import CAP
from cloister.sandbox.ports import AgentRequest
from cloister.worker.agentlog import MAX_VERSIONS, AgentLog
from cloister.worker.wanted import Wanted
from support.fake_sandbox import Agent, Calls, Reply
from support.fake_world import MPKS, manifest
from support.worker_kit import PERIOD, Got, Rig, get, put, refused, until

Make = Callable[[Agent], Awaitable[Rig]]

BUNDLE = b"export default { fetch: () => new Response('second') };"
SECOND = hashlib.sha256(BUNDLE).digest()


async def keeper(request: AgentRequest, ctx: Calls) -> Reply:
    """Keeps what it is sent and shows what was there."""
    before = await get(ctx, "note")
    if request.body:
        await put(ctx, "note", request.body)
    return Reply(body=[before or b"-"])


async def beside(rig: Rig, agent: bytes, share: int = 10, *, ready_at: int = 0, bundle: bytes = BUNDLE) -> Canary:
    """Name a canary on chain and follow."""
    encoded = bytes(manifest(egress=["second.example.org"]))
    for blob in (bundle, encoded):
        await rig.fabric.blobs.put(blob)
    code, digest = hashlib.sha256(bundle).digest(), hashlib.sha256(encoded).digest()
    made = Canary(code, digest, share, ready_at)
    rig.world.set_agent(rig.world.agents[agent].token_id, canary=made)
    await rig.follow(1)
    return made


def seats(rig: Rig, agent: bytes) -> dict[bytes, Seat]:
    return {s.certificate.code_hash: s for s in rig.table.seats() if s.certificate.agent == agent}


def session(rig: Rig, seat: Seat) -> ClientSession:
    certificate = seat.certificate
    psk = Psk.encapsulate(certificate, MPKS[certificate.master_epoch], os.urandom)
    return ClientSession(certificate, psk, os.urandom)


async def call(rig: Rig, agent: bytes, code: bytes, body: bytes = b"") -> Got:
    return await rig.call(agent, body, session=session(rig, seats(rig, agent)[code]))


def promote(rig: Rig, agent: bytes) -> None:
    record = rig.world.agents[agent]
    assert record.canary is not None
    found = record.canary
    rig.world.set_agent(record.token_id, code_hash=found.code_hash, manifest_hash=found.manifest_hash, canary=None)


# --- both run ---


async def test_each_version_has_a_lease_and_a_seat_of_its_own(rig: Rig) -> None:
    agent = await rig.deploy()
    first = rig.world.agents[agent].code_hash
    await beside(rig, agent)
    assert set(seats(rig, agent)) == {first, SECOND}
    assert rig.acquired == [agent, agent], "one lease more, and the first one stays as it was"
    for seat in rig.table.seats():
        seat.verify(rig.world.network.founding, rig.world.network.id, rig.world.number)
    assert set(rig.table.placed()) == {agent}
    await rig.follow(1)
    assert rig.acquired == [agent, agent], "nothing is asked for twice"


async def test_the_certificate_says_which_version_answers_and_the_receipt_names_it(make: Make) -> None:
    rig = await make(keeper)
    agent = await rig.deploy()
    first = rig.world.agents[agent].code_hash
    await beside(rig, agent)
    for code in (first, SECOND, first):
        got = await call(rig, agent, code)
        assert got.receipt is not None
        assert got.receipt.code_hash == code
    assert [p.spec.code_hash for p in rig.sandbox.processes] == [first, SECOND], "a process for each, and each its own"
    assert [len(p.requests) for p in rig.sandbox.processes] == [2, 1]


async def test_both_share_one_state(make: Make) -> None:
    rig = await make(keeper)
    agent = await rig.deploy()
    first = rig.world.agents[agent].code_hash
    await beside(rig, agent)
    await call(rig, agent, first, b"one")
    assert (await call(rig, agent, SECOND, b"two")).body == b"one"
    assert (await call(rig, agent, first)).body == b"two"
    placed = rig.placed(agent)
    assert placed.canary is not None
    assert placed.canary.state is placed.state


async def test_a_session_keeps_its_version_until_that_ends(make: Make) -> None:
    rig = await make(keeper)
    agent = await rig.deploy()
    await beside(rig, agent, 100)
    kept = rig.session(agent)
    assert (await rig.call(agent, session=kept)).whole
    await beside(rig, agent, 0)
    got = await rig.call(agent, session=kept)
    assert got.receipt is not None
    assert got.receipt.code_hash == rig.world.agents[agent].code_hash, "another share moves no session"


async def test_a_canary_waits_for_its_block(rig: Rig) -> None:
    agent = await rig.deploy()
    await beside(rig, agent, ready_at=rig.world.number + 3)
    assert set(seats(rig, agent)) == {rig.world.agents[agent].code_hash}
    await rig.follow(2)
    assert SECOND in seats(rig, agent)


async def test_both_leases_are_renewed_and_the_older_ones_serve_on(make: Make) -> None:
    rig = await make(keeper)
    agent = await rig.deploy()
    await beside(rig, agent)
    old = {code: session(rig, seat) for code, seat in seats(rig, agent).items()}
    await rig.follow(PERIOD)
    assert rig.acquired == [agent] * 4
    for code, kept in old.items():
        got = await rig.call(agent, session=kept)
        assert got.receipt is not None
        assert got.receipt.code_hash == code
    await rig.follow(PERIOD)
    for kept in old.values():
        await refused(rig.call(agent, session=kept), "envelope.certificate_unknown")
    assert len(seats(rig, agent)) == 2


async def test_a_canary_that_gets_no_lease_stops_the_first_version_never(rig: Rig) -> None:
    agent = await rig.deploy()

    async def picky(asked: bytes) -> None:
        raise CAP(expected="room", found="none")

    rig.on_acquire = picky
    await beside(rig, agent)
    assert {a: e.code for a, e in rig.table.problems.items()} == {agent: "policy.cap"}
    assert (await rig.call(agent)).whole
    rig.on_acquire = None
    await rig.follow(1)
    assert not rig.table.problems
    assert SECOND in seats(rig, agent)


# --- it ends ---


async def test_a_promoted_canary_serves_on_without_a_start_or_a_lease(make: Make) -> None:
    rig = await make(keeper)
    agent = await rig.deploy()
    first = rig.session(agent)
    await rig.call(agent, b"one", session=first)
    await beside(rig, agent)
    second = session(rig, seats(rig, agent)[SECOND])
    await rig.call(agent, session=second)
    asked, starts = len(rig.acquired), rig.sandbox.starts
    promote(rig, agent)
    await rig.follow(1)
    got = await rig.call(agent, session=second)
    assert (got.body, len(rig.acquired), rig.sandbox.starts) == (b"one", asked, starts)
    assert got.receipt is not None
    assert got.receipt.code_hash == SECOND
    assert set(seats(rig, agent)) == {SECOND}
    await refused(rig.call(agent, session=first), "envelope.certificate_unknown")
    await until(lambda: not rig.sandbox.processes[0].alive)


async def test_a_dropped_canary_ends_at_once_and_the_first_goes_on(make: Make) -> None:
    rig = await make(keeper)
    agent = await rig.deploy()
    first = rig.session(agent)
    await rig.call(agent, session=first)
    await beside(rig, agent)
    second = session(rig, seats(rig, agent)[SECOND])
    await rig.call(agent, b"written by it", session=second)
    rig.world.set_agent(canary=None)
    await rig.follow(1)
    await refused(rig.call(agent, session=second), "envelope.certificate_unknown")
    assert (await rig.call(agent, session=first)).body == b"written by it", "what it wrote stays"
    await until(lambda: not rig.sandbox.processes[1].alive)
    assert rig.sandbox.processes[0].alive


async def test_another_canary_takes_its_place(rig: Rig) -> None:
    agent = await rig.deploy()
    await beside(rig, agent)
    third = await beside(rig, agent, bundle=b"third")
    assert set(seats(rig, agent)) == {rig.world.agents[agent].code_hash, third.code_hash}


ENDS: dict[str, dict[str, Any]] = {
    "a pause": {"paused": True},
    "new keys": {"epoch": 2},
    "other code": {"code_hash": hashlib.sha256(b"fourth").digest(), "canary": None},
}


@pytest.mark.parametrize("sentence", ENDS)
async def test_both_end_with(sentence: str, make: Make) -> None:
    rig = await make(keeper)
    agent = await rig.deploy()
    await beside(rig, agent)
    open_before = {code: session(rig, seat) for code, seat in seats(rig, agent).items()}
    for kept in open_before.values():
        assert (await rig.call(agent, session=kept)).whole
    rig.world.set_agent(**ENDS[sentence])
    await rig.follow(1)
    for kept in open_before.values():
        with pytest.raises(CloisterError):
            await rig.call(agent, session=kept)
    await until(lambda: not any(p.alive for p in rig.sandbox.processes))


async def test_close_ends_both(make: Make) -> None:
    rig = await make(keeper)
    agent = await rig.deploy()
    await beside(rig, agent)
    for code in seats(rig, agent):
        await call(rig, agent, code)
    await rig.table.close()
    assert not any(p.alive for p in rig.sandbox.processes)


async def test_a_lease_of_another_version_than_the_canary_is_refused(rig: Rig) -> None:
    agent = await rig.deploy()
    real = rig.table._devices.acquire

    async def other(name: bytes, code: bytes | None = None) -> Any:
        return await real(name)

    rig.table._devices = replace(rig.table._devices, acquire=other)
    await beside(rig, agent)
    assert rig.table.problems[agent].code == "worker.wrong_lease"
    assert set(seats(rig, agent)) == {rig.world.agents[agent].code_hash}


# --- small parts ---


def test_what_is_wanted_of_a_canary(rig: Rig) -> None:
    rig.world.set_agent()
    record: AgentRecord = next(iter(rig.world.agents.values()))
    assert Wanted(record, 1, 1, 100).canary is None
    with_one = replace(record, canary=Canary(b"\1" * 32, b"\2" * 32, 5, 100))
    assert Wanted(with_one, 1, 1, 99).canary is None
    found = Wanted(with_one, 1, 1, 100).canary
    assert found is not None
    assert (found.record.code_hash, found.record.manifest_hash, found.canary) == (b"\1" * 32, b"\2" * 32, None)


def test_secrets_of_every_version_that_may_run_are_blanked() -> None:
    said: list[str] = []
    log = AgentLog(lambda level, text: said.append(text), lambda: 0.0)
    for number in range(MAX_VERSIONS):
        log.hide([f"secret-{number}"], bytes([number]))
    log.hide(["secret-new"], bytes([1]))
    log.line("info", "secret-0 secret-1 secret-2 secret-3 secret-new")
    assert said[0].count("secret-") == 1
    assert "secret-1" in said[0], "the version's own newer secrets took its place"
