"""A second chain beside the devnet's own: Anchor and registry there, its record in the Directory, the first signers."""

from __future__ import annotations

from coincurve import PrivateKey

from cloister.chain.contracts import call, encode, encode_constructor
from cloister.chain.deploy import verify_deployed
from cloister.chain.rpc import REVERTED, Rpc, quantity
from cloister.chain.tx import Sender, create_address
from cloister.core.encoding.chain_record import ChainRecord
from cloister.core.encoding.hexes import from_hex, to_hex
from cloister.core.encoding.network import ContractRef, Genesis, Network
from cloister.core.encoding.signatures import address_of
from cloister.core.errors import ChainError
from cloister.devnet.layout import Layout, write_private

MAX_AGE_S = 60
# How long the first signer set counts; the contract takes at most 90 days.
SET_S = 80 * 24 * 3600


async def deploy_anchor(layout: Layout, rpc: Rpc, founder: PrivateKey, chain_id: int) -> ChainRecord:
    """A registry of remote agents, its Anchor, and the record of their chain. Once: later calls read the record.

    Each contract names the other: the registry is told where the Anchor will be. Raises ChainError, EncodingError."""
    if layout.second_record.exists():
        return ChainRecord.parse(layout.second_record.read_bytes())
    sender = Sender(rpc, founder, chain_id)
    first_nonce = quantity(await rpc.call("eth_getTransactionCount", to_hex(sender.address), "latest"), "nonce")
    later = create_address(sender.address, first_nonce + 1)
    registry = await sender.send(None, encode_constructor("RemoteAgents", later))
    if registry.contract is None:
        raise RuntimeError("a creation names its contract")
    made = await sender.send(None, encode_constructor("Anchor", registry.contract, bytes(20), address_of(founder)))
    if made.contract is None or made.contract != later:
        raise RuntimeError("the registry names the Anchor that was made next")
    hashes = await verify_deployed(rpc, {"Anchor": made.contract, "RemoteAgents": registry.contract})
    first = await rpc.call("eth_getBlockByNumber", "0x0", False)
    record = ChainRecord(
        chain_id=chain_id,
        genesis_hash=from_hex(first["hash"], 32, name="genesis hash"),
        anchor=ContractRef(made.contract, hashes["Anchor"]),
        since=made.block_number,
        tag=True,
        depth=2,
        max_age_s=MAX_AGE_S,
    )
    write_private(layout.second_record, record.encode())
    return record


async def connect(own: Rpc, other: Rpc, owner: PrivateKey, network: Network, record: ChainRecord) -> None:
    """1. the founding committee signs there; 2. the Directory names the record. What was done before is left.

    Raises ChainError."""
    held = await call(other, record.anchor.address, "Anchor", "signerSet")
    if held["term"] == 0:  # 1
        founding = network.founding
        block = await other.call("eth_getBlockByNumber", "latest", False)
        expiry = int(block["timestamp"], 16) + SET_S
        data = encode(
            "Anchor", "install", network.id, founding.term, list(founding.members), founding.threshold, expiry
        )
        await Sender(other, owner, record.chain_id).send(record.anchor.address, data)
    await publish(own, owner, network.genesis, record)  # 2


async def publish(
    own: Rpc, owner: PrivateKey, genesis: Genesis, record: ChainRecord, *, connected: bool = True
) -> None:
    """The next version under the record's key: the network's Anchor connects the chain, another address ends that."""
    directory, anchor = genesis.address("Directory"), genesis.address("Anchor")
    target, version, found = anchor if connected else directory, 0, b""
    try:
        version, found = await call(own, directory, "Directory", "latest", record.key())
    except ChainError as error:
        if error.code != REVERTED.code:
            raise
    if found != target:
        data = encode("Directory", "publish", record.key(), version + 1, target)
        await Sender(own, owner, genesis.chain_id).send(directory, data)
