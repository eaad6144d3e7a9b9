"""SPDM exchanges: real ones parse to what the vendor's tool prints, and nothing of another shape parses."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloister.core.attestation import spdm
from cloister.core.errors import AttestationError
from support.nvidia_kit import NONCE, Device, opaque_field
from support.vectors import vectors

BLOCK = bytes([1, 1]) + bytes.fromhex("3300013000") + bytes(48)


def _refused(step: Callable[[], object]) -> str:
    with pytest.raises(AttestationError) as caught:
        step()
    return caught.value.code


def _real() -> bytes:
    text = (vectors() / "nvidia-gpu/attestation-sdk/hopperAttestationReport.txt").read_text()
    return bytes.fromhex(text.strip())


def _printed(name: str) -> dict[str, Any]:
    value = json.loads((vectors() / "nvidia-gpu/attestation-sdk" / name).read_text())
    assert isinstance(value, dict)
    return value


def test_a_real_exchange_parses_to_what_the_vendor_prints() -> None:
    exchange, printed = spdm.parse(_real()), _printed("spdm_parsed_output.json")
    assert exchange.nonce.hex() == _printed("spdm_req_parsed_output.json")["Nonce"].removeprefix("0x")
    blocks = printed["MeasurementRecord"]["MeasurementBlocks"]
    assert len(exchange.measurements) == printed["NumberOfBlocks"] == len(blocks) == 64
    for number, block in blocks.items():
        assert exchange.measurements[int(number) - 1].hex() == block["DMTFSpecMeasurementValue"].removeprefix("0x")
    assert exchange.signature.hex() == printed["Signature"].removeprefix("0x")
    assert sum(4 + len(value) for value in exchange.opaque.values()) == printed["OpaqueLength"] == 435
    assert exchange.signed + exchange.signature == _real()


def test_every_truncation_of_a_real_exchange_is_refused() -> None:
    data = _real()
    for size in (*range(200), *range(200, len(data), 37), len(data) - 1):
        assert _refused(lambda size=size: spdm.parse(data[:size])) == "attestation.malformed"  # type: ignore[misc]
    assert _refused(lambda: spdm.parse(data + b"\0")) == "attestation.malformed"


def test_a_switch_has_fewer_measurements() -> None:
    exchange = spdm.parse(Device("LS10").exchange())
    assert len(exchange.measurements) == 31
    assert exchange.nonce == NONCE


SHAPES: dict[str, dict[str, bytes]] = {
    "SPDM 1.2": {"request": bytes.fromhex("12e001ff")},
    "another request": {"request": bytes.fromhex("11e101ff")},
    "a request without a signature": {"request": bytes.fromhex("11e000ff")},
    "a request of one measurement": {"request": bytes.fromhex("11e00101")},
    "slot one": {"slot": b"\1"},
    "an error response": {"head": bytes.fromhex("117f0000")},
    "another version of the response": {"head": bytes.fromhex("10600000")},
    "another slot of the response": {"head": bytes.fromhex("11600001")},
    "fewer blocks than counted": {"count": b"\x41"},
    "more blocks than counted": {"count": b"\x3f"},
    "a record beyond the end": {"size": b"\xff\xff\0"},
    "a record of 16 MiB": {"size": b"\xff\xff\xff"},
    "a measurement twice": {"count": b"\2", "blocks": BLOCK * 2},
    "a measurement of number zero": {"count": b"\1", "blocks": b"\0" + BLOCK[1:]},
    "a measurement of another kind": {"count": b"\1", "blocks": b"\1\2" + BLOCK[2:]},
    "a measurement of 32 bytes": {"count": b"\1", "blocks": b"\1\1" + bytes.fromhex("2300012000") + bytes(32)},
    "a raw measurement": {"count": b"\1", "blocks": BLOCK[:4] + b"\x81" + BLOCK[5:]},
    "sizes that differ": {"count": b"\1", "blocks": BLOCK[:2] + b"\x34\0" + BLOCK[4:] + b"\0"},
    "an opaque field twice": {"opaque": opaque_field(3, b"a") * 2},
    "65 opaque fields": {"opaque": b"".join(opaque_field(i, b"") for i in range(65))},
    "an opaque field beyond the end": {"opaque": opaque_field(3, b"abc")[:-1]},
    "an opaque header cut in two": {"opaque": b"\3\0\1"},
    "opaque data beyond the end": {"opaque_size": b"\xff\x7f"},
}


@pytest.mark.parametrize("sentence", SHAPES)
def test_exchanges_of_another_shape_even_if_signed(sentence: str) -> None:
    assert _refused(lambda: spdm.parse(Device().exchange(**SHAPES[sentence]))) == "attestation.malformed"


def test_sizes_are_capped_before_anything_is_read() -> None:
    for data in (b"", bytes(133), bytes(16385)):
        assert _refused(lambda data=data: spdm.parse(data)) == "attestation.malformed"  # type: ignore[misc]


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=400))
def test_garbage_is_refused_by_name(data: bytes) -> None:
    assert _refused(lambda: spdm.parse(data)) == "attestation.malformed"
    begun = bytes.fromhex("11e001ff") + bytes(33) + bytes.fromhex("11600000")
    assert _refused(lambda: spdm.parse(begun + data)) == "attestation.malformed"
