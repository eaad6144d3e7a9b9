"""Spans of sealed requests, where the operator asks for them (spec/tracing.md). Off by default: they leave the TEE.

A span says which agent, how long, and with what code it failed. Trace ids come from the sealed head; the collector, and
so the operator, then learns them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import replace
from typing import Final

from cloister.core.encoding.hexes import to_hex
from cloister.core.envelope.model import Headers
from cloister.core.envelope.trace import HEADER, TraceContext, outer
from cloister.core.errors import CloisterError
from cloister.node.trace import INTERNAL, SERVER, Span, Tracer
from cloister.sandbox.ports import AgentRequest

_CURRENT: Final[ContextVar[Span | None]] = ContextVar("span", default=None)


class RequestSpans:
    """Begins and ends spans around requests. Without a ``tracer`` it does nothing, and headers pass as they are."""

    def __init__(self, tracer: Tracer | None) -> None:
        self._tracer = tracer
        self.off = tracer is None

    @contextlib.contextmanager
    def request(self, agent: bytes, headers: Headers) -> Iterator[None]:
        """Around one opened request. ``headers``: of its sealed head. Linked to the gateway's trace of it."""
        span = None
        if self._tracer is not None:
            shown = TraceContext.parse(dict(headers).get(HEADER))
            span = self._tracer.begin("worker.request", SERVER, shown)
            if span is not None:
                span.note(cloister_agent=to_hex(agent))
                span.link = None if shown is None else outer(shown)
        with self._around(span):
            yield

    @contextlib.contextmanager
    def agent(self) -> Iterator[Callable[[AgentRequest], AgentRequest]]:
        """Around the agent's handler, up to its head; gives what puts this place into the agent's request."""
        above = _CURRENT.get()
        span = None
        if above is not None and self._tracer is not None:
            span = self._tracer.begin("agent.fetch", INTERNAL, above.at)
        with self._around(span):
            yield lambda request: request if span is None else _carrying(request, span)

    @contextlib.contextmanager
    def _around(self, span: Span | None) -> Iterator[None]:
        if span is None or self._tracer is None:
            yield
            return
        before = _CURRENT.set(span)
        try:
            yield
        except CloisterError as error:
            span.note(error_type=error.code)
            raise
        except BaseException:
            span.note(error_type="worker.ended")
            raise
        finally:
            _CURRENT.reset(before)
            self._tracer.end(span)


def _carrying(request: AgentRequest, span: Span) -> AgentRequest:
    rest = tuple([pair for pair in request.headers if pair[0] != HEADER])
    return replace(request, headers=(*rest, (HEADER, span.at.header)))
