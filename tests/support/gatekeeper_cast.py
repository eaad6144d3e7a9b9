"""A cast of gatekeepers over a chain in memory, and how tests move them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from cloister.core.errors import CloisterError
from cloister.devnet.layout import free_ports
from support.gatekeepers import Seat, World, policy, turn_all


@asynccontextmanager
async def cast(folder: Path, count: int = 3, **rules: int) -> AsyncIterator[tuple[World, list[Seat]]]:
    """``count`` gatekeepers, started. ``rules``: parameters of the contract that differ."""
    world = World(policy())
    world.now.contract.rules = replace(world.now.contract.rules, **rules)
    seats = [Seat(world, folder / f"gk-{i}", i, port) for i, port in enumerate(free_ports(count))]
    try:
        for seat in seats:
            await seat.open()
        yield world, seats
    finally:
        for seat in seats:
            await seat.close()


async def turns(world: World, seats: Sequence[Seat], count: int) -> list[CloisterError]:
    """Everybody turns, a block goes by, ``count`` times. Returns what was refused in the last turn."""
    refused: list[CloisterError] = []
    for _ in range(count):
        refused = await turn_all(seats)
        world.mine(1)
    return refused


async def stand(world: World, seats: Sequence[Seat], threshold: int = 2) -> None:
    """All stand; the founder names them."""
    await turn_all(seats)
    world.mine(3)
    world.open_founding([s.keys.address for s in seats], threshold)
    world.mine(3)


def all_in_office(seats: Sequence[Seat], term: int = 1) -> bool:
    """Whether these seats are in office in a term."""
    desks = [s.member.desks for s in seats if s.member is not None]
    return len(desks) == len(seats) and all(d is not None and d.office.term == term for d in desks)


async def to_office(world: World, seats: Sequence[Seat], limit: int = 40, term: int = 1) -> None:
    """Turn until these seats are in office in a term."""
    for _ in range(limit):
        await turn_all(seats)
        world.mine(1)
        if all_in_office(seats, term):
            return
    said = [(e.code, e.found) for e in await turn_all(seats)]
    raise AssertionError(f"not in office after {limit} turns: {said}, {states(seats)}")


def states(seats: Sequence[Seat]) -> list[Any]:
    """What each says that it does."""
    return [s.member.status() for s in seats if s.member is not None]
