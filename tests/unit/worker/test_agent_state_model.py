"""Any interleaving of two workers' requests on one store equals running the committed ones one after the other."""

from __future__ import annotations

import asyncio
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from cloister.core.errors import StateError
from cloister.core.state.endorse import Answer
from cloister.fabric.embedded import open_fabric
from cloister.fabric.ports import State
from cloister.worker.state import AgentState, Transaction
from support.state_kit import AGENT, counter_rng, keys, member

NAMES = ("a", "b", "c/1", "c/2")
STEP = st.tuples(
    st.integers(0, 3),
    st.sampled_from(["begin", "get", "put", "delete", "list", "commit", "commit", "endorse"]),
    st.sampled_from(NAMES),
    st.binary(max_size=4),
)


@dataclass
class Request:
    """A request in flight and what it saw."""

    id: str
    tx: Transaction
    seen: dict[str, bytes | None] = field(default_factory=dict)
    listed: list[str] | None = None
    writes: dict[str, bytes | None] = field(default_factory=dict)


async def worker(store: State, name: str) -> AgentState:
    state = AgentState(store, keys(), AGENT.hex(), counter_rng(name.encode()))
    await state.load([Answer(member(n), 0, bytes(32)) for n in range(3)], 3)
    return state


async def act(request: Request, what: str, name: str, value: bytes) -> None:
    """One read or write; what the request saw beyond its own writes is kept."""
    if what == "get":
        found = await request.tx.get(name)
        if name in request.writes:
            assert found == request.writes[name]
        else:
            assert request.seen.setdefault(name, found) == found
    elif what == "put":
        await request.tx.put(name, value)
        request.writes[name] = value
    elif what == "delete":
        await request.tx.delete(name)
        request.writes[name] = None
    elif what == "list" and not request.writes:
        request.listed = await request.tx.list()


async def acted(request: Request, what: str, name: str, value: bytes) -> bool:
    """Whether it worked: a reader that is more than 16 commits behind is told to start again."""
    try:
        await act(request, what, name, value)
    except StateError as error:
        if error.code != "state.conflict":
            raise
        return False
    return True


def still_true(request: Request, model: dict[str, bytes]) -> bool:
    """Whether everything that the request saw holds now: then it may commit as if it ran now."""
    values = all(model.get(name) == value for name, value in request.seen.items())
    return values and (request.listed is None or request.listed == sorted(model))


async def commit(request: Request, model: dict[str, bytes]) -> dict[str, bytes]:
    try:
        await request.tx.commit(request.id)
    except StateError as error:
        if error.code != "state.conflict":
            raise
        return model
    assert not request.writes or still_true(request, model)
    return {k: v for k, v in {**model, **request.writes}.items() if v is not None}


async def play(folder: Path, steps: list[tuple[int, str, str, bytes]]) -> None:
    fabric = await open_fabric(folder)
    try:
        workers = [await worker(fabric.state, "w1"), await worker(fabric.state, "w2")]
        lanes: dict[int, Request] = {}
        model: dict[str, bytes] = {}
        for number, (lane, what, name, value) in enumerate(steps):
            state = workers[lane % 2]
            if what == "endorse":
                state.endorsed((await state.snapshot()).record.height)
            elif what == "begin" or lane not in lanes:
                lanes[lane] = Request(f"r{number}", await state.begin(f"r{number}"))
            elif what == "commit":
                model = await commit(lanes.pop(lane), model)
            elif not await acted(lanes[lane], what, name, value):
                del lanes[lane]
        for state in workers:
            reader = await state.begin("reader")
            assert await reader.list() == sorted(model)
            assert {name: await reader.get(name) for name in sorted(model)} == model
            assert (reader.record.keys, reader.record.size) == (len(model), sum(map(len, model.values())))
    finally:
        await fabric.close()


@given(st.lists(STEP, min_size=5, max_size=40))
@settings(max_examples=40, deadline=None)
def test_committed_requests_are_serial(steps: list[tuple[int, str, str, bytes]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(play(Path(folder), steps))
