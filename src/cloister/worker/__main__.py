"""``python -m cloister.worker --config FILE``: one worker until SIGTERM or SIGINT."""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path

from cloister.core.encoding.hexes import to_hex
from cloister.node import lifecycle, logs
from cloister.node.config import load_config
from cloister.worker.config import WorkerConfig
from cloister.worker.service import Worker


async def serve(path: Path, stop: asyncio.Event) -> None:
    """Open the worker, say READY, serve until ``stop``."""
    config = load_config(path, WorkerConfig)
    logs.configure("worker", level=config.log_level)
    worker = await Worker.open(config)
    try:
        lifecycle.ready("worker", address=to_hex(worker.node.address), boot=to_hex(worker.node.boot))
        await worker.run(stop)
    finally:
        await worker.close()


def main(arguments: list[str] | None = None) -> int:
    """The command line. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m cloister.worker", description=__doc__)
    parser.add_argument("--config", type=Path, required=True, help="JSON settings, see docs/operate/worker.md")
    options = parser.parse_args(arguments)
    logs.configure("worker")
    return lifecycle.run(lambda stop: serve(options.config, stop))


if __name__ == "__main__":
    sys.exit(main())
