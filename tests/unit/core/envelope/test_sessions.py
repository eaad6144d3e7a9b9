"""Client and worker together: what opens, what is refused by which name, and what nobody can do twice."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloister.core.encoding.signatures import address_of, sign_digest
from cloister.core.encoding.statements import CallerSession
from cloister.core.envelope.certificate import KeyCertificate
from cloister.core.envelope.client import ClientSession, Psk, seal_once
from cloister.core.envelope.model import Caller, encode_plaintext
from cloister.core.envelope.opener import Body, Failed, Final, Head
from cloister.core.envelope.server import MAX_DEADLINE_MS, Limits, SealedRefusalError, ServerSessions
from cloister.core.errors import CloisterError
from cloister.core.keys import hpke
from support.sealed import AGENT, MPK, NOW, World, answer, head, key, make_seat, open_fixed, psk_open

WALLET = key(55)
ADDRESS = address_of(WALLET)


def refused(world: World, record: bytes, now_ms: int = NOW, agent: bytes = AGENT) -> str:
    with pytest.raises(CloisterError) as caught:
        world.open(record, now_ms, agent)
    return caught.value.code


def test_a_call_goes_round_with_real_pairings() -> None:
    world = World(pairings=True)
    sealed = world.seal(b"question", path="/ask")
    request = world.open(sealed.data)
    assert (request.head.path, request.body, request.caller) == ("/ask", b"question", None)
    events = sealed.opener.feed(answer(request, b"words"))
    sealed.opener.close()
    assert events == [Head(200, (("content-type", "text/plain"),), 123), Body(b"words"), Final(b'{"r":1}', b"\1" * 65)]


def test_a_session_serves_many_requests_in_any_order_with_one_psk_opening() -> None:
    world, opened = World(pairings=True), []

    def counting(certificate: object, ciphertext: bytes) -> bytes:
        opened.append(ciphertext)
        return psk_open(world.certificate, ciphertext)

    requests = [world.seal(b"%d" % i) for i in range(20)]
    for sealed in reversed(requests):
        world.server.open_request(AGENT, sealed.data, NOW, counting)
    assert len(opened) == 1


def test_the_ibe_ciphertext_travels_until_a_first_answer_opened() -> None:
    world = World()
    first, second = world.seal(), world.seal()
    assert len(second.data) == len(first.data)
    second.opener.feed(answer(world.open(second.data)))
    assert world.client.confirmed
    third = world.seal()
    assert len(third.data) < len(first.data)
    assert world.open(third.data).body == b"body"
    world.client.forget()
    assert len(world.seal().data) == len(first.data)


def test_both_ends_know_the_salt_and_the_commitment_of_the_request() -> None:
    world = World()
    sealed = world.seal(b"question")
    request = world.open(sealed.data)
    assert request.salt == sealed.salt
    assert request.commitment() == sealed.commitment
    assert world.seal(b"question").salt != sealed.salt


def test_two_sessions_may_share_one_psk_which_is_opened_once() -> None:
    world, opened = World(), []

    def counting(certificate: KeyCertificate, ciphertext: bytes) -> bytes:
        opened.append(ciphertext)
        return open_fixed(certificate, ciphertext)

    for session in (world.session(), world.session(), world.session(one_shot=True)):
        world.server.open_request(AGENT, session.seal(head(), b"x").data, NOW, counting)
    assert len(opened) == 1


def test_no_session_begins_without_the_ibe_ciphertext_even_if_the_psk_is_known() -> None:
    """Such a record may be a later one of a wallet's session that the worker forgot: it would run as nobody."""
    world = World()
    world.open(world.seal().data)
    for one_shot in (False, True):
        record = world.session(one_shot=one_shot).seal(head(), b"x", with_ibe=False).data
        assert refused(world, record) == "envelope.psk_unknown"


