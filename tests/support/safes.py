"""A contract account for tests: it does whatever its one owner says, and has code where it stands."""

from __future__ import annotations

from coincurve import PrivateKey

from cloister.chain.rpc import Rpc
from cloister.chain.tx import Sender
from cloister.core.encoding.signatures import address_of


def code_of(owner: bytes) -> bytes:
    """Runtime code: calls the address in the first 20 bytes of its input with the rest, if ``owner`` says so."""
    return (
        bytes.fromhex("3373") + owner + bytes.fromhex("14601d575f5ffd5b")  # another caller: revert
        + bytes.fromhex("601436038060145f37")  # memory = the input behind 20 bytes
        + bytes.fromhex("5f5f825f5f5f3560601c5af1")  # call
        + bytes.fromhex("603d573d5f5f3e3d5ffd5b00")  # pass a revert on
    )  # fmt: skip


async def code_account(rpc: Rpc, chain_id: int, owner: PrivateKey) -> bytes:
    """One on chain, 20 bytes: send it target ‖ data as its owner."""
    code = code_of(address_of(owner))
    init = bytes.fromhex("60") + bytes([len(code)]) + bytes.fromhex("8060095f395ff3") + code
    made = await Sender(rpc, owner, chain_id).send(None, init)
    assert made.contract is not None
    return made.contract
