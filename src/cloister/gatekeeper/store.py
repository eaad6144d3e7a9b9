"""What a gatekeeper must not forget: one SQLite file, written before anything is signed or answered.

WAL and synchronous=FULL: after SIGKILL or power loss the file is at the last finished write. Nothing in it is
secret in the clear: keys and the share are sealed blobs under the TEE's key before they come here.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

import apsw

from cloister.core.encoding import jcs
from cloister.core.encoding.statements import Checkpoint, Lease
from cloister.core.errors import ConfigError, define
from cloister.core.policy.release import Ledger
from cloister.core.state.rows import Head, head_row
from cloister.wire.conflicts import Granted

KEEP_CHECKPOINTS = 128
_VERSION = 2
_SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS checkpoints (number INTEGER PRIMARY KEY, body BLOB NOT NULL, signature BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS chain_checkpoints (
  chain INTEGER NOT NULL, number INTEGER NOT NULL, body BLOB NOT NULL, signature BLOB NOT NULL,
  PRIMARY KEY (chain, number)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS heads (
  agent BLOB PRIMARY KEY, row BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS grants (
  term INTEGER NOT NULL, worker BLOB NOT NULL, agent BLOB NOT NULL, body BLOB NOT NULL,
  PRIMARY KEY (term, worker, agent)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS operators (
  term INTEGER NOT NULL, operator BLOB NOT NULL, agent BLOB NOT NULL,
  PRIMARY KEY (term, operator, agent)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS witnessed (
  term INTEGER NOT NULL, worker BLOB NOT NULL, agent BLOB NOT NULL, epoch INTEGER NOT NULL,
  PRIMARY KEY (term, worker, agent)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS floors (
  agent BLOB PRIMARY KEY, agent_epoch INTEGER NOT NULL, cluster_epoch INTEGER NOT NULL, master_epoch INTEGER NOT NULL
) WITHOUT ROWID;
"""

BAD_STORE = define(
    "gatekeeper.store",
    ConfigError,
    check="the gatekeeper's state file opens and has this build's format",
    remedy="restore the folder from this machine's disk, or resign the seat and join anew",
    status=500,
)


class Book(Protocol):
    """What a book of checkpoints keeps: of the network's own chain in ``Store``, of another in ``Store.of_chain``."""

    def get(self, name: str) -> bytes | None:
        """A named blob."""

    def put(self, name: str, value: bytes) -> None:
        """Write one durably."""

    def erase(self, *names: str) -> None:
        """Delete named blobs."""

    def add_checkpoints(self, signed: list[tuple[Checkpoint, bytes]]) -> None:
        """Remember checkpoints; the last 128 are kept."""

    def checkpoints(self) -> list[tuple[Checkpoint, bytes]]:
        """All kept, oldest first."""


