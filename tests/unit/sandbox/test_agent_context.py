"""What agent code gets as ctx and as Response.json behaves as the web standard says, however cheaply it is made."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cloister.sandbox.deno import DenoSandbox
from support.sandbox_kit import Answer, MemoryHost, ask, spec_of

pytestmark = pytest.mark.asyncio(loop_scope="module")

AGENT = """
const routes = {
  plain: () => Response.json({ a: [1, "ü"] }),
  status: () => Response.json({ a: 1 }, { status: 201 }),
  named: () => Response.json("x", { headers: { "x-own": "1" } }),
  typed: () => Response.json("x", { headers: { "content-type": "application/problem+json" }, status: 422 }),
  nothing: () => { try { return Response.json(undefined); } catch (error) { return new Response(error.name); } },
  nobody: () => {
    try { return Response.json(1, { status: 204 }); } catch (error) { return new Response(error.name); }
  },
  circle: () => {
    const a = {}; a.a = a;
    try { return Response.json(a); } catch (error) { return new Response(error.name); }
  },
  hooked: () => Response.json({ toJSON: () => "its own" }),
  read: async () => Response.json(await Response.json({ a: 1 }).json()),
  kind: () => new Response([Response.json(1) instanceof Response, Response.json(1).constructor === Response].join()),
  async taken(request, { state, log, agent, secrets, deadline }) {
    const { put, get } = state;
    await put("k", { n: 1 });
    log("taken apart");
    return Response.json([await get("k"), agent, secrets.KEY, deadline > Date.now()]);
  },
  async spread(request, ctx) {
    const mine = { ...ctx, extra: 1 };
    await mine.state.put("s", 2);
    return Response.json([await mine.state.get("s"), Object.keys(mine).sort()]);
  },
  lists: async (request, { lists }) => Response.json(await lists()),
  same: (request, ctx) => Response.json([ctx.state === ctx.state, ctx.keys === ctx.keys, ctx.log === ctx.log,
    ctx.signal === ctx.signal]),
};
export default { fetch: (request, ctx) => routes[new URL(request.url).pathname.slice(1)](request, ctx) };
"""


async def answers(sandbox: DenoSandbox, *paths: str) -> tuple[list[Answer], MemoryHost]:
    host = MemoryHost()
    process = await sandbox.start(spec_of(AGENT, secrets={"KEY": "s"}), host)
    try:
        return [await ask(process, path) for path in paths], host
    finally:
        await process.close()


async def test_a_value_becomes_json_with_its_content_type(sandbox: DenoSandbox) -> None:
    (plain, status), _ = await answers(sandbox, "/plain", "/status")
    assert (plain.status, plain.text) == (200, '{"a":[1,"ü"]}')
    assert plain.headers["content-type"] == "application/json"
    assert (status.status, status.text, status.headers["content-type"]) == (201, '{"a":1}', "application/json")


async def test_headers_of_its_own_are_kept(sandbox: DenoSandbox) -> None:
    (named, typed), _ = await answers(sandbox, "/named", "/typed")
    assert (named.headers["x-own"], named.headers["content-type"], named.text) == ("1", "application/json", '"x"')
    assert (typed.status, typed.headers["content-type"]) == (422, "application/problem+json")


@pytest.mark.parametrize("path", ["/nothing", "/nobody", "/circle"])
async def test_what_has_no_json_or_no_body_is_a_type_error(sandbox: DenoSandbox, path: str) -> None:
    (answer,), _ = await answers(sandbox, path)
    assert answer.text == "TypeError"


async def test_it_is_an_ordinary_response_inside(sandbox: DenoSandbox) -> None:
    (hooked, read, kind), _ = await answers(sandbox, "/hooked", "/read", "/kind")
    assert [hooked.text, read.text, kind.text] == ['"its own"', '{"a":1}', "true,true"]


async def test_the_context_may_be_taken_apart(sandbox: DenoSandbox) -> None:
    (taken,), host = await answers(sandbox, "/taken")
    said: list[Any] = json.loads(taken.body)
    assert said == [{"n": 1}, "0x" + "07" * 32, "s", True]
    assert host.logged("taken apart")


async def test_the_context_may_be_spread_into_another_object(sandbox: DenoSandbox) -> None:
    (spread,), _ = await answers(sandbox, "/spread")
    value, names = json.loads(spread.body)
    assert value == 2
    assert {"agent", "attest", "caller", "deadline", "keys", "log", "requestId", "secrets", "signal", "state"} < {
        *names
    }


async def test_the_context_says_what_lists_leave(sandbox: DenoSandbox) -> None:
    (lists,), host = await answers(sandbox, "/lists")
    assert json.loads(lists.body) == {"tools": ["search"], "models": None}
    assert [name for _, name in host.calls] == ["lists"]


async def test_each_part_is_made_once_per_request(sandbox: DenoSandbox) -> None:
    (same,), _ = await answers(sandbox, "/same")
    assert json.loads(same.body) == [True, True, True, True]
