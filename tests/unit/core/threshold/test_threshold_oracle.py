"""The whole scheme against integers: the oracle knows every polynomial, which nobody in a real network does.

Scalars are Python integers, points are py_ecc's: no line of it is shared with the code under test.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from functools import lru_cache
from itertools import combinations
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from py_arkworks_bls12381 import G1Point, G2Point, Scalar
from py_ecc import optimized_bls12_381 as ecc
from py_ecc.bls.hash_to_curve import hash_to_G1
from py_ecc.bls.point_compression import compress_G1, compress_G2, decompress_G1, decompress_G2

from cloister.core.errors import CloisterError, ThresholdError
from cloister.core.threshold import groups as g
from cloister.core.threshold import partial as p
from cloister.core.threshold.ibe import DerivedKey, decrypt, encrypt
from cloister.core.threshold.shares import KeyShare
from support.sharing import Network, network, stream

SHA256: Any = hashlib.sha256
ORDER: int = ecc.curve_order
IDENTITY = b"an identity of the oracle's tests"
ASKER = p.TransportKey.generate(stream("oracle's asker"))
SIZES = st.integers(1, 6).flatmap(lambda n: st.tuples(st.just(n), st.integers(1, n)))


# -- the oracle ---------------------------------------------------------------------------------------------------


def polynomials(n: int, t: int, seed: str) -> list[list[int]]:
    """What each dealer drew, from the seed of ``network``: t coefficients, then the nonce of its proof."""
    rng = stream(f"deal/{seed}/{n}/{t}")
    drawn = [[int.from_bytes(rng(48), "big") % ORDER for _ in range(t + 1)] for _ in range(n)]
    return [row[:t] for row in drawn]


def value(polynomial: list[int], x: int) -> int:
    return sum(a * x**k for k, a in enumerate(polynomial)) % ORDER


def share_of(rows: list[list[int]], index: int) -> int:
    return sum(value(row, index) for row in rows) % ORDER


def secret_of(rows: list[list[int]]) -> int:
    return sum(row[0] for row in rows) % ORDER


def g1_bytes(point: Any) -> bytes:
    return int(compress_G1(point)).to_bytes(48, "big")


def g2_bytes(point: Any) -> bytes:
    return b"".join(int(part).to_bytes(48, "big") for part in compress_G2(point))


@lru_cache(maxsize=8)
def hashed(identity: bytes) -> Any:
    return hash_to_G1(identity, g.DST, SHA256)


def derived(rows: list[list[int]], identity: bytes) -> bytes:
    return g1_bytes(ecc.multiply(hashed(identity), secret_of(rows)))


def ask(net: Network, members: Any, identity: bytes = IDENTITY, seed: str = "oracle") -> list[p.Partial]:
    rng = stream(seed)
    return [p.evaluate(net.shares[i - 1], identity, ASKER.public, rng) for i in members]


# -- shares and keys ----------------------------------------------------------------------------------------------


@settings(max_examples=12, deadline=None)
@given(SIZES, st.sampled_from(["first", "second"]))
def test_every_share_is_the_sum_of_all_polynomials_at_its_index(size: tuple[int, int], seed: str) -> None:
    n, t = size
    rows, net = polynomials(n, t, seed), network(n, t, seed)
    for share in net.shares:
        assert int.from_bytes(share.secret, "big") == share_of(rows, share.index)


@pytest.mark.parametrize(("n", "t"), [(1, 1), (3, 2), (5, 3)])
def test_master_and_share_keys_are_those_of_the_sum(n: int, t: int) -> None:
    rows, public = polynomials(n, t, "first"), network(n, t).public
    assert g2_bytes(ecc.multiply(ecc.G2, secret_of(rows))) == public.mpk
    for index in (1, n):
        assert g2_bytes(ecc.multiply(ecc.G2, share_of(rows, index))) == public.share_key(index)


@pytest.mark.parametrize(("n", "t"), [(1, 1), (2, 2), (4, 2), (5, 3)])
def test_the_derived_key_is_the_identitys_point_times_the_secret(n: int, t: int) -> None:
    rows, net = polynomials(n, t, "first"), network(n, t)
    wanted = derived(rows, IDENTITY)
    for chosen in list(combinations(range(1, n + 1), t))[:4]:
        assert p.recover(ask(net, chosen), t, net.public, IDENTITY, ASKER).point == wanted


@pytest.mark.parametrize("identity", [b"\0", b"\xff" * 32, b"a" * g.MAX_IDENTITY])
def test_the_same_for_identities_of_every_size(identity: bytes) -> None:
    net = network(3, 2)
    wanted = derived(polynomials(3, 2, "first"), identity)
    assert p.recover(ask(net, (3, 1), identity), 2, net.public, identity, ASKER).point == wanted


def test_one_share_less_fits_every_secret_equally_well() -> None:
    """Perfect secrecy of Shamir: t - 1 shares and any secret lie on exactly one polynomial of degree t - 1."""
    rows = polynomials(5, 3, "first")
    known = {index: share_of(rows, index) for index in (2, 5)}
    for candidate in (0, 1, secret_of(rows), ORDER - 1, 12345):
        points = {0: candidate, **known}
        third = _interpolated(points, 3)
        assert _interpolated({**known, 3: third}, 0) == candidate
    assert _interpolated({0: secret_of(rows), **known}, 3) == share_of(rows, 3)


def _interpolated(points: dict[int, int], x: int) -> int:
    total = 0
    for i, y in points.items():
        above, below = 1, 1
        for j in points:
            if j != i:
                above, below = above * (x - j) % ORDER, below * (i - j) % ORDER
        total += y * above * pow(below, -1, ORDER)
    return total % ORDER


@settings(max_examples=40, deadline=None)
@given(st.sets(st.integers(1, g.MAX_MEMBERS), min_size=1, max_size=12), st.randoms())
def test_weights_agree_with_integers_in_any_order(indexes: set[int], dice: Any) -> None:
    order = list(indexes)
    dice.shuffle(order)
    ours = [int(weight) for weight in g.lagrange_at_zero(order)]
    for place, index in enumerate(order):
        assert ours[place] == _interpolated({i: int(i == index) for i in order}, 0)
    assert sum(ours) % ORDER == 1  # they interpolate the constant 1


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=64), st.binary(max_size=64))
def test_scalars_of_hashes_agree_with_integers(one: bytes, other: bytes) -> None:
    from cloister.core.encoding.contexts import Context, frame

    digest = hashlib.sha512(frame(Context.DKG_PROOF, one, other)).digest()
    wanted = int.from_bytes(digest[:48], "big") % ORDER
    assert int.from_bytes(g.scalar_bytes(g.hash_to_scalar(Context.DKG_PROOF, one, other)), "big") == wanted


# -- points that come in ------------------------------------------------------------------------------------------


def _good_g1(data: bytes) -> bool:
    """py_ecc's judgement: on the curve, in the subgroup, not the identity, and spelled that way."""
    try:
        point = decompress_G1(int.from_bytes(data, "big"))  # type: ignore[arg-type]
    except ValueError:
        return False
    inside = ecc.is_inf(ecc.multiply(point, ORDER))
    return bool(inside and not ecc.is_inf(point) and g1_bytes(point) == data)


