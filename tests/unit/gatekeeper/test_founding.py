"""The founding ceremony over a chain in memory, real HTTP and pretend hardware: to office, through any crash."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from cloister.core.errors import CloisterError
from cloister.core.threshold.dkg import Ceremony, Member, replay
from cloister.devnet.layout import free_ports
from cloister.gatekeeper.founding import ERASE_DELAY, PRIVATE
from support.gatekeepers import Seat, World, policy, turn_all


@asynccontextmanager
async def cast(folder: Path, count: int = 3) -> AsyncIterator[tuple[World, list[Seat]]]:
    world = World(policy())
    seats = [Seat(world, folder / f"gk-{i}", i, port) for i, port in enumerate(free_ports(count))]
    try:
        for seat in seats:
            await seat.open()
        yield world, seats
    finally:
        for seat in seats:
            await seat.close()


async def stand(world: World, seats: list[Seat], threshold: int = 2) -> None:
    await turn_all(seats)
    world.mine(3)
    world.open_founding([s.keys.address for s in seats], threshold)
    world.mine(3)


def all_in_office(seats: list[Seat]) -> bool:
    return all(s.member is not None and s.member.desks is not None for s in seats)


async def to_office(world: World, seats: list[Seat], turns: int = 30) -> None:
    for _ in range(turns):
        await turn_all(seats)
        world.mine(1)
        if all_in_office(seats):
            return
    raise AssertionError(f"no office after {turns} turns: {await turn_all(seats)}")


async def test_five_members_come_into_one_office(tmp_path: Path) -> None:
    async with cast(tmp_path, 5) as (world, seats):
        await stand(world, seats, 3)
        await to_office(world, seats)
        offices = [s.member.require_desks().office for s in seats if s.member is not None]
        assert {o.network for o in offices} == {world.now.seats.network_id}
        assert [o.index for o in offices] == [1, 2, 3, 4, 5]
        assert {o.share.public.mpk for o in offices} == {world.now.seats.mpk}
        assert len({o.share.secret for o in offices}) == 5
        for office in offices:
            office.share.verify()


async def test_an_outsider_replays_the_result_from_dealings_that_members_serve(tmp_path: Path) -> None:
    async with cast(tmp_path) as (world, seats):
        await stand(world, seats)
        await to_office(world, seats)
        members = tuple(Member(i, m, world.now.candidates[m].dkg_key) for i, m in enumerate(world.now.seats.members, 1))
        ceremony = Ceremony(world.now.ceremony.id, 2, members)
        dealings = {}
        for seat in seats:
            assert seat.member is not None
            dealing, _ = seat.member.founding.dealing(ceremony.id)
            dealings[dealing.dealer] = dealing
        committed = {i: world.now.dealings[m.address] for i, m in enumerate(members, 1)}
        assert replay(ceremony, dealings, committed).mpk == world.now.seats.mpk


async def test_nothing_is_repeated_while_it_becomes_final(tmp_path: Path) -> None:
    async with cast(tmp_path, 1) as (world, seats):
        calls: list[str] = []
        send = seats[0].chain.send

        async def counted(function: str, *args: Any) -> None:
            calls.append(function)
            await send(function, *args)

        seats[0].chain.send = counted  # type: ignore[method-assign]
        for _ in range(6):
            await turn_all(seats)
            world.mine(1)
        assert calls == ["setCandidate"]


async def test_a_member_without_gas_waits(tmp_path: Path) -> None:
    async with cast(tmp_path, 1) as (world, seats):

        async def broke(address: bytes) -> int:
            return 0

        seats[0].chain.balance = broke  # type: ignore[method-assign]
        assert await turn_all(seats) == []
        assert not world.now.candidates


async def test_a_dealing_is_not_shown_before_every_digest_is_final(tmp_path: Path) -> None:
    async with cast(tmp_path) as (world, seats):
        await stand(world, seats)
        await turn_all(seats[:2])
        world.mine(3)
        await turn_all(seats[:2])
        for seat in seats:
            assert seat.member is not None
            with pytest.raises(CloisterError) as caught:
                seat.member.founding.dealing(world.now.ceremony.id)
            assert caught.value.code in ("threshold.too_early", "gatekeeper.no_dealing")


async def test_the_ceremony_key_is_erased_well_after_the_confirmation_is_final(tmp_path: Path) -> None:
    async with cast(tmp_path) as (world, seats):
        await stand(world, seats)
        await to_office(world, seats)
        member = seats[0].member
        assert member is not None
        assert member.store.get(PRIVATE) is not None
        for _ in range(ERASE_DELAY + 2):
            world.mine(1)
            await turn_all(seats)
        assert member.store.get(PRIVATE) is None
        shown = await member.evidence(b"\1" * 32, "test")
        assert "dkg" not in shown.binding.keys


async def test_after_a_restart_a_member_attests_under_the_network_id(tmp_path: Path) -> None:
    async with cast(tmp_path) as (world, seats):
        await stand(world, seats)
        assert seats[0].member is not None
        await seats[0].member.turn()
        assert (await seats[0].member.evidence(b"\1" * 32, "t")).binding.network == world.genesis.genesis_id()
        await to_office(world, seats)
        await seats[0].close()
        member = await seats[0].open()
        await member.turn()
        assert (await member.evidence(b"\1" * 32, "t")).binding.network == world.now.seats.network_id
        assert member.info().ready
        assert member.info().index == 1


class Crash(BaseException):
    """The process dies here."""


def crashing(real: Callable[..., Any], wanted: str, *, after: bool) -> Callable[..., Any]:
    """``real``, but it dies once at the call named ``wanted``."""
    fired: list[str] = []

    def call(name: str, *args: Any) -> Any:
        if name == wanted and not fired and not after:
            fired.append(name)
            raise Crash
        result = real(name, *args)
        if name == wanted and not fired:
            fired.append(name)
            raise Crash
        return result

    return call


def crashing_async(real: Callable[..., Any], wanted: str, *, after: bool) -> Callable[..., Any]:
    fired: list[str] = []

    async def call(name: str, *args: Any) -> Any:
        if name == wanted and not fired and not after:
            fired.append(name)
            raise Crash
        result = await real(name, *args)
        if name == wanted and not fired:
            fired.append(name)
            raise Crash
        return result

    return call


WRITES = ("dkg/private", "evidence", "dkg/dealing", "share", "dkg/erase-at", "office")
SENDS = ("setCandidate", "commitDealing", "content", "confirm")


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("step", WRITES + SENDS)
async def test_a_member_that_dies_at_a_step_finishes_after_a_restart(tmp_path: Path, step: str, after: bool) -> None:
    async with cast(tmp_path) as (world, seats):
        victim = seats[0]
        died = 0

        async def arm() -> None:
            assert victim.member is not None
            if step in WRITES:
                victim.member.store.put = crashing(victim.member.store.put, step, after=after)  # type: ignore[method-assign]
            else:
                victim.chain.send = crashing_async(victim.chain.send, step, after=after)  # type: ignore[method-assign]

        async def turn() -> None:
            nonlocal died
            await turn_all(seats[1:])
            try:
                await turn_all([victim])
            except Crash:
                died += 1
                await victim.close()
                await victim.open()
            world.mine(1)

        await arm()
        for _ in range(6):
            await turn()
        world.open_founding([s.keys.address for s in seats], 2)
        for _ in range(40):
            await turn()
            if all_in_office(seats):
                break
        assert died == 1, "the step was reached, once"
        assert all_in_office(seats)
        for seat in seats:
            assert seat.member is not None
            seat.member.require_desks().office.share.verify()
