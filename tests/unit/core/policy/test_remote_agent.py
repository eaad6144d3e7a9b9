"""When a member tells a connected chain of an agent: every rule refused by name, and hostile messages."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloister.core.encoding.contract_statements import NOBODY, REMOTE_SECONDS, People, RemoteAgent
from cloister.core.encoding.signatures import Signed
from cloister.core.encoding.statements import Checkpoint, Lease
from cloister.core.errors import CloisterError
from cloister.core.policy.release import AgentFacts, Newest, WorkerFacts
from cloister.core.policy.remote_agent import MAX_BEHIND, RemoteFacts, may_tell
from cloister.wire.remote import RemoteAgentRequest

NOW, NUMBER = 1_800_000_000, 500
AGENT, CODE, BOOT, CLASS, CLUSTER = (hashlib.sha256(bytes([n])).digest() for n in range(5))
WORKER, ANCHOR, OWNER, GUARDIAN, SPEAKER = (bytes([n]) * 20 for n in range(1, 6))


def held(**changes: Any) -> Lease:
    """The worker's ordinary lease."""
    fields: dict[str, Any] = {
        "term": 3, "agent": AGENT, "code_hash": CODE, "manifest_hash": CODE, "cluster": CLUSTER, "master_epoch": 1,
        "cluster_epoch": 1, "agent_epoch": 4, "period": 5, "worker": WORKER, "boot": BOOT, "checkpoint": NUMBER - 5,
        "expiry": NUMBER + 100,
    }  # fmt: skip
    return Lease(**(fields | changes))


def asked(**changes: Any) -> RemoteAgent:
    fields: dict[str, Any] = {
        "term": 3, "chain_id": 7, "anchor": ANCHOR, "agent": AGENT, "agent_epoch": 4, "owner": OWNER,
        "guardian": GUARDIAN, "payer": NOBODY, "height": NUMBER - 1, "expiry": NOW + 3600,
    }  # fmt: skip
    return RemoteAgent(**(fields | changes))


AGENT_FACTS = AgentFacts(AGENT, CODE, CODE, CLUSTER, 4, 1, 3, False)
WORKER_FACTS = WorkerFacts(BOOT, CODE, CLASS, NUMBER + 50, False)


def facts(**changes: Any) -> RemoteFacts:
    fields: dict[str, Any] = {
        "head": Checkpoint(3, 7, NUMBER, b"\x09" * 32, b"\x08" * 32, NOW),
        "term": 3,
        "anchor": ANCHOR,
        "held": held(),
        "asked": asked(),
        "worker": WORKER_FACTS,
        "agent": AGENT_FACTS,
        "newest": Newest(agent_epoch=4),
        "then": AGENT_FACTS,
        "people": People(OWNER, GUARDIAN, NOBODY),
        "speakers": frozenset({NOBODY}),
    }
    return RemoteFacts(**(fields | changes))


def test_what_is_so_is_told() -> None:
    may_tell(facts())
    may_tell(facts(asked=asked(expiry=NOW + REMOTE_SECONDS, height=NUMBER)))
    may_tell(facts(asked=asked(height=NUMBER - MAX_BEHIND)))


