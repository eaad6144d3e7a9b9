"""Answers that are ready together travel together; one that the chain refuses holds up no other."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloister.chain.anchor import AnchorChain
from cloister.chain.rpc import REVERTED, UNREACHABLE
from cloister.chain.tx import Receipt
from cloister.core.chainview.anchor import Asked
from cloister.core.errors import CloisterError
from cloister.worker.anchor_courier import BATCH_GAS, FLIGHTS, MAX_BATCH, Courier, Ready

Answer = tuple[Asked, bytes, Sequence[tuple[bytes, bytes]]]


def ready(index: int, *, gas: int = 100_000, reply: bytes = b"reply") -> Ready:
    asked = Asked(b"\1" * 32, index, b"\2" * 20, 0, bytes(32), gas, 1 << 40, 1, 0, bytes(32))
    return Ready(asked, reply, ((b"\3" * 20, b"\4" * 65),))


class Chain:
    """What was sent, and what it refuses. ``open``: transactions wait until it is set."""

    def __init__(self) -> None:
        self.sent: list[list[int]] = []
        self.bad: set[int] = set()
        self.down = False
        self.open = asyncio.Event()
        self.open.set()
        self.flying, self.most = 0, 0

    async def respond(self, request: Asked, reply: bytes, by: Sequence[tuple[bytes, bytes]]) -> Receipt:
        return await self.respond_batch([(request, reply, by)])

    async def respond_batch(self, answers: Sequence[Answer]) -> Receipt:
        self.flying += 1
        self.most = max(self.most, self.flying)
        await self.open.wait()
        self.flying -= 1
        indexes = [asked.index for asked, _, _ in answers]
        if self.down:
            raise UNREACHABLE(expected="an answer", found="none")
        if self.bad & set(indexes):
            raise REVERTED(expected="it to succeed", found="NotSignedBy")
        self.sent.append(indexes)
        return Receipt(bytes(32), len(self.sent), bytes(32), 1, None, ())


def courier(chain: Chain) -> Courier:
    return Courier(cast(AnchorChain, cast(Any, chain)))


async def bring(one: Courier, *items: Ready) -> list[Any]:
    return await asyncio.gather(*(one.bring(item) for item in items), return_exceptions=True)


async def test_what_is_ready_at_one_moment_goes_together() -> None:
    chain = Chain()
    receipts = await bring(courier(chain), *(ready(i) for i in range(5)))
    assert chain.sent == [[0, 1, 2, 3, 4]]
    assert {r.block_number for r in receipts} == {1}


async def test_what_becomes_ready_meanwhile_waits_for_the_next() -> None:
    chain = Chain()
    chain.open.clear()
    one = courier(chain)
    tasks = []
    for i in range(FLIGHTS + 10):
        tasks.append(asyncio.ensure_future(one.bring(ready(i))))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    assert chain.flying == FLIGHTS, "no more than that at once"
    chain.open.set()
    await asyncio.gather(*tasks)
    assert chain.sent == [[0], [1], [2], [3], list(range(4, 14))]


async def test_a_bad_answer_is_refused_alone() -> None:
    chain = Chain()
    chain.bad = {2}
    outcomes = await bring(courier(chain), *(ready(i) for i in range(4)))
    assert [isinstance(o, CloisterError) for o in outcomes] == [False, False, True, False]
    assert chain.sent == [[0], [1], [3]]


async def test_an_endpoint_that_is_gone_is_said_to_each() -> None:
    chain = Chain()
    chain.down = True
    outcomes = await bring(courier(chain), *(ready(i) for i in range(3)))
    assert [o.code for o in outcomes] == ["chain.unreachable"] * 3
    chain.down = False
    assert len(await bring(courier(chain), ready(9))) == 1, "and the next ones go on"


async def test_one_that_leaves_stops_nobody() -> None:
    chain = Chain()
    chain.open.clear()
    one = courier(chain)
    first, second = (asyncio.ensure_future(one.bring(ready(i))) for i in range(2))
    await asyncio.sleep(0.01)
    first.cancel()
    chain.open.set()
    await second
    assert chain.sent == [[0, 1]]
    with pytest.raises(asyncio.CancelledError):
        await first


@given(st.lists(st.integers(0, 5_000_000), min_size=1, max_size=120))
@settings(max_examples=30, deadline=None)
def test_batches_fit_a_block_and_lose_and_double_nothing(gas: list[int]) -> None:
    async def run() -> Chain:
        chain = Chain()
        items = [ready(i, gas=g, reply=bytes(i % 1000)) for i, g in enumerate(gas)]
        await bring(courier(chain), *items)
        for batch in chain.sent:
            assert len(batch) <= MAX_BATCH
            assert len(batch) == 1 or sum(items[i].gas for i in batch) <= BATCH_GAS
        assert chain.most <= FLIGHTS
        return chain

    sent = asyncio.run(run()).sent
    assert sorted(i for batch in sent for i in batch) == list(range(len(gas)))
