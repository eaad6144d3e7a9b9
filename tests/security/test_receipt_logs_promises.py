"""What the committee's memory of receipt logs stops: forks, shrinking, dropped receipts, two trees, replays.

Real gatekeepers over HTTP, a real witness and store; the chain is in memory.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from coincurve import PrivateKey

from cloister.core.encoding.hexes import to_hex
from cloister.core.encoding.log_statements import WorkerLog
from cloister.core.encoding.signatures import sign_digest
from cloister.core.errors import CloisterError, from_wire
from cloister.core.receipts.log import LogProof, witness_quorum
from cloister.core.receipts.merkle import consistency_path, leaf_hash, part_of, root_of
from cloister.core.receipts.receipt import Exchange
from cloister.devnet.layout import free_ports
from cloister.fabric.embedded import open_fabric
from cloister.fabric.ports import Fabric
from cloister.wire.committee import Committee
from cloister.wire.logs import LogAnswer, LogRequest
from cloister.worker.leases import NodeIdentity
from cloister.worker.receipts import ReceiptDesk, ReceiptDoor
from cloister.worker.witness import Witness
from support.fake_world import World as ChainWorld
from support.gatekeepers import PretendWorker, Seat, World, policy, sit, turn_all
from support.worker_kit import keys_of, world_of

EXCHANGE = Exchange(b"\x0a" * 16, 200, b"\x0b" * 32, b"\x0c" * 32)


class Stage:
    """Five gatekeepers, one registered worker, its desk and witness."""

    def __init__(self, folder: Path) -> None:
        self.world = World(policy(period_blocks=50))
        self.seats = [Seat(self.world, folder / f"gk-{i}", i, port) for i, port in enumerate(free_ports(5))]
        self.sitting = sit(self.world, self.seats, 3)
        self.worker = PretendWorker(self.world, self.sitting.network)
        self.worker.register()
        self.world.mine(4)
        self.committee = Committee(
            [s.url for s in self.seats], self.sitting.signers, self.sitting.network, timeout_s=10
        )
        self.chain: ChainWorld = world_of()

    async def open(self, fabric: Fabric) -> None:
        """Bring everyone up."""
        for seat in self.seats:
            await seat.open()
        await self.turn()
        self.fabric = fabric
        self.desk, self.witness = self.boot()
        self.door = ReceiptDoor(self.desk, fabric.receipts)

    async def turn(self) -> None:
        """Blocks, and everyone sees them."""
        for _ in range(4):
            self.world.mine(1)
            await turn_all(self.seats)

    def boot(self) -> tuple[ReceiptDesk, Witness]:
        """Desk and witness of the worker's present boot."""
        node = NodeIdentity(self.worker.key, self.worker.boot, bytes(32), self.sitting.network)
        self.chain.set_worker(node.key, node.boot)
        agent = self.chain.set_agent(1)
        self.chain.mine()
        self.keys = keys_of(self.chain, node, agent)
        desk = ReceiptDesk(node, self.fabric.receipts)
        return desk, Witness(node, desk, self.fabric.receipts, self.committee)

    async def receipts(self, count: int) -> list[Any]:
        """So many receipts of this boot."""
        return [
            (
                await self.desk.issue(
                    self.keys, os.urandom(32), self.keys.seat.certificate, EXCHANGE, checkpoint=9, host_time_ms=n
                )
            ).receipt
            for n in range(count)
        ]

    async def ask(self, seat: int, ids: list[bytes], start: int, **changes: Any) -> LogAnswer | str:
        """What a member says to a head over these ids: its answer, or the code of its refusal."""
        leaves = [leaf_hash(one) for one in ids]
        log = WorkerLog(self.worker.address, self.worker.boot, len(ids), root_of(leaves))
        log = dataclasses.replace(log, **changes)
        path = tuple(consistency_path(start, len(ids), part_of(leaves))) if start <= len(ids) else ()
        signature = sign_digest(self.worker.key, log.digest(self.sitting.network))
        request = LogRequest(log, signature, start, path)
        return await self.post(seat, request.to_json())

    async def post(self, seat: int, body: Any) -> LogAnswer | str:
        """One question to one member."""
        said = await self.committee.caught(self.seats[seat].url, "POST", "/v1/logs", body)
        return said.code if isinstance(said, CloisterError) else LogAnswer.from_json(said)


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    made = Stage(tmp_path)
    fabric = await open_fabric(tmp_path / "fabric")
    try:
        await made.open(fabric)
        yield made
    finally:
        await made.committee.close()
        for seat in made.seats:
            await seat.close()
        await fabric.close()


def signed(answer: LogAnswer | str) -> bool:
    return isinstance(answer, LogAnswer) and answer.signature is not None


IDS = [bytes([n]) * 32 for n in range(12)]


async def test_a_growing_log_is_witnessed_and_every_receipt_proven(stage: Stage) -> None:
    made = await stage.receipts(3)
    assert await stage.witness.turn()
    assert not await stage.witness.turn()  # nothing new
    made += await stage.receipts(5)
    assert await stage.witness.turn()
    assert stage.witness.size == 8
    for receipt in made:
        proof = LogProof.from_json(await stage.door.proof(receipt.id))
        proof.verify(receipt, stage.sitting.signers, stage.sitting.network)


async def test_a_member_that_missed_heads_and_one_that_forgot_are_caught_up(stage: Stage) -> None:
    await stage.receipts(3)
    await stage.seats[4].close()
    assert await stage.witness.turn()
    await stage.receipts(4)
    await stage.seats[4].open()
    assert await stage.witness.turn()
    await stage.receipts(1)
    fresh = Witness(stage.witness._node, stage.desk, stage.fabric.receipts, stage.committee)
    assert await fresh.turn()  # knows of nobody where it stands: members say
    assert fresh.size == 8


