"""Attacks on the committee's promises that need members in office: real gatekeepers over a chain in memory.

Script: five members of three vendors, threshold three; two workers; an agent placed on both and one placed on the
second alone. Numbers are the items of the security review (docs/threat-model.md).
"""

from __future__ import annotations

import shutil
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from cloister.core.encoding.identity import KeyIdentity, Purpose
from cloister.core.encoding.statements import Checkpoint, Lease
from cloister.core.errors import CloisterError
from cloister.core.policy.placement import place
from cloister.core.state.heads import genesis_head
from cloister.core.threshold import actions as do
from cloister.core.threshold.ibe import DerivedKey, decrypt, encrypt
from cloister.core.threshold.partial import Partial, evaluate, recover
from cloister.core.threshold.phases import Kind, Phase
from cloister.core.threshold.shares import KeyShare
from cloister.devnet.layout import free_ports
from cloister.wire.ask import ask, new_session
from cloister.wire.committee import Committee, Granted
from cloister.wire.heads import HeadMove, HeadsRequest
from cloister.wire.messages import KeysAnswer, KeysRequest, dump_json
from support.committees import ABSENT, Manner
from support.committees import World as Protocol
from support.gatekeeper_cast import cast, stand, to_office, turns
from support.gatekeepers import (
    KINDS,
    PretendWorker,
    Seat,
    World,
    an_agent,
    policy,
    sign_checkpoint,
    sit,
    turn_all,
)
from support.sharing import stream

T, PERIOD = 3, 10
CLASSES = {kind: tuple(i for i, one in enumerate(KINDS) if one == kind) for kind in dict.fromkeys(KINDS)}
MINE = b"\xaa" * 32


class Stage:
    """A 3-of-5 committee in office. ``worker`` is the one that breaks; ``other`` the only one with ``theirs``."""

    def __init__(self, folder: Path) -> None:
        self.world = World(policy(period_blocks=PERIOD))
        self.seats = [Seat(self.world, folder / f"gk-{i}", i, port) for i, port in enumerate(free_ports(5))]
        self.sitting = sit(self.world, self.seats, T)
        self.worker = PretendWorker(self.world, self.sitting.network)
        self.other = PretendWorker(self.world, self.sitting.network, name="other")
        self.worker.register()
        self.other.register()
        an_agent(self.world, MINE)
        self.theirs = self._placed_on(self.other)
        an_agent(self.world, self.theirs, seats=1)
        self.committee = Committee(
            [s.url for s in self.seats], self.sitting.signers, self.sitting.network, timeout_s=10
        )

    def _placed_on(self, worker: PretendWorker) -> bytes:
        """The name of an agent with one seat, which placement gives to this worker."""
        names = (bytes([i]) * 32 for i in range(1, 255))
        seed, live = self.world.now.seats.term_seed, list(self.world.now.workers)
        return next(name for name in names if place(seed, name, live, 1) == (worker.address,))

    async def open(self) -> None:
        for seat in self.seats:
            await seat.open()
        for _ in range(3):
            await self.mined(2)

    async def mined(self, count: int = 3) -> None:
        """Blocks, and every member in service follows."""
        self.world.mine(count)
        await turn_all(self.seats)

    def request(self, agent: bytes = MINE, worker: PretendWorker | None = None) -> KeysRequest:
        """What a worker asks with, at the newest final block that three members signed."""
        signed = sign_checkpoint(self.seats[:T], self.world.checkpoint(), self.sitting.network)
        assert isinstance(signed.statement, Checkpoint)
        return KeysRequest((worker or self.worker).show(signed.statement), agent, signed)

    async def ask(self, member: int, request: KeysRequest) -> KeysAnswer:
        """One member's answer."""
        session = new_session()
        try:
            url = f"{self.seats[member].url}/v1/keys"
            return KeysAnswer.from_json(await ask(session, "POST", url, request.to_json(), timeout_s=10))
        finally:
            await session.close()

    def opened(self, granted: Granted, worker: PretendWorker | None = None) -> dict[KeyIdentity, DerivedKey]:
        """What a worker makes of the answers: the keys themselves."""
        found = {}
        for name, parts in granted.partials.items():
            partials = [Partial(p.index, p.e1, p.e2, p.e3, p.term) for p in parts]
            identity, transport = granted.identities[name], (worker or self.worker).transport
            found[identity] = recover(partials, T, self.sitting.public, bytes(identity), transport)
        return found

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


