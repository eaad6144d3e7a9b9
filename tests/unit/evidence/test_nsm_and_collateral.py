"""The Nitro module's answers, the device's ioctl, certificate tables and collateral files."""

from __future__ import annotations

import ctypes
import fcntl
import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cbor2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloister.core.attestation import kinds
from cloister.core.errors import EvidenceError
from cloister.devnet.tee.amd import GUIDS
from cloister.evidence.collateral import FileCollateral, NoCollateral, parse_certificate_table
from cloister.evidence.nitro import MAX_REQUEST, MAX_RESPONSE, NSM_IOCTL, Nitro, device_request, probe
from support.hardware import MEASUREMENT, NOW, chip, collateral, instance, roots

DATA = bytes(range(64))


def _module(request: bytes) -> bytes:
    return instance().answer(request, {0: MEASUREMENT}, NOW)


async def test_a_document_passes_the_verifier() -> None:
    tee = Nitro(_module)
    evidence = await tee.quote(DATA)
    assert (tee.kind, evidence.kind) == ("nitro", "nitro")
    assert kinds.verify(evidence, roots(), NOW).report_data == DATA
    assert probe(_module) == instance().module_id


async def test_nitro_offers_no_sealing_key() -> None:
    with pytest.raises(EvidenceError) as caught:
        await Nitro(_module).sealing_key(b"x")
    assert caught.value.code == "evidence.no_sealing"


ANSWERS: dict[str, bytes] = {
    "nothing": b"",
    "no CBOR": b"\xff",
    "a text": cbor2.dumps("no"),
    "an error": cbor2.dumps({"Error": "InvalidArgument"}),
    "no document": cbor2.dumps({"Attestation": {}}),
    "an empty document": cbor2.dumps({"Attestation": {"document": b""}}),
    "a document of text": cbor2.dumps({"Attestation": {"document": "x"}}),
    "an attestation that is a list": cbor2.dumps({"Attestation": [b"x"]}),
    "too much": bytes(MAX_RESPONSE + 1),
    "nested too deep": b"\x81" * 9 + b"\0",
}


@pytest.mark.parametrize("sentence", ANSWERS)
async def test_other_answers_are_refused(sentence: str) -> None:
    with pytest.raises(EvidenceError) as caught:
        await Nitro(lambda _: ANSWERS[sentence]).quote(DATA)
    assert caught.value.code == "evidence.quote"
    with pytest.raises(EvidenceError):
        probe(lambda _: ANSWERS[sentence])


async def test_the_modules_own_error_is_shown() -> None:
    with pytest.raises(EvidenceError) as caught:
        await Nitro(lambda _: ANSWERS["an error"]).quote(DATA)
    assert caught.value.found == "InvalidArgument"


def test_the_ioctl_carries_two_buffers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    device = tmp_path / "nsm"
    device.write_bytes(b"")
    seen: list[bytes] = []

    def ioctl(handle: int, code: int, message: Any) -> int:
        assert code == NSM_IOCTL
        request_at, request_size, answer_at, answer_size = struct.unpack("<QQQQ", bytes(message))
        assert answer_size == MAX_RESPONSE
        seen.append(ctypes.string_at(request_at, request_size))
        answer = b"answer " + seen[0]
        ctypes.memmove(answer_at, answer, len(answer))
        message.response.size = len(answer)
        return 0

    monkeypatch.setattr(fcntl, "ioctl", ioctl)
    assert device_request(device)(b"request") == b"answer request"
    assert seen == [b"request"]


def test_the_device_that_is_absent_or_refuses_is_named(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.write_bytes(b"")
    for path in (tmp_path / "absent", plain):
        with pytest.raises(EvidenceError) as caught:
            device_request(path)(b"x")
        assert caught.value.code == "evidence.quote"
    with pytest.raises(TypeError):
        device_request(plain)(bytes(MAX_REQUEST + 1))


def test_the_hosts_table_gives_the_certificates() -> None:
    assert parse_certificate_table(chip().table()) == chip().certificates
    assert parse_certificate_table(b"") == {}
    assert parse_certificate_table(bytes(24)) == {}


def test_both_byte_orders_of_the_names_are_read() -> None:
    table = chip().table()
    for guid in GUIDS.values():
        table = table.replace(guid.bytes, guid.bytes_le)
    assert parse_certificate_table(table) == chip().certificates


def test_unknown_entries_are_passed_over() -> None:
    table = b"\x77" * 16 + struct.pack("<II", 48, 2) + bytes(24) + b"ab"
    assert parse_certificate_table(table) == {}


def test_a_table_that_overruns_is_refused() -> None:
    table = GUIDS["vek"].bytes + struct.pack("<II", 48, 100) + bytes(24) + b"ab"
    with pytest.raises(EvidenceError):
        parse_certificate_table(table)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=500))
def test_garbage_tables_are_refused_or_give_slices(data: bytes) -> None:
    try:
        found = parse_certificate_table(data)
    except EvidenceError:
        return
    assert all(part in data for part in found.values())


async def test_a_collateral_file_is_read_anew_each_time(tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    source = FileCollateral(path)
    path.write_bytes(collateral())
    assert await source.aux("tdx", b"") == {"collateral": collateral()}
    path.write_bytes(b"newer")
    assert await source.aux("tdx", b"") == {"collateral": b"newer"}
    path.write_text(json.dumps({name: "0x" + der.hex() for name, der in chip().certificates.items()}))
    assert await source.aux("snp", b"") == chip().certificates


FILES: dict[str, Callable[[Path], object]] = {
    "absent": lambda path: None,
    "a folder": lambda path: path.mkdir(),
    "too large": lambda path: path.write_bytes(bytes(131073)),
    "no JSON": lambda path: path.write_bytes(b"{"),
    "a list": lambda path: path.write_bytes(b"[]"),
    "a part missing": lambda path: path.write_text('{"vek": "0x00", "ark": "0x00"}'),
    "no hex": lambda path: path.write_text('{"vek": "zz", "ark": "0x00", "intermediate": "0x00"}'),
}


@pytest.mark.parametrize("sentence", FILES)
async def test_other_files_are_refused(sentence: str, tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    FILES[sentence](path)
    with pytest.raises(EvidenceError) as caught:
        await FileCollateral(path).aux("snp", b"")
    assert caught.value.code == "evidence.collateral"


async def test_no_source_is_a_named_refusal() -> None:
    with pytest.raises(EvidenceError) as caught:
        await NoCollateral().aux("tdx", b"")
    assert caught.value.code == "evidence.collateral"
