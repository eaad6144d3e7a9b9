"""The worker's end of oblivious calls: open, refuse what was seen, seal the answer (spec/ohttp.md 6, 7, 11).

An answer is one sealed message, held until it is complete, or a stream of chunks: as the request wants it. Time is an
argument, held monotone here.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import Final

from cloister.core.encoding.hexes import to_hex
from cloister.core.envelope import bhttp, ohttp
from cloister.core.envelope.certificate import KeyCertificate
from cloister.core.envelope.model import Headers, ResponseHead, encode_json, error_json
from cloister.core.envelope.oblivious import (
    CHECKPOINT,
    FAILURE,
    MAX_ANSWER,
    MAX_BODY,
    RECEIPT,
    REFUSAL,
    RESERVED,
    from_message,
    max_request,
)
from cloister.core.envelope.ohttp_chunks import CHUNK, ChunkSealer
from cloister.core.envelope.replay import REPLAY, Retired
from cloister.core.envelope.server import OpenRequest, SealedRefusalError, caller_of, need_deadline
from cloister.core.envelope.stream import Responder
from cloister.core.errors import CloisterError, EnvelopeError, define
from cloister.core.keys import hpke
from cloister.core.receipts.commitments import receipt_salt

Held = tuple[KeyCertificate, ohttp.Recipient]
MAX_REMEMBERED: Final = 1 << 18
# Room for what stands beside an answer's body: fields, receipt, padding, nonce and tag.
_BESIDE: Final = 192 << 10
# Content in one chunk: beside it stands its length.
_PIECE: Final = CHUNK - 4

REPEATED = define(
    "oblivious.repeated",
    EnvelopeError,
    check="a request id comes to a worker once",
    remedy="give a new call a new request id; this one has run, or runs now",
    status=409,
)
RESERVED_NAME = define(
    "oblivious.reserved_name",
    EnvelopeError,
    check="an agent's answer has no header whose name begins with cloister-, and a final status",
    remedy="the agent's code must choose another header name, or a status from 200",
    status=502,
)
ANSWER_TOO_LARGE = define(
    "oblivious.answer_too_large",
    EnvelopeError,
    check="the answer to an oblivious call fits into one message of 15 MiB",
    remedy="ask for less, or read the answer as a stream: it comes in chunks then",
    status=502,
)


class ObliviousDoor:
    """All oblivious calls of one worker boot. Not for use by several threads at once."""

    def __init__(self, rng: hpke.Rng, *, max_body: int = MAX_BODY, remembered: int = MAX_REMEMBERED) -> None:
        self._rng, self._max_body = rng, max_body
        self._seen = Retired(remembered)
        self._now = 0

    def open_request(self, data: bytes, now_ms: int, held: Iterable[Held], *, chunked: bool = False) -> OpenRequest:
        """Open one request. ``held``: the keys of the agent that it was sent to, of leases that count now; ``chunked``:
        it came as one of chunks, and so will the answer.

        The numbers are those of spec/ohttp.md 6: 1. size and shape; 2. a key of that number; 3. not seen before;
        4. it opens; from here refusals are sealed: 5. the message; 6. its fields; 7. the deadline; 8. the request id;
        9. the caller. Raises EnvelopeError by name."""
        self._now = max(self._now, now_ms)
        self._seen.forget(self._now)
        limit = max_request(self._max_body)
        hdr, enc, _ = ohttp.split(data, max_size=limit, chunked=chunked)  # 1
        number, name = hdr[0], ohttp.name_of(enc)
        keys = [(certificate, key) for certificate, key in held if key.config.key_id == number]
        if not keys:  # 2
            raise ohttp.KEY_UNKNOWN(expected="a key held for this agent", found=f"key {number}")
        if self._seen.get(name) is not None:  # 3
            raise REPLAY(expected="a request not seen before", found=to_hex(name)[:18])
        self._seen.need_room(2)
        certificate, text, exchange = _opened(keys, data, limit, chunked=chunked)  # 4
        responder = (StreamResponder if chunked else ObliviousResponder)(exchange, self._rng)
        try:
            return self._checked(certificate, text, exchange, responder)
        except CloisterError as error:
            raise SealedRefusalError(error, responder.error(error)) from None

    def _checked(
        self, certificate: KeyCertificate, text: bytes, exchange: ohttp.Exchange, responder: Responder
    ) -> OpenRequest:
        message = bhttp.decode_request(text, max_content=self._max_body)  # 5
        head = from_message(message, certificate)  # 6
        need_deadline(head, self._now)  # 7
        name = certificate.agent + bytes.fromhex(head.request_id[2:])
        if self._seen.get(name) is not None:  # 8
            raise REPEATED(expected="a request id not seen before", found=head.request_id)
        caller = caller_of(head.caller, certificate, exchange.context, None, self._now)  # 9
        for one in (exchange.name, name):
            self._seen.add(one, head.deadline_ms, one_shot=True)
        salt = receipt_salt(exchange.context, 0)
        return OpenRequest(head, message.content, caller, responder, exchange.name, certificate, 0, message.head, salt)


def _opened(
    keys: list[Held], data: bytes, limit: int, *, chunked: bool
) -> tuple[KeyCertificate, bytes, ohttp.Exchange]:
    """By whichever of the keys with this number opens it: there are two while a lease of another term or of a second
    version runs beside the first."""
    refusal: CloisterError | None = None
    for certificate, key in keys:
        try:
            text, exchange = key.open(data, max_size=limit, chunked=chunked)
        except CloisterError as error:
            refusal = error
            continue
        return certificate, text, exchange
    assert refusal is not None  # noqa: S101 - there is at least one key
    raise refusal


class _Responder(Responder):
    """What both forms of an answer have."""

    def __init__(self, exchange: ohttp.Exchange, rng: hpke.Rng) -> None:
        self._exchange, self._rng = exchange, rng
        self._index, self._done, self.body_bytes = 0, False, 0
        self._hash, self._body = hashlib.sha256(), bytearray()
        self._head = ResponseHead(status=500, checkpoint=0)


class ObliviousResponder(_Responder):
    """The answer's end for one message: everything is held, and ``final`` or ``error`` gives the bytes to write."""

    def begin(self, head: ResponseHead, encoded: bytes) -> bytes:
        """Take the head. Raises EnvelopeError (oblivious.reserved_name, bhttp.*) for one that cannot be sent."""
        self._need(started=False)
        _need_own(head)
        self._head = head
        bhttp.encode_response(self._response((), b""))
        self._index = 1
        return b""

    def chunk(self, data: bytes) -> bytes:
        """Take some of the body. Raises EnvelopeError (oblivious.answer_too_large)."""
        self._need(started=True)
        if len(self._body) + len(data) > MAX_ANSWER - _BESIDE:
            raise ANSWER_TOO_LARGE(expected=f"at most {MAX_ANSWER - _BESIDE} bytes", found="more")
        self._hash.update(data)
        self._body += data
        self.body_bytes += len(data)
        return b""

    def ended(self, text: bytes) -> bytes:
        """The whole answer with its receipt."""
        self._need(started=True)
        return self._sealed(self._response(((RECEIPT, text.decode("latin-1")),), bytes(self._body)))

    def error(self, error: CloisterError) -> bytes:
        """The whole answer, a refusal; nothing of what was taken before is in it."""
        self._need(started=None)
        return self._sealed(_refusal(error))

    @property
    def started(self) -> bool:
        """Never: nothing leaves before the end."""
        return False

    def _response(self, trailers: Headers, body: bytes) -> bhttp.BinaryResponse:
        return bhttp.BinaryResponse(self._head.status, _headers(self._head), body, trailers)

    def _sealed(self, response: bhttp.BinaryResponse) -> bytes:
        self._done = True
        return self._exchange.seal_response(_padded(bhttp.encode_response(response)), self._rng)


