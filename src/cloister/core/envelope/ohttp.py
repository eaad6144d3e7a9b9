"""Oblivious HTTP (RFC 9458): key configurations, encapsulated requests and responses. Bytes in, bytes out. What only
clients do is in ``ohttp_client.py``; answers in chunks (draft-ietf-ohai-chunked-ohttp-08) are in ``ohttp_chunks.py``.

KEM: DHKEM(X25519, HKDF-SHA256) or X-Wing, as the size of the public key says (32 or 1216 bytes); KDF: HKDF-SHA256;
AEAD: the three of RFC 9180. The labels are those of binary HTTP.
A context serves one request and one response; both ends drop it then.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from hmac import digest as _hmac
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

from cloister.core.encoding.hexes import need_bytes
from cloister.core.errors import EnvelopeError, SealError, define
from cloister.core.keys import hpke, xwing

REQUEST_TYPE: Final = "message/ohttp-req"
RESPONSE_TYPE: Final = "message/ohttp-res"
CHUNKED_REQUEST_TYPE: Final = "message/ohttp-chunked-req"
CHUNKED_RESPONSE_TYPE: Final = "message/ohttp-chunked-res"
KEYS_TYPE: Final = "application/ohttp-keys"
KEY_PROBLEM: Final = "https://iana.org/assignments/http-problem-types#ohttp-key"
KEM_X25519: Final = 0x0020
KEM_XWING: Final = 0x647A
# Bytes of a public key and of an encapsulation, by KEM.
KEMS: Final = {KEM_X25519: (hpke.KEY_SIZE, hpke.ENC_SIZE), KEM_XWING: (xwing.PUBLIC_SIZE, xwing.ENC_SIZE)}
KDF_SHA256: Final = 1
HDR_SIZE: Final = 7
MAX_PAIRS: Final = 22
MAX_CONFIG: Final = 5 + xwing.PUBLIC_SIZE + 4 * MAX_PAIRS
# What a configuration of ours offers, best first.
OFFERED: Final = ((KDF_SHA256, hpke.AES_256_GCM), (KDF_SHA256, hpke.CHACHA20_POLY1305), (KDF_SHA256, hpke.AES_128_GCM))
_TAG: Final = hpke.TAG_SIZE
# Of a request; and what a final chunk is bound to besides its place.
MAX_CHUNKS: Final = 1024
FINAL: Final = b"final"
# By whether the messages are in chunks.
_REQUEST: Final = (b"message/bhttp request", b"message/bhttp chunked request")
_RESPONSE: Final = (b"message/bhttp response", b"message/bhttp chunked response")

MALFORMED = define(
    "ohttp.malformed",
    EnvelopeError,
    check="key configurations and encapsulated messages have the shape of RFC 9458",
    remedy="fetch the key configuration again and encapsulate anew; the bytes may have been damaged",
)
TOO_LARGE = define(
    "ohttp.too_large",
    EnvelopeError,
    check="an encapsulated message stays within its cap",
    remedy="send less, or put large data into a blob",
    status=413,
)
KEY_UNKNOWN = define(
    "ohttp.key_unknown",
    EnvelopeError,
    check="the key that the request names is one that is held now",
    remedy="fetch the key configuration again: periods and leases end",
)
SUITE = define(
    "ohttp.suite",
    EnvelopeError,
    check="the request uses algorithms that the key configuration offers",
    remedy="use one of the pairs of KDF and AEAD in the key configuration",
)
NOT_AUTHENTIC = define(
    "ohttp.not_authentic",
    EnvelopeError,
    check="the encapsulated message opens under this key, as it was sent",
    remedy="fetch the key configuration again and encapsulate anew; the message was altered or is for another key",
)


@dataclass(frozen=True, slots=True)
class KeyConfig:
    """A key configuration (RFC 9458 section 3.1). ``public``: X25519, 32 bytes, or X-Wing, 1216; ``suites``: pairs
    (KDF, AEAD)."""

    key_id: int
    public: bytes
    suites: tuple[tuple[int, int], ...] = OFFERED

    def encode(self) -> bytes:
        """The configuration's bytes, without the length before it."""
        pairs = b"".join(kdf.to_bytes(2, "big") + aead.to_bytes(2, "big") for kdf, aead in self.suites)
        lead = bytes([self.key_id]) + self.kem.to_bytes(2, "big") + self.public
        return lead + len(pairs).to_bytes(2, "big") + pairs

    @property
    def kem(self) -> int:
        """The KEM that the public key is of."""
        if len(self.public) == xwing.PUBLIC_SIZE:
            return KEM_XWING
        need_bytes("key", self.public, hpke.KEY_SIZE)
        return KEM_X25519

    def hdr(self, aead: int) -> bytes:
        """The seven bytes that a request under it begins with."""
        words = (self.kem, KDF_SHA256, aead)
        return bytes([self.key_id]) + b"".join(word.to_bytes(2, "big") for word in words)


