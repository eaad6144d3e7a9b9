"""Oblivious calls through a real relay: answers, receipts, refusals, losses, what each part on the way sees."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import ClientSession

from cloister.client import Client, Demand, Wallet
from cloister.client.sync import Client as BlockingClient
from cloister.core.encoding.hexes import to_hex
from cloister.core.encoding.signatures import address_of
from cloister.core.envelope.ohttp import read_length
from cloister.core.errors import CloisterError, EnvelopeError, define
from cloister.relay import Relay
from support.fake_gateway import chunks_of
from support.fake_world import fresh, test_key

NO = define("test.oblivious_refusal", EnvelopeError, check="may ask", remedy="do not", status=403)
BUSY = define("test.oblivious_busy", EnvelopeError, check="a free worker", remedy="wait", status=503)


@asynccontextmanager
async def relayed(net: Any) -> AsyncIterator[str]:
    """A relay in front of the network's gateway."""
    relay = Relay(net.gateway.url)
    port = await relay.start("127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        await relay.close()


@asynccontextmanager
async def agent_of(net: Any, demand: Demand | None = None, **options: Any) -> AsyncIterator[Any]:
    """The agent, over a relay."""
    async with relayed(net) as url, net.client(oblivious=url, **options) as client:
        yield await client.agent(net.agent, demand=demand)


def runs(net: Any) -> list[Any]:
    return [*net.one.ran, *net.two.ran]


async def code_of(work: Any) -> str:
    with pytest.raises(CloisterError) as caught:
        await work
    return caught.value.code


# --- answers ---


async def test_a_call_through_a_relay_has_answer_receipt_and_proof(net: Any) -> None:
    async with agent_of(net) as agent:
        reply = await agent.post("/notes?x=1", json={"a": 1}, headers={"X-Trace": "1"})
    assert (reply.status, reply.attempts) == (200, 1)
    assert reply.json() == {"method": "POST", "path": "/notes?x=1", "caller": None, "body": '{"a":1}'}
    assert reply.receipt.worker == reply.proof.worker
    assert reply.request_id == runs(net)[0].head.request_id
    assert net.gateway.calls == [], "nothing went the other way"
    assert len(net.gateway.oblivious) == 1


@pytest.mark.long
async def test_every_request_has_a_context_of_its_own(net: Any) -> None:
    async with agent_of(net) as agent:
        for number in range(3):
            await agent.get(f"/{number}")
    encs = {data[7:39] for data in net.gateway.oblivious}
    assert len(encs) == 3
    assert net.gateway.fetched.count("oblivious keys") <= 2, "keys are kept, by seat"


@pytest.mark.long
async def test_receipts_are_kept_as_of_any_call(net: Any) -> None:
    async with relayed(net) as url, net.client(oblivious=url) as client:
        reply = await (await client.agent(net.agent)).get("/")
        kept = client.ledger.load(reply.receipt.id)
    assert kept.receipt == reply.receipt


def in_pieces(request: Any) -> Any:
    """An agent that streams."""
    return 200, (("content-type", "text/event-stream"),), [b"one", b"two", b"three"]


async def test_a_stream_comes_in_the_pieces_that_the_agent_made(net: Any) -> None:
    net.one.handler = net.two.handler = in_pieces
    async with agent_of(net) as agent:
        stream = agent.stream("GET", "/")
        assert await chunks_of(stream) == [b"one", b"two", b"three"]
        assert stream.receipt is not None
        reply = await agent.get("/")
    assert reply.body == b"onetwothree"
    kinds = [headers["Content-Type"] for _, headers in net.gateway.heard]
    assert kinds == ["message/ohttp-chunked-req", "message/ohttp-req"], "what is collected first is one message"


def without_its_end(data: bytes) -> bytes:
    """Nonce and chunks, without the final one."""
    at = 32
    while length := read_length(data, at):
        size, start = length
        if not size:
            break
        at = start + size
    return data[:at]


SPOILED_STREAMS: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "cut before its end": (without_its_end, "ohttp.truncated"),
    "cut in its end": (lambda data: data[:-1], "ohttp.not_authentic"),
    "with bytes behind it": (lambda data: data + b"\0", "ohttp.not_authentic"),
}


@pytest.mark.parametrize("what", SPOILED_STREAMS)
async def test_a_stream_is_not_complete_when_it_was(what: str, net: Any) -> None:
    spoil, code = SPOILED_STREAMS[what]
    net.one.handler = net.two.handler = in_pieces
    net.one.spoil = net.two.spoil = spoil
    async with agent_of(net) as agent:
        stream = agent.stream("GET", "/")
        seen: list[bytes] = []

        async def read() -> None:
            async for piece in stream:
                seen.append(piece)

        assert await code_of(read()) == code
    assert seen == [b"one", b"two", b"three"]


