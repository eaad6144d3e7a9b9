"""The only way out of a sandbox: a CONNECT proxy of the worker (spec/sandbox.md 6).

The agent names a host; the worker decides, resolves, and connects to the address that it resolved. Private, loopback
and link-local ranges are refused whatever a name resolves to, so an agent cannot reach the worker's machine, its
network or a cloud's metadata service. TLS passes through end to end: the proxy sees names, sizes and times only.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import re
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final

from cloister.core.policy.egress import EGRESS, HOST, Rule
from cloister.sandbox.ports import Also

MAX_HEAD: Final = 8 << 10
MAX_CONNECTIONS: Final = 64
HEAD_S, CONNECT_S, IDLE_S, PIN_S = 10.0, 10.0, 120.0, 60.0
_PIECE: Final = 64 << 10
_CONNECT = re.compile(rb"CONNECT ([A-Za-z0-9_.-]{1,253}):([0-9]{1,5}) HTTP/1\.[01]\r\n")
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_REFUSED = (ipaddress.ip_network("192.88.99.0/24"), ipaddress.ip_network("64:ff9b:1::/48"))

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
Spend = Callable[[int, bool], bool]


def is_public(address: str) -> bool:
    """Whether an address belongs to the public internet. Addresses that wrap another are judged by the inner one."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.ipv4_mapped is not None:
            return is_public(str(ip.ipv4_mapped))
        if ip in _NAT64:
            return is_public(str(ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)))
        if ip.sixtofour is not None or ip.teredo is not None:
            return False
    if any(ip in network for network in _REFUSED if network.version == ip.version):
        return False
    return ip.is_global and not ip.is_multicast


async def resolve_host(host: str, port: int) -> Sequence[str]:
    """Addresses of a name, by the system's resolver. Raises OSError."""
    infos = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(info[4][0]) for info in infos]


class _RefusedError(Exception):
    """A request that the proxy answers with a status line and a reason."""

    def __init__(self, status: str, reason: str) -> None:
        super().__init__(reason)
        self.status, self.reason = status, reason


