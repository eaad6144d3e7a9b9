"""Step 8: the worker that served is killed, then a whole vendor's gatekeepers; then three gatekeepers.

1. SIGKILL the worker: the client seals again to the other placed worker; the notes are still there.
2. SIGKILL both TDX gatekeepers: the worker comes back and gets new leases from the other three.
3. SIGKILL a third: no new lease, by name; leases that run serve on. Started again, all is well.
"""

from __future__ import annotations

import pytest

from cloister.core.errors import CloisterError
from cloister.devnet.demo.attacks import refusal
from cloister.devnet.demo.steps import Demo
from cloister.devnet.network import Devnet

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_a_killed_worker_and_a_killed_vendor_stop_nobody(demo: Demo, repaired: Devnet) -> None:
    killed, other = await demo.kill_worker()
    assert killed != other
    await demo.kill_vendor(killed)
    reply = await (await demo.agent()).get("/notes")
    assert reply.status == 200


async def test_three_gatekeepers_down_is_a_named_error_and_running_leases_serve(demo: Demo, repaired: Devnet) -> None:
    agent = await demo.agent()
    before = await agent.get("/notes")
    for name in ("gk-1", "gk-2", "gk-3"):
        await repaired.children[name].kill()
    error: CloisterError = await refusal(demo.committee.checkpoint())
    assert error.code == "gatekeeper.too_few"
    assert "3" in error.expected
    after = await agent.get("/notes")
    assert after.json() == before.json()
