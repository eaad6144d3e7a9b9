"""Oblivious calls: a worker's key for them, and what stands in a request and its answer (spec/ohttp.md 3 to 6).

The key has a purpose of its own. It comes from the agent's `call` key of the period and is certified twice: by the
worker, under its key certificate, and by that `call` key. Both ends of a call are here; ``oblivious_door.py`` opens.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from hmac import compare_digest
from typing import Any, Final

import msgspec

from cloister.core.encoding.contexts import Context, digest
from cloister.core.encoding.hexes import from_hex, need_fields, to_hex
from cloister.core.encoding.signatures import verify_signer
from cloister.core.encoding.statements import CallerSession
from cloister.core.envelope import ohttp
from cloister.core.envelope.bhttp import (
    BinaryRequest,
    BinaryResponse,
    decode_response,
    encode_request,
    encode_request_head,
    padded_size,
)
from cloister.core.envelope.certificate import KeyCertificate
from cloister.core.envelope.model import (
    CALLER_EXPORT,
    MAX_HEAD,
    AgentProof,
    Caller,
    CallerKind,
    Headers,
    RequestHead,
    WireFailure,
    WireFinal,
    decode_json,
    encode_json,
)
from cloister.core.envelope.opener import Failed
from cloister.core.errors import CloisterError, EnvelopeError, Refusal, define, from_wire
from cloister.core.keys import hpke
from cloister.core.receipts.batch import MAX_BATCH_PATH, BatchPath
from cloister.core.receipts.commitments import receipt_salt, request_commitment, response_commitment
from cloister.core.receipts.merkle import hashes_from
from cloister.core.threshold import idsig
from cloister.core.threshold.ibe import DerivedKey

MAX_BODY: Final = 8 << 20
MAX_ANSWER: Final = 16 << 20
RESERVED: Final = "cloister-"
SCHEME: Final = "https"
CHECKPOINT: Final = "cloister-checkpoint"
REFUSAL: Final = "cloister-refusal"
RECEIPT: Final = "cloister-receipt"
_REQUEST: Final = "cloister-request"
_DEADLINE: Final = "cloister-deadline"
_IDEM: Final = "cloister-idempotency-key"
_CALLER: Final = "cloister-caller"
_OPTIONAL: Final = (_IDEM, _CALLER)
_FRAMING: Final = 64

BAD_KEY = define(
    "oblivious.key",
    EnvelopeError,
    check="an oblivious key is a configuration of its own purpose for one key certificate, signed by worker and key",
    remedy="take another seat of the agent; do not seal to this key",
    status=403,
)
BAD_FIELD = define(
    "oblivious.field",
    EnvelopeError,
    check="a request has every field that spec/ohttp.md 5 demands, once and in its form, and no other of that name",
    remedy="use a client of this version, or compare the request with spec/ohttp.md 5",
)
WRONG_AGENT = define(
    "oblivious.agent",
    EnvelopeError,
    check="the request names the agent that it was sent to",
    remedy="build the request anew for this agent",
    status=421,
)
WRONG_BOOT = define(
    "oblivious.boot",
    EnvelopeError,
    check="the request names this start of this worker",
    remedy="fetch the agent's seats again and build the request for a worker that runs now",
    status=421,
)
WRONG_EPOCHS = define(
    "oblivious.epochs",
    EnvelopeError,
    check="the request names the epochs of the agent's keys here",
    remedy="fetch the agent's seats again: its keys have changed",
    status=421,
)
WRONG_PERIOD = define(
    "oblivious.period",
    EnvelopeError,
    check="the request names the period of the key that it was sealed to",
    remedy="fetch the agent's seats again: periods end",
    status=421,
)
WRONG_CODE = define(
    "oblivious.code",
    EnvelopeError,
    check="the request names the code that this worker runs for the agent",
    remedy="look at what changed before you call the agent's new code",
    status=421,
)
WRONG_CERTIFICATE = define(
    "oblivious.certificate",
    EnvelopeError,
    check="the request names the key certificate that its key belongs to",
    remedy="fetch the agent's seats and oblivious keys again",
    status=421,
)
BAD_ANSWER = define(
    "oblivious.answer",
    EnvelopeError,
    check="an answer is a response with checkpoint and receipt, or a refusal with its code",
    remedy="the worker does not speak this version; take another seat",
    status=502,
)
# What a request must say of the certificate that it is for: field, value, refusal.
_CLAIMS: Final[tuple[tuple[str, Callable[[KeyCertificate], str], Refusal], ...]] = (
    ("cloister-boot", lambda c: to_hex(c.boot), WRONG_BOOT),
    ("cloister-epochs", lambda c: f"{c.master_epoch}/{c.cluster_epoch}/{c.agent_epoch}", WRONG_EPOCHS),
    ("cloister-period", lambda c: str(c.period), WRONG_PERIOD),
    ("cloister-code", lambda c: to_hex(c.code_hash), WRONG_CODE),
    ("cloister-certificate", lambda c: to_hex(c.id), WRONG_CERTIFICATE),
)
_MANDATORY: Final = (*(name for name, _, _ in _CLAIMS), _REQUEST, _DEADLINE)


@dataclass(frozen=True, slots=True)
class ObliviousKey:
    """A key configuration (RFC 9458) for one key certificate, as workers show it. Nothing counts before ``verify``.

    ``certificate``: the certificate's id, 32 bytes. ``signature``: the worker's, 65 bytes; ``proof``: 96 bytes by the
    agent's `call` key of the period. Both are over ``id``."""

    certificate: bytes
    config: bytes
    signature: bytes
    proof: bytes

    @property
    def id(self) -> bytes:
        """digest(OBLIVIOUS_KEY, certificate, config): what is signed. 32 bytes."""
        return digest(Context.OBLIVIOUS_KEY, self.certificate, self.config)

    def verify(self, certificate: KeyCertificate, mpk: bytes) -> ohttp.KeyConfig:
        """The configuration to encapsulate to, for a certificate that was verified. ``mpk``: of its master epoch.

        1. it names this certificate; 2. its form; 3. the period's key number; 4. a key of its own, not the session
        key; 5. the worker's signature; 6. the `call` key's. Raises EnvelopeError (oblivious.key, ohttp.malformed,
        ohttp.suite), EncodingError, ThresholdError."""
        if not compare_digest(self.certificate, certificate.id):  # 1
            raise BAD_KEY(expected=to_hex(certificate.id)[:18], found=to_hex(self.certificate)[:18])
        config = ohttp.KeyConfig.decode(self.config)  # 2
        config.choose()
        if config.key_id != key_number(certificate):  # 3
            raise BAD_KEY(expected=f"key number {key_number(certificate)}", found=str(config.key_id))
        if compare_digest(config.public, certificate.hpke_key):  # 4
            raise BAD_KEY(expected="a key of its own purpose", found="the key of sealed calls")
        verify_signer(self.id, self.signature, certificate.worker)  # 5
        idsig.verify(mpk, bytes(certificate.call_identity), self.id, self.proof)  # 6
        return config

    def to_json(self) -> dict[str, Any]:
        """JSON-ready: {certificate, config, signature, proof}, all hex."""
        return {name: to_hex(getattr(self, name)) for name in self.__slots__}

    @classmethod
    def from_json(cls, value: object) -> ObliviousKey:
        """Parse ``to_json`` output. Raises EncodingError."""
        data = need_fields("oblivious key", value, set(cls.__slots__))
        return cls(
            from_hex(data["certificate"], 32, name="certificate id"),
            from_hex(data["config"], name="key configuration", max_size=ohttp.MAX_CONFIG),
            from_hex(data["signature"], 65, name="worker signature"),
            from_hex(data["proof"], idsig.SIGNATURE_SIZE, name="proof"),
        )


