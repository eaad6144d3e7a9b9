"""The registry of evidence kinds. A new kind is one file with three functions and one line here.

Each file has ``verify(evidence, roots, now) -> Claims``, ``launch_measurement(claims) -> bytes`` and
``check_platform(claims, rules) -> None``; each raises AttestationError and nothing else on hostile input.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

from cloister.core.attestation import azure, dstack, nitro, nvidia, sgx, snp, tdx, tpm
from cloister.core.attestation.model import Claims, Evidence
from cloister.core.attestation.roots import Roots
from cloister.core.errors import AttestationError, define

UNKNOWN_KIND = define(
    "attestation.unknown_kind",
    AttestationError,
    check="the evidence is of a kind that this build and the policy know",
    remedy="use hardware of a kind in the policy, or update this program",
)


class Verifier(Protocol):
    """Authentic claims, or AttestationError."""

    def __call__(self, evidence: Evidence, roots: Roots, now: int) -> Claims: ...


LaunchMeasurement = Callable[[Claims], bytes]
PlatformRule = Callable[[Claims, Mapping[str, Any]], None]

KINDS: Final[dict[str, Verifier]] = {
    "tdx": tdx.verify,
    "snp": snp.verify,
    "nitro": nitro.verify,
    "sgx": sgx.verify,
    "dstack": dstack.verify,
    "azure-snp": azure.verify_snp,
    "azure-tdx": azure.verify_tdx,
    "tpm": tpm.verify,
    "nvidia-gpu": nvidia.verify_gpu,
    "nvidia-switch": nvidia.verify_switch,
}
LAUNCH: Final[dict[str, LaunchMeasurement]] = {
    "tdx": tdx.launch_measurement,
    "snp": snp.launch_measurement,
    "nitro": nitro.launch_measurement,
    "sgx": sgx.launch_measurement,
    "dstack": dstack.launch_measurement,
    "azure-snp": azure.launch_measurement,
    "azure-tdx": azure.launch_measurement,
    "tpm": tpm.launch_measurement,
    "nvidia-gpu": nvidia.launch_measurement,
    "nvidia-switch": nvidia.launch_measurement,
}
PLATFORM_RULES: Final[dict[str, PlatformRule]] = {
    "tdx": tdx.check_platform,
    "snp": snp.check_platform,
    "nitro": nitro.check_platform,
    "sgx": sgx.check_platform,
    "dstack": dstack.check_platform,
    "azure-snp": azure.check_platform,
    "azure-tdx": azure.check_platform,
    "tpm": tpm.check_platform,
    "nvidia-gpu": nvidia.check_gpu,
    "nvidia-switch": nvidia.check_switch,
}
DEVICES: Final = frozenset({"nvidia-gpu", "nvidia-switch"})  # they count beside CPU evidence only: devices.py


def verify(evidence: Evidence, roots: Roots, now: int) -> Claims:
    """Authentic claims of any known kind. Raises AttestationError (attestation.unknown_kind and the kind's own)."""
    verifier = KINDS.get(evidence.kind)
    if verifier is None:
        raise UNKNOWN_KIND(expected=", ".join(sorted(KINDS)), found=evidence.kind[:32] or "none")
    return verifier(evidence, roots, now)


def launch_measurement(claims: Claims) -> bytes:
    """The 48 bytes under which policy lists the launched software."""
    return LAUNCH[claims.kind](claims)
