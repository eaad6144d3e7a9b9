"""The checked doors to BLS12-381: what comes in, and the arithmetic behind it."""

from __future__ import annotations

import hashlib
from itertools import combinations
from math import gcd

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from py_arkworks_bls12381 import G1Point, G2Point, Scalar

from cloister.core.encoding.contexts import Context, frame
from cloister.core.errors import CloisterError, ThresholdError
from cloister.core.threshold import groups as g
from support.sharing import stream

FIELD = 0x1A0111EA397FE69A4B1BA7B6434BACD764774B84F38512BF6730D2A0F6B0F6241EABFFFEB153FFFFB9FEFFFFFFFFAAAB
G1_BYTES = bytes(G1Point().to_compressed_bytes())
G2_BYTES = bytes(G2Point().to_compressed_bytes())


def _outside_the_subgroup(group: type[G1Point] | type[G2Point], size: int) -> bytes:
    """A point on the curve whose order is not the group's, found by trying x coordinates."""
    for x in range(1, 200):
        data = (x | 0x80 << 8 * size - 8).to_bytes(size, "big")
        try:
            point = group.from_compressed_bytes_unchecked(data)
        except ValueError:
            continue
        if not point.is_in_subgroup():
            return data
    raise AssertionError("no such point among the first")


BAD_G1 = {
    "empty": b"",
    "one byte short": G1_BYTES[:-1],
    "one byte long": G1_BYTES + b"\0",
    "the identity": b"\xc0" + bytes(47),
    "the identity with rubbish behind": b"\xc0" + bytes(46) + b"\x01",
    "the identity with a sign": b"\xe0" + bytes(47),
    "uncompressed flag": bytes([G1_BYTES[0] & 0x7F]) + G1_BYTES[1:],
    "x not below the field": (FIELD + 4 | 0x80 << 376).to_bytes(48, "big"),
    "all ones": b"\xff" * 48,
    "zeros": bytes(48),
    "outside the subgroup": _outside_the_subgroup(G1Point, 48),
}
BAD_G2 = {
    "empty": b"",
    "a G1 point": G1_BYTES,
    "the identity": b"\xc0" + bytes(95),
    "the identity with rubbish behind": b"\xc0" + bytes(94) + b"\x01",
    "uncompressed flag": bytes([G2_BYTES[0] & 0x7F]) + G2_BYTES[1:],
    "all ones": b"\xff" * 96,
    "zeros": bytes(96),
    "outside the subgroup": _outside_the_subgroup(G2Point, 96),
}
G2_PLAIN = bytes(G2Point().to_xy_bytes_be())
_NUMBERS = [G2_PLAIN[at : at + 48] for at in range(0, 192, 48)]
_OUTSIDE = bytes(G2Point.from_compressed_bytes_unchecked(BAD_G2["outside the subgroup"]).to_xy_bytes_be())
BAD_PLAIN = {
    "empty": b"",
    "a compressed point": G2_BYTES,
    "one byte short": G2_PLAIN[:-1],
    "one byte long": G2_PLAIN + b"\0",
    "the identity as zeros": bytes(192),
    "the identity with a flag": b"\x40" + bytes(191),
    "the compressed flag": bytes([G2_PLAIN[0] | 0x80]) + G2_PLAIN[1:],
    "the sign flag": bytes([G2_PLAIN[0] | 0x20]) + G2_PLAIN[1:],
    "all ones": b"\xff" * 192,
    "a number not below the field": b"".join(
        [(int.from_bytes(_NUMBERS[0], "big") + FIELD).to_bytes(48, "big"), *_NUMBERS[1:]]
    ),
    "its numbers in another order": b"".join([_NUMBERS[1], _NUMBERS[0], _NUMBERS[3], _NUMBERS[2]]),
    "another y": G2_PLAIN[:96] + bytes(95) + b"\x01",
    "on the curve, outside the subgroup": _OUTSIDE,
}
BAD_SCALARS = {
    "zero": bytes(32),
    "the order": g.ORDER.to_bytes(32, "big"),
    "above the order": b"\xff" * 32,
    "short": b"\x01" * 31,
    "long": b"\x01" * 33,
}


