"""Steps 1 to 4: a chain, five gatekeepers on three vendors' hardware, three workers, a gateway.

1. network.json is what the chain says, and its id follows from its contents.
2. The founding committee obeys the seat rule and put one master key on chain; every process is a process of its own.
3. Three workers are registered with evidence of three vendors.
4. The gateway serves the same network file, and a client that pins another fingerprint is refused.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from cloister.chain.contracts import call
from cloister.client.client import Client
from cloister.client.verify import verify_network
from cloister.core.encoding.network import Network
from cloister.core.errors import CloisterError
from cloister.devnet.layout import GATEKEEPERS, WORKERS
from cloister.devnet.network import Devnet

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_network_json_follows_from_the_chain(devnet: Devnet, client: Client) -> None:
    network = Network.parse(devnet.layout.network.read_bytes())
    assert devnet.rpc is not None
    on_chain = await call(devnet.rpc, network.genesis.address("Gatekeepers"), "Gatekeepers", "networkId")
    assert on_chain == network.id
    report = await verify_network(client)
    assert report.ok, [s for s in report.steps if not s.ok]


async def test_five_gatekeepers_three_vendors_one_master_key(devnet: Devnet, client: Client) -> None:
    view = await client.resolver.view()
    committee = await view.state.committee()
    assert (committee.threshold, len(committee.members), committee.term) == (3, 5, 1)
    assert committee.mpk == client.network.mpk
    members = {bytes.fromhex(devnet.children[n].ready["address"][2:]) for n, _ in GATEKEEPERS}
    assert members == set(committee.members)
    assert len({devnet.children[n].process.pid for n, _ in GATEKEEPERS}) == 5
    assert max(Counter(kind for _, kind in GATEKEEPERS).values()) <= 2


async def test_three_workers_of_three_vendors_are_admitted(devnet: Devnet, client: Client) -> None:
    view = await client.resolver.view()
    workers = await view.state.workers()
    assert {w.vendor_class.rstrip(b"\0").decode() for w in workers} == {"intel", "amd", "aws"}
    assert all(w.live_at(view.checkpoint.number) for w in workers)
    assert {w.boot for w in workers} == {bytes.fromhex(devnet.children[n].ready["boot"][2:]) for n, _ in WORKERS}


async def test_another_fingerprint_is_refused(devnet: Devnet, tmp_path: Path) -> None:
    with pytest.raises(CloisterError) as caught:
        async with Client(devnet.gateway_url, fingerprint="00" * 32, home=tmp_path):
            pass
    assert caught.value.code == "encoding.fingerprint"


async def test_no_secret_in_any_command_line_or_environment(devnet: Devnet) -> None:
    needles = [devnet.layout.secret_key("owner").hex(), devnet.layout.secret_key("deployer").hex(), devnet.api_key()]
    for child in devnet.children.values():
        base = Path(f"/proc/{child.process.pid}")
        text = (base / "cmdline").read_bytes() + (base / "environ").read_bytes()
        assert not any(needle.encode() in text for needle in needles), child.name
