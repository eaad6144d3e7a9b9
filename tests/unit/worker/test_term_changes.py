"""A worker while the committee moves on: checkpoints, leases and keys of the term and the master epoch in office."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from cloister.core.chainview.epochs import EpochState
from cloister.core.chainview.terms import SignedHandover, follow
from cloister.core.encoding.signatures import Signed, address_of
from cloister.core.errors import CloisterError
from cloister.core.threshold.shares import PublicShares
from cloister.wire.committee import TOO_FEW
from cloister.wire.heads import HeadsRequest
from cloister.worker.endorse import Endorser
from cloister.worker.masters import MasterKeys
from support.fake_sandbox import Calls, Reply
from support.fake_world import MEMBERS, MPK, MPKS, TRANSCRIPT, test_key
from support.worker_kit import Rig, put, refused

SECOND = tuple(test_key(f"second {i}") for i in range(5))


def take_office(rig: Rig, *, told: bool = True) -> SignedHandover:
    """The second committee takes office; this worker's walk has the hand-over, if it is told."""
    made = rig.world.hand_over(SECOND)
    if told:
        rig.committee.terms = follow(rig.committee.terms, [made], int(rig.world.now))
    return made


def rotate(rig: Rig, new: EpochState) -> None:
    rig.world.set_epoch(1, EpochState.PAUSED, MPK)
    rig.world.set_epoch(2, new, MPKS[2])


def lease_of(rig: Rig, agent: bytes) -> tuple[int, int]:
    """(term, master epoch)."""
    terms = rig.placed(agent).keys.terms
    return terms.term, terms.master_epoch


# --- terms ---


async def test_leases_are_renewed_as_soon_as_a_new_term_is_in_office(rig: Rig) -> None:
    agent = await rig.deploy()
    before = rig.placed(agent)
    assert (await rig.call(agent)).status == 200
    take_office(rig)
    await rig.follow(1)
    assert rig.placed(agent) is before, "the agent goes on: state, process, sessions"
    assert lease_of(rig, agent) == (2, 1)
    assert before.older is not None
    assert before.older.terms.term == 1, "callers that hold the older seat are served until it ends"
    assert (await rig.call(agent)).status == 200
    assert rig.sandbox.starts == 1


async def test_while_the_new_members_grant_nothing_yet_the_older_lease_serves_on(rig: Rig) -> None:
    agent = await rig.deploy()
    take_office(rig)
    rig.refuse = TOO_FEW(expected="3 agreeing of 5", found="none")
    await rig.follow(1)
    assert lease_of(rig, agent) == (1, 1)
    assert rig.table.problems[agent].code == "gatekeeper.too_few"
    assert (await rig.call(agent)).status == 200
    rig.refuse = None
    await rig.follow(1)
    assert lease_of(rig, agent) == (2, 1)


async def test_a_new_term_counts_from_its_hand_over_on_and_not_before(rig: Rig) -> None:
    await rig.follow()
    at = rig.watch.checkpoint.number
    made = take_office(rig, told=False)
    rig.world.mine()
    await refused(rig.watch.refresh(), "chainview.unknown_term")
    assert rig.watch.checkpoint.number == at
    rig.committee.terms = follow(rig.committee.terms, [made], int(rig.world.now))
    assert await rig.watch.refresh()


async def test_an_old_terms_checkpoint_above_the_hand_over_moves_nothing(rig: Rig) -> None:
    await rig.follow()
    take_office(rig)
    rig.world.mine()
    old = replace(rig.world.checkpoint(), term=1)
    rig.committee.signed = rig.world.sign(old, MEMBERS[:3])
    await refused(rig.watch.refresh(), "chainview.term_over")


@pytest.mark.parametrize("signers", [MEMBERS[:3], SECOND[:2], (*SECOND[:2], MEMBERS[0])])
async def test_a_checkpoint_of_the_new_term_takes_t_of_its_members(signers: Any, rig: Rig) -> None:
    await rig.follow()
    take_office(rig)
    rig.committee.signed = rig.world.sign(rig.world.checkpoint(), signers)
    with pytest.raises(CloisterError, match=r"encoding\.(signature|too_few_signers)"):
        await rig.watch.refresh()


class Desk:
    """The committee's memory of heads, which takes everything and remembers what it was sent."""

    def __init__(self, rig: Rig) -> None:
        self.rig, self.requests = rig, list[HeadsRequest]()

    async def endorse_heads(self, request: HeadsRequest) -> tuple[Signed | CloisterError, ...]:
        self.requests.append(request)
        return tuple(self.rig.world.sign(m.statement(self.rig.world.term)) for m in request.heads)


