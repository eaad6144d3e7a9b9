"""Strict RLP: canonical bytes only, capped depth and size (Ethereum yellow paper, appendix B).

An item is ``bytes`` or a list of items. ``decode`` refuses every spelling that ``encode`` would not produce.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from cloister.core.errors import ChainViewError, define

Item: TypeAlias = "bytes | list[Item]"
Encodable: TypeAlias = "bytes | Sequence[Encodable]"
MAX_DEPTH = 4
MAX_SIZE = 1 << 16

BAD_RLP = define(
    "chainview.rlp",
    ChainViewError,
    check="chain data is canonical RLP",
    remedy="the endpoint sends malformed data; use another one",
)


def encode(item: Encodable) -> bytes:
    """Canonical bytes of an item."""
    if isinstance(item, bytes):
        return item if len(item) == 1 and item[0] < 0x80 else _head(0x80, len(item)) + item
    body = b"".join(encode(part) for part in item)
    return _head(0xC0, len(body)) + body


def decode(data: bytes, *, max_size: int = MAX_SIZE) -> Item:
    """The item that ``data`` is, all of it. Raises ChainViewError (chainview.rlp)."""
    if len(data) > max_size:
        raise BAD_RLP(expected=f"at most {max_size} bytes", found=f"{len(data)} bytes")
    item, end = _item(data, 0, len(data), 0)
    if end != len(data):
        raise BAD_RLP(expected="one item", found=f"{len(data) - end} bytes after it")
    return item


def uint(item: Item, name: str, size: int = 32) -> int:
    """A number of at most ``size`` bytes without leading zeros. Raises ChainViewError."""
    if not isinstance(item, bytes) or len(item) > size or item[:1] == b"\0":
        raise BAD_RLP(expected=f"{name} as a canonical number of at most {size} bytes", found="another form")
    return int.from_bytes(item, "big")


def fixed(item: Item, name: str, size: int) -> bytes:
    """A byte string of exactly ``size`` bytes. Raises ChainViewError."""
    if not isinstance(item, bytes) or len(item) != size:
        raise BAD_RLP(expected=f"{name} of {size} bytes", found="another form")
    return item


def from_uint(value: int) -> bytes:
    """The canonical byte string of a number: no leading zeros, zero is empty."""
    return value.to_bytes((value.bit_length() + 7) // 8, "big")


def _head(base: int, length: int) -> bytes:
    if length < 56:
        return bytes([base + length])
    size = from_uint(length)
    return bytes([base + 55 + len(size)]) + size


def _item(data: bytes, at: int, end: int, depth: int) -> tuple[Item, int]:
    if depth > MAX_DEPTH:
        raise BAD_RLP(expected=f"depth <= {MAX_DEPTH}", found="deeper")
    is_list, start, stop = _span(data, at, end)
    if not is_list:
        return data[start:stop], stop
    parts: list[Item] = []
    while start < stop:
        part, start = _item(data, start, stop, depth + 1)
        parts.append(part)
    return parts, stop


def _span(data: bytes, at: int, end: int) -> tuple[bool, int, int]:
    """Whether the item at ``at`` is a list, and where its content starts and stops."""
    if at >= end:
        raise BAD_RLP(expected="an item", found="the end")
    first = data[at]
    if first < 0x80:
        return False, at, at + 1
    is_list = first >= 0xC0
    short = first - (0xC0 if is_list else 0x80)
    start, length = at + 1, short
    if short > 55:
        start, length = _long(data, at, end, short - 55)
    stop = start + length
    if stop > end:
        raise BAD_RLP(expected=f"{length} bytes of content", found=f"{end - start}")
    if not is_list and length == 1 and data[start] < 0x80:
        raise BAD_RLP(expected="a small byte as itself", found="a longer form of it")
    return is_list, start, stop


def _long(data: bytes, at: int, end: int, size: int) -> tuple[int, int]:
    start = at + 1 + size
    if start > end:
        raise BAD_RLP(expected=f"a length of {size} bytes", found="the end")
    length = int.from_bytes(data[at + 1 : start], "big")
    if length < 56 or data[at + 1] == 0:
        raise BAD_RLP(expected="the shortest length", found="a longer form of it")
    return start, length
