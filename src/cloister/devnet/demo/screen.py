"""What the demo prints: numbered steps with their time, facts, and checks that either hold or end the demo."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape

from cloister.core.errors import CloisterError, ConfigError, define

if TYPE_CHECKING:
    from collections.abc import Iterator

EXPECTATION = define(
    "demo.expectation",
    ConfigError,
    check="the demo sees what it promises",
    remedy="this is a fault of the software, or of this machine: `cloister doctor`, then the logs it names",
    status=500,
)


class Screen:
    """Prints to a terminal or a file; keeps each step's seconds."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(highlight=False, soft_wrap=True)
        self.times: dict[str, float] = {}
        self._start = time.monotonic()

    @contextmanager
    def step(self, number: int, title: str) -> Iterator[None]:
        """One of the nine steps."""
        self.console.print(f"\n[bold]{number}. {escape(title)}[/bold]")
        begin = time.monotonic()
        yield
        self.times[f"{number}. {title}"] = spent = time.monotonic() - begin
        self.console.print(f"   [dim]{spent:.1f} s[/dim]")

    def say(self, text: str) -> None:
        """Progress."""
        self.console.print(f"   · {escape(text)}")

    def fact(self, name: str, value: object) -> None:
        """One fact."""
        self.console.print(f"   {escape(name):<14} {escape(str(value))}")

    def good(self, text: str) -> None:
        """A check that holds."""
        self.console.print(f"   [green]✓[/green] {escape(text)}")

    def refused(self, what: str, error: CloisterError) -> None:
        """An attack that was refused, with its code."""
        self.console.print(f"   [green]✓[/green] {escape(what)}: refused, [bold]{escape(error.code)}[/bold]")
        self.console.print(f"     [dim]{escape(error.check)}[/dim]")

    def passage(self, score: float, title: str, text: str) -> None:
        """A passage that the agent found."""
        flat = " ".join(text.split())
        self.console.print(f"     [cyan]{score:.2f}[/cyan] {escape(title)}: {escape(flat[:150])}…")

    def summary(self, counts: Mapping[str, object]) -> None:
        """The last lines."""
        total = time.monotonic() - self._start
        self.console.print(
            f"\n[bold green]done[/bold green] in {total:.0f} s: " + ", ".join(f"{v} {k}" for k, v in counts.items())
        )


def expect(condition: object, expected: str, found: object) -> None:
    """End the demo by name unless the condition holds."""
    if not condition:
        raise EXPECTATION(expected=expected, found=str(found))
