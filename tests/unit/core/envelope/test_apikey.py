"""API keys: what comes from the secret, what a MAC binds, what no text or repr shows (spec/sealed-http.md 12)."""

from __future__ import annotations

import hashlib
import hmac
import os
import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloister.core.encoding.contexts import Context
from cloister.core.envelope.apikey import ApiKey, key_id, mac_key, session_mac
from cloister.core.errors import CloisterError

SECRET = bytes(range(32))


def framed(*parts: bytes) -> bytes:
    """The frame, written out by hand."""
    return b"cloister/v1/api-key\0" + b"".join(len(p).to_bytes(4, "big") + p for p in parts)


def test_every_value_is_the_one_of_the_specification() -> None:
    mac = hashlib.sha256(framed(b"mac", SECRET)).digest()
    session = b"\x07" * 32
    assert mac_key(SECRET) == mac
    assert key_id(mac) == hashlib.sha256(framed(b"id", mac)).digest()[:20]
    assert session_mac(mac, session) == hmac.new(mac, framed(b"session", session), "sha256").digest()
    assert Context.API_KEY.value == "cloister/v1/api-key"


def test_a_key_signs_as_its_parts_say() -> None:
    key = ApiKey(SECRET)
    assert (key.kind, key.agent, key.address) == ("apikey", None, key_id(mac_key(SECRET)))
    assert key.sign(b"\x01" * 32) == session_mac(key.mac, b"\x01" * 32)


@settings(max_examples=25)
@given(secret=st.binary(min_size=32, max_size=32))
def test_the_text_of_a_key_reads_back(secret: bytes) -> None:
    key = ApiKey(secret)
    assert ApiKey.parse(f" {key.text}\n").text == key.text == f"clk1_{secret.hex()}"


@settings(max_examples=25)
@given(one=st.binary(min_size=32, max_size=32), other=st.binary(min_size=32, max_size=32))
def test_two_secrets_share_nothing(one: bytes, other: bytes) -> None:
    if one != other:
        assert ApiKey(one).address != ApiKey(other).address
        assert ApiKey(one).sign(bytes(32)) != ApiKey(other).sign(bytes(32))
    assert ApiKey(one).sign(bytes(32)) != ApiKey(one).sign(b"\x01" * 32)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "clk1_",
        "clk1_" + "0" * 63,
        "clk1_" + "0" * 65,
        "clk1_" + "g" * 64,
        "clk1_" + "A" * 64,
        "clk2_" + "0" * 64,
        "0" * 64,
        "clk1_" + "0" * 32 + "\n" + "0" * 32,
    ],
)
def test_a_text_of_another_form_is_refused_without_being_shown(text: str) -> None:
    with pytest.raises(CloisterError, match=r"envelope\.api_key_text") as caught:
        ApiKey.parse(text)
    assert len(text) < 32 or text not in str(caught.value)


@settings(max_examples=50)
@given(st.text(max_size=100))
def test_garbage_is_refused_by_name(text: str) -> None:
    with pytest.raises(CloisterError, match=r"envelope\.api_key_text"):
        ApiKey.parse(text)


@pytest.mark.parametrize("size", [0, 31, 33])
def test_sizes_are_exact(size: int) -> None:
    for make in (mac_key, key_id, lambda data: session_mac(SECRET, data), ApiKey):
        with pytest.raises(CloisterError, match=r"encoding\.size"):
            make(os.urandom(size))


def test_the_secret_is_in_no_repr_and_no_pickle() -> None:
    key = ApiKey(SECRET)
    assert SECRET.hex() not in repr(key)
    assert key.mac.hex() not in repr(key)
    assert key.address.hex() in repr(key)
    with pytest.raises(TypeError, match="not pickled"):
        pickle.dumps(key)
