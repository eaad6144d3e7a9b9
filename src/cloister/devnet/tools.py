"""The programs that a devnet starts, and where they are kept. ``python -m cloister.devnet.tools`` fetches them."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

from cloister.chain.anvil import ensure_anvil
from cloister.core.errors import ConfigError, define

NO_PROGRAM = define(
    "devnet.no_program",
    ConfigError,
    check="the programs that a devnet needs are installed",
    remedy="run `make setup`; bubblewrap comes with `apt-get install -y bubblewrap`",
    status=500,
)


def cache_dir() -> Path:
    """Where fetched programs live: CLOISTER_CACHE, else .build of a checkout, else the user's cache folder."""
    named = os.environ.get("CLOISTER_CACHE")
    if named:
        return Path(named)
    root = Path(__file__).parents[3]
    if (root / "pyproject.toml").exists() and (root / "src").is_dir():
        return root / ".build"
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "cloister"


def deno() -> Path:
    """The Deno binary of this environment. Raises ConfigError."""
    beside = Path(sys.executable).parent / "deno"
    if beside.exists():
        return beside
    return _which("deno")


def bubblewrap() -> Path:
    """The bwrap program. Raises ConfigError."""
    return _which("bwrap")


def anvil() -> Path:
    """The pinned anvil binary, fetched if missing. Raises ChainError."""
    return ensure_anvil(cache_dir() / "anvil")


def _which(name: str) -> Path:
    found = shutil.which(name)
    if found is None:
        raise NO_PROGRAM(expected=name, found="nothing of that name on PATH")
    return Path(found)


if __name__ == "__main__":
    print(json.dumps({"deno": str(deno()), "bwrap": str(bubblewrap()), "anvil": str(anvil())}))
