"""The agent's side of the socket in Python (spec/sandbox.md 3). Runs inside the sandbox: python harness.py PORT [warm].

It is measured with the worker's image, but it shares a process with the agent, so the worker trusts nothing that it
says. It needs the standard library only.
"""

import asyncio
import base64
import contextlib
import contextvars
import importlib
import inspect
import io
import json
import os
import struct
import sys
import threading
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING or __package__:  # read or tested outside of the sandbox
    from cloister.sandbox.python.cloister_agent import HostError, Request, Response
else:
    sys.path.append("/h")
    from cloister_agent import HostError, Request, Response

INIT, REQUEST, HOST_RESULT, CANCEL, CREDIT = 1, 2, 3, 4, 5
READY, FAILED, HEAD, CHUNK, END, ERROR, HOST_CALL, LOG, PONG, RESPONSE = range(16, 26)
HEADER = struct.Struct("<IIB")
PIECE, HOST_CALLS, LINE, BACKLOG, LATE = 65536, 32, 4000, 1 << 20, 200
# Commands: the worker lets the agent's owner alone ask the first path; what contracts ask comes by the second.
COMMAND, ASKED = "/.well-known/cloister/owner/command", "/.well-known/cloister/request"
SOCKET, BRIDGE = "/run/a/s.sock", "/run/a/p.sock"

_running: contextvars.ContextVar[int] = contextvars.ContextVar("request", default=0)


