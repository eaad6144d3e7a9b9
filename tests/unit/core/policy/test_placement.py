"""Rendezvous placement: deterministic, minimal movement, refusals by name."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloister.core.errors import PolicyError
from cloister.core.policy.placement import may_hold, place, score

SEED, AGENT = b"\1" * 32, b"\2" * 32
WORKERS = st.sets(st.binary(min_size=20, max_size=20), max_size=12)


@given(WORKERS, st.integers(1, 4))
def test_placement_ignores_order_and_fills_its_seats(workers: set[bytes], seats: int) -> None:
    placed = place(SEED, AGENT, sorted(workers), seats)
    assert placed == place(SEED, AGENT, sorted(workers, reverse=True), seats)
    assert len(placed) == min(seats, len(workers))
    assert set(placed) <= workers


@given(WORKERS, st.binary(min_size=20, max_size=20))
def test_a_new_worker_moves_only_what_it_wins(workers: set[bytes], new: bytes) -> None:
    before, after = set(place(SEED, AGENT, workers, 2)), set(place(SEED, AGENT, workers | {new}, 2))
    assert after - before <= {new}


@given(WORKERS.filter(lambda w: len(w) > 2))
def test_a_lost_worker_moves_only_its_own_seat(workers: set[bytes]) -> None:
    placed = place(SEED, AGENT, workers, 2)
    after = place(SEED, AGENT, workers - {placed[0]}, 2)
    assert placed[1] == after[0]


def test_seed_and_agent_both_matter() -> None:
    worker = b"\3" * 20
    assert len({score(SEED, AGENT, worker), score(AGENT, SEED, worker), score(SEED, SEED, worker)}) == 3


def test_the_refusal_names_the_seats() -> None:
    workers = [bytes([i]) * 20 for i in range(1, 4)]
    placed = place(SEED, AGENT, workers, 2)
    outside = next(w for w in workers if w not in placed)
    may_hold(SEED, AGENT, workers, 2, placed[1])
    with pytest.raises(PolicyError) as caught:
        may_hold(SEED, AGENT, workers, 2, outside)
    assert caught.value.code == "policy.not_placed"
    assert "0x" + placed[0].hex()[:8] in caught.value.expected


def test_nobody_live_means_nobody_may() -> None:
    with pytest.raises(PolicyError, match="no live worker"):
        may_hold(SEED, AGENT, [], 2, b"\1" * 20)
