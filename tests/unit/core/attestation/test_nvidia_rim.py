"""Reference manifests: the vendor's own, forged ones, and XML that is up to something."""

from __future__ import annotations

import copy
import re
import subprocess
import sys
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lxml import etree
from signxml.algorithms import CanonicalizationMethod, DigestAlgorithm, SignatureMethod

from cloister.core.attestation import rim
from cloister.core.attestation.roots import Roots
from cloister.core.errors import AttestationError, CloisterError
from cloister.devnet.tee.x509build import DAY
from support.hardware import NOW
from support.nvidia_kit import SWID, manifest, nvidia_roots, rim_chain, rim_root, sign, swid
from support.vectors import at, vectors

THEN = at("2026-11-22T00:00:00+00:00")
GOLDEN = {0: [bytes(48)], 7: [b"\1" * 48, b"\2" * 48]}
DSIG = "{http://www.w3.org/2000/09/xmldsig#}"


def _refused(step: Callable[[], object]) -> str:
    with pytest.raises(AttestationError) as caught:
        step()
    return caught.value.code


def _file(path: str) -> bytes:
    return (vectors() / "nvidia-gpu" / path).read_bytes()


DRIVER = "attestation-sdk/NV_GPU_DRIVER_GH100_550.144.03.xml"


def test_a_real_driver_manifest() -> None:
    made = rim.read(_file(DRIVER), Roots.production(), THEN)
    assert (made.version, made.product, len(made.golden)) == ("550.144.03", "GH100", 21)
    assert made.fresh_until == at("2026-12-30T16:56:50+00:00")
    assert (
        bytes.fromhex(
            "4a5e4b3d501fe31f91bd8b6f2921b58437704a504dbedba971440e840c938c805612689ae3ac04b1009515a179063d49"
        )
        in made.golden[7]
    )
    assert len(made.golden[23]) == 2


def test_real_manifests_end_to_the_second() -> None:
    end = rim.read(_file(DRIVER), Roots.production(), THEN).fresh_until
    assert rim.read(_file(DRIVER), Roots.production(), end)
    assert _refused(lambda: rim.read(_file(DRIVER), Roots.production(), end + 1)) == "attestation.expired"
    start = at("2024-12-30T16:56:50+00:00")
    assert rim.read(_file(DRIVER), Roots.production(), start)
    assert _refused(lambda: rim.read(_file(DRIVER), Roots.production(), start - 1)) == "attestation.expired"


REAL = {
    "attestation-sdk/incorrect_signature_driver_rim.xml": "attestation.rim",
    "attestation-sdk/incorrect_cert_chain_driver_rim.xml": "attestation.certificate",
    "nvtrust/Driver_RIM_test_no_gpu.swidtag": "attestation.expired",
    "nvtrust/1010_0200_882_96005E0001_test_no_gpu.swidtag": "attestation.expired",
}


@pytest.mark.parametrize("path", REAL)
def test_real_manifests_that_are_refused_today(path: str) -> None:
    assert _refused(lambda: rim.read(_file(path), Roots.production(), THEN)) == REAL[path]


@pytest.mark.parametrize(
    ("path", "version"), [(list(REAL)[2], "545.00"), (list(REAL)[3], "96.00.5E.00.01")], ids=["driver", "vbios"]
)
def test_two_of_them_were_good_in_their_time(path: str, version: str) -> None:
    made = rim.read(_file(path), Roots.production(), at("2024-06-22T00:00:00+00:00"))
    assert (made.version, made.product) == (version, "GH100")


def test_the_root_of_manifests_is_not_the_root_of_devices() -> None:
    prints = Roots.production().fingerprints
    swapped = Roots.of({"nvidia": prints["nvidia-rim"], "nvidia-rim": prints["nvidia"]})
    for other in (swapped, Roots.of({}), nvidia_roots()):
        assert _refused(lambda other=other: rim.read(_file(DRIVER), other, THEN)) == "attestation.root"  # type: ignore[misc]
    assert _refused(lambda: _read(manifest("1", "GH100", GOLDEN), Roots.production())) == "attestation.root"


def _read(data: bytes, roots: Roots | None = None, now: int = NOW) -> rim.Manifest:
    return rim.read(data, roots or nvidia_roots(), now)


def test_a_pretend_manifest() -> None:
    made = _read(manifest("96.00.74.00.20", "GH100", GOLDEN))
    assert made.golden == {index: frozenset(values) for index, values in GOLDEN.items()}
    assert made.fresh_until == NOW + 90 * DAY


