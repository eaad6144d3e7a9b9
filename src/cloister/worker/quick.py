"""A sealed call that waits for nothing but its agent: no task, a few plain calls from the event loop.

::

    asked     the agent runs; its process says when a head or an error is there
    numbered  it answered in one piece and wrote nothing: head and body are sealed, the receipt waits for the store
    over      the answer went out whole, or nobody waits any more

Whatever else happens (an error, a body that streams, writes that must commit) goes on in a task, in ``serve``: from
where it stands, in the order and with the refusals of a call that had a task from the start.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

from cloister.core.envelope.server import OpenRequest
from cloister.core.errors import CloisterError
from cloister.core.receipts.receipt import Exchange, Usage
from cloister.node import logs
from cloister.sandbox.deadlines import Deadline
from cloister.sandbox.errors import DEADLINE
from cloister.sandbox.ports import AgentProcess, Begun
from cloister.wire.frames import INTERNAL
from cloister.worker.figures import used_between
from cloister.worker.host import Origin
from cloister.worker.placed import Placed
from cloister.worker.receipts import Issued
from cloister.worker.scope import RequestScope

if TYPE_CHECKING:
    from cloister.worker.serve import Server

# Head and body of an answer that leaves as one frame, with what seals them and the receipt.
MOST: Final = 96 << 10
T = TypeVar("T")
_log = logs.get("serve")


class Stream(Protocol):
    """Where an answer goes: ``wire.frames.Incoming``."""

    on_cancel: Callable[[], None] | None

    async def send(self, data: bytes) -> None:
        """Write some bytes; waits for the reader. Raises TransportError when nobody reads any more."""

    def end(self, data: bytes = b"") -> None:
        """The last bytes, or all of them."""

    def go_on(self, work: Awaitable[None]) -> asyncio.Future[None]:
        """Answer by ``work``, in a task, which is given."""


class Attempt:
    """A handler that was begun: its process, what that had used, its place, and its name among host calls."""

    __slots__ = ("before", "began", "begun", "name", "origin", "process", "scope", "taken")

    def __init__(self, process: AgentProcess, origin: Origin, name: str, scope: RequestScope) -> None:
        self.process, self.origin, self.name, self.scope = process, origin, name, scope
        self.before, self.began = process.spent(), time.monotonic()
        self.begun: Begun | None = None
        self.taken = False  # a task goes on with it


class QuickCall:
    """One call without a task. Implements ``receipts.Waiter``."""

    def __init__(
        self, server: Server, placed: Placed, request: OpenRequest, height: int, answer: Stream, attempt: Attempt
    ) -> None:
        self._server, self._placed, self._request, self._height = server, placed, request, height
        self._answer, self._attempt = answer, attempt
        self._over = False
        self._deadline: Deadline | None = None
        self._lead = b""
        self._usage: Usage | None = None
        answer.on_cancel = self._cancelled

    def forget(self) -> None:
        """It was not begun."""
        self._over, self._answer.on_cancel = True, None
        self._drop()

    def told(self) -> None:
        """The agent's process: a head or an error is there. Never raises: this is the process's own turn."""
        if self._over:
            return
        try:
            if not self._answered():
                self._by_task()
        except Exception as error:
            self._fault(error)

    # --- receipts.Waiter ---

    def issued(self, issued: Issued) -> None:
        """The receipt is stored: the answer ends, whole."""
        if self._over:
            return
        try:
            self._answer.end(self._lead + self._request.responder.ended(issued.final()))
            self._server.served += 1
            good = self._usage if issued.receipt.status < 500 else None
            self._leave(good)
        except Exception as error:
            self._fault(error)

    def failed(self, error: Exception) -> None:
        """The store did not take it: the answer ends with that."""
        if isinstance(error, CloisterError):
            self._refuse(error)
        else:
            self._fault(error)

    def waits(self) -> None:
        """The store takes its time: at most until shortly after the deadline."""
        if not self._over:
            late = DEADLINE(expected="an answer before the deadline", found="none")
            self._deadline = self._server.after_deadline(self._request, lambda: self._refuse(late))

    # --- inside ---

    def _answered(self) -> bool:
        """Steps 5 and 6 of ``serve`` for an answer that is here whole, by an agent that wrote nothing, and the receipt
        asked for. False, and nothing done: the rest needs a task."""
        attempt, placed, request = self._attempt, self._placed, self._request
        begun, scope = attempt.begun, attempt.scope
        if begun is None or begun.answered is None or begun.error is not None or placed.closed:
            return False
        if begun.asking or not scope.idle:
            return False
        head, encoded = self._server.checked(begun.answered, self._height)
        body = begun.take_whole(MOST - len(encoded))
        if body is None:
            return False
        begun.end()
        placed.host.close(attempt.name)
        scope.close()
        responder = request.responder
        self._lead = responder.begin(head, encoded) + responder.chunk(body)
        took = time.monotonic() - attempt.began
        self._usage = used_between(attempt.before, attempt.process.spent(), took, len(request.body), len(body))
        exchange = Exchange(
            bytes.fromhex(request.head.request_id[2:]),
            head.status,
            request.commitment(),
            responder.commitment(request.salt),
        )
        self._server.ask_receipt(self, placed, request, exchange, head.checkpoint, scope.change(), self._usage)
        return True

    def _by_task(self) -> None:
        self._over = True
        parts = self._placed, self._request, self._height, self._answer, self._attempt
        self._answer.go_on(self._server.taken_over(*parts)).add_done_callback(self._task_over)

    def _task_over(self, task: asyncio.Future[None]) -> None:
        if not self._attempt.taken:  # it was cancelled before it began
            self._drop()
        self._server.left()

    def _cancelled(self) -> None:
        """Nobody waits any more: the agent is told, its host calls are refused."""
        if self._over:
            return
        self._drop()
        self._leave(None)

    def _drop(self) -> None:
        attempt = self._attempt
        self._placed.host.close(attempt.name)
        attempt.scope.close()
        if attempt.begun is not None:
            attempt.begun.end()

    def _fault(self, error: Exception) -> None:
        if isinstance(error, CloisterError):
            self._refuse(error)
            return
        _log.error("contained", where="request", exc_info=error)
        self._refuse(INTERNAL(expected="an answer or a named refusal", found="a fault of the worker"))

    def _refuse(self, error: CloisterError) -> None:
        """End with a sealed refusal: the last of what was sealed so far."""
        if self._over:
            return
        self._drop()
        self._server.refused += 1
        responder = self._request.responder
        self._answer.end(b"" if responder.done else self._lead + responder.error(error))
        self._leave(None)

    def _leave(self, usage: Usage | None) -> None:
        self._over = True
        if self._deadline is not None:
            self._deadline.drop()
        self._server.note(self._placed, self._request, self._attempt.began, usage)
        self._server.left()


def at_once(work: Coroutine[Any, Any, T]) -> T | None:
    """What ``work`` gives if it waits for nothing; else None, and it is over. Raises what it raises."""
    try:
        work.send(None)
    except StopIteration as done:
        found: T = done.value
        return found
    work.close()
    return None
