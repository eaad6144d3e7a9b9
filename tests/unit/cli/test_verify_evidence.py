"""``cloister verify evidence`` and ``cloister evidence``: exit codes, JSON, options, and no network anywhere."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

from cloister.core.attestation.policy import shipped
from cloister.devnet.tee.intel import FMSPC
from support.hardware import NOW, binding, collateral, evidence, policy
from support.vectors import cases, vectors

Run = Callable[..., Result]
AT = "2025-06-15T15:06:40Z"  # NOW
TDX = ("intel-dcap/phala/tdx_quote", "intel-dcap/phala/tdx_quote_collateral.json", "2025-06-20T10:00:00+00:00")


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a check of a file went to the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def _real(*more: str) -> list[str]:
    file, beside, when = TDX
    return ["verify", "evidence", str(vectors() / file), "--collateral", str(vectors() / beside), "--at", when, *more]


def _case(case: dict[str, Any]) -> list[str]:
    words = ["verify", "evidence", str(vectors() / case["file"]), "--at", case["verify_at"], "--json"]
    for name in ("collateral", "vek", "intermediate", "ark"):
        words += ["--collateral", str(vectors() / case[name])] if name in case else []
    return words


def _json(result: Result) -> dict[str, Any]:
    return dict(json.loads(result.stdout))


def test_good_evidence_ends_with_zero(run: Run) -> None:
    result = run(*_real())
    assert result.exit_code == 0, result.stderr
    assert "verdict" in result.stdout
    assert "accept" in result.stdout
    assert " 1  ok " in result.stdout


def test_json_is_one_document_of_four_fields(run: Run) -> None:
    value = _json(run(*_real("--json")))
    assert set(value) == {"verdict", "kind", "claims", "checks"}
    assert (value["verdict"], value["kind"]) == ("accept", "tdx")
    assert [check["number"] for check in value["checks"]] == list(range(1, 11))
    assert all(
        set(check) == {"number", "code", "check", "expected", "found", "remedy", "ok"} for check in value["checks"]
    )
    assert (value["claims"]["tee"], value["claims"]["vendor"], value["claims"]["tcb_status"]) == (
        "tdx",
        "intel",
        "UpToDate",
    )


# What the shipped policy `cloud` says of the real evidence: it refuses EPYC Milan and SGX on DDR4.
EXPECTED = {
    "intel-dcap/phala/sgx_quote": ["attestation.tcb_status", "attestation.generation"],
    "intel-dcap/phala/tdx_quote": [],
    "dstack/quote-report.json": [],
    "amd-snp/microsoft/genoa_attestation_report.bin": [],
    "amd-snp/microsoft/milan_attestation_report.bin": ["attestation.generation"],
    "amd-snp/go-sev-guest/attestation.bin": ["attestation.generation", "attestation.debug"],
    "aws-nitro/dstack/nitro_attestation.cose": [],
    "aws-nitro/dstack/nitro_attestation_dbg.cose": ["attestation.debug"],
    "aws-nitro/evervault/debug-mode-attestation-doc-bytes": ["attestation.debug"],
}


def test_every_case_of_the_vectors_through_the_command(run: Run) -> None:
    for case in cases("dcap", "snp", "nitro"):
        result = run(*_case(case))
        value = _json(result)
        failed = [check["code"] for check in value["checks"] if not check["ok"]]
        assert value["verdict"] == ("reject" if failed else "accept"), case["file"]
        assert result.exit_code == (1 if failed else 0)
        if case["verdict"] == "reject":
            assert value["claims"] == {}, case["file"]
            assert failed[0] in ("attestation.tdx_quote", "attestation.certificate", "attestation.expired")
        elif case["file"] in EXPECTED:
            assert failed == EXPECTED[case["file"]], case["file"]
            assert value["claims"]["tee"] == value["kind"]


def test_the_strict_policy_refuses_what_clouds_have(run: Run) -> None:
    result = run(*_real("--policy", "strict", "--json"))
    assert result.exit_code == 1
    assert [c["code"] for c in _json(result)["checks"] if not c["ok"]] == ["attestation.platform"]


def test_a_rejection_says_what_to_do(run: Run) -> None:
    result = run(*_real("--policy", "strict"))
    assert result.exit_code == 1
    assert "refused" in result.stdout
    assert "hint: change the named setting" in result.stderr


def test_expectations(run: Run) -> None:
    held = "9a9d48e7f6799642d3d1b34e1e5e1742d4bb02dd6ddd551862c1211d35c304f9"
    held += "eca3efdbb481601c163cf52493d6e44aed55d51ec39b7e518fadb92c2b523f20"
    for words, code in (
        (("--expect-report-data", held), 0),
        (("--expect-report-data", "0x" + held), 0),
        (("--expect-report-data", "00" * 64), 1),
        (("--nonce", held[:32]), 0),
        (("--nonce", "00" * 16), 1),
    ):
        assert run(*_real(*words)).exit_code == code, words


def test_time_is_an_argument(run: Run) -> None:
    words = _real("--json")
    for when, code in (
        ("2025-07-19T10:00:34+00:00", 0),
        ("2025-07-19T10:00:35+00:00", 1),
        ("2025-06-19T00:00:00Z", 1),
        ("2025-06-20T10:00:00", 0),
        ("2025-06-20", 0),
    ):
        words[words.index("--at") + 1] = when
        assert run(*words).exit_code == code, when
    assert run(*[w for w in words if w not in ("--at", "2025-06-20")]).exit_code == 1  # now: long expired


def test_without_its_collateral_a_quote_is_rejected(run: Run) -> None:
    result = run("verify", "evidence", str(vectors() / TDX[0]), "--at", TDX[2], "--json")
    assert result.exit_code == 1
    assert _json(result)["checks"][-1]["code"] == "attestation.malformed"


UNUSABLE: dict[str, Callable[[Path], list[str]]] = {
    "no such file": lambda tmp: [str(tmp / "nothing")],
    "a folder": lambda tmp: [str(tmp)],
    "no evidence": lambda tmp: [str(_file(tmp, b"hello"))],
    "an empty file": lambda tmp: [str(_file(tmp, b""))],
    "no such collateral": lambda tmp: [*_own(tmp), "--collateral", str(tmp / "nothing")],
    "collateral that is a text": lambda tmp: [*_own(tmp), "--collateral", str(_file(tmp, b"hello"))],
    "a kind that nobody knows": lambda tmp: [*_own(tmp), "--kind", "arm-cca"],
    "a policy that is not there": lambda tmp: [*_own(tmp), "--policy", "lenient"],
    "a policy that is no policy": lambda tmp: [*_own(tmp), "--policy", str(_file(tmp, b"{}"))],
    "a policy that is no JSON": lambda tmp: [*_own(tmp), "--policy", str(_file(tmp, b"x"))],
    "no devnet on this machine": lambda tmp: [*_own(tmp), "--policy", "devnet"],
    "a time that is no time": lambda tmp: [*_own(tmp), "--at", "yesterday"],
    "a nonce that is no hex": lambda tmp: [*_own(tmp), "--nonce", "xyz"],
    "a nonce of nothing": lambda tmp: [*_own(tmp), "--nonce", ""],
    "report data over the limit": lambda tmp: [*_own(tmp), "--expect-report-data", "00" * 65],
}


def _file(folder: Path, data: bytes, name: str = "file") -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


def _own(folder: Path, kind: str = "tdx") -> list[str]:
    value = {"evidence": evidence(kind).to_json(), "binding": binding().to_json()}
    return [str(_file(folder, json.dumps(value).encode(), "own.json")), "--at", AT]


@pytest.mark.parametrize("sentence", UNUSABLE)
def test_what_cannot_be_judged_ends_with_two_and_says_why(sentence: str, run: Run, tmp_path: Path) -> None:
    result = run("verify", "evidence", *UNUSABLE[sentence](tmp_path))
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert "error:" in result.stderr
    assert "hint:" in result.stderr
    assert "Traceback" not in result.output


def test_a_policy_from_a_file(run: Run, tmp_path: Path) -> None:
    document = policy().to_json()
    for name, value in (("plain", document), ("network", {"genesis": {"policy": document}})):
        file = _file(tmp_path, json.dumps(value, indent=1).encode(), name)
        words = ["verify", "evidence", *_own(tmp_path), "--policy", str(file), "--nonce", binding().nonce.hex()]
        assert run(*words).exit_code == 0, name
    assert run("verify", "evidence", *_own(tmp_path)).exit_code == 1  # simulated, under the vendors' roots


def test_the_policy_of_the_devnet_of_this_machine(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    network = _file(tmp_path, json.dumps({"genesis": {"policy": policy().to_json()}}).encode(), "network.json")
    (home / "devnet.json").write_text(json.dumps({"network_file": str(network), "pid": os.getpid()}))
    monkeypatch.setenv("CLOISTER_HOME", str(home))
    result = run("verify", "evidence", *_own(tmp_path), "--policy", "devnet")
    assert result.exit_code == 0, result.stderr


def test_the_kind_can_be_said(run: Run, tmp_path: Path) -> None:
    quote, beside = _file(tmp_path, evidence("tdx").blob, "quote"), _file(tmp_path, collateral(), "collateral")
    words = ["verify", "evidence", str(quote), "--collateral", str(beside), "--at", AT, "--json"]
    assert _json(run(*words))["kind"] == "tdx"
    result = run(*words, "--kind", "sgx")
    assert (result.exit_code, _json(result)["kind"]) == (1, "sgx")


def test_texts_of_strangers_are_not_markup(run: Run, tmp_path: Path) -> None:
    file = _file(tmp_path, json.dumps({"evidence": {"kind": "[red]x[/red]", "blob": "0x00", "aux": {}}}).encode())
    result = run("verify", "evidence", str(file), "--at", AT)
    assert result.exit_code == 1
    assert "[red]x[/red]" in result.stdout


def test_detect_says_why_each_place_is_empty(run: Run) -> None:
    result = run("evidence", "detect", "--json")
    rows = json.loads(result.stdout)
    assert {row["place"] for row in rows} >= {
        "configfs-tsm",
        "nsm device",
        "gramine",
        "sev-guest device",
        "dstack socket",
    }
    assert all(row["reason"] for row in rows)
    assert result.exit_code == (0 if any(row["found"] for row in rows) else 1)
    assert "configfs-tsm" in run("evidence", "detect").stdout


def test_collect_without_hardware_names_the_places(run: Run, tmp_path: Path) -> None:
    machine = _file(tmp_path, b"{}", "machine.json")
    result = run("evidence", "collect", "--out", str(tmp_path / "out"), "--machine", str(machine), "--offline")
    assert result.exit_code == 1
    assert "evidence.no_tee" in result.stderr
    assert not (tmp_path / "out").exists()
    bad = _file(tmp_path, b"x", "bad.json")
    assert run("evidence", "collect", "--out", str(tmp_path / "out"), "--machine", str(bad)).exit_code == 1


def test_the_simulated_platform_is_none_of_the_vendors() -> None:
    assert FMSPC.hex().upper() not in shipped("cloud").refused_generations
    assert NOW == 1_750_000_000