async def test_with_fewer_than_q_members_no_head_counts(stage: Stage) -> None:
    await stage.receipts(2)
    await stage.seats[3].close()
    await stage.seats[4].close()
    with pytest.raises(CloisterError) as caught:
        await stage.witness.turn()
    assert caught.value.code == "gatekeeper.too_few"
    assert stage.witness.head is None
    assert witness_quorum(5) == 4


async def test_a_log_that_shrinks_is_refused(stage: Stage) -> None:
    assert signed(await stage.ask(0, IDS[:8], 0))
    held = await stage.ask(0, IDS[:5], 0)
    assert isinstance(held, LogAnswer)
    assert held.held is not None
    assert held.held.log.size == 8
    assert await stage.ask(0, IDS[:5], 8) == "receipt.not_consistent"


async def test_a_fork_and_a_dropped_receipt_are_refused(stage: Stage) -> None:
    assert signed(await stage.ask(0, IDS[:8], 0))
    forked = [*IDS[:3], b"\xff" * 32, *IDS[4:10]]
    dropped = IDS[:2] + IDS[3:12]
    for other in (forked, dropped, forked[:8]):
        assert await stage.ask(0, other, 8 if len(other) > 8 else len(other)) == "receipt.not_consistent"
    assert signed(await stage.ask(0, IDS[:8], 8))
    assert signed(await stage.ask(0, IDS[:10], 8))


async def test_two_trees_for_two_callers_never_both_get_a_quorum(stage: Stage) -> None:
    """A worker that shows one tree to some members and another to the rest: at most one gets q of them."""
    other = [*IDS[:4], b"\xff" * 32]
    one = [signed(await stage.ask(seat, IDS[:5], 0)) for seat in (0, 1, 2)]
    two = [signed(await stage.ask(seat, other, 0)) for seat in (3, 4)]
    assert all(one + two)
    for seat in (0, 1, 2):
        assert await stage.ask(seat, other, 5) == "receipt.not_consistent"
    for seat in (3, 4):
        assert await stage.ask(seat, IDS[:5], 5) == "receipt.not_consistent"
    assert max(len(one), len(two)) < witness_quorum(5)


async def test_a_replayed_head_of_an_older_boot_is_refused(stage: Stage) -> None:
    old = stage.worker.boot
    assert signed(await stage.ask(0, IDS[:8], 0))
    stage.worker.boot = os.urandom(32)
    assert await stage.ask(0, IDS[:2], 0) == "gatekeeper.log_boot"  # not registered yet
    stage.worker.register()
    await stage.turn()
    assert signed(await stage.ask(0, IDS[:2], 0))
    assert await stage.ask(0, IDS[:9], 8, boot=old) == "gatekeeper.log_boot"
    assert signed(await stage.ask(0, IDS[:3], 2))
    # A boot that is registered again finds its log as long as it was: alternating boots forgets nothing.
    stage.worker.boot = old
    stage.worker.register()
    await stage.turn()
    assert await stage.ask(0, [b"\xff" * 32, *IDS[:8]], 8) == "receipt.not_consistent"
    assert signed(await stage.ask(0, IDS[:9], 8))


async def test_a_member_remembers_over_a_restart(stage: Stage) -> None:
    assert signed(await stage.ask(0, IDS[:8], 0))
    await stage.seats[0].close()
    await stage.seats[0].open()
    await stage.turn()
    assert await stage.ask(0, IDS[:5], 5) != "receipt.not_consistent"  # it says what it holds
    assert await stage.ask(0, [*IDS[:7], b"\xff" * 32], 8) == "receipt.not_consistent"


async def test_who_is_not_the_worker_or_not_in_service_gets_nothing(stage: Stage) -> None:
    log = WorkerLog(stage.worker.address, stage.worker.boot, 2, root_of([leaf_hash(one) for one in IDS[:2]]))
    stranger = sign_digest(PrivateKey(b"\x21" * 32), log.digest(stage.sitting.network))
    forged = LogRequest(log, stranger, 0, ())
    assert await stage.post(0, forged.to_json()) == "encoding.signature"
    assert await stage.ask(0, IDS[:2], 0, worker=b"\7" * 20) == "encoding.signature"
    stage.worker.register(removed=True)
    await stage.turn()
    assert await stage.ask(0, IDS[:2], 0) == "policy.worker_removed"


GARBAGE: tuple[Any, ...] = (
    None,
    {},
    [],
    {"log": {}, "signature": "0x", "start": 0, "path": "0x"},
    {"log": None, "signature": to_hex(bytes(65)), "start": -1, "path": "0x00"},
)


async def test_garbage_is_refused_by_name(stage: Stage) -> None:
    for body in GARBAGE:
        said = await stage.post(0, body)
        assert isinstance(said, str)
        assert said.startswith(("encoding.", "wire.", "receipt."))
    assert from_wire({"code": "gatekeeper.log_boot"}).code == "gatekeeper.log_boot"


async def test_a_worker_whose_log_does_not_fit_the_committee_stops_asking(stage: Stage) -> None:
    """A store that was rolled back under a running worker's feet, seen from the committee's side."""
    for seat in range(5):
        assert signed(await stage.ask(seat, IDS[:4], 0))
    await stage.receipts(6)
    with pytest.raises(CloisterError) as caught:
        await stage.witness.turn()
    assert caught.value.code == "worker.log_forked"
