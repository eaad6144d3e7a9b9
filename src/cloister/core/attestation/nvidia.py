"""NVIDIA GPUs and NVSwitches: SPDM measurements under a device certificate (spec/attestation.md 11).

A device says that it is genuine and what firmware it runs; not which machine drives it. So its evidence counts only
beside CPU evidence that commits to it (``devices.py``). Whether confidential computing is on and DevTools are off is
in no signed field: the CPU's measured software reads it, and commits to what it read together with the rest.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from cloister.core.attestation import ocsp, rim, spdm
from cloister.core.attestation.certificates import common_name, linked, load_pem_chain, need_p384, need_valid_at
from cloister.core.attestation.model import Claims, Evidence
from cloister.core.attestation.refusals import (
    BAD_CERTIFICATE,
    BAD_SIGNATURE,
    MALFORMED,
    NOT_THIS_CHIP,
    PLATFORM,
    fail_closed,
)
from cloister.core.attestation.roots import Roots
from cloister.core.errors import AttestationError, define

VENDOR: Final = "nvidia"
CHAIN_LENGTH: Final = 5
MAX_MODE: Final = 256
DRIVER, VBIOS, NVDEC0, FWID, PROTECTED_PCIE, PDI, FEATURE = 3, 6, 11, 20, 21, 22, 36
FEATURES: Final = {0: "SPT", 1: "MPT", 2: "PPCIE"}
ON, OFF = 0xAA, 0x55
NVDEC0_INDEX: Final = 35
_FWID_OIDS: Final = ("2.23.133.5.4.1", "2.23.133.5.4.1.1")
_SHA384_FWID: Final = bytes.fromhex("0609608648016503040202" + "0430")  # the OID, then an OCTET STRING of 48 bytes
_IDENTITY: Final = re.compile(r"NVIDIA ([A-Z]{2}[0-9]{2,3}[A-Z]?) Identity")
_VERSION: Final = re.compile(r"[0-9]{1,5}(\.[0-9]{1,5}){0,3}")

NOT_GOLDEN = define(
    "attestation.golden",
    AttestationError,
    check="the device's measurements are those of its reference manifests",
    remedy="reset the device and load the vendor's driver and firmware; DevTools change measurements",
    status=403,
)


@fail_closed
def verify_gpu(evidence: Evidence, roots: Roots, now: int) -> Claims:
    """Claims of an authentic GPU report.

    Args: evidence (blob: GET_MEASUREMENTS request and response, joined; aux: "chain" (PEM, leaf first), and
    optionally "driver_rim", "vbios_rim" (XML), "ocsp" (DER answers, joined), "mode" (JSON {"cc": "on"|"off",
    "devtools": "on"|"off"})), roots (uses "nvidia" and "nvidia-rim"), now (Unix seconds). Raises AttestationError.
    """
    return _verify(evidence, roots, now, "G", {"driver_rim", "vbios_rim", "ocsp", "mode"})


@fail_closed
def verify_switch(evidence: Evidence, roots: Roots, now: int) -> Claims:
    """Claims of an authentic NVSwitch report. As ``verify_gpu``, without "driver_rim" and "mode"."""
    return _verify(evidence, roots, now, "L", {"vbios_rim", "ocsp"})


def launch_measurement(claims: Claims) -> bytes:
    """SHA-384 over all measurements, in order of their indices."""
    return hashlib.sha384(b"".join(claims.measurements[name] for name in sorted(claims.measurements))).digest()


def check_gpu(claims: Claims, rules: Mapping[str, Any]) -> None:
    """Confidential computing on, DevTools off, mode, FWID, driver. Raises AttestationError (attestation.platform)."""
    check_switch(claims, rules)
    details = claims.details
    if not (details["cc"] == "on" or (details["cc"] == "unsaid" and rules["allow_unsaid_mode"])):
        raise PLATFORM(expected="confidential computing on", found=details["cc"])
    if not (details["devtools"] == "off" or (details["devtools"] == "unsaid" and rules["allow_unsaid_mode"])):
        raise PLATFORM(expected="DevTools off", found=details["devtools"])
    if details["feature"] not in rules["features"]:
        raise PLATFORM(expected=" or ".join(rules["features"]) or "none", found=details["feature"])
    if version_parts(details["driver"]) < version_parts(rules["minimum_driver"]):
        raise PLATFORM(expected=f"driver >= {rules['minimum_driver']}", found=details["driver"])


def check_switch(claims: Claims, rules: Mapping[str, Any]) -> None:
    """The report names its firmware; nothing is revoked, if policy asks. Raises attestation.platform."""
    if rules["require_ocsp"] and claims.details["revocation"] != "good":
        raise PLATFORM(expected="good OCSP answers for the whole chain", found=claims.details["revocation"])
    if not claims.details["fwid"] and not rules["allow_missing_fwid"]:
        raise PLATFORM(expected="a report that names its firmware (FWID)", found="one that does not")


def version_parts(text: str) -> tuple[int, ...]:
    """A dotted version as numbers, for comparing. Raises attestation.malformed."""
    if not _VERSION.fullmatch(text):
        raise MALFORMED(expected="a dotted version of numbers", found=text[:32])
    return tuple(int(part) for part in text.split("."))


def _verify(evidence: Evidence, roots: Roots, now: int, family: str, optional: set[str]) -> Claims:
    # 1. Names and sizes.
    if set(evidence.aux) - optional != {"chain"}:
        found = ", ".join(sorted(evidence.aux))[:128] or "nothing"
        raise MALFORMED(expected=f"chain, and no more than {', '.join(sorted(optional))}", found=found)
    # 2. The exchange.
    exchange = spdm.parse(evidence.blob)
    # 3. Five certificates to the pinned root, valid now.
    chain, fresh_until = _chain(evidence.aux["chain"], roots, now)
    chip = _chip(chain, family)
    # 4. The device signed the exchange.
    _need_signature(exchange, need_p384(chain[-1]))
    # 5. The certified firmware is the reported firmware.
    fwid = _need_fwid(exchange, chain[-1])
    # 6. Measurements against the reference manifests of exactly these versions.
    versions = {"driver_rim": driver_of(exchange) if family == "G" else "", "vbios_rim": vbios_of(exchange)}
    manifests = _manifests(evidence.aux, versions, chip, roots, now)
    _need_golden(exchange, manifests)
    # 8. What the vendor's OCSP service says of all that the vendor issued.
    revocation, answered_until = _revocation(evidence.aux.get("ocsp"), chain, manifests, now)
    # 7. Claims.
    wanted = optional & {"driver_rim", "vbios_rim"}
    ends = [fresh_until, *answered_until, *(manifest.fresh_until for manifest in manifests.values())]
    mode = _mode(evidence.aux.get("mode"))
    return Claims(
        kind=evidence.kind,
        vendor_class=VENDOR,
        generation=chip,
        platform_id=hashlib.sha256(_public(chain[-2])).digest(),
        measurements={f"measurement{index:03d}": value for index, value in exchange.measurements.items()},
        debug=mode["devtools"] == "on",
        tcb_status="Golden" if set(manifests) == wanted else "Partial" if manifests else "Unmeasured",
        advisories=(),
        report_data=exchange.nonce,
        fresh_until=min(ends),
        details={
            **mode,
            "driver": versions["driver_rim"],
            "vbios": versions["vbios_rim"],
            "fwid": fwid.hex(),
            "feature": _feature(exchange),
            "pdi": exchange.opaque.get(PDI, b"").hex(),
            "manifests": sorted(manifests),
            "revocation": revocation,
        },
    )


def _chain(pem: bytes, roots: Roots, now: int) -> tuple[tuple[x509.Certificate, ...], int]:
    parsed = load_pem_chain(pem, "chain")[::-1]
    if len(parsed) != CHAIN_LENGTH:
        raise BAD_CERTIFICATE(expected=f"{CHAIN_LENGTH} certificates", found=str(len(parsed)))
    ders = tuple(certificate.public_bytes(Encoding.DER) for certificate in parsed)
    roots.require(VENDOR, ders[0])
    chain = linked(ders)
    return chain, min(need_valid_at(certificate, now) for certificate in chain)


def chip_of(chain: Sequence[x509.Certificate]) -> str:
    """The chip that a device's chain, root first, names ("GH100"); "" if it names none."""
    named = _IDENTITY.fullmatch(common_name(chain[1])) if len(chain) > 1 else None
    return named[1] if named else ""


