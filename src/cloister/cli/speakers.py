"""``cloister agent speaker set | show``: who an agent's owner is on a connected chain."""

from __future__ import annotations

from typing import Annotated

import typer

from cloister.cli.options import AgentName, AsJson, PassphraseFd, WalletName
from cloister.cli.output import print_facts, progress, say
from cloister.cli.running import command
from cloister.cli.settings import settings_of
from cloister.core.encoding.hexes import to_hex

app = typer.Typer(help="Who an agent's owner is on a connected chain.", no_args_is_help=True)

Chain = Annotated[int, typer.Argument(help="Chain id of the connected chain.", min=1, max=2**53 - 1)]


def register(agents: typer.Typer) -> None:
    """Add the commands to the group of agents."""
    agents.add_typer(app, name="speaker")


@command(app, "set")
async def set_(
    context: typer.Context,
    agent: AgentName,
    chain: Chain,
    address: Annotated[str, typer.Argument(help="Your address there, or none.", metavar="ADDRESS")],
    calldata: Annotated[
        bool, typer.Option("--calldata", help="Print the transaction for an owner that is a contract; send nothing.")
    ] = False,
    wallet: WalletName = None,
    passphrase_fd: PassphraseFd = None,
    as_json: AsJson = False,
) -> None:
    """Name the address that is you on another chain: it stops the agent there, and owns its account there."""
    from cloister.client import speakers
    from cloister.client.policies import parse_address

    speaker, settings = parse_address(address), settings_of(context)
    signer = None if calldata else settings.wallet(wallet, passphrase_fd)
    async with settings.client(signer) as client:
        found = await client.agent_id(agent)
        if calldata:
            token = (await client.resolver.record(found)).token_id
            print_facts(speakers.speaker_call(client, token, chain, speaker), as_json=as_json)
            return
        with progress("naming the speaker"):
            receipt = await speakers.set_speaker(client, found, chain, speaker)
    facts = {"agent": to_hex(found), "chain": chain, "speaker": address, "block": receipt.block_number}
    print_facts(facts, as_json=as_json)
    say("that chain knows it once newer facts of the agent are brought there, which its workers do while they serve it")


@command(app, "show")
async def show(context: typer.Context, agent: AgentName, chain: Chain, as_json: AsJson = False) -> None:
    """Whom the owner named for a chain, and whom that chain is told as its owner, by proof."""
    from cloister.client.speakers import show_speaker

    async with settings_of(context).client() as client:
        facts = await show_speaker(client, await client.agent_id(agent), chain)
    print_facts(facts, as_json=as_json)
