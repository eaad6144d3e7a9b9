"""A worker whose account is empty answers all the same, shows what is signed, and brings it itself once it can pay."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from coincurve import PrivateKey

from cloister.chain.rpc import REVERTED
from cloister.chain.tx import NO_FUNDS, Receipt
from cloister.core.chainview.anchor import AnchorSeat, Asked, Queue
from cloister.core.encoding.contract_statements import AnchorAnswer, AnchorLease
from cloister.core.encoding.keccak import keccak256
from cloister.core.encoding.signatures import Signed, address_of, sign_digest, verify_signer
from cloister.core.encoding.statements import Checkpoint
from cloister.core.errors import CloisterError
from cloister.core.state.endorse import Answer
from cloister.fabric.embedded import open_fabric
from cloister.worker.anchor import AnchorDesk, Place, Turn
from cloister.worker.anchor_outbox import Outbox, request_id
from cloister.worker.state import AgentState
from support.anvil import test_key
from support.state_kit import keys, member

NETWORK, ANCHOR, AGENT, CODE, CHAIN = b"\x4e" * 32, b"\x0a" * 20, b"\xa6" * 32, b"\x0c" * 32, 77
ASKED = Asked(AGENT, 1, b"\x22" * 20, 5, bytes(32), 1000, 20_000, 1, 0, keccak256(b"?"))
DONE = Receipt(b"\x01" * 32, 1, b"\x02" * 32, 1, None, ())


@dataclass
class Anchor:
    """An Anchor in memory. ``poor``: the worker's account is empty."""

    poor: bool = True
    open_: bool = True
    leases: list[AnchorLease] = field(default_factory=list)
    replies: list[bytes] = field(default_factory=list)
    adopted: int = 0

    async def queue(self, state: Any, agent: bytes) -> Queue:
        return Queue().after(ASKED.commitment())

    async def claims(self, agent: bytes, since: int, until: int) -> AsyncIterator[tuple[Asked, bytes, int]]:
        yield ASKED, b"?", 3

    async def open(self, state: Any, requests: list[Asked]) -> tuple[bool, ...]:
        return tuple(self.open_ for _ in requests)

    async def is_open(self, request: Asked) -> bool:
        return self.open_

    async def term(self, state: Any) -> tuple[int, int]:
        return 1, 1 << 40

    async def seat(self, *who: Any) -> AnchorSeat | None:
        if not self.leases:
            return None
        last = self.leases[-1]
        return AnchorSeat(last.payee, last.expiry, last.vendor_class, last.code_hash)

    async def adopt(self) -> Receipt:
        self.adopted += 1
        return DONE

    async def register(self, lease: Signed) -> Receipt:
        self._pay()
        assert isinstance(lease.statement, AnchorLease)
        if lease.statement in self.leases:
            raise REVERTED(expected="a newer lease", found="LeaseNotNewer(1, 1)")
        self.leases.append(lease.statement)
        return DONE

    async def respond(self, request: Asked, reply: bytes, by: Any) -> Receipt:
        if not self.leases:
            raise REVERTED(expected="a lease", found="NoLease(0x, 0x)")
        self._pay()
        self.replies.append(reply)
        self.open_ = False
        return DONE

    def _pay(self) -> None:
        if self.poor:
            raise NO_FUNDS(expected="an account that can pay", found="0 wei")


class Runner:
    def __init__(self, state: AgentState) -> None:
        self.state, self.ran = state, 0

    async def run(self, request: Asked, payload: bytes, keep: Callable[[bytes], tuple[str, bytes]]) -> None:
        self.ran += 1
        name = request_id(f"run {self.ran}")
        tx = await self.state.begin(name)
        await tx.put(*keep(b"!"))
        await tx.commit(name)


