"""An agent's state on this worker: reads, writes and lists per request, one atomic commit (spec/state.md 5).

``AgentState`` opens the sealed head of the store and reads everything else through its digests. A ``Transaction``
works on one head. At commit it follows the store's newest head as long as nothing it read has changed; else the
caller gets ``state.conflict`` and runs the handler again.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass

from cloister.core.errors import CloisterError, StateError, define
from cloister.core.state.endorse import FORKED, ROLLED_BACK, Answer, require_fresh
from cloister.core.state.heads import HEAD_SLOT, HeadRecord, genesis_record
from cloister.core.state.index import Bucket, Done, Marks, bucket_of, bucket_slot, marks_slot
from cloister.core.state.plan import (
    DEFAULT_LIMITS,
    CommitPlan,
    Limits,
    OutJob,
    check_buffered,
    check_request_id,
    plan_commit,
)
from cloister.core.state.sealing import TAMPERED, TOO_LARGE, Rng, StateKeys, check_name, job_slot
from cloister.fabric.ports import CONFLICT, UNKNOWN_OUTCOME, Expect, Job, Put, Rev, State, Tx

Names = list[str]

# Names that start so hold what the worker itself keeps with an agent's state.
RESERVED = "\0"
SECRETS_NAME = "\0secrets"

_REBASES = 8
_REPEATS = 3


class AlreadyDoneError(StateError):
    """The request committed before. ``outcome``: its height and head, or None if only the store remembers it."""

    outcome: Done | None = None


ALREADY_DONE = define(
    "state.already_done",
    AlreadyDoneError,
    check="a request id commits once",
    remedy="nothing to do: the effects happened. Use a new request id for a new effect",
    status=409,
)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One head of the store. ``rev`` None: nothing stands in its place."""

    record: HeadRecord
    rev: Rev | None


