"""What members show each other of statements, and the file of consents: parsed whole, or refused by name."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from coincurve import PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from cloister.core.encoding.contract_statements import WorkerBumps
from cloister.core.encoding.handover import MasterRotation, SeatRevocation
from cloister.core.encoding.signatures import address_of, sign_digest
from cloister.core.encoding.statements import Lease
from cloister.core.errors import CloisterError
from cloister.core.policy.committee_statements import Proposal, resealed, worker_bumps
from cloister.wire.statements import (
    MAX_ROWS,
    SignedProposal,
    consents_from_json,
    consents_to_json,
    leases_from_json,
    leases_to_json,
    rows_from_json,
    rows_to_json,
    statement_from_json,
)

NETWORK, KEY = b"\x0e" * 32, PrivateKey(b"\x07" * 32)
WORKER = b"\xee" * 20
LEASE = Lease(1, b"\xaa" * 32, b"\1" * 32, b"\2" * 32, b"\3" * 32, 1, 1, 1, 0, WORKER, b"\4" * 32, 9, 600)


def row(proposal: Proposal) -> SignedProposal:
    return SignedProposal(proposal, sign_digest(KEY, proposal.statement.digest(NETWORK)))


ROWS = [row(Proposal(MasterRotation(1, 1))), row(resealed(1, 2, [3, 2**255])), row(worker_bumps(1, WORKER, {3: 7}))]
ANSWER: dict[str, Any] = json.loads(json.dumps(rows_to_json(ROWS)))


def test_rows_travel_whole_and_count_by_their_member() -> None:
    assert rows_from_json(ANSWER) == tuple(ROWS)
    for one in rows_from_json(ANSWER):
        one.verify(NETWORK, address_of(KEY))
        for network, member in ((b"\x0f" * 32, address_of(KEY)), (NETWORK, WORKER)):
            with pytest.raises(CloisterError):
                one.verify(network, member)


def test_only_so_many_rows_are_shown_and_taken() -> None:
    assert len(rows_to_json(ROWS * 20)["statements"]) == MAX_ROWS
    with pytest.raises(CloisterError):
        rows_from_json({"statements": ANSWER["statements"] * 6})


def changed(path: tuple[Any, ...], value: Any) -> Any:
    answer = copy.deepcopy(ANSWER)
    at: Any = answer
    for step in path[:-1]:
        at = at[step]
    if value is None:
        del at[path[-1]]
    else:
        at[path[-1]] = value
    return answer


BAD = {
    "no list": {"statements": {}},
    "another field": {"statements": [], "more": 1},
    "no object": [],
    "a kind that nobody knows": changed(("statements", 0, "kind"), "Lease"),
    "a kind that is no text": changed(("statements", 0, "kind"), ["MasterRotation"]),
    "fields of another kind": changed(("statements", 0, "kind"), "SeatRevocation"),
    "no signature": changed(("statements", 0, "signature"), None),
    "a short signature": changed(("statements", 0, "signature"), "0x1234"),
    "a token as number": changed(("statements", 1, "tokens", 0), 3),
    "a token with a zero in front": changed(("statements", 1, "tokens", 0), "03"),
    "a negative token": changed(("statements", 1, "tokens", 0), "-3"),
    "a token of other digits": changed(("statements", 1, "tokens", 0), "\u0663"),
    "a token beyond 256 bits": changed(("statements", 1, "tokens", 0), str(2**256)),
    "a token of a thousand digits": changed(("statements", 1, "tokens", 0), "9" * 1000),
    "too many tokens": changed(("statements", 1, "tokens"), ["1"] * 257),
    "an epoch beyond 64 bits": changed(("statements", 2, "epochs", 0), 2**64),
    "an epoch as text": changed(("statements", 2, "epochs", 0), "7"),
    "a term as text": changed(("statements", 0, "statement", "term"), "1"),
}


@pytest.mark.parametrize("sentence", BAD)
def test_a_bad_answer_is_refused(sentence: str) -> None:
    with pytest.raises(CloisterError):
        rows_from_json(BAD[sentence])


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["statements", "kind", "leases"]), inner)
    ),
    max_leaves=8,
)


@given(JSON)
def test_garbage_is_refused_or_empty(value: Any) -> None:
    for parse in (rows_from_json, leases_from_json, consents_from_json, statement_from_json):
        try:
            found = parse(value)
        except CloisterError:
            continue
        assert not found


def test_leases_travel_whole() -> None:
    shown = [(LEASE, sign_digest(KEY, LEASE.digest(NETWORK)))]
    answer = leases_to_json(shown)
    assert leases_from_json(json.loads(json.dumps(answer))) == tuple(shown)
    assert len(leases_to_json(shown * 2000)["leases"]) == 1024
    for bad in ({"leases": 1}, {"leases": [{}]}, {"leases": answer["leases"] * 1025}, {}):
        with pytest.raises(CloisterError):
            leases_from_json(bad)


def test_consents_are_whole_statements() -> None:
    wanted = [MasterRotation(1, 1), SeatRevocation(1, WORKER)]
    assert consents_from_json(json.loads(json.dumps(consents_to_json(wanted)))) == frozenset(wanted)
    assert len(consents_to_json([WorkerBumps(1, WORKER, b"\1" * 32)] * 100)) == 64
    for bad in ({}, [{"kind": "MasterRotation"}], [{"kind": "MasterRotation", "statement": {"term": 1}}], [[]]):
        with pytest.raises(CloisterError):
            consents_from_json(bad)
