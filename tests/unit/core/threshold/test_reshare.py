"""Resharing: the key stays, everything else is new, and terms never mix (gatekeepers.md R1-R3)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import combinations
from typing import Any

import pytest
from py_ecc import optimized_bls12_381 as ecc

from cloister.core.errors import CloisterError
from cloister.core.threshold import groups as g
from cloister.core.threshold.dealing import Dealing, make_dealing
from cloister.core.threshold.dkg import Ceremony, finish_over, replay_over, verify_dealing
from cloister.core.threshold.partial import Partial, TransportKey, evaluate, recover, recover_and_blame, verify_partial
from cloister.core.threshold.reshare import Resharing, deal_again
from cloister.core.threshold.shares import KeyShare, PublicShares
from support.committees import lagrange
from support.sharing import ceremony_of, network, stream

OLD = network(4, 3, "old")
BASE, PRIVATES = ceremony_of(5, 3, "new")
ADDRESSES = tuple(m.address for m in OLD.ceremony.members)


def resharing(base: Ceremony = BASE, **changes: Any) -> Resharing:
    fields = {"old": OLD.public, "old_threshold": 3, "old_members": ADDRESSES, **changes}
    return Resharing(base.id, base.threshold, base.members, fields.pop("term", 2), **fields)


NEW = resharing()
DEALT = {share.index: deal_again(NEW, share, stream(f"again/{share.index}")) for share in OLD.shares}
DEALINGS = {i: dealt.dealing for i, dealt in DEALT.items()}
COMMITTED = {i: dealing.digest(NEW) for i, dealing in DEALINGS.items()}


def finished(chosen: tuple[int, ...], me: int, dealings: dict[int, Dealing] | None = None) -> KeyShare:
    used = {i: (dealings or DEALINGS)[i] for i in chosen}
    committed = {i: dealing.digest(NEW) for i, dealing in used.items()}
    return finish_over(NEW, used, committed, {}, me, PRIVATES[me - 1])


SHARES = [finished((1, 2, 3, 4), i) for i in range(1, 6)]


def refused(code: str, call: Callable[[], object]) -> CloisterError:
    with pytest.raises(CloisterError) as caught:
        call()
    assert caught.value.code == code
    return caught.value


def asked(shares: list[KeyShare], identity: bytes = b"agent") -> tuple[list[Partial], TransportKey]:
    rng = stream("asked")
    transport = TransportKey.generate(rng)
    return [evaluate(share, identity, transport.public, rng) for share in shares], transport


def as_int(share: KeyShare) -> int:
    return int.from_bytes(share.secret, "big")


# The key stays


@pytest.mark.parametrize("chosen", [(1, 2, 3), (1, 2, 4), (1, 3, 4), (2, 3, 4), (1, 2, 3, 4)])
def test_any_t_or_more_old_dealers_give_the_same_master_key(chosen: tuple[int, ...]) -> None:
    used = {i: DEALINGS[i] for i in chosen}
    public = replay_over(NEW, used, {i: COMMITTED[i] for i in chosen})
    assert (public.mpk, public.term) == (OLD.public.mpk, 2)
    for me in (1, 5):
        share = finished(chosen, me)
        share.verify()
        assert share.public == public


def test_which_dealers_are_qualified_changes_the_shares_but_not_the_key() -> None:
    one, other = finished((1, 2, 3), 1), finished((2, 3, 4), 1)
    assert one.secret != other.secret
    assert one.public.transcript != other.public.transcript
    assert one.public.mpk == other.public.mpk


def test_the_derived_key_is_the_same_before_and_after() -> None:
    before, transport = asked(list(OLD.shares[:3]))
    key = recover(before, 3, OLD.public, b"agent", transport)
    for chosen in combinations(SHARES, 3):
        partials, transport = asked(list(chosen))
        assert recover(partials, 3, SHARES[0].public, b"agent", transport) == key


def test_plain_integers_give_the_same_new_shares() -> None:
    """Interpolate the old polynomial's value at 0, and each new share, with integers only."""
    weights = lagrange([1, 2, 3, 4])
    for share in SHARES:
        total = 0
        for i, weight in zip((1, 2, 3, 4), weights, strict=True):
            f = [int.from_bytes(a, "big") for a in DEALT[i].polynomial]
            total += weight * sum(a * pow(share.index, k, g.ORDER) for k, a in enumerate(f))
        assert as_int(share) == total % g.ORDER
    old_secret = sum(w * as_int(s) for w, s in zip(lagrange([1, 2, 3]), OLD.shares[:3], strict=True)) % g.ORDER
    new_secret = sum(w * as_int(s) for w, s in zip(lagrange([2, 4, 5]), [SHARES[1], *SHARES[3:]], strict=True))
    assert new_secret % g.ORDER == old_secret


