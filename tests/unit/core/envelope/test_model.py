"""Heads and records: what parses, what is refused, and that nothing else comes out."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloister.core.envelope import model
from cloister.core.envelope.model import RequestHead, ResponseHead
from cloister.core.errors import CloisterError
from support.sealed import World, head

GOOD = World().seal()
RECORD = GOOD.data


def test_a_record_parses_into_its_parts() -> None:
    record = model.decode_record(RECORD, max_size=1 << 20)
    assert (record.kind, record.seq) == (model.KIND_SESSION, 0)
    assert record.ibe.startswith(b"sealed:")
    assert model.encode_record(record.header, record.ibe, record.ciphertext) == RECORD


BAD_RECORDS: dict[str, bytes] = {
    "empty": b"",
    "another magic": b"CLS2" + RECORD[4:],
    "kind 0": RECORD[:4] + b"\0" + RECORD[5:],
    "kind 3": RECORD[:4] + b"\3" + RECORD[5:],
    "an unknown flag": RECORD[:5] + b"\2" + RECORD[6:],
    "IBE bytes without their flag": RECORD[:5] + b"\0" + RECORD[6:],
    "the flag without IBE bytes": RECORD[:142] + b"\0\0" + RECORD[144:],
    "an IBE length past the end": RECORD[:142] + b"\x0f\xff" + RECORD[144:],
    "an IBE length over the cap": RECORD[:142] + b"\x10\x01" + b"x" * 9000,
    "cut inside the header": RECORD[:100],
    "cut before the tag": RECORD[: 144 + 39 + 10],
}


@pytest.mark.parametrize("sentence", BAD_RECORDS)
def test_records_refused_for(sentence: str) -> None:
    with pytest.raises(CloisterError, match=r"envelope\.malformed"):
        model.decode_record(BAD_RECORDS[sentence], max_size=1 << 20)


def test_a_one_shot_record_with_a_number_is_refused() -> None:
    record = RECORD[:4] + b"\2" + RECORD[5:134] + (5).to_bytes(8, "big") + RECORD[142:]
    with pytest.raises(CloisterError, match=r"envelope\.malformed"):
        model.decode_record(record, max_size=1 << 20)


def test_a_record_over_its_cap_is_refused_before_parsing() -> None:
    with pytest.raises(CloisterError, match=r"envelope\.too_large"):
        model.decode_record(RECORD, max_size=len(RECORD) - 1)


@given(st.binary(max_size=400))
def test_garbage_is_a_record_or_a_named_refusal(data: bytes) -> None:
    for candidate in (data, RECORD[:6] + data):
        try:
            record = model.decode_record(candidate, max_size=500)
        except CloisterError:
            continue
        assert model.encode_record(record.header, record.ibe, record.ciphertext) == candidate


@given(st.binary(max_size=300), st.binary(max_size=300))
def test_plaintext_splits_into_what_was_joined(first: bytes, body: bytes) -> None:
    assert model.split_plaintext(model.encode_plaintext(first, body)) == (first, body)


@pytest.mark.parametrize("data", [b"", b"\0\0\0", b"\0\0\0\5abc", b"\xff\xff\xff\xff" + b"x" * 9])
def test_a_plaintext_of_another_shape_is_refused(data: bytes) -> None:
    with pytest.raises(CloisterError, match=r"envelope\.malformed"):
        model.split_plaintext(data)


def test_a_head_round_trips() -> None:
    sent = head(idempotency_key="order 7", caller=model.Caller("0x" + "ab" * 20, 5, "0x" + "00" * 65))
    assert model.decode_request_head(model.encode_json(sent)) == sent


def test_a_head_has_the_field_names_of_the_spec() -> None:
    assert set(msgspec.json.decode(model.encode_json(head()))) == {"v", "id", "m", "p", "h", "d", "idem", "c"}


BAD_HEADS: dict[str, dict[str, Any]] = {
    "version 2": {"version": 2},
    "a short request id": {"request_id": "0x00"},
    "an upper-case request id": {"request_id": "0x" + "AB" * 16},
    "a lower-case method": {"method": "post"},
    "an empty method": {"method": ""},
    "a method with a line break": {"method": "GET\r\n"},
    "a relative path": {"path": "ask"},
    "a path with a space": {"path": "/a b"},
    "a path with a line break": {"path": "/a\nb"},
    "a path that is not ASCII": {"path": "/é"},
    "a path over 8192": {"path": "/" + "a" * 8192},
    "an upper-case header name": {"headers": (("X-A", "1"),)},
    "an empty header name": {"headers": (("", "1"),)},
    "a header name with a colon": {"headers": (("a:", "1"),)},
    "a header name with the separators of the check": {"headers": (("a\0b\nc", "1"),)},
    "a header value with the separators of the check": {"headers": (("a", "1\nb\0002"),)},
    "two headers that look like other two": {"headers": (("a", "1\n"), ("b\0c", "2"))},
    "a method with a space and a path": {"method": "GET /x", "path": "/y"},
    "a request id that holds the method": {"request_id": "0x" + "00" * 16 + " GET", "method": "X"},
    "a header value with a line break": {"headers": (("a", "1\r\nx: 2"),)},
    "a header value with a zero byte": {"headers": (("a", "\0"),)},
    "a header value beyond Latin-1": {"headers": (("a", "€"),)},
    "a header value over 16 KiB": {"headers": (("a", "x" * 16385),)},
    "129 headers": {"headers": (("a", "1"),) * 129},
    "a negative deadline": {"deadline_ms": -1},
    "a deadline beyond 2**53": {"deadline_ms": 2**53},
    "an empty idempotency key": {"idempotency_key": ""},
    "an idempotency key with a line break": {"idempotency_key": "a\n"},
}


@pytest.mark.parametrize("sentence", BAD_HEADS)
def test_heads_refused_for(sentence: str) -> None:
    bad = head(**BAD_HEADS[sentence])
    with pytest.raises(CloisterError, match=r"envelope\.head"):
        bad.check()
    with pytest.raises(CloisterError):
        model.decode_request_head(msgspec.json.encode(bad))


TEXTS = st.text(st.sampled_from("ab-:\0\n\t \r\x7fé€A"), max_size=4)


@given(st.lists(st.tuples(TEXTS, TEXTS), max_size=4))
def test_the_one_match_for_all_headers_says_what_each_alone_would_say(headers: list[tuple[str, str]]) -> None:
    good = all(model._NAME.fullmatch(n) and model._VALUE.fullmatch(v) for n, v in headers)
    try:
        model.check_headers(tuple(headers))
    except CloisterError:
        assert not good
    else:
        assert good


@given(TEXTS, TEXTS, TEXTS)
def test_the_one_match_for_the_first_line_says_what_each_part_would_say(rid: str, method: str, path: str) -> None:
    parts = {"request_id": "0x" + "00" * 16 + rid, "method": "GET" + method, "path": "/" + path}
    good = not rid and model._METHOD.fullmatch(parts["method"]) and model._PATH.fullmatch(parts["path"])
    try:
        head(**parts).check()
    except CloisterError:
        assert not good
    else:
        assert good


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b'"\xff"',
        b'{"v":1,"id":5}',
        b"[" * 5000,
        model.encode_json(head())[:-1] + b',"extra":1}',
        model.encode_json(head()) + b" x",
        model.encode_json(head()).replace(b'"h":[[', b'"h":[["a"],['),
        model.encode_json(head()).replace(b'"v":1', b'"v":true'),
        model.encode_json(head()).replace(b'"v":1', b'"v":1.5'),
    ],
)
def test_bytes_that_are_no_head_are_refused(text: bytes) -> None:
    with pytest.raises(CloisterError, match=r"envelope\.head"):
        model.decode_request_head(text)


@given(st.binary(max_size=200))
def test_garbage_is_no_head(data: bytes) -> None:
    with pytest.raises(CloisterError):
        model.decode_request_head(data)


@pytest.mark.parametrize("status", [99, 600, -1])
def test_a_status_outside_http_is_refused(status: int) -> None:
    with pytest.raises(CloisterError, match=r"envelope\.head"):
        ResponseHead(status=status, checkpoint=1).check()


def test_a_head_over_64_kib_is_not_sent() -> None:
    big = RequestHead(
        request_id="0x" + "00" * 16,
        method="GET",
        path="/",
        deadline_ms=1,
        headers=tuple((f"h{i}", "x" * 16000) for i in range(5)),
    )
    with pytest.raises(CloisterError, match=r"envelope\.too_large"):
        model.encode_json(big.check())


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("request id", {"request_id": "0x00"}),
        ("method", {"method": "get"}),
        ("path", {"path": "x"}),
        ("idempotency key", {"idempotency_key": ""}),
        ("header names", {"headers": (("A", "b"),)}),
        ("value of header a", {"headers": (("a", "\n"),)}),
        ("headers", {"headers": (("a", "b"),) * 129}),
        ("a deadline", {"deadline_ms": -1}),
    ],
)
def test_the_refusal_says_which_part_of_the_head_it_is(name: str, changes: dict[str, Any]) -> None:
    with pytest.raises(CloisterError) as caught:
        head(**changes).check()
    assert name in caught.value.expected


@pytest.mark.parametrize("deadline", [0, 2**53 - 1])
def test_a_deadline_at_its_edges_is_within_form(deadline: int) -> None:
    head(deadline_ms=deadline).check()


def test_a_plaintext_that_is_all_head_has_no_body() -> None:
    assert model.split_plaintext(b"\0\0\0\3abc") == (b"abc", b"")
    assert model.split_plaintext(b"\0\0\0\0") == (b"", b"")


def test_a_head_of_exactly_64_kib_is_sent() -> None:
    empty = len(model.encode_json([""]))
    assert len(model.encode_json(["x" * (model.MAX_HEAD - empty)])) == model.MAX_HEAD
    with pytest.raises(CloisterError, match=r"envelope\.too_large"):
        model.encode_json(["x" * (model.MAX_HEAD - empty + 1)])


def test_the_smallest_record_is_a_header_a_length_and_an_empty_plaintext() -> None:
    bare = RECORD[:5] + b"\0" + RECORD[6:142] + b"\0\0"
    assert model.decode_record(bare + b"c" * 20, max_size=164).ciphertext == b"c" * 20
    with pytest.raises(CloisterError, match=r"envelope\.malformed"):
        model.decode_record(bare + b"c" * 19, max_size=164)


def test_a_ciphertext_is_never_less_than_its_tag() -> None:
    for rest, good in ((16, True), (15, False)):
        record = RECORD[:142] + (200).to_bytes(2, "big") + b"i" * 200 + b"c" * rest
        if good:
            assert len(model.decode_record(record, max_size=1000).ciphertext) == 16
        else:
            with pytest.raises(CloisterError, match=r"envelope\.malformed"):
                model.decode_record(record, max_size=1000)


@given(st.integers(0, 2**64 - 1), st.binary(max_size=4096), st.binary(min_size=20, max_size=40))
def test_what_is_encoded_parses_to_the_same_parts(seq: int, ibe: bytes, text: bytes) -> None:
    flags = 1 if ibe else 0
    parts = (b"\1" * 32, b"\2" * 32, b"\3" * 32, b"\4" * 32)
    header = model.HEADER.pack(model.MAGIC, 1, flags, *parts, seq)
    record = model.decode_record(model.encode_record(header, ibe, text), max_size=1 << 20)
    assert (record.boot, record.certificate_id, record.enc, record.psk_id) == parts
    assert (record.seq, record.ibe, record.ciphertext, record.header) == (seq, ibe, text, header)
