"""Proven state: every record equals the contract's own getter, and no lie of the endpoint gets through."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable
from typing import Any

import pytest
from coincurve import PrivateKey

from cloister.chain.contracts import call
from cloister.chain.proven import ProvenState
from cloister.chain.rpc import Rpc
from cloister.core.chainview.records import UpgradeMode, agent_id
from cloister.core.encoding.signatures import address_of
from cloister.core.encoding.statements import Checkpoint, WorkerAdmission, WorkerRemoval
from cloister.core.errors import ChainError, ChainViewError, CloisterError
from support.anvil import CLASSES, MEASUREMENT, MPK, POLICY_HASH, TRANSCRIPT, TestChain, fresh_contracts, send, test_key
from support.liar import liar

CODE, MANIFEST = b"\x0c" * 32, b"\x0d" * 32


async def state(chain: TestChain, rpc: Rpc, **changes: Any) -> ProvenState:
    """Proven state at the newest block."""
    at = dataclasses.replace(await chain.checkpoint(rpc), **changes)
    return ProvenState(rpc, chain.contracts, at, code_hashes=chain.code_hashes)


async def deploy_agent(chain: TestChain, rpc: Rpc, owner: PrivateKey, mode: int = 1, delay: int = 9) -> bytes:
    cluster = await call(rpc, chain.contracts["Clusters"], "Clusters", "defaultCluster")
    await send(chain, rpc, owner, "Agents", "deploy", (CODE, MANIFEST, cluster, mode, delay, "ipfs://agent"))
    token = await call(rpc, chain.contracts["Agents"], "Agents", "count")
    return agent_id(chain.chain_id, chain.contracts["Agents"], token)


async def admit(chain: TestChain, rpc: Rpc, name: str, endpoint: str, blocks: int = 10_000) -> PrivateKey:
    """Register a worker with the committee's signatures."""
    key = chain.fund(test_key(name))
    height = int(await rpc.call("eth_blockNumber"), 16)
    boot = hashlib.sha256(name.encode()).digest()
    value = WorkerAdmission(1, address_of(key), b"\x0e" * 20, CLASSES[0], MEASUREMENT, boot, height + blocks)
    await send(chain, rpc, key, "Workers", "register", value, chain.sign(value), endpoint)
    return key


# --- records against getters ---

NAMES = {
    "tokenId": "token_id", "codeHash": "code_hash", "manifestHash": "manifest_hash", "upgradeMode": "upgrade_mode",
    "upgradeDelay": "upgrade_delay", "secretsHash": "secrets_hash", "secretsVersion": "secrets_version",
    "secretsSetter": "secrets_setter", "secretsEpoch": "secrets_epoch", "vendorClass": "vendor_class",
    "registeredAt": "registered_at", "secretsCluster": "secrets_cluster",
    "secretsClusterEpoch": "secrets_cluster_epoch", "secretsMasterEpoch": "secrets_master_epoch",
    "wipedBelow": "wiped_below",
}  # fmt: skip


def same(record: Any, getter: dict[str, Any], *, ignore: tuple[str, ...] = ()) -> None:
    """Every field of the getter's struct is in the record with the same value."""
    for name, value in getter.items():
        if name not in ignore:
            assert getattr(record, NAMES.get(name, name)) == value, name


