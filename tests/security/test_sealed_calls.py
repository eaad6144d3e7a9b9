"""The promises of the sealed call, each against the attack that it answers.

Numbers are those of the attacks on the first design: 3 certificates, 9 time, 10 replay across workers, 20 bearer
callers, 21 receipts, 25 what the gateway can do.
"""

from __future__ import annotations

import os
from dataclasses import replace

import pytest

from cloister.core.encoding.hexes import to_hex
from cloister.core.encoding.signatures import address_of, sign_digest
from cloister.core.envelope.certificate import KeyCertificate, Seat
from cloister.core.envelope.client import ClientSession, Psk
from cloister.core.envelope.model import Caller
from cloister.core.envelope.opener import Final
from cloister.core.envelope.server import ServerSessions
from cloister.core.errors import CloisterError
from cloister.core.keys import hpke
from cloister.core.receipts.commitments import request_commitment, response_commitment
from cloister.core.receipts.receipt import Exchange, ReceiptChain
from cloister.core.receipts.verify import Admission, verify_chain, verify_receipt
from support.sealed import (
    AGENT,
    MPK,
    NETWORK,
    NOW,
    SIGNERS,
    WORKER,
    World,
    answer,
    head,
    key,
    lease,
    make_seat,
    psk_open,
    signed,
)

LIAR = key(66)


# 3: a registered worker claims to serve an agent that was never leased to it


def liars_seat(own_lease: bool) -> tuple[Seat, hpke.Recipient, bytes]:
    """A certificate by a registered worker over its own HPKE key, under another worker's lease or none of its own."""
    secret = os.urandom(32)
    public = hpke.private_key(secret).public_key().public_bytes_raw()
    honest = lease()
    claimed = replace(honest, worker=address_of(LIAR), boot=b"\x99" * 32)
    certificate = KeyCertificate.under(claimed, network=NETWORK, hpke_key=public)
    statement = claimed if own_lease else honest
    seat = Seat(certificate, sign_digest(LIAR, certificate.id), signed(statement, members=0 if own_lease else 2))
    return seat, hpke.Recipient(secret, certificate.info), secret


@pytest.mark.parametrize("own_lease", [False, True], ids=["another worker's lease", "a lease that nobody signed"])
def test_3_a_certificate_without_a_lease_of_its_own_is_refused(own_lease: bool) -> None:
    seat, _, _ = liars_seat(own_lease)
    with pytest.raises(CloisterError) as caught:
        seat.verify(SIGNERS, NETWORK, 100)
    assert caught.value.code in ("envelope.not_leased", "encoding.too_few_signers")


def test_3_a_client_that_skips_the_check_still_tells_a_liar_nothing() -> None:
    seat, _, secret = liars_seat(own_lease=False)
    psk = Psk.encapsulate(seat.certificate, MPK, os.urandom)
    record = ClientSession(seat.certificate, psk, os.urandom).seal(head(), b"private").data
    liar = ServerSessions(seat.certificate.boot, os.urandom)
    liar.add(seat.certificate, secret)
    other = make_seat(b"\x09" * 32, agent=b"\x98" * 32).certificate  # an agent that was leased to the liar

    def with_another_agents_key(certificate: KeyCertificate, ciphertext: bytes) -> bytes:
        return psk_open(other, ciphertext)

    for opening in (with_another_agents_key, lambda c, i: os.urandom(32)):
        with pytest.raises(CloisterError):
            liar.open_request(AGENT, record, NOW, opening)


def test_3_the_key_of_a_period_opens_no_psk_of_the_next() -> None:
    this, following = make_seat(b"\x09" * 32), make_seat(b"\x09" * 32, period=5)
    psk = Psk.encapsulate(following.certificate, MPK, os.urandom)
    with pytest.raises(CloisterError):
        psk_open(this.certificate, psk.ciphertext)


def test_3_the_kept_key_of_an_epoch_opens_no_psk_after_the_bump() -> None:
    before, after = make_seat(b"\x09" * 32), make_seat(b"\x09" * 32, agent_epoch=4)
    psk = Psk.encapsulate(after.certificate, MPK, os.urandom)
    with pytest.raises(CloisterError):
        psk_open(before.certificate, psk.ciphertext)


# 9: the host sets the clock


