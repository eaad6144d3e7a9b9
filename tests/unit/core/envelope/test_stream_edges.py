"""Edges of the response stream: exact sizes, flags and statuses, what a hostile worker may say, what is counted."""

from __future__ import annotations

import hashlib
import json
import os
from typing import Any

import pytest

from cloister.core.encoding.contexts import Context, digest
from cloister.core.envelope.model import MAX_CHUNK, TAG
from cloister.core.envelope.opener import Body, Failed, Final, Head, Opener
from cloister.core.envelope.server import DEADLINE
from cloister.core.envelope.stream import RAND_SIZE, Responder
from cloister.core.errors import REGISTRY, CloisterError, RemoteError
from cloister.core.keys import hpke

RID = b"\x0a" * 16
_KEY = hpke.private_key(os.urandom(32))
ENC, SENDER = hpke.setup_sender(_KEY.public_key().public_bytes_raw(), b"info", rng=os.urandom)
RECEIVER = hpke.setup_recipient(ENC, _KEY, b"info")
ERROR = DEADLINE(expected="a", found="b")


def responder(seq: int = 0) -> Responder:
    return Responder(RECEIVER, seq, RID, os.urandom)


def opener(max_body: int = 1 << 20, calls: list[bool] | None = None) -> Opener:
    on_authentic = None if calls is None else calls.append
    return Opener(SENDER, 0, RID, max_body=max_body, on_authentic=on_authentic)


def said(r: Responder, *texts: bytes, last: bytes) -> bytes:
    """A stream of these plaintexts, whatever they are, as a hostile worker seals them."""
    return r._rand + b"".join(r._next(text, 0) for text in texts) + r._last(last)


HEAD = b'{"status":200,"checkpoint":1,"h":[]}'
FINAL = b'{"receipt":{"x":1},"signature":"0x' + b"01" * 65 + b'"}'


def failure(status: Any = 500, **fields: Any) -> bytes:
    error = {"code": "x.y", "check": "c", "expected": "e", "found": "f", "remedy": "r"} | fields
    return json.dumps({"status": status, "error": error}).encode()


# Flags and sizes


@pytest.mark.parametrize("flag", [2, 3, 128, 255])
def test_a_final_flag_that_is_neither_0_nor_1_is_refused(flag: int) -> None:
    r = responder()
    stream = r.head(200, (), 1)
    final = r.final(b'{"x":1}', b"\1" * 65)
    with pytest.raises(CloisterError, match=r"envelope\.malformed"):
        opener().feed(stream + final[:4] + bytes([flag]) + final[5:])


def test_a_chunk_of_exactly_256_kib_goes_in_one_piece_and_one_byte_more_in_two() -> None:
    for size, count in ((MAX_CHUNK - 1, 1), (MAX_CHUNK, 1), (MAX_CHUNK + 1, 2), (2 * MAX_CHUNK, 2)):
        r, o = responder(), opener(max_body=1 << 22)
        body = os.urandom(size)
        events = o.feed(r.head(200, (), 1) + r.chunk(body))
        assert b"".join(e.data for e in events if isinstance(e, Body)) == body
        assert len(events) - 1 == count
        assert r.body_bytes == o.body_bytes == size


def test_a_chunk_longer_than_256_kib_is_refused_even_if_it_is_authentic() -> None:
    r = responder()
    stream = r.head(200, (), 1) + r._next(b"x" * (MAX_CHUNK + 1), 0)
    with pytest.raises(CloisterError, match=r"envelope\.malformed"):
        opener(max_body=1 << 22).feed(stream)


def test_the_smallest_chunk_is_a_tag() -> None:
    r, o = responder(), opener()
    o.feed(r.head(200, (), 1))
    empty = r._next(b"", 0)
    assert len(empty) == 5 + TAG
    assert o.feed(empty) == [Body(b"")]


