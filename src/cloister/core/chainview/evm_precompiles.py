"""The precompiles that the machine of ``evm`` has: ecrecover, SHA-256, RIPEMD-160, identity, modexp.

The others end a run: a missing one would look like an empty account, whose call succeeds. Gas: execution-specs, Cancun.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from coincurve import PublicKey
from Crypto.Hash import RIPEMD160

from cloister.core.encoding.signatures import address_of

_N: Final = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
_MAX_MODEXP: Final = 1024
_FAR: Final = 1 << 62


@dataclass(frozen=True, slots=True)
class Precompile:
    """``cost(data)`` in gas, then ``run(data)``."""

    cost: Callable[[bytes], int]
    run: Callable[[bytes], bytes]


def is_reserved(address: bytes) -> bool:
    """Whether some fork has a precompile there: 0x01 to 0xff and 0x0100."""
    return 0 < int.from_bytes(address, "big") <= 0x100


def precompile(address: bytes) -> Precompile | None:
    """The precompile at a reserved address; None if this machine has none there."""
    return PRECOMPILES.get(address)


def _per_word(base: int, each: int) -> Callable[[bytes], int]:
    return lambda data: base + each * -(-len(data) // 32)


def _ecrecover(data: bytes) -> bytes:
    """20-byte address of the signer in a word; empty for what recovers to nobody."""
    data = data[:128].ljust(128, b"\0")
    v, r, s = (int.from_bytes(data[i : i + 32], "big") for i in (32, 64, 96))
    if v not in (27, 28) or not 0 < r < _N or not 0 < s < _N:
        return b""
    try:
        public = PublicKey.from_signature_and_message(data[64:128] + bytes([v - 27]), data[:32], hasher=None)
    except Exception:
        return b""
    return address_of(public).rjust(32, b"\0")


def _modexp_parts(data: bytes) -> tuple[int, int, int]:
    head = data[:96].ljust(96, b"\0")
    base, exponent, modulus = (int.from_bytes(head[i : i + 32], "big") for i in (0, 32, 64))
    return base, exponent, modulus


def _modexp_cost(data: bytes) -> int:
    """EIP-2565. What is longer than 1024 bytes costs more than any run has."""
    base, exponent, modulus = _modexp_parts(data)
    if max(base, modulus) > _MAX_MODEXP or exponent > _MAX_MODEXP:
        return _FAR
    start = int.from_bytes(data[96 + base : 96 + base + min(32, exponent)].ljust(min(32, exponent), b"\0"), "big")
    rounds = max(8 * max(exponent - 32, 0) + max(start.bit_length() - 1, 0), 1)
    return int(max(200, (-(-max(base, modulus) // 8)) ** 2 * rounds // 3))


def _modexp(data: bytes) -> bytes:
    base, exponent, modulus = _modexp_parts(data)
    body = data[96:].ljust(base + exponent + modulus, b"\0")
    b = int.from_bytes(body[:base], "big")
    e = int.from_bytes(body[base : base + exponent], "big")
    m = int.from_bytes(body[base + exponent : base + exponent + modulus], "big")
    return (pow(b, e, m) if m else 0).to_bytes(modulus, "big")


PRECOMPILES: Final = {
    n.to_bytes(20, "big"): made
    for n, made in {
        1: Precompile(lambda data: 3000, _ecrecover),
        2: Precompile(_per_word(60, 12), lambda data: hashlib.sha256(data).digest()),
        3: Precompile(_per_word(600, 120), lambda data: RIPEMD160.new(data).digest().rjust(32, b"\0")),
        4: Precompile(_per_word(15, 3), bytes),
        5: Precompile(_modexp_cost, _modexp),
    }.items()
}
