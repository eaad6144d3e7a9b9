"""configfs-tsm as a mounted file system: DIR/tsm/MACHINE behaves as /sys/kernel/config/tsm/report does."""

from __future__ import annotations

import errno
import os
import stat
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cloister.devnet.tee.client import is_mounted, unmount
from cloister.devnet.tee.tsm import TsmTree

if TYPE_CHECKING:

    class Operations:
        """mfusepy's base class, which is untyped."""

else:
    try:
        from mfusepy import Operations
    except (ImportError, OSError):  # OSError: the wheel is there, libfuse is not
        Operations = object

MOUNT_TIMEOUT_S = 10.0
_WRITE_ONLY = ("inblob",)


class TsmOperations(Operations):  # type: ignore[misc, unused-ignore]
    """FUSE callbacks over a TsmTree. Paths are /machine/report/attribute."""

    use_ns = True

    def __init__(self, tree: TsmTree) -> None:
        self._tree = tree
        self._open: dict[int, bytes] = {}
        self._next = 0

    def getattr(self, path: str, fh: int | None = None) -> dict[str, Any]:
        """Attributes say size 0, as binary attributes of configfs do."""
        parts = _parts(path)
        if len(parts) == 3:
            if parts[2] not in self._tree.attributes(parts[0], parts[1]):
                raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
            mode = stat.S_IFREG | (0o200 if parts[2] in _WRITE_ONLY else 0o400)
        else:
            self.readdir(path, 0)
            mode = stat.S_IFDIR | 0o700
        return {"st_mode": mode, "st_nlink": 1, "st_size": 0, "st_uid": os.getuid(), "st_gid": os.getgid()}

    def readdir(self, path: str, fh: int) -> list[str]:
        """Machines, reports or attributes."""
        parts = _parts(path)
        if not parts:
            inside = self._tree.machines()
        elif len(parts) == 1:
            inside = self._tree.reports(parts[0])
        elif len(parts) == 2:
            inside = self._tree.attributes(parts[0], parts[1])
        else:
            raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        return [".", "..", *inside]

    def mkdir(self, path: str, mode: int) -> int:
        """Make a report; folders exist on that level only."""
        self._tree.mkdir(*_need(path, 2))
        return 0

    def rmdir(self, path: str) -> int:
        """Remove a report."""
        self._tree.rmdir(*_need(path, 2))
        return 0

    def open(self, path: str, flags: int) -> int:
        """A handle; a reader's content is computed at its first read."""
        self.getattr(path)
        self._next += 1
        return self._next

    def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
        """A piece of the attribute as it was at this handle's first read."""
        if fh not in self._open:
            self._open[fh] = self._tree.read(*_need(path, 3))
        return self._open[fh][offset : offset + size]

    def write(self, path: str, data: bytes, offset: int, fh: int) -> int:
        """One write is one value: no write at an offset."""
        if offset:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        machine, report, attribute = _need(path, 3)
        self._tree.write(machine, report, attribute, bytes(data))
        return len(data)

    def truncate(self, path: str, length: int, fh: int | None = None) -> int:
        """Shells truncate before they write; there is nothing to cut."""
        self.getattr(path)
        return 0

    def release(self, path: str, fh: int) -> int:
        """Forget the handle's content."""
        self._open.pop(fh, None)
        return 0


class Mount:
    """A mounted tree, served by a thread of this process. ``name``: of the file system, as the mount table shows it."""

    def __init__(self, mountpoint: Path, operations: Operations, name: str = "tsm") -> None:
        self.mountpoint = mountpoint
        self._operations, self._name = operations, name
        self._thread = threading.Thread(target=self._serve, name=f"{name}-fuse", daemon=True)
        self._failure = ""

    def start(self) -> None:
        """Mount and wait until it answers. Raises OSError if this machine cannot."""
        if not os.access("/dev/fuse", os.R_OK | os.W_OK):
            raise OSError(errno.ENODEV, "no usable /dev/fuse")
        if Operations is object:
            raise OSError(errno.ENOSYS, "no mfusepy or no libfuse")
        unmount(self.mountpoint)
        self.mountpoint.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._thread.start()
        deadline = time.monotonic() + MOUNT_TIMEOUT_S
        while not is_mounted(self.mountpoint):
            if not self._thread.is_alive() or time.monotonic() > deadline:
                self.stop()
                raise OSError(errno.EIO, self._failure or "the mount did not appear")
            time.sleep(0.01)

    def stop(self) -> None:
        """Unmount; the thread ends with the mount."""
        unmount(self.mountpoint)
        self._thread.join(MOUNT_TIMEOUT_S)

    def _serve(self) -> None:
        from mfusepy import FUSE

        try:
            FUSE(
                self._operations,
                str(self.mountpoint),
                foreground=True,
                nothreads=True,
                direct_io=True,
                fsname=f"cloister-{self._name}",
                subtype=self._name,
            )
        except (RuntimeError, OSError) as error:
            self._failure = f"mount failed: {error}"


def _parts(path: str) -> list[str]:
    return [part for part in path.split("/") if part]


def _need(path: str, depth: int) -> list[str]:
    parts = _parts(path)
    if len(parts) != depth:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))
    return parts
