"""What a TPM 2.0 signs and publishes, as bytes (TCG "TPM 2.0 Library", part 2; spec/attestation.md 9).

``Quote`` is a TPMS_ATTEST of type QUOTE, ``Public`` a TPMT_PUBLIC of a signing or storage key. Parsing only: no
signature is checked here, and nothing says yet whose they are.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec, rsa

from cloister.core.attestation.reader import Reader
from cloister.core.attestation.refusals import MALFORMED

MAX_QUOTE: Final = 1024
MAX_PUBLIC: Final = 1024
MAX_PCRS: Final = 4096
GENERATED: Final = 0xFF544347
ATTEST_QUOTE: Final = 0x8018
ALG_RSA, ALG_AES, ALG_NULL, ALG_RSASSA, ALG_RSAPSS, ALG_ECDSA, ALG_ECC, ALG_CFB = (
    0x0001,
    0x0006,
    0x0010,
    0x0014,
    0x0016,
    0x0018,
    0x0023,
    0x0043,
)
HASHES: Final[Mapping[int, str]] = {0x000B: "sha256", 0x000C: "sha384"}
SIZES: Final[Mapping[int, int]] = {0x000B: 32, 0x000C: 48}
CURVES: Final[Mapping[int, ec.EllipticCurve]] = {0x0003: ec.SECP256R1(), 0x0004: ec.SECP384R1()}
SCHEMES: Final[Mapping[int, tuple[int, ...]]] = {ALG_RSA: (ALG_RSASSA, ALG_RSAPSS), ALG_ECC: (ALG_ECDSA,)}
FIXED_TPM, FIXED_PARENT, SENSITIVE_ORIGIN, RESTRICTED, DECRYPT, SIGN = (1 << bit for bit in (1, 4, 5, 16, 17, 18))
Selection = tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Quote:
    """A parsed TPMS_ATTEST. selection: (hash algorithm, PCR index) in the order in which the TPM hashed the values.

    clock: milliseconds; resets and restarts count since manufacture; safe: the clock was not turned back.
    """

    signer: bytes
    extra: bytes
    clock: int
    resets: int
    restarts: int
    safe: bool
    firmware: int
    selection: Selection
    digest: bytes


@dataclass(frozen=True, slots=True)
class Public:
    """A parsed TPMT_PUBLIC. name: nameAlg and the hash of the area, which is how a TPM names a key."""

    key: ec.EllipticCurvePublicKey | rsa.RSAPublicKey
    attributes: int
    scheme: int
    scheme_hash: int
    name_hash: int
    symmetric_bits: int
    name: bytes


def parse_quote(data: bytes) -> Quote:
    """A TPMS_ATTEST of type QUOTE, at most 1 KiB, to its last byte. Raises attestation.malformed."""
    if not 0 < len(data) <= MAX_QUOTE:
        raise MALFORMED(expected=f"a quote of at most {MAX_QUOTE} bytes", found=f"{len(data)} bytes")
    at = Reader(data, "the quote")
    magic, kind = at.number(4), at.number(2)
    if (magic, kind) != (GENERATED, ATTEST_QUOTE):
        raise MALFORMED(expected="a structure that a TPM made, of type QUOTE", found=f"{magic:08x}, type {kind:04x}")
    signer, extra = at.sized(66), at.sized(66)
    clock, resets, restarts, safe = at.number(8), at.number(4), at.number(4), at.number(1)
    firmware, selection, digest = at.number(8), _selection(at), at.sized(48)
    at.end()
    if safe > 1 or len(digest) not in SIZES.values():
        raise MALFORMED(expected="a safe flag and a SHA-256 or SHA-384 digest", found=f"{safe}, {len(digest)} bytes")
    return Quote(signer, extra, clock, resets, restarts, bool(safe), firmware, selection, digest)


def parse_public(data: bytes) -> Public:
    """A TPMT_PUBLIC of an ECC (P-256, P-384) or RSA key, to its last byte. Raises attestation.malformed."""
    if not 0 < len(data) <= MAX_PUBLIC:
        raise MALFORMED(expected=f"a public area of at most {MAX_PUBLIC} bytes", found=f"{len(data)} bytes")
    at = Reader(data, "the public area")
    kind, name_hash, attributes = at.number(2), at.number(2), at.number(4)
    at.sized(64)  # the policy: it says who may use the key, which is no business of a verifier
    if name_hash not in HASHES:
        raise MALFORMED(expected="a name hash SHA-256 or SHA-384", found=f"{name_hash:04x}")
    bits = _symmetric(at)
    scheme, scheme_hash = _scheme(at, kind)
    key = _rsa(at) if kind == ALG_RSA else _ecc(at, kind)
    at.end()
    name = name_hash.to_bytes(2, "big") + hashlib.new(HASHES[name_hash], data).digest()
    return Public(key, attributes, scheme, scheme_hash, name_hash, bits, name)


def split_pcrs(data: bytes, selection: Selection) -> dict[tuple[int, int], bytes]:
    """PCR values, joined in the order of the selection, as (hash, index) -> value. Raises attestation.malformed."""
    expected = sum(SIZES[bank] for bank, _ in selection)
    if len(data) != expected:
        raise MALFORMED(expected=f"{expected} bytes of PCR values, as the quote selects", found=f"{len(data)}")
    at = Reader(data, "the PCR values")
    return {(bank, index): at.take(SIZES[bank]) for bank, index in selection}


def _selection(at: Reader) -> Selection:
    chosen: list[tuple[int, int]] = []
    banks: list[int] = []
    count = at.number(4)
    if not 0 < count <= len(HASHES):
        raise MALFORMED(expected=f"1 to {len(HASHES)} PCR banks", found=str(count))
    for _ in range(count):
        bank, size = at.number(2), at.number(1)
        if bank not in HASHES or bank in banks or not 0 < size <= 4:
            raise MALFORMED(expected="each bank once, SHA-256 or SHA-384", found=f"bank {bank:04x}, {size} bytes")
        bits = int.from_bytes(at.take(size), "little")
        banks.append(bank)
        chosen += [(bank, index) for index in range(8 * size) if bits >> index & 1]
    return tuple(chosen)


def _symmetric(at: Reader) -> int:
    algorithm = at.number(2)
    if algorithm == ALG_NULL:
        return 0
    bits, mode = at.number(2), at.number(2)
    if algorithm != ALG_AES or bits not in (128, 256) or mode != ALG_CFB:
        raise MALFORMED(expected="AES-128 or AES-256 in CFB mode, or none", found=f"{algorithm:04x}, {bits} bits")
    return bits


def _scheme(at: Reader, kind: int) -> tuple[int, int]:
    scheme = at.number(2)
    if scheme == ALG_NULL:
        return scheme, 0
    digest = at.number(2)
    if scheme not in SCHEMES.get(kind, ()) or digest not in HASHES:
        raise MALFORMED(expected="RSASSA, RSAPSS or ECDSA over SHA-256 or SHA-384", found=f"{scheme:04x}, {digest:04x}")
    return scheme, digest


def _rsa(at: Reader) -> rsa.RSAPublicKey:
    bits, exponent, modulus = at.number(2), at.number(4) or 65537, at.sized(512)
    if bits not in (2048, 3072, 4096) or len(modulus) * 8 != bits or exponent != 65537 or not modulus[0] >> 7:
        raise MALFORMED(expected="an RSA key of 2048 to 4096 bits with exponent 65537", found=f"{bits} bits")
    return rsa.RSAPublicNumbers(exponent, int.from_bytes(modulus, "big")).public_key()


def _ecc(at: Reader, kind: int) -> ec.EllipticCurvePublicKey:
    curve, derivation = CURVES.get(at.number(2)), at.number(2)
    x, y = at.sized(48), at.sized(48)
    if kind != ALG_ECC or curve is None or derivation != ALG_NULL:
        raise MALFORMED(expected="an RSA key or an ECC key on P-256 or P-384", found=f"type {kind:04x}")
    try:
        return ec.EllipticCurvePublicNumbers(int.from_bytes(x, "big"), int.from_bytes(y, "big"), curve).public_key()
    except ValueError:
        raise MALFORMED(expected="a point on the curve", found="another") from None
