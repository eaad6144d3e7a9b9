"""Trie proofs against the `trie` package: every proof it makes passes, nothing else does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import rlp as oracle
from hypothesis import given, settings
from hypothesis import strategies as st
from trie.hexary import HexaryTrie

from cloister.core.chainview.proofs import (
    EMPTY_CODE,
    EMPTY_ROOT,
    MAX_NODES,
    Account,
    verify_account,
    verify_slot,
    verify_trie,
)
from cloister.core.encoding.keccak import keccak256
from cloister.core.errors import CloisterError

# Keys with long common beginnings make extensions, deep branches and nodes inside nodes.
NEAR_KEYS = st.builds(
    lambda head, at, tail: (bytes([head]) * 32)[:at] + tail[: 32 - at],
    st.sampled_from([0x00, 0x11, 0xF0]),
    st.integers(0, 31),
    st.binary(min_size=32, max_size=32),
)
KEYS = st.one_of(NEAR_KEYS, st.binary(min_size=32, max_size=32))
TRIES = st.dictionaries(KEYS, st.binary(min_size=1, max_size=70), min_size=1, max_size=24)


def build(items: dict[bytes, bytes]) -> Any:
    trie = HexaryTrie({})
    for key, value in items.items():
        trie[key] = value
    return trie


def proof_of(trie: Any, key: bytes) -> list[bytes]:
    """The proof as a node serves it: nodes that stand inside their parents are not listed."""
    raw = [oracle.encode(node) for node in trie.get_proof(key)]
    return [n for i, n in enumerate(raw) if i == 0 or len(n) >= 32]


@given(TRIES, KEYS)
def test_presence_and_absence_as_the_trie_package_proves_them(items: dict[bytes, bytes], other: bytes) -> None:
    trie = build(items)
    for key in [*items, other]:
        assert verify_trie(trie.root_hash, key, proof_of(trie, key)) == items.get(key)


@settings(max_examples=60)
@given(TRIES, st.data())
def test_a_flipped_byte_anywhere_is_refused(items: dict[bytes, bytes], data: st.DataObject) -> None:
    trie, key = build(items), data.draw(st.sampled_from(sorted(items)))
    proof = proof_of(trie, key)
    at = data.draw(st.integers(0, len(proof) - 1))
    node = bytearray(proof[at])
    node[data.draw(st.integers(0, len(node) - 1))] ^= data.draw(st.integers(1, 255))
    with pytest.raises(CloisterError):
        verify_trie(trie.root_hash, key, [*proof[:at], bytes(node), *proof[at + 1 :]])


def drop_first(p: list[bytes]) -> list[bytes]:
    return p[1:]


def drop_last(p: list[bytes]) -> list[bytes]:
    return p[:-1]


def repeat_last(p: list[bytes]) -> list[bytes]:
    return [*p, p[-1]]


def append_empty(p: list[bytes]) -> list[bytes]:
    return [*p, b"\x80"]


def reverse(p: list[bytes]) -> list[bytes]:
    return p[::-1] if len(p) > 1 else []


def swap_types(p: list[Any]) -> list[Any]:
    return [*p[:-1], p[-1].hex()]


@settings(max_examples=30)
@given(TRIES, st.data())
@pytest.mark.parametrize("change", [drop_first, drop_last, repeat_last, append_empty, reverse, swap_types])
def test_a_proof_with_other_nodes_is_refused(
    change: Callable[[list[bytes]], list[bytes]], items: dict[bytes, bytes], data: st.DataObject
) -> None:
    trie, key = build(items), data.draw(st.sampled_from(sorted(items)))
    with pytest.raises(CloisterError):
        verify_trie(trie.root_hash, key, change(proof_of(trie, key)))


@settings(max_examples=60)
@given(TRIES, st.data())
def test_a_proof_for_one_key_says_nothing_false_about_another(items: dict[bytes, bytes], data: st.DataObject) -> None:
    """Whatever proof is shown for whatever key: an accepted answer is the true one."""
    trie = build(items)
    keys = st.one_of(st.sampled_from(sorted(items)), KEYS)
    shown, asked = data.draw(keys), data.draw(keys)
    try:
        assert verify_trie(trie.root_hash, asked, proof_of(trie, shown)) == items.get(asked)
    except CloisterError:
        assert shown != asked


def test_the_empty_trie() -> None:
    key = keccak256(b"key")
    assert verify_trie(EMPTY_ROOT, key, []) is None
    assert verify_trie(EMPTY_ROOT, key, [b"\x80"]) is None
    for nodes in ([b"\x80", b"\x80"], [b"\xc0"]):
        with pytest.raises(CloisterError):
            verify_trie(EMPTY_ROOT, key, nodes)


def node_root(item: Any) -> tuple[bytes, list[bytes]]:
    raw = oracle.encode(item)
    return keccak256(raw), [raw]


LEAF_REST = bytes.fromhex("20") + b"\x11" * 32


@pytest.mark.parametrize(
    ("why", "item"),
    [
        ("a byte string as a node", b"\x01" * 40),
        ("a node of three items", [b"\x20", b"a", b"b"]),
        ("a branch with a value", [b""] * 16 + [b"value"]),
        ("an unknown flag", [b"\x40" + b"\x11" * 32, b"value"]),
        ("an even path whose padding is not zero", [b"\x21" + b"\x11" * 31, b"value"]),
        ("an even flag with non-zero padding", [b"\x2f" + b"\x11" * 32, b"value"]),
        ("an extension without a path", [b"\x00", b"\1" * 32]),
        ("an empty path", [b"", b"value"]),
        ("a path longer than any key", [b"\x20" + b"\x11" * 33, b"value"]),
        ("a list as a path", [[b"\x20"], b"value"]),
        ("a leaf that ends too early", [b"\x20" + b"\x11" * 31, b"value"]),
        ("a leaf without a value", [LEAF_REST, b""]),
        ("a list as a value", [LEAF_REST, [b"value"]]),
        ("a child hash of 31 bytes", [b"\x11", b"\1" * 31]),
    ],
)
def test_malformed_nodes_under_a_matching_hash(why: str, item: Any) -> None:
    root, nodes = node_root(item)
    with pytest.raises(CloisterError):
        verify_trie(root, b"\x11" * 32, nodes)
    assert why


def test_sizes_are_capped_before_hashing() -> None:
    key = b"\x11" * 32
    for nodes in ([b"\1" * 1025], [b"\1"] * (MAX_NODES + 1), [b""]):
        with pytest.raises(CloisterError) as caught:
            verify_trie(keccak256(nodes[0]), key, nodes)
        assert caught.value.code == "chainview.proof"


@pytest.mark.parametrize(("root", "key"), [(b"\1" * 31, b"\1" * 32), (b"\1" * 32, b"\1" * 20)])
def test_roots_and_keys_have_32_bytes(root: bytes, key: bytes) -> None:
    with pytest.raises(CloisterError):
        verify_trie(root, key, [])


# --- accounts and slots ---

ADDRESS = b"\x5a" * 20


def account_trie(value: bytes) -> Any:
    return build({keccak256(ADDRESS): value, **{keccak256(bytes([i]) * 20): b"other" * 8 for i in range(9)}})


def account_rlp(parts: Sequence[Any]) -> bytes:
    return bytes(oracle.encode(parts))


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**256 - 1))
def test_accounts_are_read_field_by_field(nonce: int, balance: int) -> None:
    trie = account_trie(account_rlp([nonce, balance, EMPTY_ROOT, EMPTY_CODE]))
    found = verify_account(trie.root_hash, ADDRESS, proof_of(trie, keccak256(ADDRESS)))
    assert found == Account(nonce, balance, EMPTY_ROOT, EMPTY_CODE)


def test_an_absent_account_is_none() -> None:
    trie = account_trie(account_rlp([0, 0, EMPTY_ROOT, EMPTY_CODE]))
    absent = b"\x99" * 20
    assert verify_account(trie.root_hash, absent, proof_of(trie, keccak256(absent))) is None


@pytest.mark.parametrize(
    ("why", "parts"),
    [
        ("three fields", [b"", b"", EMPTY_ROOT]),
        ("five fields", [b"", b"", EMPTY_ROOT, EMPTY_CODE, b""]),
        ("a nonce with a leading zero", [b"\0\1", b"", EMPTY_ROOT, EMPTY_CODE]),
        ("a nonce of nine bytes", [b"\1" * 9, b"", EMPTY_ROOT, EMPTY_CODE]),
        ("a storage root of 31 bytes", [b"", b"", EMPTY_ROOT[1:], EMPTY_CODE]),
        ("a list as code hash", [b"", b"", EMPTY_ROOT, [EMPTY_CODE]]),
        ("no list at all", b"\x7f" * 40),
    ],
)
def test_malformed_accounts(why: str, parts: Any) -> None:
    trie = account_trie(account_rlp(parts))
    with pytest.raises(CloisterError):
        verify_account(trie.root_hash, ADDRESS, proof_of(trie, keccak256(ADDRESS)))
    assert why


def slot_key(slot: int) -> bytes:
    return keccak256(slot.to_bytes(32, "big"))


@settings(max_examples=40)
@given(st.dictionaries(st.integers(0, 2**256 - 1), st.integers(1, 2**256 - 1), min_size=1, max_size=16))
def test_slots_as_the_evm_stores_them(storage: dict[int, int]) -> None:
    trie = build({slot_key(slot): oracle.encode(word) for slot, word in storage.items()})
    for slot, word in storage.items():
        assert verify_slot(trie.root_hash, slot, proof_of(trie, slot_key(slot))) == word
    unset = next(n for n in range(17) if n not in storage)
    assert verify_slot(trie.root_hash, unset, proof_of(trie, slot_key(unset))) == 0


@pytest.mark.parametrize(
    ("why", "stored"),
    [
        ("a leading zero", oracle.encode(b"\0\1")),
        ("33 bytes", oracle.encode(b"\1" * 33)),
        ("a list", oracle.encode([b"\1"])),
        ("no RLP", b"\xb8"),
    ],
)
def test_words_that_no_chain_stores(why: str, stored: bytes) -> None:
    trie = build({slot_key(1): stored, slot_key(2): b"\5"})
    with pytest.raises(CloisterError):
        verify_slot(trie.root_hash, 1, proof_of(trie, slot_key(1)))
    assert why


def test_a_stored_zero_reads_as_zero() -> None:
    """Consensus stores none, the development chain does; the root commits to it either way."""
    trie = build({slot_key(1): oracle.encode(b""), slot_key(2): b"\5"})
    assert verify_slot(trie.root_hash, 1, proof_of(trie, slot_key(1))) == 0


@pytest.mark.parametrize("slot", [-1, 2**256])
def test_a_slot_out_of_range_is_a_programmers_mistake(slot: int) -> None:
    with pytest.raises(ValueError):
        verify_slot(EMPTY_ROOT, slot, [])
