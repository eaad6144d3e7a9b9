"""The worker's receipts: one signature and one write per turn, nothing ends unstored; questions about them."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cloister.core.encoding import jcs
from cloister.core.encoding.contexts import Context
from cloister.core.encoding.hexes import from_hex, to_hex
from cloister.core.encoding.identity import Purpose
from cloister.core.encoding.log_statements import LogHead
from cloister.core.encoding.signatures import Signed, SignerSet, address_of, sign_digest
from cloister.core.errors import CloisterError
from cloister.core.receipts.batch import BatchPath
from cloister.core.receipts.kept import OwnerKey, open_as_caller, open_as_owner
from cloister.core.receipts.log import LogProof
from cloister.core.receipts.merkle import consistency_path, leaf_hash, part_of, root_of
from cloister.core.receipts.receipt import Exchange
from cloister.core.receipts.verify import verify_chain, verify_signed
from cloister.fabric.embedded import open_fabric
from cloister.fabric.embedded.limits import UNAVAILABLE
from cloister.fabric.embedded.pruning import prune
from cloister.fabric.ports import Fabric, ReceiptBatch
from cloister.worker import receipts as module
from cloister.worker.leases import AgentKeys, NodeIdentity
from cloister.worker.receipts import Issued, ReceiptDesk, ReceiptDoor, log_name
from support.fake_world import MEMBERS, test_key
from support.worker_kit import keys_of, refused, world_of

EXCHANGE = Exchange(b"\x0a" * 16, 200, b"\x0b" * 32, b"\x0c" * 32)


class Store:
    """The real store, whose appends can be watched, held back and refused."""

    def __init__(self, fabric: Fabric) -> None:
        self._real = fabric.receipts
        self.batches: list[ReceiptBatch] = []
        self.error: CloisterError | None = None
        self.gate: asyncio.Event | None = None

    def append(self, log: str, batch: ReceiptBatch) -> Awaitable[None] | None:
        """As the gate and ``error`` say, then the real one."""
        if self.error is not None:
            raise self.error
        self.batches.append(batch)
        return self._real.append(log, batch) if self.gate is None else self._later(log, batch, self.gate)

    async def _later(self, log: str, batch: ReceiptBatch, gate: asyncio.Event) -> None:
        await gate.wait()
        if self.error is not None:
            raise self.error
        pending = self._real.append(log, batch)
        assert pending is None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


@dataclass
class Stage:
    """A desk over a watched store, and an agent's keys."""

    node: NodeIdentity
    keys: AgentKeys
    store: Store
    desk: ReceiptDesk
    door: ReceiptDoor

    async def issue(self, salt: bytes = b"s" * 32) -> Issued:
        """One receipt."""
        certificate = self.keys.seat.certificate
        return await self.desk.issue(self.keys, salt, certificate, EXCHANGE, checkpoint=9, host_time_ms=1)

    async def many(self, count: int) -> list[Issued]:
        """So many in one turn."""
        return list(await asyncio.gather(*(self.issue(bytes([n]) * 32) for n in range(count))))


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    world = world_of()
    node = NodeIdentity(test_key("desk"), os.urandom(32), bytes(32), world.network.id)
    world.set_worker(node.key, node.boot)
    agent = world.set_agent(1)
    world.mine()
    fabric = await open_fabric(tmp_path / "fabric")
    store = Store(fabric)
    desk = ReceiptDesk(node, store)
    yield Stage(node, keys_of(world, node, agent), store, desk, ReceiptDoor(desk, store))
    await fabric.close()


async def test_one_turn_is_one_signature_and_one_write(stage: Stage) -> None:
    issued = await stage.many(7)
    assert len(stage.store.batches) == 1
    assert len({one.signature for one in issued}) == 1
    verify_chain([one.receipt for one in issued])
    for one in issued:
        verify_signed(one.receipt, one.signature, one.batch)
    assert stage.desk.log.size == 7
    alone = await stage.issue()
    assert alone.batch is None
    verify_signed(alone.receipt, alone.signature, None)
    assert [len(batch.ids) for batch in stage.store.batches] == [7, 1]


async def test_a_lone_request_waits_for_no_turn(stage: Stage) -> None:
    certificate = stage.keys.seat.certificate
    work = stage.desk.issue(stage.keys, b"s" * 32, certificate, EXCHANGE, checkpoint=9, host_time_ms=1, alone=True)
    with pytest.raises(StopIteration) as ended:
        work.send(None)  # it ends without giving the loop a turn
    issued = ended.value.value
    verify_signed(issued.receipt, issued.signature, issued.batch)
    assert stage.desk.log.size == 1


async def test_an_answer_waits_until_its_receipt_is_stored(stage: Stage) -> None:
    stage.store.gate = asyncio.Event()
    first = asyncio.ensure_future(stage.issue())
    for _ in range(5):
        await asyncio.sleep(0)
    later = [asyncio.ensure_future(stage.issue()) for _ in range(3)]
    for _ in range(5):
        await asyncio.sleep(0)
    assert not first.done()
    assert stage.desk.log.size == 0
    stage.store.gate.set()
    await first
    await asyncio.gather(*later)
    assert [len(batch.ids) for batch in stage.store.batches] == [1, 3]  # what came meanwhile is one batch


