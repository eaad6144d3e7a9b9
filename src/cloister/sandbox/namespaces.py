"""Starting agent processes as root: one thread with a mount namespace of its own, one network namespace per agent.

The thread matters for three reasons. A child inherits the namespaces of the thread that forks it, so nothing runs
between fork and exec. Agents run as other users, who may not search the folders that hold this program: the thread's
mount namespace shows them what they need under a path that everybody may search. And bubblewrap's
``--die-with-parent`` watches the thread that started it, so the thread lives as long as the sandbox.

Without root the same thread starts processes in the namespaces of this process (bubblewrap unshares the rest).
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import queue
import socket
import stat
import struct
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from cloister.sandbox.errors import MACHINE

STAGE: Final = Path("/tmp")  # noqa: S108  (a fresh tmpfs in the thread's own mount namespace, not the shared folder)
PROXY_PORT: Final = 3128
_CLONE_NEWNS, _CLONE_FS, _CLONE_NEWNET = 0x20000, 0x200, 0x40000000
_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_BIND, _MS_REC, _MS_SLAVE = 1, 2, 4, 4096, 16384, 1 << 19
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 1

T = TypeVar("T")
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Launched:
    """A process that the spawner started, and the proxy's listening socket inside its network namespace (as root)."""

    process: subprocess.Popen[bytes]
    listener: socket.socket | None


class Spawner:
    """Starts processes on its own thread. ``staged``: name -> file or folder that agents must reach, as root."""

    def __init__(self, staged: Mapping[str, Path], *, rooted: bool) -> None:
        self._rooted, self._staged = rooted, dict(staged)
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        started: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, args=(started,), name="cloister-spawner", daemon=True)
        self._thread.start()
        started.result()

    def path(self, name: str, *below: str) -> str:
        """Where an agent's bubblewrap finds a staged file."""
        base = STAGE / name if self._rooted else self._staged[name]
        return str(base.joinpath(*below))

    def start(self, argv: Sequence[str], fds: Sequence[int], uid: int | None) -> Future[Launched]:
        """Start a process with an empty environment; as root also with a fresh network namespace and user."""
        return self._submit(lambda: self._launch(argv, fds, uid))

    def close(self) -> None:
        """End the thread. Processes that it started die with it."""
        self._jobs.put(None)
        self._thread.join()

    def _submit(self, job: Callable[[], T]) -> Future[T]:
        future: Future[T] = Future()

        def run() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(job())
            except BaseException as error:
                future.set_exception(error)

        self._jobs.put(run)
        return future

    def _run(self, started: Future[None]) -> None:
        try:
            if self._rooted:
                _stage(self._staged)
            started.set_result(None)
        except BaseException as error:
            started.set_exception(error)
            return
        while (job := self._jobs.get()) is not None:
            job()

    def _launch(self, argv: Sequence[str], fds: Sequence[int], uid: int | None) -> Launched:
        listener = fresh_network() if self._rooted else None
        try:
            process = subprocess.Popen(
                argv,
                env={},
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                pass_fds=fds,
                user=uid,
                group=uid,
                extra_groups=None if uid is None else [],
            )
        except OSError as error:
            if listener is not None:
                listener.close()
            raise MACHINE(expected="bubblewrap that starts", found=type(error).__name__) from None
        return Launched(process, listener)


def _stage(staged: Mapping[str, Path]) -> None:
    """Give the calling thread its own mount namespace, and bind ``staged`` into a fresh tmpfs there."""
    _check(_libc.unshare(_CLONE_NEWNS | _CLONE_FS), "unshare(CLONE_NEWNS)")
    _mount(None, "/", None, _MS_REC | _MS_SLAVE)
    # Opened here: a file of another mount namespace cannot be bound, and below /tmp it would be hidden in a moment.
    sources = {name: os.open(path, os.O_PATH | os.O_CLOEXEC) for name, path in staged.items()}
    try:
        _mount("tmpfs", str(STAGE), "tmpfs", _MS_NOSUID | _MS_NODEV, "mode=0755,size=64k")
        for name, fd in sources.items():
            target = STAGE / name
            if stat.S_ISDIR(os.fstat(fd).st_mode):
                target.mkdir()
            else:
                target.touch()
            _mount(f"/proc/self/fd/{fd}", str(target), None, _MS_BIND)
    finally:
        for fd in sources.values():
            os.close(fd)


def fresh_network() -> socket.socket:
    """Move the calling thread to a new network namespace; its proxy port, listening. The socket keeps it alive."""
    _check(_libc.unshare(_CLONE_NEWNET), "unshare(CLONE_NEWNET)")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        request = fcntl.ioctl(control, _SIOCGIFFLAGS, struct.pack("16sh22x", b"lo", 0))
        flags = struct.unpack_from("16xh", request)[0] | _IFF_UP
        fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sh22x", b"lo", flags))
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", PROXY_PORT))
    listener.listen(64)
    listener.setblocking(False)
    return listener


def _mount(source: str | None, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    text = [None if value is None else os.fsencode(value) for value in (source, target, kind, data)]
    _check(_libc.mount(text[0], text[1], text[2], ctypes.c_ulong(flags), text[3]), f"mount {target}")


def _check(result: int, what: str) -> None:
    if result != 0:
        error = ctypes.get_errno()
        raise MACHINE(expected=f"{what} to work as root", found=os.strerror(error))
