"""The live table of ``cloister up``: what runs, how far the chain is, what the gateway serves."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

from cloister.core.errors import CloisterError
from cloister.devnet import commands
from cloister.devnet.layout import GATEKEEPERS, WORKERS

EVERY_S = 1.0
_KINDS = dict((*GATEKEEPERS, *WORKERS))


def table(facts: dict[str, Any]) -> Table:
    """One row per process of ``commands.status``."""
    served = facts.get("status") if isinstance(facts.get("status"), dict) else {}
    head = served.get("checkpoint", "?") if served else "?"
    found = Table(title=f"{facts['gateway']}   checkpoint {head}", title_justify="left", box=None, pad_edge=False)
    for name in ("process", "hardware", "state"):
        found.add_column(name)
    for name, alive in facts["processes"].items():
        found.add_row(name, _KINDS.get(name, ""), "[green]runs[/green]" if alive else "[red]dead[/red]")
    return found


async def show(home: Path, console: Console | None = None) -> None:
    """Draw it once a second until cancelled. A turn that fails is left out."""
    facts = await commands.status(home)
    with Live(table(facts), console=console or Console(stderr=True), refresh_per_second=2, transient=True) as live:
        while True:
            await asyncio.sleep(EVERY_S)
            try:
                live.update(table(await commands.status(home)))
            except CloisterError:
                continue
