"""The Anchor's queue as a chain of hashes: what an endpoint tells must be all of it, in order."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from eth_abi import encode as abi
from hypothesis import given, settings
from hypothesis import strategies as st

from cloister.core.chainview.anchor import Asked, Queue, require_line
from cloister.core.encoding.keccak import keccak256
from cloister.core.errors import CloisterError

B32, B20 = st.binary(min_size=32, max_size=32), st.binary(min_size=20, max_size=20)
U64, U8 = st.integers(0, 2**64 - 1), st.integers(0, 255)
ASKED = st.builds(
    Asked,
    agent=B32,
    index=U64,
    requester=B20,
    fee=st.integers(0, 2**128 - 1),
    code_hash=B32,
    gas_limit=U64,
    deadline=U64,
    copies=U8,
    flags=U8,
    payload_hash=B32,
)


def line(count: int) -> list[Asked]:
    """Requests 1 to ``count``."""
    base = Asked(b"\1" * 32, 0, b"\2" * 20, 5, bytes(32), 100, 9, 1, 0, b"\3" * 32)
    return [replace(base, index=i + 1, payload_hash=keccak256(bytes([i]))) for i in range(count)]


def after(requests: list[Asked]) -> Queue:
    at = Queue()
    for request in requests:
        at = at.after(request.commitment())
    return at


@given(ASKED)
@settings(max_examples=60, deadline=None)
def test_a_commitment_is_what_the_contract_hashes(asked: Asked) -> None:
    kinds = ["bytes32", "uint64", "address", "uint128", "bytes32", "uint64", "uint64", "uint8", "uint8", "bytes32"]
    values: list[Any] = [getattr(asked, name) for name in asked.__slots__]
    values[2] = "0x" + asked.requester.hex()
    assert asked.commitment() == keccak256(abi(kinds, values))


@given(ASKED)
@settings(max_examples=60, deadline=None)
def test_a_request_reads_back_from_what_the_outbox_keeps(asked: Asked) -> None:
    assert Asked.from_json(asked.to_json()) == asked


@given(ASKED, st.sampled_from(Asked.__slots__), st.none() | st.integers() | st.text(max_size=6) | st.lists(st.none()))
@settings(max_examples=100, deadline=None)
def test_a_kept_request_with_a_spoilt_field_is_refused_or_another(asked: Asked, name: str, value: Any) -> None:
    try:
        found = Asked.from_json({**asked.to_json(), name: value})
    except CloisterError:
        return
    assert found.to_json()[name] == value


def test_a_whole_line_is_accepted_from_any_place() -> None:
    requests = line(6)
    require_line(Queue(), requests, after(requests))
    require_line(after(requests[:4]), requests[4:], after(requests))
    require_line(after(requests), [], after(requests))


WRONG: dict[str, list[Asked]] = {
    "the last one is withheld": line(5)[:4],
    "the first one is withheld": line(5)[1:],
    "one in the middle is withheld": [*line(5)[:2], *line(5)[3:]],
    "one is told twice": [*line(5)[:3], *line(5)[2:]],
    "two are exchanged": [line(5)[1], line(5)[0], *line(5)[2:]],
    "one is added": line(6),
    "nothing is told": [],
    "another fee": [replace(line(5)[0], fee=6), *line(5)[1:]],
    "another payload": [replace(line(5)[0], payload_hash=bytes(32)), *line(5)[1:]],
    "another requester": [replace(line(5)[0], requester=b"\x09" * 20), *line(5)[1:]],
}


@pytest.mark.parametrize("sentence", WRONG)
def test_any_other_line_is_withholding(sentence: str) -> None:
    with pytest.raises(CloisterError) as error:
        require_line(Queue(), WRONG[sentence], after(line(5)))
    assert error.value.code == "chainview.requests_withheld", sentence


@given(st.integers(0, 4), st.sampled_from(["fee", "gas_limit", "deadline", "copies", "flags"]), st.integers(1, 200))
@settings(max_examples=60, deadline=None)
def test_any_changed_word_is_noticed(place: int, name: str, value: int) -> None:
    requests = line(5)
    spoilt = replace(requests[place], **{name: value})
    if spoilt == requests[place]:
        return
    told = [*requests[:place], spoilt, *requests[place + 1 :]]
    with pytest.raises(CloisterError):
        require_line(Queue(), told, after(requests))