def test_whom_the_owner_named_for_that_chain_is_told_as_its_owner() -> None:
    named = People(SPEAKER, GUARDIAN, NOBODY, SPEAKER)
    may_tell(facts(asked=asked(owner=SPEAKER), people=named, speakers=frozenset({SPEAKER})))


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "another term": ({"asked": asked(term=2)}, "policy.remote_agent"),
    "another Anchor": ({"asked": asked(anchor=OWNER)}, "policy.remote_agent"),
    "a chain that is not connected": ({"anchor": b""}, "policy.remote_agent"),
    "an agent that it does not hold": ({"asked": asked(agent=CODE)}, "policy.remote_agent"),
    "another epoch than the lease's": ({"asked": asked(agent_epoch=5)}, "policy.remote_agent"),
    "a lease that has ended": ({"held": held(expiry=NUMBER)}, "policy.remote_agent"),
    "a worker that never registered": ({"worker": None}, "policy.worker_unknown"),
    "a worker removed at a newer block": ({"newest": Newest(removed=True)}, "policy.worker_removed"),
    "a registration that has ended": ({"worker": replace(WORKER_FACTS, expiry=NUMBER)}, "policy.worker_expired"),
    "another boot": ({"worker": replace(WORKER_FACTS, boot=CODE)}, "policy.boot_mismatch"),
    "an agent that does not exist": ({"agent": None}, "policy.agent_unknown"),
    "an agent that did not exist then": ({"then": None}, "policy.agent_unknown"),
    "a paused agent": ({"agent": replace(AGENT_FACTS, paused=True)}, "policy.paused"),
    "an agent that was paused then": ({"then": replace(AGENT_FACTS, paused=True)}, "policy.paused"),
    "an agent paused at a newer block": ({"newest": Newest(paused=True)}, "policy.paused"),
    "an epoch closed at a newer block": ({"newest": Newest(agent_epoch=5)}, "policy.epoch_closed"),
    "another epoch then": ({"then": replace(AGENT_FACTS, agent_epoch=3)}, "policy.remote_agent"),
    "code that is no longer in force": ({"agent": replace(AGENT_FACTS, code_hash=BOOT)}, "policy.epoch_closed"),
    "a block far behind": ({"asked": asked(height=NUMBER - MAX_BEHIND - 1)}, "policy.remote_agent"),
    "a block that is not final here": ({"asked": asked(height=NUMBER + 1)}, "policy.remote_agent"),
    "another owner": ({"asked": asked(owner=WORKER)}, "policy.remote_agent"),
    "another guardian": ({"asked": asked(guardian=WORKER)}, "policy.remote_agent"),
    "a payer that nobody named": ({"asked": asked(payer=WORKER)}, "policy.remote_agent"),
    "an agent without a record at that block": ({"people": None}, "policy.remote_agent"),
    "the home address of an owner who named another": (
        {"people": People(SPEAKER, GUARDIAN, NOBODY, SPEAKER), "speakers": frozenset({SPEAKER})},
        "policy.remote_agent",
    ),
    "a speaker whom a newer block takes back": (
        {"asked": asked(owner=SPEAKER), "people": People(SPEAKER, GUARDIAN, NOBODY, SPEAKER)},
        "policy.remote_agent",
    ),
    "a speaker whom a newer block replaces": (
        {
            "asked": asked(owner=SPEAKER),
            "people": People(SPEAKER, GUARDIAN, NOBODY, SPEAKER),
            "speakers": frozenset({GUARDIAN}),
        },
        "policy.remote_agent",
    ),
    "a speaker whom one endpoint names no more": (
        {
            "asked": asked(owner=SPEAKER),
            "people": People(SPEAKER, GUARDIAN, NOBODY, SPEAKER),
            "speakers": frozenset({SPEAKER, NOBODY}),
        },
        "policy.remote_agent",
    ),
    "a speaker whom only a newer block names": ({"speakers": frozenset({SPEAKER})}, "policy.remote_agent"),
    "a speaker whom nobody named": ({"asked": asked(owner=SPEAKER)}, "policy.remote_agent"),
    "an owner with code by its address": ({"people": People(NOBODY, GUARDIAN, NOBODY)}, "policy.remote_agent"),
    "people of nobody": ({"people": None}, "policy.remote_agent"),
    "an end that is past": ({"asked": asked(expiry=NOW)}, "policy.remote_agent"),
    "an end beyond two hours": ({"asked": asked(expiry=NOW + REMOTE_SECONDS + 1)}, "policy.remote_agent"),
}


@pytest.mark.parametrize("sentence", REFUSED)
def test_who_is_refused(sentence: str) -> None:
    changes, code = REFUSED[sentence]
    with pytest.raises(CloisterError) as error:
        may_tell(facts(**changes))
    assert error.value.code == code, sentence


# --- the message ---


def message() -> dict[str, Any]:
    return RemoteAgentRequest(asked(), b"\x05" * 65, Signed(held(), (b"\x06" * 65,))).to_json()


def test_a_request_comes_back_as_it_was() -> None:
    found = RemoteAgentRequest.from_json(message())
    assert (found.asked, found.signature) == (asked(), b"\x05" * 65)
    assert found.held.statement == held()


@pytest.mark.parametrize("name", ["asked", "signature", "held"])
def test_a_message_without_a_part_is_refused(name: str) -> None:
    with pytest.raises(CloisterError):
        RemoteAgentRequest.from_json({k: v for k, v in message().items() if k != name})


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["asked", "signature", "held", "more"]),
    st.one_of(st.none(), st.integers(), st.text(max_size=8), st.lists(st.integers(), max_size=2)),
)
def test_garbage_is_refused(name: str, value: object) -> None:
    with pytest.raises(CloisterError):
        RemoteAgentRequest.from_json({**message(), name: value})
