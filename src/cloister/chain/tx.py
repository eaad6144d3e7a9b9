"""Sending transactions: one owner per key, nonces in order, waiting for inclusion; chains differ by ``kinds``."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from coincurve import PrivateKey

from cloister.chain.kinds import ETHEREUM, ChainKind
from cloister.chain.rpc import REVERTED, RPC_ERROR, Rpc, quantity
from cloister.core.chainview import rlp
from cloister.core.encoding.hexes import from_hex, to_hex
from cloister.core.encoding.keccak import keccak256
from cloister.core.encoding.signatures import address_of
from cloister.core.errors import ChainError, CloisterError, define

_POLL = 0.1
_REBROADCAST_EVERY = 20
# What endpoints say of bytes that they have, of a nonce that is used up, and of an account that cannot pay.
_HAVE = ("already known", "already imported", "known transaction", "already in mempool")
_USED = ("nonce too low", "transaction is outdated")
_POOR = (
    "insufficient funds",
    "insufficient balance",
    "inability to pay",
    "exceeds allowance (0)",
    "invalid transaction: payment",
)
# First four bytes of keccak256("getL1Fee(bytes)").
_DATA_FEE = bytes.fromhex("49948e0e")

NOT_INCLUDED = define(
    "chain.not_included",
    ChainError,
    check="a sent transaction is included in time",
    remedy="the chain may be busy or the fee too low; look the transaction up before sending another",
    status=504,
)

NO_FUNDS = define(
    "chain.no_funds",
    ChainError,
    check="the sending account can pay for its transaction",
    remedy="send coin to the account, or let somebody else bring what was signed: `cloister request relay`",
    status=402,
)


@dataclass(frozen=True, slots=True)
class Receipt:
    """An included transaction that succeeded. ``contract``: created address or None. ``logs`` as the RPC gave them."""

    tx_hash: bytes
    block_number: int
    block_hash: bytes
    gas_used: int
    contract: bytes | None
    logs: tuple[dict[str, Any], ...]


@dataclass(frozen=True, slots=True)
class Submitted:
    """A transaction on its way: hash, signed bytes, and the call as it was made."""

    tx_hash: bytes
    raw: bytes
    nonce: int
    request: dict[str, str]


class Sender:
    """Sends with one key. Safe for concurrent use: nonces are handed out and broadcast in order.

    Others may send with the same key between two calls. Who takes a nonce in the same moment makes ``submit`` fail:
    nothing is signed twice by itself, since an endpoint that lies could bring in both.
    """

    def __init__(
        self, rpc: Rpc, key: PrivateKey, chain_id: int, *, timeout: float = 60.0, kind: ChainKind = ETHEREUM
    ) -> None:
        self.rpc, self.chain_id, self.address, self.kind = rpc, chain_id, address_of(key), kind
        self._key, self._timeout = key, timeout
        self._lock = asyncio.Lock()
        self._nonce: int | None = None
        self._waiting: set[int] = set()

    async def send(self, to: bytes | None, data: bytes = b"", value: int = 0, gas: int | None = None) -> Receipt:
        """Send and wait until included. Raises ChainError (chain.reverted names the contract's reason)."""
        return await self.wait(await self.submit(to, data, value, gas))

    async def submit(self, to: bytes | None, data: bytes = b"", value: int = 0, gas: int | None = None) -> Submitted:
        """Sign and broadcast; ``wait`` for it later. Without ``gas`` a call that would revert is never sent."""
        request = {"from": to_hex(self.address), "data": to_hex(data), "value": hex(value)}
        if to is not None:
            request["to"] = to_hex(to)
        async with self._lock:
            limit = gas if gas is not None else await self._estimate(request)
            nonce = await self._next_nonce()
            price = await self._price()
            raw = self._sign(nonce, price, limit, to, value, data)
            await self._require_funds(raw, limit * price + value)
            try:
                await self._broadcast(raw)
            except CloisterError:
                self._nonce = None  # unknown what the endpoint took: ask again before the next one
                raise
            self._nonce = nonce + 1
        return Submitted(keccak256(raw), raw, nonce, request)

    async def wait(self, sent: Submitted) -> Receipt:
        """The receipt, once included. Rebroadcasts the same bytes meanwhile. Raises ChainError."""
        self._waiting.add(sent.nonce)
        try:
            return await self._included(sent)
        finally:
            self._waiting.discard(sent.nonce)

    async def _included(self, sent: Submitted) -> Receipt:
        deadline = time.monotonic() + self._timeout
        turn = 0
        while time.monotonic() < deadline:
            found = await self._receipt(sent)
            if isinstance(found, dict) and found.get("blockNumber") is not None:
                return await self._settled(sent, found)
            await asyncio.sleep(_POLL)
            turn += 1
            if turn % _REBROADCAST_EVERY == 0:
                await self._broadcast(sent.raw)
                if await self._behind(sent):
                    break
        self._nonce = None
        raise NOT_INCLUDED(expected=f"inclusion within {self._timeout:g} s", found=to_hex(sent.tx_hash))

    async def _receipt(self, sent: Submitted) -> Any:
        """The receipt; None while there is none, or while the endpoint's index is behind its own blocks."""
        try:
            return await self.rpc.call("eth_getTransactionReceipt", to_hex(sent.tx_hash))
        except ChainError as error:
            if error.code != RPC_ERROR.code:
                raise
            return None

    async def _behind(self, sent: Submitted) -> bool:
        """Whether the chain waits for an earlier nonce that nobody sends: it went back behind a transaction of ours."""
        count = quantity(await self.rpc.call("eth_getTransactionCount", to_hex(self.address), "latest"), "nonce", 64)
        return count < min(self._waiting)

    async def _settled(self, sent: Submitted, found: dict[str, Any]) -> Receipt:
        number = quantity(found["blockNumber"], "block number", 64)
        if found.get("status") != "0x1":
            await self._explain(sent, number)
        contract = found.get("contractAddress")
        return Receipt(
            tx_hash=sent.tx_hash,
            block_number=number,
            block_hash=from_hex(found.get("blockHash"), 32, name="block hash"),
            gas_used=quantity(found.get("gasUsed"), "gas used", 64),
            contract=from_hex(contract.lower(), 20) if isinstance(contract, str) else None,
            logs=tuple(found.get("logs", ())),
        )

    async def _explain(self, sent: Submitted, number: int) -> None:
        """Run the failed call again on the state before it, to learn the reason; always raises chain.reverted."""
        found = "out of gas, or reverted only beside its neighbours"
        try:
            await self.rpc.call("eth_call", sent.request, hex(max(number - 1, 0)))
        except ChainError as error:
            if error.code == REVERTED.code:
                raise
            found = "reverted; the reason is no longer known to the endpoint"
        raise REVERTED(expected="the transaction to succeed", found=found)

    async def _next_nonce(self) -> int:
        """The chain's, or ours if that is ahead; where the count knows no pool, what we wait for counts too."""
        tag = "pending" if self.kind.pending else "latest"
        count = quantity(await self.rpc.call("eth_getTransactionCount", to_hex(self.address), tag), "nonce", 64)
        if self._nonce is None:
            self._nonce = count if self.kind.pending else max(count, *(n + 1 for n in self._waiting), 0)
        return max(self._nonce, count)

    async def _estimate(self, request: dict[str, str]) -> int:
        try:
            gas = quantity(await self.rpc.call("eth_estimateGas", request), "gas", 64)
        except ChainError as error:
            raise _poor(error) from None
        # Room for what others change between now and inclusion: the last of several confirmations does more work.
        return gas * self.kind.gas_percent // 100 + self.kind.gas_room

    async def _price(self) -> int:
        """Wei per gas that we are ready to pay: base fees may double before inclusion, asked prices grow by a half."""
        if self.kind.legacy:
            return quantity(await self.rpc.call("eth_gasPrice"), "gas price") * 3 // 2
        block = await self.rpc.call("eth_getBlockByNumber", "latest", False)
        base = quantity(block.get("baseFeePerGas") if isinstance(block, dict) else None, "base fee")
        return 2 * base + self.kind.tip

    async def _require_funds(self, raw: bytes, most: int) -> None:
        """Where data costs beside gas, an account that could pay the gas alone gets no transaction in."""
        oracle = self.kind.data_fee
        if oracle is None:
            return
        asked = {"to": to_hex(oracle), "data": to_hex(_DATA_FEE + _bytes_argument(raw))}
        fee = int.from_bytes(from_hex(await self.rpc.call("eth_call", asked, "latest"), 32, name="data fee"), "big")
        has = quantity(await self.rpc.call("eth_getBalance", to_hex(self.address), "latest"), "balance")
        if has < most + fee:
            raise NO_FUNDS(expected=f"{most + fee} wei, {fee} of them for data", found=f"{has} wei")

    def _sign(self, nonce: int, price: int, gas: int, to: bytes | None, value: int, data: bytes) -> bytes:
        last: list[rlp.Encodable] = [to or b"", rlp.from_uint(value), data]
        if self.kind.legacy:
            fields = [*map(rlp.from_uint, (nonce, price, gas)), *last]
            v, r, s = self._signature(b"", [*fields, *map(rlp.from_uint, (self.chain_id, 0, 0))])
            return rlp.encode([*fields, *map(rlp.from_uint, (2 * self.chain_id + 35 + v, r, s))])
        tip = min(self.kind.tip, price)
        fields = [*map(rlp.from_uint, (self.chain_id, nonce, tip, price, gas)), *last, []]
        signed = [*fields, *map(rlp.from_uint, self._signature(b"\x02", fields))]
        return b"\x02" + rlp.encode(signed)

    def _signature(self, lead: bytes, fields: Sequence[rlp.Encodable]) -> tuple[int, int, int]:
        """(recovery id, r, s) over a transaction's fields."""
        made = self._key.sign_recoverable(keccak256(lead, rlp.encode(list(fields))), hasher=None)
        return made[64], int.from_bytes(made[:32], "big"), int.from_bytes(made[32:64], "big")

    async def _broadcast(self, raw: bytes) -> None:
        """Send; bytes that the endpoint has already, or that are in a block, are no error. Raises ChainError."""
        try:
            await self.rpc.call("eth_sendRawTransaction", to_hex(raw))
        except ChainError as error:
            said = error.found.lower() if error.code == RPC_ERROR.code else ""
            if any(text in said for text in _HAVE):
                return
            if not any(text in said for text in _USED) or not await self._has(raw):
                raise _poor(error) from None

    async def _has(self, raw: bytes) -> bool:
        return await self.rpc.call("eth_getTransactionByHash", to_hex(keccak256(raw))) is not None


def _poor(error: ChainError) -> CloisterError:
    """The refusal by its own name if it is about money."""
    if error.code == RPC_ERROR.code and any(text in error.found.lower() for text in _POOR):
        return NO_FUNDS(expected="an account that can pay", found=error.found)
    return error


def _bytes_argument(data: bytes) -> bytes:
    """ABI encoding of one ``bytes`` argument."""
    return (32).to_bytes(32, "big") + len(data).to_bytes(32, "big") + data + bytes(-len(data) % 32)


def create_address(sender: bytes, nonce: int) -> bytes:
    """Address of a contract that ``sender`` creates with ``nonce``."""
    return keccak256(rlp.encode([sender, rlp.from_uint(nonce)]))[-20:]
