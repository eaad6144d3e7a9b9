"""State heads: one child per parent, under a lease, remembered first; a restarted member listens before it signs."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from coincurve import PrivateKey

from cloister.core.encoding.hexes import from_hex
from cloister.core.encoding.identity import AgentVersion, Epochs, Purpose
from cloister.core.encoding.signatures import Signed, sign_digest
from cloister.core.encoding.statements import Lease
from cloister.core.errors import CloisterError
from cloister.core.state.heads import genesis_head
from cloister.devnet.layout import free_ports
from cloister.gatekeeper.memory import HeadDesk
from cloister.gatekeeper.service import DOUBT_BLOCKS
from cloister.wire.committee import Committee
from cloister.wire.heads import HeadMove, HeadsRequest, after_row
from cloister.wire.messages import dump_json
from support.gatekeepers import PretendWorker, Seat, World, an_agent, policy, secrets_of, sit, turn_all

AGENT = b"\xaa" * 32
EPOCHS = Epochs(1, 1, 1, b"\xc2" * 32)


class Stage:
    """A 3-of-5 committee with four members running, and a worker with a signed lease."""

    def __init__(self, folder: Path) -> None:
        self.world = World(policy(period_blocks=50))
        self.seats = [Seat(self.world, folder / f"gk-{i}", i, port) for i, port in enumerate(free_ports(5))]
        self.sitting = sit(self.world, self.seats, 3)
        self.worker = PretendWorker(self.world, self.sitting.network)
        self.worker.register()
        an_agent(self.world)
        self.world.mine(4)
        self.committee = Committee(
            [s.url for s in self.seats], self.sitting.signers, self.sitting.network, timeout_s=10
        )

    async def open(self) -> None:
        for seat in self.seats[:4]:
            await seat.open()
        for _ in range(3):
            await turn_all(self.seats)
            self.world.mine(1)

    def desk(self, seat: int = 0) -> HeadDesk:
        member = self.seats[seat].member
        assert member is not None
        return member.require_desks().heads

    def lease(self, **changes: Any) -> Signed:
        base = Lease(
            1,
            AGENT,
            b"\xc0" * 32,
            b"\xc1" * 32,
            b"\xc2" * 32,
            1,
            1,
            1,
            0,
            self.worker.address,
            self.worker.boot,
            5,
            1000,
        )
        lease = dataclasses.replace(base, **changes)
        digest = lease.digest(self.sitting.network)
        return Signed(lease, tuple(sign_digest(s.keys.chain_key(), digest) for s in self.seats[:3]))

    def genesis(self) -> bytes:
        version = AgentVersion(self.sitting.network, 1, b"\xc2" * 32, 1, AGENT, 1)
        return genesis_head(bytes(version.key(Purpose.STATE)))

    def move(self, height: int = 1, parent: bytes | None = None, head: bytes | None = None) -> HeadMove:
        parent = (self.genesis() if height == 1 else bytes([height - 1]) * 32) if parent is None else parent
        return HeadMove(AGENT, EPOCHS, height, parent, bytes([height]) * 32 if head is None else head)

    def request(self, *moves: HeadMove, **changes: Any) -> HeadsRequest:
        base = HeadsRequest(moves or (self.move(),), self.worker.address, self.worker.boot, (self.lease(),))
        return dataclasses.replace(base, **changes).signed(self.worker.key)

    async def ask(self, request: HeadsRequest, seat: int = 0) -> list[str]:
        outcomes = await self.desk(seat).endorse(dump_json(request.to_json()), "test")
        return [o if isinstance(o, str) else o.code for o in outcomes]

    async def close(self) -> None:
        await self.committee.close()
        for seat in self.seats:
            await seat.close()


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    made = Stage(tmp_path)
    try:
        await made.open()
        yield made
    finally:
        await made.close()


async def test_four_of_five_endorse_and_three_tell(stage: Stage) -> None:
    (signed,) = await stage.committee.endorse_heads(stage.request())
    assert isinstance(signed, Signed)
    signed.verify(stage.sitting.signers, stage.sitting.network)
    heard = await stage.committee.heads(AGENT, b"\x11" * 32)
    assert {(a.height, a.head) for a in heard} == {(1, b"\x01" * 32)}


async def test_a_chain_of_moves_in_one_request(stage: Stage) -> None:
    outcomes = await stage.ask(stage.request(stage.move(1), stage.move(2), stage.move(3)))
    assert all(o.startswith("0x") for o in outcomes)
    assert stage.desk().newest(AGENT, b"\1" * 32).head is not None


async def test_the_same_move_is_signed_again_and_the_same(stage: Stage) -> None:
    assert await stage.ask(stage.request()) == await stage.ask(stage.request())


async def test_a_second_child_of_a_parent_is_refused(stage: Stage) -> None:
    await stage.ask(stage.request(stage.move(1), stage.move(2)))
    assert await stage.ask(stage.request(stage.move(2, head=b"\x66" * 32))) == ["state.forked"]
    assert await stage.ask(stage.request(stage.move(1))) == ["state.rolled_back"]
    assert await stage.ask(stage.request(stage.move(4))) == ["state.unknown_parent"]


async def test_the_first_head_stands_on_the_agents_genesis(stage: Stage) -> None:
    assert await stage.ask(stage.request(stage.move(1, parent=b"\x66" * 32))) == ["state.unknown_parent"]


async def test_two_rivals_in_one_request_get_one_signature(stage: Stage) -> None:
    first, second = await stage.ask(stage.request(stage.move(1), stage.move(1, head=b"\x66" * 32)))
    assert first.startswith("0x")
    assert second == "state.forked"


NO_LEASE: dict[str, dict[str, Any]] = {
    "that ended": {"expiry": 3},
    "of another worker": {"worker": b"\x01" * 20},
    "of another boot": {"boot": b"\x01" * 32},
    "of another agent": {"agent": b"\xab" * 32},
    "of an earlier epoch": {"agent_epoch": 0},
    "of an earlier cluster epoch": {"cluster_epoch": 0},
    "of an earlier master epoch": {"master_epoch": 0},
    "of a later epoch, whose state nobody knows": {"agent_epoch": 2},
}


@pytest.mark.parametrize("case", NO_LEASE)
async def test_nothing_is_endorsed_under_a_lease(stage: Stage, case: str) -> None:
    request = stage.request(leases=(stage.lease(**NO_LEASE[case]),))
    assert await stage.ask(request) == ["gatekeeper.no_lease"]


async def test_nothing_is_endorsed_without_a_lease(stage: Stage) -> None:
    assert await stage.ask(stage.request(leases=())) == ["gatekeeper.no_lease"]


async def test_a_lease_that_this_member_granted_is_enough(stage: Stage) -> None:
    member = stage.seats[0].member
    assert member is not None
    granted = stage.lease().statement
    assert isinstance(granted, Lease)
    member.store.record_grant(granted)
    (outcome,) = await stage.ask(stage.request(leases=()))
    assert outcome.startswith("0x")


async def test_a_lease_signed_by_too_few_refuses_the_request(stage: Stage) -> None:
    weak = Signed(stage.lease().statement, stage.lease().signatures[:2])
    with pytest.raises(CloisterError) as caught:
        await stage.ask(stage.request(leases=(weak,)))
    assert caught.value.code == "encoding.too_few_signers"


async def test_another_key_cannot_ask_in_the_workers_name(stage: Stage) -> None:
    forged = dataclasses.replace(stage.request(), signature=stage.request().signed(PrivateKey(b"\5" * 32)).signature)
    with pytest.raises(CloisterError) as caught:
        await stage.ask(forged)
    assert caught.value.code == "encoding.signature"


async def test_a_removed_worker_endorses_nothing_more(stage: Stage) -> None:
    stage.worker.register(removed=True)  # not final yet
    with pytest.raises(CloisterError) as caught:
        await stage.ask(stage.request())
    assert caught.value.code == "policy.worker_removed"


def proven(stage: Stage, move: HeadMove, signers: int = 4) -> Signed:
    head = move.statement(1)
    digest = head.digest(stage.sitting.network)
    return Signed(head, tuple(sign_digest(s.keys.chain_key(), digest) for s in stage.seats[:signers]))


async def test_a_member_that_missed_some_catches_up_by_what_q_members_signed(stage: Stage) -> None:
    assert await stage.ask(stage.request(stage.move(3))) == ["state.unknown_parent"]
    (outcome,) = await stage.ask(stage.request(stage.move(3), proven=(proven(stage, stage.move(2)),)))
    assert outcome.startswith("0x")


async def test_three_signatures_do_not_move_a_member(stage: Stage) -> None:
    with pytest.raises(CloisterError) as caught:
        await stage.ask(stage.request(stage.move(3), proven=(proven(stage, stage.move(2), 3),)))
    assert caught.value.code == "encoding.too_few_signers"


async def test_proven_heads_never_take_a_member_back(stage: Stage) -> None:
    await stage.ask(stage.request(stage.move(1), stage.move(2)))
    (outcome,) = await stage.ask(stage.request(stage.move(3), proven=(proven(stage, stage.move(1)),)))
    assert outcome.startswith("0x")


async def test_a_restarted_member_signs_nothing_until_it_heard_others(stage: Stage) -> None:
    await stage.committee.endorse_heads(stage.request())
    await stage.seats[0].close()
    member = await stage.seats[0].open()
    await member.follow_chain()
    assert not stage.desk().merged
    assert await stage.ask(stage.request(stage.move(2))) == ["state.not_merged"]
    await member.require_desks().heads.merge(secrets_of("merge"))
    (outcome,) = await stage.ask(stage.request(stage.move(2)))
    assert outcome.startswith("0x")


async def test_a_member_whose_disk_was_rolled_back_learns_the_newest_head(stage: Stage) -> None:
    await stage.committee.endorse_heads(stage.request(stage.move(1), stage.move(2)))
    await stage.seats[0].close()
    member = await stage.seats[0].open()
    member.store._db.execute("DELETE FROM heads")
    await member.follow_chain()
    await member.require_desks().heads.merge(secrets_of("merge"))
    assert await stage.ask(stage.request(stage.move(1, head=b"\x66" * 32))) == ["state.rolled_back"]
    rows = member.store.head_rows()
    assert [r["height"] for r in rows] == [2], "what was learnt is on disk"


async def test_a_member_that_comes_back_into_a_fork_signs_nothing_of_that_agent_until_it_ends(stage: Stage) -> None:
    """A host fed two heads of a fork to one member. The highest head is not the newest: nobody follows it."""
    fork = stage.move(2, head=b"\x66" * 32)
    for seat in range(4):
        assert (await stage.ask(stage.request(stage.move(1)), seat))[0].startswith("0x")
    await stage.ask(stage.request(fork, stage.move(3, parent=fork.head, head=b"\x77" * 32)), 3)
    for seat in range(3):
        assert (await stage.ask(stage.request(stage.move(2)), seat))[0].startswith("0x")
    await stage.seats[0].close()
    member = await stage.seats[0].open()
    await member.follow_chain()
    heads = member.require_desks().heads
    await heads.merge(secrets_of("merge"))
    assert (heads.merged, heads.doubts) == (True, 1)
    assert [r["height"] for r in member.store.head_rows()] == [2]
    assert await stage.ask(stage.request(stage.move(3))) == ["state.not_merged"]
    head = stage.move(2).statement(1)
    digest = head.digest(stage.sitting.network)
    proof = Signed(head, tuple(sign_digest(s.keys.chain_key(), digest) for s in (*stage.seats[:3], stage.seats[4])))
    (outcome,) = await stage.ask(stage.request(stage.move(3), proven=(proof,)))
    assert outcome.startswith("0x")
    assert heads.doubts == 0


async def test_members_are_asked_again_every_few_blocks_while_something_is_in_doubt(stage: Stage) -> None:
    await stage.ask(stage.request(stage.move(1)), 1)
    await stage.ask(stage.request(stage.move(1)), 2)
    await stage.seats[0].close()
    member = await stage.seats[0].open()
    for _ in range(6):
        await turn_all(stage.seats)
        stage.world.mine(1)
    heads = member.require_desks().heads
    assert (heads.merged, heads.doubts) == (True, 1), "one member of three knows nothing of the agent"
    await stage.ask(stage.request(stage.move(1)), 3)
    for _ in range(DOUBT_BLOCKS + 1):
        await turn_all(stage.seats)
        stage.world.mine(1)
    assert heads.doubts == 0
    assert (await stage.ask(stage.request(stage.move(2))))[0].startswith("0x")


async def test_with_too_few_others_a_restarted_member_stays_silent(stage: Stage) -> None:
    for seat in stage.seats[1:]:
        await seat.close()
    await stage.seats[0].close()
    member = await stage.seats[0].open()
    await member.follow_chain()
    with pytest.raises(CloisterError) as caught:
        await member.require_desks().heads.merge(secrets_of("merge"))
    assert caught.value.code == "gatekeeper.too_few"
    assert not stage.desk().merged


async def test_long_tables_travel_in_pages(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    import cloister.gatekeeper.memory as memory

    monkeypatch.setattr(memory, "PAGE_ROWS", 3)
    member = stage.seats[0].member
    assert member is not None
    from cloister.core.state.rows import Head

    member.store.put_heads([(bytes([i]) * 32, Head(EPOCHS, 1, b"\1" * 32, b"\2" * 32)) for i in range(1, 9)])
    page = stage.desk().page(b"\1" * 32, b"")
    assert page.more
    assert len(page.rows) == 3
    seen = list(page.rows)
    while page.more:
        page = stage.desk().page(b"\1" * 32, after_row(seen[-1]))
        seen += page.rows
    assert [from_hex(r["agent"]) for r in seen] == [bytes([i]) * 32 for i in range(1, 9)]


NEW = EPOCHS._replace(agent=2)


def moved(stage: Stage, height: int = 2, head: bytes = b"\x72", **how: Any) -> HeadMove:
    """A head under the next agent epoch, on the newest one of the first."""
    base = HeadMove(AGENT, NEW, height, bytes([height - 1]) * 32, head * 32)
    return dataclasses.replace(base, **how)


def renewed(stage: Stage, *moves: HeadMove, **changes: Any) -> HeadsRequest:
    """A request under a lease of the next agent epoch."""
    return stage.request(*moves, leases=(stage.lease(agent_epoch=2),), **changes)


async def test_a_lease_of_new_epochs_continues_the_chain_of_the_old_ones(stage: Stage) -> None:
    await stage.ask(stage.request(stage.move(1)))
    assert stage.desk().sealed(AGENT) == EPOCHS
    (outcome,) = await stage.ask(renewed(stage, moved(stage)))
    assert outcome.startswith("0x")
    assert stage.desk().sealed(AGENT) == NEW
    assert await stage.ask(stage.request(stage.move(2))) == ["state.rolled_back"], "the old epochs are left"


async def test_and_may_finish_the_old_chain_before(stage: Stage) -> None:
    await stage.ask(stage.request(stage.move(1)))
    outcomes = await stage.ask(renewed(stage, stage.move(2), moved(stage, 3)))
    assert all(o.startswith("0x") for o in outcomes)


RE_SEALS: dict[str, tuple[dict[str, Any], str]] = {
    "on an older head": ({"parent": b"\1" * 32}, "state.unknown_parent"),
    "on a head that nobody endorsed": ({"parent": b"\x99" * 32}, "state.unknown_parent"),
    "of epochs that the lease is not of": ({"epochs": EPOCHS._replace(agent=3)}, "gatekeeper.no_lease"),
    "of epochs before those that the state is under": ({"epochs": EPOCHS._replace(agent=0)}, "gatekeeper.no_lease"),
}


@pytest.mark.parametrize("case", RE_SEALS)
async def test_no_re_seal_is_endorsed(stage: Stage, case: str) -> None:
    await stage.ask(stage.request(stage.move(1), stage.move(2)))
    change, code = RE_SEALS[case]
    assert await stage.ask(renewed(stage, moved(stage, 3, **change))) == [code]


async def test_of_two_workers_re_seals_one_is_signed(stage: Stage) -> None:
    await stage.ask(stage.request(stage.move(1)))
    first, second = await stage.ask(renewed(stage, moved(stage), moved(stage, head=b"\x73")))
    assert first.startswith("0x")
    assert second == "state.forked"


async def test_once_newer_keys_were_released_an_old_lease_endorses_nothing(stage: Stage) -> None:
    """A worker that kept its keys and its lease: t members released newer keys, so no quorum signs for it any more."""
    await stage.ask(stage.request(stage.move(1)))
    member = stage.seats[0].member
    assert member is not None
    granted = stage.lease(agent_epoch=2, worker=b"\x33" * 20).statement
    assert isinstance(granted, Lease)
    member.store.record_grant(granted)
    assert await stage.ask(stage.request(stage.move(2))) == ["gatekeeper.no_lease"]
    (outcome,) = await stage.ask(renewed(stage, moved(stage)))
    assert outcome.startswith("0x")


def first_again(stage: Stage) -> HeadMove:
    genesis = genesis_head(bytes(NEW.version(stage.sitting.network, AGENT).key(Purpose.STATE)))
    return moved(stage, 1, parent=genesis)


async def test_state_starts_over_only_where_the_owner_left_the_old_one_behind(stage: Stage) -> None:
    await stage.ask(stage.request(stage.move(1), stage.move(2)))
    assert await stage.ask(renewed(stage, first_again(stage))) == ["state.unknown_parent"]
    an_agent(stage.world, agent_epoch=2, wiped_below=2)
    assert await stage.ask(renewed(stage, first_again(stage))) == ["state.unknown_parent"], "not final yet"
    for _ in range(4):
        stage.world.mine(1)
        await turn_all(stage.seats)
    (outcome,) = await stage.ask(renewed(stage, first_again(stage)))
    assert outcome.startswith("0x")
    assert stage.desk().sealed(AGENT) == NEW
