"""Looking for a secret scalar in the memory of a running process, in every form that a library may keep it in.

Linux only: /proc/PID/maps says what is mapped, /proc/PID/mem holds it. The process is stopped while it is read, so that
nothing moves between two regions unseen.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

from cloister.core.threshold.groups import ORDER

PIECE = 1 << 22
R = 1 << 256
"""Montgomery form keeps x * 2^256 mod r (arkworks, blst: four limbs of 64 bits)."""


def forms(secret: int) -> dict[str, bytes]:
    """How a scalar may lie in memory, by name: each at least 24 bytes long, so that no chance match is likely."""
    montgomery = secret * R % ORDER
    inverse = secret * pow(R, -1, ORDER) % ORDER
    found = {
        "big-endian": secret.to_bytes(32, "big"),
        "little-endian": secret.to_bytes(32, "little"),
        "limbs in Montgomery form": montgomery.to_bytes(32, "little"),
        "limbs in Montgomery form, reversed": montgomery.to_bytes(32, "big"),
        "limbs out of Montgomery form": inverse.to_bytes(32, "little"),
        "Python's digits of 30 bits": b"".join(
            (secret >> 30 * n & (1 << 30) - 1).to_bytes(4, "little") for n in range(9)
        ),
        "decimal text": str(secret).encode(),
        "hex text": secret.to_bytes(32, "big").hex().encode(),
        "hex text, upper case": secret.to_bytes(32, "big").hex().upper().encode(),
    }
    return {**found, "decimal text of two bytes a letter": str(secret).encode("utf-16-le")}


def regions(pid: int) -> Iterator[tuple[int, int]]:
    """Start and end of every readable mapping that is memory of the process; devices and vsyscall left out."""
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        addresses, rights, _, _, _, *name = line.split(maxsplit=5)
        where = name[0] if name else ""
        if rights.startswith("r") and not where.startswith(("/dev/", "[vvar", "[vsyscall")):
            start, _, end = addresses.partition("-")
            yield int(start, 16), int(end, 16)


def pieces(pid: int, overlap: int) -> Iterator[bytes]:
    """All memory of a stopped process, in pieces that overlap so that nothing is cut in two."""
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:  # noqa: PTH123 - unbuffered
        for start, end in regions(pid):
            for at in range(start, end, PIECE):
                with contextlib.suppress(OSError):  # a guard page
                    yield os.pread(memory.fileno(), min(PIECE + overlap, end - at), at)


@contextlib.contextmanager
def stopped(pid: int) -> Iterator[None]:
    """The process stands still for the block, and goes on afterwards."""
    os.kill(pid, signal.SIGSTOP)
    try:
        for _ in range(500):
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "Tt":
                break
            time.sleep(0.01)
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def search(pid: int, secrets: dict[str, int]) -> dict[str, set[str]]:
    """For each named secret the forms in which the process holds it; empty sets where it holds none."""
    needles = {(name, form): data for name, secret in secrets.items() for form, data in forms(secret).items()}
    found: dict[str, set[str]] = {name: set() for name in secrets}
    longest = max(len(data) for data in needles.values())
    read = 0
    with stopped(pid):
        for piece in pieces(pid, longest):
            read += len(piece)
            for (name, form), data in needles.items():
                if form not in found[name] and data in piece:
                    found[name].add(form)
    assert read > 1 << 20, "no process is that small: its memory was not read"
    return found
