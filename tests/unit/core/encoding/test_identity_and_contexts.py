"""Identities are injective, contexts unique, hex has one spelling."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloister.core.encoding.contexts import Context, digest, frame
from cloister.core.encoding.hexes import from_hex, need_fields, to_hex
from cloister.core.encoding.identity import AgentVersion, Purpose
from cloister.core.encoding.keccak import keccak256, to_checksum
from cloister.core.errors import EncodingError

VERSION = AgentVersion(b"\1" * 32, 1, b"\2" * 32, 3, b"\4" * 32, 5)


def test_contexts_are_unique_and_no_prefix_of_each_other_plus_zero() -> None:
    values = [c.value for c in Context]
    assert len(set(values)) == len(values)
    assert all(v.startswith("cloister/v1/") and "\0" not in v for v in values)


@given(st.lists(st.binary(max_size=9), max_size=4), st.lists(st.binary(max_size=9), max_size=4))
def test_framing_is_injective(one: list[bytes], other: list[bytes]) -> None:
    assert (frame(Context.RECEIPT, *one) == frame(Context.RECEIPT, *other)) == (one == other)


def test_the_context_separates() -> None:
    assert len({digest(c, b"x") for c in Context}) == len(Context)


def test_every_part_of_an_identity_counts() -> None:
    variants = [
        VERSION,
        VERSION.bumped(),
        AgentVersion(b"\x09" * 32, 1, b"\2" * 32, 3, b"\4" * 32, 5),
        AgentVersion(b"\1" * 32, 2, b"\2" * 32, 3, b"\4" * 32, 5),
        AgentVersion(b"\1" * 32, 1, b"\x09" * 32, 3, b"\4" * 32, 5),
        AgentVersion(b"\1" * 32, 1, b"\2" * 32, 4, b"\4" * 32, 5),
        AgentVersion(b"\1" * 32, 1, b"\2" * 32, 3, b"\x09" * 32, 5),
    ]
    keys = [v.key(p) for v, p in itertools.product(variants, Purpose)]
    keys += [v.key(Purpose.CALL, n) for v, n in itertools.product(variants, (1, 2))]
    assert len({bytes(k) for k in keys}) == len(keys)


def test_only_call_keys_have_periods() -> None:
    for purpose in set(Purpose) - {Purpose.CALL}:
        with pytest.raises(EncodingError):
            VERSION.key(purpose, 1)


def test_the_layout_is_the_one_of_the_spec() -> None:
    raw = bytes(VERSION.key(Purpose.CALL, 6))
    assert raw.startswith(b"cloister/v1/key-point\0" + (32).to_bytes(4, "big") + b"\1" * 32)
    assert raw.endswith((1).to_bytes(4, "big") + b"\1" + (8).to_bytes(4, "big") + (6).to_bytes(8, "big"))


@pytest.mark.parametrize("text", ["aa", "0xAA", "0xa", "0x", 5, None, "0xgg", " 0xaa", "0xaa\n"])
def test_hex_has_one_spelling(text: object) -> None:
    with pytest.raises(EncodingError):
        from_hex(text, 1)


@given(st.binary(max_size=40))
def test_hex_round_trip(data: bytes) -> None:
    assert from_hex(to_hex(data)) == data
    assert from_hex(to_hex(data), len(data)) == data


def test_hex_is_capped() -> None:
    with pytest.raises(EncodingError):
        from_hex("0x" + "00" * 11, max_size=10)


@pytest.mark.parametrize("value", [[], None, {"a": 1}, {"a": 1, "b": 2, "c": 3}])
def test_unknown_or_missing_fields_are_refused(value: object) -> None:
    with pytest.raises(EncodingError) as caught:
        need_fields("thing", value, {"a", "b"})
    assert caught.value.code == "encoding.field"


def test_keccak_is_the_ethereum_one() -> None:
    assert keccak256().hex() == "c5d2460186f7233c927e7db2dcc703c0e500b653ca82273b7bfad8045d85a470"


def test_checksum_addresses_of_eip_55() -> None:
    for text in ("0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed", "0xfB6916095ca1df60bB79Ce92cE3Ea74c37c5d359"):
        assert to_checksum(bytes.fromhex(text[2:])) == text
