"""Sending heads to the committee: batches, refusals, members that are behind or ahead, restarts. Real head tables."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest

from cloister.core.encoding.signatures import Signed, sign_digest
from cloister.core.encoding.statements import StateHead
from cloister.core.errors import CloisterError
from cloister.core.state.rows import Head
from cloister.core.state.table import HeadTable
from cloister.fabric.embedded.limits import UNAVAILABLE
from cloister.wire.committee import TOO_FEW
from cloister.wire.heads import HeadMove, HeadsRequest, move_of
from cloister.worker.endorse import BATCH, SHARE, Endorser
from cloister.worker.state import AgentState
from support.fake_world import MEMBERS
from support.worker_kit import Rig, refused

QUORUM = 4
Make = Callable[..., Awaitable[Rig]]


class Members:
    """Five members with real head tables. ``away``: who does not answer."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.tables = [HeadTable(merged=True) for _ in MEMBERS]
        self.away: set[int] = set()
        self.requests: list[HeadsRequest] = []
        self.error: CloisterError | None = None

    async def endorse_heads(self, request: HeadsRequest) -> tuple[Signed | CloisterError, ...]:
        """As gatekeepers do: adopt what is proven, then propose head by head."""
        request.verify()
        self.requests.append(request)
        if self.error is not None:
            raise self.error
        here = [i for i in range(len(MEMBERS)) if i not in self.away]
        for signed in request.proven:
            signed.verify(replace(self.rig.world.network.founding, threshold=QUORUM), self.rig.world.network.id)
            for i in here:
                self.adopt(i, signed)
        return tuple([self.one(move, here) for move in request.heads])

    def adopt(self, member: int, signed: Signed) -> None:
        assert isinstance(signed.statement, StateHead)
        move = move_of(signed.statement)
        known = self.tables[member].get(move.agent)
        if known is None or known.height < move.height:
            self.tables[member].adopt(move.agent, move.as_head())

    def one(self, move: HeadMove, here: list[int]) -> Signed | CloisterError:
        statement, signatures, errors = move.statement(1), [], []
        for i in here:
            try:
                self.tables[i].propose(move.agent, move.as_head())
                signatures.append(sign_digest(MEMBERS[i], statement.digest(self.rig.world.network.id)))
            except CloisterError as error:
                errors.append(error)
        if len(signatures) >= QUORUM:
            return Signed(statement, tuple(signatures))
        return errors[0] if errors else TOO_FEW(expected="4 agreeing of 5", found=f"{len(signatures)} usable answers")

    def heights(self, agent: bytes) -> list[int]:
        """Per member."""
        found = [table.get(agent) for table in self.tables]
        return [head.height if head else 0 for head in found]


class Scene:
    """Agents that write, members that remember."""

    def __init__(self, rig: Rig) -> None:
        self.rig, self.members = rig, Members(rig)
        self.endorser = self.restarted()
        self.writes = 0

    def restarted(self) -> Endorser:
        return Endorser(self.rig.node, self.members, self.rig.table.placed)

    async def write(self, agent: bytes, times: int = 1) -> None:
        state = self.rig.placed(agent).state
        for _ in range(times):
            self.writes += 1
            tx = await state.begin(f"w{self.writes}")
            await tx.put("k", str(self.writes).encode())
            await tx.commit(f"w{self.writes}")

    async def pending(self, agent: bytes) -> int:
        return len((await self.rig.placed(agent).state.snapshot()).record.pending)


@pytest.fixture
async def scene(rig: Rig) -> Scene:
    return Scene(rig)


async def test_new_heads_are_sent_once_and_later_records_drop_them(scene: Scene) -> None:
    agent = await scene.rig.deploy()
    assert await scene.endorser.turn() == 0
    await scene.write(agent, 3)
    assert await scene.endorser.turn() == 3
    assert scene.members.heights(agent) == [3] * 5
    assert await scene.endorser.turn() == 0
    assert len(scene.members.requests) == 1, "nothing new: nothing sent"
    assert await scene.pending(agent) == 3
    await scene.write(agent)
    assert await scene.pending(agent) == 1
    request = scene.members.requests[0]
    assert (request.worker, request.boot) == (scene.rig.node.address, scene.rig.boot)
    assert request.leases == (scene.rig.seat(agent).lease,)
    assert request.proven == ()


