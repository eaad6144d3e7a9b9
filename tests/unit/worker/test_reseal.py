"""State moves from keys of earlier epochs to the present ones: whole, once, whoever stops where (spec/epochs.md)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cloister.core.encoding.identity import Epochs
from cloister.core.errors import CloisterError
from cloister.core.state.index import MAX_DONE
from cloister.fabric.embedded import open_fabric
from cloister.worker.reseal import BATCH_BYTES, LEASE_S, Resealer
from cloister.worker.state import SECRETS_NAME
from support.reseal_kit import FOUR, LOAD, ONE, THREE, TWO, Crash, Shop, state_keys
from support.state_kit import AGENT, at


@pytest.fixture
async def shop(tmp_path: Path) -> AsyncIterator[Shop]:
    fabric = await open_fabric(tmp_path / "fabric")
    yield Shop(fabric)
    await fabric.close()


async def refused(work: object, code: str) -> CloisterError:
    with pytest.raises(CloisterError) as caught:
        await work  # type: ignore[misc]
    assert caught.value.code == code, str(caught.value)
    return caught.value


async def filled(shop: Shop, epochs: Epochs = ONE, *, endorsed: bool = True) -> dict[str, bytes]:
    """A state of some values over several commits."""
    state = await shop.state(epochs)
    values = {f"k{n}": bytes([n]) * (n * 40) for n in range(12)}
    for name, value in values.items():
        await shop.write(state, **{name: value})
    if endorsed:
        await shop.endorsed(state, epochs)
    return values


BUMPS: dict[str, Epochs] = {
    "an agent bump": TWO,
    "a cluster bump": at(1, 2),
    "a new master epoch": at(1, 1, 2),
    "a move to another cluster": at(2, 1, 1, bytes([9]) * 32),
    "all at once": at(5, 7, 2, bytes([9]) * 32),
}


@pytest.mark.parametrize("bump", BUMPS)
async def test_state_survives(shop: Shop, bump: str) -> None:
    values, new = await filled(shop), BUMPS[bump]
    await shop.reseal(new)
    assert shop.sealed() == new
    assert await shop.contents(new) == values
    state = await shop.state(new)
    await shop.write(state, later=b"more")
    await shop.endorsed(state, new)
    assert await shop.contents(new) == {**values, "later": b"more"}


async def test_three_bumps_in_a_row_move_the_state_once_from_where_it_is(shop: Shop) -> None:
    values = await filled(shop)
    await shop.reseal(FOUR)
    assert (shop.sealed(), await shop.contents(FOUR)) == (FOUR, values)


async def test_bump_after_bump_keeps_values_requests_and_heights(shop: Shop) -> None:
    values = await filled(shop)
    state = await shop.state(ONE)
    done = await shop.write(state, last=b"one")
    await shop.endorsed(state, ONE)
    for new in (TWO, THREE, FOUR):
        before = shop.tables[0].get(AGENT)
        await shop.reseal(new)
        after = shop.tables[0].get(AGENT)
        assert before is not None
        assert after is not None
        assert (after.height, after.parent) == (before.height + 1, before.head)
        state = await shop.state(new)
        await refused(state.begin(done), "state.already_done")
    assert await shop.contents(FOUR) == {**values, "last": b"one"}


async def test_a_request_of_the_new_epochs_commits_once_too(shop: Shop) -> None:
    await filled(shop)
    await shop.reseal(TWO)
    state = await shop.state(TWO)
    done = [await shop.write(state, n=b"v") for _ in range(3)]
    for name in done:
        await refused((await shop.state(TWO)).begin(name), "state.already_done")
    assert len(done) < MAX_DONE


async def test_what_was_committed_but_not_yet_endorsed_moves_too(shop: Shop) -> None:
    values = await filled(shop)
    state = await shop.state(ONE)
    await shop.write(state, unendorsed=b"yes")
    await shop.reseal(TWO)
    assert await shop.contents(TWO) == {**values, "unendorsed": b"yes"}
    assert shop.tables[0].get(AGENT) == shop.tables[4].get(AGENT)


async def test_old_keys_open_nothing_that_is_stored_afterwards(shop: Shop) -> None:
    await filled(shop)
    await shop.reseal(TWO)
    old = state_keys(ONE)
    for key, entry in await shop.store.scan(AGENT.hex(), "", 10_000):
        with pytest.raises(CloisterError):
            old.open_at(key, entry.value)


async def test_nothing_of_the_old_state_and_of_the_move_is_left_behind(shop: Shop) -> None:
    await filled(shop)
    before = await shop.places()
    await shop.reseal(TWO)
    after = await shop.places()
    assert before & after == {"h"}
    assert not {key for key in after if key.startswith(("r.", "g"))}


async def test_an_old_worker_that_has_not_heard_writes_on_until_the_switch_and_is_carried_along(shop: Shop) -> None:
    values = await filled(shop)
    late = await shop.state(ONE)
    resealer = shop.resealer(TWO, ONE)
    switch = Resealer._switch
    written: list[str] = []

    async def slow(self: Resealer, *args: object) -> None:
        if not written:
            written.append(await shop.write(late, late=b"heard"))
        await switch(self, *args)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Resealer, "_switch", slow)
        await resealer.run()
    assert await shop.contents(TWO) == {**values, "late": b"heard"}
    await refused(shop.write(late, too=b"late"), "state.tampered")


async def commits_of_a_whole_move(folder: Path) -> int:
    fabric = await open_fabric(folder)
    shop = Shop(fabric)
    await filled(shop)
    start = shop.store.commits
    await shop.reseal(TWO)
    await fabric.close()
    return shop.store.commits - start


@pytest.mark.parametrize("after", [False, True])
async def test_a_crash_at_any_write_leaves_the_old_state_or_the_new_and_the_next_worker_ends_it(
    tmp_path: Path, after: bool
) -> None:
    count = await commits_of_a_whole_move(tmp_path / "whole")
    assert count > 10
    for stop in range(1, count + 1):
        fabric = await open_fabric(tmp_path / f"{stop}")
        shop = Shop(fabric)
        values = await filled(shop)
        shop.store.after, shop.store.crash_at = after, shop.store.commits + stop
        with pytest.raises(Crash):
            await shop.reseal(TWO)
        shop.store.crash_at = None
        assert shop.sealed() in (ONE, TWO)
        if shop.sealed() == ONE:
            await shop.reseal(TWO, holder="two")
        else:
            await shop.resealer(TWO, None, holder="two").run()
        assert (shop.sealed(), await shop.contents(TWO)) == (TWO, values), stop
        assert not {key for key in await shop.places() if key.startswith(("r.", "g"))}, stop
        await fabric.close()


async def test_what_was_written_before_a_crash_is_not_written_again(shop: Shop) -> None:
    await filled(shop)
    shop.store.crash_at = shop.store.commits + 9
    with pytest.raises(Crash):
        await shop.reseal(TWO)
    before = {k: e.rev for k, e in await shop.store.scan(AGENT.hex(), "r.")}
    assert before
    shop.store.crash_at = None
    resealer = shop.resealer(TWO, ONE)
    clean = Resealer._clean

    async def look(self: Resealer) -> None:
        now = {k: e.rev for k, e in await shop.store.scan(AGENT.hex(), "r.")}
        assert before.items() <= now.items(), "journals are kept, not made again"
        await clean(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Resealer, "_clean", look)
        await resealer.run()
    assert resealer.progress.done == resealer.progress.total == 12


async def test_a_bump_in_the_middle_of_a_move_starts_another_from_the_old_state(shop: Shop) -> None:
    values = await filled(shop)
    shop.store.crash_at = shop.store.commits + 9
    with pytest.raises(Crash):
        await shop.reseal(TWO)
    shop.store.crash_at = None
    await shop.reseal(THREE)
    assert await shop.contents(THREE) == values


async def test_two_workers_one_moves_the_other_waits(shop: Shop) -> None:
    await filled(shop)
    first, second = shop.resealer(TWO, ONE, holder="one"), shop.resealer(TWO, ONE, holder="two")
    await shop.fabric.leases.hold(AGENT.hex(), "one", LEASE_S)
    error = await refused(second.run(), "epoch.resealing")
    assert "another worker" in error.found
    await first.run()
    await second.run()
    assert shop.sealed() == TWO


async def test_two_workers_on_two_copies_of_the_store_make_one_head(tmp_path: Path) -> None:
    """The host shows each its own copy. Members sign one child of the old head: the other's work counts nowhere."""
    fabric, copy = await open_fabric(tmp_path / "a"), await open_fabric(tmp_path / "b")
    shop = Shop(fabric)
    values = await filled(shop)
    other = Shop(copy, tables=shop.tables)
    for key, entry in await shop.store.scan(AGENT.hex(), "", 10_000):
        from cloister.fabric.ports import Expect, Put, Tx

        await other.store.commit(AGENT.hex(), Tx(f"copy-{key}", {key: Put(entry.value, Expect.ANY)}))
    for one in (shop, other):
        one.away, one.away_for = {*range(5)}, TWO
        await refused(one.reseal(TWO), "fabric.unavailable")
        one.away = set()
    await shop.resealer(TWO, ONE).run()
    await refused(other.resealer(TWO, ONE, holder="two").run(), "state.forked")
    late = Shop(await open_fabric(tmp_path / "c"), tables=shop.tables)
    await refused(late.resealer(TWO, ONE).run(), "state.rolled_back")
    await late.fabric.close()
    assert await shop.contents(TWO) == values
    await refused(other.state(TWO), "state.forked")
    await fabric.close()
    await copy.close()