class Store:
    """The state file. Raises ConfigError (gatekeeper.store) if it is damaged or of another format."""

    def __init__(self, path: Path) -> None:
        try:
            self._db = apsw.Connection(str(path))
            self._db.set_busy_timeout(2000)
            self._db.execute("PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA secure_delete=ON;").fetchall()
            self._db.execute(_SCHEMA)
            found = self.get("version")
        except apsw.Error as error:
            raise BAD_STORE(expected="a readable state file", found=type(error).__name__) from None
        if found is None:
            self.put("version", bytes([_VERSION]))
        elif found != bytes([_VERSION]):
            raise BAD_STORE(expected=f"version {_VERSION}", found=f"version {found.hex()}")

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    # Named blobs.

    def get(self, name: str) -> bytes | None:
        """A named blob, or None."""
        row: Any = self._db.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
        return None if row is None else bytes(row[0])

    def put(self, name: str, value: bytes) -> None:
        """Write a named blob durably."""
        self._db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (name, value))

    def names(self, prefix: str) -> list[str]:
        """Names of blobs that begin with ``prefix``, sorted."""
        rows: Any = self._db.execute(
            "SELECT name FROM meta WHERE substr(name, 1, ?) = ? ORDER BY name", (len(prefix), prefix)
        ).fetchall()
        return [str(row[0]) for row in rows]

    def put_all(self, blobs: dict[str, bytes]) -> None:
        """Write several named blobs in one durable write: all of them, or none."""
        with self._db:
            self._db.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", list(blobs.items()))

    def replace(self, name: str, value: bytes) -> None:
        """``put``, and no older copy of the blob stays: its pages are overwritten, the write-ahead log is emptied."""
        self.put(name, value)
        self.scrub()

    def scrub(self) -> None:
        """Empty the write-ahead log: no older copy of a blob stays in it."""
        self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def erase(self, *names: str) -> None:
        """Delete named blobs and overwrite their pages; the write-ahead log is emptied too."""
        with self._db:
            self._db.executemany("DELETE FROM meta WHERE name = ?", [(name,) for name in names])
        self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    # Checkpoints this member signed.

    def add_checkpoints(self, signed: list[tuple[Checkpoint, bytes]]) -> None:
        """Remember checkpoints before their signatures leave. Only the last 128 are kept.

        A second one of a height raises apsw.ConstraintError: the caller's rule was broken."""
        rows = [(c.number, jcs.encode(c.to_json()), signature) for c, signature in signed]
        with self._db:
            self._db.executemany("INSERT INTO checkpoints VALUES (?, ?, ?)", rows)
            self._db.execute("DELETE FROM checkpoints WHERE number <= ?", (rows[-1][0] - KEEP_CHECKPOINTS,))

    def checkpoints(self) -> list[tuple[Checkpoint, bytes]]:
        """All kept checkpoints with signatures, oldest first."""
        rows: Any = self._db.execute("SELECT body, signature FROM checkpoints ORDER BY number").fetchall()
        return [(Checkpoint.from_json(jcs.decode(bytes(body))), bytes(signature)) for body, signature in rows]

    def of_chain(self, chain: int) -> ChainBook:
        """The same for a connected chain."""
        return ChainBook(self._db, self, chain)

    # State heads this member remembers.

    def put_heads(self, heads: Iterable[tuple[bytes, Head]]) -> None:
        """Remember newest heads durably before their signatures leave, in one write; one per agent."""
        rows = [(agent, jcs.encode(head_row(agent, head))) for agent, head in heads]
        with self._db:
            self._db.executemany("INSERT OR REPLACE INTO heads VALUES (?, ?)", rows)

    def head_rows(self, after: bytes = b"", limit: int = -1) -> list[dict[str, Any]]:
        """Rows as in ``HeadTable.to_json``, sorted; those after a cursor (an agent's 32 bytes) if one is given."""
        rows: Any = self._db.execute("SELECT row FROM heads WHERE agent > ? ORDER BY agent LIMIT ?", (after, limit))
        return [jcs.decode(bytes(row)) for (row,) in rows]

    # Grants: caps, floors, and who may have heads endorsed.

    def ledger(self, term: int, worker: bytes, agent: bytes) -> Ledger:
        """What was granted to this worker in this term, and the epochs below which the agent is closed."""
        rows: Any = self._db.execute(
            "SELECT agent FROM grants WHERE term = ? AND worker = ?", (term, worker)
        ).fetchall()
        return Ledger(frozenset(bytes(r[0]) for r in rows), self.floor(agent))

    def operator_held(self, term: int, operator: bytes) -> frozenset[bytes]:
        """Agents that were granted to any worker under this operator in this term, also to workers that left."""
        rows: Any = self._db.execute(
            "SELECT agent FROM operators WHERE term = ? AND operator = ?", (term, operator)
        ).fetchall()
        return frozenset(bytes(r[0]) for r in rows)

    def floor(self, agent: bytes) -> tuple[int, int, int]:
        """The newest (agent, cluster, master) epochs that this member ever released keys of; zeros for none."""
        row: Any = self._db.execute(
            "SELECT agent_epoch, cluster_epoch, master_epoch FROM floors WHERE agent = ?", (agent,)
        ).fetchone()
        return (0, 0, 0) if row is None else (*row,)

    def record_grant(self, lease: Lease, *, canary: bool = False, operator: bytes = b"") -> None:
        """Remember a lease before it leaves, and under which operator. Nothing is written when nothing in it is new.

        A ``canary``'s lease does not replace the one beside it: that is what heads are judged by."""
        if operator and lease.agent not in self.operator_held(lease.term, operator):
            self._db.execute("INSERT OR IGNORE INTO operators VALUES (?, ?, ?)", (lease.term, operator, lease.agent))
        known = self.granted(lease.term, lease.worker, lease.agent)
        if known == lease or (canary and known is not None and known.epochs == lease.epochs):
            return
        body = jcs.encode(lease.to_json())
        floor = (lease.agent, lease.agent_epoch, lease.cluster_epoch, lease.master_epoch)
        with self._db:
            self._db.execute(
                "INSERT OR REPLACE INTO grants VALUES (?, ?, ?, ?)", (lease.term, lease.worker, lease.agent, body)
            )
            self._db.execute(
                "INSERT INTO floors VALUES (?, ?, ?, ?) ON CONFLICT (agent) DO UPDATE SET "
                "cluster_epoch = CASE WHEN excluded.agent_epoch > agent_epoch THEN excluded.cluster_epoch "
                "WHEN excluded.agent_epoch < agent_epoch THEN cluster_epoch "
                "ELSE max(cluster_epoch, excluded.cluster_epoch) END, "
                "agent_epoch = max(agent_epoch, excluded.agent_epoch), "
                "master_epoch = max(master_epoch, excluded.master_epoch)",
                floor,
            )

    def granted(self, term: int, worker: bytes, agent: bytes) -> Lease | None:
        """The newest lease that this member granted to a worker for an agent in a term."""
        row: Any = self._db.execute(
            "SELECT body FROM grants WHERE term = ? AND worker = ? AND agent = ?", (term, worker, agent)
        ).fetchone()
        return None if row is None else Lease.from_json(jcs.decode(bytes(row[0])))

    def granted_to(self, worker: bytes, since_term: int) -> list[Lease]:
        """The newest lease of each agent and term that this member granted to a worker, since a term."""
        rows: Any = self._db.execute(
            "SELECT body FROM grants WHERE worker = ? AND term >= ? ORDER BY term, agent", (worker, since_term)
        ).fetchall()
        return [Lease.from_json(jcs.decode(bytes(row[0]))) for row in rows]

    def granted_workers(self, since_term: int) -> list[bytes]:
        """Workers that this member granted leases to, or found that others did, since a term."""
        rows: Any = self._db.execute(
            "SELECT worker FROM grants WHERE term >= ?1 UNION SELECT worker FROM witnessed WHERE term >= ?1",
            (since_term,),
        ).fetchall()
        return sorted(bytes(row[0]) for row in rows)

    # What others granted, as this member found it (gatekeepers.md W6).

    def granted_since(self, term: int, number: int, limit: int) -> list[Granted]:
        """This member's newest leases of a term, of checkpoints from a height on, oldest first."""
        rows: Any = self._db.execute(
            "SELECT body FROM grants WHERE term = ?1 AND json_extract(CAST(body AS TEXT), '$.checkpoint') >= ?2 "
            "ORDER BY json_extract(CAST(body AS TEXT), '$.checkpoint') LIMIT ?3",
            (term, number, limit),
        ).fetchall()
        leases = (Lease.from_json(jcs.decode(bytes(row[0]))) for row in rows)
        return [Granted(one.worker, one.agent, one.agent_epoch, one.checkpoint) for one in leases]

    def witness(self, term: int, found: Iterable[Granted]) -> None:
        """Remember durably what others granted in a term, in one write."""
        rows = [(term, one.worker, one.agent, one.epoch) for one in found]
        with self._db:
            self._db.executemany("INSERT OR REPLACE INTO witnessed VALUES (?, ?, ?, ?)", rows)

    def witnessed(self, worker: bytes, since_term: int) -> frozenset[tuple[bytes, int]]:
        """(agent, agent epoch) of what others granted to a worker, since a term."""
        rows: Any = self._db.execute(
            "SELECT agent, epoch FROM witnessed WHERE worker = ? AND term >= ?", (worker, since_term)
        ).fetchall()
        return frozenset((bytes(agent), int(epoch)) for agent, epoch in rows)

    def knows_grant(self, term: int, one: Granted) -> bool:
        """Whether this member granted it too, or found it before."""
        mine = self.granted(term, one.worker, one.agent)
        key = (term, one.worker, one.agent, one.epoch)
        row: Any = self._db.execute(
            "SELECT 1 FROM witnessed WHERE term = ? AND worker = ? AND agent = ? AND epoch = ?", key
        ).fetchone()
        return row is not None or (mine is not None and mine.agent_epoch == one.epoch)


