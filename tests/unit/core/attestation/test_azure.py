"""Azure: the hardware vouches for the vTPM's key, and the vTPM for the rest. Real VMs, and pretend ones."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import dcap_qvl
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from hypothesis import given, settings
from hypothesis import strategies as st

from cloister.core.attestation import azure, hcl, kinds, snp, tdx, tpm
from cloister.core.attestation.appraise import appraise, require
from cloister.core.attestation.model import Claims, Evidence, measurement_id
from cloister.core.attestation.policy import devnet, shipped
from cloister.core.attestation.roots import Roots
from cloister.core.errors import AttestationError, CloisterError
from cloister.devnet.tee.x509build import DAY, revocation_list
from support.azure_kit import SNP, TDX, azure_evidence, hcl_report, rsa_machine, runtime_data, td_report
from support.hardware import MEASUREMENT, NETWORK, NOW, binding, chip, factory, platform, roots
from support.malleability import allowed
from support.tpm_kit import REPORT, boot_log, keys
from support.vectors import at, der, vectors

ROOTS = Roots.production()
THEN = at("2026-11-22T00:00:00+00:00")
AT_COLLATERAL = at("2026-02-20T00:00:00+00:00")
BOTH = ("azure-snp", "azure-tdx")


def _refused(step: Callable[[], object]) -> str:
    with pytest.raises(AttestationError) as caught:
        step()
    return caught.value.code


def _base64url(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def real(path: str) -> Evidence:
    """One of the vectors' JSON files as evidence; certificates of the AMD signing keys from the vectors' roots."""
    whole = json.loads((vectors() / "azure-vtpm" / path).read_text())
    inner, quote = whole["evidence"], whole["evidence"]["tpm_quote"]
    aux = {
        "quote": bytes.fromhex(quote["message"]),
        "signature": bytes.fromhex(quote["signature"]),
        "pcrs": bytes.fromhex("".join(quote["pcrs"])),
    }
    if whole["platform"] == "az-snp":
        aux |= {"vek": _base64url(inner["vcek"])}
        aux |= {"intermediate": der("amd-snp/roots/milan/ask.der"), "ark": der("amd-snp/roots/milan/ark.der")}
    else:
        collateral = vectors() / "intel-dcap/phala/tdx_quote_outdated_collateral.json"
        aux |= {"td_quote": _base64url(inner["td_quote"]), "collateral": collateral.read_bytes()}
    return Evidence(f"azure-{whole['platform'][3:]}", _base64url(inner["hcl_report"]), aux)


def _with(evidence: Evidence, **changes: bytes) -> Evidence:
    return dataclasses.replace(evidence, aux={**evidence.aux, **changes})


REAL_SNP = {"snp/evidence-v1.json": b"challenge", "snp/milan-v3-attestation.json": b""}


@pytest.mark.parametrize("path", REAL_SNP)
def test_a_real_vm_on_snp(path: str) -> None:
    claims = kinds.verify(real(path), ROOTS, THEN)
    assert (claims.kind, claims.vendor_class, claims.generation) == ("azure-snp", "microsoft+amd", "Milan")
    assert claims.report_data == REAL_SNP[path]
    assert (claims.debug, claims.tcb_status) == (False, "Committed")
    assert len([name for name in claims.measurements if name.startswith("pcr")]) == 24
    assert "paravisor" in claims.details["also_trusted"]
    assert claims.details["secure_boot"] is True
    assert claims.details["vmpl"] == 0
    assert len(kinds.launch_measurement(claims)) == 48


@pytest.mark.parametrize("path", REAL_SNP)
def test_a_changed_register_of_a_real_vm(path: str) -> None:
    evidence = real(path)
    pcrs = bytearray(evidence.aux["pcrs"])
    pcrs[4 * 32] ^= 1
    assert _refused(lambda: kinds.verify(_with(evidence, pcrs=bytes(pcrs)), ROOTS, THEN)) == "attestation.pcr_digest"


def test_the_parts_of_two_real_vms_do_not_mix() -> None:
    one, other = (real(path) for path in REAL_SNP)
    for part, code in (
        ("quote", "signature"),
        ("signature", "signature"),
        ("pcrs", "pcr_digest"),
        ("vek", "signature"),
    ):
        mixed = _with(one, **{part: other.aux[part]})
        assert _refused(lambda mixed=mixed: kinds.verify(mixed, ROOTS, THEN)) == f"attestation.{code}"  # type: ignore[misc]
    both = _with(one, **{part: other.aux[part] for part in ("quote", "signature", "pcrs")})
    assert _refused(lambda: kinds.verify(both, ROOTS, THEN)) == "attestation.signature"


def test_the_files_of_the_tools_hold_the_same_evidence() -> None:
    for kind in ("snp", "tdx"):
        folder, evidence = vectors() / "azure-vtpm" / kind, real(f"{kind}/evidence-v1.json")
        packed = (folder / "quote.bin").read_bytes()
        signature, message, pcrs = packed[8:264], packed[272 : 272 + 122], packed[402:]
        assert (signature, message) == (evidence.aux["signature"], evidence.aux["quote"])
        assert pcrs == evidence.aux["pcrs"]
        assert (folder / "hcl-report.bin").read_bytes() == evidence.blob
    assert (vectors() / "azure-vtpm/tdx/td-quote.bin").read_bytes() == real("tdx/evidence-v1.json").aux["td_quote"]


def test_an_older_quote_of_another_key_is_refused() -> None:
    folder = vectors() / "azure-vtpm/snp"
    ak = hcl.parse((folder / "hcl-report.bin").read_bytes(), hcl.SNP).ak
    message, signature = ((folder / f"tpm-quote.{end}").read_bytes() for end in ("msg", "sig"))
    assert _refused(lambda: tpm.check_quote(message, signature, bytes(9 * 32), ak)) == "attestation.signature"


def test_a_real_vm_is_refused_under_other_roots_and_at_other_times() -> None:
    evidence = real("snp/evidence-v1.json")
    for other in (Roots.of({}), roots(), Roots.of({"microsoft": ROOTS.fingerprints["amd"]})):
        assert _refused(lambda other=other: kinds.verify(evidence, other, THEN)) == "attestation.root"  # type: ignore[misc]
    end = kinds.verify(evidence, ROOTS, THEN).fresh_until
    assert kinds.verify(evidence, ROOTS, end)
    assert _refused(lambda: kinds.verify(evidence, ROOTS, end + 1)) == "attestation.expired"
    genoa = _with(evidence, ark=der("amd-snp/roots/genoa/ark.der"), intermediate=der("amd-snp/roots/genoa/ask.der"))
    assert _refused(lambda: kinds.verify(genoa, ROOTS, THEN)) == "attestation.certificate"


def test_the_collateral_at_hand_is_of_another_family_than_the_real_vm_on_tdx() -> None:
    """No copied collateral has its FMSPC, so the real quote stays unproven; the next test takes its other half."""
    evidence = real("tdx/evidence-v1.json")
    assert _refused(lambda: kinds.verify(evidence, ROOTS, AT_COLLATERAL)) == "attestation.tdx_quote"


def _unproven(evidence: Evidence, roots: Roots, now: int) -> Claims:
    """What a TD quote says, without any proof: for the half of the real evidence that needs no collateral."""
    report = dcap_qvl.parse_quote(evidence.blob).report
    details = {"td_attributes": report.td_attributes.hex(), "xfam": report.xfam.hex()}
    registers = {ours: getattr(report, theirs) for ours, theirs in tdx.REGISTERS.items()}
    return Claims("tdx", "intel", "X", b"", registers, False, "UpToDate", (), report.report_data, now, details)


def test_the_vtpm_of_a_real_vm_on_tdx(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tdx, "verify", _unproven)
    evidence = real("tdx/evidence-v1.json")
    claims = kinds.verify(evidence, ROOTS, THEN)
    assert (claims.kind, claims.vendor_class, claims.report_data) == ("azure-tdx", "microsoft+intel", b"challenge")
    assert claims.details["secure_boot"] is True
    changed = _with(evidence, pcrs=bytes(768))
    assert _refused(lambda: kinds.verify(changed, ROOTS, THEN)) == "attestation.pcr_digest"
    other = bytearray(evidence.blob)
    other[32 + 512 + 16] ^= 1  # MRTD in the TD report
    report = dataclasses.replace(evidence, blob=bytes(other))
    assert _refused(lambda: kinds.verify(report, ROOTS, THEN)) == "attestation.runtime_data"


def test_strict_names_no_azure_and_cloud_refuses_milan() -> None:
    evidence, bound = real("snp/evidence-v1.json"), binding()
    for name, expected in (("strict", "attestation.unknown_kind"), ("cloud", "attestation.generation")):
        verdict = appraise(
            evidence,
            bound,
            policy=shipped(name),
            now=THEN,
            network=NETWORK,
            role="worker",
            measurements=frozenset(),
            checkpoints=None,
            nonce=None,
        )
        assert expected in [check.code for check in verdict.checks if not check.ok]


def _verify(evidence: Evidence, now: int = NOW) -> Claims:
    return kinds.verify(evidence, roots(), now)


@pytest.mark.parametrize("kind", BOTH)
def test_the_claims_of_a_pretend_vm(kind: str) -> None:
    claims = _verify(azure_evidence(kind))
    inner = {"azure-snp": ("microsoft+amd", "Genoa"), "azure-tdx": ("microsoft+intel", claims.generation)}[kind]
    assert (claims.vendor_class, claims.generation) == inner
    assert claims.report_data == REPORT
    assert claims.measurements["pcr4"] == rsa_machine().pcrs[4]
    assert claims.measurements["measurement" if kind == "azure-snp" else "mrtd"] == MEASUREMENT


@pytest.mark.parametrize("kind", BOTH)
def test_the_launch_measurement_covers_paravisor_and_registers(kind: str) -> None:
    base = kinds.launch_measurement(_verify(azure_evidence(kind)))
    pcrs = b"".join(b"\0\x0b" + bytes([i]) + rsa_machine().pcrs[i] for i in (*range(8), 15))
    assert base == hashlib.sha384(MEASUREMENT + pcrs).digest()
    assert kinds.launch_measurement(_verify(azure_evidence(kind, measurement=bytes(48)))) != base
    assert kinds.launch_measurement(_verify(azure_evidence(kind, chosen=(0, 4)))) != base


@pytest.mark.parametrize("kind", BOTH)
def test_a_pretend_vm_is_accepted_by_its_devnet_alone(kind: str) -> None:
    bound = binding()
    evidence = azure_evidence(kind, report=bound.report_data())
    listed = frozenset({measurement_id("worker", kinds.launch_measurement(_verify(evidence)))})
    verdict = appraise(
        evidence,
        bound,
        policy=devnet(roots()),
        now=NOW,
        network=NETWORK,
        role="worker",
        measurements=listed,
        checkpoints=None,
        nonce=bound.nonce,
    )
    assert require(verdict).kind == kind
    assert _refused(lambda: kinds.verify(evidence, ROOTS, NOW)) == "attestation.root"


@pytest.mark.parametrize("kind", BOTH)
def test_secure_boot_off_is_the_policys_business(kind: str) -> None:
    off = {"secure-boot": False}
    text = runtime_data(rsa_machine().ak, **{"vm-configuration": off})
    for claims in (_verify(azure_evidence(kind, text=text)), _verify(azure_evidence(kind, text=_no_settings()))):
        rules = dict(shipped("cloud").kinds[kind])
        assert _refused(partial(azure.check_platform, claims, rules)) == "attestation.platform"
        azure.check_platform(claims, {**rules, "allow_secure_boot_off": True})


def _no_settings() -> bytes:
    return runtime_data(rsa_machine().ak, **{"vm-configuration": None})


def test_the_hardwares_rules_hold_for_the_vm() -> None:
    claims = _verify(azure_evidence("azure-snp"))
    rules = {**shipped("cloud").kinds["azure-snp"], "allow_smt_enabled": False}
    lower = dataclasses.replace(claims, details={**claims.details, "vmpl": 1})
    assert _refused(lambda: azure.check_platform(lower, rules)) == "attestation.platform"


KEY: dict[str, Any] = json.loads(runtime_data(rsa_machine().ak))["keys"][0]
TEXTS: dict[str, bytes] = {
    "no object": b"[]",
    "no JSON": b"{",
    "no keys": json.dumps({"keys": []}).encode(),
    "keys that are no list": json.dumps({"keys": KEY}).encode(),
    "the key twice": json.dumps({"keys": [KEY, KEY]}).encode(),
    "a key for encryption": json.dumps({"keys": [{**KEY, "key_ops": ["encrypt"]}]}).encode(),
    "a key of another type": json.dumps({"keys": [{**KEY, "kty": "EC"}]}).encode(),
    "a short key": json.dumps({"keys": [{**KEY, "n": "AQAB"}]}).encode(),
    "another exponent": json.dumps({"keys": [{**KEY, "e": "Aw"}]}).encode(),
    "a number that is none": json.dumps({"keys": [{**KEY, "n": 5}]}).encode(),
    "a number of another alphabet": json.dumps({"keys": [{**KEY, "n": "!!!!"}]}).encode(),
    "bytes that are no text": b"\xff\xfe{}",
}


@pytest.mark.parametrize("sentence", TEXTS)
def test_runtime_data_of_another_shape_even_if_the_hardware_signed_it(sentence: str) -> None:
    assert _refused(lambda: _verify(azure_evidence("azure-snp", text=TEXTS[sentence]))) == "attestation.malformed"


def test_runtime_data_with_another_key_is_not_what_the_hardware_signed() -> None:
    evidence = azure_evidence("azure-snp")
    other = rsa.generate_private_key(65537, 2048)
    forged = hcl_report(evidence.blob[32:1216], SNP, runtime_data(other))
    assert _refused(lambda: _verify(dataclasses.replace(evidence, blob=forged))) == "attestation.runtime_data"


def test_a_hash_with_something_behind_it_is_refused() -> None:
    text = runtime_data(rsa_machine().ak)
    report = chip().report(MEASUREMENT, hashlib.sha256(text).digest() + bytes(31) + b"\1")
    blob = hcl_report(report, SNP, text)
    evidence = dataclasses.replace(azure_evidence("azure-snp"), blob=blob)
    assert _refused(lambda: _verify(evidence)) == "attestation.runtime_data"


def test_the_quote_of_another_td_is_refused() -> None:
    text = runtime_data(keys("rsa"))
    committed = hashlib.sha256(text).digest().ljust(64, b"\0")
    other = platform().quote(bytes(48), committed)
    evidence = _with(azure_evidence("azure-tdx"), td_quote=other)
    assert _refused(lambda: _verify(evidence)) == "attestation.runtime_data"
    longer = hcl_report(td_report(evidence.aux["td_quote"]) + b"\1", TDX, text)
    assert _refused(lambda: _verify(dataclasses.replace(evidence, blob=longer))) == "attestation.runtime_data"


def _changed(place: int, new: bytes) -> Evidence:
    evidence = azure_evidence("azure-snp")
    return dataclasses.replace(evidence, blob=evidence.blob[:place] + new + evidence.blob[place + len(new) :])


REPORTS: dict[str, Callable[[], Evidence]] = {
    "nothing": lambda: dataclasses.replace(azure_evidence("azure-snp"), blob=b""),
    "more than 4 KiB": lambda: dataclasses.replace(azure_evidence("azure-snp"), blob=bytes(4097)),
    "another magic": lambda: _changed(0, b"HCLB"),
    "version 3": lambda: _changed(4, b"\3"),
    "another size": lambda: _changed(8, b"\0"),
    "another request": lambda: _changed(12, b"\1"),
    "a status": lambda: _changed(16, b"\1"),
    "something reserved": lambda: _changed(31, b"\1"),
    "another size of the data": lambda: _changed(1216, b"\0"),
    "another version of the data": lambda: _changed(1220, b"\2"),
    "the other hardware": lambda: _changed(1224, b"\4"),
    "another hash": lambda: _changed(1228, b"\2"),
    "data beyond the end": lambda: _changed(1232, b"\xff\xff"),
    "something behind the data": lambda: _changed(2599, b"\1"),
    "no registers": lambda: azure_evidence("azure-snp", pcrs=None),
    "an unknown part": lambda: azure_evidence("azure-snp", collateral=b""),
    "a signature of 513 bytes": lambda: azure_evidence("azure-snp", signature=bytes(513)),
    "registers of 4097 bytes": lambda: azure_evidence("azure-snp", pcrs=bytes(4097)),
    "no certificate of the chip": lambda: azure_evidence("azure-snp", vek=None),
    "no quote of the TD": lambda: azure_evidence("azure-tdx", td_quote=None),
}


@pytest.mark.parametrize("sentence", REPORTS)
def test_reports_of_another_shape(sentence: str) -> None:
    assert _refused(lambda: _verify(REPORTS[sentence]())) == "attestation.malformed"


PARTS: dict[str, tuple[dict[str, bytes | None], str]] = {
    "another key's signature": ({"signature": bytes(256)}, "attestation.signature"),
    "other registers": ({"pcrs": bytes(320)}, "attestation.pcr_digest"),
    "other report data": ({"report_data": bytes(64)}, "attestation.tpm_nonce"),
    "another log": ({"event_log": boot_log((4, 13, b"other"))}, "attestation.event_log"),
    "a log that is none": ({"event_log": b"x"}, "attestation.malformed"),
}


@pytest.mark.parametrize("kind", BOTH)
@pytest.mark.parametrize("sentence", PARTS)
def test_the_vtpms_parts_are_checked(kind: str, sentence: str) -> None:
    changes, code = PARTS[sentence]
    evidence = azure_evidence(kind)
    aux = {name: part for name, part in {**evidence.aux, **changes}.items() if part is not None}
    assert _refused(lambda: _verify(dataclasses.replace(evidence, aux=aux))) == code


def test_a_log_that_explains_the_registers() -> None:
    log = boot_log((4, 13, b"kernel"), (15, 13, b"image"))
    assert _verify(azure_evidence("azure-snp", event_log=log)).details["events"] == 2


def test_a_revocation_list_is_read_as_for_snp_itself() -> None:
    crl = revocation_list(factory().amd.root, NOW - DAY, NOW + DAY)
    assert _verify(azure_evidence("azure-snp", crl=crl)).details["crl"] is True
    assert _verify(azure_evidence("azure-snp")).details["crl"] is False
    old = revocation_list(factory().amd.root, NOW - 2 * DAY, NOW - DAY)
    assert _refused(lambda: _verify(azure_evidence("azure-snp", crl=old))) == "attestation.expired"
    assert _refused(lambda: _verify(azure_evidence("azure-tdx", crl=crl))) == "attestation.malformed"


def test_a_debug_vm_is_found() -> None:
    text = runtime_data(rsa_machine().ak)
    committed = hashlib.sha256(text).digest().ljust(64, b"\0")
    debug = bytearray(chip().report(MEASUREMENT, committed))
    assert snp.verify(Evidence("snp", bytes(debug), chip().certificates), roots(), NOW).debug is False
    quote = platform().quote(MEASUREMENT, committed, attributes=b"\1" + bytes(7))
    evidence = _with(azure_evidence("azure-tdx"), td_quote=quote)
    assert _refused(lambda: _verify(evidence)) == "attestation.debug"


FREE_SNP, FREE_TDX = allowed("azure-snp").places, allowed("azure-tdx").places


def _flips(evidence: Evidence, roots: Roots, now: int, places: range, free: frozenset[int]) -> None:
    honest = kinds.verify(evidence, roots, now)
    for place in places:
        bad = bytearray(evidence.blob)
        bad[place // 8] ^= 1 << place % 8
        try:
            claims = kinds.verify(dataclasses.replace(evidence, blob=bytes(bad)), roots, now)
        except CloisterError:
            continue
        assert place // 8 in free, place
        assert claims == honest


def test_flipped_bits_of_a_real_report() -> None:
    evidence = real("snp/evidence-v1.json")
    _flips(evidence, ROOTS, THEN, range(3, 8 * len(evidence.blob), 8 * 9 + 1), FREE_SNP)


@pytest.mark.parametrize(("kind", "free"), [("azure-snp", FREE_SNP), ("azure-tdx", FREE_TDX)])
def test_flipped_bits_of_pretend_reports(kind: str, free: frozenset[int]) -> None:
    evidence = azure_evidence(kind)
    _flips(evidence, roots(), NOW, range(0, 8 * len(evidence.blob), 8 * 9 + 1), free)


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("path", REAL_SNP)
def test_every_bit_of_real_reports(path: str) -> None:
    evidence = real(path)
    _flips(evidence, ROOTS, THEN, range(8 * len(evidence.blob)), FREE_SNP)


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_every_bit_of_a_pretend_report_on_tdx() -> None:
    evidence = azure_evidence("azure-tdx")
    _flips(evidence, roots(), NOW, range(8 * len(evidence.blob)), FREE_TDX)


@pytest.mark.parametrize("name", ["quote", "signature", "pcrs"])
def test_flipped_bits_of_the_real_vtpms_parts(name: str) -> None:
    evidence = real("snp/evidence-v1.json")
    part = evidence.aux[name]
    for place in range(0, len(part), 1 + len(part) // 80):
        bad = bytearray(part)
        bad[place] ^= 1 << place % 8
        with pytest.raises(AttestationError):
            kinds.verify(_with(evidence, **{name: bytes(bad)}), ROOTS, THEN)


@lru_cache(maxsize=1)
def _honest() -> tuple[Evidence, ...]:
    return tuple(azure_evidence(kind) for kind in BOTH)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=3000))
def test_garbage_is_refused_by_name(data: bytes) -> None:
    for honest in _honest():
        evidence = dataclasses.replace(honest, blob=data)
        assert _refused(lambda evidence=evidence: _verify(evidence)) == "attestation.malformed"  # type: ignore[misc]
