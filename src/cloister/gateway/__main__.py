"""``python -m cloister.gateway --config FILE [--processes N]``: gateways of one port until SIGTERM or SIGINT."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from pathlib import Path

from cloister.gateway.config import GatewayConfig, check_config
from cloister.gateway.service import serve
from cloister.node import command


def main(arguments: list[str] | None = None) -> int:
    """The command line. Returns the exit status."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--processes")
    parser.add_argument("--config")
    mine, _ = parser.parse_known_args(arguments)
    rest = _without(sys.argv[1:] if arguments is None else arguments)
    if mine.processes is not None:
        os.environ["CLOISTER_GATEWAY_PROCESSES"] = mine.processes

    async def run(config: GatewayConfig, stop: asyncio.Event) -> None:
        if config.processes == 1:
            await serve(config, stop)
            return
        from cloister.gateway.processes import supervise

        await supervise(config, Path(mine.config), stop)

    return command.main("gateway", GatewayConfig, run, check=check_config, arguments=rest, grace_s=16.0)


def _without(arguments: list[str]) -> list[str]:
    """The words that every service knows."""
    kept: list[str] = []
    words = iter(arguments)
    for word in words:
        if word == "--processes":
            next(words, None)
        elif not word.startswith("--processes="):
            kept.append(word)
    return kept


if __name__ == "__main__":
    sys.exit(main())
