"""The command line: thin over ``cloister.client``. Heavy parts load inside the command that needs them."""

from __future__ import annotations

__all__ = ["main"]


def main() -> None:
    """Entry point of the ``cloister`` program."""
    from cloister.cli.app import app

    app(prog_name="cloister")
