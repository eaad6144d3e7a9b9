"""Credential activation: a challenge that only the TPM with a given endorsement key *and* attestation key can answer.

A verifier calls ``challenge``; the TPM runs TPM2_ActivateCredential; the verifier calls ``finish``. Source: TCG "TPM
2.0 Library", part 1, sections 11.4.10 (KDFa, KDFe) and 24 (credential protection); spec/attestation.md 9.3.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from cryptography import x509
from cryptography.hazmat.decrepit.ciphers.modes import CFB
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from cryptography.hazmat.primitives.serialization import Encoding

from cloister.core.attestation.refusals import BAD_CERTIFICATE, fail_closed
from cloister.core.attestation.roots import Roots
from cloister.core.attestation.tpm import EK_PURPOSE, Activation, need_attestation_key, purposes_of, trusted_leaf
from cloister.core.attestation.tpm_structures import parse_public
from cloister.core.errors import AttestationError, define

SECRET_SIZE: Final = 32
Rng = Callable[[int], bytes]
EndorsementKey = ec.EllipticCurvePublicKey | rsa.RSAPublicKey

WRONG_ANSWER = define(
    "attestation.tpm_credential",
    AttestationError,
    check="the TPM answered the credential challenge with its secret",
    remedy="activate the credential with the endorsement and attestation keys that the challenge was made for",
    status=403,
)


@dataclass(frozen=True, slots=True)
class Challenge:
    """Send ``credential`` (TPM2B_ID_OBJECT) and ``encrypted_seed`` (TPM2B_ENCRYPTED_SECRET); keep ``secret``."""

    credential: bytes
    encrypted_seed: bytes
    secret: bytes
    claim: Activation

    def __repr__(self) -> str:
        return f"Challenge({self.claim.ak_name.hex()[:16]})"


@dataclass(frozen=True, slots=True)
class _Template:
    digest: hashes.HashAlgorithm
    key_bits: int


@fail_closed
def challenge(ek_chain: bytes, ak: bytes, roots: Roots, now: int, rng: Rng) -> Challenge:
    """A challenge for the TPM with this endorsement certificate, about this attestation key.

    Args: ek_chain (PEM, endorsement certificate first, pinned root last), ak (TPMT_PUBLIC), roots (uses "tpm"), now
    (Unix seconds), rng (random bytes). Raises AttestationError: root, chain, purpose, or the kind of key.
    """
    # 1. The endorsement certificate ends in a pinned root, and is one.
    leaf, _ = trusted_leaf(ek_chain, "ek_chain", roots, now)
    key = _endorsement_key(leaf)
    # 2. The attestation key is one that signs nothing but what its TPM made.
    public = parse_public(ak)
    need_attestation_key(public)
    # 3. The secret, readable by the TPM that holds both.
    secret = rng(SECRET_SIZE)
    credential, seed = make_credential(key, public.name, secret, rng)
    fingerprint = hashlib.sha256(leaf.public_bytes(Encoding.DER)).digest()
    return Challenge(credential, seed, secret, Activation(fingerprint, public.name))


def finish(challenge: Challenge, answer: bytes) -> Activation:
    """What the answer proves. Raises AttestationError (attestation.tpm_credential). Use each challenge once."""
    if not isinstance(answer, bytes) or not hmac.compare_digest(answer, challenge.secret):
        raise WRONG_ANSWER(expected="the secret of the challenge", found="something else")
    return challenge.claim


def make_credential(ek: EndorsementKey, ak_name: bytes, secret: bytes, rng: Rng) -> tuple[bytes, bytes]:
    """TPM2_MakeCredential in software: (TPM2B_ID_OBJECT, TPM2B_ENCRYPTED_SECRET), both with their lengths.

    The endorsement key has the TCG default template of its size: RSA-2048 and P-256 with SHA-256 and AES-128,
    RSA-3072 and P-384 with SHA-384 and AES-256. ``secret`` is at most as long as that hash. Raises AttestationError
    for any other key; RuntimeError for a longer secret.
    """
    template = _template(ek)
    size = template.digest.digest_size
    if len(secret) > size:
        raise RuntimeError(f"a credential's secret has at most {size} bytes")
    seed, wrapped = _wrap_seed(ek, template, rng)
    inner = len(secret).to_bytes(2, "big") + secret
    storage_key = kdfa(template.digest, seed, b"STORAGE", ak_name, b"", template.key_bits)
    cipher = Cipher(algorithms.AES(storage_key), CFB(bytes(16))).encryptor()
    hidden = cipher.update(inner) + cipher.finalize()
    integrity_key = kdfa(template.digest, seed, b"INTEGRITY", b"", b"", 8 * size)
    tag = hmac.digest(integrity_key, hidden + ak_name, template.digest.name)
    return _sized(_sized(tag) + hidden), _sized(wrapped)


def kdfa(digest: hashes.HashAlgorithm, key: bytes, label: bytes, u: bytes, v: bytes, bits: int) -> bytes:
    """KDFa of TPM 2.0 part 1, 11.4.10.2: SP800-108 in counter mode over HMAC. ``bits`` is a multiple of 8."""
    tail = label + b"\0" + u + v + bits.to_bytes(4, "big")
    rounds = range(1, -(-bits // (8 * digest.digest_size)) + 1)
    made = b"".join(hmac.digest(key, counter.to_bytes(4, "big") + tail, digest.name) for counter in rounds)
    return made[: bits // 8]


def kdfe(digest: hashes.HashAlgorithm, z: bytes, label: bytes, u: bytes, v: bytes) -> bytes:
    """KDFe of TPM 2.0 part 1, 11.4.10.3, for one block: the size of the hash."""
    return hashlib.new(digest.name, (1).to_bytes(4, "big") + z + label + b"\0" + u + v).digest()


def _wrap_seed(ek: EndorsementKey, template: _Template, rng: Rng) -> tuple[bytes, bytes]:
    digest = template.digest
    if isinstance(ek, rsa.RSAPublicKey):
        seed = rng(digest.digest_size)
        return seed, ek.encrypt(seed, padding.OAEP(padding.MGF1(digest), digest, b"IDENTITY\0"))
    width = (ek.key_size + 7) // 8
    order = ek.curve.group_order
    ephemeral = ec.derive_private_key(1 + int.from_bytes(rng(width + 8), "big") % (order - 1), ek.curve)
    mine, theirs = ephemeral.public_key().public_numbers(), ek.public_numbers()
    x, y = mine.x.to_bytes(width, "big"), mine.y.to_bytes(width, "big")
    seed = kdfe(digest, ephemeral.exchange(ec.ECDH(), ek), b"IDENTITY", x, theirs.x.to_bytes(width, "big"))
    return seed, _sized(x) + _sized(y)


def _template(ek: EndorsementKey) -> _Template:
    size = ek.key_size
    if isinstance(ek, ec.EllipticCurvePublicKey) and not isinstance(ek.curve, (ec.SECP256R1, ec.SECP384R1)):
        raise BAD_CERTIFICATE(expected="an endorsement key on P-256 or P-384", found=ek.curve.name)
    if size in (2048, 256):
        return _Template(hashes.SHA256(), 128)
    if size in (3072, 384):
        return _Template(hashes.SHA384(), 256)
    raise BAD_CERTIFICATE(expected="an endorsement key of a TCG default template", found=f"{size} bits")


def _endorsement_key(leaf: x509.Certificate) -> EndorsementKey:
    key = leaf.public_key()
    if EK_PURPOSE not in purposes_of(leaf) or not isinstance(key, (ec.EllipticCurvePublicKey, rsa.RSAPublicKey)):
        raise BAD_CERTIFICATE(expected="an endorsement certificate", found="one for another purpose")
    return key


def _sized(data: bytes) -> bytes:
    return len(data).to_bytes(2, "big") + data