def key_number(certificate: KeyCertificate) -> int:
    """The key identifier of a certificate's oblivious key: its period modulo 256."""
    return certificate.period % 256


def issue(
    certificate: KeyCertificate, call: DerivedKey, mpk: bytes, sign: Callable[[bytes], bytes], rng: hpke.Rng
) -> tuple[ObliviousKey, ohttp.Recipient]:
    """The oblivious key of a certificate, and what opens requests to it. ``call``: the agent's `call` key of the
    period; ``sign(digest 32) -> 65``: the worker's attested key.

    The private key is derived from ``call`` and 32 random bytes that are kept nowhere: without the lease it cannot be
    made, and when it is erased nobody makes it again."""
    secret = call.symmetric(Context.OBLIVIOUS_KEY, certificate.id + rng(32))
    public = hpke.private_key(secret).public_key().public_bytes_raw()
    config = ohttp.KeyConfig(key_number(certificate), public)
    bare = ObliviousKey(certificate.id, config.encode(), b"", b"")
    proof = idsig.sign(call, mpk, bytes(certificate.call_identity), bare.id, rng)
    return replace(bare, signature=sign(bare.id), proof=proof), ohttp.Recipient(secret, config)


# --- a request ---


def to_message(certificate: KeyCertificate, head: RequestHead, body: bytes) -> BinaryRequest:
    """The binary HTTP request of a call. Raises EnvelopeError: envelope.head, oblivious.field for a reserved name."""
    _need_unreserved(head.check().headers)
    own = [(name, value(certificate)) for name, value, _ in _CLAIMS]
    own += [(_REQUEST, head.request_id), (_DEADLINE, str(head.deadline_ms))]
    if head.idempotency_key is not None:
        own.append((_IDEM, head.idempotency_key))
    if head.caller is not None:
        own.append((_CALLER, encode_json(head.caller).decode("ascii")))
    return BinaryRequest(head.method, SCHEME, to_hex(certificate.agent), head.path, (*own, *head.headers), body)


