"""Signatures by a derived key: whoever has k = h(id)^s signs as ``id`` (spec/ohttp.md 4).

The identity-based signature of Cha and Cheon (PKC 2003), over BLS12-381: U = h(id)^r, c = H(MPK, id, message, U),
V = k^(r + c). It holds if e(V, g2) = e(U h(id)^c, MPK). A signature is U ‖ V, 96 bytes. The hash has a context of its
own, so that nothing which the key opens or derives elsewhere passes for one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from cloister.core.encoding.contexts import Context
from cloister.core.errors import ThresholdError, define
from cloister.core.threshold.groups import (
    G1_SIZE,
    G2,
    Rng,
    g1_from_bytes,
    hash_identity,
    hash_to_scalar,
    pairings_equal,
    public_key,
    random_scalar,
    to_bytes,
)

if TYPE_CHECKING:
    from cloister.core.threshold.ibe import DerivedKey

SIGNATURE_SIZE: Final = 2 * G1_SIZE

BAD_SIGNATURE = define(
    "threshold.key_signature",
    ThresholdError,
    check="the signature was made with the derived key of this identity",
    remedy="take another worker: this one does not have the key that its lease speaks of",
)


def sign(key: DerivedKey, mpk: bytes, identity: bytes, message: bytes, rng: Rng) -> bytes:
    """96 bytes over ``message`` (any length) as ``identity``, whose key under ``mpk`` (96 bytes) this is.

    Raises ThresholdError for an identity off its cap."""
    r = random_scalar(rng)
    u = to_bytes(hash_identity(identity) * r)
    c = hash_to_scalar(Context.KEY_SIGNATURE, mpk, identity, message, u)
    return u + to_bytes(g1_from_bytes(key.point, "derived key") * (r + c))


def verify(mpk: bytes, identity: bytes, message: bytes, signature: bytes) -> None:
    """Raise ThresholdError unless the holder of the key of ``identity`` signed: 1. two good points; 2. the equation."""
    if len(signature) != SIGNATURE_SIZE:
        raise BAD_SIGNATURE(expected=f"{SIGNATURE_SIZE} bytes", found=f"{len(signature)} bytes")
    u, v = signature[:G1_SIZE], signature[G1_SIZE:]
    nonce, answer = g1_from_bytes(u, "U"), g1_from_bytes(v, "V")  # 1
    c = hash_to_scalar(Context.KEY_SIGNATURE, mpk, identity, message, u)
    if not pairings_equal((answer, G2), (nonce + hash_identity(identity) * c, public_key(mpk))):  # 2
        raise BAD_SIGNATURE(expected="a signature by the key of this identity", found="another")
