"""Hostile agents against both walls: each attack ends by name, touches nothing outside, and the worker goes on.

Every attack runs twice: as agents run, and with Deno's permissions switched off, so that the OS wall stands alone.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from cloister.core.errors import SandboxError
from cloister.sandbox import seccomp
from cloister.sandbox.deno import DenoProcess, DenoSandbox, command
from cloister.sandbox.deno.command import Plan
from cloister.sandbox.ports import AgentSpec, Limits
from support.sandbox_fixture import sandbox as sandbox
from support.sandbox_kit import MemoryHost, ask, children, descendants, request_of, spec_of

pytestmark = pytest.mark.asyncio(loop_scope="module")

ATTACKS = """
const PAGE = new Uint8Array(65536).fill(65);
const read = (path) => Deno.readTextFile(path);
const loop = () => { for (;;); };
const attacks = {
  hello: () => "hello",
  loop,
  async asyncLoop() { for (;;) await null; },
  redos: () => String(/^(a+)+$/.test("a".repeat(60) + "b")),
  heap() { const all = []; for (;;) all.push(new Array(100000).fill(Math.random())); },
  arrayBuffer() { const all = []; for (;;) all.push(new Uint8Array(16 << 20).fill(1)); },
  wasm() {
    const all = [];
    for (;;) { const m = new WebAssembly.Memory({ initial: 256 }); new Uint8Array(m.buffer).fill(1); all.push(m); }
  },
  async workers() {
    const url = URL.createObjectURL(new Blob(["for (;;);"], { type: "text/javascript" }));
    for (let i = 0; i < 100; i++) new Worker(url, { type: "module" });
    await new Promise((resolve) => setTimeout(resolve, 5000));
    return "workers run";
  },
  fork: async () => (await new Deno.Command("/bin/sh", { args: ["-c", "id"] }).output()).code + "",
  forkSelf: async () => (await new Deno.Command("/deno", { args: ["--version"] }).output()).code + "",
  passwd: () => read("/etc/passwd"),
  hosts: () => read("/etc/hosts"),
  work: () => read("/tmp/work"),
  writeTmp: async () => { await Deno.writeTextFile("/tmp/x", "x"); return "written"; },
  writeShm: async () => { await Deno.writeTextFile("/dev/shm/x", "x"); return "written"; },
  writeSelf: async () => { await Deno.writeTextFile("/agent/agent.js", "x"); return "written"; },
  writeCache: async () => { await Deno.writeTextFile("/cache/x", "x"); return "written"; },
  writeHarness: async () => { await Deno.writeTextFile("/h/harness.js", "x"); return "written"; },
  environ: () => read("/proc/self/environ"),
  environ1: () => read("/proc/1/environ"),
  processes: () => [...Deno.readDirSync("/proc")].map((e) => e.name).filter((n) => +n).join(),
  forbiddenHost: async () => (await fetch("https://evil.example/")).status + "",
  plainHttp: async () => (await fetch("http://allowed.example/")).status + "",
  tcp: async () => { await Deno.connect({ hostname: "1.1.1.1", port: 443 }); return "connected"; },
  loopback: async () => { await Deno.connect({ hostname: "127.0.0.1", port: 22 }); return "connected"; },
  dns: async () => JSON.stringify(await Deno.resolveDns("example.org", "A")),
  metadata: async () => { await Deno.connect({ hostname: "169.254.169.254", port: 80 }); return "connected"; },
  secondSocket: async () => { await Deno.connect({ transport: "unix", path: "/run/a/s.sock" }); return "connected"; },
  ffi: () => { Deno.dlopen("libc.so.6", { getpid: { parameters: [], result: "i32" } }); return "loaded"; },
  hugeReply: () => new Uint8Array(40 << 20),
  endlessReply: () => new ReadableStream({ pull: (c) => c.enqueue(new Uint8Array(1 << 20)) }),
  exit: () => Deno.exit(3),
  processExit: () => globalThis.process.exit(4),
  rejection() { Promise.reject(new Error("late rejection")); return "still here"; },
  async lateThrow() {
    setTimeout(() => { throw new Error("late throw"); }, 1);
    await new Promise((resolve) => setTimeout(resolve, 30));
    return "still here";
  },
  stdout() { for (let i = 0; i < 200; i++) Deno.stdout.writeSync(PAGE); return "still here"; },
  stderr() { for (let i = 0; i < 200; i++) Deno.stderr.writeSync(PAGE); return "still here"; },
  logFlood(ctx) { for (let i = 0; i < 100000; i++) ctx.log("x".repeat(3000)); return "still here"; },
  hostCallFlood(ctx) { for (let i = 0; i < 20000; i++) ctx.state.get("k"); return "still here"; },
  stack() { const f = () => f() + 1; return f() + ""; },
  hugeHeader: () => new Response("x", { headers: { a: "b".repeat(40000) } }),
  throwSecret() { throw new Error("secret-" + Deno.env.get("SECRET")); },
  notAResponse: () => ({ then: undefined }),
  forgeLength() { DataView.prototype.setUint32 = function () { this.setInt32(0, -1); }; return "forged"; },
  forgeType() { const set = Uint8Array.prototype.set;
    Uint8Array.prototype.set = function (...a) { this[8] = 99; set.apply(this, a); }; return "forged"; },
  forgeNumber() { const set = Uint8Array.prototype.set;
    Uint8Array.prototype.set = function (...a) { this[4] = 200; set.apply(this, a); }; return "forged"; },
  pollute() {
    Object.prototype.status = 999;
    Array.prototype.map = null;
    JSON.stringify = () => "{}";
    return "polluted";
  },
  syscalls(ctx, url) {
    const c = Deno.dlopen("libc.so.6", {
      syscall: { parameters: ["i64", "i64", "i64", "i64", "i64", "i64", "i64"], result: "i64" },
      __errno_location: { parameters: [], result: "pointer" },
    });
    const call = (n, ...a) => {
      const result = c.symbols.syscall(BigInt(n), ...Array.from({ length: 6 }, (_, i) => BigInt(a[i] ?? 0)));
      return Number(result) < 0 ? new Deno.UnsafePointerView(c.symbols.__errno_location()).getInt32() : 0;
    };
    return JSON.stringify(JSON.parse(url.searchParams.get("calls")).map((parts) => call(...parts)));
  },
  sharedMemory() {
    const c = Deno.dlopen("libc.so.6", {
      mmap: { parameters: ["i64", "i64", "i32", "i32", "i32", "i64"], result: "i64" } });
    return c.symbols.mmap(0n, 4096n, 3, 0x21, -1, 0n) + "";
  },
  listen: async () => { Deno.listen({ hostname: "127.0.0.1", port: 7777 }); return "listening"; },
  knock: async () => { await Deno.connect({ hostname: "127.0.0.1", port: 7777 }); return "connected"; },
};
export default {
  async fetch(request, ctx) {
    const url = new URL(request.url);
    const out = await attacks[url.pathname.slice(1)](ctx, url);
    return out instanceof Response || out?.then === undefined && typeof out === "object" && !(out instanceof Uint8Array)
      && !(out instanceof ReadableStream) ? out : new Response(out);
  },
};
"""

# attack: what ends it as agents run, and what with Deno's permissions off. A text in quotes is an answer.
THREW, DEADLINE, CRASHED = "sandbox.agent_threw", "sandbox.deadline", "sandbox.crashed"
MEMORY, PROTOCOL, LARGE = "sandbox.memory", "sandbox.protocol", "sandbox.response_too_large"
# A bomb beyond the limit is refused (RangeError), unless an allocation that cannot fail comes first.
EITHER = f"{THREW}|{MEMORY}"
DIES = f"{MEMORY}|{CRASHED}"
TABLE: dict[str, tuple[str, str]] = {
    "loop": (DEADLINE, DEADLINE),
    "asyncLoop": (DEADLINE, DEADLINE),
    "redos": (DEADLINE, DEADLINE),
    "heap": (MEMORY, MEMORY),
    "arrayBuffer": (EITHER, EITHER),
    "wasm": (EITHER, EITHER),
    "workers": (DIES, DIES),
    "fork": (THREW, THREW),
    "forkSelf": (THREW, THREW),
    "passwd": (THREW, THREW),
    "hosts": (THREW, THREW),
    "work": (THREW, THREW),
    "writeTmp": (THREW, THREW),
    "writeShm": (THREW, THREW),
    "writeSelf": (THREW, THREW),
    "writeCache": (THREW, THREW),
    "writeHarness": (THREW, THREW),
    "forbiddenHost": (THREW, THREW),
    "plainHttp": (THREW, "'405'"),
    "tcp": (THREW, THREW),
    "loopback": (THREW, THREW),
    "dns": (THREW, THREW),
    "metadata": (THREW, THREW),
    "secondSocket": (THREW, THREW),
    "ffi": (THREW, "'loaded'"),
    "processes": (THREW, "'1'"),
    "hugeReply": (LARGE, LARGE),
    "endlessReply": (LARGE, LARGE),
    "exit": (CRASHED, CRASHED),
    "processExit": (CRASHED, CRASHED),
    "rejection": ("'still here'", "'still here'"),
    "lateThrow": ("'still here'", "'still here'"),
    "stdout": ("'still here'", "'still here'"),
    "stderr": ("'still here'", "'still here'"),
    "logFlood": ("'still here'", "'still here'"),
    "hostCallFlood": ("'still here'", "'still here'"),
    "stack": (THREW, THREW),
    "hugeHeader": ("sandbox.bad_response", "sandbox.bad_response"),
    "throwSecret": (THREW, THREW),
    "notAResponse": (THREW, THREW),
    "forgeLength": (PROTOCOL, PROTOCOL),
    "forgeType": (PROTOCOL, PROTOCOL),
    "forgeNumber": (PROTOCOL, PROTOCOL),
}
# Deno's permissions have no part in these: once is enough.
LANGUAGE = {"rejection", "lateThrow", "stdout", "stderr", "logFlood", "hostCallFlood", "stack", "hugeHeader"} | {
    *("throwSecret", "notAResponse", "forgeLength", "forgeType", "forgeNumber", "processExit", "heap", "redos"),
}
CASES = [(attack, wall) for attack in TABLE for wall in (0, 1) if not (wall and attack in LANGUAGE)]
# These keep a core busy until the deadline: short, so that the suite is.
BUSY = {"loop", "asyncLoop", "redos"}


def spec() -> AgentSpec:
    limits = Limits(memory_mb=128, response_bytes=8 << 20)
    return spec_of(ATTACKS, limits=limits, env={"SECRET": "k-0123456789"}, egress=["allowed.example"])


def everything(monkeypatch: pytest.MonkeyPatch) -> None:
    """Switch Deno's own permissions off."""

    def permissions(plan: Plan) -> list[str]:
        return ["-A"]

    monkeypatch.setattr(command, "permissions", permissions)


