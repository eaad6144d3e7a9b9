"""Agents act by their contract accounts on a real chain: each call at most once, and its end told when it is proven."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from coincurve import PrivateKey

from cloister.chain.contracts import call, encode
from cloister.chain.proven import ProvenState
from cloister.chain.proven_calls import ProvenCalls
from cloister.chain.rpc import Rpc
from cloister.chain.tx import Sender
from cloister.core.chainview.records import AgentRecord, agent_id
from cloister.core.encoding.hexes import from_hex, to_hex
from cloister.core.encoding.signatures import Signed, address_of
from cloister.core.encoding.statements import SetSigner
from cloister.core.encoding.typed_data import account_call_digest
from cloister.core.errors import CloisterError
from cloister.core.policy.manifest import KeyRules
from cloister.core.policy.refusals import PAUSED
from cloister.core.state.endorse import Answer
from cloister.fabric.embedded import open_fabric
from cloister.fabric.ports import Fabric
from cloister.worker.account import (
    ENDED,
    PATIENCE_S,
    RETRY_S,
    AccountCall,
    AccountDesk,
    AccountTurn,
    ended,
    waiting,
)
from cloister.worker.account_calls import AccountCalls
from cloister.worker.chain_calls import NO_CHAIN
from cloister.worker.chains import ChainView
from cloister.worker.host import Origin
from cloister.worker.scope import RequestScope
from cloister.worker.state import AgentState
from support.anvil import TestChain, send, test_key
from support.state_kit import keys, member
from support.worker_kit import refused

SIGNER = test_key("agent's own key")
RULES = KeyRules(messages=False, typed_data=(), raw=False, calls=True)
COIN = 10**15
SHOP = bytes.fromhex("0a" * 20)


@dataclass
class Desk:
    """One worker's desk for the agent; a new one over the same store is that worker, started again."""

    world: World
    desk: AccountDesk
    worker: bytes

    async def turn(self, later: int = 0, key: PrivateKey = SIGNER) -> bool:
        """One turn at the newest block; ``later``: seconds that the checkpoint's clock is ahead."""
        return await self.desk.turn(await self.world.now(later), key)

    async def settle(self, later: int = 0) -> None:
        """Turns until nothing waits."""
        for _ in range(8):
            if not await self.turn(later):
                return
            await asyncio.sleep(0.25)
        raise AssertionError("something still waits")


