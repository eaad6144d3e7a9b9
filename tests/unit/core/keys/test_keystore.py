"""Wallet files: ours open elsewhere, others' open here, hostile ones cost nothing."""

from __future__ import annotations

import copy
import hashlib
import json
import unicodedata
from collections.abc import Callable
from typing import Any

import pytest
from Crypto.Cipher import AES
from Crypto.Protocol.KDF import scrypt
from Crypto.Util import Counter
from eth_hash.auto import keccak
from hypothesis import given, settings
from hypothesis import strategies as st

from cloister.core.errors import CloisterError, SealError
from cloister.core.keys import keystore as k

PRIVATE = bytes.fromhex("7a28b5ba57c53603b0b07b56bba752f7784bf506fa95edc395f5cf6c7514fe9d")
ADDRESS = "008aeeda4d805471df9b2a5b0f38a0c3bcba786b"
LOW = 1 << 4


def rng(seed: int = 0) -> Callable[[int], bytes]:
    count = 0

    def read(size: int) -> bytes:
        nonlocal count
        count += 1
        return hashlib.shake_256(bytes([seed, count])).digest(size)

    return read


def open_elsewhere(document: dict[str, Any], passphrase: str) -> bytes:
    """A second reader of the format, over pycryptodome and eth-hash."""
    crypto, params = document["crypto"], document["crypto"]["kdfparams"]
    salt = bytes.fromhex(params["salt"])
    stretched = scrypt(passphrase.encode(), salt, params["dklen"], params["n"], params["r"], params["p"])  # type: ignore[arg-type]
    assert isinstance(stretched, bytes)
    text = bytes.fromhex(crypto["ciphertext"])
    assert keccak(stretched[16:32] + text).hex() == crypto["mac"]
    counter = Counter.new(128, initial_value=int(crypto["cipherparams"]["iv"], 16))
    return AES.new(stretched[:16], AES.MODE_CTR, counter=counter).decrypt(text)


DOCUMENT = k.encrypt_key(PRIVATE, "correct horse", rng(), n=LOW)


def changed(path: str, value: Any) -> dict[str, Any]:
    """DOCUMENT with one member replaced, or removed if the value is ``...``."""
    document = copy.deepcopy(DOCUMENT)
    *above, last = path.split(".")
    target = document
    for name in above:
        target = target[name]
    if value is ...:
        del target[last]
    else:
        target[last] = value
    return document


def test_a_wallet_file_opens_with_its_passphrase() -> None:
    assert k.decrypt_key(DOCUMENT, "correct horse") == PRIVATE
    assert k.decrypt_key(json.loads(json.dumps(DOCUMENT)), "correct horse") == PRIVATE
    assert DOCUMENT["address"] == ADDRESS


def test_the_second_reader_is_right_about_the_published_example() -> None:
    """The scrypt example of the Web3 Secret Storage definition (its n is too large for its r by RFC 7914)."""
    document = {
        "crypto": {
            "cipherparams": {"iv": "83dbcc02d8ccb40e466191a123791e0e"},
            "ciphertext": "d172bf743a674da9cdad04534d56926ef8358534d458fffccd4e6ad2fbde479c",
            "kdfparams": {
                "dklen": 32,
                "n": 262144,
                "r": 1,
                "p": 8,
                "salt": "ab0c7876052600dd703518d6fc3fe8984592145b591fc8fb5c6d43190334ba19",
            },
            "mac": "2103ac29920d71da29f15d75b4a16dbe95cfd7ff8faea1056c33131d846e3097",
        }
    }
    assert open_elsewhere(document, "testpassword") == PRIVATE
    whole = {"version": 3, "crypto": {"cipher": "aes-128-ctr", "kdf": "scrypt", **document["crypto"]}}
    with pytest.raises(SealError) as caught:
        k.decrypt_key(whole, "testpassword")
    assert caught.value.code == "seal.keystore"


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 2**255), st.text(st.characters(exclude_categories=["Cs"]), max_size=20), st.integers(0, 255))
def test_our_files_open_elsewhere(number: int, passphrase: str, seed: int) -> None:
    private = number.to_bytes(32, "big")
    document = k.encrypt_key(private, passphrase, rng(seed), n=LOW)
    assert open_elsewhere(document, unicodedata.normalize("NFKC", passphrase)) == private
    assert k.decrypt_key(document, passphrase) == private


