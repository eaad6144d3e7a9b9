"""Secrets sealed one by one: what opens, for whom, under which name, and what every other byte does."""

from __future__ import annotations

import base64
import os
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloister.core.encoding import jcs
from cloister.core.encoding.identity import AgentVersion, Purpose
from cloister.core.errors import CloisterError
from cloister.core.keys.secretset import MAX_SECRETS, MAX_SET, SecretSet, good_name, is_set, seal_one
from cloister.core.threshold.groups import hash_identity, to_bytes
from cloister.core.threshold.ibe import DerivedKey, encrypt
from support.fake_world import MPK, ROOTS

AT = AgentVersion(b"\x0e" * 32, 1, b"\xc2" * 32, 1, b"\xaa" * 32, 3)
SETTER = b"\x07" * 20


def key_of(at: AgentVersion) -> DerivedKey:
    return DerivedKey(to_bytes(hash_identity(bytes(at.key(Purpose.SECRETS))) * ROOTS[1]))


def sealed(**values: str) -> SecretSet:
    return SecretSet({name: seal_one(MPK, AT, SETTER, name, value, os.urandom) for name, value in values.items()})


KEY = key_of(AT)
SAMPLE = sealed(A="one", B="zwei ü")
DOCUMENT = SAMPLE.encode()


def refused(data: bytes) -> bool:
    with pytest.raises(CloisterError) as caught:
        SecretSet.decode(data).open(AT, KEY, MPK, SETTER)
    return caught.value.code == "seal.secret_set"


def test_a_set_opens_to_what_was_sealed() -> None:
    assert SecretSet.decode(DOCUMENT).open(AT, KEY, MPK, SETTER) == {"A": "one", "B": "zwei ü"}
    assert SecretSet.decode(SecretSet({}).encode()).open(AT, KEY, MPK, SETTER) == {}


def test_one_is_set_or_removed_and_the_others_stay_byte_for_byte() -> None:
    more = SecretSet({**SecretSet.decode(DOCUMENT).sealed, **sealed(C="three").sealed})
    assert more.open(AT, KEY, MPK, SETTER) == {"A": "one", "B": "zwei ü", "C": "three"}
    assert more.sealed["A"] == SAMPLE.sealed["A"]
    less = SecretSet({name: data for name, data in more.sealed.items() if name != "A"})
    assert SecretSet.decode(less.encode()).open(AT, KEY, MPK, SETTER) == {"B": "zwei ü", "C": "three"}


OTHERS = {
    "another setter": (AT, b"\x08" * 20),
    "another network": (replace(AT, network=b"\x0f" * 32), SETTER),
    "another agent": (replace(AT, agent=b"\xab" * 32), SETTER),
    "another epoch": (replace(AT, agent_epoch=4), SETTER),
}


@pytest.mark.parametrize("sentence", OTHERS)
def test_it_does_not_open_for(sentence: str) -> None:
    at, setter = OTHERS[sentence]
    with pytest.raises(CloisterError) as caught:
        SAMPLE.open(at, key_of(at), MPK, setter)
    assert caught.value.code == "seal.secret_set"


def test_a_ciphertext_under_another_name_does_not_open() -> None:
    assert refused(SecretSet({"B": SAMPLE.sealed["A"]}).encode())
    assert refused(SecretSet({"A": SAMPLE.sealed["B"], "B": SAMPLE.sealed["A"]}).encode())


def test_a_new_owner_cannot_take_the_old_ones_ciphertext_along() -> None:
    mine = seal_one(MPK, AT, b"\x08" * 20, "MINE", "x", os.urandom)
    both = SecretSet({"A": SAMPLE.sealed["A"], "MINE": mine})
    with pytest.raises(CloisterError):
        both.open(AT, KEY, MPK, b"\x08" * 20)


@given(st.integers(0, len(DOCUMENT) - 1), st.integers(1, 255))
def test_no_changed_byte_passes(at: int, change: int) -> None:
    data = bytearray(DOCUMENT)
    data[at] ^= change
    with pytest.raises(CloisterError) as caught:
        SecretSet.decode(bytes(data)).open(AT, KEY, MPK, SETTER)
    assert caught.value.code == "seal.secret_set"


@given(st.binary(max_size=300))
def test_garbage_is_refused_by_name(data: bytes) -> None:
    assert refused(data)


def document(**fields: object) -> bytes:
    return jcs.encode({"secrets": {}, "v": 2} | fields)


FORMS: dict[str, bytes] = {
    "another version": document(v=1),
    "a field more": document(more=1),
    "secrets as a list": document(secrets=[]),
    "a name that begins with a digit": document(secrets={"1A": "AA=="}),
    "a name with a space": document(secrets={"A B": "AA=="}),
    "a value that is no base64": document(secrets={"A": "?"}),
    "a value that is a number": document(secrets={"A": 1}),
    "base64 with bits over": document(secrets={"A": "AB=="}),
    "too many": document(secrets={f"A{n}": "AA==" for n in range(MAX_SECRETS + 1)}),
    "too large": document(secrets={"A": base64.b64encode(bytes(MAX_SET)).decode()}),
    "white space": DOCUMENT.replace(b":", b": ", 1),
    "an empty document": b"",
}


@pytest.mark.parametrize("sentence", FORMS)
def test_refused(sentence: str) -> None:
    assert refused(FORMS[sentence])


def test_too_much_is_not_even_written() -> None:
    for too_much in ({f"A{n}": b"" for n in range(MAX_SECRETS + 1)}, {"A": bytes(MAX_SET)}, {"a-b": b""}):
        with pytest.raises(CloisterError):
            SecretSet(too_much).encode()


def test_a_document_is_told_from_a_ciphertext() -> None:
    assert is_set(DOCUMENT)
    assert not is_set(encrypt(MPK, bytes(AT.key(Purpose.SECRETS)), b'{"secrets":', b"", os.urandom))


@given(st.text(max_size=4))
def test_names_are_those_of_variables(name: str) -> None:
    assert good_name(name) is (name.isascii() and name.isidentifier())


def test_no_text_of_a_secret_is_in_a_refusal() -> None:
    spoilt = SecretSet({"A": SAMPLE.sealed["B"]})
    with pytest.raises(CloisterError) as caught:
        spoilt.open(AT, KEY, MPK, SETTER)
    assert "zwei" not in f"{caught.value!r} {caught.value.__context__!r}"
