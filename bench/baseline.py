"""Every row of DESIGN section 15 that exists: ``python -m bench.baseline [part ...]``; parts below, all without one.

With BENCH_JSON=FILE the rows are written there too. Exit status 1 says that a floor was missed.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import uvloop

from bench import (
    attestation,
    calls,
    chain,
    evidence,
    journeys,
    keys,
    many,
    release,
    rotation,
    sandbox,
    serving,
    state,
    threshold,
)
from bench.live import live
from bench.measure import Row, finish, table

LOCAL = ("keys", "threshold", "rotation", "evidence", "attestation", "state", "sandbox", "serving", "agents")
NETWORK = ("calls", "journeys", "chain", "gatekeepers")
PARTS = (*NETWORK, *LOCAL)


class Rows(list[Row]):
    """What was measured so far. Of several parts each is said at once: what breaks later was not for nothing."""

    def __init__(self, parts: Sequence[str]) -> None:
        super().__init__()
        self._aloud = len(parts) > 1

    def keep(self, rows: list[Row]) -> None:
        """Take a part's rows."""
        self += rows
        if self._aloud:
            print(table(rows), file=sys.stderr, flush=True)


async def measured(parts: Sequence[str]) -> list[Row]:
    """The rows of these parts, those that need a network first."""
    found = Rows(parts)
    if set(parts) & set(NETWORK):
        await _network(parts, found)
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        if "keys" in parts:
            found.keep(keys.rows())
            found.keep(await release.rows(folder / "release"))
        if "threshold" in parts:
            found.keep(threshold.rows())
        if "rotation" in parts:
            alone = set(parts) == {"rotation"}
            found.keep(await rotation.rows(folder / "rotation", rotation.AGENTS if alone else rotation.FEW))
        if "evidence" in parts:
            found.keep(evidence.rows(folder / "vendors"))
        if "attestation" in parts:
            found.keep(attestation.rows(folder / "all"))
        if "state" in parts:
            found.keep(await state.rows(folder / "state", 2.0))
        if "sandbox" in parts:
            found.keep(await sandbox.rows(folder))
        if "serving" in parts:
            found.keep(await serving.rows(folder / "serving"))
        if "agents" in parts:
            found.keep(await many.rows(folder / "agents"))
    return found


async def _network(parts: Sequence[str], found: Rows) -> None:
    async with live() as net:
        if "calls" in parts:
            found.keep(await calls.rows(net))
        if "journeys" in parts:
            found.keep(await journeys.rows(net))
        if "chain" in parts:
            found.keep(await chain.rows(net))
        if "gatekeepers" in parts:
            found.keep(await keys.live_rows(net))  # last: it registers a worker


def main(arguments: Sequence[str]) -> int:
    """Run the parts named, or all."""
    unknown = set(arguments) - set(PARTS)
    if unknown:
        print(f"unknown part {', '.join(sorted(unknown))}; parts are {', '.join(PARTS)}", file=sys.stderr)
        return 2
    return finish(uvloop.run(measured(arguments or PARTS)))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
