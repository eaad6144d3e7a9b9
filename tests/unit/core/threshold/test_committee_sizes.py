"""Committees of any size: any t of n recover, terms go to bigger and smaller ones, liars are named in every mixture."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from py_arkworks_bls12381 import Scalar

from cloister.core.encoding.identity import AgentVersion, Purpose
from cloister.core.errors import CloisterError
from cloister.core.threshold import groups as g
from cloister.core.threshold import partial as p
from cloister.core.threshold.dkg import KeyShare, PublicShares, finish_over, replay_over
from cloister.core.threshold.reshare import Resharing, deal_again
from support.committees import ORDER, lagrange
from support.sharing import ceremony_of, network, stream

IDENTITY = bytes(AgentVersion(b"\x01" * 32, 1, b"\x02" * 32, 0, b"\x03" * 32, 7).key(Purpose.STATE))
ASKER = p.TransportKey.generate(stream("sizes/asker"))
SIZES = st.integers(1, 5).flatmap(lambda n: st.tuples(st.just(n), st.integers(1, n)))


def code_of(work: Callable[[], object]) -> str:
    with pytest.raises(CloisterError) as caught:
        work()
    return caught.value.code


def ask(shares: Sequence[KeyShare], members: Sequence[int], seed: str = "sizes/ask") -> list[p.Partial]:
    rng = stream(seed)
    return [p.evaluate(shares[i - 1], IDENTITY, ASKER.public, rng) for i in members]


def key_of(shares: Sequence[KeyShare], members: Sequence[int]) -> bytes:
    found = p.recover(ask(shares, members), len(members), shares[0].public, IDENTITY, ASKER)
    return found.point


class Term:
    """A committee in office: its public shares, its members' addresses and their secret shares."""

    def __init__(self, shares: tuple[KeyShare, ...], threshold: int, addresses: tuple[bytes, ...]) -> None:
        self.shares, self.threshold, self.addresses = shares, threshold, addresses
        self.public: PublicShares = shares[0].public

    def to(self, n: int, t: int, dealers: Sequence[int], seed: str) -> Term:
        """The next term, dealt by these old members alone."""
        base, privates = ceremony_of(n, t, seed)
        term = self.public.term + 1
        made = Resharing(
            base.id,
            t,
            base.members,
            term,
            old=self.public,
            old_threshold=self.threshold,
            old_members=self.addresses,
        )
        rng = stream(f"{seed}/deal")
        dealings = {i: deal_again(made, self.shares[i - 1], rng).dealing for i in dealers}
        digests = {i: dealing.digest(made) for i, dealing in dealings.items()}
        shares = tuple(finish_over(made, dealings, digests, {}, m.index, privates[m.index - 1]) for m in base.members)
        assert all(share.public == replay_over(made, dealings, digests) for share in shares)
        return Term(shares, t, tuple(m.address for m in base.members))


@lru_cache(maxsize=16)
def founded(n: int, t: int) -> Term:
    net = network(n, t, "sizes")
    return Term(net.shares, t, tuple(m.address for m in net.ceremony.members))


def secret_of(shares: Sequence[KeyShare]) -> int:
    """What nobody ever holds: here t members put their shares together, in plain integers."""
    weights = lagrange([share.index for share in shares])
    return sum(w * int.from_bytes(s.secret, "big") for w, s in zip(weights, shares, strict=True)) % ORDER


# Lagrange.


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(1, 64), min_size=1, max_size=9, unique=True),
    st.lists(st.integers(0, ORDER - 1), min_size=1, max_size=9),
)
def test_any_polynomial_of_a_smaller_degree_comes_back_at_zero(indexes: list[int], coefficients: list[int]) -> None:
    """From as many points as it has coefficients, whatever the points; scalars and plain integers agree."""
    kept = coefficients[: len(indexes)]
    values = [sum(a * pow(x, k, ORDER) for k, a in enumerate(kept)) % ORDER for x in indexes]
    weights = g.lagrange_at_zero(indexes)
    total = Scalar(0)
    for weight, value in zip(weights, values, strict=True):
        total = total + weight * Scalar.from_be_bytes(value.to_bytes(32, "big"))
    assert g.scalar_bytes(total) == kept[0].to_bytes(32, "big")
    assert [int.from_bytes(g.scalar_bytes(w), "big") for w in weights] == lagrange(indexes)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 64), min_size=2, max_size=8, unique=True), st.integers(1, ORDER - 1))
