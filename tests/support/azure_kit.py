"""Azure VMs in software: an HCL report over the devnet's SNP chip or TDX platform, and the vTPM of the TPM kit."""

from __future__ import annotations

import base64
import hashlib
import json
import struct
from typing import Any

from cryptography.hazmat.primitives.asymmetric import rsa

from cloister.core.attestation.model import Evidence
from support.hardware import MEASUREMENT, chip, collateral, platform
from support.tpm_kit import CHOSEN, REPORT, SoftTpm, keys, machine, quote_parts

SNP, TDX = 2, 4


def runtime_data(ak: Any, **changes: Any) -> bytes:
    """The paravisor's JSON: two keys, and how the VM is set up."""
    numbers = ak.public_key().public_numbers()
    key = {"kid": "HCLAkPub", "key_ops": ["sign"], "kty": "RSA", "e": _text(numbers.e), "n": _text(numbers.n)}
    other = {**key, "kid": "HCLEkPub", "key_ops": ["encrypt"]}
    settings = {"console-enabled": True, "secure-boot": True, "tpm-enabled": True, "vmUniqueId": "A-VM"}
    fields = {"keys": [key, other], "vm-configuration": settings, "user-data": "00" * 64} | changes
    return json.dumps(fields, separators=(",", ":")).encode()


def _text(number: int) -> str:
    data = number.to_bytes((number.bit_length() + 7) // 8, "big")
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def hcl_report(hardware: bytes, kind: int, text: bytes, size: int = 2600) -> bytes:
    """Header, hardware report in 1184 bytes, description, runtime data, zeros."""
    head = struct.pack("<4s4I", b"HCLA", 1, 1236 + len(text), 2, 0).ljust(32, b"\0")
    described = struct.pack("<5I", 20 + len(text), 1, kind, 1, len(text))
    return (head + hardware.ljust(1184, b"\0") + described + text).ljust(size, b"\0")


def td_report(quote: bytes) -> bytes:
    """The TDREPORT that a version 4 quote was made of, as far as a verifier compares: report data and TDINFO."""
    body = quote[48 : 48 + 584]
    return bytes(128) + body[520:584] + bytes(320) + body[120:520] + bytes(112)


def rsa_machine() -> SoftTpm:
    """A vTPM: its attestation key is RSA."""
    return machine("rsa")


def azure_evidence(
    kind: str,
    *,
    report: bytes = REPORT,
    text: bytes | None = None,
    measurement: bytes = MEASUREMENT,
    chosen: tuple[int, ...] = CHOSEN,
    **changes: bytes | None,
) -> Evidence:
    """Evidence of "azure-snp" or "azure-tdx". ``text`` replaces the runtime data; ``changes`` replace aux parts."""
    tpm = rsa_machine()
    assert isinstance(keys("rsa"), rsa.RSAPrivateKey)
    text = text or runtime_data(tpm.ak)
    committed = hashlib.sha256(text).digest().ljust(64, b"\0")
    aux: dict[str, bytes | None] = {**quote_parts(tpm, report, chosen)}
    if kind == "azure-snp":
        blob = hcl_report(chip().report(measurement, committed), SNP, text)
        aux |= chip().certificates
    else:
        quote = platform().quote(measurement, committed)
        blob = hcl_report(td_report(quote), TDX, text)
        aux |= {"td_quote": quote, "collateral": collateral()}
    return Evidence(kind, blob, {name: part for name, part in (aux | changes).items() if part is not None})
