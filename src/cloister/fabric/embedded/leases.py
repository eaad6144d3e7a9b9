"""Named leases in SQLite. Fencing tokens come from one counter of the whole store: they only grow."""

from __future__ import annotations

from collections.abc import Callable

import apsw

from cloister.fabric.embedded.limits import MAX_LEASE_S, check_name, check_range
from cloister.fabric.embedded.schema import rows
from cloister.fabric.embedded.writer import Writer
from cloister.fabric.ports import LEASE_HELD


class EmbeddedLeases:
    """``fabric.ports.Leases``. A lease named like an agent fences that agent's commits."""

    def __init__(self, writer: Writer, clock: Callable[[], float]) -> None:
        self._writer, self._clock = writer, clock

    async def hold(self, name: str, holder: str, ttl_s: float) -> int:
        """Take, or renew with the same token while it has not run out. Raises LEASE_HELD, FabricError."""
        check_name("a lease", name)
        check_name("a holder", holder)
        check_range("ttl_s", ttl_s, 0, MAX_LEASE_S)
        return await self._writer.submit(lambda db: _hold(db, name, holder, ttl_s, self._clock()))

    async def release(self, name: str, holder: str) -> None:
        """Give it back early; a no-op if not held by ``holder``."""
        bindings = (check_name("a lease", name), check_name("a holder", holder))
        statement = "UPDATE leases SET until = 0 WHERE name = ? AND holder = ?"
        await self._writer.submit(lambda db: rows(db, statement, bindings))


def _hold(db: apsw.Connection, name: str, holder: str, ttl_s: float, now: float) -> int:
    for owner, held, until in rows(db, "SELECT holder, token, until FROM leases WHERE name = ?", (name,)):
        if until > now and owner != holder:
            raise LEASE_HELD(expected="a free lease", found="one that is held")
        if until > now:
            db.execute("UPDATE leases SET until = ? WHERE name = ?", (now + ttl_s, name))
            return int(held)
    db.execute("UPDATE counters SET value = value + 1 WHERE name = 'fence'")
    ((token,),) = rows(db, "SELECT value FROM counters WHERE name = 'fence'")
    db.execute("INSERT OR REPLACE INTO leases VALUES (?, ?, ?, ?)", (name, holder, token, now + ttl_s))
    return int(token)
