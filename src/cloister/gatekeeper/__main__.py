"""``python -m cloister.gatekeeper --config FILE``: one gatekeeper until SIGTERM or SIGINT."""

from __future__ import annotations

import asyncio
import sys

from aiohttp import web

from cloister.core.encoding.hexes import to_hex
from cloister.gatekeeper.api import build
from cloister.gatekeeper.config import GatekeeperConfig, check
from cloister.gatekeeper.service import Gatekeeper
from cloister.node import command, lifecycle


async def serve(config: GatekeeperConfig, stop: asyncio.Event) -> None:
    """Open the gatekeeper, listen, say READY, follow the chain until ``stop``."""
    gatekeeper = await _opened(config, stop)
    if gatekeeper is None:
        return
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


async def _opened(config: GatekeeperConfig, stop: asyncio.Event) -> Gatekeeper | None:
    """The gatekeeper; None if it is stopped while it still waits for the key of its folder."""
    opening, stopping = asyncio.create_task(Gatekeeper.open(config)), asyncio.create_task(stop.wait())
    await asyncio.wait((opening, stopping), return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if opening.done():
        return opening.result()
    opening.cancel()
    await asyncio.gather(opening, return_exceptions=True)
    return None


def main(arguments: list[str] | None = None) -> int:
    """The command line. Returns the exit status."""
    return command.main("gatekeeper", GatekeeperConfig, serve, check=check, arguments=arguments)


if __name__ == "__main__":
    sys.exit(main())
