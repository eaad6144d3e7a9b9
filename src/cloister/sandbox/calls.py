"""One request inside a sandbox, as the worker keeps it: head, body under a credit window, ending."""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import AsyncGenerator, Callable
from typing import Any, Final

from cloister.core.errors import CloisterError
from cloister.sandbox.deadlines import Deadline
from cloister.sandbox.errors import BAD_RESPONSE, PROTOCOL, RESPONSE_TOO_LARGE
from cloister.sandbox.frames import WINDOW
from cloister.sandbox.ports import AgentRequest, AgentResponseHead, Headers, Whole

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


class Call:
    """One request under way. ``grant(bytes)`` is called as the reader consumes; ``drop()`` if it stops early."""

    def __init__(self, number: int, request: AgentRequest, limit: int, grant: Callable[[Call, int], None]) -> None:
        loop = asyncio.get_running_loop()
        self.number, self.request_id = number, request.request_id
        self.began = loop.time()
        self.counted = False  # its duration is in the meter
        self.deadline: Deadline | None = None
        self._late = self._late_pieces = 0
        self.head: asyncio.Future[AgentResponseHead] = loop.create_future()
        self.over = False
        self._limit, self._grant = limit, grant
        self._chunks: deque[bytes] = deque()
        self._received, self._granted, self._eaten, self._pieces = 0, WINDOW, 0, 0
        self._error: CloisterError | None = None
        self._waiter: asyncio.Future[None] | None = None

    def on_head(self, head: Callable[[], AgentResponseHead]) -> None:
        """Take the response head, which ``head()`` parses. Raises SandboxError for a second head or a malformed one."""
        if self.head.done():
            raise PROTOCOL(expected="one head per response", found="a second one")
        self.head.set_result(head())

    def on_whole(self, head: AgentResponseHead, data: bytes) -> bool:
        """Take a whole small response. False, and nothing taken, where it is not the first word or beyond the limit:
        ``on_head``, ``on_chunk`` and ``on_end`` then say what is wrong."""
        if self.over or self._pieces or self.head.done() or len(data) > self._limit:
            return False
        self.over, self._pieces, self._received = True, 1, len(data)
        if data:
            self._chunks.append(data)
        self.head.set_result(head)
        return True

    def whole(self) -> Whole | None:
        """The body, if all of it is here in one piece and nobody read of it."""
        if not self.over or self._error is not None or len(self._chunks) != 1 or len(self._chunks[0]) != self._received:
            return None
        return Whole(self._chunks.popleft())

    def on_chunk(self, data: bytes) -> None:
        """Take body bytes. Raises SandboxError when they overrun the credit window or the response limit, or come in
        crumbs: each piece costs the worker as much as a hundred bytes."""
        if not self.head.done():
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
        if not self.head.done():
            raise PROTOCOL(expected="a head before the end", found="the end")
        self.over = True
        self._wake()

    def fail(self, error: CloisterError) -> None:
        """End this request with an error, in its head or in its body. Does nothing after the end."""
        if self.over:
            return
        self.over, self._error = True, error
        if not self.head.done():
            self.head.set_exception(error)
            self.head.exception()  # seen: a caller that has gone away is no unhandled error
        self._wake()

    async def body(self, done: Callable[[Call], None]) -> AsyncGenerator[bytes, None]:
        """Chunks in order. Raises the request's error after the chunks that came before it."""
        try:
            while True:
                while self._chunks:
                    data = self._chunks.popleft()
                    self._eat(len(data))
                    yield data
                if self._error is not None:
                    raise self._error
                if self.over:
                    return
                self._waiter = asyncio.get_running_loop().create_future()
                await self._waiter
        finally:
            done(self)

    def _keep(self, data: bytes) -> None:
        """Small pieces that nobody has read become one: a thousand objects of one byte are no body."""
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
