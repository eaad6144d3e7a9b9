"""The list of attacks on the sandbox: one place for the tests, for ``make attack`` and for docs/audit/sandbox.md.

``support/attacks.js`` holds the code. Each attack runs behind both walls, behind the OS wall alone (Deno with
``--allow-all`` inside bubblewrap), and behind Deno's permissions alone (no bubblewrap, no limits, no user of its own),
as far as a wall has a part in it: where it has none, ``no_part`` says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final


class Walls(Enum):
    """What stands between the code and the machine."""

    BOTH = "both walls"
    OS = "the OS alone"
    DENO = "Deno alone"


@dataclass(frozen=True)
class Stop:
    """How an attack ends: ``outcome`` is the refusal's code, or the answer in quotes (alternatives by |); ``wall`` what
    stopped it."""

    outcome: str
    wall: str


@dataclass(frozen=True)
class Attack:
    """``row``: of the table in docs/audit/sandbox.md. ``deno`` None: Deno's permissions have no part in it. ``os``
    None: one process in bubblewrap shows both cases, since no permission matters. ``logged``: what the owner reads.
    ``python``: by a Python agent (support/python_attacks.py)."""

    name: str
    row: str
    says: str
    both: Stop
    os: Stop | None = None
    deno: Stop | None = None
    seconds: float = 10.0
    limits: Mapping[str, Any] = field(default_factory=dict)
    logged: str = ""
    python: bool = False

    def stop(self, walls: Walls) -> Stop | None:
        """How it ends behind these walls; None where they have no part."""
        return {Walls.BOTH: self.both, Walls.OS: self.os, Walls.DENO: self.deno}[walls]


DEADLINE, CPU, MEMORY, CRASHED = "sandbox.deadline", "sandbox.cpu", "sandbox.memory", "sandbox.crashed"
PROTOCOL, THREW, BAD, LARGE = (
    "sandbox.protocol",
    "sandbox.agent_threw",
    "sandbox.bad_response",
    "sandbox.response_too_large",
)
CLOCK: Final = "worker's clock, SIGKILL"
METER: Final = "worker's CPU meter, SIGKILL"
MOUNTS: Final = "empty mount namespace"
READ_ONLY: Final = "read-only mounts"
NETWORK: Final = "empty network namespace"
PROXY: Final = "egress proxy"
DATA: Final = "RLIMIT_DATA"
FRAMES: Final = "worker's frame rules, SIGKILL"


def _answer(text: str) -> str:
    return f"'{text}'"


def _refused(*names: str) -> str:
    return "|".join(f"'refused {name}'" for name in names)


DENO: Final = Stop(_refused("NotCapable"), "Deno's permissions")
HERE: Final = _answer("still here")
_MISSING: Final = _refused("NotFound")
_SHUT: Final = _refused("NotFound", "Error", "PermissionDenied", "NotADirectory", "ReadOnlyFilesystem")
_UNREACHABLE: Final = _refused("Error", "ConnectionRefused", "NetworkUnreachable", "AddrNotAvailable", "TypeError")


def _same(name: str, row: str, says: str, stop: Stop, **more: Any) -> Attack:
    """An attack that ends alike behind every wall, Deno's alone too."""
    return Attack(name, row, says, stop, os=stop, deno=stop, **more)


def _os(name: str, row: str, says: str, both: Stop, os: Stop, **more: Any) -> Attack:
    """An attack that Deno's permissions do not stop: bubblewrap is needed."""
    return Attack(name, row, says, both, os=os, **more)


def _capable(name: str, row: str, says: str, os: Stop, **more: Any) -> Attack:
    """An attack that Deno's permissions refuse, and that the OS stops without them."""
    return Attack(name, row, says, DENO, os=os, deno=DENO, **more)


def _frames(name: str, says: str, outcome: str = PROTOCOL, wall: str = FRAMES, **more: Any) -> Attack:
    return Attack(name, "forged harness frames", says, Stop(outcome, wall), **more)


def _proxied(name: str, row: str, says: str, outcome: str = _refused("TypeError"), **more: Any) -> Attack:
    return Attack(name, row, says, Stop(outcome, PROXY), os=Stop(outcome, PROXY), **more)


