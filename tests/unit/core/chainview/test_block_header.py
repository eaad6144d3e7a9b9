"""Block headers: a real one, its hash, its fields, and every way to be none."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloister.core.chainview.header import Header, require_child, verify_header
from cloister.core.chainview.rlp import encode, from_uint
from cloister.core.encoding.keccak import keccak256
from cloister.core.errors import CloisterError


def fields(**changes: bytes) -> list[bytes]:
    """A header of the Prague form: 21 fields."""
    values = {
        "parent": b"\x11" * 32,
        "uncles": b"\x22" * 32,
        "miner": b"\x33" * 20,
        "state_root": b"\x44" * 32,
        "transactions": b"\x55" * 32,
        "receipts": b"\x66" * 32,
        "bloom": bytes(256),
        "difficulty": b"",
        "number": from_uint(1234),
        "gas_limit": from_uint(60_000_000),
        "gas_used": from_uint(21_000),
        "timestamp": from_uint(1_795_000_000),
        "extra": b"extra",
        "mix": b"\x77" * 32,
        "nonce": bytes(8),
        "base_fee": from_uint(7),
        "withdrawals": b"\x88" * 32,
        "blob_used": b"",
        "blob_excess": b"",
        "beacon": b"\x99" * 32,
        "requests": b"\xaa" * 32,
    }
    return list((values | changes).values())


def verified(parts: Any) -> Header:
    raw = encode(parts)
    return verify_header(raw, keccak256(raw))


def test_the_header_of_ethereums_genesis_block() -> None:
    """Block 0 of Ethereum mainnet hashes to the value that everybody knows."""
    parts = [
        bytes(32),
        bytes.fromhex("1dcc4de8dec75d7aab85b567b6ccd41ad312451b948a7413f0a142fd40d49347"),
        bytes(20),
        bytes.fromhex("d7f8974fb5ac78d9ac099b9ad5018bedc2ce0a72dad1827a1709da30580f0544"),
        bytes.fromhex("56e81f171bcc55a6ff8345e692c0f86e5b48e01b996cadc001622fb5e363b421"),
        bytes.fromhex("56e81f171bcc55a6ff8345e692c0f86e5b48e01b996cadc001622fb5e363b421"),
        bytes(256),
        from_uint(17_179_869_184),
        b"",
        from_uint(5000),
        b"",
        b"",
        bytes.fromhex("11bbe8db4e347b4e8c937c1c8370e4b5ed33adb3db69cbdb7a38e1e50b1b82fa"),
        bytes(32),
        bytes.fromhex("0000000000000042"),
    ]
    known = bytes.fromhex("d4e56740f876aef8c010b86a40d5f56745a118d0906a34e69aec8c0db1cb8fa3")
    header = verify_header(encode(parts), known)
    assert (header.number, header.state_root[:4].hex()) == (0, "d7f8974f")


def test_the_fields_that_we_need() -> None:
    header = verified(fields())
    assert (header.number, header.timestamp) == (1234, 1_795_000_000)
    assert (header.parent, header.state_root) == (b"\x11" * 32, b"\x44" * 32)
    assert header.hash == keccak256(encode(fields()))


@pytest.mark.parametrize("extra", range(4))
def test_later_forks_only_append(extra: int) -> None:
    assert verified([*fields(), *[b"\1" * 32] * extra]).number == 1234


@given(st.integers(min_value=0), st.integers(1, 255))
def test_a_flipped_byte_is_another_hash(place: int, flip: int) -> None:
    raw = encode(fields())
    broken = bytearray(raw)
    broken[place % len(raw)] ^= flip
    with pytest.raises(CloisterError) as caught:
        verify_header(bytes(broken), keccak256(raw))
    assert caught.value.code == "chainview.header"


@given(st.binary(max_size=200))
def test_garbage_is_refused_even_under_its_own_hash(data: bytes) -> None:
    with pytest.raises(CloisterError):
        verify_header(data, keccak256(data))


@pytest.mark.parametrize(
    ("why", "parts"),
    [
        ("too few fields", fields()[:14]),
        ("too many fields", [*fields(), *[b""] * 12]),
        ("a byte string", b"\1" * 500),
        ("a number with a leading zero", fields(number=b"\0\1")),
        ("a number of nine bytes", fields(number=b"\1" * 9)),
        ("a timestamp of nine bytes", fields(timestamp=b"\1" * 9)),
        ("a state root of 31 bytes", fields(state_root=b"\1" * 31)),
        ("a parent of 33 bytes", fields(parent=b"\1" * 33)),
        ("larger than any header", fields(extra=b"\1" * 5000)),
    ],
)
def test_other_shapes(why: str, parts: Any) -> None:
    with pytest.raises(CloisterError):
        verified(parts)
    assert why


def test_a_hash_has_32_bytes() -> None:
    with pytest.raises(CloisterError):
        verify_header(encode(fields()), b"\1" * 31)


PARENT = Header(10, b"\1" * 32, b"\0" * 32, b"\2" * 32, 100)


def test_a_child_follows_its_parent() -> None:
    require_child(PARENT, Header(11, b"\3" * 32, PARENT.hash, b"\4" * 32, 100))


@pytest.mark.parametrize(
    ("why", "child"),
    [
        ("another parent", Header(11, b"\3" * 32, b"\5" * 32, b"\4" * 32, 101)),
        ("a number skipped", Header(12, b"\3" * 32, PARENT.hash, b"\4" * 32, 101)),
        ("the same number", Header(10, b"\3" * 32, PARENT.hash, b"\4" * 32, 101)),
        ("a timestamp before its parent's", Header(11, b"\3" * 32, PARENT.hash, b"\4" * 32, 99)),
    ],
)
def test_no_child(why: str, child: Header) -> None:
    with pytest.raises(CloisterError):
        require_child(PARENT, child)
    assert why


@pytest.mark.parametrize(("count", "good"), [(14, False), (15, True), (32, True), (33, False)])
def test_a_header_has_15_to_32_fields(count: int, good: bool) -> None:
    parts = (fields() + [b"\1"] * 20)[:count]
    if good:
        assert verified(parts).number == 1234
    else:
        with pytest.raises(CloisterError, match="15 to 32 fields"):
            verified(parts)


def test_a_header_of_4096_bytes_is_read_and_one_byte_more_is_not() -> None:
    room = 4096 - len(encode(fields(extra=b"\1" * 1000))) + 1000
    assert len(encode(fields(extra=b"\1" * room))) == 4096
    assert verified(fields(extra=b"\1" * room)).number == 1234
    with pytest.raises(CloisterError, match="at most 4096 bytes"):
        verified(fields(extra=b"\1" * (room + 1)))


@pytest.mark.parametrize("given_hash", [b"", b"\1" * 31, b"\1" * 33, "0x" + "01" * 32, None])
def test_a_block_hash_of_another_form_is_named(given_hash: Any) -> None:
    with pytest.raises(CloisterError, match=r"encoding\.size"):
        verify_header(encode(fields()), given_hash)


@pytest.mark.parametrize("at", [0, 3, 8, 11])
def test_a_list_in_the_place_of_a_field_is_refused(at: int) -> None:
    parts: list[Any] = list(fields())
    parts[at] = [parts[at]]
    with pytest.raises(CloisterError, match=r"chainview\.rlp"):
        verified(parts)


@pytest.mark.parametrize("number", [0, 1, 2**64 - 1])
def test_numbers_up_to_64_bits(number: int) -> None:
    header = verified(fields(number=from_uint(number), timestamp=from_uint(number)))
    assert (header.number, header.timestamp) == (number, number)
