"""Putting the contracts on a chain, in one or two blocks, and checking what came out."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from cloister.chain.contracts import artifact, call, encode, encode_constructor
from cloister.chain.rpc import Rpc
from cloister.chain.tx import Sender, Submitted, create_address
from cloister.core.chainview.seats import RulesRecord
from cloister.core.encoding.hexes import from_hex, need_bytes, to_hex
from cloister.core.encoding.keccak import keccak256

_PUBLISH_GAS = 150_000
DEPLOYED = (
    "Token", "Directory", "Policies", "Seats", "Gatekeepers", "Clusters", "Agents", "Workers", "Reputation",
    "Validation", "Anchor", "Reseals", "Receipts", "Stakes",
)  # fmt: skip
FREE_SEATS = RulesRecord(
    ceremony_blocks=300,
    term_blocks=20_000,
    refresh_blocks=5_000,
    rotation_blocks=100_000,
    erase_delay=64,
    unbonding_blocks=64,
    min_stake=0,
    absence_slash=0,
)
"""A development network's rules for its committee: short times, no stake. Blocks come five a second there."""


async def deploy_all(
    sender: Sender,
    policy_hash: bytes,
    measurements: Sequence[bytes] = (),
    *,
    owner: bytes | None = None,
    treasury: bytes | None = None,
    policy_delay: int = 0,
    default_seats: int = 3,
    rules: RulesRecord = FREE_SEATS,
) -> dict[str, bytes]:
    """Deploy every contract and publish version 1 of each in the Directory. Returns name -> address.

    Args: policy_hash: 32 bytes. measurements: founding measurement ids (32 bytes each), which count at once. owner: the
    DAO (default: the sender); the sender stays the founder of the committee. treasury: takes the token supply (default:
    owner). policy_delay: blocks between proposing and activating a policy. default_seats: workers per agent of the
    default cluster. rules: of candidates, ceremonies and terms (spec/gatekeepers.md).
    Raises ChainError if a deployment fails or the code on chain is not the artifact's.
    """
    owner = owner or sender.address
    sent: dict[str, Submitted] = {}

    async def create(name: str, *args: object) -> bytes:
        sent[name] = await sender.submit(None, encode_constructor(name, *args))
        return create_address(sender.address, sent[name].nonce)

    at = {"Token": await create("Token", treasury or owner)}
    # The sender owns the Directory until it has filled it, then offers it to the owner.
    at["Directory"] = await create("Directory", sender.address)
    at["Policies"] = await create("Policies", owner, policy_delay, need_bytes("policy hash", policy_hash, 32),
                                  list(measurements))  # fmt: skip
    at["Seats"] = await create("Seats", sender.address, at["Token"])
    at["Gatekeepers"] = await create("Gatekeepers", owner, at["Seats"], rules)
    at["Clusters"] = await create("Clusters", owner, default_seats)
    at["Agents"] = await create("Agents", at["Gatekeepers"], at["Clusters"])
    at["Workers"] = await create("Workers", owner, at["Gatekeepers"], at["Policies"])
    at["Reputation"] = await create("Reputation", at["Agents"])
    at["Validation"] = await create("Validation", at["Agents"], at["Gatekeepers"])
    # On the network's own chain the Anchor copies its signers from Gatekeepers: it needs no founder.
    at["Anchor"] = await create("Anchor", at["Agents"], at["Gatekeepers"], bytes(20))
    at["Reseals"] = await create("Reseals", at["Agents"], at["Gatekeepers"])
    at["Receipts"] = await create("Receipts", at["Gatekeepers"], at["Workers"])
    at["Stakes"] = await create("Stakes", owner, at["Token"], at["Workers"])
    await asyncio.gather(*(sender.wait(s) for s in sent.values()))
    await sender.send(at["Gatekeepers"], encode("Gatekeepers", "setReseals", at["Reseals"]))
    at["AgentAccounts"] = await call(sender.rpc, at["Agents"], "Agents", "accounts")
    at["Election"] = await call(sender.rpc, at["Seats"], "Seats", "election")
    await _publish(sender, at, owner)
    await verify_deployed(sender.rpc, at)
    return at


async def verify_deployed(rpc: Rpc, contracts: dict[str, bytes]) -> dict[str, bytes]:
    """Raise ChainError unless each address holds the code of its artifact. Returns name -> code hash (32 bytes)."""
    calls = [("eth_getCode", [to_hex(address), "latest"]) for address in contracts.values()]
    codes = [from_hex(code, name="code") for code in await rpc.batch(calls)]
    for name, code in zip(contracts, codes, strict=True):
        artifact(name).verify_code(code)
    return {name: keccak256(code) for name, code in zip(contracts, codes, strict=True)}


def directory_key(name: str) -> bytes:
    """A contract's name in the Directory: keccak256 of its ASCII name."""
    return keccak256(name.encode("ascii"))


async def _publish(sender: Sender, at: dict[str, bytes], owner: bytes) -> None:
    target = at["Directory"]
    entries = [(name, address) for name, address in at.items() if name != "Directory"]
    calls = [encode("Directory", "publish", directory_key(name), 1, address) for name, address in entries]
    if owner != sender.address:
        calls.append(encode("Directory", "transferOwnership", owner))
    sent = [await sender.submit(target, data, gas=_PUBLISH_GAS) for data in calls]
    await asyncio.gather(*(sender.wait(s) for s in sent))
