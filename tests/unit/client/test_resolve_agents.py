"""From an agent id to seats: every lie on the way is refused by name."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from cloister.core.chainview.records import UpgradeMode
from cloister.core.encoding.hexes import to_hex
from cloister.core.errors import CloisterError
from support.client_lies import REFUSED
from support.fake_world import Store, fresh


async def code_of(net: Any, **options: Any) -> str:
    with pytest.raises(CloisterError) as caught:
        async with net.client(**options) as client:
            await client.resolver.resolve(net.agent)
    return caught.value.code


@pytest.mark.parametrize("what", REFUSED)
async def test_refused(what: str, net: Any) -> None:
    change, code = REFUSED[what]
    change(net)
    assert await code_of(net) == code


async def test_a_good_network_gives_both_seats_and_a_proof(net: Any) -> None:
    async with net.client() as client:
        found = await client.resolver.resolve(net.agent)
    assert {s.vendor for s in found.sittings} == {"intel", "amd"}
    proof = found.proof(found.sittings[0], b"\x01" * 32)
    assert proof.network == net.world.network.id
    assert proof.committee == 3
    assert proof.to_json()["code_hash"] == to_hex(net.world.agents[net.agent].code_hash)


async def test_one_bad_seat_does_not_spoil_the_good_one(net: Any) -> None:
    net.gateway.seats[net.agent][0]["certificate"]["hpke_key"] = to_hex(fresh())
    async with net.client() as client:
        found = await client.resolver.resolve(net.agent)
    assert [s.vendor for s in found.sittings] == ["amd"]


async def test_of_two_seats_of_one_worker_the_longer_counts(net: Any) -> None:
    later = net.one.seat(net.agent, period=99, expiry=net.world.number + 5000).to_json()
    net.gateway.seats[net.agent] = [*net.gateway.seats[net.agent], later]
    async with net.client() as client:
        found = await client.resolver.resolve(net.agent)
    best = next(s for s in found.sittings if s.vendor == "intel")
    assert best.seat.certificate.expiry == net.world.number + 5000
    assert len(found.sittings) == 2


async def test_two_blocks_at_one_height_are_refused(net: Any) -> None:
    async with net.client() as client:
        await client.resolver.view()
        other = replace(net.world.checkpoint(), block_hash=fresh())
        net.gateway.checkpoint = lambda: net.world.sign(other)
        with pytest.raises(CloisterError) as caught:
            await client.resolver.view()
    assert caught.value.code == "chainview.second_at_height"


async def test_an_older_checkpoint_does_not_take_the_client_back(net: Any) -> None:
    old = net.world.checkpoint()
    async with net.client() as client:
        net.world.mine()
        newest = await client.resolver.view()
        net.gateway.checkpoint = lambda: net.world.sign(old)
        assert await client.resolver.view() is newest


async def test_a_result_is_kept_for_a_while_and_then_checked_again(net: Any) -> None:
    async with net.client() as client:
        first = await client.resolver.resolve(net.agent)
        assert await client.resolver.resolve(net.agent) is first
        net.world.now += 6
        net.world.mine()
        assert await client.resolver.resolve(net.agent) is first
        careful = await client.resolver.resolve(net.agent, quick=False)
        assert careful is not first
        net.world.now += 31
        net.world.mine()
        assert await client.resolver.resolve(net.agent) is not careful
        assert await client.resolver.resolve(net.agent, again=True) is not careful


async def test_a_new_period_ends_a_kept_result(net: Any) -> None:
    async with net.client() as client:
        first = await client.resolver.resolve(net.agent)
        client.resolver.outdated(net.agent, first.checkpoint.number + 1)
        assert await client.resolver.resolve(net.agent) is first
        client.resolver.outdated(net.agent, first.checkpoint.number + 300)
        assert await client.resolver.resolve(net.agent) is not first


async def test_many_callers_at_once_resolve_once(net: Any) -> None:
    async with net.client() as client:
        found = await asyncio.gather(*(client.resolver.resolve(net.agent) for _ in range(8)))
    assert all(f is found[0] for f in found)
    assert net.gateway.fetched.count("seats") == 1


async def test_clients_spread_over_the_seats_and_stay(net: Any) -> None:
    first = set()
    for i in range(8):
        async with net.client(rng=lambda n, i=i: bytes([i]) * n) as client:
            a = (await client.resolver.resolve(net.agent)).sittings[0].vendor
            b = (await client.resolver.resolve(net.agent, again=True)).sittings[0].vendor
            assert a == b
            first.add(a)
    assert first == {"intel", "amd"}


async def test_agents_are_listed_and_described_by_proof(net: Any) -> None:
    second = net.world.set_agent(2, upgrade_mode=UpgradeMode.FROZEN, upgrade_delay=0, owner=b"\x09" * 20)
    net.world.mine()
    async with net.client() as client:
        rows = [row async for row in client.agents()]
        assert [r["token_id"] for r in rows] == [1, 2]
        assert [r["upgrade"] for r in rows] == ["delay 10 blocks", "frozen"]
        assert [r["token_id"] async for r in client.agents(owner=b"\x09" * 20)] == [2]
        facts = await client.describe(net.agent)
        assert {s["vendor"] for s in facts["seats"]} == {"intel", "amd"}
        assert (await client.describe(second))["why_no_seat"].startswith("client.no_seat")


@pytest.mark.parametrize("name", ["", "0x", "0x12", "agent", "0", "-1", "1.0", "٣"])
async def test_strange_agent_names_are_refused(name: str, net: Any) -> None:
    async with net.client() as client:
        with pytest.raises(CloisterError):
            await client.agent(name)


async def test_an_agent_is_named_by_id_token_or_bytes(net: Any) -> None:
    async with net.client() as client:
        for name in (1, "1", net.agent, to_hex(net.agent), to_hex(net.agent).upper().replace("0X", "0x")):
            assert (await client.agent(name)).id == net.agent


def test_the_fake_layout_is_the_real_one() -> None:
    assert Store("Agents", bytes(20)).layout.variable("_agents")
