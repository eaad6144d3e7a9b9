"""Heads: one hash per commit, each naming its parent (spec/state.md 3).

h0 = digest(STATE_HEAD, identity); h_{n+1} = digest(STATE_HEAD, h_n, u64 height, commit digest). The head record is the
sealed entry ``h``: everything a worker needs to check the rest of the store, and the links that the committee has not
yet endorsed.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from cloister.core.encoding.contexts import Context, digest
from cloister.core.encoding.hexes import need_bytes, need_uint
from cloister.core.state.index import BUCKETS
from cloister.core.state.sealing import TAMPERED

HEAD_SLOT = "h"
MAX_PENDING = 512
NO_DIGEST = bytes(32)
_FIXED = struct.Struct(">BQ32s32s32sIQQ32s32s32sH")
_VERSION = 1
_BYTE = [bytes([n]) for n in range(256)]


def genesis_head(identity: bytes) -> bytes:
    """h0 of an agent version: the head before its first commit. 32 bytes."""
    return digest(Context.STATE_HEAD, identity)


def job_digest(queue: str, body: bytes, not_before: int) -> bytes:
    """What a commit digest says about one outbox job. 32 bytes."""
    at = need_uint("not_before", not_before, 64).to_bytes(8, "big")
    return digest(Context.STATE_HEAD, b"job", queue.encode(), at, body)


def commit_digest(
    puts: Mapping[str, bytes | None], jobs: Sequence[bytes], index: bytes = NO_DIGEST, request: bytes = b""
) -> bytes:
    """Digest of a commit: what it wrote, and the index root after it. 32 bytes."""
    return commit_of(writes_digest(puts, jobs, request), index)


def commit_of(writes: bytes, index: bytes) -> bytes:
    """digest(STATE_HEAD, "commit", writes digest, index root): a head pins the index, whoever holds a key. 32 bytes."""
    return digest(Context.STATE_HEAD, b"commit", need_bytes("writes", writes, 32), need_bytes("index root", index, 32))


def writes_digest(puts: Mapping[str, bytes | None], jobs: Sequence[bytes], request: bytes = b"") -> bytes:
    """Digest of sorted (stored key, SHA-256 of ciphertext or zero), job digests and the request tag. 32 bytes."""
    digests = {key: NO_DIGEST if value is None else hashlib.sha256(value).digest() for key, value in puts.items()}
    return writes_of(digests, jobs, request)


def writes_of(digests: Mapping[str, bytes], jobs: Sequence[bytes], request: bytes) -> bytes:
    """``writes_digest`` where the SHA-256 of each ciphertext is known already; NO_DIGEST: a deletion. 32 bytes."""
    pairs = [len(key).to_bytes(2, "big") + key.encode() + value for key, value in sorted(digests.items())]
    return digest(Context.STATE_HEAD, b"writes", b"".join(pairs), b"".join(jobs), request)


def next_head(parent: bytes, height: int, commit: bytes) -> bytes:
    """The head at ``height`` (its own, parent's + 1) after a commit. 32 bytes."""
    at = need_uint("height", height, 64).to_bytes(8, "big")
    return digest(Context.STATE_HEAD, need_bytes("parent", parent, 32), at, need_bytes("commit", commit, 32))


@dataclass(frozen=True, slots=True)
class Link:
    """One step of the chain, as the committee endorses it."""

    height: int
    parent: bytes
    head: bytes


@dataclass(frozen=True, slots=True)
class HeadRecord:
    """The newest commit of an agent.

    height, head, parent, commit: of this commit. keys, size: live values and their plain bytes. request_id: of the
    last commit ("" before the first). base_height, base_head: a head below which everything is endorsed (or genesis).
    pending: commit digests from base_height + 1 to height. index, marks: bucket number -> SHA-256 of its ciphertext.
    tag_key: the key of request tags that a re-seal carried over; zero for a state that was never re-sealed.
    writes: digest of what the last commit wrote: with the index it makes the commit digest.
    The head covers the index through the commit digest. Marks name heads, so they stand beside it in this record.
    """

    height: int
    head: bytes
    parent: bytes
    commit: bytes
    keys: int
    size: int
    request_id: str
    base_height: int
    base_head: bytes
    pending: tuple[bytes, ...]
    index: Mapping[int, bytes]
    marks: Mapping[int, bytes]
    tag_key: bytes = field(default=NO_DIGEST, repr=False)
    writes: bytes = NO_DIGEST

    @property
    def resealed(self) -> bool:
        """Whether this state was sealed under earlier epochs before."""
        return self.tag_key != NO_DIGEST

    def carried_tag_key(self) -> bytes:
        """What ``StateKeys.request_tag`` needs: the carried key, or nothing."""
        return self.tag_key if self.resealed else b""

    def area(self, identity: bytes) -> str:
        """What the stored keys of its buckets end in: nothing, or ".<16 hex digits>" of these epochs' h0."""
        return f".{genesis_head(identity)[:8].hex()}" if self.resealed else ""

    def links(self) -> list[Link]:
        """Every step above the base, oldest first: what may still need endorsement."""
        steps, parent = [], self.base_head
        for number, commit in enumerate(self.pending, self.base_height + 1):
            head = next_head(parent, number, commit)
            steps.append(Link(number, parent, head))
            parent = head
        return steps

    def ancestor(self, height: int) -> bytes | None:
        """The head of this chain at ``height``; None below the base or above this record."""
        if height == self.base_height:
            return self.base_head
        if height == self.height:
            return self.head
        if not self.base_height < height <= self.height:
            return None
        return self.links()[height - self.base_height - 1].head

    def trimmed(self, endorsed: int) -> HeadRecord:
        """The same record without the links up to an endorsed height."""
        height = min(endorsed, self.height)
        head = self.ancestor(height)
        if head is None or height == self.base_height:
            return self
        return replace(self, base_height=height, base_head=head, pending=self.pending[height - self.base_height :])

    def __bytes__(self) -> bytes:
        request = self.request_id.encode()
        fixed = _FIXED.pack(
            _VERSION,
            self.height,
            self.head,
            self.parent,
            self.commit,
            self.keys,
            self.size,
            self.base_height,
            self.base_head,
            self.tag_key,
            self.writes,
            len(self.pending),
        )
        maps = _pack_map(self.index) + _pack_map(self.marks)
        return fixed + b"".join(self.pending) + bytes([len(request)]) + request + maps

    @classmethod
    def parse(cls, data: bytes) -> HeadRecord:
        """The record of these bytes, its chain recomputed. Raises StateError state.tampered."""
        try:
            record = _parse(data)
        except (struct.error, IndexError, UnicodeDecodeError):
            raise TAMPERED(expected="a head record", found="bytes of another form") from None
        if bytes(record) != data:
            raise TAMPERED(expected="a head record in canonical form", found="another form")
        _check(record)
        return record


def genesis_record(identity: bytes) -> HeadRecord:
    """The record of an agent version that never committed."""
    head = genesis_head(identity)
    return HeadRecord(0, head, NO_DIGEST, NO_DIGEST, 0, 0, "", 0, head, (), {}, {})


def index_root(index: Mapping[int, bytes], keys: int, size: int) -> bytes:
    """Digest of the bucket digests and totals. 32 bytes."""
    return digest(Context.STATE_HEAD, b"index", _pack_map(index), keys.to_bytes(4, "big"), size.to_bytes(8, "big"))


def _parse(data: bytes) -> HeadRecord:
    fixed = _FIXED.unpack_from(data, 0)
    version, height, head, parent, commit, keys, size, base, base_head, tag_key, writes, pending = fixed
    if version != _VERSION or pending > MAX_PENDING:
        raise TAMPERED(expected="head record version 1", found=f"version {version}, {pending} pending")
    at = _FIXED.size
    commits = tuple(data[at + 32 * i : at + 32 * i + 32] for i in range(pending))
    at += 32 * pending
    request = data[at + 1 : at + 1 + data[at]].decode()
    at += 1 + data[at]
    index, at = _unpack_map(data, at)
    marks, at = _unpack_map(data, at)
    return HeadRecord(
        height, head, parent, commit, keys, size, request, base, base_head, commits, index, marks, tag_key, writes
    )


def _pack_map(digests: Mapping[int, bytes]) -> bytes:
    return _BYTE[len(digests)] + b"".join([_BYTE[n] + digests[n] for n in sorted(digests)])


def _unpack_map(data: bytes, at: int) -> tuple[dict[int, bytes], int]:
    count, at = data[at], at + 1
    if count > BUCKETS or at + 33 * count > len(data):
        raise TAMPERED(expected=f"at most {BUCKETS} digests, whole", found=f"{count}, {len(data) - at} bytes")
    digests = {data[at + 33 * i]: data[at + 33 * i + 1 : at + 33 * i + 33] for i in range(count)}
    return digests, at + 33 * count


def _check(record: HeadRecord) -> None:
    links = record.links()
    tip = Link(record.height, record.parent, record.head)
    if not links or links[-1] != tip or record.pending[-1] != record.commit:
        raise TAMPERED(expected="a chain that ends in the record's head", found="one that does not")
    if commit_of(record.writes, index_root(record.index, record.keys, record.size)) != record.commit:
        raise TAMPERED(expected="the index that the commit was made over", found="another one")
    if any(number >= BUCKETS for number in (*record.index, *record.marks)):
        raise TAMPERED(expected=f"{BUCKETS} buckets", found="a higher bucket number")
