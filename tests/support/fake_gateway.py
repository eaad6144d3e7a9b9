"""A gateway and its workers for client tests: the real formats over HTTP, in a thread, with switches to misbehave."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from aiohttp import web
from coincurve import PrivateKey

from cloister.chain.contracts import artifact, encode
from cloister.core.encoding.hexes import from_hex, to_hex
from cloister.core.encoding.identity import Purpose
from cloister.core.encoding.keccak import keccak256
from cloister.core.encoding.log_statements import LogHead
from cloister.core.encoding.signatures import Signed, address_of, sign_digest
from cloister.core.envelope.certificate import KeyCertificate, Seat
from cloister.core.envelope.model import Headers
from cloister.core.envelope.oblivious import Issued, issue
from cloister.core.envelope.oblivious_door import ObliviousDoor
from cloister.core.envelope.server import OpenRequest, SealedRefusalError, ServerSessions
from cloister.core.errors import CloisterError
from cloister.core.keys import hpke
from cloister.core.keys.xwing import XWingKey
from cloister.core.receipts.batch import BatchPath, sign_together
from cloister.core.receipts.log import LogProof
from cloister.core.receipts.merkle import consistency_path, inclusion_path, leaf_hash, part_of, root_of
from cloister.core.receipts.receipt import Exchange, Receipt, ReceiptChain
from cloister.core.threshold import ibe
from cloister.core.threshold.groups import hash_identity, to_bytes
from support.fake_world import MEMBERS, MPKS, ROOTS, World, fresh, test_key

SEALED = "application/cloister-sealed"
Handler = Callable[[OpenRequest], tuple[int, Headers, list[bytes]]]


def echo(request: OpenRequest) -> tuple[int, Headers, list[bytes]]:
    """Answers with what it was asked, as JSON."""
    caller = to_hex(request.caller.address) if request.caller else None
    said = {"method": request.head.method, "path": request.head.path, "caller": caller, "body": request.body.decode()}
    return 200, (("content-type", "application/json"),), [json.dumps(said).encode()]


@dataclass
class FakeWorker:
    """One worker boot. ``ran`` lists the requests that the agent saw; ``spoil`` changes the sealed answer's bytes.

    ``hybrid``: new seats have an X-Wing key besides. ``neighbours``: so many receipts of others are signed together
    with each answer's; ``rebatch`` changes its path."""

    world: World
    name: str = "one"
    vendor: str = "intel"
    handler: Handler = echo
    spoil: Callable[[bytes], bytes] = bytes
    key: PrivateKey = field(init=False)
    boot: bytes = field(init=False)
    ran: list[OpenRequest] = field(default_factory=list)
    receipt_key: PrivateKey | None = None
    height: int | None = None
    hybrid: bool = False
    neighbours: int = 0
    rebatch: Callable[[BatchPath], BatchPath] = field(default=lambda path: path)
    issued: list[Receipt] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.key = test_key(f"worker {self.name}")
        self.restart(mine=False)

    @property
    def address(self) -> bytes:
        """20 bytes."""
        return address_of(self.key)

    def restart(self, *, mine: bool = True) -> None:
        """A new boot, registered: every session and certificate is gone."""
        self.boot = fresh()
        self.server, self.door = ServerSessions(self.boot, os.urandom), ObliviousDoor(os.urandom)
        self.certified: list[KeyCertificate] = []
        self.oblivious: dict[bytes, tuple[KeyCertificate, tuple[Issued, ...]]] = {}
        self.hpke = hpke.private_key(os.urandom(32))
        self.xwing = XWingKey(os.urandom(32))
        self.issued = []
        self.chain = ReceiptChain(self.address, self.boot, lambda d: sign_digest(self.receipt_key or self.key, d))
        self.world.set_worker(self.key, self.boot, self.vendor)
        if mine:
            self.world.mine()

    def seat(self, agent: bytes, members: tuple[PrivateKey, ...] | None = None, **changes: Any) -> Seat:
        """A seat under a lease of the newest block; the worker serves it from now on."""
        lease = self.world.lease(agent, self.address, self.boot, **changes)
        public, xwing = self.hpke.public_key().public_bytes_raw(), self.xwing if self.hybrid else None
        both = {} if xwing is None else {"xwing_key": xwing.public}
        certificate = KeyCertificate.under(lease, network=self.world.network.id, hpke_key=public, **both)
        self.server.add(certificate, self.hpke, xwing)
        self.certified.append(certificate)
        return Seat(certificate, certificate.sign(lambda d: sign_digest(self.key, d)), self.world.sign(lease, members))

    def _certify(self, certificate: KeyCertificate) -> None:
        """Oblivious keys beside the certificate's own."""
        root = ROOTS.get(certificate.master_epoch, ROOTS[1])
        call = ibe.DerivedKey(to_bytes(hash_identity(bytes(certificate.call_identity)) * root))
        mpk = MPKS[certificate.master_epoch]
        issued = issue(certificate, call, mpk, lambda d: sign_digest(self.key, d), os.urandom)
        self.oblivious[certificate.id] = (certificate, issued)

    def oblivious_keys(self, agent: bytes) -> list[Any]:
        """Those of this agent's seats, as JSON values; made when first asked for."""
        for certificate in self.certified:
            if certificate.agent == agent and certificate.id not in self.oblivious:
                self._certify(certificate)
        return [shown.to_json() for of, keys in self.oblivious.values() if of.agent == agent for shown, _ in keys]

    def oblivious_answer(self, agent: bytes, data: bytes, *, chunked: bool = False) -> bytes:
        """The encapsulated answer. Raises CloisterError before the request opened."""
        held = [(of, key) for of, keys in self.oblivious.values() if of.agent == agent for _, key in keys]
        return self._served(lambda: self.door.open_request(data, int(self.world.now * 1000), held, chunked=chunked))

    def answer(self, agent: bytes, record: bytes) -> bytes:
        """The whole sealed answer. Raises CloisterError before the request opened."""
        now_ms = int(self.world.now * 1000)
        return self._served(lambda: self.server.open_request(agent, record, now_ms, self._open_psk))

    def _served(self, opens: Callable[[], OpenRequest]) -> bytes:
        try:
            request = opens()
        except SealedRefusalError as refusal:
            return refusal.sealed
        self.ran.append(request)
        responder = request.responder
        try:
            status, headers, chunks = self.handler(request)
        except CloisterError as error:
            return responder.error(error)
        height = self.world.number if self.height is None else self.height
        sent = responder.head(status, headers, height) + b"".join(responder.chunk(c) for c in chunks)
        exchange = Exchange(
            from_hex(request.head.request_id, 16), status, request.commitment(), responder.commitment(request.salt)
        )
        made = [
            self.chain.add(request.certificate, one, checkpoint=height, host_time_ms=int(self.world.now))
            for one in [exchange] + [Exchange(fresh()[:16], 200, fresh(), fresh())] * self.neighbours
        ]
        self.issued += made
        signature, paths = sign_together(made, self.chain.sign)
        batch = None if paths[0] is None else self.rebatch(paths[0]).to_wire()
        return self.spoil(sent + responder.final(made[0].encoded, signature, batch))

    def proof(self, receipt_id: bytes, size: int | None = None, **changes: Any) -> dict[str, Any]:
        """A place in this boot's log, under a head of ``size`` receipts that four members signed."""
        leaves = [leaf_hash(r.id) for r in self.issued][:size]
        said = replace(LogHead(1, self.address, self.boot, len(leaves), root_of(leaves)), **changes)
        index = [r.id for r in self.issued].index(receipt_id)
        path = tuple(inclusion_path(index, len(leaves), part_of(leaves)))
        return LogProof(index, path, self.world.sign(said, MEMBERS[:4])).to_json()

    def _open_psk(self, certificate: KeyCertificate, ciphertext: bytes) -> bytes:
        identity = bytes(certificate.call_identity)
        derived = self.world.derived(certificate.agent, Purpose.CALL, certificate.period)
        return ibe.decrypt(derived, MPKS[certificate.master_epoch], identity, ciphertext, certificate.psk_aad)


