"""A thin asynchronous JSON-RPC client. Everything that an endpoint says is a claim; ``proven.py`` checks claims."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import aiohttp

from cloister.chain.abi import BAD_ANSWER
from cloister.chain.contracts import describe_revert
from cloister.core.encoding.hexes import from_hex
from cloister.core.errors import ChainError, CloisterError, define

MAX_ANSWER = 32 << 20
MAX_BATCH = 512

UNREACHABLE = define(
    "chain.unreachable",
    ChainError,
    check="the chain endpoint answers in time",
    remedy="check that the endpoint runs and that this machine may reach it",
    status=503,
)
TOO_LARGE = define(
    "chain.too_large",
    ChainError,
    check="an endpoint's answer fits the size cap",
    remedy="ask for less at once; an honest endpoint stays far below the cap",
    status=502,
)
RPC_ERROR = define(
    "chain.rpc_error",
    ChainError,
    check="the endpoint carries out the call",
    remedy="read the endpoint's message; an unknown block is often one that it has pruned",
    status=502,
)
REVERTED = define(
    "chain.reverted",
    ChainError,
    check="the contract accepts the call",
    remedy="the contract named its reason; change the call or wait for the state that it asks for",
)


class Rpc:
    """One endpoint. ``call`` and ``batch`` raise ChainError only. Close it, or use it as an async context manager.

    Args: url: http(s) endpoint. timeout: seconds for a whole call. max_bytes: cap of an answer.
    """

    def __init__(self, url: str, *, timeout: float = 15.0, max_bytes: int = MAX_ANSWER) -> None:
        self.url = url
        self.label = urlsplit(url).hostname or "endpoint"  # error texts name the host, never credentials in the URL
        self._timeout = aiohttp.ClientTimeout(total=timeout)
        self._max_bytes = max_bytes
        self._ids = itertools.count(1)
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def call(self, method: str, *params: Any) -> Any:
        """One call; the ``result`` field."""
        request = self._request(method, params)
        return self._result(request, await self._post(request))

    async def batch(self, calls: Sequence[tuple[str, Sequence[Any]]]) -> list[Any]:
        """Many calls in one round trip; results in order. The first error raises."""
        if not calls:
            return []
        if len(calls) > MAX_BATCH:
            raise RuntimeError(f"a batch holds at most {MAX_BATCH} calls")
        requests = [self._request(method, params) for method, params in calls]
        answers = await self._post(requests)
        if not isinstance(answers, list) or len(answers) != len(requests):
            raise BAD_ANSWER(expected=f"a list of {len(requests)} answers", found=type(answers).__name__)
        by_id = {a.get("id"): a for a in answers if isinstance(a, dict) and isinstance(a.get("id"), int)}
        return [self._result(request, by_id.get(request["id"])) for request in requests]

    def _request(self, method: str, params: Sequence[Any]) -> dict[str, Any]:
        return {"jsonrpc": "2.0", "id": next(self._ids), "method": method, "params": list(params)}

    async def _post(self, body: Any) -> Any:
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=self._timeout, auto_decompress=False)
        try:
            async with self._session.post(self.url, json=body, allow_redirects=False) as response:
                return json.loads(await self._read(response))
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise UNREACHABLE(expected=f"an answer of {self.label}", found=type(error).__name__) from None
        except (ValueError, RecursionError):
            raise BAD_ANSWER(expected="JSON", found=f"other bytes from {self.label}") from None

    async def _read(self, response: aiohttp.ClientResponse) -> bytes:
        chunks, size = [], 0
        async for chunk in response.content.iter_chunked(1 << 16):
            size += len(chunk)
            if size > self._max_bytes:
                raise TOO_LARGE(expected=f"at most {self._max_bytes} bytes", found="more")
            chunks.append(chunk)
        return b"".join(chunks)

    def _result(self, request: dict[str, Any], answer: Any) -> Any:
        if not isinstance(answer, dict) or answer.get("id") != request["id"]:
            raise BAD_ANSWER(expected=f"an answer to {request['method']}", found=type(answer).__name__)
        if answer.get("error") is not None:
            raise _refusal(request["method"], answer["error"])
        if "result" not in answer:
            raise BAD_ANSWER(expected="a result", found="neither result nor error")
        return answer["result"]


async def wait_reachable(rpc: Rpc, *, attempts: int = 200, pause: float = 0.05) -> int:
    """The chain id, once the endpoint answers. Raises ChainError after ``attempts``."""
    for left in range(attempts, 0, -1):
        try:
            return quantity(await rpc.call("eth_chainId"), "chain id")
        except CloisterError:
            if left == 1:
                raise
            await asyncio.sleep(pause)
    raise RuntimeError("attempts must be positive")


def quantity(value: object, name: str, bits: int = 256) -> int:
    """A JSON-RPC quantity: 0x + hex without leading zeros. Raises ChainError."""
    good = isinstance(value, str) and 2 < len(value) <= 2 + bits // 4 and value.startswith("0x")
    try:
        number = int(value, 16) if good and isinstance(value, str) else -1
    except ValueError:
        number = -1
    if number < 0 or hex(number) != value:
        raise BAD_ANSWER(expected=f"{name} as a quantity", found=repr(value)[:40])
    return number


def _refusal(method: str, error: Any) -> CloisterError:
    data = error.get("data") if isinstance(error, dict) else None
    message = str(error.get("message", "")) if isinstance(error, dict) else str(error)
    if isinstance(data, str) and data.startswith("0x"):
        try:
            return REVERTED(expected=f"{method} to succeed", found=describe_revert(from_hex(data.lower())))
        except CloisterError:
            return BAD_ANSWER(expected="revert data in hex", found="other text")
    if "revert" in message.lower():
        return REVERTED(expected=f"{method} to succeed", found=message)
    return RPC_ERROR(expected=f"{method} to succeed", found=message)