@pytest.mark.parametrize("back_ms", [1, 60_000, 10**12])
def test_9_a_clock_turned_back_re_opens_no_request(back_ms: int) -> None:
    world = World()
    late = world.seal(deadline_ms=NOW + 1000).data
    world.open(world.seal(deadline_ms=NOW + 60_000).data, NOW + 2000)
    with pytest.raises(CloisterError, match=r"envelope\.deadline"):
        world.open(late, NOW + 2000 - back_ms)


def test_9_keys_end_by_height_whatever_the_clock_says() -> None:
    world = World()
    world.server.advance(world.certificate.expiry)
    for now in (0, NOW, 10**15):
        with pytest.raises(CloisterError, match=r"envelope\.certificate_unknown"):
            world.open(world.seal(deadline_ms=now + 1000).data, now)


# 10: replay across workers, and response keys


def test_10_the_gateway_cannot_take_a_request_to_a_second_worker() -> None:
    first, second = World(), World(boot=b"\x77" * 32)
    record = first.seal(b"pay once").data
    first.open(record)
    with pytest.raises(CloisterError, match=r"envelope\.wrong_boot"):
        second.open(record)
    moved = record[:6] + second.boot + second.certificate.id + record[70:]
    with pytest.raises(CloisterError, match=r"envelope\.not_authentic"):
        second.server.open_request(AGENT, moved, NOW, lambda c, i: first.psk.secret)


def test_10_failover_seals_anew_with_the_same_request_id() -> None:
    first, second = World(), World(boot=b"\x77" * 32)
    asked = head()
    one = first.client.seal(asked, b"x")
    again = second.client.seal(asked, b"x")
    assert first.open(one.data).head.request_id == second.open(again.data).head.request_id
    assert one.data[142:] != again.data[142:]


def test_10_no_response_key_is_used_twice() -> None:
    world = World()
    sealed = world.seal()
    opened = world.open(sealed.data)
    first = answer(opened, b"A" * 64)
    from cloister.core.envelope.stream import Responder

    context = world.server._sessions[sealed.data[38:134]].context
    second = Responder(context, opened.seq, bytes.fromhex(sealed.request_id[2:]), os.urandom)
    other = second.head(200, (), 1) + second.chunk(b"A" * 64)
    assert first[:32] != other[:32]
    blocks = {first[at : at + 16] for at in range(32, len(first) - 16)}
    assert not blocks & {other[at : at + 16] for at in range(32, len(other) - 16)}


def test_10_a_request_and_its_answer_never_share_a_key() -> None:
    world = World()
    sealed = world.seal(b"\0" * 64)
    stream = answer(world.open(sealed.data), b"\0" * 64)
    blocks = {sealed.data[at : at + 16] for at in range(142, len(sealed.data) - 16)}
    assert not blocks & {stream[at : at + 16] for at in range(32, len(stream) - 16)}


# 20: caller identity is no bearer token


