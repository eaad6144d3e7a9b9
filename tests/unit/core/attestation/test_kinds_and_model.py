"""The registry of kinds, the nouns, certificates, the facade, and the list of codes in the documents."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import cloister.attestation as facade
import cloister.devnet.tee.service
import cloister.evidence.collect
import cloister.evidence.detect
from cloister.core.attestation import certificates, credential, devices, kinds
from cloister.core.attestation.model import Binding, Evidence, measurement_id
from cloister.core.attestation.policy import KIND_RULES
from cloister.core.attestation.refusals import fail_closed
from cloister.core.errors import REGISTRY, AttestationError, CloisterError
from support.hardware import KINDS, MEASUREMENT, NOW, binding, chip, evidence, factory, roots

CHECKS = Path(__file__).resolve().parents[4] / "docs" / "audit" / "checks.md"
MODULES = (
    cloister.devnet.tee.service,
    cloister.evidence.collect,
    cloister.evidence.detect,
    credential,
    devices,
)  # loaded so that their codes are registered


def test_every_kind_has_a_verifier_a_measurement_a_platform_rule_and_policy_rules() -> None:
    assert set(kinds.KINDS) == set(kinds.LAUNCH) == set(kinds.PLATFORM_RULES) == set(KIND_RULES)
    assert set(KINDS) | kinds.DEVICES < set(kinds.KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_the_launch_measurement_is_48_bytes(kind: str) -> None:
    claims = kinds.verify(evidence(kind), roots(), NOW)
    assert kinds.launch_measurement(claims) == MEASUREMENT
    assert len(MEASUREMENT) == 48


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(AttestationError) as caught:
        kinds.verify(Evidence("abacus", b""), roots(), NOW)
    assert caught.value.code == "attestation.unknown_kind"


@pytest.mark.parametrize("kind", KINDS)
def test_evidence_survives_the_wire(kind: str) -> None:
    made = evidence(kind)
    assert Evidence.from_json(made.to_json()) == made
    assert kinds.verify(Evidence.from_json(made.to_json()), roots(), NOW).kind == kind


def test_the_binding_survives_the_wire_and_every_field_is_committed() -> None:
    honest = binding()
    assert Binding.from_json(honest.to_json()) == honest
    others = [
        binding(network=bytes(32)),
        binding(role="gatekeeper"),
        binding(node=bytes(20)),
        binding(boot=bytes(32)),
        binding(config=bytes(32)),
        binding(checkpoint=bytes(32)),
        binding(nonce=bytes(32)),
        binding(keys={}),
    ]
    assert len({one.report_data() for one in (honest, *others)}) == 9
    assert len(honest.report_data()) == 64


def test_measurement_ids_differ_by_role() -> None:
    assert len({measurement_id(role, MEASUREMENT) for role in ("worker", "gatekeeper", "faces")}) == 3


def test_foreign_exceptions_become_a_named_refusal() -> None:
    class Panic(BaseException):
        """What a Rust library raises."""

    for error in (KeyError("x"), Panic("x"), RecursionError("x"), UnicodeDecodeError("utf-8", b"", 0, 1, "x")):

        @fail_closed
        def step(error: BaseException = error) -> None:
            raise error

        with pytest.raises(AttestationError) as caught:
            step()
        assert caught.value.code == "attestation.malformed"
        assert caught.value.found == type(error).__name__


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_a_stop_is_not_swallowed(error: type[BaseException]) -> None:
    @fail_closed
    def step() -> None:
        raise error

    with pytest.raises(error):
        step()


def test_a_pem_chain_is_read_in_order() -> None:
    text = (factory().intel.authority.pem + "between\n" + factory().intel.root.pem).encode()
    names = [certificates.common_name(c) for c in certificates.load_pem_chain(text, "a chain")]
    assert names == ["Simulated SGX PCK Platform CA", "Simulated SGX Root CA"]
    for bad in (b"", b"-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----", text * 5):
        with pytest.raises(AttestationError):
            certificates.load_pem_chain(bad, "a chain")


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=9000))
def test_garbage_is_no_certificate(data: bytes) -> None:
    with pytest.raises(AttestationError):
        certificates.load(data, "a")
    with pytest.raises(AttestationError):
        certificates.load_pem_chain(data, "a")


def test_a_chain_of_one_or_nine_is_refused() -> None:
    root = chip().certificates["ark"]
    for chain in ((root,), (root,) * 9):
        with pytest.raises(AttestationError) as caught:
            certificates.linked(chain)
        assert caught.value.code == "attestation.certificate"


def test_the_facade_offers_what_it_lists() -> None:
    for name in facade.__all__:
        assert getattr(facade, name) is not None


def test_the_facade_loads_neither_services_nor_client() -> None:
    code = "import cloister.attestation, sys; print(*sorted(m for m in sys.modules if m.startswith('cloister.')))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert all(name.startswith(("cloister.core", "cloister.attestation")) for name in loaded)


def test_every_code_is_documented_and_every_documented_code_exists() -> None:
    documented = set(re.findall(r"^\| `([a-z0-9_.]+)` \|", CHECKS.read_text(), re.MULTILINE))
    ours = {
        code
        for code in REGISTRY
        if code.startswith(("attestation.", "evidence.")) and not code.startswith("attestation.test_")
    }
    assert {c for c in documented if c.startswith(("attestation.", "evidence."))} == ours
    assert {"policy.document", "devnet.tee", "devnet.command", "devnet.machine", "devnet.package"} <= documented
    for code in documented & set(REGISTRY):
        assert REGISTRY[code].check in CHECKS.read_text(), code


def test_refusals_say_what_to_do() -> None:
    for code, refusal in REGISTRY.items():
        if code.startswith(("attestation.", "evidence.")):
            assert len(refusal.check) > 10, code
            assert refusal.remedy, code
            assert issubclass(refusal.family, CloisterError)
