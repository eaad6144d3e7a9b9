"""Calls that wait for nothing but their agent: without a task, under the same checks, and what needs one gets one."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from cloister.core.encoding.signatures import address_of, sign_digest
from cloister.core.envelope.client import SealedRequest
from cloister.core.receipts.receipt import Receipt
from cloister.fabric.ports import ReceiptBatch
from cloister.sandbox.errors import THREW
from cloister.sandbox.ports import AgentRequest
from cloister.worker import quick, serve
from support.fake_sandbox import Agent, Calls, Reply
from support.fake_world import test_key
from support.worker_kit import Got, Rig, Sink, opened, put, until

Make = Callable[[Agent], Awaitable[Rig]]


def sealed_for(rig: Rig, agent: bytes, body: bytes = b"", **head: Any) -> SealedRequest:
    return rig.session(agent).seal(rig.head(**head), body)


async def warmed(make: Make, agent_fn: Agent) -> tuple[Rig, bytes]:
    """A rig whose agent runs: the first call of all has to wait for its start."""
    rig = await make(agent_fn)
    agent = await rig.deploy()
    await rig.call(agent)
    return rig, agent


async def ask(rig: Rig, agent: bytes, sink: Sink, **head: Any) -> Got:
    sealed = sealed_for(rig, agent, **head)
    await rig.ask(agent, sealed.data, sink)
    return opened(rig.seat(agent).certificate, sealed, bytes(sink.data))


async def hello(request: AgentRequest, ctx: Calls) -> Reply:
    return Reply(body=[b"hello"])


async def test_a_call_whose_agent_runs_and_answers_whole_is_one_write_without_a_task(make: Make) -> None:
    rig, agent = await warmed(make, hello)
    sink = Sink()
    got = await ask(rig, agent, sink)
    assert (got.status, got.body, got.whole) == (200, b"hello", True)
    assert (sink.ends, sink.sends, sink._task) == (1, 0, None)
    assert got.receipt is not None
    assert (got.receipt.usage.cpu_us, got.receipt.usage.response_bytes) == (1000, 5)
    assert (rig.server.served, rig.server.refused, rig.server.active) == (2, 0, 0)
    assert rig.placed(agent).host._requests == {}


async def _streams(request: AgentRequest, ctx: Calls) -> Reply:
    async def body() -> AsyncIterator[bytes]:
        yield b"a"
        yield b"b"

    return Reply(body=body())


async def _writes(request: AgentRequest, ctx: Calls) -> Reply:
    await put(ctx, "k", request.path.encode())
    return Reply(body=[b"ab"])


async def _throws(request: AgentRequest, ctx: Calls) -> Reply:
    if request.path == "/throw":
        raise THREW(expected="a response", found="TypeError")
    return Reply(body=[b"ab"])


async def _large(request: AgentRequest, ctx: Calls) -> Reply:
    return Reply(body=[bytes(quick.MOST)])


TASKS: dict[str, tuple[Agent, str, str]] = {
    "a body that streams": (_streams, "/", ""),
    "a write that must be durable before the answer": (_writes, "/", ""),
    "an error of the agent": (_throws, "/throw", "sandbox.agent_threw"),
    "a body that does not fit one frame": (_large, "/", ""),
}


@pytest.mark.parametrize("case", TASKS)
async def test_what_a_quick_call_cannot_end_goes_on_in_a_task_from_where_it_stands(make: Make, case: str) -> None:
    agent_fn, path, code = TASKS[case]
    rig, agent = await warmed(make, agent_fn)
    asked, sink = len(rig.sandbox.processes[0].requests), Sink()
    got = await ask(rig, agent, sink, path=path)
    assert sink._task is not None
    assert got.code == code
    assert bool(got.receipt) == (not code)
    assert len(rig.sandbox.processes[0].requests) == asked + 1, "the handler ran once"
    await until(lambda: rig.server.active == 0)
    assert rig.placed(agent).host._requests == {}


async def test_a_handler_that_lost_a_race_is_run_again_after_its_quick_attempt(make: Make) -> None:
    runs = 0

    async def counts(request: AgentRequest, ctx: Calls) -> Reply:
        nonlocal runs
        runs += 1
        await ctx("state.get", key="n")
        if request.path == "/race" and runs == 2:
            other = await rig.placed(agent).state.begin("f" * 32)
            await other.put("n", b"theirs")
            await other.commit("f" * 32)
        await put(ctx, "n", b"ours")
        return Reply(body=[b"done"])

    rig, agent = await warmed(make, counts)
    got = await ask(rig, agent, Sink(), path="/race")
    assert (got.status, got.body, runs) == (200, b"done", 3)


async def _process_ended(rig: Rig, agent: bytes) -> None:
    rig.sandbox.processes[0].crash()


async def _news(rig: Rig, agent: bytes) -> None:
    await rig.follow(1)


@pytest.mark.parametrize("change", [_process_ended, _news], ids=["its process ended", "news of the chain"])
async def test_a_call_that_has_something_to_wait_for_has_a_task_from_the_start(
    make: Make, change: Callable[[Rig, bytes], Awaitable[None]]
) -> None:
    rig, agent = await warmed(make, hello)
    await change(rig, agent)
    sealed, sink = sealed_for(rig, agent), Sink()
    work = rig.server.begin(agent, sealed.data, sink)
    assert work is not None
    await work
    assert (sink.ends, opened(rig.seat(agent).certificate, sealed, bytes(sink.data)).status) == (0, 200)


async def test_contract_accounts_keys_and_agents_as_callers_have_a_task_and_wallets_none(make: Make) -> None:
    rig, agent = await warmed(make, hello)
    session, key = rig.session(agent), test_key("wallet")
    session.authenticate(address_of(key), int(rig.world.now) + 60, lambda d: sign_digest(key, d))
    assert rig.server.begin(agent, session.seal(rig.head(), b"").data, Sink()) is None
    plain = rig.server._callers.plain
    caller = next(iter(rig.sessions._sessions.values())).caller
    wallet = next(s.caller for s in rig.sessions._sessions.values() if s.caller is not None)
    assert caller is None
    assert plain(caller)
    assert plain(wallet)
    for kind in ("contract", "apikey"):
        assert not plain(type(wallet)(wallet.address, wallet.expiry, None, kind))  # type: ignore[arg-type]
    await until(lambda: rig.server.active == 0)


async def _never(request: AgentRequest, ctx: Calls) -> Reply:
    if request.path == "/never":
        await asyncio.Event().wait()
    return Reply()


async def test_a_caller_that_leaves_ends_the_request_at_the_agent_and_its_host_calls(make: Make) -> None:
    rig, agent = await warmed(make, _never)
    sink, process = Sink(), rig.sandbox.processes[0]
    assert rig.server.begin(agent, sealed_for(rig, agent, path="/never").data, sink) is None
    await until(lambda: process.open)
    assert sink.on_cancel is not None
    sink.on_cancel()
    await until(lambda: not process.open)
    assert (rig.server.active, sink.ends, rig.placed(agent).host._requests) == (0, 0, {})
    sink.on_cancel()
    assert rig.server.active == 0, "leaving twice is leaving once"


async def test_a_caller_that_leaves_before_the_task_of_its_call_began_leaves_nothing_behind(make: Make) -> None:
    rig, agent = await warmed(make, _streams)
    process, taken = rig.sandbox.processes[0], list[asyncio.Future[None]]()

    class Leaves(Sink):
        def go_on(self, work: Awaitable[None]) -> asyncio.Future[None]:
            task = super().go_on(work)
            task.cancel()
            taken.append(task)
            return task

    assert rig.server.begin(agent, sealed_for(rig, agent).data, Leaves()) is None
    await until(lambda: taken and taken[0].done() and not process.open)
    assert (rig.server.active, rig.placed(agent).host._requests) == (0, {})


async def test_a_dropped_agents_answer_is_refused_though_its_process_gave_it(make: Make) -> None:
    gate = asyncio.Event()

    async def late(request: AgentRequest, ctx: Calls) -> Reply:
        if request.path == "/late":
            await gate.wait()
        return Reply()

    rig, agent = await warmed(make, late)
    sealed, sink = sealed_for(rig, agent, path="/late"), Sink()
    certificate, process = rig.seat(agent).certificate, rig.sandbox.processes[0]
    assert rig.server.begin(agent, sealed.data, sink) is None
    await until(lambda: process.open)
    rig.placed(agent).closed = True
    gate.set()
    await sink.over()
    assert opened(certificate, sealed, bytes(sink.data)).code == "sandbox.closed"


# --- the receipt ---


class Store:
    """A store of receipts that waits for ``gate``, or fails."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error, self.gate = error, asyncio.Event()

    def append(self, log: str, batch: ReceiptBatch) -> Awaitable[None]:
        return self._append()

    async def _append(self) -> None:
        await self.gate.wait()
        if self.error is not None:
            raise self.error