class StreamResponder(_Responder):
    """The answer's end in chunks (spec/ohttp.md 11): each call gives the bytes to write, as for a sealed answer."""

    def __init__(self, exchange: ohttp.Exchange, rng: hpke.Rng) -> None:
        super().__init__(exchange, rng)
        self._sealer = ChunkSealer(exchange, rng)

    def begin(self, head: ResponseHead, encoded: bytes) -> bytes:
        """The head. Raises EnvelopeError (oblivious.reserved_name, bhttp.*) for one that cannot be sent."""
        self._need(started=False)
        _need_own(head)
        lead = bhttp.encode_response_head(head.status, _headers(head))
        self._head, self._index = head, 1
        return self._sealer.seal(lead)

    def chunk(self, data: bytes) -> bytes:
        """Some of the body, in chunks that every reader takes; nothing is written for none."""
        self._need(started=True)
        self._hash.update(data)
        self.body_bytes += len(data)
        pieces = (data[at : at + _PIECE] for at in range(0, len(data), _PIECE))
        return b"".join(self._sealer.seal(bhttp.sized(piece)) for piece in pieces)

    def ended(self, text: bytes) -> bytes:
        """The end, with the receipt."""
        self._need(started=True)
        return self._ended(((RECEIPT, text.decode("latin-1")),))

    def error(self, error: CloisterError) -> bytes:
        """The end of a failed answer: a whole refusal, or what failed after the head."""
        self._need(started=None)
        if self._index:
            failure = error_json(error)
            text = json.dumps({"status": failure.status, "error": failure.error})  # ASCII, as field values are
            return self._ended(((FAILURE, text),))
        self._done = True
        return self._sealer.seal(_padded(bhttp.encode_response(_refusal(error))), last=True)

    def _ended(self, trailers: Headers) -> bytes:
        text = b"\0" + bhttp.section(trailers, True)
        self._done = True
        return self._sealer.seal(_padded(text), last=True)


def _need_own(head: ResponseHead) -> None:
    if head.status < 200 or any(name.startswith(RESERVED) for name, _ in head.headers):
        raise RESERVED_NAME(expected="a final status and names of the agent's own", found=f"status {head.status}")


def _headers(head: ResponseHead) -> Headers:
    return ((CHECKPOINT, str(head.checkpoint)), *head.headers)


def _refusal(error: CloisterError) -> bhttp.BinaryResponse:
    headers = (("content-type", "application/problem+json"), (REFUSAL, error.code))
    return bhttp.BinaryResponse(error.status, headers, encode_json(error_json(error)))


def _padded(message: bytes) -> bytes:
    return message.ljust(bhttp.padded_size(len(message)), b"\0")
