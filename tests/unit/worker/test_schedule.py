"""Scheduled requests: due once for all seats, tried again when they fail, set aside in the end, durable throughout."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import pytest

from cloister.core.errors import CloisterError
from cloister.core.policy.manifest import Manifest, normalize
from cloister.sandbox.errors import THREW
from cloister.sandbox.ports import AgentRequest
from cloister.worker import schedule as work
from cloister.worker.placed import Placed
from cloister.worker.schedule import FIRST_WAIT_S, MAX_TRIES, Schedule, dead_letters
from cloister.worker.state import ALREADY_DONE
from support.fake_sandbox import Agent, Calls, Reply
from support.worker_kit import Rig, get, put

Make = Callable[[Agent], Awaitable[Rig]]
HOUR = 3600
START = 1_800_000_000 - 1_800_000_000 % HOUR


@dataclass
class Clock:
    """A schedule of one task per hour over a rig, with a clock to turn."""

    rig: Rig
    agent: bytes
    now: int = START + 60
    tasks: list[dict[str, Any]] = field(default_factory=lambda: [{"cron": "0 * * * *", "path": "/tick"}])

    def __post_init__(self) -> None:
        self.schedule = self.seat()

    def seat(self) -> Schedule:
        """What one worker runs."""
        return Schedule(self.rig.table.process, self.manifest, lambda: self.now, self.rig.table.figures)

    async def manifest(self, placed: Placed) -> Manifest:
        return normalize({"schedule": self.tasks})

    async def at(self, now: int, seat: Schedule | None = None) -> None:
        """One turn at this time."""
        self.now = now
        await (seat or self.schedule).turn({self.agent: self.rig.placed(self.agent)})

    def process(self) -> Any:
        """The agent's process."""
        return self.rig.sandbox.processes[0]

    async def count(self) -> int:
        """How often the agent's own counter was committed."""
        value = await self.rig.placed(self.agent).state.peek("count")
        return int(value or b"0")

    async def dead(self) -> list[dict[str, Any]]:
        return await dead_letters(self.rig.placed(self.agent).state)


async def counts(request: AgentRequest, ctx: Calls) -> Reply:
    """Adds one to a counter in the agent's state."""
    seen = int(await get(ctx, "count") or b"0")
    await put(ctx, "count", str(seen + 1).encode())
    return Reply()


async def clock_of(make: Make, agent: Agent = counts) -> Clock:
    rig = await make(agent)
    return Clock(rig, await rig.deploy())


async def test_runs_count_for_the_owner_and_those_of_another_seat_do_not(make: Make) -> None:
    clock = await clock_of(make)
    for hour in range(3):
        await clock.at(START + hour * HOUR + 60)
    figures = clock.rig.table.figures.show(clock.agent)
    assert (figures["calls"], figures["scheduled"], figures["contracts"], figures["errors"]) == (2, 2, 0, 0)
    assert figures["cpu_us"] > 0
    with pytest.raises(CloisterError), clock.rig.table.figures.counting(clock.agent, "scheduled", clock.process()):
        raise ALREADY_DONE(expected="a first run", found="a second")
    assert clock.rig.table.figures.show(clock.agent)["calls"] == 2
    with pytest.raises(CloisterError), clock.rig.table.figures.counting(clock.agent, "contracts", clock.process()):
        raise THREW(expected="a response", found="Error")
    figures = clock.rig.table.figures.show(clock.agent)
    assert (figures["calls"], figures["contracts"], figures["errors"]) == (3, 1, 1)


async def test_a_new_schedule_begins_with_the_next_time(make: Make) -> None:
    clock = await clock_of(make)
    await clock.at(START + 60)
    await clock.at(START + 120)
    assert await clock.count() == 0
    await clock.at(START + HOUR)
    assert await clock.count() == 1


async def test_each_time_is_run_once(make: Make) -> None:
    clock = await clock_of(make)
    for minute in range(0, 181, 5):
        await clock.at(START + 60 + 60 * minute)
    assert await clock.count() == 3


async def test_two_seats_count_once(make: Make) -> None:
    clock = await clock_of(make)
    other = clock.seat()
    for now in (START + 60, START + HOUR, START + 2 * HOUR):
        await clock.at(now)
        await clock.at(now, other)
    assert await clock.count() == 2


async def test_what_was_missed_while_nobody_looked_is_made_up_for_once(make: Make) -> None:
    clock = await clock_of(make)
    await clock.at(START + 60)
    await clock.at(START + 10 * HOUR + 7)
    await clock.at(START + 10 * HOUR + 8)
    assert await clock.count() == 1


