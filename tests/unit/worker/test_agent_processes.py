"""Processes of agents: on demand, warm, idle, busy, crashed, drained, bounded. Fake processes, a clock to turn."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import pytest

from cloister.core.errors import CloisterError
from cloister.sandbox.errors import BUNDLE, CLOSED, START
from cloister.sandbox.ports import AgentProcess, AgentRequest, AgentResponseHead, AgentSpec, Begun, Limits, Spent
from cloister.worker.processes import (
    BUSY_S,
    COOL_S,
    DRAIN_S,
    FREE_CRASHES,
    GROW_AT,
    LONGEST_CRASH_S,
    LONGEST_START_S,
    SETTLED_S,
    STEADY_S,
    Budget,
    Pause,
    Pool,
    Processes,
)
from support.worker_kit import refused

MIB = 1 << 20
ALICE, BOB = b"\x0a" * 20, b"\x0b" * 20
REQUEST = AgentRequest("r", "GET", "/", (), b"", None, 1 << 50)


class Proc:
    """Implements AgentProcess. ``under_way`` and ``rss`` are what a test says."""

    def __init__(self) -> None:
        self.alive, self.under_way, self.rss, self.closed = True, 0, 14 * MIB, 0

    async def fetch(self, request: AgentRequest) -> tuple[AgentResponseHead, NoBody]:
        if not self.alive:
            raise CLOSED(expected="an open sandbox", found="one that was closed")
        self.under_way += 1
        return AgentResponseHead(200, ()), NoBody()

    def begin(self, request: AgentRequest, told: Callable[[], None]) -> Begun:
        raise NotImplementedError

    def spent(self) -> Spent:
        return Spent()

    async def close(self) -> None:
        self.alive = False
        self.closed += 1

    def usage(self) -> Mapping[str, int]:
        return {"rss_bytes": self.rss if self.alive else 0}


class NoBody:
    """No chunk."""

    def __aiter__(self) -> NoBody:
        return self

    async def __anext__(self) -> bytes:
        raise StopAsyncIteration

    async def aclose(self) -> None:
        """Done."""


@dataclass
class Stage:
    """A worker's processes. ``now`` is the clock; ``error`` fails starts, ``gate`` holds them back."""

    budget: Budget = field(default_factory=Budget)
    now: float = 1000.0
    started: list[Proc] = field(default_factory=list)
    starts: int = 0
    error: CloisterError | None = None
    gate: asyncio.Event | None = None
    most: int = 1
    concurrency: int = 64

    def __post_init__(self) -> None:
        self.processes = Processes(self.budget, lambda: self.now)

    def pool(self, owner: bytes = ALICE) -> Pool:
        return Pool(owner, self.start)

    async def start(self) -> tuple[AgentSpec, AgentProcess]:
        self.starts += 1
        await asyncio.sleep(0)
        if self.gate is not None:
            await self.gate.wait()
        if self.error is not None:
            raise self.error
        self.started.append(Proc())
        limits = Limits(concurrency=self.concurrency)
        return AgentSpec(bytes(32), bytes(32), b"", limits=limits, processes=self.most), self.started[-1]

    @property
    def alive(self) -> list[Proc]:
        return [p for p in self.started if p.alive]

    async def turn(self, seconds: float = 1.0, *, settle: int = 5) -> None:
        """Time passes, then the processes are looked after."""
        self.now += seconds
        await self.processes.turn()
        for _ in range(settle):
            await asyncio.sleep(0)

    async def busy(self, pool: Pool, seconds: int = 2, rate: int = 20) -> None:
        for _ in range(seconds):
            for _ in range(rate):
                await self.processes.take(pool)
            await self.turn()


@pytest.fixture
def stage() -> Stage:
    return Stage()


def with_budget(**changes: int) -> Stage:
    return Stage(replace(Budget(), **changes))


# --- on demand, warm, idle ---


async def test_nothing_runs_until_somebody_asks_and_then_one_process_stays_warm(stage: Stage) -> None:
    pool = stage.pool()
    await stage.turn()
    assert not stage.started
    first = await stage.processes.take(pool)
    assert [await stage.processes.take(pool) for _ in range(3)] == [first] * 3
    assert stage.starts == 1
    assert stage.processes.counts() == {"processes": 1, "blanks": 0, "resident": 16 * MIB}
    await stage.turn()
    assert stage.processes.counts()["resident"] == 14 * MIB, "as measured"


