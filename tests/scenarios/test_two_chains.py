"""Two chains, one agent: asked on one, it acts on the other, once; whatever goes back or is killed in between."""

from __future__ import annotations

import asyncio
import hashlib
import json
import shutil
import tempfile
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from coincurve import PrivateKey

from cloister.chain.contracts import call, encode
from cloister.chain.rpc import Rpc
from cloister.chain.tx import Sender
from cloister.client.client import Client
from cloister.client.deploy import Deployed, await_seats, deploy_agent
from cloister.client.relaying import fetch_ready, relay
from cloister.core.encoding.hexes import to_hex
from cloister.core.encoding.keccak import keccak256
from cloister.core.encoding.signatures import address_of
from cloister.core.errors import CloisterError
from cloister.core.policy.manifest import normalize
from cloister.devnet import second
from cloister.devnet.demo.steps import owner_wallet
from cloister.devnet.network import Devnet, Options
from support import hooks

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.long]

# Asked by a contract, it reads a word there, adds one, and writes the sum on the other chain under the question's hash.
AGENT = b"""
const hex = (bytes) => "0x" + Array.from(bytes, (b) => b.toString(16).padStart(2, "0")).join("");
export default {
  async fetch(request, ctx) {
    const url = new URL(request.url);
    if (url.pathname === "/at") {
      try {
        return Response.json(await ctx.chain(Number(url.searchParams.get("chain"))).at());
      } catch (error) {
        return new Response(String(error), { status: 500 });
      }
    }
    if (url.pathname === "/send") {
      const { chain, to, key } = Object.fromEntries(url.searchParams);
      return new Response(await ctx.keys.send({ to, value: 7n, chain: Number(chain), key }));
    }
    if (url.pathname === "/sent") return Response.json(await ctx.keys.sent(url.searchParams.get("nonce")));
    if (url.pathname !== "/.well-known/cloister/request") return Response.json((await ctx.state.get("ran")) ?? 0);
    const question = new Uint8Array(await request.arrayBuffer());
    const { read, of, write } = JSON.parse(new TextDecoder().decode(question));
    const seen = await ctx.chain(read).storage(of, 7n);
    const key = hex(new Uint8Array(await crypto.subtle.digest("SHA-256", question)));
    const sum = BigInt(seen.value) + 1n;
    await ctx.chain(write).put(key, String(sum));
    await ctx.state.put("ran", ((await ctx.state.get("ran")) ?? 0) + 1);
    return new Response(new Uint8Array(32).fill(9));
  },
};
"""


@dataclass
class Side:
    """One chain as its users see it: a consumer contract, and the network's Anchor."""

    rpc: Rpc
    chain_id: int
    anchor: bytes
    agent: bytes
    key: PrivateKey
    consumer: bytes = b""

    async def open(self) -> Side:
        made = await Sender(self.rpc, self.key, self.chain_id).send(None, hooks.creation(hooks.CONSUMER))
        assert made.contract is not None
        self.consumer = made.contract
        return self

    async def ask(self, other: Side, number: int) -> bytes:
        """The consumer here asks; returns the key that the agent writes under on the other side."""
        question = {"read": self.chain_id, "of": to_hex(self.consumer), "write": other.chain_id, "number": number}
        payload = json.dumps(question).encode()
        choice = (self.agent, bytes(32), 100_000, int(time.time()) + 900, 1, 0)
        data = self.anchor + encode("Anchor", "request", choice, payload)
        await Sender(self.rpc, self.key, self.chain_id).send(self.consumer, data, value=10**15)
        return hashlib.sha256(payload).digest()

    async def callbacks(self) -> int:
        return int(await self.rpc.call("eth_getStorageAt", to_hex(self.consumer), "0x0", "latest"), 16)

    async def entry(self, key: bytes) -> tuple[int, bytes]:
        found: tuple[int, bytes] = await call(self.rpc, self.anchor, "Anchor", "read", self.agent, key)
        return found

    async def credit(self, payee: bytes) -> int:
        return int(await call(self.rpc, self.anchor, "Anchor", "credits", payee))

    async def reorganise(self) -> None:
        """Two blocks are replaced by others without their transactions."""
        await self.rpc.call("anvil_reorg", 2, [])


