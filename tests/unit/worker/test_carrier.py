"""A worker that carries the committee to a connected Anchor: when it does, and what it leaves."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from cloister.core.encoding.statements import Checkpoint
from cloister.core.errors import CloisterError
from cloister.worker import carrier
from cloister.worker.anchors import NOT_WAITING, Anchors
from cloister.worker.carrier import PATIENCE_S, Carrier

ANCHOR, NETWORK = b"\x0b" * 20, b"\x4e" * 32
WORKERS = tuple(bytes([i]) * 20 for i in (1, 2, 3))
MEMBERS = ("http://in-office", "http://before")


@dataclass
class World:
    """Two chains: what is proven of them, and who carried."""

    held: int = 1
    term: int = 1
    now: int = 10_000
    live: tuple[bytes, ...] = WORKERS
    carried: list[tuple[bytes, int]] = field(default_factory=list)
    fails: CloisterError | None = None

    async def committee(self) -> Any:
        return SimpleNamespace(term=self.term)

    async def workers(self) -> Any:
        return [SimpleNamespace(worker=w, live_at=lambda n, w=w: w in self.live) for w in WORKERS]

    def state(self) -> World:
        return self

    def require_fresh(self) -> Checkpoint:
        return Checkpoint(1, 1, 500, b"\x01" * 32, b"\x02" * 32, self.now)

    async def anchor_term(self, state: Any) -> tuple[int, int]:
        return self.held, self.now + 1000

    def carrier(self, worker: bytes) -> Carrier:
        chain: Any = SimpleNamespace(
            anchor=SimpleNamespace(term=self.anchor_term),
            state=lambda: self,
            sender=SimpleNamespace(chain_id=77, address=worker),
            record=SimpleNamespace(anchor=SimpleNamespace(address=ANCHOR)),
        )
        watch: Any = self
        node: Any = SimpleNamespace(address=worker, network=NETWORK)
        return Carrier(chain, watch, node, lambda: MEMBERS)


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    made = World()

    async def carry(session: Any, endpoints: Any, network: bytes, payer: Any, anchor: bytes, term: int) -> list[Any]:
        assert (tuple(endpoints), network, anchor) == (MEMBERS, NETWORK, ANCHOR)
        made.carried.append((payer.address, term))
        if made.fails is not None:
            raise made.fails
        made.held = term
        return [SimpleNamespace(block_number=9)]

    monkeypatch.setattr(carrier, "carry_signers", carry)
    return made


async def all_turn(carriers: list[Carrier]) -> None:
    for one in carriers:
        await one.turn()


async def test_nobody_carries_while_the_anchor_knows_the_committee(world: World) -> None:
    carriers = [world.carrier(w) for w in WORKERS]
    await all_turn(carriers)
    assert world.carried == []


async def test_nobody_carries_to_an_anchor_that_its_founder_never_told_a_set(world: World) -> None:
    world.held, world.term = 0, 3
    await all_turn([world.carrier(w) for w in WORKERS])
    assert world.carried == []


async def test_one_worker_carries_and_the_others_leave_it(world: World) -> None:
    carriers = [world.carrier(w) for w in WORKERS]
    world.term = 2
    for _ in range(5):
        await all_turn(carriers)
        world.now += PATIENCE_S
    assert [term for _, term in world.carried] == [2]


async def test_the_first_in_line_is_another_one_from_term_to_term(world: World) -> None:
    firsts = set()
    for term in range(2, 12):
        world.term, before = term, len(world.carried)
        await all_turn([world.carrier(w) for w in WORKERS])
        firsts |= {worker for worker, _ in world.carried[before:]}
        world.held = term
    assert firsts == set(WORKERS)


async def test_if_the_first_is_away_the_next_one_carries_after_its_patience(world: World) -> None:
    carriers = {w: world.carrier(w) for w in WORKERS}
    world.term = 2
    await all_turn(list(carriers.values()))
    ((first, _),) = world.carried
    world.held, world.carried = 1, []
    rest = [world.carrier(w) for w in WORKERS if w != first]
    await all_turn(rest)
    assert world.carried == []
    world.now += PATIENCE_S
    await all_turn(rest)
    assert len(world.carried) == 1
    assert world.held == 2


async def test_whoever_failed_waits_for_all_the_others_before_it_tries_again(world: World) -> None:
    world.term = 2
    world.fails = CloisterError.__new__(CloisterError)
    lonely = world.carrier(WORKERS[0])
    world.live = (WORKERS[0],)
    with pytest.raises(CloisterError):
        await lonely.turn()
    await lonely.turn()
    assert len(world.carried) == 1, "not at once again"
    world.now += PATIENCE_S
    world.fails = None
    await lonely.turn()
    assert world.held == 2


async def test_a_worker_that_is_not_in_service_comes_last(world: World) -> None:
    world.term, world.live = 2, WORKERS[:2]
    stranger = world.carrier(WORKERS[2])
    await stranger.turn()
    world.now += PATIENCE_S
    await stranger.turn()
    assert world.carried == []
    world.now += PATIENCE_S
    await stranger.turn()
    assert len(world.carried) == 1


@pytest.mark.parametrize("serves", [True, False])
async def test_what_waits_for_a_new_set_holds_up_no_carrying(serves: bool) -> None:
    turned: list[str] = []

    class Part:
        chain_id = 77

        def __init__(self, name: str, fails: bool = False) -> None:
            self.name, self.fails = name, fails

        async def turn(self) -> None:
            turned.append(self.name)
            if self.fails:
                raise NOT_WAITING(expected="a term", found="an older one")

        async def refresh(self) -> None:
            turned.append("refresh")

    other: Any = Part("chain")
    anchors = Anchors(
        other,
        [other],
        lambda chain: Part("service", fails=not serves),  # type: ignore[arg-type, return-value]
        lambda chain: Part("carrier"),  # type: ignore[arg-type, return-value]
    )
    await anchors.turn_others()
    assert turned == ["refresh", "service", "carrier"]
