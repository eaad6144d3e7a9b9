"""The gateway's other routes: network, checkpoint, chain relay, seats, blobs, evidence, receipts, status."""

from __future__ import annotations

import asyncio
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from cloister.core.encoding.hexes import from_hex, to_hex
from cloister.core.encoding.signatures import Signed, address_of
from cloister.core.encoding.statements import Checkpoint
from cloister.core.envelope.certificate import Seat
from cloister.wire.frames import Incoming
from support.doors import NETWORK_FILE, Door, FakeWorker, checkpoint, code_of, door
from support.sealed import AGENT, BOOT, SIGNERS, WORKER, World


async def get(here: Door, path: str) -> tuple[int, bytes]:
    async with here.http.get(path) as reply:
        assert reply.headers["access-control-allow-origin"] == "*"
        return reply.status, await reply.read()


async def get_json(here: Door, path: str) -> Any:
    status, body = await get(here, path)
    assert status == 200, body
    return json.loads(body)


async def test_the_network_file_is_served_byte_for_byte(tmp_path: Path) -> None:
    async with door(tmp_path) as here:
        assert await get(here, "/v1/network") == (200, NETWORK_FILE.encode())


# Checkpoints


async def test_a_checkpoint_comes_with_t_signatures_of_members(tmp_path: Path) -> None:
    async with door(tmp_path) as here:
        value = await get_json(here, "/v1/checkpoint")
        signed = Signed(Checkpoint.from_json(value["checkpoint"]), tuple(from_hex(s, 65) for s in value["signatures"]))
        signed.verify(NETWORK_FILE.founding, NETWORK_FILE.id)
        assert signed.statement == checkpoint(50)


async def test_members_that_are_ahead_are_asked_for_the_height_that_t_share(tmp_path: Path) -> None:
    async with door(tmp_path) as here:
        here.keepers[0].height, here.keepers[1].height, here.keepers[2].height = 53, 51, 49
        value = await get_json(here, "/v1/checkpoint")
        assert value["checkpoint"]["number"] == 51


async def test_one_dead_member_costs_nothing_and_with_two_the_last_checkpoint_is_served_on(tmp_path: Path) -> None:
    async with door(tmp_path) as here:
        here.keepers[0].broken = True
        first = await get_json(here, "/v1/checkpoint")
        assert first["checkpoint"]["number"] == 50
        here.gateway.checkpoint._at = float("-inf")
        here.keepers[1].broken = True
        assert await get_json(here, "/v1/checkpoint") == first


async def test_without_a_first_checkpoint_the_members_refusal_is_said(tmp_path: Path) -> None:
    async with door(tmp_path) as here:
        here.keepers[0].broken = here.keepers[1].broken = True
        status, body = await get(here, "/v1/checkpoint")
        assert (status, code_of(body)) == (503, "gatekeeper.asleep")


async def test_many_readers_cost_the_gatekeepers_one_question(tmp_path: Path) -> None:
    async with door(tmp_path) as here:
        answers = await asyncio.gather(*(get(here, "/v1/checkpoint") for _ in range(40)))
        assert len({body for _, body in answers}) == 1
        assert sum(k.asked for k in here.keepers) <= 3


# The chain relay


async def rpc(here: Door, value: Any) -> tuple[int, Any]:
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    async with here.http.post("/v1/rpc", data=data) as reply:
        return reply.status, json.loads(await reply.read())


def ask(method: str, number: Any = 1, params: Any = None) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": number, "method": method, "params": [] if params is None else params}


async def test_an_allowed_method_is_relayed_with_its_id(tmp_path: Path) -> None:
    async with door(tmp_path) as here:
        assert await rpc(here, ask("eth_chainId", "a", ["x"])) == (
            200,
            {"jsonrpc": "2.0", "id": "a", "result": ["eth_chainId", ["x"]]},
        )


async def test_a_batch_keeps_its_order_and_a_refused_method_stays_in_it(tmp_path: Path) -> None:
    async with door(tmp_path) as here:
        _, answers = await rpc(here, [ask("eth_blockNumber", 1), ask("anvil_setBalance", 2), ask("eth_getCode", 3)])
        assert [a["id"] for a in answers] == [1, 2, 3]
        assert answers[1]["error"]["data"]["code"] == "gateway.rpc_method"
        assert sorted(v["method"] for v in here.chain.seen) == ["eth_blockNumber", "eth_getCode"]


