"""The whole contract, driven by the members' own machine, every fact read by proof (spec/gatekeepers.md)."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from cloister.chain.rpc import Rpc
from cloister.core.chainview.ceremonies import CeremonyView, Ending, EpochState, ceremony_id
from cloister.core.chainview.terms import SignedHandover, Term, terms_from
from cloister.core.encoding.handover import (
    EpochDestruction,
    Handover,
    MasterResume,
    ReceiverRefusal,
    SeatRevocation,
    members_hash,
)
from cloister.core.encoding.keccak import keccak256
from cloister.core.encoding.signatures import SignerSet
from cloister.core.errors import CloisterError
from cloister.core.policy.committee_statements import Proposal, call_of
from cloister.core.threshold import actions as do
from cloister.core.threshold.facts import Fault
from cloister.core.threshold.phases import Deadlines, Kind, Phase
from support.anvil import TestChain
from support.ceremony_chain import RULES, WINDOW, Gatekeeper, Manner, Town


@pytest.fixture
async def town(chain: TestChain) -> AsyncIterator[Town]:
    """Fresh contracts; five gatekeepers stand, two more may."""
    async with Rpc(chain.url) as rpc:
        made = await Town.build(chain, rpc)
        await made.stand(made.all[:5])
        yield made


async def open_founding(town: Town) -> CeremonyView:
    await town.send(town.founder, "openFounding", [one.address for one in town.all[:5]], 3, town.genesis)
    view = await (await town.state()).open_ceremony()
    assert view is not None
    return view


async def founded(town: Town) -> CeremonyView:
    await open_founding(town)
    return (await town.run())[0]


async def in_office(town: Town) -> list[Gatekeeper]:
    return town.seated((await town.view("committee"))["members"])


async def prepare(town: Town, extra: list[Gatekeeper] | None = None) -> None:
    """Everybody in office registers a key, and the contract rests."""
    await town.new_keys([*(await in_office(town)), *(extra or [])])
    await town.rest()


def key_of(town: Town, epoch: int, term: int) -> bytes:
    shares = [one.shares[(epoch, term)] for one in town.all if (epoch, term) in one.shares]
    assert len({share.public.mpk for share in shares}) == 1
    for share in shares:
        share.verify()
    return shares[0].public.mpk


async def test_the_founding_completes_with_one_absent_and_every_number_is_python_s(town: Town) -> None:
    town.all[4].manner = Manner(absent=True)
    view = await open_founding(town)
    assert view.id == ceremony_id(town.genesis, town.contracts["Gatekeepers"], Kind.FOUND, 1, 1, 1)
    assert view.deadlines == Deadlines.after(view.opened_at, WINDOW)
    assert (view.threshold, view.quorum, view.dealers, view.ending) == (3, 3, view.receivers, Ending.OPEN)
    view, facts, phase = await town.run()
    assert phase is Phase.DONE
    assert set(facts.committed) == set(facts.confirmed) == {1, 2, 3, 4}
    assert (await town.view("term")) == 0, "a deadline brought the end: somebody writes it down"
    await town.send(town.founder, "close", view.id)
    state = await town.state()
    committee, term, epoch = await state.committee(), await state.term_record(1), await state.epoch_record(1)
    assert committee.mpk == epoch.mpk == key_of(town, 1, 1)
    assert (term.members, term.threshold, term.mpk_hash) == (view.receivers, 3, keccak256(epoch.mpk))
    assert epoch.state is EpochState.RELEASED
    assert [one.share is not None for one in town.all[:5]] == [True] * 4 + [False]
    closed = await state.open_ceremony()
    assert closed is not None
    assert closed.ending is Ending.DONE


async def test_refresh_then_another_member_then_a_new_master_key(town: Town) -> None:
    await founded(town)
    mpk = key_of(town, 1, 1)
    # R6: a refresh to the same members
    await prepare(town)
    await town.send(town.founder, "refresh")
    view, _, phase = await town.run()
    assert (phase, view.kind, view.term, view.dealer_term) == (Phase.DONE, Kind.RESHARE, 2, 1)
    assert key_of(town, 1, 2) == mpk
    assert town.all[0].shares[(1, 1)].secret != town.all[0].shares[(1, 2)].secret
    await hand_over(town, 1, town.all[:3])
    # E2: one resigns, another sits down
    await town.stand([town.all[5]])
    await town.send(town.all[1].sender, "resign", town.all[1].address)
    await prepare(town)
    await town.admit(town.all[5], town.all[:3])
    assert await (await town.state()).admitted_until(town.all[5].address) > 0
    await town.send(town.founder, "nominate")
    view, _, phase = await town.run()
    assert phase is Phase.DONE
    assert (await in_office(town))[1] is town.all[5], "the newcomer takes the seat that fell vacant"
    assert key_of(town, 1, 3) == mpk, "all derived keys stay"
    await hand_over(town, 2, [town.all[i] for i in (0, 1, 4)])
    # M1, M2
    await prepare(town)
    await town.send(town.founder, "rotate")
    view, _, phase = await town.run()
    assert (phase, view.kind, view.master_epoch) == (Phase.DONE, Kind.ROTATE, 2)
    new = key_of(town, 2, 3)
    assert new != mpk
    await epochs(town, view, mpk, new)


async def hand_over(town: Town, term: int, by: list[Gatekeeper]) -> None:
    """H1: t old members sign what the contract says; a verifier follows it."""
    said = await town.view("handover", term)
    record = await (await town.state()).term_record(term + 1)
    statement = Handover(
        term=term,
        next_term=term + 1,
        threshold=record.threshold,
        members=members_hash(record.members),
        master_epoch=record.master_epoch,
        mpk=record.mpk_hash,
        height=record.height,
        timestamp=record.timestamp,
    )
    assert list(said.values()) == [getattr(statement, name) for name in Handover.TYPES]
    signatures = await town.signed(statement, by)
    await town.send(town.founder, "handOver", term, signatures)
    stored = await (await town.state()).handover_signatures(term)
    assert stored == tuple(signatures)
    before = await (await town.state()).term_record(term)
    pinned = Term(SignerSet(term, before.threshold, before.members), 1, before.mpk_hash, before.height, 10**10)
    shown = SignedHandover(statement, record.members, stored)
    known = terms_from(pinned, [shown], await town.view("networkId"), 10**10, 10**10)
    assert known.in_office.signers.members == record.members


async def epochs(town: Town, rotation: CeremonyView, old: bytes, new: bytes) -> None:
    """M2, M4: nothing is released before ``resume``; both keys are readable; the old one ends when nothing needs it."""
    state = await town.state()
    one, two = await state.epoch_record(1), await state.epoch_record(2)
    assert (one.state, two.state, one.mpk, two.mpk) == (EpochState.PAUSED, EpochState.PAUSED, old, new)
    members = (await in_office(town))[:3]
    resume = MasterResume(3, rotation.id, 2)
    await town.send(town.founder, "resume", resume, await town.signed(resume, members))
    assert (await (await town.state()).epoch_record(2)).state is EpochState.RESUMED
    end = EpochDestruction(3, 1)
    await town.send(town.founder, "destroyEpoch", end, await town.signed(end, members))
    gone = await (await town.state()).epoch_record(1)
    assert gone.state is EpochState.DESTROYED
    assert gone.destroyed_at > gone.confirmed_at


async def test_a_lying_dealer_publishes_and_opens_and_liars_accuse_in_vain(town: Town) -> None:
    town.all[1].manner = Manner(bad_share_for=4)
    town.all[2].manner = Manner(accuses={1: Fault.BAD_SHARE})
    await open_founding(town)
    _, facts, phase = await town.run()
    assert phase is Phase.DONE
    assert facts.complaints == {(2, 4): Fault.BAD_SHARE, (1, 3): Fault.BAD_SHARE}
    assert facts.published == {1, 2}
    assert set(facts.opened) == {(2, 4), (1, 3)}
    assert len({value.qualified for value in facts.confirmed.values()}) == 1
    key_of(town, 1, 1)
    assert all(one.share is not None for one in town.all[:5])


async def test_a_cancelled_ceremony_changes_nothing_and_its_keys_are_never_used_again(town: Town) -> None:
    view = await open_founding(town)
    await town.run(stop=lambda phase: phase is Phase.SHOW)
    await town.send(town.founder, "cancel", view.id)
    _, facts, phase = await town.run()
    assert phase is Phase.FAILED
    assert facts.cancelled
    assert {one.failed for one in town.all[:5]} == {"threshold.cancelled"}
    assert await town.view("term") == 0
    with pytest.raises(CloisterError, match=r"NoFreshKey|reverted"):
        await town.send(town.founder, "openFounding", list(view.receivers), 3, town.genesis)
    await town.new_keys(town.all[:5])
    again = await open_founding(town)
    assert again.id != view.id
    assert not set(again.keys) & set(view.keys)
    assert (await town.run())[2] is Phase.DONE


async def test_too_few_dealers_fail_and_the_committee_in_office_stays(town: Town) -> None:
    await founded(town)
    mpk = key_of(town, 1, 1)
    await prepare(town)
    for one in town.all[:3]:
        one.manner = Manner(absent=True)
    await town.send(town.founder, "refresh")
    view, facts, phase = await town.run()
    assert phase is Phase.FAILED
    assert set(facts.committed) == {4, 5}
    await town.send(town.founder, "close", view.id)
    state = await town.state()
    committee = await state.committee()
    assert (committee.term, committee.mpk) == (1, mpk)
    ended = await state.ceremony_at(2)
    assert ended.ending is Ending.FAILED
    first = await state.ceremony_at(1)
    assert first.ending is Ending.DONE, "earlier ceremonies stay readable"
    assert not any((1, 2) in one.shares for one in town.all)


async def test_a_revoked_member_signs_nothing_and_the_reshare_removes_it(town: Town) -> None:
    await founded(town)
    bad = town.all[0]
    said = SeatRevocation(1, bad.address)
    await town.send(town.founder, "revokeByCommittee", said, await town.signed(said, town.all[1:4]))
    assert (await (await town.state()).term_record(1)).revoked == {1}
    other = SeatRevocation(1, town.all[6].address)
    network = await town.signed(other, town.all[:3])
    with pytest.raises(CloisterError, match="TooFewSigners"):
        await town.view("requireStatement", 1, other.struct_hash(), network)
    await town.stand([town.all[5]])
    await town.new_keys(town.all[1:5])
    await town.rest()
    await town.admit(town.all[5], town.all[1:4])
    await town.send(town.founder, "nominate")
    view, facts, phase = await town.run()
    assert phase is Phase.DONE
    assert view.dealers[0] == bad.address
    assert 1 in facts.committed, "it may deal in the one reshare that removes it (E7)"
    assert bad not in await in_office(town)
    assert (await (await town.state()).term_record(2)).revoked == frozenset()


async def test_t_members_end_a_ceremony_whose_receiver_shows_nothing(town: Town) -> None:
    """As members write it (G15), to the contract as it is."""
    await founded(town)
    await prepare(town)
    await town.send(town.founder, "refresh")
    view = await (await town.state()).open_ceremony()
    assert view is not None
    said = Proposal(ReceiverRefusal(1, view.id, town.all[4].address))
    contract, function, (fields, few) = call_of(said, await town.signed(said.statement, town.all[:2]))
    with pytest.raises(CloisterError, match=r"TooFewSigners|reverted"):
        await town.send(town.founder, function, fields, few)
    _, _, (_, enough) = call_of(said, await town.signed(said.statement, town.all[:3]))
    await town.send(town.founder, function, fields, enough)
    assert (contract, (await (await town.state()).ceremony_at(view.number)).ending) == ("Gatekeepers", Ending.CANCELLED)
    _, facts, phase = await town.run()
    assert (phase, facts.committed) == (Phase.FAILED, {})


async def test_rules_are_read_as_they_were_set(town: Town) -> None:
    assert await (await town.state()).rules() == RULES
    assert not any(isinstance(a, do.Fail) for one in town.all for a in one.asked)
