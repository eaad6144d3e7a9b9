"""What a TPM signs and publishes: parsed to the last byte, or refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st

from cloister.core.attestation.reader import Reader
from cloister.core.attestation.tpm_structures import parse_public, parse_quote, split_pcrs
from cloister.core.errors import AttestationError
from support.tpm_kit import CHOSEN, SHA256, SHA384, keys, machine, name_of, public_area, sized
from support.vectors import vectors

KNOWN = json.loads((Path(__file__).parent / "data" / "tpm_known_answers.json").read_text())
BANK = (1).to_bytes(4, "big") + SHA256.to_bytes(2, "big")


def _refused(step: Callable[[], object]) -> str:
    with pytest.raises(AttestationError) as caught:
        step()
    return caught.value.code


def test_a_quote_of_a_real_cloud_tpm() -> None:
    quote = parse_quote((vectors() / "tpm/dstack/tpm_quote_sample.bin").read_bytes())
    assert quote.extra == bytes.fromhex("12345678")
    assert quote.selection == ((SHA256, 0), (SHA256, 1), (SHA256, 2))
    assert (quote.resets, quote.restarts, quote.safe) == (16, 0, True)
    assert quote.digest.hex().startswith("d8de2be2")
    assert f"{quote.firmware:016x}" == "2016051100162800"


def test_every_field_of_a_quote_is_read() -> None:
    tpm = machine()
    quote = parse_quote(tpm.message(b"extra", CHOSEN))
    assert (quote.extra, quote.clock, quote.resets, quote.restarts) == (b"extra", 123456, 7, 2)
    assert quote.selection == tuple((SHA256, i) for i in CHOSEN)
    assert quote.signer == b"\x00\x0b" + bytes(32)


def test_two_banks_are_read_in_the_order_in_which_they_are_hashed() -> None:
    both = (2).to_bytes(4, "big") + SHA384.to_bytes(2, "big") + b"\1\x11" + SHA256.to_bytes(2, "big") + b"\3\1\0\x80"
    quote = parse_quote(machine().message(b"", (), selection=both))
    assert quote.selection == ((SHA384, 0), (SHA384, 4), (SHA256, 0), (SHA256, 23))
    assert len(split_pcrs(bytes(160), quote.selection)) == 4


QUOTES: dict[str, dict[str, bytes]] = {
    "another magic": {"magic": b"\xffTCH"},
    "a certification instead of a quote": {"type": bytes.fromhex("8017")},
    "a signer of 67 bytes": {"signer": sized(bytes(67))},
    "extra data of 67 bytes": {"extra": sized(bytes(67))},
    "a safe flag of two": {"safe": b"\2"},
    "no bank": {"selection": bytes(4)},
    "three banks": {"selection": (3).to_bytes(4, "big") + 3 * BANK[4:]},
    "a bank of SHA-1": {"selection": (1).to_bytes(4, "big") + (4).to_bytes(2, "big") + b"\3\xff\0\0"},
    "a bank twice": {"selection": (2).to_bytes(4, "big") + 2 * (BANK[4:] + b"\3\xff\0\0")},
    "a selection of no bytes": {"selection": BANK + b"\0"},
    "a selection of five bytes": {"selection": BANK + b"\5" + bytes(5)},
    "a digest of 20 bytes": {"digest": sized(bytes(20))},
    "a byte behind it": {"digest": sized(bytes(32)) + b"\0"},
    "a digest that ends early": {"digest": b"\0\x20" + bytes(31)},
}


@pytest.mark.parametrize("sentence", QUOTES)
def test_quotes_of_another_shape(sentence: str) -> None:
    assert _refused(lambda: parse_quote(machine().message(b"", CHOSEN, **QUOTES[sentence]))) == "attestation.malformed"


def test_every_truncation_of_a_quote_is_refused() -> None:
    message = machine().message(b"extra", CHOSEN)
    for size in range(len(message)):
        assert _refused(lambda size=size: parse_quote(message[:size])) == "attestation.malformed"  # type: ignore[misc]


@pytest.mark.parametrize("kind", ["p256", "p384", "rsa", "rsa3072"])
def test_public_areas_of_every_kind_of_key(kind: str) -> None:
    key = keys(kind)
    digest = SHA384 if kind == "p384" else SHA256
    area = public_area(key, digest=digest)
    public = parse_public(area)
    both = [k.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) for k in (public.key, key.public_key())]
    assert both[0] == both[1]
    assert public.name == name_of(area)
    assert (public.attributes, public.scheme_hash, public.symmetric_bits) == (0x00050072, digest, 0)


def test_public_areas_that_a_tpm_made_have_the_name_that_it_gave() -> None:
    area = parse_public(bytes.fromhex(KNOWN["ak"]["tpmt"]))
    assert area.name.hex() == KNOWN["ak"]["name"]
    assert area.attributes == 0x00050072
    storage = parse_public(bytes.fromhex(KNOWN["ek_tpmt"]))
    assert (storage.symmetric_bits, storage.scheme) == (128, 0x0010)


def _changed(at: int, new: bytes, kind: str = "p256") -> bytes:
    area = public_area(keys(kind))
    return area[:at] + new + area[at + len(new) :]


AREAS: dict[str, Callable[[], bytes]] = {
    "nothing": lambda: b"",
    "more than a kibibyte": lambda: bytes(1025),
    "a symmetric key": lambda: _changed(0, b"\x00\x25"),
    "a name of SHA-1": lambda: _changed(2, b"\x00\x04"),
    "another cipher": lambda: _changed(10, b"\x00\x26"),
    "an unknown curve": lambda: _changed(16, b"\x00\x10"),
    "a key derivation scheme": lambda: _changed(18, b"\x00\x20"),
    "a point that is not on the curve": lambda: _changed(30, b"\xff\xff"),
    "a byte behind it": lambda: public_area(keys("p256")) + b"\0",
    "an RSA key of 1024 bits": lambda: _changed(16, b"\x04\x00", "rsa"),
    "an RSA exponent of three": lambda: _changed(18, b"\0\0\0\3", "rsa"),
    "a policy of 65 bytes": lambda: _changed(8, b"\x00\x41"),
}


@pytest.mark.parametrize("sentence", AREAS)
def test_public_areas_of_another_shape(sentence: str) -> None:
    assert _refused(lambda: parse_public(AREAS[sentence]())) == "attestation.malformed"


def test_pcr_values_are_exactly_those_selected() -> None:
    selection = ((SHA256, 0), (SHA256, 7))
    assert split_pcrs(b"a" * 32 + b"b" * 32, selection) == {(SHA256, 0): b"a" * 32, (SHA256, 7): b"b" * 32}
    for size in (0, 63, 65):
        assert _refused(lambda size=size: split_pcrs(bytes(size), selection)) == "attestation.malformed"  # type: ignore[misc]


def test_a_reader_never_reads_beyond_its_bytes() -> None:
    at = Reader(b"\0\5abc", "a text")
    assert _refused(lambda: at.sized(16)) == "attestation.malformed"
    assert _refused(lambda: Reader(b"\0\5abcde", "a text").sized(4)) == "attestation.malformed"
    done = Reader(b"\1\0\2", "numbers", "little")
    assert (done.number(2), done.more(), done.number(1), done.more()) == (1, True, 2, False)
    done.end()
    assert _refused(lambda: Reader(b"x", "a text").end()) == "attestation.malformed"


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_garbage_is_refused_by_name(data: bytes) -> None:
    assert _refused(lambda: parse_quote(data)) == "attestation.malformed"
    assert _refused(lambda: parse_quote(bytes.fromhex("ff5443478018") + data)) == "attestation.malformed"
    assert _refused(lambda: parse_public(data)) == "attestation.malformed"
