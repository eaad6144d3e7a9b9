"""When an agent is to be woken: the five fields of cron, in UTC (spec/sandbox.md 10; POSIX crontab).

``minute hour day-of-month month day-of-week``; each ``*``, a number, ``a-b``, any of them with ``/step``, or a list by
commas. Sunday is 0 or 7. As in cron, where both days are limited, either will do.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from cloister.core.errors import ConfigError, define

MAX_TEXT: Final = 120
# How far back the last time is looked for: a schedule that never comes within it is never due.
LOOK_BACK_DAYS: Final = 366
_PART = re.compile(r"(\*|([0-9]{1,2})(?:-([0-9]{1,2}))?)(?:/([0-9]{1,2}))?")
_BOUNDS: Final = ((0, 59), (0, 23), (1, 31), (1, 12), (0, 7))

BAD_CRON = define(
    "manifest.cron",
    ConfigError,
    check="a schedule is five fields of cron in UTC: minute, hour, day of month, month, day of week",
    remedy='for example "*/15 * * * *" (every quarter of an hour) or "0 9 * * 1-5" (nine o\'clock on weekdays)',
)


@dataclass(frozen=True, slots=True)
class Cron:
    """A parsed schedule. ``either``: both days are limited, and one of them is enough."""

    minutes: frozenset[int]
    hours: frozenset[int]
    days: frozenset[int]
    months: frozenset[int]
    weekdays: frozenset[int]
    either: bool

    @classmethod
    def parse(cls, text: str) -> Cron:
        """Raises ConfigError (manifest.cron)."""
        fields = text.split(" ") if len(text) <= MAX_TEXT else []
        if len(fields) != 5:
            raise BAD_CRON(expected="five fields with one space between", found=f"{len(fields)}")
        found = [_field(field, *bounds) for field, bounds in zip(fields, _BOUNDS, strict=True)]
        minutes, hours, days, months, weekdays = found
        sundays = frozenset(day % 7 for day in weekdays)
        return cls(minutes, hours, days, months, sundays, fields[2] != "*" and fields[4] != "*")

    def last(self, now_s: int) -> int | None:
        """The newest time that is not after ``now_s`` (both Unix seconds, at a full minute); None if there is none."""
        now = datetime.fromtimestamp(now_s, UTC).replace(second=0, microsecond=0)
        for back in range(LOOK_BACK_DAYS):
            day = now - timedelta(days=back)
            if not self._on(day):
                continue
            latest = (now.hour, now.minute) if back == 0 else (23, 59)
            times = [(hour, minute) for hour in self.hours for minute in self.minutes if (hour, minute) <= latest]
            if times:
                hour, minute = max(times)
                return int(day.replace(hour=hour, minute=minute).timestamp())
        return None

    def _on(self, day: datetime) -> bool:
        by_day, by_weekday = day.day in self.days, day.isoweekday() % 7 in self.weekdays
        return day.month in self.months and (by_day or by_weekday if self.either else by_day and by_weekday)


def _field(text: str, least: int, most: int) -> frozenset[int]:
    found: set[int] = set()
    for part in text.split(","):
        match = _PART.fullmatch(part)
        if match is None:
            raise BAD_CRON(expected="*, a number, a range, with a step, or a list of them", found="something else")
        first = least if match[2] is None else int(match[2])
        last = most if match[2] is None or (match[4] and match[3] is None) else int(match[3] or match[2])
        step = int(match[4] or 1)
        if not least <= first <= last <= most or step < 1:
            raise BAD_CRON(expected=f"numbers from {least} to {most} and a step", found="others")
        found.update(range(first, last + 1, step))
    return frozenset(found)
