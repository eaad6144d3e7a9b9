"""The agent table follows the chain: placement, periods, code, epochs, secrets, pauses, crashes, drops."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest

from cloister.core.encoding.identity import Purpose
from cloister.core.encoding.signatures import address_of
from cloister.core.errors import CloisterError
from cloister.core.policy.placement import place
from cloister.core.policy.refusals import CAP
from cloister.core.state.endorse import Answer
from cloister.sandbox.ports import AgentRequest
from cloister.worker import agents
from cloister.worker.carried import WRONG_SECRETS
from cloister.worker.processes import Budget
from support.fake_sandbox import Calls, Reply
from support.fake_world import manifest, test_key
from support.worker_kit import PERIOD, Rig, list_workers, put, refused, set_cluster_epoch, until

Make = Callable[..., Awaitable[Rig]]


async def settle() -> None:
    """Let what was started in the background run."""
    for _ in range(20):
        await asyncio.sleep(0)


# --- placement ---


async def test_agents_are_leased_where_finalised_state_places_them_and_announced(rig: Rig) -> None:
    one, two = await rig.deploy(1), await rig.deploy(2)
    assert set(rig.table.placed()) == {one, two}
    assert rig.table.changed.is_set()
    assert {s.certificate.agent for s in rig.table.seats()} == {one, two}
    assert [rig.acquired.count(a) for a in (one, two)] == [1, 1], "a lease is not asked for twice"
    for seat in rig.table.seats():
        seat.verify(rig.world.network.founding, rig.world.network.id, rig.world.number)
    assert rig.sandbox.starts == 0, "processes start with the first request"


async def test_a_worker_that_is_not_live_holds_nothing(rig: Rig) -> None:
    agent = await rig.deploy()
    rig.world.set_worker(rig.key, rig.boot, expiry=rig.world.number + 1)
    await rig.follow(1)
    assert not rig.table.placed()
    await refused(rig.call_with(agent), "worker.no_such_agent")


async def test_an_agent_that_moves_to_other_workers_is_dropped(rig: Rig) -> None:
    agent = await rig.deploy()
    others = [test_key(f"elsewhere {n}") for n in range(12)]
    for key in others:
        rig.world.set_worker(key, b"\x05" * 32)
    everyone = [rig.node.address, *map(address_of, others)]
    seed = hashlib.sha256(b"seed").digest()
    assert rig.node.address not in place(seed, agent, everyone, 2), "choose other keys: this one keeps its seat"
    list_workers(rig.world, *everyone)
    await rig.follow(1)
    assert not rig.table.placed()
    assert not rig.sessions.certificates


async def test_one_agents_trouble_stops_no_other(rig: Rig) -> None:
    await rig.deploy(1)
    bad, good = rig.world.set_agent(2), rig.world.set_agent(3)

    async def picky(agent: bytes) -> None:
        if agent == bad:
            raise CAP(expected="room", found="none")

    rig.on_acquire = picky
    await rig.follow(1)
    assert good in rig.table.placed()
    assert bad not in rig.table.placed()
    assert {a: e.code for a, e in rig.table.problems.items()} == {bad: "policy.cap"}
    rig.world.set_agent(2, paused=True)
    await rig.follow(1)
    assert not rig.table.problems, "problems of agents that are not wanted any more are forgotten"


async def test_a_fault_of_ours_in_one_agent_ends_the_loop_loudly(rig: Rig) -> None:
    async def broken(agent: bytes) -> None:
        raise ValueError("ours")

    rig.world.set_agent()
    rig.on_acquire = broken
    with pytest.raises(ValueError, match="ours"):
        await rig.follow(1)


# --- periods ---


async def test_at_a_period_change_the_older_certificate_serves_until_it_ends_and_then_its_keys_are_gone(
    rig: Rig,
) -> None:
    agent = await rig.deploy()
    old_session, old = rig.session(agent), rig.seat(agent).certificate
    assert (await rig.call(agent, session=old_session)).whole
    await rig.follow(PERIOD)
    placed = rig.placed(agent)
    assert (placed.keys.terms.period, rig.acquired.count(agent)) == (old.period + 1, 2)
    assert placed.older is not None
    assert placed.older.terms.period == old.period
    assert [s.certificate.period for s in rig.table.seats()] == [old.period + 1], "the newest is announced"
    late = rig.session(agent)
    for session in (old_session, late):
        assert (await rig.call(agent, session=session)).whole
    assert rig.sandbox.starts == 1, "a renewal restarts nothing"
    await rig.follow(PERIOD)
    assert placed.older is not None
    assert placed.older.terms.period == old.period + 1
    held = {n[1] for keys in (placed.keys, placed.older) for n in keys.derived if n[0] is Purpose.CALL}
    assert old.period not in held, "no key of the ended period is kept"
    await refused(rig.call(agent, session=old_session), "envelope.certificate_unknown")
    assert (await rig.call(agent, session=late)).whole


async def test_a_psk_made_for_the_older_certificate_still_opens_after_the_renewal(rig: Rig) -> None:
    agent = await rig.deploy()
    unused = rig.session(agent)
    await rig.follow(PERIOD)
    assert (await rig.call(agent, session=unused)).whole


async def test_a_committee_that_does_not_renew_ends_the_agent_with_its_lease(rig: Rig) -> None:
    agent = await rig.deploy()
    assert (await rig.call(agent)).whole
    session = rig.session(agent)
    rig.refuse = CAP(expected="room", found="none")
    await rig.follow(PERIOD)
    assert (await rig.call(agent, session=session)).whole, "the lease still lasts"
    assert rig.table.problems[agent].code == "policy.cap"
    await rig.follow(PERIOD)
    assert not rig.table.placed()
    assert not rig.sessions.certificates
    await settle()
    assert not rig.sandbox.running
    rig.refuse = None
    await rig.follow(1)
    assert (await rig.call(agent)).whole


async def test_keys_are_forgotten_by_height_even_when_no_chain_endpoint_answers(rig: Rig) -> None:
    agent = await rig.deploy()
    rig.rpc.down = True
    rig.world.mine(2 * PERIOD)
    await rig.watch.refresh()
    await refused(rig.table.reconcile(), "chain.unreachable")
    assert not rig.table.placed()
    assert not rig.sessions.certificates
    with pytest.raises(CloisterError, match=r"worker\.no_such_agent"):
        rig.table.get(agent)


async def test_a_lease_that_ended_while_it_was_fetched_is_not_taken(rig: Rig) -> None:
    rig.terms = {"period": 1, "expiry": rig.world.number}
    agent = await rig.deploy()
    assert rig.table.problems[agent].code == "worker.wrong_lease"
    assert not rig.table.placed()


WRONG: dict[str, dict[str, Any]] = {
    "other code": {"code_hash": b"\x01" * 32},
    "another manifest": {"manifest_hash": b"\x01" * 32},
    "another cluster": {"cluster": b"\x01" * 32},
    "another agent epoch": {"agent_epoch": 9},
    "another cluster epoch": {"cluster_epoch": 9},
    "another master epoch": {"master_epoch": 9},
}


async def test_a_lease_that_says_something_else_than_the_chain_is_refused(rig: Rig) -> None:
    agent = rig.world.set_agent()
    for name, terms in WRONG.items():
        rig.terms = terms
        await rig.follow(1)
        assert rig.table.problems[agent].code == "worker.wrong_lease", name
        assert len(rig.table.placed()) + len(rig.sessions.certificates) == 0, name


# --- another version ---


async def test_new_code_means_new_lease_new_process_and_the_end_of_old_sessions(rig: Rig) -> None:
    agent = await rig.deploy()
    session = rig.session(agent)
    assert (await rig.call(agent, session=session)).whole
    old = rig.sandbox.processes[0]
    new = b"export default { fetch: () => new Response('second') }"
    digest = await rig.fabric.blobs.put(new)
    rig.world.set_agent(code_hash=digest)
    await rig.follow(1)
    await until(lambda: not old.alive)
    assert rig.seat(agent).certificate.code_hash == digest
    await refused(rig.call(agent, session=session), "envelope.certificate_unknown")
    assert (await rig.call(agent)).whole
    assert rig.sandbox.processes[1].spec.bundle == new


class Slow:
    """An agent that answers when ``gate`` opens, and writes what its version is."""

    def __init__(self) -> None:
        self.gate, self.begun = asyncio.Event(), 0

    async def __call__(self, request: AgentRequest, ctx: Calls) -> Reply:
        self.begun += 1
        await self.gate.wait()
        await put(ctx, "k", request.body)
        return Reply(body=[request.body])


async def second_version(rig: Rig) -> None:
    rig.world.set_agent(code_hash=await rig.fabric.blobs.put(b"export default { fetch: () => new Response('second') }"))


async def test_new_code_loses_no_request_those_let_in_end_and_commit_under_the_old_version(make: Make) -> None:
    slow = Slow()
    rig = await make(slow)
    agent = await rig.deploy()
    asked = [asyncio.ensure_future(rig.call(agent, bytes([n]))) for n in (65, 66)]
    await until(lambda: slow.begun == 2)
    old = rig.sandbox.processes[0]
    await second_version(rig)
    await rig.follow(1)
    later = asyncio.ensure_future(rig.call(agent, b"C"))
    await until(lambda: slow.begun == 3)
    assert [p.alive for p in rig.sandbox.processes] == [True, True], "both versions run for a moment"
    slow.gate.set()
    answers = [await one for one in (*asked, later)]
    assert [(got.code, got.body, got.whole) for got in answers] == [("", b, True) for b in (b"A", b"B", b"C")]
    assert all(got.receipt for got in answers)
    await until(lambda: not old.alive)
    assert (await rig.placed(agent).state.snapshot()).record.height == 3


@pytest.mark.parametrize("what", ["epoch", "pause", "pause seen", "cluster", "close"])
async def test_what_ends_an_agent_ends_its_older_version_too_at_once(make: Make, what: str) -> None:
    slow = Slow()
    rig = await make(slow)
    agent = await rig.deploy()
    asked = asyncio.ensure_future(rig.call(agent, b"A"))
    await until(lambda: slow.begun)
    await second_version(rig)
    await rig.follow(1)
    old = rig.sandbox.processes[0]
    assert old.alive
    state = rig.placed(agent).state
    if what == "close":
        await rig.table.close()
    elif what == "pause seen":
        rig.world.paused_now.add(agent)
        await rig.watch.watch_pause(agent)
        await rig.table.reconcile()
    else:
        change = {"epoch": {"epoch": 2}, "pause": {"paused": True}, "cluster": {"cluster": b"\x09" * 32}}[what]
        rig.world.set_agent(**change)
        await rig.follow(1)
    await until(lambda: not old.alive)
    slow.gate.set()
    assert (await asked).code in ("sandbox.closed", "worker.no_such_agent")
    assert (await state.snapshot()).record.height == 0


@pytest.mark.parametrize("layer", ["agent", "cluster"])
async def test_a_closed_epoch_serves_no_more_even_if_nobody_leases_the_new_one(rig: Rig, layer: str) -> None:
    agent = await rig.deploy()
    session = rig.session(agent)
    if layer == "agent":
        rig.world.set_agent(epoch=2)
    else:
        set_cluster_epoch(rig.world, 2)
    rig.refuse = CAP(expected="room", found="none")
    await rig.follow(1)
    assert not rig.table.placed()
    await refused(rig.call(agent, session=session), "worker.no_such_agent")
    rig.refuse, rig.terms = None, {"cluster_epoch": 2 if layer == "cluster" else 1}
    await rig.follow(1)
    assert (await rig.call(agent)).whole


async def test_the_store_must_hold_the_code_that_the_chain_names(rig: Rig) -> None:
    agent = await rig.deploy()
    rig.world.set_agent(code_hash=b"\x09" * 32)
    await rig.follow(1)
    assert (await rig.call(agent)).code == "fabric.no_blob"


# --- secrets ---


async def with_secrets(rig: Rig, *, names: list[str] | None = None) -> bytes:
    """An agent whose manifest declares a secret."""
    encoded = bytes(manifest(secrets=names or ["API_KEY"], env=["API_KEY"]))
    digest = await rig.fabric.blobs.put(encoded)
    return await rig.deploy(manifest_hash=digest)


async def test_secrets_that_change_are_there_with_the_next_request_and_in_no_log(make: Make) -> None:
    async def agent_fn(request: AgentRequest, ctx: Calls) -> Reply:
        process = rig.sandbox.processes[-1]
        ctx.host.log(request.request_id, "info", f"my key is {process.spec.secrets.get('API_KEY')}")
        return Reply(body=[process.spec.secrets.get("API_KEY", "none").encode()])

    rig = await make(agent_fn)
    agent = await with_secrets(rig)
    session = rig.session(agent)
    assert (await rig.call(agent, session=session)).body == b"none"
    for version, value in enumerate(("sk-first-value", "sk-second-value"), 1):
        await rig.set_secrets(agent, {"API_KEY": value, "NOT_DECLARED": "x"}, version=version)
        await rig.follow(1)
        assert (await rig.call(agent, session=session)).body == value.encode(), "sessions survive"
        spec = rig.sandbox.processes[-1].spec
        assert dict(spec.env) == {"API_KEY": value}
        assert set(spec.secrets) == {"API_KEY"}
        assert value not in repr(spec)
    assert rig.sandbox.starts == 3
    await until(lambda: len(rig.sandbox.running) == 1)
    assert [text for _, text in rig.logged] == ["my key is None", *["my key is [redacted]"] * 2]


SPOILT: dict[str, tuple[dict[str, Any], str]] = {
    "a ciphertext that the store does not have": ({"secrets_hash": b"\x01" * 32}, "fabric.no_blob"),
    "another setter than the one who sealed": ({"secrets_setter": b"\x01" * 20}, "worker.wrong_secrets"),
    "another version than the one sealed": ({"secrets_version": 7}, "worker.wrong_secrets"),
    "an epoch that is closed": ({"secrets_epoch": 0}, ""),
    "none set": ({"secrets_hash": bytes(32)}, ""),
}


async def test_secrets_count_only_as_the_owner_committed_to_them(make: Make) -> None:
    async def agent_fn(request: AgentRequest, ctx: Calls) -> Reply:
        return Reply(body=[repr(dict(rig.sandbox.processes[-1].spec.secrets)).encode()])

    rig = await make(agent_fn)
    agent = await with_secrets(rig)
    for case, (spoilt, code) in SPOILT.items():
        await rig.set_secrets(agent, {"API_KEY": "sk-value"}, **spoilt)
        await rig.follow(1)
        got = await rig.call(agent)
        assert (got.code, got.body) == (code, b"" if code else b"{}"), case
    for values in (["sk-in-a-list"], {"API_KEY": 1}, "sk-text", {"API_KEY": {"a": "sk-deep"}}):
        await rig.set_secrets(agent, values)
        await rig.follow(1)
        got = await rig.call(agent)
        assert got.code == WRONG_SECRETS.code, values
        assert "sk-" not in str(got.error), values


async def test_an_epoch_bump_withholds_the_secrets_of_the_old_epoch(make: Make) -> None:
    async def agent_fn(request: AgentRequest, ctx: Calls) -> Reply:
        return Reply(body=[rig.sandbox.processes[-1].spec.secrets.get("API_KEY", "none").encode()])

    rig = await make(agent_fn)
    agent = await with_secrets(rig)
    await rig.set_secrets(agent, {"API_KEY": "sk-value"})
    await rig.follow(1)
    assert (await rig.call(agent)).body == b"sk-value"
    rig.world.set_agent(epoch=2)
    await rig.follow(1)
    assert (await rig.call(agent)).body == b"none"


async def test_secrets_that_change_while_the_process_starts_are_the_newest(make: Make) -> None:
    async def agent_fn(request: AgentRequest, ctx: Calls) -> Reply:
        return Reply(body=[rig.sandbox.running[0].spec.secrets.get("API_KEY", "none").encode()])

    rig = await make(agent_fn)
    agent = await with_secrets(rig)
    rig.sandbox.gate = asyncio.Event()
    task = asyncio.ensure_future(rig.call(agent))
    await until(lambda: rig.sandbox.starts)
    await rig.set_secrets(agent, {"API_KEY": "sk-new-value"})
    await rig.follow(1)
    rig.sandbox.gate.set()
    assert (await task).body == b"sk-new-value"
    assert rig.sandbox.starts == 2
    assert len(rig.sandbox.running) == 1


# --- pauses ---


async def test_a_pause_seen_at_any_block_stops_the_process_and_a_proven_resume_brings_the_agent_back(rig: Rig) -> None:
    agent = await rig.deploy()
    assert (await rig.call(agent)).whole
    news = rig.watch.news
    rig.world.paused_now.add(agent)
    rig.world.number += 3  # the endpoint is ahead of the checkpoint
    rig.world.blocks[rig.world.number] = rig.world.blocks[rig.world.number - 3]
    rig.world.proofs[rig.world.number] = rig.world.proofs[rig.world.number - 3]
    await rig.watch.watch_pause(agent)
    assert rig.watch.news == news + 1, "the table is woken"
    await refused(rig.call_with(agent), "policy.paused")
    await rig.table.reconcile()
    await settle()
    assert not rig.table.placed()
    assert not rig.sandbox.running
    assert not rig.sessions.certificates
    rig.world.paused_now.clear()
    await rig.watch.watch_pause(agent)
    assert rig.watch.seen_paused(agent), "the endpoint's second thought counts nothing"
    await rig.follow(1)
    await rig.watch.watch_pause(agent)
    assert not rig.watch.seen_paused(agent), "a checkpoint above the sighting proves that it runs"
    await rig.table.reconcile()
    assert (await rig.call(agent)).whole


async def test_a_proven_pause_drops_and_a_proven_resume_takes_up_again(rig: Rig) -> None:
    agent = await rig.deploy()
    rig.world.set_agent(paused=True)
    await rig.follow(1)
    assert not rig.table.placed()
    rig.world.set_agent(paused=False)
    await rig.follow(1)
    assert (await rig.call(agent)).whole


async def test_an_agent_that_is_paused_while_its_lease_is_fetched_is_not_taken(rig: Rig) -> None:
    agent = rig.world.set_agent()

    async def paused_meanwhile(name: bytes) -> None:
        rig.world.paused_now.add(agent)
        await rig.watch.watch_pause(agent)

    rig.on_acquire = paused_meanwhile
    await rig.follow(1)
    assert not rig.table.placed()
    assert not rig.sessions.certificates


# --- processes ---


async def test_callers_share_one_start_and_one_that_leaves_stops_nobody(rig: Rig) -> None:
    agent = await rig.deploy()
    rig.sandbox.gate = asyncio.Event()
    tasks = [asyncio.ensure_future(rig.call(agent)) for _ in range(3)]
    await until(lambda: rig.sandbox.starts)
    tasks[0].cancel()
    await settle()
    rig.sandbox.gate.set()
    assert [(await t).whole for t in tasks[1:]] == [True, True]
    assert rig.sandbox.starts == 1


async def test_an_agent_that_is_dropped_while_it_starts_leaves_no_process(rig: Rig) -> None:
    agent = await rig.deploy()
    rig.sandbox.gate = asyncio.Event()
    task = asyncio.ensure_future(rig.call(agent))
    await until(lambda: rig.sandbox.starts)
    rig.world.set_agent(paused=True)
    await rig.follow(1)
    got = await task
    assert got.code == "worker.no_such_agent"
    assert got.whole
    rig.sandbox.gate.set()
    await settle()
    assert not rig.sandbox.running


async def test_a_crashed_process_is_replaced_by_the_next_request_and_state_is_kept(make: Make) -> None:
    async def agent_fn(request: AgentRequest, ctx: Calls) -> Reply:
        if request.body == b"crash":
            rig.sandbox.processes[-1].crash()
            await asyncio.sleep(1)
        await put(ctx, "k", request.body)
        return Reply()

    rig = await make(agent_fn)
    agent = await rig.deploy()
    session = rig.session(agent)
    codes = [(await rig.call(agent, body, session=session)).code for body in (b"one", b"crash", b"two")]
    assert codes == ["", "sandbox.crashed", ""]
    assert rig.sandbox.starts == 2
    tx = await rig.placed(agent).state.begin("reader")
    assert (await tx.get("k"), tx.record.height) == (b"two", 2)


async def test_closing_ends_every_process_and_every_start(rig: Rig) -> None:
    one, two = await rig.deploy(1), await rig.deploy(2)
    assert (await rig.call(one)).whole
    rig.sandbox.gate = asyncio.Event()
    waiting = asyncio.ensure_future(rig.call(two))
    await until(lambda: rig.sandbox.starts >= 2)
    await rig.table.close()
    assert not rig.sandbox.running
    assert not rig.table.placed()
    assert not rig.sessions.certificates
    assert (await waiting).code == "worker.no_such_agent"


async def test_leaving_announces_nothing_and_still_serves(rig: Rig) -> None:
    agent = await rig.deploy()
    session = rig.session(agent)
    rig.table.changed.clear()
    rig.table.leave()
    assert rig.table.seats() == []
    assert rig.table.changed.is_set()
    assert (await rig.call(agent, session=session)).whole


async def test_state_that_the_committee_knows_to_be_newer_is_not_served(rig: Rig) -> None:
    agent = rig.world.set_agent()
    rig.known = [Answer(bytes([n]) * 20, 5, b"\x01" * 32) for n in range(3)]
    await rig.follow(1)
    assert rig.table.problems[agent].code == "state.rolled_back"
    assert not rig.table.placed()


# --- many agents ---


async def test_one_turn_asks_for_a_share_of_the_leases_new_agents_first_and_the_next_ones_go_on(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agents, "LEASES", 3)
    held = [rig.world.set_agent(n) for n in range(1, 4)]
    await rig.follow(1)
    assert set(rig.table.placed()) == set(held)
    assert not rig.table.behind
    fresh = [rig.world.set_agent(n) for n in range(4, 7)]
    rig.acquired.clear()
    await rig.follow(PERIOD)
    assert set(rig.acquired) == set(fresh), "those that nobody can call yet come before renewals"
    assert rig.table.behind
    assert all(rig.placed(a).keys.terms.period < rig.placed(fresh[0]).keys.terms.period for a in held)
    await rig.table.reconcile()
    assert not rig.table.behind
    assert sorted(rig.acquired) == sorted(held + fresh)
    await rig.table.reconcile()
    assert len(rig.acquired) == 6, "a lease is not asked for twice"


async def test_agents_that_fail_do_not_starve_the_others(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agents, "LEASES", 2)
    names = [rig.world.set_agent(n) for n in range(1, 7)]

    async def broken(agent: bytes) -> None:
        if agent in names[:4]:
            raise CAP(expected="room", found="none")

    rig.on_acquire = broken
    await rig.follow(1)
    for _ in range(3):
        await rig.table.reconcile()
    assert set(rig.table.placed()) == set(names[4:])
    assert set(rig.table.problems) == set(names[:4]), "a refusal is remembered until the next try"


async def test_an_agent_that_sleeps_is_not_read_again_until_something_changes(rig: Rig) -> None:
    for number in range(1, 9):
        rig.world.set_agent(number)
    await rig.follow(1)
    rig.rpc.asked.clear()
    for _ in range(5):
        await rig.follow(1)
    quiet = rig.rpc.asked.count("eth_getProof")
    rig.world.set_agent(3, paused=True)
    await rig.follow(1)
    assert len(rig.table.placed()) == 7, "a change of one is found at once"
    assert quiet <= 5 * 10, "per checkpoint one proof for each word of the network, none for each agent"


async def test_pauses_of_sleeping_agents_are_asked_only_when_a_newer_block_changed_something(
    rig: Rig,
) -> None:
    names = {rig.world.set_agent(n) for n in range(1, 7)}
    await rig.follow(1)
    watched: list[bytes] = []

    async def watch(agent: bytes) -> None:
        watched.append(agent)
        await rig.watch.watch_pause(agent)

    async def sweep() -> int:
        watched.clear()
        await rig.watch._sweep("pauses", watch, names, set(rig.watch._restricted))
        return len(watched)

    assert await sweep() == 6
    assert await sweep() == 0
    rig.world.set_agent(2, paused=True)
    rig.world.mine()
    assert await sweep() == 6
    paused = next(a for a in names if rig.watch.seen_paused(a))
    assert await sweep() == 1, "one that is seen paused is watched on, until a checkpoint proves its end"
    assert watched == [paused]
    names.add(rig.world.set_agent(7))
    rig.world.mine()
    assert await sweep() == 7
    rig.rpc.refuse = {"eth_getProof"}
    assert await sweep() == 7, "an endpoint that does not say whether anything changed is asked about everybody"


async def test_an_owner_has_at_most_the_configured_number_of_agents_here_and_those_held_stay(make: Make) -> None:
    rig = await make()
    rig.table._devices = replace(rig.table._devices, budget=Budget(owner_agents=2))
    first = rig.world.set_agent(1, paused=True)
    hers = [rig.world.set_agent(n) for n in (2, 3, 4)]
    his = rig.world.set_agent(5, owner=b"\x0b" * 20)
    await rig.follow(1)
    assert set(rig.table.placed()) == {*hers[:2], his}
    assert {a: e.code for a, e in rig.table.problems.items()} == {hers[2]: "worker.owner_quota"}
    rig.world.set_agent(1, paused=False)
    await rig.follow(1)
    assert set(rig.table.placed()) == {*hers[:2], his}, "what is held stays"
    rig.world.set_agent(2, paused=True)
    await rig.follow(1)
    assert set(rig.table.placed()) == {first, hers[1], his}, "then the oldest comes"
