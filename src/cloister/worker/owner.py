"""What an agent's owner asks and commands, over the sealed call (spec/owner.md 5-9).

::

    POST /.well-known/cloister/owner/log-key   {statement, signature}   lines are sealed to this key from now on
                                    .../logs       {have: {boot: pages}}    pages of the log, as they are kept
                                    .../metrics    {}                       calls, errors, CPU, bytes, durations
                                    .../receipts   {boot, first}            the agent's receipts, opened
                                    .../jobs       {}                       the schedule, and what was given up
                                    .../retry      {task, due}              run a given-up job once more
    POST /.well-known/cloister/owner/command   what the agent takes     its ``command``, in order, exactly once

The worker answers; agent code sees commands only. Who is no owner is refused, and never reaches code by these paths.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from hmac import compare_digest
from typing import Any, Final

from cloister.core.encoding import jcs
from cloister.core.encoding.hexes import from_hex, to_hex
from cloister.core.envelope.server import OpenRequest
from cloister.core.errors import CloisterError, PolicyError, define
from cloister.core.receipts.receipt import StateChange
from cloister.fabric.ports import LEASE_HELD, Leases
from cloister.sandbox.errors import CLOSED
from cloister.sandbox.ports import AgentProcess, AgentRequest, Chunks
from cloister.worker import apikeys
from cloister.worker.figures import FigureBook
from cloister.worker.host import BAD_ARGUMENT, Origin
from cloister.worker.leases import AgentKeys
from cloister.worker.logbook import LogBook
from cloister.worker.placed import Placed
from cloister.worker.schedule import Schedule
from cloister.worker.scope import RequestScope
from cloister.worker.state import ALREADY_DONE

PREFIX: Final = "/.well-known/cloister/owner/"
COMMAND: Final = PREFIX + "command"
# Callers that are who their address says; an API key's holder is not.
OWNERS: Final = frozenset({"wallet", "contract"})
RESULTS: Final = "\0owner/commands"
KEPT_RESULTS: Final = 16
KEPT_BYTES: Final = 8 << 10
MAX_REPLY: Final = 1 << 20
LEASE_SLACK_S: Final = 10.0
WAIT_S: Final = 0.1

NOT_OWNER = define(
    "worker.not_owner",
    PolicyError,
    check="paths below /.well-known/cloister/owner/ are asked by POST, by the agent's owner as proven on chain",
    remedy="call with the owner's wallet: --wallet NAME",
    status=403,
)
NO_QUESTION = define(
    "worker.no_question",
    PolicyError,
    check="an owner asks something that this worker answers",
    remedy="see spec/owner.md for the paths; update the client or the worker",
    status=404,
)
LONG_REPLY = define(
    "worker.command_reply",
    PolicyError,
    check=f"an agent answers a command with at most {MAX_REPLY} bytes",
    remedy="answer with less; put large results into state and read them by fetch",
    status=502,
)


@dataclass(frozen=True, slots=True)
class Said:
    """An answer to an owner. ``change``: what it committed."""

    body: bytes = field(repr=False)
    status: int = 200
    change: StateChange = field(default_factory=StateChange)
    headers: tuple[tuple[str, str], ...] = (("content-type", "application/json"),)


class OwnerDesk:
    """Answers owners. ``process(placed)`` starts an agent; ``holder``: this worker's name for leases, its boot in hex.
    ``receipts(keys, boot, first)``: an agent's own (``ReceiptDoor.of_agent``)."""

    def __init__(
        self,
        book: LogBook,
        figures: FigureBook,
        schedule: Schedule,
        process: Callable[[Placed], Awaitable[AgentProcess]],
        leases: Leases,
        holder: str,
        receipts: Callable[[AgentKeys, bytes, int], Awaitable[Mapping[str, Any]]],
    ) -> None:
        self._book, self.figures, self._schedule = book, figures, schedule
        self._process, self._leases, self._holder, self._receipts = process, leases, holder, receipts
        self._turns: dict[bytes, asyncio.Lock] = {}
        self._calls = 0

    async def answer(self, placed: Placed, request: OpenRequest, now_ms: int) -> Said:
        """1. the owner of the proven record asks; 2. a command; 3. or a question. Raises CloisterError by name."""
        require_owner(placed, request)  # 1
        name = request.head.request_id[2:]
        if request.head.path == COMMAND:
            return await self._commanded(placed, request, name, now_ms)  # 2
        what = request.head.path.removeprefix(PREFIX)
        if what.partition("/")[0] == "keys":
            told, change = await apikeys.order(placed, what, name, request.body)
            return Said(json.dumps(told).encode(), change=change)
        return await self._asked(placed, what, name, _object(request.body))  # 3

    async def _asked(self, placed: Placed, what: str, name: str, body: Mapping[str, Any]) -> Said:
        if what == "logs":
            return _json(await self._book.pages(placed, _have(body.get("have", {}))))
        if what == "metrics":
            return _json({**self.figures.show(placed.record.agent), "logged": placed.host.logged.lines})
        if what == "receipts":
            return _json(await self._receipts(placed.keys, *_place(body, bytes.fromhex(self._holder))))
        if what == "jobs":
            return _json(await self._schedule.jobs(placed))
        if what == "log-key":
            return await _kept(placed, name, *await self._book.publish(placed, body))
        if what == "retry":
            return await _kept(placed, name, *await self._schedule.again(placed, body.get("task"), body.get("due")))
        raise NO_QUESTION(expected="logs, metrics, receipts, jobs, log-key, retry or command", found=what[:40])

    # --- commands: spec/owner.md 9, spec/state.md 8 ---

    async def _commanded(self, placed: Placed, request: OpenRequest, name: str, now_ms: int) -> Said:
        """1. one after the other, on this worker and, by the agent's lease, on all; 2. a repeat gets the first answer;
        3. else the agent runs, and its writes, the answer and the mark commit together under the lease's token."""
        deadline = request.head.deadline_ms
        async with self._turns.setdefault(placed.record.agent, asyncio.Lock()):
            fence = await self._hold(placed, (deadline - now_ms) / 1000)  # 1
            try:
                return await self._once(placed, request, name, fence)
            except CloisterError as error:
                known = await _result(placed, name) if error.code == ALREADY_DONE.code else None  # 2
                if known is None:
                    raise
                return known
            finally:
                await self._leases.release(placed.record.agent.hex(), self._holder)

    async def _hold(self, placed: Placed, left_s: float) -> int:
        """The token of the agent's lease; waits for another worker's command, at most until the deadline."""
        loop = asyncio.get_running_loop()
        until = loop.time() + left_s
        while True:
            try:
                ttl = max(0.0, until - loop.time()) + LEASE_SLACK_S
                return await self._leases.hold(placed.record.agent.hex(), self._holder, ttl)
            except CloisterError as error:
                if error.code != LEASE_HELD.code or loop.time() >= until:
                    raise
            await asyncio.sleep(WAIT_S)

    async def _once(self, placed: Placed, request: OpenRequest, name: str, fence: int) -> Said:
        scope = RequestScope(placed.state, await placed.state.begin(name, fence=fence), name)
        self._calls += 1
        call = f"{name}-c{self._calls}"
        placed.host.open(call, scope, Origin(deadline_ms=request.head.deadline_ms))
        try:
            process = await self._process(placed)
            head, chunks = await process.fetch(_command(call, request))
            said = Said(await _whole(chunks), head.status, headers=tuple(head.headers))
            if placed.closed:
                raise CLOSED(expected="an agent of this worker", found="one that was dropped while it ran")
            await scope.put(RESULTS, await _with(scope, name, said))  # 3
            await scope.commit_head()
            return Said(said.body, said.status, scope.change(), said.headers)
        finally:
            placed.host.close(call)
            scope.close()


