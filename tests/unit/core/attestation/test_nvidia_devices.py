"""GPUs and switches: genuine, of golden firmware, in the right mode, and bound to one CPU."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from hypothesis import given, settings
from hypothesis import strategies as st

from cloister.core.attestation import devices as module
from cloister.core.attestation import kinds, nvidia
from cloister.core.attestation.appraise import appraise, appraise_device
from cloister.core.attestation.devices import (
    DevicesVerdict,
    appraise_devices,
    bind_devices,
    device_nonce,
    gpu_bound,
    require_devices,
)
from cloister.core.attestation.model import Binding, Claims, Evidence
from cloister.core.attestation.policy import Policy, devnet, shipped
from cloister.core.attestation.roots import Roots
from cloister.core.errors import AttestationError, CloisterError, PolicyError
from cloister.devnet.tee.x509build import DAY, der_octets, der_oid, der_sequence
from support.hardware import NETWORK, NOW, binding, roots
from support.nvidia_kit import DRIVER, FWID_OID, MODE, NONCE, VBIOS, Device, fwid_extension, nvidia_roots
from support.vectors import at, vectors

PRODUCTION = Roots.production()
THEN = at("2026-11-22T00:00:00+00:00")


def _refused(step: Callable[[], object]) -> str:
    with pytest.raises(AttestationError) as caught:
        step()
    return caught.value.code


def _text_pair(report: str) -> Evidence:
    folder = vectors() / "nvidia-gpu"
    chain = Path(report.replace("AttestationReport", "CertChain").replace("InvalidSignature", ""))
    blob = bytes.fromhex((folder / report).read_text().strip())
    return Evidence("nvidia-gpu", blob, {"chain": (folder / chain).read_bytes()})


def _json_list(path: str) -> Evidence:
    (one,) = json.loads((vectors() / "nvidia-gpu/attestation-sdk" / path).read_text())
    aux = {"chain": base64.b64decode(one["certificate"])}
    return Evidence("nvidia-gpu", base64.b64decode(one["evidence"]), aux)


SDK = "attestation-sdk/sample_attestation_data/gpu"
REAL: dict[str, tuple[Callable[[], Evidence], str, str, str]] = {
    "580": (lambda: _text_pair("attestation-sdk/hopperAttestationReport.txt"), "580.159.03", "96.00.74.00.20", "SPT"),
    "535": (lambda: _text_pair(f"{SDK}/hopperAttestationReport.txt"), "535.86.09", "96.00.5E.00.01", "unsaid"),
    "570": (lambda: _text_pair(f"{SDK}/hopperAttestationReportExpired.txt"), "570.124.03", "96.00.5E.00.04", "unsaid"),
    "550": (lambda: _text_pair("nvtrust/hopperAttestationReport.txt"), "550.90.07", "96.00.9F.00.01", "unsaid"),
    "590": (lambda: _json_list("hopper_evidence.json"), "590.12", "96.00.A5.00.01", "PPCIE"),
    "590, again": (lambda: _json_list("evidence_hopper_590_12.json"), "590.12", "96.00.A5.00.01", "PPCIE"),
    "on hold": (lambda: _json_list("hopper_evidence_cert_hold.json"), "570.86.10", "96.00.AF.00.01", "unsaid"),
}


@pytest.mark.parametrize("name", REAL)
def test_every_real_gpu_of_the_vectors(name: str) -> None:
    make, driver, vbios, feature = REAL[name]
    claims = kinds.verify(make(), PRODUCTION, THEN)
    assert (claims.kind, claims.vendor_class, claims.generation) == ("nvidia-gpu", "nvidia", "GH100")
    assert (claims.details["driver"], claims.details["vbios"], claims.details["feature"]) == (driver, vbios, feature)
    assert (claims.tcb_status, claims.debug) == ("Unmeasured", False)
    assert claims.report_data == make().blob[4:36]
    assert len(claims.measurements) == 64
    assert len(claims.details["fwid"]) == (0 if name == "535" else 96)
    assert "not checked" in claims.details["revocation"]
    assert claims.fresh_until == at("9999-12-31T23:59:59+00:00")


def test_the_nonces_of_the_json_files_are_signed() -> None:
    for path in ("hopper_evidence.json", "evidence_hopper_590_12.json", "hopper_evidence_cert_hold.json"):
        (one,) = json.loads((vectors() / "nvidia-gpu/attestation-sdk" / path).read_text())
        assert kinds.verify(_json_list(path), PRODUCTION, THEN).report_data.hex() == one["nonce"]


def test_the_real_report_with_a_wrong_signature() -> None:
    evidence = _text_pair(f"{SDK}/hopperAttestationReportInvalidSignature.txt")
    assert _refused(lambda: kinds.verify(evidence, PRODUCTION, THEN)) == "attestation.signature"


def test_certificates_of_another_real_gpu() -> None:
    one, other = REAL["580"][0](), REAL["570"][0]()
    swapped = dataclasses.replace(one, aux=other.aux)
    assert _refused(lambda: kinds.verify(swapped, PRODUCTION, THEN)) == "attestation.signature"
    older = dataclasses.replace(one, aux=_text_pair(f"{SDK}/hopperAttestationReportExpired.txt").aux)
    assert _refused(lambda: kinds.verify(older, PRODUCTION, THEN)) == "attestation.signature"


def test_real_gpus_under_other_roots() -> None:
    evidence = REAL["580"][0]()
    rim_only = Roots.of({"nvidia": PRODUCTION.fingerprints["nvidia-rim"]})
    for other in (Roots.of({}), rim_only, nvidia_roots()):
        assert _refused(lambda other=other: kinds.verify(evidence, other, THEN)) == "attestation.root"  # type: ignore[misc]


def test_a_chain_that_is_not_five_long() -> None:
    chain = REAL["580"][0]().aux["chain"].split(b"-----BEGIN")
    for blocks in (chain[:-1], chain + chain[-1:]):
        aux = {"chain": b"-----BEGIN".join(blocks)}
        evidence = dataclasses.replace(REAL["580"][0](), aux=aux)
        assert _refused(lambda evidence=evidence: kinds.verify(evidence, PRODUCTION, THEN)) == "attestation.certificate"  # type: ignore[misc]


def _real_vbios_pair() -> Evidence:
    manifest = vectors() / "nvidia-gpu/nvtrust/1010_0200_882_96005E0001_test_no_gpu.swidtag"
    evidence = REAL["535"][0]()
    return dataclasses.replace(evidence, aux={**evidence.aux, "vbios_rim": manifest.read_bytes()})


def test_a_real_report_against_the_real_manifest_of_its_vbios() -> None:
    """Their versions match; the copied report differs from the golden values in four of twelve places."""
    then = at("2024-06-22T00:00:00+00:00")
    with pytest.raises(AttestationError) as caught:
        kinds.verify(_real_vbios_pair(), PRODUCTION, then)
    assert caught.value.code == "attestation.golden"
    assert (caught.value.expected, caught.value.found) == ("12 golden measurements", "others at [1, 2, 3, 9]")
    assert _refused(lambda: kinds.verify(_real_vbios_pair(), PRODUCTION, THEN)) == "attestation.expired"


@pytest.mark.parametrize("name", ["580", "550", "on hold"])
def test_a_real_report_against_the_manifest_of_another_version(name: str) -> None:
    manifest = (vectors() / "nvidia-gpu/attestation-sdk/NV_GPU_DRIVER_GH100_550.144.03.xml").read_bytes()
    evidence = REAL[name][0]()
    aux = {**evidence.aux, "driver_rim": manifest}
    assert _refused(lambda: kinds.verify(dataclasses.replace(evidence, aux=aux), PRODUCTION, THEN)) == "attestation.rim"


@pytest.mark.parametrize("name", ["580", "590"])
def test_flipped_bits_of_real_exchanges_are_refused(name: str) -> None:
    _flip(REAL[name][0](), range(1, 8 * len(REAL[name][0]().blob), 8 * 23 + 1))


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", REAL)
def test_every_bit_of_real_exchanges_counts(name: str) -> None:
    _flip(REAL[name][0](), range(8 * len(REAL[name][0]().blob)))


def _flip(evidence: Evidence, places: range) -> None:
    for place in places:
        bad = bytearray(evidence.blob)
        bad[place // 8] ^= 1 << place % 8
        with pytest.raises(AttestationError):
            kinds.verify(dataclasses.replace(evidence, blob=bytes(bad)), PRODUCTION, THEN)


def test_flipped_bits_of_a_real_chain_change_no_claim() -> None:
    evidence = REAL["580"][0]()
    honest, chain = kinds.verify(evidence, PRODUCTION, THEN), evidence.aux["chain"]
    for place in range(0, len(chain), 29):
        bad = bytearray(chain)
        bad[place] ^= 1 << place % 8
        try:
            claims = kinds.verify(dataclasses.replace(evidence, aux={"chain": bytes(bad)}), PRODUCTION, THEN)
        except CloisterError:
            continue
        assert claims == honest, place  # a line end, or text between the blocks


def _verify(evidence: Evidence, now: int = NOW) -> Claims:
    return kinds.verify(evidence, nvidia_roots(), now)


def test_the_claims_of_a_pretend_gpu_and_switch() -> None:
    gpu, switch = _verify(Device().evidence()), _verify(Device("LS10").evidence())
    assert (gpu.tcb_status, gpu.details["driver"], gpu.details["vbios"]) == ("Golden", DRIVER, VBIOS)
    assert (gpu.details["cc"], gpu.details["devtools"], gpu.debug) == ("on", "off", False)
    assert (switch.kind, switch.tcb_status, switch.details["vbios"]) == ("nvidia-switch", "Golden", VBIOS)
    assert (len(gpu.measurements), len(switch.measurements)) == (64, 31)
    assert gpu.report_data == switch.report_data == NONCE
    assert gpu.fresh_until == NOW + 90 * DAY  # the manifests end before the certificates
    joined = b"".join(gpu.measurements[f"measurement{i:03d}"] for i in range(64))
    assert kinds.launch_measurement(gpu) == hashlib.sha384(joined).digest()


def test_a_switch_is_no_gpu_and_a_gpu_no_switch() -> None:
    for chip in ("GH100", "LS10"):
        evidence = Device(chip).evidence()
        other = "nvidia-switch" if evidence.kind == "nvidia-gpu" else "nvidia-gpu"
        claimed = Evidence(other, evidence.blob, {"chain": evidence.aux["chain"]})
        assert _refused(partial(_verify, claimed)) == "attestation.chip"


def test_how_much_was_compared_is_said() -> None:
    for changes, status in (
        ({}, "Golden"),
        ({"driver_rim": None}, "Partial"),
        ({"vbios_rim": None}, "Partial"),
        ({"driver_rim": None, "vbios_rim": None}, "Unmeasured"),
    ):
        assert _verify(Device().evidence(**changes)).tcb_status == status  # type: ignore[arg-type]
    assert _verify(Device("LS10").evidence(vbios_rim=None)).tcb_status == "Unmeasured"


def _measured(**values: bytes) -> Evidence:
    """A device whose measurements differ from the manifests of the honest one."""
    honest = Device()
    other = Device(measurements={int(name[1:]): value for name, value in values.items()})
    return other.evidence(driver_rim=honest.driver_manifest(), vbios_rim=honest.vbios_manifest())


def test_golden_measurements() -> None:
    assert _verify(_measured(m9=bytes(48))).tcb_status == "Golden"  # no manifest names number 9
    assert _verify(_measured(m3=bytes(48))).tcb_status == "Golden"  # an alternative
    assert _verify(_measured(m35=b"\1" * 48)).tcb_status == "Golden"  # the decoder is off
    for name in ("m0", "m8", "m62"):
        assert _refused(lambda name=name: _verify(_measured(**{name: b"\1" * 48}))) == "attestation.golden"  # type: ignore[misc]


def test_the_decoders_measurement_counts_when_it_is_on() -> None:
    device = Device(fields={11: b"\xaa"})
    assert _refused(lambda: _verify(device.evidence())) == "attestation.golden"
    shown = Device(fields={11: b"\xaa"}, measurements={35: bytes(48)})
    assert _verify(shown.evidence()).tcb_status == "Golden"


def test_a_measurement_that_is_missing_is_not_golden() -> None:
    device = Device()
    manifests = {"driver_rim": device.driver_manifest(), "vbios_rim": device.vbios_manifest()}
    del device.measurements[62]
    assert _refused(lambda: _verify(device.evidence(**manifests))) == "attestation.golden"


MANIFESTS: dict[str, Callable[[Device], dict[str, bytes]]] = {
    "of another driver": lambda d: {"driver_rim": d.driver_manifest(version="550.144.03")},
    "of another VBIOS": lambda d: {"vbios_rim": d.vbios_manifest(version="96.00.74.00.21")},
    "of another chip": lambda d: {"driver_rim": d.driver_manifest(product="GB100")},
    "in each other's place": lambda d: {"driver_rim": d.vbios_manifest(), "vbios_rim": d.driver_manifest()},
    "that both name a measurement": lambda d: {"vbios_rim": d.vbios_manifest(golden={8: [d.measurements[8]]})},
}


@pytest.mark.parametrize("sentence", MANIFESTS)
def test_manifests(sentence: str) -> None:
    device = Device()
    assert _refused(lambda: _verify(device.evidence(**MANIFESTS[sentence](device)))) == "attestation.rim"


def test_validity_ends_to_the_second() -> None:
    evidence = Device().evidence(driver_rim=None, vbios_rim=None)
    end = _verify(evidence).fresh_until
    assert end == NOW + 800 * DAY
    assert _verify(evidence, end)
    assert _refused(lambda: _verify(evidence, end + 1)) == "attestation.expired"
    assert _refused(lambda: _verify(evidence, NOW - DAY - 1)) == "attestation.expired"


def _leaf(**leaf: Any) -> Evidence:
    return Device().evidence(chain=b"".join(Device().chain(**leaf)))


LEAVES: dict[str, tuple[dict[str, Any], str]] = {
    "no FWID": ({"extensions": []}, "attestation.certificate"),
    "two FWIDs": (
        {"extensions": [(FWID_OID, fwid_extension(Device().fwid) * 2)]},
        "attestation.certificate",
    ),
    "an FWID in both places": (
        {"extensions": [(FWID_OID + end, fwid_extension(Device().fwid)) for end in ("", ".1")]},
        "attestation.certificate",
    ),
    "an FWID of another hash": (
        {"extensions": [(FWID_OID, der_sequence(der_oid("2.16.840.1.101.3.4.2.1"), der_octets(bytes(32))))]},
        "attestation.certificate",
    ),
    "the FWID of other firmware": ({"extensions": [(FWID_OID, fwid_extension(bytes(48)))]}, "attestation.chip"),
    "a name of another chip": ({"common": "GB100 A01 GSP FMC LF"}, "attestation.chip"),
    "a name of a longer chip": ({"common": "GH1000"}, "attestation.chip"),
    "a signature over SHA-256": ({"digest": hashes.SHA256()}, "attestation.certificate"),
    "an authority as the leaf": ({"authority": 0}, "attestation.certificate"),
}


@pytest.mark.parametrize("sentence", LEAVES)
def test_leaves(sentence: str) -> None:
    leaf, code = LEAVES[sentence]
    assert _refused(lambda: _verify(_leaf(**leaf))) == code


def test_the_newer_place_of_the_fwid_is_read_too() -> None:
    leaf = {"extensions": [(FWID_OID + ".1", fwid_extension(Device().fwid))]}
    assert _verify(_leaf(**leaf)).details["fwid"] == Device().fwid.hex()


def test_identities_of_other_names_are_refused() -> None:
    for chip in ("XX100", "gh100", "G100", "LS10"):
        evidence = Device(chip).evidence()
        gpu = Evidence("nvidia-gpu", evidence.blob, {"chain": evidence.aux["chain"]})
        assert _refused(lambda gpu=gpu: _verify(gpu)) in ("attestation.chip", "attestation.malformed")  # type: ignore[misc]


FIELDS: dict[str, dict[int, bytes]] = {
    "a driver version that is none": {3: b"latest\0"},
    "a driver version of letters": {3: b"580.x\0"},
    "a driver version that is no text": {3: b"\xff"},
    "a VBIOS version of 7 bytes": {6: bytes(7)},
    "a VBIOS version with a tail": {6: bytes(7) + b"\1"},
}


@pytest.mark.parametrize("sentence", FIELDS)
def test_opaque_fields_even_if_signed(sentence: str) -> None:
    device = Device(fields=FIELDS[sentence])
    assert _refused(lambda: _verify(device.evidence(driver_rim=None, vbios_rim=None))) == "attestation.malformed"


MODES: dict[str, bytes] = {
    "no JSON": b"on",
    "a list": b"[]",
    "half of it": b'{"cc":"on"}',
    "more than it": b'{"cc":"on","devtools":"off","x":"on"}',
    "other words": b'{"cc":"yes","devtools":"off"}',
    "a flag": b'{"cc":true,"devtools":"off"}',
    "257 bytes": MODE + b" " * 257,
    "no text": b"\xff",
}


@pytest.mark.parametrize("sentence", MODES)
def test_modes_of_another_shape(sentence: str) -> None:
    assert _refused(lambda: _verify(Device().evidence(mode=MODES[sentence]))) == "attestation.malformed"


RULES: dict[str, Any] = {**shipped("strict").kinds["nvidia-gpu"], "require_ocsp": False}  # test_ocsp.py demands it


def _mode(cc: str, devtools: str) -> bytes:
    return json.dumps({"cc": cc, "devtools": devtools}).encode()


PLATFORM: dict[str, Callable[[], Evidence]] = {
    "confidential computing off": lambda: Device().evidence(mode=_mode("off", "off")),
    "DevTools on": lambda: Device().evidence(mode=_mode("on", "on")),
    "a mode that nobody says": lambda: Device().evidence(mode=None),
    "protected PCIe under strict": lambda: Device(fields={36: b"\2\0"}).evidence(),
    "protected PCIe as older firmware says it": lambda: _older(b"\xaa"),
    "a feature that nobody says": lambda: _older(b"\x55"),
    "a feature that nobody knows": lambda: Device(fields={36: b"\7\0"}).evidence(),
    "a report without FWID": lambda: _without(20),
    "an old driver": lambda: _driver("535.86.09"),
}


def _without(*fields: int) -> Evidence:
    device = Device()
    for one in fields:
        del device.fields[one]
    return device.evidence()


def _older(protected: bytes) -> Evidence:
    device = Device(fields={21: protected})
    del device.fields[36]
    return device.evidence()


def _driver(version: str) -> Evidence:
    device = Device(fields={3: version.encode() + b"\0"})
    return device.evidence(driver_rim=device.driver_manifest(version=version))


@pytest.mark.parametrize("sentence", PLATFORM)
def test_platform_rules(sentence: str) -> None:
    claims = _verify(PLATFORM[sentence]())
    assert _refused(lambda: nvidia.check_gpu(claims, RULES)) == "attestation.platform"


def test_what_the_rules_can_allow() -> None:
    nvidia.check_gpu(_verify(Device().evidence()), RULES)
    nvidia.check_gpu(_verify(Device().evidence(mode=None)), {**RULES, "allow_unsaid_mode": True})
    nvidia.check_gpu(_verify(PLATFORM["a report without FWID"]()), {**RULES, "allow_missing_fwid": True})
    nvidia.check_gpu(_verify(_driver("535.86.09")), {**RULES, "minimum_driver": "535.86"})
    cloud = shipped("cloud").kinds["nvidia-gpu"]
    nvidia.check_gpu(_verify(PLATFORM["protected PCIe under strict"]()), cloud)
    off = _verify(Device().evidence(mode=_mode("off", "off")))
    assert _refused(lambda: nvidia.check_gpu(off, {**RULES, "allow_unsaid_mode": True})) == "attestation.platform"


def test_versions_compare_as_numbers() -> None:
    assert nvidia.version_parts("550.54.15") < nvidia.version_parts("550.144.03") < nvidia.version_parts("1000")
    for text in ("", "1.", "1.2.3.4.5", "123456", "1,2", "one"):
        assert _refused(lambda text=text: nvidia.version_parts(text)) == "attestation.malformed"  # type: ignore[misc]
    with pytest.raises(PolicyError):
        dataclasses.replace(_policy(), kinds={"nvidia-gpu": {**RULES, "minimum_driver": "newest"}})


# --- Beside a CPU -----------------------------------------------------------------------------------------------


def _policy(**changes: Any) -> Policy:
    both = Roots.of({**roots().fingerprints, **nvidia_roots().fingerprints})
    return dataclasses.replace(devnet(both), **changes)


def _bound(*made: Device, base: Binding | None = None) -> tuple[Binding, list[Evidence]]:
    start = base or binding()
    shown = [device.evidence(device_nonce(start)) for device in made or (Device(),)]
    return bind_devices(start, shown), shown


def _appraise(shown: Sequence[Evidence], bound: Binding, policy: Policy | None = None) -> DevicesVerdict:
    return appraise_devices(shown, bound, policy=policy or _policy(), now=NOW)


def _failing(verdict: DevicesVerdict) -> list[str]:
    assert [check.number for check in verdict.checks] == list(range(1, len(verdict.checks) + 1))
    return [check.code for check in verdict.checks if not check.ok]


def test_a_gpu_beside_its_cpu_is_accepted() -> None:
    bound, shown = _bound()
    gpu_bound(bound, shown)
    verdict = _appraise(shown, bound)
    assert verdict.accepted
    assert len(verdict.checks) == 11
    (claims,) = require_devices(verdict)
    assert claims.generation == "GH100"


def test_eight_gpus_and_four_switches() -> None:
    pdis = [hashlib.sha256(b"%d" % i).digest()[:8] for i in range(4)]
    seen = b"".join(pdis) + bytes(16)
    gpus = [Device(name=f"g{i}", fields={21: b"\xaa", 22: seen, 36: b"\2\0"}) for i in range(8)]
    switches = [Device("LS10", name=f"s{i}", fields={22: pdi[::-1]}) for i, pdi in enumerate(pdis)]
    bound, shown = _bound(*gpus, *switches)
    assert _failing(_appraise(shown, bound)) == []
    for missing in (slice(0, 11), slice(0, 8)):
        fewer = shown[missing]
        assert _failing(_appraise(fewer, bind_devices(bound, fewer))) == ["attestation.device_topology"]
    blind = [Device(fields={21: b"\xaa", 36: b"\2\0"})]
    bound, shown = _bound(*blind)
    assert _failing(_appraise(shown, bound)) == ["attestation.device_topology"]


def test_the_nonce_is_of_the_binding_without_its_devices() -> None:
    plain = binding()
    bound, _ = _bound()
    assert device_nonce(bound) == device_nonce(plain)
    assert len(device_nonce(plain)) == 32
    others = (binding(boot=bytes(32)), binding(node=bytes(20)), binding(nonce=bytes(32)), binding(keys={}))
    assert len({device_nonce(other) for other in (plain, *others)}) == 5


def test_the_digest_covers_order_kind_exchange_and_mode_but_not_what_proves_itself() -> None:
    one, two = Device().evidence(), Device(name="two").evidence()
    base = module.device_digest([one, two])
    assert module.device_digest([two, one]) != base
    assert module.device_digest([one]) != base
    off = dataclasses.replace(one, aux={**one.aux, "mode": _mode("off", "off")})
    assert module.device_digest([off, two]) != base
    assert module.device_digest([dataclasses.replace(one, kind="nvidia-switch"), two]) != base
    renewed = dataclasses.replace(one, aux={**one.aux, "driver_rim": b"renewed"})
    assert module.device_digest([renewed, two]) == base


def _other_boot() -> tuple[Binding, list[Evidence]]:
    _, shown = _bound(base=binding(boot=bytes(32)))
    return bind_devices(binding(), shown), shown


def _not_named() -> tuple[Binding, list[Evidence]]:
    return binding(), _bound()[1]


def _one_more() -> tuple[Binding, list[Evidence]]:
    bound, shown = _bound()
    return bound, [*shown, Device(name="two").evidence(device_nonce(bound))]


def _mode_changed() -> tuple[Binding, list[Evidence]]:
    bound, (one,) = _bound()
    return bound, [dataclasses.replace(one, aux={**one.aux, "mode": _mode("on", "off") + b" "})]


def _a_cpu() -> tuple[Binding, list[Evidence]]:
    _, (one,) = _bound()
    cpu = [dataclasses.replace(one, kind="tdx")]
    return bind_devices(binding(), cpu), cpu


UNBOUND: dict[str, Callable[[], tuple[Binding, list[Evidence]]]] = {
    "no device": lambda: (bind_devices(binding(), []), []),
    "25 devices": lambda: (bind_devices(binding(), _bound()[1] * 25), _bound()[1] * 25),
    "a binding that names none": _not_named,
    "a GPU that answered another boot": _other_boot,
    "a GPU more than named": _one_more,
    "a mode other than named": _mode_changed,
    "a CPU among the devices": _a_cpu,
}


@pytest.mark.parametrize("sentence", UNBOUND)
def test_what_is_not_bound(sentence: str) -> None:
    bound, shown = UNBOUND[sentence]()
    assert _refused(lambda: gpu_bound(bound, shown)) == "attestation.device_binding"
    verdict = _appraise(shown, bound)
    assert _failing(verdict) == ["attestation.device_binding"]
    assert (len(verdict.checks), verdict.claims, verdict.accepted) == (1, (), False)
    assert _refused(lambda: require_devices(verdict)) == "attestation.device_binding"


def test_an_exchange_that_is_none_is_not_bound() -> None:
    shown = [Evidence("nvidia-gpu", b"x")]
    assert _refused(lambda: gpu_bound(bind_devices(binding(), shown), shown)) == "attestation.malformed"


def test_a_device_shown_twice() -> None:
    bound, shown = _bound(Device(), Device())
    assert _failing(_appraise(shown, bound)) == ["attestation.device_repeated"]


BAD: dict[str, tuple[Callable[[], Device], dict[str, bytes | None], list[str]]] = {
    "DevTools on": (Device, {"mode": _mode("on", "on")}, ["attestation.debug", "attestation.platform"]),
    "no manifests": (Device, {"driver_rim": None, "vbios_rim": None}, ["attestation.tcb_status"]),
    "no mode": (Device, {"mode": None}, ["attestation.platform"]),
    "no chain": (Device, {"chain": None}, ["attestation.malformed"]),
}


@pytest.mark.parametrize("sentence", BAD)
def test_a_bound_device_still_has_to_be_good(sentence: str) -> None:
    make, changes, codes = BAD[sentence]
    shown = [make().evidence(device_nonce(binding()), **changes)]
    verdict = _appraise(shown, bind_devices(binding(), shown))
    assert _failing(verdict) == codes
    assert _refused(lambda: require_devices(verdict)) == codes[0]


def test_a_refused_chip_and_a_policy_without_gpus() -> None:
    bound, shown = _bound()
    assert _failing(_appraise(shown, bound, _policy(refused_generations=("GH100",)))) == ["attestation.generation"]
    none = _policy(kinds={"nitro": {"tcb": ["Managed"]}})
    assert _failing(_appraise(shown, bound, none)) == ["attestation.unknown_kind"]


def test_an_accepted_verdict_is_not_made_by_hand() -> None:
    verdict = _appraise(*reversed(_bound()))  # type: ignore[arg-type]
    assert _refused(lambda: require_devices(DevicesVerdict((), ()))) == "attestation.device_binding"
    fewer = DevicesVerdict(verdict.checks[:-1], verdict.claims)
    assert _refused(lambda: require_devices(fewer)) == "attestation.device_binding"


@pytest.mark.parametrize("role", ["worker", "gatekeeper", "faces"])
def test_a_gpu_alone_is_evidence_of_nothing(role: str) -> None:
    verdict = appraise(
        Device().evidence(),
        binding(role=role),
        policy=_policy(),
        now=NOW,
        network=NETWORK,
        role=role,
        measurements=lambda _: None,
        checkpoints=None,
        nonce=None,
    )
    assert [check.code for check in verdict.checks if not check.ok] == ["attestation.unknown_kind"]
    assert verdict.claims is None


def test_a_cpu_is_no_device() -> None:
    verdict = appraise_device(Evidence("tdx", b""), policy=_policy(), now=NOW)
    assert [check.code for check in verdict.checks] == ["attestation.unknown_kind"]


@lru_cache(maxsize=1)
def _honest() -> Evidence:
    return Device().evidence()


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=300), st.binary(max_size=300))
def test_garbage_is_refused_by_name(blob: bytes, chain: bytes) -> None:
    for kind in ("nvidia-gpu", "nvidia-switch"):
        with pytest.raises(AttestationError):
            _verify(Evidence(kind, blob, {"chain": chain}))
    with pytest.raises(AttestationError):
        _verify(dataclasses.replace(_honest(), aux={"chain": chain}))
