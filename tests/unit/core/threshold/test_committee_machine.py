"""A committee in memory under any schedule: who steps when, who crashes where, who lies (gatekeepers.md G1-G13, R1-R3).

Hypothesis chooses n, t, the liars up to the bound, the order of steps and the crashes; the end must be what the spec
says, alike for every honest member.
"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from cloister.core.threshold import actions as do
from cloister.core.threshold.facts import Fault, bits_of
from cloister.core.threshold.partial import TransportKey, evaluate, recover
from cloister.core.threshold.phases import ORDER, Kind, Phase
from support.committees import Actor, Manner, World, expected_share
from support.sharing import stream

SIZES = [(3, 2), (4, 3), (5, 3), (4, 2)]
CRASHES = ["", "before", "after", "between"]


def manners(n: int) -> st.SearchStrategy[Manner]:
    """Any misbehaviour."""
    some = st.frozensets(st.integers(1, n), max_size=n)
    lies = st.dictionaries(st.integers(1, n), st.sampled_from(Fault), max_size=n)
    return st.builds(
        Manner,
        commits=st.booleans(),
        absent=st.sampled_from([False, False, True]),
        hides_from=some,
        bad_shares=some,
        bad_proof=st.sampled_from([False, False, True]),
        publishes=st.booleans(),
        opens=st.sampled_from(["right", "wrong", "no"]),
        accuses=lies,
        confirms=st.sampled_from(["right", "wrong", "no"]),
    )


class Committee(RuleBasedStateMachine):
    """One founding. At most min(t - 1, n - t) members are corrupt or absent, so it must complete."""

    @initialize(size=st.sampled_from(SIZES), data=st.data())
    def open(self, size: tuple[int, int], data: Any) -> None:
        n, t = size
        bound = min(t - 1, n - t)
        liars = data.draw(st.sets(st.integers(1, n), max_size=bound))
        self.world = World(n, t, manners={i: data.draw(manners(n)) for i in sorted(liars)}, name="machine")
        self.seen = Phase.COMMIT
        self.shown_early = False

    @rule(order=st.randoms(use_true_random=False), crashes=st.lists(st.sampled_from(CRASHES), max_size=5))
    def block(self, order: Any, crashes: list[str]) -> None:
        """A block in which everybody steps in some order, some twice after a crash."""

        def mixed(actors: list[Actor]) -> list[Actor]:
            order.shuffle(actors)
            return actors

        places = {place: crash for place, crash in enumerate(crashes) if crash}
        self.world.round(mixed, places)
        # A member that crashed starts again within the block: a crash is not absence.
        for actor in self.world.actors():
            actor.step()

    @rule(place=st.integers(0, 4))
    def cloned_disk(self, place: int) -> None:
        """A second copy of a member's disk comes up beside it, and says what the disk says."""
        actors = self.world.actors()
        actors[place % len(actors)].crash()

    @invariant()
    def phases_only_go_forward(self) -> None:
        if hasattr(self, "world"):
            now = self.world.phase
            assert ORDER.index(now) >= ORDER.index(self.seen)
            self.seen = now

    @invariant()
    def no_dealing_is_shown_in_commit(self) -> None:
        if hasattr(self, "world") and self.world.phase is Phase.COMMIT:
            for actor in self.world.actors():
                assert not any(isinstance(action, do.ShowDealing) for action in actor.said)

    @invariant()
    def no_honest_dealer_opens_a_share_of_an_honest_receiver(self) -> None:
        if hasattr(self, "world"):
            honest = {actor.receiver for actor in self.world.honest()}
            assert not [pair for pair in self.world.contract.facts.opened if set(pair) <= honest]

    def teardown(self) -> None:
        if hasattr(self, "world"):
            finish(self.world)


def finish(world: World) -> None:
    """Run to the end; all honest members must agree, and hold what plain integers give."""
    world.run()
    assert world.phase is Phase.DONE
    agreed, honest = world.agreed(), world.honest()
    chosen = agreed.dealers()
    assert {actor.receiver for actor in honest} <= set(chosen)
    for actor in honest:
        share = actor.share
        assert share is not None
        assert (share.public.mpk, share.public.transcript) == (agreed.mpk, agreed.transcript)
        assert agreed.qualified == bits_of(chosen)
        assert int.from_bytes(share.secret, "big") == expected_share(world, chosen, actor.receiver)
    assert len({actor.share.public for actor in honest if actor.share}) == 1