@dataclass
class Town:
    devnet: Devnet
    client: Client
    deployed: Deployed
    home: Side
    away: Side


@pytest_asyncio.fixture(loop_scope="session", scope="module")
async def town() -> AsyncIterator[Town]:
    home = Path(tempfile.mkdtemp(prefix="clo-"))
    try:
        async with Devnet(Options(home, workers=2, with_model=False, second_chain=True)) as devnet:
            assert devnet.network is not None
            assert devnet.rpc is not None
            assert devnet.second_rpc is not None
            assert devnet.second_record is not None
            pin = devnet.network.fingerprint()
            async with Client(devnet.gateway_url, fingerprint=pin, wallet=owner_wallet(devnet), home=home / "c") as one:
                genesis, record = devnet.network.genesis, devnet.second_record
                tools = [f"chain:{genesis.chain_id}", f"chain:{record.chain_id}"]
                deployed = await deploy_agent(one, AGENT, normalize({"tools": tools, "keys": {"calls": True}}))
                await await_seats(one, deployed.agent, seats=2)
                key = PrivateKey(keccak256(b"whoever asks on two chains"))
                await devnet.fund(address_of(key))
                assert devnet.second is not None
                rich = devnet.second.rpc("eth_accounts")[0]
                devnet.second.rpc(
                    "eth_sendTransaction", {"from": rich, "to": to_hex(address_of(key)), "value": hex(10**20)}
                )
                await asyncio.sleep(2)
                near = Side(devnet.rpc, genesis.chain_id, one.address("Anchor"), deployed.agent, key)
                far = Side(devnet.second_rpc, record.chain_id, record.anchor.address, deployed.agent, key)
                yield Town(devnet, one, deployed, await near.open(), await far.open())
    finally:
        shutil.rmtree(home, ignore_errors=True)


async def until(condition: Any, what: str, within_s: float = 90.0) -> None:
    try:
        async with asyncio.timeout(within_s):
            while not await condition():  # noqa: ASYNC110 - chains tell nobody
                await asyncio.sleep(0.3)
    except TimeoutError:
        pytest.fail(f"not within {within_s:.0f} s: {what}")


async def acted(side: Side, key: bytes) -> None:
    async def there() -> bool:
        return (await side.entry(key))[0] > 0

    await until(there, "the act on the other chain")
    assert await side.entry(key) == (1, b"1"), "one more than the word that was read, written once"


async def answered(side: Side, before: int) -> None:
    async def more() -> bool:
        return await side.callbacks() > before

    await until(more, "the callback")


async def settled(*sides: Side) -> None:
    """Until what was sent before is final on these chains, and a little more."""
    for side in sides:
        start = int(await side.rpc.call("eth_blockNumber"), 16)

        async def final(side: Side = side, start: int = start) -> bool:
            block = await side.rpc.call("eth_getBlockByNumber", "finalized", False)
            return int(block["number"], 16) > start + 2

        await until(final, "finality")


async def ran(town: Town) -> int:
    return int((await (await town.client.agent(town.deployed.agent)).get("/")).json())


async def test_the_agent_sees_both_chains_by_checkpoints(town: Town) -> None:
    agent = await town.client.agent(town.deployed.agent)
    for side in (town.home, town.away):
        at = (await agent.get(f"/at?chain={side.chain_id}")).json()
        assert at["chain"] == side.chain_id
        block = await side.rpc.call("eth_getBlockByNumber", hex(at["number"]), False)
        assert block["hash"] == at["hash"]
    assert (await agent.get("/at?chain=1")).status == 500, "a chain that the manifest does not name"


