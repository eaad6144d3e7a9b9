"""Evidence and binding against policy: numbered checks, and a verdict (spec/attestation.md 6).

``appraise`` never raises for hostile input: it reports. ``require`` raises the first failing check. Whatever goes
wrong inside a check, foreign exceptions included, is that check failing.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from cloister.core.attestation import kinds
from cloister.core.attestation.model import ROLES, Binding, Check, Claims, Evidence, Verdict, measurement_id
from cloister.core.attestation.policy import Policy
from cloister.core.attestation.refusals import DEBUG, PLATFORM
from cloister.core.errors import AttestationError, CloisterError, Refusal, define

MAX_SKEW_S: Final = 60
DAY_S: Final = 86400


def _rule(name: str, check: str, remedy: str) -> Refusal:
    return define(f"attestation.{name}", AttestationError, check=check, remedy=remedy, status=403)


UNAUTHENTIC = _rule(
    "unauthentic", "the evidence is authentic", "send the evidence unchanged, of real hardware of a pinned vendor"
)
STALE = _rule("stale", "the evidence is still fresh", "produce new evidence now; compare the clocks of both sides")
TCB_STATUS = _rule(
    "tcb_status", "policy accepts the platform's TCB status", "update the machine's microcode and firmware"
)
ADVISORY = _rule("advisory", "no refused security advisory applies", "apply the vendor's fix for the named advisory")
GENERATION = _rule(
    "generation", "policy does not refuse the hardware generation", "use a newer generation of the hardware"
)
REPORT_DATA = _rule(
    "report_data", "the report data commits to this binding", "send the binding that the evidence was made for"
)
ROLE = _rule("role", "the node runs in the role that is asked for", "start the node in that role")
NETWORK = _rule("network", "the node belongs to this network", "give the node this network's network.json")
CHECKPOINT = _rule(
    "checkpoint", "the binding names a recent checkpoint", "let the node sync, then produce new evidence"
)
NONCE = _rule("nonce", "the binding answers this verifier's nonce", "answer with evidence made for this very nonce")
MEASUREMENT = _rule(
    "measurement",
    "policy lists the launched software for this role",
    "run a listed image, or have the measurement listed and wait for its delay",
)
NO_CHECKS = _rule(
    "no_checks", "a verdict has checks and claims", "appraise the evidence; do not build verdicts by hand"
)

Listed = Callable[[bytes], None] | frozenset[bytes]


@dataclass(frozen=True, slots=True)
class Asked:
    """What every check may read. now: Unix seconds."""

    evidence: Evidence
    policy: Policy
    now: int


@dataclass(frozen=True, slots=True)
class _Question(Asked):
    binding: Binding
    network: bytes
    role: str
    measurements: Listed
    checkpoints: frozenset[bytes] | None
    nonce: bytes | None


Facts = tuple[str, str]
Step = Callable[[Any, Claims], Facts]
Steps = tuple[tuple[Refusal, Step], ...]


def appraise(
    evidence: Evidence,
    binding: Binding,
    *,
    policy: Policy,
    now: int,
    network: bytes,
    role: str,
    measurements: Listed,
    checkpoints: frozenset[bytes] | None,
    nonce: bytes | None,
) -> Verdict:
    """Every check in order, each with what was expected and found.

    Args: now (Unix seconds), network (32-byte network id, or genesis id for founders), role (one of ROLES),
    measurements (the listed measurement ids, or a function that raises for an unlisted one), checkpoints (32-byte
    block hashes that count as recent; None: not asked), nonce (32 bytes that this verifier chose; None: not asked).
    Returns a Verdict. Without authentic claims it ends after the second check.
    """
    question = _Question(evidence, policy, now, binding, network, role, measurements, checkpoints, nonce)
    return judge(question, frozenset(kinds.KINDS) - kinds.DEVICES, STEPS)


def appraise_device(evidence: Evidence, *, policy: Policy, now: int) -> Verdict:
    """Checks 1 to 8 for a GPU or a switch. ``devices.appraise_devices`` calls it, once the CPU's binding names it."""
    return judge(Asked(evidence, policy, now), kinds.DEVICES, PLATFORM_STEPS)


