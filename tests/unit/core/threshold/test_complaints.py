"""What is complained of, what is opened, and who is qualified after it (gatekeepers.md G5-G10, G14)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import product
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st
from py_arkworks_bls12381 import Scalar

from cloister.core.errors import CloisterError
from cloister.core.threshold import groups as g
from cloister.core.threshold.complaints import (
    Standing,
    absentees,
    judge,
    open_publicly,
    qualified,
    require_opened,
    require_qualified,
)
from cloister.core.threshold.dealing import SHARE_SIZE, Ceremony, Dealing, Dealt, Member, seal_share
from cloister.core.threshold.dkg import deal, deal_kept, finish_over, replay_over, verify_dealing
from cloister.core.threshold.facts import Confirmation, Facts, Fault, OpenedShare, bits_of
from support.committees import lagrange
from support.sharing import ceremony_of, stream

N, T = 4, 3
CEREMONY, PRIVATES = ceremony_of(N, T, "complaints")
KEYS = [X25519PrivateKey.from_private_bytes(raw) for raw in PRIVATES]
DEALT = {i: deal_kept(CEREMONY, i, stream(f"dealt/{i}")) for i in range(1, N + 1)}
DEALINGS = {i: dealt.dealing for i, dealt in DEALT.items()}
DIGESTS = {i: dealing.digest(CEREMONY) for i, dealing in DEALINGS.items()}
UNSEEN, BAD = Fault.NOT_SHOWN, Fault.BAD_SHARE
CLEAN = Facts(committed=DIGESTS)


def refused(code: str, call: Callable[[], object]) -> CloisterError:
    with pytest.raises(CloisterError) as caught:
        call()
    assert caught.value.code == code
    return caught.value


def with_share(dealing: Dealing, receiver: int, sealed: bytes) -> Dealing:
    shares = list(dealing.shares)
    shares[receiver - 1] = sealed
    return replace(dealing, shares=tuple(shares))


def sealed_value(dealing: Dealing, receiver: int, value: int) -> Dealing:
    """A dealing whose share for a receiver opens, to another value."""
    member = CEREMONY.member(receiver)
    return with_share(
        dealing, receiver, seal_share(CEREMONY, dealing.dealer, member, dealing.commitments, Scalar(value))
    )


# judge (G5)

TWO = DEALINGS[2]
SEEN: dict[str, tuple[Dealing | None, bool, Fault | None]] = {
    # sentence -> dealing of dealer 2 as receiver 1 has it, whether its own digest is the committed one, complaint
    "a good dealing is not complained of": (TWO, True, None),
    "no dealing was not shown": (None, True, UNSEEN),
    "another dealing than the committed one was not shown": (deal(CEREMONY, 2, stream("x")), False, UNSEEN),
    "another dealer's was not shown": (DEALINGS[3], False, UNSEEN),
    "a share changed on the way is no bad share": (with_share(TWO, 1, bytes(SHARE_SIZE)), False, UNSEEN),
    "a committed share that does not open is bad": (with_share(TWO, 1, bytes(SHARE_SIZE)), True, BAD),
    "a committed share of somebody else is bad": (with_share(TWO, 1, TWO.shares[1]), True, BAD),
    "a committed share that opens and does not fit is bad": (sealed_value(TWO, 1, 5), True, BAD),
    "a bad share of another receiver is not ours to call": (with_share(TWO, 3, bytes(SHARE_SIZE)), True, None),
    "a committed dealing without proof must be seen by all": (replace(TWO, proof=bytes(48)), True, UNSEEN),
    "a committed dealing with too few commitments too": (replace(TWO, commitments=TWO.commitments[:2]), True, UNSEEN),
    "a committed dealing with a point off the curve too": (
        replace(TWO, commitments=(b"\xff" * 192, *TWO.commitments[1:])), True, UNSEEN),
}  # fmt: skip


@pytest.mark.parametrize("sentence", SEEN)
def test_judged(sentence: str) -> None:
    dealing, committed, fault = SEEN[sentence]
    digest = dealing.digest(CEREMONY) if dealing is not None and committed else DIGESTS[2]
    assert judge(CEREMONY, 2, digest, dealing, 1, KEYS[0]) is fault


def test_honest_dealings_are_not_complained_of_by_anybody() -> None:
    for dealer, me in product(range(1, N + 1), repeat=2):
        assert judge(CEREMONY, dealer, DIGESTS[dealer], DEALINGS[dealer], me, KEYS[me - 1]) is None


@given(st.integers(0, N * SHARE_SIZE * 8 - 1))
@settings(max_examples=25, deadline=None)
def test_a_flipped_bit_on_the_way_never_calls_a_share_bad(bit: int) -> None:
    """Else who carries dealings could make honest dealers open honest receivers' shares."""
    place, byte = divmod(bit // 8, SHARE_SIZE)
    sealed = bytearray(TWO.shares[place])
    sealed[byte] ^= 1 << bit % 8
    changed = with_share(TWO, place + 1, bytes(sealed))
    for me in range(1, N + 1):
        assert judge(CEREMONY, 2, DIGESTS[2], changed, me, KEYS[me - 1]) is UNSEEN


# open_publicly (G7)


def called(*receivers: int, published: bool = True, **more: Any) -> Facts:
    complaints = {(2, j): BAD for j in receivers}
    return replace(CLEAN, complaints=complaints, published=frozenset({2} if published else ()), **more)


def test_every_share_that_was_called_bad_is_opened_and_no_other() -> None:
    opened = open_publicly(CEREMONY, called(1, 4), DEALT[2])
    assert [(o.dealer, o.receiver) for o in opened] == [(2, 1), (2, 4)]
    for one in opened:
        require_opened(CEREMONY, TWO, one)
        assert one.value == DEALT[2].share(one.receiver)


def test_what_is_open_is_not_opened_again() -> None:
    facts = called(1, 4, opened={(2, 1): DEALT[2].share(1)})
    assert [o.receiver for o in open_publicly(CEREMONY, facts, DEALT[2])] == [4]


def test_a_share_that_was_not_shown_is_never_opened() -> None:
    """Who cuts honest receivers off must not collect their shares."""
    facts = replace(CLEAN, complaints={(2, j): UNSEEN for j in range(1, N + 1)}, published=frozenset({2}))
    assert open_publicly(CEREMONY, facts, DEALT[2]) == ()


def test_t_shares_are_never_opened() -> None:
    refused("threshold.too_many_complaints", lambda: open_publicly(CEREMONY, called(1, 3, 4), DEALT[2]))


def test_t_opened_shares_would_be_the_secret() -> None:
    points = {j: int.from_bytes(DEALT[2].share(j), "big") for j in (1, 3, 4)}
    secret = sum(w * y for w, y in zip(lagrange(list(points)), points.values(), strict=True)) % g.ORDER
    assert secret == int.from_bytes(DEALT[2].polynomial[0], "big")


def test_nothing_is_opened_before_the_dealing_is_published() -> None:
    refused("threshold.not_published", lambda: open_publicly(CEREMONY, called(1, published=False), DEALT[2]))


@pytest.mark.parametrize("value", [bytes(32), b"\xff" * 32, b"\0" * 31 + b"\1", DEALT[2].share(3)])
def test_an_opening_of_another_value_is_refused(value: bytes) -> None:
    refused("threshold.wrong_opening", lambda: require_opened(CEREMONY, TWO, OpenedShare(2, 1, value)))


def test_an_opening_has_32_bytes() -> None:
    refused("encoding.size", lambda: OpenedShare(2, 1, b"\1" * 31))


# qualified (G9)

RIGHT = {(2, 1): DEALT[2].share(1)}
COUNTED: dict[str, tuple[Facts, str | None]] = {
    # sentence -> facts, why dealer 2 is out
    "nobody complained": (CLEAN, None),
    "it did not commit": (Facts(committed={i: d for i, d in DIGESTS.items() if i != 2}), "threshold.not_committed"),
    "it was accused and did not publish": (
        replace(CLEAN, complaints={(2, 1): UNSEEN}), "threshold.not_published"),
    "it was accused and published": (
        replace(CLEAN, complaints={(2, 1): UNSEEN}, published=frozenset({2})), None),
    "a share was called bad and it did not publish": (called(1, published=False), "threshold.not_published"),
    "a share was called bad and is not open": (called(1), "threshold.not_opened"),
    "a share was called bad and is open": (called(1, opened=RIGHT), None),
    "one of two is open": (called(1, 3, opened=RIGHT), "threshold.not_opened"),
    "both are open": (called(1, 3, opened={**RIGHT, (2, 3): DEALT[2].share(3)}), None),
    "a share is open and wrong": (called(1, opened={(2, 1): DEALT[2].share(3)}), "threshold.wrong_opening"),
    "one is right and one wrong": (
        called(1, 3, opened={**RIGHT, (2, 3): DEALT[2].share(4)}), "threshold.wrong_opening"),
    "t shares were called bad, open or not": (
        called(1, 3, 4, opened={(2, j): DEALT[2].share(j) for j in (1, 3, 4)}), "threshold.too_many_complaints"),
}  # fmt: skip


@pytest.mark.parametrize("sentence", COUNTED)
def test_dealer_2_stands_when(sentence: str) -> None:
    facts, code = COUNTED[sentence]
    facts.check(CEREMONY)
    standing = qualified(CEREMONY, facts, DEALINGS)
    if code is None:
        assert standing == Standing((1, 2, 3, 4), {})
    else:
        assert standing.qualified == (1, 3, 4)
        assert standing.out[2].code == code


def test_a_dealing_that_does_not_verify_is_out_wherever_it_is_known() -> None:
    bad = replace(TWO, proof=bytes(48))
    facts = replace(CLEAN, committed={**DIGESTS, 2: bad.digest(CEREMONY)})
    standing = qualified(CEREMONY, facts, {**DEALINGS, 2: bad})
    assert (standing.qualified, standing.out[2].code) == ((1, 3, 4), "threshold.possession")


def test_a_dealing_that_is_needed_and_not_there_is_asked_for() -> None:
    short = {i: d for i, d in DEALINGS.items() if i != 3}
    assert "missing [3]" in refused("threshold.dealings_missing", lambda: qualified(CEREMONY, CLEAN, short)).found


def test_a_dealing_of_a_dealer_that_is_out_anyway_is_not_needed() -> None:
    short = {i: d for i, d in DEALINGS.items() if i != 2}
    assert qualified(CEREMONY, called(1), short).qualified == (1, 3, 4)


def test_another_dealing_than_the_committed_one_is_no_ground_to_drop_its_dealer() -> None:
    other = {**DEALINGS, 2: deal(CEREMONY, 2, stream("x"))}
    refused("threshold.dealing_changed", lambda: qualified(CEREMONY, CLEAN, other))


def test_fewer_than_t_qualified_say_who_and_why() -> None:
    facts = Facts(committed={1: DIGESTS[1], 2: DIGESTS[2]})
    error = refused(
        "threshold.too_few_qualified", lambda: require_qualified(CEREMONY, qualified(CEREMONY, facts, DEALINGS))
    )
    assert "3: threshold.not_committed" in error.found
    assert require_qualified(CEREMONY, qualified(CEREMONY, CLEAN, DEALINGS)) == (1, 2, 3, 4)


def test_absentees_are_dealers_out_of_q_and_receivers_of_another_word() -> None:
    said = Confirmation(b"\1" * 96, b"\2" * 32, bits_of((1, 3)))
    facts = replace(CLEAN, confirmed={1: said, 2: replace(said, qualified=1), 3: said})
    assert absentees(CEREMONY, facts, said) == ((2, 4), (2, 4))


# finish over Q


@pytest.mark.parametrize("chosen", [(1, 2, 3), (2, 3, 4), (1, 2, 3, 4)])
def test_shares_over_q_are_those_of_plain_integers(chosen: tuple[int, ...]) -> None:
    used, committed = {i: DEALINGS[i] for i in chosen}, {i: DIGESTS[i] for i in chosen}
    public = replay_over(CEREMONY, used, committed)
    for me in range(1, N + 1):
        share = finish_over(CEREMONY, used, committed, {}, me, PRIVATES[me - 1])
        total = sum(int.from_bytes(DEALT[i].share(me), "big") for i in chosen) % g.ORDER
        assert (int.from_bytes(share.secret, "big"), share.public) == (total, public)


def test_an_opened_share_counts_instead_of_the_sealed_one() -> None:
    crooked = with_share(TWO, 1, bytes(SHARE_SIZE))
    used = {**DEALINGS, 2: crooked}
    committed = {i: d.digest(CEREMONY) for i, d in used.items()}
    refused("threshold.bad_share", lambda: finish_over(CEREMONY, used, committed, {}, 1, PRIVATES[0]))
    share = finish_over(CEREMONY, used, committed, {2: DEALT[2].share(1)}, 1, PRIVATES[0])
    share.verify()
    wrong = {2: DEALT[2].share(3)}
    error = refused("threshold.bad_share", lambda: finish_over(CEREMONY, used, committed, wrong, 1, PRIVATES[0]))
    assert "[2]" in error.found


def test_the_transcript_names_q_and_its_order() -> None:
    seen = set()
    for chosen in ((1, 2, 3), (1, 2, 4), (1, 2, 3, 4)):
        public = replay_over(CEREMONY, {i: DEALINGS[i] for i in chosen}, {i: DIGESTS[i] for i in chosen})
        seen.add(public.transcript)
    assert len(seen) == 3


def test_digests_and_dealings_name_the_same_dealers() -> None:
    refused("threshold.dealings_missing", lambda: replay_over(CEREMONY, DEALINGS, {1: DIGESTS[1]}))


# Bad keys and what a dealer keeps


def test_a_receiver_with_a_weak_key_stops_nobody() -> None:
    members = tuple(replace(m, dkg_key=bytes(32)) if m.index == 4 else m for m in CEREMONY.members)
    ceremony = Ceremony(CEREMONY.id, T, members)
    refused("threshold.transport_key", lambda: deal(ceremony, 1, stream("weak")))
    dealt = deal_kept(ceremony, 1, stream("weak"))
    verify_dealing(ceremony, dealt.dealing)
    assert dealt.dealing.shares[3] == bytes(SHARE_SIZE)
    for me in (1, 2, 3):
        digest = dealt.dealing.digest(ceremony)
        assert judge(ceremony, 1, digest, dealt.dealing, me, KEYS[me - 1]) is None


def test_what_a_dealer_keeps_reads_back_and_hides_its_polynomial() -> None:
    dealt = DEALT[1]
    assert Dealt.from_bytes(dealt.to_bytes()) == dealt
    assert dealt.polynomial[0].hex() not in repr(dealt)


def test_another_polynomial_than_the_committed_one_is_refused() -> None:
    crossed = Dealt(DEALT[1].dealing, DEALT[2].polynomial)
    refused("threshold.dealing_shape", lambda: Dealt.from_bytes(crossed.to_bytes()))


@given(st.data())
@settings(max_examples=40, deadline=None)
def test_a_changed_byte_of_what_a_dealer_keeps_is_refused_or_changes_no_secret(data: Any) -> None:
    raw = bytearray(DEALT[1].to_bytes())
    at = data.draw(st.integers(0, len(raw) - 1))
    raw[at] ^= 1 << data.draw(st.integers(0, 7))
    try:
        found = Dealt.from_bytes(bytes(raw))
    except CloisterError:
        return
    assert (found.polynomial, found.dealing.commitments) == (DEALT[1].polynomial, DEALINGS[1].commitments)


def test_a_dealer_index_is_a_member() -> None:
    for index in (0, 5):
        refused("threshold.ceremony", lambda i=index: deal_kept(CEREMONY, i, stream("x")))  # type: ignore[misc]
    assert Member(1, bytes(20), bytes(32)).index == 1
