"""`agent dev` and `agent test`: the worker's rules for state, reload without losing a request, nothing left behind."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from cloister.cli.project import find_deno, new_project
from cloister.core.errors import CloisterError
from cloister.devnet.tools import deno
from cloister.local.agent import Outside
from cloister.local.dev import Dev, files_of, read_secrets
from cloister.local.testing import Outcome, run_tests
from support.build_kit import DENO_DIR, write_project
from support.sandbox_kit import children, mounts

ALICE = "0x" + "aB" * 20
AGENT = """
let n = 0;
export default {
  async fetch(request, ctx) {
    const { pathname } = new URL(request.url);
    if (pathname === "/who") return Response.json(ctx.caller);
    if (pathname === "/env") return Response.json([process.env.NAME ?? null, ctx.secrets.KEY ?? null]);
    if (pathname === "/log") { ctx.log("a line of", ctx.secrets.KEY); return new Response("ok"); }
    if (pathname === "/exit") Deno.exit(3);
    if (pathname === "/throw") { await ctx.state.put("thrown", 1); throw new Error("x"); }
    if (pathname === "/thrown") return Response.json(await ctx.state.get("thrown"));
    if (pathname === "/attest") return Response.json((await ctx.attest(new Uint8Array(32)).catch((e) => e)).code);
    if (pathname === "/head") return Response.json(Object.fromEntries(request.headers));
    if (pathname === "/slow") { await new Promise((r) => setTimeout(r, 700)); return new Response("slow " + VERSION); }
    if (pathname === "/version") return new Response(VERSION);
    if (pathname === "/stream") return new Response(new ReadableStream({ async start(c) {
      for (const part of ["one ", "two"]) { c.enqueue(new TextEncoder().encode(part));
        await ctx.state.put("part-" + part.trim(), 1); }
      c.close(); } }));
    if (pathname === "/add") {
      const seen = (await ctx.state.get("count")) ?? 0;
      await new Promise((resolve) => setTimeout(resolve, 5));
      await ctx.state.put("count", seen + 1);
      return Response.json(seen + 1);
    }
    return Response.json({ n: ++n, keys: await ctx.state.list() });
  },
};
"""


def source(version: str) -> str:
    return f'const VERSION = "{version}";\n' + AGENT


@pytest.fixture(autouse=True)
def _deno_dir(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DENO_DIR", DENO_DIR)


class Served:
    """A running ``agent dev``."""

    def __init__(self, facts: dict[str, Any], session: aiohttp.ClientSession) -> None:
        self.facts, self.session = facts, session
        self.lines: list[str] = []
        self.refused: list[CloisterError] = []

    async def get(self, path: str, **options: Any) -> tuple[int, str]:
        async with self.session.get(self.facts["url"] + path, **options) as answer:
            return answer.status, await answer.text()


@asynccontextmanager
async def serving(
    folder: Path, outside: Outside | None = None, clock: Callable[[], float] | None = None
) -> AsyncIterator[Served]:
    facts: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
    async with aiohttp.ClientSession() as session:
        served = Served({}, session)
        dev = Dev(folder, deno(), outside or Outside(), served.lines.append, served.refused.append, clock)
        task = asyncio.ensure_future(dev.run(0, facts.set_result, poll_s=0.05))
        await asyncio.wait({task, facts}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            task.result()
        served.facts = facts.result()
        try:
            yield served
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


async def until(served: Served, path: str, expected: str) -> None:
    for _ in range(200):
        if (await served.get(path))[1] == expected:
            return
        await asyncio.sleep(0.05)
    raise AssertionError(f"{path} did not become {expected}: {served.lines[-3:]}")


async def test_the_context_is_a_workers_and_the_state_stays(tmp_path: Path) -> None:
    manifest = '{"secrets": ["KEY"], "settings": {"NAME": "n"}}'
    folder = write_project(tmp_path / "agent", {"agent.js": source("1"), "cloister.json": manifest})
    outside = Outside({"KEY": "very secret", "OTHER": "x"})
    before = children()
    async with serving(folder, outside) as served:
        assert json.loads((await served.get("/env"))[1]) == ["n", "very secret"]
        assert (await served.get("/who"))[1] == "null"
        who = json.loads((await served.get("/who", headers={"x-cloister-caller": ALICE}))[1])
        assert who == {"kind": "wallet", "address": ALICE.lower()}
        assert "x-cloister-caller" not in (await served.get("/head", headers={"x-cloister-caller": ALICE}))[1]
        assert json.loads((await served.get("/attest"))[1]) == "local.no_hardware"
        await served.get("/log")
        assert any("a line of [redacted]" in line for line in served.lines)
        assert (await served.get("/stream"))[1] == "one two"
        answers = await asyncio.gather(*(served.get("/add") for _ in range(3)))
        assert sorted(int(text) for status, text in answers if status == 200) == [1, 2, 3]
    assert children() == before
    assert str(tmp_path) not in mounts()
    assert {path.name for path in folder.iterdir()} == {"agent.js", "cloister.json", ".cloister"}
    assert all(path.stat().st_mode & 0o077 == 0 for path in (folder / ".cloister" / "state").iterdir())
    assert b"part-two" not in (folder / ".cloister" / "state" / "store" / "fabric.db").read_bytes()
    async with serving(folder) as served:
        assert json.loads((await served.get("/"))[1]) == {"n": 1, "keys": ["count", "part-one", "part-two"]}
        assert (await served.get("/add"))[1] == "4"


async def test_a_handler_that_throws_writes_nothing_and_one_that_dies_comes_back(tmp_path: Path) -> None:
    folder = write_project(tmp_path / "agent", {"agent.js": source("1")})
    async with serving(folder) as served:
        status, text = await served.get("/throw")
        assert (status >= 500, json.loads(text)["code"]) == (True, "sandbox.agent_threw")
        assert (await served.get("/thrown"))[1] == "null"
        status, text = await served.get("/exit")
        assert (status >= 500, json.loads(text)["code"]) == (True, "sandbox.crashed")
        assert (await served.get("/version")) == (200, "1")


async def test_a_changed_file_is_reloaded_and_no_request_is_lost(tmp_path: Path) -> None:
    folder = write_project(tmp_path / "agent", {"agent.js": source("1")})
    async with serving(folder) as served:
        slow = asyncio.ensure_future(served.get("/slow"))
        await asyncio.sleep(0.05)
        (folder / "agent.js").write_text(source("2"))
        await until(served, "/version", "2")
        assert await slow == (200, "slow 1"), "it ends on the version that it began on"
        (folder / "agent.js").write_text("export default {")
        for _ in range(200):
            if served.refused:
                break
            await asyncio.sleep(0.05)
        assert [error.code for error in served.refused] == ["build.failed"]
        assert (await served.get("/version"))[1] == "2", "the version before it still answers"
        (folder / "agent.js").write_text(source("3"))
        await until(served, "/version", "3")


FOREIGN: dict[str, tuple[dict[str, str], str]] = {
    "a page of another origin": ({"origin": "https://evil.example"}, "local.host"),
    "a name of its own for 127.0.0.1": ({"host": "evil.example:80"}, "local.host"),
    "an origin that is none": ({"origin": "null"}, "local.host"),
    "a caller that is no address": ({"x-cloister-caller": "alice"}, "local.caller"),
}


async def test_only_this_machine_asks(tmp_path: Path) -> None:
    folder = write_project(tmp_path / "agent", {"agent.js": source("1")})
    async with serving(folder) as served:
        for sentence, (headers, code) in FOREIGN.items():
            status, text = await served.get("/version", headers=headers)
            assert (status >= 400, json.loads(text)["code"]) == (True, code), sentence
        assert (await served.get("/version", headers={"origin": "http://localhost:3000"}))[0] == 200
        assert served.facts["url"].startswith("http://127.0.0.1:")


BROKEN: dict[str, tuple[dict[str, str], str]] = {
    "no source": ({"readme.md": "x"}, "build.entry"),
    "a syntax error": ({"agent.js": "export default {"}, "build.failed"),
    "a module that throws": ({"agent.js": "throw new Error('x'); export default 1;"}, "sandbox.bundle"),
    "a manifest that asks for what is not offered": (
        {"agent.js": source("1"), "cloister.json": '{"limits": {"memory_mb": 99999999}}'},
        "manifest.limit",
    ),
}


@pytest.mark.parametrize("sentence", BROKEN)
async def test_an_agent_that_cannot_start_is_refused_by_name(sentence: str, tmp_path: Path) -> None:
    files, code = BROKEN[sentence]
    before = children()
    with pytest.raises(CloisterError) as caught:
        async with serving(write_project(tmp_path / "agent", files)):
            raise AssertionError("it served")
    assert caught.value.code == code
    assert children() == before


async def test_a_port_in_use_is_refused(tmp_path: Path) -> None:
    folder = write_project(tmp_path / "agent", {"agent.js": source("1")})
    async with serving(folder) as served:
        port = int(served.facts["url"].rsplit(":", 1)[1])
        other = write_project(tmp_path / "other", {"agent.js": source("1")})
        dev = Dev(other, deno(), Outside(), served.lines.append, served.refused.append)
        with pytest.raises(CloisterError) as caught:
            await dev.run(port, lambda facts: None)
        assert caught.value.code == "local.port"


def test_files_that_matter_are_watched(tmp_path: Path) -> None:
    names = ["agent.ts", "lib/a.ts", "cloister.json", "deno.lock", "notes.txt", ".git/x.ts", "node_modules/p/index.js"]
    write_project(tmp_path, dict.fromkeys([*names, ".cloister/secrets.json"], "x"))
    assert {str(Path(p).relative_to(tmp_path)) for p in files_of(tmp_path)} == {
        "agent.ts",
        "lib/a.ts",
        "cloister.json",
        "deno.lock",
    }


@pytest.mark.parametrize("text", ["", "[]", '{"A": 1}', "{", '"x"', "[" * 3000])
def test_a_secrets_file_that_is_none_is_refused_without_its_text(text: str, tmp_path: Path) -> None:
    file = tmp_path / "secrets.json"
    file.write_text(text)
    with pytest.raises(CloisterError) as caught:
        read_secrets(tmp_path, file)
    assert caught.value.code == "local.secrets"


def test_local_secrets_lie_in_the_hidden_folder(tmp_path: Path) -> None:
    assert read_secrets(tmp_path, None) == {}
    write_project(tmp_path, {".cloister/secrets.json": '{"A": "b"}'})
    assert read_secrets(tmp_path, None) == {"A": "b"}


CALLS = """
export default { async fetch(request, ctx) {
  const { pathname, searchParams } = new URL(request.url);
  if (pathname === "/who") return Response.json(ctx.caller);
  if (pathname === "/ticks") return Response.json((await ctx.state.get("ticks")) ?? 0);
  if (pathname === "/tick") {
    await ctx.state.put("ticks", ((await ctx.state.get("ticks")) ?? 0) + (ctx.caller.kind === "schedule"));
    return new Response("");
  }
  return await ctx.agents.fetch(searchParams.get("agent"), searchParams.get("path"));
} };
"""


async def test_two_local_agents_call_each_other_and_the_clock_wakes_one(tmp_path: Path) -> None:
    schedule = {"cloister.json": '{"schedule": [{"cron": "* * * * *", "path": "/tick"}]}'}
    one, two = (write_project(tmp_path / name, {"agent.js": CALLS, **schedule}) for name in ("one", "two"))
    now = [1_800_000_000.0]
    async with serving(two, clock=lambda: now[0]) as other:
        other_id = other.facts["agent"]
        outside = Outside(agents={bytes.fromhex(other_id[2:]): other.facts["url"]})
        async with serving(one, outside) as served:
            status, text = await served.get(f"/?agent={other_id}&path=/who")
            mine = served.facts["agent"]
            assert (status, json.loads(text)) == (200, {"kind": "agent", "address": mine[:42], "agent": mine})
            back = f"/%3Fagent={mine}%26path=/who"
            assert (await served.get(f"/?agent={other_id}&path={back}"))[0] == 500, "it knows nobody"
        now[0] += 61
        await until(other, "/ticks", "1")
    assert any("scheduled /tick" in line for line in other.lines)
    assert any("local.no_agent" in line or "500" in line for line in other.lines)


# --- agent test ---

SUITE = """
export const secrets = { KEY: "k" };
const OTHER = "0x" + "0A".repeat(32);
export const agents = {
  [OTHER]: async (request) => new Response(`${new URL(request.url).pathname} ${await request.text()}`, { status: 203 }),
};
export const hosts = { "api.example": (request) => new Response("upstream " + new URL(request.url).pathname) };
export default {
  async "one passes"(agent) {
    console.log("said by a test");
    const answer = await agent.fetch("/up");
    if ((await answer.text()) !== "upstream /x k") throw new Error("not so");
  },
  async "another agent is played here"(agent) {
    const text = await (await agent.fetch("/other")).text();
    if (text !== "203 /ask me") throw new Error(text);
  },
  async "one fails"(agent) { await agent.fetch("/put", { json: 1 }); throw new Error("as it must"); },
  async "state is new"(agent) { if ((await (await agent.fetch("/list")).text()) !== "[]") throw new Error("old"); },
  async "nothing else is allowed"() {
    for (const attempt of [() => Deno.readTextFile("/etc/hostname"), () => fetch("http://10.0.0.1/")]) {
      const error = await attempt().catch((caught) => caught);
      if (error.name !== "NotCapable") throw new Error(String(error));
    }
  },
};
"""
TESTED = """
export default { async fetch(request, ctx) {
  const { pathname } = new URL(request.url);
  if (pathname === "/up") {
    return new Response(await (await fetch("https://api.example/x")).text() + " " + ctx.secrets.KEY);
  }
  if (pathname === "/other") {
    const answer = await ctx.agents.fetch("0x" + "0a".repeat(32), "/ask", { method: "POST", body: "me" });
    return new Response(`${answer.status} ${await answer.text()}`);
  }
  if (pathname === "/put") { await ctx.state.put("a", 1); return new Response("ok"); }
  return Response.json(await ctx.state.list());
} };
"""


async def test_tests_run_in_order_with_hosts_and_secrets_of_their_own(tmp_path: Path) -> None:
    manifest = '{"egress": ["api.example"], "secrets": ["KEY"]}'
    files = {"agent.js": TESTED, "agent.test.js": SUITE, "cloister.json": manifest}
    folder, logged, told = write_project(tmp_path / "agent", files), list[str](), list[Outcome]()
    before = children()
    outcomes = await run_tests(folder, deno(), lambda level, text: logged.append(text), told.append)
    assert [(o.name, o.error is None) for o in outcomes] == [
        ("one passes", True),
        ("another agent is played here", True),
        ("one fails", False),
        ("state is new", True),
        ("nothing else is allowed", True),
    ]
    assert outcomes == told
    assert "as it must" in str(outcomes[2].error)
    assert "said by a test" in logged
    assert children() == before
    assert {path.name for path in folder.iterdir()} == set(files)


UNTESTABLE: dict[str, tuple[dict[str, str], str]] = {
    "no test file": ({}, "local.no_tests"),
    "a test file without tests": ({"agent.test.js": "export default {};"}, "local.no_tests"),
    "a test file that does not load": ({"agent.test.js": "export default {"}, "local.broken_tests"),
    "a test file that ends the run": ({"agent.test.js": "Deno.exit(0);"}, "local.broken_tests"),
    "a test that ends the run": ({"agent.test.js": "export default { a() { Deno.exit(0); } };"}, "local.broken_tests"),
    "a host that is no name": (
        {"agent.test.js": "export const hosts = { 'a b': 1 }; export default { a() {} };"},
        "local.broken_tests",
    ),
}


@pytest.mark.parametrize("sentence", UNTESTABLE)
async def test_tests_that_cannot_run_are_refused_by_name(sentence: str, tmp_path: Path) -> None:
    files, code = UNTESTABLE[sentence]
    folder = write_project(tmp_path / "agent", {"agent.js": TESTED, **files})
    before = children()
    with pytest.raises(CloisterError) as caught:
        await run_tests(folder, deno(), lambda level, text: None, lambda outcome: None)
    assert caught.value.code == code
    assert children() == before


# --- the program ---


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_control_c_leaves_nothing(number: signal.Signals, tmp_path: Path) -> None:
    folder, temporary = new_project("hello", "minimal", tmp_path), tmp_path / "tmp"
    temporary.mkdir(mode=0o711)
    process = subprocess.Popen(
        [sys.executable, "-c", "from cloister.cli.app import app; app()", "agent", "dev", str(folder), "--json"],
        env={**os.environ, "TMPDIR": str(temporary)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell's background jobs ignore control-C, and so do their children: here it counts, whoever runs the test.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    try:
        assert process.stdout is not None
        said = ""
        while not said.rstrip().endswith("}"):
            line = process.stdout.readline()
            assert line, process.communicate()[1]
            said += line
        assert json.loads(said)["url"].startswith("http://127.0.0.1:")
        process.send_signal(number)
        _, text = process.communicate(timeout=30)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 130, text
    assert "Traceback" not in text
    assert list(temporary.iterdir()) == []
    assert find_deno().exists()
