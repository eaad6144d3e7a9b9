"""Founding and keys, with a real chain, real processes and pretend hardware.

Script: five gatekeepers on three vendors' machines register. The founder names them. One is killed in the middle and
started again. They generate a master key that nobody holds and put it on chain. A worker attests, is admitted,
registers; its agent's keys come from three of five, whichever three. Pausing stops keys before the pause is final. A
restarted member has its share, signs on, and endorses only after it heard the others.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator

import pytest
from coincurve import PrivateKey

from cloister.core.encoding.identity import Purpose
from cloister.core.encoding.signatures import Signed
from cloister.core.errors import CloisterError
from cloister.core.state.heads import genesis_head
from cloister.wire.committee import Committee
from cloister.wire.heads import HeadMove, HeadsRequest
from support.anvil import TestChain
from support.gatekeeper_stage import Stage, Worker, deploy_agent, found, info, staged, until

pytestmark = [pytest.mark.network, pytest.mark.long]


@pytest.fixture
async def stage(chain: TestChain) -> AsyncIterator[Stage]:
    async with staged(chain) as made:
        yield made


async def test_five_gatekeepers_make_a_key_that_no_one_holds_and_any_three_release(stage: Stage) -> None:
    worker_key, owner = stage.chain.fund(PrivateKey()), stage.chain.fund(stage.key("owner"))
    await stage.hardware()
    await stage.contracts()
    network = await found(stage)
    assert network.id == await stage.read("Gatekeepers", "networkId")

    async def all_ready() -> bool:
        return all([(await info(u)).ready for u in stage.urls()])

    await until(all_ready)
    assert {(await info(u)).network for u in stage.urls()} == {network.id}
    assert sorted([(await info(u)).index for u in stage.urls()]) == [1, 2, 3, 4, 5]

    committee = Committee(stage.urls(), network.founding, network.id)
    worker = Worker(stage, network, worker_key)
    _, agent_name = await asyncio.gather(worker.register(committee), deploy_agent(stage, owner))

    async def final() -> bool:
        return worker.address in await stage.read("Workers", "list", 0, 16, block="finalized")

    await until(final)
    granted, keys = await worker.released(committee, agent_name)
    assert granted.terms.worker == worker.address
    assert {p for p, _ in keys} == set(Purpose)

    # Whichever three: the other two are dead.
    for name in ("gk-1", "gk-4"):
        await stage.children[name].kill()
    _, again = await worker.keys(committee, agent_name)
    assert all(again[name] == key for name, key in keys.items() if name in again)
    assert again[Purpose.STATE, 0] == keys[Purpose.STATE, 0]

    # Back from the dead: the share is still theirs, and they endorse once they heard the others.
    for name in ("gk-1", "gk-4"):
        await stage.start(name)
    await until(all_ready)
    identity = bytes(granted.identities[Purpose.STATE, 0])
    move = HeadMove(agent_name, granted.terms.epochs, 1, genesis_head(identity), b"\x01" * 32)
    request = HeadsRequest((move,), worker.address, worker.boot, leases=(granted.lease,)).signed(worker.key)

    async def endorsed() -> bool:
        return isinstance((await committee.endorse_heads(request))[0], Signed)

    await until(endorsed)
    heard = await committee.heads(agent_name, secrets.token_bytes(32))
    assert max(a.height for a in heard) == 1

    # A pause binds from any block seen.
    await stage.send(owner, "Agents", "pause", 1)

    async def paused() -> bool:
        with pytest.raises(CloisterError) as caught:
            await worker.keys(committee, agent_name)
        return caught.value.code == "policy.paused"  # blocks are short: on a busy machine a view is stale now and then

    await until(paused)
    await committee.close()
