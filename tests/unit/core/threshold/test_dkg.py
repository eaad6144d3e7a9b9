"""Key generation: what honest members get, and what every kind of bad dealer is refused for."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite
from hypothesis import given, settings
from hypothesis import strategies as st
from py_arkworks_bls12381 import G2Point, Scalar

from cloister.core.errors import CloisterError, ThresholdError
from cloister.core.threshold import dealing as dealing_module
from cloister.core.threshold import dkg
from cloister.core.threshold import groups as g
from support.sharing import ceremony_of, network, stream

NET = network(5, 3)
OTHER = network(5, 3, "other")


def refused(code: str, call: Any, *args: Any) -> CloisterError:
    with pytest.raises(CloisterError) as caught:
        call(*args)
    assert caught.value.code == code
    return caught.value


def seal_for(receiver: int, dealing: dkg.Dealing, value: bytes, net: Any = NET) -> bytes:
    """What a cheating dealer can do: seal any bytes for a receiver, properly addressed."""
    key = X25519PublicKey.from_public_bytes(net.ceremony.member(receiver).dkg_key)
    info = dealing_module.share_info(net.ceremony, dealing.dealer, receiver, dealing.commitments)
    return Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM).encrypt(value, key, info)


def with_share(dealing: dkg.Dealing, receiver: int, sealed: bytes) -> dkg.Dealing:
    shares = list(dealing.shares)
    shares[receiver - 1] = sealed
    return replace(dealing, shares=tuple(shares))


# What honest members get


def test_all_members_and_an_outsider_agree_on_the_public_result() -> None:
    assert len({share.public for share in NET.shares}) == 1
    assert dkg.replay(NET.ceremony, NET.dealings, NET.committed) == NET.public


def test_every_share_fits_its_share_key() -> None:
    for share in NET.shares:
        share.verify()
        assert g.to_bytes(g.G2 * g.scalar_from_bytes(share.secret)) == NET.public.share_keys[share.index - 1]


@pytest.mark.parametrize(("n", "t"), [(1, 1), (2, 1), (2, 2), (3, 2), (4, 4), (7, 4)])
def test_share_keys_interpolate_to_the_master_key(n: int, t: int) -> None:
    public = network(n, t).public
    weights = g.lagrange_at_zero(range(1, t + 1))
    total = G2Point.identity()
    for weight, key in zip(weights, public.share_keys, strict=False):
        total = total + g.public_key(key) * weight
    assert g.to_bytes(total) == public.mpk


def test_no_two_dealings_of_one_member_are_alike() -> None:
    first, second = (dkg.deal(NET.ceremony, 1, stream(seed)) for seed in "ab")
    assert first.commitments != second.commitments
    assert set(first.shares).isdisjoint(second.shares)


def test_the_public_result_depends_on_every_dealing() -> None:
    changed = {**NET.dealings, 3: dkg.deal(NET.ceremony, 3, stream("again"))}
    assert NET.finish(1, changed).public.mpk != NET.public.mpk
    assert NET.finish(1, changed).public.transcript != NET.public.transcript


def test_a_dealing_survives_its_json_form() -> None:
    dealing = NET.dealings[2]
    again = dkg.Dealing.from_json(json.loads(json.dumps(dealing.to_json())))
    assert again == dealing
    assert again.digest(NET.ceremony) == NET.committed[2]


def test_nothing_secret_is_printed() -> None:
    share = NET.shares[0]
    text = repr(share) + repr(NET.dealings[1])
    assert share.secret.hex() not in text
    assert repr(share.secret) not in text


# A dealer with a wrong share is named


@pytest.mark.parametrize("victim", [1, 4, 5])
@pytest.mark.parametrize("cheat", [2, 3])
def test_a_dealer_that_sends_another_share_is_named(victim: int, cheat: int) -> None:
    bad = with_share(NET.dealings[cheat], victim, seal_for(victim, NET.dealings[cheat], b"\x07" * 32))
    error = refused("threshold.bad_share", NET.finish, victim, {**NET.dealings, cheat: bad})
    assert error.found == f"wrong shares from dealers [{cheat}]"


def test_two_dealers_with_wrong_shares_are_both_named() -> None:
    dealings = dict(NET.dealings)
    for cheat in (2, 5):
        dealings[cheat] = with_share(dealings[cheat], 1, seal_for(1, dealings[cheat], b"\x07" * 32))
    assert "[2, 5]" in refused("threshold.bad_share", NET.finish, 1, dealings).found


def test_the_other_members_finish_although_one_was_sent_a_wrong_share() -> None:
    bad = with_share(NET.dealings[2], 1, seal_for(1, NET.dealings[2], b"\x07" * 32))
    share = NET.finish(3, {**NET.dealings, 2: bad})
    assert share.secret == NET.shares[2].secret


def test_errors_that_cancel_out_leave_a_right_share() -> None:
    """The sum is what counts: two colluding dealers that add and take away the same change nothing."""
    dealings, delta = dict(NET.dealings), Scalar(99)
    private = X25519PrivateKey.from_private_bytes(NET.privates[0])
    for cheat, change in ((2, delta), (4, -delta)):
        value = dealing_module.open_share(NET.ceremony, dealings[cheat], 1, private)
        dealings[cheat] = with_share(dealings[cheat], 1, seal_for(1, dealings[cheat], g.scalar_bytes(value + change)))
    assert NET.finish(1, dealings).secret == NET.shares[0].secret


SEALED_RUBBISH: dict[str, Callable[[], bytes]] = {
    "not addressed to us": lambda: NET.dealings[2].shares[3],
    "of another dealer": lambda: NET.dealings[3].shares[0],
    "random": lambda: stream("rubbish")(dealing_module.SHARE_SIZE),
    "zeros": lambda: bytes(dealing_module.SHARE_SIZE),
    "a zero share": lambda: seal_for(1, NET.dealings[2], bytes(32)),
    "a share not below the order": lambda: seal_for(1, NET.dealings[2], b"\xff" * 32),
}


@pytest.mark.parametrize("name", SEALED_RUBBISH)
def test_a_sealed_share_that_does_not_open_names_the_dealer(name: str) -> None:
    bad = with_share(NET.dealings[2], 1, SEALED_RUBBISH[name]())
    error = refused("threshold.bad_share", NET.finish, 1, {**NET.dealings, 2: bad})
    assert "dealer 2" in error.expected


def test_a_share_does_not_open_for_another_member() -> None:
    """Even when a relay swaps receivers' ciphertexts, the HPKE info names the receiver."""
    shares = NET.dealings[2].shares
    swapped = replace(NET.dealings[2], shares=(shares[1], shares[0], *shares[2:]))
    refused("threshold.bad_share", NET.finish, 1, {**NET.dealings, 2: swapped})


