"""spec/vectors/callers.json: checked by plain hashing, and by a worker that opens the record."""

from __future__ import annotations

import hashlib
import hmac
import importlib.util
import json
import os
from pathlib import Path
from typing import Any

import pytest

from cloister.core.encoding.hexes import from_hex, to_hex
from cloister.core.envelope.certificate import KeyCertificate
from cloister.core.envelope.model import decode_record, decode_request_head
from cloister.core.envelope.server import ServerSessions
from cloister.core.errors import CloisterError
from cloister.core.keys import hpke
from cloister.core.keys.xwing import XWingKey

FOLDER = Path(__file__).parents[4] / "spec" / "vectors"
VECTORS: dict[str, Any] = json.loads((FOLDER / "callers.json").read_text())
CALLERS, XWING = VECTORS["callers"], VECTORS["xwing"]
NOW = 1_700_000_000_000


def raw(value: str) -> bytes:
    return from_hex(value, name="vector")


def test_the_generator_writes_this_file() -> None:
    spec = importlib.util.spec_from_file_location("gen_callers", FOLDER / "gen_callers.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.build(XWING) == VECTORS
    made = module.xwing()
    changing = {"record", "exporter", "salt", "request_commitment"}
    assert {k: v for k, v in made.items() if k not in changing} == {
        k: v for k, v in XWING.items() if k not in changing
    }, "only what ML-KEM's randomness decides differs"


def test_an_api_key_by_hand() -> None:
    def framed(*parts: bytes) -> bytes:
        return b"cloister/v1/api-key\0" + b"".join(len(p).to_bytes(4, "big") + p for p in parts)

    secret = bytes.fromhex(CALLERS["api_key"]["text"].removeprefix("clk1_"))
    mac_key = hashlib.sha256(framed(b"mac", secret)).digest()
    assert to_hex(mac_key) == CALLERS["api_key"]["mac_key"]
    assert to_hex(hashlib.sha256(framed(b"id", mac_key)).digest()[:20]) == CALLERS["api_key"]["id"]
    mac = hmac.new(mac_key, framed(b"session", raw(CALLERS["digest"])), "sha256").hexdigest()
    assert "0x" + mac == CALLERS["mac"]


@pytest.mark.parametrize(
    ("name", "kind", "size"), [("head_by_key", "apikey", 32), ("head_by_contract", "contract", 97)]
)
def test_heads_read_back(name: str, kind: str, size: int) -> None:
    head = decode_request_head(CALLERS[name].encode())
    assert head.caller is not None
    assert (head.caller.kind, len(head.caller.parts()[1])) == (kind, size)


def test_a_worker_opens_the_record_under_x_wing() -> None:
    certificate = KeyCertificate.decode(XWING["certificate"].encode())
    assert to_hex(certificate.id) == XWING["certificate_id"]
    server = ServerSessions(certificate.boot, os.urandom)
    server.add(certificate, hpke.private_key(raw(XWING["hpke_private_key"])), XWingKey(raw(XWING["seed"])))
    request = server.open_request(certificate.agent, raw(XWING["record"]), NOW, lambda c, ibe: raw(XWING["psk"]))
    assert request.body == XWING["body"].encode()
    assert to_hex(request.salt) == XWING["salt"]
    assert to_hex(request.commitment()) == XWING["request_commitment"]


def test_the_record_by_the_layout_of_the_specification() -> None:
    data = raw(XWING["record"])
    record = decode_record(data, max_size=len(data))
    assert data[:6] == b"CLS1\x01\x03"
    assert int.from_bytes(data[142:144], "big") == 1120 + len(record.ibe)
    assert data[70:102] == hashlib.sha256(data[144 : 144 + 1120]).digest()
    assert data[102:134] == hashlib.sha256(record.ibe).digest()
    secret = XWingKey(raw(XWING["seed"])).decapsulate(data[144 : 144 + 1120])
    assert len(secret) == 32


def test_another_certificates_info_does_not_open_it() -> None:
    certificate = KeyCertificate.decode(XWING["certificate"].encode())
    data = raw(XWING["record"])
    record = decode_record(data, max_size=len(data))
    recipient = hpke.Recipient(XWingKey(raw(XWING["seed"])), certificate.info + b"\0")
    context = recipient.context(record.kem, psk=raw(XWING["psk"]), psk_id=record.psk_id)
    with pytest.raises(CloisterError, match=r"seal\.hpke_open"):
        context.open_at(0, record.aad(certificate.agent), record.ciphertext)