def judge(question: Asked, allowed: frozenset[str], steps: Steps) -> Verdict:
    """Checks 1 and 2 for kinds of ``allowed``, then ``steps``. Never raises for hostile evidence."""
    first = _run(1, kinds.UNKNOWN_KIND, lambda: _known_kind(question, allowed))
    if not first.ok:
        return Verdict((first,), None)
    held: list[Claims] = []
    second = _run(2, UNAUTHENTIC, lambda: _authentic(question, held))
    if not second.ok:
        return Verdict((first, second), None)
    claims = held[0]
    rest = [_run(i, refusal, partial(step, question, claims)) for i, (refusal, step) in enumerate(steps, start=3)]
    return Verdict((first, second, *rest), claims)


def require(verdict: Verdict) -> Claims:
    """The claims of an accepted verdict. Raises AttestationError with the first failing check's code."""
    require_checks(verdict.checks)
    if verdict.claims is None or len(verdict.checks) != 2 + len(STEPS):
        raise NO_CHECKS(expected=f"{2 + len(STEPS)} checks and claims", found=f"{len(verdict.checks)} checks")
    return verdict.claims


def require_checks(checks: Iterable[Check]) -> None:
    """Raise AttestationError with the first failing check's code, if one fails."""
    for check in checks:
        if not check.ok:
            raise AttestationError(
                code=check.code,
                check=check.check,
                expected=check.expected,
                found=check.found,
                remedy=check.remedy,
                status=403,
            )


def _run(number: int, refusal: Refusal, step: Callable[[], Facts]) -> Check:
    try:
        expected, found = step()
    except CloisterError as error:
        text = (error.code, error.check, error.expected, error.found, error.remedy)
        return Check(number, *text, ok=False)
    except Exception as error:
        text = (refusal.code, refusal.check, "the check runs", type(error).__name__, refusal.remedy)
        return Check(number, *text, ok=False)
    return Check(number, refusal.code, refusal.check, expected, found, "", ok=True)


def _known_kind(q: Asked, allowed: frozenset[str]) -> Facts:
    both = sorted(allowed & set(q.policy.kinds))
    if q.evidence.kind not in both:
        raise kinds.UNKNOWN_KIND(expected=", ".join(both) or "none", found=str(q.evidence.kind)[:32] or "none")
    return ", ".join(both), q.evidence.kind


def _authentic(q: Asked, held: list[Claims]) -> Facts:
    claims = kinds.verify(q.evidence, q.policy.roots, q.now)
    if claims.kind != q.evidence.kind:
        raise UNAUTHENTIC(expected=q.evidence.kind, found=claims.kind)
    held.append(claims)
    return "a chain to a pinned root", f"{claims.vendor_class} {claims.generation}"


def _fresh(q: Asked, claims: Claims) -> Facts:
    issued = claims.details.get("issued_at")
    oldest, newest = q.now - q.policy.max_evidence_age_s, q.now + MAX_SKEW_S
    if q.now > claims.fresh_until:
        raise STALE(expected=f"a time until {claims.fresh_until}", found=str(q.now))
    if issued is not None and not oldest <= issued <= newest:
        raise STALE(expected=f"made between {oldest} and {newest}", found=str(issued))
    return f"valid at {q.now}", f"until {claims.fresh_until}"


def _tcb_status(q: Asked, claims: Claims) -> Facts:
    rules = q.policy.kinds[claims.kind]
    allowed, days = rules["tcb"], rules.get("grace", {}).get(claims.tcb_status)
    if claims.tcb_status in allowed:
        return " or ".join(allowed), claims.tcb_status
    dated = claims.details.get("tcb_date_s")
    if days is None or dated is None:
        raise TCB_STATUS(expected=" or ".join(allowed) or "none", found=claims.tcb_status)
    end = dated + days * DAY_S
    if q.now > end:
        raise TCB_STATUS(expected=f"{claims.tcb_status} until {end}", found=f"{claims.tcb_status} at {q.now}")
    return f"{claims.tcb_status} until {end}", f"{claims.tcb_status}, in its grace"


