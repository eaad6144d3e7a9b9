"""What owners ask and command over the sealed call: only they, only what there is, in order and once."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from cloister.core.encoding.hexes import from_hex, to_hex
from cloister.core.encoding.signatures import address_of, sign_digest
from cloister.core.envelope.server import OpenRequest, VerifiedCaller
from cloister.core.errors import CloisterError
from cloister.core.receipts.receipt import Receipt
from cloister.core.receipts.verify import verify_signed
from cloister.fabric.ports import FENCED
from cloister.sandbox.errors import THREW
from cloister.sandbox.ports import AgentRequest, Spent
from cloister.worker import owner as work
from cloister.worker.figures import BUCKETS, bucket_of, used_between
from cloister.worker.owner import COMMAND, KEPT_BYTES, MAX_REPLY, PREFIX, require_owner
from support.fake_sandbox import Calls, Reply
from support.fake_world import OWNER, test_key
from support.worker_kit import Got, Rig, get, put, until

Make = Callable[..., Awaitable[Rig]]
STRANGER = test_key("stranger")


async def ask(rig: Rig, agent: bytes, what: str, body: Any = None, *, key: Any = OWNER, **head: Any) -> Got:
    """A sealed question as a wallet; ``key`` None: as nobody."""
    session = rig.session(agent)
    if key is not None:
        session.authenticate(address_of(key), int(rig.world.now) + 3600, lambda digest: sign_digest(key, digest), None)
    data = body if isinstance(body, bytes) else json.dumps(body or {}).encode()
    return await rig.call(agent, data, session=session, path=PREFIX + what, **head)


async def counts(request: AgentRequest, ctx: Calls) -> Reply:
    """Adds one, and says what it was asked."""
    seen = int(await get(ctx, "count") or b"0") + 1
    await put(ctx, "count", str(seen).encode())
    return Reply(200, (("content-type", "text/x"),), (f"{seen} {request.path} {request.body.decode()}".encode(),))


WRONG: dict[str, tuple[str, dict[str, Any], str]] = {
    "nobody": ("metrics", {"key": None}, "worker.not_owner"),
    "another wallet": ("metrics", {"key": STRANGER}, "worker.not_owner"),
    "a command of another wallet": ("command", {"key": STRANGER}, "worker.not_owner"),
    "GET": ("metrics", {"method": "GET"}, "worker.not_owner"),
    "something that there is not": ("colours", {}, "worker.no_question"),
    "a path below a question": ("metrics/all", {}, "worker.no_question"),
    "a body that is no JSON": ("metrics", {"body": b"{"}, "sandbox.argument"),
    "a body that is no object": ("logs", {"body": b"[]"}, "sandbox.argument"),
    "a deep body": ("logs", {"body": b"[" * 100_000}, "sandbox.argument"),
    "have that is no object": ("logs", {"body": {"have": [1]}}, "sandbox.argument"),
    "receipts before the first": ("receipts", {"body": {"first": -1}}, "sandbox.argument"),
    "receipts from true on": ("receipts", {"body": {"first": True}}, "sandbox.argument"),
    "receipts of a boot that is none": ("receipts", {"body": {"boot": "0x12"}}, "encoding.hex"),
    "a retry of nothing": ("retry", {"body": {"task": 0, "due": 1}}, "worker.no_dead_job"),
    "a retry without fields": ("retry", {}, "worker.no_dead_job"),
    "a log key without fields": ("log-key", {}, "encoding.field"),
}


@pytest.mark.parametrize("sentence", WRONG)
async def test_what_is_not_for_this_asker_is_refused_by_name(rig: Rig, sentence: str) -> None:
    what, options, code = WRONG[sentence]
    agent = await rig.deploy()
    got = await ask(rig, agent, what, **options)
    assert got.code == code
    assert rig.sandbox.starts == 0


async def test_agent_code_never_sees_what_an_owner_asks_of_the_worker(rig: Rig) -> None:
    agent = await rig.deploy()
    for what in ("metrics", "logs", "jobs"):
        got = await ask(rig, agent, what)
        assert (got.status, got.whole, got.receipt is not None) == (200, True, True)
    assert rig.sandbox.starts == 0


async def test_figures_count_calls_errors_bytes_and_time_and_no_questions(make: Make) -> None:
    async def agent(request: AgentRequest, ctx: Calls) -> Reply:
        if request.path == "/throw":
            raise THREW(expected="a response", found="Error")
        return Reply(500 if request.path == "/500" else 200, body=(b"12345",))

    rig = await make(agent)
    name = await rig.deploy()
    for path in ("/", "/", "/throw", "/500"):
        await rig.call(name, b"abc", path=path)
    await ask(rig, name, "metrics")
    figures = json.loads((await ask(rig, name, "metrics")).body)
    assert (figures["calls"], figures["errors"]) == (4, 2)
    assert (figures["request_bytes"], figures["response_bytes"], figures["cpu_us"]) == (6, 10, 2000)
    assert (figures["egress_bytes"], figures["ingress_bytes"]) == (0, 40)
    assert sum(figures["durations"]) == 4
    assert len(figures["durations"]) == BUCKETS


async def test_an_owner_gets_the_receipts_of_its_agent_and_of_no_other(make: Make) -> None:
    rig = await make(counts)
    mine, other = await rig.deploy(1), await rig.deploy(2)
    made = [await rig.call(agent, b"x") for agent in (mine, other, mine, other, mine)]
    shown = json.loads((await ask(rig, mine, "receipts")).body)
    assert (shown["boot"], shown["size"], shown["next"]) == (to_hex(rig.boot), 5, 5)
    own = [got.receipt for got in made if got.receipt is not None and got.receipt.agent == mine]
    assert [one["receipt"].encode() for one in shown["receipts"]] == [one.encoded for one in own]
    for one in shown["receipts"]:
        verify_signed(Receipt.decode(one["receipt"].encode()), from_hex(one["signature"], 65), None)
    later = json.loads((await ask(rig, mine, "receipts", {"first": 3})).body)
    assert [json.loads(one["receipt"])["seq"] for one in later["receipts"]] == [4, 5], "the question has one too"


async def test_a_boot_without_receipts_shows_none(make: Make) -> None:
    rig = await make(counts)
    agent = await rig.deploy()
    shown = json.loads((await ask(rig, agent, "receipts", {"boot": to_hex(bytes(32))})).body)
    assert (shown["size"], shown["next"], shown["receipts"]) == (0, 0, [])


async def test_receipts_come_page_by_page(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cloister.worker.receipts.MAX_LOOKED", 2)
    rig = await make(counts)
    agent = await rig.deploy()
    for _ in range(5):
        await rig.call(agent, b"x")
    seen, at = [], 0
    for _ in range(4):
        page = json.loads((await ask(rig, agent, "receipts", {"first": at})).body)
        seen += [json.loads(one["receipt"])["seq"] for one in page["receipts"]]
        at = page["next"]
    assert seen[:5] == [0, 1, 2, 3, 4]


def test_buckets_rise_with_time_and_hold_everything() -> None:
    times = [0.0, -1.0, 1e-6, 16e-6, 1e-3, 0.5, 30.0, 900.0, 1e9]
    found = [bucket_of(t) for t in times]
    assert found[0] == found[1] == 0
    assert found[1:] == sorted(found[1:])
    assert found[-1] == BUCKETS - 1
    assert bucket_of(900.0) < BUCKETS - 1


async def test_a_command_runs_as_the_owner_and_commits(make: Make) -> None:
    seen: list[AgentRequest] = []

    async def agent(request: AgentRequest, ctx: Calls) -> Reply:
        seen.append(request)
        return await counts(request, ctx)

    rig = await make(agent)
    name = await rig.deploy()
    got = await ask(rig, name, "command", b'"go"', headers=(("content-type", "application/json"), ("x-other", "1")))
    assert got.body.decode() == f'1 {COMMAND} "go"'
    assert got.headers == (("content-type", "text/x"),)
    assert seen[0].caller == {"kind": "owner", "address": to_hex(address_of(OWNER))}
    assert [n for n, _ in seen[0].headers] == ["content-type", "idempotency-key"]
    assert got.receipt is not None
    assert got.receipt.state.after != bytes(32)
    assert await rig.placed(name).state.peek("count") == b"1"


async def test_a_repeated_command_gets_the_first_answer_and_runs_once(make: Make) -> None:
    rig = await make(counts)
    name = await rig.deploy()
    request_id = to_hex(os.urandom(16))
    first = await ask(rig, name, "command", b"a", request_id=request_id)
    again = await ask(rig, name, "command", b"a", request_id=request_id)
    assert (again.status, again.body, again.headers) == (first.status, first.body, first.headers)
    assert await rig.placed(name).state.peek("count") == b"1"


async def test_only_the_newest_answers_are_kept_and_no_long_ones(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work, "KEPT_RESULTS", 4)

    async def agent(request: AgentRequest, ctx: Calls) -> Reply:
        return Reply(body=(b"x" * (KEPT_BYTES + 1 if request.body == b"long" else 1),))

    rig = await make(agent)
    name = await rig.deploy()
    ids = [to_hex(os.urandom(16)) for _ in range(5)]
    for one in ids:
        await ask(rig, name, "command", request_id=one)
    assert (await ask(rig, name, "command", request_id=ids[0])).code == "state.already_done"
    assert (await ask(rig, name, "command", request_id=ids[1])).body == b"x"
    long = to_hex(os.urandom(16))
    assert len((await ask(rig, name, "command", b"long", request_id=long)).body) == KEPT_BYTES + 1
    assert (await ask(rig, name, "command", b"long", request_id=long)).code == "state.already_done"


async def test_a_command_that_fails_wrote_nothing_and_may_be_repeated(make: Make) -> None:
    broken = True

    async def agent(request: AgentRequest, ctx: Calls) -> Reply:
        reply = await counts(request, ctx)
        if broken:
            raise THREW(expected="a response", found="Error")
        return reply

    rig = await make(agent)
    name = await rig.deploy()
    request_id = to_hex(os.urandom(16))
    assert (await ask(rig, name, "command", request_id=request_id)).code == "sandbox.agent_threw"
    broken = False
    assert (await ask(rig, name, "command", request_id=request_id)).body.startswith(b"1 ")


async def test_commands_run_one_after_the_other_in_the_order_they_came(make: Make) -> None:
    running, most, order = 0, 0, []

    async def agent(request: AgentRequest, ctx: Calls) -> Reply:
        nonlocal running, most
        running += 1
        most = max(most, running)
        order.append(request.body)
        await asyncio.sleep(0.001)
        running -= 1
        return await counts(request, ctx)

    rig = await make(agent)
    name = await rig.deploy()
    sent = [str(i).encode() for i in range(6)]
    tasks = []
    for body in sent:
        tasks.append(asyncio.ensure_future(ask(rig, name, "command", body)))
        await asyncio.sleep(0)
    got = await asyncio.gather(*tasks)
    assert [one.code for one in got] == [""] * 6
    assert most == 1
    assert order == sent
    assert await rig.placed(name).state.peek("count") == b"6"


async def test_a_command_waits_for_the_one_on_another_worker(make: Make) -> None:
    rig = await make(counts)
    name = await rig.deploy()
    await rig.fabric.leases.hold(name.hex(), "another", 60.0)
    task = asyncio.ensure_future(ask(rig, name, "command"))
    await asyncio.sleep(0.01)
    assert not task.done()
    await rig.fabric.leases.release(name.hex(), "another")
    assert (await task).body.startswith(b"1 ")


async def test_a_worker_that_lost_the_lease_commits_nothing(make: Make) -> None:
    """The lease ran out while the agent ran, and another worker took over: the fabric refuses the older token."""
    rig: Rig

    async def agent(request: AgentRequest, ctx: Calls) -> Reply:
        await rig.fabric.leases.release(name.hex(), rig.boot.hex())
        await rig.fabric.leases.hold(name.hex(), "another", 60.0)
        return await counts(request, ctx)

    rig = await make(agent)
    name = await rig.deploy()
    assert (await ask(rig, name, "command")).code == FENCED.code
    assert await rig.placed(name).state.peek("count") is None


async def test_the_lease_is_free_after_a_command_and_after_a_failure(make: Make) -> None:
    async def agent(request: AgentRequest, ctx: Calls) -> Reply:
        raise THREW(expected="a response", found="Error")

    for one in (counts, agent):
        rig = await make(one)
        name = await rig.deploy()
        await ask(rig, name, "command")
        assert await rig.fabric.leases.hold(name.hex(), "another", 1.0) > 0


async def test_a_reply_that_is_too_long_commits_nothing(make: Make) -> None:
    async def agent(request: AgentRequest, ctx: Calls) -> Reply:
        await put(ctx, "wrote", b"1")
        return Reply(body=(b"x" * 65536 for _ in range(MAX_REPLY // 65536 + 1)))

    rig = await make(agent)
    name = await rig.deploy()
    assert (await ask(rig, name, "command")).code == "worker.command_reply"
    assert await rig.placed(name).state.peek("wrote") is None


async def test_a_dropped_agent_commits_no_command(make: Make) -> None:
    rig: Rig

    async def agent(request: AgentRequest, ctx: Calls) -> Reply:
        await put(ctx, "wrote", b"1")
        rig.placed(name).closed = True
        return Reply()

    rig = await make(agent)
    name = await rig.deploy()
    placed = rig.placed(name)
    assert (await ask(rig, name, "command")).code == "sandbox.closed"
    assert await placed.state.peek("wrote") is None


@pytest.mark.parametrize("what", ["metrics", "command"])
async def test_after_a_transfer_the_old_owner_is_nobody(make: Make, what: str) -> None:
    rig = await make(counts)
    name = await rig.deploy()
    assert (await ask(rig, name, what)).code == ""
    rig.world.set_agent(1, owner=address_of(STRANGER), epoch=2)
    await rig.follow(1)
    await until(lambda: name in rig.table.placed())
    assert (await ask(rig, name, what)).code == "worker.not_owner"
    assert (await ask(rig, name, what, key=STRANGER)).code == ""


@pytest.mark.parametrize(("kind", "allowed"), [("wallet", True), ("contract", True), ("apikey", False)])
async def test_only_a_caller_that_is_who_its_address_says_is_the_owner(rig: Rig, kind: Any, allowed: bool) -> None:
    """An API key's holder chooses the address that it names: the owner's there means nothing."""
    placed = rig.placed(await rig.deploy())
    caller = VerifiedCaller(address_of(OWNER), 1 << 40, None, kind)
    head = SimpleNamespace(method="POST", path=PREFIX + "metrics")
    request = cast(OpenRequest, SimpleNamespace(caller=caller, head=head))
    if allowed:
        require_owner(placed, request)
        return
    with pytest.raises(CloisterError) as caught:
        require_owner(placed, request)
    assert caught.value.code == "worker.not_owner"


USED = {
    "nothing of what was before": (Spent(5, 7), Spent(5, 7), (0, 0, 0, 0)),
    "the difference": (
        Spent(5, 7, 1, 90),
        Spent(15, 27, 31, 90),
        (10, 20, 30, 90),
    ),
    "never less than nothing, when a process took another's place": (
        Spent(50, 70, 9, 90),
        Spent(5, 7, 1, 3),
        (0, 0, 0, 3),
    ),
    "zero where a process measures nothing": (Spent(), Spent(), (0, 0, 0, 0)),
}


@pytest.mark.parametrize("case", USED)
def test_what_a_receipt_says_was_used_is(case: str) -> None:
    before, after, (cpu, sent, received, peak) = USED[case]
    used = used_between(before, after, 0.25, 3, 4)
    assert (used.cpu_us, used.egress_bytes, used.ingress_bytes, used.memory_peak_bytes) == (cpu, sent, received, peak)
    assert (used.duration_us, used.request_bytes, used.response_bytes) == (250_000, 3, 4)
    assert used_between(before, after, -1.0, 0, 0).duration_us == 0, "a clock that was turned back"
