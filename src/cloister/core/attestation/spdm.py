"""SPDM 1.1 GET_MEASUREMENTS, request and response, as NVIDIA devices answer it (DMTF DSP0274 10.11; spec 11).

The signature covers everything before it. Opaque data is NVIDIA's list of (type, size, value). Parsing only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from cloister.core.attestation.reader import Reader
from cloister.core.attestation.refusals import MALFORMED

REQUEST_SIZE: Final = 37
SIGNATURE_SIZE: Final = 96
MAX_EXCHANGE: Final = 16384
MAX_FIELDS: Final = 64
DIGEST_SIZE: Final = 48
DMTF: Final = 1
_VERSION, _GET_MEASUREMENTS, _MEASUREMENTS = 0x11, 0xE0, 0x60


@dataclass(frozen=True, slots=True)
class Exchange:
    """A parsed exchange. measurements: index from 0 as in reference manifests -> 48 bytes; opaque: type -> value."""

    nonce: bytes
    measurements: Mapping[int, bytes]
    opaque: Mapping[int, bytes]
    signed: bytes
    signature: bytes


def parse(data: bytes) -> Exchange:
    """Request and response, joined, at most 16 KiB, to the last byte. Raises attestation.malformed."""
    if not REQUEST_SIZE + SIGNATURE_SIZE < len(data) <= MAX_EXCHANGE:
        raise MALFORMED(expected=f"an exchange of at most {MAX_EXCHANGE} bytes", found=f"{len(data)} bytes")
    at = Reader(data, "the SPDM exchange", "little")
    nonce = _request(at)
    measurements = _response(at)
    at.take(32)  # the device's own nonce: signed, and nobody's business
    opaque = _opaque(at.sized(MAX_EXCHANGE))
    signature = at.take(SIGNATURE_SIZE)
    at.end()
    return Exchange(nonce, measurements, opaque, data[:-SIGNATURE_SIZE], signature)


def _request(at: Reader) -> bytes:
    version, code, wants, which = at.take(4)
    nonce, slot = at.take(32), at.number(1)
    if (version, code, wants, which, slot) != (_VERSION, _GET_MEASUREMENTS, 1, 0xFF, 0):
        found = f"{version:02x} {code:02x} {wants:02x} {which:02x}, slot {slot}"
        raise MALFORMED(expected="GET_MEASUREMENTS 1.1 of everything, signed, slot 0", found=found)
    return nonce


def _response(at: Reader) -> dict[int, bytes]:
    version, code, _, slot = at.take(4)
    if (version, code, slot & 0x0F) != (_VERSION, _MEASUREMENTS, 0):
        raise MALFORMED(expected="MEASUREMENTS 1.1, slot 0", found=f"{version:02x} {code:02x}, slot {slot}")
    count, size = at.number(1), at.number(3)
    if size > MAX_EXCHANGE:
        raise MALFORMED(expected="a record within the exchange", found=f"{size} bytes")
    record = Reader(at.take(size), "the measurement record", "little")
    found: dict[int, bytes] = {}
    for _ in range(count):
        index, value = _block(record)
        if index == 0 or index - 1 in found:
            raise MALFORMED(expected="each measurement once, counted from 1", found=str(index))
        found[index - 1] = value
    record.end()
    return found


def _block(record: Reader) -> tuple[int, bytes]:
    index, kind, size = record.number(1), record.number(1), record.number(2)
    value_kind, value_size = record.number(1), record.number(2)
    if (kind, size, value_kind, value_size) != (DMTF, DIGEST_SIZE + 3, 1, DIGEST_SIZE):
        found = f"kind {kind}, {size} bytes, type {value_kind}"
        raise MALFORMED(expected=f"a DMTF digest of {DIGEST_SIZE} bytes", found=found)
    return index, record.take(DIGEST_SIZE)


def _opaque(data: bytes) -> dict[int, bytes]:
    at = Reader(data, "the opaque data", "little")
    fields: dict[int, bytes] = {}
    while at.more():
        kind = at.number(2)
        if kind in fields or len(fields) == MAX_FIELDS:
            raise MALFORMED(expected=f"at most {MAX_FIELDS} opaque fields, each once", found=f"field {kind}")
        fields[kind] = at.sized(len(data))
    return fields