async def test_the_agent_sees_a_post_with_the_time_and_a_key(make: Make) -> None:
    seen: list[AgentRequest] = []

    async def look(request: AgentRequest, ctx: Calls) -> Reply:
        seen.append(request)
        raise THREW(expected="a response", found="Error")

    clock = await clock_of(make, look)
    await clock.at(START + 60)
    await clock.at(START + HOUR)
    await clock.at(START + HOUR + FIRST_WAIT_S)
    first, again = seen
    assert (first.method, first.path, first.body, first.caller) == ("POST", "/tick", b"", {"kind": "schedule"})
    assert dict(first.headers)["cloister-scheduled"] == str(START + HOUR)
    assert dict(first.headers) == dict(again.headers), "a repeat says the same key"
    assert first.deadline_ms == (START + HOUR + 60) * 1000


async def test_a_failure_is_tried_again_later_each_time_and_then_set_aside(make: Make) -> None:
    tries: list[int] = []

    async def fails(request: AgentRequest, ctx: Calls) -> Reply:
        tries.append(clock.now)
        await put(ctx, "count", b"9")
        return Reply(500)

    clock = await clock_of(make, fails)
    await clock.at(START + 60)
    for now in range(START + HOUR, START + HOUR + 1200, 5):
        await clock.at(now)
    waits = [later - sooner for sooner, later in pairwise(tries)]
    assert len(tries) == MAX_TRIES
    assert waits == [FIRST_WAIT_S * 2**n for n in range(MAX_TRIES - 1)]
    assert await clock.count() == 0, "a run that failed wrote nothing"
    (letter,) = await clock.dead()
    assert (letter["task"], letter["due"], letter["path"]) == (0, START + HOUR, "/tick")
    assert (letter["code"], letter["tries"]) == ("worker.scheduled_failed", MAX_TRIES)
    assert any("worker.scheduled_failed" in text for _, text in clock.rig.logged)


async def test_after_a_failure_the_next_times_go_on(make: Make) -> None:
    broken = [True]

    async def sometimes(request: AgentRequest, ctx: Calls) -> Reply:
        return Reply(500) if broken[0] else await counts(request, ctx)

    clock = await clock_of(make, sometimes)
    await clock.at(START + 60)
    await clock.at(START + HOUR)
    assert list(clock.schedule.problems) == [clock.agent]
    broken[0] = False
    await clock.at(START + HOUR + FIRST_WAIT_S)
    await clock.at(START + 2 * HOUR)
    assert (await clock.count(), await clock.dead(), clock.schedule.problems) == (2, [], {})


async def test_a_schedule_that_was_changed_begins_anew(make: Make) -> None:
    clock = await clock_of(make)
    await clock.at(START + 60)
    clock.tasks = [{"cron": "30 * * * *", "path": "/tick"}]
    await clock.at(START + HOUR)
    assert await clock.count() == 0
    await clock.at(START + HOUR + 1800)
    assert await clock.count() == 1


async def test_an_answer_without_end_is_a_failure(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work, "MAX_BODY", 4)
    clock = await clock_of(make, lambda request, ctx: counts_and_says(request, ctx))
    await clock.at(START + 60)
    await clock.at(START + HOUR)
    assert await clock.count() == 0


async def counts_and_says(request: AgentRequest, ctx: Calls) -> Reply:
    await counts(request, ctx)
    return Reply(body=[b"x" * 10])


async def test_one_failing_agent_does_not_stop_the_others(make: Make) -> None:
    clock = await clock_of(make)
    second = await clock.rig.deploy(2)

    async def manifest(placed: Placed) -> Manifest:
        if placed.record.agent == clock.agent:
            raise THREW(expected="a manifest", found="none")
        return normalize({"schedule": clock.tasks})

    both = Schedule(clock.rig.table.process, manifest, lambda: clock.now, clock.rig.table.figures)
    for now in (START + 60, START + HOUR):
        clock.now = now
        await both.turn(dict(clock.rig.table.placed()))
    assert list(both.problems) == [clock.agent]
    assert await clock.rig.placed(second).state.peek("count") == b"1"


BAD_SCHEDULES: dict[str, object] = {
    "no list": {},
    "too many": [{"cron": "* * * * *", "path": "/"}] * 17,
    "no path": [{"cron": "* * * * *"}],
    "a field too many": [{"cron": "* * * * *", "path": "/", "body": "x"}],
    "a path without a slash": [{"cron": "* * * * *", "path": "tick"}],
    "a path with a space": [{"cron": "* * * * *", "path": "/a b"}],
    "a time of a thousand seconds": [{"cron": "* * * * *", "path": "/", "within_s": 1000}],
    "true for seconds": [{"cron": "* * * * *", "path": "/", "within_s": True}],
    "no cron": [{"cron": "daily", "path": "/"}],
}


@pytest.mark.parametrize("sentence", BAD_SCHEDULES)
def test_a_schedule_out_of_form_is_refused(sentence: str) -> None:
    with pytest.raises(CloisterError) as caught:
        normalize({"schedule": BAD_SCHEDULES[sentence]})
    assert caught.value.code in ("manifest.schedule", "manifest.cron")


