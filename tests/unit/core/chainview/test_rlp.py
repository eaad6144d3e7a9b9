"""Strict RLP against the `rlp` package, and every spelling that must be refused."""

from __future__ import annotations

from typing import Any

import pytest
import rlp as oracle
from hypothesis import given
from hypothesis import strategies as st

from cloister.core.chainview import rlp
from cloister.core.errors import ChainViewError

ITEMS = st.recursive(st.binary(max_size=80), lambda inner: st.lists(inner, max_size=6), max_leaves=12)


def depth(item: Any) -> int:
    return 0 if isinstance(item, bytes) else 1 + max((depth(part) for part in item), default=0)


@given(ITEMS)
def test_encoding_agrees_with_the_rlp_package(item: Any) -> None:
    assert rlp.encode(item) == oracle.encode(item)


@given(ITEMS.filter(lambda item: depth(item) <= rlp.MAX_DEPTH))
def test_what_is_encoded_decodes_to_itself(item: Any) -> None:
    assert rlp.decode(rlp.encode(item)) == item


@given(st.binary(max_size=64))
def test_garbage_decodes_only_if_it_is_canonical(data: bytes) -> None:
    try:
        item = rlp.decode(data)
    except ChainViewError:
        return
    assert rlp.encode(item) == data


@given(ITEMS.filter(lambda item: depth(item) <= rlp.MAX_DEPTH), st.integers(min_value=0), st.integers(1, 255))
def test_a_flipped_byte_never_yields_the_same_item(item: Any, place: int, flip: int) -> None:
    data = bytearray(rlp.encode(item))
    data[place % len(data)] ^= flip
    try:
        assert rlp.decode(bytes(data)) != item
    except ChainViewError:
        return


@pytest.mark.parametrize(
    ("why", "data"),
    [
        ("nothing at all", ""),
        ("bytes after the item", "8080"),
        ("a small byte spelled with a length", "8101"),
        ("a short string spelled with a long length", "b80161"),
        ("a length with a leading zero", "b90038" + "61" * 56),
        ("a length below 56 in the long form", "b837" + "61" * 55),
        ("a string that ends early", "8361"),
        ("a length that ends early", "b9ff"),
        ("a list that ends early", "c26161ff"),
        ("a list whose last part runs over its end", "c18261"),
        ("a length of eight bytes over all memory", "bfffffffffffffffff"),
        ("lists nested too deep", "c5c4c3c2c1c0"),
    ],
)
def test_refused_spellings(why: str, data: str) -> None:
    with pytest.raises(ChainViewError) as caught:
        rlp.decode(bytes.fromhex(data))
    assert caught.value.code == "chainview.rlp", why


def test_the_size_cap_holds_before_any_work() -> None:
    with pytest.raises(ChainViewError):
        rlp.decode(b"\x80" * 11, max_size=10)


@given(st.integers(0, 2**256 - 1))
def test_numbers_survive(value: int) -> None:
    assert rlp.uint(rlp.from_uint(value), "value") == value


@pytest.mark.parametrize(
    ("why", "item"), [("a leading zero", b"\0\1"), ("zero as a byte", b"\0"), ("too long", b"\1" * 33), ("a list", [])]
)
def test_numbers_in_other_forms(why: str, item: Any) -> None:
    with pytest.raises(ChainViewError):
        rlp.uint(item, why)


@pytest.mark.parametrize("item", [b"\1" * 31, b"\1" * 33, [], [b"\1" * 32]])
def test_fixed_strings_of_another_size(item: Any) -> None:
    with pytest.raises(ChainViewError):
        rlp.fixed(item, "hash", 32)


def test_depth_and_size_at_their_caps() -> None:
    nested: Any = b""
    for _ in range(rlp.MAX_DEPTH):
        nested = [nested]
    assert rlp.decode(rlp.encode(nested)) == nested
    with pytest.raises(ChainViewError, match="depth"):
        rlp.decode(rlp.encode([nested]))
    assert rlp.decode(b"\x8a" + b"\x80" * 10, max_size=11) == b"\x80" * 10
    with pytest.raises(ChainViewError, match="at most 11 bytes"):
        rlp.decode(b"\x8b" + b"\x80" * 11, max_size=11)
    assert rlp.MAX_SIZE == 1 << 16


@pytest.mark.parametrize("size", [0, 1, 55, 56, 255, 256, 65535 - 3])
def test_lengths_where_the_form_changes(size: int) -> None:
    for item in (b"\xaa" * size, [b"\x01"] * size):
        data = rlp.encode(item)
        assert data == oracle.encode(item)
        assert rlp.decode(data) == item


@pytest.mark.parametrize(
    ("why", "data"),
    [
        ("a list in the long form below 56", "f837" + "61" * 55),
        ("a list length with a leading zero", "f90038" + "61" * 56),
        ("a long list whose length ends early", "f9ff"),
        ("a long list that ends early", "f838" + "61" * 55),
        ("a zero byte with a length", "8100"),
        ("the largest small byte with a length", "817f"),
        ("a part of a list with a length too long", "c3820000ff"),
    ],
)
def test_more_refused_spellings(why: str, data: str) -> None:
    with pytest.raises(ChainViewError) as caught:
        rlp.decode(bytes.fromhex(data))
    assert caught.value.code == "chainview.rlp", why


def test_the_smallest_byte_that_needs_a_length() -> None:
    assert rlp.decode(b"\x81\x80") == b"\x80"
    assert rlp.decode(b"\x7f") == b"\x7f"


@pytest.mark.parametrize("size", [1, 8, 32])
def test_numbers_are_as_long_as_their_field(size: int) -> None:
    assert rlp.uint(b"\xff" * size, "n", size) == 256**size - 1
    with pytest.raises(ChainViewError):
        rlp.uint(b"\xff" * (size + 1), "n", size)
    assert rlp.uint(b"", "n", size) == 0
