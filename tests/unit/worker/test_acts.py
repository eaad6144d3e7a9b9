"""Acts of agents on a real chain: each counts once, whatever crashes, goes back, races or lies meanwhile."""

from __future__ import annotations

import asyncio
import base64
import os
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from coincurve import PrivateKey

from cloister.chain.anchor import AnchorChain
from cloister.chain.contracts import call, encode
from cloister.chain.proven import ProvenState
from cloister.chain.proven_calls import ProvenCalls
from cloister.chain.rpc import Rpc
from cloister.chain.tx import Sender
from cloister.core.chainview.anchor import AnchorSeat
from cloister.core.chainview.records import agent_id
from cloister.core.encoding.contract_statements import AnchorLease
from cloister.core.encoding.hexes import to_hex
from cloister.core.encoding.signatures import address_of, sign_digest
from cloister.core.encoding.statements import Checkpoint
from cloister.core.errors import CloisterError
from cloister.core.policy.access import Uses
from cloister.core.state.endorse import Answer
from cloister.fabric.embedded import open_fabric
from cloister.fabric.ports import Fabric
from cloister.worker.acts import Act, ActDesk
from cloister.worker.anchor import PATIENCE_S, Place, Turn
from cloister.worker.chain_calls import ChainCalls, tool_of_chain
from cloister.worker.host import AgentHost, Extra, Origin
from cloister.worker.scope import RequestScope
from cloister.worker.state import AgentState
from support.anvil import TestChain, send, test_key
from support.state_kit import keys, member

KEY = b"\x4b" * 32


@dataclass
class View:
    """The chain at its newest block, as a ``ChainView``."""

    chain: TestChain
    rpc: Rpc
    at: Checkpoint
    remote: int | None = None

    @property
    def chain_id(self) -> int:
        return self.chain.chain_id

    @property
    def anchor(self) -> AnchorChain:
        return AnchorChain(self.rpc, self.chain.contracts["Anchor"])

    def require_fresh(self) -> Checkpoint:
        return self.at

    def state(self) -> ProvenState:
        return ProvenState(self.rpc, self.chain.contracts, self.at, code_hashes=self.chain.code_hashes)

    def calls(self) -> ProvenCalls:
        return ProvenCalls(self.rpc, self.at)

    async def founded(self) -> int:
        return 0