async def test_an_agent_through_its_life(chain: TestChain) -> None:
    owner, buyer, guardian = chain.keys[0], chain.keys[1], address_of(chain.keys[2])
    async with Rpc(chain.url) as rpc:
        agent = await deploy_agent(chain, rpc, owner)
        token = await call(rpc, chain.contracts["Agents"], "Agents", "count")
        steps: list[tuple[PrivateKey, str, tuple[Any, ...]]] = [
            (owner, "setSecrets", (token, b"\x05" * 32)),
            (owner, "setGuardian", (token, guardian)),
            (chain.keys[2], "pause", (token,)),
            (owner, "bumpEpoch", (token,)),
            (owner, "freeze", (token,)),
            (owner, "transferFrom", (address_of(owner), address_of(buyer), token)),
            (buyer, "resume", (token,)),
        ]
        for key, fn, args in steps:
            await send(chain, rpc, key, "Agents", fn, *args)
            record = await (await state(chain, rpc)).agent(agent)
            assert record is not None
            getter = await call(rpc, chain.contracts["Agents"], "Agents", "agent", agent)
            same(record, getter, ignore=("bumpedAt", "canary"))
            assert (record.canary, getter["canary"]) == (None, 0)
        assert record is not None
        assert record.upgrade_mode is UpgradeMode.FROZEN
        assert (record.epoch, record.paused, record.owner) == (3, False, address_of(buyer))
        assert (record.secrets_hash, record.secrets_version) == (bytes(32), 2)
        assert await (await state(chain, rpc)).agent_count() == token


async def test_workers_alone_and_in_the_list(chain: TestChain) -> None:
    fresh = await fresh_contracts(chain)
    chain = dataclasses.replace(fresh, network=await _found(fresh))
    async with Rpc(chain.url) as rpc:
        keys = [
            await admit(chain, rpc, "worker one", "http://127.0.0.1:1"),
            await admit(chain, rpc, "worker two", "http://" + "long." * 20 + "example:1"),
            await admit(chain, rpc, "worker three", "x" * 256),
        ]
        await send(chain, rpc, keys[0], "Workers", "heartbeat")
        removal = WorkerRemoval(1, address_of(keys[2]))
        view = await state(chain, rpc)
        found = await view.workers()
        assert [w.worker for w in found] == [address_of(k) for k in keys]
        assert all(w.live_at(view.checkpoint.number) for w in found)
        await send(chain, rpc, chain.keys[0], "Workers", "removeByCommittee", removal, chain.sign(removal))
        await send(chain, rpc, keys[0], "Workers", "depart", address_of(keys[0]))
        view = await state(chain, rpc)
        assert [w.worker for w in await view.workers()] == [address_of(keys[1])]
        for key in keys:
            record = await view.worker(address_of(key))
            assert record is not None
            getter = await call(rpc, chain.contracts["Workers"], "Workers", "worker", address_of(key))
            same(record, getter, ignore=("index",))
        gone = [await view.newest_removed(address_of(k)) for k in keys]
        assert gone == [True, False, True]
        assert not await view.newest_removed(b"\x77" * 20)


async def _found(fresh: TestChain) -> bytes:
    from support.anvil import found_committee

    async with Rpc(fresh.url) as rpc:
        return await found_committee(
            rpc, fresh.chain_id, fresh.contracts["Gatekeepers"], fresh.deployer, fresh.members, genesis=fresh.genesis
        )


async def test_committee_policy_and_cluster(chain: TestChain) -> None:
    async with Rpc(chain.url) as rpc:
        view = await state(chain, rpc)
        committee = await view.committee()
        getter = await call(rpc, chain.contracts["Gatekeepers"], "Gatekeepers", "committee")
        assert committee.signers() == chain.signers
        assert (committee.mpk, committee.transcript) == (MPK, TRANSCRIPT)
        assert (committee.network_id, committee.term_seed) == (chain.network, getter["termSeed"])
        assert (committee.master_epoch, committee.threshold) == (1, getter["threshold"])
        assert await view.policy_hash() == POLICY_HASH
        policy = await view.policy()
        assert policy.founded_at == await call(rpc, chain.contracts["Policies"], "Policies", "foundedAt")
        listed = await view.listed_at(MEASUREMENT)
        assert policy.counts(listed, 10**9, view.checkpoint.number)
        assert await view.listed_at(b"\x01" * 32) == 0
        default = await call(rpc, chain.contracts["Clusters"], "Clusters", "defaultCluster")
        cluster = await view.cluster(default)
        assert cluster is not None
        found = await call(rpc, chain.contracts["Clusters"], "Clusters", "cluster", default)
        same(cluster, found, ignore=("bumpedAt", "maxEpochAge"))


