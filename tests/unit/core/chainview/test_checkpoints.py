"""Checkpoints: who accepts one, who may sign one."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from coincurve import PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from cloister.core.chainview.checkpoints import FUTURE_SKEW_S, MAX_GAP, accept_checkpoint, may_sign
from cloister.core.chainview.header import Header
from cloister.core.encoding.keccak import keccak256
from cloister.core.encoding.signatures import Signed, SignerSet, address_of, sign_digest
from cloister.core.encoding.statements import Checkpoint, HeartBeat
from cloister.core.errors import CloisterError

NETWORK = b"\x4e" * 32
KEYS = [PrivateKey(bytes([i + 1]) * 32) for i in range(5)]
COMMITTEE = SignerSet(1, 3, tuple(address_of(k) for k in KEYS))
NOW = 1_800_000_000


def chain_of(length: int, salt: bytes = b"", start: int = 100) -> list[Header]:
    """Headers that follow each other; ``salt`` makes another fork."""
    headers: list[Header] = []
    parent = keccak256(b"root", salt)
    for number in range(start, start + length):
        own = keccak256(parent, number.to_bytes(8, "big"), salt)
        headers.append(Header(number, own, parent, keccak256(own), NOW + number - start))
        parent = own
    return headers


def checkpoint(header: Header, **changes: Any) -> Checkpoint:
    base = Checkpoint(1, 31337, header.number, header.hash, header.state_root, header.timestamp)
    return dataclasses.replace(base, **changes)


def signed(statement: Any, count: int = 3, network: bytes = NETWORK) -> Signed:
    return Signed(statement, tuple(sign_digest(k, statement.digest(network)) for k in KEYS[:count]))


LINE = chain_of(12)
OTHER = chain_of(12, b"fork")


# --- accepting ---


@pytest.mark.parametrize("age", [-FUTURE_SKEW_S, 0, 1, 60])
def test_a_fresh_checkpoint_counts(age: int) -> None:
    value = checkpoint(LINE[0], timestamp=NOW - age)
    assert accept_checkpoint(signed(value), COMMITTEE, NETWORK, NOW, 60) == value


@pytest.mark.parametrize(
    ("why", "code", "age"),
    [("one second too old", "chainview.stale", 61), ("from the future", "chainview.stale", -FUTURE_SKEW_S - 1)],
)
def test_by_the_readers_own_clock(why: str, code: str, age: int) -> None:
    with pytest.raises(CloisterError) as caught:
        accept_checkpoint(signed(checkpoint(LINE[0], timestamp=NOW - age)), COMMITTEE, NETWORK, NOW, 60)
    assert caught.value.code == code, why


def test_too_few_signatures_another_network_another_term() -> None:
    value = checkpoint(LINE[0], timestamp=NOW)
    cases = [
        ("encoding.too_few_signers", signed(value, 2), COMMITTEE),
        ("encoding.signature", signed(value, network=b"\x4f" * 32), COMMITTEE),
        ("encoding.wrong_term", signed(value), SignerSet(2, 3, COMMITTEE.members)),
    ]
    for code, statement, committee in cases:
        with pytest.raises(CloisterError) as caught:
            accept_checkpoint(statement, committee, NETWORK, NOW, 60)
        assert caught.value.code == code


def test_signatures_count_before_the_clock_does() -> None:
    """A forged stale checkpoint is a forgery, not an old one."""
    with pytest.raises(CloisterError) as caught:
        accept_checkpoint(signed(checkpoint(LINE[0], timestamp=1), 0), COMMITTEE, NETWORK, NOW, 60)
    assert caught.value.code == "encoding.too_few_signers"


def test_another_statement_is_no_checkpoint() -> None:
    beat = HeartBeat(1, b"\1" * 32, 5, b"\2" * 32)
    with pytest.raises(CloisterError) as caught:
        accept_checkpoint(signed(beat), COMMITTEE, NETWORK, NOW, 60)
    assert caught.value.code == "chainview.not_a_checkpoint"


# --- signing ---


@given(st.integers(0, 10), st.integers(1, 11))
def test_any_descendant_may_be_signed(first: int, step: int) -> None:
    last = min(first + step, len(LINE) - 1)
    may_sign(checkpoint(LINE[first]), checkpoint(LINE[last]), LINE[first + 1 : last + 1])


def test_the_first_one_needs_no_ancestor() -> None:
    may_sign(None, checkpoint(LINE[5]), [LINE[5]])


def test_the_same_block_may_be_signed_again_also_in_a_later_term() -> None:
    may_sign(checkpoint(LINE[5]), checkpoint(LINE[5]), [LINE[5]])
    may_sign(checkpoint(LINE[5]), checkpoint(LINE[5], term=2), [LINE[5]])


@given(st.integers(0, 11))
def test_never_two_blocks_at_one_height(at: int) -> None:
    with pytest.raises(CloisterError) as caught:
        may_sign(checkpoint(LINE[at]), checkpoint(OTHER[at]), [OTHER[at]])
    assert caught.value.code == "chainview.second_at_height"


@given(st.integers(0, 10), st.integers(1, 11))
def test_never_another_fork(first: int, step: int) -> None:
    last = min(first + step, len(LINE) - 1)
    with pytest.raises(CloisterError) as caught:
        may_sign(checkpoint(LINE[first]), checkpoint(OTHER[last]), OTHER[first + 1 : last + 1])
    assert caught.value.code == "chainview.not_descendant"


@given(st.integers(1, 11), st.integers(0, 10))
def test_never_backwards(first: int, back: int) -> None:
    last = min(first - 1, back)
    with pytest.raises(CloisterError) as caught:
        may_sign(checkpoint(LINE[first]), checkpoint(LINE[last]), [LINE[last]])
    assert caught.value.code == "chainview.not_descendant"


def test_a_line_that_changes_forks_in_the_middle() -> None:
    with pytest.raises(CloisterError):
        may_sign(checkpoint(LINE[0]), checkpoint(OTHER[6]), [*LINE[1:4], *OTHER[4:7]])


@pytest.mark.parametrize("missing", [1, 2, 3])
def test_a_line_with_a_gap(missing: int) -> None:
    line = [h for i, h in enumerate(LINE[:5]) if i not in (0, missing)]
    with pytest.raises(CloisterError):
        may_sign(checkpoint(LINE[0]), checkpoint(LINE[4]), line)


@pytest.mark.parametrize(
    "changes",
    [
        {"number": 107},
        {"block_hash": b"\7" * 32},
        {"state_root": b"\7" * 32},
        {"timestamp": NOW},
    ],
)
def test_the_candidate_says_what_its_header_says(changes: dict[str, Any]) -> None:
    with pytest.raises(CloisterError) as caught:
        may_sign(None, checkpoint(LINE[5], **changes), [LINE[5]])
    assert caught.value.code == "chainview.not_a_checkpoint"


@pytest.mark.parametrize("changes", [{"chain_id": 1}, {"term": 0}])
def test_the_same_chain_and_no_earlier_term(changes: dict[str, Any]) -> None:
    with pytest.raises(CloisterError) as caught:
        may_sign(checkpoint(LINE[4]), checkpoint(LINE[5], **changes), [LINE[5]])
    assert caught.value.code == "chainview.not_a_checkpoint"


def test_no_headers_or_too_many() -> None:
    for headers in ([], [LINE[0]] * (MAX_GAP + 1)):
        with pytest.raises(CloisterError):
            may_sign(None, checkpoint(LINE[0]), headers)


def test_as_many_headers_as_the_cap_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    assert MAX_GAP == 1 << 16
    monkeypatch.setattr("cloister.core.chainview.checkpoints.MAX_GAP", 8)
    line = chain_of(9, start=0)
    may_sign(checkpoint(line[0]), checkpoint(line[-1]), line[1:])
    with pytest.raises(CloisterError, match=r"chainview\.not_descendant"):
        may_sign(None, checkpoint(line[-1]), line)


def test_a_child_by_its_parent_hash_whose_number_is_another_is_no_descendant() -> None:
    child = dataclasses.replace(LINE[1], number=LINE[0].number + 2)
    with pytest.raises(CloisterError, match=r"chainview\.not_descendant"):
        may_sign(checkpoint(LINE[0]), checkpoint(child), [child])


def test_a_child_by_its_number_whose_parent_is_another_is_no_descendant() -> None:
    child = dataclasses.replace(LINE[1], parent=b"\1" * 32)
    with pytest.raises(CloisterError, match=r"chainview\.not_descendant"):
        may_sign(checkpoint(LINE[0]), checkpoint(child), [child])


def test_a_later_term_may_go_on_from_an_earlier_one() -> None:
    may_sign(checkpoint(LINE[0]), checkpoint(LINE[1], term=5), LINE[1:2])


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 11), st.integers(1, 3)), max_size=25))
def test_whatever_is_asked_a_member_signs_one_line_of_blocks(asked: list[tuple[bool, int, int]]) -> None:
    """A hostile endpoint shows blocks of two forks in any order: what gets signed is one chain, heights never fall."""
    signed_so_far: list[Checkpoint] = []
    for fork, at, term in asked:
        line = OTHER if fork else LINE
        last = signed_so_far[-1] if signed_so_far else None
        low = at if last is None or last.number >= line[at].number else last.number + 1 - 100
        candidate = checkpoint(line[at], term=term)
        try:
            may_sign(last, candidate, line[low : at + 1])
        except CloisterError:
            continue
        signed_so_far.append(candidate)
    hashes = {c.number: c.block_hash for c in signed_so_far}
    assert all(hashes[c.number] == c.block_hash for c in signed_so_far)
    numbers = [c.number for c in signed_so_far]
    terms = [c.term for c in signed_so_far]
    assert numbers == sorted(numbers)
    assert terms == sorted(terms)
    blocks = {h.hash for h in LINE}
    assert len({c.block_hash in blocks for c in signed_so_far}) <= 1


@pytest.mark.parametrize("timestamp", [0, 2**64 - 1])
def test_timestamps_at_their_ends_are_stale_not_wrong_arithmetic(timestamp: int) -> None:
    with pytest.raises(CloisterError, match=r"chainview\.stale"):
        accept_checkpoint(signed(checkpoint(LINE[0], timestamp=timestamp)), COMMITTEE, NETWORK, NOW, 60)
