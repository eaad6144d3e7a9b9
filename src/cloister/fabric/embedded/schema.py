"""The SQLite file: WAL, synchronous=FULL, mode 0600, one schema version."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import apsw

from cloister.fabric.embedded.limits import DAMAGED, UNAVAILABLE

_APPLICATION_ID = 0x434C4F31  # "CLO1"
_VERSION = 1
_PRAGMAS = ("synchronous=FULL", "trusted_schema=OFF", "cell_size_check=ON", "mmap_size=0")
# Pages of 4 KiB that the write-ahead log gathers: heads and buckets are written over and over, the table gets the last.
_CHECKPOINT_PAGES = 4000
_TABLES = """
CREATE TABLE entries (
    id INTEGER PRIMARY KEY AUTOINCREMENT, agent TEXT NOT NULL, key TEXT NOT NULL, value BLOB, at REAL NOT NULL);
CREATE INDEX entries_newest ON entries (agent, key, id);
CREATE INDEX entries_gone ON entries (at) WHERE value IS NULL;
CREATE TABLE done (agent TEXT NOT NULL, id TEXT NOT NULL, result TEXT NOT NULL, at REAL NOT NULL,
    PRIMARY KEY (agent, id)) WITHOUT ROWID;
CREATE INDEX done_at ON done (at);
CREATE TABLE jobs (
    id INTEGER PRIMARY KEY AUTOINCREMENT, queue TEXT NOT NULL, body BLOB NOT NULL, due REAL NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0);
CREATE INDEX jobs_due ON jobs (queue, due, id);
CREATE TABLE leases (name TEXT PRIMARY KEY, holder TEXT NOT NULL, token INTEGER NOT NULL, until REAL NOT NULL)
    WITHOUT ROWID;
CREATE TABLE fences (agent TEXT PRIMARY KEY, token INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
INSERT INTO counters VALUES ('fence', 0);
"""


def prepare_folder(folder: Path) -> Path:
    """Make the folder (0700) and the empty file (0600); returns the file's path. Raises FabricError."""
    path = folder / "fabric.db"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        mode = os.fstat(descriptor).st_mode & 0o777
        os.close(descriptor)
    except OSError as error:
        raise UNAVAILABLE(expected="a folder to write in", found=error.strerror or "an error") from None
    if mode & 0o077:
        raise DAMAGED(expected="file mode 0600", found=f"{mode:o}")
    return path


def connect(path: Path, busy_ms: int) -> apsw.Connection:
    """A connection with this store's settings; creates the tables once. Raises FabricError."""
    try:
        db = apsw.Connection(str(path))
        db.set_busy_timeout(busy_ms)
        # Else SQLite looks at what is bound when it plans, and so plans every ORDER BY anew for every call.
        db.config(apsw.SQLITE_DBCONFIG_ENABLE_QPSG, 1)
        mode = rows(db, "PRAGMA journal_mode=WAL")
        for pragma in (*_PRAGMAS, f"wal_autocheckpoint={_CHECKPOINT_PAGES}"):
            db.execute(f"PRAGMA {pragma}")
        _create(db)
    except (apsw.NotADBError, apsw.CorruptError):
        raise DAMAGED(expected="a SQLite file", found="something else") from None
    except apsw.Error as error:
        raise UNAVAILABLE(expected="a store that opens", found=type(error).__name__) from None
    if mode != [("wal",)]:
        raise UNAVAILABLE(expected="a file system with shared memory for WAL", found=str(mode))
    return db


def rows(db: apsw.Connection, statement: str, bindings: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """All rows of a statement."""
    return db.execute(statement, bindings).fetchall()


def _create(db: apsw.Connection) -> None:
    db.execute("BEGIN IMMEDIATE")
    try:
        ((application,),), ((version,),) = rows(db, "PRAGMA application_id"), rows(db, "PRAGMA user_version")
        if (application, version) == (0, 0):
            db.execute(_TABLES)
            db.execute(f"PRAGMA application_id={_APPLICATION_ID}; PRAGMA user_version={_VERSION}")
        elif (application, version) != (_APPLICATION_ID, _VERSION):
            raise DAMAGED(expected=f"a store of version {_VERSION}", found=f"{application}, {version}")
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise
