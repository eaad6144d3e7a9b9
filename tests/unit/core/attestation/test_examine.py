"""Evidence of a file against a policy: report data, nonces, bindings; no verdict of it admits anybody."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloister.core.attestation.appraise import require
from cloister.core.attestation.examine import examine
from cloister.core.attestation.model import Evidence, Verdict
from cloister.core.attestation.policy import shipped
from cloister.core.errors import AttestationError, EncodingError
from support.hardware import KINDS, MEASUREMENT, NONCE, NOW, binding, evidence, instance, policy
from support.vectors import at, vectors

REPORT = bytes(range(1, 65))
SHORT = b"\x12\x34" + bytes(62)


def _codes(verdict: Verdict) -> list[str]:
    return [check.code for check in verdict.checks if not check.ok]


@pytest.mark.parametrize("kind", KINDS)
def test_good_evidence_passes_ten_numbered_checks(kind: str) -> None:
    verdict = examine(evidence(kind, REPORT), policy=policy(), now=NOW, report_data=REPORT)
    assert verdict.accepted
    assert [check.number for check in verdict.checks] == list(range(1, 11))
    assert verdict.claims is not None
    assert verdict.claims.report_data == REPORT


@pytest.mark.parametrize("kind", KINDS)
def test_a_verdict_of_a_file_admits_nobody(kind: str) -> None:
    verdict = examine(evidence(kind, REPORT), policy=policy(), now=NOW)
    assert verdict.accepted
    with pytest.raises(AttestationError) as caught:
        require(verdict)
    assert caught.value.code == "attestation.no_checks"


EXPECTED: dict[str, tuple[bytes, bytes, bool]] = {
    "the same 64 bytes": (REPORT, REPORT, True),
    "the beginning, zeros behind": (b"\x12\x34", SHORT, True),
    "the beginning, zeros said": (SHORT, SHORT, True),
    "the beginning, more behind": (REPORT[:32], REPORT, False),
    "another byte": (b"\x12\x35", SHORT, False),
    "nothing but zeros": (bytes(64), SHORT, False),
    "zeros where there are zeros": (bytes(1), bytes(64), True),
}


@pytest.mark.parametrize("sentence", EXPECTED)
@pytest.mark.parametrize("kind", KINDS)
def test_expected_report_data(kind: str, sentence: str) -> None:
    expected, held, good = EXPECTED[sentence]
    verdict = examine(evidence(kind, held), policy=policy(), now=NOW, report_data=expected)
    assert _codes(verdict) == ([] if good else ["attestation.report_data"])


NONCES: dict[str, tuple[bytes, bytes, bool]] = {
    "the whole report data": (REPORT, REPORT, True),
    "its first sixteen bytes": (REPORT[:16], REPORT, True),
    "its first fifteen bytes": (REPORT[:15], REPORT, False),
    "a short one with zeros behind": (b"\x12\x34", SHORT, True),
    "another": (b"\x07" * 32, REPORT, False),
    "its last bytes": (REPORT[32:], REPORT, False),
}


@pytest.mark.parametrize("sentence", NONCES)
def test_nonces_in_report_data(sentence: str) -> None:
    nonce, held, good = NONCES[sentence]
    verdict = examine(evidence("snp", held), policy=policy(), now=NOW, nonce=nonce)
    assert _codes(verdict) == ([] if good else ["attestation.nonce"])


def test_a_document_with_a_nonce_of_its_own_answers_by_that_one() -> None:
    fields = {"user_data": REPORT, "nonce": b"chosen by the verifier"}
    shown = Evidence("nitro", instance().document({0: MEASUREMENT, 4: b"\x04" * 48}, NOW, **fields))
    assert examine(shown, policy=policy(), now=NOW, nonce=b"chosen by the verifier").accepted
    for other in (b"chosen by another one..", REPORT, REPORT[:16]):
        assert _codes(examine(shown, policy=policy(), now=NOW, nonce=other)) == ["attestation.nonce"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_binding_that_comes_along_must_be_the_committed_one(kind: str) -> None:
    shown = evidence(kind)
    assert examine(shown, policy=policy(), now=NOW, binding=binding(), nonce=NONCE).accepted
    other = binding(role="gatekeeper")
    assert _codes(examine(shown, policy=policy(), now=NOW, binding=other)) == ["attestation.report_data"]
    assert _codes(examine(shown, policy=policy(), now=NOW, binding=binding(), nonce=bytes(31) + b"\1")) == [
        "attestation.nonce"
    ]
    both = examine(shown, policy=policy(), now=NOW, binding=other, nonce=b"\1" * 32)
    assert _codes(both) == ["attestation.report_data", "attestation.nonce"]


def test_unauthentic_evidence_ends_after_two_checks() -> None:
    shown = evidence("snp")
    bad = dataclasses.replace(shown, blob=shown.blob[:-1])
    verdict = examine(bad, policy=policy(), now=NOW, nonce=b"x")
    assert (len(verdict.checks), verdict.claims) == (2, None)
    assert not verdict.accepted


def test_a_kind_that_policy_does_not_name_is_refused_first() -> None:
    only = dataclasses.replace(policy(), kinds={"snp": policy().kinds["snp"]})
    assert _codes(examine(evidence("tdx"), policy=only, now=NOW)) == ["attestation.unknown_kind"]
    assert _codes(examine(Evidence("none", b"x"), policy=policy(), now=NOW)) == ["attestation.unknown_kind"]


def test_simulated_evidence_never_passes_a_shipped_policy() -> None:
    for kind in KINDS:
        for name in ("strict", "cloud"):
            assert _codes(examine(evidence(kind), policy=shipped(name), now=NOW)) == ["attestation.root"]


def test_expectations_have_a_size() -> None:
    for bad in (b"", bytes(65)):
        for name in ("report_data", "nonce"):
            with pytest.raises(EncodingError):
                examine(evidence("snp"), policy=policy(), now=NOW, **{name: bad})


def test_stale_documents_are_refused_and_later_ones_too() -> None:
    shown = evidence("nitro")
    assert examine(shown, policy=policy(), now=NOW + 300).accepted
    assert _codes(examine(shown, policy=policy(), now=NOW + 301)) == ["attestation.stale"]
    assert _codes(examine(shown, policy=policy(), now=NOW - 61)) == ["attestation.expired"]  # the leaf is that young


def test_a_real_azure_vm_answers_the_nonce_in_its_tpm_quote() -> None:
    from cloister.core.attestation.intake import read

    folder = vectors()
    beside = (folder / "amd-snp/roots/ask_ark_milan.pem").read_bytes()
    taken = read((folder / "azure-vtpm/snp/evidence-v1.json").read_bytes(), [beside])
    now = at("2026-11-22T00:00:00+00:00")
    open_policy = dataclasses.replace(shipped("cloud"), refused_generations=())
    asked = {
        nonce: _codes(examine(taken.evidence, policy=open_policy, now=now, nonce=nonce))
        for nonce in (b"challenge", b"other")
    }
    assert "attestation.nonce" not in asked[b"challenge"]
    assert "attestation.nonce" in asked[b"other"]


@settings(max_examples=100, deadline=None)
@given(st.binary(min_size=1, max_size=64))
def test_no_nonce_but_the_right_one_is_answered(nonce: bytes) -> None:
    verdict = examine(evidence("snp", REPORT), policy=policy(), now=NOW, nonce=nonce)
    assert verdict.accepted is (REPORT.startswith(nonce) and len(nonce) >= 16)
