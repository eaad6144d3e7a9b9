"""Public shares and secret shares as stored things."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloister.core.encoding import jcs
from cloister.core.errors import CloisterError, ThresholdError
from cloister.core.threshold.shares import KeyShare, PublicShares
from support.sharing import network

NET = network(3, 2)
SHARE = NET.shares[1]


def test_both_forms_round_trip() -> None:
    assert PublicShares.from_json(NET.public.to_json()) == NET.public
    assert KeyShare.from_bytes(SHARE.to_bytes()) == SHARE


def test_a_share_of_another_member_does_not_verify() -> None:
    with pytest.raises(ThresholdError) as caught:
        replace(SHARE, index=1).verify()
    assert caught.value.code == "threshold.share_mismatch"


def test_a_share_from_another_ceremony_does_not_load() -> None:
    mixed = replace(SHARE, public=network(3, 2, "other").public)
    with pytest.raises(ThresholdError) as caught:
        KeyShare.from_bytes(mixed.to_bytes())
    assert caught.value.code == "threshold.share_mismatch"


def test_shares_compare_by_content_and_hide_the_secret() -> None:
    assert replace(SHARE) == SHARE
    assert replace(SHARE, secret=b"\x01" * 32) != SHARE
    assert NET.shares[0] != SHARE
    assert SHARE != "a share"
    assert hash(SHARE) == hash(replace(SHARE))
    assert SHARE.secret.hex() not in repr(SHARE)
    assert repr(SHARE.secret) not in repr(SHARE)


@pytest.mark.parametrize("index", [0, 4, 64])
def test_only_members_have_a_share_key(index: int) -> None:
    with pytest.raises(ThresholdError):
        NET.public.share_key(index)
    with pytest.raises(ThresholdError):
        replace(SHARE, index=index)


PUBLIC = NET.public.to_json()
BAD_PUBLIC: dict[str, Any] = {
    "null": None,
    "an unknown field": {**PUBLIC, "x": 1},
    "a short mpk": {**PUBLIC, "mpk": "0x00"},
    "keys that are no list": {**PUBLIC, "share_keys": "0x"},
    "no keys": {**PUBLIC, "share_keys": []},
    "too many keys": {**PUBLIC, "share_keys": PUBLIC["share_keys"] * 22},
    "a key of another size": {**PUBLIC, "share_keys": [PUBLIC["transcript"]]},
    "a long transcript": {**PUBLIC, "transcript": PUBLIC["mpk"]},
}


@pytest.mark.parametrize("name", BAD_PUBLIC)
def test_public_shares_of_another_form_are_refused(name: str) -> None:
    with pytest.raises(CloisterError):
        PublicShares.from_json(BAD_PUBLIC[name])


@pytest.mark.parametrize(
    "change", [{"x": 1}, {"index": 9}, {"index": 1}, {"index": True}, {"secret": "0x" + "00" * 32}, {"public": None}]
)
def test_a_stored_share_of_another_form_is_refused(change: dict[str, Any]) -> None:
    body = jcs.decode(SHARE.to_bytes())
    with pytest.raises(CloisterError):
        KeyShare.from_bytes(jcs.encode({**body, **change}))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, len(SHARE.to_bytes()) * 8 - 1))
def test_a_flipped_bit_in_a_stored_share_never_gives_another_secret(bit: int) -> None:
    data = bytearray(SHARE.to_bytes())
    data[bit // 8] ^= 1 << bit % 8
    try:
        found = KeyShare.from_bytes(bytes(data))
    except CloisterError:
        return
    assert (found.index, found.secret) == (SHARE.index, SHARE.secret)
