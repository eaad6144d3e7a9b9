"""The fabric's ports: state, jobs, blobs, leases, receipts. Ciphertext only (spec/state.md 5).

One port, two adapters (``embedded``: SQLite on one machine; part G: NATS), one conformance suite
(``tests/conformance/test_fabric.py``). Rules that keep the port from leaking its adapter: ``Rev`` is opaque and only
comparable for equality; a transaction touches one agent; values are at most 512 KiB (larger ones go to blobs);
``commit`` has three outcomes: done, Conflict, Unknown; delivery of jobs is at least once.
"""

from __future__ import annotations

from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

from cloister.core.errors import FabricError, StateError, define

MAX_VALUE = 512 * 1024
MAX_BLOB = 64 * 1024 * 1024
MAX_RECEIPTS = 1024
MAX_SEALED_RECEIPT = 8192

CONFLICT = define(
    "state.conflict",
    StateError,
    check="every key still has the revision that the writer read",
    remedy="read again and retry; `fetch` handlers are retried three times by themselves",
    status=409,
)
UNKNOWN_OUTCOME = define(
    "state.outcome_unknown",
    StateError,
    check="the store said whether the commit happened",
    remedy="retry with the same transaction id: it is done at most once",
    status=503,
)
TOO_LARGE = define(
    "fabric.too_large",
    FabricError,
    check="a value is at most 512 KiB, a blob at most 64 MiB",
    remedy="put large data into a blob and keep its digest in state",
    status=413,
)
NO_BLOB = define(
    "fabric.no_blob",
    FabricError,
    check="the blob is stored and hashes to its name",
    remedy="upload it again with `cloister agent deploy`",
    status=404,
)
LEASE_HELD = define(
    "fabric.lease_held",
    FabricError,
    check="nobody else holds the lease",
    remedy="wait until it expires; its holder may have died",
    status=409,
)
FENCED = define(
    "fabric.fenced",
    FabricError,
    check="the writer's fencing token is the newest",
    remedy="stop: another worker took over this agent",
    status=409,
)


NOT_NEXT = define(
    "fabric.log_position",
    FabricError,
    check="receipts are appended at the end of their log",
    remedy="another process writes this log, or the store lost a part of it: restart the worker",
    status=409,
)
PRUNED = define(
    "fabric.receipt_pruned",
    FabricError,
    check="the store still has the body of this receipt, and not only its place in its log",
    remedy="use the copy that the caller keeps (`cloister receipts`): proofs of it are still given; the operator keeps "
    "bodies for the days and bytes that the gateway is set to",
    status=410,
)
NO_RECEIPT = define(
    "fabric.no_receipt",
    FabricError,
    check="the store has a receipt of this id, whole",
    remedy="ask the worker that made it, or another gateway; callers keep receipts too: `cloister receipts`",
    status=404,
)


@dataclass(frozen=True, slots=True)
class Rev:
    """An opaque revision: compare for equality only."""

    token: str


class Expect(Enum):
    """Special expectations of a put."""

    ABSENT = "absent"
    ANY = "any"


@dataclass(frozen=True, slots=True)
class Entry:
    """A stored ciphertext and its revision."""

    value: bytes
    rev: Rev


@dataclass(frozen=True, slots=True)
class Job:
    """An outbox job: delivered at least once, not before ``not_before`` (Unix seconds, resolution 1 s)."""

    queue: str
    body: bytes
    not_before: int = 0


@dataclass(frozen=True, slots=True)
class Put:
    """One write: ``value`` None deletes. ``expect`` is the revision read, ABSENT, or ANY."""

    value: bytes | None
    expect: Rev | Expect


@dataclass(frozen=True, slots=True)
class Tx:
    """One atomic unit for one agent. ``id`` makes a retry idempotent for at least an hour."""

    id: str
    puts: Mapping[str, Put]
    jobs: Sequence[Job] = field(default_factory=tuple)
    fence: int | None = None