@dataclass
class World:
    """An agent with its account, and a committee that signs for whoever holds a lease."""

    chain: TestChain
    rpc: Rpc
    fabric: Fabric
    agent: bytes = b""
    token: int = 0
    seats: tuple[bytes, ...] = ()
    asked: list[SetSigner] = field(default_factory=list)
    refuse: CloisterError | None = None

    async def open(self) -> World:
        await send(self.chain, self.rpc, self.chain.keys[3], "Agents", "register")
        self.token = await call(self.rpc, self.chain.contracts["Agents"], "Agents", "count")
        self.agent = agent_id(self.chain.chain_id, self.chain.contracts["Agents"], self.token)
        return self

    async def state(self) -> AgentState:
        state = AgentState(self.fabric.state, keys(), self.agent.hex(), os.urandom)
        await state.load([Answer(member(i), 0, bytes(32)) for i in range(3)], 3)
        return state

    async def desk(self, name: str = "a") -> Desk:
        key = self.chain.fund(test_key(f"account desk {name} {self.token}"))
        worker = address_of(key)
        self.seats = tuple(dict.fromkeys((*self.seats, worker)))
        sender = Sender(self.rpc, key, self.chain.chain_id, timeout=20)
        registry = self.chain.contracts["Agents"]
        return Desk(self, AccountDesk(worker, self.chain.chain_id, registry, await self.state(), sender, self), worker)

    async def account_signer(self, asked: SetSigner) -> Signed:
        self.asked.append(asked)
        if self.refuse is not None:
            raise self.refuse
        return Signed(asked, tuple(self.chain.sign(asked)))

    async def now(self, later: int = 0) -> AccountTurn:
        at = await self.chain.checkpoint(self.rpc)
        state = ProvenState(self.rpc, self.chain.contracts, at, code_hashes=self.chain.code_hashes)
        record = await state.agent(self.agent)
        assert record is not None
        calls = ProvenCalls(self.rpc, at)
        calls.checkpoint = replace(at, timestamp=at.timestamp + later)
        return AccountTurn(record, 1, self.seats, calls)

    async def record(self) -> AgentRecord:
        return (await self.now()).record

    async def owner(self, function: str, *args: object) -> None:
        """The owner's settings of the account."""
        owner = Sender(self.rpc, self.chain.keys[3], self.chain.chain_id)
        await owner.send((await self.record()).account, encode("AgentAccount", function, *args))

    async def allow_payments(self, cap: int = 10 * COIN) -> None:
        account = (await self.record()).account
        self.chain.give(account)
        await self.owner("setAllowed", SHOP, bytes(4), True)
        await self.owner("setCap", bytes(20), cap)

    async def paid(self) -> int:
        return int(await self.rpc.call("eth_getBalance", to_hex(SHOP), "latest"), 16)

    async def want(self, *, commit: bool = True, state: AgentState | None = None, **changes: object) -> str:
        """What agent code asks for in one request: the nonce. Without ``commit`` the request fails."""
        store, name = state or await self.state(), os.urandom(16).hex()
        scope = RequestScope(store, await store.begin(name), name)
        at = (await self.now()).calls.checkpoint.timestamp
        args = {"to": to_hex(SHOP), "value": str(COIN), "data": "0x", "key": None, "within_s": 600, **changes}
        nonce = str(await calls_of(self.agent, at).calls()["keys.send"](Origin(state=scope), args))
        if commit:
            await scope.commit_head()
        scope.close()
        return nonce

    async def told(self, nonce: str) -> tuple[str, str | None]:
        """What agent code hears of a call."""
        store = await self.state()
        scope = RequestScope(store, await store.begin("told" + os.urandom(8).hex()), "told")
        found = await calls_of(self.agent, 0).calls()["keys.sent"](Origin(state=scope), {"nonce": nonce})
        return found["state"], found["reason"]


def calls_of(agent: bytes, now: int, rules: KeyRules | None = RULES) -> AccountCalls:
    """What the agent's code may ask for."""

    async def given() -> KeyRules | None:
        return rules

    async def named(args: Mapping[str, Any]) -> ChainView:
        raise NO_CHAIN(expected="a chain that the agent may use here", found=str(args["chain"]))

    return AccountCalls(agent, given, lambda: now, os.urandom, named)


@pytest_asyncio.fixture
async def world(chain: TestChain, tmp_path: Path) -> AsyncIterator[World]:
    async with Rpc(chain.url) as rpc:
        fabric = await open_fabric(tmp_path / "fabric")
        yield await World(chain, rpc, fabric).open()
        await fabric.close()


async def test_the_account_is_made_and_its_signer_set_once(world: World) -> None:
    desk = await world.desk()
    await desk.settle(later=2 * PATIENCE_S)
    account = (await world.record()).account
    assert await call(world.rpc, account, "AgentAccount", "signer") == address_of(SIGNER)
    assert world.asked == [SetSigner(1, world.agent, 1, address_of(SIGNER))]
    await desk.turn()
    assert len(world.asked) == 1, "a checkpoint shows it: nobody is asked again"


async def test_a_wanted_call_is_made_once_and_told_when_it_is_proven(world: World) -> None:
    desk, before = await world.desk(), await world.paid()
    await desk.settle(later=2 * PATIENCE_S)
    await world.allow_payments()
    nonce = await world.want()
    assert await world.told(nonce) == ("waiting", None)
    await desk.settle()
    assert await world.paid() - before == COIN
    assert await world.told(nonce) == ("made", None)
    assert await (await world.state()).peek(AccountCall(from_hex(nonce), b"", 0, b"", 0, 0).name) is None


async def test_a_chain_that_the_agent_may_not_use_is_refused_before_anything_is_queued(world: World) -> None:
    await refused(world.want(chain=5), "worker.no_chain")
    tx = await (await world.state()).begin("nothing-waits")
    assert await tx.list(waiting(5), limit=4) == []


