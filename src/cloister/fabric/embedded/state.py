"""Ciphertext state in SQLite: newest rows win, at least sixteen kept, a compare-and-set over all keys at once."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import apsw

from cloister.fabric.embedded.limits import (
    MAX_HISTORY,
    MAX_SCAN,
    MAX_SCAN_BYTES,
    UNAVAILABLE,
    check_name,
    check_prefix,
    check_range,
    check_tx,
)
from cloister.fabric.embedded.schema import rows
from cloister.fabric.embedded.writer import Writer
from cloister.fabric.ports import CONFLICT, FENCED, TOO_LARGE, UNKNOWN_OUTCOME, Entry, Expect, Put, Rev, Tx

_NEWEST = "SELECT id, value FROM entries WHERE agent = ? AND key = ? ORDER BY id DESC LIMIT 1"
_NEWEST_ID = (
    "SELECT CASE WHEN value IS NULL THEN NULL ELSE id END FROM entries"
    " WHERE agent = ? AND key = ? ORDER BY id DESC LIMIT 1"
)
_SCAN = (
    "SELECT key, max(id), value FROM entries WHERE agent = ? AND key >= ? AND key < ?"
    " GROUP BY key HAVING value IS NOT NULL ORDER BY key LIMIT ?"
)
_HISTORY = (
    "SELECT id, value FROM (SELECT id, value FROM entries WHERE agent = ? AND key = ? ORDER BY id DESC LIMIT ?)"
    " WHERE value IS NOT NULL ORDER BY id DESC LIMIT ?"
)
_FENCE = (
    "SELECT max(token) FROM"
    " (SELECT token FROM fences WHERE agent = ?1 UNION ALL SELECT token FROM leases WHERE name = ?1)"
)
_TRIM = (
    "DELETE FROM entries WHERE agent = ?1 AND key = ?2 AND id <="
    " (SELECT id FROM entries WHERE agent = ?1 AND key = ?2 ORDER BY id DESC LIMIT 1 OFFSET ?3)"
)


_FIRST = "SELECT result FROM done WHERE agent = ? AND id = ?"
_INSERT = "INSERT INTO entries (agent, at, key, value) VALUES {} RETURNING key, id"
# Rows of one INSERT: a statement costs the writer a hand-over of the interpreter, whatever it does.
_ROWS = 8
# Writes of a key between two trims, and how many keys the writer counts: more than sixteen old values never hurt.
_SLACK = 8
_COUNTED = 32_768


class EmbeddedState:
    """``fabric.ports.State`` over one SQLite file. Reads run in the loop's thread on their own connection (~12 us)."""

    def __init__(self, reader: apsw.Connection, writer: Writer, clock: Callable[[], float]) -> None:
        self._reader, self._writer, self._clock = reader, writer, clock
        self._trims = _Trims()

    async def get(self, agent: str, key: str) -> Entry | None:
        """The newest entry or None. Raises FabricError."""
        bindings = (check_name("an agent", agent), check_name("a key", key))
        try:
            found = rows(self._reader, _NEWEST, bindings)
        except apsw.Error as error:
            raise UNAVAILABLE(expected="a store that can be read", found=type(error).__name__) from None
        return Entry(found[0][1], _rev(found[0][0])) if found and found[0][1] is not None else None

    async def scan(self, agent: str, prefix: str, limit: int = 1000) -> list[tuple[str, Entry]]:
        """Entries by key order. Raises FabricError; more than 64 MiB at once is fabric.too_large."""
        check_range("limit", limit, 1, MAX_SCAN)
        low = check_prefix(prefix)
        found = self._read(_SCAN, (check_name("an agent", agent), low, low + "\x7f", limit))
        return [(key, Entry(value, _rev(number))) for key, number, value in found]

    async def history(self, agent: str, key: str, limit: int = MAX_HISTORY) -> list[Entry]:
        """Values newest first, among the newest 16 writes; deletions are left out. Raises FabricError."""
        check_range("limit", limit, 1, MAX_HISTORY)
        bindings = (check_name("an agent", agent), check_name("a key", key), MAX_HISTORY, limit)
        return [Entry(value, _rev(number)) for number, value in self._read(_HISTORY, bindings)]

    async def commit(self, agent: str, tx: Tx) -> dict[str, Rev]:
        """Apply atomically (``fabric.ports.State.commit``). The result holds the keys that have a value now.

        A fence is checked against the lease named like the agent and against every fence that wrote before."""
        check_name("an agent", agent)
        size = check_tx(tx)
        return await self._writer.submit(
            lambda db: _apply(db, agent, tx, self._clock(), self._trims), size=size, lost=UNKNOWN_OUTCOME
        )

    def _read(self, statement: str, bindings: tuple[Any, ...]) -> list[tuple[Any, ...]]:
        found: list[tuple[Any, ...]] = []
        budget = MAX_SCAN_BYTES
        try:
            for row in self._reader.execute(statement, bindings):
                found.append(row)
                budget -= len(row[-1] or b"")
                if budget < 0:
                    raise TOO_LARGE(expected=f"at most {MAX_SCAN_BYTES} bytes in one answer", found="more")
        except apsw.Error as error:
            raise UNAVAILABLE(expected="a store that can be read", found=type(error).__name__) from None
        return found


