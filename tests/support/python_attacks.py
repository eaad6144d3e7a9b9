"""The list of attacks by Python agents: one place for the tests, ``make attack`` and docs/audit/sandbox.md.

``support/attacks_agent.py`` holds the code. Python has no permissions of its own, so there is one wall: the OS.
"""

from __future__ import annotations

from typing import Any, Final

from support.attacks import (
    BAD,
    CLOCK,
    CPU,
    CRASHED,
    DATA,
    DEADLINE,
    FRAMES,
    HERE,
    LARGE,
    MEMORY,
    METER,
    MOUNTS,
    NETWORK,
    PROTOCOL,
    PROXY,
    READ_ONLY,
    THREW,
    Attack,
    Stop,
)

_CPU: Final = {"cpu_ms": 400}
_DEAD: Final = f"{MEMORY}|{CRASHED}"


def _refused(*names: str) -> str:
    return "|".join(f"'refused {name}'" for name in names)


def _attack(row: str, name: str, says: str, outcome: str, wall: str, **more: Any) -> Attack:
    return Attack(name, row, says, Stop(outcome, wall), python=True, **more)


_SHUT: Final = _refused("OSError", "PermissionError", "FileNotFoundError")
_MISSING: Final = _refused("FileNotFoundError")
_NO_PROCESS: Final = _refused("PermissionError", "BlockingIOError")
_NO_ROUTE: Final = _refused("OSError", "ConnectionRefusedError", "TimeoutError")
_TUNNEL: Final = _refused("URLError")

