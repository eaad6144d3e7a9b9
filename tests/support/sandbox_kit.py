"""Real agents in real sandboxes, for tests: a host that keeps state in memory, and short ways to ask and to look."""

from __future__ import annotations

import base64
import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cloister.core.errors import SandboxError, define
from cloister.sandbox.ports import AgentProcess, AgentRequest, AgentSpec

AGENT_ID = b"\x07" * 32
HOST_REFUSED = define("test.host_refused", SandboxError, check="the test's host serves the call", remedy="none")


# Calls that this host answers with their arguments.
ECHOED = frozenset(
    f"keys.{name}" for name in ("sign_message", "sign_typed_data", "account", "ed25519_key", "sign_ed25519", "send")
)
SHOWN = frozenset(f"chain.{name}" for name in ("at", "word", "call", "get", "put")) | {"keys.sent"}


@dataclass
class MemoryHost:
    """Host calls over a dict. ``lines``: (request id, level, text) of every log line."""

    store: dict[str, str] = field(default_factory=dict)
    lines: list[tuple[str | None, str, str]] = field(default_factory=list)
    calls: list[tuple[str, str]] = field(default_factory=list)

    async def call(self, request_id: str, name: str, args: Mapping[str, Any]) -> Any:
        self.calls.append((request_id, name))
        if name == "state.get":
            return self.store.get(args["key"])
        if name == "state.put":
            self.store[args["key"]] = args["value"]
            return None
        if name == "state.delete":
            self.store.pop(args["key"], None)
            return None
        if name == "state.list":
            after = args["after"] or ""
            return sorted(k for k in self.store if k.startswith(args["prefix"]) and k > after)[: args["limit"]]
        if name == "attest":
            return {"nonce": args["nonce"]}
        if name == "lists":
            return {"tools": ["search"], "models": None}
        if args.get("message") == base64.b64encode(b"refuse").decode():
            raise HOST_REFUSED(expected="a message that may be signed", found=name)
        if name in SHOWN:
            return {"asked": name, **args}
        if name in ECHOED:
            return {"name": name, **args} if name == "keys.account" else json.dumps(args, separators=(",", ":"))
        if name == "agents.fetch":
            seen = base64.b64encode(json.dumps(args, separators=(",", ":"), sort_keys=True).encode()).decode()
            return {"status": 201, "headers": [["x-kind", "echo"]], "body": seen}
        if name == "keys.address":
            raise ValueError("a mistake of the worker")
        raise HOST_REFUSED(expected="a known call", found=name)

    def log(self, request_id: str | None, level: str, text: str) -> None:
        self.lines.append((request_id, level, text))

    def logged(self, part: str) -> bool:
        return any(part in text for _, _, text in self.lines)


def spec_of(code: str | bytes, **settings: Any) -> AgentSpec:
    bundle = code.encode() if isinstance(code, str) else code
    return AgentSpec(agent=AGENT_ID, code_hash=hashlib.sha256(bundle).digest(), bundle=bundle, **settings)


def request_of(
    path: str = "/",
    *,
    method: str = "GET",
    body: bytes = b"",
    seconds: float = 20.0,
    caller: Mapping[str, Any] | None = None,
    headers: tuple[tuple[str, str], ...] = (),
    request_id: str = "0x0a",
) -> AgentRequest:
    return AgentRequest(request_id, method, path, headers, body, caller, int((time.time() + seconds) * 1000))


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()


async def ask(process: AgentProcess, path: str = "/", **options: Any) -> Answer:
    """One request to its end. Raises what the sandbox raises."""
    head, body = await process.fetch(request_of(path, **options))
    return Answer(head.status, dict(head.headers), b"".join([piece async for piece in body]))


def children(of: int | str = "self") -> set[int]:
    """Process ids of a process's children (by default ours), whichever thread started them. None, if it has ended."""
    found: set[int] = set()
    for task in list(Path(f"/proc/{of}/task").glob("*")):
        try:
            found |= {int(pid) for pid in (task / "children").read_text().split()}
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ended while we looked
    return found


def descendants(pids: set[int]) -> set[int]:
    """These processes and all that they started."""
    found, todo = set(pids), list(pids)
    while todo:
        new = children(todo.pop()) - found
        found |= new
        todo += new
    return found


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def mounts() -> str:
    return Path("/proc/self/mounts").read_text()


def network_namespaces() -> set[str]:
    """Network namespaces of this process's threads."""
    found = set()
    for task in Path("/proc/self/task").iterdir():
        try:
            found.add(str((task / "ns" / "net").readlink()))
        except FileNotFoundError:
            continue
    return found
