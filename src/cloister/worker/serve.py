"""One sealed request, from its bytes to its receipt (spec/sealed-http.md 6-8, spec/receipts.md, spec/state.md 9).

The answer leaves only after the state that it depends on is durable. A handler that lost a race is run again, at most
three times; nothing of an attempt that did not commit is ever shown. A failed answer is sealed and has no receipt.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Protocol

from cloister.core.envelope.model import Headers, RequestHead, ResponseHead, encode_json
from cloister.core.envelope.server import OpenRequest, SealedRefusalError, ServerSessions
from cloister.core.errors import CloisterError, TransportError, define
from cloister.core.receipts.receipt import Exchange, StateChange, Usage
from cloister.fabric.ports import CONFLICT
from cloister.node import logs
from cloister.node.trace import Tracer
from cloister.sandbox.deadlines import Deadline, Deadlines
from cloister.sandbox.errors import BAD_RESPONSE, CLOSED, DEADLINE
from cloister.sandbox.ports import AgentProcess, AgentRequest, AgentResponseHead, Chunks, Whole
from cloister.sandbox.ports import Headers as SandboxHeaders
from cloister.wire.frames import INTERNAL
from cloister.worker.access import Access
from cloister.worker.agents import AgentTable
from cloister.worker.callers import Callers, kind_of, shown, without_carried
from cloister.worker.chainwatch import ChainWatch
from cloister.worker.figures import used_between
from cloister.worker.host import Origin
from cloister.worker.owner import PREFIX, OwnerDesk, counts
from cloister.worker.placed import Placed
from cloister.worker.quick import Attempt, QuickCall, Stream, at_once
from cloister.worker.receipts import ReceiptDesk, Waiter
from cloister.worker.scope import RequestScope
from cloister.worker.spans import RequestSpans

ATTEMPTS: Final = 3
# After the deadline: time for what the sandbox says about it to reach the caller.
GRACE_S: Final = 2.0
LAST_WORDS_S: Final = 5.0
# Heads of answers that are kept in the form in which they are sealed.
_HEADS, _MAX_REMEMBERED = 256, 512
# They describe one hop (RFC 9110 7.6.1); the sealed call is another one.
HOP_HEADERS: Final = frozenset(
    {"connection", "content-length", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection"}
    | {"te", "trailer", "transfer-encoding", "upgrade"}
)

STALLED = define(
    "worker.reader_stalled",
    TransportError,
    check="the caller takes the answer before its deadline",
    remedy="read faster, or set a later deadline",
    status=408,
)

_log = logs.get("serve")
Opens = Callable[[Placed, int], OpenRequest]
_Answered = tuple[AgentResponseHead, Chunks]


class Answer(Protocol):
    """Where the sealed answer goes: the caller's stream."""

    async def send(self, data: bytes) -> None:
        """Write some bytes; waits for the reader. Raises TransportError when nobody reads any more."""


@dataclass(slots=True)
class Ran:
    """A handler that answered and committed: what it answers, and its state until ``close``.

    ``encoded``: the head's JSON."""

    head: ResponseHead
    encoded: bytes
    chunks: Chunks
    scope: RequestScope
    call: str
    placed: Placed

    async def close(self) -> None:
        """Tell the agent that nobody waits any more, if it still streams; refuse its host calls."""
        self.placed.host.close(self.call)
        self.scope.close()
        await self.chunks.aclose()


