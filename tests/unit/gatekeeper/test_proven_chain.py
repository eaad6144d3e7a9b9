"""The chain port over real contracts: every proven founding record says what the contract's own getter says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from coincurve import PrivateKey

from cloister.chain.contracts import call
from cloister.chain.finality import RpcQuorum
from cloister.chain.headers import fetch_header
from cloister.chain.rpc import Rpc
from cloister.chain.tx import Sender
from cloister.core.encoding.network import ContractRef, Genesis
from cloister.core.encoding.signatures import address_of
from cloister.core.encoding.statements import Checkpoint
from cloister.core.errors import CloisterError
from cloister.core.policy.release import Newest
from cloister.gatekeeper.ports import Chain, Snapshot
from cloister.gatekeeper.proven import ProvenChain
from support.anvil import CLASSES, MPK, OPERATORS, TRANSCRIPT, TestChain, fresh_contracts, send


def genesis_of(chain: TestChain) -> Genesis:
    refs = {n: ContractRef(a, chain.code_hashes[n]) for n, a in chain.contracts.items()}
    return Genesis("devnet", chain.chain_id, bytes(32), refs, {}, {}, "rpc-quorum")


@pytest.fixture
async def rpc(chain: TestChain) -> AsyncIterator[Rpc]:
    async with Rpc(chain.url) as made:
        yield made


def proven(chain: TestChain, rpc: Rpc, key: PrivateKey | None = None) -> ProvenChain:
    sender = Sender(rpc, key or chain.keys[4], chain.chain_id)
    return ProvenChain([rpc], RpcQuorum([rpc], 1), genesis_of(chain), sender)


async def final(chain: TestChain, rpc: Rpc) -> Checkpoint:
    """A finalised block that holds everything sent so far."""
    newest = (await fetch_header(rpc, "latest")).number
    for _ in range(400):
        if (await fetch_header(rpc, "finalized")).number >= newest:
            break
        await asyncio.sleep(0.05)
    return await chain.checkpoint(rpc, "finalized")


async def test_founding_records_are_those_of_the_getters(chain: TestChain, rpc: Rpc) -> None:
    port: Chain = proven(chain, rpc)
    at: Snapshot = port.at(await final(chain, rpc))
    target, members = chain.contracts["Gatekeepers"], chain.signers.members
    opened = await call(rpc, target, "Gatekeepers", "ceremony")
    ceremony, seats = await at.open_ceremony(), await at.committee()
    assert ceremony is not None
    assert (ceremony.id, ceremony.base) == (opened["id"], opened["base"])
    assert set(members) <= set(await at.standing())
    said = await call(rpc, target, "Gatekeepers", "committee")
    assert (seats.term, seats.threshold, list(seats.members)) == (said["term"], said["threshold"], said["members"])
    assert (seats.mpk, seats.transcript, seats.network_id) == (MPK, TRANSCRIPT, chain.network)
    assert (seats.term_seed, seats.master_epoch) == (said["termSeed"], said["masterEpoch"])
    for index, candidate in enumerate(await at.candidates(members)):
        assert candidate is not None
        getter = await call(rpc, target, "Gatekeepers", "candidate", members[index])
        assert (candidate.operator, candidate.vendor_class) == (OPERATORS[index], CLASSES[index])
        assert (candidate.dkg_key, candidate.evidence_hash) == (getter["dkgKey"], getter["evidenceHash"])
        assert candidate.endpoint == getter["endpoint"] != ""
    facts = await at.facts(ceremony)
    digests = [await call(rpc, target, "Gatekeepers", "dealing", ceremony.id, m) for m in members]
    assert [facts.committed[i] for i in range(1, len(members) + 1)] == digests
    assert {c.transcript for c in facts.confirmed.values()} == {TRANSCRIPT}
    assert await at.ceremony_at(1) == ceremony
    assert (await at.term_record(1)).members == members
    assert (await at.epoch_record(1)).mpk == MPK
    assert (await at.rules()).ceremony_blocks > 0
    assert await at.handover_signatures(1) == ()


async def test_strangers_and_other_ceremonies_are_empty(chain: TestChain, rpc: Rpc) -> None:
    at = proven(chain, rpc).at(await final(chain, rpc))
    stranger = b"\x55" * 20
    assert await at.candidates((stranger,)) == (None,)
    assert await at.worker(stranger) is None
    assert await at.agent(b"\x55" * 32) is None
    assert stranger not in await at.live_workers()  # the chain is shared: others may have registered some


async def test_before_founding_there_is_a_ceremony_of_zeros(chain: TestChain, rpc: Rpc) -> None:
    fresh = await fresh_contracts(chain)
    port = proven(fresh, rpc, chain.keys[3])
    long = "http://127.0.0.1:8701/" + "x" * 120
    await port.send("setCandidate", b"\1" * 20, b"\2" * 32, b"\3" * 32, b"\4" * 32, long)
    at = port.at(await final(fresh, rpc))
    assert await at.open_ceremony() is None
    seats = await at.committee()
    assert (seats.term, seats.members) == (0, ())
    (candidate,) = await at.candidates((address_of(chain.keys[3]),))
    assert candidate is not None
    assert candidate.endpoint == long, "texts longer than one word are read whole"


async def test_a_call_that_the_contract_refuses_is_named(chain: TestChain, rpc: Rpc) -> None:
    with pytest.raises(CloisterError, match=r"NotAMember|WrongCeremony"):
        await proven(chain, rpc).send("commitDealing", b"\1" * 32, b"\2" * 32)


async def test_headers_come_once_and_in_order(chain: TestChain, rpc: Rpc) -> None:
    port = proven(chain, rpc)
    (first,) = await port.advance()
    for _ in range(400):
        if more := await port.advance():
            break
        await asyncio.sleep(0.05)
    assert more[0].number == first.number + 1
    assert (await port.header(first.number)) == first
    again = proven(chain, rpc)
    again.resume(Checkpoint(1, chain.chain_id, first.number, first.hash, first.state_root, first.timestamp))
    assert (await again.advance())[0] == more[0]


async def test_a_resumed_book_refuses_a_chain_that_does_not_continue_it(chain: TestChain, rpc: Rpc) -> None:
    port = proven(chain, rpc)
    (first,) = await port.advance()
    port.resume(Checkpoint(1, chain.chain_id, first.number - 1, b"\x66" * 32, bytes(32), first.timestamp - 1))
    with pytest.raises(CloisterError):
        while True:
            await port.advance()
            await asyncio.sleep(0.05)


async def test_newest_facts_of_nobody_restrict_nothing(chain: TestChain, rpc: Rpc) -> None:
    port = proven(chain, rpc)
    assert await port.newest(b"\x55" * 32, b"\x55" * 20) == Newest()
    assert await port.newest(None, b"\x55" * 20) == Newest()
    assert await port.balance(address_of(chain.keys[4])) > 0


async def test_a_pause_is_seen_before_it_is_final_by_any_endpoint(chain: TestChain, rpc: Rpc) -> None:
    key = chain.keys[5]
    cluster = await call(rpc, chain.contracts["Clusters"], "Clusters", "defaultCluster")
    await send(chain, rpc, key, "Agents", "deploy", (b"\xc0" * 32, b"\xc1" * 32, cluster, 0, 0, ""))
    number = await call(rpc, chain.contracts["Agents"], "Agents", "count")
    agent = await call(rpc, chain.contracts["Agents"], "Agents", "agentIdOf", number)
    port = proven(chain, rpc)
    found = await port.at(await final(chain, rpc)).agent(agent)
    assert found is not None
    assert (found.code_hash, found.manifest_hash, found.paused) == (b"\xc0" * 32, b"\xc1" * 32, False)
    assert found.seats > 0
    await send(chain, rpc, key, "Agents", "pause", number)
    dead = Rpc("http://127.0.0.1:1", timeout=1)
    some = ProvenChain([rpc, dead], RpcQuorum([rpc], 1), genesis_of(chain), Sender(rpc, key, chain.chain_id))
    assert (await some.newest(agent, b"\x55" * 20)).paused
    none = ProvenChain([dead], RpcQuorum([dead], 1), genesis_of(chain), Sender(rpc, key, chain.chain_id))
    with pytest.raises(CloisterError):
        await none.newest(agent, b"\x55" * 20)
    await dead.close()


async def test_snapshots_are_kept_per_block(chain: TestChain, rpc: Rpc) -> None:
    port = proven(chain, rpc)
    at = await final(chain, rpc)
    assert port.at(at) is port.at(at)
    policy = await port.at(at).policy()
    assert policy.policy_hash == await call(rpc, chain.contracts["Policies"], "Policies", "policyHash")
    assert await port.at(at).listed_at(b"\x55" * 32) == 0
