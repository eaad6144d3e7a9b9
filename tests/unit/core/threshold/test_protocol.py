"""What one member does in each phase, what it refuses, and what it keeps (gatekeepers.md G2-G14, R4)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloister.core.encoding import jcs
from cloister.core.errors import CloisterError
from cloister.core.threshold import actions as do
from cloister.core.threshold.dealing import SHARE_SIZE, Dealing
from cloister.core.threshold.dkg import deal, deal_kept, finish_over
from cloister.core.threshold.facts import Complaint, Confirmation, Facts, Fault
from cloister.core.threshold.kept import Kept
from cloister.core.threshold.phases import Deadlines, Kind, Phase
from cloister.core.threshold.protocol import ERASE_AFTER, Member, Setting
from cloister.core.threshold.reshare import Resharing
from support.sharing import ceremony_of, network, stream

CEREMONY, PRIVATES = ceremony_of(3, 2, "protocol")
BY = Deadlines.after(100, 10)
EVERYBODY = frozenset({1, 2, 3})
FRESH = Kept.fresh(CEREMONY, PRIVATES[0])
DEALT = {i: deal_kept(CEREMONY, i, stream(f"p{i}")) for i in (1, 2, 3)}
DEALINGS = {i: dealt.dealing for i, dealt in DEALT.items()}
DIGESTS = {i: dealing.digest(CEREMONY) for i, dealing in DEALINGS.items()}
MINE = FRESH.with_(dealt=DEALT[1])
COMMITTED = Facts(committed=DIGESTS)
SHOWN = replace(COMMITTED, content=EVERYBODY)
SHARE = finish_over(CEREMONY, DEALINGS, DIGESTS, {}, 1, PRIVATES[0])
VALUE = Confirmation(SHARE.public.mpk, SHARE.public.transcript, 0b111)
UNSEEN, BAD = Fault.NOT_SHOWN, Fault.BAD_SHARE


def setting(index: int = 1, **changes: Any) -> Setting:
    return replace(Setting(Kind.FOUND, CEREMONY, BY, index, index, erase_delay=20), **changes)


def member(kept: Kept = MINE) -> Member:
    return Member(setting(), kept, stream("fresh"))


def holding(*dealings: Dealing, kept: Kept = MINE, facts: Facts = COMMITTED) -> Member:
    """A member in SHOW that holds these dealings besides its own."""
    one = member(kept)
    one.advance(facts, 101)
    for dealing in dealings:
        one.on_dealing(dealing)
    return one


def refused(code: str, call: Callable[[], object]) -> CloisterError:
    with pytest.raises(CloisterError) as caught:
        call()
    assert caught.value.code == code
    return caught.value


def named(actions: list[do.Action]) -> list[str]:
    return [type(action).__name__ for action in actions]


def rubbish_for(receiver: int, dealing: Dealing) -> Dealing:
    shares = list(dealing.shares)
    shares[receiver - 1] = bytes(SHARE_SIZE)
    return replace(dealing, shares=tuple(shares))


# COMMIT (G3, G13)


def test_a_member_deals_once_and_asks_to_commit_until_it_sees_it() -> None:
    one = member(FRESH)
    first = one.advance(Facts(), 100)
    assert named(first) == ["CommitDealing"]
    assert one.advance(Facts(), 101) == first
    again = Member(setting(), Kept.from_bytes(one.kept().to_bytes()), stream("another source"))
    assert again.advance(Facts(), 101) == first
    digest = first[0].digest  # type: ignore[union-attr]
    assert one.advance(Facts(committed={1: digest}), 102) == []


def test_a_dealing_is_neither_shown_nor_taken_in_commit() -> None:
    one = member()
    one.advance(Facts(committed={1: DIGESTS[1], 2: DIGESTS[2]}), 101)
    refused("threshold.too_early", one.my_dealing)
    refused("threshold.too_early", lambda: one.on_dealing(DEALINGS[2]))


def test_a_member_whose_disk_was_rolled_back_shows_no_second_dealing() -> None:
    other = deal_kept(CEREMONY, 1, stream("second"))
    one = holding(kept=FRESH.with_(dealt=other))
    refused("threshold.not_committed", one.my_dealing)
    assert "ShowDealing" not in named(one.advance(COMMITTED, 102))


def test_a_member_that_was_too_late_to_commit_still_receives() -> None:
    facts = Facts(committed={2: DIGESTS[2], 3: DIGESTS[3]})
    one = member(FRESH)
    assert named(one.advance(facts, 110)) == ["FetchDealing", "FetchDealing"]
    one.on_dealing(DEALINGS[2])
    one.on_dealing(DEALINGS[3])
    assert one.advance(facts, 111) == [do.Content(1)]


# SHOW (G5, G6)


def test_dealings_are_shown_and_asked_for() -> None:
    actions = member().advance(COMMITTED, 101)
    assert actions[0] == do.ShowDealing(DEALINGS[1])
    assert [a.dealer for a in actions if isinstance(a, do.FetchDealing)] == [2, 3]
    assert not any(a.published for a in actions if isinstance(a, do.FetchDealing))


def test_who_has_everything_is_content() -> None:
    one = holding(DEALINGS[2], DEALINGS[3])
    assert named(one.advance(COMMITTED, 102)) == ["ShowDealing", "Content"]
    assert named(one.advance(replace(COMMITTED, content=frozenset({1})), 103)) == ["ShowDealing"]


def test_a_dealing_that_does_not_come_is_complained_of_when_half_the_window_is_left() -> None:
    one = holding(DEALINGS[2])
    assert "Complain" not in named(one.advance(COMMITTED, 114))
    assert do.Complain(Complaint(3, 1, UNSEEN)) in one.advance(COMMITTED, 115)
    said = replace(COMMITTED, complaints={(3, 1): UNSEEN})
    assert named(one.advance(said, 116)) == ["ShowDealing", "FetchDealing", "Content"]


def test_a_bad_share_is_complained_of_at_once() -> None:
    bad = rubbish_for(1, DEALINGS[2])
    facts = replace(COMMITTED, committed={**DIGESTS, 2: bad.digest(CEREMONY)})
    one = holding(bad, DEALINGS[3], facts=facts)
    assert do.Complain(Complaint(2, 1, BAD)) in one.advance(facts, 102)
    assert "Content" not in named(one.advance(facts, 102))
    said = replace(facts, complaints={(2, 1): UNSEEN})
    assert do.Complain(Complaint(2, 1, BAD)) in one.advance(said, 103)
    said = replace(facts, complaints={(2, 1): BAD})
    assert do.Content(1) in one.advance(said, 104)


def test_a_dealing_that_does_not_verify_is_said_not_to_be_shown() -> None:
    bad = replace(DEALINGS[2], proof=bytes(48))
    facts = replace(COMMITTED, committed={**DIGESTS, 2: bad.digest(CEREMONY)})
    one = holding(bad, DEALINGS[3], facts=facts)
    assert do.Complain(Complaint(2, 1, UNSEEN)) in one.advance(facts, 102)


def test_a_receiver_without_its_transport_key_accuses_nobody() -> None:
    """A host that takes the key away must not get the receiver's shares opened."""
    kept = Kept.fresh(CEREMONY, None).with_(dealt=DEALT[1])
    one = holding(DEALINGS[2], DEALINGS[3], kept=kept)
    for number in (102, 119):
        assert named(one.advance(COMMITTED, number)) == ["ShowDealing"]
    late = replace(COMMITTED, complaints={(2, 3): UNSEEN}, published=frozenset({2}))
    assert not {"Complain", "Content"} & set(named(one.advance(late, 131)))
    failed = one.advance(late, 150)
    assert [a.reason.code for a in failed if isinstance(a, do.Fail)] == ["threshold.no_transport_key"]
    assert "Confirm" not in named(failed)


