"""What the gateway fetches for others: chain reads, transactions, the newest checkpoint. It vouches for nothing."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any, Final

import aiohttp

from cloister.core.encoding.hexes import to_hex
from cloister.core.encoding.signatures import Signed
from cloister.core.errors import CloisterError, TransportError, define
from cloister.wire.ask import new_session
from cloister.wire.messages import parse_json

METHODS: Final = frozenset(
    {
        "eth_chainId",
        "eth_blockNumber",
        "eth_getBlockByNumber",
        "eth_getBlockByHash",
        "eth_getProof",
        "eth_call",
        "eth_getLogs",
        "eth_getTransactionReceipt",
        "eth_getTransactionByHash",
        "eth_getTransactionCount",
        "eth_gasPrice",
        "eth_estimateGas",
        "eth_sendRawTransaction",
        "eth_getCode",
        "eth_getBalance",
    }
)
MAX_RPC: Final = 1 << 20
MAX_BATCH: Final = 50
MAX_REPLY: Final = 8 << 20
CHECKPOINT_S: Final = 0.5
_TIMEOUT_S: Final = 20.0

BAD_RPC = define(
    "gateway.rpc",
    TransportError,
    check="the body is a JSON-RPC 2.0 request, or a batch of at most 50",
    remedy="send {jsonrpc, id, method, params}",
)
RPC_METHOD = define(
    "gateway.rpc_method",
    TransportError,
    check="the JSON-RPC method is one that the gateway relays",
    remedy="use an endpoint of your own for other methods; spec/gateway-api.md lists what is relayed",
    status=403,
)
NO_CHAIN = define(
    "gateway.no_chain",
    TransportError,
    check="the gateway's chain endpoint answers in time",
    remedy="repeat in some seconds; if it repeats, the operator must look at the chain endpoint",
    status=502,
)


class RpcRelay:
    """Passes allowed JSON-RPC on. What it sends is encoded anew, so that both ends read the same request."""

    def __init__(self, url: str, session: aiohttp.ClientSession | None = None) -> None:
        self._url, self._session = url, session

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def answer(self, body: bytes) -> bytes:
        """The JSON-RPC answer. Raises TransportError: gateway.rpc, gateway.no_chain."""
        value = _parse(body)
        if isinstance(value, dict):
            return await self._one(value)
        if not isinstance(value, list) or not 1 <= len(value) <= MAX_BATCH:
            raise BAD_RPC(expected=f"an object or a list of 1 to {MAX_BATCH}", found=type(value).__name__)
        return b"[" + b",".join(await asyncio.gather(*(self._one(item) for item in value))) + b"]"

    async def _one(self, item: object) -> bytes:
        if not isinstance(item, dict) or not set(item) <= {"jsonrpc", "id", "method", "params"}:
            raise BAD_RPC(expected="{jsonrpc, id, method, params}", found="another shape")
        number, method, params = item.get("id"), item.get("method"), item.get("params", [])
        if isinstance(number, bool) or not isinstance(number, (int, str, type(None))) or not isinstance(method, str):
            raise BAD_RPC(expected="an id and a method", found="other types")
        if not isinstance(params, (list, dict)):
            raise BAD_RPC(expected="params as a list", found=type(params).__name__)
        if method not in METHODS:
            error = RPC_METHOD(expected="a relayed method", found=method[:64])
            refusal = {"code": -32601, "message": str(error), "data": error.to_wire()}
            return _dump({"jsonrpc": "2.0", "id": number, "error": refusal})
        try:
            anew = _dump({"jsonrpc": "2.0", "id": number, "method": method, "params": params})
        except RecursionError:  # it was parsed at a smaller depth of calls
            raise BAD_RPC(expected="params of a sane depth", found="deeper") from None
        return await self._send(anew)

    async def _send(self, body: bytes) -> bytes:
        if self._session is None:
            self._session = new_session()
        limit = aiohttp.ClientTimeout(total=_TIMEOUT_S)
        headers = {"content-type": "application/json"}
        try:
            async with self._session.post(
                self._url, data=body, headers=headers, timeout=limit, allow_redirects=False
            ) as answer:
                return await _read(answer)
        except (TimeoutError, aiohttp.ClientError, OSError, ValueError) as error:
            raise NO_CHAIN(expected=f"an answer within {_TIMEOUT_S} s", found=type(error).__name__) from None


class CheckpointCache:
    """The newest checkpoint with t signatures, asked for at most twice a second however many callers want it."""

    def __init__(self, fetch: Callable[[], Any], monotonic: Callable[[], float]) -> None:
        """``fetch``: an awaitable that gives a Signed checkpoint, as ``Committee.checkpoint`` does."""
        self._fetch, self._monotonic = fetch, monotonic
        self._task: asyncio.Task[bytes] | None = None
        self._text = b""
        self._at = float("-inf")
        self.number = 0

    async def answer(self) -> bytes:
        """{checkpoint, signatures} as JSON text. Raises the committee's refusal if there never was one.

        Without t gatekeepers the last one is served on: whoever reads it judges its age by a clock of their own."""
        if self._monotonic() - self._at < CHECKPOINT_S:
            return self._text
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._refresh())
            self._task.add_done_callback(_retrieved)
        try:
            return await asyncio.shield(self._task)
        except CloisterError:
            if not self._text:
                raise
            return self._text

    async def close(self) -> None:
        """Drop a question in progress."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _refresh(self) -> bytes:
        signed: Signed = await self._fetch()
        value = {"checkpoint": signed.statement.to_json(), "signatures": [to_hex(s) for s in signed.signatures]}
        self.number = int(value["checkpoint"]["number"]) if isinstance(value["checkpoint"], dict) else 0
        self._text, self._at = _dump(value), self._monotonic()
        return self._text


def _retrieved(task: asyncio.Task[bytes]) -> None:
    """Mark a failure as seen even if every caller has left."""
    if not task.cancelled():
        task.exception()


def _parse(body: bytes) -> Any:
    try:
        return parse_json(body, max_size=MAX_RPC)
    except CloisterError as error:
        raise BAD_RPC(expected=error.expected, found=error.found) from None


def _dump(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


async def _read(answer: aiohttp.ClientResponse) -> bytes:
    data = bytearray()
    async for chunk in answer.content.iter_chunked(1 << 16):
        data += chunk
        if len(data) > MAX_REPLY:
            raise NO_CHAIN(expected=f"at most {MAX_REPLY} bytes", found="more")
    if answer.status != 200 or not data:
        raise NO_CHAIN(expected="status 200", found=f"status {answer.status}")
    return bytes(data)
