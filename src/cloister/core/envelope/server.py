"""The worker's end of sealed HTTP: keys by certificate, PSKs, sessions, replay (spec/sealed-http.md 6, 9).

Time is an argument. Heights come from checkpoints and end certificates (``advance``); ``now_ms`` serves deadlines only
and is held monotone here, so that a host that turns its clock back re-opens nothing.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from hmac import compare_digest
from typing import Final

import msgspec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from cloister.core.encoding.hexes import need_bytes, to_hex
from cloister.core.encoding.signatures import verify_signer
from cloister.core.encoding.statements import CallerSession
from cloister.core.envelope.certificate import WRONG_SUITE, KeyCertificate
from cloister.core.envelope.model import (
    CALLER_EXPORT,
    HEADER,
    KIND_ONE_SHOT,
    MAX_HEAD,
    MAX_IBE,
    PSK_SIZE,
    TAG,
    TOO_LARGE,
    AgentProof,
    Caller,
    CallerKind,
    Record,
    RequestHead,
    decode_record,
    decode_request_head,
    split_plaintext,
)
from cloister.core.envelope.replay import REPLAY, ReplayWindow, Retired
from cloister.core.envelope.stream import NOT_AUTHENTIC, Responder
from cloister.core.errors import CloisterError, EnvelopeError, SealError, define
from cloister.core.keys import hpke
from cloister.core.keys.xwing import XWingKey
from cloister.core.receipts.commitments import receipt_salt, request_commitment

PskOpen = Callable[[KeyCertificate, bytes], bytes]
MAX_DEADLINE_MS: Final = 10 * 60 * 1000
_OVERHEAD: Final = HEADER.size + 2 + MAX_IBE + 4 + MAX_HEAD + TAG

WRONG_BOOT = define(
    "envelope.wrong_boot",
    EnvelopeError,
    check="the request was sealed to this start of this worker",
    remedy="fetch the agent's seats again and seal to a worker that runs now",
    status=421,
)
CERTIFICATE_UNKNOWN = define(
    "envelope.certificate_unknown",
    EnvelopeError,
    check="the worker holds the key of the certificate that the request was sealed to",
    remedy="fetch the agent's seats again: periods and leases end",
    status=421,
)
PSK_UNKNOWN = define(
    "envelope.psk_unknown",
    EnvelopeError,
    check="the worker has the session, or the request brings the IBE ciphertext of its pre-shared key",
    remedy="repeat the request with the IBE ciphertext of the key",
    status=425,
)
PSK_MISMATCH = define(
    "envelope.psk_mismatch",
    EnvelopeError,
    check="psk_id is the hash of the IBE ciphertext, and it opens to 32 bytes",
    remedy="encapsulate the pre-shared key again, to the certificate of this request",
)
ENC_MISMATCH = define(
    "envelope.enc_mismatch",
    EnvelopeError,
    check="the record's enc is the hash of the X-Wing encapsulation that it brings",
    remedy="seal the request again; the record was altered on its way",
)
SESSION_EXPIRED = define(
    "envelope.session_expired",
    EnvelopeError,
    check="the worker still has the session",
    remedy="open a new session and seal the request again",
    status=421,
)
DEADLINE = define(
    "envelope.deadline",
    EnvelopeError,
    check="the deadline is ahead, by at most 10 minutes",
    remedy="set a later deadline; check the clock of this machine",
    status=408,
)
BAD_CALLER = define(
    "envelope.caller",
    EnvelopeError,
    check="the caller signed for this very session and the signature has not expired",
    remedy="sign a CallerSession over this session's exporter, agent and boot",
    status=403,
)


@dataclass(frozen=True, slots=True)
class Limits:
    """Caps. body: plaintext bytes of a request; sessions: live contexts; retired: remembered dead ones; psks."""

    body: int = 8 << 20
    sessions: int = 8192
    psks: int = 8192
    retired: int = 1 << 18


class SealedRefusalError(EnvelopeError):
    """A refusal after the record opened: ``sealed`` is the whole answer, readable by the caller alone."""

    def __init__(self, error: CloisterError, sealed: bytes) -> None:
        super().__init__(
            code=error.code,
            check=error.check,
            expected=error.expected,
            found=error.found,
            remedy=error.remedy,
            status=error.status,
        )
        self.sealed = sealed


@dataclass(frozen=True, slots=True)
class Claim:
    """A word over a session that only others can verify: the CallerSession's digest (32 bytes) and what came with it:
    a contract account's signature, or an API key's MAC."""

    digest: bytes
    word: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class VerifiedCaller:
    """Whose session it is. address: 20 bytes; expiry: Unix seconds. A wallet's signature has been verified.

    ``agent`` (what a wallet says of the agent whose key it is) and ``claim`` (of every other kind) have not:
    worker/callers.py does, at every request and before anything runs."""

    address: bytes
    expiry: int
    agent: AgentProof | None = None
    kind: CallerKind = "wallet"
    claim: Claim | None = None


@dataclass(slots=True, repr=False)
class _Session:
    """One HPKE context. ``horizon`` is the latest deadline accepted under it, Unix ms.

    ``begun``: a record that may bring the caller has passed. Until then the session is nobody's."""

    certificate: KeyCertificate
    context: hpke.Context
    window: ReplayWindow = field(default_factory=ReplayWindow)
    horizon: int = 0
    begun: bool = False
    caller: VerifiedCaller | None = None


