"""Which master epoch is in use, from what the contract keeps (gatekeepers.md M2)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloister.core.chainview.epochs import EpochRecord, EpochState, in_use, read_epoch, read_master
from cloister.core.errors import CloisterError
from support.fake_world import MPK, MPKS, World

NONE, RELEASED, PAUSED, RESUMED, DESTROYED = EpochState


def epoch(number: int, state: EpochState) -> EpochRecord:
    return EpochRecord(number, state, number, 1, 3, 0, 0, bytes(32), MPK)


USED: dict[str, tuple[EpochRecord, EpochRecord | None, int]] = {
    "the first epoch, from the founding on": (epoch(1, RELEASED), None, 1),
    "the old one, while the new one waits for its resume": (epoch(2, PAUSED), epoch(1, PAUSED), 1),
    "the new one, once it is resumed": (epoch(2, RESUMED), epoch(1, PAUSED), 2),
    "the new one, when the old one is destroyed": (epoch(2, RESUMED), epoch(1, DESTROYED), 2),
    "a third one that waits leaves the second in use": (epoch(3, PAUSED), epoch(2, PAUSED), 2),
}


@pytest.mark.parametrize("sentence", USED)
def test_in_use_is(sentence: str) -> None:
    newest, before, number = USED[sentence]
    assert in_use(newest, before).epoch == number


UNUSED: dict[str, tuple[EpochRecord, EpochRecord | None]] = {
    "an epoch that nobody confirmed": (epoch(2, NONE), epoch(1, RELEASED)),
    "a destroyed epoch": (epoch(1, DESTROYED), None),
    "a paused epoch without one before it": (epoch(1, PAUSED), None),
    "a paused epoch over one that is destroyed": (epoch(2, PAUSED), epoch(1, DESTROYED)),
    "a paused epoch over one that nobody paused": (epoch(2, PAUSED), epoch(1, RESUMED)),
    "a paused epoch over none of the number below": (epoch(3, PAUSED), epoch(1, PAUSED)),
}


@pytest.mark.parametrize("sentence", UNUSED)
def test_not_in_use_is(sentence: str) -> None:
    newest, before = UNUSED[sentence]
    with pytest.raises(CloisterError) as caught:
        in_use(newest, before)
    assert caught.value.code == "chainview.master_epoch"


@given(st.sampled_from(list(EpochState)), st.sampled_from(list(EpochState)), st.integers(1, 5), st.integers(1, 5))
def test_a_key_is_used_only_when_released_resumed_or_still_held_by_the_rotation(
    new: EpochState, old: EpochState, number: int, below: int
) -> None:
    try:
        found = in_use(epoch(number, new), epoch(below, old))
    except CloisterError:
        return
    if found.epoch == number and new is not PAUSED:
        assert new in (RELEASED, RESUMED)
    else:
        assert (new, old, below + 1) == (PAUSED, PAUSED, number)


class Words:
    """A contract's words, as a reader asks for them; counts the questions."""

    def __init__(self, words: dict[int, int]) -> None:
        self.words, self.rounds = words, 0

    def get(self, slots: object) -> list[int]:
        self.rounds += 1
        return [self.words.get(slot, 0) for slot in list(slots)]  # type: ignore[call-overload]


@pytest.fixture
def world() -> World:
    return World()


def words(world: World) -> Words:
    return Words(world.stores["Gatekeepers"].words)


def test_records_are_read_as_the_contract_keeps_them(world: World) -> None:
    layout = world.stores["Gatekeepers"].layout
    world.set_epoch(2, PAUSED, MPKS[2], term=4)
    found = read_epoch(words(world), layout, 2)
    assert (found.epoch, found.state, found.mpk, found.term) == (2, PAUSED, MPKS[2], 4)
    assert read_epoch(words(world), layout, 3).state is NONE


def test_the_key_in_use_follows_a_rotation(world: World) -> None:
    layout = world.stores["Gatekeepers"].layout
    assert read_master(words(world), layout).mpk == MPK
    world.set_epoch(1, PAUSED, MPK)
    world.set_epoch(2, PAUSED, MPKS[2])
    assert read_master(words(world), layout).mpk == MPK, "confirmed, and not resumed"
    world.set_epoch(2, RESUMED, MPKS[2])
    assert read_master(words(world), layout).mpk == MPKS[2]


def test_no_committee_has_no_key(world: World) -> None:
    with pytest.raises(CloisterError) as caught:
        read_master(Words({}), world.stores["Gatekeepers"].layout)
    assert caught.value.code == "chainview.master_epoch"


@given(st.binary(min_size=32, max_size=32))
def test_any_word_is_a_record_or_a_named_error(word: bytes) -> None:
    world = _WORLD
    store = world.stores["Gatekeepers"]
    garbage = {slot: int.from_bytes(word, "big") for slot in store.words}
    try:
        record = read_master(Words(garbage), store.layout)
    except CloisterError:
        return
    assert record.state in (RELEASED, RESUMED, PAUSED)


_WORLD = World()
