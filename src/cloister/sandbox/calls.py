"""One request inside a sandbox, as the worker keeps it: head, body under a credit window, ending."""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import AsyncGenerator, Callable
from time import monotonic
from typing import Any, Final, Protocol

from cloister.core.errors import CloisterError
from cloister.sandbox.deadlines import Deadline
from cloister.sandbox.errors import BAD_RESPONSE, PROTOCOL, RESPONSE_TOO_LARGE
from cloister.sandbox.frames import WINDOW
from cloister.sandbox.ports import AgentRequest, AgentResponseHead, Chunks, Headers, Whole

MAX_HEADERS: Final = 128
MAX_HEADER_BYTES: Final = 32 << 10
FREE_PIECES: Final = 65536
PIECE_BYTES: Final = 64
SMALL: Final = 4 << 10
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,256}")
_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
# The transport frames bodies itself; these describe a connection that does not exist here.
_DROPPED: Final = frozenset(
    {"connection", "content-length", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"}
)


def headers_fault(headers: object) -> str | None:
    """What is wrong with a list of [name, value] pairs, or None. Never quotes a value."""
    if not isinstance(headers, (list, tuple)) or len(headers) > MAX_HEADERS:
        return f"no list of at most {MAX_HEADERS} headers"
    total = 0
    for pair in headers:
        if not isinstance(pair, (list, tuple)) or len(pair) != 2:
            return "a header that is no [name, value] pair of texts"
        name, value = pair
        if not isinstance(name, str) or not isinstance(value, str):
            return "a header that is no [name, value] pair of texts"
        if not _NAME.fullmatch(name) or not _VALUE.fullmatch(value):
            return "a header with characters that HTTP does not allow"
        total += len(name) + len(value)
    return f"headers of {total} bytes, over {MAX_HEADER_BYTES}" if total > MAX_HEADER_BYTES else None


def kept_headers(headers: Headers) -> tuple[tuple[str, str], ...]:
    """Headers in lower case, without those that belong to a connection."""
    lowered = [(name.lower(), value) for name, value in headers]
    return tuple([pair for pair in lowered if pair[0] not in _DROPPED])


def parse_head(fields: dict[str, Any]) -> AgentResponseHead:
    """A response head that the agent's side sent. Raises SandboxError (sandbox.bad_response)."""
    status, headers = fields.get("status"), fields.get("headers")
    if not isinstance(status, int) or isinstance(status, bool) or not 200 <= status <= 599:
        raise BAD_RESPONSE(expected="a status from 200 to 599", found=f"{type(status).__name__} outside of it")
    if fault := headers_fault(headers):
        raise BAD_RESPONSE(expected="valid headers", found=fault)
    return AgentResponseHead(status, kept_headers(headers or ()))


class Owner(Protocol):
    """Whoever begins requests and looks after them."""

    def end(self, call: Call) -> None:
        """A request is over."""

    def body(self, call: Call) -> Chunks:
        """The body of one that was answered."""


class Call:
    """One request under way. ``grant(bytes)`` is called as the reader consumes.

    ``told()``, if set, is called once: when ``answered`` or ``error`` is there. It must not raise."""

    def __init__(self, number: int, request: AgentRequest, limit: int, grant: Callable[[Call, int], None]) -> None:
        self.number, self.request_id = number, request.request_id
        self.began = monotonic()
        self.counted = False  # its duration is in the meter
        self.deadline: Deadline | None = None
        self.answered: AgentResponseHead | None = None
        self.error: CloisterError | None = None
        self.told: Callable[[], None] | None = None
        self.owner: Owner | None = None
        self.over = False
        self.asking = 0  # host calls under way
        self._limit, self._grant = limit, grant
        self._late = self._late_pieces = self._received = self._eaten = self._pieces = 0
        self._granted = WINDOW
        self._head: asyncio.Future[AgentResponseHead] | None = None
        self._chunks: deque[bytes] | None = None
        self._waiter: asyncio.Future[None] | None = None

    @property
    def head(self) -> asyncio.Future[AgentResponseHead]:
        """The response head, for who awaits it."""
        if self._head is None:
            self._head = asyncio.get_running_loop().create_future()
            self._settle()
        return self._head

    def tell(self) -> None:
        """The head is there, or the request failed: say so to whoever waits."""
        if self._head is not None:
            self._settle()
        told, self.told = self.told, None
        if told is not None:
            told()

    def _settle(self) -> None:
        if self._head is None or self._head.done():
            return
        if self.answered is not None:
            self._head.set_result(self.answered)
        elif self.error is not None:
            self._head.set_exception(self.error)
            self._head.exception()  # seen: a caller that has gone away is no unhandled error

    def on_head(self, head: Callable[[], AgentResponseHead]) -> None:
        """Take the response head, which ``head()`` parses. Raises SandboxError for a second head or a malformed one."""
        if self.answered is not None or self.error is not None:
            raise PROTOCOL(expected="one head per response", found="a second one")
        self.answered = head()
        self.tell()

    def on_whole(self, head: AgentResponseHead, data: bytes) -> bool:
        """Take a whole small response. False, and nothing taken, where it is not the first word or beyond the limit:
        ``on_head``, ``on_chunk`` and ``on_end`` then say what is wrong. ``tell`` is the next."""
        if self.over or self._pieces or self.answered is not None or len(data) > self._limit:
            return False
        self.over, self._pieces, self._received = True, 1, len(data)
        if data:
            self._chunks = deque((data,))
        self.answered = head
        return True

    def whole(self) -> Whole | None:
        """The body, if all of it is here in one piece and nobody read of it."""
        data = self.take_whole(self._limit)
        return None if data is None else Whole(data)

    def take_whole(self, most: int) -> bytes | None:
        """The same of at most ``most`` bytes, as it is."""
        chunks = self._chunks
        if not self.over or self.error is not None or self._received > most:
            return None
        if chunks is None:
            return b"" if self.answered is not None else None
        if len(chunks) != 1 or len(chunks[0]) != self._received:
            return None
        self._chunks = deque()
        return chunks[0]

    def on_chunk(self, data: bytes) -> None:
        """Take body bytes. Raises SandboxError when they overrun the credit window or the response limit, or come in
        crumbs: each piece costs the worker as much as a hundred bytes."""
        if self.answered is None:
            raise PROTOCOL(expected="a head before the body", found="a chunk")
        self._received += len(data)
        self._pieces += 1
        if self._pieces > FREE_PIECES + self._received // PIECE_BYTES:
            raise PROTOCOL(expected=f"pieces of {PIECE_BYTES} bytes or more on average", found="smaller ones")
        if self._received > self._granted:
            raise PROTOCOL(expected="body bytes within the credit window", found="an overrun")
        if self._received > self._limit:
            raise RESPONSE_TOO_LARGE(expected=f"at most {self._limit} bytes", found="more")
        if data:
            self._keep(data)
            self._wake()

    def on_late(self, size: int) -> None:
        """A piece that comes after CANCEL and is dropped. Raises SandboxError when more come than were under way."""
        self._late += size
        self._late_pieces += 1
        if self._late > 2 * WINDOW or self._late_pieces > FREE_PIECES:
            raise PROTOCOL(expected="a body that stops after CANCEL", found="one that goes on")

    def on_end(self) -> None:
        """The response is complete. Raises SandboxError if it never began."""
        if self.answered is None:
            raise PROTOCOL(expected="a head before the end", found="the end")
        self.over = True
        self._wake()

    def fail(self, error: CloisterError) -> None:
        """End this request with an error, in its head or in its body. Does nothing after the end."""
        if self.over:
            return
        self.over, self.error = True, error
        self._wake()
        if self.answered is None:
            self.tell()

    def end(self) -> None:
        """The request is over, or nobody waits for it any more. Idempotent."""
        if self.owner is not None:
            self.owner.end(self)

    def chunks(self) -> Chunks:
        """The body, for who began the request."""
        if self.owner is None:
            raise RuntimeError("a request that no process began has no reader")
        return self.owner.body(self)

    async def body(self, done: Callable[[Call], None]) -> AsyncGenerator[bytes, None]:
        """Chunks in order. Raises the request's error after the chunks that came before it."""
        try:
            while True:
                while self._chunks:
                    data = self._chunks.popleft()
                    self._eat(len(data))
                    yield data
                if self.error is not None:
                    raise self.error
                if self.over:
                    return
                self._waiter = asyncio.get_running_loop().create_future()
                await self._waiter
        finally:
            done(self)

    def _keep(self, data: bytes) -> None:
        """Small pieces that nobody has read become one: a thousand objects of one byte are no body."""
        if self._chunks is None:
            self._chunks = deque()
        if self._chunks and len(self._chunks[-1]) < SMALL:
            self._chunks[-1] += data
        else:
            self._chunks.append(data)

    def _eat(self, count: int) -> None:
        self._eaten += count
        if self._eaten >= WINDOW // 4 and not self.over:
            self._granted += self._eaten
            self._grant(self, self._eaten)
            self._eaten = 0

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
