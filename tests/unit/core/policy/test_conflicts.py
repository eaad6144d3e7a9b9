"""Two statements that exclude each other name their signer; nothing else names anybody (spec/gatekeepers.md W1-W3)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from coincurve import PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from cloister.core.encoding.log_statements import WorkerLog
from cloister.core.encoding.signatures import address_of, sign_digest
from cloister.core.encoding.statements import Checkpoint, HeartBeat, StateHead, Statement
from cloister.core.errors import CloisterError
from cloister.core.policy.conflicts import EXCLUDING, Conflict, excludes
from cloister.wire.conflicts import MAX_CONFLICTS, MAX_SIGHTINGS, Witnessed
from cloister.wire.messages import SignedBy

NETWORK = b"\x0e" * 32
KEY, OTHER = PrivateKey(b"\1" * 32), PrivateKey(b"\2" * 32)
SIGNER = address_of(KEY)
BLOCK = Checkpoint(1, 31337, 20, b"\xaa" * 32, b"\xbb" * 32, 1000)
FORK = replace(BLOCK, block_hash=b"\xcc" * 32)
LOG = WorkerLog(SIGNER, b"\xb0" * 32, 7, b"\xdd" * 32)
BENT = replace(LOG, root=b"\xee" * 32)
HEAD = StateHead(1, b"\1" * 32, b"\2" * 32, 1, 1, 1, 4, b"\3" * 32, b"\4" * 32)


def signed(said: Statement, key: PrivateKey = KEY, network: bytes = NETWORK) -> bytes:
    return sign_digest(key, said.digest(network))


def pair(first: Statement, second: Statement, *, second_by: PrivateKey = KEY, network: bytes = NETWORK) -> Conflict:
    return Conflict(first, signed(first, network=network), second, signed(second, second_by, network))


def code_of(conflict: Conflict) -> str:
    try:
        conflict.verify(NETWORK)
    except CloisterError as error:
        return error.code
    return ""


PAIRS = {
    "two blocks of one height": (pair(BLOCK, FORK), ""),
    "one block with two state roots": (pair(BLOCK, replace(BLOCK, state_root=b"\1" * 32)), ""),
    "one block with two times": (pair(BLOCK, replace(BLOCK, timestamp=1001)), ""),
    "two logs of one size": (pair(LOG, BENT), ""),
    "the same block twice": (pair(BLOCK, BLOCK), "policy.no_conflict"),
    "the same log twice": (pair(LOG, LOG), "policy.no_conflict"),
    "blocks of two heights": (pair(BLOCK, replace(FORK, number=21)), "policy.no_conflict"),
    "blocks of two chains": (pair(BLOCK, replace(FORK, chain_id=1)), "policy.no_conflict"),
    "a block signed again in the next term": (pair(BLOCK, replace(FORK, term=2)), "policy.no_conflict"),
    "a log that grew": (pair(LOG, replace(BENT, size=8)), "policy.no_conflict"),
    "logs of two boots": (pair(LOG, replace(BENT, boot=b"\1" * 32)), "policy.no_conflict"),
    "logs of two workers": (pair(LOG, replace(BENT, worker=b"\1" * 20)), "policy.no_conflict"),
    "two signers": (pair(BLOCK, FORK, second_by=OTHER), "encoding.signature"),
    "another network": (pair(BLOCK, FORK, network=b"\0" * 32), "encoding.signature"),
    "a log of a worker that did not sign it": (
        pair(replace(LOG, worker=b"\1" * 20), replace(BENT, worker=b"\1" * 20)),
        "policy.no_conflict",
    ),
    "a block and a log": (pair(BLOCK, LOG), "policy.no_conflict"),
    "two heads of an agent at one height": (pair(HEAD, replace(HEAD, head=b"\5" * 32)), "policy.no_conflict"),
    "two heart beats": (
        pair(HeartBeat(1, bytes(32), 9, b"\1" * 32), HeartBeat(1, bytes(32), 9, b"\2" * 32)),
        "policy.no_conflict",
    ),
}


@pytest.mark.parametrize("sentence", PAIRS)
def test_what_names_a_signer(sentence: str) -> None:
    conflict, code = PAIRS[sentence]
    assert code_of(conflict) == code
    if not code:
        assert conflict.verify(NETWORK) == SIGNER


@pytest.mark.parametrize("sentence", [s for s, (_, code) in PAIRS.items() if not code])
def test_it_travels_as_json(sentence: str) -> None:
    conflict, _ = PAIRS[sentence]
    again = Conflict.from_json(conflict.to_json())
    assert again == conflict
    assert again.verify(NETWORK) == SIGNER


@pytest.mark.parametrize("field", ["first_signature", "second_signature"])
@pytest.mark.parametrize("byte", range(0, 65, 7))
def test_no_bent_signature_names_the_signer(field: str, byte: int) -> None:
    conflict = pair(BLOCK, FORK)
    raw = bytearray(getattr(conflict, field))
    raw[byte] ^= 1
    with pytest.raises(CloisterError) as caught:
        replace(conflict, **{field: bytes(raw)}).verify(NETWORK)
    assert caught.value.code == "encoding.signature"


GARBAGE: dict[str, Any] = {
    "nothing": None,
    "a list": [],
    "a kind that is none": {**pair(BLOCK, FORK).to_json(), "kind": "StateHead"},
    "a kind that is no text": {**pair(BLOCK, FORK).to_json(), "kind": ["Checkpoint"]},
    "a kind of other fields": {**pair(BLOCK, FORK).to_json(), "kind": "WorkerLog"},
    "a field more": {**pair(BLOCK, FORK).to_json(), "third": 1},
    "a short signature": {**pair(BLOCK, FORK).to_json(), "first_signature": "0x00"},
}


@pytest.mark.parametrize("sentence", GARBAGE)
def test_garbage_is_refused_by_name(sentence: str) -> None:
    with pytest.raises(CloisterError):
        Conflict.from_json(GARBAGE[sentence])


@given(st.recursive(st.none() | st.integers() | st.text(max_size=4), lambda x: st.dictionaries(
    st.sampled_from(["kind", "first", "checkpoints", "conflicts"]), x, max_size=4), max_leaves=6))  # fmt: skip
def test_any_json_is_parsed_or_refused(value: object) -> None:
    for parse in (Conflict.from_json, Witnessed.from_json):
        with pytest.raises(CloisterError):
            parse(value)


def test_a_peer_shows_at_most_so_much() -> None:
    row, conflict = SignedBy(BLOCK, signed(BLOCK)), pair(BLOCK, FORK)
    shown = Witnessed((row,), (conflict,))
    assert Witnessed.from_json(shown.to_json()) == shown
    full = Witnessed((row,) * (MAX_SIGHTINGS + 1), (conflict,) * (MAX_CONFLICTS + 1)).to_json()
    assert (len(full["checkpoints"]), len(full["conflicts"])) == (MAX_SIGHTINGS, MAX_CONFLICTS)
    for name in ("checkpoints", "conflicts"):
        with pytest.raises(CloisterError):
            Witnessed.from_json({**shown.to_json(), name: full[name] + full[name][:1]})


def test_only_kinds_that_honest_signers_never_make_twice_exclude_each_other() -> None:
    assert set(EXCLUDING) == {Checkpoint, WorkerLog}
    assert not excludes(HEAD, replace(HEAD, head=b"\5" * 32)), "members adopt what q others signed (state.md 10)"
    assert excludes(BLOCK, FORK)
    assert excludes(FORK, BLOCK)
