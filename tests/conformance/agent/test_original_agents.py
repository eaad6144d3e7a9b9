"""Agents written for the original network run as they are: their interface, and every shape of bundle they came in."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cloister.client.build import build
from cloister.core.errors import SandboxError
from cloister.devnet.tools import deno
from cloister.sandbox.deno import DenoSandbox
from support.build_kit import DENO_DIR, esbuild, running, write_project
from support.sandbox_kit import ask

pytestmark = pytest.mark.asyncio(loop_scope="module")

# The interface of those agents, in our words: a text in, a text out, one handler per method.
MAIN = """
type Asked = { method: string; path: string; queries: Record<string, string[]>; headers: Record<string, string>;
  body?: string; secret?: Record<string, unknown> };

const handlers: Record<string, (asked: Asked) => { status?: number; body?: string }> = {
  GET: (asked) => ({ body: JSON.stringify({ query: asked.queries.chatQuery?.[0], all: asked.queries.tag ?? [],
    key: asked.secret?.openaiApiKey, path: asked.path }) }),
  POST: (asked) => ({ body: JSON.stringify({ got: JSON.parse(asked.body!), type: asked.headers["content-type"] }) }),
  PATCH: (asked) => ({ status: 202, body: "patched " + asked.body }),
  PUT: (asked) => ({ status: 201, body: "put " + asked.body }),
};
let seen = 0;