def test_one_point_less_says_nothing_about_the_value_at_zero(indexes: list[int], guess: int) -> None:
    """For every guess there is exactly one polynomial through the known points and the guess."""
    known, missing = indexes[1:], indexes[0]
    weights = lagrange([missing, *known])
    value = guess * pow(weights[0], -1, ORDER) % ORDER
    assert weights[0] * value % ORDER == guess
    assert weights[0] != 0


@pytest.mark.parametrize("indexes", [[0], [65], [1, 1], [2, 3, 2], [-1], [1, 2, 70]])
def test_there_are_no_weights_for_members_that_cannot_be(indexes: list[int]) -> None:
    assert code_of(lambda: g.lagrange_at_zero(indexes)) == "threshold.indexes"


def test_weights_of_all_members_add_up_to_one() -> None:
    """A constant polynomial is the same everywhere."""
    for n in range(1, 12):
        assert sum(lagrange(list(range(1, n + 1)))) % ORDER == 1


# Resharing to any size.


@settings(max_examples=5, deadline=None)
@given(SIZES, SIZES, st.data())
def test_the_master_key_and_derived_keys_survive_any_change_of_size(
    old: tuple[int, int], new: tuple[int, int], data: st.DataObject
) -> None:
    """Dealt by any old t or more; opened by any new t."""
    before = founded(*old)
    dealers = sorted(
        data.draw(st.lists(st.integers(1, old[0]), min_size=old[1], max_size=old[0], unique=True), label="dealers")
    )
    after = before.to(*new, dealers, f"sizes/{old}/{new}/{dealers}")
    assert (after.public.mpk, after.public.term) == (before.public.mpk, 2)
    assert len(after.public.share_keys) == new[0]
    for share in after.shares:
        share.verify()
    chosen = data.draw(st.permutations(range(1, new[0] + 1)), label="members")[: new[1]]
    assert key_of(after.shares, chosen) == key_of(before.shares, range(1, old[1] + 1))
    assert secret_of([after.shares[i - 1] for i in chosen]) == secret_of(before.shares[: old[1]])


CHAIN = [(3, 2, [1, 2, 3]), (5, 4, [1, 3]), (2, 1, [2, 3, 4, 5]), (4, 4, [2])]


def test_term_after_term_nobody_needs_what_an_earlier_one_held() -> None:
    now = founded(4, 3)
    key = key_of(now.shares, (1, 2, 4))
    secrets = {share.secret for share in now.shares}
    for number, (n, t, dealers) in enumerate(CHAIN, 2):
        now = now.to(n, t, dealers, f"sizes/chain/{number}")
        assert now.public.term == number
        assert key_of(now.shares, range(n, n - t, -1)) == key
        fresh = {share.secret for share in now.shares}
        # where one member suffices its share is the secret itself, at every member alike
        assert not fresh & secrets
        secrets |= fresh


def test_where_one_suffices_every_share_is_the_secret_and_where_all_are_needed_no_fewer_do() -> None:
    one, every = founded(3, 1), founded(3, 3)
    assert len({share.secret for share in one.shares}) == 1
    assert len({key_of(one.shares, (i,)) for i in (1, 2, 3)}) == 1
    for pair in combinations((1, 2, 3), 2):
        assert code_of(lambda pair=pair: key_of(every.shares, pair)) == "threshold.not_the_key"


def test_fewer_dealers_than_the_old_threshold_make_no_new_term() -> None:
    before = founded(4, 3)
    for dealers in ([1, 2], [4], []):
        made = code_of(lambda dealers=dealers: before.to(3, 2, dealers, "sizes/few"))
        assert made == "threshold.too_few_qualified"


def test_shares_of_two_terms_never_make_a_key_together() -> None:
    """Even of one size, with one master key: the polynomials are others."""
    before = founded(3, 2)
    after = before.to(3, 2, [1, 2], "sizes/mixed")
    mixed = [*ask(before.shares, (1,)), *ask(after.shares, (2,))]
    assert code_of(lambda: p.recover(mixed, 2, after.public, IDENTITY, ASKER)) == "threshold.too_few_partials"
    dressed = [replace(one, term=2) for one in mixed]
    assert code_of(lambda: p.recover(dressed, 2, after.public, IDENTITY, ASKER)) == "threshold.too_few_partials"
    assert secret_of([before.shares[0], after.shares[1]]) != secret_of(before.shares[:2])


OLD = founded(3, 2)


