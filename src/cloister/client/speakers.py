"""Who an agent's owner is on a connected chain, by the owner's word at home (spec/chains.md 34).

An owner that is a contract has an address that may be somebody else's there; one that named a speaker owns by it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cloister.chain.contracts import encode
from cloister.chain.people import people_of
from cloister.chain.tx import Receipt
from cloister.core.encoding.hexes import to_hex
from cloister.core.errors import PolicyError, define

if TYPE_CHECKING:
    from cloister.client.client import Client

HOME_CHAIN = define(
    "client.speaker_at_home",
    PolicyError,
    check="a speaker is named for another chain than the network's own, where the owner is itself",
    remedy="give the chain id of the connected chain",
)


def speaker_call(client: Client, token: int, chain_id: int, speaker: bytes) -> dict[str, Any]:
    """The transaction that an owner sends which has no key: a contract's own interface takes it. JSON-ready.

    ``speaker``: 20 bytes, zeros for nobody. Raises client.speaker_at_home."""
    genesis = client.network.genesis
    if chain_id == genesis.chain_id:
        raise HOME_CHAIN(expected="another chain", found=f"chain {chain_id}")
    data = encode("Agents", "setSpeaker", token, chain_id, speaker)
    return {"chain": genesis.chain_id, "to": to_hex(genesis.address("Agents")), "value": 0, "data": to_hex(data)}


async def set_speaker(client: Client, agent: bytes, chain_id: int, speaker: bytes) -> Receipt:
    """Name it, as the owner's wallet. Raises client.speaker_at_home, ChainError with the contract's reason."""
    token = (await client.resolver.record(agent)).token_id
    speaker_call(client, token, chain_id, speaker)
    return await client.send("Agents", encode("Agents", "setSpeaker", token, chain_id, speaker))


async def show_speaker(client: Client, agent: bytes, chain_id: int) -> dict[str, Any]:
    """By proof: the owner, whom it named for that chain, and whom that chain is told as owner. JSON-ready; None:
    nobody. Raises ChainViewError, PolicyError."""
    record = await client.resolver.record(agent)
    people = await people_of((await client.resolver.view()).state, agent, chain_id)
    assert people is not None  # noqa: S101 - its record was just proven
    return {
        "agent": to_hex(agent),
        "chain": chain_id,
        "owner": to_hex(record.owner),
        "speaker": _shown(people.speaker),
        "told": _shown(people.owner),
    }


def _shown(address: bytes) -> str | None:
    return to_hex(address) if any(address) else None
