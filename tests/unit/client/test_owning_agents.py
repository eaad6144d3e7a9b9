"""Deploying and owning an agent over a real development chain: transactions, proofs, sealed secrets."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cloister.client import Client, Wallet
from cloister.client.deploy import NOT_READY, await_seats, bump_epoch, deploy_agent, set_code, set_paused
from cloister.client.secrets import BAD_SECRET, describe_secrets, seal_secrets, secrets_aad, set_secrets
from cloister.client.verify import verify_agent, verify_network
from cloister.core.chainview.records import UpgradeMode
from cloister.core.encoding import jcs
from cloister.core.encoding.identity import Purpose
from cloister.core.errors import CloisterError
from cloister.core.threshold import ibe
from cloister.core.threshold.groups import hash_identity, to_bytes
from support.anvil import TestChain
from support.fake_gateway import serving
from support.fake_world import CODE, MPK, ROOT, manifest
from support.live_gateway import LiveGateway, live_gateway

ALLOWED = {
    "eth_chainId", "eth_blockNumber", "eth_getBlockByNumber", "eth_getBlockByHash", "eth_getProof", "eth_call",
    "eth_getLogs", "eth_getTransactionReceipt", "eth_getTransactionCount", "eth_gasPrice", "eth_estimateGas",
    "eth_sendRawTransaction", "eth_getCode",
}  # fmt: skip


@dataclass
class Live:
    """A client with a funded wallet over a real chain."""

    client: Client
    gateway: LiveGateway
    wallet: Wallet

    async def until(self, block: int) -> None:
        """The client's checkpoint has the block."""
        for _ in range(200):
            if (await self.client.resolver.view()).checkpoint.number >= block:
                return
            await asyncio.sleep(0.05)
        raise AssertionError(f"block {block} is not final")

    async def deployed(self, **changes: Any) -> Any:
        """A deployed agent whose record is provable."""
        done = await deploy_agent(self.client, CODE, manifest(**changes))
        await self.until(done.block)
        return done


@pytest.fixture(scope="module")
def gateway(chain: TestChain) -> Any:
    made = asyncio.run(live_gateway(chain))
    with serving(made):
        yield made


@pytest.fixture
async def live(gateway: LiveGateway, chain: TestChain, tmp_path: Path) -> AsyncIterator[Live]:
    wallet = Wallet(chain.fund(chain.keys[0]))
    client = Client(
        gateway.url, fingerprint=gateway.parsed.fingerprint(), wallet=wallet, home=tmp_path, clock=time.time
    )
    async with client:
        yield Live(client, gateway, wallet)


async def code_of(work: Any) -> str:
    with pytest.raises(CloisterError) as caught:
        await work
    return caught.value.code


async def test_an_agent_is_deployed_and_read_back_by_proof(live: Live) -> None:
    done = await live.deployed()
    record = await live.client.resolver.record(done.agent)
    assert (record.token_id, record.owner) == (done.token_id, live.wallet.address)
    assert record.code_hash == hashlib.sha256(CODE).digest() == done.code_hash
    assert record.manifest_hash == hashlib.sha256(bytes(manifest())).digest() == done.manifest_hash
    assert (record.upgrade_mode, record.upgrade_delay) == (UpgradeMode.DELAYED, 10)
    assert await live.client.gateway.get_blob(done.code_hash) == CODE
    assert done.to_json()["token_id"] == done.token_id


@pytest.mark.parametrize(
    ("rule", "mode"), [({"rule": "instant"}, UpgradeMode.INSTANT), ({"rule": "frozen"}, UpgradeMode.FROZEN)]
)
async def test_the_manifests_upgrade_rule_is_the_chains(rule: Any, mode: UpgradeMode, live: Live) -> None:
    done = await live.deployed(upgrade=rule)
    assert (await live.client.resolver.record(done.agent)).upgrade_mode is mode
    steps = {s.code: s.ok for s in (await verify_agent(live.client, done.agent)).steps}
    assert steps["client.upgrade_rule"]
    if mode is UpgradeMode.FROZEN:
        assert await code_of(set_code(live.client, done.agent, CODE + b" ", manifest())) == "chain.reverted"
    else:
        receipt = await set_code(live.client, done.agent, CODE + b" ", manifest())
        await live.until(receipt.block_number)
        changed = await live.client.resolver.record(done.agent)
        assert changed.code_hash == hashlib.sha256(CODE + b" ").digest()


async def test_pause_resume_and_new_keys(live: Live) -> None:
    done = await live.deployed()
    receipt = await set_paused(live.client, done.agent, True)
    await live.until(receipt.block_number)
    assert (await live.client.resolver.record(done.agent)).paused
    assert await code_of(live.client.resolver.resolve(done.agent)) == "policy.paused"
    receipt = await set_paused(live.client, done.agent, False)
    await live.until(receipt.block_number)
    assert await code_of(live.client.resolver.resolve(done.agent)) == "client.no_seat"
    receipt = await bump_epoch(live.client, done.agent)
    await live.until(receipt.block_number)
    assert (await live.client.resolver.record(done.agent)).epoch == 2


