"""An agent acts on chain by its contract account, on a whole network (spec/accounts.md).

1. Its owner allows payments to one address, up to a cap; the account gets coin.
2. A call of the agent queues a payment; the network makes it once, and says so when it is proven.
3. The worker that would bring it is killed first: another one does, once.
4. A payment over the cap is never made.
5. The owner bumps the epoch: the new key is registered by itself, and acts.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from cloister.chain.contracts import call, encode
from cloister.chain.tx import Sender
from cloister.client.agent import Agent
from cloister.client.client import Client
from cloister.client.deploy import await_seats, deploy_agent
from cloister.core.encoding.hexes import to_hex
from cloister.core.errors import CloisterError
from cloister.core.policy.manifest import normalize
from cloister.devnet.network import Devnet

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.long]
SHOP = bytes.fromhex("0b" * 20)
COIN = 10**15
AGENT = b"""export default { async fetch(request, ctx) {
  const { pay, key, nonce } = await request.json();
  if (nonce) return Response.json(await ctx.keys.sent(nonce));
  const to = "0x" + "0b".repeat(20);
  return Response.json(await ctx.keys.send({ to, value: BigInt(pay), key }));
} };"""


class Town:
    """The agent, its account, and who pays what."""

    def __init__(self, devnet: Devnet, client: Client, agent: Agent, account: bytes, token: int) -> None:
        self.devnet, self.client, self.agent, self.account, self.token = devnet, client, agent, account, token

    async def owner(self, to: bytes, data: bytes = b"", value: int = 0) -> None:
        sender = Sender(self.client.rpc, self.devnet.owner(), self.client.network.genesis.chain_id)
        await sender.send(to, data, value)

    async def paid(self) -> int:
        return int(await self.client.rpc.call("eth_getBalance", to_hex(SHOP), "latest"), 16)

    async def want(self, pay: int, key: str) -> str:
        reply = await self.agent.post("/", json={"pay": pay, "key": key}, idempotency_key=key)
        assert reply.status == 200, reply.text
        return str(reply.json())

    async def state(self, nonce: str) -> dict[str, Any]:
        return dict((await self.agent.post("/", json={"nonce": nonce}, deadline_s=20)).json())

    async def until_made(self, nonce: str, within_s: float = 90) -> None:
        for _ in range(int(within_s)):
            try:
                if (await self.state(nonce))["state"] == "made":
                    return
            except CloisterError as error:
                if error.code not in ("client.outcome_unknown", "client.no_seat", "gateway.worker_gone"):
                    raise
            await asyncio.sleep(1)
        raise AssertionError(await self.state(nonce))


@pytest_asyncio.fixture(loop_scope="session", scope="module")
async def town(devnet: Devnet, fresh_client: Client) -> AsyncIterator[Town]:
    done = await deploy_agent(fresh_client, AGENT, normalize({"keys": {"calls": True}}))
    await await_seats(fresh_client, done.agent, seats=2)
    record = await fresh_client.resolver.record(done.agent)
    made = Town(devnet, fresh_client, await fresh_client.agent(done.agent), record.account, record.token_id)
    for _ in range(60):
        code = await fresh_client.rpc.call("eth_getCode", to_hex(record.account), "latest")
        if code != "0x":
            break
        await asyncio.sleep(1)
    assert code != "0x", "the workers make the account by themselves"
    await made.owner(record.account, value=100 * COIN)
    await made.owner(record.account, encode("AgentAccount", "setAllowed", SHOP, bytes(4), True))
    await made.owner(record.account, encode("AgentAccount", "setCap", bytes(20), 10 * COIN))
    yield made


async def test_a_payment_is_made_once_and_told_when_it_is_proven(town: Town) -> None:
    before = await town.paid()
    nonce = await town.want(COIN, "invoice 1")
    assert await town.want(COIN, "invoice 1") == nonce
    await town.until_made(nonce)
    assert await town.paid() - before == COIN


async def test_the_worker_that_would_bring_it_is_killed_and_another_does(town: Town, repaired: Devnet) -> None:
    before = await town.paid()
    nonce = await town.want(COIN, "invoice 2")
    seats = [one.worker.worker for one in (await town.client.resolver.resolve(town.agent.id)).sittings]
    names = [name for name in repaired.children if name.startswith("worker-")]
    assert len(seats) == 2
    await repaired.children[names[0]].kill()
    await town.until_made(nonce)
    await asyncio.sleep(5)
    assert await town.paid() - before == COIN


async def test_a_payment_over_the_cap_is_never_made(town: Town) -> None:
    before = await town.paid()
    nonce = await town.want(50 * COIN, "invoice 3")
    await asyncio.sleep(12)
    assert (await town.state(nonce))["state"] == "waiting"
    assert await town.paid() == before


async def test_after_a_new_epoch_the_new_key_acts(town: Town) -> None:
    agents = town.client.network.genesis.address("Agents")
    old = await call(town.client.rpc, town.account, "AgentAccount", "signer")
    await town.owner(agents, encode("Agents", "bumpEpoch", town.token))
    for _ in range(90):
        signer = await call(town.client.rpc, town.account, "AgentAccount", "signer")
        if signer != old:
            break
        await asyncio.sleep(1)
    assert signer != old
    before = await town.paid()
    nonce = ""
    for _ in range(60):
        try:
            nonce = await town.want(COIN, "invoice 4")
            break
        except CloisterError:
            await asyncio.sleep(1)
    await town.until_made(nonce)
    assert await town.paid() - before == COIN
