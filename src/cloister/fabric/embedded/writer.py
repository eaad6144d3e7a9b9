"""One writer thread with group commit: many operations, one BEGIN IMMEDIATE..COMMIT, one fsync.

An operation is a function of the connection. It either raises a CloisterError *before* it writes anything, or writes
and returns. So a Conflict of one never undoes another. If the batch itself fails (disk, lock), nobody knows: every
operation of it gets the ``lost`` refusal that its caller chose, and a retry is safe.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import apsw

from cloister.core.errors import CloisterError, Refusal
from cloister.fabric.embedded.limits import BUSY, KEEP_LEASE_S, KEEP_TOMBSTONE_S, KEEP_TX_S, UNAVAILABLE
from cloister.fabric.embedded.schema import connect

MAX_BATCH = 256
MAX_PENDING_BYTES = 256 * 1024 * 1024
_OP_BYTES = 1024
_SWEEP_EVERY_S = 30.0

T = TypeVar("T")
Operation = Callable[[apsw.Connection], Any]
Outcome = tuple[asyncio.Future[Any], Any, BaseException | None]


@dataclass(frozen=True, slots=True)
class _Pending:
    operation: Operation
    future: asyncio.Future[Any]
    lost: Refusal
    size: int


class Writer:
    """Owns the writing connection. Belongs to the event loop that made it."""

    def __init__(self, path: Path, clock: Callable[[], float], busy_ms: int) -> None:
        self._db = connect(path, busy_ms)
        self._clock, self._swept = clock, 0.0
        self._loop = asyncio.get_running_loop()
        self._queue: queue.SimpleQueue[list[_Pending] | None] = queue.SimpleQueue()
        self._gathered: list[_Pending] = []
        self._waiting = 0
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="fabric-writer", daemon=True)
        self._thread.start()

    async def submit(
        self, operation: Callable[[apsw.Connection], T], *, size: int = 0, lost: Refusal = UNAVAILABLE
    ) -> T:
        """Run an operation durably and return its result. ``size``: bytes it carries, for the cap on what waits.

        Raises what the operation raises, ``lost`` if the outcome is not known, fabric.busy, fabric.unavailable."""
        if self._closed:
            raise UNAVAILABLE(expected="an open store", found="a closed one")
        cost = size + _OP_BYTES
        if self._waiting + cost > MAX_PENDING_BYTES:
            raise BUSY(expected=f"at most {MAX_PENDING_BYTES} bytes waiting", found="more")
        self._waiting += cost
        future: asyncio.Future[T] = self._loop.create_future()
        if not self._gathered:
            self._loop.call_soon(self._hand_over)
        self._gathered.append(_Pending(operation, future, lost, cost))
        return await future

    def _hand_over(self) -> None:
        """Whatever one turn of the loop submitted goes to the thread at once, to be one batch with one fsync."""
        if self._gathered:
            self._queue.put(self._gathered)
            self._gathered = []

    async def close(self) -> None:
        """Finish what waits, then stop. A second call does nothing."""
        if not self._closed:
            self._closed = True
            self._hand_over()
            self._queue.put(None)
            await asyncio.to_thread(self._thread.join)

    def _run(self) -> None:
        while True:
            batch, last = self._collect()
            if batch:
                outcomes = self._execute(batch)
                try:
                    self._loop.call_soon_threadsafe(self._resolve, outcomes, sum(p.size for p in batch))
                except RuntimeError:  # the loop is gone: nobody is left to tell
                    last = True
            if last:
                self._db.close()
                return

    def _collect(self) -> tuple[list[_Pending], bool]:
        """What waits, whole groups up to at least MAX_BATCH; whether it is the last."""
        batch: list[_Pending] = []
        group = self._queue.get()
        while group is not None:
            batch += group
            if len(batch) >= MAX_BATCH:
                return batch, False
            try:
                group = self._queue.get_nowait()
            except queue.Empty:
                return batch, False
        return batch, True

    def _execute(self, batch: list[_Pending]) -> list[Outcome]:
        outcomes: list[Outcome] = []
        try:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            self._db.execute("BEGIN IMMEDIATE")
            for pending in batch:
                try:
                    outcomes.append((pending.future, pending.operation(self._db), None))
                except CloisterError as refusal:
                    outcomes.append((pending.future, None, refusal))
            self._sweep()
            self._commit()
        except Exception as error:
            self._abandon()
            return [(p.future, None, _lost(p, error)) for p in batch]
        return outcomes

    def _commit(self) -> None:
        self._db.execute("COMMIT")

    def _abandon(self) -> None:
        with contextlib.suppress(apsw.Error):  # tried again before the next batch
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")

    def _resolve(self, outcomes: list[Outcome], size: int) -> None:
        self._waiting -= size
        for future, result, error in outcomes:
            if future.done():
                continue
            if error is None:
                future.set_result(result)
            else:
                future.set_exception(error)

    def _sweep(self) -> None:
        """Forget old transaction ids, deleted keys and expired leases, a few at a time."""
        now = self._clock()
        if abs(now - self._swept) < _SWEEP_EVERY_S:
            return
        self._swept = now
        for statement, keep in _SWEEPS:
            self._db.execute(statement, (now - keep,))


def _lost(pending: _Pending, error: Exception) -> CloisterError:
    refusal = pending.lost(expected="a durable commit", found=type(error).__name__)
    refusal.__cause__ = error
    return refusal


_SWEEPS = (
    (
        "DELETE FROM done WHERE (agent, id) IN (SELECT agent, id FROM done WHERE at < ? ORDER BY at LIMIT 5000)",
        KEEP_TX_S,
    ),
    (
        "DELETE FROM entries WHERE (agent, key) IN (SELECT agent, key FROM entries AS e WHERE value IS NULL AND at < ?"
        " AND NOT EXISTS (SELECT 1 FROM entries AS n WHERE n.agent = e.agent AND n.key = e.key AND n.id > e.id)"
        " LIMIT 200)",
        KEEP_TOMBSTONE_S,
    ),
    ("DELETE FROM leases WHERE name IN (SELECT name FROM leases WHERE until < ? LIMIT 1000)", KEEP_LEASE_S),
)
