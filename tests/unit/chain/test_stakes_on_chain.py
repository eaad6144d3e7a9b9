"""Stake and caps as gatekeepers read them, by proof, on a real chain (spec/policy.md 5)."""

from __future__ import annotations

import os

from cloister.chain.contracts import call
from cloister.chain.rpc import Rpc
from cloister.chain.tx import Sender
from cloister.core.chainview.header import Header
from cloister.core.encoding.network import ContractRef, Genesis
from cloister.core.encoding.signatures import address_of
from cloister.core.encoding.statements import WorkerAdmission
from cloister.core.policy.caps import Backing
from cloister.gatekeeper.proven import ProvenChain, ProvenSnapshot
from support.anvil import MEASUREMENT, TestChain, send, test_key


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
