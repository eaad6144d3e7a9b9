"""Agents that reach out: through both forms of the network, with TLS of their own, counted, and refused by name."""

from __future__ import annotations

import datetime
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio
from aiohttp import web

from cloister.core.errors import SandboxError
from cloister.devnet.model.tls import CA_FILE, server_context
from cloister.sandbox.deno import DenoSandbox
from cloister.sandbox.process import SandboxProcess
from support.sandbox_kit import MemoryHost, ask, spec_of

pytestmark = pytest.mark.asyncio(loop_scope="module")

AGENT = """
const talk = (target) => new Promise((resolve) => {
  const socket = new WebSocket(target), heard = [];
  socket.onopen = () => socket.send("x".repeat(20000));
  socket.onmessage = ({ data }) => heard.push(data.length) == 3 && socket.close();
  socket.onerror = () => resolve("refused");
  socket.onclose = () => resolve(heard);
});
export default {
  async fetch(request) {
    const target = new URL(request.url).searchParams.get("to");
    if (target.startsWith("wss:")) {
      try {
        return Response.json(await talk(target));
      } catch (error) {
        return Response.json(error.name);
      }
    }
    const answer = await fetch(target, { method: "POST", body: "x".repeat(20000) });
    return Response.json([answer.status, (await answer.text()).length]);
  },
};
"""


@dataclass
class Upstream:
    """An https server on this machine that calls itself api.example."""

    port: int
    ca: bytes
    seen: list[str]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def upstream(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Upstream]:
    work: Path = tmp_path_factory.mktemp("upstream")
    seen: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        seen.append(f"{request.host}{request.path}:{len(await request.read())}")
        return web.Response(text="y" * 50_000)

    async def talk(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        heard = await socket.receive_str()
        seen.append(f"{request.host}{request.path}:{len(heard)}")
        for size in (1, 20, 30_000):
            await socket.send_str("y" * size)
        await socket.receive()
        return socket

    app = web.Application()
    app.router.add_get("/live", talk)
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    names = ["api.example", "other.example"]
    context = server_context(work, names, datetime.datetime.now(datetime.UTC))
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
    yield Upstream(runner.addresses[0][1], (work / CA_FILE).read_bytes(), seen)
    await runner.cleanup()


@pytest_asyncio.fixture(loop_scope="module", params=[True, False], ids=["as root", "without root"])
async def agent(
    request: pytest.FixtureRequest, upstream: Upstream, tmp_path: Path
) -> AsyncIterator[tuple[SandboxProcess, MemoryHost]]:
    host = MemoryHost()
    mapped = dict.fromkeys(("api.example", "other.example"), ("127.0.0.1", upstream.port))
    spec = spec_of(AGENT, egress=["api.example", "nowhere.example"], map_host=mapped, extra_ca=upstream.ca)
    async with DenoSandbox(tmp_path, rooted=request.param) as sandbox:
        process = await sandbox.start(spec, host)
        yield process, host
        await process.close()


async def test_an_allowed_host_is_reached_with_tls_end_to_end(
    agent: tuple[SandboxProcess, MemoryHost], upstream: Upstream
) -> None:
    process, _ = agent
    assert json.loads((await ask(process, "/?to=https://api.example/v1/x")).body) == [200, 50_000]
    assert upstream.seen[-1] == "api.example/v1/x:20000"
    used = process.usage()
    assert used["egress_bytes"] > 20_000
    assert used["ingress_bytes"] > 50_000


async def test_a_web_socket_goes_the_same_way(agent: tuple[SandboxProcess, MemoryHost], upstream: Upstream) -> None:
    process, _ = agent
    assert json.loads((await ask(process, "/?to=wss://api.example/live")).body) == [1, 20, 30_000]
    assert upstream.seen[-1] == "api.example/live:20000"
    used = process.usage()
    assert used["egress_bytes"] > 20_000, "its bytes count"
    assert used["ingress_bytes"] > 30_000


async def test_a_web_socket_to_another_host_is_refused(
    agent: tuple[SandboxProcess, MemoryHost], upstream: Upstream
) -> None:
    process, _ = agent
    before = len(upstream.seen)
    said = json.loads((await ask(process, "/?to=wss://other.example/live")).body)
    assert said in ("refused", "NotCapable")
    assert len(upstream.seen) == before
    assert process.usage()["egress_bytes"] == 0


async def test_a_mapped_host_that_is_not_in_the_list_is_refused(
    agent: tuple[SandboxProcess, MemoryHost], upstream: Upstream
) -> None:
    process, _ = agent
    before = len(upstream.seen)
    with pytest.raises(SandboxError) as caught:
        await ask(process, "/?to=https://other.example/")
    assert (caught.value.code, caught.value.found) == ("sandbox.agent_threw", "NotCapable")
    assert len(upstream.seen) == before
    assert process.usage()["egress_bytes"] == 0


async def test_a_name_that_does_not_resolve_is_noted_for_the_owner(agent: tuple[SandboxProcess, MemoryHost]) -> None:
    process, host = agent
    with pytest.raises(SandboxError):
        await ask(process, "/?to=https://nowhere.example/")
    assert host.logged("egress refused: nowhere.example does not resolve")


async def test_plain_http_and_other_schemes_do_not_leave(
    agent: tuple[SandboxProcess, MemoryHost], upstream: Upstream
) -> None:
    process, _ = agent
    before = len(upstream.seen)
    for target in ("http://api.example/", "ftp://api.example/", "file:///etc/passwd"):
        with pytest.raises(SandboxError):
            await ask(process, f"/?to={target}")
    assert len(upstream.seen) == before


async def test_a_certificate_of_another_authority_is_refused(upstream: Upstream, tmp_path: Path) -> None:
    spec = spec_of(AGENT, egress=["api.example"], map_host={"api.example": ("127.0.0.1", upstream.port)})
    before = len(upstream.seen)
    async with DenoSandbox(tmp_path) as sandbox:
        process = await sandbox.start(spec, MemoryHost())
        with pytest.raises(SandboxError) as caught:
            await ask(process, "/?to=https://api.example/")
        assert caught.value.code == "sandbox.agent_threw"
    assert len(upstream.seen) == before
