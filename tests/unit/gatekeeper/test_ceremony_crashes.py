"""Killed at any write or transaction, before or after it: the ceremony ends the same, and no half-state stays (G13).

The N-th durable write or transaction of one member raises; it starts again from its folder. For all N that a founding
and a refresh have: the sample runs always, the rest in ``make long``.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cloister.core.threshold.phases import Kind
from support.gatekeeper_cast import all_in_office, cast
from support.gatekeepers import Seat, World, turn_all

WRITES = ("put", "put_all", "replace", "erase")
LAST = 60
SAMPLE = (3, 9, 14, 19, 24, 30)
POINTS = [pytest.param(n, after, marks=() if n in SAMPLE and after == (n % 2 == 0) else pytest.mark.long)
          for n in range(LAST) for after in (False, True)]  # fmt: skip


class Crash(BaseException):
    """The process dies here."""


class Fuse:
    """Counts writes and transactions; burns at the N-th, once."""

    def __init__(self, place: int, *, after: bool) -> None:
        self.place, self.after, self.count, self.burnt = place, after, 0, False

    def before(self) -> int:
        """Count a call that begins; its number."""
        self._burn(self.count, after=False)
        self.count += 1
        return self.count - 1

    def behind(self, number: int) -> None:
        """A call has ended."""
        self._burn(number, after=True)

    def _burn(self, number: int, *, after: bool) -> None:
        if number == self.place and after == self.after and not self.burnt:
            self.burnt = True
            raise Crash

    def around(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            number = self.before()
            result = real(*args)
            self.behind(number)
            return result

        return call

    def around_sending(self, real: Callable[..., Any]) -> Callable[..., Any]:
        async def call(*args: Any, **named: Any) -> Any:
            number = self.before()
            result = await real(*args, **named)
            self.behind(number)
            return result

        return call

    def arm(self, seat: Seat) -> None:
        """Put it into a running gatekeeper."""
        for name in WRITES:
            setattr(seat.gatekeeper.store, name, self.around(getattr(seat.gatekeeper.store, name)))
        seat.chain.send = self.around_sending(seat.chain.send)  # type: ignore[method-assign]


async def turn(world: World, seats: list[Seat], fuse: Fuse) -> None:
    """Everybody turns; who dies starts again."""
    await turn_all(seats[1:])
    try:
        await turn_all(seats[:1])
    except Crash:
        await seats[0].close()
        await seats[0].open()
    world.mine(1)


async def until_office(world: World, seats: list[Seat], fuse: Fuse, term: int) -> None:
    for _ in range(60):
        await turn(world, seats, fuse)
        if all_in_office(seats, term):
            return
    raise AssertionError(f"no office in term {term}: {await turn_all(seats)}")


@pytest.mark.parametrize(("place", "after"), POINTS)
async def test_a_member_that_dies_at_any_write_or_transaction_ends_up_as_if_it_had_not(
    tmp_path: Path, place: int, after: bool
) -> None:
    async with cast(tmp_path) as (world, seats):
        fuse = Fuse(place, after=after)
        fuse.arm(seats[0])
        for _ in range(6):
            await turn(world, seats, fuse)
        members = [s.keys.address for s in seats]
        world.open_founding(members, 2)
        await until_office(world, seats, fuse, 1)
        mpk = world.now.seats.mpk
        for _ in range(16):
            await turn(world, seats, fuse)
        world.open(Kind.RESHARE, members, 2)
        await until_office(world, seats, fuse, 2)
        for _ in range(14):
            await turn(world, seats, fuse)
        assert fuse.burnt or fuse.count <= place, "the point was reached"
        assert world.now.seats.mpk == mpk
        for seat in seats:
            seat.gatekeeper.require_desks().office.share.verify()
            assert seat.gatekeeper.shares.held() == [(1, 2)], "no old share stays"
            assert seat.gatekeeper.store.names("ceremony/") == []
