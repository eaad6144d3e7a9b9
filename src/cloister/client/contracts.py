"""A network's contracts as its chain proves them: code hashes against the network file and this build's artifacts."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from cloister.chain.contracts import artifact
from cloister.chain.proven import nodes_of
from cloister.core.chainview.proofs import verify_account
from cloister.core.encoding.hexes import from_hex, to_hex
from cloister.core.encoding.keccak import keccak256
from cloister.core.errors import ChainViewError, CloisterError, define

if TYPE_CHECKING:
    from cloister.client.client import Client

WRONG_CONTRACTS = define(
    "client.wrong_contracts",
    ChainViewError,
    check="each contract has, by proof, the code that the network file pins and that this build was made with",
    remedy="use the release of Cloister that the network runs; if the pin differs too, leave the network",
)


async def chain_status(client: Client) -> dict[str, Any]:
    """Chain id, checkpoint, committee, policy; JSON-ready. All but the newest block are proven."""
    view = await client.resolver.view()
    committee, policy = await asyncio.gather(view.state.committee(), view.state.policy())
    newest = await client.rpc.call("eth_blockNumber")
    return {
        "chain_id": client.network.genesis.chain_id,
        "checkpoint": view.checkpoint.number,
        "newest": int(newest, 16) if isinstance(newest, str) else None,
        "timestamp": view.checkpoint.timestamp,
        "term": committee.term,
        "threshold": committee.threshold,
        "members": len(committee.members),
        "master_epoch": committee.master_epoch,
        "policy": to_hex(policy.policy_hash),
        "founded_at": policy.founded_at,
        "agents": await view.state.agent_count(),
    }


async def verify_contracts(client: Client) -> list[dict[str, Any]]:
    """For each contract: its proven code hash is the pinned one; its code is this build's. JSON-ready rows.

    Raises ChainError, ChainViewError where nothing can be proven."""
    contracts = client.network.genesis.contracts
    return list(
        await asyncio.gather(*(_one(client, name, ref.address, ref.code_hash) for name, ref in contracts.items()))
    )


async def _one(client: Client, name: str, address: bytes, pinned: bytes) -> dict[str, Any]:
    at = (await client.resolver.view()).checkpoint
    block = hex(at.number)
    proof, code = await asyncio.gather(
        client.rpc.call("eth_getProof", to_hex(address), [], block),
        client.rpc.call("eth_getCode", to_hex(address), block),
    )
    nodes = nodes_of(proof.get("accountProof") if isinstance(proof, dict) else None)
    account = verify_account(at.state_root, address, nodes)
    data = from_hex(code, name="code", max_size=1 << 17)
    is_pinned = account is not None and account.code_hash == pinned == keccak256(data)
    return {
        "contract": name,
        "address": to_hex(address),
        "code_hash": to_hex(keccak256(data)),
        "pinned": is_pinned,
        "artifact": is_pinned and _built(name, data),
    }


def _built(name: str, code: bytes) -> bool:
    try:
        artifact(name).verify_code(code)
    except (CloisterError, RuntimeError):
        return False
    return True
