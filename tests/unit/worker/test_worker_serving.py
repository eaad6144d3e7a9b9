"""One sealed request through the real server, store and envelope, with fake agents: answers, refusals, races, ends."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from cloister.core.encoding.signatures import address_of, sign_digest
from cloister.core.envelope.client import ClientSession, Psk, seal_once
from cloister.core.errors import CloisterError
from cloister.core.receipts.receipt import Receipt
from cloister.sandbox.errors import THREW
from cloister.sandbox.ports import AgentRequest
from cloister.worker import serve
from cloister.worker.processes import Pause
from support.fake_sandbox import Agent, Calls, Reply, hello
from support.fake_world import MPK, test_key
from support.worker_kit import Got, Rig, Sink, get, opened, put, refused, until

Make = Callable[[Agent], Awaitable[Rig]]


def receipt_of(got: Got) -> Receipt:
    assert got.receipt is not None, got.code
    return got.receipt


async def stored(rig: Rig, agent: bytes, key: str) -> bytes | None:
    return await (await rig.placed(agent).state.begin("reader")).get(key)


# --- the good path ---


async def test_a_request_is_opened_run_answered_and_receipted(make: Make) -> None:
    async def echo(request: AgentRequest, ctx: Calls) -> Reply:
        return Reply(201, (("X-Kind", "echo"),), [request.method.encode(), b" ", request.body])

    rig = await make(echo)
    agent = await rig.deploy()
    got = await rig.call(agent, b"body", path="/ask?x=1", headers=(("a", "b"),))
    assert (got.status, got.headers, got.body, got.whole) == (201, (("x-kind", "echo"),), b"POST body", True)
    receipt = receipt_of(got)
    assert (receipt.seq, receipt.status, receipt.checkpoint) == (0, 201, rig.world.number)
    used = receipt.usage
    assert (used.cpu_us, used.request_bytes, used.response_bytes) == (1000, 4, 9)
    assert (used.egress_bytes, used.ingress_bytes, used.memory_peak_bytes) == (0, 20, 9)
    assert 0 < used.duration_us < 60_000_000
    seen = rig.sandbox.processes[0].requests[0]
    assert (seen.path, tuple(seen.headers), seen.caller) == ("/ask?x=1", (("a", "b"),), None)
    assert rig.server.served == 1
    assert rig.server.active == 0


async def test_many_requests_share_one_process_and_the_receipts_are_one_chain(rig: Rig) -> None:
    agent = await rig.deploy()
    session = rig.session(agent)
    receipts = [receipt_of(await rig.call(agent, session=session)) for _ in range(3)]
    assert [r.seq for r in receipts] == [0, 1, 2]
    assert receipts[1].prev == receipts[0].id
    assert receipts[2].prev == receipts[1].id
    assert rig.sandbox.starts == 1
    assert session.confirmed


async def test_a_wallet_reaches_the_agent_and_only_the_wallet_that_signed(make: Make) -> None:
    async def who(request: AgentRequest, ctx: Calls) -> Reply:
        return Reply(body=[str(request.caller and request.caller["address"]).encode()])

    rig = await make(who)
    agent = await rig.deploy()
    session, key = rig.session(agent), test_key("wallet")
    session.authenticate(address_of(key), int(rig.world.now) + 60, lambda d: sign_digest(key, d))
    assert (await rig.call(agent, session=session)).body == b"0x" + address_of(key).hex().encode()
    assert (await rig.call(agent, session=session)).body == b"0x" + address_of(key).hex().encode()
    forged = rig.session(agent)
    forged.authenticate(address_of(test_key("other")), int(rig.world.now) + 60, lambda d: sign_digest(key, d))
    assert (await rig.call(agent, session=forged)).code == "envelope.caller"


async def test_headers_of_one_hop_pass_in_neither_direction(make: Make) -> None:
    hop = tuple((name, "x") for name in sorted(serve.HOP_HEADERS))

    async def agent_fn(request: AgentRequest, ctx: Calls) -> Reply:
        assert tuple(request.headers) == (("accept", "y"),)
        return Reply(200, (*((n.title(), v) for n, v in hop), ("Set-Cookie", "z")))

    rig = await make(agent_fn)
    got = await rig.call(await rig.deploy(), headers=(*hop, ("accept", "y")))
    assert got.headers == (("set-cookie", "z"),)


# --- refusals, by sentence ---


async def _unknown(rig: Rig, agent: bytes) -> None:
    await rig.server.serve(b"\x77" * 32, b"", Sink())


async def _paused(rig: Rig, agent: bytes) -> None:
    session = rig.session(agent)
    assert (await rig.call(agent, session=session)).whole
    rig.world.paused_now.add(agent)
    await rig.watch.watch_pause(agent)
    await rig.call(agent, session=session)


async def _stale(rig: Rig, agent: bytes) -> None:
    rig.now_s += 15.1
    await rig.call(agent)


async def _replayed(rig: Rig, agent: bytes) -> None:
    session = rig.session(agent)
    sealed = session.seal(rig.head(), b"")
    await rig.send(session.certificate, sealed)
    await rig.server.serve(agent, sealed.data, Sink())


async def _one_shot_replayed(rig: Rig, agent: bytes) -> None:
    certificate = rig.seat(agent).certificate
    sealed = seal_once(
        certificate, Psk.encapsulate(certificate, MPK, os.urandom), rig.head(), b"", os.urandom, max_body=99
    )
    assert (await rig.send(certificate, sealed)).whole
    await rig.server.serve(agent, sealed.data, Sink())


async def _other_boot(rig: Rig, agent: bytes) -> None:
    data = rig.session(agent).seal(rig.head(), b"").data
    await rig.server.serve(agent, data[:6] + os.urandom(32) + data[38:], Sink())


async def _no_psk(rig: Rig, agent: bytes) -> None:
    await rig.server.serve(agent, rig.session(agent).seal(rig.head(), b"", with_ibe=False).data, Sink())


async def _psk_for_another_agent(rig: Rig, agent: bytes) -> None:
    other = await rig.deploy(2)
    there = Psk.encapsulate(rig.seat(other).certificate, MPK, os.urandom)
    psk = Psk(rig.seat(agent).certificate.id, there.secret, there.ciphertext, there.id)
    session = ClientSession(rig.seat(agent).certificate, psk, os.urandom)
    await rig.server.serve(agent, session.seal(rig.head(), b"").data, Sink())


async def _another_agents_record(rig: Rig, agent: bytes) -> None:
    other = await rig.deploy(2)
    await rig.server.serve(other, rig.session(agent).seal(rig.head(), b"").data, Sink())


async def _flipped(rig: Rig, agent: bytes) -> None:
    data = rig.session(agent).seal(rig.head(), b"").data
    await rig.server.serve(agent, data[:-1] + bytes([data[-1] ^ 1]), Sink())


async def _garbage(rig: Rig, agent: bytes) -> None:
    await rig.server.serve(agent, os.urandom(300), Sink())


async def _lease_over(rig: Rig, agent: bytes) -> None:
    session = rig.session(agent)
    rig.world.mine(200)
    await rig.watch.refresh()  # the table did not turn yet: serving alone forgets the keys
    await rig.call(agent, session=session)


UNOPENED = {
    "an agent that is not placed here": (_unknown, "worker.no_such_agent"),
    "a paused agent, at once, also for a session that is open": (_paused, "policy.paused"),
    "a worker that is cut off from the committee": (_stale, "worker.stale_view"),
    "a request sent twice": (_replayed, "envelope.replay"),
    "a one-shot request sent twice": (_one_shot_replayed, "envelope.replay"),
    "a request for another start of this worker": (_other_boot, "envelope.wrong_boot"),
    "a pre-shared key that the worker does not have": (_no_psk, "envelope.psk_unknown"),
    "a pre-shared key made for another agent": (_psk_for_another_agent, "threshold.ibe_not_opened"),
    "a record sealed to another agent of this worker": (_another_agents_record, "envelope.certificate_unknown"),
    "one flipped bit": (_flipped, "envelope.not_authentic"),
    "random bytes": (_garbage, "envelope.malformed"),
    "a lease that the height has ended, before the table turns": (_lease_over, "worker.no_such_agent"),
}


@pytest.mark.parametrize("case", UNOPENED, ids=str)
async def test_what_cannot_be_opened_is_refused_before_the_agent_hears_of_it(rig: Rig, case: str) -> None:
    run, code = UNOPENED[case]
    agent = await rig.deploy()
    await refused(run(rig, agent), code)
    assert rig.server.refused == 1
    assert rig.server.active == 0


async def _threw(request: AgentRequest, ctx: Calls) -> Reply:
    raise THREW(expected="a response", found="TypeError")


async def _never(request: AgentRequest, ctx: Calls) -> Reply:
    await asyncio.Event().wait()
    raise RuntimeError


async def _bad_header(request: AgentRequest, ctx: Calls) -> Reply:
    return Reply(200, (("a", "x" * 20_000),))


async def _escapes(request: AgentRequest, ctx: Calls) -> Reply:
    return Reply(200, tuple((f"h{n}", '"' * 16_000) for n in range(3)))


async def _bad_status(request: AgentRequest, ctx: Calls) -> Reply:
    return Reply(999)


async def _breaks(request: AgentRequest, ctx: Calls) -> Reply:
    raise KeyError("a fault of ours, with a text that must not travel")


async def _writes_then_bad(request: AgentRequest, ctx: Calls) -> Reply:
    await put(ctx, "k", b"v")
    return Reply(999)


async def _no_such_call(request: AgentRequest, ctx: Calls) -> Reply:
    await ctx("keys.everything")
    return Reply()


SEALED: dict[str, tuple[Agent, str]] = {
    "an agent that throws": (_threw, "sandbox.agent_threw"),
    "an agent that does not answer in time": (_never, "sandbox.deadline"),
    "a header that does not fit a sealed head": (_bad_header, "sandbox.bad_response"),
    "headers that grow over the cap when they are encoded": (_escapes, "sandbox.bad_response"),
    "a status that HTTP does not have": (_bad_status, "sandbox.bad_response"),
    "a fault of the worker": (_breaks, "frames.internal"),
    "a response that cannot be sent, after a write": (_writes_then_bad, "sandbox.bad_response"),
    "a host call that the worker does not offer": (_no_such_call, "sandbox.no_such_call"),
}


@pytest.mark.parametrize("case", SEALED, ids=str)
async def test_what_fails_after_opening_is_sealed_has_no_receipt_and_commits_nothing(make: Make, case: str) -> None:
    agent_fn, code = SEALED[case]
    rig = await make(agent_fn)
    agent = await rig.deploy()
    rig.sandbox.wall_s = 0.05
    got = await rig.call(agent)
    assert (got.code, got.whole, got.receipt, got.status) == (code, True, None, 0)
    assert "must not travel" not in str(got.error)
    assert rig.receipts.head[0] == 0
    assert (await rig.placed(agent).state.snapshot()).record.height == 0
    assert rig.server.refused == 1
    assert rig.sandbox.processes[0].open == 0
    rig.sandbox.agent, rig.sandbox.wall_s = hello, None
    assert receipt_of(await rig.call(agent)).seq == 0


async def test_a_start_that_fails_is_sealed_and_not_repeated_at_once(rig: Rig) -> None:
    agent = await rig.deploy()
    rig.sandbox.error = THREW(expected="a start", found="none")
    codes = [(await rig.call(agent)).code for _ in range(3)]
    assert codes == ["sandbox.agent_threw"] * 3
    assert rig.sandbox.starts == 1
    rig.sandbox.error = None
    rig.placed(agent).pool.pause = Pause()
    assert (await rig.call(agent)).whole


async def test_deadlines_that_are_past_or_far_are_refused_sealed(rig: Rig) -> None:
    agent = await rig.deploy()
    for ahead in (-1, 0, 11 * 60_000):
        assert (await rig.call(agent, deadline_ms=rig.now_ms() + ahead)).code == "envelope.deadline"
    assert rig.sandbox.starts == 0


async def test_a_worker_that_never_starts_the_agent_answers_by_the_deadline(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serve, "GRACE_S", 0.0)
    agent = await rig.deploy()
    rig.sandbox.gate = asyncio.Event()
    assert (await rig.call(agent, deadline_ms=rig.now_ms() + 30)).code == "sandbox.deadline"
    rig.sandbox.gate.set()
    assert (await rig.call(agent)).whole, "the start went on for others"
    assert rig.sandbox.starts == 1


# --- state ---


async def test_writes_are_durable_before_the_head_leaves_and_the_receipt_names_both_heads(make: Make) -> None:
    async def counter(request: AgentRequest, ctx: Calls) -> Reply:
        count = int(await get(ctx, "n") or b"0") + (request.method == "POST")
        if request.method == "POST":
            await put(ctx, "n", str(count).encode())
        return Reply(body=[str(count).encode()])

    rig = await make(counter)
    agent = await rig.deploy()
    committed_at_head: list[int] = []

    class Watching(Sink):
        async def send(self, data: bytes) -> None:
            committed_at_head.append((await rig.placed(agent).state.snapshot()).record.height)
            await super().send(data)

    session = rig.session(agent)
    first = await rig.send(session.certificate, session.seal(rig.head(), b""), Watching())
    assert first.body == b"1"
    assert committed_at_head[0] == 1
    second = receipt_of(await rig.call(agent))
    read = receipt_of(await rig.call(agent, method="GET"))
    state = receipt_of(first).state
    assert state.kind == "local"
    assert second.state.before == state.after != second.state.after
    assert read.state.before == read.state.after == second.state.after


async def test_a_repeated_request_id_is_already_done_unless_it_wrote_nothing(make: Make) -> None:
    runs: list[str] = []

    async def agent_fn(request: AgentRequest, ctx: Calls) -> Reply:
        runs.append(request.method)
        if request.method == "POST":
            await put(ctx, "k", b"v")
        return Reply()

    rig = await make(agent_fn)
    agent = await rig.deploy()
    session, name = rig.session(agent), "0x" + "ab" * 16
    assert (await rig.call(agent, session=session, request_id=name)).whole
    again = await rig.call(agent, session=session, request_id=name)
    assert again.code == "state.already_done"
    assert again.receipt is None
    assert runs == ["POST"]
    other = "0x" + "cd" * 16
    for _ in range(2):
        assert (await rig.call(agent, session=session, request_id=other, method="GET")).status == 200


async def test_one_request_id_at_once_twice_commits_once_and_the_two_never_share_state(make: Make) -> None:
    gate, started = asyncio.Event(), asyncio.Semaphore(0)

    async def agent_fn(request: AgentRequest, ctx: Calls) -> Reply:
        await put(ctx, request.body.decode(), b"v")
        started.release()
        await gate.wait()
        return Reply()

    rig = await make(agent_fn)
    agent = await rig.deploy()
    name = "0x" + "ab" * 16
    sessions = [rig.session(agent), rig.session(agent)]
    both = [
        asyncio.ensure_future(rig.call(agent, body, session=s, request_id=name))
        for s, body in zip(sessions, (b"one", b"two"), strict=True)
    ]
    await started.acquire()
    await started.acquire()
    gate.set()
    codes = sorted(got.code for got in await asyncio.gather(*both))
    assert codes == ["", "state.already_done"]
    assert len([k for k in ("one", "two") if await stored(rig, agent, k) is not None]) == 1
    assert len({r.request_id for r in rig.sandbox.processes[0].requests}) == 2


async def _race(make: Make, losses: int) -> tuple[Rig, bytes, Got, list[bytes]]:
    """The agent adds one to a number, while somebody else does so ``losses`` times between its read and its answer."""
    shown: list[bytes] = []

    async def agent_fn(request: AgentRequest, ctx: Calls) -> Reply:
        count = int(await get(ctx, "n") or b"0")
        if len(shown) < losses:
            other = await rig.placed(agent).state.begin(f"other{len(shown)}")
            await other.put("n", str(count + 1).encode())
            await other.commit(f"other{len(shown)}")
        await put(ctx, "n", str(count + 1).encode())
        shown.append(str(count + 1).encode())
        return Reply(body=[shown[-1]])

    rig = await make(agent_fn)
    agent = await rig.deploy()
    return rig, agent, await rig.call(agent), shown


async def test_a_handler_that_lost_a_race_is_run_again_and_nothing_of_the_lost_run_is_shown(make: Make) -> None:
    rig, agent, got, runs = await _race(make, 2)
    assert runs == [b"1", b"2", b"3"]
    assert got.body == b"3"
    assert got.whole
    assert await stored(rig, agent, "n") == b"3"
    process = rig.sandbox.processes[0]
    assert (len(process.cancelled), process.open) == (2, 0), "lost attempts are cancelled"
    assert len({r.request_id for r in process.requests}) == 3


async def test_three_lost_races_are_a_sealed_conflict(make: Make) -> None:
    rig, agent, got, runs = await _race(make, 3)
    assert (got.code, got.status, len(runs)) == ("state.conflict", 0, 3)
    assert await stored(rig, agent, "n") == b"3"
    assert rig.receipts.head[0] == 0


async def test_writes_while_the_body_streams_are_one_more_commit_before_the_end(make: Make) -> None:
    async def agent_fn(request: AgentRequest, ctx: Calls) -> Reply:
        if request.body == b"both":
            await put(ctx, "head", b"h")

        async def body() -> AsyncIterator[bytes]:
            yield b"a"
            await put(ctx, "tail", (await get(ctx, "head")) or b"none")
            yield b"b"

        return Reply(body=body())

    rig = await make(agent_fn)
    agent = await rig.deploy()
    session, names = rig.session(agent), ["0x" + "01" * 16, "0x" + "02" * 16]
    tail_only = await rig.call(agent, b"tail", session=session, request_id=names[0])
    assert (tail_only.body, await stored(rig, agent, "tail")) == (b"ab", b"none")
    both = await rig.call(agent, b"both", session=session, request_id=names[1])
    assert (both.body, await stored(rig, agent, "tail")) == (b"ab", b"h")
    heads = [receipt_of(tail_only).state, receipt_of(both).state]
    record = (await rig.placed(agent).state.snapshot()).record
    assert record.height == 3
    assert heads[0].after == heads[1].before
    assert heads[1].after == record.head
    for name in names:
        assert (await rig.call(agent, b"tail", session=session, request_id=name)).code == "state.already_done"


async def test_a_body_that_breaks_off_commits_nothing_more_and_says_so_sealed(make: Make) -> None:
    async def agent_fn(request: AgentRequest, ctx: Calls) -> Reply:
        await put(ctx, "head", b"h")

        async def body() -> AsyncIterator[bytes]:
            yield b"some"
            await put(ctx, "tail", b"t")
            rig.sandbox.processes[0].crash()
            await asyncio.sleep(1)
            yield b"never"

        return Reply(body=body())

    rig = await make(agent_fn)
    agent = await rig.deploy()
    got = await rig.call(agent)
    assert (got.status, got.body, got.code, got.whole, got.receipt) == (200, b"some", "sandbox.crashed", True, None)
    assert (await stored(rig, agent, "head"), await stored(rig, agent, "tail")) == (b"h", None)
    rig.sandbox.agent = hello
    assert (await rig.call(agent)).whole
    assert rig.sandbox.starts == 2, "the next request has a new process"


async def test_host_calls_after_the_end_are_refused(make: Make) -> None:
    kept: list[Calls] = []

    async def agent_fn(request: AgentRequest, ctx: Calls) -> Reply:
        kept.append(ctx)
        return Reply()

    rig = await make(agent_fn)
    await rig.call(await rig.deploy())
    await refused(put(kept[0], "late", b"x"), "sandbox.request_over")


# --- callers that go away, agents that go away ---


async def _streaming(make: Make) -> tuple[Rig, bytes]:
    async def agent_fn(request: AgentRequest, ctx: Calls) -> Reply:
        async def body() -> AsyncIterator[bytes]:
            while True:
                yield b"x" * 100
                await asyncio.sleep(0.001)

        return Reply(body=body())

    rig = await make(agent_fn)
    return rig, await rig.deploy()


@pytest.mark.parametrize("after", [0, 1, 3])
async def test_a_caller_who_hangs_up_cancels_the_agent_and_leaves_nothing(make: Make, after: int) -> None:
    rig, agent = await _streaming(make)
    sealed = rig.session(agent).seal(rig.head(), b"")
    await refused(rig.server.serve(agent, sealed.data, Sink(after=after, gone=True)), "frames.cancelled")
    process = rig.sandbox.processes[0]
    assert len(process.cancelled) == 1
    assert process.open == 0
    assert process.alive
    assert rig.receipts.head[0] == 0
    assert rig.server.active == 0


@pytest.mark.parametrize("after", [0, 1, 4])
async def test_a_cancelled_stream_cancels_the_agent(make: Make, after: int) -> None:
    rig, agent = await _streaming(make)
    sealed, sink = rig.session(agent).seal(rig.head(), b""), Sink(after=after)
    task = asyncio.ensure_future(rig.server.serve(agent, sealed.data, sink))
    await until(lambda: rig.sandbox.processes and rig.sandbox.processes[0].requests and sink.sends >= after)
    await asyncio.sleep(0.005)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    process = rig.sandbox.processes[0]
    assert len(process.cancelled) == 1
    assert process.open == 0
    assert rig.server.active == 0


async def test_a_caller_who_stops_reading_is_left_at_the_deadline(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve, "GRACE_S", 0.0)
    rig, agent = await _streaming(make)
    sealed = rig.session(agent).seal(rig.head(deadline_ms=rig.now_ms() + 40), b"")
    await refused(rig.server.serve(agent, sealed.data, Sink(after=2)), "worker.reader_stalled")
    assert rig.sandbox.processes[0].open == 0
    monkeypatch.setattr(serve, "LAST_WORDS_S", 0.02)
    sealed = rig.session(agent).seal(rig.head(deadline_ms=rig.now_ms() - 1), b"")
    await refused(rig.server.serve(agent, sealed.data, Sink(after=0)), "worker.reader_stalled")


async def test_an_agent_that_is_dropped_while_it_streams_ends_sealed(make: Make) -> None:
    rig, agent = await _streaming(make)
    session = rig.session(agent)
    sealed, sink = session.seal(rig.head(), b""), Sink()
    task = asyncio.ensure_future(rig.server.serve(agent, sealed.data, sink))
    await sink.arrived.wait()
    rig.world.set_agent(1, paused=True)
    await rig.follow(1)
    await task
    got = opened(session.certificate, sealed, bytes(sink.data))
    assert (got.status, got.code, got.whole, got.receipt) == (200, "sandbox.closed", True, None)


async def test_an_agent_that_is_dropped_before_its_answer_commits_nothing(make: Make) -> None:
    async def agent_fn(request: AgentRequest, ctx: Calls) -> Reply:
        await put(ctx, "k", b"v")
        rig.placed(agent).closed = True
        return Reply()

    rig = await make(agent_fn)
    agent = await rig.deploy()
    state = rig.placed(agent).state
    got = await rig.call(agent)
    assert got.code == "sandbox.closed"
    assert (await state.snapshot()).record.height == 0
    assert (await rig.call(agent)).code == "sandbox.closed"


async def test_draining_waits_for_what_runs(make: Make) -> None:
    gate = asyncio.Event()

    async def agent_fn(request: AgentRequest, ctx: Calls) -> Reply:
        await gate.wait()
        return Reply()

    rig = await make(agent_fn)
    agent = await rig.deploy()
    assert await rig.server.drain(0.01)
    task = asyncio.ensure_future(rig.call(agent))
    await until(lambda: rig.server.active)
    assert not await rig.server.drain(0.01)
    gate.set()
    assert await rig.server.drain(5)
    assert (await task).whole


async def test_a_broken_store_is_a_sealed_refusal(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    rig = await make(hello)
    agent = await rig.deploy()

    async def broken(name: str, **options: object) -> object:
        raise CloisterError(code="fabric.unavailable", check="c", expected="e", found="f", remedy="r", status=503)

    monkeypatch.setattr(type(rig.placed(agent).state), "begin", lambda self, name: broken(name))
    got = await rig.call(agent)
    assert got.code == "fabric.unavailable"
    assert got.whole
