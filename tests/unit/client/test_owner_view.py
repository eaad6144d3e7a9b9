"""What an owner's client makes of workers' answers: a real worker's desk behind the client's calls."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloister.client import owner as owners
from cloister.client.agentlogs import Gap, Line
from cloister.client.call import Request
from cloister.client.callers import ContractWallet
from cloister.client.client import Client
from cloister.client.owner import Owner, next_time, quantile
from cloister.client.wallet import Wallet
from cloister.core.errors import CloisterError
from cloister.core.policy.cron import Cron
from cloister.fabric.ports import Expect, Put, Tx
from cloister.sandbox.ports import AgentRequest
from cloister.worker.figures import BUCKETS, bucket_of
from support import hooks
from support.fake_sandbox import Calls
from support.fake_sandbox import Reply as AgentReply
from support.fake_world import OWNER, Other, test_key
from support.worker_kit import Rig, world_of


@dataclass
class Answer:
    """The part of a reply that owners read."""

    status: int
    body: bytes
    request_id: str

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Resolution:
    """Seats, and nothing else."""

    sittings: tuple[Any, ...]
    canaries: tuple[Any, ...] = ()

    def narrowed(self, keep: Any) -> tuple[Any, ...]:
        return tuple(one for one in self.sittings if keep(one))


class Desk:
    """A client of rigs that share a store. ``spoil(what, answer)`` changes what a worker answers."""

    def __init__(self, rigs: list[Rig], agent: bytes, key: Any, caller: Any = None) -> None:
        self.rigs, self.agent, self.wallet, self.calls = rigs, agent, Wallet(key), self
        self.caller = caller
        self.network, self.rng = rigs[0].world.network, os.urandom
        self.asked: list[tuple[str, str]] = []
        self.spoil: Any = lambda what, answer: answer
        state = SimpleNamespace(worker=self.worker)
        self.resolver = SimpleNamespace(resolve=self.resolve, view=self.view)
        self._view = SimpleNamespace(state=state)
        self.strangers: set[bytes] = set()

    def clock(self) -> float:
        return self.rigs[0].world.now

    def need_wallet(self) -> Wallet:
        return self.wallet

    async def resolve(self, agent: bytes, again: bool = False) -> Resolution:
        made = [
            SimpleNamespace(worker=SimpleNamespace(worker=rig.node.address), seat=rig.seat(agent)) for rig in self.rigs
        ]
        return Resolution(tuple(made))

    async def view(self) -> Any:
        return self._view

    async def worker(self, address: bytes) -> Any:
        return None if address in self.strangers else object()

    async def call(self, agent: bytes, request: Request, check: Any, who: Wallet) -> Answer:
        seats = await check(await self.resolve(agent))
        rig = next(rig for rig in self.rigs if rig.node.address == seats.sittings[0].worker.worker)
        session = rig.session(agent)
        session.authenticate(who.address, int(rig.world.now) + 3600, who.sign, None, kind=who.kind)
        head = {"method": request.method, "path": request.path, "headers": request.headers}
        got = await rig.call(agent, request.body, session=session, request_id="0x" + request.id.hex(), **head)
        self.asked.append((rig.name, request.path))
        if got.error is not None:
            raise got.error
        return cast(Answer, self.spoil(request.path.rpartition("/")[2], Answer(got.status, got.body, request.id.hex())))


async def talks(request: AgentRequest, ctx: Calls) -> AgentReply:
    """Logs what it is sent."""
    ctx.host.log(request.request_id, "info", request.body.decode())
    return AgentReply(body=(b"did " + request.body,))


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    rig = Rig(world_of(), tmp_path, talks)
    rig.sealed = True
    await rig.open()
    yield Desk([rig], await rig.deploy(), OWNER)
    await rig.close()


def owner(desk: Desk) -> Owner:
    return Owner(cast(Client, desk), desk.agent)


async def said(desk: Desk, *texts: str) -> None:
    """The agent logs these, a page each."""
    rig = desk.rigs[0]
    for text in texts:
        rig.world.now += 1
        await rig.call(desk.agent, text.encode())
        await rig.book.turn([rig.placed(desk.agent)])


def shown(events: list[Any]) -> list[str]:
    return [event.text if isinstance(event, Line) else f"-- {event.what}" for event in events]


async def test_an_owner_publishes_once_and_reads_what_is_new(desk: Desk) -> None:
    mine = owner(desk)
    assert not await mine.published()
    assert (await mine.publish()).key == mine.log_key
    assert await mine.published()
    await said(desk, "one", "two")
    assert shown(await mine.logs()) == ["one", "two"]
    await said(desk, "three")
    assert shown(await mine.logs()) == ["three"]
    assert shown(await owner(desk).logs()) == ["one", "two", "three"]


async def test_another_wallet_reads_nothing(desk: Desk) -> None:
    await owner(desk).publish()
    await said(desk, "one")
    desk.wallet = Wallet(test_key("stranger"))
    stranger = owner(desk)
    for work in (stranger.logs, stranger.metrics, stranger.jobs, stranger.publish, stranger.published):
        with pytest.raises(CloisterError) as caught:
            await work()
        assert caught.value.code == "worker.not_owner"


async def test_what_the_store_lost_is_said(desk: Desk) -> None:
    await owner(desk).publish()
    await said(desk, "one", "two", "three")
    rig = desk.rigs[0]
    place, kept = f"{desk.agent.hex()}.log", await rig.fabric.state.scan(f"{desk.agent.hex()}.log", "")

    async def lose(number: int) -> None:
        await rig.fabric.state.commit(place, Tx(f"lost{number}", {kept[number][0]: Put(None, Expect.ANY)}))

    await lose(1)
    assert shown(await owner(desk).logs()) == ["one", "-- 1 pages are missing from the store", "three"]
    await lose(2)
    events = await owner(desk).logs()
    assert shown(events) == ["one", "-- the last 2 pages are missing from the store"]
    assert isinstance(events[-1], Gap)
    assert events[-1].lost


async def test_pages_in_each_others_places_are_read_in_their_own(desk: Desk) -> None:
    await owner(desk).publish()
    await said(desk, "one", "two")
    rig = desk.rigs[0]
    place, kept = f"{desk.agent.hex()}.log", await rig.fabric.state.scan(f"{desk.agent.hex()}.log", "")
    swapped = {kept[0][0]: Put(kept[1][1].value, Expect.ANY), kept[1][0]: Put(kept[0][1].value, Expect.ANY)}
    await rig.fabric.state.commit(place, Tx("swap", swapped))
    assert shown(await owner(desk).logs()) == ["one", "two"]


async def test_pages_of_a_worker_that_was_never_admitted_are_refused(desk: Desk) -> None:
    await owner(desk).publish()
    await said(desk, "one")
    desk.strangers.add(desk.rigs[0].node.address)
    with pytest.raises(CloisterError) as caught:
        await owner(desk).logs()
    assert caught.value.code == "seal.log_page"


SPOILT: dict[str, tuple[Any, str]] = {
    "no base64": (lambda body: body | {"pages": ["!"]}, "seal.log_page"),
    "a page that is a number": (lambda body: body | {"pages": [7]}, "seal.log_page"),
    "another head": (lambda body: body | {"head": "0x" + "00" * 32}, "client.log_forked"),
    "a head that is no hash": (lambda body: body | {"head": "x"}, "encoding.hex"),
    "more for ever": (lambda body: body | {"more": True}, "client.owner_answer"),
}


@pytest.mark.parametrize("sentence", SPOILT)
async def test_an_answer_of_another_form_is_refused_by_name(
    desk: Desk, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(owners, "MAX_ROUNDS", 3)
    await owner(desk).publish()
    await said(desk, "one")
    change, code = SPOILT[sentence]
    desk.spoil = lambda what, answer: replace(answer, body=json.dumps(change(json.loads(answer.body))).encode())
    with pytest.raises(CloisterError) as caught:
        await owner(desk).logs()
    assert caught.value.code == code


@pytest.mark.parametrize("answer", [Answer(404, b"{}", ""), Answer(200, b"[]", "")])
async def test_a_status_or_a_list_is_no_answer(desk: Desk, answer: Answer) -> None:
    desk.spoil = lambda what, given: answer
    with pytest.raises(CloisterError) as caught:
        await owner(desk).jobs()
    assert caught.value.code == "client.owner_answer"


async def test_figures_are_summed_and_have_quantiles(desk: Desk) -> None:
    await said(desk, "a", "b", "c")
    found = await owner(desk).metrics()
    assert (found["calls"], found["errors"], found["workers"], found["logged"]) == (3, 0, 1, 3)
    assert found["p50_ms"] is not None
    assert found["p50_ms"] <= found["p99_ms"]


async def test_an_owner_that_is_a_contract_publishes_and_reads_with_its_members_wallet(tmp_path: Path) -> None:
    safe, word = b"\xa7" * 20, b"\x5a" * 32
    rig = Rig(world_of(), tmp_path, talks)
    rig.sealed = True
    await rig.open()
    rig.world.others[safe] = Other(hooks.SIGNER, {0: int.from_bytes(word, "big")})
    agent, key = await rig.deploy(owner=safe), test_key("member")
    mine = owner(Desk([rig], agent, key, ContractWallet(safe, lambda digest: word)))
    said = await mine.publish()
    assert (said.owner, said.key) == (safe, mine.log_key)
    assert await mine.published()
    await rig.call(agent, b"one")
    await rig.book.turn([rig.placed(agent)])
    assert [event.to_json().get("text") for event in await mine.logs()] == ["one"]
    assert (await mine.metrics())["calls"] == 1
    with pytest.raises(CloisterError) as caught:
        await owner(Desk([rig], agent, key)).metrics()
    assert caught.value.code == "worker.not_owner", "the member's wallet alone is nobody's owner"
    await rig.close()


async def test_a_command_runs_once_under_its_request_id(desk: Desk) -> None:
    mine, name = owner(desk), os.urandom(16)
    first = await mine.command(b"go", request_id=name)
    again = await mine.command(b"go", request_id=name)
    assert first.body == again.body == b"did go"
    assert len(desk.rigs[0].sandbox.processes[0].requests) == 1


async def test_jobs_say_when_a_task_runs_next(desk: Desk) -> None:
    tasks = [{"task": 0, "cron": "0 * * * *"}, {"task": 1, "cron": "0 * * * *", "tries": 2, "again": 77}]
    body = json.dumps({"now": 1_800_000_000, "tasks": tasks, "dead": [], "again": None}).encode()
    desk.spoil = lambda what, given: Answer(200, body, "")
    found = (await owner(desk).jobs())["tasks"]
    assert [task["next"] for task in found] == [1_800_000_000 - 1_800_000_000 % 3600 + 3600, 77]


CRONS = {
    "* * * * *": "2026-01-31T12:01:00",
    "0 * * * *": "2026-01-31T13:00:00",
    "*/15 9-17 * * *": "2026-01-31T12:15:00",
    "0 9 * * 1-5": "2026-02-02T09:00:00",
    "0 0 29 2 *": None,
    "30 4 1,15 * 5": "2026-02-01T04:30:00",
    "0 12 31 1 *": "2027-01-31T12:00:00",
}


@pytest.mark.parametrize("cron", CRONS)
def test_the_next_time_of_a_schedule(cron: str) -> None:
    now = int(datetime(2026, 1, 31, 12, 0, 30, tzinfo=UTC).timestamp())
    found, wanted = next_time(Cron.parse(cron), now), CRONS[cron]
    assert found == (None if wanted is None else int(datetime.fromisoformat(wanted + "+00:00").timestamp()))


@given(times=st.lists(st.floats(min_value=0.0, max_value=800.0), min_size=1, max_size=60))
def test_a_quantile_is_not_below_the_time_and_at_most_a_fifth_above(times: list[float]) -> None:
    buckets = [0] * BUCKETS
    for one in times:
        buckets[bucket_of(one)] += 1
    exact, said = sorted(times)[(len(times) + 1) // 2 - 1] * 1000, quantile(buckets, 0.5)
    assert said is not None
    assert exact - 0.001 <= said <= exact * 1.2 + 0.01


def test_no_calls_have_no_quantile() -> None:
    assert quantile([0] * BUCKETS, 0.5) is None


# --- receipts ---


async def answered(desk: Desk, count: int) -> None:
    for at in range(count):
        await desk.rigs[0].call(desk.agent, b"%d" % at)


async def test_an_owner_reads_the_receipts_of_its_agent_verified_and_in_order(desk: Desk) -> None:
    await answered(desk, 3)
    found = await owner(desk).receipts()
    assert [one.receipt.seq for one in found] == [0, 1, 2]
    assert {one.receipt.agent for one in found} == {desk.agent}
    assert found[0].to_json()["id"] == "0x" + found[0].receipt.id.hex()
    boot = desk.rigs[0].boot
    later = await owner(desk).receipts({boot: 2})
    assert later[0] == found[2]


def _swapped(answer: dict[str, Any]) -> None:
    answer["receipts"].reverse()


def _twice(answer: dict[str, Any]) -> None:
    answer["receipts"] = [answer["receipts"][0]] * 2


def _forged(answer: dict[str, Any]) -> None:
    one = answer["receipts"][0]
    one["receipt"] = one["receipt"].replace('"status":200', '"status":201')


def _unsigned(answer: dict[str, Any]) -> None:
    answer["receipts"][0]["signature"] = "0x" + "11" * 65


def _of_another_agent(answer: dict[str, Any]) -> None:
    one = answer["receipts"][0]
    agent = json.loads(one["receipt"])["agent"]
    one["receipt"] = one["receipt"].replace(agent, "0x" + "22" * 32)


def _in_a_batch(answer: dict[str, Any]) -> None:
    answer["receipts"][0]["batch"] = {"first": 0, "size": 2, "path": "0x" + "00" * 32}


def _more(answer: dict[str, Any]) -> None:
    answer["receipts"][0]["more"] = 1


LIES: dict[str, tuple[Any, str]] = {
    "receipts out of order": (_swapped, "client.owner_answer"),
    "a receipt twice": (_twice, "client.owner_answer"),
    "a receipt with another status": (_forged, "receipt.signature"),
    "a signature of nobody": (_unsigned, "receipt.signature"),
    "a receipt of another agent": (_of_another_agent, "client.owner_answer"),
    "a place in a batch that was never signed": (_in_a_batch, "receipt.signature"),
    "a field too many": (_more, "encoding.field"),
}


@pytest.mark.parametrize("lie", LIES)
async def test_a_worker_that_lies_about_receipts_is_caught(desk: Desk, lie: str) -> None:
    await answered(desk, 2)
    change, code = LIES[lie]

    def spoil(what: str, answer: Answer) -> Answer:
        if what == "receipts":
            value = answer.json()
            change(value)
            answer.body = json.dumps(value).encode()
        return answer

    desk.spoil = spoil
    with pytest.raises(CloisterError) as caught:
        await owner(desk).receipts()
    assert caught.value.code == code, lie


async def test_receipts_of_a_worker_that_nobody_admitted_are_refused(desk: Desk) -> None:
    await answered(desk, 1)
    desk.strangers.add(desk.rigs[0].node.address)
    with pytest.raises(CloisterError):
        await owner(desk).receipts()
