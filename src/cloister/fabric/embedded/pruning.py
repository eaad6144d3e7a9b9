"""Bodies of old receipts go, their places stay: what a log keeps so that every proof can still be given.

A log's file is not rewritten: the pruned beginning becomes a hole, so the process that appends at its end notices
nothing. Order: 1. ids of the records go into ``<log>.ids``, on the disk; 2. the hole. A kill between leaves both, and
the next turn does 1 and 2 again for what is still readable. Who calls sees to it that the ids are under a signed head,
and that one process prunes at a time (``pruning_alone``).
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cloister.core.errors import FabricError, define
from cloister.fabric.embedded.limits import BAD_LIMIT, UNAVAILABLE, check_name
from cloister.fabric.embedded.receipts import at_record, pruned_count, row_offset

STEP: Final = 4096
_BLOCK: Final = 1 << 16
_KEEP_SIZE_PUNCH_HOLE: Final = 3

NO_HOLES = define(
    "fabric.no_holes",
    FabricError,
    check="the file system of the store can free the middle of a file (fallocate with PUNCH_HOLE)",
    remedy="put the store on ext4, xfs, btrfs or tmpfs, or set neither receipts_days nor receipts_bytes",
    status=503,
)
NOT_ALONE = define(
    "fabric.pruning",
    FabricError,
    check="one process at a time prunes a store",
    remedy="nothing needs to be done: another gateway of this store prunes it",
    status=503,
)


@dataclass(frozen=True, slots=True)
class LogFile:
    """A log as the disk has it: ``used`` bytes of its bodies, ``written``: Unix seconds of the last append."""

    name: str
    used: int
    written: float


def logs_of(folder: Path) -> list[LogFile]:
    """All logs of a ``receipts`` folder, those first that were written longest ago."""
    found = []
    for path in folder.glob("*.log"):
        with contextlib.suppress(FileNotFoundError):
            facts = path.stat()
            found.append(LogFile(path.stem, facts.st_blocks * 512, facts.st_mtime))
    return sorted(found, key=lambda one: one.written)


@contextlib.contextmanager
def pruning_alone(folder: Path) -> Iterator[None]:
    """Holds the store's lock for pruning. Raises NOT_ALONE if another process does."""
    folder.mkdir(mode=0o700, exist_ok=True)
    file = os.open(folder / "prune.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise NOT_ALONE(expected="to hold the lock", found="another process holds it") from None
        yield
    finally:
        os.close(file)


def number_after(folder: Path, log: str, wanted: int, below: int) -> int:
    """The first number such that pruning all before it frees ``wanted`` bytes; ``below`` if less is to be had."""
    paths = _Paths.of(folder, log)
    with _opened(paths.index, os.O_RDONLY) as index:
        low = begins(folder, log)
        base = row_offset(index, low) if low < below else 0
        high = below
        while low < high:
            middle = (low + high) // 2
            if row_offset(index, middle) - base >= wanted:
                high = middle
            else:
                low = middle + 1
    return low


def begins(folder: Path, log: str) -> int:
    """The first number whose body can still be read. After a kill in the middle that is below the count of ids."""
    paths = _Paths.of(folder, log)
    number = pruned_count(paths.ids)
    with _opened(paths.index, os.O_RDONLY) as index, _opened(paths.log, os.O_RDONLY) as file:
        while number:
            batch = at_record(file, row_offset(index, number - 1))
            if batch is None:
                break
            number = batch.first
    return number


def prune(folder: Path, log: str, below: int) -> int:
    """Take the bodies of whole batches of receipts under number ``below``; how many receipts that were.

    Raises FabricError: fabric.no_holes, unavailable, no_receipt for an index without its record."""
    if not 0 <= below < 1 << 53:
        raise BAD_LIMIT(expected="a number of a receipt", found=str(below))
    paths = _Paths.of(folder, log)
    start = number = begins(folder, log)
    try:
        with contextlib.ExitStack() as opened:
            index, file = (opened.enter_context(_opened(path, os.O_RDWR)) for path in (paths.index, paths.log))
            ids = opened.enter_context(_opened(paths.ids, os.O_RDWR | os.O_CREAT))
            while number < below:
                after = _step(index, file, ids, number, below)
                if after == number:
                    break
                number = after
    except OSError as error:
        raise UNAVAILABLE(expected="a disk that prunes", found=error.strerror or "an error") from None
    return number - start


def _step(index: int, file: int, ids: int, number: int, below: int) -> int:
    """Prune at most about ``STEP`` receipts; the first number that is left."""
    begin, gathered, at = row_offset(index, number), list[bytes](), number
    while at < below and len(gathered) < STEP:
        batch = at_record(file, row_offset(index, at))
        if batch is None or batch.first != at or at + len(batch.ids) > below:
            break  # damaged, or its last receipts are not to go yet
        gathered += batch.ids
        at += len(batch.ids)
    if at == number:
        return number
    end = _end_of(index, file, at)
    _write(ids, b"".join(gathered), 32 * number)
    os.ftruncate(ids, 32 * at)
    os.fdatasync(ids)  # 1
    begin = max(0, begin - _BLOCK)  # what lies before is gone already; blocks that both share go now
    _punch(file, begin, end - begin)  # 2
    return at


def _end_of(index: int, file: int, number: int) -> int:
    """Where the record of receipt ``number`` begins, or the file ends."""
    last = os.fstat(index).st_size // 16
    return row_offset(index, number) if number < last else os.fstat(file).st_size


def _write(file: int, data: bytes, offset: int) -> None:
    if os.pwrite(file, data, offset) != len(data):
        raise OSError(28, "No space left on device")


def _punch(file: int, offset: int, length: int) -> None:
    """Free a piece of a file; it reads as zeros then, and the file keeps its length. Raises NO_HOLES, OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    sizes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
    libc.fallocate.argtypes = sizes
    if libc.fallocate(file, _KEEP_SIZE_PUNCH_HOLE, offset, length) == 0:
        return
    number = ctypes.get_errno()
    if number in (95, 38, 22):  # EOPNOTSUPP, ENOSYS, EINVAL
        raise NO_HOLES(expected="a file system with holes", found=os.strerror(number))
    raise OSError(number, os.strerror(number))


@dataclass(frozen=True, slots=True)
class _Paths:
    index: Path
    log: Path
    ids: Path

    @classmethod
    def of(cls, folder: Path, log: str) -> _Paths:
        name = check_name("a log", log)
        return cls(*(folder / f"{name}.{kind}" for kind in ("idx", "log", "ids")))


@contextlib.contextmanager
def _opened(path: Path, flags: int) -> Iterator[int]:
    try:
        file = os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise UNAVAILABLE(expected="a log's files", found=error.strerror or "an error") from None
    try:
        yield file
    finally:
        os.close(file)
