"""Framed connections over unix sockets: a server, and a client that reconnects (format: ``wire/connection.py``)."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Final

from cloister.core.errors import ConfigError, define
from cloister.wire.connection import (
    BROKEN,
    BUSY,
    CANCELLED,
    INTERNAL,
    LOST,
    TOO_LARGE,
    Call,
    Caps,
    Connection,
    Handler,
    Incoming,
    Report,
    Sink,
    Stream,
    Type,
)

__all__ = [
    "BROKEN",
    "BUSY",
    "CANCELLED",
    "INTERNAL",
    "LOST",
    "TOO_LARGE",
    "Call",
    "Caps",
    "Connection",
    "FrameClient",
    "FrameServer",
    "Handler",
    "Incoming",
    "Sink",
    "Stream",
    "Type",
]

FIRST_WAIT_S: Final = 0.05
LONGEST_WAIT_S: Final = 2.0
_MAX_PATH: Final = 100
_BACKLOG: Final = 128

BAD_SOCKET = define(
    "frames.socket",
    ConfigError,
    check="the socket's path is short, its folder exists, and nobody listens there",
    remedy="choose a path of at most 100 bytes in an existing private folder; stop the process that uses it",
)


class FrameServer:
    """Listens on a unix socket (mode 0600). Every connection may serve (``handler``) and be asked (``connections``)."""

    def __init__(
        self,
        path: Path,
        *,
        handler: Handler | None = None,
        on_announce: Callable[[Connection, bytes], None] | None = None,
        on_close: Callable[[Connection], None] | None = None,
        caps: Caps | None = None,
        max_connections: int = 256,
        report: Report | None = None,
    ) -> None:
        self.path = path
        self.connections: set[Connection] = set()
        self._handler, self._on_announce, self._on_close = handler, on_announce, on_close
        self._caps, self._max, self._report = caps, max_connections, report
        self._server: asyncio.AbstractServer | None = None

    async def start(self) -> None:
        """Bind and listen. Raises ConfigError (frames.socket)."""
        listener = _listen(self.path)
        self._server = await asyncio.get_running_loop().create_unix_server(self._connection, sock=listener)

    async def close(self) -> None:
        """Stop listening, close every connection, remove the socket."""
        if self._server is None:
            return
        self._server.close()
        for connection in list(self.connections):
            await connection.closed_within()
        self._server = None
        self.path.unlink(missing_ok=True)

    def _connection(self) -> Connection:
        return Connection(
            accepting=True,
            handler=self._handler,
            caps=self._caps,
            on_announce=self._on_announce,
            on_open=self._opened,
            on_close=self._closed,
            report=self._report,
        )

    def _opened(self, connection: Connection) -> None:
        self.connections.add(connection)
        if len(self.connections) > self._max:
            connection.close()

    def _closed(self, connection: Connection) -> None:
        self.connections.discard(connection)
        if self._on_close is not None:
            self._on_close(connection)


class FrameClient:
    """Keeps one connection to a server, and makes a new one whenever it is lost.

    ``announce()`` gives what is said on every new connection, in one frame or several. Streams in progress fail with
    frames.lost when the connection goes: whether the peer acted is not known, so nothing is repeated here."""

    def __init__(
        self,
        path: Path,
        *,
        handler: Handler | None = None,
        announce: Callable[[], bytes | list[bytes]] | None = None,
        caps: Caps | None = None,
        report: Report | None = None,
    ) -> None:
        self._path, self._handler, self._announce = path, handler, announce
        self._caps, self._report = caps, report
        self._connection: Connection | None = None
        self._up = asyncio.Event()
        self._keeper: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to connect, in the background."""
        if self._keeper is None:
            self._keeper = asyncio.get_running_loop().create_task(self._keep())

    async def close(self) -> None:
        """Stop, and close the connection."""
        if self._keeper is not None:
            self._keeper.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._keeper
            self._keeper = None
        if self._connection is not None:
            await self._connection.closed_within()
            self._connection = None

    async def connected(self, timeout_s: float | None = None) -> Connection:
        """The live connection. Raises TransportError (frames.lost) when there is none within ``timeout_s``."""
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    await self._up.wait()
                    if self._connection is not None and not self._connection.closed:
                        return self._connection
                    await asyncio.sleep(FIRST_WAIT_S)
        except TimeoutError:
            raise LOST(expected=f"a connection within {timeout_s} s", found="none") from None

    def stream(self, kind: int, payload: bytes) -> Stream:
        """A stream on the live connection. Raises TransportError (frames.lost) if there is none now."""
        if self._connection is None:
            raise LOST(expected="a connection", found="none")
        return self._connection.stream(kind, payload)

    def announce_again(self) -> None:
        """What ``announce()`` gives has changed: say it now, if connected."""
        if self._announce is not None and self._connection is not None and not self._connection.closed:
            self._say(self._connection)

    async def _keep(self) -> None:
        wait = FIRST_WAIT_S
        while True:
            try:
                self._connection = await self._connect()
            except OSError:
                await asyncio.sleep(wait)
                wait = min(wait * 2, LONGEST_WAIT_S)
                continue
            wait = FIRST_WAIT_S
            self._up.set()
            await asyncio.shield(self._connection.finished)
            self._up.clear()
            await asyncio.sleep(wait)

    async def _connect(self) -> Connection:
        _, connection = await asyncio.get_running_loop().create_unix_connection(self._make, str(self._path))
        self._say(connection)
        return connection

    def _say(self, connection: Connection) -> None:
        said = [] if self._announce is None else self._announce()
        for page in [said] if isinstance(said, bytes) else said:
            connection.announce(page)

    def _make(self) -> Connection:
        return Connection(accepting=False, handler=self._handler, caps=self._caps, report=self._report)


def _listen(path: Path) -> socket.socket:
    if len(os.fsencode(path)) > _MAX_PATH:
        raise BAD_SOCKET(expected=f"a path of at most {_MAX_PATH} bytes", found=f"{len(os.fsencode(path))} bytes")
    _remove_stale(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    mask = os.umask(0o177)
    try:
        listener.bind(str(path))
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise BAD_SOCKET(expected="to listen there", found=error.strerror or "an error") from None
    finally:
        os.umask(mask)
    return listener


def _remove_stale(path: Path) -> None:
    """Remove a socket file that nobody listens on: what a killed process leaves behind."""
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise BAD_SOCKET(expected="no file there, or an old socket", found="another file")
    except FileNotFoundError:
        return
    except OSError as error:
        raise BAD_SOCKET(expected="a folder to look into", found=error.strerror or "an error") from None
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        code = probe.connect_ex(str(path))
    if code != errno.ECONNREFUSED:
        raise BAD_SOCKET(expected="nobody listening there", found="a live process")
    path.unlink(missing_ok=True)