async def test_a_store_that_fails_ends_its_answers_and_loses_nothing(stage: Stage) -> None:
    stage.store.error = UNAVAILABLE(expected="a disk", found="none")
    await refused(stage.many(3), "fabric.unavailable")
    await refused(stage.issue(), "fabric.unavailable")
    assert stage.desk.unstored == 4
    stage.store.error = None
    good = await stage.issue()
    assert good.receipt.seq == 4
    assert [batch.first for batch in stage.store.batches] == [0, 3, 4]
    assert stage.desk.log.size == 5
    assert stage.desk.unstored == 0


async def test_what_was_refused_is_written_by_itself_too(stage: Stage) -> None:
    stage.store.gate = asyncio.Event()
    stage.store.error = None
    pending = asyncio.ensure_future(stage.issue())
    for _ in range(5):
        await asyncio.sleep(0)
    stage.store.error = UNAVAILABLE(expected="a disk", found="none")
    stage.store.gate.set()
    await refused(pending, "fabric.unavailable")
    await refused(stage.desk.retry(), "fabric.unavailable")
    stage.store.error = None
    await stage.desk.retry()
    await stage.desk.retry()
    assert (stage.desk.log.size, stage.desk.unstored) == (1, 0)


async def test_a_store_that_stays_away_stops_the_numbering(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_UNSTORED", 2)
    stage.store.error = UNAVAILABLE(expected="a disk", found="none")
    for _ in range(2):
        await refused(stage.issue(), "fabric.unavailable")
    await refused(stage.issue(), "worker.receipts_unstored")
    assert stage.desk.head[0] == 2


async def test_a_caller_who_went_away_leaves_its_receipt(stage: Stage) -> None:
    gone = asyncio.ensure_future(stage.issue())
    await asyncio.sleep(0)
    gone.cancel()
    await asyncio.gather(gone, return_exceptions=True)
    other = await stage.issue()
    assert other.receipt.seq == 1
    assert stage.desk.log.size == 2


async def test_caller_and_owner_read_what_the_door_gives_and_the_store_shows_nothing(stage: Stage) -> None:
    issued = (await stage.many(3))[1]
    said = await stage.door.answer(b"\1" + issued.receipt.id)
    kept, receipt_id = from_hex(said["kept"], name="kept"), issued.receipt.id
    assert open_as_caller(kept, receipt_id, b"\1" * 32) == issued.receipt
    log_key = stage.keys.key(Purpose.LOG).symmetric(Context.RECEIPT_KEPT, b"owner")
    opened = open_as_owner(kept, receipt_id, said["seq"], OwnerKey(log_key, stage.node.boot))
    assert opened == issued.receipt
    verify_signed(opened, from_hex(said["signature"], 65, name="s"), BatchPath.from_json(said["batch"]))
    assert said["worker"] == to_hex(stage.node.address)
    assert to_hex(issued.receipt.request_id)[2:] not in str(said)


SIGNERS = SignerSet(1, 3, tuple(address_of(m) for m in MEMBERS))


async def put_head(stage: Stage, size: int, name: str | None = None, boot: bytes | None = None) -> Signed:
    root = stage.desk.log.root(size, await stage.desk.tiles(size))
    said = LogHead(1, stage.node.address, boot or stage.node.boot, size, root)
    signed = Signed(said, tuple(sign_digest(m, said.digest(stage.node.network)) for m in MEMBERS[:4]))
    signatures = [to_hex(s) for s in signed.signatures]
    data = jcs.encode({"statement": said.to_json(), "signatures": signatures})
    await stage.store.put_head(name or stage.desk.name, data)
    return signed


async def test_the_door_proves_what_a_signed_head_covers(stage: Stage) -> None:
    issued = await stage.many(20)
    await refused(stage.door.answer(b"\2" + issued[3].receipt.id), "worker.receipt_not_witnessed")
    await put_head(stage, 15)
    proof = LogProof.from_json(await stage.door.answer(b"\2" + issued[3].receipt.id))
    proof.verify(issued[3].receipt, SIGNERS, stage.node.network)
    await refused(stage.door.answer(b"\2" + issued[15].receipt.id), "worker.receipt_not_witnessed")
    await stage.store.put_head(stage.desk.name, b"garbage")
    await refused(stage.door.answer(b"\2" + issued[3].receipt.id), "worker.receipt_not_witnessed")


async def test_a_new_boot_proves_receipts_of_an_earlier_one(stage: Stage) -> None:
    issued = [one for _ in range(3) for one in await stage.many(200)]
    await put_head(stage, 600)
    node = NodeIdentity(stage.node.key, os.urandom(32), bytes(32), stage.node.network)
    door = ReceiptDoor(ReceiptDesk(node, stage.store), stage.store)
    for number in (0, 255, 256, 599):
        proof = LogProof.from_json(await door.proof(issued[number].receipt.id))
        proof.verify(issued[number].receipt, SIGNERS, stage.node.network)
        assert (await door.receipt(issued[number].receipt.id))["boot"] == to_hex(stage.node.boot)


async def test_the_door_shows_that_a_log_begins_with_a_shorter_one(stage: Stage) -> None:
    issued = [one for _ in range(2) for one in await stage.many(150)]
    leaves = [leaf_hash(one.receipt.id) for one in issued]
    named = issued[7].receipt.id
    other = NodeIdentity(stage.node.key, os.urandom(32), bytes(32), stage.node.network)
    for door in (
        stage.door,
        ReceiptDoor(ReceiptDesk(other, stage.store), stage.store),
    ):  # this boot's, and a later one's
        for old, new in ((1, 2), (3, 300), (256, 300), (257, 299), (300, 300)):
            answer = await door.answer(b"\3" + named + old.to_bytes(8, "big") + new.to_bytes(8, "big"))
            path = from_hex(answer["path"], name="path", max_size=4096)
            wanted = consistency_path(old, new, part_of(leaves))
            assert path == b"".join(wanted)
        for old, new in ((0, 3), (4, 3), (1, 301), (1, 2**64 - 1)):
            await refused(
                door.answer(b"\3" + named + old.to_bytes(8, "big") + new.to_bytes(8, "big")), "worker.receipt_question"
            )
    await refused(stage.door.answer(b"\3" + bytes(32) + bytes(15) + b"\1"), "fabric.no_receipt")


async def test_a_log_of_another_worker_is_read_on_as_it_grows(stage: Stage) -> None:
    other = NodeIdentity(stage.node.key, os.urandom(32), bytes(32), stage.node.network)
    door = ReceiptDoor(ReceiptDesk(other, stage.store), stage.store)
    first = await stage.issue()
    await put_head(stage, 1)
    assert (await door.proof(first.receipt.id))["index"] == 0
    later = (await stage.many(3))[-1]
    await put_head(stage, 4)
    assert (await door.proof(later.receipt.id))["index"] == 3


async def test_a_log_that_grows_while_its_ids_are_read_is_proven_all_the_same(stage: Stage) -> None:
    """A tile that was the last one when it was asked for may be whole when the answer comes."""
    await stage.many(200)
    await stage.many(150)
    real = stage.store._real.ids
    grown = 0

    async def ids(log: str, first: int, count: int) -> list[bytes]:
        nonlocal grown
        grown += 1
        await stage.many(170)
        return await real(log, first, count)

    stage.store.ids = ids  # type: ignore[attr-defined]
    old, new = 100, 350
    tiles = await stage.desk.tiles(old, new)
    leaves = [leaf_hash(one) for one in await real(stage.desk.name, 0, 350)]
    assert stage.desk.log.consistency(old, new, tiles) == consistency_path(old, new, part_of(leaves))
    assert stage.desk.log.root(new, tiles) == root_of(leaves)
    assert grown == 2


async def test_a_pruned_receipt_is_named_and_proven_all_the_same(stage: Stage, tmp_path: Path) -> None:
    issued = [one for _ in range(2) for one in await stage.many(150)]
    await put_head(stage, 300)
    assert prune(tmp_path / "fabric" / "receipts", stage.desk.name, 200) == 150
    gone, left = issued[7].receipt, issued[150].receipt
    await refused(stage.door.answer(b"\1" + gone.id), "fabric.receipt_pruned")
    assert (await stage.door.answer(b"\1" + left.id))["seq"] == 150
    other = NodeIdentity(stage.node.key, os.urandom(32), bytes(32), stage.node.network)
    for door in (stage.door, ReceiptDoor(ReceiptDesk(other, stage.store), stage.store)):
        proof = LogProof.from_json(await door.answer(b"\2" + gone.id))
        proof.verify(gone, SIGNERS, stage.node.network)
        await door.answer(b"\3" + gone.id + (3).to_bytes(8, "big") + (299).to_bytes(8, "big"))
    shown = await stage.door.of_agent(stage.keys, stage.node.boot, 0)
    assert (shown["pruned"], shown["next"], len(shown["receipts"])) == (150, 300, 150)


@pytest.mark.parametrize("question", [b"", b"\1", b"\3" + bytes(32), b"\1" + bytes(33)])
async def test_other_questions_are_refused(stage: Stage, question: bytes) -> None:
    await refused(stage.door.answer(question), "worker.receipt_question")


async def test_an_unknown_receipt_is_named_as_such(stage: Stage) -> None:
    await refused(stage.door.answer(b"\1" + bytes(32)), "fabric.no_receipt")
    await refused(stage.door.answer(b"\2" + bytes(32)), "fabric.no_receipt")


def test_a_log_is_named_after_worker_and_boot() -> None:
    assert log_name(b"\1" * 20, b"\2" * 32) == "01" * 20 + "." + "02" * 32
