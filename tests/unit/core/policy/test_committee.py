"""The seat rule over vendors: who could read, who could stop, and who is behind every seat."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloister.core.attestation.policy import Policy, devnet, shipped
from cloister.core.attestation.roots import VENDORS
from cloister.core.errors import EncodingError, PolicyError
from cloister.core.policy.committee import DIVERSE, NOT_DIVERSE, CommitteeRules, require_diverse, vendors_of
from cloister.core.policy.release import vendor_class_id
from support.hardware import roots

ANY = CommitteeRules(min_vendors=1, vendor_may_read=True, vendor_may_stop=True)
NAMES = ("intel", "amd", "aws", "microsoft+amd", "microsoft+intel")


def classes(*names: str) -> list[bytes]:
    return [vendor_class_id(name) for name in names]


def code(names: tuple[str, ...], threshold: int, rules: CommitteeRules = DIVERSE) -> str:
    try:
        require_diverse(classes(*names), threshold, rules)
    except PolicyError as error:
        return error.code
    return ""


GOOD: dict[str, tuple[tuple[str, ...], int]] = {
    "the devnet: two, two and one of five, t = 3": (("intel", "intel", "amd", "amd", "aws"), 3),
    "one of each of three, t = 2": (("intel", "amd", "aws"), 2),
    "a cloud in front of one seat": (("microsoft+intel", "intel", "amd", "amd", "aws"), 3),
    "seven seats of three, t = 4": (("intel", "intel", "amd", "amd", "aws", "aws", "aws"), 4),
}
BAD: dict[str, tuple[tuple[str, ...], int, str]] = {
    "one vendor holds t seats": (("intel", "intel", "intel", "amd", "aws"), 3, "3 of intel"),
    "one vendor holds t seats through a cloud": (
        ("amd", "microsoft+amd", "microsoft+amd", "intel", "aws"), 3, "3 of amd"),
    "a cloud holds t seats over two vendors": (
        ("microsoft+amd", "microsoft+intel", "microsoft+intel", "aws", "amd"), 3, "3 of microsoft"),
    "one vendor can stop": (("intel", "intel", "amd", "aws"), 3, "2 of intel"),
    "two vendors behind every seat": (("intel", "intel", "amd", "amd"), 2, ""),
    "the threshold is above the seats": (("intel", "amd", "aws"), 4, "4 of 3"),
    "the threshold is nought": (("intel", "amd", "aws"), 0, "0 of 3"),
    "there is no seat": ((), 1, "1 of 0"),
    "an unknown vendor": (("intel", "amd", "acme"), 2, "acme"),
    "an empty class": (("intel", "amd", "+"), 2, "+"),
    "a vendor named twice": (("intel", "amd", "aws+aws"), 2, "aws+aws"),
}  # fmt: skip


@pytest.mark.parametrize("case", GOOD)
def test_good_committees(case: str) -> None:
    names, threshold = GOOD[case]
    assert code(names, threshold) == ""


@pytest.mark.parametrize("case", BAD)
def test_refused_committees(case: str) -> None:
    names, threshold, found = BAD[case]
    with pytest.raises(PolicyError) as caught:
        require_diverse(classes(*names), threshold, DIVERSE)
    assert caught.value.code == NOT_DIVERSE.code
    assert found in caught.value.found
    assert caught.value.remedy


def test_each_switch_lifts_its_own_rule() -> None:
    reads, stops = ("intel", "intel", "amd", "aws", "aws"), ("intel", "intel", "amd", "aws")
    assert code(reads, 2, replace(DIVERSE, min_vendors=1)) == NOT_DIVERSE.code
    assert code(reads, 2, replace(DIVERSE, min_vendors=1, vendor_may_read=True)) == ""
    assert code(stops, 3, replace(DIVERSE, min_vendors=1)) == NOT_DIVERSE.code
    assert code(stops, 3, replace(DIVERSE, min_vendors=1, vendor_may_stop=True)) == ""
    for least, expected in ((1, ""), (2, ""), (3, NOT_DIVERSE.code)):
        assert code(("intel", "amd"), 1, replace(ANY, min_vendors=least)) == expected
    assert code(("intel",), 1, ANY) == ""


def test_a_cloud_in_front_is_no_further_vendor() -> None:
    """AMD and Intel together are behind every seat: three names, two vendors."""
    seats = ("amd", "microsoft+amd", "intel", "microsoft+intel")
    assert code(seats, 2, replace(ANY, min_vendors=2)) == ""
    assert code(seats, 2, replace(ANY, min_vendors=3)) == NOT_DIVERSE.code


@given(st.lists(st.sampled_from(NAMES), min_size=1, max_size=9), st.integers(1, 9), st.integers(1, 5))
def test_an_accepted_committee_keeps_every_promise(names: list[str], threshold: int, least: int) -> None:
    rules = CommitteeRules(least, vendor_may_read=False, vendor_may_stop=False)
    seats = [set(name.split("+")) for name in names]
    accepted = code(tuple(names), threshold, rules) == ""
    bound = min(threshold - 1, len(names) - threshold)
    most = max(sum(v in seat for seat in seats) for v in set().union(*seats))
    hit = next(
        size
        for size in range(1, len(VENDORS) + 1)
        if any(all(seat & set(group) for seat in seats) for group in combinations(VENDORS, size))
    )
    assert accepted == (threshold <= len(names) and most <= bound and hit >= least)


@given(st.binary(max_size=40))
def test_any_bytes_are_a_class_or_refused(raw: bytes) -> None:
    try:
        found = vendors_of(raw)
    except (PolicyError, EncodingError):
        return
    assert found <= set(VENDORS)


def test_order_of_seats_does_not_matter() -> None:
    names = ("intel", "intel", "amd", "amd", "aws")
    for turn in range(5):
        assert code(names[turn:] + names[:turn], 3) == ""


def test_shipped_policies_demand_three_vendors() -> None:
    for policy in (shipped("strict"), shipped("cloud"), devnet(roots())):
        assert policy.committee == DIVERSE
        assert Policy.decode(policy.encode()).committee == DIVERSE


@pytest.mark.parametrize(
    "change",
    [
        {"min_vendors": 0},
        {"min_vendors": len(VENDORS) + 1},
        {"min_vendors": True},
        {"min_vendors": 2.0},
        {"vendor_may_read": 1},
        {"vendor_may_stop": None},
        {"more": 1},
    ],
)
def test_committee_rules_are_read_strictly(change: dict[str, object]) -> None:
    value = shipped("strict").to_json()
    with pytest.raises(PolicyError) as caught:
        Policy.from_json(value | {"committee": value["committee"] | change})
    assert caught.value.code == "policy.document"


def test_a_policy_without_committee_rules_is_refused() -> None:
    value = shipped("strict").to_json()
    del value["committee"]
    with pytest.raises(PolicyError):
        Policy.from_json(value)


def test_the_demand_is_part_of_the_hash_on_chain() -> None:
    strict = shipped("strict")
    lax = replace(strict, committee=replace(strict.committee, min_vendors=2))
    assert lax.hash() != strict.hash()