@pytest.mark.parametrize("name", BAD_G1)
def test_a_bad_g1_point_is_refused(name: str) -> None:
    with pytest.raises(ThresholdError) as caught:
        g.g1_from_bytes(BAD_G1[name], "the point")
    assert caught.value.code == "threshold.point"
    assert "the point" in caught.value.expected


@pytest.mark.parametrize("name", BAD_G1)
def test_a_point_on_the_curve_is_let_in_only_for_a_sum_that_is_checked(name: str) -> None:
    with pytest.raises(ThresholdError) as caught:
        g.need_subgroup(g.g1_on_curve(BAD_G1[name], "the point"))
    assert caught.value.code == "threshold.point"


def test_what_is_in_the_subgroup_passes_as_it_is() -> None:
    assert g.g1_on_curve(G1_BYTES) == g.need_subgroup(g.G1) == g.g1_from_bytes(G1_BYTES)


@pytest.mark.parametrize("name", BAD_G2)
def test_a_bad_g2_point_is_refused(name: str) -> None:
    with pytest.raises(ThresholdError) as caught:
        g.g2_from_bytes(BAD_G2[name])
    assert caught.value.code == "threshold.point"


@pytest.mark.parametrize("name", BAD_PLAIN)
def test_a_bad_uncompressed_g2_point_is_refused(name: str) -> None:
    with pytest.raises(ThresholdError) as caught:
        g.g2_from_plain(BAD_PLAIN[name], "the commitment")
    assert caught.value.code == "threshold.point"
    assert "the commitment" in caught.value.expected


def test_the_point_outside_the_subgroup_is_refused_for_that_alone() -> None:
    point = G2Point.from_xy_bytes_unchecked_be(_OUTSIDE)
    assert bytes(point.to_xy_bytes_be()) == _OUTSIDE
    assert not point.is_in_subgroup()


