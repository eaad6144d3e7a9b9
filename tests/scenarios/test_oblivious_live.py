"""Oblivious calls on a running network: the relay that its command runs, gateway and workers are real processes.

1. A call through the relay is answered with a verified receipt of a worker; the client never speaks with the gateway.
2. State written that way is the state that sealed calls read.
3. What the agent streams arrives in its pieces, through the relay's process too.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from cloister.client.client import Client
from cloister.client.deploy import await_seats, deploy_agent
from cloister.core.policy.manifest import normalize
from cloister.devnet.network import Devnet
from support.live_relay import relay_of

pytestmark = [pytest.mark.long, pytest.mark.timeout(900), pytest.mark.asyncio(loop_scope="session")]

COUNTER = b"""export default { async fetch(request, ctx) {
  const before = await ctx.state.get("n");
  if (new URL(request.url).pathname === "/count") {
    let left = 3;
    return new Response(new ReadableStream({ pull(to) {
      if (left === 0) to.close();
      else to.enqueue(new TextEncoder().encode(String(left--)));
    } }));
  }
  if (request.method === "GET") return new Response(String(before ?? 0));
  await ctx.state.put("n", (before ?? 0) + 1);
  return new Response(String((before ?? 0) + 1));
} };
"""


async def test_an_agent_is_called_through_a_relay(devnet: Devnet, client: Client, tmp_path: Path) -> None:
    assert devnet.network is not None
    deployed = await deploy_agent(client, COUNTER, normalize({"upgrade": {"rule": "delay", "blocks": 100}}))
    await await_seats(client, deployed.agent, within_s=300.0)
    pin = devnet.network.fingerprint()
    async with (
        relay_of(devnet) as url,
        Client("http://gateway.invalid", oblivious=url, fingerprint=pin, home=tmp_path) as caller,
    ):
        agent = await caller.agent(deployed.agent)
        written = await agent.post("/", body=b"", deadline_s=120.0)
        assert (written.status, written.text) == (200, "1")
        assert written.receipt.state.before != written.receipt.state.after
        assert caller.ledger.load(written.receipt.id).receipt == written.receipt
        assert (await agent.get("/", deadline_s=120.0)).text == "1"
        stream = agent.stream("GET", "/count", deadline_s=120.0)
        assert b"".join([piece async for piece in stream]) == b"321"
        assert stream.receipt is not None
    sealed = await (await client.agent(deployed.agent)).get("/", deadline_s=120.0)
    assert sealed.text == "1"