class Server:
    """Serves sealed requests for the agents in the table. ``now_ms``: the host's clock, Unix milliseconds."""

    def __init__(
        self,
        watch: ChainWatch,
        table: AgentTable,
        sessions: ServerSessions,
        receipts: ReceiptDesk,
        access: Access,
        callers: Callers,
        owner: OwnerDesk,
        *,
        now_ms: Callable[[], int],
        tracer: Tracer | None = None,
    ) -> None:
        self._spans = RequestSpans(tracer)
        self._deadlines = Deadlines()
        self._heads: dict[tuple[int, SandboxHeaders], tuple[ResponseHead, bytes]] = {}
        self._heads_at = -1
        self._watch, self._table, self._sessions, self._access = watch, table, sessions, access
        self._receipts, self._callers, self._owner, self._now_ms = receipts, callers, owner, now_ms
        self._calls = 0
        self._active = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self.served = 0
        self.refused = 0

    def serve(self, agent: bytes, record: bytes, answer: Answer) -> Coroutine[Any, Any, None]:
        """Serve one sealed record, as ``opened`` does."""

        def opened(placed: Placed, now_ms: int) -> OpenRequest:
            return self._sessions.open_request(agent, record, now_ms, placed.open_psk)

        return self.opened(agent, opened, answer)

    async def opened(self, agent: bytes, opens: Opens, answer: Answer) -> None:
        """Serve the request that ``opens(agent held here, Unix ms)`` gives. Raises CloisterError for what could not be
        opened, and when the caller is gone.

        1. a fresh view of the chain, and no key of a lease that it ends; 2. the agent is held here and not paused;
        3. open, for the version that the certificate names; 4. a calling agent is the one that it says, and the access
        hook lets the caller in; 5. run and commit; 6. head and body; 7. receipt. From 4 on every refusal is sealed to
        the caller.
        """

        async def work() -> None:
            await self._go_on(*self._open(agent, opens), answer)

        await self._counted(work, answer)

    def begin(self, agent: bytes, record: bytes, answer: Stream) -> Coroutine[Any, Any, None] | None:
        """``serve`` by the same steps. None: it goes on by itself and ends ``answer`` (``quick``); else await what is
        returned. Raises as ``serve``."""

        def opens(placed: Placed, now_ms: int) -> OpenRequest:
            return self._sessions.open_request(agent, record, now_ms, placed.open_psk)

        try:
            placed, request, height = self._open(agent, opens)
        except SealedRefusalError as refusal:
            self.refused += 1
            return _last_words(answer, refusal.sealed)
        except CloisterError:
            self.refused += 1
            raise
        if self._quickly(placed, request, height, answer):
            return None
        return self._counted(partial(self._go_on, placed, request, height, answer), answer)

    def _open(self, agent: bytes, opens: Opens) -> tuple[Placed, OpenRequest, int]:
        """Steps 1 to 3."""
        checkpoint = self._watch.require_fresh()  # 1
        self._table.advance(self._watch.height)
        placed = self._table.get(agent)  # 2
        request = opens(placed, self._now_ms())  # 3
        return placed.serving(request.certificate), request, checkpoint.number

    async def _go_on(self, placed: Placed, request: OpenRequest, height: int, answer: Answer) -> None:
        """Steps 4 to 7."""
        if self._spans.off:
            await self._within_time(placed, request, height, answer)
        else:
            with self._spans.request(placed.record.agent, request.head.headers):
                await self._within_time(placed, request, height, answer)

    async def _counted(self, work: Callable[[], Awaitable[None]], answer: Answer) -> None:
        self._enter()
        try:
            await self._ended(work(), answer)
        finally:
            self.left()

    async def _ended(self, work: Awaitable[None], answer: Answer) -> None:
        try:
            await work
            self.served += 1
        except SealedRefusalError as refusal:
            self.refused += 1
            await _last_words(answer, refusal.sealed)
        except CloisterError:
            self.refused += 1
            raise

    def _enter(self) -> None:
        self._active += 1
        if self._active == 1:
            self._idle.clear()

    def left(self) -> None:
        """A request is over."""
        self._active -= 1
        if not self._active:
            self._idle.set()

    # --- calls without a task (``quick``) ---

    def _quickly(self, placed: Placed, request: OpenRequest, height: int, answer: Stream) -> bool:
        """Step 4 and the begin of 5, where nothing of them waits. False: nothing was done."""
        head, agent = request.head, placed.record.agent
        if not self._spans.off or not self._callers.plain(request.caller) or not self._access.open_to_all(agent):
            return False
        process = None if head.path.startswith(PREFIX) else self._table.ready(placed)
        if process is None:
            return False
        try:
            attempt = self._attempted(placed, process, head)
            if attempt is None:
                return False
            call = QuickCall(self, placed, request, height, answer, attempt)
            placed.host.open(attempt.name, attempt.scope, attempt.origin)
            try:
                attempt.begun = process.begin(_agent_request(attempt.name, request, attempt.origin), call.told)
            except BaseException:
                call.forget()
                raise
        except CloisterError:
            return False  # what is wrong is found again, and said, by a task
        self._enter()
        return True

    def _attempted(self, placed: Placed, process: AgentProcess, head: RequestHead) -> Attempt | None:
        name = head.request_id[2:]
        first = placed.state.begin_now(name) or at_once(placed.state.begin(name))
        if first is None:
            return None
        self._calls += 1
        scope = RequestScope(placed.state, first, name)
        return Attempt(process, Origin(deadline_ms=head.deadline_ms), f"{name}-{self._calls}", scope)

    async def taken_over(
        self, placed: Placed, request: OpenRequest, height: int, answer: Answer, attempt: Attempt
    ) -> None:
        """The rest of a quick call, whose agent said something."""
        attempt.taken = True
        await self._ended(self._within_time(placed, request, height, answer, attempt), answer)

    def ask_receipt(
        self,
        waiter: Waiter,
        placed: Placed,
        request: OpenRequest,
        exchange: Exchange,
        height: int,
        change: StateChange,
        usage: Usage,
    ) -> None:
        """The receipt of a quick call. Raises worker.receipts_unstored."""
        said = (request.certificate, exchange, height, self._now_ms(), change, usage)
        self._receipts.ask(waiter, placed.keys, request.salt, *said, alone=self._active == 1)

    def after_deadline(self, request: OpenRequest, call: Callable[[], object]) -> Deadline:
        """Run ``call`` shortly after a request's deadline."""
        return self._deadlines.after((request.head.deadline_ms - self._now_ms()) / 1000 + GRACE_S, call)

    def note(self, placed: Placed, request: OpenRequest, began: float, usage: Usage | None) -> None:
        """Count a call in the agent's figures, if it is one."""
        if counts(request.head.path):
            self._owner.figures.note(placed.record.agent, time.monotonic() - began, usage)

    @property
    def active(self) -> int:
        """Requests in progress."""
        return self._active

    async def drain(self, timeout_s: float) -> bool:
        """Wait until no request is in progress, at most so long. True: none is."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._idle.wait()
        return not self._active

    async def _within_time(
        self, placed: Placed, request: OpenRequest, height: int, answer: Answer, begun: Attempt | None = None
    ) -> None:
        """``_answer``, until shortly after the deadline: the sandbox ends the handler at the deadline by itself.

        Raises SealedRefusalError while something can still be said to the caller, else the refusal."""
        began, usage = time.monotonic() if begun is None else begun.began, None
        task = _current()
        cancelling, deadline = task.cancelling(), self.after_deadline(request, task.cancel)
        try:
            usage = await self._answer(placed, request, height, answer, begun)
        except asyncio.CancelledError:
            if not deadline.due or task.uncancel() > cancelling:
                raise  # it was cancelled by others
            if request.responder.started:
                raise STALLED(expected="a reader", found="one that takes nothing") from None
            raise _sealed(request, DEADLINE(expected="an answer before the deadline", found="none")) from None
        except CloisterError as error:
            raise _sealed(request, error) from None
        except Exception as error:
            _log.error("contained", where="request", exc_info=error)
            fault = INTERNAL(expected="an answer or a named refusal", found="a fault of the worker")
            raise _sealed(request, fault) from None
        finally:
            deadline.drop()
            self.note(placed, request, began, usage)

    async def _answer(
        self, placed: Placed, request: OpenRequest, height: int, answer: Answer, begun: Attempt | None
    ) -> Usage | None:
        """What it used; None where the agent itself failed. ``begun``: its first attempt, begun before."""
        if begun is None:
            origin = await self._callers.origin(placed.record.agent, request.caller, request.head)
            if request.head.path.startswith(PREFIX):
                return await self._answer_owner(placed, request, height, answer)
            caller, kind = None if request.caller is None else request.caller.address, kind_of(request.caller)
            head = request.head
            await self._access.require_call(placed.record.agent, caller, head.method, head.path, kind=kind)  # 4
            process = await self._table.process(placed)
            before, began = process.spent(), time.monotonic()
        else:
            origin, process, before, began = begun.origin, begun.process, begun.before, begun.began
        ran = await self._run(placed, process, request, origin, height, begun)  # 5
        responder = request.responder
        try:
            lead, chunks = responder.begin(ran.head, ran.encoded), ran.chunks  # 6
            if type(chunks) is Whole:
                await answer.send(lead + responder.chunk(chunks.data))
            else:
                await answer.send(lead)
                async for chunk in chunks:
                    await answer.send(responder.chunk(chunk))
            await ran.scope.commit_body()
        finally:
            await ran.close()
        took = time.monotonic() - began
        usage = used_between(before, process.spent(), took, len(request.body), responder.body_bytes)
        await self._end(placed, request, ran.head, ran.scope.change(), usage, answer)  # 7
        return None if ran.head.status >= 500 else usage

    async def _answer_owner(self, placed: Placed, request: OpenRequest, height: int, answer: Answer) -> Usage | None:
        """The same stream and receipt; what the worker itself says, or the agent's answer to a command."""
        said = await self._owner.answer(placed, request, self._now_ms())
        head, encoded = self.checked(AgentResponseHead(said.status, said.headers), height)
        responder = request.responder
        await answer.send(responder.begin(head, encoded))
        await answer.send(responder.chunk(said.body))
        usage = Usage(request_bytes=len(request.body), response_bytes=responder.body_bytes)
        await self._end(placed, request, head, said.change, usage, answer)
        return None if head.status >= 500 else usage

    async def _end(
        self,
        placed: Placed,
        request: OpenRequest,
        head: ResponseHead,
        change: StateChange,
        usage: Usage,
        answer: Answer,
    ) -> None:
        """The receipt, stored, then the answer's authenticated end with it."""
        responder = request.responder
        issued = await self._receipts.issue(
            placed.keys,
            request.salt,
            request.certificate,
            Exchange(
                bytes.fromhex(request.head.request_id[2:]),
                head.status,
                request.commitment(),
                responder.commitment(request.salt),
            ),
            checkpoint=head.checkpoint,
            host_time_ms=self._now_ms(),
            state=change,
            usage=usage,
            alone=self._active == 1,
        )
        await answer.send(responder.ended(issued.final()))

    def checked(self, head: AgentResponseHead, height: int) -> tuple[ResponseHead, bytes]:
        """The response head in a form that can be sealed, and its JSON, before anything commits. Few differ from
        those before them at one height. Raises sandbox.bad_response."""
        if height != self._heads_at or len(self._heads) >= _HEADS:
            self._heads_at, self._heads = height, {}
        if type(head.headers) is not tuple or sum([len(value) for _, value in head.headers]) > _MAX_REMEMBERED:
            return _checked(head, height)
        name = head.status, head.headers
        found = self._heads.get(name)
        if found is None:
            found = self._heads[name] = _checked(head, height)
        return found

    async def _run(
        self,
        placed: Placed,
        process: AgentProcess,
        request: OpenRequest,
        origin: Origin,
        height: int,
        begun: Attempt | None,
    ) -> Ran:
        """Run the handler until its writes commit: at most three times when others wrote first."""
        for left in reversed(range(ATTEMPTS)):
            first, begun = begun, None
            try:
                if first is not None:
                    return await self._settled(placed, first, _told(first), height)
                return await self._attempt(placed, process, request, origin, height)
            except CloisterError as error:
                if error.code != CONFLICT.code or not left:
                    raise
        raise RuntimeError("the loop returns or raises")

    async def _attempt(
        self, placed: Placed, process: AgentProcess, request: OpenRequest, origin: Origin, height: int
    ) -> Ran:
        """1. state of its own, refused if this request committed before; then ``_settled``."""
        name = request.head.request_id[2:]
        self._calls += 1
        scope = RequestScope(placed.state, await placed.state.begin(name), name)  # 1
        attempt = Attempt(process, origin, f"{name}-{self._calls}", scope)
        placed.host.open(attempt.name, scope, origin)
        return await self._settled(placed, attempt, self._fetched(process, attempt, request), height)

    async def _fetched(self, process: AgentProcess, attempt: Attempt, request: OpenRequest) -> _Answered:
        asked = _agent_request(attempt.name, request, attempt.origin)
        if self._spans.off:
            return await process.fetch(asked)
        with self._spans.agent() as carrying:
            return await process.fetch(carrying(asked))

    async def _settled(self, placed: Placed, attempt: Attempt, fetched: Awaitable[_Answered], height: int) -> Ran:
        """2. the handler answers; 3. the head can be sent; 4. the agent was not dropped meanwhile; 5. commit. An
        attempt that fails is cancelled and forgotten."""
        scope = attempt.scope
        chunks: Chunks | None = None
        try:
            head, chunks = await fetched  # 2
            checked, encoded = self.checked(head, height)  # 3
            if placed.closed:  # 4
                raise CLOSED(expected="an agent of this worker", found="one that was dropped while it ran")
            await scope.commit_head()  # 5
            return Ran(checked, encoded, chunks, scope, attempt.name, placed)
        except BaseException as error:
            placed.host.close(attempt.name)
            scope.close()
            if chunks is not None:
                await chunks.aclose()
            if scope.conflict is not None and isinstance(error, CloisterError):
                raise scope.conflict from None  # the handler failed because of it
            raise


