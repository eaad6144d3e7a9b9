"""An endpoint in memory: a small chain with one account, and the manners of endpoints that differ from Ethereum's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from coincurve import PublicKey

from cloister.chain.rpc import RPC_ERROR, Rpc
from cloister.core.chainview import rlp
from cloister.core.encoding.keccak import keccak256
from cloister.core.errors import CloisterError

Manner = Callable[[str, list[Any]], Any]
AS_USUAL = object()


def refuse(message: str) -> CloisterError:
    """What ``Rpc`` makes of an endpoint's error."""
    return RPC_ERROR(expected="to succeed", found=message)


class ScriptedRpc(Rpc):
    """Includes what it is sent at once. ``manner(method, params)`` answers first; AS_USUAL leaves it to the chain."""

    def __init__(self, manner: Manner = lambda method, params: AS_USUAL) -> None:
        super().__init__("http://127.0.0.1:9")
        self.manner, self.calls = manner, list[tuple[str, list[Any]]]()
        self.sent: list[bytes] = []
        self.nonce, self.balance, self.estimate = 0, 10**18, 50_000

    async def call(self, method: str, *params: Any) -> Any:
        """One call, recorded."""
        self.calls.append((method, list(params)))
        said = self.manner(method, list(params))
        if isinstance(said, BaseException):
            raise said
        return getattr(self, f"_{method}")(*params) if said is AS_USUAL else said

    async def batch(self, calls: Any) -> list[Any]:
        """Many calls."""
        return [await self.call(method, *params) for method, params in calls]

    def methods(self) -> list[str]:
        """What was asked, in order."""
        return [method for method, _ in self.calls]

    def _eth_getTransactionCount(self, who: str, tag: str) -> str:
        return hex(self.nonce)

    def _eth_estimateGas(self, request: Any) -> str:
        return hex(self.estimate)

    def _eth_gasPrice(self) -> str:
        return hex(2 * 10**9)

    def _eth_getBalance(self, who: str, tag: str) -> str:
        return hex(self.balance)

    def _eth_getBlockByNumber(self, tag: str, full: bool) -> Any:
        return {"baseFeePerGas": hex(10**9)}

    def _eth_sendRawTransaction(self, raw: str) -> str:
        self.sent.append(bytes.fromhex(raw[2:]))
        self.nonce += 1
        return "0x" + keccak256(self.sent[-1]).hex()

    def _eth_getTransactionByHash(self, name: str) -> Any:
        return {} if any("0x" + keccak256(raw).hex() == name for raw in self.sent) else None

    def _eth_getTransactionReceipt(self, name: str) -> Any:
        if self._eth_getTransactionByHash(name) is None:
            return None
        return {"blockNumber": "0x7", "blockHash": "0x" + "07" * 32, "status": "0x1", "gasUsed": "0x5208", "logs": []}


_NAMES = (
    "parentHash", "sha3Uncles", "miner", "stateRoot", "transactionsRoot", "receiptsRoot", "logsBloom", "difficulty",
    "number", "gasLimit", "gasUsed", "timestamp", "extraData", "mixHash", "nonce",
)  # fmt: skip
_NUMBERS = frozenset({"difficulty", "number", "gasLimit", "gasUsed", "timestamp"})


def block_of(number: int, parent: bytes = bytes(32), salt: bytes = b"") -> dict[str, Any]:
    """A block of a made-up chain, whose hash is that of its fields."""
    fields = [parent, b"\x02" * 32, b"\x03" * 20, b"\x04" * 32, b"\x05" * 32, b"\x06" * 32, bytes(256), b"",
              rlp.from_uint(number), b"\x01", b"\x01", rlp.from_uint(1000 + number), salt, b"\x07" * 32,
              b"\x08" * 8]  # fmt: skip
    pairs = zip(_NAMES, fields, strict=True)
    block = {n: hex(int.from_bytes(v, "big")) if n in _NUMBERS else "0x" + v.hex() for n, v in pairs}
    return block | {"hash": "0x" + keccak256(rlp.encode(fields)).hex()}


def chain_of(length: int, before: Sequence[dict[str, Any]] = (), salt: bytes = b"") -> list[dict[str, Any]]:
    """``length`` blocks, each the child of the one before; they go on from ``before``."""
    blocks = list(before)
    for number in range(len(blocks), length):
        parent = bytes.fromhex(blocks[-1]["hash"][2:]) if blocks else bytes(32)
        blocks.append(block_of(number, parent, salt))
    return blocks


def opened(raw: bytes) -> dict[str, int]:
    """A signed transaction's numbers and its sender, of type 2 or EIP-155."""
    typed = raw[0] == 2
    fields = rlp.decode(raw[1:] if typed else raw, max_size=1 << 16)
    assert isinstance(fields, list)
    numbers = [int.from_bytes(f, "big") if isinstance(f, bytes) else 0 for f in fields]
    if typed:
        names = ("chain_id", "nonce", "tip", "price", "gas", "to", "value", "data", "access", "v", "r", "s")
        found = dict(zip(names, numbers, strict=True))
        signed, recovery = keccak256(b"\x02", rlp.encode(fields[:9])), found["v"]
    else:
        names = ("nonce", "price", "gas", "to", "value", "data", "v", "r", "s")
        found = dict(zip(names, numbers, strict=True))
        found["chain_id"], recovery = (found["v"] - 35) // 2, (found["v"] - 35) % 2
        tail = [rlp.from_uint(n) for n in (found["chain_id"], 0, 0)]
        signed = keccak256(rlp.encode([*fields[:6], *tail]))
    compact = found["r"].to_bytes(32, "big") + found["s"].to_bytes(32, "big") + bytes([recovery])
    key = PublicKey.from_signature_and_message(compact, signed, hasher=None).format(compressed=False)
    return found | {"sender": int.from_bytes(keccak256(key[1:])[-20:], "big"), "typed": int(typed)}
