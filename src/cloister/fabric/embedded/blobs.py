"""Content-addressed files: ``blobs/<two hex>/<64 hex>``, mode 0600, written aside and renamed, verified on read."""

from __future__ import annotations

import asyncio
import hashlib
import os
import secrets
from pathlib import Path

from cloister.fabric.embedded.limits import UNAVAILABLE
from cloister.fabric.ports import MAX_BLOB, NO_BLOB, TOO_LARGE


class EmbeddedBlobs:
    """``fabric.ports.Blobs`` in a folder. Several processes may share it: a blob's name is its content."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def put(self, data: bytes) -> bytes:
        """Store durably; returns the SHA-256. Raises TOO_LARGE, fabric.unavailable."""
        if not isinstance(data, bytes):
            raise TypeError(f"a blob is bytes, not {type(data).__name__}")
        if len(data) > MAX_BLOB:
            raise TOO_LARGE(expected=f"a blob of at most {MAX_BLOB} bytes", found=str(len(data)))
        return await asyncio.to_thread(self._put, data)

    async def get(self, digest: bytes) -> bytes:
        """Read and verify. Raises NO_BLOB for a missing, oversized or altered file."""
        if not isinstance(digest, bytes) or len(digest) != 32:
            raise NO_BLOB(expected="a 32-byte digest", found="another name")
        return await asyncio.to_thread(self._get, digest)

    def _path(self, digest: bytes) -> Path:
        return self._folder / digest.hex()[:2] / digest.hex()

    def _put(self, data: bytes) -> bytes:
        digest = hashlib.sha256(data).digest()
        path = self._path(digest)
        try:
            if _read(path, digest) is None:
                self._folder.mkdir(mode=0o700, exist_ok=True)
                path.parent.mkdir(mode=0o700, exist_ok=True)
                _write(path, data)
        except OSError as error:
            raise UNAVAILABLE(expected="a folder to write blobs in", found=error.strerror or "an error") from None
        return digest

    def _get(self, digest: bytes) -> bytes:
        try:
            data = _read(self._path(digest), digest)
        except OSError as error:
            raise NO_BLOB(expected=f"blob {digest.hex()}", found=error.strerror or "an error") from None
        if data is None:
            raise NO_BLOB(expected=f"blob {digest.hex()}", found="no file with that content")
        return data


def _read(path: Path, digest: bytes) -> bytes | None:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    with os.fdopen(descriptor, "rb") as file:
        if os.fstat(file.fileno()).st_size > MAX_BLOB:
            return None
        data = file.read(MAX_BLOB + 1)
    return data if hashlib.sha256(data).digest() == digest else None


def _write(path: Path, data: bytes) -> None:
    aside = path.with_name(f".{secrets.token_hex(8)}")
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        aside.rename(path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
    for folder in (path.parent, path.parent.parent):
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
