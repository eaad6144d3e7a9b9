"""Tries under true hashes but of any shape, against a naive second reader; and the exact edges of the verifier.

An endpoint cannot make another node with a given hash, but a verifier must not rely on what nodes a chain would write:
it reads exactly the nodes on the path, or refuses.
"""

from __future__ import annotations

from typing import Any

import pytest
import rlp as oracle
from hypothesis import given, settings
from hypothesis import strategies as st

from cloister.core.chainview.proofs import EMPTY_ROOT, MAX_NODE, MAX_NODES, verify_account, verify_slot, verify_trie
from cloister.core.encoding.keccak import keccak256
from cloister.core.errors import ChainViewError, CloisterError

KEY = bytes(range(0x10, 0x30))
NIBBLES = KEY.hex()


def compact(nibbles: str, leaf: bool) -> bytes:
    """Hex-prefix encoding (yellow paper, appendix C)."""
    odd = len(nibbles) % 2
    flag = (2 if leaf else 0) + odd
    return bytes.fromhex(f"{flag:x}" + ("" if odd else "0") + nibbles)


# --- a naive reader: no caps, no loop, hashes looked up in a table ---


class RefusedError(Exception):
    """The naive reader does not know what to make of a node."""


def naive(table: dict[bytes, bytes], item: Any, path: str, used: list[bytes]) -> bytes | None:
    """The value under ``path`` below a child item: a hash or a node; appends the nodes that it took."""
    if isinstance(item, bytes):
        if item == b"":
            return None
        if item not in table:
            raise RefusedError("no such node")
        used.append(table[item])
        item = oracle.decode(table[item])
    if not isinstance(item, list):
        raise RefusedError("no node")
    if len(item) == 17:
        if not path or item[16] != b"":
            raise RefusedError("a branch at the end of a key, or with a value")
        return naive(table, item[int(path[0], 16)], path[1:], used)
    if len(item) != 2 or not isinstance(item[0], bytes) or not item[0]:
        raise RefusedError("neither branch nor path")
    text = item[0].hex()
    flag = int(text[0], 16)
    if flag > 3 or (flag % 2 == 0 and text[1] != "0"):
        raise RefusedError("flag")
    own = text[1:] if flag % 2 else text[2:]
    if flag >= 2:
        if len(own) != len(path) or not isinstance(item[1], bytes) or (own == path and not item[1]):
            raise RefusedError("leaf")
        return item[1] if own == path else None
    if not own:
        raise RefusedError("an extension of nothing")
    return naive(table, item[1], path[len(own) :], used) if path.startswith(own) else None


# --- trees of any shape ---

NIBBLE = st.sampled_from("0123456789abcdef")


def grow(draw: Any, path: str, depth: int) -> Any:
    """A node on the way along ``path``; mostly well formed, sometimes not."""
    kind = draw(st.sampled_from(["leaf", "leaf", "branch", "branch", "branch", "extension", "extension", "odd"]))
    if depth > 5 or kind == "leaf":
        rest = draw(st.sampled_from([path, path[:-1], path + "0", path[:1] + path[2:] + "1"]))
        return [compact(rest, leaf=True), draw(st.sampled_from([b"value", b"v" * 40, b""]))]
    if kind == "branch":
        node: list[Any] = [draw(st.sampled_from([b"", b"\x01" * 32])) for _ in range(16)]
        if path:
            node[int(path[0], 16)] = child_of(draw, grow(draw, path[1:], depth + 1))
        return [*node, draw(st.sampled_from([b"", b"", b"", b"value"]))]
    if kind == "extension":
        size = draw(st.integers(0, min(4, len(path))))
        stray = draw(st.booleans()) and draw(st.booleans())
        own = "f" * size if stray else path[:size]
        return [compact(own, leaf=False), child_of(draw, grow(draw, path[size:], depth + 1))]
    return draw(
        st.sampled_from(
            [b"", b"text", [], [b"\x20"], [b"\x20", b"a", b"b"], [b"\x40", b"a"], [b"", b"a"], [[b"\x20"], b"a"]]
        )
    )


TABLES: dict[str, dict[bytes, bytes]] = {}


