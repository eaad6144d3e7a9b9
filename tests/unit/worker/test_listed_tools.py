"""Lists of tools and models bind: starts, requests, connections and calls of other agents."""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from cloister.core.encoding.hexes import to_hex
from cloister.core.errors import CloisterError
from cloister.core.policy import access
from cloister.core.policy.manifest import normalize
from cloister.sandbox.ports import AgentRequest
from support.fake_sandbox import Agent, Calls, Reply
from support.worker_kit import Rig

Make = Callable[[Agent], Awaitable[Rig]]
CHAT = "/v1/chat/completions"


async def listed(rig: Rig, agent: bytes, *, final: bool = True, **lists: tuple[str, ...] | None) -> None:
    """Set lists by name; None: takes one away."""
    changes = {}
    for kind, names in lists.items():
        data = bytes(32) if names is None else await rig.fabric.blobs.put(access.encode_list(names))
        changes[f"{kind}_hash"] = data
    rig.world.set_rules(agent, **changes)
    if final:
        await rig.follow(1)
    await rig.watch.watch_rules(agent)


async def deployed(rig: Rig, token: int = 1, **manifest: Any) -> bytes:
    """An agent whose manifest says this."""
    encoded = bytes(normalize(manifest))
    await rig.fabric.blobs.put(encoded)
    return await rig.deploy(token, manifest_hash=hashlib.sha256(encoded).digest())


async def relay(request: AgentRequest, ctx: Calls) -> Reply:
    """Makes the host call that its body says; answers with the value or the refusal's code."""
    said: dict[str, Any] = json.loads(request.body or b"{}")
    if not said:
        return Reply()
    try:
        value = await ctx(said["call"], **said.get("args", {}))
    except CloisterError as error:
        value = error.code
    return Reply(body=[json.dumps(value).encode()])


async def ask(rig: Rig, who: bytes, call: str = "", /, **args: Any) -> Any:
    got = await rig.call(who, json.dumps({"call": call, "args": args} if call else {}).encode())
    if got.code:
        return got.code
    return json.loads(got.body) if call else got.status


def chat(to: bytes, model: str, path: str = CHAT) -> dict[str, Any]:
    body = base64.b64encode(json.dumps({"model": model}).encode()).decode()
    return {"agent": to_hex(to), "method": "POST", "path": path, "body": body}


# --- starting ---


@pytest.mark.parametrize(
    ("why", "manifest", "lists", "expected"),
    [
        ("no list: the manifest alone binds", {"models": ["m"], "tools": ["t"]}, {}, 200),
        ("a list with all that the manifest names", {"models": ["m"]}, {"models": ("m", "n")}, 200),
        ("a list without a model of the manifest", {"models": ["m", "n"]}, {"models": ("m",)}, "policy.not_listed"),
        ("an empty list of models", {"models": ["m"]}, {"models": ()}, "policy.not_listed"),
        ("an empty list, and a manifest that names none", {}, {"models": (), "tools": ()}, 200),
        ("a list without a tool of the manifest", {"tools": ["shell"]}, {"tools": ("search",)}, "policy.not_listed"),
        ("a list with the tool", {"tools": ["search"]}, {"tools": ("search",)}, 200),
    ],
)
async def test_an_agent_starts_only_with_what_lists_leave(
    make: Make, why: str, manifest: dict[str, Any], lists: dict[str, tuple[str, ...]], expected: int | str
) -> None:
    rig = await make(relay)
    agent = await deployed(rig, **manifest)
    if lists:
        await listed(rig, agent, **lists)
    assert await ask(rig, agent) == expected, why
    assert bool(rig.sandbox.processes) is (expected == 200), "what may not run is not started"


async def test_a_list_that_nobody_stored_starts_nothing_that_names_a_model(make: Make) -> None:
    rig = await make(relay)
    agent = await deployed(rig, models=["m"])
    rig.world.set_rules(agent, models_hash=os.urandom(32))
    await rig.follow(1)
    assert await ask(rig, agent) == "policy.not_listed"


async def test_a_running_agent_is_refused_from_the_first_block_seen(make: Make) -> None:
    rig = await make(relay)
    agent = await deployed(rig, models=["m"])
    assert await ask(rig, agent) == 200
    also = rig.sandbox.processes[0].spec.also
    assert also("api.example.org", 443)
    await listed(rig, agent, final=False, models=())
    assert await ask(rig, agent) == "policy.not_listed"
    assert not also("api.example.org", 443), "its connections end"
    await listed(rig, agent, models=None)
    assert await ask(rig, agent) == 200, "the same process serves on"
    assert also("api.example.org", 443)
    assert len(rig.sandbox.processes) == 1