async def test_what_does_not_exist_is_none_or_named(chain: TestChain) -> None:
    fresh = await fresh_contracts(chain)
    async with Rpc(chain.url) as rpc:
        view = await state(fresh, rpc)
        assert await view.agent(b"\x01" * 32) is None
        assert await view.worker(b"\x01" * 20) is None
        assert await view.cluster(b"\x01" * 32) is None
        assert await view.workers() == ()
        assert not await view.newest_paused(b"\x01" * 32)
        with pytest.raises(ChainViewError) as caught:
            await view.committee()
        assert caught.value.code == "chainview.no_committee"


async def test_a_zero_written_to_a_fresh_slot_reads_as_zero(chain: TestChain) -> None:
    async with Rpc(chain.url) as rpc:
        agent = await deploy_agent(chain, rpc, chain.keys[3])
        token = await call(rpc, chain.contracts["Agents"], "Agents", "count")
        await send(chain, rpc, chain.keys[3], "Agents", "setSecrets", token, bytes(32))
        record = await (await state(chain, rpc)).agent(agent)
        assert record is not None
        assert (record.secrets_hash, record.secrets_version) == (bytes(32), 1)


async def test_a_record_is_as_of_its_checkpoint(chain: TestChain) -> None:
    async with Rpc(chain.url) as rpc:
        agent = await deploy_agent(chain, rpc, chain.keys[3])
        view = await state(chain, rpc)
        token = await call(rpc, chain.contracts["Agents"], "Agents", "count")
        await send(chain, rpc, chain.keys[3], "Agents", "pause", token)
        record = await view.agent(agent)
        assert record is not None
        assert not record.paused
        assert await view.newest_paused(agent)


async def test_one_record_is_one_request(chain: TestChain) -> None:
    requests = []

    def watch(method: str, params: list[Any], result: Any) -> Any:
        requests.append(method)
        return result

    async with Rpc(chain.url) as honest, liar(chain.url, watch) as url, Rpc(url) as rpc:
        agent = await deploy_agent(chain, honest, chain.keys[3])
        view = ProvenState(rpc, chain.contracts, await chain.checkpoint(honest), code_hashes=chain.code_hashes)
        await view.agent(agent)
        assert requests == ["eth_getProof"]
        await view.agent(agent)
        assert requests == ["eth_getProof"], "what is proven is kept"


# --- lies ---


def on_proof(change: Callable[[dict[str, Any]], None]) -> Callable[[str, list[Any], Any], Any]:
    """A lie that changes the answer of eth_getProof in place."""

    def lie(method: str, params: list[Any], result: Any) -> Any:
        if method == "eth_getProof":
            change(result)
        return result

    return lie


def first_set(answer: dict[str, Any]) -> dict[str, Any]:
    return next(dict_ for dict_ in answer["storageProof"] if int(dict_["value"], 16))


def false_value(answer: dict[str, Any]) -> None:
    entry = first_set(answer)
    entry["value"] = hex(int(entry["value"], 16) ^ 1)


def zero_value(answer: dict[str, Any]) -> None:
    first_set(answer)["value"] = "0x0"


def missing_node(answer: dict[str, Any]) -> None:
    first_set(answer)["proof"].pop()


def no_nodes(answer: dict[str, Any]) -> None:
    entry = first_set(answer)
    entry["proof"], entry["value"] = [], "0x0"


def extra_node(answer: dict[str, Any]) -> None:
    entry = first_set(answer)
    entry["proof"].append(entry["proof"][-1])


def flipped_leaf(answer: dict[str, Any]) -> None:
    entry = first_set(answer)
    node = bytearray.fromhex(entry["proof"][-1][2:])
    node[-1] ^= 1
    entry["proof"][-1] = "0x" + node.hex()


def another_slots_proof(answer: dict[str, Any]) -> None:
    entries = answer["storageProof"]
    entries[0], entries[1] = entries[1], entries[0]


def missing_account_node(answer: dict[str, Any]) -> None:
    answer["accountProof"].pop()