@pytest.mark.parametrize(
    ("sentence", "waited", "under_way", "runs"),
    [
        ("a process that was used lately stays", Budget().idle_s - 1, 0, True),
        ("one that nobody used for the configured time ends", Budget().idle_s + 1, 0, False),
        ("one with a request that is still under way stays, however long it takes", 10 * Budget().idle_s, 1, True),
    ],
)
async def test_idle_processes_stop(stage: Stage, sentence: str, waited: float, under_way: int, runs: bool) -> None:
    pool = stage.pool()
    await stage.processes.take(pool)
    stage.started[0].under_way = under_way
    await stage.turn(waited)
    assert bool(stage.alive) is runs, sentence
    assert await stage.processes.take(pool)
    assert stage.starts == (1 if runs else 2), sentence


async def test_a_turn_costs_what_runs_and_not_what_is_deployed(stage: Stage) -> None:
    pools = [stage.pool(bytes([n % 200]) * 20) for n in range(5000)]
    for pool in pools[:3]:
        await stage.processes.take(pool)
    looked: list[Pool] = []
    tend = stage.processes._tend

    def counting(pool: Pool, now: float, passed: float) -> None:
        looked.append(pool)
        tend(pool, now, passed)

    stage.processes._tend = counting  # type: ignore[method-assign]
    await stage.turn()
    assert len(looked) == 3
    await stage.turn(Budget().idle_s + 1)
    await stage.turn()
    looked.clear()
    await stage.turn()
    assert not looked, "agents that sleep again are forgotten"


