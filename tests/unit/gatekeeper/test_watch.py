"""Members name who signs two things that exclude each other, by the signatures alone (gatekeepers.md W1-W5, S12)."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cloister.core.encoding.log_statements import WorkerLog
from cloister.core.encoding.signatures import Signed, sign_digest
from cloister.core.encoding.statements import Checkpoint, WorkerRemoval
from cloister.core.errors import CloisterError
from cloister.core.policy.conflicts import Conflict
from cloister.gatekeeper.watch import KEEP_HEIGHTS
from cloister.wire.conflicts import Witnessed
from cloister.wire.logs import LogRequest
from cloister.wire.messages import SignedBy, dump_json
from support.gatekeepers import PretendWorker, Seat, Sitting, World, WorldSnapshot, an_agent, sign_checkpoint
from support.statement_cast import blocks, committee, consent, lease_of, signed_kinds


def row(seat: Seat, sitting: Sitting, said: Checkpoint) -> SignedBy:
    """A checkpoint that this member signs, whatever it is."""
    return SignedBy(said, seat.keys.sign(said.digest(sitting.network)))


def fork_of(world: World, number: int | None = None) -> Checkpoint:
    """Another block of a height that the members signed."""
    return replace(world.checkpoint(number), block_hash=b"\xfe" * 32)


def lies(seat: Seat, *shown: Witnessed) -> None:
    """From now on this member shows one after the other, to whoever asks."""
    asked = iter(range(10_000))

    def witnessed(height: int) -> dict[str, Any]:
        return shown[next(asked) % len(shown)].to_json()

    seat.gatekeeper.witnessed = witnessed  # type: ignore[method-assign, assignment]


def audit(seat: Seat, what: str) -> list[dict[str, Any]]:
    seat.gatekeeper.audit.sync()
    lines = [json.loads(line) for line in (seat.folder / "audit.log").read_text().splitlines()]
    return [line for line in lines if line["what"] == what]


async def test_a_member_that_signs_two_blocks_of_one_height_loses_its_seat(tmp_path: Path) -> None:
    """It shows one block to some and another one to others; they compare what they saw."""
    async with committee(tmp_path) as (world, seats, sitting):
        await blocks(world, seats, 1)
        rows = [row(seats[4], sitting, said) for said in (world.checkpoint(), fork_of(world))]
        lies(seats[4], *(Witnessed((one,), ()) for one in rows))
        await blocks(world, seats, 4)
        assert world.now.contract.terms[1].revoked == {5}
        for seat in seats[:4]:
            assert set(seat.gatekeeper.watch.named) == {seats[4].keys.address}
            assert [line["signer"] for line in audit(seat, "conflict")] == [f"0x{seats[4].keys.address.hex()}"]


@pytest.mark.long
async def test_what_a_worker_or_client_shows_names_a_member_too(tmp_path: Path) -> None:
    async with committee(tmp_path) as (world, seats, sitting):
        await blocks(world, seats, 2)
        fork = sign_checkpoint(seats[2:], fork_of(world), sitting.network)
        with pytest.raises(CloisterError) as caught:
            seats[0].gatekeeper.require_desks().checkpoints.accept(fork)
        assert caught.value.code == "gatekeeper.foreign_checkpoint"
        await blocks(world, seats, 1)
        named = set(seats[0].gatekeeper.watch.named)
        assert named == {seat.keys.address for seat in seats[2:]}, (
            "their other signatures were seen before, or come now"
        )


FRAMES: dict[str, Callable[[Seat, Seat, Sitting, World], Conflict]] = {
    "signatures of the liar's own": lambda liar, victim, sitting, world: Conflict(
        world.checkpoint(),
        victim.keys.sign(world.checkpoint().digest(sitting.network)),
        fork_of(world),
        liar.keys.sign(fork_of(world).digest(sitting.network)),
    ),
    "one true signature twice": lambda liar, victim, sitting, world: Conflict(
        world.checkpoint(),
        victim.keys.sign(world.checkpoint().digest(sitting.network)),
        fork_of(world),
        victim.keys.sign(world.checkpoint().digest(sitting.network)),
    ),
    "a signature for another network": lambda liar, victim, sitting, world: Conflict(
        world.checkpoint(),
        victim.keys.sign(world.checkpoint().digest(sitting.network)),
        fork_of(world),
        victim.keys.sign(fork_of(world).digest(bytes(32))),
    ),
    "blocks of two terms": lambda liar, victim, sitting, world: Conflict(
        world.checkpoint(),
        victim.keys.sign(world.checkpoint().digest(sitting.network)),
        replace(fork_of(world), term=2),
        victim.keys.sign(replace(fork_of(world), term=2).digest(sitting.network)),
    ),
    "blocks of another chain": lambda liar, victim, sitting, world: Conflict(
        replace(world.checkpoint(), chain_id=5),
        victim.keys.sign(replace(world.checkpoint(), chain_id=5).digest(sitting.network)),
        replace(fork_of(world), chain_id=5),
        victim.keys.sign(replace(fork_of(world), chain_id=5).digest(sitting.network)),
    ),
}


async def test_no_lie_names_an_honest_member(tmp_path: Path) -> None:
    async with committee(tmp_path) as (world, seats, sitting):
        await blocks(world, seats, 1)
        shown = [Witnessed((), (frame(seats[4], seats[0], sitting, world),)) for frame in FRAMES.values()]
        lies(seats[4], *shown)
        await blocks(world, seats, len(FRAMES))
        for frame in shown:
            await seats[1].gatekeeper.watch._hear(WorldSnapshot(world.now, world.final.number), frame.conflicts[0])
        assert all(not seat.gatekeeper.watch.named for seat in seats[:4])
        assert world.now.contract.terms[1].revoked == set()


@pytest.mark.long
async def test_a_stranger_that_contradicts_itself_is_nobody(tmp_path: Path) -> None:
    async with committee(tmp_path) as (world, seats, sitting):
        worker = PretendWorker(world, sitting.network)
        watch, said = seats[0].gatekeeper.watch, world.checkpoint(8)
        fork = replace(said, block_hash=b"\xfe" * 32)
        for one in (said, fork):
            watch.see(SignedBy(one, sign_digest(worker.key, one.digest(sitting.network))))
        two = logs_of(worker, sitting)
        await watch._hear(
            WorldSnapshot(world.now, world.final.number),
            Conflict(two[0].log, two[0].signature, two[1].log, two[1].signature),
        )
        assert (watch.named, watch.caused) == ({}, frozenset()), "no member, and no worker of this network"


@pytest.mark.long
async def test_only_heights_near_the_head_are_kept(tmp_path: Path) -> None:
    """A member may sign a million heights: memory is bounded by heights and seats."""
    async with committee(tmp_path) as (world, seats, sitting):
        await blocks(world, seats, 1)
        watch, now = seats[0].gatekeeper.watch, world.final.number
        for number in (now, now + KEEP_HEIGHTS, now + KEEP_HEIGHTS + 1, 10**9):
            watch.see(row(seats[4], sitting, replace(world.checkpoint(), number=number)))
        kept = {number for number, seen in watch._seen.items() if seats[4].keys.address in seen}
        assert {now, now + KEEP_HEIGHTS} <= kept
        assert max(kept) == now + KEEP_HEIGHTS


def depart(world: World, worker: PretendWorker, monkeypatch: pytest.MonkeyPatch) -> None:
    """It leaves in good standing: finalised state has no record of it, unless it is removed after all."""
    real = WorldSnapshot.worker

    async def record(self: WorldSnapshot, name: bytes) -> Any:
        found = await real(self, name)
        return None if name == worker.address and found is not None and not found.removed else found

    world.now.left.add(worker.address)
    monkeypatch.setattr(WorldSnapshot, "worker", record)


def logs_of(worker: PretendWorker, sitting: Sitting) -> list[LogRequest]:
    """Two heads of one size of the worker's log, each with its signature."""
    heads = [WorkerLog(worker.address, worker.boot, 3, bytes([root]) * 32) for root in (1, 2)]
    return [LogRequest(one, sign_digest(worker.key, one.digest(sitting.network)), 0, ()) for one in heads]


