"""``python -m cloister.devnet.tee --work DIR``: serve pretend hardware until SIGTERM or SIGINT."""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
from pathlib import Path

from cloister.core.errors import CloisterError
from cloister.devnet.tee.service import Service


async def serve(work: Path, tsm: str) -> None:
    """Run until a signal. Leaves neither mount nor socket behind."""
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        # Set before the mount: libfuse takes over only signals that nobody handles.
        loop.add_signal_handler(number, stopping.set)
    service = Service(work, tsm)
    try:
        await service.start()
        print(json.dumps({"ready": True, "service": "tee"}), flush=True)
        await stopping.wait()
    finally:
        await service.stop()


def main(arguments: list[str] | None = None) -> int:
    """The command line. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m cloister.devnet.tee", description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="folder for keys, sockets and the mount")
    parser.add_argument("--tsm", choices=("auto", "fuse", "socket"), default="auto", help="how reports are offered")
    options = parser.parse_args(arguments)
    try:
        asyncio.run(serve(options.work, options.tsm))
    except (CloisterError, OSError) as error:
        print(f"devnet tee: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
