"""Sending transactions: one owner per key, nonces in order, EIP-1559, waiting for inclusion."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Any

from coincurve import PrivateKey

from cloister.chain.rpc import REVERTED, RPC_ERROR, Rpc, quantity
from cloister.core.chainview import rlp
from cloister.core.encoding.hexes import from_hex, to_hex
from cloister.core.encoding.keccak import keccak256
from cloister.core.encoding.signatures import address_of
from cloister.core.errors import ChainError, CloisterError, define

_POLL = 0.1
_REBROADCAST_EVERY = 20
_TIP = 10**9
_GAS_ROOM = 300_000

NOT_INCLUDED = define(
    "chain.not_included",
    ChainError,
    check="a sent transaction is included in time",
    remedy="the chain may be busy or the fee too low; look the transaction up before sending another",
    status=504,
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

    Nobody else may send with the same key at the same time.
    """

    def __init__(self, rpc: Rpc, key: PrivateKey, chain_id: int, *, timeout: float = 60.0) -> None:
        self.rpc, self.chain_id, self.address = rpc, chain_id, address_of(key)
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
            raw = self._sign(nonce, await self._max_fee(), limit, to, value, data)
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
            found = await self.rpc.call("eth_getTransactionReceipt", to_hex(sent.tx_hash))
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
        if self._nonce is None:
            answer = await self.rpc.call("eth_getTransactionCount", to_hex(self.address), "pending")
            self._nonce = quantity(answer, "nonce", 64)
        return self._nonce

    async def _estimate(self, request: dict[str, str]) -> int:
        gas = quantity(await self.rpc.call("eth_estimateGas", request), "gas", 64)
        # Room for what others change between now and inclusion: the last of several confirmations does more work.
        return gas + gas // 2 + _GAS_ROOM

    async def _max_fee(self) -> int:
        block = await self.rpc.call("eth_getBlockByNumber", "latest", False)
        base = quantity(block.get("baseFeePerGas") if isinstance(block, dict) else None, "base fee")
        return 2 * base + _TIP

    def _sign(self, nonce: int, max_fee: int, gas: int, to: bytes | None, value: int, data: bytes) -> bytes:
        numbers = [rlp.from_uint(n) for n in (self.chain_id, nonce, _TIP, max_fee, gas)]
        fields: list[rlp.Encodable] = [*numbers, to or b"", rlp.from_uint(value), data, []]
        digest = keccak256(b"\x02", rlp.encode(fields))
        signature = self._key.sign_recoverable(digest, hasher=None)
        r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:64], "big")
        return b"\x02" + rlp.encode([*fields, *(rlp.from_uint(n) for n in (signature[64], r, s))])

    async def _broadcast(self, raw: bytes) -> None:
        try:
            await self.rpc.call("eth_sendRawTransaction", to_hex(raw))
        except ChainError as error:
            known = ("already known", "already imported", "nonce too low")
            mined = error.code == RPC_ERROR.code and any(text in error.found.lower() for text in known)
            if not mined or not await self._has(raw):
                raise

    async def _has(self, raw: bytes) -> bool:
        return await self.rpc.call("eth_getTransactionByHash", to_hex(keccak256(raw))) is not None


def create_address(sender: bytes, nonce: int) -> bytes:
    """Address of a contract that ``sender`` creates with ``nonce``."""
    return keccak256(rlp.encode([sender, rlp.from_uint(nonce)]))[-20:]
