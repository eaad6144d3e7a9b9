"""A gateway over a real development chain, for tests that send transactions. No workers behind it."""

from __future__ import annotations

import time
from collections.abc import Sequence

from aiohttp import ClientSession, web
from coincurve import PrivateKey

from cloister.chain.deploy import FREE_SEATS
from cloister.chain.headers import fetch_header
from cloister.chain.rpc import Rpc
from cloister.core.attestation.policy import devnet
from cloister.core.attestation.roots import Roots
from cloister.core.chainview.seats import RulesRecord
from cloister.core.encoding.hexes import to_hex
from cloister.core.encoding.network import ContractRef, Genesis, Network
from cloister.core.encoding.signatures import SignerSet, address_of, sign_digest
from cloister.core.encoding.statements import Checkpoint
from support.anvil import ENDPOINTS, THRESHOLD, TRANSCRIPT, TestChain, found_committee, fresh_contracts
from support.fake_gateway import FakeGateway
from support.fake_world import MPK, World


class LiveGateway(FakeGateway):
    """Relays JSON-RPC to the chain and signs checkpoints of its newest final block with the test committee."""

    def __init__(self, chain: TestChain, network: Network, members: tuple[PrivateKey, ...]) -> None:
        super().__init__(World(), [])
        self.chain, self.members = chain, members
        self.network = network.encode()
        self.parsed = network
        self.methods: set[str] = set()

    async def _rpc(self, request: web.Request) -> web.Response:
        asked = await request.json()
        self.methods |= {a["method"] for a in (asked if isinstance(asked, list) else [asked])}
        async with ClientSession() as session, session.post(self.chain.url, json=asked) as answer:
            return web.Response(body=await answer.read(), content_type="application/json")

    async def _checkpoint(self, request: web.Request) -> web.Response:
        async with Rpc(self.chain.url) as rpc:
            head = await fetch_header(rpc, "finalized")
        made = Checkpoint(1, self.chain.chain_id, head.number, head.hash, head.state_root, head.timestamp)
        digest = made.digest(self.parsed.id)
        signatures = [to_hex(sign_digest(k, digest)) for k in self.members[:THRESHOLD]]
        return web.json_response({"checkpoint": made.to_json(), "signatures": signatures})

    def clock(self) -> float:
        """The machine's own."""
        return time.time()


async def live_gateway(
    chain: TestChain, *, rules: RulesRecord = FREE_SEATS, endpoints: Sequence[str] = ENDPOINTS
) -> LiveGateway:
    """New contracts, a founded committee with a real master key, and a gateway over them (not serving yet)."""
    policy = devnet(Roots.of({"intel": [b"\x01" * 32]}))
    fresh = await fresh_contracts(chain, policy_hash=policy.hash(), rules=rules)
    async with Rpc(chain.url) as rpc:
        first = await fetch_header(rpc, 0)
        genesis = Genesis(
            mode="devnet",
            chain_id=chain.chain_id,
            genesis_hash=first.hash,
            contracts={n: ContractRef(a, fresh.code_hashes[n]) for n, a in fresh.contracts.items()},
            policy=policy.to_json(),
            roots={v: tuple(p) for v, p in policy.roots.to_json().items()},
            header_verifier="rpc-quorum",
        )
        await found_committee(
            rpc,
            chain.chain_id,
            fresh.contracts["Gatekeepers"],
            chain.deployer,
            chain.members,
            genesis=genesis.genesis_id(),
            mpk=MPK,
            transcript=TRANSCRIPT,
            endpoints=endpoints,
        )
    signers = SignerSet(1, THRESHOLD, tuple(address_of(k) for k in chain.members))
    network = Network(genesis, signers, TRANSCRIPT, MPK, (MPK,) * len(chain.members), 1)
    return LiveGateway(fresh, network, chain.members)
