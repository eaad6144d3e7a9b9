"""Sealing bytes under a 32-byte key: fresh subkey per object, AES-256-GCM, committed to its key (spec/sharing.md 7).

Layout: magic "CLSE", version u8 = 1, salt (32), commitment (32), AES-256-GCM ciphertext (plaintext + 16).
HKDF-SHA256(ikm = key, salt, info = frame(context, "seal")) gives 64 bytes: AES key, then commitment. The nonce is
zero: the salt makes every AES key new. The commitment pins one (key, context) per blob, so a blob never opens under
two keys, and a wrong key is told from a changed blob.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from cloister.core.encoding.contexts import Context, frame
from cloister.core.encoding.hexes import need_bytes
from cloister.core.errors import SealError, define

MAGIC: Final = b"CLSE\x01"
SALT_SIZE, COMMITMENT_SIZE, TAG_SIZE = 32, 32, 16
OVERHEAD: Final = len(MAGIC) + SALT_SIZE + COMMITMENT_SIZE + TAG_SIZE
MAX_PLAINTEXT: Final = 1 << 26
_NONCE: Final = bytes(12)

MALFORMED = define(
    "seal.malformed",
    SealError,
    check="a sealed blob starts with CLSE version 1 and has a size within the caps",
    remedy="this is no sealed blob of ours, or it was cut; restore it from a good copy",
)
WRONG_KEY = define(
    "seal.wrong_key",
    SealError,
    check="the key and purpose are those that the blob was sealed under",
    remedy="derive the key of the blob's own agent, purpose and epochs; never try keys at random",
)
CHANGED = define(
    "seal.changed",
    SealError,
    check="the sealed bytes and the data they are bound to are unchanged",
    remedy="the blob was changed, cut or moved to another place; restore it from a good copy",
)


def seal(key: bytes, context: Context, aad: bytes, plaintext: bytes, rng: Callable[[int], bytes]) -> bytes:
    """Seal up to 64 MiB under a 32-byte key, bound to ``context`` and ``aad``. Raises EncodingError, SealError.

    ``rng`` must never repeat 32-byte values: a repeated salt repeats an AES-GCM nonce.
    """
    need_bytes("sealing key", key, 32)
    if len(plaintext) > MAX_PLAINTEXT:
        raise MALFORMED(expected=f"at most {MAX_PLAINTEXT} bytes", found=f"{len(plaintext)} bytes")
    salt = rng(SALT_SIZE)
    if not isinstance(salt, bytes) or len(salt) != SALT_SIZE:
        raise RuntimeError("the random source did not give 32 bytes")
    subkey, commitment = _derive(key, context, salt)
    header = MAGIC + salt + commitment
    return header + AESGCM(subkey).encrypt(_NONCE, plaintext, _bound(context, header, aad))


def open_sealed(key: bytes, context: Context, aad: bytes, blob: bytes) -> bytes:
    """The plaintext of ``seal``. Raises EncodingError, SealError.

    1. size and magic (``seal.malformed``); 2. the commitment is that of key and context (``seal.wrong_key``);
    3. the tag holds over header, data and ``aad`` (``seal.changed``).
    """
    need_bytes("sealing key", key, 32)
    if not OVERHEAD <= len(blob) <= OVERHEAD + MAX_PLAINTEXT or blob[: len(MAGIC)] != MAGIC:  # 1
        raise MALFORMED(expected="a CLSE version 1 blob", found=f"{len(blob)} other bytes")
    end = len(MAGIC) + SALT_SIZE + COMMITMENT_SIZE
    header, salt = blob[:end], blob[len(MAGIC) : len(MAGIC) + SALT_SIZE]
    subkey, commitment = _derive(key, context, salt)
    if not hmac.compare_digest(commitment, blob[end - COMMITMENT_SIZE : end]):  # 2
        raise WRONG_KEY(expected="the key that sealed this blob", found="another key or purpose")
    try:
        return AESGCM(subkey).decrypt(_NONCE, blob[end:], _bound(context, header, aad))  # 3
    except InvalidTag:
        raise CHANGED(expected="the sealed bytes in their place", found="changed bytes or another place") from None


def _derive(key: bytes, context: Context, salt: bytes) -> tuple[bytes, bytes]:
    both = HKDF(algorithm=SHA256(), length=64, salt=salt, info=frame(context, b"seal")).derive(key)
    return both[:32], both[32:]


def _bound(context: Context, header: bytes, aad: bytes) -> bytes:
    return frame(context, header, aad)
