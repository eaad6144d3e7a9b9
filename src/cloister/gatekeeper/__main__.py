"""``python -m cloister.gatekeeper --config FILE``: one gatekeeper until SIGTERM or SIGINT."""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path

from aiohttp import web

from cloister.core.encoding.hexes import to_hex
from cloister.gatekeeper.api import build
from cloister.gatekeeper.config import GatekeeperConfig
from cloister.gatekeeper.service import Gatekeeper
from cloister.node import lifecycle, logs
from cloister.node.config import load_config


async def serve(path: Path, stop: asyncio.Event) -> None:
    """Open the gatekeeper, listen, say READY, follow the chain until ``stop``."""
    config = load_config(path, GatekeeperConfig)
    logs.configure("gatekeeper", level=config.log_level)
    gatekeeper = await Gatekeeper.open(config)
    runner = web.AppRunner(build(gatekeeper), access_log=None, shutdown_timeout=1.0)
    try:
        await runner.setup()
        site = web.TCPSite(runner, *config.address())
        await site.start()
        port = runner.addresses[0][1]
        lifecycle.ready("gatekeeper", address=to_hex(gatekeeper.keys.address), port=port)
        await gatekeeper.run(stop)
    finally:
        await runner.cleanup()
        await gatekeeper.close()


def main(arguments: list[str] | None = None) -> int:
    """The command line. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m cloister.gatekeeper", description=__doc__)
    parser.add_argument("--config", type=Path, required=True, help="JSON settings, see docs/operate/gatekeeper.md")
    options = parser.parse_args(arguments)
    logs.configure("gatekeeper")
    return lifecycle.run(lambda stop: serve(options.config, stop))


if __name__ == "__main__":
    sys.exit(main())
