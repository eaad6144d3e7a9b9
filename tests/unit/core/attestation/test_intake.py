"""Evidence from files: every form of the vectors, kinds told by content, parts told apart, garbage refused."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloister.attestation import Binding, Evidence, Roots, claims_json, read_evidence, shipped, verify
from cloister.core.attestation import intake, kinds, parts
from cloister.core.attestation.examine import examine
from cloister.core.errors import CloisterError, EncodingError
from support.hardware import KINDS, NOW, binding, evidence, policy, roots
from support.intel_kit import ccel, sgx_evidence
from support.vectors import at, cases, evidence_of, vectors


def _bytes(*paths: str) -> list[bytes]:
    return [(vectors() / path).read_bytes() for path in paths]


def _case(case: dict[str, Any]) -> Evidence:
    beside = [case[name] for name in ("vek", "intermediate", "ark", "collateral") if name in case]
    return intake.read(_bytes(case["file"])[0], _bytes(*beside)).evidence


def test_every_case_of_the_vectors_is_read_as_what_it_is() -> None:
    for case in cases("dcap", "snp", "nitro"):
        read, expected = _case(case), evidence_of(case)
        kind = case.get("tee", case["kind"])
        if case["file"].endswith("quote-report.json"):
            kind = "dstack"
        assert read.kind == kind, case["file"]
        assert read.blob == expected.blob
        assert {name: read.aux[name] for name in expected.aux if name != "collateral"} == {
            name: value for name, value in expected.aux.items() if name != "collateral"
        }


def test_every_case_of_the_vectors_has_its_verdict_from_its_file() -> None:
    for case in cases("dcap", "snp", "nitro"):
        read, now = _case(case), at(case["verify_at"])
        if case["verdict"] == "reject":
            with pytest.raises(CloisterError):
                verify(read, Roots.production(), now)
        else:
            assert verify(read, Roots.production(), now).kind == read.kind


def test_hex_and_base64_are_the_bytes_that_they_spell() -> None:
    (quote,) = _bytes("intel-dcap/phala/tdx_quote")
    forms = {
        "hex": quote.hex(),
        "hex with 0x": "0x" + quote.hex(),
        "hex in capitals": quote.hex().upper(),
        "hex in lines": "\n".join(quote.hex()[n : n + 64] for n in range(0, len(quote.hex()), 64)) + "\n",
        "base64": base64.b64encode(quote).decode(),
        "base64 for addresses": base64.urlsafe_b64encode(quote).decode().rstrip("="),
        "base64 in lines": base64.encodebytes(quote).decode(),
    }
    for name, text in forms.items():
        assert intake.read(text.encode()).evidence == Evidence("tdx", quote), name
    assert intake.read(quote).evidence.blob == quote


RAW = "intel-dcap/attestation-rs/"
REPLIES = [
    f"{RAW}collateral/{name}"
    for name in ("td_qe_identity.json", "tcb_signing_chain.pem", "pck_crl_platform.der", "root_ca_crl.der")
]


def test_raw_replies_of_the_vendor_become_collateral_that_verifies() -> None:
    now = at("2026-03-20T00:00:00+00:00")
    (quote,) = _bytes("dstack/quote-report.json")
    beside = _bytes(*REPLIES, f"{RAW}collateral/tcb_info_90c06f000000.json")
    for order in (beside, beside[::-1]):
        read = intake.read(quote, order).evidence
        assert verify(read, Roots.production(), now).tcb_status in ("UpToDate", "OutOfDate")
    other = intake.read(quote, _bytes(*REPLIES, f"{RAW}collateral/tcb_info_50806f000000.json")).evidence
    with pytest.raises(CloisterError) as caught:
        verify(other, Roots.production(), now)
    assert caught.value.code == "attestation.tdx_quote"


def test_the_signed_text_of_a_reply_is_kept_as_it_came() -> None:
    text = '{ "tcbInfo" : {"b": 1,  "a":[1, 2]} , "signature": "ab" }'
    assert parts.pcs_reply(text) == ("tcb_info", '{"b": 1,  "a":[1, 2]}', "ab")
    assert parts.pcs_reply('{"enclaveIdentity":{},"signature":"00"}') == ("qe_identity", "{}", "00")
    for bad in ("{}", "[]", '{"tcbInfo":', '{"tcbInfo":{}}', '{"tcbInfo":{},"signature":7}', '{"tcbInfo":{},x}'):
        with pytest.raises(EncodingError):
            parts.pcs_reply(bad)


def test_a_debug_quote_is_called_that_even_with_half_its_collateral() -> None:
    for beside in (
        [f"{RAW}collateral/tcb_info_50806f000000.json"],
        [*REPLIES, f"{RAW}collateral/tcb_info_50806f000000.json"],
    ):
        read = intake.read(_bytes(f"{RAW}tdx_quote_4.dat")[0], _bytes(*beside)).evidence
        verdict = examine(read, policy=shipped("cloud"), now=at("2026-03-20T00:00:00+00:00"))
        assert [check.code for check in verdict.checks if not check.ok] == ["attestation.debug"]


OTHERS: dict[str, tuple[str, list[str], str, set[str]]] = {
    "dstack's own wrapper of an SNP report": (
        "dstack/sev-snp-attestation.json",
        ["amd-snp/roots/milan/ark.der"],
        "snp",
        {"vek", "intermediate", "ark"},
    ),
    "dstack's own wrapper of a TDX quote": ("dstack/simulator_attestation.bin", [], "dstack", {"event_log"}),
    "dstack's own wrapper of a Nitro document": ("aws-nitro/dstack/nitro_attestation.bin", [], "nitro", set()),
    "a Nitro document in base64": ("aws-nitro/evervault/valid-attestation-doc-base64", [], "nitro", set()),
    "an SNP report in hex with a chain in one file": (
        "amd-snp/virtee/report_milan.hex",
        ["amd-snp/virtee/cert_chain_milan", "amd-snp/virtee/vcek_milan.der"],
        "snp",
        {"vek", "intermediate", "ark"},
    ),
    "an Azure VM on SNP": (
        "azure-vtpm/snp/evidence-v1.json",
        ["amd-snp/roots/ask_ark_milan.pem"],
        "azure-snp",
        {"vek", "intermediate", "ark", "quote", "signature", "pcrs"},
    ),
    "an Azure VM on TDX": (
        "azure-vtpm/tdx/evidence-v1.json",
        ["intel-dcap/phala/tdx_quote_collateral.json"],
        "azure-tdx",
        {"td_quote", "collateral", "quote", "signature", "pcrs"},
    ),
    "a bare HCL report": ("azure-vtpm/snp/hcl-report.bin", [], "azure-snp", set()),
    "a bare HCL report on TDX": ("azure-vtpm/tdx/hcl-report.bin", [], "azure-tdx", set()),
    "a GPU as its tools write it": (
        "nvidia-gpu/attestation-sdk/hopper_evidence.json",
        ["nvidia-gpu/attestation-sdk/NV_GPU_DRIVER_GH100_550.144.03.xml"],
        "nvidia-gpu",
        {"chain", "driver_rim"},
    ),
    "a GPU with its firmware's manifest": (
        "nvidia-gpu/attestation-sdk/hopperAttestationReport.txt",
        [
            "nvidia-gpu/attestation-sdk/hopperCertChain.txt",
            "nvidia-gpu/nvtrust/1010_0200_882_96005E0001_test_no_gpu.swidtag",
        ],
        "nvidia-gpu",
        {"chain", "vbios_rim"},
    ),
    "a TPM quote as JSON": ("azure-vtpm/tdx/tpm-quote-v1.json", [], "tpm", {"signature", "pcrs"}),
    "a bare TPM quote": ("tpm/swtpm/q.msg", ["tpm/swtpm/q.sig", "tpm/swtpm/ek.der"], "tpm", {"signature", "ak_chain"}),
    "a quote with the boot log of its machine": (
        f"{RAW}tdx_quote_live.dat",
        ["intel-dcap/phala/tdx_quote_collateral.json", f"{RAW}tdx_ccel_live2.dat"],
        "tdx",
        {"collateral", "event_log"},
    ),
}


@pytest.mark.parametrize("sentence", OTHERS)
def test_other_forms_of_the_vectors(sentence: str) -> None:
    file, beside, kind, names = OTHERS[sentence]
    read = intake.read(_bytes(file)[0], _bytes(*beside)).evidence
    assert (read.kind, set(read.aux)) == (kind, names)


def test_the_wrapped_report_of_a_real_guest_verifies() -> None:
    file, beside, _, _ = OTHERS["dstack's own wrapper of an SNP report"]
    read = intake.read(_bytes(file)[0], _bytes(*beside)).evidence
    claims = verify(read, Roots.production(), at("2026-11-22T00:00:00+00:00"))
    assert claims.report_data.startswith(b"attest-test-fixture-2026")


@pytest.mark.parametrize("kind", KINDS)
def test_our_own_bundles(kind: str) -> None:
    made = evidence(kind)
    forms = {
        "bare": made.to_json(),
        "with a binding": {"evidence": made.to_json(), "binding": binding().to_json()},
        "collected": {"evidence": made.to_json(), "collected_at": 7},
    }
    for name, value in forms.items():
        taken = read_evidence(json.dumps(value).encode())
        assert taken.evidence == made, name
        assert (taken.binding == binding()) is (name == "with a binding")
    assert isinstance(binding(), Binding)


def test_parts_of_the_evidence_itself_come_before_parts_beside_it() -> None:
    made, other = evidence("snp"), {name: "0x" + b"other".hex() for name in ("vek", "ark")}
    taken = intake.read(json.dumps(made.to_json()).encode(), [json.dumps(other).encode()])
    assert taken.evidence == made


def test_a_part_that_belongs_to_another_kind_is_left_aside() -> None:
    made = evidence("nitro")
    taken = intake.read(made.blob, [ccel([]), dict(evidence("snp").aux)["ark"]])
    assert taken.evidence == made


def test_a_kind_can_be_named() -> None:
    quote = evidence("tdx").blob
    assert intake.read(quote, [], "dstack").evidence.kind == "dstack"
    assert intake.read(json.dumps(evidence("tdx").to_json()).encode(), [], "sgx").evidence.kind == "sgx"
    with pytest.raises(EncodingError):
        intake.read(quote, [], "TDX")


def test_a_tpm_signature_is_not_taken_for_a_certificate() -> None:
    found = parts.Parts()
    for one in (b"\x30\x06\x02\x01\x01\x02\x01\x01", bytes(256)):
        found.signature = None
        parts.add(found, one)
        assert found.signature == one
    assert found.certificates == []


def test_a_chain_is_put_in_order() -> None:
    found = parts.Parts()
    for name in ("ark", "vek", "intermediate"):
        parts.add(found, evidence("snp").aux[name])
    ordered = parts.pem_chain(found.certificates)
    again = parts.Parts()
    parts.add(again, ordered)
    assert [parts.to_der(one) for one in again.certificates] == [
        evidence("snp").aux[name] for name in ("vek", "intermediate", "ark")
    ]
    assert parts.pem_chain([]) == b""


UNREADABLE: dict[str, Callable[[], tuple[bytes, list[bytes]]]] = {
    "nothing": lambda: (b"", []),
    "a text": lambda: (b"# a readme", []),
    "a picture": lambda: (b"\x89PNG\r\n\x1a\n" + bytes(2000), []),
    "over the limit": lambda: (bytes(intake.MAX_FILE + 1), []),
    "a number in JSON": lambda: (b"7", []),
    "broken JSON": lambda: (b'{"quote": ', []),
    "JSON of great depth": lambda: (b"[" * 100000, []),
    "an empty object": lambda: (b"{}", []),
    "an empty list": lambda: (b"[]", []),
    "two devices": lambda: (b"[{}, {}]", []),
    "a quote that is a number": lambda: (b'{"quote": 7}', []),
    "a quote that is nothing": lambda: (b'{"quote": ""}', []),
    "a platform that nobody knows": lambda: (b'{"platform": "az-arm", "evidence": {"tpm_quote": {}}}', []),
    "PCR values that are a number": lambda: (b'{"message": "00", "signature": "00", "pcrs": 7}', []),
    "a wrapper that lies about its size": lambda: (b'{"attestation": "0003ffffffff"}', []),
    "a wrapper of nothing": lambda: (b'{"attestation": "00"}', []),
    "a boot log instead": lambda: (ccel([(1, 4, b"x")]), []),
    "an old boot log": lambda: (_bytes("tpm/eventlogs/debian-10.bin")[0], []),
    "a certificate instead": lambda: (evidence("snp").aux["ark"], []),
    "an empty part": lambda: (evidence("tdx").blob, [b""]),
    "a part that is a text": lambda: (evidence("tdx").blob, [b"hello"]),
    "a part that is JSON of something": lambda: (evidence("tdx").blob, [b'{"hello": "world"}']),
    "a part that is broken PEM": lambda: (
        evidence("tdx").blob,
        [b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----"],
    ),
    "a private key beside": lambda: (
        evidence("tdx").blob,
        [b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----"],
    ),
    "a part over the limit": lambda: (evidence("tdx").blob, [bytes(parts.MAX_PART + 1)]),
    "too many parts": lambda: (evidence("tdx").blob, [evidence("snp").aux["ark"]] * 33),
}


@pytest.mark.parametrize("sentence", UNREADABLE)
def test_what_cannot_be_read_is_refused_by_name(sentence: str) -> None:
    data, beside = UNREADABLE[sentence]()
    with pytest.raises(EncodingError) as caught:
        intake.read(data, beside)
    assert caught.value.code == "attestation.input"


def test_too_many_certificates_are_refused() -> None:
    found = parts.Parts()
    with pytest.raises(EncodingError):
        for _ in range(parts.MAX_CERTIFICATES + 1):
            parts.add(found, evidence("snp").aux["ark"])


@pytest.mark.parametrize("kind", ["tdx", "snp", "nitro"])
def test_claims_are_json_with_the_names_of_the_design(kind: str) -> None:
    value = claims_json(verify(evidence(kind), roots(), NOW))
    again = json.loads(json.dumps(value))
    assert again == value
    names = {"tee", "vendor", "generation", "platform_id", "measurements", "debug", "tcb_status", "advisories"}
    assert names | {"report_data", "fresh_until", "details"} == set(value)
    assert (value["tee"], value["debug"]) == (kind, False)
    assert all(text.startswith("0x") for text in value["measurements"].values())


def test_claims_of_an_enclave_are_json_too() -> None:
    json.dumps(claims_json(verify(sgx_evidence(), roots(), NOW)))
    assert intake.plain({1: (b"\x01", None, {"x"}), "y": 1.5}) == {"1": ["0x01", None, ["x"]], "y": "1.5"}


def test_every_kind_can_be_named_and_none_other() -> None:
    assert set(kinds.KINDS) >= {"tdx", "sgx", "snp", "nitro", "dstack", "tpm", "azure-snp", "azure-tdx", "nvidia-gpu"}


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=2000), st.lists(st.binary(max_size=300), max_size=2))
def test_garbage_is_a_named_refusal_or_evidence_that_is_refused(data: bytes, beside: list[bytes]) -> None:
    try:
        taken = intake.read(data, beside)
    except CloisterError:
        return
    assert not examine(taken.evidence, policy=shipped("cloud"), now=NOW).accepted


_words = st.sampled_from(
    ["quote", "evidence", "attestation", "message", "pcrs", "platform", "certificate", "event_log"]
)
_values = st.recursive(
    st.none() | st.integers() | st.text(max_size=8) | st.sampled_from(["00" * 40, "az-snp", "AAAA", "0x00"]),
    lambda c: st.lists(c, max_size=3) | st.dictionaries(_words, c, max_size=4),
)


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(_words, _values, max_size=6), st.dictionaries(_words, _values, max_size=4))
def test_any_json_is_a_named_refusal_or_evidence_that_is_refused(value: dict[str, Any], beside: dict[str, Any]) -> None:
    try:
        taken = intake.read(json.dumps(value).encode(), [json.dumps(beside).encode()] if beside else [])
    except CloisterError:
        return
    assert not examine(taken.evidence, policy=shipped("cloud"), now=NOW).accepted


@lru_cache(maxsize=1)
def _honest() -> tuple[Evidence, bytes]:
    made = evidence("nitro")
    return made, json.dumps({"evidence": made.to_json()}).encode()


@settings(max_examples=150, deadline=None)
@given(st.floats(0, 1, exclude_max=True), st.integers(0, 255))
def test_a_damaged_file_is_refused_or_still_says_the_same(where: float, value: int) -> None:
    made, honest = _honest()
    bad = bytearray(honest)
    bad[int(where * len(bad))] = value
    try:
        taken = intake.read(bytes(bad))
    except CloisterError:
        return
    assert taken.evidence == made or not examine(taken.evidence, policy=policy(), now=NOW).accepted
