"""Gathering statements of t members: nobody is needed for it, a restart forgets nothing (spec/gatekeepers.md S9)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cloister.core.encoding.handover import SeatRevocation
from support.gatekeepers import PretendWorker, an_agent
from support.statement_cast import blocks, committee, consent, lease_of, signed_kinds

pytestmark = pytest.mark.long


async def test_the_first_seats_are_away_and_the_next_one_sends(tmp_path: Path) -> None:
    async with committee(tmp_path) as (world, seats, _):
        said = SeatRevocation(1, seats[0].keys.address)
        for seat in seats[2:]:
            consent(seat, said)
        await blocks(world, seats, 1)
        for away in seats[:2]:
            await away.close()
        await blocks(world, seats, 8)
        assert world.now.contract.terms[1].revoked == {1}
        assert [signed_kinds(seat) for seat in seats[2:]] == [[], [], []], "what is done is signed no more"


async def test_a_restart_signs_the_same_again_and_the_audit_log_says_so(tmp_path: Path) -> None:
    async with committee(tmp_path) as (world, seats, sitting):
        worker = PretendWorker(world, sitting.network)
        worker.register(removed=True)
        held = an_agent(world)
        for seat in seats[:2]:
            seat.gatekeeper.store.record_grant(lease_of(world, worker, held))
        await blocks(world, seats, 2)
        before = [seat.gatekeeper.statements.served() for seat in seats[:2]]
        assert before[0]["statements"][0]["kind"] == "WorkerBumps"
        assert world.now.bumped == [], "two grants are fewer than t, and the others know of none"
        await seats[0].close()
        await seats[0].open()
        await blocks(world, seats, 2)
        assert seats[0].gatekeeper.statements.served() == before[0]
        seats[2].gatekeeper.store.record_grant(lease_of(world, worker, held))
        await blocks(world, seats, 5)
        assert world.now.bumped == [(1, 1)]
        lines = [json.loads(line) for line in (seats[0].folder / "audit.log").read_text().splitlines()]
        assert [line["kind"] for line in lines if line["what"] == "statement"] == ["WorkerBumps"] * 2
