"""The state of one request: what its head commits, what its body commits, what comes between and after."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cloister.core.errors import CloisterError
from cloister.fabric.embedded import open_fabric
from cloister.fabric.ports import Fabric
from cloister.worker.scope import RequestScope
from cloister.worker.state import AgentState, Transaction
from support.state_kit import AGENT, counter_rng, keys, member
from support.worker_kit import refused

ID = "ab" * 16


@pytest.fixture
async def fabric(tmp_path: Path) -> AsyncIterator[Fabric]:
    opened = await open_fabric(tmp_path / "f")
    yield opened
    await opened.close()


@pytest.fixture
async def state(fabric: Fabric) -> AgentState:
    from cloister.core.state.endorse import Answer

    state = AgentState(fabric.state, keys(), AGENT.hex(), counter_rng())
    await state.load([Answer(member(n), 0, bytes(32)) for n in range(3)], 3)
    return state


async def scope_of(state: AgentState, name: str = ID) -> RequestScope:
    return RequestScope(state, await state.begin(name), name)


async def elsewhere(state: AgentState, name: str, **values: bytes) -> None:
    tx = await state.begin(name)
    for key, value in values.items():
        await tx.put(key, value)
    await tx.commit(name)


async def test_the_head_commits_all_or_nothing(state: AgentState) -> None:
    scope = await scope_of(state)
    await scope.put("a", b"1")
    await scope.put("b", b"2")
    await scope.delete("a")
    assert (await scope.get("a"), await scope.get("b"), await scope.list()) == (None, b"2", ["b"])
    assert (await state.snapshot()).record.height == 0
    await scope.commit_head()
    record = (await state.snapshot()).record
    assert record.height == 1
    assert scope.change().after == record.head
    assert scope.change().before == record.parent


async def test_a_request_that_reads_only_stores_nothing_and_names_the_head_it_read(state: AgentState) -> None:
    empty = await scope_of(state)
    await empty.get("a")
    await empty.commit_head()
    await empty.commit_body()
    assert empty.change().kind == "none"
    await elsewhere(state, "other", a=b"1")
    scope = await scope_of(state)
    assert await scope.get("a") == b"1"
    await scope.commit_head()
    await elsewhere(state, "later", a=b"2")
    await scope.commit_body()
    change, record = scope.change(), (await state.snapshot()).record
    assert change.kind == "local"
    assert change.before == change.after == record.parent


async def test_the_receipt_names_the_parent_that_the_commit_really_had(state: AgentState) -> None:
    scope = await scope_of(state)
    await scope.put("mine", b"1")
    await elsewhere(state, "other", theirs=b"2")
    await scope.commit_head()
    record = (await state.snapshot()).record
    assert record.height == 2
    assert (scope.change().before, scope.change().after) == (record.parent, record.head)


async def test_a_write_between_the_head_and_its_commit_is_never_lost(
    state: AgentState, monkeypatch: pytest.MonkeyPatch
) -> None:
    reached, go = asyncio.Event(), asyncio.Event()
    plain = Transaction.commit

    async def slow(self: Transaction, request_id: str) -> object:
        reached.set()
        await go.wait()
        return await plain(self, request_id)

    monkeypatch.setattr(Transaction, "commit", slow)
    scope = await scope_of(state)
    await scope.put("head", b"h")
    committing = asyncio.ensure_future(scope.commit_head())
    await reached.wait()
    between = asyncio.ensure_future(scope.put("between", b"b"))
    await asyncio.sleep(0)
    assert not between.done(), "it waits for the transaction that is sealed"
    go.set()
    await committing
    await between
    assert await scope.get("head") == b"h", "the body sees what the head wrote"
    await scope.commit_body()
    reader = await state.begin("reader")
    assert (await reader.get("head"), await reader.get("between"), reader.record.height) == (b"h", b"b", 2)


async def test_a_body_that_touches_no_state_costs_no_read_of_the_store(
    state: AgentState, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[str] = []
    plain = AgentState.begin

    async def counted(self: AgentState, request_id: str) -> Transaction:
        begun.append(request_id)
        return await plain(self, request_id)

    monkeypatch.setattr(AgentState, "begin", counted)
    scope = await scope_of(state)
    await scope.commit_head()
    await scope.commit_body()
    assert begun == [ID]
    other = await scope_of(state)
    await other.commit_head()
    await asyncio.gather(*(other.put(f"k{n}", b"v") for n in range(3)))
    assert begun == [ID, ID, ID], "one transaction for the whole body"


@pytest.mark.parametrize("head_writes", [True, False])
async def test_whichever_part_wrote_the_request_is_done(state: AgentState, head_writes: bool) -> None:
    scope = await scope_of(state)
    if head_writes:
        await scope.put("a", b"1")
    await scope.commit_head()
    await scope.put("b", b"2")
    await scope.commit_body()
    assert (await state.snapshot()).record.height == 1 + head_writes
    await refused(scope_of(state), "state.already_done")


async def test_a_conflict_in_the_head_shows_and_ends_the_scope(state: AgentState) -> None:
    scope = await scope_of(state)
    await scope.get("n")
    await scope.put("n", b"1")
    await elsewhere(state, "other", n=b"2")
    await refused(scope.commit_head(), "state.conflict")
    waiting = asyncio.ensure_future(scope.get("n"))
    await asyncio.sleep(0)
    scope.close()
    await refused(waiting, "sandbox.request_over")
    await refused(scope.put("n", b"3"), "sandbox.request_over")
    assert await (await state.begin("reader")).get("n") == b"2"


async def test_a_conflict_that_the_agents_own_read_met_is_kept(
    state: AgentState, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cloister.fabric.ports import CONFLICT

    async def torn(self: Transaction, name: str) -> bytes | None:
        raise CONFLICT(expected="a head whose values are stored", found="a newer head")

    scope = await scope_of(state)
    assert scope.conflict is None
    await refused(scope.put("", b"x"), "state.bad_name")
    assert scope.conflict is None, "only conflicts are worth repeating"
    monkeypatch.setattr(Transaction, "get", torn)
    await refused(scope.get("a"), "state.conflict")
    assert isinstance(scope.conflict, CloisterError)


async def test_after_the_end_nothing_is_heard(state: AgentState) -> None:
    scope = await scope_of(state)
    await scope.commit_head()
    await scope.commit_body()
    for call in (scope.get("a"), scope.put("a", b"1"), scope.delete("a"), scope.list()):
        await refused(call, "sandbox.request_over")
    closed = await scope_of(state)
    closed.close()
    await refused(closed.get("a"), "sandbox.request_over")
