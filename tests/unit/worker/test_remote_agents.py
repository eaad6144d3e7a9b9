"""Agents on a connected chain, over real contracts: the chain is told of them first, and their account there acts."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import pytest_asyncio

from cloister.chain.contracts import call, encode
from cloister.chain.people import people_of
from cloister.chain.rpc import Rpc
from cloister.chain.tx import Sender
from cloister.core.encoding.contract_statements import NOBODY, REMOTE_SECONDS, People
from cloister.core.encoding.hexes import from_hex, to_hex
from cloister.core.encoding.signatures import address_of
from cloister.core.errors import CloisterError
from cloister.core.policy.manifest import KeyRules
from cloister.core.state.endorse import Answer
from cloister.fabric.embedded import open_fabric
from cloister.worker.account import AccountCall, AccountDesk, AccountTurn, waiting
from cloister.worker.account_calls import AccountCalls
from cloister.worker.chains import ChainView
from cloister.worker.host import Origin
from cloister.worker.remote import RENEW_S, RETRY_S, Teller
from cloister.worker.scope import RequestScope
from cloister.worker.state import AgentState
from support.anvil import TestChain, test_key
from support.remote_town import OWNER, There
from support.state_kit import keys, member

SIGNER = test_key("agent's own key elsewhere")
COIN = 10**15
SHOP = bytes.fromhex("0b" * 20)
RULES = KeyRules(messages=False, typed_data=(), raw=False, calls=True)


@pytest_asyncio.fixture
async def there(chain: TestChain) -> AsyncIterator[There]:
    async with Rpc(chain.url) as rpc:
        key = chain.fund(test_key("worker that serves elsewhere"))
        yield await There(chain, rpc, Sender(rpc, key, chain.chain_id, timeout=20)).open()


async def refusal(teller: Teller, epoch: int = 1) -> str:
    with pytest.raises(CloisterError) as caught:
        await teller.told(epoch, 1)
    return caught.value.code


async def test_a_chain_is_told_once_and_again_before_the_facts_end(there: There) -> None:
    teller = there.teller()
    await teller.told(1, 1)
    await teller.told(1, 1)
    assert len(there.asked) == 1, "what was just told is known"
    await there.look()
    known = await there.registry().known(there.agent)
    assert (known.epoch, known.stopped, known.height) == (1, False, there.asked[0].height)
    assert there.asked[0].owner == address_of(OWNER)
    again = there.teller()
    await again.told(1, 1)
    assert len(there.asked) == 1, "nor asks a worker that starts anew"
    there.later = REMOTE_SECONDS - RENEW_S
    await there.look()
    await again.told(1, 1)
    assert len(there.asked) == 2


async def test_nobody_tells_of_an_agent_that_is_paused_at_home(there: There) -> None:
    teller = there.teller()
    await teller.told(1, 1)
    there.paused = True
    assert await refusal(teller) == "policy.paused"
    assert len(there.asked) == 1


async def test_an_agent_that_its_owner_stopped_there_is_left_alone(there: There) -> None:
    teller = there.teller()
    await teller.told(1, 1)
    await there.owner(there.remote, "RemoteAgents", "stop", there.agent)
    await asyncio.sleep(0.3)
    await there.look()
    assert await refusal(teller) == "worker.stopped_there"


async def test_a_chain_that_refuses_is_not_asked_all_the_time(there: There) -> None:
    teller = there.teller()
    with pytest.raises(CloisterError) as caught:
        await teller.told(1, 2)  # a term that the Anchor there was not told of yet
    assert "WrongTerm" in str(caught.value)
    assert await refusal(teller) == "worker.not_told"
    there.later = RETRY_S
    await there.look()
    await teller.told(1, 1)


async def test_what_a_worker_cannot_pay_for_waits_for_somebody_who_can(there: There) -> None:
    poor = Sender(there.rpc, test_key("without a coin anywhere"), there.chain.chain_id, timeout=5)
    rich, there.sender = there.sender, poor
    teller = there.teller()
    assert await refusal(teller) == "chain.no_funds"
    assert teller.waiting is not None
    await teller.told(1, 1)  # the answer goes on: whoever brings it brings this
    told = teller.waiting
    await rich.send(there.remote, encode("RemoteAgents", "tell", told.statement, list(told.signatures)))
    await asyncio.sleep(0.3)
    await there.look()
    await teller.told(1, 1)
    assert teller.waiting is None


async def test_an_anchor_without_a_registry_asks_nothing(chain: TestChain) -> None:
    async with Rpc(chain.url) as rpc:
        sender = Sender(rpc, chain.fund(test_key("worker at an older Anchor")), chain.chain_id)
        old = await There(chain, rpc, sender).open(registry=False)
        await old.teller().told(1, 1)
        assert old.asked == []
        with pytest.raises(CloisterError) as caught:
            await old.registry().account(old.agent)
        assert caught.value.code == "worker.no_remote_registry"


async def test_an_owner_with_code_is_nobody_elsewhere(there: There) -> None:
    await there.look()
    home = there.chain.chain_id
    assert await people_of(there.proven(), there.agent, home) == People(address_of(OWNER), NOBODY, NOBODY)
    token = await call(there.rpc, there.chain.contracts["Agents"], "Agents", "count")
    agents = there.chain.contracts["Agents"]
    await there.owner(agents, "Agents", "setGuardian", token, agents)
    await there.owner(agents, "Agents", "setFeePayer", token, agents)
    await there.owner(agents, "Agents", "transferFrom", address_of(OWNER), there.anchor, token)
    await asyncio.sleep(0.3)
    await there.look()
    found = await people_of(there.proven(), there.agent, home)
    assert found == People(NOBODY, NOBODY, NOBODY), "a sale drops the payer"
    assert await people_of(there.proven(), b"\x01" * 32, home) is None


# --- an owner who names who speaks for it there ---

SPEAKER, SECOND = test_key("speaker of an owner there"), test_key("another speaker there")


async def named(there: There, who: bytes, chain_id: int | None = None) -> None:
    """The owner's word at home, and a checkpoint after it."""
    token = await call(there.rpc, there.chain.contracts["Agents"], "Agents", "count")
    at = there.chain.chain_id if chain_id is None else chain_id
    await there.owner(there.chain.contracts["Agents"], "Agents", "setSpeaker", token, at, who)
    await asyncio.sleep(0.3)
    await there.look()


