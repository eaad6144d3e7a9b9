"""Intel TDX quotes, versions 4 and 5 (Intel DCAP quote library API; spec/attestation.md 3).

Signatures, certificates, revocation lists, TCB level and QE identity are dcap-qvl's work. Ours: which root, that it is
TDX and not SGX, debug, padding, dates, and what the policy later asks.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from cryptography.hazmat.primitives.serialization import Encoding
from dcap_qvl import QuoteCollateralV3, QuotePolicy, QuoteVerifier, parse_quote

from cloister.core.attestation.certificates import load_pem_chain
from cloister.core.attestation.model import Claims, Evidence
from cloister.core.attestation.refusals import DEBUG, MALFORMED, OUT_OF_DATE, PLATFORM, fail_closed
from cloister.core.attestation.roots import Roots
from cloister.core.errors import AttestationError, define

VENDOR: Final = "intel"
MAX_QUOTE: Final = 16384
MAX_COLLATERAL: Final = 65536
TEE_TYPE_TDX: Final = 0x81
REGISTERS: Final = {
    "mrtd": "mr_td",
    "rtmr0": "rt_mr0",
    "rtmr1": "rt_mr1",
    "rtmr2": "rt_mr2",
    "rtmr3": "rt_mr3",
    "mr_config_id": "mr_config_id",
    "mr_owner": "mr_owner",
    "mr_owner_config": "mr_owner_config",
    "mr_seam": "mr_seam",
    "mr_signer_seam": "mr_signer_seam",
}
RTMRS: Final = ("rtmr0", "rtmr1", "rtmr2", "rtmr3")

REFUSED = define(
    "attestation.tdx_quote",
    AttestationError,
    check="the quote, its certificates, revocation lists, TCB info and QE identity verify together",
    remedy="fetch collateral for this machine's FMSPC again; if it stays refused, the machine needs a TCB update",
)


@fail_closed
def verify(evidence: Evidence, roots: Roots, now: int) -> Claims:
    """Claims of an authentic TDX quote.

    Args: evidence (blob: the quote; aux: {"collateral": JSON of the nine QuoteCollateralV3 fields}), roots (uses
    "intel"), now (Unix seconds). Raises AttestationError.
    """
    # 1. Sizes and names, before anything is parsed.
    if not 0 < len(evidence.blob) <= MAX_QUOTE or set(evidence.aux) != {"collateral"}:
        raise MALFORMED(expected=f"a quote of at most {MAX_QUOTE} bytes and collateral", found=_shape(evidence))
    if len(evidence.aux["collateral"]) > MAX_COLLATERAL:
        raise MALFORMED(expected=f"collateral of at most {MAX_COLLATERAL} bytes", found="more")
    # 2. A TDX quote of version 4 or 5; what follows its signature data is zero padding.
    quote = parse_quote(evidence.blob)
    if quote.header.tee_type != TEE_TYPE_TDX or quote.header.version not in (4, 5):
        found = f"version {quote.header.version}, TEE type {quote.header.tee_type:#x}"
        raise MALFORMED(expected="a TDX quote, version 4 or 5", found=found)
    _need_zero_padding(evidence.blob, quote.header.version)
    # 3. No bit of the TUD (debug) group of the TD attributes.
    report = quote.report
    if report.td_attributes[0]:
        raise DEBUG(expected="TD attributes without debug", found=report.td_attributes.hex())
    # 4. Collateral parses into exactly its nine fields.
    collateral = QuoteCollateralV3.from_json(evidence.aux["collateral"].decode("utf-8"))
    # 5. The root it brings is pinned.
    chain = load_pem_chain(collateral.tcb_info_issuer_chain.encode(), "the TCB info chain")
    root = chain[-1].public_bytes(Encoding.DER)
    roots.require(VENDOR, root)
    # 6. Everything else, under that root and no other.
    found_claims = _verified(evidence.blob, collateral, root, now)
    # 7. Every date, revocation lists included.
    fresh_until = _need_dates(found_claims, now)
    # 8. Claims.
    return _claims(report, found_claims, fresh_until)


def launch_measurement(claims: Claims) -> bytes:
    """48 bytes that name the launched software (spec/attestation.md 7).

    MRTD covers the firmware only. If the firmware measured more (any RTMR is not zero), the launch measurement is
    SHA-384(MRTD || RTMR0..3); otherwise it is MRTD itself.
    """
    import hashlib

    parts = [claims.measurements[name] for name in RTMRS]
    if not any(any(part) for part in parts):
        return claims.measurements["mrtd"]
    return hashlib.sha384(b"".join((claims.measurements["mrtd"], *parts))).digest()


def check_platform(claims: Claims, rules: Mapping[str, Any]) -> None:
    """The policy's switches for Intel platforms. Raises AttestationError (attestation.platform)."""
    for name in ("dynamic_platform", "cached_keys", "smt_enabled"):
        if not rules[f"allow_{name}"] and claims.details[name] != "False":
            raise PLATFORM(expected=f"{name} off", found=str(claims.details[name]))
    number = claims.details["tcb_evaluation_number"]
    if number < rules["min_tcb_evaluation_number"]:
        raise PLATFORM(expected=f"TCB evaluation number >= {rules['min_tcb_evaluation_number']}", found=str(number))