class ChainBook:
    """Checkpoints of one connected chain, in the same file. Implements ``Book``."""

    def __init__(self, db: apsw.Connection, store: Store, chain: int) -> None:
        self._db, self._store, self._chain = db, store, chain

    def get(self, name: str) -> bytes | None:
        """A named blob of this chain."""
        return self._store.get(f"chain/{self._chain}/{name}")

    def put(self, name: str, value: bytes) -> None:
        """Write one durably."""
        self._store.put(f"chain/{self._chain}/{name}", value)

    def erase(self, *names: str) -> None:
        """Delete named blobs of this chain."""
        self._store.erase(*(f"chain/{self._chain}/{name}" for name in names))

    def add_checkpoints(self, signed: list[tuple[Checkpoint, bytes]]) -> None:
        """As ``Store.add_checkpoints``. A checkpoint of another chain is a programmer's mistake: RuntimeError."""
        if any(c.chain_id != self._chain for c, _ in signed):
            raise RuntimeError("a checkpoint of another chain")
        rows = [(self._chain, c.number, jcs.encode(c.to_json()), signature) for c, signature in signed]
        with self._db:
            self._db.executemany("INSERT INTO chain_checkpoints VALUES (?, ?, ?, ?)", rows)
            self._db.execute(
                "DELETE FROM chain_checkpoints WHERE chain = ? AND number <= ?",
                (self._chain, rows[-1][1] - KEEP_CHECKPOINTS),
            )

    def checkpoints(self) -> list[tuple[Checkpoint, bytes]]:
        """All kept checkpoints of this chain with signatures, oldest first."""
        found: Any = self._db.execute(
            "SELECT body, signature FROM chain_checkpoints WHERE chain = ? ORDER BY number", (self._chain,)
        ).fetchall()
        return [(Checkpoint.from_json(jcs.decode(bytes(body))), bytes(signature)) for body, signature in found]
