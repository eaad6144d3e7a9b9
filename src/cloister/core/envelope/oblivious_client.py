"""Oblivious calls, the client's end: verify a worker's key, seal a request (spec/ohttp.md 4 to 6). Answers are opened
by ``oblivious_answer.py``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from hmac import compare_digest

import msgspec

from cloister.core.encoding.hexes import to_hex
from cloister.core.encoding.signatures import verify_signer
from cloister.core.encoding.statements import CallerSession
from cloister.core.envelope import ohttp
from cloister.core.envelope.bhttp import BinaryRequest, padded_size
from cloister.core.envelope.bhttp_client import encode_request, encode_request_head
from cloister.core.envelope.certificate import KeyCertificate
from cloister.core.envelope.model import (
    CALLER_EXPORT,
    AgentProof,
    Caller,
    CallerKind,
    Headers,
    RequestHead,
    encode_json,
)
from cloister.core.envelope.oblivious import (
    BAD_FIELD,
    CALLER,
    CLAIMS,
    DEADLINE,
    IDEMPOTENCY,
    REQUEST,
    RESERVED,
    SCHEME,
    ObliviousKey,
    kem_of,
    key_number,
)
from cloister.core.envelope.oblivious_answer import StreamOpener, WholeOpener, opener_of
from cloister.core.envelope.ohttp_client import choose, decode_config, encapsulate_with
from cloister.core.errors import EnvelopeError, define
from cloister.core.keys import hpke, idsig
from cloister.core.receipts.commitments import receipt_salt, request_commitment

BAD_KEY = define(
    "oblivious.key",
    EnvelopeError,
    check="an oblivious key is a configuration of its own purpose for one key certificate, signed by worker and key",
    remedy="take another seat of the agent; do not seal to this key",
    status=403,
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
    """A call ready to send. ``opener`` opens its answer; ``salt`` and ``commitment`` belong to its receipt."""

    data: bytes
    opener: WholeOpener | StreamOpener
    salt: bytes
    commitment: bytes
    request_id: str


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
    *,
    chunked: bool = False,
) -> ObliviousRequest:
    """One request, padded, in a context of its own. ``config``: what ``verify_key`` gave for ``certificate``;
    ``chunked``: the answer comes in chunks.

    Raises EnvelopeError: envelope.head, oblivious.field, bhttp.too_large."""
    kept: list[bytes] = []

    def build(exchange: ohttp.Exchange) -> bytes:
        caller = head.caller if speaker is None else speaker.caller(certificate, exchange.context)
        message = to_message(certificate, msgspec.structs.replace(head, caller=caller), body)
        kept.append(encode_request_head(message))
        bare = encode_request(message)
        return bare.ljust(padded_size(len(bare)), b"\0")

    data, exchange = encapsulate_with(config, build, rng, chunked=chunked)
    salt = receipt_salt(exchange.context, 0)
    commitment = request_commitment(salt, kept[0], body)
    return ObliviousRequest(data, opener_of(exchange), salt, commitment, head.request_id)


def _need_unreserved(headers: Headers) -> None:
    for name, _ in headers:
        if name.startswith(RESERVED):
            raise BAD_FIELD(expected=f"no header whose name begins with {RESERVED}", found=name[:80])
