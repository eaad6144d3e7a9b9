"""When a member may give its word for a candidate (spec/gatekeepers.md E9)."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloister.core.chainview.founding import CandidateRecord
from cloister.core.encoding.handover import CandidateAdmission
from cloister.core.encoding.keccak import keccak256
from cloister.core.errors import CloisterError
from cloister.core.policy.candidates import ADMISSION_BLOCKS, admission_of, may_admit

RECORD = CandidateRecord(b"\1" * 20, b"\2" * 20, b"amd".ljust(32, b"\0"), b"\3" * 32, b"\4" * 32, "http://one.example")
SITTING = (b"\x0a" * 20, b"\x0b" * 20)
NUMBER, TERM = 5000, 4
GOOD = admission_of(RECORD, TERM, NUMBER + 100)


def refused(asked: CandidateAdmission, record: CandidateRecord | None = RECORD, number: int = NUMBER) -> str:
    """The code of the refusal; "" for none."""
    try:
        may_admit(asked, record, SITTING, TERM, number)
    except CloisterError as error:
        return error.code
    return ""


def test_what_stands_on_chain_is_what_is_signed() -> None:
    assert refused(GOOD) == ""
    assert GOOD.endpoint == keccak256(b"http://one.example")
    assert (GOOD.member, GOOD.operator, GOOD.dkg_key) == (RECORD.member, RECORD.operator, RECORD.dkg_key)


@pytest.mark.parametrize("name", [f.name for f in fields(CandidateAdmission)])
def test_no_field_may_differ(name: str) -> None:
    value = getattr(GOOD, name)
    other = value + ADMISSION_BLOCKS + 1 if isinstance(value, int) else bytes([value[0] ^ 1]) + value[1:]
    assert refused(replace(GOOD, **{name: other})).startswith("policy.candidate")


def test_nobody_and_who_sits_are_not_admitted() -> None:
    assert refused(GOOD, None) == "policy.candidate"
    sits = replace(RECORD, member=SITTING[0])
    assert refused(admission_of(sits, TERM, NUMBER + 1), sits) == "policy.candidate"
    assert refused(GOOD, replace(RECORD, member=b"\7" * 20)) == "policy.candidate"


@given(st.integers(0, 1 << 40), st.integers(0, 1 << 40))
def test_an_admission_ends_after_the_newest_block_and_soon(number: int, expiry: int) -> None:
    outcome = refused(admission_of(RECORD, TERM, expiry), number=number)
    assert outcome == ("" if number < expiry <= number + ADMISSION_BLOCKS else "policy.candidate_expiry")


@given(st.text(max_size=40), st.text(max_size=40))
def test_another_endpoint_is_another_statement(one: str, two: str) -> None:
    first, second = (admission_of(replace(RECORD, endpoint=url), TERM, NUMBER + 1) for url in (one, two))
    assert (first == second) == (one == two)
