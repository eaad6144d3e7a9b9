"""The gateway's routes (spec/gateway-api.md): a table, and one small function per line."""

from __future__ import annotations

import asyncio
import hashlib
import re
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

from cloister import __version__
from cloister.core.encoding.hexes import to_hex
from cloister.core.errors import CloisterError, TransportError, define
from cloister.fabric.ports import Fabric
from cloister.gateway import oblivious
from cloister.gateway.calls import OVERLOADED, Calls
from cloister.gateway.config import GatewayConfig
from cloister.gateway.handovers import Handovers
from cloister.gateway.relay import MAX_RPC, CheckpointCache, RpcRelay
from cloister.gateway.workers import NO_WORKER, Linked, Workers
from cloister.wire.announce import Kind
from cloister.wire.frames import BROKEN, Connection
from cloister.wire.http import TIMEOUT, Exchange
from cloister.wire.messages import parse_json

EXTRA: Final = (
    b"access-control-allow-origin: *\r\n"
    b"access-control-expose-headers: content-length, content-type\r\n"
    b"x-content-type-options: nosniff\r\n"
)
_PREFLIGHT: Final = (
    b"access-control-allow-methods: GET, POST, PUT, OPTIONS\r\n"
    b"access-control-allow-headers: content-type, traceparent\r\n"
    b"access-control-max-age: 86400\r\n"
)
_FOR_EVER: Final = b"cache-control: public, max-age=31536000, immutable\r\n"
MAX_EVIDENCE: Final = 1 << 20
MAX_RECEIPT: Final = 1 << 17
_MAX_RECEIPTS_AT_ONCE: Final = 32
_RECEIPT_S: Final = 5.0
_MAX_EVIDENCE_AT_ONCE: Final = 16
_EVIDENCE_S: Final = 20.0
_STATUS_S: Final = 1.0
_MAX_SHOWN: Final = 64

NO_ROUTE = define(
    "gateway.no_route",
    TransportError,
    check="method and path are those of spec/gateway-api.md",
    remedy="compare the request with spec/gateway-api.md",
    status=404,
)
QUOTA = define(
    "gateway.blob_quota",
    TransportError,
    check="uploads stay within what the operator allows per hour",
    remedy="try again later, or use a gateway of your own",
    status=503,
)

# These say more than "not here".
SAYS_MORE: Final = frozenset({"worker.receipt_not_witnessed", "fabric.receipt_pruned"})
_HEX = r"0x([0-9a-f]{64})"
Answer = Callable[[Exchange, tuple[str, ...]], Awaitable[None]]


