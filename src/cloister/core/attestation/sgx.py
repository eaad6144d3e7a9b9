"""Intel SGX quotes, version 3 (Intel SGX ECDSA quote library API; spec/attestation.md 15).

An SGX quote verifies under the same keys as a TDX quote, so the TEE type is checked first. Machines with DDR4 memory
carry the extra generation name "SGX-DDR4": their memory encryption repeats itself, and an interposer on the bus
can replay it. Models that are not known to be newer count as DDR4.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from dcap_qvl import parse_quote

from cloister.core.attestation import dcap
from cloister.core.attestation.model import Claims, Evidence
from cloister.core.attestation.refusals import DEBUG, MALFORMED, PLATFORM, fail_closed
from cloister.core.attestation.roots import Roots
from cloister.core.errors import AttestationError, define

TEE_TYPE_SGX: Final = 0
BODY: Final = 48 + 384
INIT, DEBUG_BIT, PROVISION_KEY = 0x01, 0x02, 0x10
DDR4: Final = "SGX-DDR4"
# CPUID signature without stepping, as an FMSPC holds it after its first digit: Sapphire and Emerald Rapids, Granite
# Rapids and its D, Sierra Forest, Raptor Lake E. All have DDR5 only.
DDR5_MODELS: Final = frozenset({"0806F", "0C06F", "0A06D", "0A06E", "0A06F", "0B067"})

REFUSED = define(
    "attestation.sgx_quote",
    AttestationError,
    check="the SGX quote, its certificates, revocation lists, TCB info and QE identity verify together",
    remedy="fetch SGX collateral for this machine's FMSPC again; if it stays refused, the machine needs a TCB update",
)


@fail_closed
def verify(evidence: Evidence, roots: Roots, now: int) -> Claims:
    """Claims of an authentic SGX quote.

    Args: evidence (blob: the quote; aux: "collateral"), roots (uses "intel"), now (Unix seconds). Raises
    AttestationError.
    """
    # 1. Sizes and names, before anything is parsed.
    dcap.need_shape(evidence)
    # 2. An SGX quote of version 3; its lengths are exact, and what follows is zero padding.
    quote = parse_quote(evidence.blob)
    if quote.header.tee_type != TEE_TYPE_SGX or quote.header.version != 3:
        found = f"version {quote.header.version}, TEE type {quote.header.tee_type:#x}"
        raise MALFORMED(expected="an SGX quote, version 3", found=found)
    chain = dcap.need_layout(evidence.blob, BODY, nested=False)
    # 3. An initialised enclave without debug access and without the provisioning key.
    flags = quote.report.attributes[0]
    if flags & DEBUG_BIT:
        raise DEBUG(expected="enclave attributes without debug", found=quote.report.attributes.hex())
    if not flags & INIT or flags & PROVISION_KEY:
        raise MALFORMED(expected="an initialised enclave of an application", found=quote.report.attributes.hex())
    # 4. Collateral parses into exactly its nine fields. 5. The root of all its chains is pinned, and is the quote's.
    _, root = dcap.open_collateral(evidence.aux["collateral"])
    roots.require(dcap.VENDOR, root)
    chains = dcap.need_chains(evidence.aux["collateral"])
    dcap.need_same_root(chain, root)
    # 6. Everything else, under that root and no other.
    found_claims = dcap.verified(evidence, BODY, BODY - dcap.REPORT_DATA, root, now, REFUSED)
    # 7. Every date, revocation lists included.
    fresh_until = dcap.need_dates(found_claims, chains, now)
    # 8. Claims.
    return _claims(found_claims, quote.report.report_data, fresh_until)


def launch_measurement(claims: Claims) -> bytes:
    """MRENCLAVE, 32 bytes: the enclave as it was built."""
    return claims.measurements["mrenclave"]


def check_platform(claims: Claims, rules: Mapping[str, Any]) -> None:
    """The demands on an Intel platform, and on who signed the enclave. Raises attestation.platform."""
    dcap.check_platform(claims, rules)
    signers = rules["signers"]
    if not signers:
        return
    signer = signers.get(claims.measurements["mrsigner"].hex())
    if signer is None:
        found = claims.measurements["mrsigner"].hex()[:32]
        raise PLATFORM(expected=f"an enclave signed by one of {len(signers)} listed keys", found=found)
    product, version = claims.details["isv_prod_id"], claims.details["isv_svn"]
    if product != signer["isv_prod_id"] or version < signer["min_isv_svn"]:
        expected = f"product {signer['isv_prod_id']}, version >= {signer['min_isv_svn']}"
        raise PLATFORM(expected=expected, found=f"product {product}, version {version}")


def generation_names(fmspc: str) -> tuple[str, ...]:
    """Further names of the hardware generation that policy may refuse: "SGX-DDR4", unless the model has DDR5."""
    return () if fmspc[1:6] in DDR5_MODELS else (DDR4,)


def _claims(found: Mapping[str, Any], report_data: bytes, fresh_until: int) -> Claims:
    report = {k: bytes.fromhex(v) if isinstance(v, str) else v for k, v in found["report"]["SgxEnclave"].items()}
    details = dcap.platform_details(found)
    return Claims(
        kind="sgx",
        vendor_class=dcap.VENDOR,
        generation=details["fmspc"],
        platform_id=bytes(found["platform"]["pck"]["ppid"]),
        measurements={"mrenclave": report["mr_enclave"], "mrsigner": report["mr_signer"]},
        debug=False,
        tcb_status=found["tcb"]["status"],
        advisories=tuple(found["tcb"]["advisory_ids"]),
        report_data=report_data,
        fresh_until=fresh_until,
        details={
            **details,
            "isv_prod_id": report["isv_prod_id"],
            "isv_svn": report["isv_svn"],
            "attributes": report["attributes"].hex(),
            "misc_select": report["misc_select"],
            "cpu_svn": report["cpu_svn"].hex(),
            "generation_names": generation_names(details["fmspc"]),
        },
    )
