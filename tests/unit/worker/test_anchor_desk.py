"""Contracts' requests on a real chain: answered exactly once, whatever crashes, lies or goes back meanwhile."""

from __future__ import annotations

import asyncio
import os
import time
import tracemalloc
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from coincurve import PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from cloister.chain.anchor import AnchorChain
from cloister.chain.contracts import call, encode
from cloister.chain.events import decode_event, topic
from cloister.chain.proven import ProvenState
from cloister.chain.rpc import Rpc, quantity
from cloister.chain.tx import Sender
from cloister.core.chainview.anchor import Asked
from cloister.core.chainview.records import agent_id
from cloister.core.encoding.contract_statements import AnchorLease
from cloister.core.encoding.hexes import to_hex
from cloister.core.encoding.keccak import keccak256
from cloister.core.encoding.signatures import Signed, address_of, sign_digest
from cloister.core.errors import CloisterError
from cloister.core.state.endorse import Answer
from cloister.fabric.embedded import open_fabric
from cloister.fabric.ports import Fabric
from cloister.worker.anchor import PATIENCE_S, AnchorDesk, Place, Turn
from cloister.worker.anchor_outbox import MAX_OPEN, Outbox, request_id
from cloister.worker.scope import RequestScope
from cloister.worker.state import ALREADY_DONE, AgentState
from support import hooks
from support.anvil import TestChain, send, test_key
from support.liar import Lie, liar
from support.state_kit import keys, member
from support.worker_kit import refused

HOUR = 3600
CODE = b"\x0c" * 32
Agent = Callable[[bytes], bytes]


@dataclass
class Runner:
    """The agent as a function; its own write and the answer commit together. ``ran``: bodies it saw."""

    state: AgentState
    agent: Agent
    worker: bytes
    ran: list[bytes] = field(default_factory=list)
    die: str = ""

    async def run(self, request: Asked, payload: bytes, keep: Callable[[bytes], tuple[str, bytes]]) -> None:
        name = request_id(f"run {request.commitment().hex()} {self.worker.hex() if request.copies > 1 else ''}")
        try:
            scope = RequestScope(self.state, await self.state.begin(name), name)
        except CloisterError as error:
            if error.code == ALREADY_DONE.code:
                return
            raise
        self.ran.append(payload)
        reply = self.agent(payload)
        await scope.put("mine", payload)
        await scope.put(*keep(reply))
        if self.die == "before commit":
            raise Killed
        await scope.commit_head()
        if self.die == "after commit":
            raise Killed


class Killed(Exception):  # noqa: N818 - the worker's process ends here
    """SIGKILL."""


@dataclass
class Seat:
    """One worker's desk; a new one over the same store is that worker, started again."""

    world: World
    name: str
    desk: AnchorDesk
    runner: Runner
    key: PrivateKey
    vendor: bytes

    async def turn(self, later: int = 0, **changes: Any) -> None:
        """One turn at the newest block; ``later``: seconds that the checkpoint's clock is ahead."""
        await self.desk.turn(await self.world.now(later, vendor_class=self.vendor, **changes))


