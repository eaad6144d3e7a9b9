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


async def measured(parts: Sequence[str]) -> list[Row]:
    """The rows of these parts, those that need a network first."""
    found: list[Row] = []
    if set(parts) & set(NETWORK):
        await _network(parts, found)
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        if "keys" in parts:
            _keep(found, keys.rows())
        if "threshold" in parts:
            _keep(found, threshold.rows())
        if "rotation" in parts:
            alone = set(parts) == {"rotation"}
            _keep(found, await rotation.rows(folder / "rotation", rotation.AGENTS if alone else rotation.FEW))
        if "evidence" in parts:
            _keep(found, evidence.rows(folder / "vendors"))
        if "attestation" in parts:
            _keep(found, attestation.rows(folder / "all"))
        if "state" in parts:
            _keep(found, await state.rows(folder / "state", 2.0))
        if "sandbox" in parts:
            _keep(found, await sandbox.rows(folder))
        if "serving" in parts:
            _keep(found, await serving.rows(folder / "serving"))
        if "agents" in parts:
            _keep(found, await many.rows(folder / "agents"))
    return found


async def _network(parts: Sequence[str], found: list[Row]) -> None:
    async with live() as net:
        if "calls" in parts:
            _keep(found, await calls.rows(net))
        if "journeys" in parts:
            _keep(found, await journeys.rows(net))
        if "chain" in parts:
            _keep(found, await chain.rows(net))
        if "gatekeepers" in parts:
            _keep(found, await keys.live_rows(net))  # last: it registers a worker


def _keep(found: list[Row], rows: list[Row]) -> None:
    """Take rows, and say them at once: a long run that breaks later has not been for nothing."""
    found += rows
    print(table(rows), file=sys.stderr, flush=True)


def main(arguments: Sequence[str]) -> int:
    """Run the parts named, or all."""
    unknown = set(arguments) - set(PARTS)
    if unknown:
        print(f"unknown part {', '.join(sorted(unknown))}; parts are {', '.join(PARTS)}", file=sys.stderr)
        return 2
    return finish(uvloop.run(measured(arguments or PARTS)))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
