"""What a machine must offer before agents run on it, tried out. ``cloister doctor`` prints it; no worker loads it."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from cloister.core.errors import CloisterError
from cloister.sandbox import seccomp
from cloister.sandbox.errors import MACHINE
from cloister.sandbox.limits import fresh_uid
from cloister.sandbox.machine import find_libraries, find_tool
from cloister.sandbox.namespaces import fresh_network

_FREE_BYTES: Final = 2 << 30
_APT: Final = "apt-get install bubblewrap"


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