async def refusal(work: Any) -> str:
    """The code of what it raises."""
    with pytest.raises(CloisterError) as caught:
        await work
    return caught.value.code


def opens(key: DerivedKey, mpk: bytes, identity: KeyIdentity, sealed: bytes) -> bool:
    """Whether a key opens what was encrypted to an identity."""
    try:
        return decrypt(key, mpk, bytes(identity), sealed, b"") is not None
    except CloisterError as error:
        if error.code != "threshold.ibe_not_opened":
            raise
        return False


# --- 8: one vendor, and t - 1 members ---


@pytest.mark.parametrize("kind", CLASSES)
async def test_8_whoever_owns_a_vendor_and_t_minus_1_members_derives_no_agents_key(stage: Stage, kind: str) -> None:
    """Its members' shares are stolen, and others' up to t - 1; a worker of its kind is forged, and registered."""
    own = CLASSES[kind]
    rest = [i for i in range(5) if i not in own]
    forged = PretendWorker(stage.world, stage.sitting.network, name=f"forged {kind}", kind=kind)
    forged.register(removed=False)
    an_agent(stage.world, stage.theirs, seats=1)
    seed, live = stage.world.now.seats.term_seed, list(stage.world.now.workers)
    victim = next(
        n for n in (bytes([i, i]) * 16 for i in range(1, 255)) if place(seed, n, live, 1) != (forged.address,)
    )
    an_agent(stage.world, victim, seats=1)
    await stage.mined(6)

    # 1. No honest member answers for an agent that is placed elsewhere: not one partial comes.
    request = stage.request(victim, forged)
    assert {await refusal(stage.ask(i, request)) for i in rest} == {"policy.not_placed"}

    # 2. With t - 1 shares at hand no key comes out, whoever else's answers to another question are put beside them.
    identity = b"the identity of a victim's key"
    for extra in combinations(rest, T - 1 - len(own)):
        stolen = [stage.sitting.shares[i] for i in (*own, *extra)]
        honest = [stage.sitting.shares[i] for i in rest if i not in extra]
        assert _attempts(stage, stolen, honest, forged, identity) == {"threshold.too_few_partials"}


def _attempts(
    stage: Stage, stolen: Sequence[KeyShare], honest: Sequence[KeyShare], thief: PretendWorker, identity: bytes
) -> set[str]:
    """How every way to complete t - 1 stolen shares ends."""
    rng, transport, public = stream("thief"), thief.transport, stage.sitting.public
    own = [evaluate(share, identity, transport.public, rng) for share in stolen]
    elsewhere = [evaluate(share, b"another identity", transport.public, rng) for share in honest]
    overheard = [evaluate(share, identity, stage.worker.transport.public, rng) for share in honest]
    twice = [replace(own[0], index=share.index) for share in honest]
    codes = set()
    for last in (*elsewhere, *overheard, *twice, own[0]):
        with pytest.raises(CloisterError) as caught:
            recover([*own, last], T, public, identity, transport)
        codes.add(caught.value.code)
    return codes


@pytest.mark.parametrize("kind", CLASSES)
async def test_8_a_vendor_that_is_gone_stops_neither_keys_nor_checkpoints(stage: Stage, kind: str) -> None:
    before = stage.opened(await stage.committee.keys(stage.request()))
    for i in CLASSES[kind]:
        await stage.seats[i].close()
    await stage.mined(4)
    after = stage.opened(await stage.committee.keys(stage.request()))
    assert {i: k.point for i, k in after.items()}.items() >= {
        (i, k.point) for i, k in before.items() if i.purpose is not Purpose.CALL
    }
    signed = await stage.committee.checkpoint()
    assert signed.statement == stage.world.checkpoint()


