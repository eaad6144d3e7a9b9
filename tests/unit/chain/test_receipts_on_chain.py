"""Roots of receipt logs on a real chain, from what Python signs and computes; and when a worker sends them."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from cloister.chain.contracts import call
from cloister.chain.rpc import Rpc
from cloister.chain.tx import Receipt as TxReceipt
from cloister.chain.tx import Sender
from cloister.core.encoding.log_statements import LogHead
from cloister.core.encoding.signatures import Signed, address_of, sign_digest
from cloister.core.encoding.statements import WorkerAdmission
from cloister.core.errors import ChainError
from cloister.core.receipts.batch import sign_together
from cloister.core.receipts.merkle import inclusion_path, leaf_hash, part_of, root_of
from cloister.core.receipts.receipt import ZERO, Receipt
from cloister.worker.witness import RootKeeper
from support.anvil import MEASUREMENT, TestChain, send, test_key

SAID = LogHead(1, bytes(20), bytes(32), 5, bytes(32))
HEAD = Signed(SAID, (bytes(65),) * 4)


def receipts(worker: bytes, boot: bytes, count: int) -> list[Receipt]:
    made: list[Receipt] = []
    for seq in range(count):
        ids: dict[str, Any] = {
            "network": b"\1" * 32,
            "agent": b"\2" * 32,
            "code_hash": b"\3" * 32,
            "manifest_hash": b"\4" * 32,
        }
        prev = made[-1].id if made else ZERO
        made.append(
            Receipt(
                **ids, master_epoch=1, cluster_epoch=1, agent_epoch=1, worker=worker, boot=boot, seq=seq, prev=prev,
                request_id=os.urandom(16), request=bytes(32), response=bytes(32), status=200, checkpoint=1,
                host_time_ms=1,
            )
        )  # fmt: skip
    return made


async def registered(chain: TestChain, rpc: Rpc, name: str) -> tuple[Any, bytes]:
    """A worker with a boot of its own in the Workers contract."""
    worker, boot = chain.fund(test_key(name)), os.urandom(32)
    said = WorkerAdmission(1, address_of(worker), address_of(worker), b"\5" * 32, MEASUREMENT, boot, 10_000_000)
    fields = [getattr(said, one) for one in said.TYPES]
    await send(chain, rpc, worker, "Workers", "register", fields, chain.sign(said), "http://127.0.0.1:1")
    return worker, boot


async def test_a_root_goes_on_chain_and_proves_receipts_there(chain: TestChain) -> None:
    async with Rpc(chain.url) as rpc:
        worker, boot = await registered(chain, rpc, "receipts worker")
        who, at = address_of(worker), chain.contracts["Receipts"]
        made = receipts(who, boot, 7)
        leaves = [leaf_hash(r.id) for r in made]
        said = LogHead(1, who, boot, 7, root_of(leaves))
        now = [0.0]
        keeper = RootKeeper(Sender(rpc, worker, chain.chain_id), at, every_s=5, monotonic=lambda: now[0])
        now[0] = 6
        with pytest.raises(ChainError, match="TooFewWitnesses"):
            await keeper.turn(Signed(said, tuple(chain.sign(said, 3))))
        now[0] = 12
        assert await keeper.turn(Signed(said, tuple(chain.sign(said, 4))))
        assert await call(rpc, at, "Receipts", "count", who) == 1
        assert await call(rpc, at, "Receipts", "quorum") == 4
        for number in (0, 3, 6):
            path = inclusion_path(number, 7, part_of(leaves))
            logged = (who, 0, boot, made[number].id, number, path)
            assert await call(rpc, at, "Receipts", "isLogged", *logged)
            assert not await call(rpc, at, "Receipts", "isLogged", who, 0, boot, bytes(32), number, path)
        signature, paths = sign_together(made[2:], lambda d: sign_digest(worker, d))
        batch = paths[1]
        assert batch is not None
        row = [batch.first, batch.size, list(batch.path)]
        assert await call(rpc, at, "Receipts", "isSigned", who, boot, made[3].id, 3, row, signature)
        assert not await call(rpc, at, "Receipts", "isSigned", who, boot, made[4].id, 4, row, signature)
        alone = sign_digest(worker, made[0].id)
        assert await call(rpc, at, "Receipts", "isSigned", who, boot, made[0].id, 0, [0, 1, []], alone)
        shorter = replace(said, size=6, root=root_of(leaves[:6]))
        with pytest.raises(ChainError, match="NotLonger"):
            await send(chain, rpc, worker, "Receipts", "record", shorter, chain.sign(shorter, 4))


@dataclass
class FakeSender:
    """Notes what would be sent."""

    sent: list[bytes] = field(default_factory=list)
    error: ChainError | None = None

    async def send(self, to: bytes | None, data: bytes = b"", value: int = 0, gas: int | None = None) -> TxReceipt:
        if self.error is not None:
            raise self.error
        self.sent.append(data)
        return TxReceipt(bytes(32), 1, bytes(32), 1, None, ())


async def test_roots_are_sent_seldom_and_only_new_ones() -> None:
    sender, now = FakeSender(), [0.0]
    keeper = RootKeeper(sender, bytes(20), every_s=10, monotonic=lambda: now[0])
    assert not await keeper.turn(None)
    assert not await keeper.turn(HEAD)  # not before the first interval is over
    now[0] = 10
    assert await keeper.turn(HEAD)
    now[0] = 30
    assert not await keeper.turn(HEAD)  # the same
    newer = Signed(replace(SAID, size=6), HEAD.signatures)
    assert await keeper.turn(newer)
    assert len(sender.sent) == 2


async def test_a_refused_transaction_is_tried_again_after_the_interval() -> None:
    from cloister.chain.rpc import UNREACHABLE

    sender, now = FakeSender(), [10.0]
    keeper = RootKeeper(sender, bytes(20), every_s=10, monotonic=lambda: now[0])
    error = UNREACHABLE(expected="an endpoint", found="none")
    assert isinstance(error, ChainError)
    sender.error, now[0] = error, 20.0
    with pytest.raises(ChainError):
        await keeper.turn(HEAD)
    assert not await keeper.turn(HEAD)
    sender.error, now[0] = None, 30.0
    assert await keeper.turn(HEAD)
