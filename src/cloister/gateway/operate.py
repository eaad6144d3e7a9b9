"""The operator's door: metrics, health and readiness on a port of its own (docs/operate/gateway.md).

Workers have no port. What they say about themselves comes here over the socket that they opened, and nobody vouches
for it: it is for graphs and alarms. No agent is named: how much each one is used is its owner's affair.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any, Final

from cloister.core.errors import CloisterError, TransportError, define
from cloister.gateway.calls import Calls
from cloister.gateway.pruning import Pruned
from cloister.gateway.relay import CheckpointCache
from cloister.gateway.workers import Workers
from cloister.node.metrics import CONTENT_TYPE, Metrics, Reading
from cloister.node.trace import Tracer
from cloister.wire.http import Exchange, HttpLimits, HttpServer

READY_S: Final = 2.0
_NUMBERS: Final = {"agents": "agents held", "active": "requests in progress"}
_TOTALS: Final = {"served": "requests answered", "refused": "requests refused"}
_PRUNED: Final = {
    "receipts_pruned_total": ("receipts", "receipts whose bodies the store gave up"),
    "receipts_held_back": ("held_back", "receipts that are due, and no signed head covers them"),
    "receipts_used_bytes": ("used", "bytes of kept bodies after the last look"),
}
_CALLS: Final = {
    "calls_total": ("calls", "sealed calls that reached a worker"),
    "refused_total": ("refused", "calls refused by the gateway, or by a worker before it could open them"),
    "broken_total": ("broken", "calls whose worker went away"),
    "in_flight": ("in_flight", "calls in progress"),
    "request_bytes_total": ("bytes_in", "sealed bytes taken from callers"),
    "answer_bytes_total": ("bytes_out", "sealed bytes given to callers"),
}

NOT_READY = define(
    "gateway.not_ready",
    TransportError,
    check="a worker is connected, and t gatekeepers gave a checkpoint",
    remedy="look at the logs of workers and gatekeepers; callers should use another gateway meanwhile",
    status=503,
)
NO_PAGE = define(
    "gateway.no_page",
    TransportError,
    check="the operator's door serves /metrics, /healthz and /readyz",
    remedy="see docs/operate/gateway.md",
    status=404,
)


class Operate:
    """Counts what the gateway does; serves it. ``connected``: what each worker says about itself."""

    def __init__(
        self,
        workers: Workers,
        calls: Calls,
        checkpoint: CheckpointCache,
        connected: Callable[[], Awaitable[list[Any]]],
        pruned: Pruned,
        tracer: Tracer | None = None,
    ) -> None:
        self._workers, self._calls, self._checkpoint, self._connected = workers, calls, checkpoint, connected
        self._said: list[Any] = []
        self._pruned, self._tracer = pruned, tracer
        self._metrics = Metrics("gateway")
        self._metrics.readings(self._readings)
        self._http = HttpServer(self._handle, lambda method, target: 0, limits=HttpLimits(connections=32))
        calls.observe = self._metrics.histogram("call_seconds", "from a call's head to its last byte").observe
        self.leaving = False
        self.port = 0

    async def start(self, host: str, port: int) -> None:
        """Listen. Raises OSError."""
        self.port = await self._http.start(host, port)

    async def close(self) -> None:
        """Stop listening."""
        await self._http.drain(0.0)

    def _handle(self, exchange: Exchange) -> None:
        pages: dict[str, Callable[[Exchange], Coroutine[Any, Any, None]]] = {
            "/metrics": self._show,
            "/healthz": self._alive,
            "/readyz": self._ready,
        }
        page = pages.get(exchange.request.target)
        if page is None or exchange.request.method != "GET":
            raise NO_PAGE(expected="GET of one of three pages", found=exchange.request.target[:80])
        exchange.run(page(exchange))

    async def _show(self, exchange: Exchange) -> None:
        self._said = await self._connected()
        exchange.reply(200, self._metrics.text(), CONTENT_TYPE)

    async def _alive(self, exchange: Exchange) -> None:
        exchange.json({"alive": True})

    async def _ready(self, exchange: Exchange) -> None:
        """Whether calls could be served now. Raises TransportError (gateway.not_ready)."""
        if self.leaving or not self._workers.all():
            raise NOT_READY(expected="a connected worker", found="leaving" if self.leaving else "none")
        try:
            async with asyncio.timeout(READY_S):
                await self._checkpoint.answer()
        except (CloisterError, TimeoutError) as error:
            raise NOT_READY(expected="a checkpoint", found=getattr(error, "code", "no answer in time")) from None
        exchange.json({"ready": True, "checkpoint": self._checkpoint.number})

    def _readings(self) -> Iterable[Reading]:
        counts = self._calls.counts
        for name, (field, text) in _CALLS.items():
            yield name, text, float(getattr(counts, field)), {}
        for name, value in self._workers.counts().items():
            yield f"connected_{name}", f"{name} that connected workers offer", float(value), {}
        yield "checkpoint", "number of the newest checkpoint", float(self._checkpoint.number), {}
        for name, (field, text) in _PRUNED.items():
            yield name, text, float(getattr(self._pruned, field)), {}
        if self._tracer is not None:
            yield "spans_sent_total", "spans that the collector took", float(self._tracer.sent), {}
            yield "spans_dropped_total", "spans that it did not take", float(self._tracer.dropped), {}
        for said in self._said:
            yield from _of_worker(said)


def _of_worker(said: Any) -> Iterable[Reading]:
    """A worker's own numbers, as far as they are numbers."""
    if not isinstance(said, dict) or not isinstance(said.get("worker"), str):
        return
    labels = {"worker": said["worker"][:42]}
    named = {**{n: (n, t) for n, t in _NUMBERS.items()}, **{n: (f"{n}_total", t) for n, t in _TOTALS.items()}}
    for field, (name, text) in named.items():
        value = said.get(field)
        if isinstance(value, int) and 0 <= value < 1 << 53:
            yield f"worker_{name}", text, float(value), labels
    for field, name in (("problems", "unserved"), ("unendorsed", "unendorsed")):
        held = said.get(field)
        if isinstance(held, dict):
            yield f"worker_{name}_agents", f"agents that are {name} now", float(len(held)), labels