class FakeGateway:
    """Serves a world. Replace ``checkpoint``, ``seats``, ``on_call``, ``network`` to misbehave."""

    def __init__(self, world: World, workers: list[FakeWorker]) -> None:
        self.world, self.workers = world, workers
        self.network: bytes = world.network.encode()
        self.checkpoint: Callable[[], Signed] = lambda: world.sign(world.checkpoint())
        self.seats: dict[bytes, list[Any]] = {}
        self.on_call: Callable[[bytes, bytes, bytes], Awaitable[bytes]] | None = None
        self.evidence: Callable[[bytes, bytes], dict[str, Any]] | None = None
        self.calls: list[bytes] = []
        self.oblivious: list[bytes] = []
        self.heard: list[tuple[str, dict[str, str]]] = []
        self.spoil_keys: Callable[[list[Any]], list[Any]] = list
        self.fetched: list[str] = []
        self.proofs: dict[bytes, Any] = {}
        self.consistency: Callable[[Sequence[bytes]], Sequence[bytes]] = tuple
        self.url = ""

    def offer(self, agent: bytes, *workers: FakeWorker, **changes: Any) -> None:
        """New seats of these workers (default all) under present leases."""
        self.seats[agent] = [w.seat(agent, **changes).to_json() for w in workers or self.workers]

    def app(self) -> web.Application:
        """The HTTP routes."""
        made = web.Application(client_max_size=32 << 20, middlewares=[_errors])
        made.router.add_get("/v1/network", self._network)
        made.router.add_get("/v1/checkpoint", self._checkpoint)
        made.router.add_get("/v1/handovers", self._handovers)
        made.router.add_post("/v1/rpc", self._rpc)
        made.router.add_get("/v1/agents/{agent}/seats", self._seats)
        made.router.add_post("/v1/call/{agent}", self._call)
        made.router.add_post("/v1/oblivious/{agent}", self._oblivious)
        made.router.add_get("/v1/oblivious/{agent}/keys", self._oblivious_keys)
        made.router.add_put("/v1/blobs", self._put_blob)
        made.router.add_get("/v1/blobs/{digest}", self._get_blob)
        made.router.add_get("/v1/workers/{worker}/evidence", self._evidence)
        made.router.add_get("/v1/status", self._status)
        made.router.add_get("/v1/receipts/{id}/proof", self._proof)
        made.router.add_get("/v1/receipts/{id}/consistency", self._consistency)
        return made

    async def _network(self, request: web.Request) -> web.Response:
        return web.Response(body=self.network)

    async def _checkpoint(self, request: web.Request) -> web.Response:
        self.fetched.append("checkpoint")
        signed = self.checkpoint()
        return web.json_response(
            {"checkpoint": signed.statement.to_json(), "signatures": [to_hex(s) for s in signed.signatures]}
        )

    def handovers(self) -> dict[str, Any]:
        """Those that the world's committees signed."""
        return {"handovers": [one.to_json() for one in self.world.told], "signing": []}

    async def _handovers(self, request: web.Request) -> web.Response:
        self.fetched.append("handovers")
        return web.json_response(self.handovers())

    async def _rpc(self, request: web.Request) -> web.Response:
        asked = await request.json()
        if isinstance(asked, list):
            return web.json_response([self._rpc_answer(a) for a in asked])
        return web.json_response(self._rpc_answer(asked))

    def _rpc_answer(self, asked: dict[str, Any]) -> dict[str, Any]:
        method, params = asked["method"], asked["params"]
        result: Any
        if method == "eth_chainId":
            result = hex(self.world.network.genesis.chain_id)
        elif method == "eth_blockNumber":
            result = hex(self.world.number)
        elif method == "eth_getBlockByNumber":
            result = self.world.blocks[self.world.number if params[0] == "latest" else int(params[0], 16)]
        elif method == "eth_getProof":
            slots = [int(s, 16) for s in params[1]]
            number = self.world.number if params[2] == "latest" else int(params[2], 16)
            result = self.world.get_proof(bytes.fromhex(params[0][2:]), slots, number)
        elif method == "eth_getCode":
            result = to_hex(self.world.others[bytes.fromhex(params[0][2:])].code)
        elif method == "eth_call" and bytes.fromhex(params[0]["to"][2:]) in self.world.others:
            done = self.world.view_newest(bytes.fromhex(params[0]["to"][2:]), bytes.fromhex(params[0]["data"][2:]))
            if not done.ok:
                return {"id": asked["id"], "error": {"code": 3, "message": "reverted", "data": to_hex(done.output)}}
            result = to_hex(done.output)
        elif method == "eth_call":
            result = to_hex(self._eth_call(bytes.fromhex(params[0]["data"][2:])))
        else:
            return {"jsonrpc": "2.0", "id": asked["id"], "error": {"code": -32601, "message": "not allowed"}}
        return {"jsonrpc": "2.0", "id": asked["id"], "result": result}

    def _eth_call(self, data: bytes) -> bytes:
        """Agents.agent and Workers.worker as ABI words: only ``paused``, ``removed``, ``listed`` are ever read."""
        from eth_abi import encode as abi

        if data[:4] == encode("Agents", "agent", bytes(32))[:4]:
            paused = data[4:36] in self.world.paused_now or self.world.agents[data[4:36]].paused
            return _struct("Agents", "agent", epoch=1, paused=paused, tokenId=1)
        if data[:4] == encode("Agents", "rules", bytes(32))[:4]:
            r = self.world.newest_rules(data[4:36])
            hook, payer = to_hex(r.access_hook), to_hex(r.fee_payer)
            said = (hook, r.emergency_until, payer, r.version, r.egress_hash, r.tools_hash, r.models_hash)
            return bytes(abi(["(address,uint64,address,uint64,bytes32,bytes32,bytes32)"], [said]))
        if data[:4] == encode("Gatekeepers", "masterEpoch")[:4]:
            return bytes(abi(["uint64"], [self.world.newest_epoch]))
        removed = data[16:36] in self.world.removed_now
        return _struct("Workers", "worker", expiry=1, removed=removed, listed=True, registeredAt=1)

    async def _seats(self, request: web.Request) -> web.Response:
        self.fetched.append("seats")
        return web.json_response({"seats": self.seats.get(from_hex(request.match_info["agent"], 32), [])})

    async def _call(self, request: web.Request) -> web.StreamResponse:
        agent, boot = from_hex(request.match_info["agent"], 32), from_hex(request.query["boot"], 32)
        record = await request.read()
        self.calls.append(record)
        if self.on_call is not None:
            answer = await self.on_call(agent, boot, record)
        else:
            answer = self.deliver(agent, boot, record)
        response = web.StreamResponse(headers={"content-type": SEALED})
        await response.prepare(request)
        for at in range(0, len(answer), 1000):
            await response.write(answer[at : at + 1000])
        await response.write_eof()
        return response

    async def _oblivious(self, request: web.Request) -> web.Response:
        data = await request.read()
        self.oblivious.append(data)
        self.heard.append((request.remote or "", dict(request.headers)))
        agent, worker = from_hex(request.match_info["agent"], 32), self._booted(request)
        chunked = request.content_type == "message/ohttp-chunked-req"
        answer = worker.oblivious_answer(agent, data, chunked=chunked)
        return web.Response(body=answer, content_type="message/ohttp-chunked-res" if chunked else "message/ohttp-res")

    async def _oblivious_keys(self, request: web.Request) -> web.Response:
        self.fetched.append("oblivious keys")
        agent = from_hex(request.match_info["agent"], 32)
        return web.json_response({"keys": self.spoil_keys(self._booted(request).oblivious_keys(agent))})

    def _booted(self, request: web.Request) -> FakeWorker:
        for worker in self.workers:
            if to_hex(worker.boot) == request.query["boot"]:
                return worker
        raise NO_WORKER(expected=request.query["boot"], found="no such worker")

    def deliver(self, agent: bytes, boot: bytes, record: bytes) -> bytes:
        """Hand a record to the worker with this boot."""
        for worker in self.workers:
            if worker.boot == boot:
                return worker.answer(agent, record)
        raise NO_WORKER(expected=to_hex(boot), found="no such worker")

    async def _put_blob(self, request: web.Request) -> web.Response:
        data = await request.read()
        digest = hashlib.sha256(data).digest()
        self.world.blobs[digest] = data
        return web.json_response({"digest": to_hex(digest)})

    async def _get_blob(self, request: web.Request) -> web.Response:
        data = self.world.blobs.get(from_hex(request.match_info["digest"], 32))
        return web.Response(body=data) if data is not None else web.json_response({"error": {}}, status=404)

    async def _evidence(self, request: web.Request) -> web.Response:
        assert self.evidence is not None
        worker, nonce = from_hex(request.match_info["worker"], 20), from_hex(request.query["nonce"], 32)
        return web.json_response(self.evidence(worker, nonce))

    async def _proof(self, request: web.Request) -> web.StreamResponse:
        found = self.proofs.get(from_hex(request.match_info["id"], 32))
        return web.json_response(found) if found is not None else web.json_response({"error": {}}, status=404)

    async def _consistency(self, request: web.Request) -> web.StreamResponse:
        receipt_id, old, new = from_hex(request.match_info["id"], 32), int(request.query["from"]), request.query["to"]
        for worker in self.workers:
            if receipt_id in [one.id for one in worker.issued]:
                leaves = [leaf_hash(one.id) for one in worker.issued]
                path = consistency_path(old, int(new), part_of(leaves))
                return web.json_response({"path": to_hex(b"".join(self.consistency(path)))})
        return web.json_response({"error": {}}, status=404)

    async def _status(self, request: web.Request) -> web.Response:
        return web.json_response({"workers": len(self.workers), "version": "test"})


