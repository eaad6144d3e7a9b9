"""Chunked Oblivious HTTP: the draft's example byte for byte, and no answer whose chunks somebody moved, cut or made."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloister.core.envelope import ohttp, ohttp_client
from cloister.core.envelope.bhttp import varint
from cloister.core.envelope.ohttp import Exchange, KeyConfig, Recipient
from cloister.core.envelope.ohttp_chunks import MAX_CHUNK, ChunkCipher, ChunkSealer
from cloister.core.envelope.ohttp_chunks_client import ChunkOpener
from cloister.core.errors import CloisterError
from cloister.core.keys import hpke
from cloister.core.keys.xwing import XWingKey

DRAFT = json.loads((Path(__file__).parents[4] / "spec/vectors/ohttp.json").read_text())["chunked"]["draft"]
CAP = 1 << 20
SECRET = bytes(range(32))
CLASSIC = KeyConfig(7, hpke.private_key(SECRET).public_key().public_bytes_raw())
RECIPIENT = Recipient(SECRET, CLASSIC)


def draft(name: str) -> bytes:
    return bytes.fromhex(DRAFT[name][2:])


def code_of(work: Callable[[], object]) -> str:
    with pytest.raises(CloisterError) as caught:
        work()
    return caught.value.code


def ends(request: bytes = b"asked", *, aead: int | None = None) -> tuple[Exchange, Exchange]:
    """The client's and the worker's, of one request."""
    data, sent = ohttp_client.encapsulate(CLASSIC, request, os.urandom, aead=aead, chunked=True)
    text, came = RECIPIENT.open(data, max_size=CAP, chunked=True)
    assert text == request
    return sent, came


def chunks_of(exchange: Exchange, *texts: bytes) -> list[bytes]:
    """A nonce and sealed chunks, the last one final."""
    nonce = os.urandom(exchange.nonce_size)
    cipher = ChunkCipher(exchange, nonce)
    return [nonce, *(cipher.seal(text, last=at == len(texts) - 1) for at, text in enumerate(texts))]


def read(exchange: Exchange, data: bytes, step: int = 1 << 30) -> list[bytes]:
    """What a client opens, ``step`` bytes at a time."""
    opener = ChunkOpener(exchange)
    found = [text for at in range(0, len(data), step) for text in opener.feed(data[at : at + step])]
    return [*found, opener.close()]


# --- the draft ---


def test_the_drafts_request_of_three_chunks_opens() -> None:
    config = ohttp_client.decode_config(draft("key_config"))
    recipient = Recipient(draft("gateway_key"), config)
    text, _ = recipient.open(draft("encapsulated_request"), max_size=CAP, chunked=True)
    assert text == draft("request")


def test_the_drafts_answer_of_three_chunks_is_reproduced_and_opens() -> None:
    config = ohttp_client.decode_config(draft("key_config"))
    recipient = Recipient(draft("gateway_key"), config)
    _, came = recipient.open(draft("encapsulated_request"), max_size=CAP, chunked=True)
    told = draft("encapsulated_response")
    sealer = ChunkSealer(came, lambda size: told[:size])
    first, second, last = (bytes.fromhex(text[2:]) for text in DRAFT["response_chunks"])
    assert sealer.seal(first) + sealer.seal(second) + sealer.seal(last, last=True) == told
    _, sent = ohttp_client.encapsulate(config, b"", lambda size: draft("client_ephemeral"), chunked=True)
    assert read(sent, told) == [first, second, last]


# --- both ends ---


@settings(max_examples=12, deadline=None)
@given(
    st.sampled_from(sorted(hpke.AEADS)), st.lists(st.binary(max_size=300), min_size=1, max_size=6), st.integers(1, 70)
)
def test_what_was_sealed_opens_in_order_however_it_arrives(aead: int, texts: list[bytes], step: int) -> None:
    sent, came = ends(aead=aead)
    assert read(sent, b"".join(chunks_of(came, *texts)), step) == texts


def test_x_wing_makes_the_same_chunks() -> None:
    config = KeyConfig(7, XWingKey(SECRET).public)
    data, sent = ohttp_client.encapsulate(config, b"asked", os.urandom, chunked=True)
    text, came = Recipient(XWingKey(SECRET), config).open(data, max_size=CAP, chunked=True)
    assert text == b"asked"
    assert read(sent, b"".join(chunks_of(came, b"one", b"two"))) == [b"one", b"two"]


def test_the_two_forms_of_a_request_share_no_key() -> None:
    """Who changes the content type on the way has made another message of it."""
    whole, _ = ohttp_client.encapsulate(CLASSIC, b"asked", os.urandom)
    chunked, sent = ohttp_client.encapsulate(CLASSIC, b"asked", os.urandom, chunked=True)
    assert code_of(lambda: RECIPIENT.open(chunked, max_size=CAP)) == "ohttp.not_authentic"
    one_chunk = whole[:39] + b"\0" + whole[39:]
    assert code_of(lambda: RECIPIENT.open(one_chunk, max_size=CAP, chunked=True)) == "ohttp.not_authentic"
    _, came = RECIPIENT.open(chunked, max_size=CAP, chunked=True)
    as_whole = came.seal_response(b"told", os.urandom)
    assert code_of(lambda: read(sent, as_whole)) in ("ohttp.truncated", "ohttp.malformed", "ohttp.not_authentic")


def test_two_answers_to_one_request_share_no_nonce() -> None:
    _, came = ends()
    one, two = (ChunkSealer(came, os.urandom).seal(b"same", last=True) for _ in range(2))
    assert one[:32] != two[:32]
    assert one[32:] != two[32:]


def test_an_answer_opens_for_its_request_alone() -> None:
    (one, first), (two, _) = ends(), ends()
    told = b"".join(chunks_of(first, b"a", b"b"))
    assert read(one, told) == [b"a", b"b"]
    assert code_of(lambda: read(two, told)) == "ohttp.not_authentic"


# --- an answer that somebody changed on the way ---

MOVES: dict[str, tuple[Callable[[list[bytes]], list[bytes]], str]] = {
    "two chunks change places": (lambda c: [c[0], c[2], c[1], *c[3:]], "ohttp.not_authentic"),
    "the first chunk is left out": (lambda c: [c[0], *c[2:]], "ohttp.not_authentic"),
    "one in the middle is left out": (lambda c: [*c[:2], *c[3:]], "ohttp.not_authentic"),
    "a chunk comes twice": (lambda c: [*c[:3], *c[2:]], "ohttp.not_authentic"),
    "the final chunk comes first": (lambda c: [c[0], c[4], *c[1:4]], "ohttp.not_authentic"),
    "the final chunk comes twice": (lambda c: [*c, c[4]], "ohttp.not_authentic"),
    "bytes stand behind the end": (lambda c: [*c, b"\0"], "ohttp.not_authentic"),
    "a chunk is passed for the final one": (lambda c: [*c[:3], b"\0" + c[3][1:]], "ohttp.not_authentic"),
    "the final one is passed for a chunk": (
        lambda c: [*c[:4], varint(len(c[4]) - 1) + c[4][1:]],
        "ohttp.not_authentic",
    ),
    "the final chunk is missing": (lambda c: c[:4], "ohttp.truncated"),
    "only the nonce came": (lambda c: c[:1], "ohttp.truncated"),
    "half of the nonce came": (lambda c: [c[0][:16]], "ohttp.truncated"),
    "nothing came": (lambda c: [], "ohttp.truncated"),
    "it ends in the middle of a chunk": (lambda c: [*c[:2], c[2][:9]], "ohttp.truncated"),
    "the final chunk has lost its tag": (lambda c: [*c[:4], c[4][:10]], "ohttp.truncated"),
    "the final chunk has lost a byte": (lambda c: [*c[:4], c[4][:-1]], "ohttp.not_authentic"),
    "another nonce": (lambda c: [bytes(32), *c[1:]], "ohttp.not_authentic"),
    "a chunk too short for a tag": (lambda c: [c[0], b"\x0f" + bytes(15)], "ohttp.malformed"),
    "a chunk over the cap": (lambda c: [c[0], varint(MAX_CHUNK + 17)], "ohttp.malformed"),
    "a final chunk without end": (lambda c: [*c[:4], bytes(MAX_CHUNK + 100)], "ohttp.too_large"),
}


@pytest.mark.parametrize("what", MOVES)
@pytest.mark.parametrize("step", [1 << 30, 5])
def test_an_answer_is_refused_when(what: str, step: int) -> None:
    change, code = MOVES[what]
    sent, came = ends()
    chunks = chunks_of(came, b"one", b"two and more", b"three", b"the end")
    data = b"".join(change(chunks))
    assert code_of(lambda: read(sent, data, max(step, len(data) // 200))) == code


def test_no_bit_of_an_answer_can_be_changed() -> None:
    sent, came = ends()
    told = b"".join(chunks_of(came, b"one", b"two", b"end"))
    for place in range(0, len(told) * 8, 3):
        bad = bytearray(told)
        bad[place // 8] ^= 1 << place % 8
        code = code_of(lambda bad=bytes(bad): read(sent, bad))
        assert code in ("ohttp.not_authentic", "ohttp.malformed", "ohttp.truncated")


def test_nothing_opens_after_a_chunk_was_refused() -> None:
    sent, came = ends()
    nonce, first, second, last = chunks_of(came, b"one", b"two", b"end")
    opener = ChunkOpener(sent)
    assert opener.feed(nonce + first) == [b"one"]
    assert code_of(lambda: opener.feed(first)) == "ohttp.not_authentic"
    assert code_of(lambda: opener.feed(second + last)) == "ohttp.truncated"
    assert code_of(opener.close) == "ohttp.truncated"


def test_an_answer_ends_once() -> None:
    sent, came = ends()
    opener = ChunkOpener(sent)
    opener.feed(b"".join(chunks_of(came, b"end")))
    assert opener.close() == b"end"
    assert code_of(opener.close) == "ohttp.truncated"


def test_lengths_in_every_spelling_are_read() -> None:
    """The length is not under the seal (section 6), so its longer spellings say the same."""
    sent, came = ends()
    nonce, first, last = chunks_of(came, b"one", b"end")
    size = len(first) - 1
    for lead, zero in ((b"\x40", b"\x40\0"), (b"\x80\0\0", b"\x80\0\0\0"), (b"\xc0" + bytes(6), b"\xc0" + bytes(7))):
        assert read(sent, nonce + lead + bytes([size]) + first[1:] + zero + last[1:], 3) == [b"one", b"end"]


# --- requests ---

SENT, _ = ends()


def request_of(*texts: bytes, final: bytes = b"final") -> bytes:
    """A request in chunks, made by hand."""
    hdr = CLASSIC.hdr(hpke.AES_256_GCM)
    enc, context = hpke.setup_sender(CLASSIC.public, ohttp.info_of(hdr, chunked=True), rng=os.urandom)
    parts = [context.seal_at(at, final if at == len(texts) - 1 else b"", text) for at, text in enumerate(texts)]
    return hdr + enc + b"".join(varint(len(part)) + part for part in parts[:-1]) + b"\0" + parts[-1]


@settings(max_examples=15, deadline=None)
@given(st.lists(st.binary(max_size=100), min_size=1, max_size=8))
def test_a_request_may_come_in_many_chunks(texts: list[bytes]) -> None:
    assert RECIPIENT.open(request_of(*texts), max_size=CAP, chunked=True)[0] == b"".join(texts)


BAD_REQUESTS: dict[str, tuple[Callable[[], bytes], str]] = {
    "without its final chunk": (lambda: request_of(b"a", b"b", b"")[:-17], "ohttp.malformed"),
    "cut in a chunk": (lambda: request_of(b"a" * 40, b"b")[:60], "ohttp.malformed"),
    "cut in a length": (lambda: request_of(b"")[:39] + b"\x40" + bytes(0) + b"", "ohttp.malformed"),
    "with a chunk too short for a tag": (lambda: request_of(b"")[:39] + b"\5" + bytes(50), "ohttp.malformed"),
    "whose last chunk is not bound as the last": (lambda: request_of(b"a", b"b", final=b""), "ohttp.not_authentic"),
    "of more chunks than are taken": (lambda: request_of(*[b""] * (ohttp.MAX_CHUNKS + 1)), "ohttp.too_large"),
    "with two chunks that changed places": (
        lambda: (lambda d: d[:39] + d[57:75] + d[39:57] + d[75:])(request_of(b"a", b"b", b"")),
        "ohttp.not_authentic",
    ),
    "to a key that nobody holds": (lambda: b"\x08" + request_of(b"a")[1:], "ohttp.key_unknown"),
    "in algorithms that were not offered": (
        lambda: request_of(b"a")[:6] + b"\x09" + request_of(b"a")[7:],
        "ohttp.suite",
    ),
}


@pytest.mark.parametrize("what", BAD_REQUESTS)
def test_a_request_in_chunks_is_refused(what: str) -> None:
    build, code = BAD_REQUESTS[what]
    assert code_of(lambda: RECIPIENT.open(build(), max_size=CAP, chunked=True)) == code


def test_as_many_chunks_as_are_taken_are_taken() -> None:
    assert RECIPIENT.open(request_of(*[b"x"] * ohttp.MAX_CHUNKS), max_size=CAP, chunked=True)[0] == b"x" * 1024


@settings(max_examples=40, deadline=None)
@given(st.binary(max_size=200))
def test_other_bytes_are_never_an_answer_nor_a_request(data: bytes) -> None:
    assert code_of(lambda: read(SENT, data)).startswith("ohttp.")
    assert code_of(lambda: RECIPIENT.open(data, max_size=CAP, chunked=True)).startswith("ohttp.")
