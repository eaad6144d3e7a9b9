"""Re-sealing: an agent's state moves from the keys of earlier epochs to those of its present ones (spec/epochs.md 7).

::

    old      the head record opens under the old key; everything new is written beside it, at places of its own
    switch   one transaction replaces the head record: from here on the state is the new one
    new      the head is endorsed by a quorum: gatekeepers release the old keys no more; leftovers are deleted

Whoever is stopped at any point leaves a whole old state or a whole new one, and the next one goes on: buckets that were
written anew are found by their journals. At most ``BATCH_BYTES`` of values are in memory at once, besides the index.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from cloister.core.encoding.identity import Epochs
from cloister.core.encoding.signatures import Signed
from cloister.core.errors import CloisterError, PolicyError, StateError, define
from cloister.core.state.endorse import Answer
from cloister.core.state.heads import HEAD_SLOT, HeadRecord, Link
from cloister.core.state.index import Bucket, Item, bucket_of, bucket_slot, marks_slot
from cloister.core.state.reseal import (
    Journal,
    Leftover,
    journal_slot,
    leftover_slot,
    new_area,
    rebucket,
    resealed_record,
)
from cloister.core.state.sealing import Rng, StateKeys
from cloister.fabric.ports import CONFLICT, LEASE_HELD, UNKNOWN_OUTCOME, Expect, Fabric, Put, Tx
from cloister.worker.state import SECRETS_NAME, AgentState, Snapshot

BATCH_ITEMS, BATCH_BYTES = 64, 4 << 20
ATTEMPTS, REPEATS = 8, 3
LEASE_S = 30.0
LINKS_AT_ONCE, RECORDS_AT_ONCE, DELETES_AT_ONCE = 64, 8, 128

RESEALING = define(
    "epoch.resealing",
    PolicyError,
    check="the agent's state is sealed under its present epochs",
    remedy="ask again in a second: the agent has new keys, and its state is being moved to them",
    status=503,
)

Endorse = Callable[[Epochs, Sequence[Link]], Awaitable[Signed]]
Carry = Callable[[bytes | None], Awaitable[bytes | None]]


@dataclass(slots=True)
class Progress:
    """How far a re-seal is: ``done`` of ``total`` values."""

    done: int = 0
    total: int = 0


@dataclass(frozen=True, slots=True)
class Sealed:
    """What is known of the old state: its keys, its epochs, and what r members remember of it, with the quorum r."""

    keys: StateKeys
    epochs: Epochs
    answers: Sequence[Answer]
    quorum: int


class Resealer:
    """One re-seal of one agent. ``old`` None: there was no state, only secrets to carry.

    ``endorse(epochs, links)`` gets a quorum's signatures for heads and returns the last one's, or raises.
    ``carry(name)`` maps what the old state keeps of the agent's secrets (None: nothing) to what the new one keeps."""

    def __init__(
        self,
        fabric: Fabric,
        agent: str,
        holder: str,
        old: Sealed | None,
        new: StateKeys,
        epochs: Epochs,
        *,
        endorse: Endorse,
        carry: Carry,
        rng: Rng,
    ) -> None:
        """``agent``: its id as hex without 0x. ``holder``: this worker's name, of [a-z0-9]."""
        self._fabric, self._store, self._agent, self._holder = fabric, fabric.state, agent, holder
        self._old, self._new, self._epochs = old, new, epochs
        self._endorse, self._carry, self._rng = endorse, carry, rng
        self._area = new_area(new)
        self._fence = 0
        self.progress = Progress()

    async def run(self) -> HeadRecord:
        """Re-seal, whatever was done before; returns the head record in force. Raises CloisterError.

        1. nobody else re-seals this agent; 2. the new state, or the old one moved to the new keys; 3. a quorum endorses
        the new head: only now it counts; 4. leftovers are deleted. Raises epoch.resealing while another worker does it,
        StateError (rolled_back, forked, tampered, conflict), what ``endorse`` and ``carry`` raise, FabricError."""
        try:
            await self._hold()  # 1
        except CloisterError as error:
            if error.code == LEASE_HELD.code:
                raise RESEALING(expected="state under the present epochs", found="another worker moves it") from None
            raise
        try:
            record = await self._present() or await self._move()  # 2
            await self._endorsed(self._epochs, record)  # 3
            await self._clean()  # 4
            return record
        finally:
            await self._fabric.leases.release(self._agent, self._holder)

    async def _hold(self) -> None:
        self._fence = await self._fabric.leases.hold(self._agent, self._holder, LEASE_S)

    async def _present(self) -> HeadRecord | None:
        """The head record under the new keys, if a re-seal got so far."""
        entry = await self._store.get(self._agent, HEAD_SLOT)
        if entry is None:
            return None
        try:
            return HeadRecord.parse(self._new.open_at(HEAD_SLOT, entry.value).value)
        except StateError:
            if self._old is None:
                return None
        self._old.keys.open_at(HEAD_SLOT, entry.value)  # else it is neither's: state.tampered
        return None

    async def _move(self) -> HeadRecord:
        """Again from the newest old head, when a worker that had not heard of the new epochs wrote meanwhile."""
        for left in reversed(range(ATTEMPTS)):
            try:
                return await self._attempt()
            except StateError as error:
                if error.code != CONFLICT.code or not left:
                    raise
        raise RuntimeError("unreachable: the last attempt returns or raises")

    async def _attempt(self) -> HeadRecord:
        """1. the old state is the newest that the committee knows; 2. its last heads are endorsed; 3. values; 4. what
        it keeps of secrets; 5. buckets and marks; 6. the switch."""
        old = await self._load()  # 1
        parts: list[Bucket] = []
        marks: Mapping[int, bytes] = {}
        pointer = None
        if old is not None:
            await self._endorsed(old.epochs, old.record)  # 2
            self.progress.done, self.progress.total = 0, old.record.keys
            parts = [await self._bucket(old, number) for number in sorted(old.record.index)]  # 3
            pointer = await old.pointer()
        kept = await self._carry(pointer)  # 4
        if kept is not None:
            parts.append(await self._write_values({SECRETS_NAME: kept}, 0))
        buckets = rebucket(self._new, parts)
        index = await self._seal_all({n: (bucket_slot(n, self._area), bytes(b)) for n, b in buckets.items()})  # 5
        if old is not None:
            marks = await self._seal_all(
                {n: (marks_slot(n, self._area), await old.marks(n)) for n in sorted(old.record.marks)}
            )
        tag_key = self._new.tag_key() if old is None else old.tag_key
        record = resealed_record(
            self._new, None if old is None else old.record, tag_key, list(buckets.values()), index, marks
        )
        await self._switch(record, old)  # 6
        return record

    async def _load(self) -> _Old | None:
        if self._old is None:
            return None
        state = AgentState(self._store, self._old.keys, self._agent, self._rng)
        await state.load(self._old.answers, self._old.quorum)
        return _Old(state, await state.snapshot(again=True), self._old.keys, self._old.epochs)

    async def _endorsed(self, epochs: Epochs, record: HeadRecord) -> None:
        links = record.links()
        for at in range(0, len(links), LINKS_AT_ONCE):
            await self._endorse(epochs, links[at : at + LINKS_AT_ONCE])

    async def _bucket(self, old: _Old, number: int) -> Bucket:
        """The values of one old bucket under the new keys: as the journal says, or written now."""
        digest, slot = old.record.index[number], journal_slot(number, self._area)
        entry = await self._store.get(self._agent, slot)
        if entry is not None:
            journal = Journal.parse(self._new.open_at(slot, entry.value).value)
            if journal.old == digest:
                self.progress.done += len(journal.bucket.items)
                return journal.bucket
        items: dict[str, Item] = {}
        bucket = await old.state.bucket(old.snapshot, number)
        for names in _batches(bucket):
            values = {name: await old.value(name, bucket.items[name].digest) for name in names}
            items |= (await self._write_values(values, old.record.height)).items
            self.progress.done += len(names)
        written = Bucket(items)
        await self._write({slot: self._new.seal_at(slot, "", bytes(Journal(digest, written)), 0, self._rng)})
        return written

    async def _write_values(self, values: Mapping[str, bytes], height: int) -> Bucket:
        blobs = {name: self._new.seal(name, value, height + 1, self._rng) for name, value in values.items()}
        await self._write({self._new.name(name): blob for name, blob in blobs.items()})
        return Bucket({name: Item(len(values[name]), _sha256(blob)) for name, blob in blobs.items()})

    async def _seal_all(self, slots: Mapping[int, tuple[str, bytes]]) -> dict[int, bytes]:
        """Seal and store records of our own, a few at a time; returns the digest of each."""
        digests: dict[int, bytes] = {}
        numbers = list(slots)
        for at in range(0, len(numbers), RECORDS_AT_ONCE):
            chunk = {n: slots[n] for n in numbers[at : at + RECORDS_AT_ONCE]}
            blobs = {n: self._new.seal_at(slot, "", data, 0, self._rng) for n, (slot, data) in chunk.items()}
            await self._write({slots[n][0]: blob for n, blob in blobs.items()})
            digests |= {n: _sha256(blob) for n, blob in blobs.items()}
        return digests

    async def _switch(self, record: HeadRecord, old: _Old | None) -> None:
        """Replace the head record that was read; beside it the list of what may be deleted then."""
        entry = None if old is not None else await self._store.get(self._agent, HEAD_SLOT)
        rev = old.snapshot.rev if old is not None else entry and entry.rev
        blob = self._new.seal_at(HEAD_SLOT, "", bytes(record), record.height, self._rng)
        puts = {HEAD_SLOT: Put(blob, rev or Expect.ABSENT)}
        if old is not None:
            slot = leftover_slot(self._area)
            left = Leftover(old.record.area(old.keys.identity), tuple(await old.stored_names()))
            puts[slot] = Put(self._new.seal_at(slot, "", bytes(left), 0, self._rng), Expect.ANY)
        await self._submit(puts)

    async def _clean(self) -> None:
        slot = leftover_slot(self._area)
        entry = await self._store.get(self._agent, slot)
        if entry is None:
            return
        places = Leftover.parse(self._new.open_at(slot, entry.value).value).places(self._area)
        for at in range(0, len(places), DELETES_AT_ONCE):
            await self._submit({place: Put(None, Expect.ANY) for place in places[at : at + DELETES_AT_ONCE]})
        await self._submit({slot: Put(None, Expect.ANY)})

    async def _write(self, blobs: Mapping[str, bytes]) -> None:
        await self._hold()
        await self._submit({key: Put(blob, Expect.ANY) for key, blob in blobs.items()})

    async def _submit(self, puts: Mapping[str, Put]) -> None:
        tx = Tx(f"reseal-{self._rng(16).hex()}", puts, fence=self._fence)
        for left in reversed(range(REPEATS)):
            try:
                await self._store.commit(self._agent, tx)
                return
            except StateError as error:
                if error.code != UNKNOWN_OUTCOME.code or not left:
                    raise