class OpenRequest(msgspec.Struct, frozen=True):
    """An authentic request. ``session_id`` is the sender's enc (32 bytes); ``responder`` seals the answer."""

    head: RequestHead
    body: bytes
    caller: VerifiedCaller | None
    responder: Responder
    session_id: bytes
    certificate: KeyCertificate
    seq: int
    head_bytes: bytes
    salt: bytes

    def __repr__(self) -> str:
        return f"OpenRequest({self.head.request_id})"

    def commitment(self) -> bytes:
        """The receipt's salted commitment to the request. 32 bytes."""
        return request_commitment(self.salt, self.head_bytes, self.body)


@dataclass(slots=True, repr=False)
class _Held:
    """A certificate's private keys, and the PSKs that came under it. ``hybrid``: of X-Wing, where it has one."""

    certificate: KeyCertificate
    recipient: hpke.Recipient
    hybrid: hpke.Recipient | None = None
    psks: OrderedDict[bytes, bytes] = field(default_factory=OrderedDict)


class ServerSessions:
    """All sealed sessions of one worker boot. Not for use by several threads at once."""

    def __init__(self, boot: bytes, rng: hpke.Rng, limits: Limits | None = None) -> None:
        self._boot = need_bytes("boot", boot, 32)
        self._rng = rng
        self._limits = limits or Limits()
        self._held: dict[bytes, _Held] = {}
        self._sessions: OrderedDict[bytes, _Session] = OrderedDict()
        self._retired = Retired(self._limits.retired)
        self._ended: set[bytes] = set()
        self._now = 0

    def add(self, certificate: KeyCertificate, key: X25519PrivateKey | bytes, xwing: XWingKey | None = None) -> None:
        """Serve requests sealed to this certificate, until it ends. A second ``add`` of it changes nothing.

        Raises ValueError for a certificate of another boot or another key, or one that has ended."""
        recipient = hpke.Recipient(key, certificate.info)
        hybrid = None if xwing is None else hpke.Recipient(xwing, certificate.info)
        if certificate.boot != self._boot or recipient.public != certificate.hpke_key:
            raise ValueError("the certificate is of another boot or another key")
        if certificate.xwing_key != (b"" if hybrid is None else hybrid.public):
            raise ValueError("the certificate is of another X-Wing key")
        if certificate.id in self._ended:
            raise ValueError("the certificate has ended: its replay memory is gone")
        self._held.setdefault(certificate.id, _Held(certificate, recipient, hybrid))

    def erase(self, agent: bytes, period: int) -> None:
        """Drop the keys, PSKs and sessions of one agent's period: nothing sealed to it opens again."""
        self._drop(lambda c: c.agent == agent and c.period == period)

    def erase_agent(self, agent: bytes) -> None:
        """Drop everything of one agent."""
        self._drop(lambda c: c.agent == agent)

    def erase_version(self, agent: bytes, code: bytes) -> None:
        """Drop everything of one version of an agent, by its code hash."""
        self._drop(lambda c: c.agent == agent and c.code_hash == code)

    def advance(self, height: int) -> list[KeyCertificate]:
        """A checkpoint of ``height`` was verified: drop and return the certificates that it ends."""
        return self._drop(lambda c: c.expiry <= height)

    @property
    def certificates(self) -> list[KeyCertificate]:
        """What is served now."""
        return [held.certificate for held in self._held.values()]

    def open_request(self, agent: bytes, record: bytes, now_ms: int, psk_open: PskOpen) -> OpenRequest:
        """Open one record for ``agent``. ``psk_open(certificate, ibe ciphertext)`` decrypts by the agent's call key.

        The numbers are those of spec/sealed-http.md 6. Raises EnvelopeError by name; ``SealedRefusalError`` (steps 10
        and 11) carries the sealed answer; whatever ``psk_open`` raises of CloisterError passes through.
        """
        self._now = max(self._now, now_ms)
        self._retired.forget(self._now)
        parsed = decode_record(record, max_size=self._limits.body + _OVERHEAD)  # 1
        if parsed.boot != self._boot:  # 2
            raise WRONG_BOOT(expected=to_hex(self._boot)[:18], found=to_hex(parsed.boot)[:18])
        held = self._held.get(parsed.certificate_id)
        if held is None or held.certificate.agent != agent:  # 3
            raise CERTIFICATE_UNKNOWN(expected="a certificate held now", found=to_hex(parsed.certificate_id)[:18])
        if parsed.xwing and held.hybrid is None:
            raise WRONG_SUITE(expected="a suite of the certificate", found="X-Wing")
        if parsed.xwing and parsed.ibe and not compare_digest(hashlib.sha256(parsed.kem).digest(), parsed.enc):  # 4
            raise ENC_MISMATCH(expected="the hash of the encapsulation", found=to_hex(parsed.enc)[:18])
        if parsed.ibe and not compare_digest(hashlib.sha256(parsed.ibe).digest(), parsed.psk_id):  # 4
            raise PSK_MISMATCH(expected="the hash of the ciphertext", found=to_hex(parsed.psk_id)[:18])
        session, psk, name = self._session(held, parsed, psk_open)  # 5, 6
        session.window.check(parsed.seq)  # 7
        try:
            plaintext = session.context.open_at(parsed.seq, parsed.aad(agent), parsed.ciphertext)  # 8
        except SealError:
            raise NOT_AUTHENTIC(expected="a request sealed to this certificate", found="other bytes") from None
        session.window.mark(parsed.seq)
        if psk is not None:
            self._remember(held, parsed, name, session, psk)
        return self._opened(session, parsed, plaintext)  # 9, 10, 11

    def _session(self, held: _Held, parsed: Record, psk_open: PskOpen) -> tuple[_Session, bytes | None, bytes]:
        """Steps 5 and 6: the session that the record names, or a new one with the psk to remember if it opens."""
        name = parsed.certificate_id + parsed.enc + parsed.psk_id
        session = self._sessions.get(name)
        if session is not None and parsed.kind != KIND_ONE_SHOT:
            if not session.begun and not parsed.ibe:
                raise PSK_UNKNOWN(expected="a session that has begun or an IBE ciphertext", found="neither")
            self._sessions.move_to_end(name)
            return session, None, name
        served = self._retired.get(parsed.enc)
        if served is not None or session is not None:  # 5
            error = SESSION_EXPIRED if served is False else REPLAY
            raise error(expected="a context that is not over", found=to_hex(parsed.enc)[:18])
        self._retired.need_room(2)
        psk = self._psk(held, parsed, psk_open)  # 6
        recipient = held.hybrid if parsed.xwing and held.hybrid is not None else held.recipient
        context = recipient.context(parsed.kem, psk=psk, psk_id=parsed.psk_id)
        return _Session(held.certificate, context), psk, name

    def _psk(self, held: _Held, parsed: Record, psk_open: PskOpen) -> bytes:
        if not parsed.ibe:  # even if the psk is known: only a record that may bring the caller begins a session
            raise PSK_UNKNOWN(expected="a known session or an IBE ciphertext", found=to_hex(parsed.psk_id)[:18])
        known = held.psks.get(parsed.psk_id)
        if known is not None:
            held.psks.move_to_end(parsed.psk_id)
            return known
        psk = psk_open(held.certificate, parsed.ibe)
        if len(psk) != PSK_SIZE:
            raise PSK_MISMATCH(expected=f"{PSK_SIZE} bytes", found=f"{len(psk)} bytes")
        return psk

    def _remember(self, held: _Held, parsed: Record, name: bytes, session: _Session, psk: bytes) -> None:
        """Keep the PSK and the session, now that the record proved authentic."""
        held.psks[parsed.psk_id] = psk
        if len(held.psks) > self._limits.psks:
            held.psks.popitem(last=False)
        if parsed.kind == KIND_ONE_SHOT:
            return
        self._sessions[name] = session
        if len(self._sessions) > self._limits.sessions:
            oldest, gone = self._sessions.popitem(last=False)
            self._retired.add(oldest[32:64], gone.horizon, one_shot=False)

    def _opened(self, session: _Session, parsed: Record, plaintext: bytes) -> OpenRequest:
        head_bytes, body = split_plaintext(plaintext)  # 9
        if len(body) > self._limits.body:
            raise TOO_LARGE(expected=f"a body of at most {self._limits.body} bytes", found=f"{len(body)} bytes")
        head = decode_request_head(head_bytes)
        responder = Responder(session.context, parsed.seq, bytes.fromhex(head.request_id[2:]), self._rng)
        try:
            self._check_deadline(head, session)  # 10
            caller = self._caller(head.caller, session)  # 11
        except CloisterError as error:
            raise SealedRefusalError(error, responder.error(error)) from None
        session.begun = True
        if parsed.kind == KIND_ONE_SHOT:
            self._retired.add(parsed.enc, head.deadline_ms, one_shot=True)
        salt = receipt_salt(session.context, parsed.seq)
        return OpenRequest(head, body, caller, responder, parsed.enc, session.certificate, parsed.seq, head_bytes, salt)

    def _check_deadline(self, head: RequestHead, session: _Session) -> None:
        need_deadline(head, self._now)
        session.horizon = max(session.horizon, head.deadline_ms)

    def _caller(self, given: Caller | None, session: _Session) -> VerifiedCaller | None:
        """Step 11: the caller that this session belongs to, verified once."""
        session.caller = caller_of(given, session.certificate, session.context, session.caller, self._now)
        return session.caller

    def _drop(self, ends: Callable[[KeyCertificate], bool]) -> list[KeyCertificate]:
        gone = {name: held.certificate for name, held in self._held.items() if ends(held.certificate)}
        for name in gone:
            del self._held[name]
        self._ended.update(gone)
        for name in [n for n, s in self._sessions.items() if s.certificate.id in gone]:
            del self._sessions[name]
        return list(gone.values())


