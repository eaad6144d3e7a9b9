"""``cloister agent secrets set | list``. Values come from a prompt, standard input or --fd, never the command line."""

from __future__ import annotations

from typing import Annotated

import typer

from cloister.cli.asking import secret
from cloister.cli.options import AsJson, PassphraseFd, WalletName
from cloister.cli.output import print_facts, print_rows, progress, say
from cloister.cli.running import command
from cloister.cli.settings import settings_of
from cloister.core.encoding.hexes import to_hex

app = typer.Typer(help="Secrets of an agent, sealed to it alone.", no_args_is_help=True)


@command(app, "set")
async def set_(
    context: typer.Context,
    agent: Annotated[str, typer.Argument(help="Agent id (0x…) or token id.")],
    names: Annotated[list[str], typer.Argument(help="Names of the secrets to set, such as OPENAI_API_KEY.")],
    fd: Annotated[int | None, typer.Option(help="Descriptor to read the value from; for one name.")] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Remove all others, of which nothing is kept.")] = False,
    wallet: WalletName = None,
    passphrase_fd: PassphraseFd = None,
    as_json: AsJson = False,
) -> None:
    """Seal secrets to the agent and commit to them on chain. Its other secrets stay, and are not asked for."""
    from cloister.client.secrets import change_secrets, describe_secrets, undeclared

    settings = settings_of(context)
    if len(names) > 1 and fd is not None:
        raise typer.BadParameter("--fd carries the value of one name")
    values = {name: secret(f"Value of {name}", fd=fd) for name in names}
    async with settings.client(settings.wallet(wallet, passphrase_fd)) as client:
        found = await client.agent_id(agent)
        with progress("sealing and committing"):
            before = [] if replace else (await describe_secrets(client, found))["names"]
            done = await change_secrets(client, found, values, replace=replace)
        unknown = await undeclared(client, found, names)
    every = sorted({*names, *(before if isinstance(before, list) else ())})
    print_facts({**done.to_json(), "names": every}, as_json=as_json)
    say("workers load them once the block is final")
    if unknown:
        say(f"note: the agent's manifest does not declare {', '.join(unknown)}: its code will not see them")


@command(app, "list")
async def list_(
    context: typer.Context,
    agent: Annotated[str, typer.Argument(help="Agent id (0x…) or token id.")],
    as_json: AsJson = False,
) -> None:
    """What the chain says about an agent's secrets, and the names that this machine set. Values are not readable."""
    from cloister.client.secrets import describe_secrets

    async with settings_of(context).client() as client:
        found = await client.agent_id(agent)
        facts = await describe_secrets(client, found)
    if facts["hash"] is None:
        print_rows([], ("name",), as_json=as_json, empty=f"{to_hex(found)} has no secrets")
        return
    print_facts(facts, as_json=as_json)


@command(app, "rm")
async def remove(
    context: typer.Context,
    agent: Annotated[str, typer.Argument(help="Agent id (0x…) or token id.")],
    names: Annotated[list[str] | None, typer.Argument(help="Names to remove; all without one.")] = None,
    wallet: WalletName = None,
    passphrase_fd: PassphraseFd = None,
    as_json: AsJson = False,
) -> None:
    """Remove secrets of an agent, or all of them. The others stay."""
    from cloister.client.secrets import change_secrets

    settings = settings_of(context)
    async with settings.client(settings.wallet(wallet, passphrase_fd)) as client:
        found = await client.agent_id(agent)
        with progress("committing to what is left"):
            done = await change_secrets(client, found, {}, names or (), replace=not names)
    print_facts(
        {**done.to_json(), "removed": sorted(names or ())} if names else {**done.to_json(), "names": []},
        as_json=as_json,
    )
    say("workers drop them once the block is final")
