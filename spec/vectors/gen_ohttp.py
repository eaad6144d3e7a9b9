"""Writes ohttp.json: the examples of RFC 9458 and of the draft of chunked messages, and known answers for
spec/ohttp.md, from a fixed random source.

Run it from the repository root: ``python spec/vectors/gen_ohttp.py``. Every secret in it is a test value.
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
from cloister.core.encoding.signatures import address_of, sign_digest
from cloister.core.encoding.statements import Lease
from cloister.core.envelope import bhttp, bhttp_client, oblivious, oblivious_client, ohttp
from cloister.core.envelope.certificate import KeyCertificate
from cloister.core.envelope.model import RequestHead
from cloister.core.envelope.oblivious_door import ObliviousDoor
from cloister.core.envelope.server import DEADLINE, OpenRequest
from cloister.core.keys import hpke
from cloister.core.keys.xwing import XWingKey
from cloister.core.receipts.receipt import Exchange, ReceiptChain, StateChange, Usage
from cloister.core.threshold import ibe
from cloister.core.threshold.groups import G2, hash_identity, to_bytes

PATH = Path(__file__).with_name("ohttp.json")
NOW = 1_700_000_000_000
ROOT = Scalar(0x1234567890ABCDEF1234567890ABCDEF)
MPK = to_bytes(G2 * ROOT)
NETWORK = b"\x11" * 32
# RFC 9458, Appendix A.
RFC = {
    "gateway_key": "0x3c168975674b2fa8e465970b79c8dcf09f1c741626480bd4c6162fc5b6a98e1a",
    "key_config": "0x01002031e1f05a740102115220e9af918f738674aec95f54db6e04eb705aae8e79815500080001000100010003",
    "request": "0x00034745540568747470730b6578616d706c652e636f6d012f",
    "client_ephemeral": "0xbc51d5e930bda26589890ac7032f70ad12e4ecb37abb1b65b1256c9c48999c73",
    "encapsulated_request": (
        "0x010020000100014b28f881333e7c164ffc499ad9796f877f4e1051ee6d31bad19dec96c208b472"
        "6374e469135906992e1268c594d2a10c695d858c40a026e7965e7d86b83dd440b2c0185204b4d63525"
    ),
    "response": "0x0140c8",
    "encapsulated_response": "0xc789e7151fcba46158ca84b04464910d86f9013e404feea014e7be4a441f234f857fbd",
}

# draft-ietf-ohai-chunked-ohttp, Appendix A: a request of three chunks, an answer of three.
DRAFT = {
    "gateway_key": "0x1c190d72acdbe4dbc69e680503bb781a932c70a12c8f3754434c67d8640d8698",
    "key_config": "0x010020668eb21aace159803974a4c67f08b4152d29bed10735fd08f98ccdd6fe09570800080001000100010003",
    "client_ephemeral": "0xb26d565f3f875ed480d1abced3d665159650c99174fd0b124ac4bda0c64ae324",
    "request": "0x00034745540568747470730b6578616d706c652e636f6d012f",
    "encapsulated_request": (
        "0x010020000100018811eb457e100811c40a0aa71340a1b81d804bb986f736f2f566a7199761a032"
        "1c2ad24942d4d692563012f2980c8fef437a336b9b2fc938ef77a5834f"
        "1d2e33d8fd25577afe31bd1c79d094f76b6250ae6549b473ecd950501311"
        "001c6c1395d0ef7c1022297966307b8a7f"
    ),
    "response_chunks": ["0x01", "0x40c8", "0x"],
    "encapsulated_response": (
        "0xbcce7f4cb921309ba5d62edf1769ef091179bf1cc87fa0e2c02de4546945aa3d1e48"
        "12b348b5bd4c594c16b6170b07b475845d1f3200ed9d8a796617a5b27265f4d73247f639"
    ),
}


def stream(seed: str) -> Callable[[int], bytes]:
    """SHAKE-256 of seed and call number."""
    calls = 0

    def read(size: int) -> bytes:
        nonlocal calls
        calls += 1
        return hashlib.shake_256(f"{seed}/{calls}".encode()).digest(size)

    return read


WORKER = PrivateKey((7).to_bytes(32, "big"))


def sign(digest: bytes) -> bytes:
    """The worker's."""
    return sign_digest(WORKER, digest)


