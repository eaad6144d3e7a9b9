"""One sandboxed process seen from the worker: exit, capped stderr, CPU and memory, and killing it for good."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from cloister.core.errors import CloisterError
from cloister.sandbox.errors import CRASHED, MEMORY
from cloister.sandbox.namespaces import Launched

_TAIL: Final = 4 << 10
_TELL_S: Final = 2.0
_RSS_S: Final = 0.1
# After so much CPU time the kernel's note of the peak is read anew: filling memory takes time, at 2 GB/s 10 MB do.
_PEAK_US: Final = 5_000
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")
_MEMORY_MARKS: Final = (
    b"out of memory",
    b"memory allocation of",
    b"heap limit",
    b"Allocation failed",
    b"OOM",
    b"MemoryError",
)


class Watched:
    """Watches a launched process on the running loop. ``exited`` gets the exit code once it is reaped."""

    def __init__(self, launched: Launched, info_fd: int, on_line: Callable[[str], None]) -> None:
        self._process, self._info_fd, self._on_line = launched.process, info_fd, on_line
        self._loop = asyncio.get_running_loop()
        self.exited: asyncio.Future[int] = self._loop.create_future()
        self._tail = self._info = b""
        self._inner: tuple[int, int] | None = None
        self._cpu_us = self._rss = self.peak = 0
        self._rss_due, self._peak_due = 0.0, 0
        self._read = False
        stderr = launched.process.stderr
        if stderr is None:
            raise RuntimeError("the spawner pipes stderr")
        self._stderr = stderr.fileno()
        os.set_blocking(self._stderr, False)
        os.set_blocking(info_fd, False)
        self._doomed = self._told = False
        self._pidfd = os.pidfd_open(launched.process.pid)
        self._loop.add_reader(info_fd, self._hear)
        self._loop.add_reader(self._stderr, self._drain)
        self._loop.add_reader(self._pidfd, self._reap)

    @property
    def alive(self) -> bool:
        """Whether the process has not been reaped."""
        return not self.exited.done()

    def kill(self) -> None:
        """SIGKILL to the agent and to its bubblewrap. Idempotent.

        A bubblewrap that dies before it has released its child leaves that child behind, waiting. So the kill waits
        for the child's number, which comes first, unless that takes too long.
        """
        if self._doomed or not self.alive:
            return
        self._doomed = True
        if self._told:
            self._kill_now()
        else:
            self._loop.call_later(_TELL_S, self._kill_now)

    def _kill_now(self) -> None:
        if self.alive:
            for pidfd in self._pidfds():
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(pidfd, signal.SIGKILL)

    def usage(self) -> tuple[int, int]:
        """CPU microseconds so far and resident bytes at most 0.1 s ago (the last known after the end).

        Read once per turn of the loop: whatever asks in one turn gets one answer."""
        if not self._read:
            self._read = True
            self._loop.call_soon(self._turned)
            self._look()
        return self._cpu_us, self._rss

    def _turned(self) -> None:
        self._read = False

    def _look(self) -> None:
        if self.alive and self._inner is not None:
            pid = self._inner[0]
            with contextlib.suppress(OSError, IndexError):
                # The CPU clock of another process: (~pid << 3) | CPUCLOCK_SCHED, clock_getcpuclockid(3).
                self._cpu_us = time.clock_gettime_ns((~pid << 3) | 2) // 1000
                if (
                    time.monotonic() >= self._rss_due
                ):  # reading it costs forty times the clock, and each call asks twice
                    self._rss_due = time.monotonic() + _RSS_S
                    self._rss = int(Path(f"/proc/{pid}/statm").read_bytes().split()[1]) * _PAGE
                    self.peak = max(self.peak, self._rss)
                if self._cpu_us >= self._peak_due:
                    self._note_peak()

    def measure(self) -> tuple[int, int]:
        """``usage``, and the kernel's own note of the peak: slower, for a clock that ticks rarely."""
        self._note_peak()
        self._look()
        return self._cpu_us, self._rss

    def _note_peak(self) -> None:
        if self.alive and self._inner is not None:
            self._peak_due = self._cpu_us + _PEAK_US
            with contextlib.suppress(OSError, IndexError, ValueError):
                status = Path(f"/proc/{self._inner[0]}/status").read_bytes()
                self.peak = max(self.peak, int(status.partition(b"VmHWM:")[2].split(maxsplit=1)[0]) << 10)

    def reason(self, code: int) -> CloisterError:
        """Why it ended, from its exit code and the last it said. stderr is the agent's: it names, it proves nothing."""
        if any(mark in self._tail for mark in _MEMORY_MARKS):
            return MEMORY(expected="memory within the limits", found="an allocation beyond them")
        if code > 128:
            with contextlib.suppress(ValueError):
                return CRASHED(expected="a living process", found=f"{signal.Signals(code - 128).name}")
        return CRASHED(expected="a living process", found=f"exit code {code}")

    def _hear(self) -> None:
        """Learn the agent's process id from bubblewrap: {"child-pid": N, ...}, written before the agent runs."""
        with contextlib.suppress(BlockingIOError):
            data = os.read(self._info_fd, 4096)
            self._info += data
            with contextlib.suppress(ValueError, KeyError, ProcessLookupError):
                pid = int(json.loads(self._info)["child-pid"])
                self._inner = pid, os.pidfd_open(pid)
            if not data or self._inner is not None:
                self._told = True
                self._loop.remove_reader(self._info_fd)
                if self._doomed:
                    self._kill_now()

    def _pidfds(self) -> Iterator[int]:
        if self._inner is not None:
            yield self._inner[1]
        yield self._pidfd

    def _drain(self) -> None:
        try:
            data = os.read(self._stderr, 64 << 10)
        except BlockingIOError:
            return
        if not data:
            self._loop.remove_reader(self._stderr)
            return
        self._tail = (self._tail + data)[-_TAIL:]
        for line in data[:_TAIL].decode(errors="replace").splitlines():
            self._on_line(line[:1000])

    def _reap(self) -> None:
        self._look()
        self._loop.remove_reader(self._pidfd)
        self._loop.remove_reader(self._info_fd)
        # The usage of bubblewrap includes the agent that it waited for: what a crash cost is counted too.
        _, status, used = os.wait4(self._process.pid, 0)
        code = self._process.returncode = os.waitstatus_to_exitcode(status)
        self._cpu_us, self._rss = max(self._cpu_us, int((used.ru_utime + used.ru_stime) * 1e6)), 0
        with contextlib.suppress(OSError):
            for _ in range(16):
                self._drain()
        self._loop.remove_reader(self._stderr)
        if self._process.stderr is not None:
            self._process.stderr.close()
        for fd in (*self._pidfds(), self._info_fd):
            os.close(fd)
        self.exited.set_result(code if code >= 0 else 128 - code)