async def test_asked_there_it_acts_here_and_asked_here_it_acts_there(town: Town) -> None:
    for number, (asking, acting) in enumerate([(town.away, town.home), (town.home, town.away)]):
        before = await asking.callbacks()
        key = await asking.ask(acting, number)
        await answered(asking, before)
        await acted(acting, key)
        assert await acting.callbacks() <= 1, "an act is no answer"


async def test_two_blocks_go_back_on_both_chains_and_nothing_is_doubled_or_lost(town: Town) -> None:
    for number, (asking, acting) in enumerate([(town.away, town.home), (town.home, town.away)], 10):
        before, runs = await asking.callbacks(), await ran(town)
        key = await asking.ask(acting, number)
        await settled(asking)
        await answered(asking, before)
        await asking.reorganise()
        await acted(acting, key)
        await acting.reorganise()
        await settled(asking, acting)
        await answered(asking, before)
        await acted(acting, key)
        assert (await asking.callbacks(), await ran(town)) == (before + 1, runs + 1)


async def test_a_worker_is_killed_in_between_and_nothing_is_doubled_or_lost(town: Town) -> None:
    asking, acting = town.away, town.home
    before, runs = await asking.callbacks(), await ran(town)
    fees = sum([await asking.credit(payee) for payee in await payees(town)])
    key = await asking.ask(acting, 20)
    await settled(asking)
    victims = [name for name in town.devnet.children if name.startswith("worker-")]
    for victim in victims:
        await town.devnet.children[victim].kill()
    await asking.reorganise()
    for victim in victims:
        await town.devnet.start_worker(victim)
    await await_seats(town.client, town.deployed.agent, seats=2)
    await answered(asking, before)
    await acted(acting, key)
    await settled(asking, acting)
    assert (await asking.callbacks(), await ran(town)) == (before + 1, runs + 1)
    assert await acting.entry(key) == (1, b"1")
    earned = sum([await asking.credit(payee) for payee in await payees(town)]) - fees
    assert earned == 10**15, "one fee, on the chain that asked"


async def payees(town: Town) -> list[bytes]:
    from cloister.devnet.told import operator_address

    return [operator_address(f"operator of {name}") for name in ("worker-1", "worker-2")]


async def test_whoever_has_gas_brings_the_answer_of_workers_that_have_none(town: Town) -> None:
    devnet, side = town.devnet, town.away
    assert devnet.second is not None
    workers = [devnet.children[name].ready["address"] for name in devnet.children if name.startswith("worker-")]
    for worker in workers:
        devnet.second.rpc("anvil_setBalance", worker, "0x0")
    before = await side.callbacks()
    await side.ask(town.home, 30)
    index = int((await call(side.rpc, side.anchor, "Anchor", "queue", side.agent))[0])
    found: list[Any] = []

    async def waits() -> bool:
        try:
            found.append(await fetch_ready(town.client.gateway, side.chain_id, side.agent, index))
        except CloisterError:
            return False
        return True

    await until(waits, "a signed answer that waits for somebody who pays")
    assert await side.callbacks() == before
    payer = Sender(side.rpc, side.key, side.chain_id)
    await relay(payer, side.anchor, found[0])
    assert await side.callbacks() == before + 1
    await settled(side)
    assert await side.callbacks() == before + 1
    with pytest.raises(CloisterError):
        await relay(payer, side.anchor, found[0])
    for worker in workers:
        devnet.second.rpc("anvil_setBalance", worker, hex(10**20))


SHOP = b"\x0c" * 20


async def account_there(town: Town) -> bytes:
    """Where the agent's account on the other chain is, and will be."""
    registry = await call(town.away.rpc, town.away.anchor, "Anchor", "agents")
    maker = await call(town.away.rpc, registry, "RemoteAgents", "accounts")
    token = int.from_bytes(town.deployed.agent, "big")
    found: bytes = await call(town.away.rpc, maker, "AgentAccounts", "addressOf", token)
    return found


async def paid_there(town: Town) -> int:
    return int(await town.away.rpc.call("eth_getBalance", to_hex(SHOP), "latest"), 16)


