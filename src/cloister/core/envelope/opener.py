"""The response stream, the client's end (spec/sealed-http.md 7, 8).

States: RAND (32 bytes) -> HEAD (chunk 0) -> BODY (chunks) -> DONE (the final chunk came).
An error chunk may end it from HEAD or BODY. Anything else is refused, and the opener stays refused.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Final as Const

import msgspec

from cloister.core.encoding.hexes import from_hex
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
)
from cloister.core.envelope.stream import RAND_SIZE, AnswerCipher
from cloister.core.errors import CloisterError, EnvelopeError, define, from_wire
from cloister.core.keys import hpke
from cloister.core.receipts.batch import MAX_BATCH_PATH, BatchPath
from cloister.core.receipts.commitments import response_commitment
from cloister.core.receipts.merkle import hashes_from

_PREFIX: Const = 5
_MAX_INDEX: Const = 1 << 32

TRUNCATED = define(
    "envelope.truncated",
    EnvelopeError,
    check="the response stream ends with its final chunk",
    remedy="the connection broke or somebody cut the answer; repeat if the request is safe to repeat",
    status=502,
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
    """Last event of a good answer: the receipt's canonical bytes and the worker's 65-byte signature.

    ``batch``: the receipt's place in what was signed; None if it was signed alone."""

    receipt: bytes
    signature: bytes
    batch: BatchPath | None = None


@dataclass(frozen=True, slots=True)
class Failed:
    """Last event of a failed answer: the worker's sealed refusal."""

    error: CloisterError


Event = Head | Body | Final | Failed


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
        self._cipher: AnswerCipher | None = None
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

    def close(self) -> list[Event]:
        """Say that the stream ended: no event comes with that. Raises EnvelopeError (envelope.truncated) unless the
        final chunk came."""
        if self._state is not _State.DONE:
            raise TRUNCATED(expected="a final chunk", found=f"the end, {self._state.value}")
        return []

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
            self._cipher = AnswerCipher(self._context, self._seq, self._request_id, bytes(self._buffer[:RAND_SIZE]))
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
        said = final.batch
        batch = None if said is None else BatchPath(said.first, said.size, hashes_from(said.path, MAX_BATCH_PATH))
        return Final(bytes(final.receipt), from_hex(final.signature, 65, name="receipt signature"), batch)
    failure = decode_json(_FAILURE, data, "a failure")
    if not 400 <= failure.status <= 599:
        raise MALFORMED(expected="a status in 400..599", found=str(failure.status)[:20])
    error = from_wire(failure.error, status=failure.status)
    return Failed(error)
