"""Headers and finality: block answers hash to their hash, endpoints agree or stop the reader, lines do not break."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from cloister.chain.finality import MAX_CHUNK, Follower, HeaderVerifier, RpcQuorum
from cloister.chain.headers import encode_header, fetch_header, header_of
from cloister.chain.rpc import Rpc
from cloister.core.chainview.header import Header
from cloister.core.encoding.keccak import keccak256
from cloister.core.errors import CloisterError
from support.anvil import TestChain
from support.liar import Lie, liar


async def block(rpc: Rpc, tag: str = "latest") -> dict[str, Any]:
    return dict(await rpc.call("eth_getBlockByNumber", tag, False))


async def wait_final(rpc: Rpc, above: int) -> Header:
    for _ in range(200):
        head = await fetch_header(rpc, "finalized")
        if head.number > above:
            return head
        await asyncio.sleep(0.05)
    raise AssertionError("the chain stands still")


# --- headers ---


async def test_blocks_of_the_current_fork_hash_to_their_hash(chain: TestChain) -> None:
    async with Rpc(chain.url) as rpc:
        for tag in ("latest", "finalized", "0x0", "0x1"):
            value = await block(rpc, tag)
            assert keccak256(encode_header(value)) == bytes.fromhex(value["hash"][2:])
            assert header_of(value).number == int(value["number"], 16)
        assert "requestsHash" in value, "the fork with execution requests"


@pytest.mark.parametrize(
    "name", ["parentHash", "stateRoot", "number", "timestamp", "extraData", "requestsHash", "hash"]
)
async def test_a_changed_field_is_noticed(chain: TestChain, name: str) -> None:
    async with Rpc(chain.url) as rpc:
        value = await block(rpc)
    old = value[name]
    value[name] = hex(int(old, 16) + 1) if name in ("number", "timestamp") else "0x" + "ab" * ((len(old) - 2) // 2 or 1)
    with pytest.raises(CloisterError):
        header_of(value)


@pytest.mark.parametrize("name", ["parentHash", "logsBloom", "nonce", "withdrawalsRoot", "blobGasUsed", "hash"])
@pytest.mark.parametrize("broken", [None, "0x", "zz", 5, "0x0" + "1" * 600])
async def test_a_missing_or_malformed_field(chain: TestChain, name: str, broken: Any) -> None:
    async with Rpc(chain.url) as rpc:
        value = await block(rpc)
    value[name] = broken
    with pytest.raises(CloisterError):
        header_of(value)


@pytest.mark.parametrize("answer", [None, [], "0x", {}, 5])
def test_no_block_at_all(answer: Any) -> None:
    with pytest.raises(CloisterError):
        header_of(answer)


async def test_an_older_block_for_the_one_asked(chain: TestChain) -> None:
    async with Rpc(chain.url) as honest:
        first = await block(honest, "0x1")

        def lie(method: str, params: list[Any], result: Any) -> Any:
            return first

        async with liar(chain.url, lie) as url, Rpc(url) as rpc:
            with pytest.raises(CloisterError):
                await fetch_header(rpc, 2)


# --- quorum ---


@contextlib.asynccontextmanager
async def endpoints(chain: TestChain, lies: Sequence[Lie | None]) -> AsyncIterator[list[Rpc]]:
    """Clients of endpoints, honest (None) or lying."""
    async with contextlib.AsyncExitStack() as stack:
        found = []
        for lie in lies:
            url = chain.url if lie is None else await stack.enter_async_context(liar(chain.url, lie))
            found.append(await stack.enter_async_context(Rpc(url)))
        yield found


def behind(by: int) -> Lie:
    """An endpoint whose final head lags: it answers for an older block when asked for the head."""

    def lie(method: str, params: list[Any], result: Any) -> Any:
        return {**result, "number": "0x0"} if params[:1] == ["finalized"] and by else result

    return lie


def broken(method: str, params: list[Any], result: Any) -> Any:
    return None


def forking(method: str, params: list[Any], result: Any) -> Any:
    """A well-formed header of another fork: the hash fits the changed fields."""
    changed = {**result, "extraData": "0x666f726b"}
    changed["hash"] = "0x" + keccak256(encode_header(changed)).hex()
    return changed


async def test_endpoints_that_agree(chain: TestChain) -> None:
    async with endpoints(chain, [None, None, None]) as found:
        verifier: HeaderVerifier = RpcQuorum(found, 2)
        head = await verifier.finalized()
        assert head == await verifier.header(head.number)


async def test_one_may_be_silent_if_m_remain(chain: TestChain) -> None:
    async with endpoints(chain, [None, None, broken]) as found:
        assert (await RpcQuorum(found, 2).finalized()).number > 0
        with pytest.raises(CloisterError) as caught:
            await RpcQuorum(found, 3).finalized()
        assert caught.value.code == "chain.no_quorum"


async def test_one_that_contradicts_stops_the_reader(chain: TestChain) -> None:
    async with endpoints(chain, [None, None, forking]) as found:
        with pytest.raises(CloisterError) as caught:
            await RpcQuorum(found, 2).header(1)
        assert caught.value.code == "chain.conflict"


async def test_a_head_with_a_false_number_does_not_count(chain: TestChain) -> None:
    async with endpoints(chain, [None, behind(1)]) as found:
        with pytest.raises(CloisterError) as caught:
            await RpcQuorum(found, 2).finalized()
        assert caught.value.code == "chain.no_quorum"


def test_a_quorum_has_a_sane_size() -> None:
    for m in (0, 2):
        with pytest.raises(RuntimeError):
            RpcQuorum([Rpc("http://127.0.0.1:1")], m)


# --- following ---


async def test_the_follower_returns_an_unbroken_line(chain: TestChain) -> None:
    async with Rpc(chain.url) as rpc:
        follower = Follower(RpcQuorum([rpc], 1), rpc)
        (start,) = await follower.advance()
        await wait_final(rpc, start.number + 2)
        line = await follower.advance()
        assert len(line) >= 3
        for parent, child in zip((start, *line), line, strict=False):
            assert child.parent == parent.hash
        assert follower.last == line[-1]


class Fixed:
    """A verifier over given headers: the last one is final."""

    def __init__(self, headers: Sequence[Header]) -> None:
        self.headers = {h.number: h for h in headers}
        self.head = headers[-1]

    async def finalized(self) -> Header:
        return self.head

    async def header(self, number: int) -> Header:
        return self.headers[number]


async def real_line(rpc: Rpc, count: int) -> list[Header]:
    head = await wait_final(rpc, count)
    return [await fetch_header(rpc, n) for n in range(head.number - count + 1, head.number + 1)]


async def test_nothing_new_is_an_empty_line(chain: TestChain) -> None:
    async with Rpc(chain.url) as rpc:
        line = await real_line(rpc, 3)
        follower = Follower(Fixed(line), rpc, line[-1])
        assert await follower.advance() == ()
        behind_it = Follower(Fixed(line[:-1]), rpc, line[-1])
        assert await behind_it.advance() == ()


async def test_another_block_at_the_last_height_stops_the_reader(chain: TestChain) -> None:
    async with Rpc(chain.url) as rpc:
        line = await real_line(rpc, 3)
        other = Header(line[-1].number, b"\1" * 32, line[-1].parent, b"\2" * 32, line[-1].timestamp)
        with pytest.raises(CloisterError) as caught:
            await Follower(Fixed(line), rpc, other).advance()
        assert caught.value.code == "chain.conflict"


async def test_a_head_that_is_no_descendant_stops_the_reader(chain: TestChain) -> None:
    async with Rpc(chain.url) as rpc:
        line = await real_line(rpc, 4)
        other = Header(line[1].number, b"\1" * 32, line[1].parent, b"\2" * 32, line[1].timestamp)
        follower = Follower(Fixed(line), rpc, other)
        with pytest.raises(CloisterError) as caught:
            await follower.advance()
        assert caught.value.code == "chainview.header"
        assert follower.last == other, "a refused line moves nothing"


async def test_a_source_that_fills_the_gap_with_another_fork(chain: TestChain) -> None:
    async with Rpc(chain.url) as honest, liar(chain.url, forking) as url, Rpc(url) as rpc:
        line = await real_line(honest, 4)
        with pytest.raises(CloisterError):
            await Follower(Fixed(line), rpc, line[0]).advance()


async def test_a_long_gap_comes_in_vouched_pieces(chain: TestChain, monkeypatch: pytest.MonkeyPatch) -> None:
    assert MAX_CHUNK > 2
    monkeypatch.setattr("cloister.chain.finality.MAX_CHUNK", 2)
    async with Rpc(chain.url) as rpc:
        line = await real_line(rpc, 6)
        follower = Follower(Fixed(line), rpc, line[0])
        pieces = [await follower.advance() for _ in range(4)]
    assert [len(p) for p in pieces] == [2, 2, 1, 0]
    assert [h for piece in pieces for h in piece] == line[1:]
