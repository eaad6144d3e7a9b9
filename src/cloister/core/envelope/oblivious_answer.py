"""Answers to oblivious calls, the client's end: one message, or chunks (spec/ohttp.md 7, 11).

An opener has the states of ``opener.Opener``: a head, the body, the end; a refusal may come instead of each. What it
refused stays refused.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Final as Const

import msgspec

from cloister.core.encoding.hexes import from_hex
from cloister.core.envelope import ohttp
from cloister.core.envelope.bhttp import BinaryResponse, Reader
from cloister.core.envelope.bhttp_client import decode_response, read_head
from cloister.core.envelope.model import MAX_HEAD, TOO_LARGE, Headers, WireFailure, WireFinal, decode_json
from cloister.core.envelope.oblivious import CHECKPOINT, FAILURE, MAX_ANSWER, RECEIPT, REFUSAL, RESERVED, number
from cloister.core.envelope.ohttp_chunks_client import ChunkOpener
from cloister.core.envelope.opener import Body, Event, Failed, Final, Head
from cloister.core.errors import CloisterError, EnvelopeError, define, from_wire
from cloister.core.receipts.batch import MAX_BATCH_PATH, BatchPath
from cloister.core.receipts.commitments import response_commitment
from cloister.core.receipts.merkle import hashes_from

# Body bytes of an answer in chunks.
MAX_STREAM: Const = 64 << 20

BAD_ANSWER = define(
    "oblivious.answer",
    EnvelopeError,
    check="an answer is a response with checkpoint and receipt, or a refusal with its code",
    remedy="the worker does not speak this version; take another seat",
    status=502,
)


class _Opener:
    """What both have: the head that came, and what the receipt must say of the response."""

    def __init__(self) -> None:
        self._head: Head | None = None
        self._hash = hashlib.sha256()

    def commitment(self, salt: bytes) -> bytes:
        """The salted commitment to what was received (spec/receipts.md 3). Raises EnvelopeError before the head."""
        if self._head is None:
            raise BAD_ANSWER(expected="a head", found="none")
        return response_commitment(salt, self._head.status, self._head.headers, self._hash.digest())


class WholeOpener(_Opener):
    """Opens an answer that is one message: nothing of it counts before ``close``."""

    def __init__(self, exchange: ohttp.Exchange) -> None:
        super().__init__()
        self._exchange = exchange
        self._data = bytearray()

    def feed(self, data: bytes) -> list[Event]:
        """No event. Raises EnvelopeError (ohttp.too_large)."""
        self._data += data
        if len(self._data) > MAX_ANSWER:
            raise ohttp.TOO_LARGE(expected=f"at most {MAX_ANSWER} bytes", found="more")
        return []

    def close(self) -> list[Event]:
        """The answer, or the worker's refusal, which is authentic too. Raises EnvelopeError for what is neither."""
        message = self._exchange.open_response(bytes(self._data), max_size=MAX_ANSWER)
        response = decode_response(message, max_content=MAX_ANSWER)
        events = events_of(response)
        if isinstance(events[0], Head):
            self._head = events[0]
            self._hash.update(response.content)
        return events


