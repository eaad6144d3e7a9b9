"""Following the committee over HTTP: who is asked, how often, and what a liar among them can do."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from aiohttp import web

from cloister.core.chainview.terms import SignedHandover, follow, pinned
from cloister.core.encoding.hexes import to_hex
from cloister.core.encoding.signatures import Signed, address_of, sign_digest
from cloister.core.errors import CloisterError
from cloister.core.threshold.shares import PublicShares
from cloister.wire.ask import UNREACHABLE, new_session
from cloister.wire.committee import Committee
from cloister.wire.terms import LOOK_AGAIN_S, LiveCommittee, TermWalk, offered_by
from support.fake_world import MEMBERS, MPK, NOW, TRANSCRIPT, World, test_key

SECOND = tuple(test_key(f"second {i}") for i in range(5))
SHARES = PublicShares(MPK, (MPK,) * 5, TRANSCRIPT)


class Member:
    """One gatekeeper's door. ``key`` signs checkpoints of ``term``; ``told`` is what it serves of hand-overs."""

    def __init__(self, world: World, key: Any, term: int = 1) -> None:
        self.world, self.key, self.term = world, key, term
        self.told: Any = None
        self.shares: Any = SHARES.to_json()
        self.asked: list[str] = []

    def app(self) -> web.Application:
        app = web.Application()
        for path in ("/v1/handovers", "/v1/checkpoint", "/v1/checkpoint/{n}", "/v1/shares/1"):
            app.router.add_get(path, self.answer)
        return app

    async def answer(self, request: web.Request) -> web.Response:
        self.asked.append(request.path)
        if request.path == "/v1/handovers":
            told = [one.to_json() for one in self.world.told]
            return web.json_response({"handovers": told, "signing": []} if self.told is None else self.told)
        if request.path == "/v1/shares/1":
            return web.json_response(self.shares)
        said = self.world.checkpoint()
        said = type(said)(**{n: getattr(said, n) for n in said.TYPES} | {"term": self.term})
        signature = sign_digest(self.key, said.digest(self.world.network.id))
        return web.json_response({"checkpoint": said.to_json(), "signature": to_hex(signature)})


class Town:
    """Doors of both committees; ``places`` says where the second one is."""

    def __init__(self) -> None:
        self.world, self.now = World(), float(NOW)
        self.old = [Member(self.world, key) for key in MEMBERS]
        self.new = [Member(self.world, key, 2) for key in SECOND]
        self.urls: dict[bytes, str] = {}
        self.asked: list[Sequence[bytes]] = []

    async def places(self, members: Sequence[bytes]) -> list[str]:
        self.asked.append(members)
        return [self.urls[m] for m in members]

    def live(self) -> LiveCommittee:
        urls = [self.urls[address_of(key)] for key in MEMBERS]
        return LiveCommittee(pinned(self.world.network, NOW), urls, self.places, lambda: self.now)

    def hand_over(self) -> SignedHandover:
        """The second committee takes office; the first one signs no more."""
        made = self.world.hand_over(SECOND)
        self.world.mine()
        for member in self.old:
            member.term = 2  # they sign nothing that counts
        self.now += 1
        return made


@pytest.fixture
async def town() -> AsyncIterator[Town]:
    made = Town()
    async with contextlib.AsyncExitStack() as opened:
        for member in (*made.old, *made.new):
            runner = web.AppRunner(member.app())
            await runner.setup()
            opened.push_async_callback(runner.cleanup)
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            made.urls[address_of(member.key)] = f"http://127.0.0.1:{runner.addresses[0][1]}"
        yield made


@pytest.fixture
async def live(town: Town) -> AsyncIterator[LiveCommittee]:
    made = town.live()
    yield made
    await made.close()


def term_of(signed: Signed) -> int:
    return int(getattr(signed.statement, "term", 0))