@web.middleware
async def _errors(request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> Any:
    try:
        return await handler(request)
    except CloisterError as error:
        return web.json_response({"error": error.to_wire()}, status=error.status)


def _struct(contract: str, getter: str, **values: Any) -> bytes:
    """What a getter of one struct answers: these members, zeros for the others."""
    from eth_abi import encode as abi

    entry = next(e for e in artifact(contract).abi if e["type"] == "function" and e["name"] == getter)
    members = entry["outputs"][0]["components"]
    zeros: dict[str, Any] = {"address": "0x" + "00" * 20, "bool": False, "bytes32": bytes(32), "string": ""}
    row = tuple(values.get(m["name"], zeros.get(m["type"], 0)) for m in members)
    return bytes(abi(["(" + ",".join(m["type"] for m in members) + ")"], [row]))


class _NoWorker:
    def __call__(self, *, expected: str, found: str) -> CloisterError:
        return CloisterError(
            code="gateway.no_worker", check="a worker", expected=expected, found=found, remedy="wait", status=503
        )


NO_WORKER = _NoWorker()


@contextlib.contextmanager
def serving(gateway: FakeGateway) -> Iterator[str]:
    """The gateway's address; it runs in a thread of its own until the block ends."""
    loop = asyncio.new_event_loop()
    ready, stop = threading.Event(), asyncio.Event()

    async def serve() -> None:
        runner = web.AppRunner(gateway.app(), shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        gateway.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        ready.set()
        await stop.wait()
        await runner.cleanup()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),), daemon=True)
    thread.start()
    assert ready.wait(10)
    try:
        yield gateway.url
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(10)
        loop.close()


def block_hash_of(name: str) -> bytes:
    """A hash that is no block of the world."""
    return keccak256(name.encode())


async def chunks_of(stream: AsyncIterator[bytes]) -> list[bytes]:
    """Everything a stream yields."""
    return [chunk async for chunk in stream]