async def put_back(shop: Shop, blobs: dict[str, bytes]) -> None:
    from cloister.fabric.ports import Expect, Put, Tx

    puts = {key: Put(value, Expect.ANY) for key, value in blobs.items()}
    await shop.store.commit(AGENT.hex(), Tx(f"host-{shop.store.commits}", puts))


async def everything(shop: Shop) -> dict[str, bytes]:
    return {key: entry.value for key, entry in await shop.store.scan(AGENT.hex(), "", 10_000)}


async def test_an_older_state_is_re_sealed_by_nobody(shop: Shop) -> None:
    await filled(shop)
    old = await everything(shop)
    state = await shop.state(ONE)
    await shop.write(state, k0=b"newer")
    await shop.endorsed(state, ONE)
    await put_back(shop, old)
    await refused(shop.reseal(TWO), "state.rolled_back")
    assert shop.sealed() == ONE


async def test_a_store_that_lost_the_head_is_no_new_agent(shop: Shop) -> None:
    await filled(shop)
    from cloister.fabric.ports import Expect, Put, Tx

    await shop.store.commit(AGENT.hex(), Tx("host", {"h": Put(None, Expect.ANY)}))
    await refused(shop.reseal(TWO), "state.rolled_back")
    await refused(shop.state(TWO), "state.rolled_back")