class StreamOpener(_Opener):
    """Opens an answer in chunks: the head, some of the body in each, and the end, which comes with ``close``."""

    def __init__(self, exchange: ohttp.Exchange, *, max_body: int = MAX_STREAM) -> None:
        super().__init__()
        self._chunks = ChunkOpener(exchange)
        self._max_body = max_body
        self.body_bytes = 0

    def feed(self, data: bytes) -> list[Event]:
        """The events that these bytes complete. Raises EnvelopeError: what ``ChunkOpener.feed`` says, oblivious.answer,
        bhttp.*, envelope.too_large. After a raise the answer is lost for good."""
        try:
            return [self._event(text) for text in self._chunks.feed(data)]
        except CloisterError:
            self._chunks.drop()
            raise

    def close(self) -> list[Event]:
        """Say that the stream ended: its last event. Raises EnvelopeError: ohttp.truncated, ohttp.not_authentic,
        oblivious.answer, bhttp.*."""
        text = self._chunks.close()
        if self._head is not None:
            _, trailers = Reader(text).tail(True, 0)
            return [end_of(trailers)]
        refused = refusal_of(decode_response(text, max_content=MAX_ANSWER))
        if refused is None:
            raise BAD_ANSWER(expected="a head before the end, or a refusal", found="an answer in its end")
        return [refused]

    def _event(self, text: bytes) -> Event:
        reader = Reader(text)
        if self._head is None:
            indeterminate, _, status, headers = read_head(reader)
            if not indeterminate or not reader.over:
                raise BAD_ANSWER(expected="a head alone, of indeterminate length", found="something else")
            self._head = head_of(status, headers)
            return self._head
        pieces = []
        while not reader.over:
            pieces.append(reader.sized(len(text), "content"))
        if not all(pieces) or not pieces:
            raise BAD_ANSWER(expected="some content in each chunk", found="none")
        data = b"".join(pieces)
        self.body_bytes += len(data)
        if self.body_bytes > self._max_body:
            raise TOO_LARGE(expected=f"a body of at most {self._max_body} bytes", found="more")
        self._hash.update(data)
        return Body(data)


def opener_of(exchange: ohttp.Exchange) -> WholeOpener | StreamOpener:
    """What opens the answer to a request, in the form that it asked for."""
    return StreamOpener(exchange) if exchange.chunked else WholeOpener(exchange)


def events_of(response: BinaryResponse) -> list[Event]:
    """The events of a whole answer: one refusal, or head, body and end. Raises EnvelopeError: oblivious.answer,
    envelope.head, oblivious.field."""
    refused = refusal_of(response)
    if refused is not None:
        return [refused]
    head, final = head_of(response.status, response.headers), end_of(response.trailers)
    if isinstance(final, Failed):
        raise BAD_ANSWER(expected="a receipt", found="a failure after the head")
    return [head, *([Body(response.content)] if response.content else []), final]


def head_of(status: int, headers: Headers) -> Head:
    """The head of a good answer. Raises EnvelopeError: oblivious.answer, oblivious.field."""
    ours = [pair for pair in headers if pair[0].startswith(RESERVED)]
    if [name for name, _ in ours] != [CHECKPOINT]:
        raise BAD_ANSWER(expected="one checkpoint", found=_names(ours))
    theirs = tuple(pair for pair in headers if not pair[0].startswith(RESERVED))
    return Head(status, theirs, number(CHECKPOINT, ours[0][1]))


def end_of(trailers: Headers) -> Final | Failed:
    """What ends an answer after its head. Raises EnvelopeError: oblivious.answer, envelope.head."""
    if len(trailers) != 1 or trailers[0][0] not in (RECEIPT, FAILURE):
        raise BAD_ANSWER(expected="one receipt", found=_names(trailers))
    name, value = trailers[0]
    if name == FAILURE:
        return Failed(_failure(value.encode("latin-1")))
    word = decode_json(_FINAL, value.encode("latin-1"), "a receipt and a signature")
    said = word.batch
    batch = None if said is None else BatchPath(said.first, said.size, hashes_from(said.path, MAX_BATCH_PATH))
    return Final(bytes(word.receipt), from_hex(word.signature, 65, name="receipt signature"), batch)


def refusal_of(response: BinaryResponse) -> Failed | None:
    """The refusal that a whole response is, if it is one. Raises EnvelopeError: oblivious.answer, envelope.head."""
    code = dict(response.headers).get(REFUSAL)
    if code is None:
        return None
    error = _failure(response.content)
    if error.code != code:
        raise BAD_ANSWER(expected="a refusal that says what its field says", found=code[:80])
    return Failed(error)


def _names(headers: Iterable[tuple[str, str]]) -> str:
    return ", ".join(name for name, _ in headers)[:120] or "none"


_FINAL = msgspec.json.Decoder(WireFinal)
_FAILURE = msgspec.json.Decoder(WireFailure)


def _failure(text: bytes) -> CloisterError:
    failure = decode_json(_FAILURE, text[: MAX_HEAD + 1], "a failure")
    if not 400 <= failure.status <= 599:
        raise BAD_ANSWER(expected="a status in 400..599", found=str(failure.status)[:20])
    return from_wire(failure.error, status=failure.status)
