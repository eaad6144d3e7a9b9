"""One bounded HTTP question to a gatekeeper: JSON in, JSON out, errors as their own class (spec/gatekeeper-api.md)."""

from __future__ import annotations

from typing import Any

import aiohttp

from cloister.core.errors import CloisterError, TransportError, define, from_wire
from cloister.wire.messages import MAX_BODY, TOO_LARGE, dump_json, parse_json

UNREACHABLE = define(
    "wire.unreachable",
    TransportError,
    check="the peer answered in time",
    remedy="check that the peer runs and that its endpoint is right",
    status=503,
)
BAD_ANSWER = define(
    "wire.bad_answer",
    TransportError,
    check="the peer answered 200 with JSON, or an error object",
    remedy="check that the endpoint belongs to a gatekeeper of this version",
    status=502,
)


def new_session() -> aiohttp.ClientSession:
    """A session for ``ask``: no cookies, no environment proxies, connections kept."""
    return aiohttp.ClientSession(
        cookie_jar=aiohttp.DummyCookieJar(), connector=aiohttp.TCPConnector(limit=256), trust_env=False
    )


async def ask(
    session: aiohttp.ClientSession, method: str, url: str, body: Any = None, *, timeout_s: float = 2.0
) -> Any:
    """The JSON answer. Raises the peer's own refusal, or TransportError. Redirects are not followed."""
    data = None if body is None else dump_json(body)
    headers = {} if data is None else {"Content-Type": "application/json"}
    limit = aiohttp.ClientTimeout(total=timeout_s)
    try:
        async with session.request(
            method, url, data=data, headers=headers, timeout=limit, allow_redirects=False
        ) as response:
            return _answer(response.status, await _read(response))
    except CloisterError:
        raise
    except (TimeoutError, aiohttp.ClientError, OSError, ValueError) as error:
        raise UNREACHABLE(expected=f"an answer within {timeout_s} s", found=type(error).__name__) from None


async def _read(response: aiohttp.ClientResponse) -> bytes:
    data = bytearray()
    async for chunk in response.content.iter_chunked(65536):
        data += chunk
        if len(data) > MAX_BODY:
            raise TOO_LARGE(expected=f"at most {MAX_BODY} bytes", found="more")
    return bytes(data)


def _answer(status: int, data: bytes) -> Any:
    if status == 200:
        return parse_json(data)
    try:
        value = parse_json(data)
    except CloisterError:
        value = None
    if not isinstance(value, dict) or set(value) != {"error"}:
        raise BAD_ANSWER(expected="JSON", found=f"status {status} without an error object")
    raise from_wire(value["error"], status=status)
