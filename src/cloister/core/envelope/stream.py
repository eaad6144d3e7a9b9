"""The response stream, both ends (spec/sealed-http.md 7, 8).

States of the opener: RAND (32 bytes) -> HEAD (chunk 0) -> BODY (chunks) -> DONE (the final chunk came).
An error chunk may end it from HEAD or BODY. Anything else is refused, and the opener stays refused.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Final as Const

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from cloister.core.encoding.contexts import Context, frame
from cloister.core.encoding.hexes import from_hex, to_hex
from cloister.core.envelope.model import (
    MALFORMED,
    MAX_CHUNK,
    TAG,
    TOO_LARGE,
    Headers,
    ResponseHead,
    WireFailure,
    WireFinal,
    decode_json,
    encode_json,
    error_json,
)
from cloister.core.errors import CloisterError, EnvelopeError, define, from_wire
from cloister.core.keys import hpke
from cloister.core.receipts.commitments import response_commitment

RAND_SIZE: Const = 32
_PREFIX: Const = 5
_MAX_INDEX: Const = 1 << 32
_RESPONSE: Const = frame(Context.SEALED_RESPONSE) + b"\0\0\0\x08"

TRUNCATED = define(
    "envelope.truncated",
    EnvelopeError,
    check="the response stream ends with its final chunk",
    remedy="the connection broke or somebody cut the answer; repeat if the request is safe to repeat",
    status=502,
)
NOT_AUTHENTIC = define(
    "envelope.not_authentic",
    EnvelopeError,
    check="the message opens under the keys of this session, in its place",
    remedy="open a new session; the message was altered, reordered, or belongs to another request",
    status=403,
)

_HEAD = msgspec.json.Decoder(ResponseHead)
_FINAL = msgspec.json.Decoder(WireFinal)
_FAILURE = msgspec.json.Decoder(WireFailure)


@dataclass(frozen=True, slots=True)
class Head:
    """First event: status, headers and the height that the worker answered at."""

    status: int
    headers: Headers
    checkpoint: int


@dataclass(frozen=True, slots=True)
class Body:
    """Some bytes of the body, in order."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Final:
    """Last event of a good answer: the receipt's canonical bytes and the worker's 65-byte signature."""

    receipt: bytes
    signature: bytes


@dataclass(frozen=True, slots=True)
class Failed:
    """Last event of a failed answer: the worker's sealed refusal."""

    error: CloisterError


Event = Head | Body | Final | Failed


class _Cipher:
    """Key and associated data of one answer: chunk i opens only as chunk i of this request and this attempt."""

    __slots__ = ("_aad", "_aead")

    def __init__(self, context: hpke.Context, seq: int, request_id: bytes, rand: bytes) -> None:
        start = _RESPONSE + seq.to_bytes(8, "big")  # frame(SEALED_RESPONSE, seq, …), written out: once per answer
        self._aead = AESGCM(context.export(b"%b\0\0\0\x20%b" % (start, rand), 32))
        self._aad = b"%b\0\0\0\x10%b\0\0\0\x08" % (start, request_id)

    def seal(self, index: int, last: int, data: bytes) -> bytes:
        text = self._aead.encrypt(index.to_bytes(12, "big"), data, self._bound(index, last))
        return b"".join((len(text).to_bytes(4, "big"), bytes((last,)), text))

    def open(self, index: int, last: int, text: bytes) -> bytes:
        try:
            return self._aead.decrypt(index.to_bytes(12, "big"), text, self._bound(index, last))
        except (InvalidTag, ValueError):
            raise NOT_AUTHENTIC(expected=f"chunk {index} of this answer", found="another chunk") from None

    def _bound(self, index: int, last: int) -> bytes:
        return self._aad + index.to_bytes(8, "big") + (b"\0\0\0\x01\x01" if last else b"\0\0\0\x01\0")


class Responder:
    """The worker's end: each call returns the bytes to write next. Calls out of order raise RuntimeError.

    One responder is one attempt: its key comes from 32 fresh random bytes, so that two attempts at one request
    never share a key. ``body_bytes`` counts the plaintext sent.
    """

    def __init__(self, context: hpke.Context, seq: int, request_id: bytes, rng: hpke.Rng) -> None:
        self._rand = rng(RAND_SIZE)
        self._cipher = _Cipher(context, seq, request_id, self._rand)
        self._index = 0
        self._done = False
        self._hash = hashlib.sha256()
        self._head = ResponseHead(status=500, checkpoint=0)
        self.body_bytes = 0

    def head(self, status: int, headers: Headers, checkpoint: int) -> bytes:
        """Open the answer: status (100..599), lower-case header names, the height answered at.

        Raises EnvelopeError when a header is out of form: then nothing was written and ``error`` still works."""
        self._need(started=False)
        self._head = ResponseHead(status=status, headers=tuple(headers), checkpoint=checkpoint).check()
        return self._rand + self._next(encode_json(self._head), 0)

    def chunk(self, data: bytes) -> bytes:
        """Body bytes of any length; nothing is written for none."""
        self._need(started=True)
        self._hash.update(data)
        self.body_bytes += len(data)
        if 0 < len(data) <= MAX_CHUNK:
            return self._next(data, 0)
        pieces = (data[at : at + MAX_CHUNK] for at in range(0, len(data), MAX_CHUNK))
        return b"".join(self._next(piece, 0) for piece in pieces)

    def final(self, receipt: bytes, signature: bytes) -> bytes:
        """Close a good answer with its receipt (canonical bytes) and signature (65 bytes)."""
        self._need(started=True)
        return self._last(encode_json(WireFinal(msgspec.Raw(receipt), to_hex(signature))))

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


