"""``cloister receipts``: what this machine called, with proof."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from cloister.cli.output import print_json, print_rows, progress, say
from cloister.cli.running import command
from cloister.cli.settings import Settings, settings_of
from cloister.client.receipts import NOT_KEPT, Kept, Ledger, kept_of
from cloister.core.encoding.hexes import from_hex, to_hex


def register(app: typer.Typer) -> None:
    """Add the command."""
    command(app, "receipts")(receipts)


async def receipts(
    context: typer.Context,
    receipt: Annotated[str | None, typer.Argument(help="Id or a prefix of it: print that one whole.")] = None,
    agent: Annotated[str | None, typer.Option(help="Only of this agent (0x…).")] = None,
    export: Annotated[
        Path | None, typer.Option(help="Write that one with all proofs up to the chain, for a check without a network.")
    ] = None,
    limit: Annotated[int, typer.Option(help="How many, newest first.", min=1, max=100_000)] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="Print facts as JSON.")] = False,
) -> None:
    """List kept receipts, or print one. Check one again with `cloister verify receipt`.

    `--export FILE` gives a file that anybody can check who knows the network's fingerprint: `cloister --fingerprint …
    verify receipt FILE --offline`.
    """
    settings = settings_of(context)
    if receipt is not None:
        kept = kept_of(settings.home, receipt)
        if export is None:
            print_json(kept.to_json())
        else:
            await _export(settings, kept, export)
        return
    if export is not None:
        raise NOT_KEPT(expected="the id of the receipt to export", found="none")
    ledger = Ledger(settings.home)
    wanted = from_hex(agent.lower(), 32, name="agent id") if agent else None
    rows = [_row(kept) for kept in ledger.newest(limit, agent=wanted)]
    print_rows(rows, ("id", "when", "agent", "status", "worker"), as_json=as_json, empty="no receipts kept here yet")


async def _export(settings: Settings, kept: Kept, file: Path) -> None:
    from cloister.client.home import write_private
    from cloister.client.verify import verify_anchored_receipt, with_proof

    async with settings.client() as client:
        with progress("collecting proofs"):
            report, bundle = await verify_anchored_receipt(client, await with_proof(client, kept))
    report.require()
    if bundle is not None:
        write_private(file, bundle.encode())
        say(f"written: {file}. It holds the receipt's salt: whoever has the texts too sees that they belong together")


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