@dataclass
class World:
    """An agent, a contract that asks it, and workers that hold it."""

    chain: TestChain
    rpc: Rpc
    fabric: Fabric
    agent: bytes = b""
    token: int = 0
    consumer: bytes = b""
    seats: tuple[bytes, ...] = ()
    url: str = ""
    refuse_lease: CloisterError | None = None
    asked_leases: int = 0
    rpcs: list[Rpc] = field(default_factory=list)

    async def open(self) -> World:
        owner, user = self.chain.keys[3], self.chain.keys[4]
        await send(self.chain, self.rpc, owner, "Agents", "register")
        self.token = await call(self.rpc, self.chain.contracts["Agents"], "Agents", "count")
        self.agent = agent_id(self.chain.chain_id, self.chain.contracts["Agents"], self.token)
        made = await Sender(self.rpc, user, self.chain.chain_id).send(None, hooks.creation(hooks.CONSUMER))
        assert made.contract is not None
        self.consumer = made.contract
        await send(self.chain, self.rpc, user, "Anchor", "adopt")
        return self

    async def state(self) -> AgentState:
        state = AgentState(self.fabric.state, keys(), self.agent.hex(), os.urandom)
        await state.load([Answer(member(i), 0, bytes(32)) for i in range(3)], 3)
        return state

    async def seat(self, name: str, agent: Agent = bytes, *, lie: str = "", vendor: bytes = b"\1" * 32) -> Seat:
        key = self.chain.fund(test_key(f"desk {name} {self.token}"))
        worker = address_of(key)
        self.seats = tuple(dict.fromkeys((*self.seats, worker)))
        rpc = Rpc(lie or self.chain.url)
        self.rpcs.append(rpc)
        state = await self.state()
        runner = Runner(state, agent, worker)
        place = Place(self.chain.network, self.chain.chain_id, self.chain.contracts["Anchor"], worker, worker)
        anchor = AnchorChain(rpc, place.anchor, Sender(rpc, key, self.chain.chain_id, timeout=20))
        desk = AnchorDesk(anchor, place, Outbox(state), runner, self, lambda d: sign_digest(key, d))
        return Seat(self, name, desk, runner, key, vendor)

    async def anchor_lease(self, lease: AnchorLease, signature: bytes) -> Signed:
        self.asked_leases += 1
        if self.refuse_lease is not None:
            raise self.refuse_lease
        return Signed(lease, tuple(self.chain.sign(lease)))

    async def now(self, later: int = 0, *, vendor_class: bytes = b"\1" * 32, **changes: Any) -> Turn:
        """What a turn is based on: the newest block plays the newest checkpoint."""
        at = await self.chain.checkpoint(self.rpc)
        state = ProvenState(changes.pop("rpc", self.rpc), self.chain.contracts, at, code_hashes=self.chain.code_hashes)
        at = replace(at, timestamp=at.timestamp + later)
        return replace(Turn(self.agent, 1, CODE, 1, vendor_class, at, state, self.seats), **changes)

    async def ask(self, payload: bytes = b"price?", *, copies: int = 1, flags: int = 0, wait: int = HOUR) -> int:
        """The consumer asks; returns the request's index."""
        choice = (self.agent, bytes(32), 100_000, int(time.time()) + wait, copies, flags)
        data = self.chain.contracts["Anchor"] + encode("Anchor", "request", choice, payload)
        user = Sender(self.rpc, self.chain.keys[4], self.chain.chain_id)
        receipt = await user.send(self.consumer, data, value=10**15)
        return int(decode_event("Anchor", receipt.logs[0])[1]["index"])

    async def word(self, slot: int) -> int:
        """A word of the consumer: 0 counts callbacks, 2 is the last reply."""
        return quantity_of(await self.rpc.call("eth_getStorageAt", to_hex(self.consumer), hex(slot), "latest"))

    async def callbacks(self) -> int:
        return await self.word(0)

    async def fail_callbacks(self, fail: bool) -> None:
        user = Sender(self.rpc, self.chain.keys[4], self.chain.chain_id)
        await user.send(self.consumer, int(fail).to_bytes(32, "big"))


def quantity_of(word: Any) -> int:
    return int(word, 16)


@pytest_asyncio.fixture
async def world(chain: TestChain, tmp_path: Path) -> AsyncIterator[World]:
    async with Rpc(chain.url) as rpc:
        fabric = await open_fabric(tmp_path / "fabric")
        made = await World(chain, rpc, fabric).open()
        yield made
        for one in made.rpcs:
            await one.close()
        await fabric.close()


def answer(payload: bytes) -> bytes:
    """The agent: the hash of what it was asked."""
    return keccak256(payload)


async def turns(seats: Iterable[Seat], count: int, later: int = 0) -> None:
    for _ in range(count):
        for seat in seats:
            await seat.turn(later)