async def outcome(process: DenoProcess, attack: str) -> str:
    """The code of what ended it, or the answer in quotes. No refusal carries the agent's secret."""
    answer = ask(process, f"/{attack}", seconds=0.3 if attack in BUSY else 10)
    (result,) = await asyncio.gather(answer, return_exceptions=True)
    if not isinstance(result, SandboxError):
        assert not isinstance(result, BaseException), result
        return repr(result.text)
    assert "0123456789" not in json.dumps(result.to_wire())
    return result.code


@pytest.mark.parametrize(
    ("attack", "wall"), CASES, ids=[f"{attack}-{('both walls', 'the OS wall alone')[wall]}" for attack, wall in CASES]
)
async def test_an_attack_ends_by_name(
    sandbox: DenoSandbox, monkeypatch: pytest.MonkeyPatch, attack: str, wall: int
) -> None:
    if wall:
        everything(monkeypatch)
    expected = TABLE[attack][wall]
    process = await sandbox.start(spec(), MemoryHost())
    try:
        found = await outcome(process, attack)
        assert found in expected.split("|")
        assert process.usage()["rss_bytes"] < 300 << 20
        if found in (MEMORY, CRASHED, PROTOCOL):
            assert not process.alive
            with pytest.raises(SandboxError):
                await process.fetch(request_of("/hello"))
        elif attack not in BUSY:
            assert (await ask(process, "/hello")).text == "hello"
    finally:
        await process.close()