PYTHON_ATTACKS: Final[tuple[Attack, ...]] = (
    _attack("time", "loop", "a loop that never yields", DEADLINE, CLOCK, seconds=0.3),
    _attack("time", "loopAfter", "answers at once, then loops", "'answered'", METER, limits=_CPU),
    _attack("time", "slices", "endless work in slices", CPU, METER, limits=_CPU),
    _attack("time", "background", "answers at once, then works in a thread", "'answered'", METER, limits=_CPU),
    _attack("time", "redos", "a regular expression that backtracks for years", DEADLINE, CLOCK, seconds=0.3),
    _attack("time", "threads", "two hundred spinning threads", _refused("RuntimeError", "MemoryError"), DATA),
    _attack("memory", "heap", "byte arrays without end", f"{_refused('MemoryError')}|{_DEAD}", DATA),
    _attack("memory", "objects", "small objects without end", f"{_refused('MemoryError')}|{_DEAD}", DATA),
    _attack("memory", "mapped", "maps and touches memory without end", f"{_refused('OSError')}|{_DEAD}", DATA),
    _attack("memory", "stack", "recursion without end", _refused("RecursionError"), "CPython's stack limit"),
    _attack(
        "memory", "number", "a number of a billion digits", f"{_refused('MemoryError')}|{DEADLINE}", DATA, seconds=1
    ),
    _attack("fork/exec", "fork", "forks", _NO_PROCESS, "seccomp"),
    _attack("fork/exec", "shell", "starts a shell", f"{_NO_PROCESS}|{_MISSING}", f"seccomp, {MOUNTS}"),
    _attack("fork/exec", "spawn", "starts Python again", _NO_PROCESS, "seccomp"),
    _attack("fork/exec", "execute", "becomes a shell", _MISSING, MOUNTS),
    _attack("fork/exec", "processes", "lists processes", "'1'", "pid namespace"),
    _attack("fork/exec", "killOthers", "kills whatever it can name", HERE, "pid namespace"),
    _attack("files", "workerCode", "imports the worker's packages", "''", MOUNTS),
    _attack("files", "passwd", "reads /etc/passwd", _MISSING, MOUNTS),
    _attack("files", "workerFile", "reads a key file of the worker", _MISSING, MOUNTS),
    _attack(
        "files", "listRoot", "lists the root folder", "'agent,ca.pem,cache,dev,h,lib,lib64,proc,python,run'", MOUNTS
    ),
    _attack("files", "writeTmp", "writes to /tmp", _SHUT, MOUNTS),
    _attack("files", "writeShm", "writes to shared memory", _SHUT, READ_ONLY),
    _attack("files", "writeSelf", "overwrites its own bundle", _SHUT, READ_ONLY),
    _attack("files", "writeCache", "plants compiled code", _SHUT, READ_ONLY),
    _attack("files", "writeHarness", "overwrites the harness", _SHUT, READ_ONLY),
    _attack("files", "writeLibrary", "overwrites the standard library", _SHUT, READ_ONLY),
    _attack("files", "writePackages", "plants a package", _SHUT, READ_ONLY),
    _attack("files", "writeKernel", "sets the kernel's core pattern", _SHUT, READ_ONLY),
    _attack("files", "remount", "makes the root writable", "'refused Operation not permitted'", "seccomp"),
    _attack("environment", "environ", "reads its own environ", "environment", "empty environment"),
    _attack("environment", "environ1", "reads /proc/1/environ", "environment", "--as-pid-1, empty environment"),
    _attack("environment", "environParent", "reads the worker's environ", _MISSING, "pid namespace"),
    _attack("environment", "environAll", "lists all variables", "names", "empty environment"),
    _attack("network", "forbiddenHost", "a host that is not in the manifest", _TUNNEL, PROXY, logged="egress refused"),
    _attack("network", "plainHttp", "http without TLS", "'405'", PROXY),
    _attack("network", "address", "TCP to a public address", _NO_ROUTE, NETWORK),
    _attack("network", "addressByProxy", "https to a public address", _TUNNEL, PROXY),
    _attack("network", "redirect", "an allowed host redirects to another one", _TUNNEL, PROXY),
    _attack("network", "rebinding", "an allowed name that means this machine", _TUNNEL, PROXY, logged="not public"),
    _attack("network", "rebindingLater", "first public, then this machine", _TUNNEL, PROXY, logged="flips.example"),
    _attack("network", "ipv6", "TCP to the IPv6 loopback", _NO_ROUTE, NETWORK),
    _attack("network", "privateNames", "names in eight private ranges", "'0 reached'", PROXY, logged="not public"),
    _attack("network", "metadata", "TCP to 169.254.169.254", _NO_ROUTE, NETWORK),
    _attack("network", "metadataName", "an allowed name that means it", _TUNNEL, PROXY, logged="not public"),
    _attack("network", "workerPort", "TCP to a port of the worker", _NO_ROUTE, NETWORK),
    _attack("network", "knock", "TCP to a port of the neighbour agent", _NO_ROUTE, NETWORK),
    _attack("network", "dns", "asks a resolver directly", _refused("gaierror"), "no resolver in the mounts"),
    _attack("network", "udp", "UDP to a port of the worker", HERE, NETWORK),
    _attack("network", "vsock", "a socket to the host of a TEE", _refused("PermissionError"), "seccomp"),
    _attack("network", "netlink", "a socket to the kernel's network", _refused("PermissionError"), "seccomp"),
    _attack("network", "proxyFlood", "200 half requests to the proxy", f"{HERE}|{_NO_ROUTE}", PROXY),
    _attack(
        "network",
        "upload",
        "sends more than its requests bring",
        f"{_TUNNEL}|{_refused('ConnectionResetError')}"
        f"|{_refused('BrokenPipeError', 'RemoteDisconnected', 'SSLEOFError')}",
        PROXY,
        limits={"egress_bytes": 3 << 20},
        logged="used up",
    ),
    _attack("foreign functions", "syscalls", "every denied system call", "'[1]'", "seccomp"),
    _attack("foreign functions", "sharedMemory", "memory that RLIMIT_DATA does not count", "'-1'", "seccomp"),
    _attack("foreign functions", "nullPointer", "reads address zero", CRASHED, "worker starts a new one"),
    _attack("output", "stdout", "26 MB to stdout", HERE, "stdout is /dev/null"),
    _attack("output", "stderr", "26 MB to stderr", HERE, "drained, log budget"),
    # what a worker that reads quickly sees of it is a flood, and the process ends; else the harness drops most of it
    _attack(
        "output",
        "printFlood",
        "150 MB of printed lines",
        f"{HERE}|sandbox.protocol",
        "log budget",
        logged="over its budget",
    ),
    _attack("output", "hostCallFlood", "20,000 host calls at once", HERE, "64 host calls at once"),
    _attack("output", "hugeReply", "a body of 40 MiB", LARGE, "worker's cap on answers"),
    _attack("output", "endlessReply", "a body without end", LARGE, "worker's cap on answers"),
    _attack("output", "hugeHeader", "40 KB in a header", BAD, "worker's cap on headers"),
    _attack("output", "notAResponse", "answers with no Response", THREW, "harness"),
    _attack("exit", "exit", "os._exit", CRASHED, "worker starts a new one"),
    _attack("exit", "exitPython", "sys.exit", THREW, "harness"),
    _attack("exit", "abort", "os.abort", f"{CRASHED}|{HERE}", "worker starts a new one"),
    _attack("exit", "killSelf", "kills itself", HERE, "process 1 ignores its own signals"),
    _attack("exit", "closeLink", "closes the worker's socket", f"{CRASHED}|{PROTOCOL}", "worker starts a new one"),
    _attack("exit", "lateThrow", "a task that throws and that nobody awaits", HERE, "harness", logged="late throw"),
    _attack("exit", "threadThrow", "a thread that throws", HERE, "harness", logged="thread throw"),
    _attack("exit", "throwSecret", "an error with a secret in it", THREW, "errors carry no text"),
    _attack("frames", "secondSocket", "opens the worker's socket again", f"{_MISSING}|{_NO_ROUTE}", "socket closed"),
    _attack("frames", "frameLength", "a length of four gigabytes", PROTOCOL, FRAMES),
    _attack("frames", "frameType", "an unknown type", PROTOCOL, FRAMES),
    _attack("frames", "frameToAgent", "a frame that only the worker sends", PROTOCOL, FRAMES),
    _attack("frames", "frameOther", "an answer to a request that is not open", PROTOCOL, FRAMES),
    _attack("frames", "frameTwoHeads", "two heads", PROTOCOL, FRAMES),
    _attack("frames", "frameNoHead", "a body without a head", PROTOCOL, FRAMES),
    _attack("frames", "frameWindow", "a piece of more than 64 KiB", PROTOCOL, FRAMES),
    _attack("frames", "frameEmpty", "pieces of nothing", PROTOCOL, FRAMES),
    _attack("frames", "frameReady", "ready again", PROTOCOL, FRAMES),
    _attack("frames", "frameFailed", "failed after ready", PROTOCOL, FRAMES),
    _attack("frames", "framePong", "an answer to no question", PROTOCOL, FRAMES),
    _attack("frames", "frameNoJson", "60,000 brackets", PROTOCOL, FRAMES),
    _attack("frames", "frameBadHead", "a head with a line break", BAD, "worker's check of heads"),
    _attack("frames", "frameLog", "a log line of no level", PROTOCOL, FRAMES),
    _attack("frames", "frameManyCalls", "200 host calls at once", PROTOCOL, FRAMES),
    _attack("frames", "frameHalf", "half a frame, then silence", DEADLINE, CLOCK, seconds=0.4),
)
