"""AMD SEV-SNP reports, versions 2 to 5 (AMD 56860 table 23 and 57230; spec/attestation.md 4)."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any, Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from cloister.core.attestation.certificates import common_name, linked, need_not_revoked, need_p384, need_valid_at
from cloister.core.attestation.model import Claims, Evidence
from cloister.core.attestation.refusals import (
    BAD_CERTIFICATE,
    BAD_SIGNATURE,
    MALFORMED,
    NOT_THIS_CHIP,
    PLATFORM,
    fail_closed,
    need_listed,
)
from cloister.core.attestation.roots import Roots

VENDOR: Final = "amd"
REPORT_SIZE: Final = 1184
SIGNED_SIZE: Final = 672
CERTIFICATES: Final = ("vek", "intermediate", "ark")
PRODUCTS: Final = {"Milan": ("Milan",), "Genoa": ("Genoa", "Bergamo", "Siena"), "Turin": ("Turin",)}
COMPONENTS: Final = ("fmc", "bootloader", "tee", "snp", "microcode")
OID: Final = "1.3.6.1.4.1.3704.1"
_TCB_OIDS: Final = {"bootloader": "3.1", "tee": "3.2", "snp": "3.3", "microcode": "3.8", "fmc": "3.9"}
_VCEK, _VLEK = 0, 1


@fail_closed
def verify(evidence: Evidence, roots: Roots, now: int) -> Claims:
    """Claims of an authentic SNP report.

    Args: evidence (blob: 1184-byte report; aux, DER: "vek" (VCEK or VLEK), "intermediate" (ASK or ASVK), "ark", and
    optionally "crl", AMD's revocation list), roots (uses "amd"), now (Unix seconds). Raises AttestationError.
    """
    # 1. Sizes and names.
    report = evidence.blob
    if len(report) != REPORT_SIZE or set(evidence.aux) - {"crl"} != set(CERTIFICATES):
        found = f"{len(report)} bytes and {', '.join(sorted(evidence.aux)) or 'nothing'}"
        raise MALFORMED(expected=f"a report of {REPORT_SIZE} bytes, vek, intermediate and ark", found=found)
    # 2. A version and a signature algorithm that we know; which kind of key signed.
    version, algorithm = _u32(report, 0x00), _u32(report, 0x34)
    signer = (_u32(report, 0x48) >> 2) & 7
    if version not in (2, 3, 4, 5) or algorithm != 1 or signer not in (_VCEK, _VLEK):
        found = f"version {version}, algorithm {algorithm}, signing key {signer}"
        raise MALFORMED(expected="version 2 to 5, ECDSA P-384, VCEK or VLEK", found=found)
    # 3. The root is pinned.
    roots.require(VENDOR, evidence.aux["ark"])
    # 4. The chain ARK, ASK or ASVK, VCEK or VLEK: RSA-4096 PSS over SHA-384, valid now, and not revoked.
    ark, intermediate, vek = _chain(evidence.aux["ark"], evidence.aux["intermediate"], evidence.aux["vek"])
    fresh_until = min(need_valid_at(certificate, now) for certificate in (ark, intermediate, vek))
    if "crl" in evidence.aux:
        fresh_until = min(fresh_until, need_not_revoked(evidence.aux["crl"], (ark, intermediate, vek), now))
    # 5. The product: root, intermediate and key agree.
    generation = _need_product(ark, intermediate, vek, signer)
    # 6. The key signed the report.
    _need_signature(report, need_p384(vek))
    # 7. The key is that of this chip at this TCB.
    _need_chip(report, vek, signer, generation)
    # 8. Claims.
    owner = _owner(vek) if signer == _VLEK else ""
    return _claims(report, generation, fresh_until, signer, {"owner": owner, "crl": "crl" in evidence.aux})


def launch_measurement(claims: Claims) -> bytes:
    """The 48-byte launch digest."""
    return claims.measurements["measurement"]


def check_platform(claims: Claims, rules: Mapping[str, Any]) -> None:
    """VMPL, migration, SMT, TCB floor, revocation, and the lists. Raises AttestationError (attestation.platform)."""
    details = claims.details
    if rules["require_crl"] and not details["crl"]:
        raise PLATFORM(expected="AMD's revocation list beside the report", found="none")
    _need_lists(claims, rules)
    if details["vmpl"] > rules["max_vmpl"]:
        raise PLATFORM(expected=f"VMPL <= {rules['max_vmpl']}", found=str(details["vmpl"]))
    if details["migration_agent"] and not rules["allow_migration_agent"]:
        raise PLATFORM(expected="no migration agent", found="allowed by the guest policy")
    if details["smt_enabled"] and not rules["allow_smt_enabled"]:
        raise PLATFORM(expected="SMT off", found="on")
    floor = rules["minimum_tcb"].get(claims.generation, {})
    low = [name for name, least in floor.items() if details["reported_tcb"].get(name, -1) < least]
    if low:
        found = ", ".join(f"{name} {details['reported_tcb'].get(name)}" for name in low)
        raise PLATFORM(expected=", ".join(f"{name} >= {floor[name]}" for name in low), found=found)


def parse_tcb(raw: bytes, generation: str) -> dict[str, int]:
    """The components of an 8-byte TCB version. Turin moved them (57230 3.1)."""
    if generation == "Turin":
        return {"fmc": raw[0], "bootloader": raw[1], "tee": raw[2], "snp": raw[3], "microcode": raw[7]}
    return {"bootloader": raw[0], "tee": raw[1], "snp": raw[6], "microcode": raw[7]}


def _u32(report: bytes, offset: int) -> int:
    return int(struct.unpack_from("<I", report, offset)[0])


def _need_lists(claims: Claims, rules: Mapping[str, Any]) -> None:
    chip = claims.platform_id.hex()
    short = chip[:16] if not any(claims.platform_id[8:]) else chip  # Turin names a chip by 8 bytes
    if rules["chips"] and not {chip, short} & set(rules["chips"]):
        raise PLATFORM(expected=f"one of {len(rules['chips'])} listed chips", found=chip[:32])
    need_listed("platform owner", claims.details["owner"], rules["owners"])
    need_listed("id key", claims.measurements["id_key_digest"].hex(), rules["id_keys"])
    need_listed("author key", claims.measurements["author_key_digest"].hex(), rules["author_keys"])


def _chain(*ders: bytes) -> tuple[x509.Certificate, ...]:
    """The chain, root first, checked in all that does not depend on the time."""
    chain = linked(ders)
    for certificate in chain:
        scheme = certificate.signature_algorithm_parameters
        if not isinstance(scheme, padding.PSS) or scheme._salt_length != 48:
            raise BAD_CERTIFICATE(expected="RSA-PSS with a 48-byte salt", found=type(scheme).__name__)
    for certificate in chain[:2]:
        key = certificate.public_key()
        if not isinstance(key, rsa.RSAPublicKey) or key.key_size != 4096:
            raise BAD_CERTIFICATE(expected="an RSA-4096 authority", found=type(key).__name__)
    return chain


def _owner(vek: x509.Certificate) -> str:
    """The cloud provider that a VLEK was given to: its CSP id, if the VLEK says one."""
    oid = x509.ObjectIdentifier(f"{OID}.5")
    return _text_extension(vek, "5") if any(one.oid == oid for one in vek.extensions) else ""


def _need_product(ark: x509.Certificate, intermediate: x509.Certificate, vek: x509.Certificate, signer: int) -> str:
    generation = common_name(ark).removeprefix("ARK-")
    product = _text_extension(vek, "2")
    middle = f"SEV-VLEK-{generation}" if signer == _VLEK else f"SEV-{generation}"
    known = PRODUCTS.get(generation, ())
    if not known or common_name(intermediate) != middle or product.split("-")[0] not in known:
        found = f"{common_name(ark)}, {common_name(intermediate)}, {product}"
        raise NOT_THIS_CHIP(expected=f"one product: {middle} and {' or '.join(known) or 'known'}", found=found)
    return generation


def _need_signature(report: bytes, key: ec.EllipticCurvePublicKey) -> None:
    r, s = (int.from_bytes(report[at : at + 72], "little") for at in (SIGNED_SIZE, SIGNED_SIZE + 72))
    try:
        key.verify(encode_dss_signature(r, s), report[:SIGNED_SIZE], ec.ECDSA(hashes.SHA384()))
    except (InvalidSignature, ValueError):
        raise BAD_SIGNATURE(expected="the VEK's signature over the report", found="it does not verify") from None


def _need_chip(report: bytes, vek: x509.Certificate, signer: int, generation: str) -> None:
    reported = parse_tcb(report[0x180:0x188], generation)
    certified = {name: _int_extension(vek, _TCB_OIDS[name]) for name in reported}
    if reported != certified:
        raise NOT_THIS_CHIP(expected=f"TCB {certified}", found=f"TCB {reported}")
    if signer == _VLEK:
        return  # a VLEK is the cloud provider's, for all its chips: it names no chip
    chip = report[0x1A0:0x1E0]
    hardware = _extension(vek, "4")
    if len(hardware) not in (8, 64) or not any(hardware) or chip != hardware.ljust(64, b"\0"):
        raise NOT_THIS_CHIP(expected=f"chip {hardware.hex()[:16]}", found=f"chip {chip.hex()[:16]}")


def _extension(certificate: x509.Certificate, suffix: str) -> bytes:
    oid = x509.ObjectIdentifier(f"{OID}.{suffix}")
    try:
        value = certificate.extensions.get_extension_for_oid(oid).value
    except x509.ExtensionNotFound:
        raise BAD_CERTIFICATE(expected=f"extension {oid.dotted_string}", found="none") from None
    if not isinstance(value, x509.UnrecognizedExtension):
        raise BAD_CERTIFICATE(expected=f"extension {oid.dotted_string}", found=type(value).__name__)
    return value.value


def _int_extension(certificate: x509.Certificate, suffix: str) -> int:
    raw = _extension(certificate, suffix)
    if len(raw) not in (3, 4) or raw[0] != 0x02 or raw[1] != len(raw) - 2:
        raise BAD_CERTIFICATE(expected="a small DER INTEGER", found=raw.hex()[:16])
    return int.from_bytes(raw[2:], "big")


def _text_extension(certificate: x509.Certificate, suffix: str) -> str:
    raw = _extension(certificate, suffix)
    if not 2 < len(raw) <= 34 or raw[0] != 0x16 or raw[1] != len(raw) - 2:
        raise BAD_CERTIFICATE(expected="a short DER IA5String", found=raw.hex()[:16])
    return raw[2:].decode("ascii")


def _claims(report: bytes, generation: str, fresh_until: int, signer: int, more: Mapping[str, Any]) -> Claims:
    policy = int.from_bytes(report[0x08:0x10], "little")
    platform = int.from_bytes(report[0x40:0x48], "little")
    reported, committed = (parse_tcb(report[at : at + 8], generation) for at in (0x180, 0x1E0))
    settled = all(reported[name] <= committed[name] for name in reported)
    details = {
        "vmpl": _u32(report, 0x30),
        "policy": policy,
        "migration_agent": bool(policy >> 18 & 1),
        "smt_enabled": bool(platform & 1),
        "reported_tcb": reported,
        "signing_key": "VLEK" if signer == _VLEK else "VCEK",
        "version": _u32(report, 0x00),
        **more,
    }
    return Claims(
        kind="snp",
        vendor_class=VENDOR,
        generation=generation,
        platform_id=report[0x1A0:0x1E0],
        measurements={
            "measurement": report[0x90:0xC0],
            "host_data": report[0xC0:0xE0],
            "id_key_digest": report[0xE0:0x110],
            "author_key_digest": report[0x110:0x140],
        },
        debug=bool(policy >> 19 & 1),
        tcb_status="Committed" if settled else "Provisional",
        advisories=(),
        report_data=report[0x50:0x90],
        fresh_until=fresh_until,
        details=details,
    )
