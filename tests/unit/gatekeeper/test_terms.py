"""From term to term: refresh, members that leave and join, hand-overs, erasure (gatekeepers.md R1-R6, H1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cloister.core.chainview.ceremonies import EpochState
from cloister.core.chainview.terms import SignedHandover, Term, terms_from
from cloister.core.encoding.hexes import to_hex
from cloister.core.encoding.keccak import keccak256
from cloister.core.encoding.signatures import Signed, SignerSet
from cloister.core.encoding.statements import Checkpoint
from cloister.core.errors import CloisterError
from cloister.core.threshold.partial import TransportKey, evaluate, recover
from cloister.core.threshold.phases import Kind
from cloister.core.threshold.shares import KeyShare
from cloister.gatekeeper.membership import TRANSPORT
from cloister.wire.ask import ask, new_session
from support.gatekeeper_cast import all_in_office, cast, stand, to_office, turns
from support.gatekeepers import Seat, World
from support.sharing import stream


def share_of(seat: Seat) -> KeyShare:
    return seat.gatekeeper.require_desks().office.share


def derived(shares: Sequence[KeyShare], threshold: int = 2) -> bytes:
    rng = stream("derived")
    transport = TransportKey.generate(rng)
    partials = [evaluate(share, b"an agent's identity", transport.public, rng) for share in shares]
    return recover(partials, threshold, shares[0].public, b"an agent's identity", transport).point


async def founded(world: World, seats: Sequence[Seat]) -> bytes:
    """In office, with a key ready for the next ceremony. Returns a derived key."""
    await stand(world, seats)
    await to_office(world, seats)
    await turns(world, seats, 16)
    return derived([share_of(s) for s in seats[:2]])


async def test_a_refresh_changes_every_share_and_no_key(tmp_path: Path) -> None:
    async with cast(tmp_path) as (world, seats):
        before = await founded(world, seats)
        old = [share_of(s) for s in seats]
        world.open(Kind.RESHARE, [s.keys.address for s in seats], 2)
        await to_office(world, seats, 40, term=2)
        new = [share_of(s) for s in seats]
        assert all(a.secret != b.secret for a, b in zip(old, new, strict=True))
        assert {s.public.term for s in new} == {2}
        assert {s.public.mpk for s in new} == {old[0].public.mpk}
        assert derived(new[1:]) == before


async def test_shares_of_two_terms_never_work_together(tmp_path: Path) -> None:
    async with cast(tmp_path) as (world, seats):
        await founded(world, seats)
        stolen = share_of(seats[0])
        world.open(Kind.RESHARE, [s.keys.address for s in seats], 2)
        await to_office(world, seats, 40, term=2)
        with pytest.raises(CloisterError) as caught:
            derived([share_of(seats[1]), stolen])
        assert caught.value.code == "threshold.too_few_partials"


async def test_a_member_is_replaced_and_the_keys_stay(tmp_path: Path) -> None:
    """Four stand, three sit; the fourth takes the first one's seat, though it knows nobody's share key beforehand."""
    async with cast(tmp_path, 4) as (world, seats):
        await turns(world, seats, 4)
        world.open_founding([s.keys.address for s in seats[:3]], 2)
        await to_office(world, seats[:3])
        before = derived([share_of(s) for s in seats[:2]])
        await turns(world, seats, 16)
        next_members = [seats[3], seats[1], seats[2]]
        world.open(Kind.RESHARE, [s.keys.address for s in next_members], 2)
        await to_office(world, next_members, 40, term=2)
        assert derived([share_of(seats[3]), share_of(seats[1])]) == before
        await turns(world, seats, 2)
        assert seats[0].gatekeeper.desks is None
        assert seats[0].gatekeeper.status()["index"] == 0
        # R4: its share goes when the new term is final for long enough; R5: the new one merged the tables.
        assert seats[0].gatekeeper.shares.held() == [(1, 1)]
        await turns(world, seats, 16)
        assert seats[0].gatekeeper.shares.held() == []
        assert seats[1].gatekeeper.shares.held() == [(1, 2)]
        # Three members with one that may lie about heads want the tables of all others in both terms.
        assert seats[3].gatekeeper.require_desks().heads.merged


async def test_a_member_that_joins_takes_the_share_keys_from_one_honest_member_among_liars(tmp_path: Path) -> None:
    async with cast(tmp_path, 4) as (world, seats):
        await turns(world, seats, 4)
        world.open_founding([s.keys.address for s in seats[:3]], 2)
        await to_office(world, seats[:3])
        await turns(world, seats, 16)
        for liar in seats[:2]:
            record = liar.gatekeeper.transcripts.get(world.now.seats.transcript)
            assert record is not None
            lie = {"ceremony": {**record.to_json()["ceremony"], "threshold": 3}, "dealers": sorted(record.dealings)}
            liar.gatekeeper.transcripts.head = lambda _, lie=lie: lie  # type: ignore[method-assign, misc]
        members = [seats[1], seats[2], seats[3]]
        world.open(Kind.RESHARE, [s.keys.address for s in members], 2)
        await to_office(world, members, 40, term=2)
        share_of(seats[3]).verify()


async def test_each_block_is_signed_for_the_term_that_it_belongs_to(tmp_path: Path) -> None:
    async with cast(tmp_path) as (world, seats):
        await founded(world, seats)
        world.open(Kind.RESHARE, [s.keys.address for s in seats], 2)
        await to_office(world, seats, 40, term=2)
        await turns(world, seats, 5)
        height = world.now.contract.terms[2].height
        signed = [c for c, _ in seats[0].gatekeeper.store.checkpoints()]
        numbers = [c.number for c in signed]
        assert numbers == list(range(numbers[0], numbers[-1] + 1)), "no gap"
        assert all((c.term == 1) == (c.number <= height) for c in signed)


async def test_the_hand_over_is_signed_by_the_old_members_served_and_recorded(tmp_path: Path) -> None:
    async with cast(tmp_path, 4) as (world, seats):
        await turns(world, seats, 4)
        world.open_founding([s.keys.address for s in seats[:3]], 2)
        await to_office(world, seats[:3])
        await turns(world, seats, 16)
        founding = world.now.contract.terms[1]
        members = [seats[3], seats[1], seats[2]]
        world.open(Kind.RESHARE, [s.keys.address for s in members], 2)
        await to_office(world, members, 40, term=2)
        await turns(world, seats, 12)
        session = new_session()
        try:
            served = await ask(session, "GET", f"{seats[3].url}/v1/handovers")
        finally:
            await session.close()
        [handover] = [SignedHandover.from_json(item) for item in served["handovers"]]
        signers = SignerSet(1, 2, founding.members)
        pinned = Term(signers, 1, keccak256(world.now.seats.mpk), founding.height, founding.timestamp)
        terms = terms_from(pinned, [handover], world.now.seats.network_id, founding.timestamp + 100, 10_000)
        assert terms.in_office.signers.members == tuple(s.keys.address for s in members)
        assert len(world.now.contract.handovers[1]) == 2


async def test_a_new_share_is_used_only_when_the_term_is_final(tmp_path: Path) -> None:
    async with cast(tmp_path) as (world, seats):
        await founded(world, seats)
        world.open(Kind.RESHARE, [s.keys.address for s in seats], 2)
        for _ in range(40):
            await turns(world, seats, 1)
            newest = world.now.contract.newest
            assert newest is not None
            if newest.view.ending.name == "DONE":
                break
        assert all_in_office(seats, 1), "recorded, but not yet final"
        await to_office(world, seats, 5, term=2)


async def test_a_checkpoint_of_the_old_term_is_refused_after_the_hand_over(tmp_path: Path) -> None:
    async with cast(tmp_path) as (world, seats):
        await founded(world, seats)
        network = world.now.seats.network_id
        world.open(Kind.RESHARE, [s.keys.address for s in seats], 2)
        await to_office(world, seats, 40, term=2)
        await turns(world, seats, 2)
        late = world.checkpoint(term=1)
        signed = Signed(late, tuple(s.keys.sign(late.digest(network)) for s in seats))
        with pytest.raises(CloisterError):
            seats[0].gatekeeper.require_desks().checkpoints.accept(signed)
        good = world.checkpoint(term=2)
        assert isinstance(good, Checkpoint)
        signed = Signed(good, tuple(s.keys.sign(good.digest(network)) for s in seats))
        assert seats[0].gatekeeper.require_desks().checkpoints.accept(signed) == good


async def test_a_member_that_slept_through_the_hand_over_makes_its_share_from_what_peers_keep(tmp_path: Path) -> None:
    async with cast(tmp_path) as (world, seats):
        await founded(world, seats)
        await seats[2].close()
        world.open(Kind.RESHARE, [s.keys.address for s in seats], 2)
        await to_office(world, seats[:2], 90, term=2)
        await turns(world, seats[:2], 20)
        await seats[2].open()
        await to_office(world, seats, 6, term=2)
        share_of(seats[2]).verify()


async def test_a_member_whose_transport_key_is_lost_has_no_office_until_the_next_refresh(tmp_path: Path) -> None:
    async with cast(tmp_path) as (world, seats):
        await founded(world, seats)
        key = world.now.candidates[seats[2].keys.address].dkg_key
        seats[2].gatekeeper.store.erase(TRANSPORT + to_hex(key))
        world.open(Kind.RESHARE, [s.keys.address for s in seats], 2)
        for _ in range(90):
            await turns(world, seats, 1)
            if all_in_office(seats[:2], 2):
                break
        refused = await turns(world, [seats[2]], 3)
        assert [e.code for e in refused] == ["gatekeeper.out_of_office"]
        assert seats[2].gatekeeper.desks is None
        await turns(world, seats, 16)
        world.open(Kind.RESHARE, [s.keys.address for s in seats], 2)
        await to_office(world, seats, 60, term=3)


async def test_members_open_a_refresh_when_it_is_due(tmp_path: Path) -> None:
    async with cast(tmp_path, refresh_blocks=20) as (world, seats):
        await stand(world, seats)
        await to_office(world, seats)
        await to_office(world, seats, 60, term=2)
        assert world.now.contract.terms[2].members == world.now.contract.terms[1].members


async def test_a_rotation_makes_a_second_key_and_both_epochs_have_shares(tmp_path: Path) -> None:
    async with cast(tmp_path) as (world, seats):
        before = await founded(world, seats)
        world.open(Kind.ROTATE, [s.keys.address for s in seats], 2)
        for _ in range(40):
            await turns(world, seats, 1)
            if all(s.gatekeeper.require_desks().office.master_epoch == 2 for s in seats):
                break
        offices: list[Any] = [s.gatekeeper.require_desks().office for s in seats]
        assert {o.term for o in offices} == {1}
        assert {o.master_epoch for o in offices} == {2}
        assert derived([o.share_for(1) for o in offices[:2]]) == before
        assert derived([o.share_for(2) for o in offices[:2]]) != before
        with pytest.raises(CloisterError) as caught:
            offices[0].share_for(3)
        assert caught.value.code == "gatekeeper.no_share"


async def test_a_rotation_waits_for_the_word_of_t_members_and_both_keys_move_on_to_the_next_term(
    tmp_path: Path,
) -> None:
    """M2: t members vote that it is final, one sends the votes. A refresh moves the newest key, ``carry`` the other."""
    async with cast(tmp_path, rotation_blocks=18, refresh_blocks=60) as (world, seats):
        await stand(world, seats)
        await to_office(world, seats)
        before = derived([share_of(s) for s in seats[:2]])
        epochs = world.now.contract.epochs
        for _ in range(50):
            await turns(world, seats, 1)
            if 2 in epochs and epochs[2].state is EpochState.RESUMED:
                break
        assert (epochs[1].state, epochs[2].state) == (EpochState.PAUSED, EpochState.RESUMED)
        world.now.contract.rules = replace(world.now.contract.rules, rotation_blocks=10**6)
        second = derived([share_of(s) for s in seats[:2]])
        assert second != before
        await to_office(world, seats, 90, term=2)
        assert derived([share_of(s) for s in seats[:2]]) == second
        for _ in range(50):
            await turns(world, seats, 1)
            if epochs[1].term == 2:
                break
        await turns(world, seats, 5)
        offices = [s.gatekeeper.require_desks().office for s in seats]
        assert [o.share_for(1).public.term for o in offices] == [2, 2, 2]
        assert derived([o.share_for(1) for o in offices[:2]]) == before


async def test_members_hold_an_election_when_the_term_has_run_whatever_was_refreshed_in_between(tmp_path: Path) -> None:
    async with cast(tmp_path, 4, refresh_blocks=20, term_blocks=60) as (world, seats):
        await turns(world, seats, 4)
        world.open_founding([s.keys.address for s in seats[:3]], 2)
        world.now.contract.nominated = tuple(s.keys.address for s in (seats[3], seats[1], seats[2]))
        await to_office(world, seats[:3])
        for _ in range(140):
            await turns(world, seats, 1)
            if seats[3].keys.address in world.now.seats.members:
                break
        assert world.now.contract.elections
        assert world.now.seats.term > 2, "a refresh came first"


async def test_a_revoked_member_signs_and_answers_nothing_from_the_block_on(tmp_path: Path) -> None:
    async with cast(tmp_path) as (world, seats):
        await founded(world, seats)
        contract = world.now.contract
        contract.terms[1] = replace(contract.terms[1], revoked=frozenset({1}))
        await turns(world, seats, 4)
        assert seats[0].gatekeeper.desks is None
        assert [e.code for e in await turns(world, seats[:1], 1)] == ["gatekeeper.revoked"]
        assert all_in_office(seats[1:])


async def test_shares_of_a_destroyed_master_epoch_are_erased_after_the_delay(tmp_path: Path) -> None:
    async with cast(tmp_path) as (world, seats):
        await founded(world, seats)
        world.open(Kind.ROTATE, [s.keys.address for s in seats], 2)
        for _ in range(40):
            await turns(world, seats, 1)
            epochs = world.now.contract.epochs
            if 2 in epochs and epochs[2].state is EpochState.RESUMED:
                break
        number = len(world.headers)
        epochs[1] = replace(epochs[1], state=EpochState.DESTROYED, destroyed_at=number)
        await turns(world, seats, 6)
        assert seats[0].gatekeeper.shares.held() == [(1, 1), (2, 1)], "not before"
        with pytest.raises(CloisterError):
            seats[0].gatekeeper.require_desks().office.share_for(1)
        kept = seats[0].gatekeeper.shares.get(1, 1)
        assert kept is not None
        await turns(world, seats, 14)
        assert {tuple(s.gatekeeper.shares.held()) for s in seats} == {((2, 1),)}
        # S11: it stays so after a restart, even if a chain says that the epoch lives.
        await seats[0].close()
        await seats[0].open()
        epochs[1] = replace(epochs[1], state=EpochState.PAUSED, destroyed_at=0)
        seats[0].gatekeeper.shares.put(1, kept)
        await turns(world, seats, 2)
        assert seats[0].gatekeeper.shares.held() == [(2, 1)]