def _chip(chain: tuple[x509.Certificate, ...], family: str) -> str:
    chip = chip_of(chain)
    if not chip.startswith(family) or not common_name(chain[-1]).startswith(f"{chip} "):
        found = f"{common_name(chain[1])[:48]}, {common_name(chain[-1])[:48]}"
        raise NOT_THIS_CHIP(expected=f"the identity of one chip {family}...", found=found)
    return chip


def _need_signature(exchange: spdm.Exchange, key: ec.EllipticCurvePublicKey) -> None:
    half = spdm.SIGNATURE_SIZE // 2
    r, s = (int.from_bytes(part, "big") for part in (exchange.signature[:half], exchange.signature[half:]))
    try:
        key.verify(encode_dss_signature(r, s), exchange.signed, ec.ECDSA(hashes.SHA384()))
    except (InvalidSignature, ValueError):
        raise BAD_SIGNATURE(expected="the device's signature over the exchange", found="none") from None


def _need_fwid(exchange: spdm.Exchange, leaf: x509.Certificate) -> bytes:
    raw = [e.value.public_bytes() for e in leaf.extensions if e.oid.dotted_string in _FWID_OIDS]
    if len(raw) != 1 or raw[0].count(_SHA384_FWID) != 1:
        raise BAD_CERTIFICATE(expected="one SHA-384 FWID in the device's certificate", found=f"{len(raw)} extensions")
    start = raw[0].index(_SHA384_FWID) + len(_SHA384_FWID)
    certified, reported = raw[0][start : start + 48], exchange.opaque.get(FWID)
    if reported is None:
        return b""
    if len(certified) != 48 or not hmac.compare_digest(certified, reported):
        raise NOT_THIS_CHIP(expected=f"firmware {certified.hex()[:16]}", found=f"firmware {reported.hex()[:16]}")
    return reported