async def _told(attempt: Attempt) -> _Answered:
    """Head and body of an attempt that was begun before and said something. Raises its error."""
    begun = attempt.begun
    if begun is None:
        raise RuntimeError("an attempt that says something was begun")
    if begun.answered is None:
        begun.end()
        raise begun.error or INTERNAL(expected="a head or an error", found="neither")
    return begun.answered, begun.chunks()


def _sealed(request: OpenRequest, error: CloisterError) -> CloisterError:
    """The refusal with the bytes that say it to the caller; itself when the answer is complete."""
    if request.responder.done:
        return error
    return SealedRefusalError(error, request.responder.error(error))


async def _last_words(answer: Answer, sealed: bytes) -> None:
    try:
        async with asyncio.timeout(LAST_WORDS_S):
            await answer.send(sealed)
    except TimeoutError:
        raise STALLED(expected="a reader", found="one that takes nothing") from None


def host_now_ms() -> int:
    """The host's clock in Unix ms: for deadlines and labels only, never for trust."""
    return time.time_ns() // 1_000_000


def _current() -> asyncio.Task[Any]:
    task = asyncio.current_task()
    if task is None:
        raise RuntimeError("requests are served by tasks")
    return task


def _checked(head: AgentResponseHead, height: int) -> tuple[ResponseHead, bytes]:
    """The response head in a form that can be sealed, and its JSON. Raises sandbox.bad_response."""
    lowered = [(name.lower(), value) for name, value in head.headers]
    headers: Headers = tuple([pair for pair in lowered if pair[0] not in HOP_HEADERS])
    try:
        checked = ResponseHead(status=head.status, checkpoint=height, headers=headers).check()
        return checked, encode_json(checked)
    except CloisterError as error:
        raise BAD_RESPONSE(expected="a status and headers that fit a sealed head", found=error.code) from None


def _agent_request(call: str, request: OpenRequest, origin: Origin) -> AgentRequest:
    head = request.head
    return AgentRequest(
        request_id=call,
        method=head.method,
        path=head.path,
        headers=without_carried(tuple([pair for pair in head.headers if pair[0] not in HOP_HEADERS]))
        if head.headers
        else (),
        body=request.body,
        caller=shown(request.caller, origin),
        deadline_ms=head.deadline_ms,
    )
