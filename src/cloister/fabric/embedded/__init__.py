"""The embedded fabric: one folder, one SQLite file, blobs beside it. Several processes of one machine may share it."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import apsw

from cloister.fabric.embedded.blobs import EmbeddedBlobs
from cloister.fabric.embedded.jobs import EmbeddedJobs
from cloister.fabric.embedded.leases import EmbeddedLeases
from cloister.fabric.embedded.receipts import EmbeddedReceipts
from cloister.fabric.embedded.schema import connect, prepare_folder
from cloister.fabric.embedded.state import EmbeddedState
from cloister.fabric.embedded.writer import Writer
from cloister.fabric.ports import Blobs, Fabric, Jobs, Leases, ReceiptLogs, State

_WRITE_BUSY_MS = 5000
_READ_BUSY_MS = 1000


class EmbeddedFabric:
    """All five ports over one folder. Made by ``open_fabric``; belongs to the loop that opened it."""

    def __init__(
        self,
        reader: apsw.Connection,
        writer: Writer,
        folder: Path,
        clock: Callable[[], float],
        *,
        synced: bool,
    ) -> None:
        self._reader, self._writer = reader, writer
        self.state: State = EmbeddedState(reader, writer, clock)
        self.jobs: Jobs = EmbeddedJobs(reader, writer, clock)
        self.leases: Leases = EmbeddedLeases(writer, clock)
        self.blobs: Blobs = EmbeddedBlobs(folder / "blobs")
        self._receipts = EmbeddedReceipts(folder / "receipts", synced=synced)
        self.receipts: ReceiptLogs = self._receipts

    async def close(self) -> None:
        """Commit what waits, then stop the writer and close both connections."""
        await self._writer.close()
        await self._receipts.close()
        self._reader.close()


async def open_fabric(path: Path, *, clock: Callable[[], float] = time.time, synced: bool = False) -> Fabric:
    """Open (or make) the store in the folder ``path``: 0700, its files 0600. ``clock``: Unix seconds.

    ``synced``: receipts are on the disk before ``append`` says so; else within a second (docs/decisions/receipts.md).

    Raises FabricError fabric.unavailable (disk) or fabric.damaged (another version, readable by others, no store)."""
    file = prepare_folder(path)
    writer = Writer(file, clock, _WRITE_BUSY_MS)
    try:
        reader = connect(file, _READ_BUSY_MS)
    except BaseException:
        await writer.close()
        raise
    return EmbeddedFabric(reader, writer, path, clock, synced=synced)