def test_the_key_of_another_member_is_refused_before_anything_is_said() -> None:
    refused("threshold.transport_key", lambda: member(Kept.fresh(CEREMONY, PRIVATES[1])))


def test_a_dealing_with_another_digest_is_only_refused() -> None:
    one = holding()
    refused("threshold.dealing_changed", lambda: one.on_dealing(deal(CEREMONY, 2, stream("x"))))
    refused("threshold.dealing_changed", lambda: one.on_dealing(rubbish_for(1, DEALINGS[2])))
    one.on_dealing(DEALINGS[2])
    one.on_dealing(DEALINGS[2])


def test_a_dealing_of_who_did_not_commit_is_refused() -> None:
    facts = Facts(committed={1: DIGESTS[1], 2: DIGESTS[2]})
    one = member()
    one.advance(facts, 110)
    refused("threshold.not_committed", lambda: one.on_dealing(DEALINGS[3]))


# PUBLISH, OBJECT, ANSWER (G7)


def test_an_accused_dealer_publishes_once() -> None:
    accused = replace(SHOWN, complaints={(1, 2): UNSEEN})
    one = holding(DEALINGS[2], DEALINGS[3])
    assert do.Publish(DEALINGS[1]) in one.advance(accused, 103)
    assert "Publish" not in named(one.advance(replace(accused, published=frozenset({1})), 104))


