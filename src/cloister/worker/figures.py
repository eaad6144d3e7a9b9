"""What each agent did on this worker since it started: counted here, shown to its owner alone (spec/owner.md 6)."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Final

from cloister.core.receipts.receipt import Usage

BUCKETS: Final = 112
_UNIT_S: Final = 16e-6


@dataclass(slots=True)
class Figures:
    """One agent's sums. ``durations``: calls by bucket_of their time."""

    calls: int = 0
    errors: int = 0
    cpu_us: int = 0
    egress_bytes: int = 0
    request_bytes: int = 0
    response_bytes: int = 0
    durations: list[int] = field(default_factory=lambda: [0] * BUCKETS)


class FigureBook:
    """Figures by agent."""

    def __init__(self) -> None:
        self._by_agent: dict[bytes, Figures] = {}

    def note(self, agent: bytes, seconds: float, usage: Usage | None) -> None:
        """A call that took so long. ``usage`` None: it was refused, or failed."""
        figures = self._by_agent.setdefault(agent, Figures())
        figures.calls += 1
        figures.durations[bucket_of(seconds)] += 1
        if usage is None:
            figures.errors += 1
            return
        figures.cpu_us += usage.cpu_us
        figures.egress_bytes += usage.egress_bytes
        figures.request_bytes += usage.request_bytes
        figures.response_bytes += usage.response_bytes

    def show(self, agent: bytes) -> dict[str, Any]:
        """JSON-ready; zeros for an agent that was not called."""
        figures = self._by_agent.get(agent) or Figures()
        return {name: getattr(figures, name) for name in Figures.__slots__}


def bucket_of(seconds: float) -> int:
    """Which bucket: four per doubling from 16 microseconds on; the last one holds what is longer."""
    return min(BUCKETS - 1, int(4 * math.log2(1 + max(0.0, seconds) / _UNIT_S)))
