"""A seat of the committee changes, and a connected chain learns of it by itself: answers there keep counting.

Script: a devnet with a second chain, an agent that contracts of that chain ask. The DAO removes a gatekeeper; a sixth
one is elected into its seat. Workers carry the new signer set to the other chain's Anchor, signed by those of the old
set. A contract asks again there, and is answered under the new set. The command finds nothing left to carry.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest
from coincurve import PrivateKey

from cloister.chain.contracts import call, encode
from cloister.chain.tx import Sender
from cloister.client.client import Client
from cloister.client.deploy import await_seats, deploy_agent
from cloister.client.relaying import Elsewhere, carry_committee
from cloister.core.encoding.hexes import from_hex, to_hex
from cloister.core.encoding.keccak import keccak256
from cloister.core.encoding.signatures import address_of
from cloister.core.policy.manifest import normalize
from cloister.devnet import ledger
from cloister.devnet.demo.steps import owner_wallet
from cloister.devnet.layout import free_ports
from cloister.devnet.network import Devnet, Options
from cloister.devnet.tee.client import TeeControl
from support import hooks

pytestmark = [pytest.mark.long, pytest.mark.network]

RULES = replace(ledger.ONE_TERM, ceremony_blocks=40, erase_delay=8)
LEAVER, JOINER = "gk-2", "gk-6"
AGENT = b"""export default { async fetch(request) {
  await request.arrayBuffer();
  return new Response(new Uint8Array(32).fill(9));
} };"""


class SixSeats(Devnet):
    """A devnet whose list of measurements has that of a sixth gatekeeper."""

    async def _start_tee(self) -> None:
        await super()._start_tee()
        self._launched(JOINER, await TeeControl(self.layout.tee).create_machine(JOINER, "tdx", "gatekeeper"))


@pytest.fixture
async def devnet() -> AsyncIterator[SixSeats]:
    home = Path(tempfile.mkdtemp(prefix="clo-"))
    options = Options(home, workers=2, with_model=False, block_time=0.5, rules=RULES, second_chain=True)
    try:
        async with SixSeats(options) as running:
            yield running
    finally:
        shutil.rmtree(home, ignore_errors=True)


async def sixth(devnet: Devnet) -> None:
    """One more gatekeeper, on hardware like that of the one which leaves."""
    (port,) = free_ports(1)
    config = {
        "data": str(devnet.layout.node(JOINER)),
        "listen": f"127.0.0.1:{port}",
        "rpc": [devnet._chain_url()],
        "genesis": str(devnet.layout.genesis),
        "operator": to_hex(b"\x66" * 20),
        "endpoint": f"http://127.0.0.1:{port}",
        "machine": devnet.machines[JOINER]["machine"],
        "chains": devnet._chains(),
    }
    child = await devnet._node(JOINER, "cloister.gatekeeper", config)
    await devnet.fund(from_hex(child.ready["address"], 20))


async def until(fact: Callable[[], Awaitable[bool]], what: str, seconds: float = 240.0) -> None:
    end = asyncio.get_running_loop().time() + seconds
    while not await fact():
        assert asyncio.get_running_loop().time() < end, f"it never came: {what}"
        await asyncio.sleep(0.3)


class Contract:
    """A consumer on the second chain, and whoever makes it ask."""

    def __init__(self, devnet: Devnet, agent: bytes) -> None:
        assert devnet.second_rpc is not None
        assert devnet.second_record is not None
        assert devnet.second is not None
        key = PrivateKey(keccak256(b"whoever asks on the second chain"))
        rich = devnet.second.rpc("eth_accounts")[0]
        devnet.second.rpc("eth_sendTransaction", {"from": rich, "to": to_hex(address_of(key)), "value": hex(10**20)})
        self.rpc, self.anchor = devnet.second_rpc, devnet.second_record.anchor.address
        self.sender, self.agent, self.address = Sender(self.rpc, key, devnet.second_record.chain_id), agent, b""

    async def ask(self) -> None:
        if not self.address:
            made = await self.sender.send(None, hooks.creation(hooks.CONSUMER))
            assert made.contract is not None
            self.address = made.contract
        choice = (self.agent, bytes(32), 100_000, int(time.time()) + 1800, 1, 0)
        data = self.anchor + encode("Anchor", "request", choice, json.dumps({"at": time.time()}).encode())
        await self.sender.send(self.address, data, value=1)

    async def callbacks(self) -> int:
        return int(await self.rpc.call("eth_getStorageAt", to_hex(self.address), "0x0", "latest"), 16)

    async def answered(self, count: int) -> None:
        async def there() -> bool:
            return await self.callbacks() == count

        await until(there, f"answer {count}")

    async def set_of(self, term: int) -> None:
        async def there() -> bool:
            return int((await call(self.rpc, self.anchor, "Anchor", "signerSet"))["term"]) == term

        await until(there, f"the signer set of term {term} on the other chain")


async def test_a_changed_seat_is_carried_and_answers_keep_counting(devnet: SixSeats) -> None:
    assert devnet.network is not None
    assert devnet.rpc is not None
    assert devnet.second is not None
    assert devnet.second_record is not None
    await sixth(devnet)
    pin, genesis = devnet.network.fingerprint(), devnet.network.genesis
    home = devnet.options.home / "client"
    async with Client(devnet.gateway_url, fingerprint=pin, wallet=owner_wallet(devnet), home=home) as client:
        tools = [f"chain:{devnet.second_record.chain_id}"]
        deployed = await deploy_agent(client, AGENT, normalize({"tools": tools}))
        await await_seats(client, deployed.agent, seats=2)
        contract = Contract(devnet, deployed.agent)
        await asyncio.sleep(2)
        await contract.ask()
        await contract.answered(1)

        leaver = from_hex(devnet.children[LEAVER].ready["address"], 20)
        joiner = from_hex(devnet.children[JOINER].ready["address"], 20)
        dao = Sender(devnet.rpc, PrivateKey(devnet.layout.secret_key("deployer")), genesis.chain_id)
        await dao.send(genesis.address("Gatekeepers"), encode("Gatekeepers", "revoke", leaver))
        await contract.set_of(2)
        assert not await call(contract.rpc, contract.anchor, "Anchor", "isSigner", leaver)
        assert await call(contract.rpc, contract.anchor, "Anchor", "isSigner", joiner)
        await contract.ask()
        await contract.answered(2)

        there = Elsewhere.load(devnet.layout.second_record, devnet.second.url, "ethereum")
        assert await carry_committee(client, there) == [], "workers did it"
