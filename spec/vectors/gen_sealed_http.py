"""Writes sealed-http.json: known answers for spec/sealed-http.md and spec/receipts.md, from a fixed random source.

Run it from the repository root: ``python spec/vectors/gen_sealed_http.py``. Every secret in it is a test value.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from coincurve import PrivateKey
from py_arkworks_bls12381 import Scalar

from cloister.core.encoding.hexes import to_hex
from cloister.core.encoding.signatures import Signed, address_of, sign_digest
from cloister.core.encoding.statements import CallerSession, Lease
from cloister.core.envelope.certificate import KeyCertificate, Seat
from cloister.core.envelope.client import ClientSession, Psk, SealedRequest, seal_once
from cloister.core.envelope.model import RequestHead
from cloister.core.envelope.server import DEADLINE, OpenRequest, ServerSessions
from cloister.core.keys import hpke
from cloister.core.receipts.receipt import Exchange, ReceiptChain, StateChange, Usage
from cloister.core.threshold import ibe
from cloister.core.threshold.groups import G2, hash_identity, to_bytes

PATH = Path(__file__).with_name("sealed-http.json")
NOW = 1_700_000_000_000
ROOT = Scalar(0x1234567890ABCDEF1234567890ABCDEF)
MPK = to_bytes(G2 * ROOT)
NETWORK = b"\x11" * 32


def stream(seed: str) -> Callable[[int], bytes]:
    """SHAKE-256 of seed and call number."""
    calls = 0

    def read(size: int) -> bytes:
        nonlocal calls
        calls += 1
        return hashlib.shake_256(f"{seed}/{calls}".encode()).digest(size)

    return read


def key(number: int) -> PrivateKey:
    """A test key."""
    return PrivateKey(number.to_bytes(32, "big"))


def make_seat(public: bytes) -> Seat:
    """A lease by two members, and the worker's certificate under it."""
    lease = Lease(
        term=1,
        agent=b"\x22" * 32,
        code_hash=b"\x44" * 32,
        manifest_hash=b"\x55" * 32,
        cluster=b"\x66" * 32,
        master_epoch=1,
        cluster_epoch=2,
        agent_epoch=3,
        period=4,
        worker=address_of(key(7)),
        boot=b"\x33" * 32,
        checkpoint=90,
        expiry=200,
    )
    certificate = KeyCertificate.under(lease, network=NETWORK, hpke_key=public)
    signatures = tuple(sign_digest(key(n), lease.digest(NETWORK)) for n in (100, 101))
    return Seat(certificate, certificate.sign(lambda d: sign_digest(key(7), d)), Signed(lease, signatures))


def request_head(number: int) -> RequestHead:
    """A head with every field in use."""
    return RequestHead(
        request_id="0x" + f"{number:032x}",
        method="POST",
        path="/ask?x=1",
        headers=(("content-type", "application/json"), ("x-note", "é")),
        deadline_ms=NOW + 30_000,
        idempotency_key="order 7",
    )


def _request(name: str, sealed: SealedRequest, body: bytes) -> dict[str, Any]:
    return {
        "name": name,
        "seq": sealed.seq,
        "head": to_hex(sealed.head_bytes),
        "body": to_hex(body),
        "record": to_hex(sealed.data),
        "salt": to_hex(sealed.salt),
        "request_commitment": to_hex(sealed.commitment),
    }


def _answer(opened: OpenRequest, certificate: KeyCertificate, receipts: ReceiptChain) -> dict[str, Any]:
    r = opened.responder
    headers = (("content-type", "text/plain"), ("x-note", "é"))
    parts = [r.head(200, headers, 123), r.chunk(b"hello "), r.chunk(b"world")]
    commitment = r.commitment(opened.salt)
    exchange = Exchange(bytes.fromhex(opened.head.request_id[2:]), 200, opened.commitment(), commitment)
    receipt, signature = receipts.issue(
        certificate,
        exchange,
        checkpoint=123,
        host_time_ms=NOW,
        state=StateChange(b"\x01" * 32, b"\x02" * 32, "local"),
        usage=Usage(1, 2, 3, 4, 5, 6, 7),
    )
    parts.append(r.final(receipt.encoded, signature))
    return {
        "stream": to_hex(b"".join(parts)),
        "status": 200,
        "headers": [list(h) for h in headers],
        "checkpoint": 123,
        "chunks": ["hello ", "world"],
        "response_commitment": to_hex(commitment),
        "receipt": receipt.encoded.decode(),
        "receipt_id": to_hex(receipt.id),
        "signature": to_hex(signature),
    }


def build() -> dict[str, Any]:
    """Everything, as JSON-ready values."""
    recipient = hpke.private_key(stream("recipient")(32))
    seat = make_seat(recipient.public_key().public_bytes_raw())
    certificate = seat.certificate
    psk = Psk.encapsulate(certificate, MPK, stream("psk"))
    derived = ibe.DerivedKey(to_bytes(hash_identity(bytes(certificate.call_identity)) * ROOT))

    def psk_open(cert: KeyCertificate, ciphertext: bytes) -> bytes:
        return ibe.decrypt(derived, MPK, bytes(cert.call_identity), ciphertext, cert.psk_aad)

    server = ServerSessions(certificate.boot, stream("server"))
    server.add(certificate, recipient)
    receipts = ReceiptChain(certificate.worker, certificate.boot, lambda d: sign_digest(key(7), d))
    session = ClientSession(certificate, psk, stream("session"))
    wallet, expiry = key(55), NOW // 1000 + 60
    session.authenticate(address_of(wallet), expiry, lambda d: sign_digest(wallet, d))
    calls = []
    for number, body in ((0, b"first"), (1, b"")):
        sealed = session.seal(request_head(number), body, with_ibe=number == 0)
        opened = server.open_request(certificate.agent, sealed.data, NOW, psk_open)
        calls.append(_request("session", sealed, body) | {"answer": _answer(opened, certificate, receipts)})
    once = seal_once(certificate, psk, request_head(2), b"once", stream("once"))
    opened = server.open_request(certificate.agent, once.data, NOW, psk_open)
    calls.append(_request("one-shot", once, b"once") | {"answer": _answer(opened, certificate, receipts)})
    failing = session.seal(request_head(3), b"fails", with_ibe=False)
    opened = server.open_request(certificate.agent, failing.data, NOW, psk_open)
    error = DEADLINE(expected="an example", found="another")
    calls.append(_request("refused", failing, b"fails") | {"error_stream": to_hex(opened.responder.error(error))})
    caller = CallerSession(certificate.agent, certificate.boot, session.exporter, expiry)
    return {
        "note": "Known answers for spec/sealed-http.md and spec/receipts.md. Every secret is a test value.",
        "mpk": to_hex(MPK),
        "derived_key": to_hex(derived.point),
        "call_identity": to_hex(bytes(certificate.call_identity)),
        "recipient_key": to_hex(recipient.private_bytes_raw()),
        "seat": seat.to_json(),
        "certificate": certificate.encoded.decode(),
        "certificate_id": to_hex(certificate.id),
        "members": [to_hex(address_of(key(n))) for n in (100, 101, 102)],
        "psk": {"secret": to_hex(psk.secret), "id": to_hex(psk.id), "ciphertext": to_hex(psk.ciphertext)},
        "caller": {
            "exporter": to_hex(session.exporter),
            "address": to_hex(address_of(wallet)),
            "digest": to_hex(caller.digest(NETWORK)),
        },
        "calls": calls,
    }


def main() -> None:
    """Write the file."""
    PATH.write_text(json.dumps(build(), indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