def test_others_do_not_publish_for_it() -> None:
    one = holding(DEALINGS[2], DEALINGS[3])
    assert "Publish" not in named(one.advance(replace(SHOWN, complaints={(3, 2): UNSEEN}), 103))


def test_who_sees_a_bad_share_only_now_objects() -> None:
    bad = rubbish_for(1, DEALINGS[2])
    facts = replace(SHOWN, committed={**DIGESTS, 2: bad.digest(CEREMONY)})
    facts = replace(facts, complaints={(2, 1): UNSEEN}, published=frozenset({2}))
    one = holding(DEALINGS[3], facts=facts)
    asked = one.advance(facts, 104)
    assert do.FetchDealing(2, bad.digest(CEREMONY), published=True) in asked
    assert "Content" not in named(asked)
    one.on_dealing(bad)
    assert do.Complain(Complaint(2, 1, BAD)) in one.advance(facts, 105)


def test_who_sees_a_good_share_only_now_has_no_objection() -> None:
    facts = replace(SHOWN, complaints={(2, 1): UNSEEN}, published=frozenset({2}))
    one = holding(DEALINGS[3], facts=facts)
    one.on_dealing(DEALINGS[2])
    assert do.Content(2) in one.advance(facts, 105)
    assert one.phase is Phase.OBJECT
    one.advance(replace(facts, settled=frozenset({1})), 106)
    assert one.phase is Phase.CONFIRM


def test_a_dealer_opens_what_was_called_bad_and_nothing_else() -> None:
    facts = replace(SHOWN, complaints={(1, 2): BAD}, published=frozenset({1}))
    one = holding(DEALINGS[2], DEALINGS[3])
    opened = [a.opened for a in one.advance(facts, 105) if isinstance(a, do.OpenShare)]
    assert [(o.dealer, o.receiver, o.value) for o in opened] == [(1, 2, DEALT[1].share(2))]


def test_a_dealer_opens_nothing_when_t_call_its_shares_bad() -> None:
    facts = replace(SHOWN, complaints={(1, 2): BAD, (1, 3): BAD}, published=frozenset({1}))
    one = holding(DEALINGS[2], DEALINGS[3])
    assert "OpenShare" not in named(one.advance(facts, 105))
    assert one.phase is Phase.ANSWER


# CONFIRM, DONE, FAILED (G11-G13, G2)


def confirming() -> Member:
    one = holding(DEALINGS[2], DEALINGS[3])
    one.advance(SHOWN, 103)
    return one


def test_the_polynomial_goes_when_nothing_can_be_asked_for_any_more() -> None:
    one = holding(DEALINGS[2], DEALINGS[3])
    assert do.ErasePolynomial() in one.advance(SHOWN, 103)
    assert one.kept().dealt is None
    assert one.my_dealing() == DEALINGS[1]
    again = Member(setting(), Kept.from_bytes(one.kept().to_bytes()), stream("x"))
    again.advance(SHOWN, 103)
    assert again.my_dealing() == DEALINGS[1]


def test_the_share_is_kept_before_it_is_confirmed() -> None:
    one = holding(DEALINGS[2], DEALINGS[3])
    assert do.Confirm(VALUE) in one.advance(SHOWN, 103)
    assert one.kept().share == SHARE


def test_a_confirmation_of_ours_that_we_did_not_make_stops_us() -> None:
    forged = replace(SHOWN, confirmed={1: replace(VALUE, transcript=b"\7" * 32)})
    failed = [a.reason.code for a in confirming().advance(forged, 104) if isinstance(a, do.Fail)]
    assert failed == ["threshold.not_my_confirmation"]


def test_no_office_before_the_others_confirmed() -> None:
    one = confirming()
    assert "TakeOffice" not in named(one.advance(replace(SHOWN, confirmed={1: VALUE}), 149))


