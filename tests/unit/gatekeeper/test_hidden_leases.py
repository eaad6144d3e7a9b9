"""A lease that liars and one honest member granted does not stay hidden from the others (gatekeepers.md W6, S7)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloister.core.encoding.signatures import SignerSet
from cloister.core.encoding.statements import Checkpoint
from cloister.core.errors import CloisterError
from cloister.gatekeeper.placements import LOOK_BACK, MAX_LOOKS, Placements
from cloister.gatekeeper.store import Store
from cloister.wire.conflicts import MAX_GRANTS, Granted, Witnessed
from cloister.wire.messages import SignedBy
from support.committee_chain import refuse
from support.gatekeepers import TERM_SEED, PretendWorker, World, WorldChain, WorldSnapshot, an_agent, policy
from support.statement_cast import blocks, committee, lease_of

SIGNERS = SignerSet(1, 2, (b"\1" * 20, b"\2" * 20, b"\3" * 20))


# --- the attack, by five members ---


async def test_keys_from_two_liars_and_one_honest_member_end_with_the_worker(tmp_path: Path) -> None:
    """t = 3. The liars show nothing, and vote for nothing; the worker asked one honest member alone."""
    async with committee(tmp_path) as (world, seats, sitting):
        worker = PretendWorker(world, sitting.network)
        worker.register()
        held, never = an_agent(world), an_agent(world, b"\xbb" * 32, seats=0)
        world.mine(4)
        await blocks(world, seats, 1)
        seats[0].gatekeeper.store.record_grant(lease_of(world, worker, held))
        lie = Granted(worker.address, never.agent, 1, world.final.number)
        for liar in seats[3:]:
            liar.gatekeeper.witnessed = lambda _: Witnessed((), (), (lie,)).to_json()  # type: ignore[method-assign, assignment]
            liar.gatekeeper.statements.served_leases = lambda _: {"leases": []}  # type: ignore[method-assign]
            liar.gatekeeper.statements.served = lambda: {"statements": []}  # type: ignore[method-assign]
        await blocks(world, seats, 2)
        for honest in seats[1:3]:
            assert honest.gatekeeper.store.witnessed(worker.address, 1) == {(held.agent, 1)}
        await seats[0].close()  # and then its host stops the one that granted
        world.now.workers[worker.address] = worker.facts(removed=True)
        await seats[0].open()
        await blocks(world, seats, 6)
        assert world.now.bumped == [(held.token_id, 1)]
        assert world.now.agents[never.agent].agent_epoch == 1, "what was not placed there is nobody's to bump"


# --- what one member finds ---


class Book:
    """Signed blocks of one member."""

    since, until = 0, 1 << 60

    def __init__(self, world: World) -> None:
        self._world = world

    @property
    def head(self) -> Checkpoint:
        return self._world.checkpoint(min(self._world.final.number, self.until))

    def at(self, number: int) -> SignedBy:
        if not self.since <= number <= self.head.number:
            raise refuse("a block that it did not sign")
        return SignedBy(self._world.checkpoint(number), b"")


class Scene:
    """One member, a worker in service, and an agent that is placed there."""

    def __init__(self, folder: Path) -> None:
        self.world = World(policy())
        self.worker = PretendWorker(self.world, b"\7" * 32)
        self.worker.register()
        self.agent = an_agent(self.world)
        self.world.mine(LOOK_BACK + 20)
        self.path = folder / "state.db"
        self.open()

    def open(self) -> None:
        self.store = Store(self.path)
        self.chain = WorldChain(self.world, b"\1" * 20)
        self.placements = Placements(self.store, self.world.rules, self.chain)
        self.placements.serve(Office(), Book(self.world))  # type: ignore[arg-type]

    def granted(self, **changes: Any) -> Granted:
        made = Granted(self.worker.address, self.agent.agent, 1, self.world.final.number)
        return replace(made, **changes)

    def found(self) -> frozenset[tuple[bytes, int]]:
        return self.store.witnessed(self.worker.address, 1)


class Office:
    """As much of an office as placements look at."""

    term, seed, signers = 1, TERM_SEED, SIGNERS


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    made = Scene(tmp_path)
    yield made
    made.store.close()


async def test_what_was_placed_there_is_remembered_also_after_a_restart(scene: Scene) -> None:
    await scene.placements.hear([scene.granted()])
    assert scene.found() == {(scene.agent.agent, 1)}
    scene.store.close()
    scene.open()
    assert scene.found() == {(scene.agent.agent, 1)}
    assert scene.store.granted_workers(1) == [scene.worker.address], "it is looked for when workers are removed"
    assert scene.store.granted_workers(2) == []
    assert scene.store.witnessed(scene.worker.address, 2) == frozenset()


async def test_it_counts_as_of_the_lease_s_own_block(scene: Scene) -> None:
    """The worker may be gone, or the agent bumped, by the time that members look."""
    before = scene.granted()
    scene.world.now.workers[scene.worker.address] = scene.worker.facts(removed=True)
    scene.world.now.agents[scene.agent.agent] = replace(scene.agent, agent_epoch=2)
    scene.world.mine(5)
    await scene.placements.hear([before, scene.granted(), scene.granted(epoch=2)])
    assert scene.found() == {(scene.agent.agent, 1)}


NOT_FOUND: dict[str, Callable[[Scene], Granted]] = {
    "an agent that does not exist": lambda s: s.granted(agent=b"\x99" * 32),
    "a worker that is not in service": lambda s: s.granted(worker=b"\x99" * 20),
    "an epoch that the agent had not yet": lambda s: s.granted(epoch=2),
    "an epoch before the agent's": lambda s: s.granted(epoch=0),
    "a block that is not final": lambda s: s.granted(number=s.world.final.number + 1),
    "a block too far back": lambda s: s.granted(number=s.world.final.number - LOOK_BACK - 1),
    "a block before the worker came": lambda s: s.granted(number=0),
}


@pytest.mark.parametrize("sentence", NOT_FOUND)
async def test_nobody_is_heard_who_shows(scene: Scene, sentence: str) -> None:
    await scene.placements.hear([NOT_FOUND[sentence](scene)])
    assert scene.found() == frozenset()
    assert scene.store.granted_workers(1) == []


async def test_placement_decides_not_who_shows_it(scene: Scene) -> None:
    """Of four workers two are placed. The others may not hold the agent, whoever says that he granted it to them."""
    workers = [PretendWorker(scene.world, b"\7" * 32, name=f"worker {i}") for i in range(3)]
    for worker in workers:
        worker.register()
    scene.world.mine(5)
    everybody = [scene.worker, *workers]
    await scene.placements.hear([scene.granted(worker=worker.address) for worker in everybody])
    assert len(scene.store.granted_workers(1)) == scene.agent.seats == 2


async def test_a_lie_is_looked_at_once_and_an_endpoint_that_fails_is_asked_again(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bytes] = []
    honest, down = WorldSnapshot.agent, True

    async def agent(self: WorldSnapshot, name: bytes) -> Any:
        asked.append(name)
        if down:
            raise refuse("an endpoint that does not answer")
        return await honest(self, name)

    monkeypatch.setattr(WorldSnapshot, "agent", agent)
    true, lie = scene.granted(), scene.granted(epoch=9)
    await scene.placements.hear([true, lie])
    assert scene.found() == frozenset()
    down = False
    for _ in range(3):
        await scene.placements.hear([true, lie])
    assert scene.found() == {(scene.agent.agent, 1)}
    assert len(asked) == 2 + 2, "each twice: what is known, true or not, is not looked at again"


async def test_one_member_is_heard_so_often_at_each_question(scene: Scene) -> None:
    agents = [an_agent(scene.world, bytes([i, 7]) * 16) for i in range(MAX_LOOKS + 5)]
    scene.world.mine(5)
    shown = [scene.granted(agent=one.agent) for one in agents]
    await scene.placements.hear(shown)
    assert len(scene.found()) == MAX_LOOKS
    await scene.placements.hear(shown)
    assert len(scene.found()) == MAX_LOOKS + 5


async def test_the_last_leases_of_a_term_are_shown_and_found_in_the_next_one(scene: Scene) -> None:
    """Each by the placement of its own term. Of the term before that nothing is shown any more."""
    last = scene.granted()
    other = an_agent(scene.world, b"\xbb" * 32)
    scene.store.record_grant(lease_of(scene.world, scene.worker, other))
    term_one = Book(scene.world)
    term_one.until = scene.world.final.number
    scene.world.mine(6)
    for term in (2, 2):  # twice: new desks in one term change nothing
        made = Office()
        made.term = term
        book = Book(scene.world)
        book.since = term_one.until + 1
        scene.placements.serve(made, book)  # type: ignore[arg-type]
    scene.placements._terms[1] = (scene.placements._terms[1][0], term_one)  # type: ignore[assignment]
    assert [one.agent for one in scene.placements.served(0)] == [other.agent]
    await scene.placements.hear([last])
    assert scene.store.witnessed(scene.worker.address, 1) == {(scene.agent.agent, 1)}
    assert scene.store.witnessed(scene.worker.address, 2) == frozenset(), "it was a lease of the first term"
    made = Office()
    made.term = 3
    scene.placements.serve(made, Book(scene.world))  # type: ignore[arg-type]
    assert scene.placements.served(0) == ()


async def test_our_own_grants_are_shown_from_a_height_on_and_not_looked_at(scene: Scene) -> None:
    number = scene.world.final.number
    other = an_agent(scene.world, b"\xbb" * 32)
    old = lease_of(scene.world, scene.worker, other, checkpoint=number - LOOK_BACK - 1)
    mid = lease_of(scene.world, scene.worker, replace(other, agent=b"\xcc" * 32), checkpoint=number - 3)
    for lease in (lease_of(scene.world, scene.worker, scene.agent), old, mid):
        scene.store.record_grant(lease)
    shown = scene.placements.served(0)
    assert [one.number for one in shown] == [number - 3, number]
    assert scene.placements.served(number) == (scene.granted(),)
    assert scene.placements.served(number + 1) == ()
    await scene.placements.hear([scene.granted()])
    assert scene.found() == frozenset(), "our own table has it"


# --- the wire ---

GRANTED = Granted(b"\x11" * 20, b"\x22" * 32, 3, 400)


def test_grants_come_back_as_written_and_are_capped() -> None:
    shown = Witnessed((), (), (GRANTED,))
    assert Witnessed.from_json(shown.to_json()) == shown
    full = Witnessed((), (), (GRANTED,) * (MAX_GRANTS + 1)).to_json()
    assert len(full["granted"]) == MAX_GRANTS
    with pytest.raises(CloisterError):
        Witnessed.from_json({**full, "granted": [*full["granted"], GRANTED.to_json()]})


@pytest.mark.parametrize(
    "changes",
    [{"worker": "0x11"}, {"agent": 5}, {"epoch": -1}, {"epoch": True}, {"number": 2**53}, {"number": "4"}, {"more": 1}],
)
def test_a_grant_of_another_form_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(CloisterError):
        Granted.from_json(GRANTED.to_json() | changes)


NAMES = st.sampled_from(["worker", "agent", "epoch", "number", "granted"])
ANY = st.recursive(
    st.none() | st.integers() | st.text(max_size=4),
    lambda x: st.lists(x, max_size=3) | st.dictionaries(NAMES, x, max_size=4),
    max_leaves=6,
)


@given(ANY)
def test_any_json_is_a_grant_or_refused(value: object) -> None:
    with pytest.raises(CloisterError):
        Granted.from_json(value)
