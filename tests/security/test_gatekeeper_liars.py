"""Liars and silent members among gatekeepers, at the level of the service: HTTP, chain, disk (gatekeepers.md G5-G12).

The mathematics under any liar is in the tests of ``core.threshold``; here it is what a service does: hides a dealing
from some, shows another one, sends bad shares, publishes nothing, confirms something else, or does nothing at all.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cloister.core.errors import CloisterError
from cloister.core.threshold.dealing import Dealt
from cloister.core.threshold.phases import Kind
from cloister.gatekeeper.ceremonies import NO_DEALING
from cloister.gatekeeper.deeds import Call
from support.gatekeeper_cast import all_in_office, cast, stand, to_office, turns
from support.gatekeepers import Seat, World

Lie = Callable[[Seat], None]


def hides_its_dealing(seat: Seat) -> None:
    """It never shows its dealing; when it is accused it publishes, as an honest but badly connected one would."""

    def nothing(*_: Any) -> Any:
        raise NO_DEALING(expected="a dealing", found="none to show")

    seat.gatekeeper.ceremonies.dealing = nothing  # type: ignore[method-assign]


def says_nothing_when_accused(seat: Seat) -> None:
    hides_its_dealing(seat)
    _drops(seat, "publish")


def seals_bad_shares(seat: Seat) -> None:
    """Its shares for others do not open. It answers by opening them in public."""
    _spoils(seat, lambda dealt: replace(dealt.dealing, shares=tuple(_other(s) for s in dealt.dealing.shares)))


def seals_bad_shares_and_opens_none(seat: Seat) -> None:
    seals_bad_shares(seat)
    _drops(seat, "openShare")


def deals_without_proof(seat: Seat) -> None:
    _spoils(seat, lambda dealt: replace(dealt.dealing, proof=_other(dealt.dealing.proof)))


def confirms_something_else(seat: Seat) -> None:
    _changes(seat, "confirm", lambda a: (a[0], a[1], b"\x66" * 32, a[3]))


def accuses_everybody(seat: Seat) -> None:
    """It calls every share bad instead of being content; honest dealers open what it had anyway."""
    _becomes(seat, "content", lambda a: [("complain", (a[0], dealer, 2)) for dealer in (1, 2)])


def commits_and_goes(seat: Seat) -> None:
    for function in ("content", "publish", "confirm", "complain"):
        _drops(seat, function)


def never_deals(seat: Seat) -> None:
    _drops(seat, "commitDealing")


# What a liar does, and whether its dealing still counts.
LIES: dict[str, tuple[Lie, bool]] = {
    "hides its dealing and publishes it": (hides_its_dealing, True),
    "hides its dealing for good": (says_nothing_when_accused, False),
    "seals bad shares and opens them": (seals_bad_shares, False),
    "seals bad shares and opens none": (seals_bad_shares_and_opens_none, False),
    "proves nothing": (deals_without_proof, False),
    "confirms something else": (confirms_something_else, True),
    "accuses everybody": (accuses_everybody, True),
    "commits and goes": (commits_and_goes, True),
    "never deals": (never_deals, False),
}


ALWAYS = ("hides its dealing and publishes it", "seals bad shares and opens none", "never deals")
CASES = [
    pytest.param(lie, kind, marks=() if kind is Kind.FOUND or lie in ALWAYS else pytest.mark.long)
    for lie in LIES
    for kind in (Kind.FOUND, Kind.RESHARE)
]


@pytest.mark.parametrize(("lie", "kind"), CASES)
async def test_the_honest_come_into_one_office_beside_one_that(tmp_path: Path, lie: str, kind: Kind) -> None:
    """Three seats, threshold two. With t = 2 a dealer with two bad shares opens none: it is out (G7)."""
    misbehave, counts = LIES[lie]
    async with cast(tmp_path, ceremony_blocks=8) as (world, seats):
        if kind is Kind.RESHARE:
            await stand(world, seats)
            await to_office(world, seats)
            await turns(world, seats, 16)
            mpk = world.now.seats.mpk
            misbehave(seats[2])
            world.open(kind, [s.keys.address for s in seats], 2)
        else:
            mpk = b""
            await turns(world, seats, 4)
            misbehave(seats[2])
            world.open_founding([s.keys.address for s in seats], 2)
        term = 2 if mpk else 1
        await until_honest(world, seats, term)
        offices = [s.gatekeeper.require_desks().office for s in seats[:2]]
        assert len({o.share.public for o in offices}) == 1
        for office in offices:
            office.share.verify()
        newest = world.now.contract.newest
        assert newest is not None
        qualified = newest.facts.confirmed[1].dealers()
        assert (3 in qualified) == counts
        assert {1, 2} <= set(qualified)
        if mpk:
            assert world.now.seats.mpk == mpk


async def until_honest(world: World, seats: list[Seat], term: int) -> None:
    for _ in range(90):
        await turns(world, seats, 1)
        if all_in_office(seats[:2], term):
            return
    raise AssertionError([s.gatekeeper.status() for s in seats])


async def test_members_that_all_lie_about_a_record_cannot_give_a_newcomer_wrong_share_keys(tmp_path: Path) -> None:
    """Without one honest member to ask, the newcomer gets no share, rather than a wrong one."""
    async with cast(tmp_path, 4, ceremony_blocks=8) as (world, seats):
        await turns(world, seats, 4)
        world.open_founding([s.keys.address for s in seats[:3]], 2)
        await to_office(world, seats[:3])
        await turns(world, seats, 16)
        for liar in seats[:3]:
            record = liar.gatekeeper.transcripts.get(world.now.seats.transcript)
            assert record is not None
            lie = {"ceremony": {**record.to_json()["ceremony"], "term": 7}, "dealers": sorted(record.dealings)}
            liar.gatekeeper.transcripts.head = lambda _, lie=lie: lie  # type: ignore[misc, method-assign]
        members = [seats[1], seats[2], seats[3]]
        world.open(Kind.RESHARE, [s.keys.address for s in members], 2)
        refused: list[CloisterError] = []
        for _ in range(8):
            refused += await turns(world, seats, 1)
        assert "gatekeeper.no_transcript" in {e.code for e in refused}
        assert seats[3].gatekeeper.shares.held() == []


# How a seat is made to lie: between what the machine says and what leaves the process.


def _other(data: bytes) -> bytes:
    return bytes(b ^ 1 for b in data)


def _spoils(seat: Seat, change: Callable[[Dealt], Any]) -> None:
    """What it deals is crooked from the start: the digest, the file and what it shows fit each other."""
    ceremonies = seat.gatekeeper.ceremonies
    begin = ceremonies._begin

    async def crooked(*args: Any) -> Any:
        run = await begin(*args)
        deal = run.member._deal

        def dealt() -> Dealt:
            honest = deal()
            return Dealt(change(honest), honest.polynomial)

        run.member._deal = dealt  # type: ignore[method-assign]
        return run

    ceremonies._begin = crooked  # type: ignore[method-assign]


def _becomes(seat: Seat, function: str, calls: Callable[[tuple[Any, ...]], list[Call]]) -> None:
    send = seat.chain.send

    async def bent(name: str, *args: Any, **where: Any) -> None:
        for one, arguments in calls(args) if name == function else [(name, args)]:
            await send(one, *arguments, **where)

    seat.chain.send = bent  # type: ignore[method-assign]


def _changes(seat: Seat, function: str, change: Callable[[tuple[Any, ...]], tuple[Any, ...]]) -> None:
    _becomes(seat, function, lambda args: [(function, change(args))])


def _drops(seat: Seat, function: str) -> None:
    _becomes(seat, function, lambda _: [])
