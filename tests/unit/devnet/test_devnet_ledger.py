"""The devnet's chain side: contracts and genesis file on a real chain; the network file from a replayed transcript."""

from __future__ import annotations

import asyncio
import json
import stat
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from cloister.chain.contracts import call
from cloister.chain.rpc import Rpc
from cloister.core.attestation.model import measurement_id
from cloister.core.encoding.hexes import to_hex
from cloister.core.encoding.network import Genesis, Network
from cloister.core.encoding.signatures import address_of
from cloister.core.errors import CloisterError
from cloister.devnet import ledger
from cloister.devnet.layout import Layout, free_ports
from cloister.devnet.network import Options
from support import hardware
from support.anvil import TestChain
from support.gatekeepers import Seat, World, policy, turn_all

LISTED = [measurement_id("gatekeeper", b"\x01" * 48), measurement_id("worker", b"\x02" * 48)]


# --- deploying ---


@pytest.fixture
async def rpc(chain: TestChain) -> AsyncIterator[Rpc]:
    async with Rpc(chain.url) as made:
        yield made


def layout(tmp_path: Path) -> Layout:
    made = Layout(tmp_path / "devnet")
    made.prepare()
    return made


async def deployed(chain: TestChain, rpc: Rpc, folder: Layout, **parameters: int) -> Genesis:
    roots = hardware.roots().to_json()
    deployer = chain.fund(chain.keys[5])
    return await ledger.deploy(folder, rpc, deployer, chain.chain_id, LISTED, roots, parameters)


def test_the_committee_changes_by_itself_and_a_demonstration_is_quiet() -> None:
    rules, hour = ledger.ELECTING, 3600 / Options(Path()).block_time
    assert Options(Path()).rules == rules
    assert hour < rules.refresh_blocks < rules.term_blocks < ledger.NEVER
    assert rules.rotation_blocks == ledger.NEVER
    assert rules.ceremony_blocks > 0


async def test_a_genesis_file_says_what_was_deployed(chain: TestChain, rpc: Rpc, tmp_path: Path) -> None:
    folder = layout(tmp_path)
    genesis = await deployed(chain, rpc, folder, period_blocks=8, lease_blocks=16, seats=1)
    assert Genesis.parse(folder.genesis.read_bytes()) == genesis
    assert stat.S_IMODE(folder.genesis.stat().st_mode) == 0o600
    assert (genesis.mode, genesis.chain_id, genesis.header_verifier) == ("devnet", chain.chain_id, "rpc-quorum")
    first = await rpc.call("eth_getBlockByNumber", "0x0", False)
    assert to_hex(genesis.genesis_hash) == first["hash"]
    network = dict(genesis.policy)["network"]
    assert (network["period_blocks"], network["lease_blocks"], network["seats"]) == (8, 16, 1)
    policies = genesis.address("Policies")
    assert await call(rpc, policies, "Policies", "policyHash") == genesis.policy_hash()
    for name in LISTED:
        assert await call(rpc, policies, "Policies", "listedAtBlock", name) > 0
    assert await call(rpc, policies, "Policies", "listedAtBlock", bytes(32)) == 0
    clusters = genesis.address("Clusters")
    cluster = await call(rpc, clusters, "Clusters", "defaultCluster")
    assert (await call(rpc, clusters, "Clusters", "cluster", cluster))["seats"] == 1
    assert await call(rpc, genesis.address("Gatekeepers"), "Gatekeepers", "term") == 0


async def test_an_anchor_adopts_no_committee_before_there_is_one(chain: TestChain, rpc: Rpc, tmp_path: Path) -> None:
    genesis = await deployed(chain, rpc, layout(tmp_path))
    with pytest.raises(CloisterError):
        await ledger.adopt(rpc, chain.fund(chain.keys[5]), genesis)


async def test_parameters_that_contradict_each_other_deploy_nothing(chain: TestChain, rpc: Rpc, tmp_path: Path) -> None:
    folder = layout(tmp_path)
    before = await rpc.call("eth_getTransactionCount", to_hex(_address(chain)), "latest")
    for wrong in ({"period_blocks": 8, "lease_blocks": 17}, {"seats": 0}, {"period_blocks": 0}):
        with pytest.raises(CloisterError) as caught:
            await deployed(chain, rpc, folder, **wrong)
        assert caught.value.code == "policy.document"
    assert await rpc.call("eth_getTransactionCount", to_hex(_address(chain)), "latest") == before
    assert not folder.genesis.exists()


def _address(chain: TestChain) -> bytes:
    return address_of(chain.keys[5])


# --- founding ---


async def test_the_founder_waits_until_every_member_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    members = [bytes([i]) * 20 for i in range(1, 4)]
    seen: list[int] = []
    sent: list[Any] = []

    async def answers(rpc: Any, to: bytes, contract: str, function: str, *args: Any) -> Any:
        assert (contract, function) == ("Gatekeepers", "candidates")
        seen.append(1)
        return [*members[: len(seen)], b"\x77" * 20]

    class FakeSender:
        def __init__(self, *args: Any) -> None:
            pass

        async def send(self, to: bytes, data: bytes) -> None:
            sent.append((len(seen), to))

    monkeypatch.setattr(ledger, "call", answers)
    monkeypatch.setattr(ledger, "Sender", FakeSender)
    genesis = World(policy()).genesis
    await ledger.found(None, None, genesis, members, 2)  # type: ignore[arg-type]
    assert sent == [(3, genesis.address("Gatekeepers"))]


