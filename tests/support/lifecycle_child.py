"""A service for tests: prints READY, then does what its argument says when it is told to stop."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys

from cloister.node import lifecycle, logs


async def main(stop: asyncio.Event) -> None:
    """One of: stop (return when told), hang (ignore it), fail, child (start one that dies with us, then hang)."""
    mode = sys.argv[1]
    if mode == "fail":
        raise ValueError("hunter2")
    if mode == "child":
        command = [sys.executable, __file__, "orphan", str(os.getpid())]
        child = subprocess.Popen(command, stdout=subprocess.PIPE)  # noqa: ASYNC220
        assert child.stdout is not None
        child.stdout.readline()
        lifecycle.ready("parent", child=child.pid)
    else:
        lifecycle.ready("test", mode=mode)
    if mode in ("hang", "child"):
        await asyncio.Event().wait()
    await stop.wait()
    print("stopped", flush=True)


if __name__ == "__main__":
    logs.configure("test")
    if sys.argv[1] == "orphan":
        lifecycle.die_with_parent(int(sys.argv[2]))
    sys.exit(lifecycle.run(main, grace_s=float(sys.argv[2]) if sys.argv[1] == "hang" else 10.0))
