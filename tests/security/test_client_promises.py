"""What the client promises, by number of the security review: 3, 9, 12, 16, 20, 23, 25."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cloister.client import Client, Demand, Home, Wallet
from cloister.client.secrets import secrets_aad
from cloister.core.chainview.records import UpgradeMode
from cloister.core.encoding import jcs
from cloister.core.encoding.identity import AgentVersion, Purpose
from cloister.core.encoding.network import Network
from cloister.core.envelope.certificate import KeyCertificate
from cloister.core.envelope.client import ClientSession, Psk
from cloister.core.envelope.model import RequestHead
from cloister.core.errors import CloisterError
from cloister.core.threshold import ibe
from cloister.core.threshold.groups import hash_identity, to_bytes
from support.fake_gateway import FakeGateway, FakeWorker, serving
from support.fake_world import CLUSTER, MPK, ROOT, STRANGERS, World, fresh, test_key


class Scene:
    """An agent on one worker, a second worker that never got a lease, a gateway that does what an attacker wants."""

    def __init__(self, home: Path) -> None:
        self.world = World()
        self.agent = self.world.set_agent()
        self.leased = FakeWorker(self.world, "leased", "intel")
        self.greedy = FakeWorker(self.world, "greedy", "amd")
        self.gateway = FakeGateway(self.world, [self.leased, self.greedy])
        self.world.mine()
        self.gateway.offer(self.agent, self.leased)
        self.home = Home(home)

    def client(self, **options: Any) -> Client:
        fingerprint = self.world.network.fingerprint()
        return Client(
            self.gateway.url, fingerprint=fingerprint, home=self.home, clock=lambda: self.world.now, **options
        )


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    made = Scene(tmp_path)
    with serving(made.gateway):
        yield made


async def code_of(work: Any) -> str:
    with pytest.raises(CloisterError) as caught:
        await work
    return caught.value.code


async def get(scene: Scene, **options: Any) -> Any:
    async with scene.client(**options) as client:
        return await (await client.agent(scene.agent)).get("/")


async def test_3_a_registered_worker_without_a_lease_is_never_sealed_to(scene: Scene) -> None:
    """It signs its own certificate, and strangers sign the lease that it shows."""
    scene.gateway.offer(scene.agent, scene.greedy, members=STRANGERS[:3])
    assert await code_of(get(scene)) == "encoding.signature"
    assert scene.gateway.calls == []
    assert scene.greedy.ran == []


async def test_3_a_leases_key_is_needed_even_by_a_worker_that_got_the_request(scene: Scene) -> None:
    """The committee was fooled into a lease, but the agent's call key was never released to this worker."""

    def no_key(certificate: KeyCertificate, ciphertext: bytes) -> bytes:
        identity = bytes(replace(certificate, agent=fresh()).call_identity)
        wrong = ibe.DerivedKey(to_bytes(hash_identity(identity) * ROOT))
        return ibe.decrypt(wrong, MPK, bytes(certificate.call_identity), ciphertext, certificate.psk_aad)

    scene.gateway.offer(scene.agent, scene.greedy)
    scene.greedy._open_psk = no_key  # type: ignore[method-assign]
    assert await code_of(get(scene)) == "threshold.ibe_not_opened"
    assert scene.greedy.ran == []


async def test_9_staleness_is_judged_by_the_clients_own_clock(scene: Scene) -> None:
    async with scene.client() as client:
        agent = await client.agent(scene.agent)
        await agent.get("/")
        scene.world.now += scene.world.policy.network.max_checkpoint_age_s + 1
        assert await code_of(agent.get("/")) == "chainview.stale"
        scene.world.mine()
        scene.leased.height = 0
        assert await code_of(agent.get("/")) == "client.stale_answer"


async def test_12_an_owner_who_can_swap_the_code_at_once_is_refused_by_default(scene: Scene) -> None:
    scene.world.set_agent(upgrade_mode=UpgradeMode.INSTANT, upgrade_delay=0)
    scene.world.mine()
    scene.gateway.offer(scene.agent, scene.leased)
    assert await code_of(get(scene)) == "client.demand_upgrade"


