"""Rendezvous placement: deterministic, minimal movement, parts as weights say, refusals by name."""

from __future__ import annotations

import math
from collections import Counter
from decimal import Decimal, localcontext

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloister.core.encoding.keccak import keccak256
from cloister.core.errors import PolicyError
from cloister.core.policy.placement import cost, log2, may_hold, place, score

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


# --- weights (spec/policy.md 4) ---

MANY = [bytes([i]) * 20 for i in range(1, 9)]
SCORES = st.integers(0, (1 << 256) - 1)
NUMBERS = st.integers(0, 256).flatmap(lambda bits: st.integers(1, 1 << bits))


def agents(count: int) -> list[bytes]:
    return [keccak256(b"agent", i.to_bytes(4, "big")) for i in range(count)]


@given(WORKERS, st.integers(1, 1 << 96), st.integers(1, 4))
def test_equal_weights_place_as_no_weights(workers: set[bytes], weight: int, seats: int) -> None:
    assert place(SEED, AGENT, dict.fromkeys(workers, weight), seats) == place(SEED, AGENT, workers, seats)


@given(SCORES, SCORES, st.integers(1, 1 << 96))
def test_under_one_weight_a_higher_score_never_costs_more(a: int, b: int, weight: int) -> None:
    low, high = sorted((a, b))
    assert cost(high.to_bytes(32, "big"), weight) <= cost(low.to_bytes(32, "big"), weight)


@given(SCORES, st.integers(1, 1 << 96), st.integers(1, 1 << 96))
def test_more_weight_never_costs_more(number: int, a: int, b: int) -> None:
    less, more = sorted((a, b))
    assert cost(number.to_bytes(32, "big"), more) <= cost(number.to_bytes(32, "big"), less)


@given(NUMBERS)
def test_the_logarithm_never_falls_and_is_near_the_true_one(number: int) -> None:
    assert log2(number) <= log2(min(number + 1, 1 << 256))
    assert abs(log2(number) / 2**40 - math.log2(number)) < 2**-17


def test_the_logarithm_is_exact_at_powers_of_two_and_at_every_step_of_its_table() -> None:
    assert [log2(1 << n) for n in range(257)] == [n << 40 for n in range(257)]
    with localcontext() as at:
        at.prec = 60
        two = Decimal(2).ln()
        for step in range(1, 256):
            true = Decimal(2**40) * (8 + (Decimal(256 + step) / 256).ln() / two)
            assert log2(256 + step) == int(true)


@given(st.dictionaries(st.binary(min_size=20, max_size=20), st.integers(0, 1000), max_size=10), st.integers(1, 4))
def test_who_weighs_nothing_gets_no_seat_and_leaves_none_empty(weights: dict[bytes, int], seats: int) -> None:
    placed = place(SEED, AGENT, weights, seats)
    able = {w for w, weight in weights.items() if weight}
    assert set(placed) <= able
    assert len(placed) == min(seats, len(able))


@given(st.integers(1, 50), st.integers(1, 50), st.integers(0, 7))
def test_a_changed_weight_moves_only_seats_of_its_worker(before: int, after: int, which: int) -> None:
    rest = {w: 7 * i + 1 for i, w in enumerate(MANY)}
    for agent in agents(6):
        old = place(SEED, agent, {**rest, MANY[which]: before}, 3)
        new = place(SEED, agent, {**rest, MANY[which]: after}, 3)
        others_old, others_new = ([w for w in seats if w != MANY[which]] for seats in (old, new))
        shared = min(len(others_old), len(others_new))
        assert others_old[:shared] == others_new[:shared], "the others keep their order"


def test_first_seats_come_as_weights_say() -> None:
    """2,000 agents over weights 1 to 8: each worker's part is within five standard deviations."""
    weights, total = {w: i for i, w in enumerate(MANY, 1)}, sum(range(1, 9))
    counts = Counter(place(SEED, agent, weights, 1)[0] for agent in agents(2000))
    for worker, weight in weights.items():
        part = weight / total
        assert abs(counts[worker] - 2000 * part) < 5 * math.sqrt(2000 * part * (1 - part))


def test_a_worker_without_weight_may_not_hold_what_it_would_have_won() -> None:
    first, second = place(SEED, AGENT, MANY, 2)
    weights = {**dict.fromkeys(MANY, 5), first: 0}
    may_hold(SEED, AGENT, weights, 1, second)
    with pytest.raises(PolicyError) as caught:
        may_hold(SEED, AGENT, weights, 1, first)
    assert caught.value.code == "policy.not_placed"
