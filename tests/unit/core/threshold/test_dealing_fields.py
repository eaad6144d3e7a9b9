"""Malformed dealings, members and ceremonies: every field, in every way that it can be wrong, by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st
from py_arkworks_bls12381 import G2Point, Scalar

from cloister.core.encoding.contexts import Context, frame
from cloister.core.errors import CloisterError
from cloister.core.threshold import dealing as d
from cloister.core.threshold import groups as g
from cloister.core.threshold.dealing import Ceremony, Dealing, Dealt, Member
from cloister.core.threshold.dkg import deal, deal_kept, verify_dealing
from support.sharing import ceremony_of, stream

N, T = 4, 3
CEREMONY, PRIVATES = ceremony_of(N, T, "fields")
GOOD = deal(CEREMONY, 2, stream("fields/deal"))
OTHER = deal(CEREMONY, 3, stream("fields/other"))
KEYS = [X25519PrivateKey.from_private_bytes(raw) for raw in PRIVATES]


def code_of(work: Callable[[], object]) -> str:
    with pytest.raises(CloisterError) as caught:
        work()
    return caught.value.code


def other_than(items: tuple[bytes, ...], at: int, item: Any) -> tuple[Any, ...]:
    return (*items[:at], item, *items[at + 1 :])


# What is no dealing at all: sizes and kinds, before any mathematics.

SHAPES: dict[str, tuple[dict[str, Any], str]] = {
    "a dealer below zero": ({"dealer": -1}, "encoding.integer"),
    "a dealer beyond 16 bits": ({"dealer": 1 << 16}, "encoding.integer"),
    "a dealer that is true": ({"dealer": True}, "encoding.integer"),
    "a dealer in words": ({"dealer": "2"}, "encoding.integer"),
    "a proof that is short": ({"proof": GOOD.proof[:-1]}, "encoding.size"),
    "a proof that is long": ({"proof": GOOD.proof + b"\0"}, "encoding.size"),
    "a proof in words": ({"proof": "0x" + GOOD.proof.hex()}, "encoding.type"),
    "no commitments": ({"commitments": ()}, "threshold.dealing_shape"),
    "commitments in a list": ({"commitments": list(GOOD.commitments)}, "threshold.dealing_shape"),
    "more commitments than members can be": ({"commitments": GOOD.commitments[:1] * 65}, "threshold.dealing_shape"),
    "a compressed commitment": ({"commitments": other_than(GOOD.commitments, 1, bytes(96))}, "encoding.size"),
    "a commitment in words": ({"commitments": other_than(GOOD.commitments, 0, "x" * 192)}, "encoding.type"),
    "no shares": ({"shares": ()}, "threshold.dealing_shape"),
    "shares in a list": ({"shares": list(GOOD.shares)}, "threshold.dealing_shape"),
    "more shares than members can be": ({"shares": GOOD.shares[:1] * 65}, "threshold.dealing_shape"),
    "a share without its tag": ({"shares": other_than(GOOD.shares, 3, bytes(64))}, "encoding.size"),
    "an empty share": ({"shares": other_than(GOOD.shares, 0, b"")}, "encoding.size"),
}


@pytest.mark.parametrize("what", SHAPES)
def test_it_is_no_dealing_with(what: str) -> None:
    changes, code = SHAPES[what]
    found = code_of(lambda: replace(GOOD, **changes))
    assert found.split(".")[0] == code.split(".")[0]
    if code.startswith("threshold"):
        assert found == code


# What is one, and not of this ceremony.

FLIPPED = bytearray(GOOD.commitments[1])
FLIPPED[100] ^= 1
INFINITY = bytes([0x40]) + bytes(191)
WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "no dealer": ({"dealer": 0}, "threshold.dealing_shape"),
    "a dealer after the last": ({"dealer": N + 1}, "threshold.dealing_shape"),
    "another dealer's name": ({"dealer": 3}, "threshold.possession"),
    "a commitment less": ({"commitments": GOOD.commitments[:-1]}, "threshold.dealing_shape"),
    "a commitment more": ({"commitments": (*GOOD.commitments, GOOD.commitments[0])}, "threshold.dealing_shape"),
    "a share less": ({"shares": GOOD.shares[:-1]}, "threshold.dealing_shape"),
    "a share more": ({"shares": (*GOOD.shares, GOOD.shares[0])}, "threshold.dealing_shape"),
    "a commitment off the curve": ({"commitments": other_than(GOOD.commitments, 1, bytes(FLIPPED))}, "threshold.point"),
    "a commitment to nothing": ({"commitments": other_than(GOOD.commitments, 2, INFINITY)}, "threshold.point"),
    "a commitment of another dealer": (
        {"commitments": other_than(GOOD.commitments, 2, OTHER.commitments[2])},
        "threshold.possession",
    ),
    "commitments in another order": ({"commitments": GOOD.commitments[::-1]}, "threshold.possession"),
    "another dealer's proof": ({"proof": OTHER.proof}, "threshold.possession"),
    "a proof of zeros": ({"proof": bytes(48)}, "threshold.possession"),
    "an answer beyond the order": ({"proof": GOOD.proof[:16] + b"\xff" * 32}, "threshold.possession"),
    "a proof with a changed answer": (
        {"proof": GOOD.proof[:-1] + bytes([GOOD.proof[-1] ^ 1])},
        "threshold.possession",
    ),
    "a proof with a changed challenge": (
        {"proof": bytes([GOOD.proof[0] ^ 1]) + GOOD.proof[1:]},
        "threshold.possession",
    ),
}


@pytest.mark.parametrize("what", WRONG)
def test_it_does_not_verify_with(what: str) -> None:
    changes, code = WRONG[what]
    assert code_of(lambda: verify_dealing(CEREMONY, replace(GOOD, **changes))) == code


CEREMONIES: dict[str, Ceremony] = {
    "another id": replace(CEREMONY, id=bytes(32)),
    "another member": replace(
        CEREMONY, members=(*CEREMONY.members[:3], replace(CEREMONY.members[3], address=b"\x07" * 20))
    ),
    "a member's other key": replace(
        CEREMONY, members=(*CEREMONY.members[:3], replace(CEREMONY.members[3], dkg_key=b"\x09" * 32))
    ),
}


@pytest.mark.parametrize("what", CEREMONIES)
def test_a_dealing_is_for_one_ceremony_and_not_for_one_with(what: str) -> None:
    """Proof, digest and every sealed share are bound to it."""
    there = CEREMONIES[what]
    assert there.binding != CEREMONY.binding
    assert GOOD.digest(there) != GOOD.digest(CEREMONY)
    assert code_of(lambda: verify_dealing(there, GOOD)) == "threshold.possession"
    assert code_of(lambda: d.open_share(there, GOOD, 1, KEYS[0])) == "threshold.bad_share"


def test_what_is_not_verified_in_public_is_each_receivers_to_check() -> None:
    """Sealed shares are noise to everybody else: a dealing whose share is bad verifies, and its receiver names it."""
    bad = replace(GOOD, shares=other_than(GOOD.shares, 0, OTHER.shares[0]))
    verify_dealing(CEREMONY, bad)
    assert code_of(lambda: d.open_share(CEREMONY, bad, 1, KEYS[0])) == "threshold.bad_share"
    for me in (2, 3, 4):
        d.require_fit(CEREMONY, bad, me, d.open_share(CEREMONY, bad, me, KEYS[me - 1]))


@settings(max_examples=12, deadline=None)
@given(st.integers(1, N), st.integers(1, N))
def test_a_share_opens_for_its_receiver_in_its_place_alone(receiver: int, reader: int) -> None:
    shares = other_than(GOOD.shares, reader - 1, GOOD.shares[receiver - 1])
    moved = replace(GOOD, shares=shares)
    if reader == receiver:
        assert d.open_share(CEREMONY, moved, reader, KEYS[reader - 1]) is not None
        return
    assert code_of(lambda: d.open_share(CEREMONY, moved, reader, KEYS[reader - 1])) == "threshold.bad_share"
    assert code_of(lambda: d.open_share(CEREMONY, GOOD, receiver, KEYS[reader - 1])) == "threshold.bad_share"


def test_a_share_is_sealed_under_its_dealers_commitments() -> None:
    """Who moves a sealed share into a dealing of other commitments has a share that does not open."""
    to = CEREMONY.member(1)
    sealed = d.seal_share(CEREMONY, 2, to, OTHER.commitments, Scalar(5))
    moved = replace(GOOD, shares=other_than(GOOD.shares, 0, sealed))
    assert code_of(lambda: d.open_share(CEREMONY, moved, 1, KEYS[0])) == "threshold.bad_share"


@settings(max_examples=10, deadline=None)
@given(st.integers(2, 1 << 200))
def test_a_share_of_another_value_opens_and_does_not_fit(value: int) -> None:
    to = CEREMONY.member(1)
    sealed = d.seal_share(CEREMONY, 2, to, GOOD.commitments, Scalar(value))
    moved = replace(GOOD, shares=other_than(GOOD.shares, 0, sealed))
    opened = d.open_share(CEREMONY, moved, 1, KEYS[0])
    assert g.scalar_bytes(opened) == g.scalar_bytes(Scalar(value))
    assert code_of(lambda: d.require_fit(CEREMONY, moved, 1, opened)) == "threshold.bad_share"


# Published frames: what an accused dealer puts on chain.

LEAD = Context.DKG_DEALING.lead
PARTS = (
    CEREMONY.binding,
    (2).to_bytes(2, "big"),
    b"".join(GOOD.commitments),
    GOOD.proof,
    b"".join(GOOD.shares),
)
FRAMES: dict[str, bytes] = {
    "nothing": b"",
    "a lead alone": LEAD,
    "a part less": frame(Context.DKG_DEALING, *PARTS[:4]),
    "a part more": frame(Context.DKG_DEALING, *PARTS, b""),
    "an index of one byte": frame(Context.DKG_DEALING, PARTS[0], b"\2", *PARTS[2:]),
    "commitments that are cut": frame(Context.DKG_DEALING, *PARTS[:2], PARTS[2][:-1], *PARTS[3:]),
    "no commitments": frame(Context.DKG_DEALING, *PARTS[:2], b"", *PARTS[3:]),
    "shares that are cut": frame(Context.DKG_DEALING, *PARTS[:4], PARTS[4][:-1]),
    "a proof that is cut": frame(Context.DKG_DEALING, *PARTS[:3], PARTS[3][:-1], PARTS[4]),
    "bytes behind it": frame(Context.DKG_DEALING, *PARTS) + b"\0",
    "a length that goes beyond": frame(Context.DKG_DEALING, *PARTS)[:-1],
    "65 commitments": frame(Context.DKG_DEALING, *PARTS[:2], GOOD.commitments[0] * 65, *PARTS[3:]),
}


@pytest.mark.parametrize("what", FRAMES)
def test_a_frame_is_refused_with(what: str) -> None:
    assert code_of(lambda: Dealing.from_frame(FRAMES[what])).startswith(("threshold.dealing_shape", "encoding."))


def test_a_frame_hashes_to_the_digest_and_reads_back() -> None:
    data = frame(Context.DKG_DEALING, *PARTS)
    assert data == GOOD.framed(CEREMONY)
    assert Dealing.from_frame(data) == GOOD


# Ceremonies and members.

SEATS = CEREMONY.members
BAD_CEREMONIES: dict[str, dict[str, Any]] = {
    "nobody": {"members": (), "threshold": 0},
    "a threshold of none": {"threshold": 0},
    "a threshold beyond its members": {"threshold": N + 1},
    "members out of order": {"members": (SEATS[1], SEATS[0], *SEATS[2:])},
    "a member left out": {"members": (SEATS[0], *SEATS[2:])},
    "an address twice": {"members": (*SEATS[:3], replace(SEATS[3], address=SEATS[0].address))},
    "a transport key twice": {"members": (*SEATS[:3], replace(SEATS[3], dkg_key=SEATS[0].dkg_key))},
    "an id of other size": {"id": bytes(31)},
    "a term below zero": {"term": -1},
}


@pytest.mark.parametrize("what", BAD_CEREMONIES)
def test_there_is_no_ceremony_with(what: str) -> None:
    found = code_of(lambda: replace(CEREMONY, **BAD_CEREMONIES[what]))
    assert found == "threshold.ceremony" or found.startswith("encoding.")


@pytest.mark.parametrize("changes", [{"index": -1}, {"index": 1 << 16}, {"address": bytes(19)}, {"dkg_key": bytes(33)}])
def test_there_is_no_member_with_fields_of_another_size(changes: dict[str, Any]) -> None:
    member = Member(1, bytes(20), bytes(32))
    assert code_of(lambda: replace(member, **changes)).startswith("encoding.")


# What a dealer keeps.


def test_a_dealer_keeps_the_polynomial_of_its_commitments_and_no_other() -> None:
    dealt = deal_kept(CEREMONY, 1, stream("fields/kept"))
    assert Dealt.from_bytes(dealt.to_bytes()) == dealt
    swapped = replace(dealt, polynomial=dealt.polynomial[::-1])
    assert code_of(lambda: Dealt.from_bytes(swapped.to_bytes())) == "threshold.dealing_shape"
    fewer = replace(dealt, polynomial=dealt.polynomial[:-1])
    assert code_of(lambda: Dealt.from_bytes(fewer.to_bytes())) == "threshold.dealing_shape"
    nothing = replace(dealt, polynomial=other_than(dealt.polynomial, 0, bytes(32)))
    assert code_of(lambda: Dealt.from_bytes(nothing.to_bytes())) == "threshold.scalar"


@pytest.mark.parametrize("receiver", range(1, N + 1))
def test_what_a_dealer_would_open_is_what_it_sealed(receiver: int) -> None:
    dealt = deal_kept(CEREMONY, 1, stream("fields/opened"))
    opened = d.open_share(CEREMONY, dealt.dealing, receiver, KEYS[receiver - 1])
    assert dealt.share(receiver) == g.scalar_bytes(opened)


def test_a_polynomial_is_evaluated_as_plain_integers_are() -> None:
    coefficients = [Scalar(7), Scalar(11), Scalar(13)]
    for x in range(1, 65):
        assert d.evaluate(coefficients, x) == Scalar(7 + 11 * x + 13 * x * x)


def test_no_part_of_a_dealing_says_what_was_dealt() -> None:
    """Commitments are powers, shares are sealed: neither a coefficient nor a share stands in it."""
    dealt = deal_kept(CEREMONY, 1, stream("fields/secret"))
    shown = dealt.dealing.framed(CEREMONY) + repr(dealt).encode()
    secrets = [*dealt.polynomial, *(dealt.share(j) for j in range(1, N + 1))]
    for secret in secrets:
        assert secret not in shown
        assert secret.hex().encode() not in shown
    assert dealt.dealing.commitments[0] == g.plain_bytes(
        g.g2_times(g.scalar_from_bytes(dealt.polynomial[0], "coefficient"))
    )
    assert g.g2_from_plain(dealt.dealing.commitments[0], "c") != G2Point()