@pytest.mark.parametrize("manner", [ABSENT, Manner(confirms="no"), Manner(bad_shares=frozenset({1, 2, 3}))])
def test_8_a_vendor_with_two_seats_stops_no_ceremony(manner: Manner) -> None:
    """Founding and the resharing that removes it: with two of five away or lying both end, and the key stays."""
    founded = Protocol(5, T, manners={4: manner, 5: manner}, name="founded among two of one vendor").run()
    assert founded.phase is Phase.DONE
    lies = dict.fromkeys((4, 5), manner)
    fresh = Protocol(5, T, kind=Kind.RESHARE, old=founded, manners=lies, old_manners=lies, name="without them").run()
    assert fresh.phase is Phase.DONE
    assert fresh.agreed().mpk == founded.agreed().mpk
    assert set(fresh.shares()) >= {1, 2, 3}


# --- 1, 2: a worker that breaks keeps every key ---


async def test_1_a_broken_worker_that_kept_every_key_opens_no_call_of_a_later_period(stage: Stage) -> None:
    kept = stage.opened(await stage.committee.keys(stage.request()))
    last = max(identity.period for identity in kept)
    while stage.world.checkpoint().number // PERIOD <= last:
        await stage.mined(PERIOD)
    granted = await stage.committee.keys(stage.request(worker=stage.other))
    now = granted.identities[Purpose.CALL, stage.world.checkpoint().number // PERIOD]
    mpk = stage.sitting.public.mpk
    sealed = encrypt(mpk, bytes(now), b"pre-shared key", b"", stream("caller"))
    assert opens(stage.opened(granted, stage.other)[now], mpk, now, sealed), "the honest worker opens it"
    assert now not in kept
    assert not any(opens(key, mpk, as_, sealed) for key in kept.values() for as_ in (now, *kept))


async def test_1_nor_a_write_or_secret_after_the_bump_nor_does_anybody_give_it_the_new_keys(stage: Stage) -> None:
    """Removed for cause: the epoch goes up with it. It still has its evidence, its lease and all keys of before."""
    granted = await stage.committee.keys(stage.request())
    kept = stage.opened(granted)
    stage.worker.register(removed=True)
    an_agent(stage.world, MINE, agent_epoch=2)
    await stage.mined(4)
    fresh = await stage.committee.keys(stage.request(worker=stage.other))
    mpk = stage.sitting.public.mpk
    for purpose in (Purpose.STATE, Purpose.SECRETS):
        now = fresh.identities[purpose, 0]
        sealed = encrypt(mpk, bytes(now), b"a later write", b"", stream("writer"))
        assert opens(stage.opened(fresh, stage.other)[now], mpk, now, sealed)
        assert not any(opens(key, mpk, as_, sealed) for key in kept.values() for as_ in (now, *kept))
    assert {await refusal(stage.ask(i, stage.request())) for i in range(5)} == {"policy.worker_removed"}

    # Its lease has not ended, and still it endorses nothing: no write of its own making gets into the chain of heads.
    move = _move(granted, b"\x66" * 32)
    assert set(await _endorse(stage, granted, move)) == {"policy.worker_removed"}


async def test_2_a_broken_worker_never_had_agents_that_were_not_placed_on_it(stage: Stage) -> None:
    """It asks every member for every agent, again in every period: what it keeps is of one agent only."""
    kept: dict[KeyIdentity, DerivedKey] = {}
    for _ in range(3):
        kept |= stage.opened(await stage.committee.keys(stage.request()))
        stolen = stage.request(stage.theirs)
        assert {await refusal(stage.ask(i, stolen)) for i in range(5)} == {"policy.not_placed"}
        await stage.mined(PERIOD)
    theirs = await stage.committee.keys(stage.request(stage.theirs, stage.other))
    mpk = stage.sitting.public.mpk
    for identity in theirs.identities.values():
        sealed = encrypt(mpk, bytes(identity), b"theirs", b"", stream("them"))
        assert identity not in kept
        assert not any(opens(key, mpk, as_, sealed) for key in kept.values() for as_ in (identity, *kept))


# --- 4: hosts that feed honest members a private chain ---


def fork_of(world: World, at: int, salt: bytes = b"private") -> World:
    """A private chain of the hosts: the world's blocks below ``at``, and their own ones from there on."""
    fork = World(world.rules)
    fork.headers, fork.states, fork.now = list(world.headers[:at]), world.states, world.now
    fork.mine(len(world.headers) - at + 12, salt=salt)
    return fork


@pytest.mark.parametrize("depth", [0, 1, 5])
async def test_4_t_hosts_with_a_private_fork_get_nothing_signed_past_the_last_checkpoint(
    stage: Stage, depth: int
) -> None:
    """The fork replaces what was signed, by one block or more: the honest enclaves stop instead of following it."""
    last = stage.world.checkpoint()
    fork = fork_of(stage.world, last.number - depth)
    fooled, others = stage.seats[:T], stage.seats[T:]
    for seat in fooled:
        seat.chain.forked = fork
    stage.world.mine(6)
    refused = [e.code for e in await turn_all(fooled)]
    assert set(refused) == {"gatekeeper.halted"}
    for seat in fooled:
        book = [checkpoint for checkpoint, _ in seat.gatekeeper.store.checkpoints()]
        assert max(c.number for c in book) == last.number
        assert all(c.block_hash == stage.world.headers[c.number].hash for c in book)
    # Keys: the fork's checkpoint has no signature; an old one opens nothing at a halted member.
    request = stage.request()
    assert {await refusal(stage.ask(i, request)) for i in range(T)} == {"gatekeeper.halted"}
    # The true chain goes on, with too few members to release a key to anybody.
    await turn_all(others)
    assert {s.gatekeeper.require_desks().checkpoints.head for s in others} == {stage.world.checkpoint()}
    assert await refusal(stage.committee.checkpoint()) in ("gatekeeper.too_few", "gatekeeper.halted")
    # A member halts for good: its host cannot lead it back either, nor by a new start.
    for seat in fooled:
        seat.chain.forked = None
        await seat.close()
        await seat.open()
    for _ in range(2):
        stage.world.mine(2)
        refused = [e.code for e in await turn_all(fooled)]
    assert set(refused) == {"gatekeeper.halted"}
    newest = {max(c.number for c, _ in seat.gatekeeper.store.checkpoints()) for seat in fooled}
    assert newest == {last.number}


async def test_4_two_halves_that_were_fed_two_chains_never_make_two_checkpoints_of_one_height(stage: Stage) -> None:
    """The hosts fork what comes next: three members on one side, two on the other. One side only has t signatures."""
    height = stage.world.checkpoint().number + 1
    fork = fork_of(stage.world, height)
    for seat in stage.seats[T:]:
        seat.chain.forked = fork
    stage.world.mine(6)
    await turn_all(stage.seats)
    said: dict[bytes, int] = {}
    for seat in stage.seats:
        statement = seat.gatekeeper.require_desks().checkpoints.at(height).statement
        assert isinstance(statement, Checkpoint)
        said[statement.block_hash] = said.get(statement.block_hash, 0) + 1
    assert sorted(said.values()) == [2, 3], "whoever holds t members' hosts and endpoints decides: the quorum's bound"
    signed = await stage.committee.checkpoint()
    assert signed.statement == stage.world.checkpoint()
    for seat in stage.seats[T:]:  # when the truth reaches them they stop; they do not change sides
        seat.chain.forked = None
    stage.world.mine(20)
    assert {e.code for e in await turn_all(stage.seats[T:])} == {"gatekeeper.halted"}


# --- 7, 11: clones ---


async def test_7_a_cloned_gatekeeper_disk_is_one_member_and_not_two(stage: Stage, tmp_path: Path) -> None:
    """Its host runs the disk twice on the machine that sealed it: the twin's answers are the same member's."""
    twin = await _twin(stage, 0, tmp_path)
    try:
        assert twin.keys.address == stage.seats[0].keys.address
        request = stage.request()
        session = new_session()
        second = KeysAnswer.from_json(
            await ask(session, "POST", f"{twin.url}/v1/keys", request.to_json(), timeout_s=10)
        )
        await session.close()
        answers = [await stage.ask(0, request), await stage.ask(1, request), second]
        parts = [answer.partials[0] for answer in answers]
        partials = [Partial(p.index, p.e1, p.e2, p.e3, p.term) for p in parts]
        assert len({p.index for p in partials}) == T - 1
        with pytest.raises(CloisterError) as caught:
            recover(partials, T, stage.sitting.public, b"any", stage.worker.transport)
        assert caught.value.code == "threshold.too_few_partials"
        only = Committee(
            [stage.seats[0].url, twin.url, stage.seats[1].url], stage.sitting.signers, stage.sitting.network
        )
        assert await refusal(only.keys(request)) == "gatekeeper.too_few"
        await only.close()
    finally:
        await twin.close()


async def test_11_a_clone_of_an_older_disk_hears_the_others_before_it_signs(stage: Stage, tmp_path: Path) -> None:
    granted = await stage.committee.keys(stage.request())
    twin = await _copied(stage, 0, tmp_path)  # the disk as it was before the first head
    await _settled(stage)
    first, second = _move(granted, b"\x01" * 32), _move(granted, b"\x66" * 32)
    assert all(said.startswith("0x") for said in await _endorse(stage, granted, first))
    try:
        await twin.open()
        for _ in range(3):
            await turn_all([twin])
        assert await _endorse_at(stage, twin, granted, second) == "state.forked"
    finally:
        await twin.close()


async def test_11_a_clone_that_runs_beside_its_member_is_one_liar_and_gets_no_second_head(
    stage: Stage, tmp_path: Path
) -> None:
    """Two memories under one key sign two children of one parent. The quorum is made for that: one counts."""
    granted = await stage.committee.keys(stage.request())
    twin = await _twin(stage, 0, tmp_path)
    await _settled(stage)
    first, second = _move(granted, b"\x01" * 32), _move(granted, b"\x66" * 32)
    try:
        assert all(said.startswith("0x") for said in await _endorse(stage, granted, first))
        said = [await _endorse_at(stage, twin, granted, second), *await _endorse(stage, granted, second)]
        assert [one.startswith("0x") for one in said] == [True, *[False] * 5]
        assert set(said[1:]) == {"state.forked"}
        assert stage.committee.endorse_quorum > 1
    finally:
        await twin.close()


async def test_7_a_disk_that_was_cloned_is_of_no_use_after_the_second_refresh(tmp_path: Path) -> None:
    """It holds a share of its term, and the transport key for the next ceremony: so one refresh does not heal it."""
    (tmp_path / "cast").mkdir()
    async with cast(tmp_path / "cast") as (world, seats):
        await stand(world, seats)
        await to_office(world, seats)
        await turns(world, seats, 16)
        await seats[0].close()
        shutil.copytree(seats[0].folder, tmp_path / "clone")
        await seats[0].open()
        for term in (2, 3):
            await turns(world, seats, 4)
            world.open(Kind.RESHARE, [s.keys.address for s in seats], 2)
            await to_office(world, seats, 40, term=term)
            await turns(world, seats, 16)
        clone = Seat(world, tmp_path / "clone", 0, free_ports(1)[0])
        await clone.open()
        try:
            for _ in range(3):
                await turn_all([clone])
                world.mine(1)
            assert (1, 3) not in clone.gatekeeper.shares.held()
            assert clone.gatekeeper.desks is None, "without a share of the term it answers nobody"
        finally:
            await clone.close()


async def _copied(stage: Stage, number: int, folder: Path) -> Seat:
    """A copy of a member's disk, as it is now, for the same machine. The member goes on."""
    seat = stage.seats[number]
    await seat.close()
    copy = folder / f"gk-{number}-twin"
    shutil.copytree(seat.folder, copy)
    await seat.open()
    return Seat(stage.world, copy, number, free_ports(1)[0])


async def _twin(stage: Stage, number: int, folder: Path) -> Seat:
    """The copy runs beside the member."""
    twin = await _copied(stage, number, folder)
    await twin.open()
    await stage.mined(1)
    for _ in range(3):
        await turn_all([stage.seats[number], twin])
    return twin


async def _settled(stage: Stage) -> None:
    """Every member that was started again has heard the others."""
    for _ in range(3):
        await stage.mined(1)


async def test_1_a_cloned_worker_that_is_cut_off_gets_no_keys_and_forks_no_state(stage: Stage) -> None:
    """One machine image, run twice: one key, one boot, one lease. The clone sees no chain; the other one goes on."""
    granted = await stage.committee.keys(stage.request())
    frozen = stage.request()
    # Both write; whoever comes first at a member has it. Two heads of one parent never both get their quorum.
    one, two = _move(granted, b"\x01" * 32), _move(granted, b"\x02" * 32)
    signed = {one.head: 0, two.head: 0}
    for i in range(5):
        for move in (one, two) if i < 2 else (two, one):
            signed[move.head] += (await _endorse_at(stage, stage.seats[i], granted, move)).startswith("0x")
    assert sum(signed.values()) == 5, "each member signs one of them"
    assert sum(count >= stage.committee.endorse_quorum for count in signed.values()) <= 1
    # Time goes by. The clone knows the last checkpoint that it saw, and nobody answers at it any more.
    await stage.mined(30)
    assert {await refusal(stage.ask(i, frozen)) for i in range(5)} == {"gatekeeper.stale_checkpoint"}
    assert isinstance(granted.lease.statement, Lease)
    assert granted.lease.statement.expiry < stage.world.checkpoint().number
    three = replace(_move(granted, b"\x03" * 32), height=2, parent=two.head)
    assert set(await _endorse(stage, granted, three)) == {"gatekeeper.no_lease"}


def _move(granted: Granted, head: bytes) -> HeadMove:
    """The agent's first head, as the holder of a lease proposes it."""
    identity = granted.identities[Purpose.STATE, 0]
    return HeadMove(MINE, granted.terms.epochs, 1, genesis_head(bytes(identity)), head)


async def _endorse_at(stage: Stage, seat: Seat, granted: Granted, move: HeadMove) -> str:
    request = HeadsRequest((move,), stage.worker.address, stage.worker.boot, (granted.lease,))
    try:
        heads = seat.gatekeeper.require_desks().heads
        (outcome,) = await heads.endorse(dump_json(request.signed(stage.worker.key).to_json()), "test")
    except CloisterError as error:
        return error.code
    return outcome if isinstance(outcome, str) else outcome.code


async def _endorse(stage: Stage, granted: Granted, move: HeadMove) -> list[str]:
    """What each member says: a signature in hex, or the code of its refusal."""
    return [await _endorse_at(stage, seat, granted, move) for seat in stage.seats]


# --- 9: clocks ---

YEARS = 10 * 365 * 86_400.0
CLOCKS = {"frozen": (0.0, 0.0), "ten years ahead": (YEARS, 1.0), "ten years behind": (-YEARS, 1.0)}


@pytest.mark.parametrize("clock", CLOCKS)
async def test_9_the_clock_of_a_members_host_decides_nothing(
    stage: Stage, clock: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Leases, what is stale and whose evidence counts follow from blocks. The lease is the same to the byte."""
    honest = await stage.ask(0, stage.request())
    old = stage.request()
    shift, runs = CLOCKS[clock]
    began, real = time.time(), time.time
    monkeypatch.setattr(time, "time", lambda: began + shift + runs * (real() - began))
    again = await stage.ask(0, stage.request())
    assert (again.lease, again.lease_signature) == (honest.lease, honest.lease_signature)
    assert {p.period for p in again.partials} == {p.period for p in honest.partials}
    await stage.mined(30)
    later = await stage.ask(0, stage.request())
    assert later.lease.expiry > honest.lease.expiry
    assert await refusal(stage.ask(0, old)) == "gatekeeper.stale_checkpoint"


async def test_9_a_worker_whose_host_froze_the_chain_cannot_lengthen_its_lease(stage: Stage) -> None:
    """It asks again and again at the last checkpoint that its host shows: the same end each time, then nothing."""
    request, ends = stage.request(), set()
    for _ in range(4):
        ends.add((await stage.ask(0, request)).lease.expiry)
        await stage.mined(4)
    assert len(ends) == 1
    await stage.mined(4)
    assert await refusal(stage.ask(0, request)) == "gatekeeper.stale_checkpoint"


# --- 17: seats for money ---


def test_17_n_minus_t_plus_1_bought_seats_that_stop_every_hand_over_keep_the_old_committee_in_office() -> None:
    """Elections never give that many (contracts/test/Election.t.sol); if one did, only the term is lost."""
    founded = Protocol(5, T, name="before the purchase").run()
    bought = dict.fromkeys((3, 4, 5), Manner(confirms="no"))
    for attempt in range(2):
        failed = Protocol(5, T, kind=Kind.RESHARE, old=founded, manners=bought, name=f"ransom {attempt}").run()
        assert failed.phase is Phase.FAILED
        assert not any(isinstance(action, do.EraseOld) for a in failed.dealers.values() for action in a.erased)
    healthy = Protocol(5, T, kind=Kind.RESHARE, old=founded, name="without them").run()
    assert healthy.agreed().mpk == founded.agreed().mpk
