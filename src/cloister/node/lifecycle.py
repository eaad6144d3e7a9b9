"""How a process lives: READY line, graceful stop on SIGTERM or SIGINT, death with its parent in a devnet."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import json
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from typing import Any, TextIO

import uvloop

from cloister.core.errors import CloisterError
from cloister.node import logs

_PR_SET_PDEATHSIG = 1
_SIGNALS = (signal.SIGTERM, signal.SIGINT)
# A service makes some hundred objects per request and frees them by counting references; cycles are rare. So the
# collector looks at new ones in larger lots, and never again at what the modules made while they were loaded.
_COLLECT = (20_000, 20, 50)

Main = Callable[[asyncio.Event], Awaitable[None]]


def run(main: Main, *, grace_s: float = 10.0) -> int:
    """Run ``main(stop)`` on uvloop; returns the exit code.

    ``stop`` is set by the first SIGTERM or SIGINT; then ``main`` has ``grace_s`` seconds to return before it is
    cancelled; a second signal cancels at once. 0: it ended; 1: it was refused or failed (logged); 130: cut short."""
    gc.freeze()
    gc.set_threshold(*_COLLECT)
    return uvloop.run(_supervise(main, grace_s))


async def _supervise(main: Main, grace_s: float) -> int:
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    task = asyncio.ensure_future(main(stop))
    for number in _SIGNALS:
        loop.add_signal_handler(number, _on_signal, stop, task, grace_s)
    try:
        await task
    except asyncio.CancelledError:
        return 130
    except CloisterError as error:
        logs.get("lifecycle").error("refused", **error.to_wire())
        return 1
    except Exception as error:
        logs.get("lifecycle").error("failed", exc_info=error)
        return 1
    finally:
        for number in _SIGNALS:
            loop.remove_signal_handler(number)
    return 0


def _on_signal(stop: asyncio.Event, task: asyncio.Future[None], grace_s: float) -> None:
    if stop.is_set():
        task.cancel()
    stop.set()
    asyncio.get_running_loop().call_later(grace_s, task.cancel)


def ready(service: str, *, stream: TextIO | None = None, **fields: Any) -> None:
    """Print the READY line, once everything answers: ``{"ready": true, "service", "pid", ...}`` on stdout."""
    line = json.dumps({"ready": True, "service": service, "pid": os.getpid(), **fields})
    out = sys.stdout if stream is None else stream
    out.write(line + "\n")
    out.flush()


def parse_ready(line: str | bytes) -> dict[str, Any] | None:
    """The fields of a READY line, or None for any other line. For who started the process."""
    with contextlib.suppress(ValueError, RecursionError):
        fields = json.loads(line[:65536])
        if isinstance(fields, dict) and fields.get("ready") is True:
            return fields
    return None


def die_with_parent(parent: int, number: signal.Signals = signal.SIGTERM) -> None:
    """Ask the kernel for a signal when the parent dies (Linux); call it first thing in the child.

    ``parent``: the parent's pid as it told us. If it is gone already, exit at once. The kernel watches the *thread*
    that started us, so a devnet starts children from a thread that lives as long as it does."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, int(number), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent:
        raise SystemExit(1)
