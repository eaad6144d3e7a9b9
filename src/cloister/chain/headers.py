"""Block JSON to header bytes, so that a block hash can be checked against what it commits to."""

from __future__ import annotations

from typing import Any

from cloister.chain.abi import BAD_ANSWER
from cloister.chain.rpc import Rpc, quantity
from cloister.core.chainview.header import Header, verify_header
from cloister.core.chainview.rlp import encode, from_uint
from cloister.core.encoding.hexes import from_hex

# (JSON name, bytes or 0 for a number), in header order; the last ones came with London, Shanghai, Cancun, Prague.
_FIELDS = (
    ("parentHash", 32), ("sha3Uncles", 32), ("miner", 20), ("stateRoot", 32), ("transactionsRoot", 32),
    ("receiptsRoot", 32), ("logsBloom", 256), ("difficulty", 0), ("number", 0), ("gasLimit", 0), ("gasUsed", 0),
    ("timestamp", 0), ("extraData", -1), ("mixHash", 32), ("nonce", 8),
)  # fmt: skip
_LATER = (
    ("baseFeePerGas", 0), ("withdrawalsRoot", 32), ("blobGasUsed", 0), ("excessBlobGas", 0),
    ("parentBeaconBlockRoot", 32), ("requestsHash", 32),
)  # fmt: skip
_MAX_EXTRA = 1024


def encode_header(block: Any) -> bytes:
    """RLP of the header in an ``eth_getBlockBy…`` answer. Raises ChainError or EncodingError for another form."""
    if not isinstance(block, dict):
        raise BAD_ANSWER(expected="a block", found=type(block).__name__)
    present = [field for field in _LATER if block.get(field[0]) is not None]
    if present != list(_LATER[: len(present)]):
        raise BAD_ANSWER(expected="header fields without gaps", found="a gap")
    return encode([_field(block.get(name), name, size) for name, size in (*_FIELDS, *present)])


def header_of(block: Any) -> Header:
    """The verified header of a block answer: its fields hash to the hash that it names."""
    raw = encode_header(block)
    return verify_header(raw, from_hex(block.get("hash"), 32, name="block hash"))


async def fetch_header(rpc: Rpc, block: int | str) -> Header:
    """The header of a block number or tag, verified against its own hash. Raises ChainError, ChainViewError."""
    tag = hex(block) if isinstance(block, int) else block
    header = header_of(await rpc.call("eth_getBlockByNumber", tag, False))
    if isinstance(block, int) and header.number != block:
        raise BAD_ANSWER(expected=f"block {block}", found=f"block {header.number}")
    return header


def _field(value: Any, name: str, size: int) -> bytes:
    if size == 0:
        return from_uint(quantity(value, name))
    return from_hex(value, size if size > 0 else None, name=name, max_size=_MAX_EXTRA)
