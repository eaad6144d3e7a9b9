"""A development chain for tests: one anvil per test session, contracts deployed, a founded committee, funded keys.

Loaded as a plugin by tests/conftest.py, so a test just asks for the fixture ``chain``. Blocks come every 0.2 s.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from coincurve import PrivateKey

from cloister.chain.anvil import Anvil, ensure_anvil
from cloister.chain.contracts import call, encode
from cloister.chain.deploy import FREE_SEATS, deploy_all, verify_deployed
from cloister.chain.headers import fetch_header
from cloister.chain.rpc import Rpc
from cloister.chain.tx import Receipt, Sender
from cloister.core.chainview.seats import RulesRecord
from cloister.core.encoding.contexts import Context, digest
from cloister.core.encoding.signatures import SignerSet, address_of, sign_digest
from cloister.core.encoding.statements import Checkpoint, Statement
from cloister.core.policy.release import vendor_class_id

CACHE = Path(__file__).resolve().parents[2] / ".build" / "deno"
POLICY_HASH = digest(Context.POLICY, b"test policy")
MEASUREMENT = digest(Context.MEASUREMENT, b"worker", b"test measurement")
# Vendor classes of the five test members: 2 + 2 + 1.
CLASSES = tuple(vendor_class_id(name) for name in ("intel", "intel", "amd", "amd", "aws"))
OPERATORS = tuple(hashlib.sha256(b"operator" + bytes([i])).digest()[:20] for i in range(5))
ENDPOINTS = tuple(f"http://127.0.0.1:{9000 + i}" for i in range(5))
THRESHOLD = 3
# A stand-in key: these chain tests check that 96 bytes arrive, not that they are a curve point.
MPK = bytes(range(96))
TRANSCRIPT = hashlib.sha256(b"transcript").digest()


def test_key(name: str) -> PrivateKey:
    """A key that only tests use, the same in every run."""
    return PrivateKey(hashlib.sha256(b"cloister test key " + name.encode()).digest())


test_key.__test__ = False  # type: ignore[attr-defined]


@dataclass(frozen=True)
class TestChain:
    """A running chain. ``contracts``: name -> address; ``members`` found the committee of ``contracts``."""

    __test__ = False

    anvil: Anvil
    contracts: dict[str, bytes]
    code_hashes: dict[str, bytes]
    genesis: bytes
    network: bytes
    deployer: PrivateKey
    members: tuple[PrivateKey, ...]
    keys: tuple[PrivateKey, ...] = field(repr=False)

    @property
    def url(self) -> str:
        """The RPC endpoint."""
        return self.anvil.url

    @property
    def chain_id(self) -> int:
        """Chain id, random per session."""
        return self.anvil.chain_id

    @property
    def signers(self) -> SignerSet:
        """The founded committee: term 1."""
        return SignerSet(1, THRESHOLD, tuple(address_of(m) for m in self.members))

    def fund(self, key: PrivateKey) -> PrivateKey:
        """Give a key's address a balance; returns the key."""
        self.give(address_of(key))
        return key

    def give(self, address: bytes) -> None:
        """1000 ether by a transaction, included at once.

        Not by ``anvil_setBalance``: that changes state under a header, and proofs of that block fail from then on."""
        rich = self.anvil.rpc("eth_accounts")[0]
        gift = {"from": rich, "to": "0x" + address.hex(), "value": hex(1000 * 10**18)}
        if self.anvil.rpc("eth_sendTransaction", gift) is None:
            raise RuntimeError("the chain's own account gives nothing")
        self.anvil.rpc("evm_mine")

    def sign(self, statement: Statement, count: int = THRESHOLD) -> list[bytes]:
        """Signatures of the first ``count`` members."""
        return [sign_digest(m, statement.digest(self.network)) for m in self.members[:count]]

    async def checkpoint(self, rpc: Rpc, tag: int | str = "latest") -> Checkpoint:
        """A checkpoint of a block, as a member would build it, when the chain is past it.

        Anvil proves its newest block from what it holds at that moment: a block mined meanwhile spoils the proof."""
        head = await fetch_header(rpc, tag)
        for _ in range(500):
            if int(await rpc.call("eth_blockNumber"), 16) > head.number:
                break
            await asyncio.sleep(0.02)
        return Checkpoint(1, self.chain_id, head.number, head.hash, head.state_root, head.timestamp)