async def test_a_store_rolled_back_after_the_switch_is_refused(shop: Shop) -> None:
    await filled(shop)
    old = await everything(shop)
    await shop.reseal(TWO)
    await put_back(shop, old)
    await refused(shop.state(TWO), "state.tampered")
    await refused(shop.resealer(TWO, None).run(), "state.rolled_back")
    rival = shop.resealer(TWO, ONE)
    await refused(rival.run(), "state.rolled_back")


async def test_a_store_rolled_back_between_switch_and_endorsement_makes_no_second_child(shop: Shop) -> None:
    await filled(shop)
    old = await everything(shop)
    shop.away, shop.away_for = {3, 4}, TWO  # three members sign: no quorum yet
    await refused(shop.reseal(TWO), "fabric.unavailable")
    shop.away = set()
    await put_back(shop, old)
    told = [a for a in shop.answers() if a.epochs == ONE] + [a for a in shop.answers() if a.epochs == TWO][:1]
    with pytest.raises(CloisterError) as caught:
        await shop.resealer(TWO, ONE, answers=told).run()
    assert caught.value.code in ("state.rolled_back", "state.forked")


async def test_too_few_answers_move_nothing(shop: Shop) -> None:
    await filled(shop)
    resealer = shop.resealer(TWO, ONE, answers=shop.answers()[: LOAD - 1])
    before = await shop.head_blob()
    await refused(resealer.run(), "state.no_quorum")
    assert await shop.head_blob() == before


async def test_without_a_quorum_the_new_head_does_not_count_and_later_it_does(shop: Shop) -> None:
    values = await filled(shop)
    shop.away, shop.away_for = {0, 1}, TWO
    await refused(shop.reseal(TWO), "fabric.unavailable")
    assert [table.sealed(AGENT) for table in shop.tables] == [ONE, ONE, TWO, TWO, TWO]
    shop.away = set()
    await shop.resealer(TWO, ONE).run()
    assert (shop.sealed(), await shop.contents(TWO)) == (TWO, values)


async def test_secrets_that_the_old_state_keeps_are_carried_and_agents_never_see_them(shop: Shop) -> None:
    values = await filled(shop)
    shop.secrets = {None: b"one" * 8, b"one" * 8: b"two" * 8, b"two" * 8: None}
    for new, kept in ((TWO, b"one" * 8), (THREE, b"two" * 8), (FOUR, None)):
        await shop.reseal(new)
        state = await shop.state(new)
        assert await state.peek(SECRETS_NAME) == kept
        assert await shop.contents(new) == values, "no list shows it"


async def test_secrets_of_an_agent_without_state_become_its_first_state(shop: Shop) -> None:
    shop.secrets = {None: b"copy" * 8}
    await shop.resealer(TWO, None).run()
    assert await (await shop.state(TWO)).peek(SECRETS_NAME) == b"copy" * 8
    assert shop.sealed() == TWO


async def test_what_was_never_endorsed_under_earlier_epochs_is_written_over(shop: Shop) -> None:
    """Nobody vouches for it: its keys are not released, and the agent starts anew instead of staying locked."""
    await filled(shop, endorsed=False)
    state = await shop.state(TWO)
    await shop.write(state, first=b"value")
    await shop.endorsed(state, TWO)
    assert await shop.contents(TWO) == {"first": b"value"}


async def test_a_large_state_moves_in_bounded_pieces(shop: Shop) -> None:
    state = await shop.state(ONE)
    for n in range(24):
        await shop.write(state, **{f"big{n}": bytes([n]) * 400_000})
    await shop.endorsed(state, ONE)
    shop.store.biggest = 0
    await shop.reseal(TWO)
    assert shop.store.biggest < BATCH_BYTES + (1 << 20)
    assert len(await shop.contents(TWO)) == 24


async def test_damaged_values_stop_the_move_and_name_the_damage(shop: Shop) -> None:
    await filled(shop)
    stored = state_keys(ONE).name("k3")
    for n in range(17):
        await put_back(shop, {stored: bytes([n]) * 200})
    await refused(shop.reseal(TWO), "state.tampered")
    assert shop.sealed() == ONE