@pytest.mark.parametrize(("cap", "good"), [(10, True), (9, False), (0, False)])
def test_the_callers_cap_counts_every_byte_of_the_body(cap: int, good: bool) -> None:
    r = responder()
    stream = r.head(200, (), 1) + r.chunk(b"12345") + r.chunk(b"67890") + r.final(b"{}", b"\1" * 65)
    if good:
        assert isinstance(opener(max_body=cap).feed(stream)[-1], Final)
        return
    with pytest.raises(CloisterError, match=r"envelope\.too_large"):
        opener(max_body=cap).feed(stream)


def test_an_empty_body_passes_a_cap_of_nothing() -> None:
    r = responder()
    assert isinstance(opener(max_body=0).feed(r.head(204, (), 1) + r.final(b"{}", b"\1" * 65))[-1], Final)


def test_exactly_the_random_part_is_no_head_and_one_byte_less_is_no_key() -> None:
    stream = responder().head(200, (), 1)
    for cut in (RAND_SIZE - 1, RAND_SIZE):
        o = opener()
        assert o.feed(stream[:cut]) == []
        assert o.feed(stream[cut:]) == [Head(200, (), 1)]


# Who is told what


def test_the_first_chunk_is_reported_once_and_says_whether_it_is_a_head() -> None:
    calls: list[bool] = []
    r, o = responder(), opener(calls=calls)
    o.feed(r.head(200, (), 1) + r.chunk(b"a") + r.chunk(b"b"))
    o.feed(r.error(ERROR))
    assert calls == [True]
    calls.clear()
    opener(calls=calls).feed(responder().error(ERROR))
    assert calls == [False]


def test_a_chunk_that_does_not_open_is_reported_to_nobody() -> None:
    calls: list[bool] = []
    stream = responder().head(200, (), 1)
    with pytest.raises(CloisterError):
        opener(calls=calls).feed(stream[:-1] + bytes([stream[-1] ^ 1]))
    assert calls == []


def test_an_answer_is_started_with_its_head_and_done_with_its_end() -> None:
    r = responder()
    assert (r.started, r.done) == (False, False)
    r.head(200, (), 1)
    assert (r.started, r.done) == (True, False)
    r.chunk(b"x")
    assert (r.started, r.done) == (True, False)
    r.error(ERROR)
    assert (r.started, r.done) == (True, True)
    refused = responder()
    refused.error(ERROR)
    assert (refused.started, refused.done) == (True, True)


def test_the_responder_commits_to_status_headers_and_body_each() -> None:
    salt = b"s" * 32

    def commitment(status: int = 200, name: str = "a", body: bytes = b"x") -> bytes:
        r = responder()
        r.head(status, ((name, "1"),), 1)
        r.chunk(body)
        return r.commitment(salt)

    assert commitment() == digest(
        Context.RECEIPT_RESPONSE, salt, (200).to_bytes(2, "big"), b'[["a","1"]]', hashlib.sha256(b"x").digest()
    )
    assert len({commitment(), commitment(status=201), commitment(name="b"), commitment(body=b"y")}) == 4


# A hostile worker: authentic chunks that say something else


@pytest.mark.parametrize("status", [400, 418, 599])
def test_a_failure_may_have_any_status_of_failure(status: int) -> None:
    (event,) = opener().feed(said(responder(), last=failure(status)))
    assert isinstance(event, Failed)
    assert event.error.status == status


