"""Roots: what is pinned, and that production never pins what a devnet made."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest

from cloister.core.attestation.roots import VENDOR_ROOTS, Roots
from cloister.core.errors import AttestationError, EncodingError
from support.hardware import factory, roots
from support.vectors import vectors

FILES = {
    "intel": ["intel-dcap/IntelSGXRootCA.der"],
    "amd": [f"amd-snp/roots/{name}/ark.der" for name in ("milan", "genoa", "turin")],
}


def test_the_vendors_own_certificates_are_pinned() -> None:
    production = Roots.production()
    for vendor, paths in FILES.items():
        for path in paths:
            der = (vectors() / path).read_bytes()
            assert production.require(vendor, der) == hashlib.sha256(der).digest()


def test_the_constant_is_the_list_of_the_provenance_file() -> None:
    text = (vectors() / "PROVENANCE.md").read_text()
    section = text.split("## Pinned roots")[1].split("##")[0]
    for names in VENDOR_ROOTS.values():
        for fingerprint in names.values():
            assert f"| {fingerprint} |" in section


def test_no_simulated_root_is_pinned_in_production() -> None:
    production = Roots.production()
    production.require_production()
    for vendor in (factory().intel, factory().amd, factory().aws):
        with pytest.raises(AttestationError) as caught:
            production.require(vendor.vendor, vendor.root.der)
        assert caught.value.code == "attestation.root"
        assert roots().require(vendor.vendor, vendor.root.der)


@pytest.mark.parametrize("vendor", ["intel", "amd", "aws"])
def test_one_simulated_root_among_real_ones_is_found(vendor: str) -> None:
    mixed = {
        v: p | (roots().fingerprints[v] if v == vendor else frozenset())
        for v, p in Roots.production().fingerprints.items()
    }
    with pytest.raises(AttestationError) as caught:
        Roots(mixed).require_production()
    assert caught.value.code == "attestation.simulated_root"


def test_a_real_root_under_another_vendor_is_not_production() -> None:
    real = Roots.production().fingerprints
    with pytest.raises(AttestationError):
        Roots.of({"aws": real["amd"]}).require_production()


def test_fewer_roots_are_still_production() -> None:
    Roots.of({}).require_production()
    Roots.of({"aws": Roots.production().fingerprints["aws"]}).require_production()


def test_json_goes_there_and_back() -> None:
    for one in (Roots.production(), roots(), Roots.of({})):
        assert Roots.from_json(one.to_json()) == one


REFUSED: dict[str, Any] = {
    "a list": [],
    "nothing": None,
    "an unknown vendor": {"acme": []},
    "a fingerprint that is no list": {"intel": "0x" + "00" * 32},
    "a short fingerprint": {"intel": ["0x00"]},
    "upper case": {"intel": ["0x" + "AB" * 32]},
    "no prefix": {"intel": ["ab" * 32]},
    "a number": {"intel": [7]},
    "seventeen roots": {"intel": ["0x" + "ab" * 32] * 17},
}


@pytest.mark.parametrize("sentence", REFUSED)
def test_other_json_is_refused(sentence: str) -> None:
    with pytest.raises(EncodingError):
        Roots.from_json(REFUSED[sentence])


def test_a_fingerprint_of_another_size_is_refused_when_built() -> None:
    with pytest.raises(EncodingError):
        Roots.of({"intel": [b"short"]})
