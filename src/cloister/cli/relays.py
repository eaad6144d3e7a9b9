"""``cloister relay``: pass oblivious calls on to a gateway, so that it does not learn who makes them."""

from __future__ import annotations

import asyncio
import signal
from typing import Annotated

import typer

from cloister.cli.options import AsJson
from cloister.cli.output import print_json, say
from cloister.cli.running import command
from cloister.core.errors import ConfigError, define

NO_NODE = define(
    "cli.relay_parts",
    ConfigError,
    check="the parts that serve HTTP are installed",
    remedy="pip install 'cloister[node]'",
)
BAD_LISTEN = define(
    "cli.relay_listen",
    ConfigError,
    check="the relay can listen at the address that it is given",
    remedy="give --listen IP:PORT with a port that is free; port 0 takes any",
)


def register(app: typer.Typer) -> None:
    """Add the command."""
    command(app, "relay")(relay)


async def relay(
    to: Annotated[str, typer.Option(help="The gateway that everything goes to.", metavar="URL")],
    listen: Annotated[str, typer.Option(help="Where to listen.", metavar="IP:PORT")] = "127.0.0.1:8090",
    as_json: AsJson = False,
) -> None:
    """Run a relay for oblivious calls until it is stopped. It can read none of them, and keeps nothing.

    Run it where the gateway's operator has no say: together they know who calls which agent, and when.
    """
    try:
        from cloister.relay import Relay
    except ImportError:
        raise NO_NODE(expected="cloister[node]", found="the client alone") from None
    host, port = _address(listen)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    made = Relay(to)
    try:
        try:
            bound = await made.start(host, port)
        except OSError as error:
            raise BAD_LISTEN(expected="a free address", found=error.strerror or "an error") from None
        url = f"http://{host}:{bound}"
        if as_json:
            print_json({"relay": url})
        else:
            say(f"relay at {url}; stop it with control-C")
        await stop.wait()
    finally:
        await made.close()


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not port.isascii() or not port.isdigit() or int(port[:6]) > 65535:
        raise BAD_LISTEN(expected="IP:PORT", found=text[:80])
    return host, int(port)