async def test_whom_the_owner_named_for_a_chain_is_the_owner_there_and_nowhere_else(there: There) -> None:
    await named(there, address_of(SPEAKER))
    home = there.chain.chain_id
    speaker = address_of(SPEAKER)
    assert await people_of(there.proven(), there.agent, home) == People(speaker, NOBODY, NOBODY, speaker)
    assert await people_of(there.proven(), there.agent, home + 1) == People(address_of(OWNER), NOBODY, NOBODY)
    await there.teller().told(1, 1)
    await there.look()
    assert (await there.registry().known(there.agent)).people[0] == speaker
    there.chain.fund(SPEAKER)
    with pytest.raises(CloisterError, match="NotOwner"):
        await there.owner(there.remote, "RemoteAgents", "stop", there.agent)
    await Sender(there.rpc, SPEAKER, home).send(there.remote, encode("RemoteAgents", "stop", there.agent))


async def test_a_chain_hears_of_another_speaker_as_soon_as_a_worker_looks(there: There) -> None:
    teller = there.teller()
    await teller.told(1, 1)
    await named(there, address_of(SPEAKER))
    await teller.told(1, 1)
    assert len(there.asked) == 1, "it looks once in a while"
    there.later = RETRY_S
    await there.look()
    await teller.told(1, 1)
    await named(there, bytes(20))
    there.later = 3 * RETRY_S
    await there.look()
    await teller.told(1, 1)
    owners = [asked.owner for asked in there.asked]
    assert owners == [address_of(OWNER), address_of(SPEAKER), address_of(OWNER)]


async def test_a_contract_that_owns_an_agent_names_a_speaker_and_a_sale_ends_him(there: There) -> None:
    """Not even the first owner's own word comes back with the agent."""
    await named(there, address_of(SPEAKER))
    token = await call(there.rpc, there.chain.contracts["Agents"], "Agents", "count")
    agents, home, second = there.chain.contracts["Agents"], there.chain.chain_id, there.chain.fund(SECOND)
    await there.owner(agents, "Agents", "transferFrom", address_of(OWNER), address_of(SECOND), token)
    await asyncio.sleep(0.3)
    await there.look()
    assert await people_of(there.proven(), there.agent, home) == People(address_of(SECOND), NOBODY, NOBODY)
    back = encode("Agents", "transferFrom", address_of(SECOND), address_of(OWNER), token)
    await Sender(there.rpc, second, home).send(agents, back)
    await asyncio.sleep(0.3)
    await there.look()
    assert await there.proven().speaker(there.agent, home) == bytes(20)
    assert await call(there.rpc, agents, "Agents", "speakerOf", there.agent, home) == bytes(20)


# --- the account ---


