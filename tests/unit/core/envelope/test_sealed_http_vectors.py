"""spec/vectors/sealed-http.json against a second reader: standard library, pyhpke and AES-GCM, none of our envelope.

What is written out here is the specification read anew: if this file and core/envelope disagree, one of them is wrong.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
from coincurve import PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from pyhpke import AEADId, CipherSuite, KDFId, KEMId, KEMKey

VECTORS = Path(__file__).parents[4] / "spec/vectors"
DATA: dict[str, Any] = json.loads((VECTORS / "sealed-http.json").read_text())
SUITE = CipherSuite.new(KEMId.DHKEM_X25519_HKDF_SHA256, KDFId.HKDF_SHA256, AEADId.AES256_GCM)
AGENT = bytes.fromhex(DATA["seat"]["certificate"]["agent"][2:])
CALLS = {f"{call['name']} {i}": call for i, call in enumerate(DATA["calls"])}
ANSWERED = {name: call for name, call in CALLS.items() if "answer" in call}


def raw(text: str) -> bytes:
    return bytes.fromhex(text.removeprefix("0x"))


def framed(name: str, *parts: bytes) -> bytes:
    out = f"cloister/v1/{name}".encode() + b"\0"
    for part in parts:
        out += len(part).to_bytes(4, "big") + part
    return out


def hashed(name: str, *parts: bytes) -> bytes:
    return hashlib.sha256(framed(name, *parts)).digest()


def canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def address_that_signed(digest: bytes, signature: bytes) -> str:
    from Crypto.Hash import keccak

    public = PublicKey.from_signature_and_message(signature[:64] + bytes([signature[64] - 27]), digest, hasher=None)
    return "0x" + keccak.new(digest_bits=256, data=public.format(compressed=False)[1:]).digest()[-20:].hex()


def context(record: bytes) -> Any:
    key = KEMKey.from_pyca_cryptography_key(X25519PrivateKey.from_private_bytes(raw(DATA["recipient_key"])))
    info = framed("sealed/info", DATA["certificate"].encode())
    return SUITE.create_recipient_context(
        record[70:102], key, info, psk=raw(DATA["psk"]["secret"]), psk_id=record[102:134]
    )


def open_record(record: bytes) -> tuple[Any, bytes, bytes]:
    """(context, head, body)."""
    assert record[:4] == b"CLS1"
    size = int.from_bytes(record[142:144], "big")
    assert bool(size) == bool(record[5])
    seq = int.from_bytes(record[134:142], "big")
    opened = context(record)
    opened._seq = seq  # pyhpke counts by itself
    plain = opened.open(record[144 + size :], framed("sealed/request", record[:142], AGENT))
    length = int.from_bytes(plain[:4], "big")
    return opened, plain[4 : 4 + length], plain[4 + length :]


def chunks(opened: Any, seq: int, request_id: bytes, stream: bytes) -> list[tuple[int, bytes]]:
    """(final flag, plaintext) of every chunk."""
    out: list[tuple[int, bytes]] = []
    number, rand, at = seq.to_bytes(8, "big"), stream[:32], 32
    key = AESGCM(opened.export(framed("sealed/response", number, rand), 32))
    while at < len(stream):
        size, last = int.from_bytes(stream[at : at + 4], "big"), stream[at + 4]
        index = len(out)
        aad = framed("sealed/response", number, request_id, index.to_bytes(8, "big"), bytes([last]))
        out.append((last, key.decrypt(index.to_bytes(12, "big"), stream[at + 5 : at + 5 + size], aad)))
        at += 5 + size
    return out


def test_the_generator_gives_these_bytes_again() -> None:
    spec = importlib.util.spec_from_file_location("gen_sealed_http", VECTORS / "gen_sealed_http.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.build() == DATA


def test_the_certificate_is_canonical_and_named_and_signed() -> None:
    text = DATA["certificate"].encode()
    assert canonical(DATA["seat"]["certificate"]) == text
    assert raw(DATA["certificate_id"]) == hashed("key-certificate", text)
    signer = address_that_signed(raw(DATA["certificate_id"]), raw(DATA["seat"]["certificate_signature"]))
    assert signer == DATA["seat"]["certificate"]["worker"]


def test_the_psk_is_named_by_its_ciphertext() -> None:
    assert hashlib.sha256(raw(DATA["psk"]["ciphertext"])).digest() == raw(DATA["psk"]["id"])


@pytest.mark.parametrize("name", CALLS)
def test_records_open(name: str) -> None:
    call = CALLS[name]
    record = raw(call["record"])
    opened, head, body = open_record(record)
    assert (head, body) == (raw(call["head"]), raw(call["body"]))
    assert record[4] == (2 if call["name"] == "one-shot" else 1)
    assert record[38:70] == raw(DATA["certificate_id"])
    salt = opened.export(framed("receipt", call["seq"].to_bytes(8, "big")), 32)
    assert salt == raw(call["salt"])
    expected = hashed("receipt/request", salt, head, hashlib.sha256(body).digest())
    assert raw(call["request_commitment"]) == expected


@pytest.mark.parametrize("name", ANSWERED)
def test_answers_open_and_their_receipts_hold(name: str) -> None:
    call = ANSWERED[name]
    opened, head, _ = open_record(raw(call["record"]))
    request_id, answer = raw(json.loads(head)["id"]), call["answer"]
    parts = chunks(opened, call["seq"], request_id, raw(answer["stream"]))
    assert [last for last, _ in parts] == [0] * (len(parts) - 1) + [1]
    first, final = json.loads(parts[0][1]), json.loads(parts[-1][1])
    assert first == {"status": 200, "checkpoint": 123, "h": answer["headers"]}
    assert [p.decode() for _, p in parts[1:-1]] == answer["chunks"]
    receipt = answer["receipt"].encode()
    assert canonical(final["receipt"]) == receipt
    assert raw(answer["receipt_id"]) == hashed("receipt", receipt)
    signer = address_that_signed(raw(answer["receipt_id"]), raw(final["signature"]))
    assert signer == DATA["seat"]["certificate"]["worker"]
    body = "".join(answer["chunks"]).encode()
    headers = canonical(answer["headers"])
    status = answer["status"].to_bytes(2, "big")
    expected = hashed("receipt/response", raw(call["salt"]), status, headers, hashlib.sha256(body).digest())
    assert raw(answer["response_commitment"]) == expected
    assert final["receipt"]["response"] == answer["response_commitment"]
    assert final["receipt"]["request"] == call["request_commitment"]


def test_receipts_of_the_boot_are_chained() -> None:
    previous = "0x" + "00" * 32
    for number, call in enumerate(ANSWERED.values()):
        receipt = json.loads(call["answer"]["receipt"])
        assert (receipt["seq"], receipt["prev"]) == (number, previous)
        previous = call["answer"]["receipt_id"]


def test_a_refusal_is_one_final_chunk() -> None:
    (call,) = [c for c in DATA["calls"] if c["name"] == "refused"]
    opened, head, _ = open_record(raw(call["record"]))
    ((last, text),) = chunks(opened, call["seq"], raw(json.loads(head)["id"]), raw(call["error_stream"]))
    value = json.loads(text)
    assert (last, value["status"], value["error"]["code"]) == (1, 408, "envelope.deadline")


def test_the_callers_exporter_is_that_of_the_session() -> None:
    opened, head, _ = open_record(raw(DATA["calls"][0]["record"]))
    assert opened.export(framed("sealed/info", b"caller"), 32) == raw(DATA["caller"]["exporter"])
    caller = json.loads(head)["c"]
    assert caller["address"] == DATA["caller"]["address"]
    assert address_that_signed(raw(DATA["caller"]["digest"]), raw(caller["signature"])) == caller["address"]
