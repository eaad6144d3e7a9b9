"""Sending: nonces in order under concurrency, reasons by name, inclusion."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from cloister.chain.contracts import call, encode
from cloister.chain.rpc import Rpc, quantity
from cloister.chain.tx import Sender, create_address
from cloister.core.encoding.hexes import to_hex
from cloister.core.encoding.signatures import address_of
from cloister.core.errors import ChainError
from support.anvil import TestChain, send
from support.liar import liar


async def balance(rpc: Rpc, address: bytes) -> int:
    return quantity(await rpc.call("eth_getBalance", to_hex(address), "latest"), "balance")


async def sent_by(rpc: Rpc, address: bytes) -> int:
    """How many transactions the address has sent, waiting ones included."""
    return quantity(await rpc.call("eth_getTransactionCount", to_hex(address), "pending"), "nonce")


async def test_a_transfer_arrives(chain: TestChain) -> None:
    target = b"\x51" * 20
    async with Rpc(chain.url) as rpc:
        receipt = await Sender(rpc, chain.keys[0], chain.chain_id).send(target, value=123)
        assert await balance(rpc, target) == 123
        assert receipt.gas_used == 21_000
        assert receipt.contract is None


async def test_many_at_once_from_one_key_all_arrive_in_order(chain: TestChain) -> None:
    target = b"\x52" * 20
    async with Rpc(chain.url) as rpc:
        sender = Sender(rpc, chain.keys[1], chain.chain_id)
        before = await sent_by(rpc, sender.address)
        receipts = await asyncio.gather(*(sender.send(target, value=1) for _ in range(24)))
        assert await balance(rpc, target) == 24
        assert len({r.tx_hash for r in receipts}) == 24
        assert await sent_by(rpc, sender.address) == before + 24


async def test_a_call_that_would_revert_is_never_sent(chain: TestChain) -> None:
    async with Rpc(chain.url) as rpc:
        before = await sent_by(rpc, address_of(chain.keys[2]))
        with pytest.raises(ChainError) as caught:
            await send(chain, rpc, chain.keys[2], "Workers", "heartbeat")
        assert caught.value.code == "chain.reverted"
        assert "NotRegistered(0x" in caught.value.found
        assert await sent_by(rpc, address_of(chain.keys[2])) == before


async def test_a_revert_in_a_block_is_explained_and_the_next_one_goes_on(chain: TestChain) -> None:
    async with Rpc(chain.url) as rpc:
        sender = Sender(rpc, chain.keys[3], chain.chain_id)
        with pytest.raises(ChainError) as caught:
            await sender.send(chain.contracts["Workers"], encode("Workers", "heartbeat"), gas=200_000)
        assert "NotRegistered" in caught.value.found
        assert (await sender.send(b"\x53" * 20, value=1)).gas_used == 21_000


async def test_too_little_gas_is_named(chain: TestChain) -> None:
    async with Rpc(chain.url) as rpc:
        sender = Sender(rpc, chain.keys[3], chain.chain_id)
        with pytest.raises(ChainError) as caught:
            await sender.send(chain.contracts["Agents"], encode("Agents", "register"), gas=60_000)
        assert caught.value.code == "chain.reverted"
        assert "out of gas" in caught.value.found


async def test_an_endpoint_that_swallows_a_transaction_is_asked_for_the_nonce_again(chain: TestChain) -> None:
    """The endpoint fails after taking nothing; the sender resynchronises and the next send works."""
    broken = {"left": 1}

    def lie(method: str, params: list[Any], result: Any) -> Any:
        if method == "eth_getBlockByNumber" and broken["left"]:
            broken["left"] -= 1
            return None
        return result

    async with liar(chain.url, lie) as url, Rpc(url) as rpc:
        sender = Sender(rpc, chain.keys[4], chain.chain_id)
        with pytest.raises(ChainError):
            await sender.send(b"\x54" * 20, value=1)
        await sender.send(b"\x54" * 20, value=1)
        assert await balance(rpc, b"\x54" * 20) == 1


async def test_a_transaction_that_nobody_includes(chain: TestChain) -> None:
    def lie(method: str, params: list[Any], result: Any) -> Any:
        return None if method == "eth_getTransactionReceipt" else result

    async with liar(chain.url, lie) as url, Rpc(url) as rpc:
        sender = Sender(rpc, chain.keys[5], chain.chain_id, timeout=0.3)
        with pytest.raises(ChainError) as caught:
            await sender.send(b"\x55" * 20, value=1)
        assert caught.value.code == "chain.not_included"


async def test_the_same_bytes_may_be_broadcast_again(chain: TestChain) -> None:
    async with Rpc(chain.url) as rpc:
        sender = Sender(rpc, chain.keys[5], chain.chain_id)
        sent = await sender.submit(b"\x56" * 20, value=1)
        await sender._broadcast(sent.raw)
        await sender.wait(sent)
        await sender._broadcast(sent.raw)
        assert await balance(rpc, b"\x56" * 20) == 1


async def test_what_another_program_sent_with_the_key_is_counted(chain: TestChain) -> None:
    async with Rpc(chain.url) as rpc:
        ours, theirs = (Sender(rpc, chain.keys[5], chain.chain_id) for _ in range(2))
        await ours.send(b"\x57" * 20, value=1)
        await theirs.send(b"\x57" * 20, value=2)
        receipt = await ours.send(b"\x57" * 20, value=4)
        assert await balance(rpc, b"\x57" * 20) == 7
        found = await rpc.call("eth_getTransactionByHash", to_hex(receipt.tx_hash))
        assert int(found["nonce"], 16) == await sent_by(rpc, ours.address) - 1


async def test_a_nonce_that_an_endpoint_calls_used_is_signed_once_only(chain: TestChain) -> None:
    """An endpoint that hides what it brought in cannot make a payment happen twice."""
    asked: list[str] = []

    def lie(method: str, params: list[Any], result: Any) -> Any:
        asked.append(method)
        return "0x0" if method == "eth_getTransactionCount" else result

    async with Rpc(chain.url) as rpc:
        await Sender(rpc, chain.keys[5], chain.chain_id).send(b"\x58" * 20, value=1)
    async with liar(chain.url, lie) as url, Rpc(url) as rpc:
        with pytest.raises(ChainError):
            await Sender(rpc, chain.keys[5], chain.chain_id).send(b"\x58" * 20, value=2)
        assert asked.count("eth_getTransactionCount") == 1, "one nonce, one signature"
        assert await balance(rpc, b"\x58" * 20) == 1


async def test_a_transaction_is_for_one_chain(chain: TestChain) -> None:
    async with Rpc(chain.url) as rpc:
        with pytest.raises(ChainError):
            await Sender(rpc, chain.keys[5], chain.chain_id + 1).send(b"\x57" * 20, value=1)


def test_created_addresses_as_ethereum_computes_them() -> None:
    """The textbook case: the first contracts of 0x6ac7ea33f8831ea9dcc53393aaa88b25a785dbf0."""
    sender = bytes.fromhex("6ac7ea33f8831ea9dcc53393aaa88b25a785dbf0")
    assert create_address(sender, 0).hex() == "cd234a471b72ba2f1ccf0a70fcaba648a5eecd8d"
    assert create_address(sender, 1).hex() == "343c43a37d37dff08ae8c4a11544c718abb4fcf8"


async def test_a_created_contract_stands_where_the_receipt_says(chain: TestChain) -> None:
    async with Rpc(chain.url) as rpc:
        account = await call(rpc, chain.contracts["AgentAccounts"], "AgentAccounts", "agents")
        assert account == chain.contracts["Agents"]
