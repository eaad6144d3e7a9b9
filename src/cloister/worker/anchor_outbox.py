"""What a worker remembers of contracts' requests, in the agent's own sealed state (spec/anchor.md 27-30).

Names begin with NUL, which agent code cannot use. Every seat of the agent shares it: a cursor behind the queue, the
requests that are not finished, and the answers that workers signed. An answer and the agent's own writes commit
together.

::

    \\0anchor/cursor            JCS {count, head, block}
    \\0anchor/ask/<index>       JCS {request, payload, seen}        seen: Unix seconds of the checkpoint that showed it
    \\0anchor/out/<index>/<w>   JCS {reply, signature, class}       one per worker

Of a connected chain: ``\\0anchor/<chain id>/cursor`` and so on; what is committed once is named with the chain too.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from cloister.core.chainview.anchor import MAX_PAYLOAD, Asked, Queue
from cloister.core.encoding import jcs
from cloister.core.encoding.hexes import from_hex, to_hex
from cloister.core.errors import StateError
from cloister.fabric.ports import CONFLICT
from cloister.worker.state import ALREADY_DONE, AgentState, Transaction

PREFIX: Final = "\0anchor/"
# Requests taken in, or forgotten, by one commit.
BATCH: Final = 8
# Requests held at once; the rest waits on the chain.
MAX_OPEN: Final = 256


@dataclass(frozen=True, slots=True)
class Cursor:
    """How far requests were taken in: the queue's state, and the block of the last one."""

    queue: Queue = Queue()  # noqa: RUF009 - frozen
    block: int = 0


@dataclass(frozen=True, slots=True)
class Entry:
    """A request that is not finished. ``seen``: Unix seconds of the checkpoint that showed it."""

    request: Asked
    payload: bytes
    seen: int


@dataclass(frozen=True, slots=True)
class Answered:
    """One worker's signed answer. ``vendor_class``: of its lease at the Anchor."""

    worker: bytes
    reply: bytes
    signature: bytes
    vendor_class: bytes


class Outbox:
    """The outbox of one agent over its state. ``chain``: of a connected chain; None: of the network's own."""

    def __init__(self, state: AgentState, chain: int | None = None) -> None:
        self._state = state
        self._prefix = PREFIX if chain is None else f"{PREFIX}{chain}/"
        self._lead = "" if chain is None else f"{chain} "
        self._cursor = f"{self._prefix}cursor"

    async def cursor(self) -> Cursor:
        """Where the last turn, of any seat, came to."""
        data = await (await self._begin("read")).get(self._cursor)
        if data is None:
            return Cursor()
        said = jcs.decode(data)
        return Cursor(Queue(said["count"], from_hex(said["head"], 24)), said["block"])

    async def take(self, entries: Sequence[Entry], cursor: Cursor) -> bool:
        """Remember requests and move the cursor, in one step. False: another seat was faster."""
        name = f"take {cursor.queue.count} {cursor.queue.head.hex()}"
        try:
            tx = await self._begin(name)
            await tx.get(self._cursor)
            for e in entries:
                said = {"request": e.request.to_json(), "payload": _text(e.payload), "seen": e.seen}
                await tx.put(self._ask(e.request.index), jcs.encode(said))
            at = {"count": cursor.queue.count, "head": to_hex(cursor.queue.head), "block": cursor.block}
            await tx.put(self._cursor, jcs.encode(at))
            await tx.commit(self.request_id(name))
        except StateError as error:
            if error.code in (CONFLICT.code, ALREADY_DONE.code):
                return False
            raise
        return True

    async def entries(self) -> list[Entry]:
        """Requests that are not finished, by index."""
        tx = await self._begin("read")
        found = []
        for name in await tx.list(f"{self._prefix}ask/", limit=MAX_OPEN):
            data = await tx.get(name)
            if data is not None:
                said = jcs.decode(data)
                found.append(Entry(Asked.from_json(said["request"]), _bytes(said["payload"]), said["seen"]))
        return found

    async def answers(self, index: int) -> list[Answered]:
        """Answers to one request, signed by seats of this agent."""
        tx = await self._begin("read")
        found = []
        for name in await tx.list(self._out(index, b"")):
            data = await tx.get(name)
            if data is not None:
                found.append(_answered(name, jcs.decode(data)))
        return found

    async def sign_too(self, index: int, answered: Answered) -> bool:
        """Keep this worker's signature on an answer that another seat ran. False: a race; the next turn repeats."""
        name = f"too {index} {answered.worker.hex()} {answered.signature.hex()}"
        try:
            tx = await self._begin(name)
            await tx.put(*self.put_answer(index, answered))
            await tx.commit(self.request_id(name))
        except StateError as error:
            if error.code in (CONFLICT.code, ALREADY_DONE.code):
                return False
            raise
        return True

    async def count(self) -> int:
        """How many requests are not finished."""
        return len(await (await self._begin("read")).list(f"{self._prefix}ask/", limit=MAX_OPEN))

    async def finish(self, *indexes: int) -> None:
        """Forget requests that ended, at most BATCH; their answers too. A race with another seat is no error: the next
        turn repeats."""
        name = f"finish {' '.join(map(str, indexes))}"
        try:
            tx = await self._begin(name)
            for index in indexes:
                for stored in [self._ask(index), *await tx.list(self._out(index, b""))]:
                    await tx.delete(stored)
            await tx.commit(self.request_id(name))
        except StateError as error:
            if error.code not in (CONFLICT.code, ALREADY_DONE.code):
                raise

    async def _begin(self, name: str) -> Transaction:
        return await self._state.begin(self.request_id(name))

    def request_id(self, name: str) -> str:
        """``request_id`` of a name at this chain."""
        return request_id(self._lead + name)

    def put_answer(self, index: int, answered: Answered) -> tuple[str, bytes]:
        """Name and value of an answer, for the transaction that the agent's own writes commit in."""
        said = {
            "reply": _text(answered.reply),
            "signature": to_hex(answered.signature),
            "class": to_hex(answered.vendor_class),
        }
        return self._out(index, answered.worker), jcs.encode(said)

    def _ask(self, index: int) -> str:
        return f"{self._prefix}ask/{index:020d}"

    def _out(self, index: int, worker: bytes) -> str:
        return f"{self._prefix}out/{index:020d}/{worker.hex()}"


def request_id(name: str) -> str:
    """A request id of the worker's own, 32 hex digits: what it names commits once."""
    return hashlib.sha256(b"anchor " + name.encode()).hexdigest()[:32]


def _answered(name: str, said: dict[str, Any]) -> Answered:
    worker = bytes.fromhex(name.rpartition("/")[2])
    return Answered(worker, _bytes(said["reply"]), from_hex(said["signature"], 65), from_hex(said["class"], 32))


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _bytes(text: str) -> bytes:
    data = base64.b64decode(text, validate=True)
    if len(data) > 2 * MAX_PAYLOAD:
        raise RuntimeError("a worker stores nothing of that size")
    return data
