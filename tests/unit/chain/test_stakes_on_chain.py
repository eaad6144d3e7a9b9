"""Stake and caps as gatekeepers read them, by proof, on a real chain (spec/policy.md 4, 5)."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Sequence
from dataclasses import replace

from coincurve import PrivateKey

from cloister.chain.contracts import call
from cloister.chain.deploy import FREE_SEATS
from cloister.chain.rpc import Rpc
from cloister.chain.tx import Sender
from cloister.core.chainview.header import Header
from cloister.core.encoding.network import ContractRef, Genesis
from cloister.core.encoding.signatures import address_of
from cloister.core.encoding.statements import WorkerAdmission
from cloister.core.policy.caps import Backing
from cloister.gatekeeper.proven import ProvenChain, ProvenSnapshot
from support.anvil import MEASUREMENT, MPK, TestChain, found_committee, fresh_contracts, send, test_key


async def newest(chain: TestChain, rpc: Rpc, *, without: str = "") -> ProvenSnapshot:
    """Proven state at the newest block, as a gatekeeper reads it."""
    refs = {n: ContractRef(a, chain.code_hashes[n]) for n, a in chain.contracts.items() if n != without}
    genesis = Genesis("devnet", chain.chain_id, bytes(32), refs, {}, {}, "rpc-quorum")

    class Never:
        async def finalized(self) -> Header:
            raise RuntimeError("not asked")

    port = ProvenChain([rpc], Never(), genesis, Sender(rpc, chain.keys[4], chain.chain_id))  # type: ignore[arg-type]
    return port.at(await chain.checkpoint(rpc))


async def test_stake_behind_a_worker_is_proven_and_counts_for_its_operator_alone(chain: TestChain) -> None:
    async with Rpc(chain.url) as rpc:
        worker, at = chain.fund(test_key("staked worker")), chain.contracts["Stakes"]
        who, operator = address_of(worker), address_of(worker)
        said = WorkerAdmission(1, who, operator, b"\5" * 32, MEASUREMENT, os.urandom(32), 10_000_000)
        fields = [getattr(said, one) for one in said.TYPES]
        await send(chain, rpc, worker, "Workers", "register", fields, chain.sign(said), "http://127.0.0.1:1")
        assert await (await newest(chain, rpc)).backing(who) == Backing(0, 0, 0, operator), "a new network: no caps"
        await send(chain, rpc, chain.deployer, "Stakes", "setCaps", (100, 7, 50))
        await send(chain, rpc, chain.deployer, "Token", "approve", at, 10**18)
        await send(chain, rpc, chain.deployer, "Stakes", "stake", who, 350)
        assert await (await newest(chain, rpc)).backing(who) == Backing(350, 100, 7, operator)
        await send(chain, rpc, worker, "Stakes", "unstake", who, 200)
        assert await (await newest(chain, rpc)).backing(who) == Backing(150, 100, 7, operator), "what leaves backs none"
        said = WorkerAdmission(1, who, b"\x0f" * 20, b"\5" * 32, MEASUREMENT, os.urandom(32), 10_000_001)
        fields = [getattr(said, one) for one in said.TYPES]
        await send(chain, rpc, worker, "Workers", "register", fields, chain.sign(said), "http://127.0.0.1:1")
        assert await (await newest(chain, rpc)).backing(who) == Backing(0, 100, 7, b"\x0f" * 20), "another's stake"
        assert (await call(rpc, at, "Stakes", "stakeOf", who))["leaving"] == 200
        assert await (await newest(chain, rpc)).backing(b"\x77" * 20) == Backing(0, 100, 7, b""), "a stranger"
        assert await (await newest(chain, rpc, without="Stakes")).backing(who) == Backing(), "an older network"
        await send(chain, rpc, chain.deployer, "Stakes", "setCaps", (100, 0, 50))
        second = chain.fund(test_key("second staked worker"))
        two = address_of(second)
        said = WorkerAdmission(1, two, two, b"\5" * 32, MEASUREMENT, os.urandom(32), 10_000_000)
        fields = [getattr(said, one) for one in said.TYPES]
        await send(chain, rpc, second, "Workers", "register", fields, chain.sign(said), "http://127.0.0.1:1")
        await send(chain, rpc, chain.deployer, "Stakes", "stake", two, 350)
        found = await (await newest(chain, rpc)).placeable(256)
        assert (found[who], found[two]) == (0, 3 << 32), "another's stake weighs nothing"
        assert (await (await newest(chain, rpc)).placeable(2))[two] == 2 << 32, "the policy's cap"
        assert set((await (await newest(chain, rpc, without="Stakes")).placeable(256)).values()) == {1}
        await send(chain, rpc, chain.deployer, "Stakes", "setCaps", (0, 0, 50))
        assert set((await (await newest(chain, rpc)).placeable(256)).values()) == {1}, "no caps: all weigh the same"


# --- over terms (spec/policy.md 4) ---

QUICK = replace(FREE_SEATS, ceremony_blocks=100, term_blocks=1, refresh_blocks=1, erase_delay=8)


async def founded(chain: TestChain, rpc: Rpc) -> TestChain:
    """New contracts with a committee whose terms are as short as one likes."""
    own = await fresh_contracts(chain, rules=QUICK)
    at = own.contracts["Gatekeepers"]
    network = await found_committee(rpc, chain.chain_id, at, chain.deployer, chain.members, genesis=chain.genesis)
    return replace(own, network=network)


async def together(chain: TestChain, rpc: Rpc, fn: str, rows: Sequence[tuple[object, ...]]) -> None:
    pairs = zip(chain.members, rows, strict=True)
    await asyncio.gather(*(send(chain, rpc, key, "Gatekeepers", fn, *row) for key, row in pairs))


async def next_term(chain: TestChain, rpc: Rpc) -> None:
    """The same members take office once more; nobody shares anything."""
    new = await call(rpc, chain.contracts["Gatekeepers"], "Gatekeepers", "term") + 1
    digests = [hashlib.sha256(b"%d %d" % (new, i)).digest() for i in range(5)]
    await together(chain, rpc, "setKey", [(digest, b"\x09" * 32) for digest in digests])
    for _ in range(5):  # the contract asks for one window between two ceremonies
        chain.anvil.rpc("anvil_mine", hex(QUICK.ceremony_blocks // 4))
    await send(chain, rpc, chain.deployer, "Gatekeepers", "refresh")
    ceremony = (await call(rpc, chain.contracts["Gatekeepers"], "Gatekeepers", "ceremony"))["id"]
    await together(chain, rpc, "commitDealing", [(ceremony, digest) for digest in digests])
    await together(chain, rpc, "content", [(ceremony, 1)] * 5)
    await together(chain, rpc, "confirm", [(ceremony, MPK, digests[0], 31)] * 5)
    assert await call(rpc, chain.contracts["Gatekeepers"], "Gatekeepers", "term") == new


async def registered(chain: TestChain, rpc: Rpc, name: str, term: int) -> tuple[PrivateKey, bytes]:
    key = chain.fund(test_key(name))
    said = WorkerAdmission(term, address_of(key), address_of(key), b"\5" * 32, MEASUREMENT, os.urandom(32), 10_000_000)
    fields = [getattr(said, one) for one in said.TYPES]
    await send(chain, rpc, key, "Workers", "register", fields, chain.sign(said), "http://127.0.0.1:1")
    return key, address_of(key)


async def test_what_is_raised_in_a_term_weighs_from_the_next_one_on(chain: TestChain) -> None:
    async with Rpc(chain.url) as rpc:
        own = await founded(chain, rpc)
        at = own.contracts["Stakes"]

        async def weighs() -> list[int]:
            """By proof, in agents; the contract's own word beside it."""
            found = await (await newest(own, rpc)).placeable(256)
            for worker, weight in found.items():
                assert weight == (await call(rpc, at, "Stakes", "counted", worker)) // 100 << 32
            return [found.get(who, 0) >> 32 for who in (one, two)]

        async def stake(who: bytes, amount: int) -> None:
            await send(own, rpc, own.deployer, "Stakes", "stake", who, amount)

        key, one = await registered(own, rpc, "a worker over terms", 1)
        two = address_of(test_key("a worker of term 2"))
        await send(own, rpc, own.deployer, "Stakes", "setCaps", (100, 0, 50))
        await send(own, rpc, own.deployer, "Token", "approve", at, 10**18)
        await stake(one, 300)
        assert await weighs() == [3, 0], "in the first term at once"
        await next_term(own, rpc)
        assert await weighs() == [3, 0]
        await stake(one, 400)
        await registered(own, rpc, "a worker of term 2", 2)
        await stake(two, 500)
        assert await weighs() == [3, 0], "the seed is known: nothing more weighs in this term"
        assert (await (await newest(own, rpc)).backing(one)).stake == 700, "what it may be granted counts at once"
        await send(own, rpc, key, "Stakes", "unstake", one, 600)
        assert await weighs() == [1, 0], "what leaves weighs nothing at once"
        await stake(one, 600)
        assert await weighs() == [1, 0]
        await next_term(own, rpc)
        assert await weighs() == [7, 5]
