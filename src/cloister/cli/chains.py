"""``cloister chain status | verify``: the contracts of a network, as they stand on its chain."""

from __future__ import annotations

from typing import Any

import typer

from cloister.cli.options import AsJson
from cloister.cli.output import print_facts, print_rows, progress
from cloister.cli.running import command
from cloister.cli.settings import settings_of
from cloister.core.errors import CloisterError

app = typer.Typer(help="The contracts of a network.", no_args_is_help=True)


@command(app, "status")
async def status(context: typer.Context, as_json: AsJson = False) -> None:
    """Chain id, newest checkpoint, committee and policy, by proof."""
    from cloister.client.contracts import chain_status

    async with settings_of(context).client() as client:
        facts = await chain_status(client)
    print_facts(facts, as_json=as_json)


@command(app, "verify")
async def verify(context: typer.Context, as_json: AsJson = False) -> None:
    """Compare each contract's code, by proof, with the network file and with this build's artifacts."""
    from cloister.client.contracts import WRONG_CONTRACTS, verify_contracts

    async with settings_of(context).client() as client:
        with progress("proving the contracts' code"):
            rows: list[dict[str, Any]] = await verify_contracts(client)
    print_rows(rows, ("contract", "address", "pinned", "artifact"), as_json=as_json, empty="no contracts")
    bad = [str(row["contract"]) for row in rows if not (row["pinned"] and row["artifact"])]
    if bad:
        error: CloisterError = WRONG_CONTRACTS(expected="every contract as pinned and built", found=", ".join(bad))
        raise error
