"""What ``cloister doctor`` checks on this machine, each with a hint."""

from __future__ import annotations

import os
import shutil
import socket
import sys
from pathlib import Path
from typing import Any

from cloister.evidence.tpm_bench import PROGRAMS

MIN_DISK = 2 << 30
TPM_PROGRAMS = ("swtpm", *PROGRAMS)


def check(name: str, ok: bool, found: str, hint: str) -> dict[str, Any]:
    """One row of the doctor's table."""
    return {"name": name, "ok": ok, "found": found, "hint": "" if ok else hint}


def machine(home: Path) -> list[dict[str, Any]]:
    """Python, disk, loopback ports, fuse, swtpm; the sandbox adds its own rows (``cloister.sandbox.checks``)."""
    home.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(home).free
    version = ".".join(map(str, sys.version_info[:3]))
    return [
        check("python", sys.version_info[:2] >= (3, 11), version, "install python3.11"),
        check("disk", free >= MIN_DISK, f"{free >> 30} GiB free", f"free {MIN_DISK >> 30} GiB for {home}"),
        check("loopback ports", _can_bind(), "127.0.0.1 port 0", "allow binding to the loopback address"),
        check(
            "fuse (optional)",
            True,
            "present" if os.access("/dev/fuse", os.R_OK | os.W_OK) else "absent: pretend TEEs use a unix socket",
            "",
        ),
        _tpm(),
    ]


def _tpm() -> dict[str, Any]:
    """Optional: a devnet without it has one worker less."""
    absent = [name for name in TPM_PROGRAMS if shutil.which(name) is None]
    found = f"absent ({', '.join(absent)}): the devnet has no worker-4" if absent else "present"
    hint = "apt-get install -y swtpm tpm2-tools"
    return {"name": "swtpm (optional)", "ok": True, "found": found, "hint": hint if absent else ""}


def _can_bind() -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", 0))
        except OSError:
            return False
    return True