@dataclass
class Town:
    """An agent with its state, and workers that hold leases at the Anchor."""

    chain: TestChain
    rpc: Rpc
    fabric: Fabric
    agent: bytes = b""
    workers: tuple[PrivateKey, ...] = ()
    count: int = 0

    async def open(self) -> Town:
        await send(self.chain, self.rpc, self.chain.keys[3], "Agents", "register")
        token = await call(self.rpc, self.chain.contracts["Agents"], "Agents", "count")
        self.agent = agent_id(self.chain.chain_id, self.chain.contracts["Agents"], token)
        self.workers = tuple(self.chain.fund(test_key(f"acts {i} {token}")) for i in range(2))
        await send(self.chain, self.rpc, self.chain.keys[4], "Anchor", "adopt")
        for worker in self.workers:
            lease = AnchorLease(
                1, self.chain.chain_id, self.chain.contracts["Anchor"], self.agent, 1, b"\1" * 32, address_of(worker),
                b"\2" * 32, address_of(worker), int(time.time()) + 12 * 3600,
            )  # fmt: skip
            await send(
                self.chain, self.rpc, self.chain.keys[4], "Anchor", "registerLease", lease, self.chain.sign(lease)
            )
        return self

    async def seat(self, at: Turn) -> AnchorSeat:
        return AnchorSeat(b"\1" * 20, 1 << 40, b"\2" * 32, b"\1" * 32)

    async def state(self) -> AgentState:
        state = AgentState(self.fabric.state, keys(), self.agent.hex(), os.urandom)
        await state.load([Answer(member(i), 0, bytes(32)) for i in range(3)], 3)
        return state

    async def view(self) -> View:
        return View(self.chain, self.rpc, await self.chain.checkpoint(self.rpc))

    async def desk(self, number: int = 0, rpc: Rpc | None = None) -> ActDesk:
        """A worker's desk; a new one over the same store is that worker, started again."""
        worker = self.workers[number]
        anchor = self.chain.contracts["Anchor"]
        place = Place(self.chain.network, self.chain.chain_id, anchor, address_of(worker), bytes(20))
        over = rpc or self.rpc
        chain = AnchorChain(over, anchor, Sender(over, worker, self.chain.chain_id, timeout=20))
        return ActDesk(chain, place, await self.state(), self, lambda digest: sign_digest(worker, digest))

    async def now(self, later: int = 0, seats: tuple[int, ...] = (0,)) -> Turn:
        view = await self.view()
        at = replace(view.at, timestamp=view.at.timestamp + later)
        who = tuple(address_of(self.workers[i]) for i in seats)
        return Turn(self.agent, 1, b"\1" * 32, 1, b"\2" * 32, at, view.state(), who)

    async def host(self, tools: frozenset[str] | None = None, view: View | None = None) -> dict[str, Extra]:
        chain = view or await self.view()
        allowed = frozenset({tool_of_chain(chain.chain_id)}) if tools is None else tools

        async def uses() -> Uses:
            return Uses(tools=allowed or None)

        return dict(ChainCalls(self.agent, {chain.chain_id: chain}, uses).calls())

    async def request(self, *asks: tuple[str, dict[str, Any]], commit: bool = True) -> list[Any]:
        """One request of the agent: host calls in its transaction, which commits at the end."""
        self.count += 1
        state, name = await self.state(), f"{self.count:032x}"
        scope = RequestScope(state, await state.begin(name), name)
        host = AgentHost(attest, Log())  # type: ignore[arg-type]
        host.offer(await self.host())
        host.open(name, scope)
        found = [await host.call(name, what, {"chain": self.chain.chain_id} | args) for what, args in asks]
        if commit:
            await scope.commit_head()
        scope.close()
        return found

    async def put(self, value: bytes = b"done", version: int = 0, key: bytes = KEY, commit: bool = True) -> None:
        args = {"key": to_hex(key), "value": base64.b64encode(value).decode(), "version": version}
        await self.request(("chain.put", args), commit=commit)

    async def waits(self) -> Any:
        return (await self.request(("chain.get", {"key": to_hex(KEY)}), commit=False))[0]["waiting"]

    async def entry(self, key: bytes = KEY) -> tuple[int, bytes]:
        found: tuple[int, bytes] = await call(
            self.rpc, self.chain.contracts["Anchor"], "Anchor", "read", self.agent, key
        )
        return found


class Log:
    def line(self, level: str, text: str) -> None:
        raise AssertionError("nothing is logged here")


async def attest(nonce: bytes) -> dict[str, Any]:
    raise AssertionError("nothing is attested here")


async def refusal(work: Any) -> str:
    with pytest.raises(CloisterError) as caught:
        await work
    return caught.value.code


@pytest_asyncio.fixture
async def town(chain: TestChain, tmp_path: Path) -> AsyncIterator[Town]:
    async with Rpc(chain.url) as rpc:
        fabric = await open_fabric(tmp_path / "fabric")
        yield await Town(chain, rpc, fabric).open()
        await fabric.close()


async def test_an_act_of_a_request_that_committed_is_brought_once_and_forgotten(town: Town) -> None:
    await town.put(b"done")
    desk = await town.desk()
    assert await desk.turn(await town.now())
    assert await town.entry() == (1, b"done")
    await desk.turn(await town.now())
    assert await town.waits() is None, "what a checkpoint shows is forgotten"
    assert not await desk.turn(await town.now())
    assert await town.entry() == (1, b"done")


