"""spec/sealed-http.md, sentence by sentence, against a client written from it alone (support/second_client.py)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from itertools import combinations
from typing import Any

import pytest

from cloister.core.encoding.hexes import to_hex
from cloister.core.encoding.signatures import address_of, sign_digest
from cloister.core.encoding.statements import CallerSession
from cloister.core.envelope.server import Limits, OpenRequest, SealedRefusalError
from cloister.core.errors import CloisterError, EnvelopeError
from support.sealed import AGENT, NOW, World, answer, head, key
from support.second_client import Draft, SecondClient, framed

LIMITS = Limits(body=64, sessions=1, psks=4, retired=64)
SECRET = b"\x77" * 32
REQUEST_ID = b"\x0a" * 16


def open_any(certificate: object, ciphertext: bytes) -> bytes:
    return SECRET


def opened(world: World, record: bytes, now_ms: int = NOW) -> OpenRequest:
    return world.server.open_request(AGENT, record, now_ms, open_any)


def code_of(world: World, record: bytes) -> tuple[str, bool]:
    """(code, whether the refusal is sealed)."""
    with pytest.raises(EnvelopeError) as caught:
        opened(world, record)
    return caught.value.code, isinstance(caught.value, SealedRefusalError)


# Two independent clients speak with one worker


def test_a_client_made_from_the_specification_alone_is_served_and_reads_its_answer() -> None:
    world = World()
    client = SecondClient(world)
    for seq, ibe in ((0, client.ibe), (7, b""), (3, b""), (2**64 - 1, b"")):
        request = opened(world, client.draft(seq, ibe=ibe, body=b"body %d" % seq).seal())
        assert (request.seq, request.body, request.head.path) == (seq, b"body %d" % seq, "/ask")
        parts = client.chunks(seq, REQUEST_ID, answer(request, b"words", b'{"r":1}'))
        assert [last for last, _ in parts] == [0, 0, 1]
        assert json.loads(parts[0][1]) == {"status": 200, "checkpoint": 123, "h": [["content-type", "text/plain"]]}
        assert parts[1][1] == b"words"
        assert json.loads(parts[2][1]) == {"receipt": {"r": 1}, "signature": "0x" + "01" * 65}
        assert request.salt == client.context.export(framed("receipt", seq.to_bytes(8, "big")), 32)


def test_a_one_shot_of_the_second_client_is_served_once() -> None:
    world = World()
    record = SecondClient(world).draft(kind=2).seal()
    assert opened(world, record).body == b"body"
    assert code_of(world, record) == ("envelope.replay", False)


# 6: the order of refusals. Each defect is a change to a good request; a request with two defects gets the earlier name.


def too_large(world: World, draft: Draft) -> None:
    draft.padding = 80_000


def other_shape(world: World, draft: Draft) -> None:
    draft.magic = b"CLS2"


def other_boot(world: World, draft: Draft) -> None:
    draft.boot = b"\x99" * 32


def unknown_certificate(world: World, draft: Draft) -> None:
    draft.certificate_id = b"\x98" * 32


def other_ciphertext(world: World, draft: Draft) -> None:
    draft.ibe = b"a ciphertext of another name"


def dropped_session(world: World, draft: Draft) -> None:
    opened(world, draft.client.draft(100).seal())
    opened(world, SecondClient(world).draft().seal())


def served_one_shot(world: World, draft: Draft) -> None:
    opened(world, draft.client.draft(kind=2).seal())
    draft.kind = 2


def unknown_psk(world: World, draft: Draft) -> None:
    draft.psk_id, draft.ibe = b"\x97" * 32, b""


def seen_number(world: World, draft: Draft) -> None:
    opened(world, draft.client.draft(draft.seq).seal())


def does_not_open(world: World, draft: Draft) -> None:
    draft.flip_last = True


def head_beyond_the_plaintext(world: World, draft: Draft) -> None:
    draft.head_length = 5000


def large_body(world: World, draft: Draft) -> None:
    draft.body = b"x" * 65


def other_head(world: World, draft: Draft) -> None:
    draft.head = draft.head | {"extra": 1}


def past_deadline(world: World, draft: Draft) -> None:
    draft.head = draft.head | {"d": NOW}


def far_deadline(world: World, draft: Draft) -> None:
    draft.head = draft.head | {"d": NOW + 600_001}


def forged_caller(world: World, draft: Draft) -> None:
    caller = {"address": "0x" + "ab" * 20, "expiry": NOW // 1000 + 60, "signature": "0x" + "01" * 64 + "1b"}
    draft.head = draft.head | {"c": caller}


Defect = Callable[[World, Draft], None]
# (step of spec 6, defect, code, whether the refusal is sealed)
DEFECTS: list[tuple[int, Defect, str, bool]] = [
    (1, too_large, "envelope.too_large", False),
    (1, other_shape, "envelope.malformed", False),
    (2, other_boot, "envelope.wrong_boot", False),
    (3, unknown_certificate, "envelope.certificate_unknown", False),
    (4, other_ciphertext, "envelope.psk_mismatch", False),
    (5, dropped_session, "envelope.session_expired", False),
    (5, served_one_shot, "envelope.replay", False),
    (6, unknown_psk, "envelope.psk_unknown", False),
    (7, seen_number, "envelope.replay", False),
    (8, does_not_open, "envelope.not_authentic", False),
    (9, head_beyond_the_plaintext, "envelope.malformed", False),
    (9, large_body, "envelope.too_large", False),
    (9, other_head, "envelope.head", False),
    (10, past_deadline, "envelope.deadline", True),
    (10, far_deadline, "envelope.deadline", True),
    (11, forged_caller, "envelope.caller", True),
]
# Both at once say nothing: one undoes or hides the other.
APART = {
    frozenset((other_ciphertext, unknown_psk)),
    frozenset((seen_number, dropped_session)),
    frozenset((seen_number, served_one_shot)),
    frozenset((seen_number, unknown_psk)),
    frozenset((dropped_session, served_one_shot)),
    frozenset((does_not_open, too_large)),  # the flip changes the padding only
}
PAIRS = [
    (one, two) for one, two in combinations(DEFECTS, 2) if one[0] < two[0] and frozenset((one[1], two[1])) not in APART
]


@pytest.mark.parametrize("step", DEFECTS, ids=lambda s: f"{s[0]} {s[1].__name__}")
def test_6_each_defect_alone_has_its_name(step: tuple[int, Defect, str, bool]) -> None:
    _, defect, code, is_sealed = step
    world = World(limits=LIMITS)
    draft = SecondClient(world).draft()
    defect(world, draft)
    assert code_of(world, draft.seal()) == (code, is_sealed)


@pytest.mark.parametrize("pair", PAIRS, ids=lambda p: f"{p[0][1].__name__} before {p[1][1].__name__}")
def test_6_of_two_defects_the_earlier_step_is_named(pair: Any) -> None:
    (_, first, code, is_sealed), (_, second, _, _) = pair
    world = World(limits=LIMITS)
    draft = SecondClient(world).draft()
    for defect in (second, first) if first is dropped_session else (first, second):
        defect(world, draft)
    assert code_of(world, draft.seal()) == (code, is_sealed)


def test_6_1_the_cap_is_the_body_and_everything_that_may_stand_around_it() -> None:
    """Header 142, IBE length 2 and text 4096, head length 4 and text 64 KiB, tag 16."""
    world = World(limits=LIMITS)
    cap = 64 + 142 + 2 + 4096 + 4 + 65536 + 16
    record = SecondClient(world).draft().seal()
    assert code_of(world, record + bytes(cap - len(record)))[0] == "envelope.not_authentic"
    assert code_of(world, record + bytes(cap - len(record) + 1))[0] == "envelope.too_large"


@pytest.mark.parametrize("size", [0, 15, 16, 19, 20])
def test_6_1_a_record_needs_room_for_a_head_length_and_a_tag(size: int) -> None:
    world = World()
    draft = SecondClient(world).draft(ibe=b"")
    cut = draft.seal()[: 144 + size]
    wanted = "envelope.malformed" if size < 20 else "envelope.psk_unknown"
    assert code_of(world, cut)[0] == wanted


def test_6_1_an_ibe_ciphertext_of_4096_bytes_is_taken_and_one_more_is_not() -> None:
    world = World()
    for size, code in ((4096, None), (4097, "envelope.malformed")):
        client = SecondClient(world, ciphertext=b"i" * size)
        if code is None:
            assert opened(world, client.draft().seal()).body == b"body"
        else:
            assert code_of(world, client.draft().seal())[0] == code


def test_6_4_the_ciphertext_is_compared_even_when_the_psk_is_known() -> None:
    world = World()
    client = SecondClient(world)
    opened(world, client.draft(0).seal())
    record = client.draft(1).seal()
    flipped = record[:144] + bytes([record[144] ^ 1]) + record[145:]
    assert code_of(world, flipped)[0] == "envelope.psk_mismatch"
    assert opened(world, record).seq == 1


def test_6_8_only_an_opened_record_marks_its_number() -> None:
    world = World()
    client = SecondClient(world)
    opened(world, client.draft(0).seal())
    assert code_of(world, client.draft(1, flip_last=True).seal())[0] == "envelope.not_authentic"
    assert opened(world, client.draft(1).seal()).seq == 1


@pytest.mark.parametrize("defect", [other_head, large_body, past_deadline, forged_caller])
def test_6_8_a_number_is_used_up_by_whatever_is_refused_after_it_opened(defect: Defect) -> None:
    world = World(limits=LIMITS)
    client = SecondClient(world)
    opened(world, client.draft(0).seal())
    draft = client.draft(1)
    defect(world, draft)
    code_of(world, draft.seal())
    assert code_of(world, client.draft(1).seal())[0] == "envelope.replay"


def test_6_10_a_refused_one_shot_may_be_served_later_but_once_and_before_its_deadline() -> None:
    """A deadline too far ahead is refused; the same bytes are good when it has come near, as the spec says."""
    world = World()
    draft = SecondClient(world).draft(kind=2)
    far_deadline(world, draft)
    record = draft.seal()
    assert code_of(world, record) == ("envelope.deadline", True)
    assert opened(world, record, NOW + 1).body == b"body"
    with pytest.raises(EnvelopeError, match=r"envelope\.replay"):
        opened(world, record, NOW + 1)
    with pytest.raises(EnvelopeError, match=r"envelope\.(deadline|replay)"):
        opened(world, record, NOW + 700_000)


@pytest.mark.parametrize("step", [s for s in DEFECTS if s[3]], ids=lambda s: s[1].__name__)
def test_8_sealed_refusals_are_one_final_chunk_that_the_caller_alone_reads(
    step: tuple[int, Defect, str, bool],
) -> None:
    world = World()
    client = SecondClient(world)
    draft = client.draft(5)
    step[1](world, draft)
    with pytest.raises(SealedRefusalError) as caught:
        opened(world, draft.seal())
    ((last, text),) = client.chunks(5, REQUEST_ID, caught.value.sealed)
    value = json.loads(text)
    assert (last, set(value), set(value["error"])) == (
        1,
        {"status", "error"},
        {"code", "check", "expected", "found", "remedy"},
    )
    assert (value["error"]["code"], value["status"]) == (step[2], caught.value.status)
    assert step[2].encode() not in caught.value.sealed


# 5: the head's fields


MISSING_IS_REFUSED = ["id", "m", "p", "d"]


@pytest.mark.parametrize("name", ["v", "id", "m", "p", "h", "d", "idem", "c"])
def test_5_a_field_left_out_has_its_default_or_is_refused(name: str) -> None:
    world = World()
    draft = SecondClient(world).draft()
    draft.head = {k: v for k, v in draft.head.items() if k != name}
    if name in MISSING_IS_REFUSED:
        assert code_of(world, draft.seal())[0] == "envelope.head"
    else:
        assert opened(world, draft.seal()).head.version == 1


OTHER_FIELDS: dict[str, tuple[str, Any]] = {
    "version 2": ("v", 2),
    "a version as text": ("v", "1"),
    "a request id of 15 bytes": ("id", "0x" + "0a" * 15),
    "a request id without 0x": ("id", "0a" * 16),
    "a method of 17 letters": ("m", "A" * 17),
    "a method with a digit": ("m", "GET1"),
    "a path of 8193": ("p", "/" + "a" * 8192),
    "a path with DEL": ("p", "/\x7f"),
    "headers as an object": ("h", {"a": "b"}),
    "a header of three": ("h", [["a", "b", "c"]]),
    "a header name of 257": ("h", [["a" * 257, "b"]]),
    "a deadline as text": ("d", str(NOW + 1000)),
    "an idempotency key of 129": ("idem", "k" * 129),
    "an idempotency key beyond ASCII": ("idem", "é"),
    "a caller without its signature": ("c", {"address": "0x" + "00" * 20, "expiry": 1}),
    "a caller with a field more": ("c", {"address": "", "expiry": 1, "signature": "", "x": 1}),
    "a caller whose expiry is negative": ("c", {"address": "", "expiry": -1, "signature": ""}),
    "a caller whose expiry is 2**53": ("c", {"address": "", "expiry": 2**53, "signature": ""}),
    "a caller as text": ("c", "0x" + "00" * 20),
}


@pytest.mark.parametrize("sentence", OTHER_FIELDS)
def test_5_heads_refused_for(sentence: str) -> None:
    name, value = OTHER_FIELDS[sentence]
    world = World()
    draft = SecondClient(world).draft()
    draft.head = draft.head | {name: value}
    assert code_of(world, draft.seal()) == ("envelope.head", False)


EDGES: dict[str, tuple[str, Any]] = {
    "a method of 16 letters": ("m", "A" * 16),
    "a path of 8192": ("p", "/" + "a" * 8191),
    "a path of every printable ASCII character": ("p", "/" + "".join(map(chr, range(0x21, 0x7F)))),
    "128 headers": ("h", [["a", "b"]] * 128),
    "a header name of 256": ("h", [["a" * 256, ""]]),
    "a header name of every token character": ("h", [["!#$%&'*+-.^_`|~0123456789abcxyz", "1"]]),
    "a header value of 16384": ("h", [["a", "v" * 16384]]),
    "a header value with a tab and Latin-1": ("h", [["a", "\t ~\x80\xff"]]),
    "an idempotency key of 128": ("idem", "k" * 128),
    "a deadline in one millisecond": ("d", NOW + 1),
    "a deadline in ten minutes": ("d", NOW + 600_000),
    "an empty body": ("x", None),
}


@pytest.mark.parametrize("sentence", EDGES)
def test_5_heads_served_with(sentence: str) -> None:
    name, value = EDGES[sentence]
    world = World()
    draft = SecondClient(world).draft()
    if name == "x":
        draft.body = b""
    else:
        draft.head = draft.head | {name: value}
    assert opened(world, draft.seal()).body == draft.body


def test_5_a_head_of_64_kib_is_taken_and_one_byte_more_is_not() -> None:
    for size, good in ((65536, True), (65537, False)):
        world = World()
        draft = SecondClient(world).draft()
        text = json.dumps(draft.head).encode()
        draft.head_bytes = text + b" " * (size - len(text))
        if good:
            assert opened(world, draft.seal()).body == b"body"
        else:
            assert code_of(world, draft.seal())[0] == "envelope.malformed"


# 9: the caller's signature, from the specification alone


def test_9_a_caller_who_signs_from_the_specification_alone_is_believed() -> None:
    world = World()
    client, wallet, expiry = SecondClient(world), key(55), NOW // 1000 + 60
    exporter = client.context.export(framed("sealed/info", b"caller"), 32)
    word = CallerSession(agent=client.agent, boot=client.boot, exporter=exporter, expiry=expiry)
    signature = sign_digest(wallet, word.digest(world.certificate.network))
    caller = {"address": to_hex(address_of(wallet)), "expiry": expiry, "signature": to_hex(signature)}
    draft = client.draft()
    draft.head = draft.head | {"c": caller}
    request = opened(world, draft.seal())
    assert request.caller is not None
    assert (request.caller.address, request.caller.expiry) == (address_of(wallet), expiry)
    later = opened(world, client.draft(1).seal())
    assert later.caller == request.caller


# 4: what the record of our own client says


def test_4_our_clients_record_has_the_layout_of_the_specification() -> None:
    world = World()
    sealed = world.client.seal(head(), b"x")
    data, cert = sealed.data, world.certificate
    assert data[:4] == b"CLS1"
    assert (data[4], data[5]) == (1, 1)
    assert (data[6:38], data[38:70]) == (cert.boot, cert.id)
    assert data[102:134] == hashlib.sha256(world.psk.ciphertext).digest() == world.psk.id
    assert data[134:142] == bytes(8)
    size = int.from_bytes(data[142:144], "big")
    assert data[144 : 144 + size] == world.psk.ciphertext
    bare = world.client.seal(head(), b"x", with_ibe=False).data
    assert (bare[5], bare[134:144]) == (0, (1).to_bytes(8, "big") + b"\0\0")
    assert world.session(one_shot=True).seal(head(), b"x").data[4] == 2


def test_a_refusal_from_the_opening_of_a_psk_passes_through_and_marks_nothing() -> None:
    world = World()
    client = SecondClient(world)

    def broken(certificate: object, ciphertext: bytes) -> bytes:
        raise EnvelopeError(code="test.psk", check="c", expected="e", found="f", remedy="r")

    with pytest.raises(CloisterError, match=r"test\.psk"):
        world.server.open_request(AGENT, client.draft().seal(), NOW, broken)
    assert opened(world, client.draft().seal()).body == b"body"
