"""Promise: simulated hardware is worth nothing outside its own devnet (DESIGN section 2, rules 8 and 9).

Script: take simulated evidence of every kind that its own devnet accepts; show it to a production policy; try to make a
production policy, genesis file or client trust it, by document, by configuration and by borrowing a real root.
"""

from __future__ import annotations

import copy
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from cloister.client import checks as client_checks
from cloister.core.attestation.appraise import appraise
from cloister.core.attestation.model import Evidence, Verdict, measurement_id
from cloister.core.attestation.policy import SHIPPED, Policy, shipped
from cloister.core.attestation.roots import Roots
from cloister.core.encoding import jcs
from cloister.core.encoding.network import Genesis, Network
from cloister.core.errors import AttestationError, CloisterError
from cloister.devnet.tee.machines import KINDS as SIMULATED
from cloister.gatekeeper.config import GatekeeperConfig
from support.hardware import NETWORK, NOW, binding, factory, policy, roots
from support.simulated import ALL, VENDOR, launched, shown


def _shown_to(rules: Policy, kind: str, aux: dict[str, bytes] | None = None) -> Verdict:
    made = shown(kind)
    return appraise(
        Evidence(made.kind, made.blob, {**made.aux, **(aux or {})}),
        binding(),
        policy=rules,
        now=NOW,
        network=NETWORK,
        role="worker",
        measurements=frozenset({measurement_id("worker", launched(kind))}),
        checkpoints=None,
        nonce=None,
    )


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("name", SHIPPED)
def test_what_its_devnet_accepts_production_refuses(kind: str, name: str) -> None:
    """By the root; a TPM even before: no shipped policy knows the kind, for it hides nothing."""
    assert _shown_to(policy(), kind).accepted
    verdict = _shown_to(shipped(name), kind)
    assert not verdict.accepted
    assert verdict.checks[-1].code == ("attestation.unknown_kind" if kind == "tpm" else "attestation.root")


@pytest.mark.parametrize("kind", ALL)
def test_a_production_policy_that_lists_every_kind_refuses_by_the_root(kind: str) -> None:
    document = shipped("cloud").to_json()
    document["kinds"] |= {"tpm": {"tcb": ["Unrated"], "roles": ["worker"]}}
    verdict = _shown_to(Policy.from_json(document), kind)
    assert verdict.checks[-1].code == "attestation.root"
    assert not verdict.accepted


def _pinned(kind: str) -> dict[str, Any]:
    """A production document with this devnet's root of the kind."""
    document, vendor = copy.deepcopy(shipped("cloud").to_json()), VENDOR[kind]
    document["kinds"] |= {"tpm": {"tcb": ["Unrated"], "roles": ["worker"]}}
    document["roots"].setdefault(vendor, []).append(roots().to_json()[vendor][0])
    return document


@pytest.mark.parametrize("kind", ALL)
def test_no_production_document_can_pin_a_simulated_root(kind: str) -> None:
    with pytest.raises(AttestationError) as caught:
        Policy.from_json(_pinned(kind))
    assert caught.value.code == "attestation.simulated_root"
    with pytest.raises(AttestationError) as caught:
        Policy.decode(jcs.encode(_pinned(kind)))
    assert caught.value.code == "attestation.simulated_root"


def test_every_root_of_a_devnet_is_simulated_and_known_to_production_as_such() -> None:
    """Each vendor of this devnet, so a new kind of pretend hardware cannot be forgotten here."""
    assert set(factory().roots()) == set(VENDOR.values())
    for vendor, prints in roots().fingerprints.items():
        assert not prints & Roots.production().fingerprints.get(vendor, frozenset())
        with pytest.raises(AttestationError) as caught:
            Roots.of({vendor: prints}).require_production()
        assert caught.value.code == "attestation.simulated_root"
    assert set(ALL) == set(SIMULATED)


