"""The response stream: its cipher and the worker's end (spec/sealed-http.md 7, 8). The client's is ``opener.py``."""

from __future__ import annotations

import hashlib
from typing import Final as Const

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from cloister.core.encoding.contexts import Context, frame
from cloister.core.encoding.hexes import to_hex
from cloister.core.envelope.model import (
    MAX_CHUNK,
    Headers,
    ResponseHead,
    WireBatch,
    WireFinal,
    encode_json,
    error_json,
)
from cloister.core.errors import CloisterError, EnvelopeError, define
from cloister.core.keys import hpke
from cloister.core.receipts.commitments import response_commitment

RAND_SIZE: Const = 32
_NO_HEAD: Const = ResponseHead(status=500, checkpoint=0)
_RESPONSE: Const = frame(Context.SEALED_RESPONSE) + b"\0\0\0\x08"
_MORE, _LAST = b"\0\0\0\x01\0", b"\0\0\0\x01\x01"

NOT_AUTHENTIC = define(
    "envelope.not_authentic",
    EnvelopeError,
    check="the message opens under the keys of this session, in its place",
    remedy="open a new session; the message was altered, reordered, or belongs to another request",
    status=403,
)


class AnswerCipher:
    """Key and associated data of one answer: chunk i opens only as chunk i of this request and this attempt."""

    __slots__ = ("_aad", "_aead")

    def __init__(self, context: hpke.Context, seq: int, request_id: bytes, rand: bytes) -> None:
        start = _RESPONSE + seq.to_bytes(8, "big")  # frame(SEALED_RESPONSE, seq, …), written out: once per answer
        self._aead = AESGCM(context.export(b"%b\0\0\0\x20%b" % (start, rand), 32))
        self._aad = b"%b\0\0\0\x10%b\0\0\0\x08" % (start, request_id)

    def seal(self, index: int, last: int, data: bytes) -> bytes:
        """Chunk ``index`` as it travels: length, flag, ciphertext."""
        nonce = index.to_bytes(12, "big")
        bound = b"%b%b%b" % (self._aad, nonce[4:], _LAST if last else _MORE)  # ``_bound``, written out
        text = self._aead.encrypt(nonce, data, bound)
        return b"%b%b%b" % (len(text).to_bytes(4, "big"), b"\1" if last else b"\0", text)

    def open(self, index: int, last: int, text: bytes) -> bytes:
        """The data of chunk ``index``. Raises EnvelopeError (envelope.not_authentic)."""
        try:
            return self._aead.decrypt(index.to_bytes(12, "big"), text, self._bound(index, last))
        except (InvalidTag, ValueError):
            raise NOT_AUTHENTIC(expected=f"chunk {index} of this answer", found="another chunk") from None

    def _bound(self, index: int, last: int) -> bytes:
        return self._aad + index.to_bytes(8, "big") + (_LAST if last else _MORE)


class Responder:
    """The worker's end: each call returns the bytes to write next. Calls out of order raise RuntimeError.

    One responder is one attempt: its key comes from 32 fresh random bytes, so that two attempts at one request
    never share a key. ``body_bytes`` counts the plaintext sent.
    """

    def __init__(self, context: hpke.Context, seq: int, request_id: bytes, rng: hpke.Rng) -> None:
        self._rand = rng(RAND_SIZE)
        self._cipher = AnswerCipher(context, seq, request_id, self._rand)
        self._index = 0
        self._done = False
        self._hash = hashlib.sha256()
        self._head = _NO_HEAD
        self.body_bytes = 0

    def head(self, status: int, headers: Headers, checkpoint: int) -> bytes:
        """Open the answer: status (100..599), lower-case header names, the height answered at.

        Raises EnvelopeError when a header is out of form: then nothing was written and ``error`` still works."""
        head = ResponseHead(status=status, headers=tuple(headers), checkpoint=checkpoint).check()
        return self.begin(head, encode_json(head))

    def begin(self, head: ResponseHead, encoded: bytes) -> bytes:
        """``head``, for one that was checked before: ``encoded`` is ``encode_json`` of it."""
        self._need(started=False)
        self._head = head
        return self._rand + self._next(encoded, 0)

    def chunk(self, data: bytes) -> bytes:
        """Body bytes of any length; nothing is written for none."""
        self._need(started=True)
        self._hash.update(data)
        self.body_bytes += len(data)
        if 0 < len(data) <= MAX_CHUNK:
            return self._next(data, 0)
        pieces = (data[at : at + MAX_CHUNK] for at in range(0, len(data), MAX_CHUNK))
        return b"".join(self._next(piece, 0) for piece in pieces)

    def final(self, receipt: bytes, signature: bytes, batch: WireBatch | None = None) -> bytes:
        """Close a good answer with its receipt (canonical bytes), signature (65 bytes) and place in a batch."""
        return self.ended(final_json(receipt, signature, batch))

    def ended(self, text: bytes) -> bytes:
        """The same, where ``text`` is ``final_json`` of them already."""
        self._need(started=True)
        return self._last(text)

    def error(self, error: CloisterError) -> bytes:
        """Close a failed answer: before the head or after it, but not after ``final``."""
        self._need(started=None)
        lead = b"" if self._index else self._rand
        return lead + self._last(encode_json(error_json(error)))

    def commitment(self, salt: bytes) -> bytes:
        """The salted commitment to everything sent so far (spec/receipts.md 3). 32 bytes."""
        self._need(started=True)
        return response_commitment(salt, self._head.status, self._head.headers, self._hash.digest())

    @property
    def started(self) -> bool:
        """Whether the head was written."""
        return self._index > 0

    @property
    def done(self) -> bool:
        """Whether the final chunk was written."""
        return self._done

    def _need(self, *, started: bool | None) -> None:
        if self._done or (started is not None and started != (self._index > 0)):
            raise RuntimeError("response calls go: head, chunks, then final or error")

    def _next(self, data: bytes, last: int) -> bytes:
        sealed = self._cipher.seal(self._index, last, data)
        self._index += 1
        return sealed

    def _last(self, data: bytes) -> bytes:
        self._done = True
        return self._next(data, 1)


def final_json(receipt: bytes, signature: bytes, batch: WireBatch | None) -> bytes:
    """What ends a good answer: the receipt's canonical bytes, its signature (65 bytes) and its place in a batch."""
    return encode_json(WireFinal(msgspec.Raw(receipt), to_hex(signature), batch))
