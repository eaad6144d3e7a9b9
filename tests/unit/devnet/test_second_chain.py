"""The second chain of a devnet: its Anchor, its record, the word of the Directory; made once, however often asked."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from cloister.chain.contracts import call
from cloister.chain.proven import ProvenState
from cloister.chain.rpc import Rpc
from cloister.core.chainview.directory import read_newest
from cloister.core.encoding.chain_record import ChainRecord
from cloister.core.encoding.signatures import address_of
from cloister.devnet import second
from cloister.devnet.layout import Layout
from support.anvil import TestChain


def network_of(chain: TestChain) -> Any:
    genesis = SimpleNamespace(chain_id=chain.chain_id, address=lambda name: chain.contracts[name])
    return SimpleNamespace(id=chain.network, founding=chain.signers, genesis=genesis)


async def newest(chain: TestChain, rpc: Rpc, record: ChainRecord) -> bytes | None:
    """What the Directory proves under the record's key."""
    at = await chain.checkpoint(rpc)
    state = ProvenState(rpc, chain.contracts, at, code_hashes=chain.code_hashes)
    return await state.read("Directory", lambda s, layout: read_newest(s, layout, record.key()))


async def test_a_chain_is_connected_and_disconnected_by_proof(chain: TestChain, tmp_path: Path) -> None:
    layout, network = Layout(tmp_path / "devnet"), network_of(chain)
    layout.prepare()
    async with Rpc(chain.url) as rpc:
        record = await second.deploy_anchor(layout, rpc, chain.deployer, chain.chain_id)
        assert await second.deploy_anchor(layout, rpc, chain.deployer, chain.chain_id) == record
        assert ChainRecord.parse(layout.second_record.read_bytes()) == record
        assert await newest(chain, rpc, record) is None
        for _ in range(2):
            await second.connect(rpc, rpc, chain.deployer, network, record)
            assert await newest(chain, rpc, record) == chain.contracts["Anchor"]
        held = await call(rpc, record.anchor.address, "Anchor", "signerSet")
        assert (held["term"], held["threshold"], held["size"]) == (1, 3, 5)
        assert await call(rpc, record.anchor.address, "Anchor", "networkId") == chain.network
        assert await call(rpc, record.anchor.address, "Anchor", "founder") == address_of(chain.deployer)
        await second.publish(rpc, chain.deployer, network.genesis, record, connected=False)
        assert await newest(chain, rpc, record) == chain.contracts["Directory"]
        await second.publish(rpc, chain.deployer, network.genesis, record)
        assert await newest(chain, rpc, record) == chain.contracts["Anchor"]
