"""Key certificates count under exactly one lease, and every field is part of that."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloister.core.encoding import jcs
from cloister.core.encoding.identity import Purpose
from cloister.core.encoding.signatures import Signed, SignerSet, address_of, sign_digest
from cloister.core.encoding.statements import HeartBeat
from cloister.core.envelope.certificate import KeyCertificate, Seat, verify_certificate
from cloister.core.errors import CloisterError
from support.sealed import AGENT, MEMBERS, NETWORK, SIGNERS, WORKER, key, lease, make_seat, signed

SEAT = make_seat(b"\x09" * 32)
CERT = SEAT.certificate


def test_a_good_seat_verifies_until_the_block_before_its_expiry() -> None:
    SEAT.verify(SIGNERS, NETWORK, 100)
    SEAT.verify(SIGNERS, NETWORK, CERT.expiry - 1)


def test_a_certificate_with_an_earlier_expiry_than_its_lease_verifies() -> None:
    early = resign(replace(CERT, expiry=150))
    early.verify(SIGNERS, NETWORK, 100)


def resign(certificate: KeyCertificate) -> Seat:
    return replace(SEAT, certificate=certificate, signature=sign_digest(WORKER, certificate.id))


REFUSALS: dict[str, tuple[str, Callable[[], Seat], int]] = {
    "another agent than the lease": ("envelope.not_leased", lambda: resign(replace(CERT, agent=b"\1" * 32)), 100),
    "other code": ("envelope.not_leased", lambda: resign(replace(CERT, code_hash=b"\1" * 32)), 100),
    "another manifest": ("envelope.not_leased", lambda: resign(replace(CERT, manifest_hash=b"\1" * 32)), 100),
    "another cluster": ("envelope.not_leased", lambda: resign(replace(CERT, cluster=b"\1" * 32)), 100),
    "another master epoch": ("envelope.not_leased", lambda: resign(replace(CERT, master_epoch=9)), 100),
    "another cluster epoch": ("envelope.not_leased", lambda: resign(replace(CERT, cluster_epoch=9)), 100),
    "another agent epoch": ("envelope.not_leased", lambda: resign(replace(CERT, agent_epoch=9)), 100),
    "another period": ("envelope.not_leased", lambda: resign(replace(CERT, period=9)), 100),
    "another worker": ("envelope.not_leased", lambda: resign(replace(CERT, worker=b"\1" * 20)), 100),
    "another boot": ("envelope.not_leased", lambda: resign(replace(CERT, boot=b"\1" * 32)), 100),
    "a longer life than the lease": ("envelope.not_leased", lambda: resign(replace(CERT, expiry=201)), 100),
    "another network": ("envelope.wrong_network", lambda: resign(replace(CERT, network=b"\1" * 32)), 100),
    "an unknown suite": ("envelope.suite", lambda: resign(replace(CERT, suite=3)), 100),
    "its expiry reached": ("envelope.certificate_expired", lambda: SEAT, 200),
    "another HPKE key under the old signature": (
        "encoding.signature",
        lambda: replace(SEAT, certificate=replace(CERT, hpke_key=b"\1" * 32)),
        100,
    ),
    "a signature by another key": (
        "encoding.signature",
        lambda: replace(SEAT, signature=sign_digest(key(8), CERT.id)),
        100,
    ),
    "a lease signed by too few": (
        "encoding.too_few_signers",
        lambda: replace(SEAT, lease=signed(lease(), members=1)),
        100,
    ),
    "a lease with one member's signature twice": (
        "encoding.too_few_signers",
        lambda: replace(SEAT, lease=Signed(lease(), SEAT.lease.signatures[:1] * 2)),
        100,
    ),
    "another statement in the place of the lease": (
        "envelope.not_leased",
        lambda: replace(SEAT, lease=Signed(HeartBeat(1, b"\0" * 32, 5, b"\0" * 32), ())),
        100,
    ),
}


@pytest.mark.parametrize("sentence", REFUSALS)
def test_refused_with(sentence: str) -> None:
    code, make, height = REFUSALS[sentence]
    with pytest.raises(CloisterError) as caught:
        make().verify(SIGNERS, NETWORK, height)
    assert caught.value.code == code


def test_a_lease_of_another_term_is_refused() -> None:
    signers = SignerSet(term=2, threshold=2, members=tuple(address_of(k) for k in MEMBERS))
    with pytest.raises(CloisterError, match=r"encoding\.wrong_term"):
        verify_certificate(CERT, SEAT.signature, SEAT.lease, signers, NETWORK, 100)


def test_canonical_bytes_round_trip_and_name_the_certificate() -> None:
    assert KeyCertificate.decode(CERT.encoded) == CERT
    assert CERT.encoded == jcs.encode(CERT.to_json())
    assert CERT.id != replace(CERT, expiry=199).id
    assert CERT.info != replace(CERT, boot=b"\1" * 32).info


def test_the_call_identity_holds_every_version() -> None:
    identity = CERT.call_identity
    assert identity.purpose is Purpose.CALL
    assert identity.period == CERT.period
    assert (identity.version.agent, identity.version.agent_epoch) == (AGENT, 3)
    assert identity.version.network == NETWORK


def test_a_seat_round_trips_as_json() -> None:
    again = Seat.from_json(json.loads(json.dumps(SEAT.to_json())))
    assert again == SEAT


@pytest.mark.parametrize("path", [("certificate",), ("lease", "statement"), ("lease",), ()], ids=str)
def test_unknown_and_missing_fields_of_a_seat_are_refused(path: tuple[str, ...]) -> None:
    for change in ("add", "remove"):
        value: Any = json.loads(json.dumps(SEAT.to_json()))
        inner = value
        for step in path:
            inner = inner[step]
        if change == "add":
            inner["extra"] = 1
        else:
            inner.pop(sorted(inner)[0])
        with pytest.raises(CloisterError):
            Seat.from_json(value)


@pytest.mark.parametrize("field", list(CERT.to_json()))
@pytest.mark.parametrize("value", [None, True, -1, 1.5, "0x", "0xZZ", [], {}, 2**53])
def test_a_field_of_another_type_is_refused(field: str, value: object) -> None:
    with pytest.raises(CloisterError):
        KeyCertificate.from_json({**CERT.to_json(), field: value})


def test_more_signatures_than_a_committee_can_have_are_refused() -> None:
    value = SEAT.to_json()
    value["lease"]["signatures"] = ["0x" + "00" * 65] * 65
    with pytest.raises(CloisterError):
        Seat.from_json(value)


@given(st.integers(0, len(CERT.encoded) - 1), st.integers(1, 255))
def test_a_flipped_byte_never_verifies(at: int, flip: int) -> None:
    data = bytearray(CERT.encoded)
    data[at] ^= flip
    with pytest.raises(CloisterError):
        replace(SEAT, certificate=KeyCertificate.decode(bytes(data))).verify(SIGNERS, NETWORK, 100)


@given(st.binary(max_size=300) | st.text(max_size=100).map(str.encode))
def test_garbage_is_refused_by_name(data: bytes) -> None:
    with pytest.raises(CloisterError):
        KeyCertificate.decode(data)
    with pytest.raises(CloisterError):
        Seat.from_json(data)


@pytest.mark.parametrize("field", [f for f, v in CERT.to_json().items() if isinstance(v, str)])
def test_a_certificate_cannot_be_made_with_a_part_of_another_size(field: str) -> None:
    for wrong in (getattr(CERT, field)[:-1], getattr(CERT, field) + b"\0", bytearray(getattr(CERT, field)), "0x00"):
        with pytest.raises(CloisterError, match=r"encoding\.size"):
            replace(CERT, **dict[str, Any]({field: wrong}))


@pytest.mark.parametrize("field", [f for f, v in CERT.to_json().items() if isinstance(v, int)])
def test_numbers_of_a_certificate_fit_canonical_json(field: str) -> None:
    changes: dict[str, Any] = {field: 2**53 - 1}
    assert KeyCertificate.decode(replace(CERT, **changes).encoded) == replace(CERT, **changes)
    for wrong in (2**53, -1, True, 1.0):
        with pytest.raises(CloisterError):
            replace(CERT, **dict[str, Any]({field: wrong}))


def test_signatures_of_a_lease_are_a_list_of_a_committees_size_at_most() -> None:
    value = SEAT.to_json()
    good = value["lease"]["signatures"]
    for shape in (dict.fromkeys(good), "".join(good), None, 5):
        with pytest.raises(CloisterError):
            Seat.from_json({**value, "lease": {**value["lease"], "signatures": shape}})
    full = {**value, "lease": {**value["lease"], "signatures": good[:1] * 64}}
    assert len(Seat.from_json(full).lease.signatures) == 64
    with pytest.raises(CloisterError, match=r"envelope\.not_leased"):
        Seat.from_json({**value, "lease": {**value["lease"], "signatures": good[:1] * 65}})


def test_a_certificate_over_4096_bytes_is_refused_before_it_is_parsed() -> None:
    with pytest.raises(CloisterError, match=r"encoding\.not_canonical"):
        KeyCertificate.decode(b"[" * 4097)


# 1: the order of the checks. Each defect is a change to a good seat; with two, the earlier step is named.

ORDER: list[tuple[str, str, Callable[[Seat], Seat]]] = [
    ("network", "envelope.wrong_network", lambda s: sealed_by(s, replace(s.certificate, network=b"\1" * 32))),
    ("suite", "envelope.suite", lambda s: sealed_by(s, replace(s.certificate, suite=3))),
    ("lease", "envelope.not_leased", lambda s: sealed_by(s, replace(s.certificate, period=9))),
    ("expiry", "envelope.certificate_expired", lambda s: sealed_by(s, replace(s.certificate, expiry=100))),
    ("signature", "encoding.signature", lambda s: replace(s, signature=bytes(64) + b"\x1b")),
    ("quorum", "encoding.too_few_signers", lambda s: replace(s, lease=signed(lease(), members=1))),
]


def sealed_by(seat: Seat, certificate: KeyCertificate) -> Seat:
    """The seat with another certificate, signed by the worker unless the signature is broken already."""
    broken = seat.signature == bytes(64) + b"\x1b"
    signature = seat.signature if broken else sign_digest(WORKER, certificate.id)
    return replace(seat, certificate=certificate, signature=signature)


@pytest.mark.parametrize("second", range(len(ORDER)))
@pytest.mark.parametrize("first", range(len(ORDER)))
def test_of_two_defects_of_a_seat_the_earlier_is_named(first: int, second: int) -> None:
    seat = ORDER[second][2](ORDER[first][2](SEAT))
    with pytest.raises(CloisterError) as caught:
        seat.verify(SIGNERS, NETWORK, 100)
    assert caught.value.code == ORDER[min(first, second)][1]