def test_16_secrets_are_bound_to_network_agent_epoch_version_and_setter() -> None:
    world = World()
    agent, setter = world.set_agent(), bytes([7]) * 20
    at = AgentVersion(world.network.id, 1, CLUSTER, 1, agent, 1)
    identity = bytes(at.key(Purpose.SECRETS))
    aad = secrets_aad(at.network, agent, 3, setter)
    sealed = ibe.encrypt(MPK, identity, jcs.encode({"KEY": "value"}), aad, os.urandom)
    key = ibe.DerivedKey(to_bytes(hash_identity(identity) * ROOT))
    assert jcs.decode(ibe.decrypt(key, MPK, identity, sealed, aad)) == {"KEY": "value"}
    planted = {
        "another network": secrets_aad(fresh(), agent, 3, setter),
        "another agent": secrets_aad(at.network, fresh(), 3, setter),
        "an older version": secrets_aad(at.network, agent, 2, setter),
        "a host as setter": secrets_aad(at.network, agent, 3, bytes(20)),
    }
    for what, other in planted.items():
        with pytest.raises(CloisterError):
            ibe.decrypt(key, MPK, identity, sealed, other)
        assert what
    later = bytes(at.bumped().key(Purpose.SECRETS))
    with pytest.raises(CloisterError):
        ibe.decrypt(ibe.DerivedKey(to_bytes(hash_identity(later) * ROOT)), MPK, later, sealed, aad)


async def test_20_a_worker_cannot_use_its_callers_signature_elsewhere(scene: Scene) -> None:
    """The worker that served a wallet replays the wallet's session signature in a session of its own."""
    alice = Wallet(test_key("alice"))
    await get(scene, wallet=alice)
    stolen = scene.leased.ran[0].head.caller
    assert stolen is not None
    scene.gateway.offer(scene.agent, scene.leased, scene.greedy)
    for seat in scene.gateway.seats[scene.agent]:
        certificate = KeyCertificate.from_json(seat["certificate"])
        session = ClientSession(certificate, Psk.encapsulate(certificate, MPK, os.urandom), os.urandom)
        deadline = int(scene.world.now * 1000) + 10_000
        head = RequestHead(request_id="0x" + "11" * 16, method="GET", path="/", deadline_ms=deadline, caller=stolen)
        sealed = session.seal(head, b"")
        events = sealed.opener.feed(scene.gateway.deliver(scene.agent, certificate.boot, sealed.data))
        assert [e.error.code for e in events] == ["envelope.caller"]  # type: ignore[union-attr]


def test_23_everything_that_a_network_is_stands_under_its_fingerprint() -> None:
    """A changed field is another fingerprint, and a client that pins the old one refuses it."""
    raw = World().network.encode()
    pinned = Network.parse(raw).fingerprint()
    value = json.loads(raw)
    for name in value:
        changed = dict(value)
        changed[name] = value[name] + 1 if isinstance(value[name], int) else "other"
        with pytest.raises(CloisterError) as caught:
            Network.parse(jcs.encode(changed), fingerprint=pinned)
        assert caught.value.code == "encoding.fingerprint"


async def test_23_nothing_is_believed_before_the_network_is_pinned(scene: Scene) -> None:
    scene.gateway.network = World(now=5).network.encode()
    assert await code_of(get(scene)) == "encoding.fingerprint"
    assert scene.gateway.fetched == []


async def test_25_the_gateway_does_not_choose_the_worker_of_a_demanding_caller(scene: Scene) -> None:
    scene.gateway.offer(scene.agent, scene.greedy)
    async with scene.client() as client:
        for demand in (Demand(vendor="intel"), Demand(worker=scene.leased.address)):
            agent = await client.agent(scene.agent, demand=demand)
            assert await code_of(agent.get("/")) == "client.demand_worker"
    assert scene.gateway.calls == []


async def test_a_hint_of_the_gateway_never_runs_a_request_twice(scene: Scene) -> None:
    """The gateway delivers a POST, hides the answer, and says that the worker did not know the key."""

    async def hide(agent: bytes, boot: bytes, record: bytes) -> bytes:
        scene.gateway.deliver(agent, boot, record)
        raise CloisterError(
            code="envelope.psk_unknown", check="c", expected="e", found="f", remedy="send it again", status=421
        )

    scene.gateway.on_call = hide
    async with scene.client() as client:
        agent = await client.agent(scene.agent)
        assert await code_of(agent.post("/pay", body=b"10")) == "client.outcome_unknown"
    assert len(scene.leased.ran) == 1
