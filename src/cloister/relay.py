"""A relay for oblivious calls (spec/ohttp.md 9): it hides from one gateway who calls, and reads nothing of calls.

It passes on method, target, body and content type, to one gateway that its operator names: what clients need.
Nothing that names the caller goes on: no address, no header of theirs. It keeps nothing and logs no request.
"""

from __future__ import annotations

import asyncio
import re
from typing import Final
from urllib.parse import urlsplit

import aiohttp
from yarl import URL

from cloister.core.envelope.oblivious import MAX_ANSWER, max_request
from cloister.core.envelope.ohttp import CHUNKED_REQUEST_TYPE, CHUNKED_RESPONSE_TYPE, REQUEST_TYPE
from cloister.core.errors import ConfigError, TransportError, define
from cloister.wire.http import Exchange, HttpLimits, HttpServer

MAX_RPC: Final = 1 << 20
MAX_PLAIN: Final = 64 << 20
TIMEOUT_S: Final = 660.0
_HEX: Final = r"0x[0-9a-f]{64}"
# What a client asks to resolve, verify and call; everything else has no way through.
ROUTES: Final = (
    ("POST", re.compile(rf"/v1/oblivious/{_HEX}\?boot={_HEX}"), max_request(), MAX_ANSWER),
    ("POST", re.compile(r"/v1/rpc"), MAX_RPC, MAX_PLAIN),
    ("GET", re.compile(rf"/v1/oblivious/{_HEX}/(keys|ohttp-keys)\?boot={_HEX}"), 0, MAX_RPC),
    ("GET", re.compile(r"/v1/(network|checkpoint|handovers)"), 0, MAX_PLAIN),
    ("GET", re.compile(rf"/v1/agents/{_HEX}/seats"), 0, MAX_PLAIN),
    ("GET", re.compile(rf"/v1/workers/0x[0-9a-f]{{40}}/evidence\?nonce={_HEX}"), 0, MAX_PLAIN),
    (
        "GET",
        re.compile(rf"/v1/receipts/{_HEX}(/proof|/consistency\?from=[0-9]{{1,16}}&to=[0-9]{{1,16}})?"),
        0,
        MAX_PLAIN,
    ),
    ("GET", re.compile(rf"/v1/blobs/{_HEX}"), 0, MAX_PLAIN),
)
# Pages of any origin may call: a relay gives nothing to one that it does not give to everybody.
_EVERYBODY: Final = b"access-control-allow-origin: *\r\n"
_PREFLIGHT: Final = (
    b"access-control-allow-methods: GET, POST, OPTIONS\r\n"
    b"access-control-allow-headers: content-type\r\n"
    b"access-control-max-age: 86400\r\n"
)
_TYPES: Final = frozenset({REQUEST_TYPE, CHUNKED_REQUEST_TYPE, "application/json"})
# The library would say what it is; the gateway needs to know nothing.
_UNSAID: Final = ("User-Agent", "Accept", "Accept-Encoding")

BAD_GATEWAY = define(
    "relay.gateway",
    ConfigError,
    check="a relay has one gateway, named by an http or https address",
    remedy="give --to http://127.0.0.1:8080",
)
NO_ROUTE = define(
    "relay.no_route",
    TransportError,
    check="the relay passes oblivious calls on, and what clients ask to make them",
    remedy="make other requests at a gateway; a sealed call would show the gateway one session's requests together",
    status=404,
)
NO_ANSWER = define(
    "relay.no_answer",
    TransportError,
    check="the relay's gateway answers to the end, within the caps",
    remedy="try again later, or use another relay",
    status=502,
)