async def test_a_contract_gets_exactly_one_callback_with_the_agents_reply(world: World) -> None:
    seat = await world.seat("a", answer)
    await world.ask(b"price?")
    await turns([seat], 3)
    assert await world.callbacks() == 1
    assert await world.word(2) == int.from_bytes(keccak256(b"price?"), "big")
    assert seat.runner.ran == [b"price?"]
    assert await Outbox(await world.state()).entries() == [], "what a checkpoint shows closed is forgotten"
    assert world.asked_leases == 1, "one lease for many turns"


async def test_requests_before_and_after_are_answered_in_turn(world: World) -> None:
    seat = await world.seat("a", answer)
    for i in range(3):
        await world.ask(b"%d" % i)
    await turns([seat], 2)
    for i in range(3, 5):
        await world.ask(b"%d" % i)
    await turns([seat], 2)
    assert await world.callbacks() == 5
    assert seat.runner.ran == [b"0", b"1", b"2", b"3", b"4"]


@pytest.mark.parametrize("die", ["before commit", "after commit"])
async def test_a_worker_killed_while_it_answers_ends_in_one_callback_and_one_effect(world: World, die: str) -> None:
    seat = await world.seat("a", answer)
    await world.ask()
    seat.runner.die = die
    with pytest.raises(Killed):
        await seat.turn()
    again = await world.seat("a", answer)  # the same worker over the same store
    await turns([again], 2)
    assert await world.callbacks() == 1
    committed = len(seat.runner.ran) + len(again.runner.ran)
    assert committed == (2 if die == "before commit" else 1), "what did not commit is run again, and only that"


async def test_a_worker_killed_after_it_sent_the_answer_ends_in_one_callback(world: World) -> None:
    seat = await world.seat("a", answer)
    await world.ask()
    await seat.turn()
    again = await world.seat("a", answer)
    await turns([again], 2)
    assert await world.callbacks() == 1
    assert again.runner.ran == []


async def test_another_seat_brings_the_answer_of_one_that_died(world: World) -> None:
    first, second = await world.seat("a", answer), await world.seat("b", answer)
    index = await world.ask()
    dying, heir = (first, second) if index % 2 == 0 else (second, first)
    dying.runner.die = "after commit"
    with pytest.raises(Killed):
        await dying.turn()
    await heir.turn()
    assert await world.callbacks() == 0, "whose turn it is gets its time"
    await heir.turn(4 * PATIENCE_S)
    await heir.turn(4 * PATIENCE_S)
    assert await world.callbacks() == 1
    assert heir.runner.ran == [], "the agent ran once: what it wrote stands"


async def test_a_seat_that_never_came_is_replaced_by_the_next_in_line(world: World) -> None:
    first, second = await world.seat("a", answer), await world.seat("b", answer)
    index = await world.ask()
    heir = second if index % 2 == 0 else first
    await heir.turn()
    assert heir.runner.ran == []
    await heir.turn(2 * PATIENCE_S)
    assert await world.callbacks() == 1


async def test_a_callback_that_reverts_is_paid_and_never_repeated(world: World) -> None:
    seat = await world.seat("a", answer)
    await world.fail_callbacks(True)
    await world.ask()
    await turns([seat], 2)
    await world.fail_callbacks(False)
    await turns([seat], 2)
    assert await world.callbacks() == 0
    credit = await call(world.rpc, world.chain.contracts["Anchor"], "Anchor", "credits", address_of(seat.key))
    assert credit == 10**15


async def test_an_answer_that_a_reorganisation_swallowed_is_brought_again(world: World) -> None:
    seat = await world.seat("a", answer)
    await world.ask()
    # An answer is final two blocks later: until a checkpoint shows the request closed it stays in the outbox.
    before = await world.now(vendor_class=seat.vendor)
    await seat.desk.turn(before)
    assert await world.callbacks() == 1
    height = quantity(await world.rpc.call("eth_blockNumber"), "height")
    await world.rpc.call("anvil_reorg", 2, [])
    if await world.callbacks() == 1 and height:
        pytest.fail("the reorganisation did not reach the answer")
    await asyncio.sleep(0.5)
    for _ in range(4):
        try:
            await seat.turn()
        except CloisterError:
            continue
        if await world.callbacks() == 1:
            break
    assert await world.callbacks() == 1
    assert seat.runner.ran == [b"price?"], "the agent is not run again"


