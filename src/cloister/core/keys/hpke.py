"""HPKE (RFC 9180), modes base and psk, HKDF-SHA256, with one of two KEMs; AES-256-GCM unless another AEAD is asked for.

The size of a public key says which KEM: 32 bytes DHKEM(X25519, HKDF-SHA256); 1216 bytes X-Wing (``xwing.py``).

Contexts only: a caller numbers its messages itself (``seal_at``, ``open_at``) and must never seal twice under one
number. ``Recipient`` keeps what does not change between set-ups (public key, info hash), so that opening a session
costs one X25519 exchange and eight HMACs. The library's own HPKE has neither contexts nor exports.
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from hmac import digest as _hmac
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

from cloister.core.encoding.hexes import need_bytes, need_uint
from cloister.core.errors import SealError, define
from cloister.core.keys import xwing

Rng = Callable[[int], bytes]

ENC_SIZE: Final = 32
KEY_SIZE: Final = 32
TAG_SIZE: Final = 16
MAX_EXPORT: Final = 255 * 32
MIN_PSK: Final = 32

_KEM = b"HPKE-v1KEM\x00\x20"
_SUITE = b"HPKE-v1HPKE\x00\x20\x00\x01\x00\x02"
_XWING = b"HPKE-v1HPKE\x64\x7a\x00\x01\x00\x02"
AES_128_GCM: Final = 1
AES_256_GCM: Final = 2
CHACHA20_POLY1305: Final = 3
NONCE_SIZE: Final = 12
# RFC 9180 section 7.3: cipher and key size by AEAD id, the last byte of a suite id.
AEADS: Final[dict[int, tuple[type[AESGCM] | type[ChaCha20Poly1305], int]]] = {
    AES_128_GCM: (AESGCM, 16),
    AES_256_GCM: (AESGCM, 32),
    CHACHA20_POLY1305: (ChaCha20Poly1305, 32),
}
_BASE, _PSK = b"\0", b"\1"
_ONE = b"\1"

BAD_KEY = define(
    "seal.hpke_key",
    SealError,
    check="an HPKE public key is 32 bytes and not of low order",
    remedy="fetch the peer's key again; this one was damaged or made to be weak",
)
BAD_PSK = define(
    "seal.hpke_psk",
    SealError,
    check="a pre-shared key has at least 32 bytes and a name, or neither is given",
    remedy="give both psk and psk_id (RFC 9180 section 5.1.2), or none",
)
BAD_OPEN = define(
    "seal.hpke_open",
    SealError,
    check="the ciphertext opens under this key, number and associated data",
    remedy="seal again to the current key; the message was altered, misdirected or sealed to another key",
)


def _extract(salt: bytes, label: bytes, ikm: bytes, suite: bytes = _SUITE) -> bytes:
    """LabeledExtract, RFC 9180 section 4."""
    return _hmac(salt, suite + label + ikm, "sha256")


def _expand(prk: bytes, label: bytes, info: bytes, size: int, suite: bytes = _SUITE) -> bytes:
    """LabeledExpand, RFC 9180 section 4."""
    labeled = size.to_bytes(2, "big") + suite + label + info
    block = out = _hmac(prk, labeled + _ONE, "sha256")
    counter = 1
    while len(out) < size:
        counter += 1
        block = _hmac(prk, block + labeled + bytes([counter]), "sha256")
        out += block
    return out[:size]


_INNER = bytes(x ^ 0x36 for x in range(256))
_OUTER = bytes(x ^ 0x5C for x in range(256))


class _Exporter:
    """HMAC-SHA256 under one key, with the two padded-key blocks hashed once: a third of the time per export."""

    __slots__ = ("_inner", "_outer", "_secret", "_suite")

    def __init__(self, secret: bytes, suite: bytes) -> None:
        block = secret.ljust(64, b"\0")
        self._secret, self._suite = secret, suite
        self._inner, self._outer = sha256(block.translate(_INNER)), sha256(block.translate(_OUTER))

    def expand(self, info: bytes, size: int) -> bytes:
        """LabeledExpand under the label "sec"."""
        if size > 32:
            return _expand(self._secret, b"sec", info, size, self._suite)
        inner, outer = self._inner.copy(), self._outer.copy()
        inner.update(b"%b%bsec%b\x01" % (size.to_bytes(2, "big"), self._suite, info))
        outer.update(inner.digest())
        return outer.digest()[:size]


class Context:
    """The two ends of one set-up share it: key, base nonce, exporter secret. Numbers are the caller's business."""

    __slots__ = ("_aead", "_base_nonce", "_exporter")

    def __init__(self, key: bytes, base_nonce: bytes, exporter: bytes, suite: bytes = _SUITE) -> None:
        self._aead = AEADS[suite[-1]][0](key)
        self._base_nonce = int.from_bytes(base_nonce, "big")
        self._exporter = _Exporter(exporter, suite)

    def __repr__(self) -> str:
        return "Context(secret)"

    def seal_at(self, seq: int, aad: bytes, plaintext: bytes) -> bytes:
        """Ciphertext and tag of message number ``seq`` (u64). Sealing twice at one number breaks the cipher."""
        return self._aead.encrypt(self._nonce(seq), plaintext, aad)

    def open_at(self, seq: int, aad: bytes, ciphertext: bytes) -> bytes:
        """The plaintext of message number ``seq``. Raises SealError (seal.hpke_open)."""
        try:
            return self._aead.decrypt(self._nonce(seq), ciphertext, aad)
        except (InvalidTag, ValueError):
            raise BAD_OPEN(expected="an authentic message", found=f"{len(ciphertext)} bytes that are not") from None

    def export(self, exporter_context: bytes, length: int) -> bytes:
        """``length`` secret bytes for this context text (RFC 9180 section 5.3)."""
        if not 0 < length <= MAX_EXPORT:
            raise ValueError(f"export length {length} is not in 1..{MAX_EXPORT}")
        return self._exporter.expand(exporter_context, length)

    def _nonce(self, seq: int) -> bytes:
        if seq < 0 or seq >> 64:
            need_uint("message number", seq, 64)
        return (self._base_nonce ^ seq).to_bytes(12, "big")


