"""Binary HTTP: both framings in both directions, the RFC's own message, and a refusal for everything else."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloister.core.envelope import bhttp, bhttp_client
from cloister.core.envelope.bhttp import BinaryRequest, BinaryResponse
from cloister.core.envelope.model import MAX_HEAD, MAX_HEADERS
from cloister.core.errors import CloisterError

CAP = 1 << 16
NAMES = st.text("abcdefghijklmnopqrstuvwxyz0123456789-_", min_size=1, max_size=20)
VALUES = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=40)
FIELDS = st.lists(st.tuples(NAMES, VALUES), max_size=5).map(tuple)
BODIES = st.binary(max_size=300)
REQUESTS = st.builds(
    BinaryRequest,
    st.sampled_from(["GET", "POST", "PATCH"]),
    st.sampled_from(["https", "http"]),
    st.sampled_from(["", "a.example", "[::1]:8443", "0x" + "ab" * 32]),
    st.sampled_from(["/", "/a?b=c", "*"]),
    FIELDS,
    BODIES,
    FIELDS,
)
RESPONSES = st.builds(
    BinaryResponse,
    st.integers(200, 599),
    FIELDS,
    BODIES,
    FIELDS,
    st.lists(st.tuples(st.integers(100, 199), FIELDS), max_size=3).map(tuple),
)


def refusal(data: bytes, *, response: bool = False, cap: int = CAP) -> str:
    """The code that these bytes are refused with."""
    with pytest.raises(CloisterError) as caught:
        (bhttp_client.decode_response if response else bhttp.decode_request)(data, max_content=cap)
    return caught.value.code


@settings(max_examples=25, deadline=None)
@given(REQUESTS, st.booleans(), st.integers(0, 900))
def test_every_request_is_read_as_it_was_written(made: BinaryRequest, indeterminate: bool, size: int) -> None:
    data = bhttp_client.encode_request(made, indeterminate=indeterminate, size=size)
    found = bhttp.decode_request(data, max_content=CAP)
    assert found == made
    assert len(data) >= size
    assert found.head == bhttp_client.encode_request_head(made, indeterminate=indeterminate)
    assert data.startswith(found.head)


@settings(max_examples=25, deadline=None)
@given(RESPONSES, st.booleans(), st.integers(0, 900))
def test_every_response_is_read_as_it_was_written(made: BinaryResponse, indeterminate: bool, size: int) -> None:
    data = bhttp.encode_response(made, indeterminate=indeterminate, size=size)
    assert bhttp_client.decode_response(data, max_content=CAP) == made


@settings(max_examples=25, deadline=None)
@given(REQUESTS, st.booleans(), st.data())
def test_a_cut_message_is_refused_or_ends_where_the_rfc_allows_it(
    made: BinaryRequest, indeterminate: bool, data: st.DataObject
) -> None:
    whole = bhttp_client.encode_request(made, indeterminate=indeterminate)
    cut = whole[: data.draw(st.integers(0, len(whole) - 1))]
    try:
        found = bhttp.decode_request(cut, max_content=CAP)
    except CloisterError:
        assert refusal(cut) == "bhttp.malformed"
        return
    assert (found.method, found.path) == (made.method, made.path)
    # What is left out by cutting is empty, or was cut together with everything behind it.
    assert found.headers in ((), made.headers)
    assert found.content in (b"", made.content)
    assert found.trailers in ((), made.trailers)


@given(st.binary(max_size=120))
def test_garbage_is_refused_by_name(data: bytes) -> None:
    for response, read in ((False, bhttp.decode_request), (True, bhttp_client.decode_response)):
        try:
            read(data, max_content=64)
        except CloisterError:
            assert refusal(data, response=response, cap=64).startswith("bhttp.")


def test_the_messages_of_rfc_9458_are_read() -> None:
    """Appendix A: truncated after the control data."""
    asked = bhttp.decode_request(bytes.fromhex("00034745540568747470730b6578616d706c652e636f6d012f"), max_content=0)
    assert asked == BinaryRequest("GET", "https", "example.com", "/")
    assert bhttp_client.decode_response(bytes.fromhex("0140c8"), max_content=0) == BinaryResponse(200)


def test_an_indeterminate_request_by_hand() -> None:
    """Two chunks and a trailer, as RFC 9292 section 3.2 lays them out."""
    text = b"\x02\x04POST\x05https\x01h\x02/x" + b"\x01a\x01b\x00" + b"\x02he\x03llo\x00" + b"\x01t\x01u\x00" + bytes(9)
    found = bhttp.decode_request(text, max_content=5)
    assert found == BinaryRequest("POST", "https", "h", "/x", (("a", "b"),), b"hello", (("t", "u"),))
    assert found.head == text[: text.index(b"\x02he")]


def test_every_spelling_of_a_length_is_read() -> None:
    """QUIC's integers have up to four spellings; RFC 9292 asks for none in particular."""
    for five in (b"\x05", b"\x40\x05", b"\x80\0\0\x05", b"\xc0" + bytes(6) + b"\x05"):
        data = b"\x00\x03GET" + five + b"https\x01h\x01/"
        assert bhttp.decode_request(data, max_content=0).scheme == "https"


