"""CPU of one release of an agent's keys: five members and the asker in one process.

``python -m bench.release [rounds]``, part of ``make bench-keys``. Everything is as over the network: HTTP on loopback,
evidence under a policy, the members' questions to each other, the grants' files. The chain alone is in memory, so no
proof is fetched. ``bench.keys`` measures the whole of it on a devnet, in time.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.measure import Row, fact, finish, median
from bench.rotation import use_kits
from cloister.core.threshold.partial import Partial, TransportKey, Wanted, recover_all
from cloister.devnet.layout import free_ports
from cloister.wire.committee import Committee, Granted
from cloister.wire.messages import KeysRequest

MEMBERS, THRESHOLD, WARM = 5, 3, 3


class Town:
    """Members, a worker and an agent of the tests' kits."""

    def __init__(self, folder: Path) -> None:
        use_kits()
        from support.gatekeepers import PretendWorker, Seat, World, an_agent, policy, sign_checkpoint, sit

        self._world = World(policy(period_blocks=1000))
        self.seats = [Seat(self._world, folder / f"gk-{i}", i, port) for i, port in enumerate(free_ports(MEMBERS))]
        self.sitting = sit(self._world, self.seats, THRESHOLD)
        self._worker: Any = PretendWorker(self._world, self.sitting.network)
        self._worker.register()
        self._agent, self._sign = an_agent(self._world), sign_checkpoint

    async def open(self) -> None:
        """Start the members."""
        from support.gatekeeper_cast import turns

        for seat in self.seats:
            await seat.open()
        await turns(self._world, self.seats, 4)

    def request(self) -> tuple[KeysRequest, TransportKey]:
        """A request with a key and evidence of its own."""
        at = self._world.checkpoint()
        self._worker.transport = transport = TransportKey.generate(os.urandom)
        signed = self._sign(self.seats[:THRESHOLD], at, self.sitting.network)
        return KeysRequest(self._worker.show(at), self._agent.agent, signed), transport

    def recovered(self, granted: Granted, transport: TransportKey) -> int:
        """Open all keys as a worker does; how many."""
        wanted = [
            Wanted(bytes(granted.identities[name]), self.sitting.public,
                   [Partial(p.index, p.e1, p.e2, p.e3, p.term) for p in parts])
            for name, parts in granted.partials.items()
        ]  # fmt: skip
        return len(recover_all(wanted, THRESHOLD, transport, os.urandom))


async def measured(town: Town, committee: Committee) -> tuple[float, float]:
    """CPU ms of (the members' answers and what the asker does for them, opening the keys)."""
    request, transport = town.request()
    began = time.process_time_ns()
    granted = await committee.keys(request)
    answered = time.process_time_ns()
    town.recovered(granted, transport)
    return (answered - began) / 1e6, (time.process_time_ns() - answered) / 1e6


async def rows(folder: Path, *, rounds: int = 20) -> list[Row]:
    """Needs no network. ``folder``: made if it is not there."""
    folder.mkdir(parents=True, exist_ok=True)
    town = Town(folder)
    urls = [seat.url for seat in town.seats]
    committee = Committee(urls, town.sitting.signers, town.sitting.network, timeout_s=30.0)
    try:
        await town.open()
        times = [await measured(town, committee) for _ in range(rounds + WARM)][WARM:]
    finally:
        await committee.close()
        for seat in town.seats:
            await seat.close()
    name = f"an agent's keys from {THRESHOLD} of {MEMBERS} in one process"
    return [
        fact(f"{name}: the answers (CPU)", median(a for a, _ in times), "ms"),
        fact("  opening them (CPU)", median(o for _, o in times), "ms"),
    ]


def main(arguments: Sequence[str]) -> int:
    """The rows of this module."""
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        return finish(asyncio.run(rows(Path(name), rounds=int(arguments[0]) if arguments else 20)))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
