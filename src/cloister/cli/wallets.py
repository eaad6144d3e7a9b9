"""``cloister wallet new | import | list``."""

from __future__ import annotations

from typing import Annotated

import typer

from cloister.cli.asking import passphrase, secret
from cloister.cli.options import AsJson, PassphraseFd
from cloister.cli.output import print_facts, print_rows, progress, say
from cloister.cli.running import command
from cloister.cli.settings import settings_of
from cloister.client.wallet import EXISTS, Wallet, list_wallets, shown

app = typer.Typer(help="Keys that sign transactions and open calls.", no_args_is_help=True)


@command(app, "new")
async def new(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="Name of the wallet.")],
    passphrase_fd: PassphraseFd = None,
    as_json: AsJson = False,
) -> None:
    """Make a new key and save it under a passphrase."""
    home = settings_of(context).home
    _free(home.file("wallets", f"{name}.json").exists(), name)
    words = passphrase(name, fd=passphrase_fd, new=True)
    with progress("stretching the passphrase"):
        wallet = Wallet.create(name, words, home=home)
    print_facts({"name": name, "address": shown(wallet.address)}, as_json=as_json)
    say(f"keep {Wallet.file(name, home=home)} and its passphrase: nobody can recover them")


@command(app, "import")
async def import_(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="Name of the wallet.")],
    fd: Annotated[int | None, typer.Option(help="Descriptor to read the private key from, in hex.")] = None,
    passphrase_fd: PassphraseFd = None,
    as_json: AsJson = False,
) -> None:
    """Save an existing private key: from a prompt, standard input or --fd, never from the command line."""
    home = settings_of(context).home
    _free(home.file("wallets", f"{name}.json").exists(), name)
    key = secret("Private key (hex)", fd=fd)
    words = passphrase(name, fd=passphrase_fd, new=True)
    with progress("stretching the passphrase"):
        wallet = Wallet.restore(name, key, words, home=home)
    print_facts({"name": name, "address": shown(wallet.address)}, as_json=as_json)


@command(app, "list")
async def list_(context: typer.Context, as_json: AsJson = False) -> None:
    """Wallets of this folder."""
    rows = list_wallets(settings_of(context).home)
    print_rows(rows, ("name", "address"), as_json=as_json, empty="no wallets yet: cloister wallet new NAME")


def _free(taken: bool, name: str) -> None:
    if taken:
        raise EXISTS(expected=f"no wallet named {name}", found="one")