async def test_whoever_asks_for_a_checkpoint_goes_on_in_the_next_term(town: Town, live: LiveCommittee) -> None:
    before = live.now
    assert term_of(await live.checkpoint()) == 1
    town.hand_over()
    assert term_of(await live.checkpoint()) == 2
    assert live.now is not before
    assert live.now.signers.members == tuple(address_of(k) for k in SECOND)
    assert term_of(await live.checkpoint()) == 2
    assert len(town.asked) == 1, "the chain is asked once where the new members are"


async def test_without_a_hand_over_the_new_members_are_nobody(town: Town, live: LiveCommittee) -> None:
    town.hand_over()
    town.world.told = []
    with pytest.raises(CloisterError) as caught:
        await live.checkpoint()
    assert caught.value.code in ("gatekeeper.too_few", "wire.bad_answer", "gatekeeper.wrong_answer")
    assert live.terms.in_office.signers.term == 1


async def test_one_member_that_serves_the_hand_over_is_enough(town: Town, live: LiveCommittee) -> None:
    town.hand_over()
    for member in (*town.old[1:], *town.new):
        member.told = {"handovers": [], "signing": []}
    assert term_of(await live.checkpoint()) == 2


@pytest.mark.parametrize(
    "told",
    [None, 7, [], {"handovers": []}, {"handovers": "x", "signing": []}, {"handovers": [1, {}, None], "signing": []}],
)
async def test_liars_that_serve_nonsense_stop_nobody(told: Any, town: Town, live: LiveCommittee) -> None:
    town.hand_over()
    for member in town.old[:4]:
        member.told = told if told is not None else {"error": {}}
    assert term_of(await live.checkpoint()) == 2


async def test_a_question_in_progress_ends_with_those_whom_it_began_with(town: Town, live: LiveCommittee) -> None:
    old = live.now
    town.hand_over()
    assert await live.look()
    assert isinstance(await old.caught(old.endpoints[0], "GET", "/v1/checkpoint"), dict), "not closed under it"


async def test_members_that_the_chain_names_no_place_for_are_asked_where_the_others_were(town: Town) -> None:
    async def nowhere(members: Sequence[bytes]) -> list[str]:
        return []

    urls = [town.urls[address_of(key)] for key in (*MEMBERS, *SECOND)]
    live = LiveCommittee(pinned(town.world.network, NOW), urls, nowhere, lambda: town.now)
    try:
        town.hand_over()
        assert term_of(await live.checkpoint()) == 2
    finally:
        await live.close()


async def test_a_chain_that_does_not_answer_is_asked_again(town: Town) -> None:
    down = True

    async def sometimes(members: Sequence[bytes]) -> list[str]:
        if down:
            raise UNREACHABLE(expected="an answer", found="none")
        return await town.places(members)

    urls = [town.urls[address_of(key)] for key in MEMBERS]
    live = LiveCommittee(pinned(town.world.network, NOW), urls, sometimes, lambda: town.now)
    try:
        town.hand_over()
        with pytest.raises(CloisterError, match=r"wire\.unreachable"):
            await live.checkpoint()
        down = False
        assert term_of(await live.checkpoint()) == 2
    finally:
        await live.close()


async def test_hand_overs_are_looked_for_now_and_then_even_if_nothing_is_missing(
    town: Town, live: LiveCommittee
) -> None:
    await live.checkpoint()
    assert "/v1/handovers" not in town.old[0].asked
    town.now += LOOK_AGAIN_S
    await live.checkpoint()
    assert town.old[0].asked.count("/v1/handovers") == 1


async def test_everybody_is_asked_once_whatever_is_asked_twice(town: Town) -> None:
    url = town.urls[address_of(MEMBERS[0])]
    town.world.hand_over(SECOND)
    session = new_session()
    try:
        found = await offered_by(session, [url, url + "/", "http://127.0.0.1:1", url])
    finally:
        await session.close()
    assert len(found) == 2, "two spellings of one address"
    assert town.old[0].asked.count("/v1/handovers") == 2


