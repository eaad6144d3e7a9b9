"""Salted commitments to what was asked and answered (spec/receipts.md 3): without the salt nobody can guess a text."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256

import msgspec

from cloister.core.encoding.contexts import Context, frame
from cloister.core.keys.hpke import Context as SealedContext

# The frames of spec/receipts.md 3, written out: they are made for every request. Tests compare with ``digest``.
_2, _32 = b"\0\0\0\x02", b"\0\0\0\x20"
_SALT = frame(Context.RECEIPT) + b"\0\0\0\x08"
_REQUEST = frame(Context.RECEIPT_REQUEST) + _32
_RESPONSE = frame(Context.RECEIPT_RESPONSE) + _32


def receipt_salt(context: SealedContext, seq: int) -> bytes:
    """The salt of request ``seq`` in its sealed context: caller and worker know it, nobody else. 32 bytes."""
    return context.export(_SALT + seq.to_bytes(8, "big"), 32)  # frame(RECEIPT, seq)


def request_commitment(salt: bytes, head: bytes, body: bytes) -> bytes:
    """Commitment to the head's exact bytes and the body. ``salt``: 32 bytes. Returns 32 bytes."""
    parts = (_REQUEST, salt, len(head).to_bytes(4, "big"), head, _32, sha256(body).digest())
    return sha256(b"".join(parts)).digest()


def response_commitment(salt: bytes, status: int, headers: Sequence[tuple[str, str]], body_hash: bytes) -> bytes:
    """Commitment to status, headers and the SHA-256 of the body. ``salt``: 32 bytes. Returns 32 bytes.

    Header text is printable (``envelope.model.check_headers``), where msgspec writes the same bytes as JCS."""
    text = msgspec.json.encode(headers)
    parts = (_RESPONSE, salt, _2, status.to_bytes(2, "big"), len(text).to_bytes(4, "big"), text, _32, body_hash)
    return sha256(b"".join(parts)).digest()
