"""The checkpoint cache and the chain relay, apart from the gateway: one question at a time, failures not kept."""

from __future__ import annotations

import asyncio
import json

import pytest

from cloister.core.encoding.signatures import Signed
from cloister.core.errors import CloisterError
from cloister.gateway.relay import CHECKPOINT_S, MAX_BATCH, METHODS, NO_CHAIN, CheckpointCache, RpcRelay
from support.doors import Chain, checkpoint, site


class Source:
    """Gives checkpoints, fails or hangs as told; ``now`` is its clock."""

    def __init__(self) -> None:
        self.asked, self.fails, self.now = 0, False, 0.0
        self.gate = asyncio.Event()
        self.gate.set()

    async def fetch(self) -> Signed:
        self.asked += 1
        await self.gate.wait()
        if self.fails:
            raise NO_CHAIN(expected="a checkpoint", found="none")
        return Signed(checkpoint(self.asked), (b"\1" * 65,))

    def cache(self) -> CheckpointCache:
        return CheckpointCache(self.fetch, lambda: self.now)


def number(text: bytes) -> int:
    return int(json.loads(text)["checkpoint"]["number"])


async def test_an_answer_is_kept_for_half_a_second_and_then_asked_for_again() -> None:
    source = Source()
    cache = source.cache()
    assert number(await cache.answer()) == 1
    source.now = CHECKPOINT_S * 0.9
    assert number(await cache.answer()) == 1
    source.now = CHECKPOINT_S * 1.1
    assert number(await cache.answer()) == 2
    assert cache.number == 2


async def test_readers_that_come_together_share_one_question() -> None:
    source = Source()
    cache = source.cache()
    source.gate.clear()
    readers = [asyncio.ensure_future(cache.answer()) for _ in range(20)]
    await asyncio.sleep(0)
    source.gate.set()
    assert {number(text) for text in await asyncio.gather(*readers)} == {1}
    assert source.asked == 1


async def test_a_reader_that_leaves_does_not_end_the_question_of_the_others() -> None:
    source = Source()
    cache = source.cache()
    source.gate.clear()
    leaving, staying = (asyncio.ensure_future(cache.answer()) for _ in range(2))
    await asyncio.sleep(0.01)
    leaving.cancel()
    await asyncio.sleep(0)
    source.gate.set()
    assert number(await staying) == 1
    assert leaving.cancelled()


async def test_a_failure_is_told_to_all_and_not_kept() -> None:
    source = Source()
    cache = source.cache()
    source.fails = True
    results = await asyncio.gather(*(cache.answer() for _ in range(3)), return_exceptions=True)
    assert {getattr(r, "code", None) for r in results} == {"gateway.no_chain"}
    source.fails = False
    assert number(await cache.answer()) == source.asked


async def test_closing_drops_a_question_in_progress() -> None:
    source = Source()
    cache = source.cache()
    source.gate.clear()
    reader = asyncio.ensure_future(cache.answer())
    await asyncio.sleep(0.01)
    await cache.close()
    with pytest.raises(asyncio.CancelledError):
        await reader


async def test_an_unreachable_chain_is_named_and_nothing_is_left_open() -> None:
    relay = RpcRelay("http://127.0.0.1:9")
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "eth_chainId", "params": []}).encode()
    with pytest.raises(CloisterError, match=r"gateway\.no_chain"):
        await relay.answer(body)
    await relay.close()
    await relay.close()


@pytest.mark.parametrize("method", sorted(METHODS))
async def test_every_listed_method_is_relayed(method: str) -> None:
    chain = Chain()
    async with site(chain.app()) as url:
        relay = RpcRelay(url + "/")
        body = json.dumps({"jsonrpc": "2.0", "id": 7, "method": method, "params": [{"to": "0x00"}, "latest"]}).encode()
        assert json.loads(await relay.answer(body))["result"] == [method, [{"to": "0x00"}, "latest"]]
        await relay.close()


async def test_a_full_batch_is_relayed_in_order() -> None:
    chain = Chain()
    async with site(chain.app()) as url:
        relay = RpcRelay(url + "/")
        items = [{"jsonrpc": "2.0", "id": n, "method": "eth_getCode", "params": [n]} for n in range(MAX_BATCH)]
        answers = json.loads(await relay.answer(json.dumps(items).encode()))
        assert [a["id"] for a in answers] == list(range(MAX_BATCH))
        await relay.close()


async def test_a_request_without_params_or_id_is_relayed_with_defaults() -> None:
    chain = Chain()
    async with site(chain.app()) as url:
        relay = RpcRelay(url + "/")
        answer = json.loads(await relay.answer(b'{"method":"eth_chainId"}'))
        assert answer == {"jsonrpc": "2.0", "id": None, "result": ["eth_chainId", []]}
        await relay.close()
