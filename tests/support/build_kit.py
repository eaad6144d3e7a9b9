"""Agents built from texts, as a developer builds them, and run in the real sandbox."""

from __future__ import annotations

import os
import subprocess
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from cloister.client.build import Built, build
from cloister.devnet.tools import deno
from cloister.sandbox.deno import DenoSandbox
from cloister.sandbox.ports import AgentSpec, Limits
from cloister.sandbox.process import SandboxProcess
from support.sandbox_kit import MemoryHost, spec_of

ROOT = Path(__file__).parents[2]
# Packages and the bundler are fetched once per machine.
DENO_DIR = str(ROOT / ".build" / "deno")
SCRIPT_DEADLINE_S = 120


def write_project(folder: Path, files: Mapping[str, str]) -> Path:
    """Write files into a folder; its path."""
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def esbuild(source: Path, target: Path, shape: str, *options: str) -> Path:
    """Bundle with esbuild as a web project would: for a browser, in a format (iife, cjs, esm). The target."""
    where = ["--platform", "browser", "--format", shape, *options, "-o", str(target), str(source)]
    subprocess.run(
        [deno(), "bundle", "--quiet", *where],
        cwd=source.parent,
        env={**os.environ, "DENO_DIR": DENO_DIR, "NO_COLOR": "1"},
        check=True,
        timeout=SCRIPT_DEADLINE_S,
    )
    return target


def spec_for(built: Built, secrets: Mapping[str, str] | None = None, **more: Any) -> AgentSpec:
    """What a worker would start for a build with these opened secrets."""
    manifest, values = built.manifest, secrets or {}
    return spec_of(
        built.bundle,
        entry=manifest.entry,
        runtime=manifest.runtime,
        env=manifest.environment(values),
        secrets=manifest.handles(values),
        egress=manifest.egress,
        limits=Limits(**manifest.limits),
        **more,
    )


@asynccontextmanager
async def running(
    sandbox: DenoSandbox, entry: Path, out: Path, secrets: Mapping[str, str] | None = None, **more: Any
) -> AsyncIterator[tuple[SandboxProcess, MemoryHost]]:
    """Build what is at ``entry`` and run it."""
    built = await build(entry, out, deno=deno())
    host = MemoryHost()
    process = await sandbox.start(spec_for(built, secrets, **more), host)
    try:
        yield process, host
    finally:
        await process.close()
