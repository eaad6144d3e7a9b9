"""Deadlines under one timer: each comes once, never early, and not at all when it was dropped."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloister.sandbox.deadlines import STEP_S, Deadline, Deadlines


class Clock:
    """A loop's clock and its timers, by hand. Implements what Deadlines asks of a loop."""

    def __init__(self) -> None:
        self.now = 0.0
        self.timers: dict[int, tuple[float, Callable[[], None]]] = {}
        self.armed = 0

    def time(self) -> float:
        return self.now

    def call_soon(self, call: Callable[[], None]) -> None:
        self.call_at(self.now, call)

    def call_at(self, when: float, call: Callable[[], None]) -> Clock.Handle:
        self.armed += 1
        self.timers[self.armed] = when, call
        return Clock.Handle(self, self.armed)

    class Handle:
        def __init__(self, clock: Clock, number: int) -> None:
            self.clock, self.number = clock, number

        def cancel(self) -> None:
            self.clock.timers.pop(self.number, None)

    def until(self, end: float) -> None:
        """Let time pass, running timers in their order."""
        while self.timers and min(self.timers.values(), key=lambda t: t[0])[0] <= end:
            number, (when, call) = min(self.timers.items(), key=lambda item: item[1][0])
            del self.timers[number]
            self.now = max(self.now, when)
            call()
        self.now = max(self.now, end)


def on(clock: Clock) -> Deadlines:
    """Deadlines over a clock by hand."""

    async def made() -> Deadlines:
        return Deadlines()

    found = asyncio.run(made())
    found._loop = clock  # type: ignore[assignment]
    return found


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.floats(-1, 5), st.booleans()), max_size=20))
def test_each_comes_once_in_time_and_dropped_ones_never(asked: list[tuple[float, bool]]) -> None:
    clock, came = Clock(), list[tuple[int, float]]()
    deadlines = on(clock)
    made = [deadlines.after(s, lambda i=i: came.append((i, clock.now))) for i, (s, _) in enumerate(asked)]  # type: ignore[misc]
    for one, (_, dropped) in zip(made, asked, strict=True):
        if dropped:
            one.drop()
    clock.until(10.0)
    assert sorted(i for i, _ in came) == [i for i, (_, dropped) in enumerate(asked) if not dropped]
    for number, when in came:
        assert max(asked[number][0], 0.0) <= when <= max(asked[number][0], 0.0) + 2 * STEP_S
    assert [one.due for one in made] == [not dropped for _, dropped in asked]
    assert not clock.timers
    assert not deadlines._steps


def test_many_deadlines_of_one_time_have_one_timer() -> None:
    clock = Clock()
    deadlines = on(clock)
    for _ in range(1000):
        deadlines.after(30.0, lambda: None)
    assert clock.armed == 1


@pytest.mark.parametrize("seconds", [0.0, -5.0])
def test_one_that_has_passed_comes_at_once_and_waits_for_no_step(seconds: float) -> None:
    clock, come = Clock(), list[str]()
    deadlines = on(clock)
    deadlines.after(1.0, lambda: come.append("later"))
    passed = deadlines.after(seconds, lambda: come.append("passed"))
    assert not passed.due, "from the loop, never inside the call"
    deadlines.after(seconds, lambda: come.append("dropped")).drop()
    clock.until(clock.now)
    assert come == ["passed"]
    assert passed.due


def test_an_earlier_deadline_than_all_others_comes_first() -> None:
    clock, came = Clock(), list[str]()
    deadlines = on(clock)
    deadlines.after(3.0, lambda: came.append("late"))
    deadlines.after(1.0, lambda: came.append("soon"))
    clock.until(2.0)
    assert came == ["soon"]
    clock.until(4.0)
    assert came == ["soon", "late"]
    assert not clock.timers


def test_one_that_another_of_the_same_step_drops_does_not_come() -> None:
    clock, came = Clock(), list[int]()
    deadlines, both = on(clock), list[Deadline]()

    def comes(number: int) -> None:
        came.append(number)
        both[1 - number].drop()

    both += [deadlines.after(1.0, lambda: comes(0)), deadlines.after(1.0, lambda: comes(1))]
    clock.until(5.0)
    assert len(came) == 1


def test_a_deadline_set_by_another_one_comes_in_its_turn() -> None:
    clock, came = Clock(), list[str]()
    deadlines = on(clock)
    deadlines.after(1.0, lambda: came.append("one"))
    deadlines.after(1.0, lambda: deadlines.after(1.0, lambda: came.append("again")))
    clock.until(5.0)
    assert came == ["one", "again"]


def test_after_close_nothing_comes() -> None:
    clock, came = Clock(), list[str]()
    deadlines = on(clock)
    one = deadlines.after(1.0, lambda: came.append("one"))
    deadlines.close()
    one.drop()
    one.drop()
    clock.until(5.0)
    assert came == []
    assert not clock.timers


async def test_it_runs_on_a_real_loop() -> None:
    deadlines, came = Deadlines(), asyncio.Event()
    deadlines.after(0.0, came.set)
    await asyncio.wait_for(came.wait(), 10)


@pytest.mark.parametrize("seconds", [0.0, STEP_S / 2, STEP_S, 7.3])
def test_never_early(seconds: float) -> None:
    clock, came = Clock(), list[float]()
    clock.now = 123.456
    on(clock).after(seconds, lambda: came.append(clock.now))
    clock.until(200.0)
    assert came[0] >= 123.456 + seconds