def resharing(**changes: object) -> Resharing:
    base, _ = ceremony_of(3, 2, "sizes/bad")
    fields = {"old": OLD.public, "old_threshold": 2, "old_members": OLD.addresses} | changes
    return Resharing(base.id, 2, base.members, 2, **fields)  # type: ignore[arg-type]


BAD_RESHARINGS: dict[str, dict[str, object]] = {
    "an old threshold of none": {"old_threshold": 0},
    "an old threshold beyond the old members": {"old_threshold": 4},
    "an old member less": {"old_members": OLD.addresses[:2]},
    "an old member more": {"old_members": (*OLD.addresses, bytes(20))},
    "an old member twice": {"old_members": (*OLD.addresses[:2], OLD.addresses[0])},
    "an old member of another size": {"old_members": (*OLD.addresses[:2], bytes(19))},
    "an old term that is not the one before": {"old": replace(OLD.public, term=2)},
    "an old term long ago": {"old": replace(OLD.public, term=0)},
}


@pytest.mark.parametrize("what", BAD_RESHARINGS)
def test_there_is_no_resharing_with(what: str) -> None:
    found = code_of(lambda: resharing(**BAD_RESHARINGS[what]))
    assert found.startswith(("threshold.ceremony", "threshold.other_term", "encoding."))


def test_every_part_of_the_old_committee_is_in_the_binding() -> None:
    public = OLD.public
    other = network(3, 2, "another").public
    changes: list[dict[str, object]] = [
        {"old_threshold": 1},
        {"old_threshold": 3},
        {"old_members": OLD.addresses[::-1]},
        {"old": replace(public, mpk=other.mpk)},
        {"old": replace(public, transcript=bytes(32))},
        {"old": replace(public, share_keys=(*public.share_keys[:2], other.share_keys[2]))},
    ]
    bindings = {resharing().binding, *(resharing(**one).binding for one in changes)}
    assert len(bindings) == 1 + len(changes)


# Culprits.

NET = network(5, 3, "sizes/culprits")
HONEST = ask(NET.shares, (1, 2, 3, 4, 5))
KEY = p.recover(HONEST, 3, NET.public, IDENTITY, ASKER).point
LIES: dict[str, Callable[[p.Partial], p.Partial]] = {
    "another member's answer": lambda one: replace(HONEST[one.index % 5], index=one.index),
    "an answer for another identity": lambda one: p.evaluate(
        NET.shares[one.index - 1], IDENTITY + b"\1", ASKER.public, stream(f"lie/{one.index}")
    ),
    "an answer to another asker": lambda one: p.evaluate(
        NET.shares[one.index - 1], IDENTITY, p.TransportKey.generate(stream("thief")).public, stream(f"lie/{one.index}")
    ),
    "an answer of another network": lambda one: p.evaluate(
        network(5, 3, "sizes/others").shares[one.index - 1], IDENTITY, ASKER.public, stream(f"lie/{one.index}")
    ),
    "an answer of another term": lambda one: replace(one, term=2),
}


@pytest.mark.parametrize("lie", LIES)
@pytest.mark.parametrize("liars", [(1,), (2, 4), (1, 2), (4, 5)])
def test_up_to_n_minus_t_liars_are_named_and_change_nothing(lie: str, liars: tuple[int, ...]) -> None:
    given = [LIES[lie](one) if one.index in liars else one for one in HONEST]
    found = p.recover_and_blame(given, 3, NET.public, IDENTITY, ASKER)
    assert found.key.point == KEY
    assert set(found.culprits) <= set(liars)
    if min(liars) <= 3 and "term" not in lie:
        assert found.culprits == liars, "the first three did not fit, so each was looked at"


@pytest.mark.parametrize("lie", LIES)
@pytest.mark.parametrize("liars", [(1, 2, 3), (1, 3, 5)])
def test_more_liars_than_that_leave_no_key_and_are_named(lie: str, liars: tuple[int, ...]) -> None:
    given = [LIES[lie](one) if one.index in liars else one for one in HONEST]
    with pytest.raises(CloisterError) as caught:
        p.recover_and_blame(given, 3, NET.public, IDENTITY, ASKER)
    assert caught.value.code == "threshold.too_few_partials"


@settings(max_examples=10, deadline=None)
@given(st.permutations(range(5)), st.integers(3, 5))
def test_the_order_of_answers_does_not_matter(order: list[int], count: int) -> None:
    given = [HONEST[i] for i in order[:count]]
    assert p.recover_and_blame(given, 3, NET.public, IDENTITY, ASKER) == p.Recovered(p.DerivedKey(KEY), ())
