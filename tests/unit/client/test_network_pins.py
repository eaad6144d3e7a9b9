"""network.json: pinned by fingerprint, remembered on request, refused otherwise."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

from cloister.client import Home
from cloister.client.network import BAD_FINGERPRINT, NOT_PINNED, fingerprint_of, pin, remember, remembered
from cloister.core.encoding.network import WRONG_FINGERPRINT
from cloister.core.errors import CloisterError
from support.fake_world import World

WHERE = "http://gateway.test"


@pytest.fixture(scope="module")
def raw() -> bytes:
    return World().network.encode()


def refused(code: str, *args: Any, **kwargs: Any) -> None:
    with pytest.raises(CloisterError) as caught:
        pin(*args, **kwargs)
    assert caught.value.code == code


def test_the_given_fingerprint_decides(raw: bytes, tmp_path: Path) -> None:
    home = Home(tmp_path)
    good = hashlib.sha256(raw).hexdigest()
    assert pin(raw, fingerprint=good, home=home, where=WHERE).fingerprint() == good
    refused(WRONG_FINGERPRINT.code, raw, fingerprint="00" * 32, home=home, where=WHERE)
    assert not tmp_path.joinpath("networks").exists()


def test_nothing_is_trusted_by_itself(raw: bytes, tmp_path: Path) -> None:
    refused(NOT_PINNED.code, raw, fingerprint=None, home=Home(tmp_path), where=WHERE)


def test_first_use_is_remembered_and_holds_afterwards(raw: bytes, tmp_path: Path) -> None:
    home = Home(tmp_path)
    network = pin(raw, fingerprint=None, home=home, where=WHERE, first_use=True)
    assert remembered(home, WHERE + "/") == network.fingerprint()
    assert pin(raw, fingerprint=None, home=home, where=WHERE) == network
    other = World(now=1_700_000_000).network.encode()
    refused(WRONG_FINGERPRINT.code, other, fingerprint=None, home=home, where=WHERE, first_use=True)
    refused(NOT_PINNED.code, other, fingerprint=None, home=home, where="http://elsewhere.test")


def test_a_given_fingerprint_beats_a_remembered_one(raw: bytes, tmp_path: Path) -> None:
    home = Home(tmp_path)
    remember(home, WHERE, "11" * 32)
    assert pin(raw, fingerprint=hashlib.sha256(raw).hexdigest(), home=home, where=WHERE)


@pytest.mark.parametrize("text", ["AA" * 32, "0x" + "aa" * 32, ":".join(["aa"] * 32), "  " + "aa " * 32])
def test_fingerprints_as_people_write_them(text: str) -> None:
    assert fingerprint_of(text) == "aa" * 32


@pytest.mark.parametrize("text", ["", "aa" * 31, "zz" * 32, "aa" * 33])
def test_half_copied_fingerprints_are_refused(text: str) -> None:
    with pytest.raises(CloisterError) as caught:
        fingerprint_of(text)
    assert caught.value.code == BAD_FINGERPRINT.code


def test_one_changed_byte_is_another_network(raw: bytes, tmp_path: Path) -> None:
    good = hashlib.sha256(raw).hexdigest()
    for at in range(0, len(raw), 97):
        changed = raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :]
        refused(WRONG_FINGERPRINT.code, changed, fingerprint=good, home=Home(tmp_path), where=WHERE)


async def test_a_client_without_a_pin_is_refused(net: Any) -> None:
    with pytest.raises(CloisterError) as caught:
        async with net.client(fingerprint=None):
            pass
    assert caught.value.code == NOT_PINNED.code


async def test_a_client_with_another_pin_is_refused(net: Any) -> None:
    with pytest.raises(CloisterError) as caught:
        async with net.client(fingerprint="ab" * 32):
            pass
    assert caught.value.code == WRONG_FINGERPRINT.code


async def test_a_local_network_file_is_pinned_by_being_named(net: Any, tmp_path: Path) -> None:
    file = tmp_path / "network.json"
    file.write_bytes(net.world.network.encode())
    async with net.client(fingerprint=None, network_file=file) as client:
        assert client.network.id == net.world.network.id
    with pytest.raises(CloisterError) as caught:
        async with net.client(fingerprint="ab" * 32, network_file=file):
            pass
    assert caught.value.code == WRONG_FINGERPRINT.code


async def test_first_use_on_a_client(net: Any) -> None:
    async with net.client(fingerprint=None, trust_on_first_use=True):
        pass
    async with net.client(fingerprint=None) as client:
        assert client.network == net.world.network
