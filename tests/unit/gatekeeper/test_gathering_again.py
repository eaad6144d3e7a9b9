"""Signatures of one block are gathered in that block: one block less until they are sent (spec/gatekeepers.md)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cloister.core.encoding.handover import SeatRevocation
from cloister.gatekeeper import gather
from support.gatekeepers import Seat, World, turn_all
from support.statement_cast import blocks, committee, consent, signed_kinds


def revoked(world: World) -> set[int]:
    """Seats that the contract has as revoked, the next block's transactions counted."""
    return set(world.now.contract.terms[1].revoked)


def counted(seat: Seat, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Heights at which this member asked the others what they signed, from now on."""
    asked: list[int] = []
    member = seat.gatekeeper.statements
    listen: Callable[[Any, Any], Awaitable[Any]] = member._listen

    async def noted(at: Any, scene: Any) -> Any:
        asked.append(scene.number)
        return await listen(at, scene)

    monkeypatch.setattr(member, "_listen", noted)
    return asked


async def test_t_signatures_of_one_block_are_sent_in_that_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with committee(tmp_path) as (world, seats, _):
        said = SeatRevocation(1, seats[4].keys.address)
        for seat in seats[:3]:
            consent(seat, said)
        first, second = counted(seats[0], monkeypatch), counted(seats[1], monkeypatch)
        await blocks(world, seats, 1)
        assert revoked(world) == set(), "the first one asked before the others had signed"
        assert [signed_kinds(seat) for seat in seats[:3]] == [["SeatRevocation"]] * 3
        await turn_all(seats)
        assert revoked(world) == {5}, "no block went by"
        assert (len(first), len(second)) == (2, 1), "one member asks again, and only it"
        await turn_all(seats)
        assert len(first) == 2, "what has t signatures needs no more"


async def test_too_few_signatures_are_asked_for_a_few_times_and_then_in_the_next_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gather, "AGAIN", 2)
    async with committee(tmp_path) as (world, seats, _):
        said = SeatRevocation(1, seats[4].keys.address)
        for seat in seats[:2]:
            consent(seat, said)
        first = counted(seats[0], monkeypatch)
        await blocks(world, seats, 1)
        for _ in range(4):
            await turn_all(seats)
        assert len(first) == 1 + 2
        consent(seats[2], said)
        await turn_all(seats)
        assert signed_kinds(seats[2]) == [], "asking again decides nothing: the third member signs at its next look"
        await blocks(world, seats, 1)
        assert revoked(world) == set()
        await blocks(world, seats, 1)
        assert revoked(world) == {5}


async def test_a_member_that_signed_nothing_or_sits_no_more_asks_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with committee(tmp_path) as (world, seats, _):
        first = counted(seats[0], monkeypatch)
        await blocks(world, seats, 1)
        asked = len(first)
        for _ in range(3):
            await turn_all(seats)
        assert len(first) == asked, "nothing of ours waits"
        contract = world.now.contract
        contract.terms[1] = replace(contract.terms[1], revoked=frozenset({1}))
        consent(seats[0], SeatRevocation(1, seats[4].keys.address))
        await blocks(world, seats, 2)
        asked = len(first)
        await turn_all(seats)
        assert (len(first), signed_kinds(seats[0])) == (asked, []), "a revoked seat signs nothing (E7)"
