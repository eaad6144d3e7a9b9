"""The RPC client against endpoints that break the protocol in every way."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloister.chain.rpc import MAX_BATCH, Rpc, quantity, wait_reachable
from cloister.core.encoding.keccak import keccak256
from cloister.core.errors import ChainError
from support.anvil import TestChain
from support.liar import raw_endpoint


async def code_of(answer: Any, *, status: int = 200, max_bytes: int = 1 << 16) -> str:
    """The error code that a call meets when the endpoint answers this."""
    body = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
    async with raw_endpoint(body, status) as url, Rpc(url, max_bytes=max_bytes) as rpc:
        with pytest.raises(ChainError) as caught:
            await rpc.call("eth_chainId")
    return caught.value.code


@pytest.mark.parametrize(
    ("why", "answer", "code"),
    [
        ("no JSON", b"<html>", "chain.bad_answer"),
        ("nothing", b"", "chain.bad_answer"),
        ("a list for one call", [], "chain.bad_answer"),
        ("another id", {"jsonrpc": "2.0", "id": 999, "result": "0x1"}, "chain.bad_answer"),
        ("no result", {"jsonrpc": "2.0", "id": 1}, "chain.bad_answer"),
        ("an error", {"id": 1, "error": {"code": -32000, "message": "busy"}}, "chain.rpc_error"),
        ("an error as text", {"id": 1, "error": "busy"}, "chain.rpc_error"),
        ("a revert without data", {"id": 1, "error": {"message": "execution reverted"}}, "chain.reverted"),
        ("revert data that is no hex", {"id": 1, "error": {"message": "x", "data": "0xzz"}}, "chain.bad_answer"),
        ("JSON nested without end", b"[" * 60_000, "chain.bad_answer"),
        ("more than the cap", b" " * (1 << 17), "chain.too_large"),
    ],
)
async def test_broken_answers(why: str, answer: Any, code: str) -> None:
    assert await code_of(answer) == code, why


async def test_a_custom_error_is_named() -> None:
    data = "0x" + keccak256(b"NoCommitteeInOffice()")[:4].hex()
    answer = json.dumps({"id": 1, "error": {"code": 3, "message": "execution reverted", "data": data}}).encode()
    async with raw_endpoint(answer) as url, Rpc(url) as rpc:
        with pytest.raises(ChainError) as caught:
            await rpc.call("eth_call")
    assert caught.value.code == "chain.reverted"
    assert "NoCommitteeInOffice" in caught.value.found


async def test_nobody_there() -> None:
    async with raw_endpoint(b"{}") as url:
        gone = url
    async with Rpc(gone, timeout=2) as rpc:
        with pytest.raises(ChainError) as caught:
            await rpc.call("eth_chainId")
        assert caught.value.code == "chain.unreachable"
        with pytest.raises(ChainError):
            await wait_reachable(rpc, attempts=2, pause=0)


async def test_credentials_in_the_url_stay_out_of_error_texts() -> None:
    async with Rpc("http://user:hunter2@127.0.0.1:1/key-abc", timeout=2) as rpc:
        with pytest.raises(ChainError) as caught:
            await rpc.call("eth_chainId")
    assert "hunter2" not in str(caught.value)
    assert "key-abc" not in str(caught.value)


@pytest.mark.parametrize(
    ("why", "shape"),
    [
        ("one answer missing", lambda calls: calls[:-1]),
        ("an answer twice, one missing", lambda calls: [calls[0]] * len(calls)),
        ("an object", lambda calls: {"id": 1, "result": 1}),
        ("ids that are no numbers", lambda calls: [{"id": str(c["id"]), "result": 1} for c in calls]),
    ],
)
async def test_broken_batches(why: str, shape: Any) -> None:
    def answer(request: bytes) -> bytes:
        answers = [{"id": c["id"], "result": 1} for c in json.loads(request)]
        return json.dumps(shape(answers)).encode()

    async with raw_endpoint(answer) as url, Rpc(url) as rpc:
        with pytest.raises(ChainError) as caught:
            await rpc.batch([("a", []), ("b", []), ("c", [])])
    assert caught.value.code == "chain.bad_answer", why


async def test_a_batch_in_any_order_comes_back_in_ours() -> None:
    def answer(request: bytes) -> bytes:
        return json.dumps([{"id": c["id"], "result": c["params"][0]} for c in reversed(json.loads(request))]).encode()

    async with raw_endpoint(answer) as url, Rpc(url) as rpc:
        assert await rpc.batch([("echo", [n]) for n in range(9)]) == list(range(9))
        assert await rpc.batch([]) == []
        with pytest.raises(RuntimeError):
            await rpc.batch([("echo", [1])] * (MAX_BATCH + 1))


async def test_a_redirect_is_not_followed() -> None:
    assert await code_of(b"", status=302) == "chain.bad_answer"


@given(st.integers(0, 2**256 - 1))
def test_quantities(value: int) -> None:
    assert quantity(hex(value), "value") == value


@pytest.mark.parametrize(
    "value", ["", "0x", "1", "0x01", "0x1_0", "0xG", "0X1", "-0x1", "0x-1", " 0x1", 1, None, True, "0x" + "f" * 65]
)
def test_no_quantities(value: Any) -> None:
    with pytest.raises(ChainError):
        quantity(value, "value")


def test_a_quantity_keeps_to_its_bits() -> None:
    assert quantity("0xffffffffffffffff", "value", 64) == 2**64 - 1
    with pytest.raises(ChainError):
        quantity("0x10000000000000000", "value", 64)


async def test_a_real_endpoint(chain: TestChain) -> None:
    async with Rpc(chain.url) as rpc:
        assert await wait_reachable(rpc) == chain.chain_id
        numbers = await rpc.batch([("eth_blockNumber", []), ("eth_chainId", [])])
        assert numbers[1] == hex(chain.chain_id)
