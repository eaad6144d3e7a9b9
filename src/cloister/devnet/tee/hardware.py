"""What one machine's TEE does for its guest: of these interfaces each kind has its own, and no other."""

from __future__ import annotations

import errno
import os


class Hardware:
    """A machine without any of them."""

    def report(self, report_data: bytes) -> tuple[bytes, bytes]:
        """(outblob, auxblob) over 64 bytes, for configfs-tsm. ENODEV where there is none."""
        raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))

    def nsm(self, request: bytes) -> bytes:
        """The security module's answer, for Nitro. ENODEV where there is none."""
        raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))

    def close(self) -> None:
        """Power off; only machines that run as a process have something to end."""
