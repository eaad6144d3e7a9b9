"""One sealed request, from its bytes to its receipt (spec/sealed-http.md 6-8, ARCHITECTURE.md).

The answer leaves only after the state that it depends on is durable. A handler that lost a race is run again, at most
three times; nothing of an attempt that did not commit is ever shown.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Protocol

from cloister.core.encoding.hexes import to_hex
from cloister.core.envelope.server import OpenRequest, SealedRefusalError, ServerSessions
from cloister.core.errors import CloisterError, StateError
from cloister.core.receipts.receipt import Exchange, ReceiptChain, StateChange, Usage
from cloister.core.state.heads import HeadRecord
from cloister.fabric.ports import CONFLICT
from cloister.sandbox.ports import AgentProcess, AgentRequest, AgentResponseHead
from cloister.worker.agents import AgentTable, Placed
from cloister.worker.chainwatch import ChainWatch

ATTEMPTS = 3
_DROPPED = frozenset({"connection", "keep-alive", "transfer-encoding", "upgrade", "content-length"})


class Answer(Protocol):
    """Where the sealed answer goes: the caller's stream."""

    async def send(self, data: bytes) -> None:
        """Write some bytes; waits for the reader."""


@dataclass(slots=True)
class Ran:
    """A handler that has answered and committed: its head, its body to come, and the state it left."""

    head: AgentResponseHead
    chunks: AsyncIterator[bytes]
    before: HeadRecord
    after: HeadRecord
    cpu_us: int
    egress: int


class Server:
    """Serves sealed requests for the agents in the table."""

    def __init__(
        self,
        watch: ChainWatch,
        table: AgentTable,
        sessions: ServerSessions,
        receipts: ReceiptChain,
        *,
        now_ms: Callable[[], int],
    ) -> None:
        self._watch, self._table, self._sessions = watch, table, sessions
        self._receipts, self._now_ms = receipts, now_ms
        self.served = 0
        self.refused = 0

    async def serve(self, agent: bytes, record: bytes, answer: Answer) -> None:
        """Serve one record. Raises CloisterError only for what could not be opened: everything later is sealed.

        1. a fresh view of the chain; 2. the agent is held here and not paused; 3. open; 4. run and commit;
        5. head and body; 6. receipt.
        """
        try:
            checkpoint = self._watch.require_fresh()  # 1
            placed = self._table.get(agent)  # 2
            request = self._sessions.open_request(  # 3
                agent, record, self._now_ms(), lambda cert, ibe: placed.keys_of(cert).open_psk(cert, ibe)
            )
        except SealedRefusalError as refusal:
            self.refused += 1
            await answer.send(refusal.sealed)
            return
        except CloisterError:
            self.refused += 1
            raise
        try:
            await self._answer(placed, request, checkpoint.number, answer)
            self.served += 1
        except CloisterError as error:
            self.refused += 1
            if not request.responder.done:
                await answer.send(request.responder.error(error))

    async def _answer(self, placed: Placed, request: OpenRequest, height: int, answer: Answer) -> None:
        process = await self._table.process(placed)
        ran = await self._run(placed, process, request)  # 4
        headers = tuple((n.lower(), v) for n, v in ran.head.headers if n.lower() not in _DROPPED)
        await answer.send(request.responder.head(ran.head.status, headers, height))  # 5
        async for chunk in ran.chunks:
            await answer.send(request.responder.chunk(chunk))
        exchange = Exchange(
            bytes.fromhex(request.head.request_id[2:]),
            ran.head.status,
            request.commitment(),
            request.responder.commitment(request.salt),
        )
        receipt, signature = self._receipts.issue(  # 6
            request.certificate,
            exchange,
            checkpoint=height,
            host_time_ms=self._now_ms(),
            state=_change(ran),
            usage=self._usage(process, request, ran),
        )
        await answer.send(request.responder.final(receipt.encoded, signature))

    async def _run(self, placed: Placed, process: AgentProcess, request: OpenRequest) -> Ran:
        """Run the handler until its writes commit: at most three times when others wrote first."""
        usage = process.usage()
        cpu, egress = usage.get("cpu_us", 0), usage.get("egress_bytes", 0)
        for attempt in range(1, ATTEMPTS + 1):
            try:
                before, head, chunks, after = await self._attempt(placed, process, request, attempt)
                return Ran(head, chunks, before, after, cpu, egress)
            except StateError as error:
                if error.code != CONFLICT.code or attempt == ATTEMPTS:
                    raise
        raise RuntimeError("the loop returns or raises")

    async def _attempt(
        self, placed: Placed, process: AgentProcess, request: OpenRequest, attempt: int
    ) -> tuple[HeadRecord, AgentResponseHead, AsyncIterator[bytes], HeadRecord]:
        name = request.head.request_id[2:]
        call = f"{name}-{attempt}"
        transaction = await placed.state.begin(name)
        before = transaction.record
        placed.host.open(call, transaction)
        try:
            head, chunks = await process.fetch(_agent_request(call, request))
            after = await transaction.commit(name)
        except BaseException:
            placed.host.close(call)
            raise
        # Writes made while the body streams have a transaction of their own, committed before the stream's end.
        tail = await placed.state.begin(f"{name}t{attempt}")
        placed.host.open(call, tail)

        async def body() -> AsyncIterator[bytes]:
            try:
                async for chunk in chunks:
                    yield chunk
                await tail.commit(f"{name}t{attempt}")
            finally:
                placed.host.close(call)

        return before, head, body(), after

    def _usage(self, process: AgentProcess, request: OpenRequest, ran: Ran) -> Usage:
        usage = process.usage()
        return Usage(
            cpu_us=max(0, usage.get("cpu_us", 0) - ran.cpu_us),
            egress_bytes=max(0, usage.get("egress_bytes", 0) - ran.egress),
            request_bytes=len(request.body),
            response_bytes=request.responder.body_bytes,
        )


def host_now_ms() -> int:
    """The host's clock in Unix ms: for deadlines and labels only, never for trust."""
    return time.time_ns() // 1_000_000


def _change(ran: Ran) -> StateChange:
    if ran.after.height == ran.before.height == 0:
        return StateChange()
    return StateChange(ran.before.head, ran.after.head, "local")


def _agent_request(call: str, request: OpenRequest) -> AgentRequest:
    caller = None if request.caller is None else {"kind": "wallet", "address": to_hex(request.caller.address)}
    head = request.head
    return AgentRequest(
        request_id=call,
        method=head.method,
        path=head.path,
        headers=tuple((n, v) for n, v in head.headers if n not in _DROPPED),
        body=request.body,
        caller=caller,
        deadline_ms=head.deadline_ms,
    )
