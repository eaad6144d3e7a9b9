"""``python -m cloister.SERVICE --config FILE [--check]``: what the three services' command lines share."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

from cloister.core.encoding.hexes import to_hex
from cloister.core.errors import CloisterError
from cloister.node import lifecycle, logs
from cloister.node.config import BAD_CONFIG, config_hash, load_config, plain_config

T = TypeVar("T")

Serve = Callable[[T, asyncio.Event], Awaitable[None]]


def main(
    service: str,
    kind: type[T],
    serve: Serve[T],
    *,
    check: Callable[[T], None],
    arguments: list[str] | None = None,
    grace_s: float = 10.0,
) -> int:
    """Run one service until SIGTERM or SIGINT, or only look at its settings. Returns the exit status.

    Settings are those of the file, then variables ``CLOISTER_<SERVICE>_<FIELD>``. ``check`` raises CloisterError for
    settings that cannot work; ``serve`` runs with them."""
    parser = argparse.ArgumentParser(prog=f"python -m cloister.{service}", description=f"One {service} of a network.")
    parser.add_argument("--config", type=Path, required=True, help=f"JSON settings, see docs/operate/{service}.md")
    parser.add_argument("--check", action="store_true", help="look at the settings, print them and their hash, and end")
    options = parser.parse_args(arguments)

    def load() -> T:
        prefix = f"CLOISTER_{service.upper()}"
        config = load_config(options.config, kind, over=os.environ, prefix=prefix)
        level = getattr(config, "log_level", "info")
        if level not in logs.LEVELS:
            raise BAD_CONFIG(expected=f"log_level in {', '.join(logs.LEVELS)}", found=str(level)[:20])
        check(config)
        return config

    if options.check:
        return _checked(load)

    async def run(stop: asyncio.Event) -> None:
        config = load()
        logs.configure(service, level=getattr(config, "log_level", "info"))
        await serve(config, stop)

    logs.configure(service)
    return lifecycle.run(run, grace_s=grace_s)


def _checked(load: Callable[[], object]) -> int:
    """The settings as they count, and the hash that stands in the report data; or what is wrong with them."""
    try:
        config = load()
    except CloisterError as error:
        sys.stderr.write(f"error: {error.code}: expected {error.expected}, found {error.found}\nhint: {error.remedy}\n")
        return 1
    shown = {"ok": True, "config": to_hex(config_hash(config)), "settings": plain_config(config)}
    sys.stdout.write(json.dumps(shown, indent=2) + "\n")
    return 0
