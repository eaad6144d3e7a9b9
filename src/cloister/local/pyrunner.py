"""Runs one agent_test.py beside the agent, in the developer's Python: one JSON line per message on stdin and stdout.

The agent itself runs in its sandbox; this file only asks it, and plays the hosts that it would reach. It needs the
standard library only. Usage: python pyrunner.py FILE FOLDER-OF-cloister_agent
"""

from __future__ import annotations

import asyncio
import importlib.util
import inspect
import json
import ssl
import sys
import tempfile
import threading
import time
import traceback
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

MAX_BODY = 64 << 20


class Answer:
    """What the agent answered."""

    def __init__(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        self.status, self.body = status, body
        self.headers = {name.lower(): value for name, value in headers.items()}

    def text(self) -> str:
        """The body as UTF-8."""
        return self.body.decode()

    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


class Agent:
    """The agent under test."""

    def __init__(self, url: str) -> None:
        self.url = url

    async def fetch(
        self,
        path: str = "/",
        *,
        method: str | None = None,
        headers: Mapping[str, str] | None = None,
        body: bytes | str | None = None,
        json: Any = None,
        caller: str | None = None,
    ) -> Answer:
        """One request. ``caller``: the 0x-hex address that calls, "schedule", or None for nobody."""
        sent = dict(headers or {})
        data = body.encode() if isinstance(body, str) else body
        if json is not None:
            data, sent["content-type"] = _encoded(json), "application/json"
        if caller is not None:
            sent["x-cloister-caller"] = caller
        verb = method or ("GET" if data is None else "POST")
        asked = urllib.request.Request(self.url + path, data, sent, method=verb)  # noqa: S310 - the local server's
        return await asyncio.to_thread(_asked, asked)

    async def scheduled(self, path: str) -> Answer:
        """What the schedule asks: POST without a body."""
        return await self.fetch(path, method="POST", caller="schedule")

    async def command(self, value: Any, *, caller: str = "0x" + "0" * 40) -> Answer:
        """A command of the agent's owner."""
        return await self.fetch("/.well-known/cloister/owner/command", json=value, caller=caller)


def _encoded(value: Any) -> bytes:
    return json.dumps(value).encode()


class _Stay(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *args: Any, **options: Any) -> None:
        """Redirects are answers."""


def _asked(request: urllib.request.Request) -> Answer:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _Stay)
    try:
        with opener.open(request, timeout=60) as found:
            return Answer(found.status, dict(found.headers.items()), found.read())
    except urllib.error.HTTPError as error:
        with error:
            return Answer(error.code, dict(error.headers.items()), error.read())


def say(message: Mapping[str, Any]) -> None:
    """One line to the tests' driver."""
    sys.__stdout__.write(json.dumps(message) + "\n")  # type: ignore[union-attr]
    sys.__stdout__.flush()  # type: ignore[union-attr]


def hear() -> dict[str, Any]:
    """One line of it; its end ends this process."""
    line = sys.stdin.readline()
    if not line:
        sys.exit(3)
    value: dict[str, Any] = json.loads(line)
    return value


def serve(hosts: Mapping[str, Callable[[Any], Any]], cert: str | None, key: str | None) -> int:
    """Play these hosts on 127.0.0.1 with TLS, or other agents by id without; the port. Each gets a
    ``cloister_agent.Request``."""
    from cloister_agent import Request, Response  # type: ignore[import-not-found]

    class Door(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            """One request of the agent."""
            size = min(int(self.headers.get("content-length") or 0), MAX_BODY)
            request = Request(self.command, self.path, list(self.headers.items()), self.rfile.read(size))
            called = self.headers.get("x-cloister-agent") if cert is None else self.headers.get("host")
            host = hosts.get((called or "").partition(":")[0])
            made = Response("no such host in the test", 502) if host is None else host(request)
            if inspect.isawaitable(made):
                made = asyncio.run(_awaited(made))
            if not isinstance(made, Response):
                made = Response.json(made)
            body = made.body.encode() if isinstance(made.body, str) else bytes(made.body or b"")
            self.send_response(made.status)
            for name, value in made.headers.pairs:
                self.send_header(name, value)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = do_HEAD = answer  # noqa: N815

        def log_message(self, format: str, *args: Any) -> None:
            """Tests say what matters."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Door)
    if cert is not None and key is not None:
        _with_tls(server, cert, key)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return int(server.server_address[1])


def _with_tls(server: ThreadingHTTPServer, cert: str, key: str) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.TemporaryDirectory() as folder:
        for name, text in (("cert", cert), ("key", key)):
            Path(folder, name).write_text(text)
        context.load_cert_chain(Path(folder, "cert"), Path(folder, "key"))
    server.socket = context.wrap_socket(server.socket, server_side=True)


async def _awaited(value: Any) -> Any:
    return await value


def load(file: Path) -> Any:
    """The test module."""
    spec = importlib.util.spec_from_file_location(file.stem, file)
    if spec is None or spec.loader is None:
        raise ImportError(str(file))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(test: Callable[[Agent], Any], agent: Agent) -> str | None:
    """What the test threw, or None."""
    try:
        made = test(agent)
        if inspect.isawaitable(made):
            asyncio.run(_awaited(made))
    except Exception as error:
        return "".join(traceback.format_exception(error))[-4000:]
    return None


def main() -> None:
    """The protocol of local/testing.py."""
    file = Path(sys.argv[1])
    sys.stdout = sys.stderr  # what tests print goes there: stdout is the protocol's
    sys.path.insert(0, str(file.parent))
    sys.path.append(sys.argv[2])
    suite = load(file)
    tests = {name: value for name, value in vars(suite).items() if name.startswith("test_") and callable(value)}
    hosts = getattr(suite, "HOSTS", {})
    others = {name.lower(): answer for name, answer in getattr(suite, "AGENTS", {}).items()}
    wanted = {"hosts": list(hosts), "agents": list(others), "secrets": getattr(suite, "SECRETS", {})}
    say({"tests": list(tests), **wanted})
    tls = hear()
    port = serve(hosts, tls["cert"], tls["key"]) if tls.get("cert") else None
    say({"port": port, "agents": serve(others, None, None) if others else None})
    agent = Agent(hear()["url"])
    for name, test in tests.items():
        say({"begin": name})
        hear()
        began = time.perf_counter()
        error = run(test, agent)
        say(
            {
                "end": name.removeprefix("test_").replace("_", " "),
                "error": error,
                "ms": round((time.perf_counter() - began) * 1000),
            }
        )
    say({"done": True})


if __name__ == "__main__":
    main()
