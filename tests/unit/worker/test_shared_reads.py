"""Requests that begin in one turn of the event loop share one read of the head, and never see an older head for it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cloister.core.state.endorse import Answer
from cloister.core.state.heads import HEAD_SLOT
from cloister.fabric.embedded import open_fabric
from cloister.fabric.ports import Entry, Fabric, State
from cloister.worker.state import AgentState
from support.state_kit import AGENT, counter_rng, keys, member

HEX = AGENT.hex()


class Counting:
    """A store that counts reads of the head; ``slow`` makes it answer in a later turn of the loop."""

    def __init__(self, inner: State, *, slow: bool = False) -> None:
        self.inner, self.slow, self.reads = inner, slow, 0

    async def get(self, agent: str, key: str) -> Entry | None:
        self.reads += key == HEAD_SLOT
        entry = await self.inner.get(agent, key)
        if self.slow:
            await asyncio.sleep(0)
        return entry

    def __getattr__(self, name: str) -> object:
        return getattr(self.inner, name)


@pytest.fixture
async def fabric(tmp_path: Path) -> AsyncIterator[Fabric]:
    opened = await open_fabric(tmp_path / "f")
    yield opened
    await opened.close()


async def loaded(store: object, seed: bytes = b"one") -> AgentState:
    state = AgentState(store, keys(), HEX, counter_rng(seed))  # type: ignore[arg-type]
    record = (await state.snapshot()).record
    await state.load([Answer(member(n), record.height, record.head) for n in range(3)], 3)
    return state


async def write(state: AgentState, request: str, value: bytes) -> int:
    tx = await state.begin(request)
    await tx.put("k", value)
    return (await tx.commit(request)).height


async def turn() -> None:
    await asyncio.sleep(0)
    await asyncio.sleep(0)


async def test_thirty_requests_that_arrive_together_read_the_head_once(fabric: Fabric) -> None:
    store = Counting(fabric.state)
    state = await loaded(store)
    await write(state, "first", b"v")
    await turn()
    store.reads = 0
    begun = await asyncio.gather(*(state.begin(f"r{n}") for n in range(30)))
    assert store.reads == 1
    assert {tx.record.height for tx in begun} == {1}


async def test_a_later_turn_reads_again(fabric: Fabric) -> None:
    store = Counting(fabric.state)
    state = await loaded(store)
    for number in range(5):
        store.reads = 0
        await turn()
        await state.begin(f"r{number}")
        assert store.reads == 1


async def test_a_request_sees_what_another_worker_committed_before_it_came(fabric: Fabric) -> None:
    ours, theirs = await loaded(fabric.state), await loaded(fabric.state, b"two")
    for number in range(8):
        height = await write(theirs, f"w{number}", b"%d" % number)
        tx = await asyncio.create_task(ours.begin(f"r{number}"))
        assert tx.record.height == height
        assert await tx.get("k") == b"%d" % number


async def test_requests_beside_commits_of_another_worker_never_go_back(fabric: Fabric) -> None:
    """Every request begins at a height that is at least the one durable when it was created."""
    ours, theirs = await loaded(fabric.state), await loaded(fabric.state, b"two")
    durable = 0

    async def writer() -> None:
        nonlocal durable
        for number in range(25):
            durable = await write(theirs, f"w{number}", b"x")

    async def reader(number: int) -> None:
        least = durable
        seen = (await ours.begin(f"r{number}")).record.height
        assert seen >= least

    writing = asyncio.create_task(writer())
    number = 0
    while not writing.done():
        await asyncio.gather(*(reader(number + k) for k in range(5)))
        number += 5
        await asyncio.sleep(0)
    await writing
    assert number > 25


async def test_own_commits_are_seen_at_once(fabric: Fabric) -> None:
    state = await loaded(fabric.state)
    for number in range(4):
        height = await write(state, f"w{number}", b"%d" % number)
        assert (await state.begin(f"r{number}")).record.height == height == number + 1


async def test_a_store_that_answers_in_a_later_turn_is_asked_by_every_request(fabric: Fabric) -> None:
    """Its answer may be older than a request that came while it was on its way."""
    store = Counting(fabric.state, slow=True)
    state = await loaded(store)
    await turn()
    store.reads = 0
    await asyncio.gather(*(state.begin(f"r{n}") for n in range(6)))
    assert store.reads == 6


async def test_asking_again_reads_in_any_case(fabric: Fabric) -> None:
    store = Counting(fabric.state)
    state = await loaded(store)
    await turn()
    store.reads = 0
    await state.snapshot()
    await state.snapshot()
    await state.snapshot(again=True)
    assert store.reads == 2
