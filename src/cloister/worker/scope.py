"""The state of one attempt at one request, as agent code sees it (spec/state.md 6, spec/sandbox.md 4).

::

    HEAD   the handler runs: reads and writes of one transaction, which commits before the head is released
    BODY   the body streams: what it still asks for goes to a second transaction, begun when first used
    OVER   refused

A call that comes between the two waits for the first commit: it never lands in a transaction that is already sealed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from enum import Enum
from typing import TypeVar

from cloister.core.errors import CloisterError, StateError
from cloister.core.receipts.receipt import NO_CHANGE, StateChange
from cloister.core.state.heads import HeadRecord
from cloister.fabric.ports import CONFLICT
from cloister.worker.host import REQUEST_OVER
from cloister.worker.state import AgentState, Transaction

T = TypeVar("T")
_OWN = "\0\U0010ffff"  # behind every name of the worker's own


class _Phase(Enum):
    HEAD = "head"
    BODY = "body"
    OVER = "over"


class RequestScope:
    """Implements ``host.StatePort``. ``request_id``: the caller's, 32 hex digits; commits happen once per id.

    ``conflict`` is the conflict that the agent's own reads met, if any: the attempt is then worth repeating."""

    def __init__(self, state: AgentState, first: Transaction, request_id: str) -> None:
        self._state, self._first, self._id = state, first, request_id
        self._phase = _Phase.HEAD
        self._committed = False
        self._sealed: asyncio.Event | None = None  # made when a call waits for the first commit
        self._tail: Transaction | None = None
        self._begun: asyncio.Lock | None = None  # made with the first call of the body
        self._before = self._after = first.record
        self.conflict: CloisterError | None = None

    async def get(self, key: str) -> bytes | None:
        """One value."""
        return await self._do(lambda tx: tx.get(key))

    async def put(self, key: str, value: bytes) -> None:
        """Buffer a write."""
        await self._do(lambda tx: tx.put(key, value))

    async def delete(self, key: str) -> None:
        """Buffer a delete."""
        await self._do(lambda tx: tx.delete(key))

    async def list(self, prefix: str = "", *, after: str = "", limit: int = 1000) -> list[str]:
        """Names in order, without those that the worker keeps for itself: they begin with NUL."""
        return await self._do(lambda tx: tx.list(prefix, after=max(after, _OWN), limit=limit))

    @property
    def idle(self) -> bool:
        """Whether the handler still may ask and has left nothing to commit, nor met a conflict."""
        return self._phase is _Phase.HEAD and self.conflict is None and not self._first.pending

    async def commit_head(self) -> None:
        """Make the handler's writes durable. From the call on, not from its return, host calls are the body's.

        Raises StateError: conflict, already_done and what ``Transaction.commit`` names; then ``close`` the scope."""
        self._phase = _Phase.BODY
        self._took(self._first, await self._first.commit(self._id))
        self._seal()

    async def commit_body(self) -> None:
        """Make durable what was written while the body streamed; host calls are refused from now on."""
        if self._begun is None:
            self._phase = _Phase.OVER
        else:
            async with self._begun:  # a call that came first is still heard
                self._phase = _Phase.OVER
        if self._tail is not None:
            self._took(self._tail, await self._tail.commit(self._tail_id))

    def close(self) -> None:
        """Refuse host calls, those that wait included. Nothing uncommitted is kept."""
        self._phase = _Phase.OVER
        self._seal()

    def change(self) -> StateChange:
        """What the receipt says: the head before this request's first commit and after its last, or the head read."""
        if self._after.height == 0:
            return NO_CHANGE
        before = self._before.parent if self._wrote else self._before.head
        return StateChange(before, self._after.head, "local")

    # --- inside ---

    def _seal(self) -> None:
        self._committed = True
        if self._sealed is not None:
            self._sealed.set()

    @property
    def _wrote(self) -> bool:
        return self._before.height > self._first.record.height

    @property
    def _tail_id(self) -> str:
        """The id that the body's writes commit under: the request's own, unless the head's writes took it."""
        return f"{self._id}t" if self._wrote else self._id

    def _took(self, transaction: Transaction, record: HeadRecord) -> None:
        if record.height == transaction.record.height:
            return  # nothing was written
        if not self._wrote:
            self._before = record
        self._after = record

    async def _do(self, run: Callable[[Transaction], Awaitable[T]]) -> T:
        try:
            return await run(await self._transaction())
        except StateError as error:
            if error.code == CONFLICT.code:
                self.conflict = error
            raise

    async def _transaction(self) -> Transaction:
        if self._phase is _Phase.HEAD:
            return self._first
        if not self._committed:
            self._sealed = self._sealed or asyncio.Event()
            await self._sealed.wait()
        self._begun = self._begun or asyncio.Lock()
        async with self._begun:
            if self._phase is _Phase.OVER:
                raise REQUEST_OVER(expected="a running request", found="one that is over")
            if self._tail is None:
                self._tail = await self._state.begin(self._tail_id)
            return self._tail