def encode_configs(configs: tuple[KeyConfig, ...]) -> bytes:
    """The media type application/ohttp-keys: each configuration after its length (u16)."""
    return b"".join(len(one).to_bytes(2, "big") + one for one in (config.encode() for config in configs))


Cipher = AESGCM | ChaCha20Poly1305


class Exchange:
    """One request's context: what its response is sealed under. ``enc``: the encapsulation. Either end holds one.

    ``chunked``: request and response are in chunks, under labels of their own."""

    __slots__ = ("_aead", "_context", "chunked", "enc")

    def __init__(self, context: hpke.Context, enc: bytes, aead: int, *, chunked: bool = False) -> None:
        self._context, self.enc, self._aead, self.chunked = context, enc, aead, chunked

    @property
    def name(self) -> bytes:
        """What names it: ``name_of``. 32 bytes."""
        return name_of(self.enc)

    @property
    def context(self) -> hpke.Context:
        """The HPKE context of the request: for exports. Its one message is the request."""
        return self._context

    def seal_response(self, response: bytes, rng: hpke.Rng) -> bytes:
        """nonce ‖ ciphertext (RFC 9458 section 4.4). Once per request: each call draws a new nonce."""
        nonce = need_bytes("response nonce", rng(self.nonce_size), self.nonce_size)
        cipher, iv = self.keys(nonce)
        return nonce + cipher.encrypt(iv, response, b"")

    def open_response(self, data: bytes, *, max_size: int) -> bytes:
        """The response. Raises EnvelopeError: ohttp.too_large, ohttp.malformed, ohttp.not_authentic."""
        if len(data) > max_size:
            raise TOO_LARGE(expected=f"at most {max_size} bytes", found=f"{len(data)} bytes")
        if len(data) < self.nonce_size + _TAG:
            raise MALFORMED(expected="an encapsulated response", found=f"{len(data)} bytes")
        cipher, iv = self.keys(data[: self.nonce_size])
        try:
            return cipher.decrypt(iv, data[self.nonce_size :], b"")
        except (InvalidTag, ValueError):
            raise NOT_AUTHENTIC(expected="the response to this request", found="other bytes") from None

    @property
    def nonce_size(self) -> int:
        """Bytes of a response's nonce."""
        return max(hpke.NONCE_SIZE, hpke.AEADS[self._aead][1])

    def keys(self, nonce: bytes) -> tuple[Cipher, bytes]:
        """Section 4.4: key and nonce from the exported secret, salted by enc and the response's nonce."""
        cipher, size = hpke.AEADS[self._aead]
        prk = _hmac(self.enc + nonce, self._context.export(_RESPONSE[self.chunked], self.nonce_size), "sha256")
        key = _hmac(prk, b"key\x01", "sha256")[:size]
        return cipher(key), _hmac(prk, b"nonce\x01", "sha256")[: hpke.NONCE_SIZE]


def split(data: bytes, *, max_size: int, chunked: bool = False) -> tuple[bytes, bytes, list[bytes]]:
    """(hdr, enc, ciphertexts) of an encapsulated request; the first byte of hdr names a key. One that is not
    ``chunked`` has one ciphertext. A KEM that nobody here offers is cut as X25519 is.

    Raises EnvelopeError: ohttp.too_large, ohttp.malformed."""
    if len(data) > max_size:
        raise TOO_LARGE(expected=f"at most {max_size} bytes", found=f"{len(data)} bytes")
    _, size = KEMS.get(int.from_bytes(data[1:3], "big"), KEMS[KEM_X25519])
    if len(data) < HDR_SIZE + size + _TAG:
        raise MALFORMED(expected="an encapsulated request", found=f"{len(data)} bytes")
    rest = data[HDR_SIZE + size :]
    return data[:HDR_SIZE], data[HDR_SIZE : HDR_SIZE + size], _cut(rest) if chunked else [rest]


