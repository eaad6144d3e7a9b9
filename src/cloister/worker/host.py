"""What agent code may ask of the worker, per request (spec/sandbox.md). Keys never cross this line.

The agent is hostile: names and sizes are checked here again, whatever the harness did.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from cloister.core.errors import SandboxError, define
from cloister.worker.agentlog import AgentLog

MAX_KEY, MAX_LIST = 256, 1000

NO_SUCH_CALL = define(
    "sandbox.no_such_call",
    SandboxError,
    check="agent code asks for something that the worker offers",
    remedy="see the agent's API in docs/use/agents.md",
)
BAD_ARGUMENT = define(
    "sandbox.argument",
    SandboxError,
    check="a host call has the documented arguments",
    remedy="see the agent's API in docs/use/agents.md",
)
REQUEST_OVER = define(
    "sandbox.request_over",
    SandboxError,
    check="a host call belongs to a request that still runs",
    remedy="await all work before the handler returns, or inside the response stream",
)


class StatePort(Protocol):
    """The part of a state transaction that agent code reaches."""

    async def get(self, key: str) -> bytes | None:
        """One value."""

    async def put(self, key: str, value: bytes) -> None:
        """Buffer a write."""

    async def delete(self, key: str) -> None:
        """Buffer a delete."""

    async def list(self, prefix: str = "", *, after: str = "", limit: int = MAX_LIST) -> list[str]:
        """Names in order."""


Attest = Callable[[bytes], Awaitable[Mapping[str, Any]]]

# Calls of agents that one request may cause, all the way down.
CALLS: int = 64


@dataclass(slots=True)
class Origin:
    """Where a request stands in a chain of agents. ``path``: the agents above this one, the first first. ``budget``:
    calls of agents that may still be made below. ``deadline_ms``: when its time is over, Unix ms. ``caller``: the agent
    that calls, None for a person or nobody. ``state``: the request's transaction, from ``AgentHost.open`` on."""

    path: tuple[bytes, ...] = ()
    budget: int = CALLS
    deadline_ms: int = 1 << 53
    caller: bytes | None = None
    state: StatePort | None = None


Extra = Callable[[Origin, Mapping[str, Any]], Awaitable[Any]]


class AgentHost:
    """Host calls of one agent. ``open``/``close`` bracket each request with its state transaction."""

    def __init__(self, attest: Attest, logged: AgentLog) -> None:
        self._attest, self.logged = attest, logged
        self._requests: dict[str, tuple[StatePort, Origin]] = {}
        self._extra: Mapping[str, Extra] = {}

    def offer(self, extra: Mapping[str, Extra]) -> None:
        """Serve these calls too: keys and calls of other agents, where there are any."""
        self._extra = dict(extra)

    def open(self, request_id: str, state: StatePort, origin: Origin | None = None) -> None:
        """Host calls of this request now reach ``state``. Ids are given out once: RuntimeError for one in use."""
        if request_id in self._requests:
            raise RuntimeError("two requests under one id would share a transaction")
        origin = origin or Origin()
        origin.state = state
        self._requests[request_id] = state, origin

    def close(self, request_id: str) -> None:
        """Host calls of this request are refused from now on."""
        self._requests.pop(request_id, None)

    def log(self, request_id: str | None, level: str, text: str) -> None:
        """A line from the agent: to the agent's own log, never mixed with the worker's."""
        self.logged.line(level, text)

    async def call(self, request_id: str, name: str, args: Mapping[str, Any]) -> Any:
        """Serve one host call. Raises CloisterError to refuse."""
        found = self._requests.get(request_id)
        if found is None:
            raise REQUEST_OVER(expected="a running request", found="one that is over")
        state, origin = found
        if name == "attest":
            return await self._attest(_nonce(args.get("nonce")))
        if name in self._extra:
            return await self._extra[name](origin, args)
        handler = _STATE_CALLS.get(name)
        if handler is None:
            raise NO_SUCH_CALL(expected=", ".join(("attest", *self._extra, *_STATE_CALLS)), found=name[:40])
        return await handler(state, args)


async def _get(state: StatePort, args: Mapping[str, Any]) -> str | None:
    value = await state.get(_key(args))
    return None if value is None else base64.b64encode(value).decode()


async def _put(state: StatePort, args: Mapping[str, Any]) -> None:
    await state.put(_key(args), need_data(args.get("value")))


async def _delete(state: StatePort, args: Mapping[str, Any]) -> None:
    await state.delete(_key(args))


async def _list(state: StatePort, args: Mapping[str, Any]) -> list[str]:
    prefix, after, limit = args.get("prefix", ""), args.get("after"), args.get("limit", MAX_LIST)
    if not isinstance(prefix, str) or not (after is None or isinstance(after, str)):
        raise BAD_ARGUMENT(expected="prefix and after as texts", found="another type")
    if max(len(_utf8("prefix", prefix)), len(_utf8("after", after or ""))) > MAX_KEY:
        raise BAD_ARGUMENT(expected=f"prefix and after of at most {MAX_KEY} bytes", found="more")
    if not isinstance(limit, int) or isinstance(limit, bool) or not 1 <= limit <= MAX_LIST:
        raise BAD_ARGUMENT(expected=f"limit from 1 to {MAX_LIST}", found=repr(limit)[:40])
    return await state.list(prefix, after=after or "", limit=limit)


_STATE_CALLS: Mapping[str, Callable[[StatePort, Mapping[str, Any]], Awaitable[Any]]] = {
    "state.get": _get,
    "state.put": _put,
    "state.delete": _delete,
    "state.list": _list,
}


def _key(args: Mapping[str, Any]) -> str:
    key = args.get("key")
    if not isinstance(key, str) or not 0 < len(_utf8("key", key)) <= MAX_KEY or key.startswith("\0"):
        raise BAD_ARGUMENT(expected=f"a key of 1 to {MAX_KEY} bytes that starts with no NUL", found=type(key).__name__)
    return key


def _utf8(name: str, text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise BAD_ARGUMENT(expected=f"{name} as Unicode text", found="half a surrogate pair") from None


def need_data(value: object) -> bytes:
    """Bytes from base64 text. Raises sandbox.argument."""
    if not isinstance(value, str):
        raise BAD_ARGUMENT(expected="bytes as base64 text", found=type(value).__name__)
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        raise BAD_ARGUMENT(expected="bytes as base64 text", found="another text") from None


def _nonce(value: object) -> bytes:
    """A nonce as base64, exactly 32 bytes."""
    data = need_data(value)
    if len(data) != 32:
        raise BAD_ARGUMENT(expected="a nonce of 32 bytes", found=f"{len(data)} bytes")
    return data
