"""Attestation for outsiders: the same checks that gatekeepers run, in one import.

::

    from cloister.attestation import Binding, Evidence, appraise, require, shipped

    verdict = appraise(evidence, binding, policy=shipped("strict"), now=now, network=network, role="worker",
                       measurements=listed, checkpoints=None, nonce=nonce)
    for check in verdict.checks: print(check.number, check.ok, check.check, check.found)
    claims = require(verdict)
"""

from __future__ import annotations

from cloister.core.attestation.appraise import appraise, require
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
    "NetworkParameters",
    "Policy",
    "Roots",
    "Verdict",
    "appraise",
    "devnet",
    "launch_measurement",
    "measurement_id",
    "require",
    "shipped",
    "verify",
]