class _Trims:
    """Which keys are due to lose what is older than the newest sixteen: when first seen, then every _SLACK writes.

    Used in the writer's thread only."""

    def __init__(self) -> None:
        self._since: dict[tuple[str, str], int] = {}

    def due(self, agent: str, key: str) -> bool:
        """Count one write of this key."""
        count = self._since.get((agent, key), _SLACK) + 1
        if len(self._since) >= _COUNTED and count > _SLACK:
            self._since.clear()
        self._since[agent, key] = 0 if count > _SLACK else count
        return count > _SLACK


def _apply(db: apsw.Connection, agent: str, tx: Tx, now: float, trims: _Trims) -> dict[str, Rev]:
    """1. a repeat returns the first result; 2. the fence is the newest; 3. every expectation holds; 4. write."""
    first = rows(db, _FIRST, (agent, tx.id))  # 1
    if first:
        return {key: _rev(number) for key, number in json.loads(first[0][0]).items()}
    if tx.fence is not None:  # 2
        _check_fence(db, agent, tx.fence)
    for key, put in tx.puts.items():  # 3
        _check_expected(db, agent, key, put)
    result = _write(db, agent, tx, now)  # 4
    for key in tx.puts:
        if trims.due(agent, key):
            db.execute(_TRIM, (agent, key, MAX_HISTORY))
    for job in tx.jobs:
        db.execute("INSERT INTO jobs (queue, body, due) VALUES (?, ?, ?)", (job.queue, job.body, job.not_before))
    if tx.fence is not None:
        db.execute("INSERT OR REPLACE INTO fences VALUES (?, ?)", (agent, tx.fence))
    db.execute("INSERT INTO done VALUES (?, ?, ?, ?)", (agent, tx.id, json.dumps(result), now))
    return {key: _rev(number) for key, number in result.items()}


def _write(db: apsw.Connection, agent: str, tx: Tx, now: float) -> dict[str, int]:
    """Add a row for each put, a few at a time; the row numbers of those that have a value now."""
    result: dict[str, int] = {}
    puts = list(tx.puts.items())
    for at in range(0, len(puts), _ROWS):
        part = puts[at : at + _ROWS]
        values = ",".join([f"(?1,?2,?{2 * n + 3},?{2 * n + 4})" for n in range(len(part))])
        bindings = [agent, now, *(item for key, put in part for item in (key, put.value))]
        result |= {k: n for k, n in rows(db, _INSERT.format(values), tuple(bindings)) if tx.puts[k].value is not None}
    return result


def _check_fence(db: apsw.Connection, agent: str, fence: int) -> None:
    ((known,),) = rows(db, _FENCE, (agent,))
    if known is not None and fence < known:
        raise FENCED(expected=f"fencing token {known}", found=str(fence))


def _check_expected(db: apsw.Connection, agent: str, key: str, put: Put) -> None:
    if put.expect is Expect.ANY:
        return
    newest = rows(db, _NEWEST_ID, (agent, key))
    now = _rev(newest[0][0]) if newest and newest[0][0] is not None else None
    wanted = None if put.expect is Expect.ABSENT else put.expect
    if now != wanted:
        raise CONFLICT(
            expected=f"{key} {'as read' if wanted else 'absent'}", found="another revision" if now else "none"
        )


def _rev(number: object) -> Rev:
    return Rev(str(number))
