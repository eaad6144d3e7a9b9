"""From what a request wrote to the puts of one commit (spec/state.md 4). Pure."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from cloister.core.errors import StateError, define
from cloister.core.state.heads import (
    HEAD_SLOT,
    MAX_PENDING,
    HeadRecord,
    commit_of,
    index_root,
    job_digest,
    next_head,
    writes_digest,
)
from cloister.core.state.index import MAX_ENTRIES, Bucket, Done, Item, Marks, bucket_of, bucket_slot, marks_slot
from cloister.core.state.sealing import TOO_LARGE, Rng, StateKeys, job_slot

MAX_REQUEST_ID = 64

UNENDORSED = define(
    "state.unendorsed",
    StateError,
    check=f"at most {MAX_PENDING} commits of an agent wait for the committee's endorsement",
    remedy="retry in a second; if it stays, too few gatekeepers answer",
    status=503,
)
BAD_REQUEST_ID = define(
    "state.bad_request_id",
    StateError,
    check=f"a request id is 1 to {MAX_REQUEST_ID} characters of [a-z0-9.-]",
    remedy="use the 16 bytes hex of the sealed request's head",
)
_REQUEST_ID = re.compile(rf"[a-z0-9.\-]{{1,{MAX_REQUEST_ID}}}")


@dataclass(frozen=True, slots=True)
class Limits:
    """Caps of one agent: live keys, plain bytes in all; writes, jobs, plain bytes per commit; reads per request."""

    keys: int = 16_384
    size: int = 64 << 20
    writes: int = 128
    jobs: int = 64
    commit_size: int = 8 << 20
    reads: int = 4096


DEFAULT_LIMITS = Limits()


@dataclass(frozen=True, slots=True)
class OutJob:
    """An outbox job, plain: sealed for its queue at commit. ``not_before``: Unix seconds."""

    queue: str
    body: bytes
    not_before: int = 0


@dataclass(frozen=True, slots=True)
class CommitPlan:
    """What goes into one fabric transaction. puts: stored key -> blob, None deletes; the head record is among them.

    jobs: (queue, sealed body, not_before). buckets, marks: those that changed, as they are after the commit."""

    record: HeadRecord
    puts: Mapping[str, bytes | None]
    jobs: Sequence[tuple[str, bytes, int]]
    buckets: Mapping[int, Bucket]
    marks: Marks


def check_request_id(request_id: object) -> str:
    """The request id, if it is one. Raises StateError state.bad_request_id."""
    if not isinstance(request_id, str) or not _REQUEST_ID.fullmatch(request_id):
        raise BAD_REQUEST_ID(expected="a request id", found=f"{type(request_id).__name__} of another form")
    return request_id


def plan_commit(
    keys: StateKeys,
    parent: HeadRecord,
    buckets: Mapping[int, Bucket],
    marks: Marks,
    writes: Mapping[str, bytes | None],
    jobs: Sequence[OutJob],
    request_id: str,
    rng: Rng,
    limits: Limits = DEFAULT_LIMITS,
) -> CommitPlan:
    """The next commit on ``parent``. ``buckets``: those of the written names; ``marks``: those of the request's tag.

    1. the caps hold; 2. values are sealed at the new height and named in their buckets; 3. changed buckets and jobs are
    sealed; 4. the head is chained over them; 5. the request is marked done with that head; 6. the record is sealed.
    Trim ``parent`` first to what is endorsed. Raises StateError: too_large, unendorsed, bad_name, bad_request_id.
    """
    check_buffered(writes, jobs, limits)  # 1
    if len(parent.pending) >= MAX_PENDING:
        raise UNENDORSED(expected=f"fewer than {MAX_PENDING} waiting", found=str(len(parent.pending)))
    tag, height = keys.request_tag(check_request_id(request_id), parent.carried_tag_key()), parent.height + 1
    area = parent.area(keys.identity)
    puts, after = _seal_values(keys, buckets, writes, height, rng)  # 2
    count, size = _totals(parent, buckets, after, limits)
    index = {**parent.index, **_seal_buckets(keys, after, puts, height, rng, area)}  # 3
    sealed = [(j.queue, keys.seal_at(job_slot(j.queue), "", j.body, height, rng), j.not_before) for j in jobs]
    writes_made = writes_digest(puts, [job_digest(*job) for job in sealed], tag)  # 4
    commit = commit_of(writes_made, index_root(index, count, size))
    head = next_head(parent.head, height, commit)
    done = marks.with_done(Done(tag, height, head))  # 5
    slot = marks_slot(bucket_of(tag), area)
    blob = puts[slot] = keys.seal_at(slot, "", bytes(done), height, rng)
    record = replace(
        parent,
        height=height,
        head=head,
        parent=parent.head,
        commit=commit,
        keys=count,
        size=size,
        request_id=request_id,
        pending=(*parent.pending, commit),
        index=index,
        marks={**parent.marks, bucket_of(tag): hashlib.sha256(blob).digest()},
        writes=writes_made,
    )
    puts[HEAD_SLOT] = keys.seal_at(HEAD_SLOT, "", bytes(record), height, rng)  # 6
    return CommitPlan(record, puts, sealed, after, done)


def _seal_values(
    keys: StateKeys, buckets: Mapping[int, Bucket], writes: Mapping[str, bytes | None], height: int, rng: Rng
) -> tuple[dict[str, bytes | None], dict[int, Bucket]]:
    puts: dict[str, bytes | None] = {}
    after: dict[int, Bucket] = {}
    for name, value in writes.items():
        stored = keys.name(name)
        number = bucket_of(stored)
        bucket = after.get(number, buckets[number])
        if value is None:
            if name in bucket.items:
                puts[stored], after[number] = None, bucket.with_item(name, None)
            continue
        blob = puts[stored] = keys.seal(name, value, height, rng)
        after[number] = bucket.with_item(name, Item(len(value), hashlib.sha256(blob).digest()))
    return puts, after


def _seal_buckets(
    keys: StateKeys, after: Mapping[int, Bucket], puts: dict[str, bytes | None], height: int, rng: Rng, area: str
) -> dict[int, bytes]:
    index = {}
    for number, bucket in after.items():
        slot = bucket_slot(number, area)
        blob = puts[slot] = keys.seal_at(slot, "", bytes(bucket), height, rng)
        index[number] = hashlib.sha256(blob).digest()
    return index


def check_buffered(writes: Mapping[str, bytes | None], jobs: Sequence[OutJob], top: Limits) -> None:
    """Raise StateError state.too_large unless this fits into one commit."""
    if len(writes) > top.writes or len(jobs) > top.jobs:
        raise TOO_LARGE(
            expected=f"at most {top.writes} writes and {top.jobs} jobs in one commit",
            found=f"{len(writes)} writes, {len(jobs)} jobs",
        )
    size = sum(len(v) for v in writes.values() if v is not None) + sum(len(job.body) for job in jobs)
    if size > top.commit_size:
        raise TOO_LARGE(expected=f"at most {top.commit_size} bytes in one commit", found=str(size))


def _totals(
    parent: HeadRecord, before: Mapping[int, Bucket], after: Mapping[int, Bucket], top: Limits
) -> tuple[int, int]:
    count = parent.keys + sum(len(after[n].items) - len(before[n].items) for n in after)
    size = parent.size + sum(_bytes(after[n]) - _bytes(before[n]) for n in after)
    if count > top.keys or any(len(b.items) > MAX_ENTRIES for b in after.values()):
        raise TOO_LARGE(expected=f"at most {top.keys} keys", found=f"{count} keys")
    if size > top.size:
        raise TOO_LARGE(expected=f"at most {top.size} bytes of state", found=f"{size} bytes")
    return count, size


def _bytes(bucket: Bucket) -> int:
    return sum(item.size for item in bucket.items.values())
