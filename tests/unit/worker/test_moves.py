"""The agent table over bumps: refused while it moves, then served with all that it knew; secrets go along or stay."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from cloister.core.encoding.hexes import to_hex
from cloister.core.encoding.identity import Epochs, Purpose
from cloister.core.encoding.signatures import Signed, address_of
from cloister.core.errors import CloisterError
from cloister.core.state.endorse import Answer
from cloister.core.state.table import HeadTable
from cloister.core.threshold.groups import hash_identity, to_bytes
from cloister.core.threshold.ibe import DerivedKey
from cloister.sandbox.ports import AgentRequest
from cloister.wire.heads import HeadMove
from cloister.worker.leases import AgentKeys, OldKey
from cloister.worker.reseal import Resealer
from support.fake_sandbox import Calls, Reply
from support.fake_world import CLUSTER, MEMBERS, MPK, ROOT, manifest
from support.worker_kit import Rig, get, keys_of, put, refused, set_cluster_epoch, until

Make = Callable[..., Awaitable[Rig]]


class Scene:
    """A worker, an agent that keeps notes and shows its key, and members that release what release rules say."""

    def __init__(self, rig: Rig) -> None:
        self.rig, self.table = rig, HeadTable(merged=True)
        self.cluster_epoch = 1
        rig.heads, rig.endorsing = self.heads, self.endorse  # type: ignore[method-assign]
        rig.table._devices = replace(rig.table._devices, heads=self.heads, acquire=self.acquire)
        self.agent = b""

    async def heads(self, agent: bytes) -> tuple[Sequence[Answer], int]:
        """Three members that agree."""
        head = self.table.get(agent)
        members = [address_of(m) for m in MEMBERS[:3]]
        if head is None:
            return [Answer(m, 0, bytes(32)) for m in members], 3
        return [Answer(m, head.height, head.head, head.epochs) for m in members], 3

    async def endorse(self, keys: AgentKeys, moves: Sequence[HeadMove]) -> Signed:
        """Members sign what follows on what they know."""
        for move in moves:
            held = self.table.get(move.agent)
            wiped = held is not None and held.epochs.agent < self.rig.world.agents[move.agent].wiped_below
            self.table.propose(move.agent, move.as_head(), wiped=wiped)
        return self.rig.world.sign(moves[-1].statement(1))

    async def acquire(self, agent: bytes, code: bytes | None = None) -> AgentKeys:
        """What members grant, with keys of earlier epochs as ``core.policy.release`` gives them."""
        from cloister.core.policy.release import (
            AgentFacts,
            CommitteeFacts,
            Facts,
            Ledger,
            Limits,
            Requester,
            WorkerFacts,
            may_release,
        )

        keys = keys_of(self.rig.world, self.rig.node, agent, cluster_epoch=self.cluster_epoch)
        record, lease = self.rig.world.agents[agent], keys.terms
        facts = Facts(
            self.rig.world.checkpoint(),
            Requester(lease.worker, lease.boot, CLUSTER, CLUSTER),
            WorkerFacts(lease.boot, CLUSTER, CLUSTER, 1 << 40, False),
            AgentFacts(
                agent,
                record.code_hash,
                record.manifest_hash,
                lease.cluster,
                lease.agent_epoch,
                lease.cluster_epoch,
                1,
                False,
                record.secrets_at,
                record.wiped_below,
            ),
            CommitteeFacts(self.rig.world.network.id, 1, bytes(32), 1),
            frozenset({lease.worker}),
            Limits(100, 9),
            ledger=Ledger(sealed=self.table.sealed(agent)),
        )
        old = {
            i.purpose: OldKey(i.version, DerivedKey(to_bytes(hash_identity(bytes(i)) * ROOT)), MPK)
            for i in may_release(facts).old
        }
        return replace(keys, old=old)

    async def endorsed(self) -> None:
        """What the endorsement loop does."""
        placed = self.rig.placed(self.agent)
        record = (await placed.state.snapshot()).record
        epochs = placed.keys.version.epochs
        links = record.links()
        await self.endorse(placed.keys, [HeadMove(self.agent, epochs, k.height, k.parent, k.head) for k in links])
        placed.state.endorsed(record.height)

    async def ask(self, body: bytes = b"") -> str:
        """Keep a note, or show all and the key."""
        got = await self.rig.call(self.agent, body)
        assert got.code == "", got.error
        return got.body.decode()

    async def settle(self) -> None:
        """Turn until the agent is served again."""
        for _ in range(20):
            await self.rig.follow(1)
            if self.agent in self.rig.table.placed():
                return
            await until(lambda: not self.rig.table._moves.progress())
        raise AssertionError(self.rig.table.problems)


@pytest.fixture
async def scene(make: Make) -> Scene:
    async def agent_fn(request: AgentRequest, ctx: Calls) -> Reply:
        if request.body:
            await put(ctx, "note", request.body)
        note = await get(ctx, "note") or b""
        names = await ctx("state.list", prefix="")
        key = rig.sandbox.processes[-1].spec.secrets.get("API_KEY", "none")
        return Reply(body=[note + b" " + key.encode() + b" " + str(len(names)).encode()])

    rig = await make(agent_fn)
    made = Scene(rig)
    made.agent = await rig.deploy()
    for data in (bytes(manifest(secrets=["API_KEY"])),):
        digest = await rig.fabric.blobs.put(data)
        rig.world.set_agent(1, manifest_hash=digest)
    await rig.set_secrets(made.agent, {"API_KEY": "sk-1"})
    await rig.follow(1)
    assert await made.ask(b"kept") == "kept sk-1 1"
    await made.endorsed()
    return made


def bump(scene: Scene, **changes: Any) -> None:
    epoch = scene.rig.world.agents[scene.agent].epoch
    scene.rig.world.set_agent(1, epoch=epoch + 1, **changes)


async def test_notes_and_secrets_survive_bumps_and_nobody_types_anything(scene: Scene) -> None:
    for _ in range(3):
        bump(scene)
        await scene.settle()
        assert await scene.ask() == "kept sk-1 1"
        assert scene.table.sealed(scene.agent) == scene.rig.placed(scene.agent).keys.version.epochs
    assert await scene.ask(b"new") == "new sk-1 1"


async def test_a_cluster_bump_too(scene: Scene) -> None:
    set_cluster_epoch(scene.rig.world, 2)
    scene.cluster_epoch = 2
    await scene.settle()
    assert await scene.ask() == "kept sk-1 1"


async def test_requests_meanwhile_are_told_to_come_back(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[CloisterError] = []
    plain = Resealer._switch

    async def switch(self: Resealer, *args: Any) -> None:
        seen.append(await refused(scene.rig.call_with(scene.agent), "epoch.resealing"))
        await plain(self, *args)

    monkeypatch.setattr(Resealer, "_switch", switch)
    bump(scene)
    await scene.settle()
    assert "of 1 values" in seen[0].found
    assert seen[0].status == 503


async def test_after_the_move_no_old_key_is_held_or_given(scene: Scene) -> None:
    bump(scene)
    await scene.settle()
    assert scene.rig.placed(scene.agent).keys.old == {}
    assert (await scene.acquire(scene.agent)).old == {}


async def test_a_transfer_moves_state_and_withholds_secrets(scene: Scene) -> None:
    bump(scene, secrets_hash=bytes(32), secrets_version=2, secrets_setter=bytes(20), owner=b"\x07" * 20)
    assert Purpose.SECRETS not in (await scene.acquire(scene.agent)).old
    await scene.settle()
    assert await scene.ask() == "kept none 1"


async def test_carried_secrets_end_with_a_transfer_too(scene: Scene) -> None:
    bump(scene)
    await scene.settle()
    assert await scene.ask() == "kept sk-1 1"
    bump(scene, secrets_hash=bytes(32), secrets_version=2, secrets_setter=bytes(20))
    await scene.settle()
    assert await scene.ask() == "kept none 1"


async def test_a_copy_counts_for_the_secrets_on_chain_alone(scene: Scene) -> None:
    bump(scene)
    await scene.settle()
    scene.rig.world.set_agent(1, secrets_hash=b"\x09" * 32)
    await scene.rig.follow(1)
    assert (await scene.rig.call(scene.agent)).code == "worker.wrong_secrets"


async def test_wiped_state_is_gone_and_the_agent_goes_on(scene: Scene) -> None:
    bump(scene, wiped_below=2)
    assert Purpose.STATE not in (await scene.acquire(scene.agent)).old
    await scene.settle()
    assert (await scene.ask(b"first")).startswith("first ")


async def test_a_store_that_was_rolled_back_is_refused_and_named(scene: Scene) -> None:
    from cloister.fabric.ports import Expect, Put, Tx

    name = scene.agent.hex()
    old = await scene.rig.fabric.state.get(name, "h")
    assert old is not None
    await scene.ask(b"later")
    await scene.endorsed()
    await scene.rig.fabric.state.commit(name, Tx("host", {"h": Put(old.value, Expect.ANY)}))
    bump(scene)
    await scene.rig.follow(1)
    await until(lambda: not scene.rig.table._moves.progress())
    await scene.rig.follow(1)
    assert scene.rig.table.problems[scene.agent].code == "state.rolled_back"
    assert scene.agent not in scene.rig.table.placed()


async def test_an_agent_placed_elsewhere_meanwhile_is_moved_no_further(scene: Scene) -> None:
    bump(scene)
    await scene.rig.follow(1)
    scene.rig.world.set_agent(1, paused=True)
    await scene.rig.follow(1)
    assert not scene.rig.table._moves.progress()
    assert scene.agent not in scene.rig.table.placed()
    scene.rig.world.set_agent(1, paused=False)
    await scene.settle()
    assert await scene.ask() == "kept sk-1 1"


def test_epochs_travel_as_json() -> None:
    epochs = Epochs(1, 2, 3, CLUSTER)
    assert Epochs.from_json(epochs.to_json()) == epochs
    assert epochs.to_json()["cluster"] == to_hex(CLUSTER)
    with pytest.raises(CloisterError):
        Epochs.from_json({**epochs.to_json(), "agent_epoch": -1})
