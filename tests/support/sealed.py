"""A small world for sealed-HTTP tests: real keys, a real lease, a real master key; no network."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from typing import Any

from coincurve import PrivateKey
from py_arkworks_bls12381 import Scalar

from cloister.core.encoding.signatures import Signed, SignerSet, address_of, sign_digest
from cloister.core.encoding.statements import Lease
from cloister.core.envelope.certificate import KeyCertificate, Seat
from cloister.core.envelope.client import ClientSession, Psk, SealedRequest
from cloister.core.envelope.model import RequestHead
from cloister.core.envelope.server import Limits, OpenRequest, ServerSessions
from cloister.core.keys import hpke
from cloister.core.threshold import ibe
from cloister.core.threshold.groups import G2, hash_identity, to_bytes

NETWORK, AGENT, BOOT = b"\x11" * 32, b"\x22" * 32, b"\x33" * 32
NOW = 1_700_000_000_000
ROOT = Scalar(0x1234567890ABCDEF1234567890ABCDEF)
MPK = to_bytes(G2 * ROOT)


def key(number: int) -> PrivateKey:
    return PrivateKey(number.to_bytes(32, "big"))


WORKER = key(7)
MEMBERS = [key(100 + i) for i in range(3)]
SIGNERS = SignerSet(term=1, threshold=2, members=tuple(address_of(k) for k in MEMBERS))


def lease(**changes: Any) -> Lease:
    base = Lease(
        term=1,
        agent=AGENT,
        code_hash=b"\x44" * 32,
        manifest_hash=b"\x55" * 32,
        cluster=b"\x66" * 32,
        master_epoch=1,
        cluster_epoch=2,
        agent_epoch=3,
        period=4,
        worker=address_of(WORKER),
        boot=BOOT,
        checkpoint=90,
        expiry=200,
    )
    return replace(base, **changes)


def signed(statement: Lease, members: int = 2) -> Signed:
    digest = statement.digest(NETWORK)
    return Signed(statement, tuple(sign_digest(k, digest) for k in MEMBERS[:members]))


def make_seat(hpke_key: bytes, xwing_key: bytes = b"", **changes: Any) -> Seat:
    statement = lease(**changes)
    certificate = KeyCertificate.under(statement, network=NETWORK, hpke_key=hpke_key, xwing_key=xwing_key)
    return Seat(certificate, certificate.sign(lambda d: sign_digest(WORKER, d)), signed(statement))


def derived(certificate: KeyCertificate) -> ibe.DerivedKey:
    return ibe.DerivedKey(to_bytes(hash_identity(bytes(certificate.call_identity)) * ROOT))


def psk_open(certificate: KeyCertificate, ciphertext: bytes) -> bytes:
    identity = bytes(certificate.call_identity)
    return ibe.decrypt(derived(certificate), MPK, identity, ciphertext, certificate.psk_aad)


def head(**changes: Any) -> RequestHead:
    fields: dict[str, Any] = {
        "request_id": "0x" + os.urandom(16).hex(),
        "method": "POST",
        "path": "/ask?x=1",
        "headers": (("content-type", "application/json"),),
        "deadline_ms": NOW + 30_000,
    }
    return RequestHead(**(fields | changes))


def fixed_psk(certificate: KeyCertificate) -> Psk:
    """A PSK without the pairing: for worlds whose server is told ``open_fixed``."""
    import hashlib

    ciphertext = b"sealed:" + certificate.id
    return Psk(certificate.id, b"\x77" * 32, ciphertext, hashlib.sha256(ciphertext).digest())


def open_fixed(certificate: KeyCertificate, ciphertext: bytes) -> bytes:
    assert ciphertext == b"sealed:" + certificate.id
    return b"\x77" * 32


@dataclass
class World:
    """One worker boot that serves one agent, and a client session to it. ``pairings`` uses real IBE."""

    limits: Limits = field(default_factory=Limits)
    pairings: bool = False
    boot: bytes = BOOT

    def __post_init__(self) -> None:
        self.key = hpke.private_key(os.urandom(32))
        self.seat = make_seat(self.key.public_key().public_bytes_raw(), boot=self.boot)
        self.certificate = self.seat.certificate
        self.server = ServerSessions(self.boot, os.urandom, self.limits)
        self.server.add(self.certificate, self.key)
        self.psk = Psk.encapsulate(self.certificate, MPK, os.urandom) if self.pairings else fixed_psk(self.certificate)
        self.client = self.session()

    def session(self, *, one_shot: bool = False) -> ClientSession:
        return ClientSession(self.certificate, self.psk, os.urandom, one_shot=one_shot)

    def seal(self, body: bytes = b"body", **changes: Any) -> SealedRequest:
        return self.client.seal(head(**changes), body)

    def open(self, record: bytes, now_ms: int = NOW, agent: bytes = AGENT) -> OpenRequest:
        return self.server.open_request(agent, record, now_ms, psk_open if self.pairings else open_fixed)


def answer(request: OpenRequest, body: bytes = b"answer", receipt: bytes = b'{"r":1}') -> bytes:
    """A whole good answer."""
    r = request.responder
    return r.head(200, (("content-type", "text/plain"),), 123) + r.chunk(body) + r.final(receipt, b"\x01" * 65)
