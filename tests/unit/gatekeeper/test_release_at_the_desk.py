"""The key desk over random histories: keys leave only if every rule holds, checked by an oracle written anew.

Evidence is taken as given here (``attest`` answers for the worker that asks); what the desk makes of chain, ledger and
checkpoint is real: records at the checkpoint that is shown, the newest block, floors, caps, the audit log.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloister.core.encoding.audit import verify_line
from cloister.core.encoding.identity import Purpose
from cloister.core.encoding.statements import Checkpoint
from cloister.core.errors import CloisterError
from cloister.core.policy.caps import Backing
from cloister.core.policy.placement import place
from cloister.core.policy.release import Requester
from cloister.gatekeeper import grants
from cloister.gatekeeper.audit import AuditLog
from cloister.gatekeeper.checkpoints import MAX_LAG, Checkpoints
from cloister.gatekeeper.grants import KeyDesk
from cloister.gatekeeper.limits import RateLimit
from cloister.gatekeeper.lookout import ALONE
from cloister.gatekeeper.office import Office
from cloister.gatekeeper.store import Store
from cloister.wire.messages import KeysAnswer, KeysRequest, dump_json
from support.gatekeepers import (
    TERM_SEED,
    PretendWorker,
    Seat,
    State,
    World,
    WorldChain,
    an_agent,
    policy,
    secrets_of,
    sign_checkpoint,
    sit,
)

PERIOD, CAP = 20, 2
AGENTS = tuple(bytes([0xA0 + i]) * 32 for i in range(3))
NAMES = ("one", "two", "three")


async def among_others() -> None:
    """This member sees what the others see (tests of that: test_lookout.py)."""


class Desk:
    """A 2-of-3 committee on paper; the desk of its first member, over a chain in memory."""

    def __init__(self, folder: Path) -> None:
        self.world = World(policy(period_blocks=PERIOD, max_agents_per_worker=CAP))
        self.folder = folder
        self.seats = [Seat(self.world, folder / f"gk-{i}", i, 1) for i in range(3)]
        self.sitting = sit(self.world, self.seats, 2)
        self.workers = {name: PretendWorker(self.world, self.sitting.network, name) for name in NAMES}
        for name in AGENTS:
            an_agent(self.world, name)
        self.audited = 0
        self.best: dict[bytes, tuple[int, int]] = {}
        self.held: dict[str, set[bytes]] = {name: set() for name in NAMES}
        self.world.mine(3)
        self.open()

    def open(self) -> None:
        """Start, or start again from the folder."""
        seat, folder = self.seats[0], self.seats[0].folder
        self.store = Store(folder / "state.db")
        office = Office(self.sitting.network, 1, 1, self.sitting.signers, TERM_SEED, self.sitting.shares[0], seat.keys)
        self.chain = WorldChain(self.world, seat.keys.address)
        self.checkpoints = Checkpoints(self.store, office, self.world.genesis.chain_id)
        if self.checkpoints.head is not None:
            self.chain.resume(self.checkpoints.head)
        self.audit = AuditLog(folder / "audit.log")
        limit = RateLimit(per_s=1.0, burst=10_000, clock=lambda: 0.0)
        self.desk = KeyDesk(
            office,
            self.checkpoints,
            self.chain,
            self.store,
            self.audit,
            policy=self.world.rules,
            limit=limit,
            rng=secrets_of("desk"),
            sealed=lambda agent: None,
            look=among_others,
        )

    def close(self) -> None:
        """What a crash leaves: the files."""
        self.audit.close()
        self.store.close()

    def ask(self, name: str, agent: bytes, checkpoint: Checkpoint) -> KeysAnswer | str:
        """A request of a worker at a checkpoint: the answer, or the code of the refusal."""
        asyncio.run(self.checkpoints.follow(self.chain))
        signed = sign_checkpoint(self.seats[:2], checkpoint, self.sitting.network)
        request = KeysRequest(FakeShown.of(self.workers[name], checkpoint), agent, signed)
        try:
            return asyncio.run(self.desk.answer(dump_json(request.to_json()), "test"))
        except CloisterError as error:
            return error.code
        finally:
            self.audited += 1

    def may(self, name: str, agent: bytes, checkpoint: Checkpoint) -> bool:
        """The oracle: all that the specification demands, read from the world's records."""
        worker, now = self.workers[name], self.world.now
        then: State = self.world.states[checkpoint.state_root]
        record, subject = then.workers.get(worker.address), then.agents.get(agent)
        newest, present = now.workers.get(worker.address), now.agents.get(agent)
        if checkpoint.number < self.world.final.number - MAX_LAG:
            return False
        if record is None or record.removed or record.boot != worker.boot or record.expiry <= checkpoint.number:
            return False
        if (newest is not None and newest.removed) or worker.address in now.left:
            return False
        if subject is None or subject.paused or (present is not None and present.paused):
            return False
        floor = self.best.get(agent, (0, 0))
        if (subject.agent_epoch, subject.cluster_epoch) < floor:
            return False
        if present is not None and subject.agent_epoch < present.agent_epoch:
            return False
        live = [
            w for w, f in then.workers.items() if not f.removed and checkpoint.number < f.expiry and w not in then.left
        ]
        if worker.address not in place(TERM_SEED, agent, live, subject.seats):
            return False
        return agent in self.held[name] or len(self.held[name]) < CAP