def test_a_manifest_of_another_root_or_time() -> None:
    assert _refused(lambda: _read(manifest("1", "G", GOLDEN, root=rim_root("another")))) == "attestation.root"
    assert _refused(lambda: _read(manifest("1", "G", GOLDEN, end=NOW - 1))) == "attestation.expired"
    assert _refused(lambda: _read(manifest("1", "G", GOLDEN, start=NOW + 1))) == "attestation.expired"


def _signed(change: Callable[[etree._Element], object]) -> bytes:
    """A manifest changed before it is signed: authentic, and of another content."""
    tag = swid("1", "GH100", GOLDEN)
    change(tag)
    return sign(tag, rim_chain(rim_root()))


def _set(path: str, **attributes: str) -> Callable[[etree._Element], object]:
    def change(tag: etree._Element) -> None:
        found = tag.find(path.replace("swid:", f"{{{SWID}}}"))
        assert found is not None
        for name, value in attributes.items():
            found.set(name, value)

    return change


def _twice(name: str) -> Callable[[etree._Element], object]:
    def change(tag: etree._Element) -> None:
        found = tag.find(f"{{{SWID}}}{name}")
        assert found is not None
        tag.append(copy.deepcopy(found))

    return change


RESOURCE = "swid:Payload/swid:Resource"
CONTENTS: dict[str, Callable[[etree._Element], object]] = {
    "no description": lambda tag: tag.remove(tag.find(f"{{{SWID}}}Meta")),
    "two descriptions": _twice("Meta"),
    "two payloads": _twice("Payload"),
    "another tag": lambda tag: setattr(tag, "tag", f"{{{SWID}}}Software"),
    "a resource that is no measurement": _set(RESOURCE, type="File"),
    "a resource without a number": _set(RESOURCE, index="one"),
    "a resource of a negative number": _set(RESOURCE, index="-1"),
    "a resource of a long number": _set(RESOURCE, index="1000"),
    "a number beyond a byte": _set(RESOURCE, index="256"),
    "a number twice": _set(RESOURCE, index="7"),
    "no alternative": _set(RESOURCE, alternatives="0"),
    "alternatives that are missing": _set(RESOURCE, alternatives="2"),
    "alternatives without end": _set(RESOURCE, alternatives="17"),
    "an alternative count that is none": _set(RESOURCE, alternatives="many"),
    "an activity that is neither": _set(RESOURCE, active="maybe"),
    "a value of 47 bytes": _set(RESOURCE, **{"{http://www.w3.org/2001/04/xmlenc#sha384}Hash0": "00" * 47}),
    "no active measurement": lambda tag: [r.set("active", "False") for r in tag.iter(f"{{{SWID}}}Resource")],
}


@pytest.mark.parametrize("sentence", CONTENTS)
def test_contents_of_another_shape_even_if_signed(sentence: str) -> None:
    assert _refused(lambda: _read(_signed(CONTENTS[sentence]))) == "attestation.rim"


def test_a_value_that_is_no_hex_is_refused() -> None:
    change = _set(RESOURCE, **{"{http://www.w3.org/2001/04/xmlenc#sha384}Hash0": "zz" * 48})
    assert _refused(lambda: _read(_signed(change))) == "attestation.malformed"


HONEST = manifest("1", "GH100", GOLDEN)


def _wrapped() -> bytes:
    """The honest tag moved inside a forged one, its signature with it: signature wrapping."""
    honest = etree.fromstring(HONEST)
    forged = swid("1", "GH100", {0: [b"\7" * 48]})
    signature = honest.find(f"{DSIG}Signature")
    assert signature is not None
    forged.append(signature)
    forged.append(honest)
    return bytes(etree.tostring(forged))


def _stolen() -> bytes:
    """The honest signature under other content."""
    forged = swid("1", "GH100", {0: [b"\7" * 48]})
    signature = etree.fromstring(HONEST).find(f"{DSIG}Signature")
    assert signature is not None
    forged.append(signature)
    return bytes(etree.tostring(forged))


def _nested() -> bytes:
    tag = etree.fromstring(HONEST)
    signature = tag.find(f"{DSIG}Signature")
    payload = tag.find(f"{{{SWID}}}Payload")
    assert signature is not None
    assert payload is not None
    payload.append(signature)
    return bytes(etree.tostring(tag))


def _double() -> bytes:
    tag = etree.fromstring(HONEST)
    tag.append(copy.deepcopy(tag.find(f"{DSIG}Signature")))
    return bytes(etree.tostring(tag))