class EgressProxy:
    """One agent's proxy. ``sent`` and ``received`` count tunnelled bytes. ``note(text)`` hears each refusal.

    ``spend(count, outwards)`` is asked for every piece of traffic; False cuts the tunnel. So is ``also(host, port)``:
    what narrows the rules besides, at this moment (an owner's list on chain)."""

    def __init__(
        self,
        rules: Sequence[Rule],
        map_host: Mapping[str, tuple[str, int]],
        *,
        note: Callable[[str], None] = lambda text: None,
        resolve: Resolve = resolve_host,
        idle_s: float = IDLE_S,
        spend: Spend = lambda count, outwards: True,
        also: Also = lambda host, port: True,
    ) -> None:
        self.sent = self.received = 0
        self._rules, self._map, self._note, self._resolve, self._idle_s = rules, dict(map_host), note, resolve, idle_s
        self._spend, self._also = spend, also
        self._pinned: dict[tuple[str, int], tuple[float, tuple[str, ...]]] = {}
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def serve(self, listener: socket.socket) -> None:
        """Accept on a listening socket (TCP in the agent's namespace, or a unix socket)."""
        if listener.family == socket.AF_UNIX:
            self._server = await asyncio.start_unix_server(self._accept, sock=listener, limit=MAX_HEAD)
        else:
            self._server = await asyncio.start_server(self._accept, sock=listener, limit=MAX_HEAD)

    async def close(self) -> None:
        """Stop accepting and cut every tunnel."""
        if self._server is not None:
            self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a connection handler runs in a task")
        self._tasks.add(task)
        try:
            await self._connection(reader, writer)
        except (OSError, asyncio.IncompleteReadError, TimeoutError, asyncio.CancelledError):
            writer.transport.abort()
        finally:
            self._tasks.discard(task)

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._tasks) > 2 * MAX_CONNECTIONS:
            writer.transport.abort()
            return
        try:
            host, port = await self._target(reader)
            if len(self._tasks) > MAX_CONNECTIONS:
                raise _RefusedError("429 Too Many Requests", f"more than {MAX_CONNECTIONS} connections")
            if not (self._spend(0, True) and self._spend(0, False)):
                raise _RefusedError("429 Too Many Requests", "the agent's egress_bytes are used up")
            upstream = await self._open(host, port)
        except _RefusedError as refusal:
            self._note(f"egress refused: {refusal.reason}")
            await _answer(writer, refusal)
            return
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        try:
            await self._tunnel((reader, writer), upstream, lambda: self._also(host, port))
        finally:
            upstream[1].transport.abort()
            writer.transport.abort()

    async def _target(self, reader: asyncio.StreamReader) -> tuple[str, int]:
        try:
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), HEAD_S)
        except asyncio.LimitOverrunError:
            raise _RefusedError("431 Request Header Fields Too Large", f"a head over {MAX_HEAD} bytes") from None
        found = _CONNECT.match(head)
        if found is None:
            raise _RefusedError("405 Method Not Allowed", "only https leaves the sandbox: CONNECT host:port")
        host, port = found[1].decode().lower().rstrip("."), int(found[2])
        if not HOST.fullmatch(host) or not any(rule.allows(host, port) for rule in self._rules):
            raise _RefusedError("403 Forbidden", f"{host}:{port} is not in the manifest's egress list")
        if not self._also(host, port):
            raise _RefusedError("403 Forbidden", f"{host}:{port} is not in the agent's egress list on chain")
        return host, port

    async def _open(self, host: str, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        mapped = self._map.get(host)
        targets = [mapped] if mapped else [(ip, port) for ip in await self._addresses(host, port)]
        for target in targets:
            with contextlib.suppress(OSError, TimeoutError):
                return await asyncio.wait_for(asyncio.open_connection(*target, limit=_PIECE), CONNECT_S)
        raise _RefusedError("502 Bad Gateway", f"{host}:{port} does not accept connections")

    async def _addresses(self, host: str, port: int) -> tuple[str, ...]:
        """Public addresses of a name, the same ones for a minute. One private answer among them refuses the name."""
        now = asyncio.get_running_loop().time()
        pinned = self._pinned.get((host, port))
        if pinned is not None and pinned[0] > now:
            return pinned[1]
        try:
            found = tuple(dict.fromkeys(await asyncio.wait_for(self._resolve(host, port), CONNECT_S)))
            hidden = [address for address in found if not is_public(address)]
        except (OSError, ValueError, TimeoutError):
            raise _RefusedError("502 Bad Gateway", f"{host} does not resolve") from None
        if hidden or not found:
            raise _RefusedError("403 Forbidden", f"{host} resolves to an address that is not public")
        if len(self._pinned) >= 1024:
            self._pinned.clear()
        self._pinned[host, port] = (now + PIN_S, found[:8])
        return found[:8]

    async def _tunnel(
        self,
        inner: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        outer: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        allowed: Callable[[], bool],
    ) -> None:
        """Bytes both ways until both ends are done, the host is ``allowed`` no more, or nothing moved for a while
        (TimeoutError)."""
        loop = asyncio.get_running_loop()

        async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter, outwards: bool) -> None:
            while data := await source.read(_PIECE):
                idle.reschedule(loop.time() + self._idle_s)
                if outwards:
                    self.sent += len(data)
                else:
                    self.received += len(data)
                if not allowed():
                    self._note("egress cut: a list on chain leaves the host out now")
                    raise ConnectionAbortedError
                if not self._spend(len(data), outwards):
                    self._note("egress cut: the agent's egress_bytes are used up")
                    raise ConnectionAbortedError
                sink.write(data)
                await sink.drain()
            if sink.can_write_eof():
                sink.write_eof()

        async with asyncio.timeout(self._idle_s) as idle:
            await asyncio.gather(pump(inner[0], outer[1], True), pump(outer[0], inner[1], False))


async def _answer(writer: asyncio.StreamWriter, refusal: _RefusedError) -> None:
    body = f"cloister egress: {refusal.reason}\n".encode()
    head = f"HTTP/1.1 {refusal.status}\r\nContent-Type: text/plain\r\nContent-Length: {len(body)}\r\n"
    writer.write(head.encode() + b"Connection: close\r\n\r\n" + body)
    with contextlib.suppress(OSError):
        await writer.drain()
    writer.close()


def check_map(map_host: Mapping[str, tuple[str, int]]) -> None:
    """Refuse entries that are no host, address and port. Raises SandboxError (sandbox.egress)."""
    for host, (address, port) in map_host.items():
        try:
            ipaddress.ip_address(address)
        except ValueError:
            raise EGRESS(expected="host -> (IP address, port)", found="no IP address") from None
        if not HOST.fullmatch(host) or not 0 < port < 65536:
            raise EGRESS(expected="host -> (IP address, port)", found="another host name or port")
