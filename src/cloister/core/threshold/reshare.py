"""Resharing: the committee in office deals its key to another one; the master key stays (spec/gatekeepers.md R1-R3).

Dealer i of the old committee deals a polynomial g_i of degree t' - 1 with g_i(0) = its share. The new share of
receiver j is the sum of l_i * g_i(j) over the qualified dealers, l_i Lagrange at 0 over all of them. Any t or more
qualified dealers give the same master key, so the same derived keys; the shares are new, and of a new term.

Sources: Desmedt, Jajodia, Redistributing secret shares (1997); Herzberg et al., Proactive secret sharing (1995).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from py_arkworks_bls12381 import Scalar

from cloister.core.encoding.contexts import Context, digest
from cloister.core.encoding.hexes import need_bytes, need_uint, to_hex
from cloister.core.errors import ThresholdError, define
from cloister.core.threshold.dealing import BAD_CEREMONY, Ceremony, Dealt, make_dealing
from cloister.core.threshold.groups import Rng, lagrange_at_zero, scalar_from_bytes
from cloister.core.threshold.shares import OTHER_TERM, KeyShare, PublicShares

MASTER_KEY_CHANGED = define(
    "threshold.master_key_changed",
    ThresholdError,
    check="a resharing ends in the master key that it began with (R2)",
    remedy="do not confirm; the share keys of the term in office that this member holds are not the real ones",
)
NOT_THE_DEALER = define(
    "threshold.not_the_dealer",
    ThresholdError,
    check="a dealer deals the share of its own seat, of the term that the resharing starts from (R1, R3)",
    remedy="deal with the share of the term in office, under the index that it belongs to",
    status=409,
)


@dataclass(frozen=True, slots=True)
class Resharing(Ceremony):
    """A ceremony whose dealers are another committee: that of ``old``, with its threshold and its members' addresses.

    ``threshold`` and ``members`` are the new committee's, ``term`` is the new term: one more than the old.
    Raises ThresholdError.
    """

    old: PublicShares = field(kw_only=True)
    old_threshold: int = field(kw_only=True)
    old_members: tuple[bytes, ...] = field(kw_only=True)

    def _check(self) -> None:
        Ceremony._check(self)
        n = len(self.old.share_keys)
        if not 1 <= need_uint("old threshold", self.old_threshold, 16) <= n or len(set(self.old_members)) != n:
            found = f"t = {self.old_threshold}, {len(self.old_members)} members, {n} share keys"
            raise BAD_CEREMONY(expected="an old threshold and distinct members that fit the share keys", found=found)
        for member in self.old_members:
            need_bytes("old member", member, 20)
        if self.term != self.old.term + 1:
            raise OTHER_TERM(expected=f"term {self.old.term + 1} after {self.old.term}", found=f"term {self.term}")

    @property
    def dealers(self) -> int:
        """How many dealers there are: the old committee's members."""
        return len(self.old.share_keys)

    @property
    def quorum(self) -> int:
        """How many dealers must be qualified: the old t."""
        return self.old_threshold

    def _bound(self) -> bytes:
        """Over id, terms, both thresholds, the old share keys and members, the new members."""
        u16 = [number.to_bytes(2, "big") for number in (self.old_threshold, self.threshold)]
        dealers = [
            index.to_bytes(2, "big") + address + key
            for index, (address, key) in enumerate(zip(self.old_members, self.old.share_keys, strict=True), 1)
        ]
        receivers = [m.index.to_bytes(2, "big") + m.address + m.dkg_key for m in self.members]
        term, count = self.term.to_bytes(8, "big"), len(dealers).to_bytes(2, "big")
        return digest(
            Context.DKG_RESHARING, self.id, term, *u16, self.old.mpk, self.old.transcript, count, *dealers, *receivers
        )

    def constant(self, dealer: int) -> bytes | None:
        """The dealer's share key of the old term: it deals this secret and no other (R1)."""
        return self.old.share_key(dealer)

    def weights(self, qualified: Sequence[int]) -> list[Scalar] | None:
        """Lagrange at 0 over all qualified dealers (R2)."""
        return lagrange_at_zero(qualified)

    def check_mpk(self, mpk: bytes) -> None:
        """Raise ThresholdError unless it is the old one (R2)."""
        if mpk != self.old.mpk:
            raise MASTER_KEY_CHANGED(expected=f"master key {to_hex(self.old.mpk)[:18]}…", found=to_hex(mpk)[:18] + "…")


def deal_again(resharing: Resharing, share: KeyShare, rng: Rng) -> Dealt:
    """Old member ``share.index``'s dealing of its share, with the polynomial to keep. Raises ThresholdError.

    1. the share is of the old committee: term, master key, share keys; 2. it fits its share key; 3. deal.
    """
    if share.public.term != resharing.old.term:  # 1
        raise OTHER_TERM(expected=f"a share of term {resharing.old.term}", found=f"of term {share.public.term}")
    if share.public != resharing.old:
        raise NOT_THE_DEALER(expected="a share of the committee in office", found="of another ceremony")
    share.verify()  # 2
    return make_dealing(resharing, share.index, rng, first=scalar_from_bytes(share.secret, "share"), strict=False)  # 3
