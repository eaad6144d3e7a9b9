"""Oblivious HTTP (RFC 9458), what only clients do: read key configurations, encapsulate requests. See ``ohttp.py``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from cloister.core.envelope.ohttp import (
    FINAL,
    KDF_SHA256,
    KEMS,
    MALFORMED,
    MAX_CONFIG,
    MAX_PAIRS,
    SUITE,
    Exchange,
    KeyConfig,
    info_of,
)
from cloister.core.keys import hpke

MAX_CONFIGS: Final = 16


def decode_config(data: bytes) -> KeyConfig:
    """Parse one configuration. Raises EnvelopeError: ohttp.malformed, and ohttp.suite for another KEM."""
    if not 3 < len(data) <= MAX_CONFIG:
        raise MALFORMED(expected=f"a configuration of 4 to {MAX_CONFIG} bytes", found=f"{len(data)} bytes")
    kem = int.from_bytes(data[1:3], "big")
    if kem not in KEMS:
        raise SUITE(expected=f"one of {len(KEMS)} KEMs", found=f"{kem:#06x}")
    end = 3 + KEMS[kem][0]
    public, size, pairs = data[3:end], int.from_bytes(data[end : end + 2], "big"), data[end + 2 :]
    if not 4 <= size <= 4 * MAX_PAIRS or size != len(pairs) or size % 4:
        raise MALFORMED(expected="a key and whole pairs of algorithms", found=f"{len(data)} bytes")
    words = [int.from_bytes(pairs[at : at + 2], "big") for at in range(0, size, 2)]
    return KeyConfig(data[0], public, tuple(zip(words[::2], words[1::2], strict=True)))


def choose(config: KeyConfig) -> int:
    """The AEAD to use: the first of the configuration that we speak. Raises EnvelopeError (ohttp.suite)."""
    for kdf, aead in config.suites:
        if kdf == KDF_SHA256 and aead in hpke.AEADS:
            return aead
    raise SUITE(expected="HKDF-SHA256 with an AEAD of RFC 9180", found=f"{len(config.suites)} other pairs")


def decode_configs(data: bytes) -> tuple[KeyConfig, ...]:
    """Parse application/ohttp-keys; configurations of other KEMs are left out. Raises EnvelopeError."""
    found: list[KeyConfig] = []
    at, count = 0, 0
    while at < len(data):
        size = int.from_bytes(data[at : at + 2], "big")
        if at + 2 + size > len(data) or count >= MAX_CONFIGS or size < 3:
            raise MALFORMED(expected=f"at most {MAX_CONFIGS} configurations after their lengths", found="another shape")
        one = data[at + 2 : at + 2 + size]
        if int.from_bytes(one[1:3], "big") in KEMS:
            found.append(decode_config(one))
        at, count = at + 2 + size, count + 1
    return tuple(found)


def encapsulate(
    config: KeyConfig, request: bytes, rng: hpke.Rng, *, aead: int | None = None, chunked: bool = False
) -> tuple[bytes, Exchange]:
    """``encapsulate_with`` of a request that does not depend on its exchange."""
    return encapsulate_with(config, lambda exchange: request, rng, aead=aead, chunked=chunked)


def encapsulate_with(
    config: KeyConfig,
    request: Callable[[Exchange], bytes],
    rng: hpke.Rng,
    *,
    aead: int | None = None,
    chunked: bool = False,
) -> tuple[bytes, Exchange]:
    """(encapsulated request, its exchange): hdr ‖ enc ‖ ciphertext (RFC 9458 section 4.3). ``request`` makes the
    message, which may hold what the exchange exports; ``rng(32)`` gives the ephemeral key. ``chunked``: an answer in
    chunks is wanted; the request itself is one final chunk.

    Raises EnvelopeError (ohttp.suite), SealError for a weak key."""
    chosen = choose(config) if aead is None else aead
    if (KDF_SHA256, chosen) not in config.suites:
        raise SUITE(expected="an AEAD of the configuration", found=str(chosen))
    hdr = config.hdr(chosen)
    enc, context = hpke.setup_sender(config.public, info_of(hdr, chunked=chunked), rng=rng, aead=chosen)
    exchange = Exchange(context, enc, chosen, chunked=chunked)
    length, bound = (b"\0", FINAL) if chunked else (b"", b"")
    return hdr + enc + length + context.seal_at(0, bound, request(exchange)), exchange
