"""Sealed calls for every library that speaks through httpx, the ``openai`` package among them.

::

    with Client(gateway, fingerprint="…") as client:
        agent = client.agent(1)
        ai = OpenAI(base_url=BASE_URL, api_key="…", http_client=sealed_client(agent), max_retries=0)

The library builds its request as always; here it is sealed to a worker of the agent instead of being sent to a host,
and what comes back was verified. The address names no host: ``BASE_URL`` is a name that cannot be reached otherwise.
``response.extensions["cloister"]`` is the call's stream: when the body was read, it has ``receipt`` and ``proof``.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any, Final

import httpx

from cloister.client.agent import Agent, Stream
from cloister.client.call import MAX_DEADLINE_S
from cloister.client.sync import Agent as BlockingAgent
from cloister.client.sync import Stream as BlockingStream
from cloister.core.errors import ConfigError, define

BASE_URL: Final = "https://agent.cloister.invalid/v1"
"""The address to give to a library that wants one. ``.invalid`` is never resolved (RFC 2606)."""
HOST: Final = httpx.URL(BASE_URL).host
# Of one connection, which a sealed call does not have (RFC 9110 7.6.1).
_HOP: Final = frozenset({"host", "connection", "content-length", "transfer-encoding", "keep-alive", "te", "upgrade"})
_LONGEST_S: Final = MAX_DEADLINE_S - 30.0  # workers take 600 s by their own clock: ours may be ahead

WRONG_HOST = define(
    "client.sealed_host",
    ConfigError,
    check="a sealed client is used for its agent alone",
    remedy="give the library base_url=BASE_URL; use another client for other hosts",
)


def sealed_client(agent: BlockingAgent, **options: Any) -> httpx.Client:
    """A blocking httpx client whose every request goes to the agent. ``options`` as httpx.Client takes them."""
    return httpx.Client(transport=SealedTransport(agent), base_url=BASE_URL, **_patient(options))


def sealed_async_client(agent: Agent, **options: Any) -> httpx.AsyncClient:
    """The same for an event loop."""
    return httpx.AsyncClient(transport=AsyncSealedTransport(agent), base_url=BASE_URL, **_patient(options))


class SealedTransport(httpx.BaseTransport):
    """For ``httpx.Client(transport=…)``. Raises CloisterError where the agent did not answer verifiably."""

    def __init__(self, agent: BlockingAgent) -> None:
        self._agent = agent

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Seal, call, wait for the verified head. The body comes as it is read; reading it ends with the receipt."""
        options = _options(request, request.read())
        stream: BlockingStream = self._agent.stream(request.method, _path(request), **options)
        stream.__enter__()
        return _response(stream, _Body(stream))


class AsyncSealedTransport(httpx.AsyncBaseTransport):
    """For ``httpx.AsyncClient(transport=…)``. Raises CloisterError where the agent did not answer verifiably."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Seal, call, wait for the verified head. The body comes as it is read; reading it ends with the receipt."""
        options = _options(request, await request.aread())
        stream = self._agent.stream(request.method, _path(request), **options)
        await stream.start()
        return _response(stream, _AsyncBody(stream))


class _Body(httpx.SyncByteStream):
    def __init__(self, stream: BlockingStream) -> None:
        self._stream = stream

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._stream)

    def close(self) -> None:
        self._stream.__exit__(None, None, None)


class _AsyncBody(httpx.AsyncByteStream):
    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    def __aiter__(self) -> AsyncIterator[bytes]:
        return aiter(self._stream)

    async def aclose(self) -> None:
        await self._stream.close()


def _path(request: httpx.Request) -> str:
    """Path and query. Raises ConfigError (client.sealed_host): a redirect or a second service must not land here."""
    if request.url.host != HOST:
        raise WRONG_HOST(expected=HOST, found=request.url.host)
    return request.url.raw_path.decode("ascii")


def _options(request: httpx.Request, body: bytes) -> dict[str, Any]:
    pairs = [(name.lower(), value) for name, value in request.headers.multi_items()]
    key = next((value for name, value in pairs if name == "idempotency-key"), None)
    wait = request.extensions.get("timeout", {}).get("read") or _LONGEST_S
    return {
        "headers": [pair for pair in pairs if pair[0] not in _HOP and pair[0] != "idempotency-key"],
        "body": body,
        "idempotency_key": key,
        "deadline_s": min(float(wait), _LONGEST_S),
    }


def _response(stream: Stream | BlockingStream, body: httpx.SyncByteStream | httpx.AsyncByteStream) -> httpx.Response:
    headers = [pair for pair in stream.headers.pairs if pair[0].lower() not in _HOP]
    return httpx.Response(stream.status, headers=headers, stream=body, extensions={"cloister": stream})


def _patient(options: dict[str, Any]) -> dict[str, Any]:
    """Models take longer than httpx's five seconds; redirects stay what they are for httpx: not followed."""
    return {"timeout": httpx.Timeout(_LONGEST_S), **options}
