"""Processes that wait without an agent's code count in a worker's budget, and never cost an agent anything."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from cloister.core.errors import CloisterError, ConfigError
from cloister.sandbox.ports import AgentProcess, AgentSpec, Spent
from cloister.worker.config import WorkerConfig, budget_of
from cloister.worker.processes import FRESH_BYTES, SETTLED_S, Budget, Pool, Processes

MIB = 1 << 20
OWNER, OTHER = b"\x01" * 20, b"\x02" * 20


class Proc:
    """A process that is always idle."""

    alive, under_way = True, 0

    async def close(self) -> None:
        self.alive = False

    def usage(self) -> dict[str, int]:
        return {"rss_bytes": FRESH_BYTES}

    def begin(self, request: object, told: object) -> object:
        raise NotImplementedError

    def spent(self) -> Spent:
        return Spent()

    async def fetch(self, request: object) -> tuple[object, object]:
        raise NotImplementedError


@dataclass
class Waiting:
    """Blanks by number. ``told``: whether there was room, each time."""

    count: int = 2
    told: list[bool] = field(default_factory=list)

    def held(self) -> tuple[int, int]:
        return self.count, self.count * FRESH_BYTES

    def tend(self, *, room: bool) -> None:
        self.told.append(room)

    def shed(self) -> bool:
        self.count -= 1
        return self.count >= 0


@dataclass
class Stage:
    budget: Budget
    blanks: Waiting
    now: float = 50.0
    started: list[Proc] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.processes = Processes(self.budget, lambda: self.now, self.blanks)

    def pool(self, owner: bytes = OWNER) -> Pool:
        return Pool(owner, self.start)

    async def start(self) -> tuple[AgentSpec, AgentProcess]:
        self.started.append(Proc())
        return AgentSpec(bytes(32), bytes(32), b""), self.started[-1]  # type: ignore[return-value]


def stage_of(waiting: int = 2, **budget: int) -> Stage:
    return Stage(replace(Budget(), **budget), Waiting(waiting))


async def test_what_waits_is_counted() -> None:
    stage = stage_of()
    await stage.processes.take(stage.pool())
    assert stage.processes.counts() == {"processes": 3, "blanks": 2, "resident": 3 * FRESH_BYTES}


ROOM = {
    "room, while processes and memory are left": ({}, True),
    "none, when every process is taken": ({"processes": 3}, False),
    "none, when the memory is taken": ({"memory_mb": 48}, False),
    "room, whatever one owner has used up": ({"owner_processes": 1, "owner_memory_mb": 16}, True),
}


@pytest.mark.parametrize("case", ROOM)
async def test_at_each_turn_the_reserve_is_told_that_there_is(case: str) -> None:
    budget, room = ROOM[case]
    stage = stage_of(**budget)
    await stage.processes.take(stage.pool())
    await stage.processes.turn()
    assert stage.blanks.told == [room]


async def test_an_agent_takes_the_place_of_what_waits_before_that_of_another_agent() -> None:
    stage = stage_of(processes=3)
    first, second = stage.pool(), stage.pool(OTHER)
    await stage.processes.take(first)
    stage.now += 2 * SETTLED_S
    await stage.processes.take(second)
    assert stage.blanks.count == 1
    assert [process.alive for process in stage.started] == [True, True]


async def test_an_agent_is_never_refused_for_what_waits() -> None:
    stage = stage_of(processes=1)
    await stage.processes.take(stage.pool())
    assert stage.blanks.count == 0
    with pytest.raises(CloisterError, match=r"worker\.full"):
        await stage.processes.take(stage.pool())


async def test_an_owner_that_is_full_does_not_send_away_what_waits_for_all() -> None:
    stage = stage_of(owner_processes=1)
    await stage.processes.take(stage.pool())
    with pytest.raises(CloisterError, match=r"worker\.owner_quota"):
        await stage.processes.take(stage.pool())
    assert stage.blanks.count == 2


async def test_too_much_memory_sends_away_what_waits_first() -> None:
    stage = stage_of(memory_mb=64)
    await stage.processes.take(stage.pool())
    stage.processes.budget = replace(stage.budget, memory_mb=32)
    stage.now += 2 * SETTLED_S
    await stage.processes.turn()
    await asyncio.sleep(0)
    assert (stage.blanks.count, stage.started[0].alive) == (1, True)
    stage.processes.budget = replace(stage.budget, memory_mb=1)
    await stage.processes.turn()
    await asyncio.sleep(0)
    assert (stage.blanks.count, stage.started[0].alive) == (-1, False)


def config_with(**agents: int) -> WorkerConfig:
    here = Path("nowhere")
    return WorkerConfig(here, here, "", [], here, here, "", "", {}, agents=agents)


@pytest.mark.parametrize(("count", "good"), [(0, True), (64, True), (65, False), (-1, False), (True, False)])
def test_how_many_wait_is_the_operators_setting(count: int, good: bool) -> None:
    if good:
        assert budget_of(config_with(blanks=count)).blanks == count
    else:
        with pytest.raises(ConfigError, match=r"worker\.setting"):
            budget_of(config_with(blanks=count))


def test_two_wait_if_the_operator_says_nothing() -> None:
    assert budget_of(config_with()).blanks == 2