@pytest.mark.parametrize("step", ["found", "in_office"])
async def test_members_that_never_come_are_named(step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def nobody(rpc: Any, to: bytes, contract: str, function: str, *args: Any) -> Any:
        return [] if function == "candidates" else 0

    monkeypatch.setattr(ledger, "call", nobody)
    monkeypatch.setattr(ledger, "FOUNDING_TIMEOUT_S", 0.0)
    genesis: Any = World(policy()).genesis
    rpc: Any = None
    work = ledger.found(rpc, rpc, genesis, [bytes(20)], 2) if step == "found" else ledger.in_office(rpc, genesis)
    with pytest.raises(CloisterError) as caught:
        await work
    assert (caught.value.code, caught.value.found) == ("devnet.founding", "not yet")


# --- the network file ---


class Chain:
    """Getters of the Gatekeepers contract over a world in memory."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.changes: dict[str, Any] = {}

    async def __call__(self, rpc: Any, to: bytes, contract: str, function: str, *args: Any) -> Any:
        now = self.world.now
        if function == "term":
            return now.seats.term
        assert function == "committee"
        seats = now.seats
        return {
            "members": list(seats.members),
            "threshold": seats.threshold,
            "term": seats.term,
            "masterEpoch": seats.master_epoch,
            "networkId": seats.network_id,
            "transcript": seats.transcript,
            "mpk": [seats.mpk[i : i + 32] for i in (0, 32, 64)],
            **self.changes,
        }


@asynccontextmanager
async def founded(folder: Path) -> AsyncIterator[tuple[World, list[Seat]]]:
    """Three members in office, behind real HTTP."""
    world = World(policy())
    seats = [Seat(world, folder / f"gk-{i}", i, port) for i, port in enumerate(free_ports(3))]
    try:
        for seat in seats:
            await seat.open()
        await turn_all(seats)
        world.mine(3)
        world.open_founding([s.keys.address for s in seats], 2)
        for _ in range(30):
            await turn_all(seats)
            world.mine(1)
        assert world.now.seats.term == 1
        yield world, seats
    finally:
        for seat in seats:
            await seat.close()


@asynccontextmanager
async def lying(seat: Seat, change: Any) -> AsyncIterator[str]:
    """A member that answers as ``seat`` does, but for what ``change`` makes of (path, answer)."""

    async def answer(request: web.Request) -> web.Response:
        async with aiohttp.ClientSession() as session, session.get(seat.url + request.path) as found:
            return web.json_response(change(request.path, await found.json()), status=found.status)

    app = web.Application()
    app.router.add_get("/{path:.*}", answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


async def test_the_network_file_follows_from_what_members_dealt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everything but the dealings is a lie once: whatever differs from the chain writes no file."""
    folder = layout(tmp_path)
    async with founded(tmp_path) as (world, seats):
        chain = Chain(world)
        monkeypatch.setattr(ledger, "call", chain)
        urls = [s.url for s in seats]

        async def write(endpoints: list[str]) -> Network:
            rpc: Any = None
            return await ledger.network_file(folder, rpc, world.genesis, endpoints)

        for changes in (
            {"networkId": b"\x01" * 32},
            {"mpk": [bytes(32)] * 3},
            {"members": chain.world.now.seats.members[:2]},
        ):
            chain.changes = changes
            with pytest.raises(CloisterError):
                await write(urls)
            assert not folder.network.exists(), changes
        chain.changes = {}

        monkeypatch.setattr(ledger, "FOUNDING_TIMEOUT_S", 0.1)
        for name, change in LIES.items():
            async with lying(seats[2], change) as liar:
                with pytest.raises(CloisterError) as caught:
                    await write([liar])
            assert not folder.network.exists(), name
            assert caught.value.remedy, name
        async with lying(seats[2], LIES["another threshold"]) as liar:
            await write([liar, urls[0]])
            folder.network.unlink()

        network = await write(urls[::-1])
        assert Network.parse(folder.network.read_bytes()) == network
        assert network.id == world.now.seats.network_id
        assert (network.mpk, network.transcript) == (world.now.seats.mpk, world.now.seats.transcript)
        assert network.founding.members == world.now.seats.members
        assert (network.founding.threshold, len(network.share_keys)) == (2, 3)
        for seat, key in zip(seats, network.share_keys, strict=True):
            assert seat.member is not None
            assert seat.member.require_desks().office.share.public.share_keys[seat.number] == key


def _flip(path: str, value: Any) -> Any:
    if "/dealing/" not in path:
        return value
    text = json.dumps(value["dealing"])
    at = text.rindex("0x") + 10
    return {**value, "dealing": json.loads(text[:at] + ("0" if text[at] != "0" else "1") + text[at + 1 :])}


def _head(**changes: Any) -> Any:
    return lambda path, value: (
        {**value, "ceremony": {**value["ceremony"], **changes}} if "/transcript/" in path else value
    )


# What a lying member may answer.
LIES: Mapping[str, Any] = {
    "one bit of a dealing changed": _flip,
    "another threshold": _head(threshold=3),
    "another ceremony": _head(id="0x" + "01" * 32),
    "fewer dealers": lambda path, value: (
        {**value, "dealers": value["dealers"][:2]} if "/transcript/" in path else value
    ),
    "nothing of the kind": lambda path, value: {},
}


async def test_a_transcript_of_another_ceremony_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = layout(tmp_path)
    async with founded(tmp_path) as (world, seats):
        chain = Chain(world)
        chain.changes = {"transcript": b"\x01" * 32}
        monkeypatch.setattr(ledger, "call", chain)
        monkeypatch.setattr(ledger, "FOUNDING_TIMEOUT_S", 0.1)
        rpc: Any = None
        with pytest.raises(CloisterError) as caught:
            await ledger.network_file(folder, rpc, world.genesis, [s.url for s in seats])
        assert caught.value.code == "devnet.founding"
        assert not folder.network.exists()
    await asyncio.sleep(0)
