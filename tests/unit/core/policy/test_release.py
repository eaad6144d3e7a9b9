"""May this worker have this agent's keys: one sentence per rule."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloister.core.encoding.identity import Purpose
from cloister.core.encoding.statements import Checkpoint
from cloister.core.errors import CloisterError, PolicyError
from cloister.core.policy.identities import identities_of
from cloister.core.policy.placement import place
from cloister.core.policy.release import (
    AgentFacts,
    CommitteeFacts,
    Facts,
    Ledger,
    Limits,
    Newest,
    Requester,
    WorkerFacts,
    may_release,
    vendor_class_id,
)

WORKERS = [bytes([i]) * 20 for i in range(1, 7)]
AGENT, SEED = b"\xaa" * 32, b"\x5e" * 32
PLACED, SPARE, *_ = place(SEED, AGENT, WORKERS, 6)
UNPLACED = place(SEED, AGENT, WORKERS, 6)[-1]
BOOT, IMAGE, VENDOR = b"\xb0" * 32, b"\x1a" * 32, b"\x7e" * 32


def facts(**changes: Any) -> Facts:
    base = Facts(
        checkpoint=Checkpoint(1, 31337, 1000, b"\1" * 32, b"\2" * 32, 1_700_000_000),
        requester=Requester(PLACED, BOOT, IMAGE, VENDOR),
        worker=WorkerFacts(BOOT, IMAGE, VENDOR, expiry=5000, removed=False),
        agent=AgentFacts(AGENT, b"\xc0" * 32, b"\xc1" * 32, b"\xc2" * 32, 3, 2, seats=2, paused=False),
        committee=CommitteeFacts(b"\x0e" * 32, term=1, seed=SEED, master_epoch=1),
        live=frozenset(WORKERS),
        limits=Limits(period_blocks=300, max_agents_per_worker=2),
    )
    return dataclasses.replace(base, **changes)


def worker(**changes: Any) -> Facts:
    base = facts()
    assert base.worker is not None
    return dataclasses.replace(base, worker=dataclasses.replace(base.worker, **changes))


def agent(**changes: Any) -> Facts:
    base = facts()
    assert base.agent is not None
    return dataclasses.replace(base, agent=dataclasses.replace(base.agent, **changes))


def asked_by(address: bytes, **changes: Any) -> Facts:
    base = facts(**changes)
    return dataclasses.replace(base, requester=dataclasses.replace(base.requester, worker=address))


CANARY = (b"\xca" * 32, b"\xcb" * 32)

GRANTED: dict[str, Callable[[], Facts]] = {
    "the first seat gets the keys": facts,
    "the second seat gets the keys": lambda: asked_by(SPARE),
    "a registration that ends at the next block still counts": lambda: worker(expiry=1001),
    "a full worker renews an agent that it holds": lambda: facts(
        ledger=Ledger(held=frozenset({AGENT, b"\1" * 32, b"\2" * 32}))
    ),
    "the last free slot is given": lambda: facts(ledger=Ledger(held=frozenset({b"\1" * 32}))),
    "the newest epochs released before may be released again": lambda: facts(ledger=Ledger(floor=(3, 2, 1))),
    "the newest block still has this epoch": lambda: facts(newest=Newest(agent_epoch=3)),
    "the code in force may be named": lambda: facts(code=b"\xc0" * 32),
    "a canary beside it changes nothing for who does not ask": lambda: agent(canary=CANARY),
    "fewer workers than seats: all of them hold the agent": lambda: facts(live=frozenset({PLACED})),
}


def test_a_canary_is_leased_by_its_code_and_has_the_keys_of_the_agent() -> None:
    plain, beside = (
        may_release(agent(canary=CANARY)),
        may_release(dataclasses.replace(agent(canary=CANARY), code=CANARY[0])),
    )
    assert (beside.lease.code_hash, beside.lease.manifest_hash) == CANARY
    assert (plain.canary, beside.canary) == (False, True)
    same = dataclasses.replace(beside.lease, code_hash=plain.lease.code_hash, manifest_hash=plain.lease.manifest_hash)
    assert same == plain.lease, "nothing else of the lease differs"
    assert beside.identities == plain.identities, "state, secrets and keys are the agent's, whichever version runs"


REFUSED: dict[str, tuple[str, Callable[[], Facts]]] = {
    "a checkpoint of another term": (
        "policy.wrong_term",
        lambda: facts(checkpoint=dataclasses.replace(facts().checkpoint, term=2)),
    ),
    "a worker that is not registered": ("policy.worker_unknown", lambda: facts(worker=None)),
    "a worker removed at the checkpoint": ("policy.worker_removed", lambda: worker(removed=True)),
    "a worker removed since the checkpoint": ("policy.worker_removed", lambda: facts(newest=Newest(removed=True))),
    "a worker that left since the checkpoint": ("policy.worker_removed", lambda: facts(newest=Newest(left=True))),
    "a worker that restarted without registering": ("policy.boot_mismatch", lambda: worker(boot=b"\xb1" * 32)),
    "a registration that ends at this very block": ("policy.worker_expired", lambda: worker(expiry=1000)),
    "an image other than the registered one": ("policy.measurement_mismatch", lambda: worker(measurement=b"\0" * 32)),
    "hardware other than the registered one": ("policy.measurement_mismatch", lambda: worker(vendor_class=b"\0" * 32)),
    "an agent that does not exist": ("policy.agent_unknown", lambda: facts(agent=None)),
    "an identity without code": ("policy.agent_unknown", lambda: agent(code_hash=bytes(32))),
    "an agent without a manifest": ("policy.agent_unknown", lambda: agent(manifest_hash=bytes(32))),
    "an agent paused at the checkpoint": ("policy.paused", lambda: agent(paused=True)),
    "an agent paused since the checkpoint": ("policy.paused", lambda: facts(newest=Newest(paused=True))),
    "an agent epoch older than one released": ("policy.epoch_closed", lambda: facts(ledger=Ledger(floor=(4, 2, 1)))),
    "a cluster epoch older than one released": ("policy.epoch_closed", lambda: facts(ledger=Ledger(floor=(3, 3, 1)))),
    "a master epoch older than one released": ("policy.epoch_closed", lambda: facts(ledger=Ledger(floor=(3, 2, 2)))),
    "an agent epoch that was bumped since the checkpoint": (
        "policy.epoch_closed",
        lambda: facts(newest=Newest(agent_epoch=4)),
    ),
    "code that is not on chain": ("policy.no_such_version", lambda: facts(code=b"\xca" * 32)),
    "code that is neither in force nor the canary": (
        "policy.no_such_version",
        lambda: dataclasses.replace(agent(canary=CANARY), code=b"\xcc" * 32),
    ),
    "the canary's manifest in place of its code": (
        "policy.no_such_version",
        lambda: dataclasses.replace(agent(canary=CANARY), code=CANARY[1]),
    ),
    "a canary of a paused agent": (
        "policy.paused",
        lambda: dataclasses.replace(agent(canary=CANARY, paused=True), code=CANARY[0]),
    ),
    "a canary of an epoch that was bumped": (
        "policy.epoch_closed",
        lambda: dataclasses.replace(agent(canary=CANARY), code=CANARY[0], newest=Newest(agent_epoch=4)),
    ),
    "a live worker that placement did not choose": ("policy.not_placed", lambda: asked_by(UNPLACED)),
    "a chosen worker that is not live": (
        "policy.not_placed",
        lambda: facts(live=frozenset(WORKERS) - {PLACED}),
    ),
    "no live worker at all": ("policy.not_placed", lambda: facts(live=frozenset())),
    "no seats": ("policy.not_placed", lambda: agent(seats=0)),
    "one agent more than the cap": (
        "policy.cap",
        lambda: facts(ledger=Ledger(held=frozenset({b"\1" * 32, b"\2" * 32}))),
    ),
}


@pytest.mark.parametrize("case", GRANTED)
def test_granted(case: str) -> None:
    given_facts = GRANTED[case]()
    grant = may_release(given_facts)
    assert grant.lease.worker == given_facts.requester.worker
    assert grant.lease.agent == AGENT


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case: str) -> None:
    code, build = REFUSED[case]
    with pytest.raises(PolicyError) as caught:
        may_release(build())
    assert caught.value.code == code
    assert caught.value.remedy


def test_the_first_rule_that_says_no_names_the_refusal() -> None:
    everything = dataclasses.replace(worker(removed=True, boot=bytes(32)), agent=None, live=frozenset())
    with pytest.raises(PolicyError) as caught:
        may_release(everything)
    assert caught.value.code == "policy.worker_removed"


def test_the_lease_follows_from_the_checkpoint_alone() -> None:
    lease = may_release(facts()).lease
    assert (lease.period, lease.checkpoint, lease.expiry) == (3, 1000, 1500)
    assert (lease.boot, lease.code_hash, lease.manifest_hash) == (BOOT, b"\xc0" * 32, b"\xc1" * 32)
    assert (lease.term, lease.master_epoch, lease.cluster_epoch, lease.agent_epoch) == (1, 1, 2, 3)


def test_this_and_the_next_period_are_released_and_no_other() -> None:
    grant = may_release(facts())
    names = [(i.purpose, i.period) for i in grant.identities]
    assert names == [
        (Purpose.CALL, 3),
        (Purpose.CALL, 4),
        (Purpose.STATE, 0),
        (Purpose.SECRETS, 0),
        (Purpose.IDENTITY, 0),
        (Purpose.LOG, 0),
    ]


def test_whoever_recovers_builds_the_same_identities_from_the_lease() -> None:
    grant = may_release(facts())
    assert set(identities_of(grant.lease, b"\x0e" * 32).values()) == set(grant.identities)
    elsewhere = identities_of(grant.lease, b"\x0f" * 32).values()
    assert not {bytes(i) for i in elsewhere} & {bytes(i) for i in grant.identities}


@given(st.integers(0, 2**40), st.integers(1, 10_000))
def test_a_lease_covers_its_checkpoint_and_ends_within_two_periods(number: int, period: int) -> None:
    checkpoint = dataclasses.replace(facts().checkpoint, number=number)
    record = WorkerFacts(BOOT, IMAGE, VENDOR, expiry=2**41, removed=False)
    lease = may_release(facts(checkpoint=checkpoint, worker=record, limits=Limits(period, 1))).lease
    assert number < lease.expiry <= number + 2 * period
    assert lease.period * period <= number < (lease.period + 1) * period


@given(st.booleans(), st.booleans(), st.integers(0, 2000), st.sampled_from(WORKERS), st.sets(st.sampled_from(WORKERS)))
def test_a_grant_implies_every_rule(paused: bool, removed: bool, expiry: int, who: bytes, live: set[bytes]) -> None:
    given_facts = asked_by(who, newest=Newest(paused=paused, removed=removed), live=frozenset(live))
    given_facts = dataclasses.replace(given_facts, worker=WorkerFacts(BOOT, IMAGE, VENDOR, expiry, removed=False))
    try:
        may_release(given_facts)
    except CloisterError:
        return
    assert not paused
    assert not removed
    assert expiry > 1000
    assert who in place(SEED, AGENT, live, 2)


@pytest.mark.parametrize("name", ["intel", "amd", "aws", "a" * 32])
def test_a_vendor_class_is_its_padded_name(name: str) -> None:
    assert vendor_class_id(name).rstrip(b"\0").decode() == name
    assert len(vendor_class_id(name)) == 32


@pytest.mark.parametrize("name", ["", "a" * 33, "\0", "intél"])
def test_other_names_are_no_vendor_class(name: str) -> None:
    with pytest.raises(CloisterError):
        vendor_class_id(name)