class AgentState:
    """State of one agent version over the fabric's ciphertext store. ``load`` comes first."""

    def __init__(self, store: State, keys: StateKeys, agent: str, rng: Rng, *, limits: Limits = DEFAULT_LIMITS) -> None:
        """``agent``: its id as hex without 0x. ``rng(n)``: n random bytes."""
        self._store, self._keys, self._agent, self._rng, self.limits = store, keys, agent, rng, limits
        self._lock = asyncio.Lock()
        self._newest: Snapshot | None = None
        self._turn: object | None = None
        self._read_at: object | None = None
        self._endorsed, self._loaded = 0, False
        self._left: Rev | None = None
        self._buckets: dict[int, tuple[bytes, Bucket]] = {}
        self._marks: dict[int, tuple[bytes, Marks]] = {}

    async def load(self, answers: Sequence[Answer], quorum: int, *, over: bool = False) -> HeadRecord:
        """Check the store against what the committee remembers (``require_fresh``), then allow its use.

        ``record.links()`` of the result are the heads that may still need endorsement. ``over``: these are not the
        agent's first epochs. Then a head record that does not open counts as none, if no member knows a head: what
        was never endorsed under earlier epochs, or was left behind, is written over. Raises StateError."""
        if over and not any(answer.height for answer in answers):
            await self._leave_behind()
        record = (await self.snapshot()).record
        require_fresh(record, answers, quorum)
        self._loaded = True
        return record

    async def _leave_behind(self) -> None:
        entry = await self._store.get(self._agent, HEAD_SLOT)
        if entry is None:
            return
        try:
            self._keys.open_at(HEAD_SLOT, entry.value)
        except StateError:
            self._left = entry.rev

    def endorsed(self, height: int) -> None:
        """The committee endorsed every head up to ``height``: later records drop those links."""
        self._endorsed = max(self._endorsed, height)

    @property
    def height(self) -> int:
        """Of the newest head that this worker has seen."""
        return 0 if self._newest is None else self._newest.record.height

    async def begin(self, request_id: str, *, fence: int | None = None) -> Transaction:
        """A transaction on the newest head. ``fence``: the token of the agent's lease, for commands.

        Raises ALREADY_DONE if this request committed before, StateError if the store is not what it should be."""
        if not self._loaded:
            raise RuntimeError("load() comes before begin(): state of unknown age is not served")
        snapshot = await self.snapshot()
        await self._refuse_repeat(snapshot, check_request_id(request_id))
        return Transaction(self, snapshot, fence)

    def begin_now(self, request_id: str) -> Transaction | None:
        """``begin`` where the head was read in this turn of the loop, and nothing ever committed, so that no request
        can be a repeat. None: ask ``begin``. Raises StateError state.bad_request_id."""
        newest = self._newest
        if self._read_at is None or newest is None or newest.record.marks or not self._loaded:
            return None
        check_request_id(request_id)
        return Transaction(self, newest, None)

    async def peek(self, name: str) -> bytes | None:
        """One value at the newest head, outside of any request. Raises StateError."""
        for left in reversed(range(_REBASES)):
            snapshot = await self.snapshot(again=True)
            stored = self._keys.name(name)
            item = (await self.bucket(snapshot, bucket_of(stored))).items.get(name)
            try:
                return None if item is None else self._keys.open(name, await self.blob(snapshot, stored, item.digest))
            except StateError as error:
                if error.code != CONFLICT.code or not left:
                    raise
        raise RuntimeError("unreachable: the last attempt returns or raises")

    def open_job(self, queue: str, blob: bytes) -> bytes:
        """The plain body of a job that this agent put into ``queue``. Raises StateError state.tampered."""
        return self._keys.open_at(job_slot(queue), blob).value

    async def snapshot(self, *, again: bool = False) -> Snapshot:
        """The newest head of the store, never older than one seen before. Raises StateError.

        Whoever asks in one turn of the event loop shares one read, which was made after all of them had come;
        ``again``: not so."""
        if self._read_at is not None and self._newest is not None and not again:
            return self._newest
        before = self._newest  # what was known when we asked: answers may arrive out of order
        turn = self._begin_turn()
        entry = await self._store.get(self._agent, HEAD_SLOT)
        if self._turn is turn:  # the store answered at once: what was scheduled before the read may use it
            self._read_at = turn
        if entry is not None and before is not None and entry.rev == before.rev:
            return before
        found = Snapshot(genesis_record(self._keys.identity), None if entry is None else entry.rev)
        if entry is not None and entry.rev != self._left:
            opened = self._keys.open_at(HEAD_SLOT, entry.value)
            found = Snapshot(HeadRecord.parse(opened.value), entry.rev)
        if before is not None:
            _check_follows(found.record, before.record)
        self._adopt(found)
        return found

    def known(self, snapshot: Snapshot) -> Snapshot:
        """The newest head that this worker has seen, without asking the store: not older than ``snapshot``."""
        newest = self._newest
        return snapshot if newest is None or newest.record.height <= snapshot.record.height else newest

    def _begin_turn(self) -> object:
        """A name for the time until everything has run that is scheduled now."""
        if self._turn is None:
            self._turn = object()
            asyncio.get_running_loop().call_soon(self._end_turn)
        return self._turn

    def _end_turn(self) -> None:
        self._turn = self._read_at = None

    def _adopt(self, found: Snapshot) -> None:
        if self._newest is None or self._newest.record.height < found.record.height:
            self._newest = found

    async def bucket(self, snapshot: Snapshot, number: int) -> Bucket:
        """One of the 64 buckets as it is at a head. Raises StateError."""
        digest = snapshot.record.index.get(number)
        if digest is None:
            return Bucket()
        known = self._buckets.get(number)
        if known is None or known[0] != digest:
            slot = bucket_slot(number, snapshot.record.area(self._keys.identity))
            blob = await self.blob(snapshot, slot, digest)
            known = self._buckets[number] = (digest, Bucket.parse(self._keys.open_at(slot, blob).value))
        return known[1]

    async def _marks_of(self, snapshot: Snapshot, tag: bytes) -> Marks:
        number = bucket_of(tag)
        digest = snapshot.record.marks.get(number)
        if digest is None:
            return Marks()
        known = self._marks.get(number)
        if known is None or known[0] != digest:
            slot = marks_slot(number, snapshot.record.area(self._keys.identity))
            blob = await self.blob(snapshot, slot, digest)
            known = self._marks[number] = (digest, Marks.parse(self._keys.open_at(slot, blob).value))
        return known[1]

    async def _refuse_repeat(self, snapshot: Snapshot, request_id: str) -> Marks:
        if not snapshot.record.marks:
            return Marks()  # nothing ever committed: no request can be a repeat
        tag = self._keys.request_tag(request_id, snapshot.record.carried_tag_key())
        marks = await self._marks_of(snapshot, tag)
        done = marks.find(tag)
        if done is not None:
            raise _already_done(done)
        return marks

    async def blob(self, snapshot: Snapshot, stored: str, digest: bytes) -> bytes:
        """The ciphertext with this digest: the newest, or one of the history if another commit came between."""
        entry = await self._store.get(self._agent, stored)
        if entry is not None and _is(entry.value, digest):
            return entry.value
        for old in await self._store.history(self._agent, stored):
            if _is(old.value, digest):
                return old.value
        if (await self.snapshot(again=True)).record.height > snapshot.record.height:
            raise CONFLICT(expected="a head whose values are still stored", found="a newer head")
        raise TAMPERED(expected="the ciphertext that the head names", found="another one, or none")

    async def _submit(self, tx: Tx) -> dict[str, Rev]:
        for _ in range(_REPEATS - 1):
            try:
                return await self._store.commit(self._agent, tx)
            except StateError as error:
                if error.code != UNKNOWN_OUTCOME.code:
                    raise
        return await self._store.commit(self._agent, tx)

    async def _committed(self, plan: CommitPlan, revs: dict[str, Rev]) -> None:
        """Make sure that it was this plan that the store kept, and remember it."""
        ours = plan.puts[HEAD_SLOT]
        entry = await self._store.get(self._agent, HEAD_SLOT)
        if entry is None or entry.value != ours:
            kept = await self._store.history(self._agent, HEAD_SLOT)
            if all(old.value != ours for old in kept):
                await self._refuse_repeat(await self.snapshot(again=True), plan.record.request_id)
                raise _already_done(None)
        self._adopt(Snapshot(plan.record, revs.get(HEAD_SLOT)))
        for number, bucket in plan.buckets.items():
            self._buckets[number] = (plan.record.index[number], bucket)
        self._marks[plan.marked] = (plan.record.marks[plan.marked], plan.marks)


