"""``cloister keys show | rotate``: the four layers of an agent's keys, and new ones."""

from __future__ import annotations

from typing import Annotated

import typer

from cloister.cli.options import AsJson, PassphraseFd, WalletName
from cloister.cli.output import print_facts, progress, say
from cloister.cli.running import command
from cloister.cli.settings import settings_of
from cloister.core.encoding.hexes import to_hex

app = typer.Typer(help="Keys of agents: look at all four layers, and make new ones.", no_args_is_help=True)


@command(app, "show")
async def show(
    context: typer.Context,
    agent: Annotated[str, typer.Argument(help="Agent id (0x…) or token id.")],
    as_json: AsJson = False,
) -> None:
    """Shares, master key, cluster and agent epochs, by proof; and whether state and secrets are under them."""
    from cloister.client.keys import describe_keys, words

    async with settings_of(context).client() as client:
        facts = await describe_keys(client, await client.agent_id(agent))
    print_facts(facts if as_json else words(facts), as_json=as_json)


@command(app, "rotate")
async def rotate(
    context: typer.Context,
    layer: Annotated[str, typer.Argument(help="agent: new keys for it alone. cluster: for its whole cluster.")],
    agent: Annotated[str, typer.Argument(help="Agent id (0x…) or token id.")],
    wipe: Annotated[bool, typer.Option("--wipe", help="Leave the agent's state behind, for good.")] = False,
    due: Annotated[bool, typer.Option("--due", help="Only if the keys are older than the cluster allows.")] = False,
    wallet: WalletName = None,
    passphrase_fd: PassphraseFd = None,
    as_json: AsJson = False,
) -> None:
    """Make new keys, and wait until the agent's state and secrets are under them. Nothing has to be set again."""
    from cloister.client import keys

    if layer not in keys.LAYERS:
        raise typer.BadParameter(f"a layer is one of {', '.join(keys.LAYERS)}; gatekeepers rotate the others")
    if (wipe or due) and layer != "agent":
        raise typer.BadParameter("--wipe and --due are for an agent")
    settings = settings_of(context)
    async with settings.client(settings.wallet(wallet, passphrase_fd)) as client:
        found = await client.agent_id(agent)
        past = await keys.epochs_of(client, found)
        with progress("sending the transaction"):
            if layer == "cluster":
                receipt = await keys.rotate_cluster(client, past.of)
            elif due:
                receipt = await keys.rotate_due(client, found)
            else:
                receipt = await keys.rotate_agent(client, found, wipe=wipe)
        async for step in keys.await_rotated(client, found, past):
            say(step)
        now = await keys.epochs_of(client, found)
    facts = {"agent": to_hex(found), "block": receipt.block_number, **now.to_json()}
    print_facts(facts, as_json=as_json)
