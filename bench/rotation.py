"""A rotation of the master key: blocks while writes pause, and what it takes until every agent re-sealed.

``python -m bench.rotation [agents]``, or ``make bench-rotation``: 1,000 agents with 1 MiB of state each. Members are
real ones in this process, over a chain in memory that makes a block whenever each has looked at it: blocks are what the
protocol needs, not what a chain's clock gives. Members look five times a second, so several times in a block: here
twice. Agents are re-sealed by a worker's code on the embedded fabric, one
after the other, each with values of its own; no code of theirs runs. Then t members say so of each, and the contract
counts.
"""

from __future__ import annotations

import asyncio
import os
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.measure import Row, at_most, fact, finish, median, percentile
from cloister.core.chainview.ceremonies import EpochState
from cloister.core.encoding.identity import Epochs
from cloister.core.threshold.phases import Kind
from cloister.fabric.embedded import open_fabric

AGENTS, FEW = 1000, 16
VALUES, SIZE, TOGETHER, THRESHOLD, MEMBERS = 64, 16384, 16, 3, 5
LIMIT = 200
PAUSE_FLOOR = 5  # three blocks, and two confirmations
KITS = str(Path(__file__).resolve().parents[1] / "tests")


@dataclass(frozen=True, slots=True)
class Rotation:
    """Blocks from the opening to the new key on chain, from there until it is released for writing, and from there
    until every agent counts under it; the seconds of all of it in one process, and those of the counting alone."""

    made: int
    paused: int
    counted: int
    seconds: float
    counting: float


def use_kits() -> None:
    """The tests' kits import each other as ``support``."""
    if KITS not in sys.path:
        sys.path.insert(0, KITS)


async def ceremony(folder: Path, agents: int) -> Rotation:
    """A rotation with so many agents, whose heads are under the new key as soon as that is released.

    Raises RuntimeError if it does not end."""
    use_kits()
    from support.gatekeeper_cast import cast, stand, to_office, turns
    from support.gatekeepers import FINALITY, an_agent, turn_all
    from support.statement_cast import blocks, sealed_under

    async with cast(folder, MEMBERS, rotation_blocks=10**6) as (world, seats):
        await stand(world, seats, THRESHOLD)
        await to_office(world, seats)
        town = [an_agent(world, number.to_bytes(32, "big")) for number in range(1, agents + 1)]
        await turns(world, seats, 16)
        began, opened = time.perf_counter(), len(world.headers)
        world.open(Kind.ROTATE, [seat.keys.address for seat in seats], THRESHOLD)
        epochs, confirmed = world.now.contract.epochs, 0
        for _ in range(LIMIT):
            await turn_all(seats)
            await turns(world, seats, 1)
            if 2 in epochs and not confirmed:
                confirmed = len(world.headers)
            if 2 in epochs and epochs[2].state is EpochState.RESUMED:
                break
        else:
            raise RuntimeError(f"no rotation within {LIMIT} blocks")
        resumed, then = len(world.headers), time.perf_counter()
        for seat in seats:
            for agent in town:
                sealed_under(seat, agent, 2)
        for _ in range(LIMIT):
            if 1 not in world.now.counts.values():
                ended = time.perf_counter()
                counted = len(world.headers) - resumed
                return Rotation(
                    confirmed - opened, resumed + FINALITY - confirmed, counted, ended - began, ended - then
                )
            await blocks(world, seats, 1)
    raise RuntimeError(f"not every agent counts under the new key after {LIMIT} looks")


async def resealed(folder: Path) -> tuple[float, float]:
    """Seconds, and seconds of CPU, of one agent's re-seal under the next master epoch, its endorsement included."""
    use_kits()
    from support.reseal_kit import Shop
    from support.state_kit import at

    fabric = await open_fabric(folder)
    shop, old, new = Shop(fabric), at(1), Epochs(1, 1, 2, at(1).of)
    try:
        state = await shop.state(old)
        for first in range(0, VALUES, TOGETHER):
            await shop.write(state, **{f"k{n}": os.urandom(SIZE) for n in range(first, first + TOGETHER)})
        await shop.endorsed(state, old)
        began, spent = time.perf_counter(), time.process_time()
        await shop.reseal(new)
        took = time.perf_counter() - began, time.process_time() - spent
        if shop.sealed() != new or len(await shop.contents(new)) != VALUES:
            raise RuntimeError("the state did not move whole")
    finally:
        await fabric.close()
    return took


async def sweep(folder: Path, agents: int) -> list[tuple[float, float]]:
    """Seconds of each agent's re-seal, and those of CPU; progress goes to stderr."""
    times, step, began = list[tuple[float, float]](), max(1, agents // 20), time.perf_counter()
    for number in range(1, agents + 1):
        times.append(await resealed(folder / f"agent-{number}"))
        shutil.rmtree(folder / f"agent-{number}")
        if number % step == 0:
            passed, took, cpu = time.perf_counter() - began, sum(t for t, _ in times), sum(c for _, c in times)
            said = f"{took:.1f} s re-sealing ({cpu:.1f} s of CPU) of {passed:.0f} s"
            print(f"  {number} of {agents} agents, {said}", file=sys.stderr)
    return times


async def rows(folder: Path, agents: int = AGENTS) -> list[Row]:
    """All rows; none needs a network."""
    folder.mkdir(parents=True, exist_ok=True)
    run = await ceremony(folder, agents)
    print(f"  the rotation itself: {run}", file=sys.stderr)
    spent = time.process_time()
    swept = await sweep(folder, agents)
    times = [took for took, _ in swept]
    spent = time.process_time() - spent
    name, state = f"rotation {THRESHOLD} of {MEMBERS}", VALUES * SIZE / 2**20
    return [
        fact(f"{name}: from its opening to the new key on chain", run.made, "blocks"),
        at_most(f"{name}: no key for writing is released", run.paused, "blocks", PAUSE_FLOOR),
        fact(f"{name}: until t members counted {agents} agents", run.counted, "blocks"),
        fact(f"{name}: that counting, five members in one process", run.counting, "s"),
        fact(f"{name}: ceremony and counting, in one process", run.seconds, "s"),
        fact(f"re-seal of an agent with {state:g} MiB, p50", median(times) * 1e3, "ms"),
        fact("  p99", percentile(times, 0.99) * 1e3, "ms"),
        fact(f"re-seal of {agents} agents, {agents * state:g} MiB, one after another", sum(times), "s"),
        fact("  CPU of it", sum(cpu for _, cpu in swept), "s"),
        fact("  CPU, with the writing and reading of what is re-sealed", spent, "s"),
        fact("  most memory of this process", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, "MiB"),
    ]


def main(arguments: Sequence[str]) -> int:
    """The rows of this module."""
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        return finish(asyncio.run(rows(Path(name), int(arguments[0]) if arguments else AGENTS)))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
