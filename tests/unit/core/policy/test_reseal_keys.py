"""Which keys of earlier epochs go with a lease, and which never do: one sentence per rule (spec/epochs.md 5, 6)."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloister.core.encoding.identity import Epochs, KeyIdentity, Purpose
from cloister.core.encoding.statements import Checkpoint
from cloister.core.errors import PolicyError
from cloister.core.policy.identities import granted_identities, resealing_identities
from cloister.core.policy.release import (
    AgentFacts,
    CommitteeFacts,
    EpochFacts,
    EpochState,
    Facts,
    Grant,
    Ledger,
    Limits,
    Requester,
    WorkerFacts,
    is_closed,
    may_release,
)

NETWORK, AGENT, CLUSTER, OTHER = b"\x0e" * 32, b"\xaa" * 32, b"\xc2" * 32, b"\xc3" * 32
WORKER, BOOT, IMAGE, VENDOR = b"\x01" * 20, b"\xb0" * 32, b"\x1a" * 32, b"\x7e" * 32
NOW = Epochs(3, 2, 1, CLUSTER)
OLD = Epochs(1, 2, 1, CLUSTER)
MIDDLE = Epochs(2, 2, 1, CLUSTER)


def grant(
    sealed: Epochs | None,
    secrets: Epochs | None,
    *,
    wiped_below: int = 0,
    masters: EpochFacts | None = None,
    now: Epochs = NOW,
    **ledger: Any,
) -> Grant:
    facts = Facts(
        checkpoint=Checkpoint(1, 31337, 1000, b"\1" * 32, b"\2" * 32, 1_700_000_000),
        requester=Requester(WORKER, BOOT, IMAGE, VENDOR),
        worker=WorkerFacts(BOOT, IMAGE, VENDOR, expiry=5000, removed=False),
        agent=AgentFacts(AGENT, BOOT, BOOT, now.of, now.agent, now.cluster, 2, False, secrets, wiped_below),
        committee=CommitteeFacts(NETWORK, term=1, seed=b"\x5e" * 32, master_epoch=now.master),
        live=frozenset({WORKER}),
        limits=Limits(period_blocks=300, max_agents_per_worker=2),
        ledger=Ledger(sealed=sealed, **ledger),
        masters=masters or EpochFacts(),
    )
    return may_release(facts)


def key(epochs: Epochs, purpose: Purpose) -> KeyIdentity:
    return epochs.version(NETWORK, AGENT).key(purpose)


STATE, SECRETS = Purpose.STATE, Purpose.SECRETS
# Where state is sealed, where the owner's secrets were set, what goes along.
GIVEN: dict[str, tuple[Epochs | None, Epochs | None, dict[str, Any], list[tuple[Epochs, Purpose]]]] = {
    "an agent that was never bumped gets nothing besides": (NOW, NOW, {}, []),
    "a new agent gets nothing besides": (None, None, {}, []),
    "one whose secrets were set under these epochs neither": (None, NOW, {}, []),
    "after a bump state and secrets of the epochs before": (OLD, OLD, {}, [(OLD, STATE), (OLD, SECRETS)]),
    "state alone when there are no secrets": (OLD, None, {}, [(OLD, STATE)]),
    "secrets alone when there was no state": (None, OLD, {}, [(OLD, SECRETS)]),
    "each where it is sealed": (OLD, MIDDLE, {}, [(OLD, STATE), (MIDDLE, SECRETS)]),
    "secrets that a re-seal carried are where the state is": (MIDDLE, OLD, {}, [(MIDDLE, STATE), (MIDDLE, SECRETS)]),
    "several bumps in a row: from where the state is, not from the epoch before": (OLD, None, {}, [(OLD, STATE)]),
    "nothing any more once a head of these epochs is endorsed": (NOW, OLD, {}, []),
    "nor when a later head is known": (Epochs(4, 2, 1, CLUSTER), OLD, {}, []),
    "after a transfer the chain names no secrets: state alone": (MIDDLE, None, {}, [(MIDDLE, STATE)]),
    "after a transfer the new owner's own secrets are under these epochs": (MIDDLE, NOW, {}, [(MIDDLE, STATE)]),
    "state that the owner left behind stays closed": (OLD, None, {"wiped_below": 2}, []),
    "and secrets that only it carried": (MIDDLE, OLD, {"wiped_below": 3}, []),
    "secrets set since are not left behind": (OLD, MIDDLE, {"wiped_below": 2}, [(MIDDLE, SECRETS)]),
    "a mark that lies below the state leaves nothing behind": (MIDDLE, None, {"wiped_below": 2}, [(MIDDLE, STATE)]),
}


@pytest.mark.parametrize("sentence", GIVEN)
def test_keys_of_earlier_epochs(sentence: str) -> None:
    sealed, secrets, more, expected = GIVEN[sentence]
    given_grant = grant(sealed, secrets, **more)
    assert list(given_grant.old) == [key(*one) for one in expected]
    assert given_grant.reason.startswith("to re-seal: ") == bool(expected)


BUMPS = {
    "a cluster bump": Epochs(1, 3, 1, CLUSTER),
    "a new master epoch": Epochs(1, 2, 2, CLUSTER),
    "a move to another cluster whose epoch is lower": Epochs(2, 1, 1, OTHER),
}


@pytest.mark.parametrize("sentence", BUMPS)
def test_every_layer_is_a_bump(sentence: str) -> None:
    found = grant(OLD, OLD, now=BUMPS[sentence])
    assert [i.version.epochs for i in found.old] == [OLD, OLD]
    assert found.lease.epochs == BUMPS[sentence]


EPOCHS = st.builds(Epochs, st.integers(1, 4), st.integers(1, 3), st.integers(1, 3), st.sampled_from([CLUSTER, OTHER]))


@given(st.none() | EPOCHS, st.none() | EPOCHS, st.integers(0, 5), EPOCHS)
def test_whatever_is_known_old_keys_are_of_state_and_secrets_of_this_agent_and_earlier(
    sealed: Epochs | None, secrets: Epochs | None, wiped: int, now: Epochs
) -> None:
    found = grant(sealed, secrets, wiped_below=wiped, now=now)
    assert {i.purpose for i in found.old} <= {STATE, SECRETS}
    for identity in found.old:
        assert identity.version.epochs < now
        assert (identity.version.agent, identity.version.network, identity.period) == (AGENT, NETWORK, 0)
        assert identity.version.epochs in (sealed, secrets)
    if secrets is None:
        assert all(i.purpose is STATE for i in found.old)
    assert not set(found.old) & set(found.identities)


def test_call_identity_and_log_keys_of_earlier_epochs_are_never_named() -> None:
    late = resealing_identities(NETWORK, AGENT, NOW, OLD, OLD)
    assert {i.purpose for i in late} == {STATE, SECRETS}
    usual = {i.purpose for i in granted_identities(NOW.version(NETWORK, AGENT), 3)}
    assert usual == set(Purpose)
    assert resealing_identities(NETWORK, AGENT, NOW, NOW, Epochs(9, 1, 1, CLUSTER)) == ()


FLOORS: dict[str, tuple[tuple[int, int, int], tuple[int, int, int], bool]] = {
    "the newest epochs are open": ((3, 2, 1), (3, 2, 1), False),
    "an older agent epoch is closed": ((2, 2, 1), (3, 2, 1), True),
    "an older cluster epoch is closed": ((3, 1, 1), (3, 2, 1), True),
    "an older master epoch is closed": ((3, 2, 1), (3, 2, 2), True),
    "another cluster's lower epoch is open under a newer agent epoch": ((4, 1, 1), (3, 2, 1), False),
    "but not under an older one": ((2, 9, 1), (3, 2, 1), True),
    "a newer agent epoch opens no older master epoch": ((4, 2, 1), (3, 2, 2), True),
}


@pytest.mark.parametrize("sentence", FLOORS)
def test_floors(sentence: str) -> None:
    epochs, floor, closed = FLOORS[sentence]
    assert is_closed(epochs, floor) == closed


def masters(**states: EpochState) -> EpochFacts:
    return EpochFacts({int(name[1:]): state for name, state in states.items()})


SECOND = Epochs(1, 2, 2, CLUSTER)
ROTATIONS: dict[str, tuple[EpochFacts, Epochs, bool]] = {
    "before any rotation keys are released": (masters(), OLD, True),
    "an epoch that was never paused is released": (masters(e1=EpochState.RELEASED), OLD, True),
    "from the confirmation on none of the old epoch": (masters(e1=EpochState.PAUSED, e2=EpochState.PAUSED), OLD, False),
    "and none of the new one until it is resumed": (masters(e1=EpochState.PAUSED, e2=EpochState.PAUSED), SECOND, False),
    "then those of the new one": (masters(e1=EpochState.PAUSED, e2=EpochState.RESUMED), SECOND, True),
    "and none of the old one for writing": (masters(e1=EpochState.RELEASED, e2=EpochState.RESUMED), OLD, False),
}


@pytest.mark.parametrize("sentence", ROTATIONS)
def test_rotations_of_the_master_key(sentence: str) -> None:
    states, now, released = ROTATIONS[sentence]
    if released:
        assert grant(None, None, masters=states, now=now).lease.master_epoch == now.master
        return
    with pytest.raises(PolicyError) as caught:
        grant(None, None, masters=states, now=now)
    assert caught.value.code == "policy.rotating"


def test_after_a_rotation_leases_carry_state_and_secrets_of_both_epochs_until_the_old_one_is_destroyed() -> None:
    states = masters(e1=EpochState.PAUSED, e2=EpochState.RESUMED)
    found = grant(OLD, OLD, masters=states, now=SECOND)
    assert [(i.purpose, i.version.master_epoch) for i in found.old] == [(STATE, 1), (SECRETS, 1)]
    gone = masters(e1=EpochState.DESTROYED, e2=EpochState.RESUMED)
    assert grant(OLD, OLD, masters=gone, now=SECOND).old == ()


def test_equal_facts_give_equal_grants() -> None:
    assert grant(OLD, MIDDLE) == grant(OLD, MIDDLE)
    assert dataclasses.replace(grant(OLD, None), reason="") != dataclasses.replace(grant(None, None), reason="")