def make_certificate(xwing_key: bytes = b"") -> KeyCertificate:
    """The one of the other vectors' worker."""
    lease = Lease(
        term=1,
        agent=b"\x22" * 32,
        code_hash=b"\x44" * 32,
        manifest_hash=b"\x55" * 32,
        cluster=b"\x66" * 32,
        master_epoch=1,
        cluster_epoch=2,
        agent_epoch=3,
        period=260,
        worker=address_of(WORKER),
        boot=b"\x33" * 32,
        checkpoint=90,
        expiry=200,
    )
    public = hpke.private_key(stream("session key")(32)).public_key().public_bytes_raw()
    return KeyCertificate.under(lease, network=NETWORK, hpke_key=public, xwing_key=xwing_key)


def call_key(certificate: KeyCertificate) -> ibe.DerivedKey:
    """The agent's `call` key of the period."""
    return ibe.DerivedKey(to_bytes(hash_identity(bytes(certificate.call_identity)) * ROOT))


def messages() -> dict[str, Any]:
    """Binary HTTP in both framings, and the fields that they hold."""
    asked = bhttp.BinaryRequest(
        "POST", "https", "agent.example", "/ask?x=1", (("a", "b"), ("c", "")), b"body", (("t", "u"),)
    )
    told = bhttp.BinaryResponse(200, (("a", "b"),), b"body", (("t", "u"),), ((103, (("link", "</x>"),)),))
    return {
        "request": to_hex(bhttp_client.encode_request(asked, size=96)),
        "request_indeterminate": to_hex(bhttp_client.encode_request(asked, indeterminate=True)),
        "request_head": to_hex(bhttp_client.encode_request_head(asked)),
        "request_fields": {
            "method": asked.method,
            "scheme": asked.scheme,
            "authority": asked.authority,
            "path": asked.path,
            "headers": asked.headers,
            "content": to_hex(asked.content),
            "trailers": asked.trailers,
        },
        "response": to_hex(bhttp.encode_response(told)),
        "response_indeterminate": to_hex(bhttp.encode_response(told, indeterminate=True, size=96)),
        "response_fields": {
            "status": told.status,
            "headers": told.headers,
            "content": to_hex(told.content),
            "trailers": told.trailers,
            "informational": told.informational,
        },
    }


def answer(request: OpenRequest) -> tuple[bytes, dict[str, Any]]:
    """A good answer with its receipt."""
    responder = request.responder
    responder.head(200, (("content-type", "application/json"),), 123)
    responder.chunk(b'{"ok":true}')
    commitment = responder.commitment(request.salt)
    chain = ReceiptChain(request.certificate.worker, request.certificate.boot, sign)
    exchange = Exchange(bytes.fromhex(request.head.request_id[2:]), 200, request.commitment(), commitment)
    receipt, signature = chain.issue(
        request.certificate, exchange, checkpoint=123, host_time_ms=NOW, state=StateChange(), usage=Usage()
    )
    facts = {
        "request_commitment": to_hex(request.commitment()),
        "response_commitment": to_hex(commitment),
        "receipt": receipt.encoded.decode(),
        "receipt_signature": to_hex(signature),
    }
    return responder.final(receipt.encoded, signature), facts


def call() -> dict[str, Any]:
    """A key, a request, its answer, and a refusal, each whole."""
    certificate = make_certificate()
    ((shown, recipient),) = oblivious.issue(certificate, call_key(certificate), MPK, sign, stream("key"))
    config = oblivious_client.verify_key(shown, certificate, MPK)
    head = RequestHead(
        request_id="0x" + f"{1:032x}",
        method="POST",
        path="/ask?x=1",
        headers=(("content-type", "application/json"),),
        deadline_ms=NOW + 30_000,
        idempotency_key="once",
    )
    body = b'{"q":"what?"}'
    sealed = oblivious_client.seal(config, certificate, head, body, stream("client"))
    door = ObliviousDoor(stream("worker"))
    request = door.open_request(sealed.data, NOW, [(certificate, recipient)])
    told, facts = answer(request)
    refused = ObliviousDoor(stream("refusing")).open_request
    try:
        refused(sealed.data, NOW + 60_000, [(certificate, recipient)])
    except Exception as error:
        refusal = error.sealed  # type: ignore[attr-defined]
    return {
        "mpk": to_hex(MPK),
        "certificate": certificate.encoded.decode(),
        "key": shown.to_json(),
        "ohttp_keys": to_hex(ohttp.encode_configs((config,))),
        "client_random": to_hex(stream("client")(32)),
        "head": {
            "id": head.request_id,
            "m": head.method,
            "p": head.path,
            "h": head.headers,
            "d": head.deadline_ms,
            "idem": head.idempotency_key,
        },
        "body": to_hex(body),
        "message": to_hex(recipient.open(sealed.data, max_size=1 << 20)[0]),
        "encapsulated_request": to_hex(sealed.data),
        "encapsulated_response": to_hex(told),
        "encapsulated_refusal": to_hex(refusal),
        "refusal": DEADLINE.code,
        "status": 200,
        "checkpoint": 123,
        "answer": to_hex(b'{"ok":true}'),
        **facts,
    }


