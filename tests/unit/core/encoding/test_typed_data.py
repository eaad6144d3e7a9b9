"""EIP-191 and EIP-712 digests: the standard's own example, other libraries' words, and hostile typed data."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from eth_abi import encode
from hypothesis import given, settings
from hypothesis import strategies as st

from cloister.core.encoding.keccak import keccak256
from cloister.core.encoding.typed_data import account_digest, message_digest, typed_digest
from cloister.core.errors import CloisterError

# The example of EIP-712 and its known digest.
MAIL: dict[str, Any] = {
    "types": {
        "EIP712Domain": [
            {"name": "name", "type": "string"},
            {"name": "version", "type": "string"},
            {"name": "chainId", "type": "uint256"},
            {"name": "verifyingContract", "type": "address"},
        ],
        "Person": [{"name": "name", "type": "string"}, {"name": "wallet", "type": "address"}],
        "Mail": [
            {"name": "from", "type": "Person"},
            {"name": "to", "type": "Person"},
            {"name": "contents", "type": "string"},
        ],
    },
    "primaryType": "Mail",
    "domain": {
        "name": "Ether Mail",
        "version": "1",
        "chainId": 1,
        "verifyingContract": "0xCcCCccccCCCCcCCCCCCcCcCccCcCCCcCcccccccC",
    },
    "message": {
        "from": {"name": "Cow", "wallet": "0xCD2a3d9F938E13CD947Ec05AbC7FE734Df8DD826"},
        "to": {"name": "Bob", "wallet": "0xbBbBBBBbbBBBbbbBbbBbbbbBBbBbbbbBbBbbBBbB"},
        "contents": "Hello, Bob!",
    },
}


def test_the_standards_example_has_the_standards_digest() -> None:
    assert typed_digest(MAIL).hex() == "be609aee343fb3c4b28e1df9e632fca64fcfaede20f02e86244efddf30957bd2"


def test_the_domains_type_may_be_left_out() -> None:
    shorter = {**MAIL, "types": {name: of for name, of in MAIL["types"].items() if name != "EIP712Domain"}}
    assert typed_digest(shorter) == typed_digest(MAIL)


def test_a_message_is_prefixed_as_wallets_do() -> None:
    """Known answer of "hello" (ethers.hashMessage)."""
    assert message_digest(b"hello").hex() == "50b2c43fd39106bafbba0da34fc430e1f91e3c96ea2acee2bc34119f92b37750"
    assert message_digest("ü".encode()) == keccak256(b"\x19Ethereum Signed Message:\n2\xc3\xbc")


def one(kind: str, value: object, **types: list[dict[str, str]]) -> dict[str, Any]:
    return {
        "domain": {"name": "d"},
        "types": {"One": [{"name": "v", "type": kind}], **types},
        "primaryType": "One",
        "message": {"v": value},
    }


def digest_by_hand(kind: str, word: bytes, rest: str = "") -> bytes:
    domain = keccak256(keccak256(b"EIP712Domain(string name)"), keccak256(b"d"))
    return keccak256(b"\x19\x01", domain, keccak256(keccak256(f"One({kind} v){rest}".encode()), word))


def _signed(bits: int) -> st.SearchStrategy[tuple[str, int]]:
    return st.integers(-(1 << bits - 1), (1 << bits - 1) - 1).map(lambda n: (f"int{bits}", n))


def _unsigned(bits: int) -> st.SearchStrategy[tuple[str, int]]:
    return st.integers(0, (1 << bits) - 1).map(lambda n: (f"uint{bits}", n))


_BITS = st.integers(1, 32).map(lambda n: 8 * n)


@settings(max_examples=80, deadline=None)
@given(_BITS.flatmap(_signed) | _BITS.flatmap(_unsigned), st.booleans())
def test_integers_are_words_as_the_abi_says(case: tuple[str, int], as_text: bool) -> None:
    kind, number = case
    assert typed_digest(one(kind, str(number) if as_text else number)) == digest_by_hand(kind, encode([kind], [number]))


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 32).flatmap(lambda n: st.binary(min_size=n, max_size=n)))
def test_short_bytes_are_words_as_the_abi_says(data: bytes) -> None:
    kind = f"bytes{len(data)}"
    assert typed_digest(one(kind, "0x" + data.hex())) == digest_by_hand(kind, encode([kind], [data]))


def test_arrays_and_long_values_are_hashed() -> None:
    words = keccak256(encode(["uint8"], [1]) + encode(["uint8"], [2]))
    assert typed_digest(one("uint8[]", [1, 2])) == digest_by_hand("uint8[]", words)
    assert typed_digest(one("uint8[2]", [1, 2])) == digest_by_hand("uint8[2]", words)
    assert typed_digest(one("bytes", "0x0102")) == digest_by_hand("bytes", keccak256(b"\x01\x02"))
    assert typed_digest(one("bool", True)) == digest_by_hand("bool", encode(["bool"], [True]))
    nested = keccak256(words, words)
    assert typed_digest(one("uint8[2][]", [[1, 2], [1, 2]])) == digest_by_hand("uint8[2][]", nested)


def test_types_that_a_type_needs_follow_in_alphabetical_order() -> None:
    types = {"B": [{"name": "x", "type": "A[]"}], "A": [{"name": "y", "type": "uint8"}]}
    a = keccak256(keccak256(b"A(uint8 y)"), encode(["uint8"], [7]))
    b = keccak256(keccak256(b"B(A[] x)A(uint8 y)"), keccak256(a))
    assert typed_digest(one("B", {"x": [{"y": 7}]}, **types)) == digest_by_hand("B", b, "A(uint8 y)B(A[] x)")


def deep(levels: int) -> object:
    value: object = None
    for _ in range(levels):
        value = {"next": [value] if value else []}
    return value


LOOP = {"Node": [{"name": "next", "type": "Node[]"}]}
HOSTILE: dict[str, object] = {
    "no object": [],
    "a field too many": {**MAIL, "more": 1},
    "no message": {name: value for name, value in MAIL.items() if name != "message"},
    "an unknown primary type": {**MAIL, "primaryType": "Nothing"},
    "the domain as the message": {**MAIL, "primaryType": "EIP712Domain"},
    "an empty domain": {**MAIL, "domain": {}},
    "an unknown domain field": {**MAIL, "domain": {**MAIL["domain"], "x": 1}},
    "a domain that is not what its type says": {**MAIL, "domain": {"name": "x"}},
    "a member too many": {**MAIL, "message": {**MAIL["message"], "x": 1}},
    "a member too few": {**MAIL, "message": {"contents": "x"}},
    "a number for a text": one("string", 7),
    "a text for a bool": one("bool", "true"),
    "one for a bool": one("bool", 1),
    "true for a number": one("uint8", True),
    "a fraction": one("uint8", 1.5),
    "a number that is too big": one("uint8", 256),
    "a negative unsigned number": one("uint8", -1),
    "a signed number that is too small": one("int8", -129),
    "a number with spaces": one("uint256", " 1"),
    "a number of a thousand digits": one("uint256", "1" * 1000),
    "a width that does not exist": one("uint12", 1),
    "a width of zero": one("uint0", 1),
    "a width with a zero before": one("uint08", 1),
    "bytes33": one("bytes33", "0x" + "00" * 33),
    "a short address": one("address", "0x00"),
    "hex without 0x": one("bytes", "00"),
    "half a byte": one("bytes", "0x0"),
    "bytes of another size": one("bytes4", "0x000000"),
    "an array of another length": one("uint8[3]", [1, 2]),
    "an object for an array": one("uint8[]", {}),
    "a type that nobody defined": one("Ghost", {}),
    "a type with a built-in name": one("uint8", 1, uint8=[{"name": "x", "type": "bool"}]),
    "a type with spaces": one("uint8", 1, **{"A B": []}),
    "a member twice": one("A", {"x": 1}, A=[{"name": "x", "type": "uint8"}, {"name": "x", "type": "uint8"}]),
    "a member with more": {**MAIL, "types": {"Mail": [{"name": "x", "type": "bool", "y": 1}]}},
    "too many types": one("uint8", 1, **{f"T{i}": [] for i in range(40)}),
    "too many members": one("A", {}, A=[{"name": f"x{i}", "type": "bool"} for i in range(70)]),
    "too many values": one("bool[]", [True] * 5000),
    "too deep": one("Node", deep(30), **LOOP),
    "half a surrogate pair": one("string", "\ud800"),
    "a text without end": one("string", "x" * 70_000),
}


@pytest.mark.parametrize("sentence", HOSTILE)
def test_what_is_no_typed_data_is_refused(sentence: str) -> None:
    with pytest.raises(CloisterError) as caught:
        typed_digest(HOSTILE[sentence])
    assert caught.value.code == "encoding.typed_data"


@pytest.mark.parametrize(
    "path", [("types",), ("domain",), ("message", "from"), ("types", "Mail"), ("types", "Mail", 0)]
)
@pytest.mark.parametrize("junk", [None, 7, "x", [], {}, [None], True])
def test_junk_in_any_place_is_refused_by_name(path: tuple[Any, ...], junk: object) -> None:
    typed = copy.deepcopy(MAIL)
    where: Any = typed
    for step in path[:-1]:
        where = where[step]
    where[path[-1]] = junk
    with pytest.raises(CloisterError) as caught:
        typed_digest(typed)
    assert caught.value.code == "encoding.typed_data"


def test_an_accounts_digest_is_of_that_account_and_chain() -> None:
    digests = {
        account_digest(digest, chain, bytes([account]) * 20)
        for digest in (bytes(32), b"\x01" * 32)
        for chain in (1, 2)
        for account in (1, 2)
    }
    assert len(digests) == 8
