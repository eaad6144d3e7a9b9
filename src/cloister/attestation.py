"""Attestation for outsiders: the same checks that gatekeepers run, in one import.

::

    from cloister.attestation import Roots, read_evidence, verify

    evidence = read_evidence(quote, [collateral]).evidence
    claims = verify(evidence, Roots.production(), now)  # authentic, or AttestationError
    print(claims.kind, claims.tcb_status, claims.report_data.hex())

``verify`` says that evidence is genuine, not that it is good: ``examine`` adds a policy, ``appraise`` the rules of a
network. Both return a verdict of numbered checks.
"""

from __future__ import annotations

from cloister.core.attestation.appraise import appraise, require
from cloister.core.attestation.devices import appraise_devices, bind_devices, device_nonce, gpu_bound, require_devices
from cloister.core.attestation.examine import examine, examine_bundle
from cloister.core.attestation.intake import Intake, claims_json
from cloister.core.attestation.intake import read as read_evidence
from cloister.core.attestation.kinds import KINDS, launch_measurement, verify
from cloister.core.attestation.model import ROLES, Binding, Check, Claims, Evidence, Verdict, measurement_id
from cloister.core.attestation.policy import NetworkParameters, Policy, devnet, shipped
from cloister.core.attestation.roots import VENDOR_ROOTS, Roots

__all__ = [
    "KINDS",
    "ROLES",
    "VENDOR_ROOTS",
    "Binding",
    "Check",
    "Claims",
    "Evidence",
    "Intake",
    "NetworkParameters",
    "Policy",
    "Roots",
    "Verdict",
    "appraise",
    "appraise_devices",
    "bind_devices",
    "claims_json",
    "device_nonce",
    "devnet",
    "examine",
    "examine_bundle",
    "gpu_bound",
    "launch_measurement",
    "measurement_id",
    "read_evidence",
    "require",
    "require_devices",
    "shipped",
    "verify",
]
