"""Caps of a worker and of an operator, scaled by stake (spec/policy.md 5)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloister.core.errors import CloisterError
from cloister.core.policy.caps import WEIGHT_BITS, Backing, Held, weights, within_caps, worker_cap

AGENTS = [bytes([i]) * 32 for i in range(12)]
NEW = AGENTS[11]


def held(count: int, others: int = 0) -> Held:
    """A worker's first agents, and those of its operator's other workers."""
    return Held(frozenset(AGENTS[:count]), frozenset(AGENTS[: count + others]))


GRANTED = {
    "no stake is asked for": (Backing(stake=0), held(9)),
    "stake for one more": (Backing(stake=399, stake_per_agent=100), held(2)),
    "an operator below its cap": (Backing(agents_per_operator=6), held(2, 3)),
    "an agent that another worker of the operator holds": (Backing(agents_per_operator=5), held(2, 3)),
}
REFUSED = {
    "the policy's cap, whatever the stake": (Backing(stake=10**30, stake_per_agent=1), held(10)),
    "no stake where some is asked for": (Backing(stake_per_agent=100), held(0)),
    "less than one agent's stake": (Backing(stake=99, stake_per_agent=100), held(0)),
    "stake for those that it holds already": (Backing(stake=299, stake_per_agent=100), held(2)),
    "an operator at its cap": (Backing(agents_per_operator=5), held(2, 3)),
    "an operator at its cap, with stake enough": (Backing(10**9, 1, 5), held(0, 5)),
}


@pytest.mark.parametrize("sentence", GRANTED)
def test_one_more_agent_with(sentence: str) -> None:
    backing, have = GRANTED[sentence]
    agent = AGENTS[4] if "another worker" in sentence else NEW
    within_caps(agent, 10, backing, have)


@pytest.mark.parametrize("sentence", REFUSED)
def test_no_further_agent_with(sentence: str) -> None:
    backing, have = REFUSED[sentence]
    with pytest.raises(CloisterError) as refused:
        within_caps(NEW, 10, backing, have)
    assert refused.value.code == "policy.cap"


@pytest.mark.parametrize("backing", [Backing(stake_per_agent=100), Backing(agents_per_operator=1)])
def test_what_a_worker_holds_in_this_term_goes_on(backing: Backing) -> None:
    within_caps(AGENTS[0], 1, backing, held(1, 3))


@given(st.integers(0, 1 << 40), st.integers(1, 1 << 128), st.integers(0, 1 << 128))
def test_more_stake_never_lowers_a_cap_and_no_stake_raises_it_over_the_policy_s(
    most: int, price: int, stake: int
) -> None:
    cap = worker_cap(most, Backing(stake, price))
    assert cap <= most
    assert cap * price <= stake or cap == 0
    assert worker_cap(most, Backing(stake + price, price)) >= cap
    assert worker_cap(most, Backing(stake, 0)) == most


# --- what placement weighs workers by (spec/policy.md 4) ---

ONE, TWO, THREE = (bytes([i]) * 20 for i in (1, 2, 3))
WEIGHED = {
    "no caps: the policy's for all": ({ONE: Backing(), TWO: Backing(stake=9)}, [10, 10]),
    "caps by stake": ({ONE: Backing(399, 100), TWO: Backing(10**9, 100), THREE: Backing(99, 100)}, [3, 10, 0]),
    "an operator below its cap": ({ONE: Backing(300, 100, 9, b"a"), TWO: Backing(500, 100, 9, b"a")}, [3, 5]),
    "an operator's cap shared by its workers": (
        {ONE: Backing(300, 100, 4, b"a"), TWO: Backing(900, 100, 4, b"a"), THREE: Backing(400, 100, 4, b"b")},
        [1, 3, 4],
    ),
    "an operator's cap without stake": ({ONE: Backing(0, 0, 5, b"a"), TWO: Backing(0, 0, 5, b"a")}, [2.5, 2.5]),
}


@pytest.mark.parametrize("sentence", WEIGHED)
def test_a_worker_weighs_its_cap_with(sentence: str) -> None:
    backing, caps = WEIGHED[sentence]
    assert list(weights(10, backing).values()) == [int(cap * 2**WEIGHT_BITS) for cap in caps]


@given(
    st.integers(0, 1 << 20),
    st.integers(0, 1 << 64),
    st.integers(0, 1 << 64),
    st.lists(st.tuples(st.integers(0, 1 << 128), st.sampled_from([b"a", b"b"])), max_size=9),
)
def test_no_worker_weighs_more_than_its_cap_and_no_operator_more_than_its_own(
    most: int, price: int, bound: int, workers: list[tuple[int, bytes]]
) -> None:
    backing = {bytes([i]): Backing(stake, price, bound, operator) for i, (stake, operator) in enumerate(workers)}
    found = weights(most, backing)
    for worker, one in backing.items():
        cap = worker_cap(most, one)
        assert found[worker] <= cap << WEIGHT_BITS
        assert (found[worker] > 0) == (cap > 0), "who may hold something may win something"
    for operator in (b"a", b"b"):
        together = sum(found[w] for w, one in backing.items() if one.operator == operator)
        assert not bound or together <= bound << WEIGHT_BITS