def need_deadline(head: RequestHead, now_ms: int) -> None:
    """Step 10. Raises EnvelopeError (envelope.deadline)."""
    ahead = head.deadline_ms - now_ms
    if not 0 < ahead <= MAX_DEADLINE_MS:
        raise DEADLINE(expected="1 ms to 10 minutes ahead of the worker's clock", found=f"{ahead} ms")


def caller_of(
    given: Caller | None, certificate: KeyCertificate, context: hpke.Context, known: VerifiedCaller | None, now_ms: int
) -> VerifiedCaller | None:
    """Step 11 for one context: whom the request is from, given what it says and who was ``known`` before.

    Raises EnvelopeError (envelope.caller), EncodingError."""
    caller = known if given is None else _verified(given, certificate, context, known)
    if caller is not None and caller.expiry * 1000 <= now_ms:
        raise BAD_CALLER(expected="an expiry ahead", found=f"{caller.expiry} (Unix seconds)")
    return caller


def _verified(
    given: Caller, certificate: KeyCertificate, context: hpke.Context, known: VerifiedCaller | None
) -> VerifiedCaller:
    """1. the form of its kind; 2. the session's own caller, if it has one; 3. a wallet's signature."""
    address, word = given.parts()  # 1
    if given.agent is not None and given.kind != "wallet":
        raise BAD_CALLER(expected="an agent that calls by its wallet", found=given.kind)
    caller = VerifiedCaller(address, given.expiry, given.agent, given.kind)
    if known == caller:
        return caller
    if known is not None and (known.kind, known.address) != (given.kind, address):  # 2
        raise BAD_CALLER(expected="the caller that opened the session", found=f"{given.kind} {to_hex(address)}")
    exporter = context.export(CALLER_EXPORT, 32)
    statement = CallerSession(agent=certificate.agent, boot=certificate.boot, exporter=exporter, expiry=given.expiry)
    digest = statement.digest(certificate.network)
    if given.kind != "wallet":
        return replace(caller, claim=Claim(digest, word))
    try:
        verify_signer(digest, word, address)  # 3
    except CloisterError:
        raise BAD_CALLER(expected=f"a signature of {to_hex(address)} over this session", found="another") from None
    return caller
