"""The official ``openai`` npm package, sealed: one changed line. Long, because the package is fetched for it alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from support.typescript import SDK, deno

HERE = SDK / "tests" / "openai"


def choice(kind: str, name: str, text: str) -> bytes:
    """One completion, or one piece of a streamed one."""
    content = {"role": "assistant", "content": text}
    choices = [{"index": 0, name: content, "finish_reason": None if name == "delta" else "stop"}]
    return json.dumps({"id": "1", "object": kind, "created": 1, "model": "m", "choices": choices}).encode()


def model(request: Any) -> tuple[int, tuple[tuple[str, str], ...], list[bytes]]:
    """An agent that speaks the OpenAI API."""
    if not json.loads(request.body).get("stream"):
        return 200, (("content-type", "application/json"),), [choice("chat.completion", "message", "a sealed answer")]
    parts = [b"data: " + choice("chat.completion.chunk", "delta", t) + b"\n\n" for t in ("a sealed ", "stream")]
    return 200, (("content-type", "text/event-stream"),), [*parts, b"data: [DONE]\n\n"]


@pytest.mark.long
def test_the_openai_package_talks_to_an_agent(net: Any) -> None:
    net.one.handler = net.two.handler = model
    given = (net.gateway.url, net.world.network.fingerprint(), str(int(net.world.now)))
    done = deno("run", "--no-check", "--allow-net=127.0.0.1", "--allow-env", str(HERE / "chat.ts"), *given, config=HERE)
    assert done.returncode == 0, done.stderr + "\n(make browser-setup fetches the package)"
    assert done.stdout.splitlines() == ["a sealed answer", "a sealed stream"]
    assert [r.head.path for r in (*net.one.ran, *net.two.ran)] == ["/v1/chat/completions"] * 2


def test_the_pinned_packages_are_the_clients() -> None:
    own = json.loads((SDK / "package.json").read_text(encoding="utf-8"))["dependencies"]
    imports = json.loads((Path(HERE) / "deno.json").read_text(encoding="utf-8"))["imports"]
    assert all(imports[f"{name}/"] == f"npm:/{name}@{version}/" for name, version in own.items())
    assert "://" not in (HERE / "deno.lock").read_text(encoding="utf-8")
