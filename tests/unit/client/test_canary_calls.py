"""Who calls an agent's canary: its share of callers, whoever pins it, nobody else."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloister.client import Demand
from cloister.client.resolve import in_share
from cloister.core.chainview.records import Canary
from cloister.core.encoding.hexes import to_hex
from cloister.core.errors import CloisterError

CODE, MANIFEST = b"\xca" * 32, b"\xcb" * 32


def beside(net: Any, share: int, *workers: Any, ready_at: int = 0, **changes: Any) -> None:
    """A canary on chain, and its seats at these workers (default all)."""
    net.world.set_agent(canary=Canary(CODE, MANIFEST, share, ready_at))
    net.world.mine()
    fields = {"code_hash": CODE, "manifest_hash": MANIFEST, **changes}
    net.gateway.seats[net.agent] += [w.seat(net.agent, **fields).to_json() for w in workers or net.gateway.workers]


async def codes(net: Any, demand: Demand | None = None, *, calls: int = 3) -> list[str]:
    """Whose receipts came back."""
    async with net.client() as client:
        agent = await client.agent(net.agent, demand=demand)
        return [(await agent.get(f"/{n}")).proof.to_json()["code_hash"] for n in range(calls)]


def in_force(net: Any) -> str:
    return to_hex(net.world.agents[net.agent].code_hash)


# --- who is routed where ---


async def test_all_callers_of_a_share_of_100_reach_the_canary_and_none_of_0(net: Any) -> None:
    beside(net, 100)
    assert await codes(net) == [to_hex(CODE)] * 3
    beside(net, 0)
    assert await codes(net) == [in_force(net)] * 3


async def test_a_caller_stays_with_its_version(net: Any) -> None:
    beside(net, 50)
    async with net.client() as client:
        agent = await client.agent(net.agent)
        found = {(await agent.get(f"/{n}")).proof.code_hash for n in range(6)}
    assert len(found) == 1


@given(st.binary(min_size=20, max_size=20), st.integers(0, 99))
def test_who_is_in_a_share_stays_in_a_larger_one(caller: bytes, share: int) -> None:
    agent = b"\xaa" * 32
    smaller, larger = (in_share(agent, Canary(CODE, MANIFEST, n, 0), caller) for n in (share, share + 1))
    assert larger or not smaller
    assert not in_share(agent, Canary(CODE, MANIFEST, 0, 0), caller)
    assert in_share(agent, Canary(CODE, MANIFEST, 100, 0), caller)


def test_a_tenth_is_about_a_tenth() -> None:
    canary = Canary(CODE, MANIFEST, 10, 0)
    count = sum(in_share(b"\xaa" * 32, canary, n.to_bytes(20, "big")) for n in range(4000))
    assert 300 < count < 500


async def test_where_no_canary_answers_the_version_in_force_does(net: Any) -> None:
    beside(net, 100, net.one)
    net.one.restart()
    net.gateway.seats[net.agent] = [net.two.seat(net.agent).to_json()]
    assert await codes(net) == [in_force(net)] * 3


# --- pins ---


async def test_whoever_pins_the_code_in_force_keeps_getting_it(net: Any) -> None:
    beside(net, 100)
    pinned = Demand(code_hash=net.world.agents[net.agent].code_hash)
    assert await codes(net, pinned) == [in_force(net)] * 3


@pytest.mark.parametrize("pin", [Demand(code_hash=CODE), Demand(manifest_hash=MANIFEST), Demand(CODE, MANIFEST)])
async def test_whoever_pins_the_canary_gets_it_at_any_share(net: Any, pin: Demand) -> None:
    beside(net, 0)
    assert await codes(net, pin) == [to_hex(CODE)] * 3


async def refusal(net: Any, demand: Demand) -> str:
    with pytest.raises(CloisterError) as caught:
        await codes(net, demand)
    return caught.value.code


async def test_a_pin_across_versions_is_refused(net: Any) -> None:
    beside(net, 50)
    record = net.world.agents[net.agent]
    assert await refusal(net, Demand(code_hash=CODE, manifest_hash=record.manifest_hash)) == "client.demand_code"
    assert await refusal(net, Demand(code_hash=b"\xee" * 32)) == "client.demand_code"


async def test_a_pinned_canary_that_waits_is_refused_by_name(net: Any) -> None:
    beside(net, 50, ready_at=net.world.number + 100)
    assert await refusal(net, Demand(code_hash=CODE)) == "client.no_canary_seat"
    assert await codes(net) == [in_force(net)] * 3


async def test_a_demand_for_a_worker_holds_for_the_canary_too(net: Any) -> None:
    beside(net, 100, net.one)
    assert await codes(net, Demand(code_hash=CODE, vendor="intel")) == [to_hex(CODE)] * 3
    assert await refusal(net, Demand(code_hash=CODE, vendor="amd")) == "client.demand_worker"
    assert await codes(net, Demand(vendor="amd")) == [in_force(net)] * 3


async def test_a_demand_for_x_wing_holds_for_the_canary_too(net: Any) -> None:
    for worker in (net.one, net.two):
        worker.hybrid = True
    net.gateway.offer(net.agent)
    for worker in (net.one, net.two):
        worker.hybrid = False
    beside(net, 100)
    assert await codes(net, Demand(post_quantum=True)) == [in_force(net)] * 3


# --- what a gateway may try ---

LIES: dict[str, dict[str, Any]] = {
    "code that the chain does not name": {"code_hash": b"\xee" * 32},
    "the canary's code under another manifest": {"manifest_hash": b"\xee" * 32},
    "a canary of another epoch": {"agent_epoch": 2},
}


@pytest.mark.parametrize("sentence", LIES)
async def test_seats_that_are_left_out(net: Any, sentence: str) -> None:
    beside(net, 100, **LIES[sentence])
    async with net.client() as client:
        found = await client.resolver.resolve(net.agent)
    assert found.canaries == ()
    assert {s.seat.certificate.code_hash for s in found.sittings} == {net.world.agents[net.agent].code_hash}


async def test_a_seat_of_a_canary_before_its_block_is_left_out(net: Any) -> None:
    beside(net, 100, ready_at=net.world.number + 2)
    async with net.client() as client:
        assert (await client.resolver.resolve(net.agent)).canaries == ()
        net.world.mine()
        assert len((await client.resolver.resolve(net.agent, again=True)).canaries) == 2


async def test_a_canary_alone_serves_nobody(net: Any) -> None:
    beside(net, 100)
    net.gateway.seats[net.agent] = [s for s in net.gateway.seats[net.agent] if to_hex(CODE) in str(s)]
    with pytest.raises(CloisterError) as caught:
        await codes(net)
    assert caught.value.code == "client.no_seat"


async def test_the_owner_sees_both_versions(net: Any) -> None:
    beside(net, 25)
    async with net.client() as client:
        facts = await client.describe(net.agent)
    assert (facts["canary"], facts["canary_share"]) == (to_hex(CODE), 25)
    assert len(facts["seats"]) == 2
    assert facts["code_hash"] == in_force(net)
