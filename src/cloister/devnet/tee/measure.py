"""What pretend hardware measures: the files of the package it launches, and the role.

SHA-384 over a label, the role and one line per file, sorted: SHA-256, two spaces, path. Byte code is left out.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Final

from cloister.core.errors import ConfigError, define

MAX_FILES: Final = 20000

BAD_PACKAGE = define(
    "devnet.package",
    ConfigError,
    check="the package to launch is a folder with an installed Python package",
    remedy="name the folder that holds cloister/__init__.py's files",
)


def measure(package: Path, role: str) -> bytes:
    """48 bytes. Raises ConfigError (devnet.package)."""
    if not (package / "__init__.py").is_file():
        raise BAD_PACKAGE(expected="a folder with __init__.py", found=str(package))
    total = hashlib.sha384(b"cloister devnet launch measurement 1\0" + role.encode() + b"\0")
    for path in sorted(_files(package), key=lambda p: p.relative_to(package).as_posix()):
        line = f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(package).as_posix()}\n"
        total.update(line.encode())
    return total.digest()


def _files(package: Path) -> list[Path]:
    found: list[Path] = []
    for folder, folders, names in os.walk(package):
        folders[:] = [name for name in folders if name != "__pycache__"]
        found += [Path(folder) / name for name in names if not name.endswith(".pyc")]
        if len(found) > MAX_FILES:
            raise BAD_PACKAGE(expected=f"at most {MAX_FILES} files", found="more")
    return found
