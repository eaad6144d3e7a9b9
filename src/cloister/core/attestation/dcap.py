"""What Intel's TEEs share: collateral, a quote's authenticity, dates, platform facts (spec/attestation.md 3).

Signatures, certificates, revocation lists, TCB level and QE identity are dcap-qvl's work, under a root that we chose.
"""

from __future__ import annotations

import base64
import datetime
import hashlib
import json
import re
from collections import OrderedDict
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from dcap_qvl import QuoteCollateralV3, QuotePolicy, QuoteVerifier, verify_with_root_ca

from cloister.core.attestation.certificates import COMMON, common_name, load_pem_chain, need_issued
from cloister.core.attestation.model import Claims, Evidence
from cloister.core.attestation.reader import Reader
from cloister.core.attestation.refusals import (
    BAD_CERTIFICATE,
    MALFORMED,
    OUT_OF_DATE,
    PLATFORM,
    UNPINNED_ROOT,
    need_listed,
)
from cloister.core.errors import Refusal

VENDOR: Final = "intel"
MAX_QUOTE: Final = 16384
MAX_COLLATERAL: Final = 65536
FIELDS: Final = frozenset(
    {"pck_crl_issuer_chain", "root_ca_crl", "pck_crl", "tcb_info_issuer_chain", "tcb_info", "tcb_info_signature"}
    | {"qe_identity_issuer_chain", "qe_identity", "qe_identity_signature"}
)
CHAINS: Final = ("tcb_info_issuer_chain", "qe_identity_issuer_chain", "pck_crl_issuer_chain")
MAX_TIME: Final = 1 << 40
SIGNATURE, KEY, QE_REPORT = 64, 64, 384
PCK_CHAIN, QE_REPORT_DATA = 5, 6  # types of certification data
_BEGIN, _END = b"-----BEGIN CERTIFICATE-----", b"-----END CERTIFICATE-----"
_PEM_CHAIN: Final = re.compile(rb"(?:%b\r?\n(?:[A-Za-z0-9+/=]{1,64}\r?\n)+%b(?:\r?\n)?){2,8}\x00?" % (_BEGIN, _END))
FACTS: Final = (
    *("tcb", "platform", "qe", "report", "latest_issue_date", "earliest_expiration_date"),
    *("qe_iden_latest_issue_date", "qe_iden_earliest_expiration_date"),
)
MAX_FACTS: Final = 64
REPORT_DATA: Final = 64
_FACTS: Final[OrderedDict[tuple[bytes, ...], dict[str, Any]]] = OrderedDict()
SWITCHES: Final = ("dynamic_platform", "cached_keys", "smt_enabled")


def need_shape(evidence: Evidence, optional: frozenset[str] = frozenset()) -> None:
    """A quote and its collateral within their limits, and nothing unknown beside. Raises attestation.malformed."""
    names = set(evidence.aux)
    if not 0 < len(evidence.blob) <= MAX_QUOTE or not {"collateral"} <= names <= {"collateral"} | optional:
        found = f"{len(evidence.blob)} bytes and {', '.join(sorted(names)) or 'nothing'}"
        raise MALFORMED(expected=f"a quote of at most {MAX_QUOTE} bytes and collateral", found=found)
    if len(evidence.aux["collateral"]) > MAX_COLLATERAL:
        raise MALFORMED(expected=f"collateral of at most {MAX_COLLATERAL} bytes", found="more")


def need_layout(blob: bytes, body: int, *, nested: bool) -> bytes:
    """The PCK chain (PEM) of a quote whose every length is right to the byte, with zeros behind it and nothing else.

    Args: body (bytes before the length of the signature data), nested (version 4 and 5 wrap the QE report in
    certification data of type 6). Raises attestation.malformed.
    """
    end = body + 4 + int.from_bytes(blob[body : body + 4], "little")
    if end > len(blob) or any(blob[end:]):
        raise MALFORMED(expected=f"a quote of {end} bytes and zero padding", found=f"{len(blob)} bytes, other content")
    at = Reader(blob[body + 4 : end], "the quote's signature data", "little")
    at.take(SIGNATURE + KEY)
    if nested:
        _need_certification(at, QE_REPORT_DATA)
    at.take(QE_REPORT + SIGNATURE)
    at.take(at.number(2))
    _need_certification(at, PCK_CHAIN)
    return at.take(at.left())


@lru_cache(maxsize=256)
def need_same_root(chain: bytes, root: bytes) -> None:
    """The quote's own chain is plain PEM and ends in the root of its collateral: dcap-qvl looks at neither.

    A machine's chain is the same in all its quotes, so some that hold are remembered.
    Raises attestation.malformed, attestation.root.
    """
    if not _PEM_CHAIN.fullmatch(chain):
        raise MALFORMED(expected="a PCK chain in PEM, lines of at most 64 characters", found=f"{len(chain)} bytes")
    last = chain[chain.rindex(_BEGIN) + len(_BEGIN) : chain.rindex(_END)]
    own = base64.b64decode(b"".join(last.split()))
    if own != root:
        raise UNPINNED_ROOT(expected="the collateral's root in the quote", found=hashlib.sha256(own).hexdigest()[:16])


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


