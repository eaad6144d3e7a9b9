"""Promise: simulated hardware is worth nothing outside its own devnet (DESIGN section 2, rules 8 and 9).

Script: take simulated evidence that its own devnet accepts; show it to a production policy; try to make the production
policy trust it, by document, by configuration and by borrowing a real root.
"""

from __future__ import annotations

import copy
import subprocess
import sys

import pytest

from cloister.core.attestation.appraise import appraise
from cloister.core.attestation.model import Evidence, Verdict, measurement_id
from cloister.core.attestation.policy import SHIPPED, Policy, shipped
from cloister.core.attestation.roots import Roots
from cloister.core.errors import AttestationError
from support.hardware import KINDS, MEASUREMENT, NETWORK, NOW, binding, evidence, factory, policy, roots


def _shown_to(rules: Policy, kind: str, aux: dict[str, bytes] | None = None) -> Verdict:
    made = evidence(kind)
    shown = Evidence(made.kind, made.blob, {**made.aux, **(aux or {})})
    return appraise(
        shown,
        binding(),
        policy=rules,
        now=NOW,
        network=NETWORK,
        role="worker",
        measurements=frozenset({measurement_id("worker", MEASUREMENT)}),
        checkpoints=None,
        nonce=None,
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", SHIPPED)
def test_what_its_devnet_accepts_production_refuses(kind: str, name: str) -> None:
    assert _shown_to(policy(), kind).accepted
    verdict = _shown_to(shipped(name), kind)
    assert not verdict.accepted
    assert verdict.checks[-1].code == "attestation.root"


@pytest.mark.parametrize("vendor", ["intel", "amd", "aws"])
def test_no_production_document_can_pin_a_simulated_root(vendor: str) -> None:
    document = copy.deepcopy(shipped("cloud").to_json())
    document["roots"][vendor].append(roots().to_json()[vendor][0])
    with pytest.raises(AttestationError) as caught:
        Policy.from_json(document)
    assert caught.value.code == "attestation.simulated_root"


def test_a_devnet_of_one_operator_does_not_trust_the_hardware_of_another() -> None:
    foreign = {vendor: [bytes(31) + bytes([place])] for place, vendor in enumerate(("intel", "amd", "aws"))}
    document = policy().to_json() | {"roots": Roots.of(foreign).to_json()}
    for kind in KINDS:
        assert _shown_to(Policy.from_json(document), kind).checks[-1].code == "attestation.root"


def test_roots_of_one_vendor_do_not_vouch_for_another() -> None:
    swapped = Roots.of({"amd": roots().fingerprints["intel"], "intel": roots().fingerprints["amd"]})
    document = policy().to_json() | {"roots": swapped.to_json()}
    for kind in KINDS:
        assert not _shown_to(Policy.from_json(document), kind).accepted


def test_a_certificate_swapped_in_is_no_way_around_the_root() -> None:
    assert not _shown_to(policy(), "snp", {"ark": factory().intel.root.der}).accepted
    assert not _shown_to(policy(), "snp", {"vek": factory().amd.root.der}).accepted


def test_evidence_producers_load_nothing_of_the_devnet() -> None:
    code = "import cloister.evidence.detect, sys; print([m for m in sys.modules if 'devnet' in m])"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "[]"
