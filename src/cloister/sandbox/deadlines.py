"""Deadlines of many requests under one timer of the loop: set for every request, hardly ever due.

They come up to ``STEP_S`` late, never early; one that has passed already comes at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

STEP_S: Final = 0.05


class Deadline:
    """One deadline. ``due``: it came, and what it calls was called."""

    __slots__ = ("_call", "_step", "due")

    def __init__(self, step: set[Deadline], call: Callable[[], object]) -> None:
        self._step = step
        self._call: Callable[[], object] | None = call
        self.due = False
        step.add(self)

    def drop(self) -> None:
        """Not needed any more. Idempotent."""
        self._step.discard(self)
        self._call = None

    def come(self) -> None:
        """Its time is over."""
        call, self._call = self._call, None
        if call is not None:
            self.due = True
            call()


class Deadlines:
    """All deadlines of one owner, by steps of the loop's clock. Belongs to the loop that it was made in."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._steps: dict[int, set[Deadline]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._at = 0

    def after(self, seconds: float, call: Callable[[], object]) -> Deadline:
        """Run ``call()`` from the loop after ``seconds``, unless dropped before; at once where none are left. It must
        not raise."""
        if seconds <= 0:
            passed = Deadline(set(), call)
            self._loop.call_soon(passed.come)
            return passed
        number = int((self._loop.time() + seconds) / STEP_S) + 1
        step = self._steps.get(number)
        if step is None:
            step = self._steps[number] = set()
            if self._timer is None or number < self._at:
                self._arm(number)
        return Deadline(step, call)

    def close(self) -> None:
        """Drop all of them."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None
        self._steps.clear()

    def _arm(self, number: int) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._at, self._timer = number, self._loop.call_at(number * STEP_S, self._turn)

    def _turn(self) -> None:
        self._timer = None
        now = self._loop.time()
        come = [number for number in self._steps if number * STEP_S <= now]
        due = [one for number in sorted(come) for one in self._steps.pop(number)]
        while self._steps and not self._steps[first := min(self._steps)]:
            del self._steps[first]  # all of it was dropped
        if self._steps:
            self._arm(min(self._steps))
        for one in due:
            one.come()
