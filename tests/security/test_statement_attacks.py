"""Statements of t members against liars among them: fewer than t move nothing (spec/gatekeepers.md S1-S11)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from cloister.core.chainview.ceremonies import EpochState
from cloister.core.encoding.handover import EpochDestruction, MasterRotation, SeatRevocation
from cloister.core.errors import CloisterError
from cloister.core.policy.committee_statements import Proposal, resealed, worker_bumps
from cloister.wire.statements import leases_to_json
from support.gatekeepers import PretendWorker, an_agent
from support.statement_cast import blocks, committee, consent, lease_of, rotated, sealed_under, show, signed_kinds

ROTATION = MasterRotation(1, 1)


@pytest.mark.long
async def test_two_of_five_that_consent_open_no_rotation_and_a_third_one_does(tmp_path: Path) -> None:
    async with committee(tmp_path) as (world, seats, _):
        for seat in seats[:2]:
            consent(seat, ROTATION)
        await blocks(world, seats, 6)
        assert world.now.contract.newest is None
        assert [signed_kinds(seat) for seat in seats[:3]] == [["MasterRotation"], ["MasterRotation"], []]
        consent(seats[2], ROTATION)
        await blocks(world, seats, 6)
        assert world.now.contract.newest is not None
        assert world.now.contract.newest.view.master_epoch == 2


@pytest.mark.long
async def test_liars_that_show_others_signatures_or_their_own_twice_are_counted_once(tmp_path: Path) -> None:
    async with committee(tmp_path) as (world, seats, sitting):
        for seat in seats[:2]:
            consent(seat, ROTATION)
        # The fifth shows the second one's signature as its own, the fourth its own for another network.
        show(seats[4], sitting.network, Proposal(ROTATION), key=seats[1])
        show(seats[3], b"\x0f" * 32, Proposal(ROTATION))
        await blocks(world, seats, 6)
        assert world.now.contract.newest is None


@pytest.mark.long
@pytest.mark.parametrize("statement", [MasterRotation(2, 1), MasterRotation(1, 2), MasterRotation(0, 1)])
async def test_a_consent_to_another_term_or_epoch_is_none(tmp_path: Path, statement: MasterRotation) -> None:
    async with committee(tmp_path) as (world, seats, sitting):
        for seat in seats[:3]:
            consent(seat, statement)
        show(seats[3], sitting.network, Proposal(statement))
        show(seats[4], sitting.network, Proposal(statement))
        await blocks(world, seats, 5)
        assert world.now.contract.newest is None
        assert not any(signed_kinds(seat) for seat in seats[:3])


async def test_a_revoked_seat_signs_nothing_and_its_signature_counts_in_nothing(tmp_path: Path) -> None:
    async with committee(tmp_path) as (world, seats, sitting):
        bad = seats[4].keys.address
        for seat in seats[:3]:
            consent(seat, SeatRevocation(1, bad))
        await blocks(world, seats, 6)
        assert world.now.contract.terms[1].revoked == {5}
        # Two that consent to the next one, and the revoked seat beside them: not three.
        again = SeatRevocation(1, seats[3].keys.address)
        for seat in seats[:2]:
            consent(seat, again)
        consent(seats[4], again)
        await blocks(world, seats, 3)
        assert signed_kinds(seats[4]) == []
        show(seats[4], sitting.network, Proposal(again))
        await blocks(world, seats, 5)
        assert world.now.contract.terms[1].revoked == {5}
        votes = [s.keys.sign(again.digest(sitting.network)) for s in (seats[0], seats[1], seats[4])]
        with pytest.raises(CloisterError):
            world.call(seats[0].keys.address, "revokeByCommittee", (1, again.member), votes)


async def test_liars_cannot_have_an_agent_bumped_that_the_worker_never_held(tmp_path: Path) -> None:
    """Two liars show leases that they sign now. Three would be t; two and an honest member without a grant are not."""
    async with committee(tmp_path) as (world, seats, sitting):
        worker = PretendWorker(world, sitting.network)
        worker.register(removed=True)
        held, never = an_agent(world), an_agent(world, b"\xbb" * 32)
        for seat in seats[:3]:
            seat.gatekeeper.store.record_grant(lease_of(world, worker, held))
        lie = lease_of(world, worker, never)
        for liar in seats[3:]:
            row = (lie, liar.keys.sign(lie.digest(sitting.network)))
            show(
                liar,
                sitting.network,
                worker_bumps(1, worker.address, {1: 1, 2: 1}),
                worker_bumps(1, worker.address, {2: 1}),
            )
            # Each of them also shows the other one's signature, and its own twice.
            twice = leases_to_json([row, row])
            liar.gatekeeper.statements.served_leases = lambda _, twice=twice: twice  # type: ignore[method-assign, misc]
        await blocks(world, seats, 6)
        assert world.now.bumped == [(1, 1)]
        assert world.now.agents[never.agent].agent_epoch == 1


@pytest.mark.long
async def test_leases_are_shown_of_removed_workers_alone(tmp_path: Path) -> None:
    async with committee(tmp_path) as (world, seats, sitting):
        worker = PretendWorker(world, sitting.network)
        worker.register()
        seats[0].gatekeeper.store.record_grant(lease_of(world, worker, an_agent(world)))
        await blocks(world, seats, 1)
        with pytest.raises(CloisterError) as caught:
            seats[0].gatekeeper.statements.served_leases(worker.address)
        assert caught.value.code == "gatekeeper.not_removed"


@pytest.mark.long
async def test_a_liar_that_shows_a_true_statement_with_wrong_lists_stops_nobody(tmp_path: Path) -> None:
    async with committee(tmp_path) as (world, seats, sitting):
        worker = PretendWorker(world, sitting.network)
        worker.register(removed=True)
        held = an_agent(world)
        for seat in seats[1:]:
            seat.gatekeeper.store.record_grant(lease_of(world, worker, held))
        wrong = replace(worker_bumps(1, worker.address, {1: 1}), tokens=(2,))
        show(seats[0], sitting.network, wrong)
        await blocks(world, seats, 6)
        assert world.now.bumped == [(1, 1)]


@pytest.mark.long
async def test_garbage_from_peers_stops_nobody(tmp_path: Path) -> None:
    async with committee(tmp_path) as (world, seats, _):
        for seat in seats[:3]:
            consent(seat, ROTATION)
        liars = [seat.gatekeeper.statements for seat in seats[3:]]
        liars[0].served = lambda: {"statements": [{"kind": "Lease"}] * 40}  # type: ignore[method-assign]
        liars[1].served = lambda: {"statements": "all of them"}  # type: ignore[method-assign]
        await blocks(world, seats, 6)
        assert world.now.contract.newest is not None


@pytest.mark.long
async def test_a_worker_that_says_it_re_sealed_moves_nothing_while_members_know_another_head(tmp_path: Path) -> None:
    """Two members took the worker's word: t - 1. The others know the head of before."""
    async with committee(tmp_path) as (world, seats, _):
        agent = an_agent(world)
        await blocks(world, seats, 2)
        for seat in seats:
            sealed_under(seat, agent, 1)
        for seat in seats[:2]:
            sealed_under(seat, agent, 2, height=2)
        rotated(world)
        await blocks(world, seats, 8)
        assert [signed_kinds(seat) for seat in seats] == [["Resealed"], ["Resealed"], [], [], []]
        assert world.now.counts == {1: 1}
        sealed_under(seats[2], agent, 2, height=2)
        await blocks(world, seats, 6)
        assert world.now.counts == {1: 2}


async def test_an_epoch_lives_while_one_agent_is_under_it_whatever_liars_sign(tmp_path: Path) -> None:
    async with committee(tmp_path) as (world, seats, sitting):
        moved, stays = an_agent(world), an_agent(world, b"\xbb" * 32)
        await blocks(world, seats, 2)
        for seat in seats:
            sealed_under(seat, moved, 2)
            sealed_under(seat, stays, 1)
        rotated(world)
        for liar in seats[3:]:
            show(liar, sitting.network, Proposal(EpochDestruction(1, 1)), resealed(1, 2, [1, 2]), resealed(1, 2, [2]))
        await blocks(world, seats, 6)
        assert world.now.counts == {1: 2, 2: 1}
        world.mine(60)  # no lease of the old epoch can run any more
        await blocks(world, seats, 3)
        assert world.now.contract.epochs[1].state is EpochState.PAUSED
        world.now.counts[2] = 2  # its owner waives
        await blocks(world, seats, 5)
        assert world.now.contract.epochs[1].state is EpochState.DESTROYED