@lru_cache(maxsize=16)
def need_chains(data: bytes) -> tuple[int, int]:
    """Every chain in collateral holds to its root, which is the one of all three; a few are remembered.

    Returns the time (first and last second) in which all their certificates are valid: ``need_dates`` compares it.

    dcap-qvl reads neither the chain of the PCK's revocation list nor the root of the QE identity's: without this, both
    could say anything. Raises attestation.malformed, attestation.certificate, attestation.root.
    """
    collateral, root = open_collateral(data)
    start, end = 0, MAX_TIME
    for name in CHAINS:
        chain = load_pem_chain(getattr(collateral, name).encode(), name)
        own = chain[-1].public_bytes(Encoding.DER)
        if own != root:
            raise UNPINNED_ROOT(
                expected=f"one root in all chains, {name} too", found=hashlib.sha256(own).hexdigest()[:16]
            )
        for certificate, issuer in zip(chain, (*chain[1:], chain[-1]), strict=True):
            need_issued(certificate, issuer, COMMON)
        start = max(start, *(int(one.not_valid_before_utc.timestamp()) for one in chain))
        end = min(end, *(int(one.not_valid_after_utc.timestamp()) for one in chain))
    authority = load_pem_chain(collateral.pck_crl_issuer_chain.encode(), "pck_crl_issuer_chain")[0]
    revoked = x509.load_der_x509_crl(collateral.pck_crl)
    if revoked.issuer != authority.subject or not revoked.is_signature_valid(authority.public_key()):  # type: ignore[arg-type]
        raise BAD_CERTIFICATE(expected="the chain of who signed pck_crl", found=common_name(authority)[:64])
    return start, end


def verified(evidence: Evidence, body: int, said: int, root: bytes, now: int, refusal: Refusal) -> dict[str, Any]:
    """What dcap-qvl found, under this root and no other; the report data in it may be another quote's.

    Raises ``refusal``. Args: body (bytes before the length of the signature data, as for ``need_layout``), said (where
    the report data stands, below ``body``). Quotes that differ only there and in their own signature are of one guest,
    one QE and one machine: their facts are the same, and some are remembered. Every signature, certificate and date of
    each quote is verified all the same.
    """
    blob, (collateral, _) = evidence.blob, open_collateral(evidence.aux["collateral"])
    rest = blob[:said], blob[said + REPORT_DATA : body + 4], blob[body + 4 + SIGNATURE :]
    name = (root, evidence.aux["collateral"], *rest)
    try:
        if (known := _FACTS.get(name)) is not None:
            verify_with_root_ca(blob, collateral, root, now)
            return known
        # `claims_only` judges nothing but authenticity: statuses and switches are our policy's business.
        claims = _verifier(root).verify_with_policy(blob, collateral, now, QuotePolicy.claims_only(now))
    except ValueError as error:
        raise refusal(expected="a quote that verifies", found=str(error)) from None
    parsed = json.loads(claims.to_json())
    if not isinstance(parsed, dict):
        raise refusal(expected="claims", found=type(parsed).__name__)
    _FACTS[name] = facts = {fact: parsed[fact] for fact in FACTS}
    while len(_FACTS) > MAX_FACTS:
        _FACTS.popitem(last=False)
    return facts


def need_dates(found: Mapping[str, Any], chains: tuple[int, int], now: int) -> int:
    """Every date, revocation lists included; returns the last second of validity. Raises attestation.expired.

    Args: found (of dcap-qvl), chains (of ``need_chains``), now (Unix seconds).
    """
    start = max(found["latest_issue_date"], found["qe_iden_latest_issue_date"], chains[0])
    # The second of a revocation list's nextUpdate is already too late.
    end = min(found["earliest_expiration_date"] - 1, found["qe_iden_earliest_expiration_date"] - 1, chains[1])
    if not start <= now <= end:
        raise OUT_OF_DATE(expected=f"collateral valid from {start} to {end}", found=str(now))
    return int(end)


def platform_details(found: Mapping[str, Any]) -> dict[str, Any]:
    """Facts of the platform for policy.

    "pck_authority": which CA issued the PCK. Only Intel's platform CA names a platform instance and says the switches.
    """
    platform, pck = found["platform"], found["platform"]["pck"]
    levels = (platform["tcb_level"], found["qe"]["tcb_level"])
    old = [level for level in levels if level["tcbStatus"] != "UpToDate"]  # a grace runs from the older of these
    return {
        "fmspc": bytes(pck["fmspc"]).hex().upper(),
        **{name: str(pck[name]) for name in SWITCHES},
        "pck_authority": "processor" if pck["platform_instance_id"] is None else "platform",
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


def _need_certification(at: Reader, kind: int) -> None:
    found, size = at.number(2), at.number(4)
    if found != kind or size != at.left():
        raise MALFORMED(expected=f"{at.left()} bytes of certification data of type {kind}", found=f"{size}, {found}")


def _seconds(text: str) -> int:
    return int(datetime.datetime.fromisoformat(text).timestamp())
