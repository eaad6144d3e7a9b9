"""Deployment: everything stands where it should, holds what it should, and is what this build was made with."""

from __future__ import annotations

import pytest

from cloister.chain.contracts import call, names
from cloister.chain.deploy import deploy_all, directory_key, verify_deployed
from cloister.chain.rpc import Rpc
from cloister.chain.tx import Sender
from cloister.core.encoding.contexts import Context, digest
from cloister.core.encoding.keccak import keccak256
from cloister.core.encoding.signatures import address_of
from cloister.core.errors import CloisterError
from support.anvil import MEASUREMENT, POLICY_HASH, TestChain, fresh_contracts

OWNER = b"\xda" * 20


async def test_a_fresh_set_is_wired_together(chain: TestChain) -> None:
    deployer = address_of(chain.deployer)
    async with Rpc(chain.url) as rpc:
        at = await deploy_all(
            Sender(rpc, chain.deployer, chain.chain_id), POLICY_HASH, [MEASUREMENT], owner=OWNER, policy_delay=9
        )
        assert set(at) == set(names()) - {"AgentAccount", "RemoteAgents", "Timelock"}
        expectations = [
            ("Agents", "gatekeepers", at["Gatekeepers"]),
            ("Agents", "clusters", at["Clusters"]),
            ("Workers", "gatekeepers", at["Gatekeepers"]),
            ("Workers", "policies", at["Policies"]),
            ("Workers", "owner", OWNER),
            ("Policies", "owner", OWNER),
            ("Policies", "policyDelay", 9),
            ("Policies", "policyHash", POLICY_HASH),
            ("Clusters", "dao", OWNER),
            ("Gatekeepers", "founder", deployer),
            ("Gatekeepers", "owner", OWNER),
            ("Gatekeepers", "seats", at["Seats"]),
            ("Gatekeepers", "token", at["Token"]),
            ("Gatekeepers", "election", at["Election"]),
            ("Gatekeepers", "reseals", at["Reseals"]),
            ("Directory", "owner", deployer),
            ("Directory", "pendingOwner", OWNER),
            ("AgentAccounts", "agents", at["Agents"]),
            ("Anchor", "agents", at["Agents"]),
            ("Anchor", "committee", at["Gatekeepers"]),
            ("Anchor", "founder", bytes(20)),
            ("Reputation", "agents", at["Agents"]),
            ("Validation", "agents", at["Agents"]),
            ("Validation", "gatekeepers", at["Gatekeepers"]),
            ("Stakes", "token", at["Token"]),
            ("Stakes", "workers", at["Workers"]),
            ("Stakes", "owner", OWNER),
        ]
        for name, getter, value in expectations:
            assert await call(rpc, at[name], name, getter) == value, (name, getter)
        assert await call(rpc, at["Token"], "Token", "balanceOf", OWNER) == 10**27
        founded = await call(rpc, at["Policies"], "Policies", "foundedAt")
        assert await call(rpc, at["Policies"], "Policies", "listedAtBlock", MEASUREMENT) == founded


async def test_the_directory_knows_every_contract(chain: TestChain) -> None:
    async with Rpc(chain.url) as rpc:
        for name, address in chain.contracts.items():
            if name != "Directory":
                found = await call(rpc, chain.contracts["Directory"], "Directory", "latest", directory_key(name))
                assert found == (1, address)


async def test_code_hashes_are_those_of_the_chain(chain: TestChain) -> None:
    async with Rpc(chain.url) as rpc:
        for name, expected in (await verify_deployed(rpc, chain.contracts)).items():
            code = await rpc.call("eth_getCode", "0x" + chain.contracts[name].hex(), "latest")
            assert keccak256(bytes.fromhex(code[2:])) == expected == chain.code_hashes[name]


async def test_another_contract_at_the_address_is_named(chain: TestChain) -> None:
    swapped = {"Agents": chain.contracts["Workers"]}
    empty = {"Agents": b"\x99" * 20}
    async with Rpc(chain.url) as rpc:
        for contracts in (swapped, empty):
            with pytest.raises(CloisterError) as caught:
                await verify_deployed(rpc, contracts)
            assert caught.value.code == "chain.wrong_code"


async def test_a_policy_hash_has_32_bytes(chain: TestChain) -> None:
    async with Rpc(chain.url) as rpc:
        with pytest.raises(CloisterError):
            await deploy_all(Sender(rpc, chain.deployer, chain.chain_id), b"short")


async def test_the_founded_network_id_is_the_specs(chain: TestChain) -> None:
    """spec/encoding.md 7, computed in Python and by the contract."""
    async with Rpc(chain.url) as rpc:
        committee = await call(rpc, chain.contracts["Gatekeepers"], "Gatekeepers", "committee")
    assert committee["networkId"] == digest(Context.NETWORK_ID, b"network", chain.genesis, committee["transcript"])
    assert committee["networkId"] == chain.network


async def test_a_fresh_set_has_nobody_in_office(chain: TestChain) -> None:
    fresh = await fresh_contracts(chain)
    async with Rpc(chain.url) as rpc:
        assert await call(rpc, fresh.contracts["Gatekeepers"], "Gatekeepers", "term") == 0
    assert fresh.contracts["Agents"] != chain.contracts["Agents"]