async def test_no_byte_of_an_answer_leaves_before_the_store_has_its_receipt(make: Make) -> None:
    rig, agent = await warmed(make, hello)
    rig.receipts._store = store = Store()  # type: ignore[assignment]
    sealed, sink = sealed_for(rig, agent), Sink()
    assert rig.server.begin(agent, sealed.data, sink) is None
    await until(lambda: rig.receipts.unstored)
    await asyncio.sleep(0.01)
    assert (bytes(sink.data), rig.server.active) == (b"", 1)
    store.gate.set()
    await sink.over()
    assert opened(rig.seat(agent).certificate, sealed, bytes(sink.data)).receipt is not None


async def test_a_store_that_hangs_is_told_to_the_caller_after_its_deadline(make: Make, monkeypatch: Any) -> None:
    rig, agent = await warmed(make, hello)
    monkeypatch.setattr(serve, "GRACE_S", -29.95)
    rig.receipts._store = Store()  # type: ignore[assignment]
    got = await ask(rig, agent, Sink())
    assert (got.code, got.receipt) == ("sandbox.deadline", None)
    assert rig.server.active == 0


async def test_a_fault_of_the_store_is_sealed_without_its_words(make: Make) -> None:
    rig, agent = await warmed(make, hello)
    rig.receipts._store = store = Store(KeyError("a secret of the disk"))  # type: ignore[assignment]
    store.gate.set()
    got = await ask(rig, agent, Sink())
    assert (got.code, got.receipt) == ("frames.internal", None)
    assert "secret" not in str(got.error)