ENTITY = b'<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;&a;">]><x>&b;</x>'
TRICKS: dict[str, tuple[Callable[[], bytes], str]] = {
    "nothing": (lambda: b"", "attestation.malformed"),
    "more than 64 KiB": (lambda: HONEST + b" " * 65536, "attestation.malformed"),
    "no XML": (lambda: b"golden", "attestation.rim"),
    "an entity": (lambda: ENTITY, "attestation.rim"),
    "a document type before the honest tag": (lambda: b"<!DOCTYPE SoftwareIdentity>" + HONEST, "attestation.rim"),
    "a file as an entity": (
        lambda: b'<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]><x>&a;</x>',
        "attestation.rim",
    ),
    "no signature": (lambda: bytes(etree.tostring(swid("1", "GH100", GOLDEN))), "attestation.rim"),
    "two signatures": (_double, "attestation.rim"),
    "a signature somewhere inside": (_nested, "attestation.rim"),
    "the honest signature under other content": (_stolen, "attestation.rim"),
    "the honest tag inside another": (_wrapped, "attestation.rim"),
    "a golden value changed": (lambda: HONEST.replace(b"01" * 48, b"03" * 48), "attestation.rim"),
    "a version changed": (
        lambda: HONEST.replace(b'colloquialVersion="1"', b'colloquialVersion="2"'),
        "attestation.rim",
    ),
    "no certificate": (
        lambda: re.sub(rb"<ds:X509Certificate>.*</ds:X509Certificate>", b"", HONEST, flags=re.DOTALL),
        "attestation.rim",
    ),
    "a certificate that is none": (
        lambda: re.sub(rb"<ds:X509Certificate>[^<]*<", b"<ds:X509Certificate>AAAA<", HONEST),
        "attestation.malformed",
    ),
}


@pytest.mark.parametrize("sentence", TRICKS)
def test_tricks(sentence: str) -> None:
    make, code = TRICKS[sentence]
    assert _refused(lambda: _read(make())) == code


def test_a_comment_or_an_instruction_is_not_read() -> None:
    honest, place = _read(HONEST), HONEST.index(b"Payload>") + 8
    assert _read(HONEST[:place] + b"<!-- active -->" + HONEST[place:]) == honest
    assert _refused(lambda: _read(HONEST[:place] + b"<?do something?>" + HONEST[place:])) == "attestation.rim"


def test_the_root_alone_may_not_sign() -> None:
    tag = swid("1", "GH100", GOLDEN)
    leaf, _, root = rim_chain(rim_root())
    assert _refused(lambda: _read(sign(tag, [leaf, root]))) == "attestation.certificate"


@pytest.mark.parametrize(
    "settings_of_the_signer",
    [
        {"signature_algorithm": SignatureMethod.ECDSA_SHA256},
        {"digest_algorithm": DigestAlgorithm.SHA256},
    ],
    ids=["the signature over SHA-256", "the digest SHA-256"],
)
def test_other_algorithms_are_refused(settings_of_the_signer: dict[str, object]) -> None:
    data = sign(swid("1", "GH100", GOLDEN), rim_chain(rim_root()), **settings_of_the_signer)
    assert _refused(lambda: _read(data)) == "attestation.rim"


def test_another_canonical_form_is_as_good() -> None:
    form = CanonicalizationMethod.EXCLUSIVE_XML_CANONICALIZATION_1_0
    assert _read(sign(swid("1", "GH100", GOLDEN), rim_chain(rim_root()), c14n_algorithm=form)).version == "1"


def test_flipped_bits_of_a_real_manifest_change_nothing_that_is_read() -> None:
    data, honest = _file(DRIVER), rim.read(_file(DRIVER), Roots.production(), THEN)
    for place in range(0, len(data), 131):
        bad = bytearray(data)
        bad[place] ^= 1 << place % 7
        try:
            made = rim.read(bytes(bad), Roots.production(), THEN)
        except CloisterError:
            continue
        assert made == honest, place


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_every_byte_of_a_real_manifest() -> None:
    data, honest = _file(DRIVER), rim.read(_file(DRIVER), Roots.production(), THEN)
    for place in range(len(data)):
        bad = bytearray(data)
        bad[place] ^= 1 << place % 8
        try:
            made = rim.read(bytes(bad), Roots.production(), THEN)
        except CloisterError:
            continue
        assert made == honest, place


def test_the_libraries_are_loaded_by_the_first_manifest_only() -> None:
    loads = "import sys, cloister.attestation, cloister.core.attestation.devices"
    code = f"{loads}; print('lxml' in sys.modules, 'signxml' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.split() == ["False", "False"]


def test_without_the_libraries_the_refusal_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "signxml.verifier", None)
    fresh = manifest("2", "GH100", GOLDEN)  # not one that is remembered
    assert _refused(lambda: _read(fresh)) == "attestation.no_xml"


@settings(max_examples=100, deadline=None)
@given(st.binary(min_size=1, max_size=300))
def test_garbage_is_refused_by_name(data: bytes) -> None:
    assert _refused(lambda: _read(data)) in ("attestation.rim", "attestation.malformed")