async def test_an_act_of_a_request_that_did_not_commit_never_happens(town: Town) -> None:
    await town.put(commit=False)
    assert not await (await town.desk()).turn(await town.now())
    assert await town.entry() == (0, b"")


async def test_a_worker_that_is_killed_before_and_after_brings_it_once(town: Town) -> None:
    await town.put()
    await (await town.desk()).turn(await town.now())  # killed after it sent
    for _ in range(3):
        await (await town.desk()).turn(await town.now())
    assert await town.entry() == (1, b"done")


async def test_an_act_that_a_reorganisation_swallowed_is_brought_again(town: Town) -> None:
    await town.put()
    desk = await town.desk()
    before = await town.now()
    await desk.turn(before)
    assert await town.entry() == (1, b"done")
    await town.rpc.call("anvil_reorg", 3, [])
    if (await town.entry())[0]:
        pytest.fail("the reorganisation did not reach the act")
    await asyncio.sleep(0.5)
    again = await town.desk()
    for _ in range(3):
        await again.turn(await town.now())
    assert await town.entry() == (1, b"done")


@pytest.mark.long
async def test_two_seats_race_and_it_counts_once(town: Town) -> None:
    await town.put()
    at = await town.now(later=10 * PATIENCE_S, seats=(0, 1))
    desks = [await town.desk(i) for i in (0, 1)]
    await asyncio.gather(*(desk.turn(at) for desk in desks), return_exceptions=True)
    for desk in desks:
        await desk.turn(await town.now(later=10 * PATIENCE_S, seats=(0, 1)))
    assert await town.entry() == (1, b"done")


@pytest.mark.long
async def test_the_second_seat_leaves_the_first_its_time(town: Town) -> None:
    await town.put()
    order = {i: [d for d in (0, PATIENCE_S + 5) if is_due(town, i, d, await town.now(d, (0, 1)))] for i in (0, 1)}
    assert sorted(len(moments) for moments in order.values()) == [1, 2], "one is first, the other waits"


def is_due(town: Town, number: int, later: int, at: Turn) -> bool:
    act = Act(KEY, 0, b"", at.checkpoint.timestamp - later)
    worker = address_of(town.workers[number])
    place = Place(town.chain.network, town.chain.chain_id, bytes(20), worker, bytes(20))
    return ActDesk(None, place, None, town, sign_nothing)._due(at, act)  # type: ignore[arg-type]


def sign_nothing(digest: bytes) -> bytes:
    raise AssertionError("nothing is signed here")


@pytest.mark.long
async def test_an_act_that_was_overtaken_is_dropped_and_does_not_overwrite(town: Town) -> None:
    await town.put(b"first")
    await (await town.desk()).turn(await town.now())
    stale = Act(KEY, 0, b"stale", 0)
    state = await town.state()
    name = "f" * 32
    tx = await state.begin(name)
    await tx.put(stale.name(town.chain.chain_id), stale.encode())
    await tx.commit(name)
    await (await town.desk()).turn(await town.now())
    assert await town.entry() == (1, b"first")
    assert await town.waits() is None


@pytest.mark.long
async def test_many_keys_and_versions_in_one_request(town: Town) -> None:
    desk = await town.desk()
    pairs = [(bytes([i]) * 32, b"%d" % i) for i in range(5)]
    asks = [("chain.put", {"key": to_hex(k), "value": base64.b64encode(v).decode(), "version": 0}) for k, v in pairs]
    await town.request(*asks)
    await desk.turn(await town.now())
    assert [await town.entry(k) for k, _ in pairs] == [(1, v) for _, v in pairs]
    await desk.turn(await town.now())
    await town.put(b"again", 1, pairs[0][0])
    await desk.turn(await town.now())
    assert await town.entry(pairs[0][0]) == (2, b"again")