_BUSY: Final = Stop(DEADLINE, CLOCK)
_CPU: Final = {"cpu_ms": 400}
_TIGHT: Final = Stop(f"{_refused('RangeError')}|{MEMORY}", DATA)
_DIES: Final = Stop(f"{MEMORY}|{CRASHED}", DATA)
_LARGE: Final = Stop(LARGE, "worker's cap on answers")
_GONE: Final = Stop(CRASHED, "worker starts a new one")
_INIT: Final = "process 1 ignores its own signals"
_LIVES: Final = Stop(HERE, "harness's handlers")

_TIME = [
    _same("loop", "endless loop", "a loop that never yields", _BUSY, seconds=0.3),
    _same("asyncLoop", "async loop", "a loop of awaits that starves every timer", _BUSY, seconds=0.3),
    _same("redos", "ReDoS", "a regular expression that backtracks for years", _BUSY, seconds=0.3),
    _same(
        "slices", "async loop", "endless work in slices, so that the event loop turns", Stop(CPU, METER), limits=_CPU
    ),
    _same(
        "background",
        "async loop",
        "answers at once, then works for nobody",
        Stop(_answer("answered"), METER),
        limits=_CPU,
    ),
    _same("loopAfter", "endless loop", "answers at once, then loops", Stop(_answer("answered"), METER), limits=_CPU),
]
_MEMORY = [
    _same("heap", "heap bomb", "fills the JavaScript heap", Stop(MEMORY, "V8's heap limit")),
    _os("arrayBuffer", "ArrayBuffer bomb", "memory outside of the heap", _TIGHT, _TIGHT),
    _os("wasm", "wasm bomb", "WebAssembly memories without end", _TIGHT, _TIGHT),
    _os("workers", "worker bomb", "two hundred spinning workers", _DIES, _DIES),
    _same("stack", "heap bomb", "recursion without end", Stop(_refused("RangeError"), "V8's stack limit")),
]
_PROCESS = [
    _capable(
        "fork", "fork/exec", "starts a shell", Stop(_refused("PermissionDenied", "NotFound"), "seccomp, " + MOUNTS)
    ),
    _capable("forkSelf", "fork/exec", "starts Deno again", Stop(_refused("PermissionDenied", "Error"), "seccomp")),
    Attack(
        "nodeFork",
        "fork/exec",
        "starts a shell through node:child_process",
        Stop(_refused("Error", "NotCapable"), "Deno's permissions"),
        os=Stop(_refused("Error"), "seccomp, " + MOUNTS),
        deno=Stop(_refused("Error", "NotCapable"), "Deno's permissions"),
    ),
    _capable("processes", "fork/exec", "lists processes", Stop(_answer("1"), "pid namespace")),
    _capable("killOthers", "fork/exec", "kills whatever it can name", Stop(HERE, "pid namespace")),
]
_FILES = [
    _capable("passwd", "files", "reads /etc/passwd", Stop(_MISSING, MOUNTS)),
    _capable("workerFile", "files", "reads a key file of the worker", Stop(_MISSING, MOUNTS)),
    _capable(
        "listRoot",
        "files",
        "lists the root folder",
        Stop(_answer("agent,ca.pem,cache,deno,dev,h,lib,lib64,proc,run"), MOUNTS),
    ),
    _capable("writeTmp", "files", "writes to /tmp", Stop(_SHUT, MOUNTS)),
    _capable("writeShm", "files", "writes to shared memory", Stop(_SHUT, READ_ONLY)),
    _capable("writeSelf", "files", "overwrites its own bundle", Stop(_SHUT, READ_ONLY)),
    _capable("writeCache", "files", "plants compiled code", Stop(_SHUT, READ_ONLY)),
    _capable("writeHarness", "files", "overwrites the harness", Stop(_SHUT, READ_ONLY)),
    _capable("writeKernel", "files", "sets the kernel's core pattern", Stop(_SHUT, READ_ONLY)),
    _capable(
        "rawMemory", "files", "opens the memory of process 1", Stop(f"{_SHUT}|'opened'", "it is process 1 itself")
    ),
    _capable("environ", "environment", "reads its own environ", Stop("environment", "empty environment")),
    _capable("environ1", "environment", "reads /proc/1/environ", Stop("environment", "--as-pid-1, empty environment")),
    _capable("environParent", "environment", "reads the worker's environ", Stop(_MISSING, "pid namespace")),
    _same("environAll", "environment", "lists all variables", Stop("names", "empty environment")),
]
_NETWORK = [
    Attack(
        "forbiddenHost",
        "forbidden host by name",
        "a host that is not in the manifest",
        DENO,
        os=Stop(_refused("TypeError"), PROXY),
        deno=DENO,
    ),
    _capable("plainHttp", "forbidden host by name", "http without TLS", Stop(_answer("405"), PROXY)),
    _capable("address", "forbidden host by IP", "TCP to a public address", Stop(_UNREACHABLE, NETWORK)),
    _capable("addressByFetch", "forbidden host by IP", "https to a public address", Stop(_refused("TypeError"), PROXY)),
    Attack(
        "redirect",
        "forbidden host by redirect",
        "an allowed host redirects to another one",
        DENO,
        os=Stop(_refused("TypeError"), PROXY),
        deno=DENO,
    ),
    _proxied(
        "rebinding",
        "DNS rebinding",
        "an allowed name that means this machine",
        logged="not public",
    ),
    _proxied(
        "rebindingLater",
        "DNS rebinding",
        "an allowed name: first public, then this machine",
        logged="egress refused: flips.example",
    ),
    _capable("ipv6", "IPv6", "TCP to the IPv6 loopback", Stop(_UNREACHABLE, NETWORK)),
    _capable("ipv6Address", "IPv6", "loopback wrapped into IPv6", Stop(_refused("TypeError"), PROXY)),
    _proxied("ipv6Name", "IPv6", "an allowed name that means ::1", logged="not public"),
    _proxied(
        "privateNames", "private ranges", "names in eight private ranges", _answer("0 reached"), logged="not public"
    ),
    _capable("metadata", "metadata addresses", "TCP to 169.254.169.254", Stop(_UNREACHABLE, NETWORK)),
    _proxied("metadataName", "metadata addresses", "an allowed name that means it", logged="not public"),
    _capable("workerPort", "loopback of others", "TCP to a port of the worker", Stop(_UNREACHABLE, NETWORK)),
    _capable("knock", "loopback of others", "TCP to a port of the neighbour agent", Stop(_UNREACHABLE, NETWORK)),
    Attack(
        "dns",
        "forbidden host by name",
        "asks a resolver directly",
        Stop("refused", "no resolver in the mounts"),
        os=Stop("refused", NETWORK),
        deno=DENO,
    ),
    _same("udp", "forbidden host by IP", "UDP to a port of the worker", Stop(HERE, "Deno's permissions, " + NETWORK)),
    _os(
        "secondSocket",
        "forged harness frames",
        "opens the worker's socket again",
        Stop(_refused("ConnectionRefused", "NotFound"), "socket closed"),
        Stop(_refused("ConnectionRefused", "NotFound"), "socket closed"),
    ),
    _capable("proxyFlood", "slowloris upstream", "200 half requests to the proxy", Stop(HERE, PROXY)),
    _same("slowUpstream", "slowloris upstream", "waits for a server that drips", Stop(DEADLINE, CLOCK), seconds=0.5),
    _proxied(
        "upload",
        "slowloris upstream",
        "sends more than its requests bring",
        limits={"egress_bytes": 3 << 20},
        logged="used up",
    ),
    _proxied(
        "download",
        "slowloris upstream",
        "takes more than its requests bring",
        limits={"egress_bytes": 3 << 20},
        logged="used up",
    ),
]
_FOREIGN = [
    _capable("ffi", "FFI", "loads the C library", Stop(_answer("loaded"), "seccomp: see the two below")),
    _capable("syscalls", "FFI", "every denied system call", Stop(_answer("[1]"), "seccomp")),
    _capable("sharedMemory", "FFI", "memory that RLIMIT_DATA does not count", Stop(_answer("-1"), "seccomp")),
]
_OUTPUT = [
    Attack("stdout", "stdout flood", "26 MB to stdout", Stop(HERE, "stdout is /dev/null")),
    Attack("stderr", "stdout flood", "26 MB to stderr", Stop(HERE, "drained, log budget")),
    Attack("logFlood", "stdout flood", "150 MB of log lines", Stop(HERE, "log budget"), logged="over its budget"),
    Attack("hostCallFlood", "stdout flood", "20,000 host calls at once", Stop(HERE, "64 host calls at once")),
    _same("hugeReply", "huge reply", "a body of 40 MiB", _LARGE),
    _same("endlessReply", "huge reply", "a body without end", _LARGE),
    Attack("hugeHeader", "huge reply", "40 KB in a header", Stop(BAD, "worker's cap on headers")),
    Attack("notAResponse", "huge reply", "answers with no Response", Stop(THREW, "harness")),
]
_END = [
    _same("exit", "exit", "Deno.exit", _GONE),
    Attack("processExit", "exit", "process.exit", _GONE),
    Attack(
        "killSelf",
        "exit",
        "kills itself",
        Stop(HERE, _INIT),
        os=Stop(HERE, _INIT),
        deno=_GONE,
    ),
    Attack(
        "stopSelf",
        "exit",
        "stops itself",
        Stop(HERE, _INIT),
        os=Stop(HERE, _INIT),
        deno=Stop(DEADLINE, CLOCK),
        seconds=0.5,
    ),
    Attack("rejection", "unhandled rejection", "a promise that nobody awaits", _LIVES, logged="late rejection"),
    Attack("lateThrow", "unhandled rejection", "throws from a timer", _LIVES, logged="late throw"),
    Attack("throwSecret", "unhandled rejection", "an error with a secret in it", Stop(THREW, "errors carry no text")),
    Attack(
        "pollute", "prototype pollution", "poisons prototypes and globals", Stop("anything", "one process per agent")
    ),
]
_FORGED = [
    _frames("frameLength", "a length of four gigabytes"),
    _frames("frameType", "an unknown type"),
    _frames("frameToAgent", "a frame that only the worker sends"),
    _frames("frameOther", "an answer to a request that is not open"),
    _frames("frameTwoHeads", "two heads"),
    _frames("frameNoHead", "a body without a head"),
    _frames("frameWindow", "a piece of more than 64 KiB"),
    _frames("frameCrumbs", "a body in 70,000 single bytes"),
    _frames("frameEmpty", "pieces of nothing"),
    _frames("frameReady", "ready again"),
    _frames("frameFailed", "failed after ready"),
    _frames("framePong", "an answer to no question"),
    _frames("frameNoJson", "60,000 brackets"),
    _frames("frameBadHead", "a head with a line break", BAD, "worker's check of heads"),
    _frames("frameLog", "a log line of no level"),
    _frames("frameManyParts", "a million lists in one host call"),
    _frames("frameManyCalls", "200 host calls at once"),
    _frames("frameHalf", "half a frame, then silence", DEADLINE, CLOCK, seconds=0.4),
    _frames("frameUnread", "asks for 160 MB and reads nothing"),
]

ATTACKS: Final[tuple[Attack, ...]] = (
    *(*_TIME, *_MEMORY, *_PROCESS, *_FILES, *_NETWORK, *_FOREIGN, *_OUTPUT, *_END, *_FORGED),
)
ROWS: Final = tuple(dict.fromkeys(attack.row for attack in ATTACKS))
# Seconds of a busy core each, and no permission matters: with one wall alone only in `make long`.
_SLOW: Final = {attack.name for attack in _TIME} | {
    "heap",
    "arrayBuffer",
    "wasm",
    "hugeReply",
    "endlessReply",
    "slowUpstream",
}
CASES: Final = tuple((attack, walls) for attack in ATTACKS for walls in Walls if attack.stop(walls) is not None)
LONG: Final = frozenset((a.name, walls) for a, walls in CASES if walls is not Walls.BOTH and a.name in _SLOW)
