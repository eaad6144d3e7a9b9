"""The TypeScript client, under Deno, against the running network.

1. A sealed call through the gateway: answer, streamed body, caller, and a receipt that Python verifies on the chain.
2. Three refusals: another fingerprint, an answer that somebody between altered, an answer that was given before.
3. (long) The same client in a page in headless Chromium, from another origin than the gateway's.
4. (long) The same page through a relay: one message, and a stream in chunks. It knows no gateway's address.
"""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from aiohttp import web

from cloister.client.client import Client
from cloister.client.deploy import await_seats, deploy_agent
from cloister.client.receipts import Kept
from cloister.client.verify import verify_kept_receipt
from cloister.core.encoding.hexes import to_hex
from cloister.core.policy.manifest import normalize
from cloister.devnet.demo.steps import owner_wallet
from cloister.devnet.network import Devnet
from support.live_relay import relay_of
from support.typescript import ROOT, SDK, Driver, deno, driver

pytestmark = pytest.mark.asyncio(loop_scope="session")
Spoil = Callable[[bytes], bytes]
HELLO = b"""export default { async fetch(request, ctx) {
  const { pathname, search } = new URL(request.url);
  const caller = ctx.caller?.address ?? "nobody";
  const parts = [request.method, " ", pathname + search, " ", caller, " ", await request.text()];
  const stream = new ReadableStream({ pull(controller) {
    const part = parts.shift();
    if (part === undefined) controller.close();
    else controller.enqueue(new TextEncoder().encode(part));
  } });
  return new Response(stream, { headers: { "content-type": "text/plain" } });
} };"""


@asynccontextmanager
async def between(devnet: Devnet, spoil: Spoil) -> AsyncIterator[str]:
    """The address of somebody between client and gateway, who changes answers of calls and nothing else."""

    async def forward(request: web.Request) -> web.Response:
        target = devnet.gateway_url + request.path_qs
        kind = {"content-type": request.headers.get("content-type", "application/json")}
        async with session.request(request.method, target, data=await request.read(), headers=kind) as answer:
            body = await answer.read()
            sealed = request.path.startswith("/v1/call/")
            return web.Response(
                body=spoil(body) if sealed else body, status=answer.status, content_type=answer.content_type
            )

    app = web.Application(client_max_size=32 << 20)
    app.router.add_route("*", "/{rest:.*}", forward)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    async with aiohttp.ClientSession() as session:
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        try:
            yield f"http://127.0.0.1:{runner.addresses[0][1]}"
        finally:
            await runner.cleanup()


