"""Caps and names of the embedded fabric: everything that comes in is checked before anything is allocated."""

from __future__ import annotations

import re

from cloister.core.errors import FabricError, define
from cloister.fabric.ports import MAX_VALUE, TOO_LARGE, Expect, Job, Put, Rev, Tx

MAX_PUTS = 512
MAX_JOBS = 64
MAX_TX = 16 * 1024 * 1024
MAX_HISTORY = 16
MAX_SCAN = 10_000
MAX_SCAN_BYTES = 64 * 1024 * 1024
MAX_TAKE = 256
MAX_LEASE_S = 24 * 3600.0
MAX_DELAY_S = 30 * 24 * 3600.0
KEEP_TX_S = 2 * 3600.0
KEEP_TOMBSTONE_S = 3600.0
KEEP_LEASE_S = 24 * 3600.0

_NAME = re.compile(r"[a-z0-9][a-z0-9.]{0,127}")
_PREFIX = re.compile(r"[a-z0-9.]{0,128}")
_ID = re.compile(r"[a-z0-9][a-z0-9.\-]{0,127}")

BAD_NAME = define(
    "fabric.bad_name",
    FabricError,
    check="agents, keys, queues and leases are named with 1 to 128 of [a-z0-9.]; transaction ids also with -",
    remedy="name agents and keys in hex without 0x",
)
BAD_LIMIT = define(
    "fabric.bad_limit",
    FabricError,
    check="counts and times are within their caps",
    remedy="ask for less at once",
)
UNAVAILABLE = define(
    "fabric.unavailable",
    FabricError,
    check="the store on disk answers",
    remedy="look at the disk of this machine (space, permissions), then restart the service",
    status=503,
)
BUSY = define(
    "fabric.busy",
    FabricError,
    check="the writer keeps up with what is asked of it",
    remedy="retry in a moment",
    status=503,
)
DAMAGED = define(
    "fabric.damaged",
    FabricError,
    check="the folder holds a store of this version that is readable by its owner only",
    remedy="restore the folder, or name an empty one",
)


def check_name(what: str, value: object) -> str:
    """The name, if it is one. Raises FabricError fabric.bad_name."""
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise BAD_NAME(expected=f"{what} of [a-z0-9.]", found=repr(value)[:80])
    return value


def check_prefix(value: object) -> str:
    """A key prefix; may be empty. Raises FabricError fabric.bad_name."""
    if not isinstance(value, str) or not _PREFIX.fullmatch(value):
        raise BAD_NAME(expected="a prefix of [a-z0-9.]", found=repr(value)[:80])
    return value


def check_range(what: str, value: float, low: float, high: float) -> float:
    """The number, if low <= value <= high. Raises FabricError fabric.bad_limit."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        raise BAD_LIMIT(expected=f"{what} from {low} to {high}", found=repr(value)[:80])
    return value


def check_tx(tx: Tx) -> int:
    """The bytes that a transaction carries, if all of it is well formed and within the caps."""
    if not isinstance(tx.id, str) or not _ID.fullmatch(tx.id):
        raise BAD_NAME(expected="a transaction id of [a-z0-9.-]", found=repr(tx.id)[:80])
    check_range("puts", len(tx.puts), 0, MAX_PUTS)
    check_range("jobs", len(tx.jobs), 0, MAX_JOBS)
    if tx.fence is not None:
        check_range("a fencing token", tx.fence, 1, 2**62)
    total = sum(_check_put(key, put) for key, put in tx.puts.items()) + sum(_check_job(job) for job in tx.jobs)
    if total > MAX_TX:
        raise TOO_LARGE(expected=f"at most {MAX_TX} bytes in one transaction", found=str(total))
    return total


def _check_put(key: str, put: Put) -> int:
    check_name("a key", key)
    if not isinstance(put.expect, (Rev, Expect)):
        raise TypeError(f"expect is a Rev or an Expect, not {type(put.expect).__name__}")
    return 0 if put.value is None else _check_value(put.value)


def _check_job(job: Job) -> int:
    check_name("a queue", job.queue)
    check_range("not_before", job.not_before, 0, 2**40)
    return _check_value(job.body)


def _check_value(value: bytes) -> int:
    if not isinstance(value, bytes):
        raise TypeError(f"a value is bytes, not {type(value).__name__}")
    if len(value) > MAX_VALUE:
        raise TOO_LARGE(expected=f"at most {MAX_VALUE} bytes", found=str(len(value)))
    return len(value)