@pytest.mark.parametrize("size", [33, *(pytest.param(n, marks=pytest.mark.long) for n in (0, 1, 31, 32, 64, 1024))])
async def test_values_of_every_length_are_read_back_by_proof(town: Town, size: int) -> None:
    value = bytes(range(256)) * 4
    await town.put(value[:size])
    await (await town.desk()).turn(await town.now())
    found = (await town.request(("chain.get", {"key": to_hex(KEY)})))[0]
    assert (found["version"], found["value"]) == (1, to_hex(value[:size]))
    assert found["checkpoint"]["chain"] == town.chain.chain_id


async def test_the_same_act_again_is_none_and_another_one_waits_its_turn(town: Town) -> None:
    await town.put(b"one")
    await town.put(b"one")
    assert await refusal(town.put(b"two")) == "worker.act_version"
    assert await refusal(town.put(b"one", 1)) == "worker.act_version"
    assert await town.waits() == to_hex(b"one")


@pytest.mark.parametrize("version", [pytest.param(1, marks=pytest.mark.long), 7])
async def test_a_version_that_is_not_there_is_refused_at_once(town: Town, version: int) -> None:
    assert await refusal(town.put(b"x", version)) == "worker.act_version"


async def test_words_and_views_of_any_contract_name_their_checkpoint(town: Town) -> None:
    anchor = town.chain.contracts["Anchor"]
    word, view = await town.request(
        ("chain.word", {"address": to_hex(anchor), "slot": f"0x{1:064x}"}),
        ("chain.call", {"to": to_hex(anchor), "data": to_hex(encode("Anchor", "networkId"))}),
    )
    assert word["value"] == view["data"] == to_hex(town.chain.network)
    assert word["checkpoint"].keys() == {"chain", "number", "hash", "timestamp"}


async def test_a_view_that_reverts_says_so(town: Town) -> None:
    data = "0xdeadbeef"
    ask = town.request(("chain.call", {"to": to_hex(town.chain.contracts["Anchor"]), "data": data}))
    assert await refusal(ask) == "worker.view_reverted"


BAD: dict[str, tuple[str, dict[str, Any]]] = {
    "no chain": ("chain.at", {"chain": None}),
    "a chain as text": ("chain.at", {"chain": "1"}),
    "true as a chain": ("chain.at", {"chain": True}),
    "another chain": ("chain.at", {"chain": 1}),
    "an address of another size": ("chain.word", {"address": "0x00", "slot": "0x" + "00" * 32}),
    "a slot as a number": ("chain.word", {"address": "0x" + "00" * 20, "slot": 5}),
    "data without 0x": ("chain.call", {"to": "0x" + "00" * 20, "data": "00"}),
    "data over the cap": ("chain.call", {"to": "0x" + "00" * 20, "data": "0x" + "00" * 20_000}),
    "a key of another size": ("chain.get", {"key": "0x00"}),
    "a value over the cap": ("chain.put", {"key": to_hex(KEY), "value": "A" * 1368, "version": 0}),
    "a negative version": ("chain.put", {"key": to_hex(KEY), "value": "", "version": -1}),
    "a version as text": ("chain.put", {"key": to_hex(KEY), "value": "", "version": "0"}),
    "a value that is no base64": ("chain.put", {"key": to_hex(KEY), "value": "?", "version": 0}),
}


@pytest.mark.long
@pytest.mark.parametrize("sentence", BAD)
async def test_bad_arguments_are_refused(town: Town, sentence: str) -> None:
    what, args = BAD[sentence]
    assert await refusal(town.request((what, args))) in {"sandbox.argument", "worker.no_chain"}


@pytest.mark.long
@pytest.mark.parametrize("tools", [frozenset(), frozenset({"chain:1"}), frozenset({"agent:0x00"})])
async def test_a_manifest_that_does_not_name_the_chain_gets_nothing(town: Town, tools: frozenset[str]) -> None:
    calls = await town.host(tools=tools)
    assert await refusal(calls["chain.at"](Origin(), {"chain": town.chain.chain_id})) == "worker.no_chain"
