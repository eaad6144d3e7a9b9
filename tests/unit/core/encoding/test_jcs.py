"""Canonical JSON: one value, one text; everything else is refused."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloister.core.encoding import jcs
from cloister.core.errors import EncodingError

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-jcs.MAX_SAFE, jcs.MAX_SAFE) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)


@given(VALUES)
def test_decode_inverts_encode(value: object) -> None:
    assert jcs.decode(jcs.encode(value)) == value


@given(VALUES)
def test_key_order_does_not_matter(value: object) -> None:
    def turned(v: object) -> object:
        if isinstance(v, dict):
            return {k: turned(v[k]) for k in reversed(list(v))}
        return [turned(i) for i in v] if isinstance(v, list) else v

    assert jcs.encode(turned(value)) == jcs.encode(value)


def test_keys_sort_by_utf16_units_as_rfc_8785_says() -> None:
    # The two orders differ: U+1F600 is D83D DE00 in UTF-16 and sorts before U+FB33, though its code point is higher.
    assert jcs.encode({"\ufb33": 1, "\U0001f600": 2, "\u20ac": 3, "\r": 4, "1": 5, "\u0080": 6, "\u00f6": 7}) == (
        '{"\\r":4,"1":5,"\u0080":6,"ö":7,"€":3,"\U0001f600":2,"\ufb33":1}'.encode()
    )


@pytest.mark.parametrize(
    ("why", "text"),
    [
        ("white space", b'{"a": 1}'),
        ("keys out of order", b'{"b":1,"a":2}'),
        ("a duplicate key", b'{"a":1,"a":1}'),
        ("a fraction", b'{"a":1.5}'),
        ("an exponent", b'{"a":1e3}'),
        ("minus zero", b"-0"),
        ("an integer over 2**53", b"9007199254740992"),
        ("not a number", b"NaN"),
        ("a needless escape", b'"\\u0061"'),
        ("trailing bytes", b"1 "),
        ("a lone surrogate", b'"\\ud800"'),
        ("invalid UTF-8", b'"\xff"'),
        ("nothing", b""),
        ("too deep", b"[" * 40 + b"]" * 40),
        ("very deep", b"[" * 100_000 + b"]" * 100_000),
    ],
)
def test_a_text_with(why: str, text: bytes) -> None:
    with pytest.raises(EncodingError) as caught:
        jcs.decode(text)
    assert caught.value.code == "encoding.not_canonical", why


def test_oversized_input_is_refused_before_parsing() -> None:
    with pytest.raises(EncodingError, match="11 bytes"):
        jcs.decode(b'"' + b"a" * 9 + b'"', max_size=10)


@pytest.mark.parametrize("value", [1.0, b"x", {1: 2}, {"a": {3}}, object(), 2**53])
def test_values_outside_the_subset_are_refused(value: object) -> None:
    with pytest.raises(EncodingError):
        jcs.encode(value)


@given(st.binary(max_size=64))
def test_garbage_is_refused_or_canonical(data: bytes) -> None:
    try:
        value = jcs.decode(data)
    except EncodingError:
        return
    assert jcs.encode(value) == data
    assert json.loads(data) == value
