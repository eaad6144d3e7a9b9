"""The command line: thin over ``cloister.client``. Heavy parts load inside the command that needs them."""

from __future__ import annotations

__all__ = ["main"]


def main() -> None:
    """Entry point of the ``cloister`` program."""
    import os

    from cloister.cli.app import app

    if "_CLOISTER_COMPLETE" in os.environ:
        from typer.completion import completion_init  # type: ignore[attr-defined]

        completion_init()
    app(prog_name="cloister")
