"""The node's own secp256k1 key, sealed at rest under the TEE's sealing key (DESIGN section 5, shares at rest).

The sealing key belongs to one machine and one build. So a folder that was copied elsewhere does not open, and says so.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from pathlib import Path

from coincurve import PrivateKey

from cloister.core.encoding.contexts import Context, frame
from cloister.core.encoding.hexes import need_bytes
from cloister.core.encoding.signatures import address_of, sign_digest
from cloister.core.errors import CloisterError, ConfigError, define
from cloister.core.keys.seal import OVERHEAD, WRONG_KEY, open_sealed, seal

_FILE = "node.key"
_MAX_FILE = 4096

FOREIGN_FOLDER = define(
    "node.foreign_folder",
    ConfigError,
    check="the folder was made by this node and this build: its TEE derives the key that sealed it",
    remedy="start with an empty folder: the node registers anew and gets its keys from the committee",
    status=403,
)
DAMAGED_FOLDER = define(
    "node.damaged_folder",
    ConfigError,
    check="the node's key file is whole, of this role, and readable by its owner only",
    remedy="restore it from this machine's own copy, or start with an empty folder",
)


class NodeKeys:
    """A node's signing key, and sealing of the node's other files. Never shows the keys."""

    def __init__(self, role: str, private_key: bytes, sealing_key: bytes) -> None:
        """``private_key``: a secp256k1 scalar, 32 bytes. ``sealing_key``: 32 bytes that only this TEE derives."""
        self.role = role
        self._sealing_key = need_bytes("sealing key", sealing_key, 32)
        self._private = PrivateKey(need_bytes("node key", private_key, 32))
        self.address = address_of(self._private)
        self.public_key: bytes = self._private.public_key.format(compressed=True)

    def __repr__(self) -> str:
        return f"NodeKeys({self.role}, 0x{self.address.hex()})"

    def sign(self, digest: bytes) -> bytes:
        """65-byte signature over 32 bytes that are already a hash."""
        return sign_digest(self._private, digest)

    def chain_key(self) -> PrivateKey:
        """The key itself, for the node's chain account and protocol signatures. Hand it to nothing that logs."""
        return self._private

    def seal(self, name: str, plaintext: bytes, rng: Callable[[int], bytes]) -> bytes:
        """Seal another file of this node; ``name`` says which. Raises SealError."""
        return seal(self._sealing_key, Context.NODE_AT_REST, _aad(self.role, name), plaintext, rng)

    def open(self, name: str, blob: bytes) -> bytes:
        """Open it again. Raises node.foreign_folder, node.damaged_folder."""
        return _open(self._sealing_key, self.role, name, blob)

    @classmethod
    def fresh(cls, role: str, sealing_key: bytes, rng: Callable[[int], bytes]) -> NodeKeys:
        """A new key that stands on no disk yet (``seal_self``)."""
        return cls(role, _new_private(rng), sealing_key)

    def seal_self(self, sealing_key: bytes, rng: Callable[[int], bytes]) -> bytes:
        """The key itself, sealed under another key, for ``unsealed``. Raises SealError."""
        return seal(sealing_key, Context.NODE_AT_REST, _aad(self.role, _FILE), self._private.secret, rng)

    @classmethod
    def unsealed(cls, role: str, sealing_key: bytes, blob: bytes) -> NodeKeys:
        """What ``seal_self`` sealed. Raises node.foreign_folder, node.damaged_folder."""
        return cls(role, _open(sealing_key, role, _FILE, blob), sealing_key)

    def reseal(self, name: str, blob: bytes, sealing_key: bytes, rng: Callable[[int], bytes]) -> bytes:
        """A file of this node, opened and sealed again under another key. Raises as ``open``."""
        plaintext = self.open(name, blob)
        return seal(sealing_key, Context.NODE_AT_REST, _aad(self.role, name), plaintext, rng)

    def adopt(self, sealing_key: bytes) -> None:
        """Seal and open under another key from now on: everything on the disk is resealed."""
        self._sealing_key = need_bytes("sealing key", sealing_key, 32)

    @classmethod
    def load_or_create(cls, folder: Path, role: str, sealing_key: bytes, rng: Callable[[int], bytes]) -> NodeKeys:
        """The key in ``folder`` (made 0700 if absent), or a new one if there is no file yet; never replaces a file.

        Raises ConfigError node.foreign_folder, node.damaged_folder."""
        need_bytes("sealing key", sealing_key, 32)
        path = folder / _FILE
        try:
            blob = _read(path)
            if blob is None:
                _create(path, role, sealing_key, rng)
                blob = _read(path)
        except OSError as error:
            raise DAMAGED_FOLDER(expected="a folder to write in", found=error.strerror or "an error") from None
        private_key = _open(sealing_key, role, _FILE, blob or b"")
        if len(private_key) != 32:
            raise DAMAGED_FOLDER(expected="a 32-byte key", found="another size")
        return cls(role, private_key, sealing_key)


def _create(path: Path, role: str, sealing_key: bytes, rng: Callable[[int], bytes]) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    private_key = _new_private(rng)
    blob = seal(sealing_key, Context.NODE_AT_REST, _aad(role, _FILE), private_key, rng)
    aside = path.with_name(f".{secrets.token_hex(8)}")
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(blob)
            file.flush()
            os.fsync(file.fileno())
        path.hardlink_to(aside)  # fails if another process was first: then its key counts
        _sync_folder(path.parent)
    except FileExistsError:
        return
    finally:
        aside.unlink(missing_ok=True)


def _new_private(rng: Callable[[int], bytes]) -> bytes:
    return PrivateKey.from_int(1 + int.from_bytes(rng(48), "big") % (_ORDER - 1)).secret


_ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _read(path: Path) -> bytes | None:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    with os.fdopen(descriptor, "rb") as file:
        mode = os.fstat(file.fileno()).st_mode & 0o777
        if mode & 0o077:
            raise DAMAGED_FOLDER(expected="mode 0600", found=f"{mode:04o}")
        return file.read(_MAX_FILE)


def _open(sealing_key: bytes, role: str, name: str, blob: bytes) -> bytes:
    try:
        return open_sealed(sealing_key, Context.NODE_AT_REST, _aad(role, name), blob)
    except CloisterError as error:
        if error.code == WRONG_KEY.code:
            raise FOREIGN_FOLDER(expected="a file that this node and build sealed", found="another one's") from None
        raise DAMAGED_FOLDER(expected=f"a sealed file of at least {OVERHEAD} bytes", found=error.code) from None


def _aad(role: str, name: str) -> bytes:
    return frame(Context.NODE_AT_REST, role.encode(), name.encode())
