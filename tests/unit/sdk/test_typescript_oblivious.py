"""The TypeScript client through a real relay: what the Python client does there, and the same refusals.

Gateway and workers are those of the other tests. The client is given no address but the relay's.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from cloister.client.receipts import Kept
from cloister.core.encoding.hexes import to_hex
from cloister.core.encoding.signatures import address_of
from cloister.core.errors import EnvelopeError, define
from cloister.core.receipts.verify import Admission, verify_receipt
from support.fake_world import fresh, test_key
from support.relays import relaying

NO = define("test.typescript_oblivious_no", EnvelopeError, check="may ask", remedy="do not", status=403)
BUSY = define("test.typescript_oblivious_busy", EnvelopeError, check="a free worker", remedy="wait", status=503)
MODES = ("request", "fetch")
XWING = b"\x64\x7a"


@pytest.fixture
def over(net: Any) -> Iterator[Any]:
    """``net``, whose calls are oblivious from here on: ``over.open()`` connects."""
    with relaying(net.gateway.url) as url:

        def connect(**options: Any) -> Any:
            demand = options.pop("demand", {})
            pin = {"fingerprint": net.world.network.fingerprint(), "now": net.world.now}
            net.typescript.ok("connect", url="http://gateway.invalid", oblivious=url, **pin, **options)
            return net.typescript.do("agent", name=to_hex(net.agent), demand=demand)

        net.open = connect
        yield net


def code(result: dict[str, Any]) -> str:
    assert "error" in result, result
    return str(result["error"]["code"])


def ran(net: Any) -> list[Any]:
    return [*net.one.ran, *net.two.ran]


def hybrid(net: Any) -> None:
    """Every seat has X-Wing besides."""
    net.one.hybrid = net.two.hybrid = True
    net.gateway.offer(net.agent)


# --- answers ---


@pytest.mark.parametrize("how", MODES)
def test_a_call_through_a_relay_is_answered_with_receipt_and_proof(how: str, over: Any) -> None:
    assert "ok" in over.open()
    answer = over.call("/ask?q=1", json={"text": "héllo"}, init={"headers": {"x-note": "é"}}, how=how)["ok"]
    said = json.loads(answer["text"])
    assert (said["method"], said["path"], json.loads(said["body"])) == ("POST", "/ask?q=1", {"text": "héllo"})
    assert dict(ran(over)[0].head.headers)["x-note"] == "é"
    assert (answer["status"], answer["attempts"]) == (200, 1)
    assert over.gateway.calls == [], "nothing went the other way"
    kept = Kept.from_json(answer["kept"])
    verify_receipt(kept.raw, kept.signature, kept.seat.certificate, Admission.of_lease(kept.seat.lease.statement), None)
    assert kept.receipt.request == ran(over)[0].commitment()


def test_what_the_gateway_hears_names_nobody_and_no_word_of_it(over: Any) -> None:
    over.open(key=to_hex(test_key("caller").secret))
    answer = over.call("/private-path", json={"x": "private"}, init={"headers": {"x-private": "private"}})["ok"]
    address = address_of(test_key("caller"))
    assert json.loads(answer["text"])["caller"] == to_hex(address), "the agent knows him"
    names = {name.lower() for _, headers in over.gateway.heard for name in headers}
    assert names <= {"host", "content-type", "content-length", "accept", "accept-encoding"}
    for data in over.gateway.oblivious:
        assert b"private" not in data
        assert address not in data


def test_every_request_has_a_context_of_its_own(over: Any) -> None:
    over.open()
    for number in range(3):
        over.call(f"/{number}")
    assert len({data[7:39] for data in over.gateway.oblivious}) == 3
    assert over.gateway.fetched.count("oblivious keys") <= 2, "keys are kept, by seat"


KINDS = {"request": "message/ohttp-req", "fetch": "message/ohttp-chunked-req"}


def test_what_is_read_as_it_comes_is_asked_for_in_chunks(over: Any) -> None:
    over.one.handler = over.two.handler = lambda request: (200, (), [b"one", b"two", b"three"])
    over.open()
    for how in MODES:
        assert over.call("/", json={}, how=how)["ok"]["text"] == "onetwothree"
    assert [headers["content-type"] for _, headers in heard(over)] == [KINDS[how] for how in MODES]


def heard(net: Any) -> list[tuple[str, dict[str, str]]]:
    return [(who, {name.lower(): value for name, value in said.items()}) for who, said in net.gateway.heard]


SPOILED_STREAMS: dict[str, tuple[Any, str]] = {
    "cut in its end": (lambda data: data[:-1], "ohttp.not_authentic"),
    "cut to its head": (lambda data: data[: 32 + 60], "ohttp.truncated"),
    "with bytes behind it": (lambda data: data + b"\0", "ohttp.not_authentic"),
}


@pytest.mark.parametrize("what", SPOILED_STREAMS)
def test_a_stream_is_no_answer_when_it_was(what: str, over: Any) -> None:
    spoil, expected = SPOILED_STREAMS[what]
    over.one.spoil = over.two.spoil = spoil
    over.open()
    found = code(over.call("/", json={}, how="fetch"))
    assert found in (expected, "client.outcome_unknown"), "after the head by its name, before it nobody knows"


# --- X-Wing ---


def test_x_wing_is_used_wherever_the_certificate_has_it(over: Any) -> None:
    hybrid(over)
    assert "ok" in over.open(demand={"postQuantum": True})
    assert over.call("/", json={})["ok"]["status"] == 200
    assert [data[1:3] for data in over.gateway.oblivious] == [XWING]


def test_who_leaves_the_x_wing_key_out_gets_no_call_under_the_other(over: Any) -> None:
    hybrid(over)
    over.gateway.spoil_keys = lambda keys: [one for one in keys if one["config"][4:8] == "0020"]
    over.open()
    assert code(over.call("/", json={})) == "client.oblivious_key"
    assert over.gateway.oblivious == []


# --- no way down ---

SPOILED_KEYS: dict[str, tuple[Any, str]] = {
    "no keys": (lambda keys: [], "client.oblivious_key"),
    "a key of another certificate": (
        lambda keys: [{**k, "certificate": to_hex(fresh())} for k in keys],
        "client.oblivious_key",
    ),
    "another configuration": (lambda keys: [{**k, "config": k["config"][:-2] + "02"} for k in keys], "encoding."),
    "no proof of the call key": (lambda keys: [{**k, "proof": "0x" + "00" * 96} for k in keys], "threshold.point"),
    "no object": (lambda keys: [5], "encoding.field"),
    "a longer object": (lambda keys: [{**k, "more": 1} for k in keys], "encoding.field"),
}


@pytest.mark.parametrize("what", SPOILED_KEYS)
def test_without_a_key_that_verifies_nothing_leaves(over: Any, what: str) -> None:
    spoil, expected = SPOILED_KEYS[what]
    over.gateway.spoil_keys = spoil
    over.open()
    found = code(over.call("/", json={}))
    assert found.startswith(expected)
    assert over.gateway.oblivious == []
    assert over.gateway.calls == []


def test_a_relay_that_is_not_there_is_said_so(net: Any) -> None:
    with relaying(net.gateway.url) as url:
        pass
    pin = {"fingerprint": net.world.network.fingerprint(), "now": net.world.now}
    assert net.typescript.refused("connect", url="http://gateway.invalid", oblivious=url, **pin) == "client.unreachable"


# --- refusals and losses ---


def test_an_authentic_refusal_has_its_code(over: Any) -> None:
    def refuse(request: Any) -> Any:
        raise NO(expected="a", found="b")

    over.one.handler = over.two.handler = refuse
    over.open()
    assert code(over.call("/", json={})) == NO.code
    assert len(ran(over)) == 1


@pytest.mark.long
def test_a_busy_worker_sends_a_safe_request_to_another_under_a_new_name(over: Any) -> None:
    def busy(request: Any) -> Any:
        raise BUSY(expected="a", found="b")

    over.one.handler = busy
    over.open()
    for number in range(4):
        assert over.call(f"/{number}")["ok"]["status"] == 200
    names = [r.head.request_id for r in ran(over)]
    assert len(names) == len(set(names))


@pytest.mark.long
def test_an_idempotent_request_keeps_its_name_at_the_next_worker(over: Any) -> None:
    def busy(request: Any) -> Any:
        raise BUSY(expected="a", found="b")

    over.one.handler = busy
    over.open()
    for number in range(3):
        over.call("/", json={}, init={"idempotencyKey": f"key {number}"})
    assert {r.head.request_id for r in over.one.ran} <= {r.head.request_id for r in over.two.ran}


@pytest.mark.long
@pytest.mark.parametrize("how", ["flipped", "cut", "of another request"])
def test_a_spoiled_answer_leaves_the_outcome_of_a_post_unknown_and_a_get_is_tried_again(over: Any, how: str) -> None:
    kept: list[bytes] = []
    left = [1]

    def keep(data: bytes) -> bytes:
        kept.append(data)
        return data

    def spoil(data: bytes) -> bytes:
        left[0] -= 1
        flipped = data[:-1] + bytes([data[-1] ^ 1])
        return data if left[0] < 0 else {"flipped": flipped, "cut": data[:-9], "of another request": kept[0]}[how]

    over.one.spoil = over.two.spoil = keep
    over.open()
    over.call()
    over.one.spoil = over.two.spoil = spoil
    assert over.call()["ok"]["attempts"] == 2
    left[0] = 1
    assert code(over.call("/", json={})) == "client.outcome_unknown"


@pytest.mark.long
def test_a_worker_that_restarted_is_found_again(over: Any) -> None:
    over.open()
    over.call()
    for worker in (over.one, over.two):
        worker.restart()
    over.gateway.offer(over.agent)
    assert over.call()["ok"]["status"] == 200


@pytest.mark.long
def test_a_receipt_of_another_key_and_a_stale_view_are_not_believed(over: Any) -> None:
    over.one.receipt_key = over.two.receipt_key = test_key("nobody")
    over.open()
    assert code(over.call()).startswith(("receipt.", "encoding."))
    over.one.receipt_key = over.two.receipt_key = None
    over.one.height = over.two.height = 1
    assert code(over.call("/", json={})) == "client.stale_answer"


def test_an_agents_own_field_cannot_pass_for_ours(over: Any) -> None:
    over.open()
    assert code(over.call("/", json={}, init={"headers": {"cloister-boot": "0x00"}})) == "oblivious.field"
    assert over.gateway.oblivious == []
