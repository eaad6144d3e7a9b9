"""The programming model as docs/use/agents.md describes it: TypeScript, built and run for real."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from cloister.client.build import build
from cloister.core.errors import SandboxError
from cloister.devnet.tools import deno
from cloister.sandbox.deno import DenoSandbox
from cloister.sandbox.process import SandboxProcess
from support.build_kit import DENO_DIR, running, spec_for, write_project
from support.sandbox_kit import AGENT_ID, MemoryHost, ask, request_of

pytestmark = pytest.mark.asyncio(loop_scope="module")

AGENT = """
import type { Context } from "./context.ts";
import { Buffer } from "node:buffer";

type Handler = (request: Request, ctx: Context) => Response | Promise<Response>;
enum Kind { Loud = "loud" }  // needs compiling, not only stripping

const routes: Record<string, Handler> = {
  async state(_request, { state }) {
    const before = await state.get("none");
    await state.put("n/1", { deep: [1, "ü", null] });
    await state.putBytes("n/2", new Uint8Array([0, 1, 255]));
    await state.put("m", true);
    const bytes = await state.getBytes("n/2");
    const listed = [await state.list("n/"), await state.list("n/", { after: "n/1" }),
      await state.list("", { limit: 1 })];
    await state.delete("m");
    return Response.json([before, await state.get("n/1"), [...bytes!], ...listed, await state.get("m")]);
  },
  secrets: (_request, { secrets }) => Response.json([secrets.TOKEN, secrets.get("TOKEN"), secrets.OTHER ?? null,
    Object.keys(secrets), Object.isFrozen(secrets)]),
  environment: () => Response.json([Deno.env.get("MODE"), Deno.env.get("TOKEN"), process.env.MODE, process.env.TOKEN,
    process.env.HIDDEN ?? null, import.meta.url]),
  who: (_request, { agent, caller, requestId }) => Response.json({ agent, caller, requestId }),
  async attest(_request, ctx) {
    return Response.json(await ctx.attest(crypto.getRandomValues(new Uint8Array(32))));
  },
  log(_request, ctx) {
    ctx.log("plain", { a: 1 }, [2]);
    for (const level of ["debug", "info", "warn", "error"] as const) ctx.log[level](`at ${level}`);
    console.warn("by console");
    return new Response(Kind.Loud);
  },
  deadline: (_request, ctx) => Response.json(ctx.deadline - Date.now()),
  async signal(_request, ctx) {
    const { signal } = ctx;
    const waited = new Promise((resolve) => signal.addEventListener("abort", () => resolve(signal.reason.name)));
    (globalThis as any).ended = await waited;
    return new Response("late");
  },
  async ended() {
    await new Promise((resolve) => setTimeout(resolve, 5));
    return new Response((globalThis as any).ended ?? "not yet");
  },
  async refused(_request, ctx) {
    const error: any = await ctx.keys.address().catch((caught) => caught);
    return Response.json([error.name, error.code, typeof error.check, typeof error.expected, typeof error.found,
      typeof error.remedy]);
  },
  async web() {
    const form = new FormData();
    form.set("a", "1");
    const digest = await crypto.subtle.digest("SHA-256", new TextEncoder().encode("x"));
    const key = await crypto.subtle.generateKey({ name: "ECDSA", namedCurve: "P-256" }, true, ["sign", "verify"]);
    return Response.json([form.get("a"), Buffer.from(digest).toString("hex").slice(0, 8), "privateKey" in key,
      new URLSearchParams({ q: "ü" }).toString(), structuredClone(new Map([[1, 2]])).size, typeof ReadableStream,
      new Intl.NumberFormat("en").format(1234.5)]);
  },
  async events(_request, ctx) {
    const encoder = new TextEncoder();
    const body = new ReadableStream<Uint8Array>({
      async start(controller) {
        for (const n of [1, 2, 3]) {
          controller.enqueue(encoder.encode(`data: ${n}\\n\\n`));
          await ctx.state.put("last", n);
        }
        controller.close();
      },
    });
    return new Response(body, { headers: { "content-type": "text/event-stream" } });
  },
  async upload(request) {
    let size = 0;
    for await (const chunk of request.body!) size += chunk.length;
    return Response.json(size);
  },
  async form(request) {
    const form = await request.formData();
    return Response.json([form.get("name"), (form.get("file") as File).size]);
  },
};

