"""The index: which keys exist, which ciphertext each must have, which requests committed (spec/state.md 2).

64 buckets by the top six bits of the stored key. The head record names each bucket's digest and a bucket names its
values' digests; so a store can neither mix old and new values nor hide or revive one. 64 more buckets, by the top bits
of the request's tag, remember the newest requests that committed: effects happen once per request id.

Layouts (plain, inside the seal); both end with the last entry::

    bucket  u16 entries | (u16 name length | name | u32 size | SHA-256 32)*   sorted by name
    marks   (tag 16 | u64 height | head 32)*                                  oldest first
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from cloister.core.state.sealing import MAX_NAME, TAMPERED

BUCKETS = 64
MAX_DONE = 64
MAX_ENTRIES = 2048
_ITEM = struct.Struct(">I32s")
_DONE = struct.Struct(">16sQ32s")
_COUNT = struct.Struct(">H")


@dataclass(frozen=True, slots=True)
class Item:
    """One value: its plain size and the SHA-256 of its ciphertext."""

    size: int
    digest: bytes


@dataclass(frozen=True, slots=True)
class Done:
    """A request that committed: its tag, and the height and head that it made."""

    tag: bytes
    height: int
    head: bytes


@dataclass(frozen=True, slots=True)
class Bucket:
    """One of 64: items by plain name."""

    items: Mapping[str, Item] = field(default_factory=lambda: MappingProxyType({}))

    def with_item(self, name: str, item: Item | None) -> Bucket:
        """A copy with one item set, or removed when None."""
        items = {**self.items}
        items.pop(name, None)
        if item is not None:
            items[name] = item
        return Bucket(MappingProxyType(items))

    def __bytes__(self) -> bytes:
        items, count, pack = self.items, _COUNT.pack, _ITEM.pack
        parts = [count(len(items))]
        for name in sorted(items):
            plain, item = name.encode(), items[name]
            parts += (count(len(plain)), plain, pack(item.size, item.digest))
        return b"".join(parts)

    @classmethod
    def parse(cls, data: bytes) -> Bucket:
        """The bucket of these bytes. Raises StateError state.tampered for any other form."""
        try:
            bucket = cls(MappingProxyType(_parse_items(data)))
        except (struct.error, UnicodeDecodeError):
            raise TAMPERED(expected="an index bucket", found="bytes of another form") from None
        if bytes(bucket) != data:
            raise TAMPERED(expected="an index bucket in canonical form", found="another form")
        return bucket


@dataclass(frozen=True, slots=True)
class Marks:
    """One of 64: the newest MAX_DONE requests that committed, oldest first. ``packed``: as they are stored.

    An agent that commits often has 4,096 of them, and each commit reads and writes 64: so they stay packed."""

    packed: bytes = b""

    @property
    def done(self) -> tuple[Done, ...]:
        """All of them, oldest first."""
        return tuple(Done(*fields) for fields in _DONE.iter_unpack(self.packed))

    def with_done(self, done: Done) -> Marks:
        """A copy that remembers one more; the oldest beyond MAX_DONE is forgotten."""
        return Marks((self.packed + _DONE.pack(done.tag, done.height, done.head))[-MAX_DONE * _DONE.size :])

    def find(self, tag: bytes) -> Done | None:
        """The request with this tag (16 bytes), if it is remembered."""
        at = self.packed.find(tag)
        while at >= 0 and at % _DONE.size:
            at = self.packed.find(tag, at + 1)
        return None if at < 0 else Done(*_DONE.unpack_from(self.packed, at))

    def __bytes__(self) -> bytes:
        return self.packed

    @classmethod
    def parse(cls, data: bytes) -> Marks:
        """The marks of these bytes. Raises StateError state.tampered for any other form."""
        if len(data) % _DONE.size or len(data) > MAX_DONE * _DONE.size:
            raise TAMPERED(expected=f"at most {MAX_DONE} marks", found=f"{len(data)} bytes")
        return cls(data)


def bucket_of(stored: str | bytes) -> int:
    """Which bucket a stored key (hex) or a request tag (bytes) belongs to: 0 to 63."""
    return (stored[0] if isinstance(stored, bytes) else int(stored[:2], 16)) >> 2


def bucket_slot(number: int, area: str = "") -> str:
    """The stored key of a bucket. ``area``: that of a re-sealed state, so that two seals never share a place."""
    return f"b.{number:02x}{area}"


def marks_slot(number: int, area: str = "") -> str:
    """The stored key of a bucket of marks."""
    return f"d.{number:02x}{area}"


def _parse_items(data: bytes) -> dict[str, Item]:
    items: dict[str, Item] = {}
    (count,), at = _COUNT.unpack_from(data, 0), _COUNT.size
    if count > MAX_ENTRIES:
        raise TAMPERED(expected=f"at most {MAX_ENTRIES} entries", found=str(count))
    for _ in range(count):
        (size,), at = _COUNT.unpack_from(data, at), at + _COUNT.size
        if size > MAX_NAME:
            raise TAMPERED(expected=f"names of at most {MAX_NAME} bytes", found=str(size))
        name, at = data[at : at + size].decode(), at + size
        items[name] = Item(*_ITEM.unpack_from(data, at))
        at += _ITEM.size
    return items
