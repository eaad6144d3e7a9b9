"""SEV-SNP: revocation lists, lists of chips, owners and keys, and the byte orders of TCB versions."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given, settings
from hypothesis import strategies as st

from cloister.core.attestation import certificates, snp
from cloister.core.attestation.model import Claims, Evidence
from cloister.core.attestation.policy import shipped
from cloister.core.attestation.roots import Roots
from cloister.core.errors import AttestationError
from cloister.devnet.tee.x509build import DAY, Issuer, moment
from support.hardware import MEASUREMENT, NOW, chip, factory, roots
from support.vectors import at, cases, der, evidence_of

RULES = {**shipped("strict").kinds["snp"], "allow_smt_enabled": True}


def _refusal(call: Callable[[], object]) -> str:
    with pytest.raises(AttestationError) as caught:
        call()
    return caught.value.code


@lru_cache(maxsize=32)
def _crl(signer: str = "root", revoked: str = "", start: int = NOW - DAY, end: int = NOW + DAY) -> bytes:
    """A revocation list of one of the simulated vendor's authorities, over one of its certificates or none."""
    issuer: Issuer = getattr(factory().amd, signer)
    builder = x509.CertificateRevocationListBuilder().issuer_name(issuer.certificate.subject)
    builder = builder.last_update(moment(start)).next_update(moment(end))
    if revoked:
        serial = certificates.load(chip().certificates[revoked], revoked).serial_number
        entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(moment(start)).build()
        builder = builder.add_revoked_certificate(entry)
    digest = hashes.SHA384()
    made = builder.sign(issuer.key, digest, rsa_padding=padding.PSS(padding.MGF1(digest), 48))
    return made.public_bytes(Encoding.DER)


def _verify(crl: bytes | None, now: int = NOW) -> Claims:
    aux = dict(chip().certificates) | ({} if crl is None else {"crl": crl})
    return snp.verify(Evidence("snp", chip().report(MEASUREMENT, bytes(64)), aux), roots(), now)


def test_a_list_that_revokes_nothing_shortens_the_claims() -> None:
    without, with_list = _verify(None), _verify(_crl())
    assert with_list.fresh_until == NOW + DAY - 1 < without.fresh_until
    assert (without.details["crl"], with_list.details["crl"]) == (False, True)


def test_the_list_of_the_intermediate_counts_too() -> None:
    assert _verify(_crl("signing")).details["crl"] is True


@pytest.mark.parametrize(("signer", "revoked"), [("root", "intermediate"), ("signing", "vek")])
def test_a_revoked_certificate_is_refused(signer: str, revoked: str) -> None:
    assert _refusal(lambda: _verify(_crl(signer, revoked))) == "attestation.revoked"


def test_an_authority_judges_what_it_issued_and_nothing_else() -> None:
    assert _verify(_crl("root", "vek")).details["crl"] is True
    assert _verify(_crl("signing", "intermediate")).details["crl"] is True


def test_the_edges_of_a_list_are_exact_to_the_second() -> None:
    assert _verify(_crl(), NOW + DAY - 1).kind == "snp"
    assert _verify(_crl(start=NOW, end=NOW + DAY), NOW).kind == "snp"
    for crl, now in ((_crl(), NOW + DAY), (_crl(start=NOW, end=NOW + DAY), NOW - 1)):
        assert _refusal(lambda c=crl, n=now: _verify(c, n)) == "attestation.expired"  # type: ignore[misc]


def _foreign() -> bytes:
    from cryptography.hazmat.primitives.asymmetric import rsa

    key = rsa.generate_private_key(65537, 2048)
    builder = x509.CertificateRevocationListBuilder().issuer_name(factory().amd.root.certificate.subject)
    builder = builder.last_update(moment(NOW - DAY)).next_update(moment(NOW + DAY))
    digest = hashes.SHA384()
    return builder.sign(key, digest, rsa_padding=padding.PSS(padding.MGF1(digest), 48)).public_bytes(Encoding.DER)


LISTS: dict[str, tuple[Callable[[], bytes], str]] = {
    "nothing": (lambda: b"", "attestation.malformed"),
    "no list": (lambda: b"\x30\x00", "attestation.malformed"),
    "a certificate": (lambda: chip().certificates["ark"], "attestation.malformed"),
    "a list over the limit": (lambda: bytes(65537), "attestation.malformed"),
    "signed by somebody else under the name of the root": (_foreign, "attestation.certificate"),
    "the list of another vendor": (
        lambda: (factory().intel, _intel_list())[1],
        "attestation.certificate",
    ),
    "a signature that was changed": (lambda: _crl()[:-1] + bytes([_crl()[-1] ^ 1]), "attestation.certificate"),
}