async def test_a_new_list_that_still_fits_holds_up_no_request(make: Make) -> None:
    rig = await make(relay)
    agent = await deployed(rig, models=["m"])
    await listed(rig, agent, models=("m",))
    assert await ask(rig, agent) == 200
    await listed(rig, agent, final=False, models=("m", "n"))
    assert await ask(rig, agent) == 200, "the list that was just named is read before anybody is refused"


async def test_what_gone_agents_used_is_forgotten(make: Make) -> None:
    rig = await make(relay)
    agent = await deployed(rig, models=["m"])
    await ask(rig, agent)
    await listed(rig, agent, models=())
    with pytest.raises(CloisterError, match=r"policy\.not_listed"):
        await rig.lists.require(agent, rig.world.agents[agent].manifest_hash)
    rig.lists.keep(rig.table.versions())
    with pytest.raises(CloisterError, match=r"policy\.not_listed"):
        await rig.lists.require(agent, rig.world.agents[agent].manifest_hash)
    rig.lists.keep([])
    await rig.lists.require(agent, rig.world.agents[agent].manifest_hash)


# --- calls of other agents ---


async def test_without_lists_any_agent_and_model_may_be_called(make: Make) -> None:
    rig = await make(relay)
    a, b = await rig.deploy(1), await rig.deploy(2)
    assert (await ask(rig, a, "agents.fetch", agent=to_hex(b)))["status"] == 200
    assert await ask(rig, a, "lists") == {"tools": None, "models": None}


async def test_an_agent_is_a_tool_by_its_id(make: Make) -> None:
    rig = await make(relay)
    a, b, c = [await rig.deploy(n) for n in (1, 2, 3)]
    await listed(rig, a, tools=(access.tool_of(b),))
    assert (await ask(rig, a, "agents.fetch", agent=to_hex(b)))["status"] == 200
    assert await ask(rig, a, "agents.fetch", agent=to_hex(c)) == "policy.not_listed"
    assert await ask(rig, a, "lists") == {"tools": [access.tool_of(b)], "models": None}
    await listed(rig, a, final=False, tools=())
    await rig.lists.load(a)
    assert await ask(rig, a, "agents.fetch", agent=to_hex(b)) == "policy.not_listed", "at once, in the same process"


async def test_a_manifests_tools_bind_without_any_list(make: Make) -> None:
    rig = await make(relay)
    b = await rig.deploy(2)
    a = await deployed(rig, 1, tools=[access.tool_of(b)])
    closed = await deployed(rig, 3, tools=[])
    assert (await ask(rig, a, "agents.fetch", agent=to_hex(b)))["status"] == 200
    assert await ask(rig, a, "agents.fetch", agent=to_hex(closed)) == "policy.not_listed"
    assert await ask(rig, closed, "agents.fetch", agent=to_hex(b)) == "policy.not_listed"


async def test_a_call_that_names_a_model_needs_it_listed(make: Make) -> None:
    rig = await make(relay)
    a, b = await rig.deploy(1), await rig.deploy(2)
    await listed(rig, a, models=("good",))
    seen = len(rig.loopback.seen)
    assert await ask(rig, a, "agents.fetch", **chat(b, "bad")) == "policy.not_listed"
    assert await ask(rig, a, "agents.fetch", **{**chat(b, "x"), "body": ""}) == "policy.not_listed", "it must say one"
    assert len(rig.loopback.seen) == seen, "nothing left this worker"
    good = {**chat(b, "good"), "idempotency_key": None}
    assert await ask(rig, a, "agents.fetch", **good) != "policy.not_listed"
    assert len(rig.loopback.seen) == seen + 1


async def test_a_refused_call_costs_no_budget(make: Make) -> None:
    async def twice(request: AgentRequest, ctx: Calls) -> Reply:
        codes = []
        for to in json.loads(request.body):
            try:
                await ctx("agents.fetch", agent=to, budget=63 if to.endswith("ff") else 0)
            except CloisterError as error:
                codes.append(error.code)
        return Reply(body=[json.dumps(codes).encode()])

    rig = await make(twice)
    a = await deployed(rig, 1, tools=[])
    got = await rig.call(a, json.dumps(["0x" + "ff" * 32] * 3).encode())
    assert json.loads(got.body) == ["policy.not_listed"] * 3