METHODS = [
    "anvil_impersonateAccount",
    "evm_mine",
    "debug_traceCall",
    "eth_sendTransaction",
    "eth_accounts",
    "ETH_CALL",
    "",
]


@pytest.mark.parametrize("method", METHODS)
async def test_methods_that_are_not_relayed(method: str, tmp_path: Path) -> None:
    async with door(tmp_path) as here:
        status, answer = await rpc(here, ask(method))
        assert (status, answer["error"]["code"]) == (200, -32601)
        assert here.chain.seen == []


BAD_RPC: dict[str, Any] = {
    "no JSON": b"{",
    "a number": 5,
    "an empty batch": [],
    "a long batch": [ask("eth_chainId")] * 51,
    "a batch in a batch": [[ask("eth_chainId")]],
    "more fields": {**ask("eth_chainId"), "x": 1},
    "a method that is no text": ask("eth_chainId") | {"method": 5},
    "an id that is an object": ask("eth_chainId", {}),
    "params as text": ask("eth_chainId") | {"params": "x"},
    "not a number": b'{"jsonrpc":"2.0","id":1,"method":"eth_chainId","params":[NaN]}',
    "depth": b"[" * 100_000,
}


@pytest.mark.parametrize("sentence", BAD_RPC)
async def test_bad_rpc_is_named(sentence: str, tmp_path: Path) -> None:
    async with door(tmp_path) as here:
        status, answer = await rpc(here, BAD_RPC[sentence])
        assert (status, answer["error"]["code"]) == (400, "gateway.rpc")
        assert here.chain.seen == []


async def test_a_repeated_method_field_cannot_smuggle_another_method(tmp_path: Path) -> None:
    async with door(tmp_path) as here:
        body = b'{"jsonrpc":"2.0","id":1,"method":"evm_mine","method":"eth_chainId","params":[]}'
        status, answer = await rpc(here, body)
        assert (status, answer["error"]["code"]) == (400, "gateway.rpc")
        assert here.chain.seen == []


UNREADABLE: dict[str, bytes] = {
    "a number beyond all bounds": b'{"method":"eth_call","params":[1e999]}',
    "a number that is none": b'{"method":"eth_call","params":[NaN]}',
    "infinity by name": b'{"method":"eth_call","params":[-Infinity]}',
    "a number of five thousand digits": b'{"method":"eth_call","params":[' + b"1" * 5000 + b"]}",
    "another encoding of text": '{"method":"eth_call"}'.encode("utf-16"),
    "lists without end": b'{"method":"eth_call","params":' + b"[" * 100_000,
    "lists as deep as the parser goes": b'{"method":"eth_call","params":' + b"[" * 990 + b"]" * 990 + b"}",
    "a field twice inside": b'{"method":"eth_call","params":[{"to":"0x00","to":"0x01"}]}',
}


@pytest.mark.parametrize("sentence", UNREADABLE)
async def test_a_body_that_two_readers_may_read_differently_is_not_relayed(sentence: str, tmp_path: Path) -> None:
    async with door(tmp_path) as here:
        status, answer = await rpc(here, UNREADABLE[sentence])
        assert (status, answer["error"]["code"]) == (400, "gateway.rpc")
        assert here.chain.seen == []


async def test_the_deepest_params_that_are_read_are_relayed_or_refused_and_no_fault(tmp_path: Path) -> None:
    """Reading and writing meet their depth at different calls: between the two nothing may be a fault of the server."""
    async with door(tmp_path) as here:
        seen = set()
        for depth in range(900, 1000, 3):
            status, _ = await rpc(here, b'{"id":1,"method":"eth_call","params":' + b"[" * depth + b"]" * depth + b"}")
            seen.add(status)
        assert seen <= {200, 400, 502}
        assert 400 in seen


@pytest.mark.parametrize("mode", ["error", "huge"])
async def test_a_broken_chain_endpoint_is_named(mode: str, tmp_path: Path) -> None:
    async with door(tmp_path) as here:
        here.chain.mode = mode
        status, answer = await rpc(here, ask("eth_chainId"))
        assert (status, answer["error"]["code"]) == (502, "gateway.no_chain")


async def test_a_large_rpc_body_is_refused(tmp_path: Path) -> None:
    async with door(tmp_path) as here:
        status, answer = await rpc(here, b'"' + b"x" * (1 << 20) + b'"')
        assert (status, answer["error"]["code"]) == (413, "http.too_large")


