"""Partial evaluations: each member answers for itself, anyone may carry, only the asker opens (spec/sharing.md 4).

A partial of member i for identity id and transport key T = g1^x is (g1^r, g2^r, h(id)^{s_i} * T^r): an ElGamal
encryption of h(id)^{s_i} under T that everybody can check against i's share key. t of them combine to h(id)^s.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from py_arkworks_bls12381 import G1Point, Scalar

from cloister.core.encoding.hexes import from_hex, need_bytes, need_fields, need_uint, to_hex
from cloister.core.encoding.terms import term_field, term_of
from cloister.core.errors import CloisterError, ThresholdError, define
from cloister.core.threshold.groups import (
    G1,
    G1_SIZE,
    G2,
    G2_SIZE,
    MAX_MEMBERS,
    Rng,
    draw,
    g1_combine,
    g1_from_bytes,
    g1_on_curve,
    g1_times,
    g1_whole_sum,
    g2_from_bytes,
    g2_times,
    hash_identity,
    multiples,
    need_subgroup,
    pairings_equal,
    public_key,
    random_scalar,
    scalar_bytes,
    scalar_from_bytes,
    to_bytes,
    whole_weights,
)
from cloister.core.threshold.ibe import DerivedKey
from cloister.core.threshold.shares import OTHER_TERM, KeyShare, PublicShares

_NO_G1: Final = G1Point.identity()
MAX_PARTIALS: Final = 4 * MAX_MEMBERS
KEEP_POWERS: Final = 4096

BAD_PARTIAL = define(
    "threshold.bad_partial",
    ThresholdError,
    check="a partial fits the member's share key, the identity and the transport key",
    remedy="do not use this member's answer; report it with the request",
    status=502,
)
TOO_FEW_PARTIALS = define(
    "threshold.too_few_partials",
    ThresholdError,
    check="t members gave partials that verify",
    remedy="ask more gatekeepers; with fewer than t honest ones alive the network refuses on purpose",
    status=503,
)
TOO_MANY_PARTIALS = define(
    "threshold.too_many_partials",
    ThresholdError,
    check=f"a set of partials has at most {MAX_PARTIALS}",
    remedy="send one partial per member",
)
NOT_THE_KEY = define(
    "threshold.not_the_key",
    ThresholdError,
    check="the combined key satisfies e(k, g2) = e(h(id), MPK)",
    remedy="every partial verified alone, so the threshold or the public shares are not this network's",
)


@dataclass(frozen=True, slots=True)
class TransportKey:
    """The asker's one-time key: ``public`` = g1^x (48 bytes), ``private`` = x (32 bytes, hidden from repr)."""

    public: bytes
    private: bytes = field(repr=False)

    @classmethod
    def generate(cls, rng: Rng) -> TransportKey:
        """A fresh key from 48 random bytes."""
        x = random_scalar(rng)
        return cls(to_bytes(g1_times(x)), scalar_bytes(x))


@dataclass(frozen=True, slots=True)
class Partial:
    """Member ``index``'s encrypted answer: e1 = g1^r (48), e2 = g2^r (96), e3 = h^{s_i} * T^r (48 bytes); its term.

    Sizes are checked here (EncodingError), points by those who use it.
    """

    index: int
    e1: bytes
    e2: bytes
    e3: bytes
    term: int = 1

    def __post_init__(self) -> None:
        need_uint("partial index", self.index, 16)
        need_uint("partial term", self.term, 64)
        for name, size in (("e1", G1_SIZE), ("e2", G2_SIZE), ("e3", G1_SIZE)):
            need_bytes(name, getattr(self, name), size)

    def to_json(self) -> dict[str, Any]:
        """JSON-ready fields."""
        body = {"index": self.index, "e1": to_hex(self.e1), "e2": to_hex(self.e2), "e3": to_hex(self.e3)}
        return body | term_field(self.term)

    @classmethod
    def from_json(cls, value: object) -> Partial:
        """Parse ``to_json`` output. Raises EncodingError."""
        term = term_of("partial", value)
        data = need_fields("partial", value, {"index", "e1", "e2", "e3"} | set(term_field(term)))
        return cls(
            need_uint("partial index", data["index"], 16),
            from_hex(data["e1"], G1_SIZE, name="e1"),
            from_hex(data["e2"], G2_SIZE, name="e2"),
            from_hex(data["e3"], G1_SIZE, name="e3"),
            term,
        )


def evaluate(share: KeyShare, identity: bytes, transport_public: bytes, rng: Rng) -> Partial:
    """This member's partial for an identity that the caller built from verified state. Raises ThresholdError.

    ``transport_public``: 48 bytes, bound by the asker's evidence. A fresh r for every call.
    """
    return Evaluator(share).partials([identity], transport_public, rng)[0]


