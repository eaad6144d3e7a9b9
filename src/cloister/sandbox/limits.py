"""Resource limits and user ids of agent processes."""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import Final

from cloister.sandbox.ports import Limits

_MIB: Final = 1 << 20
# V8 reserves its cage as private data: with less than this it does not start (measured, reference machine x86-64).
V8_BASE_MB: Final = 512
_HIGH_UIDS: Final = (0x4000_0000, 0x1000_0000)
_LOW_UIDS: Final = (20_000, 40_000)


def limit_arguments(
    limits: Limits, prlimit: Path, uid: int | None, cpu_s: int | None = None, *, base_mb: int = V8_BASE_MB
) -> list[str]:
    """The command prefix that sets limits before bubblewrap starts: every process of the sandbox inherits them.

    DATA is the memory cap that needs no cgroup: peak resident memory stays near ``memory_mb``: ``base_mb`` is what
    the runtime reserves without using it.
    NPROC counts threads per user id, so it only bites where each agent has its own. ``cpu_s`` is for processes that
    serve nobody: it counts a whole life, which a serving agent may spend as long as it likes.
    """
    own_count = [f"--nproc={48 + 4 * (os.cpu_count() or 1)}"] if uid is not None else []
    return [
        str(prlimit),
        f"--data={(base_mb + limits.memory_mb) * _MIB}",
        f"--fsize={16 * _MIB}",
        "--nofile=256",
        "--core=0",
        *own_count,
        *([] if cpu_s is None else [f"--cpu={cpu_s}"]),
        "--",
    ]


def fresh_uid() -> int | None:
    """A user id for one agent: random in a high range, or in a low one where this user namespace maps few ids.

    None without root: the agent then runs as this user, inside its own user namespace.
    """
    if os.geteuid() != 0:
        return None
    mapped = _mapped_ids()
    for base, size in (_HIGH_UIDS, _LOW_UIDS):
        if mapped >= base + size:
            return base + secrets.randbelow(size)
    return None


def _mapped_ids() -> int:
    """One past the highest user id that the map of this namespace covers from zero."""
    for line in Path("/proc/self/uid_map").read_text().splitlines():
        inside, _, count = (int(part) for part in line.split())
        if inside == 0:
            return count
    return 0
