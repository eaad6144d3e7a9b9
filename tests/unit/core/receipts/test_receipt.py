"""Receipts: their bytes, every check of the verifier by number, and the chain of one boot."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloister.core.encoding import jcs
from cloister.core.encoding.contexts import Context, digest
from cloister.core.encoding.signatures import address_of, sign_digest
from cloister.core.envelope.model import check_headers
from cloister.core.envelope.opener import Final, Head
from cloister.core.errors import CloisterError, ReceiptError
from cloister.core.receipts.commitments import request_commitment, response_commitment
from cloister.core.receipts.receipt import ZERO, Exchange, Receipt, ReceiptChain, StateChange, Usage
from cloister.core.receipts.verify import Admission, verify_chain, verify_receipt
from support.sealed import BOOT, NOW, WORKER, World, head, key, lease, make_seat

CERT = make_seat(b"\x09" * 32).certificate
EXCHANGE = Exchange(b"\x0a" * 16, 200, b"\x0b" * 32, b"\x0c" * 32)
ADMISSION = Admission.of_lease(lease())
U53 = st.integers(0, 2**53 - 1)
B32 = st.binary(min_size=32, max_size=32)


def chain() -> ReceiptChain:
    return ReceiptChain(address_of(WORKER), BOOT, lambda d: sign_digest(WORKER, d))


def issue(log: ReceiptChain | None = None, exchange: Exchange = EXCHANGE) -> tuple[Receipt, bytes]:
    return (log or chain()).issue(CERT, exchange, checkpoint=123, host_time_ms=NOW)


RECEIPT, SIGNATURE = issue()


@settings(max_examples=60, deadline=None)
@given(
    st.builds(
        Receipt,
        network=B32,
        agent=B32,
        code_hash=B32,
        manifest_hash=B32,
        master_epoch=U53,
        cluster_epoch=U53,
        agent_epoch=U53,
        worker=st.binary(min_size=20, max_size=20),
        boot=B32,
        seq=U53,
        prev=B32,
        request_id=st.binary(min_size=16, max_size=16),
        request=B32,
        response=B32,
        status=U53,
        checkpoint=U53,
        host_time_ms=U53,
        state=st.builds(StateChange, B32, B32, st.sampled_from(["local", "endorsed", "none"])),
        usage=st.builds(Usage, U53, U53, U53, U53),
    )
)
def test_the_bytes_written_directly_are_the_canonical_ones(receipt: Receipt) -> None:
    assert receipt.encoded == jcs.encode(receipt.to_json())
    assert Receipt.decode(receipt.encoded) == receipt
    assert receipt.id == digest(Context.RECEIPT, receipt.encoded)


@given(
    st.integers(100, 599),
    st.lists(
        st.tuples(st.just("x-name"), st.text(st.characters(min_codepoint=0x20, max_codepoint=0xFF), max_size=30)),
        max_size=4,
    ),
    st.binary(max_size=50),
)
def test_the_response_commitment_is_over_canonical_headers(
    status: int, headers: list[tuple[str, str]], body: bytes
) -> None:
    try:
        check_headers(tuple(headers))
    except CloisterError:
        return
    body_hash = hashlib.sha256(body).digest()
    canonical = jcs.encode([list(pair) for pair in headers])
    expected = digest(Context.RECEIPT_RESPONSE, b"s" * 32, status.to_bytes(2, "big"), canonical, body_hash)
    assert response_commitment(b"s" * 32, status, headers, body_hash) == expected


@given(B32, st.binary(max_size=300), st.binary(max_size=300))
def test_the_request_commitment_is_the_digest_of_its_parts(salt: bytes, first: bytes, body: bytes) -> None:
    expected = digest(Context.RECEIPT_REQUEST, salt, first, hashlib.sha256(body).digest())
    assert request_commitment(salt, first, body) == expected


def test_commitments_depend_on_salt_head_and_body() -> None:
    base = request_commitment(b"s" * 32, b"head", b"body")
    others = {
        request_commitment(b"t" * 32, b"head", b"body"),
        request_commitment(b"s" * 32, b"heae", b"body"),
        request_commitment(b"s" * 32, b"head", b"bodz"),
        request_commitment(b"s" * 32, b"headb", b"ody"),
    }
    assert base not in others
    assert len(others) == 4


def test_a_good_receipt_verifies_with_and_without_texts() -> None:
    assert verify_receipt(RECEIPT.encoded, SIGNATURE, CERT, ADMISSION, EXCHANGE) == RECEIPT
    assert verify_receipt(RECEIPT.encoded, SIGNATURE, CERT, ADMISSION, None) == RECEIPT


def resigned(**changes: Any) -> tuple[bytes, bytes]:
    receipt = replace(RECEIPT, **changes)
    return receipt.encoded, sign_digest(WORKER, receipt.id)


Case = tuple[str, Callable[[], tuple[bytes, bytes]]]
REFUSALS: dict[str, Case] = {
    "1 not canonical": ("receipt.malformed", lambda: (RECEIPT.encoded + b" ", SIGNATURE)),
    "1 too large": ("receipt.malformed", lambda: (b'"' + b"x" * 5000 + b'"', SIGNATURE)),
    "2 another network": ("receipt.wrong_certificate", lambda: resigned(network=b"\1" * 32)),
    "2 another agent": ("receipt.wrong_certificate", lambda: resigned(agent=b"\1" * 32)),
    "2 other code": ("receipt.wrong_certificate", lambda: resigned(code_hash=b"\1" * 32)),
    "2 another manifest": ("receipt.wrong_certificate", lambda: resigned(manifest_hash=b"\1" * 32)),
    "2 another master epoch": ("receipt.wrong_certificate", lambda: resigned(master_epoch=9)),
    "2 another cluster epoch": ("receipt.wrong_certificate", lambda: resigned(cluster_epoch=9)),
    "2 another agent epoch": ("receipt.wrong_certificate", lambda: resigned(agent_epoch=9)),
    "2 another worker": ("receipt.wrong_certificate", lambda: resigned(worker=b"\1" * 20)),
    "2 another boot": ("receipt.wrong_certificate", lambda: resigned(boot=b"\1" * 32)),
    "3 another signer": ("receipt.signature", lambda: (RECEIPT.encoded, sign_digest(key(9), RECEIPT.id))),
    "3 a signature over another receipt": ("receipt.signature", lambda: (resigned(seq=5)[0], SIGNATURE)),
    "3 a malformed signature": ("receipt.signature", lambda: (RECEIPT.encoded, b"\0" * 65)),
    "4 a height past the admission": ("receipt.not_admitted", lambda: resigned(checkpoint=200)),
    "5 another request id": ("receipt.wrong_exchange", lambda: resigned(request_id=b"\1" * 16)),
    "5 another status": ("receipt.wrong_exchange", lambda: resigned(status=500)),
    "5 another request": ("receipt.wrong_exchange", lambda: resigned(request=b"\1" * 32)),
    "5 another response": ("receipt.wrong_exchange", lambda: resigned(response=b"\1" * 32)),
}


@pytest.mark.parametrize("sentence", REFUSALS)
def test_refused_for(sentence: str) -> None:
    code, make = REFUSALS[sentence]
    encoded, signature = make()
    with pytest.raises(ReceiptError) as caught:
        verify_receipt(encoded, signature, CERT, ADMISSION, EXCHANGE)
    assert caught.value.code == code


@pytest.mark.parametrize(
    "admission",
    [
        replace(ADMISSION, worker=b"\1" * 20),
        replace(ADMISSION, boot=b"\1" * 32),
        replace(ADMISSION, removed=True),
        replace(ADMISSION, expiry=123),
    ],
    ids=["another worker", "another boot", "removed", "expired"],
)
def test_a_worker_not_admitted_then_is_refused(admission: Admission) -> None:
    with pytest.raises(ReceiptError, match=r"receipt\.not_admitted"):
        verify_receipt(RECEIPT.encoded, SIGNATURE, CERT, admission, EXCHANGE)


def test_every_flipped_byte_of_a_receipt_is_refused() -> None:
    for at in range(len(RECEIPT.encoded)):
        broken = RECEIPT.encoded[:at] + bytes([RECEIPT.encoded[at] ^ 1]) + RECEIPT.encoded[at + 1 :]
        with pytest.raises(ReceiptError):
            verify_receipt(broken, SIGNATURE, CERT, ADMISSION, EXCHANGE)


@given(st.binary(max_size=200))
def test_garbage_is_malformed(data: bytes) -> None:
    with pytest.raises(ReceiptError, match=r"receipt\.malformed"):
        Receipt.decode(data)


@pytest.mark.parametrize("name", sorted(RECEIPT.to_json()))
@pytest.mark.parametrize("value", [None, True, -1, "0x", [], {}, {"kind": "none"}, 2**53])
def test_a_field_of_another_type_is_refused(name: str, value: object) -> None:
    with pytest.raises(CloisterError):
        Receipt.from_json({**RECEIPT.to_json(), name: value})


@pytest.mark.parametrize("inner", ["epochs", "state", "usage"])
def test_unknown_inner_fields_are_refused(inner: str) -> None:
    value = json.loads(json.dumps(RECEIPT.to_json()))
    value[inner]["more"] = 1
    with pytest.raises(CloisterError):
        Receipt.from_json(value)
    del value[inner]
    with pytest.raises(CloisterError):
        Receipt.from_json(value)


def test_an_unknown_state_kind_is_refused() -> None:
    value = RECEIPT.to_json()
    value["state"]["kind"] = "sealed"
    with pytest.raises(ReceiptError, match=r"receipt\.malformed"):
        Receipt.from_json(value)


# The chain of one boot


def test_receipts_of_a_boot_are_numbered_and_linked() -> None:
    log = chain()
    receipts = [issue(log)[0] for _ in range(5)]
    assert [r.seq for r in receipts] == list(range(5))
    assert receipts[0].prev == ZERO
    assert log.head == (5, receipts[-1].id)
    verify_chain(receipts)
    verify_chain(receipts[2:])
    verify_chain([])


@pytest.mark.parametrize(
    "sentence", ["one left out", "two swapped", "one twice", "a fork", "two boots", "a false start"]
)
def test_a_broken_chain_is_refused_for(sentence: str) -> None:
    log = chain()
    receipts = [issue(log)[0] for _ in range(4)]
    if sentence == "one left out":
        del receipts[1]
    elif sentence == "two swapped":
        receipts[1], receipts[2] = receipts[2], receipts[1]
    elif sentence == "one twice":
        receipts.insert(1, receipts[1])
    elif sentence == "a fork":
        receipts[1] = replace(receipts[1], status=500)
    elif sentence == "two boots":
        receipts[2] = replace(receipts[2], boot=b"\1" * 32)
    else:
        receipts = [replace(receipts[0], prev=b"\1" * 32)]
    with pytest.raises(ReceiptError, match=r"receipt\.chain"):
        verify_chain(receipts)


def test_a_failed_signature_does_not_advance_the_chain() -> None:
    def broken(digest: bytes) -> bytes:
        raise OSError("the key is gone")

    log = ReceiptChain(address_of(WORKER), BOOT, broken)
    with pytest.raises(OSError, match="gone"):
        issue(log)
    assert log.head == (0, ZERO)


def test_a_certificate_of_another_boot_is_a_programming_error() -> None:
    with pytest.raises(ValueError, match="another worker or boot"):
        chain().issue(replace(CERT, boot=b"\1" * 32), EXCHANGE, checkpoint=1, host_time_ms=1)


# With the envelope


def test_a_call_and_its_receipt_fit_together() -> None:
    world = World()
    sealed = world.client.seal(head(), b"question")
    request = world.open(sealed.data)
    r = request.responder
    stream = r.head(200, (("content-type", "text/plain"),), 150) + r.chunk(b"ans") + r.chunk(b"wer")
    done = Exchange(bytes.fromhex(request.head.request_id[2:]), 200, request.commitment(), r.commitment(request.salt))
    receipt, signature = chain().issue(request.certificate, done, checkpoint=150, host_time_ms=NOW)
    events = sealed.opener.feed(stream + r.final(receipt.encoded, signature))
    first, final = events[0], events[-1]
    assert isinstance(first, Head)
    assert isinstance(final, Final)
    mine = Exchange(
        bytes.fromhex(sealed.request_id[2:]), first.status, sealed.commitment, sealed.opener.commitment(sealed.salt)
    )
    assert verify_receipt(final.receipt, final.signature, world.certificate, ADMISSION, mine) == receipt


def test_raw_receipt_bytes_survive_the_final_chunk() -> None:
    value = msgspec.json.encode({"receipt": msgspec.Raw(RECEIPT.encoded)})
    assert RECEIPT.encoded in value
