"""Oblivious calls, both ends: keys and what certifies them, fields and their refusals, answers, replay, callers."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cloister.core.encoding.hexes import from_hex, to_hex
from cloister.core.encoding.signatures import address_of, sign_digest
from cloister.core.envelope import bhttp, bhttp_client, oblivious, oblivious_client, ohttp, ohttp_client
from cloister.core.envelope.apikey import ApiKey
from cloister.core.envelope.bhttp import BinaryRequest, BinaryResponse
from cloister.core.envelope.certificate import KeyCertificate
from cloister.core.envelope.model import RequestHead
from cloister.core.envelope.oblivious import ObliviousKey
from cloister.core.envelope.oblivious_answer import events_of
from cloister.core.envelope.oblivious_client import ObliviousRequest, Speaker, meant_for, verify_key
from cloister.core.envelope.oblivious_door import ObliviousDoor
from cloister.core.envelope.opener import Failed
from cloister.core.envelope.server import SealedRefusalError
from cloister.core.errors import CloisterError, define
from cloister.core.errors import EnvelopeError as Family
from cloister.core.keys import hpke, idsig
from cloister.core.keys.xwing import XWingKey
from support.oblivious_kit import RECEIPT, Oblivious, answered, certificate, good, issued, told
from support.sealed import MPK, NOW, WORKER, derived, head, key

VECTORS = json.loads((Path(__file__).parents[4] / "spec/vectors/ohttp.json").read_text())
NO = define("test.oblivious_no", Family, check="may ask", remedy="do not", status=403)


def code_of(work: Callable[[], object]) -> str:
    with pytest.raises(CloisterError) as caught:
        work()
    return caught.value.code


@pytest.fixture
def world() -> Oblivious:
    return Oblivious()


# --- the key ---


def test_a_key_verifies_and_survives_json(world: Oblivious) -> None:
    read = ObliviousKey.from_json(json.loads(json.dumps(world.shown.to_json())))
    assert read == world.shown
    assert verify_key(read, world.certificate, MPK) == world.config
    assert world.config.key_id == world.certificate.period % 256
    assert world.config.public not in (world.certificate.hpke_key, bytes(32))


def test_two_keys_of_one_certificate_differ() -> None:
    """What is derived from the `call` key has 32 random bytes in it that are kept nowhere."""
    made = certificate()
    assert issued(made)[0].config != issued(made)[0].config


def resigned(shown: ObliviousKey, of: KeyCertificate, **changes: Any) -> ObliviousKey:
    """A key of other content that the worker itself signs, with the honest `call` key."""
    bare = replace(shown, **changes)
    proof = idsig.sign(derived(of), MPK, bytes(of.call_identity), bare.id, os.urandom)
    return replace(bare, signature=sign_digest(WORKER, bare.id), proof=proof)


def bad_keys(world: Oblivious) -> dict[str, tuple[ObliviousKey, str]]:
    shown, of = world.shown, world.certificate
    other = certificate(period=5)
    stolen = ohttp.KeyConfig(world.config.key_id, of.hpke_key).encode()
    number = ohttp.KeyConfig(world.config.key_id + 1, world.config.public).encode()
    weak = ohttp.KeyConfig(world.config.key_id, world.config.public, ((2, 9),)).encode()
    stranger = idsig.sign(derived(other), MPK, bytes(of.call_identity), shown.id, os.urandom)
    return {
        "of another certificate": (replace(shown, certificate=other.id), "oblivious.key"),
        "the key of sealed calls": (resigned(shown, of, config=stolen), "oblivious.key"),
        "another number": (resigned(shown, of, config=number), "oblivious.key"),
        "no algorithm that we speak": (resigned(shown, of, config=weak), "ohttp.suite"),
        "damaged": (resigned(shown, of, config=shown.config[:-1]), "ohttp.malformed"),
        "signed by another worker": (replace(shown, signature=sign_digest(key(9), shown.id)), "encoding.signer"),
        "proven by the key of another period": (replace(shown, proof=stranger), "threshold.key_signature"),
        "without a proof": (replace(shown, proof=bytes(96)), "threshold.point"),
        "with a proof of other bytes": (replace(shown, proof=issued(of)[0].proof), "threshold.key_signature"),
    }


@pytest.mark.parametrize("what", bad_keys(Oblivious()))
def test_a_key_is_refused(what: str, world: Oblivious) -> None:
    shown, code = bad_keys(world)[what]
    found = code_of(lambda: verify_key(shown, world.certificate, MPK))
    assert found == code or (code == "encoding.signer" and found.startswith("encoding."))


def test_a_worker_without_the_call_key_makes_no_key_that_a_client_takes() -> None:
    """It has the node key and a lease that t members signed, but not what the lease stands for."""
    made = certificate()
    thief = derived(certificate(agent=b"\x99" * 32))
    ((shown, _),) = oblivious.issue(made, thief, MPK, lambda d: sign_digest(WORKER, d), os.urandom)
    assert code_of(lambda: verify_key(shown, made, MPK)) == "threshold.key_signature"


@pytest.mark.parametrize("name", ["certificate", "config", "signature", "proof"])
def test_a_key_has_exactly_its_fields(name: str, world: Oblivious) -> None:
    shown = world.shown.to_json()
    for bad in (
        {**shown, name: "0x"},
        {**shown, name: 5},
        {**shown, "more": 1},
        {n: shown[n] for n in shown if n != name},
    ):
        found = code_of(lambda bad=bad: verify_key(ObliviousKey.from_json(bad), world.certificate, MPK))
        assert found.startswith(("encoding.", "ohttp.malformed"))


# --- X-Wing ---


def test_a_certificate_with_x_wing_has_two_keys_and_clients_seal_to_the_second() -> None:
    world = Oblivious(hybrid=True)
    (classic, _), (hybrid, _) = world.issued
    assert [ohttp_client.decode_config(k.config).kem for k in (classic, hybrid)] == [ohttp.KEM_X25519, ohttp.KEM_XWING]
    assert [meant_for(k, world.certificate) for k in (classic, hybrid)] == [False, True]
    assert verify_key(ObliviousKey.from_json(hybrid.to_json()), world.certificate, MPK) == world.config
    assert world.config.key_id == (world.certificate.period + 128) % 256 != classic.config[0]


def test_the_key_of_x25519_is_never_taken_where_the_certificate_has_x_wing() -> None:
    """Honest, signed and proven by the worker: what a relay would show that leaves the other one out."""
    world = Oblivious(hybrid=True)
    assert code_of(lambda: verify_key(world.issued[0][0], world.certificate, MPK)) == "oblivious.key"


def test_a_key_of_x_wing_is_not_taken_where_the_certificate_has_none(world: Oblivious) -> None:
    public = XWingKey(bytes(32)).public
    made = resigned(world.shown, world.certificate, config=ohttp.KeyConfig(world.config.key_id, public).encode())
    assert code_of(lambda: verify_key(made, world.certificate, MPK)) == "oblivious.key"
    assert not meant_for(made, world.certificate)


def test_the_x_wing_key_of_sealed_calls_and_another_number_are_refused() -> None:
    world = Oblivious(hybrid=True)
    of, number = world.certificate, world.config.key_id
    for config in (ohttp.KeyConfig(number, of.xwing_key), ohttp.KeyConfig(of.period % 256, world.config.public)):
        made = resigned(world.shown, of, config=config.encode())
        assert code_of(lambda made=made: verify_key(made, of, MPK)) == "oblivious.key"


def test_a_call_by_x_wing_arrives_once_and_its_answer_comes_back() -> None:
    world = Oblivious(hybrid=True)
    sealed = world.seal()
    assert (sealed.data[0], sealed.data[1:3]) == (world.config.key_id, b"\x64\x7a")
    request = world.open(sealed.data)
    assert (request.body, request.session_id) == (b"question", ohttp.name_of(sealed.data[7:1127]))
    assert len(request.session_id) == 32
    assert good(sealed, answered(request)).body == b"answer"
    assert code_of(lambda: world.open(sealed.data)) == "envelope.replay"


def test_no_byte_of_a_call_by_x_wing_can_be_changed() -> None:
    world = Oblivious(hybrid=True)
    data = world.seal().data
    codes = set()
    for at in [*range(8), 100, 1094, 1095, 1126, 1127, len(data) - 1]:
        changed = bytearray(data)
        changed[at] ^= 1
        codes.add(code_of(lambda changed=changed: world.open(bytes(changed))))
    assert codes <= {"ohttp.key_unknown", "ohttp.suite", "ohttp.not_authentic"}
    for cut in (data[:1126], data[:1142], data[:40], b""):
        assert code_of(lambda cut=cut: world.open(cut)) == "ohttp.malformed"
    world.open(data)


def test_who_knows_the_rfc_alone_may_still_use_the_key_of_x25519() -> None:
    """The worker serves it; which key is good enough is the client's decision."""
    world = Oblivious(hybrid=True)
    classic = ohttp_client.decode_config(world.issued[0][0].config)
    sealed = oblivious_client.seal(classic, world.certificate, head(), b"question", os.urandom)
    assert good(sealed, answered(world.open(sealed.data))).body == b"answer"


