"""One table of what ``ctx`` and a handler can do, in JavaScript and in Python: the same requests, the same answers."""

from __future__ import annotations

import base64
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from cloister.client.build import build
from cloister.core.errors import SandboxError
from cloister.devnet.tools import deno
from cloister.sandbox.process import SandboxProcess
from cloister.sandbox.runtimes import AgentSandbox
from support.build_kit import DENO_DIR, spec_for, write_project
from support.sandbox_kit import AGENT_ID, MemoryHost, ask, request_of

pytestmark = pytest.mark.asyncio(loop_scope="module")

MANIFEST = {"settings": {"MODE": "public"}, "secrets": ["TOKEN", "HIDDEN"], "env": ["TOKEN"]}
CALLER = {"kind": "wallet", "address": "0x" + "ab" * 20}

# sentence: (JavaScript, Python, the JSON that both answer). Each body is a function of (request, ctx).
CASES: dict[str, tuple[str, str, Any]] = {
    "the agent learns who it is, who calls, and the request's name": (
        "return [ctx.agent, ctx.caller, ctx.requestId];",
        "return [ctx.agent, ctx.caller, ctx.request_id]",
        ["0x" + AGENT_ID.hex(), CALLER, "0x0a"],
    ),
    "state that was never written is null": (
        "return [await ctx.state.get('no'), await ctx.state.getBytes('no')];",
        "return [await ctx.state.get('no'), await ctx.state.get_bytes('no')]",
        [None, None],
    ),
    "state keeps what JSON can say": (
        "await ctx.state.put('j', { deep: [1, 'ü', null] }); return await ctx.state.get('j');",
        "await ctx.state.put('j', {'deep': [1, 'ü', None]}); return await ctx.state.get('j')",
        {"deep": [1, "ü", None]},
    ),
    "state keeps bytes": (
        "await ctx.state.putBytes('b', new Uint8Array([0, 255])); return [...await ctx.state.getBytes('b')];",
        "await ctx.state.put_bytes('b', bytes([0, 255])); return list(await ctx.state.get_bytes('b'))",
        [0, 255],
    ),
    "JSON is bytes of UTF-8 without spaces": (
        "await ctx.state.put('k', { a: ['ü', 1] }); return [...await ctx.state.getBytes('k')];",
        "await ctx.state.put('k', {'a': ['ü', 1]}); return list(await ctx.state.get_bytes('k'))",
        list('{"a":["ü",1]}'.encode()),
    ),
    "state is listed by prefix, after a name, up to a limit": (
        "for (const n of ['l/1', 'l/2', 'l/3']) await ctx.state.put(n, 1);"
        "return [await ctx.state.list('l/'), await ctx.state.list('l/', { after: 'l/1', limit: 1 })];",
        "for n in ['l/1', 'l/2', 'l/3']: await ctx.state.put(n, 1)\n"
        "    return [await ctx.state.list('l/'), await ctx.state.list('l/', after='l/1', limit=1)]",
        [["l/1", "l/2", "l/3"], ["l/2"]],
    ),
    "state that was deleted is gone": (
        "await ctx.state.put('d', 1); await ctx.state.delete('d'); return [await ctx.state.get('d')];",
        "await ctx.state.put('d', 1); await ctx.state.delete('d'); return [await ctx.state.get('d')]",
        [None],
    ),
    "three hundred calls at once all get their answers": (
        "const n = [...Array(300).keys()]; await Promise.all(n.map((i) => ctx.state.put('m' + i, i)));"
        "return [Number((await Promise.all(n.map((i) => ctx.state.get('m' + i)))).reduce((a, b) => a + b) === 44850)];",
        "import asyncio\n"
        "    await asyncio.gather(*(ctx.state.put(f'm{i}', i) for i in range(300)))\n"
        "    return [int(sum(await asyncio.gather(*(ctx.state.get(f'm{i}') for i in range(300)))) == 44850)]",
        [1],
    ),
    "a key that is empty is a mistake of the code": (
        "return [await ctx.state.get('').catch((e) => e.name)];",
        "try: await ctx.state.get('')\n    except TypeError as e: return [type(e).__name__]",
        ["TypeError"],
    ),
    "secrets are those that the manifest declares": (
        "return [ctx.secrets.TOKEN, ctx.secrets.get('TOKEN'), ctx.secrets.get('UNDECLARED') ?? null,"
        "Object.keys(ctx.secrets).sort()];",
        "return [ctx.secrets['TOKEN'], ctx.secrets.get('TOKEN'), ctx.secrets.get('UNDECLARED'), sorted(ctx.secrets)]",
        ["t-1", "t-1", None, ["HIDDEN", "TOKEN"]],
    ),
    "secrets cannot be changed": (
        "try { 'use strict'; ctx.secrets.TOKEN = 'x'; } catch {} return [ctx.secrets.TOKEN];",
        "try: ctx.secrets['TOKEN'] = 'x'\n    except TypeError: return [ctx.secrets['TOKEN']]",
        ["t-1"],
    ),
    "settings are public and hold no secret": (
        "return ctx.settings;",
        "return dict(ctx.settings)",
        {"MODE": "public"},
    ),
    "settings and marked secrets are environment variables": (
        "return ['MODE', 'TOKEN', 'HIDDEN'].map((n) => process.env[n] ?? null);",
        "import os\n    return [os.environ.get(n) for n in ('MODE', 'TOKEN', 'HIDDEN')]",
        ["public", "t-1", None],
    ),
    "evidence answers the nonce": (
        "return [(await ctx.attest(new Uint8Array(32))).nonce.length];",
        "return [len((await ctx.attest(bytes(32)))['nonce'])]",
        [44],
    ),
    "the deadline is a time to come, in milliseconds": (
        "const left = ctx.deadline - Date.now(); return [left > 1000 && left <= 20000];",
        "import time\n    left = ctx.deadline - time.time() * 1000\n    return [1000 < left <= 20000]",
        [True],
    ),
    "a text is signed as bytes of UTF-8": (
        "return [await ctx.keys.signMessage('ü'), await ctx.keys.signMessage(new Uint8Array([1]))];",
        "return [await ctx.keys.sign_message('ü'), await ctx.keys.sign_message(bytes([1]))]",
        ['{"message":"w7w="}', '{"message":"AQ=="}'],
    ),
    "typed data is signed as it is": (
        "return [await ctx.keys.signTypedData({ domain: { name: 'd' }, message: { v: 7 } })];",
        "return [await ctx.keys.sign_typed_data({'domain': {'name': 'd'}, 'message': {'v': 7}})]",
        ['{"typed":{"domain":{"name":"d"},"message":{"v":7}}}'],
    ),
    "an Ed25519 key is shown and signs bytes": (
        "return [await ctx.keys.ed25519Key(), await ctx.keys.signEd25519('ü')];",
        "return [await ctx.keys.ed25519_key(), await ctx.keys.sign_ed25519('ü')]",
        ["{}", '{"message":"w7w="}'],
    ),
    "a call by the account has its defaults": (
        "return [await ctx.keys.send({ to: '0x01' })];",
        "return [await ctx.keys.send('0x01')]",
        ['{"to":"0x01","value":"0","data":"0x","key":null,"within_s":600,"chain":null}'],
    ),
    "a call by the account is asked for as it is": (
        "return [await ctx.keys.send({ to: '0x01', value: 5n, data: '0x02', key: 'k', withinS: 60, chain: 8453 })];",
        "return [await ctx.keys.send('0x01', value=5, data='0x02', key='k', within_s=60, chain=8453)]",
        ['{"to":"0x01","value":"5","data":"0x02","key":"k","within_s":60,"chain":8453}'],
    ),
    "how a call by the account ended is asked by its nonce": (
        "return await ctx.keys.sent('0x07');",
        "return await ctx.keys.sent('0x07')",
        {"asked": "keys.sent", "nonce": "0x07"},
    ),
    "a chain says which checkpoint it is at": (
        "return await ctx.chain(8453).at();",
        "return await ctx.chain(8453).at()",
        {"asked": "chain.at", "chain": 8453},
    ),
    "a word of a contract's storage is asked by its slot": (
        "return await ctx.chain(1).storage('0x01', 300);",
        "return await ctx.chain(1).storage('0x01', 300)",
        {"asked": "chain.word", "chain": 1, "address": "0x01", "slot": f"0x{300:064x}"},
    ),
    "a view is called": (
        "return await ctx.chain(1).call('0x01', '0x02');",
        "return await ctx.chain(1).call('0x01', '0x02')",
        {"asked": "chain.call", "chain": 1, "to": "0x01", "data": "0x02"},
    ),
    "an entry of the agent's store on a chain is read": (
        "return await ctx.chain(1).get('0x05');",
        "return await ctx.chain(1).get('0x05')",
        {"asked": "chain.get", "chain": 1, "key": "0x05"},
    ),
    "an entry is replaced at its version, and that says nothing": (
        "return (await ctx.chain(1).put('0x05', 'ü', { version: 3 })) ?? null;",
        "return await ctx.chain(1).put('0x05', 'ü', version=3)",
        None,
    ),
    "what may be used now is asked of the worker": (
        "return await ctx.lists();",
        "return await ctx.lists()",
        {"tools": ["search"], "models": None},
    ),
    "the account is a set of facts": (
        "return await ctx.keys.account();",
        "return await ctx.keys.account()",
        {"name": "keys.account"},
    ),
    "another agent is called with all that a request has": (
        "const r = await ctx.agents.fetch('0x01', '/p?q=1', { method: 'POST', headers: { 'x-a': 'b' }, body: 'ü',"
        "budget: 3, deadline: 9, idempotencyKey: 'k' });"
        "return [r.status, r.headers.get('x-kind'), (({ headers, ...rest }) =>"
        "({ ...rest, x: headers.find(([n]) => n === 'x-a')[1] }))(await r.json())];",
        "import json\n"
        "    r = await ctx.agents.fetch('0x01', '/p?q=1', method='POST', headers={'x-a': 'b'}, body='ü', budget=3,"
        " deadline=9, idempotency_key='k')\n"
        "    args = json.loads(r.body)\n"
        "    return [r.status, r.headers['x-kind'], {'x': dict(args.pop('headers'))['x-a'], **args}]",
        [
            201,
            "echo",
            {
                "agent": "0x01",
                "body": "w7w=",
                "budget": 3,
                "deadline": 9,
                "idempotency_key": "k",
                "method": "POST",
                "path": "/p?q=1",
                "x": "b",
            },
        ],
    ),
    "a call of another agent needs no more than its id": (
        "const { method, path, body, budget, deadline } = await (await ctx.agents.fetch('0x01')).json();"
        "return [method, path, body, budget, deadline];",
        "import json\n"
        "    args = json.loads((await ctx.agents.fetch('0x01')).body)\n"
        "    return [args[name] for name in ('method', 'path', 'body', 'budget', 'deadline')]",
        ["GET", "/", "", None, None],
    ),
    "a refused call is a HostError with all its parts": (
        "const e = await ctx.keys.address().catch((e) => e);"
        "return [e.name, e.code, typeof e.check, typeof e.expected, typeof e.found, typeof e.remedy];",
        "from cloister_agent import HostError\n"
        "    try: await ctx._call('keys.address')\n"
        "    except HostError as e:\n"
        "        kinds = ['string' for part in (e.check, e.expected, e.found, e.remedy) if isinstance(part, str)]\n"
        "        return ['HostError', 'sandbox.host_call', *kinds]",
        ["HostError", "sandbox.host_call", "string", "string", "string", "string"],
    ),
}

