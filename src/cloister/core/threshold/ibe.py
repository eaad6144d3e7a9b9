"""Derived keys and identity-based encryption to them (spec/sharing.md 5 and 6).

Boneh-Franklin with the Fujisaki-Okamoto transform: knowing MPK and an identity is enough to encrypt; opening needs
the derived key k = h(id)^s. Ciphertext: version u8 = 1, U (96 bytes, G2), V (32), W (AES-256-GCM, message + 16).
The ciphertext is bound to MPK, the identity and ``aad``; it says nothing about who made it.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass, field
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from cloister.core.encoding.contexts import Context, digest, frame
from cloister.core.encoding.hexes import need_bytes
from cloister.core.errors import CloisterError, ThresholdError, define
from cloister.core.threshold.groups import (
    G1_SIZE,
    G2,
    G2_SIZE,
    Rng,
    draw,
    g1_from_bytes,
    g2_from_bytes,
    g2_times,
    hash_identity,
    hash_to_scalar,
    pairing_bytes,
    pairings_equal,
    public_key,
    to_bytes,
)

VERSION: Final = 1
MAX_MESSAGE: Final = 1 << 20
MAX_AAD: Final = 1 << 16
MIN_CIPHERTEXT: Final = 1 + G2_SIZE + 32 + 16
_NONCE: Final = bytes(12)  # each body key opens one message: it depends on sigma and on U

MALFORMED = define(
    "threshold.ibe_malformed",
    ThresholdError,
    check="an identity-based ciphertext has version 1, a good point U, and sizes within the caps",
    remedy="fetch the ciphertext again; do not ask its sender's code to repair it",
)
NOT_OPENED = define(
    "threshold.ibe_not_opened",
    ThresholdError,
    check="the ciphertext was made for this key, identity and associated data, and nothing in it changed",
    remedy="check epochs and slot; a ciphertext for a closed epoch must be made again by its setter",
)
WRONG_KEY = define(
    "threshold.derived_key",
    ThresholdError,
    check="the derived key satisfies e(k, g2) = e(h(id), MPK)",
    remedy="recover the key again from partials of this master epoch",
)


@dataclass(frozen=True, slots=True, eq=False)
class DerivedKey:
    """k = h(id)^s, 48 bytes compressed, hidden from repr. Whoever holds it opens everything for that identity."""

    point: bytes = field(repr=False)

    def __post_init__(self) -> None:
        need_bytes("derived key", self.point, G1_SIZE)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, DerivedKey):
            return NotImplemented
        return hmac.compare_digest(self.point, other.point)

    __hash__ = None  # type: ignore[assignment]  # a secret is no dictionary key

    def symmetric(self, context: Context, info: bytes) -> bytes:
        """32 bytes for one use: HKDF-SHA256(ikm = point, salt = "", info = frame(DERIVED_KEY, context, info))."""
        return _hkdf(self.point, frame(Context.DERIVED_KEY, context.dst, info))

    def verify(self, mpk: bytes, identity: bytes) -> None:
        """Raise ThresholdError unless this is the key of ``identity`` under ``mpk`` (96 bytes)."""
        if not pairings_equal(
            (g1_from_bytes(self.point, "derived key"), G2), (hash_identity(identity), public_key(mpk))
        ):
            raise WRONG_KEY(expected="the key of this identity", found="another point")


def encrypt(mpk: bytes, identity: bytes, message: bytes, aad: bytes, rng: Rng) -> bytes:
    """Encrypt to whoever will hold the key of ``identity`` under ``mpk`` (96 bytes). Raises ThresholdError.

    1. sizes; 2. sigma = 32 random bytes; 3. r = H2(sigma, MPK, id, aad, message), U = g2^r;
    4. V = sigma xor H(e(h(id)^r, MPK)); 5. W seals the message under a key from (sigma, U).
    """
    _check_sizes(message, aad, len(message))  # 1
    master, h = public_key(mpk), hash_identity(identity)
    sigma = draw(rng, 32)  # 2
    r = hash_to_scalar(Context.IBE_SCALAR, sigma, mpk, identity, aad, message)  # 3
    u = to_bytes(g2_times(r))
    v = _xor(sigma, digest(Context.IBE_MASK, pairing_bytes(h * r, master)))  # 4
    w = AESGCM(_body_key(sigma, u)).encrypt(_NONCE, message, _body_aad(mpk, identity, aad, u, v))  # 5
    return bytes([VERSION]) + u + v + w


def decrypt(key: DerivedKey, mpk: bytes, identity: bytes, ciphertext: bytes, aad: bytes) -> bytes:
    """Open a ciphertext of ``encrypt``. Raises ThresholdError; which part did not fit is not said.

    1. sizes and version; 2. U is a good point; 3. sigma = V xor H(e(k, U)); 4. W opens;
    5. r computed again from what came out gives U again.
    """
    _check_sizes(ciphertext, aad, len(ciphertext) - MIN_CIPHERTEXT)  # 1
    if ciphertext[0] != VERSION:
        raise MALFORMED(expected="version 1", found=str(ciphertext[0]))
    u, v, w = ciphertext[1:97], ciphertext[97:129], ciphertext[129:]
    try:
        point = g2_from_bytes(u, "U")  # 2
    except CloisterError as error:
        raise MALFORMED(expected="a good point U", found=error.found) from None
    pairing = pairing_bytes(g1_from_bytes(key.point, "derived key"), point)
    sigma = _xor(v, digest(Context.IBE_MASK, pairing))  # 3
    try:
        message = AESGCM(_body_key(sigma, u)).decrypt(_NONCE, w, _body_aad(mpk, identity, aad, u, v))  # 4
    except InvalidTag:
        raise NOT_OPENED(expected="a ciphertext for this key, identity and data", found="another") from None
    r = hash_to_scalar(Context.IBE_SCALAR, sigma, mpk, identity, aad, message)
    if g2_times(r) != point:  # 5
        raise NOT_OPENED(expected="a ciphertext for this key, identity and data", found="another")
    return message


def _check_sizes(data: bytes, aad: bytes, message_size: int) -> None:
    if not isinstance(data, bytes) or not isinstance(aad, bytes):
        raise TypeError("messages, ciphertexts and associated data are bytes")
    if not 0 <= message_size <= MAX_MESSAGE or len(aad) > MAX_AAD:
        expected = f"a message of at most {MAX_MESSAGE} and data of at most {MAX_AAD} bytes"
        raise MALFORMED(expected=expected, found=f"{message_size} and {len(aad)}")


def _body_key(sigma: bytes, u: bytes) -> bytes:
    return _hkdf(sigma, frame(Context.IBE_BODY, u))


def _body_aad(mpk: bytes, identity: bytes, aad: bytes, u: bytes, v: bytes) -> bytes:
    return frame(Context.IBE_CIPHERTEXT, mpk, identity, aad, u, v)


def _hkdf(ikm: bytes, info: bytes) -> bytes:
    return HKDF(algorithm=SHA256(), length=32, salt=None, info=info).derive(ikm)


def _xor(left: bytes, right: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(left, right, strict=True))
