"""What hand-overs do not let anybody do: every statement that a follower takes is of a term that may make it.

Attackers hold keys of some members, of terms long gone, or of another network; gateways serve what they like.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from cloister.client.resolve import Resolver
from cloister.core.chainview.epochs import EpochState
from cloister.core.chainview.terms import MAX_TERM_AGE_S, SignedHandover, Terms, follow, pinned
from cloister.core.encoding.keccak import keccak256
from cloister.core.encoding.signatures import Signed, SignerSet, address_of, sign_digest
from cloister.core.encoding.statements import Lease
from cloister.core.errors import CloisterError
from cloister.wire.terms import LOOK_AGAIN_S
from support.direct_gateway import Direct, Stage, make_stage
from support.fake_world import MEMBERS, MPK, MPKS, NOW, World, test_key

SECOND = tuple(test_key(f"second {i}") for i in range(5))
THIRD = tuple(test_key(f"third {i}") for i in range(5))
# Long enough for the follower to look for hand-overs again.
AGAIN_S = 1.0


def code_of(work: Callable[[], object]) -> str:
    with pytest.raises(CloisterError) as caught:
        work()
    return caught.value.code


def addresses(keys: Any) -> tuple[bytes, ...]:
    return tuple(address_of(k) for k in keys)


# --- hand-overs ---


@pytest.fixture
def world() -> World:
    return World()


def follower(world: World) -> Terms:
    return pinned(world.network, NOW)


def again(world: World, one: SignedHandover, keys: Any, network: bytes | None = None) -> SignedHandover:
    """The hand-over, signed by others or for another network."""
    said = one.statement.digest(network or world.network.id)
    return replace(one, signatures=tuple(sign_digest(k, said) for k in keys))


def test_an_honest_hand_over_is_followed_and_kept(world: World) -> None:
    one, two = world.hand_over(SECOND), world.hand_over(THIRD)
    terms = follow(follower(world), [two, one], NOW)
    assert [t.signers for t in terms.known] == [
        world.network.founding,
        SignerSet(2, 3, addresses(SECOND)),
        SignerSet(3, 3, addresses(THIRD)),
    ]
    assert terms.told == (one, two)
    assert follow(terms, [one, two], NOW) is terms, "nothing new"


PASSED_OVER: dict[str, Callable[[World], list[SignedHandover]]] = {
    "signed by t - 1 members": lambda w: [w.hand_over(SECOND, signers=2)],
    "signed by one member three times": lambda w: [again(w, w.hand_over(SECOND), MEMBERS[:1] * 3)],
    "signed by those who are to come": lambda w: [again(w, w.hand_over(SECOND), SECOND[:3])],
    "signed for another network": lambda w: [again(w, w.hand_over(SECOND), MEMBERS[:3], b"\x09" * 32)],
    "with a term left out": lambda w: [w.hand_over(SECOND), w.hand_over(THIRD)][1:],
    "of other members than it hashes": lambda w: [replace(w.hand_over(SECOND), members=addresses(THIRD))],
    "with no signature at all": lambda w: [replace(w.hand_over(SECOND), signatures=())],
}


@pytest.mark.parametrize("sentence", PASSED_OVER)
def test_a_hand_over_is_not_followed(sentence: str, world: World) -> None:
    terms = follower(world)
    assert follow(terms, PASSED_OVER[sentence](world), NOW) is terms


REFUSED: dict[str, tuple[Callable[[World], list[SignedHandover]], str]] = {
    "t members that name a block of the future": (
        lambda w: [w.hand_over(SECOND, timestamp=NOW + 31)],
        "chainview.term_too_old",
    ),
    "t members that name no later block": (lambda w: [w.hand_over(SECOND, height=0)], "chainview.handover"),
    "t members that jump a term": (lambda w: [w.hand_over(SECOND, next_term=3)], "chainview.handover"),
    "another master key in the same epoch": (
        lambda w: [w.hand_over(SECOND, mpk=keccak256(MPKS[2]))],
        "chainview.master_key_moved",
    ),
    "a master epoch that goes back": (lambda w: [w.hand_over(SECOND, master_epoch=0)], "chainview.master_key_moved"),
}


@pytest.mark.parametrize("sentence", REFUSED)
def test_a_hand_over_is_refused(sentence: str, world: World) -> None:
    make, code = REFUSED[sentence]
    assert code_of(lambda: follow(follower(world), make(world), NOW)) == code


def forked(world: World) -> tuple[SignedHandover, SignedHandover]:
    first = world.hand_over(SECOND)
    world.sit(MEMBERS, 1)
    return first, world.hand_over(THIRD)


def test_a_term_that_hands_over_twice_is_followed_nowhere(world: World) -> None:
    one, other = forked(world)
    assert code_of(lambda: follow(follower(world), [one, other], NOW)) == "chainview.handover_fork"


def test_a_second_successor_is_noticed_after_the_first_was_followed(world: World) -> None:
    one, other = forked(world)
    terms = follow(follower(world), [one], NOW)
    assert code_of(lambda: follow(terms, [other], NOW)) == "chainview.handover_fork"


def test_who_slept_for_longer_than_a_term_may_last_follows_nobody(world: World) -> None:
    """Keys of a term long gone can sign another history, with any date in it."""
    late = NOW + MAX_TERM_AGE_S + 1
    one = world.hand_over(SECOND, timestamp=late)
    assert code_of(lambda: follow(follower(world), [one], late)) == "chainview.term_too_old"
    assert code_of(lambda: follower(world).require_fresh(late)) == "chainview.term_too_old"
    assert follow(follower(world).seen(late), [one], late).in_office.signers.term == 2


# --- what terms say ---


def leased(world: World, term: int, keys: Any, **changes: Any) -> Signed:
    agent = world.set_agent()
    said = replace(world.lease(agent, bytes(20), bytes(32)), term=term, **changes)
    return Signed(said, tuple(sign_digest(k, said.digest(world.network.id)) for k in keys[:3]))


def test_leases_of_a_term_that_is_over_end_soon(world: World) -> None:
    period = world.policy.network.period_blocks
    before = leased(world, 1, MEMBERS)
    terms = follow(follower(world), [world.hand_over(SECOND)], NOW)
    height = terms.in_office.height
    assert terms.lessors(before.statement, period) == world.network.founding
    end = (height // period + 2) * period
    for changes in ({"checkpoint": height + 1}, {"expiry": end + 1}, {"expiry": 1 << 50}):
        late = leased(world, 1, MEMBERS, **changes)
        assert code_of(lambda one=late: terms.lessors(one.statement, period)) == "chainview.term_over"  # type: ignore[misc]
    for term, code in ((3, "chainview.unknown_term"), (0, "chainview.unknown_term")):
        strange = leased(world, term, SECOND)
        assert code_of(lambda one=strange: terms.lessors(one.statement, period)) == code  # type: ignore[misc]


def test_a_lease_of_the_new_term_before_it_began_is_refused(world: World) -> None:
    terms = follow(follower(world), [world.hand_over(SECOND)], NOW)
    early = leased(world, 2, SECOND, checkpoint=terms.in_office.height - 1)
    assert code_of(lambda: terms.lessors(early.statement, 300)) == "chainview.term_over"


def test_what_is_no_lease_gets_the_committee_in_office_and_fails_there(world: World) -> None:
    terms = follow(follower(world), [world.hand_over(SECOND)], NOW)
    assert terms.lessors(world.checkpoint(), 300) == terms.in_office.signers
    assert not isinstance(world.checkpoint(), Lease)


def test_keys_are_held_against_every_hand_over_of_their_epoch(world: World) -> None:
    terms = follow(follower(world), [world.hand_over(SECOND)], NOW)
    terms.require_key(1, MPK)
    terms.require_key(2, MPKS[2])  # nobody named one yet
    assert code_of(lambda: terms.require_key(1, MPKS[2])) == "chainview.master_key_moved"


# --- an ordinary client, under a gateway that serves what it likes ---


@pytest.fixture
def stage() -> Stage:
    return make_stage()


def resolver(stage: Stage) -> Resolver:
    return stage.resolver(Direct(stage.gateway))


def height(client: Resolver) -> int:
    return asyncio.run(client.view()).checkpoint.number


def resolved(client: Resolver, agent: bytes) -> Any:
    return asyncio.run(client.resolve(agent, again=True))


def next_term(stage: Stage, **changes: Any) -> SignedHandover:
    """The second committee takes office and grants new leases."""
    made = stage.world.hand_over(SECOND, **changes)
    stage.world.mine()
    stage.gateway.offer(stage.agent)
    return made


def test_a_client_goes_on_from_term_to_term(stage: Stage) -> None:
    client = resolver(stage)
    assert resolved(client, stage.agent).sittings
    next_term(stage)
    seats = resolved(client, stage.agent).sittings
    assert {s.seat.lease.statement.term for s in seats} == {2}
    stage.world.hand_over(THIRD)
    stage.gateway.offer(stage.agent)
    stage.world.now += AGAIN_S
    assert {s.seat.lease.statement.term for s in resolved(client, stage.agent).sittings} == {3}


def test_leases_of_the_term_before_serve_on_until_they_end(stage: Stage) -> None:
    client = resolver(stage)
    stage.world.hand_over(SECOND)
    stage.world.mine()
    seats = resolved(client, stage.agent).sittings
    assert {s.seat.lease.statement.term for s in seats} == {1}


def test_the_block_of_a_hand_over_may_be_signed_by_either_term(stage: Stage) -> None:
    client = resolver(stage)
    stage.world.hand_over(SECOND)
    at = replace(stage.world.checkpoint(), term=1)
    stage.gateway.checkpoint = lambda: stage.world.sign(at, MEMBERS[:3])
    stage.world.told, told = [], stage.world.told
    assert resolved(client, stage.agent).sittings, "nobody serves the hand-over yet"
    stage.world.told = told
    stage.world.now += AGAIN_S
    stage.gateway.checkpoint = lambda: stage.world.sign(stage.world.checkpoint())
    assert resolved(client, stage.agent).sittings


def test_an_old_terms_checkpoint_above_the_hand_over_is_refused(stage: Stage) -> None:
    client = resolver(stage)
    next_term(stage)
    height(client)
    stage.world.mine()
    old = replace(stage.world.checkpoint(), term=1)
    stage.gateway.checkpoint = lambda: stage.world.sign(old, MEMBERS[:3])
    assert code_of(lambda: height(client)) == "chainview.term_over"


def test_a_new_terms_checkpoint_below_the_hand_over_is_refused(stage: Stage) -> None:
    """Whoever is only about to take office, or knows the block before it is final, speaks for nobody yet."""
    client = resolver(stage)
    low = replace(stage.world.checkpoint(), term=2)
    next_term(stage)
    stage.gateway.checkpoint = lambda: stage.world.sign(low, SECOND[:3])
    assert code_of(lambda: height(client)) == "chainview.term_over"


def test_an_old_term_that_speaks_on_is_caught_by_the_state_if_hand_overs_are_held_back(stage: Stage) -> None:
    client = resolver(stage)
    next_term(stage)
    stage.world.told = []
    old = replace(stage.world.checkpoint(), term=1)
    stage.gateway.checkpoint = lambda: stage.world.sign(old, MEMBERS[:3])
    assert code_of(lambda: resolved(client, stage.agent)) == "client.committee"


BAD_GATEWAYS: dict[str, dict[str, Any]] = {
    "a hand-over that t - 1 members signed": {"signers": 2},
    "a hand-over of another network": {"network": True},
    "no hand-over at all": {"none": True},
}


@pytest.mark.parametrize("sentence", BAD_GATEWAYS)
def test_a_gateway_leads_nobody_astray_with(sentence: str, stage: Stage) -> None:
    how, client = BAD_GATEWAYS[sentence], resolver(stage)
    made = next_term(stage, signers=how.get("signers", 3))
    if "network" in how:
        stage.world.told = [again(stage.world, made, MEMBERS[:3], b"\x09" * 32)]
    if "none" in how:
        stage.world.told = []
    assert code_of(lambda: height(client)) == "chainview.unknown_term"
    assert client.walk.terms.in_office.signers.term == 1


def test_a_gateway_that_serves_two_successors_is_refused_by_name(stage: Stage) -> None:
    client = resolver(stage)
    next_term(stage)
    stage.world.sit(MEMBERS, 1)
    stage.world.hand_over(THIRD)
    assert code_of(lambda: height(client)) == "chainview.handover_fork"


def test_a_client_that_learns_of_a_second_successor_trusts_the_first_no_more(stage: Stage) -> None:
    client = resolver(stage)
    next_term(stage)
    assert resolved(client, stage.agent).sittings
    here = (stage.world.term, stage.world.members)
    stage.world.sit(MEMBERS, 1)
    stage.world.hand_over(THIRD)
    stage.world.sit(here[1], here[0])
    stage.world.mine()
    stage.world.now += LOOK_AGAIN_S
    for _ in range(3):
        assert code_of(lambda: height(client)) == "chainview.handover_fork"


@pytest.mark.parametrize(
    "served", [None, [], {}, {"handovers": 7, "signing": []}, {"handovers": [{}], "signing": []}, "x" * 100]
)
def test_an_answer_that_is_no_list_of_hand_overs_is_none(served: Any, stage: Stage) -> None:
    def spoil(kind: str, answer: Any) -> Any:
        return served if kind == "handovers" else answer

    client = stage.resolver(Direct(stage.gateway, spoil))
    next_term(stage)
    assert code_of(lambda: height(client)) == "chainview.unknown_term"


def test_a_client_that_slept_too_long_trusts_no_checkpoint_until_it_pins_anew(stage: Stage) -> None:
    client = resolver(stage)
    height(client)
    stage.world.now += MAX_TERM_AGE_S + 1
    stage.world.mine()
    assert code_of(lambda: height(client)) == "chainview.term_too_old"


OTHERS: dict[str, Callable[[World], None]] = {
    "a committee that no hand-over named": lambda w: w.sit((*MEMBERS[:4], SECOND[0]), 1),
    "a later term than the one after": lambda w: w.stores["Gatekeepers"].struct("_committee", None, {"term": 3}),
    "the next term, in a block that did not put it in office": lambda w: w.stores["Gatekeepers"].struct(
        "_committee", None, {"term": 2}
    ),
    "an earlier term": lambda w: w.stores["Gatekeepers"].struct("_committee", None, {"term": 0}),
    "another network's id": lambda w: w.stores["Gatekeepers"].struct("_committee", None, {"networkId": b"\x09" * 32}),
    "another key in the pinned epoch": lambda w: w.set_epoch(1, EpochState.RELEASED, MPKS[2]),
}


@pytest.mark.parametrize("sentence", OTHERS)
def test_a_state_that_contradicts_the_hand_overs_is_refused(sentence: str, stage: Stage) -> None:
    client = resolver(stage)
    OTHERS[sentence](stage.world)
    stage.world.term = 1
    stage.world.members = MEMBERS
    stage.world.mine()
    assert code_of(lambda: resolved(client, stage.agent)) in ("client.committee", "chainview.no_committee")


# --- master keys ---


def rotate(stage: Stage, new: EpochState, old: EpochState = EpochState.PAUSED) -> None:
    stage.world.set_epoch(1, old, MPK)
    stage.world.set_epoch(2, new, MPKS[2])
    stage.world.mine()


def test_the_key_of_a_rotation_is_used_from_its_resume_on(stage: Stage) -> None:
    client = resolver(stage)
    record = asyncio.run(client.record(stage.agent))
    rotate(stage, EpochState.PAUSED)
    assert asyncio.run(client.version(record)).master_epoch == 1
    assert resolved(client, stage.agent).sittings, "leases of the old epoch serve on"
    assert client.mpk(1) == MPK
    with pytest.raises(KeyError):
        client.mpk(2)
    rotate(stage, EpochState.RESUMED)
    assert asyncio.run(client.version(record)).master_epoch == 2
    assert client.mpk(2) == MPKS[2]
    assert code_of(lambda: resolved(client, stage.agent)) == "client.old_seat", "those of the old one serve no more"
    stage.gateway.offer(stage.agent)
    assert resolved(client, stage.agent).sittings


@pytest.mark.parametrize("new", [EpochState.NONE, EpochState.DESTROYED])
def test_a_key_that_is_not_confirmed_or_is_destroyed_is_used_by_nobody(new: EpochState, stage: Stage) -> None:
    client = resolver(stage)
    rotate(stage, new)
    assert code_of(lambda: resolved(client, stage.agent)) == "chainview.master_epoch"


def test_a_seat_of_a_key_that_waits_for_its_resume_is_not_sealed_to(stage: Stage) -> None:
    client = resolver(stage)
    rotate(stage, EpochState.PAUSED)
    stage.gateway.offer(stage.agent, master_epoch=2)
    assert code_of(lambda: resolved(client, stage.agent)) == "client.old_seat"


def test_a_hand_over_pins_the_key_of_a_rotation(stage: Stage) -> None:
    """The term after a rotation named its key: a state that says another is no state of this network."""
    client = resolver(stage)
    rotate(stage, EpochState.RESUMED)
    next_term(stage)
    assert resolved(client, stage.agent).sittings
    assert client.walk.terms.in_office.master_epoch == 2
    stage.world.set_epoch(2, EpochState.RESUMED, MPK)
    stage.world.mine()
    assert code_of(lambda: resolved(client, stage.agent)) == "chainview.master_key_moved"
