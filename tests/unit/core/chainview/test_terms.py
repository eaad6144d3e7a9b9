"""From a pinned committee along signed hand-overs to the one in office (gatekeepers.md H1-H3)."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from coincurve import PrivateKey
from eth_abi import encode as abi_encode
from hypothesis import given, settings
from hypothesis import strategies as st

from cloister.core.chainview.terms import MAX_HANDOVERS, SignedHandover, Term, Terms, terms_from
from cloister.core.encoding.handover import Handover, members_hash
from cloister.core.encoding.keccak import keccak256
from cloister.core.encoding.signatures import Signed, SignerSet, address_of, sign_digest
from cloister.core.encoding.statements import CallerSession, Checkpoint
from cloister.core.errors import CloisterError

NETWORK = b"\7" * 32
MPK, OTHER_MPK = keccak256(b"mpk"), keccak256(b"other")
NOW, AGE = 2_000_000, 500_000
KEYS = {term: [PrivateKey(keccak256(bytes([term, i]))) for i in range(4)] for term in range(1, 6)}
HEIGHT = {term: 1000 * term for term in range(1, 7)}
SEEN = {term: 1_600_000 + 50_000 * term for term in range(1, 7)}


def members(term: int) -> tuple[bytes, ...]:
    return tuple(address_of(key) for key in KEYS[term])


def pinned(term: int = 1, **changes: Any) -> Term:
    one = Term(SignerSet(term, 3, members(term)), 1, MPK, HEIGHT[term], SEEN[term])
    return replace(one, **changes)


def handover(
    term: int, *, signers: int = 3, by: int | None = None, network: bytes = NETWORK, **changes: Any
) -> SignedHandover:
    said = Handover(term, term + 1, 3, members_hash(members(term + 1)), 1, MPK, HEIGHT[term + 1], SEEN[term + 1])
    said = replace(said, **changes)
    signatures = tuple(sign_digest(key, said.digest(network)) for key in KEYS[by or term][:signers])
    return SignedHandover(said, members(term + 1), signatures)


def followed(*handovers: SignedHandover, start: Term | None = None, now: int = NOW, age: int = AGE) -> Terms:
    return terms_from(start or pinned(), handovers, NETWORK, now, age)


def refused(code: str, call: Callable[[], object]) -> None:
    with pytest.raises(CloisterError) as caught:
        call()
    assert caught.value.code == code


# The honest way


def test_without_a_hand_over_the_pinned_term_is_in_office() -> None:
    assert followed().in_office == pinned()


def test_hand_overs_lead_to_the_term_in_office_in_any_order() -> None:
    chain = [handover(term) for term in (1, 2, 3, 4)]
    for given_ in (chain, chain[::-1], [chain[2], chain[0], chain[3], chain[1]], [*chain, *chain]):
        terms = followed(*given_)
        assert [one.signers.term for one in terms.known] == [1, 2, 3, 4, 5]
        assert terms.in_office.signers == SignerSet(5, 3, members(5))
        assert (terms.in_office.height, terms.in_office.seen) == (HEIGHT[5], SEEN[5])


def test_hand_overs_before_the_pinned_term_are_left_out() -> None:
    assert followed(*[handover(t) for t in (1, 2, 3)], start=pinned(3)).in_office.signers.term == 4


def test_the_master_epoch_may_go_on_with_another_key() -> None:
    terms = followed(handover(1, master_epoch=2, mpk=OTHER_MPK))
    assert (terms.in_office.master_epoch, terms.in_office.mpk) == (2, OTHER_MPK)


def test_the_members_hash_is_that_of_the_abi() -> None:
    for count in (1, 3, 4):
        addresses = list(members(1)[:count])
        assert members_hash(addresses) == keccak256(abi_encode(["address[]"], [["0x" + a.hex() for a in addresses]]))


def test_the_type_string_is_that_of_the_spec() -> None:
    assert Handover.type_string() == (
        "Handover(uint64 term,uint64 nextTerm,uint64 threshold,bytes32 members,"
        "uint64 masterEpoch,bytes32 mpk,uint64 height,uint64 timestamp)"
    )


# Refusals

BAD: dict[str, tuple[tuple[SignedHandover, ...], str]] = {
    "a missing term": ((handover(1), handover(3)), "chainview.handover_gap"),
    "a missing first term": ((handover(2),), "chainview.handover_gap"),
    "two successors of the term": (
        (handover(1), handover(1, height=HEIGHT[2] + 1)), "chainview.handover_fork"),
    "two successors, and a third term": (
        (handover(1), handover(2), handover(1, height=HEIGHT[2] + 1)), "chainview.handover_fork"),
    "t - 1 signatures": ((handover(1, signers=2),), "encoding.too_few_signers"),
    "signatures of the next committee": ((handover(1, by=2),), "encoding.signature"),
    "signatures for another network": ((handover(1, network=b"\1" * 32),), "encoding.signature"),
    "a term that jumps": ((handover(1, next_term=3),), "chainview.handover"),
    "a term that stays": ((handover(1, next_term=1),), "chainview.handover"),
    "members of another hash": ((replace(handover(1), members=members(3)),), "chainview.handover"),
    "members in another order": ((replace(handover(1), members=members(2)[::-1]),), "chainview.handover"),
    "a block that is not later": ((handover(1, height=HEIGHT[1]),), "chainview.handover"),
    "another key in the same epoch": ((handover(1, mpk=OTHER_MPK),), "chainview.master_key_moved"),
    "an epoch that goes back": ((handover(1, master_epoch=0),), "chainview.master_key_moved"),
    "a threshold above n": ((handover(1, threshold=5),), "encoding.too_few_signers"),
    "a threshold of none": ((handover(1, threshold=0),), "encoding.too_few_signers"),
    "a term from the future": ((handover(1, timestamp=NOW + 31),), "chainview.term_too_old"),
    "a last term that outstayed its time": ((handover(1, timestamp=NOW - AGE - 1),), "chainview.term_too_old"),
}  # fmt: skip


@pytest.mark.parametrize("sentence", BAD)
def test_refused(sentence: str) -> None:
    handovers, code = BAD[sentence]
    refused(code, lambda: followed(*handovers))


def test_the_same_statement_with_other_signatures_is_no_fork() -> None:
    other = handover(1, signers=4)
    assert followed(handover(1), other).in_office.signers.term == 2


def test_an_unsigned_second_hand_over_is_refused_before_it_counts_as_a_fork() -> None:
    refused("encoding.too_few_signers", lambda: followed(handover(1), handover(1, signers=1, height=9_999)))


def test_a_pinned_term_that_was_seen_too_long_ago_is_refused_even_with_newer_hand_overs() -> None:
    """Who stole the keys of a term long gone could date a second history as it likes."""
    old = pinned(seen=NOW - AGE - 1)
    refused("chainview.term_too_old", lambda: followed(start=old))
    refused("chainview.term_too_old", lambda: followed(handover(1), start=old))


def test_at_its_very_age_a_term_still_counts() -> None:
    assert followed(start=pinned(seen=NOW - AGE)).in_office.signers.term == 1


def test_too_many_hand_overs_are_refused_before_any_work() -> None:
    refused("chainview.handover", lambda: followed(*[handover(1)] * (MAX_HANDOVERS + 1)))


@pytest.mark.parametrize("size", [0, 31, 33])
def test_a_network_id_has_its_size(size: int) -> None:
    with pytest.raises(CloisterError):
        terms_from(pinned(), [], bytes(size), NOW, AGE)


# What a term may speak of (H2)


def checkpoint(term: int, number: int, signers: int = 3) -> Signed:
    said = Checkpoint(term, 1, number, b"\1" * 32, b"\2" * 32, NOW)
    return Signed(said, tuple(sign_digest(key, said.digest(NETWORK)) for key in KEYS[term][:signers]))


SPEAKS: dict[str, tuple[int, int, str | None]] = {
    "the old term at the block of the hand-over": (1, HEIGHT[2], None),
    "the old term above it": (1, HEIGHT[2] + 1, "chainview.term_over"),
    "the old term before it": (1, HEIGHT[1], None),
    "the old term before its own first block": (1, HEIGHT[1] - 1, "chainview.term_over"),
    "the new term at its first block": (2, HEIGHT[2], None),
    "the new term before it": (2, HEIGHT[2] - 1, "chainview.term_over"),
    "the term in office at any later block": (3, 1 << 40, None),
    "a term that nobody handed over to": (4, HEIGHT[4], "chainview.unknown_term"),
}


@pytest.mark.parametrize("sentence", SPEAKS)
def test_speaks(sentence: str) -> None:
    term, number, code = SPEAKS[sentence]
    terms = followed(handover(1), handover(2))
    if code is None:
        terms.verify(checkpoint(term, number), number)
    else:
        refused(code, lambda: terms.verify(checkpoint(term, number), number))


def test_the_signatures_of_a_known_term_are_checked() -> None:
    terms = followed(handover(1))
    refused("encoding.too_few_signers", lambda: terms.verify(checkpoint(2, HEIGHT[2], signers=2), HEIGHT[2]))


def test_a_statement_without_a_term_is_of_no_term() -> None:

    session = Signed(CallerSession(b"\1" * 32, b"\2" * 32, b"\3" * 32, 9), ())
    refused("chainview.unknown_term", lambda: followed().verify(session, HEIGHT[1]))


# The format


def test_a_hand_over_travels() -> None:
    one = handover(1)
    assert SignedHandover.from_json(json.loads(json.dumps(one.to_json()))) == one


@given(st.data())
@settings(max_examples=80, deadline=None)
def test_a_changed_byte_is_refused_or_names_nobody_else(data: Any) -> None:
    text = json.dumps(handover(1).to_json())
    at = data.draw(st.integers(0, len(text) - 1))
    changed = text[:at] + data.draw(st.sampled_from('0123456789abcdefx{}[]",: -')) + text[at + 1 :]
    try:
        found = SignedHandover.from_json(json.loads(changed))
        terms = followed(found)
    except (CloisterError, json.JSONDecodeError):
        return
    assert terms.in_office == followed(handover(1)).in_office


@pytest.mark.parametrize("rubbish", [None, [], {}, "x", 5, {"statement": {}, "members": [], "signatures": []}])
def test_rubbish_is_no_hand_over(rubbish: Any) -> None:
    with pytest.raises(CloisterError):
        SignedHandover.from_json(rubbish)


@pytest.mark.parametrize("name", ["members", "signatures"])
@pytest.mark.parametrize("value", [None, [], ["0x"], "0x00", ["0x00"] * 65])
def test_lists_have_their_bounds(name: str, value: Any) -> None:
    with pytest.raises(CloisterError):
        SignedHandover.from_json({**handover(1).to_json(), name: value})


@pytest.mark.parametrize(("name", "value"), [("mpk", b"\1"), ("height", -1), ("seen", 1 << 64), ("master_epoch", "1")])
def test_a_term_has_its_fields(name: str, value: Any) -> None:
    with pytest.raises(CloisterError):
        pinned(**{name: value})
