"""The nouns of sealed HTTP: heads, callers, the request record and its caps (spec/sealed-http.md 4, 5)."""

from __future__ import annotations

import re
import struct
from typing import Annotated, Any, Final, Literal, TypeVar

import msgspec

from cloister.core.encoding.contexts import Context, frame
from cloister.core.encoding.hexes import from_hex
from cloister.core.errors import CloisterError, EnvelopeError, define

MAGIC: Final = b"CLS1"
KIND_SESSION: Final = 1
KIND_ONE_SHOT: Final = 2
FLAG_IBE: Final = 1
FLAG_XWING: Final = 2
XWING_ENC: Final = 1120
HEADER: Final = struct.Struct(">4sBB32s32s32s32sQ")
MAX_IBE: Final = 4096
MAX_HEAD: Final = 64 * 1024
MAX_CHUNK: Final = 256 * 1024
MAX_HEADERS: Final = 128
TAG: Final = 16
PSK_SIZE: Final = 32
MAX_SIGNATURE: Final = 4096
CALLER_EXPORT: Final = frame(Context.SEALED_INFO, b"caller")

Headers = tuple[tuple[str, str], ...]
_T = TypeVar("_T")

MALFORMED = define(
    "envelope.malformed",
    EnvelopeError,
    check="a sealed message has the shape of spec/sealed-http.md",
    remedy="use a client of the same protocol version; the message may have been damaged on its way",
)
TOO_LARGE = define(
    "envelope.too_large",
    EnvelopeError,
    check="a sealed message stays within its caps",
    remedy="send less, or put large data into a blob",
    status=413,
)
BAD_HEAD = define(
    "envelope.head",
    EnvelopeError,
    check="a head has exactly its fields, each within its form",
    remedy="compare the head with spec/sealed-http.md 5",
)

_METHOD = re.compile(r"[A-Z]{1,16}")
_PATH = re.compile(r"/[\x21-\x7e]{0,8191}")
_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9a-z]{1,256}")
_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]{0,16384}")
_IDEM = re.compile(r"[\x20-\x7e]{1,128}")
_REQUEST_ID = re.compile(r"0x[0-9a-f]{32}")
_LINE = re.compile(rf"{_REQUEST_ID.pattern} {_METHOD.pattern} {_PATH.pattern}")
_LINES = re.compile(rf"(?:{_NAME.pattern}\0{_VALUE.pattern}\n)*")


