"""RFC 6962 trees: known answers, every path of every small tree, and that nothing else passes."""

from __future__ import annotations

from hashlib import sha256

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloister.core.errors import CloisterError, ReceiptError
from cloister.core.receipts.merkle import (
    EMPTY_ROOT,
    MAX_PATH,
    consistency_path,
    inclusion_path,
    leaf_hash,
    node_hash,
    part_of,
    paths_of,
    root_from_path,
    root_of,
    verify_consistency,
    verify_inclusion,
)

# The entries and roots of the test trees that the log projects of RFC 6962 publish.
ENTRIES = [
    b"",
    b"\x00",
    b"\x10",
    b"\x20\x21",
    b"\x30\x31",
    b"\x40\x41\x42\x43",
    bytes(range(0x50, 0x58)),
    bytes(range(0x60, 0x70)),
]
ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
LEAVES = [leaf_hash(bytes([n])) for n in range(40)]


def slow_root(leaves: list[bytes]) -> bytes:
    """RFC 6962 2.1 as it is written."""
    if not leaves:
        return sha256(b"").digest()
    if len(leaves) == 1:
        return leaves[0]
    k = 1
    while k * 2 < len(leaves):
        k *= 2
    return node_hash(slow_root(leaves[:k]), slow_root(leaves[k:]))


def test_roots_are_the_published_ones() -> None:
    leaves = [leaf_hash(entry) for entry in ENTRIES]
    assert [root_of(leaves[: n + 1]).hex() for n in range(8)] == ROOTS
    assert root_of([]) == EMPTY_ROOT == sha256(b"").digest()


def test_every_path_of_every_small_tree_leads_to_its_root() -> None:
    for size in range(1, 41):
        leaves, root = LEAVES[:size], root_of(LEAVES[:size])
        assert root == slow_root(leaves)
        together, paths = paths_of(leaves)
        assert together == root
        for index in range(size):
            path = inclusion_path(index, size, part_of(leaves))
            assert path == paths[index]
            verify_inclusion(leaves[index], index, size, path, root)


def test_every_older_tree_is_consistent_with_every_newer_one() -> None:
    for new in range(41):
        for old in range(new + 1):
            path = consistency_path(old, new, part_of(LEAVES[:new]))
            verify_consistency(old, root_of(LEAVES[:old]), new, root_of(LEAVES[:new]), path)


def test_a_path_holds_at_no_other_place() -> None:
    """Of this size. Of another size it may: which is why sizes are signed with roots."""
    for size in (1, 2, 3, 5, 8, 13):
        leaves, root = LEAVES[:size], root_of(LEAVES[:size])
        for index in range(size):
            path = inclusion_path(index, size, part_of(leaves))
            for other in set(range(size + 2)) - {index}:
                with pytest.raises(ReceiptError):
                    verify_inclusion(leaves[index], other, size, path, root)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_changed_path_leaf_or_root_is_refused(data: st.DataObject) -> None:
    size = data.draw(st.integers(1, 40))
    index = data.draw(st.integers(0, size - 1))
    path = inclusion_path(index, size, part_of(LEAVES[:size]))
    parts = [LEAVES[index], root_of(LEAVES[:size]), *path]
    at, bit = data.draw(st.integers(0, len(parts) - 1)), data.draw(st.integers(0, 255))
    parts[at] = flip(parts[at], bit)
    with pytest.raises(ReceiptError) as caught:
        verify_inclusion(parts[0], index, size, parts[2:], parts[1])
    assert caught.value.code == "receipt.not_included"


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_changed_consistency_path_or_root_is_refused(data: st.DataObject) -> None:
    new = data.draw(st.integers(2, 40))
    old = data.draw(st.integers(1, new - 1))
    path = consistency_path(old, new, part_of(LEAVES[:new]))
    parts = [root_of(LEAVES[:old]), root_of(LEAVES[:new]), *path]
    at, bit = data.draw(st.integers(0, len(parts) - 1)), data.draw(st.integers(0, 255))
    parts[at] = flip(parts[at], bit)
    with pytest.raises(ReceiptError) as caught:
        verify_consistency(old, parts[0], new, parts[1], parts[2:])
    assert caught.value.code == "receipt.not_consistent"


