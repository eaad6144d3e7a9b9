"""Agent state over the real SQLite fabric: transactions, races, repeats, rollback, what the disk shows."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from cloister.core.errors import CloisterError, StateError
from cloister.core.state.endorse import Answer
from cloister.core.state.heads import MAX_PENDING
from cloister.core.state.plan import Limits
from cloister.fabric.embedded import open_fabric
from cloister.fabric.ports import UNKNOWN_OUTCOME, Entry, Expect, Fabric, Put, Rev, State, Tx
from cloister.worker.state import AgentState, AlreadyDoneError, Transaction
from support.state_kit import AGENT, counter_rng, keys, member

HEX = AGENT.hex()
NOBODY_SAW_IT = [Answer(member(n), 0, bytes(32)) for n in range(3)]


@pytest.fixture
async def fabric(tmp_path: Path) -> AsyncIterator[Fabric]:
    opened = await open_fabric(tmp_path / "f")
    yield opened
    await opened.close()


async def worker(store: State, name: str = "w", limits: Limits | None = None) -> AgentState:
    """One worker's view of the agent, loaded with gatekeepers that saw nothing yet."""
    state = AgentState(store, keys(), HEX, counter_rng(name.encode()), limits=limits or Limits())
    record = await state.snapshot()
    answers = [Answer(member(n), record.record.height, record.record.head) for n in range(3)]
    await state.load(answers if record.record.height else NOBODY_SAW_IT, 3)
    return state


async def write(state: AgentState, request: str, **values: bytes | None) -> Transaction:
    tx = await state.begin(request)
    for name, value in values.items():
        await (tx.delete(name) if value is None else tx.put(name, value))
    await tx.commit(request)
    return tx


async def read(state: AgentState, name: str) -> bytes | None:
    return await (await state.begin("reader")).get(name)


async def refused(awaitable: Any, code: str) -> CloisterError:
    with pytest.raises(CloisterError) as caught:
        await awaitable
    assert caught.value.code == code
    return caught.value


# --- one worker


async def test_what_a_request_committed_the_next_one_reads(fabric: Fabric) -> None:
    state = await worker(fabric.state)
    await write(state, "r1", a=b"1", b=b"2")
    assert (await read(state, "a"), await read(state, "b"), await read(state, "c")) == (b"1", b"2", None)
    await write(state, "r2", a=None, b=b"3")
    assert (await read(state, "a"), await read(state, "b")) == (None, b"3")


async def test_a_request_reads_its_own_writes_and_nobody_else_does_before_commit(fabric: Fabric) -> None:
    state = await worker(fabric.state)
    await write(state, "r1", a=b"old", gone=b"x")
    mine, other = await state.begin("r2"), await state.begin("r3")
    await mine.put("a", b"new")
    await mine.delete("gone")
    await mine.put("fresh", b"f")
    assert [await mine.get(n) for n in ("a", "gone", "fresh")] == [b"new", None, b"f"]
    assert [await other.get(n) for n in ("a", "gone", "fresh")] == [b"old", b"x", None]
    assert await mine.list() == ["a", "fresh"]
    assert await other.list() == ["a", "gone"]


async def test_list_is_by_prefix_sorted_and_paged_with_own_writes_in_it(fabric: Fabric) -> None:
    state = await worker(fabric.state)
    await write(state, "r1", **{f"user/{n:02}": b"x" for n in range(20)}, other=b"y")
    tx = await state.begin("r2")
    await tx.put("user/99", b"z")
    await tx.delete("user/01")
    names = await tx.list("user/")
    assert names == [f"user/{n:02}" for n in range(20) if n != 1] + ["user/99"]
    assert await tx.list("user/", limit=2) == ["user/00", "user/02"]
    assert await tx.list("user/", after="user/18") == ["user/19", "user/99"]
    assert await tx.list("none") == []
    assert await tx.list(limit=0) == []