async def test_callers_share_one_start_and_who_leaves_stops_nobody(stage: Stage) -> None:
    pool, stage.gate = stage.pool(), asyncio.Event()
    waiting = [asyncio.ensure_future(stage.processes.take(pool)) for _ in range(4)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    stage.gate.set()
    done = await asyncio.gather(*waiting, return_exceptions=True)
    assert isinstance(done[0], asyncio.CancelledError)
    assert len({id(one) for one in done[1:]}) == 1
    assert stage.starts == 1


# --- failures ---


async def test_a_first_failed_start_is_answered_with_itself_and_later_ones_with_a_time(stage: Stage) -> None:
    pool = stage.pool()
    stage.error = BUNDLE(expected="a module", found="none")
    await refused(stage.processes.take(pool), "sandbox.bundle")
    stage.now += COOL_S / 2
    await refused(stage.processes.take(pool), "sandbox.bundle")
    assert stage.starts == 1, "not tried again at once"
    stage.now += COOL_S
    await refused(stage.processes.take(pool), "sandbox.bundle")
    error = await refused(stage.processes.take(pool), "worker.backing_off")
    assert "again in 2.0 s" in error.found
    assert "sandbox.bundle" in error.found
    stage.now += 2 * COOL_S
    stage.error = None
    assert await stage.processes.take(pool)
    assert pool.pause.starts == 0, "a start that went well is a new beginning"


def test_pauses_between_failed_starts_double_up_to_the_longest() -> None:
    pause, now, waits = Pause(), 0.0, []
    for _ in range(12):
        pause.failed(START(expected="a start", found="none"), now)
        waits.append(pause.until - now)
        now = pause.until
    assert waits[:4] == [1, 2, 4, 8]
    assert waits[-1] == LONGEST_START_S


async def test_a_crashed_process_is_replaced_at_once_and_a_crash_loop_waits(stage: Stage) -> None:
    pool = stage.pool()
    for _ in range(FREE_CRASHES + 1):
        await stage.processes.take(pool)
        stage.alive[0].alive = False
        stage.now += 1
    error = await refused(stage.processes.take(pool), "worker.backing_off")
    assert "again in" in error.found
    assert stage.starts == FREE_CRASHES + 1
    stage.now += LONGEST_CRASH_S
    assert await stage.processes.take(pool)


async def test_crashes_that_are_far_apart_are_no_loop(stage: Stage) -> None:
    pool = stage.pool()
    for _ in range(5 * FREE_CRASHES):
        await stage.processes.take(pool)
        stage.now += STEADY_S
        stage.alive[0].alive = False
    assert await stage.processes.take(pool)
    assert stage.starts == 5 * FREE_CRASHES + 1


def test_no_crash_loop_waits_longer_than_the_longest() -> None:
    pause = Pause()
    for _ in range(200):
        pause.died(START(expected="life", found="death"), 0.1, 0.0)
    assert pause.until == LONGEST_CRASH_S


async def test_processes_that_we_stop_ourselves_are_no_crashes(stage: Stage) -> None:
    pool = stage.pool()
    for _ in range(3 * FREE_CRASHES):
        await stage.processes.take(pool)
        await stage.turn(Budget().idle_s + 1)
    assert pool.pause.crashes == 0


# --- several processes, spares ---


async def test_a_busy_agent_gets_more_processes_if_its_manifest_allows_and_requests_go_to_the_least_busy(
    stage: Stage,
) -> None:
    stage.most, pool = 3, stage.pool()
    for _ in range(30):
        await (await stage.processes.take(pool)).fetch(REQUEST)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    assert len(stage.alive) == 3
    loads = [p.under_way for p in stage.alive]
    assert sum(loads) == 30
    assert max(loads) - min(loads) <= GROW_AT


async def test_an_agent_whose_manifest_says_nothing_keeps_one_process_under_any_load(stage: Stage) -> None:
    pool = stage.pool()
    for _ in range(50):
        await (await stage.processes.take(pool)).fetch(REQUEST)
        await asyncio.sleep(0)
    assert stage.starts == 1


async def test_the_concurrency_of_a_manifest_holds_over_all_its_processes(stage: Stage) -> None:
    stage.most, stage.concurrency, pool = 4, 20, stage.pool()
    handed = []
    for _ in range(60):  # handed out before any begins: nobody slips through between
        handed.append(await stage.processes.take(pool))
        await asyncio.sleep(0)
    codes = []
    for process in handed:
        try:
            await process.fetch(REQUEST)
            codes.append("")
        except CloisterError as error:
            codes.append(error.code)
    assert codes.count("") == 20
    assert set(codes[20:]) == {"sandbox.busy"}


async def test_processes_that_a_busy_time_left_behind_end_one_by_one(stage: Stage) -> None:
    stage.most, pool = 2, stage.pool()
    for _ in range(12):
        await (await stage.processes.take(pool)).fetch(REQUEST)
        await asyncio.sleep(0)
    assert len(stage.alive) == 2
    for process in stage.alive:
        process.under_way = 0
    for _ in range(4):
        stage.now += Budget().idle_s / 3
        await stage.processes.take(pool)
        await stage.turn(0.1)
    assert len(stage.alive) == 1, "requests that one can serve go to the first"


async def test_a_busy_agent_has_a_spare_that_takes_over_at_once_when_its_process_dies(stage: Stage) -> None:
    pool = stage.pool()
    await stage.busy(pool)
    assert len(stage.alive) == 2
    spare = stage.alive[1]
    stage.alive[0].alive = False
    stage.gate = asyncio.Event()  # nothing new can start: the spare is there
    assert await stage.processes.take(pool) is spare


async def test_spares_end_when_the_busy_time_is_over(stage: Stage) -> None:
    pool = stage.pool()
    await stage.busy(pool)
    assert pool.spare is not None
    await stage.turn(BUSY_S + 1)
    assert pool.spare is None
    assert len(stage.alive) == 1


async def test_there_are_no_more_spares_than_the_operator_allows() -> None:
    stage = with_budget(spares=2)
    pools = [stage.pool() for _ in range(5)]
    for _ in range(3):
        for pool in pools:
            for _ in range(20):
                await stage.processes.take(pool)
        await stage.turn()
    assert sum(pool.spare is not None for pool in pools) == 2
    assert len(stage.alive) == 7
    none = with_budget(spares=0)
    await none.busy(none.pool())
    assert len(none.alive) == 1


async def test_who_needs_a_process_while_the_spare_starts_gets_that_one(stage: Stage) -> None:
    pool = stage.pool()
    await stage.processes.take(pool)
    stage.gate = asyncio.Event()
    await stage.busy(pool)
    assert pool.starting is not None
    stage.alive[0].alive = False
    waiting = asyncio.ensure_future(stage.processes.take(pool))
    await asyncio.sleep(0)
    stage.gate.set()
    assert await waiting is stage.alive[0]
    assert stage.starts == 2
    assert pool.spare is None


# --- ends ---


async def test_new_secrets_lose_no_request_and_the_next_one_gets_a_new_process(stage: Stage) -> None:
    pool = stage.pool()
    await (await stage.processes.take(pool)).fetch(REQUEST)
    old = stage.alive[0]
    stage.processes.renew(pool)
    new = await stage.processes.take(pool)
    assert new is not old
    stage.now += 1
    await asyncio.sleep(0.06)
    assert old.alive, "a request is under way in it"
    old.under_way = 0
    await asyncio.sleep(0.12)
    assert not old.alive
    assert stage.alive == [new]


async def test_a_process_that_was_handed_out_still_serves_the_request_that_has_not_begun(stage: Stage) -> None:
    pool = stage.pool()
    process = await stage.processes.take(pool)
    stage.processes.renew(pool)
    await asyncio.sleep(0.12)
    await process.fetch(REQUEST)
    assert process.alive


async def test_a_drain_ends_at_last_whatever_the_requests_do(stage: Stage) -> None:
    pool = stage.pool()
    await (await stage.processes.take(pool)).fetch(REQUEST)
    retiring = asyncio.ensure_future(stage.processes.retire(pool))
    await asyncio.sleep(0.06)
    assert stage.alive
    stage.now += DRAIN_S + 1
    await retiring
    assert not stage.alive
    assert stage.processes.counts()["processes"] == 0
    await refused(stage.processes.take(pool), "worker.no_such_agent")


async def test_requests_that_wait_for_a_start_are_served_by_a_pool_that_retires(stage: Stage) -> None:
    pool, stage.gate = stage.pool(), asyncio.Event()
    waiting = asyncio.ensure_future(stage.processes.take(pool))
    await asyncio.sleep(0)
    retiring = asyncio.ensure_future(stage.processes.retire(pool))
    await asyncio.sleep(0)
    stage.gate.set()
    process = await waiting
    await process.fetch(REQUEST)
    await asyncio.sleep(0.06)
    assert not retiring.done()
    stage.now += DRAIN_S + 1
    await retiring


async def test_a_dropped_pool_ends_at_once_with_what_drains_and_what_starts(stage: Stage) -> None:
    pool = stage.pool()
    await (await stage.processes.take(pool)).fetch(REQUEST)
    stage.processes.renew(pool)
    stage.gate = asyncio.Event()
    waiting = asyncio.ensure_future(stage.processes.take(pool))
    await asyncio.sleep(0)
    await stage.processes.drop(pool)
    await refused(waiting, "worker.no_such_agent")
    assert not stage.alive
    assert stage.processes.counts() == {"processes": 0, "blanks": 0, "resident": 0}


async def test_closing_leaves_no_process_whatever_goes_on(stage: Stage) -> None:
    pools = [stage.pool() for _ in range(4)]
    for pool in pools[:3]:
        await (await stage.processes.take(pool)).fetch(REQUEST)
    stage.processes.renew(pools[0])
    stage.gate = asyncio.Event()
    waiting = asyncio.ensure_future(stage.processes.take(pools[3]))
    await asyncio.sleep(0)
    await stage.processes.close()
    assert not stage.alive
    await refused(waiting, "worker.no_such_agent")


# --- room ---


async def test_an_owner_at_the_quota_gets_no_more_processes_and_nobody_else_is_concerned() -> None:
    stage = with_budget(owner_processes=2)
    busy = [stage.pool() for _ in range(2)]
    for pool in busy:
        await (await stage.processes.take(pool)).fetch(REQUEST)
    error = await refused(stage.processes.take(stage.pool()), "worker.owner_quota")
    assert error.status == 429
    assert await stage.processes.take(stage.pool(BOB))


async def test_a_full_worker_says_so_with_a_code_that_sends_callers_elsewhere() -> None:
    stage = with_budget(processes=2)
    for owner in (ALICE, BOB):
        await (await stage.processes.take(stage.pool(owner))).fetch(REQUEST)
    error = await refused(stage.processes.take(stage.pool()), "worker.full")
    assert error.status == 503


async def test_the_process_that_was_idle_longest_makes_room(stage: Stage) -> None:
    stage = with_budget(processes=3)
    pools = [stage.pool() for _ in range(4)]
    for pool in pools[:3]:
        await stage.processes.take(pool)
        stage.now += SETTLED_S
    await stage.processes.take(pools[0])  # used again: the second is now the oldest
    stage.now += SETTLED_S
    await stage.processes.take(pools[3])
    await stage.turn(0.1)
    assert [p.alive for p in stage.started] == [True, False, True, True]


async def test_an_owner_over_the_quota_pays_with_processes_of_its_own(stage: Stage) -> None:
    stage = with_budget(owner_processes=1)
    hers, his = stage.pool(ALICE), stage.pool(BOB)
    await stage.processes.take(hers)
    stage.now += 10
    await stage.processes.take(his)
    stage.now += 10
    await stage.processes.take(stage.pool(BOB))
    await stage.turn(0.1)
    assert [p.alive for p in stage.started] == [True, False, True]


async def test_a_quota_refusal_is_no_failed_start() -> None:
    stage = with_budget(owner_processes=1)
    first, second = stage.pool(), stage.pool()
    await (await stage.processes.take(first)).fetch(REQUEST)
    for _ in range(3):
        await refused(stage.processes.take(second), "worker.owner_quota")
    stage.started[0].under_way = 0
    stage.now += SETTLED_S + 1
    assert await stage.processes.take(second)
    assert second.pause.starts == 0


async def test_memory_that_agents_took_meanwhile_counts() -> None:
    stage = with_budget(owner_memory_mb=100)
    await (await stage.processes.take(stage.pool())).fetch(REQUEST)
    assert await stage.processes.take(stage.pool())
    stage.started[0].rss = 90 * MIB
    await stage.turn()
    stage.started[1].under_way = 1
    error = await refused(stage.processes.take(stage.pool()), "worker.owner_quota")
    assert "100 MiB" in error.expected


async def test_a_worker_over_its_memory_stops_idle_processes_first_reserves(stage: Stage) -> None:
    stage = with_budget(memory_mb=100)
    pools = [stage.pool() for _ in range(3)]
    for pool in pools:
        await stage.processes.take(pool)
    stage.started[0].rss, stage.started[0].under_way = 80 * MIB, 1
    await stage.turn(SETTLED_S)
    await stage.turn(0.1)
    assert [p.alive for p in stage.started] == [True, False, True]
    stage.started[0].rss = 200 * MIB
    await stage.turn(SETTLED_S)
    await stage.turn(0.1)
    assert [p.alive for p in stage.started] == [True, False, False], (
        "one that serves is not stopped: its limit is its own"
    )


async def test_random_lives_leave_nothing_and_never_pass_the_bounds() -> None:
    dice = random.Random(7)
    stage = Stage(replace(Budget(), processes=6, owner_processes=4, spares=1), most=2)
    pools = [stage.pool(dice.choice((ALICE, BOB))) for _ in range(12)]

    def crash() -> None:
        for process in stage.alive[:1]:
            process.alive = False

    def finish() -> None:
        for process in stage.started:
            process.under_way = 0

    async def ask() -> None:
        process = await stage.processes.take(dice.choice(pools))
        await process.fetch(REQUEST)

    def renew() -> None:
        stage.processes.renew(dice.choice(pools))

    def fail() -> None:
        stage.error = None if stage.error else START(expected="a start", found="none")

    deeds: list[Callable[[], object]] = [ask, ask, ask, ask, crash, finish, finish, renew, fail]
    allowed = {
        "worker.full",
        "worker.owner_quota",
        "worker.backing_off",
        "sandbox.start",
        "sandbox.busy",
        "sandbox.closed",
    }
    refusals: set[str] = set()
    for _ in range(800):
        deed = dice.choice(deeds)
        try:
            done = deed()
            if asyncio.iscoroutine(done):
                await done
        except CloisterError as error:
            refusals.add(error.code)
        if dice.random() < 0.3:
            await stage.turn(dice.choice((0.1, 1, 30)))
        serving = sum(len(pool.members) + (pool.spare is not None) for pool in pools)
        assert serving <= 6
    assert refusals <= allowed
    stage.now += 2 * DRAIN_S
    finish()
    await stage.processes.close()
    assert not stage.alive
    assert all(process.closed for process in stage.started)