def test_office_when_all_confirmed_and_the_key_goes_8_blocks_later() -> None:
    one, facts = confirming(), replace(SHOWN, confirmed=dict.fromkeys(EVERYBODY, VALUE))
    assert do.TakeOffice(SHARE) in one.advance(facts, 105)
    assert "EraseTransport" not in named(one.advance(facts, 105 + ERASE_AFTER - 1))
    assert one.kept().private == PRIVATES[0]
    assert do.EraseTransport() in one.advance(facts, 105 + ERASE_AFTER)
    assert one.kept().private is None
    again = Member(setting(), Kept.from_bytes(one.kept().to_bytes()), stream("x"))
    assert do.TakeOffice(SHARE) in again.advance(facts, 200)


def test_a_result_of_the_others_that_is_not_ours_is_not_used() -> None:
    lie = replace(VALUE, transcript=b"\7" * 32)
    facts = replace(SHOWN, confirmed={2: lie, 3: lie})
    actions = confirming().advance(facts, 160)
    assert "TakeOffice" not in named(actions)
    assert [a.reason.code for a in actions if isinstance(a, do.Fail)] == ["threshold.confirmation_differs"]


def test_who_was_away_takes_its_share_late() -> None:
    facts = replace(SHOWN, confirmed={2: VALUE, 3: VALUE})
    one = member(FRESH)
    asked = one.advance(facts, 160)
    assert [a.dealer for a in asked if isinstance(a, do.FetchDealing)] == [1, 2, 3]
    for dealing in DEALINGS.values():
        one.on_dealing(dealing)
    assert do.TakeOffice(SHARE) in one.advance(facts, 161)


def test_who_never_gets_its_share_erases_its_key_after_the_delay() -> None:
    facts = replace(SHOWN, confirmed={2: VALUE, 3: VALUE})
    one = member(FRESH)
    one.advance(facts, 160)
    assert "EraseTransport" not in named(one.advance(facts, 179))
    assert "EraseTransport" in named(one.advance(facts, 180))


def test_a_failed_ceremony_leaves_no_share_and_later_no_key() -> None:
    one = confirming()
    actions = one.advance(SHOWN, 160)
    assert [a.reason.code for a in actions if isinstance(a, do.Fail)] == ["threshold.too_few_confirmed"]
    assert (one.kept().share, one.kept().dealt) == (None, None)
    assert "EraseTransport" in named(one.advance(SHOWN, 160 + ERASE_AFTER))
    assert one.kept().private is None


@pytest.mark.parametrize("facts", [Facts(), COMMITTED, replace(COMMITTED, complaints={(1, 2): BAD}), SHOWN])
def test_a_cancelled_ceremony_fails_from_any_phase(facts: Facts) -> None:
    one = member()
    one.advance(facts, 105)
    actions = one.advance(replace(facts, cancelled=True), 106)
    assert [a.reason.code for a in actions if isinstance(a, do.Fail)] == ["threshold.cancelled"]


# Giving up


@pytest.mark.parametrize("facts", [Facts(), COMMITTED, SHOWN])
def test_who_gives_up_says_nothing_more_and_drops_its_secrets(facts: Facts) -> None:
    one = member()
    one.advance(facts, 101)
    one.abort("evidence of a peer failed")
    for number in (102, 119, 131):
        actions = one.advance(facts, number)
        if one.phase is not Phase.FAILED:
            assert named(actions) == ["Fail"]
    assert (one.kept().dealt, one.kept().share) == (None, None)
    again = Member(setting(), Kept.from_bytes(one.kept().to_bytes()), stream("x"))
    assert "Fail" in named(again.advance(facts, 132))


def test_nobody_gives_up_after_confirming() -> None:
    one = confirming()
    one.advance(replace(SHOWN, confirmed={1: VALUE}), 105)
    refused("threshold.wrong_phase", lambda: one.abort("no"))


def test_nobody_gives_up_after_the_end() -> None:
    one = confirming()
    one.advance(SHOWN, 160)
    refused("threshold.wrong_phase", lambda: one.abort("no"))


# What drives it


def test_blocks_go_forward() -> None:
    one = member()
    one.advance(COMMITTED, 105)
    refused("threshold.backwards", lambda: one.advance(COMMITTED, 104))


def test_a_chain_that_changes_its_mind_stops_us() -> None:
    one = member()
    one.advance(COMMITTED, 105)
    refused("threshold.facts_changed", lambda: one.advance(Facts(committed={**DIGESTS, 2: b"\7" * 32}), 106))
    refused("threshold.facts", lambda: one.advance(Facts(committed={7: b"\7" * 32}), 106))


def test_actions_come_again_until_they_are_facts() -> None:
    one = holding(DEALINGS[2], DEALINGS[3])
    assert one.advance(COMMITTED, 102) == one.advance(COMMITTED, 103)


