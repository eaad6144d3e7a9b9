"""Agents of both runtimes on a real network: they run, call each other as themselves, and sign for their accounts.

1. A Python agent is deployed and answers over the sealed path.
2. A calls B calls C over the gateway; each knows who calls; a cycle and an empty budget are refused by name.
3. A signature of an agent's key counts for the account that the chain names.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
import pytest_asyncio

from cloister.client.agent import Agent
from cloister.client.client import Client
from cloister.client.deploy import await_seats, deploy_agent
from cloister.core.encoding.hexes import from_hex, to_hex
from cloister.core.encoding.signatures import recover
from cloister.core.encoding.typed_data import account_digest, message_digest
from cloister.core.policy.archive import pack
from cloister.core.policy.manifest import normalize

pytestmark = pytest.mark.asyncio(loop_scope="session")
PYTHON = b"""
from cloister_agent import HostError, Response

async def fetch(request, ctx):
    todo = request.json() if request.body else {}
    said = {"runtime": "python", "caller": ctx.caller}
    if todo.get("sign"):
        said |= {"signed": await ctx.keys.sign_message(todo["sign"]), "account": await ctx.keys.account()}
    if todo.get("next"):
        agent, *rest = todo["next"]
        import json
        body = json.dumps({"next": rest})
        try:
            answer = await ctx.agents.fetch(agent, "/", method="POST", body=body, budget=todo.get("budget"))
            said["below"] = json.loads(answer.body)
        except HostError as error:
            said["refused"] = error.code
    return Response.json(said)
"""
SCRIPT = b"""export default { async fetch(request, ctx) {
  const { next = [] } = await request.json().catch(() => ({}));
  const said = { runtime: "deno", caller: ctx.caller };
  const [agent, ...rest] = next;
  if (agent) {
    await ctx.agents.fetch(agent, "/", { method: "POST", body: JSON.stringify({ next: rest }) }).then(
      async (answer) => { said.below = await answer.json(); }, (error) => { said.refused = error.code; });
  }
  return Response.json(said);
} };"""
KEYS = {"keys": {"messages": True}, "runtime": "python"}


@pytest.fixture(scope="module")
def client(fresh_client: Client) -> Client:
    """Every call here is of this file's own client."""
    return fresh_client


@pytest_asyncio.fixture(loop_scope="session", scope="module")
async def agents(client: Client) -> list[Agent]:
    """A and C in Python, B in JavaScript."""
    python, found = pack({"source/agent.py": PYTHON}), []
    for bundle, manifest in ((python, KEYS), (SCRIPT, {}), (python, {"runtime": "python"})):
        deployed = await deploy_agent(client, bundle, normalize(manifest))
        found.append(deployed.agent)
    for agent in found:
        await await_seats(client, agent)
    return [await client.agent(agent) for agent in found]


async def ask(agent: Agent, *through: Agent, **more: Any) -> dict[str, Any]:
    body = {"next": [to_hex(one.id) for one in through], **more}
    reply = await agent.post("/", json=body, deadline_s=60)
    assert reply.status == 200, reply.text
    found: dict[str, Any] = json.loads(reply.body)
    return found


async def test_a_python_agent_answers_a_sealed_call(client: Client, agents: list[Agent]) -> None:
    assert client.wallet is not None
    said = await ask(agents[0])
    assert said == {"runtime": "python", "caller": {"kind": "wallet", "address": to_hex(client.wallet.address)}}


async def test_a_calls_b_calls_c_and_each_knows_who_calls(agents: list[Agent]) -> None:
    a, b, c = agents
    said = await ask(a, b, c)
    below, lowest = said["below"], said["below"]["below"]
    assert [said["runtime"], below["runtime"], lowest["runtime"]] == ["python", "deno", "python"]
    assert (below["caller"]["kind"], below["caller"]["agent"]) == ("agent", to_hex(a.id))
    assert lowest["caller"]["agent"] == to_hex(b.id)


async def test_cycles_and_empty_budgets_are_refused_by_name(agents: list[Agent]) -> None:
    a, b, c = agents
    assert (await ask(a, b, a))["below"]["refused"] == "worker.call_cycle"
    assert (await ask(a, b, c, budget=0))["below"]["refused"] == "worker.call_budget"


async def test_a_signature_counts_for_the_agents_account(client: Client, agents: list[Agent]) -> None:
    said = await ask(agents[0], sign="hello")
    account = said["account"]
    record = await client.resolver.record(agents[0].id)
    assert account["account"] == account["address"] == to_hex(record.account)
    digest = account_digest(message_digest(b"hello"), account["chainId"], record.account)
    assert to_hex(recover(digest, from_hex(said["signed"], 65, name="signature"))) == account["signer"]
