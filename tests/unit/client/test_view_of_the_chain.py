"""The client's view of the chain as time goes on: jumps, steps back, silence, and what a kept result is worth."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cloister.client.resolve import CAREFUL_S, MAX_SEATS, Resolver
from cloister.core.errors import CloisterError
from support.direct_gateway import Direct, Stage, make_stage
from support.fake_world import NOW, fresh


@pytest.fixture
def stage() -> Stage:
    return make_stage()


def code_of(work: Any) -> str:
    with pytest.raises(CloisterError) as caught:
        asyncio.run(work)
    return caught.value.code


def view(resolver: Resolver) -> int:
    """The height that the client works at now."""
    return asyncio.run(resolver.view()).checkpoint.number


@pytest.mark.parametrize("blocks", [1, 2, 299, 300, 301, 600, 10_000])
def test_the_view_follows_any_jump_forward(blocks: int, stage: Stage) -> None:
    resolver = stage.resolver(Direct(stage.gateway))
    before = view(resolver)
    stage.world.mine(blocks)
    assert view(resolver) == before + blocks


def test_a_jump_of_a_period_needs_new_leases(stage: Stage) -> None:
    """Leases of the old period serve until they end, two periods later; then nothing is sealed to them."""
    resolver = stage.resolver(Direct(stage.gateway))
    period = stage.world.policy.network.period_blocks
    lease_end = asyncio.run(resolver.resolve(stage.agent)).sittings[0].seat.certificate.expiry
    stage.world.mine(period)
    assert asyncio.run(resolver.resolve(stage.agent, again=True)).sittings
    stage.world.mine(lease_end - stage.world.number - 1)
    assert asyncio.run(resolver.resolve(stage.agent, again=True)).checkpoint.number == lease_end - 1
    stage.world.mine()
    assert code_of(resolver.resolve(stage.agent, again=True)) == "envelope.certificate_expired"
    stage.gateway.offer(stage.agent)
    assert asyncio.run(resolver.resolve(stage.agent, again=True)).sittings


def test_one_view_object_is_kept_for_one_block(stage: Stage) -> None:
    resolver = stage.resolver(Direct(stage.gateway))
    first = asyncio.run(resolver.view())
    assert asyncio.run(resolver.view()) is first
    stage.world.mine()
    assert asyncio.run(resolver.view()) is not first


def test_a_gateway_that_goes_back_is_not_followed(stage: Stage) -> None:
    resolver = stage.resolver(Direct(stage.gateway))
    old = stage.world.checkpoint()
    stage.world.mine(5)
    newest = view(resolver)
    stage.gateway.checkpoint = lambda: stage.world.sign(old)
    assert view(resolver) == newest


def test_an_older_block_is_a_named_error_once_our_own_view_is_stale(stage: Stage) -> None:
    """A later block with an older time would be one way to freeze a client: its own clock decides."""
    resolver = stage.resolver(Direct(stage.gateway))
    limit = stage.world.policy.network.max_checkpoint_age_s
    stage.world.mine(5)
    high = view(resolver)
    stage.world.now += limit
    low = replace(stage.world.checkpoint(), number=high - 1, timestamp=int(stage.world.now))
    stage.gateway.checkpoint = lambda: stage.world.sign(low)
    assert view(resolver) == high, "not stale yet: exactly the limit old"
    stage.world.now += 1
    assert code_of(resolver.view()) == "client.no_seat"


def test_two_blocks_at_one_height_are_named_even_if_both_are_signed(stage: Stage) -> None:
    resolver = stage.resolver(Direct(stage.gateway))
    other = replace(stage.world.checkpoint(), block_hash=fresh())
    view(resolver)
    stage.gateway.checkpoint = lambda: stage.world.sign(other)
    assert code_of(resolver.view()) == "chainview.second_at_height"


@pytest.mark.parametrize(("age", "good"), [(0, True), (120, True), (121, False), (100_000, False), (-30, True)])
def test_staleness_is_judged_by_the_clients_clock(age: int, good: bool, stage: Stage) -> None:
    resolver = stage.resolver(Direct(stage.gateway))
    stage.world.now = NOW + age
    if good:
        assert view(resolver)
    else:
        assert code_of(resolver.view()) == "chainview.stale"


# --- kept results ---


def counted(door: Direct) -> int:
    return door.asked.count("seats")


@pytest.mark.parametrize(
    ("what", "quick", "age", "asked"),
    [
        ("a safe request uses a result for a quarter of the checkpoint's age", True, 30.0, 1),
        ("and no longer", True, 30.1, 2),
        ("a request that may run once only uses it for five seconds", False, CAREFUL_S, 1),
        ("and no longer", False, CAREFUL_S + 0.1, 2),
        ("a clock that was turned back makes no result young", True, -0.1, 2),
        ("a result of this moment is young", False, 0.0, 1),
    ],
)
def test_a_kept_result_is_young(what: str, quick: bool, age: float, asked: int, stage: Stage) -> None:
    door = Direct(stage.gateway)
    resolver = stage.resolver(door)
    first = asyncio.run(resolver.resolve(stage.agent))
    stage.world.now += age
    second = asyncio.run(resolver.resolve(stage.agent, quick=quick))
    assert (counted(door), second is first) == (asked, asked == 1), what


def test_again_never_uses_a_kept_result(stage: Stage) -> None:
    door = Direct(stage.gateway)
    resolver = stage.resolver(door)
    for _ in range(3):
        asyncio.run(resolver.resolve(stage.agent, again=True))
    assert counted(door) == 3


@pytest.mark.parametrize(
    ("what", "blocks", "asked"),
    [
        ("an answer of the same period keeps the result", 0, 1),
        ("an answer of the period's last block keeps it", 199, 1),
        ("an answer of the next period ends it", 200, 2),
        ("an answer of a later period ends it", 10_000, 2),
        ("an answer of an earlier period says nothing", -1000, 1),
    ],
)
def test_a_workers_height_tells_that_the_period_moved_on(what: str, blocks: int, asked: int, stage: Stage) -> None:
    """The world is at block 1001, in the period from 900 to 1199."""
    door = Direct(stage.gateway)
    resolver = stage.resolver(door)
    asyncio.run(resolver.resolve(stage.agent))
    assert stage.world.number == 1001
    resolver.outdated(stage.agent, stage.world.number - 1 + blocks)
    resolver.outdated(fresh(), 10_000)
    asyncio.run(resolver.resolve(stage.agent))
    assert counted(door) == asked, what


def test_a_failed_resolution_is_not_kept_and_does_not_spoil_a_kept_one(stage: Stage) -> None:
    door = Direct(stage.gateway)
    resolver = stage.resolver(door)
    first = asyncio.run(resolver.resolve(stage.agent))
    seats = stage.gateway.seats.pop(stage.agent)
    assert code_of(resolver.resolve(stage.agent, again=True)) == "client.no_seat"
    assert asyncio.run(resolver.resolve(stage.agent)) is first
    stage.gateway.seats[stage.agent] = seats
    assert asyncio.run(resolver.resolve(stage.agent, again=True)).sittings == first.sittings


async def test_two_agents_do_not_wait_for_each_other(stage: Stage) -> None:
    """A gateway that never answers about one agent holds up nobody who asks for another."""
    other = stage.world.set_agent(2)
    stage.world.mine()
    stage.gateway.offer(stage.agent)
    stage.gateway.offer(other)
    door = Direct(stage.gateway)
    hang = asyncio.Event()
    real = door.seats

    async def seats(agent: bytes) -> Any:
        if agent == other:
            await hang.wait()
        return await real(agent)

    door.seats = seats  # type: ignore[method-assign]
    resolver = stage.resolver(door)
    stuck = asyncio.ensure_future(resolver.resolve(other))
    found = await resolver.resolve(stage.agent)
    assert found.record.agent == stage.agent
    assert not stuck.done()
    hang.set()
    assert (await stuck).record.agent == other


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(st.tuples(st.integers(-3, 40), st.integers(0, 100)), min_size=1, max_size=8))
def test_the_view_never_goes_back_and_is_never_stale(stage: Stage, steps: list[tuple[int, int]]) -> None:
    """Random blocks and random delays: the height only rises, or there is a named error."""
    resolver = stage.resolver(Direct(stage.gateway))
    limit, last = stage.world.policy.network.max_checkpoint_age_s, 0
    for blocks, seconds in steps:
        stage.world.now += seconds
        if blocks > 0:
            stage.world.mine(blocks)
        shown = stage.world.checkpoint()
        if blocks < 0:
            shown = replace(shown, number=shown.number + blocks, block_hash=fresh())
        stage.gateway.checkpoint = lambda made=shown: stage.world.sign(made)  # type: ignore[misc]
        try:
            found = asyncio.run(resolver.view())
        except CloisterError as error:
            assert error.code in ("chainview.stale", "client.no_seat", "chainview.second_at_height")  # noqa: PT017
            continue
        assert found.checkpoint.number >= last
        assert stage.world.now - found.checkpoint.timestamp <= limit
        last = found.checkpoint.number


def test_the_cap_on_seats_is_the_gateways_own() -> None:
    assert MAX_SEATS == 64
