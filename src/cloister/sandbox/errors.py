"""Every refusal of the sandbox, in one place because the worker, the tests and spec/sandbox.md name them all.

Texts never quote the agent: what its code throws or prints may hold its secrets. That text goes to the owner's log.
"""

from __future__ import annotations

from cloister.core.errors import SandboxError, define

MACHINE = define(
    "sandbox.machine",
    SandboxError,
    check="this machine has what a sandbox needs",
    remedy="run `cloister doctor`; Debian and Ubuntu: apt-get install bubblewrap",
    status=503,
)
SPEC = define(
    "sandbox.spec",
    SandboxError,
    check="the agent's settings are well formed",
    remedy="compare the manifest with spec/sandbox.md",
)
START = define(
    "sandbox.start",
    SandboxError,
    check="the agent's process starts in time",
    remedy="read the agent's log; raise limits.start_s or limits.memory_mb if the bundle is large",
    status=503,
)
BUNDLE = define(
    "sandbox.bundle",
    SandboxError,
    check="the bundle is one ES module whose default export the harness can call",
    remedy="export default { fetch(request, ctx) } and read the agent's log for the reason",
    status=422,
)
PROTOCOL = define(
    "sandbox.protocol",
    SandboxError,
    check="the agent's side of the socket keeps to the frame protocol (spec/sandbox.md 3)",
    remedy="the agent was stopped; its code wrote to the harness's socket, or overwrote globals that it uses",
    status=502,
)
MEMORY = define(
    "sandbox.memory",
    SandboxError,
    check="the agent stays within its memory",
    remedy="raise limits.memory_mb or limits.heap_mb in the manifest, or hold less at once",
    status=502,
)
CPU = define(
    "sandbox.cpu",
    SandboxError,
    check="the agent stays within the CPU time that its requests bring",
    remedy="compute less, raise limits.cpu_ms in the manifest, and do nothing between requests",
    status=502,
)
DEADLINE = define(
    "sandbox.deadline",
    SandboxError,
    check="the agent answers before the deadline",
    remedy="give the call more time, or raise limits.wall_s in the manifest",
    status=504,
)
CRASHED = define(
    "sandbox.crashed",
    SandboxError,
    check="the agent's process lives until it has answered",
    remedy="read the agent's log; the next request starts a new process",
    status=502,
)
CLOSED = define(
    "sandbox.closed",
    SandboxError,
    check="the sandbox is open",
    remedy="send the request again: another process serves it",
    status=503,
)
BUSY = define(
    "sandbox.busy",
    SandboxError,
    check="the agent has room for one more request",
    remedy="send the request again later, or raise limits.concurrency in the manifest",
    status=429,
)
REQUEST_TOO_LARGE = define(
    "sandbox.request_too_large",
    SandboxError,
    check="a request fits the agent's limits",
    remedy="send less, or raise limits.request_bytes in the manifest",
    status=413,
)
RESPONSE_TOO_LARGE = define(
    "sandbox.response_too_large",
    SandboxError,
    check="a response fits the agent's limits",
    remedy="answer in pages, or raise limits.response_bytes in the manifest",
    status=502,
)
BAD_REQUEST = define(
    "sandbox.bad_request",
    SandboxError,
    check="a request is one that web standards can express",
    remedy="use a method such as GET or POST, a path that starts with /, and plain header names",
)
BAD_RESPONSE = define(
    "sandbox.bad_response",
    SandboxError,
    check="the agent answers with a Response of valid status and headers",
    remedy="return new Response(body, { status, headers }) from fetch",
    status=502,
)
THREW = define(
    "sandbox.agent_threw",
    SandboxError,
    check="the agent's code answers without throwing",
    remedy="read the agent's log for the error; callers see its kind only",
    status=500,
)
HOST_CALL = define(
    "sandbox.host_call",
    SandboxError,
    check="a host call is one that the worker serves, in the form of spec/sandbox.md 4",
    remedy="compare the call with spec/sandbox.md",
)
