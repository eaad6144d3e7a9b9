"""Oblivious answers in chunks: what a worker makes, what a client takes apart, and every way it can be wrong."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloister.core.encoding.hexes import from_hex, to_hex
from cloister.core.envelope import bhttp, oblivious_client, ohttp_client
from cloister.core.envelope.bhttp import BinaryResponse, encode_response, encode_response_head, section, sized
from cloister.core.envelope.certificate import KeyCertificate
from cloister.core.envelope.model import RequestHead
from cloister.core.envelope.oblivious import ObliviousKey
from cloister.core.envelope.oblivious_answer import StreamOpener
from cloister.core.envelope.oblivious_client import ObliviousRequest
from cloister.core.envelope.ohttp import Exchange
from cloister.core.envelope.ohttp_chunks import CHUNK, ChunkSealer
from cloister.core.envelope.opener import Body, Failed, Head
from cloister.core.envelope.server import OpenRequest
from cloister.core.errors import CloisterError, EnvelopeError, define
from support.oblivious_kit import RECEIPT, Oblivious, answered, good, told
from support.sealed import NOW, head

SAID = json.loads((Path(__file__).parents[4] / "spec/vectors/ohttp.json").read_text())["chunked"]
NO = define("test.stream_no", EnvelopeError, check="may ask", remedy="do not", status=403)
HEADERS = (("content-type", "text/event-stream"), ("x-a", "b"))


def code_of(work: Callable[[], object]) -> str:
    with pytest.raises(CloisterError) as caught:
        work()
    return caught.value.code


@pytest.fixture(scope="module", params=["X25519", "X-Wing"])
def world(request: pytest.FixtureRequest) -> Oblivious:
    return Oblivious(chunked=True, hybrid=request.param == "X-Wing")


@pytest.fixture(scope="module")
def classic() -> Oblivious:
    return Oblivious(chunked=True)


def asked(world: Oblivious) -> tuple[ObliviousRequest, OpenRequest]:
    sealed = world.seal()
    return sealed, world.open(sealed.data)


# --- a good answer ---


def test_an_answer_leaves_as_it_is_made_and_arrives_in_its_pieces(world: Oblivious) -> None:
    sealed, request = asked(world)
    assert (request.body, request.commitment(), request.salt) == (b"question", sealed.commitment, sealed.salt)
    responder, opener = request.responder, sealed.opener
    assert not responder.started
    first = opener.feed(responder.head(200, HEADERS, 123))
    assert first == [Head(200, HEADERS, 123)]
    assert responder.started
    assert opener.feed(responder.chunk(b"one")) == [Body(b"one")]
    assert opener.feed(responder.chunk(b"")) == []
    assert opener.feed(responder.chunk(b"two")) == [Body(b"two")]
    commitment = responder.commitment(request.salt)
    assert opener.feed(responder.final(RECEIPT, b"\1" * 65)) == []
    (final,) = opener.close()
    assert final.receipt == RECEIPT  # type: ignore[union-attr]
    assert opener.commitment(sealed.salt) == commitment
    assert (responder.done, responder.body_bytes) == (True, 6)


def test_both_forms_of_an_answer_are_committed_to_alike(classic: Oblivious) -> None:
    """A receipt does not depend on how its answer travelled: only on what was said."""
    salt = bytes(32)
    commitments = []
    for chunked in (False, True):
        world = Oblivious(chunked=chunked)
        responder = world.open(world.seal().data).responder
        responder.head(201, HEADERS, 5)
        responder.chunk(b"some")
        commitments.append(responder.commitment(salt))
    assert commitments[0] == commitments[1]


@settings(max_examples=10, deadline=None)
@given(st.binary(max_size=2000), st.integers(7, 900))
def test_an_answer_is_whole_however_it_arrives(body: bytes, step: int) -> None:
    sealed, request = asked(CLASSIC)
    found = told(sealed, answered(request, body), step)
    assert not isinstance(found, Failed)
    assert (found.body, found.head.checkpoint, found.final.receipt) == (body, 123, RECEIPT)


def test_a_long_piece_is_cut_into_chunks_that_every_reader_takes(classic: Oblivious) -> None:
    sealed, request = asked(classic)
    body = os.urandom(3 * CHUNK)
    found = good(sealed, answered(request, body))
    assert found.body == body
    assert len(found.pieces) == 5  # the first three bytes are a piece of their own
    assert max(len(bhttp.sized(piece)) for piece in found.pieces) <= CHUNK


@pytest.mark.long
def test_an_answer_may_be_longer_than_one_message_may(classic: Oblivious) -> None:
    sealed, request = asked(classic)
    responder = request.responder
    data, piece = responder.head(200, (), 1), bytes(1 << 20)
    for _ in range(17):
        data += responder.chunk(piece)
    found = good(sealed, data + responder.final(RECEIPT, bytes(65)))
    assert len(found.body) == 17 << 20


def test_the_end_is_padded_to_few_sizes(classic: Oblivious) -> None:
    ends = set()
    for size in range(2, 200, 40):
        responder = classic.open(classic.seal().data).responder
        responder.head(200, (), 1)
        ends.add(len(responder.final(b'"' + b"x" * size + b'"', bytes(65))))
    assert len(ends) <= 2


def test_an_answer_without_a_body_is_one(classic: Oblivious) -> None:
    sealed, request = asked(classic)
    responder = request.responder
    assert good(sealed, responder.head(204, (), 9) + responder.final(RECEIPT, bytes(65))).pieces == ()


# --- refusals ---


def test_a_refusal_before_the_head_is_one_final_chunk(world: Oblivious) -> None:
    sealed, request = asked(world)
    data = request.responder.error(NO(expected="é", found="b"))
    found = told(sealed, data)
    assert isinstance(found, Failed)
    assert (found.error.code, found.error.status, found.error.expected) == ("test.stream_no", 403, "é")
    assert code_of(lambda: sealed.opener.commitment(sealed.salt)) == "oblivious.answer"


def test_a_failure_after_the_head_ends_the_answer_without_a_receipt(world: Oblivious) -> None:
    sealed, request = asked(world)
    responder = request.responder
    data = responder.head(200, (), 1) + responder.chunk(b"half")
    found = told(sealed, data + responder.error(NO(expected="é", found='"b"')))
    assert isinstance(found, Failed)
    assert (found.error.code, found.error.status) == ("test.stream_no", 403)
    assert (found.error.expected, found.error.found) == ("é", '"b"')


def test_calls_of_a_responder_go_in_order(classic: Oblivious) -> None:
    responder = classic.open(classic.seal().data).responder
    for early in (lambda: responder.chunk(b""), lambda: responder.final(b"{}", bytes(65))):
        with pytest.raises(RuntimeError):
            early()
    responder.head(200, (), 1)
    with pytest.raises(RuntimeError):
        responder.head(200, (), 1)
    responder.final(RECEIPT, bytes(65))
    for late in (lambda: responder.chunk(b""), lambda: responder.error(NO(expected="", found=""))):
        with pytest.raises(RuntimeError):
            late()


@pytest.mark.parametrize("name", ["cloister-receipt", "cloister-", "cloister-failure"])
def test_an_agents_header_cannot_pass_for_ours_and_the_refusal_still_goes_out(name: str, classic: Oblivious) -> None:
    sealed, request = asked(classic)
    responder = request.responder
    assert code_of(lambda: responder.head(200, ((name, "x"),), 1)) == "oblivious.reserved_name"
    assert not responder.started
    assert isinstance(told(sealed, responder.error(NO(expected="a", found="b"))), Failed)


SEALED_REFUSALS = {
    "another boot": {"cloister-boot": "0x" + "00" * 32},
    "another certificate": {"cloister-certificate": "0x" + "00" * 32},
}


@pytest.mark.parametrize("what", SEALED_REFUSALS)
def test_a_request_in_chunks_is_held_to_the_same_fields(what: str, classic: Oblivious) -> None:
    changes = SEALED_REFUSALS[what]
    message = classic.message()
    headers = tuple((name, changes.get(name, value)) for name, value in message.headers)
    asked = bhttp.BinaryRequest(message.method, message.scheme, message.authority, message.path, headers, b"question")
    assert classic.inside(asked) == f"oblivious.{what.split()[1]}"


def test_a_request_is_seen_once_in_either_form() -> None:
    """One memory for both: the same encapsulation, and the same request id, come once."""
    world = Oblivious(chunked=True)
    sealed = world.seal(at=head())
    world.open(sealed.data)
    assert code_of(lambda: world.open(sealed.data)) == "envelope.replay"
    held = world.held
    assert code_of(lambda: world.door.open_request(sealed.data, NOW, held)) == "envelope.replay"


def test_who_changes_the_content_type_gets_no_answer(classic: Oblivious) -> None:
    sealed = classic.seal()
    assert code_of(lambda: classic.door.open_request(sealed.data, NOW, classic.held)) == "ohttp.not_authentic"
    assert isinstance(classic.open(sealed.data), OpenRequest), "and has used nothing up"


# --- answers that a broken worker could make ---

LEAD = encode_response_head(200, (("cloister-checkpoint", "5"),))
FINAL = (("cloister-receipt", '{"receipt":{},"signature":"0x' + "00" * 65 + '"}'),)
END = b"\0" + section(FINAL, True)
CONTENT = sized(b"body")
FAILURE = b'{"status":403,"error":{"code":"test.stream_no"}}'


def failed(text: str) -> bytes:
    return b"\0" + section((("cloister-failure", text),), True)


BAD_STREAMS: dict[str, tuple[list[bytes], str]] = {
    "no head": ([CONTENT, END], "bhttp.malformed"),
    "nothing but an end": ([END], "bhttp.malformed"),
    "a whole answer in its end": (
        [encode_response(BinaryResponse(200, (("cloister-checkpoint", "5"),), b"", FINAL))],
        "oblivious.answer",
    ),
    "a head of known length": ([b"\1" + LEAD[1:], END], "bhttp.malformed"),
    "a head with content behind it": ([LEAD + CONTENT, END], "oblivious.answer"),
    "a head without a checkpoint": ([encode_response_head(200, ()), END], "oblivious.answer"),
    "a head with two checkpoints": (
        [encode_response_head(200, (("cloister-checkpoint", "5"),) * 2), END],
        "oblivious.answer",
    ),
    "a checkpoint that is no number": (
        [encode_response_head(200, (("cloister-checkpoint", "x"),)), END],
        "oblivious.field",
    ),
    "a field of ours that nobody defined": (
        [encode_response_head(200, (("cloister-checkpoint", "5"), ("cloister-x", ""))), END],
        "oblivious.answer",
    ),
    "a head with a refusal in it": (
        [encode_response_head(403, (("cloister-checkpoint", "5"), ("cloister-refusal", "a.b"))), END],
        "oblivious.answer",
    ),
    "an empty chunk": ([LEAD, b"", END], "oblivious.answer"),
    "a chunk that ends the content": ([LEAD, b"\0", END], "oblivious.answer"),
    "content of no length among other": ([LEAD, CONTENT + b"\0" + CONTENT, END], "oblivious.answer"),
    "content that is cut": ([LEAD, CONTENT[:-1], END], "bhttp.malformed"),
    "an end with content": ([LEAD, CONTENT + END], "bhttp.too_large"),
    "an end without a receipt": ([LEAD, b"\0\0"], "oblivious.answer"),
    "an empty end": ([LEAD, b""], "oblivious.answer"),
    "two receipts": ([LEAD, b"\0" + section(FINAL * 2, True)], "oblivious.answer"),
    "another trailer": ([LEAD, b"\0" + section((("t", "u"),), True)], "oblivious.answer"),
    "a receipt and a failure": (
        [LEAD, b"\0" + section((*FINAL, ("cloister-failure", "{}")), True)],
        "oblivious.answer",
    ),
    "padding that is not zeros": ([LEAD, END + b"\0\1"], "bhttp.malformed"),
    "a receipt that is no JSON": ([LEAD, b"\0" + section((("cloister-receipt", "{"),), True)], "envelope.head"),
    "a failure that is no JSON": ([LEAD, failed("no")], "envelope.head"),
    "a failure with a good status": ([LEAD, failed('{"status":200,"error":{"code":"a.b"}}')], "oblivious.answer"),
    "a refusal that says two codes": (
        [encode_response(BinaryResponse(403, (("cloister-refusal", "a.b"),), FAILURE))],
        "oblivious.answer",
    ),
    "more body than the cap": ([LEAD, sized(bytes(900)), sized(bytes(101)), END], "envelope.too_large"),
}
CLASSIC = Oblivious(chunked=True)


def both_ends() -> tuple[Exchange, Exchange]:
    data, sent = ohttp_client.encapsulate(CLASSIC.config, b"x", os.urandom, chunked=True)
    return sent, CLASSIC.recipient.open(data, max_size=1 << 20, chunked=True)[1]


@pytest.mark.parametrize("what", BAD_STREAMS)
def test_an_answer_is_not_believed_with(what: str) -> None:
    texts, code = BAD_STREAMS[what]
    sent, came = both_ends()
    sealer, opener = ChunkSealer(came, os.urandom), StreamOpener(sent, max_body=1000)
    data = [sealer.seal(text, last=at == len(texts) - 1) for at, text in enumerate(texts)]

    def read() -> None:
        for one in data:
            opener.feed(one)
        opener.close()

    assert code_of(read) == code
    if len(texts) > 1:
        assert code_of(opener.close).startswith(("ohttp.truncated", "oblivious.", "bhttp.", "envelope."))


def test_what_was_refused_stays_refused() -> None:
    sent, came = both_ends()
    sealer, opener = ChunkSealer(came, os.urandom), StreamOpener(sent)
    opener.feed(sealer.seal(LEAD))
    assert code_of(lambda: opener.feed(sealer.seal(b""))) == "oblivious.answer"
    assert code_of(lambda: opener.feed(sealer.seal(CONTENT))) == "ohttp.truncated"
    assert code_of(opener.close) == "ohttp.truncated"


def test_several_pieces_of_content_in_one_chunk_are_read_as_one() -> None:
    """Another worker may cut its content otherwise."""
    sent, came = both_ends()
    sealer, opener = ChunkSealer(came, os.urandom), StreamOpener(sent)
    opener.feed(sealer.seal(LEAD))
    assert opener.feed(sealer.seal(CONTENT + CONTENT)) == [Body(b"bodybody")]


# --- known answers ---


def vector() -> ObliviousRequest:
    of = KeyCertificate.decode(SAID["certificate"].encode())
    config = oblivious_client.verify_key(ObliviousKey.from_json(SAID["key"]), of, from_hex(SAID["mpk"]))
    at = SAID["head"]
    made = RequestHead(request_id=at["id"], method=at["m"], path=at["p"], deadline_ms=at["d"])
    random = from_hex(SAID["client_random"])
    return oblivious_client.seal(config, of, made, b"", lambda size: random, chunked=True)


def test_the_vectors_are_reproduced() -> None:
    sealed = vector()
    assert to_hex(sealed.data) == SAID["encapsulated_request"]
    assert to_hex(sealed.commitment) == SAID["request_commitment"]
    found = good(sealed, from_hex(SAID["encapsulated_response"]))
    assert (found.head.status, found.head.checkpoint) == (200, SAID["checkpoint"])
    assert to_hex(hashlib.sha256(found.body).digest()) == SAID["answer_sha256"]
    assert (to_hex(found.commitment), found.final.receipt.decode()) == (SAID["response_commitment"], SAID["receipt"])


@pytest.mark.parametrize("name", ["encapsulated_failure", "encapsulated_refusal"])
def test_the_refusals_of_the_vectors_are_refusals(name: str) -> None:
    found = told(vector(), from_hex(SAID[name]))
    assert isinstance(found, Failed)
    assert found.error.code == SAID["refusal"]
