"""Ceremonies over a chain in memory, real HTTP and pretend hardware: to office, through absence and restarts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cloister.core.errors import CloisterError
from cloister.gatekeeper.membership import TRANSPORT
from support.gatekeeper_cast import all_in_office, cast, stand, to_office, turns
from support.gatekeepers import turn_all


async def test_five_members_come_into_one_office(tmp_path: Path) -> None:
    async with cast(tmp_path, 5) as (world, seats):
        await stand(world, seats, 3)
        await to_office(world, seats)
        offices = [s.gatekeeper.require_desks().office for s in seats]
        assert {o.network for o in offices} == {world.now.seats.network_id}
        assert [o.index for o in offices] == [1, 2, 3, 4, 5]
        assert {o.share.public.mpk for o in offices} == {world.now.seats.mpk}
        assert len({o.share.secret for o in offices}) == 5
        for office in offices:
            office.share.verify()


async def test_an_outsider_takes_the_share_keys_from_any_member(tmp_path: Path) -> None:
    async with cast(tmp_path) as (world, seats):
        await stand(world, seats)
        await to_office(world, seats)
        chain = world.now.seats
        record = seats[2].gatekeeper.transcripts.get(chain.transcript)
        assert record is not None
        assert record.public_shares(chain.transcript, chain.mpk).share_keys == tuple(
            s.gatekeeper.require_desks().office.share.public.share_key(i) for i, s in enumerate(seats, 1)
        )


async def test_nothing_is_repeated_while_it_becomes_final(tmp_path: Path) -> None:
    async with cast(tmp_path, 1) as (world, seats):
        calls: list[str] = []
        send = seats[0].chain.send

        async def counted(function: str, *args: Any, **where: Any) -> None:
            calls.append(function)
            await send(function, *args, **where)

        seats[0].chain.send = counted  # type: ignore[method-assign]
        await turns(world, seats, 6)
        assert calls == ["setCandidate"]


async def test_a_member_without_gas_waits(tmp_path: Path) -> None:
    async with cast(tmp_path, 1) as (world, seats):

        async def broke(address: bytes) -> int:
            return 0

        seats[0].chain.balance = broke  # type: ignore[method-assign]
        assert await turn_all(seats) == []
        assert not world.now.candidates


async def test_a_dealing_is_not_shown_before_the_digests_are_final(tmp_path: Path) -> None:
    async with cast(tmp_path) as (world, seats):
        await stand(world, seats)
        await turn_all(seats[:2])
        world.mine(3)
        await turn_all(seats[:2])
        assert world.now.contract.newest is not None
        for seat in seats:
            with pytest.raises(CloisterError) as caught:
                seat.gatekeeper.ceremonies.dealing(world.now.contract.newest.view.id, None)
            assert caught.value.code in ("threshold.too_early", "gatekeeper.no_dealing")


async def test_the_transport_key_is_erased_after_the_end_and_the_next_one_is_announced(tmp_path: Path) -> None:
    async with cast(tmp_path) as (world, seats):
        await stand(world, seats)
        await to_office(world, seats)
        member = seats[0].gatekeeper
        used = world.now.contract.ceremonies[0].view.keys[0]
        assert member.membership.private_half(used) is not None
        await turns(world, seats, 14)
        assert member.membership.private_half(used) is None
        assert member.store.names("ceremony/") == []
        fresh = world.now.candidates[seats[0].keys.address].dkg_key
        assert fresh != used
        assert member.membership.private_half(fresh) is not None
        assert len(member.store.names(TRANSPORT)) == 1
        assert (await member.evidence(b"\1" * 32, "test")).binding.keys["dkg"] == fresh


async def test_after_a_restart_a_member_attests_under_the_network_id(tmp_path: Path) -> None:
    async with cast(tmp_path) as (world, seats):
        await stand(world, seats)
        await seats[0].gatekeeper.turn()
        assert (await seats[0].gatekeeper.evidence(b"\1" * 32, "t")).binding.network == world.genesis.genesis_id()
        await to_office(world, seats)
        await seats[0].close()
        member = await seats[0].open()
        await member.turn()
        assert (await member.evidence(b"\1" * 32, "t")).binding.network == world.now.seats.network_id
        assert member.info().ready
        assert member.info().index == 1


async def test_the_founding_completes_with_all_spare_members_away(tmp_path: Path) -> None:
    """Five seats, threshold three: two that were verified while they stood are gone when it opens."""
    async with cast(tmp_path, 5) as (world, seats):
        await turns(world, seats, 8)
        for seat in seats[3:]:
            await seat.close()
        world.open_founding([s.keys.address for s in seats], 3)
        await to_office(world, seats[:3], 80)
        assert world.now.seats.term == 1
        assert len(world.now.seats.members) == 5
        newest = world.now.contract.newest
        assert newest is not None
        assert set(newest.facts.confirmed) == {1, 2, 3}
        # One of those that were away comes back within the erase delay: but its dealing was never committed, and it
        # makes its share from the others' dealings (G11).
        await seats[3].open()
        await to_office(world, seats[:4], 20)


async def test_a_candidate_that_nobody_ever_verified_stops_the_ceremony_and_changes_nothing(tmp_path: Path) -> None:
    async with cast(tmp_path, 3) as (world, seats):
        await turn_all(seats)
        await seats[2].close()
        world.mine(3)
        world.open_founding([s.keys.address for s in seats], 2)
        await turns(world, seats[:2], 60)
        newest = world.now.contract.newest
        assert newest is not None
        assert not newest.facts.committed
        assert newest.view.ending.name == "FAILED"
        assert not all_in_office(seats[:2])
        assert [s.gatekeeper.shares.held() for s in seats[:2]] == [[], []]


async def test_status_says_what_is_missing_in_words(tmp_path: Path) -> None:
    async with cast(tmp_path, 3) as (world, seats):
        await turns(world, seats, 6)
        await seats[2].close()
        world.open_founding([s.keys.address for s in seats], 2)
        await turns(world, seats[:2], 7)
        status = seats[0].gatekeeper.status()
        ceremony = status["ceremony"]
        assert isinstance(ceremony, dict)
        assert (ceremony["kind"], ceremony["phase"]) == ("found", "commit")
        assert ceremony["missing"] == ["the digest of dealer 3"]
        assert status["doing"] == "not in office; found ceremony 1 runs"
