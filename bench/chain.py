"""Contracts and agents: blocks from a pause to its refusal, requests answered per second, proofs, gas.

``make bench-chain``. The chain makes a block per second, as a devnet does; the network has two workers. A request's
time is from its block to its answer's block on the chain: finality (two blocks) is in it.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from pathlib import Path

from bench.live import Live
from bench.measure import Row, at_least, at_most, fact, median
from cloister.chain.anchor import NAME, AnchorChain
from cloister.chain.contracts import encode
from cloister.chain.events import decode_event, topic
from cloister.chain.proven import nodes_of
from cloister.chain.rpc import quantity
from cloister.client.client import Client
from cloister.client.deploy import set_paused
from cloister.client.resolve import NO_SEAT
from cloister.core.chainview.evm import AccountFacts, Block, ProvenWorld, view
from cloister.core.chainview.proofs import verify_account
from cloister.core.encoding.hexes import to_hex
from cloister.core.encoding.keccak import keccak256
from cloister.core.errors import CloisterError
from cloister.core.policy.refusals import PAUSED
from cloister.worker.processes import NOT_HERE

GAS = Path(__file__).parents[1] / "contracts" / "gas" / "Cloister.json"
REQUESTS = 24
# How a pause shows: to a worker's caller, after the worker dropped the agent, when no worker offers it any more.
BY_PAUSE = (PAUSED.code, NOT_HERE.code, NO_SEAT.code)
# DESIGN section 15: what a transaction may cost. spec/anchor.md 22.
GAS_TARGETS = {"request and callback 256 B": 140_000}
# isAllowed over one word: PUSH1 36 CALLDATALOAD SLOAD, return it.
HOOK = bytes.fromhex("6024355460005260206000f3")


async def rows(net: Live) -> list[Row]:
    """Everything."""
    return [*await _pause(net), *await _requests(net), *await _proofs(net), *_view(), *_gas()]


async def _pause(net: Live) -> list[Row]:
    """Blocks between the one that holds the pause and the newest one when a call is first refused."""
    agent, found = await net.client.agent(net.agent), []
    for _ in range(3):
        receipt = await set_paused(net.client, net.agent, True)
        while not await _refused(agent):  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.02)
        found.append(await _height(net.client) - receipt.block_number)
        await set_paused(net.client, net.agent, False)
        while await _refused(agent):  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.2)
    return [at_most("pause to refusal", max(found), "blocks", 2)]


async def _refused(agent: object) -> bool:
    """Whether a call is refused for the pause. Any other failure is one: it is raised, not counted."""
    try:
        await agent.post("/ask", json={"text": "x"}, idempotency_key=os.urandom(8).hex())  # type: ignore[attr-defined]
    except CloisterError as error:
        if error.code not in BY_PAUSE:
            raise
        return True
    return False


async def _height(client: Client) -> int:
    return quantity(await client.rpc.call("eth_blockNumber"), "height", 64)


async def _requests(net: Live) -> list[Row]:
    """Requests sent at once by one account; until each has its Answered event."""
    client = net.client
    await _answered(net, 1)  # leases at the Anchor are got once
    began = time.perf_counter()
    waits = await _answered(net, REQUESTS)
    took = time.perf_counter() - began
    return [
        at_least("requests answered on a 1 s chain", REQUESTS / took, "1/s", 1.0),
        fact("request to answer, median", median(waits), "blocks"),
        fact("request to answer, longest", max(waits), "blocks"),
        fact("height after it", await _height(client), "blocks"),
    ]


async def _answered(net: Live, count: int) -> list[float]:
    """Send requests; blocks from each to its answer."""
    client, body = net.client, json.dumps({"text": "what is the price?"}).encode()
    anchor = AnchorChain(client.rpc, client.address(NAME))
    deadline = int(time.time()) + 3600
    data = encode(NAME, "request", (net.agent, bytes(32), 0, deadline, 1, 0), body)
    receipts = await asyncio.gather(*(client.send(NAME, data) for _ in range(count)))
    first = min(r.block_number for r in receipts)
    asked = {a.index: b for a, _, b in await anchor.requests(net.agent, first, await _height(client))}
    wanted = {
        "address": to_hex(anchor.address),
        "topics": [to_hex(topic(NAME, "Answered")), to_hex(net.agent)],
        "fromBlock": hex(first),
        "toBlock": "latest",
    }
    async with asyncio.timeout(180):
        while True:
            logs = await client.rpc.call("eth_getLogs", wanted)
            ended = {decode_event(NAME, log)[1]["index"]: int(log["blockNumber"], 16) for log in logs}
            if set(asked) <= set(ended):
                return [float(ended[i] - block) for i, block in asked.items()]
            await asyncio.sleep(0.1)


async def _proofs(net: Live) -> list[Row]:
    """CPU of checking one account proof of the real chain."""
    at = (await net.client.resolver.view()).checkpoint
    address = net.client.address("Agents")
    answer = await net.client.rpc.call("eth_getProof", to_hex(address), [], hex(at.number))
    nodes = nodes_of(answer["accountProof"])
    return [fact("account proof verified", _cpu_ms(lambda: verify_account(at.state_root, address, nodes)), "ms")]


def _view() -> list[Row]:
    """CPU of running an access hook whose state is proven already."""
    hook = os.urandom(20)
    world = ProvenWorld({hook: AccountFacts(0, keccak256(HOOK), HOOK)}, {(hook, 0): 1})
    block, data = Block(1, 1, 1), bytes(196)
    return [at_most("access hook over proven state", _cpu_ms(lambda: view(world, block, hook, data)), "ms", 1.0)]


def _gas() -> list[Row]:
    """Whole transactions, from the snapshot that `make contracts` compares."""
    found = {name: float(gas) for name, gas in json.loads(GAS.read_text()).items()}
    return [
        at_most(f"gas: {name}", gas, "gas", GAS_TARGETS[name])
        if name in GAS_TARGETS
        else fact(f"gas: {name}", gas, "gas")
        for name, gas in sorted(found.items())
    ]


def _cpu_ms(work: object, rounds: int = 200) -> float:
    """CPU milliseconds of one call."""
    assert callable(work)
    began = time.process_time_ns()
    for _ in range(rounds):
        work()
    return (time.process_time_ns() - began) / rounds / 1e6
