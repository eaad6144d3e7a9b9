"""spec/receipts.md, number by number: the bytes read anew, the order of the checks, logs that were tampered with."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import fields, replace
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloister.core.encoding.signatures import address_of, recover, sign_digest
from cloister.core.errors import CloisterError, ReceiptError
from cloister.core.receipts.receipt import MAX_RECEIPT, ZERO, Exchange, Receipt, ReceiptChain, StateChange, Usage
from cloister.core.receipts.verify import Admission, verify_chain, verify_receipt
from support.sealed import BOOT, NOW, WORKER, key, lease, make_seat

SPEC = (Path(__file__).parents[4] / "spec" / "receipts.md").read_text()
CERT = make_seat(b"\x09" * 32).certificate
EXCHANGE = Exchange(b"\x0a" * 16, 200, b"\x0b" * 32, b"\x0c" * 32)
ADMISSION = Admission.of_lease(lease())


def issue(log: ReceiptChain, **changes: Any) -> Receipt:
    return log.issue(CERT, replace(EXCHANGE, **changes), checkpoint=123, host_time_ms=NOW)[0]


def new_log() -> ReceiptChain:
    return ReceiptChain(address_of(WORKER), BOOT, lambda d: sign_digest(WORKER, d))


RECEIPT = issue(new_log())
USED = (
    "cpu_us",
    "duration_us",
    "egress_bytes",
    "ingress_bytes",
    "memory_peak_bytes",
    "request_bytes",
    "response_bytes",
)


# 1, 2: bytes and names, without our encoder


def test_1_the_fields_are_those_that_the_specification_lists() -> None:
    listed = SPEC.partition("1. Receipt = JCS{")[2].partition("}. At most")[0]
    for inner in ("epochs: {master, cluster, agent}", f"usage: {{{', '.join(USED)}}}"):
        assert inner in listed
    value = json.loads(RECEIPT.encoded)
    assert set(value["epochs"]) == {"master", "cluster", "agent"}
    assert tuple(value["usage"]) == USED
    assert set(value["state"]) == {"before", "after", "kind"}
    top = {"v", "network", "agent", "code_hash", "manifest_hash", "epochs", "worker", "boot", "seq", "prev",
           "request_id", "request", "response", "state", "usage", "status", "checkpoint", "host_time_ms"}  # fmt: skip
    assert set(value) == top
    assert all(name in listed for name in top)


def test_1_the_largest_receipt_is_far_below_its_cap() -> None:
    most = 2**53 - 1
    numbers: dict[str, Any] = {f.name: most for f in fields(Receipt) if f.type == "int"}
    large = replace(
        RECEIPT,
        **numbers,
        state=StateChange(b"\xff" * 32, b"\xff" * 32, "endorsed"),
        usage=Usage(*[most] * len(USED)),
    )
    assert len(numbers) == 7
    assert Receipt.decode(large.encoded) == large
    assert len(large.encoded) < MAX_RECEIPT == 4096


def test_1_another_version_is_refused_whatever_its_type() -> None:
    for version in (0, 1, 3, True, 2.0, "2", None):
        with pytest.raises(CloisterError):
            Receipt.from_json({**RECEIPT.to_json(), "v": version})


def test_2_the_id_and_its_signature_read_anew() -> None:
    log = new_log()
    receipt, signature = log.issue(CERT, EXCHANGE, checkpoint=5, host_time_ms=7)
    framed = b"cloister/v1/receipt\0" + len(receipt.encoded).to_bytes(4, "big") + receipt.encoded
    assert hashlib.sha256(framed).digest() == receipt.id
    assert recover(receipt.id, signature) == address_of(WORKER) == receipt.worker


def test_2_the_log_takes_what_it_is_given_and_defaults_to_nothing() -> None:
    log = new_log()
    state, usage = StateChange(b"\1" * 32, b"\2" * 32, "local"), Usage(1, 2, 3, 4, 5, 6, 7)
    receipt, _ = log.issue(CERT, EXCHANGE, checkpoint=5, host_time_ms=7, state=state, usage=usage)
    assert (receipt.state, receipt.usage, receipt.checkpoint, receipt.host_time_ms) == (state, usage, 5, 7)
    plain, _ = log.issue(CERT, EXCHANGE, checkpoint=5, host_time_ms=7)
    assert (plain.state, plain.usage) == (StateChange(ZERO, ZERO, "none"), Usage(*[0] * len(USED)))
    assert (plain.request_id, plain.status, plain.request, plain.response) == (
        EXCHANGE.request_id,
        EXCHANGE.status,
        EXCHANGE.request,
        EXCHANGE.response,
    )


@pytest.mark.parametrize("changes", [{"worker": b"\1" * 20}, {"boot": b"\1" * 32}], ids=["worker", "boot"])
def test_2_a_log_signs_for_its_own_worker_and_boot_alone(changes: dict[str, Any]) -> None:
    log = new_log()
    with pytest.raises(ValueError, match="another worker or boot"):
        log.issue(replace(CERT, **changes), EXCHANGE, checkpoint=1, host_time_ms=1)
    assert log.head == (0, ZERO)


PARTS = [
    "network",
    "agent",
    "code_hash",
    "manifest_hash",
    "worker",
    "boot",
    "prev",
    "request_id",
    "request",
    "response",
]


@pytest.mark.parametrize("name", PARTS)
def test_a_receipt_cannot_be_made_with_a_part_of_another_size(name: str) -> None:
    value = getattr(RECEIPT, name)
    for wrong in (value[:-1], value + b"\0", value.hex(), None):
        with pytest.raises(CloisterError, match=r"encoding\.size"):
            replace(RECEIPT, **dict[str, Any]({name: wrong}))


def test_a_state_change_or_a_usage_cannot_be_made_out_of_form() -> None:
    for change in ({"before": b"\1"}, {"after": b"\1" * 33}, {"before": None}):
        with pytest.raises(CloisterError, match=r"encoding\.size"):
            StateChange(**dict[str, Any](change))
    for name in USED:
        for number in (-1, 2**53, True, 1.5):
            with pytest.raises(CloisterError, match=r"encoding\.size"):
                Usage(**dict[str, Any]({name: number}))


# 4: the order of the checks

Given = tuple[Receipt, bool, Admission, Exchange]


def with_receipt(given: Given, **changes: Any) -> Given:
    return replace(given[0], **changes), *given[1:]


DEFECTS: list[tuple[str, Callable[[Given], Given]]] = [
    ("receipt.wrong_certificate", lambda g: with_receipt(g, agent_epoch=77)),
    ("receipt.signature", lambda g: (g[0], False, g[2], g[3])),
    ("receipt.not_admitted", lambda g: (g[0], g[1], replace(g[2], removed=True), g[3])),
    ("receipt.wrong_exchange", lambda g: (g[0], g[1], g[2], replace(g[3], response=b"\1" * 32))),
]


def verify(given: Given, spoil: bytes = b"") -> Receipt:
    receipt, honest, admission, exchange = given
    signature = sign_digest(WORKER if honest else key(9), receipt.id)
    return verify_receipt(receipt.encoded + spoil, signature, CERT, admission, exchange)


@pytest.mark.parametrize("second", range(len(DEFECTS)))
@pytest.mark.parametrize("first", range(len(DEFECTS)))
def test_4_of_two_defects_the_earlier_step_is_named(first: int, second: int) -> None:
    given = DEFECTS[second][1](DEFECTS[first][1]((RECEIPT, True, ADMISSION, EXCHANGE)))
    with pytest.raises(ReceiptError) as caught:
        verify(given)
    assert caught.value.code == DEFECTS[min(first, second)][0]
    with pytest.raises(ReceiptError, match=r"receipt\.malformed"):
        verify(given, spoil=b"\n")


@pytest.mark.parametrize(("checkpoint", "good"), [(0, True), (199, True), (200, False), (201, False)])
def test_4_4_an_admission_holds_for_blocks_below_its_expiry(checkpoint: int, good: bool) -> None:
    given = (replace(RECEIPT, checkpoint=checkpoint), True, ADMISSION, EXCHANGE)
    assert ADMISSION.expiry == 200
    if good:
        assert verify(given).checkpoint == checkpoint
    else:
        with pytest.raises(ReceiptError, match=r"receipt\.not_admitted"):
            verify(given)


def test_4_4_a_removed_worker_counts_at_no_height() -> None:
    for checkpoint in (0, 123, 199):
        with pytest.raises(ReceiptError, match=r"receipt\.not_admitted"):
            verify((replace(RECEIPT, checkpoint=checkpoint), True, replace(ADMISSION, removed=True), EXCHANGE))


def test_4_5_without_texts_the_exchange_is_not_judged_and_all_else_is() -> None:
    odd = replace(RECEIPT, status=599, response=b"\7" * 32)
    signature = sign_digest(WORKER, odd.id)
    assert verify_receipt(odd.encoded, signature, CERT, ADMISSION, None) == odd
    with pytest.raises(ReceiptError, match=r"receipt\.not_admitted"):
        verify_receipt(odd.encoded, signature, CERT, replace(ADMISSION, boot=b"\1" * 32), None)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 64), st.integers(1, 255))
def test_4_3_no_changed_byte_of_a_signature_is_accepted(at: int, flip: int) -> None:
    signature = bytearray(sign_digest(WORKER, RECEIPT.id))
    signature[at] ^= flip
    with pytest.raises(ReceiptError, match=r"receipt\.signature"):
        verify_receipt(RECEIPT.encoded, bytes(signature), CERT, ADMISSION, EXCHANGE)


def test_4_3_the_other_root_of_a_signature_is_refused() -> None:
    """(r, n - s) with the other parity signs the same digest: one receipt has one signature."""
    order = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
    good = sign_digest(WORKER, RECEIPT.id)
    twin = good[:32] + (order - int.from_bytes(good[32:64], "big")).to_bytes(32, "big") + bytes([55 - good[64]])
    with pytest.raises(ReceiptError, match=r"receipt\.signature"):
        verify_receipt(RECEIPT.encoded, twin, CERT, ADMISSION, EXCHANGE)


# 5: logs


LOG = new_log()
RECEIPTS = [issue(LOG, request_id=bytes([i]) * 16) for i in range(5)]


def test_5_of_all_orders_of_a_log_only_the_true_one_holds() -> None:
    good = tuple(range(4))
    for order in permutations(good):
        if order == good:
            verify_chain([RECEIPTS[i] for i in order])
        else:
            with pytest.raises(ReceiptError, match=r"receipt\.chain"):
                verify_chain([RECEIPTS[i] for i in order])


@given(st.lists(st.integers(0, 4), min_size=2, max_size=6))
def test_5_a_list_holds_exactly_if_it_is_a_stretch_of_the_log(picked: list[int]) -> None:
    stretch = picked == list(range(picked[0], picked[0] + len(picked)))
    try:
        verify_chain([RECEIPTS[i] for i in picked])
    except ReceiptError:
        assert not stretch
    else:
        assert stretch


@pytest.mark.parametrize("name", [f.name for f in fields(Receipt) if f.name not in ("seq", "prev", "worker", "boot")])
def test_5_a_change_to_any_field_of_a_receipt_breaks_the_log_behind_it(name: str) -> None:
    value = getattr(RECEIPTS[2], name)
    changed: Any = Usage(cpu_us=1) if name == "usage" else StateChange(b"\1" * 32, ZERO, "local")
    if isinstance(value, int):
        changed = value + 1
    elif isinstance(value, bytes):
        changed = bytes([value[0] ^ 1]) + value[1:]
    forged = [*RECEIPTS[:2], replace(RECEIPTS[2], **{name: changed}), *RECEIPTS[3:]]
    with pytest.raises(ReceiptError, match=r"receipt\.chain"):
        verify_chain(forged)


@pytest.mark.parametrize("changes", [{"worker": b"\1" * 20}, {"boot": b"\1" * 32}], ids=["worker", "boot"])
def test_5_a_log_is_of_one_worker_and_one_boot(changes: dict[str, Any]) -> None:
    other = replace(RECEIPTS[1], **changes)
    with pytest.raises(ReceiptError, match=r"receipt\.chain"):
        verify_chain([RECEIPTS[0], other])
    log = ReceiptChain(other.worker, other.boot, lambda d: sign_digest(WORKER, d))
    log._seq, log._prev = 1, RECEIPTS[0].id
    with pytest.raises(ReceiptError, match=r"receipt\.chain"):  # even where numbers and links fit
        verify_chain([RECEIPTS[0], issue_for(log, **changes)])


def issue_for(log: ReceiptChain, **changes: Any) -> Receipt:
    return log.issue(replace(CERT, **changes), EXCHANGE, checkpoint=1, host_time_ms=1)[0]


def test_5_the_first_of_a_boot_names_nobody_before_it() -> None:
    verify_chain([RECEIPTS[0]])
    with pytest.raises(ReceiptError, match=r"receipt\.chain"):
        verify_chain([replace(RECEIPTS[0], prev=b"\1" * 32)])
    verify_chain([RECEIPTS[3]])  # a stretch may begin anywhere
