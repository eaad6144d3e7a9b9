"""The client's end of sealed HTTP: PSKs, sessions, one-shot requests (spec/sealed-http.md 2 to 5, 9).

A session is one HPKE context towards one worker's certificate. Verify the certificate first
(``certificate.verify_certificate``): this module seals to whatever it is given.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import msgspec

from cloister.core.encoding.hexes import from_hex, to_hex
from cloister.core.encoding.statements import CallerSession
from cloister.core.envelope.certificate import XWING_SUITE, KeyCertificate
from cloister.core.envelope.model import (
    CALLER_EXPORT,
    FLAG_IBE,
    FLAG_XWING,
    HEADER,
    KIND_ONE_SHOT,
    KIND_SESSION,
    MAGIC,
    PSK_SIZE,
    AgentProof,
    Caller,
    CallerKind,
    RequestHead,
    encode_json,
    encode_plaintext,
    encode_record,
    request_aad,
)
from cloister.core.envelope.opener import Opener
from cloister.core.keys import hpke
from cloister.core.receipts.commitments import receipt_salt, request_commitment
from cloister.core.threshold import ibe

MAX_RESPONSE: Final = 64 << 20


@dataclass(frozen=True, slots=True, repr=False)
class Psk:
    """A pre-shared key that only workers leased the agent in that period can open.

    ``id`` is SHA-256 of ``ciphertext``; ``certificate_id`` says which certificate it serves."""

    certificate_id: bytes
    secret: bytes
    ciphertext: bytes
    id: bytes

    @classmethod
    def encapsulate(cls, certificate: KeyCertificate, mpk: bytes, rng: hpke.Rng) -> Psk:
        """Draw a PSK and encrypt it to the agent's `call` key of the certificate's period. mpk: 96 bytes."""
        secret = rng(PSK_SIZE)
        ciphertext = ibe.encrypt(mpk, bytes(certificate.call_identity), secret, certificate.psk_aad, rng)
        return cls(certificate.id, secret, ciphertext, hashlib.sha256(ciphertext).digest())


@dataclass(frozen=True, slots=True, repr=False)
class SealedRequest:
    """A record ready to send. ``opener`` opens its answer; ``salt`` and ``commitment`` belong to its receipt."""

    data: bytes
    seq: int
    opener: Opener
    salt: bytes
    head_bytes: bytes
    commitment: bytes
    request_id: str

    def __bytes__(self) -> bytes:
        return self.data


class ClientSession:
    """Many requests to one worker boot under one HPKE context. Not for use by several threads at once.

    ``confirmed`` turns true when a first answer's head opened: from then on the worker has the PSK and the caller.
    A refusal confirms nothing: it may come before the worker looks at the caller.
    """

    def __init__(
        self,
        certificate: KeyCertificate,
        psk: Psk,
        rng: hpke.Rng,
        *,
        one_shot: bool = False,
        xwing: bool | None = None,
    ) -> None:
        """``xwing``: whether to use that suite; None: if and only if the certificate has it."""
        if psk.certificate_id != certificate.id:
            raise ValueError("this PSK was encapsulated for another certificate")
        self.certificate = certificate
        self.confirmed = False
        self._psk = psk
        self._kind = KIND_ONE_SHOT if one_shot else KIND_SESSION
        self._xwing = certificate.suite == XWING_SUITE if xwing is None else xwing
        public = certificate.xwing_key if self._xwing else certificate.hpke_key
        enc, self._context = hpke.setup_sender(public, certificate.info, psk=psk.secret, psk_id=psk.id, rng=rng)
        self._enc = hashlib.sha256(enc).digest() if self._xwing else enc
        self._sent = (enc if self._xwing else b"") + psk.ciphertext
        self._next = 0
        self._caller: Caller | None = None
        self._caller_known = False

    @property
    def exporter(self) -> bytes:
        """The 32 bytes that a caller's wallet signs in ``CallerSession``."""
        return self._context.export(CALLER_EXPORT, 32)

    def authenticate(
        self,
        address: bytes,
        expiry: int,
        sign: Callable[[bytes], bytes],
        agent: AgentProof | None = None,
        *,
        kind: CallerKind = "wallet",
    ) -> None:
        """Open the session as somebody: ``sign`` makes the word of this ``kind`` (model.Caller) over a 32-byte EIP-712
        digest, expiry is Unix seconds.

        ``agent``: that the wallet is an agent's key. The word goes with every request until the worker has it."""
        cert = self.certificate
        statement = CallerSession(agent=cert.agent, boot=cert.boot, exporter=self.exporter, expiry=expiry)
        signature = sign(statement.digest(cert.network))
        self._caller, self._caller_known = Caller(to_hex(address), expiry, to_hex(signature), agent, kind), False

    def seal(
        self, head: RequestHead, body: bytes, *, with_ibe: bool | None = None, max_body: int = MAX_RESPONSE
    ) -> SealedRequest:
        """Seal the next request. ``with_ibe`` None sends the IBE ciphertext until the worker has the PSK.

        The caller goes with every IBE ciphertext, since a record that has one may open a new session at the worker.
        ``max_body`` caps the answer's body. Every call takes a new sequence number, repeats included.
        Raises EnvelopeError for a head out of form, RuntimeError for a second request of a one-shot."""
        if self._kind == KIND_ONE_SHOT and self._next:
            raise RuntimeError("a one-shot context seals one request")
        sends_ibe = not self.confirmed if with_ibe is None else with_ibe
        if self._caller is not None and head.caller is None and (sends_ibe or not self._caller_known):
            head = msgspec.structs.replace(head, caller=self._caller)
        head_bytes = encode_json(head.check())
        seq, self._next = self._next, self._next + 1
        cert, flags = self.certificate, FLAG_IBE * sends_ibe | FLAG_XWING * self._xwing
        header = HEADER.pack(MAGIC, self._kind, flags, cert.boot, cert.id, self._enc, self._psk.id, seq)
        sealed = self._context.seal_at(seq, request_aad(header, cert.agent), encode_plaintext(head_bytes, body))
        salt = receipt_salt(self._context, seq)
        return SealedRequest(
            data=encode_record(header, self._sent if sends_ibe else b"", sealed),
            seq=seq,
            opener=self._opener(seq, head, max_body),
            salt=salt,
            head_bytes=head_bytes,
            commitment=request_commitment(salt, head_bytes, body),
            request_id=head.request_id,
        )

    def forget(self) -> None:
        """The worker said that it lost the PSK (envelope.psk_unknown): send the IBE ciphertext again."""
        self.confirmed = self._caller_known = False

    def _opener(self, seq: int, head: RequestHead, max_body: int) -> Opener:
        raw, sent = from_hex(head.request_id, 16, name="request id"), head.caller

        def confirm(answered: bool) -> None:
            self.confirmed = self.confirmed or answered
            if answered and sent is not None and sent is self._caller:
                self._caller_known = True

        return Opener(self._context, seq, raw, max_body=max_body, on_authentic=confirm)


def seal_once(
    certificate: KeyCertificate,
    psk: Psk,
    head: RequestHead,
    body: bytes,
    rng: hpke.Rng,
    *,
    max_body: int = MAX_RESPONSE,
) -> SealedRequest:
    """One request in a context of its own: no session to keep, one X25519 exchange dearer for both ends."""
    session = ClientSession(certificate, psk, rng, one_shot=True)
    return session.seal(head, body, with_ibe=True, max_body=max_body)