@pytest.mark.long
async def test_a_request_that_fails_wants_nothing(world: World) -> None:
    desk = await world.desk()
    nonce = await world.want(commit=False)
    await desk.settle(later=2 * PATIENCE_S)
    assert await world.told(nonce) == ("unknown", None)


async def test_calls_of_one_key_are_one_call(world: World) -> None:
    desk, before = await world.desk(), await world.paid()
    await desk.settle(later=2 * PATIENCE_S)
    await world.allow_payments()
    first = await world.want(key="invoice 7")
    assert await world.want(key="invoice 7", value=str(5 * COIN)) == first
    await desk.settle()
    assert await world.want(key="invoice 7") == first, "also after it was made"
    await desk.settle()
    assert await world.paid() - before == COIN
    assert await world.told(first) == ("made", None)


async def test_a_worker_killed_after_it_sent_ends_in_one_call(world: World) -> None:
    desk, before = await world.desk(), await world.paid()
    await desk.settle(later=2 * PATIENCE_S)
    await world.allow_payments()
    nonce = await world.want()
    await desk.turn()
    again = await world.desk()  # the same worker over the same store
    await again.settle()
    assert await world.paid() - before == COIN
    assert await world.told(nonce) == ("made", None)


@pytest.mark.long
async def test_two_seats_bring_it_once(world: World) -> None:
    one, two = await world.desk("a"), await world.desk("b")
    before = await world.paid()
    for _ in range(3):
        await asyncio.gather(one.turn(3 * PATIENCE_S), two.turn(3 * PATIENCE_S), return_exceptions=True)
        await asyncio.sleep(0.3)
    await world.allow_payments()
    nonce = await world.want()
    for _ in range(4):
        for desk in (one, two):
            await desk.turn(3 * PATIENCE_S)
    assert await world.paid() - before == COIN
    assert await world.told(nonce) == ("made", None)


@pytest.mark.long
async def test_whose_turn_it_is_not_waits(world: World) -> None:
    one, two = await world.desk("a"), await world.desk("b")
    await one.turn()
    await two.turn()
    await asyncio.sleep(0.3)
    acted = len(await world.rpc.call("eth_getLogs", {"address": to_hex((await world.record()).account)}))
    assert acted == 0
    assert len(world.asked) == 0, "one seat makes the account first; the other waits for its time"


