"""spec/vectors/xwing.json: made by the TypeScript client from given random bytes, opened here by a worker."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from cloister.core.encoding.hexes import from_hex, to_hex
from cloister.core.envelope.certificate import KeyCertificate
from cloister.core.envelope.server import OpenRequest, ServerSessions
from cloister.core.errors import CloisterError
from cloister.core.keys import hpke
from cloister.core.keys.xwing import ENC_SIZE, XWingKey

FOLDER = Path(__file__).parents[4] / "spec" / "vectors"
MADE: dict[str, Any] = json.loads((FOLDER / "xwing.json").read_text())
GIVEN: dict[str, Any] = json.loads((FOLDER / "callers.json").read_text())["xwing"]
KEY = XWingKey(from_hex(GIVEN["seed"], 32))
NOW = 1_700_000_000_000


def opened(record: bytes) -> OpenRequest:
    certificate = KeyCertificate.decode(GIVEN["certificate"].encode())
    server = ServerSessions(certificate.boot, os.urandom)
    server.add(certificate, hpke.private_key(from_hex(GIVEN["hpke_private_key"], 32)), KEY)
    return server.open_request(certificate.agent, record, NOW, lambda c, ibe: from_hex(GIVEN["psk"], 32))


def test_the_encapsulation_opens_to_the_shared_secret() -> None:
    enc = from_hex(MADE["encapsulation"], ENC_SIZE)
    assert to_hex(KEY.decapsulate(enc)) == MADE["shared"]
    point = hpke.private_key(from_hex(MADE["x25519_key"], 32)).public_key().public_bytes_raw()
    assert enc[-32:] == point


def test_a_worker_opens_the_record() -> None:
    record = from_hex(MADE["record"])
    assert record[144 : 144 + ENC_SIZE] == from_hex(MADE["encapsulation"])
    request = opened(record)
    assert request.body == MADE["body"].encode()
    assert (to_hex(request.salt), to_hex(request.commitment())) == (MADE["salt"], MADE["request_commitment"])


@pytest.mark.parametrize("at", [5, 38, 70, 102, 141, 144, 144 + 1088, 144 + ENC_SIZE, -1])
def test_a_flipped_byte_opens_nothing(at: int) -> None:
    record = bytearray(from_hex(MADE["record"]))
    record[at] ^= 1
    with pytest.raises(CloisterError) as caught:
        opened(bytes(record))
    assert caught.value.code.startswith("envelope.")
