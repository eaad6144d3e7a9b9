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
    wallet: WalletName = None,
    passphrase_fd: PassphraseFd = None,
    as_json: AsJson = False,
) -> None:
    """Seal secrets to the agent and commit to them on chain. This replaces all secrets set before."""
    from cloister.client.secrets import set_secrets, undeclared

    settings = settings_of(context)
    if len(names) > 1 and fd is not None:
        raise typer.BadParameter("--fd carries the value of one name")
    values = {name: secret(f"Value of {name}", fd=fd) for name in names}
    async with settings.client(settings.wallet(wallet, passphrase_fd)) as client:
        found = await client.agent_id(agent)
        with progress("sealing and committing"):
            done = await set_secrets(client, found, values)
        unknown = await undeclared(client, found, names)
    print_facts({**done.to_json(), "names": sorted(names)}, as_json=as_json)
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
    wallet: WalletName = None,
    passphrase_fd: PassphraseFd = None,
    as_json: AsJson = False,
) -> None:
    """Remove all secrets of an agent. To keep some, set those again: values cannot be read back."""
    from cloister.client.secrets import set_secrets

    settings = settings_of(context)
    async with settings.client(settings.wallet(wallet, passphrase_fd)) as client:
        found = await client.agent_id(agent)
        with progress("sealing an empty set and committing"):
            done = await set_secrets(client, found, {})
    print_facts({**done.to_json(), "names": []}, as_json=as_json)
    say("workers drop them once the block is final")
