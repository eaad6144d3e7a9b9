"""What Intel's TEEs share: collateral, a quote's authenticity, dates, platform facts (spec/attestation.md 3).

Signatures, certificates, revocation lists, TCB level and QE identity are dcap-qvl's work, under a root that we chose.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final

from cryptography.hazmat.primitives.serialization import Encoding
from dcap_qvl import QuoteCollateralV3, QuotePolicy, QuoteVerifier

from cloister.core.attestation.certificates import load_pem_chain
from cloister.core.attestation.model import Claims, Evidence
from cloister.core.attestation.refusals import MALFORMED, OUT_OF_DATE, PLATFORM, need_listed
from cloister.core.errors import Refusal

VENDOR: Final = "intel"
MAX_QUOTE: Final = 16384
MAX_COLLATERAL: Final = 65536
FIELDS: Final = frozenset(
    {"pck_crl_issuer_chain", "root_ca_crl", "pck_crl", "tcb_info_issuer_chain", "tcb_info", "tcb_info_signature"}
    | {"qe_identity_issuer_chain", "qe_identity", "qe_identity_signature"}
)
SWITCHES: Final = ("dynamic_platform", "cached_keys", "smt_enabled")


def need_shape(evidence: Evidence, optional: frozenset[str] = frozenset()) -> None:
    """A quote and its collateral within their limits, and nothing unknown beside. Raises attestation.malformed."""
    names = set(evidence.aux)
    if not 0 < len(evidence.blob) <= MAX_QUOTE or not {"collateral"} <= names <= {"collateral"} | optional:
        found = f"{len(evidence.blob)} bytes and {', '.join(sorted(names)) or 'nothing'}"
        raise MALFORMED(expected=f"a quote of at most {MAX_QUOTE} bytes and collateral", found=found)
    if len(evidence.aux["collateral"]) > MAX_COLLATERAL:
        raise MALFORMED(expected=f"collateral of at most {MAX_COLLATERAL} bytes", found="more")


def need_zero_padding(blob: bytes, body: int) -> None:
    """After ``body`` bytes, the signature data of the length that the quote says, then zeros only."""
    end = body + 4 + int.from_bytes(blob[body : body + 4], "little")
    if end > len(blob) or any(blob[end:]):
        raise MALFORMED(expected=f"a quote of {end} bytes and zero padding", found=f"{len(blob)} bytes, other content")


@lru_cache(maxsize=16)
def open_collateral(data: bytes) -> tuple[QuoteCollateralV3, bytes]:
    """Parsed collateral and the DER of the root that it brings; a few are remembered.

    Raises AttestationError, ValueError, TypeError.
    """
    text = data.decode("utf-8")
    fields = json.loads(text)
    if not isinstance(fields, dict) or set(fields) != FIELDS:
        raise MALFORMED(expected="the nine fields of DCAP collateral", found="other fields")
    collateral = QuoteCollateralV3.from_json(text)
    chain = load_pem_chain(collateral.tcb_info_issuer_chain.encode(), "the TCB info chain")
    return collateral, chain[-1].public_bytes(Encoding.DER)


def verified(blob: bytes, collateral: QuoteCollateralV3, root: bytes, now: int, refusal: Refusal) -> dict[str, Any]:
    """What dcap-qvl found, under this root and no other. Raises ``refusal``."""
    try:
        # `claims_only` judges nothing but authenticity: statuses and switches are our policy's business.
        claims = _verifier(root).verify_with_policy(blob, collateral, now, QuotePolicy.claims_only(now))
    except ValueError as error:
        raise refusal(expected="a quote that verifies", found=str(error)) from None
    parsed = json.loads(claims.to_json())
    if not isinstance(parsed, dict):
        raise refusal(expected="claims", found=type(parsed).__name__)
    return parsed


def need_dates(found: Mapping[str, Any], now: int) -> int:
    """Every date, revocation lists included; returns the last second of validity. Raises attestation.expired."""
    start = max(found["latest_issue_date"], found["qe_iden_latest_issue_date"])
    # The second of a revocation list's nextUpdate is already too late.
    end = min(found["earliest_expiration_date"], found["qe_iden_earliest_expiration_date"]) - 1
    if not start <= now <= end:
        raise OUT_OF_DATE(expected=f"collateral valid from {start} to {end}", found=str(now))
    return int(end)


def platform_details(found: Mapping[str, Any], authority: str) -> dict[str, Any]:
    """Facts of the platform for policy. ``authority``: "platform" or "processor", which CA issued the PCK."""
    platform, pck = found["platform"], found["platform"]["pck"]
    levels = (platform["tcb_level"], found["qe"]["tcb_level"])
    old = [level for level in levels if level["tcbStatus"] != "UpToDate"]  # a grace runs from the older of these
    return {
        "fmspc": bytes(pck["fmspc"]).hex().upper(),
        **{name: str(pck[name]) for name in SWITCHES},
        "pck_authority": authority,
        "owner": bytes(pck["platform_provider_id"] or b"").hex(),
        "instance": bytes(pck["platform_instance_id"] or b"").hex(),
        "tcb_evaluation_number": min(int(found["tcb"]["eval_data_number"]), int(found["qe"]["tcb_eval_data_number"])),
        "tcb_date": platform["tcb_level"]["tcbDate"],
        "tcb_date_s": min(_seconds(level["tcbDate"]) for level in old or levels),
    }


def check_platform(claims: Claims, rules: Mapping[str, Any]) -> None:
    """The policy's demands on an Intel platform. Raises AttestationError (attestation.platform)."""
    details = claims.details
    # A processor CA certifies single-package machines: its certificates leave the switches out.
    off = ("False", "Undefined") if details["pck_authority"] == "processor" else ("False",)
    for name in SWITCHES:
        if not rules[f"allow_{name}"] and details[name] not in off:
            raise PLATFORM(expected=f"{name} off", found=str(details[name]))
    number, least = details["tcb_evaluation_number"], rules["min_tcb_evaluation_number"]
    if number < least:
        raise PLATFORM(expected=f"TCB evaluation number >= {least}", found=str(number))
    need_listed("platform", claims.platform_id.hex(), rules["platforms"])
    need_listed("platform owner", details["owner"], rules["owners"])


@lru_cache(maxsize=8)
def _verifier(root: bytes) -> QuoteVerifier:
    return QuoteVerifier(root)


def _seconds(text: str) -> int:
    return int(datetime.datetime.fromisoformat(text).timestamp())
