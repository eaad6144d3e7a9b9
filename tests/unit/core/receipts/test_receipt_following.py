"""A receipt made from another one of its certificate is the receipt that would have been made from nothing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloister.core.encoding import jcs
from cloister.core.encoding.contexts import Context, digest
from cloister.core.encoding.signatures import address_of, sign_digest
from cloister.core.errors import EncodingError
from cloister.core.receipts.receipt import NO_CHANGE, NO_USAGE, Exchange, Receipt, ReceiptChain, StateChange, Usage
from support.sealed import BOOT, NOW, WORKER, make_seat

CERT = make_seat(b"\x09" * 32).certificate
OTHER = make_seat(b"\x19" * 32).certificate
EXCHANGE = Exchange(b"\x0a" * 16, 200, b"\x0b" * 32, b"\x0c" * 32)
U53 = st.integers(0, 2**53 - 1)
B32 = st.binary(min_size=32, max_size=32)
EXCHANGES = st.builds(Exchange, st.binary(min_size=16, max_size=16), st.integers(100, 599), B32, B32)
CHANGES = st.one_of(
    st.just(NO_CHANGE), st.builds(StateChange, B32, B32, st.sampled_from(["local", "endorsed"])), st.just(StateChange())
)
USAGES = st.builds(Usage, U53, U53, U53, U53, U53, U53, U53)


def chain() -> ReceiptChain:
    return ReceiptChain(address_of(WORKER), BOOT, lambda d: sign_digest(WORKER, d))


def first(**changes: Any) -> Receipt:
    return replace(chain().issue(CERT, EXCHANGE, checkpoint=5, host_time_ms=NOW)[0], **changes)


@settings(max_examples=80, deadline=None)
@given(seq=U53, prev=B32, exchange=EXCHANGES, checkpoint=U53, now=U53, state=CHANGES, usage=USAGES)
def test_it_equals_one_made_from_nothing_and_its_bytes_are_canonical(
    seq: int, prev: bytes, exchange: Exchange, checkpoint: int, now: int, state: StateChange, usage: Usage
) -> None:
    like = first()
    assert like.encoded
    assert like.id
    made = like.following(seq, prev, exchange, checkpoint, now, state, usage)
    wanted = first(
        seq=seq,
        prev=prev,
        request_id=exchange.request_id,
        status=exchange.status,
        request=exchange.request,
        response=exchange.response,
        checkpoint=checkpoint,
        host_time_ms=now,
        state=state,
        usage=usage,
    )
    assert made == wanted
    assert made.encoded == wanted.encoded == jcs.encode(made.to_json())
    assert made.id == wanted.id == digest(Context.RECEIPT, made.encoded)
    assert Receipt.decode(made.encoded) == made
    assert like == first(), "the one that it follows stays what it was"


_TEXT: Any = "0" * 32
_STATUS: Any = 200.0
WRONG: dict[str, dict[str, Any]] = {
    "a number below zero": {"seq": -1},
    "a number of more than 53 bits": {"checkpoint": 1 << 53},
    "a truth value for a number": {"host_time_ms": True},
    "a text for a number": {"seq": "1"},
    "a short id of the one before": {"prev": bytes(31)},
    "a long commitment to the request": {"exchange": replace(EXCHANGE, request=bytes(33))},
    "a text as commitment to the response": {"exchange": Exchange(bytes(16), 200, bytes(32), _TEXT)},
    "a short request id": {"exchange": replace(EXCHANGE, request_id=bytes(15))},
    "a status that is no number": {"exchange": Exchange(bytes(16), _STATUS, bytes(32), bytes(32))},
}


@pytest.mark.parametrize("what", WRONG)
def test_refused_for(what: str) -> None:
    fields: dict[str, Any] = {
        "seq": 1,
        "prev": bytes(32),
        "exchange": EXCHANGE,
        "checkpoint": 5,
        "host_time_ms": NOW,
        "state": NO_CHANGE,
        "usage": NO_USAGE,
    }
    with pytest.raises(EncodingError):
        first().following(**(fields | WRONG[what]))


@pytest.mark.parametrize("value", [-1, 1 << 53, True, "1", 1.0, None])
@pytest.mark.parametrize("name", Usage.__struct_fields__)
def test_usage_takes_numbers_of_53_bits_alone(name: str, value: object) -> None:
    with pytest.raises(EncodingError):
        Usage(**{name: value})  # type: ignore[arg-type]


def test_a_chain_keeps_certificates_apart_and_few_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cloister.core.receipts.receipt._KINDS_OF_RECEIPTS", 1)
    log = chain()
    for number in range(6):
        certificate = (CERT, OTHER)[number % 2]
        receipt = log.add(certificate, EXCHANGE, checkpoint=5, host_time_ms=NOW)
        assert (receipt.seq, receipt.agent) == (number, certificate.agent)
        assert jcs.encode(receipt.to_json()) == receipt.encoded
        assert len(log._like) == 1
