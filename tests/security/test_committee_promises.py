"""Attacks on the committee's key, one test each; the numbers are the rules of spec/gatekeepers.md that stop them."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import pytest

from cloister.core.errors import CloisterError
from cloister.core.threshold import actions as do
from cloister.core.threshold import groups as g
from cloister.core.threshold.facts import Fault
from cloister.core.threshold.partial import TransportKey, evaluate, recover
from cloister.core.threshold.phases import Kind, Phase
from cloister.core.threshold.protocol import Member
from support.committees import ABSENT, Manner, World, lagrange
from support.sharing import stream

ALL = frozenset(range(1, 8))
BAD, UNSEEN = Fault.BAD_SHARE, Fault.NOT_SHOWN


def secret_of(world: World) -> int:
    """What t honest shares interpolate to: only a test puts shares together."""
    t = world.ceremony.threshold
    shares = list(world.shares().values())[:t]
    weights = lagrange([share.index for share in shares])
    return sum(w * int.from_bytes(s.secret, "big") for w, s in zip(weights, shares, strict=True)) % g.ORDER


def public_of(secret: int) -> bytes:
    return g.to_bytes(g.G2 * g.Scalar.from_be_bytes(secret.to_bytes(32, "big")))


@pytest.fixture(scope="module")
def founded() -> World:
    return World(4, 3, name="founded").run()


# Key generation


def test_g7_who_cuts_an_honest_receiver_off_collects_none_of_its_shares() -> None:
    """Hosts drop every dealing to receiver 1: it complains of all; the dealings are published, no share is opened."""
    cut = frozenset({1})
    world = World(4, 3, name="cut off")
    for actor in world.actors():
        actor.manner = Manner(hides_from=cut)  # the network hides, the members are honest
    world.run()
    assert world.phase is Phase.DONE
    assert set(world.contract.facts.complaints) == {(2, 1), (3, 1), (4, 1)}
    assert world.contract.facts.opened == {}
    assert world.receivers[1].share is not None


def test_g7_a_bad_share_that_is_published_late_does_not_leave_an_honest_receiver_without_its_share() -> None:
    hides = Manner(bad_shares=frozenset({1, 2}), hides_from=frozenset({1, 2}), opens="no")
    world = World(5, 3, manners={4: hides, 5: hides}, name="late").run()
    assert world.phase is Phase.DONE
    assert set(world.shares()) >= {1, 2, 3}
    assert world.agreed().dealers() == (1, 2, 3)


def test_g7_t_minus_1_liars_that_call_all_shares_bad_learn_nothing_that_they_had_not() -> None:
    accuse = Manner(accuses=dict.fromkeys((1, 2, 3), BAD))
    world = World(5, 3, manners={4: accuse, 5: accuse}, name="accusers").run()
    opened = world.contract.facts.opened
    assert {receiver for _, receiver in opened} == {4, 5}
    for dealer in (1, 2, 3):  # t - 1 points of each honest polynomial: any secret still fits
        points = {r: int.from_bytes(v, "big") for (d, r), v in opened.items() if d == dealer}
        true = int.from_bytes(world.polynomials[dealer][0], "big")
        assert len(points) == world.ceremony.threshold - 1
        weights = lagrange(list(points))
        assert sum(w * y for w, y in zip(weights, points.values(), strict=True)) % g.ORDER != true


def test_g3_a_rushing_dealer_can_only_drop_out() -> None:
    """It sees all dealings, then keeps its own back: two keys to choose from, and no say in either."""
    keys = set()
    for manner in (Manner(), Manner(hides_from=ALL, publishes=False)):
        world = World(4, 3, manners={4: manner}, name="rush").run()
        assert world.phase is Phase.DONE
        keys.add(world.agreed().mpk)
    assert len(keys) == 2


def test_g2_a_member_that_registers_a_key_nobody_can_seal_to_stops_nobody() -> None:
    world = World(4, 3, name="weak key")
    weak = replace(
        world.ceremony,
        members=tuple(replace(m, dkg_key=bytes(32)) if m.index == 4 else m for m in world.ceremony.members),
    )
    for actor in world.actors():
        actor.setting = replace(actor.setting, ceremony=weak)
    world.ceremony = world.contract.ceremony = weak
    world.receivers[4].manner = ABSENT
    for actor in world.actors():
        actor.disk = actor.member.kept().with_(binding=weak.binding).to_bytes()
        if not actor.manner.absent:
            actor.crash()
    world.run()
    assert world.phase is Phase.DONE
    assert set(world.shares()) == {1, 2, 3}


def test_g11_t_minus_1_liars_put_no_result_in_office() -> None:
    lie = Manner(confirms="wrong")
    world = World(5, 3, manners={1: lie, 2: lie}, name="liars").run()
    honest = [actor.share for actor in world.honest()]
    assert world.phase is Phase.DONE
    assert all(share is not None and share.public.transcript == world.agreed().transcript for share in honest)


def test_g12_a_failed_ceremony_leaves_no_secret_on_any_disk() -> None:
    world = World(4, 3, manners={1: Manner(confirms="no"), 2: Manner(confirms="no")}, name="failed").run()
    assert world.phase is Phase.FAILED
    for actor in world.honest():
        text = actor.disk.decode()
        assert '"private":null' in text
        assert '"share":null' in text
        assert '"dealt":null' in text


def test_g2_after_the_end_a_kept_disk_image_opens_no_share_that_was_sent() -> None:
    """What leaked later is the share alone: the transport key and the polynomial are gone from what is kept."""
    world = World(4, 3, name="kept").run()
    for actor in world.actors():
        kept = actor.member.kept()
        assert (kept.private, kept.dealt) == (None, None)
        for secret in (*world.privates, *(a for i in world.polynomials for a in world.polynomials[i])):
            assert secret.hex() not in actor.disk.decode()


def test_g13_a_cloned_disk_never_shows_a_second_dealing() -> None:
    """Two members from one disk at the moment before it dealt: only the committed dealing is ever shown."""
    world = World(4, 3, name="clone")
    actor = world.actors()[0]
    twin = Member(actor.setting, actor.member.kept(), stream("twin"), old_share=actor.old)
    second = twin.advance(world.contract.facts, world.number)
    assert isinstance(second[0], do.CommitDealing)
    world.round()
    assert world.contract.facts.committed[1] != second[0].digest
    late = twin.advance(world.contract.facts, world.number)
    assert not any(isinstance(action, do.ShowDealing) for action in late)
    with pytest.raises(CloisterError):
        twin.my_dealing()
    assert world.run().phase is Phase.DONE


# Resharing


def test_r3_t_minus_1_old_and_t_minus_1_new_shares_are_no_key(founded: World) -> None:
    fresh = World(4, 3, kind=Kind.RESHARE, old=founded, name="fresh").run()
    true = secret_of(founded)
    assert secret_of(fresh) == true
    assert public_of(true) == founded.agreed().mpk
    old, new = founded.shares(), fresh.shares()
    for olds in combinations(old, 2):
        for extra in set(new) - set(olds):
            mixed = {**{i: old[i] for i in olds}, extra: new[extra]}
            weights = lagrange(list(mixed))
            guess = sum(w * int.from_bytes(s.secret, "big") for w, s in zip(weights, mixed.values(), strict=True))
            assert guess % g.ORDER != true


def test_r4_an_old_committee_that_kept_its_shares_answers_under_the_old_term_only(founded: World) -> None:
    """Unerased shares still interpolate the key among t of them: R4 is about erasing, R3 about mixing."""
    fresh = World(4, 3, kind=Kind.RESHARE, old=founded, name="kept shares").run()
    transport = TransportKey.generate(stream("asker"))
    stale = [evaluate(s, b"id", transport.public, stream("r")) for s in list(founded.shares().values())[:3]]
    with pytest.raises(CloisterError) as caught:
        recover(stale, 3, fresh.shares()[1].public, b"id", transport)
    assert caught.value.code == "threshold.too_few_partials"


def test_r1_t_minus_1_old_members_cannot_move_the_key(founded: World) -> None:
    other = Manner(other_secret=True)
    world = World(4, 3, kind=Kind.RESHARE, old=founded, old_manners={2: other}, name="move").run()
    assert world.phase is Phase.DONE
    assert world.agreed().mpk == founded.agreed().mpk
    assert 2 not in world.agreed().dealers()


def test_r4_a_rich_attacker_that_blocks_the_hand_over_gets_the_old_committee_kept(founded: World) -> None:
    """More than n - t seats of the nominated committee are the attacker's, and confirm nothing."""
    stop = Manner(confirms="no")
    world = World(4, 3, kind=Kind.RESHARE, old=founded, manners={1: stop, 2: stop}, name="ransom").run()
    assert world.phase is Phase.FAILED
    assert all(not isinstance(action, do.EraseOld) for dealer in world.dealers.values() for action in dealer.erased)
    again = World(4, 3, kind=Kind.RESHARE, old=founded, name="after ransom").run()
    assert again.agreed().mpk == founded.agreed().mpk


def test_a_rotation_makes_another_key_for_the_same_members(founded: World) -> None:
    rotated = World(4, 3, kind=Kind.ROTATE, name="rotated").run()
    assert rotated.phase is Phase.DONE
    assert rotated.agreed().mpk != founded.agreed().mpk
    assert not any(isinstance(action, do.EraseOld) for actor in rotated.actors() for action in actor.erased)


def test_no_text_of_a_refusal_or_an_action_holds_a_secret(founded: World) -> None:
    for actor in founded.actors():
        secrets = [actor.share.secret.hex()] if actor.share else []
        secrets += [a.hex() for a in founded.polynomials[actor.dealer]]
        for action in actor.said:
            assert not any(secret in repr(action) for secret in secrets)
