"""Receipt logs as flat files: one write per turn of the worker's loop, a few microseconds (docs/decisions/receipts.md).

``receipts/<log>.log`` holds records ``u32 length | u32 CRC-32 | payload``; payload = ``u64 first | u16 n | signature 65
| id 32·n | (u16 length | sealed)·n``. ``<log>.idx`` holds 16 bytes per receipt: the first 8 of its id, u64 offset of
its record. The index is written first and at a fixed place, so that a repeat after a crash changes nothing; what it
says is believed only if the record there agrees. A torn record at the end of a log is as if it were not there.

``<log>.ids``, where bodies were pruned (``pruning``): 32 bytes per receipt from the first one on. Where a record is not
there any more, and its id is, the receipt was pruned: its place can still be proven.
"""

from __future__ import annotations

import asyncio
import contextlib
import mmap
import os
import struct
import zlib
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from cloister.core.errors import FabricError
from cloister.fabric.embedded.limits import BAD_LIMIT, UNAVAILABLE, check_name, check_range
from cloister.fabric.ports import (
    MAX_RECEIPTS,
    MAX_SEALED_RECEIPT,
    NO_RECEIPT,
    NOT_NEXT,
    PRUNED,
    TOO_LARGE,
    ReceiptBatch,
)

T = TypeVar("T")

_RECORD: Final = struct.Struct(">II")
_BATCH: Final = struct.Struct(">QH65s")
_ROW: Final = struct.Struct(">8sQ")
_MAX_RECORD: Final = _BATCH.size + MAX_RECEIPTS * (32 + 2 + MAX_SEALED_RECEIPT)
_MAX_HEAD: Final = 64 * 1024
_MAX_LOGS: Final = 4096
_SYNC_S: Final = 1.0


@dataclass(slots=True)
class _Open:
    """A log that this process appends to."""

    log: int
    index: int
    size: int
    end: int


class EmbeddedReceipts:
    """``fabric.ports.ReceiptLogs`` in a folder. Reads work on any log, also of other processes and earlier boots."""

    def __init__(self, folder: Path, *, synced: bool) -> None:
        self._folder, self._synced = folder, synced
        self._open: dict[str, _Open] = {}
        self._syncing: asyncio.TimerHandle | None = None

    def append(self, log: str, batch: ReceiptBatch) -> Awaitable[None] | None:
        """Keep a batch (``fabric.ports.ReceiptLogs.append``)."""
        check_name("a log", log)
        data = _encoded(batch)
        try:
            held = self._open.get(log) or self._opened(log)
            new = self._written(held, batch, data)
            if self._synced:
                return asyncio.to_thread(_guarded, lambda: os.fdatasync(held.log))
        except OSError as error:
            raise _unavailable(error) from None
        if new and self._syncing is None:
            self._syncing = asyncio.get_running_loop().call_later(_SYNC_S, self._sync_soon)
        return None

    async def size(self, log: str) -> int:
        """How many receipts."""
        path = self._path(log, "idx")
        return await asyncio.to_thread(_guarded, lambda: _size(path))

    async def read(self, log: str, number: int) -> ReceiptBatch:
        """The batch with this receipt. Raises NO_RECEIPT."""
        check_range("number", number, 0, 2**53)
        paths = self._path(log, "idx"), self._path(log, "log")
        return await asyncio.to_thread(_guarded, lambda: _read(*paths, number))

    async def begins(self, log: str) -> int:
        """The first number whose body is kept."""
        path = self._path(log, "ids")
        return await asyncio.to_thread(_guarded, lambda: pruned_count(path))

    async def ids(self, log: str, first: int, count: int) -> list[bytes]:
        """Ids from ``first`` on."""
        check_range("first", first, 0, 2**53)
        check_range("count", count, 1, MAX_RECEIPTS)
        paths = self._path(log, "idx"), self._path(log, "log")
        return await asyncio.to_thread(_guarded, lambda: _ids(*paths, first, count))

    async def find(self, receipt_id: bytes) -> tuple[str, int]:
        """(log, number). Raises NO_RECEIPT."""
        if len(receipt_id) != 32:
            raise NO_RECEIPT(expected="an id of 32 bytes", found=f"{len(receipt_id)} bytes")
        return await asyncio.to_thread(_guarded, lambda: _find(self._folder, receipt_id))

    async def put_head(self, log: str, head: bytes) -> None:
        """Replace the newest signed head."""
        if len(head) > _MAX_HEAD:
            raise TOO_LARGE(expected=f"a head of at most {_MAX_HEAD} bytes", found=str(len(head)))
        path = self._path(log, "head")
        await asyncio.to_thread(_guarded, lambda: _replace(path, head))

    async def head(self, log: str) -> bytes | None:
        """The newest signed head."""
        path = self._path(log, "head")
        return await asyncio.to_thread(_guarded, lambda: _small(path))

    async def close(self) -> None:
        """Bring everything to the disk and close."""
        if self._syncing is not None:
            self._syncing.cancel()
        for held in self._open.values():
            for file in (held.log, held.index):
                with contextlib.suppress(OSError):
                    await asyncio.to_thread(os.fdatasync, file)
                os.close(file)
        self._open.clear()

    def _path(self, log: str, kind: str) -> Path:
        return self._folder / f"{check_name('a log', log)}.{kind}"

    def _opened(self, log: str) -> _Open:
        """Open for appending: what is torn at the end is cut off."""
        self._folder.mkdir(mode=0o700, exist_ok=True)
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        files = [os.open(self._path(log, kind), flags, 0o600) for kind in ("log", "idx")]
        try:
            size, end = _whole(files, pruned_count(self._path(log, "ids")))
            os.ftruncate(files[0], end)
            os.ftruncate(files[1], size * _ROW.size)
        except BaseException:
            for file in files:
                os.close(file)
            raise
        held = self._open[log] = _Open(files[0], files[1], size, end)
        return held

    def _written(self, held: _Open, batch: ReceiptBatch, data: bytes) -> bool:
        """Write at the end. False: it was there already."""
        if batch.first < held.size:
            found = at_record(held.log, row_offset(held.index, batch.first))
            if found is not None and _encoded(found) == data:
                return False
        if batch.first != held.size:
            raise NOT_NEXT(expected=f"receipt {held.size}", found=str(batch.first))
        rows = b"".join([_ROW.pack(one[:8], held.end) for one in batch.ids])
        _pwrite(held.index, rows, held.size * _ROW.size)
        _pwrite(held.log, data, held.end)
        held.size, held.end = held.size + len(batch.ids), held.end + len(data)
        return True

    def _sync_soon(self) -> None:
        """Once a second, beside the loop: what was written goes to the disk."""
        self._syncing = None
        files = [held.log for held in self._open.values()]
        loop = asyncio.get_running_loop()
        for file in files:
            loop.run_in_executor(None, _sync_quietly, file)


