"""The error family: codes survive the wire, nothing hostile gets through the text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloister.core import errors
from cloister.core.errors import CloisterError, EnvelopeError, RemoteError, define, from_wire

SAMPLE = define("test.sample", EnvelopeError, check="a sample holds", remedy="try again", status=409)


def test_a_refusal_names_check_expectation_finding_and_remedy() -> None:
    error = SAMPLE(expected="one", found="two")
    assert (error.code, error.check, error.expected, error.found, error.remedy, error.status) == (
        "test.sample",
        "a sample holds",
        "one",
        "two",
        "try again",
        409,
    )
    assert str(error) == "test.sample: a sample holds: expected one, found two"


def test_the_wire_rebuilds_class_code_and_status() -> None:
    again = from_wire(SAMPLE(expected="one", found="two").to_wire())
    assert type(again) is EnvelopeError
    assert again.to_wire() == SAMPLE(expected="one", found="two").to_wire()
    assert again.status == 409


def test_an_unknown_code_becomes_a_remote_error_with_the_given_status() -> None:
    error = from_wire({"code": "later.thing", "check": "c", "expected": "e", "found": "f", "remedy": "r"}, status=418)
    assert type(error) is RemoteError
    assert (error.code, error.status) == ("later.thing", 418)


@pytest.mark.parametrize("code", ["nodot", "Upper.case", "a..b", "a.b ", ""])
def test_malformed_codes_are_our_mistake(code: str) -> None:
    with pytest.raises(RuntimeError):
        define(code, EnvelopeError, check="c", remedy="r")


def test_duplicate_codes_are_our_mistake() -> None:
    with pytest.raises(RuntimeError, match="twice"):
        define("test.sample", EnvelopeError, check="c", remedy="r")


def test_control_characters_and_length_cannot_reach_a_terminal() -> None:
    error = SAMPLE(expected="x", found="\x1b[31mred\n" + "a" * 5000)
    assert "\x1b" not in error.found
    assert "\n" not in error.found
    assert len(error.found) <= 512


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda c: st.dictionaries(st.text(), c)))
def test_from_wire_never_raises(value: object) -> None:
    assert isinstance(from_wire(value), CloisterError)


def test_every_family_is_drawn_in_the_tree() -> None:
    families = [c.__name__ for c in vars(errors).values() if isinstance(c, type) and issubclass(c, CloisterError)]
    for name in families:
        assert name in (errors.__doc__ or "")