def test_a_repeat_with_the_ibe_ciphertext_brings_the_caller_again() -> None:
    world = World(limits=Limits(sessions=1))
    signing(world)
    sent = world.seal()
    sent.opener.feed(answer(world.open(sent.data)))
    assert world.client.confirmed
    for _ in range(2):
        world.open(world.session().seal(head(), b"").data)
    later = NOW + 10 * 60_000
    world.open(world.session().seal(head(deadline_ms=later + 1), b"").data, later)
    signing_expiry = later + 1000
    bare = world.client.seal(head(deadline_ms=signing_expiry), b"x")
    assert refused(world, bare.data, later) == "envelope.psk_unknown"
    with pytest.raises(CloisterError, match=r"envelope\.caller"):  # its word has expired meanwhile: still not nobody
        world.open(world.client.seal(head(deadline_ms=signing_expiry), b"x", with_ibe=True).data, later)
    signing(world, later // 1000 + 60)
    request = world.open(world.client.seal(head(deadline_ms=signing_expiry), b"x", with_ibe=True).data, later)
    assert request.caller is not None
    assert request.caller.address == ADDRESS


def test_a_refused_record_begins_no_session_for_those_that_bring_no_caller() -> None:
    """The host lets a session be dropped and replays its first record late: refused. The next bare one is nobody's."""
    world = World(limits=Limits(sessions=1))
    signing(world)
    first = world.seal(deadline_ms=NOW + 1000)
    first.opener.feed(answer(world.open(first.data)))
    world.open(world.session().seal(head(deadline_ms=NOW + 1000), b"").data)
    later = NOW + 30_000
    bare = world.client.seal(head(deadline_ms=later + 1000), b"x")
    with pytest.raises(CloisterError, match=r"envelope\.deadline"):
        world.open(first.data, later)
    assert refused(world, bare.data, later) == "envelope.psk_unknown"
    whole = world.client.seal(head(deadline_ms=later + 1000), b"x", with_ibe=True)
    caller = world.open(whole.data, later).caller
    assert caller is not None
    assert caller.address == ADDRESS
    assert world.open(bare.data, later).caller == caller


# Replay


def test_a_replayed_request_is_refused() -> None:
    world = World()
    record = world.seal().data
    world.open(record)
    assert refused(world, record) == "envelope.replay"
    assert refused(world, record, NOW + 1000) == "envelope.replay"


def test_a_request_replayed_to_another_boot_is_refused() -> None:
    world = World()
    other = World(boot=b"\x99" * 32)
    assert refused(other, world.seal().data) == "envelope.wrong_boot"


def test_a_request_of_another_boot_with_a_forged_boot_field_does_not_open() -> None:
    world = World()
    other = World(boot=b"\x99" * 32)
    record = world.seal().data
    forged = record[:6] + other.boot + other.certificate.id + record[70:]
    with pytest.raises(CloisterError, match=r"envelope\.not_authentic"):
        other.server.open_request(AGENT, forged, NOW, lambda c, i: world.psk.secret)


def test_a_number_below_the_window_is_refused() -> None:
    world = World()
    old = world.seal().data
    for _ in range(1023):
        world.client._next += 1
    world.open(world.seal().data)
    assert refused(world, old) == "envelope.replay"


def test_a_forged_number_does_not_move_the_window() -> None:
    world = World()
    record = world.seal().data
    for seq in (5000, 2**64 - 1):
        assert refused(world, record[:134] + seq.to_bytes(8, "big") + record[142:]) == "envelope.not_authentic"
    assert world.open(record).seq == 0


def test_a_one_shot_request_is_served_once() -> None:
    world = World()
    sealed = seal_once(world.certificate, world.psk, head(), b"x", os.urandom)
    request = world.open(sealed.data)
    assert isinstance(sealed.opener.feed(answer(request))[-1], Final)
    assert refused(world, sealed.data) == "envelope.replay"


def test_a_one_shot_context_does_not_become_a_session() -> None:
    world = World()
    session = world.session(one_shot=True)
    world.open(session.seal(head(), b"x").data)
    with pytest.raises(RuntimeError):
        session.seal(head(), b"y")


def test_dropping_a_session_re_opens_nothing() -> None:
    world = World(limits=Limits(sessions=2))
    records = [world.seal().data, world.seal(deadline_ms=NOW + 60_000).data]
    for record in records:
        world.open(record)
    for _ in range(2):
        world.open(world.session().seal(head(), b"").data)
    for record in records:
        assert refused(world, record, NOW + 1) == "envelope.session_expired"
    assert refused(world, world.seal().data, NOW + 30_000) == "envelope.session_expired"
    world.server._retired.forget(NOW + 10_000_000)
    for record in records:  # forgotten now, but past its deadline
        assert refused(world, record, NOW + 10_000_000) == "envelope.deadline"


def test_a_clock_turned_back_re_opens_nothing() -> None:
    world = World()
    sealed = seal_once(world.certificate, world.psk, head(deadline_ms=NOW + 5000), b"x", os.urandom)
    world.open(sealed.data)
    later = NOW + 20 * 60 * 1000
    world.open(world.seal(deadline_ms=later + 1).data, later)
    assert refused(world, sealed.data, NOW) == "envelope.deadline"


def test_a_full_memory_of_dead_contexts_refuses_new_ones_and_serves_old_sessions() -> None:
    world = World(limits=Limits(retired=2))
    world.open(world.seal().data)
    world.open(seal_once(world.certificate, world.psk, head(), b"", os.urandom).data)
    late = seal_once(world.certificate, world.psk, head(), b"", os.urandom).data
    assert refused(world, late) == "envelope.overloaded"
    assert world.open(world.seal().data).seq == 1
    assert refused(world, world.session().seal(head(), b"").data) == "envelope.overloaded"


def test_a_client_never_seals_twice_under_one_number() -> None:
    world = World()
    assert [world.seal().seq for _ in range(5)] == [0, 1, 2, 3, 4]


def test_no_two_attempts_share_a_response_key() -> None:
    world = World()
    seen = set()
    for _ in range(50):
        stream = answer(world.open(world.seal().data))
        seen.add(stream[:32])
    assert len(seen) == 50


# Keys and PSKs


def test_an_unknown_psk_without_its_ciphertext_is_refused_by_name() -> None:
    world = World()
    assert refused(world, world.client.seal(head(), b"", with_ibe=False).data) == "envelope.psk_unknown"


def test_a_ciphertext_that_is_not_the_named_psk_is_refused_before_any_pairing() -> None:
    world = World()
    psk = replace(world.psk, id=b"\x01" * 32)
    record = ClientSession(world.certificate, psk, os.urandom).seal(head(), b"").data
    with pytest.raises(CloisterError, match=r"envelope\.psk_mismatch"):
        world.server.open_request(AGENT, record, NOW, lambda c, i: pytest.fail("opened"))


def test_a_worker_with_the_hpke_key_but_no_lease_opens_nothing() -> None:
    world = World(pairings=True)
    liar = make_seat(world.key.public_key().public_bytes_raw(), agent_epoch=4).certificate

    def wrong_key(certificate: object, ciphertext: bytes) -> bytes:
        return psk_open(liar, ciphertext)

    with pytest.raises(CloisterError):
        world.server.open_request(AGENT, world.seal().data, NOW, wrong_key)
    with pytest.raises(CloisterError, match=r"envelope\.not_authentic"):
        world.server.open_request(AGENT, world.seal().data, NOW, lambda c, i: b"g" * 32)


def test_a_psk_of_another_size_is_refused() -> None:
    world = World()
    with pytest.raises(CloisterError, match=r"envelope\.psk_mismatch"):
        world.server.open_request(AGENT, world.seal().data, NOW, lambda c, i: b"short")


def test_a_guessed_psk_is_not_remembered() -> None:
    world = World()
    with pytest.raises(CloisterError):
        world.server.open_request(AGENT, world.seal().data, NOW, lambda c, i: b"g" * 32)
    assert world.open(world.seal().data).body == b"body"


def test_a_psk_of_one_certificate_is_refused_for_another() -> None:
    one, two = World(), World()
    with pytest.raises(ValueError, match="another certificate"):
        ClientSession(one.certificate, two.psk, os.urandom)


def test_a_psk_is_bound_to_its_certificate_by_the_ciphertext() -> None:
    world = World(pairings=True)
    other = replace(world.certificate, hpke_key=b"\5" * 32)
    with pytest.raises(CloisterError):
        psk_open(other, world.psk.ciphertext)
    assert psk_open(world.certificate, world.psk.ciphertext) == world.psk.secret


def test_psks_are_capped_and_a_dropped_one_is_asked_for_again() -> None:
    world = World(limits=Limits(psks=2))
    psks = [Psk.encapsulate(world.certificate, MPK, os.urandom) for _ in range(3)]
    for psk in psks:
        session = ClientSession(world.certificate, psk, os.urandom)
        world.server.open_request(AGENT, session.seal(head(), b"").data, NOW, psk_open)
    again = ClientSession(world.certificate, psks[0], os.urandom)
    assert refused(world, again.seal(head(), b"", with_ibe=False).data) == "envelope.psk_unknown"


def test_a_request_for_another_agent_of_the_same_worker_is_refused() -> None:
    world = World()
    assert refused(world, world.seal().data, agent=b"\x23" * 32) == "envelope.certificate_unknown"


def test_erasing_a_period_ends_its_keys_sessions_and_psks() -> None:
    world = World()
    world.open(world.seal().data)
    world.server.erase(AGENT, world.certificate.period + 1)
    world.open(world.seal().data)
    world.server.erase(AGENT, world.certificate.period)
    assert refused(world, world.seal().data) == "envelope.certificate_unknown"
    assert world.server.certificates == []
    assert not world.server._sessions
    with pytest.raises(ValueError, match="has ended"):
        world.server.add(world.certificate, world.key)


def test_a_checkpoint_at_the_expiry_height_ends_the_certificate() -> None:
    world = World()
    assert world.server.advance(world.certificate.expiry - 1) == []
    world.open(world.seal().data)
    assert world.server.advance(world.certificate.expiry) == [world.certificate]
    assert refused(world, world.seal().data) == "envelope.certificate_unknown"


def test_erasing_an_agent_leaves_the_others() -> None:
    world = World()
    other = make_seat(world.key.public_key().public_bytes_raw(), agent=b"\x23" * 32).certificate
    world.server.add(other, world.key)
    world.server.erase_agent(other.agent)
    assert world.server.certificates == [world.certificate]


def test_adding_a_certificate_twice_keeps_its_sessions() -> None:
    world = World()
    record = world.seal().data
    world.open(record)
    world.server.add(world.certificate, world.key)
    assert refused(world, record) == "envelope.replay"


def test_a_certificate_of_another_boot_or_key_is_a_programming_error() -> None:
    world = World()
    server = ServerSessions(b"\x98" * 32, os.urandom)
    with pytest.raises(ValueError, match="another boot"):
        server.add(world.certificate, world.key)
    with pytest.raises(ValueError, match="another key"):
        world.server.add(world.certificate, os.urandom(32))


# Tampering, shapes, caps


def test_a_flip_in_any_region_of_the_record_is_refused() -> None:
    world = World()
    record = world.seal(b"b" * 50).data
    for at in range(len(record)):
        broken = record[:at] + bytes([record[at] ^ 0x10]) + record[at + 1 :]
        with pytest.raises(CloisterError):
            world.server.open_request(AGENT, broken, NOW, lambda c, i: b"\x77" * 32)
    assert world.open(record).body == b"b" * 50


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=300))
def test_garbage_after_a_true_header_is_refused_by_name(data: bytes) -> None:
    world = World()
    record = world.seal().data
    for broken in (record[:144] + data, data + record[len(data) :], record + data[:1] + b"x"):
        if broken != record:
            with pytest.raises(CloisterError):
                world.server.open_request(AGENT, broken, NOW, lambda c, i: b"\x77" * 32)