async def test_answers_of_one_turn_share_a_signature_and_each_opens_alone(make: Make) -> None:
    rig, agent = await warmed(make, hello)
    sealed = [sealed_for(rig, agent) for _ in range(5)]
    sinks = [Sink() for _ in sealed]
    for one, sink in zip(sealed, sinks, strict=True):
        assert rig.server.begin(agent, one.data, sink) is None
    await asyncio.gather(*(sink.over() for sink in sinks))
    certificate = rig.seat(agent).certificate
    receipts = list[Receipt]()
    for one, sink in zip(sealed, sinks, strict=True):
        receipt = opened(certificate, one, bytes(sink.data)).receipt
        assert receipt is not None
        receipts.append(receipt)
    assert sorted(r.seq for r in receipts) == [1, 2, 3, 4, 5]
    assert rig.receipts.log.size == 6


async def test_a_flood_of_garbage_leaves_no_call_behind(make: Make) -> None:
    rig, agent = await warmed(make, hello)
    for size in (0, 1, 142, 300, 5000):
        sink = Sink()
        with pytest.raises(Exception, match="envelope"):
            rig.server.begin(agent, os.urandom(size), sink)
        assert not sink.ends
    assert (rig.server.active, rig.server.refused) == (0, 5)


# --- what waits for nothing ---


async def test_work_that_waits_for_nothing_is_done_at_once_and_other_work_is_ended() -> None:
    ended = list[str]()

    async def now() -> int:
        return 7

    async def later() -> int:
        try:
            await asyncio.sleep(0)
            return 7
        finally:
            ended.append("later")

    async def raises() -> int:
        raise KeyError

    assert quick.at_once(now()) == 7
    assert quick.at_once(later()) is None
    assert ended == ["later"]
    with pytest.raises(KeyError):
        quick.at_once(raises())