def dump(value: Any) -> bytes:
    """JSON bytes."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).encode()


class Entry:
    """One request under way. ``over``: nobody waits for it any more."""

    def __init__(self, number: int, credit: int) -> None:
        self.number, self.credit, self.over = number, credit, False
        self.granted, self.aborted = asyncio.Event(), asyncio.Event()
        self.task: asyncio.Task[None] | None = None


class Link(asyncio.Protocol):
    """Frames to and from the worker."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.transport: asyncio.Transport | None = None
        self.handler: Callable[[Request, Any], Any] | None = None
        self.command: Callable[[Request, Any], Any] | None = None
        self.settings: dict[str, Any] = {}
        self.secrets: Mapping[str, str] = {}
        self.public: Mapping[str, str] = {}
        self.buffer = bytearray()
        self.entries: dict[int, Entry] = {}
        self.calls: dict[int, asyncio.Future[Any]] = {}
        self.gate = asyncio.Semaphore(HOST_CALLS)
        self.next_call = 1
        self.kept: set[Any] = set()
        self.thread = threading.get_ident()

    # -- sending

    def send(self, kind: int, number: int, payload: bytes = b"") -> None:
        """One frame. From the event loop's thread only."""
        if self.transport is not None:
            self.transport.write(HEADER.pack(len(payload), number, kind) + payload)

    def log(self, number: int, level: str, text: str) -> None:
        """A line for the owner, from any thread. Past BACKLOG unsent bytes it is lost rather than the process."""
        if threading.get_ident() != self.thread:
            self.loop.call_soon_threadsafe(self.log, number, level, text)
            return
        if self.transport is not None and self.transport.get_write_buffer_size() < BACKLOG:
            clean = text[:LINE].encode("utf-8", "replace").decode()
            self.send(LOG, number, dump({"level": level, "text": clean}))

    # -- receiving

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]

    def connection_lost(self, exc: Exception | None) -> None:
        os._exit(0)

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        at = 0
        while len(self.buffer) - at >= HEADER.size:
            length, number, kind = HEADER.unpack_from(self.buffer, at)
            if len(self.buffer) - at - HEADER.size < length:
                break
            start = at + HEADER.size
            self.frame(kind, number, bytes(self.buffer[start : start + length]))
            at = start + length
        del self.buffer[:at]

    def frame(self, kind: int, number: int, payload: bytes) -> None:
        entry = self.entries.get(number)
        if kind == REQUEST:
            entry = self.entries[number] = Entry(number, self.settings["window"])
            entry.task = self.loop.create_task(self.serve(entry, payload))
        elif kind == HOST_RESULT:
            self.answered(json.loads(payload))
        elif kind == CREDIT and entry:
            entry.credit += int.from_bytes(payload, "little")
            entry.granted.set()
        elif kind == CANCEL:
            self.send(PONG, number)
            if entry and entry.task:
                entry.over = True
                entry.aborted.set()
                entry.task.cancel()
        elif kind == INIT:
            self.begin(json.loads(payload))

    def begin(self, settings: dict[str, Any]) -> None:
        self.settings = settings
        self.secrets = MappingProxyType(settings["secrets"])
        public = {name: value for name, value in settings["env"].items() if name not in settings["secrets"]}
        self.public = MappingProxyType(public)
        os.environ.update(settings["env"])
        if settings["bridge"]:
            self.keep(self.loop.create_task(bridge()))
        try:
            self.handler, self.command = load()
            self.send(READY, 0)
        except BaseException as error:
            self.log(0, "error", "".join(traceback.format_exception(error)))
            self.send(FAILED, 0, dump({"kind": type(error).__name__[:60]}))

    def keep(self, task: Any) -> None:
        self.kept.add(task)
        task.add_done_callback(self.kept.discard)

    # -- host calls: at most HOST_CALLS under way, the rest wait here

    async def host(self, entry: Entry, name: str, args: Mapping[str, Any]) -> Any:
        async with self.gate:
            if entry.over:
                raise RuntimeError("the request of this context is over")
            call, self.next_call = self.next_call, self.next_call + 1
            payload = dump({"call": call, "name": name, "args": args})
            future = self.calls[call] = self.loop.create_future()
            self.send(HOST_CALL, entry.number, payload)
            return await future

    def answered(self, result: dict[str, Any]) -> None:
        future = self.calls.pop(result["call"], None)
        if future is None or future.done():
            return
        if result.get("error"):
            future.set_exception(HostError(result["error"]))
        else:
            future.set_result(result.get("value"))

    # -- serving

    async def serve(self, entry: Entry, payload: bytes) -> None:
        number = entry.number
        _running.set(number)
        size = 4 + int.from_bytes(payload[:4], "little")
        head = json.loads(payload[4:size])
        try:
            if self.handler is None:
                raise RuntimeError("no agent is loaded")
            request = Request(head["method"], head["path"], [(n, v) for n, v in head["headers"]], payload[size:])
            run = self.run_command if self.is_command(head) else self.handler
            await self.answer(entry, response_of(await run(request, Context(self, entry, head))))
        except BaseException as error:
            if not entry.over:
                self.log(number, "error", "".join(traceback.format_exception(error)))
            self.send(ERROR, number, dump({"kind": type(error).__name__[:60]}))
        finally:
            entry.over = True
            entry.aborted.set()
            self.entries.pop(number, None)

    def is_command(self, head: Mapping[str, Any]) -> bool:
        by_contract = head["path"] == ASKED and (head["caller"] or {}).get("kind") == "contract"
        return head["path"] == COMMAND or (by_contract and self.command is not None)

    async def run_command(self, request: Request, ctx: Any) -> Response:
        if self.command is None:
            return Response("this agent has no command", 501)
        value = await self.command(request, ctx)
        return value if isinstance(value, Response) else Response.json(value)

    async def answer(self, entry: Entry, response: Response) -> None:
        head = dump({"status": response.status, "headers": response.headers.pairs})
        body = response.body.encode() if isinstance(response.body, str) else response.body
        if body is None or isinstance(body, bytes | bytearray | memoryview):
            data = b"" if body is None else bytes(body)
            if len(head) <= PIECE and len(data) <= PIECE:
                self.send(RESPONSE, entry.number, len(head).to_bytes(4, "little") + head + data)
                return
            body = [data]
        self.send(HEAD, entry.number, head)
        async for piece in pieces(body):
            await self.write(entry, piece.encode() if isinstance(piece, str) else bytes(piece))
        self.send(END, entry.number)

    async def write(self, entry: Entry, data: bytes) -> None:
        """Body bytes, as the worker's credit allows."""
        for at in range(0, len(data), PIECE):
            piece = data[at : at + PIECE]
            while entry.credit < len(piece):
                entry.granted.clear()
                await entry.granted.wait()
            entry.credit -= len(piece)
            self.send(CHUNK, entry.number, piece)


async def pieces(body: Any) -> AsyncIterator[Any]:
    """The pieces of a streamed body. A generator is closed when nobody reads on."""
    if hasattr(body, "__aiter__"):
        source = aiter(body)
        try:
            async for piece in source:
                yield piece
        finally:
            if inspect.isasyncgen(source):
                await source.aclose()
        return
    for piece in body:
        yield piece
        await asyncio.sleep(0)


def response_of(value: Any) -> Response:
    """What a handler returned, as a response: texts, bytes and JSON-ready objects are welcome."""
    if isinstance(value, Response):
        return value
    if isinstance(value, str | bytes):
        return Response(value)
    if isinstance(value, dict | list):
        return Response.json(value)
    raise TypeError("the agent answered with something that is no Response")


# -- what the agent gets as ctx