def _cut(data: bytes) -> list[bytes]:
    """The sealed chunks of a whole request, the final one last: it comes after a length of zero and has the rest."""
    chunks: list[bytes] = []
    at = 0
    while len(chunks) < MAX_CHUNKS:
        length = read_length(data, at)
        if length is None:
            raise MALFORMED(expected="a final chunk", found=f"the end after {len(chunks)} others")
        size, at = length
        end = at + size if size else len(data)
        if not at + _TAG <= end <= len(data):
            raise MALFORMED(expected="a chunk that fits, with its tag", found=f"{len(data) - at} bytes")
        chunks.append(data[at:end])
        if not size:
            return chunks
        at = end
    raise TOO_LARGE(expected=f"at most {MAX_CHUNKS} chunks", found="more")


def read_length(data: bytes | bytearray, at: int) -> tuple[int, int] | None:
    """(length, where it ends) of the chunk at ``at``, in any spelling of RFC 9000 section 16; None where it is cut."""
    end = at + (1 << (data[at] >> 6)) if at < len(data) else len(data) + 1
    if end > len(data):
        return None
    return int.from_bytes(data[at:end], "big") & ((1 << (8 * (end - at) - 2)) - 1), end


def name_of(enc: bytes) -> bytes:
    """What names the context of an encapsulation: 32 bytes, itself or its SHA-256."""
    return enc if len(enc) == hpke.ENC_SIZE else sha256(enc).digest()


class Recipient:
    """A private key under its configuration: opens requests. Nothing here remembers what was opened."""

    __slots__ = ("_by_hdr", "config")

    def __init__(self, key: X25519PrivateKey | xwing.XWingKey | bytes, config: KeyConfig) -> None:
        """Raises ValueError if the configuration has another key: our mistake."""
        hdrs = [(config.hdr(aead), aead) for kdf, aead in config.suites if kdf == KDF_SHA256 and aead in hpke.AEADS]
        self._by_hdr = {
            (hdr, chunked): (aead, hpke.Recipient(key, info_of(hdr, chunked=chunked), aead=aead))
            for hdr, aead in hdrs
            for chunked in (False, True)
        }
        if any(one.public != config.public for _, one in self._by_hdr.values()):
            raise ValueError("the configuration is of another key")
        self.config = config

    def __repr__(self) -> str:
        return f"Recipient(key_id={self.config.key_id})"

    def open(self, data: bytes, *, max_size: int, chunked: bool = False) -> tuple[bytes, Exchange]:
        """(request, exchange). 1. size and shape; 2. the key; 3. its algorithms; 4. every chunk of it opens.

        Raises EnvelopeError: ohttp.too_large, ohttp.malformed, ohttp.key_unknown, ohttp.suite, ohttp.not_authentic."""
        hdr, enc, texts = split(data, max_size=max_size, chunked=chunked)  # 1
        if hdr[0] != self.config.key_id:  # 2
            raise KEY_UNKNOWN(expected=f"key {self.config.key_id}", found=f"key {hdr[0]}")
        if (hdr, chunked) not in self._by_hdr:  # 3
            raise SUITE(expected="algorithms of the key configuration", found=f"0x{hdr[1:].hex()}")
        aead, recipient = self._by_hdr[hdr, chunked]
        try:
            context = recipient.context(enc)  # 4
            last = len(texts) - 1 if chunked else -1
            opened = [context.open_at(at, FINAL if at == last else b"", text) for at, text in enumerate(texts)]
            return b"".join(opened), Exchange(context, enc, aead, chunked=chunked)
        except SealError:
            raise NOT_AUTHENTIC(expected="a request encapsulated to this key", found="other bytes") from None


def info_of(hdr: bytes, *, chunked: bool = False) -> bytes:
    """The HPKE info of requests that begin with ``hdr``."""
    return _REQUEST[chunked] + b"\0" + hdr
