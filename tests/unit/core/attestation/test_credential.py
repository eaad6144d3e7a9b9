"""Credential activation: only the TPM that holds both keys can answer, and what another tool makes we make too."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, load_der_private_key
from hypothesis import given, settings
from hypothesis import strategies as st

from cloister.core.attestation import credential, tpm
from cloister.core.attestation.certificates import load_pem_chain
from cloister.core.attestation.roots import Roots
from cloister.core.attestation.tpm_structures import parse_public
from cloister.core.errors import AttestationError
from cloister.devnet.tee.x509build import DAY
from support.hardware import NOW
from support.tpm_kit import (
    AK_USAGE,
    EK_USAGE,
    activate,
    keys,
    machine,
    name_of,
    public_area,
    rng,
    tpm_evidence,
    tpm_roots,
    vendor,
)

KNOWN = json.loads((Path(__file__).parent / "data" / "tpm_known_answers.json").read_text())
AK = public_area(keys("p256"))


def _ek_chain(kind: str = "rsa-ek", usage: str | None = EK_USAGE, **when: int) -> bytes:
    return vendor().leaf(keys(kind).public_key(), usage, **when).encode()


def _challenge(chain: bytes | None = None, ak: bytes = AK, now: int = NOW) -> credential.Challenge:
    return credential.challenge(chain or _ek_chain(), ak, tpm_roots(), now, rng)


def _refused(step: Callable[[], object]) -> str:
    with pytest.raises(AttestationError) as caught:
        step()
    return caught.value.code


def _answer(kind: str, asked: credential.Challenge, name: bytes | None = None) -> bytes:
    return activate(keys(kind), name or name_of(AK), asked.credential, asked.encrypted_seed)


@pytest.mark.parametrize("kind", ["rsa-ek", "p256-ek", "p384", "rsa3072"])
def test_the_tpm_that_holds_both_keys_answers(kind: str) -> None:
    asked = _challenge(_ek_chain(kind))
    answer = _answer(kind, asked)
    assert answer == asked.secret
    assert credential.finish(asked, answer) == asked.claim


def test_the_answer_lets_the_quote_of_that_key_count() -> None:
    chain = _ek_chain()
    asked = _challenge(chain)
    activation = credential.finish(asked, _answer("rsa-ek", asked))
    evidence = tpm_evidence(machine(), ak_chain=None, ek_chain=chain, ak=AK)
    assert _refused(lambda: tpm.verify(evidence, tpm_roots(), NOW)) == "attestation.tpm_activation"
    assert tpm.verify(evidence, tpm_roots(), NOW, [activation]).kind == "tpm"
    again = tpm_evidence(machine(), ak_chain=None, ek_chain=_ek_chain(), ak=AK)  # a new certificate of the same key
    assert _refused(lambda: tpm.verify(again, tpm_roots(), NOW, [activation])) == "attestation.tpm_activation"


def test_a_wrong_answer_proves_nothing() -> None:
    asked = _challenge()
    for answer in (b"", bytes(32), asked.secret[:-1], asked.secret + b"\0", "text", None):
        assert _refused(lambda answer=answer: credential.finish(asked, answer)) == "attestation.tpm_credential"  # type: ignore[misc]


def test_another_tpm_or_another_key_cannot_answer() -> None:
    asked = _challenge(_ek_chain("p256-ek"))
    with pytest.raises(ValueError, match="integrity"):
        _answer("p256-ek", asked, name_of(public_area(keys("p384"))))
    with pytest.raises(ValueError, match="integrity"):
        _answer("p256", asked)
    assert _answer("p256-ek", asked) == asked.secret


def test_every_flipped_bit_of_the_credential_is_noticed() -> None:
    asked = _challenge(_ek_chain("p256-ek"))
    for place in range(4, len(asked.credential)):
        bad = bytearray(asked.credential)
        bad[place] ^= 1 << place % 8
        with pytest.raises(ValueError, match="integrity"):
            activate(keys("p256-ek"), name_of(AK), bytes(bad), asked.encrypted_seed)


@pytest.mark.parametrize("place", [0, 1])
def test_the_other_tool_is_understood_by_the_same_tpm(place: int) -> None:
    """tpm2-tools made these credentials; the software TPM of our tests reads them as it reads ours."""
    known = KNOWN["credentials"][place]
    key = load_der_private_key(bytes.fromhex(known["ek"]), None)
    assert isinstance(key, (ec.EllipticCurvePrivateKey, rsa.RSAPrivateKey))
    blob, name = bytes.fromhex(known["blob"]), bytes.fromhex(known["name"])
    size = 2 + int.from_bytes(blob[:2], "big")
    assert activate(key, name, blob[:size], blob[size:]) == bytes.fromhex(known["secret"])
    ours = credential.make_credential(key.public_key(), name, bytes.fromhex(known["secret"]), rng)
    assert activate(key, name, *ours) == bytes.fromhex(known["secret"])
    assert [len(part) for part in ours] == [size, len(blob) - size]


def test_the_secret_is_in_no_text() -> None:
    asked = _challenge()
    assert asked.secret.hex() not in repr(asked)
    assert repr(asked.secret) not in repr(asked)


REFUSED: dict[str, tuple[Callable[[], object], str]] = {
    "a certificate for another purpose": (lambda: _challenge(_ek_chain(usage=AK_USAGE)), "attestation.certificate"),
    "a certificate for no purpose": (lambda: _challenge(_ek_chain(usage=None)), "attestation.certificate"),
    "a certificate that has ended": (lambda: _challenge(_ek_chain(end=NOW - 1)), "attestation.expired"),
    "a verifier of the next week": (lambda: _challenge(now=NOW + 8 * DAY), "attestation.expired"),
    "no certificate": (lambda: _challenge(b"none"), "attestation.malformed"),
    "a key that is not restricted": (
        lambda: _challenge(ak=public_area(keys("p256"), 0x00040072)),
        "attestation.tpm_key",
    ),
    "no public area": (lambda: _challenge(ak=b""), "attestation.malformed"),
    "a root that is not pinned": (
        lambda: credential.challenge(_ek_chain(), AK, Roots.production(), NOW, rng),
        "attestation.root",
    ),
}


@pytest.mark.parametrize("sentence", REFUSED)
def test_who_gets_no_challenge(sentence: str) -> None:
    step, code = REFUSED[sentence]
    assert _refused(step) == code


def test_an_endorsement_key_of_another_template_is_refused() -> None:
    big = rsa.generate_private_key(65537, 4096).public_key()
    koblitz = ec.generate_private_key(ec.SECP256K1()).public_key()
    for key in (big, koblitz):
        assert (
            _refused(lambda key=key: credential.make_credential(key, name_of(AK), b"s", rng))  # type: ignore[misc]
            == "attestation.certificate"
        )
    chain = vendor().leaf(ed25519.Ed25519PrivateKey.generate().public_key(), EK_USAGE).encode()
    assert _refused(lambda: _challenge(chain)) == "attestation.certificate"


def test_a_longer_secret_is_the_callers_mistake() -> None:
    with pytest.raises(RuntimeError):
        credential.make_credential(keys("p256-ek").public_key(), name_of(AK), bytes(33), rng)


def test_the_claim_names_certificate_and_key() -> None:
    chain = _ek_chain()
    asked = _challenge(chain)
    der = load_pem_chain(chain, "chain")[0].public_bytes(Encoding.DER)
    assert asked.claim == tpm.Activation(hashlib.sha256(der).digest(), parse_public(AK).name)


def test_kdfa_of_one_and_of_two_blocks() -> None:
    short = credential.kdfa(hashes.SHA256(), b"k" * 32, b"STORAGE", b"u", b"v", 128)
    long = credential.kdfa(hashes.SHA256(), b"k" * 32, b"STORAGE", b"u", b"v", 512)
    assert (len(short), len(long)) == (16, 64)
    tail = b"STORAGE\0uv"
    first = hmac.digest(b"k" * 32, b"\0\0\0\1" + tail + (128).to_bytes(4, "big"), "sha256")
    assert short == first[:16]
    second = hmac.digest(b"k" * 32, b"\0\0\0\2" + tail + (512).to_bytes(4, "big"), "sha256")
    assert long[32:] == second


@settings(max_examples=25, deadline=None)
@given(st.binary(min_size=0, max_size=32), st.binary(min_size=34, max_size=34))
def test_any_secret_reaches_any_name(secret: bytes, name: bytes) -> None:
    made = credential.make_credential(keys("p256-ek").public_key(), name, secret, rng)
    assert activate(keys("p256-ek"), name, *made) == secret
