"""``python -m cloister.gateway --config FILE``: one gateway until SIGTERM or SIGINT."""

from __future__ import annotations

import sys

from cloister.gateway.config import GatewayConfig, check_config
from cloister.gateway.service import serve
from cloister.node import command


def main(arguments: list[str] | None = None) -> int:
    """The command line. Returns the exit status."""
    return command.main("gateway", GatewayConfig, serve, check=check_config, arguments=arguments, grace_s=12.0)


if __name__ == "__main__":
    sys.exit(main())
