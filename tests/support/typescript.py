"""The TypeScript client under Deno: test files, and a client that tests drive by JSON lines. Never goes to the net."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
SDK = ROOT / "sdk" / "typescript"
DENO = str(Path(sys.executable).with_name("deno"))
# Only the cache that `make setup` filled is used: --cached-only.
OFFLINE = ("--cached-only", "--frozen")


def environment() -> dict[str, str]:
    """Environment of Deno: the repository's own package cache, plain text."""
    cache = str(ROOT / ".build" / "deno")
    return {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), "DENO_DIR": cache,
            "DENO_NO_UPDATE_CHECK": "1", "NO_COLOR": "1"}  # fmt: skip


def deno(command: str, *arguments: str, timeout_s: float = 170, config: Path = SDK) -> subprocess.CompletedProcess[str]:
    """Run ``deno COMMAND`` in the SDK's folder, offline, and return what it said. ``config``: folder of deno.json."""
    offline = OFFLINE if command in ("check", "run", "test") else ()  # the others read no package
    flags = (*offline, "--config", str(config / "deno.json"))
    return subprocess.run(
        [DENO, command, "--quiet", *flags, *arguments], cwd=SDK, env=environment(), text=True, capture_output=True,
        timeout=timeout_s, check=False,
    )  # fmt: skip


class Driver:
    """A running ``tests/driver.ts``. ``do`` sends a command; ``ok`` and ``refused`` say how it must end."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def do(self, what: str, **fields: Any) -> dict[str, Any]:
        """Send one command; its result: {ok} or {error}."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"do": what, **fields}) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, "the driver ended"
        result: dict[str, Any] = json.loads(line)
        return result

    def ok(self, what: str, **fields: Any) -> Any:
        """The result of a command that must succeed."""
        result = self.do(what, **fields)
        assert "ok" in result, result
        return result["ok"]

    def refused(self, what: str, **fields: Any) -> str:
        """The code of a command that must be refused."""
        result = self.do(what, **fields)
        assert "error" in result, result
        return str(result["error"]["code"])

    async def aok(self, what: str, **fields: Any) -> Any:
        """``ok`` beside a running event loop."""
        return await asyncio.to_thread(self.ok, what, **fields)

    async def arefused(self, what: str, **fields: Any) -> str:
        """``refused`` beside a running event loop."""
        return await asyncio.to_thread(self.refused, what, **fields)


@contextmanager
def driver() -> Iterator[Driver]:
    """A driver until the block ends."""
    arguments = [DENO, "run", "--quiet", "--no-check", *OFFLINE, "--config", str(SDK / "deno.json"),
                 "--allow-net=127.0.0.1", "tests/driver.ts"]  # fmt: skip
    process = subprocess.Popen(
        arguments, cwd=SDK, env=environment(), text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        yield Driver(process)
    finally:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()
