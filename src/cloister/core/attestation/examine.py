"""Evidence of a file against a policy, without a network: what ``cloister verify evidence`` runs (spec 6.3).

The checks are those of ``appraise`` that need neither chain nor role; report data and nonce are compared where the
caller expects some. A verdict of ``examine`` admits nobody: ``appraise.require`` refuses it, for it lacks checks.
"""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

from cloister.core.attestation import kinds
from cloister.core.attestation.appraise import NONCE, PLATFORM_STEPS, REPORT_DATA, Asked, Facts, Steps, judge
from cloister.core.attestation.devices import NAME, appraise_devices
from cloister.core.attestation.model import Binding, Claims, Evidence, Verdict
from cloister.core.attestation.policy import Policy
from cloister.core.encoding.hexes import BAD_FIELD

MAX_EXPECTED: Final = 64
PREFIX: Final = 16


def examine(
    evidence: Evidence,
    *,
    policy: Policy,
    now: int,
    report_data: bytes | None = None,
    nonce: bytes | None = None,
    binding: Binding | None = None,
) -> Verdict:
    """Checks 1 to 8 of an appraisal, then report data and nonce.

    Args: now (Unix seconds), report_data (1 to 64 bytes that must be there, zeros behind; None: not asked, unless a
    binding is given), nonce (1 to 64 bytes; None: not asked), binding (what the report data commits to, if said).
    Never raises for hostile evidence; EncodingError for an expectation of another size.
    """
    for name, expected in (("report data", report_data), ("nonce", nonce)):
        if expected is not None and not 0 < len(expected) <= MAX_EXPECTED:
            raise BAD_FIELD(expected=f"{name} of 1 to {MAX_EXPECTED} bytes", found=f"{len(expected)} bytes")

    def commits(_: object, claims: Claims) -> Facts:
        if report_data is not None:
            return _need(report_data, claims.report_data)
        if binding is None:
            return "not asked", claims.report_data.hex()[:32] or "nothing"
        return _need(binding.report_data(), claims.report_data)

    def answers(_: object, claims: Claims) -> Facts:
        if nonce is None:
            return "not asked", "not asked"
        own = binding.nonce if binding is not None else claims.details.get("nonce")
        shown = own or claims.report_data
        if not _holds(nonce, shown):
            raise NONCE(expected=nonce.hex()[:32], found=shown.hex()[:32] or "nothing")
        return nonce.hex()[:32], shown.hex()[:32]

    steps: Steps = (*PLATFORM_STEPS, (REPORT_DATA, commits), (NONCE, answers))
    return judge(Asked(evidence, policy, now), frozenset(kinds.KINDS), steps)


def examine_bundle(
    evidence: Evidence, devices: Sequence[Evidence], *, policy: Policy, now: int, binding: Binding | None, **asked: Any
) -> Verdict:
    """``examine``, and for devices beside the evidence ``appraise_devices``: one verdict, the claims of the CPU.

    A binding that names devices demands them: without them, or with others, the verdict is a refusal. ``asked``:
    report_data and nonce as of ``examine``.
    """
    verdict = examine(evidence, policy=policy, now=now, binding=binding, **asked)
    if not devices and (binding is None or NAME not in binding.keys):
        return verdict
    if binding is None:
        raise BAD_FIELD(expected="a binding that names the devices", found="none")
    beside = appraise_devices(devices, binding, policy=policy, now=now)
    start = len(verdict.checks)
    more = tuple(replace(check, number=start + place) for place, check in enumerate(beside.checks, start=1))
    return Verdict(verdict.checks + more, verdict.claims)


def _need(expected: bytes, found: bytes) -> Facts:
    if not hmac.compare_digest(expected.ljust(len(found), b"\0"), found):
        raise REPORT_DATA(expected=expected.hex()[:32], found=found.hex()[:32] or "nothing")
    return expected.hex()[:32], found.hex()[:32]


def _holds(nonce: bytes, shown: bytes) -> bool:
    """The nonce with zeros behind; or in front of more, if it is long enough to be nobody's choice but ours."""
    if len(nonce) >= PREFIX and hmac.compare_digest(nonce, shown[: len(nonce)]):
        return True
    return hmac.compare_digest(nonce.ljust(len(shown), b"\0"), shown)
