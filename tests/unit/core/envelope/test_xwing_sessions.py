"""Sealed sessions under X-Wing: the same rules, nothing to be had by altering the suite (spec/sealed-http.md 14)."""

from __future__ import annotations

import hashlib
import os
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloister.core.encoding.signatures import sign_digest
from cloister.core.envelope.certificate import KeyCertificate, Seat, verify_certificate
from cloister.core.envelope.client import ClientSession, seal_once
from cloister.core.envelope.model import FLAG_XWING, HEADER, XWING_ENC, decode_record
from cloister.core.envelope.opener import Body
from cloister.core.envelope.server import ServerSessions
from cloister.core.errors import CloisterError
from cloister.core.keys import hpke
from cloister.core.keys.xwing import XWingKey
from support.sealed import (
    AGENT,
    BOOT,
    NETWORK,
    NOW,
    SIGNERS,
    WORKER,
    World,
    answer,
    fixed_psk,
    head,
    lease,
    open_fixed,
    signed,
)

PART = HEADER.size + 2  # where the IBE part begins


class Hybrid(World):
    """A worker whose certificate has keys of both suites."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.xwing = XWingKey(os.urandom(32))
        self.certificate = certificate(self.key.public_key().public_bytes_raw(), self.xwing.public)
        self.server = ServerSessions(BOOT, os.urandom)
        self.server.add(self.certificate, self.key, self.xwing)
        self.psk = fixed_psk(self.certificate)
        self.client = self.session()


def certificate(hpke_key: bytes, xwing_key: bytes) -> KeyCertificate:
    return KeyCertificate.under(lease(), network=NETWORK, hpke_key=hpke_key, xwing_key=xwing_key)


def refused(world: World, record: bytes) -> str:
    with pytest.raises(CloisterError) as caught:
        world.open(record)
    return caught.value.code


def test_a_session_uses_x_wing_where_the_certificate_has_it() -> None:
    world = Hybrid()
    sealed = world.seal(b"question")
    record = decode_record(sealed.data, max_size=1 << 20)
    assert record.xwing
    assert len(record.kem) == XWING_ENC
    assert record.enc == hashlib.sha256(record.kem).digest()
    request = world.open(sealed.data)
    assert request.body == b"question"
    assert Body(b"answer") in sealed.opener.feed(answer(request))
    sealed.opener.close()


def test_later_records_do_not_carry_the_encapsulation() -> None:
    world = Hybrid()
    first = world.seal()
    first.opener.feed(answer(world.open(first.data)))
    later = world.seal()
    assert len(first.data) - len(later.data) == XWING_ENC + len(world.psk.ciphertext)
    assert world.open(later.data).body == b"body"


def test_a_one_shot_request_uses_x_wing_and_is_served_once() -> None:
    world = Hybrid()
    once = seal_once(world.certificate, world.psk, head(), b"once", os.urandom)
    assert world.open(once.data).body == b"once"
    assert refused(world, once.data) == "envelope.replay"


def test_a_client_may_choose_the_other_suite() -> None:
    world = Hybrid()
    session = ClientSession(world.certificate, world.psk, os.urandom, xwing=False)
    assert world.open(session.seal(head(), b"classic").data).body == b"classic"


def test_both_suites_bind_the_caller_and_the_salts_of_their_own_context() -> None:
    world = Hybrid()
    classic = ClientSession(world.certificate, world.psk, os.urandom, xwing=False)
    assert classic.exporter != world.client.exporter
    assert classic.seal(head(), b"").salt != world.client.seal(head(), b"").salt


# --- what altering comes to ---


def flipped(record: bytes, at: int) -> bytes:
    changed = bytearray(record)
    changed[at] ^= 1
    return bytes(changed)


@pytest.mark.parametrize(
    ("field", "at", "code"),
    [
        ("boot", 6, "envelope.wrong_boot"),
        ("certificate id", 38, "envelope.certificate_unknown"),
        ("enc", 70, "envelope.enc_mismatch"),
        ("psk id", 102, "envelope.psk_mismatch"),
        ("seq", 141, "envelope.not_authentic"),
        ("the encapsulation's first byte", PART, "envelope.enc_mismatch"),
        ("the encapsulation's last byte", PART + XWING_ENC - 1, "envelope.enc_mismatch"),
        ("the IBE ciphertext", PART + XWING_ENC, "envelope.psk_mismatch"),
        ("the ciphertext", -1, "envelope.not_authentic"),
    ],
)
def test_every_flipped_field_has_its_refusal(field: str, at: int, code: str) -> None:
    world = Hybrid()
    record = world.seal().data
    assert refused(world, flipped(record, at)) == code, field
    assert world.open(record).body == b"body", "nothing was used up"


def test_an_encapsulation_and_its_hash_exchanged_together_open_nothing() -> None:
    world = Hybrid()
    record = bytearray(world.seal().data)
    enc, _ = hpke.setup_sender(world.xwing.public, b"", rng=os.urandom)
    record[PART : PART + XWING_ENC] = enc
    record[70:102] = hashlib.sha256(enc).digest()
    assert refused(world, bytes(record)) == "envelope.not_authentic"


@pytest.mark.parametrize("with_ibe", [True, False])
def test_taking_the_suite_out_of_the_flags_opens_nothing(with_ibe: bool) -> None:
    world = Hybrid()
    if not with_ibe:
        world.open(world.seal().data)
    record = world.client.seal(head(), b"x", with_ibe=with_ibe).data
    classic = record[:5] + bytes([record[5] & ~FLAG_XWING]) + record[6:]
    assert refused(world, classic) in ("envelope.psk_mismatch", "envelope.not_authentic")


def test_putting_the_suite_into_the_flags_opens_nothing() -> None:
    world = Hybrid()
    session = ClientSession(world.certificate, world.psk, os.urandom, xwing=False)
    record = session.seal(head(), b"x").data
    hybrid = record[:5] + bytes([record[5] | FLAG_XWING]) + record[6:]
    assert refused(world, hybrid) == "envelope.malformed", "the IBE part is shorter than an encapsulation"


def test_a_certificate_without_the_key_serves_no_x_wing() -> None:
    world, hybrid = World(), Hybrid()
    record = bytearray(hybrid.seal().data)
    record[38:70] = world.certificate.id
    assert refused(world, bytes(record)) == "envelope.suite"


@pytest.mark.parametrize("flags", [4, 5, 7, 255])
def test_flags_that_nobody_knows_are_refused(flags: int) -> None:
    world = Hybrid()
    record = world.seal().data
    assert refused(world, record[:5] + bytes([flags]) + record[6:]) == "envelope.malformed"


@settings(max_examples=60, deadline=None)
@given(size=st.integers(min_value=0, max_value=1500))
def test_a_truncated_record_is_refused(size: int) -> None:
    world = Hybrid()
    record = world.seal().data
    assert refused(world, record[: min(size, len(record) - 1)]) in (
        "envelope.malformed",
        "envelope.enc_mismatch",
        "envelope.psk_mismatch",
        "envelope.not_authentic",
    )


# --- negotiation ---


def test_nobody_between_can_take_the_key_out_of_a_certificate() -> None:
    """The worker signs both keys in one certificate: there is no second one to show instead."""
    world = Hybrid()
    signature = world.certificate.sign(lambda d: sign_digest(WORKER, d))
    stripped = replace(world.certificate, suite=1, xwing_key=b"")
    verify_certificate(world.certificate, signature, signed(lease()), SIGNERS, NETWORK, 100)
    with pytest.raises(CloisterError, match=r"encoding\.signature"):
        verify_certificate(stripped, signature, signed(lease()), SIGNERS, NETWORK, 100)


def test_a_certificate_with_both_keys_reads_back() -> None:
    world = Hybrid()
    made = world.certificate
    assert KeyCertificate.decode(made.encoded) == made
    seat = Seat(made, made.sign(lambda d: sign_digest(WORKER, d)), signed(lease()))
    assert Seat.from_json(seat.to_json()) == seat
    assert made.to_json()["suite"] == 2
    assert "xwing_key" not in replace(made, suite=1, xwing_key=b"").to_json()


@pytest.mark.parametrize(
    ("why", "change"),
    [
        ("suite 2 without its key", lambda v: v.pop("xwing_key")),
        ("suite 1 with the key", lambda v: v.update(suite=1)),
        ("a key of another size", lambda v: v.update(xwing_key=v["xwing_key"][:-2])),
        ("suite as a text", lambda v: v.update(suite="2")),
        ("suite as true", lambda v: v.update(suite=True)),
        ("suite as a fraction", lambda v: v.update(suite=2.0)),
        ("an unknown suite with the key", lambda v: v.update(suite=3)),
    ],
)
def test_a_certificate_out_of_form_is_refused(why: str, change: object) -> None:
    value = Hybrid().certificate.to_json()
    change(value)  # type: ignore[operator]
    with pytest.raises(CloisterError) as caught:
        KeyCertificate.from_json(value)
    assert caught.value.code.startswith("encoding."), why


def test_keys_that_are_not_the_certificates_are_our_mistake() -> None:
    world = Hybrid()
    server = ServerSessions(BOOT, os.urandom)
    for key in (None, XWingKey(os.urandom(32))):
        with pytest.raises(ValueError, match="X-Wing"):
            server.add(world.certificate, world.key, key)
    with pytest.raises(ValueError, match="X-Wing"):
        server.add(replace(world.certificate, suite=1, xwing_key=b""), world.key, world.xwing)


def test_the_session_is_dropped_with_its_certificate() -> None:
    world = Hybrid()
    record = world.seal().data
    world.server.erase(AGENT, world.certificate.period)
    assert refused(world, record) == "envelope.certificate_unknown"


def test_the_psk_is_asked_for_once_for_both_suites() -> None:
    world, seen = Hybrid(), []

    def counting(cert: KeyCertificate, ciphertext: bytes) -> bytes:
        seen.append(ciphertext)
        return open_fixed(cert, ciphertext)

    for xwing in (True, False):
        session = ClientSession(world.certificate, world.psk, os.urandom, xwing=xwing)
        world.server.open_request(AGENT, session.seal(head(), b"").data, NOW, counting)
    assert len(seen) == 1