def no_account_proof(answer: dict[str, Any]) -> None:
    answer["accountProof"] = []


def one_entry_less(answer: dict[str, Any]) -> None:
    answer["storageProof"].pop()


def no_entries(answer: dict[str, Any]) -> None:
    del answer["storageProof"]


def proof_as_text(answer: dict[str, Any]) -> None:
    first_set(answer)["proof"] = "0x"


def nodes_as_numbers(answer: dict[str, Any]) -> None:
    first_set(answer)["proof"] = [1, 2]


def huge_node(answer: dict[str, Any]) -> None:
    first_set(answer)["proof"][0] = "0x" + "00" * 5000


def thousand_nodes(answer: dict[str, Any]) -> None:
    first_set(answer)["proof"] *= 1000


LIES = [
    false_value, zero_value, missing_node, no_nodes, extra_node, flipped_leaf, another_slots_proof,
    missing_account_node, no_account_proof, one_entry_less, no_entries, proof_as_text, nodes_as_numbers, huge_node,
    thousand_nodes,
]  # fmt: skip


@pytest.mark.parametrize("change", LIES)
async def test_no_lie_gets_through(chain: TestChain, change: Callable[[dict[str, Any]], None]) -> None:
    async with Rpc(chain.url) as honest, liar(chain.url, on_proof(change)) as url, Rpc(url) as rpc:
        view = ProvenState(rpc, chain.contracts, await chain.checkpoint(honest), code_hashes=chain.code_hashes)
        with pytest.raises(CloisterError):
            await view.policy()


@pytest.mark.parametrize("answer", [None, [], "0x", 7, {}, {"accountProof": 1, "storageProof": []}])
async def test_answers_of_another_form(chain: TestChain, answer: Any) -> None:
    def lie(method: str, params: list[Any], result: Any) -> Any:
        return answer if method == "eth_getProof" else result

    async with Rpc(chain.url) as honest, liar(chain.url, lie) as url, Rpc(url) as rpc:
        view = ProvenState(rpc, chain.contracts, await chain.checkpoint(honest))
        with pytest.raises(CloisterError):
            await view.committee()


async def test_a_stale_block_behind_a_newer_checkpoint(chain: TestChain) -> None:
    """The endpoint serves true proofs of an older block: the state root does not fit."""
    async with Rpc(chain.url) as honest:
        old = await chain.checkpoint(honest)
        agent = await deploy_agent(chain, honest, chain.keys[4])
        new = await chain.checkpoint(honest)
        mixed = dataclasses.replace(new, number=old.number)
        with pytest.raises(ChainViewError):
            await ProvenState(honest, chain.contracts, mixed).agent(agent)


async def test_a_block_that_the_endpoint_does_not_have(chain: TestChain) -> None:
    async with Rpc(chain.url) as rpc:
        at = await chain.checkpoint(rpc)
        view = ProvenState(rpc, chain.contracts, dataclasses.replace(at, number=at.number + 10_000))
        with pytest.raises(ChainError):
            await view.policy()


async def test_another_state_root(chain: TestChain) -> None:
    async with Rpc(chain.url) as rpc:
        view = await state(chain, rpc, state_root=b"\x13" * 32)
        with pytest.raises(ChainViewError):
            await view.policy()


async def test_no_contract_at_the_address(chain: TestChain) -> None:
    async with Rpc(chain.url) as rpc:
        view = ProvenState(rpc, {"Policies": b"\x31" * 20}, await chain.checkpoint(rpc))
        with pytest.raises(ChainViewError) as caught:
            await view.policy()
        assert caught.value.code == "chainview.wrong_contract"


async def test_other_code_than_the_network_pins(chain: TestChain) -> None:
    async with Rpc(chain.url) as rpc:
        at: Checkpoint = await chain.checkpoint(rpc)
        view = ProvenState(rpc, chain.contracts, at, code_hashes={"Policies": b"\x13" * 32})
        with pytest.raises(ChainViewError) as caught:
            await view.policy()
        assert caught.value.code == "chainview.wrong_contract"
