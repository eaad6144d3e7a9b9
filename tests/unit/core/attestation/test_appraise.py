"""Appraisal: honest evidence passes every check, and each check alone can fail it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest

from cloister.core.attestation import appraise as module
from cloister.core.attestation import kinds
from cloister.core.attestation.appraise import STEPS, appraise, require
from cloister.core.attestation.model import Binding, Check, Claims, Evidence, Verdict, measurement_id
from cloister.core.attestation.policy import Policy
from cloister.core.attestation.roots import Roots
from cloister.core.errors import AttestationError, PolicyError, define
from support.hardware import (
    CHECKPOINT,
    KINDS,
    MEASUREMENT,
    NETWORK,
    NONCE,
    NOW,
    binding,
    chip,
    collateral,
    evidence,
    platform,
    policy,
    roots,
)

LISTED = frozenset({measurement_id("worker", MEASUREMENT)})
UNLISTED = define("test.unlisted", PolicyError, check="a test lists it", remedy="none")


def _ask(evidence: Evidence, bound: Binding | None = None, **changes: Any) -> Verdict:
    question: dict[str, Any] = {
        "policy": policy(),
        "now": NOW,
        "network": NETWORK,
        "role": "worker",
        "measurements": LISTED,
        "checkpoints": frozenset({CHECKPOINT}),
        "nonce": NONCE,
    }
    return appraise(evidence, bound or binding(), **(question | changes))


def _failed(verdict: Verdict) -> list[str]:
    return [check.code for check in verdict.checks if not check.ok]


def _rules(kind: str, **changes: Any) -> Policy:
    honest = policy()
    return dataclasses.replace(honest, kinds={**honest.kinds, kind: {**honest.kinds[kind], **changes}})


@pytest.mark.parametrize("kind", KINDS)
def test_honest_evidence_of_every_kind_is_accepted(kind: str) -> None:
    verdict = _ask(evidence(kind))
    assert _failed(verdict) == []
    assert verdict.accepted
    assert require(verdict).kind == kind
    assert [check.number for check in verdict.checks] == list(range(1, 15))
    assert all(check.expected and check.found for check in verdict.checks)


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_evidence_is_refused_under_production_roots(kind: str) -> None:
    verdict = _ask(evidence(kind), policy=dataclasses.replace(policy(), roots=Roots.production()))
    assert _failed(verdict) == ["attestation.root"]
    assert verdict.claims is None
    assert not verdict.accepted


def test_checks_that_nobody_asked_for_say_so() -> None:
    verdict = _ask(evidence("tdx"), checkpoints=None, nonce=None)
    assert verdict.accepted
    said = {check.code: check.found for check in verdict.checks}
    assert said["attestation.checkpoint"] == said["attestation.nonce"] == "not asked"


def _old_nitro() -> Verdict:
    return _ask(evidence("nitro", now=NOW - 301))


def _debug_snp() -> Verdict:
    report = chip().report(MEASUREMENT, binding().report_data(), policy=0xA0000)
    return _ask(Evidence("snp", report, dict(chip().certificates)))


def _vmpl() -> Verdict:
    report = chip().report(MEASUREMENT, binding().report_data(), vmpl=2)
    return _ask(Evidence("snp", report, dict(chip().certificates)))


def _refuse(_: bytes) -> None:
    raise UNLISTED(expected="listed", found="unlisted")


ALONE: dict[str, tuple[str, Callable[[], Verdict]]] = {
    "the document is older than policy allows": ("attestation.stale", _old_nitro),
    "policy accepts no TCB status at all": (
        "attestation.tcb_status",
        lambda: _ask(evidence("tdx"), policy=_rules("tdx", tcb=())),
    ),
    "policy wants another TCB status": (
        "attestation.tcb_status",
        lambda: _ask(evidence("snp"), policy=_rules("snp", tcb=("Verified",))),
    ),
    "policy refuses the generation": (
        "attestation.generation",
        lambda: _ask(evidence("snp"), policy=dataclasses.replace(policy(), refused_generations=("Genoa",))),
    ),
    "the guest can be debugged": ("attestation.debug", _debug_snp),
    "the report comes from a lower privilege level": ("attestation.platform", _vmpl),
    "the firmware is below the floor": (
        "attestation.platform",
        lambda: _ask(evidence("snp"), policy=_rules("snp", minimum_tcb={"Genoa": {"snp": 26}})),
    ),
    "the report data is of another binding": (
        "attestation.report_data",
        lambda: _ask(evidence("tdx"), binding(boot=b"\x23" * 32)),
    ),
    "a key of the binding was swapped": (
        "attestation.report_data",
        lambda: _ask(evidence("snp"), binding(keys={"transport": b"\x45" * 48})),
    ),
    "the document has no report data": ("attestation.report_data", lambda: _ask(evidence("nitro", report_data=b""))),
    "the node belongs to another network": ("attestation.network", lambda: _ask(evidence("tdx"), network=bytes(32))),
    "the network asked for is no id": ("attestation.network", lambda: _ask(evidence("tdx"), network=b"")),
    "the checkpoint is not recent": (
        "attestation.checkpoint",
        lambda: _ask(evidence("tdx"), checkpoints=frozenset({bytes(32)})),
    ),
    "no checkpoint is recent": ("attestation.checkpoint", lambda: _ask(evidence("tdx"), checkpoints=frozenset())),
    "the nonce is another": ("attestation.nonce", lambda: _ask(evidence("tdx"), nonce=bytes(32))),
    "the nonce asked for is too short": ("attestation.nonce", lambda: _ask(evidence("tdx"), nonce=b"")),
    "nothing is listed": ("attestation.measurement", lambda: _ask(evidence("tdx"), measurements=frozenset())),
    "other software is listed": (
        "attestation.measurement",
        lambda: _ask(evidence("tdx"), measurements=frozenset({measurement_id("worker", bytes(48))})),
    ),
    "the software is listed for another role": (
        "attestation.measurement",
        lambda: _ask(evidence("tdx"), measurements=frozenset({measurement_id("gatekeeper", MEASUREMENT)})),
    ),
    "the list refuses by its own name": (
        "test.unlisted",
        lambda: _ask(evidence("tdx"), measurements=_refuse),
    ),
    "the list breaks": ("attestation.measurement", lambda: _ask(evidence("tdx"), measurements=_broken)),
}


def _broken(_: bytes) -> None:
    raise LookupError("the table is gone")


@pytest.mark.parametrize("sentence", ALONE)
def test_each_check_fails_alone(sentence: str) -> None:
    code, ask = ALONE[sentence]
    verdict = ask()
    assert _failed(verdict) == [code]
    assert not verdict.accepted
    with pytest.raises(AttestationError) as caught:
        require(verdict)
    assert (caught.value.code, caught.value.status) == (code, 403)
    assert caught.value.remedy


def test_a_role_other_than_the_one_asked_for_is_refused() -> None:
    bound = binding(role="gatekeeper")
    listed = frozenset({measurement_id("worker", MEASUREMENT)})
    made = evidence("tdx", bound.report_data())
    assert _failed(_ask(made, bound, measurements=listed)) == ["attestation.role"]
    assert _failed(_ask(evidence("tdx"), role="owner", measurements=lambda _: None)) == ["attestation.role"]


def test_a_refused_advisory_is_named() -> None:
    claims = kinds.verify(evidence("tdx"), roots(), NOW)
    open_ones = dataclasses.replace(claims, advisories=("INTEL-SA-00001", "INTEL-SA-00002"))
    strict = dataclasses.replace(policy(), refused_advisories=("INTEL-SA-00002",))
    verdict = _with_claims(open_ones, strict)
    assert _failed(verdict) == ["attestation.advisory"]
    assert next(c.found for c in verdict.checks if not c.ok) == "INTEL-SA-00002"
    assert _failed(_with_claims(open_ones, policy())) == []


def _with_claims(claims: Claims, rules: Policy, **changes: Any) -> Verdict:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(kinds.KINDS, "tdx", lambda evidence, roots, now: claims)
        return _ask(evidence("tdx"), policy=rules, **changes)


STRANGE: dict[str, tuple[str, dict[str, Any]]] = {
    "stale by a second": ("attestation.stale", {"fresh_until": NOW - 1}),
    "debug neither on nor off": ("attestation.debug", {"debug": None}),
    "no switch in the details": ("attestation.platform", {"details": {}}),
    "no launch measurement": ("attestation.measurement", {"measurements": {}}),
    "report data of another type": ("attestation.report_data", {"report_data": None}),
}


@pytest.mark.parametrize("sentence", STRANGE)
def test_claims_that_no_verifier_should_make_still_fail_closed(sentence: str) -> None:
    code, changes = STRANGE[sentence]
    honest = kinds.verify(evidence("tdx"), roots(), NOW)
    rules = _rules("tdx", allow_smt_enabled=False)
    assert _failed(_with_claims(dataclasses.replace(honest, **changes), rules)) == [code]


def test_a_document_may_be_a_minute_ahead_and_no_more() -> None:
    honest = kinds.verify(evidence("tdx"), roots(), NOW)
    for ahead, failed in ((60, []), (61, ["attestation.stale"]), (-300, []), (-301, ["attestation.stale"])):
        claims = dataclasses.replace(honest, details={**honest.details, "issued_at": NOW + ahead})
        assert _failed(_with_claims(claims, policy())) == failed


def test_freshness_ends_with_its_second() -> None:
    honest = kinds.verify(evidence("tdx"), roots(), NOW)
    assert _failed(_with_claims(dataclasses.replace(honest, fresh_until=NOW), policy())) == []


def test_unknown_kinds_are_refused_first() -> None:
    for kind in ("sgx2", "", "TDX", "tdx "):
        verdict = _ask(Evidence(kind, b"x"))
        assert _failed(verdict) == ["attestation.unknown_kind"]
        assert len(verdict.checks) == 1
        assert verdict.claims is None


def test_a_kind_that_policy_does_not_name_is_unknown_to_it() -> None:
    only_snp = dataclasses.replace(policy(), kinds={"snp": policy().kinds["snp"]})
    assert _failed(_ask(evidence("tdx"), policy=only_snp)) == ["attestation.unknown_kind"]
    assert _failed(_ask(evidence("snp"), policy=only_snp)) == []


def test_a_verifier_that_claims_another_kind_is_refused() -> None:
    other = kinds.verify(evidence("snp"), roots(), NOW)
    assert _failed(_with_claims(other, policy())) == ["attestation.unauthentic"]


def test_a_verifier_that_breaks_is_a_failed_check() -> None:
    def breaks(evidence: Evidence, roots: Roots, now: int) -> Claims:
        raise ZeroDivisionError

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(kinds.KINDS, "tdx", breaks)
        verdict = _ask(evidence("tdx"))
    assert _failed(verdict) == ["attestation.unauthentic"]
    assert verdict.checks[-1].found == "ZeroDivisionError"


def test_forged_evidence_ends_the_list_with_the_reason_of_its_kind() -> None:
    forged = Evidence("tdx", platform().quote(MEASUREMENT, bytes(64))[:-3], {"collateral": collateral()})
    verdict = _ask(forged)
    assert _failed(verdict) == ["attestation.malformed"]
    assert len(verdict.checks) == 2


def test_require_refuses_verdicts_that_nobody_appraised() -> None:
    honest = _ask(evidence("tdx"))
    good = honest.checks
    handmade = (
        Verdict((), None),
        Verdict((), honest.claims),
        Verdict(good[:-1], honest.claims),
        Verdict(good, None),
        Verdict((Check(1, "x.y", "c", "e", "f", "r", True),), honest.claims),
    )
    for verdict in handmade:
        with pytest.raises(AttestationError) as caught:
            require(verdict)
        assert caught.value.code == "attestation.no_checks"


def test_require_names_the_first_failure_of_several() -> None:
    verdict = _ask(evidence("tdx"), binding(boot=b"\x23" * 32), network=bytes(32), nonce=bytes(32))
    assert _failed(verdict) == ["attestation.report_data", "attestation.network", "attestation.nonce"]
    with pytest.raises(AttestationError, match="report data"):
        require(verdict)


def test_a_verdict_travels_as_json() -> None:
    first = _ask(evidence("tdx")).checks[0].to_json()
    assert first == {
        "number": 1,
        "code": "attestation.unknown_kind",
        "check": first["check"],
        "expected": ", ".join(sorted(set(policy().kinds) - kinds.DEVICES)),
        "found": "tdx",
        "remedy": "",
        "ok": True,
    }


def test_every_step_has_a_different_code() -> None:
    codes = [refusal.code for refusal, _ in STEPS]
    assert len(set(codes)) == len(codes) == 12
    assert module.MAX_SKEW_S == 60