@pytest_asyncio.fixture(loop_scope="session", scope="module")
async def hello(devnet: Devnet, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A small agent of the owner's that streams who asked for what, by id.

    By a client of its own: the command line sends with the same wallet, and a client remembers its nonce."""
    assert devnet.network is not None
    async with Client(
        devnet.gateway_url,
        fingerprint=devnet.network.fingerprint(),
        wallet=owner_wallet(devnet),
        home=tmp_path_factory.mktemp("owner"),
    ) as client:
        deployed = await deploy_agent(client, HELLO, normalize({"upgrade": {"rule": "delay", "blocks": 10}}))
        await await_seats(client, deployed.agent, seats=2)
    return deployed.agent


async def ready(typescript: Driver, devnet: Devnet, agent: bytes, url: str) -> None:
    """Connect as the owner and take the agent."""
    assert devnet.network is not None
    key = to_hex(owner_wallet(devnet).key.secret)
    await typescript.aok("connect", url=url, fingerprint=devnet.network.fingerprint(), key=key)
    found = await typescript.aok("agent", name=to_hex(agent))
    assert found["id"] == to_hex(agent)


async def test_a_sealed_call_with_a_receipt_that_python_verifies(devnet: Devnet, client: Client, hello: bytes) -> None:
    with driver() as typescript:
        await ready(typescript, devnet, hello, devnet.gateway_url)
        for how in ("request", "fetch"):
            answer = await typescript.aok("call", path="/a?b=c", json={"text": "hé"}, how=how)
            caller = to_hex(owner_wallet(devnet).address)
            assert answer["text"].lower() == f'POST /a?b=c {caller} {{"text":"hé"}}'.lower()
            assert answer["status"] == 200
            report = await verify_kept_receipt(client, Kept.from_json(answer["kept"]))
            assert report.ok, report.to_json()


async def test_three_refusals(devnet: Devnet, hello: bytes) -> None:
    kept: list[bytes] = []

    def altered(answer: bytes) -> bytes:
        return answer[:-1] + bytes([answer[-1] ^ 1])

    def replayed(answer: bytes) -> bytes:
        kept.append(answer)
        return kept[0]

    with driver() as typescript:
        refused = await typescript.arefused("connect", url=devnet.gateway_url, fingerprint="00" * 32)
        assert refused == "encoding.fingerprint"
        async with between(devnet, altered) as url:
            await ready(typescript, devnet, hello, url)
            assert await typescript.arefused("call", path="/", how="fetch") == "envelope.not_authentic"
        async with between(devnet, replayed) as url:
            await ready(typescript, devnet, hello, url)
            assert (await typescript.aok("call", path="/"))["status"] == 200
            assert await typescript.arefused("call", path="/") == "envelope.not_authentic"


PAGE = """<!doctype html><meta charset="utf-8"><title>sealed</title>
<script type="importmap">{"imports": {"@cloister/sdk": "/sdk/mod.ts", "@noble/": "/npm/@noble/"}}</script>
<script type="module">
const tell = (said) => fetch("/said", { method: "POST", body: JSON.stringify(said) });
try {
  const { connect, toHex } = await import("@cloister/sdk");
  const [url, fingerprint, agentId, more] = GIVEN;
  const wrong = await connect(url, { fingerprint: "00".repeat(32), ...more }).catch((error) => error.code);
  const client = await connect(url, { fingerprint, ...more });
  const agent = await client.agent(agentId);
  const whole = (await agent.request("/whole")).text;
  const answer = await agent.fetch("/from/a/browser", { method: "POST", body: "h\u00e9" });
  const text = await answer.text();
  const { receipt, proof } = await answer.verified;
  await tell({ wrong, whole, text, status: answer.status, receipt: toHex(receipt.id), vendor: proof.vendor });
} catch (error) {
  await tell({ failed: String(error.stack ?? error) });
}
</script>"""


@asynccontextmanager
async def page(given: list[Any], built: Path) -> AsyncIterator[tuple[str, asyncio.Future[Any]]]:
    """A page's address and what it says in the end. The client's modules are served as they are, transpiled."""
    said: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    versions = json.loads((SDK / "package.json").read_text(encoding="utf-8"))["dependencies"]
    packages = next((ROOT / ".build" / "deno" / "npm").glob("*/@noble")).parent

    async def show(request: web.Request) -> web.Response:
        return web.Response(text=PAGE.replace("GIVEN", json.dumps(given)), content_type="text/html")

    async def module(request: web.Request) -> web.Response:
        source = (built / request.match_info["path"]).with_suffix(".js").read_text(encoding="utf-8")
        return web.Response(text=source, content_type="text/javascript")

    async def package(request: web.Request) -> web.Response:
        name, path = request.match_info["name"], request.match_info["path"]
        source = packages / "@noble" / name / versions[f"@noble/{name}"] / path
        return web.Response(text=source.read_text(encoding="utf-8"), content_type="text/javascript")

    async def tell(request: web.Request) -> web.Response:
        said.set_result(await request.json())
        return web.Response()

    app = web.Application()
    app.add_routes([web.get("/", show), web.post("/said", tell), web.get("/sdk/{path:[a-z0-9_/-]+[.]ts}", module)])
    app.router.add_get("/npm/@noble/{name:[a-z-]+}/{path:[a-z0-9_/-]+[.]js}", package)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/", said
    finally:
        await runner.cleanup()


@asynccontextmanager
async def browsing(given: list[Any], folder: Path) -> AsyncIterator[dict[str, Any]]:
    """What a page in headless Chromium says in the end."""
    chromium = shutil.which("chromium")
    assert chromium, "as root: apt-get install -y chromium (make long does it)"
    sources = [str(path.relative_to(SDK)) for path in SDK.glob("src/**/*.ts")]
    done = await asyncio.to_thread(deno, "transpile", "--no-check", "--outdir", str(folder / "built"), *sources)
    assert done.returncode == 0, done.stderr
    (mod,) = (folder / "built").rglob("mod.js")
    async with page(given, mod.parent) as (url, said):
        flags = ("--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder / 'profile'}")
        browser = await asyncio.create_subprocess_exec(
            chromium, *flags, url, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL
        )
        try:
            yield await asyncio.wait_for(said, 120)
        finally:
            browser.kill()
            await browser.wait()


@pytest.mark.long
@pytest.mark.parametrize("way", ["sealed", "oblivious"])
async def test_a_page_in_chromium_makes_a_call(way: str, devnet: Devnet, hello: bytes, tmp_path: Path) -> None:
    assert devnet.network is not None
    pin = devnet.network.fingerprint()
    async with AsyncExitStack() as stack:
        url, more = devnet.gateway_url, dict[str, str]()
        if way == "oblivious":
            url, more = "http://gateway.invalid", {"oblivious": await stack.enter_async_context(relay_of(devnet))}
        found = await stack.enter_async_context(browsing([url, pin, to_hex(hello), more], tmp_path))
    assert found.get("text") == "POST /from/a/browser nobody h\u00e9", found
    assert found["whole"] == "GET /whole nobody "
    assert (found["wrong"], found["status"], len(found["receipt"])) == ("encoding.fingerprint", 200, 66)
