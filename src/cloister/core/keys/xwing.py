"""X-Wing: ML-KEM-768 and X25519 in one key encapsulation (draft-connolly-cfrg-xwing-kem-10).

Safe while either of the two is. Public keys are 1216 bytes (ML-KEM 1184, X25519 32), encapsulations 1120 (1088, 32),
shared secrets 32. The library draws the randomness of ML-KEM's part by itself. Unlike the draft, a point of low order
is refused: it can only come from somebody who wants the X25519 part to be known.
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha3_256, shake_256
from typing import Final

from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from cloister.core.encoding.hexes import need_bytes
from cloister.core.errors import SealError, define

SEED_SIZE: Final = 32
PUBLIC_SIZE: Final = 1216
ENC_SIZE: Final = 1120
_MLKEM_PUBLIC: Final = 1184
_MLKEM_ENC: Final = 1088
_LABEL: Final = b"\\.//^\\"

BAD_KEY = define(
    "seal.xwing_key",
    SealError,
    check="an X-Wing key or encapsulation has its size, a valid ML-KEM part and a point of full order",
    remedy="fetch the peer's key again; this one was damaged or made to be weak",
)


class XWingKey:
    """A private key, from 32 random bytes."""

    __slots__ = ("_mlkem", "_x25519", "public")

    def __init__(self, seed: bytes) -> None:
        expanded = shake_256(need_bytes("X-Wing seed", seed, SEED_SIZE)).digest(96)
        self._mlkem = MLKEM768PrivateKey.from_seed_bytes(expanded[:64])
        self._x25519 = X25519PrivateKey.from_private_bytes(expanded[64:])
        self.public = self._mlkem.public_key().public_bytes_raw() + self._x25519.public_key().public_bytes_raw()

    def __repr__(self) -> str:
        return f"XWingKey(0x{self.public[-32:].hex()})"

    def decapsulate(self, enc: bytes) -> bytes:
        """The shared secret of an encapsulation. One that was altered gives another secret, or raises SealError
        (seal.xwing_key)."""
        need_bytes("X-Wing encapsulation", enc, ENC_SIZE)
        try:
            shared = self._mlkem.decapsulate(enc[:_MLKEM_ENC])
        except ValueError:
            raise BAD_KEY(expected="an ML-KEM ciphertext", found="another") from None
        return _combined(shared, _exchange(self._x25519, enc[_MLKEM_ENC:]), enc[_MLKEM_ENC:], self.public[-32:])


def encapsulate(public: bytes, rng: Callable[[int], bytes]) -> tuple[bytes, bytes]:
    """(encapsulation 1120 bytes, shared secret 32) towards a public key. ``rng(32)`` gives the X25519 part's key.

    Raises SealError (seal.xwing_key)."""
    need_bytes("X-Wing public key", public, PUBLIC_SIZE)
    try:
        peer = MLKEM768PublicKey.from_public_bytes(public[:_MLKEM_PUBLIC])
    except ValueError:
        raise BAD_KEY(expected="an ML-KEM public key", found="another") from None
    ephemeral = X25519PrivateKey.from_private_bytes(need_bytes("private key", rng(32), 32))
    point = ephemeral.public_key().public_bytes_raw()
    shared_x = _exchange(ephemeral, public[_MLKEM_PUBLIC:])
    shared, enc = peer.encapsulate()
    return enc + point, _combined(shared, shared_x, point, public[_MLKEM_PUBLIC:])


def _exchange(key: X25519PrivateKey, peer: bytes) -> bytes:
    try:
        return key.exchange(X25519PublicKey.from_public_bytes(peer))
    except ValueError:
        raise BAD_KEY(expected="a point of full order", found="a point of low order") from None


def _combined(shared_m: bytes, shared_x: bytes, point: bytes, public: bytes) -> bytes:
    """The draft's combiner."""
    return sha3_256(shared_m + shared_x + point + public + _LABEL).digest()
