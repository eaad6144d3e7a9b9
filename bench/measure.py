"""What every benchmark shares: rows, medians, CPU time of processes, the table, BENCH_JSON.

Wall times move with the machine's load. CPU time per request and ratios within one run are what to compare.
"""

from __future__ import annotations

import json
import os
import statistics
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Row:
    """One result. ``baseline`` and ``target`` are in ``unit``; ``ratio`` is value / baseline; None: there is none.

    ``ok`` is None for a row that no floor is set for."""

    name: str
    value: float
    unit: str
    baseline: float | None
    ratio: float | None
    target: float | None
    ok: bool | None


def at_most(name: str, value: float, unit: str, target: float, baseline: float | None = None) -> Row:
    """A row that is good when its value is not above ``target``."""
    return Row(name, value, unit, baseline, _ratio(value, baseline), target, value <= target)


def at_least(name: str, value: float, unit: str, target: float, baseline: float | None = None) -> Row:
    """A row that is good when its value is not below ``target``."""
    return Row(name, value, unit, baseline, _ratio(value, baseline), target, value >= target)


def fact(name: str, value: float, unit: str, baseline: float | None = None) -> Row:
    """A row without a floor: it explains another one."""
    return Row(name, value, unit, baseline, _ratio(value, baseline), None, None)


def _ratio(value: float, baseline: float | None) -> float | None:
    return value / baseline if baseline else None


def table(rows: Iterable[Row]) -> str:
    """The rows as aligned text."""
    lines = [f"{'':<58} {'value':>10} {'unit':<7} {'baseline':>10} {'ratio':>6} {'floor':>10}"]
    for row in rows:
        verdict = {True: "ok", False: "MISSED", None: ""}[row.ok]
        cells = f"{_number(row.value):>10} {row.unit:<7} {_number(row.baseline):>10}"
        lines.append(f"{row.name:<58} {cells} {_number(row.ratio):>6} {_number(row.target):>10} {verdict}".rstrip())
    return "\n".join(lines)


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def finish(rows: Sequence[Row]) -> int:
    """Print the table and write BENCH_JSON if it is set; 0 if no floor was missed, else 1."""
    print(table(rows), flush=True)
    if file := os.environ.get("BENCH_JSON"):
        Path(file).write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    return 1 if any(row.ok is False for row in rows) else 0


def median(values: Iterable[float]) -> float:
    """The median."""
    return statistics.median(values)


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least ``share`` (0..1) of the values do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, -(-int(share * 1e6) * len(ordered) // 1_000_000) - 1))]


def cpu_us(pid: int) -> float:
    """CPU microseconds that a process has used, all its threads: clock_getcpuclockid(3)."""
    return time.clock_gettime_ns((~pid << 3) | 2) / 1000


def family(pid: int) -> list[int]:
    """The process and everything below it."""
    found = [pid]
    for parent in found:
        for task in Path(f"/proc/{parent}/task").glob("*/children"):
            found += [int(child) for child in task.read_text().split()]
    return found


def family_cpu_us(pid: int) -> float:
    """CPU microseconds of everything that runs below ``pid``, without itself."""
    total = 0.0
    for child in family(pid)[1:]:
        try:
            total += cpu_us(child)
        except OSError:
            continue  # it has ended
    return total


def pss_bytes(pid: int) -> int:
    """Memory of a process with shared pages divided among those who share them."""
    return _rollup(pid)["Pss"]


def private_bytes(pid: int) -> int:
    """Memory of a process that nobody shares: what one more of its kind costs a machine."""
    found = _rollup(pid)
    return found["Private_Clean"] + found["Private_Dirty"]


def _rollup(pid: int) -> dict[str, int]:
    """Sums over a process's mappings, in bytes (proc(5), smaps_rollup)."""
    _, *lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return {name.strip(): int(rest.split()[0]) << 10 for name, _, rest in (line.partition(":") for line in lines)}