def _sync_quietly(file: int) -> None:
    with contextlib.suppress(OSError):  # closed meanwhile, and synced then; a failing disk fails the next write
        os.fdatasync(file)


def _encoded(batch: ReceiptBatch) -> bytes:
    count = len(batch.ids)
    if not 1 <= count <= MAX_RECEIPTS or len(batch.sealed) != count or len(batch.signature) != 65:
        raise BAD_LIMIT(expected=f"1 to {MAX_RECEIPTS} receipts and a signature", found=str(count))
    if any(len(one) != 32 for one in batch.ids) or not 0 <= batch.first < 2**53:
        raise BAD_LIMIT(expected="ids of 32 bytes and a number", found="others")
    if any(len(one) > MAX_SEALED_RECEIPT for one in batch.sealed):
        raise TOO_LARGE(expected=f"receipts of at most {MAX_SEALED_RECEIPT} bytes", found="more")
    pieces = [len(one).to_bytes(2, "big") + one for one in batch.sealed]
    payload = b"".join([_BATCH.pack(batch.first, count, batch.signature), *batch.ids, *pieces])
    return _RECORD.pack(len(payload), zlib.crc32(payload)) + payload


def _decoded(payload: bytes) -> ReceiptBatch | None:
    if len(payload) < _BATCH.size:
        return None
    first, count, signature = _BATCH.unpack_from(payload)
    at = _BATCH.size + 32 * count
    ids = tuple(payload[i : i + 32] for i in range(_BATCH.size, at, 32))
    sealed = []
    for _ in range(count):
        size = int.from_bytes(payload[at : at + 2], "big")
        sealed.append(payload[at + 2 : at + 2 + size])
        at += 2 + size
    if at != len(payload):
        return None
    return ReceiptBatch(first, signature, ids, tuple(sealed))


def at_record(file: int, offset: int) -> ReceiptBatch | None:
    """The record at an offset of an open log; None if it is not whole. Raises OSError."""
    head = os.pread(file, _RECORD.size, offset)
    if len(head) < _RECORD.size:
        return None
    size, check = _RECORD.unpack(head)
    if size > _MAX_RECORD:
        return None
    payload = os.pread(file, size, offset + _RECORD.size)
    if len(payload) != size or zlib.crc32(payload) != check:
        return None
    return _decoded(payload)


def _whole(files: list[int], pruned: int) -> tuple[int, int]:
    """(receipts, bytes) of the whole records of a log, those included that were pruned."""
    file, size, end = files[0], pruned, 0
    if pruned:
        row = os.pread(files[1], _ROW.size, pruned * _ROW.size)
        end = int(_ROW.unpack(row)[1]) if len(row) == _ROW.size else os.fstat(file).st_size
    while (batch := at_record(file, end)) is not None and batch.first == size:
        size += len(batch.ids)
        end += len(_encoded(batch))
    return size, end


def row_offset(index: int, number: int) -> int:
    """Where the record of a receipt is, as the open index says. Raises NO_RECEIPT, OSError."""
    row = os.pread(index, _ROW.size, number * _ROW.size)
    if len(row) != _ROW.size:
        raise NO_RECEIPT(expected=f"receipt {number}", found="a shorter log")
    return int(_ROW.unpack(row)[1])


