"""What a proven record of stake says: its words, and what placement counts of it (spec/policy.md 4)."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloister.chain.contracts import artifact
from cloister.core.chainview.layout import Layout, address_key, mapping_slot
from cloister.core.chainview.stakes import StakeRecord, read_caps, read_stake, read_stakes

LAYOUT = Layout(artifact("Stakes").layout)
BASE = LAYOUT.variable("_stakes").slot
ONE, TWO = b"\1" * 20, b"\2" * 20
START = 1000
STOOD = StakeRecord(ONE, 900, before_term=200, before_block=300, raised_at=0)


def raised(at: int, amount: int = 900) -> StakeRecord:
    return StakeRecord(ONE, amount, 200, 300, at)


COUNTED = {
    "what stood before the term": (STOOD, 2, 900),
    "what was raised in the block before the term's": (raised(START - 1), 2, 900),
    "nothing of what came in the term's own block": (raised(START), 2, 300),
    "nothing of what came since": (raised(START + 1), 2, 200),
    "no more than is left": (raised(START + 1, 150), 2, 150),
    "no more than is left of the block before": (raised(START, 250), 2, 250),
    "all of it in the network's first term": (raised(START + 1), 1, 900),
    "nothing of a worker that nobody staked for": (StakeRecord(bytes(20), 0), 2, 0),
    "nothing of a first stake in a later term": (StakeRecord(ONE, 900, 0, 0, START + 5), 7, 0),
}


@pytest.mark.parametrize("sentence", COUNTED)
def test_placement_counts(sentence: str) -> None:
    record, term, counted = COUNTED[sentence]
    assert record.counted(term, START) == counted


AMOUNTS, BLOCKS = st.integers(0, (1 << 96) - 1), st.integers(0, (1 << 64) - 1)


@settings(deadline=None, max_examples=50)
@given(AMOUNTS, AMOUNTS, AMOUNTS, BLOCKS, BLOCKS, BLOCKS)
def test_no_record_counts_for_more_than_stands_there(a: int, b: int, c: int, at: int, term: int, start: int) -> None:
    assert 0 <= StakeRecord(ONE, a, b, c, at).counted(term, start) <= a


class Words:
    """A contract's storage, for one reader."""

    def __init__(self, words: dict[int, int]) -> None:
        self.words = words

    def get(self, slots: Sequence[int]) -> Sequence[int]:
        return [self.words.get(slot, 0) for slot in slots]


def laid(worker: bytes, *words: int) -> dict[int, int]:
    base = mapping_slot(BASE, address_key(worker))
    return {base + i: word for i, word in enumerate(words)}


@settings(deadline=None, max_examples=50)
@given(AMOUNTS, AMOUNTS, BLOCKS, AMOUNTS, AMOUNTS, BLOCKS)
def test_every_field_comes_from_its_own_bits(
    amount: int, leaving: int, free_at: int, before_term: int, before_block: int, raised_at: int
) -> None:
    words = laid(
        ONE,
        int.from_bytes(ONE, "big") | amount << 160,
        leaving | free_at << 96 | before_term << 160,
        before_block | raised_at << 96,
    )
    found, none = read_stakes(Words(words), LAYOUT, (ONE, TWO))
    assert (
        found == StakeRecord(ONE, amount, before_term, before_block, raised_at) == read_stake(Words(words), LAYOUT, ONE)
    )
    assert none == StakeRecord(bytes(20), 0)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(0, (1 << 256) - 1), min_size=3, max_size=3))
def test_whatever_words_are_proven_none_counts_for_more_than_its_amount(words: list[int]) -> None:
    found = read_stake(Words(laid(ONE, *words)), LAYOUT, ONE)
    assert found.counted(2, START) <= found.amount < 1 << 96


def test_caps_that_nobody_set_are_zero() -> None:
    caps = read_caps(Words({}), LAYOUT)
    assert (caps.stake_per_agent, caps.agents_per_operator) == (0, 0)
