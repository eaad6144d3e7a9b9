"""``python -m cloister.worker --config FILE``: one worker until SIGTERM or SIGINT."""

from __future__ import annotations

import asyncio
import sys

from cloister.core.encoding.hexes import to_hex
from cloister.node import command, lifecycle
from cloister.worker.config import WorkerConfig
from cloister.worker.service import Worker, check


async def serve(config: WorkerConfig, stop: asyncio.Event) -> None:
    """Open the worker, say READY, serve until ``stop``."""
    worker = await Worker.open(config)
    try:
        lifecycle.ready("worker", address=to_hex(worker.node.address), boot=to_hex(worker.node.boot))
        await worker.run(stop)
    finally:
        await worker.close()


def main(arguments: list[str] | None = None) -> int:
    """The command line. Returns the exit status."""
    return command.main("worker", WorkerConfig, serve, check=check, arguments=arguments)


if __name__ == "__main__":
    sys.exit(main())
