"""Spans of the gateway: sizes, statuses, which agent; linked to the caller's trace, without any of its content."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from cloister.core.encoding.hexes import to_hex
from cloister.core.envelope.trace import TraceContext, outer
from cloister.gateway.service import Gateway
from cloister.wire.announce import Kind
from cloister.wire.frames import INTERNAL as FAULT
from cloister.wire.frames import Incoming
from support.doors import AGENT, SERVED, Door, door

SEEN = outer(TraceContext(b"\x0a" * 16, b"\x0b" * 8, sampled=True))


class Kept:
    """Stands where the tracer sends: keeps spans."""

    def __init__(self, gateway: Gateway) -> None:
        self.spans: list[Any] = []
        assert gateway.tracer is not None
        gateway.tracer.end = self.spans.append  # type: ignore[method-assign]


async def echo(incoming: Incoming) -> None:
    if incoming.kind == Kind.CALL:
        await incoming.send(b"x" * 1000)
    else:
        await incoming.send(b"{}")


async def call(here: Door, header: str | None, boot: bytes | None = None) -> int:
    target = f"/v1/call/{to_hex(AGENT)}?boot={to_hex(boot or here.world.boot)}"
    more = {} if header is None else {"traceparent": header}
    async with here.http.post(target, data=b"sealed", headers={"content-type": SERVED, **more}) as reply:
        await reply.read()
        return reply.status


async def test_a_call_s_span_is_below_what_the_caller_shows(tmp_path: Path) -> None:
    async with door(tmp_path, echo, trace="http://127.0.0.1:9/v1/traces") as here:
        await here.linked()
        kept = Kept(here.gateway)
        assert await call(here, SEEN.header) == 200
        (span,) = kept.spans
        assert (span.at.trace, span.parent) == (SEEN.trace, SEEN.span)
        assert span.attributes == {
            "cloister.agent": to_hex(AGENT),
            "cloister.request.size": 6,
            "cloister.answer.size": 1000,
            "http.response.status_code": 200,
        }
        assert await call(here, None) == 200  # nothing is shown, and no share is set
        assert await call(here, SEEN.header[:-1] + "0") == 200
        assert await call(here, "garbage") == 200
        assert len(kept.spans) == 1


async def test_refusals_have_their_code(tmp_path: Path) -> None:
    async def refuse(incoming: Incoming) -> None:
        raise FAULT(expected="calm", found="a storm")

    async with door(tmp_path, refuse, trace="http://127.0.0.1:9/v1/traces", trace_share=10_000) as here:
        await here.linked()
        kept = Kept(here.gateway)
        assert await call(here, None, b"\x01" * 32) == 503
        assert await call(here, None) >= 400
        first, second = kept.spans
        assert first.attributes["error.type"] == "gateway.no_worker"
        assert second.attributes["error.type"] == FAULT.code
        assert first.parent == b""
        assert first.at.trace != second.at.trace


async def test_a_caller_who_leaves_ends_the_span(tmp_path: Path) -> None:
    gate = asyncio.Event()

    async def slow(incoming: Incoming) -> None:
        await gate.wait()

    async with door(tmp_path, slow, trace="http://127.0.0.1:9/v1/traces", trace_share=10_000) as here:
        await here.linked()
        kept = Kept(here.gateway)
        calling = asyncio.ensure_future(call(here, None))
        async with asyncio.timeout(10):
            while not here.gateway.calls.counts.in_flight:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            calling.cancel()
            while not kept.spans:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert kept.spans[0].attributes["error.type"] == "gateway.caller_gone"
        gate.set()


async def test_without_a_collector_nothing_is_made(tmp_path: Path) -> None:
    async with door(tmp_path, echo) as here:
        await here.linked()
        assert here.gateway.tracer is None
        assert await call(here, SEEN.header) == 200


@pytest.mark.parametrize("secret", ["boot", "sealed"])
async def test_a_span_names_no_boot_and_no_byte_of_the_call(secret: str, tmp_path: Path) -> None:
    from cloister.node.trace import payload

    async with door(tmp_path, echo, trace="http://127.0.0.1:9/v1/traces", trace_share=10_000) as here:
        await here.linked()
        kept = Kept(here.gateway)
        await call(here, None)
        text = json.dumps(payload("cloister-gateway", kept.spans))
        assert {"boot": to_hex(here.world.boot)[2:], "sealed": b"sealed".hex()}[secret] not in text
