"""``python -m cloister.devnet.model --work DIR --key-file FILE [--port N]``: serve until SIGTERM.

Prints one JSON line {"ready": true, "port", "ca"} on stdout when it serves. ``DIR/ca.pem`` is its authority.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime
import json
import signal
import sys
from pathlib import Path

from aiohttp import web

from cloister.core.errors import CloisterError, ConfigError, define
from cloister.devnet.model.encoder import Encoder, find_model
from cloister.devnet.model.server import ModelServer
from cloister.devnet.model.tls import CA_FILE, server_context

BAD_KEY = define(
    "devnet.model_key",
    ConfigError,
    check="the key file holds one line of 8 to 256 printable characters",
    remedy="write a random key into the file; it is never passed on the command line",
    status=500,
)


def read_key(path: Path) -> str:
    """The API key. Raises ConfigError (devnet.model_key)."""
    try:
        key = path.read_text(encoding="ascii").strip()
    except (OSError, ValueError) as error:
        raise BAD_KEY(expected="a readable file", found=type(error).__name__) from None
    if not 8 <= len(key) <= 256 or not key.isprintable() or " " in key:
        raise BAD_KEY(expected="8 to 256 printable characters", found=f"{len(key)} of some kind")
    return key


async def serve(work: Path, key: str, host: str, port: int, names: list[str]) -> None:
    """Serve until SIGTERM or SIGINT."""
    context = server_context(work, names, datetime.datetime.now(datetime.UTC))
    runner = web.AppRunner(ModelServer(Encoder(find_model()), key).app(), access_log=None)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port, ssl_context=context)
        await site.start()
        bound = runner.addresses[0][1]
        print(json.dumps({"ready": True, "port": bound, "ca": str(work / CA_FILE)}), flush=True)
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        await stop.wait()
    finally:
        await runner.cleanup()


def main() -> int:
    """The command line; 0 after a clean stop, 1 after a refusal."""
    parser = argparse.ArgumentParser(prog="cloister.devnet.model")
    parser.add_argument("--work", type=Path, required=True, help="folder for certificates")
    parser.add_argument("--key-file", type=Path, required=True, help="file with the API key")
    parser.add_argument("--host", default="127.0.0.1", help="address to bind")
    parser.add_argument("--port", type=int, default=0, help="port to bind; 0 takes a free one")
    parser.add_argument("--name", action="append", help="name in the certificate; repeatable")
    given = parser.parse_args()
    names = given.name or ["api.openai.com", "localhost", "127.0.0.1"]
    try:
        asyncio.run(serve(given.work, read_key(given.key_file), given.host, given.port, names))
    except CloisterError as error:
        print(json.dumps({"ready": False, "error": error.to_wire()}), file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
