"""Building a Python agent: its sources and its locked packages in one archive (spec/sandbox.md 5).

``requirements.lock`` names every package with its version and hashes, as ``uv pip compile --generate-hashes`` writes
it. Wheels only, for the worker's kind of machine: nothing of a package runs while it is built. The same folder and the
same lock give the same bytes in any folder, so whoever has them rebuilds and compares the hash.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final

from cloister.core.errors import ConfigError, define
from cloister.core.policy.archive import MAX_FILES, MAX_NAME, MAX_UNPACKED, pack

LOCK: Final = "requirements.lock"
WANTED: Final = "requirements.txt"
DATA: Final = "data"
IGNORE: Final = "bundle.ignore"
PYTHON: Final = "3.11"
TIMEOUT_S: Final = 300.0
_PLATFORMS: Final = ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")
_SKIPPED: Final = frozenset({"__pycache__", "node_modules", "tests", "bin"})
# Installers write these; they differ from machine to machine, or nobody reads them.
_NOTES: Final = frozenset({"RECORD", "INSTALLER", "REQUESTED", "direct_url.json", "uv_cache.json"})
_UNUSED: Final = (".pyi", ".pyc", ".c", ".h", ".pyx", ".pxd", ".a")

NO_INSTALLER = define(
    "build.no_installer",
    ConfigError,
    check="uv or pip is there to fetch the agent's packages",
    remedy="pip install uv",
)
NO_LOCK = define(
    "build.no_lock",
    ConfigError,
    check=f"the packages of {WANTED} are pinned with their hashes in {LOCK}",
    remedy=f"uv pip compile --generate-hashes --python-version {PYTHON} {WANTED} -o {LOCK}; commit both",
)
PACKAGES = define(
    "build.packages",
    ConfigError,
    check=f"every package of {LOCK} has a wheel for CPython {PYTHON} on Linux x86-64 with one of its hashes",
    remedy="correct the error above; make the lock again, or choose packages that publish wheels",
)
ODD_FILE = define(
    "build.file",
    ConfigError,
    check="the agent's files are plain files that can be read, no more than an archive may hold",
    remedy=f"keep the sources and {DATA}/ small; replace links by files",
)


async def bundle_python(folder: Path) -> bytes:
    """The archive of an agent's folder. Raises ConfigError (build.*, manifest.archive, manifest.bundle)."""
    files = {f"source/{name}": data for name, data in read_sources(folder).items()}
    lock = folder / LOCK
    if lock.is_file():
        with tempfile.TemporaryDirectory(prefix="cloister-build-") as work:
            target = Path(work, "packages")
            await _install(lock.resolve(), target, Path(work))
            files |= {f"packages/{name}": data for name, data in _packages(target).items()}
    elif (folder / WANTED).is_file():
        raise NO_LOCK(expected=LOCK, found=f"{WANTED} alone")
    ignored = _ignored(folder)
    kept = {name: data for name, data in files.items() if not any(fnmatchcase(name, one) for one in ignored)}
    return await asyncio.to_thread(pack, kept)


def _ignored(folder: Path) -> list[str]:
    """Patterns of names of the archive that stay out, one per line (``packages/x/*``); ``#`` begins a comment."""
    path = folder / IGNORE
    if not path.is_file():
        return []
    if _size(path) > MAX_NAME * MAX_FILES:
        raise ODD_FILE(expected=f"a short {IGNORE}", found="a long one")
    lines = [line.strip() for line in path.read_text(encoding="utf-8", errors="replace").splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


def read_sources(folder: Path) -> dict[str, bytes]:
    """Every ``.py`` below the folder but tests, and all of ``data/``. Raises ConfigError (build.file)."""
    return _read(folder, lambda name: name.startswith(f"{DATA}/") or (name.endswith(".py") and not _is_test(name)))


def _is_test(name: str) -> bool:
    return name.endswith("_test.py") or name.rpartition("/")[2].startswith("test_")


def _packages(target: Path) -> dict[str, bytes]:
    """What packages need at run time: no notes of the installer, no programs, no stubs, no C sources."""

    def wanted(name: str) -> bool:
        return name.rpartition("/")[2] not in _NOTES and not name.endswith(_UNUSED)

    return _read(target, wanted) if target.is_dir() else {}


def _read(folder: Path, wanted: Callable[[str], bool]) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    total = 0
    for base, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name not in _SKIPPED)
        for name in sorted(names):
            path = Path(base, name)
            relative = path.relative_to(folder).as_posix()
            if name.startswith(".") or not wanted(relative):
                continue
            total += _size(path)
            if len(found) >= MAX_FILES or total > MAX_UNPACKED:
                raise ODD_FILE(expected=f"at most {MAX_FILES} files and {MAX_UNPACKED} bytes", found="more")
            found[relative] = path.read_bytes()
    return found


def _size(path: Path) -> int:
    try:
        if path.is_symlink() or not path.is_file():
            raise ODD_FILE(expected="plain files", found=f"{path.name}, which is none")
        return path.stat().st_size
    except OSError as error:
        raise ODD_FILE(expected="files that can be read", found=type(error).__name__) from None


async def _install(lock: Path, target: Path, work: Path) -> None:
    """Fetch and unpack the wheels of a lock. No dependency is looked for, and no build runs."""
    uv = Path(sys.executable).with_name("uv")
    found = str(uv) if os.access(uv, os.X_OK) else shutil.which("uv")
    common = ["--target", str(target), "--no-deps", "--require-hashes", "-r", str(lock)]
    if found is not None:
        platform = ["--python-platform", "x86_64-manylinux_2_28", "--python-version", PYTHON]
        install = [found, "pip", "install", "--quiet", "--only-binary", ":all:", "--link-mode", "copy"]
        await _run([*install, *platform, *common], work)
        return
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-compile", "--disable-pip-version-check"]
    platforms = [word for name in _PLATFORMS for word in ("--platform", name)]
    kind = ["--only-binary", ":all:", "--implementation", "cp", "--python-version", PYTHON, *platforms]
    await _run([*pip, *kind, *common], work)


async def _run(argv: list[str], work: Path) -> None:
    """Run an installer in the developer's own environment: indexes and proxies are set there."""
    process = await asyncio.create_subprocess_exec(
        *argv,
        cwd=work,
        env={**os.environ, "NO_COLOR": "1"},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        _, stderr = await asyncio.wait_for(process.communicate(), TIMEOUT_S)
    except BaseException as error:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        if isinstance(error, TimeoutError):
            raise PACKAGES(expected=f"the packages within {TIMEOUT_S:.0f} s", found="not yet") from None
        raise
    if process.returncode == 0:
        return
    said = " | ".join(line.strip() for line in stderr.decode(errors="replace").splitlines() if line.strip())
    if b"No module named pip" in stderr:
        raise NO_INSTALLER(expected="uv or pip", found="neither")
    raise PACKAGES(expected="every package with its hash", found=said[:480] or "an error without a text")
