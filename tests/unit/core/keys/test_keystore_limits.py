"""Edges of the wallet file: which costs are worked on and which are refused before any work, field by field."""

from __future__ import annotations

import copy
import hashlib
import uuid
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloister.core.errors import CloisterError, SealError
from cloister.core.keys import keystore as k

ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141


def rng(seed: int = 0) -> Callable[[int], bytes]:
    count = 0

    def read(size: int) -> bytes:
        nonlocal count
        count += 1
        return hashlib.shake_256(bytes([seed, count])).digest(size)

    return read


DOCUMENT = k.encrypt_key(b"\x01" * 32, "words", rng(), n=16)


def changed(**params: Any) -> dict[str, Any]:
    document = copy.deepcopy(DOCUMENT)
    document["crypto"]["kdfparams"] |= params
    return document


class Worked(Exception):  # noqa: N818
    """The work would have begun."""


@pytest.fixture
def no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """scrypt is replaced by a shout: a refusal must come before it."""

    def shout(passphrase: str, salt: bytes, n: int, r: int, p: int) -> bytes:
        raise Worked(n, r, p, len(salt))

    monkeypatch.setattr(k, "_stretch", shout)


# The caps: 128 * n * r bytes of memory, n * r * p of work


WORKED = {
    "the usual cost": (1 << 17, 8, 1),
    "the least": (2, 1, 1),
    "all the memory that is allowed": (1 << 19, 8, 1),
    "all the memory, once more": (1 << 19, 8, 2),
    "wide and flat": (2, 1 << 21, 1),
    "all the work that is allowed": (2, 1, 1 << 22),
    "the largest n for r = 1": (1 << 15, 1, 1),
    "the largest n for r = 2": (1 << 18, 2, 1),
}
REFUSED = {
    "no cost": (1, 8, 1, "seal.keystore"),
    "n of three": (3, 8, 1, "seal.keystore"),
    "n one above a power": ((1 << 17) + 1, 8, 1, "seal.keystore"),
    "n too large for r = 1 (RFC 7914)": (1 << 16, 1, 1, "seal.keystore"),
    "twice the memory": (1 << 20, 8, 1, "seal.keystore_cost"),
    "memory by r": (2, (1 << 21) + 1, 1, "seal.keystore_cost"),
    "three times the work": (1 << 19, 8, 3, "seal.keystore_cost"),
    "work by p": (2, 1, (1 << 22) + 1, "seal.keystore_cost"),
    "a number beyond every cap": (1 << 30, 1, 1, "seal.keystore_cost"),
    "r of zero": (16, 0, 1, "seal.keystore_cost"),
    "p of zero": (16, 8, 0, "seal.keystore_cost"),
    "n of zero": (0, 8, 1, "seal.keystore_cost"),
    "a negative p": (16, 8, -1, "seal.keystore_cost"),
}


@pytest.mark.usefixtures("no_work")
@pytest.mark.parametrize("sentence", WORKED)
def test_worked_on(sentence: str) -> None:
    n, r, p = WORKED[sentence]
    with pytest.raises(Worked):
        k.decrypt_key(changed(n=n, r=r, p=p), "words")


@pytest.mark.usefixtures("no_work")
@pytest.mark.parametrize("sentence", REFUSED)
def test_refused_before_any_work(sentence: str) -> None:
    n, r, p, code = REFUSED[sentence]
    with pytest.raises(SealError) as caught:
        k.decrypt_key(changed(n=n, r=r, p=p), "words")
    assert caught.value.code == code


@pytest.mark.usefixtures("no_work")
@pytest.mark.parametrize("name", ["n", "r", "p", "dklen"])
@pytest.mark.parametrize("value", [True, 16.0, "16", None, [], {}, 10**400])
def test_a_cost_that_is_no_small_integer_is_refused_before_any_work(name: str, value: Any) -> None:
    with pytest.raises(SealError, match=r"seal\.keystore_cost"):
        k.decrypt_key(changed(**{name: value}), "words")


@pytest.mark.usefixtures("no_work")
@pytest.mark.parametrize("dklen", [16, 31, 33, 64])
def test_a_derived_key_of_another_length_is_refused(dklen: int) -> None:
    with pytest.raises(SealError, match=r"seal\.keystore:"):
        k.decrypt_key(changed(dklen=dklen), "words")


@pytest.mark.usefixtures("no_work")
@pytest.mark.parametrize(
    ("salt", "good"),
    [("ab" * 7, False), ("ab" * 8, True), ("AB" * 8, True), ("ab" * 64, True), ("ab" * 65, False), ("a" * 17, False),
     ("zz" * 16, False), (" " * 32, False), (["ab"] * 16, False), (None, False), (5, False)],
)  # fmt: skip
def test_salts_have_8_to_64_bytes(salt: Any, good: bool) -> None:
    with pytest.raises(Worked if good else SealError):
        k.decrypt_key(changed(salt=salt), "words")


# Making one


@pytest.mark.parametrize("n", [0, 1, 3, 6, 1 << 20, -2])
def test_a_cost_that_we_would_not_read_is_not_written(n: int) -> None:
    with pytest.raises(RuntimeError, match="power of two"):
        k.encrypt_key(b"\x01" * 32, "words", rng(), n=n)


@pytest.mark.usefixtures("no_work")
@pytest.mark.parametrize("n", [2, 1 << 19])
def test_the_least_and_the_greatest_cost_that_we_write(n: int) -> None:
    with pytest.raises(Worked):
        k.encrypt_key(b"\x01" * 32, "words", rng(), n=n)


