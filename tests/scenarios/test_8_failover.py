"""Step 8: the worker that served is killed, then a whole vendor's gatekeepers; then three gatekeepers.

1. SIGKILL the worker: the client seals again to the other placed worker; the notes are still there.
2. SIGKILL both TDX gatekeepers: the worker comes back and gets new leases from the other three.
3. SIGKILL a third: no new lease, by name; leases that run serve on. Started again, all is well.
"""

from __future__ import annotations

import pytest

from cloister.client.deploy import await_seats
from cloister.client.receipts import Ledger
from cloister.core.encoding.hexes import from_hex, to_hex
from cloister.core.errors import CloisterError
from cloister.core.receipts.batch import BatchPath
from cloister.core.receipts.kept import open_as_caller
from cloister.core.receipts.verify import verify_signed
from cloister.devnet.demo.attacks import refusal
from cloister.devnet.demo.steps import Demo
from cloister.devnet.network import Devnet

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_a_receipt_outlives_the_worker_that_was_killed_right_after_its_answer(
    demo: Demo, repaired: Devnet
) -> None:
    agent = await demo.agent()
    receipt = (await agent.get("/notes")).receipt
    kept = Ledger(demo.client.home).load(receipt.id)
    killed = next(
        name
        for name, child in repaired.children.items()
        if name.startswith("worker-") and child.ready["address"] == to_hex(receipt.worker)
    )
    await repaired.children[killed].kill()
    said = await demo.client.gateway.receipt(receipt.id)  # another worker of the same store answers
    assert (said["worker"], said["seq"]) == (to_hex(receipt.worker), receipt.seq)
    assert open_as_caller(from_hex(said["kept"], name="kept"), receipt.id, kept.salt) == receipt
    batch = None if said["batch"] is None else BatchPath.from_json(said["batch"])
    verify_signed(receipt, from_hex(said["signature"], 65, name="signature"), batch)


async def test_a_killed_worker_and_a_killed_vendor_stop_nobody(demo: Demo, repaired: Devnet) -> None:
    await await_seats(demo.client, (await demo.agent()).id, seats=2)  # whoever was started again is back
    killed, other = await demo.kill_worker()
    assert killed != other
    await demo.kill_vendor(killed)
    reply = await (await demo.agent()).get("/notes")
    assert reply.status == 200


async def test_three_gatekeepers_down_is_a_named_error_and_running_leases_serve(demo: Demo, repaired: Devnet) -> None:
    agent = await demo.agent()
    await await_seats(demo.client, agent.id, seats=2)
    before = await agent.get("/notes")
    for name in ("gk-1", "gk-2", "gk-3"):
        await repaired.children[name].kill()
    error: CloisterError = await refusal(demo.committee.checkpoint())
    assert error.code == "gatekeeper.too_few"
    assert "3" in error.expected
    after = await agent.get("/notes")
    assert after.json() == before.json()