SETTINGS: dict[str, dict[str, Any]] = {
    "no seat at all": {"dealer": 0, "receiver": 0},
    "a dealer beyond n": {"dealer": 4, "receiver": 4},
    "a receiver below none": {"dealer": 1, "receiver": -1},
    "two seats in one founding": {"dealer": 1, "receiver": 2},
    "a resharing that is none": {"kind": Kind.RESHARE},
}


@pytest.mark.parametrize("sentence", SETTINGS)
def test_a_setting_is_refused_with(sentence: str) -> None:
    refused("threshold.ceremony", lambda: setting(**SETTINGS[sentence]))


# Resharing


def resharing() -> tuple[Setting, Any]:
    old = network(3, 2, "old")
    base, privates = ceremony_of(3, 2, "again")
    addresses = tuple(m.address for m in old.ceremony.members)
    ceremony = Resharing(base.id, 2, base.members, 2, old=old.public, old_threshold=2, old_members=addresses)
    return Setting(Kind.RESHARE, ceremony, BY, 2, 1), (old, privates)


def test_a_dealer_without_its_old_share_cannot_deal() -> None:
    place, (_, privates) = resharing()
    one = Member(place, Kept.fresh(place.ceremony, privates[0]), stream("x"))
    refused("threshold.not_the_dealer", lambda: one.advance(Facts(), 100))


def test_the_share_of_another_seat_is_refused() -> None:
    place, (old, privates) = resharing()
    kept = Kept.fresh(place.ceremony, privates[0])
    refused("threshold.not_the_dealer", lambda: Member(place, kept, stream("x"), old_share=old.shares[0]))
    assert named(Member(place, kept, stream("x"), old_share=old.shares[1]).advance(Facts(), 100)) == ["CommitDealing"]


def test_a_resharing_is_no_founding() -> None:
    place, _ = resharing()
    refused("threshold.ceremony", lambda: replace(place, kind=Kind.FOUND))


# What is kept


def test_what_was_kept_of_another_ceremony_is_refused() -> None:
    other, privates = ceremony_of(3, 2, "other")
    refused("threshold.other_ceremony", lambda: member(Kept.fresh(other, privates[0])))


def test_secrets_are_hidden_from_repr() -> None:
    kept = confirming().kept().with_(dealt=DEALT[1])
    for secret in (PRIVATES[0], SHARE.secret, DEALT[1].polynomial[0]):
        assert secret.hex() not in repr(kept)
        assert repr(secret) not in repr(kept)
        assert secret.hex() not in repr(do.TakeOffice(SHARE))
    assert "phase=commit" in repr(member())


FULL = MINE.with_(dealings=tuple(DEALINGS.values()), share=SHARE, ended=7, aborted="because")


@pytest.mark.parametrize("kept", [FRESH, MINE, FULL, Kept.fresh(CEREMONY, None)])
def test_what_is_kept_reads_back(kept: Kept) -> None:
    assert Kept.from_bytes(kept.to_bytes()) == kept


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_a_changed_byte_of_what_is_kept_is_refused_or_changes_no_secret(data: Any) -> None:
    raw = bytearray(FULL.to_bytes())
    at = data.draw(st.integers(0, len(raw) - 1))
    raw[at] ^= 1 << data.draw(st.integers(0, 7))
    try:
        found = Kept.from_bytes(bytes(raw))
    except CloisterError:
        return
    assert found.share is None or found.share.secret == SHARE.secret
    assert found.dealt is None or found.dealt.polynomial == DEALT[1].polynomial


@pytest.mark.parametrize("raw", [b"", b"{}", b"[]", b"null", b"\xff", b'{"binding":1}'])
def test_garbage_is_nothing_that_was_kept(raw: bytes) -> None:
    with pytest.raises(CloisterError):
        Kept.from_bytes(raw)


@pytest.mark.parametrize(
    ("name", "value"),
    [("dealings", {}), ("dealings", [{}] * 65), ("aborted", 1), ("aborted", "x" * 513), ("ended", -1),
     ("private", "0x00"), ("share", "0x"), ("dealt", 5), ("binding", None)],
)  # fmt: skip
def test_a_field_of_another_form_is_refused(name: str, value: Any) -> None:
    body = {**jcs.decode(FULL.to_bytes(), max_size=1 << 22), name: value}
    with pytest.raises(CloisterError):
        Kept.from_bytes(jcs.encode(body))
