"""The outbox's other end in SQLite: a job is a row that hides until ``due``; taking it hides it for the lease."""

from __future__ import annotations

from collections.abc import Callable

import apsw

from cloister.fabric.embedded.limits import (
    BAD_NAME,
    MAX_DELAY_S,
    MAX_LEASE_S,
    MAX_TAKE,
    MAX_TX,
    UNAVAILABLE,
    check_name,
    check_range,
)
from cloister.fabric.embedded.schema import rows
from cloister.fabric.embedded.writer import Writer
from cloister.fabric.ports import Leased

_DUE = "SELECT id, length(body), attempts FROM jobs WHERE queue = ? AND due <= ? ORDER BY due, id LIMIT ?"


class EmbeddedJobs:
    """``fabric.ports.Jobs``: at least once. The token is the attempt, so a late ack of a lost lease changes nothing."""

    def __init__(self, reader: apsw.Connection, writer: Writer, clock: Callable[[], float]) -> None:
        self._reader, self._writer, self._clock = reader, writer, clock

    async def take(self, queue: str, n: int, lease_s: float) -> list[Leased]:
        """Up to n due jobs (at most 16 MiB), invisible to others for lease_s. Raises FabricError."""
        check_name("a queue", queue)
        check_range("n", n, 1, MAX_TAKE)
        check_range("lease_s", lease_s, 0, MAX_LEASE_S)
        try:
            waiting = rows(self._reader, _DUE, (queue, self._clock(), 1))
        except apsw.Error as error:
            raise UNAVAILABLE(expected="a store that can be read", found=type(error).__name__) from None
        if not waiting:
            return []
        return await self._writer.submit(lambda db: _take(db, queue, n, lease_s, self._clock()))

    async def ack(self, job: Leased) -> None:
        """Done: never delivered again, unless another one took it after our lease ran out."""
        key = _key(job)
        await self._writer.submit(lambda db: rows(db, "DELETE FROM jobs WHERE id = ? AND attempts = ?", key))

    async def nack(self, job: Leased, delay_s: float) -> None:
        """Deliver again after delay_s; a no-op if our lease was lost."""
        key = _key(job)
        check_range("delay_s", delay_s, 0, MAX_DELAY_S)
        statement = "UPDATE jobs SET due = ? WHERE id = ? AND attempts = ?"
        await self._writer.submit(lambda db: rows(db, statement, (self._clock() + delay_s, *key)))


def _take(db: apsw.Connection, queue: str, n: int, lease_s: float, now: float) -> list[Leased]:
    taken: list[Leased] = []
    size = 0
    for number, length, attempts in rows(db, _DUE, (queue, now, n)):
        size += length
        if taken and size > MAX_TX:
            break
        db.execute("UPDATE jobs SET due = ?, attempts = ? WHERE id = ?", (now + lease_s, attempts + 1, number))
        ((body,),) = rows(db, "SELECT body FROM jobs WHERE id = ?", (number,))
        taken.append(Leased(str(number), body, str(attempts + 1), attempts + 1))
    return taken


def _key(job: Leased) -> tuple[int, int]:
    numbers = (job.job_id, job.token)
    if not all(isinstance(n, str) and n.isascii() and n.isdigit() and len(n) < 19 for n in numbers):
        raise BAD_NAME(expected="a job that this store handed out", found="another one")
    return int(job.job_id), int(job.token)
