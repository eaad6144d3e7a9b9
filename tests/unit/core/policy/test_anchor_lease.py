"""When a member signs a worker's lease at the Anchor: every rule refused by name, and hostile messages."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloister.core.encoding.contract_statements import AnchorLease
from cloister.core.encoding.signatures import Signed
from cloister.core.encoding.statements import Checkpoint, Lease
from cloister.core.errors import CloisterError
from cloister.core.policy.anchor_lease import MAX_SECONDS, AnchorFacts, may_sign_anchor_lease
from cloister.core.policy.release import AgentFacts, Newest, WorkerFacts
from cloister.wire.anchor import AnchorLeaseRequest

NOW, NUMBER = 1_800_000_000, 500
AGENT, CODE, BOOT, CLASS, CLUSTER = (hashlib.sha256(bytes([n])).digest() for n in range(5))
WORKER, ANCHOR, PAYEE = b"\x01" * 20, b"\x02" * 20, b"\x03" * 20


def held(**changes: Any) -> Lease:
    """The worker's ordinary lease."""
    fields: dict[str, Any] = {
        "term": 3, "agent": AGENT, "code_hash": CODE, "manifest_hash": CODE, "cluster": CLUSTER, "master_epoch": 1,
        "cluster_epoch": 1, "agent_epoch": 4, "period": 5, "worker": WORKER, "boot": BOOT, "checkpoint": NUMBER - 5,
        "expiry": NUMBER + 100,
    }  # fmt: skip
    return Lease(**(fields | changes))


def asked(**changes: Any) -> AnchorLease:
    fields: dict[str, Any] = {
        "term": 3, "chain_id": 7, "anchor": ANCHOR, "agent": AGENT, "agent_epoch": 4, "code_hash": CODE,
        "worker": WORKER, "vendor_class": CLASS, "payee": PAYEE, "expiry": NOW + 3600,
    }  # fmt: skip
    return AnchorLease(**(fields | changes))


def facts(**changes: Any) -> AnchorFacts:
    fields: dict[str, Any] = {
        "head": Checkpoint(3, 7, NUMBER, b"\x09" * 32, b"\x08" * 32, NOW),
        "term": 3,
        "chain_id": 7,
        "anchor": ANCHOR,
        "held": held(),
        "asked": asked(),
        "worker": WorkerFacts(BOOT, CODE, CLASS, NUMBER + 50, False),
        "agent": AgentFacts(AGENT, CODE, CODE, CLUSTER, 4, 1, 3, False),
        "newest": Newest(agent_epoch=4),
    }
    return AnchorFacts(**(fields | changes))


def test_a_worker_in_service_gets_its_lease() -> None:
    may_sign_anchor_lease(facts())
    may_sign_anchor_lease(facts(asked=asked(expiry=NOW + MAX_SECONDS)))


WORKER_FACTS, AGENT_FACTS = facts().worker, facts().agent
assert WORKER_FACTS is not None
assert AGENT_FACTS is not None
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "another term": ({"asked": asked(term=2)}, "policy.anchor_lease"),
    "another chain": ({"asked": asked(chain_id=8)}, "policy.anchor_lease"),
    "another Anchor": ({"asked": asked(anchor=PAYEE)}, "policy.anchor_lease"),
    "no payee": ({"asked": asked(payee=bytes(20))}, "policy.anchor_lease"),
    "an agent that it does not hold": ({"asked": asked(agent=CODE)}, "policy.anchor_lease"),
    "a worker other than the lease's": ({"held": held(worker=PAYEE)}, "policy.anchor_lease"),
    "other code than the lease's": ({"asked": asked(code_hash=BOOT)}, "policy.anchor_lease"),
    "another epoch than the lease's": ({"asked": asked(agent_epoch=5)}, "policy.anchor_lease"),
    "a lease that has ended": ({"held": held(expiry=NUMBER)}, "policy.anchor_lease"),
    "a worker that never registered": ({"worker": None}, "policy.worker_unknown"),
    "a removed worker": ({"worker": replace(WORKER_FACTS, removed=True)}, "policy.worker_removed"),
    "a worker removed at a newer block": ({"newest": Newest(removed=True)}, "policy.worker_removed"),
    "a worker that left at a newer block": ({"newest": Newest(left=True)}, "policy.worker_removed"),
    "a registration that has ended": ({"worker": replace(WORKER_FACTS, expiry=NUMBER)}, "policy.worker_expired"),
    "another boot": ({"worker": replace(WORKER_FACTS, boot=CODE)}, "policy.boot_mismatch"),
    "another vendor class than admitted": ({"asked": asked(vendor_class=CODE)}, "policy.anchor_lease"),
    "an agent that does not exist": ({"agent": None}, "policy.agent_unknown"),
    "a paused agent": ({"agent": replace(AGENT_FACTS, paused=True)}, "policy.paused"),
    "an agent paused at a newer block": ({"newest": Newest(paused=True)}, "policy.paused"),
    "an epoch closed at a newer block": ({"newest": Newest(agent_epoch=5)}, "policy.epoch_closed"),
    "code that is no longer in force": ({"agent": replace(AGENT_FACTS, code_hash=BOOT)}, "policy.epoch_closed"),
    "an end that is past": ({"asked": asked(expiry=NOW)}, "policy.anchor_lease"),
    "an end beyond twelve hours": ({"asked": asked(expiry=NOW + MAX_SECONDS + 1)}, "policy.anchor_lease"),
}


@pytest.mark.parametrize("sentence", REFUSED)
def test_who_is_refused(sentence: str) -> None:
    changes, code = REFUSED[sentence]
    with pytest.raises(CloisterError) as error:
        may_sign_anchor_lease(facts(**changes))
    assert error.value.code == code, sentence


# --- the message ---


def message() -> dict[str, Any]:
    return AnchorLeaseRequest(asked(), b"\x05" * 65, Signed(held(), (b"\x06" * 65,))).to_json()


def test_a_message_reads_back() -> None:
    found = AnchorLeaseRequest.from_json(message())
    assert (found.lease, found.held.statement) == (asked(), held())


@pytest.mark.parametrize("name", ["lease", "signature", "held"])
def test_a_message_without_a_part_is_refused(name: str) -> None:
    with pytest.raises(CloisterError):
        AnchorLeaseRequest.from_json({k: v for k, v in message().items() if k != name})


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@given(JSON, st.sampled_from(["lease", "signature", "held", ""]))
@settings(max_examples=80, deadline=None)
def test_garbage_is_a_named_refusal(value: Any, name: str) -> None:
    with pytest.raises(CloisterError):
        AnchorLeaseRequest.from_json({**message(), name: value} if name else value)