def check_gateway(url: str) -> str:
    """The address without what a relay does not use. Raises ConfigError (relay.gateway)."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.query or parts.fragment:
        raise BAD_GATEWAY(expected="http(s)://host[:port]", found=f"scheme {parts.scheme[:16]!r}")
    return url.rstrip("/")


class Relay:
    """One relay in front of one gateway. Use inside a running event loop; ``close`` it."""

    def __init__(self, gateway: str, *, connections: int = 1024) -> None:
        """``gateway``: its address. Raises ConfigError (relay.gateway)."""
        self._gateway = check_gateway(gateway)
        limits = HttpLimits(connections=connections, answer_s=TIMEOUT_S)
        self._http = HttpServer(self._handle, self._max_body, limits=limits, extra=_EVERYBODY)
        self._session: aiohttp.ClientSession | None = None

    async def start(self, host: str, port: int) -> int:
        """Listen; returns the port. Raises OSError."""
        self._session = aiohttp.ClientSession(
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=_UNSAID,
            timeout=aiohttp.ClientTimeout(total=TIMEOUT_S),
            trust_env=False,
        )
        return await self._http.start(host, port)

    async def close(self) -> None:
        """Stop."""
        await self._http.drain(0.0)
        if self._session is not None:
            await self._session.close()

    def _max_body(self, method: str, target: str) -> int:
        return next((most for verb, form, most, _ in ROUTES if verb == method and form.fullmatch(target)), 0)

    def _handle(self, exchange: Exchange) -> None:
        request = exchange.request
        if request.method == "OPTIONS":
            exchange.reply(200, b"", "text/plain", _PREFLIGHT)
            return
        for verb, form, _, most in ROUTES:
            if verb == request.method and form.fullmatch(request.target):
                exchange.run(self._pass_on(exchange, most))
                return
        raise NO_ROUTE(expected="a route of spec/ohttp.md 9", found=f"{request.method} of another")

    async def _pass_on(self, exchange: Exchange, most: int) -> None:
        request = exchange.request
        kind = request.headers.get("content-type", "")
        headers = {"content-type": kind} if request.method == "POST" and kind in _TYPES else {}
        if self._session is None:
            raise RuntimeError("start the relay first")
        try:
            async with self._session.request(
                request.method,
                URL(self._gateway + request.target, encoded=True),
                data=request.body if request.method == "POST" else None,
                headers=headers,
                allow_redirects=False,
            ) as answer:
                if answer.content_type == CHUNKED_RESPONSE_TYPE:
                    await _stream(exchange, answer)
                    return
                body = await _read(answer, most)
                exchange.reply(answer.status, body, _content_type(answer))
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            raise NO_ANSWER(expected="an answer of the gateway", found=type(error).__name__) from None


async def _stream(exchange: Exchange, answer: aiohttp.ClientResponse) -> None:
    """Pass an answer in chunks on as it comes, as fast as the caller reads. One that breaks off is cut: the caller sees
    that its end is missing; a caller that leaves ends this, and so the gateway's answer."""
    drained, total = asyncio.Event(), 0
    exchange.on_drain = drained.set
    exchange.start(answer.status, CHUNKED_RESPONSE_TYPE)
    async for chunk in answer.content.iter_any():
        total += len(chunk)
        if total > MAX_PLAIN:
            raise NO_ANSWER(expected=f"at most {MAX_PLAIN} bytes", found="more")
        exchange.write(chunk)
        while exchange.paused:
            drained.clear()
            await drained.wait()
    exchange.finish()


async def _read(answer: aiohttp.ClientResponse, most: int) -> bytes:
    kept = bytearray()
    async for chunk in answer.content.iter_chunked(1 << 16):
        kept += chunk
        if len(kept) > most:
            raise NO_ANSWER(expected=f"at most {most} bytes", found="more")
    return bytes(kept)


def _content_type(answer: aiohttp.ClientResponse) -> str:
    """The type that the gateway says, if it is a plain one: nothing of it may break a header line."""
    kind = answer.content_type
    return (
        kind if re.fullmatch(r"[a-z0-9!#$&^_.+-]{1,63}/[a-z0-9!#$&^_.+-]{1,63}", kind) else "application/octet-stream"
    )