JS = """
import type { Context } from "./context.ts";
const cases: ((request: Request, ctx: any) => Promise<any>)[] = [
%s
];
const routes: Record<string, (request: Request, ctx: Context) => Response | Promise<Response>> = {
  echo: async (request) => Response.json([request.method, request.url, request.headers.get("X-Test"),
    await request.text()]),
  upload: async (request) => {
    let size = 0;
    for await (const piece of request.body!) size += piece.length;
    return Response.json(size);
  },
  text: () => new Response("plain ü"),
  bytes: () => new Response(new Uint8Array(3_000_000).fill(7)),
  empty: () => new Response(null, { status: 204 }),
  made: () => new Response("made", { status: 201, headers: [["set-cookie", "a=1"], ["set-cookie", "b=2"]] }),
  events: (_request, ctx) => new Response(new ReadableStream({
    async start(stream) {
      for (const n of [1, 2]) stream.enqueue(new TextEncoder().encode(`data: ${n}\\n\\n`));
      await ctx.state.put("last", 2);
      stream.close();
    },
  }), { headers: { "content-type": "text/event-stream", "cache-control": "no-store" } }),
  broken: () => new Response(new ReadableStream({
    pull(stream) { stream.enqueue(new Uint8Array(8)); throw new TypeError("mid"); },
  })),
  log: (_request, ctx) => {
    ctx.log("plain", "text");
    for (const level of ["debug", "info", "warn", "error"] as const) ctx.log[level](`at ${level}`);
    console.log("printed");
    return new Response("ok");
  },
  slow: async (_request, ctx) => {
    await new Promise((resolve) => ctx.signal.addEventListener("abort", resolve));
    (globalThis as any).ended = true;
    return new Response("late");
  },
  ended: async () => {
    await new Promise((resolve) => setTimeout(resolve, 10));
    return Response.json((globalThis as any).ended ?? false);
  },
  throws: () => { throw new RangeError("sk-secret"); },
  odd: () => 7 as any,
  after: (_request, ctx) => {
    setTimeout(() => ctx.state.put("late", 1).catch(() => { (globalThis as any).refused = true; }), 5);
    return new Response("ok");
  },
  refused: async () => {
    await new Promise((resolve) => setTimeout(resolve, 40));
    return Response.json((globalThis as any).refused ?? false);
  },
};
export default {
  async fetch(request: Request, ctx: Context): Promise<Response> {
    const [, name, number] = new URL(request.url).pathname.split("/");
    if (name === "case") return Response.json(await cases[Number(number)](request, ctx));
    return routes[name](request, ctx);
  },
  async command(request, ctx) {
    const text = await request.text();
    if (text === "made") return new Response("as it is", { status: 202 });
    if (text === "nothing") return;
    if (text === "throw") throw new RangeError("sk-secret");
    await ctx.state.put("commands", text);
    return { method: request.method, text, caller: ctx.caller, index: request.headers.get("x-index") };
  },
};
"""
PY = """
import asyncio
from cloister_agent import Request, Response
seen = {}
%s

async def echo(request, ctx):
    return [request.method, request.url, request.headers["X-Test"], request.text()]
async def upload(request, ctx):
    return Response.json(sum([len(piece) async for piece in request.stream()]))
async def text(request, ctx): return "plain ü"
async def bytes_(request, ctx): return bytes([7]) * 3_000_000
async def empty(request, ctx): return Response(None, 204)
async def made(request, ctx): return Response("made", 201, [("set-cookie", "a=1"), ("set-cookie", "b=2")])
async def events(request, ctx):
    async def numbers():
        for n in (1, 2): yield {"data": n}
        await ctx.state.put("last", 2)
    return Response.events(numbers())
async def broken(request, ctx):
    def parts():
        yield bytes(8)
        raise TypeError("mid")
    return Response(parts())
async def log(request, ctx):
    ctx.log("plain", "text")
    for level in ("debug", "info", "warn", "error"): getattr(ctx.log, level)(f"at {level}")
    print("printed")
    return "ok"
async def slow(request, ctx):
    try:
        await asyncio.sleep(60)
    finally:
        seen["ended"] = ctx.aborted.is_set()
async def ended(request, ctx):
    await asyncio.sleep(0.01)
    return Response.json(seen.get("ended", False))
async def throws(request, ctx): raise ValueError("sk-secret")
async def odd(request, ctx): return 7
async def after(request, ctx):
    async def late():
        await asyncio.sleep(0.005)
        try: await ctx.state.put("late", 1)
        except RuntimeError: seen["refused"] = True
    seen["task"] = asyncio.create_task(late())
    return "ok"
async def refused(request, ctx):
    await asyncio.sleep(0.04)
    return Response.json(seen.get("refused", False))

async def fetch(request, ctx):
    name, *rest = request.path[1:].split("/")
    if name == "case":
        return Response.json(await globals()["case_" + rest[0]](request, ctx))
    return await globals()["bytes_" if name == "bytes" else name](request, ctx)

async def command(request, ctx):
    text = request.text()
    if text == "made": return Response("as it is", 202)
    if text == "nothing": return None
    if text == "throw": raise ValueError("sk-secret")
    await ctx.state.put("commands", text)
    return {"method": request.method, "text": text, "caller": ctx.caller, "index": request.headers.get("x-index")}
"""
CONTEXT = Path(__file__).parents[3] / "src" / "cloister" / "cli" / "templates" / "common" / "context.ts"