BAD_ENDS: dict[str, tuple[str, bytes]] = {
    "a failure with status 399": ("envelope.malformed", failure(399)),
    "a failure with status 600": ("envelope.malformed", failure(600)),
    "a failure with status 200": ("envelope.malformed", failure(200)),
    "a failure without a status": ("envelope.head", b'{"error":{}}'),
    "a failure with a status as text": ("envelope.head", failure("500")),
    "a failure whose error is a text": ("envelope.head", b'{"status":500,"error":"x"}'),
    "a failure with a number in its error": ("envelope.head", failure(found=5)),
    "a failure with another field": ("envelope.head", failure()[:-1] + b',"x":1}'),
    "nothing": ("envelope.head", b""),
    "an array": ("envelope.head", b"[]"),
    "a deep array": ("envelope.head", b"[" * 5000),
    "a receipt without a signature": ("envelope.head", b'{"receipt":{"x":1}}'),
    "a receipt with a signature of 64 bytes": ("encoding.hex", FINAL.replace(b"01" * 65, b"01" * 64)),
    "a receipt with a signature in capitals": ("encoding.hex", FINAL.replace(b"01" * 65, b"AB" * 65)),
    "a receipt with another field": ("envelope.head", FINAL[:-1] + b',"x":1}'),
    "two receipts": ("envelope.head", FINAL + FINAL),
}


@pytest.mark.parametrize("sentence", BAD_ENDS)
def test_a_good_head_and_then_an_end_that_is(sentence: str) -> None:
    code, last = BAD_ENDS[sentence]
    o = opener()
    with pytest.raises(CloisterError) as caught:
        o.feed(said(responder(), HEAD, last=last))
    assert caught.value.code == code
    with pytest.raises(CloisterError, match=r"envelope\.truncated"):
        o.close()


BAD_HEADS: dict[str, bytes] = {
    "a status of 99": HEAD.replace(b"200", b"99"),
    "a status of 600": HEAD.replace(b"200", b"600"),
    "a negative checkpoint": HEAD.replace(b":1,", b":-1,"),
    "a checkpoint of 2**53": HEAD.replace(b":1,", b":9007199254740992,"),
    "a header with a line break": HEAD.replace(b"[]", b'[["a","b\\r\\nc: d"]]'),
    "an upper-case header": HEAD.replace(b"[]", b'[["Set-Cookie","a"]]'),
    "129 headers": HEAD.replace(b"[]", b"[" + b",".join([b'["a","b"]'] * 129) + b"]"),
    "a field more": HEAD[:-1] + b',"x":1}',
    "no JSON": b"\xff\xfe",
    "a receipt": FINAL,
}


@pytest.mark.parametrize("sentence", BAD_HEADS)
def test_a_first_chunk_that_is_no_head(sentence: str) -> None:
    with pytest.raises(CloisterError, match=r"envelope\.head"):
        opener().feed(said(responder(), BAD_HEADS[sentence], last=FINAL))


@pytest.mark.parametrize("status", [100, 599])
@pytest.mark.parametrize("checkpoint", [0, 2**53 - 1])
def test_heads_at_their_edges(status: int, checkpoint: int) -> None:
    r = responder()
    assert opener().feed(r.head(status, (), checkpoint)) == [Head(status, (), checkpoint)]


def test_a_worker_cannot_make_a_failure_look_like_a_class_that_its_code_does_not_have() -> None:
    (event,) = opener().feed(said(responder(), last=failure(503, code="no.such_code")))
    assert isinstance(event, Failed)
    assert type(event.error) is RemoteError
    (event,) = opener().feed(said(responder(), last=failure(599, code="envelope.deadline")))
    assert isinstance(event, Failed)
    assert type(event.error) is REGISTRY["envelope.deadline"].family
    assert event.error.status == 408  # the code's own, whatever the worker says


def test_texts_of_a_failure_are_clipped_and_printable() -> None:
    (event,) = opener().feed(said(responder(), last=failure(found="\x1b[31m" + "x" * 5000)))
    assert isinstance(event, Failed)
    assert len(event.error.found) <= 512
    assert event.error.found.isprintable()


def test_the_exact_bytes_of_the_receipt_arrive_whatever_their_spelling() -> None:
    """The client checks their canonical form; the stream must not mend it."""
    text = b'{ "b" : 1,"a":2 }'
    r, o = responder(), opener()
    events = o.feed(r.head(200, (), 1) + r.final(text, b"\1" * 65))
    assert isinstance(events[-1], Final)
    assert events[-1].receipt == text
