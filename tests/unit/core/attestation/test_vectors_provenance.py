"""The tables of PROVENANCE.md: each expected verdict, pinned root, size and hash of a file; no row is left out."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from dcap_qvl import parse_quote

from cloister.core.attestation import dstack, eventlog, kinds, nitro, rim
from cloister.core.attestation.examine import examine
from cloister.core.attestation.intake import read
from cloister.core.attestation.model import Evidence
from cloister.core.attestation.policy import shipped
from cloister.core.attestation.roots import Roots
from cloister.core.errors import AttestationError
from support.vectors import at, cases, der, evidence_of, vectors

PRODUCTION = Roots.production()
TODAY = at("2026-11-22T00:00:00+00:00")
DAY = 86400


def _file(path: str) -> bytes:
    return (vectors() / path).read_bytes()


def _refused(step: Callable[[], object]) -> str:
    with pytest.raises(AttestationError) as caught:
        step()
    return caught.value.code


def _failing(evidence: Evidence, now: int) -> list[str]:
    return [check.code for check in examine(evidence, policy=shipped("cloud"), now=now).checks if not check.ok]


def _tables() -> dict[str, list[list[str]]]:
    """Heading -> rows, as cells without backticks around them."""
    found: dict[str, list[list[str]]] = {}
    heading = ""
    for line in (vectors() / "PROVENANCE.md").read_text().splitlines():
        if line.startswith("#"):
            heading = line.strip("# ")
        elif line.startswith("|"):
            found.setdefault(heading, []).append([cell.strip() for cell in line.strip("|").split("|")])
    return {name: rows[2:] for name, rows in found.items()}


# -- expected verdicts --------------------------------------------------------------------------------------------


def guest_replays() -> None:
    whole = json.loads(_file("dstack/quote-report.json"))
    report = parse_quote(bytes.fromhex(whole["quote"])).report
    events = dstack.parse(whole["event_log"].encode())
    assert dstack.replay(events) == [report.rt_mr0, report.rt_mr1, report.rt_mr2, report.rt_mr3]
    stored = [e for e in json.loads(whole["event_log"]) if e["event_type"] == dstack.RUNTIME]
    own = [hashlib.sha384(b"\x01\x00\x00\x08:" + _text(e) + b":" + bytes.fromhex(e["event_payload"])) for e in stored]
    assert [digest.hexdigest() for digest in own] == [e["digest"] for e in stored]
    assert len(stored) == 8
    assert report.report_data[:2].hex() == "1234"
    assert not any(report.report_data[2:])


def _text(event: dict[str, Any]) -> bytes:
    return str(event["event"]).encode()


def boot_logs_replay() -> None:
    report = parse_quote(_file("intel-dcap/attestation-rs/tdx_quote_live.dat")).report
    signed = [report.rt_mr0, report.rt_mr1, report.rt_mr2, report.rt_mr3]
    assert eventlog.replay_rtmrs(_file("intel-dcap/attestation-rs/tdx_ccel_live2.dat"))[0] == signed
    other = eventlog.replay_rtmrs(_file("intel-dcap/attestation-rs/tdx_ccel_live.bin"))[0]
    assert [ours == theirs for ours, theirs in zip(other, signed, strict=True)] == [True, True, False, True]


def debug_td_is_refused() -> None:
    aux = {"collateral": _file("intel-dcap/phala/tdx_quote_collateral.json")}
    evidence = Evidence("tdx", _file("intel-dcap/attestation-rs/tdx_quote_4.dat"), aux)
    for now in (at("2025-06-20T10:00:00+00:00"), TODAY):
        assert _refused(lambda now=now: kinds.verify(evidence, PRODUCTION, now)) == "attestation.debug"  # type: ignore[misc]


def quotes_have_their_time() -> None:
    for case in cases("dcap"):
        if case["verdict"] != "accept":
            continue
        shown = evidence_of(case)
        shown = dataclasses.replace(shown, kind=case["tee"])
        fields = json.loads(shown.aux["collateral"])
        tables = [json.loads(fields[name]) for name in ("tcb_info", "qe_identity")]
        end = min(at(table["nextUpdate"]) for table in tables)
        start = max(at(table["issueDate"]) for table in tables)
        refusals = ("attestation.expired", f"attestation.{case['tee']}_quote")
        for now in (end + DAY, start - DAY, start - 1):
            assert _refused(lambda now=now, shown=shown: kinds.verify(shown, PRODUCTION, now)) in refusals  # type: ignore[misc]


def _snp(report: str, vek: str) -> Evidence:
    aux = {
        "vek": der(vek),
        "intermediate": der("amd-snp/roots/milan/ask.der"),
        "ark": der("amd-snp/roots/milan/ark.der"),
    }
    return Evidence("snp", _file(report), aux)


def debug_guest_is_refused_by_policy() -> None:
    evidence = _snp("amd-snp/go-sev-guest/attestation.bin", "amd-snp/go-sev-guest/vcek.der")
    assert int.from_bytes(evidence.blob[8:16], "little") >> 19 & 1
    claims = kinds.verify(evidence, PRODUCTION, TODAY)
    assert claims.debug is True
    assert "attestation.debug" in _failing(evidence, TODAY)


def invalid_keys_are_refused() -> None:
    found = sorted((vectors() / "amd-snp/attestation-rs").glob("test-vcek-invalid-*"))
    assert len(found) == 2
    for path in found:
        evidence = _snp("amd-snp/attestation-rs/test-report.bin", str(path.relative_to(vectors())))
        assert (
            _refused(lambda evidence=evidence: kinds.verify(evidence, PRODUCTION, TODAY)) == "attestation.certificate"
        )  # type: ignore[misc]


def debug_enclaves_are_refused_by_policy() -> None:
    folder = vectors() / "aws-nitro"
    debug = [*folder.glob("*/*dbg*.cose"), *folder.glob("evervault/*")]
    assert len(debug) == 3
    for path in debug:
        data = path.read_bytes()
        blob = base64.b64decode(data) if path.name.endswith("base64") else data
        taken = read(data).evidence
        assert (taken.kind, taken.blob) == ("nitro", blob), "the reader finds the kind by itself"
        document = nitro._document(nitro._cose(blob)[1])
        now = document["timestamp"] // 1000
        claims = kinds.verify(taken, PRODUCTION, now)
        assert claims.debug is True
        assert not any(claims.measurements["pcr0"])
        assert _failing(taken, now) == ["attestation.debug"]
        assert _failing(taken, claims.fresh_until + 1)[0] == "attestation.expired"


def azure_machines_bind_their_tpm() -> None:
    ark = [_file("amd-snp/roots/ask_ark_milan.pem")]
    for name, nonce in (("evidence-v1", b"challenge"), ("milan-v3-attestation", b"")):
        evidence = read(_file(f"azure-vtpm/snp/{name}.json"), ark).evidence
        claims = kinds.verify(evidence, PRODUCTION, TODAY)
        assert claims.report_data == nonce
        runtime = evidence.blob[1236 : 1236 + int.from_bytes(evidence.blob[1232:1236], "little")]
        assert evidence.blob[32 + 0x50 : 32 + 0x70] == hashlib.sha256(runtime).digest()
        pcrs = bytearray(evidence.aux["pcrs"])
        pcrs[4 * 32] ^= 1
        changed = dataclasses.replace(evidence, aux={**evidence.aux, "pcrs": bytes(pcrs)})
        assert _refused(lambda changed=changed: kinds.verify(changed, PRODUCTION, TODAY)) == "attestation.pcr_digest"  # type: ignore[misc]
    taken = read(
        _file("azure-vtpm/tdx/evidence-v1.json"), [_file("intel-dcap/phala/tdx_quote_outdated_collateral.json")]
    )
    assert taken.evidence.kind == "azure-tdx"  # its machine's own collateral is not among the vectors
    then = at("2026-02-20T00:00:00+00:00")
    assert _refused(lambda: kinds.verify(taken.evidence, PRODUCTION, then)) == "attestation.tdx_quote"


def gpus_sign_their_exchange() -> None:
    sdk = "nvidia-gpu/attestation-sdk"
    pairs = {
        f"{sdk}/hopperAttestationReport.txt": "",
        f"{sdk}/sample_attestation_data/gpu/hopperAttestationReport.txt": "",
    }
    pairs[f"{sdk}/sample_attestation_data/gpu/hopperAttestationReportExpired.txt"] = ""
    pairs[f"{sdk}/sample_attestation_data/gpu/hopperAttestationReportInvalidSignature.txt"] = "attestation.signature"
    for path, code in pairs.items():
        chain = _file(path.replace("AttestationReport", "CertChain").replace("InvalidSignature", ""))
        evidence = Evidence("nvidia-gpu", bytes.fromhex(_file(path).decode().strip()), {"chain": chain})
        if code:
            assert _refused(lambda evidence=evidence: kinds.verify(evidence, PRODUCTION, TODAY)) == code  # type: ignore[misc]
            continue
        assert kinds.verify(evidence, PRODUCTION, TODAY).generation == "GH100"
    held = read(_file(f"{sdk}/hopper_evidence_cert_hold.json")).evidence
    assert kinds.verify(held, PRODUCTION, TODAY).details["revocation"].startswith("not checked")


def manifests_are_signed() -> None:
    folder = "nvidia-gpu/attestation-sdk"
    good = rim.read(_file(f"{folder}/NV_GPU_DRIVER_GH100_550.144.03.xml"), PRODUCTION, TODAY)
    assert good.fresh_until == at("2026-12-30T16:56:50+00:00")
    refused = {
        f"{folder}/incorrect_signature_driver_rim.xml": "attestation.rim",
        f"{folder}/incorrect_cert_chain_driver_rim.xml": "attestation.certificate",
        "nvidia-gpu/nvtrust/Driver_RIM_test_no_gpu.swidtag": "attestation.expired",
        "nvidia-gpu/nvtrust/1010_0200_882_96005E0001_test_no_gpu.swidtag": "attestation.expired",
    }
    for path, code in refused.items():
        assert _refused(lambda path=path: rim.read(_file(path), PRODUCTION, TODAY)) == code  # type: ignore[misc]


ROWS: dict[str, Callable[[], None]] = {
    "`dstack/quote-report.json`": guest_replays,
    "`intel-dcap/attestation-rs/tdx_ccel_live2.dat` + `tdx_quote_live.dat`": boot_logs_replay,
    "`intel-dcap/attestation-rs/tdx_quote_4.dat` + tcb_info_50806f": debug_td_is_refused,
    "any quote, 1 day after nextUpdate / before issueDate": quotes_have_their_time,
    "`amd-snp/go-sev-guest/attestation.bin`": debug_guest_is_refused_by_policy,
    "`amd-snp/attestation-rs/test-vcek-invalid-*`": invalid_keys_are_refused,
    "`aws-nitro/*dbg*`, `evervault/debug-mode*`, `valid-attestation-doc-base64`": debug_enclaves_are_refused_by_policy,
    "`azure-vtpm/*/evidence-v1,milan-v3`": azure_machines_bind_their_tpm,
    "`nvidia-gpu/attestation-sdk/*` hopper": gpus_sign_their_exchange,
    "`NV_GPU_DRIVER_GH100_550.144.03.xml`": manifests_are_signed,
}


def test_every_row_has_its_test() -> None:
    assert {row[0] for row in _tables()["Expected verdicts beyond VERDICTS.json"]} == set(ROWS)


@pytest.mark.parametrize("row", ROWS)
def test_the_row(row: str) -> None:
    ROWS[row]()


# -- roots and files ----------------------------------------------------------------------------------------------


def test_the_pinned_roots_are_those_of_the_table() -> None:
    listed = {bytes.fromhex(row[1]) for row in _tables()["Pinned roots (sha256 of DER)"]}
    assert listed == set().union(*PRODUCTION.fingerprints.values())


def test_two_independent_copies_of_each_root_agree() -> None:
    for name in ("milan", "genoa", "turin"):
        copies = {der(f"amd-snp/roots/{name}/ark.der"), der(f"amd-snp/microsoft/{name}_ark.pem")}
        assert len(copies) == 1
        assert hashlib.sha256(copies.pop()).digest() in PRODUCTION.fingerprints["amd"]
    nvidia = {
        der("nvidia-gpu/nvtrust/verifier_RIM_root.pem"),
        der("nvidia-gpu/attestation-sdk/trusted_certs/rim_root.crt"),
    }
    assert {hashlib.sha256(one).digest() for one in nvidia} == PRODUCTION.fingerprints["nvidia-rim"]


def _copied() -> list[list[str]]:
    return [row for name, rows in _tables().items() if re.search(r" @ [0-9a-f]{40}", name) for row in rows]


def test_every_copied_file_is_the_one_that_was_judged() -> None:
    rows = _copied()
    assert len(rows) > 90
    for path, _, size, digest in rows:
        data = _file(path)
        assert (str(len(data)), hashlib.sha256(data).hexdigest()[:16]) == (size, digest), path


def test_every_case_of_the_verdicts_is_a_file_with_a_source() -> None:
    sources = {row[0] for row in _copied()}
    made = {"aws-nitro/dstack/nitro_attestation.cose", "aws-nitro/dstack/nitro_attestation_dbg.cose"}
    assert {case["file"] for case in cases("dcap", "snp", "nitro")} <= sources | made


def test_the_cose_documents_are_cut_out_of_their_wrapper_unchanged() -> None:
    for name in ("nitro_attestation", "nitro_attestation_dbg"):
        wrapped, bare = _file(f"aws-nitro/dstack/{name}.bin"), _file(f"aws-nitro/dstack/{name}.cose")
        assert bare in wrapped
        size = int.from_bytes(wrapped[2:4], "little")  # SCALE: mode 1 in the two low bits
        assert (size & 3, size >> 2) == (1, len(bare))
        assert wrapped[4 : 4 + len(bare)] == bare