async def test_a_request_without_writes_stores_nothing(fabric: Fabric) -> None:
    state = await worker(fabric.state)
    before = await write(state, "r1", a=b"1")
    tx = await state.begin("r2")
    await tx.get("a")
    assert (await tx.commit("r2")).head == (await state.snapshot()).record.head
    assert (await state.snapshot()).record.height == before.record.height + 1 == 1


async def test_a_transaction_commits_once(fabric: Fabric) -> None:
    state = await worker(fabric.state)
    tx = await write(state, "r1", a=b"1")
    with pytest.raises(RuntimeError):
        await tx.commit("r2")


async def test_state_is_not_served_before_it_was_checked(fabric: Fabric) -> None:
    with pytest.raises(RuntimeError):
        await AgentState(fabric.state, keys(), HEX, counter_rng()).begin("r1")


async def test_a_job_is_in_the_outbox_exactly_when_its_request_committed(fabric: Fabric) -> None:
    state = await worker(fabric.state)
    tx = await state.begin("r1")
    await tx.enqueue("q", b"plain body")
    assert await fabric.jobs.take("q", 1, 60) == []
    await tx.commit("r1")
    (job,) = await fabric.jobs.take("q", 1, 60)
    assert b"plain" not in job.body
    assert state.open_job("q", job.body) == b"plain body"


CAPS: dict[str, tuple[Limits, Callable[[Transaction], Any]]] = {
    "one write too many": (Limits(writes=0), lambda tx: tx.put("a", b"")),
    "one job too many": (Limits(jobs=0), lambda tx: tx.enqueue("q", b"")),
    "too many bytes in one request": (Limits(commit_size=3), lambda tx: tx.put("a", b"1234")),
    "one read too many": (Limits(reads=0), lambda tx: tx.get("a")),
    "one list too many": (Limits(reads=0), lambda tx: tx.list()),
}


@pytest.mark.parametrize("case", CAPS)
async def test_a_request_is_stopped_at_once_for(fabric: Fabric, case: str) -> None:
    limits, call = CAPS[case]
    tx = await (await worker(fabric.state, limits=limits)).begin("r1")
    await refused(call(tx), "state.too_large")


async def test_an_agents_keys_and_bytes_are_capped(fabric: Fabric) -> None:
    state = await worker(fabric.state, limits=Limits(keys=2, size=10))
    await write(state, "r1", a=b"12345", b=b"12345")
    await refused(write(state, "r2", c=b""), "state.too_large")
    await refused(write(state, "r3", a=b"123456"), "state.too_large")
    await write(state, "r4", a=None, c=b"12345")


@pytest.mark.parametrize("name", ["", "x" * 257, "\ud800"])
async def test_a_key_of_another_form_is_refused(fabric: Fabric, name: str) -> None:
    tx = await (await worker(fabric.state)).begin("r1")
    await refused(tx.put(name, b""), "state.bad_name")
    await refused(tx.get(name), "state.bad_name")
    with pytest.raises(TypeError):
        await tx.put("a", "text")  # type: ignore[arg-type]


# --- repeats


async def test_a_repeated_request_carries_the_head_that_it_made(fabric: Fabric) -> None:
    one, two = await worker(fabric.state, "w1"), await worker(fabric.state, "w2")
    await write(one, "r1", a=b"1")
    head = (await one.snapshot()).record
    await write(one, "r2", a=b"2")
    for state in (one, two):
        error = await refused(state.begin("r1"), "state.already_done")
        assert isinstance(error, AlreadyDoneError)
        assert error.outcome is not None
        assert (error.outcome.height, error.outcome.head) == (1, head.head)
    assert await read(two, "a") == b"2"


async def test_one_request_on_two_workers_at_once_happens_once(fabric: Fabric) -> None:
    one, two = await worker(fabric.state, "w1"), await worker(fabric.state, "w2")
    first, second = await one.begin("same"), await two.begin("same")
    await first.put("a", b"1")
    await second.put("b", b"2")
    results = await asyncio.gather(first.commit("same"), second.commit("same"), return_exceptions=True)
    assert [getattr(r, "code", "ok") for r in results] in (["ok", "state.already_done"], ["state.already_done", "ok"])
    assert (await one.snapshot()).record.keys == 1


