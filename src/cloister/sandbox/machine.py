"""What a machine must offer before agents run on it: tools, libraries, namespaces. ``cloister doctor`` prints it."""

from __future__ import annotations

import functools
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from cloister.core.errors import CloisterError
from cloister.sandbox import seccomp
from cloister.sandbox.errors import MACHINE
from cloister.sandbox.limits import fresh_uid
from cloister.sandbox.namespaces import fresh_network

_LIBRARIES: Final = ("libc.so.6", "libm.so.6", "libdl.so.2", "librt.so.1", "libpthread.so.0", "libgcc_s.so.1")
_LOADER: Final = Path("/lib64/ld-linux-x86-64.so.2")
_FOLDERS: Final = ("/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu", "/lib64", "/usr/lib64", "/lib", "/usr/lib")
_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_FREE_BYTES: Final = 2 << 30
_APT: Final = "apt-get install bubblewrap"


@dataclass(frozen=True, slots=True)
class Tools:
    """Programs and libraries of the sandbox, as absolute paths."""

    bwrap: Path
    prlimit: Path
    deno: Path
    libraries: tuple[Path, ...]


def find_tool(name: str) -> Path:
    """A program beside this Python or on the path. Raises SandboxError (sandbox.machine)."""
    beside = Path(sys.executable).parent / name
    if os.access(beside, os.X_OK):
        return beside.resolve()
    path = f"{os.environ.get('PATH', '')}:{_PATH}"
    if found := shutil.which(name, path=path):
        return Path(found).resolve()
    raise MACHINE(expected=f"the program {name}", found="nothing of that name")


def find_tools(deno: Path | None = None) -> Tools:
    """Everything a sandbox needs. Raises SandboxError (sandbox.machine)."""
    if platform.machine() != "x86_64":
        raise MACHINE(expected="an x86-64 machine (the seccomp filter is written for it)", found=platform.machine())
    return Tools(find_tool("bwrap"), find_tool("prlimit"), (deno or find_tool("deno")).resolve(), find_libraries())


@functools.cache
def find_libraries() -> tuple[Path, ...]:
    """The shared libraries that Deno loads, where the loader looks for them. Raises SandboxError."""
    found = [_LOADER]
    for name in _LIBRARIES:
        hit = next((Path(folder, name) for folder in _FOLDERS if Path(folder, name).exists()), None)
        if hit is None:
            raise MACHINE(expected=f"the library {name}", found="nothing of that name")
        found.append(hit)
    return tuple(found)


def check_machine(work: Path) -> list[dict[str, Any]]:
    """One entry {name, ok, found, hint} per need of the sandbox. Never raises for what is missing."""
    return [
        _entry("bubblewrap", _bwrap_version, _APT),
        _entry("deno", lambda: _version(find_tool("deno")), "install the wheel: pip install cloister"),
        _entry("libraries", lambda: f"{len(find_libraries())} libraries", "install the C library and libgcc"),
        _entry("user namespaces", lambda: _probe([]), "sysctl kernel.unprivileged_userns_clone=1"),
        _entry("network namespaces", _network, "as root: CAP_SYS_ADMIN; else user namespaces"),
        _entry("seccomp", _seccomp, "a kernel with CONFIG_SECCOMP_FILTER"),
        _entry("fuse", _fuse, "modprobe fuse; only the devnet's pretend hardware needs /dev/fuse"),
        _entry("disk", lambda: _disk(work), "free 2 GiB in the work folder"),
    ]


def _entry(name: str, check: Callable[[], str], hint: str) -> dict[str, Any]:
    try:
        return {"name": name, "ok": True, "found": check(), "hint": ""}
    except CloisterError as error:
        return {"name": name, "ok": False, "found": error.found, "hint": hint}
    except (OSError, subprocess.SubprocessError) as error:
        return {"name": name, "ok": False, "found": type(error).__name__, "hint": hint}


def _version(program: Path) -> str:
    done = subprocess.run([program, "--version"], env={}, capture_output=True, timeout=20, check=True)
    return done.stdout.decode(errors="replace").splitlines()[0][:80]


def _bwrap_version() -> str:
    return _version(find_tool("bwrap"))


def _probe(extra: Sequence[str], fds: Sequence[int] = ()) -> str:
    """Run a tiny program the way agents run. Raises SandboxError with bubblewrap's own reason."""
    uid = fresh_uid()
    program = find_tool("true")
    binds = [argument for path in (*find_libraries(), program) for argument in ("--ro-bind", str(path), str(path))]
    walls = ["--unshare-user", "--unshare-pid", "--unshare-ipc", "--unshare-net", "--proc", "/proc", "--dev", "/dev"]
    argv = [str(find_tool("bwrap")), *walls, *binds, *extra, str(program)]
    done = subprocess.run(
        argv,
        env={},
        cwd="/",
        capture_output=True,
        timeout=20,
        check=False,
        user=uid,
        group=uid,
        extra_groups=None if uid is None else [],
        pass_fds=fds,
    )
    if done.returncode != 0:
        raise MACHINE(expected="a sandbox that starts", found=done.stderr.decode(errors="replace")[:200].strip())
    return "one agent per user id" if uid is not None else "agents run as this user"


def _seccomp() -> str:
    code = seccomp.program()
    with tempfile.TemporaryFile() as file:
        file.write(code)
        file.seek(0)
        _probe(["--seccomp", str(file.fileno())], [file.fileno()])
    return f"filter of {len(code) // 8} instructions"


def _network() -> str:
    if os.geteuid() != 0:
        _probe([])
        return "bubblewrap's, with a bridge (not root)"
    failed: list[BaseException] = []

    def attempt() -> None:
        try:
            fresh_network().close()
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=attempt)
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
    return "one per agent"


def _fuse() -> str:
    os.close(os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC))
    return "/dev/fuse"


def _disk(work: Path) -> str:
    existing = next(folder for folder in (work, *work.absolute().parents) if folder.exists())
    free = shutil.disk_usage(existing).free
    if free < _FREE_BYTES:
        raise MACHINE(expected="2 GiB free", found=f"{free >> 20} MiB free")
    return f"{free >> 30} GiB free"
