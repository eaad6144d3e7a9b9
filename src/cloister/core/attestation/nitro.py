"""AWS Nitro Enclaves attestation documents (AWS "Verifying the root of trust"; RFC 9052; spec/attestation.md 5)."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any, Final

import cbor2
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from cloister.core.attestation.certificates import MAX_CHAIN, linked, need_p384, need_valid_at
from cloister.core.attestation.model import Claims, Evidence
from cloister.core.attestation.refusals import BAD_SIGNATURE, MALFORMED, fail_closed
from cloister.core.attestation.roots import Roots

VENDOR: Final = "aws"
MAX_DOCUMENT: Final = 16384
ES384: Final = -35
_FIELDS: Final = {"module_id", "digest", "timestamp", "pcrs", "certificate", "cabundle"}
_OPTIONAL: Final = {"public_key": 1024, "user_data": 512, "nonce": 512}


@fail_closed
def verify(evidence: Evidence, roots: Roots, now: int) -> Claims:
    """Claims of an authentic Nitro document.

    Args: evidence (blob: COSE_Sign1; no aux), roots (uses "aws"), now (Unix seconds; leaves live three hours).
    Raises AttestationError.
    """
    # 1. Sizes and names.
    if not 0 < len(evidence.blob) <= MAX_DOCUMENT or evidence.aux:
        raise MALFORMED(expected=f"a document of at most {MAX_DOCUMENT} bytes, alone", found=f"{len(evidence.blob)}")
    # 2. COSE_Sign1, ES384 and nothing else in the headers.
    protected, payload, signature = _cose(evidence.blob)
    # 3. The payload's fields, each of its type and size.
    document = _document(payload)
    # 4. The root is pinned.
    bundle = document["cabundle"]
    roots.require(VENDOR, bundle[0])
    # 5. The chain, P-384 throughout, valid now. Links that hold are remembered: authorities come back for days.
    chain = linked((*bundle, document["certificate"]))
    keys = [need_p384(certificate) for certificate in chain]
    fresh_until = min(need_valid_at(certificate, now) for certificate in chain)
    # 6. The leaf signed headers and payload.
    _need_signature(keys[-1], protected, payload, signature)
    # 7. Claims. PCR0 of zeros is a debug enclave with a perfectly good signature.
    return _claims(document, fresh_until)


def launch_measurement(claims: Claims) -> bytes:
    """PCR0: the 48-byte hash of the enclave image."""
    return claims.measurements["pcr0"]


def check_platform(claims: Claims, rules: Mapping[str, Any]) -> None:
    """Nothing to switch: the vendor runs the platform."""
    del claims, rules


def decode(data: bytes) -> Any:
    """One CBOR item and nothing after it; no duplicate keys, depth at most 8. Raises attestation.malformed."""
    stream = io.BytesIO(data)
    try:
        item = cbor2.CBORDecoder(stream, max_depth=8, allow_duplicate_keys=False).decode()
    except Exception as error:
        raise MALFORMED(expected="CBOR", found=type(error).__name__) from None
    if stream.tell() != len(data):
        raise MALFORMED(expected="one CBOR item", found=f"{len(data) - stream.tell()} more bytes")
    return item


def _cose(blob: bytes) -> tuple[bytes, bytes, bytes]:
    item = decode(blob)
    if isinstance(item, cbor2.CBORTag) and item.tag == 18:
        item = item.value
    parts = item if isinstance(item, (list, tuple)) and len(item) == 4 else [None] * 4  # tagged arrays come as tuples
    protected, unprotected, payload, signature = parts
    if not (isinstance(protected, bytes) and isinstance(payload, bytes) and isinstance(signature, bytes)):
        raise MALFORMED(expected="COSE_Sign1: four parts", found=type(item).__name__)
    if unprotected or not isinstance(unprotected, Mapping) or len(signature) != 96 or decode(protected) != {1: ES384}:
        raise MALFORMED(expected="header {alg: ES384} and a 96-byte signature", found=protected.hex()[:32])
    return protected, payload, signature


def _document(payload: bytes) -> dict[str, Any]:
    document = decode(payload)
    if not isinstance(document, dict) or not _FIELDS <= set(document) <= _FIELDS | set(_OPTIONAL):
        raise MALFORMED(expected=f"fields {sorted(_FIELDS)}", found="other fields")
    _need("module_id", isinstance(document["module_id"], str) and 0 < len(document["module_id"]) <= 256)
    _need("digest", document["digest"] == "SHA384")
    stamp = document["timestamp"]
    _need("timestamp", isinstance(stamp, int) and not isinstance(stamp, bool) and 0 < stamp < 1 << 53)
    _need("pcrs", _are_pcrs(document["pcrs"]))
    _need("certificate", isinstance(document["certificate"], bytes))
    bundle = document["cabundle"]
    _need("cabundle", isinstance(bundle, list) and 0 < len(bundle) < MAX_CHAIN)
    _need("cabundle", all(isinstance(der, bytes) for der in bundle))
    for name, limit in _OPTIONAL.items():
        value = document.get(name)
        _need(name, value is None or (isinstance(value, bytes) and len(value) <= limit))
    return document


def _are_pcrs(value: object) -> bool:
    if not isinstance(value, dict) or 0 not in value or len(value) > 32:
        return False
    return all(type(i) is int and 0 <= i < 32 and isinstance(v, bytes) and len(v) == 48 for i, v in value.items())


def _need(name: str, good: bool) -> None:
    if not good:
        raise MALFORMED(expected=f"a {name} of its type and size", found="another")


def _need_signature(key: ec.EllipticCurvePublicKey, protected: bytes, payload: bytes, signature: bytes) -> None:
    signed = cbor2.dumps(["Signature1", protected, b"", payload])
    r, s = int.from_bytes(signature[:48], "big"), int.from_bytes(signature[48:], "big")
    try:
        key.verify(encode_dss_signature(r, s), signed, ec.ECDSA(hashes.SHA384()))
    except (InvalidSignature, ValueError):
        raise BAD_SIGNATURE(expected="the leaf's signature over the document", found="it does not verify") from None


def _claims(document: Mapping[str, Any], fresh_until: int) -> Claims:
    pcrs: dict[int, bytes] = document["pcrs"]
    return Claims(
        kind="nitro",
        vendor_class=VENDOR,
        generation="Nitro",
        platform_id=document["module_id"].encode(),
        measurements={f"pcr{index}": pcr for index, pcr in sorted(pcrs.items())},
        debug=not any(pcrs[0]),
        tcb_status="Managed",
        advisories=(),
        report_data=document.get("user_data") or b"",
        fresh_until=fresh_until,
        details={
            "issued_at": document["timestamp"] // 1000,
            "public_key": document.get("public_key") or b"",
            "nonce": document.get("nonce") or b"",
        },
    )
