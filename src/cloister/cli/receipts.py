"""``cloister receipts``: what this machine called, with proof."""

from __future__ import annotations

import datetime
from typing import Annotated, Any

import typer

from cloister.cli.output import print_json, print_rows
from cloister.cli.running import command
from cloister.cli.settings import settings_of
from cloister.client.receipts import Kept, Ledger
from cloister.core.encoding.hexes import from_hex, to_hex


def register(app: typer.Typer) -> None:
    """Add the command."""
    command(app, "receipts")(receipts)


async def receipts(
    context: typer.Context,
    receipt: Annotated[str | None, typer.Argument(help="Id or a prefix of it: print that one whole.")] = None,
    agent: Annotated[str | None, typer.Option(help="Only of this agent (0x…).")] = None,
    limit: Annotated[int, typer.Option(help="How many, newest first.", min=1, max=100_000)] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="Print facts as JSON.")] = False,
) -> None:
    """List kept receipts, or print one. Check one again with `cloister verify receipt`."""
    ledger = Ledger(settings_of(context).home)
    if receipt is not None:
        print_json(ledger.load(from_hex(receipt.lower().rstrip("…"), name="receipt id", max_size=32)).to_json())
        return
    wanted = from_hex(agent.lower(), 32, name="agent id") if agent else None
    rows = [_row(kept) for kept in ledger.newest(limit, agent=wanted)]
    print_rows(rows, ("id", "when", "agent", "status", "worker"), as_json=as_json, empty="no receipts kept here yet")


def _row(kept: Kept) -> dict[str, Any]:
    found = kept.receipt
    when = datetime.datetime.fromtimestamp(kept.at, datetime.UTC).strftime("%Y-%m-%d %H:%M:%SZ")
    return {
        "id": to_hex(found.id),
        "when": when,
        "agent": to_hex(found.agent),
        "status": found.status,
        "worker": to_hex(found.worker),
        "checkpoint": found.checkpoint,
    }
