"""Account and storage proofs against a state root (EIP-1186, Merkle Patricia tries with hashed keys).

The verifier is strict: canonical RLP, exactly the nodes on the path and no other, proofs of absence as well as of
presence. Nothing here knows a chain; the root comes from a checkpoint (spec/chainview.md 2).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cloister.core.chainview.rlp import BAD_RLP, Item, decode, fixed, uint
from cloister.core.encoding.hexes import need_bytes
from cloister.core.encoding.keccak import keccak256
from cloister.core.errors import ChainViewError, define

MAX_NODES = 65
MAX_NODE = 1024
EMPTY_ROOT = keccak256(b"\x80")
EMPTY_CODE = keccak256(b"")

BAD_PROOF = define(
    "chainview.proof",
    ChainViewError,
    check="a storage or account proof leads from the checkpoint's state root to the value",
    remedy="the endpoint lies, is behind, or has pruned the block; use another one",
)


@dataclass(frozen=True, slots=True)
class Account:
    """A proven account. storage_root and code_hash are 32 bytes, balance is in wei."""

    nonce: int
    balance: int
    storage_root: bytes
    code_hash: bytes


def verify_account(state_root: bytes, address: bytes, nodes: Sequence[bytes]) -> Account | None:
    """The account at ``address`` (20 bytes), or None if the proof shows that there is none. Raises ChainViewError."""
    value = verify_trie(state_root, keccak256(need_bytes("address", address, 20)), nodes)
    if value is None:
        return None
    parts = decode(value, max_size=MAX_NODE)
    if not isinstance(parts, list) or len(parts) != 4:
        raise BAD_PROOF(expected="an account of four fields", found="another value")
    return Account(
        nonce=uint(parts[0], "nonce", 8),
        balance=uint(parts[1], "balance"),
        storage_root=fixed(parts[2], "storage root", 32),
        code_hash=fixed(parts[3], "code hash", 32),
    )


def verify_slot(storage_root: bytes, slot: int, nodes: Sequence[bytes]) -> int:
    """The word in a storage slot; 0 if the proof shows that it is unset. Raises ChainViewError.

    A stored zero reads as zero: consensus never stores one, but the development chain does, after a contract wrote
    zero to a fresh slot. The root commits to it, so it says nothing else.
    """
    if not 0 <= slot < 1 << 256:
        raise ValueError("a slot is a 256-bit number")
    value = verify_trie(storage_root, keccak256(slot.to_bytes(32, "big")), nodes)
    if value is None:
        return 0
    return uint(decode(value, max_size=40), "storage word")


def verify_trie(root: bytes, key: bytes, nodes: Sequence[bytes]) -> bytes | None:
    """The value under a 32-byte key of the trie with this root; None for proven absence.

    1. sizes; 2. an empty trie has no nodes; 3. each node hashes to what its parent says; 4. the path follows the key;
    5. every node given was used. Raises ChainViewError.
    """
    need_bytes("trie root", root, 32)
    need_bytes("trie key", key, 32)
    if len(nodes) > MAX_NODES or any(not isinstance(n, bytes) or not 0 < len(n) <= MAX_NODE for n in nodes):  # 1
        raise BAD_PROOF(expected=f"at most {MAX_NODES} nodes of at most {MAX_NODE} bytes", found="more or larger")
    if root == EMPTY_ROOT:  # 2
        if list(nodes) not in ([], [b"\x80"]):
            raise BAD_PROOF(expected="no nodes for an empty trie", found=f"{len(nodes)}")
        return None
    walk = _Walk(nodes)
    value = walk.follow(root, _nibbles(key))
    if walk.used != len(nodes):  # 5
        raise BAD_PROOF(expected=f"{walk.used} nodes on the path", found=f"{len(nodes)} nodes")
    return value


class _Walk:
    """One descent; ``used`` counts the nodes it took from the list."""

    def __init__(self, nodes: Sequence[bytes]) -> None:
        self._nodes, self.used = nodes, 0

    def follow(self, root: bytes, path: bytes) -> bytes | None:
        node = self._take(root)
        while True:
            if len(node) == 17:
                child, path = self._branch(node, path)
            else:
                is_leaf, prefix = _prefix(node[0])
                if is_leaf:
                    return _leaf(node, prefix, path)
                if path[: len(prefix)] != prefix:
                    return None
                child, path = node[1], path[len(prefix) :]
            if child == b"":
                return None
            node = self._node(child)

    def _branch(self, node: list[Item], path: bytes) -> tuple[Item, bytes]:
        if not path or node[16] != b"":  # keys have one length: no value ends inside a branch
            raise BAD_PROOF(expected="a branch without a value", found="one with a value or past the key")
        return node[path[0]], path[1:]

    def _node(self, child: Item) -> list[Item]:
        if isinstance(child, list):  # a node shorter than 32 bytes stands in its parent
            return _shaped(child)
        return self._take(fixed(child, "child hash", 32))

    def _take(self, expected: bytes) -> list[Item]:
        if self.used >= len(self._nodes):
            raise BAD_PROOF(expected=f"a node with hash 0x{expected.hex()[:16]}…", found="the end of the proof")
        raw = self._nodes[self.used]
        if keccak256(raw) != expected:  # 3
            raise BAD_PROOF(expected=f"a node with hash 0x{expected.hex()[:16]}…", found="another node")
        self.used += 1
        node = decode(raw, max_size=MAX_NODE)
        if not isinstance(node, list):
            raise BAD_PROOF(expected="a list as a node", found="a byte string")
        return _shaped(node)


def _shaped(node: list[Item]) -> list[Item]:
    if len(node) not in (2, 17):
        raise BAD_PROOF(expected="a node of 2 or 17 items", found=f"{len(node)} items")
    return node


def _leaf(node: list[Item], prefix: bytes, path: bytes) -> bytes | None:
    if prefix != path:
        if len(prefix) != len(path):
            raise BAD_PROOF(expected=f"a leaf at depth {64 - len(path)} with the rest of a key", found="another length")
        return None
    if not isinstance(node[1], bytes) or not node[1]:
        raise BAD_PROOF(expected="a value in the leaf", found="none")
    return node[1]


def _prefix(item: Item) -> tuple[bool, bytes]:
    """Hex-prefix decoding: whether it ends in a leaf, and the nibbles."""
    if not isinstance(item, bytes) or not 0 < len(item) <= 33:
        raise BAD_RLP(expected="a compact path", found="another form")
    nibbles = _nibbles(item)
    flag, odd = nibbles[0], nibbles[0] & 1
    if flag > 3 or (not odd and nibbles[1] != 0):
        raise BAD_RLP(expected="a compact path with a known flag and zero padding", found=f"flag {flag}")
    prefix = nibbles[1:] if odd else nibbles[2:]
    if flag < 2 and not prefix:
        raise BAD_RLP(expected="an extension of at least one nibble", found="an empty one")
    return flag >= 2, prefix


def _nibbles(data: bytes) -> bytes:
    return bytes(n for byte in data for n in (byte >> 4, byte & 15))
