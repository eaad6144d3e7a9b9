"""The worker's side of the gateway's socket: announce seats, serve the streams that the gateway opens.

The gateway is not trusted with anything here: it names an agent and hands over sealed bytes.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

from cloister.core.encoding.hexes import need_bytes
from cloister.core.errors import TransportError, define
from cloister.node import logs
from cloister.wire.anchor import Ready
from cloister.wire.announce import Announcement, Kind, split_call
from cloister.wire.frames import FrameClient, Incoming
from cloister.worker.agents import AgentTable
from cloister.worker.leases import NodeIdentity
from cloister.worker.oblivious import ObliviousCalls
from cloister.worker.receipts import ReceiptDoor
from cloister.worker.serve import Server

LOOK_S: Final = 1.0
MAX_SOCKETS: Final = 64

UNKNOWN_KIND = define(
    "worker.unknown_kind",
    TransportError,
    check="the gateway asks for something that this worker offers",
    remedy="run the worker and the gateway in the same version",
)
_log = logs.get("link")


class GatewayLink:
    """One connection to each process of a gateway, made again whenever it is lost.

    ``socket``: where a gateway of one process listens, or the folder where each of several has a ``*.sock``."""

    def __init__(
        self,
        socket: Path,
        node: NodeIdentity,
        server: Server,
        table: AgentTable,
        evidence: Callable[[bytes], Awaitable[dict[str, Any]]],
        status: Callable[[], dict[str, Any]],
        receipts: ReceiptDoor,
        ready: Callable[[int, bytes, int], Ready],
    ) -> None:
        self._ready = ready
        self._node, self._server, self._table, self._receipts = node, server, table, receipts
        self._evidence, self._status = evidence, status
        self._oblivious = ObliviousCalls(node, secrets.token_bytes)
        self._socket = socket
        self._clients: dict[Path, FrameClient] = {}
        self._looking: asyncio.Task[None] | None = None
        self._leaving = False

    def start(self) -> None:
        """Connect in the background, and stay connected."""
        self._looking = asyncio.ensure_future(self._look())

    def announce(self) -> None:
        """Seats have changed: say so, if connected."""
        for client in self._clients.values():
            client.announce_again()

    async def close(self) -> None:
        """Leave."""
        self._leaving = True  # a look that is closing a client takes the cancellation for that client's
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)
        await asyncio.gather(*(client.close() for client in self._clients.values()))

    async def _look(self) -> None:
        """Connect to what is there; leave what is gone."""
        while not self._leaving:
            found = {self._socket}
            if self._socket.is_dir():
                found = set(sorted(self._socket.glob("*.sock"))[:MAX_SOCKETS])
            for path in found - self._clients.keys():
                client = FrameClient(path, handler=self.handle, announce=self.announcement, report=_report)
                self._clients[path] = client
                client.start()
            for path in self._clients.keys() - found:
                await self._clients.pop(path).close()
            await asyncio.sleep(LOOK_S)

    def announcement(self) -> list[bytes]:
        """What this worker serves now, in as many frames as it takes: seats beyond them all are logged, not fatal."""
        seats = tuple(self._table.seats())
        pages = Announcement(self._node.address, self._node.boot, seats).split()
        told = sum(len(page.seats) for page in pages)
        if told < len(seats):
            _log.error("too many seats for one announcement", announced=told, held=len(seats))
        return [page.encode() for page in pages]

    def handle(self, incoming: Incoming) -> Awaitable[None] | None:
        """Serve one stream of the gateway: by itself, or by what is returned. Raises CloisterError, here or there: the
        stream then ends with that refusal."""
        if incoming.kind == Kind.CALL:
            agent, record = split_call(incoming.payload)
            return self._server.begin(agent, record, incoming)
        return self._answer(incoming)

    async def _answer(self, incoming: Incoming) -> None:
        if incoming.kind in (Kind.OBLIVIOUS, Kind.OBLIVIOUS_CHUNKED):
            agent, record = split_call(incoming.payload)
            chunked = incoming.kind == Kind.OBLIVIOUS_CHUNKED
            await self._server.opened(
                agent, lambda placed, now: self._oblivious.open(placed, record, now, chunked=chunked), incoming
            )
        elif incoming.kind == Kind.OBLIVIOUS_KEYS:
            agent = need_bytes("agent", incoming.payload, 32)
            await incoming.send(self._oblivious.keys(self._table.get(agent)))
        elif incoming.kind == Kind.EVIDENCE:
            shown = await self._evidence(need_bytes("nonce", incoming.payload, 32))
            await incoming.send(json.dumps(shown).encode())
        elif incoming.kind == Kind.STATUS:
            await incoming.send(json.dumps(self._status()).encode())
        elif incoming.kind == Kind.RECEIPT:
            await incoming.send(json.dumps(await self._receipts.answer(incoming.payload)).encode())
        elif incoming.kind == Kind.ANSWER:
            asked = need_bytes("question", incoming.payload, 48)
            chain_id, index = int.from_bytes(asked[:8], "big"), int.from_bytes(asked[40:], "big")
            await incoming.send(json.dumps(self._ready(chain_id, asked[8:40], index).to_json()).encode())
        else:
            raise UNKNOWN_KIND(expected="a kind of wire.announce.Kind", found=str(incoming.kind))


def _report(where: str, error: BaseException) -> None:
    _log.error("contained", where=where, exc_info=error)