@dataclass(frozen=True, slots=True)
class _Old:
    """The old state at one head, read through its digests."""

    state: AgentState
    snapshot: Snapshot
    keys: StateKeys
    epochs: Epochs

    @property
    def record(self) -> HeadRecord:
        return self.snapshot.record

    @property
    def tag_key(self) -> bytes:
        return self.record.tag_key if self.record.resealed else self.keys.tag_key()

    async def value(self, name: str, digest: bytes) -> bytes:
        return self.keys.open(name, await self.state.blob(self.snapshot, self.keys.name(name), digest))

    async def pointer(self) -> bytes | None:
        """What this state keeps of the agent's secrets."""
        items = (await self.state.bucket(self.snapshot, bucket_of(self.keys.name(SECRETS_NAME)))).items
        found = items.get(SECRETS_NAME)
        return None if found is None else await self.value(SECRETS_NAME, found.digest)

    async def marks(self, number: int) -> bytes:
        slot = marks_slot(number, self.record.area(self.keys.identity))
        blob = await self.state.blob(self.snapshot, slot, self.record.marks[number])
        return self.keys.open_at(slot, blob).value

    async def stored_names(self) -> list[str]:
        buckets = [await self.state.bucket(self.snapshot, number) for number in sorted(self.record.index)]
        return [self.keys.name(name) for bucket in buckets for name in bucket.items]


def _batches(bucket: Bucket) -> Iterator[list[str]]:
    """Names of values that are moved together; the secrets' pointer is none of them."""
    batch: list[str] = []
    size = 0
    for name, item in bucket.items.items():
        if name == SECRETS_NAME:
            continue
        if batch and (len(batch) >= BATCH_ITEMS or size + item.size > BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(name)
        size += item.size
    if batch:
        yield batch


def _sha256(blob: bytes) -> bytes:
    return hashlib.sha256(blob).digest()
