"""Does a committee rest on enough vendors? The seat rule over vendor classes (spec/policy.md 9).

A vendor class names every trust root behind a seat: ``microsoft+amd`` counts for Microsoft and for AMD. The contract
compares whole class names, so it cannot see that ``amd`` and ``microsoft+amd`` share a vendor; this rule can.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import combinations
from typing import Final, Self

from cloister.core.encoding.hexes import need_bytes
from cloister.core.encoding.signatures import MAX_MEMBERS
from cloister.core.errors import PolicyError, define

VENDORS: Final = ("amd", "aws", "intel", "microsoft", "nvidia", "nvidia-rim", "tpm")
MAX_NAMES: Final = 4

BAD_POLICY = define(
    "policy.document",
    PolicyError,
    check="a policy has exactly the fields of its schema, each within its range",
    remedy="compare the policy with core/attestation/policies/schema.json",
)
NOT_DIVERSE = define(
    "policy.committee_vendors",
    PolicyError,
    check="no vendor is behind more seats of the committee than policy allows, and enough vendors are behind them",
    remedy="seat gatekeepers on hardware of other vendors; a cloud's paravisor counts as a vendor of its own",
    status=403,
)


@dataclass(frozen=True, slots=True)
class CommitteeRules:
    """How many vendors a committee must rest on: the field ``committee`` of a policy.

    min_vendors: no fewer vendors than this are, together, behind every seat. vendor_may_read: one vendor may be behind
    as many seats as the threshold. vendor_may_stop: one vendor may be behind more than n - threshold seats.
    """

    min_vendors: int
    vendor_may_read: bool
    vendor_may_stop: bool

    def __post_init__(self) -> None:
        least = self.min_vendors
        if not isinstance(least, int) or isinstance(least, bool) or not 1 <= least <= len(VENDORS):
            raise BAD_POLICY(expected=f"committee.min_vendors: 1 to {len(VENDORS)}", found=repr(least)[:80])
        for flag in (self.vendor_may_read, self.vendor_may_stop):
            if not isinstance(flag, bool):
                raise BAD_POLICY(expected="committee.vendor_may_...: true or false", found=repr(flag)[:80])

    @classmethod
    def from_json(cls, value: object) -> Self:
        """From the policy's JSON. Raises PolicyError (policy.document)."""
        names = {f.name for f in fields(cls)}
        if not isinstance(value, dict) or set(value) != names:
            found = str(sorted(map(str, value)) if isinstance(value, dict) else type(value).__name__)
            raise BAD_POLICY(expected=f"committee: fields {sorted(names)}", found=found[:80])
        return cls(**value)


DIVERSE: Final = CommitteeRules(min_vendors=3, vendor_may_read=False, vendor_may_stop=False)


def vendors_of(vendor_class: bytes) -> frozenset[str]:
    """The vendors behind a seat: a class of 32 bytes, ASCII names joined by "+", zero-padded (``vendor_class_id``).

    Raises PolicyError (policy.committee_vendors) for a name that no trust root has.
    """
    text = need_bytes("vendor class", vendor_class, 32).rstrip(b"\0").decode("ascii", "replace")
    names = text.split("+")
    if not set(names) <= set(VENDORS) or len(set(names)) != len(names) or len(names) > MAX_NAMES:
        raise NOT_DIVERSE(expected=f"vendors of {', '.join(VENDORS)}", found=repr(text)[:48])
    return frozenset(names)


def require_diverse(classes: Sequence[bytes], threshold: int, rules: CommitteeRules) -> None:
    """Raise PolicyError (policy.committee_vendors) unless these seats rest on enough vendors.

    Args: classes (the 32-byte vendor class of each seat, verified or proven), threshold (t of n).
    1. there are seats, and t of them; 2. no vendor holds t seats: it could read; 3. no vendor holds more than n - t:
    it could stop; 4. no few vendors are behind every seat.
    """
    total = len(classes)
    if not 0 < threshold <= total <= MAX_MEMBERS:  # 1
        raise NOT_DIVERSE(
            expected=f"1 to {MAX_MEMBERS} seats, and a threshold among them", found=f"{threshold} of {total}"
        )
    seats = [vendors_of(one) for one in classes]
    held = {vendor: sum(vendor in seat for seat in seats) for seat in seats for vendor in sorted(seat)}
    for vendor, count in sorted(held.items()):
        if count >= threshold and not rules.vendor_may_read:  # 2
            raise NOT_DIVERSE(expected=f"at most {threshold - 1} seats of one vendor", found=f"{count} of {vendor}")
        if count > total - threshold and not rules.vendor_may_stop:  # 3
            raise NOT_DIVERSE(expected=f"at most {total - threshold} seats of one vendor", found=f"{count} of {vendor}")
    for few in range(1, rules.min_vendors):  # 4
        for group in combinations(sorted(held), min(few, len(held))):
            if all(seat & set(group) for seat in seats):
                raise NOT_DIVERSE(
                    expected=f"at least {rules.min_vendors} vendors", found=f"{' and '.join(group)} behind every seat"
                )
