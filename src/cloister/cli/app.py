"""The ``cloister`` program: global options, and the groups of commands, one file each."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cloister import __version__
from cloister.cli import (
    agents,
    calls,
    chains,
    committee,
    completion,
    evidence,
    keys,
    networks,
    receipts,
    relays,
    requests,
    secrets,
    verifying,
    wallets,
)
from cloister.cli.settings import Settings
from cloister.client.home import Home

app = typer.Typer(
    name="cloister",
    help="Confidential AI agents under smart-contract control.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"cloister {__version__}")
        raise typer.Exit


@app.callback()
def options(
    context: typer.Context,
    gateway: Annotated[str | None, typer.Option(help="Address of a gateway.", metavar="URL")] = None,
    network: Annotated[Path | None, typer.Option(help="A network.json that you trust.", metavar="FILE")] = None,
    fingerprint: Annotated[str | None, typer.Option(help="SHA-256 of network.json.", metavar="HEX")] = None,
    home: Annotated[Path | None, typer.Option(help="Folder for pins, wallets, receipts.", metavar="DIR")] = None,
    trust_on_first_use: Annotated[
        bool, typer.Option("--trust-on-first-use", help="Pin the network that this gateway serves now.")
    ] = False,
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Say it.")] = False,
) -> None:
    """Confidential AI agents under smart-contract control."""
    context.obj = Settings(
        home=Home.at(home),
        gateway=gateway,
        network_file=network,
        fingerprint=fingerprint,
        first_use=trust_on_first_use,
    )


networks.register(app)
calls.register(app)
receipts.register(app)
relays.register(app)
completion.register(app)
agents.app.add_typer(secrets.app, name="secrets")
app.add_typer(agents.app, name="agent")
app.add_typer(keys.app, name="keys")
app.add_typer(requests.app, name="request")
app.add_typer(chains.app, name="chain")
app.add_typer(committee.app, name="gatekeeper")
app.add_typer(verifying.app, name="verify")
app.add_typer(evidence.app, name="evidence")
app.add_typer(wallets.app, name="wallet")
