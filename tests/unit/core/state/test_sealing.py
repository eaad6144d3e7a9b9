"""Names and sealed values: what the fabric can see, and what opens where."""

from __future__ import annotations

import hmac

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloister.core.encoding.contexts import Context, frame
from cloister.core.encoding.identity import Purpose
from cloister.core.errors import EncodingError, StateError
from cloister.core.state.sealing import (
    MAX_NAME,
    MAX_PLAIN,
    MAX_SEALED,
    StateKeys,
    job_request_id,
    job_slot,
)
from support.state_kit import IDENTITY, STATE_KEY, VERSION, counter_rng, keys

NAMES = st.text(min_size=1, max_size=60).filter(lambda t: not any(0xD800 <= ord(c) <= 0xDFFF for c in t))


def code_of(call: object, *args: object) -> str:
    with pytest.raises(StateError) as caught:
        call(*args)  # type: ignore[operator]
    return caught.value.code


@given(NAMES, st.binary(max_size=500), st.integers(0, 2**64 - 1))
@settings(max_examples=60)
def test_what_was_sealed_opens_with_its_name_and_height(name: str, value: bytes, height: int) -> None:
    blob = keys().seal(name, value, height, counter_rng())
    assert keys().open(name, blob) == value
    opened = keys().open_at(keys().name(name), blob)
    assert (opened.height, opened.name, opened.value) == (height, name, value)


@given(st.binary(max_size=300))
@settings(max_examples=80)
def test_garbage_does_not_open(blob: bytes) -> None:
    assert code_of(keys().open, "n", blob) == "state.tampered"


def test_a_blob_with_any_byte_changed_cut_or_added_does_not_open() -> None:
    blob = keys().seal("name", b"value", 7, counter_rng())
    for at in range(len(blob)):
        for spoilt in (blob[:at] + bytes([blob[at] ^ 1]) + blob[at + 1 :], blob[:at]):
            assert code_of(keys().open, "name", spoilt) == "state.tampered"
    assert code_of(keys().open, "name", blob + b"\0") == "state.tampered"
    assert code_of(keys().open, "name", blob + bytes(MAX_SEALED)) == "state.tampered"


OTHERS = {
    "another name": ("other", IDENTITY, STATE_KEY),
    "the next agent epoch": ("name", bytes(VERSION.bumped().key(Purpose.STATE)), STATE_KEY),
    "another purpose": ("name", bytes(VERSION.key(Purpose.SECRETS)), STATE_KEY),
    "another key": ("name", IDENTITY, bytes(32)),
}


@pytest.mark.parametrize("case", OTHERS)
def test_a_blob_does_not_open_under(case: str) -> None:
    name, identity, key = OTHERS[case]
    blob = keys().seal("name", b"value", 1, counter_rng())
    assert code_of(StateKeys(key, identity).open, name, blob) == "state.tampered"


def test_a_blob_does_not_open_for_a_record_of_our_own_or_a_job() -> None:
    blob = keys().seal_at("h", "", b"record", 1, counter_rng())
    assert code_of(keys().open_at, "b.00", blob) == "state.tampered"
    assert code_of(keys().open_at, job_slot("h"), blob) == "state.tampered"
    assert keys().open_at("h", blob).value == b"record"


def test_stored_keys_are_pseudorandom_fixed_and_keyed() -> None:
    name = keys().name("balance")
    assert len(name) == 32
    assert set(name) <= set("0123456789abcdef")
    assert name == keys().name("balance")
    assert name != keys().name("balance2")
    assert name != keys(key=bytes(32)).name("balance")
    assert keys().request_tag("balance") != bytes.fromhex(name)


def test_tags_under_a_carried_key_and_the_own_one_do_not_mix() -> None:
    ours, carried = keys(), [bytes([n]) * 32 for n in (1, 2)]
    expected = [
        hmac.new(key, frame(Context.STATE_KEY_NAME, b"request", b"r"), "sha256").digest()[:16] for key in carried
    ]
    for _ in range(2):
        assert [ours.request_tag("r", key) for key in carried] == expected
        assert ours.request_tag("r") == ours.request_tag("r", ours.tag_key()) == keys().request_tag("r")


def test_a_value_opens_at_the_stored_key_of_its_own_name_only() -> None:
    blob = keys().seal("name", b"value", 1, counter_rng())
    assert keys().open("name", blob, keys().name("name")) == b"value"
    for name, stored in (("name", keys().name("other")), ("other", keys().name("name"))):
        with pytest.raises(StateError) as caught:
            keys().open(name, blob, stored)
        assert caught.value.code == "state.tampered"


def test_two_seals_of_one_value_share_nothing_but_the_header() -> None:
    rng = counter_rng()
    one, two = keys().seal("n", b"v", 1, rng), keys().seal("n", b"v", 1, rng)
    assert one[:9] == two[:9]
    assert one[9:41] != two[9:41]
    assert one[41:89] != two[41:89]
    assert one[89:] != two[89:]


@pytest.mark.parametrize("name", ["", "x" * (MAX_NAME + 1), "é" * MAX_NAME, "\ud800", b"bytes", 7, None])
def test_a_name_of_another_form_is_refused(name: object) -> None:
    assert code_of(keys().name, name) == "state.bad_name"


def test_the_largest_value_fits_and_a_larger_one_is_refused() -> None:
    name = "n" * MAX_NAME
    blob = keys().seal(name, bytes(MAX_PLAIN), 1, counter_rng())
    assert len(blob) == MAX_SEALED
    assert keys().open(name, blob) == bytes(MAX_PLAIN)
    assert code_of(keys().seal, name, bytes(MAX_PLAIN + 1), 1, counter_rng()) == "state.too_large"


def test_a_key_of_another_size_and_a_short_random_source_are_refused() -> None:
    with pytest.raises(EncodingError):
        StateKeys(bytes(31), IDENTITY)
    with pytest.raises(EncodingError):
        keys().seal("n", b"v", 1, lambda size: bytes(size - 1))
    with pytest.raises(EncodingError):
        keys().seal("n", b"v", -1, counter_rng())


def test_keys_do_not_show_themselves() -> None:
    assert repr(STATE_KEY) not in repr(keys())
    assert STATE_KEY.hex() not in repr(keys()) + str(keys())


def test_a_jobs_request_id_follows_from_its_bytes() -> None:
    assert job_request_id(b"a") == job_request_id(b"a") != job_request_id(b"b")
    assert len(job_request_id(b"a")) == 32
