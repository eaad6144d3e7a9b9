"""From what a request wrote to the puts of one commit (spec/state.md 4). Pure."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cloister.core.errors import StateError, define
from cloister.core.state.heads import (
    HEAD_SLOT,
    MAX_PENDING,
    NO_DIGEST,
    HeadRecord,
    commit_of,
    index_root,
    job_digest,
    next_head,
    writes_of,
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

    jobs: (queue, sealed body, not_before). buckets, marks: those that changed, as they are after the commit;
    marked: which of the 64 buckets of marks that is."""

    record: HeadRecord
    puts: Mapping[str, bytes | None]
    jobs: Sequence[tuple[str, bytes, int]]
    buckets: Mapping[int, Bucket]
    marks: Marks
    marked: int


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
    area, draft = parent.area(keys.identity), _Draft(keys, height, rng)
    after, count, size = _seal_values(draft, parent, buckets, writes)  # 2
    _check_totals(after, count, size, limits)
    changed = {n: draft.put(bucket_slot(n, area), "", bytes(bucket)) for n, bucket in after.items()}  # 3
    index = {**parent.index, **changed}
    sealed = [(j.queue, keys.seal_at(job_slot(j.queue), "", j.body, height, rng), j.not_before) for j in jobs]
    writes_made = writes_of(draft.digests, [job_digest(*job) for job in sealed], tag)  # 4
    commit = commit_of(writes_made, index_root(index, count, size))
    head = next_head(parent.head, height, commit)
    done = marks.with_done(Done(tag, height, head))  # 5
    number = bucket_of(tag)
    record = HeadRecord(
        height=height,
        head=head,
        parent=parent.head,
        commit=commit,
        keys=count,
        size=size,
        request_id=request_id,
        base_height=parent.base_height,
        base_head=parent.base_head,
        pending=(*parent.pending, commit),
        index=index,
        marks={**parent.marks, number: draft.put(marks_slot(number, area), "", bytes(done))},
        tag_key=parent.tag_key,
        writes=writes_made,
    )
    draft.put(HEAD_SLOT, "", bytes(record))  # 6
    return CommitPlan(record, draft.puts, sealed, after, done, number)


class _Draft:
    """The puts of a commit that is being made, and the SHA-256 of each: one seal, one hash of every ciphertext."""

    def __init__(self, keys: StateKeys, height: int, rng: Rng) -> None:
        self.keys, self._height, self._rng = keys, height, rng
        self.puts: dict[str, bytes | None] = {}
        self.digests: dict[str, bytes] = {}

    def put(self, stored: str, name: str, value: bytes) -> bytes:
        """Seal a value for its place; returns the digest of the ciphertext."""
        blob = self.puts[stored] = self.keys.seal_at(stored, name, value, self._height, self._rng)
        made = self.digests[stored] = hashlib.sha256(blob).digest()
        return made

    def delete(self, stored: str) -> None:
        """Nothing stands at this place after the commit."""
        self.puts[stored], self.digests[stored] = None, NO_DIGEST


def _seal_values(
    draft: _Draft, parent: HeadRecord, buckets: Mapping[int, Bucket], writes: Mapping[str, bytes | None]
) -> tuple[dict[int, Bucket], int, int]:
    """The buckets that changed, and how many keys and plain bytes there are after the commit."""
    after: dict[int, Bucket] = {}
    count, size = parent.keys, parent.size
    for name, value in writes.items():
        stored = draft.keys.name(name)
        number = bucket_of(stored)
        bucket = after.get(number, buckets[number])
        old = bucket.items.get(name)
        if old is not None:
            count, size = count - 1, size - old.size
        if value is not None:
            after[number] = bucket.with_item(name, Item(len(value), draft.put(stored, name, value)))
            count, size = count + 1, size + len(value)
        elif old is not None:
            draft.delete(stored)
            after[number] = bucket.with_item(name, None)
    return after, count, size


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


def _check_totals(after: Mapping[int, Bucket], count: int, size: int, top: Limits) -> None:
    if count > top.keys or any(len(b.items) > MAX_ENTRIES for b in after.values()):
        raise TOO_LARGE(expected=f"at most {top.keys} keys", found=f"{count} keys")
    if size > top.size:
        raise TOO_LARGE(expected=f"at most {top.size} bytes of state", found=f"{size} bytes")