# --- a call ---


def test_a_call_arrives_whole_and_its_answer_too(world: Oblivious) -> None:
    at = head(idempotency_key="once", headers=(("content-type", "text/plain"), ("x-a", "b"), ("x-a", "c")))
    sealed = world.seal(b"question", at)
    request = world.open(sealed.data)
    assert (request.head, request.body, request.caller) == (at, b"question", None)
    assert (request.certificate, request.seq) == (world.certificate, 0)
    assert request.commitment() == sealed.commitment
    assert request.salt == sealed.salt
    answer = good(sealed, answered(request))
    assert (answer.head.status, answer.head.checkpoint, answer.body) == (200, 123, b"answer")
    assert answer.head.headers == (("content-type", "text/plain"),)
    assert (answer.final.receipt, answer.final.signature, answer.final.batch) == (RECEIPT, b"\x01" * 65, None)


def test_what_the_receipt_commits_to_is_what_both_ends_saw(world: Oblivious) -> None:
    sealed = world.seal()
    request = world.open(sealed.data)
    responder = request.responder
    responder.head(201, (("a", "b"),), 7)
    responder.chunk(b"body")
    commitment = responder.commitment(request.salt)
    assert good(sealed, responder.final(RECEIPT, bytes(65))).commitment == commitment
    assert responder.body_bytes == 4


