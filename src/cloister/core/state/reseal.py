"""From state under earlier keys to the same state under new ones: what a re-seal writes (spec/epochs.md 7). Pure.

What is written while a re-seal runs stands at places of its own, so that the old state stays whole until the head
record changes. Layouts (plain, inside the seal under the new key)::

    journal  r.<two hex><area>   SHA-256 of the old bucket's ciphertext 32 | bucket of the values written anew
    leftover g<area>             u8 length | old area | stored name 16*     what the old state leaves behind
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from cloister.core.encoding.contexts import Context, digest
from cloister.core.encoding.hexes import need_bytes
from cloister.core.state.heads import HeadRecord, commit_of, genesis_head, genesis_record, index_root, next_head
from cloister.core.state.index import BUCKETS, MAX_ENTRIES, Bucket, Item, bucket_of, bucket_slot, marks_slot
from cloister.core.state.sealing import MAX_PLAIN, TAMPERED, TOO_LARGE, StateKeys

_NAME = 16
_MAX_AREA = 32


def new_area(keys: StateKeys) -> str:
    """What stored keys of a state re-sealed under these keys end in."""
    return f".{genesis_head(keys.identity)[:8].hex()}"


def journal_slot(number: int, area: str) -> str:
    """Where the progress on one old bucket is kept."""
    return f"r.{number:02x}{area}"


def leftover_slot(area: str) -> str:
    """Where the list of what the old state leaves behind is kept."""
    return f"g{area}"


@dataclass(frozen=True, slots=True)
class Journal:
    """One old bucket, written anew: the digest of its ciphertext, and its items under the new keys."""

    old: bytes
    bucket: Bucket

    def __bytes__(self) -> bytes:
        return need_bytes("digest", self.old, 32) + bytes(self.bucket)

    @classmethod
    def parse(cls, data: bytes) -> Journal:
        """The journal of these bytes. Raises StateError state.tampered."""
        if len(data) < 32:
            raise TAMPERED(expected="a journal of a re-seal", found=f"{len(data)} bytes")
        return cls(data[:32], Bucket.parse(data[32:]))


@dataclass(frozen=True, slots=True)
class Leftover:
    """What the old state leaves in the store: the area of its buckets, and the stored names (hex) of its values."""

    area: str
    names: tuple[str, ...]

    def __bytes__(self) -> bytes:
        area = self.area.encode()
        data = bytes([len(area)]) + area + b"".join(bytes.fromhex(name) for name in self.names)
        if len(data) > MAX_PLAIN:
            raise TOO_LARGE(expected=f"at most {MAX_PLAIN} bytes of names", found=f"{len(data)} bytes")
        return data

    @classmethod
    def parse(cls, data: bytes) -> Leftover:
        """The list of these bytes. Raises StateError state.tampered."""
        size = data[0] if data else _MAX_AREA + 1
        names = data[1 + size :]
        if size > _MAX_AREA or len(data) < 1 + size or len(names) % _NAME or not data[1 : 1 + size].isascii():
            raise TAMPERED(expected="a list of stored names", found=f"{len(data)} bytes of another form")
        found = tuple(names[at : at + _NAME].hex() for at in range(0, len(names), _NAME))
        return cls(data[1 : 1 + size].decode(), found)

    def places(self, area: str) -> list[str]:
        """Every stored key that may go, once a state in ``area`` is in force: values, buckets, marks, journals."""
        slots = [slot(n, self.area) for n in range(BUCKETS) for slot in (bucket_slot, marks_slot)]
        return [*self.names, *slots, *(journal_slot(n, area) for n in range(BUCKETS))]


def rebucket(keys: StateKeys, parts: Iterable[Bucket]) -> dict[int, Bucket]:
    """The values of all these buckets, by the bucket that their stored key under ``keys`` belongs to.

    Raises StateError state.too_large for more names than a bucket takes."""
    found: dict[int, dict[str, Item]] = {}
    for part in parts:
        for name, item in part.items.items():
            found.setdefault(bucket_of(keys.name(name)), {})[name] = item
    if any(len(items) > MAX_ENTRIES for items in found.values()):
        raise TOO_LARGE(expected=f"at most {MAX_ENTRIES} names in a bucket", found="more")
    return {number: Bucket(items) for number, items in sorted(found.items())}


def reseal_writes(identity: bytes) -> bytes:
    """What stands for the writes of a re-seal: digest(STATE_HEAD, "reseal", h0 of the new epochs). 32 bytes."""
    return digest(Context.STATE_HEAD, b"reseal", genesis_head(identity))


def resealed_record(
    keys: StateKeys,
    old: HeadRecord | None,
    tag_key: bytes,
    buckets: Sequence[Bucket],
    index: Mapping[int, bytes],
    marks: Mapping[int, bytes],
) -> HeadRecord:
    """The head record that puts a re-seal in force: the child of the old head, or of h0 when there was no state.

    ``tag_key``: the one that the old state used. ``index``, ``marks``: digests of the new buckets."""
    parent = old or genesis_record(keys.identity)
    count = sum(len(bucket.items) for bucket in buckets)
    size = sum(item.size for bucket in buckets for item in bucket.items.values())
    writes, height = reseal_writes(keys.identity), parent.height + 1
    commit = commit_of(writes, index_root(index, count, size))
    return HeadRecord(
        height=height,
        head=next_head(parent.head, height, commit),
        parent=parent.head,
        commit=commit,
        keys=count,
        size=size,
        request_id="",
        base_height=parent.height,
        base_head=parent.head,
        pending=(commit,),
        index=dict(index),
        marks=dict(marks),
        tag_key=need_bytes("tag key", tag_key, 32),
        writes=writes,
    )