async def test_a_worker_that_signs_two_logs_of_one_size_is_removed_by_t_members(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One member saw both; it shows them to the others, and nobody is asked for a consent."""
    async with committee(tmp_path) as (world, seats, sitting):
        worker = PretendWorker(world, sitting.network)
        worker.register()
        await blocks(world, seats, 1)
        first, second = logs_of(worker, sitting)
        desk = seats[0].gatekeeper.require_desks().logs
        assert (await desk.witness(dump_json(first.to_json()), "w")).signature is not None
        assert (await desk.witness(dump_json(first.to_json()), "w")).signature is not None, "the same again"
        assert seats[0].gatekeeper.watch.caused == frozenset()
        with pytest.raises(CloisterError) as caught:
            await desk.witness(dump_json(replace(second, start=3).to_json()), "w")
        assert caught.value.code == "receipt.not_consistent"
        assert seats[0].gatekeeper.watch.caused == {worker.address}
        await seats[0].close()
        await seats[0].open()
        assert seats[0].gatekeeper.watch.caused == {worker.address}, "a restart forgets nothing"
        for seat in seats[1:]:
            seat.gatekeeper.store.record_grant(lease_of(world, worker, an_agent(world)))
        depart(world, worker, monkeypatch)  # no way out
        await blocks(world, seats, 8)
        assert world.now.workers[worker.address].removed
        assert [signed_kinds(seat) for seat in seats] == [[]] * 5, "what is done is signed no more"
        assert all(seat.gatekeeper.watch.caused == frozenset() for seat in seats)


@pytest.mark.long
async def test_two_members_that_give_a_worker_up_remove_nobody_and_a_third_one_does(tmp_path: Path) -> None:
    async with committee(tmp_path) as (world, seats, sitting):
        worker = PretendWorker(world, sitting.network)
        worker.register()
        said = WorkerRemoval(1, worker.address)
        for seat in seats[:2]:
            consent(seat, said)
        await blocks(world, seats, 6)
        assert not world.now.workers[worker.address].removed
        consent(seats[2], said)
        await blocks(world, seats, 6)
        assert world.now.workers[worker.address].removed


@pytest.mark.long
async def test_a_shown_checkpoint_that_agrees_names_nobody(tmp_path: Path) -> None:
    async with committee(tmp_path) as (world, seats, sitting):
        await blocks(world, seats, 2)
        shown: Signed = sign_checkpoint(seats[:3], world.checkpoint(), sitting.network)
        seats[3].gatekeeper.require_desks().checkpoints.accept(shown)
        seats[3].gatekeeper.watch.saw(shown)
        await blocks(world, seats, 1)
        assert all(not seat.gatekeeper.watch.named for seat in seats)
