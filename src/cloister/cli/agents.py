"""``cloister agent new | build | deploy | list | show | call | pause | resume``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from cloister.cli import apikeys, calls, heads, local, owner, policies, speakers, versions
from cloister.cli.options import AgentName, AsJson, PassphraseFd, WalletName
from cloister.cli.output import print_facts, print_rows, progress, say
from cloister.cli.project import TEMPLATES, build_project, new_project
from cloister.cli.running import command
from cloister.cli.settings import settings_of
from cloister.core.encoding.hexes import to_hex

app = typer.Typer(help="Make, deploy and look after agents.", no_args_is_help=True)
command(app, "call")(calls.call)
local.register(app)
versions.register(app)
policies.register(app)
owner.register(app)
apikeys.register(app)
heads.register(app)
speakers.register(app)

Folder = Annotated[Path, typer.Argument(help="Folder of the agent.")]


@command(app, "new")
async def new(
    name: Annotated[str, typer.Argument(help="Name of the agent and of its folder.")],
    template: Annotated[str, typer.Option(help=f"What to start from: {', '.join(TEMPLATES)}.")] = "minimal",
    into: Annotated[Path, typer.Option(help="Where to make the folder.")] = Path(),
) -> None:
    """Write a small working agent into a new folder."""
    folder = new_project(name, template, into)
    say(f"wrote {folder}; next: cloister agent test {folder}, then cloister agent deploy {folder}")


@command(app, "build")
async def build(folder: Folder = Path(), as_json: AsJson = False) -> None:
    """Bundle the agent into one file and say its code hash. `deploy` does this too."""
    with progress(f"bundling {folder}"):
        built = await build_project(folder)
    print_facts(built.to_json(), as_json=as_json)


@command(app, "deploy")
async def deploy(
    context: typer.Context,
    folder: Folder = Path(),
    wallet: WalletName = None,
    passphrase_fd: PassphraseFd = None,
    cluster: Annotated[str | None, typer.Option(help="Cluster id (0x…); the default cluster without it.")] = None,
    wait: Annotated[bool, typer.Option(help="Wait until a worker holds a lease.")] = True,
    as_json: AsJson = False,
) -> None:
    """Build, upload and register an agent, then wait until a worker may run it."""
    from cloister.client.deploy import await_seats, deploy_agent
    from cloister.client.versions import Version
    from cloister.core.encoding.hexes import from_hex

    settings = settings_of(context)
    with progress(f"bundling {folder}"):
        built = await build_project(folder)
    if built.manifest.keys is not None and built.manifest.keys.raw:
        say("warning: keys.raw: the agent signs as its key's own address, which no limit on chain binds")
    if built.manifest.keys is not None and built.manifest.keys.ed25519:
        say("warning: keys.ed25519: the agent signs bytes by a key that no limit on chain binds")
    who = settings.wallet(wallet, passphrase_fd)
    async with settings.client(who) as client:
        with progress("uploading and registering"):
            chosen = from_hex(cluster.lower(), 32, name="cluster") if cluster else None
            done = await deploy_agent(client, built.bundle, built.manifest, cluster=chosen)
        versions.keep(folder, Version(done.agent, done.code_hash, done.manifest_hash, done.block))
        if wait:
            with progress("waiting for finality and the first lease"):
                await await_seats(client, done.agent)
            await owner.publish_key(client, done.agent)
    print_facts(done.to_json(), as_json=as_json)
    say(f"next: cloister call {done.token_id} /")


@command(app, "list")
async def list_(
    context: typer.Context,
    mine: Annotated[bool, typer.Option(help="Only agents that --wallet (or the devnet's owner) owns.")] = False,
    wallet: WalletName = None,
    passphrase_fd: PassphraseFd = None,
    as_json: AsJson = False,
) -> None:
    """Agents of the network, read by proof."""
    settings = settings_of(context)
    owner = settings.wallet(wallet, passphrase_fd).address if mine else None
    async with settings.client() as client:
        rows = [row async for row in client.agents(owner=owner)]
    columns = ("token_id", "agent", "owner", "paused", "upgrade", "code_hash")
    print_rows(rows, columns, as_json=as_json, empty="no agents yet: cloister agent new NAME")


@command(app, "show")
async def show(context: typer.Context, agent: AgentName, as_json: AsJson = False) -> None:
    """One agent: its proven record, and the workers that hold it now."""
    async with settings_of(context).client() as client:
        facts = await client.describe(await client.agent_id(agent))
    print_facts(facts, as_json=as_json)


@command(app, "pause")
async def pause(
    context: typer.Context,
    agent: AgentName,
    wallet: WalletName = None,
    passphrase_fd: PassphraseFd = None,
    as_json: AsJson = False,
) -> None:
    """Stop an agent. Workers and gatekeepers obey as soon as they see the block."""
    await _switch(context, agent, wallet, passphrase_fd, as_json, paused=True)


@command(app, "resume")
async def resume(
    context: typer.Context,
    agent: AgentName,
    wallet: WalletName = None,
    passphrase_fd: PassphraseFd = None,
    as_json: AsJson = False,
) -> None:
    """Let a paused agent run again, once the block is final."""
    await _switch(context, agent, wallet, passphrase_fd, as_json, paused=False)


async def _switch(
    context: typer.Context, agent: str, wallet: str | None, fd: int | None, as_json: bool, *, paused: bool
) -> None:
    from cloister.client.deploy import set_paused

    settings = settings_of(context)
    async with settings.client(settings.wallet(wallet, fd)) as client:
        found = await client.agent_id(agent)
        with progress("pausing" if paused else "resuming"):
            receipt = await set_paused(client, found, paused)
    facts: dict[str, Any] = {"agent": to_hex(found), "paused": paused, "block": receipt.block_number}
    print_facts(facts, as_json=as_json)