def _advisories(q: Asked, claims: Claims) -> Facts:
    bad = sorted(set(claims.advisories) & set(q.policy.refused_advisories))
    if bad:
        raise ADVISORY(expected="none of the refused advisories", found=", ".join(bad))
    return "none of the refused advisories", ", ".join(claims.advisories) or "none"


def _generation(q: Asked, claims: Claims) -> Facts:
    refused, names = q.policy.refused_generations, (claims.generation, *claims.details.get("generation_names", ()))
    if bad := [name for name in names if name in refused]:
        raise GENERATION(expected=f"not {' or '.join(refused)}", found=", ".join(bad))
    return f"not {' or '.join(refused)}" if refused else "any", ", ".join(names)


def _debug(q: Asked, claims: Claims) -> Facts:
    if claims.debug is not False:
        raise DEBUG(expected="debug off", found="on")
    return "debug off", "off"


def _platform(q: Asked, claims: Claims) -> Facts:
    kinds.PLATFORM_RULES[claims.kind](claims, q.policy.kinds[claims.kind])
    return "the policy's platform rules", "kept"


def _report_data(q: _Question, claims: Claims) -> Facts:
    expected = q.binding.report_data()
    if not hmac.compare_digest(expected, claims.report_data):
        raise REPORT_DATA(expected=expected.hex()[:32], found=claims.report_data.hex()[:32] or "nothing")
    return expected.hex()[:32], claims.report_data.hex()[:32]


def _role(q: _Question, claims: Claims) -> Facts:
    if q.binding.role != q.role or q.role not in ROLES:
        raise ROLE(expected=q.role, found=q.binding.role)
    possible = q.policy.kinds[claims.kind].get("roles", ROLES)
    if q.role not in possible:
        raise ROLE(expected=f"{' or '.join(possible) or 'no role'} on {claims.kind}", found=q.role)
    return q.role, q.binding.role


def _network(q: _Question, claims: Claims) -> Facts:
    if not hmac.compare_digest(q.binding.network, q.network):
        raise NETWORK(expected=q.network.hex()[:16], found=q.binding.network.hex()[:16])
    return q.network.hex()[:16], q.binding.network.hex()[:16]


def _checkpoint(q: _Question, claims: Claims) -> Facts:
    if q.checkpoints is None:
        return "not asked", "not asked"
    if q.binding.checkpoint not in q.checkpoints:
        raise CHECKPOINT(expected=f"one of {len(q.checkpoints)} recent", found=q.binding.checkpoint.hex()[:16])
    return f"one of {len(q.checkpoints)} recent", q.binding.checkpoint.hex()[:16]


def _nonce(q: _Question, claims: Claims) -> Facts:
    if q.nonce is None:
        return "not asked", "not asked"
    if len(q.nonce) != 32 or not hmac.compare_digest(q.binding.nonce, q.nonce):
        raise NONCE(expected=q.nonce.hex()[:16], found=q.binding.nonce.hex()[:16])
    return q.nonce.hex()[:16], q.binding.nonce.hex()[:16]


def _measurement(q: _Question, claims: Claims) -> Facts:
    measurement = kinds.launch_measurement(claims)
    name = measurement_id(q.role, measurement)
    if not isinstance(q.measurements, frozenset):
        q.measurements(name)
    elif name not in q.measurements:
        raise MEASUREMENT(expected=f"one of {len(q.measurements)} listed", found=measurement.hex()[:16])
    return "a listed measurement", measurement.hex()[:16]


STEPS: Final[Steps] = (
    (STALE, _fresh),
    (TCB_STATUS, _tcb_status),
    (ADVISORY, _advisories),
    (GENERATION, _generation),
    (DEBUG, _debug),
    (PLATFORM, _platform),
    (REPORT_DATA, _report_data),
    (ROLE, _role),
    (NETWORK, _network),
    (CHECKPOINT, _checkpoint),
    (NONCE, _nonce),
    (MEASUREMENT, _measurement),
)
PLATFORM_STEPS: Final[Steps] = STEPS[:6]  # up to the platform: a device has no role, network or measurement of ours