def _intel_list() -> bytes:
    from cloister.devnet.tee.x509build import revocation_list

    return revocation_list(factory().intel.root, NOW - DAY, NOW + DAY)


@pytest.mark.parametrize("sentence", LISTS)
def test_other_lists_are_refused(sentence: str) -> None:
    make, code = LISTS[sentence]
    assert _refusal(lambda: _verify(make())) == code


def test_policy_may_demand_a_list() -> None:
    rules = {**RULES, "require_crl": True}
    snp.check_platform(_verify(_crl()), rules)
    assert _refusal(lambda: snp.check_platform(_verify(None), rules)) == "attestation.platform"


def _claims(**details: Any) -> Claims:
    claims = _verify(None)
    return dataclasses.replace(claims, details={**claims.details, **details})


def _turin() -> Claims:
    return dataclasses.replace(_claims(), platform_id=b"\x07" * 8 + bytes(56))


CHIP = "chips"
LISTED: dict[str, tuple[Callable[[], Claims], dict[str, Any], bool]] = {
    "no chip is listed": (_claims, {}, True),
    "its chip": (_claims, {CHIP: lambda: (chip().chip_id.hex(), "00" * 64)}, True),
    "another chip": (_claims, {CHIP: lambda: ("00" * 64,)}, False),
    "the short name of a chip that has a long one": (_claims, {CHIP: lambda: (chip().chip_id.hex()[:16],)}, False),
    "the short name of a chip of eight bytes": (_turin, {CHIP: lambda: ("07" * 8,)}, True),
    "the long name of a chip of eight bytes": (_turin, {CHIP: lambda: ("07" * 8 + "00" * 56,)}, True),
    "an owner where the key names none": (_claims, {"owners": lambda: ("CN=cc",)}, False),
    "the owner": (lambda: _claims(owner="CN=cc"), {"owners": lambda: ("CN=cc", "CN=dd")}, True),
    "another owner": (lambda: _claims(owner="CN=cc"), {"owners": lambda: ("CN=dd",)}, False),
    "the id key": (_claims, {"id_keys": lambda: ("00" * 48,)}, True),
    "another id key": (_claims, {"id_keys": lambda: ("01" * 48,)}, False),
    "the author key": (_claims, {"author_keys": lambda: ("00" * 48,)}, True),
    "another author key": (_claims, {"author_keys": lambda: ("01" * 48,)}, False),
}


@pytest.mark.parametrize("sentence", LISTED)
def test_lists(sentence: str) -> None:
    make, lists, good = LISTED[sentence]
    rules = {**RULES, **{name: value() for name, value in lists.items()}}
    if good:
        snp.check_platform(make(), rules)
    else:
        assert _refusal(lambda: snp.check_platform(make(), rules)) == "attestation.platform"


def test_a_real_vlek_names_the_cloud_that_it_was_given_to() -> None:
    (case,) = [c for c in cases("snp") if "vlek" in c["file"] and c["verdict"] != "reject"]
    claims = snp.verify(evidence_of(case), Roots.production(), at(case["verify_at"]))
    assert claims.details["owner"] == "CN=cc-us-east-2.amazonaws.com"
    assert claims.details["signing_key"] == "VLEK"


@settings(max_examples=50)
@given(st.binary(min_size=8, max_size=8))
def test_turin_moved_the_parts_of_a_tcb_version(raw: bytes) -> None:
    old = {"bootloader": raw[0], "tee": raw[1], "snp": raw[6], "microcode": raw[7]}
    assert snp.parse_tcb(raw, "Milan") == snp.parse_tcb(raw, "Genoa") == old
    new = {"fmc": raw[0], "bootloader": raw[1], "tee": raw[2], "snp": raw[3], "microcode": raw[7]}
    assert snp.parse_tcb(raw, "Turin") == new


def test_real_keys_name_the_parts_of_their_generation() -> None:
    real = {"Milan": "amd-snp/virtee/vcek_milan.der", "Turin": "amd-snp/virtee/vcek_turin.der"}
    for generation, path in real.items():
        key = certificates.load(der(path), "vek")
        found = {one.oid.dotted_string.removeprefix(f"{snp.OID}.") for one in key.extensions}
        assert ("3.9" in found) is (generation == "Turin")
        assert {"3.1", "3.2", "3.3", "3.8", "4"} <= found
        hardware = key.extensions.get_extension_for_oid(x509.ObjectIdentifier(f"{snp.OID}.4")).value
        assert isinstance(hardware, x509.UnrecognizedExtension)
        assert len(hardware.value) == (8 if generation == "Turin" else 64)


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=400))
def test_garbage_is_no_list(data: bytes) -> None:
    assert _refusal(lambda: _verify(data)) == "attestation.malformed"