async def test_agents_share_a_request_and_ones_unreadable_store_stops_no_other(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    agents = [await scene.rig.deploy(n) for n in (1, 2, 3)]
    for agent in agents:
        await scene.write(agent)
    broken, plain = scene.rig.placed(agents[1]).state, AgentState.snapshot

    async def snapshot(self: AgentState) -> object:
        if self is broken:
            raise UNAVAILABLE(expected="a store that answers", found="none")
        return await plain(self)

    monkeypatch.setattr(AgentState, "snapshot", snapshot)
    assert await scene.endorser.turn() == 2
    assert len(scene.members.requests) == 1
    assert {a: e.code for a, e in scene.endorser.refusals.items()} == {agents[1]: "fabric.unavailable"}
    monkeypatch.undo()
    assert await scene.endorser.turn() == 1
    assert not scene.endorser.refusals


async def test_long_chains_go_in_shares_oldest_first(scene: Scene) -> None:
    agent = await scene.rig.deploy()
    await scene.write(agent, SHARE + 5)
    assert [await scene.endorser.turn() for _ in range(3)] == [SHARE, 5, 0]
    assert scene.members.heights(agent) == [SHARE + 5] * 5
    assert max(len(r.heads) for r in scene.members.requests) <= BATCH


async def test_one_member_may_be_away_and_catches_up_by_the_proof(scene: Scene) -> None:
    agent = await scene.rig.deploy()
    scene.members.away = {2}
    await scene.write(agent, 2)
    assert await scene.endorser.turn() == 2
    await scene.write(agent, 2)
    assert await scene.endorser.turn() == 2
    assert scene.members.heights(agent) == [4, 4, 0, 4, 4]
    scene.members.away = {0}
    await scene.write(agent)
    assert await scene.endorser.turn() == 1, "the one that missed four heads adopts the proven one"
    assert scene.members.heights(agent) == [4, 5, 5, 5, 5]
    assert [s.statement.to_json()["height"] for s in scene.members.requests[-1].proven] == [4]


async def test_two_members_away_leave_heads_pending_until_one_is_back(scene: Scene) -> None:
    agent = await scene.rig.deploy()
    scene.members.away = {0, 1}
    await scene.write(agent, 3)
    assert await scene.endorser.turn() == 0
    assert scene.endorser.refusals[agent].code == "gatekeeper.too_few"
    assert scene.members.heights(agent) == [0, 0, 3, 3, 3]
    scene.members.away = {0}
    assert await scene.endorser.turn() == 3, "the quorum on the newest head covers those below it"
    assert scene.members.heights(agent) == [0, 3, 3, 3, 3]
    assert not scene.endorser.refusals


async def test_a_restarted_worker_finishes_what_the_last_one_began(scene: Scene) -> None:
    agent = await scene.rig.deploy()
    await scene.write(agent, 4)
    await scene.endorser.turn()
    again = scene.restarted()
    assert await again.turn() == 4, "members that are ahead refuse the older heads and accept the newest again"
    await scene.write(agent)
    assert await again.turn() == 1


async def test_a_forked_head_is_refused_and_named(scene: Scene) -> None:
    agent = await scene.rig.deploy()
    await scene.write(agent)
    for table in scene.members.tables:
        table.propose(agent, Head(scene.rig.placed(agent).keys.version.epochs, 1, b"\x01" * 32, b"\x02" * 32))
    assert await scene.endorser.turn() == 0
    assert scene.endorser.refusals[agent].code == "state.forked"
    assert await scene.pending(agent) == 1


async def test_a_refusal_of_the_whole_request_is_raised_and_nothing_is_lost(scene: Scene) -> None:
    agent = await scene.rig.deploy()
    await scene.write(agent)
    scene.members.error = TOO_FEW(expected="4", found="0")
    await refused(scene.endorser.turn(), "gatekeeper.too_few")
    scene.members.error = None
    assert await scene.endorser.turn() == 1


async def test_agents_that_left_are_forgotten(scene: Scene) -> None:
    agent = await scene.rig.deploy()
    await scene.write(agent)
    scene.members.away = {0, 1}
    await scene.endorser.turn()
    scene.rig.world.set_agent(paused=True)
    await scene.rig.follow(1)
    assert await scene.endorser.turn() == 0
    assert not scene.endorser.refusals
    assert not scene.endorser._done
