"""The command line of one Python agent's process: limits, then bubblewrap, then CPython (reference: bwrap(1)).

The interpreter, its standard library and the C libraries of both are all that is mounted beside the bundle: nothing of
the worker's own environment, and no other program.
"""

from __future__ import annotations

import functools
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cloister.sandbox.errors import MACHINE
from cloister.sandbox.limits import limit_arguments
from cloister.sandbox.machine import LIBRARY_FOLDERS, find_libraries, find_tool
from cloister.sandbox.namespaces import PROXY_PORT
from cloister.sandbox.ports import Limits
from cloister.sandbox.walls import BRIDGE, SOCKET, WALLS, WARM_CPU_S

# What CPython and its C modules hold before the agent has loaded anything.
BASE_MB: Final = 48
HARNESS: Final = Path(__file__).with_name("harness.py")
API: Final = Path(__file__).with_name("cloister_agent.py")
_HOME: Final = "/python"
# Loaded by modules of the standard library and by wheels (PEP 599, PEP 600 allow libstdc++); each where it exists.
_WANTED: Final = (
    *("libz.so.1", "libssl.so.3", "libcrypto.so.3", "libffi.so.8", "libbz2.so.1.0", "liblzma.so.5", "libexpat.so.1"),
    *("libuuid.so.1", "libsqlite3.so.0", "libstdc++.so.6", "libutil.so.1", "libresolv.so.2", "libcrypt.so.1"),
)
_ROOTS: Final = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem")


@dataclass(frozen=True, slots=True)
class Interpreter:
    """CPython on this machine, as absolute paths. ``shared``: its own C library, where it has one; ``version``: such as
    "python3.11"; ``roots``: PEM of the public authorities."""

    bwrap: Path
    prlimit: Path
    program: Path
    library: Path
    shared: Path | None
    version: str
    libraries: tuple[Path, ...]
    roots: Path


@dataclass(frozen=True, slots=True)
class Plan:
    """What one process sees. Paths are those that its bubblewrap can reach; ``socket`` None: a warm-up without one.
    ``bundle``: the unpacked folder; ``ca``: PEM of the authorities that it trusts."""

    program: str
    library: str
    shared: str | None
    harness: str
    api: str
    bundle: str
    cache: str
    ca: str
    limits: Limits
    uid: int | None
    socket: str | None = None
    bridge: str | None = None


@functools.cache
def find_interpreter() -> Interpreter:
    """The interpreter that runs this program. Raises SandboxError (sandbox.machine)."""
    roots = next((Path(path) for path in _ROOTS if Path(path).is_file()), None)
    if roots is None:
        raise MACHINE(expected="the certificates of public authorities", found="none: apt-get install ca-certificates")
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    program, library = Path(sys.executable).resolve(), Path(sysconfig.get_path("stdlib")).resolve()
    if not (library / "os.py").is_file():
        raise MACHINE(expected="the standard library as files", found="none")
    hits = [Path(folder, name) for name in _WANTED for folder in LIBRARY_FOLDERS if Path(folder, name).exists()]
    first = {path.name: path for path in reversed(hits)}
    own = Path(str(sysconfig.get_config_var("LIBDIR")), str(sysconfig.get_config_var("INSTSONAME")))
    found = (*find_libraries(), *(first[name] for name in _WANTED if name in first))
    shared = own.resolve() if own.is_file() and own.suffix != ".a" else None
    tools = find_tool("bwrap"), find_tool("prlimit")
    return Interpreter(*tools, program, library, shared, version, found, roots.resolve())


def command(found: Interpreter, plan: Plan, *, seccomp_fd: int, info_fd: int) -> list[str]:
    """The whole argument list. It holds no secret, and no environment: the harness sets it from the socket."""
    cpu_s = WARM_CPU_S if plan.socket is None else None
    return [
        *limit_arguments(plan.limits, found.prlimit, plan.uid, cpu_s, base_mb=BASE_MB),
        str(found.bwrap),
        *WALLS,
        *(["--unshare-net"] if plan.uid is None or plan.bridge is not None else []),
        *_mounts(found, plan),
        *["--seccomp", str(seccomp_fd), "--info-fd", str(info_fd)],
        # -I: no variable and no folder of a user counts; -S: no site-packages; -B: nothing is written.
        *[f"{_HOME}/bin/{found.version}", "-I", "-S", "-B", "-X", "utf8", "/h/harness.py", str(PROXY_PORT)],
        *(["warm"] if plan.socket is None else []),
    ]


def _mounts(found: Interpreter, plan: Plan) -> list[str]:
    library = f"{_HOME}/lib/{found.version}"
    shown = [(str(path), str(path)) for path in found.libraries]
    if plan.shared is not None and found.shared is not None:
        shown.append((plan.shared, f"{LIBRARY_FOLDERS[0]}/{found.shared.name}"))  # where the loader looks
    shown += [(plan.program, f"{_HOME}/bin/{found.version}"), (plan.library, library)]
    shown += [(plan.harness, "/h/harness.py"), (plan.api, "/h/cloister_agent.py"), (plan.ca, "/ca.pem")]
    shown += [(plan.socket, SOCKET)] if plan.socket else []
    shown += [(plan.bridge, BRIDGE)] if plan.bridge else []
    shown += [(f"{plan.bundle}/{part}", f"/agent/{part}") for part in ("source", "packages")]
    binds = [argument for pair in shown for argument in ("--ro-bind", *pair)]
    hidden = [f"{library}/{name}" for name in ("site-packages", "dist-packages") if (found.library / name).is_dir()]
    masks = [word for path in hidden for word in ("--tmpfs", path, "--remount-ro", path)]
    cache = ["--bind" if plan.socket is None else "--ro-bind", plan.cache, "/cache"]
    own = ["--proc", "/proc", "--dev", "/dev", "--remount-ro", "/dev", "--remount-ro", "/", "--chdir", "/"]
    return [*binds, *masks, *cache, *own]
