"""Real evidence of real hardware: every case of VERDICTS.json for TDX, SNP and Nitro, under the vendors' roots."""

from __future__ import annotations

from typing import Any

import pytest

from cloister.core.attestation import kinds
from cloister.core.attestation.model import Evidence
from cloister.core.attestation.roots import Roots
from cloister.core.errors import AttestationError, CloisterError
from support.vectors import at, cases, der, evidence_of, vectors

ROOTS = Roots.production()


def _refusal(evidence: Evidence, now: int, roots: Roots = ROOTS) -> str:
    with pytest.raises(AttestationError) as caught:
        kinds.verify(evidence, roots, now)
    return caught.value.code


def _tdx_cases() -> list[dict[str, Any]]:
    return [case for case in cases("dcap") if case["tee"] == "tdx"]


def test_there_are_cases_of_every_kind() -> None:
    assert (len(cases("dcap")), len(cases("snp")), len(cases("nitro"))) == (7, 8, 3)


def test_every_tdx_case_has_its_verdict() -> None:
    for case in _tdx_cases():
        evidence, now = evidence_of(case), at(case["verify_at"])
        if case["verdict"] == "reject":
            assert _refusal(evidence, now) == "attestation.tdx_quote", case["file"]
            continue
        claims = kinds.verify(evidence, ROOTS, now)
        assert claims.tcb_status == case["status"], case["file"]
        assert list(claims.advisories) == case["advisories"]
        assert claims.measurements["mrtd"].hex() == case["mr_td"]
        for place in range(4):
            assert claims.measurements[f"rtmr{place}"].hex() == case[f"rt_mr{place}"]
        assert claims.report_data.hex() == case["report_data"]
        assert claims.details["td_attributes"] == case["td_attributes"]
        assert (claims.generation, claims.vendor_class, claims.debug) == (case["fmspc"], "intel", False)


def test_an_sgx_quote_is_authentic_but_no_tdx_quote() -> None:
    (case,) = [case for case in cases("dcap") if case["tee"] == "sgx"]
    assert _refusal(evidence_of(case), at(case["verify_at"])) == "attestation.malformed"


def test_every_snp_case_has_its_verdict() -> None:
    for case in cases("snp"):
        evidence, now = evidence_of(case), at(case["verify_at"])
        if case["verdict"] == "reject":
            expected = "attestation.expired" if "validity" in case["error"] else "attestation.certificate"
            assert _refusal(evidence, now) == expected, case["vek"]
            continue
        claims = kinds.verify(evidence, ROOTS, now)
        assert claims.measurements["measurement"].hex() == case["measurement"]
        assert claims.measurements["host_data"].hex() == case["host_data"]
        assert claims.report_data.hex() == case["report_data"]
        assert claims.platform_id.hex().startswith(case["chip_id"].rstrip("."))
        assert claims.debug is case["debug_allowed"]
        assert claims.details["vmpl"] == case["vmpl"]
        assert claims.generation == case["product"].split("-")[0]
        assert claims.vendor_class == "amd"


def test_every_nitro_case_has_its_verdict_at_its_own_time_and_none_later() -> None:
    for case in cases("nitro"):
        evidence, now = evidence_of(case), at(case["verify_at"])
        claims = kinds.verify(evidence, ROOTS, now)
        assert claims.debug is case["debug"], case["file"]
        assert claims.report_data.hex() == case["user_data"]
        assert claims.fresh_until == at(case["leaf_not_after"])
        for index, pcr in case["pcrs"].items():
            assert claims.measurements[f"pcr{index}"].hex() == pcr
        assert claims.details["issued_at"] == now
        assert _refusal(evidence, at("2026-11-22T00:00:00+00:00")) == "attestation.expired"


def test_no_real_evidence_passes_under_another_vendor_or_without_roots() -> None:
    for case in (*_tdx_cases()[:1], *cases("snp")[:1], *cases("nitro")[:1]):
        evidence, now = evidence_of(case), at(case["verify_at"])
        vendor = {"dcap": "intel", "snp": "amd", "nitro": "aws"}[case["kind"]]
        others = Roots.of({v: p for v, p in ROOTS.fingerprints.items() if v != vendor})
        swapped = Roots.of({vendor: frozenset().union(*others.fingerprints.values())})
        for roots in (Roots.of({}), others, swapped):
            assert _refusal(evidence, now, roots) == "attestation.root"