def from_message(message: BinaryRequest, certificate: KeyCertificate) -> RequestHead:
    """The head of a call, held against the certificate whose key opened it. ``headers`` are the agent's alone.

    1. scheme and agent; 2. every field of ours once, none unknown, no trailers; 3. boot, epochs, period, code and
    certificate; 4. the form of the rest. Raises EnvelopeError by name."""
    if message.scheme != SCHEME or message.authority != to_hex(certificate.agent):  # 1
        raise WRONG_AGENT(expected=to_hex(certificate.agent), found=f"{message.scheme}://{message.authority}"[:80])
    ours = [pair for pair in message.headers if pair[0].startswith(RESERVED)]
    said = dict(ours)
    if len(said) != len(ours) or not set(_MANDATORY) <= set(said) <= {*_MANDATORY, *_OPTIONAL}:  # 2
        raise BAD_FIELD(expected=f"{', '.join(_MANDATORY)}, each once", found=", ".join(n for n, _ in ours)[:200])
    if message.trailers:
        raise BAD_FIELD(expected="no trailers", found=f"{len(message.trailers)}")
    for name, value, refusal in _CLAIMS:  # 3
        if said[name] != value(certificate):
            raise refusal(expected=value(certificate)[:80], found=said[name][:80])
    return RequestHead(  # 4
        request_id=said[_REQUEST],
        method=message.method,
        path=message.path,
        deadline_ms=_number(_DEADLINE, said[_DEADLINE]),
        headers=tuple(pair for pair in message.headers if not pair[0].startswith(RESERVED)),
        idempotency_key=said.get(_IDEM),
        caller=_caller(said[_CALLER]) if _CALLER in said else None,
    ).check()


@dataclass(frozen=True, slots=True, repr=False)
class ObliviousRequest:
    """A call ready to send, and what opens its answer. ``salt`` and ``commitment`` belong to the receipt."""

    data: bytes
    exchange: ohttp.Exchange
    salt: bytes
    commitment: bytes
    request_id: str

    def open(self, data: bytes) -> Answer | Failed:
        """The answer, or the worker's refusal, which is authentic too. Raises EnvelopeError for what is neither."""
        message = self.exchange.open_response(data, max_size=MAX_ANSWER)
        return Answer.of(decode_response(message, max_content=MAX_ANSWER), self.salt)


Sign = Callable[[bytes], bytes]


@dataclass(frozen=True, slots=True)
class Speaker:
    """Who calls: address, the expiry of the word (Unix seconds), ``sign(digest 32)``, and what ``model.Caller`` has."""

    address: bytes
    expiry: int
    sign: Sign
    agent: AgentProof | None = None
    kind: CallerKind = "wallet"

    def caller(self, certificate: KeyCertificate, context: hpke.Context) -> Caller:
        """The word for one context."""
        exporter = context.export(CALLER_EXPORT, 32)
        session = CallerSession(agent=certificate.agent, boot=certificate.boot, exporter=exporter, expiry=self.expiry)
        signature = to_hex(self.sign(session.digest(certificate.network)))
        return Caller(to_hex(self.address), self.expiry, signature, self.agent, self.kind)