def test_the_default_cost_is_two_to_the_seventeen() -> None:
    document = k.encrypt_key(PRIVATE, "x", rng())
    assert document["crypto"]["kdfparams"]["n"] == 131072
    assert k.decrypt_key(document, "x") == PRIVATE


def test_every_file_has_its_own_salt_iv_and_id() -> None:
    other = k.encrypt_key(PRIVATE, "correct horse", rng(1), n=LOW)
    assert other["id"] != DOCUMENT["id"]
    assert other["crypto"]["kdfparams"]["salt"] != DOCUMENT["crypto"]["kdfparams"]["salt"]
    assert other["crypto"]["cipherparams"] != DOCUMENT["crypto"]["cipherparams"]
    assert other["id"][14] == "4"
    assert other["id"][19] in "89ab"


@pytest.mark.parametrize("passphrase", ["", "correct hors", "Correct horse", "correct horse "])
def test_another_passphrase_is_refused(passphrase: str) -> None:
    with pytest.raises(SealError) as caught:
        k.decrypt_key(DOCUMENT, passphrase)
    assert caught.value.code == "seal.passphrase"


def test_a_passphrase_may_be_typed_in_either_unicode_form() -> None:
    document = k.encrypt_key(PRIVATE, "Zürich", rng(), n=LOW)
    assert k.decrypt_key(document, unicodedata.normalize("NFD", "Zürich")) == PRIVATE


def test_a_lone_surrogate_is_no_passphrase() -> None:
    with pytest.raises(SealError):
        k.decrypt_key(DOCUMENT, "\ud800")
    with pytest.raises(TypeError):
        k.decrypt_key(DOCUMENT, b"bytes")  # type: ignore[arg-type]


COSTLY = {
    "four gigabytes": ("crypto.kdfparams.n", 1 << 22),
    "a huge r": ("crypto.kdfparams.r", 1 << 20),
    "a huge p": ("crypto.kdfparams.p", 1 << 20),
    "more than machine words": ("crypto.kdfparams.n", 1 << 200),
    "a negative p": ("crypto.kdfparams.p", -1),
    "a zero r": ("crypto.kdfparams.r", 0),
    "a fraction": ("crypto.kdfparams.n", 16.0),
    "a true p": ("crypto.kdfparams.p", True),
    "text": ("crypto.kdfparams.n", "16"),
}


