"""A contract asks an agent on a real network: one callback, whoever is killed; rules bind from their block on."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
import pytest_asyncio
from coincurve import PrivateKey

from cloister.chain.contracts import encode
from cloister.chain.rpc import Rpc
from cloister.chain.tx import Sender
from cloister.client.client import Client
from cloister.client.deploy import Deployed, await_seats, deploy_agent
from cloister.core.encoding.hexes import to_hex
from cloister.core.encoding.keccak import keccak256
from cloister.core.encoding.signatures import address_of
from cloister.core.errors import CloisterError
from cloister.core.policy.manifest import normalize
from cloister.devnet.network import Devnet
from support import hooks

pytestmark = pytest.mark.asyncio(loop_scope="session")

AGENT = b"""
let ran = 0;
export default {
  async fetch(request, ctx) {
    const path = new URL(request.url).pathname;
    if (path !== "/.well-known/cloister/request") return new Response(String(ran));
    ran += 1;
    const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", await request.arrayBuffer()));
    return new Response(digest);
  },
};
"""


class Asker:
    """A consumer contract and the account that pays for it."""

    def __init__(self, devnet: Devnet, client: Client, agent: bytes) -> None:
        self.devnet, self.client, self.agent = devnet, client, agent
        assert devnet.rpc is not None
        self.rpc: Rpc = devnet.rpc
        self.key = PrivateKey(keccak256(b"a contract's owner"))
        self.sender = Sender(self.rpc, self.key, client.network.genesis.chain_id)
        self.consumer = b""

    async def open(self) -> None:
        await self.devnet.fund(address_of(self.key))
        made = await self.sender.send(None, hooks.creation(hooks.CONSUMER))
        assert made.contract is not None
        self.consumer = made.contract

    async def ask(self, payload: bytes, copies: int = 1) -> None:
        choice = (self.agent, bytes(32), 100_000, int(time.time()) + 600, copies, 0)
        call = self.client.address("Anchor") + encode("Anchor", "request", choice, payload)
        await self.sender.send(self.consumer, call, value=10**15)

    async def word(self, slot: int) -> int:
        return int(await self.rpc.call("eth_getStorageAt", to_hex(self.consumer), hex(slot), "latest"), 16)

    async def until(self, callbacks: int, within_s: float = 60.0) -> None:
        async with asyncio.timeout(within_s):
            while await self.word(0) < callbacks:  # noqa: ASYNC110 - the chain tells nobody
                await asyncio.sleep(0.2)


@pytest.fixture(scope="module")
def client(fresh_client: Client) -> Client:
    """Every call here is of this file's own client."""
    return fresh_client


@pytest_asyncio.fixture(loop_scope="session", scope="module")
async def deployed(devnet: Devnet, client: Client) -> Deployed:
    manifest = normalize({"upgrade": {"rule": "delay", "blocks": 10}})
    done = await deploy_agent(client, AGENT, manifest)
    await await_seats(client, done.agent, seats=2)
    return done


@pytest_asyncio.fixture(loop_scope="session", scope="module")
async def asker(devnet: Devnet, client: Client, deployed: Deployed) -> Asker:
    made = Asker(devnet, client, deployed.agent)
    await made.open()
    return made


async def test_a_contract_is_called_back_once_with_the_agents_reply(asker: Asker) -> None:
    await asker.ask(b"first")
    await asker.until(1)
    from hashlib import sha256

    assert await asker.word(2) == int.from_bytes(sha256(b"first").digest(), "big")
    await asyncio.sleep(4)
    assert await asker.word(0) == 1


@pytest.mark.long  # whose turn it is gets its time: half a minute and more
async def test_a_contract_is_called_back_once_although_a_worker_is_killed(asker: Asker, repaired: Devnet) -> None:
    before = await asker.word(0)
    await asker.ask(b"second")
    seats = (await asker.client.resolver.resolve(asker.agent, again=True)).sittings
    workers = {w.ready["address"]: n for n, w in repaired.children.items() if n.startswith("worker-")}
    victim = workers[to_hex(seats[0].worker.worker)]
    await repaired.children[victim].kill()
    await asker.until(before + 1, within_s=120)
    await asyncio.sleep(3)
    assert await asker.word(0) == before + 1


async def test_an_access_hook_refuses_from_its_block_on_and_lets_in_when_final(
    asker: Asker, client: Client, deployed: Deployed
) -> None:
    agent: Any = await client.agent(deployed.agent)
    assert (await agent.get("/")).status == 200
    made = await asker.sender.send(None, hooks.creation(hooks.BY_LIST))
    assert made.contract is not None
    await client.send("Agents", encode("Agents", "setAccessHook", deployed.token_id, made.contract))
    await until_code(agent, "policy.access_denied")
    caller = client.need_wallet().address
    await asker.sender.send(made.contract, caller.rjust(32, b"\0") + (1).to_bytes(32, "big"))
    await until_code(agent, "")


async def until_code(agent: Any, code: str) -> None:
    """Call until the refusal has this code; "" means an answer."""
    found = "none yet"
    async with asyncio.timeout(30):
        while found != code:
            try:
                reply = await agent.get("/")
                found = "" if reply.status == 200 else str(reply.status)
            except CloisterError as error:
                found = error.code
            await asyncio.sleep(0.3)
