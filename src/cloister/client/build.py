"""Building an agent: one minified ES module and its manifest, the same bytes from any folder (spec/sandbox.md 5).

``deno bundle --minify`` is reproducible given its input: sources, deno.json and, where packages are imported,
deno.lock. Without a lock file Deno writes one; commit it. Whoever has the sources rebuilds and compares the hash.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from cloister.client.python import bundle_python
from cloister.client.script import CHECK, may_be_script, module_of
from cloister.core.encoding.hexes import to_hex
from cloister.core.errors import ConfigError, define
from cloister.core.policy.manifest import (
    BAD_BUNDLE,
    MAX_BUNDLE,
    MAX_MANIFEST,
    Manifest,
    code_hash,
    manifest_hash,
    normalize,
)

MANIFEST_SOURCE: Final = "cloister.json"
BUNDLE_NAME, ARCHIVE_NAME, MANIFEST_NAME = "agent.js", "agent.zip", "manifest.json"
TIMEOUT_S: Final = 180.0
_SUFFIXES: Final = (".ts", ".js", ".mts", ".mjs", ".tsx", ".jsx", ".cjs")
_ENTRIES: Final = ("agent.ts", "agent.js", "main.ts", "main.js", "index.ts", "index.js", "agent.py")
# What a default export named main looks like in sources, and in what esbuild and webpack leave unminified.
_MAIN = re.compile(
    r"^\s*export\s+default\s+(?:(?:async\s+)?function\s+main\b|main\s*(?:;|$))"
    r"|^\s*export\s*\{[^}]*\bmain\s+as\s+default\b"
    r"|^(?:var|const|let)\s+(\w+)\s*=\s*main;$(?s:.*)^export\s*\{[^}]*\b\1\s+as\s+default\b",
    re.MULTILINE,
)
_ANSI = re.compile(r"\x1b\[[0-9;]*m")

NO_ENTRY = define(
    "build.entry",
    ConfigError,
    check="the agent's source is a TypeScript or JavaScript file, or agent.py, or a folder with one",
    remedy=f"name the file, or call it one of {', '.join(_ENTRIES)}",
)
FAILED = define(
    "build.failed",
    ConfigError,
    check="deno bundles the agent's source",
    remedy="correct the error above; packages come from deno.json and deno.lock beside the source",
)
NOT_ALONE = define(
    "build.imports",
    ConfigError,
    check="a bundle imports nothing but node: built-ins, because it runs without network and files",
    remedy="import it in a way that deno bundle can follow: a package of deno.json or a relative file",
)
BAD_TEXT = define(
    "build.source",
    ConfigError,
    check="the agent's source is a text that can be read, no larger than a bundle may be",
    remedy="look at the file, its permissions and its encoding",
)
BAD_SOURCE = define(
    "build.manifest",
    ConfigError,
    check=f"{MANIFEST_SOURCE} beside the source is one JSON object, with the runtime of the source",
    remedy="correct the file, or remove it to take the defaults",
)


@dataclass(frozen=True, slots=True)
class Built:
    """What is deployed. ``bytes(manifest)`` is what is hashed and uploaded beside ``bundle``. Hashes: 32 bytes."""

    bundle: bytes
    manifest: Manifest
    code_hash: bytes
    manifest_hash: bytes

    def to_json(self) -> dict[str, Any]:
        """JSON-ready facts."""
        return {
            "code_hash": to_hex(self.code_hash),
            "manifest_hash": to_hex(self.manifest_hash),
            "bundle_bytes": len(self.bundle),
            "manifest": self.manifest.to_json(),
        }


async def build(entry: Path, out: Path, *, deno: Path) -> Built:
    """Bundle ``entry`` (a file, or a folder with one) and write ``agent.js`` and ``manifest.json`` into ``out``; of a
    Python agent ``agent.zip``.

    Raises ConfigError: build.entry, build.failed, build.imports, build.manifest, manifest.*; SandboxError for egress.
    """
    source = find_entry(entry)
    if source.suffix == ".py":
        manifest, name = read_manifest(source), ARCHIVE_NAME
        bundle = await bundle_python(source.parent)
    else:
        script, name = await _script(source, deno), BUNDLE_NAME
        manifest = read_manifest(source, script=script is not None)
        bundle = await bundle_module(source, deno, script)
    encoded = bytes(manifest)
    built = Built(bundle, manifest, code_hash(bundle), manifest_hash(encoded))
    out.mkdir(parents=True, exist_ok=True)
    (out / name).write_bytes(bundle)
    (out / MANIFEST_NAME).write_bytes(encoded)
    return built


def find_entry(entry: Path) -> Path:
    """The source file. Raises ConfigError (build.entry)."""
    if entry.is_file() and (entry.name == "agent.py" or entry.suffix in _SUFFIXES):
        return entry.resolve()
    found = next((entry / name for name in _ENTRIES if (entry / name).is_file()), None)
    if found is None:
        raise NO_ENTRY(expected="a source file", found=f"none at {entry.name or 'this path'}")
    return found.resolve()


def read_manifest(source: Path, *, script: bool = False) -> Manifest:
    """The manifest of a source file: ``cloister.json`` beside it, with defaults. Raises ConfigError, SandboxError.

    Without ``entry`` in it, a ``script`` and a default export named main are taken for ``main(requestJson)``:
    bundling loses the name.
    """
    path = source.with_name(MANIFEST_SOURCE)
    value: object = {}
    if path.is_file():
        if path.stat().st_size > MAX_MANIFEST:
            raise BAD_SOURCE(expected=f"at most {MAX_MANIFEST} bytes", found=f"{path.stat().st_size} bytes")
        try:
            value = json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            raise BAD_SOURCE(expected="JSON", found=f"{type(error).__name__} in {path.name}") from None
    python = source.suffix == ".py"
    if isinstance(value, dict) and python != (value.get("runtime", "deno") == "python"):
        if "runtime" in value:
            raise BAD_SOURCE(expected=f"the runtime of {source.name}", found="the other one")
        value = {**value, "runtime": "python"}
    if isinstance(value, dict) and not python and "entry" not in value and (script or _MAIN.search(_text(source))):
        value = {**value, "entry": "main"}
    return normalize(value)


async def bundle_module(source: Path, deno: Path, script: str | None = None) -> bytes:
    """The minified ES module of a source file and all that it imports; of a ``script``, around it.

    Raises ConfigError (build.*)."""
    lock = source.with_name("deno.lock")
    locked = [f"--lock={lock}", "--frozen-lockfile"] if lock.is_file() and script is None else []
    with tempfile.TemporaryDirectory(prefix="cloister-build-") as folder:
        target = Path(folder, BUNDLE_NAME)
        if script is not None:
            source = Path(folder, "script.js")
            source.write_text(module_of(script), encoding="utf-8")
        arguments = ["bundle", "--quiet", "--platform", "deno", "--minify", *locked, "-o", str(target), str(source)]
        await _deno(deno, arguments, source.parent)
        if not target.is_file():
            raise FAILED(expected="a bundle", found="none, though deno reported success")
        if (size := target.stat().st_size) > MAX_BUNDLE:
            raise BAD_BUNDLE(expected=f"1 to {MAX_BUNDLE} bytes", found=f"{size} bytes")
        await _check_alone(target, deno)
        return target.read_bytes()


async def _script(source: Path, deno: Path) -> str | None:
    """The text of a source that is a script rather than a module, else None. It is parsed, not run."""
    if not may_be_script(source):
        return None
    text = _text(source)
    said = await _deno(deno, ["eval", "--no-config", "--no-lock", "--ext=js", CHECK, str(source)], source.parent)
    return text if said.strip() == b"script" else None


def _text(source: Path) -> str:
    """A source file of at most what a bundle may have. Raises ConfigError (build.source)."""
    try:
        if source.stat().st_size > MAX_BUNDLE:
            raise BAD_TEXT(expected=f"at most {MAX_BUNDLE} bytes", found="more")
        return source.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise BAD_TEXT(expected="a file of UTF-8 text", found=type(error).__name__) from None


async def _check_alone(bundle: Path, deno: Path) -> None:
    """Refuse a bundle that still imports: asked of Deno's own parser, not of a regular expression."""
    arguments = ["info", "--json", "--no-config", "--no-lock", "--no-remote", "--no-npm", str(bundle)]
    graph = json.loads(await _deno(deno, arguments, bundle.parent))
    imports = [
        str(dependency.get("specifier"))
        for module in graph.get("modules", [])
        for dependency in module.get("dependencies", [])
    ]
    foreign = [name for name in imports if not name.startswith("node:")]
    if foreign:
        raise NOT_ALONE(expected="node: imports only", found=", ".join(sorted(foreign))[:200])


async def _deno(deno: Path, arguments: Sequence[str], folder: Path) -> bytes:
    """Run Deno in the developer's own environment (registry and proxy settings live there); its stdout."""
    process = await asyncio.create_subprocess_exec(
        deno,
        *arguments,
        cwd=folder,
        env={**os.environ, "NO_COLOR": "1", "DENO_NO_UPDATE_CHECK": "1"},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        stdout, stderr = await asyncio.wait_for(process.communicate(), TIMEOUT_S)
    except BaseException as error:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        if isinstance(error, TimeoutError):
            raise FAILED(expected=f"a bundle within {TIMEOUT_S:.0f} s", found="none") from None
        raise
    if process.returncode != 0:
        raise FAILED(expected="deno to succeed", found=_reason(stderr))
    return stdout


def _reason(stderr: bytes) -> str:
    """The lines of Deno's complaint that say what is wrong."""
    lines = [_ANSI.sub("", line).strip() for line in stderr.decode(errors="replace").splitlines()]
    said = itertools.takewhile(lambda line: not line.startswith("Stack backtrace"), lines)
    kept = [line for line in said if line and "experimental" not in line and not line.startswith("Download")]
    return " | ".join(kept)[:480] or "an error without a text"
