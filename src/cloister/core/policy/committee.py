"""Does a committee rest on enough vendors? The seat rule over vendor classes (spec/policy.md 9).

A vendor class names every trust root behind a seat: ``microsoft+amd`` counts for Microsoft and for AMD. The contract
compares whole class names, so it cannot see that ``amd`` and ``microsoft+amd`` share a vendor; this rule can.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Final

from cloister.core.attestation.policy import CommitteeRules
from cloister.core.attestation.roots import VENDORS
from cloister.core.encoding.hexes import need_bytes
from cloister.core.encoding.signatures import MAX_MEMBERS
from cloister.core.errors import PolicyError, define

MAX_NAMES: Final = 4

NOT_DIVERSE = define(
    "policy.committee_vendors",
    PolicyError,
    check="no vendor is behind more seats of the committee than policy allows, and enough vendors are behind them",
    remedy="seat gatekeepers on hardware of other vendors; a cloud's paravisor counts as a vendor of its own",
    status=403,
)


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
