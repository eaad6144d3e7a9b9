"""The response stream: any cut, order, swap or flip is refused; every event arrives whatever the pieces."""

from __future__ import annotations

import os
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloister.core.envelope.model import MAX_CHUNK
from cloister.core.envelope.opener import Body, Event, Failed, Final, Head, Opener
from cloister.core.envelope.server import DEADLINE
from cloister.core.envelope.stream import RAND_SIZE, Responder
from cloister.core.errors import CloisterError
from cloister.core.keys import hpke
from support.sealed import World, answer

RID = b"\x0a" * 16
_KEY = hpke.private_key(os.urandom(32))
ENC, SENDER = hpke.setup_sender(_KEY.public_key().public_bytes_raw(), b"info", rng=os.urandom)
RECEIVER = hpke.setup_recipient(ENC, _KEY, b"info")


def responder(seq: int = 0, request_id: bytes = RID) -> Responder:
    return Responder(RECEIVER, seq, request_id, os.urandom)


def opener(seq: int = 0, request_id: bytes = RID, max_body: int = 1 << 20) -> Opener:
    return Opener(SENDER, seq, request_id, max_body=max_body)


def pieces(bodies: list[bytes], r: Responder | None = None) -> list[bytes]:
    """A good answer as [rand, chunk, chunk, …, final]."""
    r = r or responder()
    first = r.head(200, (("a", "b"),), 9)
    return [first[:RAND_SIZE], first[RAND_SIZE:], *(r.chunk(b) for b in bodies), r.final(b'{"x":1}', b"\2" * 65)]


def read(o: Opener, data: bytes) -> list[Event]:
    events = o.feed(data)
    o.close()
    return events


@settings(max_examples=50, deadline=None)
@given(st.lists(st.binary(min_size=1, max_size=400), max_size=6), st.integers(1, 97))
def test_every_event_arrives_whatever_the_pieces(bodies: list[bytes], step: int) -> None:
    stream = b"".join(pieces(bodies))
    o, events = opener(), list[Event]()
    for at in range(0, len(stream), step):
        events += o.feed(stream[at : at + step])
    o.close()
    assert events[0] == Head(200, (("a", "b"),), 9)
    assert [e.data for e in events if isinstance(e, Body)] == bodies
    assert events[-1] == Final(b'{"x":1}', b"\2" * 65)


def test_a_large_body_is_cut_into_chunks_and_comes_back_whole() -> None:
    body = os.urandom(MAX_CHUNK * 2 + 17)
    events = read(opener(), b"".join(pieces([body])))
    assert b"".join(e.data for e in events if isinstance(e, Body)) == body
    assert sum(isinstance(e, Body) for e in events) == 3


def test_every_truncation_is_named() -> None:
    stream = b"".join(pieces([b"one", b"two"]))
    for cut in range(len(stream)):
        o = opener()
        o.feed(stream[:cut])
        with pytest.raises(CloisterError, match=r"envelope\.truncated"):
            o.close()
        assert not o.done


def test_every_flipped_byte_is_refused() -> None:
    stream = b"".join(pieces([b"one"]))
    for at in range(len(stream)):
        broken = stream[:at] + bytes([stream[at] ^ 1]) + stream[at + 1 :]
        with pytest.raises(CloisterError) as caught:
            read(opener(), broken)
        assert caught.value.code in ("envelope.not_authentic", "envelope.malformed", "envelope.truncated")


def test_every_other_order_of_chunks_is_refused() -> None:
    parts = pieces([b"one", b"two", b"three"])
    good = list(range(1, len(parts)))
    for seed in range(40):
        order = good[:]
        random.Random(seed).shuffle(order)
        if order != good:
            with pytest.raises(CloisterError, match=r"envelope\.not_authentic"):
                read(opener(), b"".join([parts[0], *(parts[i] for i in order)]))


@pytest.mark.parametrize("dropped", [1, 2, 3])
def test_a_dropped_chunk_is_refused(dropped: int) -> None:
    parts = pieces([b"one", b"two"])
    with pytest.raises(CloisterError, match=r"envelope\.not_authentic"):
        read(opener(), b"".join(p for i, p in enumerate(parts) if i != dropped))


@pytest.mark.parametrize("twice", [1, 2, 3])
def test_a_doubled_chunk_is_refused(twice: int) -> None:
    parts = pieces([b"one", b"two"])
    with pytest.raises(CloisterError, match=r"envelope\.not_authentic"):
        read(opener(), b"".join([*parts[: twice + 1], *parts[twice:]]))


def test_bytes_after_the_final_chunk_are_refused() -> None:
    with pytest.raises(CloisterError, match=r"envelope\.malformed"):
        opener().feed(b"".join(pieces([])) + b"\0")
    o = opener()
    o.feed(b"".join(pieces([])))
    with pytest.raises(CloisterError, match=r"envelope\.malformed"):
        o.feed(b"\0")


def test_a_body_chunk_marked_as_final_is_refused() -> None:
    parts = pieces([b"one", b"two"])
    parts[2] = parts[2][:4] + b"\1" + parts[2][5:]
    with pytest.raises(CloisterError, match=r"envelope\.not_authentic"):
        read(opener(), b"".join(parts))


