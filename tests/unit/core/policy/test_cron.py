"""Schedules: what cron says, in UTC, compared minute by minute with a plain reading of it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloister.core.errors import CloisterError
from cloister.core.policy.cron import Cron


def at(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp())


LAST: dict[str, tuple[str, str, str | None]] = {
    "every minute": ("* * * * *", "2026-11-22T13:10:59", "2026-11-22T13:10"),
    "every quarter": ("*/15 * * * *", "2026-11-22T13:14:00", "2026-11-22T13:00"),
    "the very minute counts": ("10 13 * * *", "2026-11-22T13:10:00", "2026-11-22T13:10"),
    "yesterday, if it is too early": ("0 14 * * *", "2026-11-22T13:10:00", "2026-11-21T14:00"),
    "weekdays": ("0 9 * * 1-5", "2026-11-22T13:10:00", "2026-11-20T09:00"),
    "Sunday is 0": ("0 9 * * 0", "2026-11-22T13:10:00", "2026-11-22T09:00"),
    "Sunday is 7": ("0 9 * * 7", "2026-11-22T13:10:00", "2026-11-22T09:00"),
    "the first of a month": ("30 0 1 * *", "2026-11-22T13:10:00", "2026-11-01T00:30"),
    "either day will do": ("0 0 1 * 5", "2026-11-22T13:10:00", "2026-11-20T00:00"),
    "a list and a range with a step": ("5,35 8-18/5 * * *", "2026-11-22T13:10:00", "2026-11-22T13:05"),
    "from a number on, with a step": ("50/5 * * * *", "2026-11-22T13:10:00", "2026-11-22T12:55"),
    "once a year": ("0 0 25 12 *", "2026-11-22T13:10:00", "2025-12-25T00:00"),
    "never": ("0 0 31 2 *", "2026-11-22T13:10:00", None),
}


@pytest.mark.parametrize("sentence", LAST)
def test_the_last_time_is_found(sentence: str) -> None:
    text, now, last = LAST[sentence]
    assert Cron.parse(text).last(at(now)) == (None if last is None else at(last))


_FIELDS = st.tuples(
    st.sampled_from(["*", "0", "*/7", "5-20", "1,30,59"]),
    st.sampled_from(["*", "0", "23", "8-18/3"]),
    st.sampled_from(["*", "1", "28-31", "*/10"]),
    st.sampled_from(["*", "2", "1-6"]),
    st.sampled_from(["*", "0", "1-5", "7"]),
)


def plain(cron: Cron, moment: datetime) -> bool:
    days = moment.day in cron.days, moment.isoweekday() % 7 in cron.weekdays
    day = any(days) if cron.either else all(days)
    return moment.minute in cron.minutes and moment.hour in cron.hours and moment.month in cron.months and day


@settings(max_examples=40, deadline=None)
@given(_FIELDS, st.integers(at("2026-01-01T00:00"), at("2028-12-31T00:00")))
def test_it_is_due_exactly_then(fields: tuple[str, ...], now: int) -> None:
    cron = Cron.parse(" ".join(fields))
    last = cron.last(now)
    moment = datetime.fromtimestamp(now, UTC).replace(second=0, microsecond=0)
    for _ in range(3000):
        if plain(cron, moment):
            assert last == int(moment.timestamp())
            return
        moment -= timedelta(minutes=1)
    assert last is None or last < int(moment.timestamp()) + 60


BAD = (
    *("", "* * * *", "* * * * * *", "*  * * * *", "60 * * * *", "* 24 * * *", "* * 0 * *", "* * * 13 *", "* * * * 8"),
    *("-1 * * * *", "5-1 * * * *", "*/0 * * * *", "a * * * *", "1- * * * *", "1,,2 * * * *", "@daily", "* " * 100),
    *("1/2/3 * * * *", "\u0661 * * * *", "*\n * * * *"),
)


@pytest.mark.parametrize("text", BAD)
def test_what_is_no_schedule_is_refused(text: str) -> None:
    with pytest.raises(CloisterError) as caught:
        Cron.parse(text)
    assert caught.value.code == "manifest.cron"


@given(st.text(max_size=40))
def test_garbage_is_refused_by_name_or_a_schedule(text: str) -> None:
    try:
        cron = Cron.parse(text)
    except CloisterError as error:
        code = error.code
    else:
        code = "manifest.cron"
        assert cron.minutes
    assert code == "manifest.cron"