def test_a_second_library_agrees_on_the_new_share_keys() -> None:
    for share in (SHARES[0], SHARES[4]):
        point = ecc.normalize(ecc.multiply(ecc.G2, as_int(share)))  # type: ignore[attr-defined]
        ours = g.g2_from_bytes(share.public.share_key(share.index))
        x, y = (b"".join(int(c).to_bytes(48, "big") for c in reversed(part.coeffs)) for part in point)
        assert bytes(ours.to_xy_bytes_be()) in (x + y, _swapped(x) + _swapped(y))


def _swapped(data: bytes) -> bytes:
    return data[48:] + data[:48]


def test_a_refresh_gives_the_same_members_new_shares_that_heal_a_leak() -> None:
    base, privates = ceremony_of(4, 3, "refresh")
    refresh = resharing(base)
    dealings = {s.index: deal_again(refresh, s, stream(f"r{s.index}")).dealing for s in OLD.shares}
    committed = {i: d.digest(refresh) for i, d in dealings.items()}
    fresh = [finish_over(refresh, dealings, committed, {}, i, privates[i - 1]) for i in range(1, 5)]
    assert not {s.secret for s in fresh} & {s.secret for s in OLD.shares}
    for leaked in combinations(OLD.shares, 2):  # t - 1 old shares and t - 1 new ones do not interpolate
        mixed = [*leaked, fresh[3 - leaked[0].index % 2]]
        guess = sum(w * as_int(s) for w, s in zip(lagrange([s.index for s in mixed]), mixed, strict=True))
        assert g.to_bytes(g.G2 * g.Scalar.from_be_bytes((guess % g.ORDER).to_bytes(32, "big"))) != OLD.public.mpk


# Secrecy, as far as a test can see it


def test_t_minus_1_shares_fit_every_guess_of_the_secret() -> None:
    """Through t - 1 shares and any value at 0 goes a polynomial of degree t - 1: they tell nothing about it."""
    known = [(s.index, as_int(s)) for s in SHARES[:2]]
    for guess in (0, 1, 123456789, g.ORDER - 1):
        points = [(0, guess), *known]

        def value(at: int, points: list[tuple[int, int]] = points) -> int:
            weights = lagrange([x for x, _ in points], at)
            return sum(w * y for w, (_, y) in zip(weights, points, strict=True)) % g.ORDER

        assert [value(x) for x, _ in known] == [y for _, y in known]
        assert value(0) == guess


def test_opened_shares_of_t_minus_1_receivers_fit_every_guess_of_the_dealers_secret() -> None:
    opened = [(j, int.from_bytes(DEALT[1].share(j), "big")) for j in (1, 2)]
    for guess in (7, as_int(OLD.shares[0])):
        weights = lagrange([0, 1, 2], 3)
        third = sum(w * y for w, y in zip(weights, [guess, *(y for _, y in opened)], strict=True)) % g.ORDER
        back = lagrange([1, 2, 3])
        assert sum(w * y for w, y in zip(back, [*(y for _, y in opened), third], strict=True)) % g.ORDER == guess


# Terms never mix (R3)


@pytest.mark.parametrize("old_count", [1, 2])
def test_old_and_new_shares_do_not_make_a_key(old_count: int) -> None:
    for olds in combinations(OLD.shares, old_count):
        news = [s for s in SHARES if s.index not in {o.index for o in olds}][: 3 - old_count]
        partials, transport = asked([*olds, *news])
        for public in (OLD.public, SHARES[0].public):
            with pytest.raises(CloisterError) as caught:
                recover(partials, 3, public, b"agent", transport)
            assert caught.value.code == "threshold.too_few_partials"


def test_nor_if_somebody_writes_the_other_term_on_them() -> None:
    partials, transport = asked([*OLD.shares[:2], SHARES[2]])
    forged = [replace(p, term=2) for p in partials]
    error = refused("threshold.too_few_partials", lambda: recover(forged, 3, SHARES[0].public, b"agent", transport))
    assert "[1, 2]" in error.found


def test_even_t_old_partials_which_would_give_the_key_are_refused_in_the_new_term() -> None:
    partials, transport = asked(list(OLD.shares[:3]))
    assert recover(partials, 3, OLD.public, b"agent", transport).point
    refused("threshold.too_few_partials", lambda: recover(partials, 3, SHARES[0].public, b"agent", transport))


def test_a_partial_of_another_term_is_refused_by_name() -> None:
    (partial,), transport = asked([OLD.shares[0]])
    refused("threshold.other_term", lambda: verify_partial(partial, b"agent", SHARES[0].public, transport.public))


def test_a_stale_partial_hides_no_good_one_of_the_same_member() -> None:
    stale, transport = asked(list(OLD.shares[:3]))
    good, _ = asked(SHARES[:3])
    assert recover([*stale, *good], 3, SHARES[0].public, b"agent", transport).point
    found = recover_and_blame([*stale[:1], *good], 3, SHARES[0].public, b"agent", transport)
    assert found.culprits == ()