def test_a_schedule_makes_the_round_trip_and_others_keep_their_hash() -> None:
    manifest = normalize({"schedule": [{"cron": "0 9 * * 1-5", "path": "/publish"}]})
    assert Manifest.parse(bytes(manifest)) == manifest
    assert manifest.schedule[0].within_s == 60
    assert b"schedule" not in bytes(normalize({}))
    assert len(hashlib.sha256(bytes(manifest)).digest()) == 32


async def given_up(make: Make, agent: Agent) -> tuple[Clock, int]:
    """A task that failed until it was set aside; when it was due."""
    clock = await clock_of(make, agent)
    await clock.at(START + 60)
    now = START + HOUR
    for n in range(MAX_TRIES):
        with contextlib.suppress(CloisterError):
            await clock.at(now)
        now += FIRST_WAIT_S * 2**n
    assert [letter["due"] for letter in await clock.dead()] == [START + HOUR]
    return clock, START + HOUR


async def wish(clock: Clock, task: int, due: int) -> None:
    """The owner's wish, committed as the owner's desk does."""
    placed = clock.rig.placed(clock.agent)
    name, value = await clock.schedule.again(placed, task, due)
    transaction = await placed.state.begin("0a" * 16)
    await transaction.put(name, value)
    await transaction.commit("0a" * 16)


async def test_a_given_up_job_runs_once_more_when_its_owner_wants_it(make: Make) -> None:
    broken = True

    async def agent(request: AgentRequest, ctx: Calls) -> Reply:
        if broken:
            raise THREW(expected="a response", found="Error")
        return await counts(request, ctx)

    clock, due = await given_up(make, agent)
    broken = False
    now = clock.now
    await clock.at(now)
    before = await clock.count()
    await wish(clock, 0, due)
    assert (await clock.schedule.jobs(clock.rig.placed(clock.agent)))["again"] == [0, due]
    for _ in range(3):
        await clock.at(now)
    assert await clock.count() == before + 1
    assert await clock.dead() == []
    assert (await clock.schedule.jobs(clock.rig.placed(clock.agent)))["again"] is None
    assert {dict(r.headers)["cloister-scheduled"] for r in clock.rig.sandbox.processes[0].requests} == {str(due)}


async def test_a_job_that_fails_again_stays_given_up_and_is_not_tried_for_ever(make: Make) -> None:
    async def agent(request: AgentRequest, ctx: Calls) -> Reply:
        raise THREW(expected="a response", found="Error")

    clock, due = await given_up(make, agent)
    asked = len(clock.rig.sandbox.processes[0].requests)
    await wish(clock, 0, due)
    for _ in range(3):
        await clock.at(clock.now)
    assert len(clock.rig.sandbox.processes[0].requests) == asked + 1
    assert [letter["due"] for letter in await clock.dead()] == [due]
    assert (await clock.schedule.jobs(clock.rig.placed(clock.agent)))["again"] is None


async def test_a_wish_for_a_task_that_is_gone_is_forgotten(make: Make) -> None:
    async def agent(request: AgentRequest, ctx: Calls) -> Reply:
        raise THREW(expected="a response", found="Error")

    clock, due = await given_up(make, agent)
    await wish(clock, 0, due)
    clock.tasks = [{"cron": "0 0 1 1 *", "path": "/other"}]
    placed = clock.rig.placed(clock.agent)
    transaction = await placed.state.begin("0b" * 16)
    await transaction.delete(f"{work.DEAD}0/{due}")
    await transaction.commit("0b" * 16)
    await clock.at(clock.now)
    assert (await clock.schedule.jobs(placed))["again"] is None
    assert (await clock.schedule.jobs(placed))["dead"] == []


@pytest.mark.parametrize(("task", "due"), [(0, 1), (1, START + HOUR), (None, None), ("0", START + HOUR), (True, 0)])
async def test_only_a_given_up_job_can_be_wished_for(make: Make, task: Any, due: Any) -> None:
    async def agent(request: AgentRequest, ctx: Calls) -> Reply:
        raise THREW(expected="a response", found="Error")

    clock, _ = await given_up(make, agent)
    with pytest.raises(CloisterError) as caught:
        await clock.schedule.again(clock.rig.placed(clock.agent), task, due)
    assert caught.value.code == "worker.no_dead_job"


async def test_the_owner_sees_tasks_with_how_far_they_came(make: Make) -> None:
    clock = await clock_of(make)
    placed = clock.rig.placed(clock.agent)
    (task,) = (await clock.schedule.jobs(placed))["tasks"]
    assert task == {"task": 0, "cron": "0 * * * *", "path": "/tick", "within_s": 60}
    await clock.at(START + 60)
    await clock.at(START + HOUR)
    (task,) = (await clock.schedule.jobs(placed))["tasks"]
    assert (task["done"], task["tries"]) == (START + HOUR, 0)