async def test_a_worker_that_is_behind_learns_what_the_request_made_elsewhere(fabric: Fabric) -> None:
    one, two = await worker(fabric.state, "w1"), await worker(fabric.state, "w2")
    first, second = await one.begin("same"), await two.begin("same")
    await first.put("a", b"1")
    await second.put("b", b"2")
    made = await first.commit("same")
    error = await refused(second.commit("same"), "state.already_done")
    assert isinstance(error, AlreadyDoneError)
    assert error.outcome is not None
    assert (error.outcome.height, error.outcome.head) == (made.height, made.head)


class Counting:
    """The store, which notes what is read from it and how many transactions it is asked for."""

    def __init__(self, inner: State) -> None:
        self.inner = inner
        self.reads: list[str] = []
        self.commits = 0

    async def get(self, agent: str, key: str) -> Entry | None:
        self.reads.append(key)
        return await self.inner.get(agent, key)

    async def scan(self, agent: str, prefix: str, limit: int = 1000) -> list[tuple[str, Entry]]:
        return await self.inner.scan(agent, prefix, limit)

    async def history(self, agent: str, key: str, limit: int = 16) -> list[Entry]:
        return await self.inner.history(agent, key, limit)

    async def commit(self, agent: str, tx: Tx) -> dict[str, Rev]:
        self.commits += 1
        return await self.inner.commit(agent, tx)


async def test_a_request_of_a_worker_that_is_alone_reads_the_head_twice_and_its_value_once(fabric: Fabric) -> None:
    store = Counting(fabric.state)
    state = await worker(store)
    for n in range(70):  # each bucket of marks was written by this worker: none is read again
        await write(state, f"r{n}", a=b"%d" % n)
    store.reads.clear()
    tx = await state.begin("r")
    assert await tx.get("a") == b"69"
    await tx.put("a", b"new")
    await tx.commit("r")
    assert store.reads == ["h", keys().name("a"), "h"]


async def test_a_worker_that_is_behind_is_refused_once_and_then_commits_on_the_newest_head(fabric: Fabric) -> None:
    store = Counting(fabric.state)
    one, two = await worker(fabric.state, "w1"), await worker(store, "w2")
    late = await two.begin("late")
    await late.put("mine", b"x")
    for n in range(3):
        await write(one, f"r{n}", a=b"%d" % n)
    assert (await late.commit("late")).height == 4
    assert store.commits == 2
    assert (await read(one, "a"), await read(one, "mine")) == (b"2", b"x")


async def test_a_request_that_only_the_store_remembers_is_not_done_twice(fabric: Fabric) -> None:
    state = await worker(fabric.state)
    await fabric.state.commit(HEX, Tx("forgotten", {"zz": Put(b"", Expect.ANY)}))
    error = await refused(write(state, "forgotten", a=b"1"), "state.already_done")
    assert isinstance(error, AlreadyDoneError)
    assert error.outcome is None
    assert (await state.snapshot()).record.height == 0


# --- races


async def test_writers_of_different_keys_both_commit_on_one_chain(fabric: Fabric) -> None:
    one, two = await worker(fabric.state, "w1"), await worker(fabric.state, "w2")
    first, second = await one.begin("r1"), await two.begin("r2")
    assert (await first.get("a"), await second.get("b")) == (None, None)
    await first.put("a", b"1")
    await second.put("b", b"2")
    await first.commit("r1")
    record = await second.commit("r2")
    assert record.height == 2
    assert record.ancestor(1) == (await one.begin("x")).record.parent
    assert (await read(one, "b"), await read(two, "a")) == (b"2", b"1")


RACES: dict[str, Callable[[Transaction], Any]] = {
    "a value that it read": lambda tx: tx.get("a"),
    "a key that it found absent": lambda tx: tx.get("b"),
    "a list that it made": lambda tx: tx.list(),
}