@given(st.integers(2, 40), st.data())
def test_a_tree_that_changed_an_older_leaf_is_not_consistent(new: int, data: st.DataObject) -> None:
    old = data.draw(st.integers(1, new - 1))
    forked = list(LEAVES[:new])
    forked[data.draw(st.integers(0, old - 1))] = leaf_hash(b"other")
    path = consistency_path(old, new, part_of(forked))
    with pytest.raises(ReceiptError):
        verify_consistency(old, root_of(LEAVES[:old]), new, root_of(forked), path)


REFUSED_CONSISTENCY = {
    "a log that shrinks": (5, 4, []),
    "another root at the same size": (5, 5, []),
    "a path where none belongs": (5, 5, [bytes(32)]),
    "no path where one belongs": (4, 5, []),
    "a hash too many": (3, 5, [*consistency_path(3, 5, part_of(LEAVES[:5])), bytes(32)]),
    "a hash too few": (3, 5, consistency_path(3, 5, part_of(LEAVES[:5]))[:-1]),
    "an empty log with a path": (0, 5, [bytes(32)]),
}


@pytest.mark.parametrize("sentence", REFUSED_CONSISTENCY)
def test_it_refuses(sentence: str) -> None:
    old, new, path = REFUSED_CONSISTENCY[sentence]
    new_root = bytes(32) if "another root" in sentence else root_of(LEAVES[:new])
    with pytest.raises(ReceiptError) as caught:
        verify_consistency(old, root_of(LEAVES[:old]), new, new_root, path)
    assert caught.value.code == "receipt.not_consistent"


def test_an_empty_log_has_only_the_empty_root() -> None:
    verify_consistency(0, EMPTY_ROOT, 3, root_of(LEAVES[:3]), [])
    with pytest.raises(ReceiptError):
        verify_consistency(0, bytes(32), 3, root_of(LEAVES[:3]), [])


BAD_FORMS: dict[str, tuple[int, int, list[bytes]]] = {
    "an index outside the tree": (3, 3, []),
    "an index far outside": (2**53 - 1, 3, []),
    "a path of more hashes than any tree has": (0, 3, [bytes(32)] * (MAX_PATH + 3)),
    "a negative index": (-1, 3, []),
    "a size beyond 53 bits": (0, 2**53, []),
    "half a hash": (0, 2, [bytes(16)]),
}


@pytest.mark.parametrize("sentence", BAD_FORMS)
def test_outside_numbers_and_hashes_are_refused(sentence: str) -> None:
    index, size, path = BAD_FORMS[sentence]
    with pytest.raises(CloisterError):
        root_from_path(LEAVES[0], index, size, path)


def test_our_own_mistakes_are_not_refusals() -> None:
    with pytest.raises(ValueError, match="outside"):
        inclusion_path(3, 3, part_of(LEAVES[:3]))
    with pytest.raises(ValueError, match="smaller"):
        consistency_path(4, 3, part_of(LEAVES[:3]))


def test_a_node_is_no_leaf() -> None:
    """The second-preimage trick: two leaves' hashes as one entry. Leaf and node hashes begin differently."""
    inner = LEAVES[0] + LEAVES[1]
    assert leaf_hash(inner) != root_of(LEAVES[:2])
    assert root_of([root_of(LEAVES[:2]), LEAVES[2]]) == root_of(LEAVES[:3])  # so sizes must be signed: batches do it


def flip(data: bytes, bit: int) -> bytes:
    out = bytearray(data)
    out[bit // 8] ^= 1 << (bit % 8)
    return bytes(out)