class Masks:
    """One-time masks for one asker: g1^r, g2^r and T^r, with a fresh r for each. They hide whatever comes, so they may
    be made before it is known what that is. A mask is taken once."""

    def __init__(self, transport_public: bytes, rng: Rng, count: int) -> None:
        """``transport_public``: T, 48 bytes. ``count``: how many may be wanted. Raises ThresholdError."""
        transport = g1_from_bytes(transport_public, "transport key")
        self._rng, self._ready = rng, deque[tuple[bytes, bytes, G1Point]]()
        self._times = multiples(transport) if count > 2 else lambda r: transport * r

    def __repr__(self) -> str:
        return f"Masks(ready={len(self._ready)})"

    def prepare(self) -> None:
        """Make one more."""
        r = random_scalar(self._rng)
        self._ready.append((to_bytes(g1_times(r)), to_bytes(g2_times(r)), self._times(r)))

    def take(self) -> tuple[bytes, bytes, G1Point]:
        """The oldest mask, made now if none is ready: (E1, E2, T^r)."""
        if not self._ready:
            self.prepare()
        return self._ready.popleft()


class Evaluator:
    """One share that answers again and again. It keeps h(id)^{s_i} of the identities asked for last: an agent's lasting
    keys are asked for by each of its seats in every period. What is kept is as secret as the share, and goes with it.
    """

    def __init__(self, share: KeyShare, *, keep: int = KEEP_POWERS) -> None:
        """``keep``: of how many identities (about 200 bytes each)."""
        self._share, self._keep = share, keep
        self._powers: OrderedDict[bytes, G1Point] = OrderedDict()

    def __repr__(self) -> str:
        return f"Evaluator(index={self._share.index}, kept={len(self._powers)})"

    def partials(self, identities: Sequence[bytes], transport_public: bytes, rng: Rng) -> list[Partial]:
        """``evaluate`` for each identity, under one transport key that is decoded once; a fresh r for each.

        Raises ThresholdError."""
        return self.masked(identities, Masks(transport_public, rng, len(identities)))

    def masked(self, identities: Sequence[bytes], masks: Masks) -> list[Partial]:
        """``partials`` under masks of the asker's transport key. Raises ThresholdError."""
        found = []
        for identity in identities:
            power = self._power(identity)
            e1, e2, mask = masks.take()
            found.append(Partial(self._share.index, e1, e2, to_bytes(power + mask), self._share.public.term))
        return found

    def _power(self, identity: bytes) -> G1Point:
        power = self._powers.pop(identity, None)
        if power is None:
            power = hash_identity(identity) * scalar_from_bytes(self._share.secret, "share")
        self._powers[identity] = power
        if len(self._powers) > self._keep:
            self._powers.popitem(last=False)
        return power


def verify_partial(partial: Partial, identity: bytes, public: PublicShares, transport_public: bytes) -> None:
    """Raise ThresholdError, naming the member, unless the partial is right. Needs no secret.

    1. it is of the term of ``public``, the member exists and the points are good; 2. e(E1, g2) = e(g1, E2);
    3. e(E3, g2) = e(h, pk_i) * e(T, E2).
    """
    h, transport = hash_identity(identity), g1_from_bytes(transport_public, "transport key")
    require_term(partial, public)  # 1
    try:
        share_key = public_key(public.share_key(partial.index))
        e1, e3 = g1_from_bytes(partial.e1, "e1"), g1_from_bytes(partial.e3, "e3")
        e2 = g2_from_bytes(partial.e2, "e2")
    except CloisterError as error:
        raise BAD_PARTIAL(expected=f"a partial of member {partial.index}", found=f"none: {error.found}") from None
    if not pairings_equal((e1, G2), (G1, e2)):  # 2
        raise BAD_PARTIAL(expected=f"e1 and e2 of member {partial.index} with one r", found="two")
    if not pairings_equal((e3, G2), (h, share_key), (transport, e2)):  # 3
        raise BAD_PARTIAL(expected=f"member {partial.index}'s answer to this question", found="something else")


@dataclass(frozen=True, slots=True)
class Recovered:
    """A derived key that fits MPK, and the indexes of members whose partials were found wrong on the way."""

    key: DerivedKey
    culprits: tuple[int, ...]


def recover(
    partials: Sequence[Partial], threshold: int, public: PublicShares, identity: bytes, transport: TransportKey
) -> DerivedKey:
    """The derived key of an identity from t or more partials. Raises ThresholdError, naming wrong members.

    See ``recover_and_blame``; this drops the list of culprits when t good partials remained.
    """
    return recover_and_blame(partials, threshold, public, identity, transport).key


def recover_and_blame(
    partials: Sequence[Partial], threshold: int, public: PublicShares, identity: bytes, transport: TransportKey
) -> Recovered:
    """``recover``, with the members to report. Raises ThresholdError.

    Partials of another term than that of ``public`` count as wrong ones (R3).
    1. 1 <= t <= n and at least t distinct members; 2. combine the first t, open, check one equation against MPK;
    3. if it fails, check each partial alone and keep the good ones; 4. t good ones combine and check again.
    """
    h = hash_identity(identity)
    distinct = _distinct(partials, public.term)
    if not 1 <= threshold <= len(public.share_keys) or len(distinct) < threshold:  # 1
        raise TOO_FEW_PARTIALS(expected=f"partials of {threshold} members", found=str(len(distinct)))
    key = _try_open(distinct[:threshold], public, h, transport)  # 2
    if key is not None:
        return Recovered(key, ())
    good, culprits = _sort_out(partials, public, identity, transport.public)  # 3
    if len(good) < threshold:
        found = f"{len(good)} good ones; wrong: members {list(culprits)}"
        raise TOO_FEW_PARTIALS(expected=f"good partials of {threshold} members", found=found)
    key = _try_open(good[:threshold], public, h, transport)  # 4
    if key is None:
        raise NOT_THE_KEY(expected="a key that fits MPK", found=f"another, from members {[p.index for p in good]}")
    return Recovered(key, culprits)


