"""A gateway on a real socket with a fake worker, fake gatekeepers and a fake chain: for tests of the gateway."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

from cloister.core.encoding.hexes import to_hex
from cloister.core.encoding.network import ContractRef, Genesis, Network
from cloister.core.encoding.signatures import SignerSet, address_of, sign_digest
from cloister.core.encoding.statements import Checkpoint
from cloister.core.envelope.certificate import Seat
from cloister.core.errors import CloisterError
from cloister.gateway.config import GatewayConfig
from cloister.gateway.service import Gateway
from cloister.wire.announce import Announcement, Kind, split_call
from cloister.wire.frames import FrameClient, Incoming
from support.sealed import AGENT, MEMBERS, NETWORK, NOW, WORKER, World, answer, key

SERVED = "application/cloister-sealed"


def network_file() -> Network:
    genesis = Genesis(
        mode="devnet",
        chain_id=31337,
        genesis_hash=b"\x01" * 32,
        contracts={"Agents": ContractRef(b"\x02" * 20, b"\x03" * 32)},
        policy={"v": 1},
        roots={"intel": ("0x" + "ab" * 32,)},
        header_verifier="rpc-quorum",
    )
    members = tuple(address_of(k) for k in MEMBERS)
    return Network(genesis, SignerSet(1, 2, members), b"\x04" * 32, b"\x05" * 96, (b"\x06" * 96,) * 3, 1)


NETWORK_FILE = network_file()


def checkpoint(number: int) -> Checkpoint:
    block = number.to_bytes(32, "big")
    return Checkpoint(1, 31337, number, block, block, NOW // 1000)


class Gatekeeper:
    """Answers /v1/checkpoint with what it was told to have signed."""

    def __init__(self, member: int, height: int) -> None:
        self.member, self.height, self.asked, self.broken = member, height, 0, False

    async def newest(self, request: web.Request) -> web.Response:
        self.asked += 1
        number = int(request.match_info.get("number", self.height))
        if self.broken or number > self.height:
            return web.json_response({"error": {"code": "gatekeeper.asleep"}}, status=503)
        said = checkpoint(number)
        signature = sign_digest(MEMBERS[self.member], said.digest(NETWORK_FILE.id))
        return web.json_response({"checkpoint": said.to_json(), "signature": to_hex(signature)})

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_get("/v1/checkpoint", self.newest)
        app.router.add_get("/v1/checkpoint/{number}", self.newest)
        return app


class Chain:
    """A JSON-RPC endpoint that echoes method and params, and can misbehave."""

    def __init__(self) -> None:
        self.seen: list[Any] = []
        self.mode = "good"

    async def post(self, request: web.Request) -> web.Response:
        value = await request.json()
        self.seen.append(value)
        if self.mode == "error":
            return web.Response(status=500, text="broken")
        if self.mode == "huge":
            return web.Response(body=b"x" * (9 << 20))
        result = {"jsonrpc": "2.0", "id": value["id"], "result": [value["method"], value["params"]]}
        return web.json_response(result)

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_post("/", self.post)
        return app


@contextlib.asynccontextmanager
async def site(app: web.Application) -> AsyncIterator[str]:
    runner = web.AppRunner(app)
    await runner.setup()
    where = web.TCPSite(runner, "127.0.0.1", 0)
    await where.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


Serve = Callable[[Incoming], Awaitable[None]]


class FakeWorker:
    """Opens real sealed requests and answers them; ``serve`` may replace that."""

    def __init__(self, path: Path, world: World, serve: Serve | None = None) -> None:
        self.world, self.custom = world, serve
        self.seen: list[bytes] = []
        self.seats: tuple[Seat, ...] = (world.seat,)
        self.client = FrameClient(path, handler=self.serve, announce=self.announcement)

    def announcement(self) -> bytes:
        return Announcement(address_of(WORKER), self.world.boot, self.seats).encode()

    async def serve(self, incoming: Incoming) -> None:
        if self.custom is not None:
            await self.custom(incoming)
        elif incoming.kind == Kind.CALL:
            agent, record = split_call(incoming.payload)
            self.seen.append(record)
            request = self.world.open(record, agent=agent)
            await incoming.send(answer(request, b"you said " + request.body))
        elif incoming.kind == Kind.EVIDENCE:
            await incoming.send(json.dumps({"evidence": incoming.payload.hex(), "binding": {}}).encode())
        else:
            incoming.end(b'{"agents":1}')


class Door:
    """The gateway under test and everything around it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.keepers = [Gatekeeper(i, 50) for i in range(3)]
        self.chain = Chain()
        self.world = World()
        self.gateway: Gateway
        self.worker: FakeWorker
        self.http: aiohttp.ClientSession

    def config(self, rpc: str, keepers: list[str], **options: Any) -> GatewayConfig:
        network = self.folder / "network.json"
        network.write_bytes(NETWORK_FILE.encode())
        fields: dict[str, Any] = {
            "host": "127.0.0.1",
            "port": 0,
            "network": network,
            "rpc": rpc,
            "gatekeepers": keepers,
            "workers": self.folder / "w.sock",
            "fabric": self.folder / "fabric",
            "drain_s": 1,
        }
        return GatewayConfig(**(fields | options))

    async def call(self, body: bytes, *, boot: bytes | None = None, agent: bytes = AGENT) -> tuple[int, str, bytes]:
        """(status, content type, body) of one raw call."""
        target = f"/v1/call/{to_hex(agent)}?boot={to_hex(boot or self.world.boot)}"
        async with self.http.post(target, data=body, headers={"content-type": SERVED}) as reply:
            return reply.status, reply.content_type, await reply.read()

    async def linked(self) -> None:
        """Until the worker's announcement arrived."""
        async with asyncio.timeout(5):
            while not self.gateway.workers.all():  # noqa: ASYNC110
                await asyncio.sleep(0.005)


@contextlib.asynccontextmanager
async def door(folder: Path, serve: Serve | None = None, **options: Any) -> AsyncIterator[Door]:
    here = Door(folder)
    async with contextlib.AsyncExitStack() as stack:
        rpc = await stack.enter_async_context(site(here.chain.app()))
        keepers = [await stack.enter_async_context(site(k.app())) for k in here.keepers]
        here.gateway = await Gateway.open(here.config(rpc, keepers, **options))
        port = await here.gateway.start()
        stack.push_async_callback(here.gateway.close)
        here.worker = FakeWorker(here.gateway.config.workers, here.world, serve)
        here.worker.client.start()
        stack.push_async_callback(here.worker.client.close)
        await here.linked()
        here.http = await stack.enter_async_context(aiohttp.ClientSession(f"http://127.0.0.1:{port}"))
        yield here


def code_of(body: bytes) -> str:
    """The code of an error body."""
    value = json.loads(body)
    assert set(value) == {"error"}
    return str(value["error"]["code"])


__all__ = ["AGENT", "NETWORK", "CloisterError", "Door", "FakeWorker", "code_of", "door", "key", "site"]