def _shape(evidence: Evidence) -> str:
    return f"{len(evidence.blob)} bytes and {', '.join(sorted(evidence.aux)) or 'nothing'}"


def _need_zero_padding(blob: bytes, version: int) -> None:
    body = 48 + 584 if version == 4 else 54 + int.from_bytes(blob[50:54], "little")
    end = body + 4 + int.from_bytes(blob[body : body + 4], "little")
    if end > len(blob) or any(blob[end:]):
        raise MALFORMED(expected=f"a quote of {end} bytes and zero padding", found=f"{len(blob)} bytes, other content")


def _verified(blob: bytes, collateral: QuoteCollateralV3, root: bytes, now: int) -> dict[str, Any]:
    try:
        # `claims_only` judges nothing but authenticity: statuses and switches are our policy's business.
        claims = QuoteVerifier(root).verify_with_policy(blob, collateral, now, QuotePolicy.claims_only(now))
    except ValueError as error:
        raise REFUSED(expected="a quote that verifies", found=str(error)) from None
    parsed = json.loads(claims.to_json())
    if not isinstance(parsed, dict):
        raise REFUSED(expected="claims", found=type(parsed).__name__)
    return parsed


def _need_dates(claims: Mapping[str, Any], now: int) -> int:
    start = max(claims["latest_issue_date"], claims["qe_iden_latest_issue_date"])
    # The second of a revocation list's nextUpdate is already too late.
    end = min(claims["earliest_expiration_date"], claims["qe_iden_earliest_expiration_date"]) - 1
    if not start <= now <= end:
        raise OUT_OF_DATE(expected=f"collateral valid from {start} to {end}", found=str(now))
    return int(end)


def _claims(report: Any, found: Mapping[str, Any], fresh_until: int) -> Claims:
    platform, pck, tcb = found["platform"], found["platform"]["pck"], found["tcb"]
    details = {
        "fmspc": bytes(pck["fmspc"]).hex().upper(),
        "dynamic_platform": str(pck["dynamic_platform"]),
        "cached_keys": str(pck["cached_keys"]),
        "smt_enabled": str(pck["smt_enabled"]),
        "tcb_evaluation_number": int(tcb["eval_data_number"]),
        "tcb_date": platform["tcb_level"]["tcbDate"],
        "td_attributes": report.td_attributes.hex(),
        "xfam": report.xfam.hex(),
        "tee_tcb_svn": report.tee_tcb_svn.hex(),
    }
    return Claims(
        kind="tdx",
        vendor_class=VENDOR,
        generation=details["fmspc"],
        platform_id=bytes(pck["ppid"]),
        measurements={ours: getattr(report, theirs) for ours, theirs in REGISTERS.items()},
        debug=False,
        tcb_status=tcb["status"],
        advisories=tuple(tcb["advisory_ids"]),
        report_data=report.report_data,
        fresh_until=fresh_until,
        details=details,
    )
