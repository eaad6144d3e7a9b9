"""Agents that behave, in real processes: what they get, what comes back, and that nothing stays."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cloister.core.errors import CloisterError, SandboxError
from cloister.sandbox.deno import DenoSandbox, command
from cloister.sandbox.ports import AgentSpec, Limits, Sandbox
from cloister.sandbox.process import SandboxProcess
from support.sandbox_kit import AGENT_ID, MemoryHost, ask, children, descendants, open_files, request_of, spec_of

pytestmark = pytest.mark.asyncio(loop_scope="module")

# One bundle, many behaviours: its code is compiled once.
AGENT = """
const routes = {
  async echo(request, ctx) {
    return Response.json({ method: request.method, url: request.url, body: await request.text(),
      header: request.headers.get("x-test"), agent: ctx.agent, caller: ctx.caller, id: ctx.requestId,
      late: ctx.deadline > Date.now() });
  },
  async state(request, ctx) {
    await ctx.state.put("a/1", { n: 1, text: "ü" });
    await ctx.state.putBytes("a/2", new Uint8Array([0, 255]));
    await ctx.state.put("b", null);
    const before = [await ctx.state.get("a/1"), [...await ctx.state.getBytes("a/2")], await ctx.state.get("none"),
      await ctx.state.list("a/"), await ctx.state.list("a/", { after: "a/1", limit: 5 })];
    await ctx.state.delete("a/1");
    return Response.json([...before, await ctx.state.list()]);
  },
  async many(request, ctx) {
    await Promise.all(Array.from({ length: 300 }, (_, i) => ctx.state.put("k" + i, i)));
    return Response.json((await Promise.all(Array.from({ length: 300 }, (_, i) => ctx.state.get("k" + i)))).length);
  },
  async refused(request, ctx) {
    const names = [];
    await ctx.keys.signMessage("refuse").catch((error) => names.push(error.name, error.code));
    await ctx.state.get("").catch((error) => names.push(error.name));
    return Response.json(names);
  },
  env: (request, ctx) => Response.json({ deno: Deno.env.get("SETTING"), node: globalThis.process.env.SETTING,
    secret: ctx.secrets.TOKEN, got: ctx.secrets.get("TOKEN"), none: ctx.secrets.get("OTHER") ?? null,
    keys: Object.keys(ctx.secrets), frozen: Object.isFrozen(ctx.secrets) }),
  async stream() {
    const body = new ReadableStream({ async start(c) {
      for (const part of ["one ", "two ", "three"]) { c.enqueue(new TextEncoder().encode(part)); await null; }
      c.close();
    } });
    return new Response(body, { headers: { "x-kind": "stream" } });
  },
  big: () => new Response(new Uint8Array(3_000_000).fill(7)),
  empty: () => new Response(null, { status: 204 }),
  status: () => new Response("made", { status: 201, headers: [["set-cookie", "a=1"], ["set-cookie", "b=2"]] }),
  broken: () => new Response(new ReadableStream({ pull(c) { c.enqueue(new Uint8Array(8)); throw new Error("mid"); } })),
  used: async () => { const r = new Response("x"); await r.text(); return r; },
  isresponse: async () => Response.json([new Response("x") instanceof Response,
    Response.json(1).constructor === Response,
    (await new Response("y").clone().text())]),
  logs(request, ctx) {
    ctx.log("plain", { a: 1 }); ctx.log.warn("careful"); console.error("to the console");
    return new Response("ok");
  },
  slow: async (request, ctx) => {
    await new Promise((resolve) => ctx.signal.addEventListener("abort", () => resolve()));
    globalThis.aborted = ctx.signal.reason.name;
    return new Response("late");
  },
  async aborted() {
    await new Promise((resolve) => setTimeout(resolve, 5));
    return new Response(globalThis.aborted ?? "none");
  },
  async after(request, ctx) {
    setTimeout(() => ctx.state.put("late", 1).catch((error) => { globalThis.late = error.message; }), 5);
    return new Response("ok");
  },
  late: async () => { await new Promise((r) => setTimeout(r, 20)); return new Response(globalThis.late ?? "none"); },
  attest: async (request, ctx) => Response.json(await ctx.attest(new Uint8Array(32))),
};
export default { fetch: (request, ctx) => routes[new URL(request.url).pathname.slice(1)](request, ctx) };
"""


def spec(**settings: Any) -> AgentSpec:
    return spec_of(AGENT, **settings)


class Running:
    """A started agent and its host, closed at the end."""

    def __init__(self, sandbox: DenoSandbox, settings: AgentSpec | None = None) -> None:
        self.sandbox, self.spec, self.host = sandbox, settings or spec(), MemoryHost()

    async def __aenter__(self) -> tuple[SandboxProcess, MemoryHost]:
        self.process = await self.sandbox.start(self.spec, self.host)
        return self.process, self.host

    async def __aexit__(self, *exc: object) -> None:
        await self.process.close()


async def test_the_sandbox_is_the_port_that_workers_use(sandbox: DenoSandbox) -> None:
    port: Sandbox = sandbox
    process = await port.start(spec(), MemoryHost())
    assert process.alive
    await process.close()
    assert not process.alive


async def test_a_request_reaches_fetch_as_the_web_standard_says(sandbox: DenoSandbox) -> None:
    async with Running(sandbox) as (process, _):
        answer = await ask(
            process,
            "/echo?q=1",
            method="POST",
            body="ü".encode(),
            headers=(("x-test", "h"),),
            caller={"address": "0x1"},
        )
        said = json.loads(answer.body)
    assert answer.headers["content-type"] == "application/json"
    assert said == {
        "method": "POST",
        "url": "https://agent/echo?q=1",
        "body": "ü",
        "header": "h",
        "agent": "0x" + AGENT_ID.hex(),
        "caller": {"address": "0x1"},
        "id": "0x0a",
        "late": True,
    }


async def test_state_and_host_calls_travel_both_ways(sandbox: DenoSandbox) -> None:
    async with Running(sandbox) as (process, host):
        said = json.loads((await ask(process, "/state")).body)
        assert said[0] == {"n": 1, "text": "ü"}
        assert said[1:4] == [[0, 255], None, ["a/1", "a/2"]]
        assert said[4:] == [["a/2"], ["a/2", "b"]]
        assert host.store == {"a/2": "AP8=", "b": "bnVsbA=="}
        assert {request_id for request_id, _ in host.calls} == {"0x0a"}
        assert json.loads((await ask(process, "/many")).body) == 300
        assert json.loads((await ask(process, "/refused")).body) == ["HostError", "test.host_refused", "TypeError"]
        assert json.loads((await ask(process, "/attest")).body)["nonce"].startswith("AAAA")


async def test_settings_and_secrets_are_inside_and_nowhere_outside(sandbox: DenoSandbox) -> None:
    settings = spec(env={"SETTING": "setting-value-1"}, secrets={"TOKEN": "secret-value-2"})
    before = children()
    async with Running(sandbox, settings) as (process, _):
        said = json.loads((await ask(process, "/env")).body)
        assert said == {
            "deno": "setting-value-1",
            "node": "setting-value-1",
            "secret": "secret-value-2",
            "got": "secret-value-2",
            "none": None,
            "keys": ["TOKEN"],
            "frozen": True,
        }
        family = descendants(children() - before)
        assert len(family) >= 2, "bubblewrap and the agent"
        for pid in family:
            for name in ("environ", "cmdline"):
                seen = Path(f"/proc/{pid}/{name}").read_bytes()
                assert b"setting-value-1" not in seen
                assert b"secret-value-2" not in seen
    assert "value" not in repr(settings)


async def test_responses_of_every_kind_arrive_whole(sandbox: DenoSandbox) -> None:
    async with Running(sandbox) as (process, _):
        streamed = await ask(process, "/stream")
        assert (streamed.text, streamed.headers["x-kind"]) == ("one two three", "stream")
        assert (await ask(process, "/big")).body == b"\x07" * 3_000_000
        empty = await ask(process, "/empty")
        assert (empty.status, empty.body) == (204, b"")
        head, _body = await process.fetch(request_of("/status"))
        assert (head.status, [v for n, v in head.headers if n == "set-cookie"]) == (201, ["a=1", "b=2"])
        assert json.loads((await ask(process, "/isresponse")).body) == [True, True, "y"]


async def test_an_agent_that_throws_fails_that_request_only(sandbox: DenoSandbox) -> None:
    async with Running(sandbox) as (process, host):
        for path, kind in (("/nowhere", "TypeError"), ("/used", "TypeError")):
            with pytest.raises(SandboxError) as caught:
                await ask(process, path)
            assert (caught.value.code, caught.value.found) == ("sandbox.agent_threw", kind)
        head, body = await process.fetch(request_of("/broken"))
        assert head.status == 200
        with pytest.raises(SandboxError) as caught:
            [piece async for piece in body]
        assert caught.value.code == "sandbox.agent_threw"
        assert host.logged("Error: mid")
        assert (await ask(process, "/empty")).status == 204


async def test_logs_reach_the_host_with_their_request(sandbox: DenoSandbox) -> None:
    async with Running(sandbox) as (process, host):
        await ask(process, "/logs", request_id="0x0b")
    assert ("0x0b", "info", "plain { a: 1 }") in host.lines
    assert ("0x0b", "warn", "careful") in host.lines
    assert (None, "error", "to the console") in host.lines


async def test_a_request_past_its_deadline_fails_and_the_agent_lives_on(sandbox: DenoSandbox) -> None:
    async with Running(sandbox) as (process, _):
        with pytest.raises(SandboxError) as caught:
            await ask(process, "/slow", seconds=0.1)
        assert caught.value.code == "sandbox.deadline"
        assert (await ask(process, "/aborted")).text == "TimeoutError"
        with pytest.raises(SandboxError) as caught:
            await ask(process, "/empty", seconds=-5)
        assert caught.value.code == "sandbox.deadline"
        assert process.alive


async def test_a_caller_that_goes_away_aborts_the_request_inside(sandbox: DenoSandbox) -> None:
    async with Running(sandbox) as (process, _):
        task = asyncio.ensure_future(process.fetch(request_of("/slow")))
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (await ask(process, "/aborted")).text == "TimeoutError"


async def test_a_context_dies_with_its_request(sandbox: DenoSandbox) -> None:
    async with Running(sandbox) as (process, host):
        await ask(process, "/after")
        assert "is over" in (await ask(process, "/late")).text
        assert host.store == {}


async def test_many_requests_at_once_stay_apart(sandbox: DenoSandbox) -> None:
    async with Running(sandbox) as (process, _):
        bodies = [str(i).encode() * 50 for i in range(40)]
        answers = await asyncio.gather(*(ask(process, "/echo", method="POST", body=body) for body in bodies))
        assert [json.loads(answer.body)["body"].encode() for answer in answers] == bodies


async def test_usage_is_measured_from_outside(sandbox: DenoSandbox) -> None:
    async with Running(sandbox) as (process, _):
        await ask(process, "/big")
        used = process.usage()
        assert used["cpu_us"] > 1000
        assert 10 << 20 < used["rss_bytes"] < 400 << 20
        assert used["egress_bytes"] == used["ingress_bytes"] == 0
    after = process.usage()
    assert after["cpu_us"] >= used["cpu_us"]
    assert after["rss_bytes"] == 0


async def test_a_peak_within_one_request_is_known_when_it_ends(sandbox: DenoSandbox) -> None:
    """No tick of the meter is waited for: the receipt of this very request names it."""
    code = """export default () => {
      const pages = new Uint8Array(48 << 20);
      pages.fill(1);
      return new Response(String(pages.buffer.transfer(0).byteLength));
    }"""
    async with Running(sandbox, spec_of(code)) as (process, _):
        before = process.usage()["peak_bytes"]
        await ask(process)
        assert process.usage()["peak_bytes"] > before + (40 << 20)


ENTRIES: dict[str, tuple[str, str]] = {
    "a bare function": ("export default (request) => new Response(new URL(request.url).pathname);", "fetch"),
    "a class instance such as a Hono app": (
        "class App { #p = '!'; fetch(r) { return new Response(new URL(r.url).pathname + this.#p); } }"
        "export default new App();",
        "fetch",
    ),
    "main by name": (
        "export default async function main(json) { const r = JSON.parse(json);"
        "return JSON.stringify({ status: 202, headers: { 'x-a': r.queries.a.join() }, body: r.path + r.secret.T }); }",
        "fetch",
    ),
    "main by manifest": (
        "export default (json) => ({ body: { path: JSON.parse(json).path, body: JSON.parse(json).body } });",
        "main",
    ),
}


@pytest.mark.parametrize("sentence", ENTRIES)
async def test_every_form_of_entry_is_served(sandbox: DenoSandbox, sentence: str) -> None:
    code, entry = ENTRIES[sentence]
    settings = spec_of(code, entry=entry, secrets={"T": "-t"})
    async with Running(sandbox, settings) as (process, _):
        answer = await ask(process, "/p?a=1&a=2", method="POST", body=b"b")
    expected = {
        "a bare function": "/p",
        "a class instance such as a Hono app": "/p!",
        "main by name": "/p-t",
        "main by manifest": '{"path":"/p","body":"b"}',
    }
    assert answer.text == expected[sentence]
    assert (answer.status, answer.headers.get("x-a")) == ((202, "1,2") if sentence == "main by name" else (200, None))


BAD_BUNDLES: dict[str, tuple[str, str]] = {
    "a syntax error": ("export default {", "SyntaxError"),
    "a module that throws": ("throw new RangeError('sk-secret')", "RangeError"),
    "no default export": ("export const x = 1;", "TypeError"),
    "a default export of another kind": ("export default 7;", "TypeError"),
    "an import of a package": ("import x from 'npm:openai'; export default x;", "an error of its own"),
    "an import of another file": ("import './other.js'; export default () => 1;", "an error of its own"),
}


@pytest.mark.parametrize("sentence", BAD_BUNDLES)
async def test_a_bundle_that_cannot_run_is_refused_by_name(sandbox: DenoSandbox, sentence: str) -> None:
    code, found = BAD_BUNDLES[sentence]
    host, before = MemoryHost(), children()
    with pytest.raises(SandboxError) as caught:
        await sandbox.start(spec_of(code), host)
    assert caught.value.code == "sandbox.bundle"
    assert caught.value.found in (found, "TypeError", "an error of its own")
    assert "sk-secret" not in str(caught.value.to_wire())
    assert host.lines, "the owner reads the reason"
    assert children() == before


REFUSED_SPECS: dict[str, tuple[str, dict[str, Any]]] = {
    "bytes with another hash": ("sandbox.bundle", {"code_hash": bytes(32)}),
    "an unknown entry": ("sandbox.spec", {"entry": "init"}),
    "an environment name with an equals sign": ("sandbox.spec", {"env": {"A=B": "x"}}),
    "an environment name of the sandbox": ("sandbox.spec", {"env": {"HTTPS_PROXY": "http://x"}}),
    "an environment value with NUL": ("sandbox.spec", {"env": {"A": "\0"}}),
    "too much environment": ("sandbox.spec", {"secrets": {"A": "x" * 600_000}}),
    "a heap that V8 cannot start with": ("sandbox.spec", {"limits": Limits(heap_mb=1)}),
    "memory beyond what is offered": ("sandbox.spec", {"limits": Limits(memory_mb=1 << 20)}),
    "an egress pattern that is a URL": ("sandbox.egress", {"egress": ["https://a.example"]}),
    "a host map to a name": ("sandbox.egress", {"map_host": {"a.example": ("localhost", 1)}}),
}


@pytest.mark.parametrize("sentence", REFUSED_SPECS)
async def test_a_spec_that_must_not_start_is_refused_first(sandbox: DenoSandbox, sentence: str) -> None:
    code, change = REFUSED_SPECS[sentence]
    with pytest.raises(CloisterError) as caught:
        await sandbox.start(replace(spec(), **change), MemoryHost())
    assert caught.value.code == code


async def test_closing_leaves_nothing_and_fails_what_is_under_way(sandbox: DenoSandbox, tmp_path: Path) -> None:
    before, files = children(), open_files()
    process = await sandbox.start(spec(), MemoryHost())
    task = asyncio.ensure_future(process.fetch(request_of("/slow")))
    await asyncio.sleep(0.05)
    await process.close()
    await process.close()
    with pytest.raises(SandboxError) as caught:
        await task
    assert caught.value.code == "sandbox.closed"
    with pytest.raises(SandboxError):
        await process.fetch(request_of())
    assert (children(), open_files()) == (before, files)


async def test_a_cancelled_start_leaves_no_process(sandbox: DenoSandbox) -> None:
    before = children()
    for delay in (0.0, 0.001, 0.005, 0.02, 0.04):
        task = asyncio.ensure_future(sandbox.start(spec(), MemoryHost()))
        await asyncio.sleep(delay)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    for _ in range(100):
        if children() == before:
            break
        await asyncio.sleep(0.02)
    assert children() == before


async def test_compiled_code_is_made_once_and_then_found_by_every_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = command._environment
    monkeypatch.setattr(command, "_environment", lambda plan: [*plain(plan), "--setenv", "DENO_LOG", "debug"])
    async with DenoSandbox(tmp_path) as sandbox:
        for _ in range(2):
            running = Running(sandbox, replace(spec(), limits=Limits(log_bytes=1 << 20)))
            async with running as (_, host):
                assert host.logged("V8 code cache hit for ES module: file:///agent/agent.js")
        caches = list((tmp_path / "deno" / "bundles").glob("*/cache"))
        assert len(caches) == 1


async def test_a_disk_that_fails_is_a_named_refusal_and_no_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with DenoSandbox(tmp_path) as sandbox:
        with monkeypatch.context() as patch:
            patch.setattr(Path, "write_bytes", full_disk)
            with pytest.raises(SandboxError) as caught:
                await sandbox.start(spec(), MemoryHost())
            assert (caught.value.code, caught.value.found) == ("sandbox.start", "OSError")
        async with Running(sandbox) as (process, _):
            assert (await ask(process, "/empty")).status == 204


def full_disk(path: Path, data: bytes) -> int:
    raise OSError(28, "No space left on device")


async def test_a_second_sandbox_does_not_share_a_work_folder(tmp_path: Path) -> None:
    first = DenoSandbox(tmp_path)
    (tmp_path / "deno" / "left-over").write_text("x")
    with pytest.raises(SandboxError) as caught:
        DenoSandbox(tmp_path)
    assert caught.value.code == "sandbox.machine"
    await first.close()
    second = DenoSandbox(tmp_path)
    assert not (tmp_path / "deno" / "left-over").exists()
    await second.close()


async def test_a_work_folder_with_a_long_path_works(tmp_path: Path) -> None:
    work = tmp_path / ("long-" * 20) / ("path-" * 20)
    async with DenoSandbox(work) as sandbox, Running(sandbox) as (process, _):
        assert (await ask(process, "/empty")).status == 204


async def test_without_root_the_same_agent_runs_behind_a_bridge(tmp_path: Path) -> None:
    async with DenoSandbox(tmp_path, rooted=False) as sandbox, Running(sandbox) as (process, _):
        assert (await ask(process, "/echo", method="POST", body=b"x")).status == 200
        assert process.usage()["cpu_us"] > 0