class Scene:
    """One worker's desk at a connected chain."""

    def __init__(self, state: AgentState, key: PrivateKey) -> None:
        self.anchor, self.runner, self.key, self.asked = Anchor(), Runner(state), key, 0
        place = Place(NETWORK, CHAIN, ANCHOR, address_of(key), b"\x02" * 20, home=False)
        parts: tuple[Any, ...] = (self.anchor, place, Outbox(state, CHAIN), self.runner, self)
        self.desk = AnchorDesk(*parts, lambda digest: sign_digest(key, digest))

    async def anchor_lease(self, lease: AnchorLease, signature: bytes) -> Signed:
        self.asked += 1
        return Signed(lease, (b"\x01" * 65,))

    async def turn(self, seconds: int = 10_000, term: int = 1) -> str:
        at = Checkpoint(1, CHAIN, 9, b"\x01" * 32, b"\x02" * 32, seconds)
        state: Any = None
        try:
            turn = Turn(AGENT, 1, CODE, term, b"\x03" * 32, at, state, (address_of(self.key),))
            await self.desk.turn(turn)
        except CloisterError as error:
            return error.code
        return ""


@pytest.fixture
async def scene(tmp_path: Path) -> Any:
    fabric = await open_fabric(tmp_path / "fabric")
    state = AgentState(fabric.state, keys(), AGENT.hex(), os.urandom)
    await state.load([Answer(member(i), 0, bytes(32)) for i in range(3)], 3)
    yield Scene(state, test_key("without gas"))
    await fabric.close()


async def test_the_answer_is_made_once_and_waits_with_its_lease(scene: Scene) -> None:
    for _ in range(3):
        assert await scene.turn() == "chain.no_funds"
    waits = scene.desk.waiting[1]
    assert (waits.request, waits.reply, scene.runner.ran, scene.asked) == (ASKED, b"!", 1, 1)
    assert waits.lease is not None
    assert isinstance(waits.lease.statement, AnchorLease)
    ((who, signature),) = waits.by
    said = AnchorAnswer(CHAIN, ANCHOR, ASKED.commitment(), keccak256(b"!"), bytes(32))
    verify_signer(said.digest(NETWORK), signature, who)
    assert scene.anchor.replies == []


async def test_a_worker_that_can_pay_again_brings_it_itself(scene: Scene) -> None:
    await scene.turn()
    scene.anchor.poor = False
    assert await scene.turn() == ""
    assert (scene.anchor.replies, len(scene.anchor.leases)) == ([b"!"], 1)
    assert scene.desk.waiting == {}
    await scene.turn()
    assert scene.anchor.replies == [b"!"]


async def test_what_somebody_else_brought_no_longer_waits(scene: Scene) -> None:
    await scene.turn()
    lease = scene.desk.waiting[1].lease
    assert lease is not None
    scene.anchor.poor = False
    await scene.anchor.register(lease)
    scene.anchor.open_ = False
    scene.anchor.poor = True
    assert await scene.turn() == ""
    assert scene.desk.waiting == {}


async def test_a_lease_that_somebody_else_registered_is_found_by_proof(scene: Scene) -> None:
    await scene.turn()
    lease = scene.desk.waiting[1].lease
    assert lease is not None
    scene.anchor.poor = False
    await scene.anchor.register(lease)
    codes = [await scene.turn() for _ in range(2)]
    assert codes[-1] == ""
    assert scene.anchor.replies == [b"!"]


async def test_a_lease_that_is_on_chain_does_not_wait_with_the_answer(scene: Scene) -> None:
    scene.anchor.poor = False
    scene.anchor.open_ = True
    await scene.desk.seat(Turn(AGENT, 1, CODE, 1, b"\x03" * 32, checkpoint(), none(), (address_of(scene.key),)))
    scene.anchor.poor = True
    assert await scene.turn() == "chain.no_funds"
    assert scene.desk.waiting[1].lease is None
    assert scene.asked == 1


def checkpoint() -> Checkpoint:
    return Checkpoint(1, CHAIN, 9, b"\x01" * 32, b"\x02" * 32, 10_000)


def none() -> Any:
    return None


async def test_a_new_term_is_not_adopted_elsewhere_but_waited_for(scene: Scene) -> None:
    scene.anchor.poor = False
    assert await scene.turn(term=2) == "anchor.no_seat"
    assert (scene.anchor.adopted, scene.runner.ran) == (0, 0)


async def test_a_request_that_is_late_no_longer_waits(scene: Scene) -> None:
    await scene.turn()
    assert await scene.turn(seconds=20_001) == ""
    assert scene.desk.waiting == {}