@settings(deadline=None)
@given(st.integers(1, g.ORDER - 1), st.integers(0, 192 * 8 - 1))
def test_an_uncompressed_point_comes_back_and_no_bit_of_it_can_change(value: int, bit: int) -> None:
    point = g.g2_times(Scalar.from_be_bytes(value.to_bytes(32, "big")))
    data = g.plain_bytes(point)
    assert g.g2_from_plain(data) == point
    bent = bytearray(data)
    bent[bit // 8] ^= 0x80 >> bit % 8
    with pytest.raises(ThresholdError):
        g.g2_from_plain(bytes(bent))


@settings(deadline=None)
@given(st.binary(min_size=192, max_size=192))
def test_random_bytes_are_no_uncompressed_point(data: bytes) -> None:
    with pytest.raises(ThresholdError):
        g.g2_from_plain(data)


def test_a_short_challenge_is_the_beginning_of_a_hash_of_the_frame() -> None:
    found = g.short_challenge(Context.DKG_PROOF, b"a", b"bc")
    assert len(found) == g.CHALLENGE_SIZE == 16
    whole = hashlib.sha512(frame(Context.DKG_PROOF, b"a", b"bc")).digest()
    assert whole.startswith(found)
    assert found != g.short_challenge(Context.DKG_PROOF, b"ab", b"c")
    assert found != g.short_challenge(Context.IBE_SCALAR, b"a", b"bc")


@pytest.mark.parametrize("name", BAD_SCALARS)
def test_a_bad_scalar_is_refused(name: str) -> None:
    with pytest.raises(ThresholdError) as caught:
        g.scalar_from_bytes(BAD_SCALARS[name])
    assert caught.value.code == "threshold.scalar"


@pytest.mark.parametrize("value", ["text", 5, None, bytearray(48)])
def test_what_is_not_bytes_is_refused(value: object) -> None:
    for decode in (g.g1_from_bytes, g.g2_from_bytes, g.g2_from_plain, g.scalar_from_bytes):
        with pytest.raises(ThresholdError):
            decode(value)  # type: ignore[arg-type]


@given(st.binary(min_size=48, max_size=48))
def test_random_bytes_give_a_point_that_encodes_back_or_a_refusal(data: bytes) -> None:
    try:
        point = g.g1_from_bytes(data)
    except CloisterError:
        return
    assert g.to_bytes(point) == data
    assert point.is_in_subgroup()


@given(st.integers(1, g.ORDER - 1))
def test_scalars_round_trip(value: int) -> None:
    data = value.to_bytes(32, "big")
    assert g.scalar_bytes(g.scalar_from_bytes(data)) == data


def test_points_round_trip() -> None:
    x = g.random_scalar(stream("points"))
    assert g.g1_from_bytes(g.to_bytes(g.G1 * x)) == g.G1 * x
    assert g.g2_from_bytes(g.to_bytes(g.G2 * x)) == g.G2 * x


@pytest.mark.parametrize("point", [G1Point.identity(), G2Point.identity()])
def test_the_identity_is_never_sent(point: G1Point | G2Point) -> None:
    with pytest.raises(ThresholdError):
        g.to_bytes(point)
    if isinstance(point, G2Point):
        with pytest.raises(ThresholdError):
            g.plain_bytes(point)


@settings(max_examples=30, deadline=None)
@given(st.one_of(st.integers(1, 300), st.integers(1, g.ORDER - 1), st.integers(g.ORDER - 300, g.ORDER - 1)))
def test_tables_give_the_multiples_of_the_generators(value: int) -> None:
    scalar = g.scalar_from_bytes(value.to_bytes(32, "big"))
    assert g.g1_times(scalar) == g.G1 * scalar
    assert g.g2_times(scalar) == g.G2 * scalar


@settings(max_examples=30, deadline=None)
@given(st.one_of(st.integers(1, 300), st.integers(1, g.ORDER - 1), st.integers(g.ORDER - 300, g.ORDER - 1)))
def test_a_comb_gives_the_multiples_of_its_base(value: int) -> None:
    base, scalar = g.hash_identity(b"base"), g.scalar_from_bytes(value.to_bytes(32, "big"))
    times = g.multiples(base)
    assert times(scalar) == base * scalar
    assert times(Scalar(1)) == base, "one table, many scalars"


def test_a_combination_is_the_sum_of_its_parts() -> None:
    one, two = g.hash_identity(b"one"), g.hash_identity(b"two")
    assert g.g1_combine([one, two], [Scalar(2), Scalar(3)]) == one * Scalar(2) + two * Scalar(3)
    with pytest.raises(RuntimeError):
        g.g1_combine([one], [Scalar(2), Scalar(3)])


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, g.MAX_MEMBERS), min_size=1, max_size=12, unique=True))
def test_whole_weights_are_the_lagrange_coefficients(indexes: list[int]) -> None:
    weights, d = g.whole_weights(indexes)
    wanted = g.lagrange_at_zero(indexes)
    found = [d * g.scalar_from_bytes((w % g.ORDER).to_bytes(32, "big")) for w in weights]
    assert [g.scalar_bytes(w) for w in found] == [g.scalar_bytes(w) for w in wanted]


def test_whole_weights_have_nothing_in_common_and_half_of_all_threes_of_five_need_no_fraction() -> None:
    ones = 0
    for indexes in combinations(range(1, 6), 3):
        weights, d = g.whole_weights(indexes)
        inverse = int.from_bytes(g.scalar_bytes(d.inverse()), "big")
        assert gcd(inverse, *weights) == 1
        ones += bool(d.is_one())
    assert ones == 5


def test_whole_weights_are_the_caller_s_to_change() -> None:
    weights, _ = g.whole_weights([1, 2, 3])
    weights[0] = 99
    assert g.whole_weights([1, 2, 3])[0] == [3, -3, 1]


def test_whole_sums_take_weights_of_either_sign() -> None:
    one, two = g.hash_identity(b"one"), g.hash_identity(b"two")
    assert g.g1_whole_sum([one, two], [2, -3]) == one + one - two - two - two


@pytest.mark.parametrize("indexes", [[1, 1], [0], [65]])
def test_whole_weights_refuse_what_lagrange_refuses(indexes: list[int]) -> None:
    with pytest.raises(ThresholdError) as error:
        g.whole_weights(indexes)
    assert error.value.code == "threshold.indexes"