def test_an_old_share_is_dealt_once_per_term_only() -> None:
    later = Resharing(
        BASE.id, 3, BASE.members, 3, old=SHARES[0].public, old_threshold=3,
        old_members=tuple(m.address for m in BASE.members),
    )  # fmt: skip
    refused("threshold.other_term", lambda: deal_again(later, OLD.shares[0], stream("x")))
    again = deal_again(later, SHARES[0], stream("x")).dealing
    assert g.to_bytes(g.g2_from_plain(again.commitments[0])) == SHARES[0].public.share_key(1)


def test_a_share_of_another_committee_of_that_term_is_refused() -> None:
    stranger = network(4, 3, "stranger").shares[0]
    refused("threshold.not_the_dealer", lambda: deal_again(NEW, stranger, stream("x")))


def test_a_share_that_is_not_its_share_keys_is_refused() -> None:
    wrong = KeyShare(1, OLD.shares[1].secret, OLD.public)
    refused("threshold.share_mismatch", lambda: deal_again(NEW, wrong, stream("x")))


# Rules


def test_a_dealer_deals_its_own_share_and_nothing_else() -> None:
    other = make_dealing(NEW, 1, stream("other")).dealing
    refused("threshold.other_secret", lambda: verify_dealing(NEW, other))
    swapped = replace(DEALINGS[2], dealer=1)
    refused("threshold.other_secret", lambda: verify_dealing(NEW, swapped))


def test_fewer_than_the_old_t_dealers_are_refused() -> None:
    refused("threshold.too_few_qualified", lambda: finished((1, 2), 1))


def test_a_dealer_beyond_the_old_committee_is_refused() -> None:
    refused("threshold.dealing_shape", lambda: verify_dealing(NEW, replace(DEALINGS[1], dealer=5)))


def test_another_master_key_is_refused() -> None:
    """Old share keys that do not belong to the MPK: a liar's view of the term in office."""
    other = network(4, 3, "stranger")
    mixed = PublicShares(OLD.public.mpk, other.public.share_keys, other.public.transcript)
    crossed = resharing(old=mixed)
    shares = [KeyShare(s.index, s.secret, mixed) for s in other.shares]
    dealings = {s.index: deal_again(crossed, s, stream(f"c{s.index}")).dealing for s in shares}
    committed = {i: d.digest(crossed) for i, d in dealings.items()}
    refused("threshold.master_key_changed", lambda: replay_over(crossed, dealings, committed))


def test_a_dealing_of_another_resharing_is_refused() -> None:
    for changed in (
        resharing(replace(BASE, id=b"\7" * 32)),
        resharing(old_members=ADDRESSES[::-1]),
        resharing(old_threshold=2),
        resharing(replace(BASE, threshold=4)),
        resharing(old=replace(OLD.public, transcript=b"\7" * 32)),
    ):
        assert changed.binding != NEW.binding
        with pytest.raises(CloisterError):
            replay_over(changed, DEALINGS, COMMITTED)


def test_a_resharing_and_a_founding_never_share_a_binding() -> None:
    assert Ceremony(BASE.id, 3, BASE.members, 2).binding != NEW.binding


SHAPES: dict[str, tuple[dict[str, Any], str]] = {
    "a term that is not the next": ({"term": 3}, "threshold.other_term"),
    "the same term": ({"term": 1}, "threshold.other_term"),
    "an old threshold above n": ({"old_threshold": 5}, "threshold.ceremony"),
    "an old threshold of none": ({"old_threshold": 0}, "threshold.ceremony"),
    "a member too few": ({"old_members": ADDRESSES[:3]}, "threshold.ceremony"),
    "a member twice": ({"old_members": (ADDRESSES[0], *ADDRESSES[:3])}, "threshold.ceremony"),
    "an address of another size": ({"old_members": (b"\1", *ADDRESSES[1:])}, "encoding.size"),
}


@pytest.mark.parametrize("sentence", SHAPES)
def test_a_resharing_is_refused_with(sentence: str) -> None:
    changes, code = SHAPES[sentence]
    refused(code, lambda: resharing(**changes))


# The term in JSON


def test_term_1_is_written_as_ever_and_later_terms_are_said() -> None:
    assert "term" not in OLD.public.to_json()
    assert SHARES[0].public.to_json()["term"] == 2
    for public in (OLD.public, SHARES[0].public):
        assert PublicShares.from_json(public.to_json()) == public
    for share in (OLD.shares[0], SHARES[0]):
        assert KeyShare.from_bytes(share.to_bytes()) == share
    for partial in (*asked([OLD.shares[0]])[0], *asked([SHARES[0]])[0]):
        assert Partial.from_json(partial.to_json()) == partial
        assert ("term" in partial.to_json()) == (partial.term == 2)


@pytest.mark.parametrize("term", [1, True, -1, "2", None, 1 << 64, 2.0])
def test_a_term_has_one_spelling(term: Any) -> None:
    for value, parse in (
        (OLD.public.to_json(), PublicShares.from_json),
        (asked([OLD.shares[0]])[0][0].to_json(), Partial.from_json),
    ):
        with pytest.raises(CloisterError):
            parse({**value, "term": term})  # type: ignore[operator]