class AgentProof(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """That a caller is an agent: a seat of it (``Seat.to_json``) and the seat's worker's signature over its address."""

    seat: dict[str, Any]
    signature: str


CallerKind = Literal["wallet", "contract", "apikey"]
_SIGNATURES: Final[dict[str, int | None]] = {"wallet": 65, "contract": None, "apikey": 32}


class Caller(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Who opens the session, all as text (spec/sealed-http.md 9, 11): a 20-byte address, an expiry (Unix seconds) and
    its word over the session.

    ``kind``: a wallet's address and 65-byte signature; a contract account's address and what its `isValidSignature`
    accepts; an API key's id and a 32-byte MAC. ``agent``: the wallet is the key of an agent, which this proves."""

    address: str
    expiry: Annotated[int, msgspec.Meta(ge=0, lt=1 << 53)]
    signature: str
    agent: AgentProof | None = None
    kind: CallerKind = "wallet"

    def parts(self) -> tuple[bytes, bytes]:
        """(address 20 bytes, signature as its kind has it). Raises EncodingError."""
        address = from_hex(self.address, 20, name="caller address")
        return address, from_hex(self.signature, _SIGNATURES[self.kind], name="signature", max_size=MAX_SIGNATURE)


class RequestHead(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    forbid_unknown_fields=True,
    rename={
        "version": "v",
        "request_id": "id",
        "method": "m",
        "path": "p",
        "headers": "h",
        "deadline_ms": "d",
        "idempotency_key": "idem",
        "caller": "c",
    },
):
    """The head of a sealed request. ``request_id`` is 0x and 32 hex digits; ``path`` includes the query."""

    request_id: str
    method: str
    path: str
    deadline_ms: int
    headers: Headers = ()
    idempotency_key: str | None = None
    caller: Caller | None = None
    version: int = 1

    def check(self) -> RequestHead:
        """Itself. Raises EnvelopeError (envelope.head) unless every field is within its form."""
        if self.version != 1:
            raise BAD_HEAD(expected="version 1", found=str(self.version))
        if not _LINE.fullmatch(f"{self.request_id} {self.method} {self.path}"):  # no part may hold a space
            _match(_REQUEST_ID, "request id", self.request_id)
            _match(_METHOD, "method", self.method)
            _match(_PATH, "path", self.path)
            raise BAD_HEAD(expected="a request id, a method and a path", found="something else")
        if not 0 <= self.deadline_ms < 1 << 53:
            raise BAD_HEAD(expected="a deadline in Unix milliseconds", found=str(self.deadline_ms)[:40])
        if self.idempotency_key is not None:
            _match(_IDEM, "idempotency key", self.idempotency_key)
        check_headers(self.headers)
        return self


class ResponseHead(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename={"headers": "h"}):
    """The head of a sealed answer. ``checkpoint`` is the height that the worker answered at."""

    status: int
    checkpoint: int
    headers: Headers = ()

    def check(self) -> ResponseHead:
        """Itself. Raises EnvelopeError (envelope.head)."""
        if not 100 <= self.status <= 599 or not 0 <= self.checkpoint < 1 << 53:
            raise BAD_HEAD(expected="a status in 100..599 and a height", found=f"status {self.status}"[:40])
        check_headers(self.headers)
        return self


class WireBatch(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A receipt's place in the batch that was signed (spec/receipts.md 9): ``path`` is hashes in one hex text."""

    first: int
    path: str
    size: int


class WireFinal(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The last chunk of a good answer: the receipt's exact bytes and the worker's signature as hex.

    ``batch`` None: the receipt was signed alone."""

    receipt: msgspec.Raw
    signature: str
    batch: WireBatch | None = None


class WireFailure(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The last chunk of a failed answer: an HTTP status and ``CloisterError.to_wire``."""

    status: int
    error: dict[str, str]


class Record(msgspec.Struct, frozen=True):
    """A parsed request record. ``header`` is what the AAD covers; ``ibe`` is empty when it was not sent.

    ``enc``: names the context: the encapsulation itself or, under ``xwing``, its SHA-256. ``kem``: the encapsulation;
    under ``xwing`` it is there when ``ibe`` is, else empty."""

    header: bytes
    kind: int
    xwing: bool
    boot: bytes
    certificate_id: bytes
    enc: bytes
    psk_id: bytes
    seq: int
    kem: bytes
    ibe: bytes
    ciphertext: bytes

    def aad(self, agent: bytes) -> bytes:
        """What the request's AEAD authenticates besides the plaintext."""
        return request_aad(self.header, agent)


_REQUEST = frame(Context.SEALED_REQUEST) + HEADER.size.to_bytes(4, "big")


def request_aad(header: bytes, agent: bytes) -> bytes:
    """frame(SEALED_REQUEST, header 142, agent 32), written out: it is made for every request."""
    return b"%b%b\0\0\0\x20%b" % (_REQUEST, header, agent)


def check_headers(headers: Headers) -> None:
    """Raise EnvelopeError unless names are lower-case tokens and values printable Latin-1 (no line breaks)."""
    if len(headers) > MAX_HEADERS:
        raise BAD_HEAD(expected=f"at most {MAX_HEADERS} headers", found=str(len(headers)))
    text = "".join([f"{name}\0{value}\n" for name, value in headers])
    count = len(headers)
    if text.count("\0") == count and text.count("\n") == count and _LINES.fullmatch(text):  # one match for all
        return
    for name, value in headers:
        if not _NAME.fullmatch(name):
            raise BAD_HEAD(expected="header names as lower-case tokens", found=repr(name)[:80])
        if not _VALUE.fullmatch(value):
            raise BAD_HEAD(expected=f"a printable value of header {name}", found="other characters or over 16 KiB")
    raise BAD_HEAD(expected="headers within their form", found="others")


def encode_record(header: bytes, ibe: bytes, ciphertext: bytes) -> bytes:
    """The record's bytes. The header says whether ``ibe`` follows; the caller keeps the two in step."""
    return b"".join((header, len(ibe).to_bytes(2, "big"), ibe, ciphertext))


def decode_record(data: bytes, *, max_size: int) -> Record:
    """Parse a record (spec/sealed-http.md 6.1). Raises EnvelopeError: too_large, malformed."""
    if len(data) > max_size:
        raise TOO_LARGE(expected=f"at most {max_size} bytes", found=f"{len(data)} bytes")
    if len(data) < HEADER.size + 2 + TAG + 4:
        raise MALFORMED(expected="a request record", found=f"{len(data)} bytes")
    magic, kind, flags, boot, certificate_id, enc, psk_id, seq = HEADER.unpack_from(data)
    if magic != MAGIC or kind not in (KIND_SESSION, KIND_ONE_SHOT) or flags > FLAG_IBE | FLAG_XWING:
        raise MALFORMED(expected="CLS1, kind 1 or 2, flags 0 to 3", found="another first line")
    if kind == KIND_ONE_SHOT and seq:
        raise MALFORMED(expected="seq 0 in a one-shot record", found=str(seq))
    xwing, start = flags >= FLAG_XWING, HEADER.size + 2
    size = int.from_bytes(data[HEADER.size : start], "big")
    if bool(size) != bool(flags & FLAG_IBE) or size > MAX_IBE or start + size + TAG > len(data):
        raise MALFORMED(expected="an IBE part as the flags say", found=f"{size} bytes of it")
    sent, ciphertext = data[start : start + size], data[start + size :]
    kem, ibe = (sent[:XWING_ENC], sent[XWING_ENC:]) if xwing else (enc, sent)
    if sent and not ibe:
        raise MALFORMED(expected=f"an encapsulation of {XWING_ENC} bytes before the IBE part", found=f"{size} bytes")
    return Record(data[: HEADER.size], kind, xwing, boot, certificate_id, enc, psk_id, seq, kem, ibe, ciphertext)


def encode_plaintext(head: bytes, body: bytes) -> bytes:
    """u32 head length | head | body."""
    return b"".join((len(head).to_bytes(4, "big"), head, body))


def split_plaintext(data: bytes) -> tuple[bytes, bytes]:
    """(head bytes, body). Raises EnvelopeError."""
    size = int.from_bytes(data[:4], "big")
    if len(data) < 4 or size > MAX_HEAD or 4 + size > len(data):
        raise MALFORMED(expected="a head and a body", found=f"a head of {size} in {len(data)} bytes")
    return data[4 : 4 + size], data[4 + size :]


def encode_json(value: Any) -> bytes:
    """JSON of a head or a last chunk. Raises EnvelopeError when it is over 64 KiB."""
    data = msgspec.json.encode(value)
    if len(data) > MAX_HEAD:
        raise TOO_LARGE(expected=f"a head of at most {MAX_HEAD} bytes", found=f"{len(data)} bytes")
    return data


def error_json(error: CloisterError) -> WireFailure:
    """The sealed form of a refusal."""
    return WireFailure(error.status, {k: str(v) for k, v in error.to_wire().items()})


_REQUEST_HEAD = msgspec.json.Decoder(RequestHead)


def decode_request_head(data: bytes) -> RequestHead:
    """Parse and check a request head. Raises EnvelopeError (envelope.head)."""
    return decode_json(_REQUEST_HEAD, data, "a request head").check()


def decode_json(decoder: msgspec.json.Decoder[_T], data: bytes, what: str) -> _T:
    """Decode with msgspec; whatever it says becomes EnvelopeError (envelope.head)."""
    try:
        return decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise BAD_HEAD(expected=what, found=type(error).__name__) from None


def _match(pattern: re.Pattern[str], name: str, text: str) -> None:
    if not pattern.fullmatch(text):
        raise BAD_HEAD(expected=f"{name} of the form {pattern.pattern}", found=repr(text)[:80])
