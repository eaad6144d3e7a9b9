"""Everything dies at once, and comes back from its folders.

1. Every process but the chain is SIGKILLed; the chain ends and restarts from its state file.
2. The same network id and MPK; no key generation happens again.
3. The notes are still there, a new note can be written, and the old receipts still verify.
4. A node's folder that was copied to another machine is refused by name.
"""

from __future__ import annotations

import shutil

import pytest

from cloister.client.client import Client
from cloister.client.deploy import await_seats
from cloister.client.verify import verify_kept_receipt
from cloister.core.encoding.network import Network
from cloister.core.errors import ConfigError
from cloister.devnet.demo.steps import Demo
from cloister.devnet.network import Devnet
from cloister.devnet.tee.client import TeeControl

pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest.mark.timeout(400)
async def test_a_network_survives_the_death_of_all_its_processes(demo: Demo, devnet: Devnet, client: Client) -> None:
    before = await (await demo.agent()).get("/notes")
    network = Network.parse(devnet.layout.network.read_bytes())
    await devnet.crash()
    await devnet.start()
    assert devnet.network is not None
    assert (devnet.network.id, devnet.network.mpk) == (network.id, network.mpk)
    await await_seats(client, demo.agent_id, seats=2, within_s=200)  # all of it starts at once, on few cores
    after = await (await demo.agent()).get("/notes")
    assert after.json() == before.json()
    stored = await (await demo.agent()).post("/notes", json={"title": "again", "text": "written after the restart"})
    assert stored.status in (200, 201)
    report = await verify_kept_receipt(client, client.ledger.load(stored.receipt.id))
    assert report.ok, [s for s in report.steps if not s.ok]


@pytest.mark.parametrize(("node", "kind"), [("gk-1", "tdx"), ("worker-1", "tdx")])
async def test_a_copied_folder_is_refused_by_name(repaired: Devnet, node: str, kind: str) -> None:
    """The folder of a node moves to another machine of the same kind and the same build."""
    devnet = repaired
    role = "gatekeeper" if node.startswith("gk-") else "worker"
    await devnet.children[node].kill()
    control = TeeControl(devnet.layout.tee)
    other = await control.create_machine(f"thief-of-{node}", kind, role)
    original, devnet.machines[node] = devnet.machines[node], other
    try:
        with pytest.raises(ConfigError) as caught:
            await (devnet.start_gatekeeper(node) if role == "gatekeeper" else devnet.start_worker(node))
    finally:
        devnet.machines[node] = original
    assert caught.value.code == "devnet.not_ready"
    assert "node.foreign_folder" in caught.value.found
    shutil.rmtree(devnet.layout.home / "tampered", ignore_errors=True)
