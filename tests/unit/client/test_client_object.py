"""The client object: connecting, naming agents, describing them, choosing workers by evidence, and its wallet."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cloister.client import Client, Demand, Wallet
from cloister.client.client import record_facts
from cloister.client.deploy import DELAYED, FROZEN, INSTANT, _created, _rule, await_seats
from cloister.client.secrets import _version_given
from cloister.client.verify import Report
from cloister.core.attestation.model import Check
from cloister.core.chainview.records import UpgradeMode, agent_id
from cloister.core.encoding.hexes import to_hex
from cloister.core.errors import CloisterError
from support.fake_world import CHAIN_ID, OWNER, World, fresh, test_key


async def code_of(work: Any) -> str:
    with pytest.raises(CloisterError) as caught:
        await work
    return caught.value.code


# --- connecting ---


async def test_before_it_connects_there_is_nothing_to_ask(net: Any) -> None:
    client = net.client()
    for name in ("network", "resolver", "calls"):
        with pytest.raises(RuntimeError, match="connect first"):
            getattr(client, name)
    assert repr(client) == f"Client({net.gateway.url})"
    assert await code_of(_async(client.need_wallet)) == "client.no_wallet"


async def _async(plain: Any) -> Any:
    return plain()


async def test_connecting_twice_or_at_once_asks_once(net: Any) -> None:
    client = net.client()
    asked: list[int] = []
    real = client.gateway.network

    async def network() -> bytes:
        asked.append(1)
        found: bytes = await real()
        return found

    client.gateway.network = network
    await asyncio.gather(*(client.connect() for _ in range(5)))
    first = client.resolver
    await client.connect()
    assert client.resolver is first
    assert asked == [1]
    await client.close()


async def test_a_client_that_is_refused_leaves_no_connection(net: Any) -> None:
    client = net.client(fingerprint="00" * 32)
    with pytest.raises(CloisterError):
        async with client:
            pass
    assert client.gateway._session is None
    with pytest.raises(RuntimeError):
        _ = client.resolver


async def test_closing_twice_and_calling_again_work(net: Any) -> None:
    client = net.client()
    async with client:
        agent = await client.agent(net.agent)
        assert (await agent.get("/")).ok
    await client.close()
    assert (await agent.get("/")).ok, "connections are opened again when they are needed"
    await client.close()


# --- names ---


async def test_an_agents_id_follows_from_chain_contract_and_token(net: Any) -> None:
    async with net.client() as client:
        expected = agent_id(CHAIN_ID, net.world.stores["Agents"].address, 1)
        for name in (1, "1", " 1 ", "0x" + expected.hex(), "0X" + expected.hex().upper(), expected):
            assert await client.agent_id(name) == expected == net.agent
        for bad in (0, -1, "0", "00", expected[:-1], "0x", "1.0", "one", "9" * 41, "²"):
            assert (await code_of(client.agent_id(bad))).startswith("encoding."), bad
        assert client.address("Agents") == net.world.stores["Agents"].address


async def test_agents_are_filtered_by_owner_and_paused_ones_are_listed(net: Any) -> None:
    net.world.set_agent(2, owner=b"\x09" * 20, paused=True)
    net.world.mine()
    async with net.client() as client:
        everybody = [row async for row in client.agents()]
        assert [(r["token_id"], r["paused"]) for r in everybody] == [(1, False), (2, True)]
        other = [row["token_id"] async for row in client.agents(owner=b"\x09" * 20)]
        nobody = [row async for row in client.agents(owner=bytes(20))]
        assert (other, nobody) == ([2], [])


@pytest.mark.parametrize(
    ("changes", "shown"),
    [
        ({"upgrade_mode": UpgradeMode.INSTANT, "upgrade_delay": 0}, "instant"),
        ({"upgrade_mode": UpgradeMode.FROZEN, "upgrade_delay": 0}, "frozen"),
        ({"upgrade_mode": UpgradeMode.DELAYED, "upgrade_delay": 7}, "delay 7 blocks"),
    ],
)
def test_a_record_for_people_has_no_bytes_in_it(changes: Any, shown: str) -> None:
    world = World()
    facts = record_facts(world.agents[world.set_agent(**changes)])
    assert facts["upgrade"] == shown
    assert not [value for value in facts.values() if isinstance(value, bytes)]
    assert facts["owner"] != facts["owner"].lower(), "addresses carry their checksum"


async def test_an_agent_without_seats_is_described_with_the_reason(net: Any) -> None:
    async with net.client() as client:
        good = await client.describe(net.agent)
        assert {s["vendor"] for s in good["seats"]} == {"intel", "amd"}
        assert {s["boot"] for s in good["seats"]} == {to_hex(net.one.boot), to_hex(net.two.boot)}
        net.gateway.seats = {}
        empty = await client.describe(net.agent)
        assert (empty["seats"], empty["why_no_seat"]) == ([], "client.no_seat: none")
        assert await code_of(client.describe(fresh())) == "policy.agent_unknown"


async def test_an_owner_may_call_what_others_are_refused(net: Any) -> None:
    net.world.set_agent(upgrade_mode=UpgradeMode.INSTANT, upgrade_delay=0)
    net.world.mine()
    net.gateway.offer(net.agent)
    async with net.client(wallet=Wallet(OWNER)) as owner:
        assert (await (await owner.agent(net.agent)).get("/")).ok
    async with net.client(wallet=Wallet(test_key("stranger"))) as stranger:
        assert await code_of(stranger.agent(net.agent)) == "client.demand_upgrade"


async def test_a_worker_in_a_newer_period_makes_the_client_look_again(net: Any) -> None:
    """The seats that a client keeps end with the period: an answer from the next one says so."""
    period = net.world.policy.network.period_blocks
    async with net.client() as client:
        agent = await client.agent(net.agent)
        await agent.get("/")
        for worker in (net.one, net.two):
            worker.height = (net.world.number // period + 1) * period
        await agent.get("/")
        asked = net.gateway.fetched.count("seats")
        await agent.get("/")
        assert net.gateway.fetched.count("seats") == asked + 1


# --- evidence ---


def report(*codes: str) -> Report:
    made = Report("worker")
    for number, code in enumerate(codes, 1):
        made.steps.append(Check(number, code, "c", "e", "f", "r", ok=code == "good"))
    return made


async def test_workers_without_good_evidence_are_left_out(net: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """One worker shows good evidence, the other does not: only the good one is called, and asked once per boot."""
    asked: list[bytes] = []

    async def verify(client: Client, worker: bytes) -> Report:
        asked.append(worker)
        return report("good") if worker == net.two.address else report("good", "attestation.debug", "attestation.role")

    monkeypatch.setattr("cloister.client.verify.verify_worker", verify)
    async with net.client() as client:
        agent = await client.agent(net.agent, demand=Demand(evidence=True))
        for _ in range(3):
            assert (await agent.get("/")).proof.worker == net.two.address
        assert sorted(asked) == sorted([*[net.one.address] * 3, net.two.address])
        net.gateway.offer(net.agent, net.one)
        client.resolver._cache.clear()
        assert await code_of(agent.get("/")) == "attestation.debug"
        assert net.one.ran == []


async def test_a_restarted_worker_is_asked_for_evidence_again(net: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bytes] = []

    async def verify(client: Client, worker: bytes) -> Report:
        asked.append(worker)
        return report("good")

    monkeypatch.setattr("cloister.client.verify.verify_worker", verify)
    net.gateway.offer(net.agent, net.one)
    async with net.client() as client:
        agent = await client.agent(net.agent, demand=Demand(evidence=True))
        await agent.get("/")
        await agent.get("/")
        net.one.restart()
        net.gateway.offer(net.agent, net.one)
        await agent.get("/")
    assert asked == [net.one.address] * 2


# --- what the chain's logs say ---


def log(client: Any, event: str, **changes: Any) -> dict[str, Any]:
    from cloister.chain.events import topic

    return {"address": to_hex(client.address("Agents")), "topics": [to_hex(topic("Agents", event))], **changes}


@pytest.mark.parametrize(
    ("event", "read", "code"),
    [("AgentCreated", _created, "client.no_event"), ("SecretsSet", _version_given, "client.secrets_raced")],
)
async def test_only_logs_of_our_contract_and_event_are_read(event: str, read: Any, code: str, net: Any) -> None:
    async with net.client() as client:
        strange = [
            log(client, event, address=to_hex(bytes(20))),
            log(client, "EpochBumped"),
            log(client, event, topics=[]),
            log(client, event, topics=None),
            {},
        ]
        for logs in ([], strange):
            receipt = SimpleNamespace(logs=logs)
            with pytest.raises(CloisterError) as caught:
                read(client, receipt)
            assert (caught.value.code, caught.value.found) == (code, f"{len(logs)} other logs")


@pytest.mark.parametrize(("delay", "rule"), [(None, (FROZEN, 0)), (0, (INSTANT, 0)), (9, (DELAYED, 9))])
def test_a_manifests_rule_becomes_the_chains(delay: int | None, rule: tuple[int, int]) -> None:
    assert _rule(delay) == rule
    assert tuple(map(int, (UpgradeMode.INSTANT, UpgradeMode.DELAYED, UpgradeMode.FROZEN))) == (INSTANT, DELAYED, FROZEN)


async def test_waiting_for_seats_ends_with_the_last_reason(net: Any) -> None:
    async with net.client() as client:
        await await_seats(client, net.agent, seats=2, within_s=5)
        with pytest.raises(CloisterError) as caught:
            await await_seats(client, net.agent, seats=3, within_s=0.3)
        assert (caught.value.code, caught.value.found) == ("client.not_ready", "too few seats")
        assert caught.value.expected == "3 seats within 0.3 s"
        net.gateway.seats = {}
        with pytest.raises(CloisterError) as caught:
            await await_seats(client, net.agent, within_s=0.3)
        assert caught.value.found == "client.no_seat: none"


# --- arguments ---


@pytest.mark.parametrize("deadline", [0, -1, 600.1, float("nan")])
async def test_a_deadline_out_of_range_is_the_programs_mistake(deadline: float, net: Any) -> None:
    async with net.client() as client:
        agent = await client.agent(net.agent)
        with pytest.raises(ValueError, match="deadline_s"):
            await agent.get("/", deadline_s=deadline)
        with pytest.raises(ValueError, match="deadline_s"):
            agent.stream("GET", "/", deadline_s=deadline)
    assert net.gateway.calls == []


async def test_the_deadline_travels_in_the_sealed_head(net: Any) -> None:
    async with net.client() as client:
        agent = await client.agent(net.agent)
        await agent.get("/", deadline_s=7.5)
        await agent.get("/")
        assert repr(agent) == f"Agent({to_hex(net.agent)})"
    deadlines = [r.head.deadline_ms - int(net.world.now * 1000) for w in (net.one, net.two) for r in w.ran]
    assert sorted(deadlines) == [7_500, 30_000]


async def test_a_network_file_beats_what_the_gateway_serves(net: Any, tmp_path: Path) -> None:
    (tmp_path / "network.json").write_bytes(net.world.network.encode())
    net.gateway.network = World(now=1_700_000_000).network.encode()
    async with net.client(fingerprint=None, network_file=str(tmp_path / "network.json")) as client:
        assert client.network.id == net.world.network.id
    wrong = net.client(fingerprint="00" * 32, network_file=tmp_path / "network.json")
    assert await code_of(wrong.connect()) == "encoding.fingerprint"
    missing = net.client(fingerprint=None, network_file=tmp_path / "none.json")
    assert await code_of(missing.connect()) == "client.file"