class Context:
    """``ctx``: see docs/use/agents.md. It ends with its request."""

    def __init__(self, link: Link, entry: Entry, head: Mapping[str, Any]) -> None:
        self._link, self._entry = link, entry
        self.agent: str = link.settings["agent"]
        self.caller: dict[str, Any] | None = head["caller"]
        self.request_id: str = head["id"]
        self.deadline: int = head["deadline"]
        self.secrets, self.settings = link.secrets, link.public
        self.state, self.log = State(self._call), Log(link, entry.number)
        self.keys, self.agents = Keys(self._call), Agents(self._call)

    @property
    def aborted(self) -> asyncio.Event:
        """Set when nobody waits for the answer any more; the handler's task is cancelled then."""
        return self._entry.aborted

    async def attest(self, nonce: bytes) -> dict[str, Any]:
        """Evidence of this worker's hardware over 32 bytes."""
        value: dict[str, Any] = await self._call("attest", nonce=base64.b64encode(nonce).decode())
        return value

    async def lists(self) -> dict[str, Any]:
        """{"tools", "models"} that manifest and lists on chain leave now, each sorted; None: nothing binds."""
        return dict(await self._call("lists"))

    def chain(self, chain_id: int) -> "Chain":
        """A chain that the manifest names among its tools as ``chain:ID``."""
        return Chain(self._call, chain_id)

    async def _call(self, name: str, **args: Any) -> Any:
        return await self._link.host(self._entry, name, args)


class State:
    """``ctx.state``: values are anything that JSON can say; the ``_bytes`` pair stores bytes."""

    def __init__(self, call: Callable[..., Awaitable[Any]]) -> None:
        self._call = call

    async def get(self, key: str) -> Any:
        data = await self.get_bytes(key)
        return None if data is None else json.loads(data)

    async def get_bytes(self, key: str) -> bytes | None:
        value = await self._call("state.get", key=_key(key))
        return None if value is None else base64.b64decode(value)

    async def put(self, key: str, value: Any) -> None:
        await self.put_bytes(key, json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode())

    async def put_bytes(self, key: str, value: bytes) -> None:
        await self._call("state.put", key=_key(key), value=base64.b64encode(value).decode())

    async def delete(self, key: str) -> None:
        await self._call("state.delete", key=_key(key))

    async def list(self, prefix: str = "", *, after: str | None = None, limit: int = 1000) -> list[str]:
        names: list[str] = await self._call("state.list", prefix=prefix, after=after, limit=limit)
        return names


class Keys:
    """``ctx.keys``: signatures of the agent's own key, as the manifest allows."""

    def __init__(self, call: Callable[..., Awaitable[Any]]) -> None:
        self._call = call

    async def address(self) -> str:
        return str(await self._call("keys.address"))

    async def account(self) -> dict[str, Any]:
        return dict(await self._call("keys.account"))

    async def sign_message(self, message: str | bytes) -> str:
        data = message.encode() if isinstance(message, str) else message
        return str(await self._call("keys.sign_message", message=base64.b64encode(data).decode()))

    async def sign_typed_data(self, typed: Mapping[str, Any]) -> str:
        return str(await self._call("keys.sign_typed_data", typed=typed))

    async def ed25519_key(self) -> str:
        return str(await self._call("keys.ed25519_key"))

    async def sign_ed25519(self, message: str | bytes) -> str:
        data = message.encode() if isinstance(message, str) else message
        return str(await self._call("keys.sign_ed25519", message=base64.b64encode(data).decode()))

    async def send(
        self,
        to: str,
        *,
        value: int = 0,
        data: str = "0x",
        key: str | None = None,
        within_s: int = 600,
        chain: int | None = None,
    ) -> str:
        said = {"to": to, "value": str(value), "data": data, "key": key, "within_s": within_s, "chain": chain}
        return str(await self._call("keys.send", **said))

    async def sent(self, nonce: str) -> dict[str, Any]:
        return dict(await self._call("keys.sent", nonce=nonce))


class Chain:
    """``ctx.chain(id)``: verified values of a chain, and writes to the agent's store there."""

    def __init__(self, call: Callable[..., Awaitable[Any]], chain: int) -> None:
        self._call, self._chain = call, chain

    async def at(self) -> dict[str, Any]:
        return dict(await self._call("chain.at", chain=self._chain))

    async def storage(self, address: str, slot: int) -> dict[str, Any]:
        return dict(await self._call("chain.word", chain=self._chain, address=address, slot=f"0x{slot:064x}"))

    async def call(self, to: str, data: str = "0x") -> dict[str, Any]:
        return dict(await self._call("chain.call", chain=self._chain, to=to, data=data))

    async def get(self, key: str) -> dict[str, Any]:
        return dict(await self._call("chain.get", chain=self._chain, key=key))

    async def put(self, key: str, value: str | bytes, *, version: int = 0) -> None:
        data = value.encode() if isinstance(value, str) else value
        packed = base64.b64encode(data).decode()
        await self._call("chain.put", chain=self._chain, key=key, value=packed, version=version)


