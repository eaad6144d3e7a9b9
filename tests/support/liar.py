"""An RPC endpoint that lies: a proxy in this process which changes answers before it passes them on."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

from aiohttp import ClientSession, web

# Given the method, its params and the honest result, what to answer instead.
Lie = Callable[[str, list[Any], Any], Any]


@contextlib.asynccontextmanager
async def liar(upstream: str, lie: Lie) -> AsyncIterator[str]:
    """Run the proxy; yields its URL."""

    async def answer(session: ClientSession, request: dict[str, Any]) -> dict[str, Any]:
        async with session.post(upstream, json=request) as response:
            honest = await response.json(content_type=None)
        if "result" in honest:
            honest["result"] = lie(request["method"], request["params"], honest["result"])
        return dict(honest)

    async def handle(request: web.Request) -> web.Response:
        body = await request.json()
        async with ClientSession() as session:
            if isinstance(body, list):
                return web.json_response([await answer(session, one) for one in body])
            return web.json_response(await answer(session, body))

    app = web.Application()
    app.router.add_post("/", handle)
    async with serving(app) as url:
        yield url


@contextlib.asynccontextmanager
async def raw_endpoint(body: bytes | Callable[[bytes], bytes], status: int = 200) -> AsyncIterator[str]:
    """An endpoint that answers every request with these bytes (or a function of the request)."""

    async def handle(request: web.Request) -> web.Response:
        data = await request.read()
        return web.Response(body=body(data) if callable(body) else body, status=status)

    app = web.Application(client_max_size=1 << 26)
    app.router.add_post("/", handle)
    async with serving(app) as url:
        yield url


@contextlib.asynccontextmanager
async def serving(app: web.Application) -> AsyncIterator[str]:
    """The application on 127.0.0.1, a port of its own choice."""
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        yield f"http://{host}:{port}"
    finally:
        await runner.cleanup()
