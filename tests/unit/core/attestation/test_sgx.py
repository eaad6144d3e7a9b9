"""SGX: the TEE type, attributes, collateral and claims of simulated enclaves; what policy asks of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloister.core.attestation import dcap, kinds, sgx, tdx
from cloister.core.attestation.examine import examine
from cloister.core.attestation.model import Claims, Evidence
from cloister.core.attestation.policy import shipped
from cloister.core.attestation.roots import Roots
from cloister.core.errors import AttestationError, CloisterError
from cloister.devnet.tee import intel
from cloister.devnet.tee.x509build import DAY
from support.hardware import NOW, collateral, evidence, policy, roots
from support.intel_kit import MRENCLAVE, MRSIGNER, REPORT, sgx_body, sgx_collateral, sgx_evidence, sgx_quote
from support.vectors import at, cases, evidence_of

RULES = shipped("strict").kinds["sgx"]


def _refusal(call: Callable[[], object]) -> str:
    with pytest.raises(AttestationError) as caught:
        call()
    return caught.value.code


def _claims() -> Claims:
    return sgx.verify(sgx_evidence(), roots(), NOW)


def _set(name: str, value: object) -> Callable[[dict[str, Any]], None]:
    return lambda fields: fields.__setitem__(name, value)


def test_the_claims_of_an_honest_enclave() -> None:
    claims = _claims()
    assert (claims.kind, claims.vendor_class, claims.generation) == ("sgx", "intel", intel.FMSPC.hex().upper())
    assert claims.measurements == {"mrenclave": MRENCLAVE, "mrsigner": MRSIGNER}
    assert (claims.details["isv_prod_id"], claims.details["isv_svn"]) == (3, 7)
    assert (claims.report_data, claims.debug, claims.tcb_status) == (REPORT, False, "UpToDate")
    assert claims.fresh_until == NOW + 30 * DAY - 1
    assert sgx.launch_measurement(claims) == kinds.launch_measurement(claims) == MRENCLAVE


def test_simulated_enclaves_never_pass_under_production_roots() -> None:
    assert _refusal(lambda: sgx.verify(sgx_evidence(), Roots.production(), NOW)) == "attestation.root"
    assert _refusal(lambda: sgx.verify(sgx_evidence(), Roots.of({}), NOW)) == "attestation.root"


def test_validity_ends_and_begins_to_the_second() -> None:
    shown, end = sgx_evidence(), NOW + 30 * DAY
    assert sgx.verify(shown, roots(), end - 1).fresh_until == end - 1
    assert sgx.verify(shown, roots(), NOW - 3600).kind == "sgx"
    for outside in (end, NOW - 3601):
        assert _refusal(lambda now=outside: sgx.verify(shown, roots(), now)) == "attestation.sgx_quote"  # type: ignore[misc]


ATTRIBUTES = {
    "debug on": ("0700000000000000e700000000000000", "attestation.debug"),
    "debug on, not initialised": ("0600000000000000e700000000000000", "attestation.debug"),
    "not initialised": ("0400000000000000e700000000000000", "attestation.malformed"),
    "with the provisioning key": ("1500000000000000e700000000000000", "attestation.malformed"),
}


@pytest.mark.parametrize("sentence", ATTRIBUTES)
def test_attributes(sentence: str) -> None:
    attributes, code = ATTRIBUTES[sentence]
    body = sgx_body(attributes=bytes.fromhex(attributes))
    assert _refusal(lambda: sgx.verify(sgx_evidence(body), roots(), NOW)) == code


def test_a_quote_of_one_tee_is_no_quote_of_the_other() -> None:
    enclave, domain = sgx_evidence(), evidence("tdx")
    assert (
        _refusal(lambda: tdx.verify(dataclasses.replace(enclave, kind="tdx"), roots(), NOW)) == "attestation.malformed"
    )
    assert (
        _refusal(lambda: sgx.verify(dataclasses.replace(domain, kind="sgx"), roots(), NOW)) == "attestation.malformed"
    )
    mixed = Evidence("sgx", sgx_quote(), {"collateral": collateral()})
    assert _refusal(lambda: sgx.verify(mixed, roots(), NOW)) == "attestation.sgx_quote"


REFUSED: dict[str, bytes] = {
    "collateral of another platform": sgx_collateral(tcb=_set("fmspc", "00A067110000")),
    "collateral for TDX": collateral(),
    "another maker of the quoting enclave": sgx_collateral(enclave=_set("mrsigner", "00" * 32)),
    "the identity of a TD quoting enclave": sgx_collateral(enclave=_set("id", "TD_QE")),
    "an identity that expired": sgx_collateral(enclave=_set("nextUpdate", "2020-01-01T00:00:00Z")),
    "TCB info that expired": sgx_collateral(tcb=_set("nextUpdate", "2020-01-01T00:00:00Z")),
}


@pytest.mark.parametrize("sentence", REFUSED)
def test_collateral_that_does_not_fit_the_quote(sentence: str) -> None:
    shown = sgx_evidence(aux=REFUSED[sentence])
    assert _refusal(lambda: sgx.verify(shown, roots(), NOW)) == "attestation.sgx_quote"


SHAPES: dict[str, Callable[[], Evidence]] = {
    "an empty quote": lambda: Evidence("sgx", b"", {"collateral": sgx_collateral()}),
    "a quote over the limit": lambda: Evidence("sgx", bytes(16385), {"collateral": sgx_collateral()}),
    "no collateral": lambda: Evidence("sgx", sgx_quote(), {}),
    "a boot log beside an enclave": lambda: Evidence("sgx", sgx_quote(), {"collateral": b"{}", "event_log": b"x"}),
    "collateral over the limit": lambda: Evidence("sgx", sgx_quote(), {"collateral": bytes(65537)}),
    "collateral that is no JSON": lambda: Evidence("sgx", sgx_quote(), {"collateral": b"{"}),
    "collateral with a field of its own": lambda: Evidence(
        "sgx", sgx_quote(), {"collateral": sgx_collateral()[:-1] + b', "more": ""}'}
    ),
    "a quote cut short": lambda: Evidence("sgx", sgx_quote()[:-1], {"collateral": sgx_collateral()}),
    "a byte behind the padding": lambda: Evidence("sgx", sgx_quote() + b"\0\1", {"collateral": sgx_collateral()}),
    "version 4 of an enclave": lambda: Evidence("sgx", sgx_quote(version=4), {"collateral": sgx_collateral()}),
}


@pytest.mark.parametrize("sentence", SHAPES)
def test_shapes(sentence: str) -> None:
    assert _refusal(lambda: sgx.verify(SHAPES[sentence](), roots(), NOW)) == "attestation.malformed"


def test_padding_of_zeros_is_no_harm() -> None:
    padded = Evidence("sgx", sgx_quote() + bytes(100), {"collateral": sgx_collateral()})
    assert sgx.verify(padded, roots(), NOW).measurements["mrenclave"] == MRENCLAVE


def test_a_report_that_was_changed_after_signing_is_refused() -> None:
    quote, step = bytearray(sgx_quote()), 7
    for place in range(48, 432, step):
        quote[place] ^= 1
        with pytest.raises(CloisterError):
            sgx.verify(Evidence("sgx", bytes(quote), {"collateral": sgx_collateral()}), roots(), NOW)
        quote[place] ^= 1


SIGNERS: dict[str, tuple[dict[str, dict[str, int]], bool]] = {
    "no signer is listed": ({}, True),
    "its signer, product and version": ({MRSIGNER.hex(): {"isv_prod_id": 3, "min_isv_svn": 7}}, True),
    "an older version is enough": ({MRSIGNER.hex(): {"isv_prod_id": 3, "min_isv_svn": 0}}, True),
    "a newer version is demanded": ({MRSIGNER.hex(): {"isv_prod_id": 3, "min_isv_svn": 8}}, False),
    "another product of the signer": ({MRSIGNER.hex(): {"isv_prod_id": 4, "min_isv_svn": 0}}, False),
    "another signer": ({"00" * 32: {"isv_prod_id": 3, "min_isv_svn": 0}}, False),
}


@pytest.mark.parametrize("sentence", SIGNERS)
def test_who_may_have_signed_the_enclave(sentence: str) -> None:
    signers, good = SIGNERS[sentence]
    rules = {**RULES, "signers": signers}
    if good:
        sgx.check_platform(_claims(), rules)
    else:
        assert _refusal(lambda: sgx.check_platform(_claims(), rules)) == "attestation.platform"


def _with(**details: object) -> Claims:
    return dataclasses.replace(_claims(), details={**_claims().details, **details})


def test_a_processor_authority_leaves_switches_out_and_a_platform_authority_does_not() -> None:
    unsaid = dict.fromkeys(dcap.SWITCHES, "Undefined")
    sgx.check_platform(_with(**unsaid, pck_authority="processor"), RULES)
    for claims in (_with(**unsaid, pck_authority="platform"), _with(smt_enabled="True", pck_authority="processor")):
        assert _refusal(lambda one=claims: sgx.check_platform(one, RULES)) == "attestation.platform"  # type: ignore[misc]


FMSPCS = {
    "00A067110000": True,  # Rocket Lake
    "00606A000000": True,  # Ice Lake
    "30606A000000": True,
    "00906ED50000": True,  # Coffee Lake
    "C10157E50000": True,  # nobody knows it
    "50806F000000": False,  # Sapphire Rapids
    "90C06F000000": False,  # Emerald Rapids
    "20A06D080000": False,  # Granite Rapids
    "": True,
}


@pytest.mark.parametrize("fmspc", FMSPCS)
def test_machines_with_old_memory_have_a_name_that_policy_refuses(fmspc: str) -> None:
    assert (sgx.generation_names(fmspc) == (sgx.DDR4,)) is FMSPCS[fmspc]


def test_shipped_policies_refuse_old_memory() -> None:
    for one in (shipped("strict"), shipped("cloud"), policy()):
        assert sgx.DDR4 in one.refused_generations
    verdict = examine(sgx_evidence(), policy=policy(), now=NOW)
    assert [check.code for check in verdict.checks if not check.ok] == ["attestation.generation"]
    open_policy = dataclasses.replace(policy(), refused_generations=())
    assert examine(sgx_evidence(), policy=open_policy, now=NOW).accepted


def test_the_real_quote_is_authentic_and_refused_by_policy() -> None:
    (case,) = [case for case in cases("dcap") if case["tee"] == "sgx"]
    shown, now = dataclasses.replace(evidence_of(case), kind="sgx"), at(case["verify_at"])
    claims = sgx.verify(shown, Roots.production(), now)
    assert claims.tcb_status == case["status"]
    assert list(claims.advisories) == case["advisories"]
    assert claims.measurements["mrenclave"].hex() == case["mr_enclave"]
    assert claims.measurements["mrsigner"].hex() == case["mr_signer"]
    assert (claims.report_data.hex(), claims.generation) == (case["report_data"], case["fmspc"])
    assert claims.details["pck_authority"] == "processor"
    verdict = examine(shown, policy=shipped("cloud"), now=now)
    codes = [check.code for check in verdict.checks if not check.ok]
    assert codes == ["attestation.tcb_status", "attestation.generation"]


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=5000), st.binary(max_size=300))
def test_garbage_is_a_named_refusal(blob: bytes, aux: bytes) -> None:
    with pytest.raises(AttestationError):
        sgx.verify(Evidence("sgx", blob, {"collateral": aux}), roots(), NOW)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 431), st.binary(min_size=1, max_size=40))
def test_overwritten_quotes_are_named_refusals(place: int, piece: bytes) -> None:
    quote = bytearray(sgx_quote())
    if quote[place : place + len(piece)] == piece:
        return
    quote[place : place + len(piece)] = piece
    try:
        claims = sgx.verify(Evidence("sgx", bytes(quote), {"collateral": sgx_collateral()}), roots(), NOW)
    except CloisterError:
        return
    raise AssertionError(claims)
