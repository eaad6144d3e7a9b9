"""Keccak-256 as the EVM uses it (not SHA3-256: other padding). Over pycryptodome."""

from __future__ import annotations

from Crypto.Hash import keccak as _keccak


def keccak256(*parts: bytes) -> bytes:
    """Keccak-256 of the concatenated parts. 32 bytes."""
    return bytes(_keccak.new(data=b"".join(parts), digest_bits=256).digest())


def to_checksum(address: bytes) -> str:
    """EIP-55 text of a 20-byte address."""
    text = address.hex()
    marks = keccak256(text.encode()).hex()
    return "0x" + "".join(c.upper() if int(m, 16) >= 8 else c for c, m in zip(text, marks, strict=False))