class Recipient:
    """A private key under one info: set up contexts from it as senders arrive."""

    __slots__ = ("_info_hash", "_key", "_public", "_suite")

    def __init__(self, key: X25519PrivateKey | xwing.XWingKey | bytes, info: bytes, *, aead: int = AES_256_GCM) -> None:
        self._key = private_key(key) if isinstance(key, bytes) else key
        hybrid = isinstance(self._key, xwing.XWingKey)
        self._public = self._key.public if isinstance(self._key, xwing.XWingKey) else _raw(self._key)
        self._suite = _suite(aead, hybrid=hybrid)
        self._info_hash = _extract(b"", b"info_hash", info, self._suite)

    def __repr__(self) -> str:
        return f"Recipient(0x{self._public[-32:].hex()})"

    @property
    def public(self) -> bytes:
        """The public key: 32 bytes, or 1216."""
        return self._public

    def context(self, enc: bytes, *, psk: bytes | None = None, psk_id: bytes = b"") -> Context:
        """The context that the sender of ``enc`` (32 bytes, or 1120) holds too, if it has the same psk.

        Raises SealError for a bad enc."""
        if isinstance(self._key, xwing.XWingKey):
            return _schedule(self._key.decapsulate(enc), self._info_hash, psk, psk_id, self._suite)
        shared = _shared(self._key, need_bytes("enc", enc, ENC_SIZE), enc + self._public)
        return _schedule(shared, self._info_hash, psk, psk_id, self._suite)


