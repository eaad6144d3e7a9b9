"""BLS12-381 behind checked doors: every point and scalar that enters from outside passes here (spec/sharing.md 1).

Public keys are in G2 (96 bytes compressed), derived keys and transport keys in G1 (48 bytes compressed), scalars are
32 bytes big-endian. Commitments of dealings are in G2, uncompressed (192 bytes): reading one costs no square root.
Decoding refuses wrong sizes, points off the curve or outside the prime-order subgroup, and the identity. The library is
not constant time; callers keep secrets in the library's ``Scalar``, never in Python integers.
Multiples of the two generators come from tables (``g1_times``, ``g2_times``): as many additions for every scalar.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from functools import lru_cache
from math import gcd, lcm, prod
from typing import Final, TypeVar

from py_arkworks_bls12381 import GT, G1Point, G2Point, Scalar

from cloister.core.encoding.contexts import Context, frame
from cloister.core.encoding.hexes import need_bytes
from cloister.core.errors import ThresholdError, define

Rng = Callable[[int], bytes]
_Point = TypeVar("_Point", G1Point, G2Point)

ORDER: Final = 0x73EDA753299D7D483339D80809A1D80553BDA402FFFE5BFEFFFFFFFF00000001
G1_SIZE, G2_SIZE, SCALAR_SIZE, GT_SIZE = 48, 96, 32, 576
G2_PLAIN_SIZE: Final = 192
CHALLENGE_SIZE: Final = 16
DST: Final = b"CLOISTER-V1-BLS12381G1_XMD:SHA-256_SSWU_RO_"
MAX_MEMBERS: Final = 64
MAX_IDENTITY: Final = 4096

BAD_POINT = define(
    "threshold.point",
    ThresholdError,
    check="a point is spelled as its place asks, in the prime-order subgroup, and not the identity",
    remedy="the sender is broken or hostile; do not use this value",
)
BAD_SCALAR = define(
    "threshold.scalar",
    ThresholdError,
    check="a scalar is 32 bytes big-endian, not zero, below the group order",
    remedy="the sender is broken or hostile; do not use this value",
)
BAD_IDENTITY = define(
    "threshold.identity",
    ThresholdError,
    check=f"a key identity has 1 to {MAX_IDENTITY} bytes",
    remedy="build it with cloister.core.encoding.identity",
)
BAD_INDEXES = define(
    "threshold.indexes",
    ThresholdError,
    check=f"member indexes are distinct and between 1 and {MAX_MEMBERS}",
    remedy="use each member once, under the index that the ceremony gives it",
)

G1: Final = G1Point()
G2: Final = G2Point()
_NO_G1: Final = G1Point.identity()
_NO_G2: Final = G2Point.identity()


def draw(rng: Rng, size: int) -> bytes:
    """``size`` random bytes. Raises RuntimeError if the source gives another number: that is our mistake."""
    data = rng(size)
    if not isinstance(data, bytes) or len(data) != size:
        raise RuntimeError(f"the random source did not give {size} bytes")
    return data


def random_scalar(rng: Rng) -> Scalar:
    """A scalar in [1, order), from 48 random bytes. Raises RuntimeError if the source gives zeros."""
    scalar = Scalar.from_be_bytes_mod_order(draw(rng, 48))
    if scalar.is_zero():
        raise RuntimeError("the random source gave zero")
    return scalar


def hash_to_scalar(context: Context, *parts: bytes) -> Scalar:
    """The first 48 bytes of SHA-512(frame(context, parts)), big-endian, modulo the order."""
    return Scalar.from_be_bytes_mod_order(hashlib.sha512(frame(context, *parts)).digest()[:48])


def short_challenge(context: Context, *parts: bytes) -> bytes:
    """The first 16 bytes of SHA-512(frame(context, parts)): a challenge of 128 bits costs half as much to check."""
    return hashlib.sha512(frame(context, *parts)).digest()[:CHALLENGE_SIZE]


def scalar_bytes(scalar: Scalar) -> bytes:
    """32 bytes, big-endian."""
    return bytes(scalar.to_be_bytes())


def scalar_from_bytes(data: bytes, name: str = "scalar") -> Scalar:
    """Decode 32 bytes. Raises ThresholdError for zero, for values not below the order, for other sizes."""
    if not isinstance(data, bytes) or len(data) != SCALAR_SIZE:
        raise BAD_SCALAR(expected=f"{name} of 32 bytes", found=_size(data))
    if not 0 < int.from_bytes(data, "big") < ORDER:
        raise BAD_SCALAR(expected=f"{name} in [1, order)", found="a value outside")
    return Scalar.from_be_bytes(data)


def _checked(data: bytes, size: int, name: str, group: type[_Point], spelling: tuple[str, str], none: _Point) -> _Point:
    """A point from its only spelling; the library checks curve and subgroup. Raises ThresholdError."""
    if not isinstance(data, bytes) or len(data) != size:
        raise BAD_POINT(expected=f"{name} of {size} bytes", found=_size(data))
    read, write = spelling
    try:
        point: _Point = getattr(group, read)(data)
    except Exception:  # whatever the library says of such bytes
        raise BAD_POINT(expected=f"{name} in the subgroup of {group.__name__[:2]}", found="no such point") from None
    if point == none or bytes(getattr(point, write)()) != data:
        raise BAD_POINT(expected=f"{name} other than the identity", found="the identity or a second spelling")
    return point


_COMPRESSED: Final = ("from_compressed_bytes", "to_compressed_bytes")
_ON_CURVE: Final = ("from_compressed_bytes_unchecked", "to_compressed_bytes")
_PLAIN: Final = ("from_xy_bytes_be", "to_xy_bytes_be")


def g1_from_bytes(data: bytes, name: str = "point") -> G1Point:
    """Decode 48 compressed bytes, subgroup checked, identity refused. Raises ThresholdError."""
    return _checked(data, G1_SIZE, name, G1Point, _COMPRESSED, _NO_G1)


def g1_on_curve(data: bytes, name: str = "point") -> G1Point:
    """``g1_from_bytes`` without the subgroup check, two thirds of its cost: where only a public sum of points is used.
    That sum goes through ``need_subgroup`` before anything secret meets it. Raises ThresholdError."""
    return _checked(data, G1_SIZE, name, G1Point, _ON_CURVE, _NO_G1)


def need_subgroup(point: G1Point) -> G1Point:
    """The point, if it is in the prime-order subgroup. Raises ThresholdError."""
    if not point.is_in_subgroup():
        raise BAD_POINT(expected="a sum in the subgroup of G1", found="a point outside")
    return point


def g2_from_bytes(data: bytes, name: str = "point") -> G2Point:
    """Decode 96 compressed bytes, subgroup checked, identity refused. Raises ThresholdError."""
    return _checked(data, G2_SIZE, name, G2Point, _COMPRESSED, _NO_G2)


def g2_from_plain(data: bytes, name: str = "point") -> G2Point:
    """Decode 192 uncompressed bytes (x.c0, x.c1, y.c0, y.c1), curve and subgroup checked, identity refused.

    Raises ThresholdError."""
    return _checked(data, G2_PLAIN_SIZE, name, G2Point, _PLAIN, _NO_G2)


def plain_bytes(point: G2Point) -> bytes:
    """Uncompressed encoding, 192 bytes. Raises ThresholdError for the identity: we never send it."""
    if point == _NO_G2:
        raise BAD_POINT(expected="a point other than the identity", found="the identity")
    return bytes(point.to_xy_bytes_be())


@lru_cache(maxsize=256)
def public_key(data: bytes) -> G2Point:
    """``g2_from_bytes`` with a cache, for public keys that are used again and again (MPK, share keys)."""
    return g2_from_bytes(data, "public key")


@lru_cache(maxsize=1024)
def hash_identity(identity: bytes) -> G1Point:
    """h(id): RFC 9380 hash_to_curve to G1 under our DST, cached. Raises ThresholdError for sizes off the cap."""
    if not isinstance(identity, bytes) or not 1 <= len(identity) <= MAX_IDENTITY:
        raise BAD_IDENTITY(expected=f"1 to {MAX_IDENTITY} bytes", found=_size(identity))
    return G1Point.hash_to_curve(identity, DST)  # the library takes the message first


def to_bytes(point: G1Point | G2Point) -> bytes:
    """Compressed encoding. Raises ThresholdError for the identity: we never send it."""
    if point in (_NO_G1, _NO_G2):
        raise BAD_POINT(expected="a point other than the identity", found="the identity")
    return bytes(point.to_compressed_bytes())


def _table(base: _Point, nothing: _Point) -> tuple[tuple[_Point, ...], ...]:
    """Row w holds 0..255 times 256^w times the base: about 8,000 points, 3 MB."""
    rows = []
    for _ in range(SCALAR_SIZE):
        row = [nothing]
        for _ in range(255):
            row.append(row[-1] + base)
        rows.append(tuple(row))
        base = row[-1] + base
    return tuple(rows)


_g1_table = lru_cache(maxsize=1)(lambda: _table(G1, _NO_G1))
_g2_table = lru_cache(maxsize=1)(lambda: _table(G2, _NO_G2))


def g1_times(scalar: Scalar) -> G1Point:
    """G1 * scalar, from a table made at first use (about 15 ms). Five times as fast as by doubling."""
    total = _NO_G1
    for digit, row in zip(reversed(scalar_bytes(scalar)), _g1_table(), strict=True):
        total = total + row[digit]
    return total


def g2_times(scalar: Scalar) -> G2Point:
    """G2 * scalar, from a table made at first use (about 30 ms). Five times as fast as by doubling."""
    total = _NO_G2
    for digit, row in zip(reversed(scalar_bytes(scalar)), _g2_table(), strict=True):
        total = total + row[digit]
    return total


_ROWS, _COLUMNS = 6, 43  # 258 bits


def multiples(base: G1Point) -> Callable[[Scalar], G1Point]:
    """base * scalar for a checked base that is multiplied several times: Lim and Lee's comb of six rows.

    The table costs one multiplication, each one after it half of one. As many additions for every scalar.
    """
    table, row, step = [_NO_G1], base, _scalar_of(1 << _COLUMNS)
    for number in range(_ROWS):
        row = row * step if number else row
        table += [known + row for known in table]

    def times(scalar: Scalar) -> G1Point:
        bits, total = format(int.from_bytes(scalar_bytes(scalar), "big"), f"0{_ROWS * _COLUMNS}b"), _NO_G1
        for column in range(_COLUMNS):
            total = total + total
            total = total + table[int(bits[column::_COLUMNS], 2)]
        return total

    return times


def pairing_bytes(g1: G1Point, g2: G2Point) -> bytes:
    """e(g1, g2) as 576 bytes: twelve field elements of 48 bytes, little-endian, in tower order (spec/sharing.md 6)."""
    return need_bytes("pairing value", bytes.fromhex(str(GT.pairing(g1, g2))), GT_SIZE)


def pairings_equal(left: tuple[G1Point, G2Point], *right: tuple[G1Point, G2Point]) -> bool:
    """Whether e(left) equals the product of e(right), by one check of a product of pairings."""
    g1s = [-left[0], *(pair[0] for pair in right)]
    return bool(GT.pairing_check(g1s, [left[1], *(pair[1] for pair in right)]))


def g2_sum(points: Sequence[G2Point]) -> G2Point:
    """Sum of checked points."""
    total = _NO_G2
    for point in points:
        total = total + point
    return total


def g2_combine(points: Sequence[G2Point], scalars: Sequence[Scalar]) -> G2Point:
    """Sum of scalar * point, for points that were already checked. Raises RuntimeError if the lengths differ."""
    if len(points) != len(scalars):
        raise RuntimeError("points and scalars differ in number")
    return G2Point.multiexp_unchecked(list(points), list(scalars))


def g1_combine(points: Sequence[G1Point], scalars: Sequence[Scalar]) -> G1Point:
    """``g2_combine`` in G1."""
    if len(points) != len(scalars):
        raise RuntimeError("points and scalars differ in number")
    return G1Point.multiexp_unchecked(list(points), list(scalars))


def g2_evaluate(coefficients: Sequence[G2Point], x: int) -> G2Point:
    """Horner in the exponent: sum of x^k * coefficient_k, at a small public x (a member index)."""
    at, total = Scalar(x), _NO_G2
    for point in reversed(coefficients):
        total = total * at + point
    return total


def lagrange_at_zero(indexes: Sequence[int]) -> list[Scalar]:
    """Coefficients l_i with f(0) = sum l_i f(i) for every polynomial of degree < len(indexes).

    Raises ThresholdError for repeated indexes and for indexes outside 1..64.
    """
    if len(set(indexes)) != len(indexes) or not all(1 <= i <= MAX_MEMBERS for i in indexes):
        raise BAD_INDEXES(expected=f"distinct indexes in 1..{MAX_MEMBERS}", found=str(list(indexes))[:80])
    result = []
    for i in indexes:
        above, below = Scalar(1), Scalar(1)
        for j in indexes:
            if j != i:
                above, below = above * Scalar(j), below * (Scalar(j) - Scalar(i))
        result.append(above * below.inverse())
    return result


def whole_weights(indexes: Sequence[int]) -> tuple[list[int], Scalar]:
    """``lagrange_at_zero`` without fractions: whole numbers w_i and one scalar d with l_i = d * w_i.

    Small numbers multiply points in a fraction of the time; where all l_i are whole, d is one. Raises ThresholdError as
    ``lagrange_at_zero``.
    """
    weights, d = _whole_weights(tuple(indexes))
    return list(weights), d


@lru_cache(maxsize=256)
def _whole_weights(indexes: tuple[int, ...]) -> tuple[tuple[int, ...], Scalar]:
    lagrange_at_zero(indexes)
    above = [prod(j for j in indexes if j != i) for i in indexes]
    below = [prod(j - i for j in indexes if j != i) for i in indexes]
    whole = lcm(*below)
    weights = [a * (whole // b) for a, b in zip(above, below, strict=True)]
    common = gcd(whole, *weights)
    return tuple(w // common for w in weights), _scalar_of(whole // common).inverse()


def g1_whole_sum(points: Sequence[G1Point], weights: Sequence[int]) -> G1Point:
    """Sum of weight * point for whole numbers of either sign. Points that were not checked give a sum that was not."""
    total = _NO_G1
    for point, weight in zip(points, weights, strict=True):
        part = point * _scalar_of(abs(weight))
        total = total + part if weight > 0 else total - part
    return total


def _scalar_of(value: int) -> Scalar:
    return Scalar.from_be_bytes((value % ORDER).to_bytes(SCALAR_SIZE, "big"))


def _size(data: object) -> str:
    return f"{len(data)} bytes" if isinstance(data, bytes) else type(data).__name__