def _manifests(
    aux: Mapping[str, bytes], versions: Mapping[str, str], chip: str, roots: Roots, now: int
) -> dict[str, rim.Manifest]:
    found: dict[str, rim.Manifest] = {}
    for name in sorted(set(aux) & set(versions)):
        manifest = rim.read(aux[name], roots, now)
        if (manifest.product, manifest.version.upper()) != (chip, versions[name].upper()):
            other = f"{manifest.product[:16]} {manifest.version[:32]}"
            raise rim.BAD_MANIFEST(expected=f"{chip} {versions[name]}", found=other)
        found[name] = manifest
    return found


def _revocation(
    answers: bytes | None, chain: tuple[x509.Certificate, ...], manifests: Mapping[str, rim.Manifest], now: int
) -> tuple[str, list[int]]:
    """("good", "partial" or "not checked", ends). The device issued its own leaf, so nobody answers for that one."""
    pairs = issued_by_vendor(chain, [manifests[name].chain for name in sorted(manifests)])
    if answers is None:
        return "not checked", []
    covered, end = ocsp.check(answers, pairs, now)
    return "good" if len(covered) == len(pairs) else "partial", [end]


def issued_by_vendor(
    chain: Sequence[x509.Certificate], manifests: Sequence[Sequence[x509.Certificate]]
) -> list[tuple[x509.Certificate, x509.Certificate]]:
    """(certificate, issuer) of what the vendor issued and can revoke. Chains are root first.

    Of the device's chain all but root and leaf, of each manifest's chain all but the root; each pair once.
    """
    below = [pair for one in (chain[:-1], *manifests) for pair in zip(one[1:], one[:-1], strict=True)]
    return list(dict.fromkeys(below))


def _need_golden(exchange: spdm.Exchange, manifests: Mapping[str, rim.Manifest]) -> None:
    golden: dict[int, frozenset[bytes]] = {}
    for manifest in manifests.values():
        shared = set(golden) & set(manifest.golden)
        if shared:
            raise rim.BAD_MANIFEST(expected="manifests of different measurements", found=f"both name {min(shared)}")
        golden |= manifest.golden
    if exchange.opaque.get(NVDEC0) == bytes([OFF]):
        golden.pop(NVDEC0_INDEX, None)  # the decoder is off, and so is its measurement
    wrong = [i for i, values in sorted(golden.items()) if exchange.measurements.get(i, b"") not in values]
    if wrong:
        raise NOT_GOLDEN(expected=f"{len(golden)} golden measurements", found=f"others at {wrong}")


def _mode(raw: bytes | None) -> dict[str, str]:
    if raw is None:
        return {"cc": "unsaid", "devtools": "unsaid"}
    mode = json.loads(raw.decode("ascii")) if len(raw) <= MAX_MODE else None
    good = isinstance(mode, dict) and set(mode) == {"cc", "devtools"}
    if not isinstance(mode, dict) or not good or any(value not in ("on", "off") for value in mode.values()):
        raise MALFORMED(expected='{"cc": "on" or "off", "devtools": "on" or "off"}', found="another mode")
    return {name: str(mode[name]) for name in ("cc", "devtools")}


def driver_of(exchange: spdm.Exchange) -> str:
    """The driver's version, dotted. Raises attestation.malformed."""
    text = exchange.opaque.get(DRIVER, b"").rstrip(b"\0").decode("ascii")
    version_parts(text)
    return text


def vbios_of(exchange: spdm.Exchange) -> str:
    """The VBIOS's version: five dotted pairs of hex digits. Raises attestation.malformed."""
    raw = exchange.opaque.get(VBIOS, b"")
    if len(raw) != 8 or any(raw[5:]):
        raise MALFORMED(expected="a VBIOS version of 8 bytes", found=raw.hex()[:32] or "none")
    return ".".join(f"{raw[place]:02X}" for place in (3, 2, 1, 0, 4))


def _feature(exchange: spdm.Exchange) -> str:
    raw = exchange.opaque.get(FEATURE)
    if raw is None:
        return "PPCIE" if exchange.opaque.get(PROTECTED_PCIE) == bytes([ON]) else "unsaid"
    return FEATURES.get(int.from_bytes(raw, "little"), "unknown")


def _public(certificate: x509.Certificate) -> bytes:
    return certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
