"""VERDICTS.json, entry by entry and field by field: what authenticity, strict and cloud say, and why.

An entry or a field that no table here knows fails the test: new evidence is not skipped silently.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cloister.core.attestation import kinds
from cloister.core.attestation.examine import examine
from cloister.core.attestation.model import Claims, Evidence
from cloister.core.attestation.policy import shipped
from cloister.core.attestation.roots import Roots
from cloister.core.errors import AttestationError
from support import vectors as support
from support.vectors import at, cases, evidence_of, vectors

Case = dict[str, Any]
LEVEL = ["attestation.tdx_quote"]  # no TCB level fits these machines
MILAN, DEBUG, PLATFORM = "attestation.generation", "attestation.debug", "attestation.platform"
# (file, key or "", year) -> codes that fail under strict, and under cloud
EXPECTED: dict[tuple[str, str, str], tuple[list[str], list[str]]] = {
    ("intel-dcap/phala/sgx_quote", "", "2025"): (["attestation.tcb_status", MILAN], ["attestation.tcb_status", MILAN]),
    ("intel-dcap/phala/tdx_quote", "", "2025"): ([PLATFORM], []),
    ("intel-dcap/phala/tdx_quote_outdated", "", "2026"): (LEVEL, LEVEL),
    ("dstack/quote-report.json", "", "2026"): ([PLATFORM], []),
    ("intel-dcap/phala/quote-from-tappd.hex", "", "2025"): (LEVEL, LEVEL),
    ("intel-dcap/phala/tdx-quote.hex", "", "2025"): (LEVEL, LEVEL),
    ("dstack/ra-tls_tdx_quote", "", "2025"): (LEVEL, LEVEL),
    ("amd-snp/microsoft/milan_attestation_report.bin", "milan_vcek.pem", "2026"): ([MILAN, PLATFORM], [MILAN]),
    ("amd-snp/microsoft/genoa_attestation_report.bin", "genoa_vcek.pem", "2026"): ([PLATFORM], []),
    ("amd-snp/attestation-rs/test-report.bin", "test-vcek.der", "2026"): ([MILAN, PLATFORM], [MILAN]),
    ("amd-snp/attestation-rs/test-vlek-report.bin", "test-vlek.der", "2024"): ([MILAN, PLATFORM], [MILAN]),
    ("amd-snp/attestation-rs/test-vlek-report.bin", "test-vlek.der", "2026"): (["attestation.expired"],) * 2,
    ("amd-snp/attestation-rs/test-report.bin", "test-vcek-invalid-legacy.der", "2026"): (["attestation.certificate"],)
    * 2,
    ("amd-snp/attestation-rs/test-report.bin", "test-vcek-invalid-new.der", "2026"): (["attestation.certificate"],) * 2,
    ("amd-snp/go-sev-guest/attestation.bin", "vcek.der", "2026"): ([MILAN, DEBUG, PLATFORM], [MILAN, DEBUG]),
    ("aws-nitro/dstack/nitro_attestation.cose", "", "2025"): ([], []),
    ("aws-nitro/dstack/nitro_attestation_dbg.cose", "", "2025"): ([DEBUG], [DEBUG]),
    ("aws-nitro/evervault/debug-mode-attestation-doc-bytes", "", "2022"): ([DEBUG], [DEBUG]),
}


def _key(case: Case) -> tuple[str, str, str]:
    return case["file"], Path(case.get("vek", "")).name, case["verify_at"][:4]


def _evidence(case: Case) -> Evidence:
    shown = evidence_of(case)
    return dataclasses.replace(shown, kind="sgx") if case.get("tee") == "sgx" else shown


def _listed() -> dict[tuple[str, str, str], Case]:
    return {_key(case): case for case in json.loads((vectors() / "VERDICTS.json").read_text())}


def test_every_entry_is_in_the_table_and_only_those() -> None:
    every = json.loads((vectors() / "VERDICTS.json").read_text())
    assert len(every) == len(_listed()) == len(EXPECTED) == 18
    assert set(_listed()) == set(EXPECTED)
    assert len(cases("dcap", "snp", "nitro")) == 18, "a kind that nothing reads"


@pytest.mark.parametrize("key", EXPECTED, ids=lambda key: " ".join(filter(None, (Path(key[0]).name, *key[1:]))))
def test_the_verdict_and_the_code_of_each_failing_check(key: tuple[str, str, str]) -> None:
    case = _listed()[key]
    for name, codes in zip(("strict", "cloud"), EXPECTED[key], strict=True):
        verdict = examine(_evidence(case), policy=shipped(name), now=at(case["verify_at"]))
        failing = [check for check in verdict.checks if not check.ok]
        assert [check.code for check in failing] == codes, name
        assert verdict.accepted is (not codes)
        assert (verdict.claims is None) is case["verdict"].startswith("reject")
        for check in failing:
            assert check.check
            assert check.expected
            assert check.found
            assert check.remedy, "a refusal without a remedy"


@pytest.mark.parametrize("key", EXPECTED, ids=lambda key: " ".join(filter(None, (Path(key[0]).name, *key[1:]))))
def test_authenticity_says_what_the_entry_says(key: tuple[str, str, str]) -> None:
    case = _listed()[key]
    step = lambda: kinds.verify(_evidence(case), Roots.production(), at(case["verify_at"]))  # noqa: E731
    if case["verdict"].startswith("accept"):
        assert step().kind == _evidence(case).kind
        return
    with pytest.raises(AttestationError) as caught:
        step()
    assert [caught.value.code] == EXPECTED[key][0]


Field = Callable[[Case, bytes, Claims], bool]


def _held(name: str, field: str) -> Field:
    return lambda case, blob, claims: bool(claims.measurements[name].hex() == case[field])


def _pcrs(case: Case, blob: bytes, claims: Claims) -> bool:
    known = {int(index): value for index, value in case["pcrs"].items()}
    others = {name for name in claims.measurements if int(name[3:]) not in known}
    return all(claims.measurements[f"pcr{i}"].hex() == pcr for i, pcr in known.items()) and all(
        not any(claims.measurements[name]) for name in others
    )


def _tcb(case: Case, blob: bytes, claims: Claims) -> bool:
    return bool(blob[0x180:0x188].hex() == case["reported_tcb"])


def _version(case: Case, blob: bytes, claims: Claims) -> bool:
    size = 4 if claims.kind == "snp" else 2
    return int.from_bytes(blob[:size], "little") == case["version"]


COMMON: dict[str, Field] = {
    "report_data": lambda case, blob, claims: claims.report_data.hex() == case["report_data"],
    "version": _version,
}
FIELDS: dict[str, dict[str, Field]] = {
    "dcap": {
        **COMMON,
        **{f"rt_mr{i}": _held(f"rtmr{i}", f"rt_mr{i}") for i in range(4)},
        "mr_td": _held("mrtd", "mr_td"),
        "mr_enclave": _held("mrenclave", "mr_enclave"),
        "mr_signer": _held("mrsigner", "mr_signer"),
        "td_attributes": lambda case, blob, claims: claims.details["td_attributes"] == case["td_attributes"],
        "fmspc": lambda case, blob, claims: claims.details["fmspc"] == case["fmspc"],
        "status": lambda case, blob, claims: claims.tcb_status == case["status"],
        "advisories": lambda case, blob, claims: list(claims.advisories) == case["advisories"],
    },
    "snp": {
        **COMMON,
        "measurement": _held("measurement", "measurement"),
        "host_data": _held("host_data", "host_data"),
        "chip_id": lambda case, blob, claims: claims.platform_id.hex().startswith(case["chip_id"].rstrip(".")),
        "product": lambda case, blob, claims: claims.generation == case["product"].split("-")[0],
        "vmpl": lambda case, blob, claims: claims.details["vmpl"] == case["vmpl"],
        "debug_allowed": lambda case, blob, claims: claims.debug is case["debug_allowed"],
        "reported_tcb": _tcb,
    },
    "nitro": {
        "debug": lambda case, blob, claims: claims.debug is case["debug"],
        "user_data": lambda case, blob, claims: claims.report_data.hex() == (case["user_data"] or ""),
        "nonce": lambda case, blob, claims: claims.details["nonce"].hex() == (case["nonce"] or ""),
        "leaf_not_after": lambda case, blob, claims: claims.fresh_until == at(case["leaf_not_after"]),
        "pcrs": _pcrs,
    },
}
INPUTS = {"kind", "tee", "file", "collateral", "vek", "intermediate", "ark", "verify_at", "verdict", "error"}


@pytest.mark.parametrize("key", EXPECTED, ids=lambda key: " ".join(filter(None, (Path(key[0]).name, *key[1:]))))
def test_every_field_of_every_entry_is_a_claim(key: tuple[str, str, str]) -> None:
    case = _listed()[key]
    known = FIELDS[case["kind"]]
    assert set(case) <= set(known) | INPUTS, "a field that nothing compares"
    if case["verdict"].startswith("reject"):
        return
    shown = _evidence(case)
    claims = kinds.verify(shown, Roots.production(), at(case["verify_at"]))
    wrong = [name for name in case if name in known and not known[name](case, shown.blob, claims)]
    assert wrong == []


def test_refused_evidence_holds_what_the_entry_says_it_holds() -> None:
    """So that it is refused for its reason, and not because the file is another one."""
    for case in cases("snp"):
        blob = evidence_of(case).blob
        assert blob[0x90:0xC0].hex() == case["measurement"]
        assert blob[0x50:0x90].hex() == case["report_data"]
    for case in cases("dcap"):
        if case["tee"] == "tdx":
            body = evidence_of(case).blob[48 if case["version"] == 4 else 54 :]
            assert body[136:184].hex() == case["mr_td"]
            assert [body[at : at + 48].hex() for at in range(328, 520, 48)] == [case[f"rt_mr{i}"] for i in range(4)]
            assert body[520:584].hex() == case["report_data"]


@pytest.mark.parametrize(("ci", "outcome"), [("true", "Failed"), ("", "Skipped"), ("false", "Skipped")])
def test_missing_evidence_fails_in_ci_and_says_so_elsewhere(
    ci: str, outcome: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(support, "REPOSITORY", tmp_path / "checkout")
    monkeypatch.setenv("CI", ci)
    for step in (vectors, cases, lambda: support.der("amd-snp/roots/milan/ark.der")):
        with pytest.raises(BaseException, match="real evidence is missing") as caught:
            step()
        assert type(caught.value).__name__ == outcome


def test_a_missing_file_of_present_evidence_is_an_error_and_no_skip(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "shared" / "vectors").mkdir(parents=True)
    monkeypatch.setattr(support, "REPOSITORY", tmp_path / "checkout")
    for ci in ("true", ""):
        monkeypatch.setenv("CI", ci)
        with pytest.raises(FileNotFoundError):
            cases("dcap")