async def test_strangers_own_nothing(live: Live, chain: TestChain, tmp_path: Path) -> None:
    done = await live.deployed()
    stranger = Client(
        live.gateway.url,
        fingerprint=live.gateway.parsed.fingerprint(),
        wallet=Wallet(chain.fund(chain.keys[1])),
        home=tmp_path,
    )
    async with stranger:
        assert await code_of(set_paused(stranger, done.agent, True)) == "chain.reverted"
        assert await code_of(set_secrets(stranger, done.agent, {"A": "1"})) == "chain.reverted"


async def test_without_a_wallet_nothing_is_sent(live: Live, tmp_path: Path) -> None:
    async with Client(live.gateway.url, fingerprint=live.gateway.parsed.fingerprint(), home=tmp_path) as client:
        assert await code_of(deploy_agent(client, CODE, manifest())) == "client.no_wallet"


async def test_only_the_agent_opens_its_secrets(live: Live) -> None:
    done = await live.deployed(secrets=["API_KEY", "OTHER"])
    values = {"API_KEY": "sk-ü", "OTHER": ""}
    put = await set_secrets(live.client, done.agent, values)
    await live.until(put.block)
    record = await live.client.resolver.record(done.agent)
    assert (record.secrets_hash, record.secrets_version) == (put.hash, put.version) == (put.hash, 1)
    assert record.secrets_setter == live.wallet.address
    ciphertext = await live.client.gateway.get_blob(put.hash)
    at = await live.client.resolver.version(record)
    identity = bytes(at.key(Purpose.SECRETS))
    key = ibe.DerivedKey(to_bytes(hash_identity(identity) * ROOT))
    aad = secrets_aad(at.network, done.agent, 1, live.wallet.address)
    assert jcs.decode(ibe.decrypt(key, MPK, identity, ciphertext, aad)) == values
    for other in (
        secrets_aad(at.network, done.agent, 2, live.wallet.address),
        secrets_aad(at.network, done.agent, 1, b"\x01" * 20),
        secrets_aad(bytes(32), done.agent, 1, live.wallet.address),
        secrets_aad(at.network, bytes(32), 1, live.wallet.address),
    ):
        with pytest.raises(CloisterError):
            ibe.decrypt(key, MPK, identity, ciphertext, other)
    facts = await describe_secrets(live.client, done.agent)
    assert facts["names"] == ["API_KEY", "OTHER"]
    assert facts["current"] is True


async def test_secrets_set_twice_in_a_row_wait_for_finality(live: Live) -> None:
    done = await live.deployed()
    for version in (1, 2, 3):
        assert (await set_secrets(live.client, done.agent, {"API_KEY": "new"})).version == version


async def test_secrets_are_described_without_values(live: Live) -> None:
    done = await live.deployed()
    assert (await describe_secrets(live.client, done.agent))["hash"] is None
    put = await set_secrets(live.client, done.agent, {"TOKEN": "hunter2"})
    await live.until(put.block)
    written = b"".join(p.read_bytes() for p in live.client.home.path.rglob("*") if p.is_file())
    assert b"hunter2" not in written
    live.client.home.write("secrets", f"{done.agent.hex()}.json", b'{"version": 7, "names": ["X"]}')
    assert (await describe_secrets(live.client, done.agent))["names"] == "set elsewhere"


async def test_bad_names_and_sizes_of_secrets(live: Live) -> None:
    done = await live.deployed()
    at = await live.client.resolver.version(await live.client.resolver.record(done.agent))
    bad: list[dict[str, str]] = [{"a b": "x"}, {"": "x"}, {"A": "x" * 65537}, {f"N{i}": "" for i in range(129)}]
    for values in bad:
        with pytest.raises(CloisterError) as caught:
            seal_secrets(live.client, at, MPK, 1, bytes(20), values)
        assert caught.value.code == BAD_SECRET.code


async def test_the_network_verifies_step_by_step(live: Live) -> None:
    report = await verify_network(live.client)
    assert [s for s in report.steps if not s.ok] == []
    assert [s.number for s in report.steps] == list(range(1, len(report.steps) + 1))
    assert report.facts["mode"] == "devnet"
    assert any("devnet" in note for note in report.notes)
    report.require()


async def test_only_methods_of_the_gateways_list_are_used(live: Live) -> None:
    await live.deployed()
    assert live.gateway.methods <= ALLOWED


async def test_an_agent_that_nobody_serves_is_not_ready(live: Live) -> None:
    done = await live.deployed()
    assert await code_of(await_seats(live.client, done.agent, within_s=0.3)) == NOT_READY.code