@pytest.mark.parametrize("case", RACES)
async def test_a_request_conflicts_if_another_changed(fabric: Fabric, case: str) -> None:
    one, two = await worker(fabric.state, "w1"), await worker(fabric.state, "w2")
    await write(one, "r0", a=b"0")
    late = await two.begin("late")
    await RACES[case](late)
    await late.put("mine", b"x")
    await write(one, "r1", a=b"1", b=b"1")
    await refused(late.commit("late"), "state.conflict")
    assert await read(one, "mine") is None


async def test_a_reader_keeps_its_head_while_others_commit(fabric: Fabric) -> None:
    one, two = await worker(fabric.state, "w1"), await worker(fabric.state, "w2")
    await write(one, "r0", a=b"old", b=b"old")
    reader = await two.begin("reader")
    for n in range(5):
        await write(one, f"r{n + 1}", a=b"new", b=b"new")
    assert (await reader.get("a"), await reader.get("b"), await reader.list()) == (b"old", b"old", ["a", "b"])


async def test_a_reader_too_far_behind_conflicts_rather_than_mixing_heads(fabric: Fabric) -> None:
    one, two = await worker(fabric.state, "w1"), await worker(fabric.state, "w2")
    await write(one, "r0", a=b"old")
    reader = await two.begin("reader")
    for n in range(20):
        await write(one, f"r{n + 1}", a=b"new")
    await refused(reader.get("a"), "state.conflict")


async def test_counters_of_two_racing_workers_lose_no_increment(fabric: Fabric) -> None:
    workers = [await worker(fabric.state, "w1"), await worker(fabric.state, "w2")]

    async def increment(state: AgentState, request: str) -> int:
        for attempt in range(200):
            tx = await state.begin(f"{request}.{attempt}")
            value = int(await tx.get("n") or b"0")
            await tx.put("n", b"%d" % (value + 1))
            try:
                await tx.commit(f"{request}.{attempt}")
            except StateError as error:
                if error.code != "state.conflict":
                    raise
                continue
            return attempt
        raise AssertionError("never committed")

    retries = await asyncio.gather(*(increment(workers[n % 2], f"r{n}") for n in range(24)))
    assert await read(workers[0], "n") == b"24"
    assert sum(retries) > 0
    record = (await workers[1].snapshot()).record
    assert (record.height, len(record.links())) == (24, 24)


async def test_a_fenced_worker_cannot_commit_a_command(fabric: Fabric) -> None:
    one, two = await worker(fabric.state, "w1"), await worker(fabric.state, "w2")
    old = await fabric.leases.hold(HEX, "w1", 0)
    new = await fabric.leases.hold(HEX, "w2", 60)
    late, current = await one.begin("r1", fence=old), await two.begin("r2", fence=new)
    await late.put("a", b"late")
    await current.put("a", b"current")
    await refused(late.commit("r1"), "fabric.fenced")
    await current.commit("r2")
    assert await read(one, "a") == b"current"


# --- outcomes that nobody knows


class Flaky:
    """The store, whose answer to a commit gets lost: before or after it happened."""

    def __init__(self, inner: State, losses: list[str]) -> None:
        self.inner, self.losses = inner, losses

    async def get(self, agent: str, key: str) -> Entry | None:
        return await self.inner.get(agent, key)

    async def scan(self, agent: str, prefix: str, limit: int = 1000) -> list[tuple[str, Entry]]:
        return await self.inner.scan(agent, prefix, limit)

    async def history(self, agent: str, key: str, limit: int = 16) -> list[Entry]:
        return await self.inner.history(agent, key, limit)

    async def commit(self, agent: str, tx: Tx) -> dict[str, Rev]:
        loss = self.losses.pop(0) if self.losses else "none"
        result = {} if loss == "before" else await self.inner.commit(agent, tx)
        if loss != "none":
            raise UNKNOWN_OUTCOME(expected="an answer", found="none")
        return result