class Agents:
    """``ctx.agents``: calls of other agents, as this agent."""

    def __init__(self, call: Callable[..., Awaitable[Any]]) -> None:
        self._call = call

    async def fetch(
        self,
        agent: str,
        path: str = "/",
        *,
        method: str = "GET",
        headers: Mapping[str, str] | None = None,
        body: str | bytes = b"",
        budget: int | None = None,
        deadline: int | None = None,
        idempotency_key: str | None = None,
    ) -> Response:
        data = body.encode() if isinstance(body, str) else body
        answer = await self._call(
            "agents.fetch",
            agent=agent,
            method=method,
            path=path,
            headers=[[name, value] for name, value in (headers or {}).items()],
            body=base64.b64encode(data).decode(),
            budget=budget,
            deadline=deadline,
            idempotency_key=idempotency_key,
        )
        return Response(base64.b64decode(answer["body"]), answer["status"], answer["headers"])


def _key(key: object) -> str:
    if not isinstance(key, str) or not key:
        raise TypeError("a state key is a non-empty string")
    return key


class Log:
    """``ctx.log(...)`` and its levels; ``print`` writes to the same log."""

    def __init__(self, link: Link, number: int) -> None:
        self._link, self._number = link, number

    def __call__(self, *values: object) -> None:
        self.info(*values)

    def debug(self, *values: object) -> None:
        self._say("debug", values)

    def info(self, *values: object) -> None:
        self._say("info", values)

    def warn(self, *values: object) -> None:
        self._say("warn", values)

    def error(self, *values: object) -> None:
        self._say("error", values)

    def _say(self, level: str, values: tuple[object, ...]) -> None:
        texts = [value if isinstance(value, str) else repr(value) for value in values]
        self._link.log(self._number, level, " ".join(texts))


class Printed(io.TextIOBase):
    """``sys.stdout`` and ``sys.stderr``: whole lines go to the log of the request that printed them."""

    def __init__(self, link: Link, level: str) -> None:
        self._link, self._level, self._rest = link, level, ""

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        *lines, self._rest = (self._rest + text).split("\n")
        self._rest = self._rest[-LINE:]
        for line in lines:
            self._link.log(_running.get(), self._level, line)
        return len(text)


# -- the process


Handler = Callable[[Request, Any], Awaitable[Any]]


def load() -> tuple[Handler, Handler | None]:
    """Import the agent; its ``fetch``, and its ``command`` if it has one."""
    module = importlib.import_module("agent")
    handler = getattr(module, "fetch", None)
    if not inspect.iscoroutinefunction(handler):
        raise TypeError("agent.py has no `async def fetch(request, ctx)`")
    command = getattr(module, "command", None)
    return handler, command if inspect.iscoroutinefunction(command) else None


def prepare(port: str) -> None:
    """Where modules and their compiled code lie, and the only way out. The parent gives no environment."""
    sys.path.insert(0, "/agent/source")
    sys.path.append("/agent/packages")
    sys.pycache_prefix = "/cache"
    proxy = f"http://127.0.0.1:{port}"
    names = ("HTTPS_PROXY", "HTTP_PROXY", "https_proxy", "http_proxy")
    os.environ.update(dict.fromkeys(names, proxy))
    os.environ.update({"SSL_CERT_FILE": "/ca.pem", "REQUESTS_CA_BUNDLE": "/ca.pem", "HOME": "/"})


async def bridge() -> None:
    """Without root the network namespace is empty: proxy connections travel over a second unix socket."""

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(PIECE):
                writer.write(data)
                await writer.drain()
        with contextlib.suppress(OSError):
            writer.write_eof()

    async def connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            outer_reader, outer_writer = await asyncio.open_unix_connection(BRIDGE)
        except OSError:
            writer.close()
            return
        await asyncio.gather(pump(reader, outer_writer), pump(outer_reader, writer))
        writer.close()
        outer_writer.close()

    server = await asyncio.start_server(connect, "127.0.0.1", int(sys.argv[1]))
    await server.serve_forever()


async def main() -> None:
    """Serve until the socket closes."""
    loop = asyncio.get_running_loop()
    _, link = await loop.create_unix_connection(Link, SOCKET)

    told = 0

    def late(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        nonlocal told
        told += 1
        if told <= LATE:  # a flood of tasks must not cost their tracebacks too
            error = context.get("exception")
            text = "".join(traceback.format_exception(error)) if error else str(context.get("message"))
            link.log(0, "error", "nobody awaits: " + text)

    loop.set_exception_handler(late)
    sys.stdout, sys.stderr = Printed(link, "info"), Printed(link, "error")
    await loop.create_future()


if __name__ == "__main__":
    prepare(sys.argv[1])
    if sys.argv[2:] == ["warm"]:
        sys.dont_write_bytecode = False
        try:
            load()
        finally:
            os._exit(0)
    asyncio.run(main())
