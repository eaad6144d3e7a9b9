"""Keys are released only while this member sees what the others see (spec/gatekeepers.md K1-K3)."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from coincurve import PrivateKey

from cloister.core.chainview.header import Header
from cloister.core.encoding.signatures import SignerSet, address_of, sign_digest
from cloister.core.encoding.statements import Checkpoint, HeartBeat
from cloister.core.errors import CloisterError
from cloister.devnet.layout import free_ports
from cloister.gatekeeper.checkpoints import MAX_LAG, NO_CHECKPOINT
from cloister.gatekeeper.lookout import Lookout
from cloister.wire.ask import UNREACHABLE
from cloister.wire.messages import HeartbeatRequest, KeysRequest, SignedBy, dump_json
from support.gatekeeper_cast import turns
from support.gatekeepers import PretendWorker, Seat, World, an_agent, policy, sign_checkpoint, sit

NETWORK, HEAD, TERM = b"\x4e" * 32, 100, 3
KEYS = [PrivateKey(hashlib.sha256(b"member" + bytes([i])).digest()) for i in range(5)]
ME = KEYS[0]


def block(number: int) -> bytes:
    """The one chain's block hash."""
    return hashlib.sha256(b"block" + number.to_bytes(8, "big")).digest()


class Book:
    """This member's checkpoints up to HEAD, the last 128."""

    head = Checkpoint(TERM, 1, HEAD, block(HEAD), bytes(32), 0)

    def require_running(self) -> None:
        """It is not halted."""

    def at(self, number: int) -> SignedBy:
        if not HEAD - 128 < number <= HEAD:
            raise NO_CHECKPOINT(expected="known", found="not")
        return SignedBy(Checkpoint(TERM, 1, number, block(number), bytes(32), 0), bytes(65))


@dataclass
class Peer:
    """Another member: what it answers to a nonce."""

    key: PrivateKey
    number: int = HEAD
    change: Callable[[HeartBeat], HeartBeat] = lambda beat: beat
    down: bool = False
    asked: list[bytes] = field(default_factory=list)

    def answer(self, nonce: bytes) -> Any:
        """JSON of its heart beat, or the refusal."""
        self.asked.append(nonce)
        if self.down:
            return UNREACHABLE(expected="an answer", found="none")
        beat = self.change(HeartBeat(TERM, nonce, self.number, block(self.number)))
        return SignedBy(beat, sign_digest(self.key, beat.digest(NETWORK))).to_json()


@dataclass
class Others:
    """Stands for ``Committee``: endpoints are indexes of peers."""

    peers: list[Peer]
    slow: asyncio.Event | None = None

    @property
    def endpoints(self) -> tuple[str, ...]:
        return tuple(str(i) for i in range(len(self.peers)))

    async def caught(self, url: str, method: str, path: str, body: Any) -> Any:
        assert (method, path) == ("POST", "/v1/heartbeat")
        if self.slow is not None:
            await self.slow.wait()
        return self.peers[int(url)].answer(HeartbeatRequest.from_json(body).nonce)


def lookout(others: Others, threshold: int = 3) -> Lookout:
    """Of the first of five members."""
    count = iter(range(1000))
    signers = SignerSet(TERM, threshold, tuple(address_of(k) for k in KEYS))
    office = SimpleNamespace(address=address_of(ME), signers=signers, network=NETWORK, term=TERM)
    return Lookout(office, Book(), others, lambda size: next(count).to_bytes(size, "big"))  # type: ignore[arg-type]


def peers(count: int = 4) -> list[Peer]:
    return [Peer(key) for key in KEYS[1 : 1 + count]]


async def outcome(looking: Lookout) -> str:
    """ "seen", or the code of the refusal."""
    try:
        await looking.require()
    except CloisterError as error:
        return f"{error.code} {error.found}"
    return "seen"


async def test_t_members_near_our_head_are_enough_and_the_others_may_be_away() -> None:
    them = peers()
    them[0].down = them[1].down = True
    assert await outcome(lookout(Others(them))) == "seen"
    them[2].down = True
    assert await outcome(lookout(Others(them))) == "gatekeeper.alone 2"


BAD: dict[str, Callable[[Peer], None]] = {
    "too far ahead: we are frozen": lambda p: setattr(p, "number", HEAD + MAX_LAG + 1),
    "too far behind: it is frozen": lambda p: setattr(p, "number", HEAD - MAX_LAG - 1),
    "of another nonce: a recording": lambda p: setattr(p, "change", lambda b: replace(b, nonce=b"\7" * 32)),
    "of another term": lambda p: setattr(p, "change", lambda b: replace(b, term=TERM - 1)),
    "on a fork at our height": lambda p: setattr(p, "change", lambda b: replace(b, block_hash=b"\7" * 32)),
    "signed by a stranger": lambda p: setattr(p, "key", PrivateKey(b"\x09" * 32)),
    "signed by another member, counted once": lambda p: setattr(p, "key", KEYS[1]),
    "signed by ourselves: an echo": lambda p: setattr(p, "key", ME),
    "down": lambda p: setattr(p, "down", True),
}


@pytest.mark.parametrize("sentence", BAD)
async def test_an_answer_does_not_count(sentence: str) -> None:
    """One good answer besides ours, the other three bad in one way: two of the three that are needed."""
    them = peers()
    assert await outcome(lookout(Others(them))) == "seen"
    for peer in them[1:]:
        BAD[sentence](peer)
    assert await outcome(lookout(Others(them))) == "gatekeeper.alone 2"