# Seats


async def test_the_seats_of_an_agent_verify(tmp_path: Path) -> None:
    async with door(tmp_path) as here:
        value = await get_json(here, f"/v1/agents/{to_hex(AGENT)}/seats")
        (seat,) = [Seat.from_json(s) for s in value["seats"]]
        seat.verify(SIGNERS, here.world.certificate.network, 100)
        assert seat == here.world.seat


async def test_an_agent_without_seats_has_none(tmp_path: Path) -> None:
    async with door(tmp_path) as here:
        assert await get_json(here, f"/v1/agents/0x{'99' * 32}/seats") == {"seats": []}


async def test_a_new_announcement_replaces_the_one_before(tmp_path: Path) -> None:
    async with door(tmp_path) as here:
        here.worker.seats = ()
        here.worker.client.announce_again()
        async with asyncio.timeout(5):
            while here.gateway.workers.counts()["seats"]:  # noqa: ASYNC110
                await asyncio.sleep(0.005)
        assert await get_json(here, f"/v1/agents/{to_hex(AGENT)}/seats") == {"seats": []}
        assert here.gateway.workers.counts() == {"workers": 1, "agents": 0, "seats": 0}


async def test_two_workers_offer_two_seats(tmp_path: Path) -> None:
    async with door(tmp_path) as here:
        other = FakeWorker(here.gateway.config.workers, World(boot=b"\x34" * 32))
        other.client.start()
        async with asyncio.timeout(5):
            while here.gateway.workers.counts()["seats"] < 2:  # noqa: ASYNC110
                await asyncio.sleep(0.005)
        value = await get_json(here, f"/v1/agents/{to_hex(AGENT)}/seats")
        assert {s["certificate"]["boot"] for s in value["seats"]} == {to_hex(BOOT), "0x" + "34" * 32}
        await other.client.close()


async def test_a_malformed_announcement_changes_nothing(tmp_path: Path) -> None:
    async with door(tmp_path) as here:
        (await here.worker.client.connected()).announce(b"garbage")
        assert (await here.call(here.world.seal().data))[0] == 200
        assert here.gateway.workers.counts()["seats"] == 1


async def test_a_worker_that_announces_another_boot_gives_up_the_first(tmp_path: Path) -> None:
    async with door(tmp_path) as here:
        here.worker.world = World(boot=b"\x35" * 32)
        here.worker.seats = (here.worker.world.seat,)
        here.worker.client.announce_again()
        async with asyncio.timeout(5):
            while here.gateway.workers.all()[0].boot == BOOT:  # noqa: ASYNC110
                await asyncio.sleep(0.005)
        assert here.gateway.workers.counts()["workers"] == 1


# Blobs, evidence, receipts, status


async def put(here: Door, data: bytes) -> tuple[int, bytes]:
    async with here.http.put("/v1/blobs", data=data) as reply:
        return reply.status, await reply.read()


async def test_a_blob_comes_back_under_its_hash(tmp_path: Path) -> None:
    async with door(tmp_path) as here:
        data = b"a bundle" * 100_000
        status, body = await put(here, data)
        digest = json.loads(body)["digest"]
        assert (status, digest) == (200, to_hex(hashlib.sha256(data).digest()))
        assert await get(here, f"/v1/blobs/{digest}") == (200, data)


async def test_a_blob_that_is_not_there_is_named(tmp_path: Path) -> None:
    async with door(tmp_path) as here:
        status, body = await get(here, f"/v1/blobs/0x{'77' * 32}")
        assert (status, code_of(body)) == (404, "fabric.no_blob")


async def test_uploads_are_capped_each_and_per_hour(tmp_path: Path) -> None:
    async with door(tmp_path, max_blob=1000, blob_hour=1500) as here:
        status, body = await put(here, b"x" * 1001)
        assert (status, code_of(body)) == (413, "http.too_large")
        assert (await put(here, b"x" * 1000))[0] == 200
        status, body = await put(here, b"y" * 501)
        assert (status, code_of(body)) == (503, "gateway.blob_quota")
        here.gateway.routes._hour -= 1
        assert (await put(here, b"y" * 501))[0] == 200


