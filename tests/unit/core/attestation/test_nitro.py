"""Nitro: documents that the simulated enclave module could sign, and bytes that it could not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cbor2
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given, settings
from hypothesis import strategies as st

from cloister.core.attestation import nitro
from cloister.core.attestation.model import Claims, Evidence
from cloister.core.attestation.roots import Roots
from cloister.core.errors import AttestationError, CloisterError
from cloister.devnet.tee.aws import sign_cose
from cloister.devnet.tee.x509build import DAY, certificate
from support.hardware import MEASUREMENT, NOW, evidence, instance, roots

REPORT = bytes(range(64))


def _verify(blob: bytes, now: int = NOW) -> Claims:
    return nitro.verify(Evidence("nitro", blob), roots(), now)


def _refusal(call: Callable[[], object]) -> str:
    with pytest.raises(AttestationError) as caught:
        call()
    return caught.value.code


def _document(**optional: bytes | None) -> bytes:
    return instance().document({0: MEASUREMENT}, NOW, **({"user_data": REPORT} | optional))


def _payload(blob: bytes) -> dict[str, Any]:
    payload = cbor2.loads(cbor2.loads(blob)[2])
    assert isinstance(payload, dict)
    return payload


def _signed(changes: dict[str, Any], drop: str = "", leaf: dict[str, Any] | None = None) -> bytes:
    """A document with changed fields, under a new leaf of the simulated instance that signs it properly."""
    arguments: dict[str, Any] = {"start": NOW - 60, "end": NOW + 3600, "digest": hashes.SHA384()} | (leaf or {})
    key = arguments.pop("key", None) or ec.generate_private_key(ec.SECP384R1())
    issuer = arguments.pop("issuer", instance().authority)
    made = certificate("leaf", key.public_key(), issuer, **arguments)
    payload = _payload(_document()) | {"certificate": made.public_bytes(Encoding.DER)} | changes
    payload.pop(drop, None)
    return sign_cose(key, cbor2.dumps(payload))


def test_the_claims_of_an_honest_document() -> None:
    claims = _verify(_document(nonce=b"n", public_key=b"k"))
    assert (claims.kind, claims.vendor_class, claims.generation) == ("nitro", "aws", "Nitro")
    assert (claims.tcb_status, claims.debug, claims.report_data) == ("Managed", False, REPORT)
    assert nitro.launch_measurement(claims) == MEASUREMENT
    assert claims.platform_id == instance().module_id.encode()
    assert claims.fresh_until == NOW - 60 + 3 * 3600
    assert claims.details == {"issued_at": NOW, "public_key": b"k", "nonce": b"n"}


def test_simulated_evidence_never_passes_under_production_roots() -> None:
    assert _refusal(lambda: nitro.verify(evidence("nitro"), Roots.production(), NOW)) == "attestation.root"


def test_an_image_hash_of_zeros_is_a_debug_enclave() -> None:
    assert _verify(instance().document({}, NOW, user_data=REPORT)).debug is True


def test_validity_ends_and_begins_to_the_second() -> None:
    blob, end, start = _document(), NOW - 60 + 3 * 3600, NOW - 60
    assert _verify(blob, end).fresh_until == end
    assert _verify(blob, start).fresh_until == end
    assert _refusal(lambda: _verify(blob, end + 1)) == "attestation.expired"
    assert _refusal(lambda: _verify(blob, start - 1)) == "attestation.expired"


def test_the_tagged_form_is_the_same_document() -> None:
    tagged = cbor2.dumps(cbor2.CBORTag(18, cbor2.loads(_document())))
    assert _verify(tagged).report_data == REPORT
    other = cbor2.dumps(cbor2.CBORTag(17, cbor2.loads(_document())))
    assert _refusal(lambda: _verify(other)) == "attestation.malformed"


def test_no_user_data_is_no_report_data() -> None:
    assert _verify(_document(user_data=None)).report_data == b""


def _cose(**changes: Any) -> bytes:
    parts = dict(zip(("protected", "unprotected", "payload", "signature"), cbor2.loads(_document()), strict=True))
    return cbor2.dumps(list((parts | changes).values()))


ENVELOPES: dict[str, Callable[[], bytes]] = {
    "nothing": lambda: b"",
    "more than 16 KiB": lambda: bytes(16385),
    "a byte behind it": lambda: _document() + b"\0",
    "a second document behind it": lambda: _document() * 2,
    "no array": lambda: cbor2.dumps({1: 2}),
    "three parts": lambda: cbor2.dumps([b"", {}, b""]),
    "five parts": lambda: cbor2.dumps([*cbor2.loads(_document()), b""]),
    "another algorithm": lambda: _cose(protected=cbor2.dumps({1: -7})),
    "a second header": lambda: _cose(protected=cbor2.dumps({1: -35, 4: b"kid"})),
    "a header behind the header": lambda: _cose(protected=cbor2.dumps({1: -35}) + b"\0"),
    "an unprotected header": lambda: _cose(unprotected={4: b"kid"}),
    "a short signature": lambda: _cose(signature=bytes(95)),
    "a payload that is text": lambda: _cose(payload="text"),
    "nested too deep": lambda: b"\x81" * 9 + b"\0",
    "a key twice": lambda: bytes.fromhex("a201000101"),
    "a length beyond the end": lambda: b"\x5b" + b"\x7f" + b"\xff" * 7,
}


@pytest.mark.parametrize("sentence", ENVELOPES)
def test_envelopes_of_another_shape(sentence: str) -> None:
    assert _refusal(lambda: _verify(ENVELOPES[sentence]())) == "attestation.malformed"


FIELDS: dict[str, dict[str, Any]] = {
    "a module id that is bytes": {"module_id": b"i-1"},
    "an empty module id": {"module_id": ""},
    "another digest": {"digest": "SHA256"},
    "a time that is text": {"timestamp": "now"},
    "a time that is a flag": {"timestamp": True},
    "a time before 1970": {"timestamp": -1},
    "no PCR0": {"pcrs": {1: bytes(48)}},
    "a PCR of another size": {"pcrs": {0: bytes(32)}},
    "a PCR beyond 31": {"pcrs": {0: bytes(48), 32: bytes(48)}},
    "a PCR named by text": {"pcrs": {"0": bytes(48)}},
    "a PCR named by a flag": {"pcrs": {False: bytes(48)}},
    "PCRs in a list": {"pcrs": [bytes(48)]},
    "an empty bundle": {"cabundle": []},
    "a bundle of eight": {"cabundle": [b"x"] * 8},
    "a bundle of texts": {"cabundle": ["x"]},
    "a leaf that is text": {"certificate": "x"},
    "user data over 512 bytes": {"user_data": bytes(513)},
    "a nonce over 512 bytes": {"nonce": bytes(513)},
    "a public key over 1024 bytes": {"public_key": bytes(1025)},
    "user data that is text": {"user_data": "hello"},
    "an unknown field": {"extra": 1},
}


@pytest.mark.parametrize("sentence", FIELDS)
def test_fields_of_another_type_or_size_even_if_signed(sentence: str) -> None:
    assert _refusal(lambda: _verify(_signed(FIELDS[sentence]))) == "attestation.malformed"


@pytest.mark.parametrize("name", ["module_id", "digest", "timestamp", "pcrs", "certificate", "cabundle"])
def test_each_required_field_is_required(name: str) -> None:
    assert _refusal(lambda: _verify(_signed({}, drop=name))) == "attestation.malformed"


def _root_only() -> bytes:
    return _signed({"cabundle": list(instance().bundle[:1])})


CHAINS: dict[str, tuple[Callable[[], bytes], str]] = {
    "an authority is missing": (_root_only, "attestation.certificate"),
    "authorities in another order": (
        lambda: _signed({"cabundle": [instance().bundle[0], instance().bundle[2], instance().bundle[1]]}),
        "attestation.certificate",
    ),
    "another root first": (lambda: _signed({"cabundle": list(instance().bundle[1:])}), "attestation.root"),
    "a leaf that is an authority": (lambda: _signed({}, leaf={"authority": 0}), "attestation.certificate"),
    "a leaf signed over SHA-256": (lambda: _signed({}, leaf={"digest": hashes.SHA256()}), "attestation.certificate"),
    "a leaf on another curve": (
        lambda: _signed({}, leaf={"key": ec.generate_private_key(ec.SECP256R1())}),
        "attestation.certificate",
    ),
    "a leaf that signed itself": (lambda: _own_leaf(), "attestation.certificate"),
    "a leaf that expired": (lambda: _signed({}, leaf={"start": NOW - DAY, "end": NOW - 1}), "attestation.expired"),
    "a leaf of tomorrow": (lambda: _signed({}, leaf={"start": NOW + 1}), "attestation.expired"),
}


def _own_leaf() -> bytes:
    key = ec.generate_private_key(ec.SECP384R1())
    return _signed({}, leaf={"issuer": key, "key": key})


@pytest.mark.parametrize("sentence", CHAINS)
def test_chains_that_do_not_hold(sentence: str) -> None:
    call, code = CHAINS[sentence]
    assert _refusal(lambda: _verify(call())) == code


def test_a_leaf_cannot_issue_another_leaf() -> None:
    """The last authority has path length 0; a bundle that hides one more authority under it is refused."""
    key = ec.generate_private_key(ec.SECP384R1())
    below = certificate(
        "below",
        key.public_key(),
        instance().authority,
        start=NOW - 60,
        end=NOW + 60,
        authority=0,
        digest=hashes.SHA384(),
    )
    from cloister.devnet.tee.x509build import Issuer

    bundle = [*instance().bundle, below.public_bytes(Encoding.DER)]
    blob = _signed({"cabundle": bundle}, leaf={"issuer": Issuer(below, key), "end": NOW + 60})
    assert _refusal(lambda: _verify(blob)) == "attestation.certificate"


def test_a_signature_of_another_key_is_refused() -> None:
    honest = _document()
    forged = sign_cose(ec.generate_private_key(ec.SECP384R1()), cbor2.loads(honest)[2])
    assert _refusal(lambda: _verify(forged)) == "attestation.signature"
    for signature in (bytes(96), b"\xff" * 96):
        assert _refusal(lambda s=signature: _verify(_cose(signature=s))) == "attestation.signature"  # type: ignore[misc]


def test_certificates_beside_the_document_are_refused() -> None:
    bad = Evidence("nitro", _document(), {"ark": b""})
    assert _refusal(lambda: nitro.verify(bad, roots(), NOW)) == "attestation.malformed"


def test_every_flipped_byte_is_refused() -> None:
    honest = _document()
    for place in range(0, len(honest), 23):
        bad = bytearray(honest)
        bad[place] ^= 1 << (place % 8)
        with pytest.raises(CloisterError):
            _verify(bytes(bad))


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=2000))
def test_garbage_is_a_named_refusal(blob: bytes) -> None:
    with pytest.raises(AttestationError):
        _verify(blob)
    with pytest.raises(AttestationError):
        _verify(_cose(payload=blob))


@settings(max_examples=100, deadline=None)
@given(
    st.recursive(
        st.none() | st.integers() | st.binary(max_size=64) | st.text(max_size=8), lambda c: st.lists(c, max_size=4)
    )
)
def test_any_cbor_is_a_named_refusal(value: object) -> None:
    with pytest.raises(AttestationError):
        _verify(cbor2.dumps(value))
    with pytest.raises(AttestationError):
        _verify(_signed({"pcrs": value}))
