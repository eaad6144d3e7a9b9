"""SEV-SNP: the simulated chip and its certificates, varied one thing at a time."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given, settings
from hypothesis import strategies as st

from cloister.core.attestation import snp
from cloister.core.attestation.model import Claims, Evidence
from cloister.core.attestation.policy import shipped
from cloister.core.attestation.roots import Roots
from cloister.core.errors import AttestationError, CloisterError
from cloister.devnet.tee import amd
from cloister.devnet.tee.x509build import DAY, Issuer, certificate, der, der_integer
from support.hardware import MEASUREMENT, NOW, chip, evidence, factory, roots

REPORT = bytes(range(64))


def _verify(report: bytes, now: int = NOW, **aux: bytes) -> Claims:
    return snp.verify(Evidence("snp", report, {**chip().certificates, **aux}), roots(), now)


def _refusal(call: Callable[[], object]) -> str:
    with pytest.raises(AttestationError) as caught:
        call()
    return caught.value.code


def _resigned(report: bytes, changes: dict[int, bytes], key: ec.EllipticCurvePrivateKey | None = None) -> bytes:
    """The report with bytes changed at offsets, signed again by the simulated chip."""
    body = bytearray(report)
    for offset, data in changes.items():
        body[offset : offset + len(data)] = data
    r, s = decode_dss_signature((key or chip().key).sign(bytes(body[:672]), ec.ECDSA(hashes.SHA384())))
    return bytes(body[:672]) + r.to_bytes(72, "little") + s.to_bytes(72, "little") + bytes(body[816:])


def _vcek(changes: dict[str, bytes | None], **arguments: Any) -> tuple[bytes, ec.EllipticCurvePrivateKey]:
    """A VCEK of the simulated vendor whose extensions are changed (None removes one), and its key."""
    tcb = {"3.1": "bootloader", "3.2": "tee", "3.3": "snp", "3.8": "microcode"}
    values: dict[str, bytes | None] = {suffix: der_integer(amd.TCB[name]) for suffix, name in tcb.items()}
    values |= {"2": der(0x16, b"Genoa"), "4": chip().chip_id} | changes
    key = arguments.pop("key", None) or ec.generate_private_key(ec.SECP384R1())
    made = certificate(
        "SEV-VCEK",
        key.public_key(),
        arguments.pop("issuer", factory().amd.signing),
        start=NOW - DAY,
        end=NOW + DAY,
        extensions=[(f"{amd.OID}.{suffix}", value) for suffix, value in values.items() if value is not None],
        digest=arguments.pop("digest", hashes.SHA384()),
        **arguments,
    )
    return made.public_bytes(Encoding.DER), key


def _with_vcek(changes: dict[str, bytes | None], **arguments: Any) -> Claims:
    vek, key = _vcek(changes, **arguments)
    return _verify(_resigned(chip().report(MEASUREMENT, REPORT), {}, key), vek=vek)


def test_the_claims_of_an_honest_report() -> None:
    claims = _verify(chip().report(MEASUREMENT, REPORT))
    assert (claims.kind, claims.vendor_class, claims.generation) == ("snp", "amd", "Genoa")
    assert (claims.tcb_status, claims.debug, claims.report_data) == ("Committed", False, REPORT)
    assert snp.launch_measurement(claims) == MEASUREMENT
    assert claims.platform_id == chip().chip_id
    assert claims.details["reported_tcb"] == amd.TCB
    assert (claims.details["vmpl"], claims.details["signing_key"]) == (0, "VCEK")


def test_simulated_evidence_never_passes_under_production_roots() -> None:
    assert _refusal(lambda: snp.verify(evidence("snp"), Roots.production(), NOW)) == "attestation.root"


def test_debug_is_reported() -> None:
    assert _verify(chip().report(MEASUREMENT, REPORT, policy=amd.DEBUG_POLICY)).debug is True


def test_validity_ends_and_begins_to_the_second() -> None:
    report = chip().report(MEASUREMENT, REPORT)
    end = _verify(report).fresh_until
    assert end == NOW + 7 * 365 * DAY
    assert _verify(report, now=end).fresh_until == end
    assert _refusal(lambda: _verify(report, now=end + 1)) == "attestation.expired"
    start = NOW - DAY
    assert _verify(report, now=start).debug is False
    assert _refusal(lambda: _verify(report, now=start - 1)) == "attestation.expired"


SHAPES = {
    "one byte short": (1183, {"vek", "intermediate", "ark"}),
    "one byte long": (1185, {"vek", "intermediate", "ark"}),
    "empty": (0, {"vek", "intermediate", "ark"}),
    "no root": (1184, {"vek", "intermediate"}),
    "one certificate too many": (1184, {"vek", "intermediate", "ark", "other"}),
}


@pytest.mark.parametrize("sentence", SHAPES)
def test_evidence_of_another_shape(sentence: str) -> None:
    size, names = SHAPES[sentence]
    report = chip().report(MEASUREMENT, REPORT).ljust(1185, b"\0")[:size]
    aux = {name: chip().certificates.get(name, b"") for name in names}
    assert _refusal(lambda: snp.verify(Evidence("snp", report, aux), roots(), NOW)) == "attestation.malformed"


REPORTS = {
    "an unknown version": ({0x00: struct.pack("<I", 1)}, "attestation.malformed"),
    "a version from the future": ({0x00: struct.pack("<I", 6)}, "attestation.malformed"),
    "another signature algorithm": ({0x34: struct.pack("<I", 2)}, "attestation.malformed"),
    "signed by nobody": ({0x48: struct.pack("<I", 7 << 2)}, "attestation.malformed"),
    "a VLEK's report with a VCEK": ({0x48: struct.pack("<I", 1 << 2)}, "attestation.chip"),
    "a newer TCB than the certificate's": ({0x187: b"\x59"}, "attestation.chip"),
    "an older TCB than the certificate's": ({0x180: b"\x01"}, "attestation.chip"),
    "another chip": ({0x1A0: b"\x00" * 64}, "attestation.chip"),
}


@pytest.mark.parametrize("sentence", REPORTS)
def test_reports_that_the_chip_signed_but_that_do_not_fit(sentence: str) -> None:
    changes, code = REPORTS[sentence]
    assert _refusal(lambda: _verify(_resigned(chip().report(MEASUREMENT, REPORT), changes))) == code


def test_versions_two_to_five_are_read() -> None:
    for version in (2, 3, 4, 5):
        changes = {0x00: struct.pack("<I", version)}
        assert _verify(_resigned(chip().report(MEASUREMENT, REPORT), changes)).details["version"] == version


def test_firmware_that_may_be_rolled_back_is_provisional() -> None:
    changes = {0x1E0: bytes((10, 0, 0, 0, 0, 0, 24, 88))}
    claims = _verify(_resigned(chip().report(MEASUREMENT, REPORT), changes))
    assert claims.tcb_status == "Provisional"
    assert claims.tcb_status not in shipped("cloud").kinds["snp"]["tcb"]


EXTENSIONS: dict[str, tuple[dict[str, bytes | None], str]] = {
    "no product": ({"2": None}, "attestation.certificate"),
    "no boot loader version": ({"3.1": None}, "attestation.certificate"),
    "no chip id": ({"4": None}, "attestation.certificate"),
    "another product": ({"2": der(0x16, b"Milan-B0")}, "attestation.chip"),
    "a product that is no text": ({"2": b"\x04\x05Genoa"}, "attestation.certificate"),
    "a product of the wrong length": ({"2": b"\x16\x09Genoa"}, "attestation.certificate"),
    "a version that is no integer": ({"3.3": b"\x04\x01\x19"}, "attestation.certificate"),
    "a version of many bytes": ({"3.3": b"\x02\x05\0\0\0\0\x19"}, "attestation.certificate"),
    "a chip id of zeros": ({"4": bytes(64)}, "attestation.chip"),
    "an empty chip id": ({"4": b""}, "attestation.chip"),
    "half a chip id": ({"4": b"\x55" * 32}, "attestation.chip"),
}


@pytest.mark.parametrize("sentence", EXTENSIONS)
def test_extensions_of_the_key(sentence: str) -> None:
    changes, code = EXTENSIONS[sentence]
    assert _refusal(lambda: _with_vcek(changes)) == code


def test_a_sibling_product_of_the_generation_is_known() -> None:
    assert _with_vcek({"2": der(0x16, b"Siena")}).generation == "Genoa"


def _self_issued_ark() -> bytes:
    amd_root = factory().amd.root
    made = certificate(
        "ARK-Genoa", amd_root.certificate.public_key(), factory().amd.signing,  # type: ignore[arg-type]
        start=NOW - DAY, end=NOW + DAY, root=True, digest=hashes.SHA384(),
    )  # fmt: skip
    return made.public_bytes(Encoding.DER)


CHAINS: dict[str, tuple[Callable[[], Claims], str]] = {
    "the key is an authority": (lambda: _with_vcek({}, authority=0), "attestation.certificate"),
    "the key is issued by the root": (lambda: _with_vcek({}, issuer=factory().amd.root), "attestation.certificate"),
    "the key is signed over SHA-256": (lambda: _with_vcek({}, digest=hashes.SHA256()), "attestation.certificate"),
    "the key is on P-256": (
        lambda: _with_vcek({}, key=ec.generate_private_key(ec.SECP256R1())),
        "attestation.certificate",
    ),
    "the key signs itself": (lambda: _self_signed_vek(), "attestation.certificate"),
    "the chain without its middle": (
        lambda: _verify(chip().report(MEASUREMENT, REPORT), intermediate=chip().certificates["ark"]),
        "attestation.certificate",
    ),
    "the root as the key": (
        lambda: _verify(chip().report(MEASUREMENT, REPORT), vek=chip().certificates["ark"]),
        "attestation.certificate",
    ),
    "a root certificate that is not the pinned one": (
        lambda: _verify(chip().report(MEASUREMENT, REPORT), ark=_self_issued_ark()),
        "attestation.root",
    ),
    "the root with a byte behind it": (
        lambda: _verify(chip().report(MEASUREMENT, REPORT), ark=chip().certificates["ark"] + b"\0"),
        "attestation.root",
    ),
    "a key that is no certificate": (
        lambda: _verify(chip().report(MEASUREMENT, REPORT), vek=b"\x30\x00"),
        "attestation.malformed",
    ),
    "a certificate over the limit": (
        lambda: _verify(chip().report(MEASUREMENT, REPORT), vek=bytes(8193)),
        "attestation.malformed",
    ),
}


def _self_signed_vek() -> Claims:
    key = ec.generate_private_key(ec.SECP384R1())
    return _with_vcek({}, issuer=key, key=key)


@pytest.mark.parametrize("sentence", CHAINS)
def test_chains_that_do_not_hold(sentence: str) -> None:
    call, code = CHAINS[sentence]
    assert _refusal(call) == code


def test_rsa_signatures_must_be_pss_with_the_full_salt() -> None:
    key = ec.generate_private_key(ec.SECP384R1())
    honest = x509.load_der_x509_certificate(chip().certificates["vek"])
    for scheme in (padding.PKCS1v15(), padding.PSS(padding.MGF1(hashes.SHA384()), 32)):
        builder = x509.CertificateBuilder(
            honest.issuer, honest.subject, key.public_key(), 77, honest.not_valid_before_utc, honest.not_valid_after_utc
        )
        for extension in honest.extensions:
            builder = builder.add_extension(extension.value, extension.critical)
        vek = builder.sign(factory().amd.signing.key, hashes.SHA384(), rsa_padding=scheme)
        report = _resigned(chip().report(MEASUREMENT, REPORT), {}, key)
        assert _refusal(lambda: _verify(report, vek=vek.public_bytes(Encoding.DER))) == "attestation.certificate"  # noqa: B023


def test_a_vlek_names_no_chip_and_needs_its_own_authority() -> None:
    key = factory().amd.signing.key
    middle = certificate(
        "SEV-VLEK-Genoa", key.public_key(), factory().amd.root, start=NOW - DAY, end=NOW + DAY, authority=0,
        digest=hashes.SHA384(),
    )  # fmt: skip
    vek, signer = _vcek({"4": None}, issuer=Issuer(middle, key))
    changes = {0x48: struct.pack("<I", 1 << 2), 0x1A0: bytes(64)}
    report = _resigned(chip().report(MEASUREMENT, REPORT), changes, signer)
    claims = _verify(report, vek=vek, intermediate=middle.public_bytes(Encoding.DER))
    assert (claims.details["signing_key"], claims.platform_id) == ("VLEK", bytes(64))
    as_vcek = _resigned(report, {0x48: bytes(4)}, signer)
    refused = _refusal(lambda: _verify(as_vcek, vek=vek, intermediate=middle.public_bytes(Encoding.DER)))
    assert refused == "attestation.chip"


def test_turin_moved_the_parts_of_the_tcb() -> None:
    raw = bytes((1, 2, 3, 4, 0, 0, 0, 9))
    assert snp.parse_tcb(raw, "Turin") == {"fmc": 1, "bootloader": 2, "tee": 3, "snp": 4, "microcode": 9}
    assert snp.parse_tcb(raw, "Milan") == {"bootloader": 1, "tee": 2, "snp": 0, "microcode": 9}


RULES: dict[str, dict[str, Any]] = {
    "a lower privilege level": {"vmpl": 2},
    "a migration agent": {"migration_agent": True},
    "hyper-threading": {"smt_enabled": True},
    "old SNP firmware": {"reported_tcb": {"bootloader": 10, "tee": 0, "snp": 22, "microcode": 88}},
    "a TCB without the part": {"reported_tcb": {}},
}


@pytest.mark.parametrize("sentence", RULES)
def test_what_strict_refuses(sentence: str) -> None:
    claims = _verify(chip().report(MEASUREMENT, REPORT))
    rules = shipped("strict").kinds["snp"]
    snp.check_platform(claims, rules)
    details = {**claims.details, **RULES[sentence]}
    other = Claims(**{n: getattr(claims, n) for n in Claims.__slots__} | {"details": details})
    assert _refusal(lambda: snp.check_platform(other, rules)) == "attestation.platform"


def test_flipped_bits_of_what_is_signed_are_refused_and_of_the_rest_change_nothing() -> None:
    report = chip().report(MEASUREMENT, REPORT)
    for place in range(0, 1184, 5):
        bad = bytearray(report)
        bad[place] ^= 1 << (place % 8)
        if place < 816:
            with pytest.raises(CloisterError):
                _verify(bytes(bad))
        else:
            assert _verify(bytes(bad)).report_data == REPORT


def test_flipped_bits_of_the_certificates_are_refused() -> None:
    report = chip().report(MEASUREMENT, REPORT)
    for name, honest in chip().certificates.items():
        for place in range(0, len(honest), 29):
            bad = bytearray(honest)
            bad[place] ^= 1 << (place % 8)
            with pytest.raises(CloisterError):
                _verify(report, NOW, **{name: bytes(bad)})


@settings(max_examples=100, deadline=None)
@given(st.binary(min_size=1184, max_size=1184), st.binary(max_size=300))
def test_garbage_is_a_named_refusal(blob: bytes, junk: bytes) -> None:
    for aux in ({}, {"vek": junk}, {"intermediate": junk}, {"ark": junk}):
        with pytest.raises(AttestationError):
            _verify(blob, NOW, **aux)
