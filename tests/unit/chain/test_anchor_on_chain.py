"""An Anchor on a real chain with what Python computes: leases, answers, commits, the queue's chain of hashes."""

from __future__ import annotations

import time
from dataclasses import astuple, dataclass
from typing import Any

import pytest

from cloister.chain import abi
from cloister.chain.contracts import artifact, call
from cloister.chain.events import decode_event
from cloister.chain.rpc import Rpc
from cloister.core.chainview.layout import Layout, mapping_slot
from cloister.core.chainview.records import agent_id
from cloister.core.encoding.contract_statements import AnchorAnswer, AnchorCommit, AnchorLease, TeeValidation
from cloister.core.encoding.hexes import from_hex, to_hex
from cloister.core.encoding.keccak import keccak256
from cloister.core.encoding.signatures import address_of, sign_digest
from cloister.core.errors import ChainError
from support.anvil import TestChain, send, test_key

HOUR = 3600


@dataclass(frozen=True)
class Asked:
    """spec/anchor.md 8: the ten words of a request."""

    agent: bytes
    index: int
    requester: bytes
    fee: int
    code_hash: bytes
    gas_limit: int
    deadline: int
    copies: int
    flags: int
    payload_hash: bytes

    def commitment(self) -> bytes:
        words = [v if isinstance(v, bytes) else v.to_bytes(32, "big") for v in astuple(self)]
        return keccak256(*(w.rjust(32, b"\0") for w in words))


class Desk:
    """An agent, its leased worker, and somebody who asks."""

    def __init__(self, chain: TestChain, rpc: Rpc) -> None:
        self.chain, self.rpc = chain, rpc
        self.anchor, self.owner, self.user = chain.contracts["Anchor"], chain.keys[3], chain.keys[4]
        self.worker = test_key("anchor worker")
        self.token = 0
        self.agent = b""

    async def open(self) -> None:
        """Register an agent, adopt the committee, register the worker's lease."""
        await send(self.chain, self.rpc, self.owner, "Agents", "register")
        self.token = await call(self.rpc, self.chain.contracts["Agents"], "Agents", "count")
        self.agent = agent_id(self.chain.chain_id, self.chain.contracts["Agents"], self.token)
        await send(self.chain, self.rpc, self.user, "Anchor", "adopt")
        lease = AnchorLease(
            1, self.chain.chain_id, self.anchor, self.agent, 1, b"\1" * 32, address_of(self.worker), b"\2" * 32,
            address_of(self.owner), int(time.time()) + 12 * HOUR,
        )  # fmt: skip
        await send(self.chain, self.rpc, self.user, "Anchor", "registerLease", lease, self.chain.sign(lease))

    async def ask(self, payload: bytes, fee: int) -> tuple[Asked, int]:
        """One request; also what it cost in gas."""
        deadline = int(time.time()) + HOUR
        choice = (self.agent, bytes(32), 100_000, deadline, 1, 0)
        receipt = await send(self.chain, self.rpc, self.user, "Anchor", "request", choice, payload, value=fee)
        name, event = decode_event("Anchor", receipt.logs[0])
        assert name == "Requested"
        assert event["payload"] == payload
        terms = [event[k] for k in ("index", "requester", "fee", "codeHash", "gasLimit", "deadline", "copies", "flags")]
        made = Asked(self.agent, *terms, payload_hash=keccak256(payload))
        return made, receipt.gas_used

    def signed(self, asked: Asked, reply: bytes) -> list[tuple[bytes, bytes]]:
        """The worker's signature under an answer."""
        made = AnchorAnswer(self.chain.chain_id, self.anchor, asked.commitment(), keccak256(reply), bytes(32))
        return [(address_of(self.worker), sign_digest(self.worker, made.digest(self.chain.network)))]

    async def view(self, fn: str, *args: Any) -> Any:
        return await call(self.rpc, self.anchor, "Anchor", fn, *args)


