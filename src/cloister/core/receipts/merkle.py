"""RFC 6962 Merkle trees: roots, inclusion paths, consistency paths (spec/receipts.md 8).

Leaf hash = SHA-256(0x00 || entry), node hash = SHA-256(0x01 || left || right); a tree of n > 1 leaves splits at the
largest power of two below n. No leaf is ever repeated to fill a level. Hashes are 32 bytes; a path is a sequence of
hashes, nearest first. Generators take ``part(a, b)``, the root of the leaves a..b-1, so that a log needs no whole tree
in memory (``log.py``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import sha256
from hmac import compare_digest
from typing import Final

from cloister.core.encoding.hexes import from_hex, need_bytes, need_uint
from cloister.core.errors import ReceiptError, define

MAX_PATH: Final = 64
EMPTY_ROOT: Final = sha256(b"").digest()

NOT_A_BATCH = define(
    "receipt.batch",
    ReceiptError,
    check="a batch has 2 to 1024 consecutive receipts, and this one's number is among them",
    remedy="do not trust the answer: the path is of another receipt",
    status=403,
)
Part = Callable[[int, int], bytes]

NOT_INCLUDED = define(
    "receipt.not_included",
    ReceiptError,
    check="the path leads from the receipt to the signed root",
    remedy="do not trust the answer; ask for the proof again: it is of another receipt or another tree",
    status=403,
)
NOT_CONSISTENT = define(
    "receipt.not_consistent",
    ReceiptError,
    check="the newer log begins with the whole older one",
    remedy="keep both signed heads: together they show that the worker forked or shortened its log",
    status=403,
)


def leaf_hash(entry: bytes) -> bytes:
    """SHA-256(0x00 || entry)."""
    return sha256(b"\0" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """SHA-256(0x01 || left || right)."""
    return sha256(b"\1" + left + right).digest()


def split(size: int) -> int:
    """The largest power of two below ``size`` (size > 1)."""
    return 1 << ((size - 1).bit_length() - 1)


def root_of(leaves: Sequence[bytes]) -> bytes:
    """The root over leaf hashes. The empty tree's is SHA-256 of nothing."""
    if not leaves:
        return EMPTY_ROOT
    rows = list(leaves)
    while len(rows) > 1:  # pairing level by level, an odd last one moves up: the same tree as RFC 6962's split
        paired = [node_hash(rows[i], rows[i + 1]) for i in range(0, len(rows) - 1, 2)]
        rows = paired + rows[len(rows) - (len(rows) & 1) :]
    return rows[0]


def part_of(leaves: Sequence[bytes]) -> Part:
    """``part`` over leaf hashes in memory."""
    return lambda start, end: root_of(leaves[start:end])


def inclusion_path(index: int, size: int, part: Part) -> list[bytes]:
    """RFC 6962 2.1.1 for leaf ``index`` of ``size``. Raises ValueError for an index outside: our own mistake."""
    if not 0 <= index < size:
        raise ValueError("the index is outside the tree")
    path: list[bytes] = []
    start, end = 0, size
    while end - start > 1:
        middle = start + split(end - start)
        if index < middle:
            path.append(part(middle, end))
            end = middle
        else:
            path.append(part(start, middle))
            start = middle
    return path[::-1]


def paths_of(leaves: Sequence[bytes]) -> tuple[bytes, list[list[bytes]]]:
    """The root and every leaf's path, each node hashed once: for a tick's batch. At least one leaf."""
    rows, paths = list(leaves), [list[bytes]() for _ in leaves]
    under = [range(i, i + 1) for i in range(len(leaves))]  # the leaves below each node of the row
    while len(rows) > 1:
        for i in range(0, len(rows) - 1, 2):
            for leaf in under[i]:
                paths[leaf].append(rows[i + 1])
            for leaf in under[i + 1]:
                paths[leaf].append(rows[i])
        odd = len(rows) - (len(rows) & 1)
        pairs = range(0, len(rows) - 1, 2)
        under = [range(under[i].start, under[i + 1].stop) for i in pairs] + under[odd:]
        rows = [node_hash(rows[i], rows[i + 1]) for i in pairs] + rows[odd:]
    return rows[0], paths


def root_from_path(leaf: bytes, index: int, size: int, path: Sequence[bytes]) -> bytes:
    """The root that a path leads to (RFC 9162 2.1.3.2). Raises ReceiptError (receipt.not_included).

    1. sizes and hashes in form; 2. index within the tree; 3. exactly as many hashes as this place needs."""
    _in_form(path, (index, size))  # 1
    if index >= size:  # 2
        raise NOT_INCLUDED(expected=f"an index below {size}", found=str(index))
    at, last, found = index, size - 1, leaf
    for sibling in path:
        if last == 0:  # 3
            raise NOT_INCLUDED(expected="a shorter path", found=f"{len(path)} hashes")
        if at & 1 or at == last:
            found = node_hash(sibling, found)
            while not at & 1 and at:
                at, last = at >> 1, last >> 1
        else:
            found = node_hash(found, sibling)
        at, last = at >> 1, last >> 1
    if last:  # 3
        raise NOT_INCLUDED(expected="a longer path", found=f"{len(path)} hashes")
    return found


