"""The behaviour of configfs-tsm reports (Documentation/ABI/testing/configfs-tsm-report), whatever carries it.

A report is made by mkdir, counts its writes in ``generation``, computes ``outblob`` when it is read, and refuses to
be read before it has an ``inblob``. Errors are OSError with the kernel's errno.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass

from cloister.devnet.tee.machines import PROVIDERS, Machine

INBLOB_SIZE = 64
MAX_REPORTS = 64
MAX_NAME = 128


@dataclass(slots=True)
class _Entry:
    generation: int = 0
    inblob: bytes = b""
    answer: tuple[bytes, bytes] | None = None


class TsmTree:
    """All reports of all machines that have configfs-tsm. Safe to use from several threads."""

    def __init__(self, machines: Mapping[str, Machine]) -> None:
        self._machines = machines
        self._entries: dict[tuple[str, str], _Entry] = {}
        self._lock = threading.RLock()

    def machines(self) -> list[str]:
        """Names of the machines that have reports."""
        return [name for name, machine in list(self._machines.items()) if machine.kind in PROVIDERS]

    def reports(self, machine: str) -> list[str]:
        """Names of a machine's reports."""
        with self._lock:
            self._need_machine(machine)
            return [name for owner, name in self._entries if owner == machine]

    def attributes(self, machine: str, name: str) -> list[str]:
        """Names of a report's attributes: SNP has one more pair than TDX."""
        with self._lock:
            self._entry(machine, name)
            more = ["auxblob"] if self._need_machine(machine).kind == "snp" else []
            return ["generation", "inblob", "outblob", "provider", *more]

    def mkdir(self, machine: str, name: str) -> None:
        """Make a report. EEXIST, EINVAL, ENOSPC."""
        with self._lock:
            self._need_machine(machine)
            if not name or len(name) > MAX_NAME or "/" in name or name in (".", ".."):
                raise _error(errno.EINVAL)
            if (machine, name) in self._entries:
                raise _error(errno.EEXIST)
            if len(self.reports(machine)) >= MAX_REPORTS:
                raise _error(errno.ENOSPC)
            self._entries[machine, name] = _Entry()

    def rmdir(self, machine: str, name: str) -> None:
        """Remove a report. ENOENT."""
        with self._lock:
            self._entry(machine, name)
            del self._entries[machine, name]

    def read(self, machine: str, name: str, attribute: str) -> bytes:
        """An attribute's content. ENOENT; EINVAL before there is an inblob; EACCES for inblob, which is write-only."""
        with self._lock:
            entry, owner = self._entry(machine, name), self._need_machine(machine)
            if attribute not in self.attributes(machine, name):
                raise _error(errno.ENOENT)
            if attribute == "inblob":
                raise _error(errno.EACCES)
            if attribute == "generation":
                return b"%d\n" % entry.generation
            if attribute == "provider":
                return PROVIDERS[owner.kind].encode() + b"\n"
            if not entry.inblob:
                raise _error(errno.EINVAL)
            if entry.answer is None:
                entry.answer = owner.hardware.report(entry.inblob)
            return entry.answer[attribute == "auxblob"]

    def write(self, machine: str, name: str, attribute: str, data: bytes) -> None:
        """Write the inblob: 64 bytes at once. EINVAL, EACCES, ENOENT."""
        with self._lock:
            entry = self._entry(machine, name)
            if attribute not in self.attributes(machine, name):
                raise _error(errno.ENOENT)
            if attribute != "inblob":
                raise _error(errno.EACCES)
            if len(data) != INBLOB_SIZE:
                raise _error(errno.EINVAL)
            entry.inblob, entry.answer = bytes(data), None
            entry.generation += 1

    def _need_machine(self, machine: str) -> Machine:
        owner = self._machines.get(machine)
        if owner is None or owner.kind not in PROVIDERS:
            raise _error(errno.ENOENT)
        return owner

    def _entry(self, machine: str, name: str) -> _Entry:
        self._need_machine(machine)
        entry = self._entries.get((machine, name))
        if entry is None:
            raise _error(errno.ENOENT)
        return entry


def _error(number: int) -> OSError:
    return OSError(number, os.strerror(number))