# Rogue keys and proofs of possession


def test_a_rogue_key_made_from_the_others_is_refused() -> None:
    """The last dealer takes C0 = g2^x minus the sum of the others, so that it alone would know the master secret."""
    honest = [g.g2_from_plain(NET.dealings[i].commitments[0]) for i in range(1, 5)]
    rogue = g.G2 * Scalar(1234)
    for point in honest:
        rogue = rogue - point
    own = NET.dealings[5]
    for proof in (own.proof, NET.dealings[1].proof, bytes(48), b"\x01" * 48):
        bad = replace(own, commitments=(g.plain_bytes(rogue), *own.commitments[1:]), proof=proof)
        refused("threshold.possession", dkg.verify_dealing, NET.ceremony, bad)


def test_a_copied_dealing_under_another_index_is_refused() -> None:
    copied = replace(NET.dealings[1], dealer=2)
    refused("threshold.possession", dkg.verify_dealing, NET.ceremony, copied)


def test_a_proof_that_copies_a_challenge_or_has_none_is_refused() -> None:
    """48 bytes: a challenge of 128 bits, which is part of the hash, and the answer."""
    own, other = NET.dealings[1], NET.dealings[2]
    assert len(own.proof) == 48
    order = g.ORDER.to_bytes(32, "big")
    for proof in (
        bytes(16) + own.proof[16:],
        own.proof[:16] + other.proof[16:],
        other.proof[:16] + own.proof[16:],
        own.proof[:16] + bytes(32),
        own.proof[:16] + order,
        own.proof[:16] + (int.from_bytes(own.proof[16:], "big") ^ 1).to_bytes(32, "big"),
    ):
        refused("threshold.possession", dkg.verify_dealing, NET.ceremony, replace(own, proof=proof))


def test_a_binding_is_made_once_and_changes_with_what_it_covers() -> None:
    again = replace(NET.ceremony)
    assert again == NET.ceremony
    assert again.binding == NET.ceremony.binding
    assert hash(again) == hash(NET.ceremony)
    assert replace(NET.ceremony, id=b"\x09" * 32).binding != again.binding
    assert "binding" not in repr(again)


def test_a_proof_is_bound_to_every_commitment() -> None:
    own = NET.dealings[1]
    mixed = replace(own, commitments=(*own.commitments[:-1], OTHER.dealings[1].commitments[-1]))
    refused("threshold.possession", dkg.verify_dealing, NET.ceremony, mixed)