def verify_inclusion(leaf: bytes, index: int, size: int, path: Sequence[bytes], root: bytes) -> None:
    """Raise ReceiptError (receipt.not_included) unless ``leaf`` is leaf ``index`` of the tree with this root."""
    if not compare_digest(root_from_path(leaf, index, size, path), root):
        raise NOT_INCLUDED(expected="the signed root", found="another")


def consistency_path(old: int, new: int, part: Part) -> list[bytes]:
    """RFC 6962 2.1.2 from the tree of ``old`` leaves to that of ``new``. Empty for old = 0 and old = new.

    Raises ValueError unless 0 <= old <= new: our own mistake."""
    if not 0 <= old <= new:
        raise ValueError("the older tree is not the smaller one")
    path: list[bytes] = []
    if old in (0, new):
        return path
    start, end, whole = 0, new, True  # whole: the old tree is all of what it has in start..end
    while old != end:
        middle = start + split(end - start)
        if old <= middle:
            path.append(part(middle, end))
            end = middle
        else:
            path.append(part(start, middle))
            start, whole = middle, False
    if not whole:
        path.append(part(start, end))
    return path[::-1]


def verify_consistency(old: int, old_root: bytes, new: int, new_root: bytes, path: Sequence[bytes]) -> None:
    """Raise ReceiptError (receipt.not_consistent) unless the new tree begins with the old (RFC 9162 2.1.4.2).

    1. form; 2. it does not shrink; 3. an empty old tree proves nothing and has the empty root; 4. equal sizes have
    equal roots and no path; 5. the path leads to both roots, with exactly as many hashes as these sizes need."""
    _in_form((old_root, new_root, *path), (old, new))  # 1
    if new < old:  # 2
        raise NOT_CONSISTENT(expected=f"at least {old} receipts", found=str(new))
    if old == 0:  # 3
        _need_roots((old_root, EMPTY_ROOT))
    elif old == new:  # 4
        _need_roots((old_root, new_root))
    if old in (0, new):
        if path:
            raise NOT_CONSISTENT(expected="no path", found=f"{len(path)} hashes")
        return
    hashes = list(path) if old & (old - 1) else [old_root, *path]
    left, right = _both_roots(old, new, hashes)  # 5
    _need_roots((left, old_root), (right, new_root))


def _both_roots(old: int, new: int, hashes: list[bytes]) -> tuple[bytes, bytes]:
    at, last = old - 1, new - 1
    while at & 1:
        at, last = at >> 1, last >> 1
    if not hashes:
        raise NOT_CONSISTENT(expected="a path", found="none")
    left = right = hashes[0]
    for sibling in hashes[1:]:
        if last == 0:
            raise NOT_CONSISTENT(expected="a shorter path", found=f"{len(hashes)} hashes")
        if at & 1 or at == last:
            left, right = node_hash(sibling, left), node_hash(sibling, right)
            while not at & 1 and at:
                at, last = at >> 1, last >> 1
        else:
            right = node_hash(right, sibling)
        at, last = at >> 1, last >> 1
    if last:
        raise NOT_CONSISTENT(expected="a longer path", found=f"{len(hashes)} hashes")
    return left, right


def _need_roots(*pairs: tuple[bytes, bytes]) -> None:
    if not all(compare_digest(found, wanted) for found, wanted in pairs):
        raise NOT_CONSISTENT(expected="the roots of both heads", found="another")


def _in_form(hashes: Sequence[bytes], numbers: tuple[int, int]) -> None:
    if len(hashes) > MAX_PATH + 2:
        raise NOT_INCLUDED(expected=f"at most {MAX_PATH} hashes", found=str(len(hashes)))
    for number in numbers:
        need_uint("a size or index", number, 53)
    for one in hashes:
        need_bytes("a hash of a path", one, 32)


def hashes_from(text: object, limit: int) -> tuple[bytes, ...]:
    """Hashes written one after the other in hex. Raises EncodingError; receipt.batch for a piece of a hash."""
    data = from_hex(text, name="path", max_size=32 * limit)
    if len(data) % 32:
        raise NOT_A_BATCH(expected="whole hashes of 32 bytes", found=f"{len(data)} bytes")
    return tuple(data[at : at + 32] for at in range(0, len(data), 32))