@dataclass(frozen=True, slots=True)
class Wanted:
    """A key to recover: its identity, the public shares of its master epoch, and t or more partials."""

    identity: bytes
    public: PublicShares
    partials: Sequence[Partial]


def recover_all(wanted: Sequence[Wanted], threshold: int, transport: TransportKey, rng: Rng) -> list[DerivedKey]:
    """``recover`` for many keys at once: one product of pairings checks them all. Raises ThresholdError as it.

    1. combine and open each from its first t partials; 2. with weights of 128 random bits that no member knew:
    e(sum w_i k_i, g2) = product over MPKs of e(sum w_i h(id_i), MPK). A wrong key passes with odds of 2^-128;
    3. if a point was bad or the check fails, each key alone, which names the members at fault.
    """
    points: list[G1Point] = []
    for one in wanted:
        distinct = _distinct(one.partials, one.public.term)[:threshold]
        point = _opened(distinct, transport) if len(distinct) == threshold else None  # 1
        if point is None:
            break
        points.append(point)
    if len(points) == len(wanted) and _all_fit(wanted, points, rng):  # 2
        return [DerivedKey(to_bytes(point)) for point in points]
    return [recover(one.partials, threshold, one.public, one.identity, transport) for one in wanted]  # 3


def _all_fit(wanted: Sequence[Wanted], points: Sequence[G1Point], rng: Rng) -> bool:
    if not wanted:
        return True
    weights = [Scalar.from_be_bytes_mod_order(draw(rng, 16)) for _ in wanted]
    hashed: dict[bytes, tuple[list[G1Point], list[Scalar]]] = {}
    for one, weight in zip(wanted, weights, strict=True):
        names, by = hashed.setdefault(one.public.mpk, ([], []))
        names.append(hash_identity(one.identity))
        by.append(weight)
    right = [(g1_combine(names, by), public_key(mpk)) for mpk, (names, by) in hashed.items()]
    return pairings_equal((g1_combine(points, weights), G2), *right)


def require_term(partial: Partial, public: PublicShares) -> None:
    """Raise ThresholdError (threshold.other_term) unless the partial is of the term that the share keys are of."""
    if partial.term != public.term:
        found = f"term {partial.term} of member {partial.index}"
        raise OTHER_TERM(expected=f"a partial of term {public.term}", found=found)


def _distinct(partials: Sequence[Partial], term: int) -> list[Partial]:
    if len(partials) > MAX_PARTIALS:
        raise TOO_MANY_PARTIALS(expected=f"at most {MAX_PARTIALS}", found=str(len(partials)))
    first: dict[int, Partial] = {}
    for partial in partials:
        if partial.term == term:
            first.setdefault(partial.index, partial)
    return list(first.values())


def _sort_out(
    partials: Sequence[Partial], public: PublicShares, identity: bytes, transport_public: bytes
) -> tuple[list[Partial], tuple[int, ...]]:
    """The first good partial of each member, and the members that gave none. A forged second one hides no good one."""
    good: dict[int, Partial] = {}
    for partial in partials:
        if partial.index not in good:
            try:
                verify_partial(partial, identity, public, transport_public)
            except CloisterError:
                continue
            good[partial.index] = partial
    return list(good.values()), tuple(sorted({p.index for p in partials} - set(good)))


def _try_open(
    partials: Sequence[Partial], public: PublicShares, h: G1Point, transport: TransportKey
) -> DerivedKey | None:
    """Combine and open: k = sum l_i * (E3_i - x * E1_i). None if a point is bad or k does not fit MPK."""
    point = _opened(partials, transport)
    fits = point is not None and pairings_equal((point, G2), (h, public_key(public.mpk)))
    return DerivedKey(to_bytes(point)) if point is not None and fits else None


def _opened(partials: Sequence[Partial], transport: TransportKey) -> G1Point | None:
    """sum l_i * (E3_i - x * E1_i), with l_i = d * w_i; None if a point is bad or the sum is the identity.

    Only the two sums meet x, so they are checked for the subgroup, not each point: a third of the cost."""
    x = scalar_from_bytes(transport.private, "transport private key")
    try:
        weights, d = whole_weights([p.index for p in partials])
        sealed, mask = (
            need_subgroup(g1_whole_sum([g1_on_curve(getattr(p, name)) for p in partials], weights))
            for name in ("e3", "e1")
        )
    except CloisterError:
        return None
    point = sealed - mask * x if d.is_one() else sealed * d - mask * (d * x)
    return None if point == _NO_G1 else point