# --- the walk alone ---


class Scripted:
    """A source of hand-overs that counts."""

    def __init__(self, *answers: Any) -> None:
        self.answers, self.count = list(answers), 0

    async def __call__(self) -> list[SignedHandover]:
        self.count += 1
        await asyncio.sleep(0)
        found = self.answers[min(self.count, len(self.answers)) - 1]
        if isinstance(found, Exception):
            raise found
        return list(found)


async def test_a_walk_asks_at_most_twice_a_second_and_bears_refusals() -> None:
    world, now = World(), float(NOW)
    one = world.hand_over(SECOND)
    source = Scripted(UNREACHABLE(expected="an answer", found="none"), [], [one])
    kept: list[int] = []
    walk = TermWalk(
        pinned(world.network, NOW), source, lambda: now, keep=lambda t: kept.append(t.in_office.signers.term)
    )
    assert not await walk.look()
    assert not await walk.look()
    assert source.count == 1
    now += 1
    assert not any(await asyncio.gather(*(walk.look() for _ in range(5))))
    assert source.count == 2
    now += 1
    await walk.knows(1)
    assert source.count == 2, "a term that is known needs no look"
    await walk.knows(7)
    assert (source.count, kept, walk.terms.told) == (3, [2], (one,))


async def test_a_fork_is_told_and_the_walk_stays_where_it_was() -> None:
    world = World()
    one = world.hand_over(SECOND)
    world.sit(MEMBERS, 1)
    other = world.hand_over(tuple(test_key(f"third {i}") for i in range(5)))
    walk = TermWalk(pinned(world.network, NOW), Scripted([one, other]), lambda: float(NOW))
    with pytest.raises(CloisterError, match=r"chainview\.handover_fork"):
        await walk.look()
    assert walk.terms.in_office.signers.term == 1


async def test_a_checkpoint_that_counts_keeps_the_term_young() -> None:
    world, now = World(), float(NOW)
    walk = TermWalk(pinned(world.network, NOW), Scripted([]), lambda: now)
    now += 10
    walk.spoke()
    assert walk.terms.in_office.seen == NOW + 10
    now -= 100
    walk.spoke()
    assert walk.terms.in_office.seen == NOW + 10, "a clock that was turned back makes nothing older"


# --- share keys ---


def right(found: PublicShares) -> bool:
    return found.mpk == MPK


async def shares(town: Town) -> PublicShares:
    urls = [town.urls[address_of(key)] for key in MEMBERS]
    committee = Committee(urls, town.world.network.founding, town.world.network.id)
    try:
        return await committee.share_keys(1, right)
    finally:
        await committee.close()


async def test_share_keys_are_those_that_t_members_serve_alike(town: Town) -> None:
    other = PublicShares(MPK, (TRANSCRIPT * 3,) * 5, TRANSCRIPT)
    for member in town.old[:2]:
        member.shares = other.to_json()
    assert await shares(town) == SHARES


@pytest.mark.parametrize("answer", [None, {}, [], {"mpk": "0x"}, {**SHARES.to_json(), "share_keys": []}])
async def test_nonsense_is_no_answer(answer: Any, town: Town) -> None:
    for member in town.old[:3]:
        member.shares = answer
    with pytest.raises(CloisterError):
        await shares(town)


async def test_shares_of_another_key_do_not_count(town: Town) -> None:
    other = PublicShares(TRANSCRIPT * 3, (MPK,) * 5, TRANSCRIPT)
    for member in town.old[:3]:
        member.shares = other.to_json()
    with pytest.raises(CloisterError, match=r"gatekeeper\.|wire\."):
        await shares(town)


def test_follow_takes_what_a_walk_takes() -> None:
    world = World()
    one = world.hand_over(SECOND)
    assert follow(pinned(world.network, NOW), [one], NOW).told == (one,)
