"""New keys change nothing that an agent remembers: its notes and its API key survive bumps of agent and cluster epochs.

1. An agent's state and its owner's secrets are there after a bump, served under the new keys.
2. Two bumps in a row, and one of the whole cluster, are no different.
3. What the owner wipes is gone, and the agent goes on.
"""

from __future__ import annotations

import pytest
import pytest_asyncio

from cloister.chain.contracts import encode
from cloister.client.agent import Agent
from cloister.client.client import Client
from cloister.client.deploy import await_seats, deploy_agent
from cloister.client.keys import await_rotated, describe_keys, epochs_of, rotate_agent, rotate_cluster
from cloister.client.secrets import set_secrets
from cloister.core.encoding.hexes import from_hex
from cloister.core.encoding.identity import Epochs
from cloister.core.policy.manifest import normalize

pytestmark = pytest.mark.asyncio(loop_scope="session")
NOTES = b"""export default { async fetch(request, ctx) {
  const keep = new URL(request.url).searchParams.get("keep");
  if (keep) await ctx.state.put("note:" + keep, keep);
  const notes = await ctx.state.list("note:");
  return Response.json({ notes, key: (ctx.secrets.API_KEY ?? "").length });
} };"""


@pytest.fixture(scope="module")
def client(fresh_client: Client) -> Client:
    """Every call here is of this file's own client."""
    return fresh_client


@pytest_asyncio.fixture(loop_scope="session", scope="module")
async def scene(client: Client) -> tuple[Client, Agent]:
    """An agent that keeps notes, in a cluster of its owner's, and a secret."""
    made = await client.send("Clusters", encode("Clusters", "create", 2))
    cluster = from_hex(made.logs[0]["topics"][1], 32)
    deployed = await deploy_agent(client, NOTES, normalize({"secrets": ["API_KEY"]}), cluster=cluster)
    await await_seats(client, deployed.agent, seats=2)
    await set_secrets(client, deployed.agent, {"API_KEY": "sk-0123456789"})
    return client, await client.agent(deployed.agent)


async def ask(agent: Agent, keep: str = "") -> dict[str, object]:
    reply = await agent.post(f"/?keep={keep}", deadline_s=30)
    assert reply.status == 200, reply.text
    found: dict[str, object] = reply.json()
    return found


async def moved(client: Client, agent: bytes, past: Epochs) -> list[str]:
    return [step async for step in await_rotated(client, agent, past, within_s=60)]


async def test_notes_and_the_api_key_survive_a_bump(scene: tuple[Client, Agent]) -> None:
    client, agent = scene
    await ask(agent, "one")
    await ask(agent, "two")
    past = await epochs_of(client, agent.id)
    await rotate_agent(client, agent.id)
    steps = await moved(client, agent.id, past)
    assert "re-sealed" in steps[-1]
    assert await ask(agent, "three") == {"notes": ["note:one", "note:three", "note:two"], "key": 13}
    facts = await describe_keys(client, agent.id)
    assert (facts["agent_epoch"], facts["secrets"], facts["served"]) == (2, "carried", True)


async def test_bumps_in_a_row_and_of_the_cluster_too(scene: tuple[Client, Agent]) -> None:
    client, agent = scene
    past = await epochs_of(client, agent.id)
    await rotate_agent(client, agent.id)
    await rotate_agent(client, agent.id)
    await rotate_cluster(client, past.of)
    await moved(client, agent.id, past._replace(agent=past.agent + 2))
    assert await ask(agent) == {"notes": ["note:one", "note:three", "note:two"], "key": 13}
    now = await epochs_of(client, agent.id)
    assert now[:3] == (past.agent + 2, past.cluster + 1, past.master)


async def test_what_the_owner_wipes_is_gone(scene: tuple[Client, Agent]) -> None:
    client, agent = scene
    past = await epochs_of(client, agent.id)
    await rotate_agent(client, agent.id, wipe=True)
    await moved(client, agent.id, past)
    assert await ask(agent, "new") == {"notes": ["note:new"], "key": 0}
