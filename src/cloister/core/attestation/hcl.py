"""The report of an Azure paravisor: a hardware report and the runtime data it commits to (spec/attestation.md 10).

Layout: 32-byte header, a hardware report in 1184 bytes, 20 bytes that describe the runtime data, the runtime data as
JSON, zeros to 2600 bytes. Every byte is either checked here or covered by the hardware's signature.
"""

from __future__ import annotations

import base64
import hashlib
import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric import rsa

from cloister.core.attestation.refusals import MALFORMED

MAGIC: Final = b"HCLA"
MAX_REPORT: Final = 4096
REPORT_AT, REPORT_AREA, DATA_AT, JSON_AT = 32, 1184, 1216, 1236
SNP, TDX = 2, 4
SHA256: Final = 1
AK: Final = "HCLAkPub"


@dataclass(frozen=True, slots=True)
class HclReport:
    """A parsed report. hardware: 1184 bytes; digest: SHA-256 of the runtime JSON, as the hardware signed it."""

    hardware: bytes
    ak: rsa.RSAPublicKey
    runtime: Mapping[str, Any]
    digest: bytes


def parse(blob: bytes, kind: int) -> HclReport:
    """The report, at most 4 KiB, of hardware ``kind`` (SNP or TDX). Raises attestation.malformed."""
    if not JSON_AT < len(blob) <= MAX_REPORT:
        raise MALFORMED(expected=f"an HCL report of {JSON_AT} to {MAX_REPORT} bytes", found=f"{len(blob)} bytes")
    magic, version, used, request, status = struct.unpack_from("<4s4I", blob)
    if magic != MAGIC or version not in (1, 2) or (request, status) != (2, 0) or any(blob[20:REPORT_AT]):
        raise MALFORMED(expected="an HCL report, version 1 or 2", found=f"{magic.hex()}, version {version}")
    size, data_version, data_kind, hash_kind, length = struct.unpack_from("<5I", blob, DATA_AT)
    if (data_version, data_kind, hash_kind) != (1, kind, SHA256):
        found = f"version {data_version}, report {data_kind}, hash {hash_kind}"
        raise MALFORMED(expected=f"runtime data version 1 of report type {kind} under SHA-256", found=found)
    end = JSON_AT + length
    if size != length + 20 or used != end or end > len(blob) or any(blob[end:]):
        raise MALFORMED(expected="runtime data of the declared size, then zeros", found=f"{length} of {len(blob)}")
    text = blob[JSON_AT:end]
    runtime = json.loads(text.decode("ascii"))
    if not isinstance(runtime, dict):
        raise MALFORMED(expected="runtime data as an object", found=type(runtime).__name__)
    digest = hashlib.sha256(text).digest()
    return HclReport(blob[REPORT_AT : REPORT_AT + REPORT_AREA], _ak(runtime), runtime, digest)


def _ak(runtime: Mapping[str, Any]) -> rsa.RSAPublicKey:
    keys = runtime.get("keys")
    found = [k for k in keys if isinstance(k, dict) and k.get("kid") == AK] if isinstance(keys, list) else []
    if len(found) != 1 or found[0].get("kty") != "RSA" or found[0].get("key_ops") != ["sign"]:
        raise MALFORMED(expected=f"one RSA signing key {AK}", found=f"{len(found)} keys")
    modulus, exponent = _number(found[0].get("n")), _number(found[0].get("e"))
    if not 2048 <= modulus.bit_length() <= 4096 or exponent != 65537:
        raise MALFORMED(expected="an RSA key of 2048 to 4096 bits with exponent 65537", found="another")
    return rsa.RSAPublicNumbers(exponent, modulus).public_key()


def _number(text: object) -> int:
    if not isinstance(text, str) or len(text) > 700:
        raise MALFORMED(expected="a number in base64url", found=type(text).__name__)
    return int.from_bytes(base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True), "big")
