"""Distributed key generation: Feldman VSS from every member, commit before reveal (spec/sharing.md 1-3).

``deal`` makes one member's dealing, ``verify_dealing`` checks what everybody can check, ``finish`` gives a member its
share and ``replay`` gives an outsider the public result. Nobody ever holds the master secret, and no function here
puts shares together. ``finish`` and ``replay`` want a dealing from everybody; ``finish_over`` and ``replay_over``
work with a qualified set, for any kind of ceremony (spec/gatekeepers.md G9-G11, R2).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from py_arkworks_bls12381 import G2Point, Scalar

from cloister.core.errors import CloisterError, ThresholdError, define
from cloister.core.threshold.dealing import (
    BAD_SHARE,
    Ceremony,
    Dealing,
    Dealt,
    Member,
    check_digest,
    commitments_of,
    make_dealing,
    open_share,
    own_key,
    require_fit,
    transcript_of,
)
from cloister.core.threshold.groups import (
    Rng,
    g2_combine,
    g2_evaluate,
    g2_sum,
    g2_times,
    scalar_bytes,
    scalar_from_bytes,
    to_bytes,
)
from cloister.core.threshold.shares import KeyShare, PublicShares

__all__ = [
    "Ceremony",
    "Dealing",
    "Dealt",
    "KeyShare",
    "Member",
    "PublicShares",
    "check_digest",
    "deal",
    "deal_kept",
    "finish",
    "finish_over",
    "own_key",
    "replay",
    "replay_over",
    "verify_dealing",
]

DEALINGS_MISSING = define(
    "threshold.dealings_missing",
    ThresholdError,
    check="there is one dealing and one committed digest for every member, and for nobody else",
    remedy="wait for the members named, or abort at the deadline",
)
TOO_FEW_QUALIFIED = define(
    "threshold.too_few_qualified",
    ThresholdError,
    check="at least t dealers are qualified (G9; in a resharing the t of the old committee)",
    remedy="the ceremony failed and changed nothing; replace the dealers that dropped out and start again",
    status=503,
)
DEGENERATE = define(
    "threshold.degenerate",
    ThresholdError,
    check="the master key and every share key differ from the identity",
    remedy="abort: honest dealings give this with negligible chance",
)


def deal(ceremony: Ceremony, index: int, rng: Rng) -> Dealing:
    """A fresh dealing of member ``index``. The polynomial lives and dies in this call. Raises ThresholdError.

    A transport key that cannot be used stops it: in the founding ceremony every member counts.
    """
    ceremony.member(index)
    return make_dealing(ceremony, index, rng).dealing


def deal_kept(ceremony: Ceremony, index: int, rng: Rng) -> Dealt:
    """``deal``, with the polynomial to keep for public openings. An unusable transport key stops nothing (G2)."""
    ceremony.member(index)
    return make_dealing(ceremony, index, rng, strict=False)


def verify_dealing(ceremony: Ceremony, dealing: Dealing) -> None:
    """Check what everybody can check. Raises ThresholdError.

    1. dealer, t and n fit the ceremony; 2. every commitment is a good point; 3. in a resharing the first is the
    dealer's share key; 4. the proof of possession holds. Sealed shares are checked by their receivers.
    """
    commitments_of(ceremony, dealing)


def finish(
    ceremony: Ceremony,
    dealings: Mapping[int, Dealing],
    committed: Mapping[int, bytes],
    my_index: int,
    dkg_private: bytes,
) -> KeyShare:
    """Member ``my_index``'s share when everybody dealt. Raises ThresholdError, with the dealer named.

    1. a dealing and a digest from every member, and from nobody else; then as ``finish_over``.
    """
    own_key(ceremony, my_index, dkg_private)
    _all_present(ceremony, dealings, committed)  # 1
    return finish_over(ceremony, dealings, committed, {}, my_index, dkg_private)


def replay(ceremony: Ceremony, dealings: Mapping[int, Dealing], committed: Mapping[int, bytes]) -> PublicShares:
    """The public result when everybody dealt, from public data alone. Raises ThresholdError.

    ``committed`` are the digests that were on chain before the reveal.
    1. a dealing and a digest from every member, and from nobody else; then as ``replay_over``.
    """
    _all_present(ceremony, dealings, committed)  # 1
    return replay_over(ceremony, dealings, committed)


def replay_over(ceremony: Ceremony, dealings: Mapping[int, Dealing], committed: Mapping[int, bytes]) -> PublicShares:
    """MPK, share keys, transcript and term over the qualified dealers: those in ``dealings``. Raises ThresholdError.

    1. enough dealers, each with its digest; 2. each dealing has its digest; 3. each dealing verifies; 4. the joint
    commitments, weighted (resharing: Lagrange at 0 over all of them, R2); 5. no key is the identity; 6. the master key
    is one that the ceremony may end in (resharing: the old one).
    """
    qualified = sorted(dealings)
    if len(qualified) < ceremony.quorum:  # 1
        raise TOO_FEW_QUALIFIED(expected=f"at least {ceremony.quorum} dealers", found=str(qualified))
    if sorted(committed) != qualified:
        raise DEALINGS_MISSING(expected=f"digests of dealers {qualified}", found=f"of {sorted(committed)}")
    for index in qualified:  # 2
        check_digest(ceremony, index, dealings[index], committed[index])
    rows = [commitments_of(ceremony, dealings[index]) for index in qualified]  # 3
    joint = _joint(rows, ceremony.weights(qualified))  # 4
    keys = [g2_evaluate(joint, member.index) for member in ceremony.members]
    try:
        mpk, share_keys = to_bytes(joint[0]), tuple(to_bytes(key) for key in keys)  # 5
    except CloisterError:
        raise DEGENERATE(expected="keys other than the identity", found="the identity") from None
    ceremony.check_mpk(mpk)  # 6
    return PublicShares(mpk, share_keys, transcript_of(ceremony, committed), ceremony.term)


def finish_over(
    ceremony: Ceremony,
    dealings: Mapping[int, Dealing],
    committed: Mapping[int, bytes],
    opened: Mapping[int, bytes],
    my_index: int,
    dkg_private: bytes,
) -> KeyShare:
    """Receiver ``my_index``'s share over the qualified dealers. Raises ThresholdError, with the dealer named.

    ``opened``: what dealers opened to us in public (32 bytes each), by dealer; it counts instead of the sealed share.
    1. our private key (X25519, 32 bytes) is the half of our registered key; 2. as ``replay_over``; 3. every share for
    us opens, or was opened; 4. the weighted sum fits our share key; if not, the dealers whose shares do not are named.
    """
    private = own_key(ceremony, my_index, dkg_private)  # 1
    public = replay_over(ceremony, dealings, committed)  # 2
    qualified = sorted(dealings)
    received = {  # 3
        dealer: scalar_from_bytes(opened[dealer], f"the share that dealer {dealer} opened")
        if dealer in opened
        else open_share(ceremony, dealings[dealer], my_index, private)
        for dealer in qualified
    }
    weights = ceremony.weights(qualified) or [Scalar(1)] * len(qualified)
    total = Scalar(0)
    for value, weight in zip(received.values(), weights, strict=True):
        total = total + value * weight
    if total.is_zero() or to_bytes(g2_times(total)) != public.share_key(my_index):  # 4
        _name_dealers(ceremony, dealings, my_index, received)
    return KeyShare(my_index, scalar_bytes(total), public)


def _joint(rows: Sequence[Sequence[G2Point]], weights: Sequence[Scalar] | None) -> list[G2Point]:
    columns = [[row[k] for row in rows] for k in range(len(rows[0]))]
    return [g2_sum(column) if weights is None else g2_combine(column, weights) for column in columns]


def _all_present(ceremony: Ceremony, dealings: Mapping[int, Dealing], committed: Mapping[int, bytes]) -> None:
    wanted = set(range(1, ceremony.dealers + 1))
    for name, given in (("dealings", dealings), ("digests", committed)):
        missing, strange = sorted(wanted - set(given)), sorted(set(given) - wanted)
        if missing or strange:
            raise DEALINGS_MISSING(
                expected=f"{name} of members 1..{len(wanted)}", found=f"missing {missing}, strangers {strange}"
            )


def _name_dealers(ceremony: Ceremony, dealings: Mapping[int, Dealing], me: int, received: Mapping[int, Scalar]) -> None:
    bad = []
    for dealer, value in received.items():
        try:
            require_fit(ceremony, dealings[dealer], me, value)
        except CloisterError:
            bad.append(dealer)
    raise BAD_SHARE(expected="shares that fit the commitments", found=f"wrong shares from dealers {bad}")