def private_key(raw: bytes) -> X25519PrivateKey:
    """An X25519 key of 32 random bytes."""
    return X25519PrivateKey.from_private_bytes(need_bytes("private key", raw, KEY_SIZE))


def setup_sender(
    public: bytes,
    info: bytes,
    *,
    psk: bytes | None = None,
    psk_id: bytes = b"",
    rng: Rng,
    aead: int = AES_256_GCM,
) -> tuple[bytes, Context]:
    """Set up towards ``public`` (32 bytes, or 1216): (enc 32 bytes, or 1120, and the context). ``rng(32)`` gives the
    ephemeral key. ``aead``: an id of ``AEADS``.

    Raises SealError for a weak key or a psk without name."""
    suite = _suite(aead, hybrid=len(public) == xwing.PUBLIC_SIZE)
    info_hash = _extract(b"", b"info_hash", info, suite)
    if len(public) == xwing.PUBLIC_SIZE:
        enc, shared = xwing.encapsulate(public, rng)
        return enc, _schedule(shared, info_hash, psk, psk_id, suite)
    ephemeral = private_key(rng(KEY_SIZE))
    enc = ephemeral.public_key().public_bytes_raw()
    shared = _shared(ephemeral, need_bytes("public key", public, KEY_SIZE), enc + public)
    return enc, _schedule(shared, info_hash, psk, psk_id, suite)


def setup_recipient(
    enc: bytes,
    key: X25519PrivateKey | xwing.XWingKey | bytes,
    info: bytes,
    *,
    psk: bytes | None = None,
    psk_id: bytes = b"",
    aead: int = AES_256_GCM,
) -> Context:
    """The recipient's end of ``setup_sender``. Raises SealError for a weak enc or a psk without name."""
    return Recipient(key, info, aead=aead).context(enc, psk=psk, psk_id=psk_id)


def _shared(key: X25519PrivateKey, peer: bytes, kem_context: bytes) -> bytes:
    """Decap and Encap, RFC 9180 section 4.1: the KEM's shared secret."""
    try:
        dh = key.exchange(X25519PublicKey.from_public_bytes(peer))
    except ValueError:
        raise BAD_KEY(expected="a point of full order", found="a point of low order") from None
    prk = _extract(b"", b"eae_prk", dh, _KEM)
    return _expand(prk, b"shared_secret", kem_context, 32, _KEM)


def _raw(key: X25519PrivateKey) -> bytes:
    return key.public_key().public_bytes_raw()


def _suite(aead: int, *, hybrid: bool) -> bytes:
    """The suite id of a KEM with an AEAD. KeyError for one that RFC 9180 section 7.3 does not list: our mistake."""
    return _SUITES[hybrid, aead]


_SUITES = {(kem is _XWING, aead): kem[:-1] + bytes([aead]) for kem in (_SUITE, _XWING) for aead in AEADS}
_NO_PSK_ID = {suite: _extract(b"", b"psk_id_hash", b"", suite) for suite in _SUITES.values()}


def _schedule(shared: bytes, info_hash: bytes, psk: bytes | None, psk_id: bytes, suite: bytes) -> Context:
    """KeySchedule, RFC 9180 section 5.1."""
    if psk is None and not psk_id:
        mode, psk, psk_id_hash = _BASE, b"", _NO_PSK_ID[suite]
    elif psk is not None and len(psk) >= MIN_PSK and psk_id:
        mode, psk_id_hash = _PSK, _extract(b"", b"psk_id_hash", psk_id, suite)
    else:
        raise BAD_PSK(expected="psk and psk_id, or none", found="one of them missing or too short")
    context = mode + psk_id_hash + info_hash
    secret = _extract(shared, b"secret", psk, suite)
    key = _expand(secret, b"key", context, AEADS[suite[-1]][1], suite)
    nonce = _expand(secret, b"base_nonce", context, NONCE_SIZE, suite)
    return Context(key, nonce, _expand(secret, b"exp", context, 32, suite), suite)