class FakeShown:
    """A binding of a worker with evidence that nobody looks at."""

    @staticmethod
    def of(worker: PretendWorker, checkpoint: Checkpoint) -> Any:
        """As ``PretendWorker.show``, without making a quote."""
        if worker.name not in _SHOWN:
            _SHOWN[worker.name] = worker.show(checkpoint)
        shown = _SHOWN[worker.name]
        return replace(shown, binding=replace(shown.binding, boot=worker.boot, network=worker.network))


_SHOWN: dict[str, Any] = {}


@pytest.fixture(autouse=True)
def _evidence_is_taken_as_given(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    async def attest(shown: Any, snapshot: Any, **_: Any) -> Any:
        binding = shown.binding
        worker = next(w for w in _KNOWN if w.address == binding.node)
        facts = worker.facts()
        return None, Requester(binding.node, binding.boot, facts.measurement, facts.vendor_class)

    monkeypatch.setattr(grants, "attest", attest)
    yield
    _KNOWN.clear()


_KNOWN: list[PretendWorker] = []

who, which = st.sampled_from(NAMES), st.sampled_from(AGENTS)
EVENTS = st.one_of(
    st.tuples(st.just("register"), who, st.integers(1, 60)),
    st.tuples(st.just("remove"), who),
    st.tuples(st.just("leave"), who),
    st.tuples(st.just("reboot"), who),
    st.tuples(st.just("pause"), which, st.booleans()),
    st.tuples(st.just("bump"), which, st.booleans()),
    st.tuples(st.just("one seat"), which),
    st.tuples(st.just("mine"), st.integers(1, 25)),
    st.tuples(st.just("restart")),
    st.tuples(st.just("ask"), who, which, st.integers(0, 20)),
    st.tuples(st.just("ask"), who, which, st.just(0)),
)


def happen(desk: Desk, event: tuple[Any, ...]) -> None:
    """One event; an ``ask`` compares desk and oracle."""
    world, kind = desk.world, event[0]
    if kind == "register":
        worker = desk.workers[event[1]]
        worker.register(expiry=len(world.headers) + event[2])
        world.now.left.discard(worker.address)
    elif kind in ("remove", "leave", "reboot"):
        _worker_event(desk, kind, desk.workers[event[1]])
    elif kind == "mine":
        world.mine(event[1])
    elif kind == "restart":
        desk.close()
        desk.open()
    elif kind == "ask":
        _compare(desk, *event[1:])
    elif (found := world.now.agents.get(event[1])) is not None:
        if kind == "pause":
            world.now.agents[event[1]] = replace(found, paused=event[2])
        elif kind == "one seat":
            world.now.agents[event[1]] = replace(found, seats=1)
        else:
            name = "agent_epoch" if event[2] else "cluster_epoch"
            world.now.agents[event[1]] = replace(found, **{name: getattr(found, name) + 1})


def _worker_event(desk: Desk, kind: str, worker: PretendWorker) -> None:
    record = desk.world.now.workers.get(worker.address)
    if kind == "reboot":
        worker.boot = bytes([worker.boot[0] ^ 1]) + worker.boot[1:]
    elif record is not None and kind == "remove":
        desk.world.now.workers[worker.address] = replace(record, removed=True)
    elif record is not None:
        desk.world.now.left.add(worker.address)


def _compare(desk: Desk, name: str, agent: bytes, back: int) -> None:
    final = desk.world.final.number
    checkpoint = desk.world.checkpoint(max(1, final - back))
    expected = desk.may(name, agent, checkpoint)
    answer = desk.ask(name, agent, checkpoint)
    assert isinstance(answer, KeysAnswer) == expected, (answer if isinstance(answer, str) else "granted", back)
    if not isinstance(answer, KeysAnswer):
        return
    lease, subject = answer.lease, desk.world.states[checkpoint.state_root].agents[agent]
    worker = desk.workers[name]
    assert (lease.agent, lease.worker, lease.boot) == (agent, worker.address, worker.boot)
    assert (lease.checkpoint, lease.period) == (checkpoint.number, checkpoint.number // PERIOD)
    assert lease.expiry == (lease.period + 2) * PERIOD
    assert (lease.agent_epoch, lease.cluster_epoch) == (subject.agent_epoch, subject.cluster_epoch)
    periods = sorted(p.period for p in answer.partials if p.purpose is Purpose.CALL)
    assert periods == [lease.period, lease.period + 1]
    assert {p.index for p in answer.partials} == {1}
    best = desk.best.get(agent, (0, 0))
    desk.best[agent] = max(best, (lease.agent_epoch, lease.cluster_epoch))
    assert not answer.old, "no head is known: there is nothing to re-seal"
    desk.held[name].add(agent)


@settings(max_examples=20, deadline=None)
@given(st.lists(EVENTS, min_size=8, max_size=28))
def test_keys_leave_only_if_every_rule_holds(events: list[tuple[Any, ...]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        desk = Desk(Path(folder))
        _KNOWN[:] = desk.workers.values()
        try:
            for name in NAMES:
                happen(desk, ("register", name, 40))
            happen(desk, ("mine", 3))
            for event in events:
                happen(desk, event)
        finally:
            desk.close()
        _check_audit(desk)


def _check_audit(desk: Desk) -> None:
    """One line per answered request, chained; granted ones name their lease."""
    count, head = 0, bytes(32)
    lines = (desk.seats[0].folder / "audit.log").read_bytes().splitlines()
    for line in lines:
        count, head = verify_line(line, count, head)
        said = json.loads(line)
        assert said["what"] == "keys"
        assert ("checkpoint" in said) == (said["outcome"] == "granted")
    assert count == desk.audited


def test_the_oracle_says_yes_and_no(tmp_path: Path) -> None:
    """Else the property above would be empty: a plain history has both outcomes for the reasons that one expects."""
    desk = Desk(tmp_path)
    _KNOWN[:] = desk.workers.values()
    for name in NAMES:
        happen(desk, ("register", name, 60))
    happen(desk, ("mine", 3))
    at = desk.world.checkpoint()
    placed = [n for n in NAMES if desk.may(n, AGENTS[0], at)]
    assert len(placed) == 2
    (other,) = set(NAMES) - set(placed)
    assert isinstance(desk.ask(placed[0], AGENTS[0], at), KeysAnswer)
    assert desk.ask(other, AGENTS[0], at) == "policy.not_placed"
    happen(desk, ("pause", AGENTS[0], True))
    assert desk.ask(placed[0], AGENTS[0], at) == "policy.paused"
    happen(desk, ("pause", AGENTS[0], False))
    happen(desk, ("remove", placed[0]))
    assert desk.ask(placed[0], AGENTS[0], at) == "policy.worker_removed"
    happen(desk, ("bump", AGENTS[0], True))
    assert desk.ask(placed[1], AGENTS[0], at) == "policy.epoch_closed"
    desk.close()


def test_stake_and_operator_bound_what_is_granted_anew_also_after_a_restart(tmp_path: Path) -> None:
    """Spec/policy.md 5: the newest final block counts, not the checkpoint that is shown; workers that left count on."""
    desk = Desk(tmp_path)
    _KNOWN[:] = desk.workers.values()
    world, (one, two, _), (first, second, _) = desk.world, NAMES, AGENTS
    for agent in AGENTS:
        world.now.agents[agent] = replace(world.now.agents[agent], seats=3)

    def back(name: str, stake: int, price: int, most: int) -> None:
        world.now.backing[desk.workers[name].address] = Backing(stake, price, most, b"\x0e" * 20)

    for name in NAMES:
        happen(desk, ("register", name, 60))
        back(name, 100, 100, 0)
    happen(desk, ("mine", 3))
    at = desk.world.checkpoint()
    assert isinstance(desk.ask(one, first, at), KeysAnswer)
    assert desk.ask(one, second, at) == "policy.cap", "stake for one agent"
    back(one, 200, 100, 0)
    happen(desk, ("mine", 3))
    assert isinstance(desk.ask(one, second, at), KeysAnswer)
    back(one, 0, 100, 0)
    back(two, 1000, 100, 1)
    happen(desk, ("leave", one))
    happen(desk, ("mine", 3))
    desk.close()
    desk.open()
    assert desk.ask(two, AGENTS[2], at) == "policy.cap", "its operator holds two, with a worker that left"
    assert isinstance(desk.ask(two, first, desk.world.checkpoint()), KeysAnswer), "one of the two is none more"
    desk.close()


def _waiting(tmp_path: Path) -> tuple[Desk, list[str], Checkpoint]:
    """A desk, who is placed for the first agent, and a checkpoint."""
    desk = Desk(tmp_path)
    _KNOWN[:] = desk.workers.values()
    for name in NAMES:
        happen(desk, ("register", name, 60))
    happen(desk, ("mine", 3))
    asyncio.run(desk.checkpoints.follow(desk.chain))
    at = desk.world.checkpoint()
    return desk, [name for name in NAMES if desk.may(name, AGENTS[0], at)], at


def _asking(desk: Desk, name: str, agent: bytes, at: Checkpoint) -> Any:
    signed = sign_checkpoint(desk.seats[:2], at, desk.sitting.network)
    body = dump_json(KeysRequest(FakeShown.of(desk.workers[name], at), agent, signed).to_json())
    return desk.desk.answer(body, "test")


async def test_nothing_leaves_before_the_others_answered_though_all_else_is_looked_at_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk, placed, at = await asyncio.to_thread(_waiting, tmp_path)
    others, seen = asyncio.Event(), asyncio.Event()
    taken = grants.attest

    async def attest(*arguments: Any, **named: Any) -> Any:
        seen.set()
        return await taken(*arguments, **named)

    async def look() -> None:
        await others.wait()

    monkeypatch.setattr(grants, "attest", attest)
    desk.desk._look = look
    asked = asyncio.create_task(_asking(desk, placed[0], AGENTS[0], at))
    await seen.wait()
    for _ in range(50):
        await asyncio.sleep(0)
    assert not asked.done()
    assert desk.store.granted(1, desk.workers[placed[0]].address, AGENTS[0]) is None
    others.set()
    assert isinstance(await asked, KeysAnswer)
    assert desk.store.granted(1, desk.workers[placed[0]].address, AGENTS[0]) is not None
    desk.close()


async def test_who_is_alone_releases_nothing_whatever_else_holds(tmp_path: Path) -> None:
    desk, placed, at = await asyncio.to_thread(_waiting, tmp_path)

    async def look() -> None:
        await asyncio.sleep(0)
        raise ALONE(expected="2 members", found="1")

    desk.desk._look = look
    with pytest.raises(CloisterError) as caught:
        await _asking(desk, placed[0], AGENTS[0], at)
    assert caught.value.code == "gatekeeper.alone"
    assert desk.store.granted(1, desk.workers[placed[0]].address, AGENTS[0]) is None
    assert "gatekeeper.alone" in (desk.seats[0].folder / "audit.log").read_text()
    desk.close()


async def test_a_refusal_ends_the_question_to_the_others(tmp_path: Path) -> None:
    desk, placed, at = await asyncio.to_thread(_waiting, tmp_path)
    (other,) = set(NAMES) - set(placed)
    ended: list[str] = []

    async def look() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("look")

    desk.desk._look = look
    desk.world.states[at.state_root].workers.pop(desk.workers[other].address)
    asked = asyncio.create_task(_asking(desk, other, AGENTS[0], at))
    for _ in range(50):
        await asyncio.sleep(0)
    asked.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asked
    assert ended == ["look"]
    desk.close()


async def test_two_at_once_do_not_both_take_the_last_place_while_the_others_are_asked(tmp_path: Path) -> None:
    desk, placed, at = await asyncio.to_thread(_waiting, tmp_path)
    for agent in AGENTS:
        desk.world.states[at.state_root].agents[agent] = replace(desk.world.now.agents[agent], seats=3)
    others = asyncio.Event()

    async def look() -> None:
        await others.wait()

    desk.desk._look = look
    asked = [asyncio.create_task(_asking(desk, placed[0], agent, at)) for agent in AGENTS]
    for _ in range(50):
        await asyncio.sleep(0)
    others.set()
    found = await asyncio.gather(*asked, return_exceptions=True)
    codes = sorted("granted" if isinstance(x, KeysAnswer) else str(getattr(x, "code", x)) for x in found)
    assert codes == ["granted"] * CAP + ["policy.cap"]
    desk.close()