class Transaction:
    """Reads and buffered writes of one request on one head. Not shared between requests."""

    def __init__(self, state: AgentState, snapshot: Snapshot, fence: int | None) -> None:
        self._state, self._snapshot, self._fence = state, snapshot, fence
        self._reads: dict[str, bytes | None] = {}
        self._lists: dict[tuple[str, str, int], Names] = {}
        self._writes: dict[str, bytes | None] = {}
        self._jobs: list[OutJob] = []
        self._open = True

    @property
    def record(self) -> HeadRecord:
        """The head that this transaction reads."""
        return self._snapshot.record

    @property
    def pending(self) -> bool:
        """Whether there is something to commit."""
        return bool(self._writes or self._jobs)

    async def get(self, name: str) -> bytes | None:
        """The value, our own write first; None if there is none. Raises StateError."""
        if check_name(name) in self._writes:
            return self._writes[name]
        self._check_room()
        stored = self._state._keys.name(name)
        digest = self._reads[name] = await self._digest(self._snapshot, name, stored)
        if digest is None:
            return None
        return self._state._keys.open(name, await self._state.blob(self._snapshot, stored, digest), stored)

    async def put(self, name: str, value: bytes) -> None:
        """Write at commit. Raises StateError bad_name, too_large."""
        if not isinstance(value, bytes):
            raise TypeError(f"a value is bytes, not {type(value).__name__}")
        self._buffer(name, value)

    async def delete(self, name: str) -> None:
        """Delete at commit; deleting what is not there is no error."""
        self._buffer(name, None)

    async def list(self, prefix: str = "", *, after: str = "", limit: int = 1000) -> Names:
        """Names that start with ``prefix`` and come after ``after``, sorted, at most ``limit``; own writes included.

        Reserved names only for a prefix that is reserved itself: ``scope.py`` keeps agent code from asking."""
        self._check_room()
        limit = max(0, min(limit, self._state.limits.keys))
        span = limit + self._state.limits.writes
        stored = self._lists[prefix, after, span] = await self._names(self._snapshot, prefix, after, span)
        gone = {name for name, value in self._writes.items() if value is None}
        new = {n for n in self._writes if n not in gone and n.startswith(prefix) and n > after}
        return sorted((set(stored) - gone) | new)[:limit]

    async def enqueue(self, queue: str, body: bytes, *, not_before: int = 0) -> None:
        """An outbox job, sealed and stored with the commit. ``not_before``: Unix seconds."""
        check_buffered(self._writes, [*self._jobs, OutJob(queue, body, not_before)], self._state.limits)
        self._jobs.append(OutJob(queue, body, not_before))

    async def commit(self, request_id: str) -> HeadRecord:
        """Make the writes and jobs durable in one step; without any, nothing is stored and the head read is returned.

        1. take the newest head; 2. nothing that was read has changed; 3. the request did not commit before; 4. plan;
        5. store. If another commit came between, from 1 again, at most 8 times. The first time the newest head that
        this worker knows will do: 5 refuses a plan on an older one.
        Raises StateError: conflict, already_done, outcome_unknown, unendorsed, too_large, tampered, rolled_back.
        """
        check_request_id(request_id)
        if not self._open:
            raise RuntimeError("a transaction commits once")
        if not self._writes and not self._jobs:
            return self._snapshot.record
        async with self._state._lock:
            for left in reversed(range(_REBASES)):
                try:
                    plan = await self._attempt(request_id, first=left == _REBASES - 1)
                except StateError as error:
                    if error.code != CONFLICT.code or not left:
                        raise
                else:
                    self._open = False
                    return plan.record
        raise RuntimeError("unreachable: the last attempt returns or raises")

    async def _attempt(self, request_id: str, *, first: bool) -> CommitPlan:
        state = self._state
        newest = state.known(self._snapshot) if first else await state.snapshot(again=True)  # 1
        await self._check_reads(newest)  # 2
        marks = await state._refuse_repeat(newest, request_id)  # 3
        numbers = {bucket_of(state._keys.name(name)) for name in self._writes}
        buckets = {number: await state.bucket(newest, number) for number in numbers}
        parent = newest.record.trimmed(state._endorsed)
        plan = plan_commit(  # 4
            state._keys, parent, buckets, marks, self._writes, self._jobs, request_id, state._rng, state.limits
        )
        await state._committed(plan, await state._submit(self._tx(plan, newest.rev, request_id)))  # 5
        return plan

    def _tx(self, plan: CommitPlan, head_rev: Rev | None, request_id: str) -> Tx:
        puts = {key: Put(value, Expect.ANY) for key, value in plan.puts.items()}
        puts[HEAD_SLOT] = Put(plan.puts[HEAD_SLOT], head_rev or Expect.ABSENT)
        jobs = tuple(Job(queue, body, not_before) for queue, body, not_before in plan.jobs)
        return Tx(request_id, puts, jobs, self._fence)

    async def _check_reads(self, newest: Snapshot) -> None:
        if newest.record.head == self._snapshot.record.head:
            return
        for name, digest in self._reads.items():
            if await self._digest(newest, name, self._state._keys.name(name)) != digest:
                raise CONFLICT(expected="the values that were read", found="a newer value")
        for (prefix, after, limit), names in self._lists.items():
            if await self._names(newest, prefix, after, limit) != names:
                raise CONFLICT(expected="the keys that were listed", found="other keys")

    async def _digest(self, snapshot: Snapshot, name: str, stored: str) -> bytes | None:
        bucket = await self._state.bucket(snapshot, bucket_of(stored))
        item = bucket.items.get(name)
        return item.digest if item else None

    async def _names(self, snapshot: Snapshot, prefix: str, after: str, limit: int) -> Names:
        buckets = [await self._state.bucket(snapshot, number) for number in sorted(snapshot.record.index)]
        names = (n for b in buckets for n in b.items if is_reserved(prefix) or not is_reserved(n))
        return sorted(n for n in names if n.startswith(prefix) and n > after)[:limit]

    def _buffer(self, name: str, value: bytes | None) -> None:
        writes = {**self._writes, check_name(name): value}
        check_buffered(writes, self._jobs, self._state.limits)
        self._writes = writes

    def _check_room(self) -> None:
        if len(self._reads) + len(self._lists) >= self._state.limits.reads:
            raise TOO_LARGE(expected=f"at most {self._state.limits.reads} reads in one request", found="one more")


def _check_follows(record: HeadRecord, old: HeadRecord) -> None:
    if record.height < old.height:
        raise ROLLED_BACK(expected=f"height {old.height} or later", found=f"height {record.height}")
    if record.base_height <= old.height and record.ancestor(old.height) != old.head:
        raise FORKED(expected=f"a head on the one seen at height {old.height}", found="another chain")


def is_reserved(name: str) -> bool:
    """Whether a name is the worker's own: agent code neither reads, writes nor sees it."""
    return name.startswith(RESERVED)


def _is(blob: bytes, digest: bytes) -> bool:
    return hmac.compare_digest(hashlib.sha256(blob).digest(), digest)


def _already_done(done: Done | None) -> CloisterError:
    found = f"height {done.height}, head 0x{done.head.hex()}" if done else "an earlier commit"
    error = ALREADY_DONE(expected="a request id that did not commit yet", found=found)
    if isinstance(error, AlreadyDoneError):
        error.outcome = done
    return error