async def send_there(town: Town, key: str) -> str:
    agent = await town.client.agent(town.deployed.agent)
    reply = await agent.post(f"/send?chain={town.away.chain_id}&to={to_hex(SHOP)}&key={key}")
    assert reply.status == 200, reply.text
    return reply.text


async def has_code(side: Side, address: bytes) -> bool:
    return bool(await side.rpc.call("eth_getCode", to_hex(address), "latest") != "0x")


async def test_the_agents_account_there_pays_once_within_its_owners_cap(town: Town) -> None:
    """Killed workers and blocks that go back on that chain in between; the owner sets the rules there by itself."""
    devnet, side, owner = town.devnet, town.away, town.client.need_wallet().key
    assert devnet.second is not None
    account = await account_there(town)
    rich = devnet.second.rpc("eth_accounts")[0]
    for someone in (account, address_of(owner)):
        devnet.second.rpc("eth_sendTransaction", {"from": rich, "to": to_hex(someone), "value": hex(10**18)})
    nonce = await send_there(town, "invoice")
    await until(lambda: has_code(side, account), "the account there")
    payer = Sender(side.rpc, owner, side.chain_id)
    await payer.send(account, encode("AgentAccount", "setAllowed", SHOP, bytes(4), True))
    await payer.send(account, encode("AgentAccount", "setCap", bytes(20), 10))
    agent = await town.client.agent(town.deployed.agent)

    async def paid() -> bool:
        return await paid_there(town) == 7

    await until(paid, "the payment")
    await side.reorganise()

    async def made() -> bool:
        return bool((await agent.get(f"/sent?nonce={nonce}")).json()["state"] == "made")

    await until(made, "the proven end", 180)
    assert await send_there(town, "invoice") == nonce
    await settled(side)
    assert await paid_there(town) == 7, "once"
    over = await send_there(town, "another")
    await settled(side)
    await settled(side)
    assert await paid_there(town) == 7, "3 of 10 are left in this period"
    assert (await agent.get(f"/sent?nonce={over}")).json()["state"] == "waiting"


async def test_a_pause_at_home_ends_answers_there_and_a_stop_there_too(town: Town) -> None:
    """An honest worker stops at once, and answers again when the owner resumes."""
    side, agent, client = town.away, town.deployed.agent, town.client
    token = (await client.resolver.record(agent)).token_id
    await client.send("Agents", encode("Agents", "pause", token))
    await settled(town.home)
    before = await side.callbacks()
    await side.ask(town.home, 40)
    await settled(side)
    await asyncio.sleep(5)
    assert await side.callbacks() == before
    await client.send("Agents", encode("Agents", "resume", token))
    await await_seats(client, agent, within_s=180)
    await answered(side, before)
    registry = await call(side.rpc, side.anchor, "Anchor", "agents")
    owner = Sender(side.rpc, client.need_wallet().key, side.chain_id)
    await owner.send(registry, encode("RemoteAgents", "stop", agent))
    await settled(side)
    before = await side.callbacks()
    await side.ask(town.home, 41)
    await settled(side)
    await asyncio.sleep(3)
    assert await side.callbacks() == before
    await owner.send(registry, encode("RemoteAgents", "resume", agent))
    await answered(side, before)


async def test_a_chain_that_the_directory_drops_is_no_longer_used(town: Town) -> None:
    devnet = town.devnet
    assert devnet.rpc is not None
    assert devnet.network is not None
    assert devnet.second_record is not None
    owner = PrivateKey(devnet.layout.secret_key("deployer"))
    await second.publish(devnet.rpc, owner, devnet.network.genesis, devnet.second_record, connected=False)
    agent = await town.client.agent(town.deployed.agent)

    async def refused() -> bool:
        return (await agent.get(f"/at?chain={town.away.chain_id}")).status == 500

    await until(refused, "the chain's end")
    assert (await agent.get(f"/at?chain={town.home.chain_id}")).status == 200
