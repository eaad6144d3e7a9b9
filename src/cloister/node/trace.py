"""Spans of requests for a collector that the operator names: W3C Trace Context, OTLP/HTTP JSON (spec/tracing.md).

A span may carry the attributes of ``ALLOWED`` and nothing else: sizes, statuses, codes, which agent. No path, no
header, no text of anybody. A collector that is slow or down costs spans, never requests: what does not fit is counted.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import secrets
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import aiohttp

from cloister.core.envelope.trace import TraceContext
from cloister.core.errors import ConfigError, define

ALLOWED: Final = frozenset(
    {"cloister.agent", "cloister.request.size", "cloister.answer.size", "http.response.status_code", "error.type"}
)
# Kinds of OTLP spans.
INTERNAL, SERVER, CLIENT = 1, 2, 3
MAX_QUEUE: Final = 2048
MAX_BATCH: Final = 256
MAX_PER_TEN_THOUSAND: Final = 10_000
_FLUSH_S: Final = 1.0
_POST_S: Final = 3.0
_MAX_TEXT: Final = 80

BAD_COLLECTOR = define(
    "node.trace",
    ConfigError,
    check="trace is the address of an OTLP/HTTP collector, and trace_share is from 0 to 10000 of ten thousand requests",
    remedy='write "trace": "http://127.0.0.1:4318/v1/traces", or leave it out',
)


@dataclass(slots=True)
class Span:
    """One step of a request. Times are Unix nanoseconds by the host's clock."""

    name: str
    kind: int
    at: TraceContext
    parent: bytes
    began: int
    ended: int = 0
    attributes: dict[str, int | str] = field(default_factory=dict)
    link: TraceContext | None = None

    def note(self, **facts: int | str) -> None:
        """Add attributes, dots written as underscores. TypeError for what ``ALLOWED`` lacks: our own mistake."""
        for name, value in facts.items():
            known = _NAMES.get(name)
            if known is None:
                raise TypeError(f"no span may carry {name}")
            self.attributes[known] = value[:_MAX_TEXT] if isinstance(value, str) else value


class Tracer:
    """Samples, keeps and sends spans of one service. ``share``: of ten thousand requests without a parent.

    ``now_ns``: Unix nanoseconds; ``rng``: random bytes."""

    def __init__(
        self, service: str, url: str, share: int, *, now_ns: Callable[[], int], rng: Callable[[int], bytes]
    ) -> None:
        self._service, self._url, self._share, self._now_ns, self._rng = service, url, share, now_ns, rng
        self._waiting: deque[Span] = deque()
        self._task: asyncio.Task[None] | None = None
        self.sent = self.dropped = 0

    def begin(self, name: str, kind: int, parent: TraceContext | None) -> Span | None:
        """A span below ``parent`` if that is recorded; without one, by chance. None: nothing is recorded."""
        if parent is not None and not parent.sampled:
            return None
        if parent is None and int.from_bytes(self._rng(4), "big") * MAX_PER_TEN_THOUSAND >> 32 >= self._share:
            return None
        trace = parent.trace if parent is not None else self._rng(16)
        own = TraceContext(trace, self._rng(8), sampled=True)
        return Span(name, kind, own, b"" if parent is None else parent.span, self._now_ns())

    def end(self, span: Span) -> None:
        """It is over: it waits to be sent, or is counted as dropped."""
        span.ended = self._now_ns()
        if len(self._waiting) >= MAX_QUEUE:
            self.dropped += 1
            return
        self._waiting.append(span)
        if self._task is None:
            self._task = asyncio.ensure_future(self._send_all())

    async def close(self) -> None:
        """Send what waits, at most for some seconds."""
        task = self._task
        if task is not None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(task, _POST_S)

    async def _send_all(self) -> None:
        await asyncio.sleep(_FLUSH_S)
        try:
            timeout = aiohttp.ClientTimeout(total=_POST_S)
            async with aiohttp.ClientSession(timeout=timeout, cookie_jar=aiohttp.DummyCookieJar()) as http:
                while self._waiting:
                    await self._send(http, [self._waiting.popleft() for _ in range(min(MAX_BATCH, len(self._waiting)))])
        finally:
            self._task = None

    async def _send(self, http: aiohttp.ClientSession, batch: list[Span]) -> None:
        """One POST; what a collector does not take is lost."""
        try:
            async with http.post(self._url, json=payload(self._service, batch), allow_redirects=False) as answer:
                taken = answer.status == 200
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError):
            taken = False
        self.sent += len(batch) * taken
        self.dropped += len(batch) * (not taken)


def require_collector(url: str, share: int) -> None:
    """Raise ConfigError (node.trace) for settings that cannot work."""
    if not 0 <= share <= MAX_PER_TEN_THOUSAND:
        raise BAD_COLLECTOR(expected=f"trace_share from 0 to {MAX_PER_TEN_THOUSAND}", found=str(share))
    if url and not re.fullmatch(r"https?://[^\s@]{1,200}", url):
        raise BAD_COLLECTOR(expected="http(s)://host:port/path, without a user's name", found="another text")


def tracer_of(service: str, url: str, share: int) -> Tracer | None:
    """A tracer by settings, over the host's clock; None without a collector. Raises ConfigError (node.trace)."""
    require_collector(url, share)
    return Tracer(service, url, share, now_ns=time.time_ns, rng=secrets.token_bytes) if url else None


def payload(service: str, spans: Iterable[Span]) -> dict[str, Any]:
    """An ExportTraceServiceRequest as OTLP/JSON: ids in hex, 64-bit numbers as texts."""
    scope = {"scope": {"name": "cloister"}, "spans": [_plain(one) for one in spans]}
    return {
        "resourceSpans": [{"resource": {"attributes": _attributes({"service.name": service})}, "scopeSpans": [scope]}]
    }


def _plain(span: Span) -> dict[str, Any]:
    made: dict[str, Any] = {
        "traceId": span.at.trace.hex(),
        "spanId": span.at.span.hex(),
        "name": span.name,
        "kind": span.kind,
        "startTimeUnixNano": str(span.began),
        "endTimeUnixNano": str(max(span.began, span.ended)),
        "attributes": _attributes(span.attributes),
        "status": {"code": 2 if "error.type" in span.attributes else 0},
    }
    if span.parent:
        made["parentSpanId"] = span.parent.hex()
    if span.link is not None:
        made["links"] = [{"traceId": span.link.trace.hex(), "spanId": span.link.span.hex()}]
    return made


def _attributes(facts: Mapping[str, int | str]) -> list[dict[str, Any]]:
    return [
        {"key": name, "value": {"intValue": str(value)} if isinstance(value, int) else {"stringValue": value}}
        for name, value in facts.items()
    ]


_NAMES: Final = {name.replace(".", "_"): name for name in ALLOWED}