async def test_evidence_is_fetched_from_the_worker_over_the_callers_nonce(tmp_path: Path) -> None:
    async with door(tmp_path) as here:
        path = f"/v1/workers/{to_hex(address_of(WORKER))}/evidence?nonce=0x"
        assert await get_json(here, path + "ab" * 32) == {"evidence": "ab" * 32, "binding": {}}
        status, body = await get(here, path + "ab")
        assert (status, code_of(body)) == (404, "gateway.no_route")
        status, body = await get(here, f"/v1/workers/0x{'99' * 20}/evidence?nonce=0x{'ab' * 32}")
        assert (status, code_of(body)) == (503, "gateway.no_worker")


async def test_evidence_requests_at_once_are_capped(tmp_path: Path) -> None:
    gate = asyncio.Event()

    async def slow(incoming: Incoming) -> None:
        await gate.wait()
        incoming.end(b"{}")

    async with door(tmp_path, slow) as here:
        path = f"/v1/workers/{to_hex(address_of(WORKER))}/evidence?nonce=0x{'ab' * 32}"
        asked = [asyncio.ensure_future(get(here, path)) for _ in range(17)]
        done, _ = await asyncio.wait(asked, timeout=5, return_when=asyncio.FIRST_COMPLETED)
        assert [code_of(one.result()[1]) for one in done] == ["gateway.overloaded"]
        gate.set()
        statuses = [status for status, _ in await asyncio.gather(*asked)]
        assert sorted(statuses) == [200] * 16 + [503]


async def test_status_counts_and_asks_each_worker(tmp_path: Path) -> None:
    async with door(tmp_path) as here:
        await here.call(here.world.seal().data)
        value = await get_json(here, "/v1/status")
        assert value["network"] == NETWORK_FILE.fingerprint()
        assert (value["workers"], value["agents"], value["seats"]) == (1, 1, 1)
        assert value["calls"]["calls"] == 1
        assert value["connected"] == [{"agents": 1}]


async def test_a_worker_that_says_nonsense_about_itself_is_shown_as_that(tmp_path: Path) -> None:
    async def nonsense(incoming: Incoming) -> None:
        incoming.end(b"[" * 5000)

    async with door(tmp_path, nonsense) as here:
        value = await get_json(here, "/v1/status")
        assert value["connected"] == [{"worker": to_hex(address_of(WORKER)), "error": "frames.broken"}]


NO_ROUTES = [
    ("GET", "/"),
    ("GET", "/v1"),
    ("POST", "/v1/network"),
    ("GET", "/v1/network/"),
    ("GET", "/v1/network?x=1"),
    ("GET", "//v1/network"),
    ("GET", "/v1/../v1/network"),
    ("GET", f"/v1/receipts/0x{'77' * 31}"),
    ("GET", f"/v1/receipts/0x{'77' * 32}/proofs"),
    ("POST", f"/v1/receipts/0x{'77' * 32}"),
    ("GET", "/v1/agents/0xAB/seats"),
    ("GET", f"/v1/blobs/{'77' * 32}"),
    ("GET", "/v1/blobs/0x" + "../" * 10),
    ("DELETE", "/v1/blobs/0x" + "77" * 32),
    ("GET", f"/v1/call/0x{'22' * 32}?boot=0x{'33' * 32}"),
]


@pytest.mark.parametrize(("method", "target"), NO_ROUTES)
async def test_anything_else_is_no_route(method: str, target: str, tmp_path: Path) -> None:
    async with door(tmp_path) as here:
        reader, writer = await asyncio.open_connection("127.0.0.1", here.gateway.http.port)
        writer.write(f"{method} {target} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".encode())
        answer = await asyncio.wait_for(reader.read(), 5)
        writer.close()
        assert answer.startswith(b"HTTP/1.1 404")
        assert code_of(answer.partition(b"\r\n\r\n")[2]) == "gateway.no_route"


async def test_a_body_where_none_belongs_is_refused(tmp_path: Path) -> None:
    async with door(tmp_path) as here, here.http.post("/v1/status", data=b"x") as reply:
        assert code_of(await reply.read()) == "http.too_large"


async def test_browsers_may_ask(tmp_path: Path) -> None:
    async with door(tmp_path) as here, here.http.options("/v1/blobs") as reply:
        assert reply.status == 200
        assert "PUT" in reply.headers["access-control-allow-methods"]
        assert reply.headers["access-control-allow-origin"] == "*"
