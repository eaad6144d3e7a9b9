"""Azure confidential VMs: a vTPM in a paravisor, in front of SEV-SNP or TDX (spec/attestation.md 10).

The hardware signs a hash of runtime data that names the vTPM's key; that key signs PCR values and the report data. So
two parties are trusted: the CPU vendor, and Microsoft, whose paravisor runs the vTPM inside the protected VM. The
paravisor itself is part of the hardware's launch measurement.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from cloister.core.attestation import hcl, snp, tdx
from cloister.core.attestation.model import Claims, Evidence
from cloister.core.attestation.refusals import MALFORMED, PLATFORM, fail_closed
from cloister.core.attestation.roots import Roots
from cloister.core.attestation.tpm import (
    check_log,
    check_quote,
    named,
    quote_details,
    report_data_of,
    static_pcrs,
)
from cloister.core.attestation.tpm_structures import MAX_PCRS
from cloister.core.errors import AttestationError, define

SNP_PARTS: Final = {"vek", "intermediate", "ark"}
TDX_PARTS: Final = {"td_quote", "collateral"}
_TPM_PARTS: Final = {"quote", "signature", "pcrs"}
_OPTIONAL: Final = {"report_data", "event_log"}
_CRL: Final = {"crl"}  # of AMD, as for ``snp``

UNBOUND_RUNTIME = define(
    "attestation.runtime_data",
    AttestationError,
    check="the hardware's report data is the hash of the paravisor's runtime data",
    remedy="read the HCL report again, and for TDX request the quote over that very report",
)


@fail_closed
def verify_snp(evidence: Evidence, roots: Roots, now: int) -> Claims:
    """Claims of an Azure VM on SEV-SNP.

    Args: evidence (blob: HCL report; aux: "vek", "intermediate", "ark" and optionally "crl" as for ``snp``, and the
    vTPM's "quote", "signature", "pcrs", optionally "report_data", "event_log"), roots (uses "amd"), now (Unix seconds).
    Raises AttestationError.
    """
    # 1. Names and sizes.
    _need_shape(evidence, SNP_PARTS, _OPTIONAL | _CRL)
    # 2. The HCL report.
    report = hcl.parse(evidence.blob, hcl.SNP)
    # 3. The hardware's report, as section 4 says.
    aux = {name: part for name, part in evidence.aux.items() if name in SNP_PARTS | _CRL}
    inner = snp.verify(Evidence("snp", report.hardware, aux), roots, now)
    # 4 to 7. Runtime data, quote, log, report data; then claims.
    return _claims("azure-snp", "microsoft+amd", evidence, report, inner)


@fail_closed
def verify_tdx(evidence: Evidence, roots: Roots, now: int) -> Claims:
    """Claims of an Azure VM on TDX.

    Args: evidence (blob: HCL report; aux: "td_quote" and "collateral" as for ``tdx``, and the vTPM's parts as for
    ``verify_snp``), roots (uses "intel"), now (Unix seconds). Raises AttestationError.
    """
    # 1. Names and sizes.
    _need_shape(evidence, TDX_PARTS, _OPTIONAL)
    # 2. The HCL report.
    report = hcl.parse(evidence.blob, hcl.TDX)
    # 3. The TD quote, as section 3 says, and made of the TD report in the HCL report.
    quote = Evidence("tdx", evidence.aux["td_quote"], {"collateral": evidence.aux["collateral"]})
    inner = tdx.verify(quote, roots, now)
    _need_same_td(report.hardware, inner)
    # 4 to 7. Runtime data, quote, log, report data; then claims.
    return _claims("azure-tdx", "microsoft+intel", evidence, report, inner)


def launch_measurement(claims: Claims) -> bytes:
    """SHA-384 over the hardware's launch measurement (the paravisor) and the quoted PCRs 0 to 15 (what it started)."""
    inner = snp.launch_measurement(claims) if claims.kind == "azure-snp" else tdx.launch_measurement(claims)
    return hashlib.sha384(inner + static_pcrs(claims)).digest()


def check_platform(claims: Claims, rules: Mapping[str, Any]) -> None:
    """The hardware's rules, and secure boot of the VM. Raises AttestationError (attestation.platform)."""
    (snp if claims.kind == "azure-snp" else tdx).check_platform(claims, rules)
    if not rules["allow_secure_boot_off"] and claims.details["secure_boot"] is not True:
        raise PLATFORM(expected="secure boot on", found=str(claims.details["secure_boot"])[:16])


def _need_shape(evidence: Evidence, hardware: set[str], optional: set[str]) -> None:
    wanted = hardware | _TPM_PARTS
    if set(evidence.aux) - optional != wanted:
        found = ", ".join(sorted(evidence.aux))[:128] or "nothing"
        raise MALFORMED(expected=", ".join(sorted(wanted)), found=found)
    if len(evidence.aux["signature"]) > 512 or len(evidence.aux["pcrs"]) > MAX_PCRS:
        raise MALFORMED(expected=f"a signature of 512 and PCR values of {MAX_PCRS} bytes at most", found="more")


def _need_same_td(report: bytes, inner: Claims) -> None:
    # TDREPORT: report data at 128, TDINFO at 512 (attributes, XFAM, MRTD, three owner fields, RTMR 0 to 3).
    names = ("mrtd", "mr_config_id", "mr_owner", "mr_owner_config", "rtmr0", "rtmr1", "rtmr2", "rtmr3")
    head = bytes.fromhex(inner.details["td_attributes"] + inner.details["xfam"])
    signed = inner.report_data + head + b"".join(inner.measurements[name] for name in names)
    if any(report[1024:]) or not hmac.compare_digest(report[128:192] + report[512:912], signed):
        raise UNBOUND_RUNTIME(expected="the TD report that was quoted", found="another")


def _claims(kind: str, vendor_class: str, evidence: Evidence, report: hcl.HclReport, inner: Claims) -> Claims:
    # 4. The hardware signed this runtime data: its hash, then zeros.
    if not hmac.compare_digest(inner.report_data, report.digest.ljust(64, b"\0")):
        raise UNBOUND_RUNTIME(expected=report.digest.hex()[:32], found=inner.report_data.hex()[:32])
    # 5. The vTPM's key, named there, signed the quote, and the quote covers the PCR values.
    aux = evidence.aux
    quote, pcrs = check_quote(aux["quote"], aux["signature"], aux["pcrs"], report.ak)
    # 6. The log explains the values.
    events = check_log(aux.get("event_log"), pcrs)
    # 7. Report data: of the vTPM, not of the hardware.
    report_data = report_data_of(quote, aux.get("report_data"))
    configuration = report.runtime.get("vm-configuration")
    settings = configuration if isinstance(configuration, dict) else {}
    details = {
        **inner.details,
        **quote_details(quote),
        "events": events,
        "also_trusted": "Microsoft's paravisor, which runs the vTPM inside the VM",
        "secure_boot": settings.get("secure-boot"),
        "vm_id": str(settings.get("vmUniqueId", ""))[:64],
    }
    return replace(
        inner,
        kind=kind,
        vendor_class=vendor_class,
        measurements={**inner.measurements, **named(pcrs)},
        report_data=report_data,
        details=details,
    )
