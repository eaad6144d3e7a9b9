"""Salted commitments to what was asked and answered (spec/receipts.md 3): without the salt nobody can guess a text."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import msgspec

from cloister.core.encoding.contexts import Context, digest, frame
from cloister.core.keys.hpke import Context as SealedContext

_SALT = frame(Context.RECEIPT) + b"\0\0\0\x08"


def receipt_salt(context: SealedContext, seq: int) -> bytes:
    """The salt of request ``seq`` in its sealed context: caller and worker know it, nobody else. 32 bytes."""
    return context.export(_SALT + seq.to_bytes(8, "big"), 32)  # frame(RECEIPT, seq)


def request_commitment(salt: bytes, head: bytes, body: bytes) -> bytes:
    """Commitment to the head's exact bytes and the body. 32 bytes."""
    return digest(Context.RECEIPT_REQUEST, salt, head, hashlib.sha256(body).digest())


def response_commitment(salt: bytes, status: int, headers: Sequence[tuple[str, str]], body_hash: bytes) -> bytes:
    """Commitment to status, headers and the SHA-256 of the body. 32 bytes.

    Header text is printable (``envelope.model.check_headers``), where msgspec writes the same bytes as JCS."""
    return digest(Context.RECEIPT_RESPONSE, salt, status.to_bytes(2, "big"), msgspec.json.encode(headers), body_hash)
