"""Binary HTTP messages (RFC 9292), of known and of indeterminate length, padded or not: the worker's end, which reads
requests and writes responses. The client's is ``bhttp_client.py``.

Strict: lengths are held against what is there before anything is cut out, names and values have the form of
``model.check_headers``, padding is zeros. A message may end early where RFC 9292 section 3.8 allows it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final

from cloister.core.envelope.model import MAX_HEAD, MAX_HEADERS, Headers, check_headers
from cloister.core.errors import CloisterError, EnvelopeError, define

KNOWN_REQUEST: Final = 0
KNOWN_RESPONSE: Final = 1
OPEN_REQUEST: Final = 2
OPEN_RESPONSE: Final = 3
MAX_VARINT: Final = (1 << 62) - 1
_SMALLEST: Final = 512
_STEP: Final = 64 << 10

_METHOD: Final = re.compile(rb"[A-Z]{1,16}")
_SCHEME: Final = re.compile(rb"[a-z][a-z0-9+.-]{0,15}")
_AUTHORITY: Final = re.compile(rb"[\x21-\x2e\x30-\x3e\x40-\x7e]{0,255}")
_PATH: Final = re.compile(rb"/[\x21-\x7e]{0,8191}|\*")
_CONTROL: Final = (("method", _METHOD), ("scheme", _SCHEME), ("authority", _AUTHORITY), ("path", _PATH))

MALFORMED = define(
    "bhttp.malformed",
    EnvelopeError,
    check="a message has the shape of RFC 9292: lengths that fit, zeros as padding",
    remedy="encode the message again; it may have been damaged or cut",
)
TOO_LARGE = define(
    "bhttp.too_large",
    EnvelopeError,
    check="a message stays within the caps on its content and its fields",
    remedy="send less, or put large data into a blob",
    status=413,
)
BAD_FIELD = define(
    "bhttp.field",
    EnvelopeError,
    check="control data and field lines are within their form: names are lower-case tokens, values printable",
    remedy="compare the message with spec/ohttp.md 2",
)


@dataclass(frozen=True, slots=True)
class BinaryRequest:
    """A request. ``head``: the message's bytes before its content section, as they came; "" for one made here."""

    method: str
    scheme: str
    authority: str
    path: str
    headers: Headers = ()
    content: bytes = field(default=b"", repr=False)
    trailers: Headers = ()
    head: bytes = field(default=b"", repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class BinaryResponse:
    """A final response. ``informational``: (status 100..199, fields) of what came before it."""

    status: int
    headers: Headers = ()
    content: bytes = field(default=b"", repr=False)
    trailers: Headers = ()
    informational: tuple[tuple[int, Headers], ...] = ()


def padded_size(size: int) -> int:
    """What a message of ``size`` bytes grows to: powers of two from 512 to 64 KiB, then whole steps of 64 KiB."""
    if size >= _STEP:
        return -(-size // _STEP) * _STEP
    return max(_SMALLEST, 1 << max(size - 1, 0).bit_length())


def encode_response(response: BinaryResponse, *, indeterminate: bool = False, size: int = 0) -> bytes:
    """The message, padded with zeros to at least ``size`` bytes. Raises EnvelopeError."""
    parts = [varint(OPEN_RESPONSE if indeterminate else KNOWN_RESPONSE)]
    for status, headers in response.informational:
        check_status(status, 100, 199)
        parts += [varint(status), section(headers, indeterminate)]
    check_status(response.status, 200, 599)
    parts += [varint(response.status), section(response.headers, indeterminate)]
    return padded(b"".join(parts) + tail(response.content, response.trailers, indeterminate), size)


def encode_response_head(status: int, headers: Headers) -> bytes:
    """What a response of indeterminate length begins with, up to its content. Raises EnvelopeError."""
    check_status(status, 200, 599)
    return varint(OPEN_RESPONSE) + varint(status) + section(headers, True)


def decode_request(data: bytes, *, max_content: int) -> BinaryRequest:
    """Parse a request of either framing. Raises EnvelopeError: bhttp.malformed, bhttp.too_large, bhttp.field."""
    reader = Reader(data)
    indeterminate = framing(reader, KNOWN_REQUEST, OPEN_REQUEST)
    control = [reader.sized(MAX_HEAD, name) for name, _ in _CONTROL]
    check_control(control)
    headers = reader.fields(indeterminate)
    head = data[: reader.at]
    content, trailers = reader.tail(indeterminate, max_content)
    method, scheme, authority, path = (one.decode("ascii") for one in control)
    return BinaryRequest(method, scheme, authority, path, headers, content, trailers, head)


class Reader:
    """What is left of a message. Every length is compared with it before a cut."""

    __slots__ = ("_data", "at")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.at = 0

    @property
    def over(self) -> bool:
        """Whether nothing is left."""
        return self.at >= len(self._data)

    def varint(self, what: str) -> int:
        """A QUIC integer (RFC 9000 section 16); any of its spellings."""
        if self.over:
            raise MALFORMED(expected=what, found="the end of the message")
        size = 1 << (self._data[self.at] >> 6)
        word = self.cut(size, what)
        return int.from_bytes(word, "big") & ((1 << (8 * size - 2)) - 1)

    def cut(self, size: int, what: str) -> bytes:
        """The next ``size`` bytes."""
        if size > len(self._data) - self.at:
            raise MALFORMED(expected=f"{what} of {size} bytes"[:80], found=f"{len(self._data) - self.at} bytes")
        start, self.at = self.at, self.at + size
        return self._data[start : self.at]

    def sized(self, cap: int, what: str) -> bytes:
        """A length, and so many bytes."""
        size = self.varint(f"the length of {what}")
        if size > cap:
            raise TOO_LARGE(expected=f"{what} of at most {cap} bytes", found=f"{size} bytes"[:40])
        return self.cut(size, what)

    def fields(self, indeterminate: bool) -> Headers:
        """One field section; none where the message ends here."""
        if self.over:
            return ()
        if indeterminate:
            return self._lines(len(self._data), stop=True)
        size = self.varint("the length of a field section")
        if size > MAX_HEAD:
            raise TOO_LARGE(expected=f"fields of at most {MAX_HEAD} bytes", found=f"{size} bytes"[:40])
        if size > len(self._data) - self.at:
            raise MALFORMED(expected=f"{size} bytes of fields", found=f"{len(self._data) - self.at} bytes")
        return self._lines(self.at + size, stop=False)

    def tail(self, indeterminate: bool, max_content: int) -> tuple[bytes, Headers]:
        """Content and trailers; the rest is padding."""
        content = b"" if self.over else self._content(indeterminate, max_content)
        trailers = self.fields(indeterminate)
        if self._data.count(0, self.at) != len(self._data) - self.at:
            raise MALFORMED(expected="zeros as padding", found="other bytes")
        return content, trailers

    def _content(self, indeterminate: bool, cap: int) -> bytes:
        if not indeterminate:
            return self.sized(cap, "content")
        whole = bytearray()
        while True:
            size = self.varint("the length of a chunk")
            if size == 0:
                return bytes(whole)
            if size > cap - len(whole):
                raise TOO_LARGE(expected=f"content of at most {cap} bytes", found="more")
            whole += self.cut(size, "a chunk")

    def _lines(self, end: int, *, stop: bool) -> Headers:
        """Field lines up to ``end``; with ``stop`` up to a name of no length."""
        start, lines = self.at, list[tuple[str, str]]()
        while stop or self.at < end:
            size = self.varint("the length of a name")
            if size == 0 and stop:
                break
            if len(lines) >= MAX_HEADERS or self.at - start > MAX_HEAD:
                raise TOO_LARGE(expected=f"at most {MAX_HEADERS} fields in {MAX_HEAD} bytes", found="more")
            name, value = self.cut(size, "a name"), self.sized(MAX_HEAD, "a value")
            lines.append((name.decode("latin-1"), value.decode("latin-1")))
        if not stop and self.at != end:
            raise MALFORMED(expected="field lines that end with their section", found="one that goes beyond")
        _check_fields(tuple(lines))
        return tuple(lines)


def framing(reader: Reader, known: int, open_ended: int) -> bool:
    """Whether the message is of indeterminate length."""
    found = reader.varint("a framing indicator")
    if found not in (known, open_ended):
        raise MALFORMED(expected=f"framing indicator {known} or {open_ended}", found=str(found)[:40])
    return found == open_ended


def check_control(control: list[bytes]) -> None:
    """Raise EnvelopeError (bhttp.field) unless method, scheme, authority and path have their forms."""
    for (name, pattern), value in zip(_CONTROL, control, strict=True):
        if not pattern.fullmatch(value):
            raise BAD_FIELD(expected=f"{name} of its form", found=f"{len(value)} bytes of another")


def check_status(status: int, low: int, high: int) -> None:
    """Raise EnvelopeError (bhttp.field) unless the status is within."""
    if not low <= status <= high:
        raise BAD_FIELD(expected=f"a status in {low}..{high}", found=str(status)[:40])


def _check_fields(headers: Headers) -> None:
    try:
        check_headers(headers)
    except CloisterError as error:
        raise BAD_FIELD(expected=error.expected, found=error.found) from None


def varint(value: int) -> bytes:
    """The shortest spelling."""
    for power, limit in enumerate((1 << 6, 1 << 14, 1 << 30, 1 << 62)):
        if value < limit:
            return (value | power << (8 * (1 << power) - 2)).to_bytes(1 << power, "big")
    raise ValueError("a length beyond 62 bits")


def sized(data: bytes) -> bytes:
    """Its length, and the bytes."""
    return varint(len(data)) + data


def section(headers: Headers, indeterminate: bool) -> bytes:
    """One field section. Raises EnvelopeError."""
    _check_fields(headers)
    lines = b"".join(sized(name.encode("latin-1")) + sized(value.encode("latin-1")) for name, value in headers)
    if len(lines) > MAX_HEAD:
        raise TOO_LARGE(expected=f"fields of at most {MAX_HEAD} bytes", found=f"{len(lines)} bytes")
    return lines + b"\0" if indeterminate else sized(lines)


def tail(content: bytes, trailers: Headers, indeterminate: bool) -> bytes:
    """Content and trailers."""
    body = sized(content) if not indeterminate else (sized(content) + b"\0" if content else b"\0")
    return body + section(trailers, indeterminate)


def padded(message: bytes, size: int) -> bytes:
    """The message with zeros up to a size."""
    return message.ljust(size, b"\0")