def test_the_edges_of_validity_are_exact_to_the_second() -> None:
    for case in (_tdx_cases()[0], cases("snp")[1], cases("nitro")[0]):
        evidence = evidence_of(case)
        end = kinds.verify(evidence, ROOTS, at(case["verify_at"])).fresh_until
        assert kinds.verify(evidence, ROOTS, end).fresh_until == end
        expected = "attestation.tdx_quote" if evidence.kind == "tdx" else "attestation.expired"
        assert _refusal(evidence, end + 1) == expected


def test_collateral_from_the_future_is_refused() -> None:
    case = _tdx_cases()[0]
    assert _refusal(evidence_of(case), at("2025-06-18T00:00:00+00:00")) in (
        "attestation.tdx_quote",
        "attestation.expired",
    )


def test_a_debug_td_is_refused_by_name() -> None:
    quote = (vectors() / "intel-dcap/attestation-rs/tdx_quote_4.dat").read_bytes()
    aux = {"collateral": evidence_of(_tdx_cases()[0]).aux["collateral"]}
    assert _refusal(Evidence("tdx", quote, aux), at("2025-06-20T10:00:00+00:00")) == "attestation.debug"


def test_a_quote_with_something_behind_it_is_refused() -> None:
    quote = (vectors() / "intel-dcap/go-tdx-guest/tdx_prod_quote_SPR_E4.dat").read_bytes()
    aux = {"collateral": evidence_of(_tdx_cases()[0]).aux["collateral"]}
    assert _refusal(Evidence("tdx", quote, aux), at("2025-06-20T10:00:00+00:00")) == "attestation.malformed"


def test_a_chip_of_one_generation_does_not_pass_under_the_root_of_another() -> None:
    genoa = next(case for case in cases("snp") if case.get("product") == "Genoa")
    evidence, now = evidence_of(genoa), at(genoa["verify_at"])
    for generation in ("milan", "turin"):
        aux = {**evidence.aux, "ark": der(f"amd-snp/roots/{generation}/ark.der")}
        assert _refusal(Evidence("snp", evidence.blob, aux), now) == "attestation.certificate"
        aux["intermediate"] = der(f"amd-snp/roots/{generation}/ask.der")
        assert _refusal(Evidence("snp", evidence.blob, aux), now) == "attestation.certificate"


def test_the_key_of_another_chip_is_refused() -> None:
    milan, test_report = (next(c for c in cases("snp") if part in c["file"]) for part in ("milan_att", "test-report"))
    mixed = Evidence("snp", evidence_of(milan).blob, evidence_of(test_report).aux)
    assert _refusal(mixed, at(milan["verify_at"])) == "attestation.signature"


def test_flipped_bits_of_a_real_nitro_document_are_refused() -> None:
    case = cases("nitro")[0]
    evidence, now = evidence_of(case), at(case["verify_at"])
    step = len(evidence.blob) // 160
    for place in range(0, len(evidence.blob), step):
        bad = bytearray(evidence.blob)
        bad[place] ^= 1 << (place % 8)
        with pytest.raises(CloisterError):
            kinds.verify(Evidence("nitro", bytes(bad)), ROOTS, now)


def test_flipped_bits_of_real_reports_and_quotes_are_refused_or_change_no_claim() -> None:
    for case, count in ((_tdx_cases()[0], 400), (cases("snp")[1], 300)):
        evidence, now = evidence_of(case), at(case["verify_at"])
        honest = kinds.verify(evidence, ROOTS, now)
        signed = 632 if evidence.kind == "tdx" else 816
        step = len(evidence.blob) // count + 1
        for place in range(0, len(evidence.blob), step):
            bad = bytearray(evidence.blob)
            bad[place] ^= 1 << (place % 8)
            try:
                claims = kinds.verify(Evidence(evidence.kind, bytes(bad), evidence.aux), ROOTS, now)
            except CloisterError:
                continue
            assert place >= signed, place
            assert (claims.measurements, claims.report_data) == (honest.measurements, honest.report_data)