class Town:
    """One worker's desk for the agent's account there, with the agent's state."""

    def __init__(self, there: There, state: AgentState) -> None:
        self.there, self.state, teller = there, state, there.teller()
        self.desk = AccountDesk(
            there.sender.address, there.chain.chain_id, there.remote, state, there.sender, there, told=teller.told
        )

    async def turn(self) -> bool:
        await asyncio.sleep(0.2)
        await self.there.look()
        record = await self.there.proven().agent(self.there.agent)
        assert record is not None
        account = await self.there.registry().account(self.there.agent)
        moved = replace(record, account=account, token_id=int.from_bytes(self.there.agent, "big"))
        at = AccountTurn(moved, 1, (self.there.sender.address,), self.there.calls())
        return await self.desk.turn(at, SIGNER)

    async def settle(self) -> None:
        for _ in range(10):
            if not await self.turn():
                return
            self.there.later += 21
        raise AssertionError("something still waits")

    def calls(self) -> AccountCalls:
        there = self.there

        async def rules() -> KeyRules:
            return RULES

        async def named(args: Any) -> ChainView:
            found: Any = SimpleNamespace(remote=int(args["chain"]), require_fresh=there.require_fresh)
            return found

        chains = (there.chain.chain_id,)
        return AccountCalls(there.agent, rules, lambda: 0, os.urandom, named, chains)

    async def want(self, **changes: Any) -> str:
        name = os.urandom(16).hex()
        scope = RequestScope(self.state, await self.state.begin(name), name)
        args = {"to": to_hex(SHOP), "value": str(COIN), "data": "0x", "key": None, "within_s": 600}
        args |= {"chain": self.there.chain.chain_id} | changes
        nonce = str(await self.calls().calls()["keys.send"](Origin(state=scope), args))
        await scope.commit_head()
        scope.close()
        return nonce

    async def told(self, nonce: str) -> Any:
        scope = RequestScope(self.state, await self.state.begin(os.urandom(8).hex()), "told")
        return (await self.calls().calls()["keys.sent"](Origin(state=scope), {"nonce": nonce}))["state"]

    async def paid(self) -> int:
        return int(await self.there.rpc.call("eth_getBalance", to_hex(SHOP), "latest"), 16)


@pytest_asyncio.fixture
async def town(there: There, tmp_path: Path) -> AsyncIterator[Town]:
    fabric = await open_fabric(tmp_path / "fabric")
    state = AgentState(fabric.state, keys(), there.agent.hex(), os.urandom)
    await state.load([Answer(member(i), 0, bytes(32)) for i in range(3)], 3)
    yield Town(there, state)
    await fabric.close()


async def allowed(town: Town, cap: int) -> bytes:
    there = town.there
    account = await there.registry().account(there.agent)
    there.chain.give(account)
    await there.owner(account, "AgentAccount", "setAllowed", SHOP, bytes(4), True)
    await there.owner(account, "AgentAccount", "setCap", bytes(20), cap)
    return account


async def test_nothing_is_done_there_unasked(town: Town) -> None:
    assert not await town.turn()
    assert town.there.asked == []


async def test_a_call_there_makes_account_and_signer_and_is_made_once(town: Town) -> None:
    before = await town.paid()
    nonce = await town.want(key="invoice 7")
    assert await town.want(key="invoice 7") == nonce
    assert await town.told(nonce) == "waiting"
    assert await town.want(key="invoice 7", chain=None) != nonce, "a key names another call on another chain"
    for _ in range(4):
        await town.turn()
        town.there.later += 21
    account = await allowed(town, 10 * COIN)
    assert await call(town.there.rpc, account, "AgentAccount", "signer") == address_of(SIGNER)
    await town.settle()
    assert await town.told(nonce) == "made"
    assert await town.paid() - before == COIN
    assert town.desk._remote == town.there.chain.chain_id
    name = AccountCall(from_hex(nonce), b"", 0, b"", 0, 0, town.there.chain.chain_id).name
    assert name.startswith(waiting(town.there.chain.chain_id))
    assert await town.state.peek(name) is None


@pytest.mark.long
async def test_a_call_over_the_cap_there_is_never_made(town: Town) -> None:
    before = await town.paid()
    await town.want()
    for _ in range(4):
        await town.turn()
        town.there.later += 21
    await allowed(town, COIN - 1)
    for _ in range(3):
        await town.turn()
        town.there.later += RETRY_S + 1
    assert await town.paid() == before
    assert any("CapExceeded" in why for why in town.desk.refusals.values())


@pytest.mark.long
async def test_a_pause_at_home_stops_calls_there_and_what_is_over_ends_all_the_same(town: Town) -> None:
    before = await town.paid()
    nonce = await town.want(within_s=60)
    town.there.paused = True
    with pytest.raises(CloisterError) as caught:
        await town.turn()
    assert caught.value.code == "policy.paused"
    town.there.later = 120
    with pytest.raises(CloisterError):
        await town.turn()
    assert await town.told(nonce) == "expired"
    assert await town.paid() == before


@pytest.mark.long
async def test_whoever_brings_a_call_is_paid_back_and_no_more(town: Town) -> None:
    """Gas of real transactions: what the account paid back against what the worker paid."""
    there = town.there
    await town.want()
    for _ in range(4):
        await town.turn()
        there.later += 21
    account = await allowed(town, 10 * COIN)
    gas = await call(there.rpc, account, "AgentAccount", "GAS")
    await there.owner(account, "AgentAccount", "setCap", gas, COIN)
    for _ in range(2):  # the first one writes words that were never used
        await town.settle()
        await town.want()
    held = int(await there.rpc.call("eth_getBalance", to_hex(account), "latest"), 16)
    mine = int(await there.rpc.call("eth_getBalance", to_hex(there.sender.address), "latest"), 16)
    await town.settle()
    paid_back = held - int(await there.rpc.call("eth_getBalance", to_hex(account), "latest"), 16) - COIN
    left = int(await there.rpc.call("eth_getBalance", to_hex(there.sender.address), "latest"), 16)
    assert paid_back > 0
    cost = mine - left + paid_back
    assert cost * 8 // 10 <= paid_back <= cost, "nearly all of it, never more"