async def test_three_copies_by_two_vendors_make_one_callback(world: World) -> None:
    seats = [await world.seat("a", answer), await world.seat("b", answer, vendor=b"\2" * 32)]
    seats.append(await world.seat("c", answer))
    await world.ask(copies=3)
    await turns(seats, 3)
    assert await world.callbacks() == 1
    assert [len(s.runner.ran) for s in seats] == [1, 1, 1]


async def test_copies_of_one_vendor_alone_are_not_brought(world: World) -> None:
    seats = [await world.seat("a", answer), await world.seat("b", answer)]
    await world.ask(copies=2)
    await turns(seats, 3)
    assert await world.callbacks() == 0


async def test_copies_that_differ_are_not_brought(world: World) -> None:
    seats = [await world.seat("a", answer), await world.seat("b", bytes, vendor=b"\2" * 32)]
    await world.ask(copies=2)
    await turns(seats, 3)
    assert await world.callbacks() == 0


async def test_a_request_past_its_deadline_is_forgotten_and_refunded_by_anybody(world: World) -> None:
    def broken(payload: bytes) -> bytes:
        raise RuntimeError("not called")

    seat = await world.seat("a", broken)
    await world.ask(wait=3600)
    await seat.turn(2 * HOUR)
    assert seat.runner.ran == []
    assert await Outbox(await world.state()).entries() == []


async def test_code_that_the_request_did_not_pin_stays_silent(world: World) -> None:
    seat = await world.seat("a", answer)
    choice = (world.agent, b"\xee" * 32, 100_000, int(time.time()) + HOUR, 1, 0)
    await send(world.chain, world.rpc, world.chain.keys[4], "Anchor", "request", choice, b"q")
    await turns([seat], 2)
    assert seat.runner.ran == []


async def test_a_lease_that_the_committee_refuses_leaves_the_agent_unrun(world: World) -> None:
    from cloister.core.policy.refusals import PAUSED

    seat = await world.seat("a", answer)
    world.refuse_lease = PAUSED(expected="a running agent", found="paused")
    await world.ask()
    await refused(seat.turn(), "policy.paused")
    assert seat.runner.ran == []


async def test_a_failing_agent_is_tried_again_and_holds_up_nobody_else(world: World) -> None:
    from cloister.worker.anchor import BAD_REPLY

    def picky(payload: bytes) -> bytes:
        if payload == b"bad":
            raise BAD_REPLY(expected="status 200", found="status 500")
        return answer(payload)

    seat = await world.seat("a", picky)
    await world.ask(b"bad")
    await world.ask(b"good")
    await refused(seat.turn(), "anchor.bad_reply")
    assert await world.callbacks() == 1
    for _ in range(3):
        try:
            await seat.turn()
        except CloisterError as error:
            found = error.code
    assert found == "anchor.bad_reply"
    assert seat.runner.ran.count(b"bad") == 2, "after two turns of rest"


# --- many at once ---


async def flood(world: World, count: int, size: int = 40, wait: int = HOUR) -> None:
    """The consumer asks that often, in as few blocks as take it."""
    user = Sender(world.rpc, world.chain.keys[4], world.chain.chain_id)
    choice = (world.agent, bytes(32), 100_000, int(time.time()) + wait, 1, 0)
    sent = []
    for i in range(count):
        data = encode("Anchor", "request", choice, (b"%d " % i).ljust(size, b"."))
        sent.append(await user.submit(world.consumer, world.chain.contracts["Anchor"] + data, 10**9, gas=600_000))
    await asyncio.gather(*(user.wait(one) for one in sent))


