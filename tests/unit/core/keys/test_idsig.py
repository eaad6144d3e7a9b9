"""Signatures by derived keys: what holds, what does not, and that nothing else passes for one."""

from __future__ import annotations

import os
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from py_arkworks_bls12381 import Scalar

from cloister.core.errors import CloisterError, ThresholdError
from cloister.core.keys import idsig
from cloister.core.threshold import ibe
from cloister.core.threshold.groups import G1, G2, hash_identity, to_bytes
from cloister.core.threshold.ibe import DerivedKey

ROOT = Scalar(0x1234567890ABCDEF1234567890ABCDEF)
MPK = to_bytes(G2 * ROOT)
NAME = b"an agent's call key of period 4"
MESSAGE = b"an oblivious key"


def key_of(identity: bytes, root: Scalar = ROOT) -> DerivedKey:
    return DerivedKey(to_bytes(hash_identity(identity) * root))


SIGNATURE = idsig.sign(key_of(NAME), MPK, NAME, MESSAGE, os.urandom)


def refused(mpk: bytes, identity: bytes, message: bytes, signature: bytes) -> str:
    with pytest.raises(ThresholdError) as caught:
        idsig.verify(mpk, identity, message, signature)
    return caught.value.code


@settings(max_examples=10, deadline=None)
@given(st.binary(min_size=1, max_size=100), st.binary(max_size=200))
def test_whoever_has_the_key_signs(identity: bytes, message: bytes) -> None:
    signature = idsig.sign(key_of(identity), MPK, identity, message, os.urandom)
    assert len(signature) == idsig.SIGNATURE_SIZE
    idsig.verify(MPK, identity, message, signature)


def test_signatures_of_one_message_differ() -> None:
    other = idsig.sign(key_of(NAME), MPK, NAME, MESSAGE, os.urandom)
    assert other[:48] != SIGNATURE[:48]
    idsig.verify(MPK, NAME, MESSAGE, other)


OTHER_ROOT = Scalar(99)
OF_OTHER = idsig.sign(key_of(b"other"), MPK, NAME, MESSAGE, os.urandom)
OF_OTHER_ROOT = idsig.sign(key_of(NAME, OTHER_ROOT), MPK, NAME, MESSAGE, os.urandom)
WRONG: dict[str, tuple[Any, ...]] = {
    "another message": (MPK, NAME, MESSAGE + b".", SIGNATURE),
    "another identity": (MPK, NAME + b".", MESSAGE, SIGNATURE),
    "another master key": (to_bytes(G2 * OTHER_ROOT), NAME, MESSAGE, SIGNATURE),
    "the halves exchanged": (MPK, NAME, MESSAGE, SIGNATURE[48:] + SIGNATURE[:48]),
    "the key of another identity": (MPK, NAME, MESSAGE, OF_OTHER),
    "a key under another root": (
        MPK,
        NAME,
        MESSAGE,
        idsig.sign(key_of(NAME, OTHER_ROOT), MPK, NAME, MESSAGE, os.urandom),
    ),
    "public points alone": (MPK, NAME, MESSAGE, to_bytes(hash_identity(NAME)) + to_bytes(G1)),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_signature_does_not_hold_for(what: str) -> None:
    assert refused(*WRONG[what]) == "threshold.key_signature"


@pytest.mark.parametrize("size", [0, 48, 95, 97, 192])
def test_another_size_is_no_signature(size: int) -> None:
    assert refused(MPK, NAME, MESSAGE, (SIGNATURE * 2)[:size]) == "threshold.key_signature"


@pytest.mark.parametrize("half", [0, 48])
def test_points_off_the_group_are_refused(half: int) -> None:
    identity = b"\xc0" + bytes(47)
    for point in (identity, bytes(48), b"\xff" * 48):
        bad = SIGNATURE[:half] + point + SIGNATURE[half + 48 :]
        assert refused(MPK, NAME, MESSAGE, bad) == "threshold.point"


def test_no_flipped_bit_holds() -> None:
    for place in range(0, 96 * 8, 5):
        bad = bytearray(SIGNATURE)
        bad[place // 8] ^= 1 << place % 8
        assert refused(MPK, NAME, MESSAGE, bytes(bad)) in ("threshold.point", "threshold.key_signature")


def test_the_same_key_still_opens_and_one_use_is_not_the_other() -> None:
    """A signature says nothing of what was encrypted to the identity, and a ciphertext is no signature."""
    sealed = ibe.encrypt(MPK, NAME, b"secret", b"", os.urandom)
    assert ibe.decrypt(key_of(NAME), MPK, NAME, sealed, b"") == b"secret"
    with pytest.raises(CloisterError):
        idsig.verify(MPK, NAME, MESSAGE, sealed[:96])
    with pytest.raises(CloisterError):
        ibe.decrypt(DerivedKey(SIGNATURE[48:]), MPK, NAME, sealed, b"")


def test_a_nonce_that_is_used_twice_would_give_the_key_away_so_it_is_drawn_anew() -> None:
    drawn: list[int] = []

    def counting(size: int) -> bytes:
        drawn.append(size)
        return os.urandom(size)

    for _ in range(2):
        idsig.sign(key_of(NAME), MPK, NAME, MESSAGE, counting)
    assert drawn == [48, 48]
