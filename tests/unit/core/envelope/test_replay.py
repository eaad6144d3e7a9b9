"""The replay window against a plain set, and the memory of dead contexts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloister.core.envelope.replay import WINDOW, ReplayWindow, Retired
from cloister.core.errors import CloisterError


def allowed(window: ReplayWindow, seq: int) -> bool:
    try:
        window.check(seq)
    except CloisterError:
        return False
    return True


@given(st.lists(st.integers(0, 3000) | st.integers(2**63, 2**63 + 2000), max_size=120))
def test_the_bitmap_says_what_a_set_would_say(numbers: list[int]) -> None:
    window, seen, top = ReplayWindow(), set[int](), -1
    for seq in numbers:
        expected = seq not in seen and seq > top - WINDOW
        assert allowed(window, seq) is expected
        if expected:
            window.mark(seq)
            seen.add(seq)
            top = max(top, seq)


@given(st.permutations(range(64)))
def test_any_order_within_the_window_passes_once(order: list[int]) -> None:
    window = ReplayWindow()
    for seq in order:
        assert allowed(window, seq)
        window.mark(seq)
    assert not any(allowed(window, seq) for seq in order)


def test_the_window_has_exactly_1024_places() -> None:
    window = ReplayWindow()
    window.mark(5000)
    assert allowed(window, 5000 - 1023)
    assert not allowed(window, 5000 - 1024)


def test_a_repeat_is_refused_by_name() -> None:
    window = ReplayWindow()
    window.mark(7)
    with pytest.raises(CloisterError, match=r"envelope\.replay"):
        window.check(7)


def test_checking_does_not_mark() -> None:
    window = ReplayWindow()
    assert allowed(window, 7)
    assert allowed(window, 7)


def test_a_dead_context_is_remembered_until_its_deadline_has_passed() -> None:
    retired = Retired(10)
    retired.add(b"one", 100_000, one_shot=True)
    retired.add(b"two", 200_000, one_shot=False)
    for now in range(0, 100_001, 1000):
        retired.forget(now)
        assert retired.get(b"one") is True
    retired.forget(150_000)
    assert retired.get(b"one") is None
    assert retired.get(b"two") is False
    assert len(retired) == 1


def test_a_full_memory_refuses_new_contexts() -> None:
    retired = Retired(2)
    retired.add(b"one", 1, one_shot=True)
    retired.need_room()
    retired.add(b"two", 1, one_shot=True)
    with pytest.raises(CloisterError, match=r"envelope\.overloaded"):
        retired.need_room()
    retired.forget(1_000_000)
    retired.need_room(2)


NAMES = st.sampled_from([b"a", b"b", b"c"])
TIMES = st.integers(0, 60_000)


@given(st.lists(st.tuples(NAMES, TIMES) | TIMES, max_size=40))
def test_the_memory_forgets_nobody_before_its_last_deadline_and_everybody_soon_after(
    steps: list[tuple[bytes, int] | int],
) -> None:
    """Against a plain table of the latest deadline of each name; time is what a worker's clock is, monotone."""
    retired, until, now = Retired(100), dict[bytes, int](), 0
    for step in steps:
        if isinstance(step, int):
            now = max(now, step)
            retired.forget(now)
        else:
            name, deadline = step
            retired.add(name, deadline, one_shot=True)
            until[name] = max(deadline, until.get(name, 0)) if retired.get(name) else deadline
        assert len(retired) == sum(retired.get(name) is not None for name in until)
        assert all(retired.get(name) for name, deadline in until.items() if now <= deadline)
    retired.forget(max([now, *until.values()]) + 10_000)
    assert len(retired) == 0


def test_a_context_retired_under_two_deadlines_is_kept_until_the_later_one() -> None:
    """One caller may use one ephemeral key towards two certificates: both contexts go by one name here."""
    for first, second in ((100_000, 200_000), (200_000, 100_000), (100_000, 100_000)):
        retired = Retired(10)
        retired.add(b"one", first, one_shot=False)
        retired.add(b"one", second, one_shot=False)
        assert len(retired) == 1
        retired.forget(max(first, second))
        assert retired.get(b"one") is False
        retired.forget(max(first, second) + 10_000)
        assert retired.get(b"one") is None


def test_numbers_far_ahead_empty_the_window_and_the_old_ones_stay_refused() -> None:
    window = ReplayWindow()
    for seq in range(10):
        window.mark(seq)
    window.mark(10 + WINDOW)
    assert not any(allowed(window, seq) for seq in range(11))
    assert all(allowed(window, seq) for seq in range(11, 10 + WINDOW))
    window.mark(2**64 - 1)
    assert window._seen < 1 << WINDOW


def test_a_jump_by_exactly_one_window_forgets_no_place() -> None:
    window = ReplayWindow()
    window.mark(5)
    window.mark(4 + WINDOW)
    assert not allowed(window, 5)
    assert allowed(window, 6)
    window.mark(5 + WINDOW)
    assert not allowed(window, 5)
    assert allowed(window, 6)
