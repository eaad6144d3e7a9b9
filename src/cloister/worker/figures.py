"""What each agent did on this worker since it started: counted here, shown to its owner alone (spec/owner.md 6)."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Final, Literal

from cloister.core.errors import CloisterError
from cloister.core.receipts.receipt import Usage
from cloister.fabric.ports import CONFLICT
from cloister.sandbox.ports import AgentProcess, Spent
from cloister.worker.state import ALREADY_DONE

BUCKETS: Final = 112
_UNIT_S: Final = 16e-6
Kind = Literal["contracts", "scheduled"]


@dataclass(slots=True)
class Figures:
    """One agent's sums. ``durations``: calls by bucket_of their time. ``contracts``, ``scheduled``: how many of the
    calls were contracts' requests, and the schedule's."""

    calls: int = 0
    contracts: int = 0
    scheduled: int = 0
    errors: int = 0
    cpu_us: int = 0
    egress_bytes: int = 0
    ingress_bytes: int = 0
    request_bytes: int = 0
    response_bytes: int = 0
    durations: list[int] = field(default_factory=lambda: [0] * BUCKETS)


class FigureBook:
    """Figures by agent."""

    def __init__(self) -> None:
        self._by_agent: dict[bytes, Figures] = {}

    def note(self, agent: bytes, seconds: float, usage: Usage | None, kind: Kind | None = None) -> None:
        """A call that took so long. ``usage`` None: it was refused, or failed. ``kind``: where no caller made it."""
        figures = self._by_agent.setdefault(agent, Figures())
        figures.calls += 1
        figures.contracts += kind == "contracts"
        figures.scheduled += kind == "scheduled"
        figures.durations[bucket_of(seconds)] += 1
        if usage is None:
            figures.errors += 1
            return
        figures.cpu_us += usage.cpu_us
        figures.egress_bytes += usage.egress_bytes
        figures.ingress_bytes += usage.ingress_bytes
        figures.request_bytes += usage.request_bytes
        figures.response_bytes += usage.response_bytes

    def counting(self, agent: bytes, kind: Kind, process: AgentProcess) -> Counting:
        """``with`` around a request that nobody sealed: it counts unless another seat turns out to have answered."""
        return Counting(self, agent, kind, process)

    def show(self, agent: bytes) -> dict[str, Any]:
        """JSON-ready; zeros for an agent that was not called."""
        figures = self._by_agent.get(agent) or Figures()
        return {name: getattr(figures, name) for name in Figures.__slots__}


class Counting:
    """Counts one request. ``request``, ``response``: bytes of its bodies, as far as they are known."""

    def __init__(self, book: FigureBook, agent: bytes, kind: Kind, process: AgentProcess) -> None:
        self._book, self._agent, self._kind, self._process = book, agent, kind, process
        self.request, self.response = 0, 0

    def __enter__(self) -> Counting:
        self._began, self._before = time.monotonic(), self._process.spent()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, CloisterError) and error.code in (ALREADY_DONE.code, CONFLICT.code):
            return  # another seat was faster: it counts there
        took = time.monotonic() - self._began
        used = used_between(self._before, self._process.spent(), took, self.request, self.response)
        self._book.note(self._agent, took, None if error else used, self._kind)


def used_between(before: Spent, after: Spent, seconds: float, request: int, response: int) -> Usage:
    """What the process used in these ``seconds`` (requests that ran beside this one included), and both bodies'
    bytes."""
    cpu, sent, received = after[0] - before[0], after[1] - before[1], after[2] - before[2]
    if cpu < 0 or sent < 0 or received < 0 or seconds < 0:  # another process, or a clock that was turned back
        cpu, sent, received, seconds = max(0, cpu), max(0, sent), max(0, received), max(0.0, seconds)
    return Usage(cpu, int(seconds * 1e6), sent, received, after[3], request, response)


def bucket_of(seconds: float) -> int:
    """Which bucket: four per doubling from 16 microseconds on; the last one holds what is longer."""
    return min(BUCKETS - 1, int(4 * math.log2(1 + max(0.0, seconds) / _UNIT_S)))
