"""The command line of one agent process: limits, then bubblewrap, then Deno (reference: bwrap(1), deno run)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cloister.core.policy.egress import Rule
from cloister.sandbox.limits import limit_arguments
from cloister.sandbox.machine import Tools
from cloister.sandbox.namespaces import PROXY_PORT
from cloister.sandbox.ports import Limits
from cloister.sandbox.walls import BRIDGE, SOCKET, WALLS, WARM_CPU_S

_PROXY: Final = f"http://127.0.0.1:{PROXY_PORT}"
_DENO: Final = ["--no-prompt", "--no-config", "--no-lock", "--cached-only", "--no-remote", "--no-npm"]


@dataclass(frozen=True, slots=True)
class Plan:
    """What one process sees. Paths are those that its bubblewrap can reach; ``socket`` None: a warm-up without one.
    ``blank``: ``bundle`` is a folder, in which the bundle will lie."""

    deno: str
    harness: str
    bundle: str
    cache: str
    limits: Limits
    uid: int | None
    rules: tuple[Rule, ...] = ()
    socket: str | None = None
    bridge: str | None = None
    extra_ca: str | None = None
    blank: bool = False


def command(tools: Tools, plan: Plan, *, seccomp_fd: int, info_fd: int) -> list[str]:
    """The whole argument list. It holds no secret: settings and secrets go over the socket."""
    return [
        *limit_arguments(plan.limits, tools.prlimit, plan.uid, WARM_CPU_S if plan.socket is None else None),
        str(tools.bwrap),
        *WALLS,
        *(["--unshare-net"] if plan.uid is None or plan.bridge is not None else []),
        *_environment(plan),
        *_mounts(tools, plan),
        *["--seccomp", str(seccomp_fd), "--info-fd", str(info_fd)],
        *deno_command(plan),
    ]


def deno_command(plan: Plan) -> list[str]:
    """Deno inside the sandbox."""
    limits = plan.limits
    heap = f"--v8-flags=--max-old-space-size={limits.heap_mb},--max-semi-space-size=4"
    script = ["/h/harness.js", *(["warm"] if plan.socket is None else [])]
    return ["/deno", "run", *_DENO, heap, *permissions(plan), *script]


def permissions(plan: Plan) -> list[str]:
    """Deno's own wall. The environment is open because it is empty: the harness fills it from the socket."""
    if plan.socket is None:
        return ["--allow-env", "--allow-read=/agent"]
    sockets = [SOCKET, *([BRIDGE] if plan.bridge else [])]
    hosts = [str(rule) for rule in plan.rules] + [f"unix:{path}" for path in sockets]
    if plan.bridge:
        hosts.append(f"127.0.0.1:{PROXY_PORT}")
    files = ",".join(sockets)
    return ["--allow-env", f"--allow-net={','.join(hosts)}", f"--allow-read=/agent,{files}", f"--allow-write={files}"]


def _environment(plan: Plan) -> list[str]:
    values = {"DENO_DIR": "/cache", "DENO_NO_UPDATE_CHECK": "1", "HTTPS_PROXY": _PROXY, "HTTP_PROXY": _PROXY}
    if plan.extra_ca is not None:
        values["DENO_CERT"] = "/ca.pem"
    return [argument for pair in values.items() for argument in ("--setenv", *pair)]


def _mounts(tools: Tools, plan: Plan) -> list[str]:
    shown = [(str(path), str(path)) for path in tools.libraries]
    shown += [
        (plan.deno, "/deno"),
        (plan.harness, "/h/harness.js"),
        (plan.bundle, "/agent" if plan.blank else "/agent/agent.js"),
    ]
    shown += [(plan.socket, SOCKET)] if plan.socket else []
    shown += [(plan.bridge, BRIDGE)] if plan.bridge else []
    shown += [(plan.extra_ca, "/ca.pem")] if plan.extra_ca else []
    binds = [argument for pair in shown for argument in ("--ro-bind", *pair)]
    cache = ["--bind" if plan.socket is None else "--ro-bind", plan.cache, "/cache"]
    own = ["--proc", "/proc", "--dev", "/dev", "--remount-ro", "/dev", "--remount-ro", "/", "--chdir", "/"]
    return [*binds, *cache, *own]


HARNESS: Final = Path(__file__).with_name("harness.js")