@pytest.mark.parametrize("losses", [["before"], ["after"], ["before", "after"], ["after", "before"]])
async def test_a_lost_outcome_is_asked_again_and_happens_once(fabric: Fabric, losses: list[str]) -> None:
    state = await worker(Flaky(fabric.state, list(losses)))
    await write(state, "r1", a=b"1")
    assert (await state.snapshot()).record.height == 1
    assert await read(state, "a") == b"1"


@pytest.mark.parametrize(("loss", "then"), [("before", "ok"), ("after", "state.already_done")])
async def test_an_outcome_that_stays_unknown_is_said_and_a_retry_tells_it(fabric: Fabric, loss: str, then: str) -> None:
    state = await worker(Flaky(fabric.state, [loss] * 3))
    await refused(write(state, "r1", a=b"1"), "state.outcome_unknown")
    if then == "ok":
        await write(state, "r1", a=b"1")
    else:
        await refused(write(state, "r1", a=b"1"), then)
    assert await read(state, "a") == b"1"


# --- the host owns the disk


async def test_an_older_copy_of_the_file_is_refused_against_the_committee(tmp_path: Path) -> None:
    fabric = await open_fabric(tmp_path / "f")
    await write(await worker(fabric.state), "r1", a=b"paid 0")
    await fabric.close()
    shutil.copytree(tmp_path / "f", tmp_path / "old")
    fabric = await open_fabric(tmp_path / "f")
    state = await worker(fabric.state)
    await write(state, "r2", a=b"paid 100")
    record = (await state.snapshot()).record
    endorsed = [Answer(member(n), record.height, record.head) for n in range(3)]
    await fabric.close()
    old = await open_fabric(tmp_path / "old")
    fresh = AgentState(old.state, keys(), HEX, counter_rng())
    await refused(fresh.load(endorsed, 3), "state.rolled_back")
    with pytest.raises(RuntimeError):
        await fresh.begin("r3")
    await old.close()


async def test_a_copy_that_went_on_by_itself_is_a_fork(tmp_path: Path) -> None:
    fabric = await open_fabric(tmp_path / "f")
    await write(await worker(fabric.state), "r1", a=b"1")
    await fabric.close()
    shutil.copytree(tmp_path / "f", tmp_path / "copy")
    heads = []
    for name in ("f", "copy"):
        fabric = await open_fabric(tmp_path / name)
        state = await worker(fabric.state, name)
        for n in range(3 if name == "copy" else 1):
            await write(state, f"r{name}{n}", a=name.encode())
        heads.append((await state.snapshot()).record)
        if name == "copy":
            endorsed = [Answer(member(n), heads[0].height, heads[0].head) for n in range(3)]
            await refused(AgentState(fabric.state, keys(), HEX, counter_rng()).load(endorsed, 3), "state.forked")
        await fabric.close()


async def test_a_running_worker_refuses_a_store_that_goes_back(fabric: Fabric) -> None:
    state = await worker(fabric.state)
    await write(state, "r1", a=b"1")
    await write(state, "r2", a=b"2")
    newest, older = await fabric.state.history(HEX, "h")
    await fabric.state.commit(HEX, Tx("attack", {"h": Put(older.value, Expect.ANY)}))
    await refused(state.begin("r3"), "state.rolled_back")
    await fabric.state.commit(HEX, Tx("back", {"h": Put(newest.value, Expect.ANY)}))
    await state.begin("r3")
    await fabric.state.commit(HEX, Tx("gone", {"h": Put(None, Expect.ANY)}))
    await refused(state.begin("r3"), "state.rolled_back")


async def test_one_old_value_under_the_newest_head_is_refused(fabric: Fabric) -> None:
    await write(await worker(fabric.state), "r1", balance=b"100")
    stored = keys().name("balance")
    old = await fabric.state.get(HEX, stored)
    assert old is not None
    await write(await worker(fabric.state, "w2"), "r2", balance=b"0")
    for n in range(16):
        await fabric.state.commit(HEX, Tx(f"attack{n}", {stored: Put(old.value, Expect.ANY)}))
    await refused(read(await worker(fabric.state, "w3"), "balance"), "state.tampered")


