"""``GET /v1/handovers``: what the gateway could follow itself, and nothing that a liar among gatekeepers adds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from cloister.core.chainview.terms import SignedHandover, follow, offers, pinned
from cloister.gateway.handovers import Handovers
from cloister.wire.messages import parse_json
from cloister.wire.terms import LiveCommittee
from support.doors import door
from support.fake_world import MEMBERS, NOW, World, test_key

SECOND = tuple(test_key(f"second {i}") for i in range(5))
THIRD = tuple(test_key(f"third {i}") for i in range(5))


class Source(LiveCommittee):
    """A committee whose doors are in memory: ``told`` is what all of them serve."""

    def __init__(self, world: World) -> None:
        self.world, self.clock, self.count = world, float(NOW), 0

        async def places(members: Sequence[bytes]) -> list[str]:
            return []

        super().__init__(pinned(world.network, NOW), ["http://127.0.0.1:1"], places, lambda: self.clock)

    async def offered(self) -> list[SignedHandover]:
        self.count += 1
        return list(self.world.told)


def served(data: bytes) -> list[SignedHandover]:
    value: Any = parse_json(data)
    assert value["signing"] == []
    return offers(value)


@pytest.fixture
def source() -> Source:
    return Source(World())


async def test_nothing_is_served_before_the_first_hand_over(source: Source) -> None:
    assert served(await Handovers(source).answer()) == []


async def test_whoever_pinned_the_founding_committee_can_follow_what_is_served(source: Source) -> None:
    handovers = Handovers(source)
    assert served(await handovers.answer()) == []
    one = source.world.hand_over(SECOND)
    two = source.world.hand_over(THIRD)
    source.clock += 1
    told = served(await handovers.answer())
    assert told == [one, two]
    assert follow(pinned(source.world.network, NOW), told, NOW).in_office.signers.term == 3


async def test_what_too_few_signed_is_not_passed_on(source: Source) -> None:
    source.world.hand_over(SECOND, signers=2)
    assert served(await Handovers(source).answer()) == []


async def test_a_fork_ends_what_is_passed_on_and_takes_nothing_back(source: Source) -> None:
    handovers, one = Handovers(source), source.world.hand_over(SECOND)
    assert served(await handovers.answer()) == [one]
    source.world.sit(MEMBERS, 1)
    source.world.hand_over(THIRD)
    source.clock += 1
    assert served(await handovers.answer()) == [one]


async def test_gatekeepers_are_asked_at_most_twice_a_second(source: Source) -> None:
    handovers = Handovers(source)
    for _ in range(10):
        await handovers.answer()
    assert source.count == 1
    source.clock += 1
    await handovers.answer()
    assert source.count == 2


async def test_the_route_answers_while_no_gatekeeper_knows_of_hand_overs(tmp_path: Path) -> None:
    async with door(tmp_path) as here, here.http.get("/v1/handovers") as reply:
        assert reply.status == 200
        assert reply.headers["cache-control"] == "no-store"
        assert await reply.json() == {"handovers": [], "signing": []}


@pytest.mark.parametrize("path", ["/v1/handovers/", "/v1/handovers?x=1", "/v1/handovers/1"])
async def test_other_spellings_are_no_route(path: str, tmp_path: Path) -> None:
    async with door(tmp_path) as here, here.http.get(path) as reply:
        assert reply.status == 404