@dataclass(frozen=True, slots=True)
class Leased:
    """A job in hand: ``ack`` it, ``nack`` it, or let the lease run out."""

    job_id: str
    body: bytes
    token: str
    attempts: int


class State(Protocol):
    """Ciphertext key-value state per agent."""

    async def get(self, agent: str, key: str) -> Entry | None:
        """The newest entry or None."""

    async def scan(self, agent: str, prefix: str, limit: int = 1000) -> list[tuple[str, Entry]]:
        """Entries whose key starts with ``prefix``, in key order."""

    async def commit(self, agent: str, tx: Tx) -> dict[str, Rev]:
        """Apply atomically; a repeat of tx.id returns the first result.

        Raises CONFLICT, FENCED, TOO_LARGE or UNKNOWN_OUTCOME."""

    async def history(self, agent: str, key: str, limit: int = 16) -> list[Entry]:
        """Newest first, at most 16."""


class Jobs(Protocol):
    """The transactional outbox's other end."""

    async def take(self, queue: str, n: int, lease_s: float) -> list[Leased]:
        """Up to n due jobs, invisible to others for lease_s."""

    async def ack(self, job: Leased) -> None:
        """Done: never delivered again."""

    async def nack(self, job: Leased, delay_s: float) -> None:
        """Deliver again after delay_s."""


class Blobs(Protocol):
    """Content-addressed bytes (sha256), verified on read."""

    async def put(self, data: bytes) -> bytes:
        """Store; returns the 32-byte digest. Raises TOO_LARGE."""

    async def get(self, digest: bytes) -> bytes:
        """Read and verify. Raises NO_BLOB."""


class Leases(Protocol):
    """Named leases with fencing tokens that only grow."""

    async def hold(self, name: str, holder: str, ttl_s: float) -> int:
        """Take or renew; returns the fencing token. Raises LEASE_HELD."""

    async def release(self, name: str, holder: str) -> None:
        """Give it back early; a no-op if not held by ``holder``."""


@dataclass(frozen=True, slots=True)
class ReceiptBatch:
    """Receipts of one turn as they are kept: number of the first, the worker's signature (65 bytes) over all.

    ``ids``: 32 bytes each; ``sealed``: the kept forms, at most 8 KiB each. 1 to 1024 of both."""

    first: int
    signature: bytes
    ids: tuple[bytes, ...]
    sealed: tuple[bytes, ...]


class ReceiptLogs(Protocol):
    """Append-only logs of receipts. A log's name is of [a-z0-9.], one per worker boot; one process appends to it."""

    def append(self, log: str, batch: ReceiptBatch) -> Awaitable[None] | None:
        """Keep a batch; survives the end of the process. None: it is kept already; else await it.

        The same batch again at its place is done at most once. Raises NOT_NEXT, FabricError fabric.unavailable."""

    async def size(self, log: str) -> int:
        """How many receipts; 0 for a log that does not exist."""

    async def read(self, log: str, number: int) -> ReceiptBatch:
        """The batch with receipt ``number``. Raises NO_RECEIPT, PRUNED."""

    async def begins(self, log: str) -> int:
        """The first number whose body was not pruned; ids of all before it are still given."""

    async def ids(self, log: str, first: int, count: int) -> list[bytes]:
        """Ids of at most 1024 receipts from ``first`` on; fewer at the end. Raises NO_RECEIPT for a damaged log."""

    async def find(self, receipt_id: bytes) -> tuple[str, int]:
        """Which log has the receipt, and its number there. Raises NO_RECEIPT."""

    async def put_head(self, log: str, head: bytes) -> None:
        """Replace what the log's newest signed head is, at most 64 KiB."""

    async def head(self, log: str) -> bytes | None:
        """What ``put_head`` kept, or None."""


class Fabric(Protocol):
    """All five ports of one store."""

    state: State
    jobs: Jobs
    blobs: Blobs
    leases: Leases
    receipts: ReceiptLogs

    async def close(self) -> None:
        """Flush and stop."""