def sources() -> dict[str, dict[str, str]]:
    """The two agents' files, made from the table."""
    js = "\n".join(f"async (request, ctx) => {{ {code} }}," for code, _, _ in CASES.values())
    py = "\n".join(f"async def case_{n}(request, ctx):\n    {code}" for n, (_, code, _) in enumerate(CASES.values()))
    return {
        "deno": {"agent.ts": JS % js, "context.ts": CONTEXT.read_text()},
        "python": {"agent.py": PY % py},
    }


Agent = tuple[SandboxProcess, MemoryHost]


@pytest_asyncio.fixture(loop_scope="module", scope="module", params=["deno", "python"])
async def agent(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Agent]:
    work = tmp_path_factory.mktemp("both")
    files = {**sources()[request.param], "cloister.json": json.dumps(MANIFEST)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DENO_DIR", DENO_DIR)
        built = await build(write_project(work / "agent", files), work / "out", deno=deno())
    host = MemoryHost()
    async with AgentSandbox(work / "sandbox") as sandbox:
        process = await sandbox.start(spec_for(built, {"TOKEN": "t-1", "HIDDEN": "h", "UNDECLARED": "u"}), host)
        yield process, host
        await process.close()


@pytest.mark.parametrize("sentence", CASES)
async def test_ctx_is_the_same_in_every_runtime(agent: Agent, sentence: str) -> None:
    number = list(CASES).index(sentence)
    answer = await ask(agent[0], f"/case/{number}", caller=CALLER)
    assert json.loads(answer.body) == CASES[sentence][2]


async def test_a_request_arrives_whole(agent: Agent) -> None:
    headers = (("x-test", "yes"),)
    answer = await ask(agent[0], "/echo?a=1", method="POST", body="ü".encode(), headers=headers)
    assert json.loads(answer.body) == ["POST", "https://agent/echo?a=1", "yes", "ü"]
    assert json.loads((await ask(agent[0], "/upload", method="POST", body=b"x" * 300_000)).body) == 300_000


async def test_answers_of_every_kind_arrive_whole(agent: Agent) -> None:
    text = await ask(agent[0], "/text")
    assert (text.text, text.headers["content-type"]) == ("plain ü", "text/plain;charset=UTF-8")
    assert (await ask(agent[0], "/bytes")).body == b"\x07" * 3_000_000
    empty = await ask(agent[0], "/empty")
    assert (empty.status, empty.body) == (204, b"")
    head, _ = await agent[0].fetch(request_of("/made"))
    assert (head.status, [value for name, value in head.headers if name == "set-cookie"]) == (201, ["a=1", "b=2"])


async def test_events_are_streamed_and_may_write_state(agent: Agent) -> None:
    answer = await ask(agent[0], "/events")
    assert (answer.text, answer.headers["content-type"]) == ("data: 1\n\ndata: 2\n\n", "text/event-stream")
    assert agent[1].store["last"] == "Mg=="


async def test_a_body_that_breaks_off_fails_after_what_came_before(agent: Agent) -> None:
    head, body = await agent[0].fetch(request_of("/broken"))
    assert head.status == 200
    with pytest.raises(SandboxError) as caught:
        [piece async for piece in body]
    assert (caught.value.code, caught.value.found) == ("sandbox.agent_threw", "TypeError")


async def test_logs_have_their_level(agent: Agent) -> None:
    await ask(agent[0], "/log", request_id="0x0d")
    levels = [(level, text) for name, level, text in agent[1].lines if name == "0x0d" and text != "printed"]
    assert levels == [("info", "plain text"), *((level, f"at {level}") for level in ("debug", "info", "warn", "error"))]
    assert ("info", "printed") in [(level, text) for _, level, text in agent[1].lines]


async def test_a_request_past_its_deadline_is_told_and_the_agent_lives_on(agent: Agent) -> None:
    with pytest.raises(SandboxError) as caught:
        await ask(agent[0], "/slow", seconds=0.1)
    assert caught.value.code == "sandbox.deadline"
    assert json.loads((await ask(agent[0], "/ended")).body) is True


@pytest.mark.parametrize(("path", "kinds"), [("/throws", ("RangeError", "ValueError")), ("/odd", ("TypeError",))])
async def test_a_throw_fails_its_request_alone_and_says_only_its_kind(
    agent: Agent, path: str, kinds: tuple[str, ...]
) -> None:
    with pytest.raises(SandboxError) as caught:
        await ask(agent[0], path)
    assert caught.value.code == "sandbox.agent_threw"
    assert caught.value.found in kinds
    assert "sk-secret" not in json.dumps(caught.value.to_wire())
    assert (await ask(agent[0], "/text")).status == 200


async def test_a_context_dies_with_its_request(agent: Agent) -> None:
    await ask(agent[0], "/after")
    assert json.loads((await ask(agent[0], "/refused")).body) is True
    assert "late" not in agent[1].store


OWNERS = {"kind": "owner", "address": "0x" + "0f" * 20}
CONTRACT = {"kind": "contract", "address": "0x" + "0c" * 20}
COMMAND, ASKED = "/.well-known/cloister/owner/command", "/.well-known/cloister/request"


@pytest.mark.parametrize(("path", "caller"), [(COMMAND, OWNERS), (ASKED, CONTRACT)])
async def test_owners_and_contracts_reach_command(agent: Agent, path: str, caller: dict[str, str]) -> None:
    headers = (("x-index", "7"),)
    answer = await ask(agent[0], path, method="POST", body="gö".encode(), headers=headers, caller=caller)
    assert json.loads(answer.body) == {"method": "POST", "text": "gö", "caller": caller, "index": "7"}
    assert json.loads(base64.b64decode(agent[1].store["commands"])) == "gö"


@pytest.mark.parametrize(("text", "status", "body"), [("made", 202, b"as it is"), ("nothing", 200, b"null")])
async def test_a_command_answers_with_a_response_or_with_json(
    agent: Agent, text: str, status: int, body: bytes
) -> None:
    answer = await ask(agent[0], COMMAND, method="POST", body=text.encode(), caller=OWNERS)
    assert (answer.status, answer.body) == (status, body)


async def test_a_command_that_throws_fails(agent: Agent) -> None:
    with pytest.raises(SandboxError) as caught:
        await ask(agent[0], COMMAND, method="POST", body=b"throw", caller=OWNERS)
    assert "sk-secret" not in str(caught.value)


@pytest.mark.parametrize(
    "path",
    ["/echo" + COMMAND, COMMAND + "/", COMMAND + "?a=1", "/.well-known/cloister/%6fwner/command", ASKED],
)
async def test_nobody_else_reaches_command(agent: Agent, path: str) -> None:
    """Only the worker makes requests of the one path; the other means a contract only by its caller."""
    agent[1].store.pop("commands", None)
    with contextlib.suppress(SandboxError):
        await ask(agent[0], path, method="POST", body=b"go", caller=CALLER)
    assert "commands" not in agent[1].store


@pytest.mark.parametrize("runtime", ["deno", "python"])
async def test_an_agent_without_command_says_so_and_serves_contracts_by_fetch(tmp_path: Path, runtime: str) -> None:
    files = {
        "deno": {"agent.ts": "export default { fetch: () => new Response('by fetch') };"},
        "python": {"agent.py": "async def fetch(request, ctx): return 'by fetch'"},
    }[runtime]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DENO_DIR", DENO_DIR)
        manifest = {"cloister.json": "{}"}
        built = await build(write_project(tmp_path / "agent", files | manifest), tmp_path / "out", deno=deno())
    async with AgentSandbox(tmp_path / "sandbox") as sandbox:
        process = await sandbox.start(spec_for(built, {}), MemoryHost())
        assert (await ask(process, COMMAND, method="POST", body=b"x", caller=OWNERS)).status == 501
        assert (await ask(process, ASKED, method="POST", body=b"x", caller=CONTRACT)).text == "by fetch"
        await process.close()