def child_of(draw: Any, node: Any) -> Any:
    """The node itself if it is shorter than 32 bytes, else its hash; sometimes the empty string."""
    raw = oracle.encode(node)
    if draw(st.integers(0, 30)) == 0:
        return b""
    if len(raw) < 32 and isinstance(node, list):
        return node
    TABLES["now"][keccak256(raw)] = raw
    return keccak256(raw)


@st.composite
def tries(draw: Any) -> tuple[bytes, dict[bytes, bytes]]:
    TABLES["now"] = {}
    raw = oracle.encode(grow(draw, NIBBLES, 0))
    TABLES["now"][keccak256(raw)] = raw
    return keccak256(raw), dict(TABLES["now"])


@settings(max_examples=200, deadline=None)
@given(tries())
def test_any_tree_of_nodes_reads_as_the_naive_reader_reads_it(made: tuple[bytes, dict[bytes, bytes]]) -> None:
    root, table = made
    if root == EMPTY_ROOT:
        return
    used: list[bytes] = []
    try:
        expected = naive(table, root, NIBBLES, used)
    except RefusedError:
        with pytest.raises(ChainViewError):
            verify_trie(root, KEY, used)
        return
    if any(len(node) > MAX_NODE for node in used):
        return
    assert verify_trie(root, KEY, used) == expected
    for other in (used[:-1], [*used, used[-1]], [*used, b"\xc0"], used[::-1] if len(used) > 1 else []):
        with pytest.raises(ChainViewError):
            verify_trie(root, KEY, other)


def rooted(*items: Any) -> tuple[bytes, list[bytes]]:
    """Root and nodes of a line of nodes; ``HASH`` in one stands for the hash of the next."""
    nodes: list[bytes] = []
    below = b""
    for item in reversed(items):
        node = [below if part is HASH else part for part in item]
        raw = bytes(oracle.encode(node))
        nodes.insert(0, raw)
        below = keccak256(raw)
    return below, nodes


HASH = object()


def branch(nibble: str) -> list[Any]:
    node: list[Any] = [b""] * 17
    node[int(nibble, 16)] = HASH
    return node


GOOD_LEAF = [compact(NIBBLES, leaf=True), b"value"]

LINES: dict[str, list[list[Any]]] = {
    "an extension of no nibble before a leaf": [[compact("", leaf=False), HASH], GOOD_LEAF],
    "an extension over the whole key and a branch behind it": [[compact(NIBBLES, leaf=False), HASH], [b""] * 17],
    "an extension over the whole key and an extension behind it": [
        [compact(NIBBLES, leaf=False), HASH],
        [compact("1", leaf=False), HASH],
        GOOD_LEAF,
    ],
    "a leaf of three items": [[*GOOD_LEAF, b""]],
    "a branch of 16 items": [branch(NIBBLES[0])[:16], [compact(NIBBLES[1:], leaf=True), b"value"]],
    "a branch of 18 items": [[*branch(NIBBLES[0]), b""], [compact(NIBBLES[1:], leaf=True), b"value"]],
    "a branch with a value on the way": [
        [*branch(NIBBLES[0])[:16], b"value"],
        [compact(NIBBLES[1:], leaf=True), b"value"],
    ],
    "a leaf with one nibble too many": [[compact(NIBBLES + "0", leaf=True), b"value"]],
    "a leaf with one nibble too few": [[compact(NIBBLES[:-1], leaf=True), b"value"]],
    "another leaf with one nibble too few": [[compact("f" * 63, leaf=True), b"value"]],
    "a leaf whose value is a list": [[GOOD_LEAF[0], [b"value"]]],
    "a leaf whose value is empty": [[GOOD_LEAF[0], b""]],
    "a child of 31 bytes": [[compact(NIBBLES[:2], leaf=False), b"\1" * 31]],
    "a child of 33 bytes": [[compact(NIBBLES[:2], leaf=False), b"\1" * 33]],
    "flag 4": [[b"\x40" + KEY, b"value"]],
    "flag 2 with padding": [[b"\x21" + KEY, b"value"]],
    "flag 0 with padding": [[b"\x0f" + KEY[:4], HASH], GOOD_LEAF],
}