def test_a_body_over_the_cap_is_refused() -> None:
    world = World(limits=Limits(body=100))
    assert world.open(world.seal(b"x" * 100).data).body == b"x" * 100
    assert refused(world, world.seal(b"x" * 101).data) == "envelope.too_large"
    assert refused(world, world.seal(b"x" * 100_000).data) == "envelope.too_large"


@pytest.mark.parametrize("text", [b"", b"{}", b'{"v":1}', b"\xff\xff"])
def test_an_authentic_record_with_another_head_is_refused(text: bytes) -> None:
    world = World()
    client = world.client
    sealed = client.seal(head(), b"")
    header = sealed.data[:134] + (1).to_bytes(8, "big")
    from cloister.core.encoding.contexts import Context, frame

    body = client._context.seal_at(1, frame(Context.SEALED_REQUEST, header, AGENT), encode_plaintext(text, b""))
    assert refused(world, header + sealed.data[142 : 144 + len(world.psk.ciphertext)] + body) == "envelope.head"


# Deadlines


@pytest.mark.parametrize("ahead", [0, -1, -60_000, MAX_DEADLINE_MS + 1])
def test_a_deadline_past_or_too_far_ahead_is_refused_in_a_sealed_answer(ahead: int) -> None:
    world = World()
    sealed = world.seal(deadline_ms=NOW + ahead)
    with pytest.raises(SealedRefusalError) as caught:
        world.open(sealed.data)
    assert caught.value.code == "envelope.deadline"
    (event,) = sealed.opener.feed(caught.value.sealed)
    sealed.opener.close()
    assert isinstance(event, Failed)
    assert event.error.code == "envelope.deadline"