def test_a_dealing_from_another_ceremony_is_refused() -> None:
    """Same members and threshold, only the id differs: neither proof, digest nor shares carry over."""
    later = replace(NET.ceremony, id=b"\x09" * 32)
    refused("threshold.possession", dkg.verify_dealing, later, NET.dealings[1])
    assert NET.dealings[1].digest(later) != NET.committed[1]
    private = X25519PrivateKey.from_private_bytes(NET.privates[0])
    refused("threshold.bad_share", dealing_module.open_share, later, NET.dealings[2], 1, private)


def test_views_that_differ_in_a_member_or_in_the_threshold_do_not_mix() -> None:
    stranger = replace(NET.ceremony.members[4], address=b"\x01" * 20)
    for view in (
        replace(NET.ceremony, members=(*NET.ceremony.members[:4], stranger)),
        replace(NET.ceremony, threshold=2),
    ):
        assert view.binding != NET.ceremony.binding
        with pytest.raises(ThresholdError):
            dkg.replay(view, NET.dealings, NET.committed)


# Digests


def test_a_dealing_that_is_not_the_committed_one_is_refused() -> None:
    late = dkg.deal(NET.ceremony, 4, stream("chosen after the reveal"))
    dealings = {**NET.dealings, 4: late}
    error = refused("threshold.dealing_changed", dkg.replay, NET.ceremony, dealings, NET.committed)
    assert "member 4" in error.expected
    refused("threshold.dealing_changed", dkg.finish, NET.ceremony, dealings, NET.committed, 1, NET.privates[0])


def test_a_dealing_in_another_members_place_is_refused() -> None:
    refused("threshold.dealing_changed", dkg.check_digest, NET.ceremony, 2, NET.dealings[1], NET.committed[1])


def test_the_digest_covers_every_part() -> None:
    fields = NET.dealings[1].to_json()
    digests, changes = {NET.committed[1]}, 0
    for name in ("commitments", "shares"):
        for at in range(len(fields[name])):
            changed = copy.deepcopy(fields)
            changed[name][at] = fields[name][at][:-1] + ("1" if fields[name][at][-1] == "0" else "0")
            digests.add(dkg.Dealing.from_json(changed).digest(NET.ceremony))
            changes += 1
    for change in ({"dealer": 2}, {"proof": NET.dealings[2].to_json()["proof"]}):
        digests.add(dkg.Dealing.from_json({**fields, **change}).digest(NET.ceremony))
        changes += 1
    assert len(digests) == changes + 1


@pytest.mark.parametrize(
    "name", ["a dealing missing", "a digest missing", "a stranger's dealing", "a stranger's digest"]
)
def test_exactly_one_dealing_and_digest_per_member(name: str) -> None:
    dealings, committed = dict(NET.dealings), dict(NET.committed)
    if name == "a dealing missing":
        del dealings[4]
    elif name == "a digest missing":
        del committed[4]
    elif name == "a stranger's dealing":
        dealings[6] = dealings[1]
    else:
        committed[6] = committed[1]
    error = refused("threshold.dealings_missing", dkg.replay, NET.ceremony, dealings, committed)
    assert "[4]" in error.found or "[6]" in error.found


# Shapes and points


def test_a_dealing_of_another_shape_is_refused() -> None:
    own = NET.dealings[1]
    shapes = {
        "one commitment less (a lower threshold)": replace(own, commitments=own.commitments[:-1]),
        "one commitment more (a higher threshold)": replace(own, commitments=(*own.commitments, own.commitments[0])),
        "one share less": replace(own, shares=own.shares[:-1]),
        "one share more": replace(own, shares=(*own.shares, own.shares[0])),
        "dealer zero": replace(own, dealer=0),
        "a dealer that is no member": replace(own, dealer=6),
    }
    for name, dealing in shapes.items():
        with pytest.raises(ThresholdError) as caught:
            dkg.verify_dealing(NET.ceremony, dealing)
        assert caught.value.code == "threshold.dealing_shape", name


@pytest.mark.parametrize("position", [0, 1, 2])
@pytest.mark.parametrize("point", [b"\x40" + bytes(191), bytes(192), b"\xff" * 192])
def test_a_commitment_that_is_no_good_point_is_refused(position: int, point: bytes) -> None:
    own = NET.dealings[1]
    commitments = (*own.commitments[:position], point, *own.commitments[position + 1 :])
    error = refused("threshold.point", dkg.verify_dealing, NET.ceremony, replace(own, commitments=commitments))
    assert "dealer 1" in error.expected


