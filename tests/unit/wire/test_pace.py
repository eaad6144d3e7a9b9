"""Whom to ask first: load is even, a slow one goes last, and is tried again."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloister.wire import pace
from cloister.wire.committee import TOO_FEW
from cloister.wire.pace import Pace

URLS = ["a", "b", "c", "d", "e"]


def known(**seconds: float) -> Pace:
    found = Pace()
    for url, took in seconds.items():
        found.note(url, took)
    return found


def first_of(found: Pace, rounds: int = 200) -> Counter[str]:
    """How often each is among the first three."""
    return Counter(url for _ in range(rounds) for url in found.order(URLS)[:3])


def test_load_is_even_while_nobody_is_slow() -> None:
    for one in (Pace(), known(a=0.03, b=0.04, c=0.05, d=0.03, e=0.06), known(a=0.001, b=0.001, c=0.04)):
        counts = first_of(one, 2000)
        assert set(counts) == set(URLS)
        assert max(counts.values()) < 1.3 * min(counts.values())


def test_one_three_times_as_slow_as_the_median_goes_last() -> None:
    found = known(a=0.03, b=0.03, c=0.03, d=0.03, e=2.0)
    assert [found.order(URLS)[-1] for _ in range(9)] == ["e"] * 9


def test_who_went_last_for_long_is_tried_again() -> None:
    found = known(a=0.03, b=0.03, c=0.03, d=0.03, e=2.0)
    assert first_of(found)["e"] > 0
    found.note("e", 60.0)
    assert found.order(URLS)[-1] == "e", "and goes last again if it is as slow as before"


def test_one_slow_answer_is_soon_forgotten_by_good_ones() -> None:
    found = known(a=0.03, b=0.03, c=0.03, d=0.03, e=0.3)
    for _ in range(9):
        found.note("e", 0.03)
    assert first_of(found)["e"] > 60


def test_a_refusal_counts_as_slow_however_fast_it_came() -> None:
    found = known(a=0.03, b=0.03, c=0.03, d=0.03)
    found.note("e", 0.001, refused=True)
    assert found.order(URLS)[-1] == "e"


def test_who_was_not_waited_for_is_no_faster_than_before() -> None:
    found = known(a=0.03, b=0.03, c=0.03, d=0.03, e=2.0)
    for _ in range(9):
        found.note("e", 0.001, cut=True)
    assert found.order(URLS)[-1] == "e"
    found.note("a", 60.0, cut=True)
    assert set(found.order(URLS)[-2:]) == {"a", "e"}


async def test_a_question_is_timed_whether_it_is_answered_refused_or_given_up() -> None:
    async def answers(value: object) -> object:
        return value

    found, refusal = Pace(), TOO_FEW(expected="3", found="2")
    assert await found.timed("a", answers("yes")) == "yes"
    assert await found.timed("b", answers(refusal)) is refusal
    waiting = asyncio.ensure_future(found.timed("c", asyncio.get_running_loop().create_future()))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert set(found._took) == {"a", "b", "c"}
    assert found._took["b"] >= pace.REFUSED_S


def test_when_all_refuse_none_is_slower_than_the_others() -> None:
    found = Pace()
    for url in URLS:
        found.note(url, 0.001, refused=True)
    assert set(first_of(found)) == set(URLS)


def test_patience_follows_the_slowest_of_those_asked() -> None:
    found = known(a=0.1, b=0.2, c=5.0, d=0.001)
    assert found.patience(["a", "b"]) == pytest.approx(0.4)
    assert found.patience(["a", "c"]) == pace.MOST_S
    assert found.patience(["d"]) == pace.LEAST_S
    assert found.patience(["e"]) == Pace().patience([]) == pace.UNKNOWN_S


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(URLS), st.floats(0, 100), st.booleans()), max_size=20))
def test_everybody_is_asked_some_time_whatever_was_noted(notes: list[tuple[str, float, bool]]) -> None:
    found = Pace()
    for url, seconds, refused in notes:
        found.note(url, seconds, refused=refused)
        assert sorted(found.order(URLS)) == URLS
        assert pace.LEAST_S <= found.patience(URLS) <= pace.MOST_S
    assert found.order([]) == []
