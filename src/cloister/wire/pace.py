"""Whom to ask first, and how long to wait: what each endpoint took lately (spec/sharing.md 4).

Asked by lot, so that load is even; one that was slow, or refused, goes last for a while, and is tried again after it.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Sequence
from random import SystemRandom
from statistics import median
from typing import Any, Final

from cloister.core.errors import CloisterError

_LOT: Final = SystemRandom()
_WEIGHT, _FORGET = 0.25, 0.9  # of a new time in the mean; what is left of a mean after each time of going last
SLOW: Final = 3.0  # times the median of all, and no less than LEAST_S
REFUSED_S: Final = 1.0  # what a refusal counts as, at least: it was no answer
UNKNOWN_S, LEAST_S, MOST_S = 0.15, 0.05, 1.0


class Pace:
    """Moving means of seconds by endpoint. One object for each set of endpoints, kept between questions."""

    def __init__(self) -> None:
        self._took: dict[str, float] = {}

    def note(self, url: str, seconds: float, *, refused: bool = False, cut: bool = False) -> None:
        """An endpoint answered after so long. ``cut``: it had not when nobody waited any more, so it takes longer."""
        seconds = max(seconds, REFUSED_S) if refused else seconds
        before = self._took.get(url, seconds)
        seconds = max(seconds, before) if cut else seconds
        self._took[url] = before + _WEIGHT * (seconds - before)

    async def timed(self, url: str, question: Awaitable[Any]) -> Any:
        """The answer to a question, a refusal being one too; how long it took is noted, also when it is given up."""
        began, answer = time.monotonic(), None
        try:
            answer = await question
        finally:
            took, refused = time.monotonic() - began, isinstance(answer, CloisterError)
            self.note(url, took, refused=refused, cut=answer is None)
        return answer

    def order(self, urls: Sequence[str]) -> list[str]:
        """The endpoints by lot, slow ones last."""
        lot = _LOT.sample(urls, len(urls))
        known = [self._took[url] for url in urls if url in self._took]
        bound = max(LEAST_S, SLOW * median(known)) if known else 0.0
        slow = [url for url in lot if known and self._took.get(url, 0.0) > bound]
        for url in slow:
            self._took[url] *= _FORGET
        return [url for url in lot if url not in slow] + slow

    def patience(self, asked: Sequence[str]) -> float:
        """Seconds to wait for these before others are asked too: twice what the slowest of them takes."""
        known = [self._took[url] for url in asked if url in self._took]
        return min(MOST_S, max(LEAST_S, 2 * max(known))) if known else UNKNOWN_S