@pytest.mark.parametrize("source", [lambda size: bytes(size), lambda size: b"\x01", lambda size: "text"])
def test_a_broken_random_source_is_our_mistake(source: g.Rng) -> None:
    with pytest.raises(RuntimeError):
        g.random_scalar(source)


def test_a_multiple_of_the_order_is_no_random_scalar() -> None:
    with pytest.raises(RuntimeError):
        g.random_scalar(lambda size: (g.ORDER * 7).to_bytes(size, "big"))


def test_hashing_to_a_scalar_separates_contexts_and_parts() -> None:
    seen = {
        g.scalar_bytes(g.hash_to_scalar(context, *parts))
        for context in (Context.IBE_SCALAR, Context.DKG_PROOF)
        for parts in ((b"ab", b"c"), (b"a", b"bc"), (b"abc",), (b"abc", b""))
    }
    assert len(seen) == 8


def test_identities_have_a_size_cap() -> None:
    g.hash_identity(b"x" * g.MAX_IDENTITY)
    for identity in (b"", b"x" * (g.MAX_IDENTITY + 1)):
        with pytest.raises(ThresholdError) as caught:
            g.hash_identity(identity)
        assert caught.value.code == "threshold.identity"


def test_hash_to_curve_follows_rfc_9380() -> None:
    """RFC 9380 appendix J.9.1, empty message, through the same library call that hash_identity makes."""
    dst = b"QUUX-V01-CS02-with-BLS12381G1_XMD:SHA-256_SSWU_RO_"
    x = "052926add2207b76ca4fa57a8734416c8dc95e24501772c814278700eed6d1e4e8cf62d9c09db0fac349612b759e79a1"
    assert bytes(G1Point.hash_to_curve(b"", dst).to_xy_bytes_be())[:48].hex() == x


@given(st.lists(st.integers(1, 64), min_size=1, max_size=7, unique=True))
def test_lagrange_recovers_the_value_at_zero(indexes: list[int]) -> None:
    rng = stream(str(indexes))
    polynomial = [g.random_scalar(rng) for _ in indexes]
    values = []
    for i in indexes:
        total = Scalar(0)
        for coefficient in reversed(polynomial):
            total = total * Scalar(i) + coefficient
        values.append(total)
    found = Scalar(0)
    for weight, value in zip(g.lagrange_at_zero(indexes), values, strict=True):
        found = found + weight * value
    assert found == polynomial[0]


@pytest.mark.parametrize("indexes", [[1, 1], [0, 1], [65], [-1, 2], [1, 2, 3, 2]])
def test_lagrange_refuses_repeated_and_strange_indexes(indexes: list[int]) -> None:
    with pytest.raises(ThresholdError) as caught:
        g.lagrange_at_zero(indexes)
    assert caught.value.code == "threshold.indexes"


def test_evaluation_in_the_exponent_agrees_with_evaluation() -> None:
    rng = stream("evaluate")
    polynomial = [g.random_scalar(rng) for _ in range(4)]
    for x in (1, 2, 64):
        power, value = Scalar(1), Scalar(0)
        for coefficient in polynomial:
            value, power = value + coefficient * power, power * Scalar(x)
        assert g.g2_evaluate([g.G2 * a for a in polynomial], x) == g.G2 * value


def test_pairings_are_bilinear_and_have_canonical_bytes() -> None:
    a, b = Scalar(5), Scalar(11)
    left = g.pairing_bytes(g.G1 * a, g.G2 * b)
    assert left == g.pairing_bytes(g.G1 * b, g.G2 * a)
    assert left != g.pairing_bytes(g.G1 * a, g.G2)
    assert len(left) == g.GT_SIZE
    assert g.pairings_equal((g.G1 * a, g.G2 * b), (g.G1 * Scalar(55), g.G2))
    assert not g.pairings_equal((g.G1 * a, g.G2 * b), (g.G1 * Scalar(54), g.G2))
    assert g.pairings_equal((g.G1 * Scalar(9), g.G2), (g.G1 * Scalar(4), g.G2), (g.G1, g.G2 * Scalar(5)))