@pytest.mark.long
async def test_a_stream_by_x_wing_as_a_wallet(net: Any) -> None:
    all_hybrid(net)
    net.one.handler = net.two.handler = in_pieces
    async with agent_of(net, Demand(post_quantum=True), wallet=Wallet(test_key("caller"))) as agent:
        assert await chunks_of(agent.stream("POST", "/", json={})) == [b"one", b"two", b"three"]
    assert [data[1:3] for data in net.gateway.oblivious] == [b"\x64\x7a"]


async def test_a_wallet_is_known_to_the_agent_and_to_nobody_on_the_way(net: Any) -> None:
    wallet = Wallet(test_key("caller"))
    async with agent_of(net, wallet=wallet) as agent:
        reply = await agent.get("/")
    address = address_of(test_key("caller"))
    assert reply.json()["caller"] == to_hex(address)
    for data in net.gateway.oblivious:
        assert address not in data
        assert address.hex().encode() not in data


@pytest.mark.long
def test_the_blocking_client_has_the_same_option(net: Any) -> None:
    """Its loop runs beside the one that the relay runs in."""
    import asyncio
    import threading

    started, stop = threading.Event(), asyncio.Event()
    loop, urls = asyncio.new_event_loop(), list[str]()

    async def serve() -> None:
        async with relayed(net) as url:
            urls.append(url)
            started.set()
            await stop.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),), daemon=True)
    thread.start()
    assert started.wait(10)
    try:
        options = {"fingerprint": net.world.network.fingerprint(), "home": net.home, "clock": lambda: net.world.now}
        with BlockingClient("http://gateway.invalid", oblivious=urls[0], **options) as client:
            assert client.agent(net.agent).get("/").status == 200
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(10)
        loop.close()


# --- what each part sees ---


@pytest.mark.long
async def test_the_gateway_is_not_asked_for_anything_by_the_caller_itself(net: Any) -> None:
    """The client does not even know where it is."""
    async with relayed(net) as url:
        client = Client(
            "http://gateway.invalid",
            oblivious=url,
            fingerprint=net.world.network.fingerprint(),
            home=net.home,
            clock=lambda: net.world.now,
        )
        async with client:
            reply = await (await client.agent(net.agent)).get("/")
    assert reply.status == 200


async def test_what_the_gateway_hears_names_nobody(net: Any) -> None:
    async with agent_of(net) as agent:
        await agent.post("/private-path", body=b"private body", headers={"X-Private": "private"})
    names = {name.lower() for _, headers in net.gateway.heard for name in headers}
    assert names <= {"host", "content-type", "content-length", "accept", "accept-encoding"}
    for data in net.gateway.oblivious:
        assert b"private" not in data


# --- refusals and losses ---


async def test_an_authentic_refusal_is_raised_with_its_code(net: Any) -> None:
    def refuse(request: Any) -> Any:
        raise NO(expected="a", found="b")

    net.one.handler = net.two.handler = refuse
    async with agent_of(net) as agent:
        assert await code_of(agent.post("/", body=b"")) == "test.oblivious_refusal"
    assert len(runs(net)) == 1


@pytest.mark.long
async def test_a_busy_worker_sends_a_safe_request_to_another_under_a_new_name(net: Any) -> None:
    def busy(request: Any) -> Any:
        raise BUSY(expected="a", found="b")

    net.one.handler = busy
    async with agent_of(net) as agent:
        for number in range(4):
            assert (await agent.get(f"/{number}")).status == 200
    names = [r.head.request_id for r in runs(net)]
    assert len(names) == len(set(names))


@pytest.mark.long
async def test_an_idempotent_request_keeps_its_name_at_the_next_worker(net: Any) -> None:
    def busy(request: Any) -> Any:
        raise BUSY(expected="a", found="b")

    net.one.handler = busy
    async with agent_of(net) as agent:
        for number in range(3):
            await agent.post("/", body=b"", idempotency_key=f"key {number}")
    seen = [r.head.request_id for r in net.two.ran]
    assert {r.head.request_id for r in net.one.ran} <= set(seen)


