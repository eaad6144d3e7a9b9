"""How a command runs: async inside, refusals as two lines, exit codes that scripts can trust."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Coroutine
from typing import Any

import typer

from cloister.cli.output import print_error, say
from cloister.core.errors import CloisterError

REFUSED = 1
INTERRUPTED = 130


def command(
    app: typer.Typer, name: str, **options: Any
) -> Callable[[Callable[..., Coroutine[Any, Any, None]]], Callable[..., None]]:
    """Register an async function as a command of ``app``.

    A CloisterError becomes ``error:`` and ``hint:`` with exit code 1; control-C exits with 130, and so does
    a command that cancels itself on SIGTERM.
    """

    def register(function: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
        @functools.wraps(function)
        def run(*args: Any, **kwargs: Any) -> None:
            try:
                asyncio.run(function(*args, **kwargs))
            except CloisterError as error:
                print_error(error)
                raise typer.Exit(REFUSED) from None
            except (KeyboardInterrupt, asyncio.CancelledError):
                say("interrupted")
                raise typer.Exit(INTERRUPTED) from None

        app.command(name, **options)(run)
        return run

    return register