def test_messages_are_padded_to_few_sizes(world: Oblivious) -> None:
    sizes = {len(world.seal(bytes(n)).data) for n in range(0, 400, 40)}
    assert len(sizes) <= 2
    answers = set()
    for n in range(0, 300, 40):
        answers.add(len(answered(world.open(world.seal().data), bytes(n))))
    assert len(answers) <= 2


def test_a_refusal_is_sealed_and_told_apart_from_an_answer(world: Oblivious) -> None:
    sealed = world.seal()
    request = world.open(sealed.data)
    request.responder.head(200, (), 1)
    request.responder.chunk(b"half")
    assert not request.responder.started
    found = told(sealed, request.responder.error(NO(expected="a", found="b")))
    assert isinstance(found, Failed)
    assert (found.error.code, found.error.status, found.error.found) == ("test.oblivious_no", 403, "b")
    assert request.responder.done


def test_calls_of_a_responder_go_in_order(world: Oblivious) -> None:
    responder = world.open(world.seal().data).responder
    with pytest.raises(RuntimeError):
        responder.chunk(b"")
    with pytest.raises(RuntimeError):
        responder.final(b"{}", bytes(65))
    responder.head(200, (), 1)
    with pytest.raises(RuntimeError):
        responder.head(200, (), 1)
    responder.final(RECEIPT, bytes(65))
    with pytest.raises(RuntimeError):
        responder.error(NO(expected="", found=""))


