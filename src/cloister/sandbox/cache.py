"""Bundles on disk, and the runtime's compiled code for each: warmed once per bundle, then read-only.

The compiled code runs without being checked against its source, so it is made here, in the same sandbox, from the
bundle alone (no settings, no secrets, no network), kept for one life of the worker, and never shared between bundles.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

MAX_CACHE_BYTES: Final = 64 << 20
MAX_CACHE_FILES: Final = 256
# Bundles that are kept ready; those that run are kept beyond it.
MAX_BUNDLES: Final = 256

Warm = Callable[[Path, Path], Awaitable[None]]
Lay = Callable[[Path, bytes], Path]


def lay_script(folder: Path, bundle: bytes) -> Path:
    """Write a bundle of one module; its path."""
    script = folder / "agent.js"
    script.write_bytes(bundle)
    script.chmod(0o444)
    return script


class BundleStore:
    """Folder of bundles and their caches. ``lay(folder, bundle)`` writes a bundle and says where; ``warm(where,
    cache)`` fills a cache folder, of at most ``most_files``. Beyond ``most`` bundles the one that was longest unused
    goes."""

    def __init__(
        self, root: Path, warm: Warm, lay: Lay = lay_script, *, most_files: int | None = None, most: int = MAX_BUNDLES
    ) -> None:
        self._root, self._warm, self._lay, self._most_files, self._most = root, warm, lay, most_files, most
        self._ready: dict[bytes, asyncio.Task[Path]] = {}
        self._held: Counter[bytes] = Counter()

    def hold(self, code_hash: bytes) -> None:
        """A process of this bundle will run: keep it."""
        self._held[code_hash] += 1

    def release(self, code_hash: bytes) -> None:
        """It ended. Each ``hold`` is released once."""
        self._held[code_hash] -= 1
        if not self._held[code_hash]:
            del self._held[code_hash]

    async def ready(self, code_hash: bytes, bundle: bytes) -> Path:
        """The folder with the bundle and ``cache/`` for these bytes; made at the first call."""
        task = self._ready.pop(code_hash, None)
        if task is None or (task.done() and (task.cancelled() or task.exception() is not None)):
            task = asyncio.get_running_loop().create_task(self._make(code_hash, bundle))
        self._ready[code_hash] = task  # at the end: the newest
        self._drop_oldest()
        return await asyncio.shield(task)

    async def close(self) -> None:
        """Stop warming."""
        for task in self._ready.values():
            task.cancel()
        await asyncio.gather(*self._ready.values(), return_exceptions=True)

    def _drop_oldest(self) -> None:
        """Remove what is longest unused. First under another name: the same bundle may be laid anew meanwhile."""
        free = (h for h, task in self._ready.items() if task.done() and h not in self._held)
        for code_hash in list(free)[: max(0, len(self._ready) - self._most)]:
            del self._ready[code_hash]
            folder = self._root / code_hash.hex()
            if folder.exists():
                shutil.rmtree(folder.rename(self._root / f"gone-{secrets.token_hex(8)}"), ignore_errors=True)

    async def _make(self, code_hash: bytes, bundle: bytes) -> Path:
        folder = self._root / code_hash.hex()
        shutil.rmtree(folder, ignore_errors=True)  # a warm-up that failed
        folder.mkdir(mode=0o755)
        cache = folder / "cache"
        cache.mkdir(mode=0o755)
        await self._warm(await asyncio.to_thread(self._lay, folder, bundle), cache)
        if _oversized(cache, self._most_files):
            shutil.rmtree(cache)
            cache.mkdir(mode=0o755)
        return folder


def _oversized(folder: Path, most_files: int | None = None) -> bool:
    """Whether a cache holds more than a runtime would write. lstat: Deno leaves a dangling link."""
    most_files = MAX_CACHE_FILES if most_files is None else most_files
    files = size = 0
    for base, folders, names in os.walk(folder):
        for name in (*folders, *names):
            files += 1
            size += os.lstat(os.path.join(base, name)).st_size  # noqa: PTH118
            if files > most_files or size > MAX_CACHE_BYTES:
                return True
    return False
