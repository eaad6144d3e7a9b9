"""A local HTTP door to one agent on 127.0.0.1: plain requests in, the agent's answers out."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final

from aiohttp import web
from yarl import URL

from cloister.core.errors import CloisterError, ConfigError, define
from cloister.local.agent import SCHEDULE, LocalAgent, LocalRequest
from cloister.local.offers import CALLEE_HEADER, carried_path
from cloister.sandbox.calls import kept_headers
from cloister.sandbox.ports import AgentResponseHead, Chunks
from cloister.worker.outbound import BUDGET, PATH

CALLER_HEADER: Final = "x-cloister-caller"
MAX_BODY: Final = 64 << 20
_ADDRESS: Final = re.compile(r"0x[0-9a-fA-F]{40}")
_LOCAL_HOSTS: Final = frozenset({"127.0.0.1", "localhost"})

BAD_CALLER = define(
    "local.caller",
    ConfigError,
    check=f"{CALLER_HEADER} is the address that the local caller claims",
    remedy='send 0x and 40 hex digits, or "schedule", or leave the header out for an anonymous call',
)
BAD_HOST = define(
    "local.host",
    ConfigError,
    check="requests to the local server name it as 127.0.0.1 or localhost",
    remedy="open the address that `cloister agent dev` printed; pages of other origins may not reach the agent",
    status=403,
)
NO_PORT = define(
    "local.port",
    ConfigError,
    check="the local port is free",
    remedy="choose another one with --port, or leave it out",
)


class LocalServer:
    """Serves ``agent``. ``note(method, path, status)`` hears of each request."""

    def __init__(self, agent: LocalAgent, note: Callable[[str, str, int], None]) -> None:
        self._agent, self._note = agent, note
        app = web.Application(client_max_size=MAX_BODY)
        app.router.add_route("*", "/{path:.*}", self._serve)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)

    async def start(self, port: int = 0) -> str:
        """Listen on 127.0.0.1; the URL. Raises ConfigError (local.port)."""
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, "127.0.0.1", port).start()
        except OSError as error:
            raise NO_PORT(expected=f"port {port} on 127.0.0.1", found=error.strerror or "an error") from None
        return f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    async def close(self) -> None:
        """Stop listening; requests in progress are cut after a second."""
        await self._runner.cleanup()

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        """Border: refusals become JSON {error, hint, code} with their status."""
        sent: list[web.StreamResponse] = []

        async def answer(head: AgentResponseHead, chunks: Chunks) -> web.StreamResponse:
            response = web.StreamResponse(status=head.status)
            response.headers.extend(head.headers)
            sent.append(response)
            await response.prepare(request)
            async for chunk in chunks:
                await response.write(chunk)
            await response.write_eof()
            return response

        try:
            response = await self._agent.fetch(await _request(request), answer)
        except CloisterError as error:
            self._note(request.method, request.raw_path, error.status)
            if sent and sent[0].prepared:
                raise  # the body broke off: so does the connection
            return web.json_response(_refusal(error), status=error.status)
        self._note(request.method, request.raw_path, response.status)
        return response


async def _request(request: web.Request) -> LocalRequest:
    """Pages of other origins can reach this port, by its address or a name of their own: both are checked."""
    origin = request.headers.get("origin")
    named = [request.host.rpartition(":")[0], *([URL(origin).host] if origin is not None else [])]
    if not set(named) <= _LOCAL_HOSTS:
        raise BAD_HOST(expected="127.0.0.1 or localhost, as host and as origin", found="another name")
    caller = request.headers.get(CALLER_HEADER)
    if caller is not None and caller != SCHEDULE and not _ADDRESS.fullmatch(caller):
        raise BAD_CALLER(expected="an address", found="another text")
    above, budget = carried_path(request.headers)
    ours = (CALLER_HEADER, CALLEE_HEADER, PATH, BUDGET, "host")
    headers = [(name, value) for name, value in request.headers.items() if name.lower() not in ours]
    body, who = await request.read(), None if caller is None else caller.lower()
    return LocalRequest(request.method, request.raw_path, kept_headers(headers), body, who, above, budget)


def _refusal(error: CloisterError) -> dict[str, Any]:
    text = f"{error.check}: expected {error.expected}, found {error.found}"
    return {"error": text, "hint": error.remedy, "code": error.code}