async def until_done(seat: Seat, most: int) -> int:
    """Turns until none is open; returns how many."""
    for turn in range(1, most):
        if not await seat.desk.turn(await seat.world.now(vendor_class=seat.vendor)):
            return turn
        seat.runner.state.endorsed(1 << 40)  # as the committee does meanwhile
        held = await Outbox(seat.runner.state).count()
        assert held <= MAX_OPEN
    raise AssertionError(f"not done after {most} turns")


async def test_answers_of_one_turn_share_transactions(world: World) -> None:
    seat = await world.seat("a", answer)
    await flood(world, 20)
    await until_done(seat, 8)
    assert await world.callbacks() == 20
    assert len(seat.runner.ran) == 20
    sent = quantity(await world.rpc.call("eth_getTransactionCount", to_hex(address_of(seat.key)), "latest"), "nonce")
    assert sent < 20, "a lease, and fewer transactions than answers"


async def test_requests_beyond_what_is_held_wait_on_the_chain(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    from cloister.worker import anchor, anchor_outbox

    monkeypatch.setattr(anchor, "MAX_OPEN", 5)
    monkeypatch.setattr(anchor_outbox, "MAX_OPEN", 5)
    monkeypatch.setattr("cloister.chain.anchor.PIECE", 8)
    seat = await world.seat("a", answer)
    for _ in range(2):
        await flood(world, 6)
    first = await world.now(vendor_class=seat.vendor)
    assert await seat.desk.turn(first), "more wait"
    assert len(seat.runner.ran) == 5
    await until_done(seat, 12)
    assert await world.callbacks() == 12
    assert len(seat.runner.ran) == 12


async def test_requests_that_are_late_take_no_room(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    from cloister.worker import anchor, anchor_outbox

    monkeypatch.setattr(anchor, "MAX_OPEN", 2)
    monkeypatch.setattr(anchor_outbox, "MAX_OPEN", 2)
    seat = await world.seat("a", answer)
    await flood(world, 6)
    await seat.turn(2 * HOUR)
    assert seat.runner.ran == []
    assert (await Outbox(await world.state()).cursor()).queue.count == 6
    await world.ask(b"7", wait=4 * HOUR)
    await seat.turn(2 * HOUR)
    assert seat.runner.ran == [b"7"]


@pytest.mark.long
async def test_five_hundred_at_once_are_each_answered_once_in_bounded_memory(world: World) -> None:
    seat = await world.seat("a", lambda payload: keccak256(payload) + payload[:900])
    await flood(world, 500, size=8_000)
    tracemalloc.start()
    turns_taken = await until_done(seat, 40)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert await world.callbacks() == 500
    assert len(seat.runner.ran) == len(set(seat.runner.ran)) == 500
    logs = await answered_logs(world)
    assert sorted(log["index"] for log in logs) == list(range(1, 501))
    assert all(log["callbackOk"] for log in logs)
    assert turns_taken <= 12
    assert peak < 96 << 20, f"{peak >> 20} MiB"


async def answered_logs(world: World) -> list[dict[str, Any]]:
    """Every Answered log of the agent."""
    wanted = {
        "address": to_hex(world.chain.contracts["Anchor"]),
        "topics": [to_hex(topic("Anchor", "Answered")), to_hex(world.agent)],
        "fromBlock": "0x0",
    }
    return [decode_event("Anchor", log)[1] for log in await world.rpc.call("eth_getLogs", wanted)]


# --- an endpoint that lies ---


def _withheld(method: str, params: list[Any], honest: Any) -> Any:
    return honest[:-1] if method == "eth_getLogs" else honest


def _added(method: str, params: list[Any], honest: Any) -> Any:
    return [*honest, *honest[-1:]] if method == "eth_getLogs" else honest


def _reordered(method: str, params: list[Any], honest: Any) -> Any:
    if method == "eth_getLogs":
        first, second = dict(honest[0]), dict(honest[1])
        first["topics"], second["topics"] = second["topics"], first["topics"]
        return [first, second]
    return honest


def _other_payload(method: str, params: list[Any], honest: Any) -> Any:
    if method == "eth_getLogs":
        changed = honest[0]["data"].replace(b"one".hex(), b"two".hex())
        return [{**honest[0], "data": changed}, *honest[1:]]
    return honest


def _garbage(method: str, params: list[Any], honest: Any) -> Any:
    return {"no": "list"} if method == "eth_getLogs" else honest


LIES: dict[str, Lie] = {
    "a request withheld": _withheld,
    "a request told twice": _added,
    "two requests exchanged": _reordered,
    "another payload": _other_payload,
    "no list": _garbage,
}


@pytest.mark.parametrize("sentence", LIES)
async def test_requests_that_an_endpoint_lies_about_are_not_served(world: World, sentence: str) -> None:
    await world.ask(b"one")
    await world.ask(b"two")
    async with liar(world.chain.url, LIES[sentence]) as url:
        seat = await world.seat("a", answer, lie=url)
        with pytest.raises(CloisterError) as error:
            await seat.turn()
    assert error.value.code in ("chainview.requests_withheld", "chain.bad_answer"), sentence
    assert seat.runner.ran == []


# --- sealed requests ---


def test_a_sealed_payload_opens_for_its_requester_and_flags_only() -> None:
    from cloister.core.encoding.identity import Purpose
    from cloister.core.keys import anchored
    from cloister.core.threshold.groups import hash_identity, to_bytes
    from cloister.core.threshold.ibe import DerivedKey
    from support.fake_world import MPK, ROOT
    from support.state_kit import VERSION

    period, requester, reply_key = 7, b"\x22" * 20, X25519PrivateKey.generate()
    derived = DerivedKey(to_bytes(hash_identity(bytes(VERSION.key(Purpose.CALL, period))) * ROOT))
    message = anchored.Message(b"secret question", reply_key.public_key().public_bytes_raw())
    payload = anchored.seal_payload(MPK, VERSION, period, requester, 3, message, os.urandom)

    def opened(who: bytes, flags: int, data: bytes) -> anchored.Message:
        return anchored.open_payload(lambda p: derived if p == period else None, MPK, VERSION, who, flags, data)

    assert opened(requester, 3, payload) == message
    reply = anchored.seal_reply(message, b"\x01" * 32, b"the answer", os.urandom)
    assert anchored.open_reply(reply_key, b"\x01" * 32, reply) == b"the answer"
    wrong: list[tuple[bytes, int, bytes]] = [
        (b"\x23" * 20, 3, payload),
        (requester, 1, payload),
        (requester, 3, (8).to_bytes(8, "big") + payload[8:]),
        (requester, 3, payload[:-1]),
        (requester, 3, b""),
    ]
    wrong += [
        (requester, 3, payload[:i] + bytes([payload[i] ^ 1]) + payload[i + 1 :]) for i in range(0, len(payload), 7)
    ]
    for who, flags, data in wrong:
        with pytest.raises(CloisterError):
            opened(who, flags, data)
    with pytest.raises(CloisterError):
        anchored.open_reply(reply_key, b"\x02" * 32, reply)


def test_plain_messages_and_their_reply_keys() -> None:
    from cloister.core.keys import anchored
    from support.fake_world import MPK
    from support.state_kit import VERSION

    plain = anchored.seal_payload(MPK, VERSION, 0, bytes(20), 0, anchored.Message(b"open"), os.urandom)
    assert plain == b"open"
    assert anchored.open_payload(lambda p: None, MPK, VERSION, bytes(20), 0, plain).body == b"open"
    with pytest.raises(CloisterError):
        anchored.open_payload(lambda p: None, MPK, VERSION, bytes(20), 2, b"short")
    with pytest.raises(CloisterError):
        anchored.seal_payload(MPK, VERSION, 0, bytes(20), 2, anchored.Message(b"x"), os.urandom)
    assert anchored.seal_reply(anchored.Message(b""), b"\1" * 32, b"public", os.urandom) == b"public"