export default {
  fetch(request: Request, ctx: Context): Response | Promise<Response> {
    const handler = routes[new URL(request.url).pathname.slice(1)];
    return handler ? handler(request, ctx) : new Response("none", { status: 404 });
  },
};
"""
MANIFEST = {"settings": {"MODE": "public"}, "secrets": ["TOKEN", "HIDDEN"], "env": ["TOKEN"]}
CONTEXT = Path(__file__).parents[3] / "src" / "cloister" / "cli" / "templates" / "common" / "context.ts"


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def agent(
    sandbox: DenoSandbox, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[tuple[SandboxProcess, MemoryHost]]:
    folder = tmp_path_factory.mktemp("model")
    files = {"agent.ts": AGENT, "context.ts": CONTEXT.read_text(), "cloister.json": json.dumps(MANIFEST)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DENO_DIR", DENO_DIR)
        built = await build(write_project(folder / "agent", files), folder / "out", deno=deno())
    host = MemoryHost()
    process = await sandbox.start(spec_for(built, {"TOKEN": "t-1", "HIDDEN": "h", "UNDECLARED": "u"}), host)
    yield process, host
    await process.close()


Agent = tuple[SandboxProcess, MemoryHost]


async def said(agent: Agent, path: str, **options: Any) -> Any:
    return json.loads((await ask(agent[0], path, **options)).body)


async def test_state_keeps_json_and_bytes_and_lists_names(agent: Agent) -> None:
    before, value, data, listed, after, first, gone = await said(agent, "/state")
    assert (before, value, data, gone) == (None, {"deep": [1, "ü", None]}, [0, 1, 255], None)
    assert (listed, after, len(first)) == (["n/1", "n/2"], ["n/2"], 1)


async def test_secrets_are_those_that_the_manifest_declares(agent: Agent) -> None:
    assert await said(agent, "/secrets") == ["t-1", "t-1", None, ["HIDDEN", "TOKEN"], True]


async def test_settings_and_marked_secrets_are_environment(agent: Agent) -> None:
    *environment, where = await said(agent, "/environment")
    assert environment == ["public", "t-1", "public", "t-1", None]
    assert where == "file:///agent/agent.js"


@pytest.mark.parametrize("caller", [None, {"kind": "wallet", "address": "0x" + "ab" * 20}])
async def test_the_agent_learns_who_it_is_and_who_calls(agent: Agent, caller: dict[str, str] | None) -> None:
    found = await said(agent, "/who", caller=caller, request_id="0x0c")
    assert found == {"agent": "0x" + AGENT_ID.hex(), "caller": caller, "requestId": "0x0c"}


async def test_attest_passes_the_nonce(agent: Agent) -> None:
    assert len((await said(agent, "/attest"))["nonce"]) == 44


async def test_logs_have_their_level_and_console_goes_there_too(agent: Agent) -> None:
    assert (await ask(agent[0], "/log", request_id="0x0d")).text == "loud"
    levels = [(level, text) for name, level, text in agent[1].lines if name == "0x0d"]
    assert levels == [("info", "plain { a: 1 } [ 2 ]"), *((n, f"at {n}") for n in ("debug", "info", "warn", "error"))]
    assert (None, "warn", "by console") in agent[1].lines


async def test_the_deadline_is_the_callers(agent: Agent) -> None:
    assert 0 < await said(agent, "/deadline", seconds=9.0) <= 9000


async def test_the_signal_fires_when_time_is_over(agent: Agent) -> None:
    with pytest.raises(SandboxError):
        await ask(agent[0], "/signal", seconds=0.1)
    assert (await ask(agent[0], "/ended")).text == "TimeoutError"


async def test_a_refused_host_call_is_a_host_error_with_its_parts(agent: Agent) -> None:
    name, code, *kinds = await said(agent, "/refused")
    assert (name, code, kinds) == ("HostError", "sandbox.host_call", ["string"] * 4)


async def test_the_web_platform_is_there(agent: Agent) -> None:
    assert await said(agent, "/web") == ["1", "2d711642", True, "q=%C3%BC", 1, "function", "1,234.5"]


async def test_events_are_streamed_and_may_write_state(agent: Agent) -> None:
    head, body = await agent[0].fetch(request_of("/events"))
    assert dict(head.headers)["content-type"] == "text/event-stream"
    assert b"".join([piece async for piece in body]) == b"data: 1\n\ndata: 2\n\ndata: 3\n\n"
    assert agent[1].store["last"] == "Mw=="


async def test_request_bodies_can_be_read_as_streams_and_forms(agent: Agent) -> None:
    assert await said(agent, "/upload", method="POST", body=b"x" * 300_000) == 300_000
    form = b'--B\r\nContent-Disposition: form-data; name="name"\r\n\r\nJo\r\n'
    form += b'--B\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\nfour\r\n--B--\r\n'
    kind = (("content-type", "multipart/form-data; boundary=B"),)
    assert await said(agent, "/form", method="POST", body=form, headers=kind) == ["Jo", 4]


async def test_a_status_of_the_agents_own_is_kept(agent: Agent) -> None:
    assert (await ask(agent[0], "/nowhere")).status == 404


async def test_the_types_name_what_the_harness_gives() -> None:
    """The file that ``agent new`` writes and the harness agree on every name of ctx and of its state."""
    harness = (CONTEXT.parents[3] / "sandbox" / "deno" / "harness.js").read_text()
    made = re.search(r"const contextOf = .*?\n  return (\{.*?\n  \});?\n\};", harness, re.DOTALL)
    state = re.search(r"const stateOf = .*?\n\}\);", harness, re.DOTALL)
    assert made is not None
    assert state is not None
    given = {
        "Context": set(re.findall(r"^    (?:get )?(\w+)[:,(]", made[1], re.MULTILINE)),
        "State": set(re.findall(r"^  async (\w+)\(", state[0], re.MULTILINE)),
    }
    for name, members in given.items():
        typed = re.search(rf"export interface {name} \{{\n(.*?)^\}}", CONTEXT.read_text(), re.DOTALL | re.MULTILINE)
        assert typed is not None
        assert set(re.findall(r"^  (\w+)[:(]", typed[1], re.MULTILINE)) == members


HONO = """
import { Hono } from "hono";
import type { Context } from "./context.ts";

const app = new Hono<{ Bindings: Context }>();
app.get("/", (c) => c.text("hello " + c.env.agent.slice(0, 6)));
app.post("/items/:id", async (c) => {
  await c.env.state.put("item/" + c.req.param("id"), await c.req.json());
  return c.json(await c.env.state.get("item/" + c.req.param("id")), 201);
});
app.notFound((c) => c.json({ error: "none" }, 404));
export default app;
"""


async def test_a_hono_app_is_served_as_it_is(
    sandbox: DenoSandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DENO_DIR", DENO_DIR)
    imports = json.dumps({"imports": {"hono": "npm:hono@4.13.19"}})
    files = {"agent.ts": HONO, "context.ts": CONTEXT.read_text(), "deno.json": imports}
    folder = write_project(tmp_path / "agent", files)
    async with running(sandbox, folder, tmp_path / "out") as (process, host):
        assert (await ask(process)).text == "hello 0x0707"
        made = await ask(process, "/items/7", method="POST", body=b'{"n":1}')
        assert (made.status, made.text) == (201, '{"n":1}')
        assert list(host.store) == ["item/7"]
        assert (await ask(process, "/other")).status == 404
