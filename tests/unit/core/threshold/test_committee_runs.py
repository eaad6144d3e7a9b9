"""Whole ceremonies in memory: who lies or stays away, and how it ends. Names are what must hold (gatekeepers.md)."""

from __future__ import annotations

from typing import Any

import pytest

from cloister.core.threshold import actions as do
from cloister.core.threshold.complaints import absentees
from cloister.core.threshold.facts import Fault, bits_of
from cloister.core.threshold.phases import Kind, Phase
from support.committees import ABSENT, Manner, World, expected_share

ALL = frozenset(range(1, 8))
BAD, UNSEEN = Fault.BAD_SHARE, Fault.NOT_SHOWN

# sentence -> (n, t, manners by seat, Q)
ENDS_WELL: dict[str, tuple[int, int, dict[int, Manner], tuple[int, ...]]] = {
    "everybody is honest": (4, 3, {}, (1, 2, 3, 4)),
    "a member is away": (4, 3, {2: ABSENT}, (1, 3, 4)),
    "n - t members are away": (5, 3, {2: ABSENT, 5: ABSENT}, (1, 3, 4)),
    "a dealer never commits but takes its share": (4, 3, {1: Manner(commits=False)}, (2, 3, 4)),
    "a dealer shows its dealing to nobody, ever": (4, 3, {3: Manner(hides_from=ALL, publishes=False)}, (1, 2, 4)),
    "a dealer shows its dealing only when accused": (4, 3, {3: Manner(hides_from=ALL)}, (1, 2, 3, 4)),
    "a dealer hides from one receiver and publishes": (4, 3, {3: Manner(hides_from=frozenset({1}))}, (1, 2, 3, 4)),
    "a dealer seals rubbish for one and opens the share": (4, 3, {2: Manner(bad_shares=frozenset({4}))}, (1, 2, 3, 4)),
    "a dealer seals rubbish for one and opens another value": (
        4, 3, {2: Manner(bad_shares=frozenset({4}), opens="wrong")}, (1, 3, 4)),
    "a dealer seals rubbish for one and does not open it": (
        4, 3, {2: Manner(bad_shares=frozenset({4}), opens="no")}, (1, 3, 4)),
    "a dealer seals rubbish for one and does not publish": (
        4, 3, {2: Manner(bad_shares=frozenset({4}), publishes=False)}, (1, 3, 4)),
    "a dealer hides rubbish, publishes it late, and opens": (
        4, 3, {2: Manner(bad_shares=frozenset({4}), hides_from=frozenset({4}))}, (1, 2, 3, 4)),
    "a dealer hides rubbish, publishes it late, and does not open": (
        4, 3, {2: Manner(bad_shares=frozenset({4}), hides_from=frozenset({4}), opens="no")}, (1, 3, 4)),
    "a dealer seals rubbish for t receivers": (4, 3, {2: Manner(bad_shares=frozenset({1, 3, 4}))}, (1, 3, 4)),
    "a dealer proves nothing": (4, 3, {4: Manner(bad_proof=True)}, (1, 2, 3)),
    "a dealer proves nothing and hides it": (4, 3, {4: Manner(bad_proof=True, publishes=False)}, (1, 2, 3)),
    "a receiver calls every share bad": (4, 3, {1: Manner(accuses={2: BAD, 3: BAD, 4: BAD})}, (1, 2, 3, 4)),
    "a receiver saw nothing, it says": (4, 3, {1: Manner(accuses={2: UNSEEN, 3: UNSEEN})}, (1, 2, 3, 4)),
    "a receiver confirms a lie": (4, 3, {4: Manner(confirms="wrong")}, (1, 2, 3, 4)),
    "a receiver does not confirm": (4, 3, {4: Manner(confirms="no")}, (1, 2, 3, 4)),
    "two liars accuse everybody, deal badly and lie": (
        5, 3, {i: Manner(bad_shares=frozenset({3}), opens="no", accuses=dict.fromkeys((3, 4, 5), BAD), confirms="wrong")
               for i in (1, 2)}, (3, 4, 5)),
    "one is away and one lies": (5, 3, {1: ABSENT, 2: Manner(hides_from=ALL, opens="wrong", confirms="wrong",
                                                            bad_shares=frozenset({3}))}, (3, 4, 5)),
}  # fmt: skip


def check_office(world: World, chosen: tuple[int, ...]) -> None:
    """All honest members hold the shares that plain integers give, of one key, over this Q."""
    agreed = world.agreed()
    assert agreed.qualified == bits_of(chosen)
    publics = {actor.member.kept().share.public for actor in world.honest()}  # type: ignore[union-attr]
    assert len(publics) == 1
    assert publics.pop().mpk == agreed.mpk
    for actor in world.honest():
        assert actor.share is not None
        actor.share.verify()
        assert int.from_bytes(actor.share.secret, "big") == expected_share(world, chosen, actor.receiver)
        assert actor.failed is None
        assert any(isinstance(action, do.EraseTransport) for action in actor.erased)
        assert actor.member.kept().private is None
        assert actor.member.kept().dealt is None


@pytest.mark.parametrize("sentence", ENDS_WELL)
def test_a_founding_ends_well_although(sentence: str) -> None:
    n, t, manners, chosen = ENDS_WELL[sentence]
    world = World(n, t, manners=manners, name=sentence).run()
    assert world.phase is Phase.DONE
    check_office(world, chosen)


def test_who_stayed_away_or_lied_is_named_and_nobody_else() -> None:
    lie = Manner(confirms="wrong")
    world = World(5, 3, manners={2: ABSENT, 4: lie}, name="named").run()
    assert absentees(world.ceremony, world.contract.facts, world.agreed()) == ((2,), (2, 4))