def seal(
    config: ohttp.KeyConfig,
    certificate: KeyCertificate,
    head: RequestHead,
    body: bytes,
    rng: hpke.Rng,
    speaker: Speaker | None = None,
) -> ObliviousRequest:
    """One request, padded, in a context of its own. ``config``: what ``ObliviousKey.verify`` gave for ``certificate``.

    Raises EnvelopeError: envelope.head, oblivious.field, bhttp.too_large."""
    kept: list[bytes] = []

    def build(exchange: ohttp.Exchange) -> bytes:
        caller = head.caller if speaker is None else speaker.caller(certificate, exchange.context)
        message = to_message(certificate, msgspec.structs.replace(head, caller=caller), body)
        kept.append(encode_request_head(message))
        bare = encode_request(message)
        return bare.ljust(padded_size(len(bare)), b"\0")

    data, exchange = ohttp.encapsulate_with(config, build, rng)
    salt = receipt_salt(exchange.context, 0)
    return ObliviousRequest(data, exchange, salt, request_commitment(salt, kept[0], body), head.request_id)


def max_request(body: int = MAX_BODY) -> int:
    """Bytes of an encapsulated request with a body of at most ``body`` bytes."""
    return padded_size(body + 2 * MAX_HEAD + _FRAMING) + ohttp.HDR_SIZE + hpke.ENC_SIZE + hpke.TAG_SIZE


# --- an answer ---


@dataclass(frozen=True, slots=True)
class Answer:
    """A good answer. ``receipt``: canonical bytes; ``commitment``: what the receipt must say of this response."""

    status: int
    headers: Headers
    checkpoint: int
    body: bytes
    receipt: bytes
    signature: bytes
    batch: BatchPath | None
    commitment: bytes

    @classmethod
    def of(cls, response: BinaryResponse, salt: bytes) -> Answer | Failed:
        """Take a response apart. Raises EnvelopeError: oblivious.answer, envelope.head, oblivious.field."""
        ours = dict(pair for pair in response.headers if pair[0].startswith(RESERVED))
        if REFUSAL in ours:
            return Failed(_refusal(response, ours[REFUSAL]))
        final = dict(response.trailers)
        if set(ours) != {CHECKPOINT} or set(final) != {RECEIPT} or len(response.trailers) != 1:
            raise BAD_ANSWER(expected="one checkpoint and one receipt", found=", ".join([*ours, *final])[:120])
        headers = tuple(pair for pair in response.headers if not pair[0].startswith(RESERVED))
        if len(headers) + 1 != len(response.headers):
            raise BAD_ANSWER(expected="one checkpoint", found="several")
        word = decode_json(_FINAL, final[RECEIPT].encode("latin-1"), "a receipt and a signature")
        said = word.batch
        batch = None if said is None else BatchPath(said.first, said.size, hashes_from(said.path, MAX_BATCH_PATH))
        return cls(
            response.status,
            headers,
            _number(CHECKPOINT, ours[CHECKPOINT]),
            response.content,
            bytes(word.receipt),
            from_hex(word.signature, 65, name="receipt signature"),
            batch,
            response_commitment(salt, response.status, headers, _hash(response.content)),
        )


_FINAL = msgspec.json.Decoder(WireFinal)
_FAILURE = msgspec.json.Decoder(WireFailure)
_CALLERS = msgspec.json.Decoder(Caller)


def _refusal(response: BinaryResponse, code: str) -> CloisterError:
    failure = decode_json(_FAILURE, response.content[: MAX_HEAD + 1], "a failure")
    error = from_wire(failure.error, status=failure.status)
    if not 400 <= failure.status <= 599 or error.code != code:
        raise BAD_ANSWER(expected="a refusal that says what its field says", found=f"{failure.status} {code}"[:80])
    return error


def _need_unreserved(headers: Headers) -> None:
    for name, _ in headers:
        if name.startswith(RESERVED):
            raise BAD_FIELD(expected=f"no header whose name begins with {RESERVED}", found=name[:80])


def _caller(text: str) -> Caller:
    return decode_json(_CALLERS, text.encode("latin-1"), "a caller")


def _number(name: str, text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 16 or (text[0] == "0" and text != "0"):
        raise BAD_FIELD(expected=f"{name} as a number", found=text[:40])
    return int(text)


def _hash(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()
