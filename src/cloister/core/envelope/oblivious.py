"""Oblivious calls: a worker's key for them, and what stands in a request and its answer (spec/ohttp.md 3 to 6).

The key has a purpose of its own. It comes from the agent's `call` key of the period and is certified twice: by the
worker, under its key certificate, and by that `call` key. Callers use ``oblivious_client.py``, workers
``oblivious_door.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import msgspec

from cloister.core.encoding.contexts import Context, digest
from cloister.core.encoding.hexes import from_hex, need_fields, to_hex
from cloister.core.envelope import ohttp
from cloister.core.envelope.bhttp import BinaryRequest, padded_size
from cloister.core.envelope.certificate import XWING_SUITE, KeyCertificate
from cloister.core.envelope.model import MAX_HEAD, Caller, RequestHead, decode_json
from cloister.core.errors import EnvelopeError, Refusal, define
from cloister.core.keys import hpke, idsig
from cloister.core.keys.xwing import ENC_SIZE, XWingKey

if TYPE_CHECKING:
    from cloister.core.threshold.ibe import DerivedKey

MAX_BODY: Final = 8 << 20
MAX_ANSWER: Final = 16 << 20
RESERVED: Final = "cloister-"
SCHEME: Final = "https"
CHECKPOINT: Final = "cloister-checkpoint"
REFUSAL: Final = "cloister-refusal"
RECEIPT: Final = "cloister-receipt"
# Of an answer in chunks that failed after its head.
FAILURE: Final = "cloister-failure"
REQUEST: Final = "cloister-request"
DEADLINE: Final = "cloister-deadline"
IDEMPOTENCY: Final = "cloister-idempotency-key"
CALLER: Final = "cloister-caller"
_OPTIONAL: Final = (IDEMPOTENCY, CALLER)
_FRAMING: Final = 64

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
# What a request must say of the certificate that it is for: field, value, refusal.
CLAIMS: Final[tuple[tuple[str, Callable[[KeyCertificate], str], Refusal], ...]] = (
    ("cloister-boot", lambda c: to_hex(c.boot), WRONG_BOOT),
    ("cloister-epochs", lambda c: f"{c.master_epoch}/{c.cluster_epoch}/{c.agent_epoch}", WRONG_EPOCHS),
    ("cloister-period", lambda c: str(c.period), WRONG_PERIOD),
    ("cloister-code", lambda c: to_hex(c.code_hash), WRONG_CODE),
    ("cloister-certificate", lambda c: to_hex(c.id), WRONG_CERTIFICATE),
)
_MANDATORY: Final = (*(name for name, _, _ in CLAIMS), REQUEST, DEADLINE)


@dataclass(frozen=True, slots=True)
class ObliviousKey:
    """A key configuration (RFC 9458) for one key certificate, as workers show it. Nothing counts before ``verify_key``.

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


def key_number(certificate: KeyCertificate, kem: int) -> int:
    """The key identifier of a certificate's oblivious key: its period modulo 256, and half way round for X-Wing."""
    return (certificate.period + (128 if kem == ohttp.KEM_XWING else 0)) % 256


def kem_of(certificate: KeyCertificate) -> int:
    """The KEM that our clients seal to under this certificate, and no other: X-Wing where it has X-Wing."""
    return ohttp.KEM_XWING if certificate.suite == XWING_SUITE else ohttp.KEM_X25519


Issued = tuple[ObliviousKey, ohttp.Recipient]


def issue(
    certificate: KeyCertificate, call: DerivedKey, mpk: bytes, sign: Callable[[bytes], bytes], rng: hpke.Rng
) -> tuple[Issued, ...]:
    """The oblivious keys of a certificate, each with what opens requests to it: of X25519 and, where the certificate
    has X-Wing, of X-Wing. ``call``: the agent's `call` key of the period; ``sign(digest 32) -> 65``: the worker's
    attested key.

    Each private key is derived from ``call`` and 32 random bytes that are kept nowhere: without the lease it cannot be
    made, and when it is erased nobody makes it again."""
    made: list[Issued] = []
    for kem in dict.fromkeys((ohttp.KEM_X25519, kem_of(certificate))):
        secret = call.symmetric(Context.OBLIVIOUS_KEY, certificate.id + rng(32))
        key = XWingKey(secret) if kem == ohttp.KEM_XWING else hpke.private_key(secret)
        public = key.public if isinstance(key, XWingKey) else key.public_key().public_bytes_raw()
        config = ohttp.KeyConfig(key_number(certificate, kem), public)
        bare = ObliviousKey(certificate.id, config.encode(), b"", b"")
        proof = idsig.sign(call, mpk, bytes(certificate.call_identity), bare.id, rng)
        made.append((replace(bare, signature=sign(bare.id), proof=proof), ohttp.Recipient(key, config)))
    return tuple(made)


# --- a request ---


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
    for name, value, refusal in CLAIMS:  # 3
        if said[name] != value(certificate):
            raise refusal(expected=value(certificate)[:80], found=said[name][:80])
    return RequestHead(  # 4
        request_id=said[REQUEST],
        method=message.method,
        path=message.path,
        deadline_ms=number(DEADLINE, said[DEADLINE]),
        headers=tuple(pair for pair in message.headers if not pair[0].startswith(RESERVED)),
        idempotency_key=said.get(IDEMPOTENCY),
        caller=_caller(said[CALLER]) if CALLER in said else None,
    ).check()


def max_request(body: int = MAX_BODY) -> int:
    """Bytes of an encapsulated request with a body of at most ``body`` bytes, in one chunk or in the most."""
    message = padded_size(body + 2 * MAX_HEAD + _FRAMING)
    return message + ohttp.HDR_SIZE + ENC_SIZE + ohttp.MAX_CHUNKS * (4 + hpke.TAG_SIZE)


_CALLERS = msgspec.json.Decoder(Caller)


def _caller(text: str) -> Caller:
    return decode_json(_CALLERS, text.encode("latin-1"), "a caller")


def number(name: str, text: str) -> int:
    """A number as fields have it. Raises EnvelopeError (oblivious.field)."""
    if not text.isascii() or not text.isdigit() or len(text) > 16 or (text[0] == "0" and text != "0"):
        raise BAD_FIELD(expected=f"{name} as a number", found=text[:40])
    return int(text)