@pytest.mark.parametrize("name", COSTLY)
def test_a_costly_file_is_refused_before_any_work(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(k, "Scrypt", None)  # whoever calls it fails the test
    with pytest.raises(SealError) as caught:
        k.decrypt_key(changed(*COSTLY[name]), "correct horse")
    assert caught.value.code == "seal.keystore_cost"


BAD: dict[str, tuple[str, Any]] = {
    "version 1": ("version", 1),
    "version true": ("version", True),
    "no version": ("version", ...),
    "no crypto": ("crypto", ...),
    "crypto that is text": ("crypto", "x"),
    "an unknown member": ("more", 1),
    "an unknown member inside": ("crypto.more", 1),
    "an extension inside": ("crypto.x-more", 1),
    "another cipher": ("crypto.cipher", "aes-256-gcm"),
    "another kdf": ("crypto.kdf", "pbkdf2"),
    "a cipher that is a list": ("crypto.cipher", []),
    "n that is no power of two": ("crypto.kdfparams.n", 1000),
    "n of one": ("crypto.kdfparams.n", 1),
    "another dklen": ("crypto.kdfparams.dklen", 16),
    "no salt": ("crypto.kdfparams.salt", ...),
    "a short salt": ("crypto.kdfparams.salt", "00" * 7),
    "a long salt": ("crypto.kdfparams.salt", "00" * 65),
    "a salt of odd length": ("crypto.kdfparams.salt", "0" * 33),
    "a short iv": ("crypto.cipherparams.iv", "00" * 15),
    "a ciphertext that is long": ("crypto.ciphertext", "00" * 33),
    "a mac that is no hex": ("crypto.mac", "zz" * 32),
    "a mac with 0x": ("crypto.mac", "0x" + "00" * 31),
    "a mac that is null": ("crypto.mac", None),
    "a short address": ("address", "00"),
    "an address that is a number": ("address", 5),
}


@pytest.mark.parametrize("name", BAD)
def test_a_file_of_another_form_is_refused(name: str) -> None:
    with pytest.raises(SealError) as caught:
        k.decrypt_key(changed(*BAD[name]), "correct horse")
    assert caught.value.code == "seal.keystore"


@pytest.mark.parametrize("document", [None, [], "text", 5, {}, {1: 2}, {str(i): i for i in range(100)}])
def test_what_is_no_wallet_file_is_refused(document: object) -> None:
    with pytest.raises(SealError):
        k.decrypt_key(document, "correct horse")


GOOD: dict[str, tuple[str, Any]] = {
    "without an address": ("address", ...),
    "without an id": ("id", ...),
    "with a checksummed address and 0x": ("address", "0x" + ADDRESS.upper()),
    "with another wallet's extension": ("x-ethers", {"client": "another"}),
    "with an upper-case mac": ("crypto.mac", DOCUMENT["crypto"]["mac"].upper()),
}


@pytest.mark.parametrize("name", GOOD)
def test_what_other_wallets_write_opens(name: str) -> None:
    assert k.decrypt_key(changed(*GOOD[name]), "correct horse") == PRIVATE


def test_a_file_that_names_another_address_is_refused() -> None:
    with pytest.raises(SealError) as caught:
        k.decrypt_key(changed("address", "00" * 20), "correct horse")
    assert caught.value.code == "seal.keystore_address"


@pytest.mark.parametrize("path", ["crypto.mac", "crypto.ciphertext", "crypto.kdfparams.salt"])
def test_a_changed_byte_is_refused(path: str) -> None:
    value = DOCUMENT
    for name in path.split("."):
        value = value[name]
    text = str(value)
    flipped = ("1" if text[0] == "0" else "0") + text[1:]
    with pytest.raises(SealError) as caught:
        k.decrypt_key(changed(path, flipped), "correct horse")
    assert caught.value.code == "seal.passphrase"


def test_a_changed_iv_is_caught_by_the_address() -> None:
    """The format's MAC leaves the iv out."""
    with pytest.raises(SealError) as caught:
        k.decrypt_key(changed("crypto.cipherparams.iv", "00" * 16), "correct horse")
    assert caught.value.code == "seal.keystore_address"


@pytest.mark.parametrize("private", [bytes(32), b"\xff" * 32, b"\x01" * 31, b""])
def test_what_is_no_private_key_is_not_encrypted(private: bytes) -> None:
    with pytest.raises(CloisterError):
        k.encrypt_key(private, "x", rng(), n=LOW)


@pytest.mark.parametrize("n", [0, 1, 3, 1000, 1 << 20, -4])
def test_a_bad_cost_is_our_mistake(n: int) -> None:
    with pytest.raises(RuntimeError):
        k.encrypt_key(PRIVATE, "x", rng(), n=n)


def test_a_machine_without_memory_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def poor(**_: object) -> object:
        raise MemoryError

    monkeypatch.setattr(k, "Scrypt", poor)
    with pytest.raises(SealError) as caught:
        k.decrypt_key(DOCUMENT, "correct horse")
    assert caught.value.code == "seal.keystore_cost"


def test_no_refusal_tells_a_secret() -> None:
    for document, passphrase in ((DOCUMENT, "wrong secret"), (changed("address", "00" * 20), "correct horse")):
        with pytest.raises(SealError) as caught:
            k.decrypt_key(document, passphrase)
        text = str(caught.value.to_wire())
        assert passphrase not in text
        assert PRIVATE.hex() not in text
