"""Host time. The host can set it, so it decides nothing: network time is checkpoint height (DESIGN section 2)."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """What code that needs host time takes as an argument."""

    def now(self) -> float:
        """Unix seconds by the host."""

    def monotonic(self) -> float:
        """Seconds since some start; never goes back."""


class SystemClock:
    """The host's clocks."""

    def now(self) -> float:
        """Unix seconds."""
        return time.time()

    def monotonic(self) -> float:
        """Seconds since some start."""
        return time.monotonic()


class ManualClock:
    """A clock that moves when told to: for tests and simulations."""

    def __init__(self, now: float = 1_800_000_000.0) -> None:
        self._now, self._monotonic = now, 0.0

    def now(self) -> float:
        """The set Unix seconds."""
        return self._now

    def monotonic(self) -> float:
        """Seconds advanced so far."""
        return self._monotonic

    def advance(self, seconds: float) -> None:
        """Move both forward. Raises ValueError for a negative step."""
        if seconds < 0:
            raise ValueError("time does not go back")
        self._now, self._monotonic = self._now + seconds, self._monotonic + seconds