def chunked() -> dict[str, Any]:
    """A request for an answer in chunks, and three answers to it: good, failed after its head, refused."""
    certificate = make_certificate()
    ((shown, recipient),) = oblivious.issue(certificate, call_key(certificate), MPK, sign, stream("key"))
    config = oblivious_client.verify_key(shown, certificate, MPK)
    head = RequestHead(request_id="0x" + f"{2:032x}", method="GET", path="/stream", deadline_ms=NOW + 30_000)
    sealed = oblivious_client.seal(config, certificate, head, b"", stream("client"), chunked=True)

    def opened(seed: str) -> OpenRequest:
        return ObliviousDoor(stream(seed)).open_request(sealed.data, NOW, [(certificate, recipient)], chunked=True)

    request = opened("streaming")
    responder, pieces = request.responder, (b"one ", bytes(range(256)) * 65, b"three")
    told = responder.head(200, (("content-type", "text/event-stream"),), 123)
    told += b"".join(responder.chunk(piece) for piece in pieces)
    commitment = responder.commitment(request.salt)
    receipt = b'{"r":1}'
    told += responder.final(receipt, b"\x01" * 65)
    broken = opened("failing").responder
    failed = broken.head(200, (), 123) + broken.chunk(b"half") + broken.error(DEADLINE(expected="é", found="b"))
    refused = opened("refusing").responder.error(DEADLINE(expected="a", found="b"))
    return {
        "draft": DRAFT,
        "certificate": certificate.encoded.decode(),
        "key": shown.to_json(),
        "mpk": to_hex(MPK),
        "client_random": to_hex(stream("client")(32)),
        "head": {"id": head.request_id, "m": head.method, "p": head.path, "h": [], "d": head.deadline_ms},
        "encapsulated_request": to_hex(sealed.data),
        "encapsulated_response": to_hex(told),
        "status": 200,
        "checkpoint": 123,
        "answer_sha256": to_hex(hashlib.sha256(b"".join(pieces)).digest()),
        "request_commitment": to_hex(request.commitment()),
        "response_commitment": to_hex(commitment),
        "receipt": receipt.decode(),
        "encapsulated_failure": to_hex(failed),
        "encapsulated_refusal": to_hex(refused),
        "refusal": DEADLINE.code,
    }


def hybrid() -> dict[str, Any]:
    """A certificate with X-Wing and both its keys: clients take the second and refuse the first."""
    certificate = make_certificate(XWingKey(stream("x-wing")(32)).public)
    issued = oblivious.issue(certificate, call_key(certificate), MPK, sign, stream("keys"))
    oblivious_client.verify_key(issued[1][0], certificate, MPK)
    return {
        "mpk": to_hex(MPK),
        "certificate": certificate.encoded.decode(),
        "keys": [shown.to_json() for shown, _ in issued],
        "refused": oblivious_client.BAD_KEY.code,
    }


def build() -> dict[str, Any]:
    """The whole file."""
    return {
        "comment": "RFC 9458, chunked messages, and known answers for spec/ohttp.md. Secrets are test values.",
        "rfc9458": RFC,
        "bhttp": messages(),
        "call": call(),
        "chunked": chunked(),
        "xwing": hybrid(),
    }


if __name__ == "__main__":
    PATH.write_text(json.dumps(build(), indent=2) + "\n")
