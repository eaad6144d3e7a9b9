"""Identity-based encryption: opens for exactly one key, identity and associated data, byte for byte."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given, settings
from hypothesis import strategies as st
from py_arkworks_bls12381 import Scalar

from cloister.core.encoding.contexts import Context, digest
from cloister.core.encoding.identity import AgentVersion, Purpose
from cloister.core.errors import CloisterError, ThresholdError
from cloister.core.threshold import groups as g
from cloister.core.threshold import ibe
from cloister.core.threshold.partial import TransportKey, evaluate, recover
from support.sharing import network, stream

NET = network(5, 3)
OTHER = network(5, 3, "other")
AGENT = AgentVersion(b"\x01" * 32, 1, b"\x02" * 32, 0, b"\x03" * 32, 7)
IDENTITY = bytes(AGENT.key(Purpose.SECRETS))
LATER = bytes(AGENT.bumped().key(Purpose.SECRETS))
MPK = NET.public.mpk


def key_of(identity: bytes, net: object = None) -> ibe.DerivedKey:
    used = NET if net is None else OTHER
    transport = TransportKey.generate(stream("ibe"))
    partials = [evaluate(share, identity, transport.public, stream("p")) for share in used.shares[:3]]
    return recover(partials, 3, used.public, identity, transport)


KEY = key_of(IDENTITY)
SEALED = ibe.encrypt(MPK, IDENTITY, b"an API key", b"slot 1", stream("sealed"))


@settings(max_examples=20, deadline=None)
@given(st.binary(max_size=300), st.binary(max_size=100))
def test_what_was_encrypted_opens(message: bytes, aad: bytes) -> None:
    sealed = ibe.encrypt(MPK, IDENTITY, message, aad, stream("round trip"))
    assert len(sealed) == len(message) + ibe.MIN_CIPHERTEXT
    assert ibe.decrypt(KEY, MPK, IDENTITY, sealed, aad) == message


def test_the_largest_message_opens_and_a_larger_one_is_refused() -> None:
    message = b"\x05" * ibe.MAX_MESSAGE
    sealed = ibe.encrypt(MPK, IDENTITY, message, b"", stream("large"))
    assert ibe.decrypt(KEY, MPK, IDENTITY, sealed, b"") == message
    for wrong in ((message + b"\0", b""), (b"", b"\0" * (ibe.MAX_AAD + 1))):
        with pytest.raises(ThresholdError):
            ibe.encrypt(MPK, IDENTITY, *wrong, stream("x"))
    with pytest.raises(ThresholdError) as caught:
        ibe.decrypt(KEY, MPK, IDENTITY, sealed + b"\0", b"")
    assert caught.value.code == "threshold.ibe_malformed"


OTHERS: dict[str, tuple[Callable[[], ibe.DerivedKey], bytes, bytes, bytes]] = {
    "the key of a later epoch": (lambda: key_of(LATER), MPK, IDENTITY, b"slot 1"),
    "the identity of a later epoch": (lambda: KEY, MPK, LATER, b"slot 1"),
    "key and identity of a later epoch": (lambda: key_of(LATER), MPK, LATER, b"slot 1"),
    "other associated data": (lambda: KEY, MPK, IDENTITY, b"slot 2"),
    "no associated data": (lambda: KEY, MPK, IDENTITY, b""),
    "another master key": (lambda: KEY, OTHER.public.mpk, IDENTITY, b"slot 1"),
    "another network's key": (lambda: key_of(IDENTITY, OTHER), OTHER.public.mpk, IDENTITY, b"slot 1"),
    "a point that is no derived key": (
        lambda: ibe.DerivedKey(g.to_bytes(g.G1 * Scalar(3))),
        MPK,
        IDENTITY,
        b"slot 1",
    ),
}


@pytest.mark.parametrize("name", OTHERS)
def test_it_opens_for_nobody_else(name: str) -> None:
    key, mpk, identity, aad = OTHERS[name]
    with pytest.raises(ThresholdError) as caught:
        ibe.decrypt(key(), mpk, identity, SEALED, aad)
    assert caught.value.code == "threshold.ibe_not_opened"


def test_it_opens_for_its_own_key() -> None:
    assert ibe.decrypt(KEY, MPK, IDENTITY, SEALED, b"slot 1") == b"an API key"


@settings(max_examples=120, deadline=None)
@given(st.integers(0, len(SEALED) * 8 - 1))
def test_a_flipped_bit_is_refused(bit: int) -> None:
    changed = bytearray(SEALED)
    changed[bit // 8] ^= 1 << bit % 8
    with pytest.raises(ThresholdError) as caught:
        ibe.decrypt(KEY, MPK, IDENTITY, bytes(changed), b"slot 1")
    assert caught.value.code in ("threshold.ibe_not_opened", "threshold.ibe_malformed")


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=200))
def test_rubbish_is_refused(data: bytes) -> None:
    with pytest.raises(CloisterError):
        ibe.decrypt(KEY, MPK, IDENTITY, data, b"slot 1")


MALFORMED = {
    "empty": b"",
    "cut to its head": SEALED[: ibe.MIN_CIPHERTEXT - 1],
    "version 0": b"\0" + SEALED[1:],
    "version 2": b"\2" + SEALED[1:],
    "U is the identity": SEALED[:1] + b"\xc0" + bytes(95) + SEALED[97:],
    "U is no point": SEALED[:1] + b"\xff" * 96 + SEALED[97:],
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_ciphertext_is_named_so(name: str) -> None:
    with pytest.raises(ThresholdError) as caught:
        ibe.decrypt(KEY, MPK, IDENTITY, MALFORMED[name], b"slot 1")
    assert caught.value.code == "threshold.ibe_malformed"


def test_a_cut_body_is_refused() -> None:
    for size in (ibe.MIN_CIPHERTEXT, len(SEALED) - 1):
        with pytest.raises(ThresholdError):
            ibe.decrypt(KEY, MPK, IDENTITY, SEALED[:size], b"slot 1")


def test_a_ciphertext_with_an_honest_body_but_another_u_is_refused() -> None:
    """Fujisaki-Okamoto: the maker picks r freely instead of from the message. Everything decrypts, U does not fit."""
    sigma, r = b"\x04" * 32, Scalar(77)
    u = g.to_bytes(g.G2 * r)
    pairing = g.pairing_bytes(g.hash_identity(IDENTITY) * r, g.public_key(MPK))
    v = ibe._xor(sigma, digest(Context.IBE_MASK, pairing))
    body = AESGCM(ibe._body_key(sigma, u)).encrypt(bytes(12), b"hello", ibe._body_aad(MPK, IDENTITY, b"", u, v))
    with pytest.raises(ThresholdError) as caught:
        ibe.decrypt(KEY, MPK, IDENTITY, b"\1" + u + v + body, b"")
    assert caught.value.code == "threshold.ibe_not_opened"


def test_a_random_source_that_repeats_reuses_no_body_key() -> None:
    first, second = (ibe.encrypt(MPK, IDENTITY, m, b"", stream("same")) for m in (b"one", b"two"))
    assert first[1:97] != second[1:97]
    assert bytes(a ^ b for a, b in zip(first[129:132], second[129:132], strict=True)) != bytes(
        a ^ b for a, b in zip(b"one", b"two", strict=True)
    )


@pytest.mark.parametrize("mpk", [b"", b"\xc0" + bytes(95), bytes(96), b"\xff" * 96, MPK[:-1]])
def test_nobody_encrypts_to_a_bad_master_key(mpk: bytes) -> None:
    with pytest.raises(ThresholdError) as caught:
        ibe.encrypt(mpk, IDENTITY, b"m", b"", stream("x"))
    assert caught.value.code == "threshold.point"


def test_text_in_place_of_bytes_is_our_mistake() -> None:
    with pytest.raises(TypeError):
        ibe.encrypt(MPK, IDENTITY, "text", b"", stream("x"))  # type: ignore[arg-type]
    with pytest.raises(RuntimeError):
        ibe.encrypt(MPK, IDENTITY, b"m", b"", lambda size: b"")


# Derived keys


def test_symmetric_keys_differ_by_context_info_and_key() -> None:
    keys = {
        KEY.symmetric(Context.STATE_DATA_KEY, b"a"),
        KEY.symmetric(Context.STATE_DATA_KEY, b"b"),
        KEY.symmetric(Context.SEALED_REQUEST, b"a"),
        KEY.symmetric(Context.SEALED_REQUEST, b""),
        key_of(LATER).symmetric(Context.STATE_DATA_KEY, b"a"),
    }
    assert len(keys) == 5
    assert all(len(key) == 32 for key in keys)
    assert KEY.symmetric(Context.SECRETS, b"x") == key_of(IDENTITY).symmetric(Context.SECRETS, b"x")


def test_a_derived_key_is_never_printed_nor_hashed() -> None:
    assert repr(KEY) == "DerivedKey()"
    with pytest.raises(TypeError):
        hash(KEY)
    assert key_of(IDENTITY) == KEY
    assert key_of(LATER) != KEY
    assert KEY.point != KEY


@pytest.mark.parametrize("point", [b"", b"\x01" * 47, b"\x01" * 49])
def test_a_derived_key_has_48_bytes(point: bytes) -> None:
    with pytest.raises(CloisterError):
        ibe.DerivedKey(point)


@pytest.mark.parametrize("point", [b"\xc0" + bytes(47), b"\xff" * 48])
def test_a_bad_point_is_no_derived_key(point: bytes) -> None:
    with pytest.raises(ThresholdError):
        ibe.DerivedKey(point).verify(MPK, IDENTITY)
    with pytest.raises(ThresholdError):
        ibe.decrypt(ibe.DerivedKey(point), MPK, IDENTITY, SEALED, b"slot 1")