class _State(Enum):
    RAND = "waiting for the random part"
    HEAD = "waiting for the head"
    BODY = "waiting for the body or the end"
    DONE = "the final chunk came"
    REFUSED = "a check failed"


class Opener:
    """The client's end: feed it what arrives, in pieces of any size, and take the events.

    ``on_authentic`` is called once, when the first chunk opened: the worker then holds the session. Its argument says
    whether that chunk is a head: the worker then holds the caller too.
    """

    def __init__(
        self,
        context: hpke.Context,
        seq: int,
        request_id: bytes,
        *,
        max_body: int,
        on_authentic: Callable[[bool], None] | None = None,
    ) -> None:
        self._context, self._seq, self._request_id = context, seq, request_id
        self._max_body, self._on_authentic = max_body, on_authentic
        self._buffer = bytearray()
        self._state = _State.RAND
        self._cipher: _Cipher | None = None
        self._index = 0
        self._hash = hashlib.sha256()
        self._head: Head | None = None
        self.body_bytes = 0

    def feed(self, data: bytes) -> list[Event]:
        """The events that these bytes complete.

        Raises EnvelopeError: not_authentic, malformed, too_large. After a raise the answer is lost for good."""
        if self._state is _State.REFUSED:
            raise TRUNCATED(expected="an intact answer", found="bytes after a failed check")
        try:
            self._buffer += data
            return self._drain()
        except CloisterError:
            self._state = _State.REFUSED
            raise

    def close(self) -> None:
        """Say that the stream ended. Raises EnvelopeError (envelope.truncated) unless the final chunk came."""
        if self._state is not _State.DONE:
            raise TRUNCATED(expected="a final chunk", found=f"the end, {self._state.value}")

    @property
    def done(self) -> bool:
        """Whether the final chunk came and opened."""
        return self._state is _State.DONE

    def commitment(self, salt: bytes) -> bytes:
        """The salted commitment to what was received (spec/receipts.md 3). Raises EnvelopeError before the head."""
        if self._head is None:
            raise TRUNCATED(expected="a head", found="none")
        return response_commitment(salt, self._head.status, self._head.headers, self._hash.digest())

    def _drain(self) -> list[Event]:
        events: list[Event] = []
        if self._state is _State.RAND and len(self._buffer) >= RAND_SIZE:
            self._cipher = _Cipher(self._context, self._seq, self._request_id, bytes(self._buffer[:RAND_SIZE]))
            del self._buffer[:RAND_SIZE]
            self._state = _State.HEAD
        at = 0
        while self._state in (_State.HEAD, _State.BODY) and len(self._buffer) - at >= _PREFIX:
            size = int.from_bytes(self._buffer[at : at + 4], "big")
            last = self._buffer[at + 4]
            if not TAG <= size <= MAX_CHUNK + TAG or last > 1:
                raise MALFORMED(expected="a chunk of at most 256 KiB", found=f"{size} bytes, flag {last}")
            if len(self._buffer) - at < _PREFIX + size:
                break
            start = at + _PREFIX
            events.append(self._chunk(last, bytes(self._buffer[start : start + size])))
            at = start + size
        del self._buffer[:at]
        if self._state is _State.DONE and self._buffer:
            raise MALFORMED(expected="nothing after the final chunk", found=f"{len(self._buffer)} bytes")
        return events

    def _chunk(self, last: int, text: bytes) -> Event:
        if self._cipher is None or self._index >= _MAX_INDEX:
            raise MALFORMED(expected="a chunk within the stream", found=f"index {self._index}")
        data = self._cipher.open(self._index, last, text)
        first = self._index == 0
        self._index += 1
        if first and self._on_authentic:
            self._on_authentic(not last)
        if last:
            self._state = _State.DONE
            return _end(data, first=first)
        return self._first(data) if first else self._body(data)

    def _first(self, data: bytes) -> Head:
        head = decode_json(_HEAD, data, "a response head").check()
        self._head = Head(head.status, head.headers, head.checkpoint)
        self._state = _State.BODY
        return self._head

    def _body(self, data: bytes) -> Body:
        self.body_bytes += len(data)
        if self.body_bytes > self._max_body:
            raise TOO_LARGE(expected=f"a body of at most {self._max_body} bytes", found="more")
        self._hash.update(data)
        return Body(data)


def _end(data: bytes, *, first: bool) -> Event:
    """The last chunk: a failure, or (never as the first chunk) the receipt."""
    if not first and data.startswith(b'{"receipt"'):
        final = decode_json(_FINAL, data, "a receipt and a signature")
        return Final(bytes(final.receipt), from_hex(final.signature, 65, name="receipt signature"))
    failure = decode_json(_FAILURE, data, "a failure")
    if not 400 <= failure.status <= 599:
        raise MALFORMED(expected="a status in 400..599", found=str(failure.status)[:20])
    error = from_wire(failure.error, status=failure.status)
    return Failed(error)
