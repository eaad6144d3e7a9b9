"""Block headers: bytes that hash to a block hash, and what we need of them (execution-specs, block header)."""

from __future__ import annotations

import hmac
from dataclasses import dataclass

from cloister.core.chainview.rlp import decode, fixed, uint
from cloister.core.encoding.hexes import need_bytes
from cloister.core.encoding.keccak import keccak256
from cloister.core.errors import ChainViewError, define

MAX_HEADER = 4096
# Fields at their places in every fork so far; later forks only append.
_PARENT, _STATE_ROOT, _NUMBER, _TIMESTAMP, _MIN_FIELDS, _MAX_FIELDS = 0, 3, 8, 11, 15, 32

BAD_HEADER = define(
    "chainview.header",
    ChainViewError,
    check="a block header hashes to its block hash and follows its parent",
    remedy="the endpoint lies or speaks of a fork that this build does not know",
)


@dataclass(frozen=True, slots=True)
class Header:
    """A verified header: what it says of itself is committed to by ``hash``. timestamp is in seconds."""

    number: int
    hash: bytes
    parent: bytes
    state_root: bytes
    timestamp: int


def verify_header(rlp: bytes, block_hash: bytes) -> Header:
    """The header whose RLP hashes to ``block_hash``. Raises ChainViewError."""
    need_bytes("block hash", block_hash, 32)
    if len(rlp) > MAX_HEADER:
        raise BAD_HEADER(expected=f"at most {MAX_HEADER} bytes", found=f"{len(rlp)} bytes")
    found = keccak256(rlp)
    if not hmac.compare_digest(found, block_hash):
        raise BAD_HEADER(expected=f"hash 0x{block_hash.hex()}", found=f"0x{found.hex()}")
    parts = decode(rlp, max_size=MAX_HEADER)
    if not isinstance(parts, list) or not _MIN_FIELDS <= len(parts) <= _MAX_FIELDS:
        raise BAD_HEADER(expected=f"a list of {_MIN_FIELDS} to {_MAX_FIELDS} fields", found="another shape")
    return Header(
        number=uint(parts[_NUMBER], "number", 8),
        hash=block_hash,
        parent=fixed(parts[_PARENT], "parent hash", 32),
        state_root=fixed(parts[_STATE_ROOT], "state root", 32),
        timestamp=uint(parts[_TIMESTAMP], "timestamp", 8),
    )


def require_child(parent: Header, child: Header) -> None:
    """Raise ChainViewError unless ``child`` is the block right after ``parent``."""
    if child.number != parent.number + 1 or child.parent != parent.hash or child.timestamp < parent.timestamp:
        raise BAD_HEADER(
            expected=f"block {parent.number + 1} on 0x{parent.hash.hex()[:16]}…",
            found=f"block {child.number} on 0x{child.parent.hex()[:16]}…",
        )
