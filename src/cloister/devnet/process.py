"""Child processes of the devnet: started with a clean environment, ready when they say so, killed by pid.

A child prints one JSON line ``{"ready": true, ...}`` on stdout when it serves. Its stderr goes to a log file. If the
devnet dies, the kernel kills the child (PR_SET_PDEATHSIG), so nothing is left behind even after SIGKILL.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cloister.core.errors import ConfigError, define

_PR_SET_PDEATHSIG = 1
_READY_LINE = 1 << 16
# The network's processes speak plain HTTP and unix sockets with each other: nobody outside is trusted, and reading the
# machine's list of authorities would cost each of them a tenth of a second at start.
_NO_AUTHORITIES = {"SSL_CERT_FILE": os.devnull, "SSL_CERT_DIR": os.devnull}

NOT_READY = define(
    "devnet.not_ready",
    ConfigError,
    check="a process of the network starts and says that it is ready",
    remedy="read its log with `cloister logs NAME`; `cloister doctor` checks this machine",
    status=500,
)


def die_with_parent() -> None:
    """Called in the child between fork and exec: SIGKILL it when its parent dies."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


class Child:
    """One process of the network."""

    def __init__(self, name: str, process: asyncio.subprocess.Process, ready: Mapping[str, Any], log: Path) -> None:
        self.name, self.process, self.ready, self.log = name, process, ready, log

    @property
    def alive(self) -> bool:
        """Whether the process still runs."""
        return self.process.returncode is None

    async def kill(self) -> None:
        """SIGKILL, at once: what a crash looks like."""
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        await self.process.wait()

    async def stop(self, grace_s: float = 5.0) -> None:
        """SIGTERM, then SIGKILL after ``grace_s`` seconds."""
        if self.alive:
            with contextlib.suppress(ProcessLookupError):
                self.process.terminate()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.process.wait(), grace_s)
        if self.alive:
            await self.kill()


async def spawn(
    name: str,
    module: str,
    args: Sequence[str],
    *,
    log_dir: Path,
    env: Mapping[str, str] | None = None,
    timeout: float = 30.0,
) -> Child:
    """Start ``python -m module args`` and wait for its ready line. Raises ConfigError (devnet.not_ready)."""
    log_dir.mkdir(parents=True, exist_ok=True)
    log = log_dir / f"{name}.log"
    clean = {"PATH": os.environ.get("PATH", "/usr/bin:/bin"), "HOME": str(log_dir.parent), "LANG": "C.UTF-8"}
    with log.open("ab") as sink:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            module,
            *args,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=sink,
            env={**clean, **_NO_AUTHORITIES, **(env or {})},
            preexec_fn=die_with_parent,
            limit=_READY_LINE,
        )
    try:
        ready = await asyncio.wait_for(_ready_line(process), timeout)
    except BaseException as error:  # a cancelled start too: nobody else knows of this process yet
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        if not isinstance(error, (TimeoutError, ValueError)):
            raise
        raise NOT_READY(expected=f"{name} ready within {timeout:.0f} s", found=_why(log, error)) from None
    asyncio.get_running_loop().create_task(_drain(process))
    return Child(name, process, ready, log)


async def _ready_line(process: asyncio.subprocess.Process) -> Mapping[str, Any]:
    assert process.stdout is not None  # noqa: S101 - we asked for a pipe
    while True:
        line = await process.stdout.readline()
        if not line:
            raise ValueError("it ended first")
        with contextlib.suppress(ValueError):
            said = json.loads(line)
            if isinstance(said, dict) and said.get("ready") is True:
                return said


async def _drain(process: asyncio.subprocess.Process) -> None:
    assert process.stdout is not None  # noqa: S101 - we asked for a pipe
    with contextlib.suppress(ValueError, ConnectionError):
        while await process.stdout.read(65536):
            pass


def _why(log: Path, error: Exception) -> str:
    """The reason as the child's own log ends: the refusal of its last line, or the line itself."""
    tail = [line for line in log.read_text(errors="replace").splitlines()[-3:] if line.strip()]
    with contextlib.suppress(ValueError, IndexError, KeyError, TypeError):
        last = json.loads(tail[-1])
        return f"{last['code']}: expected {last['expected']}, found {last['found']}"
    return f"{str(error) or 'silence'}; log ends: {' | '.join(tail)[-300:]}"
