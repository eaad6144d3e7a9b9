"""Where the client keeps what it must remember: pins, wallets, receipts.

The folder is ``~/.cloister`` or ``CLOISTER_HOME``. Folders are 0700 and files 0600: a receipt names what somebody
asked. Writes go to a new file that replaces the old one, so that a crash leaves the old or the new, never half.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cloister.core.errors import ConfigError, define

MAX_FILE = 8 << 20
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}")

BAD_NAME = define(
    "client.bad_name",
    ConfigError,
    check="a name is 1 to 96 letters, digits, dots, dashes or underscores, and starts with a letter or digit",
    remedy="choose a plain name such as `alice`",
)
UNREADABLE = define(
    "client.file",
    ConfigError,
    check="a file of the client's folder can be read or written",
    remedy="look at the path and its permissions, or choose another folder with --home or CLOISTER_HOME",
)
TOO_BIG = define(
    "client.file_size",
    ConfigError,
    check="a file that the client reads is at most 8 MiB",
    remedy="this is not a file that Cloister wrote; give the right path",
)


@dataclass(frozen=True, slots=True)
class Home:
    """The client's folder. Nothing is created before the first write."""

    path: Path

    @classmethod
    def at(cls, path: str | Path | None = None) -> Home:
        """The given folder, else CLOISTER_HOME, else ``~/.cloister``."""
        chosen = path or os.environ.get("CLOISTER_HOME") or Path.home() / ".cloister"
        return cls(Path(chosen).expanduser())

    def file(self, folder: str, name: str) -> Path:
        """Path of ``folder/name`` here. Raises ConfigError (client.bad_name) for a name that could leave the folder."""
        return self.path / need_name(folder) / need_name(name)

    def read(self, folder: str, name: str) -> bytes | None:
        """The bytes of ``folder/name``, or None where there is no such file."""
        path = self.file(folder, name)
        return read_file(path) if path.exists() else None

    def write(self, folder: str, name: str, data: bytes) -> Path:
        """Replace ``folder/name`` atomically, mode 0600. Returns its path."""
        path = self.file(folder, name)
        write_private(path, data)
        return path

    def names(self, folder: str, suffix: str = "") -> list[str]:
        """File names in a folder, sorted, without the suffix. Hidden and temporary files are left out."""
        where = self.path / need_name(folder)
        if not where.is_dir():
            return []
        found = (p.name for p in where.iterdir() if p.name.endswith(suffix) and not p.name.startswith("."))
        return sorted(n[: len(n) - len(suffix)] for n in found)

    def devnet(self) -> dict[str, Any] | None:
        """What a running devnet wrote into ``devnet.json``, or None. Raises ConfigError for a broken file."""
        path = self.path / "devnet.json"
        if not path.exists():
            return None
        try:
            value = json.loads(read_file(path))
        except ValueError:
            value = None
        if not isinstance(value, dict):
            raise UNREADABLE(expected=f"a JSON object in {path}", found="something else")
        return value


def need_name(name: str) -> str:
    """The name, if it is one plain path element. Raises ConfigError (client.bad_name)."""
    if not _NAME.fullmatch(name):
        raise BAD_NAME(expected="a plain name", found=name[:96])
    return name


def read_file(path: Path, limit: int = MAX_FILE) -> bytes:
    """The bytes of a file of at most ``limit`` bytes. Raises ConfigError (client.file, client.file_size)."""
    try:
        with path.open("rb") as stream:
            data = stream.read(limit + 1)
    except OSError as error:
        raise UNREADABLE(expected=f"to read {path}", found=error.strerror or type(error).__name__) from None
    if len(data) > limit:
        raise TOO_BIG(expected=f"at most {limit} bytes", found=f"more, in {path}")
    return data


def write_private(path: Path, data: bytes) -> None:
    """Write 0600 through a temporary file and rename. Raises ConfigError (client.file)."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        draft.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)
        raise UNREADABLE(expected=f"to write {path}", found=error.strerror or type(error).__name__) from None
