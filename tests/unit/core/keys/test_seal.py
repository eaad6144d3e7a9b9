"""Sealed blobs: they open for their key, purpose and place, and say what is wrong otherwise."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given, settings
from hypothesis import strategies as st

from cloister.core.encoding.contexts import Context, frame
from cloister.core.errors import CloisterError, SealError
from cloister.core.keys import seal as s

KEY, OTHER_KEY = b"\x11" * 32, b"\x12" * 32
PURPOSE = Context.SHARE_AT_REST


def rng(seed: int = 0) -> Callable[[int], bytes]:
    return lambda size: hashlib.shake_256(bytes([seed])).digest(size)


BLOB = s.seal(KEY, PURPOSE, b"file 1", b"a share", rng())


@settings(max_examples=80, deadline=None)
@given(st.binary(max_size=400), st.binary(max_size=80), st.integers(0, 255))
def test_what_was_sealed_opens(plaintext: bytes, aad: bytes, seed: int) -> None:
    blob = s.seal(KEY, PURPOSE, aad, plaintext, rng(seed))
    assert len(blob) == len(plaintext) + s.OVERHEAD
    assert s.open_sealed(KEY, PURPOSE, aad, blob) == plaintext


def test_the_layout_is_that_of_the_spec() -> None:
    """spec/sharing.md 7, rebuilt with HMAC by hand."""
    salt, commitment, body = BLOB[5:37], BLOB[37:69], BLOB[69:]
    info = frame(PURPOSE, b"seal")
    extracted = hmac.digest(salt, KEY, "sha256")
    first = hmac.digest(extracted, info + b"\x01", "sha256")
    second = hmac.digest(extracted, first + info + b"\x02", "sha256")
    assert BLOB[:5] == b"CLSE\x01"
    assert commitment == second
    assert AESGCM(first).decrypt(bytes(12), body, frame(PURPOSE, BLOB[:69], b"file 1")) == b"a share"


REFUSED = {
    "another key": (OTHER_KEY, PURPOSE, b"file 1", BLOB, "seal.wrong_key"),
    "another purpose": (KEY, Context.NODE_AT_REST, b"file 1", BLOB, "seal.wrong_key"),
    "another salt": (KEY, PURPOSE, b"file 1", BLOB[:5] + b"\0" * 32 + BLOB[37:], "seal.wrong_key"),
    "another commitment": (KEY, PURPOSE, b"file 1", BLOB[:37] + b"\0" * 32 + BLOB[69:], "seal.wrong_key"),
    "another place": (KEY, PURPOSE, b"file 2", BLOB, "seal.changed"),
    "no place": (KEY, PURPOSE, b"", BLOB, "seal.changed"),
    "a cut body": (KEY, PURPOSE, b"file 1", BLOB[:-1], "seal.changed"),
    "a longer body": (KEY, PURPOSE, b"file 1", BLOB + b"\0", "seal.changed"),
    "nothing": (KEY, PURPOSE, b"file 1", b"", "seal.malformed"),
    "only a header": (KEY, PURPOSE, b"file 1", BLOB[: s.OVERHEAD - 1], "seal.malformed"),
    "another magic": (KEY, PURPOSE, b"file 1", b"X" + BLOB[1:], "seal.malformed"),
    "another version": (KEY, PURPOSE, b"file 1", BLOB[:4] + b"\x02" + BLOB[5:], "seal.malformed"),
    "a short key": (KEY[:-1], PURPOSE, b"file 1", BLOB, "encoding.size"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_each_refusal_has_its_name(name: str) -> None:
    key, context, aad, blob, code = REFUSED[name]
    with pytest.raises(CloisterError) as caught:
        s.open_sealed(key, context, aad, blob)
    assert caught.value.code == code


@settings(max_examples=150, deadline=None)
@given(st.integers(0, len(BLOB) * 8 - 1))
def test_a_flipped_bit_is_refused(bit: int) -> None:
    changed = bytearray(BLOB)
    changed[bit // 8] ^= 1 << bit % 8
    with pytest.raises(SealError):
        s.open_sealed(KEY, PURPOSE, b"file 1", bytes(changed))


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=200))
def test_rubbish_is_refused(data: bytes) -> None:
    with pytest.raises(SealError):
        s.open_sealed(KEY, PURPOSE, b"file 1", data)


def test_a_body_sealed_under_a_second_key_is_refused_by_the_commitment() -> None:
    """AES-GCM alone allows one ciphertext under two keys; the commitment is checked first."""
    salt, forged_subkey = BLOB[5:37], s._derive(OTHER_KEY, PURPOSE, BLOB[5:37])[0]
    header = s.MAGIC + salt + BLOB[37:69]
    body = AESGCM(forged_subkey).encrypt(bytes(12), b"forged", frame(PURPOSE, header, b"file 1"))
    with pytest.raises(SealError) as caught:
        s.open_sealed(OTHER_KEY, PURPOSE, b"file 1", header + body)
    assert caught.value.code == "seal.wrong_key"


def test_equal_plaintexts_give_unlike_blobs() -> None:
    assert s.seal(KEY, PURPOSE, b"", b"same", rng(1))[5:] != s.seal(KEY, PURPOSE, b"", b"same", rng(2))[5:]


def test_sizes_are_capped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s, "MAX_PLAINTEXT", 6)
    with pytest.raises(SealError) as caught:
        s.seal(KEY, PURPOSE, b"", b"a share", rng())
    assert caught.value.code == "seal.malformed"
    with pytest.raises(SealError) as caught:
        s.open_sealed(KEY, PURPOSE, b"file 1", BLOB)
    assert caught.value.code == "seal.malformed"


def test_bad_arguments_are_named() -> None:
    with pytest.raises(CloisterError):
        s.seal(b"short", PURPOSE, b"", b"", rng())
    with pytest.raises(RuntimeError):
        s.seal(KEY, PURPOSE, b"", b"", lambda size: b"\0")


def test_no_refusal_tells_a_key_or_a_plaintext() -> None:
    for key, context, aad, blob, _ in REFUSED.values():
        with pytest.raises(CloisterError) as caught:
            s.open_sealed(key, context, aad, blob)
        text = str(caught.value.to_wire())
        assert KEY.hex() not in text
        assert "a share" not in text
