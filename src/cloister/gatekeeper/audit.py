"""The member's audit log: one JSON line per answered admission or key request, each naming the hash of the last.

Lines are those of ``core/encoding/audit.py``. The newest hash is kept in memory and re-read at start; a torn last line
(a crash while writing) is cut off. Lines hold public facts only: addresses, agent ids, heights, error codes.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from cloister.core.encoding import jcs
from cloister.core.encoding.audit import verify_line
from cloister.core.encoding.contexts import Context, digest
from cloister.core.encoding.hexes import to_hex


class AuditLog:
    """Append-only file. Raises ConfigError (gatekeeper.audit) at open if a line does not fit the one before it."""

    def __init__(self, path: Path) -> None:
        self.count, self.head = 0, bytes(32)
        whole = 0
        if path.exists():
            with path.open("rb") as lines:
                for line in lines:
                    if not line.endswith(b"\n"):
                        break
                    self.count, self.head = verify_line(line[:-1], self.count, self.head)
                    whole += len(line)
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
        os.ftruncate(self._file, whole)
        os.lseek(self._file, whole, os.SEEK_SET)

    def append(self, what: str, **facts: Any) -> bytes:
        """Write one line; returns its hash. ``facts``: JSON-ready, nothing secret."""
        body = {"n": self.count, "prev": to_hex(self.head), "what": what, **facts}
        line = jcs.encode(body)
        os.write(self._file, line + b"\n")
        self.count, self.head = self.count + 1, digest(Context.AUDIT_LOG, line)
        return self.head

    def sync(self) -> None:
        """Flush to the disk; called on a timer, because no decision depends on the log."""
        os.fdatasync(self._file)

    def close(self) -> None:
        """Flush and close."""
        self.sync()
        os.close(self._file)
