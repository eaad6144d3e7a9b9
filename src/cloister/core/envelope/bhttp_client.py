"""Binary HTTP messages (RFC 9292), the client's end: writes requests and reads responses. See ``bhttp.py``."""

from __future__ import annotations

from typing import Final

from cloister.core.envelope.bhttp import (
    KNOWN_REQUEST,
    KNOWN_RESPONSE,
    OPEN_REQUEST,
    OPEN_RESPONSE,
    TOO_LARGE,
    BinaryRequest,
    BinaryResponse,
    Reader,
    check_control,
    check_status,
    framing,
    padded,
    section,
    sized,
    tail,
    varint,
)
from cloister.core.envelope.model import Headers

MAX_INFORMATIONAL: Final = 8


def encode_request_head(request: BinaryRequest, *, indeterminate: bool = False) -> bytes:
    """Framing indicator, control data and header fields. Raises EnvelopeError (bhttp.field, bhttp.too_large)."""
    words = (request.method, request.scheme, request.authority, request.path)
    control = [text.encode("utf-8", "surrogatepass") for text in words]  # what is not ASCII has no form there
    check_control(control)
    lead = varint(OPEN_REQUEST if indeterminate else KNOWN_REQUEST)
    return lead + b"".join(sized(one) for one in control) + section(request.headers, indeterminate)


def encode_request(request: BinaryRequest, *, indeterminate: bool = False, size: int = 0) -> bytes:
    """The message, padded with zeros to at least ``size`` bytes. Raises as ``encode_request_head`` does."""
    head = encode_request_head(request, indeterminate=indeterminate)
    return padded(head + tail(request.content, request.trailers, indeterminate), size)


def decode_response(data: bytes, *, max_content: int) -> BinaryResponse:
    """Parse a response of either framing. Raises EnvelopeError: bhttp.malformed, bhttp.too_large, bhttp.field."""
    reader = Reader(data)
    indeterminate, before, status, headers = read_head(reader)
    content, trailers = reader.tail(indeterminate, max_content)
    return BinaryResponse(status, headers, content, trailers, before)


def read_head(reader: Reader) -> tuple[bool, tuple[tuple[int, Headers], ...], int, Headers]:
    """(of indeterminate length, informational responses, status, fields) of a response, up to its content. Raises as
    ``decode_response`` does."""
    indeterminate = framing(reader, KNOWN_RESPONSE, OPEN_RESPONSE)
    before: list[tuple[int, Headers]] = []
    while True:
        status = reader.varint("a status")
        if not 100 <= status <= 199:
            break
        if len(before) >= MAX_INFORMATIONAL:
            raise TOO_LARGE(expected=f"at most {MAX_INFORMATIONAL} informational responses", found="more")
        before.append((status, reader.fields(indeterminate)))
    check_status(status, 200, 599)
    return indeterminate, tuple(before), status, reader.fields(indeterminate)