BAD_HEADS: dict[str, tuple[int, tuple[tuple[str, str], ...]]] = {
    "a header of ours": (200, (("cloister-receipt", "x"),)),
    "a header that only begins like ours": (200, (("cloister-", "x"),)),
    "an informational status": (101, ()),
}


@pytest.mark.parametrize("what", BAD_HEADS)
def test_an_agents_answer_cannot_pass_for_the_workers_word(what: str, world: Oblivious) -> None:
    sealed = world.seal()
    responder = world.open(sealed.data).responder
    status, headers = BAD_HEADS[what]
    assert code_of(lambda: responder.head(status, headers, 1)) == "oblivious.reserved_name"
    assert isinstance(told(sealed, responder.error(NO(expected="a", found="b"))), Failed)


def test_an_answer_over_the_cap_is_refused_before_it_is_held(world: Oblivious, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cloister.core.envelope.oblivious_door.MAX_ANSWER", (192 << 10) + 10)
    responder = world.open(world.seal().data).responder
    responder.head(200, (), 1)
    responder.chunk(bytes(10))
    assert code_of(lambda: responder.chunk(b"x")) == "oblivious.answer_too_large"


# --- what is refused before it opened ---


def test_numbers_two_to_four_are_hints(world: Oblivious) -> None:
    data = world.seal().data
    other = bytes([data[0] ^ 1]) + data[1:]
    assert code_of(lambda: world.open(other)) == "ohttp.key_unknown"
    assert code_of(lambda: world.door.open_request(data, NOW, [])) == "ohttp.key_unknown"
    assert code_of(lambda: world.open(data[:-1] + bytes([data[-1] ^ 1]))) == "ohttp.not_authentic"
    assert code_of(lambda: world.open(data[:20])) == "ohttp.malformed"
    world.open(data)
    assert code_of(lambda: world.open(data)) == "envelope.replay"


def test_a_request_over_the_cap_is_refused_unread() -> None:
    world = Oblivious(max_body=100)
    assert code_of(lambda: world.open(bytes(oblivious.max_request(100) + 1))) == "ohttp.too_large"
    assert world.inside(replace(world.message(), content=bytes(101))) == "bhttp.too_large"


def test_of_two_leases_with_one_number_the_right_one_opens() -> None:
    """Of another term in the same period, or of a second version beside the first."""
    first, second = Oblivious(), Oblivious()
    both = first.held + second.held
    for world in (first, second):
        assert first.door.open_request(world.seal().data, NOW, both).certificate == world.certificate
    assert code_of(lambda: first.door.open_request(Oblivious().seal().data, NOW, both)) == "ohttp.not_authentic"


def test_when_the_memory_is_full_nothing_new_is_taken(world: Oblivious) -> None:
    world.door = ObliviousDoor(os.urandom, remembered=4)
    for _ in range(2):
        world.open(world.seal().data)
    assert code_of(lambda: world.open(world.seal().data)) == "envelope.overloaded"
    later = world.seal(deadline_ms=NOW + 200_000)
    world.open(later.data, NOW + 100_000)  # the first two deadlines are over


# --- the fields ---


def changed(message: BinaryRequest, name: str, value: str | None) -> BinaryRequest:
    """The message with another value of a field, or without it."""
    pairs = [(n, v) for n, v in message.headers if n != name]
    return replace(message, headers=(*pairs, *(() if value is None else ((name, value),))))


OTHER = "0x" + "99" * 32
WRONG_FIELDS = {
    "cloister-boot": (OTHER, "oblivious.boot"),
    "cloister-epochs": ("1/2/4", "oblivious.epochs"),
    "cloister-period": ("5", "oblivious.period"),
    "cloister-code": (OTHER, "oblivious.code"),
    "cloister-certificate": (OTHER, "oblivious.certificate"),
    "cloister-request": ("0x12", "envelope.head"),
    "cloister-deadline": (str(NOW - 1), "envelope.deadline"),
}


@pytest.mark.parametrize("name", WRONG_FIELDS)
def test_a_request_for_something_else_is_refused_by_its_field(name: str, world: Oblivious) -> None:
    value, code = WRONG_FIELDS[name]
    message = world.message()
    assert world.inside(changed(message, name, value)) == code
    assert world.inside(changed(message, name, None)) == "oblivious.field"
    twice = replace(message, headers=(*message.headers, (name, dict(message.headers)[name])))
    assert world.inside(twice) == "oblivious.field"
    assert world.inside(message) == ""


CHANGES: dict[str, tuple[Callable[[BinaryRequest], BinaryRequest], str]] = {
    "another agent": (lambda m: replace(m, authority=OTHER), "oblivious.agent"),
    "another spelling of the agent": (lambda m: replace(m, authority=m.authority.upper()), "oblivious.agent"),
    "another scheme": (lambda m: replace(m, scheme="http"), "oblivious.agent"),
    "a field that nobody defined": (lambda m: changed(m, "cloister-more", "1"), "oblivious.field"),
    "a trailer": (lambda m: replace(m, trailers=(("a", "b"),)), "oblivious.field"),
    "a path that is none": (lambda m: replace(m, path="*"), "envelope.head"),
    "a deadline with a sign": (lambda m: changed(m, "cloister-deadline", f"+{NOW + 1}"), "oblivious.field"),
    "a deadline with a zero before it": (lambda m: changed(m, "cloister-deadline", f"0{NOW + 1}"), "oblivious.field"),
    "a deadline in other digits": (lambda m: changed(m, "cloister-deadline", "\xb2"), "oblivious.field"),
    "a deadline too far ahead": (lambda m: changed(m, "cloister-deadline", str(NOW + 600_001)), "envelope.deadline"),
    "an idempotency key of no length": (lambda m: changed(m, "cloister-idempotency-key", ""), "envelope.head"),
    "a caller that is no JSON": (lambda m: changed(m, "cloister-caller", "x"), "envelope.head"),
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_message_is_refused_with(what: str, world: Oblivious) -> None:
    change, code = CHANGES[what]
    assert world.inside(change(world.message())) == code


def test_what_is_no_message_is_refused_sealed(world: Oblivious) -> None:
    assert world.inside(b"") == "bhttp.malformed"
    assert world.inside(b"\x01\x40\xc8") == "bhttp.malformed"
    assert world.inside(bhttp_client.encode_request(world.message()) + b"\x01") == "bhttp.malformed"


def test_a_message_of_indeterminate_length_is_taken_too(world: Oblivious) -> None:
    message = world.message()
    text = bhttp_client.encode_request(message, indeterminate=True)
    request = world.open(ohttp_client.encapsulate(world.config, text, os.urandom)[0])
    assert request.body == b"question"
    assert request.head_bytes == bhttp_client.encode_request_head(message, indeterminate=True)


def test_the_agent_sees_its_own_headers_alone(world: Oblivious) -> None:
    request = world.open(world.seal(headers=(("x-mine", "1"),)).data)
    assert request.head.headers == (("x-mine", "1"),)


def test_a_client_cannot_send_a_header_of_ours(world: Oblivious) -> None:
    assert code_of(lambda: world.seal(headers=(("cloister-boot", OTHER),))) == "oblivious.field"


# --- replay ---


def test_a_request_id_comes_once_even_in_new_clothes(world: Oblivious) -> None:
    at = head()
    world.open(world.seal(b"x", at).data)
    sealed = world.seal(b"x", at)
    with pytest.raises(SealedRefusalError) as caught:
        world.open(sealed.data)
    found = told(sealed, caught.value.sealed)
    assert isinstance(found, Failed)
    assert found.error.code == "oblivious.repeated"


def test_a_deadline_too_far_ahead_does_not_use_a_request_up(world: Oblivious) -> None:
    sealed = world.seal(deadline_ms=NOW + 700_000)
    assert code_of(lambda: world.open(sealed.data)) == "envelope.deadline"
    world.open(sealed.data, NOW + 200_000)
    assert code_of(lambda: world.open(sealed.data, NOW + 200_001)) == "envelope.replay"


def test_a_clock_turned_back_opens_nothing_again(world: Oblivious) -> None:
    sealed = world.seal()
    world.open(sealed.data)
    late = world.seal(deadline_ms=NOW + 500_000)
    world.open(late.data, NOW + 60_000)  # the first one is forgotten
    assert code_of(lambda: world.open(sealed.data, NOW)) == "envelope.deadline"


# --- callers ---


def speaking(who: Any, expiry: int = NOW // 1000 + 60, kind: Any = "wallet") -> Speaker:
    return Speaker(who[0], expiry, who[1], None, kind)


ALICE = (address_of(key(50)), lambda d: sign_digest(key(50), d))


def test_a_wallet_signs_for_this_very_request(world: Oblivious) -> None:
    sealed = oblivious_client.seal(world.config, world.certificate, head(), b"", os.urandom, speaking(ALICE))
    request = world.open(sealed.data)
    assert request.caller is not None
    assert (request.caller.address, request.caller.kind) == (ALICE[0], "wallet")


def test_an_api_keys_word_is_handed_on_to_who_can_verify_it(world: Oblivious) -> None:
    secret = ApiKey(bytes(range(32)))
    sealed = oblivious_client.seal(
        world.config, world.certificate, head(), b"", os.urandom, speaking((secret.address, secret.sign), kind="apikey")
    )
    request = world.open(sealed.data)
    assert request.caller is not None
    assert request.caller.claim is not None
    assert secret.sign(request.caller.claim.digest) == request.caller.claim.word


def test_a_word_for_one_request_is_none_for_another(world: Oblivious) -> None:
    """The signature is over what this exchange alone exports."""
    _, first = ohttp_client.encapsulate(world.config, b"", os.urandom)
    word = speaking(ALICE).caller(world.certificate, first.context)
    message = world.seal(at=head(caller=word))
    assert code_of(lambda: world.open(message.data)) == "envelope.caller"


def test_a_word_that_has_expired_is_none(world: Oblivious) -> None:
    sealed = oblivious_client.seal(
        world.config, world.certificate, head(), b"", os.urandom, speaking(ALICE, NOW // 1000 - 1)
    )
    assert code_of(lambda: world.open(sealed.data)) == "envelope.caller"


# --- answers that a broken worker could make ---

FINAL = '{"receipt":{},"signature":"0x' + "00" * 65 + '"}'
HEADERS = (("cloister-checkpoint", "5"), ("a", "b"))
TRAILER = (("cloister-receipt", FINAL),)
FAILURE = b'{"status":403,"error":{"code":"test.oblivious_no"}}'
BAD_ANSWERS: dict[str, tuple[BinaryResponse, str]] = {
    "no receipt": (BinaryResponse(200, HEADERS, b""), "oblivious.answer"),
    "no checkpoint": (BinaryResponse(200, (), b"", TRAILER), "oblivious.answer"),
    "two receipts": (BinaryResponse(200, HEADERS, b"", TRAILER * 2), "oblivious.answer"),
    "two checkpoints": (BinaryResponse(200, HEADERS[:1] * 2, b"", TRAILER), "oblivious.answer"),
    "a field of ours that nobody defined": (
        BinaryResponse(200, (*HEADERS, ("cloister-x", "")), b"", TRAILER),
        "oblivious.answer",
    ),
    "another trailer": (BinaryResponse(200, HEADERS, b"", (*TRAILER, ("t", "u"))), "oblivious.answer"),
    "a checkpoint that is no number": (
        BinaryResponse(200, (("cloister-checkpoint", "x"),), b"", TRAILER),
        "oblivious.field",
    ),
    "a receipt that is no JSON": (BinaryResponse(200, HEADERS, b"", (("cloister-receipt", "{"),)), "envelope.head"),
    "a refusal that is no JSON": (BinaryResponse(403, (("cloister-refusal", "a.b"),), b"no"), "envelope.head"),
    "a refusal that says two codes": (BinaryResponse(403, (("cloister-refusal", "a.b"),), FAILURE), "oblivious.answer"),
    "a refusal with a good status": (
        BinaryResponse(403, (("cloister-refusal", "test.oblivious_no"),), FAILURE.replace(b"403", b"200")),
        "oblivious.answer",
    ),
}


@pytest.mark.parametrize("what", BAD_ANSWERS)
def test_an_answer_is_not_believed_with(what: str) -> None:
    response, code = BAD_ANSWERS[what]
    assert code_of(lambda: events_of(response)) == code


# --- known answers ---


def test_the_vectors_are_reproduced() -> None:
    said = VECTORS["call"]
    of = KeyCertificate.decode(said["certificate"].encode())
    shown = ObliviousKey.from_json(said["key"])
    config = verify_key(shown, of, from_hex(said["mpk"]))
    assert to_hex(ohttp.encode_configs((config,))) == said["ohttp_keys"]
    at = said["head"]
    made = RequestHead(
        request_id=at["id"],
        method=at["m"],
        path=at["p"],
        headers=tuple((n, v) for n, v in at["h"]),
        deadline_ms=at["d"],
        idempotency_key=at["idem"],
    )
    sealed = oblivious_client.seal(
        config, of, made, from_hex(said["body"]), lambda size: from_hex(said["client_random"])
    )
    assert to_hex(sealed.data) == said["encapsulated_request"]
    assert to_hex(sealed.commitment) == said["request_commitment"]
    answer = good(sealed, from_hex(said["encapsulated_response"]))
    assert (answer.head.status, answer.head.checkpoint, to_hex(answer.body)) == (200, 123, said["answer"])
    assert answer.final.receipt.decode() == said["receipt"]
    assert to_hex(answer.commitment) == said["response_commitment"]
    again = oblivious_client.seal(
        config, of, made, from_hex(said["body"]), lambda size: from_hex(said["client_random"])
    )
    refused = told(again, from_hex(said["encapsulated_refusal"]))
    assert isinstance(refused, Failed)
    assert refused.error.code == said["refusal"]


def test_the_binary_messages_of_the_vectors_are_reproduced() -> None:
    said = VECTORS["bhttp"]
    for name in ("request", "request_indeterminate"):
        asked = bhttp.decode_request(from_hex(said[name]), max_content=100)
        fields = said["request_fields"]
        assert (asked.method, asked.path, to_hex(asked.content)) == (
            fields["method"],
            fields["path"],
            fields["content"],
        )
        assert [list(p) for p in asked.headers] == fields["headers"]
        again = bhttp_client.encode_request(asked, indeterminate="_" in name, size=len(from_hex(said[name])))
        assert to_hex(again) == said[name]
    for name in ("response", "response_indeterminate"):
        told = bhttp_client.decode_response(from_hex(said[name]), max_content=100)
        assert told.status == said["response_fields"]["status"]
        again = bhttp.encode_response(told, indeterminate="_" in name, size=len(from_hex(said[name])))
        assert to_hex(again) == said[name]


def test_nothing_secret_is_in_a_repr(world: Oblivious) -> None:
    sealed = world.seal(b"private")
    shown = repr([sealed, world.recipient, world.shown, world.open(sealed.data)])
    assert "private" not in shown
    assert isinstance(sealed, ObliviousRequest)
    assert hpke.KEY_SIZE == 32