async function main(request: string): Promise<string> {
  const asked = JSON.parse(request) as Asked, handler = handlers[asked.method];
  if (asked.path === "/count") return JSON.stringify({ body: String(++seen) });
  const { status = 200, body } = handler ? handler(asked) : { status: 404, body: "Not Found" };
  const headers = { "Content-Type": "application/json", "Access-Control-Allow-Origin": "*" };
  return JSON.stringify({ status, body, headers });
}
"""
MANIFEST = '{"secrets": ["openaiApiKey"]}'
OUTPUT = "(globalThis as any).scriptOutput = main.apply(null, (globalThis as any).scriptArgs);\n"

# What bundlers leave, written by hand where Deno's esbuild has no option for it. BODY is the agent as one function.
BODY = "async function(request){var r=JSON.parse(request);return JSON.stringify({status:200,body:r.method+' '+r.path})}"
HAND: dict[str, str] = {
    "webpack, a script that sets scriptOutput": (
        '(()=>{"use strict";var e={d:(t,n)=>{for(var r in n)e.o(n,r)&&Object.defineProperty(t,r,{enumerable:!0,'
        "get:n[r]})},o:(e,t)=>Object.prototype.hasOwnProperty.call(e,t)};const t=" + BODY + ";"
        "globalThis.scriptOutput=t.apply(null,globalThis.scriptArgs)})();"
    ),
    "webpack, library of type var": 'var main;(()=>{"use strict";var e={};e.default=' + BODY + ";main=e})();",
    "webpack, library of type umd": (
        "!function(e,t){'object'==typeof exports&&'object'==typeof module?module.exports=t():"
        "'function'==typeof define&&define.amd?define([],t):e.main=t()}(this,(()=>({default:" + BODY + "})));"
    ),
    "webpack, a property of the window": "globalThis.main=(()=>{return " + BODY + "})();",
    "webpack, commonjs2": 'module.exports=(()=>{"use strict";return{__esModule:!0,default:' + BODY + "}})();",
    "esbuild, a global name": '"use strict";\nvar main = (() => { var r = { default: ' + BODY + " }; return r; })();\n",
    "a plain function main": BODY.replace("function(", "function main(", 1),
    "with a comment as its last line": "globalThis.main = " + BODY + "\n//# sourceMappingURL=index.js.map",
}


@pytest.fixture(autouse=True)
def _deno_dir(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DENO_DIR", DENO_DIR)


def as_source(folder: Path) -> Path:
    return write_project(folder, {"index.ts": MAIN + "export default main;\n", "cloister.json": MANIFEST})


def as_script(folder: Path) -> Path:
    write_project(folder, {"source.ts": MAIN + OUTPUT, "cloister.json": MANIFEST})
    return esbuild(folder / "source.ts", folder / "index.js", "iife", "--minify")


def as_commonjs(folder: Path) -> Path:
    write_project(folder, {"source.ts": MAIN + "export default main;\n", "cloister.json": MANIFEST})
    return esbuild(folder / "source.ts", folder / "index.cjs", "cjs", "--minify")


def as_module(folder: Path) -> Path:
    write_project(folder, {"source.ts": MAIN + "export default main;\n", "cloister.json": MANIFEST})
    return esbuild(folder / "source.ts", folder / "index.js", "esm")


def as_minified_module(folder: Path) -> Path:
    """Minifying loses the name of main, so the manifest says which entry it is."""
    manifest = json.dumps({**json.loads(MANIFEST), "entry": "main"})
    write_project(folder, {"source.ts": MAIN + "export default main;\n", "cloister.json": manifest})
    return esbuild(folder / "source.ts", folder / "index.js", "esm", "--minify")


FORMS: dict[str, Callable[[Path], Path]] = {
    "its TypeScript source": as_source,
    "a script that sets globalThis.scriptOutput": as_script,
    "a CommonJS bundle": as_commonjs,
    "an ES module": as_module,
    "a minified ES module": as_minified_module,
}


@pytest.mark.parametrize("form", FORMS)
async def test_an_agent_of_the_original_network_answers(sandbox: DenoSandbox, form: str, tmp_path: Path) -> None:
    entry = FORMS[form](tmp_path / "agent")
    async with running(sandbox, entry, tmp_path / "out", {"openaiApiKey": "sk-1"}) as (process, _):
        asked = await ask(process, "/a/b?chatQuery=hi%20you&tag=x&tag=y")
        assert (asked.status, asked.headers["content-type"]) == (200, "application/json")
        assert asked.headers["access-control-allow-origin"] == "*"
        assert json.loads(asked.body) == {"query": "hi you", "all": ["x", "y"], "key": "sk-1", "path": "/a/b"}
        json_type = (("content-type", "application/json"),)
        posted = await ask(process, method="POST", body=b'{"n":1}', headers=json_type)
        assert json.loads(posted.body) == {"got": {"n": 1}, "type": "application/json"}
        for method, status, body in (("PATCH", 202, "patched ü"), ("PUT", 201, "put ü"), ("DELETE", 404, "Not Found")):
            sent = b"" if method == "DELETE" else "ü".encode()
            answer = await ask(process, method=method, body=sent)
            assert (answer.status, answer.text) == (status, body)


@pytest.mark.parametrize("form", HAND)
async def test_every_shape_that_bundlers_leave_is_served(sandbox: DenoSandbox, form: str, tmp_path: Path) -> None:
    folder = write_project(tmp_path / "agent", {"index.js": HAND[form]})
    async with running(sandbox, folder, tmp_path / "out") as (process, _):
        for method, path in (("GET", "/one"), ("PUT", "/two")):
            assert (await ask(process, path, method=method)).text == f"{method} {path}"


async def test_a_script_runs_anew_for_every_request(sandbox: DenoSandbox, tmp_path: Path) -> None:
    """As on the original network: nothing of one request is left in its variables for the next."""
    async with running(sandbox, as_script(tmp_path / "agent"), tmp_path / "out") as (process, _):
        assert [(await ask(process, "/count")).text for _ in range(3)] == ["1", "1", "1"]


async def test_the_build_says_that_it_is_main(tmp_path: Path) -> None:
    for name, make in FORMS.items():
        folder = tmp_path / name
        assert (await build(make(folder), folder / "out", deno=deno())).manifest.entry == "main", name


async def test_a_script_has_the_same_hash_from_everywhere(tmp_path: Path) -> None:
    one = await build(as_script(tmp_path / "a"), tmp_path / "out-a", deno=deno())
    other = await build(as_script(tmp_path / "far" / "b"), tmp_path / "out-b", deno=deno())
    assert one.code_hash == other.code_hash
    assert str(tmp_path).encode() not in one.bundle


async def test_a_script_without_a_main_says_so(sandbox: DenoSandbox, tmp_path: Path) -> None:
    folder = write_project(tmp_path / "agent", {"index.js": "globalThis.other = () => 1;"})
    async with running(sandbox, folder, tmp_path / "out") as (process, host):
        with pytest.raises(SandboxError) as caught:
            await ask(process)
        assert caught.value.code == "sandbox.agent_threw"
        assert host.logged("no function main")


ANSWERS: dict[str, tuple[str, tuple[int, str]]] = {
    "an object instead of a text": ("{ status: 200, body: 'x' }", (200, "x")),
    "a body that is an object": ("{ body: { a: 1 } }", (200, '{"a":1}')),
    "no body": ("{ status: 201 }", (201, "")),
    "a status that has no body": ("{ status: 204, body: '' }", (204, "")),
    "a promise of a text": ("Promise.resolve(JSON.stringify({ body: 'later' }))", (200, "later")),
}


@pytest.mark.parametrize("sentence", ANSWERS)
async def test_answers_in_every_form(sandbox: DenoSandbox, sentence: str, tmp_path: Path) -> None:
    code, expected = ANSWERS[sentence]
    folder = write_project(tmp_path / "agent", {"agent.js": f"export default function main() {{ return {code}; }}"})
    async with running(sandbox, folder, tmp_path / "out") as (process, _):
        answer = await ask(process)
    assert (answer.status, answer.text) == expected


async def test_the_secret_as_one_environment_variable(sandbox: DenoSandbox, tmp_path: Path) -> None:
    """Later agents of that network read all their secrets as JSON from the variable ``secret``."""
    source = "const { apiKey } = JSON.parse(process.env.secret);\nexport default { fetch: () => new Response(apiKey) };"
    files = {"agent.ts": source, "cloister.json": '{"secrets": ["secret"], "env": ["secret"]}'}
    folder = write_project(tmp_path / "agent", files)
    async with running(sandbox, folder, tmp_path / "out", {"secret": '{"apiKey": "k-1"}'}) as (process, _):
        assert (await ask(process)).text == "k-1"


BROKEN: dict[str, tuple[str, str]] = {
    "a script that throws": ("throw new RangeError('x');", "RangeError"),
    "a main that answers with no JSON": ("export default function main() { return 'not json'; }", "SyntaxError"),
    "a main that answers nothing": ("export default function main() {}", "TypeError"),
}


@pytest.mark.parametrize("sentence", BROKEN)
async def test_a_failing_main_fails_its_request_only(sandbox: DenoSandbox, sentence: str, tmp_path: Path) -> None:
    code, kind = BROKEN[sentence]
    folder = write_project(tmp_path / "agent", {"agent.js": code})
    found: list[Any] = []
    async with running(sandbox, folder, tmp_path / "out") as (process, _):
        for _ in range(2):
            with pytest.raises(SandboxError) as caught:
                await ask(process)
            found.append((caught.value.code, caught.value.found))
    assert found == [("sandbox.agent_threw", kind)] * 2