async def test_what_python_signs_counts_on_chain_once(chain: TestChain) -> None:
    async with Rpc(chain.url) as rpc:
        desk = Desk(chain, rpc)
        await desk.open()
        asked, _ = await desk.ask(b"q" * 256, 10**15)
        assert await desk.view("commitment", asked) == asked.commitment()
        assert await desk.view("isOpen", asked)
        by = desk.signed(asked, b"a" * 256)
        receipt = await send(chain, rpc, desk.user, "Anchor", "respond", asked, b"a" * 256, by)
        assert decode_event("Anchor", receipt.logs[0]) == (
            "Answered", {"agent": desk.agent, "index": 1, "callbackOk": False, "reply": b"a" * 256},
        )  # fmt: skip
        assert not await desk.view("isOpen", asked)
        assert await desk.view("credits", address_of(desk.owner)) == 10**15
        with pytest.raises(ChainError, match="NotOpen"):
            await send(chain, rpc, desk.user, "Anchor", "respond", asked, b"a" * 256, by)
        again, asking = await desk.ask(b"q" * 256, 10**15)
        receipt = await send(
            chain, rpc, desk.user, "Anchor", "respond", again, b"a" * 256, desk.signed(again, b"a" * 256)
        )
        # The second place of the ring is new: 17,100 gas more than the seventeenth request pays.
        assert asking + receipt.gas_used <= 140_000 + 17_100


async def test_the_queue_in_storage_is_the_chain_of_commitments(chain: TestChain) -> None:
    """spec/anchor.md 9, read from the slot that a proof would show."""
    async with Rpc(chain.url) as rpc:
        desk = Desk(chain, rpc)
        await desk.open()
        head = bytes(24)
        for payload in (b"one", b"two", b"three"):
            asked, _ = await desk.ask(payload, 0)
            head = keccak256(head, asked.commitment())[:24]
        layout = Layout(artifact("Anchor").layout)
        slot = mapping_slot(layout.variable("_queues").slot, desk.agent)
        word = from_hex(await rpc.call("eth_getStorageAt", to_hex(desk.anchor), hex(slot), "latest"), 32)
        fields = layout.fields(layout.value_type(layout.variable("_queues")))
        value = int.from_bytes(word, "big")
        assert fields["count"].of(value) == 3
        assert fields["head"].of(value).to_bytes(24, "big") == head


async def test_a_paused_agent_gets_no_answer_accepted(chain: TestChain) -> None:
    async with Rpc(chain.url) as rpc:
        desk = Desk(chain, rpc)
        await desk.open()
        asked, _ = await desk.ask(b"q", 0)
        await send(chain, rpc, desk.owner, "Agents", "pause", desk.token)
        with pytest.raises(ChainError, match="AgentPaused"):
            await send(chain, rpc, desk.user, "Anchor", "respond", asked, b"a", desk.signed(asked, b"a"))


async def test_a_commit_signed_in_python_is_stored_once(chain: TestChain) -> None:
    async with Rpc(chain.url) as rpc:
        desk = Desk(chain, rpc)
        await desk.open()
        commit = {"conditions": [], "updates": [(b"k" * 32, 0, b"value")]}
        entry = next(e for e in artifact("Anchor").abi if e.get("name") == "commit")
        encoded = abi.encode([abi.parse(entry["inputs"][1])], [commit])
        deadline = int(time.time()) + HOUR
        statement = AnchorCommit(chain.chain_id, desk.anchor, desk.agent, keccak256(encoded), deadline)
        by = (address_of(desk.worker), sign_digest(desk.worker, statement.digest(chain.network)))
        await send(chain, rpc, desk.user, "Anchor", "commit", desk.agent, commit, deadline, by)
        assert await desk.view("read", desk.agent, b"k" * 32) == (1, b"value")
        with pytest.raises(ChainError, match="WrongVersion"):
            await send(chain, rpc, desk.user, "Anchor", "commit", desk.agent, commit, deadline, by)


async def test_a_validation_signed_in_python_is_read_as_the_standard_says(chain: TestChain) -> None:
    async with Rpc(chain.url) as rpc:
        desk = Desk(chain, rpc)
        await desk.open()
        number = int(await rpc.call("eth_blockNumber"), 16)
        made = TeeValidation(1, desk.agent, 1, 1, 100, b"\7" * 32, number + 1000)
        await send(chain, rpc, desk.user, "Validation", "validate", desk.token, made, "", chain.sign(made))
        place = chain.contracts["Validation"]
        request = await call(rpc, place, "Validation", "teeRequest", desk.token)
        status = await call(rpc, place, "Validation", "getValidationStatus", request)
        assert status[:5] == (place, desk.token, 100, b"\7" * 32, "tee-attestation")
        assert await call(rpc, place, "Validation", "getSummary", desk.token, [], "tee-attestation") == (1, 100)