async def test_a_call_over_the_cap_is_never_made_and_expires_with_the_reason(world: World) -> None:
    """A broken worker cannot exceed it: the account says no."""
    desk, before = await world.desk(), await world.paid()
    await desk.settle(later=2 * PATIENCE_S)
    await world.allow_payments(cap=COIN // 2)
    nonce = await world.want()
    await desk.turn()
    await desk.turn(RETRY_S + 1)
    assert await world.told(nonce) == ("waiting", None)
    await desk.turn(601 + RETRY_S)
    state, reason = await world.told(nonce)
    assert state == "expired"
    assert reason is not None
    assert reason.startswith("CapExceeded")
    assert await world.paid() == before


@pytest.mark.long
async def test_what_the_owner_allows_later_is_made_then(world: World) -> None:
    desk, before = await world.desk(), await world.paid()
    await desk.settle(later=2 * PATIENCE_S)
    nonce = await world.want()
    await desk.turn()
    await world.allow_payments()
    await desk.turn()
    assert await world.paid() == before, "a refused call is not asked of the chain at every block"
    await desk.turn(RETRY_S + 1)
    await desk.settle(RETRY_S + 2)
    assert desk.desk.refusals == {}, "nothing is kept of a call that ended"
    assert await world.paid() - before == COIN
    assert await world.told(nonce) == ("made", None)


@pytest.mark.long
async def test_past_its_deadline_nobody_makes_it(world: World) -> None:
    desk, before = await world.desk(), await world.paid()
    await desk.settle(later=2 * PATIENCE_S)
    await world.allow_payments()
    nonce = await world.want(within_s=30)
    await desk.turn(31)
    assert await world.told(nonce) == ("expired", None)
    await desk.settle()
    assert await world.paid() == before


@pytest.mark.long
async def test_a_call_swallowed_by_a_reorganisation_is_brought_again(world: World) -> None:
    desk, before = await world.desk(), await world.paid()
    await desk.settle(later=2 * PATIENCE_S)
    await world.allow_payments()
    nonce = await world.want()
    await desk.turn()
    assert await world.paid() - before == COIN
    await world.rpc.call("anvil_reorg", 2, [])
    if await world.paid() != before:
        pytest.fail("the reorganisation did not reach the call")
    for turn in range(8):
        await asyncio.sleep(0.3)
        try:
            await desk.turn((turn + 1) * (RETRY_S + 1))
        except CloisterError:
            continue
        if await world.told(nonce) == ("made", None):
            break
    assert await world.paid() - before == COIN
    assert await world.told(nonce) == ("made", None)


@pytest.mark.long
async def test_a_new_epoch_has_a_new_signer_and_the_old_key_acts_no_more(world: World) -> None:
    desk, before = await world.desk(), await world.paid()
    await desk.settle(later=2 * PATIENCE_S)
    await world.allow_payments()
    await send(world.chain, world.rpc, world.chain.keys[3], "Agents", "bumpEpoch", world.token)
    nonce = await world.want()
    newer = test_key("agent's key of epoch 2")
    for turn in range(8):
        await asyncio.sleep(0.3)
        if not await desk.turn(turn * (PATIENCE_S + 1), newer):
            break
    assert [one.agent_epoch for one in world.asked] == [1, 2]
    assert await call(world.rpc, (await world.record()).account, "AgentAccount", "signer") == address_of(newer)
    assert (await world.told(nonce))[0] == "made"
    assert await world.paid() - before == COIN


@pytest.mark.long
async def test_a_committee_that_refuses_is_the_reason(world: World) -> None:
    desk = await world.desk()
    await desk.turn(PATIENCE_S)
    await asyncio.sleep(0.5)
    world.refuse = PAUSED(expected="a running agent", found="paused")
    with pytest.raises(CloisterError) as error:
        await desk.turn(3 * PATIENCE_S)
    assert error.value.code == "policy.paused"


# --- what agent code may ask for ---

BAD = {
    "another address": {"to": "0x12"},
    "no address": {"to": None},
    "a number instead of text": {"value": 5},
    "less than nothing": {"value": "-1"},
    "more than a word holds": {"value": str(1 << 256)},
    "other digits": {"value": "\u0665"},
    "data that is no hex": {"data": "text"},
    "too much data": {"data": "0x" + "00" * (16 * 1024 + 1)},
    "too little time": {"within_s": 29},
    "too much time": {"within_s": 3601},
    "true as a time": {"within_s": True},
    "an empty key": {"key": ""},
    "a long key": {"key": "k" * 257},
    "a key that is no text": {"key": 7},
}


@pytest.mark.parametrize("why", BAD)
async def test_arguments_are_checked(why: str) -> None:
    args = {"to": to_hex(SHOP), "value": "1", "data": "0x", "key": None, "within_s": 600, **BAD[why]}
    await refused(calls_of(bytes(32), 1).calls()["keys.send"](Origin(), args), "sandbox.argument")


DENIED = {
    "no keys": None,
    "keys without calls": replace(RULES, calls=False),
    "raw keys": replace(RULES, raw=True),
}


@pytest.mark.parametrize("why", DENIED)
async def test_the_manifest_must_allow_it(why: str) -> None:
    calls = calls_of(bytes(32), 1, DENIED[why]).calls()
    asking = calls["keys.send"](Origin(), {"to": to_hex(SHOP), "value": "1", "data": "0x"})
    await refused(asking, "worker.keys_denied")


async def test_what_is_signed_is_what_the_account_computes(world: World) -> None:
    desk = await world.desk()
    await desk.settle(later=2 * PATIENCE_S)
    account = (await world.record()).account
    said = (SHOP, 7, b"\x01\x02\x03", 1 << 255, 1 << 40)
    theirs = await call(world.rpc, account, "AgentAccount", "callDigest", *said)
    assert account_call_digest(world.chain.chain_id, account, *said) == theirs


async def test_no_end_is_known_before_there_is_one() -> None:
    assert ended(None, bytes(32)) is None
    assert ENDED.startswith("\0"), "agent code cannot write it"
