"""A caller's trace: sealed whole for the agent, shown to the gateway only as ids that nobody else can tie to it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from cloister.client.gateway import Gateway
from cloister.core.envelope.trace import TraceContext, outer

INNER = TraceContext(b"\x0a" * 16, b"\x0b" * 8, sampled=True)


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[str | None]:
    """What each call showed to the gateway."""
    found: list[str | None] = []
    real: Callable[..., Any] = Gateway.call

    def call(self: Gateway, *args: Any, **more: Any) -> Any:
        found.append(more.get("trace"))
        return real(self, *args, **more)

    monkeypatch.setattr(Gateway, "call", call)
    return found


async def test_the_agent_gets_the_trace_and_the_gateway_another_one(net: Any, shown: list[str | None]) -> None:
    async with net.client() as client:
        agent = await client.agent(net.agent)
        assert (await agent.get("/", headers={"traceparent": INNER.header})).ok
    request = (net.one.ran + net.two.ran)[0]
    assert ("traceparent", INNER.header) in request.head.headers
    assert shown == [outer(INNER).header]
    assert INNER.trace.hex() not in str(shown)


@pytest.mark.parametrize("header", [None, "garbage", "00-" + "0" * 32 + "-" + "1" * 16 + "-01"])
async def test_without_a_well_formed_trace_nothing_is_shown(header: str | None, net: Any, shown: list[Any]) -> None:
    async with net.client() as client:
        agent = await client.agent(net.agent)
        assert (await agent.get("/", headers={} if header is None else {"traceparent": header})).ok
    assert shown == [None]
