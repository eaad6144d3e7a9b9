"""Steps 1 to 4: a chain, five gatekeepers on three vendors' hardware, four workers, a gateway.

1. network.json is what the chain says, and its id follows from its contents.
2. The founding committee obeys the seat rule and put one master key on chain; every process is a process of its own.
3. Three workers are registered with evidence of three vendors; a fourth, where swtpm is installed, with a TPM's.
4. The gateway serves the same network file, and a client that pins another fingerprint is refused.
"""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import pytest

from cloister.chain.contracts import call
from cloister.client.client import Client
from cloister.client.verify import verify_network
from cloister.core.encoding.network import Network
from cloister.core.errors import CloisterError
from cloister.devnet.doctor import TPM_PROGRAMS
from cloister.devnet.layout import GATEKEEPERS, WORKERS
from cloister.devnet.network import Devnet

VENDORS = {"tdx": "intel", "snp": "amd", "nitro": "aws", "tpm": "tpm"}

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


async def test_the_anchor_knows_the_committees_signers(devnet: Devnet, client: Client) -> None:
    """Contracts may ask agents from the first minute: an answer counts under leases that these signed."""
    assert devnet.rpc is not None
    anchor, founding = client.network.genesis.address("Anchor"), client.network.founding
    signers = await call(devnet.rpc, anchor, "Anchor", "signerSet")
    assert (signers["term"], signers["threshold"], signers["size"]) == (1, founding.threshold, len(founding.members))
    for member in founding.members:
        assert await call(devnet.rpc, anchor, "Anchor", "isSigner", member)


async def test_a_worker_of_every_kind_is_admitted(devnet: Devnet, client: Client) -> None:
    view = await client.resolver.view()
    workers = await view.state.workers()
    assert {w.vendor_class.rstrip(b"\0").decode() for w in workers} == {
        VENDORS[kind] for name, kind in WORKERS if name in devnet.machines
    }
    assert all(w.live_at(view.checkpoint.number) for w in workers)
    assert {w.boot for w in workers} == {
        bytes.fromhex(devnet.children[n].ready["boot"][2:]) for n, _ in WORKERS if n in devnet.machines
    }


async def test_the_tpm_worker_is_there_where_swtpm_is(devnet: Devnet) -> None:
    """One swtpm, a child of the pretend hardware's process; the worker itself talks to its socket."""
    installed = all(shutil.which(program) for program in TPM_PROGRAMS)
    assert ("worker-4" in devnet.machines) == ("worker-4" in devnet.children) == installed
    if installed:
        machine = devnet.machines["worker-4"]["machine"]
        assert set(machine) - {n for n, path in machine.items() if path is None} == {
            "tpm_socket",
            "tpm_log",
            "sealing_socket",
            "collateral",
        }
        tasks = Path(f"/proc/{devnet.children['tee'].process.pid}/task").iterdir()
        children = [pid for task in tasks for pid in (task / "children").read_text().split()]
        assert [Path(f"/proc/{pid}/comm").read_text().strip() for pid in children] == ["swtpm"]


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
