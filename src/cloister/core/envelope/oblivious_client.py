"""Oblivious calls, the client's end: verify a worker's key, seal a request, open its answer (spec/ohttp.md 4 to 7)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from hmac import compare_digest

import msgspec

from cloister.core.encoding.hexes import from_hex, to_hex
from cloister.core.encoding.signatures import verify_signer
from cloister.core.encoding.statements import CallerSession
from cloister.core.envelope import ohttp
from cloister.core.envelope.bhttp import BinaryRequest, BinaryResponse, padded_size
from cloister.core.envelope.bhttp_client import decode_response, encode_request, encode_request_head
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
from cloister.core.envelope.oblivious import (
    BAD_FIELD,
    CALLER,
    CHECKPOINT,
    CLAIMS,
    DEADLINE,
    IDEMPOTENCY,
    MAX_ANSWER,
    RECEIPT,
    REFUSAL,
    REQUEST,
    RESERVED,
    SCHEME,
    ObliviousKey,
    kem_of,
    key_number,
    number,
)
from cloister.core.envelope.ohttp_client import choose, decode_config, encapsulate_with
from cloister.core.envelope.opener import Failed
from cloister.core.errors import CloisterError, EnvelopeError, define, from_wire
from cloister.core.keys import hpke, idsig
from cloister.core.receipts.batch import MAX_BATCH_PATH, BatchPath
from cloister.core.receipts.commitments import receipt_salt, request_commitment, response_commitment
from cloister.core.receipts.merkle import hashes_from

BAD_KEY = define(
    "oblivious.key",
    EnvelopeError,
    check="an oblivious key is a configuration of its own purpose for one key certificate, signed by worker and key",
    remedy="take another seat of the agent; do not seal to this key",
    status=403,
)
BAD_ANSWER = define(
    "oblivious.answer",
    EnvelopeError,
    check="an answer is a response with checkpoint and receipt, or a refusal with its code",
    remedy="the worker does not speak this version; take another seat",
    status=502,
)


def verify_key(shown: ObliviousKey, certificate: KeyCertificate, mpk: bytes) -> ohttp.KeyConfig:
    """The configuration to encapsulate to, for a certificate that was verified. ``mpk``: of its master epoch.

    1. it names this certificate; 2. its form, and the KEM of the certificate's suite: X-Wing where that has X-Wing;
    3. the period's key number; 4. a key of its own, not one of sealed calls; 5. the worker's signature; 6. the `call`
    key's. Raises EnvelopeError (oblivious.key, ohttp.malformed, ohttp.suite), EncodingError, ThresholdError."""
    if not compare_digest(shown.certificate, certificate.id):  # 1
        raise BAD_KEY(expected=to_hex(certificate.id)[:18], found=to_hex(shown.certificate)[:18])
    config = decode_config(shown.config)  # 2
    choose(config)
    kem = kem_of(certificate)
    if config.kem != kem:
        raise BAD_KEY(expected=f"KEM {kem:#06x}", found=f"{config.kem:#06x}")
    if config.key_id != key_number(certificate, kem):  # 3
        raise BAD_KEY(expected=f"key number {key_number(certificate, kem)}", found=str(config.key_id))
    if any(compare_digest(config.public, other) for other in (certificate.hpke_key, certificate.xwing_key or b"")):  # 4
        raise BAD_KEY(expected="a key of its own purpose", found="one of sealed calls")
    verify_signer(shown.id, shown.signature, certificate.worker)  # 5
    idsig.verify(mpk, bytes(certificate.call_identity), shown.id, shown.proof)  # 6
    return config


def meant_for(shown: ObliviousKey, certificate: KeyCertificate) -> bool:
    """Whether it says that it is the key which calls under this certificate are sealed to."""
    kem = int.from_bytes(shown.config[1:3], "big")
    return compare_digest(shown.certificate, certificate.id) and kem == kem_of(certificate)


def to_message(certificate: KeyCertificate, head: RequestHead, body: bytes) -> BinaryRequest:
    """The binary HTTP request of a call. Raises EnvelopeError: envelope.head, oblivious.field for a reserved name."""
    _need_unreserved(head.check().headers)
    own = [(name, value(certificate)) for name, value, _ in CLAIMS]
    own += [(REQUEST, head.request_id), (DEADLINE, str(head.deadline_ms))]
    if head.idempotency_key is not None:
        own.append((IDEMPOTENCY, head.idempotency_key))
    if head.caller is not None:
        own.append((CALLER, encode_json(head.caller).decode("ascii")))
    return BinaryRequest(head.method, SCHEME, to_hex(certificate.agent), head.path, (*own, *head.headers), body)


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

    data, exchange = encapsulate_with(config, build, rng)
    salt = receipt_salt(exchange.context, 0)
    return ObliviousRequest(data, exchange, salt, request_commitment(salt, kept[0], body), head.request_id)


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
            number(CHECKPOINT, ours[CHECKPOINT]),
            response.content,
            bytes(word.receipt),
            from_hex(word.signature, 65, name="receipt signature"),
            batch,
            response_commitment(salt, response.status, headers, _hash(response.content)),
        )


_FINAL = msgspec.json.Decoder(WireFinal)
_FAILURE = msgspec.json.Decoder(WireFailure)


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


def _hash(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()
