"""The programs and libraries of this machine that the sandbox uses. What else it needs is asked by ``checks.py``."""

from __future__ import annotations

import functools
import os
import platform
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cloister.sandbox.errors import MACHINE

_LIBRARIES: Final = ("libc.so.6", "libm.so.6", "libdl.so.2", "librt.so.1", "libpthread.so.0", "libgcc_s.so.1")
_LOADER: Final = Path("/lib64/ld-linux-x86-64.so.2")
LIBRARY_FOLDERS: Final = (
    "/lib/x86_64-linux-gnu",
    "/usr/lib/x86_64-linux-gnu",
    "/lib64",
    "/usr/lib64",
    "/lib",
    "/usr/lib",
)
_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True, slots=True)
class Tools:
    """Programs and libraries of the sandbox, as absolute paths."""

    bwrap: Path
    prlimit: Path
    deno: Path
    libraries: tuple[Path, ...]


def find_tool(name: str) -> Path:
    """A program beside this Python or on the path. Raises SandboxError (sandbox.machine)."""
    beside = Path(sys.executable).parent / name
    if os.access(beside, os.X_OK):
        return beside.resolve()
    path = f"{os.environ.get('PATH', '')}:{_PATH}"
    if found := shutil.which(name, path=path):
        return Path(found).resolve()
    raise MACHINE(expected=f"the program {name}", found="nothing of that name")


def find_tools(deno: Path | None = None) -> Tools:
    """Everything a sandbox needs. Raises SandboxError (sandbox.machine)."""
    if platform.machine() != "x86_64":
        raise MACHINE(expected="an x86-64 machine (the seccomp filter is written for it)", found=platform.machine())
    return Tools(find_tool("bwrap"), find_tool("prlimit"), (deno or find_tool("deno")).resolve(), find_libraries())


@functools.cache
def find_libraries() -> tuple[Path, ...]:
    """The shared libraries that Deno loads, where the loader looks for them. Raises SandboxError."""
    found = [_LOADER]
    for name in _LIBRARIES:
        hit = next((Path(folder, name) for folder in LIBRARY_FOLDERS if Path(folder, name).exists()), None)
        if hit is None:
            raise MACHINE(expected=f"the library {name}", found="nothing of that name")
        found.append(hit)
    return tuple(found)
