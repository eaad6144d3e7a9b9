"""Gramine's /dev/attestation for pretend SGX machines: as a mounted file system, or as a plain folder with pipes.

DIR/attestation/MACHINE behaves as Gramine's folder: 64 bytes are written to ``user_report_data``, and ``quote`` is
computed when it is read (Gramine "Attestation and secret provisioning"). Where nothing can be mounted, the two are
named pipes that a thread serves; the producer reads and writes the same way.
"""

from __future__ import annotations

import errno
import os
import select
import stat
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from cloister.devnet.tee.fuse import Operations
from cloister.devnet.tee.machines import Machine
from cloister.devnet.tee.sgx import SgxHardware
from cloister.devnet.tee.store import write_private

REPORT_SIZE: Final = 64
KEYS: Final = ("_sgx_mrenclave", "_sgx_mrsigner")
_POLL_S: Final = 0.005


class GramineTree:
    """The pseudo-files of all SGX machines. Errors are OSError with the kernel's errno. Safe to share by threads."""

    def __init__(self, machines: Mapping[str, Machine]) -> None:
        self._machines = machines
        self._written: dict[str, bytes] = {}
        self._lock = threading.Lock()

    def machines(self) -> list[str]:
        """Names of the SGX machines."""
        return [name for name, machine in list(self._machines.items()) if isinstance(machine.hardware, SgxHardware)]

    def files(self, machine: str) -> list[str]:
        """Names below one machine's folder."""
        self._enclave(machine)
        return ["attestation_type", "user_report_data", "quote", *(f"keys/{key}" for key in KEYS)]

    def read(self, machine: str, name: str) -> bytes:
        """A file's content. ENOENT."""
        enclave = self._enclave(machine)
        if name == "attestation_type":
            return b"dcap"
        if name.startswith("keys/") and name[5:] in KEYS:
            return enclave.seal_key(name[5:])
        with self._lock:
            written = self._written.get(machine, bytes(REPORT_SIZE))
        if name == "user_report_data":
            return written
        if name == "quote":
            return enclave.quote(written)
        raise _error(errno.ENOENT)

    def write(self, machine: str, name: str, data: bytes) -> None:
        """Set the report data: 64 bytes at once. EINVAL, EACCES, ENOENT."""
        if name not in self.files(machine):
            raise _error(errno.ENOENT)
        if name != "user_report_data":
            raise _error(errno.EACCES)
        if len(data) != REPORT_SIZE:
            raise _error(errno.EINVAL)
        with self._lock:
            self._written[machine] = bytes(data)

    def _enclave(self, machine: str) -> SgxHardware:
        found = self._machines.get(machine)
        if found is None or not isinstance(found.hardware, SgxHardware):
            raise _error(errno.ENOENT)
        return found.hardware


class GramineOperations(Operations):  # type: ignore[misc, unused-ignore]
    """FUSE callbacks over a GramineTree. Paths are /machine/file and /machine/keys/key."""

    use_ns = True

    def __init__(self, tree: GramineTree) -> None:
        self._tree = tree
        self._open: dict[int, bytes] = {}
        self._next = 0

    def getattr(self, path: str, fh: int | None = None) -> dict[str, Any]:
        """Files say size 0, as pseudo-files do."""
        machine, name = _split(path)
        if name and name != "keys":
            if name not in self._tree.files(machine):
                raise _error(errno.ENOENT)
            mode = stat.S_IFREG | (0o600 if name == "user_report_data" else 0o400)
        else:
            if machine not in ("", *self._tree.machines()):
                raise _error(errno.ENOENT)
            mode = stat.S_IFDIR | 0o500
        return {"st_mode": mode, "st_nlink": 1, "st_size": 0, "st_uid": os.getuid(), "st_gid": os.getgid()}

    def readdir(self, path: str, fh: int) -> list[str]:
        """Machines, files or keys."""
        machine, name = _split(path)
        if not machine:
            return [".", "..", *self._tree.machines()]
        if name == "keys":
            return [".", "..", *KEYS]
        if name:
            raise _error(errno.ENOTDIR)
        return [".", "..", *sorted({file.split("/")[0] for file in self._tree.files(machine)})]

    def open(self, path: str, flags: int) -> int:
        """A handle; a reader's content is computed at its first read."""
        self.getattr(path)
        self._next += 1
        return self._next

    def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
        """A piece of the file as it was at this handle's first read."""
        if fh not in self._open:
            self._open[fh] = self._tree.read(*_split(path))
        return self._open[fh][offset : offset + size]

    def write(self, path: str, data: bytes, offset: int, fh: int) -> int:
        """One write is one value: no write at an offset."""
        if offset:
            raise _error(errno.EINVAL)
        self._tree.write(*_split(path), bytes(data))
        return len(data)

    def truncate(self, path: str, length: int, fh: int | None = None) -> int:
        """Shells truncate before they write; there is nothing to cut."""
        self.getattr(path)
        return 0

    def release(self, path: str, fh: int) -> int:
        """Forget the handle's content."""
        self._open.pop(fh, None)
        return 0


class PipeFolder:
    """One machine's folder without a mount: plain files, and two named pipes that a thread serves."""

    def __init__(self, folder: Path, machine: str, tree: GramineTree) -> None:
        self.folder, self._machine, self._tree = folder, machine, tree
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._serve, name=f"gramine-{machine}", daemon=True)

    def start(self) -> None:
        """Make the files and serve. Raises OSError."""
        (self.folder / "keys").mkdir(mode=0o700, parents=True, exist_ok=True)
        self.refresh()
        for name in ("user_report_data", "quote"):
            (self.folder / name).unlink(missing_ok=True)
            os.mkfifo(self.folder / name, 0o600)
        self._thread.start()

    def refresh(self) -> None:
        """Write the plain files again: the enclave may be another."""
        for name in ("attestation_type", *(f"keys/{key}" for key in KEYS)):
            write_private(self.folder / name, self._tree.read(self._machine, name))

    def stop(self) -> None:
        """End the thread and remove the pipes."""
        self._stopping.set()
        self._thread.join(5)
        for name in ("user_report_data", "quote"):
            (self.folder / name).unlink(missing_ok=True)

    def _serve(self) -> None:
        # Open for both directions: then a writer that comes and goes is no end of file.
        data = os.open(self.folder / "user_report_data", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            while not self._stopping.is_set():
                self._take(data, _POLL_S)
                self._answer(data)
        finally:
            os.close(data)

    def _take(self, data: int, wait: float) -> None:
        """What was written, if something was. Writes that nobody took in between come as one: the last counts."""
        if select.select([data], [], [], wait)[0]:
            written = os.read(data, 64 * REPORT_SIZE)
            if len(written) % REPORT_SIZE == 0:  # of another size: as if nothing had been written
                self._tree.write(self._machine, "user_report_data", written[-REPORT_SIZE:])

    def _answer(self, data: int) -> None:
        """One quote over what was written last, if somebody opened the pipe to read it.

        The next reader gets a new pipe: this one sees its end however slowly it reads."""
        pipe = self.folder / "quote"
        try:
            out = os.open(pipe, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return
        try:
            self._take(data, 0)  # written before the reader came
            os.mkfifo(self.folder / ".next", 0o600)
            (self.folder / ".next").replace(pipe)
            os.write(out, self._tree.read(self._machine, "quote"))  # a pipe holds more than a quote
        except OSError:
            return  # the reader went away, or the machine did
        finally:
            os.close(out)


def _split(path: str) -> tuple[str, str]:
    machine, _, name = path.strip("/").partition("/")
    return machine, name


def _error(number: int) -> OSError:
    return OSError(number, os.strerror(number))
