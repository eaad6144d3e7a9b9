"""Intel TDX quotes, versions 4 and 5 (Intel DCAP quote library API; spec/attestation.md 3).

What Intel's TEEs share is in ``dcap``. Here: that it is TDX and not SGX, debug, the registers, and the boot log.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, Final

from dcap_qvl import parse_quote

from cloister.core.attestation import dcap, eventlog
from cloister.core.attestation.model import Claims, Evidence
from cloister.core.attestation.refusals import DEBUG, MALFORMED, fail_closed
from cloister.core.attestation.roots import Roots
from cloister.core.errors import AttestationError, define

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
_LOG: Final = frozenset({"event_log"})

REFUSED = define(
    "attestation.tdx_quote",
    AttestationError,
    check="the quote, its certificates, revocation lists, TCB info and QE identity verify together",
    remedy="fetch collateral for this machine's FMSPC again; if it stays refused, the machine needs a TCB update",
)


@fail_closed
def verify(evidence: Evidence, roots: Roots, now: int) -> Claims:
    """Claims of an authentic TDX quote.

    Args: evidence (blob: the quote; aux: "collateral", JSON of the nine QuoteCollateralV3 fields, and optionally
    "event_log", the CCEL of this boot), roots (uses "intel"), now (Unix seconds). Raises AttestationError.
    """
    # 1. Sizes and names, before anything is parsed.
    dcap.need_shape(evidence, _LOG)
    # 2. A TDX quote of version 4 or 5; its lengths are exact, and what follows is zero padding.
    quote = parse_quote(evidence.blob)
    if quote.header.tee_type != TEE_TYPE_TDX or quote.header.version not in (4, 5):
        found = f"version {quote.header.version}, TEE type {quote.header.tee_type:#x}"
        raise MALFORMED(expected="a TDX quote, version 4 or 5", found=found)
    start = 48 if quote.header.version == 4 else 54
    body = start + (584 if start == 48 else int.from_bytes(evidence.blob[50:54], "little"))
    chain = dcap.need_layout(evidence.blob, body, nested=True)
    # 3. No bit of the TUD (debug) group of the TD attributes.
    report = quote.report
    if report.td_attributes[0]:
        raise DEBUG(expected="TD attributes without debug", found=report.td_attributes.hex())
    # 4. Collateral parses into exactly its nine fields. 5. The root of all its chains is pinned, and is the quote's.
    _, root = dcap.open_collateral(evidence.aux["collateral"])
    roots.require(dcap.VENDOR, root)
    chains = dcap.need_chains(evidence.aux["collateral"])
    dcap.need_same_root(chain, root)
    # 6. Everything else, under that root and no other.
    found_claims = dcap.verified(evidence, body, start + 520, root, now, REFUSED)
    # 7. Every date, revocation lists included.
    fresh_until = dcap.need_dates(found_claims, chains, now)
    # 8. The boot log, where there is one, replays to the RTMRs.
    measurements = {ours: getattr(report, theirs) for ours, theirs in REGISTERS.items()}
    log = evidence.aux.get("event_log")
    events = eventlog.need_rtmrs(log, [measurements[name] for name in RTMRS]) if log is not None else None
    # 9. Claims.
    details = dcap.platform_details(found_claims) | _details(report, events)
    return _claims(report, found_claims, fresh_until, measurements, details)


def launch_measurement(claims: Claims) -> bytes:
    """48 bytes that name the launched software (spec/attestation.md 7).

    MRTD covers the firmware only. If the firmware measured more (any RTMR is not zero), the launch measurement is
    SHA-384(MRTD || RTMR0..3); otherwise it is MRTD itself.
    """
    parts = [claims.measurements[name] for name in RTMRS]
    if not any(any(part) for part in parts):
        return claims.measurements["mrtd"]
    return hashlib.sha384(b"".join((claims.measurements["mrtd"], *parts))).digest()


def check_platform(claims: Claims, rules: Mapping[str, Any]) -> None:
    """The policy's demands on an Intel platform. Raises AttestationError (attestation.platform)."""
    dcap.check_platform(claims, rules)


def _details(report: Any, events: int | None) -> dict[str, Any]:
    return {
        "td_attributes": report.td_attributes.hex(),
        "xfam": report.xfam.hex(),
        "tee_tcb_svn": report.tee_tcb_svn.hex(),
        "log_events": events,
    }


def _claims(
    report: Any,
    found: Mapping[str, Any],
    fresh_until: int,
    measurements: Mapping[str, bytes],
    details: Mapping[str, Any],
) -> Claims:
    return Claims(
        kind="tdx",
        vendor_class=dcap.VENDOR,
        generation=details["fmspc"],
        platform_id=bytes(found["platform"]["pck"]["ppid"]),
        measurements=measurements,
        debug=False,
        tcb_status=found["tcb"]["status"],
        advisories=tuple(found["tcb"]["advisory_ids"]),
        report_data=report.report_data,
        fresh_until=fresh_until,
        details=details,
    )