def test_20_a_broken_worker_cannot_use_a_callers_signature_elsewhere() -> None:
    broken, honest = World(), World(boot=b"\x77" * 32)
    wallet = key(55)
    broken.client.authenticate(address_of(wallet), NOW // 1000 + 60, lambda d: sign_digest(wallet, d))
    stolen = broken.open(broken.seal().data).head.caller
    assert isinstance(stolen, Caller)
    for client in (honest.client, honest.session(one_shot=True)):
        with pytest.raises(CloisterError, match=r"envelope\.caller"):
            honest.open(client.seal(head(caller=stolen), b"").data)


def test_20_nor_in_a_second_session_with_the_same_worker() -> None:
    world = World()
    wallet = key(55)
    world.client.authenticate(address_of(wallet), NOW // 1000 + 60, lambda d: sign_digest(wallet, d))
    stolen = world.open(world.seal().data).head.caller
    with pytest.raises(CloisterError, match=r"envelope\.caller"):
        world.open(world.session().seal(head(caller=stolen), b"").data)


def test_20_an_address_without_a_signature_is_nobody() -> None:
    world = World()
    for signature in ("0x" + "00" * 65, "0x" + "ff" * 64 + "1b"):
        claimed = Caller(to_hex(address_of(key(55))), NOW // 1000 + 60, signature)
        with pytest.raises(CloisterError, match=r"envelope\.caller"):
            world.open(world.seal(caller=claimed).data)


# 21: receipts


def exchange_of(world: World, body: bytes) -> tuple[Exchange, bytes, bytes]:
    sealed = world.client.seal(head(), body)
    request = world.open(sealed.data)
    stream = request.responder.head(200, (), 100) + request.responder.chunk(b"yes")
    done = Exchange(
        bytes.fromhex(request.head.request_id[2:]),
        200,
        request.commitment(),
        request.responder.commitment(request.salt),
    )
    assert sealed.opener.feed(stream)
    return done, sealed.salt, sealed.head_bytes


def test_21_equal_texts_have_unequal_commitments_so_nobody_can_guess_them() -> None:
    world = World()
    first, second = exchange_of(world, b"yes"), exchange_of(world, b"yes")
    assert first[0].request != second[0].request
    assert first[0].response != second[0].response
    guessed = {request_commitment(bytes(32), first[2], text) for text in (b"yes", b"no")}
    assert first[0].request not in guessed


def test_21_the_caller_can_show_what_was_asked_and_answered() -> None:
    import hashlib

    world = World()
    done, salt, head_bytes = exchange_of(world, b"question")
    assert request_commitment(salt, head_bytes, b"question") == done.request
    assert response_commitment(salt, 200, (), hashlib.sha256(b"yes").digest()) == done.response


def test_21_a_worker_that_forks_its_log_is_caught_by_two_receipts() -> None:
    world = World()
    sign = lambda d: sign_digest(WORKER, d)  # noqa: E731
    log, fork = (ReceiptChain(address_of(WORKER), world.boot, sign) for _ in range(2))
    done, _, _ = exchange_of(world, b"x")

    def issue(chain: ReceiptChain, status: int) -> object:
        return chain.issue(world.certificate, replace(done, status=status), checkpoint=100, host_time_ms=NOW)[0]

    issue(log, 200)
    issue(fork, 500)
    with pytest.raises(CloisterError, match=r"receipt\.chain"):
        verify_chain([issue(log, 200), issue(fork, 200)])  # type: ignore[list-item]


def test_21_a_receipt_of_a_removed_or_restarted_worker_is_refused() -> None:
    world = World()
    done, _, _ = exchange_of(world, b"x")
    log = ReceiptChain(address_of(WORKER), world.boot, lambda d: sign_digest(WORKER, d))
    receipt, signature = log.issue(world.certificate, done, checkpoint=100, host_time_ms=NOW)
    good = Admission(address_of(WORKER), world.boot, 200)
    verify_receipt(receipt.encoded, signature, world.certificate, good, done)
    for bad in (replace(good, removed=True), replace(good, boot=b"\1" * 32), replace(good, expiry=100)):
        with pytest.raises(CloisterError, match=r"receipt\.not_admitted"):
            verify_receipt(receipt.encoded, signature, world.certificate, bad, done)


# 25: what the gateway can do


def test_25_the_gateway_cannot_swap_drop_cut_or_repeat_an_answer() -> None:
    world = World()
    mine, other = world.seal(b"mine"), world.seal(b"other")
    stream, wrong = answer(world.open(mine.data), b"right"), answer(world.open(other.data), b"wrong")
    for forged in (wrong, stream[:32] + wrong[32:], stream[:-1], stream + stream[32:], b"", stream[32:]):
        opener = replace(mine).opener.__class__(
            mine.opener._context, mine.seq, bytes.fromhex(mine.request_id[2:]), max_body=1000
        )
        with pytest.raises(CloisterError):
            opener.feed(forged)
            opener.close()
    assert isinstance(mine.opener.feed(stream)[-1], Final)


def test_25_the_gateway_cannot_answer_by_itself() -> None:
    world = World()
    sealed = world.seal()
    for made_up in (b'{"status":200}', bytes(200), os.urandom(500)):
        opener = world.session().seal(head(), b"").opener
        with pytest.raises(CloisterError):
            opener.feed(made_up)
            opener.close()
    assert not sealed.opener.done


def test_25_an_error_text_of_the_gateway_never_looks_like_a_sealed_one() -> None:
    world = World()
    sealed = world.seal()
    plain = b'{"error":{"code":"envelope.deadline","check":"","expected":"","found":"","remedy":""}}'
    with pytest.raises(CloisterError):
        sealed.opener.feed(plain)
        sealed.opener.close()