def test_chunks_of_two_attempts_at_one_request_do_not_mix() -> None:
    first, second = pieces([b"one"]), pieces([b"one"])
    assert first[0] != second[0]
    with pytest.raises(CloisterError, match=r"envelope\.not_authentic"):
        read(opener(), b"".join([*first[:2], *second[2:]]))


def test_the_answer_to_another_number_or_request_id_is_refused() -> None:
    for other in (responder(seq=1), responder(request_id=b"\x0b" * 16)):
        with pytest.raises(CloisterError, match=r"envelope\.not_authentic"):
            read(opener(), b"".join(pieces([], other)))


def test_the_answer_of_another_session_is_refused() -> None:
    one, two = World(), World()
    mine, theirs = one.seal(), two.seal()
    with pytest.raises(CloisterError, match=r"envelope\.not_authentic"):
        mine.opener.feed(answer(two.open(theirs.data)))


@pytest.mark.parametrize("size", [0, 15, MAX_CHUNK + 17, 2**32 - 1])
def test_a_chunk_length_out_of_bounds_is_refused_before_it_is_awaited(size: int) -> None:
    rand = pieces([])[0]
    with pytest.raises(CloisterError, match=r"envelope\.malformed"):
        opener().feed(rand + size.to_bytes(4, "big") + b"\0")


def test_a_body_over_the_callers_cap_is_refused() -> None:
    with pytest.raises(CloisterError, match=r"envelope\.too_large"):
        read(opener(max_body=9), b"".join(pieces([b"12345", b"67890"])))


def test_an_opener_that_refused_stays_refused() -> None:
    parts = pieces([b"one"])
    o = opener()
    with pytest.raises(CloisterError):
        o.feed(parts[0] + parts[2])
    with pytest.raises(CloisterError, match=r"envelope\.truncated"):
        o.feed(parts[1])
    with pytest.raises(CloisterError, match=r"envelope\.truncated"):
        o.close()


def test_an_error_before_the_head_arrives_with_its_code() -> None:
    error = DEADLINE(expected="later", found="earlier")
    (event,) = read(opener(), responder().error(error))
    assert isinstance(event, Failed)
    assert (event.error.code, event.error.status) == ("envelope.deadline", 408)
    assert type(event.error) is type(error)


def test_an_error_after_some_body_arrives_after_that_body() -> None:
    r = responder()
    stream = r.head(200, (), 1) + r.chunk(b"half") + r.error(DEADLINE(expected="a", found="b"))
    events = read(opener(), stream)
    assert [type(e) for e in events] == [Head, Body, Failed]


def test_an_error_with_a_good_status_is_refused() -> None:
    error = DEADLINE(expected="a", found="b")
    error.status = 200
    with pytest.raises(CloisterError, match=r"envelope\.malformed"):
        read(opener(), responder().error(error))


def test_a_receipt_as_the_first_chunk_is_refused() -> None:
    r = responder()
    r._index = 0
    stream = r._rand + r._last(b'{"receipt":{"x":1},"signature":"0x' + b"00" * 65 + b'"}')
    with pytest.raises(CloisterError, match=r"envelope\.head"):
        read(opener(), stream)


def test_a_head_with_a_line_break_in_a_header_is_not_sent_and_an_error_still_goes() -> None:
    r = responder()
    with pytest.raises(CloisterError, match=r"envelope\.head"):
        r.head(200, (("a", "b\r\nset-cookie: x"),), 1)
    (event,) = read(opener(), r.error(DEADLINE(expected="a", found="b")))
    assert isinstance(event, Failed)


def test_an_empty_chunk_writes_nothing() -> None:
    r = responder()
    r.head(200, (), 1)
    assert r.chunk(b"") == b""


def test_calls_out_of_order_are_programming_errors() -> None:
    r = responder()
    with pytest.raises(RuntimeError):
        r.chunk(b"x")
    with pytest.raises(RuntimeError):
        r.final(b"{}", b"\0" * 65)
    with pytest.raises(RuntimeError):
        r.commitment(b"salt")
    r.head(200, (), 1)
    with pytest.raises(RuntimeError):
        r.head(200, (), 1)
    r.final(b"{}", b"\0" * 65)
    assert r.done
    with pytest.raises(RuntimeError):
        r.error(DEADLINE(expected="a", found="b"))


def test_both_ends_commit_to_the_same_answer_however_it_was_cut() -> None:
    r, o = responder(), opener()
    o.feed(r.head(201, (("k", "é"),), 5) + r.chunk(b"ab") + r.chunk(b"c"))
    other = responder()
    other.head(201, (("k", "é"),), 77)
    other.chunk(b"abc")
    assert o.commitment(b"s" * 32) == r.commitment(b"s" * 32) == other.commitment(b"s" * 32)
    assert o.commitment(b"t" * 32) != r.commitment(b"s" * 32)


def test_no_commitment_before_the_head() -> None:
    with pytest.raises(CloisterError, match=r"envelope\.truncated"):
        opener().commitment(b"s" * 32)


@given(st.binary(max_size=200))
def test_garbage_never_yields_an_event(data: bytes) -> None:
    o = opener()
    try:
        assert o.feed(data) == []
    except CloisterError:
        return
    with pytest.raises(CloisterError):
        o.close()