@pytest.mark.parametrize("distance", [-MAX_LAG, -1, 1, MAX_LAG])
async def test_heads_within_d_blocks_count(distance: int) -> None:
    them = peers()
    for peer in them:
        peer.number = HEAD + distance
    assert await outcome(lookout(Others(them))) == "seen"


@pytest.mark.parametrize("answer", [None, 1, [], {}, {"heartbeat": {}, "signature": "0x"}, {"heartbeat": 1}])
async def test_garbage_does_not_count_and_breaks_nothing(answer: Any) -> None:
    class Garbage(Peer):
        def answer(self, nonce: bytes) -> Any:
            return answer

    assert await outcome(lookout(Others([Garbage(k) for k in KEYS[1:]]))) == "gatekeeper.alone 1"


async def test_every_release_rests_on_a_nonce_younger_than_itself_and_many_share_a_round() -> None:
    others = Others(peers(), asyncio.Event())
    looking = lookout(others)
    first = asyncio.create_task(outcome(looking))
    for _ in range(5):
        await asyncio.sleep(0)
    later = [asyncio.create_task(outcome(looking)) for _ in range(20)]
    await asyncio.sleep(0)
    assert not first.done()
    assert others.slow is not None
    others.slow.set()
    assert {await first, *await asyncio.gather(*later)} == {"seen"}
    nonces = {nonce for peer in others.peers for nonce in peer.asked}
    assert len(nonces) == 2, "one round for the first, one for all that came while it ran"


def asked(them: list[Peer]) -> int:
    """How many questions these peers were asked."""
    return sum(len(peer.asked) for peer in them)


async def test_only_as_many_as_are_needed_are_asked_while_all_answer() -> None:
    them = peers()
    looking = lookout(Others(them))
    for _ in range(10):
        assert await outcome(looking) == "seen"
    assert asked(them) == 20, "two others for each of ten releases"
    assert all(peer.asked for peer in them), "by lot: nobody is always asked, nobody never"


@pytest.mark.parametrize("sentence", BAD)
async def test_the_others_are_asked_at_once_when_an_answer_does_not_count(sentence: str) -> None:
    them = peers()
    for peer in them[:2]:
        BAD[sentence](peer)
    looking = lookout(Others(them))
    assert [await outcome(looking) for _ in range(6)] == ["seen"] * 6


async def test_a_slow_one_holds_nobody_up() -> None:
    """Two of the four never answer: a round that asked them first asks the others too, and ends without them."""

    class Slow(Peer):
        pass

    class SomeSlow(Others):
        async def caught(self, url: str, method: str, path: str, body: Any) -> Any:
            if isinstance(self.peers[int(url)], Slow):
                await asyncio.Event().wait()
            return await super().caught(url, method, path, body)

    looking = lookout(SomeSlow([Slow(KEYS[1]), Slow(KEYS[2]), Peer(KEYS[3]), Peer(KEYS[4])]))
    assert [await outcome(looking) for _ in range(6)] == ["seen"] * 6


async def test_our_own_door_is_asked_last() -> None:
    """The committee's endpoints hold ours too; what answers there with our own key is no other member."""
    them = [Peer(ME), *peers()]
    looking = lookout(Others(them))
    for _ in range(30):
        assert await outcome(looking) == "seen"
    at_first = len(them[0].asked)
    for _ in range(30):
        assert await outcome(looking) == "seen"
    assert len(them[0].asked) == at_first <= 1, "asked once at most: then it is known"


async def test_a_caller_that_gives_up_ends_nobody_else_s_round() -> None:
    others = Others(peers(), asyncio.Event())
    looking = lookout(others)
    one, two = (asyncio.create_task(outcome(looking)) for _ in range(2))
    for _ in range(5):
        await asyncio.sleep(0)
    one.cancel()
    assert others.slow is not None
    others.slow.set()
    assert await two == "seen"


async def test_a_member_whose_chain_view_its_host_froze_or_whose_peers_are_gone_releases_nothing(
    tmp_path: Path,
) -> None:
    """The others go on. What it would release rests on state that they left behind."""
    world = World(policy(period_blocks=1000))
    seats = [Seat(world, tmp_path / f"gk-{i}", i, port) for i, port in enumerate(free_ports(3))]
    sitting = sit(world, seats, 2)
    worker = PretendWorker(world, sitting.network)
    worker.register()
    agent = an_agent(world)
    try:
        for seat in seats:
            await seat.open()
        await turns(world, seats, 4)

        async def asks(seat: Seat, checkpoint: Checkpoint) -> str:
            signed = sign_checkpoint(seats[:2], checkpoint, sitting.network)
            body = dump_json(KeysRequest(worker.show(checkpoint), agent.agent, signed).to_json())
            try:
                await seat.gatekeeper.require_desks().keys.answer(body, "test")
            except CloisterError as error:
                return error.code
            return "granted"

        frozen, seen = seats[0], world.checkpoint()
        await turns(world, seats, 1)
        assert [await asks(seat, seen) for seat in seats] == ["granted"] * 3
        frozen.chain.advance = _nothing  # type: ignore[method-assign]
        world.mine(MAX_LAG + 4)
        await turns(world, seats, 2)
        assert await asks(frozen, seen) == "gatekeeper.alone", "its own checkpoint is not too old for itself"
        now = world.checkpoint(world.final.number - 1)
        assert [await asks(seat, now) for seat in seats[1:]] == ["granted"] * 2
        assert "gatekeeper.alone" in (frozen.folder / "audit.log").read_text()
        await seats[1].close()
        await seats[0].close()
        assert await asks(seats[2], now) == "gatekeeper.alone", "cut off from the others"
    finally:
        for seat in seats:
            await seat.close()


async def _nothing() -> tuple[Header, ...]:
    """What a host that froze the chain shows."""
    return ()