def test_honest_members_alone_go_through_all_phases_without_waiting() -> None:
    world = World(4, 3, name="quick", window=1000)
    for _ in range(6):
        world.round()
    assert world.phase is Phase.DONE
    assert world.reverted == []


# sentence -> (n, t, manners by seat, code)
FAILS: dict[str, tuple[int, int, dict[int, Manner], str]] = {
    "too few commit": (4, 3, {1: ABSENT, 2: ABSENT}, "threshold.too_few_committed"),
    "too few confirm": (
        4, 3, {1: Manner(confirms="no"), 2: Manner(confirms="wrong")}, "threshold.too_few_confirmed"),
    "too few qualify": (
        4, 3, {1: Manner(bad_proof=True), 2: Manner(hides_from=ALL, publishes=False)}, "threshold.too_few_confirmed"),
}  # fmt: skip


@pytest.mark.parametrize("sentence", FAILS)
def test_a_ceremony_fails_and_leaves_nothing_when(sentence: str) -> None:
    n, t, manners, code = FAILS[sentence]
    world = World(n, t, manners=manners, name=sentence).run()
    assert world.phase is Phase.FAILED
    for actor in world.honest():
        kept = actor.member.kept()
        assert actor.failed is not None
        assert actor.failed.code == code
        assert (kept.private, kept.dealt, kept.share, actor.share) == (None, None, None, None)


def test_liars_cannot_end_a_ceremony_that_too_few_dealt_in() -> None:
    """t - 1 liars confirm some value; with no honest one beside them it never counts."""
    manners = {1: Manner(bad_proof=True), 2: Manner(bad_proof=True)}
    world = World(4, 3, manners=manners, name="too few good").run()
    assert world.phase is Phase.FAILED
    assert all(actor.share is None for actor in world.receivers.values())


# sentence -> manners of dealers, manners of receivers, Q
RESHARES: dict[str, tuple[tuple[int, int], dict[int, Manner], dict[int, Manner], tuple[int, ...]]] = {
    "to a larger committee": ((5, 3), {}, {}, (1, 2, 3, 4)),
    "to a smaller one": ((2, 2), {}, {}, (1, 2, 3, 4)),
    "to as many: a refresh": ((4, 3), {}, {}, (1, 2, 3, 4)),
    "to a committee of one": ((1, 1), {}, {}, (1, 2, 3, 4)),
    "with a dealer away": ((4, 3), {2: ABSENT}, {}, (1, 3, 4)),
    "with a dealer that deals another secret": ((4, 3), {2: Manner(other_secret=True)}, {}, (1, 3, 4)),
    "with a dealer that seals rubbish and opens it": ((4, 3), {1: Manner(bad_shares=frozenset({2}))}, {}, (1, 2, 3, 4)),
    "with a dealer that hides rubbish": (
        (4, 3), {1: Manner(bad_shares=frozenset({2}), hides_from=frozenset({2}))}, {}, (1, 2, 3, 4)),
    "with a dealer that hides rubbish and opens a lie": (
        (4, 3), {1: Manner(bad_shares=frozenset({2}), hides_from=frozenset({2}), opens="wrong")}, {}, (2, 3, 4)),
    "with a dealer and a receiver away": ((4, 3), {4: ABSENT}, {1: ABSENT}, (1, 2, 3)),
    "with a receiver that accuses everybody": (
        (4, 3), {}, {3: Manner(accuses=dict.fromkeys((1, 2, 3, 4), BAD))}, (1, 2, 3, 4)),
    "with a receiver that confirms a lie": ((4, 3), {}, {3: Manner(confirms="wrong")}, (1, 2, 3, 4)),
}  # fmt: skip


@pytest.fixture(scope="module")
def founded() -> World:
    return World(4, 3, name="founded").run()


@pytest.mark.parametrize("sentence", RESHARES)
def test_a_key_is_dealt_again(sentence: str, founded: World) -> None:
    (n, t), dealers, receivers, chosen = RESHARES[sentence]
    world = World(n, t, kind=Kind.RESHARE, old=founded, manners=receivers, old_manners=dealers, name=sentence).run()
    assert world.phase is Phase.DONE
    check_office(world, chosen)
    before, after = founded.shares()[1].public, world.honest()[0].share
    assert after is not None
    assert (after.public.mpk, after.public.term) == (before.mpk, 2)
    assert after.public.share_keys != before.share_keys
    for dealer in world.dealers.values():
        assert dealer.manner.absent or do.EraseOld(1) in dealer.erased


def test_a_resharing_with_fewer_than_the_old_t_fails_and_the_old_shares_stay(founded: World) -> None:
    world = World(4, 3, kind=Kind.RESHARE, old=founded, old_manners={1: ABSENT, 2: ABSENT}, name="short").run()
    assert world.phase is Phase.FAILED
    assert all(do.EraseOld(1) not in dealer.erased for dealer in world.dealers.values())


def test_the_old_share_is_not_erased_before_the_delay(founded: World) -> None:
    world = World(4, 3, kind=Kind.RESHARE, old=founded, name="delay")
    while world.phase is not Phase.DONE:
        world.round()
    for passed in range(14):
        world.round()
        erased: list[Any] = [do.EraseOld(1) in dealer.erased for dealer in world.dealers.values()]
        assert set(erased) == {passed >= 12}


def test_three_terms_in_a_row_keep_the_key(founded: World) -> None:
    second = World(5, 3, kind=Kind.RESHARE, old=founded, name="second").run()
    third = World(4, 2, kind=Kind.RESHARE, old=second, name="third").run()
    assert third.shares()[1].public.mpk == founded.shares()[1].public.mpk
    assert third.shares()[1].public.term == 3