BAD_JSON: dict[str, Any] = {
    "not an object": lambda d: [d],
    "an unknown field": lambda d: {**d, "more": 1},
    "no proof": lambda d: {k: v for k, v in d.items() if k != "proof"},
    "a negative dealer": lambda d: {**d, "dealer": -1},
    "a dealer that is true": lambda d: {**d, "dealer": True},
    "a huge dealer": lambda d: {**d, "dealer": 1 << 70},
    "commitments that are no list": lambda d: {**d, "commitments": d["commitments"][0]},
    "no commitments": lambda d: {**d, "commitments": []},
    "too many commitments": lambda d: {**d, "commitments": d["commitments"] * 65},
    "too many shares": lambda d: {**d, "shares": d["shares"] * 65},
    "a short share": lambda d: {**d, "shares": ["0x00"]},
    "upper-case hex": lambda d: {**d, "proof": d["proof"].upper().replace("0X", "0x")},
    "a number for a proof": lambda d: {**d, "proof": 5},
    "null shares": lambda d: {**d, "shares": [None] * 5},
}


@pytest.mark.parametrize("name", BAD_JSON)
def test_a_dealing_of_another_form_is_refused(name: str) -> None:
    with pytest.raises(CloisterError):
        dkg.Dealing.from_json(BAD_JSON[name](copy.deepcopy(NET.dealings[1].to_json())))


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_one_flipped_bit_anywhere_is_refused(data: st.DataObject) -> None:
    """By verify_dealing, by the receiver, and in any case by the committed digest."""
    fields = NET.dealings[2].to_json()
    name = data.draw(st.sampled_from(["commitments", "proof", "shares"]))
    at = 0 if name == "proof" else data.draw(st.integers(0, len(fields[name]) - 1))
    raw = bytearray.fromhex((fields[name] if name == "proof" else fields[name][at])[2:])
    bit = data.draw(st.integers(0, len(raw) * 8 - 1))
    raw[bit // 8] ^= 1 << bit % 8
    if name == "proof":
        fields[name] = "0x" + raw.hex()
    else:
        fields[name][at] = "0x" + raw.hex()
    changed = dkg.Dealing.from_json(fields)
    with pytest.raises(ThresholdError):
        dkg.check_digest(NET.ceremony, 2, changed, NET.committed[2])
    with pytest.raises(ThresholdError):
        NET.finish(at + 1 if name == "shares" else 1, {**NET.dealings, 2: changed})


# Ceremonies and keys


def test_a_ceremony_has_a_sane_committee() -> None:
    ceremony, _ = ceremony_of(3, 2, "sane")
    members = ceremony.members
    for wrong in (
        {"threshold": 0},
        {"threshold": 4},
        {"members": ()},
        {"members": (members[1], members[0], members[2])},
        {"members": (members[0], members[0], members[2])},
        {"members": (members[0], replace(members[1], dkg_key=members[0].dkg_key), members[2])},
        {"members": (members[0], replace(members[1], address=members[0].address), members[2])},
        {"members": tuple(replace(members[0], index=i) for i in range(1, 66))},
    ):
        refused("threshold.ceremony", lambda change=wrong: replace(ceremony, **change))
    with pytest.raises(CloisterError):
        replace(ceremony, id=b"short")


@pytest.mark.parametrize("index", [0, 6, 1 << 15])
def test_only_members_deal(index: int) -> None:
    refused("threshold.ceremony", dkg.deal, NET.ceremony, index, stream("x"))


def test_a_weak_transport_key_is_named() -> None:
    members = (*NET.ceremony.members[:4], replace(NET.ceremony.members[4], dkg_key=bytes(32)))
    error = refused("threshold.transport_key", dkg.deal, replace(NET.ceremony, members=members), 1, stream("x"))
    assert "member 5" in error.expected


def test_finishing_with_another_members_key_is_refused() -> None:
    refused("threshold.transport_key", dkg.finish, NET.ceremony, NET.dealings, NET.committed, 1, NET.privates[1])


def test_dealings_that_cancel_the_master_key_are_refused() -> None:
    """Two dealers that together give MPK = identity (only possible in collusion of all): refused, not used."""
    ceremony, privates = ceremony_of(2, 1, "cancel")
    a = g.random_scalar(stream("a"))
    dealings = {}
    for index, secret in ((1, a), (2, -a)):
        commitments = (g.plain_bytes(g.G2 * secret),)
        proof = dealing_module.prove(ceremony, index, commitments, secret, g.random_scalar(stream(str(index))))
        shares = tuple(dealing_module.seal_share(ceremony, index, m, commitments, secret) for m in ceremony.members)
        dealings[index] = dkg.Dealing(index, commitments, proof, shares)
    committed = {i: d.digest(ceremony) for i, d in dealings.items()}
    refused("threshold.degenerate", dkg.finish, ceremony, dealings, committed, 1, privates[0])


def test_the_transcript_depends_on_the_order_of_digests() -> None:
    assert NET.public.transcript == dealing_module.transcript_of(NET.ceremony, dict(reversed(NET.committed.items())))
    swapped = {**NET.committed, 1: NET.committed[2], 2: NET.committed[1]}
    assert NET.public.transcript != dealing_module.transcript_of(NET.ceremony, swapped)