def _good_g2(data: bytes) -> bool:
    halves = int.from_bytes(data[:48], "big"), int.from_bytes(data[48:], "big")
    try:
        point = decompress_G2(halves)  # type: ignore[arg-type]
    except ValueError:
        return False
    inside = ecc.is_inf(ecc.multiply(point, ORDER))
    return bool(inside and not ecc.is_inf(point) and g2_bytes(point) == data)


def _taken(decode: Any, data: bytes) -> bool:
    try:
        decode(data)
    except ThresholdError as error:
        return error.code != "threshold.point"
    return True


FLIPS = st.one_of(st.just(-1), st.integers(0, 383))


@settings(max_examples=60, deadline=None)
@given(st.integers(1, ORDER - 1), FLIPS, st.integers(0, 7))
def test_the_same_g1_points_are_good(scalar: int, flip: int, head: int) -> None:
    data = bytearray(bytes((G1Point() * Scalar.from_be_bytes(scalar.to_bytes(32, "big"))).to_compressed_bytes()))
    if flip >= 0:
        data[flip // 8] ^= 1 << flip % 8
        data[0] = data[0] & 0x1F | head << 5 if flip % 5 == 0 else data[0]
    assert _taken(g.g1_from_bytes, bytes(data)) is _good_g1(bytes(data))


@settings(max_examples=25, deadline=None)
@given(st.integers(1, ORDER - 1), st.one_of(st.just(-1), st.integers(0, 767)))
def test_the_same_g2_points_are_good(scalar: int, flip: int) -> None:
    data = bytearray(bytes((G2Point() * Scalar.from_be_bytes(scalar.to_bytes(32, "big"))).to_compressed_bytes()))
    if flip >= 0:
        data[flip // 8] ^= 1 << flip % 8
    assert _taken(g.g2_from_bytes, bytes(data)) is _good_g2(bytes(data))


# -- partials that somebody changed -------------------------------------------------------------------------------


def _scaled(data: bytes, by: int) -> bytes:
    return g.to_bytes(g.g1_from_bytes(data) * Scalar(by))


def _moved(one: p.Partial, by: int) -> p.Partial:
    """The same answer under another r: whoever carries a partial can do that, and it opens to the same."""
    r, transport = Scalar(by), g.g1_from_bytes(ASKER.public)
    return replace(
        one,
        e1=g.to_bytes(g.g1_from_bytes(one.e1) + g.G1 * r),
        e2=g.to_bytes(g.g2_from_bytes(one.e2) + g.G2 * r),
        e3=g.to_bytes(g.g1_from_bytes(one.e3) + transport * r),
    )


@pytest.mark.parametrize("by", [1, 2, 7**20])
def test_a_partial_under_another_mask_is_the_same_answer(by: int) -> None:
    net = network(3, 2)
    one, other = ask(net, (1, 2))
    moved = _moved(one, by)
    assert moved != one
    p.verify_partial(moved, IDENTITY, net.public, ASKER.public)
    wanted = p.recover([one, other], 2, net.public, IDENTITY, ASKER).point
    assert p.recover([moved, other], 2, net.public, IDENTITY, ASKER).point == wanted


def _combined(one: p.Partial, other: p.Partial) -> p.Partial:
    """The sum of two answers of one member: right for no identity at all."""
    return replace(
        one,
        e1=g.to_bytes(g.g1_from_bytes(one.e1) + g.g1_from_bytes(other.e1)),
        e2=g.to_bytes(g.g2_from_bytes(one.e2) + g.g2_from_bytes(other.e2)),
        e3=g.to_bytes(g.g1_from_bytes(one.e3) + g.g1_from_bytes(other.e3)),
    )


def _changes() -> dict[str, p.Partial]:
    net = network(3, 2)
    one, other = ask(net, (1, 2))
    elsewhere = ask(net, (1,), b"another identity")[0]
    foreign = ask(network(3, 2, "second"), (1,))[0]
    public = g.to_bytes(g.g1_from_bytes(one.e3) + g.g1_from_bytes(one.e1))
    return {
        "all three points doubled": replace(
            one, e1=_scaled(one.e1, 2), e2=g.to_bytes(g.g2_from_bytes(one.e2) * Scalar(2)), e3=_scaled(one.e3, 2)
        ),
        "the answer alone doubled": replace(one, e3=_scaled(one.e3, 2)),
        "the answer with its sign turned": replace(one, e3=_scaled(one.e3, ORDER - 1)),
        "the mask of another member": replace(one, e1=other.e1, e2=other.e2),
        "one half of the mask of another member": replace(one, e1=other.e1),
        "the answer of another member": replace(one, e3=other.e3),
        "the index of another member": replace(one, index=2),
        "the answer to another question": elsewhere,
        "answers to two questions added up": _combined(one, elsewhere),
        "an answer added to itself": _combined(one, one),
        "the share of another network": foreign,
        "the mask added to the answer": replace(one, e3=public),
        "points exchanged": replace(one, e1=one.e3, e3=one.e1),
    }


@pytest.mark.parametrize("sentence", _changes())
def test_a_changed_partial_is_blamed_and_the_key_comes_from_the_others(sentence: str) -> None:
    net, forged = network(3, 2), _changes()[sentence]
    good = ask(net, (2, 3)) if forged.index != 2 else ask(net, (1, 3))
    with pytest.raises(ThresholdError) as caught:
        p.verify_partial(forged, IDENTITY, net.public, ASKER.public)
    assert caught.value.code == "threshold.bad_partial"
    found = p.recover_and_blame([forged, *good], 2, net.public, IDENTITY, ASKER)
    assert found.key.point == derived(polynomials(3, 2, "first"), IDENTITY)
    assert found.culprits == (forged.index,)


def test_members_who_conspire_below_the_threshold_open_nothing() -> None:
    """Two of three shares needed, one known: no multiple or offset of it is the key."""
    rows, net = polynomials(3, 2, "first"), network(3, 2)
    wanted = derived(rows, IDENTITY)
    h = g.hash_identity(IDENTITY)
    own = Scalar.from_be_bytes(net.shares[0].secret)
    tries = [h * (own * Scalar(k)) for k in range(1, 30)] + [h * (own + Scalar(k)) for k in range(1, 30)]
    assert wanted not in {g.to_bytes(point) for point in tries}
    sealed = encrypt(net.public.mpk, IDENTITY, b"what is inside", b"", stream("sealer"))
    key = DerivedKey(wanted)
    assert decrypt(key, net.public.mpk, IDENTITY, sealed, b"") == b"what is inside"
    for point in tries[:6]:
        with pytest.raises(CloisterError):
            decrypt(DerivedKey(g.to_bytes(point)), net.public.mpk, IDENTITY, sealed, b"")


def test_a_share_moved_by_one_is_no_share() -> None:
    net = network(3, 2)
    for share in net.shares:
        other = (int.from_bytes(share.secret, "big") + 1) % ORDER
        with pytest.raises(ThresholdError) as caught:
            KeyShare(share.index, other.to_bytes(32, "big"), share.public).verify()
        assert caught.value.code == "threshold.share_mismatch"
