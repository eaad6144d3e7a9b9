"""``cloister keys show | rotate``: the four layers of an agent's keys, and new ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from cloister.cli.committee import follow, reader_of
from cloister.cli.options import AsJson, PassphraseFd, WalletName
from cloister.cli.output import print_facts, progress, say
from cloister.cli.running import command
from cloister.cli.settings import settings_of
from cloister.core.encoding.hexes import to_hex

if TYPE_CHECKING:
    from cloister.client.client import Client

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
    layer: Annotated[str, typer.Argument(help="agent, cluster (of the agent), shares or master (of everybody).")],
    agent: Annotated[str | None, typer.Argument(help="Agent id (0x…) or token id.")] = None,
    wipe: Annotated[bool, typer.Option("--wipe", help="Leave the agent's state behind, for good.")] = False,
    due: Annotated[bool, typer.Option("--due", help="Only if the keys are older than the cluster allows.")] = False,
    wallet: WalletName = None,
    passphrase_fd: PassphraseFd = None,
    as_json: AsJson = False,
) -> None:
    """Make new keys, and wait until they are in use. Nothing has to be set again."""
    from cloister.client import keys

    if layer not in keys.LAYERS:
        raise typer.BadParameter(f"a layer is one of {', '.join(keys.LAYERS)}")
    if (wipe or due) and layer != "agent":
        raise typer.BadParameter("--wipe and --due are for an agent")
    if (agent is None) != (layer in keys.COMMITTEE_LAYERS):
        raise typer.BadParameter("agent and cluster take an agent; shares and master are everybody's, and take none")
    settings = settings_of(context)
    async with settings.client(settings.wallet(wallet, passphrase_fd)) as client:
        if agent is None:
            facts = await _committee(client, layer)
        else:
            facts = await _agent(client, layer, agent, wipe=wipe, due=due)
    print_facts(facts, as_json=as_json)


async def _agent(client: Client, layer: str, agent: str, *, wipe: bool, due: bool) -> dict[str, Any]:
    """New keys for an agent or its cluster."""
    from cloister.client import keys

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
    return {"agent": to_hex(found), "block": receipt.block_number, **now.to_json()}


async def _committee(client: Client, layer: str) -> dict[str, Any]:
    """New shares of the master key, or a new master key: a ceremony of the committee, told until its end."""
    from cloister.client import moves

    async with reader_of(client) as reader:
        with progress("reading the committee by proof"):
            reading = await reader.read()
        number = 1 if reading.ceremony is None else reading.ceremony.number + 1
        old = reading.newest.epoch
        with progress("sending the transaction"):
            move = moves.refresh if layer == "shares" else moves.rotate
            receipt = await move(client, reading)
        await follow(reader, number)
        facts: dict[str, Any] = {"block": receipt.block_number, "ceremony": number}
        if layer == "master":
            say("the new key waits until its ceremony is final and t members say so")
            async for reading in moves.await_resumed(reader, old + 1):
                facts |= {"master_epoch": reading.newest.epoch, "resumed_at": reading.newest.resumed_at}
            facts["agents_under_the_old_key"] = await moves.not_resealed(client, old)
            say("resumed: workers move agents to the new key, each with its next lease")
        else:
            facts["term"] = (await reader.read()).term.term
    return facts