@pytest.mark.parametrize("ahead", [1, MAX_DEADLINE_MS])
def test_a_deadline_at_the_edges_is_served(ahead: int) -> None:
    world = World()
    assert world.open(world.seal(deadline_ms=NOW + ahead).data).body == b"body"


# Callers


def signing(world: World, expiry: int = NOW // 1000 + 60) -> None:
    world.client.authenticate(ADDRESS, expiry, lambda digest: sign_digest(WALLET, digest))


def test_a_wallet_opens_a_session_and_later_requests_inherit_it() -> None:
    world = World()
    signing(world)
    first = world.seal()
    request = world.open(first.data)
    assert request.caller is not None
    assert request.caller.address == ADDRESS
    first.opener.feed(answer(request))
    second = world.open(world.seal().data)
    assert second.head.caller is None
    assert second.caller == request.caller


def test_a_one_shot_caller_is_verified_too() -> None:
    world = World()
    session = world.session(one_shot=True)
    session.authenticate(ADDRESS, NOW // 1000 + 60, lambda digest: sign_digest(WALLET, digest))
    request = world.open(session.seal(head(), b"").data)
    assert request.caller is not None
    assert request.caller.address == ADDRESS


def test_a_callers_session_ends_at_its_expiry() -> None:
    world = World()
    signing(world, expiry=NOW // 1000 + 10)
    world.open(world.seal().data)
    late = world.seal(deadline_ms=NOW + 60_000).data
    assert refused(world, late, NOW + 10_000) == "envelope.caller"


CALLER_REFUSALS = [
    "a signature for another boot",
    "a signature over another exporter",
    "a signature for another agent",
    "another expiry than the signed one",
    "another address than the signer",
    "a signature for another network",
    "an expired signature",
    "a malformed signature",
]


@pytest.mark.parametrize("sentence", CALLER_REFUSALS)
def test_callers_refused_for(sentence: str) -> None:
    world = World()
    cert, exporter, expiry, address, network = (
        world.certificate,
        world.client.exporter,
        NOW // 1000 + 60,
        ADDRESS,
        world.certificate.network,
    )
    agent, boot, claimed = cert.agent, cert.boot, expiry
    if sentence == "a signature for another boot":
        boot = b"\1" * 32
    elif sentence == "a signature over another exporter":
        exporter = world.session().exporter
    elif sentence == "a signature for another agent":
        agent = b"\1" * 32
    elif sentence == "another expiry than the signed one":
        claimed = expiry + 1
    elif sentence == "another address than the signer":
        address = b"\2" * 20
    elif sentence == "a signature for another network":
        network = b"\1" * 32
    elif sentence == "an expired signature":
        expiry = claimed = NOW // 1000
    statement = CallerSession(agent=agent, boot=boot, exporter=exporter, expiry=expiry)
    signature = sign_digest(WALLET, statement.digest(network))
    if sentence == "a malformed signature":
        signature = signature[:64] + b"\0"
    caller = Caller("0x" + address.hex(), claimed, "0x" + signature.hex())
    sealed = world.seal(caller=caller)
    with pytest.raises(SealedRefusalError) as caught:
        world.open(sealed.data)
    assert caught.value.code == "envelope.caller"
    assert isinstance(sealed.opener.feed(caught.value.sealed)[0], Failed)
    assert world.open(world.seal().data).caller is None


@pytest.mark.parametrize(("address", "signature"), [("0x00", "0x" + "00" * 65), ("0x" + "AA" * 20, "x")])
def test_a_caller_out_of_form_is_refused(address: str, signature: str) -> None:
    world = World()
    with pytest.raises(SealedRefusalError, match=r"encoding\.hex"):
        world.open(world.seal(caller=Caller(address, 5, signature)).data)


def test_a_second_wallet_cannot_take_over_a_session() -> None:
    world = World()
    signing(world)
    world.open(world.seal().data)
    thief = key(56)
    world.client.authenticate(address_of(thief), NOW // 1000 + 60, lambda digest: sign_digest(thief, digest))
    assert refused(world, world.seal().data) == "envelope.caller"


def test_a_wallet_may_prolong_its_own_session() -> None:
    world = World()
    signing(world, NOW // 1000 + 10)
    world.open(world.seal().data)
    signing(world, NOW // 1000 + 100)
    world.open(world.seal().data)
    assert world.open(world.seal(deadline_ms=NOW + 60_000).data, NOW + 50_000).caller is not None


def test_nothing_secret_is_printed() -> None:
    world = World()
    sealed = world.seal(b"private words")
    request = world.open(sealed.data)
    for thing in (world.psk, sealed, request, world.server, world.client, request.responder, sealed.opener):
        text = repr(thing)
        assert "private words" not in text
        assert world.psk.secret.hex() not in text
        assert repr(world.psk.secret) not in text


def test_the_gateways_view_holds_no_plaintext() -> None:
    world = World()
    sealed = world.seal(b"private words", path="/secret-path")
    stream = answer(world.open(sealed.data), b"private answer")
    for word in (b"private words", b"/secret-path"):
        assert word not in sealed.data
    assert b"private answer" not in stream


def test_low_order_enc_is_refused() -> None:
    world = World()
    record = world.seal().data
    assert refused(world, record[:70] + bytes(32) + record[102:]) == "seal.hpke_key"


def test_the_worker_key_alone_does_not_open_a_record() -> None:
    world = World()
    record = world.seal().data
    context = hpke.setup_recipient(record[70:102], world.key, world.certificate.info)
    with pytest.raises(CloisterError):
        context.open_at(0, b"", record[144 + len(world.psk.ciphertext) :])


def test_open_fixed_is_the_only_psk_of_plain_worlds() -> None:
    world = World()
    assert open_fixed(world.certificate, world.psk.ciphertext) == world.psk.secret
