"""A chain that stands for a connected one: an Anchor and a registry of remote agents, over real contracts."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

from cloister.chain.contracts import call, encode, encode_constructor
from cloister.chain.proven import ProvenState
from cloister.chain.proven_calls import ProvenCalls
from cloister.chain.rpc import Rpc
from cloister.chain.tx import Sender, create_address
from cloister.core.chainview.records import agent_id
from cloister.core.encoding.contract_statements import RemoteAgent
from cloister.core.encoding.hexes import to_hex
from cloister.core.encoding.signatures import Signed
from cloister.core.encoding.statements import Checkpoint, SetSigner
from cloister.worker.remote import Registry, Teller
from cloister.worker.state import AgentState
from support.anvil import TestChain, send, test_key

OWNER = test_key("owner of a remote agent")


@dataclass
class There:
    """A chain that does not know the network's contracts: here the same blocks, other contracts. It stands for the
    watch of the network's own chain, for the connected chain, and for the committee."""

    chain: TestChain
    rpc: Rpc
    sender: Sender
    state: AgentState | None = None
    agent: bytes = b""
    anchor: bytes = b""
    remote: bytes = b""
    paused: bool = False
    later: int = 0
    asked: list[RemoteAgent] = field(default_factory=list)
    at: Checkpoint | None = None

    async def open(self, *, registry: bool = True) -> There:
        owner = self.chain.fund(OWNER)
        await send(self.chain, self.rpc, owner, "Agents", "register")
        token = await call(self.rpc, self.chain.contracts["Agents"], "Agents", "count")
        self.agent = agent_id(self.chain.chain_id, self.chain.contracts["Agents"], token)
        founder = Sender(self.rpc, owner, self.chain.chain_id)
        if registry:
            nonce = int(await self.rpc.call("eth_getTransactionCount", to_hex(founder.address), "latest"), 16)
            made = await founder.send(
                None, encode_constructor("RemoteAgents", create_address(founder.address, nonce + 1))
            )
            assert made.contract is not None
            self.remote = made.contract
        made = await founder.send(
            None, encode_constructor("Anchor", self.remote or bytes(20), bytes(20), founder.address)
        )
        assert made.contract is not None
        self.anchor = made.contract
        committee = await call(self.rpc, self.chain.contracts["Gatekeepers"], "Gatekeepers", "committee")
        expiry = int(time.time()) + 80 * 86400
        install = encode(
            "Anchor", "install", committee["networkId"], 1, committee["members"], committee["threshold"], expiry
        )
        await founder.send(self.anchor, install)
        await self.look()
        return self

    async def look(self) -> None:
        """A new checkpoint."""
        found = await self.chain.checkpoint(self.rpc)
        self.at = replace(found, timestamp=found.timestamp + self.later)

    # as a connected chain, and as the watch
    @property
    def record(self) -> Any:
        return SimpleNamespace(anchor=SimpleNamespace(address=self.anchor), chain_id=self.chain.chain_id)

    def calls(self) -> ProvenCalls:
        return ProvenCalls(self.rpc, self.require_fresh())

    def require_fresh(self) -> Checkpoint:
        assert self.at is not None
        return self.at

    def seen_paused(self, agent: bytes) -> bool:
        return self.paused

    def proven(self) -> ProvenState:
        return ProvenState(self.rpc, self.chain.contracts, self.require_fresh(), code_hashes=self.chain.code_hashes)

    # as the committee
    async def remote_agent(self, asked: RemoteAgent) -> Signed:
        self.asked.append(asked)
        return Signed(asked, tuple(self.chain.sign(asked)))

    async def account_signer(self, asked: SetSigner) -> Signed:
        return Signed(asked, tuple(self.chain.sign(asked)))

    def registry(self) -> Registry:
        chain: Any = self
        return Registry(chain)

    def teller(self) -> Teller:
        chain: Any = self
        watch: Any = SimpleNamespace(seen_paused=self.seen_paused, require_fresh=self.require_fresh, state=self.proven)
        return Teller(chain, self.registry(), watch, self, self.agent)

    async def owner(self, to: bytes, contract: str, function: str, *args: object) -> None:
        await Sender(self.rpc, OWNER, self.chain.chain_id).send(to, encode(contract, function, *args))