LEAD = b"\x00\x03GET\x05https\x01h\x01/"
BAD_REQUESTS = {
    "nothing at all": (b"", "bhttp.malformed"),
    "a response's framing": (b"\x01\x40\xc8", "bhttp.malformed"),
    "a framing that nobody defined": (b"\x04" + LEAD[1:], "bhttp.malformed"),
    "a method in lower case": (b"\x00\x03get\x05https\x01h\x01/", "bhttp.field"),
    "a method with a space": (b"\x00\x03G T\x05https\x01h\x01/", "bhttp.field"),
    "a scheme in upper case": (b"\x00\x03GET\x05HTTPS\x01h\x01/", "bhttp.field"),
    "an authority with a slash": (b"\x00\x03GET\x05https\x03h/x\x01/", "bhttp.field"),
    "a path that does not begin with a slash": (b"\x00\x03GET\x05https\x01h\x01x", "bhttp.field"),
    "a path with a line break": (b"\x00\x03GET\x05https\x01h\x03/\r\n", "bhttp.field"),
    "control data that ends early": (b"\x00\x03GET\x05htt", "bhttp.malformed"),
    "a length that ends in itself": (LEAD + b"\x80\x00", "bhttp.malformed"),
    "a field section beyond the message": (LEAD + b"\x09\x01a\x01b", "bhttp.malformed"),
    "a field line beyond its section": (LEAD + b"\x03\x01a\x05b", "bhttp.malformed"),
    "a field line that ends behind its section": (LEAD + b"\x03\x01a\x01b" + bytes(8), "bhttp.malformed"),
    "a name of no length in a known section": (LEAD + b"\x02\x00\x00", "bhttp.field"),
    "a name in upper case": (LEAD + b"\x04\x01A\x01b", "bhttp.field"),
    "a pseudo field": (LEAD + b"\x09\x05:path\x02/x", "bhttp.field"),
    "a value with a line break": (LEAD + b"\x06\x01a\x03b\r\n", "bhttp.field"),
    "a value with a zero": (LEAD + b"\x04\x01a\x01\x00", "bhttp.field"),
    "content beyond the message": (LEAD + b"\x00\x09abc", "bhttp.malformed"),
    "content over the cap": (LEAD + b"\x00\x11" + bytes(17), "bhttp.too_large"),
    "content of 2^62 - 1 bytes": (LEAD + b"\x00" + b"\xff" * 8, "bhttp.too_large"),
    "fields of 2^62 - 1 bytes": (LEAD + b"\xff" * 8, "bhttp.too_large"),
    "a method of 2^62 - 1 bytes": (b"\x00" + b"\xff" * 8, "bhttp.too_large"),
    "padding that is not zero": (LEAD + b"\x00\x00\x00" + bytes(5) + b"\x01", "bhttp.malformed"),
    "an open section without its end": (b"\x02" + LEAD[1:] + b"\x01a\x01b", "bhttp.malformed"),
    "open content without its end": (b"\x02" + LEAD[1:] + b"\x00\x03abc", "bhttp.malformed"),
    "chunks over the cap": (b"\x02" + LEAD[1:] + b"\x00" + b"\x09aaaaaaaaa" * 2 + b"\x00", "bhttp.too_large"),
    "open fields without number": (b"\x02" + LEAD[1:] + b"\x01a\x00" * (MAX_HEADERS + 1) + b"\x00", "bhttp.too_large"),
}


@pytest.mark.parametrize("what", BAD_REQUESTS)
def test_a_request_is_refused_with(what: str) -> None:
    data, code = BAD_REQUESTS[what]
    assert refusal(data, cap=16) == code


BAD_RESPONSES = {
    "no status": (b"\x01", "bhttp.malformed"),
    "a status below 100": (b"\x01\x40\x63", "bhttp.field"),
    "a status above 599": (b"\x01\x42\x58", "bhttp.field"),
    "nothing after an informational response": (b"\x01\x40\x67\x00", "bhttp.malformed"),
    "nine informational responses": (b"\x01" + b"\x40\x67\x00" * 9 + b"\x40\xc8", "bhttp.too_large"),
    "a request's framing": (LEAD, "bhttp.malformed"),
}


@pytest.mark.parametrize("what", BAD_RESPONSES)
def test_a_response_is_refused_with(what: str) -> None:
    data, code = BAD_RESPONSES[what]
    assert refusal(data, response=True) == code


BAD_TO_WRITE = {
    "a method that is none": BinaryRequest("get", "https", "h", "/"),
    "a path that is none": BinaryRequest("GET", "https", "h", "x"),
    "a text that is not Latin": BinaryRequest("GET", "https", "h", "/\u20ac"),
    "a name that is none": BinaryRequest("GET", "https", "h", "/", (("A", "b"),)),
    "a trailer that is none": BinaryRequest("GET", "https", "h", "/", (), b"", (("a", "\n"),)),
    "too many fields": BinaryRequest("GET", "https", "h", "/", (("a", "b"),) * (MAX_HEADERS + 1)),
}


@pytest.mark.parametrize("what", BAD_TO_WRITE)
def test_nothing_is_written_that_would_not_be_read(what: str) -> None:
    with pytest.raises(CloisterError, match=r"bhttp\.field"):
        bhttp_client.encode_request(BAD_TO_WRITE[what])


def test_fields_over_their_cap_are_not_written() -> None:
    many = tuple((f"n{i}", "v" * 1000) for i in range(MAX_HEAD // 1000 + 1))
    with pytest.raises(CloisterError, match=r"bhttp\.too_large"):
        bhttp.encode_response(BinaryResponse(200, many))


@pytest.mark.parametrize("status", [0, 99, 100, 199, 600])
def test_a_final_response_has_a_final_status(status: int) -> None:
    with pytest.raises(CloisterError, match=r"bhttp\.field"):
        bhttp.encode_response(BinaryResponse(status))


@given(st.integers(0, 1 << 21))
def test_padding_hides_lengths_in_few_steps(size: int) -> None:
    grown = bhttp.padded_size(size)
    assert grown >= max(size, 512)
    assert grown % 512 == 0
    assert bhttp.padded_size(grown) == grown
    assert grown <= max(512, 2 * size, size + (64 << 10))