@pytest.mark.long
@pytest.mark.parametrize("how", ["flipped", "cut", "of another request"])
async def test_a_spoiled_answer_leaves_the_outcome_of_a_post_unknown(net: Any, how: str) -> None:
    kept: list[bytes] = []

    def spoil(data: bytes) -> bytes:
        kept.append(data)
        flipped = data[:-1] + bytes([data[-1] ^ 1])
        return {"flipped": flipped, "cut": data[: len(data) // 2], "of another request": kept[0]}[how]

    async with agent_of(net) as agent:
        if how == "of another request":
            net.one.spoil = net.two.spoil = lambda data: (kept.append(data), data)[1]  # type: ignore[func-returns-value]
            await agent.get("/")
        net.one.spoil = net.two.spoil = spoil
        assert await code_of(agent.post("/", body=b"x")) == "client.outcome_unknown"


async def test_a_get_is_tried_again_after_a_spoiled_answer(net: Any) -> None:
    left = [1]

    def spoil(data: bytes) -> bytes:
        left[0] -= 1
        return data if left[0] < 0 else data[:-1]

    net.one.spoil = net.two.spoil = spoil
    async with agent_of(net) as agent:
        reply = await agent.get("/")
    assert (reply.status, reply.attempts) == (200, 2)


@pytest.mark.long
async def test_a_worker_that_restarted_is_found_again(net: Any) -> None:
    async with agent_of(net) as agent:
        await agent.get("/")
        for worker in (net.one, net.two):
            worker.restart()
        net.gateway.offer(net.agent)
        assert (await agent.get("/")).status == 200


@pytest.mark.long
async def test_a_receipt_of_another_key_is_not_believed(net: Any) -> None:
    net.one.receipt_key = net.two.receipt_key = test_key("nobody")
    async with agent_of(net) as agent:
        assert (await code_of(agent.get("/"))).startswith(("receipt.", "encoding."))


@pytest.mark.long
async def test_an_answer_from_a_stale_view_is_not_believed(net: Any) -> None:
    net.one.height = net.two.height = 1
    async with agent_of(net) as agent:
        assert await code_of(agent.post("/", body=b"")) == "client.stale_answer"


# --- no way down ---

SPOILED_KEYS: dict[str, tuple[Callable[[list[Any]], list[Any]], str]] = {
    "no keys": (lambda keys: [], "client.oblivious_key"),
    "a key of another certificate": (
        lambda keys: [{**k, "certificate": to_hex(fresh())} for k in keys],
        "client.oblivious_key",
    ),
    "another configuration": (lambda keys: [{**k, "config": k["config"][:-2] + "02"} for k in keys], ""),
    "no proof of the call key": (lambda keys: [{**k, "proof": "0x" + "00" * 96} for k in keys], "threshold.point"),
    "no object": (lambda keys: [5], "encoding.field"),
}


@pytest.mark.long
@pytest.mark.parametrize("what", SPOILED_KEYS)
async def test_without_a_key_that_verifies_nothing_leaves(net: Any, what: str) -> None:
    spoil, code = SPOILED_KEYS[what]
    net.gateway.spoil_keys = spoil
    async with agent_of(net) as agent:
        found = await code_of(agent.post("/", body=b"private"))
    assert found == code or (not code and found.startswith("encoding."))
    assert net.gateway.oblivious == []
    assert net.gateway.calls == []


def all_hybrid(net: Any) -> None:
    """Every seat has X-Wing besides."""
    net.one.hybrid = net.two.hybrid = True
    net.gateway.offer(net.agent)


async def test_a_demand_for_x_wing_is_refused_where_no_worker_has_it_and_met_where_one_has(net: Any) -> None:
    async with agent_of(net, Demand(post_quantum=True)) as agent:
        assert await code_of(agent.get("/")) == "client.demand_post_quantum"
    assert net.gateway.oblivious == []
    all_hybrid(net)
    async with agent_of(net, Demand(post_quantum=True)) as agent:
        assert (await agent.get("/")).status == 200
    assert {data[1:3] for data in net.gateway.oblivious} == {b"\x64\x7a"}


async def test_x_wing_is_used_unasked_wherever_the_certificate_has_it(net: Any) -> None:
    all_hybrid(net)
    async with agent_of(net) as agent:
        assert (await agent.post("/", json={})).status == 200
    assert [data[1:3] for data in net.gateway.oblivious] == [b"\x64\x7a"]


async def test_who_leaves_the_x_wing_key_out_gets_no_call_under_the_other(net: Any) -> None:
    """A gateway or relay shows the honest key of X25519 alone."""
    all_hybrid(net)
    net.gateway.spoil_keys = lambda keys: [one for one in keys if one["config"][4:8] == "0020"]
    async with agent_of(net) as agent:
        assert await code_of(agent.post("/", body=b"private")) == "client.oblivious_key"
    assert net.gateway.oblivious == []


async def test_the_relay_passes_no_sealed_call(net: Any) -> None:
    async with relayed(net) as url, ClientSession() as session:
        target = f"{url}/v1/call/{to_hex(net.agent)}?boot={to_hex(net.one.boot)}"
        async with session.post(target, data=b"") as answer:
            assert answer.status == 404
            assert (await answer.json())["error"]["code"] == "relay.no_route"
    assert net.gateway.calls == []


@pytest.mark.long
async def test_a_relay_that_is_not_there_is_said_so(net: Any) -> None:
    async with relayed(net) as url:
        pass
    client = net.client(oblivious=url)
    assert await code_of(client.connect()) == "client.unreachable"
    await client.close()
