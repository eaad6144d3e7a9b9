"""TDX: what the simulated vendor can vary and a real one never would; each variation is refused or reported."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given, settings
from hypothesis import strategies as st

from cloister.core.attestation import dcap, tdx
from cloister.core.attestation.model import Evidence
from cloister.core.attestation.policy import shipped
from cloister.core.attestation.roots import Roots
from cloister.core.errors import AttestationError, CloisterError
from cloister.devnet.tee import intel
from cloister.devnet.tee.x509build import DAY, Issuer, certificate
from support.hardware import MEASUREMENT, NOW, chip, collateral, evidence, factory, platform, roots

REPORT = bytes(range(64))


def _verify(quote: bytes, aux: bytes | None = None, now: int = NOW) -> Any:
    return tdx.verify(Evidence("tdx", quote, {"collateral": aux or collateral()}), roots(), now)


def _refusal(call: Callable[[], object]) -> str:
    with pytest.raises(AttestationError) as caught:
        call()
    return caught.value.code


def _changed(part: str, change: Callable[[dict[str, Any]], None]) -> bytes:
    """Collateral whose TCB info or QE identity is changed and signed again by the simulated vendor."""
    key = ec.generate_private_key(ec.SECP256R1())
    signer = certificate(
        "TCB", key.public_key(), factory().intel.root, start=NOW - DAY, end=NOW + 40 * DAY, digest=hashes.SHA256()
    )
    fields = json.loads(collateral())
    for name in ("tcb_info", "qe_identity"):
        value = json.loads(fields[name])
        if name == part:
            change(value)
        text = json.dumps(value)
        fields[name], fields[f"{name}_signature"] = text, intel.sign_raw(key, text.encode()).hex()
        fields[f"{name}_issuer_chain"] = Issuer(signer, key).pem + factory().intel.root.pem
    return json.dumps(fields).encode()


def test_the_claims_of_an_honest_quote() -> None:
    claims = _verify(platform().quote(MEASUREMENT, REPORT))
    assert (claims.kind, claims.vendor_class, claims.generation) == ("tdx", "intel", intel.FMSPC.hex().upper())
    assert (claims.tcb_status, claims.advisories, claims.debug) == ("UpToDate", (), False)
    assert claims.measurements["mrtd"] == MEASUREMENT
    assert claims.measurements["rtmr3"] == bytes(48)
    assert claims.report_data == REPORT
    assert claims.fresh_until == NOW + 30 * DAY - 1
    assert len(claims.platform_id) == 16
    assert claims.details["smt_enabled"] == "False"


def test_simulated_evidence_never_passes_under_production_roots() -> None:
    assert _refusal(lambda: tdx.verify(evidence("tdx"), Roots.production(), NOW)) == "attestation.root"


def test_validity_ends_and_begins_to_the_second() -> None:
    quote, end = platform().quote(MEASUREMENT, REPORT), NOW + 30 * DAY
    assert _verify(quote, now=end - 1).fresh_until == end - 1
    assert _refusal(lambda: _verify(quote, now=end)) == "attestation.tdx_quote"
    assert _verify(quote, now=NOW - 3600).tcb_status == "UpToDate"
    assert _refusal(lambda: _verify(quote, now=NOW - 3601)) == "attestation.tdx_quote"


ATTRIBUTES = {
    "debug on": ("0100001000000000", "attestation.debug"),
    "another bit of the debug group": ("8000001000000000", "attestation.debug"),
    "page faults of secure memory reach the guest": ("0000000000000000", "attestation.tdx_quote"),
    "migration to another machine allowed": ("0000003000000000", "attestation.tdx_quote"),
    "a reserved bit": ("0000001100000000", "attestation.tdx_quote"),
}


@pytest.mark.parametrize("sentence", ATTRIBUTES)
def test_td_attributes(sentence: str) -> None:
    attributes, code = ATTRIBUTES[sentence]
    assert _refusal(lambda: _verify(platform().quote(MEASUREMENT, REPORT, bytes.fromhex(attributes)))) == code


def _set(key: str, value: object) -> Callable[[dict[str, Any]], None]:
    def change(fields: dict[str, Any]) -> None:
        fields[key] = value

    return change


def _level(status: str, advisories: list[str]) -> Callable[[dict[str, Any]], None]:
    def change(fields: dict[str, Any]) -> None:
        fields["tcbLevels"][0] |= {"tcbStatus": status, "advisoryIDs": advisories}

    return change


REPORTED = {
    "an old platform": ("tcb_info", _level("OutOfDate", ["INTEL-SA-00001"]), "OutOfDate", ("INTEL-SA-00001",)),
    "a platform that needs hardening": ("tcb_info", _level("SWHardeningNeeded", []), "SWHardeningNeeded", ()),
    "an old quoting enclave": (
        "qe_identity",
        _level("OutOfDate", ["INTEL-SA-00002"]),
        "OutOfDate",
        ("INTEL-SA-00002",),
    ),
}


@pytest.mark.parametrize("sentence", REPORTED)
def test_authenticity_reports_the_status_and_leaves_it_to_policy(sentence: str) -> None:
    part, change, status, advisories = REPORTED[sentence]
    claims = _verify(platform().quote(MEASUREMENT, REPORT), _changed(part, change))
    assert (claims.tcb_status, claims.advisories) == (status, advisories)


def _raise_floor(fields: dict[str, Any]) -> None:
    fields["tcbLevels"][0]["tcb"]["pcesvn"] = intel.PCE_SVN + 1


REFUSED = {
    "collateral of another platform": ("tcb_info", _set("fmspc", "00A067110000")),
    "collateral for SGX": ("tcb_info", _set("id", "SGX")),
    "no TCB level is low enough": ("tcb_info", _raise_floor),
    "another maker of the quoting enclave": ("qe_identity", _set("mrsigner", "00" * 32)),
    "another product of that maker": ("qe_identity", _set("isvprodid", 7)),
    "an identity that expired": ("qe_identity", _set("nextUpdate", "2020-01-01T00:00:00Z")),
}


@pytest.mark.parametrize("sentence", REFUSED)
def test_collateral_that_does_not_fit_the_quote(sentence: str) -> None:
    aux = _changed(*REFUSED[sentence])
    assert _refusal(lambda: _verify(platform().quote(MEASUREMENT, REPORT), aux)) == "attestation.tdx_quote"


SHAPES: dict[str, Callable[[], Evidence]] = {
    "an empty quote": lambda: Evidence("tdx", b"", {"collateral": collateral()}),
    "a quote over the limit": lambda: Evidence("tdx", bytes(16385), {"collateral": collateral()}),
    "no collateral": lambda: Evidence("tdx", evidence("tdx").blob, {}),
    "something beside the collateral": lambda: Evidence("tdx", evidence("tdx").blob, {**evidence("tdx").aux, "x": b""}),
    "collateral over the limit": lambda: Evidence("tdx", evidence("tdx").blob, {"collateral": bytes(65537)}),
    "collateral that is no JSON": lambda: Evidence("tdx", evidence("tdx").blob, {"collateral": b"{"}),
    "collateral that is no text": lambda: Evidence("tdx", evidence("tdx").blob, {"collateral": b"\xff"}),
    "an SNP report instead": lambda: Evidence("tdx", chip().report(MEASUREMENT, REPORT), dict(evidence("tdx").aux)),
    "a quote cut short": lambda: Evidence("tdx", evidence("tdx").blob[:-1], dict(evidence("tdx").aux)),
    "a byte behind the padding": lambda: Evidence("tdx", evidence("tdx").blob + b"\0\1", dict(evidence("tdx").aux)),
    "a chain of nine": lambda: _chain_of(9),
    "a chain of none": lambda: _chain_of(0),
}


def _chain_of(count: int) -> Evidence:
    fields = json.loads(collateral()) | {"tcb_info_issuer_chain": factory().intel.root.pem * count}
    return Evidence("tdx", evidence("tdx").blob, {"collateral": json.dumps(fields).encode()})


@pytest.mark.parametrize("sentence", SHAPES)
def test_evidence_of_another_shape(sentence: str) -> None:
    assert _refusal(lambda: tdx.verify(SHAPES[sentence](), roots(), NOW)) == "attestation.malformed"


def test_zero_padding_is_what_real_drivers_add() -> None:
    assert _verify(platform().quote(MEASUREMENT, REPORT) + bytes(70)).report_data == REPORT


def test_the_pinned_root_must_be_the_root_that_signed() -> None:
    """A pinned root appended to a foreign chain does not make it a chain."""
    foreign = ec.generate_private_key(ec.SECP256R1())
    own = certificate(
        "Foreign", foreign.public_key(), foreign, start=NOW - DAY, end=NOW + DAY, root=True, digest=hashes.SHA256()
    )
    fields = json.loads(collateral())
    fields["tcb_info_issuer_chain"] = own.public_bytes(Encoding.PEM).decode() + factory().intel.root.pem
    fields["tcb_info_signature"] = intel.sign_raw(foreign, fields["tcb_info"].encode()).hex()
    aux = json.dumps(fields).encode()
    assert _refusal(lambda: _verify(platform().quote(MEASUREMENT, REPORT), aux)) == "attestation.certificate"


def test_a_quote_of_one_machine_signed_by_the_key_of_another_is_refused() -> None:
    other = factory().intel.platform("two", NOW)
    mixed = intel.Platform(platform().pck, other.chain, other.attestation, other.serial)
    assert _refusal(lambda: _verify(mixed.quote(MEASUREMENT, REPORT))) == "attestation.tdx_quote"


def test_the_launch_measurement_is_mrtd_unless_the_firmware_measured_more() -> None:
    claims = _verify(platform().quote(MEASUREMENT, REPORT))
    assert tdx.launch_measurement(claims) == MEASUREMENT
    registers = {**claims.measurements, "rtmr2": b"\1" * 48}
    more = type(claims)(**{n: getattr(claims, n) for n in claims.__slots__} | {"measurements": registers})
    expected = hashlib.sha384(MEASUREMENT + bytes(96) + b"\1" * 48 + bytes(48)).digest()
    assert tdx.launch_measurement(more) == expected


SWITCHES = {
    "dynamic platform": "dynamic_platform",
    "cached keys": "cached_keys",
    "hyper-threading": "smt_enabled",
}


@pytest.mark.parametrize("sentence", SWITCHES)
@pytest.mark.parametrize("value", ["True", "Undefined"])
def test_what_strict_refuses_cloud_allows(sentence: str, value: str) -> None:
    claims = _verify(platform().quote(MEASUREMENT, REPORT))
    found = {**claims.details, SWITCHES[sentence]: value}
    other = type(claims)(**{n: getattr(claims, n) for n in claims.__slots__} | {"details": found})
    tdx.check_platform(claims, shipped("strict").kinds["tdx"])
    tdx.check_platform(other, shipped("cloud").kinds["tdx"])
    assert _refusal(lambda: tdx.check_platform(other, shipped("strict").kinds["tdx"])) == "attestation.platform"


def test_old_tcb_evaluation_numbers_are_refused() -> None:
    claims = _verify(platform().quote(MEASUREMENT, REPORT), _changed("tcb_info", _set("tcbEvaluationDataNumber", 16)))
    assert _refusal(lambda: tdx.check_platform(claims, shipped("strict").kinds["tdx"])) == "attestation.platform"


def test_flipped_bits_are_refused_or_change_no_claim() -> None:
    quote = platform().quote(MEASUREMENT, REPORT)
    for place in range(0, len(quote), 17):
        bad = bytearray(quote)
        bad[place] ^= 1 << (place % 8)
        try:
            claims = _verify(bytes(bad))
        except CloisterError:
            continue
        assert place >= 632 + 4 + 128, place
        assert (claims.measurements["mrtd"], claims.report_data) == (MEASUREMENT, REPORT)


def test_flipped_bits_of_the_collateral_are_refused_or_change_no_claim() -> None:
    honest, quote = collateral(), platform().quote(MEASUREMENT, REPORT)
    for place in range(0, len(honest), 61):
        bad = bytearray(honest)
        bad[place] ^= 1 << (place % 7)
        try:
            claims = _verify(quote, bytes(bad))
        except CloisterError:
            continue
        assert (claims.tcb_status, claims.fresh_until) == ("UpToDate", NOW + 30 * DAY - 1)


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=6000), st.binary(max_size=400))
def test_garbage_is_a_named_refusal(blob: bytes, aux: bytes) -> None:
    with pytest.raises(AttestationError):
        tdx.verify(Evidence("tdx", blob, {"collateral": aux}), roots(), NOW)
    with pytest.raises(AttestationError):
        _verify(platform().quote(MEASUREMENT, REPORT)[:632] + blob)


# --- what is remembered of a machine (dcap.verified) ---

SIGNED = slice(48 + 584 + 4, 48 + 584 + 4 + dcap.SIGNATURE)
SAID = slice(48 + 520, 48 + 584)


def _twins() -> tuple[bytes, bytes]:
    """Two quotes of one guest on one machine, of which the first was verified: what is left to say is remembered."""
    machine = platform()
    first, second = (machine.quote(MEASUREMENT, bytes([number]) * 64) for number in (1, 2))
    _verify(first)
    assert first[: SAID.start] == second[: SAID.start]
    assert first[SIGNED.stop :] == second[SIGNED.stop :]
    return first, second


def test_a_second_quote_of_a_machine_says_its_own_words() -> None:
    first, second = _twins()
    known = len(dcap._FACTS)
    one, two = _verify(first), _verify(second)
    assert len(dcap._FACTS) == known, "the facts of its machine are remembered"
    assert (one.report_data, two.report_data) == (bytes([1]) * 64, bytes([2]) * 64)
    assert (one.details, one.measurements, one.fresh_until) == (two.details, two.measurements, two.fresh_until)


def test_every_byte_of_a_second_quote_is_verified_all_the_same() -> None:
    _, second = _twins()
    _verify(second)
    for part in (SAID, SIGNED):
        for at in range(part.start, part.stop):
            bad = bytearray(second)
            bad[at] ^= 1 << at % 8
            assert _refusal(lambda bad=bad: _verify(bytes(bad))) == "attestation.tdx_quote", at  # type: ignore[misc]


def test_words_of_one_quote_under_the_signature_of_its_twin_are_refused() -> None:
    first, second = _twins()
    _verify(second)
    mixed = second[: SIGNED.start] + first[SIGNED] + second[SIGNED.stop :]
    assert _refusal(lambda: _verify(mixed)) == "attestation.tdx_quote"


def test_what_is_remembered_ends_with_its_collateral() -> None:
    first, second = _twins()
    late = _verify(first).fresh_until + 1
    assert _refusal(lambda: _verify(second, now=late)) in {"attestation.expired", "attestation.tdx_quote"}


def test_what_is_remembered_under_one_root_is_nothing_under_another() -> None:
    first, _ = _twins()
    pinned = Roots.production()
    aux = {"collateral": collateral()}
    assert _refusal(lambda: tdx.verify(Evidence("tdx", first, aux), pinned, NOW)) == "attestation.root"


def test_few_machines_are_remembered() -> None:
    for number in range(dcap.MAX_FACTS + 2):
        _verify(platform().quote(MEASUREMENT, REPORT) + bytes(number))
    assert len(dcap._FACTS) == dcap.MAX_FACTS


STATUSES = (
    *("UpToDate", "SWHardeningNeeded", "ConfigurationNeeded", "ConfigurationAndSWHardeningNeeded"),
    *("OutOfDate", "OutOfDateConfigurationNeeded", "Revoked", "Nonsense"),
)


@pytest.mark.parametrize("part", ["tcb_info", "qe_identity"])
def test_a_machine_that_is_remembered_is_judged_as_at_first(part: str) -> None:
    """The shorter way of dcap-qvl and the longer one agree on every status, refusals included."""

    def said(quote: bytes, aux: bytes) -> tuple[str, Any]:
        try:
            claims = _verify(quote, aux)
        except CloisterError as error:
            return error.code, error.found
        return claims.tcb_status, claims.advisories

    machine, seen = platform(), set()
    for status in STATUSES:
        aux = _changed(part, lambda value, word=status: [one.update(tcbStatus=word) for one in value["tcbLevels"]])  # type: ignore[misc]
        first, second = (said(machine.quote(MEASUREMENT, bytes([n]) * 64), aux) for n in (1, 2))
        assert first == second, status
        seen.add(first[0])
    assert {"UpToDate", "OutOfDate", "attestation.tdx_quote"} <= seen