def _size(path: Path) -> int:
    """Rows whose records are whole, from the end: a crash may leave rows without records."""
    try:
        index = _for_reading(path)
    except FileNotFoundError:
        return 0
    pruned = pruned_count(path.with_suffix(".ids"))
    with _closing(index), _closing(_for_reading(path.with_suffix(".log"))) as log:
        size = os.fstat(index).st_size // _ROW.size
        while size > pruned:
            batch = at_record(log, row_offset(index, size - 1))
            if batch is not None and batch.first <= size - 1 < batch.first + len(batch.ids):
                return size
            size -= 1
    return size


def _read(index_path: Path, log_path: Path, number: int) -> ReceiptBatch:
    try:
        index, log = _for_reading(index_path), _for_reading(log_path)
    except FileNotFoundError:
        raise NO_RECEIPT(expected=f"receipt {number}", found="no such log") from None
    with _closing(index), _closing(log):
        batch = at_record(log, row_offset(index, number))
    if batch is None or not batch.first <= number < batch.first + len(batch.ids):
        if number < pruned_count(log_path.with_suffix(".ids")):
            raise PRUNED(expected=f"receipt {number}", found="its id alone")
        raise NO_RECEIPT(expected=f"receipt {number}", found="a damaged log")
    return batch


def pruned_count(path: Path) -> int:
    """How many receipts from the first one on have their ids in an ``.ids`` file, and may have no body any more."""
    try:
        return path.stat().st_size // 32
    except FileNotFoundError:
        return 0


def _pruned_ids(path: Path, first: int, count: int) -> list[bytes]:
    try:
        with _closing(_for_reading(path)) as file:
            data = os.pread(file, 32 * count, 32 * first)
    except FileNotFoundError:
        return []
    return [data[at : at + 32] for at in range(0, len(data) - 31, 32)]


def _ids(index_path: Path, log_path: Path, first: int, count: int) -> list[bytes]:
    last = min(first + count, _size(index_path))
    found = _pruned_ids(index_path.with_suffix(".ids"), first, max(0, last - first))
    first += len(found)
    while first < last:
        batch = _read(index_path, log_path, first)
        some = batch.ids[first - batch.first :][: last - first]
        found += some
        first += len(some)
    return found


def _find(folder: Path, receipt_id: bytes) -> tuple[str, int]:
    try:
        files = sorted(folder.glob("*.idx"), key=lambda path: path.stat().st_mtime, reverse=True)[:_MAX_LOGS]
    except FileNotFoundError:
        files = []
    for path in files:
        number = _number(path, receipt_id)
        if number is not None:
            return path.stem, number
    raise NO_RECEIPT(expected=f"receipt 0x{receipt_id.hex()}", found="none in this store")


def _number(path: Path, receipt_id: bytes) -> int | None:
    """The number of a receipt in a log: rows that begin like the id, until one's record has the id."""
    with _closing(_for_reading(path)) as index:
        if os.fstat(index).st_size < _ROW.size:
            return None
        with mmap.mmap(index, 0, prot=mmap.PROT_READ) as rows:
            at = rows.find(receipt_id[:8])
            while at >= 0:
                if at % _ROW.size == 0 and _has(path, at // _ROW.size, receipt_id):
                    return at // _ROW.size
                at = rows.find(receipt_id[:8], at + 1)
    return None


def _has(path: Path, number: int, receipt_id: bytes) -> bool:
    if number < pruned_count(path.with_suffix(".ids")):
        return _pruned_ids(path.with_suffix(".ids"), number, 1) == [receipt_id]
    with contextlib.suppress(FabricError):
        batch = _read(path, path.with_suffix(".log"), number)
        return batch.ids[number - batch.first] == receipt_id
    return False


def _replace(path: Path, data: bytes) -> None:
    path.parent.mkdir(mode=0o700, exist_ok=True)
    aside = path.with_suffix(".new")
    file = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(file, "wb") as out:
        out.write(data)
    aside.rename(path)


def _small(path: Path) -> bytes | None:
    try:
        with _closing(_for_reading(path)) as file:
            return os.pread(file, _MAX_HEAD, 0)
    except FileNotFoundError:
        return None


def _pwrite(file: int, data: bytes, offset: int) -> None:
    done = os.pwrite(file, data, offset)
    if done != len(data):
        raise OSError(28, "No space left on device")


def _for_reading(path: Path) -> int:
    return os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)


@contextlib.contextmanager
def _closing(file: int) -> Iterator[int]:
    try:
        yield file
    finally:
        os.close(file)


def _guarded(work: Callable[[], T]) -> T:
    try:
        return work()
    except OSError as error:
        raise _unavailable(error) from None


def _unavailable(error: OSError) -> Exception:
    return UNAVAILABLE(expected="a disk that takes receipts", found=error.strerror or "an error")
