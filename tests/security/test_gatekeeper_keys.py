"""Keys leave a gatekeeper only for a worker that everything proven allows. One test per refusal, over real HTTP."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from coincurve import PrivateKey

from cloister.core.attestation.model import Evidence, measurement_id
from cloister.core.chainview.records import PolicyRecord
from cloister.core.encoding.hexes import to_hex
from cloister.core.encoding.identity import Purpose
from cloister.core.encoding.signatures import Signed, sign_digest
from cloister.core.encoding.statements import Checkpoint
from cloister.core.errors import CloisterError
from cloister.core.policy.placement import place
from cloister.core.threshold.partial import Partial, recover
from cloister.devnet.layout import free_ports
from cloister.wire.ask import ask, new_session
from cloister.wire.committee import Committee
from cloister.wire.messages import KeysAnswer, KeysRequest, Shown
from support.gatekeepers import (
    GATEKEEPER_IMAGE,
    PretendWorker,
    Seat,
    Sitting,
    World,
    an_agent,
    policy,
    sign_checkpoint,
    sit,
    turn_all,
)

AGENT = b"\xaa" * 32


class Stage:
    """Two members of a 2-of-3 committee, a registered worker, an agent placed on it."""

    def __init__(self, folder: Path) -> None:
        self.world = World(policy(period_blocks=10, max_agents_per_worker=2, measurement_delay=20))
        self.seats = [Seat(self.world, folder / f"gk-{i}", i, port) for i, port in enumerate(free_ports(3))]
        self.sitting: Sitting = sit(self.world, self.seats, 2)
        self.worker = PretendWorker(self.world, self.sitting.network)
        self.worker.register()
        an_agent(self.world)

    async def open(self) -> None:
        for seat in self.seats[:2]:
            await seat.open()
        self.world.mine(4)
        await self.settle()

    async def settle(self) -> None:
        for _ in range(2):
            refused = await turn_all(self.seats[:2])
            assert [e.code for e in refused if e.code != "gatekeeper.too_few"] == []

    async def mined(self, count: int = 3) -> None:
        self.world.mine(count)
        await self.settle()

    def checkpoint(self, at: Checkpoint | None = None, seats: list[Seat] | None = None) -> Signed:
        at = self.world.checkpoint() if at is None else at
        return sign_checkpoint(self.seats[:2] if seats is None else seats, at, self.sitting.network)

    def request(self, agent: bytes = AGENT, worker: PretendWorker | None = None, **binding: Any) -> KeysRequest:
        signed = self.checkpoint()
        assert isinstance(signed.statement, Checkpoint)
        return KeysRequest((worker or self.worker).show(signed.statement, **binding), agent, signed)

    async def ask(self, request: KeysRequest | dict[str, Any], member: int = 0) -> KeysAnswer:
        body = request.to_json() if isinstance(request, KeysRequest) else request
        session = new_session()
        try:
            return KeysAnswer.from_json(
                await ask(session, "POST", f"{self.seats[member].url}/v1/keys", body, timeout_s=10)
            )
        finally:
            await session.close()

    def audit(self) -> list[dict[str, Any]]:
        lines = (self.seats[0].folder / "audit.log").read_text().splitlines()
        return [json.loads(line) for line in lines]

    async def close(self) -> None:
        for seat in self.seats:
            await seat.close()


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    made = Stage(tmp_path)
    await made.open()
    try:
        yield made
    finally:
        await made.close()


async def test_a_placed_worker_recovers_every_key_from_any_two_members(stage: Stage) -> None:
    committee = Committee([s.url for s in stage.seats], stage.sitting.signers, stage.sitting.network, timeout_s=10)
    granted = await committee.keys(stage.request())
    await committee.close()
    for name, parts in granted.partials.items():
        partials = [Partial(p.index, p.e1, p.e2, p.e3, p.term) for p in parts]
        recover(partials, 2, stage.sitting.public, bytes(granted.identities[name]), stage.worker.transport)
    assert {p for p, _ in granted.partials} == set(Purpose)
    assert stage.audit()[-1]["outcome"] == "granted"


async def test_members_sign_the_same_lease(stage: Stage) -> None:
    first, second = await stage.ask(stage.request(), 0), await stage.ask(stage.request(), 1)
    assert first.lease == second.lease
    assert first.lease_signature != second.lease_signature


async def test_partials_of_one_request_open_nothing_for_another_transport_key(stage: Stage) -> None:
    answers = [await stage.ask(stage.request(), i) for i in (0, 1)]
    thief = PretendWorker(stage.world, stage.sitting.network, name="thief").transport
    first = answers[0].partials[0]
    partials = [Partial(a.partials[0].index, a.partials[0].e1, a.partials[0].e2, a.partials[0].e3) for a in answers]
    identity = stage.sitting.public
    with pytest.raises(CloisterError):
        recover(partials, 2, identity, bytes([first.purpose]), thief)


def facts(**changes: Any) -> Callable[[Stage], None]:
    def change(stage: Stage) -> None:
        stage.worker.register(**changes)

    return change


def agent(**changes: Any) -> Callable[[Stage], None]:
    def change(stage: Stage) -> None:
        an_agent(stage.world, **changes)

    return change


def unlist(stage: Stage) -> None:
    stage.world.now.listed.clear()


def relist(stage: Stage) -> None:
    stage.world.now.listed[measurement_id("worker", stage.worker.image)] = stage.world.headers[-1].number


def crowd(stage: Stage) -> None:
    names = (f"rival {i}" for i in range(10_000))
    rivals = (PretendWorker(stage.world, stage.sitting.network, name=n) for n in names)
    while stage.worker.address in place(
        stage.world.now.seats.term_seed, AGENT, [*stage.world.now.workers, stage.worker.address], 2
    ):
        next(rivals).register()


def forget(stage: Stage) -> None:
    stage.world.now.workers.clear()


def leave(stage: Stage) -> None:
    stage.world.now.left.add(stage.worker.address)


def no_agent(stage: Stage) -> None:
    stage.world.now.agents.clear()


def other_policy(stage: Stage) -> None:
    stage.world.now.policy = PolicyRecord(b"\x99" * 32, 5, 1)


# What the chain says at the checkpoint -> the refusal.
PROVEN: dict[str, tuple[Callable[[Stage], None], str]] = {
    "the worker's image is not listed": (unlist, "attestation.measurement"),
    "the worker's image was listed too lately": (relist, "attestation.measurement"),
    "the worker is not registered": (forget, "policy.worker_unknown"),
    "the worker was removed for cause": (facts(removed=True), "policy.worker_removed"),
    "the worker left": (leave, "policy.worker_removed"),
    "the worker registered another boot": (facts(boot=b"\xb1" * 32), "policy.boot_mismatch"),
    "the registration ended": (facts(expiry=3), "policy.worker_expired"),
    "the worker registered another image": (facts(measurement=b"\x01" * 32), "policy.measurement_mismatch"),
    "the worker registered other hardware": (facts(vendor_class=b"\x01" * 32), "policy.measurement_mismatch"),
    "placement chose others": (crowd, "policy.not_placed"),
    "the agent does not exist": (no_agent, "policy.agent_unknown"),
    "the agent is paused": (agent(paused=True), "policy.paused"),
    "the agent has no code": (agent(code_hash=bytes(32)), "policy.agent_unknown"),
    "another policy is in force": (other_policy, "gatekeeper.other_policy"),
}


@pytest.mark.parametrize("case", PROVEN)
async def test_no_keys_when(stage: Stage, case: str) -> None:
    change, code = PROVEN[case]
    change(stage)
    await stage.mined()
    with pytest.raises(CloisterError) as caught:
        await stage.ask(stage.request())
    assert caught.value.code == code
    assert stage.audit()[-1]["outcome"] == code


# Seen in a block that is not final: binds at once.
NEWEST: dict[str, tuple[Callable[[Stage], None], str]] = {
    "the agent is paused since": (agent(paused=True), "policy.paused"),
    "the agent's epoch was bumped since": (agent(agent_epoch=2), "policy.epoch_closed"),
    "the worker was removed since": (facts(removed=True), "policy.worker_removed"),
    "the worker left since": (leave, "policy.worker_removed"),
}


@pytest.mark.parametrize("case", NEWEST)
async def test_a_restriction_binds_before_it_is_final(stage: Stage, case: str) -> None:
    await stage.ask(stage.request())
    change, code = NEWEST[case]
    change(stage)
    with pytest.raises(CloisterError) as caught:
        await stage.ask(stage.request())
    assert caught.value.code == code


# Seen in a block that is not final: does not count yet.
PERMISSIVE: dict[str, tuple[Callable[[Stage], None], Callable[[Stage], None], str]] = {
    "the pause ends": (agent(paused=True), agent(paused=False), "policy.paused"),
    "the worker registers": (forget, facts(), "policy.worker_unknown"),
    "the agent is made": (no_agent, agent(), "policy.agent_unknown"),
}


@pytest.mark.parametrize("case", PERMISSIVE)
async def test_a_permission_counts_only_when_final(stage: Stage, case: str) -> None:
    before, after, code = PERMISSIVE[case]
    before(stage)
    await stage.mined()
    after(stage)
    with pytest.raises(CloisterError) as caught:
        await stage.ask(stage.request())
    assert caught.value.code == code
    await stage.mined()
    await stage.ask(stage.request())


# What the requester shows.
def show(**binding: Any) -> Callable[[Stage], KeysRequest]:
    return lambda stage: stage.request(**binding)


def other_machine(**changes: Any) -> Callable[[Stage], KeysRequest]:
    def make(stage: Stage) -> KeysRequest:
        return stage.request(worker=dataclasses.replace(stage.worker, **changes))

    return make


def replaced(part: str) -> Callable[[Stage], KeysRequest]:
    """Honest evidence with another binding beside it."""

    def make(stage: Stage) -> KeysRequest:
        honest = stage.request()
        changes: dict[str, Any] = {part: b"\x09" * (20 if part == "node" else 32)}
        binding = dataclasses.replace(honest.shown.binding, **changes)
        return dataclasses.replace(honest, shown=Shown(honest.shown.evidence, binding))

    return make


def other_transport(stage: Stage) -> KeysRequest:
    honest = stage.request()
    thief = PretendWorker(stage.world, stage.sitting.network, name="thief")
    binding = dataclasses.replace(honest.shown.binding, keys={"transport": thief.transport.public})
    return dataclasses.replace(honest, shown=Shown(honest.shown.evidence, binding))


def flipped(stage: Stage) -> KeysRequest:
    honest = stage.request()
    blob = bytearray(honest.shown.evidence.blob)
    blob[100] ^= 1
    evidence = Evidence(honest.shown.evidence.kind, bytes(blob), honest.shown.evidence.aux)
    return dataclasses.replace(honest, shown=Shown(evidence, honest.shown.binding))


SHOWN: dict[str, tuple[Callable[[Stage], KeysRequest], set[str]]] = {
    "evidence of a gatekeeper": (other_machine(image=GATEKEEPER_IMAGE, role="gatekeeper"), {"attestation.role"}),
    "a gatekeeper's image in a worker's role": (other_machine(image=GATEKEEPER_IMAGE), {"attestation.measurement"}),
    "an image that nobody listed": (other_machine(image=b"\x66" * 48), {"attestation.measurement"}),
    "evidence for another network": (show(network=b"\x0f" * 32), {"attestation.network"}),
    "evidence for the genesis id": (lambda s: s.request(network=s.world.genesis.genesis_id()), {"attestation.network"}),
    "a binding of another node": (replaced("node"), {"attestation.report_data"}),
    "a binding of another boot": (replaced("boot"), {"attestation.report_data"}),
    "a binding with another transport key": (other_transport, {"attestation.report_data"}),
    "a binding without transport key": (show(keys={}), {"attestation.report_data"}),
    "a transport key that is no point": (show(keys={"transport": b"\x04" * 48}), {"threshold.point"}),
    "the identity as transport key": (show(keys={"transport": b"\xc0" + bytes(47)}), {"threshold.point"}),
    "a binding to a block that nobody saw": (show(checkpoint=b"\x0c" * 32), {"attestation.checkpoint"}),
    "another boot than registered": (show(boot=b"\xb1" * 32), {"policy.boot_mismatch"}),
    "other hardware than registered": (other_machine(kind="tdx"), {"policy.measurement_mismatch"}),
    "an agent that does not exist": (lambda s: s.request(agent=b"\xab" * 32), {"policy.agent_unknown"}),
    "a byte of the evidence flipped": (flipped, set()),
}


@pytest.mark.parametrize("case", SHOWN)
async def test_no_keys_for(stage: Stage, case: str) -> None:
    make, codes = SHOWN[case]
    with pytest.raises(CloisterError) as caught:
        await stage.ask(make(stage))
    assert caught.value.code.startswith("attestation.") if not codes else caught.value.code in codes


# The checkpoint that the requester shows.
def strangers(stage: Stage) -> Signed:
    at = stage.world.checkpoint()
    digest = at.digest(stage.sitting.network)
    return Signed(at, tuple(sign_digest(PrivateKey(bytes([i]) * 32), digest) for i in (91, 92)))


def of_one_twice(stage: Stage) -> Signed:
    one = stage.checkpoint(seats=stage.seats[:1]).signatures[0]
    return Signed(stage.world.checkpoint(), (one, one))


def elsewhere(stage: Stage) -> Signed:
    return sign_checkpoint(stage.seats[:2], stage.world.checkpoint(), b"\x0f" * 32)


CHECKPOINTS: dict[str, tuple[Callable[[Stage], Signed], set[str]]] = {
    "signed by strangers": (strangers, {"encoding.signature"}),
    "signed by one of two": (lambda s: s.checkpoint(seats=s.seats[:1]), {"encoding.too_few_signers"}),
    "signed by one member twice": (of_one_twice, {"encoding.too_few_signers"}),
    "signed under another network": (elsewhere, {"encoding.signature"}),
    "of another term": (lambda s: s.checkpoint(s.world.checkpoint(term=2)), {"encoding.wrong_term"}),
    "of another chain": (
        lambda s: s.checkpoint(dataclasses.replace(s.world.checkpoint(), chain_id=1)),
        {"gatekeeper.foreign_checkpoint"},
    ),
    "of another block at a height that this member signed": (
        lambda s: s.checkpoint(dataclasses.replace(s.world.checkpoint(), block_hash=b"\x66" * 32)),
        {"gatekeeper.foreign_checkpoint"},
    ),
    "with another state root at a height that this member signed": (
        lambda s: s.checkpoint(dataclasses.replace(s.world.checkpoint(), state_root=b"\x66" * 32)),
        {"gatekeeper.foreign_checkpoint"},
    ),
}


@pytest.mark.parametrize("case", CHECKPOINTS)
async def test_no_keys_at_a_checkpoint(stage: Stage, case: str) -> None:
    make, codes = CHECKPOINTS[case]
    signed = make(stage)
    request = dataclasses.replace(stage.request(), checkpoint=signed)
    with pytest.raises(CloisterError) as caught:
        await stage.ask(request)
    assert caught.value.code in codes


async def test_no_keys_at_a_stale_checkpoint(stage: Stage) -> None:
    old = stage.request()
    await stage.mined(17)
    with pytest.raises(CloisterError) as caught:
        await stage.ask(old)
    assert caught.value.code == "gatekeeper.stale_checkpoint"


async def test_an_old_epoch_is_not_released_again_at_an_older_checkpoint(stage: Stage) -> None:
    old = stage.request()
    await stage.ask(old)
    an_agent(stage.world, agent_epoch=2)
    await stage.mined()
    await stage.ask(stage.request())
    an_agent(stage.world, agent_epoch=1)  # the newest block no longer says so; what was released still does
    with pytest.raises(CloisterError) as caught:
        await stage.ask(old)
    assert caught.value.code == "policy.epoch_closed"


async def test_the_cap_holds_across_a_restart_and_for_two_at_once(stage: Stage) -> None:
    agents = [bytes([n]) * 32 for n in (1, 2, 3)]
    for name in agents:
        an_agent(stage.world, name)
    await stage.mined()
    outcomes = await asyncio.gather(*(stage.ask(stage.request(n)) for n in agents), return_exceptions=True)
    refused = [o for o in outcomes if isinstance(o, CloisterError)]
    assert [e.code for e in refused] == ["policy.cap"]
    await stage.seats[0].close()
    await stage.seats[0].open()
    await stage.settle()
    held = [n for n, o in zip(agents, outcomes, strict=True) if isinstance(o, KeysAnswer)]
    missing = next(n for n in agents if n not in held)
    assert (await stage.ask(stage.request(held[0]))).lease.agent == held[0]
    with pytest.raises(CloisterError) as caught:
        await stage.ask(stage.request(missing))
    assert caught.value.code == "policy.cap"


async def test_a_new_image_counts_after_its_delay(stage: Stage) -> None:
    relist(stage)
    await stage.mined(15)
    with pytest.raises(CloisterError):
        await stage.ask(stage.request())
    await stage.mined(10)
    await stage.ask(stage.request())


async def test_only_this_and_the_next_period_are_released(stage: Stage) -> None:
    answer = await stage.ask(stage.request())
    periods = {p.period for p in answer.partials if p.purpose is Purpose.CALL}
    number = stage.world.checkpoint().number
    assert periods == {number // 10, number // 10 + 1}
    assert answer.lease.expiry == (number // 10 + 2) * 10


async def test_a_halted_member_releases_nothing(stage: Stage) -> None:
    fork = World(stage.world.rules)
    fork.headers, fork.states = list(stage.world.headers), stage.world.states
    del fork.headers[-4:]
    fork.mine(10, salt=b"fork")
    stage.seats[0].chain.forked = fork
    refused = await turn_all(stage.seats[:1])
    assert [e.code for e in refused] == ["gatekeeper.halted"]
    with pytest.raises(CloisterError) as caught:
        await stage.ask(stage.request())
    assert caught.value.code == "gatekeeper.halted"


async def test_an_asker_that_floods_is_slowed_and_others_are_not(stage: Stage) -> None:
    member = stage.seats[0].member
    assert member is not None
    desk = member.require_desks().keys
    body = json.dumps(stage.request().to_json()).encode()
    at = desk._limit._clock()
    desk._limit._clock = lambda: at  # a slow machine refills nobody's bucket
    with pytest.raises(CloisterError, match=r"gatekeeper\.rate"):
        for _ in range(10_000):
            desk._limit.take(("10.0.0.1", stage.worker.address))
    with pytest.raises(CloisterError) as caught:
        await desk.answer(body, "10.0.0.1")
    assert caught.value.code == "gatekeeper.rate"
    await desk.answer(body, "10.0.0.2")


CANARY = (b"\xca" * 32, b"\xcb" * 32)


async def test_keys_of_a_canary_come_under_a_lease_that_names_it(stage: Stage) -> None:
    plain = await stage.ask(stage.request())
    an_agent(stage.world, canary=CANARY)
    await stage.mined()
    beside = await stage.ask(dataclasses.replace(stage.request(), code=CANARY[0]))
    assert (beside.lease.code_hash, beside.lease.manifest_hash) == CANARY
    assert stage.audit()[-1]["code"] == to_hex(CANARY[0])
    kept = stage.seats[0].gatekeeper.store.granted(beside.lease.term, beside.lease.worker, AGENT)
    assert kept is not None
    assert kept.code_hash == plain.lease.code_hash, "heads and accounts are judged by the version in force"


VERSIONS = {
    "code that is on no chain": b"\xee" * 32,
    "the canary's manifest": CANARY[1],
    "no code at all": bytes(32),
}


@pytest.mark.parametrize("case", VERSIONS)
async def test_a_worker_gets_no_keys_for_code_of_its_own_choice(stage: Stage, case: str) -> None:
    an_agent(stage.world, canary=CANARY)
    await stage.mined()
    with pytest.raises(CloisterError) as caught:
        await stage.ask(dataclasses.replace(stage.request(), code=VERSIONS[case]))
    assert caught.value.code == "policy.no_such_version"
    assert stage.audit()[-1]["outcome"] == "policy.no_such_version"


async def test_a_canary_that_was_dropped_gets_no_keys(stage: Stage) -> None:
    an_agent(stage.world, canary=CANARY)
    await stage.mined()
    await stage.ask(dataclasses.replace(stage.request(), code=CANARY[0]))
    an_agent(stage.world)
    await stage.mined()
    with pytest.raises(CloisterError) as caught:
        await stage.ask(dataclasses.replace(stage.request(), code=CANARY[0]))
    assert caught.value.code == "policy.no_such_version"


async def test_a_requester_cannot_name_an_epoch_a_period_or_an_identity(stage: Stage) -> None:
    honest = stage.request().to_json()
    for field in ("agent_epoch", "period", "identity", "epoch", "manifest_hash", "expiry"):
        with pytest.raises(CloisterError) as caught:
            await stage.ask({**honest, field: 1})
        assert caught.value.code == "encoding.field"


async def test_nothing_secret_is_in_answers_folder_or_log(stage: Stage, capfd: pytest.CaptureFixture[str]) -> None:
    await stage.ask(stage.request())
    share = stage.sitting.shares[0].secret
    signing = stage.seats[0].keys.chain_key().secret
    folder = b"".join(p.read_bytes() for p in stage.seats[0].folder.iterdir())
    said = "".join(capfd.readouterr()).encode()
    for secret in (share, signing):
        for text in (folder, said, json.dumps((await stage.ask(stage.request())).to_json()).encode()):
            assert secret not in text
            assert secret.hex().encode() not in text
            assert to_hex(secret).encode() not in text
