"""Rate limits: a token bucket per asker, bounded in memory."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from cloister.core.errors import PolicyError, define

RATE = define(
    "gatekeeper.rate",
    PolicyError,
    check="an asker stays within the gatekeeper's rate",
    remedy="wait a second; a worker needs one key request per agent and period",
    status=429,
)


class RateLimit:
    """``burst`` requests at once, ``per_s`` a second after that, for each of at most ``askers`` names.

    ``clock`` gives monotonic seconds. The name that was silent longest is forgotten first.
    """

    def __init__(self, *, per_s: float, burst: int, clock: Callable[[], float], askers: int = 4096) -> None:
        self._per_s, self._burst, self._clock, self._askers = per_s, burst, clock, askers
        self._buckets: OrderedDict[tuple[str, bytes], tuple[float, float]] = OrderedDict()

    def take(self, asker: tuple[str, bytes]) -> None:
        """Count one request of ``asker`` (remote address, claimed node). Raises PolicyError gatekeeper.rate."""
        now = self._clock()
        tokens, last = self._buckets.pop(asker, (float(self._burst), now))
        tokens = min(float(self._burst), tokens + (now - last) * self._per_s)
        allowed = tokens >= 1
        self._buckets[asker] = (tokens - 1 if allowed else tokens, now)
        if len(self._buckets) > self._askers:
            self._buckets.popitem(last=False)
        if not allowed:
            raise RATE(expected=f"{self._per_s:g} requests a second", found="more")