def _genesis(mode: str, document: dict[str, Any]) -> Genesis:
    return Genesis(
        mode=mode,
        chain_id=1,
        genesis_hash=bytes(32),
        contracts={},
        policy=document,
        roots={vendor: tuple(prints) for vendor, prints in document["roots"].items()},
        header_verifier="rpc-quorum",
    )


@pytest.mark.parametrize("kind", ALL)
def test_a_production_genesis_with_a_simulated_root_is_loaded_by_no_gatekeeper(kind: str, tmp_path: Path) -> None:
    """Pinned in a production policy, or brought along by the devnet's own."""
    for document, code in ((_pinned(kind), "attestation.simulated_root"), (policy().to_json(), "gatekeeper.genesis")):
        genesis = _genesis("production", document)
        (tmp_path / "genesis.json").write_bytes(jcs.encode(genesis.to_json()))
        with pytest.raises(CloisterError) as caught:
            _config(tmp_path).load_genesis()
        assert caught.value.code == code


@pytest.mark.parametrize("kind", ALL)
async def test_a_client_of_a_production_network_refuses_a_policy_with_a_simulated_root(kind: str) -> None:
    for document, code in ((_pinned(kind), "attestation.simulated_root"), (policy().to_json(), "policy.document")):
        network = SimpleNamespace(genesis=_genesis("production", document))
        with pytest.raises(CloisterError) as caught:
            await client_checks.policy(cast(Network, network))
        assert caught.value.code == code


def _config(folder: Path) -> GatekeeperConfig:
    return GatekeeperConfig(
        data=folder,
        listen="127.0.0.1:0",
        rpc=["http://127.0.0.1:1"],
        genesis=folder / "genesis.json",
        operator="0x" + "11" * 20,
        endpoint="http://127.0.0.1:1",
        machine={},
    )


def test_a_devnet_of_one_operator_does_not_trust_the_hardware_of_another() -> None:
    foreign = {vendor: [bytes(31) + bytes([place])] for place, vendor in enumerate(sorted(set(VENDOR.values())))}
    document = policy().to_json() | {"roots": Roots.of(foreign).to_json()}
    for kind in ALL:
        assert _shown_to(Policy.from_json(document), kind).checks[-1].code == "attestation.root"


def test_roots_of_one_vendor_do_not_vouch_for_another() -> None:
    own = roots().fingerprints
    swapped = Roots.of({"amd": own["intel"], "intel": own["tpm"], "tpm": own["aws"], "aws": own["amd"]})
    document = policy().to_json() | {"roots": swapped.to_json()}
    for kind in ALL:
        assert not _shown_to(Policy.from_json(document), kind).accepted


def test_a_certificate_swapped_in_is_no_way_around_the_root() -> None:
    assert not _shown_to(policy(), "snp", {"ark": factory().intel.root.der}).accepted
    assert not _shown_to(policy(), "snp", {"vek": factory().amd.root.der}).accepted


@pytest.mark.parametrize("role", ["gatekeeper", "faces"])
def test_a_tpm_serves_as_a_worker_or_not_at_all(role: str) -> None:
    """It hides nothing from the machine's owner: not even a devnet's policy can seat it in a committee."""
    document = policy().to_json()
    document["kinds"]["tpm"]["roles"] = ["worker", role]
    with pytest.raises(CloisterError) as caught:
        Policy.from_json(document)
    assert caught.value.code == "policy.document"
    held = replace(binding(), role=role)
    verdict = appraise(
        shown("tpm", held.report_data()),
        held,
        policy=policy(),
        now=NOW,
        network=NETWORK,
        role=role,
        measurements=frozenset({measurement_id(role, launched("tpm"))}),
        checkpoints=None,
        nonce=None,
    )
    assert [check.code for check in verdict.checks if not check.ok] == ["attestation.role"]


def test_evidence_producers_load_nothing_of_the_devnet() -> None:
    code = "import cloister.evidence.detect, sys; print([m for m in sys.modules if 'devnet' in m])"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "[]"
