"""Who may own an agent on a connected chain (spec/chains.md 34), each against who would like to: a stranger at the
owner's address there, a speaker of yesterday, a seller, a worker that shows an old fact. Over real contracts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
import pytest_asyncio
from coincurve import PrivateKey

from cloister.chain.contracts import call, encode
from cloister.chain.people import people_of
from cloister.chain.rpc import Rpc
from cloister.chain.tx import Sender
from cloister.core.encoding.contract_statements import NOBODY, RemoteAgent
from cloister.core.encoding.signatures import address_of
from cloister.core.errors import CloisterError
from support.anvil import TestChain, test_key
from support.remote_town import OWNER, There
from support.safes import code_account

SPEAKER, BUYER = test_key("speaker of a safe"), test_key("buyer of an agent of a safe")
COIN = 10**15


class Safe(There):
    """``There``, whose agent is owned by a contract at home."""

    safe: bytes = b""
    token: int = 0

    async def sold_to_a_contract(self) -> Safe:
        agents = self.chain.contracts["Agents"]
        self.token = int(await call(self.rpc, agents, "Agents", "count"))
        self.safe = await code_account(self.rpc, self.chain.chain_id, OWNER)
        await self.owner(agents, "Agents", "transferFrom", address_of(OWNER), self.safe, self.token)
        return self

    async def says(self, function: str, *args: object) -> None:
        """The contract calls Agents, as its own owner told it to."""
        data = encode("Agents", function, *args)
        await self.as_key(OWNER, self.safe, self.chain.contracts["Agents"] + data)
        await asyncio.sleep(0.3)
        await self.look()

    async def as_key(self, key: PrivateKey, to: bytes, data: bytes) -> None:
        await Sender(self.rpc, self.chain.fund(key), self.chain.chain_id).send(to, data)

    async def tell(self, epoch: int) -> None:
        """A worker that starts anew tells the chain."""
        await self.teller().told(epoch, 1)
        await asyncio.sleep(0.3)
        await self.look()

    async def refused(self, key: PrivateKey, function: str) -> bool:
        try:
            await self.as_key(key, self.remote, encode("RemoteAgents", function, self.agent))
        except CloisterError as error:
            if "NotOwner" not in str(error):
                raise
            return True
        return False


@pytest_asyncio.fixture
async def safe(chain: TestChain) -> AsyncIterator[Safe]:
    async with Rpc(chain.url) as rpc:
        worker = chain.fund(test_key("worker that serves a safe's agent"))
        made = Safe(chain, rpc, Sender(rpc, worker, chain.chain_id, timeout=20))
        await made.open()
        yield await made.sold_to_a_contract()


async def test_a_safe_owns_nothing_there_until_it_names_who_it_is(safe: Safe) -> None:
    await safe.look()
    await safe.tell(2)
    assert (await safe.registry().known(safe.agent)).people[0] == NOBODY, "not who sits at its address there"
    await safe.says("setSpeaker", safe.token, safe.chain.chain_id, address_of(SPEAKER))
    await safe.tell(2)
    assert not await safe.refused(SPEAKER, "stop")
    assert await safe.refused(OWNER, "resume")
    assert not await safe.refused(SPEAKER, "resume")


async def test_a_fact_of_yesterday_does_not_bring_a_speaker_back(safe: Safe) -> None:
    await safe.says("setSpeaker", safe.token, safe.chain.chain_id, address_of(SPEAKER))
    await safe.tell(2)
    await safe.says("setSpeaker", safe.token, safe.chain.chain_id, address_of(BUYER))
    await safe.tell(2)
    old, new = safe.asked
    assert (old.owner, new.owner) == (address_of(SPEAKER), address_of(BUYER))
    for again in (old, replace(old, expiry=new.expiry), replace(old, height=new.height)):
        assert "NotNewer" in await told_anyway(safe, again)
    assert await safe.refused(SPEAKER, "stop")


async def told_anyway(safe: Safe, facts: RemoteAgent) -> str:
    with pytest.raises(CloisterError) as caught:
        await safe.sender.send(safe.remote, encode("RemoteAgents", "tell", facts, list(safe.chain.sign(facts))))
    return str(caught.value)


@pytest.mark.long
async def test_whom_the_seller_named_owns_nothing_after_the_sale(safe: Safe) -> None:
    await safe.says("setSpeaker", safe.token, safe.chain.chain_id, address_of(SPEAKER))
    await safe.tell(2)
    account = await safe.registry().account(safe.agent)
    await safe.says("transferFrom", safe.safe, address_of(BUYER), safe.token)
    people = await people_of(safe.proven(), safe.agent, safe.chain.chain_id)
    assert people is not None
    assert (people.owner, people.speaker) == (address_of(BUYER), NOBODY)
    await safe.tell(3)
    assert await safe.refused(SPEAKER, "stop")
    safe.chain.give(account)
    maker = await call(safe.rpc, safe.remote, "RemoteAgents", "accounts")
    token = int.from_bytes(safe.agent, "big")
    await safe.as_key(BUYER, maker, encode("AgentAccounts", "create", token))
    with pytest.raises(CloisterError, match="NotOwner"):
        await safe.as_key(SPEAKER, account, encode("AgentAccount", "setCap", bytes(20), COIN))
    await safe.as_key(BUYER, account, encode("AgentAccount", "setCap", bytes(20), COIN))


@pytest.mark.long
async def test_nobody_but_the_owner_names_a_speaker(safe: Safe) -> None:
    data = encode("Agents", "setSpeaker", safe.token, safe.chain.chain_id, address_of(SPEAKER))
    for key in (OWNER, SPEAKER, BUYER):
        with pytest.raises(CloisterError, match="NotOwner"):
            await safe.as_key(key, safe.chain.contracts["Agents"], data)