async def send(
    chain: TestChain, rpc: Rpc, key: PrivateKey, name: str, fn: str, *args: object, value: int = 0
) -> Receipt:
    """One contract call by ``key``, waited for."""
    sender = Sender(rpc, key, chain.chain_id)
    return await sender.send(chain.contracts[name], encode(name, fn, *args), value)


async def found_committee(
    rpc: Rpc,
    chain_id: int,
    gatekeepers: bytes,
    founder: PrivateKey,
    members: Sequence[PrivateKey],
    *,
    genesis: bytes,
    threshold: int = THRESHOLD,
    mpk: bytes = MPK,
    transcript: bytes = TRANSCRIPT,
    endpoints: Sequence[str] = ENDPOINTS,
) -> bytes:
    """Play the founding ceremony with given values (no real sharing); returns the network id. Keys must be funded."""
    senders = [Sender(rpc, key, chain_id) for key in members]

    async def all_send(fn: str, rows: Sequence[tuple[object, ...]]) -> None:
        pairs = zip(senders, rows, strict=True)
        await asyncio.gather(*(s.send(gatekeepers, encode("Gatekeepers", fn, *row)) for s, row in pairs))

    rows = [(OPERATORS[i], CLASSES[i], bytes([i + 1]) * 32, bytes([i + 1]) * 32, endpoints[i])
            for i in range(len(members))]  # fmt: skip
    await all_send("setCandidate", rows)
    opening = encode("Gatekeepers", "openFounding", [s.address for s in senders], threshold, genesis)
    await Sender(rpc, founder, chain_id).send(gatekeepers, opening)
    ceremony = (await call(rpc, gatekeepers, "Gatekeepers", "ceremony"))["id"]
    await all_send("commitDealing", [(ceremony, hashlib.sha256(s.address).digest()) for s in senders])
    await all_send("content", [(ceremony, 1)] * len(members))
    await all_send("confirm", [(ceremony, mpk, transcript, (1 << len(members)) - 1)] * len(members))
    network: bytes = await call(rpc, gatekeepers, "Gatekeepers", "networkId")
    return network


async def fresh_contracts(
    chain: TestChain,
    *,
    policy_hash: bytes = POLICY_HASH,
    measurements: Sequence[bytes] = (MEASUREMENT,),
    rules: RulesRecord = FREE_SEATS,
) -> TestChain:
    """The same chain with a new set of contracts and nobody in office: for tests that found for themselves."""
    async with Rpc(chain.url) as rpc:
        contracts = await deploy_all(
            Sender(rpc, chain.deployer, chain.chain_id), policy_hash, measurements, rules=rules
        )
        return replace(chain, contracts=contracts, code_hashes=await verify_deployed(rpc, contracts), network=bytes(32))


async def _prepare(anvil: Anvil) -> TestChain:
    deployer, members = test_key("deployer"), tuple(test_key(f"member {i}") for i in range(5))
    keys = tuple(test_key(f"user {i}") for i in range(6))
    for key in (deployer, *members, *keys):
        anvil.fund(address_of(key))
    anvil.fund(bytes.fromhex(anvil.rpc("eth_accounts")[0][2:]), 10**9 * 10**18)
    genesis = hashlib.sha256(b"genesis" + anvil.chain_id.to_bytes(8, "big")).digest()
    async with Rpc(anvil.url) as rpc:
        contracts = await deploy_all(Sender(rpc, deployer, anvil.chain_id), POLICY_HASH, [MEASUREMENT])
        network = await found_committee(
            rpc, anvil.chain_id, contracts["Gatekeepers"], deployer, members, genesis=genesis
        )
        codes = await verify_deployed(rpc, contracts)
    return TestChain(anvil, contracts, codes, genesis, network, deployer, members, keys)


@pytest.fixture(scope="session")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestChain]:
    """A chain with contracts and a founded committee, for the whole session."""
    cache = Path(os.environ.get("CLOISTER_BUILD_CACHE", CACHE))
    anvil = Anvil(ensure_anvil(cache), tmp_path_factory.mktemp("anvil") / "chain.json", block_time=0.2)
    with anvil:
        yield asyncio.run(_prepare(anvil))
