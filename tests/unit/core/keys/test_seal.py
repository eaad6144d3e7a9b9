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


def test_the_largest_plaintext_is_sealed_and_opened_and_one_byte_more_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    assert s.MAX_PLAINTEXT == 64 << 20
    monkeypatch.setattr(s, "MAX_PLAINTEXT", 100)
    blob = s.seal(KEY, PURPOSE, b"", b"x" * 100, rng())
    assert s.open_sealed(KEY, PURPOSE, b"", blob) == b"x" * 100
    with pytest.raises(SealError, match=r"seal\.malformed"):
        s.seal(KEY, PURPOSE, b"", b"x" * 101, rng())
    with pytest.raises(SealError, match=r"seal\.malformed"):
        s.open_sealed(KEY, PURPOSE, b"", blob + b"x")


def test_an_empty_plaintext_is_the_shortest_blob() -> None:
    blob = s.seal(KEY, PURPOSE, b"", b"", rng())
    assert len(blob) == s.OVERHEAD == 5 + 32 + 32 + 16
    assert s.open_sealed(KEY, PURPOSE, b"", blob) == b""
    with pytest.raises(SealError, match=r"seal\.malformed"):
        s.open_sealed(KEY, PURPOSE, b"", blob[:-1])


@pytest.mark.parametrize("salt", [b"", b"\1" * 31, b"\1" * 33, bytearray(32), "0" * 32, None])
def test_a_random_source_that_does_not_give_32_bytes_is_a_programmers_mistake(salt: object) -> None:
    with pytest.raises(RuntimeError, match="random source"):
        s.seal(KEY, PURPOSE, b"", b"x", lambda size: salt)  # type: ignore[arg-type, return-value]


@pytest.mark.parametrize("key", [b"", b"\1" * 31, b"\1" * 33, "1" * 32])
def test_a_sealing_key_has_32_bytes(key: bytes) -> None:
    for use in (lambda: s.seal(key, PURPOSE, b"", b"x", rng()), lambda: s.open_sealed(key, PURPOSE, b"", BLOB)):
        with pytest.raises(CloisterError, match=r"encoding\.size"):
            use()


def test_one_key_never_meets_one_salt_under_two_purposes() -> None:
    """The AES key depends on the purpose too: the same salt under another purpose is another key stream."""
    one = s.seal(KEY, Context.SHARE_AT_REST, b"", bytes(64), rng())
    other = s.seal(KEY, Context.NODE_AT_REST, b"", bytes(64), rng())
    assert one[5:37] == other[5:37]
    assert one[37:69] != other[37:69]
    assert not {one[i : i + 16] for i in range(69, 130)} & {other[i : i + 16] for i in range(69, 130)}
