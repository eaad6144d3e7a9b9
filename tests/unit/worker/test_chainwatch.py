"""The worker's view of the chain: what it believes, how long, and what it believes of a block that is not proven."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloister.core.encoding.signatures import Signed
from cloister.core.errors import CloisterError
from cloister.wire.committee import TOO_FEW
from cloister.worker.chainwatch import KEPT_HEIGHTS, MAX_AHEAD, ChainWatch
from support.fake_world import MEMBERS, STRANGERS, World
from support.worker_kit import ChainRpc, FakeCommittee, Rig, list_workers, refused, until, world_of

SILENT = TOO_FEW(expected="3 agreeing of 5", found="none")


class Scene:
    """A watch over a world, with a clock that moves when told to."""

    def __init__(self) -> None:
        self.world = world_of()
        self.committee, self.rpc = FakeCommittee(self.world), ChainRpc(self.world)
        self.now = 100.0
        self.watch = ChainWatch(
            self.world.network,
            self.committee,
            self.rpc,
            monotonic=lambda: self.now,
            rng=lambda n: b"\x07" * n,
            max_age_s=10.0,
        )

    async def catch_up(self, blocks: int = 0) -> None:
        if blocks:
            self.world.mine(blocks)
        await self.watch.refresh()
        await self.watch.prove_fresh()


@pytest.fixture
def scene() -> Scene:
    return Scene()


# --- checkpoints ---


async def test_before_the_first_checkpoint_nothing_is_served(scene: Scene) -> None:
    for read in (lambda: scene.watch.signed, lambda: scene.watch.checkpoint, scene.watch.require_fresh):
        with pytest.raises(CloisterError, match=r"worker\.stale_view"):
            read()
    await refused(scene.watch.prove_fresh(), "worker.stale_view")


async def test_checkpoints_move_forward_only(scene: Scene) -> None:
    first = scene.world.sign(scene.world.checkpoint())
    assert await scene.watch.refresh()
    assert not await scene.watch.refresh()
    scene.world.mine(3)
    assert await scene.watch.refresh()
    assert scene.watch.checkpoint.number == scene.world.number
    scene.committee.signed = first
    assert not await scene.watch.refresh(), "an older one is no news"
    assert scene.watch.checkpoint.number == scene.world.number


def _other_block(world: World) -> Signed:
    return world.sign(replace(world.checkpoint(), block_hash=b"\x01" * 32))


def _other_state(world: World) -> Signed:
    return world.sign(replace(world.checkpoint(), state_root=b"\x01" * 32))


@pytest.mark.parametrize("second", [_other_block, _other_state])
async def test_two_signed_blocks_at_one_height_stop_the_worker_for_good(
    scene: Scene, second: Callable[[World], Signed]
) -> None:
    await scene.catch_up()
    scene.committee.signed = second(scene.world)
    await refused(scene.watch.refresh(), "worker.checkpoint_conflict")
    scene.committee.signed = None
    await scene.catch_up(1)
    with pytest.raises(CloisterError, match=r"worker\.checkpoint_conflict"):
        scene.watch.require_fresh()


async def test_a_conflict_below_the_newest_height_is_seen_too(scene: Scene) -> None:
    await scene.catch_up()
    scene.committee.signed = _other_block(scene.world)
    signed = scene.committee.signed
    scene.committee.signed = None
    await scene.catch_up(5)
    scene.committee.signed = signed
    await refused(scene.watch.refresh(), "worker.checkpoint_conflict")


async def test_heights_are_remembered_for_a_while_only(scene: Scene) -> None:
    await scene.catch_up()
    for _ in range(3):
        await scene.catch_up(KEPT_HEIGHTS)
    assert len(scene.watch._blocks) <= 2


FOREIGN: dict[str, tuple[Callable[[World], Signed], str]] = {
    "two signatures": (lambda w: w.sign(w.checkpoint(), MEMBERS[:2]), "encoding.too_few_signers"),
    "one member three times": (lambda w: w.sign(w.checkpoint(), MEMBERS[:1] * 3), "encoding.too_few_signers"),
    "strangers": (lambda w: w.sign(w.checkpoint(), STRANGERS[:3]), "encoding.signature"),
    "another term": (lambda w: w.sign(replace(w.checkpoint(), term=2)), "chainview.unknown_term"),
    "another chain": (lambda w: w.sign(replace(w.checkpoint(), chain_id=1)), "chainview.not_a_checkpoint"),
    "signatures over another height": (
        lambda w: Signed(replace(w.checkpoint(), number=9_999_999), w.sign(w.checkpoint()).signatures),
        "encoding.signature",
    ),
}


@pytest.mark.parametrize("case", FOREIGN, ids=str)
async def test_a_checkpoint_counts_only_with_t_signatures_for_this_network(scene: Scene, case: str) -> None:
    make, code = FOREIGN[case]
    scene.committee.signed = make(scene.world)
    await refused(scene.watch.refresh(), code)
    with pytest.raises(CloisterError):
        _ = scene.watch.signed
    scene.committee.signed = None
    assert await scene.watch.refresh(), "and nothing of it is remembered"


# --- freshness ---


async def test_the_view_is_fresh_for_so_long_after_asking(scene: Scene) -> None:
    await scene.catch_up()
    scene.now += 10.0
    assert scene.watch.require_fresh().number == scene.world.number
    scene.now += 0.01
    with pytest.raises(CloisterError, match="silence for 10 s"):
        scene.watch.require_fresh()
    await scene.watch.prove_fresh()
    scene.watch.require_fresh()


async def test_the_time_before_asking_counts_not_when_the_answer_came(scene: Scene) -> None:
    await scene.watch.refresh()
    plain = scene.committee.heartbeat

    async def slow(nonce: bytes) -> object:
        scene.now += 9.0
        return await plain(nonce)

    scene.committee.heartbeat = slow  # type: ignore[assignment,method-assign]
    await scene.watch.prove_fresh()
    scene.now += 1.1
    with pytest.raises(CloisterError, match=r"worker\.stale_view"):
        scene.watch.require_fresh()


async def test_heartbeats_move_the_time_of_a_worker_whose_checkpoints_are_held_back(scene: Scene) -> None:
    await scene.catch_up()
    scene.committee.signed = scene.watch.signed
    before = scene.watch.height
    scene.world.mine(40)
    await scene.watch.prove_fresh()
    assert scene.watch.height == before + 40
    assert scene.watch.checkpoint.number == before
    scene.now += 10.1
    with pytest.raises(CloisterError, match=r"worker\.stale_view"):
        scene.watch.require_fresh()


async def test_one_lying_member_cannot_run_ahead_and_time_never_goes_back(scene: Scene) -> None:
    await scene.catch_up()
    here = scene.world.number
    scene.committee.numbers = (10**9, here + 3)
    await scene.watch.prove_fresh()
    assert scene.watch.height == here + 3
    scene.committee.numbers = (here, 0)
    await scene.watch.prove_fresh()
    assert scene.watch.height == here + 3


@given(st.lists(st.integers(0, 1 << 40), min_size=1, max_size=9))
def test_the_lowest_beat_decides_within_bounds(numbers: list[int]) -> None:
    committee = FakeCommittee(_WORLD)
    committee.numbers = tuple(numbers)
    watch = ChainWatch(
        _WORLD.network,
        committee,
        ChainRpc(_WORLD),
        monotonic=lambda: 0.0,
        rng=lambda n: bytes(n),
        max_age_s=1.0,
    )

    async def run() -> int:
        await watch.refresh()
        await watch.prove_fresh()
        return watch.height

    assert asyncio.run(run()) == max(_WORLD.number, min(min(numbers), _WORLD.number + MAX_AHEAD))


_WORLD = world_of()


# --- records ---


async def test_records_are_read_once_per_checkpoint_and_by_proof(scene: Scene) -> None:
    agent = scene.world.set_agent()
    await scene.catch_up(1)
    record = await scene.watch.agent(agent)
    assert record is not None
    assert record.agent == agent
    asked = len(scene.rpc.asked)
    assert await scene.watch.agent(agent) == record
    assert len(scene.rpc.asked) == asked
    assert await scene.watch.agent_ids() == [agent]
    assert await scene.watch.agent(b"\x01" * 32) is None
    scene.world.set_agent(paused=True)
    assert await scene.watch.agent(agent) == record, "not before a checkpoint says so"
    await scene.catch_up(1)
    changed = await scene.watch.agent(agent)
    assert changed is not None
    assert changed.paused
    assert scene.watch.period_blocks == 100


# --- restrictions ---


async def test_a_pause_is_noted_at_once_even_if_the_endpoint_says_no_more(scene: Scene) -> None:
    agent = scene.world.set_agent()
    await scene.catch_up(1)
    scene.world.paused_now.add(agent)
    plain = scene.rpc.call

    async def cut(method: str, *params: object) -> object:
        if method == "eth_blockNumber":
            raise SILENT
        return await plain(method, *params)

    scene.rpc.call = cut  # type: ignore[method-assign]
    await refused(scene.watch.watch_pause(agent), "gatekeeper.too_few")
    assert scene.watch.seen_paused(agent)
    assert not scene.watch.seen_paused(b"\x01" * 32)


async def test_a_height_from_a_far_future_is_not_believed(scene: Scene) -> None:
    agent = scene.world.set_agent()
    await scene.catch_up(1)
    scene.world.paused_now.add(agent)
    plain = scene.rpc.call

    async def lies(method: str, *params: object) -> object:
        return hex((1 << 64) - 1) if method == "eth_blockNumber" else await plain(method, *params)

    scene.rpc.call = lies  # type: ignore[method-assign]
    await scene.watch.watch_pause(agent)
    scene.rpc.call = plain  # type: ignore[method-assign]
    scene.world.paused_now.clear()
    await scene.catch_up(1)
    await scene.watch.watch_pause(agent)
    assert scene.watch.seen_paused(agent)
    await scene.catch_up(MAX_AHEAD)
    await scene.watch.watch_pause(agent)
    assert not scene.watch.seen_paused(agent)


async def test_a_pause_that_a_checkpoint_proves_stays_until_one_proves_its_end(scene: Scene) -> None:
    agent = scene.world.set_agent()
    await scene.catch_up(1)
    scene.world.set_agent(paused=True)
    await scene.watch.watch_pause(agent)
    await scene.catch_up(1)
    for _ in range(2):
        await scene.watch.watch_pause(agent)
        assert scene.watch.seen_paused(agent)
    scene.world.set_agent(paused=False)
    await scene.watch.watch_pause(agent)
    assert scene.watch.seen_paused(agent), "resumed at a block that is not final"
    await scene.catch_up(1)
    await scene.watch.watch_pause(agent)
    assert not scene.watch.seen_paused(agent)


async def test_a_worker_that_sees_its_removal_serves_nobody_until_it_is_proven_live_again(rig: Rig) -> None:
    agent = await rig.deploy()
    me = rig.node.address
    await rig.watch.watch_removal(me)
    assert (await rig.call(agent)).whole
    session = rig.session(agent)
    rig.world.removed_now.add(me)
    await rig.watch.watch_removal(me)
    await refused(rig.call(agent, session=session), "worker.removed")
    rig.world.removed_now.clear()
    rig.world.set_worker(rig.key, rig.boot, removed=True)
    await rig.follow(1)
    await rig.watch.watch_removal(me)
    await refused(rig.call(agent, session=session), "worker.removed")
    rig.world.set_worker(rig.key, rig.boot)
    list_workers(rig.world, me)
    await rig.follow(1)
    await rig.watch.watch_removal(me)
    assert (await rig.call(agent)).whole


# --- loops ---


async def _spin(work: Awaitable[None], done: Callable[[], bool]) -> None:
    task = asyncio.ensure_future(work)
    try:
        await until(lambda: done() or task.done())
        if task.done():
            task.result()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_the_follower_outlives_refusals_and_catches_up(scene: Scene) -> None:
    scene.committee.error = SILENT

    def heal() -> bool:
        if scene.watch._said:
            assert set(scene.watch._said.values()) == {"gatekeeper.too_few"}
            scene.committee.error = None
        return scene.committee.beats > 0 and not scene.watch._said

    await _spin(scene.watch.follow(every_s=0.001), heal)
    assert scene.watch.require_fresh().number == scene.world.number


async def test_the_follower_asks_for_freshness_before_it_runs_out_and_not_always(scene: Scene) -> None:
    turns = 0

    async def counted() -> Signed:
        nonlocal turns
        turns += 1
        scene.now += 0.1
        return scene.world.sign(scene.world.checkpoint())

    scene.committee.checkpoint = counted  # type: ignore[method-assign]
    await _spin(scene.watch.follow(every_s=0), lambda: turns >= 100)
    assert 3 <= scene.committee.beats <= 6, "every quarter of ten seconds, in ten"


@pytest.mark.parametrize("loop", ["follow", "restrictions"])
async def test_a_fault_of_ours_ends_a_loop(scene: Scene, loop: str) -> None:
    await scene.catch_up()

    async def broken(*args: object) -> Signed:
        raise ZeroDivisionError

    if loop == "follow":
        scene.committee.checkpoint = broken  # type: ignore[method-assign]
        work = scene.watch.follow(every_s=0)
    else:
        scene.rpc.call = broken  # type: ignore[assignment,method-assign]
        work = scene.watch.watch_restrictions(b"\x01" * 20, dict, every_s=0)
    with pytest.raises(ZeroDivisionError):
        await _spin(work, lambda: False)


async def test_paused_agents_are_watched_after_they_were_dropped_and_one_that_fails_hides_no_other(
    scene: Scene,
) -> None:
    one, two = scene.world.set_agent(1), scene.world.set_agent(2)
    await scene.catch_up(1)
    held: dict[bytes, object] = {b"\x00" * 32: 1, one: 1, two: 1}  # the first does not exist: the endpoint fails
    scene.world.paused_now |= {one, two}
    work = scene.watch.watch_restrictions(b"\x01" * 20, lambda: held, every_s=0.001)
    await _spin(work, lambda: scene.watch.seen_paused(one) and scene.watch.seen_paused(two))
    held.clear()
    scene.world.paused_now.clear()
    await scene.catch_up(1)
    work = scene.watch.watch_restrictions(b"\x01" * 20, lambda: held, every_s=0.001)
    await _spin(work, lambda: not scene.watch.seen_paused(one) and not scene.watch.seen_paused(two))


async def test_waiting_for_news_loses_none(scene: Scene) -> None:
    await scene.catch_up()
    since = scene.watch.news
    await scene.watch.changed(since - 1, 10)
    await scene.watch.changed(since, 0.001)
    waiting = asyncio.ensure_future(scene.watch.changed(since, 30))
    await asyncio.sleep(0)
    await scene.catch_up(1)
    await asyncio.wait_for(waiting, 10)
    assert scene.watch.news == since + 1
