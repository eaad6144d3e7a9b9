"""``cloister agent heads | accept-head``: an agent whose store was forked, and its owner's choice of a branch."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from cloister.cli.committee import reader_of
from cloister.cli.options import AgentName, AsJson, PassphraseFd, WalletName
from cloister.cli.output import print_facts, print_json, print_rows, progress, say
from cloister.cli.running import command
from cloister.cli.settings import settings_of
from cloister.core.encoding.hexes import from_hex, to_hex

COLUMNS = ("height", "head", "agent_epoch", "seats", "state")


def register(app: typer.Typer) -> None:
    """Add the commands to the group of agents."""
    command(app, "heads")(heads)
    command(app, "accept-head")(accept_head)


async def heads(context: typer.Context, agent: AgentName, as_json: AsJson = False) -> None:
    """Which head of the agent's state each gatekeeper holds: one, or the branches of a store that its host forked."""
    from cloister.client.heads import forked, holdings_of

    async with settings_of(context).client() as client, reader_of(client) as reader:
        found = await client.agent_id(agent)
        with progress("asking the members"):
            reading = await reader.read()
            held = await holdings_of(reading, client.network.id, found, os.urandom)
        rows = [one.to_json() for one in forked(reading, held)]
    if as_json:
        knows = {one.seat for one in held if one.head is not None}
        print_json({"heads": rows, "seats_without_a_head": sorted({one.seat for one in held} - knows)})
        return
    for row in rows:
        row["state"] = "endorsed" if row["endorsed"] else "may be accepted" if row["acceptable"] else "waits"
        row["seats"] = ", ".join(map(str, row["seats"]))
    print_rows(rows, COLUMNS, as_json=False, empty="no member holds a head of this agent")


async def accept_head(
    context: typer.Context,
    agent: AgentName,
    head: Annotated[str, typer.Argument(help="The head (0x…), as `cloister agent heads` shows it.")],
    wallet: WalletName = None,
    passphrase_fd: PassphraseFd = None,
    as_json: AsJson = False,
) -> None:
    """Let a forked agent go on from this head, as its owner. What other branches wrote is lost. Pauses the agent."""
    from cloister.client.heads import accept_head as accept

    wanted = from_hex(head.lower(), 32, name="head")
    settings = settings_of(context)
    async with settings.client(settings.wallet(wallet, passphrase_fd)) as client, reader_of(client) as reader:
        found = await client.agent_id(agent)
        reading = await reader.read()
        receipt = await accept(client, reading, found, wanted, os.urandom, say)
    say("accepted; members follow once it is final. The agent is paused: `cloister agent resume` lets it run again")
    print_facts({"agent": to_hex(found), "head": to_hex(wanted), "block": receipt.block_number}, as_json=as_json)