Committee.TestCase.settings = settings(
    max_examples=16, stateful_step_count=8, deadline=None, suppress_health_check=list(HealthCheck)
)
TestCommittee = Committee.TestCase


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_a_resharing_between_liars_keeps_the_derived_keys(founded: World, data: Any) -> None:
    """Old committee 4 of 3, one of it corrupt; the new one of any size, corrupt up to its own bound."""
    n, t = data.draw(st.sampled_from([(3, 2), (5, 3), (4, 3)]))
    old_liar = {data.draw(st.integers(1, 4)): data.draw(manners(n))}
    liars = data.draw(st.sets(st.integers(1, n), max_size=min(t - 1, n - t)))
    new = {i: data.draw(manners(4)) for i in sorted(liars)}
    world = World(n, t, kind=Kind.RESHARE, old=founded, manners=new, old_manners=old_liar, name="between").run()
    assert world.phase is Phase.DONE
    chosen = world.agreed().dealers()
    for actor in world.honest():
        assert actor.share is not None
        assert int.from_bytes(actor.share.secret, "big") == expected_share(world, chosen, actor.receiver)
    honest = [actor.share for actor in world.honest() if actor.share]
    assert derived(honest, t) == derived(list(founded.shares().values()), 3)


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_beyond_the_bound_it_ends_in_one_result_or_in_nothing(data: Any) -> None:
    """Up to t - 1 liars and any number away: it may fail, but honest members never end with different keys."""
    n, t = data.draw(st.sampled_from([(4, 3), (5, 3), (3, 2)]))
    liars = data.draw(st.sets(st.integers(1, n), max_size=t - 1))
    away = data.draw(st.sets(st.sampled_from(sorted(set(range(1, n + 1)) - liars)), max_size=n - len(liars) - 1))
    drawn = {i: data.draw(manners(n)) for i in sorted(liars)} | dict.fromkeys(sorted(away), Manner(absent=True))
    world = World(n, t, manners=drawn, name="beyond").run()
    if world.phase is Phase.FAILED:
        for actor in world.honest():
            assert (actor.share, actor.member.kept().share) == (None, None)
            assert actor.failed is not None
        return
    agreed = world.agreed()
    for actor in world.honest():
        assert actor.share is not None
        assert (actor.share.public.mpk, actor.share.public.transcript) == (agreed.mpk, agreed.transcript)
        assert int.from_bytes(actor.share.secret, "big") == expected_share(world, agreed.dealers(), actor.receiver)


@pytest.fixture(scope="module")
def founded() -> World:
    return World(4, 3, name="founded").run()


def derived(shares: list[Any], t: int) -> bytes:
    rng = stream("derived")
    transport = TransportKey.generate(rng)
    partials = [evaluate(share, b"identity", transport.public, rng) for share in shares[:t]]
    return recover(partials, t, shares[0].public, b"identity", transport).point


# A crash of every member at every block and place gives the same end.

PLACES = [(block, crash) for block in range(6) for crash in ("before", "after", "between")]


@pytest.mark.parametrize(("block", "crash"), PLACES)
def test_a_crash_of_everybody_at_any_step_changes_nothing(block: int, crash: str) -> None:
    """With a dealer that hides a bad share, so that every phase is lived through."""
    liar = Manner(bad_shares=frozenset({1}), hides_from=frozenset({1}))
    world = World(3, 2, manners={3: liar}, name="crash")
    at = world.deadlines.commit_by - 6 + 2 * block
    while world.phase not in (Phase.DONE, Phase.FAILED):
        everybody = dict.fromkeys(range(3), crash) if world.number in (at, at + 1) else {}
        world.round(crashes=everybody)
    finish(world)


def test_every_phase_is_lived_through_when_a_dealer_hides_a_bad_share() -> None:
    world = World(3, 2, manners={3: Manner(bad_shares=frozenset({1}), hides_from=frozenset({1}))}, name="crash")
    seen = {world.phase}
    while world.phase is not Phase.DONE:
        world.round()
        seen |= {world.phase, *(actor.member.phase for actor in world.actors())}
    assert seen == set(Phase) - {Phase.FAILED}
