"""``python -m cloister.gateway --config FILE``: one gateway until SIGTERM or SIGINT."""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path

from cloister.gateway.config import GatewayConfig
from cloister.gateway.service import serve
from cloister.node import lifecycle, logs
from cloister.node.config import load_config


async def _run(path: Path, stop: asyncio.Event) -> None:
    config = load_config(path, GatewayConfig)
    logs.configure("gateway", level=config.log_level)
    await serve(config, stop)


def main(arguments: list[str] | None = None) -> int:
    """The command line. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m cloister.gateway", description=__doc__)
    parser.add_argument("--config", type=Path, required=True, help="JSON settings, see docs/operate/gateway.md")
    options = parser.parse_args(arguments)
    logs.configure("gateway")
    return lifecycle.run(lambda stop: _run(options.config, stop), grace_s=12.0)


if __name__ == "__main__":
    sys.exit(main())