@pytest.mark.parametrize("sentence", LINES)
def test_refused_although_every_hash_is_right(sentence: str) -> None:
    root, nodes = rooted(*LINES[sentence])
    with pytest.raises(ChainViewError) as caught:
        verify_trie(root, KEY, nodes)
    assert caught.value.code in ("chainview.proof", "chainview.rlp")


def test_the_same_lines_mended_are_read() -> None:
    root, nodes = rooted([compact(NIBBLES[:1], leaf=False), HASH], [compact(NIBBLES[1:], leaf=True), b"value"])
    assert verify_trie(root, KEY, nodes) == b"value"
    root, nodes = rooted(branch(NIBBLES[0]), [compact(NIBBLES[1:], leaf=True), b"value"])
    assert verify_trie(root, KEY, nodes) == b"value"
    root, nodes = rooted([compact("f" * 64, leaf=True), b"value"])
    assert verify_trie(root, KEY, nodes) is None
    root, nodes = rooted([compact(NIBBLES[:63], leaf=False), HASH], branch("0"), [b"\x20", b"value"])
    assert verify_trie(root, KEY, nodes[:2]) is None
    assert verify_trie(root, KEY[:31] + b"\x20", nodes) == b"value"


def test_the_longest_path_has_65_nodes() -> None:
    line = [branch(nibble) for nibble in NIBBLES]
    root, nodes = rooted(*line, [b"\x20", b"value"])
    assert len(nodes) == 65 == MAX_NODES
    assert verify_trie(root, KEY, nodes) == b"value"
    with pytest.raises(ChainViewError, match="at most 65 nodes"):
        verify_trie(root, KEY, [*nodes, nodes[-1]])


def test_a_node_of_1024_bytes_is_read_and_one_byte_more_is_not() -> None:
    for size, good in ((MAX_NODE, True), (MAX_NODE + 1, False)):
        root, nodes = rooted([GOOD_LEAF[0], b"v" * (size - 40)])
        assert len(nodes[0]) == size
        if good:
            assert verify_trie(root, KEY, nodes) == b"v" * (size - 40)
        else:
            with pytest.raises(ChainViewError, match="at most 1024 bytes"):
                verify_trie(root, KEY, nodes)


def test_nodes_inside_nodes_are_read_where_they_stand() -> None:
    inner = [compact(NIBBLES[40:], leaf=True), b"v"]
    assert len(oracle.encode(inner)) < 32
    root, nodes = rooted([compact(NIBBLES[:40], leaf=False), inner])
    assert verify_trie(root, KEY, nodes) == b"v"
    with pytest.raises(ChainViewError, match="1 nodes on the path"):
        verify_trie(root, KEY, [*nodes, oracle.encode(inner)])


@pytest.mark.parametrize("wrong", [b"", b"\1" * 31, b"\1" * 33, "0x" + "01" * 32, None, 5])
def test_roots_keys_and_addresses_of_another_form_are_named(wrong: Any) -> None:
    for call in (
        lambda: verify_trie(wrong, KEY, []),
        lambda: verify_trie(EMPTY_ROOT, wrong, []),
        lambda: verify_slot(wrong, 1, []),
        lambda: verify_account(wrong, b"\1" * 20, []),
        lambda: verify_account(EMPTY_ROOT, wrong, []),
    ):
        with pytest.raises(CloisterError, match=r"encoding\.size"):
            call()


@pytest.mark.parametrize("nodes", [[None], ["0x80"], [bytearray(b"\x80")], [5]])
def test_nodes_that_are_no_bytes_are_refused(nodes: list[Any]) -> None:
    for root in (EMPTY_ROOT, b"\1" * 32):
        with pytest.raises(ChainViewError):
            verify_trie(root, KEY, nodes)


def test_an_account_that_is_four_bytes_and_not_four_fields_is_refused() -> None:
    address = b"\x5a" * 20
    root, nodes = rooted([compact(keccak256(address).hex(), leaf=True), oracle.encode(b"\1\2\3\4")])
    with pytest.raises(ChainViewError, match="four fields"):
        verify_account(root, address, nodes)