def counts(path: str) -> bool:
    """Whether a call of this path is one of the agent's: what owners ask of the worker is not."""
    return path == COMMAND or not path.startswith(PREFIX)


def require_owner(placed: Placed, request: OpenRequest) -> None:
    """Raise worker.not_owner unless the owner's own wallet signed this session."""
    caller = request.caller
    if request.head.method != "POST" or caller is None or caller.agent is not None or caller.kind not in OWNERS:
        raise NOT_OWNER(expected="POST, by a wallet or a contract account that signed the session", found="another")
    if not compare_digest(caller.address, placed.record.owner):
        raise NOT_OWNER(expected="the agent's owner", found=to_hex(caller.address))


def _command(call: str, request: OpenRequest) -> AgentRequest:
    caller = request.caller
    shown = {"kind": "owner", "address": to_hex(caller.address if caller is not None else b"")}
    kinds = tuple([pair for pair in request.head.headers if pair[0] == "content-type"])
    headers = (*kinds, ("idempotency-key", request.head.request_id))
    return AgentRequest(call, "POST", COMMAND, headers, request.body, shown, request.head.deadline_ms)


async def _whole(chunks: Chunks) -> bytes:
    data = bytearray()
    try:
        async for chunk in chunks:
            data += chunk
            if len(data) > MAX_REPLY:
                raise LONG_REPLY(expected=f"at most {MAX_REPLY} bytes", found="more")
    finally:
        await chunks.aclose()
    return bytes(data)


async def _with(scope: RequestScope, name: str, said: Said) -> bytes:
    """The newest answers with this one: for whoever repeats a command whose answer was lost."""
    known = jcs.decode(await scope.get(RESULTS) or b"[]")
    body = base64.b64encode(said.body).decode() if len(said.body) <= KEPT_BYTES else None
    kind = dict(said.headers).get("content-type", "application/octet-stream")
    return jcs.encode([*known, {"id": name, "status": said.status, "type": kind[:128], "body": body}][-KEPT_RESULTS:])


async def _result(placed: Placed, name: str) -> Said | None:
    for one in jcs.decode(await placed.state.peek(RESULTS) or b"[]"):
        if one["id"] == name and one["body"] is not None:
            return Said(base64.b64decode(one["body"]), one["status"], headers=(("content-type", one["type"]),))
    return None


async def _kept(placed: Placed, name: str, key: str, value: bytes | None) -> Said:
    """Commit one value of the worker's own, once per request id."""
    try:
        scope = RequestScope(placed.state, await placed.state.begin(name), name)
        await (scope.delete(key) if value is None else scope.put(key, value))
        await scope.commit_head()
    except CloisterError as error:
        if error.code != ALREADY_DONE.code:
            raise
        return _json({"ok": True})
    return Said(b'{"ok":true}', change=scope.change())


def _object(body: bytes) -> dict[str, Any]:
    try:
        value = json.loads(body or b"{}")
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise BAD_ARGUMENT(expected="a JSON object", found="another body")
    return value


def _have(value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise BAD_ARGUMENT(expected="have as an object of boots", found=type(value).__name__)
    return value


def _place(body: Mapping[str, Any], boot: bytes) -> tuple[bytes, int]:
    """Which log, and from which receipt on."""
    first, named = body.get("first", 0), body.get("boot")
    if not isinstance(first, int) or isinstance(first, bool) or not 0 <= first < 1 << 53:
        raise BAD_ARGUMENT(expected="first as a number", found=type(first).__name__)
    return (boot if named is None else from_hex(named, 32, name="boot")), first


def _json(value: Mapping[str, Any]) -> Said:
    return Said(json.dumps(value).encode())
