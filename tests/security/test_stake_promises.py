"""Promise: whoever raises stake while a term's seed is known moves no agent in that term (spec/policy.md 4).

The contract's own rule is tested in contracts/test/Stakes.t.sol, and by proof in
tests/unit/chain/test_stakes_on_chain.py. Here an attacker knows the seed and tries.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from hypothesis import given, settings
from hypothesis import strategies as st

from cloister.core.chainview.stakes import StakeRecord
from cloister.core.encoding.keccak import keccak256
from cloister.core.policy.caps import Backing, weights
from cloister.core.policy.placement import place

PRICE, MOST, SEATS = 100, 64, 2
AGENTS = [keccak256(b"agent", bytes([i])) for i in range(12)]
HONEST = [keccak256(b"honest", bytes([i]))[:20] for i in range(5)]
EVIL = [keccak256(b"evil", bytes([i]))[:20] for i in range(3)]
NEW = keccak256(b"new")[:20]
SEEDS = {term: keccak256(b"seed", bytes([term])) for term in range(1, 9)}


@dataclass
class Network:
    """Stake as Stakes.sol keeps it, by the words of the specification; placement as every member computes it."""

    bound: int = 0
    term: int = 1
    start: int = 10
    block: int = 11
    stakes: dict[bytes, StakeRecord] = field(default_factory=dict)

    def stake(self, worker: bytes, amount: int) -> None:
        operator = b"\xee" * 20 if worker in (*EVIL, NEW) else worker
        at = self.stakes.get(worker, StakeRecord(operator, 0))
        if at.raised_at != self.block:
            if at.raised_at < self.start:
                at = replace(at, before_term=at.amount)
            elif at.raised_at == self.start:
                at = replace(at, before_term=at.before_block)
            at = replace(at, before_block=at.amount, raised_at=self.block)
        self.stakes[worker] = replace(at, amount=at.amount + amount)

    def unstake(self, worker: bytes, amount: int) -> None:
        at = self.stakes[worker]
        left = at.amount - min(amount, at.amount)
        before = min(at.before_term, left), min(at.before_block, left)
        self.stakes[worker] = replace(at, amount=left, before_term=before[0], before_block=before[1])

    def next_term(self, blocks: int = 1) -> None:
        self.block += blocks
        self.term, self.start = self.term + 1, self.block

    def placed(self) -> list[tuple[bytes, ...]]:
        backing = {
            w: Backing(one.counted(self.term, self.start), PRICE, self.bound, one.operator)
            for w, one in self.stakes.items()
        }
        weighed = weights(MOST, backing)
        return [place(SEEDS[self.term], agent, weighed, SEATS) for agent in AGENTS]


def network(bound: int = 0) -> Network:
    made = Network(bound)
    for i, worker in enumerate((*HONEST, *EVIL)):
        made.stake(worker, PRICE * (i + 1))
    made.next_term()
    made.block += 1
    return made


def test_the_attack_worked_where_stake_counted_as_it_stands() -> None:
    """The attack itself: some raise moves some agent to the attacker, if nothing holds it back."""
    at = network()
    before = at.placed()
    at.stake(EVIL[0], PRICE * 60)
    assert at.placed() == before
    at.start = at.block + 1  # as if it had stood before the term
    after = at.placed()
    assert any(EVIL[0] in now and EVIL[0] not in was for was, now in zip(before, after, strict=True))


RAISES = st.lists(st.tuples(st.sampled_from(EVIL), st.integers(0, 10**6), st.integers(0, 2)), max_size=6)


@settings(deadline=None, max_examples=25)
@given(RAISES, st.sampled_from([0, 4]))
def test_no_raise_within_a_term_moves_any_agent(raises: list[tuple[bytes, int, int]], bound: int) -> None:
    at = network(bound)
    before = at.placed()
    for worker, amount, blocks in raises:
        at.block += blocks
        at.stake(worker, amount)
        assert at.placed() == before


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 10**6), st.booleans())
def test_a_worker_that_comes_while_the_seed_is_known_gets_no_agent_whatever_its_address(n: int, same: bool) -> None:
    at = network()
    if same:
        at.block = at.start
    at.stake(NEW, n)
    assert not any(NEW in seats for seats in at.placed())
    at.next_term()
    assert at.stakes[NEW].counted(at.term, at.start) == n


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10**6), st.integers(0, 10**6))
def test_a_raise_in_the_block_of_a_new_term_moves_no_agent_of_it(first: int, second: int) -> None:
    """The seed is of the block before: who gets in before the last confirmation knows it."""
    at, quiet = network(), network()
    at.stake(EVIL[0], first)
    quiet.stake(EVIL[0], first)
    quiet.next_term()
    at.block += 1
    at.stake(EVIL[0], second)
    at.next_term(blocks=0)
    assert at.placed() == quiet.placed()
    at.block += 1
    at.stake(EVIL[0], 1)
    assert at.placed() == quiet.placed()


@settings(deadline=None, max_examples=25)
@given(st.lists(st.tuples(st.booleans(), st.sampled_from(EVIL), st.integers(1, 500), st.integers(0, 1)), max_size=8))
def test_taking_out_and_putting_back_wins_no_agent(moves: list[tuple[bool, bytes, int, int]]) -> None:
    """Without an operator's cap: an attacker's workers lose agents by it, and win none."""
    at = network()
    before = at.placed()
    for out, worker, amount, blocks in moves:
        at.block += blocks
        at.unstake(worker, amount) if out else at.stake(worker, amount)
        for was, now in zip(before, at.placed(), strict=True):
            won = set(now) - set(was)
            left = set(was) - set(now)
            assert not won & set(EVIL) or left & set(EVIL), "its worker comes in only for another of its workers"


def test_the_raise_counts_from_the_next_term_on() -> None:
    at, richer = network(), network()
    at.stake(EVIL[0], PRICE * 40)
    at.next_term()
    richer.stakes[EVIL[0]] = replace(richer.stakes[EVIL[0]], amount=at.stakes[EVIL[0]].amount)
    richer.next_term()
    assert at.placed() == richer.placed()
    assert sum(EVIL[0] in seats for seats in at.placed()) > 0