async def test_what_dies_takes_its_requests_with_it_and_nobody_else(sandbox: DenoSandbox) -> None:
    hostile, neighbour = [await sandbox.start(spec(), MemoryHost()) for _ in range(2)]
    waiting = asyncio.ensure_future(ask(hostile, "/workers"))
    await asyncio.sleep(0.01)
    assert await outcome(hostile, "exit") in (CRASHED, MEMORY)
    with pytest.raises(SandboxError) as caught:
        await waiting
    assert caught.value.code in (CRASHED, MEMORY)
    assert (await ask(neighbour, "/hello")).text == "hello"
    again = await sandbox.start(spec(), MemoryHost())
    assert (await ask(again, "/hello")).text == "hello"
    for process in (hostile, neighbour, again):
        await process.close()


async def test_a_stuck_event_loop_is_killed_after_its_grace(sandbox: DenoSandbox) -> None:
    before = children()
    process = await sandbox.start(spec(), MemoryHost())
    family = descendants(children() - before)
    assert await outcome(process, "loop") == DEADLINE
    for _ in range(300):
        if not descendants(family) & running():
            break
        await asyncio.sleep(0.02)
    assert not process.alive
    assert not family & running()
    await process.close()


def running() -> set[int]:
    return {int(path.name) for path in Path("/proc").iterdir() if path.name.isdecimal()}


