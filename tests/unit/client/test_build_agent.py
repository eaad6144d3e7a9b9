"""Building agents: the same bytes from anywhere, and what cannot run alone is refused by name."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from cloister.client.build import BUNDLE_NAME, MANIFEST_NAME, Built, build, find_entry, read_manifest
from cloister.core.errors import CloisterError
from cloister.core.policy.manifest import parse
from cloister.devnet.tools import deno

ROOT = Path(__file__).resolve().parents[3]
SOURCES = {
    "agent.ts": 'import { greet } from "./lib/greet.ts";\n'
    "interface Context { agent: string }\n"
    "export default { fetch(request: Request, ctx: Context): Response { return new Response(greet(ctx.agent)); } };\n",
    "lib/greet.ts": "export const greet = (name: string): string => `hello ${name}`;\n"
    "export const unused = 'nobody asks';\n",
    "cloister.json": '{"egress": ["api.example"], "limits": {"wall_s": 5}}',
}


@pytest.fixture(autouse=True)
def _deno_dir(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DENO_DIR", str(ROOT / ".build" / "deno"))


def project(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


async def build_in(folder: Path, files: dict[str, str]) -> Built:
    return await build(project(folder / "src", files), folder / "out", deno=deno())


async def test_a_build_is_one_module_and_its_manifest(tmp_path: Path) -> None:
    built = await build_in(tmp_path, SOURCES)
    assert built.bundle == (tmp_path / "out" / BUNDLE_NAME).read_bytes()
    assert built.code_hash == hashlib.sha256(built.bundle).digest()
    encoded = (tmp_path / "out" / MANIFEST_NAME).read_bytes()
    assert parse(encoded) == built.manifest
    assert built.manifest_hash == hashlib.sha256(encoded).digest()
    assert b"nobody asks" not in built.bundle, "what is not used is left out"
    assert str(tmp_path).encode() not in built.bundle
    facts = json.loads(json.dumps(built.to_json()))
    assert facts["manifest"]["limits"]["wall_s"] == 5
    assert facts["code_hash"] == "0x" + built.code_hash.hex()


async def test_two_folders_give_the_same_bytes(tmp_path: Path) -> None:
    one = await build_in(tmp_path / "a", SOURCES)
    other = await build_in(tmp_path / "quite" / "another" / "place", SOURCES)
    assert (one.code_hash, one.manifest_hash) == (other.code_hash, other.manifest_hash)


async def test_a_changed_source_has_another_hash(tmp_path: Path) -> None:
    one = await build_in(tmp_path / "a", SOURCES)
    changed = {**SOURCES, "lib/greet.ts": SOURCES["lib/greet.ts"].replace("hello", "goodbye")}
    other = await build_in(tmp_path / "b", changed)
    assert one.code_hash != other.code_hash
    assert one.manifest_hash == other.manifest_hash


BROKEN: dict[str, tuple[str, dict[str, str]]] = {
    "no source": ("build.entry", {"readme.md": "x"}),
    "a syntax error": ("build.failed", {"agent.ts": "export default {"}),
    "a file that is missing": ("build.failed", {"agent.ts": 'import "./none.ts"; export default 1;'}),
    "a package without a deno.json": ("build.failed", {"agent.ts": 'import x from "nowhere"; export default x;'}),
    "an import from another host": (
        "build.failed",
        {"agent.ts": 'export default () => import("https://a.example/x.js");'},
    ),
    "an import that stays": ("build.imports", {"agent.ts": 'import x from "bun:test"; export default x;'}),
    "a manifest that is no JSON": ("build.manifest", {"agent.ts": "export default 1;", "cloister.json": "{"}),
    "a manifest too large": ("build.manifest", {"agent.ts": "export default 1;", "cloister.json": " " * 70_000}),
    "a manifest with an unknown field": (
        "manifest.field",
        {"agent.ts": "export default 1;", "cloister.json": '{"a":1}'},
    ),
    "a manifest that is a list": ("manifest.field", {"agent.ts": "export default 1;", "cloister.json": "[]"}),
}


@pytest.mark.parametrize("sentence", BROKEN)
async def test_what_cannot_be_built_is_refused_by_name(tmp_path: Path, sentence: str) -> None:
    code, files = BROKEN[sentence]
    with pytest.raises(CloisterError) as caught:
        await build_in(tmp_path, files)
    assert caught.value.code == code
    assert not (tmp_path / "out").exists()
    assert "Stack backtrace" not in caught.value.found


async def test_node_built_ins_may_stay(tmp_path: Path) -> None:
    source = (
        'import { Buffer } from "node:buffer"; export default () => new Response(Buffer.from("x").toString("hex"));'
    )
    built = await build_in(tmp_path, {"agent.js": source})
    assert b"node:buffer" in built.bundle


def test_the_entry_is_a_file_or_the_first_usual_name(tmp_path: Path) -> None:
    folder = project(tmp_path, {"main.ts": "", "index.js": "", "other.ts": ""})
    assert find_entry(folder).name == "main.ts"
    assert find_entry(folder / "other.ts").name == "other.ts"
    with pytest.raises(CloisterError):
        find_entry(folder / "absent.ts")


@pytest.mark.parametrize(
    ("source", "manifest", "entry"),
    [
        ("export default async function main(request) { return request; }", None, "main"),
        ("export default function main(request) { return request; }", "{}", "main"),
        ("export default function handler(request) { return request; }", None, "fetch"),
        ("export default function main() {}", '{"entry": "fetch"}', "fetch"),
        ("const main = 1; export default { fetch() {} };", '{"entry": "main"}', "main"),
    ],
)
def test_the_entry_point_is_recognised_before_its_name_is_lost(
    tmp_path: Path, source: str, manifest: str | None, entry: str
) -> None:
    files = {"agent.ts": source, **({"cloister.json": manifest} if manifest else {})}
    assert read_manifest(project(tmp_path, files) / "agent.ts").entry == entry