class Routes:
    """Everything but calls is a coroutine; calls go straight to ``Calls``."""

    def __init__(
        self,
        config: GatewayConfig,
        network: bytes,
        fabric: Fabric,
        workers: Workers,
        calls: Calls,
        rpc: RpcRelay,
        checkpoint: CheckpointCache,
        handovers: Handovers,
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._config, self._network, self._fabric = config, network, fabric
        self._workers, self._calls, self._rpc, self._checkpoint = workers, calls, rpc, checkpoint
        self._handovers = handovers
        self._monotonic, self._since = monotonic, monotonic()
        self._fingerprint = hashlib.sha256(network).hexdigest()
        self._hour, self._uploaded = 0, 0
        self._asking = self._seeking = 0
        self._said: list[dict[str, Any]] = []
        self._said_at = float("-inf")
        self._table: list[tuple[str, re.Pattern[str], Answer]] = [
            ("GET", re.compile(r"/v1/network"), self._get_network),
            ("GET", re.compile(r"/v1/checkpoint"), self._get_checkpoint),
            ("GET", re.compile(r"/v1/handovers"), self._get_handovers),
            ("POST", re.compile(r"/v1/rpc"), self._post_rpc),
            ("GET", re.compile(rf"/v1/agents/{_HEX}/seats"), self._get_seats),
            ("PUT", re.compile(r"/v1/blobs"), self._put_blob),
            ("GET", re.compile(rf"/v1/blobs/{_HEX}"), self._get_blob),
            ("GET", re.compile(rf"/v1/workers/0x([0-9a-f]{{40}})/evidence\?nonce={_HEX}"), self._get_evidence),
            ("GET", oblivious.KEYS, self._get_oblivious),
            ("GET", re.compile(r"/v1/status"), self._get_status),
            ("GET", re.compile(rf"/v1/receipts/{_HEX}(/proof)?"), self._get_receipt),
            (
                "GET",
                re.compile(rf"/v1/receipts/{_HEX}/consistency\?from=([1-9][0-9]{{0,15}})&to=([1-9][0-9]{{0,15}})"),
                self._get_consistency,
            ),
            (
                "GET",
                re.compile(rf"/v1/answers/{_HEX}/([1-9][0-9]{{0,15}})\?chain=([1-9][0-9]{{0,15}})"),
                self._get_answer,
            ),
        ]

    def max_body(self, method: str, target: str) -> int:
        """The cap of a request's body, before it is read."""
        if method == "POST" and target.startswith(("/v1/call/", oblivious.PREFIX)):
            return self._config.max_call
        if method == "PUT" and target == "/v1/blobs":
            return self._config.max_blob
        return MAX_RPC if method == "POST" and target == "/v1/rpc" else 0

    def handle(self, exchange: Exchange) -> None:
        """Serve one request. Raises CloisterError by name."""
        method, target = exchange.request.method, exchange.request.target
        if method == "POST" and target.startswith("/v1/call/"):
            self._calls.serve(exchange)
            return
        if method == "POST" and target.startswith(oblivious.PREFIX):
            oblivious.serve(self._calls, exchange)
            return
        if method == "OPTIONS":
            exchange.reply(200, b"", "text/plain", _PREFLIGHT)
            return
        for verb, pattern, answer in self._table:
            match = pattern.fullmatch(target) if verb == method else None
            if match is not None:
                exchange.run(_awaiting(answer(exchange, match.groups())))
                return
        raise NO_ROUTE(expected="a route of the gateway", found=f"{method} {target.partition('?')[0]}"[:120])

    async def _get_network(self, exchange: Exchange, parts: tuple[str, ...]) -> None:
        exchange.reply(200, self._network)

    async def _get_checkpoint(self, exchange: Exchange, parts: tuple[str, ...]) -> None:
        exchange.reply(200, await self._checkpoint.answer(), extra=b"cache-control: no-store\r\n")

    async def _get_handovers(self, exchange: Exchange, parts: tuple[str, ...]) -> None:
        exchange.reply(200, await self._handovers.answer(), extra=b"cache-control: no-store\r\n")

    async def _post_rpc(self, exchange: Exchange, parts: tuple[str, ...]) -> None:
        exchange.reply(200, await self._rpc.answer(exchange.request.body))

    async def _get_seats(self, exchange: Exchange, parts: tuple[str, ...]) -> None:
        exchange.reply(200, self._workers.seats(bytes.fromhex(parts[0])), extra=b"cache-control: no-store\r\n")

    async def _put_blob(self, exchange: Exchange, parts: tuple[str, ...]) -> None:
        body = exchange.request.body
        self._take_quota(len(body))
        exchange.json({"digest": to_hex(await self._fabric.blobs.put(body))})

    async def _get_blob(self, exchange: Exchange, parts: tuple[str, ...]) -> None:
        data = await self._fabric.blobs.get(bytes.fromhex(parts[0]))
        exchange.reply(200, data, "application/octet-stream", _FOR_EVER)

    async def _get_evidence(self, exchange: Exchange, parts: tuple[str, ...]) -> None:
        linked = self._workers.by_address(bytes.fromhex(parts[0]))
        nonce = bytes.fromhex(parts[1])
        if self._asking >= _MAX_EVIDENCE_AT_ONCE:
            raise OVERLOADED(expected=f"at most {_MAX_EVIDENCE_AT_ONCE} evidence requests at once", found="one more")
        self._asking += 1
        try:
            exchange.reply(200, await _ask(linked.connection, Kind.EVIDENCE, nonce, MAX_EVIDENCE, _EVIDENCE_S))
        finally:
            self._asking -= 1

    async def _get_oblivious(self, exchange: Exchange, parts: tuple[str, ...]) -> None:
        agent, plain, boot = bytes.fromhex(parts[0]), parts[1] == "ohttp-keys", bytes.fromhex(parts[2])
        linked = self._workers.by_boot(boot)
        if self._asking >= _MAX_EVIDENCE_AT_ONCE:
            raise OVERLOADED(expected=f"at most {_MAX_EVIDENCE_AT_ONCE} such requests at once", found="one more")
        self._asking += 1
        try:
            said = await _ask(linked.connection, Kind.OBLIVIOUS_KEYS, agent, MAX_RECEIPT, _RECEIPT_S)
        finally:
            self._asking -= 1
        oblivious.show(exchange, said, plain=plain)

    async def _get_receipt(self, exchange: Exchange, parts: tuple[str, ...]) -> None:
        """Whichever connected worker has it: workers that share a store have each other's."""
        await self._seek(exchange, bytes([2 if parts[1] else 1]) + bytes.fromhex(parts[0]))

    async def _get_consistency(self, exchange: Exchange, parts: tuple[str, ...]) -> None:
        """That a receipt's log of one size begins with that of another."""
        sizes = b"".join(int(one).to_bytes(8, "big") for one in parts[1:])
        await self._seek(exchange, b"\x03" + bytes.fromhex(parts[0]) + sizes)

    async def _seek(self, exchange: Exchange, question: bytes, kind: Kind = Kind.RECEIPT) -> None:
        if self._seeking >= _MAX_RECEIPTS_AT_ONCE:
            raise OVERLOADED(expected=f"at most {_MAX_RECEIPTS_AT_ONCE} such questions at once", found="one more")
        self._seeking += 1
        try:
            exchange.reply(200, await self._sought(question, kind), extra=b"cache-control: no-store\r\n")
        finally:
            self._seeking -= 1

    async def _get_answer(self, exchange: Exchange, parts: tuple[str, ...]) -> None:
        """A contract's answer that no worker can pay to bring: whoever asks may."""
        question = int(parts[2]).to_bytes(8, "big") + bytes.fromhex(parts[0]) + int(parts[1]).to_bytes(8, "big")
        await self._seek(exchange, question, Kind.ANSWER)

    async def _sought(self, question: bytes, kind: Kind = Kind.RECEIPT) -> bytes:
        refusal: CloisterError = NO_WORKER(expected="a connected worker", found="none")
        for linked in self._workers.all()[:_MAX_SHOWN]:
            try:
                return await _ask(linked.connection, kind, question, MAX_RECEIPT, _RECEIPT_S)
            except CloisterError as error:
                refusal = error if refusal.code not in SAYS_MORE else refusal
        raise refusal

    async def _get_status(self, exchange: Exchange, parts: tuple[str, ...]) -> None:
        counts = self._calls.counts
        exchange.json(
            {
                "version": __version__,
                "network": self._fingerprint,
                "uptime_s": int(self._monotonic() - self._since),
                "checkpoint": self._checkpoint.number,
                **self._workers.counts(),
                "calls": {name: getattr(counts, name) for name in counts.__slots__},
                "connected": await self.connected(),
            }
        )

    async def connected(self) -> list[Any]:
        """What each worker says about itself, for display; asked once per second at most."""
        if self._monotonic() - self._said_at >= _STATUS_S:
            self._said_at = self._monotonic()
            asked = (_status_of(linked) for linked in self._workers.all()[:_MAX_SHOWN])
            self._said = await asyncio.gather(*asked)
        return self._said

    def _take_quota(self, size: int) -> None:
        hour = int(self._monotonic() // 3600)
        if hour != self._hour:
            self._hour, self._uploaded = hour, 0
        if self._uploaded + size > self._config.blob_hour:
            raise QUOTA(expected=f"at most {self._config.blob_hour} bytes per hour", found="more")
        self._uploaded += size


async def _ask(connection: Connection, kind: Kind, payload: bytes, max_size: int, limit_s: float) -> bytes:
    try:
        return await asyncio.wait_for(connection.ask(kind, payload, max_size=max_size), limit_s)
    except TimeoutError:
        raise TIMEOUT(expected=f"the worker's answer within {limit_s} s", found="none") from None


async def _status_of(linked: Linked) -> dict[str, Any]:
    try:
        said = await _ask(linked.connection, Kind.STATUS, b"", 1 << 16, _STATUS_S)
    except CloisterError as error:
        return {"worker": to_hex(linked.worker), "error": error.code}
    try:
        value = parse_json(said)
    except CloisterError:
        value = None
    return value if isinstance(value, dict) else {"worker": to_hex(linked.worker), "error": BROKEN.code}


async def _awaiting(answer: Awaitable[None]) -> None:
    await answer