async def test_the_environment_of_a_process_holds_nothing_even_without_denos_wall(
    sandbox: DenoSandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORKER_SECRET", "w-0123456789")
    everything(monkeypatch)
    process = await sandbox.start(spec(), MemoryHost())
    for path in ("/environ", "/environ1"):
        text = (await ask(process, path)).text
        assert "0123456789" not in text
        assert {line.split("=")[0] for line in text.split("\0") if line} <= {
            "DENO_DIR",
            "DENO_NO_UPDATE_CHECK",
            "HTTPS_PROXY",
            "HTTP_PROXY",
            "PWD",
        }
    await process.close()


async def test_two_agents_do_not_share_a_loopback(sandbox: DenoSandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    everything(monkeypatch)
    one, other = [await sandbox.start(spec(), MemoryHost()) for _ in range(2)]
    assert (await ask(one, "/listen")).text == "listening"
    assert (await ask(one, "/knock")).text == "connected"
    assert await outcome(other, "knock") == THREW
    for process in (one, other):
        await process.close()


async def test_every_denied_system_call_is_refused_inside(
    sandbox: DenoSandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    everything(monkeypatch)
    process = await sandbox.start(spec(), MemoryHost())
    calls = [[number] for number in seccomp.DENIED.values()]
    calls += [[56, 17], [56, 0x10000000], [41, 40, 1, 0], [41, 16, 3, 0], [16, 0, 0x5412]]  # fork, userns, vsock, …
    errors = json.loads((await ask(process, f"/syscalls?calls={json.dumps(calls)}".replace(" ", ""))).text)
    assert errors == [1] * len(calls)  # EPERM
    errors = json.loads((await ask(process, "/syscalls?calls=[[435],[463],[500]]")).text)
    assert errors == [38] * 3  # ENOSYS
    assert (await ask(process, "/sharedMemory")).text == "-1"
    await process.close()


async def test_a_polluted_realm_hurts_its_own_agent_only(sandbox: DenoSandbox) -> None:
    hostile, neighbour = [await sandbox.start(spec(), MemoryHost()) for _ in range(2)]
    assert await outcome(hostile, "pollute") in ("'polluted'", THREW, PROTOCOL, "sandbox.bad_response")
    assert (await ask(neighbour, "/hello")).text == "hello"
    for process in (hostile, neighbour):
        await process.close()


async def test_an_agent_that_hangs_while_it_loads_does_not_start(
    sandbox: DenoSandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cloister.sandbox.deno.sandbox.WARM_S", 0.5)
    before = children()
    settings = spec_of("for (;;); export default () => 1;", limits=Limits(start_s=0.5))
    with pytest.raises(SandboxError) as caught:
        await sandbox.start(settings, MemoryHost())
    assert caught.value.code == "sandbox.start"
    assert children() == before