def test_a_file_has_a_salt_of_32_an_iv_of_16_and_a_uuid_of_version_4() -> None:
    for seed in range(40):
        document = k.encrypt_key(b"\x01" * 32, "words", rng(seed), n=2)
        assert len(document["crypto"]["kdfparams"]["salt"]) == 64
        assert len(document["crypto"]["cipherparams"]["iv"]) == 32
        parsed = uuid.UUID(document["id"])
        assert str(parsed) == document["id"]
        assert (parsed.version, parsed.variant) == (4, uuid.RFC_4122)


@pytest.mark.parametrize("private", [b"", b"\1" * 31, b"\1" * 33, "01" * 32, None])
def test_a_key_of_another_size_is_not_written(private: Any) -> None:
    with pytest.raises(CloisterError, match=r"encoding\.size"):
        k.encrypt_key(private, "words", rng(), n=2)


@pytest.mark.parametrize("number", [0, ORDER, ORDER + 1, 2**256 - 1])
def test_a_number_that_is_no_key_is_not_written(number: int) -> None:
    with pytest.raises(SealError, match=r"seal\.private_key"):
        k.encrypt_key(number.to_bytes(32, "big"), "words", rng(), n=2)


@pytest.mark.parametrize("number", [0, ORDER])
@pytest.mark.parametrize("named", [True, False])
def test_a_file_that_opens_to_no_key_is_refused_by_that_name(number: int, named: bool) -> None:
    """Whoever knows the passphrase can write any 32 bytes under it."""
    document = copy.deepcopy(DOCUMENT)
    crypto = document["crypto"]
    params = crypto["kdfparams"]
    stretched = k._stretch("words", bytes.fromhex(params["salt"]), params["n"], params["r"], params["p"])
    text = k._ctr(stretched, bytes.fromhex(crypto["cipherparams"]["iv"]), number.to_bytes(32, "big"))
    crypto["ciphertext"], crypto["mac"] = text.hex(), k.keccak256(stretched[16:], text).hex()
    if not named:
        del document["address"]
    with pytest.raises(SealError, match=r"seal\.private_key"):
        k.decrypt_key(document, "words")


@pytest.mark.parametrize("passphrase", [None, b"words", 5])
def test_a_passphrase_that_is_no_text_is_a_programmers_mistake(passphrase: Any) -> None:
    with pytest.raises(TypeError, match="passphrase"):
        k.decrypt_key(DOCUMENT, passphrase)


# The document's form


def with_top(**members: Any) -> dict[str, Any]:
    return {**DOCUMENT, **members}


def with_crypto(**members: Any) -> dict[str, Any]:
    return {**DOCUMENT, "crypto": {**DOCUMENT["crypto"], **members}}


SHAPES: dict[str, Any] = {
    "a list": [DOCUMENT],
    "a text": "DOCUMENT",
    "nothing": None,
    "33 members": with_top(**{f"x-{i}": 1 for i in range(29)}),
    "a member that is no text": {**DOCUMENT, 5: 1},
    "version true": with_top(version=True),
    "version 3 as a fraction": with_top(version=3.0),
    "version as text": with_top(version="3"),
    "crypto as a list": with_top(crypto=[]),
    "an extension inside crypto": with_crypto(**{"x-more": 1}),
    "cipherparams as a text": with_crypto(cipherparams="00" * 16),
    "cipherparams with a member more": with_crypto(cipherparams={**DOCUMENT["crypto"]["cipherparams"], "x": 1}),
    "no cipherparams in it": with_crypto(cipherparams={}),
    "kdfparams with a member more": changed(x=1),
    "a mac of 31 bytes": with_crypto(mac="00" * 31),
    "a mac as a number": with_crypto(mac=5),
    "a ciphertext of 33 bytes": with_crypto(ciphertext="00" * 33),
    "an iv of 15 bytes": with_crypto(cipherparams={"iv": "00" * 15}),
    "an iv with spaces": with_crypto(cipherparams={"iv": "00 " * 10 + "00"}),
    "an address of 39 digits": with_top(address="a" * 39),
    "an address as a list": with_top(address=["a" * 40]),
    "another cipher": with_crypto(cipher="aes-256-gcm"),
    "a cipher that is a list": with_crypto(cipher=["aes-128-ctr"]),
}


@pytest.mark.usefixtures("no_work")
@pytest.mark.parametrize("sentence", SHAPES)
def test_no_wallet_file_is(sentence: str) -> None:
    with pytest.raises(SealError, match=r"seal\.keystore:"):
        k.decrypt_key(SHAPES[sentence], "words")


def test_thirty_two_members_are_read_and_the_unknown_ones_left_alone() -> None:
    assert k.decrypt_key(with_top(**{f"x-{i}": 1 for i in range(28)}), "words") == b"\x01" * 32


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(["ciphertext", "mac"]), st.integers(0, 31), st.integers(1, 255))
def test_a_changed_byte_never_opens(part: str, at: int, flip: int) -> None:
    raw = bytearray.fromhex(DOCUMENT["crypto"][part])
    raw[at] ^= flip
    with pytest.raises(SealError, match=r"seal\.passphrase"):
        k.decrypt_key(with_crypto(**{part: raw.hex()}), "words")


def test_a_changed_iv_gives_another_key_and_is_caught_by_the_address_alone() -> None:
    """The format's MAC does not cover the iv: hence the address in the file is compared."""
    document = with_crypto(cipherparams={"iv": "00" * 16})
    with pytest.raises(SealError, match=r"seal\.keystore_address"):
        k.decrypt_key(document, "words")
    with pytest.raises(SealError, match=r"seal\.keystore_address"):
        k.decrypt_key(with_top(address="ab" * 20), "words")
    assert k.decrypt_key(with_top(address="0x" + DOCUMENT["address"].upper()), "words") == b"\x01" * 32
