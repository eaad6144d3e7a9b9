"""A rotation of the master key: blocks until it ends and while writes pause, seconds until every agent re-sealed.

``python -m bench.rotation [agents]``, or ``make bench-rotation``. Members are real ones in this process, over a chain
in memory that makes a block whenever each has had its turn: blocks are what the protocol needs, not what a chain's
clock gives. Agents are re-sealed by a worker's code on the embedded fabric, one after the other; each has ``VALUES``
values of 1 KiB.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from bench.measure import Row, fact, finish, median
from cloister.core.chainview.ceremonies import EpochState
from cloister.core.encoding.identity import Epochs
from cloister.core.threshold.phases import Kind
from cloister.fabric.embedded import open_fabric

AGENTS, VALUES, SIZE, THRESHOLD, MEMBERS = 32, 64, 1024, 3, 5
LIMIT = 200
KITS = str(Path(__file__).resolve().parents[1] / "tests")


def use_kits() -> None:
    """The tests' kits import each other as ``support``."""
    if KITS not in sys.path:
        sys.path.insert(0, KITS)


async def ceremony(folder: Path) -> tuple[int, int]:
    """(blocks from the opening to the confirmation, blocks from there until keys of the new epoch are released).

    Raises RuntimeError if it does not end."""
    use_kits()
    from support.gatekeeper_cast import cast, stand, to_office, turns
    from support.gatekeepers import FINALITY

    async with cast(folder, MEMBERS, rotation_blocks=10**6) as (world, seats):
        await stand(world, seats, THRESHOLD)
        await to_office(world, seats)
        await turns(world, seats, 16)
        opened = len(world.headers)
        world.open(Kind.ROTATE, [seat.keys.address for seat in seats], THRESHOLD)
        epochs, confirmed = world.now.contract.epochs, 0
        for _ in range(LIMIT):
            await turns(world, seats, 1)
            if 2 in epochs and not confirmed:
                confirmed = len(world.headers)
            if 2 in epochs and epochs[2].state is EpochState.RESUMED:
                return confirmed - opened, len(world.headers) + FINALITY - confirmed
    raise RuntimeError(f"no rotation within {LIMIT} blocks")


async def resealed(folder: Path) -> float:
    """Seconds of one agent's re-seal under the next master epoch, its endorsement included."""
    use_kits()
    from support.reseal_kit import Shop
    from support.state_kit import at

    fabric = await open_fabric(folder)
    shop, old, new = Shop(fabric), at(1), Epochs(1, 1, 2, at(1).of)
    try:
        state = await shop.state(old)
        for n in range(VALUES):
            await shop.write(state, **{f"k{n}": os.urandom(SIZE)})
            if n % 32 == 31:
                await shop.endorsed(state, old)
        await shop.endorsed(state, old)
        began = time.perf_counter()
        await shop.reseal(new)
        took = time.perf_counter() - began
        if shop.sealed() != new or len(await shop.contents(new)) != VALUES:
            raise RuntimeError("the state did not move whole")
    finally:
        await fabric.close()
    return took


async def rows(folder: Path, agents: int = AGENTS) -> list[Row]:
    """All rows; none needs a network."""
    folder.mkdir(parents=True, exist_ok=True)
    began = time.perf_counter()
    length, paused = await ceremony(folder)
    held = time.perf_counter() - began
    times = [await resealed(folder / f"fabric-{n}") for n in range(agents)]
    name = f"rotation {THRESHOLD} of {MEMBERS}"
    return [
        fact(f"{name}: from its opening to the new key on chain", length, "blocks"),
        fact(f"{name}: no key for writing is released", paused, "blocks"),
        fact(f"{name}: five members from founding to the new epoch, in one process", held, "s"),
        fact(f"re-seal of an agent, {VALUES} values of {SIZE} B", median(times) * 1e3, "ms"),
        fact(f"re-seal of {agents} agents, one after the other", sum(times), "s"),
    ]


def main(arguments: Sequence[str]) -> int:
    """The rows of this module."""
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        return finish(asyncio.run(rows(Path(name), int(arguments[0]) if arguments else AGENTS)))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
