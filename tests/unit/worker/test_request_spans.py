"""Spans of a worker: the sealed trace is continued to the agent and linked to the gateway's; nothing else leaves."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cloister.core.encoding.hexes import to_hex
from cloister.core.envelope.trace import HEADER, TraceContext, outer
from cloister.node.trace import Span, Tracer, payload
from cloister.sandbox.ports import AgentRequest
from cloister.worker.spans import RequestSpans
from support.fake_sandbox import Calls, Reply
from support.worker_kit import Rig

SEALED = TraceContext(b"\x0a" * 16, b"\x0b" * 8, sampled=True)


class Kept(Tracer):
    """A tracer that keeps its spans."""

    def __init__(self, share: int = 0) -> None:
        count = iter(range(1, 1 << 20))
        super().__init__(
            "cloister-worker", "", share, now_ns=lambda: 7, rng=lambda size: next(count).to_bytes(size, "big")
        )
        self.spans: list[Span] = []

    def end(self, span: Span) -> None:
        """Keep it."""
        self.spans.append(span)


def headers_of(rig: Rig) -> list[str]:
    """What ``traceparent`` the agent saw in its last request."""
    return [value for name, value in rig.sandbox.processes[0].requests[-1].headers if name == HEADER]


async def called(rig: Rig, agent: bytes, header: str | None = SEALED.header) -> Any:
    return await rig.call(agent, b"a secret body", headers=() if header is None else ((HEADER, header),))


async def test_the_sealed_trace_goes_on_to_the_agent_and_is_linked_to_the_gateway_s(rig: Rig) -> None:
    kept = Kept()
    rig.server._spans = RequestSpans(kept)
    agent = await rig.deploy()
    assert (await called(rig, agent)).whole
    handler, request = kept.spans
    assert (request.name, request.at.trace, request.parent) == ("worker.request", SEALED.trace, SEALED.span)
    assert (handler.name, handler.at.trace, handler.parent) == ("agent.fetch", SEALED.trace, request.at.span)
    assert request.link == outer(SEALED)
    assert headers_of(rig) == [handler.at.header]
    assert request.attributes == {"cloister.agent": to_hex(agent)}
    text = json.dumps(payload("cloister-worker", kept.spans))
    assert "secret" not in text
    assert "/" not in text


async def test_without_a_collector_the_header_passes_as_it_is(rig: Rig) -> None:
    agent = await rig.deploy()
    await called(rig, agent)
    assert headers_of(rig) == [SEALED.header]


async def test_who_asks_for_no_record_gets_none(rig: Rig) -> None:
    kept = Kept(share=10_000)
    rig.server._spans = RequestSpans(kept)
    agent = await rig.deploy()
    silent = SEALED.header[:-1] + "0"
    await called(rig, agent, silent)
    assert kept.spans == []
    assert headers_of(rig) == [silent]
    await called(rig, agent, None)  # one of the share, without a parent
    assert [one.link for one in kept.spans] == [None, None]
    assert len({one.at.trace for one in kept.spans}) == 1


@pytest.mark.parametrize("agents", ["throws"])
async def test_what_failed_has_its_code_and_requests_beside_keep_their_own(agents: str, make: Any) -> None:
    async def throws(request: AgentRequest, ctx: Calls) -> Reply:
        raise RuntimeError("a secret text")

    rig: Rig = await make(throws)
    kept = Kept()
    rig.server._spans = RequestSpans(kept)
    got = await called(rig, await rig.deploy())
    assert got.code is not None
    assert [one.attributes.get("error.type") for one in kept.spans][-1] is not None
    assert "a secret" not in json.dumps(payload("cloister-worker", kept.spans))
