from __future__ import annotations
from typing import Any


async def test_a_call_is_answered(net: Any) -> None:
    async with net.client() as client:
        agent = await client.agent(1)
        reply = await agent.get("/x?y=1")
        assert reply.json()["path"] == "/x?y=1"
        assert reply.receipt.status == 200