ATTACKS: dict[str, Callable[[str], bool]] = {
    "values": lambda key: len(key) == 32,
    "index buckets": lambda key: key.startswith("b."),
    "marks of done requests": lambda key: key.startswith("d."),
    "the head": lambda key: key == "h",
}


SPOILT: dict[str, Callable[[list[bytes], int], bytes | None]] = {
    "changed": lambda blobs, n: blobs[n][:-1] + bytes([blobs[n][-1] ^ 1]),
    "deleted": lambda blobs, n: None,
    "swapped": lambda blobs, n: blobs[n - 1] if len(blobs) > 1 else b"other" * 40,
}


@pytest.mark.parametrize("what", ATTACKS)
@pytest.mark.parametrize("how", SPOILT)
async def test_a_store_is_refused_whose_host_tampered_with(fabric: Fabric, what: str, how: str) -> None:
    await write(await worker(fabric.state), "r1", a=b"1", b=b"2", c=b"3")
    await write(await worker(fabric.state, "w2"), "r2", a=b"1")
    head = (await (await worker(fabric.state, "w3")).snapshot()).record.head
    victims = [(k, e.value) for k, e in await fabric.state.scan(HEX, "") if ATTACKS[what](k)]
    blobs = [value for _, value in victims]
    puts = {key: Put(SPOILT[how](blobs, n), Expect.ANY) for n, (key, _) in enumerate(victims)}
    for turn in range(17):
        await fabric.state.commit(HEX, Tx(f"attack{turn}", puts))
    fresh = AgentState(fabric.state, keys(), HEX, counter_rng())
    with pytest.raises(StateError) as caught:
        await fresh.load([Answer(member(n), 2, head) for n in range(3)], 3)
        tx = await fresh.begin("r1" if what == "marks of done requests" else "r9")
        for name in await tx.list():
            await tx.get(name)
    assert caught.value.code in ("state.tampered", "state.rolled_back")


async def test_the_disk_shows_ciphertext_only(tmp_path: Path) -> None:
    fabric = await open_fabric(tmp_path / "f")
    state = await worker(fabric.state)
    tx = await state.begin("visible-request-id")
    await tx.put("visible-name", b"visible-value")
    await tx.enqueue("q", b"visible-job")
    await tx.commit("visible-request-id")
    await write(state, "r2", **{"visible-name": None, "visible-other": b"visible-value"})
    await fabric.close()
    everything = b"".join(path.read_bytes() for path in (tmp_path / "f").rglob("*") if path.is_file())
    for hidden in (b"visible-name", b"visible-other", b"visible-value", b"visible-job"):
        assert hidden not in everything
    assert AGENT.hex().encode() in everything


# --- endorsement


async def test_links_wait_for_endorsement_and_survive_a_restart(fabric: Fabric) -> None:
    state = await worker(fabric.state)
    for n in range(4):
        await write(state, f"r{n}", a=b"%d" % n)
    state.endorsed(2)
    await write(state, "r4", a=b"4")
    second = AgentState(fabric.state, keys(), HEX, counter_rng(b"2"))
    record = (await second.snapshot()).record
    assert [link.height for link in record.links()] == [3, 4, 5]
    told = [Answer(member(n), 2, record.ancestor(2) or b"") for n in range(3)]
    assert (await second.load(told, 3)).head == record.head


async def test_an_agent_that_nobody_endorses_stops_and_goes_on_after(
    fabric: Fabric, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert MAX_PENDING >= 256
    monkeypatch.setattr("cloister.core.state.plan.MAX_PENDING", 5)
    state = await worker(fabric.state)
    for n in range(5):
        await write(state, f"r{n}", a=b"%d" % n)
    await refused(write(state, "r5", a=b"5"), "state.unendorsed")
    state.endorsed(5)
    await write(state, "r5", a=b"5")
    assert len((await state.snapshot()).record.pending) == 1