async def test_heads_are_sent_under_leases_of_the_newest_term_alone(make: Any) -> None:
    async def keeper(request: Any, ctx: Calls) -> Reply:
        await put(ctx, "note", request.path.encode())
        return Reply()

    rig = await make(keeper)
    one, two = await rig.deploy(1), await rig.deploy(2)
    desk = Desk(rig)
    endorser = Endorser(rig.node, desk, rig.table.placed)
    for agent in (one, two):
        assert (await rig.call(agent, path="/a")).status == 200
    assert await endorser.turn() == 2
    take_office(rig)

    async def slow(agent: bytes) -> None:
        if agent == two:
            raise TOO_FEW(expected="3 agreeing of 5", found="none")

    rig.on_acquire = slow
    await rig.follow(1)
    for agent in (one, two):
        assert (await rig.call(agent, path="/b")).status == 200
    assert await endorser.turn() == 1
    sent = desk.requests[-1]
    assert {head.agent for head in sent.heads} == {one}
    assert [getattr(lease.statement, "term", 0) for lease in sent.leases] == [2]
    assert sent.proven == (), "the old members' word is nothing to the new ones"
    rig.on_acquire = None
    await rig.follow(1)
    assert await endorser.turn() == 1, "the other agent's head, now that it has a lease of this term"


# --- master epochs ---


async def test_leases_of_the_old_key_serve_until_the_new_one_is_resumed(rig: Rig) -> None:
    agent = await rig.deploy()
    rotate(rig, EpochState.PAUSED)
    await rig.follow(1)
    assert lease_of(rig, agent) == (1, 1)
    assert (await rig.call(agent)).status == 200
    rotate(rig, EpochState.RESUMED)
    await rig.follow(1)
    assert lease_of(rig, agent) == (1, 2)
    assert rig.placed(agent).keys.mpk == MPKS[2]
    assert (await rig.call(agent)).status == 200


async def test_a_lease_of_a_key_that_waits_for_its_resume_is_refused(rig: Rig) -> None:
    agent = await rig.deploy()
    rotate(rig, EpochState.PAUSED)
    rig.terms = {"master_epoch": 2}
    await rig.follow(100)  # a new period: the lease is renewed
    assert rig.table.problems[agent].code == "worker.wrong_lease"
    assert lease_of(rig, agent) == (1, 1)


class Shares:
    """Members that serve public shares. ``wrong``: what they serve instead."""

    def __init__(self, rig: Rig, served: PublicShares) -> None:
        self.terms, self.served, self.asked = rig.committee.terms, served, 0
        self.now = SimpleNamespace(signers=self.terms.in_office.signers, share_keys=self.share_keys)

    async def share_keys(self, epoch: int, fits: Any) -> PublicShares:
        self.asked += 1
        if not fits(self.served):
            raise TOO_FEW(expected="3 agreeing of 5", found="none")
        return self.served


KEYS = (MPK,) * 5
SECOND_KEY = PublicShares(MPKS[2], KEYS, TRANSCRIPT)


def masters(rig: Rig, served: PublicShares = SECOND_KEY) -> tuple[MasterKeys, Shares]:
    members: Any = Shares(rig, served)
    return MasterKeys(rig.world.network, rig.watch, members), members


async def test_the_pinned_key_is_known_without_asking(rig: Rig) -> None:
    await rig.follow()
    keys, members = masters(rig)
    found = await keys.of(1)
    assert (found.mpk, found.share_keys) == (MPK, rig.world.network.share_keys)
    assert members.asked == 0


async def test_a_new_key_is_asked_for_once_and_only_the_proven_one_is_taken(rig: Rig) -> None:
    rotate(rig, EpochState.RESUMED)
    await rig.follow(1)
    keys, members = masters(rig)
    assert [await keys.of(2) for _ in range(3)] == [SECOND_KEY] * 3
    assert members.asked == 1
    assert (await keys.of(1)).mpk == MPK, "to re-seal from"


WRONG = {
    "another key": PublicShares(MPK, KEYS, TRANSCRIPT),
    "another ceremony": PublicShares(MPKS[2], KEYS, bytes(32)),
    "another term": PublicShares(MPKS[2], KEYS, TRANSCRIPT, 2),
    "too few share keys": PublicShares(MPKS[2], KEYS[:4], TRANSCRIPT),
}


@pytest.mark.parametrize("sentence", WRONG)
async def test_shares_of_something_else_are_not_taken(sentence: str, rig: Rig) -> None:
    rotate(rig, EpochState.RESUMED)
    await rig.follow(1)
    await refused(masters(rig, WRONG[sentence])[0].of(2), "gatekeeper.too_few")


@pytest.mark.parametrize("state", [EpochState.NONE, EpochState.DESTROYED])
async def test_a_key_that_nobody_confirmed_or_that_is_destroyed_is_none(state: EpochState, rig: Rig) -> None:
    rig.world.set_epoch(1, EpochState.RELEASED, MPK)
    await rig.follow(1)
    await refused(masters(rig)[0].of(2), "worker.master_epoch")
    rig.world.set_epoch(2, state, MPKS[2])
    rig.world.mine()
    await rig.watch.refresh()
    await refused(masters(rig)[0].of(2), "worker.master_epoch")


async def test_a_key_that_a_hand_over_contradicts_is_no_key(rig: Rig) -> None:
    rotate(rig, EpochState.RESUMED)
    await rig.follow(1)
    take_office(rig)
    rig.world.set_epoch(2, EpochState.RESUMED, MPK, term=1)
    rig.world.mine()
    await rig.watch.refresh()
    await refused(masters(rig)[0].of(2), "chainview.master_key_moved")


async def test_the_members_are_those_of_the_test(rig: Rig) -> None:
    take_office(rig)
    assert rig.committee.terms.in_office.signers.members == tuple(address_of(k) for k in SECOND)
